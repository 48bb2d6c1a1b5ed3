//! What must hold of whatever bytes a reader is given: one function a reader. `scripts/fuzz` builds the same functions for
//! libFuzzer.
//!
//! A target says more than that nothing panics: what was read is written down and read again, and means the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use aws_lc_rs::hmac;
use httparse::Header;
use postern::clock::Timestamp;
use postern::credential::{
    Content, ContentDigest, Message, NonceMemory, NonceUse, Plan, SignatureRules, SignatureTerms, Signed,
    Signer, base_for,
};
use postern::identity::{SpiffeId, Subject, distinguished_name};
use postern::pki::ForeignCrl;
use postern::proxy::{
    AnswerBody, Conversation, End, Request, read_answer, read_conversation, read_proxy_header,
};
use postern::registry::{Change, Library, PathRule, PolicyPath, Source, lint};
use postern::store::pem;
use postern::toml_text::Problem;

/// Looks whether what must hold does, and panics if not.
type Target = fn(&[u8]);

/// Every target by its name.
pub(crate) const ALL: [(&str, Target); 8] = [
    ("answer", answer),
    ("certificate", certificate),
    ("config", config),
    ("path", path),
    ("proxy", proxy),
    ("registry", registry),
    ("request", request),
    ("signature", signature),
];

/// Runs the target called `name` on `data`.
pub(crate) fn run(name: &str, data: &[u8]) {
    let found = ALL.iter().find(|(known, _)| *known == name);
    let (_, target) = found.unwrap_or_else(|| panic!("no target {name}"));
    target(data);
}

/// A caller's bytes: heads, bodies, chunks, and what follows them.
pub(crate) fn request(data: &[u8]) {
    let whole = read_conversation(data, usize::MAX);
    for step in [1, 7] {
        let slowly = read_conversation(data, step);
        assert_eq!(slowly.requests.len(), whole.requests.len(), "by {step}: {slowly:?}\n{whole:?}");
        assert_eq!(without_reasons(slowly), without_reasons(whole.clone()), "by {step}");
    }
    for read in &whole.requests {
        let ambiguous = PolicyPath::parse(&read.path).is_err();
        assert_eq!(read.onward.is_empty(), ambiguous, "{read:?}");
        if !ambiguous {
            check_onward(read);
        }
    }
}

/// Requests as they mean, and the end without why it came.
fn without_reasons(mut conversation: Conversation) -> Conversation {
    conversation.requests.iter_mut().for_each(|request| request.onward.clear());
    if let End::Refused(reason) = &mut conversation.end {
        reason.clear();
    }
    conversation
}

/// What is written anew means what was read, to us and to somebody who reads it naively.
fn check_onward(read: &Request) {
    let again = read_conversation(&read.onward, usize::MAX);
    assert_eq!((again.requests.len(), &again.end), (1, &End::Open), "{read:?}");
    let [same] = again.requests.as_slice() else { return };
    assert_eq!(
        (&same.method, &same.authority, &same.path, &same.query, &same.body),
        (&read.method, &read.authority, &read.path, &read.query, &read.body)
    );
    let own = |(name, _): &&(String, Vec<u8>)| !matches!(name.as_str(), "traceparent" | "tracestate");
    assert!(same.fields.iter().filter(own).eq(read.fields.iter().filter(own)), "{same:?}\n{read:?}");

    let (lines, body) = lines_and_body(&read.onward);
    let mut words = lines.first().copied().unwrap_or_default().split(|byte| *byte == b' ');
    let target =
        read.query.as_ref().map_or_else(|| read.path.clone(), |query| format!("{}?{query}", read.path));
    assert_eq!(words.next(), Some(read.method.as_bytes()));
    assert_eq!(words.next(), Some(target.as_bytes()));
    assert_eq!((words.next(), words.next()), (Some(b"HTTP/1.1".as_slice()), None));
    let names: Vec<String> = lines.iter().skip(1).map(|line| name_of(line)).collect();
    let count = |wanted: &str| names.iter().filter(|name| *name == wanted).count();
    assert_eq!(count("host"), 1, "{names:?}");
    assert!(count("content-length") + count("transfer-encoding") <= 1, "{names:?}");
    if count("transfer-encoding") == 0 {
        assert_eq!(body, read.body.as_slice());
    }
    for name in &names {
        let folded = name.replace(['_', '.'], "-");
        assert!(
            !["x-postern-", "x-ssl-", "ssl-client-"].iter().any(|ours| folded.starts_with(ours)),
            "{name}"
        );
        assert!(
            !["client-cert", "x-forwarded-client-cert", "x-real-ip"].contains(&folded.as_str()),
            "{name}"
        );
        let ends_here = ["connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"];
        assert!(!ends_here.contains(&folded.as_str()), "{name}");
    }
}

