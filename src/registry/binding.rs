//! What a credential is bound to besides its secret: where it is used from, under which certificate, when.
//!
//! The addresses are `core`'s, which are plain values: nothing here can open a socket.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt;
use std::str::FromStr;

use crate::clock::Timestamp;
use crate::identity::{CertificateRule, Subject, TrustDomain};

/// Where a request comes from, as far as its connection says.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Origin<'a> {
    /// The address at the other end of the connection; nothing that a caller writes.
    pub address: Option<IpAddr>,
    /// The name that the caller asked for in the handshake (RFC 6066 §3).
    pub sni: Option<&'a str>,
}

/// What a credential is bound to. All that is given must hold.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Bindings {
    /// The networks that it is used from.
    pub from: Option<Vec<Network>>,
    /// The client certificate on the same connection.
    pub certificate: Option<CertificateRule>,
    /// The trust domain whose authorities have signed that certificate.
    pub issuer: Option<TrustDomain>,
    /// The name that the caller asks for in the handshake, in lower case.
    pub sni: Option<Box<str>>,
    /// The time of day.
    pub hours: Option<Hours>,
}

/// Which binding does not hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unbound {
    /// The caller is elsewhere.
    #[error("it is not used from an address in `from`")]
    Address,
    /// There is no client certificate that meets the rule.
    #[error("the connection has no client certificate that meets `certificate`")]
    Certificate,
    /// It is another time of day.
    #[error("the time of day is not within `hours`")]
    Hours,
    /// There is no client certificate of the trust domain.
    #[error("the connection has no client certificate of the trust domain `issuer`")]
    Issuer,
    /// The caller asked for another name, or for none.
    #[error("the handshake did not ask for the name `sni`")]
    ServerName,
}

impl Bindings {
    /// Whether everything holds for somebody who comes from `origin`, has shown `certificate`, and asks at `now`.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(
        &self,
        origin: Origin<'_>,
        certificate: Option<&Subject>,
        now: Timestamp,
    ) -> Result<(), Unbound> {
        let held = |holds: bool, otherwise: Unbound| if holds { Ok(()) } else { Err(otherwise) };
        if let Some(networks) = &self.from {
            let inside = |address| networks.iter().any(|network| network.contains(address));
            held(origin.address.is_some_and(inside), Unbound::Address)?;
        }
        if let Some(rule) = &self.certificate {
            held(certificate.is_some_and(|subject| rule.matches(subject)), Unbound::Certificate)?;
        }
        if let Some(domain) = &self.issuer {
            let signed = |subject: &Subject| subject.spiffe_id.trust_domain() == *domain;
            held(certificate.is_some_and(signed), Unbound::Issuer)?;
        }
        if let Some(name) = &self.sni {
            held(origin.sni.is_some_and(|asked| asked.eq_ignore_ascii_case(name)), Unbound::ServerName)?;
        }
        self.hours.map_or(Ok(()), |hours| held(hours.contain(now), Unbound::Hours))
    }
}

impl fmt::Display for Bindings {
    /// `from 10.0.0.0/8, 192.0.2.7/32 with the certificate uri spiffe://a/b`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks = self.from.as_ref().map(|networks| {
            let networks: Vec<String> = networks.iter().map(Network::to_string).collect();
            format!("from {}", networks.join(", "))
        });
        let parts = [
            networks,
            self.certificate.as_ref().map(|rule| format!("with the certificate {rule}")),
            self.issuer.as_ref().map(|domain| format!("with a certificate of {domain}")),
            self.sni.as_ref().map(|name| format!("asking for the name {name}")),
            self.hours.map(|hours| format!("within {hours}")),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(" "))
    }
}

/// A network of addresses, as `10.0.0.0/8` or `2001:db8::/32`. An address alone is a network of one.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Network {
    /// Of IP version 4.
    V4(Ipv4Addr, u8),
    /// Of IP version 6.
    V6(Ipv6Addr, u8),
}

/// The text is no network.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidNetwork {
    /// Something else.
    #[error("expected an address or a network such as 10.0.0.0/8 or 2001:db8::/32")]
    Form,
    /// An address within the network, where its first one stands.
    #[error("the address has bits behind the length of the network; the network is {0}")]
    HostBits(Network),
}

impl Network {
    /// Whether `address` lies in it. An IPv4 address that is written as an IPv6 one is an IPv4 address.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        match (self, address.to_canonical()) {
            (Self::V4(first, length), IpAddr::V4(address)) => first_of_4(address, length) == first,
            (Self::V6(first, length), IpAddr::V6(address)) => first_of_6(address, length) == first,
            (Self::V4(..), IpAddr::V6(_)) | (Self::V6(..), IpAddr::V4(_)) => false,
        }
    }
}

fn first_of_4(address: Ipv4Addr, length: u8) -> Ipv4Addr {
    let host_bits = 32 - u32::from(length.min(32));
    Ipv4Addr::from_bits(u32::MAX.checked_shl(host_bits).unwrap_or(0) & address.to_bits())
}

fn first_of_6(address: Ipv6Addr, length: u8) -> Ipv6Addr {
    let host_bits = 128 - u32::from(length.min(128));
    Ipv6Addr::from_bits(u128::MAX.checked_shl(host_bits).unwrap_or(0) & address.to_bits())
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| InvalidNetwork::Form)?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let plain = |text: &str| text == "0" || !text.starts_with(['0', '+']);
        let length = match length {
            None => longest,
            Some(text) => text.parse().ok().filter(|_| plain(text)).ok_or(InvalidNetwork::Form)?,
        };
        if length > longest {
            return Err(InvalidNetwork::Form);
        }
        let (network, whole) = match address {
            IpAddr::V4(address) => {
                let first = first_of_4(address, length);
                (Self::V4(first, length), first == address)
            }
            IpAddr::V6(address) => {
                let first = first_of_6(address, length);
                (Self::V6(first, length), first == address)
            }
        };
        if whole { Ok(network) } else { Err(InvalidNetwork::HostBits(network)) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(first, length) => write!(f, "{first}/{length}"),
            Self::V6(first, length) => write!(f, "{first}/{length}"),
        }
    }
}

