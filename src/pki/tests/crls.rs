//! Revocation lists of others: which are read, whose word they are, and what follows for a chain.

use rcgen::{
    CertificateRevocationListParams, CrlDistributionPoint, CrlIssuingDistributionPoint, KeyIdMethod,
    RevocationReason, RevokedCertParams, SerialNumber,
};

use super::*;
use crate::identity::Subject;

/// A trust domain with a leaf, as it is seen from outside.
struct Abroad {
    world: World,
    chain: Vec<CertificateDer<'static>>,
}

impl Abroad {
    fn new() -> Self {
        let world = World::of("a.test");
        let chain = world.leaf(|_| ());
        Self { world, chain }
    }

    fn root(&self) -> &Authority {
        &self.world.hierarchy.roots().active
    }

    fn issuing(&self) -> &Authority {
        self.world.active()
    }

    fn verify(
        &self,
        lists: Vec<ForeignCrl>,
        stale: StaleCrls,
        now: Timestamp,
    ) -> Result<Verified, VerifyError> {
        let lists = succeed(&[], lists, now).unwrap();
        let set = CrlSet::default().with(&domain("a.test"), lists, stale);
        let verifier = believing([self.world.hierarchy.bundle()]).heeding(Arc::new(set));
        verifier.verify(&self.chain, Usage::Client, now)
    }

    fn heed(&self, lists: Vec<ForeignCrl>) -> Result<Verified, VerifyError> {
        self.verify(lists, StaleCrls::Refuse, now())
    }

    fn serial(&self) -> String {
        Subject::from_der(&self.chain[0]).unwrap().serial
    }
}

fn params(serials: &[String]) -> CertificateRevocationListParams {
    let revoked = serials.iter().map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from(data_encoding::HEXLOWER.decode(serial.as_bytes()).unwrap()),
        revocation_time: now().to_offset_date_time(),
        reason_code: Some(RevocationReason::KeyCompromise),
        invalidity_date: None,
    });
    CertificateRevocationListParams {
        this_update: (now() - MINUTE).to_offset_date_time(),
        next_update: (now() + HOUR).to_offset_date_time(),
        crl_number: SerialNumber::from(7_u64),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    }
}

/// The list of `authority` in DER, after `change` got hold of what it says.
fn der(
    authority: &Authority,
    serials: &[String],
    change: impl FnOnce(&mut CertificateRevocationListParams),
) -> Vec<u8> {
    let mut params = params(serials);
    params.key_identifier_method = KeyIdMethod::PreSpecified(authority.marks().key_id.clone().unwrap());
    change(&mut params);
    params.signed_by(authority.issuer().unwrap()).unwrap().der().to_vec()
}

fn list(authority: &Authority, serials: &[String]) -> ForeignCrl {
    ForeignCrl::parse(&der(authority, serials, |_| ())).unwrap()
}

/// `bytes` with the one place where `from` stands holding `to`.
fn patched(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let place = bytes.windows(from.len()).position(|window| window == from).unwrap();
    bytes[place..place + to.len()].copy_from_slice(to);
    bytes
}

const NUMBER: &[u8] = &[0x55, 0x1d, 20];
const REASON: &[u8] = &[0x55, 0x1d, 21];
const DISTRIBUTION_POINT: &[u8] = &[0x55, 0x1d, 28];

#[test]
fn a_chain_of_which_current_lists_say_nothing_bad_is_believed() {
    let abroad = Abroad::new();
    let lists = || vec![list(abroad.root(), &[]), list(abroad.issuing(), &["0abc".to_owned()])];

    let verified = abroad.heed(lists()).unwrap();

    let set =
        CrlSet::default().with(&domain("a.test"), succeed(&[], lists(), now()).unwrap(), StaleCrls::Refuse);
    let verifier = believing([abroad.world.hierarchy.bundle()]).heeding(Arc::new(set));
    verifier.confirm(&verified, now()).unwrap();
    let late = verifier.confirm(&verified, now() + HOUR + MINUTE / 2);
    assert!(late.is_err(), "{late:?}");
}

