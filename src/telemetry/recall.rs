//! The last decisions of one data-plane thread, for whoever asks afterwards why a request fared as it did.
//!
//! A ring of fixed length: each decision takes the place, and the memory, of the oldest one. Nothing is shared with other
//! threads; whoever wants to know asks the thread.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;

use super::AccessEvent;
use crate::clock::Timestamp;
use crate::registry::KindSet;

/// What is remembered of one request. Never a secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Remembered {
    /// When the request was complete.
    pub at: Timestamp,
    /// Its id.
    pub request_id: String,
    /// `in` or `out`.
    pub direction: &'static str,
    /// The listener it came in by, or the remote it went out to.
    pub door: String,
    /// Where it came from; none for a Unix socket.
    pub peer: Option<SocketAddr>,
    /// `http/1.1`, `http/2`, `tcp`.
    pub protocol: &'static str,
    /// The method.
    pub method: String,
    /// The path without its query.
    pub path: String,
    /// Whether the path was too long to be remembered whole.
    pub path_is_cut: bool,
    /// The status of the answer; 0 where there was none.
    pub status: u16,
    /// `allowed`, or the code of the refusal.
    pub code: &'static str,
    /// The service asked for.
    pub service: String,
    /// The app, when it was known.
    pub app: String,
    /// The product that allowed it.
    pub product: String,
    /// The operation that allowed it.
    pub operation: String,
    /// Kind and id of the strongest credential.
    pub credential: (&'static str, String),
    /// The kinds of credential that were presented.
    pub presented: KindSet,
    /// The SPIFFE ID of the caller's certificate.
    pub spiffe_id: String,
    /// Which state of the registry decided.
    pub registry: String,
    /// From the first byte of the request to the last of the answer.
    pub duration: Duration,
}

/// A thread's own memory.
#[derive(Debug)]
pub struct Recall {
    ring: RefCell<Ring>,
}

#[derive(Debug)]
struct Ring {
    slots: Vec<Slot>,
    most: usize,
    next: usize,
}

/// One decision; its texts stand one behind the other.
#[derive(Debug)]
struct Slot {
    text: String,
    ends: [usize; TEXTS],
    at: Timestamp,
    direction: &'static str,
    peer: Option<SocketAddr>,
    protocol: &'static str,
    path_is_cut: bool,
    status: u16,
    code: &'static str,
    kind: &'static str,
    presented: KindSet,
    duration: Duration,
}

/// So many texts there are of each.
const TEXTS: usize = 10;

/// The longest path that is remembered whole, in bytes.
const LONGEST_PATH: usize = 1024;

impl Recall {
    /// A memory for the last `most` decisions; for none it costs nothing.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self { ring: RefCell::new(Ring { slots: Vec::new(), most, next: 0 }) }
    }

    /// Remembers `event` in the place of the oldest.
    pub fn remember(&self, event: &AccessEvent<'_>) {
        let mut ring = self.ring.borrow_mut();
        if ring.most == 0 {
            return;
        }
        let at = ring.next;
        ring.next = (at + 1) % ring.most;
        match ring.slots.get_mut(at) {
            Some(slot) => slot.fill(event),
            None => {
                let mut slot = Slot::without_text(event);
                slot.fill(event);
                ring.slots.push(slot);
            }
        }
    }

    /// The latest decision on a request with this id. Callers choose ids, so there may be several.
    #[must_use]
    pub fn find(&self, request_id: &str) -> Option<Remembered> {
        let ring = self.ring.borrow();
        let (newer, older) = ring.slots.split_at_checked(ring.next)?;
        let latest_first = newer.iter().rev().chain(older.iter().rev());
        latest_first.into_iter().find(|slot| slot.text(0) == request_id).map(Slot::told)
    }
}

impl Slot {
    fn fill(&mut self, event: &AccessEvent<'_>) {
        let path = match event.path.char_indices().find(|(at, _)| *at >= LONGEST_PATH) {
            Some((at, _)) => event.path.get(..at).unwrap_or_default(),
            None => event.path,
        };
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        let mut ends = [0; TEXTS];
        let texts = [
            event.request_id,
            event.door,
            event.method,
            path,
            event.service,
            event.app,
            event.product,
            event.operation,
            event.credential.1,
            event.registry,
        ];
        for (end, one) in ends.iter_mut().zip(texts) {
            text.push_str(one);
            *end = text.len();
        }
        text.push_str(event.spiffe_id);
        let path_is_cut = path.len() < event.path.len();
        *self = Self { text, ends, path_is_cut, ..Self::without_text(event) };
    }

