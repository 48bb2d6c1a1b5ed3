//! Reading the parts of the configuration file, each on its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::credential::token::Algorithm;
use crate::credential::{NonceRule, SignatureRules};
use crate::id::{ListenerId, RemoteId, ServiceId, WorkloadId};
use crate::identity::{SpiffeId, TrustDomain};
use crate::issuance::Mode;
use crate::limit::{Concurrency, Rate, Spike};
use crate::oauth::{self, Binding, Issuer};
use crate::pki::{DEFAULT_BACKDATE, KeyAlgorithm, Lifetimes, Profile, StaleCrls, is_dns_name};
use crate::proxy::{
    Ceiling, Endpoint, ErrorFormat, Limits, ListenerProtocol, ListenerSettings, OldestTls, RemoteProtocol,
    RemoteSettings, SendProxy, ServiceProtocol, ServiceSettings, TrailerName, UpgradeProtocol, Watch,
};
use crate::registry::{Network, accepts};
use crate::store::{Custody, KeySettings, SecretSource, TokenSettings};
use crate::telemetry::{AuditSettings, LogFormat, ROTATE_AT, Settings as LogSettings};
use crate::toml_text::{Place, TableReader, Value};
use crate::workload::{FileMode, Reader, Reload, Selectors, Settings as Delivery};

use super::onward;
use super::settings::{CrlFile, ForeignBundle, KeyDelivery, KeyRules, UsageSettings, WorkloadConfig};

/// Something with a name, and where it stands.
pub(super) struct Placed<'d, T> {
    pub(super) place: Place<'d>,
    pub(super) item: T,
}

/// `path` as the file means it: relative to the folder that the file stands in.
pub(super) fn path(base: &Path, value: &Value<'_>) -> Option<PathBuf> {
    let text = value.text()?;
    if text.is_empty() {
        value.problem("expected a path, found nothing");
        return None;
    }
    Some(normal(&base.join(text)))
}

/// `path` without `.` and `..`, by its text alone.
fn normal(path: &Path) -> PathBuf {
    use std::path::Component;

    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if normal.file_name().is_some_and(|name| name != "..") => {
                normal.pop();
            }
            Component::ParentDir | Component::Normal(_) | Component::Prefix(_) | Component::RootDir => {
                normal.push(component);
            }
        }
    }
    if normal.as_os_str().is_empty() { PathBuf::from(".") } else { normal }
}

pub(super) fn key_algorithm(value: &Value<'_>) -> Option<KeyAlgorithm> {
    value.word(&[
        ("ed25519", KeyAlgorithm::Ed25519),
        ("p256", KeyAlgorithm::EcdsaP256),
        ("p384", KeyAlgorithm::EcdsaP384),
    ])
}

pub(super) fn log(table: Option<TableReader<'_>>) -> LogSettings {
    let mut settings = LogSettings { filter: "info".to_owned(), format: LogFormat::Text, access: true };
    let Some(mut table) = table else { return settings };
    if let Some(filter) = table.optional("level", Value::text) {
        settings.filter = filter.to_owned();
    }
    let formats = [("json", LogFormat::Json), ("text", LogFormat::Text)];
    if let Some(format) = table.optional("format", |value| value.word(&formats)) {
        settings.format = format;
    }
    if let Some(access) = table.optional("access", Value::boolean) {
        settings.access = access;
    }
    table.finish();
    settings
}

/// The `[keys]` section: how old keys may become.
pub(super) fn key_rules(table: Option<TableReader<'_>>, base: &Path) -> KeyRules {
    let Some(mut table) = table else { return KeyRules::default() };
    let max_age = table.optional("max_age", some_time);
    let mut deliver: Vec<KeyDelivery> = Vec::new();
    for table in table.tables("deliver") {
        let place = table.place();
        let Some(delivery) = key_delivery(table, base) else { continue };
        if deliver.iter().any(|other| other.file == delivery.file) {
            place.problem(format!("{} is the file of another key already", delivery.file.display()));
        }
        deliver.push(delivery);
    }
    table.finish();
    KeyRules { max_age, deliver }
}

fn some_time(value: &Value<'_>) -> Option<Duration> {
    let span = value.duration()?;
    if span.is_zero() {
        value.problem("expected more than nothing");
        return None;
    }
    Some(span)
}

fn key_delivery(mut table: TableReader<'_>, base: &Path) -> Option<KeyDelivery> {
    let app = table.required("app", Value::parse);
    let file = table.required("file", |value| path(base, value));
    let owner =
        table.optional("owner", |value| value.convert(|name| name.parse().or_else(|_| user_id(name))));
    let every = table.required("every", some_time);
    let grace = table.optional("grace", some_time).unwrap_or(GRACE);
    if every.is_some_and(|every| every <= grace) {
        table.problem("`grace` must be shorter than `every`: else more and more keys are good at a time");
    }
    table.finish();
    Some(KeyDelivery { app: app?, file: file?, owner, every: every?, grace })
}

/// A key that another has taken the place of goes on for so long, unless something else is said.
const GRACE: Duration = Duration::from_secs(48 * 3600);

