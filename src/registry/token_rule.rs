//! Which tokens of outside issuers stand for an app: those that claim what its rule says, letter for letter.
//!
//! **Invariant:** no token meets two rules. Every rule of an issuer names the same claim as its key, and rules with the same
//! value in it differ in another claim that both of them name.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::registry::Credential;

/// Tokens of one issuer that claim certain things.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TokenRule {
    issuer: Arc<str>,
    key: String,
    claims: BTreeMap<String, String>,
}

/// The claims by which a client is usually told from others, in the order in which they are taken as the key of a rule.
pub(super) const USUAL_KEYS: [&str; 3] = ["client_id", "azp", "sub"];

/// A rule that asks for nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("it must say which tokens it stands for: one of client_id, azp, sub, or something in `claims`")]
pub struct EmptyTokenRule;

impl TokenRule {
    /// Tokens of `issuer` with all of `claims`.
    ///
    /// # Errors
    /// There are none, so every token would do.
    pub fn new(issuer: &str, claims: BTreeMap<String, String>) -> Result<Self, EmptyTokenRule> {
        let usual = USUAL_KEYS.into_iter().find(|name| claims.contains_key(*name)).map(str::to_owned);
        let key = usual.or_else(|| claims.keys().next().cloned()).ok_or(EmptyTokenRule)?;
        Ok(Self { issuer: issuer.into(), key, claims })
    }

    /// Whose tokens they are.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    fn value(&self) -> &str {
        self.claims.get(&self.key).map(String::as_str).unwrap_or_default()
    }

    fn meets(&self, claim: &impl Fn(&str) -> Option<String>) -> bool {
        self.claims.iter().all(|(name, value)| claim(name).as_deref() == Some(value))
    }

    /// Whether no token can meet both rules, which have the same key and value.
    fn excludes(&self, other: &Self) -> bool {
        self.claims.iter().any(|(name, value)| other.claims.get(name).is_some_and(|other| other != value))
    }
}

impl fmt::Display for TokenRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tokens of {}", self.issuer)?;
        for (position, (name, value)) in self.claims.iter().enumerate() {
            f.write_str(if position == 0 { " with " } else { " and " })?;
            write!(f, "{name} = {value:?}")?;
        }
        Ok(())
    }
}

/// All rules, so that the one that a token meets is found at once.
#[derive(Clone, Debug, Default)]
pub(super) struct TokenRules {
    issuers: HashMap<Arc<str>, Keyed>,
}

#[derive(Clone, Debug)]
struct Keyed {
    key: String,
    first: Arc<Credential>,
    by_value: HashMap<String, Vec<Arc<Credential>>>,
}

/// Two rules that one token could meet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Tie {
    pub(super) first: Arc<Credential>,
    pub(super) second: Arc<Credential>,
}

impl TokenRules {
    /// Adds the rule of `credential`.
    ///
    /// # Errors
    /// The credential with another rule that the same token could meet.
    pub(super) fn add(&mut self, rule: &TokenRule, credential: &Arc<Credential>) -> Result<(), Tie> {
        let tie = |first: &Arc<Credential>| Tie { first: Arc::clone(first), second: Arc::clone(credential) };
        let keyed = self.issuers.entry(Arc::clone(&rule.issuer)).or_insert_with(|| Keyed {
            key: rule.key.clone(),
            first: Arc::clone(credential),
            by_value: HashMap::new(),
        });
        if keyed.key != rule.key {
            return Err(tie(&keyed.first));
        }
        let alike = keyed.by_value.entry(rule.value().to_owned()).or_default();
        let could_meet =
            |other: &&Arc<Credential>| other.token_rule().is_none_or(|other| !other.excludes(rule));
        if let Some(other) = alike.iter().find(could_meet) {
            return Err(tie(other));
        }
        alike.push(Arc::clone(credential));
        Ok(())
    }

    /// The credential whose rule a token of `issuer` meets. More than one would be as bad as none.
    pub(super) fn find(
        &self,
        issuer: &str,
        claim: impl Fn(&str) -> Option<String>,
    ) -> Option<&Arc<Credential>> {
        let keyed = self.issuers.get(issuer)?;
        let alike = keyed.by_value.get(&claim(&keyed.key)?)?;
        let meets = |one: &&Arc<Credential>| one.token_rule().is_some_and(|rule| rule.meets(&claim));
        let mut met = alike.iter().filter(meets);
        met.next().filter(|_| met.next().is_none())
    }
}
