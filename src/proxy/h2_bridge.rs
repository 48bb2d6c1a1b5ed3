//! One request of an HTTP/1 caller over a shared HTTP/2 connection: to the caller's side it looks like a service of HTTP/1.
//!
//! What goes up was written by the agent itself, and what comes down is read as strictly as any service's answer. Trailers of
//! the service end here: a caller of HTTP/1 gets none.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex, split};

use super::buffer::{Buffer, poll_read_with};
use super::framing::{Decoder, Framing, Piece};
use super::h2_head::{Limited, Scheme, Te, each_response_field, request};
use super::h2_upstream::Seat;
use super::http_gate::head_end;
use super::response::{field, number_into};
use super::upstream::{Upstream, UpstreamIo};

/// Bytes that are under way between both sides, each way.
const ROOM: usize = 64 * 1024;

/// What looks like a connection of its own; dropped before its end it resets the stream.
pub(super) fn open(seat: Seat, scheme: Scheme) -> Upstream {
    let (near, far) = duplex(ROOM);
    let (until, bond, reused) = (seat.until(), seat.bond(), seat.is_reused());
    tokio::task::spawn_local(async move {
        if let Err(error) = carry(far, &seat, scheme).await {
            tracing::debug!(target: "postern::proxy", %error, "a stream broke off");
        }
    });
    let mut upstream = Upstream::new(UpstreamIo::Bridged(near));
    (upstream.until, upstream.bond, upstream.reused) = (until, bond, reused);
    upstream
}

/// Carries one exchange to its end.
async fn carry(far: DuplexStream, seat: &Seat, scheme: Scheme) -> io::Result<()> {
    let (mut from, mut to) = split(far);
    let mut unread = Buffer::default();
    let end = loop {
        match head_end(unread.unread()) {
            Some(end) => break end,
            None => read_more(&mut from, &mut unread).await?,
        }
    };
    let head = unread.unread().get(..end).unwrap_or_default();
    let (asked, framing) = request(head, scheme, Te::Absent).ok_or(io::ErrorKind::InvalidInput)?;
    let to_head_request = asked.method() == http::Method::HEAD;
    unread.consume(end);
    let ended = framing == Framing::Length(0);
    let (answer, stream) = seat.send(asked, ended).map_err(io::Error::other)?;
    let mut up = Up { stream, decoder: Decoder::new(framing), ended };
    let sending = poll_fn(|cx| up.poll(cx, &mut from, &mut unread));
    let receiving = bring_down(answer, &mut to, seat, to_head_request);
    // The caller's side may be gone before the answer is; the answer may be there before the whole request is.
    tokio::select! {
        biased;
        received = receiving => received,
        error = sending => Err(error),
    }
}