/// The `[audit]` section; in the state directory, unless something else is said.
pub(super) fn audit(table: Option<TableReader<'_>>, base: &Path, state_dir: Option<&Path>) -> AuditSettings {
    let folder = state_dir.unwrap_or(base).join("audit");
    let mut settings = AuditSettings { folder, rotate_at: ROTATE_AT, key: None };
    let Some(mut table) = table else { return settings };
    if let Some(folder) = table.optional("directory", |value| path(base, value)) {
        settings.folder = folder;
    }
    if let Some(size) = table.optional("rotate_at", Value::byte_size) {
        settings.rotate_at = size;
    }
    settings.key = secret(&mut table, base, ("key_file", "key_credential"));
    table.finish();
    settings
}

/// The `[authority]` section: what the local CA is.
pub(super) struct AuthoritySection {
    pub(super) mode: Mode,
    pub(super) root_ttl: Duration,
    pub(super) issuing_ttl: Duration,
    pub(super) distribute: Option<Duration>,
    pub(super) algorithm: KeyAlgorithm,
    pub(super) backdate: Duration,
    pub(super) crl_ttl: Duration,
    pub(super) second_opinion: Option<PathBuf>,
    pub(super) keys: KeySettings,
}

/// How long a revocation list speaks unless something else is said.
const CRL_TTL: Duration = Duration::from_secs(24 * 3600);

/// A list is drawn up anew at half of its span, and no more than once a second.
const SHORTEST_CRL_TTL: Duration = Duration::from_secs(2);

/// Where Debian and its like have OpenSSL.
const OPENSSL: &str = "/usr/bin/openssl";

pub(super) fn authority(table: Option<TableReader<'_>>, base: &Path) -> AuthoritySection {
    let lifetimes = Lifetimes::default();
    let mut section = AuthoritySection {
        mode: Mode::Standalone,
        root_ttl: lifetimes.root,
        issuing_ttl: lifetimes.issuing,
        distribute: None,
        algorithm: KeyAlgorithm::EcdsaP256,
        backdate: DEFAULT_BACKDATE,
        crl_ttl: CRL_TTL,
        second_opinion: Some(OPENSSL.into()),
        keys: KeySettings::default(),
    };
    let Some(mut table) = table else { return section };
    let modes = [("standalone", Mode::Standalone), ("subordinate", Mode::Subordinate)];
    if let Some(mode) = table.optional("mode", |value| value.word(&modes)) {
        section.mode = mode;
    }
    match section.mode {
        Mode::Standalone => own_lifetimes(&mut table, &mut section),
        Mode::Subordinate => {
            for key in ["root_ttl", "issuing_ttl", "backdate"] {
                table.optional(key, |value| {
                    value.problem("is decided where the root is (`postern ca sign`), and means nothing with mode = \"subordinate\"");
                    None::<()>
                });
            }
        }
    }
    section.distribute = table.optional("distribute", Value::duration);
    let crl_ttl = |value: &Value<'_>| {
        let ttl = value.duration()?;
        if ttl < SHORTEST_CRL_TTL {
            value.problem("expected 2s or more: a revocation list is made anew at half of it");
        }
        Some(ttl)
    };
    if let Some(ttl) = table.optional("crl_ttl", crl_ttl) {
        section.crl_ttl = ttl;
    }
    if let Some(algorithm) = table.optional("key", key_algorithm) {
        section.algorithm = algorithm;
    }
    if let Some(program) = table.optional("second_opinion", program) {
        section.second_opinion = program;
    }
    section.keys = keys(&mut table, base);
    table.finish();
    section
}

/// What only a host decides that makes its authorities itself.
fn own_lifetimes(table: &mut TableReader<'_>, section: &mut AuthoritySection) {
    if let Some(ttl) = table.optional("root_ttl", Value::duration) {
        section.root_ttl = ttl;
    }
    if let Some(ttl) = table.optional("issuing_ttl", Value::duration) {
        section.issuing_ttl = ttl;
    }
    if let Some(backdate) = table.optional("backdate", Value::duration) {
        section.backdate = backdate;
    }
}

/// The whole path of a program, or `never`.
fn program(value: &Value<'_>) -> Option<Option<PathBuf>> {
    value.convert(|text| match text {
        "never" => Ok(None),
        path if path.starts_with('/') => Ok(Some(path.into())),
        _ => Err("expected the whole path of an openssl, or \"never\""),
    })
}

/// Where the authorities' keys are: `keys`, a passphrase, and `[authority.pkcs11]`.
fn keys(table: &mut TableReader<'_>, base: &Path) -> KeySettings {
    let place = table.place();
    let custody = table
        .optional("keys", |value| value.word(&[("files", Custody::Files), ("pkcs11", Custody::Token)]))
        .unwrap_or_default();
    let passphrase = secret(table, base, ("passphrase_file", "passphrase_credential"));
    let has_token = table.has("pkcs11");
    let token = table.table("pkcs11").and_then(|table| token(table, base));
    if custody == Custody::Token && !has_token {
        place.problem("keys on a token need [authority.pkcs11], which says which token");
    }
    KeySettings { custody, passphrase, token }
}

fn token(mut table: TableReader<'_>, base: &Path) -> Option<TokenSettings> {
    let place = table.place();
    let module = table.required("module", |value| path(base, value));
    let label = table.required("token", Value::text).map(str::to_owned);
    let has_pin = table.has("pin_file") || table.has("pin_credential");
    let pin = secret(&mut table, base, ("pin_file", "pin_credential"));
    if !has_pin {
        place.problem(
            "expected `pin_file` or `pin_credential`: the token gives nothing without its user's PIN",
        );
    }
    table.finish();
    Some(TokenSettings { module: module?, label: label?, pin: pin? })
}

