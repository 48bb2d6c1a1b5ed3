//! What apps have used of their limits: `<state>/limits.journal`, written by the agent while it runs and read when it starts.
//!
//! Each line is an account as it stood, with a checksum in front; the last line of an account counts. Lines are only ever
//! appended, and now and then the whole file is replaced by one line for each account that still matters.
//!
//! A line that breaks off at the end was being written when the process or the host died, and is left out. Anything else that
//! is wrong is damage: the file is kept aside under another name for whoever wants to know, every line whose checksum holds
//! is believed, and the agent starts with those. A count that was lost starts from nothing, because to refuse everybody would
//! do more harm than to let some app have its quota twice; but it is told loudly and never happens in silence.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::clock::Timestamp;
use crate::limit::Record;
use crate::store::atomic_file::{self, AtomicError};
use crate::store::checked_line;

/// Why the journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
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

/// What was found at the start.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The accounts, the last line of each coming last.
    pub records: Vec<Record>,
    /// Where a damaged file was put, or will be as soon as it can, and how many of its lines could not be believed.
    pub damage: Option<(PathBuf, usize)>,
    /// Why the journal cannot be written now; [`LimitJournal::replace`] tries again.
    pub unwritten: Option<JournalError>,
}

/// The journal, open for writing.
#[derive(Debug)]
pub struct LimitJournal {
    path: PathBuf,
    /// None while there is no file that could be written to.
    file: Option<File>,
    lines: usize,
    /// A damaged file that could not be put aside yet. Nothing takes its place before.
    damaged: Option<(PathBuf, Vec<u8>)>,
}

/// The first line, which says what the rest is.
const HEADER: &str = "postern limits 1";

impl LimitJournal {
    /// Where the limits of `state` stand.
    #[must_use]
    pub fn path(state: &Path) -> PathBuf {
        state.join("limits.journal")
    }

    /// Reads what an earlier process has left in `state`, and begins anew with what still matters at `now`. That it cannot be
    /// written, since the disk is full or read-only, keeps nobody from starting.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(state: &Path, now: Timestamp) -> Result<(Self, Recovered), JournalError> {
        let path = Self::path(state);
        let io = |step| {
            let path = path.clone();
            move |source| JournalError::Io { step, path, source }
        };
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            bytes => bytes.map_err(io("read"))?,
        };
        let (records, wrong) = read(&bytes);
        let mut recovered = Recovered { records, ..Recovered::default() };
        let mut damaged = None;
        if wrong > 0 {
            let aside = path.with_file_name(format!("limits.journal.damaged-{}", now.unix()));
            recovered.damage = Some((aside.clone(), wrong));
            damaged = Some((aside, bytes));
        }
        recovered.records.retain(|record| !record.is_over(now));
        let mut journal = Self { path, file: None, lines: 0, damaged };
        recovered.unwritten = journal.replace(&recovered.records).err();
        Ok((journal, recovered))
    }

    /// Appends accounts as they stand now. What was appended survives the end of this process, however it comes.
    ///
    /// # Errors
    /// They may have been written in part; then only [`LimitJournal::replace`] makes good.
    pub fn append(&mut self, records: &[Record]) -> Result<(), JournalError> {
        let mut text = String::new();
        records.iter().for_each(|record| checked_line::push(&mut text, record));
        let written = self.file.as_mut().map(|file| file.write_all(text.as_bytes()));
        written.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into())).map_err(self.fail("write to"))?;
        self.lines += records.len();
        Ok(())
    }

    /// Puts one line for each of `records` in place of all that was written. They are on the disk when this returns.
    ///
    /// # Errors
    /// The old lines are still there.
    pub fn replace(&mut self, records: &[Record]) -> Result<(), JournalError> {
        if let Some((aside, bytes)) = &self.damaged {
            atomic_file::replace(aside, bytes, 0o600)?;
            self.damaged = None;
        }
        let (file, lines) = begin(&self.path, records)?;
        (self.file, self.lines) = (Some(file), lines);
        Ok(())
    }

    /// Forces what was appended to the disk, so that it survives the end of the host as well.
    ///
    /// # Errors
    /// It may not be there.
    pub fn sync(&self) -> Result<(), JournalError> {
        self.file.as_ref().map_or(Ok(()), File::sync_data).map_err(self.fail("force to the disk"))
    }

    /// How many lines there are.
    #[must_use]
    pub const fn lines(&self) -> usize {
        self.lines
    }

    fn fail(&self, step: &'static str) -> impl FnOnce(io::Error) -> JournalError {
        let path = self.path.clone();
        move |source| JournalError::Io { step, path, source }
    }
}

/// A file with one line for each of `records`, open for more.
fn begin(path: &Path, records: &[Record]) -> Result<(File, usize), JournalError> {
    let mut text = format!("{HEADER}\n");
    records.iter().for_each(|record| checked_line::push(&mut text, record));
    atomic_file::replace(path, text.as_bytes(), 0o600)?;
    let opened = File::options().append(true).open(path);
    let file = opened.map_err(|source| JournalError::Io { step: "open", path: path.to_owned(), source })?;
    Ok((file, records.len()))
}

