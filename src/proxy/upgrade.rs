//! Other protocols on a connection that began as HTTP/1.1: who may ask for which, and the tunnel once the other side has agreed.
//!
//! > The Upgrade header field […] a server MUST NOT switch to a protocol that was not indicated by the client. — RFC 9110 §7.8
//!
//! **Invariant:** bytes go through as they are only behind a 101 that names the very protocol that was asked for. Whatever a caller
//! sends behind its request before that is held: it is the tunnel's if there is one, and the next request otherwise.

use std::fmt;
use std::str::FromStr;

use tokio::io::{AsyncRead, AsyncWrite};

use super::admission::{Purpose, Visitor, admit, request_id};
use super::buffer::Buffer;
use super::forward::{Resident, may_go_on};
use super::framing::is_token;
use super::http_gate::{BadHead, Head, MAX_FIELDS, Version, is_nominated, read_http1};
use super::http1::Peer;
use super::refuse::Answer;
use super::settings::Limits;
use super::tcp::{End, Moved, pipe};
use super::trace::Trace;
use super::upstream::Upstream;
use super::worker::Worker;
use crate::id::ServiceId;

/// A protocol that a connection may go over to, such as `websocket`: a name, and a version behind a slash if it has one. In lower
/// case, as names are compared without regard to case.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UpgradeProtocol(Box<str>);

impl UpgradeProtocol {
    /// As it is written in an `Upgrade` field.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UpgradeProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text names no protocol that a connection could go over to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidUpgradeProtocol {
    /// Something else than a name and a version.
    #[error("expected the name of a protocol such as \"websocket\"")]
    Form,
    /// HTTP again: its requests would pass without being looked at.
    #[error("HTTP in a tunnel would pass the gate unseen: `h2c` and other forms of HTTP are never tunnelled")]
    Http,
    /// TLS in the tunnel (RFC 2817) belongs to the hop.
    #[error("TLS is the listener's own business and is never tunnelled")]
    Tls,
}

impl FromStr for UpgradeProtocol {
    type Err = InvalidUpgradeProtocol;

    /// > protocol = protocol-name ["/" protocol-version] — RFC 9110 §7.8
    fn from_str(text: &str) -> Result<Self, InvalidUpgradeProtocol> {
        let (name, version) = match text.split_once('/') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        let token = |text: &str| !text.is_empty() && text.len() <= 64 && text.bytes().all(is_token);
        if !token(name) || !version.is_none_or(token) {
            return Err(InvalidUpgradeProtocol::Form);
        }
        match name.to_ascii_lowercase().as_str() {
            "h2" | "h2c" | "h3" | "http" | "https" => Err(InvalidUpgradeProtocol::Http),
            "tls" => Err(InvalidUpgradeProtocol::Tls),
            _ => Ok(Self(text.to_ascii_lowercase().into())),
        }
    }
}

/// The protocol that the connection goes over to if the other side agrees: what `head` asks for, if that is one of `allowed`. Any
/// other wish ends at this hop, and the request is answered as what it is besides.
///
/// # Errors
/// The wish is for an allowed protocol, but cannot be granted without doubt about where the request ends.
#[expect(
    clippy::result_large_err,
    reason = "it is the answer that the caller gets, like every other refusal"
)]
pub(super) fn asked<'s>(
    head: &Head<'_, '_>,
    allowed: &'s [UpgradeProtocol],
) -> Result<Option<&'s UpgradeProtocol>, Answer> {
    if allowed.is_empty() {
        return Ok(None);
    }
    let mut wishes = head.values("upgrade");
    // > A server MUST ignore an Upgrade header field that is received in an HTTP/1.0 request. — RFC 9110 §7.8
    let Some(wish) = wishes.next().filter(|_| head.version == Version::Http11) else { return Ok(None) };
    if wishes.next().is_some() {
        return Err(BAD_UPGRADE);
    }
    let is_asked = |protocol: &&UpgradeProtocol| wish.eq_ignore_ascii_case(protocol.as_str().as_bytes());
    let Some(protocol) = allowed.iter().find(is_asked).filter(|_| is_nominated(head, "upgrade")) else {
        return Ok(None);
    };
    let has_body =
        ["content-length", "transfer-encoding"].iter().any(|name| head.values(name).next().is_some());
    if has_body || head.method != "GET" { Err(BAD_UPGRADE) } else { Ok(Some(protocol)) }
}

/// A protocol that the service takes, asked for in a way that it must not be asked for.
const BAD_UPGRADE: Answer = Answer::new(
    400,
    "bad-upgrade",
    "Another protocol is asked for by a GET without a body, in one Upgrade field.",
);

/// A tunnel that is about to be opened: the other side has agreed.
pub(super) struct Tunnel<'a> {
    pub(super) worker: &'a Worker,
    pub(super) peer: &'a Peer,
    /// The head of the request that it rests on, as the caller sent it.
    pub(super) head: &'a [u8],
    pub(super) protocol: &'a str,
    /// The service that it leads to, if it is one.
    pub(super) service: Option<&'a ServiceId>,
}

