//! What must not pass for a token, each pitfall by its name, and what becomes of tokens that pass.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use super::{
    Bearer, Denied, JwkSet, KeyStatus, Objection, OutsideIssuer, OwnIssuer, Proves, TokenTrust,
    VerificationKey,
};
use crate::clock::Timestamp;
use crate::credential::{Evidence, HeaderEvidence, Peppers, Principal, Refusal, authenticate};
use crate::identity::Subject;
use crate::registry::{CredentialKind, Snapshot, Source, parse};

const NOW: i64 = 1_800_000_000;
const OWN: &str = "https://postern.test";
const OUTSIDE: &str = "https://id.test";
const OTHER: &str = "https://other.test";
const USERS: &str = "https://users.test";
const AUDIENCE: &str = "https://orders.test";

/// Somebody who signs.
struct Signer {
    pair: Ed25519KeyPair,
    key: VerificationKey,
}

impl Signer {
    fn new() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let key = VerificationKey::ed25519(pair.public_key().as_ref()).unwrap();
        Self { pair, key }
    }

    fn id(&self) -> String {
        self.key.thumbprint()
    }

    fn header(&self) -> Value {
        json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": self.id() })
    }

    fn sign(&self, header: &Value, claims: &str) -> String {
        let input = input(header, claims);
        let signature = self.pair.sign(input.as_bytes());
        format!("{input}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
    }
}

fn input(header: &Value, claims: &str) -> String {
    let part = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
    format!("{}.{}", part(&header.to_string()), part(claims))
}

struct World {
    registry: Snapshot,
    own: Signer,
    outside: Signer,
    other: Signer,
    users: Signer,
    trust: TokenTrust,
}

const REGISTRY: &str = "
[[developer]]
id = 'team'
[[app]]
id = 'ledger'
developer = 'team'
[[app.signature]]
id = 'ledger-key'
algorithm = 'ed25519'
public_key = '{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs\"}'
[[app.certificate]]
uri = 'spiffe://td/ledger'
[[app]]
id = 'partner'
developer = 'team'
[[app.token]]
id = 'partner-id'
issuer = 'https://id.test'
client_id = 'partner-client'
[[app]]
id = 'eu'
developer = 'team'
[[app.token]]
issuer = 'https://id.test'
client_id = 'shared-client'
claims = { tenant = 'eu' }
[[app]]
id = 'us'
developer = 'team'
[[app.token]]
issuer = 'https://id.test'
client_id = 'shared-client'
claims = { tenant = 'us' }
[[app]]
id = 'elsewhere'
developer = 'team'
[[app.token]]
issuer = 'https://other.test'
azp = 'partner-client'
";

fn registry(text: &str) -> Snapshot {
    parse(&[Source { path: PathBuf::from("a.toml"), text: text.to_owned() }]).unwrap()
}

fn set(keys: &[&VerificationKey]) -> JwkSet {
    let named: Vec<(String, &VerificationKey)> = keys.iter().map(|key| (key.thumbprint(), *key)).collect();
    JwkSet::parse(JwkSet::write(named.iter().map(|(id, key)| (id.as_str(), *key))).as_bytes()).unwrap()
}

impl World {
    fn new() -> Self {
        let [own, outside, other, users] = [(); 4].map(|()| Signer::new());
        let issuer = |name: &str, signer: &Signer| {
            OutsideIssuer::new(name, [AUDIENCE.to_owned()]).with_keys(set(&[&signer.key]))
        };
        let mut of_users = issuer(USERS, &users);
        of_users.proves = Proves::Users;
        let trust = TokenTrust::default()
            .with_own(
                OwnIssuer::new(OWN, [AUDIENCE.to_owned()]).with_key(own.key.clone(), KeyStatus::Current),
            )
            .with_outside(issuer(OUTSIDE, &outside))
            .with_outside(issuer(OTHER, &other))
            .with_outside(of_users);
        Self { registry: registry(REGISTRY), own, outside, other, users, trust }
    }

    /// A token of our own for `ledger` with some claims changed; null takes one out.
    fn own_with(&self, changes: &Value) -> String {
        let claims = json!({
            "iss": OWN, "aud": AUDIENCE, "sub": "ledger", "client_id": "ledger", "cred": "ledger-key",
            "jti": "t1", "iat": NOW, "exp": NOW + 600, "scope": "orders:read",
        });
        self.own.sign(&self.own.header(), &changed(claims, changes))
    }

