//! Requests and what comes back for them: good chains of every permitted shape, and each thing that can be wrong with one.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;

use super::*;
use crate::causes::Causes;
use crate::clock::Timestamp;
use crate::identity::TrustDomain;

const DAY: Duration = Duration::from_secs(86_400);

fn now() -> Timestamp {
    "2026-11-22T05:21:00Z".parse().unwrap()
}

fn domain() -> TrustDomain {
    "a.test".parse().unwrap()
}

fn plan(ttl: Duration) -> AuthorityPlan<'static> {
    AuthorityPlan { keys: &LocalKeys, algorithm: KeyAlgorithm::EcdsaP256, ttl, backdate: DEFAULT_BACKDATE }
}

fn key() -> KeyPair {
    KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap()
}

/// The same key once more.
fn again(key: &KeyPair) -> KeyPair {
    KeyPair::from_pkcs8(&key.to_pkcs8_der().unwrap()).unwrap()
}

/// A CA whose authorities are made without asking our own rules.
struct Foreign {
    params: CertificateParams,
    key: rcgen::KeyPair,
    certificate: CertificateDer<'static>,
}

fn params(name: &str, depth: BasicConstraints) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(depth);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now() - DAY).to_offset_date_time();
    params.not_after = (now() + DAY * 30).to_offset_date_time();
    params
}

impl Foreign {
    fn root(name: &str) -> Self {
        let (params, key) =
            (params(name, BasicConstraints::Unconstrained), rcgen::KeyPair::generate().unwrap());
        let certificate = params.self_signed(&key).unwrap().into();
        Self { params, key, certificate }
    }

    fn sign(&self, params: &CertificateParams, key: &impl rcgen::PublicKeyData) -> CertificateDer<'static> {
        params.signed_by(key, &Issuer::from_params(&self.params, &self.key)).unwrap().into()
    }

    fn below(&self, name: &str) -> Self {
        let (params, key) =
            (params(name, BasicConstraints::Unconstrained), rcgen::KeyPair::generate().unwrap());
        let certificate = self.sign(&params, &key);
        Self { params, key, certificate }
    }
}

fn issuing() -> CertificateParams {
    params("issuing", BasicConstraints::Constrained(0))
}

fn chain(certificates: &[&CertificateDer<'static>]) -> SignedChain {
    SignedChain { certificates: certificates.iter().map(|one| (*one).clone()).collect(), roots: Vec::new() }
}

fn judge(chain: &SignedChain, key: &KeyPair) -> Result<JudgedChain, ChainError> {
    chain.judge(again(key), &domain(), &[], now())
}

fn refusal(chain: &SignedChain, key: &KeyPair) -> String {
    Causes(&judge(chain, key).unwrap_err()).to_string()
}

#[test]
fn what_our_own_root_signs_for_a_request_can_be_installed() {
    for algorithm in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384, KeyAlgorithm::Ed25519] {
        let root = Authority::make_root(&domain(), &plan(DAY * 90), now()).unwrap();
        let key = KeyPair::generate(algorithm).unwrap();
        let request =
            SigningRequest::parse(&SigningRequest::make(&key, &domain()).unwrap(), &domain()).unwrap();

        let signed = request.sign(&root, &domain(), DAY, DEFAULT_BACKDATE, now()).unwrap();
        let again = request.sign(&root, &domain(), DAY, DEFAULT_BACKDATE, now()).unwrap();

        assert_ne!(signed.serial, again.serial);
        let judged = judge(&chain(&[&signed.certificate, root.certificate()]), &key).unwrap();
        assert_eq!(judged.root.id(), root.id());
        assert!(judged.root.key().is_none() && judged.issuing.key().is_some());
        assert_eq!(judged.issuing.life().not_after, now() + DAY);
        let (known, twin) =
            ([root.certificate().clone()], KeyPair::from_pkcs8(&key.to_pkcs8_der().unwrap()).unwrap());
        let judged = chain(&[&signed.certificate]).judge(twin, &domain(), &known, now());
        assert_eq!(judged.unwrap().root.id(), root.id(), "a root that is known need not come along");
    }
}

