//! The seven conditions on which a yes rests, in all 128 combinations, for every kind of credential: the live agent, its
//! `explain`, and an oracle that knows nothing of either must all say the same.
//!
//! The credential is in time; it is what it claims to be; it is approved; its app is approved; the app's developer is active;
//! the service is in a granted product; the resource is in it, too.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::time::Duration;

use postern::admin::{Explanation, Operation, Presented, Question, SecretText};
use postern::authz::{Ask, Door, Toll, check};
use postern::clock::{Clock as _, SystemClock};
use postern::credential::token::{Bearer, KeyStatus, OwnIssuer, TokenTrust};
use postern::credential::{Evidence, HeaderEvidence, Peppers};
use postern::registry;
use postern::secret::Secret;
use support::sign::{Fields, lines};
use support::token::{AUDIENCE, TokenKey, bearer, claims, jwks};
use support::world::Key;
use support::{Identity, Scene, Service, SigningKey, World, write};

/// One combination.
#[derive(Clone, Copy, Debug)]
struct Row(u8);

impl Row {
    fn all() -> impl Iterator<Item = Self> {
        (0..128).map(Self)
    }

    const fn holds(self, condition: u8) -> bool {
        self.0 >> condition & 1 == 1
    }

    const fn in_time(self) -> bool {
        self.holds(0)
    }

    const fn valid(self) -> bool {
        self.holds(1)
    }

    const fn approved(self) -> bool {
        self.holds(2)
    }

    const fn app_approved(self) -> bool {
        self.holds(3)
    }

    const fn developer_active(self) -> bool {
        self.holds(4)
    }

    const fn service_in_product(self) -> bool {
        self.holds(5)
    }

    const fn resource_in_product(self) -> bool {
        self.holds(6)
    }

    /// What must come of it, by the book: status and code, in the order in which a caller may learn of a reason.
    fn by_the_book(self) -> (u16, &'static str) {
        let reasons = [
            (self.valid(), 401, "invalid-credential"),
            (self.in_time(), 401, "credential-expired"),
            (self.approved(), 401, "credential-revoked"),
            (self.app_approved(), 403, "app-revoked"),
            (self.developer_active(), 403, "developer-inactive"),
            (self.service_in_product(), 403, "not-entitled"),
            (self.resource_in_product(), 403, "not-entitled"),
        ];
        let decisive = reasons.into_iter().find(|(holds, _, _)| !holds);
        decisive.map_or((200, "allowed"), |(_, status, code)| (status, code))
    }

    fn app(self, kind: &str) -> String {
        format!("{kind}-{}", self.0)
    }

    fn spiffe_id(self) -> String {
        format!("spiffe://postern.test/mtls-{}", self.0)
    }

    /// The app of this row, with its credential of some kind in `table`.
    fn registered(self, kind: &str, table: &str) -> String {
        let (developer, product) = (
            if self.developer_active() { "active" } else { "inactive" },
            match (self.service_in_product(), self.resource_in_product()) {
                (true, true) => "both",
                (true, false) => "service-only",
                (false, true) => "resource-only",
                (false, false) => "neither",
            },
        );
        let status = |approved: bool| if approved { "approved" } else { "revoked" };
        let expires = if self.in_time() { "2999-01-01T00:00:00Z" } else { "2026-01-02T00:00:00Z" };
        format!(
            "[[app]]\nid = \"{}\"\ndeveloper = \"{developer}\"\nstatus = \"{}\"\n{table}status = \"{}\"\n\
             expires = {expires}\n[[app.grant]]\nproduct = \"{product}\"\n\n",
            self.app(kind),
            status(self.app_approved()),
            status(self.approved()),
        )
    }
}

fn scene(service: &Service) -> Scene {
    let mut scene = Scene::new();
    scene.listener("inbound", "").service("orders", &service.address.to_string(), "");
    scene.registry(&catalogue());
    scene
}

