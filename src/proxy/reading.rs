//! The reading of messages without a connection: what bytes mean to the agent, and what it would write of them.
//!
//! **Invariant:** the bytes go through the very functions that live traffic goes through, so that whoever wants to know how a
//! message is read (a test, a fuzzer, a person with a capture) is told what is true.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, ReadBuf};

use super::admission::dispatch;
use super::buffer::Buffer;
use super::framing::{Decoder, Framing, Piece};
use super::headers::{Fate, fate_of_request_field};
use super::http_gate::{MAX_FIELDS, Version, head_end, is_nominated, read_http1};
use super::proxy_protocol::{self, Unread};
use super::pump::Pump;
use super::request_id::RequestIds;
use super::response::{self, Caller};
use super::settings::Limits;
use super::trace::Trace;
use crate::clock::Timestamp;

/// All that a caller has sent on one HTTP/1 connection, as the agent reads it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Conversation {
    /// What was asked, in order.
    pub requests: Vec<Request>,
    /// What comes after them.
    pub end: End,
}

/// A request that was read to its end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// The method.
    pub method: String,
    /// Host and, where given, port.
    pub authority: String,
    /// The path as it was sent.
    pub path: String,
    /// What stands behind the `?`, if there is one.
    pub query: Option<String>,
    /// Names, in lower case, and values of the fields that may travel on.
    pub fields: Vec<(String, Vec<u8>)>,
    /// The body, taken out of its framing.
    pub body: Vec<u8>,
    /// The whole request as it is written anew; empty when its path is ambiguous.
    pub onward: Vec<u8>,
}

/// What comes after the last request that was read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum End {
    /// The caller has asked for the end, or its version of HTTP has; so many bytes behind it are not looked at.
    Closed(usize),
    /// The beginning of a request.
    Incomplete,
    /// Nothing; there may be more.
    Open,
    /// Something that is refused, and why.
    Refused(String),
}

/// Reads what a caller has sent, of which `step` bytes arrive at a time.
#[must_use]
pub fn read_conversation(bytes: &[u8], step: usize) -> Conversation {
    let (mut io, mut unread) = (Steps { rest: bytes, step: step.max(1) }, Buffer::default());
    let mut requests = Vec::new();
    let end = loop {
        match read_request(&mut io, &mut unread) {
            Ok((request, true)) => requests.push(request),
            Ok((request, false)) => {
                requests.push(request);
                break End::Closed(unread.unread().len() + io.rest.len());
            }
            Err(end) => break end,
        }
    };
    Conversation { requests, end }
}

/// Reads one request, and whether another may follow.
fn read_request(io: &mut Steps<'_>, unread: &mut Buffer) -> Result<(Request, bool), End> {
    let bytes = read_head(io, unread)?;
    let mut storage = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let head = read_http1(&bytes, &mut storage).map_err(refused)?;
    let (body, framed) = read_body(head.body, io, unread)?;

    let ids = RequestIds::new();
    let id = ids.next(Timestamp::FLOOR);
    let mut written = Vec::new();
    let onward = match dispatch(&head, &[], &Trace::new(&head, &id, &ids), &mut written) {
        Ok(_) => pumped(written, head.body, &framed),
        Err(_) => Vec::new(),
    };
    let travels = |field: &&httparse::Header<'_>| {
        fate_of_request_field(field.name, field.value) == Fate::Pass && !is_nominated(&head, field.name)
    };
    let named = |field: &httparse::Header<'_>| (field.name.to_ascii_lowercase(), field.value.to_vec());
    let request = Request {
        method: head.method.to_owned(),
        authority: head.authority.to_owned(),
        path: head.path.to_owned(),
        query: head.query.map(str::to_owned),
        fields: head.fields.iter().filter(travels).map(named).collect(),
        body,
        onward,
    };
    Ok((request, head.keep_alive))
}

fn read_head(io: &mut Steps<'_>, unread: &mut Buffer) -> Result<Vec<u8>, End> {
    let most = Limits::default().head_size;
    loop {
        let end = head_end(unread.unread());
        if end.unwrap_or_else(|| unread.unread().len()) > most {
            return Err(End::Refused("the head is too large".to_owned()));
        }
        if let Some(end) = end {
            let head = unread.unread().get(..end).unwrap_or_default().to_vec();
            unread.consume(end);
            return Ok(head);
        }
        if !io.arrive(unread) {
            return Err(if unread.is_empty() { End::Open } else { End::Incomplete });
        }
    }
}

