//! Reading the parts of the registry's tables, each on its own.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};

use crate::clock::Timestamp;
use crate::id::{CredentialId, EnvironmentId};
use crate::identity::{Attribute, CertificateRule, RelativeName};
use crate::registry::condition;
use crate::registry::limits;
use crate::registry::token_rule::USUAL_KEYS;
use crate::registry::{
    Accepts, AppStatus, Approval, AttributeValue, Attributes, Bindings, CertificatesOnFile, Condition,
    CredentialKind, CredentialSecret, CredentialStatus, DeveloperStatus, GrantStatus, KeyAlone, KindSet,
    Methods, MultiValued, Operation, ServiceSelector, SignatureAlgorithm, SignatureKey, Target, TokenRule,
};
use crate::suggest;
use crate::toml_text::{Place, TableReader, Value};

/// A credential whose app is not known yet.
pub(super) struct CredentialDraft<'d> {
    pub(super) place: Place<'d>,
    pub(super) id: CredentialId,
    /// `None` when it could not be read, which has been reported.
    pub(super) secret: Option<CredentialSecret>,
    pub(super) status: CredentialStatus,
    pub(super) created: Option<Timestamp>,
    pub(super) not_before: Option<Timestamp>,
    pub(super) expires: Option<Timestamp>,
    /// What it is confined to; not read yet, for it names what products convey.
    pub(super) scopes: Option<Value<'d>>,
    /// Likewise the products.
    pub(super) grants: Option<Value<'d>>,
    pub(super) bindings: Option<Box<Bindings>>,
}

/// A name, and where it stands.
pub(super) fn placed<'d, T>(value: &Value<'d>) -> Option<(Place<'d>, T)>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    Some((value.place(), value.parse()?))
}

pub(super) fn app_status(value: &Value<'_>) -> Option<AppStatus> {
    value.word(&[("approved", AppStatus::Approved), ("revoked", AppStatus::Revoked)])
}

pub(super) fn developer_status(value: &Value<'_>) -> Option<DeveloperStatus> {
    value.word(&[("active", DeveloperStatus::Active), ("inactive", DeveloperStatus::Inactive)])
}

pub(super) fn grant_status(value: &Value<'_>) -> Option<GrantStatus> {
    value.word(&[
        ("approved", GrantStatus::Approved),
        ("pending", GrantStatus::Pending),
        ("revoked", GrantStatus::Revoked),
    ])
}

pub(super) fn approval(value: &Value<'_>) -> Option<Approval> {
    value.word(&[("auto", Approval::Auto), ("manual", Approval::Manual)])
}

/// A span of more than nothing.
pub(super) fn some_time(value: &Value<'_>) -> Option<Duration> {
    let span = value.duration()?;
    if span.is_zero() {
        value.problem("expected more than nothing");
        return None;
    }
    Some(span)
}

/// `None` for every environment.
pub(super) fn environments(value: &Value<'_>) -> Option<Option<Vec<EnvironmentId>>> {
    match value.array()?.as_slice() {
        [only] if only.text() == Some("*") => Some(None),
        _ => value.list(Value::parse).map(Some),
    }
}

/// `sensitivity` and `api_key_alone` of a product.
pub(super) fn key_alone(table: &mut TableReader<'_>) -> KeyAlone {
    let words = [("normal", KeyAloneByRule::Admit), ("high", KeyAloneByRule::Refuse)];
    let rule = table.optional("sensitivity", |value| value.word(&words)).unwrap_or_default();
    let reason = table.optional("api_key_alone", |value| {
        if rule == KeyAloneByRule::Admit {
            value.problem(
                "only a product with sensitivity = \"high\" needs a reason to accept an API key alone",
            );
        }
        value.convert(|text| match text.trim() {
            "" => Err("expected the reason why an API key alone is enough, in words"),
            reason => Ok(reason.into()),
        })
    });
    match (rule, reason) {
        (KeyAloneByRule::Refuse, None) => KeyAlone::Refuse,
        (KeyAloneByRule::Refuse, Some(reason)) => KeyAlone::AdmitFor(reason),
        (KeyAloneByRule::Admit, _) => KeyAlone::Admit,
    }
}

