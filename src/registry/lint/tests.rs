//! Each lint speaks where it should, and is silent about the clean twin.

use std::collections::HashSet;
use std::path::PathBuf;

use super::*;
use crate::registry::{Source, parse};

const NOW: &str = "2026-06-01T00:00:00Z";

const HASH: &str = "hmac-sha256:p1:5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa5f8ce2aa";

/// An app that has one product, which is narrow and limited. Nobody has a word to say about it.
const CLEAN: &str = r#"
[[developer]]
id = "team"

[[app]]
id = "ledger"
developer = "team"
[[app.api_key]]
id = "0000000000A1"
hash = "HASH"
[[app.grant]]
product = "orders"

[[product]]
id = "orders"
quota = { limit = 100, per = "1d" }
[[product.operation]]
service = "orders"
methods = ["GET"]
path = "/orders/**"
"#;

fn read(text: &str) -> Snapshot {
    let text = text.replace("HASH", HASH);
    parse(&[Source { path: PathBuf::from("a.toml"), text }]).unwrap()
}

/// What is said of a registry by itself, and by an agent in `prod` that guards `orders` and `reports`.
fn lints(text: &str) -> Vec<(&'static str, String)> {
    let registry = read(text);
    let (orders, reports) = ("orders".parse().unwrap(), "reports".parse().unwrap());
    let services = HashSet::from([&orders, &reports]);
    let prod = "prod".parse().unwrap();
    let here = Here { environment: Some(&prod), services: &services };
    let found = lint(&registry, NOW.parse().unwrap()).into_iter().chain(lint_here(&registry, here));
    found.map(|lint| (lint.name.as_str(), lint.key)).collect()
}

/// That the clean registry is one, and what is said once `from` has become `to`.
fn after(from: &str, to: &str) -> Vec<(&'static str, String)> {
    assert_eq!(lints(CLEAN), []);
    assert!(CLEAN.contains(from), "{from}");
    lints(&CLEAN.replace(from, to))
}

fn said(name: LintName, key: &str) -> Vec<(&'static str, String)> {
    vec![(name.as_str(), key.to_owned())]
}

const GRANT: &str = "[[app.grant]]\nproduct = \"orders\"\n";

const LIMIT: &str = "quota = { limit = 100, per = \"1d\" }";

const OPERATION: &str =
    "[[product.operation]]\nservice = \"orders\"\nmethods = [\"GET\"]\npath = \"/orders/**\"\n";

#[test]
fn every_lint_has_a_name_of_its_own() {
    let names: HashSet<&str> = LintName::ALL.into_iter().map(LintName::as_str).collect();

    assert_eq!(names.len(), LintName::ALL.len());
}

#[test]
fn an_app_with_credentials_and_no_grant_is_refused_everywhere() {
    let found = after(GRANT, "");

    assert!(found.contains(&("app-without-grants", "app.ledger".to_owned())), "{found:?}");
    // It cannot call yet, and nobody will call with it.
    let without =
        CLEAN.replace(GRANT, "").replace("[[app.api_key]]\nid = \"0000000000A1\"\nhash = \"HASH\"\n", "");
    assert!(lints(&without).iter().all(|(name, _)| *name != "app-without-grants"));
}

#[test]
fn a_product_that_no_app_has_is_unreachable() {
    let unreachable = said(LintName::ProductUnreachable, "product.orders");
    let ended = format!("{GRANT}expires = 2026-05-31T00:00:00Z\n");

    assert_eq!(after(GRANT, &ended), unreachable);
    assert_eq!(after(GRANT, &format!("{GRANT}status = \"revoked\"\n")), unreachable);
    assert_eq!(after("developer = \"team\"", "developer = \"team\"\nstatus = \"revoked\""), unreachable);
    assert_eq!(after(GRANT, &ended.replace("05-31", "06-02")), []);
}

