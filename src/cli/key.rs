//! `postern key`: API keys are made here, shown once, and kept as keyed hashes.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use aws_lc_rs::rand::SystemRandom;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde::Serialize;
use zeroize::Zeroizing;

use super::args::{Expiry, Format, KeyVerb};
use super::locate;
use super::moment::moment;
use super::output::{self, Verdict};
use super::table::Table;
use crate::admin::Client;
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::Config;
use crate::credential::{ApiKey, Peppers, SigningSecret};
use crate::id::{AppId, CredentialId, DeveloperId};
use crate::registry::{
    self, Credential, CredentialKind, CredentialSecret, CredentialStatus, SignatureAlgorithm, SignatureKey,
    Snapshot,
};
use crate::secret::Secret;
use crate::store::registry_edit::{self, Edit, Outcome, StoredApiKey, StoredSignatureKey};
use crate::store::{pepper_file, registry_dir};
use crate::toml_text::Problem;

pub(super) async fn run(config: &Path, verb: KeyVerb) -> anyhow::Result<Verdict> {
    let config = locate::config(config)?;
    match verb {
        KeyVerb::Create { app, expires, out, signature: None, .. } => {
            create(&config, app, expires, out.as_deref())?;
        }
        KeyVerb::Create {
            app,
            expires,
            out,
            signature: Some(SignatureAlgorithm::HmacSha256),
            public_key,
        } => {
            if public_key.is_some() {
                bail!("an hmac-sha256 key is a shared secret, which is made here; it takes no --public-key");
            }
            create_shared(&config, app, expires, out.as_deref())?;
        }
        KeyVerb::Create { app, expires, signature: Some(algorithm), public_key, .. } => {
            let file = public_key.with_context(|| {
                format!("an {algorithm} key is made where it is used; give its public half with --public-key")
            })?;
            register(&config, app, expires, algorithm, &file)?;
        }
        KeyVerb::List(format) => list(&config, format).await?,
        KeyVerb::Revoke { id } => revoke(&config, id)?,
    }
    Ok(Verdict::Yes)
}

fn create(config: &Config, app: AppId, expires: Option<Expiry>, out: Option<&Path>) -> anyhow::Result<()> {
    let now = SystemClock.now();
    let expires = end(expires, now)?;
    let peppers = peppers(config)?;
    let random = SystemRandom::new();
    let key = ApiKey::generate(&random).ok().context("the system gives no random bytes")?;
    let pepper = peppers.newest().context("there is no pepper")?;
    let hash = peppers.hash(pepper, key.text().expose_secret()).context("there is no pepper")?;
    let hash = format!("hmac-sha256:{pepper}:{}", HEXLOWER.encode(&hash));
    let id: CredentialId = key.id().parse()?;
    let edit = Edit::AddApiKey { app: app.clone(), key: StoredApiKey { id: id.clone(), hash, expires } };
    let end = expires.map(|expires| format!(", valid until {}", moment(expires, now))).unwrap_or_default();
    hand_out(config, &edit, key.text(), out, &format!("Key {id} for {app}{end}; its hash is in"), &id)
}

/// A shared secret for `hmac-sha256`.
fn create_shared(
    config: &Config,
    app: AppId,
    expires: Option<Expiry>,
    out: Option<&Path>,
) -> anyhow::Result<()> {
    let now = SystemClock.now();
    let expires = end(expires, now)?;
    let peppers = peppers(config)?;
    let secret =
        SigningSecret::generate(&SystemRandom::new()).ok().context("the system gives no random bytes")?;
    let pepper = peppers.newest().context("there is no pepper")?;
    let sealed = peppers.seal(pepper, secret.id(), secret.text().expose_secret());
    let sealed = sealed.context("the secret cannot be sealed")?;
    let id: CredentialId = secret.id().parse()?;
    let key = StoredSignatureKey {
        id: id.clone(),
        algorithm: SignatureAlgorithm::HmacSha256,
        material: format!("aes-256-gcm:{pepper}:{}", BASE64URL_NOPAD.encode(&sealed)),
        expires,
    };
    let edit = Edit::AddSignatureKey { app: app.clone(), key };
    let end = expires.map(|expires| format!(", valid until {}", moment(expires, now))).unwrap_or_default();
    let told = format!("Signature key {id} for {app}{end}; it lies sealed in");
    hand_out(config, &edit, secret.text(), out, &told, &id)
}

