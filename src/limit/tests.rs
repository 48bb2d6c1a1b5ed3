//! What the limits promise, at the edges and under many hands.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::inflight::moved;
use super::*;
use crate::clock::Timestamp;
use crate::id::{AppId, OperationId, ProductId};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn calendar(unit: Unit) -> Window {
    Window::Calendar { unit, count: 1, utc_offset: 0 }
}

fn quota(limit: u64, window: Window) -> Limits {
    Limits { quota: Some(Quota::new(limit, window)), spike: None }
}

fn spike(rate: &str, burst: u32) -> Limits {
    Limits { quota: None, spike: Some(Spike::new(rate.parse().unwrap(), burst)) }
}

/// One app with limits at any level, and the ledger that counts for it.
struct Desk {
    ledger: Ledger,
    app: AppId,
    product: ProductId,
    operation: OperationId,
    levels: [Option<Limits>; 3],
}

impl Desk {
    fn new(levels: [Option<Limits>; 3]) -> Self {
        Self {
            ledger: Ledger::default(),
            app: "ledger".parse().unwrap(),
            product: "orders".parse().unwrap(),
            operation: "search".parse().unwrap(),
            levels,
        }
    }

    fn of_product(limits: Limits) -> Self {
        Self::new([None, Some(limits), None])
    }

    fn bill(&self, weight: u64) -> Bill<'_> {
        let scopes = [
            Scope::App(&self.app),
            Scope::Product(&self.product),
            Scope::Operation(&self.product, &self.operation),
        ];
        let mut scopes = scopes.into_iter();
        let lines = self.levels.each_ref().map(|limits| {
            let scope = scopes.next().unwrap();
            limits.as_ref().map(|limits| Line { scope, limits })
        });
        Bill { app: &self.app, lines, weight }
    }

    fn charge(&self, now: Timestamp) -> Result<Statement<'_>, Box<Refused<'_>>> {
        self.ledger.charge(&self.bill(1), now)
    }

    fn passes(&self, now: &str) -> bool {
        self.charge(at(now)).is_ok()
    }

    fn retry_after(&self, now: &str) -> Duration {
        self.charge(at(now)).unwrap_err().retry_after
    }
}

#[test]
fn calendar_windows_end_where_the_calendar_says() {
    let table = [
        (Unit::Minute, "2026-03-01T10:20:59Z", "2026-03-01T10:21:00Z"),
        (Unit::Hour, "2026-03-01T10:59:59Z", "2026-03-01T11:00:00Z"),
        (Unit::Day, "2026-12-31T23:59:59Z", "2027-01-01T00:00:00Z"),
        // A Sunday; the next day is a Monday.
        (Unit::Week, "2026-11-22T12:00:00Z", "2026-11-23T00:00:00Z"),
        (Unit::Week, "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"),
        (Unit::Month, "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"),
        (Unit::Month, "2028-02-29T23:59:59Z", "2028-03-01T00:00:00Z"),
        (Unit::Month, "2026-04-30T23:59:59Z", "2026-05-01T00:00:00Z"),
        (Unit::Month, "2026-12-31T00:00:00Z", "2027-01-01T00:00:00Z"),
        (Unit::Year, "2028-02-29T00:00:00Z", "2029-01-01T00:00:00Z"),
    ];
    for (unit, now, end) in table {
        let desk = Desk::of_product(quota(1, calendar(unit)));

        assert!(desk.passes(now), "{unit:?} {now}");
        assert_eq!(desk.retry_after(now), at(end).since(at(now)), "{unit:?} {now}");
        assert!(desk.charge(at(end) - Duration::from_nanos(1)).is_err(), "{unit:?} {end}");
        assert!(desk.passes(end), "{unit:?} {end}");
    }
}

