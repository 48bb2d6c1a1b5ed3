//! `postern check`: everything that is wrong with what is on disk, at once, without starting anything.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use serde::Serialize;

use super::args::Format;
use super::locate::Sketch;
use super::moment::count;
use super::output;
use crate::clock::{Clock as _, SystemClock};
use crate::config::ConfigError;
use crate::registry;
use crate::store::registry_dir;
use crate::toml_text::Problem;

#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    problems: Vec<Finding>,
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

pub(super) fn run(config: &Path, format: Format) -> anyhow::Result<()> {
    let sketch = Sketch::read(config);
    let mut problems = Vec::new();
    match sketch.error {
        Some(ConfigError::Problems(found)) => problems.extend(found.into_iter().map(Finding::from)),
        Some(error @ ConfigError::Read { .. }) => problems.push(Finding::unplaced(error)),
        None => (),
    }
    let mut summary = String::new();
    let mut old = String::new();
    match registry_dir::read(&sketch.registry_dirs).map(|sources| registry::parse(&sources)) {
        Ok(Ok(snapshot)) => {
            summary = [
                count(snapshot.counts().apps, "app"),
                count(snapshot.counts().products, "product"),
                count(snapshot.counts().developers, "developer"),
                count(snapshot.counts().credentials, "credential"),
            ]
            .join(", ");
            old = too_old(&snapshot, sketch.max_key_age);
        }
        Ok(Err(found)) => problems.extend(found.into_iter().map(Finding::from)),
        Err(error) => problems.push(Finding::unplaced(error)),
    }
    let found = problems.len();
    if format.json {
        output::print_json(&Report { ok: found == 0, problems })?;
    } else if found == 0 {
        output::print(&format!("{}: fine; registry: {summary}\n{old}", config.display()))?;
    } else {
        let lines: String = problems.iter().map(|finding| format!("{}\n", finding.text)).collect();
        output::print(&lines)?;
    }
    if found > 0 {
        bail!("{}", count(found, "problem"));
    }
    Ok(())
}

/// Warns of keys that are older than they may become.
fn too_old(snapshot: &registry::Snapshot, most: Option<Duration>) -> String {
    let now = SystemClock.now();
    let old = snapshot.credentials().filter(|key| most.is_some_and(|most| key.is_older_than(most, now)));
    old.map(|key| {
        let rotate = format!("rotate it with `postern key rotate {}`", key.id);
        format!("warning: the key {} of {} is older than [keys] max_age; {rotate}\n", key.id, key.app.id)
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
