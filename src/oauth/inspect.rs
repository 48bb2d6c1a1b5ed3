//! Tokens of our own as they stand now: what introspection and revocation go by.

use serde_json::json;

use crate::clock::Timestamp;
use crate::credential::token::{Claims, Jws, KeyStatus, LEEWAY, Members, Standing, TokenTrust};
use crate::credential::usable;
use crate::oauth::client::may_have_tokens;
use crate::registry::{Credential, Snapshot};

/// What one of our own tokens claims, whether it has been taken back or not; none if it is none, or has ended.
pub(super) fn read(token: &str, trust: &TokenTrust, now: Timestamp) -> Option<Claims> {
    let own = trust.own()?;
    let jws = Jws::parse(token.as_bytes()).ok().filter(Jws::is_access_token)?;
    let (key, status) = own.key(jws.key_id.as_deref()?)?;
    let believed = match status {
        KeyStatus::Current => true,
        KeyStatus::Killed => false,
        KeyStatus::Retired { until } => now < until,
    };
    let claims = Claims::parse(&jws.payload).ok().filter(|_| believed && key.has_signed(&jws))?;
    let good = claims.issuer == own.issuer && claims.standing(LEEWAY, now) == Standing::Good;
    good.then_some(claims)
}

/// Whether a token with these claims would be taken now, by the live status of all that it rests on.
pub(super) fn lives<'s>(
    claims: &Claims,
    trust: &TokenTrust,
    registry: &'s Snapshot,
    now: Timestamp,
) -> Option<&'s Credential> {
    let (id, issued) = (claims.id.as_deref()?, claims.issued?);
    let credential = registry.credential(claims.credential.as_deref()?)?;
    let app = &credential.app;
    let denied = trust.denied();
    let taken_back = denied.has_token(&claims.issuer, id)
        || registry.withheld().has_token(id)
        || denied.issued_until(app.id.as_str(), credential.id.as_str()).is_some_and(|until| issued <= until);
    let stands = claims.client_id.as_deref() == Some(app.id.as_str())
        && usable(credential, registry, now).is_ok()
        && may_have_tokens(app).is_ok();
    (stands && !taken_back).then_some(&**credential)
}

/// What introspection tells of a token that is good (RFC 7662 §2.2).
pub(super) fn description(claims: &Claims) -> String {
    let told = ["scope", "client_id", "exp", "iat", "sub", "aud", "iss", "jti", "cnf"];
    let mut answer = Members::new();
    answer.insert("active".to_owned(), json!(true));
    answer.insert("token_type".to_owned(), json!("Bearer"));
    for name in told {
        if let Some(value) = claims.all.get(name) {
            answer.insert(name.to_owned(), value.clone());
        }
    }
    serde_json::Value::Object(answer).to_string()
}
