//! The audit log on disk: appended to by whoever changes something, under one lock, and verified record by record.
//!
//! `log.jsonl` grows until it is put aside as `log-<number of its last record>.jsonl`; the chain goes on in the next. `head` says
//! which record was the last, so that a missing end is noticed.
//!
//! **Invariant:** a record is on the disk before [`AuditLog::append`] returns, and follows the one before. What a crash has left
//! unfinished at the end is closed and named by the next record, so it can be told from what somebody has done.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, Metadata, TryLockError};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::audit_record::{Actor, AuditEvent, AuditOutcome, AuditRecord, Chain, Head, Keyed, Link, plain};
use crate::store::atomic_file::{self, AtomicError};
use crate::store::{SecretError, SecretSource, disk};

/// How the audit log is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AuditSettings {
    /// The folder.
    pub folder: PathBuf,
    /// A file that has reached this size, in bytes, is put aside.
    pub rotate_at: u64,
    /// What records are tied together with, where others could otherwise forge the chain.
    pub key: Option<SecretSource>,
}

/// A file is put aside at this size unless something else is said.
pub const ROTATE_AT: u64 = 8 * 1024 * 1024;

/// Whoever writes or reads waits so long for others to be done, unless something else is said.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether somebody holds it for longer than a record takes is seen after this time.
const OBSTACLE_PATIENCE: Duration = Duration::from_millis(250);

/// A lock that somebody else holds is tried again after this time.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Why there is no record, or no reading of them.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Somebody else does not let go of the log.
    #[error("{} is locked by somebody else", .0.display())]
    Busy(PathBuf),
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
    /// The key of the chain cannot be read.
    #[error("the key of the audit log cannot be used")]
    Key(#[from] SecretError),
    /// The event cannot be written.
    #[error("the event cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    /// Where the log has got to could not be written.
    #[error(transparent)]
    Replace(#[from] AtomicError),
}

/// The log of one host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AuditLog {
    settings: AuditSettings,
}

/// What a verification found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verification {
    /// Whole records.
    pub records: u64,
    /// The last one.
    pub head: Option<Head>,
    /// As many of them could be made with the key only.
    pub keyed: u64,
    /// Bytes at the very end that a crash left unfinished; the next record will close them.
    pub unfinished: Option<u64>,
    /// Unfinished ends that a later record has closed.
    pub closed: u64,
    /// What does not hold, the first hundred of them.
    pub faults: Vec<String>,
    /// As many records followed the one that was expected.
    pub after_expected: Option<u64>,
}

impl AuditLog {
    /// The log that `settings` describe, which may not exist yet.
    #[must_use]
    pub const fn new(settings: AuditSettings) -> Self {
        Self { settings }
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.settings.folder
    }

    /// Appends a record of `event`, and gives the head that it makes. It is on the disk then.
    ///
    /// # Errors
    /// It could not be written; the log is as it was.
    pub fn append(&self, event: AuditEvent) -> Result<Head, AuditError> {
        self.append_within(event, PATIENCE)
    }

