//! Sends spans to the collector, some at a time, off the threads that serve requests.
//!
//! A collector that is slow or away costs spans, which are counted, and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::causes::Causes;
use crate::config::Config;
use crate::telemetry::{Metrics, SpanSettings, SpanSink, WAITING, export_request};

/// Spans wait this long for company.
const GATHER: Duration = Duration::from_secs(1);

/// Spans of one request to the collector.
const AT_ONCE: usize = 512;

/// Attempts for the same spans, and the pause after the first of them that failed; it doubles.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);

/// From the first packet to the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is left at the end is waited for no longer than this.
const FAREWELL: Duration = Duration::from_secs(2);

/// Starts sending, if spans are wanted, and gives the end at which they are left.
pub(super) fn start(config: &Config, metrics: &Arc<Metrics>) -> (SpanSink, Option<JoinHandle<()>>) {
    let Some(settings) = &config.otlp else { return (SpanSink::none(), None) };
    let (sink, spans) = SpanSink::new(settings, metrics.spans_dropped.clone());
    let own_id = config.issuance.workloads.get(&config.own_workload).map(|own| own.spiffe_id.to_string());
    let exporter = Exporter {
        settings: settings.clone(),
        own_id: own_id.unwrap_or_default(),
        metrics: Arc::clone(metrics),
        reachable: true,
    };
    (sink, Some(tokio::spawn(exporter.run(spans))))
}

/// Waits a moment for what is left to be sent, when nobody leaves spans any more.
pub(super) async fn finish(exporting: Option<JoinHandle<()>>) {
    let Some(exporting) = exporting else { return };
    let stop = exporting.abort_handle();
    if tokio::time::timeout(FAREWELL, exporting).await.is_err() {
        stop.abort();
        tracing::warn!("spans were left unsent at the end");
    }
}

struct Exporter {
    settings: SpanSettings,
    own_id: String,
    metrics: Arc<Metrics>,
    /// Whether the collector has taken the last ones.
    reachable: bool,
}

/// Why spans were not taken.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    /// Nobody is there.
    #[error("no connection to {0}")]
    Connect(SocketAddr, #[source] std::io::Error),
    /// No HTTP is spoken there.
    #[error("no HTTP answer")]
    Http(#[source] hyper::Error),
    /// The request cannot be made.
    #[error("no request can be made")]
    Request(#[source] http::Error),
    /// The collector will not have them.
    #[error("the answer is {0}")]
    Status(StatusCode),
    /// It took too long.
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Timeout,
}

impl ExportError {
    /// Whether the same may be taken later.
    ///
    /// > The requests that receive a response status code listed in following table SHOULD be retried […] 429, 502, 503, 504
    /// > — OTLP 1.x, "Retryable Response Codes"
    fn may_pass(&self) -> bool {
        match self {
            Self::Connect(..) | Self::Http(_) | Self::Timeout => true,
            Self::Request(_) => false,
            Self::Status(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
        }
    }
}

impl Exporter {
    async fn run(mut self, mut spans: mpsc::Receiver<String>) {
        let mut gathered = Vec::with_capacity(AT_ONCE);
        while spans.recv_many(&mut gathered, AT_ONCE).await > 0 {
            if gathered.len() < AT_ONCE && spans.len() < WAITING / 2 && !spans.is_closed() {
                tokio::time::sleep(GATHER).await;
                while gathered.len() < AT_ONCE
                    && let Ok(span) = spans.try_recv()
                {
                    gathered.push(span);
                }
            }
            self.send(&gathered).await;
            gathered.clear();
        }
    }

    /// Sends spans, or counts them as dropped.
    async fn send(&mut self, spans: &[String]) {
        let body = Bytes::from(export_request(spans, &self.own_id, env!("CARGO_PKG_VERSION")));
        let count = u64::try_from(spans.len()).unwrap_or(u64::MAX);
        let mut pause = PAUSE;
        let mut outcome = self.post(body.clone()).await;
        for _ in 1..ATTEMPTS {
            match &outcome {
                Err(error) if error.may_pass() => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    outcome = self.post(body.clone()).await;
                }
                Ok(()) | Err(_) => break,
            }
        }
        match outcome {
            Ok(()) => {
                self.metrics.spans_exported.inc_by(count);
                if !self.reachable {
                    tracing::info!("the collector takes spans again");
                }
                self.reachable = true;
            }
            Err(error) => {
                self.metrics.spans_dropped.inc_by(count);
                if self.reachable {
                    tracing::warn!(error = %Causes(&error), "the collector takes no spans; they are dropped");
                }
                self.reachable = false;
            }
        }
    }

    async fn post(&self, body: Bytes) -> Result<(), ExportError> {
        tokio::time::timeout(PATIENCE, self.exchange(body)).await.map_err(|_| ExportError::Timeout)?
    }

    async fn exchange(&self, body: Bytes) -> Result<(), ExportError> {
        let SpanSettings { collector, path, .. } = &self.settings;
        let refused = |source| ExportError::Connect(*collector, source);
        let stream = TcpStream::connect(collector).await.map_err(refused)?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.map_err(ExportError::Http)?;
        let request = Request::post(path)
            .header("host", collector.to_string())
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(ExportError::Request)?;
        let asked = sender.send_request(request);
        tokio::pin!(asked);
        let answer = tokio::select! {
            biased;
            answer = &mut asked => answer,
            ended = connection => {
                ended.map_err(ExportError::Http)?;
                asked.await
            }
        };
        let status = answer.map_err(ExportError::Http)?.status();
        if status.is_success() { Ok(()) } else { Err(ExportError::Status(status)) }
    }
}
