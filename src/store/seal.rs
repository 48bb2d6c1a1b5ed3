//! A checksum as the last line of a small file, so that a damaged digit is noticed that would still read well, or a missing
//! end.
//!
//! Its lines are comments: programs that know nothing of it read the file all the same, and a file without it is one that was
//! written before there were any. It is no protection from anybody who writes the lines himself.

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;

/// The content is not what its last line says.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BrokenSeal {
    /// Something is different.
    #[error(
        "its checksum does not hold: something has changed that postern has not written (if that was you, and you are sure, \
         delete the lines about the checksum, the first and the last)"
    )]
    Changed,
    /// The end is missing.
    #[error("it is cut short: the line with its checksum is missing")]
    CutShort,
}

/// `text` with its checksum below, and a line above that says so.
#[must_use]
pub fn sealed(text: &str) -> String {
    let text = format!("{PROMISE}{text}");
    let seal = sum(&text);
    format!("{text}{MARK}{seal}\n")
}

/// Whether `text` is what was sealed; also if it was never sealed.
///
/// # Errors
/// It was changed since, or only a part of it is left.
pub fn check(text: &str) -> Result<(), BrokenSeal> {
    // At the beginning of a line only: the same words may stand in a value.
    let Some(at) = text.rfind(&format!("\n{MARK}")).map(|at| at + 1) else {
        let promised = text.starts_with(PROMISE) || PROMISE.starts_with(text);
        return if promised { Err(BrokenSeal::CutShort) } else { Ok(()) };
    };
    let (content, seal) = text.split_at(at);
    let intact = seal.strip_prefix(MARK).and_then(|rest| rest.strip_suffix('\n')) == Some(&sum(content));
    if intact { Ok(()) } else { Err(BrokenSeal::Changed) }
}

fn sum(text: &str) -> String {
    HEXLOWER.encode(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

const MARK: &str = "# sha256: ";
const PROMISE: &str = "# The last line is a checksum.\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_changed_under_a_seal_is_noticed() {
        let text = sealed("until = \"2026-01-01T00:00:00Z\"\n");
        assert_eq!(check(&text), Ok(()));

        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(check(std::str::from_utf8(&bytes).unwrap()).is_err(), "bit {at}");
        }
        assert_eq!(check(&format!("{text}more\n")), Err(BrokenSeal::Changed));
    }

    #[test]
    fn whatever_is_missing_at_the_end_is_noticed_down_to_the_last_byte_and_the_first() {
        let text = sealed("until = \"2026-01-01T00:00:00Z\"\n");

        for end in 0..text.len() {
            assert!(check(&text[..end]).is_err(), "{end} bytes are left");
        }
    }

    #[test]
    fn a_file_from_before_there_were_seals_is_read_as_it_is() {
        assert_eq!(check("until = \"2026-01-01T00:00:00Z\"\n"), Ok(()));
        assert_eq!(check("note = \"\"\"\nnot # sha256: of anything\"\"\"\n"), Ok(()));
    }
}
