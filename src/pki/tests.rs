//! The CA from end to end: what is issued meets every rule, and what breaks a rule is refused by its name.

mod crls;

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::*;
use crate::clock::Timestamp;
use crate::identity::{InvalidSpiffeId, InvalidSubject, TrustDomain};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

fn now() -> Timestamp {
    "2026-11-22T05:21:00Z".parse().unwrap()
}

fn domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

fn plan(ttl: Duration) -> AuthorityPlan<'static> {
    AuthorityPlan { keys: &LocalKeys, algorithm: KeyAlgorithm::EcdsaP256, ttl, backdate: DEFAULT_BACKDATE }
}

fn profile(spiffe_id: &str) -> Profile {
    Profile {
        spiffe_id: spiffe_id.parse().unwrap(),
        dns: Vec::new(),
        ttl: HOUR,
        backdate: DEFAULT_BACKDATE,
        algorithm: KeyAlgorithm::EcdsaP256,
    }
}

/// A CA and whoever believes it.
struct World {
    hierarchy: Hierarchy,
    verifier: Verifier,
}

impl World {
    fn of(name: &str) -> Self {
        let hierarchy = Hierarchy::create(domain(name), &plan(DAY * 365), &plan(DAY * 7), now()).unwrap();
        let verifier = believing([hierarchy.bundle()]);
        Self { hierarchy, verifier }
    }

    fn active(&self) -> &Authority {
        &self.hierarchy.issuing().active
    }

    /// A leaf that was well formed until `spoil` got hold of it.
    fn leaf(&self, spoil: impl FnOnce(&mut CertificateParams)) -> Vec<CertificateDer<'static>> {
        let mut params = CertificateParams::default();
        params.not_before = (now() - MINUTE).to_offset_date_time();
        params.not_after = (now() + HOUR).to_offset_date_time();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri("spiffe://a.test/orders")];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        spoil(&mut params);
        let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let leaf = params.signed_by(&key, self.active().issuer().unwrap()).unwrap();
        vec![leaf.into(), self.active().certificate().clone()]
    }

    fn verify_spoiled(&self, spoil: impl FnOnce(&mut CertificateParams)) -> Result<(), VerifyError> {
        self.verify(&self.leaf(spoil), now())
    }

    fn verify(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<(), VerifyError> {
        self.verifier.verify(chain, Usage::Client, now).map(drop)
    }
}

fn believing(bundles: impl IntoIterator<Item = TrustBundle>) -> Verifier {
    Verifier::new(Arc::new(bundles.into_iter().collect()), Arc::default()).unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> X509Certificate<'a> {
    let (rest, parsed) = X509Certificate::from_der(certificate).unwrap();
    assert!(rest.is_empty());
    parsed
}

// What is issued.

#[test]
fn a_leaf_meets_every_rule_of_the_standard() {
    let world = World::of("a.test");
    let mut profile = profile("spiffe://a.test/ns/prod/orders");
    profile.dns = vec!["orders.a.test".to_owned(), "orders".to_owned()];

    let svid = issue(world.active(), &profile, now()).unwrap();

    let leaf = parse(&svid.chain[0]);
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    let uris: Vec<_> =
        names.value.general_names.iter().filter(|name| matches!(name, GeneralName::URI(_))).collect();
    assert_eq!(uris, [&GeneralName::URI("spiffe://a.test/ns/prod/orders")], "exactly one URI SAN");
    assert_eq!(names.value.general_names.len(), 3, "DNS names besides");
    assert!(
        leaf.subject().iter().next().is_none() && names.critical,
        "an empty subject makes the SAN critical"
    );
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(!constraints.value.ca && constraints.critical, "basicConstraints present with CA=false");
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature());
    assert!(!usage.value.key_cert_sign() && !usage.value.crl_sign());
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    assert_eq!(leaf.issuer().as_raw(), parse(&svid.chain[1]).subject().as_raw());
    assert_eq!(Timestamp::from_unix(leaf.validity().not_before.timestamp()), now() - MINUTE * 5);
    assert_eq!(Timestamp::from_unix(leaf.validity().not_after.timestamp()), now() + HOUR);
    assert_eq!((svid.not_before, svid.not_after), (now() - MINUTE * 5, now() + HOUR));
    assert_eq!(svid.chain.len(), 2, "leaf and issuing authority, no root");
}

#[test]
fn a_leaf_is_believed_at_both_ends_whatever_its_key() {
    for algorithm in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384, KeyAlgorithm::Ed25519] {
        let authority = AuthorityPlan { algorithm, ..plan(DAY * 7) };
        let root = AuthorityPlan { algorithm, ..plan(DAY * 365) };
        let hierarchy = Hierarchy::create(domain("a.test"), &root, &authority, now()).unwrap();
        let profile = Profile { algorithm, ..profile("spiffe://a.test/orders") };

        let svid = issue(&hierarchy.issuing().active, &profile, now()).unwrap();

        for usage in [Usage::Client, Usage::Server] {
            let subject = believing([hierarchy.bundle()]).verify(&svid.chain, usage, now()).unwrap().subject;
            assert_eq!(subject.spiffe_id, profile.spiffe_id);
            assert_eq!(subject.serial, svid.serial);
            assert_eq!((subject.not_before, subject.not_after), (svid.not_before, svid.not_after));
        }
    }
}

