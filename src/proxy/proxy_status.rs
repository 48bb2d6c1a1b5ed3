//! Why an answer comes from the agent and not from the service, in the words that proxies have in common (RFC 9209).

use crate::authz::Denial;

/// The field.
pub(super) const PROXY_STATUS: &str = "proxy-status";

/// What went wrong, by the registered names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ProxyError {
    ConnectionLimitReached,
    ConnectionRefused,
    ConnectionTerminated,
    ConnectionTimeout,
    DestinationNotFound,
    DestinationUnavailable,
    HttpProtocolError,
    HttpRequestDenied,
    HttpRequestError,
    HttpResponseTimeout,
    ProxyConfigurationError,
    ProxyInternalError,
    TlsCertificateError,
    TlsProtocolError,
}

impl ProxyError {
    /// What is said of an answer with this code and status, where nothing more is known of it.
    pub(super) fn of(code: &str, status: u16) -> Self {
        match (code, status) {
            ("no-such-service", _) => Self::DestinationNotFound,
            ("overloaded", _) => Self::ConnectionLimitReached,
            ("upstream-unavailable", _) => Self::DestinationUnavailable,
            ("upstream-timeout", _) => Self::HttpResponseTimeout,
            ("bad-gateway", _) => Self::HttpProtocolError,
            (_, 500..) => Self::ProxyInternalError,
            // A decision is a denial also where it is told as something else.
            (code, 400 | 408 | 413 | 414 | 431) if Denial::ALL.iter().all(|denial| denial.code() != code) => {
                Self::HttpRequestError
            }
            _ => Self::HttpRequestDenied,
        }
    }

    /// The registered name (RFC 9209 §2.3).
    const fn as_str(self) -> &'static str {
        match self {
            Self::ConnectionLimitReached => "connection_limit_reached",
            Self::ConnectionRefused => "connection_refused",
            Self::ConnectionTerminated => "connection_terminated",
            Self::ConnectionTimeout => "connection_timeout",
            Self::DestinationNotFound => "destination_not_found",
            Self::DestinationUnavailable => "destination_unavailable",
            Self::HttpProtocolError => "http_protocol_error",
            Self::HttpRequestDenied => "http_request_denied",
            Self::HttpRequestError => "http_request_error",
            Self::HttpResponseTimeout => "http_response_timeout",
            Self::ProxyConfigurationError => "proxy_configuration_error",
            Self::ProxyInternalError => "proxy_internal_error",
            Self::TlsCertificateError => "tls_certificate_error",
            Self::TlsProtocolError => "tls_protocol_error",
        }
    }

    /// The field's value; `code` is ours, of letters, digits and hyphens.
    pub(super) fn value(self, code: &str) -> String {
        format!("postern; error={}; details=\"{code}\"", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_a_word_for_it() {
        for (code, status, error) in [
            ("missing-credential", 401, "http_request_denied"),
            ("not-entitled", 403, "http_request_denied"),
            ("quota-exceeded", 429, "http_request_denied"),
            ("bad-request", 400, "http_request_error"),
            ("head-too-large", 431, "http_request_error"),
            ("no-such-service", 404, "destination_not_found"),
            ("overloaded", 503, "connection_limit_reached"),
            ("upstream-timeout", 504, "http_response_timeout"),
            ("no-identity", 503, "proxy_internal_error"),
        ] {
            let value = ProxyError::of(code, status).value(code);
            assert_eq!(value, format!("postern; error={error}; details=\"{code}\""));
        }
    }
}
