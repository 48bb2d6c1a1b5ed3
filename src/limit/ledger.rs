//! The ledger: all limits of a request are checked, and only if every one of them lets it pass, all are charged.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::account::{Account, Claim, Tally};
use super::arbiter::{Arbiter, Ruling, Seat};
use super::echo::{Charge, Echo, Echoes, Told};
use super::record::{Record, Use};
use super::rule::{Limits, Quota};
use super::spike::Spike;
use super::statement::{Entry, Excess, Measure, Scope, Standing, Statement};
use super::table::{Found, Table};
use super::window::{Count, Window};
use crate::clock::Timestamp;
use crate::id::AppId;

/// What every app has used of its limits. Shared by all threads; see [`Ledger::charge`].
#[derive(Debug, Default)]
pub struct Ledger {
    table: Table,
    echoes: Echoes,
    arbiter: Seat,
}

/// What a request is to be charged for.
#[derive(Clone, Copy, Debug)]
pub struct Bill<'a> {
    /// Who pays.
    pub app: &'a AppId,
    /// The limits that it meets: of the app, of the product, of the operation. In this order.
    pub lines: [Option<Line<'a>>; SCOPES],
    /// How much it counts.
    pub weight: u64,
}

/// App, product and operation.
const SCOPES: usize = 3;

/// The limits of one scope.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// What is counted together.
    pub scope: Scope<'a>,
    /// How much of it there may be.
    pub limits: &'a Limits,
}

/// It is too much. Boxed where it is returned: a yes must not carry it about, and only a yes must not allocate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Refused<'a> {
    /// What of.
    pub excess: Excess,
    /// When all of the limits might let it pass.
    pub retry_after: Duration,
    /// How they stand.
    pub statement: Statement<'a>,
}

