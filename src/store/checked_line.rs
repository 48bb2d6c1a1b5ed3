//! One line of a file that grows: eight hexadecimal digits of CRC-32, a space, and a value as JSON.

use std::fmt::Write as _;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Appends `value` as one line.
pub(crate) fn push(text: &mut String, value: &impl Serialize) {
    // Neither can fail: there is nothing in these values that JSON does not have, and a String takes everything.
    let Ok(json) = serde_json::to_string(value) else { return };
    let written = writeln!(text, "{:08x} {json}", crc32fast::hash(json.as_bytes()));
    debug_assert!(written.is_ok());
}

/// The value in a line, with its end or without; none if it is not what was written.
pub(crate) fn read<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let (sum, json) = line.trim_ascii_end().split_at_checked(8)?;
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    let json = json.strip_prefix(b" ")?;
    serde_json::from_slice(json).ok().filter(|_| crc32fast::hash(json) == sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written_and_not_if_anything_of_it_changed() {
        let mut text = String::new();
        push(&mut text, &("orders", 7));

        assert_eq!(read::<(String, u8)>(text.as_bytes()), Some(("orders".to_owned(), 7)));
        for at in 0..text.len() - 1 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert_eq!(read::<(String, u8)>(&bytes), None, "position {at}");
            assert_eq!(read::<(String, u8)>(&text.as_bytes()[..at]), None, "cut at {at}");
        }
    }
}
