//! Closing a connection so that the peer can still read what was said last.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::buffer::poll_read_with;

/// How long a closing connection waits for its peer.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// How much a closing connection reads and throws away.
const LINGER_BYTES: usize = 256 * 1024;

/// Says goodbye and lets the peer finish before the socket goes: unread bytes would turn the close into a reset that eats our
/// last words, an answer or a TLS alert.
pub(super) async fn close<S: AsyncRead + AsyncWrite + Unpin>(io: &mut S) {
    let lingering = async {
        io.shutdown().await?;
        let mut left = LINGER_BYTES;
        loop {
            let count = poll_fn(|cx| poll_read_with(cx, Pin::new(&mut *io), |_| ())).await?;
            left = left.saturating_sub(count);
            if count == 0 || left == 0 {
                return Ok::<(), io::Error>(());
            }
        }
    };
    drop(tokio::time::timeout(LINGER, lingering).await);
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_said_last_is_read_by_a_peer_that_is_still_writing() {
        let (mut ours, mut theirs) = tokio::io::duplex(64);
        ours.write_all(b"last words").await.unwrap();

        let closing = tokio::spawn(async move { close(&mut ours).await });
        theirs.write_all(b"more than we wanted to know").await.unwrap();
        let mut heard = String::new();
        theirs.read_to_string(&mut heard).await.unwrap();

        assert_eq!(heard, "last words");
        drop(theirs);
        closing.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_never_hangs_up_is_left_after_a_second() {
        let (mut ours, _theirs) = tokio::io::duplex(64);
        let begun = tokio::time::Instant::now();

        close(&mut ours).await;

        assert_eq!(begun.elapsed(), LINGER);
    }
}
