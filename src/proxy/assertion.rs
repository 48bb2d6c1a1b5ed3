//! What a service can be sure of without trusting the wire: who calls, signed by the agent.
//!
//! A caller with a certificate of this trust domain is asserted by a JWT-SVID: `sub` is its SPIFFE ID, and any validator of
//! JWT-SVIDs that has our keys takes it. Everybody else (a key, a token, a certificate of another domain) is asserted under the
//! name of the app, which is no SPIFFE ID: a validator of JWT-SVIDs refuses it, and never takes the one for the other.
//!
//! An assertion is used for half of its life by all requests of a connection that say the same, so that a signature is not the
//! price of a request.

use std::cell::RefCell;

use serde_json::{Value, json};

use super::response::field;
use super::settings::AssertionRules;
use crate::authz::Permit;
use crate::clock::Timestamp;
use crate::identity::{SpiffeId, Subject};
use crate::oauth::{SigningKey, SigningKeyError};

/// The field. All that begin so are the agent's alone.
const HEADER: &str = "x-postern-assertion";

/// Assertions that a connection keeps; a proxy in front of many callers makes more.
const KEPT: usize = 16;

/// The assertions of a connection.
#[derive(Debug, Default)]
pub(super) struct Assertions(RefCell<Vec<Kept>>);

#[derive(Debug)]
struct Kept {
    says: Says,
    made: Timestamp,
    until: Timestamp,
    line: Vec<u8>,
}

/// What an assertion says, beside when.
#[derive(Debug, Eq, PartialEq)]
struct Says {
    key: String,
    audience: String,
    app: String,
    product: String,
    kind: &'static str,
    credential: String,
    scopes: String,
    user: Option<(String, String)>,
}

/// By which certificate somebody came in, to whom, and what that connection was told before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller<'a> {
    pub(super) own_id: &'a SpiffeId,
    pub(super) subject: Option<&'a Subject>,
    pub(super) known: &'a Assertions,
}

/// Writes the field for a caller that `permit` lets in.
///
/// # Errors
/// The library could not sign.
pub(super) fn write(
    out: &mut Vec<u8>,
    (rules, key): (&AssertionRules, &SigningKey),
    permit: &Permit<'_>,
    caller: Caller<'_>,
    now: Timestamp,
) -> Result<(), SigningKeyError> {
    let mut kept = caller.known.0.borrow_mut();
    let good = |one: &Kept| one.made <= now && now < one.until;
    if let Some(known) = kept.iter().find(|one| good(one) && one.says.is_about(permit, rules, key)) {
        out.extend_from_slice(&known.line);
        return Ok(());
    }
    let says = Says::of(permit, rules, key);
    kept.retain(|one| good(one) && one.says != says);
    if kept.len() >= KEPT {
        kept.remove(0);
    }
    let made = now.to_whole_second();
    let ends = caller.subject.map(|subject| subject.not_after.to_whole_second());
    let expires = ends.map_or(made + rules.ttl, |end| end.min(made + rules.ttl));
    let claims = claims(&says, permit, caller, (made, expires));
    let token = key.sign_as("JWT", claims.to_string().as_bytes())?;
    let mut line = Vec::with_capacity(token.len() + HEADER.len() + 4);
    field(&mut line, HEADER, token.as_bytes());
    out.extend_from_slice(&line);
    kept.push(Kept { says, made, until: made + expires.since(made) / 2, line });
    Ok(())
}

/// What is claimed.
///
/// > the sub claim MUST be set to the SPIFFE ID of the workload to which it is issued. […] the aud claim MUST be present […] The exp
/// > claim MUST be set — JWT-SVID §3
fn claims(
    says: &Says,
    permit: &Permit<'_>,
    caller: Caller<'_>,
    (made, expires): (Timestamp, Timestamp),
) -> Value {
    let terms = permit.terms();
    let spiffe_id = caller.subject.map(|subject| &subject.spiffe_id);
    let ours = spiffe_id.filter(|id| id.trust_domain() == caller.own_id.trust_domain());
    let mut claims = json!({
        "iss": caller.own_id.as_str(),
        "sub": ours.map_or(says.app.as_str(), SpiffeId::as_str),
        "aud": [says.audience],
        "iat": made.unix(),
        "exp": expires.unix(),
        "app": says.app,
        "developer": terms.developer().id.as_str(),
        "product": says.product,
        "cred": format!("{}:{}", says.kind, says.credential),
    });
    if let Some(claims) = claims.as_object_mut() {
        if !says.scopes.is_empty() {
            claims.insert("scope".to_owned(), json!(says.scopes));
        }
        if let Some(id) = spiffe_id {
            claims.insert("spiffe_id".to_owned(), json!(id.as_str()));
        }
        if let Some((user, issuer)) = &says.user {
            claims.insert("user".to_owned(), json!(user));
            claims.insert("user_iss".to_owned(), json!(issuer));
        }
    }
    claims
}

/// The user for whom the app calls, and who says so.
fn user<'p>(permit: &'p Permit<'_>) -> Option<(&'p str, &'p str)> {
    permit.token().and_then(|token| Some((token.user()?, &*token.claims().issuer)))
}

impl Says {
    fn of(permit: &Permit<'_>, rules: &AssertionRules, key: &SigningKey) -> Self {
        let terms = permit.terms();
        Self {
            key: key.id().to_owned(),
            audience: rules.audience.clone(),
            app: terms.app.id.to_string(),
            product: terms.product.id.to_string(),
            kind: terms.kind.as_str(),
            credential: terms.credential.id.to_string(),
            scopes: terms.scopes().collect::<Vec<_>>().join(" "),
            user: user(permit).map(|(user, issuer)| (user.to_owned(), issuer.to_owned())),
        }
    }

    /// Whether it is what [`Self::of`] would make, without making it.
    fn is_about(&self, permit: &Permit<'_>, rules: &AssertionRules, key: &SigningKey) -> bool {
        let terms = permit.terms();
        let mut scopes = self.scopes.split(' ').filter(|scope| !scope.is_empty());
        self.key == key.id()
            && self.audience == rules.audience
            && self.app == terms.app.id.as_str()
            && self.product == terms.product.id.as_str()
            && self.kind == terms.kind.as_str()
            && self.credential == terms.credential.id.as_str()
            && terms.scopes().all(|scope| scopes.next() == Some(scope))
            && scopes.next().is_none()
            && self.user.as_ref().map(|(user, issuer)| (user.as_str(), issuer.as_str())) == user(permit)
    }
}
