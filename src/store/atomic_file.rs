//! Replaces a file so that every reader, and every restart, sees the old content whole or the new content whole.
//!
//! The new content goes to a temporary file in the same directory, is forced to the disk, takes the old file's name in one
//! step, and that step is forced to the disk as well. Whoever pulls the plug in between finds the old file, and at worst a
//! temporary file beside it that nobody reads.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Why a file could not be replaced. The old one is still there unless `step` says otherwise.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}", path.display())]
pub struct AtomicError {
    /// The file that was to be replaced.
    pub path: PathBuf,
    /// What failed, as a verb phrase that the path completes.
    pub step: &'static str,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Makes `path` hold exactly `bytes` with permission bits `mode`, whole or not at all.
///
/// The content is never readable under wider permissions than `mode`, not even for an instant.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), AtomicError> {
    replace_in_steps(path, bytes, mode, &|_| Ok(()))
}

/// [`replace`] for a file that exists and keeps its owner, its group and its mode. A link stays, what it leads to is replaced.
pub fn replace_alike(path: &Path, bytes: &[u8]) -> Result<(), AtomicError> {
    let fail = |step: &'static str| move |source| AtomicError { path: path.to_owned(), step, source };
    let target = fs::canonicalize(path).map_err(fail("find"))?;
    let former = fs::metadata(&target).map_err(fail("look at"))?;
    let temporary = create_beside(&target).map_err(fail("write a temporary file beside"))?;
    let written = keep_owner(temporary.as_file(), &former)
        .map_err(fail("keep the owner of"))
        .and_then(|()| {
            write_whole(temporary.as_file(), bytes, former.mode() & 0o7777, &|_| Ok(()))
                .map_err(fail("write a temporary file beside"))
        })
        .and_then(|()| {
            fs::rename(temporary.path(), &target).map_err(fail("put the new content in place of"))
        });
    if written.is_err() {
        drop(fs::remove_file(temporary.path()));
        return written;
    }
    sync_directory(parent_of(&target), &|_| Ok(())).map_err(fail("force to the disk the new name of"))
}

/// [`replace`] for a file that does not exist yet: it gets the owner and the group of its folder, and the mode 0640.
pub fn create_alike(path: &Path, bytes: &[u8]) -> Result<(), AtomicError> {
    let fail = |step: &'static str| move |source| AtomicError { path: path.to_owned(), step, source };
    let folder = fs::metadata(parent_of(path)).map_err(fail("look at the folder of"))?;
    let owner = if rustix::process::geteuid().is_root() {
        Owner { user: Some(folder.uid()), group: Some(folder.gid()) }
    } else {
        Owner::default()
    };
    replace_owned(path, bytes, 0o640, owner)
}

/// Whose a new file is to be; what is not said stays the process's own.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Owner {
    /// The number of its group.
    pub group: Option<u32>,
    /// The number of its user.
    pub user: Option<u32>,
}

/// [`replace`] for a file that is to be `owner`'s.
///
/// It is given away before it gets its name, and by its handle: whoever owns the folder could put a link in place of a name,
/// and would be given what that leads to.
pub fn replace_owned(path: &Path, bytes: &[u8], mode: u32, owner: Owner) -> Result<(), AtomicError> {
    replace_file(path, bytes, (mode, owner), &|_| Ok(()))
}

fn give(file: &File, owner: Owner) -> io::Result<()> {
    if owner == Owner::default() {
        return Ok(());
    }
    std::os::unix::fs::fchown(file, owner.user, owner.group)
}

fn keep_owner(file: &File, former: &fs::Metadata) -> io::Result<()> {
    let own = file.metadata()?;
    if (own.uid(), own.gid()) == (former.uid(), former.gid()) {
        return Ok(());
    }
    std::os::unix::fs::fchown(file, Some(former.uid()), Some(former.gid()))
}

/// Asked before every step that changes the disk; a test answers with an error to stop the world there.
pub(crate) type Gate<'a> = dyn Fn(&'static str) -> io::Result<()> + Send + Sync + 'a;

/// [`replace`], asking `gate` before every step.
pub(super) fn replace_in_steps(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    gate: &Gate<'_>,
) -> Result<(), AtomicError> {
    replace_file(path, bytes, (mode, Owner::default()), gate)
}

fn replace_file(
    path: &Path,
    bytes: &[u8],
    (mode, owner): (u32, Owner),
    gate: &Gate<'_>,
) -> Result<(), AtomicError> {
    let fail = |step: &'static str| move |source| AtomicError { path: path.to_owned(), step, source };
    let parent = parent_of(path);

    gate("create temporary").map_err(fail("write a temporary file beside"))?;
    let temporary = create_beside(path).map_err(fail("write a temporary file beside"))?;
    let written = give(temporary.as_file(), owner)
        .map_err(fail("give to its owner"))
        .and_then(|()| {
            write_whole(temporary.as_file(), bytes, mode, gate).map_err(fail("write a temporary file beside"))
        })
        .and_then(|()| {
            gate("rename file")
                .and_then(|()| fs::rename(temporary.path(), path))
                .map_err(fail("put the new content in place of"))
        });
    if let Err(error) = written {
        if gate("remove temporary").is_ok() {
            drop(fs::remove_file(temporary.path()));
        }
        return Err(error);
    }
    sync_directory(parent, gate).map_err(fail("force to the disk the new name of"))
}

