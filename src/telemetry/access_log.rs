//! One flat event per request, written by hand and never waited for.
//!
//! Each data-plane thread collects lines in a buffer of its own; full buffers go to one writer thread over a bounded queue.
//! When the sink is slower than the traffic, whole buffers are dropped and their lines counted.

use std::cell::RefCell;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;

use super::{LogFormat, usage_record};
use crate::clock::Timestamp;
use crate::registry::KindSet;

/// A buffer is handed over when it has grown to this.
const FLUSH_AT: usize = 64 * 1024;

/// So many buffers may wait for the writer.
const QUEUE: usize = 64;

/// A buffer that has taken so many lines before anybody flushed it is one of a busy thread.
const FEW: u64 = 8;

/// What a buffer has room for, when the thread is busy, so that it need not grow line by line; the last one may reach beyond [`FLUSH_AT`].
const ROOM: usize = FLUSH_AT + 2 * 1024;

/// What the log remembers of one request (or one raw connection). Never a secret.
#[derive(Clone, Copy, Debug)]
pub struct AccessEvent<'a> {
    /// When the request was complete.
    pub at: Timestamp,
    /// The request's id, also told to the service and to the caller.
    pub request_id: &'a str,
    /// The listener it came in by, or the remote it goes out to.
    pub door: &'a str,
    /// `in` or `out`.
    pub direction: &'static str,
    /// Where it came from; none for a Unix socket.
    pub peer: Option<SocketAddr>,
    /// `http/1.1`, `http/2`, `tcp`.
    pub protocol: &'static str,
    /// The method.
    pub method: &'a str,
    /// The path without its query.
    pub path: &'a str,
    /// The status of the answer; 0 where there is none.
    pub status: u16,
    /// `allowed`, or the code of the refusal.
    pub code: &'static str,
    /// The service asked for.
    pub service: &'a str,
    /// The app, when it is known.
    pub app: &'a str,
    /// Who owns the app.
    pub developer: &'a str,
    /// The caller's `User-Agent`.
    pub user_agent: &'a str,
    /// The product that allowed it.
    pub product: &'a str,
    /// The operation of that product.
    pub operation: &'a str,
    /// The kinds of credential that were presented.
    pub presented: KindSet,
    /// Which state of the registry decided.
    pub registry: &'a str,
    /// Kind and id of the credential.
    pub credential: (&'static str, &'a str),
    /// The user for whom the app calls, where a token has proven that.
    pub user: &'a str,
    /// The SPIFFE ID of the caller's certificate, or of the local workload on the way out.
    pub spiffe_id: &'a str,
    /// Bytes of body from the caller.
    pub received: u64,
    /// Bytes of body to the caller.
    pub sent: u64,
    /// From the first byte of the request to the last of the answer.
    pub duration: Duration,
}

impl AccessEvent<'_> {
    /// Nothing that could be told.
    pub const NOTHING: Self = Self {
        at: Timestamp::FLOOR,
        request_id: "",
        door: "",
        direction: "in",
        peer: None,
        protocol: "http/1.1",
        method: "",
        path: "",
        status: 0,
        code: "",
        service: "",
        app: "",
        developer: "",
        user_agent: "",
        product: "",
        operation: "",
        presented: KindSet::EMPTY,
        registry: "",
        credential: ("", ""),
        user: "",
        spiffe_id: "",
        received: 0,
        sent: 0,
        duration: Duration::ZERO,
    };
}

/// A thread's own end of the access log.
#[derive(Debug)]
pub struct AccessLog {
    buffer: RefCell<Pending>,
    sink: AccessSink,
}

#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    lines: u64,
}

/// The shared half: where full buffers go.
#[derive(Clone, Debug)]
pub struct AccessSink {
    queue: Option<SyncSender<Vec<u8>>>,
    form: Form,
    dropped: Counter,
}

/// What lines look like.
#[derive(Clone, Debug)]
enum Form {
    /// The access log's own.
    Log(LogFormat),
    /// Usage records of an organization.
    Record(Arc<str>),
}

/// The thread that writes; joined at the end so that nothing is lost on a clean stop.
#[derive(Debug)]
pub struct LogWriter(Option<JoinHandle<()>>);

