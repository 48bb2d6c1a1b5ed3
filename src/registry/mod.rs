//! Who may call what: developers, their apps and credentials, and the products that apps are granted.

mod kind;
mod path;
mod rule;
mod signature_key;
mod binding;
mod condition;
mod token_rule;
mod model;
mod changes;
mod snapshot;
mod page;
mod limits;
mod read;
mod parse;
mod library;
mod lint;
mod withheld;

pub use binding::{Bindings, Hours, InvalidHours, InvalidNetwork, Network, Origin, Unbound};
pub use changes::Changes;
pub use condition::{AttributeValue, Attributes, Condition, Facts, InvalidCondition};
pub use kind::{Accepts, CredentialKind, InvalidAccepts, KindSet, UnknownKind};
pub use library::{Change, Library};
pub use lint::{Here, Lint, LintName, MANY_PRODUCTS, SOON, lint, lint_here};
pub use model::{
    App, AppStatus, Approval, CertificatesOnFile, Credential, CredentialSecret, CredentialStatus, Developer,
    DeveloperStatus, Grant, GrantStatus, InvalidMethod, KeyAlone, Method, Methods, MultiValued, Operation,
    Product, ServiceSelector, Share, Target,
};
pub use parse::{Source, parse};
pub use path::{AmbiguousPath, PolicyPath};
pub use read::accepts;
pub use rule::{InvalidPathRule, PathRule};
pub use signature_key::{InvalidPublicKey, SignatureAlgorithm, SignatureKey};
pub use snapshot::{Counts, NameNotAdmitted, Snapshot};
pub use token_rule::{EmptyTokenRule, TokenRule};
pub use withheld::Withheld;

#[cfg(test)]
mod tests;
