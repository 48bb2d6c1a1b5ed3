//! What the data plane is given from outside: the snapshot in force, the time, who vouches for local callers, what is counted.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::pressure::Gauge;
use super::sightings::Lookout;
use super::signs::Signs;
use super::snapshot::Current;
use super::uses::UseReports;
use crate::clock::Clock;
use crate::id::WorkloadId;
use crate::issuance::TokenDesk;
use crate::pki::Skews;
use crate::telemetry::{AccessSink, Metrics, SpanSink, UsageBook};

/// What every thread works with.
#[derive(Clone, Debug)]
pub struct PlaneContext {
    /// The snapshot in force.
    pub current: Current,
    /// The agent's clock.
    pub clock: Arc<dyn Clock>,
    /// Who tells local callers apart.
    pub attestor: Arc<dyn Attestor>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Peers whose clocks are ahead.
    pub skews: Arc<Mutex<Skews>>,
    /// So many decisions each thread remembers.
    pub remember: usize,
    /// Where it is reported what somebody should look into.
    pub signs: Signs,
    /// Where usage is added up.
    pub usage: Arc<Mutex<UsageBook>>,
    /// Where usage records go.
    pub records: AccessSink,
    /// Where access-log lines go.
    pub access: AccessSink,
    /// Where callers are reported that show a leaf of a retired authority.
    pub lookout: Lookout,
    /// Where tokens are taken back.
    pub tokens: TokenDesk,
    /// Whether memory is short.
    pub pressure: Gauge,
    /// Where spans go.
    pub spans: SpanSink,
    /// Where it is reported by which credentials callers are let in.
    pub uses: UseReports,
}

/// Finds out which workload a local caller is. Implemented by the agent over kernel attestation; it may block for as long as
/// reading `/proc` takes and is called off the data-plane threads.
pub trait Attestor: fmt::Debug + Send + Sync {
    /// The workload at the other end of a connected Unix socket.
    ///
    /// # Errors
    /// It is no configured workload, or the kernel does not say.
    fn attest_unix(&self, stream: &std::os::unix::net::UnixStream) -> Result<WorkloadId, NotAttested>;

    /// The workload that owns the client's end of a loopback connection.
    ///
    /// # Errors
    /// It is no configured workload, or the kernel does not say.
    fn attest_loopback(&self, peer: SocketAddr, local: SocketAddr) -> Result<WorkloadId, NotAttested>;
}

/// Why a local caller gets no identity, in words for the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotAttested(pub String);

/// What every live connection must hear of.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Signal {
    /// Nobody new is taken in, and who is here is to go.
    pub(super) draining: bool,
    /// Another process takes callers in by now, so there is no hurry.
    pub(super) heir: bool,
    /// When whoever is still here is cut.
    pub(super) ends: Option<Instant>,
    /// Grows with each snapshot.
    pub(super) changes: u64,
}

impl Signal {
    /// Has everybody go by `end`, or by the moment that was said before if that is sooner.
    pub(super) fn drain_by(&mut self, end: Instant) {
        self.draining = true;
        self.ends = Some(self.ends.map_or(end, |ends| ends.min(end)));
    }

    /// How long is left until whoever is still here is cut, if that is to be.
    pub(super) fn left(&self) -> Option<Duration> {
        self.ends.map(|ends| ends.saturating_duration_since(Instant::now()))
    }
}
