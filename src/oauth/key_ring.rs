//! Which key signs tokens, and which are still believed: prepared → active → retired → gone.
//!
//! A prepared key stands in the JWKS before it signs, so that whoever keeps a copy knows it in time. A retired one stays there
//! until the last token that it has signed has ended. A killed one is gone at once, and its tokens with it.
//!
//! **Invariant:** there is at most one active key, and a step that cannot be stored is not taken.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::credential::token::{Algorithm, LEEWAY, VerificationKey};
use crate::oauth::SigningKey;

/// All keys of one issuer.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KeyRing {
    /// In the order in which they were made.
    pub keys: Vec<TokenKey>,
    /// The keys that were killed, each with the end of the last token that it may have signed.
    pub killed: Vec<KilledKey>,
}

/// A key and how far it has come.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TokenKey {
    /// The key.
    pub key: Arc<SigningKey>,
    /// How far it has come.
    pub slot: KeySlot,
    /// When it was made.
    pub created: Timestamp,
    /// The longest life of a token that it may have signed.
    pub longest: Duration,
}

/// What is left of a key that was killed, so that its tokens can be told from forged ones.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KilledKey {
    /// Its public half.
    pub public: VerificationKey,
    /// The end of the last token that it may have signed.
    pub until: Timestamp,
}

/// How far a key has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeySlot {
    /// It signs.
    Active {
        /// Since then.
        since: Timestamp,
    },
    /// It is made known, and does not sign yet.
    Prepared,
    /// It does not sign any more, and what it has signed is believed.
    Retired {
        /// When its last token has ended.
        until: Timestamp,
    },
}

impl KeySlot {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active { .. } => "active",
            Self::Prepared => "prepared",
            Self::Retired { .. } => "retired",
        }
    }
}

/// What keys are to be like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KeyRules {
    /// By what new ones sign.
    pub algorithm: Algorithm,
    /// For how long one signs.
    pub lifetime: Duration,
    /// How long a token lives at most.
    pub ttl: Duration,
}

impl KeyRules {
    /// For how long a key is made known before it signs.
    #[must_use]
    pub fn lead(&self) -> Duration {
        (self.lifetime / 4).min(LONGEST_LEAD)
    }
}

/// Copies of a JWKS are kept for no longer than half of this.
pub const LONGEST_LEAD: Duration = Duration::from_secs(10 * 60);

/// What is to be done with a ring.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyStep {
    /// Let the prepared key sign, and retire the one that does.
    Activate,
    /// Forget keys whose last token has ended.
    Forget,
    /// Make a key and let it sign at once, for there is none.
    Make,
    /// Make the next key known.
    Prepare,
    /// Remember that longer tokens are signed than before.
    Stretch,
}

/// No key of this name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("there is no token key {0}")]
pub struct UnknownKey(pub String);

impl KeyRing {
    /// The key that signs.
    #[must_use]
    pub fn active(&self) -> Option<&TokenKey> {
        self.keys.iter().find(|key| matches!(key.slot, KeySlot::Active { .. }))
    }

    fn prepared(&self) -> Option<&TokenKey> {
        self.keys.iter().find(|key| key.slot == KeySlot::Prepared)
    }

    /// What is to be done at `now`, if anything is.
    #[must_use]
    pub fn due(&self, rules: &KeyRules, now: Timestamp) -> Option<KeyStep> {
        let Some(active) = self.active() else {
            let usable = self.prepared().filter(|key| key.key.algorithm() == rules.algorithm);
            return Some(if usable.is_some() { KeyStep::Activate } else { KeyStep::Make });
        };
        if active.longest < rules.ttl {
            return Some(KeyStep::Stretch);
        }
        let is_over = |key: &TokenKey| matches!(key.slot, KeySlot::Retired { until } if until <= now);
        if self.keys.iter().any(is_over) || self.killed.iter().any(|killed| killed.until <= now) {
            return Some(KeyStep::Forget);
        }
        let KeySlot::Active { since } = active.slot else { return None };
        // A key that begins to sign in the future does so because the clock was set back.
        let age = now.since(since);
        let unfit = active.key.algorithm() != rules.algorithm;
        match self.prepared() {
            Some(next) if next.key.algorithm() != rules.algorithm => Some(KeyStep::Prepare),
            Some(next) => {
                let known = now.since(next.created) >= rules.lead();
                ((unfit || age >= rules.lifetime) && known).then_some(KeyStep::Activate)
            }
            None if unfit || age + rules.lead() >= rules.lifetime => Some(KeyStep::Prepare),
            None => None,
        }
    }

