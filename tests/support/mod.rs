//! A whole agent for each test: configuration and registry in a folder of their own, the real binary on a loopback address of
//! its own, callers that speak raw bytes over TLS, and services that answer as they are told.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test that cannot go on may panic"
)]

pub(crate) mod caller;
pub(crate) mod foreign;
pub(crate) mod h2c;
pub(crate) mod identity;
pub(crate) mod python;
pub(crate) mod resumer;
pub(crate) mod service;
pub(crate) mod sign;
pub(crate) mod token;
pub(crate) mod world;

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

pub(crate) use caller::{Answer, H2, Talk, Tls};
pub(crate) use foreign::ForeignCa;
pub(crate) use h2c::H2cService;
pub(crate) use identity::Identity;
pub(crate) use python::python_with;
pub(crate) use resumer::{Outcome, Resumer, VERSIONS};
pub(crate) use service::{Act, Seen, Service, ok};
pub(crate) use sign::SigningKey;
pub(crate) use world::{Scene, World};

/// Whatever a test waits for comes within this span, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Asks again and again until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = tokio::time::Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The outcome of `work`, which must come within [`PATIENCE`].
pub(crate) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("waited in vain: {what}"),
    }
}

/// Writes a file in place, as an editor without care does.
pub(crate) fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
}
