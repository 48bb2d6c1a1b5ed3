//! Tokens that were taken back before their end: `<state>/token-withdrawals.journal`.
//!
//! Each line is one withdrawal with a checksum in front, appended and on the disk before anybody is told that it was taken. Now
//! and then the file is replaced by what still matters.
//!
//! A line that breaks off at the end was being written when the process died, so nobody was told of it, and it is left out.
//! Anything else that is wrong is damage, and a withdrawal that was lost would let a stolen token live. So the file is kept aside
//! and everything that was issued until then is taken back: clients get a new token, and thieves do not.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::clock::Timestamp;
use crate::oauth::Withdrawal;
use crate::store::atomic_file::{self, AtomicError};
use crate::store::checked_line;

/// Why the journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TokenJournalError {
    /// The system refused something.
    #[error("cannot {step} {}", path.display())]
    Io {
        /// What was attempted, as a verb phrase that the path completes.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It could not be replaced.
    #[error(transparent)]
    Replace(#[from] AtomicError),
}

/// The journal.
#[derive(Debug)]
pub struct TokenJournal {
    path: PathBuf,
    lines: usize,
    /// Whether the file must be written anew, because a line may have gone in half.
    anew: bool,
}

/// What was found at the start.
#[derive(Debug)]
pub struct FoundWithdrawals {
    /// What is taken back.
    pub withdrawals: Vec<Withdrawal>,
    /// Where a damaged file was put.
    pub damaged: Option<PathBuf>,
}

const HEADER: &str = "postern token withdrawals 1";

/// Lines beyond twice as many as matter, before the file is written anew.
const SLACK: usize = 1000;

impl TokenJournal {
    /// Where the withdrawals of `state` stand.
    #[must_use]
    pub fn path(state: &Path) -> PathBuf {
        state.join("token-withdrawals.journal")
    }

    /// Reads what an earlier process has left in `state`.
    ///
    /// # Errors
    /// It cannot be read, or a damaged file cannot be replaced.
    pub fn open(state: &Path, now: Timestamp) -> Result<(Self, FoundWithdrawals), TokenJournalError> {
        let path = Self::path(state);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let journal = Self { path, lines: 0, anew: true };
                return Ok((journal, FoundWithdrawals { withdrawals: Vec::new(), damaged: None }));
            }
            bytes => {
                bytes.map_err(|source| TokenJournalError::Io { step: "read", path: path.clone(), source })?
            }
        };
        let (mut withdrawals, is_whole) = read(&bytes);
        let mut damaged = None;
        if !is_whole {
            let aside = path.with_file_name(format!("token-withdrawals.journal.damaged-{}", now.unix()));
            atomic_file::replace(&aside, &bytes, 0o600)?;
            withdrawals.push(Withdrawal::All { issued_until: now.unix() });
            damaged = Some(aside);
        }
        // A torn last line must not have the next one written behind it.
        let mut journal = Self { path, lines: withdrawals.len(), anew: true };
        if damaged.is_some() {
            journal.replace(&withdrawals)?;
        }
        Ok((journal, FoundWithdrawals { withdrawals, damaged }))
    }

    /// Writes `fresh` down, or all of `matter`, which contains it, where that is shorter in the long run. It is on the disk when
    /// this returns.
    ///
    /// # Errors
    /// Some of it may not be there.
    pub fn write(&mut self, fresh: &[Withdrawal], matter: &[Withdrawal]) -> Result<(), TokenJournalError> {
        if self.anew || self.lines > matter.len() * 2 + SLACK {
            return self.replace(matter);
        }
        self.anew = true;
        self.append(fresh).map_err(|source| TokenJournalError::Io {
            step: "write to",
            path: self.path.clone(),
            source,
        })?;
        self.anew = false;
        self.lines += fresh.len();
        Ok(())
    }

    fn append(&self, fresh: &[Withdrawal]) -> io::Result<()> {
        let mut text = String::new();
        fresh.iter().for_each(|withdrawal| checked_line::push(&mut text, withdrawal));
        let mut file = File::options().append(true).open(&self.path)?;
        file.write_all(text.as_bytes())?;
        file.sync_data()
    }

    fn replace(&mut self, matter: &[Withdrawal]) -> Result<(), TokenJournalError> {
        let mut text = format!("{HEADER}\n");
        matter.iter().for_each(|withdrawal| checked_line::push(&mut text, withdrawal));
        atomic_file::replace(&self.path, text.as_bytes(), 0o600)?;
        (self.lines, self.anew) = (matter.len(), false);
        Ok(())
    }
}

