//! What the agent tells about itself: operator log, access log, audit log, metrics.

mod redact;
mod access_log;
mod audit_record;
mod audit_log;
mod metrics;
mod recall;
mod usage;
pub mod usage_dir;
mod usage_record;
mod red;
mod otlp;
mod subscriber;

pub use access_log::{AccessEvent, AccessLog, AccessSink, LogWriter};
pub use audit_log::{AuditError, AuditLog, AuditSettings, ROTATE_AT, Verification};
pub use audit_record::{
    Actor, AuditEvent, AuditOutcome, AuditRecord, Chain, Head, Keyed, LONGEST_TEXT, Link,
};
pub use metrics::{CodeCounter, Metrics};
pub use otlp::{SpanContext, SpanSettings, SpanSink, WAITING, export_request};
pub use recall::{Recall, Remembered};
pub use red::{Call, CallCounter, SERIES};
pub use redact::{carries_secret, redacted};
pub use subscriber::{LogFormat, Settings, SubscribeError, subscribe};
pub use usage::{OTHER, ROWS, ROWS_OF_AN_HOUR, Tally, UsageBook, UsageCount, UsageKey, UsageRow, totals};