#[test]
fn nothing_but_the_public_key_is_taken_from_a_request() {
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    let root = Authority::make_root(&domain(), &plan(DAY * 90), now()).unwrap();
    let key = key();
    let mut wishes = params("king of the world", BasicConstraints::Unconstrained);
    wishes.subject_alt_names = vec![
        SanType::URI("spiffe://a.test".try_into().unwrap()),
        SanType::DnsName("bank.example".try_into().unwrap()),
    ];
    wishes.key_usages.push(KeyUsagePurpose::DigitalSignature);
    let der = wishes.serialize_request(&key).unwrap().der().to_vec();

    let request = SigningRequest::parse(&der, &domain()).unwrap();
    let signed = request.sign(&root, &domain(), DAY, DEFAULT_BACKDATE, now()).unwrap();

    let (_, parsed) = X509Certificate::from_der(&signed.certificate).unwrap();
    assert_eq!(parsed.public_key().raw, key.public_key_info());
    assert!(parsed.subject().to_string().starts_with("O=Postern, CN=issuing authority "));
    assert_eq!(parsed.basic_constraints().unwrap().unwrap().value.path_len_constraint, Some(0));
    assert_eq!(parsed.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
    let usage = parsed.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
    assert_eq!(parsed.raw_serial().len(), 17);
}

#[test]
fn a_request_that_proves_nothing_is_refused_for_its_reason() {
    let key = key();
    let good = SigningRequest::make(&key, &domain()).unwrap();
    assert!(SigningRequest::parse(&good, &domain()).is_ok());
    let refused = |der: &[u8]| SigningRequest::parse(der, &domain()).unwrap_err().to_string();

    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(refused(&forged), "the request is not signed with the key that it is for");
    let foreign = SigningRequest::make(&key, &"b.test".parse().unwrap()).unwrap();
    assert_eq!(refused(&foreign), "the request is for spiffe://b.test, this CA is that of a.test");
    let nameless = CertificateParams::default().serialize_request(&key).unwrap();
    assert!(
        refused(nameless.der()).ends_with("expected exactly one URI among its alternative names, found 0")
    );
    for garbage in [&b""[..], b"garbage", &good[..good.len() - 1]] {
        assert!(refused(garbage).starts_with("it is no PKCS#10 request"), "{}", refused(garbage));
    }
    assert_eq!(refused(&[&good[..], &[0]].concat()), "it is no PKCS#10 request: bytes after its end");
    let rsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let rsa = CertificateParams::default().serialize_request(&rsa).unwrap();
    assert_eq!(refused(rsa.der()), "the request's key is none on P-256 or P-384 or for Ed25519");
}

#[test]
fn nothing_is_signed_that_would_outlive_the_root_or_without_its_key() {
    let root = Authority::make_root(&domain(), &plan(DAY * 7), now()).unwrap();
    let request =
        SigningRequest::parse(&SigningRequest::make(&key(), &domain()).unwrap(), &domain()).unwrap();
    assert!(request.sign(&root, &domain(), DAY * 7, DEFAULT_BACKDATE, now()).is_ok());

    let error = request.sign(&root, &domain(), DAY * 8, DEFAULT_BACKDATE, now()).unwrap_err();
    assert!(
        error.to_string().starts_with("the root expires 2026-11-29T05:21:00Z, before the requested"),
        "{error}"
    );
    let elsewhere = Authority::elsewhere(root.certificate().clone(), now()).unwrap();
    let error = request.sign(&elsewhere, &domain(), DAY, DEFAULT_BACKDATE, now()).unwrap_err();
    assert!(error.to_string().contains("signs elsewhere"), "{error}");
}

#[test]
fn one_certificate_may_stand_between_the_authority_and_its_root_and_goes_out_with_every_leaf() {
    let (root, key) = (Foreign::root("root"), key());
    let middle = root.below("middle");
    let certificate = middle.sign(&issuing(), &key);

    let judged = judge(&chain(&[&certificate, &middle.certificate, &root.certificate]), &key).unwrap();

    let profile = Profile {
        spiffe_id: "spiffe://a.test/web".parse().unwrap(),
        dns: Vec::new(),
        ttl: Duration::from_secs(3600),
        backdate: Duration::ZERO,
        algorithm: KeyAlgorithm::EcdsaP256,
    };
    let svid = issue(&judged.issuing, &profile, now()).unwrap();
    assert_eq!(svid.chain[1..], [certificate, middle.certificate.clone()]);
    let bundle = TrustBundle { domain: domain(), sequence: 1, roots: vec![root.certificate.clone()] };
    let verifier = Verifier::new(BundleSet::from_iter([bundle]).into(), Default::default()).unwrap();
    assert!(verifier.verify(&svid.chain, Usage::Client, now()).is_ok());

    let low = middle.below("low");
    let certificate = low.sign(&issuing(), &key);
    let deep = chain(&[&certificate, &low.certificate, &middle.certificate, &root.certificate]);
    assert_eq!(
        refusal(&deep, &key),
        "the issuing certificate cannot be used: leaf, issuing authority, 2 in between and the root are 5 certificates, and a \
         verifier takes at most 4: have it signed closer to the root"
    );
}

#[test]
fn each_thing_that_is_wrong_with_a_chain_is_named() {
    let (root, key) = (Foreign::root("root"), key());
    let middle = root.below("middle");
    let good = root.sign(&issuing(), &key);
    assert!(judge(&chain(&[&good, &root.certificate]), &key).is_ok());
    let says = |params: &CertificateParams, expected: &str| {
        let certificate = root.sign(params, &key);
        let text = refusal(&chain(&[&certificate, &root.certificate]), &key);
        assert!(text.contains(expected), "{text}");
    };

    assert_eq!(refusal(&chain(&[]), &key), "the chain is empty");
    let other = root.sign(&issuing(), &rcgen::KeyPair::generate().unwrap());
    assert!(
        refusal(&chain(&[&other, &root.certificate]), &key)
            .starts_with("the first certificate is for another key")
    );
    assert!(refusal(&chain(&[&vec![1, 2, 3].into()]), &key).contains("the certificate cannot be read"));

    let mut leaf = issuing();
    leaf.is_ca = IsCa::ExplicitNoCa;
    says(&leaf, "it is not marked as one (basicConstraints CA)");
    let mut mute = issuing();
    mute.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    says(&mute, "its key usage does not allow signing certificates");
    says(&params("issuing", BasicConstraints::Unconstrained), "with pathLenConstraint 0, found none");
    says(&params("issuing", BasicConstraints::Constrained(1)), "with pathLenConstraint 0, found 1");
    let mut foreign = issuing();
    foreign.subject_alt_names = vec![SanType::URI("spiffe://b.test".try_into().unwrap())];
    says(
        &foreign,
        "the issuing certificate is that of spiffe://b.test, this host belongs to spiffe://a.test",
    );
    let mut expired = issuing();
    expired.not_after = (now() - DAY / 2).to_offset_date_time();
    says(
        &expired,
        "the issuing certificate is valid from 2026-11-21T05:21:00Z to 2026-11-21T17:21:00Z, and the clock says",
    );
    let mut early = issuing();
    early.not_before = (now() + DAY).to_offset_date_time();
    says(&early, "the issuing certificate is valid from 2026-11-23T05:21:00Z");
    let mut long = issuing();
    long.not_after = (now() + DAY * 31).to_offset_date_time();
    says(&long, "valid until 2026-12-23T05:21:00Z, but the root only until 2026-12-22T05:21:00Z");

    assert!(
        refusal(&chain(&[&good]), &key).contains("append the root to the chain, or give it with --bundle")
    );
    let stranger = Foreign::root("root");
    let text = refusal(&chain(&[&good, &stranger.certificate]), &key);
    assert!(text.starts_with("the chain is out of order at number 2"), "{text}");
    let below = middle.sign(&issuing(), &key);
    for wrong in [
        &[&root.certificate, &middle.certificate, &below][..],
        &[&middle.certificate, &below, &root.certificate],
        &[&below, &root.certificate, &middle.certificate],
        &[&below, &root.certificate],
    ] {
        let text = refusal(&chain(wrong), &key);
        assert!(text.starts_with("the chain is out of order at number "), "{text}");
    }
    assert!(judge(&chain(&[&below, &middle.certificate, &root.certificate]), &key).is_ok());
}

#[test]
fn a_root_is_one_only_if_it_signed_itself_and_is_of_the_trust_domain() {
    let root = Foreign::root("root");
    assert!(judge_root(root.certificate.clone(), &domain(), now()).is_ok());
    let refused = |certificate: CertificateDer<'static>| {
        Causes(&judge_root(certificate, &domain(), now()).unwrap_err()).to_string()
    };

    assert!(refused(root.below("middle").certificate).contains("it is no root: somebody else signed it"));
    let impostor = root.sign(&root.params, &rcgen::KeyPair::generate().unwrap());
    assert!(refused(impostor).contains("did not sign itself"));
    let other = Authority::make_root(&"b.test".parse().unwrap(), &plan(DAY), now()).unwrap();
    assert!(refused(other.certificate().clone()).contains("the root is that of spiffe://b.test"));
}

