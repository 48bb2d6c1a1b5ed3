//! The corpus: each rule broken once, with the reason for which the chain must be refused.

use std::sync::Arc;

use postern::pki::Usage;

use crate::der::{
    BMP, C, CN, O, PRINTABLE, SEQUENCE, SET, T61, UTF8, bits, integer, name, oid, relative_names, sequence,
    tlv,
};
use crate::family::{DAY, Family, HOUR, ID, KEYS, NOW, named, signer};
use crate::forge::{
    AKI, ANY_PURPOSE, CERT_SIGN, CLIENT_AUTH, CODE_SIGNING, CONSTRAINTS, CRL_SIGN, DIGITAL_SIGNATURE,
    DIRECTORY, DNS, EMAIL, Extension, IP, KEY_AGREEMENT, KEY_ENCIPHERMENT, KEY_USAGE, Key, NAME_CONSTRAINTS,
    POLICIES, PURPOSES, SAN, SERVER_AUTH, SKI, URI, authority, constraints, ec_spki, general_names,
    key_usage, purposes, rsa_spki,
};

/// What spoils a good family, and what must then be said of it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) spoil: Vary,
    pub(crate) reason: &'static str,
}

pub(crate) type Vary = fn(&mut Family);

const fn case(name: &'static str, reason: &'static str, spoil: Vary) -> Case {
    Case { name, spoil, reason }
}

const UNKNOWN_ISSUER: &str = "the chain leads to no root of its trust domain acme.test";
const BAD_SIGNATURE: &str = "a signature in the chain does not hold";
const WRONG_USAGE: &str = "the leaf's extended key usage does not allow this use";
const NO_SERIAL: &str = "the serial number is not positive, padded or longer than 20 bytes";
const NAME_CONSTRAINT: &str = "the chain is invalid: NameConstraintViolation";
const PATH_LENGTH: &str = "the chain is invalid: PathLenConstraintViolated";
const WEAK: &str = "the certificate's key is of a kind or length that is not relied on";
const UNSUPPORTED: &str = "a signature in the chain is by an algorithm that is not relied on";
const NO_ATTRIBUTE: &str = "the name has a part that is no attribute, or a relative name without any";
const MALFORMED: &str = "the certificate is malformed";
const NO_SIGNER: &str =
    "an intermediate certificate may not sign this: its key usage does not allow signing certificates";
const NO_ROOT: &str = "root number 1 of the bundle of acme.test cannot be used";

/// X509-SVID §2 to §5: what a leaf must be.
pub(crate) const LEAVES: &[Case] = &[
    case("XV-1 a leaf that is an authority", "the certificate is that of an authority", |f| {
        f.leaf.set(CONSTRAINTS, true, authority(None));
    }),
    case(
        "XV-2 a leaf that may sign certificates",
        "the key may sign certificates or revocation lists",
        |f| {
            f.leaf.set(KEY_USAGE, true, key_usage(&[DIGITAL_SIGNATURE, CERT_SIGN]));
        },
    ),
    case(
        "XV-3 a leaf that may sign revocation lists",
        "the key may sign certificates or revocation lists",
        |f| {
            f.leaf.set(KEY_USAGE, true, key_usage(&[DIGITAL_SIGNATURE, CRL_SIGN]));
        },
    ),
    case("XV-4 no alternative name", "the certificate carries no URI, so no SPIFFE ID", |f| {
        f.leaf.without(SAN)
    }),
    case("XV-4 only a DNS name", "the certificate carries no URI, so no SPIFFE ID", |f| {
        f.leaf.names(&[(DNS, b"orders.acme.test")]);
    }),
    case("XV-4 two SPIFFE IDs", "the certificate carries 2 URIs, where exactly one is allowed", |f| {
        f.leaf.names(&[(URI, ID), (URI, b"spiffe://acme.test/admin")]);
    }),
    case(
        "XV-4 the same SPIFFE ID twice",
        "the certificate carries 2 URIs, where exactly one is allowed",
        |f| {
            f.leaf.names(&[(URI, ID), (URI, ID)]);
        },
    ),
    case("XV-4 another URI first", "the certificate carries 2 URIs, where exactly one is allowed", |f| {
        f.leaf.names(&[(URI, b"https://acme.test/orders"), (URI, ID)]);
    }),
    case("XV-5 another scheme", "a SPIFFE ID begins with 'spiffe://'", |f| {
        f.leaf.names(&[(URI, b"https://acme.test/orders")]);
    }),
    case("a SPIFFE ID as a DNS name", "a DNS name has other characters", |f| f.leaf.names(&[(DNS, ID)])),
    case("a SPIFFE ID as an e-mail address", "the certificate carries no URI, so no SPIFFE ID", |f| {
        f.leaf.names(&[(EMAIL, ID)]);
    }),
    case("XV-6 the trust domain's own ID", "the ID names a trust domain, not a workload", |f| {
        f.leaf.names(&[(URI, b"spiffe://acme.test")]);
    }),
    case("XV-6 the root path", "a SPIFFE ID does not end with '/'", |f| {
        f.leaf.names(&[(URI, b"spiffe://acme.test/")]);
    }),
    case("XV-8 an unknown trust domain", "the trust domain other.test is not trusted", |f| {
        f.leaf.names(&[(URI, b"spiffe://other.test/orders")]);
    }),
    case("XV-9 an expired leaf", "a certificate of the chain expired 2026-11-22T05:20:59Z", |f| {
        f.leaf.not_after = NOW - 1;
    }),
    case("XV-9 a leaf that is not valid yet", "valid only from 2026-11-22T05:21:01Z on", |f| {
        f.leaf.not_before = NOW + 1;
    }),
    case("a leaf whose validity ends before it begins", "the chain is invalid: InvalidCertValidity", |f| {
        (f.leaf.not_before, f.leaf.not_after) = (NOW + HOUR, NOW - HOUR);
    }),
    case("XI-4 an empty subject beside names that are not critical", "not marked critical", |f| {
        f.leaf.criticality(SAN, false);
    }),
    case("XI-6 no key usage", "the key usage does not say digitalSignature", |f| f.leaf.without(KEY_USAGE)),
    case("XI-6 a key usage without digitalSignature", "the key usage does not say digitalSignature", |f| {
        f.leaf.set(KEY_USAGE, true, key_usage(&[KEY_AGREEMENT]));
    }),
    case("XI-6 a key usage that is not critical", "the key usage is not marked critical", |f| {
        f.leaf.criticality(KEY_USAGE, false);
    }),
    case("XI-7 a server's leaf as a client", WRONG_USAGE, |f| {
        f.leaf.set(PURPOSES, false, purposes(&[SERVER_AUTH]));
    }),
    case("XI-7 a client's leaf as a server", WRONG_USAGE, |f| {
        f.leaf.set(PURPOSES, false, purposes(&[CLIENT_AUTH]));
        f.usage = Usage::Server;
    }),
    case("a leaf for signing code", WRONG_USAGE, |f| f.leaf.set(PURPOSES, false, purposes(&[CODE_SIGNING]))),
    case("a leaf for any purpose", WRONG_USAGE, |f| f.leaf.set(PURPOSES, false, purposes(&[ANY_PURPOSE]))),
    case("a leaf for no purpose", "the chain is invalid: EmptyEkuExtension", |f| {
        f.leaf.set(PURPOSES, false, purposes(&[]));
    }),
    case("XS-3 an authority instead of a leaf", "the certificate is that of an authority", |f| {
        f.leaf = f.middles.remove(0);
        f.leaf.set(SAN, false, general_names(&[(URI, ID)]));
    }),
    case("a leaf that signed itself", UNKNOWN_ISSUER, |f| {
        f.leaf.subject = named(b"orders");
        f.leaf.issuer = named(b"orders");
        f.leaf.signer = Arc::clone(&KEYS.leaf);
        f.middles.clear();
    }),
];

