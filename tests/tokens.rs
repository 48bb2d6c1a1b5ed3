//! Access tokens of outside issuers, at a whole agent: keys from a file, from an address and by discovery; their rotation; users;
//! and what neither service nor log must see.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "a skipped test must not look like one that ran")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use support::token::{AUDIENCE, TokenKey, bearer, claims, jwks};
use support::world::{GRANT, postern};
use support::{Act, Answer, ForeignCa, Scene, Seen, Service, World, eventually, python_with, write};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const ISSUER: &str = "https://id.test";
const USERS: &str = "https://users.test";

/// An agent that guards `service` and has an app `partner`, known by tokens of `issuer`, whose keys are where `keys` says.
fn scene(service: &Service, issuer: &str, keys: &str) -> Scene {
    let mut scene = Scene::guarding(service.address);
    believe(&mut scene, issuer, keys);
    scene.app("partner", &format!("accepts = [[\"token\"]]\n{}{GRANT}", rule(issuer, "partner-client")));
    scene
}

fn believe(scene: &mut Scene, issuer: &str, keys: &str) {
    scene.config(&format!(
        "[[issuer]]\nissuer = \"{issuer}\"\naudience = [\"{AUDIENCE}\"]\nalgorithms = [\"EdDSA\", \"ES256\", \"RS256\"]\n{keys}\n"
    ));
}

fn rule(issuer: &str, client: &str) -> String {
    format!("[[app.token]]\nid = \"partner-id\"\nissuer = \"{issuer}\"\nclient_id = \"{client}\"\n")
}

async fn get(world: &World, lines: &str) -> Answer {
    world.talk(None).await.get("/a", lines).await
}

fn outcome(answer: &Answer) -> (u16, String) {
    (answer.status, answer.code())
}

/// A web server with documents that can be exchanged.
struct Web {
    service: Service,
    documents: Arc<Mutex<Vec<(String, String)>>>,
}

impl Web {
    async fn start() -> Self {
        let documents: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
        let served = Arc::clone(&documents);
        let service = Service::answering(move |seen: &Seen| {
            let found = served.lock().unwrap().iter().find(|(path, _)| path == seen.path()).cloned();
            let answer = match found {
                Some((_, text)) => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()),
                None => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
            };
            vec![Act::ReadBody, Act::Send(answer.into_bytes())]
        })
        .await;
        Self { service, documents }
    }

    fn url(&self) -> String {
        format!("http://{}", self.service.address)
    }

    fn put(&self, path: &str, text: &str) {
        let mut documents = self.documents.lock().unwrap();
        documents.retain(|(known, _)| known != path);
        documents.push((path.to_owned(), text.to_owned()));
    }

    fn fetches(&self) -> usize {
        self.service.seen().len()
    }
}

