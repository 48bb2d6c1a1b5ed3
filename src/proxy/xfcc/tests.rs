//! What services are told of certificates, byte by byte, and read back by two readers.

use std::io::Write as _;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;

use super::*;
use crate::clock::Timestamp;
use crate::identity::Subject;
use crate::proxy::http_gate::{MAX_FIELDS, read_http1};

const RULES: ClientCert = ClientCert {
    xfcc: Xfcc::SanitizeSet,
    details: Details::USUAL,
    fields: CertificateFields::None,
    proxies: Vec::new(),
};

fn imagined(distinguished_name: &str, dns: &[&str]) -> Verified {
    Verified::imagined(Subject {
        spiffe_id: "spiffe://a/b".parse().unwrap(),
        dns: dns.iter().map(ToString::to_string).collect(),
        attributes: Vec::new(),
        distinguished_name: distinguished_name.to_owned(),
        serial: String::new(),
        issuer: String::new(),
        not_before: Timestamp::FLOOR,
        not_after: Timestamp::FLOOR,
        sha256: [0xab; 32],
        spki_sha256: [0; 32],
    })
}

/// What a service gets when `app` comes with these fields; with a certificate if one is `verified`.
fn told(
    rules: &ClientCert,
    fields: &[&str],
    verified: Option<&Verified>,
    app: &str,
) -> Result<Vec<String>, Malformed> {
    let fields: String = fields.iter().map(|value| format!("X-Forwarded-Client-Cert: {value}\r\n")).collect();
    let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let mut storage = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let head = read_http1(bytes.as_bytes(), &mut storage).unwrap();
    let by = "spiffe://us/agent".parse().unwrap();
    let shown = Shown { by: &by, verified, written: &Written::default() };
    check(&head, rules, shown)?;
    let mut out = Vec::new();
    write(&mut out, &head, rules, shown, &app.parse().unwrap());
    let text = String::from_utf8(out).unwrap();
    Ok(text.lines().map(str::to_owned).collect())
}

/// The pairs of one element of ours, with every escape undone.
fn read(element: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut rest = element;
    let mut pairs = Vec::new();
    while !rest.is_empty() {
        let key = rest.iter().position(|&byte| byte == b'=').unwrap();
        let (name, behind) = rest.split_at(key);
        let (mut value, mut at) = (Vec::new(), 2);
        loop {
            match behind[at] {
                b'"' => break,
                b'\\' => {
                    value.push(behind[at + 1]);
                    at += 2;
                }
                b'%' => {
                    value.extend(HEXUPPER.decode(&behind[at + 1..at + 3]).unwrap());
                    at += 3;
                }
                plain => {
                    value.push(plain);
                    at += 1;
                }
            }
        }
        pairs.push((String::from_utf8(name.to_vec()).unwrap(), value));
        rest = &behind[at + 1..];
        rest = rest.strip_prefix(b";").unwrap_or(rest);
    }
    pairs
}

fn written(values: &[Vec<u8>]) -> Vec<u8> {
    let mut element = Vec::new();
    for value in values {
        pair(&mut element, "Subject", value);
    }
    element
}

proptest! {
    /// Whatever bytes a certificate holds reach the service as they were, and are a header.
    #[test]
    fn what_is_written_is_what_is_read(values in prop::collection::vec(hostile(), 1..4)) {
        let element = written(&values);

        let pairs: Vec<_> = values.into_iter().map(|value| ("Subject".to_owned(), value)).collect();
        prop_assert_eq!(read(&element), pairs);
        prop_assert!(http::HeaderValue::from_bytes(&element).is_ok());
    }

    /// Nor does a reader that knows `\"` alone find an end where there is none: what we write is what we would pass on.
    #[test]
    fn what_is_written_is_taken_apart_in_one_way(values in prop::collection::vec(hostile(), 1..4)) {
        let element = written(&values);

        let mut passed = Vec::new();
        prop_assert_eq!(normalise(&element, |part| passed.extend_from_slice(part)), Ok(()));
        prop_assert_eq!(passed, element);
    }

    /// What is passed on is well formed, and passing it on again changes nothing.
    #[test]
    fn what_is_passed_on_stays_as_it_is(value in "[A-C]?[=;,\"\\\\ a-d]{0,12}|([A-C]{1,2}=(\"[a;,=\\\\]{0,4}\"|[a-c]{0,3})[;,] ?){0,3}A=") {
        let mut once = Vec::new();
        if normalise(value.as_bytes(), |part| once.extend_from_slice(part)).is_ok() {
            let mut twice = Vec::new();
            prop_assert_eq!(normalise(&once, |part| twice.extend_from_slice(part)), Ok(()));
            prop_assert_eq!(once, twice);
        }
    }
}

/// Bytes of all sorts, and those that mean something more often.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"\"\\%;,=\r\n\0 ".to_vec())], 0..20)
}

