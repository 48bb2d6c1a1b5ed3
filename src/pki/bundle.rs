//! Whom to believe: the roots of each trust domain, never mixed.

use std::collections::BTreeMap;

use rustls::pki_types::CertificateDer;

use crate::identity::TrustDomain;

/// What one trust domain's authorities look like from outside.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TrustBundle {
    /// Whose roots these are.
    pub domain: TrustDomain,
    /// Grows with each change of the roots.
    pub sequence: u64,
    /// The roots. None at all means that no certificate of the domain is valid.
    pub roots: Vec<CertificateDer<'static>>,
}

/// The bundles of all trust domains that are believed, each by itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct BundleSet(BTreeMap<TrustDomain, TrustBundle>);

impl BundleSet {
    /// The bundle of one trust domain.
    #[must_use]
    pub fn get(&self, domain: &TrustDomain) -> Option<&TrustBundle> {
        self.0.get(domain)
    }

    /// All bundles, by trust domain.
    pub fn iter(&self) -> impl Iterator<Item = &TrustBundle> {
        self.0.values()
    }

    /// The same set with `bundle` in the place of its domain's former one.
    #[must_use]
    pub fn with(mut self, bundle: TrustBundle) -> Self {
        self.0.insert(bundle.domain.clone(), bundle);
        self
    }
}

impl FromIterator<TrustBundle> for BundleSet {
    fn from_iter<I: IntoIterator<Item = TrustBundle>>(bundles: I) -> Self {
        bundles.into_iter().fold(Self::default(), Self::with)
    }
}
