//! The JSON Schema of the registry says what its reader says: the same keys at every level, the same words, the same verdicts.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "a skipped test must not look like one that ran")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use postern::registry::{self, Source};
use postern::store::atomic_file;
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

/// The schema, as it is printed.
fn schema() -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_postern")).args(["schema", "registry"]).output().unwrap();
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
const SLIPS: [(&str, &str); 16] = [
    ("id = \"team\"", "id = \"team\"\nnmae = \"x\""),
    ("id = \"team\"", "id = \"-team\""),
    ("status = \"active\"", "status = \"on\""),
    ("[\"mtls\"], [\"api_key\", \"user_token\"]", "[]"),
    ("[\"mtls\"], [\"api_key\", \"user_token\"]", "[\"cert\"]"),
    ("priority = \"high\"", "priority = 1"),
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

/// A Python that has jsonschema: the one that there is, or one that is made on first use.
fn python_with_validator() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("jsonschema");
    let made = folder.join("bin/python");
    let has_it = |python: &Path| {
        let program = "import jsonschema, tomllib";
        run(Command::new(python).args(["-c", program])).is_some_and(|output| output.status.success())
    };
    if let Some(python) = [Path::new("python3"), &made].into_iter().find(|python| has_it(python)) {
        return Ok(python.to_owned());
    }
    let (mut make, mut install) = (Command::new("python3"), Command::new(&made));
    make.args(["-m", "venv"]).arg(&folder);
    install.args("-m pip install --quiet --timeout 15 --retries 1 jsonschema>=4,<5".split(' '));
    for step in [&mut make, &mut install] {
        let output = run(step).ok_or("python3 is not installed")?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("jsonschema cannot be installed from PyPI: {why}"));
        }
    }
    if has_it(&made) { Ok(made) } else { Err("python3 is older than 3.11 and has no tomllib".to_owned()) }
}

fn run(command: &mut Command) -> Option<Output> {
    command.output().ok()
}