#[test]
fn key_and_serial_number_are_fresh_each_time() {
    let world = World::of("a.test");
    let profile = profile("spiffe://a.test/orders");

    let one = issue(world.active(), &profile, now()).unwrap();
    let other = issue(world.active(), &profile, now()).unwrap();

    assert_ne!(one.serial, other.serial);
    assert_eq!(one.serial.len(), 34, "a leading 01 and 128 random bits");
    assert_ne!(one.key, other.key);
    let key = KeyPair::from_pkcs8(&one.key).unwrap();
    assert_eq!(key.public_key_info(), parse(&one.chain[0]).public_key().raw);
}

#[test]
fn a_leaf_that_would_outlive_its_authority_is_an_error_and_not_shortened() {
    let world = World::of("a.test");
    let profile = profile("spiffe://a.test/orders");
    let late = now() + DAY * 7 - HOUR;

    assert_eq!(issue(world.active(), &profile, late).unwrap().not_after, now() + DAY * 7);
    let error = issue(world.active(), &profile, late + Duration::from_secs(1)).unwrap_err();

    assert_eq!(
        error.to_string(),
        "the issuing authority expires 2026-11-29T05:21:00Z, before the requested 2026-11-29T05:21:01Z"
    );
}

#[test]
fn no_leaf_begins_before_its_authority() {
    let hierarchy = Hierarchy::create(
        domain("a.test"),
        &AuthorityPlan { backdate: MINUTE, ..plan(DAY * 365) },
        &plan(DAY),
        now(),
    )
    .unwrap();
    let authority = &hierarchy.issuing().active;

    let svid = issue(authority, &profile("spiffe://a.test/orders"), now()).unwrap();

    assert_eq!(authority.life().not_before, now() - MINUTE, "bounded by the root");
    assert_eq!(svid.not_before, now() - MINUTE, "bounded by the authority");
}

#[test]
fn nothing_is_issued_while_the_clock_is_wrong() {
    let world = World::of("a.test");
    let profile = profile("spiffe://a.test/orders");

    let early = issue(world.active(), &profile, now() - HOUR).unwrap_err();
    let unset = issue(world.active(), &profile, Timestamp::from_unix(0)).unwrap_err();

    assert!(matches!(early, IssueError::Life(LifeError::NotYetValid { .. })), "{early}");
    assert!(matches!(unset, IssueError::Life(LifeError::ClockNotSet(_))), "{unset}");
}

#[test]
fn lifetimes_of_seconds_work_with_a_backdate_of_minutes() {
    let hierarchy = Hierarchy::create(
        domain("a.test"),
        &plan(MINUTE * 3),
        &plan(MINUTE),
        now() + Duration::from_millis(700),
    )
    .unwrap();
    let profile = Profile { ttl: Duration::from_secs(10), ..profile("spiffe://a.test/orders") };

    let svid = issue(&hierarchy.issuing().active, &profile, now() + Duration::from_millis(900)).unwrap();

    assert_eq!(svid.not_after, now() + Duration::from_secs(10));
    believing([hierarchy.bundle()]).verify(&svid.chain, Usage::Server, now()).unwrap();
}

#[test]
fn a_leaf_needs_proper_dns_names_and_an_issuing_authority() {
    let world = World::of("a.test");
    let long = "x".repeat(64);
    for name in ["", "a..b", "a b", "a.*.b", "*.a.b", "exämple", &long, "a\0b", "-a.b", "a-.b", "127.0.0.1"]
    {
        let profile = Profile { dns: vec![name.to_owned()], ..profile("spiffe://a.test/orders") };
        let error = issue(world.active(), &profile, now()).unwrap_err();
        assert!(matches!(error, IssueError::InvalidDnsName(_)), "{name:?}: {error}");
    }

    let error =
        issue(&world.hierarchy.roots().active, &profile("spiffe://a.test/orders"), now()).unwrap_err();
    assert!(matches!(error, IssueError::WrongLevel(Level::Root)));
}

// Authorities.

#[test]
fn authorities_are_marked_as_such_and_know_their_depth() {
    let world = World::of("a.test");

    for (authority, depth) in [(&world.hierarchy.roots().active, 1), (&world.hierarchy.issuing().active, 0)] {
        let parsed = parse(authority.certificate());
        let constraints = parsed.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(depth));
        let usage = parsed.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign() && !usage.value.digital_signature());
        assert!(parsed.name_constraints().unwrap().is_none(), "rustls refuses URIs under name constraints");
        let names = parsed.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names, [GeneralName::URI("spiffe://a.test")], "no path");
        assert_eq!(authority.life().not_before, now() - MINUTE * 5, "a peer whose clock is slow accepts it");
    }
}

