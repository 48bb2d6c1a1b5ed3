//! What a caller is entitled to: one app with a certificate and a key, whatever its registry says besides.

use core::net::IpAddr;
use std::path::PathBuf;

use aws_lc_rs::rand::SystemRandom;

use super::subject;
use crate::authz::{Ask, Door, No, Permit, Proviso, Toll, check, who_can};
use crate::clock::Timestamp;
use crate::credential::token::Proves;
use crate::credential::{ApiKey, Evidence, HeaderEvidence, Peppers};
use crate::id::EnvironmentId;
use crate::identity::Subject;
use crate::registry::CredentialKind::{self, ApiKey as Key, Mtls};
use crate::registry::{LintName, Origin, PolicyPath, Snapshot, Source, lint, parse};
use crate::secret::Secret;

/// The app `caller` and the products that it may have to do with.
struct World {
    registry: Snapshot,
    peppers: Peppers,
    key: ApiKey,
    subject: Subject,
    now: Timestamp,
    address: Option<IpAddr>,
    environment: Option<EnvironmentId>,
}

impl World {
    /// The app has the lines in `app`, its certificate those in `certificate`, its key those in `key`; `rest` is all else.
    fn new(app: &str, certificate: &str, key: &str, rest: &str) -> Self {
        let secret = Secret::new(vec![7; 32]);
        let peppers = Peppers::new([("p1".to_owned(), secret)]);
        let fresh = ApiKey::generate(&SystemRandom::new()).unwrap();
        let hash = peppers.hash("p1", fresh.text().expose_secret()).unwrap();
        let hash = data_encoding::HEXLOWER.encode(&hash);
        let id = fresh.id();
        let text = format!(
            "[[developer]]\nid = 'team'\n[[app]]\nid = 'caller'\ndeveloper = 'team'\n{app}\n\
             [[app.certificate]]\nuri = 'spiffe://td/caller'\n{certificate}\n\
             [[app.api_key]]\nid = '{id}'\nhash = 'hmac-sha256:p1:{hash}'\n{key}\n{rest}"
        );
        let registry = parse(&[Source { path: PathBuf::from("a.toml"), text }]);
        let registry = registry.unwrap_or_else(|problems| panic!("{problems:?}"));
        let now = "2026-06-01T12:00:00Z".parse().unwrap();
        Self {
            registry,
            peppers,
            key: fresh,
            subject: subject("spiffe://td/caller"),
            now,
            address: None,
            environment: None,
        }
    }

    fn check(&self, kinds: &[CredentialKind], method: &str, path: &str) -> Result<Permit<'_>, No<'_>> {
        let api_key = kinds.contains(&Key).then(|| self.key.text().expose_secret());
        let certificate = kinds.contains(&Mtls).then_some(&self.subject);
        let headers = HeaderEvidence { api_key, ..HeaderEvidence::default() };
        let origin = Origin { address: self.address, sni: Some("api.test") };
        let evidence = Evidence { certificate, headers, origin };
        let (path, service) = (PolicyPath::parse(path).unwrap(), "orders".parse().unwrap());
        let ask = Ask::Http { service: &service, method, path: &path };
        let door = Door { environment: self.environment.as_ref(), ..Door::default() };
        check(&evidence, &ask, door, &self.registry, &self.peppers, &Toll::Paid, self.now)
    }

    /// The product that lets the caller in, or the code of the reason why not.
    fn ask(&self, kinds: &[CredentialKind], method: &str, path: &str) -> String {
        match self.check(kinds, method, path) {
            Ok(permit) => permit.terms().product.id.to_string(),
            Err(no) => no.code().to_owned(),
        }
    }

    fn get(&self, kinds: &[CredentialKind]) -> String {
        self.ask(kinds, "GET", "/orders/7")
    }

    /// The scopes in force for a request that is let in.
    fn scopes(&self, kinds: &[CredentialKind]) -> Vec<String> {
        let permit = self.check(kinds, "GET", "/orders/7").unwrap();
        permit.terms().scopes().map(str::to_owned).collect()
    }
}