/// All lines whose checksum holds, and whether all of them do.
fn read(bytes: &[u8]) -> (Vec<Withdrawal>, bool) {
    let whole = memchr::memrchr(b'\n', bytes).map_or(0, |end| end + 1);
    let mut lines = bytes.get(..whole).unwrap_or_default().split_inclusive(|&byte| byte == b'\n');
    let header = lines.next().is_some_and(|line| line.trim_ascii_end() == HEADER.as_bytes());
    let found: Vec<Option<Withdrawal>> = lines.map(checked_line::read).collect();
    let is_whole = header && found.iter().all(Option::is_some);
    (found.into_iter().flatten().collect(), is_whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::FLOOR;

    fn token(jti: &str) -> Withdrawal {
        Withdrawal::Token { app: Some("web".parse().unwrap()), jti: jti.to_owned(), expires: NOW.unix() + 60 }
    }

    fn written(state: &Path) -> Vec<Withdrawal> {
        let (mut journal, found) = TokenJournal::open(state, NOW).unwrap();
        assert!(found.withdrawals.is_empty() && found.damaged.is_none());
        let all = vec![token("a"), token("b"), token("c")];
        journal.write(&all[..1], &all[..1]).unwrap();
        journal.write(&all[1..], &all).unwrap();
        all
    }

    #[test]
    fn what_was_taken_back_stays_so() {
        let state = tempfile::tempdir().unwrap();
        let all = written(state.path());

        let (mut journal, found) = TokenJournal::open(state.path(), NOW).unwrap();

        assert_eq!((found.withdrawals, found.damaged), (all, None));
        journal.write(&[token("d")], &[token("d")]).unwrap();
        assert_eq!(TokenJournal::open(state.path(), NOW).unwrap().1.withdrawals, [token("d")]);
    }

    #[test]
    fn a_line_that_breaks_off_is_left_out_and_nothing_is_written_behind_it() {
        let state = tempfile::tempdir().unwrap();
        let all = written(state.path());
        let path = TokenJournal::path(state.path());
        let bytes = fs::read(&path).unwrap();
        atomic_file::replace(&path, &bytes[..bytes.len() - 5], 0o600).unwrap();

        let (mut journal, found) = TokenJournal::open(state.path(), NOW).unwrap();

        assert_eq!((&*found.withdrawals, found.damaged), (&all[..2], None));
        let matter = [&all[..2], &[token("d")]].concat();
        journal.write(&[token("d")], &matter).unwrap();
        assert_eq!(TokenJournal::open(state.path(), NOW).unwrap().1.withdrawals, matter);
    }

    #[test]
    fn a_damaged_file_takes_back_everything_that_was_issued_until_now() {
        for spoil in [|bytes: &mut Vec<u8>| bytes[60] ^= 1, |bytes: &mut Vec<u8>| bytes.clear()] {
            let state = tempfile::tempdir().unwrap();
            written(state.path());
            let path = TokenJournal::path(state.path());
            let mut bytes = fs::read(&path).unwrap();
            spoil(&mut bytes);
            atomic_file::replace(&path, &bytes, 0o600).unwrap();

            let (_, found) = TokenJournal::open(state.path(), NOW).unwrap();

            assert!(found.withdrawals.contains(&Withdrawal::All { issued_until: NOW.unix() }));
            assert_eq!(fs::read(found.damaged.unwrap()).unwrap(), bytes);
            let again = TokenJournal::open(state.path(), NOW).unwrap().1;
            assert!(again.damaged.is_none() && !again.withdrawals.is_empty(), "it is told once");
        }
    }
}
