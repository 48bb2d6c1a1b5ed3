//! All that is on file at one moment, indexed and immutable: replaced whole or not at all.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use crate::id::{AppId, CredentialId, DeveloperId, ProductId};
use crate::identity::{Mapping, Match, Subject};
use crate::registry::changes::Changes;
use crate::registry::page::Page;
use crate::registry::token_rule::TokenRules;
use crate::registry::{App, Credential, CredentialKind, CredentialSecret, Developer, Product, Withheld};
use crate::shard_map::ShardMap;

/// All that is on file at one moment. The default is empty, so nobody is known and nothing is allowed.
///
/// Copies share what they have in common, so that a change of one app costs the same among ten and among a million.
#[derive(Clone, Default)]
pub struct Snapshot {
    apps: ShardMap<AppId, Arc<App>>,
    credentials: ShardMap<CredentialId, Arc<Credential>>,
    developers: ShardMap<DeveloperId, Arc<Developer>>,
    products: ShardMap<ProductId, Arc<Product>>,
    /// Every scope that some product conveys.
    scopes: ShardMap<String, ()>,
    client_keys: ShardMap<AppId, Vec<Arc<Credential>>>,
    /// By what the registry keeps of them, which nobody can steer who does not know the pepper.
    imported_keys: ShardMap<[u8; 32], Arc<Credential>>,
    /// How many such keys rest on each pepper.
    imported_peppers: BTreeMap<Arc<str>, usize>,
    certificates: Mapping<Arc<Credential>>,
    tokens: TokenRules,
    withheld: Arc<Withheld>,
    version: Box<str>,
}

/// How many things of each sort there are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Counts {
    /// Apps.
    pub apps: usize,
    /// Credentials of all kinds.
    pub credentials: usize,
    /// Developers.
    pub developers: usize,
    /// Products.
    pub products: usize,
}

/// The name of a thing is taken by another of its sort.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Taken;

