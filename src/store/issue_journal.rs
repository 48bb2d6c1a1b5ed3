//! Which leaves were issued here and have not expired: `<state>/issued.journal`, one line each.
//!
//! ```text
//! since 1795507200 c0ffee00
//! leaf 01ab… 5e7d… spiffe://postern.test/web 05c3ef2308cce75d 1795510800 1badcafe
//! ```
//!
//! A revocation list names serial numbers, and only who keeps this knows the ones of a revoked key or identity. The last word of
//! a line is the CRC-32 of what stands before it. Lines are appended; the file is written anew at the start and whenever most of
//! its lines are about leaves that have expired.
//!
//! **Invariant:** the journal never stands in the way of issuing. What cannot be written is kept in memory and written later,
//! and a damaged line costs only itself; but then `since`, from when on the journal is complete, moves to now.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::HEXLOWER;

use crate::causes::Causes;
use crate::clock::Timestamp;
use crate::id::AuthorityId;
use crate::pki::IssuedLeaf;
use crate::store::atomic_file::{self, AtomicError};

/// The journal of one CA.
#[derive(Debug)]
pub struct IssueJournal {
    path: PathBuf,
    leaves: BTreeMap<String, IssuedLeaf>,
    since: Timestamp,
    /// Lines in the file, also about what has expired.
    lines: usize,
    /// What is not in the file yet.
    unwritten: Vec<String>,
    /// Whether the file must be written anew before anything is appended.
    is_broken: bool,
    failure: Option<Failure>,
}

/// Why the journal could not be written, and when.
#[derive(Clone, Debug)]
struct Failure {
    at: Timestamp,
    reason: String,
}

