//! `postern ca`: the local CA, with or without a running agent.

use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use serde::Serialize;

use super::args::{CaVerb, Format};
use super::local_ca::{self, LocalCa};
use super::moment::count;
use super::output::{self, Verdict};
use super::{locate, status};
use crate::admin::{AuthorityStatus, Client, Desk, Status, authorities, bundle_pem};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::id::AuthorityId;
use crate::issuance;
use crate::store::AuthorityDir;

pub(super) async fn run(config: &Path, verb: CaVerb) -> anyhow::Result<Verdict> {
    let config = locate::config(config)?;
    match verb {
        CaVerb::Init => init(&config).await?,
        CaVerb::Status(format) => return show(&config, format).await,
        CaVerb::Rotate { timeout } => rotate(&config, timeout).await?,
        CaVerb::Prepare => prepare(&config).await?,
        CaVerb::Activate { id } => activate(&config, id).await?,
        CaVerb::Discard { id } => discard(&config, id).await?,
        CaVerb::Bundle => return bundle(&config).await,
    }
    Ok(Verdict::Yes)
}

async fn init(config: &Config) -> anyhow::Result<()> {
    let directory = match LocalCa::reach(config).await? {
        LocalCa::Idle(directory) => directory,
        LocalCa::Running(_, status) => {
            output::tell("There is a CA already, and an agent that uses it.");
            return print_authorities(&status.authorities);
        }
    };
    if let Some(hierarchy) = local_ca::stored(&directory)? {
        output::tell(&format!("There is a CA already in {}.", config.state_dir.display()));
        return print_authorities(&views(&issuance::authority_views(&hierarchy)));
    }
    let made =
        local_ca::open_desk(config, directory, async |desk| Ok(authorities(&desk.feed().borrow().hierarchy)));
    let made = made.await?;
    output::tell(&format!("Made a CA for {} in {}.", config.issuance.domain, config.state_dir.display()));
    print_authorities(&made)
}

#[derive(Serialize)]
struct Authorities<'a> {
    trust_domain: &'a str,
    authorities: Vec<AuthorityStatus>,
}

async fn show(config: &Config, format: Format) -> anyhow::Result<Verdict> {
    let found = match LocalCa::reach(config).await? {
        LocalCa::Running(_, status) => status.authorities,
        LocalCa::Idle(directory) => stored_authorities(&directory)?,
    };
    let exists = !found.is_empty();
    if format.json {
        let trust_domain = config.issuance.domain.as_str();
        output::print_json(&Authorities { trust_domain, authorities: found })?;
    } else if exists {
        print_authorities(&found)?;
    } else {
        output::print("There is no CA yet: make it with `postern ca init`, or start the agent.\n")?;
    }
    Ok(Verdict::of(exists))
}

fn stored_authorities(directory: &AuthorityDir) -> anyhow::Result<Vec<AuthorityStatus>> {
    let hierarchy = local_ca::stored(directory)?;
    Ok(hierarchy.map(|hierarchy| views(&issuance::authority_views(&hierarchy))).unwrap_or_default())
}

fn views(views: &[issuance::AuthorityView]) -> Vec<AuthorityStatus> {
    views.iter().map(AuthorityStatus::from).collect()
}

async fn rotate(config: &Config, timeout: Duration) -> anyhow::Result<()> {
    let found = match LocalCa::reach(config).await? {
        LocalCa::Running(client, before) => {
            let id = client.rotate_issuing().await?;
            let former = active(&before).map(|former| format!("; {former} is retired")).unwrap_or_default();
            output::tell(&format!("The issuing authority is {id} now{former}."));
            let after = everyone_under(&client, &id, timeout).await?;
            let workloads = count(after.workloads.len(), "workload");
            output::tell(&format!("Issued anew under it, and taken where there are files: {workloads}."));
            after.authorities
        }
        LocalCa::Idle(directory) => {
            let work = async |desk: &Desk| {
                let id = desk.rotate_issuing().await?;
                Ok((id, authorities(&desk.feed().borrow().hierarchy)))
            };
            let (id, found) = local_ca::at_desk(config, directory, work).await?;
            output::tell(&format!(
                "The issuing authority is {id} now; the agent's next start issues under it."
            ));
            found
        }
    };
    print_authorities(&found)
}

