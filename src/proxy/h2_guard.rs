//! Follows the frames of an HTTP/2 connection by their nine bytes of header, and objects to what costs the caller next to nothing
//! and us something.
//!
//! The library that speaks HTTP/2 answers each PING and SETTINGS and reads each PRIORITY, WINDOW_UPDATE, empty or unknown frame
//! for as long as they come. Here each is charged to an account that is paid off at a steady pace, after what the connection has
//! a use for was taken off: requests come with some control frames, and so do answers that are read. And where the library forgives
//! something, or gives another reason than RFC 9113 asks for, the right one is given here first.
//!
//! One reason the library gives too late for that: it calls a field block that cannot be decoded a PROTOCOL_ERROR, as it does with
//! one that says what must not be said. So the last field block is kept, and its GOAWAY gets the right name on the way out.
//!
//! **Invariant:** a frame costs its header and nothing per byte of payload, but for field blocks, which are copied; nothing is
//! allocated for each frame but for trailers, which are looked through because the library drops the pseudo-header fields that must
//! not be there (RFC 9113 §8.1).

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::hpack::{is_unreadable, names_pseudo};
use crate::limit::Spike;
use crate::secret::wipe;

/// What a caller did that ends its connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Objection {
    /// More frames that carry nothing than anybody needs.
    ControlFlood,
    /// A frame of a length that its kind cannot have.
    FrameSize,
    /// A preface that is none, or trailers with a pseudo-header field.
    Protocol,
    /// More requests taken back than anybody needs to.
    ResetFlood,
    /// More of a stream that the caller itself has ended.
    StreamClosed,
    /// A window that is larger than there can be.
    Window,
}

impl Objection {
    /// What it is counted as.
    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::ControlFlood => "h2-control-flood",
            Self::FrameSize | Self::Protocol | Self::StreamClosed | Self::Window => "h2-protocol-error",
            Self::ResetFlood => "h2-reset-flood",
        }
    }

    /// What the caller is told (RFC 9113 §7).
    pub(super) const fn reason(self) -> Reason {
        match self {
            Self::ControlFlood | Self::ResetFlood => Reason::ENHANCE_YOUR_CALM,
            Self::FrameSize => Reason::FRAME_SIZE_ERROR,
            Self::Protocol => Reason::PROTOCOL_ERROR,
            Self::StreamClosed => Reason::STREAM_CLOSED,
            Self::Window => Reason::FLOW_CONTROL_ERROR,
        }
    }
}

/// At what pace a caller may cost something; none for as fast as it likes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paces {
    /// Frames that carry nothing.
    pub(super) control: Option<Spike>,
    /// RST_STREAM.
    pub(super) resets: Option<Spike>,
}

/// Where the connection's owner hears of an objection.
///
/// **Invariant:** the task that reads from the [`Guard`] asks here afterwards, in the same turn; nobody else is woken.
#[derive(Clone, Debug, Default)]
pub(super) struct Alarm(Rc<Cell<Option<Objection>>>);

impl Alarm {
    /// Ends upon an objection. Nothing more is read from the caller then.
    pub(super) async fn rung(&self) -> Objection {
        poll_fn(|_| self.0.get().map_or(Poll::Pending, Poll::Ready)).await
    }
}

/// A connection whose frames are followed in both directions.
#[derive(Debug)]
pub(super) struct Guard<S> {
    io: S,
    alarm: Alarm,
    incoming: Follower,
    outgoing: Follower,
    watch: Watch,
}

impl<S> Guard<S> {
    /// Follows `io` from its first byte on, which is that of the caller's preface (RFC 9113 §3.4).
    pub(super) fn new(io: S, paces: Paces) -> (Self, Alarm) {
        let alarm = Alarm::default();
        let incoming = Follower { skip: PREFACE, ..Follower::default() };
        let watch = Watch::new(paces, Instant::now());
        (Self { io, alarm: alarm.clone(), incoming, outgoing: Follower::default(), watch }, alarm)
    }

