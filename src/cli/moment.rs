//! Times and numbers for people: when, how far that is from now, and how many.

use std::time::Duration;

use crate::clock::Timestamp;

/// `2026-01-01T00:00:00Z (in 42 min)`.
pub(super) fn moment(at: Timestamp, now: Timestamp) -> String {
    format!("{at} ({})", relative(at, now))
}

/// `in 42 min`, `3 h 5 min ago`, `now`.
pub(super) fn relative(at: Timestamp, now: Timestamp) -> String {
    let (ahead, behind) = (at.since(now), now.since(at));
    if ahead.as_secs() > 0 {
        format!("in {}", span(ahead))
    } else if behind.as_secs() > 0 {
        format!("{} ago", span(behind))
    } else {
        "now".to_owned()
    }
}

/// The two greatest units: `6 d 23 h`, `59 min 3 s`.
pub(super) fn span(span: Duration) -> String {
    let mut seconds = span.as_secs();
    let mut parts = Vec::new();
    for (unit, length) in [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)] {
        let count = seconds / length;
        seconds %= length;
        if count > 0 {
            parts.push(format!("{count} {unit}"));
        }
        // The second unit is the one below the first, or none: `3 d`, not `3 d 5 s`.
        if !parts.is_empty() && (parts.len() == 2 || count == 0) {
            break;
        }
    }
    if parts.is_empty() { "0 s".to_owned() } else { parts.join(" ") }
}

/// `1 app`, `2 apps`.
pub(super) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_at_most_two_units_side_by_side() {
        let words = |seconds| span(Duration::from_secs(seconds));

        assert_eq!(words(0), "0 s");
        assert_eq!(words(59), "59 s");
        assert_eq!(words(3_543), "59 min 3 s");
        assert_eq!(words(86_400 * 3 + 5), "3 d");
        assert_eq!(words(86_400 * 6 + 3_600 * 23 + 59), "6 d 23 h");
    }

    #[test]
    fn one_thing_is_no_plural() {
        assert_eq!([0, 1, 2].map(|number| count(number, "app")), ["0 apps", "1 app", "2 apps"]);
    }

    #[test]
    fn a_moment_lies_ahead_behind_or_is_now() {
        let now: Timestamp = "2026-06-01T12:00:00Z".parse().unwrap();
        let hour = Duration::from_secs(3600);

        assert_eq!(moment(now + hour, now), "2026-06-01T13:00:00Z (in 1 h)");
        assert_eq!(moment(now - hour, now), "2026-06-01T11:00:00Z (1 h ago)");
        assert_eq!(relative(now, now), "now");
    }
}