    /// As [`append`](Self::append), but waits no longer than `patience` for others: whoever can read the folder can lock it.
    ///
    /// # Errors
    /// It could not be written; the log is as it was.
    pub fn append_within(&self, event: AuditEvent, patience: Duration) -> Result<Head, AuditError> {
        let chain = self.chain()?;
        self.make_folder()?;
        let _lock = self.lock(Hold::Alone, patience)?;
        let owner = fs::metadata(self.folder()).map_err(self.fail("look at", self.folder()))?;
        let path = self.folder().join(CURRENT);
        let mut file = File::options()
            .create(true)
            .read(true)
            .append(true)
            .mode(0o640)
            .open(&path)
            .map_err(self.fail("open", &path))?;
        let state = file.metadata().map_err(self.fail("look at", &path))?;
        hand_over(&file, &state, &owner).map_err(self.fail("give to its folder's owner", &path))?;
        let end = End::of(&file, &chain).map_err(self.fail("read the end of", &path))?;
        let recorded = read_head(self.folder()).map_err(self.fail("read", &self.folder().join(HEAD)))?;
        // What the head knows and the file does not is missing; going on from the head leaves the gap to be seen.
        let before = [end.last, recorded].into_iter().flatten().max_by_key(|head| head.seq);
        let before = before.unwrap_or_else(Head::genesis);
        let mut text = String::new();
        let mut head = before;
        if let Some(torn) = &end.torn {
            text.push('\n');
            let closing = closing(torn, &event);
            let (line, next) = chain.link(&closing, &head)?;
            text.push_str(&line);
            text.push('\n');
            head = next;
        }
        let (line, next) = chain.link(&event.made_fit(), &head)?;
        text.push_str(&line);
        text.push('\n');
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
        if let Err(source) = written {
            // Nothing of it may stay, for it was not written.
            drop(file.set_len(state.len()));
            return Err(self.fail("append to", &path)(source));
        }
        // The record is there: what fails now is mended with the next one. Only a head that was noted lets the chain go on in
        // another file.
        let is_noted = self.note_head(&next, &owner).is_ok();
        if is_noted && state.len() + u64::try_from(text.len()).unwrap_or(u64::MAX) >= self.settings.rotate_at
        {
            let aside = self.folder().join(format!("{ASIDE}{:012}{SUFFIX}", next.seq));
            drop(fs::rename(&path, aside));
        }
        Ok(next)
    }

