//! `postern ca`: the local CA, with or without a running agent.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;

use super::args::{CaVerb, Force, Format, Terms};
use super::local_ca::{self, LocalCa};
use super::moment::count;
use super::output::{self, Verdict};
use super::{locate, signing, status};
use crate::admin::{
    AuthorityStatus, Client, ClientError, Desk, Moved, RollOverStatus, Status, StewardError, WorkloadStatus,
    authorities, bundle_pem,
};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::id::AuthorityId;
use crate::issuance::{self, AuthorityRevocation, Change, Insistence, Run, Verb};
use crate::pki::Level;
use crate::store::{AuthorityDir, Rekeyed, SecretSource, revocation_file};

pub(super) async fn run(config: &Path, verb: CaVerb) -> anyhow::Result<Verdict> {
    let config = locate::config(config)?;
    match verb {
        CaVerb::Init { dry_run } => init(&config, dry_run).await?,
        CaVerb::Status(format) => return show(&config, format).await,
        CaVerb::Rotate { timeout, terms, force } => return rotate(&config, terms, force, timeout).await,
        CaVerb::Prepare { terms } => {
            let change = change(terms, KEEP, Verb::Prepare);
            return tell_outcome(&config, change, "Prepared; `ca activate` lets it sign.").await;
        }
        CaVerb::Activate { id, terms, force } => {
            let change = change(terms, force, Verb::Activate(id));
            return tell_outcome(&config, change, "Active; everything is issued anew under it.").await;
        }
        CaVerb::Discard { id, terms } => {
            let change = change(terms, KEEP, Verb::Discard(id));
            return tell_outcome(&config, change, "Thrown away.").await;
        }
        CaVerb::Rollback { id, terms } => {
            let change = change(terms, KEEP, Verb::RollBack(id));
            return tell_outcome(&config, change, "Active again; everything is issued anew.").await;
        }
        CaVerb::Retire { id, terms, force } => {
            let change = change(terms, force, Verb::Retire(id));
            return tell_outcome(&config, change, "Gone.").await;
        }
        CaVerb::Revoke { id, reason, timeout, terms, force } => {
            let order = revocation(id, reason, terms, force);
            return revoke(&config, order, timeout).await;
        }
        CaVerb::Bundle => return bundle(&config).await,
        CaVerb::Crl => return crl(&config).await,
        CaVerb::Csr(args) => return signing::csr(&config, &args).await,
        CaVerb::Sign(args) => return signing::sign(&config, &args).await,
        CaVerb::Install(args) => return signing::install(&config, &args).await,
        CaVerb::Rekey { former_passphrase_file } => rekey(&config, former_passphrase_file).await?,
    }
    Ok(Verdict::Yes)
}