    /// The parts that need no memory.
    const fn without_text(event: &AccessEvent<'_>) -> Self {
        Self {
            text: String::new(),
            ends: [0; TEXTS],
            at: event.at,
            direction: event.direction,
            peer: event.peer,
            protocol: event.protocol,
            path_is_cut: false,
            status: event.status,
            code: event.code,
            kind: event.credential.0,
            presented: event.presented,
            duration: event.duration,
        }
    }

    fn text(&self, index: usize) -> &str {
        let end = self.ends.get(index).copied().unwrap_or(self.text.len());
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.text.get(start..end).unwrap_or_default()
    }

    fn told(&self) -> Remembered {
        let text = |index| self.text(index).to_owned();
        Remembered {
            at: self.at,
            request_id: text(0),
            direction: self.direction,
            door: text(1),
            peer: self.peer,
            protocol: self.protocol,
            method: text(2),
            path: text(3),
            path_is_cut: self.path_is_cut,
            status: self.status,
            code: self.code,
            service: text(4),
            app: text(5),
            product: text(6),
            operation: text(7),
            credential: (self.kind, text(8)),
            presented: self.presented,
            spiffe_id: text(TEXTS),
            registry: text(9),
            duration: self.duration,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event<'a>(request_id: &'a str, path: &'a str) -> AccessEvent<'a> {
        AccessEvent { request_id, path, ..AccessEvent::NOTHING }
    }

    #[test]
    fn the_last_decisions_are_remembered_and_older_ones_forgotten() {
        let recall = Recall::new(3);
        assert!(recall.find("request-0").is_none());

        for number in 0..5 {
            recall.remember(&event(&format!("request-{number}"), &format!("/{number}")));
        }

        assert!(recall.find("request-0").is_none() && recall.find("request-1").is_none());
        for number in 2..5 {
            assert_eq!(recall.find(&format!("request-{number}")).unwrap().path, format!("/{number}"));
        }
    }

    #[test]
    fn of_several_with_one_id_the_latest_is_told() {
        for most in [2, 3, 4] {
            let recall = Recall::new(most);
            for number in 0..=most {
                recall.remember(&event("same-id", &format!("/{number}")));
            }

            assert_eq!(recall.find("same-id").unwrap().path, format!("/{most}"));
        }
    }

    #[test]
    fn all_parts_come_back_as_they_were() {
        let recall = Recall::new(1);
        let event = AccessEvent {
            request_id: "request-1",
            door: "inbound",
            method: "GET",
            path: "/a",
            service: "orders",
            app: "billing",
            product: "gold",
            operation: "read",
            credential: ("api_key", "k1"),
            registry: "v1",
            spiffe_id: "spiffe://a/b",
            code: "allowed",
            ..AccessEvent::NOTHING
        };

        recall.remember(&event);

        let told = recall.find("request-1").unwrap();
        assert_eq!(
            [
                &*told.door,
                &*told.method,
                &*told.path,
                &*told.service,
                &*told.app,
                &*told.product,
                &*told.operation,
                &*told.credential.1,
                &*told.registry,
                &*told.spiffe_id,
            ],
            ["inbound", "GET", "/a", "orders", "billing", "gold", "read", "k1", "v1", "spiffe://a/b"]
        );
        assert_eq!((told.credential.0, told.code), ("api_key", "allowed"));
    }

    #[test]
    fn a_path_without_end_is_cut_and_says_so() {
        let recall = Recall::new(1);
        let long = format!("/{}", "ä".repeat(2000));

        recall.remember(&event("request-1", &long));

        let told = recall.find("request-1").unwrap();
        assert!(told.path_is_cut && long.starts_with(&told.path));
        assert!(told.path.len() <= LONGEST_PATH + 1);
    }

    #[test]
    fn who_wants_no_memory_has_none() {
        let recall = Recall::new(0);

        recall.remember(&event("request-1", "/"));

        assert!(recall.find("request-1").is_none());
    }
}
