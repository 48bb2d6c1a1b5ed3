//! Looks through a service's answer for secrets of ours, also across the borders of its pieces, and can hold one back.
//!
//! It is found by form and checksum, and told of only if it is on file. What is compressed or encrypted is not seen.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use super::settings::Watch;
use crate::credential::{LONGEST_SECRET, SECRET_MARK_LENGTH, begins_secret, secret_id};
use crate::id::CredentialId;
use crate::secret::Secret;

/// One answer that is looked through.
pub(super) struct Leaks {
    watch: Watch,
    ear: Box<Ear>,
    /// How many texts may still be asked about.
    left: Cell<usize>,
    told: RefCell<Vec<CredentialId>>,
}

/// Says whose secret a text is, if it is one that is on file, and tells of it unless its name is among those already told.
type Ear = dyn Fn(&Secret, &[CredentialId]) -> Option<CredentialId>;

/// So many texts of one answer are asked about; each costs a hash. Whoever sends more makes them up.
const MOST_ASKED: usize = 256;

impl fmt::Debug for Leaks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { watch, left, told, .. } = self;
        let mut shown = formatter.debug_struct("Leaks");
        shown.field("watch", watch).field("left", left).field("told", told).finish_non_exhaustive()
    }
}

impl Leaks {
    /// An answer that is to be watched, of which `ear` is told; none where it is not.
    pub(super) fn of(
        watch: Watch,
        ear: impl Fn(&Secret, &[CredentialId]) -> Option<CredentialId> + 'static,
    ) -> Option<Rc<Self>> {
        let told = RefCell::default();
        let new = || Rc::new(Self { watch, ear: Box::new(ear), left: Cell::new(MOST_ASKED), told });
        (watch != Watch::Off).then(new)
    }

    /// Looks at what is there as a whole: a head.
    ///
    /// # Errors
    /// It holds a secret, and may not pass.
    pub(super) fn look_at_whole(&self, bytes: &[u8]) -> Result<(), Blocked> {
        self.look_through(bytes).map(|_| ())
    }

    /// Tells of the secrets in `bytes`, and says where the last of them ends.
    fn look_through(&self, bytes: &[u8]) -> Result<usize, Blocked> {
        let mut end = 0;
        for at in memchr::memmem::find_iter(bytes, b"pstn_") {
            let Some(text) = bytes.get(at..at + LONGEST_SECRET).filter(|text| secret_id(text).is_some())
            else {
                continue;
            };
            self.tell(text);
            if self.watch == Watch::Block {
                return Err(Blocked);
            }
            end = at + LONGEST_SECRET;
        }
        Ok(end)
    }

    fn tell(&self, text: &[u8]) {
        if self.left.get() == 0 {
            return;
        }
        self.left.set(self.left.get() - 1);
        let mut told = self.told.borrow_mut();
        if let Some(id) = (self.ear)(&Secret::new(text.to_vec()), &told)
            && !told.contains(&id)
        {
            told.push(id);
        }
    }
}

/// Looks through one stream of bytes, and lets it pass as far as it may.
#[derive(Debug)]
pub(super) struct Scan {
    leaks: Rc<Leaks>,
    /// The end of what was seen, too short to hold a whole secret.
    tail: Vec<u8>,
    /// So much of it has passed.
    passed: usize,
}

/// The stream may not go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Blocked;

impl Scan {
    /// A look that reports to `leaks`.
    pub(super) const fn new(leaks: Rc<Leaks>) -> Self {
        Self { leaks, tail: Vec::new(), passed: 0 }
    }

    /// What it reports to.
    pub(super) fn leaks(&self) -> &Leaks {
        &self.leaks
    }

    /// Looks at what comes next, and appends to `out` what may pass.
    ///
    /// **Invariant:** where an answer is to be cut, nothing of what may be a secret passes but its name, which is public, until
    /// it has turned out to be none.
    ///
    /// # Errors
    /// A secret ends in it, and the answer is to be cut.
    pub(super) fn pass(&mut self, next: &[u8], out: &mut Vec<u8>) -> Result<(), Blocked> {
        self.tail.extend_from_slice(next);
        let ended = self.leaks.look_through(&self.tail)?;
        let length = self.tail.len();
        let may_pass = if self.leaks.watch == Watch::Block { undecided(&self.tail) } else { length };
        // What has passed never comes back: the name of a secret that has turned out to be none.
        let may_pass = may_pass.max(self.passed);
        out.extend_from_slice(self.tail.get(self.passed..may_pass).unwrap_or_default());
        // A secret is told of once.
        let surplus = ended.max(length.saturating_sub(LONGEST_SECRET - 1)).min(may_pass);
        self.passed = may_pass - surplus;
        self.tail.drain(..surplus);
        Ok(())
    }

    /// Nothing follows any more: what was held back was no secret, and is appended to `out`.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.tail.get(self.passed..).unwrap_or_default());
        self.tail.clear();
        self.passed = 0;
    }
}

