//! The nonces that were used, for as long as their signatures could be used again.
//!
//! **Invariant:** of two requests with one credential and one nonce at most one is let in, on whichever threads they come in.
//! So this is the one thing on the request path that threads share and lock, in shards, for the length of a look-up, and
//! only for requests whose signature has been proven and carries a nonce.
//!
//! Where the memory cannot tell, it says no: when it is full; about what was signed before it began, since nobody knows what
//! came in then; and about what it has forgotten already, should the clock have been set back.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// The nonces that were used, shared by all threads.
pub struct NonceMemory {
    shards: Box<[Mutex<Shard>]>,
    /// How many nonces may be remembered, in all.
    capacity: AtomicUsize,
    /// What was signed before this second since the Unix epoch may have come in before this memory was made.
    since: AtomicI64,
    /// Whether another process has the last word, and how it is asked.
    defers: AtomicBool,
    arbiter: RwLock<Option<Arc<AskForNonce>>>,
}

/// How another process is asked; it may not answer. Blocks for as long as that takes.
pub type AskForNonce = dyn Fn(&NonceClaim) -> Option<NonceUsed> + Send + Sync;

/// A nonce that somebody wants to use, as one process tells another.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NonceClaim {
    word: Word,
    owner: Word,
    created: Timestamp,
    until: Timestamp,
}

/// A nonce that was used, as one process tells another.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct UsedNonce {
    word: Word,
    owner: Word,
    end: i64,
}

impl fmt::Debug for NonceMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NonceMemory").field("since", &self.since).finish_non_exhaustive()
    }
}

/// A nonce, and what is known of the signature that carries it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use<'a> {
    /// Whose nonce it is: the same word in another credential's signature is another nonce.
    pub(super) credential: &'a str,
    pub(super) nonce: &'a str,
    pub(super) created: Timestamp,
    /// From then on the signature is refused for its age.
    pub(super) until: Timestamp,
}

/// Why a nonce is not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Rejected {
    /// No more can be remembered, in all or for this credential.
    Full,
    /// It was used before, or may have been.
    Used,
}

/// What became of a word that may be used once.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum NonceUsed {
    /// It was not used before, and is now.
    Fresh,
    /// No more can be remembered.
    Full,
    /// It was used before, or may have been.
    Used,
}

#[derive(Debug, Default)]
struct Shard {
    owners: HashMap<Word, Word>,
    /// When each is forgotten, in seconds since the Unix epoch, the next one on top.
    ends: BinaryHeap<Reverse<(i64, Word)>>,
    /// How many of each credential.
    counts: HashMap<Word, usize>,
    /// The latest end that was forgotten.
    forgotten: Option<i64>,
}

/// Half of a SHA-256: nobody finds two nonces for one word.
type Word = [u8; 16];

const SHARDS: usize = 16;

/// One credential gets at most this part of the memory, so that it cannot shut out all others.
const SHARE: usize = 2;

