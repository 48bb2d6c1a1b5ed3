//! A corpus of bad chains, made here: each rule for chains is broken once, and the chain is refused for that very reason,
//! while its untouched twin is believed. Good chains of other issuers are among them, and `openssl verify` is heard as well.

#![expect(clippy::indexing_slicing, clippy::print_stderr, clippy::unwrap_used, reason = "a test may panic")]

mod cases;
mod der;
mod family;
mod forge;
mod second_opinion;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use postern::clock::Timestamp;
use postern::identity::{Match, Subject};
use postern::pki::{BundleSet, TrustBundle, Usage, Verifier, VerifyError};
use postern::registry::{Snapshot, Source, parse};

use cases::{Case, GOOD, INTERMEDIATES, LEAVES, PATHS, READINGS, ROOTS, STRENGTHS, STRUCTURES};
use der::{BMP, C, CN, O, PRINTABLE, UTF8, name, relative_names};
use family::{Family, HOUR, KEYS, NOW, named, now, signer};
use forge::{
    CONSTRAINTS, Draft, NAME_CONSTRAINTS, PURPOSES, SERVER_AUTH, URI, authority, constraints, purposes,
};

const ALL: [&[Case]; 7] = [LEAVES, READINGS, STRUCTURES, STRENGTHS, INTERMEDIATES, ROOTS, PATHS];

