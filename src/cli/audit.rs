//! `postern audit`: who changed what, and whether the log of it still says so.

use std::path::Path;

use serde::Serialize;

use super::args::{AuditVerb, Expiry, Format};
use super::locate;
use super::moment::count;
use super::output::{self, Verdict};
use super::table::Table;
use crate::clock::{Clock as _, SystemClock};
use crate::telemetry::{AuditLog, AuditOutcome, AuditRecord, Verification};

pub(super) fn run(config: &Path, verb: AuditVerb) -> anyhow::Result<Verdict> {
    let log = AuditLog::new(locate::config(config)?.audit);
    match verb {
        AuditVerb::Show { since, target, format } => {
            show(&log, since, target.as_deref(), format)?;
            Ok(Verdict::Yes)
        }
        AuditVerb::Verify { expect, format } => verify(&log, expect.as_deref(), format),
    }
}

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    #[serde(flatten)]
    found: &'a Verification,
}

fn verify(log: &AuditLog, expected: Option<&str>, format: Format) -> anyhow::Result<Verdict> {
    let found = log.verify(expected)?;
    let ok = found.faults.is_empty();
    if format.json {
        output::print_json(&Report { ok, found: &found })?;
        return Ok(Verdict::of(ok));
    }
    let mut text: String = found.faults.iter().map(|fault| format!("{fault}\n")).collect();
    if let Some(bytes) = found.unfinished {
        text.push_str(&format!(
            "The last {bytes} bytes were never finished, as after a crash; the next record closes them.\n"
        ));
    }
    if found.closed > 0 {
        let ends = count(usize::try_from(found.closed).unwrap_or(usize::MAX), "end");
        text.push_str(&format!("{ends} that a crash left unfinished, closed by the record after it.\n"));
    }
    let records = count(usize::try_from(found.records).unwrap_or(usize::MAX), "record");
    let keyed = match found.keyed {
        0 => "none of them keyed".to_owned(),
        keyed => format!("{keyed} of them keyed"),
    };
    let verdict = if ok { "whole" } else { "NOT AS IT WAS WRITTEN" };
    text.push_str(&format!("{}: {records}, {keyed}: {verdict}\n", log.folder().display()));
    if let Some(after) = found.after_expected {
        text.push_str(&format!("The expected record is there, and {after} after it.\n"));
    }
    if let Some(head) = &found.head {
        text.push_str(&format!("head {} {}\n", head.seq, head.hash));
    }
    output::print(&text)?;
    Ok(Verdict::of(ok))
}

fn show(log: &AuditLog, since: Option<Expiry>, target: Option<&str>, format: Format) -> anyhow::Result<()> {
    let now = SystemClock.now();
    let since = since.map(|since| match since {
        Expiry::At(at) => at,
        Expiry::In(span) => now - span,
    });
    let wanted = |record: &AuditRecord| {
        since.is_none_or(|since| record.event.time >= since)
            && target.is_none_or(|target| is_about(&record.event.target, target))
    };
    let records = log.records(wanted)?;
    if format.json {
        return output::print_json(&records);
    }
    let mut table = Table::new(["NO", "TIME", "WHO", "VERB", "TARGET", "FROM", "TO", "OUTCOME", "WHY"]);
    for AuditRecord { seq, event, .. } in records {
        let who = match event.actor.sudo_uid {
            Some(uid) => format!("{} (uid {uid})", event.actor.name),
            None => event.actor.name,
        };
        let outcome = match event.outcome {
            AuditOutcome::Done => "done",
            AuditOutcome::Failed => "FAILED",
            AuditOutcome::Refused => "REFUSED",
        };
        let why = [event.reason, event.detail].into_iter().flatten().collect::<Vec<_>>().join("; ");
        let dash = || "-".to_owned();
        table.row([
            seq.to_string(),
            event.time.to_string(),
            plain(&who),
            event.verb,
            plain(&event.target),
            event.before.unwrap_or_else(dash),
            event.after.unwrap_or_else(dash),
            outcome.to_owned(),
            plain(&why),
        ]);
    }
    Ok(output::print(&table.to_string())?)
}

/// `app:ledger` by its whole name, or by `ledger` alone.
fn is_about(target: &str, wanted: &str) -> bool {
    let names = target.split_once(':').map_or(target, |(_, names)| names);
    target == wanted || names == wanted || names.split('/').any(|name| name == wanted)
}

/// Whoever gave a reason may not write over the terminal of whoever reads it.
fn plain(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_found_by_its_name() {
        assert!(is_about("app:ledger", "ledger") && is_about("app:ledger", "app:ledger"));
        assert!(is_about("grant:ledger/orders", "ledger") && is_about("grant:ledger/orders", "orders"));
        assert!(!is_about("app:ledger2", "ledger") && !is_about("app:ledger", "developer:ledger"));
    }
}
