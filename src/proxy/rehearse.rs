//! The gate without a caller: what would be answered to a request that nobody has sent.
//!
//! **Invariant:** a rehearsal goes through the very functions that live traffic goes through, so that the two cannot disagree.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::admission::{Purpose, Verdict, Visitor, admit, request_id};
use super::http_gate::{MAX_FIELDS, read_http1};
use super::limit_fields::lines;
use super::request_id::RequestIds;
use super::snapshot::{Listener, Snapshot};
use super::tcp;
use super::trace::Trace;
use crate::authz::Permit;
use crate::clock::Timestamp;
use crate::id::ServiceId;
use crate::pki::Verified;
use crate::registry::KindSet;

/// Somebody who is only imagined.
#[derive(Debug)]
pub struct Caller {
    /// Its certificate, if it shows one.
    pub verified: Option<Verified>,
    /// Where it comes from.
    pub address: IpAddr,
    /// The name that it asks for in the handshake.
    pub sni: Option<String>,
}

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
    /// The scopes in force; where one of them is missing, those that the operation asks for.
    pub scopes: Vec<String>,
    /// How the limits stand that it meets, one a line.
    pub limits: Vec<String>,
}

/// Plays `part` for `caller`.
#[must_use]
pub fn rehearse(
    listener: &Arc<Listener>,
    caller: Caller,
    part: &Part<'_>,
    snapshot: &Snapshot,
    now: Timestamp,
) -> Outcome {
    let Caller { verified, address, sni } = caller;
    let peer = SocketAddr::new(address, 0);
    let visitor = Visitor::new(Arc::clone(listener), peer, sni.as_deref(), verified.map(Arc::new));
    match part {
        Part::Tcp(service) => {
            let (verdict, admitted) = tcp::judge(&visitor, service, snapshot, Purpose::Rehearse, now);
            let status = if admitted.is_some() { 200 } else { 403 };
            match admitted {
                Some(admission) => of_permit(&admission.permit, outcome(status, &verdict)),
                None => outcome(status, &verdict),
            }
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
                    of_permit(&admission.permit, outcome(200, &verdict))
                }
                Err((answer, verdict)) => {
                    let scopes = answer.missing_scopes().map(str::to_owned).collect();
                    let limits = answer.notice.map(|notice| notice.lines()).unwrap_or_default();
                    Outcome { scopes, limits, ..outcome(answer.status, &verdict) }
                }
            }
        }
    }
}

fn of_permit(permit: &Permit<'_>, outcome: Outcome) -> Outcome {
    let scopes = permit.terms().scopes().map(str::to_owned).collect();
    Outcome { scopes, limits: lines(permit.statement()), ..outcome }
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
        scopes: Vec::new(),
        limits: Vec::new(),
    }
}