    fn outside_claims(changes: &Value) -> String {
        let claims = json!({
            "iss": OUTSIDE, "aud": AUDIENCE, "sub": "x", "client_id": "partner-client", "jti": "o1",
            "iat": NOW, "exp": NOW + 600, "scope": "orders:read",
        });
        changed(claims, changes)
    }

    fn outside_with(&self, changes: &Value) -> String {
        self.outside.sign(&self.outside.header(), &Self::outside_claims(changes))
    }

    fn prove_at(&self, token: &str, now: i64) -> Result<(), Objection> {
        let field = format!("Bearer {token}");
        let fields = [("authorization", field.as_bytes())];
        let bearer = Bearer::from_fields(fields, &self.trust).unwrap().unwrap();
        bearer.prove(None, Timestamp::from_unix(now)).map(|_| ())
    }

    fn prove(&self, token: &str) -> Result<(), Objection> {
        self.prove_at(token, NOW)
    }

    fn principal(&self, token: &str, certificate: Option<&Subject>) -> Result<Principal<'_>, Refusal> {
        let field = format!("Bearer {token}");
        let token = Bearer::from_fields([("authorization", field.as_bytes())], &self.trust)?;
        let headers = HeaderEvidence { token, ..HeaderEvidence::default() };
        let evidence = Evidence { certificate, headers };
        authenticate(&evidence, &self.registry, &Peppers::default(), Timestamp::from_unix(NOW))
    }

    fn app(&self, token: &str) -> Result<String, Refusal> {
        self.principal(token, None).map(|principal| principal.app().id.to_string())
    }
}

fn changed(mut claims: Value, changes: &Value) -> String {
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims.to_string()
}

fn subject(sha256: [u8; 32]) -> Subject {
    Subject {
        spiffe_id: "spiffe://td/ledger".parse().unwrap(),
        dns: Vec::new(),
        attributes: Vec::new(),
        distinguished_name: String::new(),
        serial: String::new(),
        issuer: String::new(),
        not_before: Timestamp::FLOOR,
        not_after: Timestamp::FLOOR,
        sha256,
        spki_sha256: [0; 32],
    }
}

fn nothing() -> Value {
    json!({})
}

#[test]
fn a_token_proves_its_app_and_says_how() {
    let world = World::new();

    for (token, app, credential) in [
        (world.own_with(&nothing()), "ledger", "ledger-key"),
        (world.outside_with(&nothing()), "partner", "partner-id"),
    ] {
        let principal = world.principal(&token, None).unwrap();
        assert_eq!((principal.app().id.as_str(), principal.credential().id.as_str()), (app, credential));
        assert_eq!(principal.kind(), CredentialKind::Token);
        assert_eq!(principal.kinds().to_string(), "token");
        assert_eq!(principal.token().unwrap().scopes(), ["orders:read"]);
    }
}

#[test]
fn no_algorithm_is_no_signature() {
    let world = World::new();
    assert_eq!(world.prove(&world.outside_with(&nothing())), Ok(()));

    for name in ["none", "None", "NONE", "nOnE", "", "eddsa", "HS256", "ES256", "RS256", "EdDSA "] {
        let header = json!({ "typ": "at+jwt", "alg": name, "kid": world.outside.id() });
        let signed = world.outside.sign(&header, &World::outside_claims(&nothing()));
        assert_eq!(world.prove(&signed), Err(Objection::Signature), "{name}");
        let bare = input(&header, &World::outside_claims(&nothing())) + ".";
        assert_eq!(world.prove(&bare), Err(Objection::Signature), "{name} unsigned");
    }
}

