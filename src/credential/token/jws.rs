//! The compact form of a signed token (RFC 7515 §7.1), read in the only way in which it can be read.
//!
//! What a header says of where its key is to be found (`jku`, `x5u`, `jwk`, `x5c`) is never looked at: who signs does not
//! choose by which key it is believed. Nor is what it says of the algorithm believed, only compared with the key's.

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use super::json::{Members, members};
use super::jwk::Algorithm;

/// Bytes of the longest token that is read.
pub const LONGEST: usize = 8 * 1024;

/// A signed token, taken apart and not yet believed.
#[derive(Clone, Debug)]
pub struct Jws<'a> {
    /// The `alg` of its header, as it stands there.
    pub algorithm: String,
    /// The `kid` of its header.
    pub key_id: Option<String>,
    /// The `typ` of its header.
    pub kind: Option<String>,
    /// What is claimed, in JSON.
    pub payload: Vec<u8>,
    signed: &'a [u8],
    signature: Vec<u8>,
}

/// Why a text is no token that is read here.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidJws {
    /// A part of it is no base64url, or not in its one canonical spelling.
    #[error("a part is not base64url without padding, in its shortest spelling")]
    Base64,
    /// The header asks for an extension.
    #[error("the header has `crit` or `b64`, and no extension is known here")]
    Critical,
    /// It is encrypted.
    #[error("it is encrypted (JWE); signed tokens are taken, and no others")]
    Encrypted,
    /// The header is no JSON object, lacks `alg`, or has a member of the wrong type.
    #[error("the header is not a JSON object with `alg`, in which no member stands twice")]
    Header,
    /// The `kid` is not what a name of a key looks like.
    #[error("the `kid` is not 1 to 128 characters of base64 or base64url")]
    KeyId,
    /// It is longer than [`LONGEST`].
    #[error("it is longer than 8192 bytes")]
    Long,
    /// It does not have three parts.
    #[error("expected three parts with a dot between them")]
    Parts,
}

impl<'a> Jws<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// What keeps it from having one meaning.
    pub fn parse(text: &'a [u8]) -> Result<Self, InvalidJws> {
        if text.len() > LONGEST {
            return Err(InvalidJws::Long);
        }
        let parts: Vec<&[u8]> = text.splitn(6, |&byte| byte == b'.').collect();
        let (head, payload, signature) = match *parts.as_slice() {
            [head, payload, signature] => (head, payload, signature),
            [_, _, _, _, _] => return Err(InvalidJws::Encrypted),
            _ => return Err(InvalidJws::Parts),
        };
        let signed = text.get(..head.len() + 1 + payload.len()).ok_or(InvalidJws::Parts)?;
        let header = members(&decoded(head)?).map_err(|_| InvalidJws::Header)?;
        if header.contains_key("enc") {
            return Err(InvalidJws::Encrypted);
        }
        if header.contains_key("crit") || header.contains_key("b64") {
            return Err(InvalidJws::Critical);
        }
        let key_id = text_of(&header, "kid")?;
        if key_id.as_deref().is_some_and(|id| !is_key_id(id)) {
            return Err(InvalidJws::KeyId);
        }
        Ok(Self {
            algorithm: text_of(&header, "alg")?.ok_or(InvalidJws::Header)?,
            kind: text_of(&header, "typ")?,
            key_id,
            payload: decoded(payload)?,
            signed,
            signature: decoded(signature)?,
        })
    }

    /// What the signature is over: the first two parts, as they were sent.
    #[must_use]
    pub const fn signed(&self) -> &'a [u8] {
        self.signed
    }

    /// The signature.
    #[must_use]
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// Whether it says that it is an access token (RFC 9068 §2.1).
    #[must_use]
    pub fn is_access_token(&self) -> bool {
        self.is_of_kind("at+jwt")
    }

    /// Whether its `typ` is the media type `application/<kind>`, with or without the prefix (RFC 7515 §4.1.9), in whatever
    /// letter case.
    #[must_use]
    pub fn is_of_kind(&self, kind: &str) -> bool {
        self.kind.as_deref().is_some_and(|written| {
            let prefix = written.get(..PREFIX.len()).filter(|start| start.eq_ignore_ascii_case(PREFIX));
            let bare =
                if prefix.is_some() { written.get(PREFIX.len()..).unwrap_or_default() } else { written };
            bare.eq_ignore_ascii_case(kind)
        })
    }
}

/// What is to be signed for a token of this `kind` (`at+jwt` for an access token): its header and `payload`. The token is this, a
/// dot, and the signature in base64url without padding.
#[must_use]
pub fn signing_input(kind: &str, algorithm: Algorithm, key_id: &str, payload: &[u8]) -> String {
    let header = json!({ "typ": kind, "alg": algorithm.as_str(), "kid": key_id }).to_string();
    let mut text = BASE64URL_NOPAD.encode(header.as_bytes());
    text.push('.');
    BASE64URL_NOPAD.encode_append(payload, &mut text);
    text
}

/// Whether `text` may be the name of a key: 1 to 128 characters of base64 or base64url, as all issuers that we know of
/// write them. It is never more than the key of a map, and nothing in it climbs, quotes or ends a line.
#[must_use]
pub fn is_key_id(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'+' | b'/' | b'=');
    (1..=128).contains(&text.len()) && text.bytes().all(allowed)
}

fn decoded(part: &[u8]) -> Result<Vec<u8>, InvalidJws> {
    BASE64URL_NOPAD.decode(part).map_err(|_| InvalidJws::Base64)
}

fn text_of(header: &Members, name: &str) -> Result<Option<String>, InvalidJws> {
    match header.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(InvalidJws::Header),
    }
}

