//! A checksum as the last line of a small file, so that a damaged digit is noticed that would still read well.
//!
//! The line is a comment: programs that know nothing of it read the file all the same, and a file without it is one that was
//! written before there were any. It is no protection from anybody who writes the line himself.

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;

/// The content is not what its last line says.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "its checksum does not hold: something has changed that was not written by postern (if that was you, and you are sure, \
     delete the line `# sha256: …`)"
)]
pub struct BrokenSeal;

/// `text` with its checksum below.
#[must_use]
pub fn sealed(text: &str) -> String {
    format!("{text}{MARK}{}\n", sum(text))
}

/// Whether `text` is what was sealed; also if it was never sealed.
///
/// # Errors
/// It was changed since.
pub fn check(text: &str) -> Result<(), BrokenSeal> {
    // At the beginning of a line only: the same words may stand in a value.
    let Some(at) = text.rfind(&format!("\n{MARK}")).map(|at| at + 1) else { return Ok(()) };
    let (content, seal) = text.split_at(at);
    let intact = seal.strip_prefix(MARK).and_then(|rest| rest.strip_suffix('\n')) == Some(&sum(content));
    if intact { Ok(()) } else { Err(BrokenSeal) }
}

fn sum(text: &str) -> String {
    HEXLOWER.encode(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

const MARK: &str = "# sha256: ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_changed_under_a_seal_is_noticed() {
        let text = sealed("until = \"2026-01-01T00:00:00Z\"\n");
        assert_eq!(check(&text), Ok(()));
        assert_eq!(check("until = \"2026-01-01T00:00:00Z\"\n"), Ok(()), "from before there were seals");

        for (at, _) in text.char_indices().take_while(|(at, _)| *at < text.len() - 66) {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let changed = String::from_utf8(bytes).unwrap();
            let mark_is_gone = !changed.contains(&format!("\n{MARK}"));
            assert!(check(&changed).is_err() || mark_is_gone, "{changed}");
        }
        assert_eq!(check(&format!("{text}more\n")), Err(BrokenSeal));
        assert_eq!(check(text.trim_end()), Err(BrokenSeal));
    }
}