#[test]
fn a_leaf_and_an_authority_are_refused_by_the_list_of_their_issuer_and_by_no_other() {
    let abroad = Abroad::new();
    let (leaf, authority) = (abroad.serial(), abroad.issuing().marks().serial.clone());

    for (root, issuing, is_refused) in [
        (vec![], vec![leaf.clone()], true),
        (vec![authority.clone()], vec![], true),
        (vec![leaf.clone()], vec![authority.clone()], false),
    ] {
        let outcome = abroad.heed(vec![list(abroad.root(), &root), list(abroad.issuing(), &issuing)]);
        match outcome {
            Ok(_) => assert!(!is_refused),
            Err(VerifyError::Revoked(Revoked::Serial(serial))) => {
                assert!(is_refused && [&leaf, &authority].contains(&&serial));
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_list_that_does_not_speak_for_now_is_refused_or_accepted_as_was_said() {
    let abroad = Abroad::new();
    let lists = |serials: &[String]| vec![list(abroad.root(), &[]), list(abroad.issuing(), serials)];
    let (early, late) = (now() - MINUTE * 2, now() + HOUR + Duration::from_secs(1));
    let valid = |outcome: &Result<Verified, VerifyError>| {
        !matches!(outcome, Err(VerifyError::Expired { .. } | VerifyError::NotYetValid { .. }))
    };
    let chain = abroad.world.leaf(|leaf| {
        leaf.not_before = (now() - MINUTE * 4).to_offset_date_time();
        leaf.not_after = (now() + HOUR * 2).to_offset_date_time();
    });
    let abroad = &Abroad {
        chain,
        world: World { hierarchy: abroad.world.hierarchy.clone(), verifier: believing([]) },
    };

    for at in [early, late] {
        let refused = abroad.verify(lists(&[]), StaleCrls::Refuse, at);
        assert!(valid(&refused) && matches!(refused, Err(VerifyError::StaleCrl { .. })), "{refused:?}");
        abroad.verify(lists(&[]), StaleCrls::Accept, at).unwrap();
        let revoked = abroad.verify(lists(&[abroad.serial()]), StaleCrls::Accept, at);
        assert!(matches!(revoked, Err(VerifyError::Revoked(_))), "an old list still says so: {revoked:?}");
    }
}

#[test]
fn an_authority_without_a_list_is_refused_unless_it_is_younger_than_the_lists() {
    let abroad = Abroad::new();
    abroad.heed(vec![list(abroad.root(), &[]), list(abroad.issuing(), &[])]).unwrap();

    let no_root = abroad.heed(vec![list(abroad.issuing(), &[])]);
    assert!(matches!(&no_root, Err(VerifyError::NoCrl { issuer }) if issuer.contains("root")), "{no_root:?}");
    abroad.heed(vec![list(abroad.root(), &[])]).unwrap();

    let drawn = now() + HOUR * 2;
    let later = der(abroad.root(), &[], |list| {
        list.this_update = drawn.to_offset_date_time();
        list.next_update = (drawn + HOUR).to_offset_date_time();
    });
    let chain = abroad.world.leaf(|leaf| leaf.not_after = (now() + HOUR * 4).to_offset_date_time());
    let older = Abroad { chain, world: abroad.world };
    let lists = || vec![ForeignCrl::parse(&later).unwrap()];
    let refused = older.verify(lists(), StaleCrls::Refuse, drawn + MINUTE);
    assert!(
        matches!(&refused, Err(VerifyError::NoCrl { issuer }) if issuer.contains("issuing")),
        "its list would have been there: {refused:?}"
    );
    older.verify(lists(), StaleCrls::Accept, drawn + MINUTE).unwrap();
}

#[test]
fn a_list_with_a_wrong_signature_is_nobodys_word() {
    let abroad = Abroad::new();
    let spoiled = |authority: &Authority| {
        let mut bytes = der(authority, &[], |_| ());
        *bytes.last_mut().unwrap() ^= 1;
        ForeignCrl::parse(&bytes).unwrap()
    };

    let forged = abroad.heed(vec![list(abroad.root(), &[]), spoiled(abroad.issuing())]);
    assert!(matches!(forged, Err(VerifyError::ForgedCrl { .. })), "{forged:?}");
    let roots = abroad.world.hierarchy.bundle().roots;
    check_roots(&[Arc::new(list(abroad.root(), &[]))], &roots).unwrap();
    let forged = check_roots(&[Arc::new(spoiled(abroad.root()))], &roots);
    assert!(matches!(forged, Err(InvalidCrl::Unsigned { .. })), "{forged:?}");

    let namesake = der(abroad.issuing(), &[abroad.serial()], |list| {
        list.key_identifier_method = KeyIdMethod::PreSpecified(vec![7; 20]);
    });
    let lists =
        vec![list(abroad.root(), &[]), list(abroad.issuing(), &[]), ForeignCrl::parse(&namesake).unwrap()];
    abroad.heed(lists).unwrap();
}

#[test]
fn what_does_not_say_everything_or_more_than_is_understood_is_refused_by_its_name() {
    let abroad = Abroad::new();
    let whole =
        |change: fn(&mut CertificateRevocationListParams)| der(abroad.root(), &[abroad.serial()], change);
    let point = |list: &mut CertificateRevocationListParams| {
        let distribution_point = CrlDistributionPoint { uris: vec!["http://a.test/crl".to_owned()] };
        list.issuing_distribution_point =
            Some(CrlIssuingDistributionPoint { distribution_point, scope: None });
    };
    ForeignCrl::parse(&whole(|_| ())).unwrap();

    for (bytes, expected) in [
        (whole(point), "covers only a part"),
        (patched(whole(point), DISTRIBUTION_POINT, &[0x55, 0x1d, 99]), "a critical extension"),
        (patched(whole(|_| ()), NUMBER, &[0x55, 0x1d, 27]), "a delta list"),
        (patched(whole(|_| ()), REASON, &[0x55, 0x1d, 29]), "an indirect list"),
        (whole(|_| ())[..100].to_vec(), "no revocation list"),
        ([whole(|_| ()), vec![0]].concat(), "no revocation list"),
        (abroad.chain[0].to_vec(), "no revocation list"),
        (Vec::new(), "no revocation list"),
    ] {
        let refused = ForeignCrl::parse(&bytes).unwrap_err().to_string();
        assert!(refused.contains(expected), "{expected}: {refused}");
    }
}

#[test]
fn an_entry_that_cannot_be_read_spoils_the_list_instead_of_being_passed_over() {
    let abroad = Abroad::new();
    let bytes = der(abroad.root(), &[abroad.serial()], |_| ());
    let date =
        bytes.windows(4).enumerate().filter(|(_, window)| window.starts_with(&[0x17, 13])).nth(2).unwrap().0;
    let mut spoiled = bytes.clone();
    spoiled[date + 3] = b'x';

    ForeignCrl::parse(&bytes).unwrap();
    assert!(matches!(ForeignCrl::parse(&spoiled), Err(InvalidCrl::Malformed(_))));
}

#[test]
fn lists_do_not_grow_younger_and_do_not_vanish_before_their_time() {
    let abroad = Abroad::new();
    let numbered = |number: u64| {
        let bytes = der(abroad.root(), &[], |list| list.crl_number = SerialNumber::from(number));
        ForeignCrl::parse(&bytes).unwrap()
    };
    let first = succeed(&[], vec![numbered(255), list(abroad.issuing(), &[])], now()).unwrap();

    let older = succeed(&first, vec![numbered(254)], now());
    assert!(matches!(older, Err(InvalidCrl::Backwards { .. })), "{older:?}");
    let next = succeed(&first, vec![numbered(256)], now()).unwrap();
    assert_eq!(next.iter().map(|list| list.number()).collect::<Vec<_>>(), [Some(256), Some(7)]);
    let same = succeed(&next, vec![numbered(256)], now()).unwrap();
    assert_eq!(same.len(), 2);
    let late = succeed(&next, vec![numbered(256)], now() + HOUR * 2).unwrap();
    assert_eq!(late.len(), 1, "what is gone from the file speaks until its time has passed");
    let both = succeed(&[], vec![numbered(2), numbered(3), numbered(1)], now()).unwrap();
    assert_eq!(both.iter().map(|list| list.number()).collect::<Vec<_>>(), [Some(3)]);
}

#[test]
fn a_list_by_a_key_that_may_not_sign_lists_is_nobodys_word() {
    let abroad = Abroad::new();
    let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "no lists");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = (now() - HOUR).to_offset_date_time();
    params.not_after = (now() + DAY).to_offset_date_time();
    let certificate: CertificateDer<'static> =
        params.signed_by(&key, abroad.root().issuer().unwrap()).unwrap().into();
    params.key_usages.push(KeyUsagePurpose::CrlSign);
    let liar = rcgen::Issuer::new(params, key);
    let list_of = |serials: &[String]| {
        let bytes = self::params(serials).signed_by(&liar).unwrap();
        ForeignCrl::parse(bytes.der()).unwrap()
    };

    let roots = [certificate];
    let outcome = check_roots(&[Arc::new(list_of(&[]))], &roots);

    assert!(matches!(outcome, Err(InvalidCrl::Unsigned { .. })), "{outcome:?}");
}
