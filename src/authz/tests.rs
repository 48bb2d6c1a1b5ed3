//! What the gate answers, and what it charges for it.

mod entitlement;

use std::path::PathBuf;
use std::sync::Arc;

use crate::authz::{Ask, Denial, Door, No, Permit, Till, Toll, check};
use crate::clock::Timestamp;
use crate::credential::{Evidence, Peppers};
use crate::identity::Subject;
use crate::limit::{Concurrency, Inflight, Ledger, Priority};
use crate::registry::{PolicyPath, Snapshot, Source, parse};

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

struct World {
    registry: Snapshot,
    ledger: Ledger,
    peppers: Peppers,
    subject: Subject,
}

impl World {
    /// The app `caller` with these grants, and products `one` and `two` that contain everything and have these limits.
    fn new(grants: &str, one: &str, two: &str) -> Self {
        let product = |id: &str, limits: &str| {
            format!(
                "[[product]]\nid = '{id}'\n{limits}\n[[product.operation]]\nservice = 'orders'\nmethods = ['GET']\n\
                 path = '/**'\n"
            )
        };
        let text = format!(
            "[[developer]]\nid = 'team'\n[[app]]\nid = 'caller'\ndeveloper = 'team'\n\
             [[app.certificate]]\nuri = 'spiffe://td/caller'\n{grants}\n{}{}",
            product("one", one),
            product("two", two)
        );
        Self {
            registry: parse(&[Source { path: PathBuf::from("a.toml"), text }]).unwrap(),
            ledger: Ledger::default(),
            peppers: Peppers::default(),
            subject: subject("spiffe://td/caller"),
        }
    }

    fn check(&self, toll: &Toll<'_>) -> Result<Permit<'_>, No<'_>> {
        let evidence = Evidence { certificate: Some(&self.subject), ..Evidence::default() };
        let (path, service) = (PolicyPath::parse("/a").unwrap(), "orders".parse().unwrap());
        let ask = Ask::Http { service: &service, method: "GET", path: &path };
        check(&evidence, &ask, Door::default(), &self.registry, &self.peppers, toll, Timestamp::FLOOR)
    }

    fn charge(&self) -> Toll<'_> {
        Toll::Charge(Till { ledger: &self.ledger, service: None })
    }

    /// The product that the next request is charged to, or why it is refused.
    fn charged_to(&self) -> String {
        match self.check(&self.charge()) {
            Ok(permit) => permit.terms().product.id.to_string(),
            Err(no) => no.code().to_owned(),
        }
    }

    fn used(&self) -> u64 {
        self.ledger.uses(Timestamp::FLOOR).iter().map(|one| one.used).sum()
    }
}

const BOTH: &str = "[[app.grant]]\nproduct = 'one'\n[[app.grant]]\nproduct = 'two'";
const ONCE: &str = "quota = { limit = 1, per = '1d' }";
const TWICE: &str = "quota = { limit = 2, per = '1d' }";

#[test]
fn the_first_product_that_has_something_left_is_charged() {
    let world = World::new(BOTH, ONCE, TWICE);

    let charged: Vec<String> = (0..4).map(|_| world.charged_to()).collect();

    assert_eq!(charged, ["one", "two", "two", "quota-exceeded"]);
    assert_eq!(world.used(), 3);
}

#[test]
fn whoever_has_used_up_everything_is_told_what_comes_back_first() {
    let world = World::new(BOTH, ONCE, "quota = { limit = 1, per = '1h', kind = 'flexi' }");
    assert_eq!((world.charged_to(), world.charged_to()), ("one".to_owned(), "two".to_owned()));

    let Err(No::Limited { shortage, terms }) = world.check(&world.charge()) else { panic!("let in") };

    assert_eq!((terms.product.id.as_str(), shortage.retry_after.as_secs()), ("two", 3600));
}

#[test]
fn whoever_has_used_up_a_right_is_told_so_and_not_that_another_is_missing() {
    let grants = "[[app.grant]]\nproduct = 'one'\nstatus = 'revoked'\n[[app.grant]]\nproduct = 'two'";
    let world = World::new(grants, ONCE, ONCE);

    assert_eq!(world.charged_to(), "two");
    assert_eq!(world.charged_to(), "quota-exceeded");
}

#[test]
fn whoever_may_not_is_charged_nothing() {
    let world = World::new("[[app.grant]]\nproduct = 'one'\nstatus = 'pending'", ONCE, ONCE);

    assert_eq!(world.charged_to(), "grant-pending");
    assert_eq!((world.used(), world.ledger.accounts()), (0, 0));
}

#[test]
fn looking_and_staying_cost_nothing() {
    let world = World::new(BOTH, ONCE, ONCE);
    let look = Toll::Look(Till { ledger: &world.ledger, service: None });

    assert!((0..3).all(|_| world.check(&look).is_ok()));
    assert_eq!((world.charged_to(), world.charged_to()), ("one".to_owned(), "two".to_owned()));
    assert!(matches!(
        world.check(&look),
        Err(No::Limited { shortage, .. }) if shortage.denial == Denial::QuotaExceeded
    ));
    assert!(world.check(&Toll::Paid).is_ok(), "who was let in is not asked to pay again");
}

#[test]
fn whoever_finds_no_place_is_charged_nothing_and_a_used_up_quota_takes_no_place() {
    let world = World::new(BOTH, ONCE, ONCE);
    let service = Arc::new(Inflight::new(Concurrency { minimum: 1, maximum: 1 }));
    let toll = Toll::Charge(Till { ledger: &world.ledger, service: Some(&service) });

    let taken = service.enter(Priority::High).unwrap();
    assert_eq!(world.check(&toll).unwrap_err().code(), "overloaded");
    assert_eq!(world.used(), 0);
    drop(taken);
    let permits = (world.check(&toll), world.check(&toll));
    assert_eq!(permits.1.as_ref().unwrap_err().code(), "overloaded", "the first one holds the place");
    drop(permits);
    drop(world.check(&toll).unwrap());
    assert_eq!(world.check(&toll).unwrap_err().code(), "quota-exceeded");
    assert_eq!(service.within(), 0);
}
