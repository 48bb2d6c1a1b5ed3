//! The configuration file: read section by section, then held against itself.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::admin::Roles;
use crate::causes::Causes;
use crate::id::WorkloadId;
use crate::issuance;
use crate::pki::Lifetimes;
use crate::proxy::{ListenerProtocol, ListenerSettings, RemoteSettings, SendProxy};
use crate::suggest;
use crate::toml_text::{Document, Place, Problem, TableReader, Value};
use crate::workload::Directory;

use super::issuer;
use super::onward;
use super::section::{self, Placed};
use super::settings::Config;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Everything that is wrong with it.
    #[error("{}", Lines(.0))]
    Problems(Vec<Problem>),
    /// It cannot be read at all.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// Reads the configuration at `path`.
///
/// # Errors
/// It cannot be read, or everything that is wrong with it.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let read = |source| ConfigError::Read { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(read)?;
    parse(path, &text).map_err(ConfigError::Problems)
}

/// Reads the configuration in `text`, which stands at `path`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(path: &Path, text: &str) -> Result<Config, Vec<Problem>> {
    let document = Document::parse(path, text)?;
    let config = read(path, document.root());
    let problems = document.into_problems();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        Some(_) | None => Err(problems),
    }
}

fn read(file: &Path, mut root: TableReader<'_>) -> Option<Config> {
    let base = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let domain = root.required("trust_domain", Value::parse);
    let state_dir = root.required("state_dir", |value| section::path(base, value));
    let runtime_dir = root.required("runtime_dir", |value| section::path(base, value));
    let registry_dirs = root.required("registry", |value| value.list(|item| section::path(base, item)));
    let revoked_dirs = root
        .optional("revocations", |value| value.list(|item| section::path(base, item)))
        .unwrap_or_default();
    let written_environment = root.optional("environment", Value::parse);
    let threads =
        root.optional("threads", |value| value.integer(0..=1024_usize)).filter(|&threads| threads > 0);
    let quickstart = root.optional("quickstart", Value::boolean).unwrap_or(false);
    let core_dumps = root.optional("core_dumps", Value::boolean).unwrap_or(false);
    let log = section::log(root.table("log"));
    let authority = section::authority(root.table("authority"), base);
    let leaf = section::leaf(root.table("leaf"));
    let own_workload: WorkloadId = "agent".parse().ok()?;
    let own_profile = section::agent(root.table("agent"), domain.as_ref(), leaf);
    let sockets = runtime_dir.as_deref().unwrap_or(base);
    let (admin, admin_roles) = admin(root.table("admin"), sockets);
    let audit = section::audit(root.table("audit"), base, state_dir.as_deref());
    let has_metrics = root.has("metrics");
    let metrics = metrics(root.table("metrics"));
    let otlp = root.table("otlp").and_then(onward::otlp);
    let api_key_header = api_key(root.table("api_key"));
    let key_rules = section::key_rules(root.table("keys"), base);
    let signatures = section::signatures(root.table("signature"));
    let limits = section::limits(root.table("limits"));
    let has_tokens = root.has("token");
    let tokens = root.table("token").and_then(|table| section::tokens(table, sockets));
    let issuers: Vec<_> =
        root.tables("issuer").into_iter().filter_map(|table| issuer::issuer(table, base)).collect();
    let usage = section::usage(root.table("usage"), base);
    let remember = section::remember(root.table("explain"));
    let trust: Vec<_> =
        root.tables("trust").into_iter().filter_map(|table| section::trust(table, base)).collect();
    let workloads: Vec<_> = root.tables("workload");
    let workloads: Vec<_> = workloads
        .into_iter()
        .filter_map(|table| section::workload(table, base, domain.as_ref(), leaf))
        .collect();
    let listeners = root.tables("listener");
    let listeners: Vec<_> =
        listeners.into_iter().filter_map(|table| section::listener(table, &own_workload)).collect();
    let services: Vec<_> =
        root.tables("service").into_iter().filter_map(|table| section::service(table, base)).collect();
    let remotes: Vec<_> =
        root.tables("remote").into_iter().filter_map(|table| section::remote(table, sockets)).collect();
    let place = root.place();
    root.finish();

    unique(&workloads, |(id, _, _)| id.as_str());
    unique(&listeners, |listener| listener.id.as_str());
    unique(&services, |service| service.id.as_str());
    unique(&remotes, |remote| remote.id.as_str());
    unique(&issuers, |issuer| issuer.issuer.as_str());
    distinct(&listeners, &remotes);
    for reserved in workloads.iter().filter(|workload| workload.item.0 == own_workload) {
        reserved.place.problem("the name `agent` is the agent's own; its identity is set in [agent]");
    }
    let names: Vec<&str> =
        workloads.iter().map(|workload| workload.item.0.as_str()).chain([own_workload.as_str()]).collect();
    for listener in &listeners {
        must_exist(&listener.place, "workload", listener.item.workload.as_str(), &names);
        if let ListenerProtocol::Tcp(service) = &listener.item.protocol {
            let known: Vec<&str> = services.iter().map(|service| service.item.id.as_str()).collect();
            must_exist(&listener.place, "service", service.as_str(), &known);
        }
    }
    for service in services.iter().filter(|service| service.item.send_proxy != SendProxy::Off) {
        let leads_here = |listener: &Placed<'_, ListenerSettings>| matches!(&listener.item.protocol, ListenerProtocol::Tcp(id) if *id == service.item.id);
        if !listeners.iter().any(leads_here) {
            service.place.problem("`send_proxy` is for services that a tcp listener leads to: connections for HTTP are shared by callers, so that none could be told of");
        }
    }
    for service in &services {
        if service.item.trailers.iter().any(|name| name.as_str() == api_key_header) {
            service
                .place
                .problem(format!("{api_key_header:?} carries API keys: it never passes as a trailer"));
        }
    }
    for service in services.iter().filter(|service| service.item.assertion.is_some() && !has_metrics) {
        service.place.problem(
            "assertions are verified by the keys at /jwks of the address in [metrics], and there is no [metrics]",
        );
    }
    if let Some(Placed { place, item }) = &tokens {
        if issuers.iter().any(|issuer| issuer.item.issuer == item.issuer.as_str()) {
            place.problem(
                "`issuer` is the name of an outside issuer, too; whose token one is could not be told",
            );
        }
        for listener in &item.listeners {
            let http = listeners.iter().filter(|known| known.item.protocol == ListenerProtocol::Http);
            let known: Vec<&str> = http.map(|listener| listener.item.id.as_str()).collect();
            must_exist(place, "http listener", listener.as_str(), &known);
        }
    }
    if has_tokens && tokens.is_none() {
        return None;
    }
    let mut profiles = BTreeMap::new();
    let mut configs = BTreeMap::new();
    profiles.insert(own_workload.clone(), own_profile?);
    for Placed { item: (id, profile, config), .. } in workloads {
        profiles.insert(id.clone(), profile);
        configs.insert(id, config);
    }
    let attested = configs.iter().filter(|(_, config)| config.selectors != Default::default());
    if let Err(invalid) =
        Directory::build(attested.map(|(id, config)| (id.clone(), config.selectors.clone())))
    {
        invalid.iter().for_each(|invalid| place.problem(invalid.to_string()));
    }
    let lifetimes =
        Lifetimes { root: authority.root_ttl, issuing: authority.issuing_ttl, ..Lifetimes::default() };
    let issuance = issuance::Settings {
        domain: domain?,
        mode: authority.mode,
        root_ttl: authority.root_ttl,
        issuing_ttl: authority.issuing_ttl,
        distribute: authority.distribute.unwrap_or_else(|| lifetimes.usual_distribution()),
        algorithm: authority.algorithm,
        backdate: authority.backdate,
        crl_ttl: authority.crl_ttl,
        second_opinion: authority.second_opinion,
        workloads: profiles,
    };
    if let Err(error) = issuance.check() {
        place.problem(Causes(&error).to_string());
    }
    Some(Config {
        path: file.to_owned(),
        state_dir: state_dir?,
        runtime_dir: runtime_dir?,
        registry_dirs: registry_dirs?,
        revoked_dirs,
        written_environment,
        ordered_environment: None,
        threads,
        quickstart,
        core_dumps,
        log,
        keys: authority.keys,
        issuance,
        own_workload,
        workloads: configs,
        trust: items(trust),
        audit,
        admin_socket: admin?,
        admin_roles,
        metrics,
        otlp,
        api_key_header: api_key_header.into(),
        key_rules,
        signatures,
        tokens: tokens.map(|tokens| tokens.item.into()),
        issuers: items(issuers),
        listeners: items(listeners),
        services: items(services),
        remotes: items(remotes),
        limits,
        remember,
        usage,
    })
}