/// The public half of a key that the caller has made.
fn register(
    config: &Config,
    app: AppId,
    expires: Option<Expiry>,
    algorithm: SignatureAlgorithm,
    file: &Path,
) -> anyhow::Result<()> {
    let now = SystemClock.now();
    let expires = end(expires, now)?;
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    SignatureKey::public(algorithm, &text)
        .with_context(|| format!("{} holds no {algorithm} public key", file.display()))?;
    // Only the name is wanted: it is as good as that of any other key.
    let name =
        SigningSecret::generate(&SystemRandom::new()).ok().context("the system gives no random bytes")?;
    let id: CredentialId = name.id().parse()?;
    let material = format!("{}\n", text.trim());
    let key = StoredSignatureKey { id: id.clone(), algorithm, material, expires };
    let edit = Edit::AddSignatureKey { app: app.clone(), key };
    let (registry, _) = registry_edit::apply(&config.registry_dirs, &edit)?;
    let end = expires.map(|expires| format!(", valid until {}", moment(expires, now))).unwrap_or_default();
    output::tell(&format!("Signature key {id} for {app}{end}; it is in {}.", registry.display()));
    Ok(output::print(&format!("{id}\n"))?)
}

/// The instant from which a key that is made `now` is no longer good.
fn end(expires: Option<Expiry>, now: Timestamp) -> anyhow::Result<Option<Timestamp>> {
    let expires = expires.map(|expires| expires.from(now));
    if let Some(expires) = expires.filter(|expires| *expires <= now) {
        bail!("the key would have ended at {expires}, before it was made");
    }
    Ok(expires)
}

/// Puts a key on file and gives its secret to whoever asked, once.
fn hand_out(
    config: &Config,
    edit: &Edit,
    secret: &Secret,
    out: Option<&Path>,
    told: &str,
    id: &CredentialId,
) -> anyhow::Result<()> {
    let mut line = Zeroizing::new(secret.expose_secret().to_vec());
    line.push(b'\n');
    if let Some(out) = out {
        write_new(out, &line)?;
    }
    let (file, _) = registry_edit::apply(&config.registry_dirs, edit).inspect_err(|_| {
        if let Some(out) = out {
            drop(fs::remove_file(out));
        }
    })?;
    output::tell(&format!("{told} {}.", file.display()));
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
        let on_file = snapshot(config)?.credentials().filter(|one| one.pepper().is_some()).count();
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
    /// `api_key`, or the algorithm of a key for signatures.
    kind: &'static str,
    pepper: Option<&'a str>,
    /// What was noticed of it: where it has leaked, by the running agent's word.
    #[serde(skip_serializing_if = "Option::is_none")]
    leaked: Option<String>,
}

impl<'a> KeyView<'a> {
    fn of(credential: &'a Credential) -> Option<Self> {
        let kind = match &credential.secret {
            CredentialSecret::ApiKey { .. } => CredentialKind::ApiKey.as_str(),
            CredentialSecret::Certificate(_) | CredentialSecret::Token(_) => return None,
            CredentialSecret::Signature(key) => key.algorithm().as_str(),
        };
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
            kind,
            pepper: credential.pepper(),
            leaked: None,
        })
    }
}

async fn list(config: &Config, format: Format) -> anyhow::Result<()> {
    let snapshot = snapshot(config)?;
    let mut keys: Vec<KeyView<'_>> =
        snapshot.credentials().filter_map(|credential| KeyView::of(credential)).collect();
    keys.sort_by_key(|key| (key.app, key.id));
    // An agent that does not run has noticed nothing.
    if let Ok(status) = Client::new(&config.admin_socket).status().await {
        for leak in status.detections.into_iter().filter(|one| one.kind == "key.leaked") {
            if let Some(key) = keys.iter_mut().find(|key| key.id.as_str() == leak.about) {
                key.leaked = Some(leak.detail);
            }
        }
    }
    if format.json {
        return output::print_json(&keys);
    }
    let now = SystemClock.now();
    let mut table = Table::new(["KEY", "KIND", "APP", "DEVELOPER", "STATUS", "FROM", "UNTIL"]);
    for key in keys {
        let time = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| moment(at, now));
        table.row([
            key.id.to_string(),
            key.kind.to_owned(),
            key.app.to_string(),
            key.developer.to_string(),
            match key.leaked {
                Some(_) => format!("{}, LEAKED", key.status),
                None => key.status.to_owned(),
            },
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
