//! Tokens of our own: who gets one, what it is good for, and how it is taken back.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "a skipped test must not look like one that ran")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use postern::admin::WithdrawOrder;
use postern::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};
use support::world::{GRANT, Key, postern};
use support::{Answer, Identity, Scene, Service, Talk, Tls, World, eventually, python_with, write};
use tokio::time::Instant;

const ISSUER: &str = "https://localhost:8443";

/// An agent that issues tokens at its listener, and the app `web` with a client secret. `caller` has a certificate only.
fn scene(service: &Service, tokens: &str) -> (Scene, Key) {
    let mut scene = Scene::guarding(service.address);
    scene.config(&format!("[token]\nissuer = \"{ISSUER}\"\nlisteners = [\"inbound\"]\n{tokens}"));
    let secret = scene.client_secret();
    scene.app("web", &format!("accepts = [[\"token\"]]\n{}{GRANT}", secret.secret_table()));
    (scene, secret)
}

async fn guarded(tokens: &str) -> (World, Service, Key) {
    let service = Service::start().await;
    let (scene, secret) = scene(&service, tokens);
    (scene.start().await, service, secret)
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn form(parameters: &[(&str, &str)]) -> String {
    let pairs = parameters.iter().map(|(name, value)| format!("{name}={}", encoded(value)));
    pairs.collect::<Vec<_>>().join("&")
}

fn basic(client: &str, secret: &str) -> String {
    format!(
        "authorization: Basic {}\r\n",
        BASE64.encode(format!("{}:{}", encoded(client), encoded(secret)).as_bytes())
    )
}

fn request(path: &str, lines: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: {}\r\n{lines}\r\n{body}",
        body.len()
    )
}

async fn post(world: &World, identity: Option<&Identity>, path: &str, lines: &str, body: &str) -> Answer {
    world.talk(identity).await.ask(&request(path, lines, body)).await
}

/// Asks for a token with a client secret, in the body.
async fn ask(world: &World, secret: &Key, more: &[(&str, &str)]) -> Answer {
    let parameters = [
        &[("grant_type", "client_credentials"), ("client_id", "web"), ("client_secret", &secret.text)],
        more,
    ];
    post(world, None, "/oauth/token", "", &form(&parameters.concat())).await
}

async fn token(world: &World, secret: &Key) -> String {
    let answer = ask(world, secret, &[]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

fn part(token: &str, number: usize) -> Value {
    let part = token.split('.').nth(number).unwrap();
    serde_json::from_slice(&BASE64URL_NOPAD.decode(part.as_bytes()).unwrap()).unwrap()
}

fn claims(token: &str) -> Value {
    part(token, 1)
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

/// What becomes of a request that comes with this token.
async fn call(world: &World, identity: Option<&Identity>, token: &str) -> Answer {
    world.talk(identity).await.get("/a", &bearer(token)).await
}

async fn introspect(world: &World, secret: &Key, token: &str) -> Value {
    let body = form(&[("token", token), ("client_id", "web"), ("client_secret", &secret.text)]);
    let answer = post(world, None, "/oauth/introspect", "", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn error(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["error"].as_str().unwrap_or_default().to_owned())
}

/// A key that signs assertions.
struct ClientKey(EcdsaKeyPair);

impl ClientKey {
    fn new() -> Self {
        let made =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        Self(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, made.as_ref()).unwrap())
    }

    /// The private key, as PEM.
    fn pem(&self) -> String {
        let text = BASE64.encode(self.0.to_pkcs8v1().unwrap().as_ref());
        format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
    }

    fn table(&self, id: &str) -> String {
        let point = self.0.public_key().as_ref();
        let (x, y) = (BASE64URL_NOPAD.encode(&point[1..33]), BASE64URL_NOPAD.encode(&point[33..]));
        format!(
            "[[app.client_key]]\nid = \"{id}\"\nalgorithm = \"ES256\"\n\
             public_key = '{{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"{x}\",\"y\":\"{y}\"}}'\n"
        )
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let text = format!("{}.{}", part(header), part(claims));
        let signature = self.0.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
    }
}

#[tokio::test]
async fn a_client_gets_a_token_and_the_token_opens_the_door() {
    let (world, service, secret) = guarded("").await;

    let answer = ask(&world, &secret, &[]).await;

    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let body = answer.json();
    let mut names: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["access_token", "expires_in", "scope", "token_type"]);
    assert_eq!((&body["token_type"], &body["expires_in"]), (&json!("Bearer"), &json!(600)));
    assert_eq!(body["scope"], "orders:read");
    let token = body["access_token"].as_str().unwrap();
    assert_eq!(part(token, 0)["typ"], "at+jwt");
    let claims = claims(token);
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!(ISSUER), &json!(ISSUER)));
    assert_eq!((&claims["sub"], &claims["client_id"]), (&json!("web"), &json!("web")));
    assert_eq!((&claims["cred"], &claims["scope"]), (&json!(secret.id), &json!("orders:read")));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 600);
    assert!(claims.get("cnf").is_none());

    let served = call(&world, None, token).await;
    assert_eq!(served.status, 200, "{}", served.text());
    let seen = service.last();
    assert_eq!(seen.values("x-postern-app"), ["web"]);
    assert_eq!(seen.values("authorization"), [""; 0], "the token stays here");
    assert_eq!(call(&world, None, &format!("{token}x")).await.status, 401);
}

