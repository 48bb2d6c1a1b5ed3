//! By whose word tokens are believed: our own keys, issuers outside, and what was taken back before its time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::claims::LEEWAY;
use super::jwk::{Algorithm, JwkSet, VerificationKey};
use crate::clock::Timestamp;
use crate::id::{AppId, CredentialId};

/// By whose word tokens are believed. The default believes nobody. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct TokenTrust {
    own: Option<Arc<OwnIssuer>>,
    outside: BTreeMap<Arc<str>, Arc<OutsideIssuer>>,
    denied: Arc<Denied>,
}

impl TokenTrust {
    /// The same, with tokens of our own.
    #[must_use]
    pub fn with_own(mut self, own: OwnIssuer) -> Self {
        self.own = Some(Arc::new(own));
        self
    }

    /// The same, with another issuer, in the place of one that has the same name.
    #[must_use]
    pub fn with_outside(mut self, issuer: OutsideIssuer) -> Self {
        self.outside.insert(Arc::clone(&issuer.issuer), Arc::new(issuer));
        self
    }

    /// The same, with what was taken back.
    #[must_use]
    pub fn with_denied(mut self, denied: impl Into<Arc<Denied>>) -> Self {
        self.denied = denied.into();
        self
    }

    /// Who issues tokens of our own, if anybody does.
    #[must_use]
    pub fn own(&self) -> Option<&OwnIssuer> {
        self.own.as_deref()
    }

    /// The outside issuer of this name.
    #[must_use]
    pub fn outside(&self, issuer: &str) -> Option<&OutsideIssuer> {
        self.outside.get(issuer).map(|found| &**found)
    }

    /// The outside issuers, each with whom its tokens speak of.
    pub fn issuers(&self) -> impl Iterator<Item = (&str, Proves)> {
        self.outside.iter().map(|(name, issuer)| (&**name, issuer.proves))
    }

    /// What was taken back.
    #[must_use]
    pub fn denied(&self) -> &Denied {
        &self.denied
    }

    /// Whether nobody is believed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.own.is_none() && self.outside.is_empty()
    }
}

/// Who issues tokens of our own, and by which keys they are checked.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OwnIssuer {
    /// The `iss` of its tokens.
    pub issuer: String,
    /// What this agent is called in `aud`; one of them must stand there.
    pub audiences: Vec<String>,
    keys: BTreeMap<String, (VerificationKey, KeyStatus)>,
}

/// Whether a token key is good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyStatus {
    /// Tokens are signed by it, or were until lately.
    Current,
    /// No token by it is taken any more, in time or not.
    Killed,
    /// Nothing new is signed by it; the last token by it has ended at this time.
    Retired {
        /// When it is of no more use.
        until: Timestamp,
    },
}

impl OwnIssuer {
    /// An issuer that has no keys yet.
    #[must_use]
    pub fn new(issuer: impl Into<String>, audiences: impl IntoIterator<Item = String>) -> Self {
        Self { issuer: issuer.into(), audiences: audiences.into_iter().collect(), keys: BTreeMap::new() }
    }

    /// The same, with a key, which goes by its thumbprint.
    #[must_use]
    pub fn with_key(mut self, key: VerificationKey, status: KeyStatus) -> Self {
        self.keys.insert(key.thumbprint(), (key, status));
        self
    }

    /// The key of this name, good or not.
    #[must_use]
    pub fn key(&self, id: &str) -> Option<(&VerificationKey, KeyStatus)> {
        self.keys.get(id).map(|(key, status)| (key, *status))
    }

    /// The keys, by name.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = (&str, &VerificationKey, KeyStatus)> {
        self.keys.iter().map(|(id, (key, status))| (id.as_str(), key, *status))
    }
}