/// How the leaf's names could be misread: `facts` of other proxies, by the numbers of our own list of pitfalls.
pub(crate) const READINGS: &[Case] = &[
    // What a client of such a name may be is for the rules on file: `a_multi_valued_name_is_nobodys_until_a_rule_says_so`.
    case("10 a relative name of two attributes, on a server", "a relative name of several attributes", |f| {
        f.leaf.subject = relative_names(&[&[(CN, UTF8, b"billing"), (O, UTF8, b"admin")]]);
        f.usage = Usage::Server;
    }),
    case("10 a relative name of no attributes", NO_ATTRIBUTE, |f| {
        f.leaf.subject = relative_names(&[&[(CN, UTF8, b"billing")], &[], &[(O, UTF8, b"admin")]]);
    }),
    case("10 a relative name of no attributes, at the end", NO_ATTRIBUTE, |f| {
        f.leaf.subject = relative_names(&[&[(CN, UTF8, b"billing")], &[]]);
    }),
    case("10 a name of nothing but an empty relative name", NO_ATTRIBUTE, |f| {
        f.leaf.subject = relative_names(&[&[]]);
    }),
    case("10 something else beside an attribute", NO_ATTRIBUTE, |f| {
        f.leaf.subject = sequence(&[&tlv(SET, &[attribute(b"billing"), vec![5, 0]].concat())]);
    }),
    case("10 a type without a value beside an attribute", NO_ATTRIBUTE, |f| {
        f.leaf.subject = sequence(&[&tlv(SET, &[attribute(b"billing"), sequence(&[&oid(O)])].concat())]);
    }),
    case("10 a second value in an attribute", NO_ATTRIBUTE, |f| {
        let two = sequence(&[&oid(CN), &tlv(UTF8, b"billing"), &tlv(UTF8, b"admin")]);
        f.leaf.subject = sequence(&[&tlv(SET, &two)]);
    }),
    case("10 something else between two relative names", NO_ATTRIBUTE, |f| {
        let [one, other] = [b"billing".as_slice(), b"admin"].map(|value| tlv(SET, &attribute(value)));
        f.leaf.subject = sequence(&[&one, &[5, 0], &other]);
    }),
    case("11 a string of another class", "neither a UTF8String nor a PrintableString", |f| {
        subject(f, 0x80 | UTF8, b"admin");
    }),
    case("11 a string in pieces", "neither a UTF8String nor a PrintableString", |f| {
        subject(f, 0x20 | UTF8, &tlv(UTF8, b"admin"));
    }),
    case("10 a NUL beside another attribute", "contains the character U+0000", |f| {
        f.leaf.subject = relative_names(&[&[(CN, UTF8, b"billing"), (O, UTF8, b"admin\0.evil")]]);
    }),
    case("10 a BMPString beside another attribute", "neither a UTF8String nor a PrintableString", |f| {
        f.leaf.subject = relative_names(&[&[(CN, UTF8, b"billing"), (O, BMP, b"\0a\0d")]]);
    }),
    case("11 a NUL in the name", "contains the character U+0000", |f| subject(f, UTF8, b"admin\0.evil")),
    case("11 a line break in the name", "contains the character U+000D", |f| {
        subject(f, UTF8, b"a\r\nX-Admin: 1");
    }),
    case("11 a zero-width space in the name", "contains the character U+200B", |f| {
        subject(f, UTF8, "admi\u{200b}n".as_bytes());
    }),
    case("11 a right-to-left override in the name", "contains the character U+202E", |f| {
        subject(f, UTF8, "\u{202e}nimda".as_bytes());
    }),
    case("11 a BMPString", "neither a UTF8String nor a PrintableString", |f| subject(f, BMP, b"\0a\0d")),
    case("11 a T61String", "neither a UTF8String nor a PrintableString", |f| subject(f, T61, b"admin")),
    case("11 a UTF8String that is none", "neither a UTF8String nor a PrintableString", |f| {
        subject(f, UTF8, b"\xff");
    }),
    case("13 a NUL in a DNS name", "a DNS name has other characters", |f| {
        f.leaf.names(&[(URI, ID), (DNS, b"admin.acme.test\0.evil.test")]);
    }),
    case("13 an empty DNS name", "a DNS name has other characters", |f| {
        f.leaf.names(&[(URI, ID), (DNS, b"")])
    }),
    case("15 a header in the SPIFFE ID", "a path segment has only letters", |f| {
        f.leaf.names(&[(URI, b"spiffe://acme.test/a,By=x;URI=spiffe://acme.test/admin")]);
    }),
    case("15 a line break in the SPIFFE ID", "a path segment has only letters", |f| {
        f.leaf.names(&[(URI, b"spiffe://acme.test/a\r\nX-Admin: 1")]);
    }),
    case("a URI that is no text", "the certificate is malformed", |f| {
        f.leaf.names(&[(URI, b"spiffe://acme.test/\xff")]);
    }),
    case("an alternative name of no kind", "the certificate is malformed", |f| {
        f.leaf.names(&[(URI, ID), (0x9f, b"")]);
    }),
];