/// A product that lets orders be read and written, each under its own scope.
const ORDERS: &str = "[[product]]\nid = 'orders'\nscopes = ['orders:read', 'orders:write', 'orders:audit']\n\
    [[product.operation]]\nservice = 'orders'\nmethods = ['GET']\npath = '/orders/**'\nscopes = ['orders:read']\n\
    [[product.operation]]\nservice = 'orders'\nmethods = ['POST']\npath = '/orders/**'\n\
    scopes = ['orders:read', 'orders:write']\n";

const GRANT: &str = "grant = [{ product = 'orders' }]";

#[test]
fn a_key_with_one_scope_does_not_do_what_asks_for_another() {
    let world = World::new(GRANT, "", "scopes = ['orders:read']", ORDERS);

    assert_eq!(world.ask(&[Key], "GET", "/orders/7"), "orders");
    assert_eq!(world.ask(&[Key], "POST", "/orders/7"), "insufficient-scope");
    assert_eq!(world.ask(&[Mtls], "POST", "/orders/7"), "orders", "the certificate is not confined");
}

#[test]
fn scopes_bind_certificates_as_they_bind_keys_and_all_that_is_presented_counts() {
    let world = World::new(GRANT, "scopes = ['orders:read', 'orders:write']", "", ORDERS);
    let confined = World::new(GRANT, "scopes = ['orders:audit']", "scopes = ['orders:read']", ORDERS);

    assert_eq!(world.ask(&[Mtls], "POST", "/orders/7"), "orders");
    assert_eq!(confined.get(&[Mtls]), "insufficient-scope");
    assert_eq!(confined.get(&[Key]), "orders");
    assert_eq!(confined.get(&[Mtls, Key]), "insufficient-scope", "a second credential adds nothing");
}

#[test]
fn the_scopes_in_force_are_those_of_the_product_that_the_credential_lets_through() {
    let world = World::new(GRANT, "", "scopes = ['orders:audit', 'orders:read']", ORDERS);

    assert_eq!(world.scopes(&[Mtls]), ["orders:read", "orders:write", "orders:audit"]);
    assert_eq!(world.scopes(&[Key]), ["orders:read", "orders:audit"]);
}

#[test]
fn an_empty_list_of_scopes_lets_nothing_through_that_asks_for_one() {
    let open = "[[product]]\nid = 'open'\nscopes = ['s']\n[[product.operation]]\nservice = 'orders'\n\
        methods = ['GET']\npath = '/open'\n";
    let grants = "grant = [{ product = 'orders' }, { product = 'open' }]";
    let world = World::new(grants, "", "scopes = []", &format!("{ORDERS}{open}"));

    assert_eq!(world.get(&[Key]), "insufficient-scope");
    assert_eq!(world.ask(&[Key], "GET", "/open"), "open");
    assert_eq!(world.check(&[Key], "GET", "/open").unwrap().terms().scopes().count(), 0);
}

#[test]
fn a_scope_that_another_product_conveys_does_not_help() {
    let other = "[[product]]\nid = 'other'\nscopes = ['orders:read']\n";
    let without = "[[product]]\nid = 'mixed'\nscopes = ['m']\n[[product.operation]]\nservice = 'orders'\n\
        methods = ['GET']\npath = '/orders/**'\nscopes = ['m']\n";
    let grants = "grant = [{ product = 'other' }, { product = 'mixed' }]";
    let world = World::new(grants, "", "scopes = ['orders:read']", &format!("{other}{without}"));

    assert_eq!(world.get(&[Mtls]), "mixed");
    assert_eq!(world.get(&[Key]), "insufficient-scope");
}

#[test]
fn the_reason_is_that_of_the_grant_that_came_furthest() {
    let pending = "grant = [{ product = 'later', status = 'pending' }, { product = 'orders' }]";
    let rest = format!("{ORDERS}{}", ORDERS.replace("id = 'orders'", "id = 'later'"));
    let world = World::new(pending, "", "scopes = ['orders:audit']", &rest);

    assert_eq!(world.get(&[Mtls]), "orders");
    assert_eq!(world.get(&[Key]), "insufficient-scope", "it came past the pending grant");
    assert_eq!(world.ask(&[Mtls], "GET", "/elsewhere"), "not-entitled");
}

