//! `postern import`: what another gateway has on file becomes wanted state for the registry.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, bail};
use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use serde_json::Value;

use super::apigee::{self, Export};
use super::apply;
use super::args::{ApigeeArgs, ApplyArgs, Format};
use super::key;
use super::locate;
use super::output::{self, Verdict};
use crate::credential::{Peppers, expect_strong};
use crate::registry::{self, Source};
use crate::store::{atomic_file, pepper_file};

pub(super) fn apigee(config: &Path, args: ApigeeArgs) -> anyhow::Result<Verdict> {
    let config = locate::config(config)?;
    let export = Export {
        products: read(&args.folder.join("products.json"), "apiProduct")?,
        developers: read(&args.folder.join("developers.json"), "developer")?,
        apps: read(&args.folder.join("apps.json"), "app")?,
    };
    if export.products.is_empty() && export.developers.is_empty() && export.apps.is_empty() {
        bail!("{}: there is nothing in products.json, developers.json and apps.json", args.folder.display());
    }
    // A plan makes nothing, not even a pepper; what hangs on it is not shown.
    let blank = args.plan && !pepper_file::exists(&config.state_dir)?;
    let peppers = (!blank).then(|| key::peppers(&config)).transpose()?;
    let imported = apigee::translate(&export, &args.services, |key| hash(peppers.as_ref(), key))?;
    for note in &imported.notes {
        output::tell(&format!("note: {note}"));
    }
    for lost in &imported.lost {
        output::tell(&format!("not taken over: {lost}"));
    }
    let files = [
        ("apigee-developers.toml", imported.developers),
        ("apigee-products.toml", imported.products),
        ("apigee-apps.toml", imported.apps),
    ];
    let sources = files.into_iter().filter(|(_, text)| !text.is_empty());
    let sources: Vec<Source> = sources
        .map(|(name, text)| Source { path: name.into(), text: format!("{}\n", text.trim_end()) })
        .collect();
    let verdict = match args.out {
        Some(folder) => write(&folder, &sources)?,
        None => {
            let ApigeeArgs { plan, reason, .. } = args;
            let format = Format { json: false };
            apply::apply(
                &config,
                &sources,
                ApplyArgs { files: Vec::new(), plan, prune: false, reason, format },
            )?
        }
    };
    Ok(if imported.lost.is_empty() { verdict } else { Verdict::No })
}

/// The objects of a file: an array, as it is for products and apps, or one that has a name, as for developers.
fn read(path: &Path, name: &str) -> anyhow::Result<Vec<Value>> {
    let told = || path.display().to_string();
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            output::tell(&format!("note: there is no {}", path.display()));
            return Ok(Vec::new());
        }
        bytes => bytes.with_context(|| format!("{}: cannot be read", path.display()))?,
    };
    let found: Value = serde_json::from_slice(&bytes).with_context(told)?;
    let items = match found {
        Value::Array(items) => items,
        Value::Object(mut object) => match object.remove(name) {
            Some(Value::Array(items)) => items,
            _ => bail!("{}: expected an array, or one called `{name}`", path.display()),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            bail!("{}: expected an array, or an object with one called `{name}`", path.display())
        }
    };
    if let Some(place) = items.iter().position(|item| !item.is_object()) {
        bail!(
            "{}: expected objects, but element {} is none; export whole entities, not their names",
            path.display(),
            place + 1
        );
    }
    Ok(items)
}

/// What is kept of a consumer key; or why it is none that could be taken over.
fn hash(peppers: Option<&Peppers>, key: &str) -> anyhow::Result<Result<String, String>> {
    if let Err(weak) = expect_strong(key.as_bytes()) {
        return Ok(Err(weak.to_string()));
    }
    let digest = digest::digest(&digest::SHA256, key.as_bytes());
    let Some(peppers) = peppers else {
        return Ok(Ok(format!("hmac-sha256-of-sha256:p1:{}", HEXLOWER.encode(digest.as_ref()))));
    };
    let pepper = peppers.newest().context("there is no pepper")?;
    let hash = peppers.hash(pepper, digest.as_ref()).context("there is no pepper")?;
    Ok(Ok(format!("hmac-sha256-of-sha256:{pepper}:{}", HEXLOWER.encode(&hash))))
}

/// Writes the files into a folder, of which none may be there yet.
fn write(folder: &Path, sources: &[Source]) -> anyhow::Result<Verdict> {
    registry::parse(sources).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("the export does not make a registry:\n{}", lines.join("\n"))
    })?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for Source { path, .. } in sources {
        let path = folder.join(path);
        if path.exists() {
            bail!("{} is there already; nothing was written", path.display());
        }
    }
    for Source { path, text } in sources {
        let path = folder.join(path);
        atomic_file::replace(&path, text.as_bytes(), 0o640)?;
        output::print(&format!("{}\n", path.display()))?;
    }
    Ok(Verdict::Yes)
}