#[test]
fn a_calendar_may_be_that_of_another_place() {
    let day = |utc_offset| Window::Calendar { unit: Unit::Day, count: 1, utc_offset };
    let east = Desk::of_product(quota(1, day(2 * 3600)));
    let west = Desk::of_product(quota(1, day(-5 * 3600)));

    assert!(east.passes("2026-03-01T21:59:59Z") && west.passes("2026-03-01T21:59:59Z"));
    assert!(east.passes("2026-03-01T22:00:00Z"));
    assert!(!west.passes("2026-03-02T04:59:59Z"));
    assert!(west.passes("2026-03-02T05:00:00Z"));
}

#[test]
fn windows_of_several_units_follow_one_another() {
    let quarter = Desk::of_product(quota(1, Window::Calendar { unit: Unit::Month, count: 3, utc_offset: 0 }));

    assert!(quarter.passes("2026-01-01T00:00:00Z"));
    assert!(!quarter.passes("2026-03-31T23:59:59Z"));
    assert!(quarter.passes("2026-04-01T00:00:00Z"));
}

#[test]
fn a_fixed_window_follows_from_the_first_use_or_from_its_start() {
    let (day, noon) = (seconds(86_400), at("2026-03-01T12:00:00Z").unix_nanos());
    let first_use = Desk::of_product(quota(1, Window::Fixed { length: day, start: None }));
    let from_noon = Desk::of_product(quota(1, Window::Fixed { length: day, start: Some(noon) }));

    assert!(first_use.passes("2026-03-01T09:00:00Z") && from_noon.passes("2026-03-01T09:00:00Z"));
    assert!(from_noon.passes("2026-03-01T12:00:00Z"));
    assert!(!first_use.passes("2026-03-02T08:59:59Z"));
    assert!(first_use.passes("2026-03-02T10:00:00Z"));
    // The second window began at nine, although it was used at ten.
    assert!(!first_use.passes("2026-03-03T08:59:59Z"));
    assert!(first_use.passes("2026-03-03T09:00:00Z"));
}

#[test]
fn a_flexi_window_begins_with_the_first_use_after_the_last() {
    let desk = Desk::of_product(quota(1, Window::Flexi { length: seconds(3600) }));

    assert!(desk.passes("2026-03-01T09:10:00Z"));
    assert!(!desk.passes("2026-03-01T10:09:59Z"));
    assert!(desk.passes("2026-03-01T11:30:00Z"));
    assert_eq!(desk.retry_after("2026-03-01T11:30:01Z"), seconds(3599));
}

#[test]
fn a_rolling_window_forgets_no_earlier_than_it_looks_back() {
    let desk = Desk::of_product(quota(2, Window::Rolling { length: seconds(60) }));

    assert!(desk.passes("2026-03-01T00:00:00.5Z") && desk.passes("2026-03-01T00:00:30Z"));
    assert!(!desk.passes("2026-03-01T00:01:00Z"), "a minute has not passed since the first");
    assert_eq!(desk.retry_after("2026-03-01T00:01:00Z"), seconds(1));
    assert!(desk.passes("2026-03-01T00:01:01Z"));
    assert!(!desk.passes("2026-03-01T00:01:02Z"));
    assert!(desk.passes("2026-03-01T00:01:31Z"));
}

#[test]
fn ten_a_minute_is_one_every_six_seconds() {
    let desk = Desk::of_product(spike("10/min", 0));

    assert!(desk.passes("2026-03-01T00:00:00Z"));
    assert!(!desk.passes("2026-03-01T00:00:01Z"));
    assert_eq!(desk.retry_after("2026-03-01T00:00:01Z"), seconds(5));
    assert!(desk.passes("2026-03-01T00:00:06.1Z"));
    assert!(!desk.passes("2026-03-01T00:00:12Z"), "six seconds after the last one that passed");
    assert!(desk.passes("2026-03-01T00:00:12.1Z"));
}

