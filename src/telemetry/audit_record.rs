//! One administrative change as a line of JSON, and the chain that ties each line to the one before.
//!
//! ```json
//! {"seq":7,"time":"2026-11-25T02:00:00Z","actor":"root","uid":0,"sudo_uid":1000,"verb":"key.revoke",
//!  "target":"credential:0000000000A1","before":"approved","after":"revoked","reason":"left the team",
//!  "registry":"5f8ce295e14e","outcome":"done","prev":"sha256:…","hash":"sha256:…"}
//! ```
//!
//! `hash` is that of the line up to the comma before it; `prev` is the `hash` of the line before, so no line can be changed,
//! taken out or put elsewhere without all that follow. With a key it is an HMAC, which only its holder can make.
//!
//! **Invariant:** no secret comes into a record. What looks like one of our keys is cut out of every text.

use aws_lc_rs::{digest, hmac};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use crate::clock::Timestamp;
use crate::secret::Secret;

/// What was done, or refused, and by whom.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AuditEvent {
    /// When.
    pub time: Timestamp,
    /// Who.
    #[serde(flatten)]
    pub actor: Actor,
    /// What was done, as `key.revoke`.
    pub verb: String,
    /// To what, as `credential:0000000000A1`.
    pub target: String,
    /// How that stood before, if it was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// How it stands since, if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Why, in the actor's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What else there is to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The version of the registry that came of it, or in which it was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,
    /// What came of it.
    pub outcome: AuditOutcome,
}

impl AuditEvent {
    /// `actor` has done `verb` to `target`; the rest is filled in by whoever knows it.
    #[must_use]
    pub fn new(
        actor: Actor,
        verb: impl Into<String>,
        target: impl Into<String>,
        outcome: AuditOutcome,
        now: Timestamp,
    ) -> Self {
        let (verb, target) = (verb.into(), target.into());
        Self {
            time: now,
            actor,
            verb,
            target,
            before: None,
            after: None,
            reason: None,
            detail: None,
            registry: None,
            outcome,
        }
    }

    /// The same without anything that looks like a key of ours, and with no text beyond [`LONGEST_TEXT`].
    #[must_use]
    pub(super) fn made_fit(mut self) -> Self {
        self.verb = fit(&self.verb);
        self.target = fit(&self.target);
        self.actor.name = fit(&self.actor.name);
        for text in
            [&mut self.before, &mut self.after, &mut self.reason, &mut self.detail, &mut self.registry]
        {
            *text = text.take().map(|text| fit(&text));
        }
        self
    }
}

/// Who changes something.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Actor {
    /// The name of the user, or `agent` without a uid: the agent of its own accord.
    #[serde(rename = "actor")]
    pub name: String,
    /// The user, by the kernel's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Who became root to do it, by sudo's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sudo_uid: Option<u32>,
}

impl Actor {
    /// The agent of its own accord.
    #[must_use]
    pub fn agent() -> Self {
        Self { name: "agent".to_owned(), uid: None, sudo_uid: None }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditOutcome {
    /// It was done.
    Done,
    /// It was allowed and tried, and has changed nothing.
    Failed,
    /// It was not allowed, or made no sense, and was not tried.
    Refused,
}

/// Where a chain has got to: the number and the hash of its last record.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Head {
    /// Records count from one.
    pub seq: u64,
    /// The hash, with its algorithm before a colon.
    pub hash: String,
}

impl Head {
    /// Where a chain begins that has no record yet.
    #[must_use]
    pub fn genesis() -> Self {
        Self { seq: 0, hash: GENESIS.to_owned() }
    }
}

/// A record as it stands in the log.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AuditRecord {
    /// Its number; they count from one.
    pub seq: u64,
    /// What it says.
    #[serde(flatten)]
    pub event: AuditEvent,
    /// The hash of the one before.
    pub prev: String,
    /// Its own hash.
    #[serde(default)]
    pub hash: String,
}

#[derive(Serialize)]
struct Body<'a> {
    seq: u64,
    #[serde(flatten)]
    event: &'a AuditEvent,
    prev: &'a str,
}

/// What ties records together.
#[derive(Debug)]
pub struct Chain {
    key: Option<hmac::Key>,
}

/// What a line is, held against its own hash.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Link {
    /// A record that says what was written. Whether it was made with our key is the second part.
    Sound(Box<AuditRecord>, Keyed),
    /// A record whose hash does not hold.
    Altered,
    /// No record at all.
    Foreign,
}

/// Whether a hash was made with a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Keyed {
    /// Anybody can make such a hash.
    No,
    /// It takes the key, which is not known here.
    Unchecked,
    /// It was made with our key.
    Yes,
}

impl Chain {
    /// A chain of plain hashes, or one that takes a key to make.
    #[must_use]
    pub fn new(key: Option<&Secret>) -> Self {
        Self { key: key.map(|key| hmac::Key::new(hmac::HMAC_SHA256, key.expose_secret())) }
    }

    /// The line for `event`, without its end, and the head that it makes.
    ///
    /// # Errors
    /// The event cannot be written as JSON.
    pub fn link(&self, event: &AuditEvent, before: &Head) -> Result<(String, Head), serde_json::Error> {
        let seq = before.seq + 1;
        let body = serde_json::to_string(&Body { seq, event, prev: &before.hash })?;
        let body = body.strip_suffix('}').unwrap_or(&body);
        let hash = self.hash(body.as_bytes());
        Ok((format!("{body}{MARK}{hash}\"}}"), Head { seq, hash }))
    }

