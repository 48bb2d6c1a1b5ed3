//! The request for the next issuing authority, and the key that waits for its certificate.
//!
//! ```text
//! <state>/request.pem                  0644, the commit point: what `postern ca csr` prints
//! <state>/requested/<digest>/key.pem   0600, the key of the request with that digest; or key.toml, see `key_store.rs`
//! ```
//!
//! A key is on the disk before its request is, and only the key of the present request counts. So a kill at any moment leaves
//! the former request with its key or the new one with its own, and what else lies about goes when the next request is kept.

use std::fs;
use std::path::PathBuf;

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;

use super::{AuthorityDir, StoreError, io_error, is_there, names_in, read_file};
use crate::pki::KeyPair;
use crate::store::atomic_file;
use crate::store::pem;

/// A request that waits for its certificate.
#[derive(Debug)]
pub struct Pending {
    /// The request (PKCS#10), as DER.
    pub request: Vec<u8>,
    /// The key that it is for.
    pub key: KeyPair,
}

impl AuthorityDir {
    /// The request that waits, if any.
    pub fn pending(&self) -> Result<Option<Pending>, StoreError> {
        let path = self.request_path();
        if !is_there(&path)? {
            return Ok(None);
        }
        let request = pem::certificate_request(&read_file(&path)?)
            .map_err(|source| StoreError::Request { path: path.clone(), reason: source.to_string() })?;
        let directory = self.requested_path().join(digest_of(&request));
        if !is_there(&directory)? {
            let reason = format!("its key is gone, {} is missing", directory.display());
            return Err(StoreError::Request { path, reason });
        }
        Ok(Some(Pending { request, key: self.read_key(&directory)? }))
    }

    /// Keeps `request` and its key in the place of those before.
    pub fn keep_pending(&self, request: &[u8], key: &KeyPair) -> Result<(), StoreError> {
        let (requested, digest) = (self.requested_path(), digest_of(request));
        let directory = requested.join(&digest);
        let file = self.keys.file_of(key).map_err(|error| StoreError::Request {
            path: self.request_path(),
            reason: format!("its key cannot be encrypted: {error}"),
        })?;
        self.make_directory(&requested)?;
        self.remove(&directory)?;
        self.make_directory(&directory)?;
        self.write_key(&directory, &file)?;
        for directory in [&directory, &requested, &self.state] {
            atomic_file::sync_directory(directory, &*self.gate)
                .map_err(io_error("force to the disk", directory))?;
        }
        let text = pem::certificate_request_to_pem(request);
        atomic_file::replace_in_steps(&self.request_path(), text.as_bytes(), 0o644, &*self.gate)?;
        for name in names_in(&requested)?.into_iter().filter(|name| *name != digest) {
            self.remove(&requested.join(name))?;
        }
        Ok(())
    }

    /// Forgets the request that waits and its key: it was installed, or is not wanted any more.
    pub fn drop_pending(&self) -> Result<(), StoreError> {
        let path = self.request_path();
        if is_there(&path)? {
            (self.gate)("remove file")
                .and_then(|()| fs::remove_file(&path))
                .map_err(io_error("remove", &path))?;
            atomic_file::sync_directory(&self.state, &*self.gate)
                .map_err(io_error("force to the disk", &self.state))?;
        }
        self.remove(&self.requested_path())
    }

    /// The file with the request.
    #[must_use]
    pub fn request_path(&self) -> PathBuf {
        self.state.join("request.pem")
    }

    /// The directories of keys that wait, or waited.
    pub(super) fn requested(&self) -> Result<Vec<PathBuf>, StoreError> {
        let requested = self.requested_path();
        if !is_there(&requested)? {
            return Ok(Vec::new());
        }
        Ok(names_in(&requested)?.into_iter().map(|name| requested.join(name)).collect())
    }

    fn requested_path(&self) -> PathBuf {
        self.state.join("requested")
    }
}

/// Which key belongs to a request.
fn digest_of(request: &[u8]) -> String {
    let mut text = HEXLOWER.encode(digest::digest(&digest::SHA256, request).as_ref());
    text.truncate(16);
    text
}
