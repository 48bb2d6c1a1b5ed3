//! `postern check`: everything that is wrong with what is on disk, at once, without starting anything; and what is hardly meant.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use serde::Serialize;

use super::args::CheckArgs;
use super::locate::Sketch;
use super::moment::count;
use super::output;
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, ConfigError};
use crate::proxy::Xfcc;
use crate::registry::{self, Here, Lint, Snapshot, Withheld};
use crate::store::registry_dir;
use crate::store::revoked_dir::{self, RevokedError};
use crate::toml_text::Problem;

#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    problems: Vec<Finding>,
    warnings: Vec<Warning>,
}

/// One problem; the place is missing when a file cannot be read at all.
#[derive(Debug, Serialize)]
struct Finding {
    file: Option<PathBuf>,
    line: Option<usize>,
    column: Option<usize>,
    key: Option<String>,
    message: String,
    #[serde(skip)]
    text: String,
}

/// Something that is allowed, and hardly meant.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
pub(super) struct Warning {
    lint: &'static str,
    key: String,
    message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lint, key, message } = self;
        write!(f, "warning: {lint}: {key}: {message}")
    }
}

pub(super) fn run(path: &Path, CheckArgs { strict, format }: CheckArgs) -> anyhow::Result<()> {
    let Sketch { registry_dirs, config, error, .. } = Sketch::read(path);
    let mut problems = Vec::new();
    match error {
        Some(ConfigError::Problems(found)) => problems.extend(found.into_iter().map(Finding::from)),
        Some(error @ ConfigError::Read { .. }) => problems.push(Finding::unplaced(error)),
        None => (),
    }
    let (mut summary, mut old, mut warnings) = (String::new(), String::new(), Vec::new());
    match registry_dir::read(&registry_dirs).map(|sources| registry::parse(&sources)) {
        Ok(Ok(snapshot)) => {
            summary = contents(&snapshot);
            warnings = lints(&snapshot, config.as_deref());
            warnings.extend(config.iter().flat_map(|config| anybody(config)));
            old = too_old(&snapshot, config.as_deref().and_then(|config| config.key_rules.max_age));
        }
        Ok(Err(found)) => problems.extend(found.into_iter().map(Finding::from)),
        Err(error) => problems.push(Finding::unplaced(error)),
    }
    if let Some(config) = &config {
        problems.extend(revoked(&config.revoked_dirs));
    }
    let (found, doubts) = (problems.len(), warnings.len());
    let fails = found > 0 || (strict && doubts > 0);
    if format.json {
        output::print_json(&Report { ok: !fails, problems, warnings })?;
    } else {
        let lines = problems.iter().map(|finding| format!("{}\n", finding.text));
        let doubtful = warnings.iter().map(|warning| format!("{warning}\n"));
        let mut text: String = lines.chain(doubtful).collect();
        if !fails {
            let but =
                if doubts > 0 { format!(" but for {}", count(doubts, "warning")) } else { String::new() };
            text.push_str(&format!("{}: fine{but}; registry: {summary}\n", path.display()));
            text.push_str(&old);
        }
        output::print(&text)?;
    }
    match (found, doubts) {
        _ if !fails => Ok(()),
        (0, doubts) => bail!("{}", count(doubts, "warning")),
        (found, 0) => bail!("{}", count(found, "problem")),
        (found, doubts) => bail!("{}, {}", count(found, "problem"), count(doubts, "warning")),
    }
}

/// What is wrong in the folders in which somebody else says what is revoked.
fn revoked(folders: &[PathBuf]) -> impl Iterator<Item = Finding> {
    let (_, errors) = revoked_dir::read(folders, &Withheld::default());
    errors.into_iter().flat_map(|error| match error {
        RevokedError::Wrong(found) => found.into_iter().map(Finding::from).collect(),
        error @ RevokedError::Read { .. } => vec![Finding::unplaced(error)],
    })
}

/// How much there is of everything.
fn contents(registry: &Snapshot) -> String {
    let counts = registry.counts();
    [
        count(counts.apps, "app"),
        count(counts.products, "product"),
        count(counts.developers, "developer"),
        count(counts.credentials, "credential"),
    ]
    .join(", ")
}

/// What the registry says and hardly means; where an agent uses it, only if its configuration can be read.
pub(super) fn lints(registry: &Snapshot, config: Option<&Config>) -> Vec<Warning> {
    let mut lints = registry::lint(registry, SystemClock.now());
    if let Some(config) = config {
        let services: HashSet<_> = config.services.iter().map(|service| &service.id).collect();
        let here = Here { environment: config.environment(), services: &services };
        lints.extend(registry::lint_here(registry, here));
    }
    lints.into_iter().map(Warning::from).collect()
}

/// Warns of services to which anybody may say anything about certificates.
fn anybody(config: &Config) -> impl Iterator<Item = Warning> {
    let open = config.services.iter().filter(|service| service.client_cert.xfcc == Xfcc::AlwaysForwardOnly);
    open.map(|service| Warning {
        lint: "xfcc-from-anybody",
        key: format!("service {}", service.id),
        message: "xfcc = \"always_forward_only\" passes on what any caller says of certificates, also one without any; a \
                  service that believes it can be told everything"
            .to_owned(),
    })
}

impl From<Lint> for Warning {
    fn from(Lint { name, key, message }: Lint) -> Self {
        Self { lint: name.as_str(), key, message }
    }
}

/// Warns of keys that are older than their apps, or else the configuration, let them become.
fn too_old(snapshot: &Snapshot, most: Option<Duration>) -> String {
    let now = SystemClock.now();
    let old = snapshot.credentials().filter(|key| key.is_too_old(most, now));
    old.map(|key| {
        let rotate = format!("rotate it with `postern key rotate {}`", key.id);
        let most = if key.app.key_max_age.is_some() { "its app's key_max_age" } else { "[keys] max_age" };
        format!("warning: the key {} of {} is older than {most}; {rotate}\n", key.id, key.app.id)
    })
    .collect()
}

impl Finding {
    fn unplaced(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        let text = format!("{:#}", anyhow::Error::new(error));
        Self { file: None, line: None, column: None, key: None, message: text.clone(), text }
    }
}

impl From<Problem> for Finding {
    fn from(problem: Problem) -> Self {
        let text = problem.to_string();
        let Problem { file, line, column, key, message } = problem;
        let key = Some(key).filter(|key| !key.is_empty());
        Self { file: Some(file), line: Some(line), column: Some(column), key, message, text }
    }
}
