//! DER written by hand: whatever is asked for, right or wrong.

/// One value: tag, length, content.
pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut bytes = vec![tag];
    match length {
        0..=0x7f => bytes.push(u8::try_from(length).unwrap()),
        0x80..=0xff => bytes.extend([0x81, u8::try_from(length).unwrap()]),
        _ => bytes.extend([&[0x82][..], &u16::try_from(length).unwrap().to_be_bytes()].concat()),
    }
    bytes.extend(content);
    bytes
}

pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(SEQUENCE, &parts.concat())
}

pub(crate) fn oid(dotted: &str) -> Vec<u8> {
    let arcs: Vec<u64> = dotted.split('.').map(|arc| arc.parse().unwrap()).collect();
    let mut content = Vec::new();
    let first = arcs[0] * 40 + arcs[1];
    for arc in std::iter::once(first).chain(arcs[2..].iter().copied()) {
        let mut septets = vec![u8::try_from(arc & 0x7f).unwrap()];
        let mut rest = arc >> 7;
        while rest > 0 {
            septets.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
            rest >>= 7;
        }
        septets.reverse();
        content.extend(septets);
    }
    tlv(0x06, &content)
}

pub(crate) fn bits(content: &[u8]) -> Vec<u8> {
    tlv(0x03, &[&[0], content].concat())
}

pub(crate) fn integer(content: &[u8]) -> Vec<u8> {
    tlv(0x02, content)
}

/// A distinguished name, each attribute in a relative name of its own.
pub(crate) fn name(attributes: &[(&str, u8, &[u8])]) -> Vec<u8> {
    relative_names(&attributes.iter().map(std::slice::from_ref).collect::<Vec<_>>())
}

/// A distinguished name from relative names.
pub(crate) fn relative_names(names: &[&[(&str, u8, &[u8])]]) -> Vec<u8> {
    let attribute = |&(kind, tag, value): &(&str, u8, &[u8])| sequence(&[&oid(kind), &tlv(tag, value)]);
    let relative =
        |parts: &&[(&str, u8, &[u8])]| tlv(SET, &parts.iter().map(attribute).collect::<Vec<_>>().concat());
    tlv(SEQUENCE, &names.iter().map(relative).collect::<Vec<_>>().concat())
}

/// A point in time as certificates write it.
pub(crate) fn time(unix: i64) -> Vec<u8> {
    let text = postern::clock::Timestamp::from_unix(unix).to_string();
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    if digits.as_str() < "2050" {
        tlv(0x17, format!("{}Z", &digits[2..]).as_bytes())
    } else {
        tlv(0x18, format!("{digits}Z").as_bytes())
    }
}

pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
pub(crate) const UTF8: u8 = 0x0c;
pub(crate) const PRINTABLE: u8 = 0x13;
pub(crate) const T61: u8 = 0x14;
pub(crate) const BMP: u8 = 0x1e;

pub(crate) const CN: &str = "2.5.4.3";
pub(crate) const C: &str = "2.5.4.6";
pub(crate) const O: &str = "2.5.4.10";
