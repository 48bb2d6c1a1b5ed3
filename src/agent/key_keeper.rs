//! Hands an app its API key in a file, and the next one before the former is too old.
//!
//! The next key is made ready in a file beside (`.NAME.next`), then put on file in the registry, in one edit that lets the former one
//! go on for the grace; when every door knows it, the file takes its name. So whoever reads the file reads a key that works, at
//! any moment and after any crash.
//!
//! **Invariant:** a key that was revoked is not replaced by itself: somebody meant it. Removing the file asks for another one.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::rand::SystemRandom;
use data_encoding::HEXLOWER;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::director::InForce;
use super::registrar::Registrar;
use super::troubles::{Trouble, Troubles};
use crate::causes::Causes;
use crate::clock::{Clock, Timestamp};
use crate::config::KeyDelivery;
use crate::credential::ApiKey;
use crate::id::CredentialId;
use crate::proxy::Current;
use crate::registry::{AppStatus, Credential, CredentialStatus, DeveloperStatus, Snapshot};
use crate::store::atomic_file::{self, Owner};
use crate::store::disk;
use crate::store::registry_change::{Change, Target};
use crate::store::registry_edit::{self, Edit, StoredApiKey};
use crate::telemetry::{Actor, AuditEvent, AuditLog, AuditOutcome};

/// What there is to do for one delivery.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Step {
    /// Nothing, for this reason, which somebody should know.
    Blocked(String),
    /// What was made ready is known everywhere: it takes its name.
    Finish,
    /// What was made ready never came on file: it goes.
    GiveUp,
    /// A key is to be made; the one in the file, if it is good, retires.
    Make(Option<CredentialId>),
    /// Nothing.
    Wait,
}

/// Decides from the ids of the keys in the file and in the one beside it, what is on file and what is in force.
fn step(
    delivery: &KeyDelivery,
    (current, next): (Option<&str>, Option<&str>),
    (on_file, in_force): (&Snapshot, &Snapshot),
    now: Timestamp,
) -> Step {
    let app = &delivery.app;
    let own = |registry: &Snapshot, id: &str| -> Option<Arc<Credential>> {
        registry.api_key(id).filter(|one| one.app.id == *app).cloned()
    };
    if let Some(next) = next {
        return match (own(in_force, next), own(on_file, next)) {
            (Some(_), _) => Step::Finish,
            (None, Some(_)) => Step::Wait,
            (None, None) => Step::GiveUp,
        };
    }
    let Some(owner) = on_file.app(app.as_str()) else {
        return Step::Blocked(format!("there is no app called {app}"));
    };
    if owner.status == AppStatus::Revoked || owner.developer.status == DeveloperStatus::Inactive {
        return Step::Wait;
    }
    let Some(current) = current else { return Step::Make(None) };
    let Some(key) = own(on_file, current) else { return Step::Make(None) };
    match key.status {
        CredentialStatus::Approved => {
            let begun = key.created.or(key.not_before);
            let due = begun.is_none_or(|begun| now.since(begun) >= delivery.every);
            // A key that ends sooner is replaced in time as well.
            let ends = key.expires.is_some_and(|expires| expires.since(now) <= delivery.grace);
            if due || ends { Step::Make(Some(key.id.clone())) } else { Step::Wait }
        }
        CredentialStatus::Pending => Step::Wait,
        CredentialStatus::Retiring(_) => Step::Make(None),
        CredentialStatus::Revoked => Step::Blocked(format!(
            "the key {current} of {app} is revoked; remove {} to have another one made",
            delivery.file.display()
        )),
    }
}

/// Sees to all deliveries.
pub(super) struct KeyKeeper {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) current: Current,
    pub(super) in_force: Arc<ArcSwap<InForce>>,
    pub(super) audit: Arc<AuditLog>,
    pub(super) troubles: Arc<Troubles>,
    pub(super) setbacks: Setbacks,
}

/// By the file of a delivery: why no key could be made for it, and when that is tried again.
pub(super) type Setbacks = Mutex<BTreeMap<PathBuf, (String, Instant)>>;

/// Deliveries are looked at this often.
const EVERY: Duration = Duration::from_secs(1);

/// Every try at a key may leave records, and reads the whole registry: after one that failed, the next waits.
const SETBACK: Duration = Duration::from_secs(120);