/// Somebody else whose tokens are believed.
#[derive(Clone, Debug)]
pub struct OutsideIssuer {
    /// The `iss` of its tokens, letter for letter.
    pub issuer: Arc<str>,
    /// What this agent is called in `aud`; one of them must stand there.
    pub audiences: Vec<String>,
    /// The algorithms that are taken of it.
    pub algorithms: Vec<Algorithm>,
    /// How far its clock may be from ours.
    pub leeway: Duration,
    /// Of whom its tokens speak.
    pub proves: Proves,
    /// Which values of `typ` make a token an access token; that of RFC 9068 unless it has to be asked for less.
    pub kinds: Vec<String>,
    /// Its keys, as they were found last.
    pub keys: Arc<JwkSet>,
    /// Raised when a token names a key that is not among them.
    unknown_key: Arc<AtomicBool>,
}

/// Of whom the tokens of an issuer speak.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Proves {
    /// Of apps, by rules on file.
    Apps,
    /// Of users, who come with an app that proves itself otherwise.
    Users,
}

impl OutsideIssuer {
    /// An issuer for apps, with all algorithms, the usual leeway, and no keys yet.
    #[must_use]
    pub fn new(issuer: impl Into<Arc<str>>, audiences: impl IntoIterator<Item = String>) -> Self {
        Self {
            issuer: issuer.into(),
            audiences: audiences.into_iter().collect(),
            algorithms: Algorithm::ALL.to_vec(),
            leeway: LEEWAY,
            proves: Proves::Apps,
            kinds: vec!["at+jwt".to_owned()],
            keys: Arc::default(),
            unknown_key: Arc::default(),
        }
    }

    /// The same, with these keys.
    #[must_use]
    pub fn with_keys(mut self, keys: JwkSet) -> Self {
        self.keys = Arc::new(keys);
        self
    }

    /// The same, with a flag that is raised when a token names a key that is not among its keys: whoever fetches them looks
    /// at it, never a request.
    #[must_use]
    pub fn with_unknown_key(mut self, flag: Arc<AtomicBool>) -> Self {
        self.unknown_key = flag;
        self
    }

    /// The key of this name, if it is good for an algorithm that is taken of the issuer.
    #[must_use]
    pub fn key(&self, id: &str) -> Option<&VerificationKey> {
        let found = self.keys.key(id);
        if found.is_none() {
            self.unknown_key.store(true, Ordering::Relaxed);
        }
        found.filter(|key| self.algorithms.contains(&key.algorithm()))
    }
}

/// What was taken back before its time.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Denied {
    tokens: HashMap<Box<str>, HashMap<Box<str>, Timestamp>>,
    keys: HashSet<Box<str>>,
    apps: HashMap<AppId, Timestamp>,
    credentials: HashMap<CredentialId, Timestamp>,
    all: Option<Timestamp>,
}

impl Denied {
    /// Takes back the token that `issuer` has given this `jti`. It may be forgotten after `until`, its `exp` and the leeway.
    #[must_use]
    pub fn with_token(mut self, issuer: &str, id: &str, until: Timestamp) -> Self {
        self.tokens.entry(issuer.into()).or_default().insert(id.into(), until);
        self
    }

    /// Takes back all tokens of our own by the key of this name.
    #[must_use]
    pub fn with_key(mut self, id: &str) -> Self {
        self.keys.insert(id.into());
        self
    }

    /// Takes back all tokens of our own that `app` was issued until then.
    #[must_use]
    pub fn with_issued_to_app(mut self, app: AppId, until: Timestamp) -> Self {
        self.apps.insert(app, until);
        self
    }

    /// Takes back all tokens of our own that were issued by `credential` until then.
    #[must_use]
    pub fn with_issued_by_credential(mut self, credential: CredentialId, until: Timestamp) -> Self {
        self.credentials.insert(credential, until);
        self
    }

    /// Takes back all tokens of our own that were issued until then.
    #[must_use]
    pub const fn with_all_issued(mut self, until: Timestamp) -> Self {
        self.all = Some(until);
        self
    }