fn active(status: &Status) -> Option<&AuthorityId> {
    let mut found = status.authorities.iter().filter(|one| one.level == "issuing" && one.slot == "active");
    found.next().map(|authority| &authority.id)
}

/// Waits until every workload holds a certificate under `id` and has taken its files.
async fn everyone_under(client: &Client, id: &AuthorityId, timeout: Duration) -> anyhow::Result<Status> {
    let deadline = tokio::time::Instant::now() + timeout;
    loop {
        let status = client.status().await?;
        let late: Vec<&str> = status
            .workloads
            .iter()
            .filter(|workload| {
                workload.authority != *id
                    || workload.delivery.as_ref().is_some_and(|delivery| !delivery.acknowledged)
            })
            .map(|workload| workload.id.as_str())
            .collect();
        if late.is_empty() {
            return Ok(status);
        }
        if tokio::time::Instant::now() >= deadline {
            bail!("not yet under {id}: {}; see `postern status`", late.join(", "));
        }
        tokio::time::sleep(POLL).await;
    }
}

const POLL: Duration = Duration::from_millis(100);

async fn prepare(config: &Config) -> anyhow::Result<()> {
    let id = match LocalCa::reach(config).await? {
        LocalCa::Running(client, _) => client.prepare_issuing().await?,
        LocalCa::Idle(directory) => {
            local_ca::at_desk(config, directory, async |desk| Ok(desk.prepare_issuing().await?)).await?
        }
    };
    output::tell("Prepared; `postern ca activate` lets it sign.");
    Ok(output::print(&format!("{id}\n"))?)
}

async fn activate(config: &Config, id: Option<AuthorityId>) -> anyhow::Result<()> {
    let id = match LocalCa::reach(config).await? {
        LocalCa::Running(client, _) => client.activate_issuing(id).await?,
        LocalCa::Idle(directory) => {
            let id = prepared(&directory, id)?;
            let work = async |desk: &Desk| Ok(desk.activate_issuing(id.clone()).await?);
            local_ca::at_desk(config, directory, work).await?;
            id
        }
    };
    output::tell("Active; everything is issued anew under it.");
    Ok(output::print(&format!("{id}\n"))?)
}

async fn discard(config: &Config, id: Option<AuthorityId>) -> anyhow::Result<()> {
    let id = match LocalCa::reach(config).await? {
        LocalCa::Running(client, _) => client.discard_issuing(id).await?,
        LocalCa::Idle(directory) => {
            let id = prepared(&directory, id)?;
            let work = async |desk: &Desk| Ok(desk.discard_issuing(id.clone()).await?);
            local_ca::at_desk(config, directory, work).await?;
            id
        }
    };
    output::tell("Thrown away.");
    Ok(output::print(&format!("{id}\n"))?)
}

/// The authority that was named, or else the prepared one.
fn prepared(directory: &AuthorityDir, named: Option<AuthorityId>) -> anyhow::Result<AuthorityId> {
    if let Some(id) = named {
        return Ok(id);
    }
    let hierarchy = local_ca::stored(directory)?;
    let prepared = hierarchy.and_then(|hierarchy| hierarchy.issuing().prepared.clone());
    match prepared {
        Some(prepared) => Ok(prepared.id().clone()),
        None => bail!("no issuing authority is prepared"),
    }
}

async fn bundle(config: &Config) -> anyhow::Result<Verdict> {
    let text = match LocalCa::reach(config).await? {
        LocalCa::Running(client, _) => client.bundle_pem().await?,
        LocalCa::Idle(directory) => match local_ca::stored(&directory)? {
            Some(hierarchy) => bundle_pem(&hierarchy.bundle()),
            None => {
                output::tell("There is no CA yet: make it with `postern ca init`, or start the agent.");
                return Ok(Verdict::No);
            }
        },
    };
    output::print(&text)?;
    Ok(Verdict::Yes)
}

fn print_authorities(found: &[AuthorityStatus]) -> anyhow::Result<()> {
    Ok(output::print(&status::authorities(found, SystemClock.now()).to_string())?)
}