#[tokio::test]
async fn a_token_lets_its_app_in_and_stays_behind() {
    let service = Service::start().await;
    let scene = scene(&service, ISSUER, "jwks_file = \"jwks.json\"");
    let keys = [TokenKey::ed25519(), TokenKey::p256(), TokenKey::rsa()];
    write(&scene.path().join("jwks.json"), &jwks(&keys.iter().collect::<Vec<_>>()));
    let world = scene.start().await;

    for key in &keys {
        let token = key.token(ISSUER, "partner-client");
        let answer = get(&world, &bearer(&token)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let seen = service.seen();
        let seen = seen.last().unwrap();
        assert_eq!(seen.values("x-postern-app"), ["partner"]);
        assert_eq!(seen.values("x-postern-credential"), ["token:partner-id"]);
        assert!(seen.values("authorization").is_empty() && !seen.head.contains(&token));
        let event = world.access(answer.header("x-request-id").unwrap()).await;
        assert_eq!((&event["app.id"], &event["credential.kind"]), (&json!("partner"), &json!("token")));
        assert!(!world.log().contains(&token));
    }
    let h2 = world.h2(None).await;
    let value = format!("Bearer {}", keys[0].token(ISSUER, "partner-client"));
    assert_eq!(h2.get("/a", &[("authorization", &value)]).await.status, 200);
}

#[tokio::test]
async fn a_caller_without_a_good_token_is_told_what_would_do_and_no_more() {
    let service = Service::start().await;
    let scene = scene(&service, ISSUER, "jwks_file = \"jwks.json\"");
    let (key, thief) = (TokenKey::ed25519(), TokenKey::ed25519());
    write(&scene.path().join("jwks.json"), &jwks(&[&key]));
    let world = scene.start().await;
    let good = key.token(ISSUER, "partner-client");
    assert_eq!(get(&world, &bearer(&good)).await.status, 200);

    let challenges = |answer: &Answer| {
        let all = answer.headers.iter().filter(|(name, _)| name == "www-authenticate");
        all.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    let missing = get(&world, "").await;
    assert_eq!(outcome(&missing), (401, "missing-credential".into()));
    assert!(challenges(&missing).contains(&"Bearer realm=\"postern\"".to_owned()), "{missing:?}");
    let forged = thief.sign_as(&key.id, &claims(ISSUER, "partner-client"));
    let forged = get(&world, &bearer(&forged)).await;
    assert_eq!(outcome(&forged), (401, "invalid-credential".into()));
    let invalid = "Bearer realm=\"postern\", error=\"invalid_token\"".to_owned();
    assert!(challenges(&forged).contains(&invalid), "{forged:?}");

    let expired = {
        let mut claims = claims(ISSUER, "partner-client");
        claims["exp"] = (claims["iat"].as_i64().unwrap() - 60).into();
        claims["iat"] = (claims["iat"].as_i64().unwrap() - 600).into();
        key.sign_as(&key.id, &claims)
    };
    for (lines, expected) in [
        (bearer(&expired), (401, "credential-expired")),
        (bearer(&key.token(ISSUER, "unknown")), (403, "unmapped-token")),
        (bearer(&key.token(USERS, "partner-client")), (401, "invalid-credential")),
        (bearer(&good) + &bearer(&good), (400, "duplicate-credential")),
        (format!("authorization: Basic eDp5\r\n{}", bearer(&good)), (400, "duplicate-credential")),
        ("authorization: Bearer\r\n".to_owned(), (401, "invalid-credential")),
    ] {
        assert_eq!(outcome(&get(&world, &lines).await), (expected.0, expected.1.to_owned()), "{lines}");
    }
    let in_url = world.talk(None).await.get(&format!("/a?access_token={good}"), "").await;
    assert_eq!(outcome(&in_url), (400, "token-in-url".into()));
    assert!(!world.log().contains(&good));
    assert_eq!(service.seen().len(), 1);
}

#[tokio::test]
async fn other_schemes_are_the_services_own_business() {
    let service = Service::start().await;
    let mut scene = scene(&service, ISSUER, "jwks_file = \"jwks.json\"");
    let api_key = scene.app_with_key("by-key");
    write(&scene.path().join("jwks.json"), &jwks(&[&TokenKey::ed25519()]));
    let world = scene.start().await;

    let lines = format!("{}authorization: Basic eDp5\r\n", api_key.line());
    assert_eq!(get(&world, &lines).await.status, 200);

    assert_eq!(service.seen()[0].values("authorization"), ["Basic eDp5"]);
}

#[tokio::test]
async fn a_token_is_ours_from_the_moment_an_issuer_is_configured() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    let (api_key, key) = (scene.key(), TokenKey::ed25519());
    let accepts = "accepts = [[\"api_key\"], [\"token\"], [\"api_key\", \"token\"]]\n";
    let tables = format!("{accepts}{}{}{GRANT}", api_key.table(), rule(ISSUER, "partner-client"));
    scene.app("partner", &tables);
    write(&scene.path().join("jwks.json"), &jwks(&[&key]));
    let world = scene.start().await;
    let token = bearer(&key.token(ISSUER, "partner-client"));
    let lines = format!("{}{token}", api_key.line());
    assert_eq!(outcome(&get(&world, &token).await), (401, "missing-credential".into()));
    assert_eq!(get(&world, &lines).await.status, 200);
    assert_eq!(service.seen().last().unwrap().values("authorization").len(), 1);

    let file = world.path().join("postern.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    let issuer = format!(
        "[[issuer]]\nissuer = \"{ISSUER}\"\njwks_file = \"jwks.json\"\naudience = [\"{AUDIENCE}\"]\nalgorithms = [\"EdDSA\"]\n"
    );
    write(&file, &format!("{config}\n{issuer}"));
    world.signal("HUP");

    eventually("the token is believed", async || (get(&world, &token).await.status == 200).then_some(()))
        .await;
    assert_eq!(get(&world, &lines).await.status, 200);
    assert!(service.seen().last().unwrap().values("authorization").is_empty());
}

#[tokio::test]
async fn a_file_of_keys_is_followed() {
    let service = Service::start().await;
    let scene = scene(&service, ISSUER, "jwks_file = \"jwks.json\"");
    let (old, new) = (TokenKey::ed25519(), TokenKey::p256());
    let file = scene.path().join("jwks.json");
    write(&file, &jwks(&[&old]));
    let world = scene.start().await;
    let (by_old, by_new) = (old.token(ISSUER, "partner-client"), new.token(ISSUER, "partner-client"));
    assert_eq!(get(&world, &bearer(&by_old)).await.status, 200);
    assert_eq!(outcome(&get(&world, &bearer(&by_new)).await), (401, "invalid-credential".into()));

    write(&file, &jwks(&[&old, &new]));
    let is_in = async |token: &str| (get(&world, &bearer(token)).await.status == 200).then_some(());
    eventually("the new key is believed", async || is_in(&by_new).await).await;
    assert_eq!(get(&world, &bearer(&by_old)).await.status, 200);

    write(&file, &jwks(&[&new]));
    eventually("the old key is believed no more", async || {
        (get(&world, &bearer(&by_old)).await.status == 401).then_some(())
    })
    .await;

    // What is no JWK Set changes nothing, and is told.
    write(&file, "{\"keys\":[");
    eventually("the damage is told", async || {
        let degraded = world.status().await.degraded;
        degraded
            .iter()
            .any(|told| told.contains("the keys of https://id.test cannot be fetched"))
            .then_some(())
    })
    .await;
    assert_eq!(get(&world, &bearer(&by_new)).await.status, 200);
}

#[tokio::test]
async fn an_unknown_key_causes_one_fetch_and_invented_ones_no_more() {
    let service = Service::start().await;
    let web = Web::start().await;
    let (old, new) = (TokenKey::ed25519(), TokenKey::rsa());
    web.put("/jwks", &jwks(&[&old]));
    let keys = format!("jwks_url = \"{}/jwks\"\nrefetch = \"1s\"", web.url());
    let scene = scene(&service, ISSUER, &keys);
    let world = scene.start().await;
    assert_eq!(get(&world, &bearer(&old.token(ISSUER, "partner-client"))).await.status, 200);
    assert_eq!(web.fetches(), 1);

    web.put("/jwks", &jwks(&[&new]));
    let token = new.token(ISSUER, "partner-client");
    eventually("the new key is fetched", async || {
        (get(&world, &bearer(&token)).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(web.fetches(), 2);

    let begun = tokio::time::Instant::now();
    for number in 0..200 {
        let token = new.sign_as(&format!("invented{number}"), &claims(ISSUER, "partner-client"));
        let answer = get(&world, &bearer(&token)).await;
        assert!(matches!(answer.status, 401 | 429), "{answer:?}");
    }
    // One a second, however many ask; the last one may still be under way.
    let most = 2 + 2 + usize::try_from(begun.elapsed().as_secs()).unwrap();
    assert!(web.fetches() <= most, "{} fetches in {:?}", web.fetches(), begun.elapsed());
}

#[tokio::test]
async fn the_last_good_keys_stay_while_the_issuer_is_away() {
    let service = Service::start().await;
    let web = Web::start().await;
    let key = TokenKey::ed25519();
    web.put("/jwks", &jwks(&[&key]));
    let keys = format!("jwks_url = \"{}/jwks\"\nrefresh = \"1s\"", web.url());
    let world = scene(&service, ISSUER, &keys).start().await;
    let line = bearer(&key.token(ISSUER, "partner-client"));
    assert_eq!(get(&world, &line).await.status, 200);

    web.documents.lock().unwrap().clear();
    eventually("the failure is told", async || {
        let degraded = world.status().await.degraded;
        degraded.iter().any(|told| told.contains("404")).then_some(())
    })
    .await;

    assert_eq!(get(&world, &line).await.status, 200);
    assert_eq!(world.health("/ready").await.unwrap().0, 200);
}

#[tokio::test]
async fn an_issuer_is_discovered_by_its_own_document_only() {
    let service = Service::start().await;
    let web = Web::start().await;
    let key = TokenKey::p256();
    web.put("/jwks", &jwks(&[&key]));
    let document = json!({ "issuer": "https://evil.test", "jwks_uri": format!("{}/jwks", web.url()) });
    web.put("/.well-known/openid-configuration", &document.to_string());
    let issuer = web.url();
    let world = scene(&service, &issuer, "discovery = true\nrefresh = \"1s\"").start().await;
    let line = bearer(&key.token(&issuer, "partner-client"));
    assert_eq!(outcome(&get(&world, &line).await), (401, "invalid-credential".into()));

    let document = json!({ "issuer": issuer, "jwks_uri": format!("{}/jwks", web.url()) });
    web.put("/.well-known/openid-configuration", &document.to_string());

    eventually("the issuer is believed", async || (get(&world, &line).await.status == 200).then_some(()))
        .await;
}

#[tokio::test]
async fn an_operation_on_a_users_data_needs_the_user_too() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    believe(&mut scene, USERS, "jwks_file = \"users.json\"\nfor = \"users\"");
    scene.registry(
        "[[product]]\nid = \"me\"\n[[product.operation]]\nservice = \"orders\"\nmethods = [\"GET\"]\npath = \"/me\"\n\
         accepts = [[\"api_key\", \"user_token\"]]\n",
    );
    let api_key = scene.key();
    scene.app("portal", &format!("{}[[app.grant]]\nproduct = \"me\"\n\n", api_key.table()));
    let key = TokenKey::ed25519();
    write(&scene.path().join("users.json"), &jwks(&[&key]));
    let world = scene.start().await;
    let mut of_user = claims(USERS, "portal-client");
    // What a client gets for itself proves no user.
    let of_client = bearer(&key.sign_as(&key.id, &of_user));
    of_user["sub"] = json!("alice smith");
    let user = bearer(&key.sign_as(&key.id, &of_user));
    let ask = async |lines: String| world.talk(None).await.get("/me", &lines).await;

    let answer = ask(format!("{}{user}x-postern-user: mallory\r\n", api_key.line())).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = &service.seen()[0];
    assert_eq!(seen.values("x-postern-app"), ["portal"]);
    assert_eq!(seen.values("x-postern-user"), ["alice%20smith"]);
    assert_eq!(seen.values("x-postern-user-issuer"), [USERS]);
    let event = world.access(answer.header("x-request-id").unwrap()).await;
    assert_eq!((&event["user.id"], &event["app.id"]), (&json!("alice smith"), &json!("portal")));

    let without = ask(api_key.line()).await;
    assert_eq!(outcome(&without), (403, "step-up-required".into()));
    assert_eq!(without.header("www-authenticate"), Some("Bearer realm=\"postern\""));
    assert_eq!(outcome(&ask(user).await), (401, "missing-credential".into()));
    let answer = ask(format!("{}{of_client}", api_key.line())).await;
    assert_eq!(outcome(&answer), (401, "invalid-credential".into()));
    assert_eq!(service.seen().len(), 1);
}

#[tokio::test]
async fn a_token_lets_through_the_scopes_that_it_names_and_no_others() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    believe(&mut scene, ISSUER, "jwks_file = \"jwks.json\"");
    scene.registry(
        "[[product]]\nid = \"write\"\nscopes = [\"orders:read\", \"orders:write\"]\n[[product.operation]]\n\
         service = \"orders\"\nmethods = [\"GET\"]\npath = \"/write\"\nscopes = [\"orders:write\"]\n",
    );
    scene
        .app("partner", &format!("{}[[app.grant]]\nproduct = \"write\"\n\n", rule(ISSUER, "partner-client")));
    let key = TokenKey::ed25519();
    write(&scene.path().join("jwks.json"), &jwks(&[&key]));
    let world = scene.start().await;
    let with = |scope: &str| {
        let mut claims = claims(ISSUER, "partner-client");
        claims["scope"] = scope.into();
        bearer(&key.sign_as(&key.id, &claims))
    };

    let answer = world.talk(None).await.get("/write", &with("orders:write other")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(service.seen()[0].values("x-postern-scopes"), ["orders:write"]);

    let answer = world.talk(None).await.get("/write", &with("orders:read")).await;
    assert_eq!(outcome(&answer), (403, "insufficient-scope".into()));
    let challenge = "Bearer realm=\"postern\", error=\"insufficient_scope\", scope=\"orders:write\"";
    assert_eq!(answer.header("www-authenticate"), Some(challenge));
    assert_eq!(service.seen().len(), 1);
}

#[tokio::test]
async fn a_revoked_rule_takes_a_good_token_with_it() {
    let service = Service::start().await;
    let scene = scene(&service, ISSUER, "jwks_file = \"jwks.json\"");
    let key = TokenKey::ed25519();
    write(&scene.path().join("jwks.json"), &jwks(&[&key]));
    let world = scene.start().await;
    let line = bearer(&key.token(ISSUER, "partner-client"));
    let mut talk = world.talk(None).await;
    assert_eq!(talk.get("/a", &line).await.status, 200);

    let text = world.registry().replace("id = \"partner-id\"", "id = \"partner-id\"\nstatus = \"revoked\"");
    write(&world.path().join("registry/apps.toml"), &text);

    eventually("the token is refused", async || {
        (talk.get("/a", &line).await.code() == "credential-revoked").then_some(())
    })
    .await;
}

#[tokio::test]
async fn explain_says_what_is_wrong_with_a_token() {
    let service = Service::start().await;
    let scene = scene(&service, ISSUER, "jwks_file = \"jwks.json\"");
    let key = TokenKey::ed25519();
    write(&scene.path().join("jwks.json"), &jwks(&[&key]));
    let world = scene.start().await;
    let mut for_others = claims(ISSUER, "partner-client");
    for_others["aud"] = "https://others.test".into();
    let (good, bad) = (key.token(ISSUER, "partner-client"), key.sign_as(&key.id, &for_others));
    let explained = |command: &mut Command| {
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };

    write(&world.path().join("token"), &format!("{good}\n"));
    let file = world.path().join("token");
    let (status, page) = explained(postern(world.path()).args(["explain", "--token-file"]).arg(&file));
    assert!(status == Some(0) && page.contains("ALLOWED") && page.contains("token partner-id"), "{page}");
    assert!(!page.contains(&good));

    let header = format!("Authorization: Bearer {bad}");
    let (status, page) = explained(postern(world.path()).args(["explain", "--header", &header]));
    assert_eq!(status, Some(3), "{page}");
    assert!(page.contains("REFUSED: invalid-credential (401)"), "{page}");
    assert!(page.contains("its `aud` does not name this agent"), "{page}");
    assert_eq!(outcome(&get(&world, &bearer(&bad)).await), (401, "invalid-credential".into()));
}

/// Nothing of a settings table is guessed.
#[test]
fn an_issuer_that_is_half_described_is_refused() {
    let problems = |issuer: &str| {
        let text = format!(
            "trust_domain = \"t.test\"\nstate_dir = \"s\"\nruntime_dir = \"r\"\nregistry = []\n[[issuer]]\n{issuer}\n"
        );
        let found = postern::config::parse("postern.toml".as_ref(), &text);
        found.err().unwrap_or_default().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let whole = "issuer = \"https://id.test\"\naudience = [\"a\"]\nalgorithms = [\"ES256\"]\n";
    assert_eq!(problems(&format!("{whole}jwks_file = \"k\"")), "");

    for (issuer, told) in [
        (whole.to_owned(), "exactly one of jwks_file, jwks_url, discovery"),
        (format!("{whole}jwks_file = \"k\"\ndiscovery = true\nroots = \"r\""), "exactly one of"),
        (format!("{whole}jwks_url = \"https://id.test/k\""), "needs `roots`"),
        (format!("{whole}discovery = true"), "needs `roots`"),
        (format!("{whole}jwks_url = \"http://id.test/k\""), "http:// with a loopback address"),
        (format!("{whole}jwks_file = \"k\"\nleeway = \"1h\""), "expected 0 to 300 seconds"),
        (format!("{whole}jwks_file = \"k\"\nfor = \"robots\""), "expected `apps` or `users`"),
        (format!("{}jwks_file = \"k\"", whole.replace("\"ES256\"", "")), "an empty list would let nobody"),
        (format!("{}jwks_file = \"k\"", whole.replace("ES256", "HS256")), "expected `EdDSA` or `ES256`"),
    ] {
        let found = problems(&issuer);
        assert!(found.contains(told), "{issuer}: {found}");
    }
    let twice = format!("{whole}jwks_file = \"k\"\n[[issuer]]\n{whole}jwks_file = \"k\"");
    assert!(problems(&twice).contains("is taken"));
}

/// Keys behind TLS: the web server must be the one that the operator's roots vouch for.
#[tokio::test]
async fn a_web_server_is_believed_by_the_configured_roots_only() {
    let service = Service::start().await;
    let (ca, other) = (ForeignCa::root("web"), ForeignCa::root("web"));
    let key = TokenKey::ed25519();
    let address = serve_tls(&ca, jwks(&[&key])).await;
    let keys = format!(
        "jwks_url = \"https://localhost:{}/jwks\"\nroots = \"roots.pem\"\nrefresh = \"1s\"",
        address.port()
    );
    let scene = scene(&service, ISSUER, &keys);
    write(&scene.path().join("roots.pem"), &other.pem());
    let world = scene.start().await;
    let line = bearer(&key.token(ISSUER, "partner-client"));
    assert_eq!(outcome(&get(&world, &line).await), (401, "invalid-credential".into()));

    write(&world.path().join("roots.pem"), &ca.pem());

    eventually("the web server is believed", async || (get(&world, &line).await.status == 200).then_some(()))
        .await;
}

/// A web server on TLS that answers everything with `text`.
async fn serve_tls(ca: &ForeignCa, text: String) -> SocketAddr {
    let identity = ca.leaf("spiffe://web.test/web", Duration::from_secs(600));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = [0; 1024];
            drop(stream.read(&mut head).await);
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
            drop(stream.write_all(answer.as_bytes()).await);
            drop(stream.shutdown().await);
        }
    });
    address
}

/// A token that is bound to a certificate (RFC 8705) is worth nothing to whoever has stolen it.
#[tokio::test]
async fn a_bound_token_works_over_its_own_certificate_only() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    believe(&mut scene, ISSUER, "jwks_file = \"jwks.json\"");
    scene.amend_registry(
        "uri = \"spiffe://postern.test/caller\"\n",
        &format!("uri = \"spiffe://postern.test/caller\"\n{}", rule(ISSUER, "caller-client")),
    );
    let key = TokenKey::ed25519();
    write(&scene.path().join("jwks.json"), &jwks(&[&key]));
    let world = scene.start().await;
    let (caller, stranger) = (world.identity("caller"), world.identity("stranger"));
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &caller.chain[0]);
    let mut bound = claims(ISSUER, "caller-client");
    bound["cnf"] = json!({ "x5t#S256": data_encoding::BASE64URL_NOPAD.encode(digest.as_ref()) });
    let line = bearer(&key.sign_as(&key.id, &bound));

    let answer = world.talk(Some(&caller)).await.get("/a", &line).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let event = world.access(answer.header("x-request-id").unwrap()).await;
    assert_eq!(event["credential.kind"], "mtls");

    for identity in [None, Some(&stranger)] {
        let answer = world.talk(identity).await.get("/a", &line).await;
        assert_eq!(outcome(&answer), (401, "token-binding-failed".into()));
    }
    // Unbound, it is still the caller's and nobody else's.
    let unbound = bearer(&key.token(ISSUER, "caller-client"));
    assert_eq!(world.talk(None).await.get("/a", &unbound).await.status, 200);
    let answer = world.talk(Some(&stranger)).await.get("/a", &unbound).await;
    assert_eq!(outcome(&answer), (403, "principal-mismatch".into()));
}

