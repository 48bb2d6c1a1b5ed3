//! What the agent tells about itself: operator log, access log, audit log, metrics.

mod access_log;
mod audit_record;
mod audit_log;
mod metrics;
mod subscriber;

pub use access_log::{AccessEvent, AccessLog, AccessSink, LogWriter};
pub use audit_log::{AuditError, AuditLog, AuditSettings, ROTATE_AT, Verification};
pub use audit_record::{
    Actor, AuditEvent, AuditOutcome, AuditRecord, Chain, Head, Keyed, LONGEST_TEXT, Link,
};
pub use metrics::{CodeCounter, Metrics};
pub use subscriber::{LogFormat, Settings, SubscribeError, subscribe};