impl Tunnel<'_> {
    /// Carries bytes until either side has had enough, or the request that it rests on would not be granted any more.
    pub(super) async fn run<S>(&self, near: End<'_, S>, upstream: &mut Upstream, limits: &Limits) -> Moved
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let until = match self.peer {
            Peer::Visitor(visitor) => visitor.verified.as_ref().map(|verified| verified.not_after()),
            Peer::Resident(_) => upstream.until,
        };
        let bond = upstream.bond.clone();
        let allowed = || match self.peer {
            Peer::Visitor(visitor) => self.is_still_granted(visitor),
            Peer::Resident(resident) => {
                bond.as_ref().map_or(Ok(()), |bond| may_go_on(self.worker, resident, bond))?;
                self.is_still_listed(resident)
            }
        };
        let unread = std::mem::take(&mut upstream.unread);
        let far = End { io: &mut upstream.io, unread };
        pipe(self.worker, near, far, until, limits, allowed).await
    }

    /// Whether the request would be granted again, with what it presented.
    fn is_still_granted(&self, visitor: &Visitor) -> Result<(), &'static str> {
        visitor.still_stands(self.worker)?;
        let outcome = self.judge_again(visitor);
        outcome.inspect_err(|code| self.worker.cuts.count(code))
    }

    fn judge_again(&self, visitor: &Visitor) -> Result<(), &'static str> {
        let (snapshot, now, ids) = (self.worker.snapshot(), self.worker.now(), &self.worker.ids);
        let mut storage = [httparse::EMPTY_HEADER; MAX_FIELDS];
        // It was read once, so it can be read again.
        let head = read_http1(self.head, &mut storage).map_err(|_: BadHead| "bad-request")?;
        let id = request_id(&head, ids, now);
        let trace = Trace::new(&head, &id, ids);
        let purpose = (Purpose::Stay, now);
        match admit(&head, visitor, &snapshot, &trace, purpose, &mut Vec::new()) {
            Ok(admission) if self.service.is_some_and(|service| *service != admission.service.id) => {
                Err("no-such-service")
            }
            Ok(admission) => {
                let agreed = admission.upgrade.is_some_and(|protocol| protocol.as_str() == self.protocol);
                if agreed { Ok(()) } else { Err(NOT_LISTED) }
            }
            Err((_, verdict)) => Err(verdict.code),
        }
    }

    fn is_still_listed(&self, resident: &Resident) -> Result<(), &'static str> {
        let snapshot = self.worker.snapshot();
        let remote = snapshot.remotes.get(&resident.remote);
        let listed = remote.is_some_and(|remote| {
            remote.settings.upgrades.iter().any(|protocol| protocol.as_str() == self.protocol)
        });
        if listed {
            return Ok(());
        }
        self.worker.cuts.count(NOT_LISTED);
        Err(NOT_LISTED)
    }
}

/// The protocol is not one of `upgrades` any more.
const NOT_LISTED: &str = "upgrade-not-allowed";

/// The caller's end of a connection, with what it has sent ahead.
pub(super) fn near_end<'a, S>(io: &'a mut S, unread: &mut Buffer) -> End<'a, S> {
    End { io, unread: std::mem::take(unread) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(text: &str) -> Result<Option<String>, &'static str> {
        let allowed = ["websocket".parse().unwrap(), "Chat/2".parse().unwrap()];
        let mut storage = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let head = read_http1(text.as_bytes(), &mut storage).unwrap();
        asked(&head, &allowed).map(|found| found.map(ToString::to_string)).map_err(|answer| answer.code)
    }

    #[test]
    fn one_listed_protocol_is_granted_to_a_get_without_a_body() {
        let ask = |lines: &str| wish(&format!("GET / HTTP/1.1\r\nhost: h\r\n{lines}\r\n"));

        assert_eq!(
            ask("Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"),
            Ok(Some("websocket".into()))
        );
        assert_eq!(ask("upgrade: chat/2\r\nconnection: upgrade\r\n"), Ok(Some("chat/2".into())));
        assert_eq!(ask(""), Ok(None));
    }

    #[test]
    fn any_other_wish_ends_at_this_hop() {
        for (version, lines) in [
            ("1.1", "upgrade: h2c\r\nconnection: upgrade\r\n"),
            ("1.1", "upgrade: chat\r\nconnection: upgrade\r\n"),
            ("1.1", "upgrade: websocket, h2c\r\nconnection: upgrade\r\n"),
            // Nobody has said that the field is for this hop.
            ("1.1", "upgrade: websocket\r\n"),
            ("1.0", "upgrade: websocket\r\nconnection: upgrade\r\n"),
        ] {
            assert_eq!(wish(&format!("GET / HTTP/{version}\r\nhost: h\r\n{lines}\r\n")), Ok(None), "{lines}");
        }
    }

    #[test]
    fn a_wish_that_leaves_doubt_is_refused() {
        for (method, lines) in [
            ("GET", "upgrade: websocket\r\nupgrade: websocket\r\n"),
            ("GET", "upgrade: websocket\r\nupgrade: chat/2\r\n"),
            ("GET", "upgrade: websocket\r\ncontent-length: 3\r\n"),
            ("GET", "upgrade: websocket\r\ncontent-length: 0\r\n"),
            ("GET", "upgrade: websocket\r\ntransfer-encoding: chunked\r\n"),
            ("POST", "upgrade: websocket\r\n"),
        ] {
            let request = format!("{method} / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\n{lines}\r\n");
            assert_eq!(wish(&request), Err("bad-upgrade"), "{method} {lines}");
        }
    }

    #[test]
    fn what_would_carry_requests_past_the_gate_cannot_be_listed() {
        let read = |text: &str| text.parse::<UpgradeProtocol>();

        assert_eq!(read("WebSocket").unwrap().as_str(), "websocket");
        for name in ["h2c", "H2C", "HTTP/2.0", "http/1.1", "h2"] {
            assert_eq!(read(name), Err(InvalidUpgradeProtocol::Http), "{name}");
        }
        assert_eq!(read("TLS/1.0"), Err(InvalidUpgradeProtocol::Tls));
        for name in ["", "a b", "a/", "/a", "a,b", "a/b/c"] {
            assert_eq!(read(name), Err(InvalidUpgradeProtocol::Form), "{name}");
        }
    }
}
