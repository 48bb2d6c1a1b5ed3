//! `postern cert`: the certificates of workloads, and certificates to take away.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::Serialize;

use super::args::{CertVerb, Format, IssueArgs};
use super::local_ca::{self, LocalCa};
use super::moment::{moment, span};
use super::output::{self, Verdict};
use super::table::Table;
use super::{clerk, locate, status};
use crate::admin::{Desk, IssuedCertificate, Order};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::Config;
use crate::id::WorkloadId;
use crate::pki::{Revocation, Revoked};
use crate::store::{atomic_file, pem, revocation_file};

pub(super) async fn run(config: &Path, verb: CertVerb) -> anyhow::Result<Verdict> {
    match verb {
        CertVerb::List(format) => list(config, format).await?,
        CertVerb::Issue(args) => issue(config, args).await?,
        CertVerb::Renew { workloads } => renew(config, workloads).await?,
        CertVerb::Revocations(format) => revocations(config, format)?,
        CertVerb::Revoke { what, certificate, reason, dry_run } => {
            let what = match (what, certificate) {
                (Some(what), _) => what,
                (None, Some(file)) => first_certificate(&file)?,
                (None, None) => bail!("what? name it, or give --certificate"),
            };
            revoke(config, what, reason, dry_run).await?;
        }
        CertVerb::Unrevoke { what } => return unrevoke(config, &what).await,
    }
    Ok(Verdict::Yes)
}

async fn list(config: &Path, format: Format) -> anyhow::Result<()> {
    let workloads = locate::client(config)?.status().await?.workloads;
    if format.json {
        return output::print_json(&workloads);
    }
    Ok(output::print(&status::workloads(&workloads, SystemClock.now()).to_string())?)
}

async fn renew(config: &Path, workloads: Vec<WorkloadId>) -> anyhow::Result<()> {
    let client = locate::client(config)?;
    for workload in workloads {
        let renewed = client.renew(&workload).await?;
        let until = moment(renewed.not_after, SystemClock.now());
        output::print(&format!("{workload}: serial {}, valid until {until}\n", renewed.serial))?;
    }
    Ok(())
}

/// How the first certificate in a file is named to be revoked.
fn first_certificate(file: &Path) -> anyhow::Result<Revoked> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let certificates = pem::certificates(&bytes).with_context(|| file.display().to_string())?;
    let named = certificates.first().and_then(|first| Revoked::serial_of(first));
    named.with_context(|| format!("{} holds a certificate that cannot be read", file.display()))
}

async fn revoke(config: &Path, what: Revoked, reason: String, dry_run: bool) -> anyhow::Result<()> {
    let config = locate::config(config)?;
    if dry_run {
        let known = revocation_file::load(&config.state_dir)?.iter().any(|(revoked, _)| *revoked == what);
        let would = if known { "is revoked already" } else { "would be revoked" };
        output::tell(&format!("{what} {would}; nothing was changed."));
        return Ok(());
    }
    let target = format!("certificate:{what}");
    let told = ("cert.revoke", target.as_str(), Some(reason.clone()));
    let revocation = Revocation { at: SystemClock.now().to_whole_second(), reason };
    let mut is_new = true;
    clerk::noted(&config, told, || {
        Ok(revocation_file::update(&config.state_dir, |list| {
            is_new = list.iter().all(|(revoked, _)| *revoked != what);
            list.with(what.clone(), revocation)
        })?)
    })?;
    output::tell(&format!("{what} {}.", if is_new { "is revoked" } else { "was revoked before" }));
    if let Err(error) = publish_lists(&config).await {
        output::tell(&format!("The revocation lists are drawn up when the agent starts again: {error:#}"));
    }
    Ok(())
}

/// Has the revocation lists drawn up where no agent does it.
async fn publish_lists(config: &Config) -> anyhow::Result<()> {
    match LocalCa::reach(config).await? {
        LocalCa::Running(..) => Ok(()),
        LocalCa::Idle(directory) if local_ca::stored(&directory)?.is_none() => Ok(()),
        LocalCa::Idle(directory) => local_ca::at_desk(config, directory, async |_| Ok(())).await,
    }
}

