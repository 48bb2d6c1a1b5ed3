//! Rules that say which certificates count as one credential: typed, exact, never a pattern on a string.

use std::fmt;

use crate::identity::spiffe_id;
use crate::identity::{InvalidSpiffeId, RelativeName, SpiffeId, Subject, TrustDomain};

/// Which certificates a credential on file stands for.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum CertificateRule {
    /// One of the DNS names, whole, in lower case. A `*` in it is a letter like any other.
    Dns(String),
    /// This very certificate.
    Sha256([u8; 32]),
    /// Any certificate for this public key.
    Spki([u8; 32]),
    /// For every attribute type named here, the subject has it in exactly these relative names, in this order, and each of
    /// them has exactly these attributes, in any order. An empty list matches nobody.
    Subject(Vec<RelativeName>),
    /// This SPIFFE ID.
    Uri(SpiffeId),
    /// Any SPIFFE ID of `domain` below these path segments.
    UriPrefix {
        /// The trust domain.
        domain: TrustDomain,
        /// The segments that an ID begins with, and goes on after.
        segments: Vec<String>,
    },
}

/// Why a text makes no rule.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidRule {
    /// A `*` anywhere but as `/**` at the end.
    #[error("'*' stands only in '/**', at the end")]
    Asterisk,
    /// Not a DNS name.
    #[error("a DNS name has only letters, digits, '.', '-' and '_'")]
    DnsName,
    /// Not a SPIFFE ID.
    #[error(transparent)]
    SpiffeId(#[from] InvalidSpiffeId),
}

impl CertificateRule {
    /// A rule for one DNS name.
    ///
    /// # Errors
    /// `text` is no DNS name, or has a wildcard.
    pub fn dns(text: &str) -> Result<Self, InvalidRule> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if !text.is_empty() && text.bytes().all(allowed) {
            Ok(Self::Dns(text.to_ascii_lowercase()))
        } else {
            Err(InvalidRule::DnsName)
        }
    }

    /// A rule for one SPIFFE ID, or, when `text` ends with `/**`, for all IDs below.
    ///
    /// # Errors
    /// `text` is neither.
    pub fn uri(text: &str) -> Result<Self, InvalidRule> {
        let Some(prefix) = text.strip_suffix("/**") else {
            return if text.contains('*') {
                Err(InvalidRule::Asterisk)
            } else {
                Ok(Self::Uri(text.parse()?))
            };
        };
        if prefix.contains('*') {
            return Err(InvalidRule::Asterisk);
        }
        let (domain, path) = spiffe_id::split(prefix)?;
        let segments: Vec<&str> = path.map_or_else(Vec::new, |path| path.split('/').collect());
        segments.iter().try_for_each(|segment| spiffe_id::validate_segment(segment))?;
        Ok(Self::UriPrefix { domain, segments: segments.into_iter().map(str::to_owned).collect() })
    }

    /// Whether `subject` meets the rule.
    #[must_use]
    pub fn matches(&self, subject: &Subject) -> bool {
        match self {
            Self::Dns(name) => subject.dns.contains(name),
            Self::Sha256(digest) => subject.sha256 == *digest,
            Self::Spki(digest) => subject.spki_sha256 == *digest,
            Self::Subject(names) => subject_has(subject, names),
            Self::Uri(id) => subject.spiffe_id == *id,
            Self::UriPrefix { domain, segments } => {
                let mut path = subject.spiffe_id.path().split('/').skip(1);
                subject.spiffe_id.trust_domain() == *domain
                    && segments.iter().all(|segment| path.next() == Some(segment))
                    && path.next().is_some()
            }
        }
    }

    /// The trust domain that it names, if it does.
    #[must_use]
    pub fn trust_domain(&self) -> Option<TrustDomain> {
        match self {
            Self::Uri(id) => Some(id.trust_domain()),
            Self::UriPrefix { domain, .. } => Some(domain.clone()),
            Self::Dns(_) | Self::Sha256(_) | Self::Spki(_) | Self::Subject(_) => None,
        }
    }

    /// How narrow the rule is: the class first, then the rank within it. The greater wins.
    #[must_use]
    pub fn specificity(&self) -> (u8, usize) {
        match self {
            Self::Sha256(_) => (6, 0),
            Self::Spki(_) => (5, 0),
            Self::Uri(_) => (4, 0),
            Self::UriPrefix { segments, .. } => (3, segments.len()),
            Self::Dns(_) => (2, 0),
            Self::Subject(names) => (1, names.iter().map(|name| name.attributes().len()).sum()),
        }
    }
}

