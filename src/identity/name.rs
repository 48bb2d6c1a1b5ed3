//! Distinguished names: read strictly where they decide something, written so that no two look alike.
//!
//! **Invariant:** the text form is injective. Whatever an attribute's value contains, it is escaped, so no value can
//! pass for a separator and no two names share a text. Matching never looks at the text, only at attributes.

use x509_parser::asn1_rs::{Class, FromDer as _, Header, Tag, ToDer};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// One attribute of a distinguished name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Attribute {
    /// The type as a dotted object identifier: `2.5.4.3` is the common name.
    pub oid: String,
    /// The value.
    pub value: String,
}

impl Attribute {
    /// The dotted object identifier of a short name that LDAP defines, such as `CN` or `O` (RFC 4514 §3).
    #[must_use]
    pub fn oid_of(short_name: &str) -> Option<&'static str> {
        SHORT_NAMES.iter().find(|(name, _)| *name == short_name).map(|(_, oid)| *oid)
    }

    /// The short names that [`Self::oid_of`] knows.
    pub fn short_names() -> impl Iterator<Item = &'static str> {
        SHORT_NAMES.iter().map(|(name, _)| *name)
    }
}

/// The type of common names, as a dotted object identifier.
pub(super) const COMMON_NAME: &str = "2.5.4.3";

/// The attributes of one relative name: one of them as a rule, several where the name is multi-valued. Two are equal if they
/// have the same attributes, in whatever order: it is a set (X.501 §9.2).
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RelativeName(Vec<Attribute>);

impl RelativeName {
    /// The relative name of these attributes; none if there are none.
    #[must_use]
    pub fn new(mut attributes: Vec<Attribute>) -> Option<Self> {
        attributes.sort();
        if attributes.is_empty() { None } else { Some(Self(attributes)) }
    }

    /// Its attributes, at least one, sorted.
    #[must_use]
    pub fn attributes(&self) -> &[Attribute] {
        &self.0
    }

    /// Whether one of its attributes is of the type `oid`.
    #[must_use]
    pub fn has(&self, oid: &str) -> bool {
        self.0.iter().any(|one| one.oid == oid)
    }

    /// Whether it has several attributes.
    #[must_use]
    pub const fn is_multi_valued(&self) -> bool {
        self.0.len() > 1
    }
}

impl From<Attribute> for RelativeName {
    fn from(only: Attribute) -> Self {
        Self(vec![only])
    }
}

/// Why a distinguished name is not believed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidName {
    /// A control, bidirectional or invisible character: it would not look like what it is.
    #[error("the name's {oid} contains the character U+{:04X}, which cannot be seen", u32::from(*.character))]
    Character {
        /// The attribute's type.
        oid: String,
        /// The character.
        character: char,
    },
    /// Several attributes in one relative name, which many readers split wrongly, where no rule can admit them.
    #[error("the name has a relative name of several attributes")]
    MultiValued,
    /// A value in an encoding other than UTF8String, PrintableString or IA5String.
    #[error("the name's {oid} is neither a UTF8String nor a PrintableString nor an IA5String")]
    StringType {
        /// The attribute's type.
        oid: String,
    },
    /// Something that is no attribute, or a relative name without one (RFC 5280 §4.1.2.4): a reader that stops there takes the
    /// name for a shorter one.
    #[error("the name has a part that is no attribute, or a relative name without any")]
    Structure,
}

/// The relative names of `name`, first to last, if every attribute of them can be believed.
pub(super) fn relative_names(name: &X509Name<'_>) -> Result<Vec<RelativeName>, InvalidName> {
    name.iter_rdn()
        .map(|rdn| {
            let attributes = rdn.iter().map(attribute).collect::<Result<_, _>>()?;
            RelativeName::new(attributes).ok_or(InvalidName::Structure)
        })
        .collect()
}

/// Whether `name` has been read to its end. The parser leaves out, without a word, what comes behind a part that it does not
/// understand, so what it has understood is measured.
pub(super) fn check_whole(name: &X509Name<'_>) -> Result<(), InvalidName> {
    let of_attribute = |part: &AttributeTypeAndValue<'_>| {
        encoded(encoded(part.attr_type().as_bytes().len()) + encoded(part.attr_value().data.len()))
    };
    let understood: usize =
        name.iter_rdn().map(|relative| encoded(relative.iter().map(of_attribute).sum())).sum();
    let whole = Header::from_der(name.as_raw()).ok().and_then(|(_, header)| header.length().definite().ok());
    if whole == Some(understood) { Ok(()) } else { Err(InvalidName::Structure) }
}

