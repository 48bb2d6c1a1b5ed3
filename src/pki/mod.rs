//! The local CA as values: keys, authorities and their slots, what is issued when, and whom to believe.

mod key;
mod random;
mod profile;
mod rotation;
mod svid;
mod bundle;
mod authority;
mod request;
mod chain;
mod hierarchy;
mod issue;
mod verified;
mod marks;
mod revocation;
mod crl;
mod signer;
mod roots;
mod foreign_crl;
mod verifier;
mod skew;
mod preflight;

pub use authority::{Authority, AuthorityError, AuthorityPlan, Level, LifeError};
pub use bundle::{BundleSet, TrustBundle};
pub use chain::{ChainError, JudgedChain, SignedChain, judge_root};
pub use crl::{CrlEdition, CrlEntries, CrlEntry, CrlError, IssuedLeaf, crl_entries, draw_up_crl};
pub use foreign_crl::{CrlSet, ForeignCrl, InvalidCrl, StaleCrls, check_roots, succeed};
pub use hierarchy::{Hierarchy, HierarchyError, Retired, Slot, Slots};
pub use issue::{IssueError, is_dns_name, issue};
pub use key::{
    KeyAlgorithm, KeyError, KeyPair, KeySource, LocalKeys, RemoteFailure, RemoteSigner, UnknownAlgorithm,
};
pub use preflight::{PreflightError, Trial, preflight};
pub use profile::{DEFAULT_BACKDATE, Lifetimes, LifetimesError, Profile};
pub use random::{Rng, SystemRng};
pub use request::{RequestError, SignedAuthority, SigningRequest};
pub use revocation::{InvalidRevoked, Revocation, Revocations, Revoked};
pub use roots::InvalidRoot;
pub use rotation::{Life, Renewal, Step};
pub use signer::InvalidSigner;
pub use skew::{Skews, Suspicion};
pub use svid::X509Svid;
pub use verified::{Verified, chain_digest};
pub use verifier::{MAX_BYTES, MAX_CERTIFICATES, Usage, Verifier, VerifyError};

#[cfg(test)]
pub(crate) use random::SeededRng;

#[cfg(test)]
mod chain_tests;
#[cfg(test)]
mod tests;
