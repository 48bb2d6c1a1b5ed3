//! What RFC 9113 demands of a server, case by case, as a client sees it that speaks raw frames (PyPI: h2, hyperframe, hpack).

#![expect(clippy::print_stdout, reason = "a skipped test must not look like one that ran")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::{Act, Scene, Service, ok, python_with};

/// Cases that are known to fail, with the reason; one that passes has no place here.
const EXCEPTIONS: &[(&str, &str)] = &[];

/// As many cases there are at least, so that none gets lost.
const CASES: usize = 140;

fn run(command: &mut Command) -> Option<Output> {
    command.output().ok()
}

/// A Python that has what the cases need, made on first use.
fn python_with_h2() -> Result<PathBuf, String> {
    python_with("h2", "h2, hpack, hyperframe", &["h2>=4,<5", "hyperframe>=6,<7", "hpack>=4,<5"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_comes_out_as_the_standard_says() {
    let python = match python_with_h2() {
        Ok(python) => python,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let service =
        Service::answering(|seen| if seen.path() == "/echo" { vec![Act::Echo] } else { ok() }).await;
    let scene = Scene::guarding(service.address);
    let world = scene.start().await;
    let caller = world.files("caller").join("current");

    let mut judge = Command::new(python);
    judge.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/h2_conformance.py"));
    judge.args([world.address().ip().to_string(), world.address().port().to_string()]);
    judge.arg(world.path().join("state/bundle.pem"));
    judge.arg(caller.join("chain.pem")).arg(caller.join("key.pem"));
    let output = tokio::task::spawn_blocking(move || run(&mut judge)).await.unwrap().unwrap();

    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results: BTreeMap<String, Option<String>> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(results.len() >= CASES, "only {} cases", results.len());
    let failed: BTreeMap<&str, &str> =
        results.iter().filter_map(|(name, heard)| Some((name.as_str(), heard.as_deref()?))).collect();
    let unexpected: Vec<_> = failed
        .iter()
        .filter(|(name, _)| !EXCEPTIONS.iter().any(|(exception, _)| exception == *name))
        .collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
    for (name, reason) in EXCEPTIONS {
        assert!(failed.contains_key(name), "{name} passes, although {reason}");
    }
}
