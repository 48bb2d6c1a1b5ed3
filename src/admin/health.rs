//! Life signs for orchestrators, numbers for Prometheus, revocation lists for everybody and keys for services, over plain HTTP:
//! `/live`, `/ready`, `/metrics`, `/crl`, `/jwks`.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::net::TcpListener;

use super::answer::{self, Answer};
use super::connections::{self, Bounds};
use super::steward::Steward;

/// Serves on `listener` until `shutdown`.
pub async fn serve<S: Steward>(listener: TcpListener, steward: Arc<S>, shutdown: impl Future<Output = ()>) {
    let begin = |_: &_| {
        let steward = Arc::clone(&steward);
        move |request: http::Request<_>| {
            let answer = answer_to(request.method(), request.uri().path(), &*steward);
            std::future::ready(answer)
        }
    };
    connections::serve(listener, BOUNDS, begin, shutdown).await;
}

const BOUNDS: Bounds =
    Bounds { connections: 64, head: Duration::from_secs(5), exchange: Duration::from_secs(30) };

/// > application/openmetrics-text; version=1.0.0; charset=utf-8 — OpenMetrics 1.0, "Protocol Negotiation"
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// > application/jwk-set+json — RFC 7517 §8.5.2
const JWK_SET: &str = "application/jwk-set+json";

const PEM: &str = "application/x-pem-file";

const PLAIN: &str = "text/plain; charset=utf-8";

fn answer_to(method: &Method, path: &str, steward: &impl Steward) -> Answer {
    if !matches!(path, "/live" | "/ready" | "/metrics" | "/crl" | "/jwks") {
        return answer::not_found(path);
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        return answer::wrong_method("GET, HEAD", method);
    }
    match path {
        "/crl" => answer::text(StatusCode::OK, PEM, steward.crl_pem()),
        "/jwks" => answer::text(StatusCode::OK, JWK_SET, steward.assertion_keys()),
        "/live" => answer::text(StatusCode::OK, PLAIN, "alive\n".to_owned()),
        "/metrics" => answer::text(StatusCode::OK, OPEN_METRICS, steward.metrics()),
        _ => readiness(steward),
    }
}

fn readiness(steward: &impl Steward) -> Answer {
    let readiness = steward.readiness();
    if readiness.ready {
        let degraded = steward.status().degraded;
        let degraded: String = degraded.iter().map(|reason| format!("degraded: {reason}\n")).collect();
        return answer::text(StatusCode::OK, PLAIN, format!("ready\n{degraded}"));
    }
    let reasons: String = readiness.reasons.iter().map(|reason| format!("{reason}\n")).collect();
    answer::text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("not ready\n{reasons}"))
}
