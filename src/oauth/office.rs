//! The endpoints: token, introspection, revocation, keys and metadata, each from a request that was read whole to its answer.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SecureRandom;
use serde_json::json;

use crate::clock::Timestamp;
use crate::credential::token::TokenTrust;
use crate::credential::{Evidence, NonceMemory, Peppers, bound};
use crate::id::ListenerId;
use crate::oauth::client::{Books, Client, Presented, authenticate, may_have_tokens};
use crate::oauth::inspect;
use crate::oauth::mint::mint;
use crate::oauth::withdrawal::LONGEST_TTL;
use crate::oauth::{Binding, Fault, Form, KeyRing, Minted, Settings, Wish, Withdrawal};
use crate::registry::{Credential, Snapshot};
use crate::secret::Secret;

/// The authorization server as it stands at one moment.
#[derive(Clone, Debug)]
pub struct Office {
    /// As configured.
    pub settings: Arc<Settings>,
    /// The keys that sign.
    pub ring: Arc<KeyRing>,
    /// Assertions that were used; the same memory in every office.
    pub assertions: Arc<NonceMemory>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Counter {
    /// `/oauth/introspect` (RFC 7662).
    Introspect,
    /// `/oauth/jwks` (RFC 7517 §5).
    Keys,
    /// `/.well-known/oauth-authorization-server` (RFC 8414).
    Metadata,
    /// `/oauth/revoke` (RFC 7009).
    Revoke,
    /// `/oauth/token` (RFC 6749 §3.2).
    Token,
}

impl Counter {
    /// Whether something is posted there.
    #[must_use]
    pub const fn takes_form(self) -> bool {
        matches!(self, Self::Introspect | Self::Revoke | Self::Token)
    }
}

/// The head of a request, as far as it matters here.
#[derive(Debug)]
pub struct Errand {
    /// What is asked for.
    pub counter: Counter,
    /// The method.
    pub method: String,
    /// Whether there is a query.
    pub has_query: bool,
    /// The values of all `Content-Type` fields.
    pub content_types: Vec<Vec<u8>>,
    /// The values of all `Authorization` fields.
    pub authorization: Vec<Secret>,
}

/// What an answer is drawn from.
#[derive(Clone, Copy, Debug)]
pub struct Records<'s> {
    /// Who may have what.
    pub registry: &'s Snapshot,
    /// What secrets are hashed under.
    pub peppers: &'s Peppers,
    /// Which tokens are believed.
    pub trust: &'s TokenTrust,
}

/// An answer.
#[derive(Debug)]
pub struct Reply<'s> {
    /// The status.
    pub status: u16,
    /// All fields but `Content-Length` and what every answer has.
    pub fields: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
    /// For the log: what was done, or the error's code.
    pub code: &'static str,
    /// Who has proven to be the client.
    pub client: Option<&'s Credential>,
    /// What must have been taken back before this answer is given.
    pub withdrawal: Option<Withdrawal>,
    /// Whether somebody has failed to say who it is.
    pub is_failed_attempt: bool,
}

impl Office {
    /// What lies at `path` for whoever comes in by `listener`.
    #[must_use]
    pub fn counter(&self, listener: &ListenerId, path: &str) -> Option<Counter> {
        if !self.settings.listeners.contains(listener) {
            return None;
        }
        match path.strip_prefix(&*self.settings.path).and_then(|rest| rest.strip_prefix('/')) {
            Some("introspect") => Some(Counter::Introspect),
            Some("jwks") => Some(Counter::Keys),
            Some("revoke") => Some(Counter::Revoke),
            Some("token") => Some(Counter::Token),
            Some(_) | None => (path == self.settings.issuer.metadata_path()).then_some(Counter::Metadata),
        }
    }

    /// Answers to a request without a body, or says that its body is needed.
    #[must_use]
    pub fn begin<'s>(&self, errand: &Errand) -> Option<Reply<'s>> {
        let (method_fits, allowed) = match errand.counter.takes_form() {
            true => (errand.method == "POST", "POST"),
            false => (matches!(errand.method.as_str(), "GET" | "HEAD"), "GET, HEAD"),
        };
        if !method_fits {
            let fault = Fault { status: 405, ..Fault::request("This method is of no use here.") };
            let mut reply = refusal(fault);
            reply.fields.push(("allow", allowed.to_owned()));
            return Some(reply);
        }
        match errand.counter {
            Counter::Keys => Some(self.keys()),
            Counter::Metadata => Some(self.metadata()),
            Counter::Introspect | Counter::Revoke | Counter::Token if errand.has_query => {
                // > Parameters […] MUST NOT be included in the request URI. — RFC 6749 §2.3.1
                Some(refusal(Fault::request("Parameters belong into the body, not into the URL.")))
            }
            Counter::Introspect | Counter::Revoke | Counter::Token => {
                let is_form = matches!(errand.content_types.as_slice(), [one] if is_form(one));
                let fault = Fault::request("The Content-Type must be application/x-www-form-urlencoded.");
                (!is_form).then(|| refusal(fault))
            }
        }
    }