    /// `bytes`, which are to be written now, with the right reason in a GOAWAY that has a wrong one.
    fn renamed(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.outgoing.have > 0 {
            return None;
        }
        let mut at = usize::try_from(self.outgoing.skip).ok()?;
        loop {
            let head: [u8; 9] = bytes.get(at..at + 9)?.try_into().ok()?;
            let (frame, payload) = (Frame::read(head), at + 9);
            if frame.kind == kind::GOAWAY {
                // The last stream stands before it (RFC 9113 §6.8).
                let reason = payload + 4..payload + 8;
                let given = u32::from(Reason::PROTOCOL_ERROR).to_be_bytes();
                let is_wrong = bytes.get(reason.clone())? == given && is_unreadable(&self.watch.block);
                let mut renamed = bytes.to_vec();
                renamed
                    .get_mut(reason)
                    .filter(|_| is_wrong)?
                    .copy_from_slice(&u32::from(Reason::COMPRESSION_ERROR).to_be_bytes());
                return Some(renamed);
            }
            at = payload.checked_add(usize::try_from(frame.length).ok()?)?;
        }
    }

    fn note_written(&mut self, bytes: &[u8]) {
        let watch = &mut self.watch;
        self.outgoing.follow(bytes, |step| {
            if let Step::Begin(frame) = step {
                watch.sent(&frame);
            }
            true
        });
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        page: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.alarm.0.get().is_some() {
            return Poll::Pending;
        }
        let before = page.filled().len();
        if this.incoming.skip == 0 {
            this.watch.forget_block();
        }
        ready!(Pin::new(&mut this.io).poll_read(cx, page))?;
        let Self { incoming, watch, alarm, .. } = this;
        let mut objection = None;
        let arrived = page.filled().get(before..).unwrap_or_default();
        incoming.follow(arrived, |step| {
            objection = watch.received(step);
            objection.is_none()
        });
        if let Some(objection) = objection {
            // The library must not see it, nor the end of the stream before it has said goodbye.
            page.set_filled(before);
            alarm.0.set(Some(objection));
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let renamed = this.renamed(bytes);
        let bytes = renamed.as_deref().unwrap_or(bytes);
        let count = ready!(Pin::new(&mut this.io).poll_write(cx, bytes))?;
        this.note_written(bytes.get(..count).unwrap_or_default());
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first: &[u8] = slices.first().map(|slice| &**slice).unwrap_or_default();
        if self.renamed(first).is_some() {
            return self.poll_write(cx, first);
        }
        let this = &mut *self;
        let count = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, slices))?;
        let mut left = count;
        for slice in slices {
            let part = slice.get(..left.min(slice.len())).unwrap_or_default();
            this.note_written(part);
            left -= part.len();
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// > PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n — RFC 9113 §3.4
const PREFACE: u32 = 24;

/// The header of a frame (RFC 9113 §4.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Frame {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Frame {
    fn read(head: [u8; 9]) -> Self {
        let [a, b, c, kind, flags, s, t, u, v] = head;
        let stream = u32::from_be_bytes([s & 0x7f, t, u, v]);
        Self { length: u32::from_be_bytes([0, a, b, c]), kind, flags, stream }
    }

    const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// > An endpoint MUST send an error code of FRAME_SIZE_ERROR if a frame […] is too small to contain mandatory frame data.
    /// > — RFC 9113 §4.2
    const fn has_possible_length(&self) -> bool {
        match self.kind {
            kind::PING => self.length == 8,
            kind::PRIORITY => self.length == 5,
            kind::RST_STREAM | kind::WINDOW_UPDATE => self.length == 4,
            kind::SETTINGS if self.has(ACK) => self.length == 0,
            kind::SETTINGS => self.length.is_multiple_of(6),
            _ => true,
        }
    }
}

mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const PRIORITY: u8 = 2;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
}

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const ACK: u8 = 0x1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// A piece of a frame.
enum Step<'b> {
    /// Its header is there.
    Begin(Frame),
    /// Some of its payload, or the last of it.
    Payload(&'b [u8], Last),
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Last {
    No,
    Yes,
}

/// Where in a frame a stream of bytes stands.
#[derive(Debug, Default)]
struct Follower {
    head: [u8; 9],
    have: usize,
    /// Payload that is still to come.
    skip: u32,
}

impl Follower {
    /// Takes the next bytes apart, for as long as `tell` wants to hear of them.
    fn follow(&mut self, mut bytes: &[u8], mut tell: impl FnMut(Step<'_>) -> bool) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let count = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                let (payload, rest) = bytes.split_at(count);
                bytes = rest;
                self.skip -= u32::try_from(count).unwrap_or(self.skip);
                let last = if self.skip == 0 { Last::Yes } else { Last::No };
                if !tell(Step::Payload(payload, last)) {
                    return;
                }
                continue;
            }
            let count = (self.head.len() - self.have).min(bytes.len());
            let (part, rest) = bytes.split_at(count);
            bytes = rest;
            if let Some(room) = self.head.get_mut(self.have..self.have + count) {
                room.copy_from_slice(part);
            }
            self.have += count;
            if self.have < self.head.len() {
                return;
            }
            self.have = 0;
            let frame = Frame::read(self.head);
            self.skip = frame.length;
            if !tell(Step::Begin(frame)) {
                return;
            }
        }
    }
}