/// Why a journal cannot be written.
#[derive(Debug, thiserror::Error)]
enum JournalError {
    #[error("cannot append to {}", path.display())]
    Append {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Replace(#[from] AtomicError),
}

/// More leaves than this are not remembered; the one that expires first goes.
const MOST_LEAVES: usize = 65_536;

/// A file is not read further back from its end than this; that many lines do not take more.
const MOST_BYTES: u64 = 32 * 1024 * 1024;

/// So many lines about expired leaves are left alone.
const SLACK: usize = 256;

/// After a failure the next attempt to write waits this long.
const PAUSE: Duration = Duration::from_secs(5);

impl IssueJournal {
    /// The journal in `state`, without what expired longer than `kept` ago. Whatever is wrong with the file is told in the log.
    #[must_use]
    pub fn open(state: &Path, kept: Duration, now: Timestamp) -> Self {
        let path = path(state);
        let mut journal = Self {
            path,
            leaves: BTreeMap::new(),
            since: now,
            lines: 0,
            unwritten: Vec::new(),
            is_broken: true,
            failure: None,
        };
        match read_tail(&journal.path) {
            Ok(None) => (),
            Ok(Some(bytes)) => journal.take_in(&bytes, now),
            Err(error) => {
                let path = journal.path.display();
                tracing::warn!(%error, %path, "the journal of issued certificates cannot be read");
            }
        }
        journal.forget(kept, now);
        journal
    }

    /// All leaves that are remembered.
    pub fn leaves(&self) -> impl Iterator<Item = &IssuedLeaf> {
        self.leaves.values()
    }

    /// When the last leaf that `authority` has signed since `made` expires; `None` if not everything since then is known.
    #[must_use]
    pub fn last_leaf_of(&self, authority: &AuthorityId, made: Timestamp) -> Option<Timestamp> {
        if made < self.since {
            return None;
        }
        let ends = self.leaves.values().filter(|leaf| leaf.authority == *authority);
        Some(ends.map(|leaf| leaf.not_after).fold(made, Timestamp::max))
    }

    /// Remembers a leaf. It is in the file after the next [`Self::flush`].
    pub fn note(&mut self, leaf: IssuedLeaf) {
        self.unwritten.push(line_of(&leaf));
        self.leaves.insert(leaf.serial.clone(), leaf);
        if self.leaves.len() > MOST_LEAVES {
            let first =
                self.leaves.values().min_by_key(|leaf| leaf.not_after).map(|leaf| leaf.serial.clone());
            if let Some(first) = first {
                self.leaves.remove(&first);
            }
        }
    }

    /// Writes what was noted. After a failure it is tried again, but not at once.
    pub fn flush(&mut self, kept: Duration, now: Timestamp) {
        let waits =
            self.failure.as_ref().is_some_and(|failure| failure.at <= now && now < failure.at + PAUSE);
        let stale = self.lines > 2 * self.leaves.len() + SLACK;
        if waits || self.unwritten.is_empty() && !self.is_broken && !stale {
            return;
        }
        let outcome = if self.is_broken || stale {
            self.forget(kept, now);
            self.rewrite()
        } else {
            self.append()
        };
        match outcome {
            Ok(()) => {
                self.unwritten.clear();
                self.failure = None;
            }
            Err(error) => {
                // Half a line may be there, which must not be continued.
                self.is_broken = true;
                let reason = Causes(&error).to_string();
                if self.failure.is_none() {
                    tracing::error!(reason, "issued certificates cannot be written down");
                }
                self.unwritten.clear();
                self.failure = Some(Failure { at: now, reason });
            }
        }
    }

    /// Why the file is not what it should be, if so.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_ref().map(|failure| failure.reason.as_str())
    }

    fn take_in(&mut self, bytes: &[u8], now: Timestamp) {
        let (mut since, mut bad) = (None, 0_usize);
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        for line in bytes.get(..whole).unwrap_or_default().split(|&byte| byte == b'\n') {
            match std::str::from_utf8(line).ok().and_then(checked) {
                _ if line.is_empty() => continue,
                Some(Line::Leaf(leaf)) => drop(self.leaves.insert(leaf.serial.clone(), leaf)),
                Some(Line::Since(at)) => since = Some(at),
                None => bad += 1,
            }
            self.lines += 1;
        }
        // The end of a line that was being written when the agent was killed is no damage: nobody had that leaf yet.
        let torn = whole < bytes.len();
        if bad > 0 {
            let path = self.path.display();
            tracing::warn!(%path, lines = bad, "the journal of issued certificates has damaged lines");
        }
        self.since = since.filter(|_| bad == 0).unwrap_or(now);
        self.is_broken = torn || bad > 0 || since.is_none();
    }

    fn forget(&mut self, kept: Duration, now: Timestamp) {
        self.leaves.retain(|_, leaf| now <= leaf.not_after + kept);
    }

    fn append(&mut self) -> Result<(), JournalError> {
        let fail = |source| JournalError::Append { path: self.path.clone(), source };
        let mut file = File::options().append(true).mode(MODE).open(&self.path).map_err(fail)?;
        file.write_all(self.unwritten.concat().as_bytes()).and_then(|()| file.sync_data()).map_err(fail)?;
        self.lines += self.unwritten.len();
        Ok(())
    }

    fn rewrite(&mut self) -> Result<(), JournalError> {
        let mut text = with_checksum(&format!("since {}", self.since.unix()));
        self.leaves.values().for_each(|leaf| text.push_str(&line_of(leaf)));
        atomic_file::replace(&self.path, text.as_bytes(), MODE)?;
        self.lines = self.leaves.len() + 1;
        self.is_broken = false;
        Ok(())
    }
}

/// Where the journal of `state` stands.
fn path(state: &Path) -> PathBuf {
    state.join("issued.journal")
}

const MODE: u32 = 0o600;

enum Line {
    Leaf(IssuedLeaf),
    Since(Timestamp),
}

/// The end of a file, as much of it as counts; `None` if there is none.
fn read_tail(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let length = file.metadata()?.len();
    let mut bytes = Vec::new();
    // What begins in the middle of a line is found to be damaged, and the rest to lack its beginning.
    file.seek(SeekFrom::Start(length.saturating_sub(MOST_BYTES)))?;
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn line_of(leaf: &IssuedLeaf) -> String {
    let IssuedLeaf { serial, spki_sha256, spiffe_id, authority, not_after } = leaf;
    let spki = HEXLOWER.encode(spki_sha256);
    with_checksum(&format!("leaf {serial} {spki} {spiffe_id} {authority} {}", not_after.unix()))
}

fn with_checksum(text: &str) -> String {
    format!("{text} {:08x}\n", crc32fast::hash(text.as_bytes()))
}

fn checked(line: &str) -> Option<Line> {
    let (text, checksum) = line.rsplit_once(' ')?;
    if u32::from_str_radix(checksum, 16).ok()? != crc32fast::hash(text.as_bytes()) {
        return None;
    }
    match text.split(' ').collect::<Vec<_>>().as_slice() {
        ["since", at] => Some(Line::Since(Timestamp::from_unix(at.parse().ok()?))),
        ["leaf", serial, spki, spiffe_id, authority, not_after] => Some(Line::Leaf(IssuedLeaf {
            serial: (*serial).to_owned(),
            spki_sha256: HEXLOWER.decode(spki.as_bytes()).ok()?.try_into().ok()?,
            spiffe_id: spiffe_id.parse().ok()?,
            authority: authority.parse().ok()?,
            not_after: Timestamp::from_unix(not_after.parse().ok()?),
        })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const KEPT: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> Timestamp {
        "2026-11-24T12:00:00Z".parse().unwrap()
    }

    fn leaf(number: u32, not_after: Timestamp) -> IssuedLeaf {
        IssuedLeaf {
            serial: format!("01{number:08x}"),
            spki_sha256: [7; 32],
            spiffe_id: "spiffe://postern.test/web".parse().unwrap(),
            authority: "05c3ef2308cce75d".parse().unwrap(),
            not_after,
        }
    }

    fn open(state: &Path) -> IssueJournal {
        IssueJournal::open(state, KEPT, now())
    }

    /// A state directory whose journal has three leaves.
    fn three() -> tempfile::TempDir {
        let state = tempfile::tempdir().unwrap();
        let mut journal = open(state.path());
        for number in 0..3 {
            journal.note(leaf(number, now() + HOUR));
            journal.flush(KEPT, now());
        }
        assert_eq!(journal.failure(), None);
        state
    }

    fn overwrite(state: &Path, bytes: &[u8]) {
        atomic_file::replace(&path(state), bytes, MODE).unwrap();
    }

    fn authority() -> AuthorityId {
        "05c3ef2308cce75d".parse().unwrap()
    }

    #[test]
    fn what_was_issued_is_known_after_a_restart() {
        let state = three();
        let journal = open(state.path());

        assert_eq!(journal.leaves().cloned().collect::<Vec<_>>(), [0, 1, 2].map(|n| leaf(n, now() + HOUR)));
        assert_eq!(journal.last_leaf_of(&authority(), now()), Some(now() + HOUR));
        assert_eq!(journal.last_leaf_of(&authority(), now() - HOUR), None, "nothing is known of before");
    }

    #[test]
    fn a_line_that_was_cut_short_costs_only_itself_and_is_not_continued() {
        let state = three();
        let whole = fs::read(path(state.path())).unwrap();
        for cut in 1..80 {
            overwrite(state.path(), &whole[..whole.len() - cut]);
            let mut journal = open(state.path());
            assert_eq!(journal.leaves().count(), 2, "{cut}");
            assert!(journal.last_leaf_of(&authority(), now()).is_some(), "it is complete: {cut}");

            journal.note(leaf(9, now() + HOUR));
            journal.flush(KEPT, now());

            assert_eq!(open(state.path()).leaves().count(), 3, "{cut}");
        }
    }

    #[test]
    fn a_damaged_line_costs_itself_and_the_belief_that_all_is_known() {
        let state = three();
        let text = fs::read_to_string(path(state.path())).unwrap();
        overwrite(state.path(), text.replace("0100000001 ", "0100000008 ").as_bytes());

        let later = now() + KEPT;
        let journal = IssueJournal::open(state.path(), KEPT, later);

        assert_eq!(journal.leaves().count(), 2);
        assert_eq!(journal.last_leaf_of(&authority(), now()), None);
        assert!(journal.last_leaf_of(&authority(), later).is_some());
    }

    #[test]
    fn what_is_no_journal_is_replaced_by_one() {
        for bytes in
            [&b""[..], b"\n\n\n", b"\xff\xfe\x00", b"<html>\n</html>\n", b"since\n", b"leaf a b c d e f\n"]
        {
            let state = tempfile::tempdir().unwrap();
            overwrite(state.path(), bytes);
            let mut journal = open(state.path());
            journal.note(leaf(1, now() + HOUR));
            journal.flush(KEPT, now());

            assert_eq!(open(state.path()).leaves().count(), 1, "{bytes:?}");
        }
    }

    #[test]
    fn expired_leaves_are_forgotten_a_while_later_and_leave_the_file() {
        let state = tempfile::tempdir().unwrap();
        let mut journal = open(state.path());
        for number in 0..2000 {
            journal.note(leaf(number, now()));
            journal.flush(KEPT, now());
        }
        journal.note(leaf(5000, now() + HOUR));
        journal.flush(KEPT, now() + KEPT);
        assert_eq!(journal.leaves().count(), 2001);

        for number in 6000..6300 {
            journal.note(leaf(number, now() + HOUR));
            journal.flush(KEPT, now() + KEPT * 2);
        }

        let reopened = IssueJournal::open(state.path(), KEPT, now() + KEPT * 2);
        assert_eq!(reopened.leaves().count(), 301);
    }

    #[test]
    fn memory_is_bounded_and_the_last_to_expire_stays() {
        let state = tempfile::tempdir().unwrap();
        let mut journal = open(state.path());
        let most = u32::try_from(MOST_LEAVES).unwrap();
        journal.note(leaf(most, now() + HOUR));
        journal.note(leaf(most + 1, now()));
        for number in 0..most - 2 {
            journal.leaves.insert(number.to_string(), leaf(number, now() + HOUR));
        }

        journal.note(leaf(most + 2, now() + HOUR));

        assert_eq!(journal.leaves.len(), MOST_LEAVES);
        assert!(!journal.leaves.contains_key(&leaf(most + 1, now()).serial));
    }

    #[test]
    fn a_file_that_is_too_large_is_read_from_its_end() {
        let state = three();
        let mut text = fs::read_to_string(path(state.path())).unwrap();
        let filler = "x".repeat(usize::try_from(MOST_BYTES).unwrap());
        text.insert_str(0, &format!("{filler}\n"));
        overwrite(state.path(), text.as_bytes());

        let journal = open(state.path());

        assert_eq!(journal.leaves().count(), 3);
        assert_eq!(journal.last_leaf_of(&authority(), now() - HOUR), None);
    }

    #[test]
    fn what_cannot_be_written_is_remembered_and_written_later() {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir(path(state.path())).unwrap();
        let mut journal = open(state.path());
        journal.note(leaf(1, now() + HOUR));
        journal.flush(KEPT, now());
        assert!(journal.failure().unwrap().contains("issued.journal"), "{:?}", journal.failure());
        assert_eq!(journal.leaves().count(), 1);
        fs::remove_dir(path(state.path())).unwrap();

        journal.flush(KEPT, now());
        assert!(journal.failure().is_some(), "not at once");
        journal.flush(KEPT, now() + PAUSE);

        assert_eq!(journal.failure(), None);
        assert_eq!(open(state.path()).leaves().count(), 1);
    }
}
