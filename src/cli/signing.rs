//! `postern ca csr`, `sign` and `install`: an issuing authority whose root is kept elsewhere.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};

use super::args::{CsrArgs, InstallArgs, SignArgs};
use super::local_ca::{self, LocalCa};
use super::output::{self, Verdict};
use crate::admin::{AuthorityRequest, InstalledStatus, SignedAuthorityStatus};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::issuance::{self, InstallOrder, Reach, Run, SignOrder, Wanted};
use crate::pki::SignedChain;
use crate::store::atomic_file;
use crate::store::pem;

/// Prints the request for the next issuing authority of this host.
pub(super) async fn csr(config: &Config, args: &CsrArgs) -> anyhow::Result<Verdict> {
    let wanted = if args.new { Wanted::Anew } else { Wanted::Same };
    let run = run(args.dry_run);
    let ready: AuthorityRequest = match LocalCa::reach(config).await? {
        LocalCa::Running(client, _) => client.request(wanted, run).await?,
        LocalCa::Idle(directory) => {
            let hierarchy = local_ca::stored(&directory)?;
            issuance::ready_request(&directory, hierarchy.as_ref(), &config.issuance, wanted, run)?.into()
        }
    };
    match &ready.request_pem {
        None => output::tell("A new key and its request would be made; nothing was changed."),
        Some(text) => {
            output::tell(if ready.is_new {
                "Made a new key. Have this request signed where the root is: `postern ca sign`."
            } else {
                "This request waits for its certificate already; `--new` makes another with a fresh key."
            });
            print_or_write(text, args.out.as_deref())?;
        }
    }
    Ok(Verdict::Yes)
}

/// Signs the request of another host with the root of this one.
pub(super) async fn sign(config: &Config, args: &SignArgs) -> anyhow::Result<Verdict> {
    let request = pem::certificate_request(&read(&args.request)?)
        .with_context(|| format!("{} cannot be signed", args.request.display()))?;
    let order = SignOrder { request, ttl: args.ttl, run: run(args.dry_run) };
    let signed: SignedAuthorityStatus = match LocalCa::reach(config).await? {
        LocalCa::Running(client, _) => client.sign(&order).await?,
        LocalCa::Idle(directory) => {
            let Some(hierarchy) = local_ca::stored(&directory)? else {
                bail!(
                    "there is no CA in {} that could sign: make it with `postern ca init`",
                    config.state_dir.display()
                )
            };
            issuance::sign(&hierarchy, &config.issuance, &order, SystemClock.now())?.into()
        }
    };
    let (serial, not_after) = (&signed.serial, signed.not_after);
    if args.dry_run {
        output::tell(&format!("It would be signed, valid until {not_after}; nothing was signed."));
        return Ok(Verdict::Yes);
    }
    output::tell(&format!(
        "Signed: serial {serial}, valid until {not_after}. Install the chain over there with `postern ca install`."
    ));
    print_or_write(&signed.chain_pem, args.out.as_deref())?;
    Ok(Verdict::Yes)
}

/// Installs the certificate that came back, or only a root.
pub(super) async fn install(config: &Config, args: &InstallArgs) -> anyhow::Result<Verdict> {
    let order = InstallOrder {
        chain: SignedChain {
            certificates: certificates(&args.chain)?,
            roots: args.bundle.as_deref().map(certificates).transpose()?.unwrap_or_default(),
        },
        reach: match (args.root_only, args.prepare_only) {
            (true, _) => Reach::Root,
            (false, true) => Reach::Prepared,
            (false, false) => Reach::Active,
        },
        run: run(args.dry_run),
    };
    let (installed, is_running): (InstalledStatus, bool) = match LocalCa::reach(config).await? {
        LocalCa::Running(client, _) => (client.install(&order).await?, true),
        LocalCa::Idle(directory) => {
            let clock = Arc::new(SystemClock);
            (issuance::install_at_rest(directory, &config.issuance, &order, clock)?.into(), false)
        }
    };
    if args.dry_run {
        output::tell("It would work; nothing was changed.");
    }
    output::tell(&sentence(&installed, is_running));
    output::print(&format!("{}\n", installed.id))?;
    let is_through = args.prepare_only || args.root_only || installed.slot != "prepared";
    Ok(Verdict::of(is_through))
}

fn sentence(installed: &InstalledStatus, is_running: bool) -> String {
    let waits = installed.waits_for.join(", ");
    match (installed.level.as_str(), installed.slot.as_str()) {
        ("root", "prepared") => {
            "The root is prepared: it is in the bundle, and signs when an issuing authority under it is activated.".to_owned()
        }
        ("root", slot) => format!("The root is known already; it is {slot}."),
        (_, "active") if is_running => "Active; everything is issued anew under it.".to_owned(),
        (_, "active") => "Active; the agent's next start issues under it.".to_owned(),
        (_, "prepared") if waits.is_empty() => {
            "Prepared; it signs when it is due, or by `postern ca activate`.".to_owned()
        }
        (_, "prepared") => format!(
            "Prepared, but it waits for {waits}. It signs when it is due and nobody lags, or by `postern ca activate`."
        ),
        (_, slot) => format!("It is installed already; it is {slot}."),
    }
}

const fn run(dry_run: bool) -> Run {
    if dry_run { Run::Rehearsal } else { Run::Real }
}

fn certificates(path: &Path) -> anyhow::Result<Vec<rustls::pki_types::CertificateDer<'static>>> {
    pem::certificates(&read(path)?).with_context(|| format!("{} cannot be installed", path.display()))
}

/// The content of a file; `-` is standard input.
fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().lock().take(LONGEST).read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn print_or_write(text: &str, out: Option<&Path>) -> anyhow::Result<()> {
    match out {
        None => Ok(output::print_all(text)?),
        Some(path) => Ok(atomic_file::replace(path, text.as_bytes(), 0o644)?),
    }
}

/// The longest input that is read, in bytes.
const LONGEST: u64 = 64 * 1024;
