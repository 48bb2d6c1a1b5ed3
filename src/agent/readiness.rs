//! Whether the agent can do its work now: a valid certificate for everybody, and no renewal overdue.

use crate::clock::Timestamp;
use crate::issuance::Issued;

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
    if rotation.overdue {
        let why = rotation.last_failure.as_ref().map(|(_, why)| format!(": {why}")).unwrap_or_default();
        reasons.push(format!("the rotation of the issuing authority is overdue{why}"));
    }
    reasons
}
