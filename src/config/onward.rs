//! Reading what is told of callers: to services, and to a collector of spans.

use std::net::SocketAddr;
use std::time::Duration;

use super::section::{audience, within};
use crate::proxy::{AssertionRules, CertificateFields, ClientCert, Detail, Xfcc};
use crate::telemetry::SpanSettings;
use crate::toml_text::{TableReader, Value};

/// What a service is told of the certificate that a caller came with.
pub(super) fn client_cert(mut table: TableReader<'_>) -> ClientCert {
    let xfcc = table.optional("xfcc", |value| value.word(&MODES)).unwrap_or_default();
    let details = table.optional("details", |value| value.list(|item| item.word(&DETAILS)));
    let fields = table.optional("rfc9440", |value| value.word(&FIELDS)).unwrap_or_default();
    let lists_proxies = table.has("proxies");
    let proxies = table.optional("proxies", |value| value.list(Value::parse)).unwrap_or_default();
    match xfcc {
        Xfcc::AppendForward | Xfcc::ForwardOnly if !lists_proxies => table.problem(
            "`proxies` is missing: the apps whose word for the certificates before their own is passed on",
        ),
        Xfcc::AlwaysForwardOnly | Xfcc::Sanitize | Xfcc::SanitizeSet if lists_proxies => {
            table.problem("`proxies` is for xfcc = \"forward_only\" and \"append_forward\"");
        }
        Xfcc::AlwaysForwardOnly
        | Xfcc::AppendForward
        | Xfcc::ForwardOnly
        | Xfcc::Sanitize
        | Xfcc::SanitizeSet => {}
    }
    table.finish();
    let details = details.map(|details| details.into_iter().collect()).unwrap_or_default();
    ClientCert { xfcc, details, fields, proxies }
}

const MODES: [(&str, Xfcc); 5] = [
    ("always_forward_only", Xfcc::AlwaysForwardOnly),
    ("append_forward", Xfcc::AppendForward),
    ("forward_only", Xfcc::ForwardOnly),
    ("sanitize", Xfcc::Sanitize),
    ("sanitize_set", Xfcc::SanitizeSet),
];

const DETAILS: [(&str, Detail); 5] = [
    ("cert", Detail::Cert),
    ("chain", Detail::Chain),
    ("dns", Detail::Dns),
    ("subject", Detail::Subject),
    ("uri", Detail::Uri),
];

const FIELDS: [(&str, CertificateFields); 3] = [
    ("chain", CertificateFields::Chain),
    ("leaf", CertificateFields::Leaf),
    ("none", CertificateFields::None),
];

/// What the signed assertions for a service are like.
pub(super) fn assertion(mut table: TableReader<'_>) -> Option<AssertionRules> {
    let audience = table.required("audience", |value| value.convert(audience));
    let ttl = table.optional("ttl", |value| within(value, ASSERTION_TTL)).unwrap_or(USUAL_ASSERTION_TTL);
    table.finish();
    Some(AssertionRules { audience: audience?, ttl })
}

/// A shorter one could be over when the service looks at it, a longer one is of use to whoever finds it in a log.
const ASSERTION_TTL: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
const USUAL_ASSERTION_TTL: Duration = Duration::from_secs(60);

/// The `[otlp]` section.
pub(super) fn otlp(mut table: TableReader<'_>) -> Option<SpanSettings> {
    let endpoint = table.required("endpoint", |value| value.convert(collector));
    let one_in = table.optional("one_in", |value| value.integer(0..=1_000_000_000)).unwrap_or(USUAL_ONE_IN);
    let follow = table.optional("follow", Value::boolean).unwrap_or(true);
    table.finish();
    let (collector, path) = endpoint?;
    Some(SpanSettings { collector, path, one_in, follow })
}

/// Of the traces that begin here, unless something else is said.
const USUAL_ONE_IN: u32 = 100;

/// > {base}/v1/traces — OTLP 1.x, "OTLP/HTTP Request"
fn collector(text: &str) -> Result<(SocketAddr, String), &'static str> {
    let expected = "expected the http URL of a collector on this host, such as \"http://127.0.0.1:4318\"; one elsewhere is \
                    reached through a [[remote]]";
    let rest = text.strip_prefix("http://").ok_or(expected)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let address: SocketAddr = authority.parse().map_err(|_| expected)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'.' | b'_' | b'~');
    if address.port() > 0 && address.ip().to_canonical().is_loopback() && path.bytes().all(plain) {
        Ok((address, format!("{}/v1/traces", path.trim_end_matches('/'))))
    } else {
        Err(expected)
    }
}
