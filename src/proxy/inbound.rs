//! The doors from outside: accept, TLS, who is it, and on to the protocol that was agreed on.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::{Acceptor, ClientHello};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::admission::{Visitor, source};
use super::crowd::Member;
use super::http1::Peer;
use super::pressure::Pressure;
use super::proxy_protocol::{self, Unread};
use super::settings::{Limits, ListenerProtocol};
use super::snapshot::{Listener, Snapshot};
use super::tls::{not_yet_valid, shown, verdict, verify_error};
use super::worker::{OpenConnection, Reserve, Worker, back_off};
use super::{http1, http2, linger, tcp};
use crate::clock::Timestamp;
use crate::id::{AppId, ListenerId};
use crate::identity::{Glimpse, Match, Subject, printable};
use crate::pki::{Usage, Verified, VerifyError};

/// Accepts callers at a listener for as long as the door is open.
///
/// # Errors
/// The socket cannot be used at all.
pub(super) async fn accept(
    worker: Rc<Worker>,
    id: ListenerId,
    socket: std::net::TcpListener,
) -> io::Result<()> {
    let socket = TcpListener::from_std(socket)?;
    let address = socket.local_addr()?;
    let (mut failures, mut reserve) = (0, Reserve::new());
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                failures = 0;
                let snapshot = worker.snapshot();
                let Some(listener) = listener(&snapshot, address, &id) else { continue };
                let place = match place(&worker, &snapshot.limits, &listener, peer) {
                    Ok(place) => place,
                    Err(code) => {
                        worker.handshakes.count(code);
                        continue;
                    }
                };
                tokio::task::spawn_local(welcome(Rc::clone(&worker), listener, stream, peer, place));
            }
            Err(error) => {
                for _ in 0..reserve.turn_away(&error, &socket).await {
                    worker.handshakes.count("no-descriptors");
                }
                back_off(&error, &mut failures).await;
            }
        }
    }
}

/// A place for one more connection from `peer`; none of its own for one that comes by way of a proxy, which says later who it is
/// from.
///
/// # Errors
/// What it is counted as that there is none.
fn place(
    worker: &Worker,
    limits: &Limits,
    listener: &Listener,
    peer: SocketAddr,
) -> Result<Option<Member<u128>>, &'static str> {
    if worker.pressure() >= Pressure::Connections {
        return Err("memory-ceiling");
    }
    if worker.open() >= limits.connections {
        return Err("too-many-connections");
    }
    match &listener.settings.proxy_protocol {
        Some(proxies) if !proxies.iter().any(|proxy| proxy.contains(peer.ip())) => Err("not-a-proxy"),
        Some(_) => Ok(None),
        None => place_of_source(worker, limits, peer).map(Some),
    }
}

fn place_of_source(worker: &Worker, limits: &Limits, peer: SocketAddr) -> Result<Member<u128>, &'static str> {
    let place = worker.sources.join(source(peer.ip()), limits.source_connections);
    place.ok_or("too-many-from-source")
}

/// Who the connection is from, and a place for it: where a proxy passes it on, that is told by what it begins with. The proxy's
/// own connections are its own.
///
/// # Errors
/// What it is counted as that nobody is let in by it.
async fn introduced(
    worker: &Worker,
    listener: &Listener,
    stream: &mut TcpStream,
    peer: SocketAddr,
    until: Instant,
) -> Result<(SocketAddr, Member<u128>), &'static str> {
    let told = match timeout_at(until, proxy_protocol::read(stream)).await {
        Ok(Ok(told)) => told.unwrap_or(peer),
        Ok(Err(error)) => {
            tracing::warn!(target: "postern::proxy", proxy = %peer, listener = %listener.settings.id, reason = %error, "connection refused: its PROXY header cannot be read");
            return Err(match error {
                Unread::Closed(_) => "closed",
                Unread::Invalid(_) => "bad-proxy-header",
            });
        }
        Err(_) => return Err("timeout"),
    };
    let limits = Arc::clone(&worker.snapshot().limits);
    place_of_source(worker, &limits, told).map(|place| (told, place))
}

/// The listener at `address`, whatever its name is by now; one that was given no port of its own is found by the name that it was
/// opened under.
fn listener(snapshot: &Snapshot, address: SocketAddr, id: &ListenerId) -> Option<Arc<Listener>> {
    let is_here = |listener: &&Arc<Listener>| listener.settings.address == address;
    snapshot.listeners.values().find(is_here).or_else(|| snapshot.listeners.get(id)).cloned()
}