/// {none, bad, good} x {key, token}, at an app that accepts either: a bad one is never made up for, and which of two good ones
/// counts is not chosen.
#[tokio::test]
async fn a_bad_token_is_not_made_up_for_by_a_good_key_nor_the_other_way_round() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    believe(&mut scene, ISSUER, "jwks_file = \"jwks.json\"");
    let api_key = scene.key();
    scene.app("both", &format!("{}{}{GRANT}", api_key.table(), rule(ISSUER, "both")));
    let (key, thief) = (TokenKey::ed25519(), TokenKey::ed25519());
    write(&scene.path().join("jwks.json"), &jwks(&[&key]));
    let world = scene.start().await;
    let keys = ["".to_owned(), "x-api-key: pstn_sk_x\r\n".to_owned(), api_key.line()];
    let bad = thief.sign_as(&key.id, &claims(ISSUER, "both"));
    let tokens = ["".to_owned(), bearer(&bad), bearer(&key.token(ISSUER, "both"))];

    for (of_key, by_key) in keys.iter().enumerate() {
        for (of_token, by_token) in tokens.iter().enumerate() {
            let expected = match (of_key, of_token) {
                (1, _) | (_, 1) => (401, "invalid-credential"),
                (0, 0) => (401, "missing-credential"),
                (2, 2) => (403, "auth-method-not-allowed"),
                _ => (200, ""),
            };
            let answer = get(&world, &format!("{by_key}{by_token}")).await;
            assert_eq!(outcome(&answer), (expected.0, expected.1.to_owned()), "{of_key} {of_token}");
        }
    }
}

