//! All that is on file at one moment, indexed and immutable: replaced whole or not at all.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::id::{AppId, CredentialId, DeveloperId, ProductId};
use crate::identity::{CertificateRule, Mapping, Match, Subject};
use crate::registry::{App, Credential, CredentialKind, CredentialSecret, Developer, Product};

/// All that is on file at one moment. The default is empty, so nobody is known and nothing is allowed.
#[derive(Clone, Default)]
pub struct Snapshot {
    apps: BTreeMap<AppId, Arc<App>>,
    credentials: BTreeMap<CredentialId, Arc<Credential>>,
    developers: BTreeMap<DeveloperId, Arc<Developer>>,
    products: BTreeMap<ProductId, Arc<Product>>,
    api_keys: HashMap<CredentialId, Arc<Credential>>,
    signature_keys: HashMap<CredentialId, Arc<Credential>>,
    /// By what the registry keeps of them, which nobody can steer who does not know the pepper.
    imported_keys: HashMap<[u8; 32], Arc<Credential>>,
    imported_peppers: Vec<Arc<str>>,
    certificates: Mapping<Arc<Credential>>,
    version: Box<str>,
}

/// What a snapshot is made of.
#[derive(Clone, Debug, Default)]
pub struct Definitions {
    /// All apps.
    pub apps: Vec<Arc<App>>,
    /// All credentials.
    pub credentials: Vec<Arc<Credential>>,
    /// All developers.
    pub developers: Vec<Arc<Developer>>,
    /// All products.
    pub products: Vec<Arc<Product>>,
    /// A word that changes when any of it does.
    pub version: String,
}

/// Why definitions contradict one another.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Conflict {
    /// Two credentials stand for the same certificates.
    #[error("the credentials `{first}` and `{second}` have the same rule: {rule}")]
    AmbiguousRule {
        /// The earlier credential.
        first: CredentialId,
        /// The later one.
        second: CredentialId,
        /// The rule of both.
        rule: Box<CertificateRule>,
    },
    /// One name stands for two things of one sort.
    #[error("two things are called `{0}`")]
    DuplicateId(String),
    /// Two credentials are the same key.
    #[error("the key `{0}` is on file already, under another name")]
    SameKey(CredentialId),
}

/// Why a certificate with a multi-valued name stands for nobody.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NameNotAdmitted {
    /// The rule that it meets does not say that it stands for such names.
    #[error(
        "several attributes share a relative name in the certificate's name, and the rule of `{0}`, which it meets, does not say multi_valued = true"
    )]
    ByRule(CredentialId),
    /// It meets no rule; one by subject would have to list such attributes together.
    #[error(
        "several attributes share a relative name in the certificate's name, and it meets no rule; one by subject lists such attributes together"
    )]
    NoRule,
}

impl Snapshot {
    /// Indexes what is on file.
    ///
    /// # Errors
    /// All contradictions.
    pub fn build(definitions: Definitions) -> Result<Self, Vec<Conflict>> {
        let Definitions { apps, credentials, developers, products, version } = definitions;
        let mut conflicts = Vec::new();
        let rules: Vec<(&CertificateRule, &Arc<Credential>)> = credentials
            .iter()
            .filter_map(|credential| match &credential.secret {
                CredentialSecret::ApiKey { .. }
                | CredentialSecret::ImportedKey { .. }
                | CredentialSecret::Signature(_) => None,
                CredentialSecret::Certificate(on_file) => Some((&on_file.rule, credential)),
            })
            .collect();
        let owned = rules.iter().map(|&(rule, credential)| (rule.clone(), Arc::clone(credential)));
        let certificates = Mapping::build(owned).unwrap_or_else(|ambiguous| {
            let id = |position: usize| rules.get(position).map(|(_, credential)| credential.id.clone());
            conflicts.extend(ambiguous.0.into_iter().filter_map(|clash| {
                let (first, second) = (id(clash.first)?, id(clash.second)?);
                Some(Conflict::AmbiguousRule { first, second, rule: Box::new(clash.rule) })
            }));
            Mapping::default()
        });
        let by_id = |kind: CredentialKind| {
            let keys = credentials.iter().filter(|credential| credential.kind() == kind);
            keys.map(|key| (key.id.clone(), Arc::clone(key))).collect()
        };
        let (mut imported_keys, mut imported_peppers) = (HashMap::new(), Vec::new());
        for credential in &credentials {
            if let CredentialSecret::ImportedKey { hash, pepper } = &credential.secret {
                if imported_keys.insert(*hash, Arc::clone(credential)).is_some() {
                    conflicts.push(Conflict::SameKey(credential.id.clone()));
                }
                if !imported_peppers.contains(pepper) {
                    imported_peppers.push(Arc::clone(pepper));
                }
            }
        }
        let snapshot = Self {
            imported_keys,
            imported_peppers,
            api_keys: by_id(CredentialKind::ApiKey),
            signature_keys: by_id(CredentialKind::Signature),
            apps: index(apps, |app| &app.id, &mut conflicts),
            credentials: index(credentials, |credential| &credential.id, &mut conflicts),
            developers: index(developers, |developer| &developer.id, &mut conflicts),
            products: index(products, |product| &product.id, &mut conflicts),
            certificates,
            version: version.into(),
        };
        if conflicts.is_empty() { Ok(snapshot) } else { Err(conflicts) }
    }

