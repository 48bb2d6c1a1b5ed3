//! What two agents that serve at the same time let each other know of what apps use, and which of them decides.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use crate::causes::Causes;
use crate::limit::{Arbiter, Bill, Charge, Echo, Ledger, Limits, Line, Ruling, Scope, Told};
use crate::proxy::Current;
use crate::registry;
use crate::store::courier::{Courier, CourierError};
use crate::telemetry::{UsageBook, UsageRow};

/// What two agents count together.
#[derive(Clone, Debug)]
pub(super) struct Accounts {
    pub(super) ledger: Arc<Ledger>,
    pub(super) usage: Arc<Mutex<UsageBook>>,
    pub(super) current: Current,
}

/// What two agents let each other know.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    accounts: Accounts,
    echo: Echo,
    /// What the other one knows from the disk.
    told: Arc<Told>,
}

impl Exchange {
    /// Between whoever keeps `accounts` and one who knows of nothing but what `echo` has heard.
    pub(super) fn new(accounts: Accounts, echo: Echo) -> Self {
        Self { accounts, echo, told: Arc::default() }
    }

    /// Between the same, when the other one knows what is on the disk.
    pub(super) fn behind(self, told: Told) -> Self {
        Self { told: Arc::new(told), ..self }
    }

    /// What was charged here since the last time, as far as the other one does not know it.
    pub(super) fn charges(&self) -> Vec<Charge> {
        self.echo.take(&self.told)
    }

    /// What was used here since the last time, which is forgotten here.
    pub(super) fn rows(&self) -> Vec<UsageRow> {
        self.accounts.usage.lock().unwrap_or_else(PoisonError::into_inner).take_rows()
    }

    /// Adds what the other one has let pass.
    pub(super) fn add(&self, used: Used) {
        let registry = Arc::clone(&self.accounts.current.load().registry);
        for charge in &used.charges {
            if let Some(limits) = limits(&registry, charge) {
                self.accounts.ledger.add(charge, &limits, &[&self.echo]);
            }
        }
        let mut book = self.accounts.usage.lock().unwrap_or_else(PoisonError::into_inner);
        used.rows.into_iter().for_each(|row| book.add_row(row));
    }

    /// Lets the other one have the last word from now on.
    pub(super) fn defer_to(&self, questions: Questions) {
        let ask = Arc::new(move |charges: &[Charge]| questions.ask(charges));
        self.accounts.ledger.defer_to(Some(Arbiter { ask, echo: self.echo.clone() }));
    }

    /// Charges what the other one wants to let pass, if there is room for it.
    pub(super) fn rule(&self, charges: &[Charge]) -> Ruling {
        let registry = Arc::clone(&self.accounts.current.load().registry);
        let Some(Charge { app, weight, at, .. }) = charges.first() else { return Ruling::Charged };
        let limits: Vec<_> = charges.iter().map(|charge| limits(&registry, charge)).collect();
        let mut lines = [None; 3];
        for (charge, limits) in charges.iter().zip(&limits) {
            let scope = charge.scope();
            let [of_app, of_product, of_operation] = &mut lines;
            let line = match scope {
                Scope::App(_) => of_app,
                Scope::Product(_) => of_product,
                Scope::Operation(..) => of_operation,
            };
            *line = limits.as_ref().map(|limits| Line { scope, limits });
        }
        match self.accounts.ledger.charge_for(&Bill { app, lines, weight: *weight }, Some(&self.echo), *at) {
            Ok(_) => Ruling::Charged,
            Err(refused) => Ruling::Refused { excess: refused.excess, retry_after: refused.retry_after },
        }
    }
}

/// Where the elder asks the heir.
#[derive(Debug)]
pub(super) struct Questions {
    courier: Mutex<Courier>,
    /// Whether one was not answered, after which none is asked: its answer could be taken for that of another.
    broken: AtomicBool,
}

impl Questions {
    /// A way to ask, and the other end of it.
    ///
    /// # Errors
    /// The system gives none.
    pub(super) fn open() -> Result<(Self, OwnedFd), CourierError> {
        let fail = |source| CourierError::Io { step: "open a socket for", source };
        let (ours, theirs) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).map_err(fail)?;
        let courier = Courier::over(ours.into())?;
        courier.be_patient(ANSWER_PATIENCE)?;
        Ok((Self { courier: Mutex::new(courier), broken: AtomicBool::new(false) }, theirs.into()))
    }

    /// Whether `charges` may be charged; nothing when nobody answers.
    fn ask(&self, charges: &[Charge]) -> Option<Ruling> {
        let courier = self.courier.lock().unwrap_or_else(PoisonError::into_inner);
        if self.broken.load(Ordering::Relaxed) {
            return None;
        }
        match courier.send(&charges, &[]).and_then(|()| courier.receive()) {
            Ok((ruling, _)) => Some(ruling),
            Err(error) => {
                self.broken.store(true, Ordering::Relaxed);
                tracing::error!(error = %Causes(&error), "the next agent does not say what may be charged; it is counted here");
                None
            }
        }
    }
}

/// The limits of what was charged, as they are here.
fn limits(registry: &registry::Snapshot, charge: &Charge) -> Option<Limits> {
    let limits = match charge.scope() {
        Scope::App(app) => registry.app(app.as_str())?.limits.clone(),
        Scope::Operation(product, operation) => {
            let product = registry.product(product.as_str())?;
            product.operations.iter().find(|one| one.id.as_ref() == Some(operation))?.limits.clone()
        }
        Scope::Product(product) => registry.product(product.as_str())?.limits.clone(),
    };
    limits.map(|limits| *limits)
}

/// What the other one has let pass.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Used {
    pub(super) charges: Vec<Charge>,
    pub(super) rows: Vec<UsageRow>,
}

/// Whether something may be charged is answered within this time, or not at all.
const ANSWER_PATIENCE: Duration = Duration::from_millis(250);
