//! What a data-plane thread has noticed that somebody should look into.
//!
//! It is reported over a channel of bounded length, and nobody waits; what does not fit is counted.

use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;

use crate::clock::Timestamp;
use crate::telemetry::AccessEvent;

/// Something that was noticed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sign {
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: Noticed,
}

/// What was noticed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Noticed {
    /// A signature was made by a clock that is not ours.
    ClockSkew {
        /// The caller's network.
        network: u128,
    },
    /// A credential proved nothing.
    Failed {
        /// The caller's network.
        network: u128,
    },
    /// A secret of ours stood where it should not.
    Leaked {
        /// The credential.
        credential: String,
        /// Whose it is.
        app: String,
        /// `url`, or `response` of a service.
        place: &'static str,
    },
    /// A secret was used, for the first time in a while from this network.
    Used {
        /// The credential.
        credential: String,
        /// Whose it is.
        app: String,
        /// The caller's network.
        network: u128,
    },
}

/// A thread's way to report.
#[derive(Clone, Debug)]
pub struct Signs {
    reports: mpsc::Sender<Sign>,
    dropped: Counter,
}

impl Signs {
    /// A way to report, and the end where reports arrive; `dropped` counts those that found no room.
    #[must_use]
    pub fn new(dropped: Counter) -> (Self, mpsc::Receiver<Sign>) {
        let (reports, arriving) = mpsc::channel(BACKLOG);
        (Self { reports, dropped }, arriving)
    }

    /// Reports that somebody at `address` has failed to say who it is.
    pub(super) fn report_failure(&self, address: IpAddr, at: Timestamp) {
        self.report(at, Noticed::Failed { network: network(address) });
    }

    /// Reports it.
    pub(super) fn report(&self, at: Timestamp, what: Noticed) {
        if self.reports.try_send(Sign { at, what }).is_err() {
            self.dropped.inc();
        }
    }
}

/// Reports that may wait.
const BACKLOG: usize = 4_096;

/// What a thread has reported lately, so that it does not say everything with every request.
#[derive(Debug)]
pub(super) struct Seen {
    hasher: RandomState,
    uses: RefCell<Vec<u64>>,
}

/// So many uses are known to have been reported; a power of two.
const USES: usize = 4_096;

impl Seen {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self { hasher: RandomState::new(), uses: RefCell::default() }
    }

    /// Reports what there is to notice about `event`.
    pub(super) fn look_at(&self, event: &AccessEvent<'_>, signs: &Signs) {
        let Some(network) = event.peer.map(|peer| network(peer.ip())) else { return };
        let (kind, credential) = event.credential;
        match event.code {
            "allowed" if matches!(kind, "api_key" | "signature") && self.is_new(credential, network) => {
                let (credential, app) = (credential.to_owned(), event.app.to_owned());
                signs.report(event.at, Noticed::Used { credential, app, network });
            }
            "clock-skew" => signs.report(event.at, Noticed::ClockSkew { network }),
            "invalid-credential" => signs.report(event.at, Noticed::Failed { network }),
            "key-in-url" if !credential.is_empty() => {
                let (credential, app) = (credential.to_owned(), event.app.to_owned());
                signs.report(event.at, Noticed::Leaked { credential, app, place: "url" });
            }
            _ => {}
        }
    }

    fn is_new(&self, credential: &str, network: u128) -> bool {
        let hash = self.hasher.hash_one((credential, network)) | 1;
        let mut uses = self.uses.borrow_mut();
        uses.resize(USES, 0);
        let place = usize::try_from(hash >> 40).unwrap_or(0) % USES;
        uses.get_mut(place).is_some_and(|place| std::mem::replace(place, hash) != hash)
    }
}

/// The network that an address belongs to: 24 bits of an IPv4 address, written as IPv6, or 64 of an IPv6 address.
fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits() >> 8 << 8,
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}
