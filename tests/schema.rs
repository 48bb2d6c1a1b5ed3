//! The JSON Schemas of the registry and of the configuration say what their readers say: the same keys at every level, the same
//! words, the same verdicts.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "a skipped test must not look like one that ran")]

#[path = "support/python.rs"]
mod python;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use postern::registry::{self, Source};
use postern::store::atomic_file;
use python::python_with;
use serde_json::Value;

/// Where a key can stand: what the schema calls the table, and the beginning of a file with such a table at its end.
const LEVELS: [(&str, &str); 19] = [
    ("", ""),
    ("developer", "[[developer]]\n"),
    ("product", "[[product]]\n"),
    ("quota", "[[product]]\n[product.quota]\n"),
    ("spike", "[[product]]\n[product.spike]\n"),
    ("operation", "[[product]]\n[[product.operation]]\n"),
    ("quota", "[[product]]\n[[product.operation]]\n[product.operation.quota]\n"),
    ("spike", "[[product]]\n[[product.operation]]\n[product.operation.spike]\n"),
    ("app", "[[app]]\n"),
    ("quota", "[[app]]\n[app.quota]\n"),
    ("spike", "[[app]]\n[app.spike]\n"),
    ("grant", "[[app]]\n[[app.grant]]\n"),
    ("certificate", "[[app]]\n[[app.certificate]]\n"),
    ("api_key", "[[app]]\n[[app.api_key]]\n"),
    ("client_secret", "[[app]]\n[[app.client_secret]]\n"),
    // With the algorithm it is known what the key is to be.
    ("client_key", "[[app]]\n[[app.client_key]]\nalgorithm = 'ES256'\n"),
    ("signature", "[[app]]\n[[app.signature]]\n"),
    ("token", "[[app]]\n[[app.token]]\n"),
    ("grant", "[[app]]\nid = 'a'\n[[app.certificate]]\ndns = 'a'\n[[app.certificate.grants]]\n"),
];

/// An attribute of a certificate's subject stands in a list, alone or with others.
const ATTRIBUTES: [&str; 2] = ["subject = [{ HERE }]", "subject = [[{ HERE }, { oid = 'O', value = 'x' }]]"];

/// The schema of the registry, as it is printed.
fn schema() -> Value {
    printed("registry")
}

fn printed(which: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_postern")).args(["schema", which]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn level<'s>(schema: &'s Value, name: &str) -> &'s Value {
    if name.is_empty() { schema } else { &schema["$defs"][name] }
}

/// Every level with its table, into which one more line has been written.
fn tables(line: &str) -> Vec<(&'static str, String)> {
    let attributes = ATTRIBUTES.map(|subject| {
        ("attribute", format!("[[app]]\n[[app.certificate]]\n{}\n", subject.replace("HERE", line)))
    });
    LEVELS.into_iter().map(|(name, table)| (name, format!("{table}{line}\n"))).chain(attributes).collect()
}

/// The problems that the reader has with a file: the key and the message.
fn problems(text: &str) -> Vec<(String, String)> {
    let found = registry::parse(&[Source { path: PathBuf::from("a.toml"), text: text.to_owned() }]);
    found.err().into_iter().flatten().map(|problem| (problem.key, problem.message)).collect()
}

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
}

