//! `postern key`: API keys are made here, shown once, and kept as keyed hashes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde::Serialize;
use zeroize::Zeroizing;

use super::args::{EditArgs, Expiry, Format, KeyVerb, PepperVerb, RotateArgs};
use super::clerk::{self, Done, Errand};
use super::dispatch::block_on;
use super::locate;
use super::moment::{moment, relative};
use super::output::{self, Verdict};
use super::table::Table;
use crate::admin::Client;
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::Config;
use crate::credential::{API_KEY_MARK, ApiKey, ClientSecret, Peppers, SigningSecret, expect_strong};
use crate::id::{AppId, CredentialId, DeveloperId};
use crate::registry::{
    self, Credential, CredentialKind, CredentialSecret, CredentialStatus, SignatureAlgorithm, SignatureKey,
    Snapshot,
};
use crate::secret::Secret;
use crate::store::registry_change::{self, Change, Target};
use crate::store::registry_edit::{Edit, Outcome, StoredApiKey, StoredSignatureKey};
use crate::store::{pepper_file, registry_dir};
use crate::telemetry::AuditOutcome;
use crate::toml_text::Problem;

pub(super) fn run(config: &Path, verb: KeyVerb) -> anyhow::Result<Verdict> {
    let config = locate::config(config)?;
    match verb {
        KeyVerb::Create { app, expires, out, client_secret: true, reason, .. } => {
            create(&config, (Hashed::ClientSecret, app), expires, out.as_deref(), reason)?;
        }
        KeyVerb::Create { app, expires, out, signature: None, reason, .. } => {
            create(&config, (Hashed::ApiKey, app), expires, out.as_deref(), reason)?;
        }
        KeyVerb::Create {
            app,
            expires,
            out,
            signature: Some(SignatureAlgorithm::HmacSha256),
            public_key,
            reason,
            ..
        } => {
            if public_key.is_some() {
                bail!("an hmac-sha256 key is a shared secret, which is made here; it takes no --public-key");
            }
            create_shared(&config, app, expires, out.as_deref(), reason)?;
        }
        KeyVerb::Create { app, expires, signature: Some(algorithm), public_key, reason, .. } => {
            let file = public_key.with_context(|| {
                format!("an {algorithm} key is made where it is used; give its public half with --public-key")
            })?;
            register(&config, app, (algorithm, &file), expires, reason)?;
        }
        KeyVerb::List(format) => list(&config, format)?,
        KeyVerb::Approve { id, terms } => {
            let target = Target::Credential(id.clone());
            let edit = Edit::Change(Change::SetStatus(target.clone(), "approved"));
            clerk::tell(clerk::carry_out(&config, &edit, errand("key.approve", target, terms))?, |file| {
                format!("{id} is approved, in {file}")
            })?;
        }
        KeyVerb::Delete { id, terms } => {
            let target = Target::Credential(id.clone());
            let edit = Edit::Change(Change::Remove(target.clone()));
            clerk::tell(clerk::carry_out(&config, &edit, errand("key.delete", target, terms))?, |file| {
                format!("{id} is not on file any more, in {file}")
            })?;
        }
        KeyVerb::Revoke { id, terms } => revoke(&config, id, terms)?,
        KeyVerb::Rotate(args) => rotate(&config, args)?,
        KeyVerb::Import { app, id, hash, file, expires, terms } => {
            let digest = match (hash, file) {
                (Some(digest), _) => digest,
                (None, Some(file)) => digest_of(&file)?,
                (None, None) => bail!("which key? give --hash or --file"),
            };
            import(&config, app, id, digest, expires, terms)?;
        }
        KeyVerb::Pepper { verb } => pepper(&config, verb)?,
    }
    Ok(Verdict::Yes)
}

/// A secret of which the registry gets the hash.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Hashed {
    /// What comes with requests.
    ApiKey,
    /// With what a client gets tokens.
    ClientSecret,
}

