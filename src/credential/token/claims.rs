//! What a token claims (RFC 7519 §4, RFC 9068 §2.2), read by type and written for our own tokens.
//!
//! Times are whole seconds, and nothing else: a number with a fraction or an exponent, a text, or one beyond the year 9999 is
//! refused. A confirmation (`cnf`, RFC 7800) that is not known here is refused too: a token that is bound to something must
//! not be taken as if it were not.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use super::json::{Members, members};
use crate::clock::Timestamp;

/// What a token claims.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claims {
    /// Who has issued it.
    pub issuer: String,
    /// For whom it is meant; at least one.
    pub audience: Vec<String>,
    /// When it ends.
    pub expires: Timestamp,
    /// Before when it is not to be taken.
    pub not_before: Option<Timestamp>,
    /// When it was issued.
    pub issued: Option<Timestamp>,
    /// Its name, the `jti`.
    pub id: Option<String>,
    /// Of whom it speaks.
    pub subject: Option<String>,
    /// The client that it was issued to.
    pub client_id: Option<String>,
    /// What it permits, by the words of `scope` or `scp`.
    pub scopes: Vec<String>,
    /// The name of the credential on file by which one of our own tokens was asked for.
    pub credential: Option<String>,
    /// The products for which one of our own was issued; a hint, from which nothing follows.
    pub products: Vec<String>,
    /// The SHA-256 of the certificate that it is bound to (RFC 8705 §3.1).
    pub certificate: Option<[u8; 32]>,
    /// All that it claims, as it was written; empty in claims that are to be written.
    pub all: Members,
}

/// Why a payload claims nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidClaims {
    /// A claim is missing or of the wrong type.
    #[error("`{0}` is missing or not of the type that it must have")]
    Claim(&'static str),
    /// It is bound to something that is not known here.
    #[error("`cnf` binds it to something other than a certificate by x5t#S256")]
    Confirmation,
    /// It is no JSON object, or a member stands twice.
    #[error("expected a JSON object in which no member stands twice")]
    Json,
}

/// How a token stands in time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// It has ended.
    Expired,
    /// It is good now.
    Good,
    /// It begins later, or says that it was issued later.
    NotYet,
}

/// How far clocks may be apart, in both directions, unless an issuer's settings say otherwise.
pub const LEEWAY: Duration = Duration::from_secs(5);

impl Claims {
    /// Reads what a payload claims.
    ///
    /// # Errors
    /// A claim that is looked at here is of the wrong type, or `iss`, `aud` or `exp` is missing.
    pub fn parse(payload: &[u8]) -> Result<Self, InvalidClaims> {
        let all = members(payload).map_err(|_| InvalidClaims::Json)?;
        let scopes = match (scopes(&all, "scope")?, scopes(&all, "scp")?) {
            (Some(_), Some(_)) => return Err(InvalidClaims::Claim("scope")),
            (found, None) | (None, found) => found.unwrap_or_default(),
        };
        Ok(Self {
            issuer: text(&all, "iss")?.ok_or(InvalidClaims::Claim("iss"))?,
            audience: words(&all, "aud")?
                .filter(|found| !found.is_empty())
                .ok_or(InvalidClaims::Claim("aud"))?,
            expires: time(&all, "exp")?.ok_or(InvalidClaims::Claim("exp"))?,
            not_before: time(&all, "nbf")?,
            issued: time(&all, "iat")?,
            id: text(&all, "jti")?,
            subject: text(&all, "sub")?,
            client_id: text(&all, "client_id")?,
            scopes,
            credential: text(&all, "cred")?,
            products: words(&all, "products")?.unwrap_or_default(),
            certificate: confirmation(&all)?,
            all,
        })
    }

    /// What is to be signed: these claims in JSON, without what they lack.
    #[must_use]
    pub fn to_json(&self) -> String {
        let aud = match self.audience.as_slice() {
            [one] => json!(one),
            several => json!(several),
        };
        let mut written = Members::new();
        let mut put = |name: &str, value: Value| drop(written.insert(name.to_owned(), value));
        put("iss", json!(self.issuer));
        put("aud", aud);
        put("exp", json!(self.expires.unix()));
        for (name, at) in [("nbf", self.not_before), ("iat", self.issued)] {
            if let Some(at) = at {
                put(name, json!(at.unix()));
            }
        }
        let texts = [
            ("jti", &self.id),
            ("sub", &self.subject),
            ("client_id", &self.client_id),
            ("cred", &self.credential),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                put(name, json!(text));
            }
        }
        if !self.scopes.is_empty() {
            put("scope", json!(self.scopes.join(" ")));
        }
        if !self.products.is_empty() {
            put("products", json!(self.products));
        }
        if let Some(certificate) = &self.certificate {
            put("cnf", json!({ THUMBPRINT: BASE64URL_NOPAD.encode(certificate) }));
        }
        Value::Object(written).to_string()
    }

    /// How the token stands at `now`, where clocks may be `leeway` apart.
    ///
    /// > The "exp" (expiration time) claim identifies the expiration time on or after which the JWT MUST NOT be accepted for
    /// > processing. — RFC 7519 §4.1.4
    #[must_use]
    pub fn standing(&self, leeway: Duration, now: Timestamp) -> Standing {
        if now >= self.expires + leeway {
            return Standing::Expired;
        }
        let begins = [self.not_before, self.issued].into_iter().flatten();
        if begins.into_iter().any(|at| now + leeway < at) { Standing::NotYet } else { Standing::Good }
    }

    /// The claim of this name, if it is a text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        self.all.get(name).and_then(Value::as_str).map(str::to_owned)
    }

    /// Whether a claim of this name is a text, and this one.
    #[must_use]
    pub fn says(&self, name: &str, value: &str) -> bool {
        self.all.get(name).and_then(Value::as_str) == Some(value)
    }
}

