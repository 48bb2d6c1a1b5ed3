//! Callers whose certificates have several attributes in one relative name, as programs written in Go make them: they come in,
//! and are somebody only where a rule says that such names are meant.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]

#[path = "bad_chains/der.rs"]
#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, reason = "the corpus of bad chains uses the rest")]
mod der;
#[path = "bad_chains/forge.rs"]
#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, reason = "the corpus of bad chains uses the rest")]
mod forge;
#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::sync::Arc;

use postern::admin::{Explanation, Operation, Origin, Presented, Question};
use postern::clock::{Clock as _, SystemClock};
use postern::store::pem;
use rcgen::{KeyPair, PublicKeyData as _};
use rustls::pki_types::PrivatePkcs8KeyDer;

use der::{CN, O, SEQUENCE, UTF8, name, relative_names, tlv};
use forge::{
    CERT_SIGN, CLIENT_AUTH, CONSTRAINTS, CRL_SIGN, DIGITAL_SIGNATURE, Draft, KEY_USAGE, Key, PURPOSES, SAN,
    SERVER_AUTH, URI, authority, general_names, key_usage, purposes,
};
use support::world::GRANT;
use support::{Act, Identity, Scene, Service, World, eventually, write};

/// Somebody else's CA, which puts what it likes into a name.
struct Issuer {
    key: Arc<Key>,
    root: Draft,
}

impl Issuer {
    fn new() -> Self {
        let key = Key::p256();
        let own = name(&[(CN, UTF8, b"Root")]);
        let mut root = draft(&own, &own, key.spki.clone(), &key);
        root.set(CONSTRAINTS, true, authority(None));
        root.set(KEY_USAGE, true, key_usage(&[CERT_SIGN, CRL_SIGN]));
        Self { key, root }
    }

    fn pem(&self) -> String {
        pem::certificate_to_pem(&self.root.sign())
    }

    fn leaf(&self, spiffe_id: &str, subject: &[u8]) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut leaf = draft(&self.root.subject, subject, key.subject_public_key_info(), &self.key);
        leaf.set(CONSTRAINTS, true, tlv(SEQUENCE, &[]));
        leaf.set(KEY_USAGE, true, key_usage(&[DIGITAL_SIGNATURE]));
        leaf.set(PURPOSES, false, purposes(&[SERVER_AUTH, CLIENT_AUTH]));
        leaf.set(SAN, false, general_names(&[(URI, spiffe_id.as_bytes())]));
        Identity { chain: vec![leaf.sign()], key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() }
    }
}

fn draft(issuer: &[u8], subject: &[u8], spki: Vec<u8>, signer: &Arc<Key>) -> Draft {
    let now = SystemClock.now().unix();
    Draft {
        version: Some(2),
        serial: vec![0x0a, 0xbc],
        algorithms: [None, None],
        issuer: issuer.to_vec(),
        not_before: now - 60,
        not_after: now + 3600,
        subject: subject.to_vec(),
        spki,
        extensions: Vec::new(),
        afterwards: |der| der,
        beforehand: |der| der,
        signer: Arc::clone(signer),
    }
}

/// `CN=jane,O=a+O=b`.
fn several() -> Vec<u8> {
    relative_names(&[&[(O, UTF8, b"a"), (O, UTF8, b"b")], &[(CN, UTF8, b"jane")]])
}

/// An agent that trusts `issuer` for `acme.test`, in front of `service`, with an app for each of these certificate rules.
fn scene(issuer: &Issuer, service: &Service, rules: &[(&str, &str)]) -> Scene {
    let mut scene = Scene::new();
    scene
        .listener("inbound", "")
        .service("orders", &service.address.to_string(), "")
        .config("[[trust]]\ndomain = \"acme.test\"\nbundle = \"acme.pem\"\n");
    write(&scene.path().join("acme.pem"), &issuer.pem());
    scene.registry(
        "[[developer]]\nid = \"team\"\n\n[[product]]\nid = \"orders\"\n\n[[product.operation]]\nservice = \"orders\"\n\
         methods = [\"*\"]\npath = \"/**\"\n",
    );
    for (app, rule) in rules {
        scene.app(app, &format!("[[app.certificate]]\n{rule}\n"));
        scene.registry(GRANT);
    }
    scene
}

async fn explain(world: &World, caller: &Identity) -> Explanation {
    let question = Question {
        listener: None,
        operation: Operation::Http { method: "GET".into(), host: "localhost".into(), path: "/a".into() },
        certificate: Some(Presented::ChainPem(caller.chain_pem())),
        origin: Origin::default(),
        api_key: None,
        fields: Vec::new(),
    };
    world.admin().explain(&question).await.unwrap()
}

