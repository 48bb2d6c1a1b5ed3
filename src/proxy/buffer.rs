//! Bytes that were read and not yet used, and one scratch page per thread to read into.
//!
//! A connection that waits owns no read buffer: bytes land in the thread's scratch page first and only what arrived is kept.

use std::cell::RefCell;
use std::io;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use crate::secret::wipe;

/// One TLS record and its overhead fit twice; a larger page saves no system call on the sizes that were measured.
const SCRATCH_SIZE: usize = 64 * 1024;

/// What an idle connection may keep allocated.
const IDLE_CAPACITY: usize = 1024;

/// What each piece of scratch memory may keep that nobody needs: room for most heads and small bodies.
const SCRATCH_KEPT: usize = 2 * 1024;

/// So many sets of scratch memory are kept for the next requests.
const SHELF_KEPT: usize = 64;

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

    /// Gives memory back before a long wait, and forgets what was in it.
    pub(super) fn rest(&mut self) {
        if !self.is_empty() || self.bytes.capacity() == 0 {
            return;
        }
        if self.bytes.capacity() > IDLE_CAPACITY {
            self.bytes = Vec::new();
        } else {
            self.bytes.resize(self.bytes.capacity(), 0);
            wipe(&mut self.bytes);
            self.bytes.clear();
        }
    }
}

/// What one request of HTTP/1 is worked out in.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// The head as it came.
    pub(super) head: Vec<u8>,
    /// The head as it goes on.
    pub(super) upstream_head: Vec<u8>,
    /// What the caller is answered.
    pub(super) out: Vec<u8>,
    /// Field lines about the caller's quotas.
    pub(super) limits: Vec<u8>,
}

/// The scratch memory of one thread. A connection holds some only while a request of it is under way.
#[derive(Debug, Default)]
pub(super) struct Shelf(RefCell<Vec<Scratch>>);

impl Shelf {
    /// Some that is empty, to be given back.
    pub(super) fn take(&self) -> Borrowed<'_> {
        Borrowed { scratch: self.0.borrow_mut().pop().unwrap_or_default(), shelf: self }
    }
}

/// Scratch memory that goes back when it is dropped.
#[derive(Debug)]
pub(super) struct Borrowed<'s> {
    scratch: Scratch,
    shelf: &'s Shelf,
}

impl Deref for Borrowed<'_> {
    type Target = Scratch;

    fn deref(&self) -> &Scratch {
        &self.scratch
    }
}

impl DerefMut for Borrowed<'_> {
    fn deref_mut(&mut self) -> &mut Scratch {
        &mut self.scratch
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let mut kept = self.shelf.0.borrow_mut();
        if kept.len() < SHELF_KEPT {
            let mut scratch = mem::take(&mut self.scratch);
            let Scratch { head, upstream_head, out, limits } = &mut scratch;
            for bytes in [head, upstream_head, out, limits] {
                wipe(bytes);
                bytes.clear();
                bytes.shrink_to(SCRATCH_KEPT);
            }
            kept.push(scratch);
        }
    }
}

/// As [`poll_read_with`], for what may hold a secret: nothing of it stays in the scratch page.
///
/// # Errors
/// Whatever the stream reports.
pub(super) fn poll_read_secret<R, F>(
    cx: &mut Context<'_>,
    from: Pin<&mut R>,
    keep: F,
) -> Poll<io::Result<usize>>
where
    R: AsyncRead + ?Sized,
    F: FnOnce(&[u8]),
{
    poll_page(cx, from, |arrived| {
        keep(arrived);
        wipe(arrived);
    })
}

/// Forgets what was read last. A secret may have come with the end of a body, say.
pub(super) fn wipe_page() {
    SCRATCH.with_borrow_mut(|scratch| wipe(scratch));
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
    poll_page(cx, from, |arrived| keep(arrived))
}

/// Reads once into the page and shows what arrived.
fn poll_page<R: AsyncRead + ?Sized>(
    cx: &mut Context<'_>,
    from: Pin<&mut R>,
    show: impl FnOnce(&mut [u8]),
) -> Poll<io::Result<usize>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut page = ReadBuf::new(scratch);
        ready!(from.poll_read(cx, &mut page))?;
        show(page.filled_mut());
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
    fn scratch_comes_back_empty_and_not_large() {
        let shelf = Shelf::default();
        let mut first = shelf.take();
        first.head.extend_from_slice(&[7; 1000]);
        first.out.extend_from_slice(&[7; 100_000]);

        drop(first);

        let again = shelf.take();
        assert!(again.head.is_empty() && again.out.is_empty());
        assert!(again.head.capacity() >= 1000 && again.out.capacity() <= SCRATCH_KEPT);
    }

    #[test]
    fn no_more_scratch_is_kept_than_is_soon_needed() {
        let shelf = Shelf::default();

        drop((0..2 * SHELF_KEPT).map(|_| shelf.take()).collect::<Vec<_>>());

        assert_eq!(shelf.0.borrow().len(), SHELF_KEPT);
    }

    #[tokio::test]
    async fn a_secret_does_not_stay_in_the_page() {
        let mut source: &[u8] = b"hello";
        let mut buffer = Buffer::default();
        let read = std::future::poll_fn(|cx| {
            poll_read_secret(cx, Pin::new(&mut source), |bytes| buffer.extend(bytes))
        });

        assert_eq!(read.await.unwrap(), 5);

        assert_eq!(buffer.unread(), b"hello");
        SCRATCH.with_borrow(|page| assert_eq!(page[..5], [0; 5]));
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
