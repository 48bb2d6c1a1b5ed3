//! The signature base (RFC 9421 §2.5): the very bytes that are signed, one line for each covered component.
//!
//! **Invariant:** no value of a component can end its line, so nothing that a caller writes into a field is ever taken for
//! another component.

use data_encoding::BASE64;
use sfv::{
    BareItem, Dictionary, FieldType as _, InnerList, Item, ItemSerializer, List, ListEntry, ListSerializer,
    Parser,
};

use crate::credential::Message;

/// Why there is no signature base.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BaseError {
    /// Field values outside of visible ASCII can be covered with `;bs` only.
    #[error("the value of {0} holds bytes that no signature base can; cover it with ;bs")]
    Characters(String),
    /// What is asked for is not in the request.
    #[error("{0} is covered, but it is not in the request")]
    Missing(String),
    /// It stands in the query more than once.
    #[error("{0} stands in the query more than once, so it cannot be covered by name")]
    NotOne(String),
    /// A component that no request has, or that is not known here.
    #[error("{0} cannot be covered in a request")]
    NotOfRequests(String),
    /// A component's name must be a string, and that of a field in lower case.
    #[error("{0} is no name of a component")]
    NotName(String),
    /// It is no structured field, or of no type that is known here.
    #[error("{0} cannot be read as a structured field")]
    NotStructured(String),
    /// A parameter that this component does not have, or two that exclude one another.
    #[error("{0} has parameters that do not fit it")]
    Parameters(String),
    /// The same component twice.
    #[error("{0} is covered twice")]
    Repeated(String),
    /// More components than are read.
    #[error("more than {MOST_COMPONENTS} components are covered")]
    TooMany,
}

/// More covered components than this are refused: each of them is looked for among all fields.
const MOST_COMPONENTS: usize = 32;

/// The bytes that a signature over `covered` in `message` signs. They are ASCII.
///
/// # Errors
/// The covered components have no value in this request.
pub fn signature_base(message: &Message<'_>, covered: &InnerList) -> Result<String, BaseError> {
    if covered.items.len() > MOST_COMPONENTS {
        return Err(BaseError::TooMany);
    }
    let mut base = String::with_capacity(512);
    for (at, item) in covered.items.iter().enumerate() {
        if covered.items.iter().take(at).any(|earlier| is_same(earlier, item)) {
            return Err(BaseError::Repeated(item.serialize()));
        }
        // What is handed back is the buffer itself.
        _ = ItemSerializer::with_buffer(&mut base)
            .bare_item(&item.bare_item)
            .parameters(&item.params)
            .finish();
        base.push_str(": ");
        write_value(&mut base, message, item)?;
        base.push('\n');
    }
    base.push_str("\"@signature-params\": ");
    write_parameters(&mut base, covered);
    Ok(base)
}

/// The covered components and the signature's parameters, as `Signature-Input` has them behind the label.
pub(in crate::credential) fn write_parameters(out: &mut String, covered: &InnerList) {
    let mut list = ListSerializer::with_buffer(out);
    let mut inner = list.inner_list();
    inner.items(&covered.items);
    inner.finish().parameters(&covered.params);
}

/// > Component identifiers […] are considered to be the same if they have the same name and the same set of parameters,
/// > regardless of order. — RFC 9421 §2
fn is_same(one: &Item, other: &Item) -> bool {
    one.bare_item == other.bare_item && one.params == other.params
}

fn write_value(base: &mut String, message: &Message<'_>, item: &Item) -> Result<(), BaseError> {
    let Some(name) = item.bare_item.as_string().map(|name| name.as_str()) else {
        return Err(BaseError::NotName(item.serialize()));
    };
    match name.strip_prefix('@') {
        Some("query-param") => return write_query_parameter(base, message, item),
        Some(derived) if item.params.is_empty() => write_derived(base, message, derived, item)?,
        Some(_) => return Err(BaseError::Parameters(item.serialize())),
        None => return write_field(base, message, name, item),
    }
    Ok(())
}

fn write_derived(base: &mut String, message: &Message<'_>, name: &str, item: &Item) -> Result<(), BaseError> {
    match name {
        "method" => push_plain(base, message.method.as_bytes(), item),
        "scheme" => push_plain(base, SCHEME.as_bytes(), item),
        "authority" => push_plain(base, message.normal_authority().as_bytes(), item),
        "path" => push_plain(base, message.path.as_bytes(), item),
        "query" => {
            base.push('?');
            push_plain(base, message.query.unwrap_or_default().as_bytes(), item)
        }
        "target-uri" => {
            base.push_str(SCHEME);
            base.push_str("://");
            push_plain(base, message.normal_authority().as_bytes(), item)?;
            push_target(base, message, item)
        }
        "request-target" => push_target(base, message, item),
        _ => Err(BaseError::NotOfRequests(item.serialize())),
    }
}

const SCHEME: &str = "https";

fn push_target(base: &mut String, message: &Message<'_>, item: &Item) -> Result<(), BaseError> {
    push_plain(base, message.path.as_bytes(), item)?;
    let Some(query) = message.query else { return Ok(()) };
    base.push('?');
    push_plain(base, query.as_bytes(), item)
}

/// > If a parameter name occurs multiple times in a request, the named query parameter MUST NOT be included.
/// > — RFC 9421 §2.2.8
fn write_query_parameter(base: &mut String, message: &Message<'_>, item: &Item) -> Result<(), BaseError> {
    let wanted = match item.params.first() {
        Some((key, BareItem::String(name))) if key.as_str() == "name" && item.params.len() == 1 => {
            name.as_str()
        }
        Some(_) | None => return Err(BaseError::Parameters(item.serialize())),
    };
    let mut found = None;
    for pair in message.query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if form_encoded(&form_decoded(name)) == wanted && found.replace(value).is_some() {
            return Err(BaseError::NotOne(item.serialize()));
        }
    }
    let value = found.ok_or_else(|| BaseError::Missing(item.serialize()))?;
    base.push_str(&form_encoded(&form_decoded(value)));
    Ok(())
}