/// What a sensitivity says by itself.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
enum KeyAloneByRule {
    #[default]
    Admit,
    Refuse,
}

/// `status`, and `retire_at` with it, without which nobody is retiring.
fn credential_status(table: &mut TableReader<'_>) -> CredentialStatus {
    // What retires without an instant is refused, and reported.
    let at = table.optional("retire_at", |value| value.timestamp());
    let has_end = table.has("retire_at");
    let place = table.place();
    let status = table.optional("status", |value| {
        value
            .word(&[
                ("approved", None),
                ("pending", Some(CredentialStatus::Pending)),
                (
                    "retiring",
                    at.map_or(Some(CredentialStatus::Revoked), |at| Some(CredentialStatus::Retiring(at))),
                ),
                ("revoked", Some(CredentialStatus::Revoked)),
            ])
            .map(|status| (value.text() == Some("retiring"), status))
    });
    let (retiring, status) = status.unwrap_or((false, None));
    match (retiring, has_end) {
        (true, false) => place.problem("`status = \"retiring\"` needs `retire_at`, at which it ends"),
        (false, true) if status != Some(CredentialStatus::Revoked) => {
            place.problem(
                "`retire_at` goes with `status = \"retiring\"`; a credential that simply ends has `expires`",
            );
        }
        (false | true, _) => (),
    }
    status.unwrap_or(CredentialStatus::Approved)
}

/// Alternatives, each a list of kinds: `[["mtls"], ["api_key"]]`.
pub fn accepts(value: &Value<'_>) -> Option<Accepts> {
    let kind = |word: &Value<'_>| word.word(&CredentialKind::ALL.map(|kind| (kind.as_str(), kind)));
    let alternatives =
        value.list(|alternative| Some(alternative.list(kind)?.into_iter().collect::<KindSet>()))?;
    Accepts::new(alternatives).map_err(|error| value.problem(error.to_string())).ok()
}

pub(super) fn scopes(value: &Value<'_>) -> Option<Vec<String>> {
    value.list(scope)
}

/// > scope-token = 1*( %x21 / %x23-5B / %x5D-7E ) — RFC 6749 §3.3
pub(super) fn scope(value: &Value<'_>) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    value.convert(|text| {
        let valid = !text.is_empty() && text.bytes().all(allowed);
        if valid {
            Ok(text.to_owned())
        } else {
            Err("a scope has only visible ASCII characters but '\"' and '\\'")
        }
    })
}

/// An operation; `None` when it could not be read, which has been reported.
pub(super) fn operation(mut table: TableReader<'_>) -> Option<Operation> {
    let id = table.optional("id", Value::parse);
    let service = table.required("service", selector);
    let http = (table.has("methods"), table.has("path"));
    let methods = table.optional("methods", methods);
    let path = table.optional("path", Value::parse);
    let accepts = match table.value("accepts") {
        Some(value) => Some(accepts(&value)?),
        None => None,
    };
    let scopes = table.optional("scopes", scopes).unwrap_or_default();
    let own_limits = limits::limits(&mut table);
    let when = table.value("when");
    let weight = table.optional("weight", limits::weight).unwrap_or(1);
    if own_limits.is_some() && !table.has("id") {
        table.problem("an operation with limits of its own needs an `id`, by which it is counted");
    }
    let target = match http {
        (true, true) => methods.zip(path).map(|(methods, path)| Target::Http { methods, path }),
        (false, false) => Some(Target::Tcp),
        (true, false) => {
            table.problem("`methods` without `path`; write path = \"/\" for every path");
            None
        }
        (false, true) => {
            table.problem("`path` without `methods`; write methods = [\"*\"] for every method");
            None
        }
    };
    let when = match (when, &target) {
        (Some(value), Some(Target::Http { path, .. })) => {
            value.convert(|text| Condition::parse(text, Some(path)))
        }
        (Some(value), Some(Target::Tcp)) => value.convert(|text| Condition::parse(text, None)),
        (Some(_), None) | (None, _) => None,
    };
    table.finish();
    Some(Operation {
        id,
        service: service?,
        target: target?,
        accepts,
        scopes,
        when: when.map(Box::new),
        limits: own_limits,
        weight,
    })
}

