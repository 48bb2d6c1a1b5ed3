//! Loads a TLS server on this host for some seconds and prints, as one line of JSON, what each operation cost it.
//!
//! The cost is the *server's* processor time, read from `/proc` before and after. `scripts/bench` is the usual caller:
//!
//! ```text
//! load --target 127.0.0.1:8443 --server-name bench.test --ca root.pem --cert client.pem --key client.key \
//!      --mode handshake --connections 32 --duration 5 --pid 4711
//! load --serve 127.0.0.1:9000 --bytes 64
//! ```

mod client;
mod meter;
mod modes;
mod upstream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tokio::task::LocalSet;

/// Bounded load for a TLS server on this host, and what it cost that server.
#[derive(Debug, Parser)]
#[command(name = "load")]
struct Arguments {
    /// The server to load: a loopback address and port.
    #[arg(long, value_parser = loopback, requires_all = ["ca", "server_name"], conflicts_with = "serve")]
    target: Option<SocketAddr>,

    /// The name the server's certificate must carry.
    #[arg(long)]
    server_name: Option<String>,

    /// PEM file of the roots that the server's certificate must chain to.
    #[arg(long)]
    ca: Option<PathBuf>,

    /// PEM file of the client's certificate chain, leaf first; without one the client is anonymous.
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,

    /// PEM file of the client's private key.
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,

    /// What one operation is.
    #[arg(long, value_enum, default_value_t = Mode::Keepalive)]
    mode: Mode,

    /// Which key exchanges the client offers.
    #[arg(long, value_enum, default_value_t = Exchange::Hybrid)]
    exchange: Exchange,

    /// Connections held (or handshakes in flight) at once.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,

    /// Seconds to measure.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    duration: u64,

    /// In mode `paced`: requests a second, all connections together.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    rate: u32,

    /// HTTP/2 streams in flight per connection.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    streams: u32,

    /// The path to ask for.
    #[arg(long, default_value = "/")]
    path: String,

    /// A header to send with each request, as `name: value`; may be repeated.
    #[arg(long, value_parser = header)]
    header: Vec<(String, String)>,

    /// The server's processes; their descendants count, too.
    #[arg(long, value_delimiter = ',')]
    pid: Vec<u32>,

    /// Be the null upstream instead: answer every HTTP/1.1 request on this loopback address.
    #[arg(long, value_parser = loopback)]
    serve: Option<SocketAddr>,

    /// Bytes in each answer of the null upstream.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=16_777_216))]
    bytes: u32,

    /// Given by `cargo bench`; does nothing.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What one operation is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Mode {
    /// A request over a kept connection, its answer large: tells the bytes as well.
    Body,
    /// A full handshake, one request, close.
    Handshake,
    /// A request in one of several streams of a kept HTTP/2 connection.
    H2,
    /// Nothing: connections are opened and held, and the server's memory is read.
    Idle,
    /// A request over a kept HTTP/1.1 connection.
    Keepalive,
    /// A request over a kept HTTP/1.1 connection when its time has come, not when the one before is done: tells how long the
    /// answer took from then on, so that a server that stalls is not spared the requests it kept waiting.
    Paced,
    /// A resumed handshake, one request, close; tells the share that did resume.
    Resume,
    /// A request through a listener that pipes bytes: as `keepalive`, without ALPN.
    Tcp,
}

/// Which key exchanges the client offers.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Exchange {
    /// X25519 only.
    Classical,
    /// X25519MLKEM768 first, X25519 beside it.
    Hybrid,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        LocalSet::new().block_on(&runtime, async {
            match (arguments.serve, arguments.target) {
                (Some(address), _) => upstream::serve(address, arguments.bytes).await,
                (None, Some(target)) => load(target, &arguments).await,
                (None, None) => {
                    say("nothing to do: scripts/bench compares servers; --help lists what this loads");
                    Ok(())
                }
            }
        })
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("load: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn load(target: SocketAddr, arguments: &Arguments) -> anyhow::Result<()> {
    let client = client::Client::new(target, arguments)?;
    let report = modes::run(client, arguments, Duration::from_secs(arguments.duration)).await?;
    say(&report.to_string());
    Ok(())
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr =
        text.parse().map_err(|_| "expected an address such as 127.0.0.1:8443".to_owned())?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("only loopback addresses are loaded".to_owned())
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected `name: value`")?;
    let plain = |part: &str| part.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte));
    if !name.is_empty() && plain(name) && plain(value) {
        Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
    } else {
        Err("expected printable ASCII".to_owned())
    }
}

#[expect(clippy::print_stdout, reason = "the report is this program's output")]
fn say(line: &str) {
    println!("{line}");
}

#[expect(clippy::print_stderr, reason = "what went wrong belongs on the terminal")]
fn complain(line: &str) {
    eprintln!("{line}");
}