/// A secret that is in a file or is handed over by systemd, but not both.
fn secret(
    table: &mut TableReader<'_>,
    base: &Path,
    (file, credential): (&'static str, &'static str),
) -> Option<SecretSource> {
    let place = table.place();
    let both = table.has(file) && table.has(credential);
    let from_file = table.optional(file, |value| path(base, value)).map(SecretSource::File);
    let from_systemd = table.optional(credential, |value| {
        value.convert(|name| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            if !name.is_empty() && name.bytes().all(plain) && !name.starts_with('.') {
                Ok(SecretSource::Credential(name.to_owned()))
            } else {
                Err("expected the name of a systemd credential: letters, digits, '-', '_' and '.'")
            }
        })
    });
    if both {
        place.problem(format!("`{file}` and `{credential}` exclude each other"));
    }
    from_file.or(from_systemd)
}

/// The `[leaf]` section: what every certificate is, unless its workload says otherwise.
#[derive(Clone, Copy)]
pub(super) struct LeafSection {
    pub(super) ttl: Duration,
    pub(super) algorithm: KeyAlgorithm,
    pub(super) backdate: Duration,
}

pub(super) fn leaf(table: Option<TableReader<'_>>) -> LeafSection {
    let mut section = LeafSection {
        ttl: Lifetimes::default().leaf,
        algorithm: KeyAlgorithm::EcdsaP256,
        backdate: DEFAULT_BACKDATE,
    };
    let Some(mut table) = table else { return section };
    if let Some(ttl) = table.optional("ttl", Value::duration) {
        section.ttl = ttl;
    }
    if let Some(algorithm) = table.optional("key", key_algorithm) {
        section.algorithm = algorithm;
    }
    if let Some(backdate) = table.optional("backdate", Value::duration) {
        section.backdate = backdate;
    }
    table.finish();
    section
}

/// Reads `spiffe_id`, `dns`, `ttl` and `key`; what is absent comes from `leaf`, and an absent id is `/<name>`.
fn profile(
    table: &mut TableReader<'_>,
    domain: Option<&TrustDomain>,
    name: &str,
    leaf: LeafSection,
) -> Option<Profile> {
    let has_id = table.has("spiffe_id");
    let given = table.optional("spiffe_id", |value| {
        let id: SpiffeId = value.parse()?;
        if domain.is_some_and(|domain| id.trust_domain() != *domain) {
            value.problem(format!("the identity must be of the trust domain {}", domain?));
            return None;
        }
        Some(id)
    });
    let usual = || domain.and_then(|domain| format!("spiffe://{domain}/{name}").parse().ok());
    let id: Option<SpiffeId> = if has_id { given } else { usual() };
    let dns = table.optional("dns", |value| value.list(certifiable_name)).unwrap_or_default();
    let ttl = table.optional("ttl", Value::duration).unwrap_or(leaf.ttl);
    let algorithm = table.optional("key", key_algorithm).unwrap_or(leaf.algorithm);
    Some(Profile { spiffe_id: id?, dns, ttl, backdate: leaf.backdate, algorithm })
}

/// A DNS name that a certificate may carry.
fn certifiable_name(value: &Value<'_>) -> Option<String> {
    let name = dns_name(value)?;
    if is_dns_name(&name) {
        return Some(name);
    }
    value.problem("a certificate cannot carry this as a DNS name: labels begin and end with a letter or digit, and the last is no number");
    None
}

fn dns_name(value: &Value<'_>) -> Option<String> {
    let plain = |text: &str| {
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        if text.len() <= 253 && text.split('.').all(label) {
            Ok(text.to_owned())
        } else {
            Err("expected a DNS name in lower case")
        }
    };
    value.convert(plain)
}

/// The `[agent]` section: the agent's own identity.
pub(super) fn agent(
    table: Option<TableReader<'_>>,
    domain: Option<&TrustDomain>,
    leaf: LeafSection,
) -> Option<Profile> {
    match table {
        Some(mut table) => {
            let profile = profile(&mut table, domain, "agent", leaf);
            table.finish();
            profile
        }
        None => {
            let spiffe_id = format!("spiffe://{}/agent", domain?).parse().ok()?;
            Some(Profile {
                spiffe_id,
                dns: Vec::new(),
                ttl: leaf.ttl,
                backdate: leaf.backdate,
                algorithm: leaf.algorithm,
            })
        }
    }
}

/// One `[[workload]]`.
pub(super) fn workload<'d>(
    mut table: TableReader<'d>,
    base: &Path,
    domain: Option<&TrustDomain>,
    leaf: LeafSection,
) -> Option<Placed<'d, (WorkloadId, Profile, WorkloadConfig)>> {
    let place = table.place();
    let id: Option<WorkloadId> = table.required("id", Value::parse);
    let name = id.as_ref().map_or("workload", WorkloadId::as_str).to_owned();
    let profile = profile(&mut table, domain, &name, leaf);
    let selectors = table.table("match").map(selectors).unwrap_or_default();
    let files = table.table("files").and_then(|table| delivery(table, base));
    table.finish();
    Some(Placed { place, item: (id?, profile?, WorkloadConfig { selectors, files }) })
}

