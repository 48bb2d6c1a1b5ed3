//! What the registry's files may say, and what is answered when they say something else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use crate::clock::Timestamp;
use crate::identity::{Attribute, Match, RelativeName, Subject};
use crate::limit::{Priority, Quota, Spike, Unit, Window};
use crate::registry::{
    AppStatus, AttributeValue, Change, CredentialKind, CredentialSecret, CredentialStatus, DeveloperStatus,
    GrantStatus, Library, Methods, NameNotAdmitted, PolicyPath, Share, Snapshot, Source, Target, parse,
};

fn sources(texts: &[(&str, &str)]) -> Vec<Source> {
    texts.iter().map(|(path, text)| Source { path: PathBuf::from(path), text: (*text).to_owned() }).collect()
}

fn read(text: &str) -> Snapshot {
    parse(&sources(&[("a.toml", text)])).unwrap()
}

/// The problems of one file, without its name.
fn problems(text: &str) -> Vec<String> {
    let found = parse(&sources(&[("a.toml", text)])).unwrap_err();
    found.iter().map(|problem| problem.to_string().replacen("a.toml:", "", 1)).collect()
}

/// The problems of an app with some more lines.
fn app_problems(lines: &str) -> Vec<String> {
    problems(&format!("{DEVELOPER}[[app]]\nid = 'ledger'\ndeveloper = 'team'\n{lines}\n"))
}

/// The problems of an operation with these lines.
fn operation_problems(lines: &str) -> Vec<String> {
    problems(&format!("[[product]]\nid = 'orders'\n[[product.operation]]\n{lines}\n"))
}

fn subject(id: &str) -> Subject {
    Subject {
        spiffe_id: id.parse().unwrap(),
        dns: Vec::new(),
        attributes: Vec::new(),
        distinguished_name: String::new(),
        serial: String::new(),
        issuer: String::new(),
        not_before: Timestamp::FLOOR,
        not_after: Timestamp::FLOOR,
        sha256: [0; 32],
        spki_sha256: [0; 32],
    }
}

/// Two lines.
const DEVELOPER: &str = "[[developer]]\nid = 'team'\n";

const HASH: &str = "hmac-sha256:p1:5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa";

const COMPLETE: &str = r#"
[[developer]]
id = "payments-team"

[[app]]
id = "ledger"
developer = "payments-team"
accepts = [["mtls"], ["api_key", "mtls"]]
  [[app.certificate]]
  id = "ledger-svid"
  uri = "spiffe://postern.test/ledger"
  not_before = 2026-01-01T00:00:00Z
  expires = "2027-01-01T00:00:00Z"
  [[app.certificate]]
  subject = [{ oid = "CN", value = "ledger" }, { oid = "2.5.4.10", value = "Acme" }]
  status = "pending"
  [[app.api_key]]
  id = "0000000000A1"
  hash = "hmac-sha256:p1:5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa"
  [[app.grant]]
  product = "orders-read"
  status = "pending"
  expires = 2027-01-01T00:00:00Z

[[product]]
id = "orders-read"
scopes = ["orders:read"]
  [[product.operation]]
  service = "orders"
  methods = ["GET", "HEAD"]
  path = "/orders/**"
  accepts = [["mtls"]]
  [[product.operation]]
  service = "*"
"#;

#[test]
fn a_complete_registry_is_read_in_full() {
    let snapshot = read(COMPLETE);

    let app = snapshot.app("ledger").unwrap();
    assert_eq!((app.status, app.developer.status), (AppStatus::Approved, DeveloperStatus::Active));
    assert_eq!(app.accepts.as_ref().map(ToString::to_string).as_deref(), Some("mtls or mtls+api_key"));
    let [grant] = app.grants.as_slice() else { panic!("one grant") };
    assert_eq!((grant.product.id.as_str(), grant.status), ("orders-read", GrantStatus::Pending));
    assert_eq!(grant.expires.map(|at| at.to_string()).as_deref(), Some("2027-01-01T00:00:00Z"));

    let key = snapshot.api_key("0000000000A1").unwrap();
    assert_eq!((key.kind(), key.app.id.as_str()), (CredentialKind::ApiKey, "ledger"));
    assert!(
        matches!(&key.secret, CredentialSecret::ApiKey { hash, pepper } if hash[0] == 0x5f && &**pepper == "p1")
    );

    let Match::Found(svid) = snapshot.certificate(&subject("spiffe://postern.test/ledger")) else { panic!() };
    assert_eq!((svid.id.as_str(), svid.not_before), ("ledger-svid", Some(Timestamp::FLOOR)));
    assert_eq!(snapshot.credential("ledger-cert-2").map(|one| one.status), Some(CredentialStatus::Pending));

    let operations = &snapshot.product("orders-read").unwrap().operations;
    assert!(operations[0].target.covers_request("GET", &PolicyPath::parse("/orders/1").unwrap()));
    assert!(operations[0].accepts.is_some());
    assert_eq!(operations[1].target, Target::Tcp);
}

#[test]
fn no_files_make_an_empty_registry() {
    let snapshot = parse(&[]).unwrap();

    assert_eq!((snapshot.apps().len(), snapshot.credentials().len()), (0, 0));
}

#[test]
fn an_empty_list_means_nothing_and_a_star_means_everything() {
    let methods = |list: &str| {
        let text =
            format!("[[product]]\nid='p'\n[[product.operation]]\nservice='s'\npath='/'\nmethods={list}\n");
        let target = read(&text).product("p").unwrap().operations[0].target.clone();
        match target {
            Target::Http { methods, .. } => methods,
            Target::Tcp => panic!("no http"),
        }
    };

    assert_eq!(methods("[]"), Methods::Listed(Vec::new()));
    assert_eq!(methods("['*']"), Methods::Any);
}

#[test]
fn files_may_refer_to_one_another_in_any_order() {
    let files = sources(&[
        ("1.toml", "[[app]]\nid='a'\ndeveloper='team'\n[[app.grant]]\nproduct='p'\n"),
        ("2.toml", DEVELOPER),
        ("3.toml", "[[product]]\nid='p'\n"),
    ]);

    assert!(parse(&files).is_ok());
}

#[test]
fn the_version_follows_names_and_texts_but_not_the_directory() {
    let version = |texts: &[(&str, &str)]| parse(&sources(texts)).unwrap().version().to_owned();
    let base = version(&[("/etc/a.toml", ""), ("/etc/b.toml", DEVELOPER)]);

    assert_eq!(base.len(), 12);
    assert_eq!(version(&[("/opt/b.toml", DEVELOPER), ("/opt/a.toml", "")]), base);
    assert_ne!(version(&[("/etc/a.toml", "#"), ("/etc/b.toml", DEVELOPER)]), base);
    assert_ne!(version(&[("/etc/c.toml", ""), ("/etc/b.toml", DEVELOPER)]), base);
    assert_ne!(version(&[("/etc/b.toml", DEVELOPER)]), base);
}

