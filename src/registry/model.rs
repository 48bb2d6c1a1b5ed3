//! What is on file: developers, apps, products, grants and credentials, as plain data.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::id::{AppId, CredentialId, DeveloperId, EnvironmentId, OperationId, ProductId, ServiceId};
use crate::identity::{CertificateRule, Subject, TrustDomain};
use crate::limit::{Limits, Priority};
use crate::registry::{
    Accepts, Attributes, Bindings, Condition, CredentialKind, KindSet, PathRule, PolicyPath, SignatureKey,
    TokenRule,
};

/// Whoever owns apps.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Developer {
    /// Its name.
    pub id: DeveloperId,
    /// Whether its apps may call anything.
    pub status: DeveloperStatus,
}

/// Whether a developer's apps may call anything.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum DeveloperStatus {
    /// They may.
    Active,
    /// They may not.
    Inactive,
}

/// One caller, whatever credential it uses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct App {
    /// Its name.
    pub id: AppId,
    /// Its owner.
    pub developer: Arc<Developer>,
    /// Whether it may call anything.
    pub status: AppStatus,
    /// Which credentials it must prove itself with, where it says so itself.
    pub accepts: Option<Accepts>,
    /// How much it may do over all products, if that is limited.
    pub limits: Option<Box<Limits>>,
    /// Whether it is among the first or the last to be turned away by a service at its limit.
    pub priority: Priority,
    /// How old its keys may become, where it says so itself.
    pub key_max_age: Option<Duration>,
    /// What it is said to be, for conditions to look at.
    pub attributes: Attributes,
    /// The products it has been granted, or has asked for.
    pub grants: Vec<Grant>,
}

/// Whether an app may call anything.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AppStatus {
    /// It may.
    Approved,
    /// It may not.
    Revoked,
}

/// An app's right to a product, or as much of it as one of its credentials has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    /// The product.
    pub product: Arc<Product>,
    /// How far the right has come.
    pub status: GrantStatus,
    /// The instant from which the right is gone; `None` for never.
    pub expires: Option<Timestamp>,
    /// Which credentials it asks for, where it says so itself.
    pub accepts: Option<Accepts>,
}

impl Grant {
    /// Whether the right is given, and has not ended at `now`.
    #[must_use]
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        self.status == GrantStatus::Approved && self.expires.is_none_or(|expires| now < expires)
    }
}

/// How far a grant has come.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum GrantStatus {
    /// It is given.
    Approved,
    /// It is asked for, not given.
    Pending,
    /// It has been taken away.
    Revoked,
}

/// A bundle of operations that apps are granted together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Product {
    /// Its name.
    pub id: ProductId,
    /// Who decides whether an app gets it.
    pub approval: Approval,
    /// The environments that it is for; `None` for all, also written `["*"]`. An empty list is for none.
    pub environments: Option<Vec<EnvironmentId>>,
    /// Whether an API key is enough for it.
    pub key_alone: KeyAlone,
    /// The scopes it conveys.
    pub scopes: Vec<String>,
    /// Which credentials it asks for, where it says so itself.
    pub accepts: Option<Accepts>,
    /// How much each app may do with it, if that is limited.
    pub limits: Option<Box<Limits>>,
    /// What it covers. None means that it covers nothing.
    pub operations: Vec<Operation>,
}

/// How many scopes a product conveys at most: those in force are a set of bits.
pub(super) const MOST_SCOPES: usize = 128;

impl Product {
    /// Whether it is for an agent that stands in `environment`, or in none that has a name.
    #[must_use]
    pub fn is_for(&self, environment: Option<&EnvironmentId>) -> bool {
        let named = |environments: &Vec<EnvironmentId>| {
            environment.is_some_and(|environment| environments.contains(environment))
        };
        self.environments.as_ref().is_none_or(named)
    }
}

/// Whether an API key with nothing beside it is enough for a product. A key is a secret that travels; it is no sole line of
/// defence for personal data or money.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum KeyAlone {
    /// It is, if everything else accepts it; the product is of no high sensitivity.
    #[default]
    Admit,
    /// It is, although the product is of high sensitivity: for the reason on file.
    AdmitFor(Box<str>),
    /// It is not; written `sensitivity = "high"`.
    Refuse,
}

impl KeyAlone {
    /// Whether a caller that has proven `kinds` is let in.
    #[must_use]
    pub fn admits(&self, kinds: KindSet) -> bool {
        match self {
            Self::Admit | Self::AdmitFor(_) => true,
            // A user's token says nothing of the app.
            Self::Refuse => {
                !KindSet::from_iter([CredentialKind::ApiKey, CredentialKind::UserToken]).is_superset(kinds)
            }
        }
    }
}

