//! Errors as the token endpoint tells them (RFC 6749 §5.2): a registered code, and a sentence that helps no attacker.

/// Why there is no token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fault {
    /// The `error`.
    pub code: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// The `error_description`, in the characters that RFC 6749 allows there.
    pub description: &'static str,
}

impl Fault {
    /// The client has not proven who it is: unknown, wrong and malformed are one answer.
    pub const INVALID_CLIENT: Self =
        Self { code: "invalid_client", status: 401, description: "The client is not who it says it is." };
    /// Nothing is left of the scopes that were asked for.
    pub const INVALID_SCOPE: Self = Self {
        code: "invalid_scope",
        status: 400,
        description: "None of these scopes is conveyed by a product that the app was granted.",
    };
    /// The `resource` is none of ours.
    pub const INVALID_TARGET: Self = Self {
        code: "invalid_target",
        status: 400,
        description: "Tokens are not issued here for this resource.",
    };
    /// The method of client authentication is not known.
    pub const UNKNOWN_METHOD: Self = Self {
        code: "invalid_client",
        status: 401,
        description: "Expected Basic, a client_secret, a client_assertion, or a client certificate with a client_id.",
    };
    /// Another grant type than the one.
    pub const UNSUPPORTED_GRANT_TYPE: Self = Self {
        code: "unsupported_grant_type",
        status: 400,
        description: "The only grant type is client_credentials.",
    };
    /// No key signs at the moment.
    pub const UNAVAILABLE: Self = Self {
        code: "temporarily_unavailable",
        status: 503,
        description: "No token can be signed or withdrawn at the moment.",
    };

    /// The request itself is wrong.
    #[must_use]
    pub const fn request(description: &'static str) -> Self {
        Self { code: "invalid_request", status: 400, description }
    }

    /// The client is proven, and its credential is of no use.
    #[must_use]
    pub const fn client(description: &'static str) -> Self {
        Self { code: "invalid_client", status: 401, description }
    }

    /// The client is proven, and may not have tokens.
    #[must_use]
    pub const fn unauthorized(description: &'static str) -> Self {
        Self { code: "unauthorized_client", status: 400, description }
    }

    /// Whether nobody knows who asks, so that it counts as a failed attempt.
    #[must_use]
    pub fn is_failed_attempt(&self) -> bool {
        *self == Self::INVALID_CLIENT
    }
}
