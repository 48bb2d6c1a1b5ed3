//! The gate without a caller: what would be answered to a request that nobody has sent.
//!
//! **Invariant:** a rehearsal goes through the very functions that live traffic goes through, so that the two cannot disagree.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::admission::{Purpose, Trace, Verdict, Visitor, admit, request_id};
use super::http_gate::{MAX_FIELDS, read_http1};
use super::limit_fields::lines;
use super::request_id::RequestIds;
use super::snapshot::{Listener, Snapshot};
use super::tcp;
use crate::clock::Timestamp;
use crate::id::ServiceId;
use crate::pki::Verified;
use crate::registry::KindSet;

/// A request that is only imagined.
#[derive(Debug)]
pub enum Part<'a> {
    /// An HTTP/1 head, with its empty line.
    Http(&'a [u8]),
    /// A raw connection to a service.
    Tcp(&'a ServiceId),
}

/// What would become of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outcome {
    /// The status of the answer; 200 stands for whatever the service says.
    pub status: u16,
    /// `allowed`, or why not.
    pub code: &'static str,
    /// The app, when it is known.
    pub app: String,
    /// The product that allows it.
    pub product: String,
    /// The service asked for.
    pub service: String,
    /// The operation of that product.
    pub operation: String,
    /// The kinds of credential that are presented.
    pub presented: KindSet,
    /// The credential's kind and id.
    pub credential: Option<(&'static str, String)>,
    /// How the limits stand that it meets, one a line.
    pub limits: Vec<String>,
}

/// Plays `part` for a caller with a `verified` certificate, or with none.
#[must_use]
pub fn rehearse(
    listener: &Arc<Listener>,
    verified: Option<Verified>,
    part: &Part<'_>,
    snapshot: &Snapshot,
    now: Timestamp,
) -> Outcome {
    let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let visitor = Visitor::new(Arc::clone(listener), nowhere, verified.map(Arc::new));
    match part {
        Part::Tcp(service) => {
            let (verdict, admitted) = tcp::judge(&visitor, service, snapshot, Purpose::Rehearse, now);
            let status = if admitted.is_some() { 200 } else { 403 };
            let limits = admitted.map(|admission| lines(admission.permit.statement())).unwrap_or_default();
            Outcome { limits, ..outcome(status, &verdict) }
        }
        Part::Http(bytes) => {
            let mut storage = [httparse::EMPTY_HEADER; MAX_FIELDS];
            let head = match read_http1(bytes, &mut storage) {
                Ok(head) => head,
                Err(bad) => return outcome(bad.status(), &Verdict::of_nobody("bad-request")),
            };
            let ids = RequestIds::new();
            let id = request_id(&head, &ids, now);
            let trace = Trace::new(&head, &id, &ids);
            let purpose = (Purpose::Rehearse, now);
            match admit(&head, &visitor, snapshot, &trace, purpose, &mut Vec::new()) {
                Ok(admission) => {
                    let verdict = admission.verdict();
                    Outcome { limits: lines(admission.permit.statement()), ..outcome(200, &verdict) }
                }
                Err((answer, verdict)) => {
                    let limits = answer.notice.map(|notice| notice.lines()).unwrap_or_default();
                    Outcome { limits, ..outcome(answer.status, &verdict) }
                }
            }
        }
    }
}

fn outcome(status: u16, verdict: &Verdict<'_>) -> Outcome {
    let (kind, credential) = verdict.credential;
    Outcome {
        status,
        code: verdict.code,
        app: verdict.app.to_owned(),
        product: verdict.product.to_owned(),
        operation: verdict.operation.to_owned(),
        presented: verdict.presented,
        service: verdict.service.to_owned(),
        credential: (!credential.is_empty()).then(|| (kind, credential.to_owned())),
        limits: Vec::new(),
    }
}
