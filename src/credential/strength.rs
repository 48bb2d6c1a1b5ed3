//! How hard a key is to guess that somebody else has made, as far as its text tells.

/// Why a key is not taken over.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WeakKey {
    /// A key goes into a header as it is.
    #[error("it has something other than visible ASCII characters")]
    Characters,
    /// It could be guessed.
    #[error("it is no stronger than {0} bits, of which it needs {LEAST}")]
    Guessable(u32),
    /// It is longer than any key is.
    #[error("it is longer than {MOST} characters")]
    TooLong,
}

/// Whether `key` may be as strong as its text could make it. An estimate from above: a long phrase of common words passes.
///
/// # Errors
/// Why it is too weak.
pub fn expect_strong(key: &[u8]) -> Result<(), WeakKey> {
    if key.len() > MOST {
        return Err(WeakKey::TooLong);
    }
    if !key.iter().all(u8::is_ascii_graphic) {
        return Err(WeakKey::Characters);
    }
    let bits = bits(key);
    if bits < LEAST { Err(WeakKey::Guessable(bits)) } else { Ok(()) }
}

/// The bits of a random text over the narrowest usual alphabet that has all its letters; what repeats itself, or counts up or down,
/// counts once.
fn bits(key: &[u8]) -> u32 {
    let letters: Vec<u8> = key.iter().copied().filter(|byte| byte.is_ascii_alphanumeric()).collect();
    let others = key.len() - letters.len();
    // Hundredths of a bit for each letter.
    let each = if letters.iter().all(u8::is_ascii_digit) {
        332
    } else if letters.iter().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
        || letters.iter().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_lowercase())
    {
        400
    } else if letters.iter().all(|byte| !byte.is_ascii_uppercase()) {
        517
    } else {
        595
    };
    // Hyphens and dots divide as a rule, and add nothing.
    let own = if others > letters.len() / 4 { key } else { &letters };
    let length = u32::try_from(fresh(own)).unwrap_or(u32::MAX);
    length.saturating_mul(each) / 100
}

/// As many letters are not said by those before them.
fn fresh(letters: &[u8]) -> usize {
    let period = (1..=letters.len() / 2)
        .find(|period| letters.iter().zip(letters.iter().skip(*period)).all(|(one, other)| one == other));
    let once = letters.get(..period.unwrap_or(letters.len())).unwrap_or(letters);
    let steps = once.windows(2).filter_map(|pair| match pair {
        [one, next] => Some(i16::from(*next) - i16::from(*one)),
        _ => None,
    });
    let steps: Vec<i16> = steps.collect();
    let said = steps.windows(2).filter(|pair| matches!(pair, [one, next] if one == next)).count();
    once.len() - said
}

const LEAST: u32 = 128;
const MOST: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_others_make_at_random_pass() {
        for key in [
            "3f2504e04f8941d39a0c0305e82c3301",
            "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
            "vJ8sQ2mZx7LkP0wRtYb3NcHd",
            "AIzaSyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY",
        ] {
            assert_eq!(expect_strong(key.as_bytes()), Ok(()), "{key}");
        }
    }

    #[test]
    fn what_can_be_guessed_is_refused() {
        for key in [
            "",
            "secret123",
            "12345678901234567890",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz0123456789",
            "secret123secret123secret123secret123secret123",
        ] {
            assert!(matches!(expect_strong(key.as_bytes()), Err(WeakKey::Guessable(_))), "{key}");
        }
        assert_eq!(expect_strong(b"3f2504e04f8941d3 9a0c0305e82c3301"), Err(WeakKey::Characters));
        assert_eq!(expect_strong(&[b'x'; 513]), Err(WeakKey::TooLong));
    }
}
