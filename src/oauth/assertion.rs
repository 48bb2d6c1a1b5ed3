//! Client authentication by a signed assertion (`private_key_jwt`, RFC 7523 §3): read, proven, and used once.

use std::sync::LazyLock;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::credential::token::{Claims, Jws, LEEWAY, Standing};
use crate::credential::{NonceMemory, NonceUsed, Refusal, usable};
use crate::oauth::Fault;
use crate::registry::{Credential, CredentialSecret, SignatureAlgorithm, SignatureKey, Snapshot};

/// An assertion that has been proven, and is not used up yet.
pub(super) struct Assertion<'s> {
    pub(super) credential: &'s Credential,
    id: String,
    created: Timestamp,
    until: Timestamp,
}

/// How far ahead an assertion may end: for so long each is remembered. An hour is what Authlib makes unless it is told otherwise.
const LONGEST_ASSERTION: Duration = Duration::from_secs(3600);

/// Characters of the longest `jti` that is remembered.
const LONGEST_ID: usize = 256;

/// Proves which client has signed `text`, which must be meant for one of `audiences`.
///
/// # Errors
/// Nobody whom we know has, or not for us, or not now.
pub(super) fn prove<'s>(
    text: &str,
    audiences: &[String],
    registry: &'s Snapshot,
    now: Timestamp,
) -> Result<Assertion<'s>, Fault> {
    let jws = Jws::parse(text.as_bytes()).map_err(|_| Fault::INVALID_CLIENT)?;
    // An access token is signed, too, and says of whom; it is no assertion.
    let kind_fits =
        jws.kind.is_none() || jws.is_of_kind("jwt") || jws.is_of_kind("client-authentication+jwt");
    let claims = Claims::parse(&jws.payload).map_err(|_| Fault::INVALID_CLIENT)?;
    let credential = signed_by(&jws, &claims, registry).filter(|_| kind_fits).ok_or(Fault::INVALID_CLIENT)?;
    // From here on the client is proven, and can be told.
    if claims.subject.as_deref() != Some(claims.issuer.as_str()) {
        return Err(Fault::client("The assertion must name the client as iss and as sub."));
    }
    if !claims.audience.iter().any(|meant| audiences.contains(meant)) {
        return Err(Fault::client("The assertion must be meant for this issuer or its token endpoint."));
    }
    match claims.standing(LEEWAY, now) {
        Standing::Expired => return Err(Fault::client("The assertion has expired.")),
        Standing::Good => {}
        Standing::NotYet => return Err(Fault::client("The assertion begins in the future; compare clocks.")),
    }
    if claims.expires > now + LONGEST_ASSERTION + LEEWAY {
        return Err(Fault::client("The assertion must end within an hour."));
    }
    let id = claims.id.filter(|id| id.len() <= LONGEST_ID);
    let id = id.ok_or(Fault::client("The assertion must have a jti of at most 256 characters."))?;
    // Without iat and nbf it may be as old as it can be.
    let created = claims.issued.or(claims.not_before).unwrap_or(claims.expires - LONGEST_ASSERTION);
    Ok(Assertion { credential, id, created, until: claims.expires + LEEWAY })
}

impl Assertion<'_> {
    /// Uses it up.
    ///
    /// # Errors
    /// It was used before, or nobody can tell.
    pub(super) fn spend(&self, memory: &NonceMemory, now: Timestamp) -> Result<(), Fault> {
        let credential = self.credential.id.as_str();
        match memory.spend_once(credential, &self.id, self.created, self.until, now) {
            NonceUsed::Fresh => Ok(()),
            NonceUsed::Full => Err(Fault::UNAVAILABLE),
            NonceUsed::Used => Err(Fault::client(
                "The assertion was used before, or may have been made before this agent began; an iat tells when it was.",
            )),
        }
    }
}

/// The credential of the client that the assertion names, if its key has signed it. Whatever fails costs the same.
fn signed_by<'s>(jws: &Jws<'_>, claims: &Claims, registry: &'s Snapshot) -> Option<&'s Credential> {
    let keys = registry.client_keys(&claims.issuer);
    let named = match &jws.key_id {
        Some(id) => keys.iter().find(|credential| credential.id.as_str() == id),
        // Without a name there must be no choice.
        None => keys.first().filter(|_| keys.len() == 1),
    };
    let found = named.and_then(|credential| match &credential.secret {
        CredentialSecret::ClientKey(key) => Some((credential, key)),
        CredentialSecret::ApiKey { .. }
        | CredentialSecret::Certificate(_)
        | CredentialSecret::ClientSecret { .. }
        | CredentialSecret::ImportedKey { .. }
        | CredentialSecret::Signature(_)
        | CredentialSecret::Token(_) => None,
    });
    let tried = found.map(|(_, key)| key.algorithm());
    let holds = found.is_some_and(|(_, key)| has_signed(key, jws));
    if !holds {
        for decoy in DECOYS.iter().filter(|decoy| Some(decoy.algorithm()) != tried) {
            // Whatever comes of it, it proves nothing.
            let _ignored = std::hint::black_box(verify(decoy, jws));
        }
    }
    found.filter(|_| holds).map(|(credential, _)| &**credential)
}

fn has_signed(key: &SignatureKey, jws: &Jws<'_>) -> bool {
    let named = match key.algorithm() {
        SignatureAlgorithm::EcdsaP256Sha256 => jws.algorithm == "ES256",
        SignatureAlgorithm::Ed25519 => matches!(jws.algorithm.as_str(), "EdDSA" | "Ed25519"),
        SignatureAlgorithm::HmacSha256 => false,
    };
    // The signature is checked in any case, so that a wrong algorithm takes no less time than a wrong key.
    verify(key, jws) && named
}

fn verify(key: &SignatureKey, jws: &Jws<'_>) -> bool {
    match key {
        SignatureKey::Public { key, .. } => key.verify_sig(jws.signed(), jws.signature()).is_ok(),
        SignatureKey::Sealed { .. } => false,
    }
}

/// Keys that are tried for clients that have none, for the time that it takes. Nothing that they have signed is believed.
static DECOYS: LazyLock<Vec<SignatureKey>> = LazyLock::new(|| {
    let keys = [
        (
            SignatureAlgorithm::Ed25519,
            r#"{"kty":"OKP","crv":"Ed25519","x":"JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs"}"#,
        ),
        (
            SignatureAlgorithm::EcdsaP256Sha256,
            r#"{"kty":"EC","crv":"P-256","x":"qIVYZVLCrPZHGHjP17CTW0_-D9Lfw0EkjqF7xB4FivA","y":"Mc4nN9LTDOBhfoUeg8Ye9WedFRhnZXZJA12Qp0zZ6F0"}"#,
        ),
    ];
    keys.into_iter().filter_map(|(algorithm, jwk)| SignatureKey::public(algorithm, jwk).ok()).collect()
});

/// Why a credential that was proven is of no use at `now`, if it is not.
pub(super) fn check(credential: &Credential, registry: &Snapshot, now: Timestamp) -> Result<(), Fault> {
    usable(credential, registry, now).map_err(|refusal| Fault::client(Refusal::sentence(refusal)))
}
