//! Where a request stands in a trace (W3C Trace Context), and whether a span of ours is recorded.
//!
//! Who records nothing changes nothing: the caller's `traceparent` then passes as it came. Where a span is recorded, it becomes
//! the parent of what the service does, and `tracestate` stays the caller's.

use super::http_gate::Head;
use super::request_id::{RequestId, RequestIds};
use crate::telemetry::{SpanContext, SpanSink};

/// Where a request stands in a trace, and its id.
#[derive(Debug)]
pub(super) struct Trace<'a> {
    pub(super) id: &'a RequestId,
    stand: Stand,
}

#[derive(Clone, Copy, Debug)]
enum Stand {
    /// It begins here, for the caller sent no trace or a malformed one.
    Begun { trace_id: [u8; 32], span_id: [u8; 16], recorded: bool },
    /// It came with one that is not recorded here.
    Passing { trace_id: [u8; 32], parent: [u8; 16], flags: u8 },
    /// It came with one, to which a span of ours is added.
    Joined { trace_id: [u8; 32], parent: [u8; 16], flags: u8, span_id: [u8; 16] },
}

impl<'a> Trace<'a> {
    /// The trace that `head` belongs to, or a new one.
    pub(super) fn new(head: &Head<'_, '_>, id: &'a RequestId, ids: &RequestIds) -> Self {
        let mut sent = head.values("traceparent");
        let continued = match (sent.next(), sent.next()) {
            (Some(value), None) => read(value),
            _ => None,
        };
        let stand = continued.unwrap_or_else(|| {
            let trace_id = [hex(ids.random()), hex(ids.random() | 1)];
            let mut joined = [0; 32];
            joined.iter_mut().zip(trace_id.as_flattened()).for_each(|(to, from)| *to = *from);
            Stand::Begun { trace_id: joined, span_id: hex(ids.random() | 1), recorded: false }
        });
        Self { id, stand }
    }

    /// The same, with a span of ours if `sink` wants one.
    pub(super) fn recorded_by(self, sink: &SpanSink, ids: &RequestIds) -> Self {
        let stand = match self.stand {
            Stand::Passing { trace_id, parent, flags } if flags & SAMPLED != 0 && sink.follows() => {
                Stand::Joined { trace_id, parent, flags, span_id: hex(ids.random() | 1) }
            }
            Stand::Begun { trace_id, span_id, .. } if sink.begins(ids.random()) => {
                Stand::Begun { trace_id, span_id, recorded: true }
            }
            unrecorded @ (Stand::Begun { .. } | Stand::Joined { .. } | Stand::Passing { .. }) => unrecorded,
        };
        Self { stand, ..self }
    }

    /// The span that is recorded, if one is.
    pub(super) const fn span(&self) -> Option<SpanContext> {
        match self.stand {
            Stand::Begun { trace_id, span_id, recorded: true } => {
                Some(SpanContext { trace_id, parent: None, span_id })
            }
            Stand::Joined { trace_id, parent, span_id, .. } => {
                Some(SpanContext { trace_id, parent: Some(parent), span_id })
            }
            Stand::Begun { .. } | Stand::Passing { .. } => None,
        }
    }

    /// Whether the caller's field called `name` does not go on.
    ///
    /// > If the vendor failed to parse traceparent, it MUST NOT attempt to parse tracestate. — W3C Trace Context §4.3
    pub(super) fn replaces(&self, name: &str) -> bool {
        let (parent, state) = match self.stand {
            Stand::Begun { .. } => (true, true),
            Stand::Joined { .. } => (true, false),
            Stand::Passing { .. } => (false, false),
        };
        parent && name.eq_ignore_ascii_case("traceparent") || state && name.eq_ignore_ascii_case("tracestate")
    }

    /// Writes what goes on in place of what came.
    ///
    /// > version "-" trace-id "-" parent-id "-" trace-flags — W3C Trace Context §3.2
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let (trace_id, span_id, flags) = match self.stand {
            Stand::Begun { trace_id, span_id, recorded } => (trace_id, span_id, u8::from(recorded)),
            Stand::Joined { trace_id, span_id, flags, .. } => (trace_id, span_id, flags & KNOWN_FLAGS),
            Stand::Passing { .. } => return,
        };
        let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
        for part in [b"traceparent: 00-".as_slice(), &trace_id, b"-", &span_id, b"-"] {
            out.extend_from_slice(part);
        }
        out.extend_from_slice(&[digit(flags >> 4), digit(flags & 15), b'\r', b'\n']);
    }
}

/// The caller may have recorded the trace (W3C Trace Context §3.2.2.5).
const SAMPLED: u8 = 1;

/// The flags that mean something: sampled, and random (Trace Context level 2).
const KNOWN_FLAGS: u8 = 3;