async fn welcome(
    worker: Rc<Worker>,
    listener: Arc<Listener>,
    mut stream: TcpStream,
    peer: SocketAddr,
    place: Option<Member<u128>>,
) {
    let _open = OpenConnection::on(&worker);
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let (within, at_once) = {
        let limits = &worker.snapshot().limits;
        (limits.handshake, limits.handshakes)
    };
    let until = Instant::now() + within;
    let Ok(destination) = stream.local_addr() else { return };
    let (peer, _place) = match place {
        Some(place) => (peer, place),
        None => match introduced(&worker, &listener, &mut stream, peer, until).await {
            Ok(introduced) => introduced,
            Err(code) => return worker.handshakes.count(code),
        },
    };
    let Some(turn) = worker.handshaking.enter(at_once, until).await else {
        worker.handshakes.count("too-many-handshakes");
        return;
    };
    let Some(listener) = presentable(&worker, listener, within).await else { return };
    let mut hello = Hello::default();
    // The connection is going to outlive its handshake, and need not be as large.
    let shaking = Box::pin(shake_hands(Arc::clone(&listener.tls), stream, &mut hello));
    let stream = match timeout_at(until, worker.turns.take(shaking)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err((error, stream))) => {
            note_failure(&worker, &listener, peer, &hello, &error);
            drop(turn);
            if let Some(mut stream) = stream {
                linger::close(&mut stream).await;
            }
            return;
        }
        Err(_) => {
            worker.handshakes.count("timeout");
            worker.metrics.count_handshake_failure("timeout");
            let Hello { sni, alpn } = &hello;
            tracing::debug!(target: "postern::proxy", %peer, listener = %listener.settings.id, sni, alpn, "handshake took too long");
            return;
        }
    };
    drop(turn);
    // Not by what was in force when the handshake began: trust may have changed meanwhile, either way.
    let (snapshot, now) = (worker.snapshot(), worker.now());
    let verified = match verified(&stream, &snapshot, now) {
        Ok(verified) => verified,
        Err(error) => {
            let reason = error.to_string();
            worker.handshakes.count("not-valid-any-more");
            worker.metrics.count_handshake_failure(error.check());
            let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let shown = leaf.map(|leaf| Glimpse::of(leaf)).unwrap_or_default();
            tracing::warn!(target: "postern::proxy", %peer, listener = %listener.settings.id, sni = hello.sni, check = error.check(), cert.sha256 = shown.sha256, cert.subject = shown.subject, cert.names = shown.names, cert.issuer = shown.issuer, cert.serial = shown.serial, reason, "caller refused: its certificate does not hold after the handshake");
            return;
        }
    };
    let Ok(_app) = place_of_app(&worker, &snapshot, verified.as_deref()) else {
        worker.handshakes.count("too-many-of-app");
        return;
    };
    worker.handshakes.count("ok");
    if let Some(verified) = &verified {
        tell_of_name(&listener, peer, &verified.subject, &snapshot);
    }
    let until = verified.as_ref().map(|verified| verified.not_after());
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let sni = stream.get_ref().1.server_name();
    let visitor = Box::new(Visitor::new(Arc::clone(&listener), peer, sni, verified));
    drop(snapshot);
    match &listener.settings.protocol {
        ListenerProtocol::Http if is_http2 => {
            Box::pin(http2::serve(worker, Peer::Visitor(visitor), stream, until)).await
        }
        ListenerProtocol::Http => http1::serve(worker, Peer::Visitor(visitor), stream, until).await,
        ListenerProtocol::Tcp(service) => {
            let tls = stream.get_ref().1;
            let arrival = tcp::Arrival {
                until,
                destination,
                tls: version_name(tls.protocol_version()),
                alpn: tls.alpn_protocol().map(Box::from),
                resumed: tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
            };
            tcp::serve(&worker, &visitor, service, stream, &arrival).await;
        }
    }
}

/// A version of TLS as OpenSSL calls it, and so everybody who reads of it in a PROXY header.
const fn version_name(version: Option<rustls::ProtocolVersion>) -> &'static str {
    match version {
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLSv1.3",
    }
}

/// There are too many connections of an app.
struct NoPlace;

/// A place for one more connection of the app whose certificate was shown; none is needed where it is nobody's.
fn place_of_app(
    worker: &Worker,
    snapshot: &Snapshot,
    verified: Option<&Verified>,
) -> Result<Option<Member<AppId>>, NoPlace> {
    let Some(verified) = verified else { return Ok(None) };
    let Match::Found(credential) = snapshot.registry.certificate(&verified.subject) else { return Ok(None) };
    let place = worker.apps.join(credential.app.id.clone(), snapshot.limits.app_connections);
    place.map(Some).ok_or(NoPlace)
}

/// The listener with a certificate that is valid now. Nobody is answered with another one: after the clock was set or the
/// machine has slept, the caller waits until a fresh one is in force.
async fn presentable(worker: &Worker, listener: Arc<Listener>, within: Duration) -> Option<Arc<Listener>> {
    if listener.life.covers(worker.now()) {
        return Some(listener);
    }
    let id = &listener.settings.id;
    let fresh = || {
        let now = worker.now();
        worker.snapshot().listeners.get(id).filter(|listener| listener.life.covers(now)).cloned()
    };
    let found = worker.hold(within, fresh).await;
    if found.is_none() {
        worker.handshakes.count("no-valid-certificate");
        tracing::warn!(target: "postern::proxy", listener = %id, "caller not answered: the listener's own certificate is not valid now");
    }
    found
}

