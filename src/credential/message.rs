//! The request as its signature sees it: the parts that can be covered.

use httparse::Header;

/// A request's head, and whether something follows it. The scheme is `https`: nothing else comes in here.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The method, as sent.
    pub method: &'a str,
    /// Host and, where given, port, as sent.
    pub authority: &'a str,
    /// The path, as sent.
    pub path: &'a str,
    /// What stands behind the `?`, as sent, if there is one.
    pub query: Option<&'a str>,
    /// All fields in the order in which they came.
    pub fields: &'a [Header<'a>],
    /// Whether a body follows.
    pub content: Content,
}

/// Whether a request has a body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Content {
    /// It has none.
    Absent,
    /// It has one, though that may turn out to be empty.
    Present,
}

impl<'a> Message<'a> {
    /// The values of all fields called `name`, which is given in lower case.
    pub fn values<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        let named = self.fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.value.trim_ascii())
    }

    /// The values of all fields called `name` as one, joined by a comma (RFC 9110 §5.3); none if there is no such field.
    #[must_use]
    pub fn joined(&self, name: &str) -> Option<Vec<u8>> {
        let mut values = self.values(name);
        let mut joined = values.next()?.to_vec();
        for value in values {
            joined.extend_from_slice(b", ");
            joined.extend_from_slice(value);
        }
        Some(joined)
    }

    /// > The @authority derived component SHOULD be used instead of signing the Host header field directly. […] the
    /// > component value MUST be normalized […]: the host name is normalized to lowercase, and the default port is omitted.
    /// > — RFC 9421 §2.2.3
    #[must_use]
    pub fn normal_authority(&self) -> String {
        let mut authority = self.authority.to_ascii_lowercase();
        if authority.ends_with(DEFAULT_PORT) {
            authority.truncate(authority.len() - DEFAULT_PORT.len());
        }
        authority
    }
}

/// The port of `https` (RFC 9110 §4.2.2).
const DEFAULT_PORT: &str = ":443";