#[test]
fn an_authority_survives_its_stored_form() {
    let world = World::of("a.test");
    for (_, authority) in world.hierarchy.iter() {
        let key = authority.key().unwrap().to_pkcs8_der().unwrap();

        let again =
            Authority::load(authority.certificate().clone(), &key, authority.life().issued_at).unwrap();

        assert_eq!(again.id(), authority.id());
        assert_eq!(again.level(), authority.level());
        assert_eq!(again.life(), authority.life());
    }
}

#[test]
fn a_certificate_with_a_foreign_key_is_no_authority() {
    let world = World::of("a.test");
    let foreign = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap().to_pkcs8_der().unwrap();

    let error = Authority::load(world.active().certificate().clone(), &foreign, now()).unwrap_err();

    assert!(matches!(error, AuthorityError::ForeignKey));
}

#[test]
fn a_leaf_is_no_authority() {
    let world = World::of("a.test");
    let svid = issue(world.active(), &profile("spiffe://a.test/orders"), now()).unwrap();

    let error = Authority::load(svid.chain[0].clone(), &svid.key, now()).unwrap_err();

    assert!(matches!(error, AuthorityError::NoAuthority(_)), "{error}");
}

#[test]
fn an_authority_that_may_not_sign_certificates_is_none() {
    let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).unwrap();

    let error = Authority::load(certificate.into(), &key.to_pkcs8_der().unwrap(), now()).unwrap_err();

    assert!(matches!(error, AuthorityError::NoAuthority(_)), "{error}");
}

#[test]
fn an_authority_whose_name_cannot_be_reproduced_is_refused() {
    let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name = DistinguishedName::new();
    let component = |last| DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, last]);
    params.distinguished_name.push(component(25), "example");
    params.distinguished_name.push(component(26), "other");
    let certificate: CertificateDer<'static> = params.self_signed(&key).unwrap().into();

    // Two attributes of one type, as in DC=com,DC=example. The signature breaks, which is not what is asked here.
    let wanted = [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01];
    let mut bytes = certificate.to_vec();
    for at in 0..bytes.len() - 10 {
        if bytes[at..].starts_with(&wanted) {
            bytes[at + 9] = 25;
        }
    }
    let error = Authority::load(bytes.into(), &key.to_pkcs8_der().unwrap(), now()).unwrap_err();

    assert!(matches!(error, AuthorityError::Name), "{error}");
}

#[test]
fn garbage_is_no_authority() {
    let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap().to_pkcs8_der().unwrap();

    for bytes in [&b""[..], b"certificate", &[0x30; 500]] {
        let error = Authority::load(bytes.to_vec().into(), &key, now()).unwrap_err();
        assert!(matches!(error, AuthorityError::Malformed(_)), "{error}");
    }
}

#[test]
fn an_issuing_authority_never_outlives_its_root() {
    let world = World::of("a.test");
    let late = now() + DAY * 360;

    let error = world.hierarchy.prepare_issuing(&plan(DAY * 7), late).unwrap_err();

    assert!(
        error.to_string().starts_with("the root expires 2027-11-22T05:21:00Z, before the requested"),
        "{error}"
    );
}

// Slots.

#[test]
fn an_issuing_authority_is_prepared_then_active_then_retired_then_gone() {
    let world = World::of("a.test");
    let first = world.active().id().clone();
    let profile = profile("spiffe://a.test/orders");
    let old_leaf = issue(world.active(), &profile, now()).unwrap();

    let prepared = world.hierarchy.prepare_issuing(&plan(DAY * 7), now()).unwrap();
    let second = prepared.issuing().prepared.as_ref().unwrap().id().clone();
    assert_eq!(prepared.issuing().active.id(), &first, "preparing changes nothing for leaves");

    let rotated = prepared.activate_issuing(&second, now() + HOUR, now()).unwrap();
    assert_eq!(rotated.issuing().active.id(), &second);
    assert_eq!(rotated.issuing().retired[0].authority.id(), &first);
    assert!(rotated.issuing().prepared.is_none());
    assert_eq!(rotated.bundle(), world.hierarchy.bundle(), "the root stays, and so does the bundle");

    let new_leaf = issue(&rotated.issuing().active, &profile, now()).unwrap();
    for leaf in [&old_leaf, &new_leaf] {
        world.verify(&leaf.chain, now()).unwrap();
    }

    assert!(rotated.drop_drained(now() + HOUR).is_none());
    let error = rotated.drop_retired(Level::Issuing, &first, now() + HOUR).unwrap_err();
    assert!(matches!(error, HierarchyError::StillInUse { .. }), "{error}");
    let dropped = rotated.drop_drained(now() + HOUR + Duration::from_secs(1)).unwrap();
    assert!(dropped.issuing().retired.is_empty());
}

