//! Who may call what: developers, their apps and credentials, and the products that apps are granted.

mod kind;
mod path;
mod rule;
mod signature_key;
mod model;
mod snapshot;
mod changes;
mod shelf;
mod limits;
mod read;
mod parse;

pub use changes::Changes;
pub use kind::{Accepts, CredentialKind, EmptyAccepts, KindSet, UnknownKind};
pub use model::{
    App, AppStatus, CertificatesOnFile, Credential, CredentialSecret, CredentialStatus, Developer,
    DeveloperStatus, Grant, GrantStatus, InvalidMethod, Method, Methods, MultiValued, Operation, Product,
    ServiceSelector, Target,
};
pub use parse::{Source, parse};
pub use path::{AmbiguousPath, PolicyPath};
pub use read::accepts;
pub use rule::{InvalidPathRule, PathRule};
pub use signature_key::{InvalidPublicKey, SignatureAlgorithm, SignatureKey};
pub use snapshot::{Conflict, Definitions, NameNotAdmitted, Snapshot};

#[cfg(test)]
mod tests;
