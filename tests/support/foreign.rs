//! Another organisation's CA: it names its authorities as it likes, also twice the same.

use std::time::Duration;

use data_encoding::HEXLOWER;
use postern::clock::{Clock as _, SystemClock};
use postern::store::pem;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::Identity;

/// One of its authorities: the root, or one that the root has signed.
pub(crate) struct ForeignCa {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    /// What stands between a leaf and the root.
    above: Vec<CertificateDer<'static>>,
    /// The serial number, in hexadecimal digits.
    pub(crate) serial: String,
}

impl ForeignCa {
    /// A root of that name with a fresh key.
    pub(crate) fn root(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let (params, serial) = authority(name, 1);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let issuer = Issuer::from_ca_cert_der(&certificate, key).unwrap();
        Self { issuer, certificate, above: Vec::new(), serial }
    }

    /// An authority of that name below this one.
    pub(crate) fn issuing(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let (params, serial) = authority(name, 0);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let issuer = Issuer::from_ca_cert_der(&certificate, key).unwrap();
        Self { issuer, certificate: certificate.clone(), above: vec![certificate], serial }
    }

    /// A leaf that is good for `ttl`.
    pub(crate) fn leaf(&self, spiffe_id: &str, ttl: Duration) -> Identity {
        let key = KeyPair::generate().unwrap();
        let (mut params, _) = parameters(ttl);
        let localhost = "localhost".try_into().unwrap();
        params.subject_alt_names =
            vec![SanType::URI(spiffe_id.try_into().unwrap()), SanType::DnsName(localhost)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let chain = std::iter::once(leaf).chain(self.above.iter().cloned()).collect();
        Identity { chain, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() }
    }

    /// The certificate.
    pub(crate) const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The certificate as a file holds it.
    pub(crate) fn pem(&self) -> String {
        pem::certificate_to_pem(&self.certificate)
    }

    /// A list of what it has revoked, as a file holds it.
    pub(crate) fn crl(&self, serials: &[String]) -> String {
        self.crl_for(serials, 1, Duration::from_secs(86_400))
    }

    /// A list with that number, which speaks for `life`.
    pub(crate) fn crl_for(&self, serials: &[String], number: u64, life: Duration) -> String {
        let now = SystemClock.now().to_offset_date_time();
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(HEXLOWER.decode(serial.as_bytes()).unwrap()),
            revocation_time: now,
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: now - time::Duration::minutes(1),
            next_update: now + life,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

fn authority(name: &str, depth: u8) -> (CertificateParams, String) {
    let (mut params, serial) = parameters(Duration::from_secs(86_400));
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(depth));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params, serial)
}

fn parameters(ttl: Duration) -> (CertificateParams, String) {
    let mut serial = [1; 16];
    aws_lc_rs::rand::fill(&mut serial[1..]).unwrap();
    let now = SystemClock.now();
    let mut params = CertificateParams::default();
    params.not_before = (now - Duration::from_secs(60)).to_offset_date_time();
    params.not_after = (now + ttl).to_offset_date_time();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params.use_authority_key_identifier_extension = true;
    (params, HEXLOWER.encode(&serial))
}