    /// Answers to a request with the form in `body`.
    #[must_use]
    pub fn answer<'s>(
        &self,
        errand: &Errand,
        body: &[u8],
        connection: &Evidence<'_>,
        records: &Records<'s>,
        random: &dyn SecureRandom,
        now: Timestamp,
    ) -> Reply<'s> {
        let Ok(form) = Form::parse(body) else {
            return refusal(Fault::request("The body is no form in which each parameter stands once."));
        };
        let audiences = [self.settings.issuer.to_string(), self.settings.url("token")];
        let books = Books {
            registry: records.registry,
            peppers: records.peppers,
            audiences: &audiences,
            assertions: &self.assertions,
        };
        if errand.counter == Counter::Token {
            match form.value("grant_type") {
                Some("client_credentials") => {}
                Some(_) => return refusal(Fault::UNSUPPORTED_GRANT_TYPE),
                None => return refusal(Fault::request("The grant_type is missing.")),
            }
        }
        let presented = Presented { authorization: &errand.authorization, form: &form, connection };
        let client = match authenticate(&presented, &books, now) {
            Ok(client) => client,
            Err(fault) => return refusal(fault),
        };
        let answered = match errand.counter {
            Counter::Introspect => self.introspect(client, &form, records, now),
            Counter::Revoke => revoke(client, &form, records, now),
            Counter::Keys | Counter::Metadata | Counter::Token => {
                let wish = Wish {
                    scope: form.value("scope"),
                    resources: form.values("resource").collect(),
                    certificate: connection.certificate,
                };
                self.mint(client.credential, &wish, records.trust, random, now).map(|minted| issued(&minted))
            }
        };
        let reply = answered.unwrap_or_else(refusal);
        Reply { client: Some(client.credential), ..reply }
    }

    /// How a token is taken back that is one of ours and has not ended; none if it is no such.
    #[must_use]
    pub fn withdrawal_of(&self, token: &str, trust: &TokenTrust, now: Timestamp) -> Option<Withdrawal> {
        let claims = inspect::read(token, trust, now)?;
        let app = claims.client_id.as_deref().and_then(|app| app.parse().ok());
        Some(Withdrawal::Token { app, jti: claims.id?, expires: claims.expires.unix() })
    }

    /// The longest life that a token can have, whatever is configured now.
    #[must_use]
    pub const fn longest_ttl(&self) -> Duration {
        LONGEST_TTL
    }

    /// A token for an app that has proven who it is otherwise: a local workload, by the kernel's word.
    ///
    /// # Errors
    /// The app may not have it, or no key signs.
    pub fn mint_for(
        &self,
        credential: &Credential,
        wish: &Wish<'_>,
        records: &Records<'_>,
        random: &dyn SecureRandom,
        now: Timestamp,
    ) -> Result<Minted, Fault> {
        crate::oauth::assertion::check(credential, records.registry, now)?;
        let connection = Evidence { certificate: wish.certificate, ..Evidence::default() };
        bound(credential, &connection, now)
            .map_err(|_| Fault::client("The credential is bound to something that does not hold."))?;
        may_have_tokens(&credential.app)?;
        self.mint(credential, wish, records.trust, random, now)
    }

    fn mint(
        &self,
        credential: &Credential,
        wish: &Wish<'_>,
        trust: &TokenTrust,
        random: &dyn SecureRandom,
        now: Timestamp,
    ) -> Result<Minted, Fault> {
        mint(credential, wish, (&self.settings, &self.ring, trust.denied()), random, now)
    }

    /// > If the introspection call is properly authorized but the token is not active […] the authorization server MUST return
    /// > an introspection response with the "active" field set to "false". […] the server SHOULD NOT include any additional
    /// > information — RFC 7662 §2.2
    fn introspect<'s>(
        &self,
        client: Client<'_>,
        form: &Form,
        records: &Records<'s>,
        now: Timestamp,
    ) -> Result<Reply<'s>, Fault> {
        let token = form.value("token").ok_or(Fault::request("The token is missing."))?;
        let app = &client.credential.app.id;
        let found = inspect::read(token, records.trust, now).filter(|claims| {
            let lives = inspect::lives(claims, records.trust, records.registry, now);
            lives.is_some_and(|owner| owner.app.id == *app || self.settings.introspectors.contains(app))
        });
        let body =
            found.map_or_else(|| "{\"active\":false}".to_owned(), |claims| inspect::description(&claims));
        Ok(reply(200, body, "token-inspected"))
    }

    fn keys<'s>(&self) -> Reply<'s> {
        let keys = self.ring.keys.iter().map(|key| key.key.public().to_jwk(key.key.id()));
        let body = json!({ "keys": keys.collect::<Vec<_>>() }).to_string();
        // The next key is made known for twice as long before it signs.
        let age = (self.settings.keys.lead() / 2).as_secs().max(1);
        let mut reply = public(body, "token-keys", age);
        reply.fields.retain(|(name, _)| *name != "content-type");
        reply.fields.push(("content-type", "application/jwk-set+json".to_owned()));
        reply
    }

    fn metadata<'s>(&self) -> Reply<'s> {
        let settings = &self.settings;
        let methods =
            json!(["client_secret_basic", "client_secret_post", "private_key_jwt", "tls_client_auth"]);
        let algorithms = json!(["ES256", "EdDSA"]);
        let document = json!({
            "issuer": settings.issuer.as_str(),
            "token_endpoint": settings.url("token"),
            "jwks_uri": settings.url("jwks"),
            "introspection_endpoint": settings.url("introspect"),
            "revocation_endpoint": settings.url("revoke"),
            // Required, and empty: there is no authorization endpoint.
            "response_types_supported": [],
            "grant_types_supported": ["client_credentials"],
            "token_endpoint_auth_methods_supported": methods,
            "token_endpoint_auth_signing_alg_values_supported": algorithms,
            "introspection_endpoint_auth_methods_supported": methods,
            "introspection_endpoint_auth_signing_alg_values_supported": algorithms,
            "revocation_endpoint_auth_methods_supported": methods,
            "revocation_endpoint_auth_signing_alg_values_supported": algorithms,
            "tls_client_certificate_bound_access_tokens": settings.binding == Binding::Certificate,
        });
        public(document.to_string(), "token-metadata", 300)
    }
}