#[test]
fn unknown_keys_are_named_at_every_level() {
    assert_eq!(problems("[[ap]]\n"), ["1:3: ap: unknown key, did you mean `app`?"]);
    assert_eq!(
        problems(&format!("{DEVELOPER}stauts = 'active'\n")),
        ["3:1: developer.team.stauts: unknown key, did you mean `status`?"]
    );
    assert_eq!(
        app_problems("[[app.grant]]\nprodct = 'x'"),
        [
            "6:1: app.ledger.grant[1].product: the key is missing",
            "7:1: app.ledger.grant[1].prodct: unknown key, did you mean `product`?",
        ]
    );
    assert_eq!(
        operation_problems("service = 's'\nmethod = ['GET']\npath = '/'"),
        [
            "3:1: product.orders.operation[1]: `path` without `methods`; write methods = [\"*\"] for every method",
            "5:1: product.orders.operation[1].method: unknown key, did you mean `methods`?",
        ]
    );
}

#[test]
fn a_reference_that_leads_nowhere_is_answered_with_the_nearest_name() {
    let text =
        format!("{DEVELOPER}[[app]]\nid = 'ledger'\ndeveloper = 'taem'\n[[app.grant]]\nproduct = 'zebra'\n");

    assert_eq!(
        problems(&text),
        [
            "5:13: app.ledger.developer: there is no developer `taem`, did you mean `team`?",
            "7:11: app.ledger.grant[1].product: there is no product `zebra`",
        ]
    );
}

#[test]
fn a_second_definition_points_to_the_first() {
    let key = format!("[[app.api_key]]\nid = '0000000000A1'\nhash = '{HASH}'\n");
    let files = sources(&[
        (
            "1.toml",
            &format!("{DEVELOPER}[[app]]\nid = 'a'\ndeveloper = 'team'\n{key}[[product]]\nid = 'p'\n"),
        ),
        (
            "2.toml",
            &format!("{DEVELOPER}[[app]]\nid = 'a'\ndeveloper = 'team'\n{key}[[product]]\nid = 'p'\n"),
        ),
    ]);

    let found: Vec<String> = parse(&files).unwrap_err().iter().map(ToString::to_string).collect();

    assert_eq!(
        found,
        [
            "2.toml:2:6: developer.team.id: there is a developer `team` already, at 1.toml:2",
            "2.toml:4:6: app.a.id: there is an app `a` already, at 1.toml:4",
            "2.toml:7:6: app.a.api_key.0000000000A1.id: there is a credential `0000000000A1` already, at 1.toml:7",
            "2.toml:10:6: product.p.id: there is a product `p` already, at 1.toml:10",
        ]
    );
}

#[test]
fn a_second_grant_of_one_product_is_refused() {
    let text = format!(
        "{DEVELOPER}[[product]]\nid = 'p'\n[[app]]\nid = 'a'\ndeveloper = 'team'\n\
         grant = [{{ product = 'p' }}, {{ product = 'p', status = 'revoked' }}]\n"
    );

    assert_eq!(
        problems(&text),
        ["8:41: app.a.grant[2].product: the app has a grant to it already, at a.toml:8"]
    );
}

#[test]
fn one_certificate_cannot_stand_for_two_credentials() {
    let rule = "uri = 'spiffe://td/**'";

    assert_eq!(
        app_problems(&format!("[[app.certificate]]\n{rule}\n[[app.certificate]]\nid = 'again'\n{rule}")),
        [
            "9:6: app.ledger.certificate.again.id: the credential `ledger-cert-1` at a.toml:6 stands for the same certificates"
        ]
    );
}

/// `CN=jane,O=a+O=b`, as a Go program writes it.
fn jane(id: &str) -> Subject {
    let part = |short: &str, value: &str| Attribute {
        oid: Attribute::oid_of(short).unwrap().to_owned(),
        value: value.to_owned(),
    };
    let groups = RelativeName::new(vec![part("O", "a"), part("O", "b")]).unwrap();
    Subject { attributes: vec![groups, part("CN", "jane").into()], ..subject(id) }
}

#[test]
fn a_multi_valued_name_stands_for_an_app_only_by_a_rule_that_says_so() {
    let registry = |lines: &str| {
        read(&format!(
            "{DEVELOPER}[[app]]\nid = 'ledger'\ndeveloper = 'team'\n[[app.certificate]]\n{lines}\n"
        ))
    };
    let caller = jane("spiffe://td/jane");
    for rule in [
        "uri = 'spiffe://td/jane'",
        "uri = 'spiffe://td/**'",
        "subject = [{ oid = 'CN', value = 'jane' }]",
        "sha256 = '0000000000000000000000000000000000000000000000000000000000000000'",
        "spki = '0000000000000000000000000000000000000000000000000000000000000000'",
    ] {
        let (silent, not) = (registry(rule), registry(&format!("{rule}\nmulti_valued = false")));
        let willing = registry(&format!("{rule}\nmulti_valued = true"));
        let reason = Some(NameNotAdmitted::ByRule("ledger-cert-1".parse().unwrap()));

        let Match::Found(found) = willing.certificate(&caller) else { panic!("{rule}") };
        assert_eq!((found.app.id.as_str(), willing.objection_to_name(&caller)), ("ledger", None));
        for refusing in [silent, not] {
            assert_eq!(refusing.certificate(&caller), Match::NotFound, "{rule}");
            assert_eq!(refusing.objection_to_name(&caller), reason, "{rule}");
        }
    }
    let by_set = "subject = [[{ oid = 'O', value = 'b' }, { oid = 'O', value = 'a' }]]\nmulti_valued = true";
    assert!(matches!(registry(by_set).certificate(&caller), Match::Found(_)));
    let one_by_one =
        "subject = [{ oid = 'O', value = 'a' }, { oid = 'O', value = 'b' }]\nmulti_valued = true";
    assert_eq!(registry(one_by_one).certificate(&caller), Match::NotFound);
    assert_eq!(registry(one_by_one).objection_to_name(&caller), Some(NameNotAdmitted::NoRule));
}

#[test]
fn a_rule_that_admits_multi_valued_names_admits_all_others_as_before() {
    let rule = "uri = 'spiffe://td/jane'\nmulti_valued = true";
    let snapshot = read(&format!(
        "{DEVELOPER}[[app]]\nid = 'ledger'\ndeveloper = 'team'\n[[app.certificate]]\n{rule}\n"
    ));

    assert!(matches!(snapshot.certificate(&subject("spiffe://td/jane")), Match::Found(_)));
    assert_eq!(snapshot.certificate(&subject("spiffe://td/joe")), Match::NotFound);
    assert_eq!(snapshot.objection_to_name(&subject("spiffe://td/joe")), None);
}