/// Who decides whether an app that asks for a product gets it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Approval {
    /// Nobody needs to: a grant that does not say its status is approved.
    #[default]
    Auto,
    /// Somebody has to: a grant that does not say its status is pending.
    Manual,
}

impl Approval {
    /// How far a grant has come that does not say so itself.
    #[must_use]
    pub const fn first_status(self) -> GrantStatus {
        match self {
            Self::Auto => GrantStatus::Approved,
            Self::Manual => GrantStatus::Pending,
        }
    }
}

/// Something that can be done to a service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Operation {
    /// Its name within the product, by which it is counted; there is one where there are limits.
    pub id: Option<OperationId>,
    /// To which service.
    pub service: ServiceSelector,
    /// What is done.
    pub target: Target,
    /// Which credentials it asks for, where it says so itself.
    pub accepts: Option<Accepts>,
    /// The scopes that it asks for, all of them; its product conveys each.
    pub scopes: Vec<String>,
    /// What a request must meet besides.
    pub when: Option<Box<Condition>>,
    /// How much each app may do of it, if that is limited by itself.
    pub limits: Option<Box<Limits>>,
    /// How much one request or connection counts; at least one.
    pub weight: u32,
}

impl Operation {
    /// What it is called within its product: its name, or else its path as it is written.
    #[must_use]
    pub fn label(&self) -> &str {
        match (&self.id, &self.target) {
            (Some(id), _) => id.as_str(),
            (None, Target::Http { path, .. }) => path.as_str(),
            (None, Target::Tcp) => "tcp",
        }
    }
}

/// Which services an operation is about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ServiceSelector {
    /// All of them; written `"*"`.
    Any,
    /// This one.
    Named(ServiceId),
}

impl ServiceSelector {
    /// Whether the operation is about `service`.
    #[must_use]
    pub fn covers(&self, service: &ServiceId) -> bool {
        match self {
            Self::Any => true,
            Self::Named(named) => named == service,
        }
    }
}

/// What is done to a service. A connection is never covered by an HTTP operation, nor a request by a TCP operation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// A request.
    Http {
        /// With these methods.
        methods: Methods,
        /// On these paths.
        path: PathRule,
    },
    /// A connection.
    Tcp,
}

impl Target {
    /// Whether this is about requests, and about one with this method and path.
    #[must_use]
    pub fn covers_request(&self, method: &str, path: &PolicyPath<'_>) -> bool {
        match self {
            Self::Http { methods, path: rule } => methods.contains(method) && rule.matches(path),
            Self::Tcp => false,
        }
    }
}

/// Which methods an operation covers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Methods {
    /// All of them; written `["*"]`.
    Any,
    /// These, and no others: `GET` does not imply `HEAD`. An empty list covers nothing.
    Listed(Vec<Method>),
}

impl Methods {
    /// Whether `method` is covered; letter case counts.
    #[must_use]
    pub fn contains(&self, method: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(methods) => methods.iter().any(|one| *one.0 == *method),
        }
    }
}

/// The name of an HTTP method, as `GET`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Method(Box<str>);

/// The text is no method's name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected a method in upper-case letters such as GET, or '*' alone in the list")]
pub struct InvalidMethod;

impl Method {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Method {
    type Err = InvalidMethod;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_');
        if text.starts_with(|first: char| first.is_ascii_uppercase()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidMethod)
        }
    }
}

/// A secret or a certificate on file, by which an app is known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Credential {
    /// Its name, which is no secret.
    pub id: CredentialId,
    /// Whose it is.
    pub app: Arc<App>,
    /// What has to be presented.
    pub secret: CredentialSecret,
    /// Whether it is good.
    pub status: CredentialStatus,
    /// When it was made, as far as that was written down.
    pub created: Option<Timestamp>,
    /// The instant from which it is good; `None` for always.
    pub not_before: Option<Timestamp>,
    /// The instant from which it is no longer good; `None` for never.
    pub expires: Option<Timestamp>,
    /// The scopes that it is confined to; `None` for all that its app's products convey.
    pub scopes: Option<Vec<String>>,
    /// The products that it is confined to; `None` for all that its app was granted.
    pub grants: Option<Vec<Grant>>,
    /// What it is bound to, if it is bound to anything.
    pub bindings: Option<Box<Bindings>>,
}

/// How much of its app's right to a product a credential has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Share<'a> {
    /// Nothing: it is confined to other products.
    Nothing,
    /// What this says, where the app's own grant says so, too.
    Part(&'a Grant),
    /// All of it.
    Whole,
}