fn admin(table: Option<TableReader<'_>>, sockets: &Path) -> (Option<PathBuf>, Roles) {
    let default = sockets.join("admin.sock");
    let Some(mut table) = table else { return (Some(default), Roles::default()) };
    let given = table.has("socket");
    let socket = table.optional("socket", |value| section::path(sockets, value));
    let everybody = !table.has("viewers");
    let mut listed = |key| table.optional(key, |value| value.list(Value::parse)).unwrap_or_default();
    let (viewers, editors, operators) = (listed("viewers"), listed("editors"), listed("operators"));
    table.finish();
    let viewers = if everybody { None } else { Some(viewers) };
    (if given { socket } else { Some(default) }, Roles { viewers, editors, operators })
}

fn metrics(table: Option<TableReader<'_>>) -> Option<std::net::SocketAddr> {
    let mut table = table?;
    let address = table.required("address", Value::parse);
    table.finish();
    address
}

fn api_key(table: Option<TableReader<'_>>) -> String {
    let header = table.and_then(|mut table| {
        let header = table.optional("header", |value| {
            let plain = |text: &str| {
                let name = text.to_ascii_lowercase();
                let word =
                    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
                if word { Ok(name) } else { Err("expected a header name of letters, digits and '-'") }
            };
            value.convert(plain)
        });
        table.finish();
        header
    });
    header.unwrap_or_else(|| "x-api-key".to_owned())
}