/// A span of every day, in UTC: from a minute on, until another one begins, also over midnight.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hours {
    from: u16,
    until: u16,
}

/// The text is no span of the day.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected two different times of day in UTC, such as \"08:00-18:00\" or \"22:00-06:00\"")]
pub struct InvalidHours;

impl fmt::Display for Hours {
    /// `22:00-06:00`, in UTC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clock = |minute: u16| (minute / 60, minute % 60);
        let ((from, from_minute), (until, until_minute)) = (clock(self.from), clock(self.until));
        write!(f, "{from:02}:{from_minute:02}-{until:02}:{until_minute:02} UTC")
    }
}

impl Hours {
    /// Whether `now` lies in it.
    #[must_use]
    pub fn contain(self, now: Timestamp) -> bool {
        let minute = now.unix().rem_euclid(24 * 3600) / 60;
        let (from, until) = (i64::from(self.from), i64::from(self.until));
        if from < until { (from..until).contains(&minute) } else { minute >= from || minute < until }
    }
}

impl FromStr for Hours {
    type Err = InvalidHours;

    fn from_str(text: &str) -> Result<Self, InvalidHours> {
        let (from, until) = text.split_once('-').ok_or(InvalidHours)?;
        let (from, until) = (minute_of_day(from)?, minute_of_day(until)?);
        // The end of the day is the beginning of the next one.
        let until = until % (24 * 60);
        if from == until || from == 24 * 60 { Err(InvalidHours) } else { Ok(Self { from, until }) }
    }
}

fn minute_of_day(text: &str) -> Result<u16, InvalidHours> {
    let (hour, minute) = text.split_once(':').ok_or(InvalidHours)?;
    let number = |digits: &str, most: u16| {
        let plain = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|&number: &u16| plain && number <= most).ok_or(InvalidHours)
    };
    let minutes = number(hour, 24)? * 60 + number(minute, 59)?;
    if minutes <= 24 * 60 { Ok(minutes) } else { Err(InvalidHours) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_the_addresses_that_share_its_beginning() {
        for (network, inside, outside) in [
            ("127.0.0.2/32", "127.0.0.2", "127.0.0.3"),
            ("127.0.0.2", "127.0.0.2", "127.0.0.3"),
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.1.2.128/25", "10.1.2.200", "10.1.2.127"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::a00:1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1/128", "::1", "127.0.0.1"),
            ("0.0.0.0/0", "203.0.113.7", "2001:db8::1"),
            ("::/0", "2001:db8::1", "203.0.113.7"),
        ] {
            let parsed: Network = network.parse().unwrap();

            assert!(parsed.contains(inside.parse().unwrap()), "{inside} in {network}");
            assert!(!parsed.contains(outside.parse().unwrap()), "{outside} in {network}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0/8",
            "::/129",
            "10.0.0.0/8/8",
            "orders",
            "*",
        ] {
            assert_eq!(text.parse::<Network>(), Err(InvalidNetwork::Form), "{text}");
        }
        let error = "10.1.2.3/8".parse::<Network>().unwrap_err();
        assert!(error.to_string().ends_with("the network is 10.0.0.0/8"), "{error}");
    }

    #[test]
    fn hours_begin_with_their_first_minute_and_end_before_their_last() {
        let at = |time: &str| format!("2026-06-01T{time}Z").parse::<Timestamp>().unwrap();
        for (hours, inside, outside) in [
            ("08:00-18:00", ["08:00:00", "17:59:59"], ["07:59:59", "18:00:00"]),
            ("22:00-06:00", ["22:00:00", "05:59:59"], ["21:59:59", "06:00:00"]),
            ("18:00-24:00", ["18:00:00", "23:59:59"], ["17:59:59", "00:00:00"]),
            ("00:00-06:30", ["00:00:00", "06:29:59"], ["06:30:00", "23:59:59"]),
        ] {
            let parsed: Hours = hours.parse().unwrap();

            assert!(inside.iter().all(|time| parsed.contain(at(time))), "{hours}");
            assert!(!outside.iter().any(|time| parsed.contain(at(time))), "{hours}");
        }
        for text in [
            "",
            "08:00",
            "8:00-18:00",
            "08:00-08:00",
            "24:00-06:00",
            "00:00-24:00",
            "08:60-09:00",
            "08:00-24:01",
            "-",
        ] {
            assert_eq!(text.parse::<Hours>(), Err(InvalidHours), "{text}");
        }
    }

    #[test]
    fn whoever_comes_from_nowhere_meets_no_binding() {
        let bound = |bindings: Bindings| bindings.check(Origin::default(), None, Timestamp::FLOOR);

        assert_eq!(bound(Bindings::default()), Ok(()));
        let from = Some(vec!["0.0.0.0/0".parse().unwrap()]);
        assert_eq!(bound(Bindings { from, ..Bindings::default() }), Err(Unbound::Address));
        let certificate = CertificateRule::uri("spiffe://td/**").ok();
        assert_eq!(bound(Bindings { certificate, ..Bindings::default() }), Err(Unbound::Certificate));
        let issuer = "td".parse().ok();
        assert_eq!(bound(Bindings { issuer, ..Bindings::default() }), Err(Unbound::Issuer));
        let sni = Some("api.test".into());
        assert_eq!(bound(Bindings { sni, ..Bindings::default() }), Err(Unbound::ServerName));
    }
}
