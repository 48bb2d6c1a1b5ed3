//! The authorization server at a listener: a built-in service that no product grants, for clients prove themselves to it.

use aws_lc_rs::rand::SystemRandom;

use super::admission::{Visitor, source};
use super::framing::InvalidBody;
use super::http_gate::Head;
use super::limit_fields::Notice;
use super::request_id::RequestId;
use super::response::{field, number_into};
use super::snapshot::Snapshot;
use super::worker::Worker;
use crate::oauth::{Errand, Fault, Records};
use crate::secret::Secret;

/// Bytes of the longest form: an assertion of 8 KiB fits, encoded as it may be.
pub(super) const LONGEST_FORM: usize = 16 * 1024;

/// Why a form was not read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum FormFailure {
    /// The caller is gone.
    Broken,
    /// It is longer than [`LONGEST_FORM`].
    Long,
    /// Its framing is malformed.
    Malformed,
}

impl From<InvalidBody> for FormFailure {
    fn from(error: InvalidBody) -> Self {
        match error {
            InvalidBody::Truncated => Self::Broken,
            InvalidBody::ChunkEnd | InvalidBody::ChunkSize | InvalidBody::TooLong | InvalidBody::Trailer => {
                Self::Malformed
            }
        }
    }
}

/// An answer, ready to be written.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) fields: Vec<(&'static str, String)>,
    pub(super) body: String,
    /// For log and metric.
    pub(super) code: &'static str,
    /// Who has proven to be the client.
    pub(super) client: Option<Known>,
    /// Whether nothing of the request is left unread.
    pub(super) is_read: bool,
}

/// A client, as the log names it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) app: String,
    pub(super) credential: (&'static str, String),
}

/// What the request is about, if it is one for the authorization server.
pub(super) fn errand(head: &Head<'_, '_>, visitor: &Visitor, snapshot: &Snapshot) -> Option<Errand> {
    let office = snapshot.office.as_ref()?;
    let counter = office.counter(&visitor.listener.settings.id, head.path)?;
    Some(Errand {
        counter,
        method: head.method.to_owned(),
        has_query: head.query.is_some(),
        content_types: head.values("content-type").map(<[u8]>::to_vec).collect(),
        authorization: head.values("authorization").map(|value| Secret::new(value.to_vec())).collect(),
    })
}

/// Answers to an errand whose form is read by `read`. None if the caller is gone.
pub(super) async fn answer(
    errand: &Errand,
    visitor: &Visitor,
    worker: &Worker,
    read: impl AsyncFnOnce() -> Result<Vec<u8>, FormFailure>,
) -> Option<Answered> {
    let early = {
        let snapshot = worker.snapshot();
        let reply = snapshot.office.as_ref().map(|office| office.begin(errand));
        let reply = reply.unwrap_or(None).map(|reply| Answered::of(reply, false));
        reply.or_else(
            || if errand.counter.takes_form() { throttled(visitor, &snapshot, worker) } else { None },
        )
    };
    if early.is_some() {
        return early;
    }
    let body = match read().await {
        Ok(body) => Secret::new(body),
        Err(FormFailure::Broken) => return None,
        Err(FormFailure::Long) => {
            return Some(Answered::fault(Fault { status: 413, ..Fault::request("The form is too long.") }));
        }
        Err(FormFailure::Malformed) => {
            return Some(Answered::fault(Fault::request("The body is malformed.")));
        }
    };
    // The form may have taken its time, so it is held against what is in force now.
    let (snapshot, now) = (worker.snapshot(), worker.now());
    let Some(office) = &snapshot.office else { return Some(Answered::fault(Fault::UNAVAILABLE)) };
    let records =
        Records { registry: &snapshot.registry, peppers: &snapshot.peppers, trust: &snapshot.tokens };
    let random = SystemRandom::new();
    let mut reply = office.answer(errand, body.expose_secret(), &visitor.evidence(), &records, &random, now);
    if reply.is_failed_attempt {
        if let Some(pace) = &snapshot.limits.failed_keys {
            snapshot.throttle.note_failure(source(visitor.peer.ip()), pace, now);
        }
        worker.signs.report_failure(visitor.peer.ip(), now);
    }
    let withdrawal = reply.withdrawal.take();
    let answered = Answered::of(reply, true);
    if let Some(withdrawal) = withdrawal
        && let Err(error) = worker.tokens.withdraw(withdrawal).await
    {
        tracing::warn!(target: "postern::proxy", %error, "a token could not be taken back");
        return Some(Answered {
            client: answered.client,
            is_read: true,
            ..Answered::fault(Fault::UNAVAILABLE)
        });
    }
    Some(answered)
}

/// Turns away who has failed too often, before anything is read.
fn throttled(visitor: &Visitor, snapshot: &Snapshot, worker: &Worker) -> Option<Answered> {
    let pace = snapshot.limits.failed_keys.as_ref()?;
    let wait = snapshot.throttle.admit(source(visitor.peer.ip()), pace, worker.now()).err()?;
    let mut answered = Answered::fault(Fault {
        code: "rate-limited",
        status: 429,
        description: "Too many credentials from this address have not been valid.",
    });
    for (name, value) in Notice::to_wait(wait).fields() {
        answered.fields.push((name, String::from_utf8_lossy(&value).into_owned()));
    }
    Some(answered)
}

impl Answered {
    fn of(reply: crate::oauth::Reply<'_>, is_read: bool) -> Self {
        let client = reply.client.map(|credential| Known {
            app: credential.app.id.to_string(),
            credential: (credential.kind().as_str(), credential.id.to_string()),
        });
        Self {
            status: reply.status,
            fields: reply.fields,
            body: reply.body,
            code: reply.code,
            client,
            is_read,
        }
    }

    fn fault(fault: Fault) -> Self {
        Self::of(fault.into(), false)
    }

    /// Writes it for an HTTP/1 caller.
    pub(super) fn write_http1(&self, out: &mut Vec<u8>, id: &RequestId, to_head: bool, connection: &[u8]) {
        out.clear();
        out.extend_from_slice(b"HTTP/1.1 ");
        number_into(out, u64::from(self.status));
        out.push(b' ');
        let reason =
            http::StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason());
        out.extend_from_slice(reason.unwrap_or_default().as_bytes());
        out.extend_from_slice(b"\r\n");
        for (name, value) in &self.fields {
            field(out, name, value.as_bytes());
        }
        field(out, "x-request-id", id.as_str().as_bytes());
        out.extend_from_slice(b"content-length: ");
        number_into(out, u64::try_from(self.body.len()).unwrap_or(0));
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(connection);
        out.extend_from_slice(b"\r\n");
        if !to_head {
            out.extend_from_slice(self.body.as_bytes());
        }
    }
}