fn selectors(mut table: TableReader<'_>) -> Selectors {
    let uid = table.optional("uid", |value| value.integer(0..=u32::MAX));
    let user = table.optional("user", |value| value.convert(user_id));
    let gid = table.optional("gid", |value| value.integer(0..=u32::MAX));
    let group = table.optional("group", |value| value.convert(group_id));
    if uid.is_some() && user.is_some() || gid.is_some() && group.is_some() {
        table.problem("give either the number or the name of a user or group, not both");
    }
    let executable = table.optional("executable", |value| {
        let absolute = |text: &str| {
            let path = PathBuf::from(text);
            if path.is_absolute() { Ok(path) } else { Err("expected an absolute path") }
        };
        value.convert(absolute)
    });
    let unit = table.optional("unit", Value::text).map(str::to_owned);
    let cgroup = table.optional("cgroup", Value::text).map(str::to_owned);
    let selectors = Selectors { uid: uid.or(user), gid: gid.or(group), executable, unit, cgroup };
    if selectors == Selectors::default() {
        table.problem("expected at least one of uid, user, gid, group, executable, unit, cgroup");
    }
    table.finish();
    selectors
}

fn user_id(name: &str) -> Result<u32, String> {
    match nix::unistd::User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err(format!("there is no user called {name:?} on this host")),
        Err(error) => Err(format!("the user {name:?} cannot be looked up: {error}")),
    }
}

fn group_id(name: &str) -> Result<u32, String> {
    match nix::unistd::Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(format!("there is no group called {name:?} on this host")),
        Err(error) => Err(format!("the group {name:?} cannot be looked up: {error}")),
    }
}

/// `user:<name or number>` or `group:<name or number>`.
fn reader(value: &Value<'_>) -> Option<Reader> {
    value.convert(|text| match text.split_once(':') {
        Some(("user", name)) => name.parse().or_else(|_| user_id(name)).map(Reader::User),
        Some(("group", name)) => name.parse().or_else(|_| group_id(name)).map(Reader::Group),
        Some(_) | None => Err("expected `user:` or `group:` with a name or number behind it".to_owned()),
    })
}

fn delivery(mut table: TableReader<'_>, base: &Path) -> Option<Delivery> {
    let directory = table.required("directory", |value| path(base, value));
    let owner =
        table.optional("owner", |value| value.convert(|name| name.parse().or_else(|_| user_id(name))));
    let group =
        table.optional("group", |value| value.convert(|name| name.parse().or_else(|_| group_id(name))));
    let mode = table.optional("mode", |value| {
        let octal = |text: &str| {
            let bits = u32::from_str_radix(text, 8)
                .map_err(|_| "expected octal digits such as \"0640\"".to_owned())?;
            FileMode::new(bits).map_err(|error| error.to_string())
        };
        value.convert(octal)
    });
    let readers = table.optional("readers", |value| value.list(reader));
    let command = table.optional("reload", |value| {
        let mut words = value.list(|word| word.text().map(str::to_owned))?.into_iter();
        let Some(program) = words.next() else {
            value.problem("expected a program and its arguments");
            return None;
        };
        Some(Reload::Command { program: program.into(), arguments: words.map(Into::into).collect() })
    });
    let unit = table.optional("reload_unit", Value::text).map(|unit| Reload::Unit(unit.to_owned()));
    if command.is_some() && unit.is_some() {
        table.problem("give either reload or reload_unit, not both");
    }
    table.finish();
    Some(Delivery {
        directory: directory?,
        owner,
        group,
        mode: mode.unwrap_or(FileMode::OWNER),
        readers: readers.unwrap_or_default(),
        reload: command.or(unit),
    })
}

/// One `[[trust]]`.
pub(super) fn trust<'d>(mut table: TableReader<'d>, base: &Path) -> Option<Placed<'d, ForeignBundle>> {
    let place = table.place();
    let domain = table.required("domain", Value::parse);
    let bundle = table.required("bundle", |value| path(base, value));
    let lists = table.optional("crl", |value| path(base, value));
    let words = [("accept", StaleCrls::Accept), ("refuse", StaleCrls::Refuse)];
    let stale = table.optional("stale_crl", |value| value.word(&words));
    if stale.is_some() && lists.is_none() {
        table.problem("`stale_crl` says what happens when the lists in `crl` are old, and there is no `crl`");
    }
    table.finish();
    let crl = lists.map(|path| CrlFile { path, stale: stale.unwrap_or_default() });
    Some(Placed { place, item: ForeignBundle { domain: domain?, path: bundle?, crl } })
}

