//! Tokens for local workloads: the kernel says who asks, so no secret is needed.
//!
//! The socket is open to everybody on the host. Whoever is no workload, or one whose identity belongs to no app, gets nothing.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use tokio::net::{UnixListener, UnixStream};

use super::answer::{self, Answer};
use super::connections::{self, Bounds};
use super::server::bind;
use super::steward::Steward;
use crate::oauth::{Fault, Form};
use crate::store::socket_file::SocketError;

/// Opens the socket at `path` for everybody, in the place of one that an earlier agent left behind.
///
/// # Errors
/// Somebody else uses the path, or the system refuses.
pub fn bind_tokens(path: &Path) -> Result<UnixListener, SocketError> {
    let listener = bind(path)?;
    let refused = |source| SocketError::Io { step: "open to everybody", path: path.to_owned(), source };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(refused)?;
    Ok(listener)
}

/// Serves on `listener` until `shutdown`. Tokens are to be had by a POST to `path`.
pub async fn serve_tokens<S: Steward>(
    listener: UnixListener,
    path: String,
    steward: Arc<S>,
    shutdown: impl Future<Output = ()>,
) {
    let path: Arc<str> = path.into();
    let begin = |stream: &UnixStream| {
        // The handler outlives this borrow, and has to ask the kernel about the very same connection.
        let caller = stream.as_fd().try_clone_to_owned().map(std::os::unix::net::UnixStream::from);
        let caller = Arc::new(caller);
        let (steward, path) = (Arc::clone(&steward), Arc::clone(&path));
        move |request: Request<Incoming>| {
            let (steward, path, caller) = (Arc::clone(&steward), Arc::clone(&path), Arc::clone(&caller));
            async move { answer_to(request, &path, &caller, steward).await }
        }
    };
    connections::serve(listener, BOUNDS, begin, shutdown).await;
}

const BOUNDS: Bounds =
    Bounds { connections: 64, head: Duration::from_secs(5), exchange: Duration::from_secs(10) };

/// Bytes of the longest form; nobody sends a secret here.
const LONGEST_FORM: usize = 8 * 1024;

async fn answer_to<S: Steward>(
    request: Request<Incoming>,
    path: &str,
    caller: &io::Result<std::os::unix::net::UnixStream>,
    steward: Arc<S>,
) -> Answer {
    if request.uri().path() != path {
        return answer::not_found(request.uri().path());
    }
    if request.method() != Method::POST {
        return answer::wrong_method("POST", request.method());
    }
    if request.uri().query().is_some() {
        return refusal(&Fault::request("Parameters belong into the body, not into the URL."));
    }
    let Ok(body) = Limited::new(request.into_body(), LONGEST_FORM).collect().await else {
        return refusal(&Fault::request("The form is too long, or was not sent whole."));
    };
    let Ok(form) = Form::parse(&body.to_bytes()) else {
        return refusal(&Fault::request("The body is no form in which each parameter stands once."));
    };
    let Ok(caller) = caller.as_ref().map_err(drop).and_then(|stream| stream.try_clone().map_err(drop)) else {
        return refusal(&Fault::UNAVAILABLE);
    };
    // Finding out who calls reads files and may wait for them.
    let minted = tokio::task::spawn_blocking(move || steward.mint(&caller, &form)).await;
    match minted {
        Ok(Ok(minted)) => answer(StatusCode::OK, minted.to_json()),
        Ok(Err(fault)) => refusal(&fault),
        Err(_) => refusal(&Fault::UNAVAILABLE),
    }
}

fn refusal(fault: &Fault) -> Answer {
    let status = StatusCode::from_u16(fault.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer(status, fault.to_json())
}

fn answer(status: StatusCode, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
