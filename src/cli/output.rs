//! The only place that prints: results to standard output, everything else to standard error.

use std::io::{self, Write};

use serde::Serialize;

/// How a command answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// It answered "no": denied, not ready, nothing there.
    No,
    /// All is well.
    Yes,
}

impl Verdict {
    pub(super) const fn of(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

/// Prints a result. That nobody reads it any more, as behind `| head`, is no failure.
pub(super) fn print(text: &str) -> io::Result<()> {
    match print_all(text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

/// Prints a result that must arrive.
pub(super) fn print_all(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Prints a value as JSON.
pub(super) fn print_json<T: Serialize + ?Sized>(value: &T) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(print(&text)?)
}

/// Tells the person at the terminal something that is no part of the result.
pub(super) fn tell(text: &str) {
    // When even this cannot be written, there is nobody left to tell.
    drop(writeln!(io::stderr().lock(), "{text}"));
}