#[test]
fn a_burst_comes_at_once_and_is_earned_again() {
    let desk = Desk::of_product(spike("10/min", 2));
    let now = at("2026-03-01T00:00:00Z");

    for left in [2, 1, 0] {
        assert_eq!(desk.charge(now).unwrap().iter().next().unwrap().remaining, left);
    }
    assert_eq!(desk.charge(now).unwrap_err().retry_after, seconds(6));
    assert!(desk.charge(now + seconds(6)).is_ok());
    assert!(desk.charge(now + seconds(6)).is_err());
    assert!((0..3).all(|_| desk.charge(now + seconds(60)).is_ok()));
    assert!(desk.charge(now + seconds(60)).is_err());
}

#[test]
fn weight_counts_as_so_many() {
    let desk =
        Desk::of_product(Limits { spike: spike("10/min", 0).spike, ..quota(12, calendar(Unit::Hour)) });
    let now = at("2026-03-01T00:00:00Z");

    let statement = desk.ledger.charge(&desk.bill(5), now).unwrap();
    assert_eq!(statement.iter().next().unwrap().remaining, 7);
    // Five of ten a minute: two a minute.
    assert_eq!(desk.ledger.charge(&desk.bill(5), now).unwrap_err().retry_after, seconds(30));
    desk.ledger.charge(&desk.bill(5), now + seconds(30)).unwrap();
    let refused = desk.ledger.charge(&desk.bill(5), now + seconds(60)).unwrap_err();
    assert_eq!((refused.excess, refused.retry_after), (Excess::Quota, seconds(3540)));
    assert!(desk.ledger.charge(&desk.bill(2), now + seconds(60)).is_ok(), "two were left");
}

#[test]
fn what_one_limit_refuses_costs_nothing_at_the_others() {
    let plenty = || Some(quota(100, calendar(Unit::Day)));
    let one = |limits: Limits| [quota(1, calendar(Unit::Hour)), spike("1/h", 0)].contains(&limits);
    for tight in [quota(1, calendar(Unit::Hour)), spike("1/h", 0)] {
        assert!(one(tight.clone()));
        for level in 0..3 {
            let mut levels = [plenty(), plenty(), plenty()];
            let quota = levels[level].take().unwrap().quota.filter(|_| tight.quota.is_none());
            levels[level] = Some(Limits { quota: tight.quota.or(quota), spike: tight.spike });
            let desk = Desk::new(levels);
            let now = at("2026-03-01T00:00:00Z");

            desk.charge(now).unwrap();
            for _ in 0..10 {
                let refused = desk.charge(now).unwrap_err();
                let exceeded = refused.statement.iter().filter(|entry| entry.standing == Standing::Exceeded);
                assert_eq!(exceeded.count(), 1, "{refused:?}");
            }

            let uses = desk.ledger.uses(now);
            assert!(!uses.is_empty() && uses.iter().all(|one| one.used == 1), "{level}: {uses:?}");
        }
    }
}

#[test]
fn every_limit_stands_on_the_statement_and_the_longest_wait_counts() {
    let both = Limits { spike: spike("10/min", 0).spike, ..quota(1, calendar(Unit::Hour)) };
    let desk = Desk::of_product(both);
    let now = at("2026-03-01T00:59:58Z");

    let statement = desk.charge(now).unwrap();
    let names: Vec<String> = statement.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["product:orders", "product:orders:spike"]);

    let refused = desk.charge(now).unwrap_err();
    assert_eq!((refused.excess, refused.retry_after), (Excess::Quota, seconds(6)));
}

#[test]
fn looking_says_what_charging_would_and_costs_nothing() {
    let desk = Desk::of_product(quota(1, calendar(Unit::Hour)));
    let now = at("2026-03-01T00:00:00Z");

    assert_eq!(desk.ledger.look(&desk.bill(1), now), desk.ledger.look(&desk.bill(1), now));
    let seen = desk.ledger.look(&desk.bill(1), now).unwrap();
    assert_eq!(desk.ledger.accounts(), 0);
    assert_eq!(desk.charge(now).unwrap(), seen);
    let seen = desk.ledger.look(&desk.bill(1), now).unwrap_err();
    assert_eq!(desk.charge(now).unwrap_err(), seen);
}

