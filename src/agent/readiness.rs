//! Whether the agent can do its work now: a valid certificate for everybody, and no renewal overdue.

use crate::clock::Timestamp;
use crate::issuance::{HierarchyView, Issued};
use crate::pki::Slot;

/// What somebody has to do where the root is before the issuing authority can be replaced, and who feels it already.
pub(super) fn on_signature(hierarchy: &HierarchyView) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(awaiting) = &hierarchy.awaiting {
        let (since, until) = (awaiting.since, awaiting.until);
        reasons.push(format!(
            "the next issuing authority waits for a signature since {since}, and the present one ends {until}: {SIGNATURE}"
        ));
    }
    if !hierarchy.shortened.is_empty() {
        let names: Vec<&str> = hierarchy.shortened.iter().map(|workload| workload.as_str()).collect();
        reasons.push(format!(
            "certificates are shorter than configured, since they end with the issuing authority: {}",
            names.join(", ")
        ));
    }
    reasons
}

const SIGNATURE: &str = "`postern ca csr`, have it signed where the root is, `postern ca install`";

/// Everything that stands against being ready; nothing means ready.
pub(super) fn obstacles(issued: &Issued, now: Timestamp) -> Vec<String> {
    let mut reasons = Vec::new();
    if now < Timestamp::FLOOR {
        reasons.push(format!("the clock stands at {now}, before it can have been set"));
    }
    for (workload, svid) in &issued.svids {
        if now >= svid.not_after {
            reasons.push(format!("the certificate of {workload} expired at {}", svid.not_after));
        } else if now < svid.not_before {
            reasons.push(format!("the certificate of {workload} is not valid before {}", svid.not_before));
        }
    }
    for (workload, renewal) in &issued.renewals {
        if renewal.overdue {
            let why = renewal.last_failure.as_ref().map(|(_, why)| format!(": {why}")).unwrap_or_default();
            reasons.push(format!("the renewal of {workload} is overdue{why}"));
        }
    }
    let rotation = &issued.hierarchy.rotation;
    let active = issued.hierarchy.issuing.iter().find(|authority| authority.slot == Slot::Active);
    if let Some(active) = active.filter(|active| issued.hierarchy.signs_elsewhere && now >= active.not_after)
    {
        let ends = active.not_after;
        reasons.push(format!(
            "the issuing authority {} expired at {ends}, and its successor waits for a signature: {SIGNATURE}",
            active.id
        ));
    }
    // Somebody else has to sign the next one; as long as the present one lives, everybody is served.
    if rotation.overdue && !issued.hierarchy.signs_elsewhere {
        let why = rotation.last_failure.as_ref().map(|(_, why)| format!(": {why}")).unwrap_or_default();
        reasons.push(format!("the rotation of the issuing authority is overdue{why}"));
    }
    reasons
}
