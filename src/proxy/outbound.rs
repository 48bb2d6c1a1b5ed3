//! The doors to outside: a local workload connects in plaintext, the kernel says who it is, and its own certificate goes on.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::{Instant, timeout};

use super::context::NotAttested;
use super::forward::{Resident, Route, may_go_on};
use super::http1::{self, Peer};
use super::http2;
use super::preface::{Begun, recognise};
use super::settings::RemoteProtocol;
use super::tcp::{self, End};
use super::worker::{OpenConnection, Worker, back_off};
use crate::id::{RemoteId, WorkloadId};
use crate::telemetry::AccessEvent;

/// Accepts local callers on loopback TCP for as long as the door is open.
///
/// # Errors
/// The socket cannot be used at all.
pub(super) async fn accept_tcp(
    worker: Rc<Worker>,
    remote: RemoteId,
    socket: std::net::TcpListener,
) -> io::Result<()> {
    let socket = TcpListener::from_std(socket)?;
    let mut failures = 0;
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                failures = 0;
                if is_full(&worker) {
                    continue;
                }
                tokio::task::spawn_local(from_tcp(Rc::clone(&worker), remote.clone(), stream, peer));
            }
            Err(error) => back_off(&error, &mut failures).await,
        }
    }
}

/// Accepts local callers on a Unix socket for as long as the door is open.
///
/// # Errors
/// The socket cannot be used at all.
pub(super) async fn accept_unix(
    worker: Rc<Worker>,
    remote: RemoteId,
    socket: std::os::unix::net::UnixListener,
) -> io::Result<()> {
    let socket = UnixListener::from_std(socket)?;
    let mut failures = 0;
    loop {
        match socket.accept().await {
            Ok((stream, _)) => {
                failures = 0;
                if is_full(&worker) {
                    continue;
                }
                tokio::task::spawn_local(from_unix(Rc::clone(&worker), remote.clone(), stream));
            }
            Err(error) => back_off(&error, &mut failures).await,
        }
    }
}

/// Whether the thread has as many connections as it may have. Local callers fill no more of it than those from outside.
fn is_full(worker: &Worker) -> bool {
    let full = worker.open() >= worker.snapshot().limits.connections;
    if full {
        worker.outbound.count("too-many-connections");
    }
    full
}

async fn from_tcp(worker: Rc<Worker>, remote: RemoteId, stream: TcpStream, peer: SocketAddr) {
    let _open = OpenConnection::on(&worker);
    let Ok(local) = stream.local_addr() else { return };
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let attestor = Arc::clone(&worker.attestor);
    let attested = tokio::task::spawn_blocking(move || attestor.attest_loopback(peer, local)).await;
    if let Some(workload) = admitted(&worker, &remote, attested, Some(peer)) {
        serve(worker, remote, workload, stream).await;
    }
}

async fn from_unix(worker: Rc<Worker>, remote: RemoteId, stream: UnixStream) {
    let _open = OpenConnection::on(&worker);
    let attestor = Arc::clone(&worker.attestor);
    let Ok(stream) = stream.into_std() else { return };
    let attested = tokio::task::spawn_blocking(move || {
        let attested = attestor.attest_unix(&stream);
        (stream, attested)
    })
    .await;
    let Ok((stream, attested)) = attested else { return };
    let Some(workload) = admitted(&worker, &remote, Ok(attested), None) else { return };
    if let Ok(stream) = UnixStream::from_std(stream) {
        serve(worker, remote, workload, stream).await;
    }
}

/// The workload, or a log line that says what missed.
fn admitted(
    worker: &Worker,
    remote: &RemoteId,
    attested: Result<Result<WorkloadId, NotAttested>, tokio::task::JoinError>,
    peer: Option<SocketAddr>,
) -> Option<WorkloadId> {
    let refused = match attested {
        Ok(Ok(workload)) => return Some(workload),
        Ok(Err(refused)) => refused.to_string(),
        Err(_) => "the attestation was broken off".to_owned(),
    };
    worker.outbound.count("not-attested");
    let peer = peer.map_or_else(|| "a Unix socket".to_owned(), |peer| peer.to_string());
    tracing::warn!(target: "postern::proxy", %remote, peer, reason = refused, "local caller refused");
    None
}

async fn serve<S>(worker: Rc<Worker>, remote: RemoteId, workload: WorkloadId, mut stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let snapshot = worker.snapshot();
    let Some(settings) = snapshot.remotes.get(&remote) else { return };
    let Some(client) = settings.clients.get(&workload) else {
        worker.outbound.count("no-identity");
        tracing::warn!(target: "postern::proxy", %remote, %workload, "the workload has no identity for this remote");
        return;
    };
    let own_id = client.own_id.clone();
    let resident = Resident { remote: remote.clone(), workload, own_id, bond: RefCell::default() };
    match settings.settings.protocol {
        RemoteProtocol::H2 => {
            let within = snapshot.limits.idle;
            drop(snapshot);
            let recognised = timeout(within, recognise(stream)).await;
            let Ok(Ok((begun, stream))) = recognised else { return };
            let peer = Peer::Resident(Box::new(resident));
            return match begun {
                Begun::Http1 => http1::serve(worker, peer, stream, None).await,
                Begun::Http2 => http2::serve(worker, peer, stream, None).await,
            };
        }
        RemoteProtocol::Http => {
            drop(snapshot);
            return http1::serve(worker, Peer::Resident(Box::new(resident)), stream, None).await;
        }
        RemoteProtocol::Tcp => {}
    }
    let (now, begun) = (worker.now(), Instant::now());
    let id = worker.ids.next(now);
    let (code, moved) = match tcp::connect(&worker, &Route::Remote(&resident), &snapshot.limits).await {
        Ok(mut upstream) => {
            let (until, bond) = (upstream.until, upstream.bond.clone());
            let allowed = || bond.as_ref().map_or(Ok(()), |bond| may_go_on(&worker, &resident, bond));
            let (near, far) = (End::new(&mut stream), End::new(&mut upstream.io));
            let moved = tcp::pipe(&worker, near, far, until, &snapshot.limits, allowed).await;
            (moved.ended.unwrap_or("allowed"), moved)
        }
        Err(code) => (code, tcp::Moved::default()),
    };
    worker.outbound.count(code);
    worker.log(&AccessEvent {
        at: now,
        request_id: id.as_str(),
        door: resident.remote.as_str(),
        direction: "out",
        peer: None,
        protocol: "tcp",
        method: "",
        path: "",
        status: 0,
        code,
        service: resident.remote.as_str(),
        spiffe_id: resident.own_id.as_str(),
        received: moved.up,
        sent: moved.down,
        duration: begun.elapsed(),
        ..AccessEvent::NOTHING
    });
}