#[test]
fn a_quota_of_nothing_lets_nothing_pass() {
    assert!(!Desk::of_product(quota(0, calendar(Unit::Hour))).passes("2026-03-01T00:00:00Z"));
}

#[test]
fn a_clock_that_steps_back_opens_no_window_early() {
    for window in [
        calendar(Unit::Hour),
        Window::Fixed { length: seconds(3600), start: None },
        Window::Flexi { length: seconds(3600) },
        Window::Rolling { length: seconds(3600) },
    ] {
        let desk = Desk::of_product(quota(1, window));
        assert!(desk.passes("2026-03-01T10:00:00Z"), "{window:?}");

        // Back into the hour before, and through it once more.
        for now in
            ["2026-03-01T09:30:00Z", "2026-03-01T09:59:59Z", "2026-03-01T10:00:00Z", "2026-03-01T10:59:59Z"]
        {
            assert!(!desk.passes(now), "{window:?} {now}");
        }
        assert!(desk.passes("2026-03-01T11:01:00Z"), "{window:?}");
    }
}

#[test]
fn a_clock_that_was_years_ahead_locks_nobody_out_and_forgives_nothing() {
    for window in [
        calendar(Unit::Hour),
        Window::Fixed { length: seconds(3600), start: None },
        Window::Flexi { length: seconds(3600) },
        Window::Rolling { length: seconds(3600) },
    ] {
        let desk = Desk::of_product(quota(1, window));
        assert!(desk.passes("2040-03-01T10:00:00Z"), "{window:?}");

        assert!(!desk.passes("2026-03-01T10:00:00Z"), "{window:?}");
        assert!(!desk.passes("2026-03-01T10:59:00Z"), "{window:?}");
        assert!(desk.passes("2026-03-01T11:01:00Z"), "{window:?}");
    }
}

#[test]
fn a_clock_that_steps_back_neither_refills_a_pace_nor_stops_it() {
    let desk = Desk::of_product(spike("10/min", 0));
    assert!(desk.passes("2026-03-01T10:00:00Z"));

    assert_eq!(desk.retry_after("2026-03-01T09:00:00Z"), seconds(6));
    assert_eq!(desk.retry_after("2026-03-01T09:00:01Z"), seconds(5));
    assert!(desk.passes("2026-03-01T09:00:06Z"));
    assert!(!desk.passes("2026-03-01T09:00:11Z"));
}

#[test]
fn a_changed_rule_holds_for_what_is_counted_already() {
    let mut desk = Desk::of_product(quota(10, calendar(Unit::Day)));
    let now = at("2026-03-01T10:00:00Z");
    assert!((0..5).all(|_| desk.charge(now).is_ok()));

    desk.levels[1] = Some(quota(5, calendar(Unit::Day)));
    assert!(desk.charge(now).is_err(), "a lower limit holds at once");
    desk.levels[1] = Some(quota(6, calendar(Unit::Day)));
    assert!(desk.charge(now).is_ok() && desk.charge(now).is_err(), "a higher one gives the difference");

    for window in [calendar(Unit::Hour), Window::Rolling { length: seconds(3600) }] {
        desk.levels[1] = Some(quota(6, window));
        assert!(desk.charge(now).is_err(), "another window takes the count along: {window:?}");
    }
    desk.levels[1] = Some(quota(7, calendar(Unit::Hour)));
    assert!(desk.charge(now).is_ok() && desk.charge(now).is_err());
}

