//! Edits of the registry that are written down in the audit log, or not done.
//!
//! The record comes first: an edit of which nothing could be written down is not made. Should the edit itself fail then, a
//! second record says so.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::diff::diff;
use super::output::{self, Verdict};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::registry::Snapshot;
use crate::store::registry_change::Target;
use crate::store::registry_edit::{self, Edit, Outcome};
use crate::telemetry::{Actor, AuditEvent, AuditLog, AuditOutcome};

/// What is wanted, and on whose word.
#[derive(Clone, Debug)]
pub(super) struct Errand<'a> {
    /// What is done, as `key.revoke`.
    pub(super) verb: &'static str,
    /// To what.
    pub(super) target: Target,
    /// Why.
    pub(super) reason: Option<String>,
    /// What else is to be known of it.
    pub(super) detail: Option<String>,
    /// Whether it is only tried.
    pub(super) dry_run: bool,
    /// Into which file something new goes.
    pub(super) file: Option<&'a Path>,
}

/// How an edit went.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub(super) file: PathBuf,
    pub(super) outcome: Outcome,
    /// The registry as it is now.
    pub(super) after: Snapshot,
}

/// Carries out `edit`, or shows what it would change; `None` then.
pub(super) fn carry_out(config: &Config, edit: &Edit, errand: Errand<'_>) -> anyhow::Result<Option<Done>> {
    let log = AuditLog::new(config.audit.clone());
    let prepared = match registry_edit::prepare(&config.registry_dirs, edit, errand.file) {
        Ok(prepared) => prepared,
        Err(error) => {
            if !errand.dry_run {
                let mut event = event(&errand, AuditOutcome::Refused);
                event.detail = Some(format!("{:#}", anyhow::Error::new(error_copy(&error))));
                // That it is refused must be heard even where it cannot be written down.
                if let Err(unwritten) = log.append(event) {
                    output::tell(&format!("postern: the audit log: {:#}", anyhow::Error::new(unwritten)));
                }
            }
            return Err(error.into());
        }
    };
    let file = prepared.path.clone();
    if errand.dry_run {
        let former = prepared.former.as_deref().unwrap_or_default();
        output::print(&diff(&file.display().to_string(), former, &prepared.text))?;
        output::tell("Nothing was changed.");
        return Ok(None);
    }
    let outcome = prepared.outcome();
    if outcome == Outcome::Unchanged {
        return Ok(Some(Done { file, outcome, after: prepared.after }));
    }
    let mut event = event(&errand, AuditOutcome::Done);
    event.before = errand.target.state(&prepared.before);
    event.after = errand.target.state(&prepared.after);
    event.registry = Some(prepared.after.version().to_owned());
    let after = prepared.after.clone();
    log.append(event.clone()).context("nothing was changed, for it cannot be written into the audit log")?;
    if let Err(error) = prepared.commit() {
        event.outcome = AuditOutcome::Failed;
        event.after.clone_from(&event.before);
        event.detail = Some(error.to_string());
        if let Err(unwritten) = log.append(event) {
            output::tell(&format!("postern: the audit log: {:#}", anyhow::Error::new(unwritten)));
        }
        return Err(error.into());
    }
    Ok(Some(Done { file, outcome, after }))
}

/// Says what an edit has come to; `done` makes it a sentence, given the file.
pub(super) fn tell(done: Option<Done>, sentence: impl FnOnce(&str) -> String) -> anyhow::Result<()> {
    let Some(Done { file, outcome, .. }) = done else { return Ok(()) };
    let sentence = sentence(&file.display().to_string());
    Ok(output::print(&match outcome {
        Outcome::Changed => format!("{sentence}.\n"),
        Outcome::Unchanged => format!("{sentence}; it was so before.\n"),
    })?)
}

fn event(errand: &Errand<'_>, outcome: AuditOutcome) -> AuditEvent {
    let now = SystemClock.now();
    let mut event = AuditEvent::new(actor(), errand.verb, errand.target.to_string(), outcome, now);
    event.reason.clone_from(&errand.reason);
    event.detail.clone_from(&errand.detail);
    event
}

/// The message of an error that is still needed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Told(String);

fn error_copy(error: &registry_edit::EditError) -> Told {
    Told(crate::causes::Causes(error).to_string())
}

/// Writes down that something was changed that is not the registry.
pub(super) fn note(
    config: &Config,
    verb: &str,
    target: &str,
    reason: Option<String>,
    outcome: AuditOutcome,
) -> anyhow::Result<()> {
    let mut event = AuditEvent::new(actor(), verb, target, outcome, SystemClock.now());
    event.reason = reason;
    AuditLog::new(config.audit.clone()).append(event).context("the audit log")?;
    Ok(())
}

/// Writes down that something is changed that is not the registry, and does it by `work`; should that fail, a second record says so.
pub(super) fn noted<T>(
    config: &Config,
    (verb, target, reason): (&str, &str, Option<String>),
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    note(config, verb, target, reason.clone(), AuditOutcome::Done)
        .context("nothing was changed, for it cannot be written into the audit log")?;
    work().inspect_err(|_| {
        if let Err(unwritten) = note(config, verb, target, reason, AuditOutcome::Failed) {
            output::tell(&format!("postern: {unwritten:#}"));
        }
    })
}

/// Does `work`, which is a change that no agent carries out, and writes down what came of it. Where an agent runs, that does, for
/// whatever is asked of it.
pub(super) async fn witnessed(
    config: &Path,
    (verb, target, reason): (&'static str, String, Option<String>),
    work: impl Future<Output = anyhow::Result<Verdict>>,
) -> anyhow::Result<Verdict> {
    // What is wrong with it, `work` says better.
    let Ok(config) = crate::config::load(config) else { return work.await };
    if std::os::unix::net::UnixStream::connect(&config.admin_socket).is_ok() {
        return work.await;
    }
    if let Some(why) = AuditLog::new(config.audit.clone()).obstacle() {
        bail!("nothing was done, for it cannot be written into the audit log: {why}");
    }
    let outcome = work.await;
    let word = match &outcome {
        Err(_) => AuditOutcome::Failed,
        Ok(Verdict::No) => AuditOutcome::Refused,
        Ok(Verdict::Yes) => AuditOutcome::Done,
    };
    if let Err(error) = note(&config, verb, &target, reason, word) {
        output::tell(&format!("postern: {error:#}"));
    }
    outcome
}

/// Who runs this command.
pub(super) fn actor() -> Actor {
    let uid = rustix::process::getuid();
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid.as_raw())).ok().flatten();
    let name = user.map_or_else(|| format!("uid {}", uid.as_raw()), |user| user.name);
    // Anybody but root could set it to what he likes; root can write what he likes anyway.
    let sudo_uid = if uid.is_root() { sudo_uid() } else { None };
    Actor { name, uid: Some(uid.as_raw()), sudo_uid }
}

fn sudo_uid() -> Option<u32> {
    std::env::var_os("SUDO_UID")?.to_str()?.parse().ok()
}
