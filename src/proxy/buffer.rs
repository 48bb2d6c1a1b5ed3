//! Bytes that were read and not yet used, and one scratch page per thread to read into.
//!
//! A connection that waits owns no read buffer: bytes land in the thread's scratch page first and only what arrived is kept.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// One TLS record and its overhead fit twice; a larger page saves no system call on the sizes that were measured.
const SCRATCH_SIZE: usize = 64 * 1024;

/// What an idle connection may keep allocated.
const IDLE_CAPACITY: usize = 1024;

/// What each piece of scratch memory of an idle connection may keep: room for most heads and small bodies.
const SCRATCH_KEPT: usize = 2 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_SIZE].into_boxed_slice());
}

/// Bytes in the order they arrived; consumed from the front.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// What has arrived and was not consumed.
    pub(super) fn unread(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.start >= self.bytes.len()
    }

    /// Forgets the first `count` unread bytes.
    pub(super) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.bytes.len());
        if self.is_empty() {
            self.bytes.clear();
            self.start = 0;
        }
    }

    /// Appends `bytes`.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Gives memory back before a long wait.
    pub(super) fn shrink(&mut self) {
        if self.is_empty() && self.bytes.capacity() > IDLE_CAPACITY {
            self.bytes = Vec::new();
        }
    }
}

/// Gives scratch memory back before a long wait, but for what the next message needs anyway.
pub(super) fn release(scratch: &mut Vec<u8>) {
    if scratch.capacity() > SCRATCH_KEPT {
        *scratch = Vec::new();
    }
}

/// Reads once from `from` into the thread's scratch page and hands what arrived to `keep`; `Ok(0)` is the end of the stream.
///
/// # Errors
/// Whatever the stream reports.
pub(super) fn poll_read_with<R, F>(
    cx: &mut Context<'_>,
    from: Pin<&mut R>,
    keep: F,
) -> Poll<io::Result<usize>>
where
    R: AsyncRead + ?Sized,
    F: FnOnce(&[u8]),
{
    SCRATCH.with_borrow_mut(|scratch| {
        let mut page = ReadBuf::new(scratch);
        ready!(from.poll_read(cx, &mut page))?;
        keep(page.filled());
        Poll::Ready(Ok(page.filled().len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_the_order_they_came() {
        let mut buffer = Buffer::default();
        buffer.extend(b"abc");
        buffer.consume(1);

        buffer.extend(b"d");

        assert_eq!(buffer.unread(), b"bcd");
        buffer.consume(10);
        assert!(buffer.is_empty());
    }

    #[test]
    fn scratch_that_has_grown_large_is_given_back() {
        let (mut large, mut small) = (Vec::with_capacity(100_000), Vec::with_capacity(1000));

        release(&mut large);
        release(&mut small);

        assert_eq!((large.capacity(), small.capacity()), (0, 1000));
    }

    #[tokio::test]
    async fn reading_keeps_only_what_arrived() {
        let mut source: &[u8] = b"hello";
        let mut buffer = Buffer::default();

        for expected in [5, 0] {
            let read = std::future::poll_fn(|cx| {
                poll_read_with(cx, Pin::new(&mut source), |bytes| buffer.extend(bytes))
            });
            assert_eq!(read.await.unwrap(), expected);
        }
        assert_eq!(buffer.unread(), b"hello");
    }
}