/// The length in DER of what has a content of this length and a tag of one byte.
const fn encoded(content: usize) -> usize {
    let mut length_bytes = 1;
    if content > 0x7f {
        let mut rest = content;
        while rest > 0 {
            length_bytes += 1;
            rest >>= 8;
        }
    }
    1 + length_bytes + content
}

fn attribute(part: &AttributeTypeAndValue<'_>) -> Result<Attribute, InvalidName> {
    let oid = part.attr_type().to_id_string();
    let Some(value) = plain_text(part) else { return Err(InvalidName::StringType { oid }) };
    match value.chars().find(|&character| is_unseen(character)) {
        Some(character) => Err(InvalidName::Character { oid, character }),
        None => Ok(Attribute { oid, value: value.to_owned() }),
    }
}

/// The value as text, if its encoding leaves no doubt about it.
fn plain_text<'a>(part: &'a AttributeTypeAndValue<'_>) -> Option<&'a str> {
    let value = part.attr_value();
    if value.class() != Class::Universal || value.header.is_constructed() {
        return None;
    }
    let text = std::str::from_utf8(value.data).ok()?;
    match value.tag() {
        Tag::Utf8String => Some(text),
        Tag::Ia5String | Tag::PrintableString if text.is_ascii() => Some(text),
        _ => None,
    }
}

/// The text form of RFC 4514: last relative name first, the attributes of one with `+` between them, as they are encoded.
/// Takes any name, also one that [`relative_names`] refuses.
pub(super) fn to_text(name: &X509Name<'_>) -> String {
    let mut relative: Vec<String> =
        name.iter_rdn().map(|rdn| rdn.iter().map(attribute_text).collect::<Vec<_>>().join("+")).collect();
    relative.reverse();
    relative.join(",")
}

/// A type without a short name, and a value that is no text, are written as `#` and the value's encoding in
/// hexadecimal digits (RFC 4514 §2.4).
fn attribute_text(part: &AttributeTypeAndValue<'_>) -> String {
    let oid = part.attr_type().to_id_string();
    let short = SHORT_NAMES.iter().find(|(_, known)| *known == oid).map(|(name, _)| *name);
    match (short, plain_text(part)) {
        (Some(name), Some(value)) => format!("{name}={}", escape(value)),
        (name, _) => format!("{}=#{}", name.unwrap_or(&oid), der_hex(part)),
    }
}

fn der_hex(part: &AttributeTypeAndValue<'_>) -> String {
    let value = part.attr_value();
    match value.to_der_vec() {
        Ok(der) => data_encoding::HEXLOWER.encode(&der),
        Err(_) => format!("{:02x}{}", value.tag().0, data_encoding::HEXLOWER.encode(value.data)),
    }
}

fn escape(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut text = String::with_capacity(value.len());
    for (position, character) in value.chars().enumerate() {
        match character {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=' => text.extend(['\\', character]),
            '#' if position == 0 => text.push_str("\\#"),
            ' ' if position == 0 || position == last => text.push_str("\\ "),
            _ if is_unseen(character) => {
                for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                    text.push('\\');
                    data_encoding::HEXUPPER.encode_append(&[byte], &mut text);
                }
            }
            _ => text.push(character),
        }
    }
    text
}