fn words(list: &Value) -> BTreeSet<String> {
    list.as_array().into_iter().flatten().map(|word| word.as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_schema_has_the_keys_that_the_reader_asks_for_and_no_other() {
    let schema = schema();
    let mut seen = BTreeSet::new();
    for (name, text) in tables(&format!("{UNKNOWN} = 1")) {
        let told = problems(&text).into_iter().find_map(|(key, message)| {
            key.ends_with(UNKNOWN)
                .then(|| message.strip_prefix("unknown key; known here: ").map(str::to_owned))
        });
        let told = told.flatten().unwrap_or_else(|| panic!("{text} is not answered with what is known"));

        let known: BTreeSet<String> = told.split(", ").map(str::to_owned).collect();
        assert_eq!(keys(&level(&schema, name)["properties"]), known, "{text}");
        assert_eq!(level(&schema, name)["additionalProperties"], false, "{name}");
        seen.insert(name.to_owned());
    }
    // What else the schema defines are no tables.
    let of_tables = schema["$defs"].as_object().unwrap().iter().filter(|(_, one)| one["type"] == "object");
    assert!(of_tables.map(|(name, _)| name).all(|name| seen.contains(name)), "{seen:?}");
}

/// No key that there is comes near it.
const UNKNOWN: &str = "zzzzzzzzzzzz";

#[test]
fn the_schema_requires_the_keys_that_the_reader_misses() {
    let schema = schema();
    for (name, text) in tables(&format!("{UNKNOWN} = 1")) {
        let found = problems(&text);
        let place = found.iter().find_map(|(key, _)| key.strip_suffix(UNKNOWN)).unwrap();
        let missing = |(key, message): &(String, String)| {
            (message == "the key is missing").then(|| key.strip_prefix(place)).flatten().map(str::to_owned)
        };
        let missing: BTreeSet<String> =
            found.iter().filter_map(missing).filter(|key| !key.contains('.')).collect();

        let required = words(&level(&schema, name)["required"]);
        let given = |key: &String| text.contains(&format!("\n{key} = "));
        let required: BTreeSet<String> = required.into_iter().filter(|key| !given(key)).collect();
        assert_eq!(required, missing, "{text}");
    }
}

#[test]
fn the_schema_has_the_words_that_the_reader_takes() {
    let schema = schema();
    let mut checked = 0;
    let names: BTreeSet<&str> = LEVELS.into_iter().map(|(name, _)| name).collect();
    for name in names {
        for (property, says) in level(&schema, name)["properties"].as_object().unwrap() {
            let Some((_, table)) =
                LEVELS.into_iter().find(|(level, _)| *level == name).filter(|_| !says["enum"].is_null())
            else {
                continue;
            };
            let table = table.replace("algorithm = 'ES256'\n", "");
            let found = problems(&format!("{table}{property} = '{UNKNOWN}'\n"));
            let told =
                found.iter().find(|(key, _)| key.ends_with(property.as_str())).map(|(_, message)| message);
            let told = told.and_then(|message| message.strip_prefix("expected ")).unwrap();

            let taken: BTreeSet<String> =
                told.split(" or ").map(|word| word.trim_matches('`').to_owned()).collect();
            assert_eq!(words(&says["enum"]), taken, "{name}.{property}");
            checked += 1;
        }
    }
    assert!(checked >= 15, "{checked}");
}

/// All that a file can say, once.
const COMPLETE: &str = r#"
[[developer]]
id = "team"
status = "active"

[[app]]
id = "ledger"
developer = "team"
status = "approved"
accepts = [["mtls"], ["api_key", "user_token"]]
priority = "high"
key_max_age = "90d"
quota = { limit = 5, per = "1month", kind = "calendar", utc_offset = "-05:30" }
spike = { rate = "10/min", burst = 3 }
attributes = { tenant = "acme", regions = ["eu", "us"] }
[[app.certificate]]
uri = "spiffe://postern.test/ledger/**"
not_before = 2026-01-01T00:00:00Z
expires = "2027-01-01T00:00:00Z"
[[app.certificate]]
id = "by-name"
subject = [{ oid = "CN", value = "ledger" }, [{ oid = "2.5.4.10", value = "A" }, { oid = "OU", value = "B" }]]
multi_valued = true
issuer = "other.test"
[[app.api_key]]
id = "0000000000A1"
hash = "hmac-sha256:p1:5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa"
status = "pending"
scopes = ["orders:read"]
grants = ["orders"]
from = ["10.0.0.0/8", "::1"]
certificate = "spiffe://postern.test/**"
issuer = "postern.test"
sni = "api.test"
hours = "22:00-06:00"
[[app.client_secret]]
id = "0000000000A2"
hash = "hmac-sha256:p1:5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa"
grants = [{ product = "orders", status = "pending", expires = 2027-01-01T00:00:00Z, accepts = [["mtls"]] }]
[[app.signature]]
id = "ledger-2026"
algorithm = "ed25519"
public_key = """
-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=
-----END PUBLIC KEY-----
"""
[[app.client_key]]
id = "ledger-assertions"
algorithm = "EdDSA"
public_key = """
-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=
-----END PUBLIC KEY-----
"""
[[app.token]]
issuer = "https://issuer.test"
client_id = "ledger"
claims = { tenant = "acme" }
[[app.grant]]
product = "orders"
status = "pending"
accepts = [["mtls"]]

[[product]]
id = "orders"
scopes = ["orders:read"]
approval = "manual"
environments = ["prod", "test"]
sensitivity = "high"
api_key_alone = "the partner cannot do better"
quota = { limit = 5, per = "90d", kind = "fixed", start = 2026-01-01T00:00:00Z }
[[product.operation]]
id = "list"
service = "orders"
methods = ["GET", "M-SEARCH"]
path = "/{tenant}/orders/**"
accepts = [["mtls"]]
scopes = ["orders:read"]
when = "path.tenant == app.attributes.tenant"
weight = 2
spike = { rate = "1/s" }
[[product.operation]]
service = "*"

[[product]]
id = "everywhere"
environments = ["*"]
[[product.operation]]
service = "orders"
methods = ["*"]
path = "/"
"#;

/// What neither the reader nor the schema takes, written in place of something in [`COMPLETE`].
const SLIPS: [(&str, &str); 17] = [
    ("id = \"team\"", "id = \"team\"\nnmae = \"x\""),
    ("id = \"team\"", "id = \"-team\""),
    ("status = \"active\"", "status = \"on\""),
    ("[\"mtls\"], [\"api_key\", \"user_token\"]", "[]"),
    ("[\"mtls\"], [\"api_key\", \"user_token\"]", "[\"cert\"]"),
    ("priority = \"high\"", "priority = 1"),
    ("key_max_age = \"90d\"", "key_max_age = \"0s\""),
    ("utc_offset = \"-05:30\"", "utc_offset = \"5\""),
    ("rate = \"10/min\"", "rate = \"10/year\""),
    ("uri = \"spiffe://postern.test/ledger/**\"", ""),
    ("id = \"0000000000A1\"", "id = \"A1\""),
    ("hmac-sha256:p1:5f8c", "hmac-sha256:p1:zzzz"),
    ("algorithm = \"ed25519\"", "algorithm = \"hmac-sha256\""),
    ("environments = [\"*\"]", "environments = [\"*\", \"prod\"]"),
    ("methods = [\"*\"]", "methods = [\"get\"]"),
    ("path = \"/\"\n", ""),
    ("weight = 2", "weight = 0"),
];

#[test]
fn another_validator_agrees_with_the_reader() {
    let python = match python_with_validator() {
        Ok(python) => python,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        atomic_file::replace(&path, text.as_bytes(), 0o644).unwrap();
        path
    };
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/registry/sample.toml");
    let mut files =
        vec![write("schema.json", &schema().to_string()), sample, write("complete.toml", COMPLETE)];
    assert_eq!(problems(COMPLETE), []);
    for (number, (from, to)) in SLIPS.into_iter().enumerate() {
        let slip = COMPLETE.replacen(from, to, 1);
        assert_ne!(problems(&slip), [], "{to}");
        files.push(write(&format!("slip-{number}.toml"), &slip));
    }

    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schema.py");
    let output = run(Command::new(python).arg(program).args(&files)).unwrap();

    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["valid", "valid"]);
    assert_eq!(lines.len(), 2 + SLIPS.len());
    for (line, (_, slip)) in lines[2..].iter().zip(SLIPS) {
        assert_ne!(*line, "valid", "{slip}");
    }
}

/// Where a key of the configuration can stand, as in [`LEVELS`].
const SECTIONS: [(&str, &str); 30] = [
    ("", ""),
    ("log", "[log]\n"),
    ("authority", "[authority]\n"),
    ("pkcs11", "[authority.pkcs11]\n"),
    ("leaf", "[leaf]\n"),
    ("agent", "[agent]\n"),
    ("admin", "[admin]\n"),
    ("audit", "[audit]\n"),
    ("keys", "[keys]\n"),
    ("delivery", "[[keys.deliver]]\n"),
    ("metrics", "[metrics]\n"),
    ("explain", "[explain]\n"),
    ("usage", "[usage]\n"),
    ("api_key", "[api_key]\n"),
    ("signature", "[signature]\n"),
    ("issuer", "[[issuer]]\n"),
    ("token", "[token]\n"),
    ("limits", "[limits]\n"),
    ("workload", "[[workload]]\n"),
    ("match", "[[workload]]\n[workload.match]\n"),
    ("files", "[[workload]]\n[workload.files]\n"),
    ("trust", "[[trust]]\n"),
    ("listener", "[[listener]]\n"),
    ("proxy_protocol", "[[listener]]\n[listener.proxy_protocol]\n"),
    ("service", "[[service]]\n"),
    ("concurrency", "[[service]]\n[service.concurrency]\n"),
    ("client_cert", "[[service]]\n[service.client_cert]\n"),
    ("assertion", "[[service]]\n[service.assertion]\n"),
    ("otlp", "[otlp]\n"),
    ("remote", "[[remote]]\n"),
];

/// The problems that the reader has with a configuration: the key and the message.
fn config_problems(text: &str) -> Vec<(String, String)> {
    let found = postern::config::parse(Path::new("a.toml"), text);
    found.err().into_iter().flatten().map(|problem| (problem.key, problem.message)).collect()
}

/// What the reader says of a section with a line in it that has one more key.
fn config_answer(table: &str) -> Option<(BTreeSet<String>, BTreeSet<String>)> {
    let found = config_problems(&format!("{table}{UNKNOWN} = 1\n"));
    let (place, told) =
        found.iter().find_map(|(key, message)| Some((key.strip_suffix(UNKNOWN)?, message)))?;
    let known = told.strip_prefix("unknown key; known here: ")?.split(", ");
    let missing = found.iter().filter(|(_, message)| message == "the key is missing");
    let missing = missing.filter_map(|(key, _)| key.strip_prefix(place)).filter(|key| !key.contains('.'));
    Some((known.map(str::to_owned).collect(), missing.map(str::to_owned).collect()))
}

#[test]
fn the_schema_of_the_configuration_has_the_keys_that_the_reader_asks_for_and_no_other() {
    let schema = printed("config");
    let mut told = Vec::new();
    for (name, table) in SECTIONS {
        let (known, missing) =
            config_answer(table).unwrap_or_else(|| panic!("{table:?} is not answered with what is known"));
        let level = level(&schema, name);
        let has = keys(&level["properties"]);
        let place = if name.is_empty() { "the top" } else { name };
        for key in known.difference(&has) {
            told.push(format!("src/cli/config.schema.json lacks `{key}` of {place}, which the reader knows"));
        }
        for key in has.difference(&known) {
            told.push(format!(
                "src/cli/config.schema.json has `{key}` in {place}, which the reader does not know"
            ));
        }
        if words(&level["required"]) != missing {
            told.push(format!(
                "{place}: the reader misses {missing:?}, the schema requires {}",
                level["required"]
            ));
        }
        if level["additionalProperties"] != false {
            told.push(format!("{place} takes keys that nobody knows"));
        }
    }
    let of_tables = schema["$defs"].as_object().unwrap().iter().filter(|(_, one)| one["type"] == "object");
    for (name, _) in of_tables.filter(|(name, _)| !SECTIONS.iter().any(|(section, _)| section == name)) {
        told.push(format!(
            "the section `{name}` of the schema is not held against the reader: add it to SECTIONS"
        ));
    }
    assert!(told.is_empty(), "{}", told.join("\n"));
}

/// What a property is to be, links followed.
fn resolved<'s>(schema: &'s Value, says: &'s Value) -> &'s Value {
    match says["$ref"].as_str().and_then(|link| link.strip_prefix("#/$defs/")) {
        Some(name) => &schema["$defs"][name],
        None => says,
    }
}

#[test]
fn a_wrong_type_fails_wherever_it_stands_in_a_configuration() {
    let schema = printed("config");
    let mut checked = 0;
    for (name, table) in SECTIONS {
        for (property, says) in level(&schema, name)["properties"].as_object().unwrap() {
            let says = resolved(&schema, says);
            let is_text = says["type"] == "string" || !says["enum"].is_null() || !says["allOf"][0].is_null();
            let wrong = if is_text || says["type"] == "object" { "7" } else { "'x'" };

            let found = config_problems(&format!("{table}{property} = {wrong}\n"));

            let heard = found.iter().any(|(key, message)| {
                key.rsplit('.').next() == Some(property) && message.starts_with("expected ")
            });
            assert!(heard, "{name}.{property} = {wrong}: {found:?}");
            checked += 1;
        }
    }
    assert!(checked > 120, "{checked}");
}

#[test]
fn the_schema_of_the_configuration_has_the_words_that_the_reader_takes() {
    let schema = printed("config");
    let mut checked = 0;
    for (name, table) in SECTIONS {
        for (property, says) in level(&schema, name)["properties"].as_object().unwrap() {
            if says["enum"].is_null() {
                continue;
            }
            let found = config_problems(&format!("{table}{property} = '{UNKNOWN}'\n"));
            let told = found.iter().find(|(key, _)| key.rsplit('.').next() == Some(property));
            let told = told.and_then(|(_, message)| message.strip_prefix("expected ")).unwrap();
            let taken: BTreeSet<String> =
                told.split(" or ").map(|word| word.trim_matches('`').to_owned()).collect();
            assert_eq!(words(&says["enum"]), taken, "{name}.{property}");
            checked += 1;
        }
    }
    assert!(checked >= 15, "{checked}");
}

/// All that a configuration can say, once, but for what excludes it.
const COMPLETE_CONFIG: &str = r#"
trust_domain = "postern.test"
state_dir = "state"
runtime_dir = "run"
registry = ["registry"]
environment = "prod"
threads = 2
quickstart = false
[log]
level = "info,postern::proxy=debug"
format = "json"
access = false
[authority]
mode = "standalone"
key = "p384"
root_ttl = "365d"
distribute = "1d"
issuing_ttl = "7d"
backdate = "5m"
crl_ttl = "24h"
second_opinion = "never"
keys = "pkcs11"
passphrase_file = "passphrase"
[authority.pkcs11]
module = "/usr/lib/softhsm/libsofthsm2.so"
token = "ca"
pin_credential = "ca-pin"
[leaf]
ttl = "1h30m"
key = "ed25519"
backdate = "0s"
[agent]
spiffe_id = "spiffe://postern.test/agent"
dns = ["localhost"]
ttl = "1h"
key = "p256"
[admin]
socket = "admin.sock"
viewers = ["uid:0"]
editors = []
operators = ["gid:0"]
[audit]
directory = "audit"
rotate_at = "8MiB"
key_file = "audit-key"
[keys]
max_age = "365d"
[[keys.deliver]]
app = "ledger"
file = "/run/ledger/api-key"
owner = "0"
every = "30d"
grace = "48h"
[metrics]
address = "127.0.0.1:9464"
[explain]
remember = 0
[usage]
keep = "35d"
records = "usage.jsonl"
[api_key]
header = "X-Api-Key"
[signature]
max_age = "300s"
skew = "30s"
nonce = "always"
nonces = 1000
tag = "postern"
cover = ["content-type"]
[[issuer]]
issuer = "https://id.example"
jwks_url = "https://id.example/keys"
roots = "id-roots.pem"
audience = ["orders"]
algorithms = ["ES256", "RS256"]
leeway = "5s"
typ = ["at+jwt"]
for = "users"
refresh = "5m"
refetch = "30s"
keep = "24h"
[[issuer]]
issuer = "other"
jwks_file = "keys.json"
audience = ["orders"]
algorithms = ["EdDSA"]
[token]
issuer = "https://localhost:8443"
listeners = ["inbound"]
path = "/oauth"
ttl = "10m"
audiences = ["https://localhost:8443"]
algorithm = "EdDSA"
key_lifetime = "30d"
bind = "never"
introspectors = ["ledger"]
socket = "tokens.sock"
[limits]
handshake = "5s"
head = "10s"
idle = "60s"
connect = "5s"
stall = "60s"
drain = "500ms"
head_size = "32KiB"
h2_streams = 128
connections = 20000
failed_keys = "10/s"
failed_keys_burst = 100
pooled = 0
body_rate = "500B"
body_window = "10s"
h2_control = "100/s"
h2_control_burst = 1000
h2_resets = "unlimited"
source_connections = 5000
app_connections = 5000
handshakes = 1000
max_age = "1d"
memory = "80%"
[otlp]
endpoint = "http://127.0.0.1:4318"
one_in = 100
follow = true
[[workload]]
id = "sample"
spiffe_id = "spiffe://postern.test/sample"
dns = ["sample.test"]
ttl = "1h"
key = "p256"
[workload.match]
uid = 60001
group = "root"
executable = "/usr/bin/web"
unit = "web.service"
cgroup = "/system.slice/web.service"
[workload.files]
directory = "sample"
mode = "0640"
owner = "root"
group = "0"
readers = ["user:root", "group:0"]
reload = ["/usr/bin/pkill", "-HUP", "web"]
[[trust]]
domain = "other.example"
bundle = "other.pem"
crl = "other-crl.pem"
stale_crl = "accept"
[[listener]]
id = "inbound"
address = "127.0.0.1:8443"
protocol = "http"
accepts = [["mtls"], ["api_key", "user_token"]]
workload = "agent"
oldest_tls = "1.2"
[[listener]]
id = "raw"
address = "[::1]:8444"
protocol = "tcp"
service = "database"
proxy_protocol = { from = ["10.0.0.0/8", "::1"] }
[[service]]
id = "whoami"
hosts = ["localhost"]
base_path = "/"
endpoint = "builtin:whoami"
accepts = [["mtls"]]
concurrency = { minimum = 10, maximum = 1000 }
watch_responses = "report"
error_format = "apigee"
protocol = "http/1.1"
client_cert = { xfcc = "forward_only", details = ["subject"], rfc9440 = "leaf", proxies = ["edge"] }
assertion = { audience = "spiffe://postern.test/whoami", ttl = "60s" }
[[service]]
id = "database"
endpoint = "127.0.0.1:5432"
send_proxy = "v2"
[[service]]
id = "chat"
base_path = "/chat"
endpoint = "127.0.0.1:8081"
upgrades = ["websocket"]
trailers = ["x-checksum"]
[[remote]]
id = "loopback"
address = "127.0.0.1:8443"
protocol = "tcp"
spiffe_ids = ["spiffe://postern.test/agent"]
listen = "127.0.0.1:15001"
socket = "loopback.sock"
"#;

/// What neither the reader nor the schema takes, written in place of something in [`COMPLETE_CONFIG`].
const CONFIG_SLIPS: [(&str, &str); 24] = [
    ("trust_domain = \"postern.test\"", ""),
    ("threads = 2", "threads = \"2\""),
    ("threads = 2", "threads = 2\ntrheads = 2"),
    ("quickstart = false", "quickstart = \"no\""),
    ("registry = [\"registry\"]", "registry = \"registry\""),
    ("format = \"json\"", "format = \"xml\""),
    ("mode = \"standalone\"", "mode = \"subordinate\""),
    ("root_ttl = \"365d\"", "root_ttl = \"365 days\""),
    ("pin_credential = \"ca-pin\"\n", ""),
    ("key_file = \"audit-key\"", "key_file = \"audit-key\"\nkey_credential = \"audit-key\""),
    ("rotate_at = \"8MiB\"", "rotate_at = \"8MB\""),
    ("max_age = \"365d\"", "max_age = \"0s\""),
    ("viewers = [\"uid:0\"]", "viewers = [\"root\"]"),
    ("nonces = 1000", "nonces = 10"),
    ("jwks_file = \"keys.json\"\n", ""),
    ("listeners = [\"inbound\"]", "listeners = []"),
    ("failed_keys = \"10/s\"", "failed_keys = \"10\""),
    ("group = \"root\"\nexec", "gid = 0\ngroup = \"root\"\nexec"),
    ("stale_crl = \"accept\"", "stale_crl = \"ignore\""),
    ("service = \"database\"\n", ""),
    ("from = [\"10.0.0.0/8\", \"::1\"]", "from = []"),
    ("send_proxy = \"v2\"", "send_proxy = \"v1\""),
    ("endpoint = \"builtin:whoami\"", "endpoint = \"whoami\""),
    ("spiffe_ids = [\"spiffe://postern.test/agent\"]", "spiffe_ids = []"),
];

#[test]
fn another_validator_agrees_with_the_reader_of_the_configuration() {
    let python = match python_with_validator() {
        Ok(python) => python,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        atomic_file::replace(&path, text.as_bytes(), 0o644).unwrap();
        path
    };
    let shipped = ["postern.toml", "production.toml"]
        .map(|name| Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name));
    let mut files = vec![write("schema.json", &printed("config").to_string())];
    files.extend(shipped);
    files.push(write("complete.toml", COMPLETE_CONFIG));
    assert_eq!(config_problems(COMPLETE_CONFIG), []);
    for (number, (from, to)) in CONFIG_SLIPS.into_iter().enumerate() {
        let slip = COMPLETE_CONFIG.replacen(from, to, 1);
        assert!(slip != COMPLETE_CONFIG && !config_problems(&slip).is_empty(), "{from} -> {to}");
        files.push(write(&format!("slip-{number}.toml"), &slip));
    }

    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schema.py");
    let output = run(Command::new(python).arg(program).args(&files)).unwrap();

    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..3], ["valid", "valid", "valid"]);
    assert_eq!(lines.len(), 3 + CONFIG_SLIPS.len());
    for (line, (_, slip)) in lines[3..].iter().zip(CONFIG_SLIPS) {
        assert_ne!(*line, "valid", "{slip}");
    }
}

/// A Python that has jsonschema: made on first use.
fn python_with_validator() -> Result<PathBuf, String> {
    python_with("jsonschema", "jsonschema, tomllib", &["jsonschema>=4,<5"])
}

fn run(command: &mut Command) -> Option<Output> {
    command.output().ok()
}