fn create(
    config: &Config,
    (kind, app): (Hashed, AppId),
    expires: Option<Expiry>,
    out: Option<&Path>,
    reason: Option<String>,
) -> anyhow::Result<()> {
    let now = SystemClock.now();
    let expires = end(expires, now)?;
    let ((id, secret, hash), name) = match kind {
        Hashed::ApiKey => (fresh_api_key(config)?, "Key"),
        Hashed::ClientSecret => (fresh_client_secret(config)?, "Client secret"),
    };
    let end = expires.map(|expires| format!(", valid until {}", moment(expires, now))).unwrap_or_default();
    let told = format!("{name} {id} for {app}{end}; its hash is in");
    let key = StoredApiKey { id: id.clone(), hash, created: Some(now.to_whole_second()), expires };
    let edit = match kind {
        Hashed::ApiKey => Edit::AddApiKey { app, key },
        Hashed::ClientSecret => Edit::AddClientSecret { app, key },
    };
    hand_out(config, &edit, &secret, out, &told, made("key.create", &id, reason))
}

/// A key with its id, and its hash as the registry has it.
fn fresh_api_key(config: &Config) -> anyhow::Result<(CredentialId, Secret, String)> {
    let key = ApiKey::generate(&SystemRandom::new()).ok().context("the system gives no random bytes")?;
    let hash = hash_on_file(config, key.text())?;
    Ok((key.id().parse()?, key.text().clone(), hash))
}

/// A client secret with its id, and its hash as the registry has it.
fn fresh_client_secret(config: &Config) -> anyhow::Result<(CredentialId, Secret, String)> {
    let secret =
        ClientSecret::generate(&SystemRandom::new()).ok().context("the system gives no random bytes")?;
    let hash = hash_on_file(config, secret.text())?;
    Ok((secret.id().parse()?, secret.text().clone(), hash))
}

/// The hash of a secret under the newest pepper, as the registry has it.
fn hash_on_file(config: &Config, secret: &Secret) -> anyhow::Result<String> {
    let peppers = peppers(config)?;
    let pepper = peppers.newest().context("there is no pepper")?;
    let hash = peppers.hash(pepper, secret.expose_secret()).context("there is no pepper")?;
    Ok(format!("hmac-sha256:{pepper}:{}", HEXLOWER.encode(&hash)))
}

/// A shared secret for `hmac-sha256`.
fn create_shared(
    config: &Config,
    app: AppId,
    expires: Option<Expiry>,
    out: Option<&Path>,
    reason: Option<String>,
) -> anyhow::Result<()> {
    let now = SystemClock.now();
    let expires = end(expires, now)?;
    let (id, secret, material) = fresh_shared_secret(config)?;
    let algorithm = SignatureAlgorithm::HmacSha256;
    let created = Some(now.to_whole_second());
    let key = StoredSignatureKey { id: id.clone(), algorithm, material, created, expires };
    let edit = Edit::AddSignatureKey { app: app.clone(), key };
    let end = expires.map(|expires| format!(", valid until {}", moment(expires, now))).unwrap_or_default();
    let told = format!("Signature key {id} for {app}{end}; it lies sealed in");
    hand_out(config, &edit, &secret, out, &told, made("key.create", &id, reason))
}

/// A shared secret with its id, and sealed as the registry has it.
fn fresh_shared_secret(config: &Config) -> anyhow::Result<(CredentialId, Secret, String)> {
    let peppers = peppers(config)?;
    let secret =
        SigningSecret::generate(&SystemRandom::new()).ok().context("the system gives no random bytes")?;
    let pepper = peppers.newest().context("there is no pepper")?;
    let sealed = peppers.seal(pepper, secret.id(), secret.text().expose_secret());
    let sealed = sealed.context("the secret cannot be sealed")?;
    let material = format!("aes-256-gcm:{pepper}:{}", BASE64URL_NOPAD.encode(&sealed));
    Ok((secret.id().parse()?, secret.text().clone(), material))
}