/// The trace that a caller sent.
///
/// > If a higher version is detected, the implementation SHOULD try to parse it by […] If the size of the header is shorter than
/// > 55 characters, the vendor should not parse the header — W3C Trace Context §4.3
///
/// > All bytes as zero […] is considered an invalid value. — W3C Trace Context §3.2.2.3, §3.2.2.4
fn read(value: &[u8]) -> Option<Stand> {
    let known = value.get(..55)?;
    let version = value.get(..2)?;
    let ends = match value.get(55) {
        None => true,
        Some(next) => version != b"00" && *next == b'-',
    };
    let lower_hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    let formed = known
        .iter()
        .enumerate()
        .all(|(at, byte)| if matches!(at, 2 | 35 | 52) { *byte == b'-' } else { lower_hex(byte) });
    let trace_id: [u8; 32] = known.get(3..35)?.try_into().ok()?;
    let parent: [u8; 16] = known.get(36..52)?.try_into().ok()?;
    let flags = u8::from_str_radix(std::str::from_utf8(known.get(53..)?).ok()?, 16).ok()?;
    let named = trace_id.iter().any(|byte| *byte != b'0') && parent.iter().any(|byte| *byte != b'0');
    (ends && formed && named && version != b"ff").then_some(Stand::Passing { trace_id, parent, flags })
}

/// A number in 16 hexadecimal digits.
fn hex(number: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    for (at, digit) in digits.iter_mut().rev().enumerate() {
        let nibble = u8::try_from(number >> (at * 4) & 15).unwrap_or(0);
        *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    }
    digits
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use prometheus_client::metrics::counter::Counter;

    use super::*;
    use crate::clock::Timestamp;
    use crate::proxy::http_gate::{MAX_FIELDS, read_http1};
    use crate::telemetry::SpanSettings;

    fn sink(one_in: u32, follow: bool) -> SpanSink {
        let collector = SocketAddr::from(([127, 0, 0, 1], 4318));
        let settings = SpanSettings { collector, path: "/v1/traces".to_owned(), one_in, follow };
        SpanSink::new(&settings, Counter::default()).0
    }

    /// What goes on of `fields`, what is written anew, and the span.
    fn traced(fields: &str, sink: &SpanSink) -> (Vec<String>, String, Option<SpanContext>) {
        let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let mut storage = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let head = read_http1(bytes.as_bytes(), &mut storage).unwrap();
        let ids = RequestIds::new();
        let id = ids.next(Timestamp::FLOOR);
        let trace = Trace::new(&head, &id, &ids).recorded_by(sink, &ids);
        let kept = head.fields.iter().filter(|field| !trace.replaces(field.name));
        let kept = kept.map(|field| field.name.to_ascii_lowercase()).filter(|name| name != "host");
        let mut out = Vec::new();
        trace.write(&mut out);
        (kept.collect(), String::from_utf8(out).unwrap(), trace.span())
    }

    const SENT: &str =
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\ntracestate: a=1\r\n";

    #[test]
    fn who_records_nothing_changes_nothing() {
        for sink in [SpanSink::none(), sink(1, false)] {
            assert_eq!(traced(SENT, &sink).0, ["traceparent", "tracestate"]);
            assert_eq!((traced(SENT, &sink).1.as_str(), traced(SENT, &sink).2), ("", None));
        }
        let unsampled = SENT.replace("-01", "-00");
        assert_eq!(traced(&unsampled, &sink(1, true)).1, "", "the caller does not record it");
    }

    #[test]
    fn a_span_of_ours_becomes_the_parent_and_the_state_stays() {
        let (kept, written, span) = traced(SENT, &sink(0, true));

        let span = span.unwrap();
        assert_eq!(kept, ["tracestate"]);
        assert_eq!(span.parent.as_ref(), Some(b"b7ad6b7169203331"));
        let own = std::str::from_utf8(&span.span_id).unwrap().to_owned();
        assert_ne!(own, "b7ad6b7169203331");
        assert_eq!(written, format!("traceparent: 00-0af7651916cd43dd8448eb211c80319c-{own}-01\r\n"));
    }

    #[test]
    fn a_trace_that_begins_here_says_whether_it_is_recorded() {
        for (sink, end) in [(SpanSink::none(), "-00\r\n"), (sink(1, true), "-01\r\n")] {
            let (kept, written, span) = traced("tracestate: a=1\r\n", &sink);
            assert!(kept.is_empty() && written.ends_with(end), "{kept:?} {written}");
            assert_eq!(span.is_some(), end.contains('1'));
        }
    }

    #[test]
    fn what_is_no_trace_is_replaced() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let later = format!("cc{}-more", &good[2..]);
        for value in [good, &later] {
            assert!(read(value.as_bytes()).is_some(), "{value}");
        }
        for value in [
            &good[..54],
            &format!("{good}-more"),
            &later.replace("-more", "more"),
            &format!("ff{}", &good[2..]),
            &good.to_uppercase(),
            &good.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &good.replace("b7ad6b7169203331", &"0".repeat(16)),
            &good.replace('-', "_"),
        ] {
            assert!(read(value.as_bytes()).is_none(), "{value}");
        }
        assert_eq!(traced(&format!("{SENT}{SENT}"), &SpanSink::none()).0, [""; 0], "which of the two?");
    }
}
