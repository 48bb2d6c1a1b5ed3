//! What Apigee has on file is taken over: keys go on to work, rights are the same, and what has no counterpart is told.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use support::world::postern;
use support::{Answer, Scene, Service};

const KEY: &str = "Wq3xZ8vN1bT6yR0mK5cJ7hG2fD4sA9pL";
const SECOND: &str = "aZ5nB1mQ8wE3rT7yU2iO6pL0kJ9hG4fD";
const SECRET: &str = "s3cR3tOfTheConsumer0123";

/// As `apigeecli products export`, `developers export` and `apps export` write them.
fn export(folder: &Path, service: &str) {
    let products = json!([
        {
            "name": "Orders Read", "displayName": "Orders", "approvalType": "auto", "environments": ["prod"],
            "attributes": [{ "name": "access", "value": "public" }],
            "quota": "1000", "quotaInterval": "1", "quotaTimeUnit": "day", "scopes": ["orders.read"],
            "operationGroup": {
                "operationConfigType": "proxy",
                "operationConfigs": [
                    { "apiSource": service, "operations": [{ "resource": "/orders/**", "methods": ["GET"] }],
                      "quota": { "limit": "50", "interval": "1", "timeUnit": "minute" } },
                    { "apiSource": service, "operations": [{ "resource": "/a" }] },
                ],
            },
            "createdAt": "1600000000000", "lastModifiedAt": "1600000000000",
        },
        { "name": "wages", "approvalType": "manual", "proxies": [service], "apiResources": ["/", "/wages/*"] },
    ]);
    let developers = json!({ "developer": [
        { "email": "ann@example.com", "firstName": "Ann", "lastName": "Other", "userName": "ann", "developerId": "d-1",
          "status": "active", "organizationName": "acme" },
        { "email": "bob@example.com", "userName": "bob", "developerId": "d-2", "status": "inactive" },
    ] });
    let link = |product: &str, status: &str| json!({ "apiproduct": product, "status": status });
    let key = |key: &str, status: &str, expires: &str, products: Value| {
        json!({ "consumerKey": key, "status": status, "issuedAt": "1700000000000", "expiresAt": expires,
                "apiProducts": products })
    };
    let apps = json!([
        { "appId": "0d1e", "name": "ledger", "developerId": "d-1", "status": "approved",
          "attributes": [{ "name": "tenant", "value": "acme" }],
          "credentials": [
              key(KEY, "approved", "-1", json!([link("Orders Read", "approved"), link("wages", "pending")])),
              key(SECOND, "revoked", "1900000000000", json!([link("Orders Read", "approved")])),
          ] },
        { "appId": "2f3a", "name": "ledger", "developerId": "d-2", "status": "revoked", "credentials": [] },
    ]);
    put(folder, &[("products", products), ("developers", developers), ("apps", apps)]);
}

fn put(folder: &Path, files: &[(&str, Value)]) {
    fs::create_dir_all(folder).unwrap();
    for (name, value) in files {
        support::write(&folder.join(format!("{name}.json")), &value.to_string());
    }
}

