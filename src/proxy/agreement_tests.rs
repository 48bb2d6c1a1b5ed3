//! The live decision, its rehearsal and an oracle that knows neither of them say the same of ten thousand random registries; and an
//! app that calls by a token gets what it gets by its key.
//!
//! The oracle reads the generated values, never what the registry's reader made of them, and is written after `docs/access.md`. Every
//! registry follows from its number alone, so that a disagreement can be had again.

mod book;
mod oracle;
mod world;
mod dice;

use std::collections::{BTreeMap, BTreeSet};

use book::Answered;
use dice::Dice;
use oracle::by_the_book;
use world::{Keys, World};

/// How many registries each property is tried on.
const REGISTRIES: u64 = 10_000;

/// How many requests each of them is asked.
const REQUESTS: u64 = 2;

/// Asks agents with random registries, and counts their answers by code.
fn ask_all(is_even: bool, ask: impl Fn(&mut Dice<'_>, &Keys) -> Vec<String>) -> BTreeMap<String, u64> {
    let keys = Keys::new();
    let mut counts = BTreeMap::new();
    for number in 0..REGISTRIES {
        let mut dice = Dice { keys: &keys, state: number, is_even };
        for code in ask(&mut dice, &keys) {
            *counts.entry(code).or_default() += 1;
        }
    }
    counts
}

#[test]
fn the_live_decision_its_rehearsal_and_the_oracle_agree() {
    let counts = ask_all(false, |dice, keys| {
        let number = dice.state;
        let book = dice.book();
        let world = World::new(&book, keys);
        let ask = |at: u64| {
            let call = dice.call(&book);
            let expected = by_the_book(&book, &call);
            let [rehearsed, live] = world.ask(&call, &format!("{number}-{at}"));
            assert_eq!(live, expected, "live, registry {number}\n{}\n{call:#?}", world.text);
            assert_eq!(rehearsed, expected, "rehearsed, registry {number}\n{}\n{call:#?}", world.text);
            expected.code
        };
        (0..REQUESTS).map(ask).collect()
    });

    let codes: BTreeSet<&str> = counts.keys().map(String::as_str).collect();
    let all = EITHER_WAY.into_iter().chain(ONLY_WITH_ALL_KINDS);
    assert_eq!(codes, all.collect(), "{counts:?}");
    assert!(counts["allowed"] > REGISTRIES / 20, "{counts:?}");
}

#[test]
fn an_app_gets_by_a_token_what_it_gets_by_its_key() {
    let counts = ask_all(true, |dice, keys| {
        let number = dice.state;
        let book = dice.book();
        let world = World::new(&book, keys);
        let ask = |_| {
            let calls = dice.pair(&book);
            let [by_key, by_token] = calls.each_ref().map(|call| {
                // They differ in what they are called, and in nothing else.
                world.ask(call, "").map(|answered| Answered { credential: Default::default(), ..answered })
            });
            assert_eq!(by_token, by_key, "registry {number}\n{}\n{calls:#?}", world.text);
            let [_, Answered { code, .. }] = by_key;
            code
        };
        (0..REQUESTS).map(ask).collect()
    });

    let codes: BTreeSet<&str> = counts.keys().map(String::as_str).collect();
    assert_eq!(codes, BTreeSet::from(EITHER_WAY), "{counts:?}");
    assert!(counts["allowed"] > REGISTRIES / 20, "{counts:?}");
}

/// What comes of requests by key and by token alike. A property that never saw one of them would say nothing of it.
const EITHER_WAY: [&str; 23] = [
    "allowed",
    "app-revoked",
    "auth-method-not-allowed",
    "bad-path",
    "binding-failed",
    "condition-failed",
    "credential-expired",
    "credential-not-yet-valid",
    "credential-pending",
    "credential-revoked",
    "developer-inactive",
    "grant-expired",
    "grant-pending",
    "grant-revoked",
    "insufficient-scope",
    "key-in-url",
    "misdirected-request",
    "no-such-service",
    "not-entitled",
    "principal-mismatch",
    "token-in-url",
    "unmapped-certificate",
    "wrong-environment",
];

/// What comes besides where all kinds are presented, good and bad.
const ONLY_WITH_ALL_KINDS: [&str; 7] = [
    "clock-skew",
    "duplicate-credential",
    "insufficient-coverage",
    "invalid-credential",
    "missing-credential",
    "step-up-required",
    "unmapped-token",
];
