//! Reading `quota`, `spike` and `weight`.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::limit::{Limits, Period, Priority, Quota, QuotaKind, Spike, Window};
use crate::toml_text::{TableReader, Value};

/// `quota` and `spike` of a product, an operation or an app, if it has any.
pub(super) fn limits(table: &mut TableReader<'_>) -> Option<Box<Limits>> {
    let limits =
        Limits { quota: table.table("quota").and_then(quota), spike: table.table("spike").and_then(spike) };
    (limits != Limits::default()).then(|| Box::new(limits))
}

/// How much a request counts.
pub(super) fn weight(value: &Value<'_>) -> Option<u32> {
    value.integer(1..=1_000_000)
}

pub(super) fn priority(value: &Value<'_>) -> Option<Priority> {
    value.word(&[("low", Priority::Low), ("normal", Priority::Normal), ("high", Priority::High)])
}

fn quota(mut table: TableReader<'_>) -> Option<Quota> {
    let limit = table.required("limit", |value| value.integer(0..=MOST));
    let per: Option<Period> = table.required("per", Value::parse);
    let kind = table.optional("kind", |value| {
        value.word(&[
            ("calendar", QuotaKind::Calendar),
            ("fixed", QuotaKind::Fixed),
            ("flexi", QuotaKind::Flexi),
            ("rolling", QuotaKind::Rolling),
        ])
    });
    let kind_is_wrong = table.has("kind") && kind.is_none();
    let kind = kind.unwrap_or_default();
    let belongs = |value: &Value<'_>, only: QuotaKind, name: &str| {
        if kind != only && !kind_is_wrong {
            value.problem(format!("only a quota of kind `{name}` has one"));
        }
    };
    let utc_offset = table.optional("utc_offset", |value| {
        belongs(value, QuotaKind::Calendar, "calendar");
        value.convert(utc_offset)
    });
    let start = table.optional("start", |value| {
        belongs(value, QuotaKind::Fixed, "fixed");
        value.timestamp()
    });
    let window = per.and_then(|per| {
        let window = window(kind, per, utc_offset.unwrap_or(0), start);
        if window.is_none() {
            table.problem(
                "months and years differ in length: give `per` in days, or make the quota one of kind `calendar`",
            );
        }
        window
    });
    table.finish();
    Some(Quota::new(limit?, window?))
}

/// None when the period has no certain length and needs one.
fn window(kind: QuotaKind, per: Period, utc_offset: i32, start: Option<Timestamp>) -> Option<Window> {
    let length: Option<Duration> = per.length();
    Some(match kind {
        QuotaKind::Calendar => Window::Calendar { unit: per.unit, count: per.count, utc_offset },
        QuotaKind::Fixed => Window::Fixed { length: length?, start: start.map(Timestamp::unix_nanos) },
        QuotaKind::Flexi => Window::Flexi { length: length? },
        QuotaKind::Rolling => Window::Rolling { length: length? },
    })
}

/// `+02:00`, in seconds.
fn utc_offset(text: &str) -> Result<i32, &'static str> {
    let read = || {
        let sign = match text.get(..1)? {
            "+" => 1,
            "-" => -1,
            _ => return None,
        };
        let (hours, minutes) = text.get(1..)?.split_once(':')?;
        let number = |digits: &str, most: i32| {
            let plain = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse::<i32>().ok().filter(|number| plain && *number <= most)
        };
        Some(sign * (number(hours, 14)? * 3_600 + number(minutes, 59)? * 60))
    };
    read().ok_or("expected an offset from UTC such as \"+02:00\" or \"-05:30\"")
}

fn spike(mut table: TableReader<'_>) -> Option<Spike> {
    let rate = table.required("rate", Value::parse);
    let burst = table.optional("burst", |value| value.integer(0..=1_000_000)).unwrap_or(0);
    table.finish();
    Some(Spike::new(rate?, burst))
}

/// The greatest integer that a header field can state (RFC 9651 §3.3.1).
const MOST: u64 = 999_999_999_999_999;