impl AccessSink {
    /// Starts the writer thread over `out`; `dropped` counts the lines that found no room.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        format: LogFormat,
        dropped: Counter,
        out: impl Write + Send + 'static,
    ) -> io::Result<(Self, LogWriter)> {
        Self::begin("access-log", Form::Log(format), dropped, out)
    }

    /// Starts the writer thread of usage records of `organization` over `out`; `dropped` counts those that found no room or
    /// could not be written.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start_records(
        organization: &str,
        dropped: Counter,
        out: impl Write + Send + 'static,
    ) -> io::Result<(Self, LogWriter)> {
        Self::begin("usage-records", Form::Record(organization.into()), dropped, out)
    }

    fn begin(
        name: &str,
        form: Form,
        dropped: Counter,
        out: impl Write + Send + 'static,
    ) -> io::Result<(Self, LogWriter)> {
        let (queue, buffers) = sync_channel(QUEUE);
        let lost = dropped.clone();
        let thread =
            std::thread::Builder::new().name(name.into()).spawn(move || write_all(&buffers, out, &lost))?;
        Ok((Self { queue: Some(queue), form, dropped }, LogWriter(Some(thread))))
    }

    /// A sink that keeps nothing, for agents whose access log is switched off.
    #[must_use]
    pub fn none() -> Self {
        Self { queue: None, form: Form::Log(LogFormat::Text), dropped: Counter::default() }
    }
}

fn write_all(buffers: &Receiver<Vec<u8>>, mut out: impl Write, lost: &Counter) {
    while let Ok(buffer) = buffers.recv() {
        // A log that cannot be written must not stop the traffic; its lines are counted as lost.
        if out.write_all(&buffer).and_then(|()| out.flush()).is_err() {
            let lines = buffer.iter().filter(|&&byte| byte == b'\n').count();
            lost.inc_by(u64::try_from(lines).unwrap_or(u64::MAX));
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            drop(thread.join());
        }
    }
}

impl AccessLog {
    /// A thread's end that feeds `sink`.
    #[must_use]
    pub fn new(sink: AccessSink) -> Self {
        Self { buffer: RefCell::default(), sink }
    }

    /// Writes `event` into the thread's buffer. Says whether the buffer was empty before, so that somebody must see to it
    /// that it is flushed.
    pub fn record(&self, event: &AccessEvent<'_>) -> bool {
        if self.sink.queue.is_none() {
            return false;
        }
        let mut pending = self.buffer.borrow_mut();
        let was_empty = pending.bytes.is_empty();
        if pending.lines == FEW {
            pending.bytes.reserve(ROOM);
        }
        match &self.sink.form {
            Form::Log(LogFormat::Json) => write_json(&mut pending.bytes, event),
            Form::Log(LogFormat::Text) => write_text(&mut pending.bytes, event),
            Form::Record(organization) => usage_record::write(&mut pending.bytes, event, organization),
        }
        pending.lines += 1;
        if pending.bytes.len() >= FLUSH_AT {
            self.hand_over(&mut pending);
            return false;
        }
        was_empty
    }

    /// Hands over what has been collected.
    pub fn flush(&self) {
        self.hand_over(&mut self.buffer.borrow_mut());
    }

    fn hand_over(&self, pending: &mut Pending) {
        if pending.bytes.is_empty() {
            return;
        }
        let Pending { bytes, lines } = std::mem::take(pending);
        let full = self.sink.queue.as_ref().is_none_or(|queue| queue.try_send(bytes).is_err());
        if full {
            self.sink.dropped.inc_by(lines);
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Writes the fields of an event in either notation.
struct Line<'a> {
    out: &'a mut Vec<u8>,
    format: LogFormat,
}

impl Line<'_> {
    fn text(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        self.name(name);
        let bare = self.format == LogFormat::Text
            && value.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\'));
        if bare {
            self.out.extend_from_slice(value.as_bytes());
        } else {
            quote(self.out, value);
        }
    }

    fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        push(self.out, format_args!("{value}"));
    }

    fn name(&mut self, name: &str) {
        match self.format {
            LogFormat::Json => {
                self.out.extend_from_slice(b",\"");
                self.out.extend_from_slice(name.as_bytes());
                self.out.extend_from_slice(b"\":");
            }
            LogFormat::Text => {
                self.out.push(b' ');
                self.out.extend_from_slice(name.as_bytes());
                self.out.push(b'=');
            }
        }
    }