async fn init(config: &Config, dry_run: bool) -> anyhow::Result<()> {
    if dry_run && !config.state_dir.join("authorities").exists() {
        let (domain, folder) = (&config.issuance.domain, config.state_dir.display());
        output::tell(&format!("A CA for {domain} would be made in {folder}; nothing was changed."));
        return Ok(());
    }
    let directory = match LocalCa::reach(config).await? {
        LocalCa::Idle(directory) => directory,
        LocalCa::Running(_, status) => {
            output::tell("There is a CA already, and an agent that uses it.");
            return print_authorities(&status.authorities);
        }
    };
    if let Some(hierarchy) = local_ca::stored(&directory)? {
        output::tell(&format!("There is a CA already in {}.", config.state_dir.display()));
        let revocations = revocation_file::load(directory.path())?;
        return print_authorities(&views(&issuance::authority_views(&hierarchy, &revocations)));
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
    /// Only a running agent knows.
    roll_over: Option<RollOverStatus>,
}

async fn show(config: &Config, format: Format) -> anyhow::Result<Verdict> {
    let (found, rotation, roll_over) = match LocalCa::reach(config).await? {
        LocalCa::Running(_, status) => (status.authorities, Some(status.rotation), status.roll_over),
        LocalCa::Idle(directory) => (stored_authorities(&directory)?, None, None),
    };
    let exists = !found.is_empty();
    if format.json {
        let trust_domain = config.issuance.domain.as_str();
        output::print_json(&Authorities { trust_domain, authorities: found, roll_over })?;
    } else if exists {
        print_authorities(&found)?;
        if let (Some(rotation), Some(roll_over)) = (rotation, roll_over) {
            output::print(&format!(
                "\n{}",
                status::roll_over(&found, &rotation, &roll_over, SystemClock.now())
            ))?;
        }
    } else {
        output::print(&format!("There is {}.\n", local_ca::none_yet(config)))?;
    }
    Ok(Verdict::of(exists))
}

fn stored_authorities(directory: &AuthorityDir) -> anyhow::Result<Vec<AuthorityStatus>> {
    let (hierarchy, revocations) = (local_ca::stored(directory)?, revocation_file::load(directory.path())?);
    let found = hierarchy.map(|hierarchy| issuance::authority_views(&hierarchy, &revocations));
    Ok(views(&found.unwrap_or_default()))
}

fn views(views: &[issuance::AuthorityView]) -> Vec<AuthorityStatus> {
    views.iter().map(AuthorityStatus::from).collect()
}

const KEEP: Force = Force { force: false };

fn change(terms: Terms, Force { force }: Force, verb: Verb) -> Change {
    Change {
        level: if terms.root { Level::Root } else { Level::Issuing },
        verb,
        insistence: if force { Insistence::Force } else { Insistence::Heed },
        run: if terms.dry_run { Run::Rehearsal } else { Run::Real },
    }
}

/// How a change went.
enum Outcome {
    /// It was refused, because somebody would be left behind.
    Behind(String),
    Done(Moved),
}

impl Outcome {
    /// The same, with those who were left behind by an earlier step.
    fn after(self, before: Moved) -> Self {
        match self {
            Self::Behind(why) => Self::Behind(why),
            Self::Done(mut moved) => {
                moved.left_behind.splice(0..0, before.left_behind);
                Self::Done(moved)
            }
        }
    }
}

async fn carry_out(config: &Config, change: &Change) -> anyhow::Result<Outcome> {
    match LocalCa::reach(config).await? {
        LocalCa::Running(client, _) => ask(&client, change).await,
        LocalCa::Idle(directory) => {
            let work = async |desk: &Desk| match desk.change_authority(change.clone()).await {
                Ok(changed) => Ok(Outcome::Done(changed.into())),
                Err(StewardError::Behind(why)) => Ok(Outcome::Behind(why)),
                Err(error) => Err(error.into()),
            };
            local_ca::at_desk(config, directory, work).await
        }
    }
}

async fn ask(client: &Client, change: &Change) -> anyhow::Result<Outcome> {
    match client.change_authority(change).await {
        Ok(moved) => Ok(Outcome::Done(moved)),
        Err(ClientError::Unwilling { code, detail }) if code == "left-behind" => Ok(Outcome::Behind(detail)),
        Err(error) => Err(error.into()),
    }
}

async fn tell_outcome(config: &Config, change: Change, done: &str) -> anyhow::Result<Verdict> {
    match carry_out(config, &change).await? {
        Outcome::Behind(why) => {
            output::tell(&format!("Not done: {why}. --force does it all the same."));
            Ok(Verdict::No)
        }
        Outcome::Done(moved) => {
            if change.run == Run::Rehearsal {
                output::tell("It would work; nothing was changed.");
            } else {
                output::tell(done);
            }
            tell_left_behind(&moved);
            // An authority that was only tried out has a name that nobody will ever see again.
            if change.run == Run::Real || !matches!(change.verb, Verb::Prepare) {
                output::print(&format!("{}\n", moved.id))?;
            }
            Ok(Verdict::Yes)
        }
    }
}

fn tell_left_behind(moved: &Moved) {
    for left_behind in &moved.left_behind {
        output::tell(&format!("Left behind: {left_behind}"));
    }
}

async fn rotate(config: &Config, terms: Terms, force: Force, timeout: Duration) -> anyhow::Result<Verdict> {
    let rotation = change(terms, force, Verb::Rotate);
    if terms.dry_run {
        return tell_outcome(config, rotation, "").await;
    }
    let name = rotation.level.to_string();
    match LocalCa::reach(config).await? {
        LocalCa::Running(client, before) => {
            let deadline = tokio::time::Instant::now() + timeout;
            let moved = match when_everyone_knows(&client, rotation.clone(), deadline).await? {
                Outcome::Done(moved) => moved,
                Outcome::Behind(why) => {
                    output::tell(&format!(
                        "The next {name} is prepared, but {why}. Run this again later, or with --force."
                    ));
                    return Ok(Verdict::No);
                }
            };
            let former = active(&before, rotation.level.as_str());
            let former = former.map(|former| format!("; {former} is retired")).unwrap_or_default();
            output::tell(&format!("The {name} is {} now{former}.", moved.id));
            tell_left_behind(&moved);
            let status = client.status().await?;
            let Some(signer) = active(&status, "issuing") else { bail!("no issuing authority is active") };
            let after = if moved.left_behind.is_empty() {
                everyone_under(&client, signer, deadline).await?
            } else {
                status.clone()
            };
            let workloads = count(after.workloads.len() - late(&after, signer).len(), "workload");
            output::tell(&format!("Issued anew under it, and taken where there are files: {workloads}."));
            print_authorities(&after.authorities)?;
        }
        LocalCa::Idle(directory) => {
            let work = async |desk: &Desk| match desk.change_authority(rotation.clone()).await {
                Ok(changed) => {
                    Ok((Outcome::Done(changed.into()), authorities(&desk.feed().borrow().hierarchy)))
                }
                Err(StewardError::Behind(why)) => Ok((Outcome::Behind(why), Vec::new())),
                Err(error) => Err(error.into()),
            };
            match local_ca::at_desk(config, directory, work).await? {
                (Outcome::Behind(why), _) => {
                    output::tell(&format!("The next {name} is prepared, but {why}."));
                    return Ok(Verdict::No);
                }
                (Outcome::Done(moved), found) => {
                    output::tell(&format!(
                        "The {name} is {} now; the agent's next start issues under it.",
                        moved.id
                    ));
                    tell_left_behind(&moved);
                    print_authorities(&found)?;
                }
            }
        }
    }
    Ok(Verdict::Yes)
}

/// Asks again until nobody would be left behind any more, or the time is up.
async fn when_everyone_knows(
    client: &Client,
    rotation: Change,
    deadline: tokio::time::Instant,
) -> anyhow::Result<Outcome> {
    loop {
        let outcome = ask(client, &rotation).await?;
        let is_late = tokio::time::Instant::now() >= deadline;
        if is_late || matches!(outcome, Outcome::Done(_)) {
            return Ok(outcome);
        }
        tokio::time::sleep(POLL).await;
    }
}

fn active<'a>(status: &'a Status, level: &str) -> Option<&'a AuthorityId> {
    let mut found = status.authorities.iter().filter(|one| one.level == level && one.slot == "active");
    found.next().map(|authority| &authority.id)
}