#[test]
fn a_root_moves_alike_and_every_change_of_the_bundle_is_numbered() {
    let world = World::of("a.test");
    let old_leaf = issue(world.active(), &profile("spiffe://a.test/orders"), now()).unwrap();
    let (old_root, old_issuing) = (world.hierarchy.roots().active.id().clone(), world.active().id().clone());
    let later = now() + DAY * 10;

    let prepared = world.hierarchy.prepare_root(&plan(DAY * 365), now()).unwrap();
    let id = prepared.roots().prepared.as_ref().unwrap().id().clone();
    assert_eq!((prepared.sequence(), prepared.bundle().roots.len()), (2, 2), "known before it is used");
    assert_eq!(prepared.issuing().active.id(), &old_issuing, "and nothing is signed under it");
    let active = prepared.activate_root(&id, &plan(DAY * 7), now() + HOUR, now()).unwrap();
    assert_eq!(active.bundle(), prepared.bundle(), "still the same two roots");
    assert!(active.issuing().active.is_signed_by(&active.roots().active), "what signs leads to the new root");

    let new_leaf = issue(&active.issuing().active, &profile("spiffe://a.test/orders"), now()).unwrap();
    let everyone = believing([active.bundle()]);
    for leaf in [&old_leaf, &new_leaf] {
        everyone.verify(&leaf.chain, Usage::Server, now()).unwrap();
    }

    let error = active.drop_retired(Level::Root, &old_root, later).unwrap_err();
    assert!(matches!(error, HierarchyError::Unrooted(_)), "an issuing authority still hangs on it: {error}");
    assert!(active.drop_drained(now() + HOUR).is_none());
    let gone = active.drop_drained(now() + HOUR + Duration::from_secs(1)).unwrap();
    assert_eq!((gone.sequence(), gone.bundle().roots.len()), (3, 1));
    assert!(gone.issuing().retired.is_empty());
}

#[test]
fn a_root_stays_until_the_last_leaf_of_all_its_issuing_authorities_has_expired() {
    let world = World::of("a.test");
    let prepared = world.hierarchy.prepare_issuing(&plan(DAY * 7), now()).unwrap();
    let issuing = prepared.issuing().prepared.as_ref().unwrap().id().clone();
    let rotated = prepared.activate_issuing(&issuing, now() + DAY, now()).unwrap();
    let prepared = rotated.prepare_root(&plan(DAY * 365), now()).unwrap();
    let root = prepared.roots().prepared.as_ref().unwrap().id().clone();

    let active = prepared.activate_root(&root, &plan(DAY * 7), now() + HOUR, now()).unwrap();

    assert_eq!(active.roots().retired[0].until, now() + DAY);
    assert_eq!(active.drop_drained(now() + HOUR * 2).unwrap().bundle().roots.len(), 2);
    assert_eq!(active.drop_drained(now() + HOUR * 25).unwrap().bundle().roots.len(), 1);
}

#[test]
fn both_levels_can_be_rolled_back_until_the_former_authority_is_gone() {
    let world = World::of("a.test");
    let (root, issuing) = (world.hierarchy.roots().active.id().clone(), world.active().id().clone());
    let minute_later = now() + MINUTE;
    let prepared = world.hierarchy.prepare_issuing(&plan(DAY * 7), minute_later).unwrap();
    let second = prepared.issuing().prepared.as_ref().unwrap().id().clone();
    let rotated = prepared.activate_issuing(&second, now() + HOUR, minute_later).unwrap();

    let back = rotated.roll_back_issuing(&issuing, now() + HOUR, minute_later).unwrap();
    assert_eq!((back.issuing().active.id(), back.issuing().retired[0].authority.id()), (&issuing, &second));
    assert!(back.issuing().is_rolled_back() && !rotated.issuing().is_rolled_back());

    let prepared = rotated.prepare_root(&plan(DAY * 365), minute_later).unwrap();
    let next = prepared.roots().prepared.as_ref().unwrap().id().clone();
    let active = prepared.activate_root(&next, &plan(DAY * 7), now() + HOUR, minute_later).unwrap();
    let error = active.roll_back_issuing(&second, now() + HOUR, minute_later).unwrap_err();
    assert!(matches!(error, HierarchyError::UnderRetiredRoot { .. }), "{error}");
    let back = active.roll_back_root(&root, &plan(DAY * 7), now() + HOUR, minute_later).unwrap();
    assert_eq!((back.roots().active.id(), back.roots().retired[0].authority.id()), (&root, &next));
    assert!(back.issuing().active.is_signed_by(&back.roots().active));
    assert_eq!(back.bundle(), active.bundle(), "both are believed all along");
    assert!(back.roots().is_rolled_back());

    let gone = active.drop_drained(now() + DAY).unwrap();
    let error = gone.roll_back_root(&root, &plan(DAY * 7), now() + DAY * 2, now() + DAY).unwrap_err();
    assert!(matches!(error, HierarchyError::NotRetired(_)), "{error}");
}

