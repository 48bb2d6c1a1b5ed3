//! From evidence to a principal: everything presented is verified, and all of it must belong to one app.
//!
//! The order is fixed: form, lookup, secret, time, status, bindings, and the nonce last. Whatever fails before the secret is proven gets
//! the same answer, after the same work.

use std::sync::Arc;

use aws_lc_rs::digest;

use crate::clock::Timestamp;
use crate::credential::token::{Bearer, Token};
use crate::credential::{
    API_KEY_MARK, ApiKey, ClientSecret, Evidence, Peppers, Principal, Refusal, Signed, SigningSecret,
};
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
    if token
        .as_deref()
        .and_then(|token| token.claims().id.as_deref())
        .is_some_and(|id| registry.withheld().has_token(id))
    {
        return Err(Refusal::TokenRevoked);
    }
    proven().try_for_each(|credential| usable(credential, registry, now))?;
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
    let Ok(id) = ApiKey::id_of(text) else { return by_imported_key(text, registry, peppers) };
    let on_file = registry.api_key(id);
    let (hash, pepper) = on_file.and_then(|credential| stored_hash(credential)).unwrap_or((&UNKNOWN, ""));
    let proven = peppers.matches(pepper, text, hash);
    on_file.filter(|_| proven).map(|credential| &**credential).ok_or(Refusal::InvalidCredential)
}

/// Keys of somebody else's making have no name in them: what the registry would keep of it is looked for.
fn by_imported_key<'s>(
    text: &[u8],
    registry: &'s Snapshot,
    peppers: &Peppers,
) -> Result<&'s Credential, Refusal> {
    // What was meant to be one of ours is mistyped.
    if text.starts_with(API_KEY_MARK.as_bytes()) || !IMPORTED_LENGTH.contains(&text.len()) {
        return Err(Refusal::InvalidCredential);
    }
    let mut versions = registry.imported_peppers().peekable();
    if versions.peek().is_none() {
        return Err(Refusal::InvalidCredential);
    }
    let digest = digest::digest(&digest::SHA256, text);
    let hashes = versions.filter_map(|version| peppers.hash(version, digest.as_ref()));
    let mut found = hashes.filter_map(|hash| registry.imported_key(&hash));
    // One key that is on file twice, under two peppers, is nobody's: whose it is meant to be is not ours to choose.
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) | (None, _) => Err(Refusal::InvalidCredential),
    }
}

/// No key that was made with care is shorter, and none is longer.
const IMPORTED_LENGTH: std::ops::RangeInclusive<usize> = 16..=512;

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
        CredentialSecret::Certificate(_)
        | CredentialSecret::ClientKey(_)
        | CredentialSecret::ClientSecret { .. }
        | CredentialSecret::ImportedKey { .. }
        | CredentialSecret::Signature(_)
        | CredentialSecret::Token(_) => None,
    }
}

/// Whether all that a credential is bound to holds.
///
/// # Errors
/// [`Refusal::BindingFailed`].
pub fn bound(credential: &Credential, evidence: &Evidence<'_>, now: Timestamp) -> Result<(), Refusal> {
    let held = |bindings: &Bindings| bindings.check(evidence.origin, evidence.certificate, now);
    credential.bindings.as_deref().map_or(Ok(()), held).map_err(|_| Refusal::BindingFailed)
}

/// The credential whose secret `text` is: an API key or a client secret that hashes to what is on file, or the shared secret of
/// a signature key.
/// It is asked of what was found somewhere, not of what was presented.
#[must_use]
pub fn recognise<'s>(text: &[u8], registry: &'s Snapshot, peppers: &Peppers) -> Option<&'s Credential> {
    if ApiKey::id_of(text).is_ok() {
        return by_api_key(text, registry, peppers).ok();
    }
    if let Ok(credential) = ClientSecret::prove(text, registry, peppers) {
        return Some(credential);
    }
    let secret = SigningSecret::parse(text).ok()?;
    let credential = registry.signature_key(secret.id())?;
    let CredentialSecret::Signature(SignatureKey::Sealed { pepper, sealed }) = &credential.secret else {
        return None;
    };
    let own = peppers.open(pepper, secret.id(), sealed)?;
    (own == *secret.text()).then_some(&**credential)
}

/// Whether a credential of `registry` that was proven is good at `now`.
///
/// # Errors
/// Why it is not.
pub fn usable(credential: &Credential, registry: &Snapshot, now: Timestamp) -> Result<(), Refusal> {
    if credential.not_before.is_some_and(|not_before| now < not_before) {
        return Err(Refusal::CredentialNotYetValid);
    }
    if credential.expires.is_some_and(|expires| now >= expires) {
        return Err(Refusal::CredentialExpired);
    }
    if registry.withheld().has(credential) {
        return Err(Refusal::CredentialRevoked);
    }
    match credential.status {
        CredentialStatus::Approved => Ok(()),
        CredentialStatus::Pending => Err(Refusal::CredentialPending),
        CredentialStatus::Retiring(at) if now < at => Ok(()),
        CredentialStatus::Retiring(_) => Err(Refusal::CredentialRevoked),
        CredentialStatus::Revoked => Err(Refusal::CredentialRevoked),
    }
}