    /// The ring after `step`; `fresh` makes a key by the algorithm of `rules` where the step needs one.
    ///
    /// # Errors
    /// Whatever `fresh` says.
    pub fn after<E>(
        &self,
        step: KeyStep,
        rules: &KeyRules,
        fresh: impl FnOnce(Algorithm) -> Result<SigningKey, E>,
        now: Timestamp,
    ) -> Result<Self, E> {
        let mut next = self.clone();
        let made =
            |key: SigningKey, slot| TokenKey { key: Arc::new(key), slot, created: now, longest: rules.ttl };
        match step {
            KeyStep::Activate => next.activate(now),
            KeyStep::Forget => {
                next.keys.retain(|key| !matches!(key.slot, KeySlot::Retired { until } if until <= now));
                next.killed.retain(|killed| now < killed.until);
            }
            KeyStep::Make => {
                next.keys.retain(|key| key.slot != KeySlot::Prepared);
                next.keys.push(made(fresh(rules.algorithm)?, KeySlot::Active { since: now }));
            }
            KeyStep::Prepare => {
                next.keys.retain(|key| key.slot != KeySlot::Prepared);
                next.keys.push(made(fresh(rules.algorithm)?, KeySlot::Prepared));
            }
            KeyStep::Stretch => {
                for key in next.keys.iter_mut().filter(|key| matches!(key.slot, KeySlot::Active { .. })) {
                    key.longest = key.longest.max(rules.ttl);
                }
            }
        }
        Ok(next)
    }

    fn activate(&mut self, now: Timestamp) {
        for key in &mut self.keys {
            match key.slot {
                KeySlot::Active { .. } => key.slot = KeySlot::Retired { until: now + key.longest + LEEWAY },
                KeySlot::Prepared => key.slot = KeySlot::Active { since: now },
                KeySlot::Retired { .. } => {}
            }
        }
    }

    /// The ring without the key of this name, whose tokens are not believed any more. Another key must sign from now on:
    /// [`KeyRing::due`] says how.
    ///
    /// # Errors
    /// There is no such key.
    pub fn without(&self, id: &str, now: Timestamp) -> Result<Self, UnknownKey> {
        let killed = self.keys.iter().find(|key| key.key.id() == id);
        let killed = killed.ok_or_else(|| UnknownKey(id.to_owned()))?;
        let until = match killed.slot {
            KeySlot::Active { .. } | KeySlot::Prepared => now + killed.longest + LEEWAY,
            KeySlot::Retired { until } => until,
        };
        let mut next = self.clone();
        next.killed.push(KilledKey { public: killed.key.public().clone(), until });
        next.keys.retain(|key| key.key.id() != id);
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth::SigningKeyError;

    const MINUTE: Duration = Duration::from_secs(60);
    const RULES: KeyRules =
        KeyRules { algorithm: Algorithm::EdDsa, lifetime: Duration::from_secs(3600), ttl: MINUTE };

    /// Takes every step that is due; what they were.
    fn settle(ring: &mut KeyRing, rules: &KeyRules, now: Timestamp) -> Vec<KeyStep> {
        let mut steps = Vec::new();
        while let Some(step) = ring.due(rules, now) {
            assert!(steps.len() < 10, "no end of {steps:?}");
            *ring = ring.after::<SigningKeyError>(step, rules, SigningKey::generate, now).unwrap();
            steps.push(step);
        }
        steps
    }

    fn slots(ring: &KeyRing) -> Vec<&'static str> {
        ring.keys.iter().map(|key| key.slot.as_str()).collect()
    }