#[test]
fn an_operation_behind_a_wider_one_is_never_reached() {
    let behind =
        |first: &str, second: &str| after(OPERATION, &format!("{OPERATION}{first}\n{OPERATION}{second}"));
    let narrow = OPERATION.replace("/**", "/1");
    let pair = |first: &str, second: &str| after(OPERATION, &format!("{first}\n{second}"));
    let shadowed = said(LintName::OperationShadowed, "product.orders.operation[2]");

    assert_eq!(pair(OPERATION, &narrow), shadowed);
    assert_eq!(pair(&narrow, OPERATION), []);
    for (change, to) in
        [("\"GET\"", "\"GET\", \"HEAD\""), ("= \"orders\"", "= \"reports\""), ("/orders/1", "/orders")]
    {
        assert_eq!(pair(OPERATION, &narrow.replace(change, to)), [], "{to}");
    }
    assert_eq!(behind("when = \"app.attributes.tenant == 'acme'\"", "").len(), 0);
    assert_eq!(behind("accepts = [[\"mtls\"]]", ""), []);
    assert_eq!(behind("accepts = [[\"mtls\"]]", "accepts = [[\"mtls\", \"api_key\"]]"), shadowed);
    assert_eq!(behind("accepts = [[\"mtls\"]]", "accepts = [[\"mtls\"], [\"api_key\"]]"), []);
    assert_eq!(behind("", "accepts = [[\"mtls\"]]"), shadowed);
    // Whoever comes with two credentials in the headers is let in by the second only.
    assert_eq!(behind("", "accepts = [[\"api_key\", \"user_token\"]]"), []);
    let tcp = "[[product.operation]]\nservice = \"orders\"\n";
    assert_eq!(pair(tcp, tcp), shadowed);
    assert_eq!(pair(tcp, OPERATION), []);
}

#[test]
fn an_operation_that_asks_for_less_shadows_one_that_asks_for_more() {
    let scoped = |first: &str, second: &str| {
        let product = "id = \"orders\"\nquota";
        let text = CLEAN.replace(product, "id = \"orders\"\nscopes = [\"read\", \"write\"]\nquota");
        lints(&text.replace(OPERATION, &format!("{OPERATION}{first}\n{OPERATION}{second}")))
    };
    let shadowed = said(LintName::OperationShadowed, "product.orders.operation[2]");

    assert_eq!(scoped("scopes = [\"read\"]", "scopes = [\"read\", \"write\"]"), shadowed);
    assert_eq!(scoped("scopes = [\"read\", \"write\"]", "scopes = [\"read\"]"), []);
}

#[test]
fn an_operation_without_a_bound_is_over_broad() {
    let broad = said(LintName::OperationOverBroad, "product.orders.operation[1]");
    let with = |service: &str, methods: &str, path: &str| {
        let operation = OPERATION.replace("= \"orders\"", &format!("= \"{service}\""));
        after(OPERATION, &operation.replace("GET", methods).replace("/orders/**", path))
    };

    assert_eq!(with("orders", "*", "/**"), broad);
    assert_eq!(with("*", "GET", "/"), broad);
    assert_eq!(with("orders", "GET", "/"), []);
    assert_eq!(with("orders", "*", "/orders/**"), []);
    assert_eq!(with("*", "*", "/health"), []);
    assert_eq!(after(OPERATION, "[[product.operation]]\nservice = \"*\"\n"), broad);
    assert_eq!(after(OPERATION, "[[product.operation]]\nservice = \"orders\"\n"), []);
    let narrowed = OPERATION.replace("GET", "*").replace("/orders/**", "/{tenant}/**");
    assert_eq!(after(OPERATION, &narrowed), []);
}

#[test]
fn a_credential_that_has_ended_or_is_about_to_is_named() {
    let key = "app.ledger.api_key.0000000000A1";
    let until = |at: &str| after("hash = \"HASH\"", &format!("hash = \"HASH\"\nexpires = {at}"));

    assert_eq!(until("2026-06-01T00:00:00Z"), said(LintName::CredentialExpired, key));
    assert_eq!(until("2026-06-01T00:00:01Z"), said(LintName::CredentialExpiresSoon, key));
    assert_eq!(until("2026-06-15T00:00:00Z"), said(LintName::CredentialExpiresSoon, key));
    assert_eq!(until("2026-06-15T00:00:01Z"), []);
    assert_eq!(until("2026-05-01T00:00:00Z\nstatus = \"revoked\""), []);
}