/// The body, and the bytes that it came in.
fn read_body(framing: Framing, io: &mut Steps<'_>, unread: &mut Buffer) -> Result<(Vec<u8>, Vec<u8>), End> {
    let (mut decoder, mut body, mut framed) = (Decoder::new(framing), Vec::new(), Vec::new());
    loop {
        let (count, is_data) = match decoder.look(unread.unread()).map_err(refused)? {
            Piece::End => return Ok((body, framed)),
            Piece::Data(count) => (count, true),
            Piece::Skip(count) | Piece::Trailer(count) => (count, false),
            Piece::NeedMore if io.arrive(unread) => continue,
            Piece::NeedMore => return Err(End::Incomplete),
        };
        let taken = unread.unread().get(..count).unwrap_or_default();
        decoder.advance(taken).map_err(refused)?;
        framed.extend_from_slice(taken);
        if is_data {
            body.extend_from_slice(taken);
        }
        unread.consume(count);
    }
}

/// What the pump writes behind `head` of a body that comes in as `framed`.
fn pumped(head: Vec<u8>, framing: Framing, framed: &[u8]) -> Vec<u8> {
    let (mut from, mut unread, mut out) = (framed, Buffer::default(), Vec::new());
    let mut pump = Pump::new(head, framing, framing);
    match pump.poll(&mut Context::from_waker(Waker::noop()), &mut from, &mut unread, &mut out) {
        Poll::Ready(Ok(())) => out,
        Poll::Ready(Err(_)) | Poll::Pending => Vec::new(),
    }
}

fn refused(reason: impl ToString) -> End {
    End::Refused(reason.to_string())
}

/// Bytes that arrive little by little.
struct Steps<'a> {
    rest: &'a [u8],
    step: usize,
}

impl Steps<'_> {
    /// Moves the next bytes into `unread`; false when there are none.
    fn arrive(&mut self, unread: &mut Buffer) -> bool {
        let (now, later) = self.rest.split_at(self.step.min(self.rest.len()));
        unread.extend(now);
        self.rest = later;
        !now.is_empty()
    }
}

impl AsyncRead for Steps<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (now, later) = self.rest.split_at(self.step.min(self.rest.len()).min(into.remaining()));
        into.put_slice(now);
        self.rest = later;
        Poll::Ready(Ok(()))
    }
}

/// Reads the PROXY header at the front of `bytes`, of which `step` arrive at a time: who the connection is from, if the header
/// names somebody, and how many bytes it takes. None while it is incomplete.
///
/// # Errors
/// Why nobody is let in by it.
pub fn read_proxy_header(bytes: &[u8], step: usize) -> Result<Option<(Option<SocketAddr>, usize)>, String> {
    let mut io = Steps { rest: bytes, step: step.max(1) };
    let read = pin!(proxy_protocol::read(&mut io)).poll(&mut Context::from_waker(Waker::noop()));
    match read {
        Poll::Ready(Ok(source)) => Ok(Some((source, bytes.len() - io.rest.len()))),
        Poll::Ready(Err(Unread::Closed(_))) | Poll::Pending => Ok(None),
        Poll::Ready(Err(Unread::Invalid(reason))) => Err(reason.to_string()),
    }
}

/// An answer's head as the agent reads it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AnswerHead {
    /// The status.
    pub status: u16,
    /// Where its body ends.
    pub body: AnswerBody,
    /// How many bytes the head takes.
    pub length: usize,
    /// The head as it is written anew for a caller of HTTP/1.1.
    pub onward: Vec<u8>,
}

/// Where the body of an answer ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AnswerBody {
    /// With its last chunk.
    Chunked,
    /// With the connection.
    Close,
    /// After so many bytes.
    Length(u64),
}

/// Reads the head of an answer at the front of `bytes`, `to_head` or to another request; none while it is incomplete.
///
/// # Errors
/// Why it is not passed on.
pub fn read_answer(bytes: &[u8], to_head: bool) -> Result<Option<AnswerHead>, String> {
    let Some(head) = response::read(bytes, to_head).map_err(|bad| bad.to_string())? else { return Ok(None) };
    let caller = Caller {
        version: Version::Http11,
        keep_alive: true,
        to_head_request: to_head,
        limits: b"",
        leaks: None,
        upgrade: None,
        trailers: None,
    };
    let mut onward = Vec::new();
    let own = bytes.get(..head.length).unwrap_or_default();
    response::write_http1(&mut onward, own, &head, &caller, &RequestIds::new().next(Timestamp::FLOOR));
    let body = match head.body {
        Framing::Chunked => AnswerBody::Chunked,
        Framing::Close => AnswerBody::Close,
        Framing::Length(length) => AnswerBody::Length(length),
    };
    Ok(Some(AnswerHead { status: head.status, body, length: head.length, onward }))
}