    /// The API key on file under this public id, good or not.
    #[must_use]
    pub fn api_key(&self, id: &str) -> Option<&Arc<Credential>> {
        self.api_keys.get(id)
    }

    /// The key of somebody else's making of which the registry keeps `hash`, good or not.
    #[must_use]
    pub fn imported_key(&self, hash: &[u8; 32]) -> Option<&Arc<Credential>> {
        self.imported_keys.get(hash)
    }

    /// The peppers that such keys rest on; none if there are no such keys.
    pub fn imported_peppers(&self) -> impl Iterator<Item = &str> {
        self.imported_peppers.iter().map(|pepper| &**pepper)
    }

    /// The signature key on file under this `keyid`, good or not.
    #[must_use]
    pub fn signature_key(&self, id: &str) -> Option<&Arc<Credential>> {
        self.signature_keys.get(id)
    }

    /// The credential on file for a verified certificate, good or not.
    ///
    /// The narrowest rule decides also where it does not admit the certificate's name: a wider one does not make its
    /// holder somebody else.
    #[must_use]
    pub fn certificate(&self, subject: &Subject) -> Match<'_, Arc<Credential>> {
        match self.certificates.find(subject) {
            Match::Found(credential) if !credential.admits(subject) => Match::NotFound,
            found @ (Match::Ambiguous | Match::Found(_) | Match::NotFound) => found,
        }
    }

    /// Why there may be no credential on file for a certificate with a multi-valued name; none if there is one, or if its
    /// name is not the reason.
    #[must_use]
    pub fn objection_to_name(&self, subject: &Subject) -> Option<NameNotAdmitted> {
        if !subject.is_multi_valued() {
            return None;
        }
        match self.certificates.find(subject) {
            Match::Ambiguous => None,
            Match::Found(credential) if credential.admits(subject) => None,
            Match::Found(credential) => Some(NameNotAdmitted::ByRule(credential.id.clone())),
            Match::NotFound => Some(NameNotAdmitted::NoRule),
        }
    }

    /// The app of this name.
    #[must_use]
    pub fn app(&self, id: &str) -> Option<&Arc<App>> {
        self.apps.get(id)
    }

    /// The credential of this name, of any kind.
    #[must_use]
    pub fn credential(&self, id: &str) -> Option<&Arc<Credential>> {
        self.credentials.get(id)
    }

    /// The developer of this name.
    #[must_use]
    pub fn developer(&self, id: &str) -> Option<&Arc<Developer>> {
        self.developers.get(id)
    }

    /// The product of this name.
    #[must_use]
    pub fn product(&self, id: &str) -> Option<&Arc<Product>> {
        self.products.get(id)
    }

    /// All apps, by name.
    pub fn apps(&self) -> impl ExactSizeIterator<Item = &Arc<App>> {
        self.apps.values()
    }

    /// All credentials, by name.
    pub fn credentials(&self) -> impl ExactSizeIterator<Item = &Arc<Credential>> {
        self.credentials.values()
    }

    /// All developers, by name.
    pub fn developers(&self) -> impl ExactSizeIterator<Item = &Arc<Developer>> {
        self.developers.values()
    }

    /// All products, by name.
    pub fn products(&self) -> impl ExactSizeIterator<Item = &Arc<Product>> {
        self.products.values()
    }

    /// A word that tells this snapshot from another; empty for the empty one.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }
}

