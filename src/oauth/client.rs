//! Who asks for a token: exactly one method of client authentication, and everything that is presented must be of one app.

use aws_lc_rs::rand::SecureRandom;
use data_encoding::BASE64;
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::credential::{ClientSecret, Evidence, NonceMemory, Peppers, bound};
use crate::identity::{Match, Subject};
use crate::oauth::assertion::{self, Assertion};
use crate::oauth::form::decoded;
use crate::oauth::{Fault, Form};
use crate::registry::{Accepts, App, AppStatus, Credential, CredentialKind, DeveloperStatus, Snapshot};
use crate::secret::Secret;

/// What a client presents.
#[derive(Clone, Copy, Debug)]
pub(super) struct Presented<'a> {
    /// The values of all `Authorization` fields.
    pub(super) authorization: &'a [Secret],
    pub(super) form: &'a Form,
    /// What the connection says: the verified certificate, and where it comes from.
    pub(super) connection: &'a Evidence<'a>,
}

/// A client that has proven who it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client<'s> {
    /// The credential that the token will rest on.
    pub(super) credential: &'s Credential,
}

/// By what clients are held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Books<'s, 'a> {
    pub(super) registry: &'s Snapshot,
    pub(super) peppers: &'a Peppers,
    /// For whom an assertion may be meant.
    pub(super) audiences: &'a [String],
    pub(super) assertions: &'a NonceMemory,
}

/// > The client MUST NOT use more than one authentication method in each request. — RFC 6749 §2.3
pub(super) fn authenticate<'s>(
    presented: &Presented<'_>,
    books: &Books<'s, '_>,
    now: Timestamp,
) -> Result<Client<'s>, Fault> {
    let form = presented.form;
    let secret = form.value("client_secret");
    let signed = form.value("client_assertion");
    let claimed = form.value("client_id");
    let certificate =
        presented.connection.certificate.map(|subject| by_certificate(subject, books.registry)).transpose();
    let methods =
        presented.authorization.len() + usize::from(secret.is_some()) + usize::from(signed.is_some());
    if methods > 1 {
        return Err(Fault::request("More than one method of client authentication was used."));
    }
    let mut proven_by_assertion = None;
    let credential = if let [authorization] = presented.authorization {
        by_basic(authorization, claimed, books)?
    } else if let Some(secret) = secret {
        let claimed = claimed.ok_or(Fault::request("The client_secret comes without a client_id."))?;
        by_secret(claimed, secret, books)?
    } else if let Some(signed) = signed {
        let assertion = by_assertion(signed, form, claimed, books, now)?;
        let credential = assertion.credential;
        proven_by_assertion = Some(assertion);
        credential
    } else {
        let credential = certificate?.ok_or(Fault::UNKNOWN_METHOD)?;
        // > the client MUST include the client_id parameter — RFC 8705 §2
        let claimed = claimed.ok_or(Fault::request("The client_id is missing."))?;
        if credential.app.id.as_str() != claimed {
            return Err(Fault::INVALID_CLIENT);
        }
        credential
    };
    if let Some(other) = certificate?
        && other.app.id != credential.app.id
    {
        return Err(Fault::client("The client certificate belongs to another app."));
    }
    if let Some(certificate) = certificate? {
        assertion::check(certificate, books.registry, now)?;
    }
    assertion::check(credential, books.registry, now)?;
    for one in [Some(credential), certificate?].into_iter().flatten() {
        bound(one, presented.connection, now)
            .map_err(|_| Fault::client("The credential is bound to something that does not hold."))?;
    }
    if let Some(assertion) = proven_by_assertion {
        assertion.spend(books.assertions, now)?;
    }
    may_have_tokens(&credential.app)?;
    Ok(Client { credential })
}