/// Control frames that go with a request: a window for its answer, a priority, and what measures the way.
const WITH_REQUEST: u32 = 4;

/// Control frames that go with a frame of an answer: a window each for the stream and the connection, and a PING.
const WITH_DATA: u32 = 3;

/// As many frames as an answer to no PING counts for.
const UNASKED: u32 = 100;

/// So many control frames nobody has in store.
const MOST_STORED: u32 = 4096;

/// SETTINGS of more bytes than this are not looked into.
const MOST_SETTINGS: u32 = 600;

/// So many streams that we have cut are remembered, as by the library.
const REMEMBERED_CUTS: usize = 64;

/// Requests with bodies under way that are known by number; trailers of further ones are not looked at.
const KNOWN_BODIES: usize = 1024;

/// What a connection has cost, and where its requests stand.
#[derive(Debug)]
struct Watch {
    control: Account,
    resets: Account,
    /// Control frames that are not charged.
    stored: u32,
    /// PINGs of ours that were not answered.
    pings: u32,
    /// Whether the first frame was there.
    greeted: bool,
    /// The highest stream that the caller has opened.
    opened: u32,
    /// Streams of which more is to come.
    bodies: Vec<u32>,
    /// Whether there are more of those than are known.
    overfull: bool,
    /// Streams that we have cut: of these more may have been under way.
    cut: VecDeque<u32>,
    /// What is to be looked at when it is there: trailers, or settings.
    held: Option<(Frame, Vec<u8>)>,
    /// The field block that came last, as far as it is there; nothing of one that is too large or padded.
    block: Vec<u8>,
    /// Whether what arrives now belongs to it.
    within_block: bool,
    /// Whether nothing more of it comes in another frame.
    ends_block: bool,
}

impl Watch {
    const fn new(paces: Paces, now: Instant) -> Self {
        Self {
            control: Account { pace: paces.control, due: now },
            resets: Account { pace: paces.resets, due: now },
            stored: 0,
            pings: 0,
            greeted: false,
            opened: 0,
            bodies: Vec::new(),
            overfull: false,
            cut: VecDeque::new(),
            held: None,
            block: Vec::new(),
            within_block: false,
            ends_block: false,
        }
    }

    /// Forgets the field block that is there as a whole. Whoever reads on has decoded it, and there may be a secret in it.
    fn forget_block(&mut self) {
        if self.ends_block {
            wipe(&mut self.block);
            self.block.clear();
        }
    }