#[test]
fn a_public_key_is_no_shared_secret() {
    let mut world = World::new();
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let key = VerificationKey::p256(pair.public_key().as_ref()).unwrap();
    let issuer = OutsideIssuer::new(OUTSIDE, [AUDIENCE.to_owned()]).with_keys(set(&[&key]));
    world.trust = world.trust.with_outside(issuer);
    let claims = World::outside_claims(&nothing());
    let good = input(&json!({ "typ": "at+jwt", "alg": "ES256", "kid": key.thumbprint() }), &claims);
    let signature = pair.sign(&SystemRandom::new(), good.as_bytes()).unwrap();
    assert_eq!(world.prove(&format!("{good}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))), Ok(()));

    let jwk = Value::Object(key.to_jwk("k")).to_string();
    for secret in [pair.public_key().as_ref(), jwk.as_bytes()] {
        let forged = input(&json!({ "typ": "at+jwt", "alg": "HS256", "kid": key.thumbprint() }), &claims);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), forged.as_bytes());
        let forged = format!("{forged}.{}", BASE64URL_NOPAD.encode(tag.as_ref()));
        assert_eq!(world.prove(&forged), Err(Objection::Signature));
    }
}

#[test]
fn a_key_that_the_token_brings_along_is_not_believed() {
    let world = World::new();
    let thief = Signer::new();
    let claims = World::outside_claims(&nothing());
    let jwk = Value::Object(thief.key.to_jwk(&thief.id()));
    for (name, value) in [
        ("jwk", jwk),
        ("jku", json!("http://127.0.0.1:1/jwks")),
        ("x5u", json!("http://127.0.0.1:1/cert")),
        ("x5c", json!(["AAAA"])),
    ] {
        let mut header = thief.header();
        header[name] = value.clone();
        assert_eq!(world.prove(&thief.sign(&header, &claims)), Err(Objection::Key), "{name}");
        let mut header = world.outside.header();
        header[name] = value;
        assert_eq!(
            world.prove(&thief.sign(&header, &claims)),
            Err(Objection::Signature),
            "{name} and our kid"
        );
        assert_eq!(world.prove(&world.outside.sign(&header, &claims)), Ok(()), "{name} and our key");
    }
}

#[test]
fn a_kid_of_one_issuer_says_nothing_of_another() {
    let world = World::new();

    // The keys of `other` under the name of `outside`, and the other way round.
    let by_other = world.other.sign(&world.other.header(), &World::outside_claims(&nothing()));
    let as_other =
        world.outside.sign(&world.outside.header(), &World::outside_claims(&json!({ "iss": OTHER })));
    let mut header = world.other.header();
    header["kid"] = json!(world.outside.id());
    let with_its_kid = world.other.sign(&header, &World::outside_claims(&nothing()));

    assert_eq!(world.prove(&by_other), Err(Objection::Key));
    assert_eq!(world.prove(&as_other), Err(Objection::Key));
    assert_eq!(world.prove(&with_its_kid), Err(Objection::Signature));
}

#[test]
fn nobody_else_speaks_as_our_own_issuer() {
    let world = World::new();
    let claims = json!({
        "iss": OWN, "cred": "ledger-key", "sub": "ledger", "client_id": "ledger",
    });

    assert_eq!(world.prove(&world.outside_with(&claims)), Err(Objection::Key));
    // And nobody reaches a credential of ours by naming it under a name of their own.
    let named = world.outside_with(&json!({ "cred": "ledger-key", "sub": "ledger", "client_id": "ledger" }));
    assert_eq!(world.app(&named), Err(Refusal::UnmappedToken));
}

#[test]
fn an_issuer_is_known_letter_for_letter() {
    let world = World::new();
    for iss in
        ["https://id.test/", "https://ID.test", "http://id.test", " https://id.test", "https://id.test\u{0}"]
    {
        assert_eq!(world.prove(&world.outside_with(&json!({ "iss": iss }))), Err(Objection::Issuer), "{iss}");
    }
}

#[test]
fn a_token_for_somebody_else_is_refused() {
    let world = World::new();
    assert_eq!(world.prove(&world.outside_with(&json!({ "aud": ["x", AUDIENCE] }))), Ok(()));

    for aud in [json!("x"), json!(["x", "y"]), json!("https://orders.test/"), json!(OWN)] {
        assert_eq!(world.prove(&world.outside_with(&json!({ "aud": aud }))), Err(Objection::Audience));
        assert_eq!(world.prove(&world.own_with(&json!({ "aud": aud }))), Err(Objection::Audience));
    }
    assert!(matches!(world.prove(&world.outside_with(&json!({ "aud": null }))), Err(Objection::Claims(_))));
}

#[test]
fn an_id_token_is_no_access_token() {
    let mut world = World::new();
    let claims = World::outside_claims(&json!({ "nonce": "n", "at_hash": "h" }));
    let mut header = world.outside.header();
    header["typ"] = json!("JWT");
    let id_token = world.outside.sign(&header, &claims);
    let untyped = world.outside.sign(&header, &World::outside_claims(&nothing()));
    assert_eq!(world.prove(&id_token), Err(Objection::Kind));
    assert_eq!(world.prove(&untyped), Err(Objection::Kind));

    // An issuer whose access tokens say no more than JWT: its ID tokens give themselves away.
    let mut lenient =
        OutsideIssuer::new(OUTSIDE, [AUDIENCE.to_owned()]).with_keys(set(&[&world.outside.key]));
    lenient.kinds = vec!["JWT".to_owned()];
    world.trust = world.trust.with_outside(lenient);

    assert_eq!(world.prove(&untyped), Ok(()));
    assert_eq!(world.prove(&id_token), Err(Objection::Kind));
    let keycloak = world.outside.sign(&header, &World::outside_claims(&json!({ "typ": "ID" })));
    assert_eq!(world.prove(&keycloak), Err(Objection::Kind));
}

#[test]
fn an_algorithm_that_is_not_taken_of_an_issuer_is_refused() {
    let mut world = World::new();
    let mut strict = OutsideIssuer::new(OUTSIDE, [AUDIENCE.to_owned()]).with_keys(set(&[&world.outside.key]));
    strict.algorithms = vec![super::Algorithm::Rs256];
    assert_eq!(world.prove(&world.outside_with(&nothing())), Ok(()));

    world.trust = world.trust.with_outside(strict);

    assert_eq!(world.prove(&world.outside_with(&nothing())), Err(Objection::Key));
}

#[test]
fn a_token_ends_to_the_second_with_five_seconds_either_way() {
    let world = World::new();
    for token in [world.own_with(&nothing()), world.outside_with(&nothing())] {
        assert_eq!(world.prove_at(&token, NOW - 6), Err(Objection::NotYet));
        assert_eq!(world.prove_at(&token, NOW - 5), Ok(()));
        assert_eq!(world.prove_at(&token, NOW + 604), Ok(()));
        assert_eq!(world.prove_at(&token, NOW + 605), Err(Objection::Expired));
    }
    for changes in [json!({ "exp": null }), json!({ "exp": 1.8e9 }), json!({ "exp": "1800000600" })] {
        assert!(matches!(world.prove(&world.outside_with(&changes)), Err(Objection::Claims(_))), "{changes}");
    }
}

#[test]
fn a_member_that_stands_twice_is_two_tokens_in_one() {
    let world = World::new();
    let claims = World::outside_claims(&nothing());
    let twice = claims.replacen('{', "{\"client_id\":\"partner-client\",", 1);

    let token = world.outside.sign(&world.outside.header(), &twice);

    assert!(matches!(world.prove(&token), Err(Objection::Claims(_))));
}

#[test]
fn our_own_token_is_whole() {
    let world = World::new();
    for name in ["jti", "iat", "sub", "client_id", "cred"] {
        let token = world.own_with(&json!({ name: null }));
        assert_eq!(world.prove(&token), Err(Objection::Unfinished), "{name}");
    }
    assert_eq!(world.prove(&world.own_with(&json!({ "client_id": "partner" }))), Err(Objection::Unfinished));
    // Somebody else's credential does not make it somebody else's token.
    assert_eq!(world.app(&world.own_with(&json!({ "cred": "partner-id" }))), Err(Refusal::InvalidCredential));
    assert_eq!(world.app(&world.own_with(&json!({ "cred": "gone" }))), Err(Refusal::CredentialRevoked));
    let mut header = world.own.header();
    header["typ"] = json!("JWT");
    let claims = json!({ "iss": OWN, "aud": AUDIENCE, "exp": NOW + 1 }).to_string();
    assert_eq!(world.prove(&world.own.sign(&header, &claims)), Err(Objection::Kind));
}

#[test]
fn a_revoked_credential_takes_its_unexpired_tokens_with_it() {
    let mut world = World::new();
    let token = world.own_with(&nothing());
    assert_eq!(world.app(&token), Ok("ledger".to_owned()));

    for (line, expected) in [
        ("status = 'revoked'", Refusal::CredentialRevoked),
        ("status = 'pending'", Refusal::CredentialPending),
        ("expires = 2026-02-01T00:00:00Z", Refusal::CredentialExpired),
    ] {
        let text = REGISTRY.replacen("id = 'ledger-key'", &format!("id = 'ledger-key'\n{line}"), 1);
        world.registry = registry(&text);
        assert_eq!(world.app(&token), Err(expected), "{line}");
        let text = REGISTRY.replacen("id = 'partner-id'", &format!("id = 'partner-id'\n{line}"), 1);
        world.registry = registry(&text);
        assert_eq!(world.app(&world.outside_with(&nothing())), Err(expected), "{line} of an outside token");
    }
}

#[test]
fn what_was_taken_back_stays_out() {
    let mut world = World::new();
    let (own, outside) = (world.own_with(&nothing()), world.outside_with(&nothing()));
    let until = Timestamp::from_unix(NOW + 605);

    world.trust = world.trust.with_denied(Denied::default().with_token(OWN, "t1", until));
    assert_eq!(world.prove(&own), Err(Objection::TakenBack));
    assert_eq!(world.app(&own), Err(Refusal::TokenRevoked));
    assert_eq!(world.prove(&outside), Ok(()));
    assert_eq!(world.prove(&world.own_with(&json!({ "jti": "t2" }))), Ok(()));

    world.trust = world.trust.with_denied(Denied::default().with_token(OUTSIDE, "o1", until));
    assert_eq!(world.prove(&outside), Err(Objection::TakenBack));

    world.trust = world.trust.with_denied(Denied::default().with_key(&world.own.id()));
    assert_eq!(world.prove(&own), Err(Objection::TakenBack));
}

#[test]
fn a_killed_key_is_believed_no_more_and_a_retired_one_until_its_end() {
    let mut world = World::new();
    let token = world.own_with(&nothing());
    let mut with = |status| {
        let own = OwnIssuer::new(OWN, [AUDIENCE.to_owned()]).with_key(world.own.key.clone(), status);
        world.trust = world.trust.clone().with_own(own);
        world.prove(&token)
    };

    assert_eq!(with(KeyStatus::Current), Ok(()));
    assert_eq!(with(KeyStatus::Killed), Err(Objection::TakenBack));
    assert_eq!(with(KeyStatus::Retired { until: Timestamp::from_unix(NOW + 1) }), Ok(()));
    assert_eq!(with(KeyStatus::Retired { until: Timestamp::from_unix(NOW - 5) }), Err(Objection::Key));
}

/// > If they do not match, the resource access attempt MUST be rejected with an error, per [RFC6750], using an HTTP 401 status
/// > code and the "invalid_token" error code. — RFC 8705 §3
#[test]
fn a_bound_token_is_worth_nothing_without_its_certificate() {
    let world = World::new();
    let thumbprint = BASE64URL_NOPAD.encode(&[7; 32]);
    let token = world.own_with(&json!({ "cnf": { "x5t#S256": thumbprint } }));
    let principal = |certificate: Option<&Subject>| {
        world.principal(&token, certificate).map(|principal| principal.kinds().to_string())
    };

    assert_eq!(principal(Some(&subject([7; 32]))), Ok("mtls+token".to_owned()));
    assert_eq!(principal(Some(&subject([8; 32]))), Err(Refusal::TokenBindingFailed));
    assert_eq!(principal(None), Err(Refusal::TokenBindingFailed));
    let by_key = world.own_with(&json!({ "cnf": { "jkt": thumbprint } }));
    assert!(matches!(world.prove(&by_key), Err(Objection::Claims(_))));
}

#[test]
fn a_rule_asks_for_all_of_its_claims() {
    let world = World::new();
    let of = |changes: &Value| world.app(&world.outside_with(changes));

    assert_eq!(of(&json!({ "client_id": "shared-client", "tenant": "eu" })), Ok("eu".to_owned()));
    assert_eq!(of(&json!({ "client_id": "shared-client", "tenant": "us" })), Ok("us".to_owned()));
    for changes in [
        json!({ "client_id": "shared-client" }),
        json!({ "client_id": "shared-client", "tenant": "EU" }),
        json!({ "client_id": "shared-client", "tenant": ["eu"] }),
        json!({ "client_id": "unknown" }),
        json!({ "client_id": null, "azp": "partner-client" }),
        json!({ "client_id": null, "sub": "partner-client" }),
    ] {
        assert_eq!(of(&changes), Err(Refusal::UnmappedToken), "{changes}");
    }
}

#[test]
fn a_user_comes_with_an_app_and_never_alone() {
    let world = World::new();
    let claims =
        json!({ "iss": USERS, "aud": AUDIENCE, "sub": "alice", "client_id": "portal", "exp": NOW + 600 });
    let token = world.users.sign(&world.users.header(), &claims.to_string());
    assert_eq!(world.prove(&token), Ok(()));

    let principal = world.principal(&token, Some(&subject([7; 32]))).unwrap();

    assert_eq!(principal.app().id.as_str(), "ledger");
    assert_eq!(principal.kinds().to_string(), "mtls+user_token");
    assert_eq!(principal.kind(), CredentialKind::Mtls);
    assert_eq!(principal.token().and_then(|token| token.user()), Some("alice"));
    assert_eq!(world.app(&token), Err(Refusal::MissingCredential));
    let nobody = world.users.sign(&world.users.header(), &changed(claims, &json!({ "sub": null })));
    assert_eq!(world.prove(&nobody), Err(Objection::Unfinished));
}

#[test]
fn an_app_says_its_own_name_only() {
    let world = World::new();

    let principal = world.principal(&world.own_with(&nothing()), Some(&subject([7; 32]))).unwrap();
    assert_eq!(principal.kinds().to_string(), "mtls+token");

    let other = world.principal(&world.outside_with(&nothing()), Some(&subject([7; 32])));
    assert_eq!(other.err(), Some(Refusal::PrincipalMismatch));
}

#[test]
fn a_token_is_read_from_one_field_exactly_once() {
    let world = World::new();
    let read = |values: &[&str]| {
        let fields = values.iter().map(|value| ("Authorization", value.as_bytes()));
        Bearer::from_fields(fields, &world.trust).map(|found| found.is_some())
    };

    assert_eq!(read(&["Bearer x"]), Ok(true));
    assert_eq!(read(&["bEARER x"]), Ok(true));
    assert_eq!(read(&["Bearer"]), Ok(true));
    assert_eq!(read(&["Bearer x", "Bearer x"]), Err(Refusal::DuplicateCredential));
    assert_eq!(read(&["Basic x", "Bearer x"]), Err(Refusal::DuplicateCredential));
    assert_eq!(read(&["Basic x"]), Ok(false));
    assert_eq!(read(&["Bearerx"]), Ok(false));
    assert_eq!(read(&[]), Ok(false));
    for value in ["Bearer", "Bearer ", "Bearer x", "Bearer x, Bearer y"] {
        let bearer =
            Bearer::from_fields([("authorization", value.as_bytes())], &world.trust).unwrap().unwrap();
        let refusal = bearer.prove(None, Timestamp::from_unix(NOW)).err().map(Objection::refusal);
        assert_eq!(refusal, Some(Refusal::InvalidCredential), "{value}");
    }
}

#[test]
fn where_nobody_is_believed_a_token_is_none_of_our_business() {
    let nobody = TokenTrust::default();

    let found = Bearer::from_fields([("authorization", b"Bearer x".as_slice())], &nobody);

    assert!(found.unwrap().is_none());
}

#[test]
fn an_unknown_key_of_a_known_issuer_asks_for_a_fetch_and_nothing_else_does() {
    let mut world = World::new();
    let flag = Arc::new(AtomicBool::new(false));
    let issuer = OutsideIssuer::new(OUTSIDE, [AUDIENCE.to_owned()]).with_keys(set(&[&world.outside.key]));
    world.trust = world.trust.with_outside(issuer.with_unknown_key(Arc::clone(&flag)));
    let next = Signer::new();

    assert_eq!(world.prove(&world.outside_with(&nothing())), Ok(()));
    assert_eq!(
        world.prove(&world.outside_with(&json!({ "iss": "https://nobody.test" }))),
        Err(Objection::Issuer)
    );
    assert!(!flag.load(Ordering::Relaxed));

    let token = next.sign(&next.header(), &World::outside_claims(&nothing()));

    assert_eq!(world.prove(&token), Err(Objection::Key));
    assert!(flag.load(Ordering::Relaxed));
}