#[test]
fn a_hostile_value_stays_inside_its_quotes() {
    let verified = imagined("CN=x\";URI=\"spiffe://a/admin\\,\r\n\\", &["x.test"]);

    let lines = told(&RULES, &[], Some(&verified), "web").unwrap();

    let hash = "ab".repeat(32);
    assert_eq!(
        lines,
        [format!(
            r#"x-forwarded-client-cert: By="spiffe://us/agent";Hash="{hash}";Subject="CN=x\";URI=\"spiffe://a/admin\\,%0D%0A%5C";URI="spiffe://a/b";DNS="x.test""#
        )]
    );
}

#[test]
fn each_mode_is_envoys() {
    let (verified, theirs) = (imagined("CN=edge", &[]), "By=spiffe://x/y;URI=\"spiffe://x/z\"");
    let passed = "x-forwarded-client-cert: By=\"spiffe://x/y\";URI=\"spiffe://x/z\"";
    let rules = |xfcc| ClientCert { xfcc, proxies: vec!["edge".parse().unwrap()], ..RULES };
    let ours = told(&RULES, &[], Some(&verified), "edge").unwrap().remove(0);
    let both = format!("{passed},{}", ours.split_once(": ").unwrap().1);
    let (ours, passed, both) = (vec![ours], vec![passed.to_owned()], vec![both]);
    let nothing: Vec<String> = Vec::new();
    for (xfcc, by_a_proxy, by_another, by_key) in [
        (Xfcc::Sanitize, &nothing, &nothing, &nothing),
        (Xfcc::SanitizeSet, &ours, &ours, &nothing),
        (Xfcc::ForwardOnly, &passed, &nothing, &nothing),
        (Xfcc::AppendForward, &both, &ours, &nothing),
        (Xfcc::AlwaysForwardOnly, &passed, &passed, &passed),
    ] {
        let rules = rules(xfcc);
        assert_eq!(told(&rules, &[theirs], Some(&verified), "edge").as_ref(), Ok(by_a_proxy), "{xfcc:?}");
        assert_eq!(told(&rules, &[theirs], Some(&verified), "web").as_ref(), Ok(by_another), "{xfcc:?}");
        assert_eq!(told(&rules, &[theirs], None, "edge").as_ref(), Ok(by_key), "{xfcc:?}");
    }
    let several = told(&rules(Xfcc::ForwardOnly), &["A=1", "", "B=2"], Some(&verified), "edge").unwrap();
    assert_eq!(several, ["x-forwarded-client-cert: A=\"1\",B=\"2\""]);
}

#[test]
fn what_two_readers_take_apart_differently_is_not_passed_on() {
    let pass = |value: &str| {
        let mut passed = Vec::new();
        normalise(value.as_bytes(), |part| passed.extend_from_slice(part))
            .map(|()| String::from_utf8(passed).unwrap())
    };
    for (value, passed) in [
        ("", ""),
        ("URI=", "URI=\"\""),
        ("By=a;URI=b, By=c", "By=\"a\";URI=\"b\",By=\"c\""),
        (r#"Subject="CN=\"a\",O=b\\+c""#, r#"Subject="CN=\"a\",O=b\\+c""#),
    ] {
        assert_eq!(pass(value).as_deref(), Ok(passed), "{value}");
    }
    for value in [
        "URI",
        "=a",
        "URI=a=b",
        "URI=a;",
        "URI=a,,By=b",
        "URI=a b",
        "URI=a\"b",
        "URI=a\\",
        "URI=\"a",
        "URI=\"a\"b",
        r#"Subject="a\\";URI="spiffe://x/admin""#,
        "Subject=\"caf\u{e9}\"",
    ] {
        assert_eq!(pass(value), Err(Malformed), "{value}");
    }
    let verified = imagined("CN=edge", &[]);
    let rules = ClientCert { xfcc: Xfcc::ForwardOnly, proxies: vec!["edge".parse().unwrap()], ..RULES };
    assert_eq!(told(&rules, &["URI=a;"], Some(&verified), "edge"), Err(Malformed));
    assert_eq!(told(&rules, &["URI=a;"], None, "edge"), Ok(Vec::new()), "nobody would pass it on");
    assert_eq!(told(&RULES, &["URI=a;"], Some(&verified), "edge").unwrap().len(), 1);
}

/// A reader that was written apart, in another language and from Envoy's grammar, finds the same.
#[test]
#[expect(clippy::print_stdout, reason = "a skipped test must not look like one that ran")]
fn a_reader_in_python_agrees() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut sample = || prop::collection::vec(hostile(), 1..4).new_tree(&mut runner).unwrap().current();
    let samples: Vec<Vec<Vec<u8>>> = (0..500).map(|_| sample()).collect();
    let python = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/xfcc.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut python) = python else {
        println!("skipped: there is no python3");
        return;
    };
    let mut asked = Vec::new();
    for values in &samples {
        asked.extend_from_slice(&written(values));
        asked.push(b'\n');
    }
    python.stdin.take().unwrap().write_all(&asked).unwrap();

    let answered = python.wait_with_output().unwrap();

    let told = String::from_utf8(answered.stdout).unwrap();
    let read = told.lines().map(|line| {
        let words = line.split(' ').map(|word| HEXLOWER.decode(word.as_bytes()).unwrap());
        words.collect::<Vec<_>>()
    });
    assert_eq!(read.collect::<Vec<_>>(), samples);
}