const PREFIX: &str = "application/";

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str) -> String {
        let part = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
        format!("{}.{}.c2ln", part(header), part(payload))
    }

    fn error(header: &str) -> Option<InvalidJws> {
        Jws::parse(token(header, "{}").as_bytes()).err()
    }

    #[test]
    fn a_token_is_taken_apart() {
        let text = token(r#"{"alg":"ES256","typ":"at+jwt","kid":"k-1"}"#, r#"{"a":1}"#);

        let jws = Jws::parse(text.as_bytes()).unwrap();

        assert_eq!((jws.algorithm.as_str(), jws.key_id.as_deref()), ("ES256", Some("k-1")));
        assert!(jws.is_access_token());
        assert_eq!(jws.payload, br#"{"a":1}"#);
        assert_eq!(jws.signature(), b"sig");
        assert_eq!(Some(jws.signed()), text.as_bytes().strip_suffix(b".c2ln"));
    }

    #[test]
    fn what_is_to_be_signed_is_read_as_it_was_meant() {
        let text = signing_input("at+jwt", Algorithm::EdDsa, "k", b"{}") + ".";

        let jws = Jws::parse(text.as_bytes()).unwrap();

        assert_eq!((jws.algorithm.as_str(), jws.key_id.as_deref()), ("EdDSA", Some("k")));
        assert!(jws.is_access_token() && jws.signature().is_empty());
    }

    #[test]
    fn the_type_is_a_media_type() {
        for (kind, is_one) in [
            ("at+jwt", true),
            ("AT+JWT", true),
            ("application/at+jwt", true),
            ("Application/AT+jwt", true),
            ("JWT", false),
            ("", false),
            ("text/at+jwt", false),
        ] {
            let text = token(&format!(r#"{{"alg":"ES256","typ":"{kind}"}}"#), "{}");
            assert_eq!(Jws::parse(text.as_bytes()).unwrap().is_access_token(), is_one, "{kind}");
        }
    }

    #[test]
    fn a_header_that_asks_for_more_is_refused() {
        assert_eq!(error(r#"{"alg":"ES256"}"#), None);
        for (header, expected) in [
            (r#"{"alg":"ES256","crit":["exp"]}"#, InvalidJws::Critical),
            (r#"{"alg":"ES256","crit":[]}"#, InvalidJws::Critical),
            (r#"{"alg":"ES256","b64":false}"#, InvalidJws::Critical),
            (r#"{"alg":"ES256","b64":true}"#, InvalidJws::Critical),
            (r#"{"alg":"RSA-OAEP","enc":"A256GCM"}"#, InvalidJws::Encrypted),
            (r#"{"alg":"ES256","alg":"none"}"#, InvalidJws::Header),
            (r#"{"typ":"at+jwt"}"#, InvalidJws::Header),
            (r#"{"alg":1}"#, InvalidJws::Header),
            (r#"{"alg":"ES256","kid":1}"#, InvalidJws::Header),
            (r#"{"alg":"ES256","typ":["at+jwt"]}"#, InvalidJws::Header),
            ("[]", InvalidJws::Header),
        ] {
            assert_eq!(error(header), Some(expected), "{header}");
        }
    }

    #[test]
    fn a_kid_is_a_name_and_nothing_else() {
        assert_eq!(
            error(r#"{"alg":"ES256","kid":"NjVBRjY5MDlCMUIwNzU4RTA2QzZFMDQ4QzQ2MDAyQjVDNjk1RTM2Qg"}"#),
            None
        );
        assert_eq!(error(r#"{"alg":"ES256","kid":"1e/tQ+b3kNsNsZsXqvQ4rQzLQ7g="}"#), None);
        let long = "a".repeat(129);
        for kid in ["", "../../etc/passwd", "' OR 1=1 --", "a b", "a\\u0000", "a\\n", "é", long.as_str()] {
            assert_eq!(
                error(&format!(r#"{{"alg":"ES256","kid":"{kid}"}}"#)),
                Some(InvalidJws::KeyId),
                "{kid}"
            );
        }
    }

    #[test]
    fn what_names_a_key_of_its_own_is_not_looked_at() {
        let header = r#"{"alg":"ES256","kid":"k","jku":7,"x5u":{},"jwk":null,"x5c":"no list"}"#;

        assert_eq!(error(header), None);
    }

    #[test]
    fn every_token_has_one_spelling() {
        let good = token(r#"{"alg":"ES256"}"#, "{}");
        assert!(Jws::parse(good.as_bytes()).is_ok());

        for (text, expected) in [
            (good.replace("c2ln", "c2ln="), InvalidJws::Base64),
            (good.replace("c2ln", "c2lnAB"), InvalidJws::Base64),
            (good.replace("c2ln", "c2+n"), InvalidJws::Base64),
            (good.replace("c2ln", "c2ln\n"), InvalidJws::Base64),
            (format!(" {good}"), InvalidJws::Base64),
            (format!("{good}.a"), InvalidJws::Parts),
            (format!("{good}.a.b"), InvalidJws::Encrypted),
            (format!("{good}.a.b.c"), InvalidJws::Parts),
            (String::new(), InvalidJws::Parts),
            ("..".to_owned(), InvalidJws::Header),
            (format!("{good}{}", "A".repeat(LONGEST)), InvalidJws::Long),
        ] {
            assert_eq!(Jws::parse(text.as_bytes()).err(), Some(expected), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_token_or_refused(bytes in proptest::collection::vec(0_u8.., 0..200)) {
            drop(Jws::parse(&bytes));
        }
    }
}
