//! HTTP Message Signatures (RFC 9421): what a request presents, and whether it proves anything.
//!
//! > Applications that process signed HTTP messages […] need to define requirements: the set of component identifiers that
//! > are expected and required, a means of retrieving the key material, the set of allowable signature algorithms, whether
//! > the signature's creation time is required to be fresh. — RFC 9421 §1.4 (in short)
//!
//! Here: [`SignatureRules`] says what must be covered and how old a signature may be, the registry has the keys, and the
//! algorithm belongs to the key. What is checked before the key has proven itself gets one answer for every failure.

mod base;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, VerificationAlgorithm};
use sfv::{BareItem, Dictionary, InnerList, Item, ListEntry};

use crate::clock::Timestamp;
use crate::credential::nonces::{Rejected, Use};
use crate::credential::structured::dictionary;
use crate::credential::{Content, ContentDigest, Message, NonceMemory, Peppers, Refusal};
use crate::registry::{Credential, CredentialSecret, SignatureAlgorithm, SignatureKey, Snapshot};

pub(super) use base::write_parameters;
pub use base::{BaseError, signature_base};

/// What a signature must be like to be believed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignatureRules {
    /// How old a signature may be.
    pub max_age: Duration,
    /// How far the clocks of caller and agent may lie apart.
    pub skew: Duration,
    /// Which requests need a nonce.
    pub nonce: NonceRule,
    /// How many nonces are remembered, in all.
    pub nonces: usize,
    /// Signatures with another `tag`, or none, are meant for others; without this, every signature is meant for us.
    pub tag: Option<Box<str>>,
    /// Fields that must be covered besides, where a request has them; in lower case.
    pub cover: Vec<Box<str>>,
}

/// Which requests need a nonce. One that is there counts in any case.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NonceRule {
    /// All of them.
    Always,
    /// None.
    Never,
    /// Those with a method that is not safe (RFC 9110 §9.2.1).
    Unsafe,
}

impl NonceRule {
    fn applies_to(self, method: &str) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Unsafe => !matches!(method, "GET" | "HEAD" | "OPTIONS"),
        }
    }
}

impl Default for SignatureRules {
    fn default() -> Self {
        Self {
            max_age: Duration::from_secs(300),
            skew: Duration::from_secs(30),
            nonce: NonceRule::Unsafe,
            nonces: 200_000,
            tag: None,
            cover: Vec::new(),
        }
    }
}

impl SignatureRules {
    /// What a caller is asked for who has not signed, or not enough: the value of `Accept-Signature` (RFC 9421 §5.1).
    #[must_use]
    pub fn invitation(&self) -> String {
        let mut value =
            String::from("sig1=(\"@method\" \"@authority\" \"@path\" \"@query\" \"content-digest\"");
        for name in &self.cover {
            value.push_str(" \"");
            value.push_str(name);
            value.push('"');
        }
        value.push_str(");created");
        if let Some(tag) = &self.tag {
            // Read from a configuration that allows nothing which would have to be escaped.
            value.push_str(";tag=\"");
            value.push_str(tag);
            value.push('"');
        }
        value
    }
}

/// The rules in force, and the nonces that were used under them.
#[derive(Clone, Debug)]
pub struct SignatureTerms {
    /// What a signature must be like.
    pub rules: SignatureRules,
    /// The nonces that were used; the same memory for as long as the agent runs.
    pub nonces: Arc<NonceMemory>,
    /// [`SignatureRules::invitation`], made once.
    pub invitation: Arc<str>,
}

impl SignatureTerms {
    /// Terms by these rules over a memory that goes on.
    #[must_use]
    pub fn new(rules: SignatureRules, nonces: Arc<NonceMemory>) -> Self {
        nonces.set_capacity(rules.nonces);
        let invitation = rules.invitation().into();
        Self { rules, nonces, invitation }
    }
}

/// Whether a nonce is used up by what is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NonceUse {
    /// It is only asked whether it could be used.
    Look,
    /// It is used.
    Spend,
    /// It was used before, by this very request, and the signature was of the right age then.
    Spent,
}

/// A signature as it was presented, unproven, with all that it is about.
#[derive(Debug)]
pub struct Signed<'a> {
    message: Message<'a>,
    terms: &'a SignatureTerms,
    nonce_use: NonceUse,
    covered: InnerList,
    signature: Vec<u8>,
    parameters: Parameters,
    digest: Coverage,
}