/// The developers and products of all rows.
fn catalogue() -> String {
    let mut text = String::new();
    for status in ["active", "inactive"] {
        text.push_str(&format!("[[developer]]\nid = \"{status}\"\nstatus = \"{status}\"\n"));
    }
    let products = [
        ("both", "orders", "/allowed"),
        ("service-only", "orders", "/elsewhere"),
        ("resource-only", "other", "/allowed"),
        ("neither", "other", "/elsewhere"),
    ];
    for (id, service, path) in products {
        text.push_str(&format!(
            "[[product]]\nid = \"{id}\"\n[[product.operation]]\nservice = \"{service}\"\nmethods = [\"GET\"]\npath = \"{path}\"\n"
        ));
    }
    text
}

async fn explain(world: &World, certificate: Option<Presented>, key: Option<&str>) -> Explanation {
    explain_with(world, certificate, key, Fields::new()).await
}

async fn explain_with(
    world: &World,
    certificate: Option<Presented>,
    key: Option<&str>,
    fields: Fields,
) -> Explanation {
    let path = "/allowed".to_owned();
    let question = Question {
        listener: None,
        operation: Operation::Http { method: "GET".into(), host: "localhost".into(), path },
        certificate,
        api_key: key.map(|key| SecretText::new(Secret::new(key.as_bytes().to_vec()))),
        fields,
    };
    world.admin().explain(&question).await.unwrap()
}

fn explained(explanation: &Explanation) -> (u16, &str) {
    assert_eq!(explanation.allowed, explanation.status.is_none() && explanation.code == "allowed");
    (explanation.status.unwrap_or(200), &explanation.code)
}

/// A key with the id of `key` and a right checksum, but of somebody who only guesses the secret.
fn guessed(key: &Key) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

    let head = format!("pstn_sk_{}_{}", key.id, "7".repeat(43));
    let mut sum = crc32fast::hash(head.as_bytes());
    let mut digits = Vec::new();
    for _ in 0..6 {
        digits.insert(0, DIGITS.iter().copied().nth(usize::try_from(sum % 62).unwrap()).unwrap());
        sum /= 62;
    }
    head + &String::from_utf8(digits).unwrap()
}

#[tokio::test]
async fn the_table_holds_for_api_keys() {
    let service = Service::start().await;
    let mut scene = scene(&service);
    let keys: Vec<(Row, Key)> = Row::all().map(|row| (row, scene.key())).collect();
    for (row, key) in &keys {
        scene.registry(&row.registered("key", &key.table()));
    }
    let world = scene.start().await;
    let mut talk = world.talk(None).await;

    for (row, key) in keys {
        let presented = if row.valid() { key.text.clone() } else { guessed(&key) };
        let answer = talk.get("/allowed", &format!("x-api-key: {presented}\r\n")).await;
        let code = if answer.status == 200 { "allowed".to_owned() } else { answer.code() };
        assert_eq!((answer.status, code.as_str()), row.by_the_book(), "{row:?} live");
        let explanation = explain(&world, None, Some(&presented)).await;
        assert_eq!(explained(&explanation), row.by_the_book(), "{row:?} explained");
    }
    assert_eq!(service.seen().len(), 1);
}

/// Asks with the signature that `row` would make, by the agent's explanation first: it uses no nonce up.
async fn hold_against_the_book(world: &World, row: Row, signed: Fields) {
    let explanation = explain_with(world, None, None, signed.clone()).await;
    assert_eq!(explained(&explanation), row.by_the_book(), "{row:?} explained");
    let answer = world.talk(None).await.get("/allowed", &lines(&signed)).await;
    let code = if answer.status == 200 { "allowed".to_owned() } else { answer.code() };
    assert_eq!((answer.status, code.as_str()), row.by_the_book(), "{row:?} live");
}