/// Reports each name that stands twice, with the place of the first.
fn unique<'d, T>(items: &[Placed<'d, T>], name: impl Fn(&T) -> &str) {
    let mut seen: HashMap<String, Place<'d>> = HashMap::new();
    for item in items {
        let name = name(&item.item).to_owned();
        match seen.get(&name) {
            Some(first) => item.place.problem(format!("the name {name:?} is taken, see {first}")),
            None => {
                seen.insert(name, item.place.clone());
            }
        }
    }
}

/// Reports each address that two doors would share, with the place of the first.
fn distinct(listeners: &[Placed<'_, ListenerSettings>], remotes: &[Placed<'_, RemoteSettings>]) {
    let inbound = listeners.iter().map(|listener| (listener.item.address, &listener.place));
    let outbound = remotes.iter().filter_map(|remote| Some((remote.item.listen?, &remote.place)));
    let mut seen = HashMap::new();
    for (address, place) in inbound.chain(outbound).filter(|(address, _)| address.port() > 0) {
        match seen.get(&address) {
            Some(first) => place.problem(format!("the address {address} is taken, see {first}")),
            None => {
                seen.insert(address, place);
            }
        }
    }
}

fn must_exist(place: &Place<'_>, kind: &str, name: &str, known: &[&str]) {
    if !known.contains(&name) {
        let guess = suggest::did_you_mean(name, known.iter().copied());
        place.problem(format!("there is no {kind} called {name:?}{guess}"));
    }
}

fn items<T>(placed: Vec<Placed<'_, T>>) -> Vec<T> {
    placed.into_iter().map(|placed| placed.item).collect()
}