#[tokio::test]
async fn the_secret_of_a_client_is_good_for_tokens_and_nothing_else() {
    let (world, _service, secret) = guarded("").await;

    assert_eq!(ask(&world, &secret, &[]).await.status, 200);
    let by_key = world.talk(None).await.get("/a", &secret.line()).await;
    assert_eq!((by_key.status, by_key.code().as_str()), (401, "invalid-credential"));
    assert_eq!(call(&world, None, &secret.text).await.status, 401);
}

#[tokio::test]
async fn errors_are_those_of_rfc_6749() {
    let (world, _service, secret) = guarded("").await;
    let good = [("grant_type", "client_credentials"), ("client_id", "web"), ("client_secret", &*secret.text)];
    let with = |name: &str, value: &str| {
        let others = good.iter().filter(|(known, _)| *known != name);
        form(&others.copied().chain([(name, value)]).collect::<Vec<_>>())
    };
    let without =
        |name: &str| form(&good.iter().filter(|(known, _)| *known != name).copied().collect::<Vec<_>>());
    let plain = form(&good);
    assert_eq!(post(&world, None, "/oauth/token", "", &plain).await.status, 200);

    let other = "pstn_cs_0000000000A1_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf3lksCr";
    for (what, lines, body, expected) in [
        ("no grant type", "", without("grant_type"), (400, "invalid_request")),
        ("the grant of passwords", "", with("grant_type", "password"), (400, "unsupported_grant_type")),
        ("the grant of codes", "", with("grant_type", "authorization_code"), (400, "unsupported_grant_type")),
        ("refreshing", "", with("grant_type", "refresh_token"), (400, "unsupported_grant_type")),
        ("implicit", "", with("grant_type", "implicit"), (400, "unsupported_grant_type")),
        (
            "a device",
            "",
            with("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            (400, "unsupported_grant_type"),
        ),
        ("a parameter twice", "", format!("{plain}&scope=a&scope=a"), (400, "invalid_request")),
        ("the client twice", "", format!("{plain}&client_id=web"), (400, "invalid_request")),
        ("broken encoding", "", format!("{plain}&scope=%zz"), (400, "invalid_request")),
        ("no client", "", without("client_id"), (400, "invalid_request")),
        ("nothing of a client", "", form(&good[..2]), (401, "invalid_client")),
        ("an unknown client", "", with("client_id", "nobody"), (401, "invalid_client")),
        ("an unknown secret", "", with("client_secret", other), (401, "invalid_client")),
        ("a malformed secret", "", with("client_secret", "secret"), (401, "invalid_client")),
        ("another app", "", with("client_id", "caller"), (401, "invalid_client")),
        ("two methods", &*basic("web", &secret.text), plain.clone(), (400, "invalid_request")),
        (
            "two Authorization fields",
            &*format!("{0}{0}", basic("web", &secret.text)),
            without("client_secret"),
            (400, "invalid_request"),
        ),
        ("another scheme", "authorization: Bearer x\r\n", without("client_secret"), (401, "invalid_client")),
        ("broken Basic", "authorization: Basic %%%\r\n", without("client_secret"), (401, "invalid_client")),
        (
            "Basic of another client",
            &*basic("caller", &secret.text),
            form(&good[..1]),
            (401, "invalid_client"),
        ),
        (
            "Basic and another client_id",
            &*basic("web", &secret.text),
            with("client_id", "caller").replace("client_secret", "x"),
            (400, "invalid_request"),
        ),
        ("foreign scopes only", "", with("scope", "a b"), (400, "invalid_scope")),
        ("a malformed scope", "", with("scope", "a  b"), (400, "invalid_request")),
        ("a foreign resource", "", with("resource", "https://elsewhere.test"), (400, "invalid_target")),
    ] {
        let answer = post(&world, None, "/oauth/token", lines, &body).await;
        assert_eq!(error(&answer), (expected.0, expected.1.to_owned()), "{what}: {}", answer.text());
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{what}");
        let challenge = answer.header("www-authenticate").is_some_and(|value| value.starts_with("Basic "));
        assert_eq!(challenge, expected.0 == 401, "{what}");
        assert!(!answer.text().contains(&secret.text), "{what}");
    }

    let unknown = post(&world, None, "/oauth/token", "", &with("client_id", "nobody")).await;
    let wrong = post(&world, None, "/oauth/token", "", &with("client_secret", other)).await;
    assert_eq!(unknown.body, wrong.body);
}

#[tokio::test]
async fn the_request_is_a_form_in_the_body_and_nothing_else() {
    let (world, _service, secret) = guarded("").await;
    let body =
        form(&[("grant_type", "client_credentials"), ("client_id", "web"), ("client_secret", &secret.text)]);
    let mut talk = world.talk(None).await;
    assert_eq!(talk.ask(&request("/oauth/token", "", &body)).await.status, 200);

    let in_url = post(&world, None, &format!("/oauth/token?{body}"), "", "").await;
    assert_eq!(error(&in_url), (400, "invalid_request".to_owned()));
    let get = world.talk(None).await.get(&format!("/oauth/token?{body}"), "").await;
    assert_eq!((get.status, get.header("allow")), (405, Some("POST")));
    for kind in
        ["application/json", "multipart/form-data", "application/x-www-form-urlencoded; charset=latin1"]
    {
        let other = request("/oauth/token", "", &body).replace("application/x-www-form-urlencoded", kind);
        let answer = world.talk(None).await.ask(&other).await;
        assert_eq!(error(&answer), (400, "invalid_request".to_owned()), "{kind}");
    }
    let long = post(&world, None, "/oauth/token", "", &format!("{body}&x={}", "x".repeat(16 * 1024))).await;
    assert_eq!(error(&long), (413, "invalid_request".to_owned()));

    let chunked = format!(
        "POST /oauth/token HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\ncontent-type: \
         application/x-www-form-urlencoded\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    assert_eq!(talk.ask(&chunked).await.status, 200, "also on a connection that is kept");
    let expecting = request("/oauth/token", "expect: 100-continue\r\n", "")
        .replace("content-length: 0", &format!("content-length: {}", body.len()));
    assert_eq!(talk.ask(&expecting).await.status, 100);
    assert_eq!(talk.ask(&body).await.status, 200);
    let h2 = world.h2(None).await;
    let ask = |body: String| {
        let request = http::Request::post("https://localhost/oauth/token");
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        h2.ask(request.body(()).unwrap(), Some(body.into()), None)
    };
    assert_eq!(ask(body.clone()).await.unwrap().status, 200);
    assert_eq!(ask("grant_type=x".to_owned()).await.unwrap().status, 400);
}

#[tokio::test]
async fn a_scope_is_what_was_asked_for_as_far_as_products_convey_it() {
    let (world, _service, secret) =
        guarded("audiences = [\"https://localhost:8443\", \"https://b.test\"]\n").await;

    let same = ask(&world, &secret, &[("scope", "orders:read")]).await.json();
    assert_eq!(same.get("scope"), None, "it is what was asked for");
    let less = ask(&world, &secret, &[("scope", "orders:write orders:read")]).await.json();
    assert_eq!(less["scope"], "orders:read");
    assert_eq!(claims(less["access_token"].as_str().unwrap())["scope"], "orders:read");

    let meant = ask(&world, &secret, &[("resource", "https://b.test")]).await.json();
    assert_eq!(claims(meant["access_token"].as_str().unwrap())["aud"], "https://b.test");
    let both = ask(&world, &secret, &[("resource", "https://b.test"), ("resource", ISSUER)]).await.json();
    assert_eq!(claims(both["access_token"].as_str().unwrap())["aud"], json!(["https://b.test", ISSUER]));
}

#[tokio::test]
async fn basic_is_decoded_as_rfc_6749_says() {
    let (world, _service, secret) = guarded("").await;

    let answer =
        post(&world, None, "/oauth/token", &basic("web", &secret.text), "grant_type=client_credentials")
            .await;

    assert_eq!(answer.status, 200, "{}", answer.text());
    let as_bytes = BASE64.encode(format!("%77eb:{}", secret.text).as_bytes());
    let line = format!("authorization: basic {as_bytes}\r\n");
    assert_eq!(post(&world, None, "/oauth/token", &line, "grant_type=client_credentials").await.status, 200);
}

#[tokio::test]
async fn a_certificate_is_as_good_as_a_secret_and_its_token_is_bound_to_it() {
    let (world, _service, secret) = guarded("").await;
    let caller = world.identity("caller");
    let body = form(&[("grant_type", "client_credentials"), ("client_id", "caller")]);

    let answer = post(&world, Some(&caller), "/oauth/token", "", &body).await;

    assert_eq!(answer.status, 200, "{}", answer.text());
    let token = answer.json()["access_token"].as_str().unwrap().to_owned();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, caller.chain[0].as_ref());
    assert_eq!(claims(&token)["cnf"]["x5t#S256"], BASE64URL_NOPAD.encode(digest.as_ref()));
    assert_eq!(claims(&token)["cred"], "caller-svid");
    assert_eq!(call(&world, Some(&caller), &token).await.status, 200);
    assert_eq!(call(&world, None, &token).await.status, 401, "a thief has the token only");

    let refused = |answer: Answer| error(&answer);
    let invalid = (401, "invalid_client".to_owned());
    let other = form(&[("grant_type", "client_credentials"), ("client_id", "web")]);
    assert_eq!(refused(post(&world, Some(&caller), "/oauth/token", "", &other).await), invalid);
    let bare = "grant_type=client_credentials";
    assert_eq!(error(&post(&world, Some(&caller), "/oauth/token", "", bare).await).1, "invalid_request");
    assert_eq!(refused(post(&world, None, "/oauth/token", "", &body).await), invalid);
    let nobody = world.identity("nobody");
    assert_eq!(refused(post(&world, Some(&nobody), "/oauth/token", "", &body).await), invalid);
    let both =
        form(&[("grant_type", "client_credentials"), ("client_id", "web"), ("client_secret", &secret.text)]);
    let mixed = post(&world, Some(&caller), "/oauth/token", "", &both).await;
    assert_eq!(refused(mixed), invalid, "the certificate is of another app");
}

#[tokio::test]
async fn a_token_never_outlives_the_certificate_that_it_is_bound_to() {
    let service = Service::start().await;
    let (mut scene, _) = scene(&service, "ttl = \"1h\"\n");
    scene.amend_config("[[workload]]\nid = \"caller\"\n", "[[workload]]\nid = \"caller\"\nttl = \"10m\"\n");
    let world = scene.start().await;
    let caller = world.identity("caller");

    let body = form(&[("grant_type", "client_credentials"), ("client_id", "caller")]);
    let answer = post(&world, Some(&caller), "/oauth/token", "", &body).await.json();

    let left = answer["expires_in"].as_u64().unwrap();
    assert!((500..=600).contains(&left), "{left}");
}

#[tokio::test]
async fn an_assertion_proves_a_client_once() {
    let service = Service::start().await;
    let (mut scene, _) = scene(&service, "");
    let (key, stranger) = (ClientKey::new(), ClientKey::new());
    scene.app("signer", &format!("{}{GRANT}", key.table("signer-2026")));
    let world = scene.start().await;
    let now = SystemClock.now().unix();
    let header = json!({ "alg": "ES256", "kid": "signer-2026", "typ": "JWT" });
    let good = json!({
        "iss": "signer", "sub": "signer", "aud": format!("{ISSUER}/oauth/token"), "jti": "one", "iat": now, "exp": now + 60
    });
    let ask = async |assertion: &str| {
        let body = form(&[
            ("grant_type", "client_credentials"),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", assertion),
        ]);
        let answer = post(&world, None, "/oauth/token", "", &body).await;
        (answer.status, answer.json())
    };
    // The agent believes no assertion that is older than itself.
    let assertion = key.sign(&header, &good);
    let (status, body) = ask(&assertion).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(claims(body["access_token"].as_str().unwrap())["cred"], "signer-2026");

    let (status, body) = ask(&assertion).await;
    assert_eq!((status, &body["error"]), (401, &json!("invalid_client")), "a replay");
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims["jti"] = json!(format!("{name} {value}"));
        claims[name] = value;
        claims
    };
    assert_eq!(ask(&key.sign(&header, &with("aud", json!(ISSUER)))).await.0, 200);
    assert_eq!(
        ask(&key.sign(&json!({ "alg": "ES256" }), &with("x", json!(1)))).await.0,
        200,
        "there is one key only"
    );
    for (what, header, claims) in [
        ("another audience", &header, with("aud", json!("https://elsewhere.test"))),
        ("another subject", &header, with("sub", json!("web"))),
        ("it has ended", &header, with("exp", json!(now - 60))),
        ("it ends too late", &header, with("exp", json!(now + 3700))),
        ("it begins later", &header, with("nbf", json!(now + 60))),
        ("no name", &header, with("jti", Value::Null)),
        ("no audience", &header, with("aud", Value::Null)),
        ("another client", &header, with("iss", json!("web"))),
        ("another key", &json!({ "alg": "ES256", "kid": "other" }), with("y", json!(1))),
        ("another algorithm", &json!({ "alg": "EdDSA", "kid": "signer-2026" }), with("y", json!(2))),
        ("none", &json!({ "alg": "none", "kid": "signer-2026" }), with("y", json!(3))),
        (
            "an access token",
            &json!({ "alg": "ES256", "kid": "signer-2026", "typ": "at+jwt" }),
            with("y", json!(4)),
        ),
    ] {
        let (status, body) = ask(&key.sign(header, &claims)).await;
        assert_eq!((status, &body["error"]), (401, &json!("invalid_client")), "{what}: {body}");
    }
    assert_eq!(ask(&stranger.sign(&header, &with("z", json!(1)))).await.0, 401, "another's signature");
}

