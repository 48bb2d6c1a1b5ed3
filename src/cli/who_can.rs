//! `postern who-can`: every app that may make a request, by which right and with which credentials.

use std::path::Path;
use std::sync::Arc;

use super::args::WhoCanArgs;
use super::locate;
use super::moment::moment;
use super::output::{self, Verdict};
use super::table::Table;
use crate::admin::{ClientError, Deed, Entitled};
use crate::agent::{self, Doors};
use crate::clock::{Clock as _, SystemClock};
use crate::registry::{self, Withheld};
use crate::store::{registry_dir, revoked_dir};
use crate::toml_text::Problem;

pub(super) async fn run(config: &Path, args: WhoCanArgs) -> anyhow::Result<Verdict> {
    let deed = Deed { method: args.method, service: args.service, path: args.path };
    let entitled = match locate::client(config)?.who_can(&deed).await {
        Err(ClientError::NotRunning(_)) => by_files(config, &deed)?,
        answer => answer?,
    };
    if args.format.json {
        output::print_json(&entitled)?;
    } else {
        output::print(&page(&entitled, &deed))?;
    }
    Ok(Verdict::of(!entitled.ways.is_empty()))
}

/// The answer of an agent that would be started now.
fn by_files(config: &Path, deed: &Deed) -> anyhow::Result<Entitled> {
    output::tell("postern: no agent is running; this is what the files on disk say");
    let config = locate::config(config)?;
    let registry = registry::parse(&registry_dir::read(&config.registry_dirs)?).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
        anyhow::anyhow!("the registry is broken:\n{}", lines.join("\n"))
    })?;
    let (withheld, errors) = revoked_dir::read(&config.revoked_dirs, &Withheld::default());
    if let Some(error) = errors.into_iter().next() {
        return Err(error.into());
    }
    let registry = registry.withholding(Arc::new(withheld));
    let issuers = config.issuers.iter().map(|issuer| (issuer.issuer.as_str(), issuer.proves)).collect();
    let doors = Doors {
        services: &config.services,
        listeners: &config.listeners,
        environment: config.environment(),
        issuers,
    };
    Ok(agent::entitled(deed, &registry, doors, SystemClock.now())?)
}

fn page(entitled: &Entitled, deed: &Deed) -> String {
    let Deed { method, service, path } = deed;
    if entitled.ways.is_empty() {
        return format!("Nobody can {method} {path} of {service}.\n");
    }
    let now = SystemClock.now();
    let mut table = Table::new(["APP", "DEVELOPER", "BY THE GRANT OF", "OPERATION", "WITH", "UNTIL"]);
    for way in &entitled.ways {
        table.row([
            way.app.to_string(),
            way.developer.to_string(),
            way.product.to_string(),
            way.operation.clone(),
            way.credentials.join("+"),
            way.grant_ends.map_or_else(|| "-".to_owned(), |end| moment(end, now)),
        ]);
    }
    let mut page = table.to_string();
    for way in entitled.ways.iter().filter(|way| !way.provisos.is_empty()) {
        let provisos = way.provisos.join(", and ");
        page.push_str(&format!("{} with {} only if {provisos}\n", way.app, way.credentials.join("+")));
    }
    page
}