/// What an app is said to be: texts and lists of texts, by name.
pub(super) fn attributes(table: TableReader<'_>) -> Attributes {
    let read = |(name, value): (&str, Value<'_>)| {
        if !condition::is_name(name) {
            value.problem("the name of an attribute has only letters, digits, '_' and '-'");
        }
        let attribute = if value.is_array() {
            let texts = value.list(|item| item.text().map(Box::from))?;
            AttributeValue::Several(texts.into())
        } else {
            AttributeValue::One(value.text()?.into())
        };
        Some((name.into(), attribute))
    };
    table.entries().into_iter().filter_map(read).collect()
}

fn selector(value: &Value<'_>) -> Option<ServiceSelector> {
    match value.text()? {
        "*" => Some(ServiceSelector::Any),
        _ => value.parse().map(ServiceSelector::Named),
    }
}

fn methods(value: &Value<'_>) -> Option<Methods> {
    match value.array()?.as_slice() {
        [only] if only.text() == Some("*") => Some(Methods::Any),
        _ => value.list(Value::parse).map(Methods::Listed),
    }
}

/// A certificate on file, called `default_id` unless it says otherwise.
pub(super) fn certificate<'d>(
    mut table: TableReader<'d>,
    default_id: Option<&str>,
) -> Option<CredentialDraft<'d>> {
    let id = named(&mut table, default_id);
    let given: Vec<&str> = RULES.into_iter().filter(|key| table.has(key)).collect();
    let rules = [
        table.optional("uri", |value| value.convert(CertificateRule::uri)),
        table.optional("dns", |value| value.convert(CertificateRule::dns)),
        table.optional("subject", subject),
        table.optional("spki", |value| value.convert(digest)).map(CertificateRule::Spki),
        table.optional("sha256", |value| value.convert(digest)).map(CertificateRule::Sha256),
    ];
    let multi_valued = match table.optional("multi_valued", Value::boolean) {
        Some(true) => MultiValued::Admit,
        Some(false) | None => MultiValued::Refuse,
    };
    let issuer = table.optional("issuer", Value::parse);
    let secret = match given.as_slice() {
        [_] => rules
            .into_iter()
            .flatten()
            .next()
            .and_then(|rule| on_file(&table, CertificatesOnFile { rule, multi_valued, issuer })),
        [] => {
            table.problem(format!(
                "it must say which certificates it stands for: one of {}",
                RULES.join(", ")
            ));
            None
        }
        several => {
            table.problem(format!(
                "it must have exactly one of {}, not {}",
                RULES.join(", "),
                several.join(" and ")
            ));
            None
        }
    };
    draft(table, CredentialKind::Mtls, id, secret)
}

/// The name that a credential has, or else `default_id`.
fn named<'d>(table: &mut TableReader<'d>, default_id: Option<&str>) -> Option<(Place<'d>, CredentialId)> {
    match table.value("id") {
        Some(value) => placed(&value),
        None => default_id.and_then(|id| {
            let id = id
                .parse()
                .map_err(|_| table.problem("it needs an `id` of its own: the app's name is too long"));
            Some((table.place(), id.ok()?))
        }),
    }
}