/// A head with more fields is refused, whoever has written it.
const MOST_FIELDS: usize = 100;

/// The lines of a head, of which each ends in CR LF, and what is behind it.
fn lines_and_body(message: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let end = message.windows(4).position(|four| four == b"\r\n\r\n").expect("a head has an end");
    let (head, body) = message.split_at(end + 4);
    let lines: Vec<&[u8]> = head
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty())
        .collect();
    let line_ends = head.iter().filter(|byte| **byte == b'\n').count();
    let crlf = head.windows(2).filter(|two| two == b"\r\n").count();
    let returns = head.iter().filter(|byte| **byte == b'\r').count();
    assert_eq!((line_ends, returns), (crlf, crlf), "{}", head.escape_ascii());
    (lines, body)
}

/// The name of a field line, in lower case.
fn name_of(line: &[u8]) -> String {
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    String::from_utf8_lossy(name).to_ascii_lowercase()
}

/// A service's answer.
pub(crate) fn answer(data: &[u8]) {
    for to_head in [false, true] {
        let Ok(Some(read)) = read_answer(data, to_head) else { continue };
        let (lines, behind) = lines_and_body(&read.onward);
        assert!(behind.is_empty());
        let names: Vec<String> = lines.iter().skip(1).map(|line| name_of(line)).collect();
        let count = |wanted: &str| names.iter().filter(|name| *name == wanted).count();
        assert!(count("content-length") + count("transfer-encoding") <= 1, "{names:?}");
        assert_eq!(count("x-request-id"), 1, "{names:?}");
        for name in ["keep-alive", "proxy-connection", "te", "trailer", "upgrade"] {
            assert_eq!(count(name), 0, "{names:?}");
        }

        // With the fields of our own it may have more of them than we read.
        if names.len() > MOST_FIELDS {
            continue;
        }
        let again = read_answer(&read.onward, to_head).expect("it was written here").expect("and whole");
        let framed = if read.body == AnswerBody::Close { AnswerBody::Chunked } else { read.body };
        assert_eq!(again.length, read.onward.len());
        assert_eq!((again.status, again.body), (read.status, framed), "{}", read.onward.escape_ascii());
        for cut in [read.length / 2, read.length - 1] {
            let part = data.get(..cut).unwrap_or_default();
            assert!(!matches!(read_answer(part, to_head), Ok(Some(_))), "whole by {cut} of {}", read.length);
        }
    }
}

/// Two path rules and a path, a line each.
pub(crate) fn path(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let rules: Vec<PathRule> =
        lines.by_ref().take(2).filter_map(|rule| rule.parse::<PathRule>().ok()).collect();
    for rule in &rules {
        assert_eq!(rule.as_str().parse::<PathRule>().as_ref(), Ok(rule));
    }
    let raw = lines.next().unwrap_or(text);
    let Ok(path) = PolicyPath::parse(raw) else { return };

    assert_eq!(PolicyPath::parse(path.as_str()).as_ref(), Ok(&path));
    let meant = unescaped(raw);
    assert_eq!(unescaped(path.as_str()), meant);
    let meant = String::from_utf8(meant).expect("escapes are UTF-8");
    assert_eq!(meant.matches('/').count(), raw.matches('/').count(), "{raw:?}");
    assert!(
        !meant.contains("//") && !meant.contains('\\') && !meant.chars().any(char::is_control),
        "{raw:?}"
    );
    for segment in meant.split('/') {
        let name = segment.split(';').next().unwrap_or_default();
        assert!(!matches!(segment, "." | "..") && !matches!(name, "." | ".."), "{raw:?}");
    }
    if let [one, other] = rules.as_slice()
        && one.surely_covers(other)
        && other.matches(&path)
    {
        assert!(one.matches(&path), "{one:?} covers {other:?}, but not {raw:?}");
    }
    assert!(rules.iter().all(|rule| !rule.covers_all() || rule.matches(&path)));
}

