//! `postern sign`: signs a request as a caller does, and shows what exactly is signed when two sides do not agree.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use anyhow::{Context as _, ensure};
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use data_encoding::BASE64URL_NOPAD;
use httparse::Header;
use zeroize::Zeroizing;

use super::args::{FieldLine, SignRequestArgs};
use super::output::{self, Verdict};
use crate::clock::{Clock as _, SystemClock};
use crate::credential::{
    Content, ContentDigest, Message, Plan, SignatureLines, Signer, SigningSecret, base_for, usual_cover,
};
use crate::secret::Secret;
use crate::store::pem;

pub(super) fn run(args: SignRequestArgs) -> anyhow::Result<Verdict> {
    let (authority, path, query) = split(&args.url)?;
    let method = &args.method;
    ensure!(method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-'), "{method:?} is no method");
    let (made, content) = match &args.body {
        Some(file) => (digest_line(file, &args.header)?, Content::Present),
        None => (None, Content::Absent),
    };
    let lines: Vec<&FieldLine> = args.header.iter().chain(&made).collect();
    let fields: Vec<Header<'_>> =
        lines.iter().map(|line| Header { name: line.name.as_str(), value: line.value.as_bytes() }).collect();
    let message = Message { method, authority, path, query, fields: &fields, content };
    if let Some(input) = &args.signature_input {
        return explain(&args, &message, input);
    }
    let signed = sign(&args, &message)?;
    if args.explain {
        output::print(&format!("{}\n", signed.base))?;
        return Ok(Verdict::Yes);
    }
    let mut page = String::new();
    if let Some(FieldLine { name, value }) = &made {
        writeln!(page, "{name}: {value}")?;
    }
    writeln!(page, "Signature-Input: {}\nSignature: {}", signed.input, signed.signature)?;
    output::print(&page)?;
    Ok(Verdict::Yes)
}

/// Authority, path and query of a URL, each exactly as it is written.
fn split(url: &str) -> anyhow::Result<(&str, &str, Option<&str>)> {
    let rest = url.strip_prefix("https://").context("expected a URL that begins with https://")?;
    let visible = rest.bytes().all(|byte| byte.is_ascii_graphic());
    ensure!(
        visible && !rest.contains('#'),
        "the URL must be written as it is sent: escaped, and without '#…'"
    );
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    ensure!(!authority.is_empty() && !authority.contains('@'), "the URL needs a host, and no user");
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    Ok((authority, if path.is_empty() { "/" } else { path }, query))
}

/// The digest of the body, unless the caller gives one.
fn digest_line(file: &Path, given: &[FieldLine]) -> anyhow::Result<Option<FieldLine>> {
    if given.iter().any(|line| line.name.eq_ignore_ascii_case("content-digest")) {
        return Ok(None);
    }
    let body = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Some(FieldLine { name: "Content-Digest".to_owned(), value: ContentDigest::of(&body) }))
}

fn sign(args: &SignRequestArgs, message: &Message<'_>) -> anyhow::Result<SignatureLines> {
    let file = args.key.as_deref().context("--key is missing")?;
    let (signer, own_id) = signer(file)?;
    let keyid = args.keyid.as_ref().or(own_id.as_ref());
    let keyid =
        keyid.context("a private key does not say what it is called: give its name on file with --keyid")?;
    let created = args.created.unwrap_or_else(|| SystemClock.now());
    let nonce = match (&args.nonce, args.no_nonce) {
        (_, true) => None,
        (Some(nonce), false) => Some(nonce.clone()),
        (None, false) => Some(fresh_nonce()?),
    };
    let mut cover = usual_cover(message);
    cover.extend(args.cover.iter().cloned());
    let plan = Plan {
        cover,
        created,
        expires: args.expires.map(|expires| expires.from(created)),
        keyid,
        nonce: nonce.as_deref(),
        tag: args.tag.as_deref(),
    };
    signer.sign(message, &args.label, &plan).context("the request cannot be signed")
}

fn fresh_nonce() -> anyhow::Result<String> {
    let mut bytes = [0_u8; NONCE];
    SystemRandom::new().fill(&mut bytes).ok().context("the system gives no random bytes")?;
    Ok(BASE64URL_NOPAD.encode(&bytes))
}

/// 128 random bits are used once without anybody keeping count.
const NONCE: usize = 16;