/// Else a caller would become somebody else by the form of its name.
#[test]
fn a_wider_rule_that_admits_the_name_does_not_stand_in_for_the_narrowest() {
    let snapshot = read(&format!(
        "{DEVELOPER}[[app]]\nid = 'jane'\ndeveloper = 'team'\n[[app.certificate]]\nuri = 'spiffe://td/jane'\n\
         [[app]]\nid = 'all'\ndeveloper = 'team'\n[[app.certificate]]\nuri = 'spiffe://td/**'\nmulti_valued = true\n"
    ));
    let caller = jane("spiffe://td/jane");

    assert!(
        matches!(snapshot.certificate(&jane("spiffe://td/joe")), Match::Found(all) if all.app.id.as_str() == "all")
    );
    assert_eq!(snapshot.certificate(&caller), Match::NotFound);
    let reason = snapshot.objection_to_name(&caller).unwrap().to_string();
    assert!(
        reason.contains("the rule of `jane-cert-1`, which it meets, does not say multi_valued = true"),
        "{reason}"
    );
}

#[test]
fn the_same_rule_is_the_same_whatever_it_says_of_multi_valued_names() {
    let rule = "uri = 'spiffe://td/a'";
    assert_eq!(
        app_problems(&format!(
            "[[app.certificate]]\n{rule}\n[[app.certificate]]\nid = 'again'\n{rule}\nmulti_valued = true"
        )),
        [
            "9:6: app.ledger.certificate.again.id: the credential `ledger-cert-1` at a.toml:6 stands for the same certificates"
        ]
    );
}

#[test]
fn a_certificate_has_exactly_one_rule() {
    assert_eq!(
        app_problems("[[app.certificate]]\nstatus = 'approved'"),
        [
            "6:1: app.ledger.certificate[1]: it must say which certificates it stands for: one of uri, dns, subject, spki, sha256"
        ]
    );
    assert_eq!(
        app_problems("[[app.certificate]]\nuri = 'spiffe://td/a'\ndns = 'a'"),
        [
            "6:1: app.ledger.certificate[1]: it must have exactly one of uri, dns, subject, spki, sha256, not uri and dns"
        ]
    );
}

#[test]
fn a_rule_that_is_none_says_why() {
    let rule = |line: &str| {
        let found = app_problems(&format!("[[app.certificate]]\n{line}"));
        assert_eq!(found.len(), 1, "{found:?}");
        found.concat().split_once("certificate[1].").unwrap().1.to_owned()
    };

    assert_eq!(rule("uri = 'spiffe://td/a//b'"), "uri: a path has no empty segment");
    assert_eq!(rule("uri = 'spiffe://td/*'"), "uri: '*' stands only in '/**', at the end");
    assert_eq!(rule("dns = '*.a'"), "dns: a DNS name has only letters, digits, '.', '-' and '_'");
    assert_eq!(rule("sha256 = 'abc'"), "sha256: expected 64 hexadecimal digits");
    assert_eq!(rule("spki = 1"), "spki: expected a string, found an integer");
    assert_eq!(
        rule("subject = []"),
        "subject: expected at least one attribute: an empty list matches nobody"
    );
    assert_eq!(rule("subject = [{ oid = 'CN' }]"), "subject[1].value: the key is missing");
    assert_eq!(
        rule("subject = [{ oid = 'CN', value = '' }]"),
        "subject[1].value: expected a value, found nothing"
    );
    let (a, b) = ("{ oid = 'O', value = 'a' }", "{ oid = 'O', value = 'b' }");
    assert_eq!(
        rule(&format!("multi_valued = true\nsubject = [{b}, [{a}]]")),
        "subject[2]: expected several attributes: one alone stands without brackets of its own"
    );
    assert_eq!(
        rule(&format!("multi_valued = true\nsubject = [[{a}, {b}, {a}]]")),
        "subject[1]: the same attribute stands twice"
    );
    assert_eq!(
        rule(&format!("multi_valued = true\nsubject = [[{a}, {{ oid = 'O' }}]]")),
        "subject[1][2].value: the key is missing"
    );
    assert_eq!(rule("multi_valued = 1\ndns = 'a'"), "multi_valued: expected true or false, found an integer");
    assert_eq!(
        app_problems(&format!("[[app.certificate]]\nsubject = [[{a}, {b}]]")),
        [
            "6:1: app.ledger.certificate[1]: `subject` lists attributes that share a relative name; that needs multi_valued = true"
        ]
    );
    assert_eq!(
        rule("subject = [{ oid = 'cn', value = 'x' }]"),
        "subject[1].oid: expected a dotted object identifier or one of C, CN, DC, L, O, OU, ST, STREET, UID, did you mean `CN`?"
    );
    assert_eq!(
        rule("subject = [{ oid = '2..5', value = 'x' }]"),
        "subject[1].oid: expected a dotted object identifier or one of C, CN, DC, L, O, OU, ST, STREET, UID"
    );
}

#[test]
fn the_hash_of_a_key_is_in_no_message() {
    for hash in ["hmac-sha256:p1:5ecre7", "5ecre7", "hmac-sha1:p1:5ecre7", "hmac-sha256:p 1:5ecre7"] {
        let found = app_problems(&format!("[[app.api_key]]\nid = '0000000000A1'\nhash = '{hash}'"));

        assert_eq!(
            found,
            [
                "8:8: app.ledger.api_key.0000000000A1.hash: expected hmac-sha256:<name of the pepper>:<64 hexadecimal digits>"
            ]
        );
    }
    let broken = app_problems("[[app.api_key]]\nid = '0000000000A1'\nhash = 'hmac-sha256:p1:5ecre7");
    assert!(!broken.concat().contains("5ecre7"), "{broken:?}");
}

#[test]
fn the_id_of_a_key_has_twelve_letters_and_digits() {
    for id in ["A1", "0000000000A1x", "0000000000-1", "00000000000é"] {
        let found = app_problems(&format!("[[app.api_key]]\nid = '{id}'\nhash = '{HASH}'")).concat();

        assert!(found.ends_with(".id: expected the 12 letters and digits of a key's id"), "{found}");
    }
}

