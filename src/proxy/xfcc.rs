//! What a service is told of the certificate that a caller came with: `X-Forwarded-Client-Cert` as Envoy writes it, and
//! `Client-Cert` (RFC 9440).
//!
//! ```text
//! xfcc    = element *( "," element )
//! element = pair *( ";" pair )
//! pair    = key "=" ( raw / DQUOTE *( qchar / "\" DQUOTE ) DQUOTE )
//! ```
//!
//! **Invariant:** whatever a certificate says, what is written here is taken apart in one way only, by a reader that knows no
//! escape but `\"` as by one that takes a backslash to escape whatever follows it.

use std::cell::RefCell;

use data_encoding::{BASE64, HEXLOWER, HEXUPPER};
use rustls::pki_types::CertificateDer;

use super::http_gate::Head;
use super::response::field;
use super::settings::{CertificateFields, ClientCert, Detail, Details, Xfcc};
use crate::id::AppId;
use crate::identity::SpiffeId;
use crate::pki::Verified;
use crate::store::pem::certificate_to_pem;

/// The field that Envoy has introduced.
const XFCC: &str = "x-forwarded-client-cert";

/// What a connection's certificate is written as, made once for each form that some service asks for.
#[derive(Debug, Default)]
pub(super) struct Written(RefCell<Vec<Form>>);

#[derive(Debug)]
struct Form {
    details: Details,
    fields: CertificateFields,
    /// The one element of ours.
    element: Vec<u8>,
    /// Whole field lines by RFC 9440.
    lines: Vec<u8>,
}

/// By which certificate somebody came in, and to whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown<'a> {
    pub(super) by: &'a SpiffeId,
    pub(super) verified: Option<&'a Verified>,
    pub(super) written: &'a Written,
}

/// What the caller says of the certificates before its own cannot be read in one way only.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Malformed;

/// Whether what `head` says of certificates is good enough to be passed on, where a service asks for that.
///
/// # Errors
/// It is not.
pub(super) fn check(head: &Head<'_, '_>, rules: &ClientCert, shown: Shown<'_>) -> Result<(), Malformed> {
    let may_forward = match rules.xfcc {
        Xfcc::AlwaysForwardOnly => true,
        Xfcc::AppendForward | Xfcc::ForwardOnly => shown.verified.is_some(),
        Xfcc::Sanitize | Xfcc::SanitizeSet => false,
    };
    if may_forward { head.values(XFCC).try_for_each(|value| normalise(value, |_| ())) } else { Ok(()) }
}

/// Writes what `rules` let the service know of the certificate, and of those before it, of a caller that was proven to be `app`.
pub(super) fn write(
    out: &mut Vec<u8>,
    head: &Head<'_, '_>,
    rules: &ClientCert,
    shown: Shown<'_>,
    app: &AppId,
) {
    let is_proxy = shown.verified.is_some() && rules.proxies.contains(app);
    let (theirs, ours) = match rules.xfcc {
        Xfcc::AlwaysForwardOnly => (true, false),
        Xfcc::AppendForward => (is_proxy, true),
        Xfcc::ForwardOnly => (is_proxy, false),
        Xfcc::Sanitize => (false, false),
        Xfcc::SanitizeSet => (false, true),
    };
    let mut elements = Elements { out, begun: false };
    if theirs {
        for value in head.values(XFCC).filter(|value| !value.is_empty()) {
            elements.next();
            // It was found good before the decision.
            let passed = normalise(value, |part| elements.out.extend_from_slice(part));
            debug_assert_eq!(passed, Ok(()));
        }
    }
    let Some(verified) = shown.verified else { return elements.end() };
    shown.written.with(rules, shown.by, verified, |form| {
        if ours {
            elements.next();
            elements.out.extend_from_slice(&form.element);
        }
        elements.end();
        elements.out.extend_from_slice(&form.lines);
    });
}

/// The field's value while it is being written; the line is there only if it has an element.
struct Elements<'o> {
    out: &'o mut Vec<u8>,
    begun: bool,
}

impl Elements<'_> {
    fn next(&mut self) {
        if self.begun {
            self.out.push(b',');
        } else {
            self.out.extend_from_slice(XFCC.as_bytes());
            self.out.extend_from_slice(b": ");
            self.begun = true;
        }
    }

    fn end(&mut self) {
        if self.begun {
            self.out.extend_from_slice(b"\r\n");
            self.begun = false;
        }
    }
}

impl Written {
    /// Gives `tell` the certificate as `rules` want it written.
    fn with(&self, rules: &ClientCert, by: &SpiffeId, verified: &Verified, tell: impl FnOnce(&Form)) {
        let (details, fields) = (rules.details, rules.fields);
        let mut forms = self.0.borrow_mut();
        let known = forms.iter().position(|form| form.details == details && form.fields == fields);
        let at = known.unwrap_or_else(|| {
            let (element, lines) = (element(by, verified, details), certificate_lines(verified, fields));
            forms.push(Form { details, fields, element, lines });
            forms.len() - 1
        });
        if let Some(form) = forms.get(at) {
            tell(form);
        }
    }
}

