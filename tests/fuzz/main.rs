//! Every reader of foreign bytes, on a small corpus and on mutations of it that follow from a seed. `scripts/fuzz` runs the same
//! targets for as long as one likes.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may panic"
)]

mod targets;

use std::fs;
use std::path::Path;

/// So many mutations of each entry's corpus are tried.
const MUTATIONS: usize = 10_000;

/// An entry is not mutated beyond this length.
const LONGEST: usize = 4_096;

#[test]
fn a_target_has_a_corpus_and_every_corpus_a_target() {
    let root = corpus_root();
    let mut found: Vec<String> =
        fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();

    assert_eq!(found, targets::ALL.map(|(name, _)| name));
}

#[test]
fn an_answer_is_written_anew_as_it_was_read() {
    hold("answer");
}

#[test]
fn a_certificate_says_one_thing() {
    hold("certificate");
}

#[test]
fn a_configuration_is_read_in_one_way() {
    hold("config");
}

#[test]
fn a_path_has_one_meaning() {
    hold("path");
}

#[test]
fn a_proxy_header_ends_where_it_says() {
    hold("proxy");
}

#[test]
fn a_registry_is_read_in_one_way() {
    hold("registry");
}

#[test]
fn a_request_is_written_anew_as_it_was_read() {
    hold("request");
}

#[test]
fn a_signature_says_what_it_covers_in_one_way() {
    hold("signature");
}

/// What the target called `name` says must hold does.
fn hold(name: &str) {
    let corpus = corpus(name);
    assert!(!corpus.is_empty());
    for entry in &corpus {
        targets::run(name, entry);
    }
    let mut dice = Dice(0x5EED);
    for number in 0..MUTATIONS {
        let mutant = mutant(&corpus, &mut dice);
        let outcome = std::panic::catch_unwind(|| targets::run(name, &mutant));
        assert!(outcome.is_ok(), "mutation {number} of {name}: {}", mutant.escape_ascii());
    }
}

fn corpus_root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus")
}

/// The entries for a target, in the order of their names.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<_> =
        fs::read_dir(corpus_root().join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// An entry with some of it changed, doubled, taken out, or put in from another one.
fn mutant(corpus: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = dice.pick(corpus).clone();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        let end = (at + 1 + dice.below(16)).min(bytes.len());
        match dice.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            1 => drop(bytes.drain(at.min(end)..end)),
            2 => {
                let doubled = bytes[at.min(end)..end].to_vec();
                drop(bytes.splice(at..at, doubled));
            }
            3 => {
                let other = dice.pick(corpus);
                let from = dice.below(other.len() + 1);
                let to = (from + dice.below(64)).min(other.len());
                drop(bytes.splice(at..at, other[from..to].iter().copied()));
            }
            4 => bytes.insert(at, *dice.pick(b"\0\t\r\n %./;:,=\"\\*{}[]()#?@_-0f\x7f\xc3\xff")),
            _ => bytes.truncate(at),
        }
    }
    bytes.truncate(LONGEST);
    bytes
}

/// Numbers that look random (SplitMix64) and follow from where they began.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ mixed >> 31) % u64::try_from(bound).unwrap()).unwrap()
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