impl Ledger {
    /// Charges all limits on the bill, or none of them. Exact, however many threads charge at once.
    ///
    /// # Errors
    /// At least one limit does not let it pass; nothing was charged.
    pub fn charge<'a>(&self, bill: &Bill<'a>, now: Timestamp) -> Result<Statement<'a>, Box<Refused<'a>>> {
        self.charge_for(bill, None, now)
    }

    /// As [`Ledger::charge`], for `asker`, who needs not be told of it.
    ///
    /// # Errors
    /// As there.
    pub fn charge_for<'a>(
        &self,
        bill: &Bill<'a>,
        asker: Option<&Echo>,
        now: Timestamp,
    ) -> Result<Statement<'a>, Box<Refused<'a>>> {
        if bill.lines.iter().all(Option::is_none) {
            return Ok(Statement::default());
        }
        let now = now.unix_nanos();
        let mut found = [None; SCOPES];
        for (found, line) in found.iter_mut().zip(&bill.lines) {
            if let Some(line) = line {
                let place = self.table.find_or_make(bill.app, &line.scope);
                *found = Some(place.ok_or_else(no_room)?);
            }
        }
        // Whoever is refused finds out without getting in the others' way.
        let outlook = appraise(bill, now, |at, line| {
            let account = found.get(at).copied().flatten().map(|found: Found<'_>| &found.named.account);
            account.map(|account| account.read(|account| View::of(account, line.limits, bill.weight, now)))
        })
        .inspect_err(|_| mend(&found, bill, now))?;
        if let Some(arbiter) = self.arbiter.arbiter()
            && let Some(ruling) = (arbiter.ask)(&charges(bill, &[Some(0); SCOPES], now))
        {
            return self.abide_by(ruling, bill, outlook, (&arbiter.echo, asker), now);
        }
        let mut claims = found.map(|found: Option<Found<'_>>| found.map(|found| found.named.account.claim()));
        let statement = appraise(bill, now, |at, line| {
            let claim = claims.get(at).and_then(Option::as_ref);
            claim.map(|claim| View::of(claim.account(), line.limits, bill.weight, now))
        })?;
        for (claim, line) in claims.iter_mut().zip(&bill.lines) {
            if let (Some(claim), Some(line)) = (claim, line) {
                settle(claim, line.limits, bill.weight, now);
            }
        }
        let versions = claims.map(|claim| claim.map(Claim::release));
        for found in found.into_iter().flatten() {
            found.note_change();
        }
        if self.echoes.are_wanted() {
            self.echoes.tell(&charges(bill, &versions, now), asker.as_slice());
        }
        Ok(statement)
    }

    /// Does here what another process has decided.
    fn abide_by<'a>(
        &self,
        ruling: Ruling,
        bill: &Bill<'a>,
        outlook: Statement<'a>,
        (ruler, asker): (&Echo, Option<&Echo>),
        now: u64,
    ) -> Result<Statement<'a>, Box<Refused<'a>>> {
        match ruling {
            Ruling::Charged => {
                let informed: Vec<&Echo> = std::iter::once(ruler).chain(asker).collect();
                let scoped = charges(bill, &[Some(0); SCOPES], now);
                for (charge, line) in scoped.iter().zip(bill.lines.iter().flatten()) {
                    self.add(charge, line.limits, &informed);
                }
                Ok(outlook)
            }
            Ruling::Refused { excess, retry_after } => {
                Err(Box::new(Refused { excess, retry_after, statement: outlook }))
            }
        }
    }

    /// Lets another process have the last word from now on, as far as it answers; or nobody any more.
    pub fn defer_to(&self, arbiter: Option<Arbiter>) {
        self.arbiter.put(arbiter);
    }

    /// Hears of every charge from now on, for another process that counts the same.
    pub fn listen(&self) -> Echo {
        self.echoes.listen()
    }

    /// Charges what another process has let pass, whether there was room for it or not. `limits` are those of its scope. Whoever
    /// listens hears of it, but for those who know.
    pub fn add(&self, charge: &Charge, limits: &Limits, informed: &[&Echo]) {
        let Some(found) = self.table.find_or_make(&charge.app, &charge.scope()) else { return };
        let (mut claim, now) = (found.named.account.claim(), charge.at.unix_nanos());
        if let Some(quota) = &limits.quota {
            claim.charge(quota, charge.weight, now);
        }
        if let Some(spike) = &limits.spike {
            claim.set_pace(claim.account().pace().passed(spike, charge.weight, now));
        }
        let version = claim.release();
        found.note_change();
        let charge = Charge::new(&charge.app, &charge.scope(), charge.weight, charge.at, version);
        self.echoes.tell(&[charge], informed);
    }

    /// Hands `take` everything, and says what is known by that.
    pub fn tell_all(&self, mut take: impl FnMut(Record)) -> Told {
        let mut told = Told::default();
        for named in self.table.iter() {
            let (record, version) = Record::of(named);
            told.note(&named.key, version);
            take(record);
        }
        told
    }

    /// What [`Ledger::charge`] would say, without charging anything.
    ///
    /// # Errors
    /// As there.
    pub fn look<'a>(&self, bill: &Bill<'a>, now: Timestamp) -> Result<Statement<'a>, Box<Refused<'a>>> {
        let now = now.unix_nanos();
        let untouched = Account::default();
        appraise(bill, now, |_, line| {
            let found = self.table.find(bill.app, &line.scope);
            let account = found.as_ref().map_or(&untouched, |found| &found.named.account);
            Some(account.read(|account| View::of(account, line.limits, bill.weight, now)))
        })
    }

    /// Hands `take` what has changed since the last time.
    pub fn take_changed(&self, mut take: impl FnMut(Record)) {
        for named in self.table.take_changed() {
            if named.account.version() == named.saved.load(Ordering::Relaxed) {
                continue;
            }
            let (record, version) = Record::of(named);
            named.saved.store(version, Ordering::Relaxed);
            take(record);
        }
    }

    /// Takes up what an earlier process has written down; false when there is no room for it.
    #[must_use]
    pub fn restore(&self, record: &Record) -> bool {
        let scope = match (&record.product, &record.operation) {
            (Some(product), Some(operation)) => Scope::Operation(product, operation),
            (Some(product), None) => Scope::Product(product),
            (None, _) => Scope::App(&record.app),
        };
        self.table.prepare();
        let Some(found) = self.table.find_or_make(&record.app, &scope) else { return false };
        record.put_into(&found.named.account);
        found.named.saved.store(found.named.account.version(), Ordering::Relaxed);
        true
    }

    /// Makes room before it is needed. For the control plane, from time to time.
    pub fn prepare(&self) {
        self.table.prepare();
    }

    /// How many accounts there are.
    #[must_use]
    pub fn accounts(&self) -> usize {
        self.table.count()
    }

    /// The quotas that are counted now, in no order.
    #[must_use]
    pub fn uses(&self, now: Timestamp) -> Vec<Use> {
        let at = now.unix_nanos();
        let running = self.table.iter().filter_map(|named| {
            let count: Count = named.account.read(Account::count);
            (count.used > 0 && at < count.end).then(|| Use {
                app: named.key.app.clone(),
                product: named.key.product.clone(),
                operation: named.key.operation.clone(),
                used: count.used,
                ends: Timestamp::from_unix_nanos(count.end),
            })
        });
        running.collect()
    }
}

/// What was charged, account by account.
fn charges(bill: &Bill<'_>, versions: &[Option<u64>; SCOPES], now: u64) -> Vec<Charge> {
    let charged = bill.lines.iter().zip(versions);
    let charged = charged.filter_map(|(line, version)| Some((line.as_ref()?, (*version)?)));
    let at = Timestamp::from_unix_nanos(now);
    charged.map(|(line, version)| Charge::new(bill.app, &line.scope, bill.weight, at, version)).collect()
}