/// A common name, as it stands in a relative name.
fn attribute(value: &[u8]) -> Vec<u8> {
    sequence(&[&oid(CN), &tlv(UTF8, value)])
}

fn subject(family: &mut Family, tag: u8, value: &[u8]) {
    family.leaf.subject = name(&[(CN, tag, value)]);
}

/// RFC 5280 §4: what holds for every certificate.
pub(crate) const STRUCTURES: &[Case] = &[
    case("a leaf of version 1", "the certificate is of X.509 version 1", |f| f.leaf.version = None),
    case("a leaf of version 2", "the certificate is of X.509 version 2", |f| f.leaf.version = Some(1)),
    case("an intermediate of version 1", "the chain is invalid: UnsupportedCertVersion", |f| {
        f.middles[0].version = None;
    }),
    case("a critical extension that nobody knows, on the leaf", "UnsupportedCriticalExtension", |f| {
        f.leaf.set("1.2.3.4", true, vec![5, 0]);
    }),
    case(
        "a critical extension that nobody knows, on the intermediate",
        "UnsupportedCriticalExtension",
        |f| {
            f.middles[0].set("1.2.3.4", true, vec![5, 0]);
        },
    ),
    case("a critical extension that nobody knows, on the root", "the extension 1.2.3.4 is critical", |f| {
        f.roots[0].set("1.2.3.4", true, vec![5, 0]);
    }),
    case("an unknown extension twice, on the leaf", "the extension 1.2.3.4 stands there twice", |f| {
        twice(&mut f.leaf.extensions, "1.2.3.4");
    }),
    case("two lists of alternative names", "the extension 2.5.29.17 stands there twice", |f| {
        let value = general_names(&[(URI, b"spiffe://acme.test/admin")]);
        f.leaf.extensions.push(Extension { oid: SAN, critical: true, value });
    }),
    case(
        "an unknown extension twice, on the intermediate",
        "the extension 1.2.3.4 stands there twice",
        |f| {
            twice(&mut f.middles[0].extensions, "1.2.3.4");
        },
    ),
    case("an unknown extension twice, on the root", "the extension 1.2.3.4 stands there twice", |f| {
        twice(&mut f.roots[0].extensions, "1.2.3.4");
    }),
    case(
        "basic constraints twice, on the intermediate",
        "the chain is invalid: ExtensionValueInvalid",
        |f| {
            let value = authority(None);
            f.middles[0].extensions.push(Extension { oid: CONSTRAINTS, critical: true, value });
        },
    ),
    case("a negative serial number, on the leaf", NO_SERIAL, |f| f.leaf.serial = vec![0xff, 1]),
    case("a serial number of zero, on the leaf", NO_SERIAL, |f| f.leaf.serial = vec![0]),
    case("a serial number of 21 bytes, on the leaf", NO_SERIAL, |f| f.leaf.serial = vec![1; 21]),
    case("a padded serial number, on the leaf", NO_SERIAL, |f| f.leaf.serial = vec![0, 1]),
    case("a negative serial number, on the intermediate", NO_SERIAL, |f| f.middles[0].serial = vec![0xff, 1]),
    case("a serial number of zero, on the intermediate", NO_SERIAL, |f| f.middles[0].serial = vec![0]),
    case("a serial number of 21 bytes, on the intermediate", NO_SERIAL, |f| {
        f.middles[0].serial = vec![1; 21];
    }),
    case("a byte behind the leaf", MALFORMED, |f| f.leaf.afterwards = |der| [der, vec![0]].concat()),
    case("a byte behind the intermediate", "the chain is invalid: TrailingData", |f| {
        f.middles[0].afterwards = |der| [der, vec![0]].concat();
    }),
    case("a value behind the leaf's extensions", "malformed", |f| f.leaf.beforehand = with_tail),
    case("a value behind the intermediate's extensions", "TrailingData", |f| {
        f.middles[0].beforehand = with_tail;
    }),
    case("a length that is longer than it need be, on the leaf", "the chain is invalid", |f| {
        f.leaf.afterwards = long_length;
    }),
    case("a length that is longer than it need be, on the intermediate", "the chain is invalid", |f| {
        f.middles[0].afterwards = long_length;
    }),
    case("an indefinite length", MALFORMED, |f| {
        f.leaf.afterwards = |der| [&[0x30, 0x80], &der[4..], &[0, 0]].concat();
    }),
    case("a signature with unused bits", "the chain is invalid: BadDer", |f| f.leaf.afterwards = unused_bits),
    case("a month that does not exist", MALFORMED, |f| {
        f.leaf.beforehand = |tbs| replace(&tbs, b"261122", b"261322");
    }),
    case("a true that is not DER", "the chain is invalid: BadDer", |f| {
        f.middles[0].set(CONSTRAINTS, true, sequence(&[&[0x01, 0x01, 0x01]]));
    }),
    case("a key usage that is no bit string", "malformed", |f| {
        f.leaf.set(KEY_USAGE, true, vec![0x02, 1, 0x80])
    }),
    case("no certificate at all", MALFORMED, |f| f.leaf.afterwards = |_| b"certificate".to_vec()),
    case("an empty issuer", "its distinguished name is empty", |f| {
        f.leaf.issuer = tlv(SEQUENCE, &[]);
        f.middles[0].subject = tlv(SEQUENCE, &[]);
    }),
];