#[test]
fn what_is_written_down_counts_after_a_restart() {
    let rolling =
        Limits { spike: spike("10/min", 0).spike, ..quota(3, Window::Rolling { length: seconds(60) }) };
    for limits in [quota(3, calendar(Unit::Day)), rolling] {
        let before = Desk::of_product(limits.clone());
        let now = at("2026-03-01T10:00:00Z");
        before.charge(now).unwrap();
        before.charge(now + seconds(7)).unwrap();
        let mut records = Vec::new();
        before.ledger.take_changed(|record| records.push(record));
        assert_eq!(records.len(), 1);
        before.ledger.take_changed(|record| panic!("taken twice: {record:?}"));
        let text = serde_json::to_string(&records[0]).unwrap();

        let after = Desk::of_product(limits);
        assert!(after.ledger.restore(&serde_json::from_str(&text).unwrap()));

        let later = now + seconds(8);
        assert_eq!(after.ledger.look(&after.bill(1), later), before.ledger.look(&before.bill(1), later));
        after.ledger.take_changed(|record| panic!("nothing has changed: {record:?}"));
        let later = now + seconds(14);
        assert!(after.charge(later).is_ok() && after.charge(later).is_err());
        assert!(!records[0].is_over(later) && records[0].is_over(now + seconds(86_400)));
    }
}

#[test]
fn under_many_hands_exactly_the_limit_passes() {
    let spiky = Limits { quota: None, spike: Some(Spike::new("1/h".parse().unwrap(), 999)) };
    let hour = seconds(3600);
    let kinds = [
        [None, Some(quota(1000, calendar(Unit::Day))), None],
        [None, Some(quota(1000, Window::Fixed { length: hour, start: None })), None],
        [None, Some(quota(1000, Window::Flexi { length: hour })), None],
        [None, Some(quota(1000, Window::Rolling { length: hour })), None],
        [None, Some(spiky.clone()), None],
        [Some(quota(1000, calendar(Unit::Day))), Some(quota(1001, calendar(Unit::Day))), Some(spiky)],
    ];
    for levels in kinds {
        let desk = Desk::new(levels);
        let (now, passed) = (at("2026-03-01T10:00:00Z"), AtomicU64::new(0));

        std::thread::scope(|threads| {
            for _ in 0..32 {
                threads.spawn(|| {
                    for _ in 0..63 {
                        if desk.charge(now).is_ok() {
                            passed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });

        assert_eq!(passed.load(Ordering::Relaxed), 1000, "{:?}", desk.levels);
        assert!(desk.ledger.uses(now).iter().all(|one| one.used == 1000));
    }
}

#[test]
fn accounts_are_told_apart_and_none_is_lost_in_a_crowd() {
    let (ledger, limits) = (Ledger::default(), quota(1, calendar(Unit::Day)));
    let (now, product) = (at("2026-03-01T10:00:00Z"), "orders".parse().unwrap());
    let apps: Vec<AppId> = (0..20_000).map(|number| format!("app-{number}").parse().unwrap()).collect();
    let charge = |app| {
        let line = Line { scope: Scope::Product(&product), limits: &limits };
        ledger.charge(&Bill { app, lines: [None, Some(line), None], weight: 1 }, now).is_ok()
    };

    let passed = AtomicU64::new(0);
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                let count = apps.iter().filter(|app| charge(app)).count();
                passed.fetch_add(u64::try_from(count).unwrap(), Ordering::Relaxed);
            });
        }
    });

    assert_eq!(passed.load(Ordering::Relaxed), 20_000, "each app has one, however many threads ask for it");
    assert_eq!(ledger.accounts(), 20_000);
    let mut written = 0;
    ledger.take_changed(|_| written += 1);
    assert_eq!(written, 20_000);
}

#[test]
fn who_fails_too_often_has_to_wait_and_others_do_not() {
    let (throttle, pace) = (Throttle::default(), Spike::new("1/s".parse().unwrap(), 2));
    let now = at("2026-03-01T10:00:00Z");
    for _ in 0..3 {
        throttle.admit(1, &pace, now).unwrap();
        throttle.note_failure(1, &pace, now);
    }

    assert_eq!(throttle.admit(1, &pace, now), Err(seconds(1)));
    assert_eq!(throttle.admit(2, &pace, now), Ok(()));
    throttle.admit(1, &pace, now + seconds(1)).unwrap();
    throttle.note_failure(1, &pace, now + seconds(1));
    assert_eq!(throttle.admit(1, &pace, now + seconds(1)), Err(seconds(1)));
    assert_eq!(throttle.admit(1, &pace, now - seconds(86_400)), Err(seconds(1)), "the clock was set back");
    assert_eq!(throttle.admit(1, &pace, now + seconds(5)), Ok(()));
}

