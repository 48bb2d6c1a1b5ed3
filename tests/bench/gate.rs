//! What a decision costs with a hundred thousand apps on file, without limits and with them, on one thread and on two that
//! charge the same account. `cargo bench --bench gate`.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement that cannot go on may panic")]

mod timing;

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::PathBuf;

use postern::authz::{Ask, Door, Till, Toll, check};
use postern::clock::Timestamp;
use postern::credential::{Evidence, Peppers};
use postern::id::AppId;
use postern::identity::Subject;
use postern::limit::{Bill, Ledger, Line, Scope};
use postern::registry::{PolicyPath, Snapshot, Source, parse};
use timing::{median, processor_time, resident};

const APPS: usize = 100_000;

/// Decisions in one round, long beside the tick by which processor time may be counted; and rounds, whose median is printed.
const TIMES: u32 = 500_000;
const ROUNDS: usize = 9;

/// What a decision may cost, in microseconds.
const BUDGET: f64 = 2.0;

fn main() {
    million();
    let plenty = 999_999_999;
    let quota = |kind: &str| format!("quota = {{ limit = {plenty}, per = '1h', kind = '{kind}' }}\n");
    let spike = "spike = { rate = '1000000000/s', burst = 1000000 }\n";
    let cases = [
        ("no limit", String::new(), String::new()),
        ("a calendar quota", quota("calendar"), String::new()),
        ("a rolling quota", quota("rolling"), String::new()),
        ("a pace", spike.to_owned(), String::new()),
        ("quota and pace of product and operation", quota("flexi") + spike, quota("calendar") + spike),
        ("a quota that is used up", "quota = { limit = 0, per = '1h' }\n".to_owned(), String::new()),
    ];
    for (name, product, operation) in cases {
        let case = Case::new(&product, &operation);
        let alone = median(ROUNDS, || case.round());
        let together = median(ROUNDS, || {
            std::thread::scope(|threads| {
                let other = threads.spawn(|| case.round());
                case.round().max(other.join().unwrap())
            })
        });
        let verdict = if alone <= BUDGET { "within" } else { "beyond" };
        println!(
            "{name}: {:.0} ns, {verdict} the budget of {BUDGET} µs; two threads on one account: {:.0} ns each",
            alone * 1e3,
            together * 1e3
        );
    }
}

/// What a million accounts cost: memory, and the rounds in which they are looked through to be written down.
fn million() {
    let text = "[[product]]\nid = 'orders'\nquota = { limit = 9, per = '1d' }\n[[product.operation]]\nservice = 'orders'\n";
    let registry = parse(&[Source { path: PathBuf::from("a.toml"), text: text.to_owned() }]).unwrap();
    let product = registry.product("orders").unwrap();
    let limits = product.limits.as_deref().unwrap();
    let apps: Vec<AppId> = (0..1_000_000).map(|app| format!("app-{app}").parse().unwrap()).collect();
    let ledger = Ledger::default();
    let charge = |app| {
        let line = Line { scope: Scope::Product(&product.id), limits };
        ledger.charge(&Bill { app, lines: [None, Some(line), None], weight: 1 }, Timestamp::FLOOR).unwrap();
    };
    let before = resident();
    let begun = processor_time();
    apps.iter().for_each(charge);
    let made = processor_time() - begun;
    let bytes = (resident() - before) / ledger.accounts();
    let begun = processor_time();
    let mut changed = 0;
    ledger.take_changed(|_| changed += 1);
    let all = processor_time() - begun;
    let begun = processor_time();
    ledger.take_changed(|_| changed += 1);
    let none = processor_time() - begun;
    let begun = processor_time();
    apps.iter().for_each(charge);
    let again = processor_time() - begun;
    println!(
        "a million accounts: {bytes} bytes each, {:.0} ns to make and charge one, {:.0} ns to charge one of them again, \
         {all:.0?} to look through {changed} changes, {none:.0?} through none",
        made.as_secs_f64() * 1e9 / 1e6,
        again.as_secs_f64() * 1e9 / 1e6,
    );
}

struct Case {
    registry: Snapshot,
    ledger: Ledger,
    peppers: Peppers,
    subject: Subject,
}

impl Case {
    fn new(product: &str, operation: &str) -> Self {
        let mut text = format!(
            "[[developer]]\nid = 'team'\n[[product]]\nid = 'orders'\n{product}[[product.operation]]\nid = 'all'\n\
             service = 'orders'\nmethods = ['GET']\npath = '/**'\n{operation}"
        );
        for app in 0..APPS {
            write!(
                text,
                "[[app]]\nid = 'app-{app}'\ndeveloper = 'team'\n[[app.certificate]]\n\
                 uri = 'spiffe://postern.test/app-{app}'\n[[app.grant]]\nproduct = 'orders'\n"
            )
            .unwrap();
        }
        let registry = parse(&[Source { path: PathBuf::from("a.toml"), text }]).unwrap();
        let subject = Subject {
            spiffe_id: "spiffe://postern.test/app-77777".parse().unwrap(),
            dns: Vec::new(),
            attributes: Vec::new(),
            distinguished_name: String::new(),
            serial: String::new(),
            issuer: String::new(),
            not_before: Timestamp::FLOOR,
            not_after: Timestamp::FLOOR,
            sha256: [0; 32],
            spki_sha256: [0; 32],
        };
        Self { registry, ledger: Ledger::default(), peppers: Peppers::default(), subject }
    }

    /// What one decision takes in a row of them, in microseconds.
    fn round(&self) -> f64 {
        let evidence = Evidence { certificate: Some(&self.subject), ..Evidence::default() };
        let (path, service) = (PolicyPath::parse("/orders/7").unwrap(), "orders".parse().unwrap());
        let ask = Ask::Http { service: &service, method: "GET", path: &path };
        let toll = Toll::Charge(Till { ledger: &self.ledger, service: None });
        let begun = processor_time();
        for _ in 0..TIMES {
            let now = Timestamp::FLOOR;
            drop(black_box(check(
                &evidence,
                &ask,
                Door::default(),
                &self.registry,
                &self.peppers,
                &toll,
                now,
            )));
        }
        (processor_time() - begun).as_secs_f64() * 1e6 / f64::from(TIMES)
    }
}
