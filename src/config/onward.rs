//! Reading what services are told of callers.

use crate::proxy::{CertificateFields, ClientCert, Detail, Xfcc};
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