/// A hierarchy under a root that signs elsewhere, and what signs there.
fn subordinate(root: &Authority) -> Hierarchy {
    let (issuing, _) = signed(root);
    let kept = Authority::elsewhere(root.certificate().clone(), now()).unwrap();
    Hierarchy::assemble(domain(), Slots::of(kept.into()), Slots::of(issuing.into()), 1).unwrap()
}

fn signed(root: &Authority) -> (Authority, Authority) {
    let key = key();
    let request = SigningRequest::parse(&SigningRequest::make(&key, &domain()).unwrap(), &domain()).unwrap();
    let signed = request.sign(root, &domain(), DAY, DEFAULT_BACKDATE, now()).unwrap();
    let judged = judge(&chain(&[&signed.certificate, root.certificate()]), &key).unwrap();
    (judged.issuing, judged.root)
}

#[test]
fn a_hierarchy_whose_root_is_elsewhere_takes_what_was_signed_there_and_makes_nothing() {
    let root = Authority::make_root(&domain(), &plan(DAY * 90), now()).unwrap();
    let before = subordinate(&root);

    let error = before.prepare_issuing(&plan(DAY), now()).unwrap_err();
    assert!(error.to_string().contains("`postern ca csr` here"), "{error}");

    let (issuing, _) = signed(&root);
    let id = issuing.id().clone();
    let prepared = before.prepare(issuing).unwrap();
    preflight(Some(&before), &prepared, now()).unwrap();
    let active = prepared.activate_issuing(&id, now() + DAY, now()).unwrap();
    assert_eq!(active.issuing().active.id(), &id);
    assert_eq!(active.sequence(), before.sequence());
    let former = before.issuing().active.id();
    assert!(active.roll_back_issuing(former, now() + DAY, now()).is_ok());
}