fn twice(extensions: &mut Vec<Extension>, oid: &'static str) {
    let one = Extension { oid, critical: false, value: vec![5, 0] };
    extensions.extend([one.clone(), one]);
}

fn with_tail(tbs: Vec<u8>) -> Vec<u8> {
    tlv(SEQUENCE, &[&tbs[4..], &[0x05, 0x00]].concat())
}

fn long_length(der: Vec<u8>) -> Vec<u8> {
    [&[0x30, 0x83, 0x00], &der[2..]].concat()
}

fn unused_bits(mut der: Vec<u8>) -> Vec<u8> {
    let is_signature = |at: &usize| der[*at] == 3 && usize::from(der[at + 1]) == der.len() - at - 2;
    let at = (0..der.len() - 2).rev().find(is_signature).unwrap();
    der[at + 2] = 1;
    *der.last_mut().unwrap() &= 0xfe;
    der
}

pub(crate) fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

/// Keys and signatures that prove nothing any more, or that nobody here can check.
pub(crate) const STRENGTHS: &[Case] = &[
    case("an RSA key of 1024 bits, on the leaf", WEAK, |f| f.leaf.spki = rsa_spki(1024, &[1, 0, 1])),
    case("an RSA key of 2040 bits, on the leaf", WEAK, |f| f.leaf.spki = rsa_spki(2040, &[1, 0, 1])),
    case("an RSA key of 16384 bits, on the leaf", WEAK, |f| f.leaf.spki = rsa_spki(16_384, &[1, 0, 1])),
    case("an RSA exponent of 1", WEAK, |f| f.leaf.spki = rsa_spki(2048, &[1])),
    case("an even RSA exponent", WEAK, |f| f.leaf.spki = rsa_spki(2048, &[1, 0, 0])),
    case("a key on P-224, on the leaf", WEAK, |f| f.leaf.spki = ec_spki("1.3.132.0.33", &[4; 57])),
    case("a key on secp256k1", WEAK, |f| f.leaf.spki = ec_spki("1.3.132.0.10", &[4; 65])),
    case("a DSA key", WEAK, |f| {
        let parameters = sequence(&[&integer(&[7]), &integer(&[3]), &integer(&[2])]);
        f.leaf.spki =
            sequence(&[&sequence(&[&oid("1.2.840.10040.4.1"), &parameters]), &bits(&integer(&[4]))]);
    }),
    case("a key on P-224, on the intermediate", UNSUPPORTED, |f| {
        f.middles[0].spki = ec_spki("1.3.132.0.33", &[4; 57]);
    }),
    case("an RSA key of 1024 bits, on the root", "its key is neither RSA of 2048", |f| {
        f.roots[0].spki = rsa_spki(1024, &[1, 0, 1]);
    }),
    case("a key on P-224, on the root", "its key is neither RSA of 2048", |f| {
        f.roots[0].spki = ec_spki("1.3.132.0.33", &[4; 57]);
    }),
    case("ECDSA over SHA-1, on the leaf", UNSUPPORTED, |f| {
        f.leaf.algorithms = [const { "1.2.840.10045.4.1" }; 2].map(|one| Some(sequence(&[&oid(one)])));
    }),
    case("ECDSA over SHA-1, on the intermediate", UNSUPPORTED, |f| {
        f.middles[0].algorithms = [const { "1.2.840.10045.4.1" }; 2].map(|one| Some(sequence(&[&oid(one)])));
    }),
    case("RSA over MD5, on the leaf", UNSUPPORTED, |f| {
        f.leaf.algorithms = [const { "1.2.840.113549.1.1.4" }; 2].map(|one| Some(sequence(&[&oid(one)])));
    }),
    case("two opinions on the signature's algorithm", "SignatureAlgorithmMismatch", |f| {
        f.leaf.algorithms[0] = Some(sequence(&[&oid("1.2.840.10045.4.3.3")]));
    }),
];