#[test]
fn what_is_dropped_early_takes_along_what_it_signed() {
    let world = World::of("a.test");
    let root = world.hierarchy.roots().active.id().clone();
    let prepared = world.hierarchy.prepare_root(&plan(DAY * 365), now()).unwrap();
    let next = prepared.roots().prepared.as_ref().unwrap().id().clone();
    let active = prepared.activate_root(&next, &plan(DAY * 7), now() + HOUR, now()).unwrap();

    let dropped = active.drop_early(Level::Root, &root).unwrap();

    assert_eq!((dropped.bundle().roots.len(), dropped.sequence()), (1, 3));
    assert!(dropped.issuing().retired.is_empty());
    assert!(matches!(dropped.drop_early(Level::Root, &next), Err(HierarchyError::NotRetired(_))));
}

#[test]
fn a_new_authority_is_tried_out_with_the_bundle_as_it_will_be() {
    let world = World::of("a.test");
    let before = &world.hierarchy;
    preflight(None, before, now()).unwrap();

    let prepared = before.prepare_root(&plan(DAY * 365), now()).unwrap();
    preflight(Some(before), &prepared, now()).unwrap();
    let next = prepared.roots().prepared.as_ref().unwrap().id().clone();
    let active = prepared.activate_root(&next, &plan(DAY * 7), now() + HOUR, now()).unwrap();
    preflight(Some(&prepared), &active, now()).unwrap();

    let short = before.prepare_issuing(&plan(MINUTE), now()).unwrap();
    let id = short.issuing().prepared.as_ref().unwrap().id().clone();
    let error = preflight(Some(before), &short, now() + HOUR).unwrap_err();
    assert_eq!(error.to_string(), format!("the new authority {id} cannot sign a leaf"));
}

#[test]
fn moves_out_of_order_are_refused() {
    let world = World::of("a.test");
    let active = world.active().id().clone();
    let prepared = world.hierarchy.prepare_issuing(&plan(DAY), now()).unwrap();
    let id = prepared.issuing().prepared.as_ref().unwrap().id().clone();

    let twice = prepared.prepare_issuing(&plan(DAY), now()).unwrap_err();
    assert!(matches!(twice, HierarchyError::AlreadyPrepared(_)));
    let unprepared = world.hierarchy.activate_issuing(&id, now(), now()).unwrap_err();
    assert!(matches!(unprepared, HierarchyError::NotPrepared(_)));
    let running = prepared.drop_retired(Level::Issuing, &active, now()).unwrap_err();
    assert!(matches!(running, HierarchyError::NotRetired(_)));
    let expired = prepared.activate_issuing(&id, now(), now() + DAY * 2).unwrap_err();
    assert!(matches!(expired, HierarchyError::NotValid { .. }));
    let discarded = prepared.discard(Level::Issuing, &id).unwrap();
    assert!(discarded.issuing().prepared.is_none());
}

#[test]
fn an_authority_of_another_ca_does_not_fit_in() {
    let world = World::of("a.test");
    let other = World::of("a.test");

    let foreign =
        Authority::make_issuing(&other.hierarchy.roots().active, &domain("a.test"), &plan(DAY), now())
            .unwrap();
    assert!(matches!(world.hierarchy.prepare(foreign), Err(HierarchyError::Unrooted(_))));

    let swapped = Hierarchy::assemble(
        domain("a.test"),
        world.hierarchy.issuing().clone(),
        world.hierarchy.roots().clone(),
        1,
    );
    assert!(matches!(swapped, Err(HierarchyError::WrongLevel { .. })));
}

// Whom to believe.

#[test]
fn a_well_formed_leaf_is_believed() {
    World::of("a.test").verify_spoiled(|_| ()).unwrap();
}

#[test]
fn a_leaf_without_extended_key_usage_is_believed() {
    World::of("a.test").verify_spoiled(|leaf| leaf.extended_key_usages.clear()).unwrap();
}

#[test]
fn a_chain_has_a_budget_before_anything_is_parsed() {
    let world = World::of("a.test");
    let junk = |length: usize| CertificateDer::from(vec![0; length]);

    assert!(matches!(world.verify(&[], now()), Err(VerifyError::NoCertificate)));
    let five = vec![junk(1); 5];
    assert!(matches!(world.verify(&five, now()), Err(VerifyError::TooLong(5))));
    let large = [junk(MAX_BYTES), junk(1)];
    assert!(matches!(world.verify(&large, now()), Err(VerifyError::TooLarge(16_385))));
    let just = [junk(MAX_BYTES)];
    assert!(matches!(
        world.verify(&just, now()),
        Err(VerifyError::InvalidSubject(InvalidSubject::Structure(_)))
    ));
}