#[tokio::test]
async fn whoever_guesses_secrets_is_made_to_wait() {
    let service = Service::start().await;
    let (mut scene, secret) = scene(&service, "");
    scene.config("[limits]\nfailed_keys = \"1/min\"\nfailed_keys_burst = 2\n");
    let world = scene.start().await;
    assert_eq!(ask(&world, &secret, &[]).await.status, 200);
    let wrong = Key {
        text: "pstn_cs_0000000000A1_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf3lksCr".into(),
        ..secret.clone()
    };

    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(ask(&world, &wrong, &[]).await.status);
    }

    assert_eq!(statuses, [401, 401, 401, 429]);
    let waits = ask(&world, &secret, &[]).await;
    assert_eq!(waits.status, 429);
    assert!(waits.header("retry-after").is_some());
}

#[tokio::test]
async fn guesses_at_the_token_endpoint_are_noticed_like_any_others() {
    let service = Service::start().await;
    let (scene, secret) = scene(&service, "");
    let world = scene.start().await;
    assert_eq!(ask(&world, &secret, &[]).await.status, 200);
    let wrong = Key {
        text: "pstn_cs_0000000000A1_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf3lksCr".into(),
        ..secret.clone()
    };

    for _ in 0..20 {
        assert_eq!(ask(&world, &wrong, &[]).await.status, 401);
    }

    let found = async || {
        let detections = world.status().await.detections;
        detections.into_iter().find(|one| one.kind == "credentials.failed")
    };
    assert_eq!(eventually("failures", found).await.about, "127.0.0.0/24");
}

