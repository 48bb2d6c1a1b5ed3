//! `postern key`: API keys are made here, shown once, and kept as keyed hashes.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use aws_lc_rs::rand::SystemRandom;
use data_encoding::HEXLOWER;
use serde::Serialize;
use zeroize::Zeroizing;

use super::args::{Expiry, Format, KeyVerb};
use super::locate;
use super::moment::moment;
use super::output::{self, Verdict};
use super::table::Table;
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::Config;
use crate::credential::{ApiKey, Peppers};
use crate::id::{AppId, CredentialId, DeveloperId};
use crate::registry::{self, Credential, CredentialKind, CredentialSecret, CredentialStatus, Snapshot};
use crate::store::registry_edit::{self, Edit, Outcome, StoredApiKey};
use crate::store::{pepper_file, registry_dir};
use crate::toml_text::Problem;

pub(super) fn run(config: &Path, verb: KeyVerb) -> anyhow::Result<Verdict> {
    let config = locate::config(config)?;
    match verb {
        KeyVerb::Create { app, expires, out } => create(&config, app, expires, out.as_deref())?,
        KeyVerb::List(format) => list(&config, format)?,
        KeyVerb::Revoke { id } => revoke(&config, id)?,
    }
    Ok(Verdict::Yes)
}

fn create(config: &Config, app: AppId, expires: Option<Expiry>, out: Option<&Path>) -> anyhow::Result<()> {
    let now = SystemClock.now();
    let expires = expires.map(|expires| expires.from(now));
    if let Some(expires) = expires.filter(|expires| *expires <= now) {
        bail!("the key would have ended at {expires}, before it was made");
    }
    let peppers = peppers(config)?;
    let random = SystemRandom::new();
    let key = ApiKey::generate(&random).ok().context("the system gives no random bytes")?;
    let pepper = peppers.newest().context("there is no pepper")?;
    let hash = peppers.hash(pepper, key.text().expose_secret()).context("there is no pepper")?;
    let hash = format!("hmac-sha256:{pepper}:{}", HEXLOWER.encode(&hash));
    let id: CredentialId = key.id().parse()?;
    let edit = Edit::AddApiKey { app: app.clone(), key: StoredApiKey { id: id.clone(), hash, expires } };

    let mut line = Zeroizing::new(key.text().expose_secret().to_vec());
    line.push(b'\n');
    if let Some(out) = out {
        write_new(out, &line)?;
    }
    let (file, _) = registry_edit::apply(&config.registry_dirs, &edit).inspect_err(|_| {
        if let Some(out) = out {
            drop(fs::remove_file(out));
        }
    })?;
    let end = expires.map(|expires| format!(", valid until {}", moment(expires, now))).unwrap_or_default();
    output::tell(&format!("Key {id} for {app}{end}; its hash is in {}.", file.display()));
    if let Some(out) = out {
        output::tell(&format!("The key is in {}, and nowhere else.", out.display()));
    } else {
        output::tell("This is the only time that it is shown:");
        let text = std::str::from_utf8(&line)?;
        output::print_all(text).with_context(|| {
            format!("the key could not be shown; revoke it with `postern key revoke {id}`")
        })?;
    }
    Ok(())
}

/// The peppers; made if nothing was ever hashed under one.
fn peppers(config: &Config) -> anyhow::Result<Peppers> {
    let state = &config.state_dir;
    if !pepper_file::exists(state)? {
        let on_file =
            snapshot(config)?.credentials().filter(|one| one.kind() == CredentialKind::ApiKey).count();
        if on_file > 0 {
            bail!(
                "{on_file} API keys are on file, but {} is missing, under which they were hashed: restore it from a backup, \
                 or remove these keys to start over",
                state.join("peppers.toml").display()
            );
        }
    }
    Ok(Peppers::new(pepper_file::load_or_create(state, &SystemRandom::new())?))
}

fn write_new(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let open = File::options().write(true).create_new(true).mode(0o600).open(path);
    let mut file = open.with_context(|| format!("cannot make {}", path.display()))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written
        .inspect_err(|_| drop(fs::remove_file(path)))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[derive(Serialize)]
struct KeyView<'a> {
    id: &'a CredentialId,
    app: &'a AppId,
    developer: &'a DeveloperId,
    status: &'static str,
    not_before: Option<Timestamp>,
    expires: Option<Timestamp>,
    pepper: &'a str,
}

impl<'a> KeyView<'a> {
    fn of(credential: &'a Credential) -> Option<Self> {
        let CredentialSecret::ApiKey { pepper, .. } = &credential.secret else { return None };
        Some(Self {
            id: &credential.id,
            app: &credential.app.id,
            developer: &credential.app.developer.id,
            status: match credential.status {
                CredentialStatus::Approved => "approved",
                CredentialStatus::Pending => "pending",
                CredentialStatus::Revoked => "revoked",
            },
            not_before: credential.not_before,
            expires: credential.expires,
            pepper,
        })
    }
}

fn list(config: &Config, format: Format) -> anyhow::Result<()> {
    let snapshot = snapshot(config)?;
    let mut keys: Vec<KeyView<'_>> =
        snapshot.credentials().filter_map(|credential| KeyView::of(credential)).collect();
    keys.sort_by_key(|key| (key.app, key.id));
    if format.json {
        return output::print_json(&keys);
    }
    let now = SystemClock.now();
    let mut table = Table::new(["KEY", "APP", "DEVELOPER", "STATUS", "FROM", "UNTIL"]);
    for key in keys {
        let time = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| moment(at, now));
        table.row([
            key.id.to_string(),
            key.app.to_string(),
            key.developer.to_string(),
            key.status.to_owned(),
            time(key.not_before),
            time(key.expires),
        ]);
    }
    Ok(output::print(&table.to_string())?)
}

fn revoke(config: &Config, id: CredentialId) -> anyhow::Result<()> {
    let (file, outcome) = registry_edit::apply(&config.registry_dirs, &Edit::Revoke(id.clone()))?;
    let file = file.display();
    Ok(output::print(&match outcome {
        Outcome::Changed => {
            format!("{id} is revoked, in {file}; a running agent refuses it within a second.\n")
        }
        Outcome::Unchanged => format!("{id} was revoked before, in {file}.\n"),
    })?)
}

fn snapshot(config: &Config) -> anyhow::Result<Snapshot> {
    let sources = registry_dir::read(&config.registry_dirs)?;
    registry::parse(&sources)
        .map_err(|problems| anyhow::anyhow!("the registry is broken:\n{}", lines(&problems)))
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
