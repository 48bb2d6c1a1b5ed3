//! An identity as its holder has it: a certificate chain and the key to it.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use crate::clock::Timestamp;
use crate::id::AuthorityId;
use crate::identity::SpiffeId;
use crate::pki::rotation::Life;
use crate::secret::Secret;

/// An X509-SVID with its private key.
#[derive(Clone, Debug)]
pub struct X509Svid {
    /// Who the holder is.
    pub spiffe_id: SpiffeId,
    /// The leaf first, then the issuing authority and whatever stands between it and the root; the root is not sent along.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key, an unencrypted PKCS#8 document.
    pub key: Arc<Secret>,
    /// From when on the leaf is valid.
    pub not_before: Timestamp,
    /// When the leaf was issued; its validity begins before that.
    pub issued_at: Timestamp,
    /// Until when the leaf is valid.
    pub not_after: Timestamp,
    /// The leaf's serial number in lower-case hexadecimal.
    pub serial: String,
    /// Who signed the leaf.
    pub authority: AuthorityId,
    /// Grows each time this identity is issued anew; 0 until it is published.
    pub generation: u64,
}

impl X509Svid {
    /// The same identity as part of a published `generation`.
    #[must_use]
    pub fn published(self, generation: u64) -> Self {
        Self { generation, ..self }
    }

    /// The leaf's life.
    #[must_use]
    pub const fn life(&self) -> Life {
        Life { not_before: self.not_before, issued_at: self.issued_at, not_after: self.not_after }
    }
}