#[test]
fn words_times_and_kinds_are_checked() {
    assert_eq!(
        app_problems("status = 'aproved'"),
        ["6:10: app.ledger.status: expected `approved` or `revoked`, did you mean `approved`?"]
    );
    assert_eq!(
        app_problems("accepts = []"),
        [
            "6:11: app.ledger.accepts: expected at least one alternative, each with at least one kind of credential"
        ]
    );
    assert_eq!(
        app_problems("accepts = [['mtls'], []]"),
        [
            "6:11: app.ledger.accepts: expected at least one alternative, each with at least one kind of credential"
        ]
    );
    assert_eq!(
        app_problems("accepts = ['mtls', ['apikey']]"),
        [
            "6:12: app.ledger.accepts[1]: expected an array, found a string",
            "6:21: app.ledger.accepts[2][1]: expected `mtls` or `signature` or `token` or `api_key` or `user_token`, did you mean `api_key`?",
        ]
    );
    let times = "[[app.certificate]]\ndns = 'a'\nnot_before = 2026-02-01T00:00:00Z\nexpires = ";
    assert_eq!(
        app_problems(&format!("{times}2026-02-01T00:00:00Z")),
        ["6:1: app.ledger.certificate[1]: `expires` does not lie after `not_before`"]
    );
    assert_eq!(
        app_problems(&format!("{times}2027-02-01")),
        ["9:11: app.ledger.certificate[1].expires: expected an RFC 3339 time such as 2026-01-01T00:00:00Z"]
    );
}

#[test]
fn an_operation_is_about_requests_or_about_connections() {
    assert_eq!(
        operation_problems("methods = ['GET']\nservice = '*'"),
        ["3:1: product.orders.operation[1]: `methods` without `path`; write path = \"/\" for every path"]
    );
    assert_eq!(
        operation_problems("methods = ['*', 'get']\npath = '/a/**/b'"),
        [
            "3:1: product.orders.operation[1].service: the key is missing",
            "4:12: product.orders.operation[1].methods[1]: expected a method in upper-case letters such as GET, or '*' alone in the list",
            "4:17: product.orders.operation[1].methods[2]: expected a method in upper-case letters such as GET, or '*' alone in the list",
            "5:8: product.orders.operation[1].path: '**' stands alone as the last segment; write '/orders/**'",
        ]
    );
    assert_eq!(
        problems("[[product]]\nid = 'p'\nscopes = ['a b']\n"),
        ["3:11: product.p.scopes[1]: a scope has only visible ASCII characters but '\"' and '\\'"]
    );
}

#[test]
fn a_broken_file_is_named_without_blaming_those_that_refer_to_it() {
    let files = sources(&[
        ("1.toml", "[[app]]\nid = 'a'\ndeveloper = 'team'\nstatus = 'off'\n"),
        ("2.toml", "[[developer]]\nid = 'team\n"),
    ]);

    let found: Vec<String> = parse(&files).unwrap_err().iter().map(ToString::to_string).collect();

    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[0], "1.toml:4:10: app.a.status: expected `approved` or `revoked`");
    assert!(found[1].starts_with("2.toml:2:11: "), "{found:?}");
}

#[test]
fn wrong_types_are_named_wherever_they_stand() {
    assert_eq!(
        problems("app = 1\n[product]\n[[developer]]\nid = 7\n"),
        [
            "1:7: app: expected an array, found an integer",
            "2:1: product: expected an array of tables, headed [[…]], found a table",
            "4:6: developer[1].id: expected a string, found an integer",
        ]
    );
}

#[test]
fn a_long_app_name_asks_for_names_of_its_certificates() {
    let id = "a".repeat(60);
    let text =
        format!("{DEVELOPER}[[app]]\nid = '{id}'\ndeveloper = 'team'\n[[app.certificate]]\ndns = 'a'\n");

    assert_eq!(
        problems(&text),
        [format!("6:1: app.{id}.certificate[1]: it needs an `id` of its own: the app's name is too long")]
    );
}

proptest! {
    /// An editor that dies, a disk that is full, a finger that slips: never a panic.
    #[test]
    fn a_damaged_file_is_read_or_refused(start in 0..COMPLETE.len(), length in 0..40_usize, filling in "[\\[\\]{}=\"'a.,#\n-]{0,3}") {
        let end = (start + length).min(COMPLETE.len());
        let damaged = format!("{}{filling}{}", &COMPLETE[..start], &COMPLETE[end..]);

        drop(parse(&sources(&[("a.toml", &damaged)])));
    }

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        drop(parse(&sources(&[("a.toml", &text)])));
    }
}

/// The problems of a product with these lines, and one operation.
fn product_problems(lines: &str) -> Vec<String> {
    problems(&format!(
        "[[product]]\nid = 'orders'\n{lines}\n[[product.operation]]\nservice = 'orders'\nmethods = ['GET']\npath = '/'\n"
    ))
}

#[test]
fn limits_stand_at_apps_products_and_operations() {
    let snapshot = read(
        "[[developer]]\nid = 'team'\n\
         [[app]]\nid = 'ledger'\ndeveloper = 'team'\npriority = 'high'\nquota = { limit = 9, per = '1month' }\n\
         [[app]]\nid = 'other'\ndeveloper = 'team'\n\
         [[product]]\nid = 'orders'\nspike = { rate = '10/min', burst = 3 }\n\
         quota = { limit = 100, per = '1d', utc_offset = '-05:30' }\n\
         [[product.operation]]\nid = 'search'\nservice = 'orders'\nmethods = ['GET']\npath = '/search'\nweight = 5\n\
         quota = { limit = 50, per = '15min', kind = 'rolling' }\n\
         [[product.operation]]\nservice = 'orders'\nmethods = ['GET']\npath = '/'\n",
    );
    let calendar = |unit, utc_offset| Window::Calendar { unit, count: 1, utc_offset };

    let (ledger, other) = (snapshot.app("ledger").unwrap(), snapshot.app("other").unwrap());
    assert_eq!((ledger.priority, other.priority), (Priority::High, Priority::Normal));
    let quota = ledger.limits.as_ref().unwrap().quota.unwrap();
    assert_eq!(quota, Quota::new(9, calendar(Unit::Month, 0)));
    assert_eq!(other.limits, None);
    let product = snapshot.product("orders").unwrap();
    let limits = product.limits.as_ref().unwrap();
    assert_eq!(limits.quota, Some(Quota::new(100, calendar(Unit::Day, -(5 * 3600 + 1800)))));
    assert_eq!(limits.spike, Some(Spike::new("10/min".parse().unwrap(), 3)));
    let [search, all] = product.operations.as_slice() else { panic!("{:?}", product.operations) };
    let rolling = Window::Rolling { length: Duration::from_secs(900) };
    assert_eq!(search.limits.as_ref().unwrap().quota, Some(Quota::new(50, rolling)));
    assert_eq!((search.weight, all.weight, &all.limits), (5, 1, &None));
}