    /// Until when tokens of our own to `app` by `credential` must have been issued to be taken back, if any are.
    #[must_use]
    pub fn issued_until(&self, app: &str, credential: &str) -> Option<Timestamp> {
        let by_app = self.apps.get(app).copied();
        let by_credential = self.credentials.get(credential).copied();
        [self.all, by_app, by_credential].into_iter().flatten().max()
    }

    /// The second until which the next such order is to reach that is given at `now`: later than every other one, for a token that
    /// was made after one of these says a later second, too.
    #[must_use]
    pub fn next_reach(&self, now: Timestamp) -> Timestamp {
        let orders =
            self.all.into_iter().chain(self.apps.values().copied()).chain(self.credentials.values().copied());
        let second = now.to_whole_second();
        orders.max().map_or(second, |latest| second.max(latest.to_whole_second() + Duration::from_secs(1)))
    }

    /// The same, without tokens that have ended anyway.
    #[must_use]
    pub fn at(mut self, now: Timestamp) -> Self {
        self.tokens.retain(|_, ids| {
            ids.retain(|_, until| now < *until);
            !ids.is_empty()
        });
        self
    }

    /// Whether this token was taken back.
    #[must_use]
    pub fn has_token(&self, issuer: &str, id: &str) -> bool {
        self.tokens.get(issuer).is_some_and(|ids| ids.contains_key(id))
    }

    /// Whether the key of this name was taken back.
    #[must_use]
    pub fn has_key(&self, id: &str) -> bool {
        self.keys.contains(id)
    }

    /// How many tokens are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.values().map(HashMap::len).sum()
    }

    /// Whether nothing was taken back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let broad = self.apps.is_empty() && self.credentials.is_empty() && self.all.is_none();
        self.tokens.is_empty() && self.keys.is_empty() && broad
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denied_token_is_remembered_until_its_end_and_by_issuer() {
        let until = Timestamp::from_unix(1_800_000_000);
        let denied = Denied::default().with_token("a", "j", until).with_key("k");

        assert!(denied.has_token("a", "j") && denied.has_key("k"));
        assert!(!denied.has_token("b", "j") && !denied.has_token("a", "k") && !denied.has_key("j"));
        assert_eq!(denied.clone().at(Timestamp::from_unix(1_799_999_999)).len(), 1);
        let later = denied.at(until);
        assert_eq!((later.len(), later.is_empty()), (0, false));
    }

    #[test]
    fn every_order_reaches_beyond_the_one_before_even_within_a_second() {
        let now = Timestamp::from_unix(1_800_000_000);
        let second = Duration::from_secs(1);
        assert_eq!(Denied::default().next_reach(now), now);

        let denied = Denied::default().with_issued_by_credential("c".parse().unwrap(), now);
        assert_eq!(denied.next_reach(now), now + second);
        let denied = denied.with_issued_to_app("web".parse().unwrap(), now + second);
        assert_eq!(
            (denied.next_reach(now), denied.next_reach(now + 9 * second)),
            (now + 2 * second, now + 9 * second)
        );
    }

    #[test]
    fn what_was_issued_until_then_is_taken_back_by_app_by_credential_or_altogether() {
        let at = Timestamp::from_unix;
        let denied = Denied::default()
            .with_issued_to_app("web".parse().unwrap(), at(5))
            .with_issued_by_credential("c".parse().unwrap(), at(7));

        assert_eq!(denied.issued_until("web", "x"), Some(at(5)));
        assert_eq!(denied.issued_until("web", "c"), Some(at(7)));
        assert_eq!(denied.issued_until("x", "x"), None);
        assert_eq!(denied.with_all_issued(at(6)).issued_until("x", "x"), Some(at(6)));
    }

    #[test]
    fn an_unknown_key_raises_the_flag() {
        let flag = Arc::new(AtomicBool::new(false));
        let issuer = OutsideIssuer::new("https://i.test", []).with_unknown_key(Arc::clone(&flag));

        assert!(issuer.key("k").is_none());

        assert!(flag.load(Ordering::Relaxed));
    }
}
