//! Whom this host believes: its own roots, and those that it was given in files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::config::{Config, CrlFile, ForeignBundle};
use crate::identity::TrustDomain;
use crate::pki::{BundleSet, CrlSet, ForeignCrl, InvalidCrl, TrustBundle, check_roots, succeed};
use crate::registry::Withheld;
use crate::store::pem::{self, PemError};
use crate::store::revoked_dir::{self, RevokedError};

/// Why a bundle cannot be believed.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A revocation list that cannot be used.
    #[error("{}: a revocation list cannot be used", path.display())]
    Crl {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: InvalidCrl,
    },
    /// The file holds something else than revocation lists.
    #[error("{}: is no file of revocation lists", path.display())]
    CrlPem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: PemError,
    },
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
    /// The file is larger than any that is read.
    #[error("{}: is larger than {MOST_BYTES} bytes", .0.display())]
    TooLarge(PathBuf),
}

/// What is revoked in the folders that `config` names, when nothing is known of them yet.
///
/// # Errors
/// Something there cannot be read or understood, so that nobody knows what is to be refused.
pub(super) fn withheld(config: &Config) -> Result<Withheld, RevokedError> {
    let (withheld, errors) = revoked_dir::read(&config.revoked_dirs, &Withheld::default());
    errors.into_iter().next().map_or(Ok(withheld), Err)
}

/// No file of revocation lists is larger: room for more than a million serial numbers.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// The revocation lists in force, by file and as they are asked.
#[derive(Debug, Default)]
pub(super) struct Crls {
    files: Vec<Lists>,
    pub(super) set: Arc<CrlSet>,
}

#[derive(Debug)]
struct Lists {
    domain: TrustDomain,
    path: PathBuf,
    lists: Vec<Arc<ForeignCrl>>,
}

/// The revocation lists that `foreign` names. Where a file cannot be used, the lists that it held before stay, and the reason is
/// among the errors.
pub(super) fn crls(
    foreign: &[ForeignBundle],
    bundles: &BundleSet,
    former: &Arc<Crls>,
    now: Timestamp,
) -> (Arc<Crls>, Vec<TrustError>) {
    let (mut files, mut set, mut errors) = (Vec::new(), CrlSet::default(), Vec::new());
    for ForeignBundle { domain, crl, .. } in foreign {
        let Some(CrlFile { path, stale }) = crl else { continue };
        let before = former.files.iter().find(|file| file.domain == *domain && file.path == *path);
        let before = before.map(|file| file.lists.clone()).unwrap_or_default();
        let roots = bundles.get(domain).map(|bundle| bundle.roots.as_slice()).unwrap_or_default();
        let read = read_lists(path).and_then(|found| {
            let crl_error = |source| TrustError::Crl { path: path.clone(), source };
            let lists = succeed(&before, found, now).map_err(crl_error)?;
            check_roots(&lists, roots).map_err(crl_error)?;
            Ok(lists)
        });
        let lists = read.unwrap_or_else(|error| {
            errors.push(error);
            before
        });
        set = set.with(domain, lists.clone(), *stale);
        files.push(Lists { domain: domain.clone(), path: path.clone(), lists });
    }
    if set.is_same(&former.set) {
        return (Arc::clone(former), errors);
    }
    (Arc::new(Crls { files, set: Arc::new(set) }), errors)
}

/// [`crls`], of which none may be unusable.
///
/// # Errors
/// The first file that is.
pub(super) fn all_crls(
    foreign: &[ForeignBundle],
    bundles: &BundleSet,
    former: &Arc<Crls>,
    now: Timestamp,
) -> Result<Arc<Crls>, TrustError> {
    let (crls, errors) = crls(foreign, bundles, former, now);
    errors.into_iter().next().map_or(Ok(crls), Err)
}

fn read_lists(path: &Path) -> Result<Vec<ForeignCrl>, TrustError> {
    let fail = |source| TrustError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(fail)?.len() > MOST_BYTES {
        return Err(TrustError::TooLarge(path.to_owned()));
    }
    let bytes = std::fs::read(path).map_err(fail)?;
    let lists = pem::crls(&bytes).map_err(|source| TrustError::CrlPem { path: path.to_owned(), source })?;
    let parse = |list: &rustls::pki_types::CertificateRevocationListDer<'_>| {
        ForeignCrl::parse(list).map_err(|source| TrustError::Crl { path: path.to_owned(), source })
    };
    lists.iter().map(parse).collect()
}

/// Our own bundle and the foreign ones. Several files may speak for one trust domain, also for our own.
///
/// # Errors
/// The first file that cannot be believed.
pub(super) fn bundles(own: &TrustBundle, foreign: &[ForeignBundle]) -> Result<BundleSet, TrustError> {
    let mut set = BundleSet::default().with(own.clone());
    for ForeignBundle { domain, path, .. } in foreign {
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

/// `former`, with our own roots replaced and all that was read from files as it is: for when the files cannot be read again.
pub(super) fn renewed(former: &BundleSet, own_before: &TrustBundle, own: &TrustBundle) -> BundleSet {
    let mut bundle = own.clone();
    let known = former.get(&own.domain).map(|bundle| bundle.roots.as_slice()).unwrap_or_default();
    for root in known.iter().filter(|root| !own_before.roots.contains(root)) {
        if !bundle.roots.contains(root) {
            bundle.roots.push(root.clone());
        }
    }
    former.clone().with(bundle)
}