const BY_ID: &str = "uri = \"spiffe://acme.test/jane\"";

#[tokio::test]
async fn a_multi_valued_name_is_nobodys_until_a_rule_says_so() {
    let service = Service::answering(|_| vec![Act::Echo]).await;
    let issuer = Issuer::new();
    let world = scene(&issuer, &service, &[("jane", BY_ID)]).start().await;
    let plain = issuer.leaf("spiffe://acme.test/jane", &name(&[(O, UTF8, b"a"), (CN, UTF8, b"jane")]));
    assert_eq!(world.talk(Some(&plain)).await.get("/a", "").await.status, 200);
    let caller = issuer.leaf("spiffe://acme.test/jane", &several());

    let mut talk = world.talk(Some(&caller)).await;
    let refused = talk.get("/a", "").await;
    let explained = explain(&world, &caller).await;

    assert_eq!((refused.status, refused.code().as_str()), (403, "unmapped-certificate"));
    assert_eq!((explained.allowed, explained.code.as_str()), (false, "unmapped-certificate"));
    let reason = "the rule of `jane-cert-1`, which it meets, does not say multi_valued = true";
    assert!(explained.sentence.contains(reason), "{}", explained.sentence);
    let log = world.log_with(reason).await;
    let line = log.lines().find(|line| line.contains(reason)).unwrap();
    let event: serde_json::Value = serde_json::from_str(line).unwrap();
    assert!(line.contains("CN=jane,O=a+O=b"), "{event}");
    assert_eq!(service.seen().len(), 1);

    let willing = world.registry().replace(BY_ID, &format!("{BY_ID}\nmulti_valued = true"));
    write(&world.path().join("registry/apps.toml"), &willing);
    let allowed = eventually("the rule says so", async || {
        Some(talk.get("/a", "").await).filter(|answer| answer.status == 200)
    })
    .await;

    let seen = service.last();
    assert_eq!(allowed.status, 200);
    assert_eq!(seen.values("x-postern-app"), ["jane"]);
    let element = seen.values("x-forwarded-client-cert").concat();
    assert!(element.contains("Subject=\"CN=jane,O=a+O=b\";"), "{element}");
    assert!(explain(&world, &caller).await.allowed);
}

/// Five names that a careless reader takes for one another, and a rule for each.
#[tokio::test]
async fn each_name_is_the_one_that_its_rule_lists() {
    let service = Service::answering(|_| vec![Act::Echo]).await;
    let issuer = Issuer::new();
    let (a, b) = ("{ oid = \"O\", value = \"a\" }", "{ oid = \"O\", value = \"b\" }");
    let rules = [
        ("together", format!("subject = [[{b}, {a}]]\nmulti_valued = true")),
        ("apart", format!("subject = [{a}, {b}]\nmulti_valued = true")),
        ("first", format!("subject = [{a}]\nmulti_valued = true")),
        ("text", "subject = [{ oid = \"O\", value = \"a+O=b\" }]\nmulti_valued = true".to_owned()),
    ];
    let rules: Vec<(&str, &str)> = rules.iter().map(|(app, rule)| (*app, rule.as_str())).collect();
    let world = scene(&issuer, &service, &rules).start().await;

    for (subject, app, written) in [
        (several(), "together", r#"Subject="CN=jane,O=a+O=b";"#),
        (relative_names(&[&[(O, UTF8, b"b"), (O, UTF8, b"a")]]), "together", r#"Subject="O=b+O=a";"#),
        (name(&[(O, UTF8, b"a"), (O, UTF8, b"b")]), "apart", r#"Subject="O=b,O=a";"#),
        (name(&[(O, UTF8, b"a")]), "first", r#"Subject="O=a";"#),
        (name(&[(O, UTF8, b"a+O=b")]), "text", r#"Subject="O=a\\+O\\=b";"#),
    ] {
        let caller = issuer.leaf("spiffe://acme.test/any", &subject);
        let answer = world.talk(Some(&caller)).await.get("/a", "").await;

        assert_eq!(answer.status, 200, "{app}");
        let seen = service.last();
        assert_eq!(seen.values("x-postern-app"), [app]);
        let element = seen.values("x-forwarded-client-cert").concat();
        assert!(element.contains(written), "{element}");
    }
    let three = relative_names(&[&[(O, UTF8, b"a"), (O, UTF8, b"b"), (O, UTF8, b"c")]]);
    let stranger = issuer.leaf("spiffe://acme.test/any", &three);
    let refused = world.talk(Some(&stranger)).await.get("/a", "").await;
    assert_eq!((refused.status, refused.code().as_str()), (403, "unmapped-certificate"));
    world.log_with("it meets no rule; one by subject lists such attributes together").await;
}
