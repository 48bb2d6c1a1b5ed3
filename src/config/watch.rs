//! Notices changed files, however they were changed: rename, write in place, or a symbolic link that points elsewhere.
//!
//! The system's change notices only wake us; what counts is a fingerprint of what is really there. So a lost watch costs half
//! a second, a change back costs nothing, and our own reading never counts as a change.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Without any notice, files are looked at this often.
const POLL: Duration = Duration::from_millis(500);

/// Notices are gathered for so long: a log file that grows beside the watched ones must not keep us busy.
const BREATH: Duration = Duration::from_millis(20);

/// After a change, files are left alone for this long, so that a writer can finish. One file that was put in its place whole,
/// or was closed, is finished.
const SETTLE: Duration = Duration::from_millis(40);

/// A writer that never pauses is not waited for longer than this.
const PATIENCE: Duration = Duration::from_millis(250);

/// What is watched: the files themselves, and the files that end in `.toml` in the folders.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Watched {
    /// Single files.
    pub files: Vec<PathBuf>,
    /// Folders of TOML files.
    pub folders: Vec<PathBuf>,
}

/// Sends one unit at once, for what may have changed before, and one for every change that has settled, until nobody
/// listens any more. Where the system gives no change notices, it says so in the log and works by looking.
pub async fn watch(watched: Watched, changed: mpsc::Sender<()>) {
    let (notices, received) = mpsc::channel(1);
    let bustle = SharedBustle::default();
    let watcher = notices_for(&watched, notices, Arc::clone(&bustle));
    if let Err(error) = &watcher {
        tracing::warn!(%error, every = ?POLL, "the system gives no change notices; files are looked at instead");
    }
    follow(watched, watcher.ok(), &bustle, received, changed).await;
}

/// Which files were touched since files were last told of as changed.
#[derive(Debug, Default)]
enum Bustle {
    #[default]
    None,
    /// One, which may still be written to.
    Unfinished(PathBuf),
    /// One, which was closed or put in its place whole.
    Finished(PathBuf),
    /// Several: whoever touches them may touch more.
    Several,
}

impl Bustle {
    fn note(&mut self, event: &Event) {
        let is_finished = is_closed(event) || matches!(event.kind, EventKind::Modify(ModifyKind::Name(_)));
        let one = if is_finished { Self::Finished } else { Self::Unfinished };
        for path in event.paths.iter().filter(|path| path.extension().is_some_and(|kind| kind == "toml")) {
            let is_first = match self {
                Self::None => true,
                Self::Unfinished(touched) | Self::Finished(touched) => touched == path,
                Self::Several => false,
            };
            *self = if is_first { one(path.clone()) } else { Self::Several };
        }
    }
}

fn is_closed(event: &Event) -> bool {
    event.kind == EventKind::Access(AccessKind::Close(AccessMode::Write))
}

type SharedBustle = Arc<Mutex<Bustle>>;

