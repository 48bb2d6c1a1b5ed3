//! Keeps the keys that sign tokens and what was taken back: lets keys rotate by age, writes every step down before it is in
//! force, and hands each new state to the director, who publishes it and then tells whoever waits for it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use tokio::sync::mpsc;

use super::passage::Passage;
use super::troubles::{Trouble, Troubles};
use crate::causes::Causes;
use crate::clock::Clock;
use crate::config::Config;
use crate::credential::token::{KeyStatus, OwnIssuer, TokenTrust};
use crate::issuance::{TOKEN_ORDERS, TokenDesk, TokenOrder, TokenOrderError, TokenReply};
use crate::oauth::{
    KeyRing, KeyRules, KeySlot, KeyStep, KilledKey, SigningKey, SigningKeyError, TokenKey, Withdrawal,
    Withdrawals,
};
use crate::store::token_journal::{TokenJournal, TokenJournalError};
use crate::store::token_keys::{self, TokenKeysError};

/// Whether a key has come of age is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// So long is waited after one batch of withdrawals for the next, so that many of them cost one write.
const BATCH: Duration = Duration::from_millis(20);

/// So many looks pass after a failure before the next attempt.
const LOOKS_TO_REST: u32 = 10;

/// Keys and withdrawals at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct TokenState {
    pub(super) ring: Arc<KeyRing>,
    pub(super) withdrawals: Arc<Withdrawals>,
}

impl TokenState {
    /// By whose word tokens of our own are believed under `config`.
    pub(super) fn trust(&self, config: &Config) -> TokenTrust {
        let Some(settings) = &config.tokens else { return TokenTrust::default() };
        let issuer = settings.issuer.as_str();
        let own = OwnIssuer::new(issuer, settings.audiences.iter().cloned());
        let own = self.ring.keys.iter().fold(own, |own, TokenKey { key, slot, .. }| {
            let status = match *slot {
                KeySlot::Active { .. } | KeySlot::Prepared => KeyStatus::Current,
                KeySlot::Retired { until } => KeyStatus::Retired { until },
            };
            own.with_key(key.public().clone(), status)
        });
        let own = self
            .ring
            .killed
            .iter()
            .fold(own, |own, KilledKey { public, .. }| own.with_key(public.clone(), KeyStatus::Killed));
        TokenTrust::default().with_own(own).with_denied(self.withdrawals.denied(issuer))
    }
}

/// A state that is to be in force, and who waits for it.
#[derive(Debug)]
pub(super) struct TokenUpdate {
    pub(super) state: TokenState,
    pub(super) done: Vec<(TokenReply, Result<(), TokenOrderError>)>,
}