impl NonceMemory {
    /// A memory that begins at `since` and holds some `capacity` nonces.
    #[must_use]
    pub fn new(capacity: usize, since: Timestamp) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self {
            shards,
            capacity: AtomicUsize::new(capacity),
            since: AtomicI64::new(since.unix()),
            defers: AtomicBool::new(false),
            arbiter: RwLock::new(None),
        }
    }

    /// Changes how many nonces may be remembered; none is forgotten for it.
    pub fn set_capacity(&self, capacity: usize) {
        self.capacity.store(capacity, Ordering::Relaxed);
    }

    /// Uses up a word of `credential` that was written at `created` and means nothing after `until`.
    #[must_use]
    pub fn spend_once(
        &self,
        credential: &str,
        nonce: &str,
        created: Timestamp,
        until: Timestamp,
        now: Timestamp,
    ) -> NonceUsed {
        match self.spend(&Use { credential, nonce, created, until }, now) {
            Ok(()) => NonceUsed::Fresh,
            Err(Rejected::Full) => NonceUsed::Full,
            Err(Rejected::Used) => NonceUsed::Used,
        }
    }

    /// Takes a nonce that was not used before.
    ///
    /// # Errors
    /// It was, or nobody can tell.
    pub(super) fn spend(&self, one: &Use<'_>, now: Timestamp) -> Result<(), Rejected> {
        self.take(&NonceClaim::of(one), now)
    }

    /// Whether a nonce would be taken.
    ///
    /// # Errors
    /// As for [`NonceMemory::spend`].
    pub(super) fn look(&self, one: &Use<'_>, now: Timestamp) -> Result<(), Rejected> {
        let claim = NonceClaim::of(one);
        let mut shard = self.shard(&claim.word);
        shard.forget(now.unix());
        self.look_in(&shard, &claim)
    }

    /// Uses up a nonce for another process.
    pub fn take_for(&self, claim: &NonceClaim, now: Timestamp) -> NonceUsed {
        match self.take(claim, now) {
            Ok(()) => NonceUsed::Fresh,
            Err(Rejected::Full) => NonceUsed::Full,
            Err(Rejected::Used) => NonceUsed::Used,
        }
    }

    /// Lets another process have the last word from now on; or nobody any more. While it does not answer, no nonce is taken.
    pub fn defer_to(&self, arbiter: Option<Arc<AskForNonce>>) {
        let defers = arbiter.is_some();
        *self.arbiter.write().unwrap_or_else(PoisonError::into_inner) = arbiter;
        self.defers.store(defers, Ordering::Release);
    }

    /// Since when this memory has known what came in.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        Timestamp::from_unix(self.since.load(Ordering::Acquire))
    }

    /// Another process, whose memory reaches back to `since`, tells what it knows.
    pub fn reach_back_to(&self, since: Timestamp) {
        self.since.fetch_min(since.unix(), Ordering::AcqRel);
    }

    /// All nonces that are remembered at `now`, and the latest end of those that are not any more.
    pub fn all(&self, now: Timestamp) -> (Vec<UsedNonce>, Option<i64>) {
        let (mut all, mut forgotten) = (Vec::new(), None);
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.forget(now.unix());
            forgotten = forgotten.max(shard.forgotten);
            let used = shard.ends.iter().filter_map(|Reverse((end, word))| {
                Some(UsedNonce { word: *word, owner: *shard.owners.get(word)?, end: *end })
            });
            all.extend(used);
        }
        (all, forgotten)
    }

    /// Remembers what another process has known, however many there are.
    pub fn adopt(&self, used: &[UsedNonce], forgotten: Option<i64>) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.forgotten = shard.forgotten.max(forgotten);
        }
        for UsedNonce { word, owner, end } in used {
            self.shard(word).remember(*word, *owner, *end);
        }
    }

    fn take(&self, claim: &NonceClaim, now: Timestamp) -> Result<(), Rejected> {
        let ask = {
            let mut shard = self.shard(&claim.word);
            shard.forget(now.unix());
            self.look_in(&shard, claim)?;
            // Under the lock, so that whoever tells all of this to another process and lets it decide misses nothing between.
            match self.arbiter() {
                Some(ask) => ask,
                None => {
                    shard.remember(claim.word, claim.owner, claim.end());
                    return Ok(());
                }
            }
        };
        match ask(claim) {
            Some(NonceUsed::Fresh) => {
                self.shard(&claim.word).remember(claim.word, claim.owner, claim.end());
                Ok(())
            }
            Some(NonceUsed::Used) => Err(Rejected::Used),
            Some(NonceUsed::Full) | None => Err(Rejected::Full),
        }
    }

    fn arbiter(&self) -> Option<Arc<AskForNonce>> {
        if !self.defers.load(Ordering::Acquire) {
            return None;
        }
        self.arbiter.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn look_in(&self, shard: &Shard, claim: &NonceClaim) -> Result<(), Rejected> {
        let is_forgotten = shard.forgotten.is_some_and(|end| claim.until.unix() < end);
        if claim.created < self.since() || is_forgotten || shard.owners.contains_key(&claim.word) {
            return Err(Rejected::Used);
        }
        let room = self.capacity.load(Ordering::Relaxed).div_ceil(SHARDS);
        let own = shard.counts.get(&claim.owner).copied().unwrap_or(0);
        if shard.owners.len() >= room || own >= room.div_ceil(SHARE) {
            return Err(Rejected::Full);
        }
        Ok(())
    }

    fn shard(&self, word: &Word) -> MutexGuard<'_, Shard> {
        let [first, ..] = *word;
        let place = usize::from(first) % SHARDS;
        #[expect(clippy::indexing_slicing, reason = "a remainder by the number of shards is below it")]
        let shard = &self.shards[place];
        // Each step leaves the shard whole, or at worst remembers a nonce for longer.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NonceClaim {
    fn of(one: &Use<'_>) -> Self {
        let Use { credential, nonce, created, until } = *one;
        Self { word: word(credential, nonce), owner: word(credential, ""), created, until }
    }

    fn end(&self) -> i64 {
        self.until.unix().saturating_add(1)
    }
}