/// The public half of a key that the caller has made.
fn register(
    config: &Config,
    app: AppId,
    (algorithm, file): (SignatureAlgorithm, &Path),
    expires: Option<Expiry>,
    reason: Option<String>,
) -> anyhow::Result<()> {
    let now = SystemClock.now();
    let expires = end(expires, now)?;
    let (id, material) = public_key(algorithm, file)?;
    let created = Some(now.to_whole_second());
    let key = StoredSignatureKey { id: id.clone(), algorithm, material, created, expires };
    let edit = Edit::AddSignatureKey { app: app.clone(), key };
    let end = expires.map(|expires| format!(", valid until {}", moment(expires, now))).unwrap_or_default();
    let done = clerk::carry_out(config, &edit, made("key.create", &id, reason))?;
    if let Some(Done { file, .. }) = done {
        output::tell(&format!("Signature key {id} for {app}{end}; it is in {}.", file.display()));
        output::print(&format!("{id}\n"))?;
    }
    Ok(())
}

/// A public key as the registry has it, with a fresh name.
fn public_key(algorithm: SignatureAlgorithm, file: &Path) -> anyhow::Result<(CredentialId, String)> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    SignatureKey::public(algorithm, &text)
        .with_context(|| format!("{} holds no {algorithm} public key", file.display()))?;
    // Only the name is wanted: it is as good as that of any other key.
    let name =
        SigningSecret::generate(&SystemRandom::new()).ok().context("the system gives no random bytes")?;
    Ok((name.id().parse()?, format!("{}\n", text.trim())))
}

/// The SHA-256 of the key in `file`, if it is one that nobody can guess.
fn digest_of(file: &Path) -> anyhow::Result<[u8; 32]> {
    let mut bytes = Zeroizing::new(Vec::new());
    if file == Path::new("-") {
        std::io::stdin().lock().take(LONGEST_IMPORT).read_to_end(&mut bytes)?;
    } else {
        let opened = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
        opened.take(LONGEST_IMPORT).read_to_end(&mut bytes)?;
    }
    let key = bytes.trim_ascii();
    expect_strong(key).context("the key is not taken over")?;
    if key.starts_with(API_KEY_MARK.as_bytes()) {
        bail!("the key is one of postern's own: copy its table from the registry where it was made");
    }
    Ok(digest::digest(&digest::SHA256, key).as_ref().try_into()?)
}

const LONGEST_IMPORT: u64 = 4096;

/// Puts a key on file of which only the SHA-256 is known.
fn import(
    config: &Config,
    app: AppId,
    id: CredentialId,
    digest: [u8; 32],
    expires: Option<Expiry>,
    terms: EditArgs,
) -> anyhow::Result<()> {
    let now = SystemClock.now();
    let expires = end(expires, now)?;
    let peppers = peppers(config)?;
    let pepper = peppers.newest().context("there is no pepper")?;
    let hash = peppers.hash(pepper, &digest).context("there is no pepper")?;
    let hash = format!("hmac-sha256-of-sha256:{pepper}:{}", HEXLOWER.encode(&hash));
    // How old it is, nobody knows.
    let key = StoredApiKey { id: id.clone(), hash, created: None, expires };
    let edit = Edit::AddApiKey { app: app.clone(), key };
    let done = clerk::carry_out(config, &edit, errand("key.import", Target::Credential(id.clone()), terms))?;
    clerk::tell(done, |file| format!("{id} is a key of {app}, in {file}"))
}