/// One `[[listener]]`.
pub(super) fn listener<'d>(
    mut table: TableReader<'d>,
    own: &WorkloadId,
) -> Option<Placed<'d, ListenerSettings>> {
    let place = table.place();
    let id: Option<ListenerId> = table.required("id", Value::parse);
    let address: Option<SocketAddr> = table.required("address", Value::parse);
    let protocol = table.optional("protocol", |value| value.word(&[("http", false), ("tcp", true)]));
    let service: Option<ServiceId> = table.optional("service", Value::parse);
    let protocol = match (protocol.unwrap_or(false), service) {
        (true, Some(service)) => Some(ListenerProtocol::Tcp(service)),
        (true, None) => {
            table.problem("a tcp listener needs the service that it leads to");
            None
        }
        (false, None) => Some(ListenerProtocol::Http),
        (false, Some(_)) => {
            table.problem("an http listener finds its services by host and path; `service` is for tcp");
            None
        }
    };
    let accepts = table.optional("accepts", accepts);
    let workload = table.optional("workload", Value::parse).unwrap_or_else(|| own.clone());
    let versions = [("1.2", OldestTls::V12), ("1.3", OldestTls::V13)];
    let oldest_tls = table.optional("oldest_tls", |value| value.word(&versions)).unwrap_or_default();
    let has_proxies = table.has("proxy_protocol");
    let proxy_protocol = table.table("proxy_protocol").and_then(proxy_protocol);
    table.finish();
    if has_proxies && proxy_protocol.is_none() {
        return None;
    }
    let item = ListenerSettings {
        id: id?,
        address: address?,
        protocol: protocol?,
        accepts,
        workload,
        oldest_tls,
        proxy_protocol,
    };
    Some(Placed { place, item })
}

/// One `[[service]]`.
pub(super) fn service<'d>(mut table: TableReader<'d>, base: &Path) -> Option<Placed<'d, ServiceSettings>> {
    let place = table.place();
    let id: Option<ServiceId> = table.required("id", Value::parse);
    let hosts = table.optional("hosts", |value| value.list(dns_name)).unwrap_or_default();
    let base_path = table.optional("base_path", |value| value.convert(base_path));
    let endpoint = table.required("endpoint", |value| value.convert(|text| endpoint(base, text)));
    let protocol = table.optional("protocol", |value| {
        let protocol = value.word(&SERVICE_PROTOCOLS)?;
        if protocol == ServiceProtocol::H2c && endpoint == Some(Endpoint::Whoami) {
            value.problem("the built-in service is asked without a connection: this is for others");
        }
        Some(protocol)
    });
    let protocol = protocol.unwrap_or_default();
    let accepts = table.optional("accepts", accepts);
    let concurrency = table.table("concurrency").and_then(concurrency);
    let error_format = table.optional("error_format", |value| value.word(&ERROR_FORMATS)).unwrap_or_default();
    let watch = table.optional("watch_responses", |value| value.word(&WATCHES)).unwrap_or_default();
    let versions = [("off", SendProxy::Off), ("v2", SendProxy::V2)];
    let send_proxy = table.optional("send_proxy", |value| value.word(&versions)).unwrap_or_default();
    if send_proxy != SendProxy::Off && (table.has("hosts") || table.has("base_path")) {
        table.problem("a service with `send_proxy` is reached by tcp listeners only, as connections for HTTP are shared by callers: `hosts` and `base_path` mean nothing for it");
    }
    let upgrades = table.optional("upgrades", upgrades).unwrap_or_default();
    if !upgrades.is_empty() && endpoint == Some(Endpoint::Whoami) {
        table.problem("the built-in service speaks HTTP and nothing else; `upgrades` means nothing for it");
    }
    if !upgrades.is_empty() && watch != Watch::Off {
        table.problem(
            "what goes through a tunnel is not looked through: `upgrades` and `watch_responses` exclude each other",
        );
    }
    if !upgrades.is_empty() && protocol == ServiceProtocol::H2c {
        table.problem(
            "HTTP/2 has no `Upgrade` (RFC 9113 §8.6): `upgrades` is for services that speak http/1.1",
        );
    }
    let trailers: Arc<[TrailerName]> =
        table.optional("trailers", |value| value.list(Value::parse)).unwrap_or_default().into();
    if !trailers.is_empty() && endpoint == Some(Endpoint::Whoami) {
        table.problem("the built-in service knows no trailers; `trailers` means nothing for it");
    }
    if !trailers.is_empty() && protocol == ServiceProtocol::H2c {
        table.problem("trailers pass between callers and services that speak HTTP/2; `trailers` is for services that speak http/1.1");
    }
    let client_cert = table.table("client_cert").map(onward::client_cert).unwrap_or_default();
    let assertion = table.table("assertion").and_then(onward::assertion);
    table.finish();
    let base_path = base_path.unwrap_or_else(|| "/".to_owned());
    let (id, endpoint) = (id?, endpoint?);
    let item = ServiceSettings {
        id,
        hosts,
        base_path,
        endpoint,
        protocol,
        accepts,
        concurrency,
        error_format,
        watch,
        upgrades,
        send_proxy,
        client_cert,
        assertion,
        trailers,
    };
    Some(Placed { place, item })
}

/// Whose word is taken for who a connection is from.
fn proxy_protocol(mut table: TableReader<'_>) -> Option<Arc<[Network]>> {
    let proxies = table.required("from", |value| {
        let proxies: Vec<Network> = value.list(Value::parse)?;
        if proxies.is_empty() {
            value.problem("an empty list means nobody: name the proxies that pass connections on");
        }
        Some(proxies)
    });
    table.finish();
    proxies.map(Arc::from)
}

/// Protocols that a connection may go over to from HTTP/1.1.
fn upgrades(value: &Value<'_>) -> Option<Arc<[UpgradeProtocol]>> {
    value.list(Value::parse).map(Arc::from)
}