/// `text` with every escape decoded once.
fn unescaped(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..2).filter(|_| *first == b'%');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { behind.get(2..).unwrap_or_default() } else { behind };
    }
    decoded
}

/// The front of a connection that a proxy passes on.
pub(crate) fn proxy(data: &[u8]) {
    let whole = read_proxy_header(data, usize::MAX);
    for step in [1, 7] {
        assert_eq!(read_proxy_header(data, step), whole, "by {step}");
    }
    let Ok(Some((source, length))) = whole else { return };
    let header = data.get(..length).expect("no more is read than there is");
    let is_text = header.starts_with(b"PROXY ") && header.ends_with(b"\r\n") && length <= 107;
    assert!(is_text || header.starts_with(b"\r\n\r\n\0\r\nQUIT\n"), "{}", header.escape_ascii());
    // What follows is none of its business, and all of it is needed.
    let longer = [header, b"\x16\x03\x01PROXY \r\n"].concat();
    assert_eq!(read_proxy_header(&longer, usize::MAX), Ok(Some((source, length))));
    for cut in [0, length / 2, length - 1] {
        let part = header.get(..cut).unwrap_or_default();
        assert_eq!(read_proxy_header(part, usize::MAX), Ok(None), "{cut} of {}", header.escape_ascii());
    }
    if let Some(source) = source {
        let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
        let ip = source.ip();
        let line = format!("PROXY {family} {ip} {ip} {} 0\r\n", source.port());
        let again = read_proxy_header(line.as_bytes(), usize::MAX);
        assert_eq!(again, Ok(Some((Some(source), line.len()))), "{line:?}");
    }
}

/// A certificate, a list of revoked ones, or a file of them.
pub(crate) fn certificate(data: &[u8]) {
    if let Ok(subject) = Subject::from_der(data) {
        let text = subject.spiffe_id.as_str();
        assert_eq!(text.parse::<SpiffeId>().as_ref(), Ok(&subject.spiffe_id));
        assert_eq!(distinguished_name(data).as_ref(), Some(&subject.distinguished_name));
        let said = [&subject.distinguished_name, &subject.issuer, &subject.serial];
        for text in said.into_iter().chain(&subject.dns) {
            assert!(!text.chars().any(char::is_control), "{text:?}");
        }
        // One byte behind it is another certificate.
        assert!(Subject::from_der(&[data, b"\0"].concat()).is_err());
    }
    if let Some(name) = distinguished_name(data) {
        assert!(!name.chars().any(char::is_control), "{name:?}");
    }
    drop(ForeignCrl::parse(data));
    if let Ok(certificates) = pem::certificates(data) {
        let written: String = certificates.iter().map(pem::certificate_to_pem).collect();
        assert_eq!(pem::certificates(written.as_bytes()).expect("it was written here"), certificates);
    }
    drop(pem::crls(data));
    drop(pem::private_key(data));
    drop(pem::encrypted_private_key(data));
    drop(pem::certificate_request(data));
}