#[test]
fn a_new_root_takes_over_together_with_what_was_signed_under_it_and_back() {
    let [old, new] = [(); 2].map(|()| Authority::make_root(&domain(), &plan(DAY * 90), now()).unwrap());
    let before = subordinate(&old);
    let (issuing, root) = signed(&new);
    let (issuing_id, root_id) = (issuing.id().clone(), root.id().clone());

    let known = before.prepare(root).unwrap();
    let error = known.activate_root(&root_id, &plan(DAY), now(), now()).unwrap_err();
    assert!(matches!(error, HierarchyError::NothingUnder(_)), "{error}");
    let prepared = known.prepare(issuing).unwrap();
    assert_eq!(prepared.sequence(), before.sequence() + 1);
    let error = prepared.activate_issuing(&issuing_id, now() + DAY, now()).unwrap_err();
    assert!(matches!(error, HierarchyError::UnderPreparedRoot { .. }), "{error}");

    let active = prepared.activate_root(&root_id, &plan(DAY), now() + DAY, now()).unwrap();
    assert_eq!(active.roots().active.id(), &root_id);
    assert_eq!(active.issuing().active.id(), &issuing_id);
    preflight(Some(&prepared), &active, now()).unwrap();
    let back = active.roll_back_root(old.id(), &plan(DAY), now() + DAY, now()).unwrap();
    assert_eq!(back.issuing().active.id(), before.issuing().active.id());
    assert_eq!(back.issuing().retired.len(), 1);

    let discarded = prepared.discard(Level::Root, &root_id).unwrap();
    assert!(discarded.issuing().prepared.is_none(), "what stood under it goes along");
    assert_eq!(discarded.bundle().roots, before.bundle().roots);
}