#[test]
fn a_flood_of_sources_frees_nobody_who_is_turned_away() {
    let (throttle, pace) = (Throttle::default(), Spike::new("1/min".parse().unwrap(), 0));
    let now = at("2026-03-01T10:00:00Z");
    throttle.note_failure(7, &pace, now);
    throttle.admit(7, &pace, now).unwrap_err();

    for source in 1000..401_000 {
        throttle.note_failure(source, &pace, now);
    }

    throttle.admit(7, &pace, now).unwrap_err();
}

#[test]
fn the_limit_follows_the_delay() {
    assert_eq!(moved(100, 1000, 1000), 100 + 12 + 10, "as fast as can be: more at a time");
    assert_eq!(moved(100, 1000, 10_000), 50 + 10, "ten times as slow: half as many, and the root");
    assert_eq!(moved(1, 1000, 1_000_000), 1);
    assert_eq!(moved(u32::MAX, 1000, 1), u32::MAX);
}

#[test]
fn a_slow_service_is_given_less_and_a_recovered_one_more() {
    let service = Arc::new(Inflight::new(Concurrency { minimum: 3, maximum: 200 }));
    let mut now = at("2026-03-01T10:00:00Z");
    let mut answer = |delay: u64, count: u32| {
        for _ in 0..count {
            now = now + Duration::from_millis(20);
            let seat = service.enter(Priority::High).unwrap();
            seat.answered(Duration::from_millis(delay), now);
        }
        service.limit()
    };

    let fast = answer(10, 1000);
    let slow = answer(200, 200);
    let again = answer(10, 1000);

    assert_eq!(fast, 200, "nothing stood in the way");
    assert!(slow < 20, "{slow}");
    assert_eq!(again, 200);
    assert_eq!(service.within(), 0);
}

#[test]
fn whoever_matters_less_is_turned_away_first() {
    let service = Arc::new(Inflight::new(Concurrency { minimum: 8, maximum: 8 }));
    let enter = |priority| std::iter::from_fn(|| service.enter(priority)).collect::<Vec<_>>();

    let low = enter(Priority::Low);
    let normal = enter(Priority::Normal);
    let high = enter(Priority::High);

    assert_eq!((low.len(), normal.len(), high.len()), (4, 3, 1));
    assert!(!service.has_room(Priority::High));
    drop(high);
    assert!(service.has_room(Priority::High) && !service.has_room(Priority::Normal));
    drop((low, normal));
    assert_eq!(service.within(), 0);
}

#[test]
fn rates_and_periods_are_read_as_they_are_written() {
    assert_eq!("10/min".parse::<Rate>().unwrap().to_string(), "10/min");
    for text in ["", "10", "/min", "0/s", "-1/s", "+1/s", "10/m", "10/minute", "1.5/s", "5000000000/s"] {
        assert_eq!(text.parse::<Rate>(), Err(InvalidRate), "{text:?}");
    }
    assert_eq!("15min".parse(), Ok(Period { count: 15, unit: Unit::Minute }));
    assert_eq!("1month".parse(), Ok(Period { count: 1, unit: Unit::Month }));
    for text in
        ["", "1", "min", "1m", "0d", "-1d", "1h30min", "1 d", "1000000000w", "9999year", "99999999999s"]
    {
        assert_eq!(text.parse::<Period>(), Err(InvalidPeriod), "{text:?}");
    }
}

fn windows() -> impl Strategy<Value = (Window, Duration)> {
    let length = (1_u64..5000).prop_map(Duration::from_millis);
    prop_oneof![
        length.clone().prop_map(|length| (Window::Fixed { length, start: None }, length)),
        length.clone().prop_map(|length| (Window::Fixed { length, start: Some(12_345) }, length)),
        length.clone().prop_map(|length| (Window::Flexi { length }, length)),
        length.prop_map(|length| (Window::Rolling { length }, length)),
        (1_u32..4).prop_map(|count| {
            (Window::Calendar { unit: Unit::Second, count, utc_offset: 0 }, seconds(count.into()))
        }),
    ]
}