    fn received(&mut self, step: Step<'_>) -> Option<Objection> {
        match step {
            Step::Begin(frame) => self.begun(frame).err(),
            Step::Payload(bytes, last) => self.payload(bytes, last),
        }
    }

    fn begun(&mut self, frame: Frame) -> Result<(), Objection> {
        // > The SETTINGS frame MUST be the first frame sent by either peer. — RFC 9113 §3.4
        if !std::mem::replace(&mut self.greeted, true) && (frame.kind != kind::SETTINGS || frame.has(ACK)) {
            return Err(Objection::Protocol);
        }
        if !frame.has_possible_length() {
            return Err(Objection::FrameSize);
        }
        if frame.kind == kind::HEADERS {
            wipe(&mut self.block);
            self.block.clear();
        }
        if matches!(frame.kind, kind::HEADERS | kind::CONTINUATION) {
            self.ends_block = frame.has(END_HEADERS);
        }
        // What is padded, or has a priority, has more in it than its field block, and nobody sends that any more.
        let is_plain = frame.kind == kind::CONTINUATION || !(frame.has(PADDED) || frame.has(PRIORITY));
        self.within_block = is_plain && matches!(frame.kind, kind::HEADERS | kind::CONTINUATION);
        match frame.kind {
            kind::DATA | kind::HEADERS => self.content(frame),
            kind::RST_STREAM => {
                self.forget(frame.stream);
                self.resets.charge(1).map_err(|Overdrawn| Objection::ResetFlood)
            }
            kind::PING if frame.has(ACK) && self.pings > 0 => {
                self.pings -= 1;
                Ok(())
            }
            // Nobody asked; the library would write each one of them into the log.
            kind::PING if frame.has(ACK) => self.carries_nothing(UNASKED),
            kind::SETTINGS => {
                if frame.length > 0 && frame.length <= MOST_SETTINGS {
                    self.held = Some((frame, Vec::new()));
                }
                self.carries_nothing(1)
            }
            _ if self.stored > 0 => {
                self.stored -= 1;
                Ok(())
            }
            _ => self.carries_nothing(1),
        }
    }

    /// A piece of a request.
    fn content(&mut self, frame: Frame) -> Result<(), Objection> {
        let is_new = frame.kind == kind::HEADERS && frame.stream > self.opened;
        if is_new {
            self.opened = frame.stream;
            self.store(WITH_REQUEST);
            if !frame.has(END_STREAM) {
                self.remember(frame.stream);
            }
            return Ok(());
        }
        let goes_on = self.bodies.contains(&frame.stream);
        // > If an endpoint receives additional frames […] for a stream that is in this state, it MUST respond with a stream error
        // > of type STREAM_CLOSED. — RFC 9113 §5.1, of a stream whose peer has ended it
        if !goes_on && self.was_ended(frame.stream) {
            return Err(Objection::StreamClosed);
        }
        if frame.has(END_STREAM) {
            self.forget(frame.stream);
        }
        if frame.kind == kind::HEADERS && goes_on && frame.length > 0 {
            self.held = Some((frame, Vec::new()));
        }
        if frame.kind == kind::DATA && frame.length == 0 && !frame.has(END_STREAM) {
            return self.carries_nothing(1);
        }
        Ok(())
    }

    /// Whether the caller has opened this stream, and ended it.
    fn was_ended(&self, stream: u32) -> bool {
        let is_one = stream % 2 == 1 && stream <= self.opened;
        is_one && !self.overfull && !self.cut.contains(&stream)
    }

    fn carries_nothing(&mut self, frames: u32) -> Result<(), Objection> {
        self.control.charge(frames).map_err(|Overdrawn| Objection::ControlFlood)
    }

