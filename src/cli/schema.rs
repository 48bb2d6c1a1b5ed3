//! `postern schema`: what files may say, in JSON Schema (draft 2020-12), for editors and pipelines.

use super::args::Described;
use super::output;

pub(super) fn run(which: Described) -> anyhow::Result<()> {
    Ok(output::print(match which {
        Described::Registry => REGISTRY,
    })?)
}

/// Kept by hand; `tests/schema.rs` holds it against the reader.
const REGISTRY: &str = include_str!("registry.schema.json");
