//! Signing a request as a caller does: for `postern sign`, and for tests of the other side.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use data_encoding::BASE64;
use sfv::{BareItem, Dictionary, InnerList, Item, ItemSerializer, Key, ListEntry, Parser};

use crate::clock::Timestamp;
use crate::credential::signature::{BaseError, signature_base, write_parameters};
use crate::credential::{Message, SigningSecret};
use crate::registry::SignatureAlgorithm;
use crate::secret::Secret;

/// A key that signs.
pub enum Signer {
    /// ECDSA on P-256.
    EcdsaP256(EcdsaKeyPair),
    /// Ed25519.
    Ed25519(Ed25519KeyPair),
    /// A secret that the other side has, too.
    Hmac(Box<hmac::Key>),
}

/// What a signature is to cover and to say of itself.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// The covered components, each as `Signature-Input` writes it: `"@method"`, `"@query-param";name="id"`.
    pub cover: Vec<String>,
    /// When it is made.
    pub created: Timestamp,
    /// When it ends, if it says so.
    pub expires: Option<Timestamp>,
    /// The credential's name on file.
    pub keyid: &'a str,
    /// A word that is used once.
    pub nonce: Option<&'a str>,
    /// For whom it is.
    pub tag: Option<&'a str>,
}

/// The values of the two fields that a signed request carries, and what was signed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignatureLines {
    /// The value of `Signature-Input`.
    pub input: String,
    /// The value of `Signature`.
    pub signature: String,
    /// The signature base.
    pub base: String,
}

/// Why a request cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The request does not have what is to be covered.
    #[error("there is no signature base")]
    Base(#[from] BaseError),
    /// A component is written wrongly.
    #[error("{0:?} is no component; write a name such as \"@method\" or content-type")]
    Component(String),
    /// The key has not signed.
    #[error("the key does not sign")]
    Key,
    /// The label cannot be one.
    #[error("{0:?} is no label; it begins with a lower-case letter and goes on with such letters and digits")]
    Label(String),
    /// A parameter holds what no structured field can.
    #[error("{0} has characters that cannot stand in a signature's parameters")]
    Parameter(&'static str),
    /// It is no `Signature-Input`.
    #[error("this is no Signature-Input with exactly one signature: {0:?}")]
    SignatureInput(String),
}

impl Signer {
    /// The shared secret `secret`, used as it is.
    #[must_use]
    pub fn shared(secret: &SigningSecret) -> Self {
        Self::hmac(secret.text())
    }

    /// Any shared secret.
    #[must_use]
    pub fn hmac(secret: &Secret) -> Self {
        Self::Hmac(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret())))
    }

    /// The private key in a PKCS#8 document; `None` if it is neither Ed25519 nor P-256.
    #[must_use]
    pub fn from_pkcs8(pkcs8: &Secret) -> Option<Self> {
        let bytes = pkcs8.expose_secret();
        let ed25519 = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes).map(Self::Ed25519).ok();
        let p256 =
            || EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes).map(Self::EcdsaP256).ok();
        ed25519.or_else(p256)
    }

    /// The algorithm that the key is for.
    #[must_use]
    pub const fn algorithm(&self) -> SignatureAlgorithm {
        match self {
            Self::EcdsaP256(_) => SignatureAlgorithm::EcdsaP256Sha256,
            Self::Ed25519(_) => SignatureAlgorithm::Ed25519,
            Self::Hmac(_) => SignatureAlgorithm::HmacSha256,
        }
    }

    /// Signs `message` as `plan` says, under `label`.
    ///
    /// # Errors
    /// The plan does not fit the request, or the key does not sign.
    pub fn sign(
        &self,
        message: &Message<'_>,
        label: &str,
        plan: &Plan<'_>,
    ) -> Result<SignatureLines, SignError> {
        let label: Key = label.to_owned().try_into().map_err(|_| SignError::Label(label.to_owned()))?;
        let covered = plan.covered(self.algorithm())?;
        let base = signature_base(message, &covered)?;
        let signature = self.sign_bytes(base.as_bytes()).ok_or(SignError::Key)?;
        let mut input = format!("{}=", label.as_str());
        write_parameters(&mut input, &covered);
        let signature = format!("{}=:{}:", label.as_str(), BASE64.encode(&signature));
        Ok(SignatureLines { input, signature, base })
    }

    fn sign_bytes(&self, base: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::EcdsaP256(key) => {
                key.sign(&SystemRandom::new(), base).ok().map(|made| made.as_ref().to_vec())
            }
            Self::Ed25519(key) => Some(key.sign(base).as_ref().to_vec()),
            Self::Hmac(key) => Some(hmac::sign(key, base).as_ref().to_vec()),
        }
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.algorithm())
    }
}