async fn unrevoke(config: &Path, what: &Revoked) -> anyhow::Result<Verdict> {
    let config = locate::config(config)?;
    let target = format!("certificate:{what}");
    let mut was_there = false;
    clerk::noted(&config, ("cert.unrevoke", &target, None), || {
        Ok(revocation_file::update(&config.state_dir, |list| {
            was_there = list.iter().any(|(revoked, _)| revoked == what);
            list.without(what)
        })?)
    })?;
    output::tell(&format!("{what} {}.", if was_there { "is accepted again" } else { "was not revoked" }));
    if let Err(error) = publish_lists(&config).await {
        output::tell(&format!("The revocation lists are drawn up when the agent starts again: {error:#}"));
    }
    Ok(if was_there { Verdict::Yes } else { Verdict::No })
}

#[derive(Serialize)]
struct RevocationRow<'a> {
    what: String,
    at: Timestamp,
    reason: &'a str,
}

fn revocations(config: &Path, format: Format) -> anyhow::Result<()> {
    let list = revocation_file::load(&locate::config(config)?.state_dir)?;
    if format.json {
        let rows = list.iter().map(|(what, revocation)| RevocationRow {
            what: what.to_string(),
            at: revocation.at,
            reason: &revocation.reason,
        });
        return output::print_json(&rows.collect::<Vec<_>>());
    }
    let mut table = Table::new(["REVOKED", "AT", "BECAUSE"]);
    for (what, revocation) in list.iter() {
        table.row([what.to_string(), moment(revocation.at, SystemClock.now()), revocation.reason.clone()]);
    }
    Ok(output::print(&table.to_string())?)
}

async fn issue(config: &Path, args: IssueArgs) -> anyhow::Result<()> {
    let config = locate::config(config)?;
    let IssueArgs { workload, spiffe_id, dns, ttl, out, force, dry_run } = args;
    let order = match (workload, spiffe_id) {
        (Some(workload), _) => Order::Workload(workload),
        (None, Some(id)) => {
            Order::Profile { spiffe_id: id.to_string(), dns, ttl_seconds: ttl.map(|ttl| ttl.as_secs()) }
        }
        (None, None) => bail!("for whom? name a workload or give --spiffe-id"),
    };
    if !force {
        expect_free(&out)?;
    }
    if dry_run {
        let profile = order.profile(&config.issuance)?;
        let ttl = span(profile.ttl);
        output::tell(&format!(
            "It would issue {} for {ttl} into {}; nothing was changed.",
            profile.spiffe_id,
            out.display()
        ));
        return Ok(());
    }
    let issued = match LocalCa::reach(&config).await? {
        LocalCa::Running(client, _) => client.issue(&order).await?,
        LocalCa::Idle(directory) => {
            let work = async |desk: &Desk| Ok(desk.issue(&order, &config.issuance).await?);
            local_ca::at_desk(&config, directory, work).await?
        }
    };
    write(&out, &issued)?;
    let until = moment(issued.not_after, SystemClock.now());
    output::tell(&format!(
        "{}: serial {}, signed by {}, valid until {until}",
        issued.spiffe_id, issued.serial, issued.authority
    ));
    let names: String = FILES.iter().map(|name| format!("{}\n", out.join(name).display())).collect();
    Ok(output::print(&names)?)
}

const FILES: [&str; 3] = ["key.pem", "chain.pem", "bundle.pem"];

fn expect_free(folder: &Path) -> anyhow::Result<()> {
    for name in FILES {
        let path = folder.join(name);
        if fs::symlink_metadata(&path).is_ok() {
            bail!("{} exists: use another folder, or --force to replace it", path.display());
        }
    }
    Ok(())
}

fn write(folder: &Path, issued: &IssuedCertificate) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("cannot make {}", folder.display()))?;
    let [key, chain, bundle] = FILES.map(|name| folder.join(name));
    atomic_file::replace(&key, issued.key_pem.secret().expose_secret(), 0o600)?;
    atomic_file::replace(&chain, issued.chain_pem.as_bytes(), 0o644)?;
    atomic_file::replace(&bundle, issued.bundle_pem.as_bytes(), 0o644)?;
    Ok(())
}