/// The code that comes of an app's `grant` and of what its key says besides.
fn with_key(grant: &str, key: &str) -> (String, String) {
    let world = World::new(&format!("grant = [{grant}]"), "", key, ORDERS);
    (world.get(&[Mtls]), world.get(&[Key]))
}

#[test]
fn a_pending_grant_does_not_entitle_until_it_is_approved() {
    for (status, code) in [("approved", "orders"), ("pending", "grant-pending"), ("revoked", "grant-revoked")]
    {
        let (certificate, key) = with_key(&format!("{{ product = 'orders', status = '{status}' }}"), "");
        assert_eq!((&*certificate, &*key), (code, code));
    }
}

#[test]
fn a_grant_of_a_product_under_approval_is_pending_unless_it_says_otherwise() {
    let manual = ORDERS.replacen("id = 'orders'", "id = 'orders'\napproval = 'manual'", 1);
    let auto = ORDERS.replacen("id = 'orders'", "id = 'orders'\napproval = 'auto'", 1);
    let approved = "grant = [{ product = 'orders', status = 'approved' }]";

    assert_eq!(World::new(GRANT, "", "", &auto).get(&[Key]), "orders");
    assert_eq!(World::new(GRANT, "", "", &manual).get(&[Key]), "grant-pending");
    assert_eq!(World::new(approved, "", "", &manual).get(&[Key]), "orders");
    assert_eq!(World::new(approved, "", "grants = ['orders']", &manual).get(&[Key]), "orders");
}

#[test]
fn a_grant_ends_at_the_instant_it_says_for_whoever_holds_it() {
    let mut world =
        World::new("grant = [{ product = 'orders', expires = 2026-07-01T00:00:00Z }]", "", "", ORDERS);

    world.now = "2026-06-30T23:59:59Z".parse().unwrap();
    assert_eq!(world.get(&[Key]), "orders");
    world.now = "2026-07-01T00:00:00Z".parse().unwrap();
    assert_eq!((world.get(&[Key]), world.get(&[Mtls])), ("grant-expired".into(), "grant-expired".into()));
}

/// Reading orders, and reading reports.
fn two_products() -> String {
    format!(
        "{ORDERS}{}",
        ORDERS.replace("orders/**", "reports/**").replace("id = 'orders'", "id = 'reports'")
    )
}

#[test]
fn a_credential_that_is_confined_to_some_products_has_no_more_and_its_app_no_less() {
    let grants = "grant = [{ product = 'orders' }, { product = 'reports' }]";
    let world = World::new(grants, "", "grants = ['reports']", &two_products());

    assert_eq!(world.ask(&[Key], "GET", "/reports/7"), "reports");
    assert_eq!(world.get(&[Key]), "not-entitled");
    assert_eq!(world.get(&[Mtls]), "orders");
    assert_eq!(world.get(&[Mtls, Key]), "not-entitled", "all that is presented counts");
}

#[test]
fn without_a_product_every_path_is_refused() {
    let none = World::new("", "", "", &two_products());
    let emptied = World::new(GRANT, "", "grants = []", ORDERS);

    for path in ["/", "/orders/7", "/reports/7", "/anything"] {
        for method in ["GET", "POST"] {
            assert_eq!(none.ask(&[Key], method, path), "not-entitled");
            assert_eq!(emptied.ask(&[Key], method, path), "not-entitled");
        }
    }
}