/// "application/x-www-form-urlencoded parsing" (URL Standard §5.1) of a name or value. What is no UTF-8 becomes U+FFFD.
fn form_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        bytes.push(match (byte, behind) {
            (b'+', _) => b' ',
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                rest = after;
                nibble(*high) << 4 | nibble(*low)
            }
            _ => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

const fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        _ => 0,
    }
}

/// "percent-encode after encoding" with the application/x-www-form-urlencoded percent-encode set (URL Standard §1.3), a
/// space as `%20`.
fn form_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'*' | b'-' | b'.' | b'_') {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push_str(&data_encoding::HEXUPPER.encode(&[byte]));
        }
    }
    encoded
}

/// How a field's value is to be written.
enum Form<'i> {
    /// As it is.
    Plain,
    /// `;sf`: as the structured field that it is, serialised anew.
    Structured,
    /// `;bs`: each value by itself, in base64.
    Bytes,
    /// `;key="…"`: one member of a dictionary.
    Member(&'i str),
}

fn write_field(base: &mut String, message: &Message<'_>, name: &str, item: &Item) -> Result<(), BaseError> {
    if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(BaseError::NotName(item.serialize()));
    }
    let form = form(item)?;
    let missing = || BaseError::Missing(item.serialize());
    if matches!(form, Form::Bytes) {
        return write_bytes(base, message, name).ok_or_else(missing);
    }
    if matches!(form, Form::Plain) {
        return write_plain(base, message, name, item);
    }
    let value = message.joined(name).ok_or_else(missing)?;
    let structured = match form {
        Form::Member(key) => member(&value, key),
        Form::Bytes | Form::Plain | Form::Structured => reserialized(name, &value),
    };
    base.push_str(&structured.ok_or_else(|| BaseError::NotStructured(item.serialize()))?);
    Ok(())
}

fn form(item: &Item) -> Result<Form<'_>, BaseError> {
    let mut form = Form::Plain;
    for (key, value) in &item.params {
        form = match (key.as_str(), value, form) {
            ("sf", BareItem::Boolean(true), Form::Plain) => Form::Structured,
            ("sf", BareItem::Boolean(true), Form::Member(key)) => Form::Member(key),
            ("bs", BareItem::Boolean(true), Form::Plain) => Form::Bytes,
            ("key", BareItem::String(key), Form::Plain | Form::Structured) => Form::Member(key.as_str()),
            // `req` and `tr` among them: a request has no request of its own, and its trailers come too late.
            _ => return Err(BaseError::Parameters(item.serialize())),
        };
    }
    Ok(form)
}

fn write_plain(base: &mut String, message: &Message<'_>, name: &str, item: &Item) -> Result<(), BaseError> {
    for (number, value) in message.values(name).enumerate() {
        if number > 0 {
            base.push_str(", ");
        }
        push_plain(base, value, item)?;
    }
    if message.values(name).next().is_some() { Ok(()) } else { Err(BaseError::Missing(item.serialize())) }
}

fn write_bytes(base: &mut String, message: &Message<'_>, name: &str) -> Option<()> {
    for (number, value) in message.values(name).enumerate() {
        base.push_str(if number > 0 { ", :" } else { ":" });
        base.push_str(&BASE64.encode(value));
        base.push(':');
    }
    message.values(name).next().map(|_| ())
}

/// The member of a dictionary, serialised by itself.
fn member(value: &[u8], key: &str) -> Option<String> {
    let members = crate::credential::structured::dictionary(value)?;
    match members.iter().find(|(name, _)| name.as_str() == key)?.1 {
        ListEntry::Item(item) => Some(item.serialize()),
        ListEntry::InnerList(inner) => {
            let mut text = String::new();
            write_parameters(&mut text, inner);
            Some(text)
        }
    }
}

/// > If the HTTP field type is not known […] the signer and verifier MUST NOT use this parameter. — RFC 9421 §2.1.1
fn reserialized(name: &str, value: &[u8]) -> Option<String> {
    if DICTIONARIES.contains(&name) {
        Parser::new(value).parse::<Dictionary>().ok()?.serialize()
    } else if LISTS.contains(&name) {
        Parser::new(value).parse::<List>().ok()?.serialize()
    } else if ITEMS.contains(&name) {
        Some(Parser::new(value).parse::<Item>().ok()?.serialize())
    } else {
        None
    }
}

/// Fields of requests that are registered as dictionaries.
const DICTIONARIES: [&str; 8] = [
    "accept-signature",
    "content-digest",
    "priority",
    "repr-digest",
    "signature",
    "signature-input",
    "want-content-digest",
    "want-repr-digest",
];

/// Fields of requests that are registered as lists.
const LISTS: [&str; 2] = ["accept-ch", "client-cert-chain"];

/// Fields of requests that are registered as items.
const ITEMS: [&str; 2] = ["client-cert", "sec-purpose"];

/// Appends what consists of visible ASCII, spaces and tabs; nothing else may stand in a signature base.
fn push_plain(base: &mut String, value: &[u8], item: &Item) -> Result<(), BaseError> {
    let fits = value.iter().all(|&byte| matches!(byte, b'\t' | b' '..=b'~'));
    match std::str::from_utf8(value) {
        Ok(text) if fits => {
            base.push_str(text);
            Ok(())
        }
        Ok(_) | Err(_) => Err(BaseError::Characters(item.serialize())),
    }
}