/// Why tokens cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeeperError {
    /// The withdrawals cannot be used.
    #[error(transparent)]
    Journal(#[from] TokenJournalError),
    /// The keys cannot be used.
    #[error(transparent)]
    Keys(#[from] TokenKeysError),
    /// The system gives no thread.
    #[error("cannot start the thread that keeps token keys")]
    Thread(#[source] io::Error),
}

/// What runs once the keeper was started.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) desk: TokenDesk,
    pub(super) state: TokenState,
    pub(super) updates: mpsc::Receiver<TokenUpdate>,
}

/// Takes up what an earlier process has left in `state_dir`, makes a key if there is to be one, and keeps both from now on.
///
/// # Errors
/// What is there cannot be used.
pub(super) fn start(
    state_dir: &Path,
    rules: Option<KeyRules>,
    clock: Arc<dyn Clock>,
    troubles: Arc<Troubles>,
) -> Result<Started, TokenKeeperError> {
    let ring = token_keys::load(state_dir)?;
    let (journal, found) = TokenJournal::open(state_dir, clock.now())?;
    let mut withdrawals = Withdrawals::default();
    for withdrawal in &found.withdrawals {
        if withdrawals.add(withdrawal).is_err() {
            // There was room when it was written, so this is another program's work.
            let all = Withdrawal::All { issued_until: clock.now().unix() };
            withdrawals.add(&all).unwrap_or_default();
        }
    }
    if let Some(aside) = found.damaged {
        let aside = aside.display();
        let told = format!(
            "token-withdrawals.journal was damaged, so every token that was issued before is refused; it is kept as {aside}"
        );
        tracing::error!("{told}");
        troubles.note(Trouble::TokenDamage, told);
    }
    withdrawals.forget(clock.now());
    let mut keeper = Keeper {
        state_dir: state_dir.to_owned(),
        rules,
        passage: Passage::begin(&*clock),
        clock,
        troubles,
        ring: Arc::new(ring),
        withdrawals,
        journal,
        unsaved: false,
        rest: 0,
        seen: None,
    };
    keeper.take_steps();
    let (orders, received) = sync_channel(TOKEN_ORDERS);
    let (sender, updates) = mpsc::channel(4);
    let state = keeper.state();
    let thread = std::thread::Builder::new().name("tokens".into());
    // It ends when the last desk is gone, or nobody takes its updates.
    drop(thread.spawn(move || keeper.run(&received, &sender)).map_err(TokenKeeperError::Thread)?);
    Ok(Started { desk: TokenDesk::new(orders), state, updates })
}

struct Keeper {
    state_dir: PathBuf,
    rules: Option<KeyRules>,
    clock: Arc<dyn Clock>,
    /// A withdrawal that is forgotten is forgotten for good, so not by a wall clock that may be set back.
    passage: Passage,
    troubles: Arc<Troubles>,
    ring: Arc<KeyRing>,
    withdrawals: Withdrawals,
    journal: TokenJournal,
    /// Whether a key was killed that the file still holds.
    unsaved: bool,
    /// Looks to let pass after a failure.
    rest: u32,
    /// Which file of withdrawals was read again last, and how long it was.
    seen: Option<(u64, u64)>,
}

impl Keeper {
    fn run(mut self, orders: &Receiver<TokenOrder>, updates: &mpsc::Sender<TokenUpdate>) {
        loop {
            let first = match orders.recv_timeout(LOOK_EVERY) {
                Ok(order) => Some(order),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let is_order = first.is_some();
            let mut done = Vec::new();
            let mut fresh = Vec::new();
            let mut rest = None;
            for order in first.into_iter().chain(orders.try_iter().take(TOKEN_ORDERS)) {
                if let TokenOrder::Rest { resting, resumed } = order {
                    rest = Some((resting, resumed));
                    // What comes after it waits until it is over.
                    break;
                }
                self.obey(order, &mut fresh, &mut done);
            }
            let is_batch = !fresh.is_empty();
            self.write_down(fresh, &mut done);
            let mut changed = self.take_steps();
            changed |= self.withdrawals.forget(self.passage.earlier(&*self.clock));
            if (changed || is_order)
                && updates.blocking_send(TokenUpdate { state: self.state(), done }).is_err()
            {
                return;
            }
            if is_batch {
                std::thread::sleep(BATCH);
            }
            let Some((resting, resumed)) = rest else { continue };
            if resting.send(()).is_err() {
                continue;
            }
            if resumed.recv().is_err() {
                return self.follow(updates);
            }
            self.read_again();
            if updates.blocking_send(TokenUpdate { state: self.state(), done: Vec::new() }).is_err() {
                return;
            }
        }
    }

    /// Goes by what another process writes, which keeps both from now on.
    fn follow(mut self, updates: &mpsc::Sender<TokenUpdate>) {
        loop {
            std::thread::sleep(LOOK_EVERY);
            if self.read_again()
                && updates.blocking_send(TokenUpdate { state: self.state(), done: Vec::new() }).is_err()
            {
                return;
            }
            if updates.is_closed() {
                return;
            }
        }
    }

    /// Reads both as they are on the disk now; says whether anything is new. What cannot be read changes nothing, and no
    /// withdrawal that is known here is forgotten for it.
    fn read_again(&mut self) -> bool {
        let mut changed = false;
        match token_keys::load(&self.state_dir) {
            Ok(ring) if ring == *self.ring => {}
            Ok(ring) => {
                self.ring = Arc::new(ring);
                changed = true;
            }
            Err(error) => tracing::error!(error = %Causes(&error), "the token keys cannot be read again"),
        }
        let seen = fs::metadata(TokenJournal::path(&self.state_dir)).ok();
        let seen = seen.map(|seen| (seen.ino(), seen.size()));
        if seen == self.seen {
            return changed;
        }
        match TokenJournal::open(&self.state_dir, self.clock.now()) {
            Ok((journal, found)) => {
                self.journal = journal;
                // Those that are known already are known still.
                changed |=
                    found.withdrawals.iter().filter(|one| self.withdrawals.add(one).is_ok()).count() > 0;
                self.seen = seen;
            }
            Err(error) => tracing::error!(error = %Causes(&error), "withdrawals cannot be read again"),
        }
        changed
    }

    fn state(&self) -> TokenState {
        TokenState { ring: Arc::clone(&self.ring), withdrawals: Arc::new(self.withdrawals.clone()) }
    }

    fn obey(
        &mut self,
        order: TokenOrder,
        fresh: &mut Vec<(Withdrawal, TokenReply)>,
        done: &mut Vec<(TokenReply, Result<(), TokenOrderError>)>,
    ) {
        match order {
            TokenOrder::Configure(rules) => self.rules = rules,
            // Only the loop can rest.
            TokenOrder::Rest { .. } => {}
            TokenOrder::Kill { key, reply } => {
                let outcome = self.kill(&key);
                done.push((reply, outcome));
            }
            TokenOrder::Withdraw { withdrawal, reply } => match self.withdrawals.add(&withdrawal) {
                Ok(()) => fresh.push((withdrawal, reply)),
                Err(full) => done.push((reply, Err(full.into()))),
            },
        }
    }

    fn kill(&mut self, key: &str) -> Result<(), TokenOrderError> {
        let now = self.clock.now();
        // In force at once, whether it can be written or not.
        self.ring = Arc::new(self.ring.without(key, now)?);
        tracing::warn!(key, "a token key was killed; no token by it is taken any more");
        let saved = token_keys::save(&self.state_dir, &self.ring);
        self.unsaved = saved.is_err();
        self.note(saved.map_err(|error| Causes(&error).to_string())).map_err(TokenOrderError::Unwritten)
    }

    /// Writes down what was taken back, and tells how that went.
    fn write_down(
        &mut self,
        fresh: Vec<(Withdrawal, TokenReply)>,
        done: &mut Vec<(TokenReply, Result<(), TokenOrderError>)>,
    ) {
        if fresh.is_empty() {
            return;
        }
        let (fresh, replies): (Vec<Withdrawal>, Vec<TokenReply>) = fresh.into_iter().unzip();
        let matter: Vec<Withdrawal> = self.withdrawals.iter().collect();
        let written = self.journal.write(&fresh, &matter).map_err(|error| Causes(&error).to_string());
        let outcome = self.note(written).map_err(TokenOrderError::Unwritten);
        done.extend(replies.into_iter().map(|reply| (reply, outcome.clone())));
    }

    /// Takes every step of the keys that is due; says whether there was any.
    fn take_steps(&mut self) -> bool {
        if self.rest > 0 {
            self.rest -= 1;
            return false;
        }
        let mut changed = false;
        if self.unsaved {
            let saved =
                token_keys::save(&self.state_dir, &self.ring).map_err(|error| Causes(&error).to_string());
            self.unsaved = self.note(saved).is_err();
        }
        let Some(rules) = self.rules else { return changed };
        while let Some(step) = self.ring.due(&rules, self.clock.now()) {
            let taken = self.take(step, &rules);
            if self.note(taken).is_err() {
                self.rest = LOOKS_TO_REST;
                return changed;
            }
            changed = true;
        }
        changed
    }

    fn take(&mut self, step: KeyStep, rules: &KeyRules) -> Result<(), String> {
        let fresh = |algorithm| SigningKey::generate(algorithm);
        let next = self.ring.after::<SigningKeyError>(step, rules, fresh, self.clock.now());
        let next = next.map_err(|error| Causes(&error).to_string())?;
        token_keys::save(&self.state_dir, &next).map_err(|error| Causes(&error).to_string())?;
        self.ring = Arc::new(next);
        let key = self.ring.active().map(|key| key.key.id().to_owned());
        match step {
            KeyStep::Activate | KeyStep::Make => tracing::info!(key, "a token key signs from now on"),
            KeyStep::Prepare => tracing::info!("the next token key is made known"),
            KeyStep::Forget | KeyStep::Stretch => {}
        }
        Ok(())
    }

    /// Tells of a failure once, and of its end.
    fn note<T>(&self, outcome: Result<T, String>) -> Result<T, String> {
        match &outcome {
            Ok(_) => {
                if self.troubles.clear(Trouble::Tokens) {
                    tracing::info!("token keys and withdrawals are written down again");
                }
            }
            Err(error) => {
                let told = format!("token keys and withdrawals cannot be written down: {error}");
                if self.troubles.note(Trouble::Tokens, told) {
                    tracing::error!(error, "token keys and withdrawals cannot be written down");
                }
            }
        }
        outcome
    }
}