impl Credential {
    /// Whether it lets `scope` through, if a product conveys it.
    #[must_use]
    pub fn lets_through(&self, scope: &str) -> bool {
        self.scopes.as_ref().is_none_or(|scopes| scopes.iter().any(|one| one == scope))
    }

    /// How much it has of its app's right to `product`.
    #[must_use]
    pub fn share_of(&self, product: &ProductId) -> Share<'_> {
        let Some(grants) = &self.grants else { return Share::Whole };
        let part = grants.iter().find(|grant| grant.product.id == *product);
        part.map_or(Share::Nothing, Share::Part)
    }

    /// Whether a certificate that meets its rule counts as it, with the name that it has and by whom it was signed.
    #[must_use]
    pub fn admits(&self, subject: &Subject) -> bool {
        match &self.secret {
            CredentialSecret::ApiKey { .. }
            | CredentialSecret::ClientKey(_)
            | CredentialSecret::ClientSecret { .. }
            | CredentialSecret::ImportedKey { .. }
            | CredentialSecret::Signature(_)
            | CredentialSecret::Token(_) => false,
            CredentialSecret::Certificate(on_file) => {
                let well_named = match on_file.multi_valued {
                    MultiValued::Admit => true,
                    MultiValued::Refuse => !subject.is_multi_valued(),
                };
                well_named && self.is_for_issuer_of(subject)
            }
        }
    }

    /// Whether it could stand for a certificate that was signed by whom `subject` was.
    #[must_use]
    pub fn is_for_issuer_of(&self, subject: &Subject) -> bool {
        match &self.secret {
            CredentialSecret::ApiKey { .. }
            | CredentialSecret::ClientKey(_)
            | CredentialSecret::ClientSecret { .. }
            | CredentialSecret::ImportedKey { .. }
            | CredentialSecret::Signature(_)
            | CredentialSecret::Token(_) => false,
            CredentialSecret::Certificate(on_file) => {
                on_file.issuer.as_ref().is_none_or(|domain| subject.spiffe_id.trust_domain() == *domain)
            }
        }
    }

    /// Whether it is a secret or a key that is good, and was made longer ago than its app lets it become, or else `most`, as far as
    /// that was written down.
    #[must_use]
    pub fn is_too_old(&self, most: Option<Duration>, now: Timestamp) -> bool {
        let Some(most) = self.app.key_max_age.or(most) else { return false };
        let good =
            self.status == CredentialStatus::Approved && self.expires.is_none_or(|expires| now < expires);
        let begun = self.created.or(self.not_before);
        good && self.kind() != CredentialKind::Mtls && begun.is_some_and(|begun| now.since(begun) > most)
    }

    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> CredentialKind {
        match self.secret {
            CredentialSecret::ApiKey { .. } | CredentialSecret::ImportedKey { .. } => CredentialKind::ApiKey,
            CredentialSecret::Certificate(_) => CredentialKind::Mtls,
            CredentialSecret::ClientKey(_) => CredentialKind::ClientKey,
            CredentialSecret::ClientSecret { .. } => CredentialKind::ClientSecret,
            CredentialSecret::Signature(_) => CredentialKind::Signature,
            CredentialSecret::Token(_) => CredentialKind::Token,
        }
    }

    /// Its rule, if it stands for tokens of an outside issuer.
    #[must_use]
    pub const fn token_rule(&self) -> Option<&TokenRule> {
        match &self.secret {
            CredentialSecret::Token(rule) => Some(rule),
            CredentialSecret::ApiKey { .. }
            | CredentialSecret::Certificate(_)
            | CredentialSecret::ClientKey(_)
            | CredentialSecret::ClientSecret { .. }
            | CredentialSecret::ImportedKey { .. }
            | CredentialSecret::Signature(_) => None,
        }
    }

    /// The pepper without which it is worth nothing, if it needs one.
    #[must_use]
    pub fn pepper(&self) -> Option<&str> {
        match &self.secret {
            CredentialSecret::ApiKey { pepper, .. }
            | CredentialSecret::ClientKey(SignatureKey::Sealed { pepper, .. })
            | CredentialSecret::ClientSecret { pepper, .. }
            | CredentialSecret::ImportedKey { pepper, .. }
            | CredentialSecret::Signature(SignatureKey::Sealed { pepper, .. }) => Some(pepper),
            CredentialSecret::Certificate(_)
            | CredentialSecret::ClientKey(SignatureKey::Public { .. })
            | CredentialSecret::Signature(SignatureKey::Public { .. })
            | CredentialSecret::Token(_) => None,
        }
    }
}