fn text(all: &Members, name: &'static str) -> Result<Option<String>, InvalidClaims> {
    match all.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
        Some(_) => Err(InvalidClaims::Claim(name)),
    }
}

/// A text, or an array of texts.
fn words(all: &Members, name: &'static str) -> Result<Option<Vec<String>>, InvalidClaims> {
    let word = |value: &Value| {
        let word = value.as_str().filter(|text| !text.is_empty());
        word.map(str::to_owned).ok_or(InvalidClaims::Claim(name))
    };
    match all.get(name) {
        None => Ok(None),
        Some(Value::Array(values)) => values.iter().map(word).collect::<Result<_, _>>().map(Some),
        Some(value) => word(value).map(|one| Some(vec![one])),
    }
}

/// Words with a space between them, or an array of words.
///
/// > scope-token = 1*( %x21 / %x23-5B / %x5D-7E ) — RFC 6749 §3.3
fn scopes(all: &Members, name: &'static str) -> Result<Option<Vec<String>>, InvalidClaims> {
    let listed = match all.get(name) {
        None => return Ok(None),
        Some(Value::String(text)) => {
            text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
        }
        Some(_) => words(all, name)?.unwrap_or_default(),
    };
    let is_scope =
        |word: &String| word.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
    if listed.iter().all(is_scope) { Ok(Some(listed)) } else { Err(InvalidClaims::Claim(name)) }
}

fn time(all: &Members, name: &'static str) -> Result<Option<Timestamp>, InvalidClaims> {
    match all.get(name) {
        None => Ok(None),
        Some(value) => {
            let seconds = value.as_i64().filter(|seconds| (0..=END_OF_TIME).contains(seconds));
            seconds.map(|seconds| Some(Timestamp::from_unix(seconds))).ok_or(InvalidClaims::Claim(name))
        }
    }
}

fn confirmation(all: &Members) -> Result<Option<[u8; 32]>, InvalidClaims> {
    let Some(confirmation) = all.get("cnf") else { return Ok(None) };
    let only = confirmation.as_object().filter(|members| members.len() == 1);
    let written = only.and_then(|members| members.get(THUMBPRINT)).and_then(Value::as_str);
    let digest = written.and_then(|text| BASE64URL_NOPAD.decode(text.as_bytes()).ok());
    let digest = digest.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    digest.map(Some).ok_or(InvalidClaims::Confirmation)
}

/// The member of `cnf` that holds the SHA-256 digest of the certificate's DER (RFC 8705 §3.1).
const THUMBPRINT: &str = "x5t#S256";

