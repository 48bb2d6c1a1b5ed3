//! The PROXY protocol, versions 1 and 2: who a connection is from, said by whoever passes it on, and said by us to a service.
//!
//! The specification is HAProxy's `proxy-protocol.txt`. A header stands before everything else, before TLS too.
//!
//! **Invariant:** a reader takes the bytes of the header and not one more: what follows belongs to TLS.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// No header is read that is longer, of whatever version; the addresses and TLVs that proxies send come to some hundred bytes.
const LONGEST: usize = 4096;

/// > - worst case (optional fields set to 0xff): […] 107 chars — §2.1
///
/// CR LF included.
const LONGEST_V1: usize = 107;

/// > `\x0D \x0A \x0D \x0A \x00 \x0D \x0A \x51 \x55 \x49 \x54 \x0A` — §2.2
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

const V1: &[u8] = b"PROXY ";

/// The fixed part of a header of version 2.
const FIXED: usize = 16;

/// Why a header is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum InvalidHeader {
    #[error("the addresses are malformed")]
    Addresses,
    #[error("neither address, nor that there is none, is said for a connection of this kind")]
    Family,
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    #[error("an additional field reaches beyond the end of the header")]
    Tlv,
    #[error("the header is too long")]
    TooLong,
    #[error("the version or the command is unknown")]
    Version,
}

/// Why nobody knows who a connection is from.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unread {
    #[error("the connection ended before the PROXY header did")]
    Closed(#[source] io::Error),
    #[error(transparent)]
    Invalid(#[from] InvalidHeader),
}

/// What the bytes so far come to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Progress {
    /// At least so many further bytes belong to the header.
    More(usize),
    /// The header is whole. It names the source, or leaves it with who has connected: for connections of the proxy's own, or of
    /// an unknown kind.
    Whole(Option<SocketAddr>),
}

/// Reads the header from the front of `io`, and who the connection is from, if that is not who has connected.
///
/// # Errors
/// It is malformed, or ends too early.
pub(super) async fn read<S: AsyncRead + Unpin>(io: &mut S) -> Result<Option<SocketAddr>, Unread> {
    let mut header = Vec::with_capacity(128);
    loop {
        match look(&header)? {
            Progress::Whole(source) => return Ok(source),
            Progress::More(count) => {
                let begun = header.len();
                header.resize(begun + count, 0);
                let room = header.get_mut(begun..).unwrap_or_default();
                io.read_exact(room).await.map_err(Unread::Closed)?;
            }
        }
    }
}

/// Looks at the front of a connection.
fn look(bytes: &[u8]) -> Result<Progress, InvalidHeader> {
    // The shortest header of either version is longer than the signature of the second.
    let Some((front, rest)) = bytes.split_first_chunk::<{ SIGNATURE.len() }>() else {
        return Ok(Progress::More(SIGNATURE.len() - bytes.len()));
    };
    if *front == SIGNATURE {
        look_at_v2(rest)
    } else if front.starts_with(V1) {
        look_at_v1(bytes)
    } else {
        Err(InvalidHeader::Missing)
    }
}

fn look_at_v1(bytes: &[u8]) -> Result<Progress, InvalidHeader> {
    let Some(end) = memchr::memchr(b'\n', bytes) else {
        // The line feed at least, and what must stand before it.
        let more = if bytes.last() == Some(&b'\r') { 1 } else { 2 };
        return if bytes.len() + more > LONGEST_V1 {
            Err(InvalidHeader::TooLong)
        } else {
            Ok(Progress::More(more))
        };
    };
    let line = bytes.get(V1.len()..end).and_then(|line| line.strip_suffix(b"\r"));
    let line = line.and_then(|line| std::str::from_utf8(line).ok()).ok_or(InvalidHeader::Addresses)?;
    let mut words = line.split(' ');
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        // > the receiver must ignore anything presented before the CRLF is found — §2.1
        return Ok(Progress::Whole(None));
    }
    let [Some(source), Some(destination), Some(source_port), Some(destination_port), None] =
        std::array::from_fn(|_| words.next())
    else {
        return Err(InvalidHeader::Addresses);
    };
    let address = |text: &str| -> Result<IpAddr, InvalidHeader> {
        let address = match family {
            "TCP4" => text.parse().map(IpAddr::V4),
            "TCP6" => text.parse().map(IpAddr::V6),
            _ => return Err(InvalidHeader::Family),
        };
        address.map_err(|_| InvalidHeader::Addresses)
    };
    let (source, _) = (address(source)?, address(destination)?);
    let (source_port, _) = (port(source_port)?, port(destination_port)?);
    Ok(Progress::Whole(Some(SocketAddr::new(source, source_port))))
}