#[test]
fn what_is_wrong_with_limits_is_all_named() {
    for (lines, problem) in [
        ("quota = { limit = 1 }", "3:9: product.orders.quota.per: the key is missing"),
        (
            "quota = { limit = -1, per = '1d' }",
            "3:19: product.orders.quota.limit: expected an integer from 0 to 999999999999999",
        ),
        (
            "quota = { limit = 1, per = '1m' }",
            "3:28: product.orders.quota.per: expected one number with its unit (s, min, h, d, w, month, year), such as \"15min\", \"1d\" or \"1month\"",
        ),
        (
            "quota = { limit = 1, per = '1d', kind = 'rollin' }",
            "3:41: product.orders.quota.kind: expected `calendar` or `fixed` or `flexi` or `rolling`, did you mean `rolling`?",
        ),
        (
            "quota = { limit = 1, per = '1month', kind = 'rolling' }",
            "3:9: product.orders.quota: months and years differ in length: give `per` in days, or make the quota one of kind `calendar`",
        ),
        (
            "quota = { limit = 1, per = '1d', kind = 'flexi', utc_offset = '+01:00' }",
            "3:63: product.orders.quota.utc_offset: only a quota of kind `calendar` has one",
        ),
        (
            "quota = { limit = 1, per = '1d', start = 2026-01-01T00:00:00Z }",
            "3:42: product.orders.quota.start: only a quota of kind `fixed` has one",
        ),
        (
            "quota = { limit = 1, per = '1d', utc_offset = '1' }",
            "3:47: product.orders.quota.utc_offset: expected an offset from UTC such as \"+02:00\" or \"-05:30\"",
        ),
        (
            "spike = { rate = '10/m' }",
            "3:18: product.orders.spike.rate: expected a rate such as \"5/s\", \"10/min\" or \"1000/h\"",
        ),
        (
            "spike = { rate = '10/min', bust = 1 }",
            "3:28: product.orders.spike.bust: unknown key, did you mean `burst`?",
        ),
    ] {
        assert_eq!(product_problems(lines), [problem], "{lines}");
    }
    let both = product_problems("quota = { limit = 1, per = 'x' }\nspike = { rate = 'x' }");
    assert_eq!(both.len(), 2, "{both:?}");
    assert_eq!(
        app_problems("priority = 'urgent'"),
        ["6:12: app.ledger.priority: expected `low` or `normal` or `high`"]
    );
}

#[test]
fn an_operation_is_counted_by_a_name_of_its_own() {
    let http = "service = 'orders'\nmethods = ['GET']\npath = '/'";
    let quota = "quota = { limit = 4, per = '1d' }";

    assert_eq!(
        operation_problems(&format!("{http}\n{quota}")),
        [
            "3:1: product.orders.operation[1]: an operation with limits of its own needs an `id`, by which it is counted"
        ]
    );
    assert_eq!(
        operation_problems(&format!("id = 'a'\n{http}\n[[product.operation]]\nid = 'a'\n{http}")),
        ["1:1: product.orders: two of its operations are called `a`"]
    );
    assert_eq!(
        operation_problems(&format!("id = 'a'\nweight = 5\n{http}\n{quota}")),
        ["1:1: product.orders: an operation weighs 5, which a quota of 4 never lets pass"]
    );
    assert_eq!(
        operation_problems(&format!("weight = 0\n{http}")),
        ["4:10: product.orders.operation[1].weight: expected an integer from 1 to 1000000"]
    );
}

const SEALED: &str =
    "aes-256-gcm:p1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=\n-----END PUBLIC KEY-----";

#[test]
fn a_signature_key_is_a_credential_like_any_other() {
    let snapshot = read(&format!(
        "{DEVELOPER}[[app]]\nid = 'ledger'\ndeveloper = 'team'\naccepts = [['signature'], ['mtls', 'signature']]\n\
         [[app.signature]]\nid = '0000000000A1'\nalgorithm = 'hmac-sha256'\nsecret = '{SEALED}'\n\
         [[app.signature]]\nid = 'ledger-2026'\nalgorithm = 'ed25519'\npublic_key = '''\n{PUBLIC_KEY}\n'''\n\
         status = 'pending'\nnot_before = 2026-01-01T00:00:00Z\nexpires = 2027-01-01T00:00:00Z\n"
    ));

    let shared = snapshot.signature_key("0000000000A1").unwrap();
    assert_eq!((shared.kind(), shared.pepper()), (CredentialKind::Signature, Some("p1")));
    let public = snapshot.signature_key("ledger-2026").unwrap();
    assert_eq!((public.status, public.pepper()), (CredentialStatus::Pending, None));
    assert_eq!(public.expires.unwrap().to_string(), "2027-01-01T00:00:00Z");
    assert!(snapshot.api_key("0000000000A1").is_none());
    assert_eq!(
        snapshot.app("ledger").unwrap().accepts.as_ref().unwrap().to_string(),
        "signature or mtls+signature"
    );
}

#[test]
fn everything_wrong_with_signature_keys_is_said_and_no_secret_repeated() {
    let table = |lines: &str| format!("[[app.signature]]\n{lines}\n");
    let text = [
        table("id = 'a'\nalgorithm = 'rsa-pss-sha512'\npublic_key = 'x'"),
        table("id = 'short'\nalgorithm = 'hmac-sha256'\nsecret = 'aes-256-gcm:p1:c2VjcmV0'"),
        table(&format!("id = '0000000000A1'\nalgorithm = 'hmac-sha256'\npublic_key = '{SEALED}'")),
        table("id = 'b'\nalgorithm = 'ed25519'"),
        table("id = 'c'\nalgorithm = 'ed25519'\npublic_key = 'c2VjcmV0'"),
        table(&format!("id = 'd'\nalgorithm = 'ecdsa-p256-sha256'\npublic_key = '''{PUBLIC_KEY}'''")),
    ]
    .concat();

    let problems = app_problems(&text).join("\n");

    for expected in [
        "app.ledger.signature.a.algorithm: expected `ed25519` or `ecdsa-p256-sha256` or `hmac-sha256`",
        "app.ledger.signature.short.id: expected the 12 letters and digits of a key's id",
        "app.ledger.signature.short.secret: expected aes-256-gcm:<name of the pepper>:<base64url>",
        "app.ledger.signature.0000000000A1.secret: the key is missing",
        "app.ledger.signature.0000000000A1.public_key: unknown key",
        "app.ledger.signature.b.public_key: the key is missing",
        "app.ledger.signature.c.public_key: expected a PEM block",
        "app.ledger.signature.d.public_key: the key is not one for this algorithm",
    ] {
        assert!(problems.contains(expected), "{expected:?} in\n{problems}");
    }
    assert!(!problems.contains("c2VjcmV0"), "{problems}");
}

/// Everything that a snapshot says, in words.
fn contents(snapshot: &Snapshot) -> Vec<String> {
    let apps = snapshot.apps().map(|app| format!("{app:?}"));
    let credentials = snapshot.credentials().map(|credential| format!("{credential:?}"));
    let developers = snapshot.developers().map(|developer| format!("{developer:?}"));
    let products = snapshot.products().map(|product| format!("{product:?}"));
    let found = ["a", "b", "c"].map(|name| {
        format!("{:?}", snapshot.certificate(&subject(&format!("spiffe://postern.test/{name}"))))
    });
    apps.chain(credentials).chain(developers).chain(products).chain(found).collect()
}

