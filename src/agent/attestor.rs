//! The kernel's word about local callers, as the data plane asks for it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;

use arc_swap::ArcSwap;

use crate::config::WorkloadConfig;
use crate::id::WorkloadId;
use crate::proxy::{Attestor, NotAttested};
use crate::workload::{Directory, InvalidSelectors, Selectors, attest_loopback, attest_unix};

/// Matches what the kernel says with the workloads in force.
#[derive(Debug)]
pub(super) struct KernelAttestor {
    directory: ArcSwap<Directory>,
}

impl KernelAttestor {
    /// An attestor over `workloads`.
    ///
    /// # Errors
    /// Selectors that nobody could tell apart.
    pub(super) fn new(
        workloads: &BTreeMap<WorkloadId, WorkloadConfig>,
    ) -> Result<Self, Vec<InvalidSelectors>> {
        Ok(Self { directory: ArcSwap::from_pointee(directory(workloads)?) })
    }

    /// Follows other workloads from now on.
    ///
    /// # Errors
    /// Selectors that nobody could tell apart; the old ones stay in force.
    pub(super) fn follow(
        &self,
        workloads: &BTreeMap<WorkloadId, WorkloadConfig>,
    ) -> Result<(), Vec<InvalidSelectors>> {
        self.directory.store(directory(workloads)?.into());
        Ok(())
    }
}

fn directory(workloads: &BTreeMap<WorkloadId, WorkloadConfig>) -> Result<Directory, Vec<InvalidSelectors>> {
    let attested = workloads.iter().filter(|(_, config)| config.selectors != Selectors::default());
    Directory::build(attested.map(|(id, config)| (id.clone(), config.selectors.clone())))
}

impl Attestor for KernelAttestor {
    fn attest_unix(&self, stream: &UnixStream) -> Result<WorkloadId, NotAttested> {
        let directory = self.directory.load();
        let caller =
            attest_unix(stream, directory.depth()).map_err(|error| NotAttested(error.to_string()))?;
        directory
            .resolve(&caller)
            .cloned()
            .map_err(|nobody| NotAttested(format!("uid {}: {nobody}", caller.uid)))
    }

    fn attest_loopback(&self, peer: SocketAddr, local: SocketAddr) -> Result<WorkloadId, NotAttested> {
        let directory = self.directory.load();
        let caller = attest_loopback(peer, local, directory.depth())
            .map_err(|error| NotAttested(error.to_string()))?;
        directory
            .resolve(&caller)
            .cloned()
            .map_err(|nobody| NotAttested(format!("uid {}: {nobody}", caller.uid)))
    }
}
