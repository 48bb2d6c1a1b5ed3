//! Names of things: validated newtypes, cheap to clone, that cannot be mistaken for one another.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest name that is accepted, in bytes.
pub const MAX_LENGTH: usize = 64;

/// Why a text is no name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidId {
    /// Something other than `A-Z a-z 0-9 . _ -`, or a first character that is no letter or digit.
    #[error("expected letters, digits, '.', '_' or '-', beginning with a letter or digit")]
    Character,
    /// Nothing at all.
    #[error("expected a name, found nothing")]
    Empty,
    /// More than [`MAX_LENGTH`] bytes.
    #[error("a name has at most {MAX_LENGTH} characters")]
    TooLong,
}

fn validate(text: &str) -> Result<Arc<str>, InvalidId> {
    let first = text.bytes().next().ok_or(InvalidId::Empty)?;
    if text.len() > MAX_LENGTH {
        return Err(InvalidId::TooLong);
    }
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if first.is_ascii_alphanumeric() && text.bytes().all(inner) {
        Ok(Arc::from(text))
    } else {
        Err(InvalidId::Character)
    }
}

macro_rules! id {
    ($(#[doc = $doc:literal] $name:ident)+) => {$(
        #[doc = $doc]
        #[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                validate(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )+};
}

id! {
    /// Names an app: one caller, whatever credential it uses.
    AppId
    /// Names an authority: a signing certificate of the local CA.
    AuthorityId
    /// Names a credential on file; public, may be logged.
    CredentialId
    /// Names a developer: whoever owns apps.
    DeveloperId
    /// Names an environment, such as `test` or `prod`: agents stand in one, products are for some.
    EnvironmentId
    /// Names a listener of this agent.
    ListenerId
    /// Names an operation within its product, for what is counted by it.
    OperationId
    /// Names a product: a bundle of operations that apps are granted.
    ProductId
    /// Names a remote: something outside this host that local workloads reach through the agent.
    RemoteId
    /// Names a service: a local upstream that the agent guards.
    ServiceId
    /// Names a workload: a local process that gets an identity.
    WorkloadId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_words() {
        assert_eq!("orders-read.v1".parse::<ProductId>().unwrap().as_str(), "orders-read.v1");
        assert_eq!("".parse::<ProductId>(), Err(InvalidId::Empty));
        assert_eq!("-x".parse::<ProductId>(), Err(InvalidId::Character));
        assert_eq!("a b".parse::<ProductId>(), Err(InvalidId::Character));
        assert_eq!("x".repeat(65).parse::<ProductId>(), Err(InvalidId::TooLong));
    }
}
