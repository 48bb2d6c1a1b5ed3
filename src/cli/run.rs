//! `postern run`: the agent itself.

use std::path::Path;

use super::args::RunArgs;
use super::{locate, output};
use crate::agent::{self, Start};
use crate::config::Config;

pub(super) fn run(config: &Path, args: RunArgs) -> anyhow::Result<()> {
    let config = Config { ordered_environment: args.env, ..locate::config(config)? };
    let start = if args.take_over { Start::TakeOver } else { Start::Alone };
    agent::run(config, start, |text| {
        // That nobody reads the announcement does not stop the agent.
        drop(output::print(&format!("{text}\n")));
    })?;
    Ok(())
}