    /// Why nothing could be appended now, as far as that is known without trying.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        if let Err(error) = self.chain() {
            return Some(crate::causes::Causes(&error).to_string());
        }
        let folder = self.folder();
        if folder.is_dir()
            && let Err(error @ AuditError::Busy(_)) = self.lock(Hold::Alone, OBSTACLE_PATIENCE)
        {
            return Some(error.to_string());
        }
        // A path that begins here has an empty one as its last ancestor.
        let here =
            |place: &Path| if place.as_os_str().is_empty() { PathBuf::from(".") } else { place.to_owned() };
        let nearest = folder.ancestors().map(here).find(|place| place.is_dir()).unwrap_or_default();
        let told = |why: String| format!("{}: {why}", folder.display());
        match reserve(&folder.join(CURRENT)) {
            Ok(Reserved::Done) => None,
            Ok(Reserved::NoFile | Reserved::Unsupported) => disk::obstacle(&nearest).map(told),
            Err(error) => Some(told(error.to_string())),
        }
    }

    /// Goes through all records from the first to the last, without keeping anybody from writing more meanwhile. With `expected`, that hash must be among them.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn verify(&self, expected: Option<&str>) -> Result<Verification, AuditError> {
        let chain = self.chain()?;
        let Extent { parts, recorded } = self.extent()?;
        let mut walk = Walk { expected, ..Walk::default() };
        for Part { path, file, length } in parts {
            let file = file.map_or_else(|| File::open(&path), Ok).map_err(self.fail("read", &path))?;
            walk.file(&path, file.take(length), &chain).map_err(self.fail("read", &path))?;
        }
        Ok(walk.end(recorded))
    }

    /// All records that are sound by themselves, the oldest first, as far as `wanted` says.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn records(&self, wanted: impl Fn(&AuditRecord) -> bool) -> Result<Vec<AuditRecord>, AuditError> {
        let chain = self.chain()?;
        let mut records = Vec::new();
        for Part { path, file, length } in self.extent()?.parts {
            let file = file.map_or_else(|| File::open(&path), Ok).map_err(self.fail("read", &path))?;
            for line in BufReader::new(file.take(length)).split(b'\n') {
                let line = line.map_err(self.fail("read", &path))?;
                if let Ok(text) = std::str::from_utf8(&line)
                    && let Link::Sound(record, _) = chain.read(text)
                    && wanted(&record)
                {
                    records.push(*record);
                }
            }
        }
        Ok(records)
    }

    fn chain(&self) -> Result<Chain, AuditError> {
        let key = self.settings.key.as_ref().map(SecretSource::read).transpose()?;
        Ok(Chain::new(key.as_ref()))
    }

    /// How far the log goes now.
    fn extent(&self) -> Result<Extent, AuditError> {
        let _lock = if self.folder().is_dir() { Some(self.lock(Hold::Shared, PATIENCE)?) } else { None };
        let mut parts = Vec::new();
        for path in self.files()? {
            let file = File::open(&path).map_err(self.fail("read", &path))?;
            let length = file.metadata().map_err(self.fail("look at", &path))?.len();
            // The others keep their names.
            let file = Some(file).filter(|_| path.ends_with(CURRENT));
            parts.push(Part { path, file, length });
        }
        let recorded = read_head(self.folder()).map_err(self.fail("read", &self.folder().join(HEAD)))?;
        Ok(Extent { parts, recorded })
    }

    fn make_folder(&self) -> Result<(), AuditError> {
        let folder = self.folder();
        if !folder.is_dir() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o750)
                .create(folder)
                .map_err(self.fail("make", folder))?;
            let made = File::open(folder).map_err(self.fail("open", folder))?;
            let above = folder.parent().map(fs::metadata).and_then(Result::ok);
            if let (Ok(state), Some(above)) = (made.metadata(), above) {
                hand_over(&made, &state, &above).map_err(self.fail("give to its folder's owner", folder))?;
            }
        }
        Ok(())
    }

    /// Locks the folder, or gives up after `patience`.
    fn lock(&self, hold: Hold, patience: Duration) -> Result<File, AuditError> {
        let folder = self.folder();
        let lock = File::open(folder).map_err(self.fail("open", folder))?;
        let mut waited = Duration::ZERO;
        loop {
            let tried = match hold {
                Hold::Alone => lock.try_lock(),
                Hold::Shared => lock.try_lock_shared(),
            };
            match tried {
                Ok(()) => return Ok(lock),
                Err(TryLockError::Error(source)) => return Err(self.fail("lock", folder)(source)),
                Err(TryLockError::WouldBlock) if waited >= patience => {
                    return Err(AuditError::Busy(folder.to_owned()));
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            }
            waited += LOCK_PAUSE;
        }
    }

    fn note_head(&self, head: &Head, owner: &Metadata) -> Result<(), AuditError> {
        let path = self.folder().join(HEAD);
        let text = format!("{} {}\n", head.seq, head.hash);
        if path.exists() {
            return Ok(atomic_file::replace_alike(&path, text.as_bytes())?);
        }
        atomic_file::replace(&path, text.as_bytes(), 0o640)?;
        let file = File::open(&path).map_err(self.fail("open", &path))?;
        let state = file.metadata().map_err(self.fail("look at", &path))?;
        hand_over(&file, &state, owner).map_err(self.fail("give to its folder's owner", &path))
    }

    /// Its files, the oldest first.
    fn files(&self) -> Result<Vec<PathBuf>, AuditError> {
        let entries = match fs::read_dir(self.folder()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(self.fail("read", self.folder()))?,
        };
        let mut aside = Vec::new();
        for entry in entries {
            let name = entry.map_err(self.fail("read", self.folder()))?.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(ASIDE) && name.ends_with(SUFFIX) {
                aside.push(self.folder().join(&*name));
            }
        }
        aside.sort();
        let current = self.folder().join(CURRENT);
        if current.exists() {
            aside.push(current);
        }
        Ok(aside)
    }

    fn fail(&self, step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AuditError + use<> {
        let path = path.to_owned();
        move |source| AuditError::Io { step, path, source }
    }
}

/// As whom somebody locks the log.
#[derive(Clone, Copy)]
enum Hold {
    /// A writer.
    Alone,
    /// One of several readers.
    Shared,
}

/// The log as it was at one moment; what comes later is not looked at.
struct Extent {
    parts: Vec<Part>,
    recorded: Option<Head>,
}

/// A file of the log.
struct Part {
    path: PathBuf,
    /// Open already, if it may be put aside before it is read.
    file: Option<File>,
    length: u64,
}

/// Whether there is room for one more record.
enum Reserved {
    /// There is, and nobody else takes it.
    Done,
    /// There is no log yet.
    NoFile,
    /// This file system gives no promises.
    Unsupported,
}

/// Has the file system set room aside behind the end of the log, for a record is to be written after what it tells of.
fn reserve(path: &Path) -> io::Result<Reserved> {
    let file = match File::options().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Reserved::NoFile),
        file => file?,
    };
    let end = file.metadata()?.len();
    match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, end, ROOM) {
        Ok(()) => Ok(Reserved::Done),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(Reserved::Unsupported),
        Err(error) => Err(error.into()),
    }
}

