//! The strict reading of a form (`application/x-www-form-urlencoded`), as the token endpoint gets it.
//!
//! > Request and response parameters MUST NOT be included more than once. — RFC 6749 §3.2
//!
//! Values are secrets until it is known which are not, so a form does not print them.

use std::fmt;

use zeroize::Zeroizing;

/// The parameters of a request, each at most once.
#[derive(Default)]
pub struct Form {
    parameters: Vec<(String, Zeroizing<String>)>,
}

/// Why a text is no form.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidForm {
    /// A percent sign without two hexadecimal digits, or a byte that has to be encoded.
    #[error("a parameter is not encoded as application/x-www-form-urlencoded")]
    Encoding,
    /// There are more than anybody has a use for.
    #[error("there are too many parameters")]
    Many,
    /// A parameter stands twice.
    #[error("a parameter is included more than once")]
    Repeated,
}

/// Nobody has a use for more.
pub(super) const MOST_PARAMETERS: usize = 32;

/// > Multiple "resource" parameters MAY be used — RFC 8707 §2
const MAY_REPEAT: &str = "resource";

impl Form {
    /// Reads a form.
    ///
    /// # Errors
    /// It is none, or not everybody would read it in the same way.
    pub fn parse(body: &[u8]) -> Result<Self, InvalidForm> {
        let mut form = Self::default();
        for pair in body.split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()) {
            let at = memchr::memchr(b'=', pair).unwrap_or(pair.len());
            let (name, value) = pair.split_at(at);
            let name = decoded(name)?.to_string();
            let value = decoded(value.get(1..).unwrap_or_default())?;
            if form.parameters.len() >= MOST_PARAMETERS {
                return Err(InvalidForm::Many);
            }
            let known = form.parameters.iter().any(|(earlier, _)| *earlier == name);
            if known && name != MAY_REPEAT {
                return Err(InvalidForm::Repeated);
            }
            form.parameters.push((name, value));
        }
        Ok(form)
    }

    /// The value of a parameter.
    ///
    /// > Parameters sent without a value MUST be treated as if they were omitted from the request. — RFC 6749 §3.2
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, value)| known == name && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    }

    /// All values of the one parameter that may be repeated.
    pub fn values<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'f str> {
        let found = self.parameters.iter().filter(move |(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }
}

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.parameters.iter().map(|(name, _)| name)).finish()
    }
}

/// One name or value, decoded; what is not UTF-8 or holds a control character is no text that a parameter can be.
///
/// # Errors
/// It is not encoded as it should be.
pub(super) fn decoded(text: &[u8]) -> Result<Zeroizing<String>, InvalidForm> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let mut digit = || rest.next().and_then(|&digit| char::from(digit).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else { return Err(InvalidForm::Encoding) };
                bytes.push(u8::try_from(high * 16 + low).map_err(|_| InvalidForm::Encoding)?);
            }
            _ if byte.is_ascii_graphic() => bytes.push(byte),
            _ => return Err(InvalidForm::Encoding),
        }
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| InvalidForm::Encoding)?;
    if text.chars().any(char::is_control) {
        return Err(InvalidForm::Encoding);
    }
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_once_and_in_one_way() {
        let form = Form::parse(b"grant_type=client_credentials&scope=a+b%3Ac&empty=&flag&x=%C3%A9").unwrap();

        assert_eq!(form.value("grant_type"), Some("client_credentials"));
        assert_eq!(form.value("scope"), Some("a b:c"));
        assert_eq!(form.value("x"), Some("é"));
        assert_eq!((form.value("empty"), form.value("flag"), form.value("none")), (None, None, None));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let many = "a&".repeat(33);
        for (body, error) in [
            ("scope=a&scope=b", InvalidForm::Repeated),
            ("scope=&scope=b", InvalidForm::Repeated),
            ("sc%6Fpe=a&scope=b", InvalidForm::Repeated),
            ("scope=%zz", InvalidForm::Encoding),
            ("scope=%4", InvalidForm::Encoding),
            ("scope=%00", InvalidForm::Encoding),
            ("scope=%ff", InvalidForm::Encoding),
            ("scope=a b", InvalidForm::Encoding),
            ("scope=\u{e9}", InvalidForm::Encoding),
            ("scope=a\r\n", InvalidForm::Encoding),
            (many.as_str(), InvalidForm::Repeated),
        ] {
            assert_eq!(Form::parse(body.as_bytes()).unwrap_err(), error, "{body}");
        }
        let many: Vec<String> = (0..33).map(|number| format!("p{number}=1")).collect();
        assert_eq!(Form::parse(many.join("&").as_bytes()).unwrap_err(), InvalidForm::Many);
    }

    #[test]
    fn a_resource_may_be_named_several_times() {
        let form = Form::parse(b"resource=https%3A%2F%2Fa.test&resource=b").unwrap();

        assert_eq!(form.values("resource").collect::<Vec<_>>(), ["https://a.test", "b"]);
    }

    #[test]
    fn a_form_does_not_print_its_values() {
        assert_eq!(format!("{:?}", Form::parse(b"client_secret=pstn").unwrap()), "[\"client_secret\"]");
    }
}
