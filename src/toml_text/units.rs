//! Durations and sizes as people write them: `1h30m`, `64KiB`.

use std::time::Duration;

/// The text is no duration.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected a duration such as \"500ms\", \"10s\", \"5m\", \"1h30m\" or \"7d\"")]
pub struct InvalidDuration;

/// The text is no size.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected a size such as \"512B\", \"64KiB\" or \"1MiB\"")]
pub struct InvalidByteSize;

/// Reads a duration: whole numbers, each with its unit, the greater unit first.
///
/// # Errors
/// The text is no duration, or a longer one than can be counted.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut last_unit = u64::MAX;
    while !rest.is_empty() || text.is_empty() {
        let (number, behind) = split_number(rest).ok_or(InvalidDuration)?;
        let end = behind.find(|letter: char| letter.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at_checked(end).ok_or(InvalidDuration)?;
        let unit = DURATIONS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, millis)| *millis)
            .ok_or(InvalidDuration)?;
        if unit >= last_unit {
            return Err(InvalidDuration);
        }
        let millis = number.checked_mul(unit).ok_or(InvalidDuration)?;
        total = total.checked_add(Duration::from_millis(millis)).ok_or(InvalidDuration)?;
        (rest, last_unit) = (behind, unit);
    }
    Ok(total)
}

/// Reads a size in bytes: a whole number with its unit.
///
/// # Errors
/// The text is no size, or a greater one than can be counted.
pub fn parse_byte_size(text: &str) -> Result<u64, InvalidByteSize> {
    let (number, unit) = split_number(text).ok_or(InvalidByteSize)?;
    let unit =
        SIZES.iter().find(|(name, _)| *name == unit).map(|(_, bytes)| *bytes).ok_or(InvalidByteSize)?;
    number.checked_mul(unit).ok_or(InvalidByteSize)
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    Some((digits.parse().ok()?, rest))
}

const DURATIONS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

const SIZES: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units() {
        for (text, seconds) in
            [("0s", 0), ("10s", 10), ("5m", 300), ("1h30m", 5400), ("7d", 604_800), ("1w1d", 691_200)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse_duration("1s500ms"), Ok(Duration::from_millis(1500)));
    }

    #[test]
    fn a_bare_number_is_no_duration() {
        for text in [
            "",
            "10",
            "s",
            "10 s",
            " 10s",
            "10sec",
            "1.5h",
            "-1s",
            "+1s",
            "30m1h",
            "1s1s",
            "1h30",
            "99999999999999999999s",
            "18446744073709551615w",
        ] {
            assert_eq!(parse_duration(text), Err(InvalidDuration), "{text}");
        }
    }

    #[test]
    fn sizes_are_numbers_with_units() {
        for (text, bytes) in
            [("0B", 0), ("512B", 512), ("64KiB", 65_536), ("1MiB", 1_048_576), ("2GiB", 2_147_483_648)]
        {
            assert_eq!(parse_byte_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "64", "KiB", "64 KiB", "64kb", "64KB", "1KiB1B", "-1B", "99999999999GiB"] {
            assert_eq!(parse_byte_size(text), Err(InvalidByteSize), "{text}");
        }
    }
}