#[test]
fn a_leaf_that_is_no_svid_is_refused() {
    let world = World::of("a.test");
    let subject = |outcome: Result<(), VerifyError>| match outcome {
        Err(VerifyError::InvalidSubject(reason)) => reason,
        other => panic!("{other:?}"),
    };

    let authority = |leaf: &mut CertificateParams| leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    assert_eq!(subject(world.verify_spoiled(authority)), InvalidSubject::IsAuthority);
    for usage in [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign] {
        let outcome = world.verify_spoiled(|leaf| leaf.key_usages.push(usage));
        assert_eq!(subject(outcome), InvalidSubject::KeyUsageOfAuthority);
    }
    let outcome = world.verify_spoiled(|leaf| leaf.key_usages.clear());
    assert_eq!(subject(outcome), InvalidSubject::NoDigitalSignature);
    let outcome = world.verify_spoiled(|leaf| leaf.key_usages = vec![KeyUsagePurpose::KeyAgreement]);
    assert_eq!(subject(outcome), InvalidSubject::NoDigitalSignature);
    let outcome = world.verify_spoiled(|leaf| leaf.subject_alt_names.clear());
    assert_eq!(subject(outcome), InvalidSubject::NoUri);
    let outcome = world.verify_spoiled(|leaf| leaf.subject_alt_names.push(uri("spiffe://a.test/other")));
    assert_eq!(subject(outcome), InvalidSubject::SeveralUris(2));
    for text in ["https://a.test/orders", "spiffe://a.test", "spiffe://a.test/", "spiffe://A.test/orders"] {
        let outcome = world.verify_spoiled(|leaf| leaf.subject_alt_names = vec![uri(text)]);
        assert!(matches!(subject(outcome), InvalidSubject::SpiffeId(_)), "{text}");
    }
    let outcome = world.verify_spoiled(|leaf| leaf.subject_alt_names = vec![uri("spiffe://a.test//x")]);
    assert_eq!(subject(outcome), InvalidSubject::SpiffeId(InvalidSpiffeId::EmptySegment));
}

#[test]
fn an_authority_never_authenticates() {
    let world = World::of("a.test");

    let outcome = world.verify(&[world.active().certificate().clone()], now());

    assert!(matches!(outcome, Err(VerifyError::InvalidSubject(InvalidSubject::IsAuthority))), "{outcome:?}");
}

#[test]
fn a_trust_domain_without_a_bundle_is_unknown() {
    let world = World::of("a.test");

    let outcome = world.verify_spoiled(|leaf| leaf.subject_alt_names = vec![uri("spiffe://b.test/orders")]);

    assert!(matches!(outcome, Err(VerifyError::UnknownTrustDomain(name)) if name == domain("b.test")));
}

#[test]
fn a_trusted_domain_cannot_speak_for_another() {
    let (a, b) = (World::of("a.test"), World::of("b.test"));
    let both = believing([a.hierarchy.bundle(), b.hierarchy.bundle()]);
    let impostor = a.leaf(|leaf| leaf.subject_alt_names = vec![uri("spiffe://b.test/orders")]);

    let outcome = both.verify(&impostor, Usage::Client, now());

    assert!(matches!(outcome, Err(VerifyError::UnknownIssuer(name)) if name == domain("b.test")));
    both.verify(&a.leaf(|_| ()), Usage::Client, now()).unwrap();
}

#[test]
fn another_ca_of_the_same_name_is_not_believed() {
    let (world, other) = (World::of("a.test"), World::of("a.test"));

    let outcome = world.verify(&other.leaf(|_| ()), now());

    assert!(matches!(outcome, Err(VerifyError::UnknownIssuer(_))), "{outcome:?}");
}

#[test]
fn an_empty_bundle_believes_nobody() {
    let world = World::of("a.test");
    let empty = TrustBundle { domain: domain("a.test"), sequence: 2, roots: Vec::new() };

    let outcome = believing([empty]).verify(&world.leaf(|_| ()), Usage::Client, now());

    assert!(matches!(outcome, Err(VerifyError::UnknownIssuer(_))), "{outcome:?}");
}

#[test]
fn a_chain_without_its_issuing_authority_leads_nowhere() {
    let world = World::of("a.test");

    let outcome = world.verify(&world.leaf(|_| ())[..1], now());

    assert!(matches!(outcome, Err(VerifyError::UnknownIssuer(_))), "{outcome:?}");
}

#[test]
fn a_leaf_is_valid_from_its_first_to_its_last_second_and_no_longer() {
    let world = World::of("a.test");
    let chain = world.leaf(|_| ());
    let (first, last) = (now() - MINUTE, now() + HOUR);

    world.verify(&chain, first).unwrap();
    world.verify(&chain, last).unwrap();
    let early = world.verify(&chain, first - Duration::from_secs(1));
    assert!(
        matches!(early, Err(VerifyError::NotYetValid { not_before }) if not_before == first),
        "{early:?}"
    );
    for late in [Duration::from_millis(1), Duration::from_secs(1)] {
        let outcome = world.verify(&chain, last + late);
        assert!(
            matches!(outcome, Err(VerifyError::Expired { not_after }) if not_after == last),
            "{outcome:?}"
        );
    }
}

#[test]
fn an_expired_issuing_authority_takes_its_leaves_with_it() {
    let world = World::of("a.test");
    let chain = world.leaf(|leaf| leaf.not_after = (now() + DAY * 30).to_offset_date_time());

    let outcome = world.verify(&chain, now() + DAY * 8);

    assert!(matches!(outcome, Err(VerifyError::Expired { .. })), "{outcome:?}");
}