#[test]
fn a_part_of_a_grant_is_in_force_only_together_with_the_whole() {
    let part = |lines: &str| format!("grants = [{{ product = 'orders', {lines} }}]");
    let good = "{ product = 'orders' }";

    assert_eq!(with_key(good, &part("status = 'approved'")).1, "orders");
    assert_eq!(with_key(good, &part("status = 'pending'")).1, "grant-pending");
    assert_eq!(with_key(good, &part("status = 'revoked'")).1, "grant-revoked");
    assert_eq!(with_key(good, &part("expires = 2026-06-01T12:00:00Z")).1, "grant-expired");
    assert_eq!(with_key(good, &part("expires = 2026-06-01T12:00:01Z")).1, "orders");
    assert_eq!(with_key(good, &part("accepts = [['api_key', 'mtls']]")).1, "auth-method-not-allowed");
    let revoked = "{ product = 'orders', status = 'revoked' }";
    assert_eq!(with_key(revoked, &part("status = 'approved'")).1, "grant-revoked");
}

#[test]
fn an_app_may_use_its_key_for_one_product_and_not_for_another() {
    let grants = "grant = [{ product = 'orders', accepts = [['api_key'], ['mtls']] }, \
        { product = 'reports', accepts = [['mtls']] }]";
    let world = World::new(grants, "", "", &two_products());

    assert_eq!(world.get(&[Key]), "orders");
    assert_eq!(world.ask(&[Key], "GET", "/reports/7"), "auth-method-not-allowed");
    assert_eq!(world.ask(&[Mtls], "GET", "/reports/7"), "reports");
    assert_eq!(world.ask(&[Mtls, Key], "GET", "/reports/7"), "reports");
}

#[test]
fn a_product_may_ask_for_a_kind_of_credential_and_no_grant_takes_that_back() {
    let strict = ORDERS.replacen("id = 'orders'", "id = 'orders'\naccepts = [['mtls']]", 1);
    let world =
        World::new("grant = [{ product = 'orders', accepts = [['api_key'], ['mtls']] }]", "", "", &strict);

    assert_eq!(world.get(&[Mtls]), "orders");
    assert_eq!(world.get(&[Key]), "auth-method-not-allowed");
}

#[test]
fn of_three_products_the_only_one_that_matches_is_the_one_that_counts() {
    let other = |id: &str, path: &str| {
        ORDERS.replace("id = 'orders'", &format!("id = '{id}'")).replace("/orders", path)
    };
    let rest = [other("first", "/a"), other("second", "/b"), ORDERS.to_owned()].concat();
    let grants = "grant = [{ product = 'first' }, { product = 'second' }, { product = 'orders' }]";

    assert_eq!(World::new(grants, "", "", &rest).get(&[Key]), "orders");
}

#[test]
fn a_key_that_is_bound_to_an_address_fails_from_any_other() {
    let mut world = World::new(GRANT, "", "from = ['127.0.0.2/32', '10.0.0.0/8']", ORDERS);
    for (address, code) in [
        ("127.0.0.2", "orders"),
        ("10.9.8.7", "orders"),
        ("127.0.0.3", "binding-failed"),
        ("::1", "binding-failed"),
    ] {
        world.address = Some(address.parse().unwrap());
        assert_eq!(world.get(&[Key]), code, "{address}");
        assert_eq!(world.get(&[Mtls]), "orders", "the certificate is bound to nothing");
    }
    world.address = Some("127.0.0.3".parse().unwrap());
    assert_eq!(world.get(&[Mtls, Key]), "binding-failed", "whatever else is presented");
}

#[test]
fn a_key_that_is_bound_to_a_certificate_is_worth_nothing_without_it() {
    for (key, together) in [
        ("certificate = 'spiffe://td/caller'", "orders"),
        ("certificate = 'spiffe://td/**'", "orders"),
        ("certificate = 'spiffe://td/other'", "binding-failed"),
        ("issuer = 'td'", "orders"),
        ("issuer = 'other.test'", "binding-failed"),
    ] {
        let world = World::new(GRANT, "", key, ORDERS);

        assert_eq!(world.get(&[Key]), "binding-failed", "{key}");
        assert_eq!(world.get(&[Mtls, Key]), together, "{key}");
    }
}

