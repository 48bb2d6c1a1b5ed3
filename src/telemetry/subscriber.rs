//! The operator log: to stderr, as text or JSON.

use super::redact::Redacting;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::TryInitError;

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    #[default]
    Text,
}

/// What is logged and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// A level (`info`) or directives by target (`info,postern::proxy=debug`).
    pub filter: String,
    /// How lines are written; the access log follows it.
    pub format: LogFormat,
    /// Whether each request leaves an event in the access log.
    pub access: bool,
}

/// Why the log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// Another subscriber was there first.
    #[error("a log subscriber is already installed")]
    AlreadySet(#[source] TryInitError),
    /// The filter is malformed.
    #[error("log filter is malformed")]
    Filter(#[source] ParseError),
}

/// Installs the operator log for the whole process.
///
/// # Errors
/// The filter is malformed, or there is a log already.
pub fn subscribe(settings: &Settings) -> Result<(), SubscribeError> {
    use tracing_subscriber::util::SubscriberInitExt;

    let filter = EnvFilter::try_new(&settings.filter).map_err(SubscribeError::Filter)?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Redacting(std::io::stderr()));
    match settings.format {
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
        LogFormat::Text => builder.with_ansi(false).finish().try_init(),
    }
    .map_err(SubscribeError::AlreadySet)
}