fn notices_for(
    watched: &Watched,
    notices: mpsc::Sender<()>,
    bustle: SharedBustle,
) -> notify::Result<notify::RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        let ours = |event: &Event| matches!(event.kind, EventKind::Access(_)) && !is_closed(event);
        if !event.as_ref().is_ok_and(ours) {
            if let Ok(event) = &event {
                bustle.lock().unwrap_or_else(PoisonError::into_inner).note(event);
            }
            // A full channel already holds a notice.
            notices.try_send(()).ok();
        }
    })?;
    let parents = watched.files.iter().filter_map(|file| file.parent());
    let folders = watched.folders.iter().map(PathBuf::as_path);
    // A folder that is swapped whole is noticed in the folder above it.
    let above = watched.folders.iter().filter_map(|folder| folder.parent());
    let places: BTreeSet<&Path> = parents.chain(folders).chain(above).collect();
    for place in places.into_iter().filter(|place| place.is_dir()) {
        watcher.watch(place, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

async fn follow(
    watched: Watched,
    watcher: Option<notify::RecommendedWatcher>,
    bustle: &Mutex<Bustle>,
    mut notices: mpsc::Receiver<()>,
    changed: mpsc::Sender<()>,
) {
    let mut seen = fingerprint(&watched);
    // What was changed after it was read, and before it was watched, is found by reading once more.
    if changed.send(()).await.is_err() {
        return;
    }
    let mut noticing = watcher.is_some();
    loop {
        tokio::select! {
            notice = notices.recv(), if noticing => {
                noticing = notice.is_some();
                tokio::time::sleep(BREATH).await;
            }
            () = tokio::time::sleep(POLL) => {}
            () = changed.closed() => return,
        }
        let touched = std::mem::take(&mut *bustle.lock().unwrap_or_else(PoisonError::into_inner));
        let now = fingerprint(&watched);
        if now == seen {
            continue;
        }
        seen = match touched {
            Bustle::Finished(_) => now,
            Bustle::None | Bustle::Several | Bustle::Unfinished(_) => settled(&watched, now).await,
        };
        if changed.send(()).await.is_err() {
            return;
        }
    }
}

/// Waits until the files stop changing, within reason.
async fn settled(watched: &Watched, mut now: u64) -> u64 {
    let mut waited = Duration::ZERO;
    loop {
        tokio::time::sleep(SETTLE).await;
        waited += SETTLE;
        let later = fingerprint(watched);
        if later == now || waited >= PATIENCE {
            return later;
        }
        now = later;
    }
}

/// What is there, by name, inode, size and time, links followed.
fn fingerprint(watched: &Watched) -> u64 {
    use std::os::unix::fs::MetadataExt;

    let mut hasher = DefaultHasher::new();
    let in_folders = watched.folders.iter().flat_map(|folder| {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
            .collect();
        files.sort();
        files
    });
    for file in watched.files.iter().cloned().chain(in_folders) {
        file.hash(&mut hasher);
        if let Ok(found) = std::fs::metadata(&file) {
            (found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec(), found.ctime_nsec())
                .hash(&mut hasher);
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder under watch; `change` is made, and must be noticed within a second.
    async fn noticed(prepare: impl Fn(&Path), change: impl Fn(&Path)) -> bool {
        let place = tempfile::tempdir().unwrap();
        prepare(place.path());
        let watched = Watched { files: Vec::new(), folders: vec![place.path().join("registry")] };
        let (sender, mut changes) = mpsc::channel(1);
        let watching = tokio::spawn(watch(watched, sender));
        changes.recv().await.unwrap();
        change(place.path());
        let noticed = tokio::time::timeout(Duration::from_secs(1), changes.recv()).await.is_ok();
        watching.abort();
        noticed
    }

    fn put(path: &Path, text: &str) {
        crate::store::atomic_file::replace(path, text.as_bytes(), 0o644).unwrap();
    }

    fn folder(place: &Path) {
        fs::create_dir(place.join("registry")).unwrap();
        put(&place.join("registry/a.toml"), "one");
    }

    #[test]
    fn one_file_is_finished_when_it_was_put_in_its_place_or_closed() {
        use notify::event::{CreateKind, DataChange, RenameMode};

        let renamed = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let created = EventKind::Create(CreateKind::File);
        let after = |events: &[(EventKind, &str)]| {
            let mut bustle = Bustle::default();
            for (kind, path) in events {
                bustle.note(&Event::new(*kind).add_path(PathBuf::from(path)));
            }
            matches!(bustle, Bustle::Finished(_))
        };

        assert!(after(&[(created, ".tmp1"), (written, ".tmp1"), (closed, ".tmp1"), (renamed, "a.toml")]));
        assert!(after(&[(created, "a.toml"), (written, "a.toml"), (closed, "a.toml")]));
        assert!(!after(&[(created, "a.toml"), (written, "a.toml")]), "it is still written to");
        assert!(!after(&[(renamed, "a.toml"), (renamed, "b.toml")]), "there may be more");
        assert!(!after(&[(renamed, "a.toml"), (renamed, "b.toml"), (renamed, "a.toml")]));
        assert!(!after(&[]));
    }

    #[tokio::test]
    async fn a_rename_is_noticed() {
        assert!(noticed(folder, |place| put(&place.join("registry/a.toml"), "two")).await);
    }

    #[tokio::test]
    async fn a_write_in_place_is_noticed() {
        use std::io::Write;

        let write = |place: &Path| {
            let mut file = fs::OpenOptions::new().append(true).open(place.join("registry/a.toml")).unwrap();
            file.write_all(b"more").unwrap();
        };
        assert!(noticed(folder, write).await);
    }

    #[tokio::test]
    async fn a_swapped_link_is_noticed() {
        let prepare = |place: &Path| {
            for (version, text) in [("v1", "one"), ("v2", "two")] {
                fs::create_dir(place.join(version)).unwrap();
                put(&place.join(version).join("a.toml"), text);
            }
            symlink("v1", place.join("registry")).unwrap();
        };
        let swap = |place: &Path| {
            symlink("v2", place.join("next")).unwrap();
            fs::rename(place.join("next"), place.join("registry")).unwrap();
        };
        assert!(noticed(prepare, swap).await);
    }

    #[tokio::test]
    async fn reading_is_no_change() {
        let read = |place: &Path| drop(fs::read(place.join("registry/a.toml")).unwrap());
        assert!(!noticed(folder, read).await);
    }
}
