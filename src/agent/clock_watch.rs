//! Notices that the clock was set, and that the machine has slept.
//!
//! The wall clock decides about certificates, the runtime's clock ends connections, and the time since boot stands between
//! them, for it goes on in sleep and nobody can set it. As long as the three keep step, a moment of the runtime's clock stands
//! for one moment of the day; once they do not, everything that was worked out from one of them has to be looked at again.
//!
//! The kernel says when the clock is set and when a sleep ends (`timerfd_create(2)`, `TFD_TIMER_CANCEL_ON_SET`). Where it does
//! not, or where the wall clock is another one, the three are compared often enough.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use crate::clock::{Clock, Timestamp};

/// How the three clocks have moved against each other.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Shift {
    /// The wall clock was set.
    pub(super) set: Option<Set>,
    /// The machine slept for that long.
    pub(super) slept: Option<Duration>,
}

/// A wall clock that was set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Set {
    /// By so much into the past.
    Back(Duration),
    /// By so much into the future.
    Forward(Duration),
}

impl Set {
    /// The word for it in metrics and logs.
    pub(super) const fn direction(self) -> &'static str {
        match self {
            Self::Back(_) => "back",
            Self::Forward(_) => "forward",
        }
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Back(by) | Self::Forward(by)) = self;
        write!(f, "{} by {:.1} s", self.direction(), by.as_secs_f64())
    }
}

/// Tells `found` of each shift, until nobody listens any more.
pub(super) async fn watch(clock: Arc<dyn Clock>, found: mpsc::Sender<Shift>) {
    let alarm = Alarm::set();
    let mut looking = tokio::time::interval(LOOK_EVERY);
    looking.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = Reading::take(&*clock);
    loop {
        tokio::select! {
            () = alarm.rung() => {}
            _ = looking.tick() => {}
        }
        let now = Reading::take(&*clock);
        let (Some(earlier), Some(later)) = (before, now) else {
            before = before.or(now);
            continue;
        };
        // The reading before stays until then, so that many small shifts are noticed as well.
        if let Some(shift) = earlier.shift_until(later) {
            before = now;
            if found.send(shift).await.is_err() {
                return;
            }
        }
    }
}

/// The three clocks are compared this often.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A smaller shift is none: no certificate is timed that closely.
const THRESHOLD: Duration = Duration::from_millis(500);

/// Readings that took longer than this say nothing: the process was stopped in between.
const ONE_MOMENT: Duration = Duration::from_millis(50);

/// All three clocks at one moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    wall: Timestamp,
    since_boot: Duration,
    runtime: Instant,
}

impl Reading {
    /// Reads them, or gives up when they cannot be read in one moment.
    fn take(clock: &dyn Clock) -> Option<Self> {
        let since_boot = clock.since_boot();
        let reading = Self { wall: clock.now(), since_boot, runtime: Instant::now() };
        (clock.since_boot().saturating_sub(since_boot) < ONE_MOMENT).then_some(reading)
    }

    fn shift_until(self, later: Self) -> Option<Shift> {
        let passed = later.since_boot.saturating_sub(self.since_boot);
        let expected = self.wall + passed;
        let (ahead, behind) = (later.wall.since(expected), expected.since(later.wall));
        let set = if ahead > THRESHOLD {
            Some(Set::Forward(ahead))
        } else {
            (behind > THRESHOLD).then_some(Set::Back(behind))
        };
        let slept = passed.saturating_sub(later.runtime.duration_since(self.runtime));
        let shift = Shift { set, slept: (slept > THRESHOLD).then_some(slept) };
        (shift != Shift::default()).then_some(shift)
    }
}

/// A timer that never rings of its own accord, but is cancelled by the kernel whenever the clock is set or a sleep ends.
struct Alarm(Option<AsyncFd<OwnedFd>>);

