//! What a certificate is to say, and which lifetimes hold together.

use std::time::Duration;

use crate::identity::SpiffeId;
use crate::pki::key::KeyAlgorithm;

/// How far in the past a certificate's validity begins, so that a peer whose clock is slow accepts it.
pub const DEFAULT_BACKDATE: Duration = Duration::from_secs(300);

/// What a leaf is to say, and how long.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Profile {
    /// Who the holder is.
    pub spiffe_id: SpiffeId,
    /// DNS names that the leaf carries besides.
    pub dns: Vec<String>,
    /// How long the leaf is valid, counted from now.
    pub ttl: Duration,
    /// How far before now its validity begins.
    pub backdate: Duration,
    /// The kind of its key.
    pub algorithm: KeyAlgorithm,
}

/// The lifetimes of one hierarchy, from the leaf up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lifetimes {
    /// The longest of all leaves.
    pub leaf: Duration,
    /// Of an issuing authority.
    pub issuing: Duration,
    /// Of a root.
    pub root: Duration,
}

impl Default for Lifetimes {
    /// A leaf lives an hour, an issuing authority a week, a root a year.
    fn default() -> Self {
        Self { leaf: HOUR, issuing: DAY * 7, root: DAY * 365 }
    }
}

impl Lifetimes {
    /// Each level must live three times as long as what it signs.
    ///
    /// An authority is replaced at half of its life. With a factor of three it can still sign for one and a half lives of
    /// what it signs at that moment, so a replacement that is late by half such a life hurts nobody, and nothing that it
    /// signs ever has to be shortened.
    pub fn check(&self) -> Result<(), LifetimesError> {
        for (name, ttl) in [("leaf", self.leaf), ("issuing authority", self.issuing), ("root", self.root)] {
            if ttl < SHORTEST {
                return Err(LifetimesError::TooShort { name, ttl: words(ttl) });
            }
        }
        let pairs = [
            ("leaf", self.leaf, "issuing authority", self.issuing),
            ("issuing authority", self.issuing, "root", self.root),
        ];
        pairs.into_iter().try_for_each(|(below, shorter, above, longer)| fit(below, shorter, above, longer))
    }

    /// Whether an issuing authority that has `issuing` to live yet is good for leaves that live `leaf`.
    pub fn check_leaf(leaf: Duration, issuing: Duration) -> Result<(), LifetimesError> {
        if leaf < SHORTEST {
            return Err(LifetimesError::TooShort { name: "leaf", ttl: words(leaf) });
        }
        fit("leaf", leaf, "issuing authority", issuing)
    }

    /// A root is replaced at half of its life. From then on the next one is made known for `distribute`, and meanwhile the
    /// former one must still be able to sign an issuing authority.
    pub fn check_distribution(&self, distribute: Duration) -> Result<(), LifetimesError> {
        let half = self.root / 2;
        let needed = half.saturating_add(distribute).saturating_add(self.issuing);
        if needed <= self.root {
            return Ok(());
        }
        let parts = [half, distribute, self.issuing].map(words).join(" + ");
        Err(LifetimesError::NoTimeToDistribute {
            sum: format!("{parts} = {}", words(needed)),
            root: words(self.root),
        })
    }

    /// A certificate is not valid before its issuer is. So a leaf that is to begin `leaf` before it is issued could not do so
    /// under a fresh authority that begins only `authority` before it is made: whoever counts on the longer span would refuse
    /// the leaves of each new authority for a while.
    pub fn check_backdates(leaf: Duration, authority: Duration) -> Result<(), LifetimesError> {
        if leaf <= authority {
            return Ok(());
        }
        let short = words(leaf.saturating_sub(authority));
        Err(LifetimesError::Backdate { leaf: words(leaf), authority: words(authority), short })
    }

    /// How long a new root is made known if nobody says: a day, or an eighth of its life if that is less.
    #[must_use]
    pub fn usual_distribution(&self) -> Duration {
        DAY.min(self.root / 8)
    }
}

fn fit(
    below: &'static str,
    shorter: Duration,
    above: &'static str,
    longer: Duration,
) -> Result<(), LifetimesError> {
    let needed = shorter.saturating_mul(FACTOR);
    if needed <= longer {
        return Ok(());
    }
    let [shorter, needed, longer] = [shorter, needed, longer].map(words);
    Err(LifetimesError::DoNotFit { below, shorter, needed, above, longer })
}

