//! A request on a warm path takes no memory from the heap for the decision (who is it, may it, charge it), nor for being
//! remembered.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::PathBuf;

use allocation_counter::measure;
use postern::authz::{Ask, Door, Permit, Till, Toll, check};
use postern::clock::Timestamp;
use postern::credential::{Evidence, HeaderEvidence, Peppers};
use postern::identity::Subject;
use postern::limit::Ledger;
use postern::registry::{PolicyPath, Snapshot, Source, parse};
use postern::telemetry::{AccessEvent, Recall};

fn registry(limits: &str) -> Snapshot {
    let text = format!(
        "[[developer]]\nid = 'team'\n[[app]]\nid = 'caller'\ndeveloper = 'team'\n{limits}\n\
         [[app.certificate]]\nuri = 'spiffe://postern.test/caller'\n[[app.grant]]\nproduct = 'orders'\n\
         [[product]]\nid = 'orders'\n{limits}\n[[product.operation]]\nid = 'all'\nservice = 'orders'\n\
         methods = ['GET']\npath = '/**'\n{limits}\n"
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

#[test]
fn a_yes_takes_nothing_from_the_heap() {
    let counts = measure(|| drop(std::hint::black_box(Box::new(7)))).count_total;
    assert_eq!(counts, 1, "the meter itself");
    let subject = subject();
    let evidence = Evidence { certificate: Some(&subject), headers: HeaderEvidence::default() };
    let (path, service) = (PolicyPath::parse("/orders/7").unwrap(), "orders".parse().unwrap());
    let ask = Ask::Http { service: &service, method: "GET", path: &path };
    for limits in [
        "",
        "quota = { limit = 100, per = '1d' }",
        "quota = { limit = 100, per = '1h', kind = 'rolling' }",
        "spike = { rate = '1/h', burst = 100 }",
        "quota = { limit = 100, per = '1h', kind = 'flexi' }\nspike = { rate = '1/h', burst = 100 }",
    ] {
        let (registry, peppers, ledger) = (registry(limits), Peppers::default(), Ledger::default());
        let toll = Toll::Charge(Till { ledger: &ledger, service: None });
        let ask_once =
            |now| check(&evidence, &ask, Door::default(), &registry, &peppers, &toll, now).unwrap();
        // The first of an app makes its accounts.
        drop::<Permit<'_>>(ask_once(Timestamp::FLOOR));

        let taken = measure(|| {
            for second in 1..=50 {
                drop::<Permit<'_>>(ask_once(Timestamp::from_unix(Timestamp::FLOOR.unix() + second)));
            }
        });

        assert_eq!(taken.count_total, 0, "{limits}");
    }
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
