//! What an app is entitled to, as callers meet it: the live agent answers, and its `explain` agrees.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::net::SocketAddr;

use postern::admin::{Explanation, Operation, Origin, Presented, Question, SecretText, StepOutcome};
use postern::clock::{Clock as _, SystemClock, Timestamp};
use postern::secret::Secret;
use support::world::Key;
use support::{Answer, Scene, Service, Talk, Tls, World, eventually, write};
use tokio::net::TcpSocket;

/// A question about a request with a key.
fn by_key(key: &Key, method: &str, path: &str) -> Question {
    let api_key = Some(SecretText::new(Secret::new(key.text.as_bytes().to_vec())));
    Question { api_key, ..question(method, path) }
}

/// A question about a request with nothing.
fn question(method: &str, path: &str) -> Question {
    let (method, path) = (method.to_owned(), path.to_owned());
    let operation = Operation::Http { method, host: "localhost".into(), path };
    Question {
        listener: None,
        operation,
        certificate: None,
        origin: Origin::default(),
        api_key: None,
        fields: Vec::new(),
    }
}

async fn explain(world: &World, question: &Question) -> Explanation {
    world.admin().explain(question).await.unwrap()
}

/// The step that decided against the caller, and what it found.
fn failed(explanation: &Explanation) -> (&str, &str) {
    let step = explanation.steps.iter().find(|step| step.outcome == StepOutcome::Failed).unwrap();
    (&step.name, &step.detail)
}

/// Asks by key, live and by `explain`; both must say `code`.
async fn both_say(world: &World, key: &Key, (method, path): (&str, &str), code: &str) -> Answer {
    let request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{}\r\n", key.line());
    let answer = world.talk(None).await.ask(&request).await;
    let live = if answer.status == 200 { "allowed".to_owned() } else { answer.code() };
    let explanation = explain(world, &by_key(key, method, path)).await;
    assert_eq!((live.as_str(), explanation.code.as_str()), (code, code), "{method} {path}");
    assert_eq!(explanation.status, (code != "allowed").then_some(answer.status));
    answer
}

/// Reading orders asks for one scope, writing them for another.
const ORDERS: &str = "[[developer]]\nid = \"team\"\n[[product]]\nid = \"orders\"\n\
    scopes = [\"orders:read\", \"orders:write\"]\n\
    [[product.operation]]\nservice = \"orders\"\nmethods = [\"GET\"]\npath = \"/orders/**\"\nscopes = [\"orders:read\"]\n\
    [[product.operation]]\nservice = \"orders\"\nmethods = [\"POST\"]\npath = \"/orders/**\"\nscopes = [\"orders:write\"]\n\n";

/// An agent that guards `service`, with [`ORDERS`] to be granted.
fn scene(service: &Service) -> Scene {
    let mut scene = Scene::new();
    scene.listener("inbound", "").service("orders", &service.address.to_string(), "").registry(ORDERS);
    scene
}

const GRANT: &str = "[[app.grant]]\nproduct = \"orders\"\n";

#[tokio::test]
async fn a_key_for_reading_does_not_write_and_is_told_which_scope_is_missing() {
    let service = Service::start().await;
    let mut scene = scene(&service);
    let (reader, writer) = (scene.key(), scene.key());
    let (confined, free) = (reader.table() + "scopes = [\"orders:read\"]\n", writer.table());
    scene.app("caller", &format!("{confined}{free}{GRANT}"));
    let world = scene.start().await;

    both_say(&world, &reader, ("GET", "/orders/7"), "allowed").await;
    assert_eq!(service.last().values("x-postern-scopes"), ["orders:read"]);
    both_say(&world, &writer, ("POST", "/orders/7"), "allowed").await;
    assert_eq!(service.last().values("x-postern-scopes"), ["orders:read orders:write"]);
    let answer = both_say(&world, &reader, ("POST", "/orders/7"), "insufficient-scope").await;

    assert_eq!(answer.status, 403);
    assert_eq!(
        answer.header("www-authenticate"),
        Some("ApiKey realm=\"postern\", error=\"insufficient_scope\", scope=\"orders:write\"")
    );
    let explanation = explain(&world, &by_key(&reader, "POST", "/orders/7")).await;
    assert_eq!(failed(&explanation).0, "scopes");
    assert!(failed(&explanation).1.ends_with("It asks for orders:write."), "{explanation:?}");
    let allowed = explain(&world, &by_key(&reader, "GET", "/orders/7")).await;
    assert!(allowed.steps.iter().any(|step| step.name == "scopes" && step.detail == "orders:read"));
    assert_eq!(service.seen().len(), 2);
}

#[tokio::test]
async fn whoever_wants_a_scope_with_a_certificate_gets_a_plain_answer() {
    let service = Service::start().await;
    let mut scene = scene(&service);
    scene.workload("caller", "");
    let certificate =
        "[[app.certificate]]\nuri = \"spiffe://postern.test/caller\"\nscopes = [\"orders:read\"]\n";
    scene.app("caller", &format!("{certificate}{GRANT}"));
    let world = scene.start().await;
    let mut talk = world.talk(Some(&world.identity("caller"))).await;

    assert_eq!(talk.get("/orders/7", "").await.status, 200);
    let answer = talk.ask("POST /orders/7 HTTP/1.1\r\nhost: localhost\r\n\r\n").await;

    assert_eq!((answer.status, answer.code().as_str()), (403, "insufficient-scope"));
    assert_eq!(answer.header("www-authenticate"), None, "no field would carry what is missing");
    let certificate = Some(Presented::SpiffeId("spiffe://postern.test/caller".into()));
    let explanation = explain(&world, &Question { certificate, ..question("POST", "/orders/7") }).await;
    assert_eq!(explanation.code, "insufficient-scope");
}