#[test]
fn each_broken_rule_is_the_reason_of_the_refusal() {
    let mut wrong = Vec::new();
    for Case { name, spoil, reason } in ALL.into_iter().flatten() {
        let mut family = Family::good();
        family.verdict().unwrap();
        spoil(&mut family);
        match family.verdict() {
            Ok(_) => wrong.push(format!("{name}: believed")),
            Err(found) if found.contains(reason) => (),
            Err(found) => wrong.push(format!("{name}: {found}, and not: {reason}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn good_chains_are_believed_whoever_made_them() {
    let mut wrong = Vec::new();
    for (name, vary) in GOOD {
        let mut family = Family::good();
        vary(&mut family);
        match family.verdict() {
            Ok(verified) => family.verifier().unwrap().confirm(&verified, now()).unwrap(),
            Err(reason) => wrong.push(format!("{name}: {reason}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// > The trust bundle used for verification MUST be that of the trust domain in the leaf's SPIFFE ID. — X509-SVID §5
#[test]
fn a_trusted_domain_does_not_speak_for_another() {
    let family = Family::good();
    let mut impostor = Family::good();
    impostor.leaf.names(&[(URI, b"spiffe://other.test/orders")]);
    let stranger = named(b"Other root");
    let bundle = |domain: &str, root: Draft| TrustBundle {
        domain: domain.parse().unwrap(),
        sequence: 1,
        roots: vec![root.sign()],
    };
    let both = BundleSet::from_iter([
        bundle("acme.test", family.roots[0].clone()),
        bundle("other.test", signer(&stranger, &stranger, &KEYS.stranger, &KEYS.stranger)),
    ]);
    let both = Verifier::new(Arc::new(both), Arc::default()).unwrap();

    both.verify(&family.chain(), Usage::Client, now()).unwrap();
    let outcome = both.verify(&impostor.chain(), Usage::Client, now());

    assert!(matches!(outcome, Err(VerifyError::UnknownIssuer(domain)) if domain.as_str() == "other.test"));
}

/// SPIFFE-ID §2, as a certificate shows it.
#[test]
fn an_id_that_breaks_a_rule_is_nobodys() {
    let long = format!("spiffe://acme.test/{}", "a".repeat(2048));
    let domain = format!("spiffe://{}/a", "a".repeat(256));
    for (rule, id) in [
        ("SID-1", ""),
        ("SID-1", "spiffe:/acme.test/a"),
        ("SID-1", "Spiffe://acme.test/a"),
        ("SID-1", " spiffe://acme.test/a"),
        ("SID-2", "spiffe://"),
        ("SID-2", "spiffe:///orders"),
        ("SID-3", "spiffe://acme.test/a?b=c"),
        ("SID-3", "spiffe://acme.test/a#b"),
        ("SID-4", "spiffe://user@acme.test/a"),
        ("SID-4", "spiffe://acme.test:443/a"),
        ("SID-5", "spiffe://ACME.test/a"),
        ("SID-5", "spiffe://acme%2etest/a"),
        ("SID-5", "spiffe://[::1]/a"),
        ("SID-6", "spiffe://acme.test/a%20b"),
        ("SID-6", "spiffe://acme.test/a b"),
        ("SID-6", "spiffe://acme.test/a*"),
        ("SID-6", "spiffe://acme.test/a\0b"),
        ("SID-7", "spiffe://acme.test//a"),
        ("SID-7", "spiffe://acme.test/a/../b"),
        ("SID-7", "spiffe://acme.test/./b"),
        ("SID-8", "spiffe://acme.test/a/"),
        ("SID-9", &long),
        ("SID-9", &domain),
    ] {
        let mut family = Family::good();
        family.leaf.names(&[(URI, id.as_bytes())]);
        let reason = family.verdict().unwrap_err();
        assert!(
            reason.contains("the certificate's URI is no workload's SPIFFE ID"),
            "{rule} {id:?}: {reason}"
        );
    }
    for id in ["spiffe://acme.test/.a", "spiffe://acme.test/...", "spiffe://acme.test/A_b-c.d/0"] {
        let mut family = Family::good();
        family.leaf.names(&[(URI, id.as_bytes())]);
        assert_eq!(family.verdict().unwrap().subject.spiffe_id.as_str(), id);
    }
}

/// Names that other tools print alike must come out differently, or not at all.
#[test]
fn no_two_certificates_share_a_name() {
    let names: Vec<Vec<u8>> = vec![
        name(&[(CN, UTF8, b"billing"), (O, UTF8, b"admin")]),
        name(&[(O, UTF8, b"admin"), (CN, UTF8, b"billing")]),
        name(&[(CN, UTF8, b"billing, O=admin")]),
        name(&[(CN, UTF8, b"billing,O=admin")]),
        name(&[(CN, UTF8, b"billing + O=admin")]),
        name(&[(CN, UTF8, b"admin"), (CN, UTF8, b"billing")]),
        name(&[(CN, UTF8, b"billing"), (CN, UTF8, b"admin")]),
        name(&[(CN, UTF8, "\u{430}dmin".as_bytes())]),
        name(&[(CN, UTF8, b"admin")]),
        name(&[(CN, UTF8, b"admin ")]),
        name(&[(CN, UTF8, b" admin")]),
        name(&[(CN, UTF8, b"#admin")]),
        name(&[(CN, UTF8, b"\\admin")]),
        name(&[(CN, UTF8, b"")]),
        name(&[("2.5.4.5", UTF8, b"admin")]),
        name(&[("2.5.4.5", PRINTABLE, b"admin")]),
        name(&[]),
        relative_names(&[&[(CN, UTF8, b"billing"), (O, UTF8, b"admin")]]),
        relative_names(&[&[(O, UTF8, b"admin"), (CN, UTF8, b"billing")]]),
        relative_names(&[&[(CN, UTF8, b"billing"), (O, UTF8, b"admin")], &[(C, PRINTABLE, b"CH")]]),
        relative_names(&[&[(CN, UTF8, b"billing")], &[(O, UTF8, b"admin"), (C, PRINTABLE, b"CH")]]),
        relative_names(&[&[(CN, UTF8, b"billing+O=admin")]]),
        relative_names(&[&[(CN, UTF8, b"billing"), (O, UTF8, b"")]]),
        relative_names(&[&[(CN, UTF8, b"billing"), (O, UTF8, b"a\nb")]]),
        name(&[(CN, UTF8, b"admin\0.evil")]),
        name(&[(CN, UTF8, b"a\r\nX-Admin: 1")]),
        name(&[(CN, UTF8, "admi\u{200b}n".as_bytes())]),
        name(&[(CN, BMP, b"\0a\0d\0m\0i\0n")]),
    ];
    let mut texts = BTreeSet::new();
    let mut refused = 0;

    for subject in names {
        let mut family = Family::good();
        family.leaf.subject = subject;
        match family.verdict() {
            Ok(verified) => {
                assert!(texts.insert(verified.subject.distinguished_name.clone()), "{verified:?}")
            }
            Err(reason) => {
                assert!(reason.contains("the name"), "{reason}");
                refused += 1;
            }
        }
    }

    assert_eq!((texts.len(), refused), (23, 5), "{texts:#?}");
}

/// One reader takes such a name for two attributes, another for one. So the chain holds, but its holder is nobody unless the
/// operator has said that such names are meant.
#[test]
fn a_multi_valued_name_is_nobodys_until_a_rule_says_so() {
    let mut family = Family::good();
    family.leaf.subject = relative_names(&[&[(CN, UTF8, b"billing"), (O, UTF8, b"admin")]]);
    let subject = family.verdict().unwrap().subject;
    let (cn, o) = ("{ oid = 'CN', value = 'billing' }", "{ oid = 'O', value = 'admin' }");
    let sha256 = data_encoding::HEXLOWER.encode(&subject.sha256);
    let by_id = "uri = 'spiffe://acme.test/orders'";
    let rules = [
        by_id.to_owned(),
        "uri = 'spiffe://acme.test/**'".to_owned(),
        format!("sha256 = '{sha256}'"),
        format!("subject = [{cn}]"),
        format!("subject = [{o}]"),
        format!("subject = [{cn}, {o}]"),
    ];
    let plain = Family::good().verdict().unwrap().subject;
    assert!(is_somebody(&registry(by_id), &plain));

    for rule in &rules {
        assert!(!is_somebody(&registry(rule), &subject), "{rule}");
        let says_so = registry(&format!("{rule}\nmulti_valued = true"));
        assert_eq!(is_somebody(&says_so, &subject), !rule.starts_with("subject"), "{rule}");
    }
    let together = registry(&format!("subject = [[{o}, {cn}]]\nmulti_valued = true"));
    assert!(is_somebody(&together, &subject));
    assert_eq!(subject.distinguished_name, "CN=billing+O=admin");
    for other in [
        name(&[(CN, UTF8, b"billing"), (O, UTF8, b"admin")]),
        name(&[(CN, UTF8, b"billing+O=admin")]),
        relative_names(&[&[(CN, UTF8, b"billing"), (O, UTF8, b"admin"), (C, PRINTABLE, b"CH")]]),
    ] {
        family.leaf.subject = other;
        assert!(!is_somebody(&together, &family.verdict().unwrap().subject));
    }
}

/// One app that is known by certificates of this rule.
fn registry(rule: &str) -> Snapshot {
    let text = format!(
        "[[developer]]\nid = 'team'\n[[app]]\nid = 'app'\ndeveloper = 'team'\n[[app.certificate]]\n{rule}\n"
    );
    parse(&[Source { path: "apps.toml".into(), text }]).unwrap()
}

fn is_somebody(registry: &Snapshot, subject: &Subject) -> bool {
    matches!(registry.certificate(subject), Match::Found(_))
}

/// What happens to a root, and what must then be said.
type Change = (fn(&mut Draft), &'static str);

/// What was believed once is asked again with every resumption: the root may have ended, or may allow less than it did.
#[test]
fn a_verdict_that_is_remembered_rests_on_the_root_as_it_is_now() {
    let family = Family::good();
    let verified = family.verdict().unwrap();
    let confirm = |spoil: fn(&mut Draft)| {
        let mut later = Family::good();
        spoil(&mut later.roots[0]);
        let verifier = later.verifier().unwrap();
        verifier.confirm(&verified, now()).map_err(|error| error.to_string())
    };

    assert_eq!(confirm(|_| ()), Ok(()));
    assert_eq!(confirm(|root| root.not_after = NOW + HOUR), Ok(()), "renewed with its key");
    let changes: [Change; 6] = [
        (|root| root.not_after = NOW - 1, "the root that the chain leads to expired"),
        (|root| root.not_before = NOW + 1, "the root that the chain leads to is valid only from"),
        (|root| root.set(CONSTRAINTS, true, authority(Some(0))), "PathLenConstraintViolated"),
        (|root| root.set(PURPOSES, false, purposes(&[SERVER_AUTH])), "leads to no root"),
        (|root| root.set(NAME_CONSTRAINTS, true, constraints(&[(URI, b"b.test")], &[])), "leads to no root"),
        (|root| root.spki = KEYS.stranger.spki.clone(), "leads to no root"),
    ];
    for (spoil, reason) in changes {
        let found = confirm(spoil).unwrap_err();
        assert!(found.contains(reason), "{found}, and not: {reason}");
    }
}

#[test]
fn a_chain_ends_with_its_root() {
    let mut family = Family::good();
    family.leaf.not_after = NOW + 2 * HOUR;
    family.roots[0].not_after = NOW + HOUR;
    let verified = family.verdict().unwrap();
    let end = Timestamp::from_unix(NOW + HOUR);
    let verifier = family.verifier().unwrap();

    assert_eq!(verified.not_after(), end);
    verifier.confirm(&verified, end).unwrap();
    let late = end + Duration::from_millis(1);

    let at_the_door = verifier.verify(&family.chain(), Usage::Client, late);
    let remembered = verifier.confirm(&verified, late);

    assert!(matches!(at_the_door, Err(VerifyError::RootExpired { not_after }) if not_after == end));
    assert!(matches!(remembered, Err(VerifyError::RootExpired { not_after }) if not_after == end));
}

/// Every byte of a certificate that is needed is either signed or decides whether the signature holds: the outer length and
/// the outer algorithm have one spelling each, and so has the signature. What is sent without need is not looked at.
#[test]
fn a_changed_byte_is_noticed_wherever_it_counts() {
    let mut family = Family::good();
    family.middles.push(family.roots[0].clone());
    let verifier = family.verifier().unwrap();
    let chain = family.chain();
    let good = verifier.verify(&chain, Usage::Client, now()).unwrap();
    let mut random = Random(0x2026_1122);
    let mut believed = 0;

    for round in 0..3000 {
        let mut spoiled = chain.clone();
        let which = random.below(chain.len());
        let mut bytes = chain[which].to_vec();
        let at = random.below(bytes.len());
        match round % 6 {
            0 => drop(bytes.remove(at)),
            1 => bytes.insert(at, u8::try_from(random.below(256)).unwrap()),
            2 => bytes.truncate(at),
            _ => bytes[at] ^= u8::try_from(1 + random.below(255)).unwrap(),
        }
        spoiled[which] = bytes.into();

        let needless = which == 2;
        match verifier.verify(&spoiled, Usage::Client, now()) {
            Ok(verified) => {
                assert!(needless, "certificate {which}, byte {at}, round {round}");
                assert_eq!(verified, good);
                believed += 1;
            }
            Err(reason) => assert!(!needless, "certificate {which}, byte {at}, round {round}: {reason}"),
        }
        // Nor does a spoiled root in a bundle break anything but itself.
        let bundle = TrustBundle {
            domain: "acme.test".parse().unwrap(),
            sequence: 1,
            roots: vec![spoiled[2].clone()],
        };
        drop(Verifier::new(Arc::new(BundleSet::from_iter([bundle])), Arc::default()));
    }

    assert!(believed > 800, "the root that was sent along was spoiled {believed} times");
}

/// Numbers that look random and are the same each time (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end).unwrap()).unwrap()
    }
}