#[test]
fn an_unset_clock_believes_nobody() {
    let world = World::of("a.test");

    for unset in [Timestamp::from_unix(0), Timestamp::from_unix(-1), Timestamp::FLOOR - MINUTE] {
        let outcome = world.verify(&world.leaf(|_| ()), unset);
        assert!(matches!(outcome, Err(VerifyError::ClockNotSet(_))), "{outcome:?}");
    }
}

#[test]
fn a_leaf_serves_only_the_end_that_its_usage_names() {
    let world = World::of("a.test");
    let only = |usage| world.leaf(|leaf| leaf.extended_key_usages = vec![usage]);
    let (client, server) =
        (only(ExtendedKeyUsagePurpose::ClientAuth), only(ExtendedKeyUsagePurpose::ServerAuth));

    world.verifier.verify(&client, Usage::Client, now()).unwrap();
    world.verifier.verify(&server, Usage::Server, now()).unwrap();
    for (chain, usage) in [(client, Usage::Server), (server, Usage::Client)] {
        let outcome = world.verifier.verify(&chain, usage, now());
        assert!(matches!(outcome, Err(VerifyError::WrongUsage)), "{outcome:?}");
    }
}

#[test]
fn a_single_wrong_bit_in_the_signature_is_noticed() {
    let world = World::of("a.test");
    let mut chain = world.leaf(|_| ());
    let mut leaf = chain[0].to_vec();
    *leaf.last_mut().unwrap() ^= 1;
    chain[0] = leaf.into();

    let outcome = world.verify(&chain, now());

    assert!(matches!(outcome, Err(VerifyError::BadSignature)), "{outcome:?}");
}

#[test]
fn an_intermediate_must_be_allowed_to_sign_certificates() {
    let world = World::of("a.test");
    let root = &world.hierarchy.roots().active;
    let chain_through = |spoil: &dyn Fn(&mut CertificateParams)| {
        let mut params = CertificateParams::default();
        params.not_before = (now() - HOUR).to_offset_date_time();
        params.not_after = (now() + DAY).to_offset_date_time();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        spoil(&mut params);
        let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let middle: CertificateDer<'static> = params.signed_by(&key, root.issuer().unwrap()).unwrap().into();
        let issuer = rcgen::Issuer::new(params, key);
        let mut leaf = CertificateParams::default();
        leaf.not_before = (now() - MINUTE).to_offset_date_time();
        leaf.not_after = (now() + HOUR).to_offset_date_time();
        leaf.subject_alt_names = vec![uri("spiffe://a.test/orders")];
        leaf.distinguished_name = DistinguishedName::new();
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
        vec![leaf.signed_by(&key, &issuer).unwrap().into(), middle]
    };

    world.verify(&chain_through(&|_| ()), now()).unwrap();
    for usages in [vec![], vec![KeyUsagePurpose::DigitalSignature]] {
        let outcome = world.verify(&chain_through(&|middle| middle.key_usages = usages.clone()), now());
        assert!(
            matches!(outcome, Err(VerifyError::BadIntermediate(InvalidSigner::MayNotSign))),
            "{outcome:?}"
        );
    }
    let outcome = world.verify(&chain_through(&|middle| middle.is_ca = IsCa::ExplicitNoCa), now());
    assert!(matches!(outcome, Err(VerifyError::Chain(_))), "{outcome:?}");
}

#[test]
fn an_issuing_authority_cannot_make_another() {
    let world = World::of("a.test");
    let below = Authority::make_issuing(world.active(), &domain("a.test"), &plan(DAY), now()).unwrap();
    let svid = issue(&below, &profile("spiffe://a.test/orders"), now()).unwrap();
    let chain = [svid.chain, vec![world.active().certificate().clone()]].concat();

    let outcome = world.verify(&chain, now());

    assert!(
        matches!(outcome, Err(VerifyError::Chain(webpki::Error::PathLenConstraintViolated))),
        "{outcome:?}"
    );
}

#[test]
fn a_root_that_is_no_certificate_is_named() {
    let broken = TrustBundle { domain: domain("a.test"), sequence: 1, roots: vec![vec![0].into()] };

    let error = Verifier::new(Arc::new([broken].into_iter().collect()), Arc::default()).unwrap_err();

    assert!(error.to_string().starts_with("root number 1 of the bundle of a.test cannot be used"), "{error}");
}

fn revoking(world: &World, revoked: Revoked) -> Verifier {
    let because = Revocation { at: now(), reason: "a test".to_owned() };
    let revocations = Revocations::default().with(revoked, because);
    Verifier::new(Arc::new(BundleSet::from_iter([world.hierarchy.bundle()])), Arc::new(revocations)).unwrap()
}