/// The key in a file, and its name if it says so.
fn signer(file: &Path) -> anyhow::Result<(Signer, Option<String>)> {
    let mut bytes = Zeroizing::new(Vec::new());
    let read = if file == Path::new("-") {
        io::stdin().lock().take(LONGEST_KEY).read_to_end(&mut bytes)
    } else {
        File::open(file).and_then(|file| file.take(LONGEST_KEY).read_to_end(&mut bytes))
    };
    read.with_context(|| format!("cannot read {}", file.display()))?;
    if let Ok(secret) = SigningSecret::parse(bytes.trim_ascii()) {
        return Ok((Signer::shared(&secret), Some(secret.id().to_owned())));
    }
    let pkcs8: Secret = pem::private_key(&bytes).with_context(|| {
        format!("{} holds neither a shared secret (pstn_hs_…) nor a private key", file.display())
    })?;
    let signer = Signer::from_pkcs8(&pkcs8).context("the private key is neither Ed25519 nor P-256")?;
    Ok((signer, None))
}

/// More than any key, and not so much that a wrong file hurts.
const LONGEST_KEY: u64 = 16 * 1024;

/// Shows the base that a caller's `Signature-Input` leads to, beside the caller's own or the one that we would sign.
fn explain(args: &SignRequestArgs, message: &Message<'_>, input: &str) -> anyhow::Result<Verdict> {
    let ours = base_for(message, input).context("the agent would find no signature base for this")?;
    let (whose, theirs) = match (&args.base, &args.key) {
        (Some(file), _) => {
            let text = std::fs::read_to_string(file);
            let text = text.with_context(|| format!("cannot read {}", file.display()))?;
            ("the caller's", text.strip_suffix('\n').unwrap_or(&text).to_owned())
        }
        (None, Some(_)) => ("what `postern sign` would sign", sign(args, message)?.base),
        (None, None) => {
            output::print(&format!("{ours}\n"))?;
            return Ok(Verdict::Yes);
        }
    };
    output::print(&comparison(&ours, whose, &theirs)?)?;
    Ok(Verdict::of(ours == theirs))
}

/// Both bases line by line, with a caret below the first byte that differs.
fn comparison(ours: &str, whose: &str, theirs: &str) -> Result<String, std::fmt::Error> {
    let mut page = format!("  the agent's\n+ {whose}\n\n");
    let (mut mine, mut other) = (ours.split('\n'), theirs.split('\n'));
    let mut marked = false;
    loop {
        let (mine, other) = match (mine.next(), other.next()) {
            (None, None) => break,
            (Some(mine), Some(other)) if mine == other => {
                writeln!(page, "  {}", visible(mine))?;
                continue;
            }
            pair => pair,
        };
        for (mark, line) in [(' ', mine), ('+', other)] {
            match line {
                Some(line) => writeln!(page, "{mark} {}", visible(line))?,
                None => writeln!(page, "{mark} (no such line)")?,
            }
        }
        if !marked {
            let (mine, other) = (visible(mine.unwrap_or_default()), visible(other.unwrap_or_default()));
            let at = mine.chars().zip(other.chars()).take_while(|(left, right)| left == right).count();
            writeln!(page, "  {}^ here they begin to differ", " ".repeat(at))?;
            marked = true;
        }
    }
    if !marked {
        page.push_str("\nThey are the same, so it is the key or the signature that does not fit.\n");
    }
    Ok(page)
}

/// What would not show in a terminal is written out: a carriage return, a tab, what is no ASCII.
fn visible(line: &str) -> String {
    line.chars()
        .flat_map(|letter| {
            if letter == '"' || letter == '\\' { vec![letter] } else { letter.escape_default().collect() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_as_it_is_written() {
        for (url, expected) in [
            ("https://a", ("a", "/", None)),
            ("https://a:8443/b%2Fc?d=e?f", ("a:8443", "/b%2Fc", Some("d=e?f"))),
            ("https://a?b", ("a", "/", Some("b"))),
            ("https://[::1]:1/?", ("[::1]:1", "/", Some(""))),
        ] {
            assert_eq!(split(url).unwrap(), expected, "{url}");
        }
        for url in
            ["http://a/", "a", "https:///a", "https://u@a/", "https://a/#b", "https://a/ b", "https://a/é"]
        {
            assert!(split(url).is_err(), "{url}");
        }
    }

    #[test]
    fn the_first_difference_is_marked() {
        let page =
            comparison("\"a\": 1\n\"b\": 2\n\"c\": 3", "theirs", "\"a\": 1\n\"b\": 2\r\n\"c\": 4").unwrap();

        assert_eq!(
            page,
            "  the agent's\n+ theirs\n\n  \"a\": 1\n  \"b\": 2\n+ \"b\": 2\\r\n        ^ here they begin to differ\n  \"c\": 3\n+ \"c\": 4\n"
        );
        assert!(comparison("a", "theirs", "a\nb").unwrap().contains("(no such line)\n+ b\n"));
        assert!(comparison("a", "theirs", "a").unwrap().contains("They are the same"));
    }
}