/// The caller's certificate, if it showed one, verified as of now.
///
/// A resumed session carries a certificate that was verified when the session began. So the verdict is asked for again on
/// every connection, before a byte passes; after a full handshake it is at hand.
fn verified(
    stream: &TlsStream<TcpStream>,
    snapshot: &Snapshot,
    now: Timestamp,
) -> Result<Option<Arc<Verified>>, VerifyError> {
    let chain = stream.get_ref().1.peer_certificates();
    chain.map(|chain| verdict(&snapshot.verifier, chain, Usage::Client, now)).transpose()
}

/// Says once for a connection why its certificate may belong to nobody, where that is for the form of its name: what the caller
/// is told, and the access log, is only that it does.
fn tell_of_name(listener: &Listener, peer: SocketAddr, subject: &Subject, snapshot: &Snapshot) {
    if let Some(reason) = snapshot.registry.objection_to_name(subject) {
        let (listener, spiffe_id, subject) =
            (&listener.settings.id, &subject.spiffe_id, &subject.distinguished_name);
        tracing::warn!(target: "postern::proxy", %peer, %listener, %spiffe_id, subject, %reason, "the caller's certificate belongs to nobody");
    }
}

/// What a caller asked for before anything was agreed on, printable.
#[derive(Debug, Default)]
struct Hello {
    sni: Option<String>,
    alpn: Option<String>,
}

impl Hello {
    fn note(&mut self, hello: &ClientHello<'_>) {
        self.sni = hello.server_name().map(printable);
        let protocols = hello.alpn().map(|protocols| protocols.map(<[u8]>::escape_ascii));
        let protocols = protocols.map(|protocols| protocols.take(MOST_PROTOCOLS).map(|one| one.to_string()));
        self.alpn = protocols.map(|protocols| printable(&protocols.collect::<Vec<_>>().join(",")));
    }
}

/// More protocols that a caller offers are not told of.
const MOST_PROTOCOLS: usize = 4;

/// Shakes hands, leaving what the caller asked for in `hello`. What a stream is given back with has not been told to the caller.
async fn shake_hands(
    config: Arc<ServerConfig>,
    stream: TcpStream,
    hello: &mut Hello,
) -> Result<Box<TlsStream<TcpStream>>, (io::Error, Option<TcpStream>)> {
    let mut first = LazyConfigAcceptor::new(Acceptor::default(), stream);
    let begun = match (&mut first).await {
        Ok(begun) => begun,
        Err(error) => return Err((error, first.take_io())),
    };
    hello.note(&begun.client_hello());
    let shaken = begun.into_stream(config).into_fallible().await;
    shaken.map(Box::new).map_err(|(error, stream)| (error, Some(stream)))
}

/// Counts and tells of a handshake that failed: once, with what was asked for and shown, and which check failed.
fn note_failure(worker: &Worker, listener: &Listener, peer: SocketAddr, hello: &Hello, error: &io::Error) {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let (code, check) = match tls.map(|error| (error, verify_error(error))) {
        Some((_, Some(error))) => ("bad-certificate", error.check()),
        Some((_, None)) => ("tls-error", "protocol"),
        None => ("closed", "closed"),
    };
    worker.handshakes.count(code);
    worker.metrics.count_handshake_failure(check);
    let (listener, Hello { sni, alpn }) = (&listener.settings.id, hello);
    match tls {
        Some(error) => {
            let skew = not_yet_valid(error).inspect(|skew| worker.note_skew(skew)).map(ToString::to_string);
            let reason = skew.or_else(|| verify_error(error).map(ToString::to_string));
            let reason = printable(&reason.unwrap_or_else(|| error.to_string()));
            let shown = shown(error);
            let not_after = shown.and_then(|shown| shown.not_after).map(|end| end.to_string());
            tracing::warn!(
                target: "postern::proxy",
                %peer,
                %listener,
                sni,
                alpn,
                code,
                check,
                reason,
                cert.subject = shown.map(|shown| shown.subject.as_str()),
                cert.names = shown.map(|shown| shown.names.as_str()),
                cert.issuer = shown.map(|shown| shown.issuer.as_str()),
                cert.serial = shown.map(|shown| shown.serial.as_str()),
                cert.not_after = not_after,
                cert.sha256 = shown.map(|shown| shown.sha256.as_str()),
                "handshake failed"
            );
        }
        None => {
            tracing::debug!(target: "postern::proxy", %peer, %listener, sni, alpn, %error, "handshake broken off");
        }
    }
}
