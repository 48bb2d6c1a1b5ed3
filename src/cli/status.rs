//! `postern status`: how the running agent stands, for people or for programs.

use std::fmt::Write as _;
use std::path::Path;

use super::args::Format;
use super::locate;
use super::moment::{count, moment, relative, span};
use super::output::{self, Verdict};
use super::table::Table;
use crate::admin::{
    AuthorityStatus, LimitsStatus, PresentedStatus, RenewalStatus, RollOverStatus, Status, WorkloadStatus,
};
use crate::clock::{Clock as _, SystemClock, Timestamp};

pub(super) async fn run(config: &Path, format: Format) -> anyhow::Result<Verdict> {
    let status = locate::client(config)?.status().await?;
    if format.json {
        output::print_json(&status)?;
    } else {
        output::print(&page(&status, SystemClock.now())?)?;
    }
    Ok(Verdict::of(status.ready.ready))
}

/// The whole page.
fn page(status: &Status, now: Timestamp) -> Result<String, std::fmt::Error> {
    let mut page = String::new();
    let up = span(now.since(status.started_at));
    writeln!(
        page,
        "postern {} for {}, process {}, up {up}\n",
        status.version, status.trust_domain, status.pid
    )?;
    summary(&mut page, status, now)?;
    problems(&mut page, status)?;
    if !status.listeners.is_empty() || !status.remotes.is_empty() {
        write!(page, "\n{}", doors(status))?;
    }
    if !status.services.is_empty() {
        write!(page, "\n{}", services(status))?;
    }
    if !status.limits.fullest.is_empty() {
        write!(page, "\n{}", quotas(&status.limits, now))?;
    }
    for key in &status.keys.retiring {
        let used = key.last_used.map_or_else(
            || "not used since the start".to_owned(),
            |at| format!("last used {}", relative(at, now)),
        );
        writeln!(
            page,
            "\nRETIRING  the key {} of {} ends {}; {used}",
            key.id,
            key.app,
            moment(key.retires, now)
        )?;
    }
    if status.keys.overdue_count > 0 {
        let ids: Vec<String> = status.keys.overdue.iter().map(ToString::to_string).collect();
        let number = count(status.keys.overdue_count, "key");
        writeln!(page, "\nOLD       {number} older than they may become: {}", ids.join(", "))?;
    }
    if !status.detections.is_empty() {
        write!(page, "\n{}", detections(status, now))?;
    }
    write!(page, "\n{}", authorities(&status.authorities, now))?;
    write!(page, "\n{}", workloads(&status.workloads, now))?;
    Ok(page)
}

fn summary(page: &mut String, status: &Status, now: Timestamp) -> std::fmt::Result {
    let ready = if status.ready.ready { "yes" } else { "NO" };
    writeln!(page, "ready     {ready}")?;
    for reason in &status.ready.reasons {
        writeln!(page, "          {reason}")?;
    }
    for reason in &status.degraded {
        writeln!(page, "degraded  {reason}")?;
    }
    let config = &status.config;
    let state = if config.last_error.is_some() { "; what is on disk now is broken" } else { "" };
    let loaded = relative(config.loaded_at, now);
    writeln!(page, "config    {}, read {loaded}{state}", config.path.display())?;
    let registry = &status.registry;
    let state = if registry.current { "" } else { "; what is on disk now is broken" };
    let numbers = [
        count(registry.apps, "app"),
        count(registry.products, "product"),
        count(registry.developers, "developer"),
        count(registry.credentials, "credential"),
    ];
    let (numbers, loaded) = (numbers.join(", "), relative(registry.loaded_at, now));
    writeln!(page, "registry  {}: {numbers}, read {loaded}{state}", registry.version)?;
    writeln!(page, "rotation  of the issuing authority {}", moment(status.rotation.next_rotation_at, now))
}

/// What is broken on disk, in full.
fn problems(page: &mut String, status: &Status) -> std::fmt::Result {
    let both = [("configuration", &status.config.last_error), ("registry", &status.registry.last_error)];
    for (what, error) in both {
        if let Some(error) = error {
            writeln!(page, "\nThe {what} on disk is not in force:")?;
            for line in error.lines() {
                writeln!(page, "  {line}")?;
            }
        }
    }
    Ok(())
}

