//! Finds the running agent and the registry, even when the configuration on disk is broken: then more than ever.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use toml::de::DeTable;

use super::output;
use crate::admin::Client;
use crate::config::{self, Config, ConfigError};

/// As much of a configuration as can be made out.
#[derive(Debug)]
pub(super) struct Sketch {
    /// Where the agent's socket would be.
    pub(super) admin_socket: Option<PathBuf>,
    /// Where the registry would be.
    pub(super) registry_dirs: Vec<PathBuf>,
    /// All of it, if nothing is wrong with it.
    pub(super) config: Option<Box<Config>>,
    /// What is wrong with it, if anything.
    pub(super) error: Option<ConfigError>,
}

impl Sketch {
    /// Reads the configuration at `path` as well as it goes.
    pub(super) fn read(path: &Path) -> Self {
        match config::load(path) {
            Ok(config) => Self {
                admin_socket: Some(config.admin_socket.clone()),
                registry_dirs: config.registry_dirs.clone(),
                config: Some(Box::new(config)),
                error: None,
            },
            Err(error) => {
                let text = std::fs::read_to_string(path).unwrap_or_default();
                Self { error: Some(error), ..Self::recover(path, &text) }
            }
        }
    }

    fn recover(path: &Path, text: &str) -> Self {
        let base = path.parent().unwrap_or_else(|| Path::new("."));
        let (root, _) = DeTable::parse_recoverable(text);
        let root = root.get_ref();
        let text_at = |table: &DeTable<'_>, key: &str| {
            table.get(key).and_then(|value| value.get_ref().as_str()).map(str::to_owned)
        };
        let registry = root.get("registry").and_then(|value| value.get_ref().as_array());
        let folders = registry.into_iter().flatten().filter_map(|item| item.get_ref().as_str());
        let socket = root
            .get("admin")
            .and_then(|admin| admin.get_ref().as_table())
            .and_then(|admin| text_at(admin, "socket"))
            .unwrap_or_else(|| "admin.sock".to_owned());
        Self {
            admin_socket: text_at(root, "runtime_dir").map(|runtime| base.join(runtime).join(socket)),
            registry_dirs: folders.map(|folder| base.join(folder)).collect(),
            config: None,
            error: None,
        }
    }
}

/// A client of the agent that the configuration at `path` is about.
pub(super) fn client(path: &Path) -> anyhow::Result<Client> {
    let sketch = Sketch::read(path);
    match (sketch.admin_socket, sketch.error) {
        (Some(socket), None) => Ok(Client::new(&socket)),
        (Some(socket), Some(error)) => {
            output::tell(&format!(
                "postern: the configuration on disk is broken:\n{:#}\n",
                anyhow::Error::new(error)
            ));
            Ok(Client::new(&socket))
        }
        (None, Some(error)) => Err(error).context("cannot make out where the agent listens"),
        (None, None) => anyhow::bail!("cannot make out where the agent listens"),
    }
}

/// The configuration at `path`, whole.
pub(super) fn config(path: &Path) -> anyhow::Result<Config> {
    Ok(config::load(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_configuration_still_tells_where_the_agent_is() {
        let text = "trust_domain = 7\nruntime_dir = 'run'\nregistry = ['a', 'b']\nnonsense = \n";

        let sketch = Sketch::recover(Path::new("/etc/postern/postern.toml"), text);

        assert_eq!(sketch.admin_socket, Some(PathBuf::from("/etc/postern/run/admin.sock")));
        assert_eq!(sketch.registry_dirs, [PathBuf::from("/etc/postern/a"), PathBuf::from("/etc/postern/b")]);
    }

    #[test]
    fn nothing_is_made_up() {
        let sketch = Sketch::recover(Path::new("postern.toml"), "[admin]\nsocket = 'x.sock'\n");

        assert_eq!((sketch.admin_socket, sketch.registry_dirs), (None, Vec::new()));
    }
}
