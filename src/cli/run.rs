//! `postern run`: the agent itself.

use std::path::Path;

use super::{locate, output};
use crate::agent;

pub(super) fn run(config: &Path) -> anyhow::Result<()> {
    let config = locate::config(config)?;
    agent::run(config, |text| {
        // That nobody reads the announcement does not stop the agent.
        drop(output::print(&format!("{text}\n")));
    })?;
    Ok(())
}