    fn payload(&mut self, bytes: &[u8], last: Last) -> Option<Objection> {
        if self.within_block && self.block.len() + bytes.len() <= LARGEST_FRAME {
            self.block.extend_from_slice(bytes);
        }
        let (_, held) = self.held.as_mut()?;
        // The library refuses a larger frame than this.
        if held.len() + bytes.len() <= LARGEST_FRAME {
            held.extend_from_slice(bytes);
        }
        if last == Last::No {
            return None;
        }
        let (frame, held) = self.held.take()?;
        match frame.kind {
            kind::SETTINGS => opens_too_wide(&held).then_some(Objection::Window),
            _ => names_pseudo(fragment(&frame, &held)).then_some(Objection::Protocol),
        }
    }

    /// We have sent this.
    fn sent(&mut self, frame: &Frame) {
        match frame.kind {
            kind::DATA => self.store(WITH_DATA),
            kind::PING if !frame.has(ACK) => self.pings += 1,
            kind::RST_STREAM => {
                self.forget(frame.stream);
                if self.cut.len() >= REMEMBERED_CUTS {
                    self.cut.pop_front();
                }
                self.cut.push_back(frame.stream);
            }
            _ => {}
        }
    }

    fn store(&mut self, more: u32) {
        self.stored = (self.stored + more).min(MOST_STORED);
    }

    fn remember(&mut self, stream: u32) {
        if self.bodies.len() < KNOWN_BODIES {
            self.bodies.push(stream);
        } else {
            self.overfull = true;
        }
    }

    fn forget(&mut self, stream: u32) {
        if let Some(at) = self.bodies.iter().position(|&found| found == stream) {
            self.bodies.swap_remove(at);
        }
    }
}

/// What has been charged, as the moment at which it is paid off.
#[derive(Debug)]
struct Account {
    pace: Option<Spike>,
    due: Instant,
}

impl Account {
    /// Charges so many frames.
    ///
    /// # Errors
    /// That is too much.
    fn charge(&mut self, frames: u32) -> Result<(), Overdrawn> {
        let Some(pace) = &self.pace else { return Ok(()) };
        let now = Instant::now();
        self.due = self.due.max(now) + pace.interval().saturating_mul(frames);
        let most = pace.interval().saturating_mul(u32::try_from(pace.at_once()).unwrap_or(u32::MAX));
        if self.due.duration_since(now) > most { Err(Overdrawn) } else { Ok(()) }
    }
}

/// More was charged than may come at once.
struct Overdrawn;

/// > An endpoint MUST send an error code of FRAME_SIZE_ERROR if a frame exceeds the size defined in SETTINGS_MAX_FRAME_SIZE
/// > — RFC 9113 §4.2
///
/// We never announce more than the least that there can be.
const LARGEST_FRAME: usize = 16 * 1024;

/// Whether SETTINGS ask for a window that cannot be.
///
/// > Values above the maximum flow-control window size of 2^31-1 MUST be treated as a connection error of type
/// > FLOW_CONTROL_ERROR. — RFC 9113 §6.5.2, of SETTINGS_INITIAL_WINDOW_SIZE (4)
fn opens_too_wide(settings: &[u8]) -> bool {
    settings.chunks_exact(6).any(|setting| matches!(setting, [0, 4, high, ..] if *high >= 0x80))
}