/// Lines: `Signature-Input`, `Signature`, `Content-Digest`, a target, another field's value, a component to cover, and a body.
pub(crate) fn signature(data: &[u8]) {
    let mut lines = data.splitn(7, |byte| *byte == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let [input, signed, digest, target, other] = [next(), next(), next(), next(), next()];
    let (component, body) = (next(), next());
    let values =
        [("signature-input", input), ("signature", signed), ("content-digest", digest), ("x-a", other)];
    // What holds other bytes does not come so far.
    let sendable = |value: &[u8]| value.iter().all(|byte| (*byte >= b' ' && *byte != 0x7f) || *byte == b'\t');
    let plain_target = |target: &&str| target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    let Some(target) = std::str::from_utf8(target).ok().filter(plain_target) else { return };
    if !values.iter().all(|(_, value)| sendable(value)) {
        return;
    }
    let fields: Vec<Header<'_>> = values
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| Header { name, value })
        .collect();
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let message = Message {
        method: "POST",
        authority: "Example.test:443",
        path,
        query,
        fields: &fields,
        content: Content::Present,
    };

    let terms = &*TERMS;
    if let Ok(Some(signed)) = Signed::read(message, terms, NonceUse::Look)
        && let Some(digest) = signed.content_digest()
    {
        let mut check = digest.begin();
        check.update(body);
        let _whichever: bool = check.matches();
    }
    if let Ok(input) = std::str::from_utf8(input)
        && let Ok(base) = base_for(&message, input)
    {
        let (covered, parameters) =
            base.rsplit_once("\"@signature-params\": ").expect("a base ends with its parameters");
        assert!(!parameters.contains('\n') && (covered.is_empty() || covered.ends_with('\n')), "{base}");
        assert_eq!(base_for(&message, &format!("again={parameters}")).ok().as_ref(), Some(&base));
        let named: BTreeSet<&str> =
            covered.lines().filter_map(|line| line.split_once(": ")).map(|(name, _)| name).collect();
        assert_eq!(named.len(), covered.lines().count(), "{base}");
    }
    if let Ok(component) = std::str::from_utf8(component) {
        let plan = Plan {
            cover: vec!["@method".to_owned(), component.to_owned()],
            created: Timestamp::FLOOR,
            expires: None,
            keyid: "key",
            nonce: Some("nonce"),
            tag: None,
        };
        let signer = Signer::Hmac(Box::new(hmac::Key::new(hmac::HMAC_SHA256, &[7; 32])));
        if let Ok(lines) = signer.sign(&message, "sig", &plan) {
            assert_eq!(base_for(&message, &lines.input).ok(), Some(lines.base));
        }
    }
    let own = ContentDigest::parse(ContentDigest::of(body).as_bytes()).expect("it was written here");
    let mut check = own.begin();
    check.update(body);
    assert!(check.matches());
}

static TERMS: LazyLock<SignatureTerms> = LazyLock::new(|| {
    SignatureTerms::new(SignatureRules::default(), Arc::new(NonceMemory::new(16, Timestamp::FLOOR)))
});

/// The configuration.
pub(crate) fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let file = Path::new("config/postern.toml");
    let first = postern::config::parse(file, text);
    match (&first, postern::config::parse(file, text)) {
        (Ok(one), Ok(other)) => {
            assert_eq!(*one, other);
            assert_eq!(postern::config::plan(one, &other), Ok(Vec::new()));
        }
        (Err(one), Err(other)) => {
            assert_eq!(*one, other);
            check_problems(one, text);
        }
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => panic!("one text is read in two ways"),
    }
}

/// Two files of a registry, with a line `%%` between them.
pub(crate) fn registry(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (one, other) = text.split_once("\n%%\n").unwrap_or((text, ""));
    let source = |name: &str, text: &str| Source { path: PathBuf::from(name), text: text.to_owned() };
    let [one, other] = [source("a.toml", one), source("b.toml", other)];

    let read = Library::read(&[one.clone(), other.clone()]);
    let swapped = Library::read(&[other.clone(), one.clone()]);
    match (read, swapped) {
        (Ok(mut library), Ok(swapped)) => {
            let before = Arc::clone(library.snapshot());
            assert_eq!(before.counts(), swapped.snapshot().counts());
            assert_eq!(before.version(), swapped.snapshot().version());
            drop(lint(&before, Timestamp::FLOOR));
            if library.amend(&[Change::Says(other)]) {
                assert_eq!(library.snapshot().counts(), before.counts());
                assert_eq!(library.snapshot().version(), before.version());
            }
        }
        (Err(problems), Err(_)) => {
            for (source, name) in [(&one, "a.toml"), (&other, "b.toml")] {
                let here = problems.iter().filter(|problem| problem.file == Path::new(name));
                check_problems(&here.cloned().collect::<Vec<_>>(), &source.text);
            }
        }
        (Ok(_), Err(problems)) | (Err(problems), Ok(_)) => {
            panic!("what is said depends on the order of the files: {problems:?}")
        }
    }
}

/// Every problem has its place in the text.
fn check_problems(problems: &[Problem], text: &str) {
    let lines = text.split('\n').count();
    for problem in problems {
        assert!((1..=lines).contains(&problem.line), "{problem} of {lines} lines");
        assert!(problem.column >= 1 && !problem.message.is_empty(), "{problem}");
    }
}
