//! Who a verified certificate says its holder is, and which rule on file that holder meets.

mod trust_domain;
mod spiffe_id;
mod name;
pub(crate) mod certificate;
mod subject;
mod glimpse;
mod rule;
mod mapping;

pub use certificate::InvalidCertificate;
pub use glimpse::{Glimpse, LONGEST, printable};
pub use mapping::{Mapping, Match};
pub use name::{Attribute, InvalidName, RelativeName};
pub use rule::{CertificateRule, InvalidRule};
pub use spiffe_id::{InvalidSpiffeId, SpiffeId};
pub use subject::{InvalidSubject, Subject, distinguished_name};
pub use trust_domain::{InvalidTrustDomain, TrustDomain};