impl KeyKeeper {
    /// Sees to them until it is dropped.
    pub(super) async fn run(self: Arc<Self>) {
        let keeper = self;
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            ticks.tick().await;
            let keeper = Arc::clone(&keeper);
            // Files, and a key to make: nothing for the control plane's one thread.
            if tokio::task::spawn_blocking(move || keeper.look()).await.is_err() {
                tracing::error!("keys cannot be delivered any more");
                return;
            }
        }
    }

    /// Looks at all deliveries once.
    fn look(&self) {
        let config = Arc::clone(&self.in_force.load().config);
        let mut told = Vec::new();
        for delivery in &config.key_rules.deliver {
            if let Err(why) = self.deliver(delivery, &config.registry_dirs) {
                told.push(format!("the key of {} is not delivered: {why}", delivery.app));
            }
        }
        if told.is_empty() {
            self.troubles.clear(Trouble::Keys);
        } else if self.troubles.note(Trouble::Keys, told.join("; ")) {
            tracing::error!(why = told.join("; "), "keys are not delivered");
        }
    }

    fn deliver(&self, delivery: &KeyDelivery, registry_dirs: &[PathBuf]) -> Result<(), String> {
        let beside = beside(&delivery.file);
        let (current, next) = (id_in(&delivery.file)?, id_in(&beside)?);
        let in_force = Arc::clone(&self.current.load().registry);
        let now = self.clock.now();
        let step = |on_file: &Snapshot| {
            step(delivery, (current.as_deref(), next.as_deref()), (on_file, &in_force), now)
        };
        let step = match step(&in_force) {
            // What is in force may be a moment old. To read everything that is on file costs too much to do it each time.
            Step::GiveUp | Step::Make(_) => {
                let on_file = Registrar::open(registry_dirs, now);
                step(on_file.map_err(|error| Causes(&error).to_string())?.snapshot())
            }
            other @ (Step::Blocked(_) | Step::Finish | Step::Wait) => other,
        };
        match step {
            Step::Blocked(why) => Err(why),
            Step::Finish => {
                fs::rename(&beside, &delivery.file).map_err(|error| error.to_string())?;
                tracing::info!(app.id = %delivery.app, file = %delivery.file.display(), "a key was delivered");
                Ok(())
            }
            Step::GiveUp => fs::remove_file(&beside).map_err(|error| error.to_string()),
            Step::Make(old) => self.try_to_make(delivery, registry_dirs, old, now),
            Step::Wait => Ok(()),
        }
    }

    /// Makes a key, unless that failed a moment ago.
    fn try_to_make(
        &self,
        delivery: &KeyDelivery,
        registry_dirs: &[PathBuf],
        old: Option<CredentialId>,
        now: Timestamp,
    ) -> Result<(), String> {
        let mut setbacks = self.setbacks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((why, until)) = setbacks.get(&delivery.file)
            && Instant::now() < *until
        {
            return Err(why.clone());
        }
        let made = self.make(delivery, registry_dirs, old, now);
        match &made {
            Ok(()) => drop(setbacks.remove(&delivery.file)),
            Err(why) => {
                let setback = (why.clone(), Instant::now() + SETBACK);
                drop(setbacks.insert(delivery.file.clone(), setback));
            }
        }
        made
    }

    fn make(
        &self,
        delivery: &KeyDelivery,
        registry_dirs: &[PathBuf],
        old: Option<CredentialId>,
        now: Timestamp,
    ) -> Result<(), String> {
        let peppers = Arc::clone(&self.current.load().peppers);
        let key = ApiKey::generate(&SystemRandom::new()).map_err(|_| "the system gives no random bytes")?;
        let id: CredentialId = key.id().parse().map_err(|_| "the key has no name")?;
        let pepper = peppers.newest().ok_or("there is no pepper")?;
        let hash = peppers.hash(pepper, key.text().expose_secret()).ok_or("there is no pepper")?;
        let hash = format!("hmac-sha256:{pepper}:{}", HEXLOWER.encode(&hash));
        let (created, retire_at) = (now.to_whole_second(), (now + delivery.grace).to_whole_second());
        // It outlives the next rotation, and one that comes late, but not an agent that is gone.
        let expires = Some((now + delivery.every + delivery.every + delivery.grace).to_whole_second());
        let (edit, verb, target) = match old {
            Some(old) => {
                let target = Target::Credential(old.clone());
                let entries = vec![("id", id.to_string()), ("hash", hash)];
                let change = Change::Rotate { old, retire_at, entries, created, expires };
                (Edit::Change(change), "key.rotate", target)
            }
            None => {
                let key = StoredApiKey { id: id.clone(), hash, created: Some(created), expires };
                let target = Target::Credential(id.clone());
                (Edit::AddApiKey { app: delivery.app.clone(), key }, "key.create", target)
            }
        };
        let prepared = registry_edit::prepare(registry_dirs, &edit, None);
        let prepared = prepared.map_err(|error| Causes(&error).to_string())?;
        // What cannot be done anyway leaves no record that it was, and none that it was not.
        if let Some(why) = prepared.path.parent().and_then(disk::obstacle) {
            return Err(format!("{}: {why}", prepared.path.display()));
        }
        self.lay_ready(delivery, key.text().expose_secret())?;
        let mut event =
            AuditEvent::new(Actor::agent(), verb, target.to_string(), AuditOutcome::Done, self.clock.now());
        event.before = target.state(&prepared.before);
        event.after = target.state(&prepared.after);
        event.registry = Some(prepared.after.version().to_owned());
        event.detail = Some(format!("credential:{id} goes to {}", delivery.file.display()));
        event.reason = Some(format!("[keys] every {}", delivery.every.as_secs()));
        let written = self.audit.append(event.clone()).map_err(|error| Causes(&error).to_string());
        let done = written.and_then(|_| {
            let committed = prepared.commit().map_err(|error| Causes(&error).to_string());
            committed.inspect_err(|why| self.take_back(event, why))
        });
        if done.is_err() {
            drop(fs::remove_file(beside(&delivery.file)));
        } else {
            tracing::info!(app.id = %delivery.app, credential.id = %id, "a key was made");
        }
        done
    }

    /// Writes down that what `event` tells of has failed.
    fn take_back(&self, mut event: AuditEvent, why: &str) {
        event.outcome = AuditOutcome::Failed;
        event.after.clone_from(&event.before);
        event.detail = Some(why.to_owned());
        if let Err(error) = self.audit.append(event) {
            tracing::error!(error = %Causes(&error), why, "a failure is not written into the audit log");
        }
    }

    /// Writes the key beside its file, for its reader's eyes only.
    fn lay_ready(&self, delivery: &KeyDelivery, key: &[u8]) -> Result<(), String> {
        let mut line = Zeroizing::new(key.to_vec());
        line.push(b'\n');
        let path = beside(&delivery.file);
        let owner = Owner { user: delivery.owner, group: None };
        atomic_file::replace_owned(&path, &line, 0o600, owner).map_err(|error| Causes(&error).to_string())
    }
}