/// An app of which the file that names it may be any, with a certificate that may be another's.
fn small_app(name: &str, certificate: &str, status: &str) -> String {
    format!(
        "[[app]]\nid = '{name}'\ndeveloper = 'team'\nstatus = '{status}'\n[[app.certificate]]\nuri = 'spiffe://postern.test/{certificate}'\n[[app.grant]]\nproduct = 'orders'\n"
    )
}

const SHARED: &str = "[[developer]]\nid = 'team'\n[[product]]\nid = 'orders'\n";

#[test]
fn an_app_that_changes_is_taken_in_by_reading_its_file_alone() {
    let files = sources(&[("a.toml", SHARED), ("b.toml", &small_app("a", "a", "approved"))]);
    let mut library = Library::read(&files).unwrap();
    let before = Arc::clone(library.snapshot());

    let text = small_app("a", "b", "revoked") + &small_app("b", "a", "approved");
    let [changed] = sources(&[("b.toml", &text)]).try_into().unwrap();
    assert!(library.amend(&[Change::Says(changed)]));

    let after = library.snapshot();
    assert_eq!(after.app("a").map(|app| app.status), Some(AppStatus::Revoked));
    let owner = |snapshot: &Snapshot| match snapshot.certificate(&subject("spiffe://postern.test/a")) {
        Match::Found(credential) => credential.app.id.to_string(),
        Match::Ambiguous | Match::NotFound => String::new(),
    };
    assert_eq!((owner(&before), owner(after)), ("a".to_owned(), "b".to_owned()));
    assert!(Arc::ptr_eq(before.product("orders").unwrap(), after.product("orders").unwrap()));
    assert_ne!(before.version(), after.version());
}

#[test]
fn imported_keys_come_and_go_with_their_file() {
    let key = |name: &str, pepper: &str, digits: &str| {
        let hash = digits.repeat(32);
        format!("[[app.api_key]]\nid = '{name}'\nhash = 'hmac-sha256-of-sha256:{pepper}:{hash}'\n")
    };
    let with = |app: &str, keys: String| format!("[[app]]\nid = '{app}'\ndeveloper = 'team'\n{keys}");
    let files = sources(&[
        ("a.toml", SHARED),
        ("b.toml", &with("a", key("one", "p1", "aa") + &key("two", "p1", "bb"))),
        ("c.toml", &with("b", key("three", "p2", "cc"))),
    ]);
    let mut library = Library::read(&files).unwrap();
    let before = Arc::clone(library.snapshot());
    let found = |snapshot: &Snapshot| {
        let names =
            [0xaa, 0xbb, 0xcc].map(|byte| snapshot.imported_key(&[byte; 32]).map(|one| one.id.to_string()));
        (names.map(Option::unwrap_or_default), snapshot.imported_peppers().collect::<Vec<_>>().join(" "))
    };
    let says = |path: &str, text: &str| Change::Says(sources(&[(path, text)]).remove(0));
    let names = |one: &str, two: &str, three: &str| [one, two, three].map(ToOwned::to_owned);
    assert_eq!(found(&before), (names("one", "two", "three"), "p1 p2".to_owned()));

    assert!(!library.amend(&[says("c.toml", &with("b", key("four", "p2", "aa")))]), "it is the key `one`");
    let moved = [
        says("b.toml", &with("a", key("one", "p1", "aa"))),
        says("c.toml", &with("b", key("two", "p1", "bb"))),
    ];
    assert!(library.amend(&moved));
    assert_eq!(found(library.snapshot()), (names("one", "two", ""), "p1".to_owned()));
    assert!(library.amend(&[Change::Gone(PathBuf::from("b.toml")), Change::Gone(PathBuf::from("c.toml"))]));
    assert_eq!(found(library.snapshot()), (names("", "", ""), String::new()));
    assert_eq!(found(&before), (names("one", "two", "three"), "p1 p2".to_owned()));
}

#[test]
fn what_concerns_other_files_is_not_taken_in_by_reading_one() {
    let files = sources(&[
        ("a.toml", SHARED),
        ("b.toml", &small_app("a", "a", "approved")),
        ("c.toml", &small_app("b", "b", "approved")),
    ]);
    let mut library = Library::read(&files).unwrap();
    let before = (library.snapshot().version().to_owned(), contents(library.snapshot()));
    let says = |path: &str, text: &str| Change::Says(sources(&[(path, text)]).remove(0));

    for change in [
        says("a.toml", &SHARED.replace("'team'\n", "'team'\nstatus = 'inactive'\n")),
        says("a.toml", "[[developer]]\nid = 'team'\n"),
        says("d.toml", "[[developer]]\nid = 'other'\n"),
        Change::Gone(PathBuf::from("a.toml")),
        says("b.toml", &small_app("b", "a", "approved")),
        says("b.toml", &small_app("a", "b", "approved")),
        says("b.toml", &small_app("a", "a", "approvd")),
        says("b.toml", &small_app("a", "a", "approved").replace("'team'", "'nobody'")),
        says("b.toml", "[[app"),
        says("b.toml", "nothing = 1\n"),
    ] {
        assert!(!library.amend(std::slice::from_ref(&change)), "{change:?}");
        assert_eq!((library.snapshot().version().to_owned(), contents(library.snapshot())), before);
    }
    // What two files say together may be in order.
    let swapped = [
        says("b.toml", &small_app("b", "a", "approved")),
        says("c.toml", &small_app("a", "b", "approved")),
        Change::Gone(PathBuf::from("unknown.toml")),
    ];
    assert!(library.amend(&swapped));
    assert_eq!(library.snapshot().app("b").map(|app| app.id.as_str()), Some("b"));
}

proptest! {
    /// File by file comes to what reading everything comes to.
    #[test]
    fn amending_is_reading_everything_again(
        rounds in proptest::collection::vec(proptest::collection::vec((0..4_usize, 0..10_usize), 1..3), 1..6)
    ) {
        let names = ["a.toml", "b.toml", "c.toml", "d.toml"];
        let texts = [
            SHARED.to_owned(),
            "[[developer]]\nid = 'other'\n".to_owned(),
            small_app("a", "a", "approved"),
            small_app("a", "b", "revoked"),
            small_app("b", "b", "approved"),
            small_app("b", "b", "approved") + &small_app("c", "c", "approved"),
            small_app("c", "a", "approved").replace("team", "other"),
            "[[app]]\nid = 1\n".to_owned(),
            String::new(),
        ];
        let mut files = BTreeMap::from([("a.toml", &texts[0]), ("b.toml", &texts[2])]);
        let first: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let mut library = Library::read(&sources(&first)).unwrap();
        // What is not taken in is offered again, until it is.
        let mut offered: BTreeSet<&str> = BTreeSet::new();
        for round in rounds {
            for (file, text) in round {
                match texts.get(text) {
                    Some(text) => drop(files.insert(names[file], text)),
                    None => drop(files.remove(names[file])),
                }
                offered.insert(names[file]);
            }
            let changes: Vec<Change> = offered.iter().map(|&name| match files.get(name) {
                Some(text) => Change::Says(sources(&[(name, text)]).remove(0)),
                None => Change::Gone(PathBuf::from(name)),
            }).collect();
            let all: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
            let anew = Library::read(&sources(&all));
            let before = contents(library.snapshot());
            if library.amend(&changes) {
                let anew = anew.unwrap();
                prop_assert_eq!(contents(library.snapshot()), contents(anew.snapshot()));
                prop_assert_eq!(library.snapshot().version(), anew.snapshot().version());
                offered.clear();
            } else {
                prop_assert_eq!(contents(library.snapshot()), before);
                if let Ok(anew) = anew {
                    library = anew;
                    offered.clear();
                }
            }
        }
    }
}