#[tokio::test]
async fn the_table_holds_for_signatures_by_key_pair() {
    let service = Service::start().await;
    let mut scene = scene(&service);
    let key = |row: Row| SigningKey::ed25519(&row.app("signature"));
    let keys: Vec<(Row, SigningKey)> = Row::all().map(|row| (row, key(row))).collect();
    for (row, key) in &keys {
        scene.registry(&row.registered("signature", &key.table()));
    }
    let world = scene.start().await;

    for (row, key) in keys {
        let signer = if row.valid() { key } else { SigningKey::ed25519(&key.id) };
        hold_against_the_book(&world, row, signer.sign("GET", "/allowed", &[])).await;
    }
    assert_eq!(service.seen().len(), 1);
}

#[tokio::test]
async fn the_table_holds_for_signatures_by_shared_secret() {
    let service = Service::start().await;
    let mut scene = scene(&service);
    let mut other = Scene::new();
    let keys: Vec<(Row, SigningKey)> = Row::all().map(|row| (row, scene.shared_secret().0)).collect();
    for (row, key) in &keys {
        scene.registry(&row.registered("signature", &key.table()));
    }
    let world = scene.start().await;

    for (row, key) in keys {
        let mut guessed = || SigningKey { id: key.id.clone(), ..other.shared_secret().0 };
        let signed = if row.valid() {
            key.sign("GET", "/allowed", &[])
        } else {
            guessed().sign("GET", "/allowed", &[])
        };
        hold_against_the_book(&world, row, signed).await;
    }
    assert_eq!(service.seen().len(), 1);
}

#[tokio::test]
async fn the_table_holds_for_tokens_of_an_outside_issuer() {
    const ISSUER: &str = "https://id.test";
    let service = Service::start().await;
    let mut scene = scene(&service);
    let (key, thief) = (TokenKey::ed25519(), TokenKey::ed25519());
    write(&scene.path().join("jwks.json"), &jwks(&[&key]));
    scene.config(&format!(
        "[[issuer]]\nissuer = \"{ISSUER}\"\njwks_file = \"jwks.json\"\naudience = [\"{AUDIENCE}\"]\nalgorithms = [\"EdDSA\"]\n"
    ));
    for row in Row::all() {
        let client = row.app("token");
        let table = format!("[[app.token]]\nissuer = \"{ISSUER}\"\nclient_id = \"{client}\"\n");
        scene.registry(&row.registered("token", &table));
    }
    let world = scene.start().await;
    let mut talk = world.talk(None).await;

    for row in Row::all() {
        let signer = if row.valid() { &key } else { &thief };
        let token = signer.sign_as(&key.id, &claims(ISSUER, &row.app("token")));
        let fields = vec![("authorization".to_owned(), format!("Bearer {token}"))];
        let explanation = explain_with(&world, None, None, fields).await;
        assert_eq!(explained(&explanation), row.by_the_book(), "{row:?} explained");
        let answer = talk.get("/allowed", &bearer(&token)).await;
        let code = if answer.status == 200 { "allowed".to_owned() } else { answer.code() };
        assert_eq!((answer.status, code.as_str()), row.by_the_book(), "{row:?} live");
    }
    assert_eq!(service.seen().len(), 1);
}