/// A record is no longer, in bytes, unless its texts are of the strangest.
const ROOM: u64 = 16 * 1024;

/// What root makes belongs to whoever owns the folder, so that an agent under another user can go on with it.
fn hand_over(file: &File, state: &Metadata, owner: &Metadata) -> io::Result<()> {
    if (state.uid(), state.gid()) == (owner.uid(), owner.gid()) || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    fchown(file, Some(owner.uid()), Some(owner.gid()))
}

/// How a file ends.
struct End {
    last: Option<Head>,
    torn: Option<Vec<u8>>,
}

impl End {
    fn of(file: &File, chain: &Chain) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let from = length.saturating_sub(WINDOW);
        let mut tail = vec![0; usize::try_from(length - from).unwrap_or_default()];
        file.read_exact_at(&mut tail, from)?;
        let mut lines: Vec<&[u8]> = tail.split(|&byte| byte == b'\n').collect();
        let torn = lines.pop().filter(|rest| !rest.is_empty()).map(<[u8]>::to_vec);
        let last =
            lines.into_iter().rev().find_map(|line| match chain.read(std::str::from_utf8(line).ok()?) {
                Link::Sound(record, _) => Some(Head { seq: record.seq, hash: record.hash }),
                Link::Altered | Link::Foreign => None,
            });
        Ok(Self { last, torn })
    }
}

/// The record that closes an unfinished end.
fn closing(torn: &[u8], next: &AuditEvent) -> AuditEvent {
    let mut event = AuditEvent::new(Actor::agent(), CLOSE, "audit", AuditOutcome::Done, next.time);
    event.detail = Some(closed_by(torn));
    event
}

fn closed_by(torn: &[u8]) -> String {
    format!("{} bytes were never finished, {}", torn.len(), plain(torn))
}

fn read_head(folder: &Path) -> io::Result<Option<Head>> {
    let text = match fs::read_to_string(folder.join(HEAD)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    let head = text.trim_end().split_once(' ').and_then(|(seq, hash)| {
        Some(Head { seq: seq.parse().ok()?, hash: Some(hash).filter(|hash| hash.contains(':'))?.to_owned() })
    });
    head.map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "expected a number and a hash"))
}

/// A walk along all records.
#[derive(Default)]
struct Walk<'e> {
    expected: Option<&'e str>,
    found: Verification,
    last: Option<Head>,
    /// A line that is no record, and where; the record after it may say that it was never finished.
    suspect: Option<(String, Vec<u8>)>,
    /// The hashes seen last, to be held against the head on file.
    recent: VecDeque<Head>,
    saw_key: bool,
}

