//! Where a message body ends: the strict reading of `Content-Length` and chunks.
//!
//! > A sender MUST NOT send a Content-Length header field in any message that contains a Transfer-Encoding header field.
//! > — RFC 9112 §6.2
//!
//! The decoder never looks past the end of its body, so what follows is the next message and nothing else.

/// How the length of a body is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Framing {
    /// `Transfer-Encoding: chunked` (RFC 9112 §7.1).
    Chunked,
    /// Until the connection closes; only ever a response (RFC 9112 §6.3, rule 8).
    Close,
    /// `Content-Length: n`, and `Length(0)` for no body at all.
    Length(u64),
}

/// Why a body cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum InvalidBody {
    /// The chunk size is no hexadecimal number, or too large.
    #[error("chunk size is malformed")]
    ChunkSize,
    /// A chunk does not end in CR LF, or a line ends in a bare LF.
    #[error("chunk is not ended by CR LF")]
    ChunkEnd,
    /// Chunk extensions or trailers beyond what is read.
    #[error("chunk extensions or trailers are too long")]
    TooLong,
    /// The stream ended before the body did.
    #[error("the connection ended inside the body")]
    Truncated,
    /// A trailer field is malformed.
    #[error("a trailer field is malformed")]
    Trailer,
}

/// A size line with its extensions, and the trailer section, may take this many bytes each.
const MAX_LINE: usize = 4096;

/// Follows one body through the bytes of its connection.
#[derive(Debug)]
pub(super) struct Decoder {
    state: State,
}

#[derive(Debug)]
enum State {
    ChunkData { left: u64 },
    ChunkDataEnd,
    ChunkSize,
    Close,
    Done,
    Length { left: u64 },
    Trailers { seen: usize },
}

/// What lies at the front of the buffer.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Piece {
    /// So many bytes of body.
    Data(usize),
    /// The body is over; nothing of it is left in the buffer.
    End,
    /// More bytes must arrive first.
    NeedMore,
    /// So many bytes of framing, to be thrown away.
    Skip(usize),
    /// So many bytes of a trailer field's line, its CR LF included.
    Trailer(usize),
}

impl Decoder {
    /// A decoder at the first byte of a body framed as `framing`.
    pub(super) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Chunked => State::ChunkSize,
            Framing::Close => State::Close,
            Framing::Length(0) => State::Done,
            Framing::Length(left) => State::Length { left },
        };
        Self { state }
    }

    /// Whether the whole body has been read.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// The bytes at the front of `unread`. Whoever gets [`Piece::Data`], [`Piece::Skip`] or [`Piece::Trailer`] consumes them,
    /// data in parts if need be, and says so by [`Decoder::advance`].
    ///
    /// # Errors
    /// The body is malformed; the connection cannot be used further.
    pub(super) fn look(&self, unread: &[u8]) -> Result<Piece, InvalidBody> {
        match self.state {
            State::Done => Ok(Piece::End),
            State::ChunkData { left } | State::Length { left } => Ok(data(unread, left)),
            State::Close => Ok(data(unread, u64::MAX)),
            State::ChunkDataEnd => match unread {
                [b'\r', b'\n', ..] => Ok(Piece::Skip(2)),
                [] | [b'\r'] => Ok(Piece::NeedMore),
                _ => Err(InvalidBody::ChunkEnd),
            },
            State::ChunkSize => Ok(match line(unread)? {
                Some(line) => {
                    chunk_size(line)?;
                    Piece::Skip(line.len() + 2)
                }
                None => Piece::NeedMore,
            }),
            State::Trailers { seen } => match line(unread)? {
                Some(line) if seen + line.len() > MAX_LINE => Err(InvalidBody::TooLong),
                Some([]) => Ok(Piece::Skip(2)),
                Some(line) => {
                    trailer(line)?;
                    Ok(Piece::Trailer(line.len() + 2))
                }
                None => Ok(Piece::NeedMore),
            },
        }
    }

    /// Moves past `taken`, the front of the buffer as [`Decoder::look`] described it.
    ///
    /// # Errors
    /// The chunk size is malformed (as [`Decoder::look`] said before).
    pub(super) fn advance(&mut self, taken: &[u8]) -> Result<(), InvalidBody> {
        let count = u64::try_from(taken.len()).unwrap_or(u64::MAX);
        self.state = match self.state {
            State::Length { left } if left <= count => State::Done,
            State::Length { left } => State::Length { left: left - count },
            State::ChunkData { left } if left <= count => State::ChunkDataEnd,
            State::ChunkData { left } => State::ChunkData { left: left - count },
            State::ChunkDataEnd => State::ChunkSize,
            State::ChunkSize => match chunk_size(taken.strip_suffix(b"\r\n").unwrap_or(taken))? {
                0 => State::Trailers { seen: 0 },
                left => State::ChunkData { left },
            },
            State::Trailers { .. } if taken == b"\r\n" => State::Done,
            State::Trailers { seen } => State::Trailers { seen: seen + taken.len() },
            State::Close => State::Close,
            State::Done => State::Done,
        };
        Ok(())
    }

    /// The stream ended: fine where the end of the connection is the end of the body.
    ///
    /// # Errors
    /// [`InvalidBody::Truncated`] where it is not.
    pub(super) fn finish(&mut self) -> Result<(), InvalidBody> {
        match self.state {
            State::Close | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            State::ChunkData { .. }
            | State::ChunkDataEnd
            | State::ChunkSize
            | State::Length { .. }
            | State::Trailers { .. } => Err(InvalidBody::Truncated),
        }
    }
}