proptest! {
    #[test]
    fn no_more_than_the_limit_passes_in_any_window(
        (window, length) in windows(),
        limit in 1_u64..20,
        steps in prop::collection::vec((0_u64..400, 1_u64..4), 1..300),
    ) {
        let desk = Desk::of_product(quota(limit, window));
        let mut now = at("2026-03-01T10:00:00Z");
        let mut passed: Vec<(u64, u64)> = Vec::new();
        for (millis, weight) in steps {
            now = now + Duration::from_millis(millis);
            if desk.ledger.charge(&desk.bill(weight), now).is_ok() {
                passed.push((now.unix_nanos(), weight));
            }
        }
        let nanos = u64::try_from(length.as_nanos()).unwrap();
        let first = passed.first().map_or(0, |(at, _)| *at);
        let in_window = |from: u64, to: u64| -> u64 {
            passed.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, weight)| weight).sum()
        };
        let mut flexi_opens = 0;
        for &(at, _) in &passed {
            let start = match window {
                Window::Rolling { .. } => at,
                Window::Flexi { .. } => {
                    if at >= flexi_opens + nanos {
                        flexi_opens = at;
                    }
                    flexi_opens
                }
                Window::Fixed { start: None, .. } => first + (at - first) / nanos * nanos,
                Window::Fixed { start: Some(start), .. } => start + (at - start) / nanos * nanos,
                Window::Calendar { .. } => at / nanos * nanos,
            };
            prop_assert!(in_window(start, start + nanos) <= limit, "{window:?} from {start}");
        }
    }

    #[test]
    fn a_refused_caller_that_waits_as_told_is_let_in(
        (window, _) in windows(),
        limit in 1_u64..10,
        rate in 1_u32..100,
        steps in prop::collection::vec(0_u64..100, 1..100),
    ) {
        let pace = Spike::new(format!("{rate}/s").parse().unwrap(), 2);
        let desk = Desk::of_product(Limits { spike: Some(pace), ..quota(limit, window) });
        let mut now = at("2026-03-01T10:00:00Z");
        for millis in steps {
            now = now + Duration::from_millis(millis);
            if let Err(refused) = desk.charge(now) {
                prop_assert!(refused.retry_after > Duration::ZERO);
                now = now + refused.retry_after;
                prop_assert!(desk.charge(now).is_ok(), "{:?} {:?}", window, refused);
            }
        }
    }

    #[test]
    fn a_pace_keeps_its_distance(
        rate in 1_u32..50,
        burst in 0_u32..5,
        steps in prop::collection::vec((0_u64..200, 1_u64..4), 1..300),
    ) {
        let pace = Spike::new(format!("{rate}/s").parse().unwrap(), burst);
        let desk = Desk::of_product(Limits { quota: None, spike: Some(pace) });
        let mut now = at("2026-03-01T10:00:00Z");
        let mut passed: Vec<(u64, u64)> = Vec::new();
        for (millis, weight) in steps {
            now = now + Duration::from_millis(millis);
            if desk.ledger.charge(&desk.bill(weight), now).is_ok() {
                passed.push((now.unix_nanos(), weight));
            }
        }
        let interval = u64::try_from(pace.interval().as_nanos()).unwrap();
        for (first, &(from, _)) in passed.iter().enumerate() {
            let mut sum = 0;
            for &(to, weight) in &passed[first..] {
                // All that came before this one, and of this one no more than may come at once.
                let counted = sum + weight.min(pace.at_once());
                let earned = (to - from) / interval + pace.at_once();
                prop_assert!(counted <= earned, "{counted} in {} ns", to - from);
                sum += weight;
            }
        }
    }
}

/// Two processes that count the same.
fn pair(limits: &Limits) -> [Desk; 2] {
    [(); 2].map(|()| Desk::of_product(limits.clone()))
}

