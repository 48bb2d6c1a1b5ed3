//! `postern schema`: what files may say, in JSON Schema (draft 2020-12), for editors and pipelines.

use super::args::Described;
use super::output;

pub(super) fn run(which: Described) -> anyhow::Result<()> {
    Ok(output::print(match which {
        Described::Config => CONFIG,
        Described::Registry => REGISTRY,
    })?)
}

/// Kept by hand, as the other one; `tests/schema.rs` holds both against their readers.
const CONFIG: &str = include_str!("config.schema.json");

const REGISTRY: &str = include_str!("registry.schema.json");