/// Why a credential cannot be put on file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Conflict {
    /// This one is the same key, under another name.
    SameKey(CredentialId),
    /// This one stands for the same certificates.
    SameRule(CredentialId),
    /// One token could meet the rules of both this one and it.
    SameToken(CredentialId),
    /// Its name is taken.
    Taken,
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
    pub(super) fn put_app(&mut self, app: Arc<App>) -> Result<(), Taken> {
        self.apps.insert(app.id.clone(), app).map_err(|_| Taken)
    }

    pub(super) fn put_developer(&mut self, developer: Arc<Developer>) -> Result<(), Taken> {
        self.developers.insert(developer.id.clone(), developer).map_err(|_| Taken)
    }

    pub(super) fn put_product(&mut self, product: Arc<Product>) -> Result<(), Taken> {
        for scope in &product.scopes {
            // Others may convey it, too.
            self.scopes.insert(scope.clone(), ()).ok();
        }
        self.products.insert(product.id.clone(), product).map_err(|_| Taken)
    }

    pub(super) fn put_credential(&mut self, credential: Arc<Credential>) -> Result<(), Conflict> {
        let id = credential.id.clone();
        self.credentials.insert(id.clone(), Arc::clone(&credential)).map_err(|_| Conflict::Taken)?;
        self.put_rule(credential).inspect_err(|_| drop(self.credentials.remove(&id)))
    }

    fn put_rule(&mut self, credential: Arc<Credential>) -> Result<(), Conflict> {
        match &credential.secret {
            CredentialSecret::ApiKey { .. }
            | CredentialSecret::ClientSecret { .. }
            | CredentialSecret::Signature(_) => Ok(()),
            CredentialSecret::ImportedKey { hash, pepper } => {
                let (hash, pepper) = (*hash, Arc::clone(pepper));
                let put = self.imported_keys.insert(hash, credential);
                put.map_err(|other| Conflict::SameKey(other.id.clone()))?;
                *self.imported_peppers.entry(pepper).or_default() += 1;
                Ok(())
            }
            CredentialSecret::ClientKey(_) => {
                let app = credential.app.id.clone();
                let mut keys = self.client_keys.remove(&app).unwrap_or_default();
                keys.push(credential);
                // They have just been taken out.
                drop(self.client_keys.insert(app, keys));
                Ok(())
            }
            CredentialSecret::Certificate(on_file) => {
                let rule = on_file.rule.clone();
                let put = self.certificates.insert(rule, credential);
                put.map_err(|other| Conflict::SameRule(other.id.clone()))
            }
            CredentialSecret::Token(rule) => {
                let put = self.tokens.add(rule, &credential);
                put.map_err(|other| Conflict::SameToken(other.id.clone()))
            }
        }
    }

    pub(super) fn take_app(&mut self, id: &AppId) {
        drop(self.apps.remove(id));
    }

    pub(super) fn take_credential(&mut self, id: &CredentialId) {
        let Some(taken) = self.credentials.remove(id) else { return };
        match &taken.secret {
            CredentialSecret::ApiKey { .. }
            | CredentialSecret::ClientSecret { .. }
            | CredentialSecret::Signature(_) => {}
            CredentialSecret::ImportedKey { hash, pepper } => {
                drop(self.imported_keys.remove(hash));
                if let Some(keys) = self.imported_peppers.get_mut(pepper) {
                    *keys -= 1;
                    if *keys == 0 {
                        self.imported_peppers.remove(pepper);
                    }
                }
            }
            CredentialSecret::ClientKey(_) => {
                let mut keys = self.client_keys.remove(&taken.app.id).unwrap_or_default();
                keys.retain(|key| key.id != *id);
                if !keys.is_empty() {
                    // They have just been taken out.
                    drop(self.client_keys.insert(taken.app.id.clone(), keys));
                }
            }
            CredentialSecret::Certificate(on_file) => self.certificates.remove(&on_file.rule),
            CredentialSecret::Token(rule) => self.tokens.remove(rule, id),
        }
    }

    /// The snapshot with the apps of `fresh` in place of those of the files `before`. Whatever is the same stays the same
    /// piece of memory. `None` if the two contradict one another.
    pub(super) fn with(&self, before: &[&Page], fresh: &Self) -> Option<Self> {
        let mut next = self.clone();
        let (mut kept_apps, mut kept_credentials) = (HashSet::new(), HashSet::new());
        for app in before.iter().flat_map(|page| &page.apps) {
            if fresh.app(app.id.as_str()) == self.app(app.id.as_str()) {
                kept_apps.insert(&app.id);
            } else {
                next.take_app(&app.id);
            }
        }
        for credential in before.iter().flat_map(|page| &page.credentials) {
            if fresh.credential(credential.id.as_str()) == self.credential(credential.id.as_str()) {
                kept_credentials.insert(&credential.id);
            } else {
                next.take_credential(&credential.id);
            }
        }
        for (_, app) in fresh.apps.iter().filter(|(id, _)| !kept_apps.contains(id)) {
            next.put_app(Arc::clone(app)).ok()?;
        }
        for (_, credential) in fresh.credentials.iter().filter(|(id, _)| !kept_credentials.contains(id)) {
            let app = next.apps.get(&credential.app.id).cloned()?;
            next.put_credential(Arc::new(Credential { app, ..Credential::clone(credential) })).ok()?;
        }
        Some(next)
    }

    pub(super) fn set_version(&mut self, version: String) {
        self.version = version.into();
    }

    /// The API key on file under this public id, good or not.
    #[must_use]
    pub fn api_key(&self, id: &str) -> Option<&Arc<Credential>> {
        self.credential(id).filter(|credential| credential.kind() == CredentialKind::ApiKey)
    }

    /// The key of somebody else's making of which the registry keeps `hash`, good or not.
    #[must_use]
    pub fn imported_key(&self, hash: &[u8; 32]) -> Option<&Arc<Credential>> {
        self.imported_keys.get(hash)
    }

    /// The peppers that such keys rest on; none if there are no such keys.
    pub fn imported_peppers(&self) -> impl Iterator<Item = &str> {
        self.imported_peppers.keys().map(|pepper| &**pepper)
    }

    /// The signature key on file under this `keyid`, good or not.
    #[must_use]
    pub fn signature_key(&self, id: &str) -> Option<&Arc<Credential>> {
        self.credential(id).filter(|credential| credential.kind() == CredentialKind::Signature)
    }

    /// The keys on file with which this app signs for itself at the token endpoint, good or not.
    #[must_use]
    pub fn client_keys(&self, app: &str) -> &[Arc<Credential>] {
        self.client_keys.get(app).map(Vec::as_slice).unwrap_or_default()
    }

    /// The client secret on file under this public id, good or not.
    #[must_use]
    pub fn client_secret(&self, id: &str) -> Option<&Arc<Credential>> {
        self.credentials.get(id).filter(|credential| credential.kind() == CredentialKind::ClientSecret)
    }

    /// The credential on file, good or not, for a token of `issuer` that has been believed and claims what `claim` says.
    #[must_use]
    pub fn token(&self, issuer: &str, claim: impl Fn(&str) -> Option<String>) -> Option<&Arc<Credential>> {
        self.tokens.find(issuer, claim)
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
            Match::Found(credential)
                if credential.admits(subject) || !credential.is_for_issuer_of(subject) =>
            {
                None
            }
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

    /// Whether some product conveys `scope`.
    pub(super) fn conveys(&self, scope: &str) -> bool {
        self.scopes.get(scope).is_some()
    }

    /// All apps, by name.
    pub fn apps(&self) -> impl ExactSizeIterator<Item = &Arc<App>> {
        by_name(&self.apps)
    }

    /// All credentials, by name.
    pub fn credentials(&self) -> impl ExactSizeIterator<Item = &Arc<Credential>> {
        by_name(&self.credentials)
    }

    /// All developers, by name.
    pub fn developers(&self) -> impl ExactSizeIterator<Item = &Arc<Developer>> {
        by_name(&self.developers)
    }

    /// All products, by name.
    pub fn products(&self) -> impl ExactSizeIterator<Item = &Arc<Product>> {
        by_name(&self.products)
    }

    /// How many things of each sort there are.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        Counts {
            apps: self.apps.len(),
            credentials: self.credentials.len(),
            developers: self.developers.len(),
            products: self.products.len(),
        }
    }

    /// What is different in `new`. It costs no more than what the two do not share.
    #[must_use]
    pub fn changes_to(&self, new: &Self) -> Changes {
        let mut changes = Changes::default();
        changes.add("developers", &self.developers, &new.developers);
        changes.add("products", &self.products, &new.products);
        changes.add("apps", &self.apps, &new.apps);
        changes.add("credentials", &self.credentials, &new.credentials);
        changes
    }

    /// The same, but what is `withheld` is of no use, whatever is on file about it.
    #[must_use]
    pub fn withholding(&self, withheld: Arc<Withheld>) -> Self {
        Self { withheld, ..self.clone() }
    }

    /// What somebody else has revoked.
    #[must_use]
    pub fn withheld(&self) -> &Withheld {
        &self.withheld
    }

    /// A word that tells this snapshot from another; empty for the empty one.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }
}

