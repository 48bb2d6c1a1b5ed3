//! Tokens that are taken back before their end, by name or all of an app or a credential that were issued until now.
//!
//! Each is forgotten when the last token that it is about has ended. There is room for so many and no more, and one app may fill
//! a part of it only, so that it cannot keep all others from taking back theirs.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::credential::token::{Denied, LEEWAY};
use crate::id::{AppId, CredentialId};

/// What is taken back.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum Withdrawal {
    /// Everything that was issued until then.
    All {
        /// The last second that it is about, since the Unix epoch.
        issued_until: i64,
    },
    /// All tokens of an app that were issued until then.
    App {
        /// Whose.
        app: AppId,
        /// The last second that it is about, since the Unix epoch.
        issued_until: i64,
    },
    /// All tokens by a credential that were issued until then.
    Credential {
        /// By which.
        credential: CredentialId,
        /// The last second that it is about, since the Unix epoch.
        issued_until: i64,
    },
    /// One token.
    Token {
        /// Whose; none where only its name is known.
        app: Option<AppId>,
        /// Its `jti`.
        jti: String,
        /// Its `exp`, since the Unix epoch.
        expires: i64,
    },
}

/// Why a withdrawal is not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WithdrawalError {
    /// There is no room, in all or for this app.
    #[error(
        "no more tokens can be taken back one by one; take back all of the app or of the credential instead"
    )]
    Full,
}

/// The longest life that a token of ours can have.
pub(super) const LONGEST_TTL: Duration = Duration::from_secs(3600);

impl Withdrawal {
    /// When it can be forgotten.
    #[must_use]
    pub fn until(&self) -> Timestamp {
        match self {
            Self::All { issued_until }
            | Self::App { issued_until, .. }
            | Self::Credential { issued_until, .. } => {
                // A token may say that it was issued a second later than it was.
                Timestamp::from_unix(*issued_until) + LONGEST_TTL + LEEWAY + Duration::from_secs(1)
            }
            Self::Token { expires, .. } => Timestamp::from_unix(*expires) + LEEWAY,
        }
    }
}

/// Everything that is taken back.
#[derive(Clone, Debug, Default)]
pub struct Withdrawals {
    tokens: HashMap<String, (Option<AppId>, i64)>,
    counts: BTreeMap<Option<AppId>, usize>,
    apps: HashMap<AppId, i64>,
    credentials: HashMap<CredentialId, i64>,
    all: Option<i64>,
}

/// Tokens that can be taken back one by one at a time.
const MOST_TOKENS: usize = 50_000;

/// One app gets at most this part of it.
const SHARE: usize = 8;