#[test]
fn a_leaf_is_revoked_by_its_serial_number_its_key_or_its_holder() {
    let world = World::of("a.test");
    let (chain, other) = (world.leaf(|_| ()), world.leaf(|_| ()));
    let subject = world.verifier.verify(&chain, Usage::Client, now()).unwrap().subject;

    for revoked in [
        Revoked::Serial(subject.serial.clone()),
        Revoked::Spki(subject.spki_sha256),
        Revoked::SpiffeId(subject.spiffe_id),
    ] {
        let verifier = revoking(&world, revoked.clone());
        let spares_others = !matches!(revoked, Revoked::SpiffeId(_));

        let outcome = verifier.verify(&chain, Usage::Client, now());

        assert!(matches!(outcome, Err(VerifyError::Revoked(found)) if found == revoked));
        assert_eq!(verifier.verify(&other, Usage::Client, now()).is_ok(), spares_others);
    }
}

#[test]
fn an_authority_is_revoked_with_all_that_it_signed() {
    let world = World::of("a.test");
    let certificate = world.active().certificate().clone();
    let parsed = parse(&certificate);
    let digits: String = parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect();
    let revoked: Revoked = format!("serial:{digits}").parse().unwrap();

    let outcome = revoking(&world, revoked).verify(&world.leaf(|_| ()), Usage::Client, now());

    assert!(matches!(outcome, Err(VerifyError::Revoked(Revoked::Serial(_)))));
}

/// A leaf, and the same issuing authority (one name, one key) under two certificates; `spoil` makes the first of them.
fn chain_with_a_choice(
    world: &World,
    spoil: impl Fn(&mut CertificateParams),
) -> Vec<CertificateDer<'static>> {
    let middle_key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let mut params = CertificateParams::default();
    params.not_before = (now() - HOUR).to_offset_date_time();
    params.not_after = (now() + DAY).to_offset_date_time();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.serial_number = Some(2_u64.into());
    let root = world.hierarchy.roots().active.issuer().unwrap();
    let good = params.signed_by(&middle_key, root).unwrap();
    let mut spoiled = params.clone();
    spoiled.serial_number = Some(1_u64.into());
    spoil(&mut spoiled);
    let spoiled = spoiled.signed_by(&middle_key, root).unwrap();
    let mut of_leaf = CertificateParams::default();
    of_leaf.not_before = (now() - MINUTE).to_offset_date_time();
    of_leaf.not_after = (now() + HOUR).to_offset_date_time();
    of_leaf.subject_alt_names = vec![uri("spiffe://a.test/orders")];
    of_leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let leaf = of_leaf.signed_by(&key, &rcgen::Issuer::new(params, middle_key)).unwrap();
    vec![leaf.into(), spoiled.into(), good.into()]
}

#[test]
fn a_path_over_a_revoked_authority_does_not_hide_one_that_holds() {
    let world = World::of("a.test");
    let chain = chain_with_a_choice(&world, |_| ());
    let verifier = revoking(&world, "serial:01".parse().unwrap());

    let verified = verifier.verify(&chain, Usage::Client, now()).unwrap();
    verifier.confirm(&verified, now()).unwrap();
    let outcome = verifier.verify(&chain[..2], Usage::Client, now());

    assert!(matches!(outcome, Err(VerifyError::Revoked(Revoked::Serial(_)))), "{outcome:?}");
}

#[test]
fn a_path_over_an_authority_that_may_not_sign_does_not_hide_one_that_holds() {
    let world = World::of("a.test");
    let chain = chain_with_a_choice(&world, |first| first.key_usages = vec![KeyUsagePurpose::CrlSign]);

    world.verify(&chain, now()).unwrap();
    let outcome = world.verify(&chain[..2], now());
    let with_the_other_revoked =
        revoking(&world, "serial:02".parse().unwrap()).verify(&chain, Usage::Client, now());

    assert!(matches!(outcome, Err(VerifyError::BadIntermediate(InvalidSigner::MayNotSign))), "{outcome:?}");
    assert!(matches!(with_the_other_revoked, Err(VerifyError::Revoked(_))), "the most telling reason");
}

#[test]
fn what_was_believed_once_is_confirmed_only_as_long_as_it_would_be_believed_again() {
    let (world, other) = (World::of("a.test"), World::of("b.test"));
    let verified = world.verifier.verify(&world.leaf(|_| ()), Usage::Client, now()).unwrap();
    let rekeyed = World::of("a.test");

    assert!(world.verifier.confirm(&verified, now()).is_ok());
    assert!(world.verifier.confirm(&verified, verified.not_after()).is_ok());
    assert!(matches!(
        world.verifier.confirm(&verified, verified.not_after() + Duration::from_secs(1)),
        Err(VerifyError::Expired { .. })
    ));
    assert!(matches!(other.verifier.confirm(&verified, now()), Err(VerifyError::UnknownTrustDomain(_))));
    assert!(matches!(rekeyed.verifier.confirm(&verified, now()), Err(VerifyError::UnknownIssuer(_))));
    let by_id = Revoked::SpiffeId(verified.subject.spiffe_id.clone());
    assert!(matches!(revoking(&world, by_id).confirm(&verified, now()), Err(VerifyError::Revoked(_))));
}