/// The last second of the year 9999.
const END_OF_TIME: i64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(text: &str) -> Result<Claims, InvalidClaims> {
        Claims::parse(text.as_bytes())
    }

    fn with(more: &str) -> Result<Claims, InvalidClaims> {
        claims(&format!(r#"{{"iss":"i","aud":"a","exp":1800000000{more}}}"#))
    }

    #[test]
    fn what_is_written_is_read() {
        let written = Claims {
            issuer: "https://postern.test".to_owned(),
            audience: vec!["a".to_owned()],
            expires: Timestamp::from_unix(1_800_000_600),
            not_before: None,
            issued: Some(Timestamp::from_unix(1_800_000_000)),
            id: Some("j".to_owned()),
            subject: Some("ledger".to_owned()),
            client_id: Some("ledger".to_owned()),
            scopes: vec!["a:read".to_owned(), "b".to_owned()],
            credential: Some("0000000000A1".to_owned()),
            products: vec!["p".to_owned()],
            certificate: Some([7; 32]),
            all: Members::new(),
        };

        let read = claims(&written.to_json()).unwrap();

        assert_eq!(Claims { all: Members::new(), ..read }, written);
    }

    #[test]
    fn an_audience_is_one_or_several() {
        assert_eq!(with("").unwrap().audience, ["a"]);
        assert_eq!(claims(r#"{"iss":"i","aud":["a","b"],"exp":1}"#).unwrap().audience, ["a", "b"]);
        for aud in ["[]", "1", "null", "\"\"", "[1]", "[\"\"]", "{}"] {
            let text = format!(r#"{{"iss":"i","aud":{aud},"exp":1}}"#);
            assert_eq!(claims(&text), Err(InvalidClaims::Claim("aud")), "{aud}");
        }
    }

    #[test]
    fn a_time_is_a_whole_number_of_seconds_in_this_calendar() {
        for exp in [
            "1.5",
            "1e9",
            "1800000000.0",
            "\"1800000000\"",
            "-1",
            "253402300800",
            "99999999999999999999",
            "null",
            "true",
        ] {
            let text = format!(r#"{{"iss":"i","aud":"a","exp":{exp}}}"#);
            assert_eq!(claims(&text), Err(InvalidClaims::Claim("exp")), "{exp}");
            for name in ["nbf", "iat"] {
                let found = with(&format!(r#","{name}":{exp}"#));
                assert_eq!(found, Err(InvalidClaims::Claim(name)), "{name} {exp}");
            }
        }
        assert_eq!(claims(r#"{"iss":"i","aud":"a"}"#), Err(InvalidClaims::Claim("exp")));
        assert_eq!(claims(r#"{"aud":"a","exp":1}"#), Err(InvalidClaims::Claim("iss")));
        assert!(claims(r#"{"iss":"i","aud":"a","exp":253402300799}"#).is_ok());
    }

    #[test]
    fn the_leeway_is_five_seconds_both_ways() {
        let claims = with(r#","nbf":1700000000,"iat":1600000000"#).unwrap();
        let standing = |seconds: i64| claims.standing(LEEWAY, Timestamp::from_unix(seconds));

        assert_eq!(standing(1_699_999_994), Standing::NotYet);
        assert_eq!(standing(1_699_999_995), Standing::Good);
        assert_eq!(standing(1_800_000_004), Standing::Good);
        assert_eq!(standing(1_800_000_005), Standing::Expired);
        let issued_later = with(r#","iat":1700000000"#).unwrap();
        assert_eq!(issued_later.standing(LEEWAY, Timestamp::from_unix(1_699_999_994)), Standing::NotYet);
    }

    #[test]
    fn scopes_are_words_or_a_list() {
        assert_eq!(with(r#","scope":"a  b:c""#).unwrap().scopes, ["a", "b:c"]);
        assert_eq!(with(r#","scp":["a","b"]"#).unwrap().scopes, ["a", "b"]);
        assert_eq!(with(r#","scp":"a b""#).unwrap().scopes, ["a", "b"]);
        assert_eq!(with(r#","scope":"a","scp":"b""#), Err(InvalidClaims::Claim("scope")));
        assert_eq!(with(r#","scope":"a\"b""#), Err(InvalidClaims::Claim("scope")));
        assert_eq!(with(r#","scp":["a b"]"#), Err(InvalidClaims::Claim("scp")));
        assert_eq!(with(r#","scope":7"#), Err(InvalidClaims::Claim("scope")));
    }

    /// The certificate of RFC 8705 appendix A, and the claim that binds to it.
    #[test]
    fn a_binding_is_that_of_the_specification() {
        const CERTIFICATE: &str = "MIIBBjCBrAIBAjAKBggqhkjOPQQDAjAPMQ0wCwYDVQQDDARtdGxzMB4XDTE4MTAx\
            ODEyMzcwOVoXDTIyMDUwMjEyMzcwOVowDzENMAsGA1UEAwwEbXRsczBZMBMGByqG\
            SM49AgEGCCqGSM49AwEHA0IABNcnyxwqV6hY8QnhxxzFQ03C7HKW9OylMbnQZjjJ\
            /Au08/coZwxS7LfA4vOLS9WuneIXhbGGWvsDSb0tH6IxLm8wCgYIKoZIzj0EAwID\
            SQAwRgIhAP0RC1E+vwJD/D1AGHGzuri+hlV/PpQEKTWUVeORWz83AiEA5x2eXZOV\
            bUlJSGQgjwD5vaUaKlLR50Q2DmFfQj1L+SY=";
        let der = data_encoding::BASE64.decode(CERTIFICATE.as_bytes()).unwrap();
        let sha256 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
        let cnf = r#","cnf":{"x5t#S256":"A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0"}"#;

        assert_eq!(with(cnf).unwrap().certificate.as_ref().map(|found| &found[..]), Some(sha256.as_ref()));
    }

    #[test]
    fn a_binding_that_is_not_known_is_no_binding_to_ignore() {
        for cnf in [
            r#"{}"#,
            r#"{"jkt":"A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0"}"#,
            r#"{"x5t#S256":"A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0","jkt":"x"}"#,
            r#"{"x5t#S256":"A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v1"}"#,
            r#"{"x5t#S256":"AAAA"}"#,
            r#"{"x5t#S256":7}"#,
            "null",
            "[]",
        ] {
            assert_eq!(with(&format!(r#","cnf":{cnf}"#)), Err(InvalidClaims::Confirmation), "{cnf}");
        }
    }
}