const TOKENS: &str = "[[developer]]\nid = 'd'\n[[app]]\nid = 'a'\ndeveloper = 'd'\n";

#[test]
fn tokens_of_an_issuer_are_a_credential_like_any_other() {
    let rule = "[[app.token]]\nissuer = 'https://id.test'\nazp = 'c'\nclaims = { tenant = 't' }\nstatus = 'revoked'\n";
    let registry = read(&format!("{TOKENS}{rule}"));

    let claim = |name: &str| match name {
        "azp" => Some("c".to_owned()),
        "tenant" => Some("t".to_owned()),
        _ => None,
    };
    let found = registry.token("https://id.test", claim).unwrap();
    assert_eq!(
        (found.id.as_str(), found.kind(), found.status),
        ("a-token-1", CredentialKind::Token, CredentialStatus::Revoked)
    );
    assert!(registry.token("https://id.test/", claim).is_none());
    assert!(registry.token("https://id.test", |name| claim(name).filter(|_| name == "azp")).is_none());
}

#[test]
fn rules_that_one_token_could_meet_are_refused() {
    let two = |first: &str, second: &str| {
        let rule = |text: &str| format!("[[app.token]]\nissuer = 'i'\n{text}\n");
        let other = "[[app]]\nid = 'b'\ndeveloper = 'd'\n";
        let text = format!("{TOKENS}{}{other}{}", rule(first), rule(second));
        let sources = [Source { path: "a.toml".into(), text }];
        parse(&sources)
            .map(|_| ())
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())
    };

    assert_eq!(two("azp = 'x'", "azp = 'y'"), Ok(()));
    assert_eq!(two("azp = 'x'\nclaims = { t = '1' }", "azp = 'x'\nclaims = { t = '2' }"), Ok(()));
    for (first, second) in [
        ("azp = 'x'", "azp = 'x'"),
        ("azp = 'x'", "azp = 'x'\nclaims = { t = '1' }"),
        ("azp = 'x'\nclaims = { t = '1' }", "azp = 'x'\nclaims = { u = '2' }"),
        ("azp = 'x'", "client_id = 'y'"),
        ("sub = 'x'", "claims = { cid = 'x' }"),
    ] {
        let problems = two(first, second).unwrap_err();
        assert_eq!(problems.len(), 1, "{first} {second}");
        assert!(problems[0].contains("could stand for the same token"), "{problems:?}");
    }
    assert!(two("claims = {}", "azp = 'x'").unwrap_err()[0].contains("it must say which tokens"));
    assert!(
        two("azp = 'x'\nclaims = { azp = 'y' }", "azp = 'z'").unwrap_err()[0].contains("asked for twice")
    );
}
#[test]
fn an_operation_asks_only_for_scopes_that_its_product_conveys() {
    let text = "[[product]]\nid = 'orders'\nscopes = ['orders:read']\n[[product.operation]]\nservice = 'orders'\n\
        methods = ['GET']\npath = '/'\nscopes = ['orders:read'";

    let operation = read(&format!("{text}]\n")).product("orders").unwrap().operations[0].clone();
    assert_eq!(operation.scopes, ["orders:read"]);
    assert_eq!(
        problems(&format!("{text}, 'orders:write']\n")),
        [
            "1:1: product.orders: an operation asks for the scope `orders:write`, which the product does not convey"
        ]
    );
}

#[test]
fn a_credential_is_confined_to_scopes_that_exist() {
    let product = "[[product]]\nid = 'orders'\nscopes = ['orders:read']\n";
    let app = |scopes: &str| {
        format!(
            "{DEVELOPER}{product}[[app]]\nid = 'ledger'\ndeveloper = 'team'\n\
             [[app.api_key]]\nid = '0000000000A1'\nhash = '{HASH}'\n{scopes}\n"
        )
    };
    let scopes = |text: &str| read(&app(text)).api_key("0000000000A1").unwrap().scopes.clone();

    assert_eq!(scopes(""), None);
    assert_eq!(scopes("scopes = []"), Some(Vec::new()));
    assert_eq!(scopes("scopes = ['orders:read']"), Some(vec!["orders:read".to_owned()]));
    assert_eq!(
        problems(&app("scopes = ['orders:raed', 'a b']")),
        [
            "12:11: app.ledger.api_key.0000000000A1.scopes[1]: there is no scope `orders:raed`, did you mean `orders:read`?",
            "12:26: app.ledger.api_key.0000000000A1.scopes[2]: a scope has only visible ASCII characters but '\"' and '\\'",
        ]
    );
}

#[test]
fn a_credential_is_confined_to_products_of_its_app() {
    let app = |grants: &str| {
        format!(
            "{DEVELOPER}[[product]]\nid = 'a'\n[[product]]\nid = 'b'\n[[app]]\nid = 'ledger'\ndeveloper = 'team'\n\
             grant = [{{ product = 'a' }}]\n[[app.certificate]]\nid = 'svid'\nuri = 'spiffe://td/a'\n{grants}\n"
        )
    };
    let share = |text: &str| {
        let snapshot = read(&app(text));
        let credential = snapshot.credential("svid").unwrap();
        let product = |id: &str| snapshot.product(id).unwrap().id.clone();
        [product("a"), product("b")].map(|product| match credential.share_of(&product) {
            Share::Nothing => "nothing".to_owned(),
            Share::Part(part) => format!("{:?}", part.status),
            Share::Whole => "whole".to_owned(),
        })
    };

    assert_eq!(share(""), ["whole", "whole"]);
    assert_eq!(share("grants = []"), ["nothing", "nothing"]);
    assert_eq!(share("grants = ['a']"), ["Approved", "nothing"]);
    assert_eq!(
        share("[[app.certificate.grants]]\nproduct = 'a'\nstatus = 'pending'"),
        ["Pending", "nothing"]
    );
    assert_eq!(
        problems(&app("grants = ['b', 'a', { product = 'a' }, 'zebra', 7]")),
        [
            "14:11: app.ledger.certificate.svid.grants[1]: the app has no grant to it, and a credential never has more than its app",
            "14:33: app.ledger.certificate.svid.grants[3].product: it stands here already, at a.toml:14",
            "14:40: app.ledger.certificate.svid.grants[4]: there is no product `zebra`",
            "14:49: app.ledger.certificate.svid.grants[5]: expected a table, found an integer",
        ]
    );
}