/// The field block within the payload of HEADERS (RFC 9113 §6.2).
fn fragment<'b>(frame: &Frame, payload: &'b [u8]) -> &'b [u8] {
    let (mut from, mut to) = (0, payload.len());
    if frame.has(PADDED) {
        from += 1;
        to = to.saturating_sub(payload.first().copied().map_or(0, usize::from));
    }
    if frame.has(PRIORITY) {
        from += 5;
    }
    payload.get(from..to).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn paces(control: &str, resets: &str, burst: u32) -> Paces {
        let pace = |rate: &str| Some(Spike::new(rate.parse().unwrap(), burst));
        Paces { control: pace(control), resets: pace(resets) }
    }

    fn watch() -> Watch {
        let mut watch = Watch::new(paces("10/s", "10/s", 9), Instant::now());
        watch.greeted = true;
        watch
    }

    /// What comes of `bytes`, however they are cut into pieces.
    fn objection(watch: &mut Watch, bytes: &[u8]) -> Option<Objection> {
        let mut follower = Follower::default();
        let mut found = None;
        for piece in bytes.chunks(5) {
            follower.follow(piece, |step| {
                found = watch.received(step);
                found.is_none()
            });
            if found.is_some() {
                break;
            }
        }
        found
    }

    #[tokio::test(start_paused = true)]
    async fn every_frame_that_carries_nothing_is_charged() {
        let kinds: [(&str, u8, u8, &[u8]); 7] = [
            ("PING", 6, 0, &[0; 8]),
            ("SETTINGS", 4, 0, &[]),
            ("SETTINGS that answer", 4, 1, &[]),
            ("PRIORITY", 2, 0, &[0; 5]),
            ("WINDOW_UPDATE", 8, 0, &[0, 0, 0, 1]),
            ("CONTINUATION", 9, 0, &[]),
            ("an unknown one", 0xee, 0, b"abc"),
        ];
        for (what, kind, flags, payload) in kinds {
            let mut watch = watch();
            let one = frame(kind, flags, 0, payload);
            assert_eq!(objection(&mut watch, &one.repeat(10)), None, "{what}");
            assert_eq!(objection(&mut watch, &one), Some(Objection::ControlFlood), "{what}");
        }
        let mut watch = watch();
        let (opened, empty) = (frame(1, 0x4, 1, b"\x83"), frame(0, 0, 1, &[]));
        assert_eq!(objection(&mut watch, &[opened, empty.repeat(10)].concat()), None);
        assert_eq!(objection(&mut watch, &empty), Some(Objection::ControlFlood));
        let mut watch = self::watch();
        watch.sent(&Frame { length: 8, kind: 6, flags: 0, stream: 0 });
        let pong = frame(6, 1, 0, &[0; 8]);
        assert_eq!(objection(&mut watch, &pong), None);
        assert_eq!(objection(&mut watch, &pong), Some(Objection::ControlFlood), "nobody has asked");
        let reset = frame(3, 0, 1, &[0, 0, 0, 8]);
        let mut watch = self::watch();
        assert_eq!(objection(&mut watch, &reset.repeat(10)), None);
        assert_eq!(objection(&mut watch, &reset), Some(Objection::ResetFlood));
    }

    #[tokio::test(start_paused = true)]
    async fn the_account_is_paid_off_in_time() {
        let mut watch = watch();
        let ping = frame(6, 0, 0, &[0; 8]);
        assert_eq!(objection(&mut watch, &ping.repeat(10)), None);

        tokio::time::advance(Duration::from_millis(500)).await;

        assert_eq!(objection(&mut watch, &ping.repeat(5)), None);
        assert_eq!(objection(&mut watch, &ping), Some(Objection::ControlFlood));
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_with_requests_and_answers_is_not_charged() {
        let mut watch = watch();
        let update = frame(8, 0, 0, &[0, 0, 0, 1]);
        for stream in 0..1000 {
            let request = frame(1, 0x5, 2 * stream + 1, b"\x82");
            assert_eq!(objection(&mut watch, &request), None);
            assert_eq!(objection(&mut watch, &update.repeat(4)), None);
        }
        for _ in 0..10_000 {
            watch.sent(&Frame { length: 1, kind: 0, flags: 0, stream: 1 });
            assert_eq!(objection(&mut watch, &update.repeat(3)), None);
        }
        assert_eq!(objection(&mut watch, &update.repeat(10)), None);
        assert_eq!(objection(&mut watch, &update), Some(Objection::ControlFlood));
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_of_any_length_cost_nothing() {
        let mut watch = watch();
        let opened = frame(1, 0x4, 1, b"\x83");
        let data = frame(0, 0, 1, &[7; 1000]);

        assert_eq!(objection(&mut watch, &[opened, data.repeat(1000)].concat()), None);

        assert_eq!(watch.bodies, [1]);
        assert_eq!(objection(&mut watch, &frame(0, 1, 1, &[])), None);
        assert!(watch.bodies.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_library_takes_for_something_else_gets_its_right_name() {
        let wrong: [(&str, Vec<u8>, Objection); 8] = [
            ("a short PING", frame(6, 0, 0, &[0; 7]), Objection::FrameSize),
            ("a long PRIORITY", frame(2, 0, 1, &[0; 6]), Objection::FrameSize),
            ("a short RST_STREAM", frame(3, 0, 1, &[0; 3]), Objection::FrameSize),
            ("a short WINDOW_UPDATE", frame(8, 0, 0, &[0; 3]), Objection::FrameSize),
            ("half a setting", frame(4, 0, 0, &[0; 9]), Objection::FrameSize),
            ("an acknowledgement that carries something", frame(4, 1, 0, &[0; 6]), Objection::FrameSize),
            (
                "a window that cannot be",
                frame(4, 0, 0, &[0, 2, 0, 0, 0, 0, 0, 4, 0x80, 0, 0, 0]),
                Objection::Window,
            ),
            ("DATA behind the end", frame(0, 0, 1, b"x"), Objection::StreamClosed),
        ];
        for (what, bytes, expected) in wrong {
            let mut watch = watch();
            assert_eq!(objection(&mut watch, &frame(1, 0x5, 1, b"\x82")), None, "{what}");
            assert_eq!(objection(&mut watch, &bytes), Some(expected), "{what}");
        }
        let mut fresh = Watch::new(paces("10/s", "10/s", 9), Instant::now());
        assert_eq!(objection(&mut fresh, &frame(6, 0, 0, &[0; 8])), Some(Objection::Protocol));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_under_way_when_we_cut_a_stream_is_no_fault() {
        let mut watch = watch();
        assert_eq!(objection(&mut watch, &frame(1, 0x4, 1, b"\x83")), None);

        watch.sent(&Frame { length: 4, kind: 3, flags: 0, stream: 1 });

        assert_eq!(objection(&mut watch, &frame(0, 0, 1, b"x").repeat(3)), None);
        assert_eq!(objection(&mut watch, &frame(0, 1, 1, b"x")), None);
    }

    #[tokio::test(start_paused = true)]
    async fn trailers_with_a_pseudo_header_field_are_found() {
        let plain = b"\x40\x03abc\x01x".to_vec();
        let cases: [(&str, Vec<u8>, Option<Objection>); 8] = [
            ("a plain one", plain.clone(), None),
            ("a method by number", [plain, vec![0x82]].concat(), Some(Objection::Protocol)),
            ("a path with a new value", b"\x44\x02/x".to_vec(), Some(Objection::Protocol)),
            ("a path that is not kept", b"\x04\x02/x".to_vec(), Some(Objection::Protocol)),
            ("one by letters", b"\x00\x05:path\x01/".to_vec(), Some(Objection::Protocol)),
            (
                "one by Huffman's letters",
                b"\x00\x84\xb9\x58\xd3\x3f\x01/".to_vec(),
                Some(Objection::Protocol),
            ),
            ("behind a change of the table", b"\x20\x82".to_vec(), Some(Objection::Protocol)),
            ("one that is cut off", b"\x40\x05:pa".to_vec(), None),
        ];
        for (what, block, expected) in cases {
            let mut watch = watch();
            let opened = frame(1, 0x4, 1, b"\x82\x84\x87");
            let padded = [b"\x02".as_slice(), &[0; 5], block.as_slice(), &[0, 0]].concat();
            assert_eq!(objection(&mut watch, &opened), None, "{what}");
            assert_eq!(objection(&mut watch, &frame(1, 0x2d, 1, &padded)), expected, "{what}");
        }
    }

    #[tokio::test]
    async fn nothing_of_a_flood_is_read_on_and_its_owner_hears_of_it() {
        let (mut caller, ours) = tokio::io::duplex(4096);
        let (mut guard, alarm) = Guard::new(ours, paces("10/s", "10/s", 0));
        caller.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut page = [0; 1024];
        assert_eq!(guard.read(&mut page).await.unwrap(), 24);

        caller.write_all(&[frame(4, 0, 0, &[]), frame(6, 0, 0, &[0; 8])].concat()).await.unwrap();

        let heard = tokio::select! {
            biased;
            read = guard.read(&mut page) => panic!("{read:?}"),
            objection = alarm.rung() => objection,
        };
        assert_eq!(heard, Objection::ControlFlood);
    }

    /// The reason that the caller hears, if the library gives `reason` after it has read `bytes`.
    async fn heard(bytes: &[u8], reason: Reason) -> u32 {
        let (mut caller, ours) = tokio::io::duplex(4096);
        let (mut guard, _alarm) = Guard::new(ours, paces("10/s", "10/s", 9));
        let greeting = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", frame(4, 0, 0, &[]).as_slice()].concat();
        let mut page = [0; 1024];
        for bytes in [&greeting, bytes] {
            caller.write_all(bytes).await.unwrap();
            assert_eq!(guard.read(&mut page).await.unwrap(), bytes.len());
        }

        let goaway = [[0, 0, 0, 0], u32::from(reason).to_be_bytes()].concat();
        let written = [frame(6, 1, 0, &[0; 8]), frame(7, 0, 0, &goaway)].concat();
        let count = guard.write_vectored(&[IoSlice::new(&written)]).await.unwrap();
        assert_eq!(count, written.len());

        let mut heard = [0; 1024];
        let count = caller.read(&mut heard).await.unwrap();
        u32::from_be_bytes(heard[count - 4..count].try_into().unwrap())
    }

    #[tokio::test]
    async fn a_field_block_is_forgotten_once_it_was_decoded() {
        let (mut caller, ours) = tokio::io::duplex(4096);
        let (mut guard, _alarm) = Guard::new(ours, paces("10/s", "10/s", 9));
        let begun = [frame(4, 0, 0, &[]), frame(1, 0x1, 1, b"\x82")].concat();
        let mut page = [0; 1024];
        for (bytes, kept) in [
            ([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", begun.as_slice()].concat(), &b"\x82"[..]),
            (frame(9, 0x4, 1, b"\x84"), b"\x82\x84"),
            (frame(6, 0, 0, &[0; 8]), b""),
        ] {
            caller.write_all(&bytes).await.unwrap();
            assert_eq!(guard.read(&mut page).await.unwrap(), bytes.len());
            assert_eq!(guard.watch.block, kept);
        }
    }

    #[tokio::test]
    async fn what_cannot_be_decoded_is_called_so() {
        let (wrong, right) = (Reason::PROTOCOL_ERROR, Reason::COMPRESSION_ERROR);
        let block = frame(1, 0x5, 1, b"\x82\x80");
        let parts = [frame(1, 0x1, 1, b"\x82\x40\x03ab"), frame(9, 0x4, 1, b"c\x05x")].concat();
        let cases: [(&str, Vec<u8>, Reason, Reason); 7] = [
            ("a field block", block.clone(), wrong, right),
            ("one in parts", parts, wrong, right),
            ("a second one", [frame(1, 0x5, 1, b"\x82"), frame(1, 0x5, 3, b"\x80")].concat(), wrong, right),
            ("another reason", block.clone(), Reason::ENHANCE_YOUR_CALM, Reason::ENHANCE_YOUR_CALM),
            ("a name that no field has", frame(1, 0x5, 1, b"\x00\x01A\x01b"), wrong, wrong),
            ("nothing of the kind", frame(6, 0, 0, &[0; 8]), wrong, wrong),
            ("one that was followed by another", [block, frame(1, 0x5, 3, b"\x82")].concat(), wrong, wrong),
        ];
        for (what, bytes, given, expected) in cases {
            assert_eq!(heard(&bytes, given).await, u32::from(expected), "{what}");
        }
    }
}