fn data(unread: &[u8], left: u64) -> Piece {
    match unread.len() {
        0 => Piece::NeedMore,
        length => Piece::Data(usize::try_from(left).map_or(length, |left| left.min(length))),
    }
}

/// The first line of `unread` without its CR LF.
fn line(unread: &[u8]) -> Result<Option<&[u8]>, InvalidBody> {
    let Some(end) = memchr::memchr(b'\n', unread) else {
        return if unread.len() > MAX_LINE { Err(InvalidBody::TooLong) } else { Ok(None) };
    };
    let line = unread.get(..end).unwrap_or_default();
    match line.strip_suffix(b"\r") {
        Some(_) if end > MAX_LINE => Err(InvalidBody::TooLong),
        Some(line) if memchr::memchr(b'\r', line).is_some() => Err(InvalidBody::ChunkEnd),
        Some(line) => Ok(Some(line)),
        None => Err(InvalidBody::ChunkEnd),
    }
}

/// > chunk-size = 1*HEXDIG — RFC 9112 §7.1
///
/// An extension after `;` is checked for control characters and ignored.
fn chunk_size(line: &[u8]) -> Result<u64, InvalidBody> {
    let digits =
        line.iter().position(|&byte| byte == b';').map_or(line, |at| line.get(..at).unwrap_or_default());
    let extension = line.get(digits.len()..).unwrap_or_default();
    if digits.is_empty()
        || digits.len() > 15
        || extension.iter().any(|&byte| byte < b' ' && byte != b'\t' || byte == 0x7f)
    {
        return Err(InvalidBody::ChunkSize);
    }
    digits.iter().try_fold(0_u64, |size, &digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            b'A'..=b'F' => digit - b'A' + 10,
            _ => return Err(InvalidBody::ChunkSize),
        };
        Ok(size << 4 | u64::from(value))
    })
}

/// Whether a trailer is a field line.
fn trailer(line: &[u8]) -> Result<(), InvalidBody> {
    let name_end = line.iter().position(|&byte| byte == b':').ok_or(InvalidBody::Trailer)?;
    let (name, value) = line.split_at(name_end);
    let well_named = !name.is_empty() && name.iter().copied().all(is_token);
    if well_named && value.iter().all(|&byte| byte >= b' ' && byte != 0x7f || byte == b'\t') {
        Ok(())
    } else {
        Err(InvalidBody::Trailer)
    }
}