    #[test]
    fn a_key_is_made_known_before_it_signs_and_believed_until_its_last_token_has_ended() {
        let (mut ring, start) = (KeyRing::default(), Timestamp::FLOOR);
        assert_eq!(settle(&mut ring, &RULES, start), [KeyStep::Make]);
        let first = ring.active().unwrap().key.id().to_owned();

        assert_eq!(settle(&mut ring, &RULES, start + 49 * MINUTE), []);
        assert_eq!(settle(&mut ring, &RULES, start + 50 * MINUTE), [KeyStep::Prepare]);
        assert_eq!(slots(&ring), ["active", "prepared"]);
        assert_eq!(ring.active().unwrap().key.id(), first);
        assert_eq!(settle(&mut ring, &RULES, start + 59 * MINUTE), []);
        assert_eq!(settle(&mut ring, &RULES, start + 60 * MINUTE), [KeyStep::Activate]);
        assert_eq!(slots(&ring), ["retired", "active"]);
        assert_ne!(ring.active().unwrap().key.id(), first);
        assert_eq!(settle(&mut ring, &RULES, start + 61 * MINUTE), [], "its last token has 5 s of leeway");
        assert_eq!(settle(&mut ring, &RULES, start + 61 * MINUTE + LEEWAY), [KeyStep::Forget]);
        assert_eq!(slots(&ring), ["active"]);
    }

    #[test]
    fn a_killed_key_is_gone_at_once_and_another_signs() {
        let (mut ring, start) = (KeyRing::default(), Timestamp::FLOOR);
        settle(&mut ring, &RULES, start);
        settle(&mut ring, &RULES, start + 50 * MINUTE);
        let ids: Vec<String> = ring.keys.iter().map(|key| key.key.id().to_owned()).collect();
        let now = start + 51 * MINUTE;

        let mut killed = ring.without(&ids[0], now).unwrap();

        assert_eq!(killed.active(), None);
        assert_eq!(
            settle(&mut killed, &RULES, now),
            [KeyStep::Activate],
            "the prepared one is known already"
        );
        assert_eq!(killed.active().unwrap().key.id(), ids[1]);
        assert_eq!(killed.killed.len(), 1);
        let mut bare = killed.without(&ids[1], now).unwrap();
        assert_eq!(settle(&mut bare, &RULES, now), [KeyStep::Make]);
        assert_eq!(settle(&mut bare, &RULES, now + MINUTE + LEEWAY), [KeyStep::Forget]);
        assert_eq!(bare.killed, []);
        assert_eq!(ring.without("k", now), Err(UnknownKey("k".to_owned())));
    }

    #[test]
    fn another_algorithm_comes_by_the_same_way() {
        let (mut ring, start) = (KeyRing::default(), Timestamp::FLOOR);
        settle(&mut ring, &RULES, start);
        let rules = KeyRules { algorithm: Algorithm::Es256, ..RULES };

        assert_eq!(settle(&mut ring, &rules, start), [KeyStep::Prepare]);
        assert_eq!(ring.active().unwrap().key.algorithm(), Algorithm::EdDsa);
        assert_eq!(settle(&mut ring, &rules, start + rules.lead()), [KeyStep::Activate]);
        assert_eq!(ring.active().unwrap().key.algorithm(), Algorithm::Es256);
    }

    #[test]
    fn a_retired_key_outlives_the_longest_token_that_it_may_have_signed() {
        let (mut ring, start) = (KeyRing::default(), Timestamp::FLOOR);
        settle(&mut ring, &RULES, start);
        let longer = KeyRules { ttl: 30 * MINUTE, ..RULES };
        assert_eq!(settle(&mut ring, &longer, start), [KeyStep::Stretch]);

        settle(&mut ring, &RULES, start + 50 * MINUTE);
        settle(&mut ring, &RULES, start + 60 * MINUTE);

        assert_eq!(ring.keys[0].slot, KeySlot::Retired { until: start + 90 * MINUTE + LEEWAY });
    }

    #[test]
    fn a_clock_that_was_set_back_rotates_nothing() {
        let (mut ring, start) = (KeyRing::default(), Timestamp::FLOOR + 100 * MINUTE);
        settle(&mut ring, &RULES, start);

        assert_eq!(ring.due(&RULES, start - 99 * MINUTE), None);
    }
}
