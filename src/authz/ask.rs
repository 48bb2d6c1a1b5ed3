//! The question that a request asks.

use crate::id::{EnvironmentId, ServiceId};
use crate::registry::{Accepts, PolicyPath};

/// What a caller wants to do.
#[derive(Clone, Copy, Debug)]
pub enum Ask<'a> {
    /// One HTTP request.
    Http {
        /// The service that would answer.
        service: &'a ServiceId,
        /// The method, as sent.
        method: &'a str,
        /// The normalised path.
        path: &'a PolicyPath<'a>,
    },
    /// One raw connection.
    Tcp {
        /// The service at its other end.
        service: &'a ServiceId,
    },
}

impl<'a> Ask<'a> {
    /// The service that is asked for.
    #[must_use]
    pub const fn service(&self) -> &'a ServiceId {
        match self {
            Self::Http { service, .. } | Self::Tcp { service } => service,
        }
    }
}

/// The levels that a caller passed on its way in, each with what it accepts, and where that is; silence accepts what the next
/// level accepts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Door<'a> {
    /// The listener's rule.
    pub listener: Option<&'a Accepts>,
    /// The service's rule.
    pub service: Option<&'a Accepts>,
    /// The environment that the agent stands in, if it has a name.
    pub environment: Option<&'a EnvironmentId>,
}