fn beside(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{name}.next"))
}

/// The id of the key in a file; none if there is no file, or no key in it.
fn id_in(file: &Path) -> Result<Option<String>, String> {
    let state = match fs::symlink_metadata(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        state => state.map_err(|error| format!("{}: {error}", file.display()))?,
    };
    if !state.is_file() || state.size() > MOST {
        return Err(format!("{} is no file with a key", file.display()));
    }
    if state.permissions().mode() & 0o077 != 0 {
        return Err(format!("{} can be read by others than its owner: `chmod 600` it", file.display()));
    }
    let bytes = fs::read(file).map(Zeroizing::new).map_err(|error| format!("{}: {error}", file.display()))?;
    match ApiKey::id_of(bytes.trim_ascii()) {
        Ok(id) => Ok(Some(id.to_owned())),
        Err(_) if bytes.is_empty() => Ok(None),
        Err(_) => Err(format!("{} holds something that is no key of ours", file.display())),
    }
}

/// A key and its line end are no longer.
const MOST: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Source, parse};

    const DAY: Duration = Duration::from_secs(86_400);

    fn delivery() -> KeyDelivery {
        let app = "ledger".parse().unwrap();
        KeyDelivery { app, file: "/run/key".into(), owner: None, every: 30 * DAY, grace: 2 * DAY }
    }

    fn registry(lines: &str) -> Snapshot {
        let hash = "ab".repeat(32);
        let text = format!(
            "[[developer]]\nid = 'team'\n[[app]]\nid = 'ledger'\ndeveloper = 'team'\n[[app.api_key]]\nid = \
             '0000000000A1'\nhash = 'hmac-sha256:p1:{hash}'\n{lines}\n"
        );
        parse(&[Source { path: "a.toml".into(), text }]).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn asked(current: Option<&str>, next: Option<&str>, on_file: &str, in_force: &str, now: &str) -> Step {
        step(&delivery(), (current, next), (&registry(on_file), &registry(in_force)), at(now))
    }

    #[test]
    fn a_key_is_replaced_when_it_is_as_old_as_it_may_become() {
        let made = "created = 2026-06-01T00:00:00Z";
        let on = |now| asked(Some("0000000000A1"), None, made, made, now);

        assert_eq!(on("2026-06-30T23:59:59Z"), Step::Wait);
        assert_eq!(on("2026-07-01T00:00:00Z"), Step::Make(Some("0000000000A1".parse().unwrap())));
        // Of an unknown age it may be any.
        assert!(matches!(
            asked(Some("0000000000A1"), None, "", "", "2026-06-01T00:00:00Z"),
            Step::Make(Some(_))
        ));
    }

    #[test]
    fn what_is_not_there_is_made_and_what_was_revoked_is_not() {
        let made = "created = 2026-06-01T00:00:00Z";
        let now = "2026-06-02T00:00:00Z";

        assert_eq!(asked(None, None, made, made, now), Step::Make(None));
        assert_eq!(asked(Some("0000000000B2"), None, made, made, now), Step::Make(None));
        let revoked = "status = 'revoked'";
        assert!(matches!(asked(Some("0000000000A1"), None, revoked, revoked, now), Step::Blocked(_)));
        let retiring = "status = 'retiring'\nretire_at = 2026-07-01T00:00:00Z";
        assert_eq!(asked(Some("0000000000A1"), None, retiring, retiring, now), Step::Make(None));
    }

    #[test]
    fn what_was_made_ready_takes_its_name_when_every_door_knows_it() {
        let with = "created = 2026-06-01T00:00:00Z";
        let next = Some("0000000000A1");
        let nobody = parse(&[]).unwrap();
        let now = at("2026-06-02T00:00:00Z");
        let known = registry(with);
        let step = |on_file, in_force| step(&delivery(), (None, next), (on_file, in_force), now);

        assert_eq!(step(&known, &known), Step::Finish);
        assert_eq!(step(&known, &nobody), Step::Wait);
        assert_eq!(step(&nobody, &nobody), Step::GiveUp);
    }
}