/// The parameters of a signature (RFC 9421 §2.3) but for its tag.
#[derive(Debug, Default)]
struct Parameters {
    alg: Option<String>,
    created: Option<Timestamp>,
    expires: Option<Timestamp>,
    keyid: Option<String>,
    nonce: Option<String>,
}

/// What a signature says of the body.
#[derive(Debug)]
enum Coverage {
    /// What it must hash to.
    Digest(ContentDigest),
    /// Nothing.
    None,
    /// It covers a `Content-Digest` that nobody can check.
    Unreadable,
}

impl<'a> Signed<'a> {
    /// Whether `message` presents a signature that is meant for us whatever it says, which is known before anything is read.
    #[must_use]
    pub fn is_presented(message: &Message<'_>, terms: &SignatureTerms) -> bool {
        terms.rules.tag.is_none() && message.values(INPUT_FIELD).next().is_some()
    }

    /// Reads the signature that `message` presents to us, if it presents one.
    ///
    /// With a `tag` in the rules it is the one with that tag; without, it is the only one. Which of several was meant is not
    /// ours to choose.
    ///
    /// # Errors
    /// There are several, or what is there is malformed.
    pub fn read(
        message: Message<'a>,
        terms: &'a SignatureTerms,
        nonce_use: NonceUse,
    ) -> Result<Option<Self>, Refusal> {
        let Some(input) = message.joined(INPUT_FIELD) else { return Ok(None) };
        let mut inputs = dictionary(&input).ok_or(Refusal::InvalidCredential)?;
        let Some(label) = label(&inputs, &terms.rules)? else { return Ok(None) };
        let Some(ListEntry::InnerList(covered)) = inputs.swap_remove(label.as_str()) else {
            return Err(Refusal::InvalidCredential);
        };
        let signatures = message.joined(SIGNATURE_FIELD).and_then(|value| dictionary(&value));
        let signature = signatures.and_then(|mut all| all.swap_remove(label.as_str()));
        let Some(ListEntry::Item(Item { bare_item: BareItem::ByteSequence(signature), .. })) = signature
        else {
            return Err(Refusal::InvalidCredential);
        };
        let parameters = Parameters::read(&covered).ok_or(Refusal::InvalidCredential)?;
        let digest = if covers(&covered, CONTENT_DIGEST) {
            let field = message.joined(CONTENT_DIGEST).and_then(|value| ContentDigest::parse(&value));
            field.map_or(Coverage::Unreadable, Coverage::Digest)
        } else {
            Coverage::None
        };
        Ok(Some(Self { message, terms, nonce_use, covered, signature, parameters, digest }))
    }

    /// What the body must hash to, where the signature says so.
    #[must_use]
    pub const fn content_digest(&self) -> Option<&ContentDigest> {
        match &self.digest {
            Coverage::Digest(digest) => Some(digest),
            Coverage::None | Coverage::Unreadable => None,
        }
    }