/// RFC 5280 §6 and X509-SVID §3 to §5: what stands between leaf and root.
pub(crate) const INTERMEDIATES: &[Case] = &[
    case("XS-1 an intermediate that is no authority", "the chain is invalid: EndEntityUsedAsCa", |f| {
        f.middles[0].set(CONSTRAINTS, true, tlv(SEQUENCE, &[]));
    }),
    case("XS-1 an intermediate without basic constraints", "the chain is invalid: EndEntityUsedAsCa", |f| {
        f.middles[0].without(CONSTRAINTS);
    }),
    case("XS-1 an intermediate without key usage", NO_SIGNER, |f| f.middles[0].without(KEY_USAGE)),
    case("XS-1 an intermediate without keyCertSign", NO_SIGNER, |f| {
        f.middles[0].set(KEY_USAGE, true, key_usage(&[DIGITAL_SIGNATURE, CRL_SIGN]));
    }),
    case("XS-2 an intermediate with a workload's SPIFFE ID", "\"spiffe://acme.test/ca\" has a path", |f| {
        f.middles[0].names(&[(URI, b"spiffe://acme.test/ca")]);
    }),
    case(
        "XS-2 an intermediate with a workload's ID in capitals",
        "\"SPIFFE://acme.test/ca\" has a path",
        |f| {
            f.middles[0].names(&[(URI, b"SPIFFE://acme.test/ca")]);
        },
    ),
    case("a leaf that signs another leaf", "the chain is invalid: EndEntityUsedAsCa", |f| {
        let mut thief = f.leaf.clone();
        f.leaf.subject = named(b"orders");
        thief.issuer = named(b"orders");
        thief.signer = Arc::clone(&KEYS.leaf);
        f.middles.insert(0, std::mem::replace(&mut f.leaf, thief));
    }),
    case("an expired intermediate", "a certificate of the chain expired 2026-11-22T05:20:59Z", |f| {
        f.middles[0].not_after = NOW - 1;
    }),
    case("an intermediate that is not valid yet", "valid only from 2026-11-22T05:21:01Z on", |f| {
        f.middles[0].not_before = NOW + 1;
    }),
    case("an intermediate whose validity ends before it begins", "InvalidCertValidity", |f| {
        (f.middles[0].not_before, f.middles[0].not_after) = (NOW + HOUR, NOW - HOUR);
    }),
    case("an intermediate for servers below a client", WRONG_USAGE, |f| {
        f.middles[0].set(PURPOSES, false, purposes(&[SERVER_AUTH]));
    }),
    case("an intermediate for any purpose", WRONG_USAGE, |f| {
        f.middles[0].set(PURPOSES, false, purposes(&[ANY_PURPOSE]));
    }),
    case("an authority more than the path length allows", PATH_LENGTH, |f| {
        f.middles[0].set(CONSTRAINTS, true, authority(Some(0)));
        f.lengthen();
    }),
    // RFC 5280 §6.1.4 (l) would not count an authority's new key under its own name. webpki does, and we leave it at that; it
    // reports that the old key has not signed the leaf, which is so as well.
    case("an authority's new key where the path length allows no other", BAD_SIGNATURE, |f| {
        f.middles[0].set(CONSTRAINTS, true, authority(Some(0)));
        f.lengthen();
        f.middles[0].subject = f.middles[1].subject.clone();
        f.leaf.issuer = f.middles[1].subject.clone();
    }),
    case("14 a DNS name outside of what the intermediate may name", NAME_CONSTRAINT, |f| {
        f.middles[0].set(NAME_CONSTRAINTS, true, constraints(&[(DNS, b"shop.acme.test")], &[]));
        f.leaf.names(&[(URI, ID), (DNS, b"bank.acme.test")]);
    }),
    case("14 a DNS name that the intermediate may not name", NAME_CONSTRAINT, |f| {
        f.middles[0].set(NAME_CONSTRAINTS, true, constraints(&[], &[(DNS, b"bank.acme.test")]));
        f.leaf.names(&[(URI, ID), (DNS, b"www.bank.acme.test")]);
    }),
    case("14 an address outside of what the intermediate may name", NAME_CONSTRAINT, |f| {
        let ours = [10, 0, 0, 0, 255, 0, 0, 0];
        f.middles[0].set(NAME_CONSTRAINTS, true, constraints(&[(IP, &ours)], &[]));
        f.leaf.names(&[(URI, ID), (IP, &[192, 0, 2, 1])]);
    }),
    case("14 a SPIFFE ID outside of what the intermediate may name", NAME_CONSTRAINT, |f| {
        f.middles[0].set(NAME_CONSTRAINTS, true, constraints(&[(URI, b"other.test")], &[]));
    }),
    case("14 a SPIFFE ID that the intermediate may not name", NAME_CONSTRAINT, |f| {
        f.middles[0].set(NAME_CONSTRAINTS, true, constraints(&[], &[(URI, b"acme.test")]));
    }),
    case("14 a subject that the intermediate may not name", NAME_CONSTRAINT, |f| {
        let directory = named(b"Issuing");
        f.middles[0].set(NAME_CONSTRAINTS, true, constraints(&[(DIRECTORY, &directory)], &[]));
        f.leaf.subject = name(&[(O, UTF8, b"Other")]);
    }),
    case("14 name constraints of nonsense", "the chain is invalid: BadDer", |f| {
        f.middles[0].set(NAME_CONSTRAINTS, true, sequence(&[&tlv(0xa0, &[0x05, 0x00])]));
    }),
    case("another name than the issuer's", UNKNOWN_ISSUER, |f| f.leaf.issuer = named(b"issuing")),
    case("the issuer's name in another string type", UNKNOWN_ISSUER, |f| {
        f.leaf.issuer = name(&[(C, PRINTABLE, b"CH"), (O, UTF8, b"Acme"), (CN, PRINTABLE, b"Issuing")]);
    }),
    case("the intermediate is missing", UNKNOWN_ISSUER, |f| f.middles.clear()),
    case("policies that must be understood", "UnsupportedCriticalExtension", |f| {
        f.middles[0].set(POLICIES, true, sequence(&[&sequence(&[&oid("1.2.3.4")])]));
    }),
    case("a revoked intermediate", "serial:0b is revoked", |f| f.revoked.push("serial:0b")),
    case("a revoked leaf", "serial:0abc is revoked", |f| f.revoked.push("serial:0abc")),
    case("a revoked holder", "spiffe://acme.test/orders is revoked", |f| {
        f.revoked.push("spiffe://acme.test/orders");
    }),
    case("a revoked root", "serial:0c is revoked", |f| f.revoked.push("serial:0c")),
];