/// The next key in the place of one that goes on for a while.
fn rotate(config: &Config, args: RotateArgs) -> anyhow::Result<()> {
    let RotateArgs { id: old, grace, expires, out, public_key: next_public, terms } = args;
    let now = SystemClock.now();
    let snapshot = snapshot(config)?;
    let former = snapshot.credential(old.as_str());
    let expires = match (expires, former) {
        (Some(_), _) | (None, None) => end(expires, now)?,
        (None, Some(former)) => same_life(former, now)?,
    };
    let retire_at = (now + grace).to_whole_second();
    let kind = former.map(|former| &former.secret);
    let (id, secret, entries) = match (kind, next_public) {
        (Some(CredentialSecret::Certificate(_)), _) => {
            bail!("{old} stands for certificates, which are rotated by whoever issues them");
        }
        (Some(CredentialSecret::Token(_)), _) => {
            bail!("{old} stands for tokens, whose keys are rotated by their issuer");
        }
        (Some(CredentialSecret::ClientKey(key) | CredentialSecret::Signature(key)), Some(file))
            if key.algorithm() != SignatureAlgorithm::HmacSha256 =>
        {
            let (id, material) = public_key(key.algorithm(), &file)?;
            (id, None, ("public_key", material))
        }
        (Some(CredentialSecret::ClientKey(key) | CredentialSecret::Signature(key)), None)
            if key.algorithm() != SignatureAlgorithm::HmacSha256 =>
        {
            bail!(
                "the private half of {old} is where it is used; give the next public key with --public-key"
            );
        }
        (_, Some(_)) => bail!("{old} is a secret, of which the next is made here; it takes no --public-key"),
        (Some(CredentialSecret::ClientSecret { .. }), None) => {
            let (id, secret, hash) = fresh_client_secret(config)?;
            (id, Some(secret), ("hash", hash))
        }
        (Some(CredentialSecret::ClientKey(_) | CredentialSecret::Signature(_)), None) => {
            let (id, secret, material) = fresh_shared_secret(config)?;
            (id, Some(secret), ("secret", material))
        }
        // An unknown one is refused, and that is written down, before anything is handed out.
        (Some(CredentialSecret::ApiKey { .. } | CredentialSecret::ImportedKey { .. }) | None, None) => {
            let (id, secret, hash) = fresh_api_key(config)?;
            (id, Some(secret), ("hash", hash))
        }
    };
    let edit = Edit::Change(Change::Rotate {
        old: old.clone(),
        retire_at,
        entries: vec![("id", id.to_string()), entries],
        created: now.to_whole_second(),
        expires,
    });
    let errand = Errand {
        detail: Some(format!("followed by credential:{id}")),
        ..errand("key.rotate", Target::Credential(old.clone()), terms)
    };
    let told = format!("Key {id} follows {old}, which goes on until {}; both are in", moment(retire_at, now));
    match secret {
        Some(secret) => hand_out(config, &edit, &secret, out.as_deref(), &told, errand),
        None => {
            if let Some(Done { file, .. }) = clerk::carry_out(config, &edit, errand)? {
                output::tell(&format!("{told} {}.", file.display()));
                output::print(&format!("{id}\n"))?;
            }
            Ok(())
        }
    }
}

/// When the next key ends, so that it lives as long as the former was to live.
fn same_life(former: &Credential, now: Timestamp) -> anyhow::Result<Option<Timestamp>> {
    let Some(expires) = former.expires else { return Ok(None) };
    match former.created.or(former.not_before) {
        Some(begun) => Ok(Some((now + expires.since(begun)).to_whole_second())),
        None => bail!(
            "{} ends at {expires}, but when it was made is not on file: say with --expires when the next one ends",
            former.id
        ),
    }
}

fn errand<'a>(verb: &'static str, target: Target, terms: EditArgs) -> Errand<'a> {
    let EditArgs { reason, dry_run } = terms;
    Errand { verb, target, reason, detail: None, dry_run, file: None }
}

fn made<'a>(verb: &'static str, id: &CredentialId, reason: Option<String>) -> Errand<'a> {
    errand(verb, Target::Credential(id.clone()), EditArgs { reason, dry_run: false })
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
    errand: Errand<'_>,
) -> anyhow::Result<()> {
    let mut line = Zeroizing::new(secret.expose_secret().to_vec());
    line.push(b'\n');
    let out = out.filter(|_| !errand.dry_run);
    if let Some(out) = out {
        write_new(out, &line)?;
    }
    let done = clerk::carry_out(config, edit, errand).inspect_err(|_| {
        if let Some(out) = out {
            drop(fs::remove_file(out));
        }
    })?;
    let Some(Done { file, .. }) = done else { return Ok(()) };
    output::tell(&format!("{told} {}.", file.display()));
    if let Some(out) = out {
        output::tell(&format!("The key is in {}, and nowhere else.", out.display()));
    } else {
        output::tell("This is the only time that it is shown:");
        let text = std::str::from_utf8(&line)?;
        output::print_all(text)
            .context("the key could not be shown; revoke it with `postern key revoke`, by the id above")?;
    }
    Ok(())
}