/// Tokens of an outside issuer, called `default_id` unless it says otherwise.
pub(super) fn token<'d>(mut table: TableReader<'d>, default_id: Option<&str>) -> Option<CredentialDraft<'d>> {
    let id = named(&mut table, default_id);
    let issuer = table.required("issuer", |value| value.convert(not_empty));
    let mut claims = BTreeMap::new();
    for name in USUAL_KEYS {
        claims.extend(table.optional(name, |value| Some((name.to_owned(), value.convert(not_empty)?))));
    }
    for (name, value) in table.table("claims").map(TableReader::entries).unwrap_or_default() {
        if let Some(wanted) = value.convert(not_empty)
            && claims.insert(name.to_owned(), wanted).is_some()
        {
            value.problem("the claim is asked for twice");
        }
    }
    let rule = issuer.map(|issuer| TokenRule::new(&issuer, claims));
    let rule = rule.and_then(|rule| rule.map_err(|error| table.problem(error.to_string())).ok());
    draft(table, CredentialKind::Token, id, rule.map(CredentialSecret::Token))
}

fn not_empty(text: &str) -> Result<String, &'static str> {
    if text.is_empty() { Err("expected a text, found nothing") } else { Ok(text.to_owned()) }
}

/// The certificates; none if there could never be one.
fn on_file(table: &TableReader<'_>, certificates: CertificatesOnFile) -> Option<CredentialSecret> {
    let CertificatesOnFile { rule, multi_valued, issuer } = &certificates;
    if let (CertificateRule::Subject(names), MultiValued::Refuse) = (rule, multi_valued)
        && names.iter().any(RelativeName::is_multi_valued)
    {
        table
            .problem("`subject` lists attributes that share a relative name; that needs multi_valued = true");
        return None;
    }
    if let (Some(named), Some(issuer)) = (rule.trust_domain(), issuer)
        && named != *issuer
    {
        table.problem(format!("`uri` lies in the trust domain {named}, which `issuer` does not sign for"));
        return None;
    }
    Some(CredentialSecret::Certificate(certificates))
}