/// Whether a character cannot be seen, or changes how its neighbours are seen: control and format characters, line
/// separators, fillers, variation selectors and tags.
pub(super) const fn is_unseen(character: char) -> bool {
    matches!(character,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}'
        | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// RFC 4514 §3.
const SHORT_NAMES: [(&str, &str); 9] = [
    ("C", "2.5.4.6"),
    ("CN", "2.5.4.3"),
    ("DC", "0.9.2342.19200300.100.1.25"),
    ("L", "2.5.4.7"),
    ("O", "2.5.4.10"),
    ("OU", "2.5.4.11"),
    ("ST", "2.5.4.8"),
    ("STREET", "2.5.4.9"),
    ("UID", "0.9.2342.19200300.100.1.1"),
];

#[cfg(test)]
mod tests {
    use x509_parser::asn1_rs::{Any, Length, Oid};
    use x509_parser::x509::RelativeDistinguishedName;

    use super::*;

    type Part<'a> = (&'a str, Tag, &'a [u8]);

    fn name<'a>(relative: &[&[Part<'a>]]) -> X509Name<'a> {
        let part = |&(short, tag, value): &Part<'a>| {
            let numbers: Vec<u64> = Attribute::oid_of(short)
                .unwrap_or(short)
                .split('.')
                .map(|arc| arc.parse().unwrap())
                .collect();
            let header = Header::new(Class::Universal, false, tag, Length::Definite(value.len()));
            AttributeTypeAndValue::new(Oid::from(&numbers).unwrap(), Any::new(header, value))
        };
        X509Name::new(
            relative
                .iter()
                .map(|parts| parts.iter().map(part).collect())
                .collect::<Vec<RelativeDistinguishedName<'_>>>(),
            &[],
        )
    }

    fn utf8<'a>(short: &'a str, value: &'a str) -> Part<'a> {
        (short, Tag::Utf8String, value.as_bytes())
    }

    /// Names that other tools print alike.
    fn lookalikes() -> Vec<X509Name<'static>> {
        vec![
            name(&[]),
            name(&[&[utf8("CN", "admin")]]),
            name(&[&[utf8("CN", "billing")], &[utf8("O", "admin")]]),
            name(&[&[utf8("O", "admin")], &[utf8("CN", "billing")]]),
            name(&[&[utf8("CN", "billing, O=admin")]]),
            name(&[&[utf8("CN", "billing,O=admin")]]),
            name(&[&[utf8("CN", "billing + O=admin")]]),
            name(&[&[utf8("O", "admin"), utf8("CN", "billing")]]),
            name(&[&[utf8("CN", "billing"), utf8("O", "admin")]]),
            name(&[&[utf8("CN", "billing"), utf8("O", "admin")], &[utf8("C", "CH")]]),
            name(&[&[utf8("CN", "billing")], &[utf8("O", "admin"), utf8("C", "CH")]]),
            name(&[&[utf8("CN", "billing"), utf8("O", "admin"), utf8("C", "CH")]]),
            name(&[&[utf8("CN", "billing+O=admin")]]),
            name(&[&[utf8("CN", "billing\\+O=admin")]]),
            name(&[&[utf8("O", "a"), utf8("O", "b")]]),
            name(&[&[utf8("O", "b"), utf8("O", "a")]]),
            name(&[&[utf8("O", "a")], &[utf8("O", "b")]]),
            name(&[&[utf8("O", "a+b")]]),
            name(&[&[utf8("O", "a"), utf8("O", "a")]]),
            name(&[&[utf8("O", "a"), utf8("O", "")]]),
            name(&[&[utf8("O", "a")]]),
            name(&[&[utf8("O", "a"), utf8("2.5.4.5", "b")]]),
            name(&[&[utf8("CN", "admin")], &[utf8("CN", "billing")]]),
            name(&[&[utf8("CN", "billing")], &[utf8("CN", "admin")]]),
            name(&[&[utf8("CN", "admin\0.evil")]]),
            name(&[&[utf8("CN", "a\r\nX-Admin: 1")]]),
            name(&[&[utf8("CN", "admi\u{200b}n")]]),
            name(&[&[utf8("CN", "\u{430}dmin")]]),
            name(&[&[utf8("CN", " admin")]]),
            name(&[&[utf8("CN", "admin ")]]),
            name(&[&[utf8("CN", "#0c05")]]),
            name(&[&[utf8("CN", "\\00")]]),
            name(&[&[("CN", Tag::BmpString, b"\0a\0d\0m\0i\0n")]]),
            name(&[&[("CN", Tag::T61String, b"admin")]]),
            name(&[&[("CN", Tag::UniversalString, b"\0\0\0a")]]),
            name(&[&[("CN", Tag::Utf8String, b"\xff")]]),
            name(&[&[("CN", Tag::Ia5String, "\u{430}dmin".as_bytes())]]),
            name(&[&[utf8("2.5.4.5", "admin")]]),
            name(&[&[("2.5.4.5", Tag::PrintableString, b"admin")]]),
        ]
    }

    #[test]
    fn no_two_names_share_a_text() {
        let texts: std::collections::BTreeSet<String> = lookalikes().iter().map(to_text).collect();

        assert_eq!(texts.len(), lookalikes().len(), "{texts:#?}");
    }

    #[test]
    fn a_text_never_holds_a_raw_control_character() {
        for text in lookalikes().iter().map(to_text) {
            assert!(!text.chars().any(is_unseen), "{text:?}");
        }
    }

    #[test]
    fn names_are_written_as_rfc_4514_says() {
        let written = |relative: &[&[Part<'_>]]| to_text(&name(relative));

        assert_eq!(written(&[&[utf8("O", "Acme")], &[utf8("CN", "a, \"b\"")]]), "CN=a\\, \\\"b\\\",O=Acme");
        assert_eq!(written(&[&[utf8("O", "a"), utf8("O", "b")], &[utf8("CN", "x")]]), "CN=x,O=a+O=b");
        assert_eq!(written(&[&[utf8("OU", "Sales"), utf8("CN", "J. + S.")]]), "OU=Sales+CN=J. \\+ S.");
        assert_eq!(written(&[&[utf8("CN", "#x")]]), "CN=\\#x");
        assert_eq!(written(&[&[utf8("CN", " ")]]), "CN=\\ ");
        assert_eq!(written(&[&[utf8("CN", "a\0")]]), "CN=a\\00");
        assert_eq!(written(&[&[("2.5.4.5", Tag::PrintableString, b"42")]]), "2.5.4.5=#13023432");
    }

    #[test]
    fn what_cannot_be_read_one_way_only_is_refused() {
        let read = |relative: &[&[Part<'_>]]| relative_names(&name(relative));
        let unseen = |character| Err(InvalidName::Character { oid: "2.5.4.3".to_owned(), character });
        let kind = Err(InvalidName::StringType { oid: "2.5.4.3".to_owned() });

        assert_eq!(read(&[&[utf8("CN", "admin\0.evil")]]), unseen('\0'));
        assert_eq!(read(&[&[utf8("CN", "a\r\nX-Admin: 1")]]), unseen('\r'));
        assert_eq!(read(&[&[utf8("CN", "admi\u{200b}n")]]), unseen('\u{200b}'));
        assert_eq!(read(&[&[utf8("CN", "a\u{202e}b")]]), unseen('\u{202e}'));
        assert_eq!(read(&[&[]]), Err(InvalidName::Structure));
        assert_eq!(read(&[&[utf8("O", "a")], &[]]), Err(InvalidName::Structure));
        for (tag, value) in [
            (Tag::BmpString, b"\0a".as_slice()),
            (Tag::T61String, b"a"),
            (Tag::UniversalString, b"\0\0\0a"),
            (Tag::NumericString, b"1"),
            (Tag::Utf8String, b"\xff"),
            (Tag::Ia5String, b"\xd0\xb0"),
        ] {
            assert_eq!(read(&[&[("CN", tag, value)]]), kind, "{tag}");
            assert_eq!(
                read(&[&[utf8("O", "a"), ("CN", tag, value)]]),
                kind,
                "{tag}, beside another attribute"
            );
        }
        assert_eq!(read(&[&[utf8("O", "a"), utf8("CN", "b\0")]]), unseen('\0'), "beside another attribute");
    }

    #[test]
    fn attributes_keep_their_order_and_their_letters() {
        let found = relative_names(&name(&[&[utf8("O", "Acme")], &[utf8("CN", "\u{430}dmin")]])).unwrap();

        assert_eq!(found, [RelativeName::from(of("O", "Acme")), of("CN", "\u{430}dmin").into()]);
    }

    #[test]
    fn lengths_are_counted_as_der_writes_them() {
        for content in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000] {
            let value = vec![b'a'; content];
            let header = Header::new(Class::Universal, false, Tag::Utf8String, Length::Definite(content));

            assert_eq!(encoded(content), Any::new(header, &value).to_der_vec().unwrap().len(), "{content}");
        }
    }

    #[test]
    fn a_relative_name_is_a_set() {
        let read = |relative: &[&[Part<'_>]]| relative_names(&name(relative)).unwrap();
        let (a, b) = (utf8("O", "a"), utf8("O", "b"));

        assert_eq!(read(&[&[a, b]]), read(&[&[b, a]]));
        assert_eq!(read(&[&[a, b]]), [RelativeName::new(vec![of("O", "a"), of("O", "b")]).unwrap()]);
        for other in
            [&[&[a][..], &[b]][..], &[&[a]], &[&[a, b, b]], &[&[a, utf8("OU", "b")]], &[&[a, b], &[a]]]
        {
            assert_ne!(read(&[&[a, b]]), read(other));
        }
        assert!(read(&[&[a, b]])[0].is_multi_valued() && !read(&[&[a]])[0].is_multi_valued());
    }

    fn of(short: &str, value: &str) -> Attribute {
        Attribute { oid: Attribute::oid_of(short).unwrap().to_owned(), value: value.to_owned() }
    }
}
