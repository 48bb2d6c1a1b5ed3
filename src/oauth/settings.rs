//! What tokens are like, and where they are to be had.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::id::{AppId, ListenerId};
use crate::oauth::KeyRules;

/// Everything that is configured about tokens of our own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Who issues them.
    pub issuer: Issuer,
    /// At which listeners they are to be had.
    pub listeners: Vec<ListenerId>,
    /// Below which path: `/oauth` for `/oauth/token` and its companions.
    pub path: String,
    /// How long a token lives.
    pub ttl: Duration,
    /// For whom tokens can be: what `resource` may name, the first one where it names nothing.
    pub audiences: Vec<String>,
    /// What the keys are like.
    pub keys: KeyRules,
    /// Whether tokens are bound to certificates.
    pub binding: Binding,
    /// Which apps may ask about tokens of others.
    pub introspectors: Vec<AppId>,
    /// Where local workloads get tokens without a secret, if anywhere.
    pub socket: Option<PathBuf>,
}

impl Settings {
    /// The URL of what lies at `name` below the path.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        format!("{}{}/{name}", self.issuer.origin(), self.path)
    }
}

/// Whether a token is good only together with the certificate that its client came with (RFC 8705 §3).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Binding {
    /// It is, if the client came with one.
    #[default]
    Certificate,
    /// It is good for whoever holds it.
    Never,
}

/// The `iss` of tokens: an https URL without query and fragment (RFC 8414 §2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Issuer {
    url: String,
    /// Bytes of scheme and authority.
    origin: usize,
}

/// The text is no issuer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "expected an https URL without query, fragment and a slash at its end, such as https://tokens.example"
)]
pub struct InvalidIssuer;

impl Issuer {
    /// The whole URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.url
    }

    /// Scheme and authority.
    #[must_use]
    pub fn origin(&self) -> &str {
        self.url.get(..self.origin).unwrap_or_default()
    }

    /// Where its metadata stands.
    ///
    /// > the well-known URI suffix […] inserted […] between the host component and the path component — RFC 8414 §3.1
    #[must_use]
    pub fn metadata_path(&self) -> String {
        format!("{WELL_KNOWN}{}", self.url.get(self.origin..).unwrap_or_default())
    }
}

const WELL_KNOWN: &str = "/.well-known/oauth-authorization-server";
const SCHEME: &str = "https://";

impl FromStr for Issuer {
    type Err = InvalidIssuer;

    fn from_str(text: &str) -> Result<Self, InvalidIssuer> {
        let rest = text.strip_prefix(SCHEME).ok_or(InvalidIssuer)?;
        let authority = rest.find('/').unwrap_or(rest.len());
        let in_authority = |byte: u8| {
            byte.is_ascii_lowercase()
                || byte.is_ascii_digit()
                || matches!(byte, b'.' | b'-' | b':' | b'[' | b']')
        };
        let in_path =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~' | b'/');
        let (host, path) = rest.split_at(authority);
        let fits = !host.is_empty()
            && host.bytes().all(in_authority)
            && path.bytes().all(in_path)
            && !path.ends_with('/')
            && !path.split('/').any(|segment| matches!(segment, "." | ".."))
            && !path.contains("//");
        if fits {
            Ok(Self { url: text.to_owned(), origin: SCHEME.len() + authority })
        } else {
            Err(InvalidIssuer)
        }
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_an_https_url_in_its_plain_form() {
        let issuer: Issuer = "https://tokens.example:8443/eu/one".parse().unwrap();
        assert_eq!(issuer.origin(), "https://tokens.example:8443");
        assert_eq!(issuer.metadata_path(), "/.well-known/oauth-authorization-server/eu/one");
        let bare: Issuer = "https://tokens.example".parse().unwrap();
        assert_eq!(bare.metadata_path(), "/.well-known/oauth-authorization-server");

        for text in [
            "http://tokens.example",
            "https://",
            "https://tokens.example/",
            "https://tokens.example/a/../b",
            "https://tokens.example//a",
            "https://Tokens.example",
            "https://a@b",
            "https://a?b",
            "https://a#b",
            "tokens.example",
        ] {
            assert_eq!(text.parse::<Issuer>(), Err(InvalidIssuer), "{text}");
        }
    }
}
