//! A request on a warm path takes no memory from the heap for the decision (who is it, may it, charge it), nor for being
//! remembered.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::PathBuf;

use allocation_counter::measure;
use postern::authz::{Ask, Door, Permit, Till, Toll, check};
use postern::clock::Timestamp;
use postern::credential::{Evidence, Peppers};
use postern::identity::Subject;
use postern::limit::Ledger;
use postern::registry::{Origin, PolicyPath, Snapshot, Source, parse};
use postern::telemetry::{AccessEvent, Recall};

/// The app `caller` with what stands in `app`, and a product with what stands in `product` and in its `operation`.
fn registry(app: &str, certificate: &str, product: &str, operation: &str) -> Snapshot {
    let text = format!(
        "[[developer]]\nid = 'team'\n[[app]]\nid = 'caller'\ndeveloper = 'team'\n{app}\n\
         [[app.certificate]]\nuri = 'spiffe://postern.test/caller'\n{certificate}\n[[app.grant]]\nproduct = 'orders'\n\
         [[product]]\nid = 'orders'\n{product}\n[[product.operation]]\nid = 'all'\nservice = 'orders'\n\
         methods = ['GET']\n{operation}\n"
    );
    parse(&[Source { path: PathBuf::from("a.toml"), text }]).unwrap()
}

fn subject() -> Subject {
    Subject {
        spiffe_id: "spiffe://postern.test/caller".parse().unwrap(),
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

/// Takes decisions on `/acme/orders/7`, all of them a yes, and counts what they take from the heap.
fn taken(registry: &Snapshot) -> u64 {
    let subject = subject();
    let origin = Origin { address: Some([127, 0, 0, 1].into()), sni: Some("api.test") };
    let evidence = Evidence { certificate: Some(&subject), origin, ..Evidence::default() };
    let (path, service) = (PolicyPath::parse("/acme/orders/7").unwrap(), "orders".parse().unwrap());
    let (ask, environment) =
        (Ask::Http { service: &service, method: "GET", path: &path }, "prod".parse().unwrap());
    let door = Door { environment: Some(&environment), ..Door::default() };
    let (peppers, ledger) = (Peppers::default(), Ledger::default());
    let toll = Toll::Charge(Till { ledger: &ledger, service: None });
    let ask_once = |now| check(&evidence, &ask, door, registry, &peppers, &toll, now).unwrap();
    // The first of an app makes its accounts.
    drop::<Permit<'_>>(ask_once(Timestamp::FLOOR));
    let taken = measure(|| {
        for second in 1..=50 {
            drop::<Permit<'_>>(ask_once(Timestamp::from_unix(Timestamp::FLOOR.unix() + second)));
        }
    });
    taken.count_total
}

#[test]
fn a_yes_takes_nothing_from_the_heap() {
    let counts = measure(|| drop(std::hint::black_box(Box::new(7)))).count_total;
    assert_eq!(counts, 1, "the meter itself");
    for limits in [
        "",
        "quota = { limit = 100, per = '1d' }",
        "quota = { limit = 100, per = '1h', kind = 'rolling' }",
        "spike = { rate = '1/h', burst = 100 }",
        "quota = { limit = 100, per = '1h', kind = 'flexi' }\nspike = { rate = '1/h', burst = 100 }",
    ] {
        let registry = registry(limits, "", limits, &format!("path = '/**'\n{limits}"));

        assert_eq!(taken(&registry), 0, "{limits}");
    }
}

#[test]
fn nor_do_scopes_bindings_parts_of_grants_environments_and_conditions() {
    let registry = registry(
        "accepts = [['mtls']]\nattributes = { tenant = 'acme', regions = ['eu', 'us'] }",
        "scopes = ['orders:read']\ngrants = [{ product = 'orders', expires = 2099-01-01T00:00:00Z }]\n\
         from = ['127.0.0.0/8']\nsni = 'api.test'\nhours = '00:00-23:59'",
        "environments = ['test', 'prod']\nsensitivity = 'high'\nscopes = ['orders:write', 'orders:read']\n\
         accepts = [['mtls']]",
        "path = '/{tenant}/orders/{id}'\nscopes = ['orders:read']\n\
         when = \"path.tenant == app.attributes.tenant and not path.id in ['8', '9']\"",
    );

    assert_eq!(taken(&registry), 0);
}

#[test]
fn to_be_remembered_takes_nothing_from_the_heap_once_the_memory_is_full() {
    let recall = Recall::new(100);
    let remember = |number: usize| {
        let path = ["/orders/7", "/orders", "/orders/7/lines/12"][number % 3];
        let event = AccessEvent {
            request_id: "01a2020c-1e45-75c7-aece-1805f1e5f1a4",
            door: "inbound",
            method: "GET",
            path,
            service: "orders",
            app: "caller",
            spiffe_id: "spiffe://postern.test/caller",
            ..AccessEvent::NOTHING
        };
        recall.remember(&event);
    };
    (0..100).for_each(remember);

    let taken = measure(|| (100..1000).for_each(remember));

    assert_eq!(taken.count_total, 0);
    assert!(recall.find("01a2020c-1e45-75c7-aece-1805f1e5f1a4").is_some());
}