fn run(at: &Path, words: &str) -> (i32, String, String) {
    let output = postern(at).args(words.split_whitespace()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn json_of(at: &Path, words: &str) -> Value {
    serde_json::from_str(&run(at, words).1).unwrap()
}

fn place() -> Scene {
    let scene = Scene::new();
    scene.write();
    scene
}

#[test]
fn an_export_becomes_a_registry_that_says_the_same() {
    let scene = place();
    let at = scene.path();
    export(&at.join("export"), "orders-v1");
    let from = at.join("export").display().to_string();
    let words = format!("import apigee {from} --service orders-v1=orders/v1");

    let (code, plan, told) = run(at, &format!("{words} --plan"));
    assert_eq!(code, 3, "{plan}{told}");
    assert!(plan.contains("+ create app:ledger, in ") && plan.contains("hash = (not shown)"), "{plan}");
    assert!(!told.contains("not taken over"), "{told}");
    assert!(
        told.contains("note: the developer \"ann@example.com\" is called ann-example.com here"),
        "{told}"
    );
    assert!(!at.join("registry/apigee-apps.toml").exists());

    let (code, out, told) = run(at, &format!("{words} --reason moving"));
    assert_eq!(code, 0, "{out}{told}");
    let products = fs::read_to_string(at.join("registry/apigee-products.toml")).unwrap();
    for part in [
        "# Orders Read, Orders\n[[product]]\nid = \"Orders-Read\"\nenvironments = [\"prod\"]\nscopes = [\"orders.read\"]\nquota = { limit = 1000, per = \"1d\" }\n",
        "id = \"op-1\"\nservice = \"orders\"\nmethods = [\"GET\"]\npath = \"/v1/orders/**\"\nquota = { limit = 50, per = \"1min\" }\n",
        "service = \"orders\"\nmethods = [\"*\"]\npath = \"/v1/a\"\n",
        "id = \"wages\"\napproval = \"manual\"\n",
        "path = \"/v1\"\n",
        "path = \"/v1/**\"\n",
        "path = \"/v1/wages/*\"\n",
    ] {
        assert!(products.contains(part), "{part}{products}");
    }
    let apps = fs::read_to_string(at.join("registry/apigee-apps.toml")).unwrap();
    for part in [
        "developer = \"ann-example.com\"\nstatus = \"approved\"\nattributes = { tenant = \"acme\" }\n",
        "created = 2023-11-14T22:13:20Z\ngrants = [{ product = \"Orders-Read\", status = \"approved\" }, { product = \"wages\", status = \"pending\" }]\n",
        "status = \"revoked\"\ncreated = 2023-11-14T22:13:20Z\nexpires = 2030-03-17T17:46:40Z\n",
        "[[app.grant]]\nproduct = \"wages\"\nstatus = \"pending\"\n",
        "id = \"ledger-bob-example.com\"\ndeveloper = \"bob-example.com\"\nstatus = \"revoked\"\n",
    ] {
        assert!(apps.contains(part), "{part}{apps}");
    }
    for text in [&products, &apps, &out, &told, &json_of(at, "audit show --json").to_string()] {
        assert!(!text.contains(KEY) && !text.contains(SECOND), "{text}");
    }
    let developers = json_of(at, "developer list --json");
    assert_eq!(developers[1]["status"], "inactive");
    let records = json_of(at, "audit show --json");
    assert_eq!((records[0]["reason"].as_str(), records.as_array().unwrap().len()), (Some("moving"), 6));

    let (code, again, _) = run(at, &words);
    assert_eq!((code, again.as_str()), (0, "No changes: the registry is as it is wanted.\n"));
}

#[test]
fn what_has_no_counterpart_is_told_line_by_line() {
    let scene = place();
    let at = scene.path();
    let from = at.join("export");
    let products = json!([
        { "name": "all", "approvalType": "auto" },
        { "name": "odd", "proxies": ["p"], "apiResources": ["/a/**/b"], "quota": "5", "quotaInterval": "1",
          "quotaTimeUnit": "fortnight", "llmQuota": "7", "attributes": [{ "name": "tier", "value": "gold" }],
          "graphqlOperationGroup": { "operationConfigs": [{ "apiSource": "g" }] } },
    ]);
    let developers =
        json!({ "developer": [{ "email": "a@b.c", "developerId": "d", "status": "login_lock" }] });
    let weak = json!({ "consumerKey": "secret123", "apiProducts": [{ "apiproduct": "gone", "status": "approved" }] });
    let strong =
        json!({ "consumerKey": KEY, "consumerSecret": SECRET, "scopes": ["nowhere"], "expiresAt": "soon" });
    let apps = json!([
        { "name": "one", "developerId": "d", "callbackUrl": "https://a.b", "credentials": [weak, strong] },
        { "name": "lost", "developerId": "nobody" },
    ]);
    put(&from, &[("products", products), ("developers", developers), ("apps", apps)]);

    let (code, out, told) = run(at, &format!("import apigee {}", from.display()));

    assert_eq!(code, 3, "{out}{told}");
    for line in [
        "product all: it names no proxy, which there means each of them; here it covers nothing until it has operations",
        "product odd: the quota 5 per 1? cannot be kept here",
        "product odd: GraphQL operations of g: ",
        "product odd: the resource \"/a/**/b\" of p: ",
        "product odd: `llmQuota` has no counterpart",
        "product odd: the attribute tier = \"gold\" has no counterpart",
        "developer a@b.c: the status \"login_lock\" is taken as inactive",
        "app one: the product \"gone\" is not in the export, nor granted here",
        "app one, key 1: it is not taken over: ",
        "app one, key 2: the scope \"nowhere\" is conveyed by no product",
        "app one, key 2: `expiresAt` \"soon\" is no instant",
        "app one, key 2: its consumer secret is not taken over: ",
        "app one: `callbackUrl` has no counterpart",
        "app lost: it is of nobody, who is no developer of the export, so it is left out",
    ] {
        assert!(told.contains(&format!("not taken over: {line}")), "{line}\n{told}");
    }
    assert!(told.contains(
        "note: the proxy \"p\" is taken for the service p with the base path /; --service p=NAME/BASE"
    ));
    assert!(!told.contains(SECRET) && !told.contains("secret123"), "{told}");
    assert_eq!(json_of(at, "app show one --json")["credentials"].as_array().unwrap().len(), 1);

    for (text, why) in
        [("[\"a\"]", "expected objects"), ("{}", "called `apiProduct`"), ("[", "products.json")]
    {
        support::write(&from.join("products.json"), text);
        let (code, _, told) = run(at, &format!("import apigee {}", from.display()));
        assert!(code == 1 && told.contains(why), "{told}");
    }
}

#[test]
fn files_for_review_can_be_written_and_then_applied() {
    let scene = place();
    let at = scene.path();
    export(&at.join("export"), "orders");
    let (from, review) = (at.join("export").display().to_string(), at.join("review"));
    let words = format!("import apigee {from} --service orders=orders --out {}", review.display());

    let (code, out, _) = run(at, &words);
    assert_eq!((code, out.lines().count()), (0, 3), "{out}");
    assert!(!at.join("registry/apigee-apps.toml").exists());
    let (code, _, told) = run(at, &words);
    assert!(code == 1 && told.contains("is there already; nothing was written"), "{told}");

    assert_eq!(run(at, &format!("apply {}", review.display())).0, 0);
    assert_eq!(run(at, &format!("apply {} --plan", review.display())).0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_keep_their_keys() {
    let service = Service::start().await;
    let scene = Scene::guarding(service.address);
    let world = scene.start().await;
    let mut talk = world.talk(None).await;
    let [good, revoked] = [KEY, SECOND].map(|key| format!("x-api-key: {key}\r\n"));
    assert_eq!(talk.get("/a", &good).await.status, 401);
    let at = world.path().to_owned();
    let import = tokio::task::spawn_blocking(move || {
        export(&at.join("export"), "orders");
        let products = fs::read_to_string(at.join("export/products.json")).unwrap();
        support::write(&at.join("export/products.json"), &products.replace("[\"prod\"]", "[]"));
        run(&at, &format!("import apigee {} --service orders=orders", at.join("export").display()))
    });
    let (code, out, told) = import.await.unwrap();
    assert_eq!(code, 0, "{out}{told}");

    let mut status = 0;
    for _ in 0..300 {
        status = talk.get("/a", &good).await.status;
        if status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    assert_eq!(status, 200);
    let answer: Answer = talk.get("/a", &revoked).await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "credential-revoked"));
    assert_eq!(talk.get("/b", &good).await.status, 403, "no product covers it");
}
