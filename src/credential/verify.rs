//! From evidence to a principal: everything presented is verified, and all of it must belong to one app.
//!
//! The order is fixed: form, lookup, secret, time, status, bindings, and the nonce last. Whatever fails before the secret is proven gets
//! the same answer, after the same work.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::credential::token::{Bearer, Token};
use crate::credential::{ApiKey, Evidence, Peppers, Principal, Refusal, Signed, SigningSecret};
use crate::identity::{Match, Subject};
use crate::registry::{
    Bindings, Credential, CredentialKind, CredentialSecret, CredentialStatus, SignatureKey, Snapshot,
};

/// Proves who presented `evidence`.
///
/// # Errors
/// The first reason why it proves nothing.
pub fn authenticate<'s>(
    evidence: &Evidence<'_>,
    registry: &'s Snapshot,
    peppers: &Peppers,
    now: Timestamp,
) -> Result<Principal<'s>, Refusal> {
    let certificate = evidence.certificate.map(|subject| by_certificate(subject, registry)).transpose()?;
    let api_key = evidence.headers.api_key.map(|text| by_api_key(text, registry, peppers)).transpose()?;
    let signature =
        evidence.headers.signature.map(|signed| by_signature(signed, registry, peppers, now)).transpose()?;
    let token =
        evidence.headers.token.map(|bearer| by_token(bearer, evidence.certificate, now)).transpose()?;
    // A user's token stands for nothing on file.
    let of_app = token.as_deref().filter(|token| token.kind() == CredentialKind::Token);
    let of_token = of_app.map(|token| token.credential(registry)).transpose()?;
    let by_kind = [
        (CredentialKind::Mtls, certificate),
        (CredentialKind::Signature, signature),
        (CredentialKind::Token, of_token),
        (CredentialKind::ApiKey, api_key),
    ];
    let mut used = by_kind.into_iter().filter_map(|(kind, credential)| Some((kind, credential?)));
    let strongest = used.next().ok_or(Refusal::MissingCredential)?;
    let proven = || by_kind.into_iter().filter_map(|(_, credential)| credential);
    proven().try_for_each(|credential| usable(credential, now))?;
    proven().try_for_each(|credential| bound(credential, evidence, now))?;
    if proven().any(|credential| credential.app.id != strongest.1.app.id) {
        return Err(Refusal::PrincipalMismatch);
    }
    if let (Some(signed), Some(credential)) = (evidence.headers.signature, signature) {
        signed.spend_nonce(credential, now)?;
    }
    Ok(Principal { certificate, signature, of_token, api_key, token, strongest })
}

fn by_certificate<'s>(subject: &Subject, registry: &'s Snapshot) -> Result<&'s Credential, Refusal> {
    match registry.certificate(subject) {
        Match::Ambiguous => Err(Refusal::AmbiguousCertificate),
        Match::Found(credential) => Ok(credential),
        Match::NotFound => Err(Refusal::UnmappedCertificate),
    }
}

fn by_api_key<'s>(text: &[u8], registry: &'s Snapshot, peppers: &Peppers) -> Result<&'s Credential, Refusal> {
    let id = ApiKey::id_of(text).map_err(|_| Refusal::InvalidCredential)?;
    let on_file = registry.api_key(id);
    let (hash, pepper) = on_file.and_then(|credential| stored_hash(credential)).unwrap_or((&UNKNOWN, ""));
    let proven = peppers.matches(pepper, text, hash);
    on_file.filter(|_| proven).map(|credential| &**credential).ok_or(Refusal::InvalidCredential)
}

fn by_signature<'s>(
    signed: &Signed<'_>,
    registry: &'s Snapshot,
    peppers: &Peppers,
    now: Timestamp,
) -> Result<&'s Credential, Refusal> {
    let credential = signed.prove(registry, peppers)?;
    signed.check(now)?;
    Ok(credential)
}

fn by_token(
    bearer: Bearer<'_>,
    certificate: Option<&Subject>,
    now: Timestamp,
) -> Result<Arc<Token>, Refusal> {
    let proven = bearer.prove(certificate.map(|subject| &subject.sha256), now);
    proven.map(Arc::new).map_err(|objection| objection.refusal())
}

/// What an unknown id is compared with, so that it costs what a known one costs.
const UNKNOWN: [u8; 32] = [0; 32];

fn stored_hash(credential: &Credential) -> Option<(&[u8; 32], &str)> {
    match &credential.secret {
        CredentialSecret::ApiKey { hash, pepper } => Some((hash, pepper)),
        CredentialSecret::Certificate(_) | CredentialSecret::Signature(_) | CredentialSecret::Token(_) => {
            None
        }
    }
}

fn bound(credential: &Credential, evidence: &Evidence<'_>, now: Timestamp) -> Result<(), Refusal> {
    let held = |bindings: &Bindings| bindings.check(evidence.origin, evidence.certificate, now);
    credential.bindings.as_deref().map_or(Ok(()), held).map_err(|_| Refusal::BindingFailed)
}

/// The credential whose secret `text` is: an API key that hashes to what is on file, or the shared secret of a signature key.
/// It is asked of what was found somewhere, not of what was presented.
#[must_use]
pub fn recognise<'s>(text: &[u8], registry: &'s Snapshot, peppers: &Peppers) -> Option<&'s Credential> {
    if ApiKey::id_of(text).is_ok() {
        return by_api_key(text, registry, peppers).ok();
    }
    let secret = SigningSecret::parse(text).ok()?;
    let credential = registry.signature_key(secret.id())?;
    let CredentialSecret::Signature(SignatureKey::Sealed { pepper, sealed }) = &credential.secret else {
        return None;
    };
    let own = peppers.open(pepper, secret.id(), sealed)?;
    (own == *secret.text()).then_some(&**credential)
}

/// Whether `credential` is good `now`, for whoever proves to hold it.
///
/// # Errors
/// Why not.
pub fn usable(credential: &Credential, now: Timestamp) -> Result<(), Refusal> {
    if credential.not_before.is_some_and(|not_before| now < not_before) {
        return Err(Refusal::CredentialNotYetValid);
    }
    if credential.expires.is_some_and(|expires| now >= expires) {
        return Err(Refusal::CredentialExpired);
    }
    match credential.status {
        CredentialStatus::Approved => Ok(()),
        CredentialStatus::Pending => Err(Refusal::CredentialPending),
        CredentialStatus::Revoked => Err(Refusal::CredentialRevoked),
    }
}