/// Where the hidden part of what may become a secret begins, or the end of `bytes`.
fn undecided(bytes: &[u8]) -> usize {
    let first = bytes.len().saturating_sub(LONGEST_SECRET - 1);
    let begins = |&at: &usize| bytes.get(at..).is_some_and(begins_secret);
    let begun = (first..bytes.len()).find(begins);
    begun.map_or(bytes.len(), |at| (at + SECRET_MARK_LENGTH).min(bytes.len()))
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use super::*;

    const KEY: &[u8] = b"pstn_sk_0000000000A1_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf3lksCr";

    /// Everything is on file, by its own name.
    fn watched(watch: Watch) -> (Rc<Leaks>, Rc<RefCell<Vec<String>>>) {
        let told = Rc::new(RefCell::new(Vec::new()));
        let heard = Rc::clone(&told);
        let ear = move |text: &Secret, already: &[CredentialId]| {
            let id = CredentialId::from_str(secret_id(text.expose_secret()).unwrap()).unwrap();
            if !already.contains(&id) {
                heard.borrow_mut().push(id.to_string());
            }
            Some(id)
        };
        (Leaks::of(watch, ear).unwrap(), told)
    }

    fn passed(watch: Watch, pieces: &[&[u8]]) -> (Result<Vec<u8>, Blocked>, Vec<String>) {
        let (leaks, told) = watched(watch);
        let (mut scan, mut out) = (Scan::new(leaks), Vec::new());
        let scanned = pieces.iter().try_for_each(|piece| scan.pass(piece, &mut out));
        let told = told.take();
        (
            scanned.map(|()| {
                scan.finish(&mut out);
                out
            }),
            told,
        )
    }

    #[test]
    fn a_secret_is_found_wherever_pieces_begin() {
        let body = [b"{\"key\":\"".as_slice(), KEY, b"\"}"].concat();
        for at in 0..body.len() {
            let (one, two) = body.split_at(at);
            let (out, told) = passed(Watch::Report, &[one, two]);
            assert_eq!(
                (out.as_deref(), told),
                (Ok(body.as_slice()), vec!["0000000000A1".to_owned()]),
                "{at}"
            );
        }
        let bytes: Vec<&[u8]> = body.chunks(1).collect();
        assert_eq!(passed(Watch::Report, &bytes).1, ["0000000000A1"]);
        assert_eq!(passed(Watch::Block, &bytes), (Err(Blocked), vec!["0000000000A1".to_owned()]));
    }

    #[test]
    fn several_secrets_of_one_answer_are_told_each_once() {
        let other = crate::credential::ApiKey::generate(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
        let body = [KEY, b" ", KEY, other.text().expose_secret(), KEY].concat();

        for size in [1, 7, 71, 1000] {
            let pieces: Vec<&[u8]> = body.chunks(size).collect();
            assert_eq!(passed(Watch::Report, &pieces).1, ["0000000000A1", other.id()], "{size}");
        }
    }

    #[test]
    fn what_only_looks_like_one_is_none_and_passes_whole() {
        let mut wrong = KEY.to_vec();
        *wrong.last_mut().unwrap() ^= 1;
        let nested = [b"pstn_pstn_sk_00000pstn_sk_0000000000A1_".as_slice(), &KEY[8..69], b"pstn"].concat();

        for watch in [Watch::Block, Watch::Report] {
            for body in [&wrong, &KEY[..60], b"pstn_pstn_sk_", &nested, b"", b"p"] {
                for size in [1, 2, 30, 100] {
                    let pieces: Vec<&[u8]> = body.chunks(size).collect();
                    let (out, told) = passed(watch, &pieces);
                    assert_eq!((out.as_deref(), told.len()), (Ok(body), 0), "{size}");
                }
            }
        }
    }

    #[test]
    fn of_what_is_to_be_cut_only_the_name_passes_and_the_rest_is_not_held_up() {
        let (leaks, told) = watched(Watch::Block);
        let (mut scan, mut out) = (Scan::new(leaks), Vec::new());

        for byte in [b"data: up\n\n".as_slice(), &KEY[..69]].concat() {
            scan.pass(&[byte], &mut out).unwrap();
        }
        assert_eq!(out, [b"data: up\n\n".as_slice(), &KEY[..21]].concat());
        assert!(told.borrow().is_empty());
        assert_eq!(scan.pass(&KEY[69..], &mut out), Err(Blocked));
        assert_eq!(out.len(), 31);
        assert_eq!(told.take(), ["0000000000A1"]);
    }

    #[test]
    fn made_up_secrets_are_not_asked_about_for_ever() {
        let asked = Rc::new(Cell::new(0));
        let counted = Rc::clone(&asked);
        let ear = move |_: &Secret, _: &[CredentialId]| {
            counted.set(counted.get() + 1);
            None
        };
        let mut scan = Scan::new(Leaks::of(Watch::Report, ear).unwrap());

        scan.pass(&KEY.repeat(2 * MOST_ASKED), &mut Vec::new()).unwrap();

        assert_eq!(asked.get(), MOST_ASKED);
        assert!(Leaks::of(Watch::Off, |_, _| None).is_none());
    }
}
