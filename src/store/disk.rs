//! Whether a folder can be written, without writing to it.

use std::io::{self, ErrorKind};
use std::path::Path;

use rustix::fs::{Access, StatVfsMountFlags, access, statvfs};

/// Whether `error` says that nothing can be written there now, and nothing else: what is there may be read all the same.
#[must_use]
pub fn refuses_writing(error: &io::Error) -> bool {
    let kinds = [
        ErrorKind::PermissionDenied,
        ErrorKind::QuotaExceeded,
        ErrorKind::ReadOnlyFilesystem,
        ErrorKind::StorageFull,
    ];
    kinds.contains(&error.kind()) || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// Why nothing can be written to `folder` now, as far as the system says so without a try; `None` if nothing is known.
#[must_use]
pub fn obstacle(folder: &Path) -> Option<String> {
    if let Err(error) = access(folder, Access::WRITE_OK | Access::EXEC_OK) {
        return Some(io::Error::from(error).to_string());
    }
    let system = statvfs(folder).ok()?;
    if system.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Some("the file system is read-only".to_owned());
    }
    // Some file systems count no inodes at all.
    let no_inodes = system.f_files > 0 && system.f_favail == 0;
    (system.f_bavail == 0 || no_inodes).then(|| "the file system is full".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_can_be_written_has_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();

        assert_eq!(obstacle(folder.path()), None);
        assert!(obstacle(&folder.path().join("gone")).is_some_and(|why| why.contains("No such file")));
    }

    #[test]
    fn only_what_concerns_writing_may_be_lived_with() {
        assert!(refuses_writing(&ErrorKind::StorageFull.into()));
        assert!(refuses_writing(&ErrorKind::ReadOnlyFilesystem.into()));
        assert!(!refuses_writing(&ErrorKind::NotFound.into()));
        assert!(!refuses_writing(&ErrorKind::NotADirectory.into()));
    }
}
