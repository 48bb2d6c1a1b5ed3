//! Reading `[[issuer]]`: somebody else whose access tokens are believed.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;

use crate::credential::token::{Algorithm, Proves};
use crate::toml_text::{TableReader, Value};

use super::section::{Placed, path};

/// Somebody else whose access tokens are believed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuerConfig {
    /// The `iss` of its tokens, letter for letter.
    pub issuer: String,
    /// Where its keys are.
    pub keys: KeySource,
    /// A PEM file of the roots that its web server is believed by, where it is asked over HTTPS.
    pub roots: Option<PathBuf>,
    /// What this agent is called in `aud`.
    pub audiences: Vec<String>,
    /// The algorithms that are taken of it.
    pub algorithms: Vec<Algorithm>,
    /// How far its clock may be from ours.
    pub leeway: Duration,
    /// Which values of `typ` its access tokens have.
    pub kinds: Vec<String>,
    /// Of whom its tokens speak.
    pub proves: Proves,
    /// How often its keys are fetched anew.
    pub refresh: Duration,
    /// How soon after a fetch a token with an unknown key may cause the next one.
    pub refetch: Duration,
    /// How long keys are believed that cannot be fetched anew.
    pub keep: Duration,
}

/// Where an issuer's keys are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KeySource {
    /// Where its metadata document says (OpenID Connect Discovery, or RFC 8414).
    Discovery,
    /// In this file, a JWK Set.
    File(PathBuf),
    /// At this address, a JWK Set.
    Url(Uri),
}

/// One `[[issuer]]`.
pub(super) fn issuer<'d>(mut table: TableReader<'d>, base: &Path) -> Option<Placed<'d, IssuerConfig>> {
    let place = table.place();
    let issuer = table.required("issuer", |value| value.convert(name));
    let file = table.optional("jwks_file", |value| path(base, value)).map(KeySource::File);
    let url = table.optional("jwks_url", |value| value.convert(address)).map(KeySource::Url);
    let discovery = table.optional("discovery", Value::boolean).filter(|wanted| *wanted);
    let discovery = discovery.map(|_| KeySource::Discovery);
    let given = ["jwks_file", "jwks_url"].into_iter().filter(|key| table.has(key)).count();
    if given + usize::from(discovery.is_some()) != 1 {
        table.problem("it must say where its keys are: exactly one of jwks_file, jwks_url, discovery = true");
    }
    let roots = table.optional("roots", |value| path(base, value));
    let asked = match (&url, &discovery, &issuer) {
        (Some(KeySource::Url(url)), _, _) => Some(url.clone()),
        (_, Some(_), Some(issuer)) => match address(issuer) {
            Ok(url) => Some(url),
            Err(error) => {
                table.problem(format!("`discovery` asks the issuer itself: {error}"));
                None
            }
        },
        _ => None,
    };
    if asked.is_some_and(|url| url.scheme_str() == Some("https")) && roots.is_none() {
        table.problem(
            "an issuer that is asked over HTTPS needs `roots`, a PEM file that its web server is believed by",
        );
    }
    let audiences = table.required("audience", |value| some_of(value, |item| item.convert(text)));
    let words = Algorithm::ALL.map(|algorithm| (algorithm.as_str(), algorithm));
    let algorithms = table.required("algorithms", |value| some_of(value, |item| item.word(&words)));
    let kinds = table.optional("typ", |value| some_of(value, |item| item.convert(text)));
    let proves = table
        .optional("for", |value| value.word(&[("apps", Proves::Apps), ("users", Proves::Users)]))
        .unwrap_or(Proves::Apps);
    let leeway = span(&mut table, "leeway", Duration::from_secs(5), Duration::ZERO, WIDEST_LEEWAY);
    let refresh = span(&mut table, "refresh", Duration::from_secs(300), Duration::from_secs(1), LONGEST);
    let refetch = span(&mut table, "refetch", Duration::from_secs(30), Duration::from_secs(1), LONGEST);
    let keep = span(&mut table, "keep", Duration::from_secs(24 * 3600), Duration::from_secs(1), LONGEST);
    table.finish();
    let item = IssuerConfig {
        issuer: issuer?,
        keys: file.or(url).or(discovery)?,
        roots,
        audiences: audiences?,
        algorithms: algorithms?,
        leeway,
        kinds: kinds.unwrap_or_else(|| vec!["at+jwt".to_owned()]),
        proves,
        refresh,
        refetch,
        keep,
    };
    Some(Placed { place, item })
}

fn some_of<'d, T>(value: &Value<'d>, read: impl Fn(&Value<'d>) -> Option<T>) -> Option<Vec<T>> {
    let found = value.list(read)?;
    if found.is_empty() {
        value.problem("an empty list would let nobody through");
        return None;
    }
    Some(found)
}

fn span(
    table: &mut TableReader<'_>,
    key: &'static str,
    usual: Duration,
    least: Duration,
    most: Duration,
) -> Duration {
    let read = table.optional(key, |value| {
        let span = value.duration()?;
        if !(least..=most).contains(&span) {
            value.problem(format!("expected {} to {} seconds", least.as_secs(), most.as_secs()));
        }
        Some(span)
    });
    read.unwrap_or(usual)
}

fn text(text: &str) -> Result<String, &'static str> {
    if text.is_empty() { Err("expected a text, found nothing") } else { Ok(text.to_owned()) }
}

/// What an issuer calls itself is compared letter for letter, so nothing is made of it here.
fn name(name: &str) -> Result<String, &'static str> {
    let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
    if plain {
        Ok(name.to_owned())
    } else {
        Err("expected the `iss` of its tokens, such as https://id.example")
    }
}

/// An address that may be asked: over HTTPS, or without it on this very host.
fn address(text: &str) -> Result<Uri, &'static str> {
    let expected = "expected an https:// address, or http:// with a loopback address";
    let uri: Uri = text.parse().map_err(|_| expected)?;
    let host = uri.host().ok_or(expected)?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = host == "localhost" || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    match uri.scheme_str() {
        Some("https") if !has_user => Ok(uri),
        Some("http") if is_loopback && !has_user => Ok(uri),
        _ => Err(expected),
    }
}

/// Clocks that lie further apart are broken.
const WIDEST_LEEWAY: Duration = Duration::from_secs(300);

/// Keys that are older than a month were forgotten.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);