fn index<K, V>(
    values: Vec<Arc<V>>,
    key: impl Fn(&V) -> &K,
    conflicts: &mut Vec<Conflict>,
) -> BTreeMap<K, Arc<V>>
where
    K: Clone + Ord + fmt::Display,
{
    let mut index = BTreeMap::new();
    for value in values {
        match index.entry(key(&value).clone()) {
            Entry::Occupied(taken) => conflicts.push(Conflict::DuplicateId(taken.key().to_string())),
            Entry::Vacant(free) => drop(free.insert(value)),
        }
    }
    index
}

impl fmt::Debug for Snapshot {
    /// Counts only: there may be a hundred thousand apps.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("version", &self.version)
            .field("apps", &self.apps.len())
            .field("credentials", &self.credentials.len())
            .field("developers", &self.developers.len())
            .field("products", &self.products.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use crate::clock::Timestamp;
    use crate::limit::Priority;
    use crate::registry::{AppStatus, CertificatesOnFile, CredentialStatus, DeveloperStatus, MultiValued};

    use super::*;

    fn app(id: &str) -> Arc<App> {
        let developer = Developer { id: "team".parse().unwrap(), status: DeveloperStatus::Active };
        Arc::new(App {
            id: id.parse().unwrap(),
            developer: Arc::new(developer),
            status: AppStatus::Approved,
            accepts: None,
            limits: None,
            priority: Priority::Normal,
            grants: Vec::new(),
        })
    }

    fn credential(id: &str, secret: CredentialSecret) -> Arc<Credential> {
        let status = CredentialStatus::Approved;
        let id = id.parse().unwrap();
        Arc::new(Credential {
            id,
            app: app("ledger"),
            secret,
            status,
            created: None,
            not_before: None,
            expires: None,
        })
    }

    fn by_uri(text: &str) -> CredentialSecret {
        let rule = CertificateRule::uri(text).unwrap();
        CredentialSecret::Certificate(CertificatesOnFile { rule, multi_valued: MultiValued::Refuse })
    }

    fn subject(id: &str) -> Subject {
        Subject {
            spiffe_id: id.parse().unwrap(),
            dns: Vec::new(),
            attributes: Vec::new(),
            distinguished_name: String::new(),
            serial: String::new(),
            issuer: String::new(),
            not_before: Timestamp::FLOOR,
            not_after: Timestamp::FLOOR,
            sha256: [0; 32],
            spki_sha256: [0; 32],
        }
    }

    #[test]
    fn the_empty_snapshot_knows_nobody() {
        let empty = Snapshot::default();

        assert!(empty.api_key("0000000000A1").is_none());
        assert_eq!(empty.certificate(&subject("spiffe://td/a")), Match::NotFound);
        assert_eq!((empty.apps().len(), empty.version()), (0, ""));
    }

    #[test]
    fn keys_are_found_by_id_and_certificates_by_rule() {
        let key = credential("0000000000A1", CredentialSecret::ApiKey { hash: [7; 32], pepper: "p1".into() });
        let svid = credential("ledger-svid", by_uri("spiffe://td/ledger"));
        let snapshot = Snapshot::build(Definitions {
            apps: vec![app("ledger")],
            credentials: vec![Arc::clone(&key), Arc::clone(&svid)],
            ..Definitions::default()
        })
        .unwrap();

        assert_eq!(snapshot.api_key("0000000000A1"), Some(&key));
        assert_eq!(snapshot.api_key("ledger-svid"), None);
        assert_eq!(snapshot.certificate(&subject("spiffe://td/ledger")), Match::Found(&svid));
        assert_eq!(snapshot.app("ledger").map(|app| app.id.as_str()), Some("ledger"));
        assert_eq!(snapshot.credential("ledger-svid"), Some(&svid));
    }

    #[test]
    fn contradictions_are_all_named() {
        let one = credential("one", by_uri("spiffe://td/a"));
        let two = credential("two", by_uri("spiffe://td/a"));
        let definitions = Definitions {
            apps: vec![app("ledger"), app("ledger")],
            credentials: vec![one, two],
            ..Definitions::default()
        };

        let conflicts = Snapshot::build(definitions).unwrap_err();

        assert_eq!(
            conflicts.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "the credentials `one` and `two` have the same rule: uri spiffe://td/a",
                "two things are called `ledger`",
            ]
        );
    }
}