/// Brings accounts that were written under another clock to this one.
fn mend(found: &[Option<Found<'_>>], bill: &Bill<'_>, now: u64) {
    for (found, line) in found.iter().zip(&bill.lines) {
        if let (Some(found), Some(line)) = (found, line)
            && found.named.account.is_ahead(now)
        {
            found.named.account.claim().mend(line.limits, now);
            found.note_change();
        }
    }
}

fn no_room<'a>() -> Box<Refused<'a>> {
    Box::new(Refused { excess: Excess::NoRoom, retry_after: NO_ROOM, statement: Statement::default() })
}

/// There is no telling when there will be room; somebody has to restart the agent.
const NO_ROOM: Duration = Duration::from_secs(60);

/// What is read of an account.
struct View {
    tally: Option<Tally>,
    pace: super::spike::Pace,
}

impl View {
    fn of(account: &Account, limits: &Limits, weight: u64, now: u64) -> Self {
        let tally = limits.quota.as_ref().map(|quota| account.tally(quota, weight, now));
        Self { tally, pace: account.pace() }
    }
}

/// Holds the bill against all accounts, as `view` sees them.
fn appraise<'a>(
    bill: &Bill<'a>,
    now: u64,
    view: impl Fn(usize, &Line<'a>) -> Option<View>,
) -> Result<Statement<'a>, Box<Refused<'a>>> {
    let mut statement = Statement::default();
    let mut excess = None;
    let mut wait = 0;
    for (at, line) in bill.lines.iter().enumerate() {
        let Some(line) = line else { continue };
        let Some(view) = view(at, line) else { continue };
        if let (Some(quota), Some(tally)) = (&line.limits.quota, &view.tally) {
            let (entry, opens) = quota_entry(line.scope, quota, tally, bill.weight, now);
            if entry.standing == Standing::Exceeded {
                wait = wait.max(opens);
                excess = Some(Excess::Quota);
            }
            statement.push(entry);
        }
        if let Some(spike) = &line.limits.spike {
            let (entry, opens) = spike_entry(line.scope, spike, view.pace, bill.weight, now);
            if entry.standing == Standing::Exceeded {
                wait = wait.max(opens);
                excess = excess.or(Some(Excess::Spike));
            }
            statement.push(entry);
        }
    }
    match excess {
        None => Ok(statement),
        Some(excess) => {
            let retry_after = Duration::from_nanos(wait);
            Err(Box::new(Refused { excess, retry_after, statement }))
        }
    }
}

/// How a quota stands before the request if it is refused and behind it if not, and how long it stays closed.
fn quota_entry<'a>(
    scope: Scope<'a>,
    quota: &Quota,
    tally: &Tally,
    weight: u64,
    now: u64,
) -> (Entry<'a>, u64) {
    let count = tally.count();
    let left = quota.limit().saturating_sub(count.used);
    let within = weight <= left;
    let opens = match (tally, quota.window()) {
        (Tally::Rolling(steps), Window::Rolling { length }) if !within => {
            steps.down_to(*length, quota.limit().saturating_sub(weight))
        }
        (Tally::Plain(_) | Tally::Rolling(_) | Tally::Step(_), _) => count.end,
    };
    let window = match quota.window() {
        Window::Calendar { .. } => Duration::from_nanos(count.end.saturating_sub(count.start)),
        Window::Fixed { length, .. } | Window::Flexi { length } | Window::Rolling { length } => *length,
    };
    let opens = opens.saturating_sub(now);
    let entry = Entry {
        scope,
        measure: Measure::Quota,
        standing: if within { Standing::Within } else { Standing::Exceeded },
        limit: quota.limit(),
        window,
        remaining: if within { left - weight } else { left },
        resets: Duration::from_nanos(opens),
    };
    (entry, opens)
}

fn spike_entry<'a>(
    scope: Scope<'a>,
    spike: &Spike,
    pace: super::spike::Pace,
    weight: u64,
    now: u64,
) -> (Entry<'a>, u64) {
    let (standing, pace, opens) = match pace.pass(spike, weight, now) {
        Ok(next) => (Standing::Within, next, next.rests(now)),
        Err(wait) => (Standing::Exceeded, pace, wait),
    };
    let at_once = spike.at_once();
    let window = spike.interval().saturating_mul(u32::try_from(at_once).unwrap_or(u32::MAX));
    let remaining = pace.room(spike, now);
    let resets = Duration::from_nanos(opens);
    (Entry { scope, measure: Measure::Spike, standing, limit: at_once, window, remaining, resets }, opens)
}

/// Writes what [`appraise`] has found to be allowed.
fn settle(claim: &mut Claim<'_>, limits: &Limits, weight: u64, now: u64) {
    if let Some(quota) = &limits.quota {
        claim.charge(quota, weight, now);
    }
    if let Some(spike) = &limits.spike
        && let Ok(pace) = claim.account().pace().pass(spike, weight, now)
    {
        claim.set_pace(pace);
    }
}
