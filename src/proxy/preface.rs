//! The first bytes of a local connection: HTTP/2 with prior knowledge begins with a preface that is no HTTP/1 request.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// > In HTTP/2, each endpoint is required to send a connection preface as a final confirmation of the protocol in use […].
/// > — RFC 9113 §3.4
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a caller begins to speak.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Begun {
    /// Something that is read as HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Reads as much of a connection as it takes to know what is spoken on it.
///
/// # Errors
/// Whatever the stream reports, and its end before that is known.
pub(super) async fn recognise<S>(mut io: S) -> io::Result<(Begun, Rewound<S>)>
where
    S: AsyncRead + Unpin,
{
    let mut bytes = [0_u8; PREFACE.len()];
    let mut page = ReadBuf::new(&mut bytes);
    let begun = loop {
        let before = page.filled().len();
        poll_fn(|cx| Pin::new(&mut io).poll_read(cx, &mut page)).await?;
        if page.filled().len() == before {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !PREFACE.starts_with(page.filled()) {
            break Begun::Http1;
        }
        if page.remaining() == 0 {
            break Begun::Http2;
        }
    };
    let unread = page.filled().to_vec();
    Ok((begun, Rewound { unread, io }))
}

/// A stream with what was read of it put back.
#[derive(Debug)]
pub(super) struct Rewound<S> {
    unread: Vec<u8>,
    io: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        page: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, page);
        }
        let count = page.remaining().min(self.unread.len());
        page.put_slice(self.unread.get(..count).unwrap_or_default());
        self.unread.drain(..count);
        if self.unread.is_empty() {
            self.unread = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn read(pieces: &[&[u8]]) -> io::Result<(Begun, Vec<u8>)> {
        let (mut theirs, ours) = tokio::io::duplex(64);
        let sending = async {
            for piece in pieces {
                theirs.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(theirs);
        };
        let (recognised, ()) = tokio::join!(recognise(ours), sending);
        let (begun, mut stream) = recognised?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await?;
        Ok((begun, bytes))
    }

    #[tokio::test]
    async fn the_preface_is_known_in_whatever_pieces_it_comes_and_nothing_is_lost() {
        let (begun, bytes) = read(&[b"PRI * HT", b"TP/2.0\r\n\r\nSM\r\n\r\nrest"]).await.unwrap();
        assert_eq!(
            (begun, bytes.as_slice()),
            (Begun::Http2, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nrest".as_slice())
        );

        let (begun, bytes) = read(&[b"P", b"OST / HTTP/1.1\r\n"]).await.unwrap();
        assert_eq!((begun, bytes.as_slice()), (Begun::Http1, b"POST / HTTP/1.1\r\n".as_slice()));

        assert!(read(&[b"PRI *"]).await.is_err());
    }
}
