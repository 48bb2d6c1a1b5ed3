//! Looks through a service's answer for secrets of ours, also across the borders of its pieces.
//!
//! It goes by form and checksum. What is compressed or encrypted is not seen.

use std::cell::RefCell;
use std::rc::Rc;

use super::settings::Watch;
use crate::credential::{LONGEST_SECRET, secret_id};

/// What was found in one answer.
#[derive(Debug)]
pub(super) struct Leaks {
    watch: Watch,
    found: RefCell<Option<String>>,
}

impl Leaks {
    /// Nothing yet, in an answer that is to be watched; none where it is not.
    pub(super) fn of(watch: Watch) -> Option<Rc<Self>> {
        (watch != Watch::Off).then(|| Rc::new(Self { watch, found: RefCell::default() }))
    }

    /// The name of the credential whose secret was found, once.
    pub(super) fn take(&self) -> Option<String> {
        self.found.take()
    }
}

/// Looks through one stream of bytes.
#[derive(Debug)]
pub(super) struct Scan {
    leaks: Rc<Leaks>,
    /// The end of what was seen, too short to hold a whole secret.
    tail: Vec<u8>,
}

/// The stream may not go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Blocked;

impl Scan {
    /// A look that reports to `leaks`.
    pub(super) const fn new(leaks: Rc<Leaks>) -> Self {
        Self { leaks, tail: Vec::new() }
    }

    /// Looks at what comes next.
    ///
    /// # Errors
    /// A secret ends in it, and the answer is to be cut then.
    pub(super) fn look(&mut self, next: &[u8]) -> Result<(), Blocked> {
        self.tail.extend_from_slice(next);
        let found = find(&self.tail);
        let surplus = self.tail.len().saturating_sub(LONGEST_SECRET - 1);
        if found.is_some() {
            self.tail.clear();
            *self.leaks.found.borrow_mut() = found;
            return if self.leaks.watch == Watch::Block { Err(Blocked) } else { Ok(()) };
        }
        self.tail.drain(..surplus);
        Ok(())
    }
}

/// The name in the first secret in `bytes`.
fn find(bytes: &[u8]) -> Option<String> {
    let mut places = memchr::memmem::find_iter(bytes, b"pstn_");
    places.find_map(|at| {
        let text = bytes.get(at..at + LONGEST_SECRET)?;
        secret_id(text).map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"pstn_sk_0000000000A1_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf3lksCr";

    fn found(pieces: &[&[u8]]) -> Option<String> {
        let leaks = Leaks::of(Watch::Report).unwrap();
        let mut scan = Scan::new(Rc::clone(&leaks));
        pieces.iter().for_each(|piece| scan.look(piece).unwrap());
        leaks.take()
    }

    #[test]
    fn a_secret_is_found_wherever_pieces_begin() {
        let body = [b"{\"key\":\"".as_slice(), KEY, b"\"}"].concat();
        for at in 0..body.len() {
            let (one, two) = body.split_at(at);
            assert_eq!(found(&[one, two]).as_deref(), Some("0000000000A1"), "{at}");
        }
        let bytes: Vec<&[u8]> = body.chunks(1).collect();
        assert_eq!(found(&bytes).as_deref(), Some("0000000000A1"));
    }

    #[test]
    fn what_only_looks_like_one_is_none() {
        let mut wrong = KEY.to_vec();
        *wrong.last_mut().unwrap() ^= 1;

        assert_eq!(found(&[&wrong]), None);
        assert_eq!(found(&[b"pstn_", b"pstn_sk_", &KEY[..60]]), None);
    }

    #[test]
    fn a_stream_that_is_to_be_cut_ends_where_the_secret_does() {
        let leaks = Leaks::of(Watch::Block).unwrap();
        let mut scan = Scan::new(Rc::clone(&leaks));

        assert_eq!(scan.look(&KEY[..40]), Ok(()));
        assert_eq!(scan.look(&KEY[40..]), Err(Blocked));
        assert!(leaks.take().is_some() && Leaks::of(Watch::Off).is_none());
    }
}
