//! What is done about a request that has been read, whichever protocol it came by: decided without waiting for anything.

use super::admission::{Purpose, Verdict, Visitor, admit, dispatch, shed};
use super::forward::{Resident, Route};
use super::http_gate::Head;
use super::http1::Peer;
use super::pressure::Pressure;
use super::refuse::Answer;
use super::snapshot::Snapshot;
use super::token_office;
use super::trace::Trace;
use super::upgrade::UpgradeProtocol;
use super::worker::Worker;
use crate::clock::Timestamp;
use crate::oauth::Errand;

/// What is done about a request.
#[expect(clippy::large_enum_variant, reason = "it lives for one request, and a yes must not allocate")]
pub(super) enum Course<'a> {
    /// It is answered here.
    Answer(Answer),
    /// It is something for the authorization server.
    Errand(Errand, &'a Visitor),
    /// It goes on.
    Forward(Route<'a>),
}

/// A request on which it has been decided.
pub(super) struct Judgement<'a> {
    pub(super) course: Course<'a>,
    pub(super) verdict: Verdict<'a>,
    /// What its connection goes over to, if the other side agrees.
    pub(super) upgrade: Option<&'a UpgradeProtocol>,
}

impl Judgement<'_> {
    /// A request of which nobody asks who sent it.
    pub(super) fn of_nobody(answer: Answer) -> Self {
        let verdict = Verdict::of_nobody(answer.code);
        Self { course: Course::Answer(answer), verdict, upgrade: None }
    }
}

/// Decides on the request of `peer`; what goes on with it stands in `upstream_head` then.
pub(super) fn judge<'a>(
    head: &Head<'_, '_>,
    worker: &Worker,
    peer: &'a Peer,
    snapshot: &'a Snapshot,
    trace: &Trace<'_>,
    now: Timestamp,
    upstream_head: &mut Vec<u8>,
) -> Judgement<'a> {
    match peer {
        _ if worker.pressure() == Pressure::Requests => Judgement::of_nobody(shed()),
        Peer::Visitor(visitor) if let Some(errand) = token_office::errand(head, visitor, snapshot) => {
            let verdict = Verdict { service: "oauth", ..Verdict::of_nobody("allowed") };
            Judgement { course: Course::Errand(errand, visitor), verdict, upgrade: None }
        }
        Peer::Visitor(visitor) => {
            match admit(head, visitor, snapshot, trace, (Purpose::Admit, now), upstream_head) {
                Ok(admission) => {
                    worker.note_use(&admission.permit, now);
                    let (verdict, upgrade) = (admission.verdict(), admission.upgrade);
                    Judgement { course: Course::Forward(Route::Service(admission)), verdict, upgrade }
                }
                Err((answer, verdict)) => {
                    Judgement { course: Course::Answer(answer), verdict, upgrade: None }
                }
            }
        }
        Peer::Resident(resident) => {
            match dispatch(head, upgrades(resident, head, snapshot), trace, upstream_head) {
                Ok(upgrade) => {
                    let service = resident.remote.as_str();
                    let verdict = Verdict { service, ..Verdict::of_nobody("allowed") };
                    Judgement { course: Course::Forward(Route::Remote(resident)), verdict, upgrade }
                }
                Err(answer) => Judgement::of_nobody(answer),
            }
        }
    }
}

/// What the remote of `resident` lists, where `head` asks for anything.
fn upgrades<'s>(resident: &Resident, head: &Head<'_, '_>, snapshot: &'s Snapshot) -> &'s [UpgradeProtocol] {
    let remote = head.values("upgrade").next().and_then(|_| snapshot.remotes.get(&resident.remote));
    remote.map(|remote| &*remote.settings.upgrades).unwrap_or_default()
}
