//! One thing that is wrong in a file, in words an operator can act on.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong in a file. Problems sort by place.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from one.
    pub line: usize,
    /// The column in characters, counted from one.
    pub column: usize,
    /// The key, from the top of the file down, as `app.ledger.grant[1].product`; empty when it is about the text.
    pub key: String,
    /// What is wrong. Never quotes a value that could be a secret.
    pub message: String,
}

impl fmt::Display for Problem {
    /// `apps.toml:12:3: app.ledger.status: …`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file.display(), self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}