/// So many detections are shown; all are in the JSON.
const SHOWN: usize = 20;

fn detections(status: &Status, now: Timestamp) -> Table<4> {
    let mut table = Table::new(["NOTICED", "LAST", "TIMES", "DETAIL"]);
    for one in status.detections.iter().take(SHOWN) {
        let last = relative(one.last, now);
        table.row([one.kind.clone(), last, one.count.to_string(), one.detail.clone()]);
    }
    table
}

fn doors(status: &Status) -> Table<5> {
    let mut table = Table::new(["DOOR", "WHERE", "SPEAKS", "LEADS TO", "TERMS"]);
    for listener in &status.listeners {
        let accepts = listener.accepts.clone().map(|accepts| format!("accepts {accepts}"));
        table.row([
            listener.id.to_string(),
            listener.address.clone(),
            listener.protocol.clone(),
            "services".into(),
            format!(
                "{}shows {}",
                accepts.map(|accepts| format!("{accepts}; ")).unwrap_or_default(),
                listener.workload
            ),
        ]);
    }
    for remote in &status.remotes {
        let socket = remote.socket.as_ref().map(|socket| socket.display().to_string());
        let places: Vec<String> = remote.listen.clone().into_iter().chain(socket).collect();
        table.row([
            remote.id.to_string(),
            places.join(" "),
            remote.protocol.clone(),
            remote.address.clone(),
            format!("expects {}", remote.spiffe_ids.join(" ")),
        ]);
    }
    table
}

fn services(status: &Status) -> Table<6> {
    let mut table = Table::new(["SERVICE", "BELOW", "HOSTS", "ENDPOINT", "ACCEPTS", "AT A TIME"]);
    for service in &status.services {
        let hosts = if service.hosts.is_empty() { "all".to_owned() } else { service.hosts.join(" ") };
        table.row([
            service.id.to_string(),
            service.base_path.clone(),
            hosts,
            service.endpoint.clone(),
            service.accepts.clone().unwrap_or_else(|| "what the listener does".into()),
            match &service.concurrency {
                Some(now) => format!("{} of {}", now.under_way, now.limit),
                None => "any number".into(),
            },
        ]);
    }
    table
}

fn quotas(limits: &LimitsStatus, now: Timestamp) -> Table<4> {
    let mut table = Table::new(["FULLEST QUOTAS", "COUNTED BY", "USED", "UNTIL"]);
    for quota in &limits.fullest {
        table.row([
            quota.app.to_string(),
            quota.scope.clone(),
            format!("{} of {}", quota.used, quota.limit),
            moment(quota.ends, now),
        ]);
    }
    table
}

/// The authorities, as `ca status` prints them too.
pub(super) fn authorities(authorities: &[AuthorityStatus], now: Timestamp) -> Table<6> {
    let mut table = Table::new(["AUTHORITY", "LEVEL", "SLOT", "KEY", "MADE", "VALID UNTIL"]);
    for authority in authorities {
        table.row([
            authority.id.to_string(),
            authority.level.clone(),
            {
                let revoked = if authority.revoked { ", REVOKED" } else { "" };
                let drained =
                    authority.drained_at.map(|drained| format!(", drained {}", relative(drained, now)));
                format!("{}{revoked}{}", authority.slot, drained.unwrap_or_default())
            },
            authority.algorithm.clone(),
            relative(authority.created_at, now),
            moment(authority.not_after, now),
        ]);
    }
    table
}

