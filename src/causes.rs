//! An error with all that caused it, on one line.

use std::error::Error;
use std::fmt;

/// Prints an error and its causes, each after a colon. Errors speak of their own level only; whoever shows one to a person
/// shows it by this.
#[derive(Debug)]
pub struct Causes<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outside")]
    struct Outside(#[source] fmt::Error);

    #[test]
    fn the_causes_follow_the_error() {
        let text = Causes(&Outside(fmt::Error)).to_string();

        assert_eq!(text, format!("outside: {}", fmt::Error));
    }
}