#[test]
fn a_credential_may_be_bound_to_a_name_of_the_handshake_and_to_hours() {
    let sni = |name: &str| World::new(GRANT, &format!("sni = '{name}'"), "", ORDERS).get(&[Mtls]);
    assert_eq!((sni("api.test"), sni("www.test")), ("orders".into(), "binding-failed".into()));

    let mut world = World::new(GRANT, "", "hours = '08:00-18:00'", ORDERS);
    assert_eq!(world.get(&[Key]), "orders");
    world.now = "2026-06-01T18:00:00Z".parse().unwrap();
    assert_eq!(world.get(&[Key]), "binding-failed");
}

#[test]
fn a_binding_that_fails_comes_after_the_credential_itself_and_before_the_app() {
    let loose = "from = ['127.0.0.2/32']";
    let revoked = World::new(GRANT, "", &format!("{loose}\nstatus = 'revoked'"), ORDERS);
    let of_revoked_app = World::new(&format!("{GRANT}\nstatus = 'revoked'"), "", loose, ORDERS);

    assert_eq!(revoked.get(&[Key]), "credential-revoked");
    assert_eq!(of_revoked_app.get(&[Key]), "binding-failed");
    assert_eq!(of_revoked_app.get(&[Mtls]), "app-revoked");
}

#[test]
fn the_same_name_under_another_authority_is_nobody() {
    let app = |id: &str, certificate: &str| {
        format!(
            "[[app]]\nid = '{id}'\ndeveloper = 'team'\n[[app.certificate]]\n{certificate}\n[[app.grant]]\nproduct = 'orders'\n"
        )
    };
    let rest = app("named", "dns = 'ledger.test'\nissuer = 'td'") + ORDERS;
    let mut world = World::new(GRANT, "", "", &rest);
    world.subject.dns = vec!["ledger.test".to_owned()];

    world.subject.spiffe_id = "spiffe://td/someone".parse().unwrap();
    assert_eq!(world.get(&[Mtls]), "orders");
    world.subject.spiffe_id = "spiffe://other.test/someone".parse().unwrap();
    assert_eq!(world.get(&[Mtls]), "unmapped-certificate");
}

#[test]
fn a_product_for_one_environment_is_dead_in_another() {
    let only = |environments: &str| {
        let rest = ORDERS.replacen("id = 'orders'", &format!("id = 'orders'\n{environments}"), 1);
        World::new(GRANT, "", "", &rest)
    };
    let (test, prod): (EnvironmentId, EnvironmentId) = ("test".parse().unwrap(), "prod".parse().unwrap());
    let codes = |environments: &str| {
        [None, Some(&test), Some(&prod)].map(|environment| {
            let mut world = only(environments);
            world.environment = environment.cloned();
            world.get(&[Key])
        })
    };

    assert_eq!(codes(""), ["orders"; 3]);
    assert_eq!(codes("environments = ['*']"), ["orders"; 3]);
    assert_eq!(codes("environments = ['test', 'prod']"), ["wrong-environment", "orders", "orders"]);
    assert_eq!(codes("environments = ['test']"), ["wrong-environment", "orders", "wrong-environment"]);
    assert_eq!(codes("environments = []"), ["wrong-environment"; 3], "an empty list is for none");
}

#[test]
fn an_api_key_alone_does_not_open_a_product_of_high_sensitivity_unless_a_reason_is_on_file() {
    let product = |lines: &str| ORDERS.replacen("id = 'orders'", &format!("id = 'orders'\n{lines}"), 1);
    let high = World::new(GRANT, "", "", &product("sensitivity = 'high'"));
    let excused =
        World::new(GRANT, "", "", &product("sensitivity = 'high'\napi_key_alone = 'test data only'"));

    assert_eq!(high.get(&[Key]), "auth-method-not-allowed");
    assert_eq!(high.get(&[Mtls]), "orders");
    assert_eq!(high.get(&[Mtls, Key]), "orders");
    assert_eq!(excused.get(&[Key]), "orders");
    assert_eq!(World::new(GRANT, "", "", &product("sensitivity = 'normal'")).get(&[Key]), "orders");
}

/// Orders of a tenant, for apps of that tenant.
const TENANTS: &str = "[[product]]\nid = 'tenants'\nscopes = ['s']\n[[product.operation]]\nservice = 'orders'\n\
    methods = ['GET']\npath = '/{tenant}/orders/**'\nscopes = ['s']\nwhen = 'path.tenant == app.attributes.tenant'\n";