/// What happens to each level next and when, and who is not as far as the rest.
pub(super) fn roll_over(
    authorities: &[AuthorityStatus],
    rotation: &RenewalStatus,
    roll_over: &RollOverStatus,
    now: Timestamp,
) -> String {
    let mut lines = String::new();
    let elsewhere = authorities
        .iter()
        .any(|one| one.level == "root" && one.slot == "active" && one.algorithm == "elsewhere");
    for (level, renewal) in [("root", &roll_over.root), ("issuing", rotation)] {
        let in_slot = |slot: &str| {
            authorities.iter().filter(|one| one.level == level && one.slot == slot).collect::<Vec<_>>()
        };
        // What stands under a prepared root is due with its predecessor, and the root with it.
        let due = if roll_over.together { rotation.next_rotation_at } else { renewal.next_rotation_at };
        let due = moment(due, now);
        let next = match in_slot("prepared").first() {
            _ if roll_over.held.iter().any(|held| held == level) => {
                "rolled back; nothing is replaced until the other one is gone".to_owned()
            }
            Some(prepared) if level == "root" && elsewhere && !roll_over.together => {
                format!("{} is known; it signs once an issuing authority under it is installed", prepared.id)
            }
            Some(prepared) if level == "root" => {
                let fetched = roll_over.distributed_at.filter(|at| *at > now);
                let fetched =
                    fetched.map(|at| format!(" and others can have fetched it, {}", moment(at, now)));
                let id = &prepared.id;
                format!(
                    "{id} signs when it is due, {due}, everyone has loaded it{}",
                    fetched.unwrap_or_default()
                )
            }
            Some(prepared) if roll_over.together && level == "issuing" => {
                format!("{} signs together with the prepared root", prepared.id)
            }
            Some(prepared) => format!("{} signs when it is due, {due}", prepared.id),
            None if level == "issuing" && roll_over.awaiting.is_some() => {
                let until = roll_over.awaiting.as_ref().map_or(renewal.next_rotation_at, |one| one.until);
                let ends = moment(until, now);
                format!("waits for a signature: run `postern ca csr`; the present one ends {ends}")
            }
            None if elsewhere && level == "issuing" => format!("the next one has to be signed {due}"),
            None if elsewhere => "the next one comes with `postern ca install`".to_owned(),
            None => format!("the next one is made {due}"),
        };
        lines.push_str(&format!("{level:9} {}{next}\n", if renewal.overdue { "OVERDUE: " } else { "" }));
        for retired in in_slot("retired") {
            if let Some(at) = retired.drained_at {
                let id = &retired.id;
                lines.push_str(&format!(
                    "          {id} goes when its last leaf has expired, {}\n",
                    moment(at, now)
                ));
            }
        }
    }
    for workload in &roll_over.shortened {
        lines.push_str(&format!("SHORT     the certificate of {workload} ends with the issuing authority, sooner than configured\n"));
    }
    for laggard in &roll_over.laggards {
        let has =
            laggard.sequence.map_or_else(|| "nothing".to_owned(), |sequence| format!("bundle {sequence}"));
        let since = relative(laggard.since, now);
        lines.push_str(&format!("LAGS      {}: has loaded {has}, {since}\n", laggard.consumer));
    }
    for workload in &roll_over.showing_former {
        lines.push_str(&format!(
            "LAGS      {workload} may still show a former certificate: its files are not taken\n"
        ));
    }
    for PresentedStatus { authority, spiffe_id, last_seen } in &roll_over.presented {
        let seen = relative(*last_seen, now);
        lines.push_str(&format!("SHOWN     {spiffe_id} came in under {authority}, last {seen}\n"));
    }
    lines
}

/// The workloads, as `cert list` prints them too.
pub(super) fn workloads(workloads: &[WorkloadStatus], now: Timestamp) -> Table<6> {
    let mut table = Table::new(["WORKLOAD", "SPIFFE ID", "AUTHORITY", "VALID UNTIL", "RENEWAL", "FILES"]);
    for workload in workloads {
        let renewal = &workload.renewal;
        let due = relative(renewal.next_rotation_at, now);
        let state = match &renewal.last_failure {
            Some(failure) => format!("failed {}: {}", relative(failure.at, now), failure.reason),
            None => due,
        };
        let files =
            workload.delivery.as_ref().map(|delivery| match (&delivery.last_error, delivery.acknowledged) {
                (Some(error), _) => format!("{}: {error}", delivery.directory.display()),
                (None, true) => format!("{}, taken", delivery.directory.display()),
                (None, false) => format!("{}, not taken yet", delivery.directory.display()),
            });
        table.row([
            workload.id.to_string(),
            workload.spiffe_id.clone(),
            workload.authority.to_string(),
            moment(workload.not_after, now),
            if renewal.overdue { format!("OVERDUE, {state}") } else { state },
            files.unwrap_or_else(|| "-".into()),
        ]);
    }
    table
}