/// How many decisions each data-plane thread remembers.
pub(super) fn remember(table: Option<TableReader<'_>>) -> usize {
    let Some(mut table) = table else { return REMEMBERED };
    let remember = table.optional("remember", |value| value.integer(0..=1_000_000)).unwrap_or(REMEMBERED);
    table.finish();
    remember
}

/// What is kept of usage.
pub(super) fn usage(table: Option<TableReader<'_>>, base: &Path) -> UsageSettings {
    let mut settings = UsageSettings { keep: Duration::from_secs(35 * 86_400), records: None };
    let Some(mut table) = table else { return settings };
    if let Some(keep) = table.optional("keep", positive) {
        settings.keep = keep;
    }
    settings.records = table.optional("records", |value| path(base, value));
    table.finish();
    settings
}

/// Some minutes of a quiet host, and half a megabyte on each thread.
const REMEMBERED: usize = 1_000;

const WATCHES: [(&str, Watch); 3] = [("block", Watch::Block), ("off", Watch::Off), ("report", Watch::Report)];

const SERVICE_PROTOCOLS: [(&str, ServiceProtocol); 2] =
    [("h2c", ServiceProtocol::H2c), ("http/1.1", ServiceProtocol::Http1)];

const ERROR_FORMATS: [(&str, ErrorFormat); 2] =
    [("apigee", ErrorFormat::Apigee), ("problem", ErrorFormat::Problem)];

/// Between what the number of requests to a service moves.
fn concurrency(mut table: TableReader<'_>) -> Option<Concurrency> {
    let minimum = table.optional("minimum", |value| value.integer(1..=100_000)).unwrap_or(10);
    let maximum = table.optional("maximum", |value| value.integer(1..=100_000)).unwrap_or(1_000);
    if minimum > maximum {
        table.problem("`minimum` is greater than `maximum`");
    }
    table.finish();
    Some(Concurrency { minimum, maximum })
}

fn base_path(text: &str) -> Result<String, String> {
    match crate::registry::PolicyPath::parse(text) {
        Ok(path) if path.as_str() == text => Ok(text.to_owned()),
        Ok(path) => Err(format!("write the path in its plain form {:?}", path.as_str())),
        Err(error) => Err(error.to_string()),
    }
}

fn endpoint(base: &Path, text: &str) -> Result<Endpoint, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.is_empty() {
            Err("expected a path behind `unix:`".into())
        } else {
            Ok(Endpoint::Unix(normal(&base.join(path))))
        };
    }
    if let Some(name) = text.strip_prefix("builtin:") {
        return if name == "whoami" {
            Ok(Endpoint::Whoami)
        } else {
            Err("the one built-in service is `builtin:whoami`".into())
        };
    }
    let expected =
        "expected an address such as \"127.0.0.1:8080\", \"unix:/run/app.sock\" or \"builtin:whoami\"";
    let address: SocketAddr = text.parse().map_err(|_| expected.to_owned())?;
    if address.ip().to_canonical().is_loopback() {
        Ok(Endpoint::Tcp(address))
    } else {
        Err("a guarded service is local: the address must be a loopback address".into())
    }
}

/// One `[[remote]]`.
pub(super) fn remote<'d>(
    mut table: TableReader<'d>,
    runtime_dir: &Path,
) -> Option<Placed<'d, RemoteSettings>> {
    let place = table.place();
    let id: Option<RemoteId> = table.required("id", Value::parse);
    let address = table.required("address", |value| value.convert(host_and_port));
    let protocols =
        [("h2", RemoteProtocol::H2), ("http", RemoteProtocol::Http), ("tcp", RemoteProtocol::Tcp)];
    let protocol = table.optional("protocol", |value| value.word(&protocols)).unwrap_or(RemoteProtocol::Http);
    let spiffe_ids: Option<Vec<SpiffeId>> = table.required("spiffe_ids", |value| {
        let ids: Vec<SpiffeId> = value.list(Value::parse)?;
        if ids.is_empty() {
            value.problem("an empty list means nobody: name the identities that may answer");
        }
        Some(ids)
    });
    let listen = table.optional("listen", |value| {
        let address: SocketAddr = value.parse()?;
        if !address.ip().to_canonical().is_loopback() {
            value.problem(
                "local workloads are told apart on loopback only: the address must be a loopback address",
            );
        }
        Some(address)
    });
    let socket = table.optional("socket", |value| path(runtime_dir, value));
    let upgrades = table.optional("upgrades", upgrades).unwrap_or_default();
    match protocol {
        RemoteProtocol::H2 if !upgrades.is_empty() => {
            table.problem("HTTP/2 has no `Upgrade` (RFC 9113 §8.6): `upgrades` is for `http`");
        }
        RemoteProtocol::Tcp if !upgrades.is_empty() => {
            table.problem("a tcp remote carries any protocol as it is: `upgrades` is for `http`");
        }
        RemoteProtocol::H2 | RemoteProtocol::Http | RemoteProtocol::Tcp => {}
    }
    if listen.is_none() && socket.is_none() {
        table.problem("a remote needs a way in for local workloads: `listen`, `socket`, or both");
    }
    table.finish();
    let spiffe_ids = spiffe_ids?.into();
    Some(Placed {
        place,
        item: RemoteSettings { id: id?, address: address?, protocol, spiffe_ids, listen, socket, upgrades },
    })
}

