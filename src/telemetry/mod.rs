//! What the agent tells about itself: operator log, access log, metrics.

mod access_log;
mod metrics;
mod recall;
mod subscriber;

pub use access_log::{AccessEvent, AccessLog, AccessSink, LogWriter};
pub use metrics::{CodeCounter, Metrics};
pub use recall::{Recall, Remembered};
pub use subscriber::{LogFormat, Settings, SubscribeError, subscribe};