/// An API key on file.
pub(super) fn api_key(mut table: TableReader<'_>) -> Option<CredentialDraft<'_>> {
    let secret = table.required("hash", |value| value.convert(key_hash));
    let id = match secret {
        // Its name is no part of it.
        Some(CredentialSecret::ImportedKey { .. }) => table.required("id", placed),
        Some(_) | None => table.required("id", |value| Some((value.place(), value.convert(key_id)?))),
    };
    draft(table, CredentialKind::ApiKey, id, secret)
}

/// A client secret on file.
pub(super) fn client_secret(mut table: TableReader<'_>) -> Option<CredentialDraft<'_>> {
    let id = table.required("id", |value| Some((value.place(), value.convert(key_id)?)));
    let secret = table.required("hash", |value| value.convert(secret_hash));
    draft(table, CredentialKind::ClientSecret, id, secret)
}

/// A key on file with which a client signs for itself.
pub(super) fn client_key(mut table: TableReader<'_>) -> Option<CredentialDraft<'_>> {
    let words = [("ES256", SignatureAlgorithm::EcdsaP256Sha256), ("EdDSA", SignatureAlgorithm::Ed25519)];
    let id = table.required("id", placed);
    let algorithm = table.required("algorithm", |value| value.word(&words));
    let key = match algorithm {
        Some(algorithm) => {
            table.required("public_key", |value| value.convert(|text| SignatureKey::public(algorithm, text)))
        }
        None => {
            // Of which kind it has to be is not known, so it is neither missing nor unknown.
            drop(table.value("public_key"));
            None
        }
    };
    draft(table, CredentialKind::ClientKey, id, key.map(CredentialSecret::ClientKey))
}

/// A signature key on file.
pub(super) fn signature(mut table: TableReader<'_>) -> Option<CredentialDraft<'_>> {
    let words = SignatureAlgorithm::ALL.map(|algorithm| (algorithm.as_str(), algorithm));
    let algorithm = table.required("algorithm", |value| value.word(&words));
    let key = match algorithm {
        Some(SignatureAlgorithm::HmacSha256) => {
            table.required("secret", |value| value.convert(sealed_secret))
        }
        Some(algorithm) => {
            table.required("public_key", |value| value.convert(|text| SignatureKey::public(algorithm, text)))
        }
        None => {
            // Which of them it needs is not known, so neither is missing or unknown.
            drop((table.value("secret"), table.value("public_key")));
            None
        }
    };
    let id = if algorithm == Some(SignatureAlgorithm::HmacSha256) {
        // Made here, together with its secret, which the id is part of.
        table.required("id", |value| Some((value.place(), value.convert(key_id)?)))
    } else {
        table.required("id", placed)
    };
    draft(table, CredentialKind::Signature, id, key.map(CredentialSecret::Signature))
}

/// What a credential is bound to; a certificate is one itself, and is not bound to another.
fn bindings(table: &mut TableReader<'_>, kind: CredentialKind) -> Option<Box<Bindings>> {
    let from = table.optional("from", |value| value.list(Value::parse));
    let certificate = (kind != CredentialKind::Mtls)
        .then(|| table.optional("certificate", |value| value.convert(CertificateRule::uri)))
        .flatten();
    // The `issuer` of tokens is whoever has issued them, and of certificates whoever has signed them.
    let issuer = (!matches!(kind, CredentialKind::Mtls | CredentialKind::Token))
        .then(|| table.optional("issuer", Value::parse))
        .flatten();
    let sni = table.optional("sni", |value| value.convert(server_name));
    let hours = table.optional("hours", Value::parse);
    let bindings = Bindings { from, certificate, issuer, sni, hours };
    (bindings != Bindings::default()).then(|| Box::new(bindings))
}

fn server_name(text: &str) -> Result<Box<str>, &'static str> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    // Nobody can ask for an address (RFC 6066 §3).
    let is_name =
        text.split('.').all(|label| !label.is_empty()) && text.bytes().any(|byte| byte.is_ascii_lowercase());
    if is_name && text.bytes().all(plain) {
        Ok(text.into())
    } else {
        Err("expected a DNS name in lower case")
    }
}

fn draft<'d>(
    mut table: TableReader<'d>,
    kind: CredentialKind,
    id: Option<(Place<'d>, CredentialId)>,
    secret: Option<CredentialSecret>,
) -> Option<CredentialDraft<'d>> {
    let status = credential_status(&mut table);
    let created = table.optional("created", |value| value.timestamp());
    let not_before = table.optional("not_before", |value| value.timestamp());
    let expires = table.optional("expires", |value| value.timestamp());
    if not_before.zip(expires).is_some_and(|(from, to)| from >= to) {
        table.problem("`expires` does not lie after `not_before`");
    }
    let bindings = bindings(&mut table, kind);
    let (scopes, grants) = (table.value("scopes"), table.value("grants"));
    table.finish();
    let (place, id) = id?;
    Some(CredentialDraft {
        place,
        id,
        secret,
        status,
        created,
        not_before,
        expires,
        scopes,
        grants,
        bindings,
    })
}

fn subject(value: &Value<'_>) -> Option<CertificateRule> {
    let names = value.list(relative_name)?;
    if names.is_empty() {
        value.problem("expected at least one attribute: an empty list matches nobody");
        return None;
    }
    Some(CertificateRule::Subject(names))
}

/// One attribute, or a list of those that share a relative name.
fn relative_name(value: &Value<'_>) -> Option<RelativeName> {
    if !value.is_array() {
        return attribute(value.table()?).map(RelativeName::from);
    }
    let attributes = value.list(|item| attribute(item.table()?))?;
    if attributes.len() < 2 {
        value.problem("expected several attributes: one alone stands without brackets of its own");
        return None;
    }
    let name = RelativeName::new(attributes)?;
    if name.attributes().windows(2).any(|pair| matches!(pair, [left, right] if left == right)) {
        value.problem("the same attribute stands twice");
        return None;
    }
    Some(name)
}

fn attribute(mut table: TableReader<'_>) -> Option<Attribute> {
    let oid = table.required("oid", |value| value.convert(oid));
    let value = table.required("value", |value| value.convert(attribute_value));
    table.finish();
    Some(Attribute { oid: oid?, value: value? })
}

fn attribute_value(text: &str) -> Result<String, &'static str> {
    if text.is_empty() { Err("expected a value, found nothing") } else { Ok(text.to_owned()) }
}

/// A dotted object identifier, or one of the short names.
fn oid(text: &str) -> Result<String, String> {
    if let Some(oid) = Attribute::oid_of(text) {
        return Ok(oid.to_owned());
    }
    let is_arc = |arc: &str| {
        let digits = !arc.is_empty() && arc.bytes().all(|byte| byte.is_ascii_digit());
        digits && (arc == "0" || !arc.starts_with('0'))
    };
    if text.contains('.') && text.split('.').all(is_arc) {
        return Ok(text.to_owned());
    }
    let names: Vec<&str> = Attribute::short_names().collect();
    let guess = suggest::did_you_mean(text, names.iter().copied());
    Err(format!("expected a dotted object identifier or one of {}{guess}", names.join(", ")))
}

fn digest(text: &str) -> Result<[u8; 32], &'static str> {
    let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or("expected 64 hexadecimal digits")
}