/// A root proves something only while and as far as it may. webpki asks nothing of it.
pub(crate) const ROOTS: &[Case] = &[
    case("an expired root", "the root that the chain leads to expired 2026-11-22T05:20:59Z", |f| {
        f.roots[0].not_after = NOW - 1;
    }),
    case("a root that is not valid yet", "leads to is valid only from 2026-11-22T05:21:01Z on", |f| {
        f.roots[0].not_before = NOW + 1;
    }),
    case("a root that allows no intermediate", PATH_LENGTH, |f| {
        f.roots[0].set(CONSTRAINTS, true, authority(Some(0)));
    }),
    case("a root for servers below a client", "the root's extended key usage does not allow this use", |f| {
        f.roots[0].set(PURPOSES, false, purposes(&[SERVER_AUTH]));
    }),
    case("a root for clients below a server", "the root's extended key usage does not allow this use", |f| {
        f.roots[0].set(PURPOSES, false, purposes(&[CLIENT_AUTH]));
        f.usage = Usage::Server;
    }),
    case("a root with name constraints", NAME_CONSTRAINT, |f| {
        f.roots[0].set(NAME_CONSTRAINTS, true, constraints(&[(DNS, b"shop.acme.test")], &[]));
        f.leaf.names(&[(URI, ID), (DNS, b"bank.acme.test")]);
    }),
    case("XS-1 a root that is no authority", NO_ROOT, |f| {
        f.roots[0].set(CONSTRAINTS, true, tlv(SEQUENCE, &[]));
    }),
    case("XS-1 a root without basic constraints", "not marked as an authority", |f| {
        f.roots[0].without(CONSTRAINTS);
    }),
    case("XS-1 a root without key usage", "its key usage does not allow signing", |f| {
        f.roots[0].without(KEY_USAGE);
    }),
    case("XS-1 a root without keyCertSign", "its key usage does not allow signing", |f| {
        f.roots[0].set(KEY_USAGE, true, key_usage(&[DIGITAL_SIGNATURE, CRL_SIGN]));
    }),
    case("XS-2 a root with a workload's SPIFFE ID", "\"spiffe://acme.test/ca\" has a path", |f| {
        f.roots[0].names(&[(URI, b"spiffe://acme.test/ca")]);
    }),
    case("a root of version 1", "it is of X.509 version 1", |f| f.roots[0].version = None),
    case("a root whose validity ends before it begins", "its validity ends before it begins", |f| {
        (f.roots[0].not_before, f.roots[0].not_after) = (NOW + DAY, NOW - DAY);
    }),
    case("a root without a name", "its distinguished name is empty", |f| {
        f.roots[0].subject = tlv(SEQUENCE, &[]);
        f.roots[0].issuer = tlv(SEQUENCE, &[]);
        f.middles[0].issuer = tlv(SEQUENCE, &[]);
    }),
    case("a byte behind the root", "bytes follow the certificate", |f| {
        f.roots[0].afterwards = |der| [der, vec![0]].concat();
    }),
    case("a second root that cannot be used", "root number 2 of the bundle of acme.test", |f| {
        let mut second = f.roots[0].clone();
        second.without(CONSTRAINTS);
        f.roots.push(second);
    }),
    case("an empty bundle", UNKNOWN_ISSUER, |f| f.roots.clear()),
];

/// RFC 4158: what leads path building astray.
pub(crate) const PATHS: &[Case] = &[
    case("a stranger's key under the intermediate's name", BAD_SIGNATURE, |f| {
        f.leaf.signer = Arc::clone(&KEYS.stranger);
    }),
    case("a stranger's key under the root's name", BAD_SIGNATURE, |f| {
        f.middles[0].signer = Arc::clone(&KEYS.stranger);
    }),
    case("a stranger's root sent along", BAD_SIGNATURE, |f| {
        f.middles[0].signer = Arc::clone(&KEYS.stranger);
        let root = named(b"Root");
        f.middles.push(signer(&root, &root, &KEYS.stranger, &KEYS.stranger));
    }),
    case("an authority that signed itself with two keys", UNKNOWN_ISSUER, |f| {
        let name = named(b"Loop");
        f.middles = vec![
            signer(&name, &name, &KEYS.middle, &KEYS.stranger),
            signer(&name, &name, &KEYS.stranger, &KEYS.middle),
        ];
        f.leaf.issuer = name;
    }),
    case("two authorities that signed each other", UNKNOWN_ISSUER, |f| {
        let (one, other) = (named(b"One"), named(b"Other"));
        f.middles = vec![
            signer(&other, &one, &KEYS.middle, &KEYS.stranger),
            signer(&one, &other, &KEYS.stranger, &KEYS.middle),
        ];
        f.leaf.issuer = one;
    }),
    case("a circle of three", UNKNOWN_ISSUER, |f| {
        let names = [named(b"One"), named(b"Two"), named(b"Three")];
        let keys = [&KEYS.middle, &KEYS.stranger, &KEYS.leaf];
        f.middles =
            (0..3).map(|at| signer(&names[(at + 1) % 3], &names[at], keys[at], keys[(at + 1) % 3])).collect();
        f.leaf.issuer = named(b"One");
    }),
    case("more same-named roots and intermediates than can be tried", "takes too much work", |f| {
        let name = named(b"Same");
        f.roots = (0..40).map(|_| Key::p256()).map(|key| signer(&name, &name, &key, &key)).collect();
        f.middles =
            [&KEYS.middle, &KEYS.stranger, &KEYS.leaf].map(|key| signer(&name, &name, key, key)).to_vec();
        f.leaf.issuer = name;
    }),
    case("five certificates", "the chain has 5 certificates, more than 4", |f| {
        f.middles = vec![f.middles[0].clone(); 4];
    }),
    case("more than 16 KiB", "bytes, more than 16384", |f| {
        f.leaf.set("1.2.3.4", false, tlv(0x04, &[0; 16_000]));
    }),
    case("two intermediates, one revoked, one that may not sign", "serial:0b is revoked", |f| {
        let mut other = f.middles[0].clone();
        other.serial = vec![0x0d];
        other.set(KEY_USAGE, true, key_usage(&[CRL_SIGN]));
        f.middles.insert(0, other);
        f.revoked.push("serial:0b");
    }),
    case("two intermediates of one key, both revoked", "is revoked", |f| {
        let mut other = f.middles[0].clone();
        other.serial = vec![0x0d];
        f.middles.push(other);
        f.revoked.extend(["serial:0b", "serial:0d"]);
    }),
];

/// An authority key identifier that names `key`.
pub(crate) fn key_id_of(key: &[u8]) -> Vec<u8> {
    sequence(&[&tlv(0x80, key)])
}