/// The workloads that do not hold a certificate under `id`, or whose readers have not taken it.
fn late<'a>(status: &'a Status, id: &AuthorityId) -> Vec<&'a str> {
    let taken = |workload: &WorkloadStatus| {
        workload.authority == *id && workload.delivery.as_ref().is_none_or(|delivery| delivery.acknowledged)
    };
    status.workloads.iter().filter(|workload| !taken(workload)).map(|workload| workload.id.as_str()).collect()
}

/// Waits until every workload holds a certificate under `id` and has taken its files.
async fn everyone_under(
    client: &Client,
    id: &AuthorityId,
    deadline: tokio::time::Instant,
) -> anyhow::Result<Status> {
    loop {
        let status = client.status().await?;
        let late = late(&status, id);
        if late.is_empty() {
            return Ok(status);
        }
        if tokio::time::Instant::now() >= deadline {
            bail!("not yet under {id}: {}; see `postern status`", late.join(", "));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn revocation(id: AuthorityId, reason: String, terms: Terms, Force { force }: Force) -> AuthorityRevocation {
    AuthorityRevocation {
        level: if terms.root { Level::Root } else { Level::Issuing },
        id,
        reason,
        insistence: if force { Insistence::Force } else { Insistence::Heed },
        run: if terms.dry_run { Run::Rehearsal } else { Run::Real },
    }
}

async fn revoke(config: &Config, order: AuthorityRevocation, timeout: Duration) -> anyhow::Result<Verdict> {
    let outcome = match LocalCa::reach(config).await? {
        LocalCa::Running(client, status) => {
            let signs = active(&status, order.level.as_str()) == Some(&order.id);
            match order.run {
                Run::Rehearsal => told(&client, &order).await?,
                Run::Real => match made_way(&client, &order, signs, timeout).await? {
                    Outcome::Behind(why) => Outcome::Behind(why),
                    Outcome::Done(before) => told(&client, &order).await?.after(before),
                },
            }
        }
        LocalCa::Idle(directory) => {
            let work = async |desk: &Desk| match desk.revoke_authority(order.clone()).await {
                Ok(changed) => Ok(Outcome::Done(changed.into())),
                Err(StewardError::Behind(why)) => Ok(Outcome::Behind(why)),
                Err(error) => Err(error.into()),
            };
            local_ca::at_desk(config, directory, work).await?
        }
    };
    match outcome {
        Outcome::Behind(why) => {
            output::tell(&format!("Not revoked: {why}. --force revokes it all the same."));
            Ok(Verdict::No)
        }
        Outcome::Done(moved) => {
            let all_below = format!("the {} {} with all below it", order.level, order.id);
            match order.run {
                Run::Rehearsal => output::tell(&format!("It would revoke {all_below}; nothing was changed.")),
                Run::Real => {
                    output::tell(&format!("Revoked: {all_below}. Others need `ca crl` and `ca bundle`."))
                }
            }
            tell_left_behind(&moved);
            output::print(&format!("{}\n", moved.id))?;
            Ok(Verdict::Yes)
        }
    }
}

/// Lets the next authority sign in the place of the one that is to be revoked, if that signs, and waits until nobody shows a
/// former certificate any more.
async fn made_way(
    client: &Client,
    order: &AuthorityRevocation,
    signs: bool,
    timeout: Duration,
) -> anyhow::Result<Outcome> {
    let AuthorityRevocation { level, insistence, run, .. } = *order;
    let deadline = tokio::time::Instant::now() + timeout;
    let mut moved = Moved { id: order.id.clone(), left_behind: Vec::new() };
    if signs {
        let rotation = Change { level, verb: Verb::Rotate, insistence, run };
        // Others who have to fetch a root take longer than anybody waits in an emergency.
        let outcome = match level {
            Level::Issuing => when_everyone_knows(client, rotation, deadline).await?,
            Level::Root => ask(client, &rotation).await?,
        };
        moved = match outcome {
            Outcome::Behind(why) => return Ok(Outcome::Behind(why)),
            Outcome::Done(moved) => moved,
        };
        output::tell(&format!("The {level} is {} now; everything is issued anew.", moved.id));
    }
    let status = client.status().await?;
    let Some(signer) = active(&status, "issuing").cloned() else { bail!("no issuing authority is active") };
    let mut late = late(&status, &signer).into_iter().map(str::to_owned).collect::<Vec<_>>();
    while !late.is_empty() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
        late = self::late(&client.status().await?, &signer).into_iter().map(str::to_owned).collect();
    }
    if late.is_empty() {
        return Ok(Outcome::Done(moved));
    }
    let why = format!("{} may still show a certificate under it", late.join(", "));
    if insistence == Insistence::Heed {
        return Ok(Outcome::Behind(why));
    }
    moved.left_behind.push(why);
    Ok(Outcome::Done(moved))
}

async fn told(client: &Client, order: &AuthorityRevocation) -> anyhow::Result<Outcome> {
    match client.revoke_authority(order).await {
        Ok(moved) => Ok(Outcome::Done(moved)),
        Err(ClientError::Unwilling { code, detail }) if code == "left-behind" => Ok(Outcome::Behind(detail)),
        Err(error) => Err(error.into()),
    }
}

async fn crl(config: &Config) -> anyhow::Result<Verdict> {
    let text = match LocalCa::reach(config).await? {
        LocalCa::Running(client, _) => client.crl_pem().await?,
        LocalCa::Idle(directory) => {
            let work = async |desk: &Desk| Ok(desk.feed().borrow().crl.to_string());
            local_ca::at_desk(config, directory, work).await?
        }
    };
    output::print(&text)?;
    Ok(Verdict::Yes)
}

const POLL: Duration = Duration::from_millis(100);

async fn bundle(config: &Config) -> anyhow::Result<Verdict> {
    let text = match LocalCa::reach(config).await? {
        LocalCa::Running(client, _) => client.bundle_pem().await?,
        LocalCa::Idle(directory) => match local_ca::stored(&directory)? {
            Some(hierarchy) => bundle_pem(&hierarchy.bundle()),
            None => {
                output::tell(&format!("There is {}.", local_ca::none_yet(config)));
                return Ok(Verdict::No);
            }
        },
    };
    output::print(&text)?;
    Ok(Verdict::Yes)
}

async fn rekey(config: &Config, former: Option<PathBuf>) -> anyhow::Result<()> {
    let LocalCa::Idle(directory) = LocalCa::reach(config).await? else {
        bail!("an agent is running on these keys: stop it first");
    };
    let former = former.map(|path| SecretSource::File(path).read()).transpose();
    let former = former.context("cannot read the former passphrase")?;
    let Rekeyed { written, kept, on_token } = directory.rekey(former.as_ref())?;
    let form = if config.keys.passphrase.is_some() { "under the configured passphrase" } else { "plain" };
    output::tell(&format!("{} written anew, {form}; {kept} were so already.", count(written, "key file")));
    if on_token > 0 {
        output::tell(&format!("{} on the token; nothing to do about that.", count(on_token, "key")));
    }
    Ok(())
}

fn print_authorities(found: &[AuthorityStatus]) -> anyhow::Result<()> {
    Ok(output::print(&status::authorities(found, SystemClock.now()).to_string())?)
}
