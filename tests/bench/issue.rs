//! What a leaf costs beside the cryptography that nobody can save: a fresh key on P-256 and one signature.
//!
//! Both are measured in turn, a hundred at a time, and the median of the ratios is printed. `cargo bench --bench issue`.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement that cannot go on may panic")]

use std::hint::black_box;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use postern::clock::{Clock as _, SystemClock};
use postern::pki::{
    AuthorityPlan, DEFAULT_BACKDATE, Hierarchy, KeyAlgorithm, Lifetimes, LocalKeys, Profile, issue,
};
use tokio::time::Instant;

/// Rounds, and how often each thing is done in one.
const ROUNDS: usize = 60;
const TIMES: u32 = 100;

/// What it may cost.
const BUDGET: f64 = 2.0;

fn main() {
    let (now, lifetimes, algorithm) = (SystemClock.now(), Lifetimes::default(), KeyAlgorithm::EcdsaP256);
    let plan = |ttl: Duration| AuthorityPlan { keys: &LocalKeys, algorithm, ttl, backdate: DEFAULT_BACKDATE };
    let domain = "postern.test".parse().unwrap();
    let ca = Hierarchy::create(domain, &plan(lifetimes.root), &plan(lifetimes.issuing), now).unwrap();
    let authority = &ca.issuing().active;
    let profile = Profile {
        spiffe_id: "spiffe://postern.test/ns/shop/sa/web".parse().unwrap(),
        dns: vec!["web.example.com".to_owned()],
        ttl: lifetimes.leaf,
        backdate: DEFAULT_BACKDATE,
        algorithm,
    };
    let signer = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let random = SystemRandom::new();
    // As many bytes as are signed in a certificate: all of it but the signature, some 80 bytes.
    let to_be_signed = vec![0x5a; issue(authority, &profile, now).unwrap().chain.first().unwrap().len() - 80];

    let mut rounds: Vec<(f64, f64, f64)> = (0..ROUNDS)
        .map(|_| {
            let bare = span_of(|| {
                black_box(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap());
                black_box(signer.sign(&random, &to_be_signed).unwrap());
            });
            let whole = span_of(|| {
                black_box(issue(authority, &profile, now).unwrap());
            });
            (whole / bare, whole, bare)
        })
        .collect();
    rounds.sort_by(|one, other| one.0.total_cmp(&other.0));

    let (ratio, whole, bare) = rounds.get(ROUNDS / 2).copied().unwrap();
    let verdict = if ratio <= BUDGET { "within" } else { "beyond" };
    println!(
        "a leaf: {whole:.1} µs; a key and a signature: {bare:.1} µs; ratio {ratio:.2}, {verdict} the budget of {BUDGET} \
         ({} leaves)",
        rounds.len() * usize::try_from(TIMES).unwrap()
    );
}

/// What `work` takes, in microseconds.
fn span_of(mut work: impl FnMut()) -> f64 {
    let begun = Instant::now();
    (0..TIMES).for_each(|_| work());
    begun.elapsed().as_secs_f64() * 1e6 / f64::from(TIMES)
}
