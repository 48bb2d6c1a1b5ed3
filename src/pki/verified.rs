//! A chain that was believed once, with all that is needed to ask again whether it still is.

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;

use crate::clock::Timestamp;
use crate::identity::Subject;

/// A chain that was believed. The same question is asked again with `Verifier::confirm`, without any signature.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verified {
    /// What the leaf says of its holder.
    pub subject: Subject,
    /// The leaf itself; none of a chain that nobody has shown.
    pub(super) leaf: Option<CertificateDer<'static>>,
    /// The authorities between the leaf and the root.
    pub(super) intermediates: Vec<Link>,
    /// How many of them count for a path length.
    pub(super) depth: usize,
    /// By which the root is found again.
    pub(super) anchor: [u8; 32],
    /// From when on every certificate of the chain is valid.
    pub(super) not_before: Timestamp,
    /// Until when every certificate of the chain is valid, the root included.
    pub(super) not_after: Timestamp,
}

/// One authority of a chain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Link {
    pub(super) serial: String,
    pub(super) spki_sha256: [u8; 32],
    /// SHA-256 over its name and key.
    pub(super) authority: [u8; 32],
    pub(super) not_before: Timestamp,
    pub(super) certificate: CertificateDer<'static>,
}

impl Verified {
    /// A chain that nobody has shown and that no verifier will confirm: for questions of the kind "what if".
    #[must_use]
    pub const fn imagined(subject: Subject) -> Self {
        let (not_before, not_after) = (subject.not_before, subject.not_after);
        Self {
            subject,
            leaf: None,
            intermediates: Vec::new(),
            depth: 0,
            anchor: [0; 32],
            not_before,
            not_after,
        }
    }

    /// The leaf and the authorities above it, in this order, without the root; nothing of a chain that nobody has shown.
    pub fn chain(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.leaf.iter().chain(self.intermediates.iter().map(|link| &link.certificate))
    }

    /// Until when every certificate of the chain is valid.
    #[must_use]
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }
}

/// SHA-256 over a chain, by which a verdict is found again.
#[must_use]
pub fn chain_digest(chain: &[CertificateDer<'_>]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for certificate in chain {
        // Lengths keep one chain from being cut like another.
        context.update(&u64::try_from(certificate.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(certificate);
    }
    sized(context.finish().as_ref())
}

pub(super) fn sized(digest: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(digest).for_each(|(to, from)| *to = *from);
    bytes
}
