//! The operations, each driven by many tasks, and the sum of what they saw while the measurement was open.

use std::cell::{Cell, OnceCell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;

use crate::client::{Client, Failure, Stream, exchange, exchange_h2, negotiated, resumed};
use crate::meter::Usage;
use crate::{Arguments, Mode};

/// What the tasks of one run report to.
#[derive(Default)]
struct Tally {
    /// Whether operations count now.
    open: Cell<bool>,
    /// How many connections stand, or handshakes have been done, before anything counts.
    ready: Cell<u32>,
    bytes: Cell<u64>,
    failed: Cell<u32>,
    resumed: Cell<u32>,
    times: RefCell<Vec<Duration>>,
    first_failure: OnceCell<String>,
    negotiated: OnceCell<String>,
}

impl Tally {
    fn connected(&self, stream: &Stream) {
        self.negotiated.get_or_init(|| negotiated(stream));
        self.ready.set(self.ready.get() + 1);
    }

    fn finished(&self, began: Instant, bytes: u64) {
        if self.open.get() {
            self.bytes.set(self.bytes.get() + bytes);
            self.times.borrow_mut().push(began.elapsed());
        }
    }

    fn failed(&self, failure: &Failure) {
        if self.open.get() {
            self.failed.set(self.failed.get() + 1);
        }
        self.first_failure.get_or_init(|| failure.to_string());
    }
}

/// One run of the chosen mode.
pub(crate) async fn run(client: Client, arguments: &Arguments, span: Duration) -> anyhow::Result<Value> {
    let (client, tally) = (Rc::new(client), Rc::new(Tally::default()));
    if arguments.mode == Mode::Idle {
        return idle(&client, &tally, arguments).await;
    }
    let mut tasks = JoinSet::new();
    for _ in 0..arguments.connections {
        let work =
            work(Rc::clone(&client), Rc::clone(&tally), arguments.mode, arguments.streams, pace(arguments));
        tasks.spawn_local(work);
    }
    let all_ready = async {
        while tally.ready.get() < arguments.connections {
            sleep(PAUSE).await;
        }
    };
    if timeout(PATIENCE, all_ready).await.is_err() {
        let reason = tally.first_failure.get().map_or("the server is too slow", |reason| reason);
        anyhow::bail!("{} of {} connections stood: {reason}", tally.ready.get(), arguments.connections);
    }
    sleep(SETTLE).await;

    let (before, began) = (Usage::of(&arguments.pid), Instant::now());
    tally.open.set(true);
    sleep(span).await;
    tally.open.set(false);
    let (after, elapsed) = (Usage::of(&arguments.pid), began.elapsed());
    tasks.shutdown().await;
    report(&tally, arguments, (before, after), elapsed)
}

/// One connection's worth of load, for ever; a failure is counted and the work goes on.
async fn work(client: Rc<Client>, tally: Rc<Tally>, mode: Mode, streams: u32, pace: Duration) {
    let connector = client.connector(mode);
    loop {
        let outcome = match mode {
            Mode::Handshake | Mode::Resume => handshakes(&client, &connector, &tally).await,
            Mode::H2 => streams_h2(&client, &connector, &tally, streams).await,
            Mode::Paced => paced(&client, &connector, &tally, pace).await,
            Mode::Body | Mode::Idle | Mode::Keepalive | Mode::Tcp => {
                requests(&client, &connector, &tally).await
            }
        };
        let Err(failure) = outcome;
        tally.failed(&failure);
        sleep(PAUSE).await;
    }
}

/// One request after the other over one connection.
async fn requests(client: &Client, connector: &TlsConnector, tally: &Tally) -> Result<Infallible, Failure> {
    let mut buffer = BytesMut::new();
    let mut stream = open(client, connector, &client.keep, &mut buffer).await?;
    tally.connected(&stream);
    loop {
        let began = Instant::now();
        let bytes = exchange(&mut stream, &client.keep, &mut buffer).await?;
        tally.finished(began, bytes);
    }
}

/// How far apart the requests of one connection are.
fn pace(arguments: &Arguments) -> Duration {
    Duration::from_secs(1) * arguments.connections / arguments.rate
}

/// One request over one connection whenever `pace` has passed; what comes late counts from when it was due.
async fn paced(
    client: &Client,
    connector: &TlsConnector,
    tally: &Tally,
    pace: Duration,
) -> Result<Infallible, Failure> {
    let mut buffer = BytesMut::new();
    let mut stream = open(client, connector, &client.keep, &mut buffer).await?;
    tally.connected(&stream);
    // Connections take turns, for they were opened one after the other.
    let mut due = Instant::now() + pace;
    loop {
        sleep_until(due).await;
        // The runtime's timer has a grain of a millisecond; waking late by that is not the server's doing.
        let began = if due.elapsed() < GRAIN { Instant::now() } else { due };
        let bytes = exchange(&mut stream, &client.keep, &mut buffer).await?;
        tally.finished(began, bytes);
        due += pace;
    }
}

/// One connection after the other, each with one request.
async fn handshakes(client: &Client, connector: &TlsConnector, tally: &Tally) -> Result<Infallible, Failure> {
    let mut buffer = BytesMut::new();
    loop {
        let began = Instant::now();
        let mut stream = open(client, connector, &client.close, &mut buffer).await?;
        // The server closes, so that no server is spared the work; how it says goodbye is its own affair.
        drop(timeout(PATIENCE, stream.read_buf(&mut buffer)).await.map_err(|_| Failure::Timeout)?);
        tally.connected(&stream);
        if tally.open.get() && resumed(&stream) {
            tally.resumed.set(tally.resumed.get() + 1);
        }
        tally.finished(began, 0);
    }
}

/// Several streams of one HTTP/2 connection, each one request after the other.
async fn streams_h2(
    client: &Rc<Client>,
    connector: &TlsConnector,
    tally: &Rc<Tally>,
    streams: u32,
) -> Result<Infallible, Failure> {
    let stream = client.connect(connector).await?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(Failure::Alpn);
    }
    tally.connected(&stream);
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 24)
        .handshake(stream)
        .await?;
    let mut tasks = JoinSet::new();
    tasks.spawn_local(async move { connection.await.map_err(Failure::from).and(Err(Failure::Closed)) });
    for _ in 0..streams {
        let (client, tally, sender) = (Rc::clone(client), Rc::clone(tally), sender.clone());
        tasks.spawn_local(async move {
            loop {
                let began = Instant::now();
                let bytes = exchange_h2(&sender, &client.h2).await?;
                tally.finished(began, bytes);
            }
        });
    }
    match tasks.join_next().await {
        Some(Ok(outcome)) => outcome,
        Some(Err(_)) | None => Err(Failure::Closed),
    }
}

