//! `postern apply`: files say what the registry is to be like, and it is brought there in one step.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Serialize;

use super::args::ApplyArgs;
use super::check::{Warning, lints};
use super::clerk::actor;
use super::locate;
use super::moment::count;
use super::output::{self, Verdict};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::registry::Source;
use crate::store::registry_apply::{self, Action, Field, Planned, PreparedPlan, Prune};
use crate::store::registry_dir;
use crate::telemetry::{AuditEvent, AuditLog, AuditOutcome};

#[derive(Serialize)]
struct Report<'a> {
    /// Whether the changes have been made.
    applied: bool,
    changes: &'a [Planned],
    /// What `check` would say of the outcome, and does not say of the registry so far.
    warnings: &'a [Warning],
}

pub(super) fn run(config: &Path, args: ApplyArgs) -> anyhow::Result<Verdict> {
    let config = locate::config(config)?;
    let wanted = wanted(&args.files)?;
    apply(&config, &wanted, args)
}

/// Brings the registry to the state of `wanted`, or says what that would take.
pub(super) fn apply(config: &Config, wanted: &[Source], args: ApplyArgs) -> anyhow::Result<Verdict> {
    let prune = if args.prune { Prune::Delete } else { Prune::Keep };
    let prepared = match registry_apply::prepare(&config.registry_dirs, wanted, prune) {
        Ok(prepared) => prepared,
        Err(error) => {
            let error = anyhow::Error::new(error);
            if !args.plan {
                refused(config, args.reason, &error);
            }
            return Err(error);
        }
    };
    let changes = prepared.changes.clone();
    let warnings = new_warnings(&prepared, config);
    let pending = !changes.is_empty();
    if pending && !args.plan {
        commit(config, prepared, args.reason)?;
    }
    if args.format.json {
        output::print_json(&Report {
            applied: pending && !args.plan,
            changes: &changes,
            warnings: &warnings,
        })?;
    } else {
        output::print(&page(&changes, &warnings, args.plan))?;
    }
    Ok(Verdict::of(!args.plan || !pending))
}

/// The files that are given, and those of the folders that are given.
fn wanted(given: &[PathBuf]) -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in given {
        if path.is_dir() {
            let found = registry_dir::read(std::slice::from_ref(path))?;
            if found.is_empty() {
                bail!("{}: there is no file that ends in .toml", path.display());
            }
            sources.extend(found);
        } else {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("{}: cannot be read", path.display()))?;
            sources.push(Source { path: path.clone(), text });
        }
    }
    Ok(sources)
}

/// What is hardly meant and was not so before.
fn new_warnings(prepared: &PreparedPlan, config: &Config) -> Vec<Warning> {
    let before: HashSet<_> = lints(&prepared.before, Some(config)).into_iter().collect();
    let mut after = lints(&prepared.after, Some(config));
    after.retain(|warning| !before.contains(warning));
    after
}

/// Writes each change down, and makes them all.
fn commit(config: &Config, prepared: PreparedPlan, reason: Option<String>) -> anyhow::Result<()> {
    let log = AuditLog::new(config.audit.clone());
    let now = SystemClock.now();
    let event = |change: &Planned, outcome: AuditOutcome| {
        let verb = match change.action {
            Action::Change => "apply.change",
            Action::Create => "apply.create",
            Action::Delete => "apply.delete",
        };
        let mut event = AuditEvent::new(actor(), verb, change.target.to_string(), outcome, now);
        event.reason.clone_from(&reason);
        event.before = change.target.state(&prepared.before);
        event.after = change.target.state(&prepared.after);
        event.registry = Some(prepared.after.version().to_owned());
        event.detail = Some(detail(&change.fields));
        event
    };
    let done: Vec<_> = prepared.changes.iter().map(|change| event(change, AuditOutcome::Done)).collect();
    let failed: Vec<_> = prepared.changes.iter().map(|change| event(change, AuditOutcome::Failed)).collect();
    let undone = |number: usize, why: &str| {
        for mut event in failed.iter().take(number).cloned() {
            event.after.clone_from(&event.before);
            event.detail = Some(why.to_owned());
            if let Err(unwritten) = log.append(event) {
                output::tell(&format!("postern: the audit log: {:#}", anyhow::Error::new(unwritten)));
            }
        }
    };
    for (number, event) in done.into_iter().enumerate() {
        let written = log.append(event);
        if let Err(error) = written {
            undone(number, "another change could not be written down, so none was made");
            return Err(anyhow::Error::new(error)
                .context("nothing was changed, for it cannot be written into the audit log"));
        }
    }
    if let Err(error) = prepared.commit() {
        let error = anyhow::Error::new(error);
        undone(failed.len(), &format!("{error:#}"));
        return Err(error);
    }
    Ok(())
}

/// Writes down that nothing came of it.
fn refused(config: &Config, reason: Option<String>, error: &anyhow::Error) {
    let mut event = AuditEvent::new(actor(), "apply", "registry", AuditOutcome::Refused, SystemClock.now());
    event.reason = reason;
    event.detail = Some(format!("{error:#}"));
    // That it is refused must be heard even where it cannot be written down.
    if let Err(unwritten) = AuditLog::new(config.audit.clone()).append(event) {
        output::tell(&format!("postern: the audit log: {:#}", anyhow::Error::new(unwritten)));
    }
}

/// What differs, on one line.
fn detail(fields: &[Field]) -> String {
    let lines: Vec<String> = fields.iter().map(line).collect();
    let text = lines.join("; ");
    match text.char_indices().nth(LONGEST_DETAIL) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// A record is to be read, and the whole is in the files' own history.
const LONGEST_DETAIL: usize = 1000;

fn line(field: &Field) -> String {
    let Field { key, before, after } = field;
    match (before, after) {
        (Some(before), Some(after)) if before == after => format!("~ {key}: {after}"),
        (Some(before), Some(after)) => format!("~ {key}: {before} -> {after}"),
        (None, Some(after)) => format!("+ {key}: {after}"),
        (Some(before), None) => format!("- {key}: {before}"),
        (None, None) => key.clone(),
    }
}

fn page(changes: &[Planned], warnings: &[Warning], plan: bool) -> String {
    let mut page = String::new();
    for Planned { action, target, file, fields } in changes {
        let (sign, word) = match action {
            Action::Change => ("~", "change"),
            Action::Create => ("+", "create"),
            Action::Delete => ("-", "delete"),
        };
        page.push_str(&format!("{sign} {word} {target}, in {}\n", file.display()));
        // What is said of something that is new, or goes, needs no sign of its own.
        for field in fields {
            let line = line(field);
            let line = if *action == Action::Change { &line } else { line.get(2..).unwrap_or(&line) };
            page.push_str(&format!("    {line}\n"));
        }
    }
    warnings.iter().for_each(|warning| page.push_str(&format!("{warning}\n")));
    let of = |action| changes.iter().filter(|change| change.action == action).count();
    let counts = [(Action::Create, "create"), (Action::Change, "change"), (Action::Delete, "delete")];
    let counts = counts.map(|(action, word)| format!("{} to {word}", of(action))).join(", ");
    page.push_str(&match (changes.is_empty(), plan) {
        (true, _) => "No changes: the registry is as it is wanted.\n".to_owned(),
        (false, true) => format!("{counts}. Nothing was changed.\n"),
        (false, false) => format!("{} made.\n", count(changes.len(), "change")),
    });
    page
}