impl Walk<'_> {
    fn file(&mut self, path: &Path, file: impl io::Read, chain: &Chain) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        for number in 1_u64.. {
            line.clear();
            let mut bounded = (&mut reader).take(LONGEST_LINE);
            if bounded.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let place = format!("{name}:{number}");
            match line.strip_suffix(b"\n") {
                Some(whole) => self.line(&place, whole, chain),
                None if u64::try_from(line.len()).is_ok_and(|length| length == LONGEST_LINE) => {
                    self.fault(format!("{place}: the line is longer than any record"));
                    break;
                }
                None => self.found.unfinished = u64::try_from(line.len()).ok(),
            }
        }
        Ok(())
    }

    fn line(&mut self, place: &str, line: &[u8], chain: &Chain) {
        if self.found.unfinished.take().is_some() {
            self.fault(format!("{place}: the file before it has no end"));
        }
        let link = std::str::from_utf8(line).map_or(Link::Foreign, |text| chain.read(text));
        let Link::Sound(record, keyed) = link else {
            self.settle(None);
            let what = if link == Link::Altered { "the record was changed" } else { "this is no record" };
            self.suspect = Some((format!("{place}: {what}"), line.to_vec()));
            return;
        };
        let altered_before = self.settle(Some(&record));
        let last = self.last.clone().unwrap_or_else(Head::genesis);
        let what = format!("record {}", record.seq);
        if record.seq == last.seq + 1 && record.prev != last.hash {
            self.fault(format!("{place}: {what} does not follow the one before: one of both was changed"));
        } else if record.seq > last.seq + 1 && !(altered_before && record.seq == last.seq + 2) {
            let (from, to) = (last.seq + 1, record.seq - 1);
            self.fault(format!("{place}: records {from} to {to} are missing before {what}"));
        } else if record.seq <= last.seq {
            self.fault(format!("{place}: {what} stands behind record {}: moved, or written twice", last.seq));
        }
        match keyed {
            Keyed::No if self.saw_key => {
                self.fault(format!("{place}: {what} was made without the key, after others that were"));
            }
            Keyed::No => (),
            Keyed::Unchecked | Keyed::Yes => {
                self.saw_key = true;
                self.found.keyed += 1;
            }
        }
        self.found.records += 1;
        if let Some(after) = &mut self.found.after_expected {
            *after += 1;
        } else if self.expected == Some(record.hash.as_str()) {
            self.found.after_expected = Some(0);
        }
        let head = Head { seq: record.seq, hash: record.hash };
        self.recent.push_back(head.clone());
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        self.last = Some(head);
    }

    /// Decides about a suspect line by the record that follows; whether there was one that counts as a changed record.
    fn settle(&mut self, next: Option<&AuditRecord>) -> bool {
        let Some((fault, bytes)) = self.suspect.take() else { return false };
        let closes = |record: &AuditRecord| {
            record.event.verb == CLOSE && record.event.detail.as_deref() == Some(closed_by(&bytes).as_str())
        };
        if next.is_some_and(closes) {
            self.found.closed += 1;
            return false;
        }
        self.fault(fault);
        true
    }

    fn end(mut self, recorded: Option<Head>) -> Verification {
        self.settle(None);
        let last = self.last.as_ref().map_or(0, |head| head.seq);
        match recorded {
            Some(head) if head.seq > last => {
                self.fault(format!("records {} to {} are missing at the end", last + 1, head.seq));
            }
            Some(head) if self.recent.iter().any(|one| one.seq == head.seq && *one != head) => {
                self.fault(format!("record {} is not the one that was written last", head.seq));
            }
            None if last > 0 => self.fault("`head`, which says how far the log goes, is missing".to_owned()),
            Some(_) | None => (),
        }
        if let (Some(expected), None) = (self.expected, self.found.after_expected) {
            self.fault(format!("no record has the hash {expected}: the log was cut or written anew"));
        }
        self.found.head = self.last;
        self.found
    }

    fn fault(&mut self, fault: String) {
        if self.found.faults.len() < MOST_FAULTS {
            self.found.faults.push(fault);
        }
    }
}

const CURRENT: &str = "log.jsonl";
const ASIDE: &str = "log-";
const SUFFIX: &str = ".jsonl";
const HEAD: &str = "head";
const CLOSE: &str = "audit.close";