impl Alarm {
    #[expect(
        deprecated,
        reason = "what replaces it is unsafe; an owned descriptor is always the one that was registered"
    )]
    fn set() -> Self {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Realtime, flags).map_err(std::io::Error::from);
        let timer = timer.and_then(|timer| {
            arm(&timer)?;
            AsyncFd::with_interest(timer, Interest::READABLE)
        });
        match timer {
            Ok(timer) => Self(Some(timer)),
            Err(error) => {
                tracing::debug!(%error, "the kernel does not tell when the clock is set; it is only looked at often");
                Self(None)
            }
        }
    }

    /// Ends when the kernel says that the clock was set; never if it does not.
    async fn rung(&self) {
        let Some(timer) = &self.0 else { return std::future::pending().await };
        let Ok(mut ready) = timer.readable().await else { return std::future::pending().await };
        ready.clear_ready();
        // Setting it again clears what it rang for. If that fails, the comparison is still there.
        if let Err(error) = arm(timer.get_ref()) {
            tracing::debug!(%error, "the timer that tells when the clock is set cannot be set again");
        }
    }
}

fn arm(timer: &OwnedFd) -> std::io::Result<()> {
    let never = Timespec { tv_sec: i64::MAX, tv_nsec: 0 };
    let once = Itimerspec { it_interval: Timespec::default(), it_value: never };
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    timerfd_settime(timer, flags, &once)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    const HOUR: Duration = Duration::from_secs(3600);

    /// A clock that goes with the runtime's, which the test has paused.
    #[derive(Debug)]
    struct Machine {
        hands: ManualClock,
        started: Instant,
    }

    impl Machine {
        fn start() -> Arc<Self> {
            Arc::new(Self { hands: ManualClock::at(Timestamp::FLOOR + HOUR), started: Instant::now() })
        }
    }

    impl Clock for Machine {
        fn now(&self) -> Timestamp {
            self.hands.now() + self.started.elapsed()
        }

        fn since_boot(&self) -> Duration {
            self.hands.since_boot() + self.started.elapsed()
        }
    }

    async fn first(found: &mut mpsc::Receiver<Shift>, within: Duration) -> Option<Shift> {
        tokio::time::timeout(within, found.recv()).await.ok().flatten()
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_is_noticed_within_a_second_with_amount_and_direction() {
        let machine = Machine::start();
        let (sender, mut found) = mpsc::channel(4);
        tokio::spawn(watch(Arc::<Machine>::clone(&machine), sender));
        assert_eq!(first(&mut found, HOUR * 24).await, None, "a day in which nobody sets the clock");

        machine.hands.set(machine.hands.now() + HOUR);
        let forward = first(&mut found, Duration::from_secs(1)).await.unwrap();
        machine.hands.set(machine.hands.now() - HOUR);
        let back = first(&mut found, Duration::from_secs(1)).await.unwrap();

        assert_eq!(forward, Shift { set: Some(Set::Forward(HOUR)), slept: None });
        assert_eq!(back, Shift { set: Some(Set::Back(HOUR)), slept: None });
        assert_eq!(first(&mut found, HOUR).await, None, "each step is told once");
        assert_eq!(Set::Back(HOUR).to_string(), "back by 3600.0 s");
    }

    #[tokio::test(start_paused = true)]
    async fn sleep_is_told_from_a_clock_that_was_set() {
        let machine = Machine::start();
        let (sender, mut found) = mpsc::channel(4);
        tokio::spawn(watch(Arc::<Machine>::clone(&machine), sender));
        assert_eq!(first(&mut found, HOUR).await, None);

        machine.hands.advance(HOUR);

        let slept = first(&mut found, Duration::from_secs(1)).await.unwrap();
        assert_eq!(slept, Shift { set: None, slept: Some(HOUR) });
    }

    #[tokio::test(start_paused = true)]
    async fn small_steps_add_up_and_one_alone_is_none() {
        let machine = Machine::start();
        let (sender, mut found) = mpsc::channel(4);
        tokio::spawn(watch(Arc::<Machine>::clone(&machine), sender));
        assert_eq!(first(&mut found, HOUR).await, None);

        machine.hands.set(machine.hands.now() + Duration::from_millis(300));
        assert_eq!(first(&mut found, HOUR).await, None);
        machine.hands.set(machine.hands.now() + Duration::from_millis(300));

        let shift = first(&mut found, Duration::from_secs(1)).await.unwrap();
        assert_eq!(shift.set, Some(Set::Forward(Duration::from_millis(600))));
    }

    #[tokio::test]
    async fn the_kernels_alarm_can_be_set_and_does_not_ring_by_itself() {
        let alarm = Alarm::set();

        let rung = tokio::time::timeout(Duration::from_millis(100), alarm.rung()).await;

        assert!(alarm.0.is_some(), "every Linux has it");
        assert!(rung.is_err());
    }
}