#[tokio::test]
async fn the_metadata_name_what_is_there() {
    let (world, _service, secret) = guarded("algorithm = \"EdDSA\"\n").await;

    let answer = world.talk(None).await.get("/.well-known/oauth-authorization-server", "").await;

    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let document = answer.json();
    assert_eq!(document["issuer"], ISSUER);
    assert_eq!(document["token_endpoint"], format!("{ISSUER}/oauth/token"));
    assert_eq!(document["grant_types_supported"], json!(["client_credentials"]));
    assert_eq!(document["response_types_supported"], json!([]), "it is a required member");
    assert_eq!(document["tls_client_certificate_bound_access_tokens"], true);
    for endpoint in ["jwks_uri", "introspection_endpoint", "revocation_endpoint"] {
        assert!(document[endpoint].as_str().unwrap().starts_with(&format!("{ISSUER}/oauth/")), "{endpoint}");
    }
    let keys = world.talk(None).await.get("/oauth/jwks", "").await;
    assert_eq!(keys.header("content-type"), Some("application/jwk-set+json"));
    let key = &keys.json()["keys"][0];
    assert_eq!((&key["alg"], &key["use"], &key["kty"]), (&json!("EdDSA"), &json!("sig"), &json!("OKP")));
    assert_eq!(key["kid"], part(&token(&world, &secret).await, 0)["kid"]);
    assert!(key.get("d").is_none());
}