    /// What `line` is.
    #[must_use]
    pub fn read(&self, line: &str) -> Link {
        let Some((body, rest)) = line.rfind(MARK).and_then(|at| line.split_at_checked(at)) else {
            return Link::Foreign;
        };
        let Some(hash) = rest.strip_prefix(MARK).and_then(|rest| rest.strip_suffix("\"}")) else {
            return Link::Foreign;
        };
        let Ok(record) = serde_json::from_str::<AuditRecord>(line) else { return Link::Foreign };
        let keyed = match (hash.starts_with(KEYED), &self.key) {
            (false, _) => Keyed::No,
            (true, None) => return Link::Sound(Box::new(record), Keyed::Unchecked),
            (true, Some(_)) => Keyed::Yes,
        };
        let expected = match keyed {
            Keyed::Yes => self.hash(body.as_bytes()),
            Keyed::No | Keyed::Unchecked => plain(body.as_bytes()),
        };
        if bool::from(expected.as_bytes().ct_eq(hash.as_bytes())) {
            Link::Sound(Box::new(record), keyed)
        } else {
            Link::Altered
        }
    }

    fn hash(&self, body: &[u8]) -> String {
        match &self.key {
            Some(key) => format!("{KEYED}{}", HEXLOWER.encode(hmac::sign(key, body).as_ref())),
            None => plain(body),
        }
    }
}

/// The plain hash of `bytes`, with its algorithm before a colon.
#[must_use]
pub(super) fn plain(bytes: &[u8]) -> String {
    format!("{PLAIN}{}", HEXLOWER.encode(digest::digest(&digest::SHA256, bytes).as_ref()))
}

/// `text` with nothing in it that looks like one of our keys, and cut to [`LONGEST_TEXT`].
fn fit(text: &str) -> String {
    let mut fit = String::with_capacity(text.len().min(LONGEST_TEXT));
    let mut rest = text;
    while let Some(at) = rest.find(SECRET) {
        let (before, key) = rest.split_at(at);
        fit.push_str(before);
        fit.push_str(SECRET);
        fit.push('…');
        rest = key.trim_start_matches(|letter: char| letter.is_ascii_alphanumeric() || letter == '_');
    }
    fit.push_str(rest);
    if fit.len() > LONGEST_TEXT {
        let mut end = LONGEST_TEXT;
        while !fit.is_char_boundary(end) {
            end -= 1;
        }
        fit.truncate(end);
        fit.push('…');
    }
    fit
}

/// What every key of ours begins with (`credential::API_KEY_MARK`).
const SECRET: &str = "pstn_";

/// No text of a record is longer, in bytes.
pub const LONGEST_TEXT: usize = 2048;

const MARK: &str = ",\"hash\":\"";
const PLAIN: &str = "sha256:";
const KEYED: &str = "hmac-sha256:";
const GENESIS: &str = "genesis";

#[cfg(test)]
mod tests {
    use super::*;

    fn event(verb: &str) -> AuditEvent {
        let now = "2026-06-01T12:00:00Z".parse().unwrap();
        let actor = Actor { name: "root".to_owned(), uid: Some(0), sudo_uid: Some(1000) };
        AuditEvent::new(actor, verb, "app:ledger", AuditOutcome::Done, now)
    }

    #[test]
    fn a_record_reads_as_it_was_written_and_follows_the_one_before() {
        let chain = Chain::new(None);
        let (first, head) = chain.link(&event("app.create"), &Head::genesis()).unwrap();
        let (second, _) = chain.link(&event("app.revoke"), &head).unwrap();

        let Link::Sound(first, Keyed::No) = chain.read(&first) else { panic!("{first}") };
        let Link::Sound(second, Keyed::No) = chain.read(&second) else { panic!("{second}") };
        assert_eq!((first.seq, first.prev.as_str(), first.event), (1, "genesis", event("app.create")));
        assert_eq!((second.seq, second.prev), (2, first.hash));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let chain = Chain::new(None);
        let (line, _) = chain.link(&event("app.create"), &Head::genesis()).unwrap();
        assert!(matches!(chain.read(&line), Link::Sound(..)));

        for at in 0..line.len() {
            let mut bytes = line.clone().into_bytes();
            bytes[at] = if bytes[at] == b'7' { b'8' } else { b'7' };
            let changed = String::from_utf8(bytes).unwrap();

            assert!(!matches!(chain.read(&changed), Link::Sound(..)), "{changed}");
        }
    }

    #[test]
    fn who_has_no_key_cannot_make_a_record() {
        let (ours, theirs) = (Secret::new(b"ours".to_vec()), Secret::new(b"theirs".to_vec()));
        let (line, _) = Chain::new(Some(&ours)).link(&event("app.create"), &Head::genesis()).unwrap();

        assert!(matches!(Chain::new(Some(&ours)).read(&line), Link::Sound(_, Keyed::Yes)));
        assert!(matches!(Chain::new(None).read(&line), Link::Sound(_, Keyed::Unchecked)));
        assert_eq!(Chain::new(Some(&theirs)).read(&line), Link::Altered);
    }

    #[test]
    fn no_key_of_ours_and_no_endless_text_gets_into_a_record() {
        let key = "pstn_sk_0000000000A1_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf3lksCr";
        let mut event = event("key.revoke");
        event.reason = Some(format!("leaked {key}, \"see\nchat\" {}", "x".repeat(5000)));

        let event = event.made_fit();

        let reason = event.reason.as_deref().unwrap();
        assert!(reason.starts_with("leaked pstn_…, \"see\nchat\" xxx"), "{reason}");
        assert!(reason.len() < LONGEST_TEXT + 8);
        let (line, _) = Chain::new(None).link(&event, &Head::genesis()).unwrap();
        assert!(!line.contains('\n') && !line.contains("003aUlTJC7"), "{line}");
    }
}