impl Shard {
    fn remember(&mut self, word: Word, owner: Word, end: i64) {
        if self.owners.insert(word, owner).is_none() {
            self.ends.push(Reverse((end, word)));
            *self.counts.entry(owner).or_default() += 1;
        }
    }

    fn forget(&mut self, now: i64) {
        while let Some(Reverse((end, word))) = self.ends.peek().copied() {
            if end > now {
                return;
            }
            self.ends.pop();
            self.forgotten = Some(self.forgotten.map_or(end, |latest| latest.max(end)));
            let Some(owner) = self.owners.remove(&word) else { continue };
            if let Some(count) = self.counts.get_mut(&owner) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&owner);
                }
            }
        }
    }
}

/// No credential's name holds a zero byte, so no two pairs are written alike.
fn word(credential: &str, nonce: &str) -> Word {
    let mut hash = Context::new(&SHA256);
    for part in [credential.as_bytes(), &[0], nonce.as_bytes()] {
        hash.update(part);
    }
    let digest = hash.finish();
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    fn start() -> Timestamp {
        "2026-11-22T12:00:00Z".parse().unwrap()
    }

    fn one<'a>(credential: &'a str, nonce: &'a str, created: Timestamp) -> Use<'a> {
        Use { credential, nonce, created, until: created + MINUTE }
    }

    #[test]
    fn a_nonce_is_taken_once_for_each_credential() {
        let (memory, now) = (NonceMemory::new(1000, start()), start());

        assert_eq!(memory.spend(&one("a", "n", now), now), Ok(()));
        assert_eq!(memory.spend(&one("a", "n", now), now), Err(Rejected::Used));
        assert_eq!(memory.spend(&one("b", "n", now), now), Ok(()));
        assert_eq!(memory.spend(&one("a", "m", now), now), Ok(()));
    }

    #[test]
    fn looking_takes_nothing() {
        let (memory, now) = (NonceMemory::new(1000, start()), start());

        assert_eq!(memory.look(&one("a", "n", now), now), Ok(()));
        assert_eq!(memory.spend(&one("a", "n", now), now), Ok(()));
        assert_eq!(memory.look(&one("a", "n", now), now), Err(Rejected::Used));
    }

    #[test]
    fn a_nonce_is_remembered_until_its_signature_is_too_old_and_not_longer() {
        let (memory, created) = (NonceMemory::new(1000, start()), start());
        memory.spend(&one("a", "n", created), created).unwrap();

        let last = created + MINUTE;
        assert_eq!(memory.spend(&one("a", "n", created), last), Err(Rejected::Used));
        let later = last + SECOND;
        assert_eq!(memory.spend(&one("a", "n", later), later), Ok(()));
        assert_eq!(memory.shards.iter().map(|shard| shard.lock().unwrap().owners.len()).sum::<usize>(), 1);
    }

    #[test]
    fn what_was_forgotten_is_not_taken_again_when_the_clock_goes_back() {
        let (memory, created) = (NonceMemory::new(1000, start()), start());
        memory.spend(&one("a", "n", created), created).unwrap();
        let hour = 60 * MINUTE;
        assert_eq!(memory.look(&one("a", "n", created + hour), created + hour), Ok(()));

        assert_eq!(memory.spend(&one("a", "n", created), created + SECOND), Err(Rejected::Used));
    }

    #[test]
    fn what_was_signed_before_the_memory_began_is_not_taken() {
        let now = start() + Duration::from_millis(700);
        let memory = NonceMemory::new(1000, now);

        assert_eq!(memory.spend(&one("a", "n", start() - SECOND), now), Err(Rejected::Used));
        assert_eq!(memory.spend(&one("a", "n", start()), now), Ok(()));
    }

    #[test]
    fn a_full_memory_takes_nothing_until_something_is_forgotten() {
        let (memory, now) = (NonceMemory::new(SHARDS * 4, start()), start());
        let mut refused = 0;
        for number in 0..1000 {
            let (credential, nonce) = (format!("c{}", number % 10), number.to_string());
            match memory.spend(&one(&credential, &nonce, now), now) {
                Ok(()) => {}
                Err(error) => {
                    assert_eq!(error, Rejected::Full);
                    refused += 1;
                }
            }
        }
        assert_eq!(refused, 1000 - SHARDS * 4);

        let later = now + 2 * MINUTE;
        assert_eq!(memory.spend(&one("c0", "0", later), later), Ok(()));
        memory.set_capacity(0);
        assert_eq!(memory.spend(&one("c0", "1", later), later), Err(Rejected::Full));
    }

    #[test]
    fn one_credential_cannot_fill_the_memory_for_all() {
        let (memory, now) = (NonceMemory::new(SHARDS * 8, start()), start());
        let taken =
            (0..1000).filter(|number| memory.spend(&one("greedy", &number.to_string(), now), now).is_ok());
        assert_eq!(taken.count(), SHARDS * 4);

        assert_eq!(memory.spend(&one("modest", "n", now), now), Ok(()));
    }

    #[test]
    fn of_two_threads_with_one_nonce_only_one_gets_it() {
        let (memory, now) = (NonceMemory::new(100_000, start()), start());
        let spend_all = || {
            let taken =
                (0..2000).filter(|number| memory.spend(&one("a", &number.to_string(), now), now).is_ok());
            taken.count()
        };

        let total: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(spend_all)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });

        assert_eq!(total, 2000);
    }

    /// A process that asks another one.
    fn pair() -> (NonceMemory, Arc<NonceMemory>) {
        let (elder, heir) = (NonceMemory::new(1000, start()), NonceMemory::new(1000, start() + MINUTE));
        (elder, Arc::new(heir))
    }

    fn defer(elder: &NonceMemory, heir: &Arc<NonceMemory>, now: Timestamp) {
        let asked = Arc::clone(heir);
        elder.defer_to(Some(Arc::new(move |claim| {
            let text = serde_json::to_string(claim).unwrap();
            Some(asked.take_for(&serde_json::from_str(&text).unwrap(), now))
        })));
    }

    #[test]
    fn a_nonce_is_taken_once_by_two_processes() {
        let (elder, heir) = pair();
        let (before, now) = (start() + SECOND * 30, start() + SECOND * 61);
        elder.spend(&one("a", "old", before), now).unwrap();
        assert_eq!(heir.look(&one("a", "fresh", before), now), Err(Rejected::Used), "it cannot tell");

        heir.reach_back_to(elder.since());
        defer(&elder, &heir, now);
        elder.spend(&one("a", "meanwhile", before), now).unwrap();
        let (used, forgotten) = elder.all(now);
        heir.adopt(&used, forgotten);
        elder.spend(&one("a", "behind", before), now).unwrap();

        for nonce in ["old", "meanwhile", "behind"] {
            assert_eq!(elder.spend(&one("a", nonce, before), now), Err(Rejected::Used), "{nonce}");
            assert_eq!(heir.spend(&one("a", nonce, before), now), Err(Rejected::Used), "{nonce}");
        }
        heir.spend(&one("a", "fresh", before), now).unwrap();
        assert_eq!(elder.spend(&one("a", "fresh", before), now), Err(Rejected::Used));
        assert_eq!(
            heir.look(&one("a", "new", start() - SECOND), now),
            Err(Rejected::Used),
            "older than both"
        );
    }

    #[test]
    fn what_one_process_has_forgotten_the_other_does_not_believe_either() {
        let (elder, heir) = pair();
        elder.spend(&one("a", "1", start()), start()).unwrap();
        let later = start() + MINUTE * 2;

        let (used, forgotten) = elder.all(later);
        heir.reach_back_to(elder.since());
        heir.adopt(&used, forgotten);

        assert!(used.is_empty());
        // The clock was set back.
        assert_eq!(heir.look(&one("a", "1", start()), start()), Err(Rejected::Used));
    }

    #[test]
    fn who_gets_no_answer_takes_no_nonce() {
        let (elder, _) = pair();
        elder.defer_to(Some(Arc::new(|_| None)));

        assert_eq!(elder.spend(&one("a", "1", start()), start()), Err(Rejected::Full));
        elder.defer_to(None);
        elder.spend(&one("a", "1", start()), start()).unwrap();
    }
}