/// What other issuers of SPIFFE IDs, and other good authorities, send. All of it is believed.
pub(crate) const GOOD: &[(&str, Vary)] = &[
    ("as it stands", |_| ()),
    ("as a server", |f| f.usage = Usage::Server),
    ("SPIRE", |f| {
        // Go's names: PrintableString where it fits, a serial number in the root's, an x500UniqueIdentifier in the leaf's.
        let root = name(&[(C, PRINTABLE, b"US"), (O, PRINTABLE, b"SPIFFE"), ("2.5.4.5", PRINTABLE, b"4711")]);
        (f.roots[0].subject, f.roots[0].issuer) = (root.clone(), root.clone());
        f.roots[0].names(&[(URI, b"spiffe://acme.test")]);
        f.roots[0].set(SKI, false, tlv(0x04, &[1; 20]));
        f.leaf.issuer = root;
        f.leaf.signer = Arc::clone(&KEYS.root);
        f.leaf.subject =
            name(&[(C, PRINTABLE, b"US"), (O, PRINTABLE, b"SPIRE"), ("2.5.4.45", PRINTABLE, b"3f9b")]);
        f.leaf.set(KEY_USAGE, true, key_usage(&[DIGITAL_SIGNATURE, KEY_ENCIPHERMENT, KEY_AGREEMENT]));
        f.leaf.set(SKI, false, tlv(0x04, &[2; 20]));
        f.leaf.set(AKI, false, key_id_of(&[1; 20]));
        f.leaf.names(&[(URI, ID), (DNS, b"orders"), (DNS, b"orders.acme.test")]);
        f.middles.clear();
    }),
    ("Istio with its own root on RSA", |f| {
        let key = Key::rsa();
        let root = name(&[(O, PRINTABLE, b"cluster.local")]);
        f.roots = vec![signer(&root, &root, &key, &key)];
        f.leaf.issuer = root;
        f.leaf.signer = key;
        f.leaf.set(KEY_USAGE, true, key_usage(&[DIGITAL_SIGNATURE, KEY_ENCIPHERMENT]));
        f.middles.clear();
    }),
    ("Istio with a plugged-in intermediate on RSA", |f| {
        let (root, middle) = (Key::rsa(), Key::rsa());
        let (root_name, middle_name) =
            (named(b"Root CA"), name(&[(O, UTF8, b"Istio"), (CN, UTF8, b"Intermediate CA")]));
        f.roots = vec![signer(&root_name, &root_name, &root, &root)];
        f.middles = vec![signer(&root_name, &middle_name, &middle, &root)];
        f.middles[0].set(CONSTRAINTS, true, authority(Some(0)));
        f.middles[0].names(&[(DNS, b"istiod.istio-system.svc")]);
        f.leaf.issuer = middle_name;
        f.leaf.signer = middle;
        // istiod sends the root as well.
        let root = f.roots[0].clone();
        f.middles.push(root);
    }),
    ("step-ca", |f| {
        f.roots[0].set(CONSTRAINTS, true, authority(Some(1)));
        f.middles[0].set(CONSTRAINTS, true, authority(Some(0)));
        f.leaf.without(CONSTRAINTS);
        f.leaf.subject = name(&[(CN, UTF8, b"orders")]);
        f.leaf.names(&[
            (DNS, b"orders.acme.test"),
            (DNS, b"*.orders.acme.test"),
            (IP, &[192, 0, 2, 1]),
            (URI, ID),
        ]);
        f.leaf.set("1.3.6.1.4.1.37476.9000.64.1", false, sequence(&[&integer(&[1])]));
    }),
    ("XS-4 a foreign web address on the authorities", |f| {
        f.roots[0].names(&[(URI, b"https://acme.test/ca"), (EMAIL, b"ca@acme.test")]);
        f.middles[0].names(&[(URI, b"https://acme.test/ca")]);
    }),
    ("XS-5 a slash after the trust domain on the authorities", |f| {
        f.roots[0].names(&[(URI, b"spiffe://acme.test/")]);
        f.middles[0].names(&[(URI, b"spiffe://acme.test/")]);
    }),
    ("authorities of another trust domain's name", |f| {
        f.middles[0].names(&[(URI, b"spiffe://corp.test")]);
    }),
    ("an intermediate for clients and servers", |f| {
        f.middles[0].set(PURPOSES, false, purposes(&[SERVER_AUTH, CLIENT_AUTH]));
    }),
    ("a leaf without extended key usage", |f| f.leaf.without(PURPOSES)),
    ("a leaf for clients, code and any purpose", |f| {
        f.leaf.set(PURPOSES, false, purposes(&[CODE_SIGNING, ANY_PURPOSE, CLIENT_AUTH]));
    }),
    ("basic constraints and key usage of authorities that are not critical", |f| {
        for authority in [&mut f.roots[0], &mut f.middles[0]] {
            authority.criticality(CONSTRAINTS, false);
            authority.criticality(KEY_USAGE, false);
        }
    }),
    ("policies that need not be understood", |f| {
        let policies = sequence(&[&sequence(&[&oid("1.2.3.4")])]);
        f.middles[0].set(POLICIES, false, policies.clone());
        f.leaf.set(POLICIES, false, policies);
    }),
    ("P-384", |f| everywhere(f, Key::p384)),
    ("P-521", |f| everywhere(f, Key::p521)),
    ("Ed25519", |f| everywhere(f, Key::ed25519)),
    ("RSA", |f| everywhere(f, Key::rsa)),
    ("DNS names within what the intermediate may name", |f| {
        f.middles[0].set(
            NAME_CONSTRAINTS,
            true,
            constraints(&[(DNS, b"acme.test")], &[(DNS, b"bank.acme.test")]),
        );
        f.leaf.names(&[(URI, ID), (DNS, b"acme.test"), (DNS, b"orders.acme.test")]);
    }),
    ("a leaf that says of itself how long paths below it may be", |f| {
        f.leaf.set(CONSTRAINTS, true, sequence(&[&integer(&[0])]));
    }),
    ("a leaf that says at length that it is no authority", |f| {
        f.leaf.set(CONSTRAINTS, false, sequence(&[&[0x01, 0x01, 0x00]]));
    }),
    ("a leaf with names of all kinds", |f| {
        let directory = named(b"orders");
        let other = [oid("1.3.6.1.4.1.311.20.2.3"), tlv(0xa0, &tlv(UTF8, b"orders@acme.test"))].concat();
        f.leaf.names(&[
            (EMAIL, b"orders@acme.test"),
            (DIRECTORY, &directory),
            (0xa0, &other),
            (IP, &[0; 16]),
            (0x88, &[0x2a, 0x03]),
            (URI, ID),
        ]);
    }),
    ("a leaf with several attributes of one kind", |f| {
        f.leaf.subject =
            name(&[(C, PRINTABLE, b"CH"), (O, UTF8, b"Acme"), (O, UTF8, b"Shop"), (CN, UTF8, b"a")]);
    }),
    ("long attributes", |f| {
        let values = [[b'a'; 90].to_vec(), vec![b'b'; 300]];
        let [short, long] = values.each_ref().map(Vec::as_slice);
        f.leaf.subject = relative_names(&[&[(O, UTF8, short), (O, UTF8, long)], &[(CN, UTF8, long)]]);
    }),
    ("several attributes in one relative name on a client", |f| {
        f.leaf.subject = relative_names(&[&[(O, UTF8, b"a"), (O, UTF8, b"b")], &[(CN, UTF8, b"jane")]]);
    }),
    ("names in the older string types on the authorities", |f| {
        let old = name(&[(O, T61, b"Acme"), (CN, BMP, b"\0C\0A")]);
        f.middles[0].subject.clone_from(&old);
        f.leaf.issuer = old;
    }),
    ("several attributes in one relative name on the authorities", |f| {
        let several = relative_names(&[&[(O, UTF8, b"Acme"), (CN, UTF8, b"CA")]]);
        f.middles[0].subject.clone_from(&several);
        f.leaf.issuer = several;
    }),
    ("a serial number of 20 bytes", |f| f.leaf.serial = vec![0x7f; 20]),
    ("a root with a serial number of zero", |f| f.roots[0].serial = vec![0]),
    ("a root beyond the year 2050", |f| f.roots[0].not_after = NOW + 30 * 365 * DAY),
    ("a leaf that outlives its authorities", |f| f.leaf.not_after = NOW + 30 * DAY),
    ("a key identifier that names another key", |f| {
        f.middles[0].set(SKI, false, tlv(0x04, &[1; 20]));
        f.leaf.set(AKI, false, key_id_of(&[2; 20]));
    }),
    ("the root sent along", |f| {
        let root = f.roots[0].clone();
        f.middles.push(root);
    }),
    ("intermediates in the wrong order", |f| {
        f.lengthen();
        f.middles.reverse();
    }),
    ("a needless certificate that cannot be read", |f| {
        let mut needless = f.middles[0].clone();
        needless.afterwards = |_| b"certificate".to_vec();
        f.middles.insert(0, needless);
    }),
    ("another root of the same name first", |f| {
        let name = f.roots[0].subject.clone();
        f.roots.insert(0, signer(&name, &name, &KEYS.stranger, &KEYS.stranger));
    }),
    ("a root that was renewed with its key, the expired one first", |f| {
        let mut expired = f.roots[0].clone();
        expired.not_after = NOW - 1;
        f.roots.insert(0, expired);
    }),
    ("a root that was renewed with its key and a longer path", |f| {
        let mut shorter = f.roots[0].clone();
        shorter.set(CONSTRAINTS, true, authority(Some(0)));
        f.roots.insert(0, shorter);
    }),
    ("an expired intermediate beside its successor", |f| beside(f, |other| other.not_after = NOW - 1)),
    ("an intermediate that may not sign beside its successor", |f| {
        beside(f, |other| other.set(KEY_USAGE, true, key_usage(&[CRL_SIGN])));
    }),
    ("an intermediate for servers beside its successor", |f| {
        beside(f, |other| other.set(PURPOSES, false, purposes(&[SERVER_AUTH])));
    }),
    ("an intermediate that is no authority beside its successor", |f| {
        beside(f, |other| other.without(CONSTRAINTS));
    }),
    ("an intermediate of which nobody knows an extension beside its successor", |f| {
        beside(f, |other| other.set("1.2.3.4", true, vec![5, 0]));
    }),
    ("an intermediate with name constraints beside its successor", |f| {
        beside(f, |other| other.set(NAME_CONSTRAINTS, true, constraints(&[(URI, b"other.test")], &[])));
    }),
    ("an intermediate of another key beside its successor", |f| {
        beside(f, |other| other.spki = KEYS.stranger.spki.clone());
    }),
    ("an intermediate that a stranger signed beside its successor", |f| {
        beside(f, |other| other.signer = Arc::clone(&KEYS.stranger));
    }),
    ("a revoked intermediate beside its successor", |f| {
        beside(f, |other| other.serial = vec![0x0d]);
        f.revoked.push("serial:0d");
    }),
    ("an intermediate below an expired root, cross-signed by a good one", |f| {
        let name = named(b"Former");
        let mut former = signer(&name, &name, &KEYS.stranger, &KEYS.stranger);
        former.not_after = NOW - 1;
        f.roots.insert(0, former);
        beside(f, |other| {
            other.issuer = named(b"Former");
            other.signer = Arc::clone(&KEYS.stranger);
        });
    }),
    ("authorities that signed each other, one of them below the root", |f| {
        let other = f.below_root(b"Other", &KEYS.stranger);
        let mut back = other.clone();
        (back.issuer, back.signer) = (f.middles[0].subject.clone(), Arc::clone(&KEYS.middle));
        let mut forth = f.middles[0].clone();
        (forth.issuer, forth.signer) = (other.subject, Arc::clone(&KEYS.stranger));
        f.middles = vec![forth, back, f.middles[0].clone()];
    }),
    ("a root's new key, signed by its old one", |f| {
        // RFC 4210 §4.4: such a certificate bears one name twice and does not count for the root's path length.
        let name = f.roots[0].subject.clone();
        f.roots[0].set(CONSTRAINTS, true, authority(Some(1)));
        f.middles[0].signer = Arc::clone(&KEYS.stranger);
        f.middles.push(signer(&name, &name, &KEYS.stranger, &KEYS.root));
    }),
];

fn everywhere(family: &mut Family, make: fn() -> Arc<Key>) {
    let (root, middle, leaf) = (make(), make(), make());
    family.roots[0].spki = root.spki.clone();
    family.roots[0].signer = Arc::clone(&root);
    family.middles[0].spki = middle.spki.clone();
    family.middles[0].signer = root;
    family.leaf.signer = middle;
    family.leaf.spki = leaf.spki.clone();
}

/// Puts another certificate of the intermediate before it, spoiled.
fn beside(family: &mut Family, spoil: impl Fn(&mut crate::forge::Draft)) {
    let mut other = family.middles[0].clone();
    spoil(&mut other);
    family.middles.insert(0, other);
}