/// A Python that has `PyJWT`, made on first use.
fn python_with_jwt() -> Result<PathBuf, String> {
    python_with("pyjwt", "jwt, cryptography", &["pyjwt[crypto]>=2.8,<3"])
}

/// Tokens that somebody else's library has made, with the key set that it has written.
#[tokio::test]
async fn tokens_made_by_pyjwt_are_taken() {
    let python = match python_with_jwt() {
        Ok(python) => python,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tokens.py");
    let output =
        Command::new(python).arg(script).args([ISSUER, AUDIENCE, "partner-client"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let service = Service::start().await;
    let scene = scene(&service, ISSUER, "jwks_file = \"jwks.json\"");
    write(&scene.path().join("jwks.json"), &made["jwks"].to_string());
    let world = scene.start().await;

    for algorithm in ["EdDSA", "ES256", "RS256"] {
        let token = made["tokens"][algorithm].as_str().unwrap();
        assert_eq!(get(&world, &bearer(token)).await.status, 200, "{algorithm}");
        let forged = made["forged"][algorithm].as_str().unwrap();
        assert_eq!(outcome(&get(&world, &bearer(forged)).await), (401, "invalid-credential".into()));
    }
}

/// A patient second, for what must not happen.
#[tokio::test]
async fn nothing_is_asked_of_an_issuer_while_its_keys_are_known() {
    let service = Service::start().await;
    let web = Web::start().await;
    let key = TokenKey::ed25519();
    web.put("/jwks", &jwks(&[&key]));
    let keys = format!("jwks_url = \"{}/jwks\"", web.url());
    let world = scene(&service, ISSUER, &keys).start().await;

    for _ in 0..20 {
        assert_eq!(get(&world, &bearer(&key.token(ISSUER, "partner-client"))).await.status, 200);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;

    assert_eq!(web.fetches(), 1);
}
