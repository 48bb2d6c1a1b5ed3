//! The registry file by file, so that a change of one file is a reading of one file.
//!
//! **Invariant:** either everything is understood in full, or nothing is taken. What a library says after any number of
//! amendments is what it would say if all its files were read from the beginning.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::registry::page::{Mark, Page};
use crate::registry::parse::{Reader, References};
use crate::registry::{Snapshot, Source};
use crate::toml_text::{Document, Problem};

/// All that is on file, and which file says what.
#[derive(Clone, Debug, Default)]
pub struct Library {
    pages: BTreeMap<PathBuf, Page>,
    mark: Mark,
    snapshot: Arc<Snapshot>,
}

/// What has become of one file.
#[derive(Clone, Debug)]
pub enum Change {
    /// It is gone.
    Gone(PathBuf),
    /// It says this now.
    Says(Source),
}

impl Change {
    fn path(&self) -> &PathBuf {
        match self {
            Self::Gone(path) => path,
            Self::Says(source) => &source.path,
        }
    }
}

impl Library {
    /// Reads all files of the registry together.
    ///
    /// # Errors
    /// Every problem in every file, by file and place.
    pub fn read(sources: &[Source]) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut reader = Reader::new();
        let mut waiting = Vec::new();
        // What a broken file defines is not known, so nothing is said about references that lead nowhere.
        let mut references = References::MustExist;
        for source in shared_first(sources) {
            match Document::parse(&source.path, &source.text) {
                Err(found) => {
                    references = References::MayBeMissing;
                    problems.extend(found);
                }
                Ok(document) => {
                    reader.open(Page::of(source));
                    reader.read_shared(&document);
                    problems.extend(document.take_problems());
                    if reader.read_apps(&document, References::MayCome) {
                        problems.extend(document.into_problems());
                        reader.close();
                    } else {
                        waiting.push((source, reader.put_off()));
                    }
                }
            }
        }
        // These name what only a later file defines, or nothing at all.
        for (source, page) in waiting {
            if let Ok(document) = Document::parse(&source.path, &source.text) {
                reader.open(page);
                reader.read_apps(&document, references);
                problems.extend(document.into_problems());
                reader.close();
            }
        }
        problems.sort();
        if !problems.is_empty() {
            return Err(problems);
        }
        let Reader { pages, mut snapshot, .. } = reader;
        let mark = pages.iter().fold(Mark::default(), |mark, page| mark.plus(page.mark));
        snapshot.set_version(mark.in_digits());
        let pages = pages.into_iter().map(|page| (page.path.clone(), page)).collect();
        Ok(Self { pages, mark, snapshot: Arc::new(snapshot) })
    }

    /// All that is on file.
    #[must_use]
    pub const fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Takes in what has become of some files, each named once, by reading only these. Gives whether it has: where developers
    /// or products changed, or anything is wrong, only [`Self::read`] can tell what follows, and nothing is taken in.
    #[must_use]
    pub fn amend(&mut self, changes: &[Change]) -> bool {
        let mut reader = Reader::beside(&self.snapshot);
        let mut mark = self.mark;
        let mut before = Vec::new();
        for change in changes {
            let page = self.pages.get(change.path());
            let understood = match change {
                Change::Gone(_) => page.is_none_or(|page| !page.is_shared()),
                Change::Says(source) => reader.read_again(source, page),
            };
            if !understood {
                return false;
            }
            mark = page.map_or(mark, |page| mark.minus(page.mark));
            before.extend(page);
        }
        let Reader { pages, snapshot: fresh, .. } = reader;
        let Some(mut snapshot) = self.snapshot.with(&before, &fresh) else { return false };
        for change in changes {
            self.pages.remove(change.path());
        }
        for page in pages {
            mark = mark.plus(page.mark);
            self.pages.insert(page.path.clone(), page);
        }
        snapshot.set_version(mark.in_digits());
        (self.mark, self.snapshot) = (mark, Arc::new(snapshot));
        true
    }
}

/// Those that seem to define what apps of other files rest on come first: it saves reading those others twice.
fn shared_first(sources: &[Source]) -> impl Iterator<Item = &Source> {
    let seems_shared =
        |source: &&Source| ["[[developer]]", "[[product]]"].iter().any(|head| source.text.contains(head));
    let (shared, others): (Vec<&Source>, Vec<&Source>) = sources.iter().partition(seems_shared);
    shared.into_iter().chain(others)
}