    /// The credential on file that made this signature over this request.
    ///
    /// # Errors
    /// [`Refusal::InvalidCredential`] for everything: who guesses learns nothing.
    pub(super) fn prove<'s>(
        &self,
        registry: &'s Snapshot,
        peppers: &Peppers,
    ) -> Result<&'s Credential, Refusal> {
        let base = signature_base(&self.message, &self.covered).map_err(|_| Refusal::InvalidCredential)?;
        let keyid = self.parameters.keyid.as_deref().ok_or(Refusal::InvalidCredential)?;
        let on_file = registry.signature_key(keyid).and_then(|credential| match &credential.secret {
            CredentialSecret::Signature(key) => Some((credential, key)),
            CredentialSecret::ApiKey { .. }
            | CredentialSecret::Certificate(_)
            | CredentialSecret::ClientKey(_)
            | CredentialSecret::ClientSecret { .. }
            | CredentialSecret::ImportedKey { .. }
            | CredentialSecret::Token(_) => None,
        });
        // > If the algorithm […] is not appropriate for the key material, the verification fails. — RFC 9421 §3.2
        let fits = |key: &SignatureKey| {
            self.parameters.alg.as_deref().is_none_or(|alg| alg == key.algorithm().as_str())
        };
        let found = on_file.filter(|(_, key)| fits(key));
        if let Some((credential, key)) = found
            && holds(key, keyid, peppers, base.as_bytes(), &self.signature)
        {
            return Ok(credential);
        }
        self.pretend(found.map(|(_, key)| key.algorithm()), keyid, peppers, base.as_bytes());
        Err(Refusal::InvalidCredential)
    }

    /// Does the work of the algorithms that have not been `tried`, so that every failure has cost that of all three, and its
    /// time says neither whether there is such a key nor of which kind it is.
    fn pretend(&self, tried: Option<SignatureAlgorithm>, keyid: &str, peppers: &Peppers, base: &[u8]) {
        for algorithm in SignatureAlgorithm::ALL.into_iter().filter(|algorithm| Some(*algorithm) != tried) {
            // Whatever comes of it, nobody has that key.
            let _ignored = std::hint::black_box(match algorithm {
                SignatureAlgorithm::EcdsaP256Sha256 => {
                    P256_DECOY.as_ref().is_some_and(|key| key.verify_sig(base, &self.signature).is_ok())
                }
                SignatureAlgorithm::Ed25519 => {
                    ED25519_DECOY.as_ref().is_some_and(|key| key.verify_sig(base, &self.signature).is_ok())
                }
                SignatureAlgorithm::HmacSha256 => {
                    let opened =
                        peppers.newest().and_then(|pepper| peppers.open(pepper, keyid, &[0; USUAL_SEALED]));
                    let key = hmac::Key::new(hmac::HMAC_SHA256, &[0; 32]);
                    hmac::verify(&key, base, &self.signature).is_ok() && opened.is_some()
                }
            });
        }
    }

    /// Whether the signature says enough of the request, and is neither too old nor too young.
    ///
    /// # Errors
    /// What is missing.
    pub(super) fn check(&self, now: Timestamp) -> Result<(), Refusal> {
        let rules = &self.terms.rules;
        let created = self.parameters.created.ok_or(Refusal::InsufficientCoverage)?;
        if !self.covers_enough() {
            return Err(Refusal::InsufficientCoverage);
        }
        match &self.digest {
            Coverage::Unreadable => return Err(Refusal::BadContentDigest),
            // No body that could be compared later will come.
            Coverage::Digest(digest)
                if self.message.content == Content::Absent && !digest.begin().matches() =>
            {
                return Err(Refusal::ContentDigestMismatch);
            }
            Coverage::Digest(_) | Coverage::None => {}
        }
        if self.nonce_use == NonceUse::Spent {
            return Ok(());
        }
        if created > now + rules.skew || now > created + rules.max_age + rules.skew {
            return Err(Refusal::ClockSkew);
        }
        if self.parameters.expires.is_some_and(|end| end <= created || now > end + rules.skew) {
            return Err(Refusal::SignatureExpired);
        }
        Ok(())
    }

    /// Uses up the nonce, if there is one; the last thing that is done before a caller is believed.
    ///
    /// # Errors
    /// It was used before, or no more can be remembered.
    pub(super) fn spend_nonce(&self, credential: &Credential, now: Timestamp) -> Result<(), Refusal> {
        let (Some(nonce), Some(created)) = (self.parameters.nonce.as_deref(), self.parameters.created) else {
            return Ok(());
        };
        let rules = &self.terms.rules;
        let oldest = created + rules.max_age;
        let until = self.parameters.expires.map_or(oldest, |expires| expires.min(oldest)) + rules.skew;
        let one = Use { credential: credential.id.as_str(), nonce, created, until };
        let taken = match self.nonce_use {
            NonceUse::Look => self.terms.nonces.look(&one, now),
            NonceUse::Spend => self.terms.nonces.spend(&one, now),
            NonceUse::Spent => Ok(()),
        };
        taken.map_err(|rejected| match rejected {
            Rejected::Full => Refusal::ReplayMemoryFull,
            Rejected::Used => Refusal::Replayed,
        })
    }

    fn covers_enough(&self) -> bool {
        let rules = &self.terms.rules;
        let any = |names: &[&str]| names.iter().any(|name| covers(&self.covered, name));
        let has_field = |name: &str| self.message.values(name).next().is_some();
        covers(&self.covered, "@method")
            && any(&["@authority", "@target-uri"])
            && any(&["@path", "@target-uri", "@request-target"])
            && (self.message.query.is_none() || any(&["@query", "@target-uri", "@request-target"]))
            && (self.message.content == Content::Absent || covers(&self.covered, CONTENT_DIGEST))
            && rules.cover.iter().all(|name| !has_field(name) || covers(&self.covered, name))
            && (self.parameters.nonce.is_some() || !rules.nonce.applies_to(self.message.method))
    }
}