#[test]
fn what_is_charged_is_told_to_whoever_listens_and_only_for_so_long() {
    let [here, there] = pair(&quota(3, calendar(Unit::Hour)));
    let (now, told) = (at("2026-03-01T00:00:00Z"), Told::default());
    here.charge(now).unwrap();

    let (echo, other) = (here.ledger.listen(), here.ledger.listen());
    here.charge(now).unwrap();
    let charges = echo.take(&told);
    assert_eq!((charges.len(), charges[0].scope(), charges[0].at), (1, Scope::Product(&here.product), now));
    assert!(echo.take(&told).is_empty(), "it is told once");
    assert_eq!(other.take(&told), charges, "and to everybody");

    let back = there.ledger.listen();
    there.ledger.add(&charges[0], &quota(3, calendar(Unit::Hour)), &[&back]);
    assert!(back.take(&told).is_empty(), "whoever has told of it knows");
    assert_eq!(there.charge(now).unwrap().iter().next().unwrap().remaining, 1);
    drop(echo);
    here.charge(now).unwrap();
    assert_eq!(other.take(&told).len(), 1);
}

#[test]
fn what_the_other_process_has_read_is_not_told_again() {
    let [here, there] = pair(&quota(9, calendar(Unit::Hour)));
    let now = at("2026-03-01T00:00:00Z");
    let echo = here.ledger.listen();
    here.charge(now).unwrap();

    let mut written = Vec::new();
    let told = here.ledger.tell_all(|record| written.push(record));
    here.charge(now).unwrap();

    assert!(written.iter().all(|record| there.ledger.restore(record)));
    let rest = echo.take(&told);
    assert_eq!(rest.len(), 1);
    rest.iter().for_each(|charge| there.ledger.add(charge, &quota(9, calendar(Unit::Hour)), &[]));
    assert_eq!(there.charge(now).unwrap().iter().next().unwrap().remaining, 6);
}

#[test]
fn two_processes_of_which_one_has_the_last_word_let_exactly_the_quota_pass() {
    const QUOTA: u64 = 500;
    let limits = quota(QUOTA, calendar(Unit::Year));
    let [elder, heir] = pair(&limits).map(Arc::new);
    let now = at("2026-03-01T00:00:00Z");
    let counter = Arc::clone(&heir);
    let listener = heir.ledger.listen();
    let ask: Arc<Ask> = Arc::new(move |charges| {
        assert_eq!(charges[0].scope(), Scope::Product(&counter.product));
        match counter.ledger.charge_for(&counter.bill(charges[0].weight), Some(&listener), charges[0].at) {
            Ok(_) => Some(Ruling::Charged),
            Err(no) => Some(Ruling::Refused { excess: no.excess, retry_after: no.retry_after }),
        }
    });
    elder.ledger.defer_to(Some(Arbiter { ask, echo: elder.ledger.listen() }));

    let passed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for desk in [&elder, &heir, &elder, &heir] {
            scope.spawn(|| {
                for _ in 0..QUOTA {
                    match desk.charge(now) {
                        Ok(_) => drop(passed.fetch_add(1, Ordering::Relaxed)),
                        Err(refused) => assert_eq!(refused.excess, Excess::Quota),
                    }
                }
            });
        }
    });

    assert_eq!(passed.load(Ordering::Relaxed), QUOTA);
}

#[test]
fn who_gets_no_answer_decides_alone() {
    let [desk, _] = pair(&quota(2, calendar(Unit::Hour)));
    let now = at("2026-03-01T00:00:00Z");
    let echo = desk.ledger.listen();
    desk.ledger.defer_to(Some(Arbiter { ask: Arc::new(|_| None), echo: echo.clone() }));

    assert!(desk.charge(now).is_ok() && desk.charge(now).is_ok() && desk.charge(now).is_err());
    assert_eq!(echo.take(&Told::default()).len(), 2, "and tells of it afterwards");
    desk.ledger.defer_to(None);
    assert!(desk.charge(now).is_err());
}