#[tokio::test]
async fn introspection_tells_how_a_token_stands_now() {
    let (mut world, _service, secret) = guarded("introspectors = [\"stranger\"]\n").await;
    let token = token(&world, &secret).await;

    let told = introspect(&world, &secret, &token).await;

    assert_eq!((&told["active"], &told["token_type"]), (&json!(true), &json!("Bearer")));
    for name in ["scope", "client_id", "exp", "iat", "sub", "aud", "iss", "jti"] {
        assert_eq!(told[name], claims(&token)[name], "{name}");
    }
    assert_eq!(told.get("cred"), None);
    let dead = json!({ "active": false });
    for nonsense in ["x", "a.b.c", &token[1..], &format!("{token}A")] {
        assert_eq!(introspect(&world, &secret, nonsense).await, dead, "{nonsense}");
    }
    let body = form(&[("token", &*token), ("client_id", "caller")]);
    let by_other = post(&world, Some(&world.identity("caller")), "/oauth/introspect", "", &body).await;
    assert_eq!(by_other.json(), dead, "it is another's, and caller is no introspector");
    let body = form(&[("token", &*token), ("client_id", "stranger")]);
    let by_resource = post(&world, Some(&world.identity("stranger")), "/oauth/introspect", "", &body).await;
    assert_eq!(by_resource.json()["active"], true);
    let unproven = post(&world, None, "/oauth/introspect", "", &form(&[("token", &*token)])).await;
    assert_eq!(error(&unproven), (401, "invalid_client".to_owned()));

    let apps = world.path().join("registry/apps.toml");
    write(&apps, &world.registry().replace("id = \"web\"", "id = \"web\"\nstatus = \"revoked\""));
    let ask = async || {
        let answer = post(&world, Some(&world.identity("stranger")), "/oauth/introspect", "", &body).await;
        (answer.json() == dead).then_some(())
    };
    eventually("the app's end shows", ask).await;
    world.restart().await;
}

#[tokio::test]
async fn a_token_lives_no_longer_than_what_it_rests_on() {
    let (world, _service, secret) = guarded("").await;
    let first = token(&world, &secret).await;
    assert_eq!(call(&world, None, &first).await.status, 200);

    let revoked = postern(world.path()).args(["key", "revoke", &secret.id]).output().unwrap();

    assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
    let mut talk = world.talk(None).await;
    refused_soon(&mut talk, &first, "its credential is revoked").await;
    assert_eq!(error(&ask(&world, &secret, &[]).await), (401, "invalid_client".to_owned()));
}