#[tokio::test]
async fn a_pending_grant_is_refused_and_once_approved_serves_on_the_same_connection() {
    let service = Service::start().await;
    let mut scene = scene(&service);
    let key = scene.key();
    scene
        .app("caller", &format!("{}{GRANT}", key.table()))
        .amend_registry("\"orders\"\n", "\"orders\"\napproval = \"manual\"\n");
    let world = scene.start().await;
    let mut talk = world.talk(None).await;

    let answer = talk.get("/orders/7", &key.line()).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "grant-pending"));
    let approved = world.registry().replace(GRANT, &format!("{GRANT}status = \"approved\"\n"));
    write(&world.path().join("registry/apps.toml"), &approved);

    eventually("the approval is in force", async || {
        (talk.get("/orders/7", &key.line()).await.status == 200).then_some(())
    })
    .await;
    both_say(&world, &key, ("GET", "/orders/7"), "allowed").await;
}

#[tokio::test]
async fn a_key_that_ends_ends_on_a_live_connection_and_not_before() {
    let service = Service::start().await;
    let mut scene = scene(&service);
    let key = scene.key();
    let end = Timestamp::from_unix(SystemClock.now().unix() + 3);
    scene.app("caller", &format!("{}expires = {end}\n{GRANT}", key.table()));
    let world = scene.start().await;
    let mut talk = world.talk(None).await;
    let mut served = 0;

    loop {
        let (before, answer) = (SystemClock.now(), talk.get("/orders/7", &key.line()).await);
        if answer.status == 200 {
            served += 1;
            assert!(before < end, "served at {before}, after {end}");
        } else {
            assert_eq!((answer.status, answer.code().as_str()), (401, "credential-expired"));
            assert!(SystemClock.now() >= end, "refused before {end}");
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }

    assert!(served > 0);
}

/// An HTTP/1 conversation of somebody who comes from `address`.
async fn talk_from(world: &World, address: &str) -> Talk<Tls> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
    let stream = socket.connect(world.address()).await.unwrap();
    Talk::new(support::caller::handshake(stream, &world.roots(), None, "http/1.1").await.unwrap())
}

#[tokio::test]
async fn a_key_that_is_bound_to_one_address_is_refused_from_the_next_one() {
    let service = Service::start().await;
    let mut scene = scene(&service);
    let key = scene.key();
    scene.app("caller", &format!("{}from = [\"127.0.0.2/32\"]\nsni = \"localhost\"\n{GRANT}", key.table()));
    let world = scene.start().await;
    let explained = async |address: &str, sni: Option<&str>| {
        let origin = Origin { address: address.parse().ok(), sni: sni.map(str::to_owned) };
        explain(&world, &Question { origin, ..by_key(&key, "GET", "/orders/7") }).await
    };

    assert_eq!(talk_from(&world, "127.0.0.2").await.get("/orders/7", &key.line()).await.status, 200);
    assert_eq!(explained("127.0.0.2", None).await.code, "allowed");
    let answer = talk_from(&world, "127.0.0.3").await.get("/orders/7", &key.line()).await;

    assert_eq!((answer.status, answer.code().as_str()), (403, "binding-failed"));
    let explanation = explained("127.0.0.3", None).await;
    assert_eq!((explanation.code.as_str(), failed(&explanation).0), ("binding-failed", "bindings"));
    let why = format!("Of {}: it is not used from an address in `from`.", key.id);
    assert!(explanation.sentence.ends_with(&why), "{}", explanation.sentence);
    assert_eq!(explained("127.0.0.2", Some("other.test")).await.code, "binding-failed");
    assert_eq!(service.seen().len(), 1);
}

#[tokio::test]
async fn a_product_for_prod_is_dead_elsewhere_and_the_command_line_says_where_this_is() {
    let service = Service::start().await;
    let mut scene = scene(&service);
    let key = scene.key();
    scene.app("caller", &format!("{}{GRANT}", key.table()));
    scene.amend_registry("\"orders\"\n", "\"orders\"\nenvironments = [\"prod\"]\n");
    scene.amend_config("threads = 2\n", "threads = 2\nenvironment = \"prod\"\n");
    let world = scene.start().await;
    let config = std::fs::read_to_string(world.path().join("postern.toml")).unwrap();
    let environment =
        |name: &str| config.replace("environment = \"prod\"", &format!("environment = \"{name}\""));
    both_say(&world, &key, ("GET", "/orders/7"), "allowed").await;

    write(&world.path().join("postern.toml"), &environment("test"));
    world.signal("HUP");
    eventually("the agent stands in test", async || {
        (explain(&world, &by_key(&key, "GET", "/orders/7")).await.code == "wrong-environment").then_some(())
    })
    .await;
    let answer = both_say(&world, &key, ("GET", "/orders/7"), "wrong-environment").await;
    assert_eq!(answer.status, 403);
    let explanation = explain(&world, &by_key(&key, "GET", "/orders/7")).await;
    assert_eq!(failed(&explanation).0, "environment");
    assert_eq!(service.seen().len(), 1);
}