/// One element of ours: who we are, the certificate's SHA-256, and those of `details`.
fn element(by: &SpiffeId, verified: &Verified, details: Details) -> Vec<u8> {
    let subject = &verified.subject;
    let mut element = Vec::with_capacity(256);
    pair(&mut element, "By", by.as_str().as_bytes());
    pair(&mut element, "Hash", HEXLOWER.encode(&subject.sha256).as_bytes());
    let chain: Vec<&CertificateDer<'_>> = verified.chain().collect();
    for (detail, key, certificates) in
        [(Detail::Cert, "Cert", chain.get(..1)), (Detail::Chain, "Chain", Some(&*chain))]
    {
        if let Some(certificates) = certificates.filter(|_| details.contains(detail)) {
            let text: String = certificates.iter().map(|der| certificate_to_pem(der)).collect();
            encoded_pair(&mut element, key, text.as_bytes());
        }
    }
    if details.contains(Detail::Subject) {
        pair(&mut element, "Subject", subject.distinguished_name.as_bytes());
    }
    if details.contains(Detail::Uri) {
        pair(&mut element, "URI", subject.spiffe_id.as_str().as_bytes());
    }
    if details.contains(Detail::Dns) {
        for name in &subject.dns {
            pair(&mut element, "DNS", name.as_bytes());
        }
    }
    element
}

/// A pair whose value is quoted: printable ASCII as it is, with `\` before quotes and backslashes, and everything else as `%XX`.
///
/// The percent sign is escaped like what it escapes, so that no two values are written alike. A backslash at the very end is
/// escaped with it, too: `\\"` ends a value for one reader, and goes on with a quote in it for another.
fn pair(element: &mut Vec<u8>, key: &str, value: &[u8]) {
    begin(element, key);
    let mut rest = value;
    while let Some((&byte, behind)) = rest.split_first() {
        match byte {
            b'\\' if behind.is_empty() => escape(element, byte),
            b'"' | b'\\' => element.extend_from_slice(&[b'\\', byte]),
            b'%' => escape(element, byte),
            b' '..=b'~' => element.push(byte),
            _ => escape(element, byte),
        }
        rest = behind;
    }
    element.push(b'"');
}

/// A pair whose value is encoded as in a URL, as Envoy does it with certificates.
fn encoded_pair(element: &mut Vec<u8>, key: &str, value: &[u8]) {
    begin(element, key);
    for &byte in value {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            element.push(byte);
        } else {
            escape(element, byte);
        }
    }
    element.push(b'"');
}

fn begin(element: &mut Vec<u8>, key: &str) {
    if !element.is_empty() {
        element.push(b';');
    }
    element.extend_from_slice(key.as_bytes());
    element.extend_from_slice(b"=\"");
}

fn escape(element: &mut Vec<u8>, byte: u8) {
    element.push(b'%');
    element.extend_from_slice(HEXUPPER.encode(&[byte]).as_bytes());
}

/// The certificate by itself.
///
/// > Client-Cert […] is an Item that is a Byte Sequence […] the value is the DER of the end-entity certificate […]
/// > Client-Cert-Chain […] is a List […] The first certificate in the list is the one that certifies the client certificate, and
/// > the client certificate itself is not included — RFC 9440 §2.2, §2.3
fn certificate_lines(verified: &Verified, fields: CertificateFields) -> Vec<u8> {
    let mut lines = Vec::new();
    let mut chain = verified.chain().map(|der| format!(":{}:", BASE64.encode(der)));
    if fields == CertificateFields::None {
        return lines;
    }
    if let Some(leaf) = chain.next() {
        field(&mut lines, "client-cert", leaf.as_bytes());
    }
    let others: Vec<String> = chain.collect();
    if fields == CertificateFields::Chain && !others.is_empty() {
        field(&mut lines, "client-cert-chain", others.join(", ").as_bytes());
    }
    lines
}

/// Hands `value` to `tell` with quotes around each value that had none, if all readers take it apart in the same way.
///
/// # Errors
/// It breaks the grammar, or holds what one reader takes for the end of a value and another does not.
fn normalise(value: &[u8], mut tell: impl FnMut(&[u8])) -> Result<(), Malformed> {
    let mut rest = value;
    if rest.is_empty() {
        return Ok(());
    }
    loop {
        let key = rest.iter().position(|byte| !byte.is_ascii_alphabetic()).ok_or(Malformed)?;
        let (name, behind) = rest.split_at_checked(key).filter(|_| key > 0).ok_or(Malformed)?;
        tell(name);
        tell(b"=\"");
        let behind = behind.strip_prefix(b"=").ok_or(Malformed)?;
        let (content, behind) = match behind.strip_prefix(b"\"") {
            Some(quoted) => {
                let end = end_of_quoted(quoted)?;
                (quoted.get(..end).ok_or(Malformed)?, quoted.get(end + 1..).ok_or(Malformed)?)
            }
            None => {
                let ends = |byte: &u8| matches!(byte, b',' | b';' | b'=' | b'"' | b'\\' | 0..=b' ' | 0x7f..);
                let end = behind.iter().position(ends).unwrap_or(behind.len());
                behind.split_at_checked(end).ok_or(Malformed)?
            }
        };
        tell(content);
        tell(b"\"");
        let behind = behind.trim_ascii_start();
        match behind.split_first() {
            None => return Ok(()),
            Some((separator @ (b',' | b';'), behind)) => {
                tell(std::slice::from_ref(separator));
                rest = behind.trim_ascii_start();
            }
            Some(_) => return Err(Malformed),
        }
    }
}

/// Where a quoted value ends.
fn end_of_quoted(quoted: &[u8]) -> Result<usize, Malformed> {
    let mut backslashes = 0_usize;
    for (at, &byte) in quoted.iter().enumerate() {
        match byte {
            b'\\' => backslashes += 1,
            b'"' if backslashes == 0 => return Ok(at),
            // One reader sees escaped backslashes and the end, another a backslash and an escaped quote.
            b'"' if backslashes.is_multiple_of(2) => return Err(Malformed),
            b' '..=b'~' => backslashes = 0,
            _ => return Err(Malformed),
        }
    }
    Err(Malformed)
}

#[cfg(test)]
mod tests;