/// Asks on one connection every 10 ms until the token is refused, which must happen within a second.
async fn refused_soon(talk: &mut Talk<Tls>, token: &str, why: &str) -> Duration {
    let begun = Instant::now();
    loop {
        let answer = talk.get("/a", &bearer(token)).await;
        if answer.status != 200 {
            assert_eq!(answer.status, 401, "{why}: {}", answer.text());
            return begun.elapsed();
        }
        assert!(begun.elapsed() < Duration::from_secs(1), "{why}: it is still taken");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_revoked_token_is_refused_within_a_second_on_live_connections_and_after_a_restart() {
    let (mut world, _service, secret) = guarded("").await;
    let (doomed, spared) = (token(&world, &secret).await, token(&world, &secret).await);
    // So many connections that each of the two threads has some.
    let mut talks = Vec::new();
    for _ in 0..8 {
        talks.push(world.talk(None).await);
    }
    for talk in &mut talks {
        assert_eq!(talk.get("/a", &bearer(&doomed)).await.status, 200);
    }

    let body = form(&[("token", &*doomed), ("client_id", "web"), ("client_secret", &secret.text)]);
    let answer = post(&world, None, "/oauth/revoke", "", &body).await;

    assert_eq!((answer.status, answer.text().as_str()), (200, ""));
    for talk in &mut talks {
        let after = refused_soon(talk, &doomed, "it was revoked").await;
        println!("refused {after:?} after the answer");
    }
    assert_eq!(call(&world, None, &spared).await.status, 200);
    assert_eq!(introspect(&world, &secret, &doomed).await, json!({ "active": false }));
    world.restart().await;
    assert_eq!(call(&world, None, &doomed).await.status, 401);
    assert_eq!(call(&world, None, &spared).await.status, 200);

    let unknown = form(&[("token", "unknown"), ("client_id", "web"), ("client_secret", &secret.text)]);
    assert_eq!(post(&world, None, "/oauth/revoke", "", &unknown).await.status, 200);
    let foreign = form(&[("token", &*spared), ("client_id", "caller")]);
    let foreign = post(&world, Some(&world.identity("caller")), "/oauth/revoke", "", &foreign).await;
    assert_eq!(error(&foreign), (400, "unauthorized_client".to_owned()));
    assert_eq!(call(&world, None, &spared).await.status, 200);
}

fn tool(world: &World, arguments: &[&str]) -> String {
    let output = postern(world.path()).args(arguments).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{arguments:?}: {told}{}", String::from_utf8_lossy(&output.stderr));
    told
}

#[tokio::test]
async fn an_operator_takes_tokens_back_by_file_by_name_by_credential_and_by_app() {
    let (mut world, _service, secret) = guarded("").await;
    let mut talk = world.talk(None).await;

    for way in ["file", "jti", "credential", "app"] {
        let token = token(&world, &secret).await;
        assert_eq!(talk.get("/a", &bearer(&token)).await.status, 200, "{way}");
        let file = world.path().join("token");
        write(&file, &token);
        let value = match way {
            "file" => file.display().to_string(),
            "jti" => claims(&token)["jti"].as_str().unwrap().to_owned(),
            "credential" => secret.id.clone(),
            _ => "web".to_owned(),
        };
        let told = tool(&world, &["token", "revoke", &format!("--{way}"), &value]);
        assert!(told.contains("taken back"), "{told}");
        refused_soon(&mut talk, &token, way).await;
        world.restart().await;
        assert_eq!(call(&world, None, &token).await.status, 401, "{way} after a restart");
        talk = world.talk(None).await;
    }
    // What is issued after that is good, even within the same second.
    assert_eq!(call(&world, None, &token(&world, &secret).await).await.status, 200);
    let unknown = world.admin().withdraw_tokens(&WithdrawOrder::App("wep".parse().unwrap())).await;
    assert!(unknown.unwrap_err().to_string().contains("there is no app called `wep`"));
}

#[tokio::test]
async fn a_killed_key_takes_its_tokens_with_it_at_once_and_for_good() {
    let (mut world, _service, secret) = guarded("").await;
    let former = token(&world, &secret).await;
    let mut talk = world.talk(None).await;
    assert_eq!(talk.get("/a", &bearer(&former)).await.status, 200);
    let kid = part(&former, 0)["kid"].as_str().unwrap().to_owned();
    assert!(tool(&world, &["token", "keys"]).contains(&kid));

    tool(&world, &["token", "kill-key", &kid]);

    refused_soon(&mut talk, &former, "its key is killed").await;
    let next = token(&world, &secret).await;
    assert_ne!(part(&next, 0)["kid"], kid);
    assert_eq!(talk.get("/a", &bearer(&next)).await.status, 200);
    let listed = tool(&world, &["token", "keys"]);
    assert!(listed.contains("killed") && listed.contains("active"), "{listed}");
    world.restart().await;
    assert_eq!(call(&world, None, &former).await.status, 401);
    assert_eq!(call(&world, None, &next).await.status, 200);
    let unknown = postern(world.path()).args(["token", "kill-key", "k"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(1));
}

#[tokio::test]
async fn keys_rotate_under_use_and_no_token_is_refused_for_it() {
    let (world, _service, secret) = guarded("key_lifetime = \"4s\"\nttl = \"60s\"\n").await;
    let (mut tokens, mut kids) = (Vec::new(), std::collections::BTreeSet::new());
    let begun = Instant::now();
    let mut talk = world.talk(None).await;

    while kids.len() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(30), "keys do not rotate: {kids:?}");
        let fresh = token(&world, &secret).await;
        let kid = part(&fresh, 0)["kid"].as_str().unwrap().to_owned();
        let keys = talk.get("/oauth/jwks", "").await.json();
        assert!(
            keys["keys"].as_array().unwrap().iter().any(|key| key["kid"] == *kid),
            "{kid} is not made known"
        );
        kids.insert(kid);
        tokens.push(fresh);
        for token in &tokens {
            assert_eq!(talk.get("/a", &bearer(token)).await.status, 200);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let keys = talk.get("/oauth/jwks", "").await.json();
    let known: Vec<&str> =
        keys["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap()).collect();
    assert!(
        kids.iter().all(|kid| known.contains(&kid.as_str())),
        "retired keys stay until their last token has ended"
    );
}

#[tokio::test]
async fn when_the_certificate_rotates_the_token_bound_to_it_is_refused_and_the_next_one_works() {
    let (world, _service, _) = guarded("").await;
    let (former, body) =
        (world.identity("caller"), form(&[("grant_type", "client_credentials"), ("client_id", "caller")]));
    let mint = async |identity: &Identity| {
        let answer = post(&world, Some(identity), "/oauth/token", "", &body).await;
        answer.json()["access_token"].as_str().unwrap().to_owned()
    };
    let bound = mint(&former).await;
    assert_eq!(call(&world, Some(&former), &bound).await.status, 200);

    tool(&world, &["cert", "renew", "caller"]);
    let renewed = eventually("the next certificate", async || {
        Some(world.identity("caller")).filter(|identity| identity.chain != former.chain)
    })
    .await;

    let refused = call(&world, Some(&renewed), &bound).await;
    assert_eq!((refused.status, refused.code().as_str()), (401, "token-binding-failed"));
    assert_eq!(call(&world, Some(&former), &bound).await.status, 200, "the former leaf is still good");
    assert_eq!(call(&world, Some(&renewed), &mint(&renewed).await).await.status, 200);
}

#[tokio::test]
async fn a_local_workload_gets_its_token_by_the_kernels_word() {
    let service = Service::start().await;
    let (mut scene, _) = scene(&service, "socket = \"tokens.sock\"\nbind = \"never\"\n");
    let own = rustix::process::geteuid().as_raw();
    scene.amend_config(
        "[[workload]]\nid = \"caller\"\n",
        &format!("[[workload]]\nid = \"caller\"\nmatch = {{ uid = {own} }}\n"),
    );
    let world = scene.start().await;
    let socket = world.path().join("run/tokens.sock");

    let curl = |data: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "10", "--unix-socket"]).arg(&socket);
        for data in data {
            command.args(["-d", data]);
        }
        let output = command.arg("http://localhost/oauth/token").output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let body = curl(&["grant_type=client_credentials"]);

    let token = body["access_token"].as_str().unwrap_or_else(|| panic!("{body}"));
    assert_eq!(
        (&claims(token)["client_id"], &claims(token)["cred"]),
        (&json!("caller"), &json!("caller-svid"))
    );
    assert_eq!(call(&world, None, token).await.status, 200);
    assert_eq!(curl(&["grant_type=password"])["error"], "unsupported_grant_type");
    assert_eq!(curl(&["grant_type=client_credentials", "client_id=web"])["error"], "invalid_client");
    assert_eq!(curl(&["grant_type=client_credentials", "scope=x"])["error"], "invalid_scope");
}

#[tokio::test]
async fn a_secret_that_is_confined_or_bound_gets_no_token_for_more() {
    let service = Service::start().await;
    let (mut scene, _) = scene(&service, "");
    let [free, narrow, apart, bound] = [(); 4].map(|()| scene.client_secret());
    scene.registry(
        "[[product]]\nid = 'more'\nscopes = ['more:read', 'more:write']\n\
         [[product.operation]]\nservice = 'orders'\nmethods = ['GET']\npath = '/more'\nscopes = ['more:read']\n",
    );
    let more = "[[app.grant]]\nproduct = 'more'\n";
    for (app, secret, lines) in [
        ("free", &free, ""),
        ("narrow", &narrow, "scopes = ['more:write']\n"),
        ("apart", &apart, "grants = []\n"),
        ("bound", &bound, "from = ['203.0.113.0/24']\n"),
    ] {
        let table = format!("{}{lines}", secret.secret_table());
        scene.app(app, &format!("accepts = [[\"token\"]]\n{table}{more}"));
    }
    let world = scene.start().await;
    let ask = async |client: &str, secret: &Key| {
        let body = form(&[
            ("grant_type", "client_credentials"),
            ("client_id", client),
            ("client_secret", &secret.text),
            ("scope", "more:read more:write"),
        ]);
        post(&world, None, "/oauth/token", "", &body).await
    };
    let scopes = async |client: &str, secret: &Key| {
        let answer = ask(client, secret).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let token = answer.json()["access_token"].as_str().unwrap().to_owned();
        let status = world.talk(None).await.get("/more", &bearer(&token)).await.status;
        (claims(&token)["scope"].clone(), status)
    };

    assert_eq!(scopes("free", &free).await, (json!("more:read more:write"), 200));
    assert_eq!(scopes("narrow", &narrow).await, (json!("more:write"), 403));
    assert_eq!(error(&ask("apart", &apart).await), (400, "invalid_scope".to_owned()));
    assert_eq!(error(&ask("bound", &bound).await), (401, "invalid_client".to_owned()));
}

#[tokio::test]
async fn an_app_that_does_not_accept_tokens_gets_none() {
    let service = Service::start().await;
    let (mut scene, _) = scene(&service, "");
    let secret = scene.client_secret();
    scene.app("internal", &format!("accepts = [[\"mtls\"]]\n{}{GRANT}", secret.secret_table()));
    let world = scene.start().await;

    let body = form(&[
        ("grant_type", "client_credentials"),
        ("client_id", "internal"),
        ("client_secret", &secret.text),
    ]);
    let answer = post(&world, None, "/oauth/token", "", &body).await;

    assert_eq!(error(&answer), (400, "unauthorized_client".to_owned()));
}

#[tokio::test]
async fn no_secret_and_no_token_is_in_the_log_or_in_the_state() {
    let (world, _service, secret) = guarded("").await;
    let token = token(&world, &secret).await;
    assert_eq!(call(&world, None, &token).await.status, 200);
    let body = form(&[("token", &*token), ("client_id", "web"), ("client_secret", &secret.text)]);
    assert_eq!(post(&world, None, "/oauth/revoke", "", &body).await.status, 200);

    world.log_with("token-revoked").await;
    let signature = token.rsplit('.').next().unwrap();
    for folder in ["state", "run", "registry"] {
        for entry in std::fs::read_dir(world.path().join(folder)).unwrap() {
            let Ok(text) = std::fs::read(entry.unwrap().path()) else { continue };
            let text = String::from_utf8_lossy(&text);
            assert!(!text.contains(&secret.text) && !text.contains(signature), "{folder}");
        }
    }
    let log = world.log();
    assert!(!log.contains(&secret.text) && !log.contains(signature));
    assert!(
        log.contains(&format!("client_secret:{}", secret.id)) || log.contains(&secret.id),
        "the client is named"
    );
}

fn run(command: &mut Command) -> Option<Output> {
    command.output().ok()
}

/// A Python that has Authlib, made on first use.
fn python_with_authlib() -> Result<PathBuf, String> {
    python_with("authlib", "authlib, cryptography, requests", &["authlib>=1.7,<2", "requests>=2,<3"])
}

/// Authlib gets tokens by every method, uses them, asks about them and takes them back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authlib_gets_uses_and_revokes_tokens() {
    let python = match python_with_authlib() {
        Ok(python) => python,
        Err(reason) => return println!("skipped: {reason}"),
    };
    // requests compares the host's name, so this agent is at localhost.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let issuer = format!("https://localhost:{port}");
    let service = Service::start().await;
    let (mut scene, secret) = scene(&service, "");
    scene.amend_config("address = \"{ip}:8443\"", &format!("address = \"127.0.0.1:{port}\""));
    scene.amend_config(ISSUER, &issuer);
    let key = ClientKey::new();
    scene.app("signer", &format!("accepts = [[\"token\"]]\n{}{GRANT}", key.table("signer-2026")));
    let world = scene.start().await;
    let private = world.path().join("signer.pem");
    write(&private, &key.pem());
    let caller = world.files("caller").join("current");
    let bundle = world.path().join("state/bundle.pem");

    for (method, client, secret, with_certificate) in [
        ("client_secret_basic", "web", secret.text.as_str(), false),
        ("client_secret_post", "web", secret.text.as_str(), false),
        ("private_key_jwt", "signer", private.to_str().unwrap(), false),
        ("tls_client_auth", "caller", "-", true),
    ] {
        let mut get = Command::new(&python);
        get.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oauth.py")).args([method, &issuer]);
        get.arg(&bundle).args([client, secret]);
        if with_certificate {
            get.arg(caller.join("chain.pem")).arg(caller.join("key.pem"));
        }
        let output = run(&mut get).unwrap();
        assert!(output.status.success(), "{method}: {}", String::from_utf8_lossy(&output.stderr));
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(told["first"], 200, "{method}: {told}");
        assert_eq!(
            (&told["told"]["active"], &told["told"]["client_id"]),
            (&json!(true), &json!(client)),
            "{method}"
        );
        assert_eq!(told["told"].get("cnf").is_some(), with_certificate, "{method}");
        assert_eq!((&told["revoked"], &told["second"]), (&json!(200), &json!(401)), "{method}: {told}");
    }
}