/// The peppers; made if nothing was ever hashed under one.
pub(super) fn peppers(config: &Config) -> anyhow::Result<Peppers> {
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

#[derive(Serialize)]
struct PepperView {
    version: String,
    newest: bool,
    /// Keys on file that rest on it and are not revoked.
    keys: usize,
}

fn pepper_views(config: &Config) -> anyhow::Result<Vec<PepperView>> {
    let peppers = Peppers::new(pepper_file::load(&config.state_dir)?);
    let snapshot = snapshot(config)?;
    let resting = |version: &str| {
        let live = snapshot.credentials().filter(|key| key.status != CredentialStatus::Revoked);
        live.filter(|key| key.pepper() == Some(version)).count()
    };
    let view = |version: &str| PepperView {
        version: version.to_owned(),
        newest: peppers.newest() == Some(version),
        keys: resting(version),
    };
    Ok(peppers.versions().map(view).collect())
}

fn pepper(config: &Config, verb: PepperVerb) -> anyhow::Result<()> {
    match verb {
        PepperVerb::List(format) => {
            let views = pepper_views(config)?;
            if format.json {
                return output::print_json(&views);
            }
            let mut table = Table::new(["PEPPER", "FOR NEW KEYS", "KEYS"]);
            for view in views {
                let newest = if view.newest { "yes" } else { "no" };
                table.row([view.version, newest.to_owned(), view.keys.to_string()]);
            }
            Ok(output::print(&table.to_string())?)
        }
        PepperVerb::Add => {
            peppers(config)?;
            let version = clerk::noted(config, ("pepper.add", "peppers", None), || {
                Ok(pepper_file::add(&config.state_dir, &SystemRandom::new())?)
            })?;
            let older: usize =
                pepper_views(config)?.iter().filter(|view| !view.newest).map(|view| view.keys).sum();
            output::tell(&format!(
                "Keys are hashed under {version} from now on; {older} on file rest on older peppers."
            ));
            Ok(output::print(&format!("{version}\n"))?)
        }
        PepperVerb::Remove { version } => {
            let views = pepper_views(config)?;
            let Some(view) = views.iter().find(|view| view.version == version) else {
                bail!("there is no pepper {version}");
            };
            let target = format!("pepper:{version}");
            let why = match view {
                PepperView { keys: 0, .. } if views.len() > 1 => None,
                PepperView { keys: 0, .. } => Some("it is the only one".to_owned()),
                PepperView { keys, .. } => {
                    Some(format!("{keys} keys that are not revoked rest on it; rotate them first"))
                }
            };
            if let Some(why) = why {
                clerk::note(config, "pepper.remove", &target, None, AuditOutcome::Refused)?;
                bail!("{version} is not removed: {why}");
            }
            clerk::noted(config, ("pepper.remove", &target, None), || {
                Ok(pepper_file::remove(&config.state_dir, &version)?)
            })?;
            Ok(output::print(&format!("{version} is gone.\n"))?)
        }
    }
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
    status: String,
    created: Option<Timestamp>,
    /// When it is refused although it is on file as retiring.
    retire_at: Option<Timestamp>,
    not_before: Option<Timestamp>,
    expires: Option<Timestamp>,
    /// `api_key`, `client_key`, `client_secret`, or the algorithm of a key for signatures.
    kind: &'static str,
    pepper: Option<&'a str>,
    /// When it was used last since the agent's start; none, too, if no agent can be asked.
    last_used: Option<Timestamp>,
    /// What was noticed of it: where it has leaked, by the running agent's word.
    #[serde(skip_serializing_if = "Option::is_none")]
    leaked: Option<String>,
}

impl<'a> KeyView<'a> {
    fn of(credential: &'a Credential, uses: &BTreeMap<CredentialId, Timestamp>) -> Option<Self> {
        let kind = match &credential.secret {
            CredentialSecret::ApiKey { .. } | CredentialSecret::ImportedKey { .. } => {
                CredentialKind::ApiKey.as_str()
            }
            CredentialSecret::Certificate(_) | CredentialSecret::Token(_) => return None,
            CredentialSecret::ClientKey(_) | CredentialSecret::ClientSecret { .. } => {
                credential.kind().as_str()
            }
            CredentialSecret::Signature(key) => key.algorithm().as_str(),
        };
        Some(Self {
            id: &credential.id,
            app: &credential.app.id,
            developer: &credential.app.developer.id,
            status: match credential.status {
                CredentialStatus::Retiring(_) => "retiring".to_owned(),
                status @ (CredentialStatus::Approved
                | CredentialStatus::Pending
                | CredentialStatus::Revoked) => registry_change::credential_word(status),
            },
            created: credential.created,
            retire_at: match credential.status {
                CredentialStatus::Retiring(at) => Some(at),
                CredentialStatus::Approved | CredentialStatus::Pending | CredentialStatus::Revoked => None,
            },
            not_before: credential.not_before,
            expires: credential.expires,
            kind,
            pepper: credential.pepper(),
            last_used: uses.get(&credential.id).copied(),
            leaked: None,
        })
    }
}

fn list(config: &Config, format: Format) -> anyhow::Result<()> {
    let snapshot = snapshot(config)?;
    // Without an agent there is nobody who would know.
    let client = Client::new(&config.admin_socket);
    let uses = block_on(async { Ok(client.credential_uses().await?) }).unwrap_or_default();
    let mut keys: Vec<KeyView<'_>> =
        snapshot.credentials().filter_map(|credential| KeyView::of(credential, &uses)).collect();
    keys.sort_by_key(|key| (key.app, key.id));
    // An agent that does not run has noticed nothing.
    if let Ok(status) = block_on(async { Ok(client.status().await?) }) {
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
    let mut table =
        Table::new(["KEY", "KIND", "APP", "DEVELOPER", "STATUS", "MADE", "FROM", "UNTIL", "LAST USED"]);
    for key in keys {
        let time = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| moment(at, now));
        table.row([
            key.id.to_string(),
            key.kind.to_owned(),
            key.app.to_string(),
            key.developer.to_string(),
            match key.leaked {
                Some(_) => format!("{}, LEAKED", key.status),
                None => key.status.clone(),
            },
            time(key.created),
            time(key.not_before),
            // Whichever comes first.
            time(key.retire_at.into_iter().chain(key.expires).min()),
            key.last_used.map_or_else(|| "-".to_owned(), |at| relative(at, now)),
        ]);
    }
    Ok(output::print(&table.to_string())?)
}

fn revoke(config: &Config, id: CredentialId, terms: EditArgs) -> anyhow::Result<()> {
    let edit = Edit::Revoke(id.clone());
    let errand = errand("key.revoke", Target::Credential(id.clone()), terms);
    let Some(Done { file, outcome, .. }) = clerk::carry_out(config, &edit, errand)? else { return Ok(()) };
    let file = file.display();
    Ok(output::print(&match outcome {
        Outcome::Changed => {
            format!("{id} is revoked, in {file}; a running agent refuses it within a second.\n")
        }
        Outcome::Unchanged => format!("{id} was revoked before, in {file}.\n"),
    })?)
}

pub(super) fn snapshot(config: &Config) -> anyhow::Result<Snapshot> {
    let sources = registry_dir::read(&config.registry_dirs)?;
    registry::parse(&sources)
        .map_err(|problems| anyhow::anyhow!("the registry is broken:\n{}", lines(&problems)))
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
