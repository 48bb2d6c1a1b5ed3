//! Whether a request body comes too slowly to be waited for.
//!
//! Only the time counts in which the caller is waited for: a service that takes its time to read is no fault of the caller's.

use std::time::Duration;

use tokio::time::Instant;

use super::settings::Limits;

/// The body comes more slowly than it may.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct TooSlow;

/// What the caller is doing about its body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Waiting {
    /// We wait for it.
    ForCaller,
    /// It has sent what could be taken.
    ForOthers,
}

/// How fast a body comes.
#[derive(Debug)]
pub(super) struct Drip {
    /// Bytes a second, and over how long a wait.
    rule: Option<(u64, Duration)>,
    /// When the wait under way began.
    since: Option<Instant>,
    waited: Duration,
    /// Bytes that came before the present span.
    before: u64,
    begun: bool,
}

impl Drip {
    /// Nothing has come yet.
    pub(super) fn new(limits: &Limits) -> Self {
        let rule = limits.body_rate.map(|rate| (rate, limits.body_window));
        Self { rule, since: None, waited: Duration::ZERO, before: 0, begun: false }
    }

    /// One that is never too slow.
    pub(super) const fn patient() -> Self {
        Self { rule: None, since: None, waited: Duration::ZERO, before: 0, begun: false }
    }

    /// The caller has no reason to hold its body back.
    pub(super) const fn begin(&mut self) {
        self.begun = true;
    }

    /// Whether it goes on fast enough, now that `moved` bytes have come in all; and how long it may be silent now.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn look(&mut self, waiting: Waiting, moved: u64) -> Result<Option<Duration>, TooSlow> {
        let Some((rate, window)) = self.rule else { return Ok(None) };
        self.begun |= moved > 0;
        if !self.begun {
            return Ok(None);
        }
        let now = Instant::now();
        self.waited += self.since.take().map_or(Duration::ZERO, |since| now - since);
        if self.waited >= window {
            let came = u128::from(moved - self.before) * 1000;
            if came < u128::from(rate) * self.waited.as_millis() {
                return Err(TooSlow);
            }
            (self.before, self.waited) = (moved, Duration::ZERO);
        }
        if waiting == Waiting::ForOthers {
            return Ok(None);
        }
        self.since = Some(now);
        Ok(Some(window))
    }

    /// Whether the caller is waited for.
    pub(super) const fn waits(&self) -> bool {
        self.since.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drip() -> Drip {
        Drip::new(&Limits { body_rate: Some(500), body_window: Duration::from_secs(10), ..Limits::default() })
    }

    /// What comes of a body of which so many bytes come each second.
    async fn after_a_minute(drip: &mut Drip, waiting: Waiting, bytes: u64) -> Result<(), u64> {
        for second in 0..60 {
            drip.look(waiting, 1 + second * bytes).map_err(|TooSlow| second)?;
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_is_given_up_after_the_window() {
        assert_eq!(after_a_minute(&mut drip(), Waiting::ForCaller, 1).await, Err(10));
        assert_eq!(after_a_minute(&mut drip(), Waiting::ForCaller, 499).await, Err(10));
        assert_eq!(after_a_minute(&mut drip(), Waiting::ForCaller, 501).await, Ok(()));
        assert_eq!(after_a_minute(&mut Drip::patient(), Waiting::ForCaller, 1).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn only_waiting_for_the_caller_counts() {
        assert_eq!(after_a_minute(&mut drip(), Waiting::ForOthers, 1).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_waits_to_be_asked_is_not_slow() {
        let mut drip = drip();
        for _ in 0..60 {
            assert_eq!(drip.look(Waiting::ForCaller, 0), Ok(None));
            tokio::time::advance(Duration::from_secs(1)).await;
        }

        drip.begin();

        assert_eq!(drip.look(Waiting::ForCaller, 0), Ok(Some(Duration::from_secs(10))));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(drip.look(Waiting::ForCaller, 10), Err(TooSlow));
    }
}