#[test]
fn an_app_of_one_tenant_does_not_reach_another() {
    let grant = "grant = [{ product = 'tenants' }]";
    let acme = World::new(&format!("{grant}\nattributes = {{ tenant = 'acme' }}"), "", "", TENANTS);
    let nobody = World::new(grant, "", "", TENANTS);
    let confined =
        World::new(&format!("{grant}\nattributes = {{ tenant = 'acme' }}"), "", "scopes = []", TENANTS);

    assert_eq!(acme.ask(&[Key], "GET", "/acme/orders/7"), "tenants");
    assert_eq!(acme.ask(&[Mtls], "GET", "/acme/orders/7"), "tenants");
    for path in ["/other/orders/7", "/ACME/orders/7", "/acme;x/orders/7"] {
        assert_eq!(acme.ask(&[Key], "GET", path), "condition-failed", "{path}");
    }
    assert_eq!(nobody.ask(&[Key], "GET", "/acme/orders/7"), "condition-failed");
    assert_eq!(confined.ask(&[Key], "GET", "/other/orders/7"), "insufficient-scope", "scopes come first");
}

#[test]
fn of_several_operations_the_one_whose_condition_is_met_lets_in() {
    let own = TENANTS.replace(
        "when = 'path.tenant == app.attributes.tenant'",
        "when = 'path.tenant in app.attributes.shared'",
    );
    let second = own.split_once("[[product.operation]]").unwrap().1;
    let rest = format!("{TENANTS}[[product.operation]]{second}");
    let app = "grant = [{ product = 'tenants' }]\nattributes = { tenant = 'acme', shared = ['common'] }";
    let world = World::new(app, "", "", &rest);

    assert_eq!(world.ask(&[Key], "GET", "/acme/orders/7"), "tenants");
    assert_eq!(world.ask(&[Key], "GET", "/common/orders/7"), "tenants");
    assert_eq!(world.ask(&[Key], "GET", "/other/orders/7"), "condition-failed");
}

/// The ways in which the app of `world` may read an order, each with what must be so besides.
fn ways(world: &World, issuers: &[(&str, Proves)]) -> Vec<String> {
    let (path, service) = (PolicyPath::parse("/orders/7").unwrap(), "orders".parse().unwrap());
    let ask = Ask::Http { service: &service, method: "GET", path: &path };
    let door = Door { environment: world.environment.as_ref(), ..Door::default() };
    let found = who_can(&world.registry, &ask, &[door], issuers, world.now);
    let told = found.into_iter().map(|way| {
        let provisos = way.provisos.iter().map(|proviso| match proviso {
            Proviso::Claims(condition) => format!(" if {}", condition.as_str()),
            Proviso::Credentials(found) => {
                let bindings = found.iter().filter_map(|one| one.bindings.as_ref());
                format!(" if {}", bindings.map(ToString::to_string).collect::<String>())
            }
            Proviso::Scopes(scopes) => format!(" if {}", scopes.join("+")),
        });
        format!("{}{}", way.kinds, provisos.collect::<String>())
    });
    told.collect()
}

#[test]
fn who_can_names_the_credentials_that_the_gate_lets_in() {
    let cases = [
        (World::new(GRANT, "", "", ORDERS), vec!["mtls", "api_key"]),
        (World::new(GRANT, "", "scopes = ['orders:write']", ORDERS), vec!["mtls"]),
        (World::new(GRANT, "grants = []", "", ORDERS), vec!["api_key"]),
        (
            World::new(
                GRANT,
                "",
                "grants = [{ product = 'orders', expires = 2026-01-01T00:00:00Z }]",
                ORDERS,
            ),
            vec!["mtls"],
        ),
        (World::new(GRANT, "scopes = []", "scopes = []", ORDERS), vec![]),
    ];
    for (world, expected) in cases {
        assert_eq!(ways(&world, &[]), expected);
        for (kind, word) in [(Key, "api_key"), (Mtls, "mtls")] {
            assert_eq!(world.check(&[kind], "GET", "/orders/7").is_ok(), expected.contains(&word), "{word}");
        }
    }
    let elsewhere = ORDERS.replacen("scopes", "environments = ['prod']\nscopes", 1);
    let mut world = World::new(GRANT, "", "", &elsewhere);
    world.environment = Some("prod".parse().unwrap());
    assert_eq!(ways(&world, &[]), ["mtls", "api_key"]);
    world.environment = Some("test".parse().unwrap());
    assert!(ways(&world, &[]).is_empty());
}