/// The public part of an API key: twelve letters and digits.
fn key_id(text: &str) -> Result<CredentialId, &'static str> {
    let valid = text.len() == KEY_ID_LENGTH && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let id = if valid { text.parse().ok() } else { None };
    id.ok_or("expected the 12 letters and digits of a key's id")
}

/// `hmac-sha256:<pepper>:<64 hexadecimal digits>`. Nothing of it is ever repeated in a message.
fn key_hash(text: &str) -> Result<CredentialSecret, &'static str> {
    if let Some((hash, pepper)) = hashed(text, "hmac-sha256-of-sha256:") {
        return Ok(CredentialSecret::ImportedKey { hash, pepper });
    }
    let (hash, pepper) = hashed(text, "hmac-sha256:").ok_or(EXPECTED_HASH)?;
    Ok(CredentialSecret::ApiKey { hash, pepper })
}

/// The same of a client secret.
fn secret_hash(text: &str) -> Result<CredentialSecret, &'static str> {
    let (hash, pepper) = hashed(text, "hmac-sha256:").ok_or(EXPECTED_HASH)?;
    Ok(CredentialSecret::ClientSecret { hash, pepper })
}

fn hashed(text: &str, method: &str) -> Option<([u8; 32], Arc<str>)> {
    let (pepper, digits) = text.strip_prefix(method)?.split_once(':')?;
    let hash = digest(digits).ok().filter(|_| is_pepper(pepper))?;
    Some((hash, pepper.into()))
}

const EXPECTED_HASH: &str = "expected hmac-sha256:<name of the pepper>:<64 hexadecimal digits>";

/// `aes-256-gcm:<pepper>:<base64url>`. Nothing of it is ever repeated in a message.
fn sealed_secret(text: &str) -> Result<SignatureKey, &'static str> {
    let read = || {
        let (pepper, digits) = text.strip_prefix("aes-256-gcm:")?.split_once(':')?;
        let sealed = BASE64URL_NOPAD.decode(digits.as_bytes()).ok()?;
        let fits = is_pepper(pepper) && (SHORTEST_SEALED..=LONGEST_SEALED).contains(&sealed.len());
        fits.then(|| SignatureKey::Sealed { pepper: pepper.into(), sealed: sealed.into() })
    };
    read().ok_or("expected aes-256-gcm:<name of the pepper>:<base64url>, as `postern key create` writes it")
}

fn is_pepper(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !name.is_empty() && name.len() <= LONGEST_PEPPER && name.bytes().all(allowed)
}

/// A nonce of 12 bytes, a tag of 16, and a secret of at least as many.
const SHORTEST_SEALED: usize = 12 + 16 + 16;

/// No secret that is worth having is longer.
const LONGEST_SEALED: usize = 1024;

const KEY_ID_LENGTH: usize = 12;

const LONGEST_PEPPER: usize = 32;

const RULES: [&str; 5] = ["uri", "dns", "subject", "spki", "sha256"];
