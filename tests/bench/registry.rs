//! What a large registry costs: to read it, to keep it, and to change one app of it. `cargo bench --bench registry`, with
//! another number of apps behind `--`.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement that cannot go on may panic")]

mod timing;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use postern::registry::{Change, Library, Source};
use timing::{processor_time, resident};

/// As in the agent.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const APPS: usize = 100_000;
const PER_FILE: usize = 1000;
const CHANGES: usize = 100;

fn main() {
    let apps = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(APPS);
    let sources = registry(apps);
    let text: usize = sources.iter().map(|source| source.text.len()).sum();
    let before = resident();
    let begun = processor_time();
    let mut library = Library::read(&sources).unwrap();
    let read = processor_time().saturating_sub(begun);
    let kept = resident().saturating_sub(before) / apps;
    println!(
        "{apps} apps with a key each, {} bytes of text per app: read in {read:.2?}; {kept} bytes each in memory",
        text / apps
    );

    let mut took: Vec<Duration> = (0..CHANGES).map(|round| change_one(&mut library, apps, round)).collect();
    took.sort_unstable();
    let (median, longest) = (took.get(CHANGES / 2).unwrap(), took.last().unwrap());
    println!(
        "one app of them changed, among {PER_FILE} in its file: {median:.2?} (median), {longest:.2?} (longest)"
    );
}

fn change_one(library: &mut Library, apps: usize, round: usize) -> Duration {
    let number = (round * 7919) % (apps / PER_FILE);
    let mut source = file(number);
    source.text = source.text.replacen("[['api_key']]", "[['mtls']]", 1 + round % 5);
    let in_force = std::sync::Arc::clone(library.snapshot());
    let begun = processor_time();
    assert!(library.amend(&[Change::Says(source)]));
    drop(in_force);
    processor_time().saturating_sub(begun)
}

fn registry(apps: usize) -> Vec<Source> {
    let text = "[[developer]]\nid = 'team'\n[[product]]\nid = 'orders'\nscopes = ['orders:read']\n\
                [[product.operation]]\nservice = 'orders'\nmethods = ['GET']\npath = '/orders/**'\n";
    let shared = Source { path: PathBuf::from("shared.toml"), text: text.to_owned() };
    (0..apps / PER_FILE).map(file).chain([shared]).collect()
}

fn file(number: usize) -> Source {
    let mut text = String::new();
    for app in number * PER_FILE..(number + 1) * PER_FILE {
        write!(
            text,
            "[[app]]\nid = 'app-{app}'\ndeveloper = 'team'\naccepts = [['api_key']]\n\
             [[app.api_key]]\nid = '{app:012}'\nhash = 'hmac-sha256:p1:{app:064x}'\n[[app.grant]]\nproduct = 'orders'\n"
        )
        .unwrap();
    }
    Source { path: PathBuf::from(format!("apps-{number:06}.toml")), text }
}