/// Two common names where the rule names one are no match: it must not depend on which of them one reads. Nor is one that
/// shares its relative name with what the rule does not name.
fn subject_has(subject: &Subject, wanted: &[RelativeName]) -> bool {
    let mut types = wanted.iter().flat_map(RelativeName::attributes).map(|one| one.oid.as_str());
    !wanted.is_empty() && types.all(|oid| having(&subject.attributes, oid).eq(having(wanted, oid)))
}

fn having<'a>(names: &'a [RelativeName], oid: &str) -> impl Iterator<Item = &'a RelativeName> {
    names.iter().filter(move |name| name.has(oid))
}

impl fmt::Display for CertificateRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "dns {name}"),
            Self::Sha256(digest) => write!(f, "sha256 {}", data_encoding::HEXLOWER.encode(digest)),
            Self::Spki(digest) => write!(f, "spki {}", data_encoding::HEXLOWER.encode(digest)),
            Self::Subject(names) => {
                f.write_str("subject")?;
                names.iter().try_for_each(|name| {
                    name.attributes().iter().enumerate().try_for_each(|(position, one)| {
                        let separator = if position == 0 { ' ' } else { '+' };
                        write!(f, "{separator}{}={:?}", one.oid, one.value)
                    })
                })
            }
            Self::Uri(id) => write!(f, "uri {id}"),
            Self::UriPrefix { domain, segments } => {
                write!(f, "uri {}", domain.id_text())?;
                segments.iter().try_for_each(|segment| write!(f, "/{segment}"))?;
                f.write_str("/**")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::identity::Attribute;

    use super::*;

    #[test]
    fn a_uri_is_exact_unless_it_ends_with_two_asterisks() {
        assert!(matches!(CertificateRule::uri("spiffe://td/a"), Ok(CertificateRule::Uri(_))));
        assert_eq!(
            CertificateRule::uri("spiffe://td/ns/prod/**"),
            Ok(CertificateRule::UriPrefix {
                domain: "td".parse().unwrap(),
                segments: vec!["ns".to_owned(), "prod".to_owned()],
            })
        );
        assert!(matches!(CertificateRule::uri("spiffe://td/**"), Ok(CertificateRule::UriPrefix { .. })));
    }

    #[test]
    fn an_asterisk_elsewhere_is_refused() {
        for text in [
            "spiffe://td/*",
            "spiffe://td/a/*",
            "spiffe://td/a*",
            "spiffe://td/*/a",
            "spiffe://*/a",
            "spiffe://td/*/**",
            "spiffe://*/**",
        ] {
            assert_eq!(CertificateRule::uri(text), Err(InvalidRule::Asterisk), "{text}");
        }
    }

    #[test]
    fn a_prefix_is_as_strict_as_an_id() {
        let invalid = |reason| Err(InvalidRule::SpiffeId(reason));

        assert_eq!(CertificateRule::uri("spiffe://td//**"), invalid(InvalidSpiffeId::EmptySegment));
        assert_eq!(CertificateRule::uri("spiffe://td/../**"), invalid(InvalidSpiffeId::DotSegment));
        assert_eq!(CertificateRule::uri("https://td/a/**"), invalid(InvalidSpiffeId::Scheme));
        assert_eq!(CertificateRule::uri("spiffe://td"), invalid(InvalidSpiffeId::NoPath));
    }

    #[test]
    fn rules_print_as_they_are_written() {
        for text in ["spiffe://td/a/b", "spiffe://td/**", "spiffe://td/a/**"] {
            assert_eq!(CertificateRule::uri(text).unwrap().to_string(), format!("uri {text}"));
        }
        assert_eq!(CertificateRule::dns("A.test").unwrap().to_string(), "dns a.test");
        assert_eq!(CertificateRule::dns("*.test"), Err(InvalidRule::DnsName));
    }

    #[test]
    fn attributes_that_share_a_relative_name_print_with_a_plus() {
        let part = |oid: &str, value: &str| Attribute { oid: oid.to_owned(), value: value.to_owned() };
        let both = RelativeName::new(vec![part("2.5.4.10", "b+\""), part("2.5.4.10", "a")]).unwrap();
        let rule = CertificateRule::Subject(vec![both, part("2.5.4.3", "jane").into()]);

        assert_eq!(rule.to_string(), r#"subject 2.5.4.10="a"+2.5.4.10="b+\"" 2.5.4.3="jane""#);
    }
}
