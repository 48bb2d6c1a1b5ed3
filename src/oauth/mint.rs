//! The token itself: what it claims, for how long, and bound to what.

use aws_lc_rs::rand::SecureRandom;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::credential::token::{Claims, Denied, Members};
use crate::identity::Subject;
use crate::oauth::client::fresh_word;
use crate::oauth::scope::{granted, grants};
use crate::oauth::{Binding, Fault, KeyRing, Settings};
use crate::registry::{Credential, CredentialStatus};

/// What a client wishes for.
#[derive(Clone, Debug, Default)]
pub struct Wish<'a> {
    /// The `scope`, if it names any.
    pub scope: Option<&'a str>,
    /// The `resource`s, if it names any (RFC 8707).
    pub resources: Vec<&'a str>,
    /// The certificate that it came with.
    pub certificate: Option<&'a Subject>,
}

/// A token that was just made.
#[derive(Clone, Debug)]
pub struct Minted {
    /// The token.
    pub token: String,
    /// For how long it is good.
    pub expires_in: Duration,
    /// Its scopes, where they are other ones than were asked for.
    pub scope: Option<String>,
}

/// A token that was made when only this much was left of the certificate under it would be worth nothing.
const SHORTEST: Duration = Duration::from_secs(1);

/// More products are not listed: the list is a hint, from which nothing follows.
const MOST_PRODUCTS: usize = 16;

/// A token for the app of `credential`, which was proven.
///
/// # Errors
/// The wish cannot be granted, or no key signs.
pub(super) fn mint(
    credential: &Credential,
    wish: &Wish<'_>,
    (settings, ring, denied): (&Settings, &KeyRing, &Denied),
    random: &dyn SecureRandom,
    now: Timestamp,
) -> Result<Minted, Fault> {
    let app = &credential.app;
    let scopes = granted(credential, wish.scope, now)?;
    let audience = audience(settings, &wish.resources)?;
    let key = &ring.active().ok_or(Fault::UNAVAILABLE)?.key;
    // In the second until which tokens were taken back, a new one says that it is of the next.
    let taken_back = denied.issued_until(app.id.as_str(), credential.id.as_str());
    let issued = taken_back.filter(|until| until.unix() >= now.unix()).map_or(now, |until| until + SHORTEST);
    let issued = issued.to_whole_second();
    let mut expires = now.to_whole_second() + settings.ttl;
    if let Some(certificate) = wish.certificate {
        expires = expires.min(certificate.not_after.to_whole_second());
    }
    let retires = match credential.status {
        CredentialStatus::Retiring(at) => Some(at),
        CredentialStatus::Approved | CredentialStatus::Pending | CredentialStatus::Revoked => None,
    };
    let ends = [credential.expires, retires, wish.certificate.map(|certificate| certificate.not_after)];
    if let Some(end) = ends.into_iter().flatten().min() {
        expires = expires.min(end.to_whole_second());
    }
    let expires_in = expires.since(now.to_whole_second());
    if expires_in < SHORTEST {
        return Err(Fault::client(
            "The credential or the client certificate is about to end; come back with the next one.",
        ));
    }
    let products: Vec<String> = grants(credential, now).map(|grant| grant.product.id.to_string()).collect();
    let claims = Claims {
        issuer: settings.issuer.to_string(),
        audience,
        expires,
        not_before: None,
        issued: Some(issued),
        id: Some(fresh_word(random)?),
        subject: Some(app.id.to_string()),
        client_id: Some(app.id.to_string()),
        scopes: scopes.scopes.clone(),
        credential: Some(credential.id.to_string()),
        products: if products.len() <= MOST_PRODUCTS { products } else { Vec::new() },
        certificate: wish
            .certificate
            .filter(|_| settings.binding == Binding::Certificate)
            .map(|certificate| certificate.sha256),
        all: Members::new(),
    };
    let token = key.sign(&claims).map_err(|_| Fault::UNAVAILABLE)?;
    Ok(Minted { token, expires_in, scope: scopes.differs.then(|| scopes.scopes.join(" ")) })
}

/// For whom the token is.
///
/// > the value of this parameter MUST be an absolute URI […] If the authorization server fails to parse the provided value(s) or
/// > does not consider the resource(s) acceptable, it should reject the request — RFC 8707 §2
fn audience(settings: &Settings, resources: &[&str]) -> Result<Vec<String>, Fault> {
    if resources.is_empty() {
        return Ok(settings.audiences.first().cloned().into_iter().collect());
    }
    let mut named: Vec<String> = Vec::new();
    for resource in resources {
        let known = settings.audiences.iter().find(|known| known == resource).ok_or(Fault::INVALID_TARGET)?;
        if !named.contains(known) {
            named.push(known.clone());
        }
    }
    Ok(named)
}
