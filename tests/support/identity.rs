//! Certificates with their keys: those that an agent has delivered, and those that it would never issue.

use std::path::Path;
use std::time::Duration;

use postern::clock::{Clock as _, SystemClock};
use postern::identity::Subject;
use postern::pki::{Authority, AuthorityPlan, Hierarchy, KeyAlgorithm, LocalKeys, Profile, X509Svid, issue};
use postern::store::pem;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A chain and the key to its leaf.
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl Identity {
    /// What lies in the folder `current` of a delivery. The link is followed once, for it may be swapped meanwhile.
    pub(crate) fn delivered(folder: &Path) -> Self {
        let current = folder.join("current").canonicalize().unwrap();
        let read = |name: &str| std::fs::read(current.join(name)).unwrap();
        let chain = pem::certificates(&read("chain.pem")).unwrap();
        let key = pem::private_key(&read("key.pem")).unwrap();
        Self { chain, key: PrivatePkcs8KeyDer::from(key.expose_secret().to_vec()).into() }
    }

    /// A certificate that claims `spiffe_id` under a CA of its own.
    pub(crate) fn of_another_ca(spiffe_id: &str) -> Self {
        let day = Duration::from_secs(86_400);
        let plan = |ttl| AuthorityPlan {
            keys: &LocalKeys,
            algorithm: KeyAlgorithm::EcdsaP256,
            ttl,
            backdate: BACKDATE,
        };
        let id: postern::identity::SpiffeId = spiffe_id.parse().unwrap();
        let ca = Hierarchy::create(id.trust_domain(), &plan(day * 90), &plan(day * 9), SystemClock.now());
        let svid = issue(&ca.unwrap().issuing().active, &profile(spiffe_id, day), SystemClock.now());
        Self::from(&svid.unwrap())
    }

    /// A certificate of the agent's own CA that expired a minute ago; `authority` is the folder of its issuing authority.
    pub(crate) fn expired(spiffe_id: &str, authority: &Path) -> Self {
        let minute = Duration::from_secs(60);
        let issued = issue(&signer(authority), &profile(spiffe_id, minute), SystemClock.now() - minute * 2);
        Self::from(&issued.unwrap())
    }

    /// A certificate of the agent's own CA that is good for `ttl`.
    pub(crate) fn issued(spiffe_id: &str, ttl: Duration, authority: &Path) -> Self {
        Self::from(&issue(&signer(authority), &profile(spiffe_id, ttl), SystemClock.now()).unwrap())
    }

    /// The leaf as a file holds it, with its chain.
    pub(crate) fn chain_pem(&self) -> String {
        self.chain.iter().map(pem::certificate_to_pem).collect()
    }

    /// Whether the key belongs to the leaf.
    pub(crate) fn is_a_pair(&self) -> bool {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        rustls::sign::CertifiedKey::from_der(self.chain.clone(), self.key.clone_key(), &provider).is_ok()
    }

    /// What the leaf says.
    pub(crate) fn subject(&self) -> Subject {
        Subject::from_der(&self.chain[0]).unwrap()
    }
}

impl From<&X509Svid> for Identity {
    fn from(svid: &X509Svid) -> Self {
        let key = PrivatePkcs8KeyDer::from(svid.key.expose_secret().to_vec()).into();
        Self { chain: svid.chain.clone(), key }
    }
}

/// The authority that is kept in `folder`.
fn signer(folder: &Path) -> Authority {
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let certificate = pem::certificates(&read("certificate.pem")).unwrap().remove(0);
    let key = pem::private_key(&read("key.pem")).unwrap();
    Authority::load(certificate, &key, SystemClock.now()).unwrap()
}

const BACKDATE: Duration = Duration::from_secs(300);

fn profile(spiffe_id: &str, ttl: Duration) -> Profile {
    Profile {
        spiffe_id: spiffe_id.parse().unwrap(),
        dns: Vec::new(),
        ttl,
        backdate: Duration::from_secs(60),
        algorithm: KeyAlgorithm::EcdsaP256,
    }
}