/// > tchar = "!" / "#" / "$" / "%" / "&" / "'" / "*" / "+" / "-" / "." / "^" / "_" / "`" / "|" / "~" / DIGIT / ALPHA
/// > — RFC 9110 §5.6.2
pub(super) const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `wire` in parts of `step` bytes and returns the body and what was left behind it.
    fn decode(framing: Framing, wire: &[u8], step: usize) -> Result<(Vec<u8>, Vec<u8>), InvalidBody> {
        let mut decoder = Decoder::new(framing);
        let (mut buffer, mut body, mut rest) = (Vec::new(), Vec::new(), wire);
        loop {
            match decoder.look(&buffer)? {
                Piece::End => {
                    buffer.extend_from_slice(rest);
                    return Ok((body, buffer));
                }
                Piece::NeedMore if rest.is_empty() => {
                    decoder.finish()?;
                }
                Piece::NeedMore => {
                    let (now, later) = rest.split_at(step.min(rest.len()));
                    buffer.extend_from_slice(now);
                    rest = later;
                }
                Piece::Data(count) => {
                    body.extend_from_slice(&buffer[..count]);
                    let taken: Vec<u8> = buffer.drain(..count).collect();
                    decoder.advance(&taken)?;
                }
                Piece::Skip(count) | Piece::Trailer(count) => {
                    let taken: Vec<u8> = buffer.drain(..count).collect();
                    decoder.advance(&taken)?;
                }
            }
        }
    }

    #[test]
    fn a_body_ends_where_its_framing_says_however_it_arrives() {
        for step in [1, 2, 3, 7, 100] {
            let length = decode(Framing::Length(5), b"helloGET /", step).unwrap();
            let chunked =
                decode(Framing::Chunked, b"3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nx-sum: 1\r\n\r\nGET /", step)
                    .unwrap();
            let close = decode(Framing::Close, b"hello", step).unwrap();

            assert_eq!(length, (b"hello".to_vec(), b"GET /".to_vec()), "step {step}");
            assert_eq!(chunked, (b"hello".to_vec(), b"GET /".to_vec()), "step {step}");
            assert_eq!(close, (b"hello".to_vec(), Vec::new()), "step {step}");
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        let cases: [(&[u8], InvalidBody); 9] = [
            (b"3\nhel\r\n0\r\n\r\n", InvalidBody::ChunkEnd),
            (b"3\r\nhel\n0\r\n\r\n", InvalidBody::ChunkEnd),
            (b"3\r\nhelo\r\n0\r\n\r\n", InvalidBody::ChunkEnd),
            (b"0x3\r\nhel\r\n", InvalidBody::ChunkSize),
            (b"+3\r\nhel\r\n", InvalidBody::ChunkSize),
            (b"\r\nhel\r\n", InvalidBody::ChunkSize),
            (b"3 \r\nhel\r\n", InvalidBody::ChunkSize),
            (b"ffffffffffffffff\r\n", InvalidBody::ChunkSize),
            (b"0\r\nbad name: 1\r\n\r\n", InvalidBody::Trailer),
        ];
        for (wire, expected) in cases {
            assert_eq!(decode(Framing::Chunked, wire, 100), Err(expected), "{}", wire.escape_ascii());
        }
    }

    #[test]
    fn a_stream_that_ends_early_is_an_error() {
        assert_eq!(decode(Framing::Length(5), b"hell", 100), Err(InvalidBody::Truncated));
        assert_eq!(decode(Framing::Chunked, b"5\r\nhell", 100), Err(InvalidBody::Truncated));
        assert_eq!(decode(Framing::Chunked, b"5\r\nhello\r\n0\r\n", 100), Err(InvalidBody::Truncated));
    }
}
