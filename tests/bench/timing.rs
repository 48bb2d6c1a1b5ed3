//! How the benches measure: by the processor time of their thread, in rounds of which the median counts.

use std::time::Duration;

/// What one call takes in a row of `times`, in microseconds.
#[expect(clippy::allow_attributes, reason = "an expectation would not hold in the benches that use it")]
#[allow(dead_code, reason = "each bench uses its part")]
pub(crate) fn per_call(times: u32, mut call: impl FnMut()) -> f64 {
    let begun = processor_time();
    for _ in 0..times {
        call();
    }
    (processor_time() - begun).as_secs_f64() * 1e6 / f64::from(times)
}

/// The median of so many rounds.
#[expect(clippy::allow_attributes, reason = "an expectation would not hold in the benches that use it")]
#[allow(dead_code, reason = "each bench uses its part")]
pub(crate) fn median(rounds: usize, mut round: impl FnMut() -> f64) -> f64 {
    let mut figures: Vec<f64> = (0..rounds).map(|_| round()).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(rounds / 2).copied().unwrap_or(f64::NAN)
}

/// What this thread has had of a processor; others may be busy, too.
pub(crate) fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let spent = text.split(' ').next().and_then(|nanoseconds| nanoseconds.parse().ok());
    Duration::from_nanos(spent.unwrap_or_default())
}

/// Memory of this process, in bytes.
#[expect(clippy::allow_attributes, reason = "an expectation would not hold in the benches that use it")]
#[allow(dead_code, reason = "each bench uses its part")]
pub(crate) fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or_default() * 4096
}