    fn fields(&mut self, event: &AccessEvent<'_>) {
        self.text("direction", event.direction);
        self.text("door", event.door);
        if let Some(peer) = event.peer {
            self.name("src.addr");
            if self.format == LogFormat::Json {
                push(self.out, format_args!("\"{peer}\""));
            } else {
                push(self.out, format_args!("{peer}"));
            }
        }
        self.text("src.spiffe_id", event.spiffe_id);
        self.text("protocol", event.protocol);
        self.text("method", event.method);
        self.text("path", event.path);
        self.number("status", u64::from(event.status));
        self.text("decision", event.code);
        self.text("service.id", event.service);
        self.text("app.id", event.app);
        self.text("product.id", event.product);
        self.text("operation.id", event.operation);
        if !event.credential.1.is_empty() {
            self.text("credential.kind", event.credential.0);
            self.text("credential.id", event.credential.1);
        }
        self.text("user.id", event.user);
        self.number("received", event.received);
        self.number("sent", event.sent);
        self.number("duration_us", u64::try_from(event.duration.as_micros()).unwrap_or(u64::MAX));
        self.text("request.id", event.request_id);
    }
}

fn write_json(out: &mut Vec<u8>, event: &AccessEvent<'_>) {
    push(out, format_args!("{{\"timestamp\":\"{}\",\"target\":\"access\"", event.at));
    Line { out: &mut *out, format: LogFormat::Json }.fields(event);
    out.extend_from_slice(b"}\n");
}

fn write_text(out: &mut Vec<u8>, event: &AccessEvent<'_>) {
    push(out, format_args!("{} access", event.at));
    Line { out: &mut *out, format: LogFormat::Text }.fields(event);
    out.push(b'\n');
}

pub(super) fn push(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    // Writing to a Vec cannot fail.
    if out.write_fmt(arguments).is_err() {
        out.push(b'?');
    }
}

/// A JSON string (RFC 8259 §7).
pub(super) fn quote(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    for byte in value.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..=0x1f | 0x7f => push(out, format_args!("\\u{byte:04x}")),
            other => out.push(other),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const EVENT: AccessEvent<'_> = AccessEvent {
        at: Timestamp::FLOOR,
        request_id: "r1",
        door: "inbound",
        direction: "in",
        peer: None,
        protocol: "http/1.1",
        method: "GET",
        path: "/a \"b\"",
        status: 200,
        code: "allowed",
        service: "whoami",
        app: "sample",
        credential: ("mtls", "c1"),
        user: "",
        spiffe_id: "spiffe://a/b",
        received: 0,
        sent: 12,
        duration: Duration::from_micros(345),
        ..AccessEvent::NOTHING
    };

    fn written(format: LogFormat) -> String {
        let out = Shared::default();
        let (sink, writer) = AccessSink::start(format, Counter::default(), out.clone()).unwrap();
        let log = AccessLog::new(sink);
        assert!(log.record(&EVENT));
        assert!(!log.record(&EVENT));
        drop(log);
        drop(writer);
        let bytes = out.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn each_line_is_a_json_object_with_the_dotted_names() {
        let text = written(LogFormat::Json);

        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["path"], "/a \"b\"");
        assert_eq!(lines[0]["app.id"], "sample");
        assert_eq!(lines[0]["duration_us"], 345);
        assert!(lines[0].get("product.id").is_none());
    }

    #[test]
    fn text_lines_quote_what_could_be_misread() {
        let text = written(LogFormat::Text);

        assert!(text.starts_with("2026-01-01T00:00:00Z access direction=in door=inbound"), "{text}");
        assert!(text.contains(r#" path="/a \"b\"" status=200 "#), "{text}");
    }

    #[test]
    fn lines_without_room_are_counted() {
        let dropped = Counter::default();
        let sink = AccessSink {
            queue: Some(sync_channel(0).0),
            form: Form::Log(LogFormat::Text),
            dropped: dropped.clone(),
        };
        let log = AccessLog::new(sink);

        log.record(&EVENT);
        log.record(&EVENT);
        log.flush();

        assert_eq!(dropped.get(), 2);
    }
}