#[test]
fn who_can_says_what_only_a_request_shows() {
    let token = "[[app.token]]\nissuer = 'https://idp.test'\nclient_id = 'caller'\n";
    let bound = "from = ['10.0.0.0/8']\nhours = '08:00-18:00'";
    let world = World::new(GRANT, "scopes = []", &format!("{bound}\n{token}"), ORDERS);
    assert_eq!(ways(&world, &[]), ["api_key if from 10.0.0.0/8 within 08:00-18:00 UTC"]);
    assert_eq!(
        ways(&world, &[("https://idp.test", Proves::Apps)])[0],
        "token if orders:read",
        "a token is nothing on file that is confined"
    );

    let stepped = ORDERS.replacen("path = ", "accepts = [['api_key', 'user_token']]\npath = ", 1).replacen(
        "scopes = ['orders:read']",
        "when = \"claim.team == app.attributes.team\"",
        1,
    );
    let world = World::new(&format!("{GRANT}\nattributes = {{ team = 'a' }}"), "", "", &stepped);
    assert!(ways(&world, &[]).is_empty(), "nobody's users are believed");
    let users = ways(&world, &[("https://idp.test", Proves::Users)]);
    assert_eq!(users, ["api_key+user_token if claim.team == app.attributes.team"]);
}

/// Every pair of such operations: where the lint says that the second is never reached, nothing that is asked reaches it.
#[test]
fn what_is_called_shadowed_is_never_what_lets_in() {
    let mut operations = Vec::new();
    for methods in ["'GET'", "'*'"] {
        for path in ["/", "/orders/**", "/orders/*", "/orders/7"] {
            for accepts in ["", "accepts = [['mtls']]", "accepts = [['mtls'], ['api_key']]"] {
                for scopes in ["", "scopes = ['s']"] {
                    operations.push(format!(
                        "service = 'orders'\nmethods = [{methods}]\npath = '{path}'\n{accepts}\n{scopes}\n"
                    ));
                }
            }
        }
    }
    let (mut shadowed, mut reached) = (0, 0);
    for (first, second) in operations.iter().flat_map(|one| operations.iter().map(move |two| (one, two))) {
        let rest = format!(
            "[[product]]\nid = 'orders'\nscopes = ['s']\n[[product.operation]]\nid = 'first'\n{first}\
             [[product.operation]]\nid = 'second'\n{second}"
        );
        let world = World::new(GRANT, "", "scopes = []", &rest);
        let lints = lint(&world.registry, world.now);
        let is_shadowed = lints.iter().any(|lint| lint.name == LintName::OperationShadowed);
        let lets_in = |kinds: &[CredentialKind], method, path| {
            let permit = world.check(kinds, method, path).ok()?;
            permit.terms().operation.id.as_ref().map(ToString::to_string)
        };
        let paths = ["/", "/orders", "/orders/", "/orders/7", "/orders/8/", "/orders/7/lines"];
        let asks = paths.into_iter().flat_map(|path| [("GET", path), ("POST", path)]);
        let let_in = asks.flat_map(|(method, path)| {
            [&[Mtls][..], &[Key], &[Mtls, Key]].map(|kinds| lets_in(kinds, method, path))
        });
        let is_reached = let_in.flatten().any(|operation| operation == "second");

        assert!(!(is_shadowed && is_reached), "{rest}");
        shadowed += usize::from(is_shadowed);
        reached += usize::from(is_reached);
    }
    assert!(shadowed > 500 && reached > 500, "{shadowed} shadowed, {reached} reached");
}