/// > the authorization server responds with HTTP status code 200 if the token has been revoked successfully or if the client
/// > submitted an invalid token. — RFC 7009 §2.2
fn revoke<'s>(
    client: Client<'_>,
    form: &Form,
    records: &Records<'_>,
    now: Timestamp,
) -> Result<Reply<'s>, Fault> {
    let token = form.value("token").ok_or(Fault::request("The token is missing."))?;
    let mut reply = reply(200, String::new(), "token-revoked");
    let Some(claims) = inspect::read(token, records.trust, now) else { return Ok(reply) };
    if claims.client_id.as_deref() != Some(client.credential.app.id.as_str()) {
        // > the authorization server first validates […] whether the token was issued to the client — RFC 7009 §2.1
        return Err(Fault::unauthorized("The token was not issued to this client."));
    }
    reply.withdrawal = claims.id.map(|jti| Withdrawal::Token {
        app: Some(client.credential.app.id.clone()),
        jti,
        expires: claims.expires.unix(),
    });
    Ok(reply)
}

fn issued<'s>(minted: &Minted) -> Reply<'s> {
    let mut body = json!({
        "access_token": minted.token,
        "token_type": "Bearer",
        "expires_in": minted.expires_in.as_secs(),
    });
    if let (Some(scope), Some(members)) = (&minted.scope, body.as_object_mut()) {
        members.insert("scope".to_owned(), json!(scope));
    }
    reply(200, body.to_string(), "token-issued")
}

impl Minted {
    /// The body of the answer that carries it (RFC 6749 §5.1).
    #[must_use]
    pub fn to_json(&self) -> String {
        issued(self).body
    }
}

impl Fault {
    /// The answer that tells of it.
    #[must_use]
    pub fn to_json(&self) -> String {
        json!({ "error": self.code, "error_description": self.description }).to_string()
    }
}

impl From<Fault> for Reply<'_> {
    fn from(fault: Fault) -> Self {
        refusal(fault)
    }
}

fn refusal<'s>(fault: Fault) -> Reply<'s> {
    let mut refused = reply(fault.status, fault.to_json(), fault.code);
    if fault.status == 401 {
        // > the authorization server MUST […] include the "WWW-Authenticate" response header field — RFC 6749 §5.2
        refused.fields.push(("www-authenticate", "Basic realm=\"postern\", charset=\"UTF-8\"".to_owned()));
    }
    if fault.status == 503 {
        refused.fields.push(("retry-after", "1".to_owned()));
    }
    Reply { is_failed_attempt: fault.is_failed_attempt(), ..refused }
}

/// > The authorization server MUST include the HTTP "Cache-Control" response header field with a value of "no-store" — RFC 6749
/// > §5.1
fn reply<'s>(status: u16, body: String, code: &'static str) -> Reply<'s> {
    let mut fields = vec![("cache-control", "no-store".to_owned()), ("pragma", "no-cache".to_owned())];
    if !body.is_empty() {
        fields.push(("content-type", "application/json".to_owned()));
    }
    Reply { status, fields, body, code, client: None, withdrawal: None, is_failed_attempt: false }
}

fn public<'s>(body: String, code: &'static str, age: u64) -> Reply<'s> {
    let mut told = reply(200, body, code);
    told.fields = vec![
        ("cache-control", format!("public, max-age={age}")),
        ("content-type", "application/json".to_owned()),
    ];
    told
}

/// Whether a body is a form, in the only character encoding that there is for it.
fn is_form(content_type: &[u8]) -> bool {
    let mut parts = content_type.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
    let kind =
        parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/x-www-form-urlencoded"));
    let utf8 = |part: &[u8]| {
        part.eq_ignore_ascii_case(b"charset=utf-8") || part.eq_ignore_ascii_case(b"charset=\"utf-8\"")
    };
    kind && parts.all(utf8)
}