fn host_and_port(text: &str) -> Result<String, &'static str> {
    let expected = "expected a host and a port such as \"billing.example:8443\"";
    let (host, port) = text.rsplit_once(':').ok_or(expected)?;
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'[' | b']' | b':');
    let port_fits = port.parse::<u16>().is_ok_and(|port| port > 0);
    if !host.is_empty() && host.bytes().all(plain) && port_fits { Ok(text.to_owned()) } else { Err(expected) }
}

/// The `[signature]` section.
pub(super) fn signatures(table: Option<TableReader<'_>>) -> SignatureRules {
    let mut rules = SignatureRules::default();
    let Some(mut table) = table else { return rules };
    let span = |key: &'static str, table: &mut TableReader<'_>, most: Duration| {
        table.optional(key, |value| {
            let span = value.duration()?;
            if span > most {
                value.problem(format!("expected at most {} seconds", most.as_secs()));
            }
            Some(span)
        })
    };
    if let Some(max_age) = span("max_age", &mut table, OLDEST_SIGNATURE) {
        rules.max_age = max_age;
    }
    if let Some(skew) = span("skew", &mut table, WIDEST_SKEW) {
        rules.skew = skew;
    }
    let words = [("always", NonceRule::Always), ("never", NonceRule::Never), ("unsafe", NonceRule::Unsafe)];
    if let Some(nonce) = table.optional("nonce", |value| value.word(&words)) {
        rules.nonce = nonce;
    }
    if let Some(nonces) = table.optional("nonces", |value| value.integer(1000..=10_000_000)) {
        rules.nonces = nonces;
    }
    rules.tag = table.optional("tag", |value| value.convert(tag));
    if let Some(cover) = table.optional("cover", |value| value.list(|item| item.convert(field_name))) {
        rules.cover = cover;
    }
    table.finish();
    rules
}

fn tag(text: &str) -> Result<Box<str>, &'static str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'/' | b':');
    let fits = !text.is_empty() && text.len() <= 64 && text.bytes().all(plain);
    if fits {
        Ok(text.into())
    } else {
        Err("expected at most 64 letters, digits, '-', '.', '_', '/' and ':'")
    }
}

/// The name of a field, in lower case.
fn field_name(text: &str) -> Result<Box<str>, &'static str> {
    let name = text.to_ascii_lowercase();
    let word = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if word { Ok(name.into()) } else { Err("expected a header name of letters, digits and '-'") }
}

/// Each nonce is remembered for that long, and a stolen request can be replayed for that long where none is asked for.
const OLDEST_SIGNATURE: Duration = Duration::from_secs(24 * 60 * 60);

/// Clocks that lie further apart are broken, and not skewed.
const WIDEST_SKEW: Duration = Duration::from_secs(10 * 60);

/// The `[token]` section.
pub(super) fn tokens<'d>(mut table: TableReader<'d>, sockets: &Path) -> Option<Placed<'d, oauth::Settings>> {
    let place = table.place();
    let issuer: Option<Issuer> = table.required("issuer", Value::parse);
    let listeners = table.required("listeners", |value| {
        let listeners: Vec<ListenerId> = value.list(Value::parse)?;
        if listeners.is_empty() {
            value.problem("an empty list means nowhere: name the listeners at which tokens are to be had");
        }
        Some(listeners)
    });
    let path = table.optional("path", |value| value.convert(token_path));
    let ttl = table.optional("ttl", |value| within(value, TOKEN_TTL)).unwrap_or(USUAL_TOKEN_TTL);
    let lifetime = table.optional("key_lifetime", |value| within(value, TOKEN_KEY_LIFETIME));
    let audiences = table.optional("audiences", |value| {
        let audiences = value.list(|item| item.convert(audience))?;
        if audiences.is_empty() {
            value.problem("an empty list means nobody: name for whom tokens are");
        }
        Some(audiences)
    });
    let words = [("ES256", Algorithm::Es256), ("EdDSA", Algorithm::EdDsa)];
    let algorithm = table.optional("algorithm", |value| value.word(&words)).unwrap_or(Algorithm::Es256);
    let bindings = [("certificate", Binding::Certificate), ("never", Binding::Never)];
    let binding = table.optional("bind", |value| value.word(&bindings)).unwrap_or_default();
    let introspectors = table.optional("introspectors", |value| value.list(Value::parse)).unwrap_or_default();
    let socket = table.optional("socket", |value| self::path(sockets, value));
    table.finish();
    let issuer = issuer?;
    let audiences = audiences.unwrap_or_else(|| vec![issuer.to_string()]);
    let keys = oauth::KeyRules { algorithm, lifetime: lifetime.unwrap_or(USUAL_TOKEN_KEY_LIFETIME), ttl };
    let path = path.unwrap_or_else(|| "/oauth".to_owned());
    let listeners = listeners?;
    let item =
        oauth::Settings { issuer, listeners, path, ttl, audiences, keys, binding, introspectors, socket };
    Some(Placed { place, item })
}

pub(super) fn within(value: &Value<'_>, range: (Duration, Duration)) -> Option<Duration> {
    let span = value.duration()?;
    let (least, most) = range;
    if span < least || span > most {
        value.problem(format!("expected {} to {} seconds", least.as_secs(), most.as_secs()));
    }
    Some(span)
}