impl Plan<'_> {
    fn covered(&self, algorithm: SignatureAlgorithm) -> Result<InnerList, SignError> {
        let items = self.cover.iter().map(|text| component(text)).collect::<Result<Vec<_>, _>>()?;
        let mut covered = InnerList::new(items);
        let mut put = |key: &'static str, value: BareItem| {
            covered.params.insert(sfv::key_ref(key).to_owned(), value);
        };
        put("created", seconds("created", self.created)?);
        if let Some(expires) = self.expires {
            put("expires", seconds("expires", expires)?);
        }
        put("keyid", string("keyid", self.keyid)?);
        put("alg", string("alg", algorithm.as_str())?);
        for (key, value) in [("nonce", self.nonce), ("tag", self.tag)] {
            if let Some(value) = value {
                put(key, string(key, value)?);
            }
        }
        Ok(covered)
    }
}

fn seconds(name: &'static str, at: Timestamp) -> Result<BareItem, SignError> {
    let seconds = sfv::Integer::try_from(at.unix()).map_err(|_| SignError::Parameter(name))?;
    Ok(BareItem::Integer(seconds))
}

fn string(name: &'static str, text: &str) -> Result<BareItem, SignError> {
    let text = sfv::String::try_from(text.to_owned()).map_err(|_| SignError::Parameter(name))?;
    Ok(BareItem::String(text))
}

/// A component as `Signature-Input` writes it, or its bare name.
fn component(text: &str) -> Result<Item, SignError> {
    let invalid = || SignError::Component(text.to_owned());
    if text.starts_with('"') {
        let item: Item = Parser::new(text).parse().map_err(|_| invalid())?;
        return if item.bare_item.as_string().is_some() { Ok(item) } else { Err(invalid()) };
    }
    let name = sfv::String::try_from(text.to_ascii_lowercase()).map_err(|_| invalid())?;
    if name.as_str().is_empty() { Err(invalid()) } else { Ok(Item::new(BareItem::String(name))) }
}

/// The signature base that follows from a caller's `Signature-Input` for `message`, as the agent works it out.
///
/// # Errors
/// There is not exactly one signature in it, or it does not fit the request.
pub fn base_for(message: &Message<'_>, signature_input: &str) -> Result<String, SignError> {
    let invalid = || SignError::SignatureInput(signature_input.to_owned());
    let inputs: Dictionary = Parser::new(signature_input).parse().map_err(|_| invalid())?;
    let mut entries = inputs.into_values();
    match (entries.next(), entries.next()) {
        (Some(ListEntry::InnerList(covered)), None) => Ok(signature_base(message, &covered)?),
        _ => Err(invalid()),
    }
}

/// The identifiers of the components of `Accept-Signature` that a request has: what it must cover, and no more.
#[must_use]
pub fn usual_cover(message: &Message<'_>) -> Vec<String> {
    let mut cover = vec!["@method", "@authority", "@path"];
    if message.query.is_some() {
        cover.push("@query");
    }
    if message.values("content-digest").next().is_some() {
        cover.push("content-digest");
    }
    let quoted = |name: &str| match sfv::StringRef::from_str(name) {
        Ok(name) => ItemSerializer::new().bare_item(name).finish(),
        Err(_) => String::new(),
    };
    cover.into_iter().map(quoted).collect()
}
