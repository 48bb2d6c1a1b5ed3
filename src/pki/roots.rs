//! The roots of one trust domain: read strictly once, when the bundle is loaded, and looked at again with every verdict.
//!
//! > When the trust anchor is provided in the form of a self-signed certificate, this self-signed certificate is not
//! > included as part of the prospective certification path. — RFC 5280 §6.1
//!
//! So webpki asks nothing of a root, not even whether it has expired. Here a root proves something only while it is valid,
//! and only as far down as its own path length says.

use aws_lc_rs::digest;
use rustls::pki_types::TrustAnchor;

use crate::clock::Timestamp;
use crate::identity::TrustDomain;
use crate::pki::bundle::TrustBundle;
use crate::pki::signer::{InvalidSigner, Signer};
use crate::pki::verified::sized;

/// A root that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("root number {position} of the bundle of {domain} cannot be used: {reason}")]
pub struct InvalidRoot {
    /// Whose root.
    pub domain: TrustDomain,
    /// Its place in the bundle, counted from 1.
    pub position: usize,
    /// What is wrong with it.
    pub reason: InvalidSigner,
}

/// One root.
#[derive(Debug)]
pub(super) struct Root {
    /// SHA-256 over all that a path rests on: its name, its key, and what it may be used for. A root that is renewed with
    /// the same key, name and limits keeps it.
    pub(super) digest: [u8; 32],
    pub(super) signer: Signer,
}

/// The roots of one trust domain.
#[derive(Debug, Default)]
pub(super) struct Roots {
    anchors: Vec<TrustAnchor<'static>>,
    /// What was read of each of the anchors.
    roots: Vec<Root>,
}

impl Roots {
    /// Reads the roots of a bundle. One that has expired does no harm: it proves nothing until it is taken out.
    pub(super) fn read(bundle: &TrustBundle) -> Result<Self, InvalidRoot> {
        let mut read = Self::default();
        for (position, der) in (1..).zip(&bundle.roots) {
            let invalid = |reason| InvalidRoot { domain: bundle.domain.clone(), position, reason };
            let signer = Signer::root(der).map_err(invalid)?;
            let anchor =
                webpki::anchor_from_trusted_cert(der).map_err(|error| invalid(InvalidSigner::Der(error)))?;
            read.roots.push(Root { digest: digest_of(&anchor, &signer), signer });
            read.anchors.push(anchor.to_owned());
        }
        Ok(read)
    }

    /// The roots as webpki takes them.
    pub(super) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// The roots that webpki means by `anchor`: more than one if a root was renewed.
    pub(super) fn of_anchor<'a>(&'a self, anchor: &'a TrustAnchor<'_>) -> impl Iterator<Item = &'a Root> {
        let same = move |(known, _): &(&TrustAnchor<'_>, _)| *known == anchor;
        self.anchors.iter().zip(&self.roots).filter(same).map(|(_, root)| root)
    }

    /// The roots that a path rests on which once rested on one with this digest.
    pub(super) fn of_digest(&self, digest: [u8; 32]) -> impl Iterator<Item = &Root> {
        self.roots.iter().filter(move |root| root.digest == digest)
    }
}

impl Root {
    /// Why the root proves nothing at `now` for a path with so many authorities between it and the leaf.
    pub(super) fn objection(&self, authorities: usize, now: Timestamp) -> Option<Objection> {
        let Signer { not_before, not_after, path_length, .. } = self.signer;
        if now > not_after {
            return Some(Objection::Expired { not_after });
        }
        if now < not_before {
            return Some(Objection::NotYetValid { not_before });
        }
        path_length
            .is_some_and(|length| usize::try_from(length).is_ok_and(|length| authorities > length))
            .then_some(Objection::PathLength)
    }
}

/// Why a root proves nothing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Objection {
    Expired { not_after: Timestamp },
    NotYetValid { not_before: Timestamp },
    PathLength,
}

fn digest_of(anchor: &TrustAnchor<'_>, signer: &Signer) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    let limits = anchor.name_constraints.as_deref().unwrap_or_default();
    for part in [anchor.subject.as_ref(), anchor.subject_public_key_info.as_ref(), limits] {
        // Lengths keep one root from being cut like another.
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part);
    }
    context.update(&[u8::from(signer.for_clients), u8::from(signer.for_servers)]);
    sized(context.finish().as_ref())
}
