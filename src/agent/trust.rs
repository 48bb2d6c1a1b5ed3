//! Whom this host believes: its own roots, and those that it was given in files.

use std::io;
use std::path::PathBuf;

use crate::config::ForeignBundle;
use crate::pki::{BundleSet, TrustBundle};
use crate::store::pem::{self, PemError};

/// Why a bundle cannot be believed.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file holds something else.
    #[error("{}: is no bundle of certificates", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: PemError,
    },
    /// The file cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Our own bundle and the foreign ones. Several files may speak for one trust domain, also for our own.
///
/// # Errors
/// The first file that cannot be believed.
pub(super) fn bundles(own: &TrustBundle, foreign: &[ForeignBundle]) -> Result<BundleSet, TrustError> {
    let mut set = BundleSet::default().with(own.clone());
    for ForeignBundle { domain, path } in foreign {
        let bytes = std::fs::read(path).map_err(|source| TrustError::Read { path: path.clone(), source })?;
        let roots =
            pem::certificates(&bytes).map_err(|source| TrustError::Pem { path: path.clone(), source })?;
        let mut bundle = set.get(domain).cloned().unwrap_or_else(|| TrustBundle {
            domain: domain.clone(),
            sequence: 0,
            roots: Vec::new(),
        });
        for root in roots {
            if !bundle.roots.contains(&root) {
                bundle.roots.push(root);
            }
        }
        set = set.with(bundle);
    }
    Ok(set)
}