/// All records whose checksum holds, and how many lines are wrong.
fn read(bytes: &[u8]) -> (Vec<Record>, usize) {
    let whole = memchr::memrchr(b'\n', bytes).map_or(0, |end| end + 1);
    let mut lines = bytes.get(..whole).unwrap_or_default().split_inclusive(|&byte| byte == b'\n');
    let header = lines.next().map(|line| line.trim_ascii_end() == HEADER.as_bytes());
    let (mut records, mut wrong) = (Vec::new(), usize::from(header == Some(false)));
    for line in lines {
        match checked_line::read(line) {
            Some(record) => records.push(record),
            None => wrong += 1,
        }
    }
    // A file is there whole from its first line on, so one without any line end never was a journal.
    if whole == 0 && !bytes.is_empty() {
        wrong += 1;
    }
    (records, wrong)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limit::{Bill, Ledger, Limits, Line, Quota, Scope, Unit, Window};

    const NOW: Timestamp = Timestamp::FLOOR;

    /// The records of some apps that have used one of what they may use in a day.
    fn records(apps: &[&str]) -> Vec<Record> {
        let window = Window::Calendar { unit: Unit::Day, count: 1, utc_offset: 0 };
        let limits = Limits { quota: Some(Quota::new(9, window)), spike: None };
        let (ledger, product) = (Ledger::default(), "orders".parse().unwrap());
        let mut records = Vec::new();
        for app in apps {
            let line = Line { scope: Scope::Product(&product), limits: &limits };
            let app = app.parse().unwrap();
            ledger.charge(&Bill { app: &app, lines: [None, Some(line), None], weight: 1 }, NOW).unwrap();
            ledger.take_changed(|record| records.push(record));
        }
        records
    }

    fn reopened(state: &Path) -> Recovered {
        LimitJournal::open(state, NOW).unwrap().1
    }

    fn spoil(state: &Path, spoil: impl FnOnce(&mut Vec<u8>)) {
        let path = LimitJournal::path(state);
        let mut bytes = fs::read(&path).unwrap();
        spoil(&mut bytes);
        atomic_file::replace(&path, &bytes, 0o600).unwrap();
    }

    #[test]
    fn what_was_appended_is_found_again() {
        let state = tempfile::tempdir().unwrap();
        let (mut journal, found) = LimitJournal::open(state.path(), NOW).unwrap();
        assert!(found.records.is_empty() && found.damage.is_none());

        journal.append(&records(&["a", "b"])).unwrap();
        journal.append(&records(&["c"])).unwrap();
        journal.sync().unwrap();
        assert_eq!(journal.lines(), 3);

        let found = reopened(state.path());
        assert_eq!(found.records, records(&["a", "b", "c"]));
        assert!(found.damage.is_none());
        journal.replace(&records(&["c"])).unwrap();
        assert_eq!(reopened(state.path()).records, records(&["c"]));
    }

    #[test]
    fn what_is_over_is_dropped_at_the_start() {
        let state = tempfile::tempdir().unwrap();
        let (mut journal, _) = LimitJournal::open(state.path(), NOW).unwrap();
        journal.append(&records(&["a"])).unwrap();

        let (journal, found) = LimitJournal::open(state.path(), NOW + Duration::from_secs(86_400)).unwrap();

        assert!(found.records.is_empty() && found.damage.is_none());
        assert_eq!(journal.lines(), 0);
    }

    #[test]
    fn a_disk_that_cannot_be_written_keeps_nobody_from_starting() {
        let disk = tempfile::tempdir().unwrap();
        let state = disk.path().join("missing");

        let (mut journal, found) = LimitJournal::open(&state, NOW).unwrap();
        assert!(found.unwritten.is_some());
        assert!(journal.append(&records(&["web"])).is_err());
        fs::create_dir(&state).unwrap();
        journal.replace(&records(&["web"])).unwrap();

        let found = reopened(&state);
        assert!(found.unwritten.is_none());
        assert_eq!(found.records.len(), 1);
    }

    #[test]
    fn a_line_that_breaks_off_is_no_damage() {
        let state = tempfile::tempdir().unwrap();
        let (mut journal, _) = LimitJournal::open(state.path(), NOW).unwrap();
        journal.append(&records(&["a", "b"])).unwrap();

        spoil(state.path(), |bytes| bytes.truncate(bytes.len() - 5));

        let found = reopened(state.path());
        assert_eq!(found.records, records(&["a"]));
        assert!(found.damage.is_none());
    }

    #[test]
    fn a_damaged_file_is_kept_aside_and_the_rest_of_it_believed() {
        let state = tempfile::tempdir().unwrap();
        let (mut journal, _) = LimitJournal::open(state.path(), NOW).unwrap();
        journal.append(&records(&["a", "b", "c"])).unwrap();
        let at = fs::read(LimitJournal::path(state.path())).unwrap().len() / 2;

        spoil(state.path(), |bytes| bytes[at] ^= 1);

        let damaged = fs::read(LimitJournal::path(state.path())).unwrap();
        let found = reopened(state.path());
        assert_eq!(found.records, records(&["a", "c"]));
        let (aside, wrong) = found.damage.unwrap();
        assert_eq!((fs::read(aside).unwrap(), wrong), (damaged, 1));
        assert!(reopened(state.path()).damage.is_none(), "it is told once");
    }

    #[test]
    fn something_else_altogether_is_damage() {
        for text in ["rubbish", "rubbish\n", "\0\0\0\0", "postern limits 2\n"] {
            let state = tempfile::tempdir().unwrap();
            atomic_file::replace(&LimitJournal::path(state.path()), text.as_bytes(), 0o600).unwrap();

            let found = reopened(state.path());

            assert!(found.records.is_empty() && found.damage.is_some(), "{text:?}");
        }
    }
}
