//! The registry's files: every `*.toml` in its folders, links followed.

use std::io;
use std::path::{Path, PathBuf};

use crate::registry::Source;

/// Why the registry cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot be read", path.display())]
pub struct RegistryReadError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Reads all files, sorted by name within each folder. A folder that is not there holds nothing.
///
/// # Errors
/// The first file or folder that cannot be read.
pub fn read(folders: &[PathBuf]) -> Result<Vec<Source>, RegistryReadError> {
    let mut sources = Vec::new();
    for folder in folders {
        for path in toml_files(folder).map_err(|source| RegistryReadError { path: folder.clone(), source })? {
            let text = std::fs::read_to_string(&path)
                .map_err(|source| RegistryReadError { path: path.clone(), source })?;
            sources.push(Source { path, text });
        }
    }
    Ok(sources)
}

fn toml_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    let visible = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".toml") && !name.starts_with('.')
    };
    let mut files: Vec<_> = paths.into_iter().filter(visible).collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::atomic_file::replace;

    #[test]
    fn every_toml_file_is_read_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        for name in ["b.toml", "a.toml", "notes.md", ".hidden.toml"] {
            replace(&place.path().join(name), name.as_bytes(), 0o644).unwrap();
        }

        let sources = read(&[place.path().to_owned(), place.path().join("absent")]).unwrap();

        let texts: Vec<&str> = sources.iter().map(|source| source.text.as_str()).collect();
        assert_eq!(texts, ["a.toml", "b.toml"]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let place = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("nowhere", place.path().join("a.toml")).unwrap();

        let error = read(&[place.path().to_owned()]).unwrap_err();

        assert!(error.to_string().ends_with("a.toml: cannot be read"), "{error}");
    }
}
