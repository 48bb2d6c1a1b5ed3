//! The configuration files that come with the agent can be read as they stand.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use postern::clock::{Clock as _, SystemClock};
use postern::config;
use postern::registry::{self, Here};
use postern::store::registry_dir;

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

#[test]
fn the_configuration_of_a_fresh_checkout_is_fine() {
    let config = config::load(&shipped("postern.toml")).unwrap();

    assert!(config.quickstart);
    let sources = registry_dir::read(&[shipped("registry")]).unwrap();
    let registry = registry::parse(&sources).unwrap();
    assert!(registry.app("sample").is_some());
}

/// The sample shows both on purpose, and says so: a service that is there to be looked at, and a caller that is refused.
#[test]
fn the_registry_of_a_fresh_checkout_earns_the_warnings_that_it_explains() {
    let config = config::load(&shipped("postern.toml")).unwrap();
    let sources = registry_dir::read(&[shipped("registry")]).unwrap();
    let sources: Vec<_> = sources.into_iter().filter(|source| source.path.ends_with("sample.toml")).collect();
    let registry = registry::parse(&sources).unwrap();

    let services: HashSet<_> = config.services.iter().map(|service| &service.id).collect();
    let here = Here { environment: config.environment(), services: &services };
    let lints =
        registry::lint(&registry, SystemClock.now()).into_iter().chain(registry::lint_here(&registry, here));

    let found: Vec<_> = lints.map(|lint| (lint.name.as_str(), lint.key)).collect();
    for (name, key) in
        [("operation-over-broad", "product.whoami.operation[1]"), ("app-without-grants", "app.stranger")]
    {
        assert!(found.contains(&(name, key.to_owned())), "{name}");
        assert!(
            sources.iter().any(|source| source.text.contains(&format!("({name})"))),
            "{name} is explained"
        );
    }
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn the_configuration_for_production_is_fine() {
    let config = config::load(&shipped("production.toml")).unwrap();

    assert!(!config.quickstart, "no sample credentials in production");
    assert_eq!(config.state_dir, Path::new("/var/lib/postern"));
    assert_eq!(config.runtime_dir, Path::new("/run/postern"));
}

#[test]
fn what_is_commented_out_for_production_is_fine_too() {
    let text = std::fs::read_to_string(shipped("production.toml")).unwrap();
    let (before, sample) = text.split_once("# [[trust]]").unwrap();
    let sample =
        format!("# [[trust]]{sample}").replace("\n# ", "\n").replacen("# ", "", 1).replace("\n#\n", "\n\n");

    let config = config::parse(Path::new("production.toml"), &format!("{before}{sample}")).unwrap();

    assert_eq!(config.trust.len(), 1);
    assert_eq!(config.remotes.len(), 1);
}

#[test]
fn the_unit_names_the_directories_of_the_configuration_for_production() {
    let unit = std::fs::read_to_string(shipped("postern.service")).unwrap();

    for line in [
        "ExecStart=/usr/bin/postern run --config /etc/postern/postern.toml",
        "StateDirectory=postern",
        "RuntimeDirectory=postern",
        "ConfigurationDirectory=postern",
        "Type=notify-reload",
    ] {
        assert!(unit.lines().any(|found| found == line), "{line}");
    }
}
