//! Moves one message body from a reader to a writer and frames it anew on the way.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

use super::buffer::{Buffer, poll_read_with};
use super::drip::Waiting;
use super::framing::{Decoder, Framing, InvalidBody, Piece};
use super::leaks::{Blocked, Scan};
use super::trailers::Trailers;
use crate::credential::DigestCheck;

/// Up to this size body bytes are copied behind the head, so that both leave in one write.
const JOIN: usize = 16 * 1024;

/// A body on its way, with the head that goes before it.
#[derive(Debug)]
pub(super) struct Pump {
    decoder: Decoder,
    chunked: bool,
    staged: Vec<u8>,
    written: usize,
    ended: bool,
    flushed: bool,
    moved: u64,
    /// For whom it waits, when it waits.
    waiting: Waiting,
    /// What the body must be; taken when it has been compared.
    digest: Option<DigestCheck>,
    /// Looks for secrets in the body, and lets pass what may.
    scan: Option<Scan>,
    /// What it has let pass.
    passed: Vec<u8>,
    /// What of the trailers passes, if anything may.
    trailers: Option<Box<Trailers>>,
}

/// Whose fault it is that a body did not arrive.
#[derive(Debug, thiserror::Error)]
pub(super) enum PumpError {
    #[error("the sender's body is malformed")]
    Body(#[source] InvalidBody),
    #[error("the sender's body is not the one that it has signed")]
    Digest,
    #[error("the sender's body holds a secret of ours")]
    Leak,
    #[error("the sender's body comes too slowly")]
    Slow,
    #[error("the sender cannot be read from")]
    Read(#[source] io::Error),
    #[error("the sender's trailers say where a message ends or goes")]
    Trailers,
    #[error("the receiver cannot be written to")]
    Write(#[source] io::Error),
}

impl Pump {
    /// A pump that writes `head` first, then the body that is read as `from` and written as `to`.
    pub(super) fn new(head: Vec<u8>, from: Framing, to: Framing) -> Self {
        let chunked = to == Framing::Chunked;
        let decoder = Decoder::new(from);
        Self {
            decoder,
            chunked,
            staged: head,
            written: 0,
            ended: false,
            flushed: false,
            moved: 0,
            waiting: Waiting::ForOthers,
            digest: None,
            scan: None,
            passed: Vec::new(),
            trailers: None,
        }
    }

    /// The same, but these trailers pass, where the body is written in chunks.
    pub(super) fn followed_by(self, trailers: Option<Box<Trailers>>) -> Self {
        Self { trailers, ..self }
    }

    /// The same, but the body is looked through, and cut where it must be.
    pub(super) fn scanned(self, scan: Option<Scan>) -> Self {
        Self { scan, ..self }
    }

    /// The same, but the end of the body is written only if the whole is what `digest` says.
    ///
    /// **Invariant:** whoever reads at the other end never sees the end of a body that is not the signed one: of a body of
    /// known length the last bytes are held back, of a chunked one the last chunk.
    pub(super) fn expecting(self, digest: Option<DigestCheck>) -> Self {
        Self { digest: digest.filter(|_| !self.decoder.is_done()), ..self }
    }

    /// Bytes of body that were moved so far.
    pub(super) const fn moved(&self) -> u64 {
        self.moved
    }

    /// For whom it waits, if it could not go on.
    pub(super) const fn waiting(&self) -> Waiting {
        self.waiting
    }

    /// Whether everything was written and flushed.
    pub(super) const fn is_done(&self) -> bool {
        self.flushed
    }

    /// The memory of the head, to be used again. Where no body went with it, it still holds the head.
    pub(super) fn into_scratch(self) -> Vec<u8> {
        self.staged
    }

    /// Moves as much as can be moved now.
    ///
    /// # Errors
    /// The first thing that went wrong, by side.
    pub(super) fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        unread: &mut Buffer,
        to: &mut W,
    ) -> Poll<Result<(), PumpError>>
    where
        R: AsyncRead + Unpin + ?Sized,
        W: AsyncWrite + Unpin + ?Sized,
    {
        self.waiting = Waiting::ForOthers;
        loop {
            if self.ended && self.written >= self.staged.len() {
                let flushed = Pin::new(&mut *to).poll_flush(cx).map_err(PumpError::Write);
                self.flushed = matches!(flushed, Poll::Ready(Ok(())));
                return flushed;
            }
            self.stage(unread)?;
            if self.written < self.staged.len() {
                let rest = self.staged.get(self.written..).unwrap_or_default();
                match Pin::new(&mut *to).poll_write(cx, rest) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Err(PumpError::Write(io::ErrorKind::WriteZero.into())));
                    }
                    Poll::Ready(Ok(count)) => self.written += count,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(PumpError::Write(error))),
                    Poll::Pending => return Poll::Pending,
                }
                continue;
            }
            if self.ended {
                continue;
            }
            match self.decoder.look(unread.unread()).map_err(PumpError::Body)? {
                Piece::Data(count) => {
                    // Only large pieces of unchunked bodies get here: they are written from where they lie.
                    let data = unread.unread().get(..count).unwrap_or_default();
                    match Pin::new(&mut *to).poll_write(cx, data) {
                        Poll::Ready(Ok(0)) => {
                            return Poll::Ready(Err(PumpError::Write(io::ErrorKind::WriteZero.into())));
                        }
                        Poll::Ready(Ok(count)) => self.take(unread, count)?,
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(PumpError::Write(error))),
                        Poll::Pending => return Poll::Pending,
                    }
                }
                Piece::End | Piece::Skip(_) | Piece::Trailer(_) => {}
                Piece::NeedMore => {
                    match poll_read_with(cx, Pin::new(&mut *from), |bytes| unread.extend(bytes)) {
                        Poll::Ready(Ok(0)) => self.decoder.finish().map_err(PumpError::Body)?,
                        Poll::Ready(Ok(_)) => {}
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(PumpError::Read(error))),
                        Poll::Pending => {
                            self.waiting = Waiting::ForCaller;
                            return match Pin::new(&mut *to).poll_flush(cx) {
                                Poll::Ready(Err(error)) => Poll::Ready(Err(PumpError::Write(error))),
                                Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                            };
                        }
                    }
                }
            }
        }
    }

    /// Copies what is small, and all framing, behind the head.
    fn stage(&mut self, unread: &mut Buffer) -> Result<(), PumpError> {
        if self.written > 0 && self.written >= self.staged.len() {
            self.staged.clear();
            self.written = 0;
        }
        while !self.ended && self.staged.len() < JOIN {
            match self.decoder.look(unread.unread()).map_err(PumpError::Body)? {
                Piece::NeedMore => return Ok(()),
                Piece::Skip(count) => self.skip(unread, count)?,
                Piece::Trailer(count) => {
                    if let Some(trailers) = &mut self.trailers {
                        trailers.keep_line(unread.unread().get(..count).unwrap_or_default());
                    }
                    self.skip(unread, count)?;
                }
                Piece::End => {
                    self.compare()?;
                    let trailers =
                        self.trailers.as_ref().map(|trailers| trailers.lines()).unwrap_or_default();
                    if let Some(scan) = &mut self.scan {
                        scan.leaks().look_at_whole(trailers).map_err(|Blocked| PumpError::Leak)?;
                        scan.finish(&mut self.passed);
                        self.stage_passed();
                    }
                    if self.chunked {
                        self.stage_end();
                    }
                    self.ended = true;
                }
                Piece::Data(count) => {
                    let room = JOIN - self.staged.len();
                    let count = match &self.digest {
                        // A signed body is copied however large it is: nothing of it may leave before it is looked at.
                        Some(_) => count.min(room),
                        // Nor of one that is looked through.
                        None if self.scan.is_some() => count.min(room),
                        None if !self.chunked && count > room => return Ok(()),
                        None => count,
                    };
                    let data = unread.unread().get(..count).unwrap_or_default();
                    if let Some(digest) = &mut self.digest {
                        digest.update(data);
                    }
                    if let Some(scan) = &mut self.scan {
                        scan.pass(data, &mut self.passed).map_err(|Blocked| PumpError::Leak)?;
                        self.stage_passed();
                    } else {
                        stage_data(&mut self.staged, data, self.chunked);
                    }
                    self.take(unread, count)?;
                    if self.decoder.is_done() {
                        self.compare()?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The last chunk, and what follows it.
    fn stage_end(&mut self) {
        self.staged.extend_from_slice(b"0\r\n");
        if let Some(trailers) = &self.trailers {
            self.staged.extend_from_slice(trailers.lines());
        }
        self.staged.extend_from_slice(b"\r\n");
    }

    /// Copies what has been looked through and may pass.
    fn stage_passed(&mut self) {
        if !self.passed.is_empty() {
            stage_data(&mut self.staged, &self.passed, self.chunked);
            self.passed.clear();
        }
    }

    /// Compares the body, of which nothing more comes, with what was signed.
    fn compare(&mut self) -> Result<(), PumpError> {
        if self.digest.take().is_none_or(DigestCheck::matches) { Ok(()) } else { Err(PumpError::Digest) }
    }

    fn take(&mut self, unread: &mut Buffer, count: usize) -> Result<(), PumpError> {
        self.moved += u64::try_from(count).unwrap_or(u64::MAX);
        self.skip(unread, count)
    }

    fn skip(&mut self, unread: &mut Buffer, count: usize) -> Result<(), PumpError> {
        let taken = unread.unread().get(..count).unwrap_or_default();
        self.decoder.advance(taken).map_err(PumpError::Body)?;
        unread.consume(count);
        Ok(())
    }
}

/// Copies a piece of body, as a chunk where it is to be one.
fn stage_data(staged: &mut Vec<u8>, data: &[u8], chunked: bool) {
    if chunked {
        staged.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
    }
    staged.extend_from_slice(data);
    if chunked {
        staged.extend_from_slice(b"\r\n");
    }
}

impl From<PumpError> for Poll<Result<(), PumpError>> {
    fn from(error: PumpError) -> Self {
        Self::Ready(Err(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pumped(head: &str, wire: &[u8], from: Framing, to: Framing) -> (Vec<u8>, u64) {
        let (mut reader, mut out, mut unread) = (wire, Vec::new(), Buffer::default());
        let mut pump = Pump::new(head.into(), from, to);
        std::future::poll_fn(|cx| pump.poll(cx, &mut reader, &mut unread, &mut out)).await.unwrap();
        (out, pump.moved())
    }

    #[tokio::test]
    async fn a_body_is_framed_anew() {
        let (out, moved) =
            pumped("HEAD", b"5\r\nhello\r\n0\r\n\r\n", Framing::Chunked, Framing::Chunked).await;
        assert_eq!((out.as_slice(), moved), (b"HEAD5\r\nhello\r\n0\r\n\r\n".as_slice(), 5));

        let (out, _) = pumped("HEAD", b"hello", Framing::Length(5), Framing::Length(5)).await;
        assert_eq!(out, b"HEADhello");

        let (out, _) = pumped("HEAD", b"hello", Framing::Close, Framing::Chunked).await;
        assert_eq!(out, b"HEAD5\r\nhello\r\n0\r\n\r\n");

        let (out, _) = pumped("HEAD", b"", Framing::Length(0), Framing::Length(0)).await;
        assert_eq!(out, b"HEAD");
    }

    #[tokio::test]
    async fn a_large_body_arrives_whole() {
        let body: Vec<u8> = (0..1_000_000_u32).map(|number| u8::try_from(number % 251).unwrap()).collect();

        let (plain, moved) = pumped("H", &body, Framing::Length(1_000_000), Framing::Length(1_000_000)).await;
        let (chunked, _) = pumped("", &body, Framing::Length(1_000_000), Framing::Chunked).await;

        assert_eq!((&plain[1..], moved), (body.as_slice(), 1_000_000));
        let mut unread = chunked.as_slice();
        let (mut back, mut source, mut buffer) = (Vec::new(), &mut unread, Buffer::default());
        let mut pump = Pump::new(Vec::new(), Framing::Chunked, Framing::Length(1_000_000));
        std::future::poll_fn(|cx| pump.poll(cx, &mut source, &mut buffer, &mut back)).await.unwrap();
        assert_eq!(back, body);
    }

    #[tokio::test]
    async fn a_truncated_body_is_the_senders_fault() {
        let (mut reader, mut out, mut unread) = (b"hel".as_slice(), Vec::new(), Buffer::default());
        let mut pump = Pump::new(Vec::new(), Framing::Length(5), Framing::Length(5));

        let result = std::future::poll_fn(|cx| pump.poll(cx, &mut reader, &mut unread, &mut out)).await;

        assert!(matches!(result, Err(PumpError::Body(InvalidBody::Truncated))));
    }
    /// Takes everything at once, like a TLS stream before a full socket, and lets go of it only when it is flushed.
    #[derive(Default)]
    struct Hesitant {
        sent: Vec<u8>,
        held: Vec<u8>,
        asked: bool,
    }

    impl AsyncWrite for Hesitant {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.held.extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            if !std::mem::replace(&mut self.asked, true) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let held = std::mem::take(&mut self.held);
            self.sent.extend(held);
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.poll_flush(cx)
        }
    }

    #[tokio::test]
    async fn a_pump_is_done_only_when_its_last_byte_has_left() {
        let (mut reader, mut to, mut unread) = (b"hello".as_slice(), Hesitant::default(), Buffer::default());
        let mut pump = Pump::new(Vec::new(), Framing::Length(5), Framing::Length(5));

        // As a relay does it: a pump that is done is not polled again.
        std::future::poll_fn(|cx| {
            if pump.is_done() {
                return Poll::Ready(());
            }
            pump.poll(cx, &mut reader, &mut unread, &mut to).map(|moved| moved.unwrap())
        })
        .await;

        assert_eq!(to.sent, b"hello");
    }
}