/// The label of the signature that is meant for us, if one is.
fn label(inputs: &Dictionary, rules: &SignatureRules) -> Result<Option<String>, Refusal> {
    let is_ours = |entry: &ListEntry| match (&rules.tag, entry) {
        (None, _) => true,
        (Some(tag), ListEntry::InnerList(list)) => {
            let given = list.params.get("tag").and_then(BareItem::as_string);
            given.is_some_and(|given| *given.as_str() == **tag)
        }
        (Some(_), ListEntry::Item(_)) => false,
    };
    let mut ours = inputs.iter().filter(|(_, entry)| is_ours(entry)).map(|(label, _)| label.as_str());
    match (ours.next(), ours.next()) {
        (Some(label), None) => Ok(Some(label.to_owned())),
        (Some(_), Some(_)) => Err(Refusal::DuplicateCredential),
        (None, _) if rules.tag.is_some() => Ok(None),
        (None, _) => Err(Refusal::InvalidCredential),
    }
}

/// Whether the whole component is covered: a parameter may say how its value is written, but not that it is part of it.
fn covers(covered: &InnerList, name: &str) -> bool {
    covered.items.iter().any(|item| {
        let named = item.bare_item.as_string().is_some_and(|found| found.as_str() == name);
        named && item.params.keys().all(|key| matches!(key.as_str(), "bs" | "sf"))
    })
}

impl Parameters {
    /// `None` when one of them is of the wrong type.
    fn read(covered: &InnerList) -> Option<Self> {
        let mut read = Self::default();
        for (key, value) in &covered.params {
            match (key.as_str(), value) {
                ("alg", BareItem::String(text)) => read.alg = Some(text.as_str().to_owned()),
                ("created", BareItem::Integer(at)) => read.created = Some(instant(*at)),
                ("expires", BareItem::Integer(at)) => read.expires = Some(instant(*at)),
                ("keyid", BareItem::String(text)) => read.keyid = Some(text.as_str().to_owned()),
                ("nonce", BareItem::String(text)) if !text.as_str().is_empty() => {
                    read.nonce = Some(text.as_str().to_owned());
                }
                ("tag", BareItem::String(_)) => {}
                ("alg" | "created" | "expires" | "keyid" | "nonce" | "tag", _) => return None,
                // What else is said is signed as well, and means nothing here.
                _ => {}
            }
        }
        Some(read)
    }
}

fn instant(seconds: sfv::Integer) -> Timestamp {
    Timestamp::from_unix(seconds.into())
}

fn holds(key: &SignatureKey, keyid: &str, peppers: &Peppers, base: &[u8], signature: &[u8]) -> bool {
    match key {
        SignatureKey::Public { key, .. } => key.verify_sig(base, signature).is_ok(),
        SignatureKey::Sealed { pepper, sealed } => {
            peppers.open(pepper, keyid, sealed).is_some_and(|secret| {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret());
                hmac::verify(&key, base, signature).is_ok()
            })
        }
    }
}

/// Keys that nobody is believed by: those of RFC 9421 appendix B.1.3 and B.1.4, whose private halves everybody knows.
static ED25519_DECOY: LazyLock<Option<ParsedPublicKey>> =
    LazyLock::new(|| decoy(&ED25519, b"JrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs="));
static P256_DECOY: LazyLock<Option<ParsedPublicKey>> = LazyLock::new(|| {
    let point = b"BKiFWGVSwqz2Rxh4z9ewk1tP/g/S38NBJI6he8QeBYrwMc4nN9LTDOBhfoUeg8Ye9WedFRhnZXZJA12Qp0zZ6F0=";
    decoy(&ECDSA_P256_SHA256_FIXED, point)
});

fn decoy(algorithm: &'static dyn VerificationAlgorithm, key: &[u8]) -> Option<ParsedPublicKey> {
    ParsedPublicKey::new(algorithm, data_encoding::BASE64.decode(key).ok()?).ok()
}

/// What a secret that is made here takes when it is sealed: nonce, 70 characters, tag.
const USUAL_SEALED: usize = 12 + 70 + 16;

const INPUT_FIELD: &str = "signature-input";
const SIGNATURE_FIELD: &str = "signature";
const CONTENT_DIGEST: &str = "content-digest";

#[cfg(test)]
mod tests;