/// The last record lies within so many bytes of the end: its texts are bounded, and JSON makes at most six bytes of one.
const WINDOW: u64 = 256 * 1024;
const LONGEST_LINE: u64 = 128 * 1024;
const MOST_FAULTS: usize = 100;
const RECENT: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    struct World {
        place: tempfile::TempDir,
        log: AuditLog,
    }

    impl World {
        fn new(rotate_at: u64) -> Self {
            let place = tempfile::tempdir().unwrap();
            let settings = AuditSettings { folder: place.path().join("audit"), rotate_at, key: None };
            Self { place, log: AuditLog::new(settings) }
        }

        fn with(records: usize) -> Self {
            let world = Self::new(ROTATE_AT);
            (0..records).for_each(|number| drop(world.append(&format!("app:a{number}"))));
            world
        }

        fn append(&self, target: &str) -> Head {
            let event =
                AuditEvent::new(Actor::agent(), "app.create", target, AuditOutcome::Done, Timestamp::FLOOR);
            self.log.append(event).unwrap()
        }

        fn path(&self) -> PathBuf {
            self.place.path().join("audit/log.jsonl")
        }

        fn lines(&self) -> Vec<String> {
            fs::read_to_string(self.path()).unwrap().lines().map(str::to_owned).collect()
        }

        fn write(&self, lines: &[String]) {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            atomic_file::replace(&self.path(), text.as_bytes(), 0o640).unwrap();
        }

        fn faults(&self) -> Vec<String> {
            self.log.verify(None).unwrap().faults
        }
    }

    #[test]
    fn a_log_that_nobody_touched_holds() {
        let world = World::with(3);

        let found = world.log.verify(None).unwrap();

        assert_eq!((found.records, found.unfinished, found.faults), (3, None, Vec::new()));
        assert_eq!(found.head, Some(world.log.verify(None).unwrap().head.unwrap()));
        assert_eq!(World::with(0).log.verify(None).unwrap().records, 0);
    }

    #[test]
    fn a_changed_record_is_found() {
        let world = World::with(3);
        let mut lines = world.lines();
        lines[1] = lines[1].replace("app:a1", "app:a9");
        world.write(&lines);

        assert_eq!(world.faults(), ["log.jsonl:2: the record was changed"]);
    }

    #[test]
    fn a_record_that_was_forged_whole_is_found_by_its_neighbours() {
        let world = World::with(3);
        let mut lines = world.lines();
        let chain = Chain::new(None);
        let Link::Sound(mut forged, _) = chain.read(&lines[1]) else { panic!("{lines:?}") };
        forged.event.target = "app:a9".to_owned();
        let before = Head { seq: 1, hash: forged.prev.clone() };
        lines[1] = chain.link(&forged.event, &before).unwrap().0;
        world.write(&lines);

        let faults = world.faults();
        assert_eq!(faults.len(), 1);
        assert!(faults[0].starts_with("log.jsonl:3: record 3 does not follow"), "{faults:?}");
    }

    #[test]
    fn a_removed_record_is_found() {
        let world = World::with(4);
        let mut lines = world.lines();
        lines.remove(1);
        world.write(&lines);

        assert_eq!(world.faults(), ["log.jsonl:2: records 2 to 2 are missing before record 3"]);
    }

    #[test]
    fn records_in_another_order_are_found() {
        let world = World::with(3);
        let mut lines = world.lines();
        lines.swap(1, 2);
        world.write(&lines);

        assert!(!world.faults().is_empty());
    }

    #[test]
    fn a_missing_end_is_found() {
        let world = World::with(3);
        let mut lines = world.lines();
        lines.pop();
        world.write(&lines);

        assert_eq!(world.faults(), ["records 3 to 3 are missing at the end"]);
    }

    #[test]
    fn an_end_that_a_crash_left_unfinished_is_no_tampering_and_is_closed_by_the_next_record() {
        let world = World::with(3);
        let lines = world.lines();
        let torn = format!("{}\n{}\n{}", lines[0], lines[1], &lines[2][..40]);
        atomic_file::replace(&world.path(), torn.as_bytes(), 0o640).unwrap();
        // The crash came before the record was finished, so the head never spoke of it.
        let Link::Sound(second, _) = Chain::new(None).read(&lines[1]) else { panic!("{lines:?}") };
        let head = format!("2 {}\n", second.hash);
        atomic_file::replace(&world.place.path().join("audit/head"), head.as_bytes(), 0o640).unwrap();

        let found = world.log.verify(None).unwrap();
        assert_eq!((found.records, found.unfinished, found.faults), (2, Some(40), Vec::new()));

        assert_eq!(world.append("app:a4").seq, 4);
        let found = world.log.verify(None).unwrap();
        assert_eq!((found.records, found.closed, found.unfinished), (4, 1, None));
        assert_eq!(found.faults, Vec::<String>::new());
    }

    #[test]
    fn the_chain_goes_on_in_the_next_file() {
        let world = World::new(600);
        let heads: Vec<Head> = (0..9).map(|number| world.append(&format!("app:a{number}"))).collect();

        let files = world.log.files().unwrap();
        assert!(files.len() > 2, "{files:?}");
        let found = world.log.verify(Some(&heads[4].hash)).unwrap();
        assert_eq!((found.records, found.faults), (9, Vec::new()));
        assert_eq!((found.head.unwrap(), found.after_expected), (heads[8].clone(), Some(4)));

        fs::remove_file(&files[1]).unwrap();
        assert!(world.faults()[0].contains("are missing before record"), "{:?}", world.faults());
    }

    #[test]
    fn a_log_that_was_written_anew_is_found_by_its_anchor() {
        let world = World::with(3);
        let anchor = world.append("app:x").hash;
        assert_eq!(world.log.verify(Some(&anchor)).unwrap().faults, Vec::<String>::new());

        let other = World::with(5);

        let faults = other.log.verify(Some(&anchor)).unwrap().faults;
        assert!(faults[0].contains("no record has the hash"), "{faults:?}");
    }

    #[test]
    fn records_that_are_written_at_the_same_time_make_one_chain() {
        let world = World::new(900);

        std::thread::scope(|scope| {
            for number in 0..8 {
                let world = &world;
                scope.spawn(move || (0..5).for_each(|_| drop(world.append(&format!("app:a{number}")))));
            }
        });

        let found = world.log.verify(None).unwrap();
        assert_eq!((found.records, found.faults), (40, Vec::new()));
    }

    #[test]
    fn whoever_holds_the_lock_cannot_keep_a_writer_for_long() {
        let world = World::with(1);
        let event =
            || AuditEvent::new(Actor::agent(), "app.create", "app:a", AuditOutcome::Done, Timestamp::FLOOR);
        world.log.append_within(event(), Duration::ZERO).unwrap();
        assert_eq!(world.log.obstacle(), None);
        let reader = File::open(world.log.folder()).unwrap();
        reader.lock_shared().unwrap();

        let error = world.log.append_within(event(), Duration::from_millis(20)).unwrap_err();

        assert!(matches!(error, AuditError::Busy(_)), "{error}");
        assert!(world.log.obstacle().unwrap().ends_with("is locked by somebody else"));
        assert_eq!(world.log.verify(None).unwrap().records, 2);
        drop(reader);
        world.log.append_within(event(), Duration::ZERO).unwrap();
    }

    #[test]
    fn a_log_that_grows_and_is_put_aside_while_it_is_read_is_read_as_it_was() {
        let world = World::new(600);
        (0..4).for_each(|number| drop(world.append(&format!("app:a{number}"))));
        let chain = world.log.chain().unwrap();

        let extent = world.log.extent().unwrap();
        (4..9).for_each(|number| drop(world.append(&format!("app:a{number}"))));

        let mut walk = Walk::default();
        for Part { path, file, length } in extent.parts {
            let file = file.unwrap_or_else(|| File::open(&path).unwrap());
            walk.file(&path, file.take(length), &chain).unwrap();
        }
        let found = walk.end(extent.recorded);
        assert_eq!((found.records, found.faults), (4, Vec::new()));
    }

    #[test]
    fn what_cannot_be_written_is_said() {
        let place = tempfile::tempdir().unwrap();
        let settings =
            AuditSettings { folder: place.path().join("file/audit"), rotate_at: ROTATE_AT, key: None };
        atomic_file::replace(&place.path().join("file"), b"", 0o600).unwrap();
        let event =
            AuditEvent::new(Actor::agent(), "app.create", "app:a", AuditOutcome::Done, Timestamp::FLOOR);

        let error = AuditLog::new(settings).append(event).unwrap_err();

        assert!(error.to_string().starts_with("cannot make"), "{error}");
    }

    #[test]
    fn all_records_can_be_read() {
        let world = World::with(3);

        let found = world.log.records(|record| record.event.target == "app:a1").unwrap();

        assert_eq!(found.iter().map(|record| record.seq).collect::<Vec<_>>(), [2]);
    }
}
