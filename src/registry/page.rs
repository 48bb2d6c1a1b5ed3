//! What one file of the registry defines, by name and line: enough to take it out again, and to point to it.

use std::path::{Path, PathBuf};

use aws_lc_rs::digest;

use crate::id::{AppId, CredentialId, DeveloperId, ProductId};
use crate::registry::Source;

/// What one file defines.
#[derive(Clone, Debug, Default)]
pub(super) struct Page {
    pub(super) path: PathBuf,
    pub(super) apps: Vec<Entry<AppId>>,
    pub(super) credentials: Vec<Entry<CredentialId>>,
    pub(super) developers: Vec<Entry<DeveloperId>>,
    pub(super) products: Vec<Entry<ProductId>>,
    pub(super) mark: Mark,
}

/// A thing that a file defines.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Entry<I> {
    pub(super) id: I,
    /// Counted from one.
    pub(super) line: u32,
}

impl Page {
    /// A file of which nothing has been understood yet.
    pub(super) fn of(source: &Source) -> Self {
        Self { path: source.path.clone(), mark: Mark::of(source), ..Self::default() }
    }

    /// Whether apps of other files may rest on this one.
    pub(super) fn is_shared(&self) -> bool {
        !(self.developers.is_empty() && self.products.is_empty())
    }
}

/// Tells a set of files from another: the sum of the digests of what they are called and what they say, so that one file's
/// part can be replaced without a look at the others. The same wherever the files lie, in whatever order they are read.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Mark([u64; 4]);

impl Mark {
    fn of(source: &Source) -> Self {
        let name = source.path.file_name().unwrap_or_default().as_encoded_bytes();
        let mut hash = digest::Context::new(&digest::SHA256);
        for part in [name, source.text.as_bytes()] {
            hash.update(part.len().to_string().as_bytes());
            hash.update(b":");
            hash.update(part);
        }
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(hash.finish().as_ref().as_chunks().0) {
            *word = u64::from_be_bytes(*bytes);
        }
        Self(words)
    }

    pub(super) fn plus(self, other: Self) -> Self {
        self.combine(other, u64::wrapping_add)
    }

    pub(super) fn minus(self, other: Self) -> Self {
        self.combine(other, u64::wrapping_sub)
    }

    fn combine(mut self, other: Self, how: fn(u64, u64) -> u64) -> Self {
        for (word, other) in self.0.iter_mut().zip(other.0) {
            *word = how(*word, other);
        }
        self
    }

    /// Twelve hexadecimal digits.
    pub(super) fn in_digits(self) -> String {
        let bytes: Vec<u8> = self.0.iter().flat_map(|word| word.to_be_bytes()).collect();
        let mut digits = data_encoding::HEXLOWER.encode(&bytes);
        digits.truncate(12);
        digits
    }
}

/// Where something stands, as `file:line`.
pub(super) fn place(path: &Path, line: u32) -> String {
    format!("{}:{line}", path.display())
}
