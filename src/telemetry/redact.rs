//! What looks like a secret of ours or like a token (a JWT) is withheld, wherever it would be written.
//!
//! It goes by the form alone: whether it is one that somebody could use is not asked.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::LazyLock;

use memchr::memmem::Finder;

/// How all secrets of ours begin, whatever their kind.
static MARK: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("pstn_"));

/// How the header of a token begins: `{"` in base64url.
static TOKEN: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("eyJ"));

/// What stands in the place of a secret.
const WITHHELD: &[u8] = b"(withheld)";

/// Whether `text` holds something that looks like a secret.
#[must_use]
pub fn carries_secret(text: &[u8]) -> bool {
    next_secret(text, 0).is_some()
}

/// `text` without what looks like a secret.
#[must_use]
pub fn redacted(text: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = next_secret(text, 0) else { return Cow::Borrowed(text) };
    let mut clean = Vec::with_capacity(text.len());
    let (mut next, mut from) = (Some(first), 0);
    while let Some((begin, end)) = next {
        clean.extend_from_slice(text.get(from..begin).unwrap_or_default());
        clean.extend_from_slice(WITHHELD);
        from = end;
        next = next_secret(text, from);
    }
    clean.extend_from_slice(text.get(from..).unwrap_or_default());
    Cow::Owned(clean)
}

/// Where the next secret begins and ends.
fn next_secret(text: &[u8], from: usize) -> Option<(usize, usize)> {
    let rest = text.get(from..)?;
    let ours = MARK.find(rest).map(|at| (from + at, word_end(text, from + at)));
    let token = TOKEN.find_iter(rest).find_map(|at| Some((from + at, token_end(text, from + at)?)));
    ours.into_iter().chain(token).min()
}

/// The end of the word of base64url that begins at `at`.
fn word_end(text: &[u8], at: usize) -> usize {
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let length = text.get(at..).unwrap_or_default().iter().take_while(|byte| word(byte)).count();
    at + length
}

/// The end of the token that begins at `at`: three words with dots between them, the last of which may be empty.
fn token_end(text: &[u8], at: usize) -> Option<usize> {
    let header = word_end(text, at);
    let payload = word_end(text, header + 1);
    let dots = [header, payload].into_iter().all(|at| text.get(at) == Some(&b'.'));
    let long = header - at >= SHORTEST_WORD && payload > header + SHORTEST_WORD;
    (dots && long).then(|| word_end(text, payload + 1))
}

/// A token's words are longer.
const SHORTEST_WORD: usize = 8;

/// Withholds secrets from all that is written, whole lines at a time.
#[derive(Debug)]
pub(super) struct Redacting<W>(pub(super) W);

impl<W: Write> Write for Redacting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(&redacted(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "pstn_sk_0000000000A1_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf3lksCr";
    const JWT: &str = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJiaWxsaW5nIn0.c2lnbmF0dXJl-_";

    fn clean(text: &str) -> String {
        String::from_utf8(redacted(text.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn secrets_are_withheld_and_nothing_else() {
        for secret in [KEY, &KEY[..30], "pstn_cs_x", JWT, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0."] {
            assert_eq!(clean(&format!("a=\"{secret}\" b")), "a=\"(withheld)\" b", "{secret}");
            assert_eq!(clean(&format!("{secret}/{secret}")), "(withheld)/(withheld)", "{secret}");
        }
        assert_eq!(clean(&format!("Bearer {JWT} and {KEY}")), "Bearer (withheld) and (withheld)");
        for harmless in ["/orders/7", "eyJ", "eyJabc.def.ghi", "a.eyJhbGciOiJFUzI1NiJ9", "pstn", ""] {
            assert_eq!(clean(harmless), harmless);
            assert!(!carries_secret(harmless.as_bytes()));
        }
    }
}