/// Our own tokens, by the very gate of the live agent: they carry the name of the credential by which they were asked for, and
/// all seven conditions are about that.
#[test]
fn the_table_holds_for_tokens_of_our_own() {
    const ISSUER: &str = "https://postern.test";
    let (key, thief) = (TokenKey::ed25519(), TokenKey::ed25519());
    let mut text = catalogue();
    for row in Row::all() {
        text.push_str(&row.registered("own", &SigningKey::ed25519(&row.app("own")).table()));
    }
    let registry = registry::parse(&[registry::Source { path: "apps.toml".into(), text }]).unwrap();
    let own = OwnIssuer::new(ISSUER, [AUDIENCE.to_owned()]).with_key(key.public.clone(), KeyStatus::Current);
    let trust = TokenTrust::default().with_own(own);
    let (path, service) = (registry::PolicyPath::parse("/allowed").unwrap(), "orders".parse().unwrap());
    let ask = Ask::Http { service: &service, method: "GET", path: &path };

    for row in Row::all() {
        let mut claims = claims(ISSUER, &row.app("own"));
        claims["cred"] = row.app("own").into();
        let signer = if row.valid() { &key } else { &thief };
        let field = format!("Bearer {}", signer.sign_as(&key.id, &claims));
        let token = Bearer::from_fields([("authorization", field.as_bytes())], &trust).unwrap();
        let headers = HeaderEvidence { token, ..HeaderEvidence::default() };
        let evidence = Evidence { certificate: None, headers };
        let now = SystemClock.now();
        let checked =
            check(&evidence, &ask, Door::default(), &registry, &Peppers::default(), &Toll::Paid, now);
        let found = checked.as_ref().map_or_else(|no| (no.status(), no.code()), |_| (200, "allowed"));
        assert_eq!(found, row.by_the_book(), "{row:?}");
    }
}

#[tokio::test]
async fn the_table_holds_for_certificates() {
    let service = Service::start().await;
    let mut scene = scene(&service);
    for row in Row::all() {
        let table = format!("[[app.certificate]]\nuri = \"{}\"\n", row.spiffe_id());
        scene.registry(&row.registered("mtls", &table));
    }
    let world = scene.start().await;
    let authority = world.issuing_folder().await;

    for row in Row::all() {
        let identity = if row.valid() {
            Identity::issued(&row.spiffe_id(), Duration::from_secs(600), &authority)
        } else {
            Identity::of_another_ca(&row.spiffe_id())
        };
        let chain = Presented::ChainPem(identity.chain_pem());
        let explanation = explain(&world, Some(chain), None).await;
        if !row.valid() {
            assert!(
                world.dial(Some(&identity), "http/1.1").await.is_err() || hung_up(&world, &identity).await
            );
            assert_eq!(
                (explanation.allowed, explanation.code.as_str()),
                (false, "handshake-failed"),
                "{row:?}"
            );
            continue;
        }
        let answer = world.talk(Some(&identity)).await.get("/allowed", "").await;
        let code = if answer.status == 200 { "allowed".to_owned() } else { answer.code() };
        assert_eq!((answer.status, code.as_str()), row.by_the_book(), "{row:?} live");
        assert_eq!(explained(&explanation), row.by_the_book(), "{row:?} explained");
        let by_name = explain(&world, Some(Presented::SpiffeId(row.spiffe_id())), None).await;
        assert_eq!(explained(&by_name), row.by_the_book(), "{row:?} explained by name");
    }
    assert_eq!(service.seen().len(), 1);
}

/// Whether the agent hangs up on a caller who shows `identity`; in TLS 1.3 that shows on the first read.
async fn hung_up(world: &World, identity: &Identity) -> bool {
    let mut talk = world.talk(Some(identity)).await;
    drop(talk.try_send("GET /allowed HTTP/1.1\r\nhost: localhost\r\n\r\n").await);
    talk.is_closed().await
}

#[tokio::test]
async fn a_certificate_that_has_expired_ends_the_handshake_and_explain_knows() {
    let service = Service::start().await;
    let world = Scene::guarding(service.address).start().await;
    let authority = world.issuing_folder().await;
    let id = "spiffe://postern.test/caller";
    let good = Identity::issued(id, Duration::from_secs(600), &authority);
    assert_eq!(world.talk(Some(&good)).await.get("/a", "").await.status, 200);

    let expired = Identity::expired(id, &authority);

    assert!(hung_up(&world, &expired).await);
    let explanation = explain(&world, Some(Presented::ChainPem(expired.chain_pem())), None).await;
    assert_eq!(explanation.code, "handshake-failed");
    assert!(explanation.sentence.contains("expired"), "{}", explanation.sentence);
    assert_eq!(service.seen().len(), 1);
}
