//! What a yes costs: the limits of app, product and operation, and a place at the service.

use std::sync::Arc;
use std::time::Duration;

use crate::authz::{Denial, Terms};
use crate::clock::Timestamp;
use crate::limit::{Bill, Excess, Inflight, Ledger, Line, Refused, Scope, Seat, Statement};

/// How a decision is paid for.
#[derive(Clone, Copy, Debug)]
pub enum Toll<'l> {
    /// It is charged, or it is a no.
    Charge(Till<'l>),
    /// It is only asked whether it would be.
    Look(Till<'l>),
    /// It was paid for when the connection was let in.
    Paid,
}

/// Where it is paid.
#[derive(Clone, Copy, Debug)]
pub struct Till<'l> {
    /// What every app has used.
    pub ledger: &'l Ledger,
    /// How many the service is given at a time, if that is limited.
    pub service: Option<&'l Arc<Inflight>>,
}

/// What is short: the decision was yes, but there is nothing left of it now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shortage<'s> {
    /// What the caller is told.
    pub denial: Denial,
    /// When it may ask again.
    pub retry_after: Duration,
    /// How the limits stand.
    pub statement: Statement<'s>,
}

/// What was paid: how the limits stand now, and the place at the service.
pub(super) type Receipt<'s> = (Statement<'s>, Option<Seat>);

impl Toll<'_> {
    /// Pays for `terms`: everything or, when anything is short, nothing.
    pub(super) fn pay<'s>(
        &self,
        terms: &Terms<'s>,
        now: Timestamp,
    ) -> Result<Receipt<'s>, Box<Shortage<'s>>> {
        let priority = terms.app.priority;
        match *self {
            Self::Paid => Ok((Statement::default(), None)),
            Self::Look(Till { ledger, service }) => {
                let statement = ledger.look(&bill(terms), now).map_err(short)?;
                match service {
                    Some(service) if !service.has_room(priority) => Err(overloaded(statement)),
                    Some(_) | None => Ok((statement, None)),
                }
            }
            Self::Charge(Till { ledger, service }) => {
                let seat = match service {
                    None => None,
                    Some(service) => match service.enter(priority) {
                        Some(seat) => Some(seat),
                        // A quota that is used up is the better reason; but nobody pays for being turned away.
                        None => {
                            let statement = ledger.look(&bill(terms), now).map_err(short)?;
                            return Err(overloaded(statement));
                        }
                    },
                };
                let statement = ledger.charge(&bill(terms), now).map_err(short)?;
                Ok((statement, seat))
            }
        }
    }
}

/// What `terms` are charged for.
fn bill<'s>(terms: &Terms<'s>) -> Bill<'s> {
    let Terms { app, product, operation, .. } = *terms;
    let line = |scope, limits: &'s Option<Box<_>>| limits.as_deref().map(|limits| Line { scope, limits });
    let by_operation = operation.id.as_ref().map(|id| Scope::Operation(&product.id, id));
    Bill {
        app: &app.id,
        lines: [
            line(Scope::App(&app.id), &app.limits),
            line(Scope::Product(&product.id), &product.limits),
            by_operation.and_then(|scope| line(scope, &operation.limits)),
        ],
        weight: u64::from(operation.weight),
    }
}

fn short(refused: Box<Refused<'_>>) -> Box<Shortage<'_>> {
    let Refused { excess, retry_after, statement } = *refused;
    let denial = match excess {
        Excess::NoRoom => Denial::QuotaUnavailable,
        Excess::Quota => Denial::QuotaExceeded,
        Excess::Spike => Denial::SpikeArrested,
    };
    Box::new(Shortage { denial, retry_after, statement })
}

/// A service at its limit is as fast as it can be, so a place is free again soon.
const SOON: Duration = Duration::from_secs(1);

fn overloaded(statement: Statement<'_>) -> Box<Shortage<'_>> {
    Box::new(Shortage { denial: Denial::Overloaded, retry_after: SOON, statement })
}