/// Creates `path`, which must not exist, with exactly `bytes` and `mode`, and forces the content to the disk.
///
/// Only for files in a directory that nobody knows yet: a crash leaves a torn file.
pub(super) fn create_in_steps(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    gate: &Gate<'_>,
) -> Result<(), AtomicError> {
    let fail = |source| AtomicError { path: path.to_owned(), step: "create", source };
    gate("create file").map_err(fail)?;
    let file = private(File::options().write(true).create_new(true)).open(path).map_err(fail)?;
    write_whole(&file, bytes, mode, gate).map_err(fail)
}

/// Forces a file's content to the disk.
pub(super) fn sync_file(file: &Path, gate: &Gate<'_>) -> io::Result<()> {
    gate("sync file")?;
    File::open(file)?.sync_all()
}

/// Forces a directory's list of names to the disk.
pub(super) fn sync_directory(directory: &Path, gate: &Gate<'_>) -> io::Result<()> {
    gate("sync directory")?;
    File::open(directory)?.sync_all()
}

fn create_beside(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    // Cleaning up is a step of its own above; the crate's would run behind the gate's back.
    tempfile::Builder::new().prefix(&prefix).disable_cleanup(true).tempfile_in(parent_of(path))
}

/// Writes in two halves, so that a test can also stop in the middle of the content.
fn write_whole(mut file: &File, bytes: &[u8], mode: u32, gate: &Gate<'_>) -> io::Result<()> {
    let (head, tail) = bytes.split_at(bytes.len() / 2);
    gate("write first half")?;
    file.write_all(head)?;
    gate("write second half")?;
    file.write_all(tail)?;
    gate("set mode")?;
    file.set_permissions(Permissions::from_mode(mode))?;
    gate("sync file")?;
    file.sync_all()
}

fn private(options: &mut fs::OpenOptions) -> &mut fs::OpenOptions {
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600)
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn the_new_content_arrives_with_its_mode_and_nothing_else_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundle.pem");

        replace(&path, b"one", 0o600).unwrap();
        assert_eq!(mode_of(&path), 0o600);
        replace(&path, b"two", 0o644).unwrap();

        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(mode_of(&path), 0o644);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_the_old_one_and_no_litter() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundle.pem");
        replace(&path, b"old", 0o600).unwrap();

        let gate = |step| if step == "sync file" { Err(io::Error::other("disk full")) } else { Ok(()) };
        let error = replace_in_steps(&path, b"new", 0o600, &gate).unwrap_err();

        assert!(error.to_string().starts_with("cannot write a temporary file beside /"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_edited_file_keeps_its_mode_and_a_link_to_it_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("apps.toml"), directory.path().join("link.toml"));
        replace(&path, b"one", 0o640).unwrap();
        std::os::unix::fs::symlink("apps.toml", &link).unwrap();

        replace_alike(&link, b"two").unwrap();

        assert_eq!((fs::read(&path).unwrap(), mode_of(&path)), (b"two".to_vec(), 0o640));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "a skipped test must not look like one that ran")]
    fn a_file_is_its_owners_before_it_has_its_name() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root can give files away");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let (path, victim) = (directory.path().join("key"), directory.path().join("shadow"));
        replace(&victim, b"not yours", 0o600).unwrap();
        let owner = Owner { user: Some(4321), group: None };
        // The owner of the folder has the new file replaced by a link as soon as it has its name.
        let gate = |step| {
            if step == "sync directory" {
                assert_eq!(fs::metadata(&path).unwrap().uid(), 4321);
                fs::remove_file(&path)?;
                std::os::unix::fs::symlink(&victim, &path)?;
            }
            Ok(())
        };

        replace_file(&path, b"content", (0o600, owner), &gate).unwrap();

        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
        assert_eq!(fs::metadata(&victim).unwrap().uid(), 0, "what the link leads to was given away");
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "a skipped test must not look like one that ran")]
    fn a_new_file_is_its_folders_owners() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root can give files away");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(directory.path(), Some(4321), Some(4322)).unwrap();
        let path = directory.path().join("apps.toml");

        create_alike(&path, b"one").unwrap();

        let made = fs::metadata(&path).unwrap();
        assert_eq!((made.uid(), made.gid(), mode_of(&path)), (4321, 4322, 0o640));
    }

    #[test]
    fn a_kill_before_any_step_leaves_old_or_new() {
        for last in 0.. {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("state");
            replace(&path, b"the old content", 0o600).unwrap();
            let steps = AtomicUsize::new(0);
            let gate = |_| {
                if steps.fetch_add(1, Ordering::Relaxed) >= last {
                    Err(io::Error::other("killed"))
                } else {
                    Ok(())
                }
            };

            let outcome = replace_in_steps(&path, b"the new content", 0o600, &gate);

            let content = fs::read(&path).unwrap();
            assert!(content == b"the old content" || content == b"the new content", "before step {last}");
            if outcome.is_ok() {
                assert_eq!(content, b"the new content");
                assert!(last >= 7, "every step asks the gate");
                return;
            }
        }
    }

    #[test]
    fn the_content_is_on_the_disk_before_its_name_is() {
        let directory = tempfile::tempdir().unwrap();
        let steps = Mutex::new(Vec::new());

        let gate = |step| {
            steps.lock().unwrap().push(step);
            Ok(())
        };
        replace_in_steps(&directory.path().join("state"), b"content", 0o600, &gate).unwrap();

        let steps = steps.into_inner().unwrap();
        assert_eq!(steps.get(4..), Some(&["sync file", "rename file", "sync directory"][..]));
    }
}