/// Which lifetimes do not hold together, and by what arithmetic.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LifetimesError {
    /// Under a fresh authority a leaf could not begin so far in the past.
    #[error(
        "leaves begin {leaf} before they are issued, but an authority begins {authority} before it is made, and nothing is \
         valid before its issuer is: under a fresh authority {leaf} - {authority} = {short} would be missing; shorten the \
         backdate of leaves or lengthen that of authorities"
    )]
    Backdate {
        /// How far in the past a leaf is to begin.
        leaf: String,
        /// How far in the past an authority begins.
        authority: String,
        /// By how much that is too little.
        short: String,
    },
    /// A level lives less than three times as long as what it signs.
    #[error(
        "a {below} that lives {shorter} needs an {above} that lives at least 3 × {shorter} = {needed}, but the {above} \
         lives {longer}: shorten the {below} or lengthen the {above}"
    )]
    DoNotFit {
        /// What is signed.
        below: &'static str,
        /// How long it lives.
        shorter: String,
        /// How long its signer would have to live.
        needed: String,
        /// What signs it.
        above: &'static str,
        /// How long that lives.
        longer: String,
    },
    /// The next root could not be made known in time.
    #[error(
        "the next root is made at half of a root's life and made known for `distribute`, and until then an issuing authority \
         may have to be signed that lives its whole life: {sum}, but a root lives {root}: shorten `distribute` or lengthen \
         the root"
    )]
    NoTimeToDistribute {
        /// Half of a root's life, the time to make it known, and an issuing authority's life.
        sum: String,
        /// How long a root lives.
        root: String,
    },
    /// X.509 counts whole seconds.
    #[error("a {name} that lives {ttl} is too short: the shortest is 1 s")]
    TooShort {
        /// Which level.
        name: &'static str,
        /// How long it lives.
        ttl: String,
    },
}

/// How many times longer an authority lives than what it signs.
const FACTOR: u32 = 3;

const SHORTEST: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// `1 d 12 h`, for people.
fn words(span: Duration) -> String {
    let mut seconds = span.as_secs();
    let mut parts = Vec::new();
    for (unit, length) in [("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)] {
        let count = seconds / length;
        seconds %= length;
        if count > 0 {
            parts.push(format!("{count} {unit}"));
        }
    }
    if parts.is_empty() { format!("{} ms", span.as_millis()) } else { parts.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lifetimes(leaf: u64, issuing: u64, root: u64) -> Lifetimes {
        let [leaf, issuing, root] = [leaf, issuing, root].map(Duration::from_secs);
        Lifetimes { leaf, issuing, root }
    }

    #[test]
    fn the_defaults_hold_together() {
        assert_eq!(Lifetimes::default().check(), Ok(()));
        assert_eq!(lifetimes(10, 60, 180).check(), Ok(()));
        assert_eq!(lifetimes(20, 60, 180).check(), Ok(()));
    }

    #[test]
    fn a_leaf_that_outlives_the_window_is_refused_with_the_arithmetic() {
        let error = lifetimes(3 * 3600, 6 * 3600, 86_400 * 365).check().unwrap_err();

        assert_eq!(
            error.to_string(),
            "a leaf that lives 3 h needs an issuing authority that lives at least 3 × 3 h = 9 h, but the issuing authority \
             lives 6 h: shorten the leaf or lengthen the issuing authority"
        );
    }

    #[test]
    fn a_root_must_outlive_its_issuing_authorities_likewise() {
        let error = lifetimes(10, 60, 179).check().unwrap_err();

        assert!(error.to_string().contains("3 × 1 min = 3 min"), "{error}");
        assert!(error.to_string().contains("lives 2 min 59 s"), "{error}");
    }

    #[test]
    fn a_root_must_live_long_enough_for_the_next_one_to_be_made_known() {
        let lifetimes = lifetimes(3, 30, 90);
        assert_eq!(lifetimes.check_distribution(Duration::from_secs(15)), Ok(()));
        assert_eq!(lifetimes.check_distribution(lifetimes.usual_distribution()), Ok(()));
        assert_eq!(Lifetimes::default().usual_distribution(), DAY);

        let error = lifetimes.check_distribution(Duration::from_secs(60)).unwrap_err();

        assert!(error.to_string().contains("45 s + 1 min + 30 s = 2 min 15 s"), "{error}");
        assert!(
            error
                .to_string()
                .ends_with("but a root lives 1 min 30 s: shorten `distribute` or lengthen the root")
        );
    }

    #[test]
    fn a_leaf_cannot_begin_before_a_fresh_authority_does() {
        let [five, twelve] = [5, 12].map(|minutes| Duration::from_secs(minutes * 60));
        assert_eq!(Lifetimes::check_backdates(five, five), Ok(()));
        assert_eq!(Lifetimes::check_backdates(Duration::ZERO, five), Ok(()));

        let error = Lifetimes::check_backdates(twelve, five).unwrap_err().to_string();

        assert!(error.contains("12 min - 5 min = 7 min would be missing"), "{error}");
    }

    #[test]
    fn less_than_a_second_is_no_life() {
        let short = Lifetimes { leaf: Duration::from_millis(999), ..Lifetimes::default() };

        assert_eq!(
            short.check().unwrap_err().to_string(),
            "a leaf that lives 999 ms is too short: the shortest is 1 s"
        );
    }
}
