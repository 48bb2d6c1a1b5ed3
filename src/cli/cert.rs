//! `postern cert`: the certificates of workloads, and certificates to take away.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};

use super::args::{CertVerb, Format, IssueArgs};
use super::local_ca::{self, LocalCa};
use super::moment::moment;
use super::output::{self, Verdict};
use super::{locate, status};
use crate::admin::{Desk, IssuedCertificate, Order};
use crate::clock::{Clock as _, SystemClock};
use crate::id::WorkloadId;
use crate::store::atomic_file;

pub(super) async fn run(config: &Path, verb: CertVerb) -> anyhow::Result<Verdict> {
    match verb {
        CertVerb::List(format) => list(config, format).await?,
        CertVerb::Issue(args) => issue(config, args).await?,
        CertVerb::Renew { workloads } => renew(config, workloads).await?,
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

async fn issue(config: &Path, args: IssueArgs) -> anyhow::Result<()> {
    let config = locate::config(config)?;
    let IssueArgs { workload, spiffe_id, dns, ttl, out, force } = args;
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
