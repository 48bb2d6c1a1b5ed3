//! Files say what the registry is to be like: what differs is told, made in one step, written down, and made once.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use support::world::{GRANT, postern};
use support::{Answer, Scene, Service, Talk, Tls};
use tokio::time::Instant;

const WANTED: &str = r#"# Who pays.
[[developer]]
id = "payments"

# The ledger.
[[app]]
id = "ledger"
developer = "payments"
accepts = [["mtls"], ["api_key"]]

[[app.certificate]]
uri = "spiffe://postern.test/ledger"

[[app.grant]]
product = "orders"

[[product]]
id = "orders"
scopes = ["orders:read"]
quota = { limit = 100, per = "1d" }

[[product.operation]]
id = "list"
service = "orders"
methods = ["GET"]
path = "/orders/**"
"#;

/// An empty registry, no agent, and the wanted state in `wanted/orders.toml`.
fn place() -> Scene {
    let scene = Scene::new();
    scene.write();
    want(&scene, WANTED);
    scene
}

fn want(scene: &Scene, text: &str) {
    fs::create_dir_all(scene.path().join("wanted")).unwrap();
    support::write(&scene.path().join("wanted/orders.toml"), text);
}

fn run(folder: &Path, words: &[&str]) -> (i32, String, String) {
    let output = postern(folder).args(words).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// What a command prints that ends with `code`.
fn ends(code: i32, folder: &Path, words: &str) -> String {
    let (got, out, err) = run(folder, &words.split_whitespace().collect::<Vec<_>>());
    assert_eq!(got, code, "{words}: {out}{err}");
    if code == 1 { err } else { out }
}

fn orders(scene: &Scene) -> String {
    fs::read_to_string(scene.path().join("registry/orders.toml")).unwrap()
}

fn records(folder: &Path) -> Vec<Value> {
    let shown: Value = serde_json::from_str(&ends(0, folder, "audit show --json")).unwrap();
    shown.as_array().unwrap().clone()
}

#[test]
fn applied_twice_the_second_time_changes_nothing() {
    let scene = place();
    let at = scene.path();
    let wanted = at.join("wanted").display().to_string();

    let plan = ends(3, at, &format!("apply {wanted} --plan"));
    assert!(
        plan.contains("+ create app:ledger, in ") && plan.contains("    developer: \"payments\"\n"),
        "{plan}"
    );
    assert!(plan.contains("    operation list: { id = \"list\", service = \"orders\""), "{plan}");
    assert!(plan.ends_with("3 to create, 0 to change, 0 to delete. Nothing was changed.\n"), "{plan}");
    assert!(!at.join("registry/orders.toml").exists() && records(at).is_empty());

    let made = ends(0, at, &format!("apply {wanted} --reason first"));
    assert!(made.ends_with("3 changes made.\n"), "{made}");
    assert_eq!(orders(&scene), WANTED);
    assert_eq!(records(at).len(), 3);

    for words in
        [format!("apply {wanted} --plan"), format!("apply {wanted}"), format!("apply {wanted} --prune")]
    {
        let none = ends(0, at, &words);
        assert_eq!(none, "No changes: the registry is as it is wanted.\n", "{words}");
    }
    assert_eq!((orders(&scene).as_str(), records(at).len()), (WANTED, 3));
    assert!(ends(0, at, "check").contains("1 app, 1 product, 1 developer, 1 credential"));
}

#[test]
fn what_differs_is_told_field_by_field_and_changed_where_it_stands() {
    let scene = place();
    let at = scene.path();
    let file = at.join("wanted/orders.toml").display().to_string();
    let commented =
        WANTED.replace("limit = 100, per = \"1d\" }", "limit = 100, per = \"1d\" }   # by contract");
    fs::create_dir_all(at.join("registry")).unwrap();
    support::write(&at.join("registry/mine.toml"), &commented);
    let other = "\n[[product.operation]]\nservice = \"orders\"\nmethods = [\"POST\"]\npath = \"/orders\"\nweight = 5\n";
    let wanted =
        WANTED.replace("limit = 100", "limit = 200").replace("accepts = [[\"mtls\"], [\"api_key\"]]\n", "");
    want(&scene, &format!("{}{other}", wanted.replace("[\"GET\"]", "[\"GET\", \"HEAD\"]")));

    let plan = ends(3, at, &format!("apply {file} --plan"));

    let app = "    - accepts: [[\"mtls\"], [\"api_key\"]]\n";
    let lines = [
        "    ~ quota.limit: 100 -> 200\n",
        "    ~ operation list: methods: [\"GET\"] -> [\"GET\", \"HEAD\"]\n",
        "    + operation orders /orders: { service = \"orders\", methods = [\"POST\"], path = \"/orders\", weight = 5 }\n",
    ];
    for line in lines.iter().chain([&app]) {
        assert!(plan.contains(line), "{line}{plan}");
    }
    assert!(plan.ends_with("0 to create, 2 to change, 0 to delete. Nothing was changed.\n"), "{plan}");

    ends(0, at, &format!("apply {file}"));

    let text = fs::read_to_string(at.join("registry/mine.toml")).unwrap();
    assert!(text.contains("{ limit = 200, per = \"1d\" }   # by contract"), "{text}");
    assert!(text.contains("# The ledger.\n") && text.contains("weight = 5"), "{text}");
    assert!(!at.join("registry/orders.toml").exists());
    assert_eq!(
        ends(0, at, &format!("apply {file} --plan")),
        "No changes: the registry is as it is wanted.\n"
    );
}

#[test]
fn every_change_is_written_down_with_its_reason_and_without_secrets() {
    let scene = place();
    let at = scene.path();
    let file = at.join("wanted/orders.toml").display().to_string();
    ends(0, at, &format!("apply {file}"));
    let hash = "ab".repeat(32);
    let key =
        format!("[[app.api_key]]\nid = \"0000000000A1\"\nhash = \"hmac-sha256:p1:{hash}\"\n\n[[app.grant]]");
    want(&scene, &WANTED.replace("[[app.grant]]", &key));

    let plan = ends(3, at, &format!("apply {file} --plan"));
    assert!(plan.contains("+ api_key 0000000000A1: { id = \"0000000000A1\", hash = (not shown) }"), "{plan}");
    let (code, out, _) = run(at, &["apply", &file, "--reason", "ticket 7"]);

    assert_eq!(code, 0);
    assert!(!out.contains(&hash) && orders(&scene).contains(&hash));
    let record = records(at).pop().unwrap();
    assert_eq!(record["verb"], "apply.change");
    assert_eq!(record["target"], "app:ledger");
    assert_eq!(record["reason"], "ticket 7");
    assert_eq!(record["outcome"], "done");
    assert!(record["detail"].as_str().unwrap().starts_with("+ api_key 0000000000A1"), "{record}");
    assert!(!record.to_string().contains(&hash));
}

#[test]
fn what_the_files_leave_open_stays_as_people_have_left_it() {
    let scene = place();
    let at = scene.path();
    let file = at.join("wanted/orders.toml").display().to_string();
    ends(0, at, &format!("apply {file}"));
    ends(0, at, &format!("key create --app ledger --out {}", at.join("ledger.key").display()));
    ends(0, at, "app revoke ledger");
    ends(0, at, "grant revoke ledger orders");

    let none = ends(0, at, &format!("apply {file} --prune"));

    assert_eq!(none, "No changes: the registry is as it is wanted.\n");
    assert!(orders(&scene).contains("[[app.api_key]]"));
    want(&scene, &WANTED.replace("id = \"ledger\"\n", "id = \"ledger\"\nstatus = \"approved\"\n"));
    let plan = ends(3, at, &format!("apply {file} --plan"));
    assert!(plan.contains("    ~ status: \"revoked\" -> \"approved\"\n"), "{plan}");
}

#[test]
fn a_credential_that_was_revoked_is_not_brought_back() {
    let scene = place();
    let at = scene.path();
    let file = at.join("wanted/orders.toml").display().to_string();
    ends(0, at, &format!("apply {file}"));
    ends(0, at, "key revoke ledger-cert-1");
    let before = orders(&scene);
    assert_eq!(
        ends(0, at, &format!("apply {file} --plan")),
        "No changes: the registry is as it is wanted.\n"
    );

    want(
        &scene,
        &WANTED.replace("/ledger\"\n\n[[app.grant", "/ledger\"\nstatus = \"approved\"\n\n[[app.grant"),
    );
    let told = ends(1, at, &format!("apply {file}"));

    assert!(told.contains("the credential `ledger-cert-1` is revoked, and that for good"), "{told}");
    assert_eq!(orders(&scene), before);
    let record = records(at).pop().unwrap();
    assert_eq!((&record["verb"], &record["outcome"]), (&Value::from("apply"), &Value::from("refused")));
}

#[test]
fn pruning_deletes_in_files_of_the_same_name_and_nowhere_else() {
    let scene = place();
    let at = scene.path();
    let file = at.join("wanted/orders.toml").display().to_string();
    ends(0, at, &format!("apply {file}"));
    ends(0, at, "developer create made-by-hand");
    ends(0, at, &format!("key create --app ledger --out {}", at.join("ledger.key").display()));
    let (head, _) = WANTED.split_once("# The ledger.").unwrap();
    want(&scene, head);

    assert_eq!(ends(0, at, &format!("apply {file}")), "No changes: the registry is as it is wanted.\n");
    let plan = ends(3, at, &format!("apply {file} --prune --plan"));
    assert!(
        plan.contains("- delete app:ledger, in ") && plan.contains("- delete product:orders, in "),
        "{plan}"
    );
    assert!(plan.contains("    api_key ") && plan.contains("hash = (not shown)"), "{plan}");
    ends(0, at, &format!("apply {file} --prune"));

    assert_eq!(orders(&scene).trim(), head.trim());
    assert!(ends(0, at, "developer list").contains("made-by-hand"));
    let deleted: Vec<_> = records(at).into_iter().filter(|record| record["verb"] == "apply.delete").collect();
    assert_eq!(deleted.len(), 2);
    assert_eq!(deleted[0]["before"], "approved");
}

#[test]
fn what_would_break_the_registry_is_refused_and_nothing_is_written() {
    let scene = place();
    let at = scene.path();
    let wanted = at.join("wanted").display().to_string();
    support::write(&at.join("wanted/team.toml"), "[[developer]]\nid = \"team\"\n");
    let told = |text: &str, words: &str| {
        want(&scene, text);
        let told = ends(1, at, &format!("apply {wanted} {words}"));
        assert!(
            !at.join("registry/orders.toml").exists() && !at.join("registry/team.toml").exists(),
            "{told}"
        );
        told
    };

    let nobody = told(&WANTED.replace("developer = \"payments\"", "developer = \"paymnets\""), "");
    assert!(nobody.contains("there is no developer `paymnets`, did you mean `payments`?"), "{nobody}");
    assert!(told(&WANTED.replace("limit = 100", "limit = \"many\""), "--plan").contains("quota.limit"));
    let twice = told(&format!("{WANTED}\n[[developer]]\nid = \"team\"\n"), "");
    assert!(twice.contains("orders.toml") && twice.contains("the developer `team` stands in"), "{twice}");
    let unknown = told(&format!("[[devloper]]\nid = \"x\"\n{WANTED}"), "");
    assert!(unknown.contains("orders.toml:1:3: devloper: unknown key; known here: "), "{unknown}");
    assert!(told("[[developer]\n", "").contains("wanted/orders.toml:1:"));
    assert!(ends(1, at, "apply nowhere.toml").contains("nowhere.toml: cannot be read"));

    want(&scene, WANTED);
    ends(0, at, &format!("apply {wanted}"));
    assert!(at.join("registry/orders.toml").exists() && at.join("registry/team.toml").exists());
}

#[test]
fn the_order_of_grants_counts_and_names_by_place_stay_with_what_they_name() {
    let scene = place();
    let at = scene.path();
    let file = at.join("wanted/orders.toml").display().to_string();
    let two = format!("{WANTED}\n[[product]]\nid = \"more\"\n").replace(
        "[[app.grant]]\nproduct = \"orders\"\n",
        "[[app.certificate]]\nid = \"second\"\ndns = \"ledger.test\"\n\n[[app.grant]]\nproduct = \"orders\"\n\n[[app.grant]]\nproduct = \"more\"\nexpires = 2036-01-01T00:00:00Z\n",
    );
    want(&scene, &two);
    ends(0, at, &format!("apply {file}"));
    let turned = two
        .replace("[[app.grant]]\nproduct = \"orders\"\n\n", "")
        .replace("00:00:00Z\n", "00:00:00Z\n\n[[app.grant]]\nproduct = \"orders\"\n")
        .replace("[[app.certificate]]\nuri = \"spiffe://postern.test/ledger\"\n\n", "")
        .replace(
            "[[app.certificate]]\n",
            "[[app.certificate]]\nuri = \"spiffe://postern.test/books\"\n\n[[app.certificate]]\n",
        );
    want(&scene, &turned);

    let plan = ends(3, at, &format!("apply {file} --plan"));
    assert!(plan.contains("~ grant order: orders, more -> more, orders"), "{plan}");
    ends(0, at, &format!("apply {file}"));

    let grants: Value = serde_json::from_str(&ends(0, at, "grant list --json")).unwrap();
    let products: Vec<_> = grants.as_array().unwrap().iter().map(|grant| grant["product"].clone()).collect();
    assert_eq!(products, ["more", "orders"]);
    assert_eq!(ends(0, at, &format!("apply {file}")), "No changes: the registry is as it is wanted.\n");
    let nameless = turned.replace("id = \"second\"\n", "");
    want(&scene, &nameless);
    ends(0, at, &format!("apply {file}"));
    assert_eq!(ends(0, at, &format!("apply {file}")), "No changes: the registry is as it is wanted.\n");
}

#[test]
fn lints_of_what_is_new_are_told_as_warnings() {
    let scene = place();
    let at = scene.path();
    let file = at.join("wanted/orders.toml").display().to_string();
    want(&scene, &WANTED.replace("[[app.grant]]\nproduct = \"orders\"\n", ""));

    let plan = ends(3, at, &format!("apply {file} --plan"));
    assert!(plan.contains("warning: app-without-grants: "), "{plan}");
    let json: Value = serde_json::from_str(&ends(0, at, &format!("apply {file} --json"))).unwrap();
    assert_eq!(json["applied"], true);
    assert_eq!(json["changes"][0]["action"], "create");
    assert!(
        json["warnings"].as_array().unwrap().iter().any(|one| one["lint"] == "app-without-grants"),
        "{json}"
    );
    let none = ends(0, at, &format!("apply {file} --plan"));
    assert!(!none.contains("warning"), "{none}");
}

/// How often two files are changed together.
const ROUNDS: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_two_files_is_in_force_whole_or_not_at_all() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    let keys = [scene.key(), scene.key()];
    let world = scene.start().await;
    let tables = keys.each_ref().map(|key| format!("accepts = [[\"api_key\"]]\n{}{GRANT}", key.table()));
    let wanted = world.path().join("wanted");
    fs::create_dir_all(&wanted).unwrap();
    let at = world.path().to_owned();
    // Of the two developers, each with a file of its own, exactly one is active.
    let turn = move |active: usize| {
        for (number, tables) in tables.iter().enumerate() {
            let status = if number == active { "active" } else { "inactive" };
            let team = format!("[[developer]]\nid = \"team-{number}\"\nstatus = \"{status}\"\n");
            let app = format!("[[app]]\nid = \"app-{number}\"\ndeveloper = \"team-{number}\"\n{tables}");
            support::write(&wanted.join(format!("{number}.toml")), &format!("{team}{app}"));
        }
        ends(0, &at, &format!("apply {}", wanted.display()));
    };
    let turn = tokio::task::spawn_blocking(move || {
        turn(0);
        turn
    });
    let turn = turn.await.unwrap();
    let (mut first, mut second) = (world.talk(None).await, world.talk(None).await);
    until(&mut first, &keys[0].line(), 200).await;

    let turning = tokio::task::spawn_blocking(move || {
        for round in 1..=ROUNDS {
            turn(round % 2);
            std::thread::sleep(Duration::from_millis(30));
        }
    });
    let mut seen = [0, 0];
    while !turning.is_finished() {
        let before = first.get("/a", &keys[0].line()).await.status;
        let other = second.get("/a", &keys[1].line()).await.status;
        let after = first.get("/a", &keys[0].line()).await.status;
        // In between nothing was turned, so the other one was asked under the same registry.
        if before == after {
            assert_ne!(before, other, "after {seen:?}");
            seen[usize::from(before == 200)] += 1;
        }
    }
    turning.await.unwrap();
    assert!(seen.iter().all(|&seen| seen > 0), "{seen:?}");
}

async fn until(talk: &mut Talk<Tls>, line: &str, status: u16) {
    let begun = Instant::now();
    loop {
        let answer: Answer = talk.get("/a", line).await;
        if answer.status == status {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{answer:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