/// > decimal integer in the range [0..65535] […] Any leading zeroes are not allowed — §2.1
fn port(text: &str) -> Result<u16, InvalidHeader> {
    let plain = text == "0" || text.starts_with(|first: char| ('1'..='9').contains(&first));
    text.parse().ok().filter(|_| plain).ok_or(InvalidHeader::Addresses)
}

/// Looks at what stands behind the signature.
fn look_at_v2(bytes: &[u8]) -> Result<Progress, InvalidHeader> {
    let Some((&[command, family, high, low], block)) = bytes.split_first_chunk() else {
        return Ok(Progress::More(FIXED - SIGNATURE.len() - bytes.len()));
    };
    if command >> 4 != 2 || command & 0xf > 1 {
        return Err(InvalidHeader::Version);
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST - FIXED {
        return Err(InvalidHeader::TooLong);
    }
    if block.len() < length {
        return Ok(Progress::More(length - block.len()));
    }
    if command & 0xf == LOCAL {
        // > the receiver […] must discard the protocol block including the family which is ignored — §2.2
        return Ok(Progress::Whole(None));
    }
    let (source, tlvs) = match family {
        TCP4 => {
            let (addresses, tlvs) = block.split_first_chunk::<12>().ok_or(InvalidHeader::Addresses)?;
            let &[a, b, c, d, _, _, _, _, high, low, _, _] = addresses;
            let port = u16::from_be_bytes([high, low]);
            (Some(SocketAddr::from((Ipv4Addr::new(a, b, c, d), port))), tlvs)
        }
        TCP6 => {
            let (source, rest) = block.split_first_chunk::<16>().ok_or(InvalidHeader::Addresses)?;
            let (&[.., high, low, _, _], tlvs) =
                rest.split_first_chunk::<20>().ok_or(InvalidHeader::Addresses)?;
            let port = u16::from_be_bytes([high, low]);
            (Some(SocketAddr::from((Ipv6Addr::from(*source), port))), tlvs)
        }
        UNIX => (None, block.get(216..).ok_or(InvalidHeader::Addresses)?),
        UNSPECIFIED => (None, block),
        // Datagrams do not come over a stream, and the rest is undefined.
        _ => return Err(InvalidHeader::Family),
    };
    // > the receiver should ignore the bytes that follow an unspecified family: there need be no TLVs among them.
    if family != UNSPECIFIED {
        skip(tlvs)?;
    }
    Ok(Progress::Whole(source))
}

/// Walks over additional fields, of which none matters, to see that they end where the header does.
fn skip(mut tlvs: &[u8]) -> Result<(), InvalidHeader> {
    while !tlvs.is_empty() {
        let (&[_, high, low], rest) = tlvs.split_first_chunk().ok_or(InvalidHeader::Tlv)?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        tlvs = rest.get(length..).ok_or(InvalidHeader::Tlv)?;
    }
    Ok(())
}

const LOCAL: u8 = 0;
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const UNIX: u8 = 0x31;

/// What a service is told of a connection that is passed on to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passage<'a> {
    /// Who it is from.
    pub(super) source: SocketAddr,
    /// Where it came in.
    pub(super) destination: SocketAddr,
    /// The protocol that was agreed on (RFC 7301), if one was.
    pub(super) alpn: Option<&'a [u8]>,
    /// The name that was asked for, if one was.
    pub(super) sni: Option<&'a str>,
    /// The version of TLS, such as `TLSv1.3`.
    pub(super) tls: &'a str,
    /// Whether the caller showed a certificate, and when.
    pub(super) shown: Shown,
    /// The common name of its certificate, if it has exactly one.
    pub(super) common_name: Option<&'a str>,
    /// The SPIFFE ID of its certificate, if it showed one.
    pub(super) spiffe_id: Option<&'a str>,
}