#[test]
fn what_a_credential_is_bound_to_is_read_and_what_could_never_hold_is_refused() {
    let key = format!("[[app.api_key]]\nid = '0000000000A1'\nhash = '{HASH}'\n");
    let bound = |lines: &str| {
        let text = format!("{DEVELOPER}[[app]]\nid = 'ledger'\ndeveloper = 'team'\n{key}{lines}\n");
        read(&text).api_key("0000000000A1").unwrap().bindings.clone()
    };

    assert_eq!(bound(""), None);
    let all = "from = ['10.0.0.0/8']\ncertificate = 'spiffe://td/**'\nissuer = 'td'\nsni = 'api.test'\nhours = '22:00-06:00'";
    let bindings = bound(all).unwrap();
    assert_eq!(bindings.from, Some(vec!["10.0.0.0/8".parse().unwrap()]));
    assert_eq!((bindings.sni.as_deref(), bindings.hours), (Some("api.test"), "22:00-06:00".parse().ok()));
    assert_eq!(bound("from = []").unwrap().from, Some(Vec::new()), "from nowhere");
    let problems = app_problems(&format!(
        "{key}from = ['10.1.0.0/8']\ncertificate = 'spiffe://td/*'\nissuer = 'spiffe://td'\nsni = 'API'\nhours = '8-18'"
    ));
    assert_eq!(
        problems,
        [
            "9:9: app.ledger.api_key.0000000000A1.from[1]: the address has bits behind the length of the network; the network is 10.0.0.0/8",
            "10:15: app.ledger.api_key.0000000000A1.certificate: '*' stands only in '/**', at the end",
            "11:10: app.ledger.api_key.0000000000A1.issuer: a trust domain has only lower-case letters, digits, '.', '_' and '-'",
            "12:7: app.ledger.api_key.0000000000A1.sni: expected a DNS name in lower case",
            "13:9: app.ledger.api_key.0000000000A1.hours: expected two different times of day in UTC, such as \"08:00-18:00\" or \"22:00-06:00\"",
        ]
    );
    let certificate = "[[app.certificate]]\nuri = 'spiffe://td/a'\n";
    assert_eq!(
        app_problems(&format!("{certificate}issuer = 'other'")),
        [
            "6:1: app.ledger.certificate[1]: `uri` lies in the trust domain td, which `issuer` does not sign for"
        ]
    );
    assert_eq!(
        app_problems(&format!("{certificate}certificate = 'spiffe://td/b'")),
        [
            "8:1: app.ledger.certificate[1].certificate: unknown key; known here: created, dns, expires, from, grants, hours, id, issuer, multi_valued, not_before, retire_at, scopes, sha256, sni, spki, status, subject, uri"
        ]
    );
}

#[test]
fn a_product_of_high_sensitivity_cannot_say_that_a_key_alone_is_enough() {
    let product = |lines: &str| format!("[[product]]\nid = 'orders'\n{lines}\n");
    let operation = "[[product.operation]]\nservice = 'orders'\naccepts = [['mtls'], ['api_key']]";
    let contradiction = "1:1: product.orders: `accepts` lets an API key in alone, which sensitivity = \"high\" refuses; take it out, \
        or say in `api_key_alone` why it may";

    for lines in ["accepts = [['api_key']]", operation] {
        assert_eq!(problems(&product(&format!("sensitivity = 'high'\n{lines}"))), [contradiction]);
        read(&product(&format!("sensitivity = 'high'\napi_key_alone = 'test data'\n{lines}")));
        read(&product(lines));
    }
    read(&product("sensitivity = 'high'\naccepts = [['mtls', 'api_key'], ['signature']]"));
    assert_eq!(
        problems(&product("api_key_alone = 'why'")),
        [
            "3:17: product.orders.api_key_alone: only a product with sensitivity = \"high\" needs a reason to accept an API key alone"
        ]
    );
    assert_eq!(
        problems(&product("sensitivity = 'high'\napi_key_alone = ' '")),
        ["4:17: product.orders.api_key_alone: expected the reason why an API key alone is enough, in words"]
    );
    assert_eq!(
        problems(&product("sensitivity = 'high'\napi_key_alone = true")),
        ["4:17: product.orders.api_key_alone: expected a string, found a boolean"]
    );
}

/// There is no such thing as an operation for everybody: nothing is let in without an app, a grant and a product.
#[test]
fn no_operation_can_be_made_public() {
    let found = operation_problems("service = 's'\nmethods = ['GET']\npath = '/'\npublic = true").concat();

    assert!(found.contains("operation[1].public: unknown key"), "{found}");
}

#[test]
fn apps_have_attributes_and_operations_have_conditions_on_them() {
    let text = "id = 'ledger'\ndeveloper = 'team'\n";
    let snapshot = read(&format!(
        "{DEVELOPER}[[app]]\n{text}attributes = {{ tenant = 'acme', regions = ['eu'] }}\n\
         [[product]]\nid = 'orders'\n[[product.operation]]\nservice = 'db'\nwhen = '\"eu\" in app.attributes.regions'\n"
    ));
    let attributes = &snapshot.app("ledger").unwrap().attributes;
    assert_eq!(attributes.get("tenant"), Some(&AttributeValue::One("acme".into())));
    assert_eq!(attributes.get("regions"), Some(&AttributeValue::Several(["eu".into()].into())));
    assert_eq!(attributes.get("other"), None);
    let operation = &snapshot.product("orders").unwrap().operations[0];
    assert_eq!(operation.when.as_ref().unwrap().as_str(), "\"eu\" in app.attributes.regions");

    assert_eq!(
        app_problems("attributes = { 'a b' = 'x', n = 7, l = ['x', 7] }"),
        [
            "6:24: app.ledger.attributes.\"a b\": the name of an attribute has only letters, digits, '_' and '-'",
            "6:33: app.ledger.attributes.n: expected a string, found an integer",
            "6:46: app.ledger.attributes.l[2]: expected a string, found an integer",
        ]
    );
    assert_eq!(
        operation_problems(
            "service = 's'\nmethods = ['*']\npath = '/{tenant}/**'\nwhen = 'path.tennant == \"x\"'"
        ),
        ["7:8: product.orders.operation[1].when: the path has no variable {tennant}"]
    );
    assert_eq!(
        operation_problems("service = 's'\nwhen = 'path.tenant == \"x\"'"),
        ["5:8: product.orders.operation[1].when: the path has no variable {tenant}"]
    );
}