#[test]
fn a_sensitive_product_that_a_key_alone_opens_should_know_another_way() {
    let product = |more: &str| after(LIMIT, &format!("{LIMIT}\nsensitivity = \"high\"\n{more}"));
    let sensitive = said(LintName::ProductSensitiveByKey, "product.orders");
    let reason = "api_key_alone = \"the partner cannot do better\"";

    assert_eq!(product(&format!("{reason}\naccepts = [[\"api_key\"]]")), sensitive);
    assert_eq!(product(&format!("{reason}\naccepts = [[\"api_key\"], [\"mtls\"]]")), []);
    assert_eq!(product(reason), []);
    let at_operation = CLEAN
        .replace(LIMIT, &format!("{LIMIT}\nsensitivity = \"high\"\n{reason}"))
        .replace(OPERATION, &format!("{OPERATION}accepts = [[\"api_key\"]]\n"));
    assert_eq!(lints(&at_operation), sensitive);
}

#[test]
fn a_product_that_nothing_limits_is_unbounded() {
    assert_eq!(after(LIMIT, ""), said(LintName::ProductUnbounded, "product.orders"));
    assert_eq!(after(LIMIT, "spike = { rate = \"10/min\" }"), []);
    let at_operation =
        CLEAN.replace(LIMIT, "").replace(OPERATION, &format!("{OPERATION}id = \"one\"\n{LIMIT}\n"));
    assert_eq!(lints(&at_operation), []);
    let at_app =
        CLEAN.replace(LIMIT, "").replace("developer = \"team\"", &format!("developer = \"team\"\n{LIMIT}"));
    assert_eq!(lints(&at_app), []);
}

#[test]
fn a_key_that_opens_many_products_is_too_much_in_one_hand() {
    let with = |products: usize, key: &str| {
        let mut text = CLEAN.replace("hash = \"HASH\"", &format!("hash = \"HASH\"\n{key}"));
        for number in 2..=products {
            let name = format!("orders-{number}");
            text = text.replace(GRANT, &format!("{GRANT}[[app.grant]]\nproduct = \"{name}\"\n"));
            text.push_str(&format!("[[product]]\nid = \"{name}\"\n{LIMIT}\n{OPERATION}"));
        }
        lints(&text)
    };
    let many = said(LintName::KeyOpensMany, "app.ledger.api_key.0000000000A1");

    assert_eq!(with(MANY_PRODUCTS + 1, ""), many);
    assert_eq!(with(MANY_PRODUCTS, ""), []);
    assert_eq!(with(MANY_PRODUCTS + 1, "grants = [\"orders\"]"), []);
}

#[test]
fn a_grant_that_waits_for_nobody_is_undecided() {
    let pending = format!("{GRANT}status = \"pending\"\n");

    assert_eq!(after(GRANT, &pending), said(LintName::GrantUndecided, "app.ledger.grant[1]"));
    let manual = CLEAN.replace(GRANT, &pending).replace(LIMIT, &format!("{LIMIT}\napproval = \"manual\""));
    assert_eq!(lints(&manual), []);
}

#[test]
fn a_product_for_no_environment_or_another_one_opens_nothing_here() {
    let of = |names: &str| after(LIMIT, &format!("{LIMIT}\nenvironments = [{names}]"));

    assert_eq!(of(""), said(LintName::ProductNowhere, "product.orders"));
    assert_eq!(of("\"test\""), said(LintName::ProductElsewhere, "product.orders"));
    assert_eq!(of("\"test\", \"prod\""), []);
    assert_eq!(of("\"*\""), []);
}

#[test]
fn a_service_that_the_configuration_does_not_know_is_named() {
    let unknown = said(LintName::ServiceUnknown, "product.orders.operation[1].service");

    assert_eq!(after("service = \"orders\"", "service = \"odrers\""), unknown);
    assert_eq!(after("service = \"orders\"", "service = \"*\""), []);
    // What is guarded elsewhere need not be here.
    let elsewhere = CLEAN.replace("service = \"orders\"", "service = \"odrers\"");
    let elsewhere = elsewhere.replace(LIMIT, &format!("{LIMIT}\nenvironments = [\"test\"]"));
    assert_eq!(lints(&elsewhere), said(LintName::ProductElsewhere, "product.orders"));
}
