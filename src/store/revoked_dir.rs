//! Folders in which somebody else says what is revoked: every `*.toml` in them, links followed.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::registry::{Source, Withheld};
use crate::store::registry_dir::listed;
use crate::toml_text::Problem;

/// Why what the folders say is not what is in force; what could be understood is.
#[derive(Debug, thiserror::Error)]
pub enum RevokedError {
    /// A folder or a file cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Files are wrong.
    #[error("{}", Lines(.0))]
    Wrong(Vec<Problem>),
}

struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// What the folders say now. What cannot be read or understood goes on saying what it said `before`: a folder that vanishes
/// lifts nothing.
#[must_use]
pub fn read(folders: &[PathBuf], before: &Withheld) -> (Withheld, Vec<RevokedError>) {
    let (mut sources, mut unread, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for folder in folders {
        match listed(folder) {
            Ok(paths) => {
                for path in paths {
                    match std::fs::read_to_string(&path) {
                        Ok(text) => sources.push(Source { path, text }),
                        // It was taken away since it was listed.
                        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {}
                        Err(source) => {
                            unread.push(path.clone());
                            errors.push(RevokedError::Read { path, source });
                        }
                    }
                }
            }
            Err(source) => {
                unread.push(folder.clone());
                errors.push(RevokedError::Read { path: folder.clone(), source });
            }
        }
    }
    let (withheld, problems) = Withheld::read(&sources, before);
    if !problems.is_empty() {
        errors.push(RevokedError::Wrong(problems));
    }
    let is_unread = |path: &Path| unread.iter().any(|one| path == one || path.parent() == Some(one));
    (withheld.keeping(before, |path| is_unread(path)), errors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::atomic_file::replace;

    #[test]
    fn a_folder_that_vanishes_lifts_nothing_and_a_file_that_is_taken_away_does() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("revoked.d");
        std::fs::create_dir(&folder).unwrap();
        let put = |name: &str, text: &str| replace(&folder.join(name), text.as_bytes(), 0o644).unwrap();
        put("a.toml", "[[revoked]]\ntoken = 'a'\n");
        put("b.toml", "[[revoked]]\ntoken = 'b'\n");
        let folders = [folder.clone()];
        let (both, errors) = read(&folders, &Withheld::default());
        assert!(errors.is_empty() && both.len() == 2);

        std::fs::remove_file(folder.join("a.toml")).unwrap();
        let (one, errors) = read(&folders, &both);
        assert!(errors.is_empty() && one.has_token("b") && !one.has_token("a"));

        std::fs::rename(&folder, place.path().join("elsewhere")).unwrap();
        let (kept, errors) = read(&folders, &one);
        assert_eq!(kept, one);
        assert!(errors[0].to_string().ends_with("revoked.d: cannot be read"), "{}", errors[0]);
    }
}