impl Withdrawals {
    /// Takes one in.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn add(&mut self, withdrawal: &Withdrawal) -> Result<(), WithdrawalError> {
        match withdrawal {
            Withdrawal::All { issued_until } => self.all = self.all.max(Some(*issued_until)),
            Withdrawal::App { app, issued_until } => later(&mut self.apps, app, *issued_until),
            Withdrawal::Credential { credential, issued_until } => {
                later(&mut self.credentials, credential, *issued_until);
            }
            Withdrawal::Token { app, jti, expires } => {
                if self.tokens.contains_key(jti) {
                    return Ok(());
                }
                let own = self.counts.get(app).copied().unwrap_or(0);
                let share = if app.is_some() { MOST_TOKENS / SHARE } else { MOST_TOKENS };
                if self.tokens.len() >= MOST_TOKENS || own >= share {
                    return Err(WithdrawalError::Full);
                }
                *self.counts.entry(app.clone()).or_default() += 1;
                self.tokens.insert(jti.clone(), (app.clone(), *expires));
            }
        }
        Ok(())
    }

    /// Forgets what is over; says whether anything was.
    pub fn forget(&mut self, now: Timestamp) -> bool {
        let before = self.len();
        let lasts = |withdrawal: &Withdrawal| now < withdrawal.until();
        let (tokens, counts) = (&mut self.tokens, &mut self.counts);
        tokens.retain(|jti, (app, expires)| {
            let lasts = lasts(&Withdrawal::Token { app: None, jti: jti.clone(), expires: *expires });
            if !lasts && let Some(count) = counts.get_mut(app) {
                *count -= 1;
            }
            lasts
        });
        counts.retain(|_, count| *count > 0);
        let recent = |issued_until: i64| lasts(&Withdrawal::All { issued_until });
        self.apps.retain(|_, issued_until| recent(*issued_until));
        self.credentials.retain(|_, issued_until| recent(*issued_until));
        self.all = self.all.filter(|issued_until| recent(*issued_until));
        self.len() != before
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len() + self.apps.len() + self.credentials.len() + usize::from(self.all.is_some())
    }

    /// Whether nothing is taken back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, to be written down.
    pub fn iter(&self) -> impl Iterator<Item = Withdrawal> {
        let all = self.all.map(|issued_until| Withdrawal::All { issued_until });
        let apps = self.apps.iter();
        let apps = apps.map(|(app, &issued_until)| Withdrawal::App { app: app.clone(), issued_until });
        let credentials = self.credentials.iter().map(|(credential, &issued_until)| Withdrawal::Credential {
            credential: credential.clone(),
            issued_until,
        });
        let tokens = self.tokens.iter().map(|(jti, (app, expires))| Withdrawal::Token {
            app: app.clone(),
            jti: jti.clone(),
            expires: *expires,
        });
        all.into_iter().chain(apps).chain(credentials).chain(tokens)
    }

    /// The same, as requests are held against it.
    #[must_use]
    pub fn denied(&self, issuer: &str) -> Denied {
        self.iter().fold(Denied::default(), |denied, withdrawal| {
            let until = withdrawal.until();
            match withdrawal {
                Withdrawal::All { issued_until } => {
                    denied.with_all_issued(Timestamp::from_unix(issued_until))
                }
                Withdrawal::App { app, issued_until } => {
                    denied.with_issued_to_app(app, Timestamp::from_unix(issued_until))
                }
                Withdrawal::Credential { credential, issued_until } => {
                    denied.with_issued_by_credential(credential, Timestamp::from_unix(issued_until))
                }
                Withdrawal::Token { jti, .. } => denied.with_token(issuer, &jti, until),
            }
        })
    }
}

fn later<K: Clone + Eq + std::hash::Hash>(known: &mut HashMap<K, i64>, key: &K, at: i64) {
    let latest = known.entry(key.clone()).or_insert(at);
    *latest = (*latest).max(at);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(app: &str, jti: &str, expires: i64) -> Withdrawal {
        Withdrawal::Token { app: Some(app.parse().unwrap()), jti: jti.to_owned(), expires }
    }

    #[test]
    fn a_withdrawal_is_forgotten_when_its_last_token_has_ended() {
        let start = 1_800_000_000;
        let mut all = Withdrawals::default();
        all.add(&token("web", "a", start + 60)).unwrap();
        all.add(&Withdrawal::App { app: "web".parse().unwrap(), issued_until: start }).unwrap();

        assert!(!all.forget(Timestamp::from_unix(start + 64)));
        assert!(all.forget(Timestamp::from_unix(start + 65)));
        assert_eq!(all.iter().collect::<Vec<_>>().len(), 1);
        assert!(!all.forget(Timestamp::from_unix(start + 3605)));
        assert!(all.forget(Timestamp::from_unix(start + 3606)));
        assert!(all.is_empty());
    }

    #[test]
    fn one_app_cannot_keep_another_from_taking_back_its_token() {
        let mut all = Withdrawals::default();
        for number in 0..MOST_TOKENS / SHARE {
            all.add(&token("greedy", &number.to_string(), 1)).unwrap();
        }

        assert_eq!(all.add(&token("greedy", "one more", 1)), Err(WithdrawalError::Full));
        assert_eq!(all.add(&token("greedy", "0", 1)), Ok(()), "it is taken back already");
        assert_eq!(all.add(&token("modest", "one", 1)), Ok(()));
        all.forget(Timestamp::from_unix(100));
        assert_eq!(all.add(&token("greedy", "one more", 200)), Ok(()));
    }

    #[test]
    fn what_is_written_is_read() {
        let mut all = Withdrawals::default();
        for withdrawal in [
            Withdrawal::All { issued_until: 5 },
            Withdrawal::App { app: "web".parse().unwrap(), issued_until: 6 },
            Withdrawal::Credential { credential: "c".parse().unwrap(), issued_until: 7 },
            token("web", "j", 8),
        ] {
            all.add(&withdrawal).unwrap();
            let text = serde_json::to_string(&withdrawal).unwrap();
            assert_eq!(serde_json::from_str::<Withdrawal>(&text).unwrap(), withdrawal, "{text}");
        }
        assert_eq!(all.iter().count(), 4);
    }
}