/// Shorter ones are asked for all the time, longer ones are of use to thieves.
const TOKEN_TTL: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));
const USUAL_TOKEN_TTL: Duration = Duration::from_secs(600);

/// The next key is made known for a quarter of this, so a shorter one is for trials only.
const TOKEN_KEY_LIFETIME: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(365 * 86_400));
const USUAL_TOKEN_KEY_LIFETIME: Duration = Duration::from_secs(30 * 86_400);

fn token_path(text: &str) -> Result<String, String> {
    if text == "/" {
        return Err("expected a path below which the endpoints lie, such as \"/oauth\"".to_owned());
    }
    base_path(text.trim_end_matches('/'))
}

/// > Its value MUST be an absolute URI […] The URI MUST NOT include a fragment component. — RFC 8707 §2
pub(super) fn audience(text: &str) -> Result<String, &'static str> {
    let scheme = text.split_once(':').is_some_and(|(scheme, rest)| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(plain)
            && !rest.is_empty()
    });
    let fits =
        scheme && text.len() <= 255 && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if fits {
        Ok(text.to_owned())
    } else {
        Err("expected an absolute URI without a fragment, such as https://api.example")
    }
}

/// The `[limits]` section.
pub(super) fn limits(table: Option<TableReader<'_>>) -> Limits {
    let mut limits = Limits::default();
    let Some(mut table) = table else { return limits };
    let spans = [
        ("handshake", &mut limits.handshake),
        ("head", &mut limits.head),
        ("idle", &mut limits.idle),
        ("connect", &mut limits.connect),
        ("stall", &mut limits.stall),
        ("drain", &mut limits.drain),
        ("body_window", &mut limits.body_window),
    ];
    for (key, limit) in spans {
        if let Some(span) = table.optional(key, positive) {
            *limit = span;
        }
    }
    if let Some(size) = table.optional("head_size", |value| {
        let size: usize = value.byte_size()?;
        if !(1024..=1024 * 1024).contains(&size) {
            value.problem("expected a size between 1KiB and 1MiB");
        }
        Some(size)
    }) {
        limits.head_size = size;
    }
    if let Some(streams) = table.optional("h2_streams", |value| value.integer(1..=10_000)) {
        limits.h2_streams = streams;
    }
    let counts = [
        ("connections", &mut limits.connections),
        ("source_connections", &mut limits.source_connections),
        ("app_connections", &mut limits.app_connections),
        ("handshakes", &mut limits.handshakes),
    ];
    for (key, limit) in counts {
        if let Some(count) = table.optional(key, |value| value.integer(1..=1_000_000)) {
            *limit = count;
        }
    }
    if let Some(age) = table.optional("max_age", |value| or_unlimited(value, positive)) {
        limits.max_age = age;
    }
    if let Some(rate) = table.optional("body_rate", |value| or_unlimited(value, Value::byte_size)) {
        limits.body_rate = rate;
    }
    if let Some(ceiling) = table.optional("memory", memory) {
        limits.memory = ceiling;
    }
    if let Some(pooled) = table.optional("pooled", |value| value.integer(0..=10_000)) {
        limits.pooled = pooled;
    }
    pace(&mut table, "failed_keys", "failed_keys_burst", &mut limits.failed_keys);
    pace(&mut table, "h2_control", "h2_control_burst", &mut limits.h2_control);
    pace(&mut table, "h2_resets", "h2_resets_burst", &mut limits.h2_resets);
    table.finish();
    limits
}

/// What `read` makes of the value, or no limit at all.
fn or_unlimited<'v, T>(value: &Value<'v>, read: impl FnOnce(&Value<'v>) -> Option<T>) -> Option<Option<T>> {
    match value.text()? {
        "unlimited" => Some(None),
        _ => read(value).map(Some),
    }
}

/// A size, or a share of what there is.
fn memory(value: &Value<'_>) -> Option<Ceiling> {
    let text = value.text()?;
    if text == "unlimited" {
        return Some(Ceiling::Unlimited);
    }
    let Some(share) = text.strip_suffix('%') else { return value.byte_size().map(Ceiling::Bytes) };
    let share = share.parse().ok().filter(|share| (1..=100).contains(share));
    if share.is_none() {
        value.problem("expected a share such as \"80%\", a size such as \"512MiB\", or \"unlimited\"");
    }
    share.map(Ceiling::Share)
}

/// How often one peer may do something, and how often at once.
fn pace(table: &mut TableReader<'_>, rate: &'static str, burst: &'static str, limit: &mut Option<Spike>) {
    let usual = limit.as_ref();
    let at_once = usual.and_then(|pace| u32::try_from(pace.at_once()).ok()).map_or(0, |at_once| at_once - 1);
    let rate = table.optional(rate, |value| match value.text()? {
        "unlimited" => Some(None),
        _ => value.parse::<Rate>().map(Some),
    });
    let burst = table.optional(burst, |value| value.integer(0..=1_000_000)).unwrap_or(at_once);
    let rate = rate.unwrap_or_else(|| usual.map(Spike::rate));
    *limit = rate.map(|rate| Spike::new(rate, burst));
}

fn positive(value: &Value<'_>) -> Option<Duration> {
    let span = value.duration()?;
    if span.is_zero() {
        value.problem("a limit of zero would let nobody through");
    }
    Some(span)
}