fn by_name<K: Clone + Eq + Hash + Ord, V>(things: &ShardMap<K, Arc<V>>) -> std::vec::IntoIter<&Arc<V>> {
    let mut named: Vec<(&K, &Arc<V>)> = things.iter().collect();
    named.sort_unstable_by_key(|(name, _)| *name);
    named.into_iter().map(|(_, thing)| thing).collect::<Vec<_>>().into_iter()
}

impl fmt::Debug for Snapshot {
    /// Counts only: there may be a hundred thousand apps.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("version", &self.version).field("counts", &self.counts()).finish()
    }
}

#[cfg(test)]
mod tests {
    use crate::clock::Timestamp;
    use crate::identity::CertificateRule;
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
            key_max_age: None,
            attributes: Default::default(),
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
            scopes: None,
            grants: None,
            bindings: None,
        })
    }

    fn by_uri(text: &str) -> CredentialSecret {
        let rule = CertificateRule::uri(text).unwrap();
        CredentialSecret::Certificate(CertificatesOnFile {
            rule,
            multi_valued: MultiValued::Refuse,
            issuer: None,
        })
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
        assert_eq!((empty.counts().apps, empty.version()), (0, ""));
    }

    #[test]
    fn keys_are_found_by_id_and_certificates_by_rule() {
        let key = credential("0000000000A1", CredentialSecret::ApiKey { hash: [7; 32], pepper: "p1".into() });
        let svid = credential("ledger-svid", by_uri("spiffe://td/ledger"));
        let mut snapshot = Snapshot::default();
        snapshot.put_app(app("ledger")).unwrap();
        snapshot.put_credential(Arc::clone(&key)).unwrap();
        snapshot.put_credential(Arc::clone(&svid)).unwrap();

        assert_eq!(snapshot.api_key("0000000000A1"), Some(&key));
        assert_eq!(snapshot.api_key("ledger-svid"), None);
        assert_eq!(snapshot.certificate(&subject("spiffe://td/ledger")), Match::Found(&svid));
        assert_eq!(snapshot.app("ledger").map(|app| app.id.as_str()), Some("ledger"));
        assert_eq!(snapshot.credential("ledger-svid"), Some(&svid));
    }

    #[test]
    fn a_contradiction_is_refused_and_changes_nothing() {
        let (one, two) =
            (credential("one", by_uri("spiffe://td/a")), credential("two", by_uri("spiffe://td/a")));
        let mut snapshot = Snapshot::default();
        snapshot.put_app(app("ledger")).unwrap();
        snapshot.put_credential(Arc::clone(&one)).unwrap();

        assert_eq!(snapshot.put_app(app("ledger")), Err(Taken));
        assert_eq!(snapshot.put_credential(Arc::clone(&one)), Err(Conflict::Taken));
        assert_eq!(snapshot.put_credential(two), Err(Conflict::SameRule(one.id.clone())));
        assert_eq!(snapshot.certificate(&subject("spiffe://td/a")), Match::Found(&one));
        assert_eq!((snapshot.counts().apps, snapshot.counts().credentials), (1, 1));
    }

    #[test]
    fn what_was_taken_out_is_found_no_more() {
        let one = credential("one", by_uri("spiffe://td/a"));
        let mut snapshot = Snapshot::default();
        snapshot.put_credential(Arc::clone(&one)).unwrap();
        let before = snapshot.clone();

        snapshot.take_credential(&one.id);

        assert_eq!(snapshot.certificate(&subject("spiffe://td/a")), Match::NotFound);
        assert_eq!((snapshot.credential("one"), before.credential("one")), (None, Some(&one)));
    }
}