/// When a certificate was shown that holds now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shown {
    /// Never.
    Never,
    /// On this connection.
    Now,
    /// On an earlier connection of the session that was resumed.
    Once,
}

/// > #define PP2_TYPE_ALPN 0x01, PP2_TYPE_AUTHORITY 0x02, PP2_TYPE_SSL 0x20 — §2.2.7
const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_CN: u8 = 0x22;

/// The SPIFFE ID as text.
///
/// > The range of 0xE0 to 0xEF is reserved […] for application-specific data — §2.2.7
const SPIFFE_ID: u8 = 0xE0;

/// > PP2_CLIENT_SSL 0x01, PP2_CLIENT_CERT_CONN 0x02, PP2_CLIENT_CERT_SESS 0x04 — §2.2.6
const CLIENT_SSL: u8 = 0x01;
const CLIENT_CERT_CONN: u8 = 0x02;
const CLIENT_CERT_SESS: u8 = 0x04;

/// No value is told that is longer; no SPIFFE ID is (SPIFFE-ID §2.3).
const LONGEST_VALUE: usize = 2048;

/// The header of version 2 that says so.
pub(super) fn write(passage: &Passage<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(&SIGNATURE);
    out.push(0x21);
    let (source, destination) = (passage.source, passage.destination);
    match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend_from_slice(&[TCP4, 0, 0]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
        (from, to) => {
            out.extend_from_slice(&[TCP6, 0, 0]);
            out.extend_from_slice(&as_v6(from).octets());
            out.extend_from_slice(&as_v6(to).octets());
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
    let texts = [(ALPN, passage.alpn), (AUTHORITY, passage.sni.map(str::as_bytes))];
    for (kind, value) in texts {
        value.into_iter().for_each(|value| tlv(&mut out, kind, value));
    }
    tlv(&mut out, SSL, &ssl(passage));
    passage.spiffe_id.into_iter().for_each(|id| tlv(&mut out, SPIFFE_ID, id.as_bytes()));
    let length = u16::try_from(out.len() - FIXED).unwrap_or(u16::MAX).to_be_bytes();
    if let Some(place) = out.get_mut(FIXED - 2..FIXED) {
        place.copy_from_slice(&length);
    }
    out
}

/// > struct pp2_tlv_ssl { uint8_t client; uint32_t verify; struct pp2_tlv sub_tlv[0]; } — §2.2.6
fn ssl(passage: &Passage<'_>) -> Vec<u8> {
    let client = match passage.shown {
        Shown::Never => CLIENT_SSL,
        Shown::Now => CLIENT_SSL | CLIENT_CERT_CONN | CLIENT_CERT_SESS,
        Shown::Once => CLIENT_SSL | CLIENT_CERT_SESS,
    };
    // > zero if the client presented a certificate and it was successfully verified, and non-zero otherwise
    let verify = u32::from(passage.shown == Shown::Never);
    let mut value = vec![client];
    value.extend_from_slice(&verify.to_be_bytes());
    tlv(&mut value, SSL_VERSION, passage.tls.as_bytes());
    passage.common_name.into_iter().for_each(|name| tlv(&mut value, SSL_CN, name.as_bytes()));
    value
}

fn tlv(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let Some(length) = u16::try_from(value.len()).ok().filter(|_| value.len() <= LONGEST_VALUE) else {
        return;
    };
    out.push(kind);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
}

const fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is read from `wire`, of which `step` bytes arrive at a time, and what is left behind it.
    async fn trickle(wire: &[u8], step: usize) -> (Result<Option<SocketAddr>, String>, Vec<u8>) {
        let (mut near, mut far) = tokio::io::duplex(step);
        let sent = wire.to_vec();
        let sending = tokio::spawn(async move {
            // Whoever has read a bad header hangs up.
            drop(tokio::io::AsyncWriteExt::write_all(&mut far, &sent).await);
        });
        let read = read(&mut near).await.map_err(|error| error.to_string());
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
        sending.await.unwrap();
        (read, rest)
    }

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [&SIGNATURE, &[command, family][..], &length, block].concat()
    }

    const BLOCK_4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0xd4, 0x31, 0x01, 0xbb];

    fn block_6() -> Vec<u8> {
        let ends: [Ipv6Addr; 2] = ["2001:db8::7".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        [&ends[0].octets()[..], &ends[1].octets(), &[0xd4, 0x31, 0x01, 0xbb]].concat()
    }

    /// Headers as other programs write them: HAProxy 2.6 (`send-proxy`, `send-proxy-v2`), nginx 1.22 (`proxy_protocol on`), the
    /// examples of the specification.
    fn golden() -> Vec<(Vec<u8>, Option<&'static str>)> {
        let tlvs =
            [&BLOCK_4[..], &[0x02, 0, 4], b"h.eu", &[0x04, 0, 0], &[0x20, 0, 5, 1, 0, 0, 0, 0]].concat();
        vec![
            (b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n".to_vec(), Some("192.168.0.1:56324")),
            (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n".to_vec(), Some("255.255.255.255:65535")),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 0 443\r\n".to_vec(), Some("[2001:db8::7]:0")),
            (
                b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n".to_vec(),
                Some("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (
                b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n".to_vec(),
                None,
            ),
            (v2(0x21, TCP4, &BLOCK_4), Some("192.0.2.7:54321")),
            (v2(0x21, TCP4, &tlvs), Some("192.0.2.7:54321")),
            (v2(0x21, TCP6, &block_6()), Some("[2001:db8::7]:54321")),
            (v2(0x21, UNIX, &[0; 216]), None),
            (v2(0x21, UNSPECIFIED, &[]), None),
            (v2(0x21, UNSPECIFIED, b"whatever"), None),
            // A health check of HAProxy; and one whose block is to be ignored, whatever is in it (CVE-2024-23327).
            (v2(0x20, UNSPECIFIED, &[]), None),
            (v2(0x20, TCP4, &[1, 2, 3]), None),
        ]
    }

    #[tokio::test]
    async fn a_header_is_read_to_its_last_byte_and_not_one_further() {
        for (header, source) in golden() {
            let source: Option<SocketAddr> = source.map(|source| source.parse().unwrap());
            for step in [1, 2, 5, 13, 4096] {
                let (read, rest) = trickle(&[&header[..], b"\x16\x03\x01TLS"].concat(), step).await;
                assert_eq!(read, Ok(source), "{}", header.escape_ascii());
                assert_eq!(rest, b"\x16\x03\x01TLS", "{}", header.escape_ascii());
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let tlv = |tlvs: &[u8]| v2(0x21, TCP4, &[&BLOCK_4[..], tlvs].concat());
        let line = |text: &str| text.as_bytes().to_vec();
        let cases: Vec<(Vec<u8>, InvalidHeader)> = vec![
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03x".to_vec(), InvalidHeader::Missing),
            (line("GET / HTTP/1.1\r\n"), InvalidHeader::Missing),
            (line("proxy TCP4 1.2.3.4 1.2.3.4 1 1\r\n"), InvalidHeader::Missing),
            (line("PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n"), InvalidHeader::Family),
            (line("PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n"), InvalidHeader::Addresses),
            (line("PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n"), InvalidHeader::Addresses),
            (line("PROXY TCP4 1.2.3.4 1.2.3.4 1 1 1\r\n"), InvalidHeader::Addresses),
            (line("PROXY TCP4  1.2.3.4 1.2.3.4 1 1\r\n"), InvalidHeader::Addresses),
            (line("PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n"), InvalidHeader::Addresses),
            (line("PROXY TCP4 1.2.3.4 1.2.3.4 +1 1\r\n"), InvalidHeader::Addresses),
            (line("PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n"), InvalidHeader::Addresses),
            (line("PROXY TCP4 1.2.3.04 1.2.3.4 1 1\r\n"), InvalidHeader::Addresses),
            (line("PROXY TCP4 ::1 ::1 1 1\r\n"), InvalidHeader::Addresses),
            (line("PROXY TCP6 1.2.3.4 1.2.3.4 1 1\r\n"), InvalidHeader::Addresses),
            (line(&format!("PROXY UNKNOWN {}", "x".repeat(100))), InvalidHeader::TooLong),
            (v2(0x11, TCP4, &BLOCK_4), InvalidHeader::Version),
            (v2(0x22, TCP4, &BLOCK_4), InvalidHeader::Version),
            (v2(0x21, 0x12, &BLOCK_4), InvalidHeader::Family),
            (v2(0x21, 0x41, &BLOCK_4), InvalidHeader::Family),
            (v2(0x21, TCP4, &BLOCK_4[..11]), InvalidHeader::Addresses),
            (v2(0x21, TCP6, &block_6()[..35]), InvalidHeader::Addresses),
            (v2(0x21, UNIX, &[0; 215]), InvalidHeader::Addresses),
            (tlv(&[0x04]), InvalidHeader::Tlv),
            (tlv(&[0x04, 0]), InvalidHeader::Tlv),
            (tlv(&[0x04, 0, 1]), InvalidHeader::Tlv),
            (tlv(&[0x04, 0, 1, 0, 0]), InvalidHeader::Tlv),
            (v2(0x21, UNSPECIFIED, &[0; LONGEST - FIXED + 1]), InvalidHeader::TooLong),
            (v2(0x20, UNSPECIFIED, &[0; LONGEST - FIXED + 1]), InvalidHeader::TooLong),
        ];
        for (wire, expected) in cases {
            assert_eq!(look(&wire), Err(expected), "{}", wire.escape_ascii());
        }
        assert!(look(&v2(0x21, UNSPECIFIED, &[0; LONGEST - FIXED])).is_ok(), "the longest that is read");
    }

    #[tokio::test]
    async fn a_header_that_breaks_off_is_none() {
        for (header, _) in golden() {
            for end in 0..header.len() {
                let (read, _) = trickle(&header[..end], 4096).await;
                assert_eq!(read, Err("the connection ended before the PROXY header did".to_owned()));
            }
        }
    }

    /// Begins like a header, and goes on like none.
    fn nearly_a_header() -> impl Strategy<Value = Vec<u8>> {
        let any_bytes = || proptest::collection::vec(any::<u8>(), 0..300);
        prop_oneof![
            any_bytes(),
            any_bytes().prop_map(|tail| [&SIGNATURE[..], &[0x21], &tail].concat()),
            (any::<u8>(), 0_u8..0x40, any_bytes())
                .prop_map(|(command, family, block)| v2(command, family, &block)),
            (0_u8..2, any_bytes())
                .prop_map(|(command, tlvs)| { v2(0x20 | command, TCP4, &[&BLOCK_4[..], &tlvs].concat()) }),
            "PROXY (TCP4|TCP6|UNKNOWN|X)?[ 0-9a-f.:]{0,110}(\r\n|\n|\r)?.{0,9}".prop_map(String::into_bytes),
        ]
    }

    proptest! {
        /// Whatever arrives, nobody panics, a verdict does not change with more bytes behind it, and no byte is asked for that is
        /// not the header's.
        #[test]
        fn a_reader_asks_for_no_byte_too_many(wire in nearly_a_header()) {
            let mut taken = 0;
            loop {
                match look(&wire[..taken]) {
                    Ok(Progress::More(count)) => {
                        prop_assert!(count > 0 && taken + count <= LONGEST);
                        if taken + count > wire.len() {
                            break;
                        }
                        taken += count;
                    }
                    Ok(Progress::Whole(_)) => {
                        // One byte less would have been too few.
                        prop_assert!(matches!(look(&wire[..taken - 1]), Ok(Progress::More(_))));
                        break;
                    }
                    Err(_) => break,
                }
            }
        }

        /// What we write is what we would read.
        #[test]
        fn what_is_written_is_a_header(
            source in any::<SocketAddr>(),
            destination in any::<SocketAddr>(),
            sni in proptest::option::of("[a-z.]{1,200}"),
            alpn in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..20)),
            name in proptest::option::of("\\PC{0,3000}"),
        ) {
            let header = write(&Passage {
                source,
                destination,
                alpn: alpn.as_deref(),
                sni: sni.as_deref(),
                tls: "TLSv1.3",
                shown: Shown::Now,
                common_name: name.as_deref(),
                spiffe_id: Some("spiffe://a/b"),
            });

            let Ok(Progress::Whole(Some(read))) = look(&header) else {
                return Err(TestCaseError::fail(format!("{}", header.escape_ascii())));
            };
            prop_assert_eq!(read.ip().to_canonical(), source.ip().to_canonical());
            prop_assert_eq!(read.port(), source.port());
        }
    }
}