/// Whether an app may have tokens at all.
pub(super) fn may_have_tokens(app: &App) -> Result<(), Fault> {
    if app.status == AppStatus::Revoked {
        return Err(Fault::unauthorized("The app has been revoked."));
    }
    if app.developer.status == DeveloperStatus::Inactive {
        return Err(Fault::unauthorized("The developer of the app is inactive."));
    }
    let takes = |accepts: &Accepts| accepts.iter().any(|kinds| kinds.contains(CredentialKind::Token));
    if app.accepts.as_ref().is_none_or(takes) {
        Ok(())
    } else {
        Err(Fault::unauthorized("The app does not accept tokens."))
    }
}

fn by_certificate<'s>(subject: &Subject, registry: &'s Snapshot) -> Result<&'s Credential, Fault> {
    match registry.certificate(subject) {
        Match::Found(credential) => Ok(credential),
        Match::Ambiguous | Match::NotFound => {
            Err(Fault::client("The client certificate is valid but belongs to no registered app."))
        }
    }
}

/// > The client identifier is encoded using the "application/x-www-form-urlencoded" encoding algorithm […] and the encoded
/// > value is used as the username; the client password is encoded using the same algorithm — RFC 6749 §2.3.1
fn by_basic<'s>(
    authorization: &Secret,
    claimed: Option<&str>,
    books: &Books<'s, '_>,
) -> Result<&'s Credential, Fault> {
    let value = authorization.expose_secret();
    let (scheme, rest) = value.split_at_checked(SCHEME.len()).ok_or(Fault::UNKNOWN_METHOD)?;
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return Err(Fault::UNKNOWN_METHOD);
    }
    let pair = BASE64.decode(rest.trim_ascii()).map(Zeroizing::new).map_err(|_| Fault::INVALID_CLIENT)?;
    let at = memchr::memchr(b':', &pair).ok_or(Fault::INVALID_CLIENT)?;
    let (id, secret) = pair.split_at(at);
    let id = decoded(id).map_err(|_| Fault::INVALID_CLIENT)?;
    let secret = decoded(secret.get(1..).unwrap_or_default()).map_err(|_| Fault::INVALID_CLIENT)?;
    if claimed.is_some_and(|claimed| claimed != id.as_str()) {
        return Err(Fault::request("The client_id is not the one in the Authorization field."));
    }
    by_secret(&id, &secret, books)
}

const SCHEME: &[u8] = b"Basic ";

/// What is looked up is the id inside the secret, so an unknown client takes as long as a wrong secret.
fn by_secret<'s>(client: &str, secret: &str, books: &Books<'s, '_>) -> Result<&'s Credential, Fault> {
    let proven = ClientSecret::prove(secret.as_bytes(), books.registry, books.peppers);
    let proven = proven.map_err(|_| Fault::INVALID_CLIENT)?;
    if proven.app.id.as_str() == client { Ok(proven) } else { Err(Fault::INVALID_CLIENT) }
}

fn by_assertion<'s>(
    signed: &str,
    form: &Form,
    claimed: Option<&str>,
    books: &Books<'s, '_>,
    now: Timestamp,
) -> Result<Assertion<'s>, Fault> {
    if form.value("client_assertion_type") != Some(ASSERTION_TYPE) {
        return Err(Fault::request(
            "The client_assertion_type is not urn:ietf:params:oauth:client-assertion-type:jwt-bearer.",
        ));
    }
    let assertion = assertion::prove(signed, books.audiences, books.registry, now)?;
    if claimed.is_some_and(|claimed| claimed != assertion.credential.app.id.as_str()) {
        return Err(Fault::INVALID_CLIENT);
    }
    Ok(assertion)
}

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A fresh word that nobody guesses.
pub(super) fn fresh_word(random: &dyn SecureRandom) -> Result<String, Fault> {
    let mut bytes = [0_u8; 16];
    random.fill(&mut bytes).map_err(|_| Fault::UNAVAILABLE)?;
    Ok(data_encoding::BASE64URL_NOPAD.encode(&bytes))
}