async fn read_more(from: &mut ReadHalf<DuplexStream>, unread: &mut Buffer) -> io::Result<()> {
    match poll_fn(|cx| poll_read_with(cx, Pin::new(&mut *from), |bytes| unread.extend(bytes))).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// The request's body on its way up.
struct Up {
    stream: SendStream<Bytes>,
    decoder: Decoder,
    ended: bool,
}

impl Up {
    /// Moves what can be moved; ready only when the caller's side has failed. What the service does not take any more is left:
    /// its answer decides.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut ReadHalf<DuplexStream>,
        unread: &mut Buffer,
    ) -> Poll<io::Error> {
        loop {
            let piece = match self.decoder.look(unread.unread()) {
                // Whether the caller's side is still there.
                _ if self.ended => Piece::NeedMore,
                Ok(piece) => piece,
                Err(error) => return Poll::Ready(io::Error::other(error)),
            };
            match piece {
                Piece::End => {
                    self.ended = true;
                    if self.stream.send_data(Bytes::new(), true).is_err() {
                        return Poll::Pending;
                    }
                }
                Piece::Skip(count) | Piece::Trailer(count) => {
                    if let Err(error) = self.advance(unread, count) {
                        return Poll::Ready(error);
                    }
                }
                Piece::Data(count) => {
                    self.stream.reserve_capacity(count);
                    if self.stream.capacity() == 0 {
                        match self.stream.poll_capacity(cx) {
                            Poll::Ready(Some(Ok(_))) => continue,
                            Poll::Ready(Some(Err(_)) | None) | Poll::Pending => return Poll::Pending,
                        }
                    }
                    let count = self.stream.capacity().min(count);
                    let data = Bytes::copy_from_slice(unread.unread().get(..count).unwrap_or_default());
                    if let Err(error) = self.advance(unread, count) {
                        return Poll::Ready(error);
                    }
                    self.ended = self.decoder.is_done();
                    if self.stream.send_data(data, self.ended).is_err() {
                        return Poll::Pending;
                    }
                }
                Piece::NeedMore => {
                    match poll_read_with(cx, Pin::new(&mut *from), |bytes| unread.extend(bytes)) {
                        Poll::Ready(Ok(0)) => return Poll::Ready(io::ErrorKind::UnexpectedEof.into()),
                        Poll::Ready(Ok(_)) => {}
                        Poll::Ready(Err(error)) => return Poll::Ready(error),
                        Poll::Pending => return Poll::Pending,
                    }
                }
            }
        }
    }

    fn advance(&mut self, unread: &mut Buffer, count: usize) -> Result<(), io::Error> {
        let taken = unread.unread().get(..count).unwrap_or_default();
        self.decoder.advance(taken).map_err(io::Error::other)?;
        unread.consume(count);
        Ok(())
    }
}

/// Writes the answer down as one of HTTP/1 that ends its connection.
async fn bring_down(
    mut answer: ResponseFuture,
    to: &mut WriteHalf<DuplexStream>,
    seat: &Seat,
    to_head_request: bool,
) -> io::Result<()> {
    let mut out = Vec::with_capacity(512);
    while let Some(interim) = poll_fn(|cx| answer.poll_informational(cx)).await {
        let interim = interim.map_err(io::Error::other)?;
        write_head(&mut out, interim.status(), interim.headers());
        out.extend_from_slice(b"\r\n");
        to.write_all(&out).await?;
    }
    let (parts, mut body) = answer.await.map_err(io::Error::other)?.into_parts();
    seat.note_answer();
    write_head(&mut out, parts.status, &parts.headers);
    field(&mut out, "connection", b"close");
    let bodiless = to_head_request || matches!(parts.status.as_u16(), 204 | 304);
    let chunked = match parts.headers.get(http::header::CONTENT_LENGTH) {
        Some(_) => false,
        None if bodiless => false,
        None if body.is_end_stream() => {
            field(&mut out, "content-length", b"0");
            false
        }
        None => {
            field(&mut out, "transfer-encoding", b"chunked");
            true
        }
    };
    out.extend_from_slice(b"\r\n");
    to.write_all(&out).await?;
    out.clear();
    while let Some(data) = body.data().await {
        let data = data.map_err(io::Error::other)?;
        stage(&mut out, &data, chunked);
        to.write_all(&out).await?;
        out.clear();
        release(&mut body, data.len());
    }
    // A stream that was reset has no end: the answer must not look whole.
    body.trailers().await.map_err(io::Error::other)?;
    if chunked {
        out.extend_from_slice(b"0\r\n\r\n");
    }
    to.write_all(&out).await?;
    to.shutdown().await
}

fn release(body: &mut RecvStream, count: usize) {
    // Fails only for more than was received, which this is not.
    drop(body.flow_control().release_capacity(count));
}

fn stage(out: &mut Vec<u8>, data: &[u8], chunked: bool) {
    if data.is_empty() {
        return;
    }
    if chunked {
        out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
    }
    out.extend_from_slice(data);
    if chunked {
        out.extend_from_slice(b"\r\n");
    }
}

fn write_head(out: &mut Vec<u8>, status: http::StatusCode, headers: &http::HeaderMap) {
    out.clear();
    out.extend_from_slice(b"HTTP/1.1 ");
    number_into(out, u64::from(status.as_u16()));
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    each_response_field(headers, Limited::No, |name, value| field(out, name.as_str(), value.as_bytes()));
}