/// Opens connections, one request each, holds them, and reads what the server's memory grew by.
async fn idle(client: &Client, tally: &Tally, arguments: &Arguments) -> anyhow::Result<Value> {
    let connector = client.connector(arguments.mode);
    let mut buffer = BytesMut::new();
    for _ in 0..WARM {
        drop(open(client, &connector, &client.keep, &mut buffer).await?);
    }
    sleep(SETTLE).await;
    let before = Usage::of(&arguments.pid);
    let mut held = Vec::new();
    for _ in 0..arguments.connections {
        let stream = open(client, &connector, &client.keep, &mut buffer).await?;
        tally.connected(&stream);
        held.push(stream);
    }
    sleep(SETTLE).await;
    let after = Usage::of(&arguments.pid);
    drop(held);
    let grown = f64::from(u32::try_from(after.resident_kib.saturating_sub(before.resident_kib))?);
    Ok(json!({
        "mode": "idle",
        "connections": arguments.connections,
        "negotiated": tally.negotiated.get(),
        "resident_kib": after.resident_kib,
        "resident_kib_per_connection": rounded(grown / f64::from(arguments.connections)),
    }))
}

/// A connection that has answered one request, within reason.
async fn open(
    client: &Client,
    connector: &TlsConnector,
    request: &[u8],
    buffer: &mut BytesMut,
) -> Result<Stream, Failure> {
    let opened = timeout(PATIENCE, async {
        let mut stream = client.connect(connector).await?;
        exchange(&mut stream, request, buffer).await?;
        Ok(stream)
    });
    opened.await.map_err(|_| Failure::Timeout)?
}

fn report(
    tally: &Tally,
    arguments: &Arguments,
    (before, after): (Usage, Usage),
    elapsed: Duration,
) -> anyhow::Result<Value> {
    let mut times = tally.times.borrow_mut();
    times.sort_unstable();
    anyhow::ensure!(!times.is_empty(), "nothing finished: {:?}", tally.first_failure.get());
    anyhow::ensure!(before.processes == after.processes, "the server's processes came or went");
    let done = f64::from(u32::try_from(times.len())?);
    let (user, system) = (after.user.saturating_sub(before.user), after.system.saturating_sub(before.system));
    let each = |spent: Duration| (after.processes > 0).then(|| rounded(spent.as_secs_f64() * 1e6 / done));
    let percentile =
        |percent: usize| times.get((times.len() - 1) * percent / 100).map(|time| time.as_micros());
    Ok(json!({
        "mode": format!("{:?}", arguments.mode).to_lowercase(),
        "connections": arguments.connections,
        "negotiated": tally.negotiated.get(),
        "seconds": rounded(elapsed.as_secs_f64()),
        "done": times.len(),
        "failed": tally.failed.get(),
        "first_failure": tally.first_failure.get(),
        "per_second": rounded(done / elapsed.as_secs_f64()),
        "bytes": tally.bytes.get(),
        "latency_us": { "p50": percentile(50), "p90": percentile(90), "p99": percentile(99) },
        "cpu_us": each(user + system),
        "cpu_user_us": each(user),
        "cpu_system_us": each(system),
        "cpu_share": rounded((user + system).as_secs_f64() / elapsed.as_secs_f64()),
        "resumed_share": rounded(f64::from(tally.resumed.get()) / done),
        "resident_kib": after.resident_kib,
    }))
}

/// Two decimals are more than any of these figures deserves.
fn rounded(figure: f64) -> f64 {
    (figure * 100.0).round() / 100.0
}

/// How long a connection may take to answer once.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between failures of one task, so that a dead server is not hammered.
const PAUSE: Duration = Duration::from_millis(10);
/// The runtime wakes a task so late at most, when it is not busy.
const GRAIN: Duration = Duration::from_millis(2);
/// From the last connection's first answer to the measurement.
const SETTLE: Duration = Duration::from_millis(500);
/// Connections that come and go before memory is read, so that only growth per connection counts.
const WARM: u32 = 16;