/// Whether a credential is good.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum CredentialStatus {
    /// It is, within its time.
    Approved,
    /// Not yet.
    Pending,
    /// It is until this instant, at which it counts as revoked: another one has taken its place.
    Retiring(Timestamp),
    /// Never again. It stays on file so that its use can be told from that of an unknown one.
    Revoked,
}

/// What has to be presented for a credential.
#[derive(Clone, Eq, PartialEq)]
pub enum CredentialSecret {
    /// A key whose HMAC-SHA-256 under a pepper is this.
    ApiKey {
        /// The HMAC of the key.
        hash: [u8; 32],
        /// The name of the pepper.
        pepper: Arc<str>,
    },
    /// One of these certificates.
    Certificate(CertificatesOnFile),
    /// An assertion that the private half of this key has signed (RFC 7523), at the token endpoint only.
    ClientKey(SignatureKey),
    /// A secret whose HMAC-SHA-256 under a pepper is this, at the token endpoint only.
    ClientSecret {
        /// The HMAC of the secret.
        hash: [u8; 32],
        /// The name of the pepper.
        pepper: Arc<str>,
    },
    /// A key of somebody else's making, of which only the SHA-256 is known: the HMAC-SHA-256 of that under a pepper is this.
    ImportedKey {
        /// The HMAC of the key's SHA-256.
        hash: [u8; 32],
        /// The name of the pepper.
        pepper: Arc<str>,
    },
    /// A signature that this key made, or that its private half did.
    Signature(SignatureKey),
    /// One of these tokens of an outside issuer.
    Token(TokenRule),
}

/// The certificates that a credential stands for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificatesOnFile {
    /// Which they are.
    pub rule: CertificateRule,
    /// Whether those with a multi-valued name are among them.
    pub multi_valued: MultiValued,
    /// The trust domain whose authorities have signed them, where the rule alone does not say it.
    pub issuer: Option<TrustDomain>,
}

/// Whether a credential stands for certificates, too, in whose name several attributes share a relative name.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum MultiValued {
    /// It does; written `multi_valued = true`.
    Admit,
    /// It does not.
    Refuse,
}

impl fmt::Debug for CredentialSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ApiKey { pepper, .. } => write!(f, "ApiKey {{ hash: …, pepper: {pepper:?} }}"),
            Self::ImportedKey { pepper, .. } => write!(f, "ImportedKey {{ hash: …, pepper: {pepper:?} }}"),
            Self::Certificate(CertificatesOnFile { rule, multi_valued, issuer }) => {
                write!(f, "Certificate({rule}, multi-valued names: {multi_valued:?}, issuer: {issuer:?})")
            }
            Self::ClientKey(key) => write!(f, "ClientKey({key:?})"),
            Self::ClientSecret { pepper, .. } => write!(f, "ClientSecret {{ hash: …, pepper: {pepper:?} }}"),
            Self::Signature(key) => write!(f, "Signature({key:?})"),
            Self::Token(rule) => write!(f, "Token({rule})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_covered_when_they_are_named() {
        let listed = Methods::Listed(vec!["GET".parse().unwrap()]);

        assert!(listed.contains("GET"));
        assert!(!listed.contains("get") && !listed.contains("HEAD") && !listed.contains(""));
        assert!(!Methods::Listed(Vec::new()).contains("GET"));
        assert!(Methods::Any.contains("PROPFIND"));
    }

    #[test]
    fn a_method_is_written_in_upper_case() {
        assert!("M-SEARCH".parse::<Method>().is_ok());
        for text in ["", "get", "Get", "*", "GET ", "-"] {
            assert_eq!(text.parse::<Method>(), Err(InvalidMethod), "{text:?}");
        }
    }

    #[test]
    fn a_request_is_never_covered_by_a_tcp_operation() {
        let http = Target::Http { methods: Methods::Any, path: "/a/**".parse().unwrap() };
        let path = PolicyPath::parse("/a/b").unwrap();

        assert!(http.covers_request("GET", &path));
        assert!(!Target::Tcp.covers_request("GET", &path));
    }

    #[test]
    fn a_selector_names_one_service_or_all() {
        let (orders, whoami): (ServiceId, ServiceId) = ("orders".parse().unwrap(), "whoami".parse().unwrap());

        assert!(ServiceSelector::Named(orders.clone()).covers(&orders));
        assert!(!ServiceSelector::Named(orders).covers(&whoami));
        assert!(ServiceSelector::Any.covers(&whoami));
    }

    #[test]
    fn the_hash_of_a_key_is_never_printed() {
        let secret = CredentialSecret::ApiKey { hash: [7; 32], pepper: "p1".into() };

        assert_eq!(format!("{secret:?}"), "ApiKey { hash: …, pepper: \"p1\" }");
    }
}
