//! Keys that a PKCS#11 token keeps: made there, found there by their label, and asked to sign there.
//!
//! Whatever talks to the token runs on a thread of its own, which has the one session. A module that does not come back
//! holds up that thread and nothing else: whoever asked is told so after a few seconds, and the next one at once.
//!
//! **Invariant:** a PIN that the token has refused is not tried again, and its last try is left to a person. A token that
//! locks itself takes every key with it.

use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use aws_lc_rs::digest;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;

use crate::pki::{KeyAlgorithm, RemoteFailure, RemoteSigner};
use crate::secret::Secret;
use crate::store::secret_source::{SecretError, SecretSource};

/// Which token, and how it is opened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TokenSettings {
    /// The shared library that talks to it.
    pub module: PathBuf,
    /// Its label.
    pub label: String,
    /// Where the PIN of its user is.
    pub pin: SecretSource,
}

/// Why the token does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Several keys under one label.
    #[error(
        "the token {token:?} has several keys labelled {key:?}: take away those that were not made by this agent"
    )]
    Ambiguous {
        /// The token's label.
        token: String,
        /// The key's label.
        key: String,
    },
    /// A kind of key that it does not know.
    #[error("the token {token:?} makes no {algorithm} keys ({reason}): set another `key` in [authority]")]
    Algorithm {
        /// The token's label.
        token: String,
        /// The kind of key.
        algorithm: KeyAlgorithm,
        /// What it said.
        reason: String,
    },
    /// The PIN has one try left, or none.
    #[error(
        "the token {token:?} {}: this agent does not use up the last try; log in by hand, or have the PIN set anew",
        if *locked { "is locked after too many wrong PINs" } else { "takes one more wrong PIN before it locks itself" }
    )]
    LastTry {
        /// The token's label.
        token: String,
        /// Whether it is too late.
        locked: bool,
    },
    /// The module cannot be used.
    #[error("the PKCS#11 module {} cannot be used ({reason}): `module` in [authority.pkcs11] names it", path.display())]
    Module {
        /// The shared library.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No such key.
    #[error(
        "the token {token:?} has no key labelled {key:?}: restore the token, or the state directory, from a backup"
    )]
    NoKey {
        /// The token's label.
        token: String,
        /// The key's label.
        key: String,
    },
    /// No such token.
    #[error("there is no token {token:?}; the module {} knows {found}", module.display())]
    NoToken {
        /// The label that was looked for.
        token: String,
        /// The shared library.
        module: PathBuf,
        /// What is there instead.
        found: String,
    },
    /// The PIN cannot be read.
    #[error("the PIN of the token {token:?} cannot be read")]
    Pin {
        /// The token's label.
        token: String,
        /// Why not.
        #[source]
        source: SecretError,
    },
    /// The PIN is wrong.
    #[error("the token {token:?} refuses the PIN; it is not tried again until another one is there")]
    PinRefused {
        /// The token's label.
        token: String,
    },
    /// Something else went wrong.
    #[error("the token {token:?} cannot {step} ({reason})")]
    Refused {
        /// The token's label.
        token: String,
        /// What was attempted, as a verb phrase.
        step: &'static str,
        /// What it said.
        reason: String,
    },
    /// It does not come back.
    #[error("the token {token:?} does not answer")]
    Silent {
        /// The token's label.
        token: String,
    },
}

/// A key as the token describes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct TokenKey {
    pub(super) algorithm: KeyAlgorithm,
    /// As it stands in a `SubjectPublicKeyInfo`.
    pub(super) public_key: Vec<u8>,
}

/// A token, asked through its thread.
#[derive(Debug)]
pub(super) struct Token {
    settings: TokenSettings,
    requests: Mutex<mpsc::Sender<Work>>,
    /// The thread, until it is told to end.
    thread: Option<thread::JoinHandle<()>>,
    /// How many requests have not been answered.
    open: Arc<AtomicUsize>,
}

type Work = Box<dyn FnOnce(&mut Keeper) + Send>;

/// How long a request may take. Making a key on a slow card takes a second or two.
const PATIENCE: Duration = Duration::from_secs(5);

/// A request that has not been answered, for as long as the value lives.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn count(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Token {
    /// Starts the thread; the token itself is only looked for when something is asked of it.
    pub(super) fn new(settings: TokenSettings) -> Result<Self, std::io::Error> {
        let (requests, received) = mpsc::channel::<Work>();
        let mut keeper = Keeper { settings: settings.clone(), module: None, session: None, refused: None };
        let thread = thread::Builder::new().name("token".to_owned()).spawn(move || {
            for work in received {
                // A request that breaks off must not take all later ones along.
                if panic::catch_unwind(AssertUnwindSafe(|| work(&mut keeper))).is_err() {
                    keeper.leave();
                }
            }
            keeper.leave();
        })?;
        Ok(Self { settings, requests: Mutex::new(requests), thread: Some(thread), open: Arc::default() })
    }

    /// Whether the token is there and lets us in.
    pub(super) fn check(&self) -> Result<(), TokenError> {
        self.ask(|keeper| keeper.with_session(|_, _| Ok(())))
    }

    /// Makes a key under `label` that never leaves the token.
    pub(super) fn generate(&self, algorithm: KeyAlgorithm, label: &str) -> Result<TokenKey, TokenError> {
        let label = label.to_owned();
        self.ask(move |keeper| {
            keeper.with_session(|_, _| Ok(()))?;
            // Once only: whoever tries again makes a second key.
            keeper.once(|settings, session| generate(settings, session, algorithm, &label))
        })
    }

    /// The key under `label`.
    pub(super) fn find(&self, label: &str) -> Result<TokenKey, TokenError> {
        let label = label.to_owned();
        self.ask(move |keeper| keeper.with_session(|settings, session| find(settings, session, &label)))
    }

    /// Destroys whatever is under `label`; it is no error if nothing is.
    pub(super) fn destroy(&self, label: &str) -> Result<(), TokenError> {
        let label = label.to_owned();
        self.ask(move |keeper| keeper.with_session(|settings, session| destroy(settings, session, &label)))
    }

    /// The signature of `message` by the key under `label`, in DER if there are two numbers in it.
    pub(super) fn sign(
        &self,
        algorithm: KeyAlgorithm,
        label: &str,
        message: &[u8],
    ) -> Result<Vec<u8>, TokenError> {
        let (label, message) = (label.to_owned(), message.to_owned());
        self.ask(move |keeper| {
            keeper.with_session(|settings, session| sign(settings, session, algorithm, &label, &message))
        })
    }

    fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Keeper) -> Result<T, TokenError> + Send + 'static,
    ) -> Result<T, TokenError> {
        let silent = || TokenError::Silent { token: self.settings.label.clone() };
        if self.open.load(Ordering::Acquire) > 0 {
            return Err(silent());
        }
        let (reply, answer) = mpsc::channel();
        let open = Open::count(&self.open);
        let request: Work = Box::new(move |keeper| {
            let outcome = work(keeper);
            drop(open);
            // Whoever asked may have given up.
            drop(reply.send(outcome));
        });
        let sent = self.requests.lock().unwrap_or_else(PoisonError::into_inner).send(request);
        sent.map_err(|_| silent())?;
        answer.recv_timeout(PATIENCE).unwrap_or_else(|_| Err(silent()))
    }
}

impl Drop for Token {
    /// Waits until the module was left in order: some bring the process down when it ends over their heads.
    fn drop(&mut self) {
        let (unheard, _) = mpsc::channel();
        *self.requests.lock().unwrap_or_else(PoisonError::into_inner) = unheard;
        let thread = self.thread.take().filter(|_| self.open.load(Ordering::Acquire) == 0);
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread of the token broke off");
        }
    }
}

/// A key on a token as something that signs.
#[derive(Debug)]
pub(super) struct TokenSigner {
    token: Arc<Token>,
    algorithm: KeyAlgorithm,
    label: String,
}

impl TokenSigner {
    pub(super) const fn new(token: Arc<Token>, algorithm: KeyAlgorithm, label: String) -> Self {
        Self { token, algorithm, label }
    }
}

impl RemoteSigner for TokenSigner {
    fn name(&self) -> &str {
        &self.label
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, RemoteFailure> {
        let signature = self.token.sign(self.algorithm, &self.label, message);
        signature.map_err(|error| RemoteFailure(crate::causes::Causes(&error).to_string()))
    }
}

/// What the token's thread has.
struct Keeper {
    settings: TokenSettings,
    module: Option<Pkcs11>,
    session: Option<Session>,
    /// The PIN that the token has refused.
    refused: Option<Secret>,
}

impl Keeper {
    /// Does `work` in the session. If the session, the token or the key has gone away, once more with everything anew: a module
    /// may go by what it saw before.
    fn with_session<T>(
        &mut self,
        work: impl Fn(&TokenSettings, &Session) -> Result<T, Trouble>,
    ) -> Result<T, TokenError> {
        match self.attempt(&work) {
            Err(
                Trouble::Gone { .. } | Trouble::Told(TokenError::NoKey { .. } | TokenError::NoToken { .. }),
            ) => {
                self.leave();
                let outcome = self.once(work);
                if outcome.is_err() {
                    self.leave();
                }
                outcome
            }
            outcome => outcome.map_err(|trouble| trouble.tell(&self.settings)),
        }
    }

    fn once<T>(
        &mut self,
        work: impl Fn(&TokenSettings, &Session) -> Result<T, Trouble>,
    ) -> Result<T, TokenError> {
        self.attempt(&work).map_err(|trouble| trouble.tell(&self.settings))
    }

    fn attempt<T>(
        &mut self,
        work: &impl Fn(&TokenSettings, &Session) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let session = match self.session.take() {
            Some(session) => session,
            None => self.log_in()?,
        };
        let outcome = work(&self.settings, &session);
        // What is said of a lost session is also said of a broken one; a new one costs little.
        if !matches!(outcome, Err(Trouble::Gone { .. })) {
            self.session = Some(session);
        }
        outcome
    }

    /// Closes the session and ends the module, so that the next request begins from nothing.
    fn leave(&mut self) {
        drop(self.session.take());
        if let Some(error) = self.module.take().and_then(|module| module.finalize().err()) {
            tracing::debug!(reason = reason(&error), "the PKCS#11 module did not end in order");
        }
    }

    fn log_in(&mut self) -> Result<Session, Trouble> {
        let module = match self.module.take() {
            Some(module) => module,
            None => self.load()?,
        };
        let session = self.log_in_at(&module);
        self.module = Some(module);
        session
    }

    fn load(&self) -> Result<Pkcs11, Trouble> {
        let failed = |error: Error| {
            let path = self.settings.module.clone();
            Trouble::Told(TokenError::Module { path, reason: reason(&error) })
        };
        let module = Pkcs11::new(&self.settings.module).map_err(failed)?;
        match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(module),
            Err(error) => Err(failed(error)),
        }
    }

    fn log_in_at(&mut self, module: &Pkcs11) -> Result<Session, Trouble> {
        let token = || self.settings.label.clone();
        let slot = self.slot(module)?;
        let info = module.get_token_info(slot).map_err(because("describe itself"))?;
        if info.user_pin_locked() || info.user_pin_final_try() {
            let locked = info.user_pin_locked();
            return Err(Trouble::Told(TokenError::LastTry { token: token(), locked }));
        }
        let pin = self.settings.pin.read();
        let pin = pin.map_err(|source| Trouble::Told(TokenError::Pin { token: token(), source }))?;
        if self.refused.as_ref() == Some(&pin) {
            return Err(Trouble::Told(TokenError::PinRefused { token: token() }));
        }
        let text = String::from_utf8(pin.expose_secret().to_vec());
        let text = text.map_err(|_| Trouble::Told(TokenError::PinRefused { token: token() }))?;
        let session = module.open_rw_session(slot).map_err(because("open a session"))?;
        match session.login(UserType::User, Some(&AuthPin::new(text.into_boxed_str()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(Error::Pkcs11(
                RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange | RvError::PinLocked,
                _,
            )) => {
                let token = token();
                self.refused = Some(pin);
                Err(Trouble::Told(TokenError::PinRefused { token }))
            }
            Err(error) => Err(because("log in")(error)),
        }
    }

    fn slot(&self, module: &Pkcs11) -> Result<Slot, Trouble> {
        let mut found = Vec::new();
        for slot in module.get_slots_with_token().map_err(because("be listed"))? {
            let Ok(info) = module.get_token_info(slot) else { continue };
            if info.label() == self.settings.label {
                return Ok(slot);
            }
            if info.token_initialized() {
                found.push(format!("{:?}", info.label()));
            }
        }
        let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
        let (token, module) = (self.settings.label.clone(), self.settings.module.clone());
        Err(Trouble::Told(TokenError::NoToken { token, module, found }))
    }
}

/// What went wrong, and whether a new session could help.
enum Trouble {
    Gone { step: &'static str, reason: String },
    Told(TokenError),
    Unwilling { step: &'static str, reason: String },
}

impl Trouble {
    fn tell(self, settings: &TokenSettings) -> TokenError {
        match self {
            Self::Told(error) => error,
            Self::Gone { step, reason } | Self::Unwilling { step, reason } => {
                TokenError::Refused { token: settings.label.clone(), step, reason }
            }
        }
    }
}

fn because(step: &'static str) -> impl Fn(Error) -> Trouble {
    move |error| {
        let gone = matches!(
            error,
            Error::Pkcs11(
                RvError::CryptokiNotInitialized
                    | RvError::DeviceError
                    | RvError::DeviceRemoved
                    | RvError::FunctionFailed
                    | RvError::GeneralError
                    | RvError::KeyHandleInvalid
                    | RvError::ObjectHandleInvalid
                    | RvError::OperationActive
                    | RvError::SessionClosed
                    | RvError::SessionHandleInvalid
                    | RvError::TokenNotPresent
                    | RvError::TokenNotRecognized
                    | RvError::UserNotLoggedIn,
                _
            )
        );
        let reason = reason(&error);
        if gone { Trouble::Gone { step, reason } } else { Trouble::Unwilling { step, reason } }
    }
}

/// The function and its return value by name; the library's own text is a paragraph of the specification.
fn reason(error: &Error) -> String {
    if let Error::Pkcs11(value, function) = error {
        format!("{function:?}: {value:?}")
    } else {
        error.to_string()
    }
}

fn generate(
    settings: &TokenSettings,
    session: &Session,
    algorithm: KeyAlgorithm,
    label: &str,
) -> Result<TokenKey, Trouble> {
    let name = || [Attribute::Label(label.as_bytes().to_vec()), Attribute::Id(label.as_bytes().to_vec())];
    let public = [
        &name()[..],
        &[
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::Verify(true),
            Attribute::EcParams(parameters(algorithm).to_vec()),
        ],
    ];
    let private = [
        &name()[..],
        &[
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
            // Some modules allow everything that they are not told to refuse.
            Attribute::Decrypt(false),
            Attribute::Unwrap(false),
            Attribute::Derive(false),
        ],
    ];
    let mechanism = match algorithm {
        KeyAlgorithm::EcdsaP256 | KeyAlgorithm::EcdsaP384 => Mechanism::EccKeyPairGen,
        KeyAlgorithm::Ed25519 => Mechanism::EccEdwardsKeyPairGen,
    };
    let made = session.generate_key_pair(&mechanism, &public.concat(), &private.concat());
    match made {
        Ok(_) => find(settings, session, label),
        Err(
            ref error @ Error::Pkcs11(
                RvError::AttributeValueInvalid
                | RvError::CurveNotSupported
                | RvError::MechanismInvalid
                | RvError::MechanismParamInvalid
                | RvError::TemplateInconsistent,
                _,
            ),
        ) => {
            let (token, reason) = (settings.label.clone(), reason(error));
            Err(Trouble::Told(TokenError::Algorithm { token, algorithm, reason }))
        }
        Err(error) => Err(because("make a key")(error)),
    }
}

fn find(settings: &TokenSettings, session: &Session, label: &str) -> Result<TokenKey, Trouble> {
    only(settings, session, ObjectClass::PRIVATE_KEY, label)?;
    let public = only(settings, session, ObjectClass::PUBLIC_KEY, label)?;
    let wanted = [AttributeType::EcParams, AttributeType::EcPoint];
    let attributes = session.get_attributes(public, &wanted).map_err(because("describe a key"))?;
    let (mut curve, mut point) = (None, None);
    for attribute in attributes {
        if let Attribute::EcParams(bytes) = attribute {
            curve = ALGORITHMS.into_iter().find(|algorithm| parameters(*algorithm) == bytes);
        } else if let Attribute::EcPoint(bytes) = attribute {
            point = Some(bytes);
        }
    }
    let key = curve.zip(point).and_then(|(algorithm, point)| {
        Some(TokenKey { algorithm, public_key: bare_point(algorithm, &point)?.to_vec() })
    });
    key.ok_or_else(|| Trouble::Unwilling {
        step: "describe a key",
        reason: format!("{label} is not on P-256 or P-384 or for Ed25519"),
    })
}

fn sign(
    settings: &TokenSettings,
    session: &Session,
    algorithm: KeyAlgorithm,
    label: &str,
    message: &[u8],
) -> Result<Vec<u8>, Trouble> {
    let key = only(settings, session, ObjectClass::PRIVATE_KEY, label)?;
    let prehash = |hash| digest::digest(hash, message).as_ref().to_vec();
    let failed = because("sign");
    match algorithm {
        KeyAlgorithm::EcdsaP256 => {
            session.sign(&Mechanism::Ecdsa, key, &prehash(&digest::SHA256)).map_err(failed).and_then(der)
        }
        KeyAlgorithm::EcdsaP384 => {
            session.sign(&Mechanism::Ecdsa, key, &prehash(&digest::SHA384)).map_err(failed).and_then(der)
        }
        KeyAlgorithm::Ed25519 => {
            let parameters = EddsaParams::new(EddsaSignatureScheme::Ed25519);
            session.sign(&Mechanism::Eddsa(parameters), key, message).map_err(failed)
        }
    }
}

fn destroy(_: &TokenSettings, session: &Session, label: &str) -> Result<(), Trouble> {
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
        for object in all(session, class, label)? {
            session.destroy_object(object).map_err(because("destroy a key"))?;
        }
    }
    Ok(())
}

fn all(session: &Session, class: ObjectClass, label: &str) -> Result<Vec<ObjectHandle>, Trouble> {
    let template =
        [Attribute::Token(true), Attribute::Class(class), Attribute::Label(label.as_bytes().to_vec())];
    session.find_objects(&template).map_err(because("look for a key"))
}

fn only(
    settings: &TokenSettings,
    session: &Session,
    class: ObjectClass,
    label: &str,
) -> Result<ObjectHandle, Trouble> {
    let (token, key) = (settings.label.clone(), label.to_owned());
    match all(session, class, label)?.as_slice() {
        [object] => Ok(*object),
        [] => Err(Trouble::Told(TokenError::NoKey { token, key })),
        [_, _, ..] => Err(Trouble::Told(TokenError::Ambiguous { token, key })),
    }
}

const ALGORITHMS: [KeyAlgorithm; 3] =
    [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384, KeyAlgorithm::Ed25519];

/// `CKA_EC_PARAMS`: the curve's object identifier in DER.
const fn parameters(algorithm: KeyAlgorithm) -> &'static [u8] {
    match algorithm {
        KeyAlgorithm::EcdsaP256 => &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
        KeyAlgorithm::EcdsaP384 => &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22],
        KeyAlgorithm::Ed25519 => &[0x06, 0x03, 0x2b, 0x65, 0x70],
    }
}

/// `CKA_EC_POINT` is the point in a DER `OCTET STRING`; some modules leave the wrapping out.
fn bare_point(algorithm: KeyAlgorithm, bytes: &[u8]) -> Option<&[u8]> {
    let length = match algorithm {
        KeyAlgorithm::EcdsaP256 => 65,
        KeyAlgorithm::EcdsaP384 => 97,
        KeyAlgorithm::Ed25519 => 32,
    };
    let bare = match bytes.len().checked_sub(length)? {
        0 => bytes,
        2 => bytes.strip_prefix(&[OCTET_STRING, u8::try_from(length).ok()?])?,
        _ => return None,
    };
    let uncompressed = algorithm == KeyAlgorithm::Ed25519 || bare.first() == Some(&UNCOMPRESSED);
    uncompressed.then_some(bare)
}

/// An ECDSA signature as certificates carry it; a token gives r and s one after the other, each as long as the curve.
///
/// > `ECDSA-Sig-Value ::= SEQUENCE { r INTEGER, s INTEGER }` — RFC 3279 §2.2.3
fn der(signature: Vec<u8>) -> Result<Vec<u8>, Trouble> {
    let wrong = || Trouble::Unwilling {
        step: "sign",
        reason: format!("a signature of {} bytes is none on this curve", signature.len()),
    };
    if !matches!(signature.len(), 64 | 96) {
        return Err(wrong());
    }
    let (r, s) = signature.split_at(signature.len() / 2);
    let body = [integer(r).ok_or_else(wrong)?, integer(s).ok_or_else(wrong)?].concat();
    let length = u8::try_from(body.len()).ok().filter(|length| *length < 0x80).ok_or_else(wrong)?;
    Ok([&[SEQUENCE, length][..], &body].concat())
}

fn integer(bytes: &[u8]) -> Option<Vec<u8>> {
    let start = bytes.iter().position(|byte| *byte != 0)?;
    let significant = bytes.get(start..)?;
    let sign: &[u8] = if significant.first()? & 0x80 == 0 { &[] } else { &[0] };
    let length = u8::try_from(sign.len() + significant.len()).ok()?;
    Some([&[INTEGER, length][..], sign, significant].concat())
}

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
const UNCOMPRESSED: u8 = 0x04;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_two_positive_numbers_without_leading_zeros() {
        let (mut r, mut s) = ([0_u8; 32], [0_u8; 32]);
        r[31] = 0x7f;
        s[30..].copy_from_slice(&[0x80, 0x01]);

        let Ok(signature) = der([r, s].concat()) else { panic!("it is a signature") };

        assert_eq!(signature, [0x30, 0x08, 0x02, 0x01, 0x7f, 0x02, 0x03, 0x00, 0x80, 0x01]);
    }

    #[test]
    fn the_longest_signature_fits() {
        let Ok(signature) = der(vec![0xff; 96]) else { panic!("it is a signature") };

        assert_eq!(signature.len(), 2 + 2 * (2 + 49));
        assert_eq!(signature[1], 102);
    }

    #[test]
    fn what_is_no_signature_is_refused() {
        for bytes in [vec![1; 63], vec![1; 65], Vec::new(), vec![0; 64]] {
            assert!(der(bytes).is_err());
        }
    }

    #[test]
    fn a_point_is_taken_with_and_without_its_wrapping() {
        let point = [&[0x04][..], &[7; 64]].concat();
        let wrapped = [&[0x04, 65][..], &point].concat();

        assert_eq!(bare_point(KeyAlgorithm::EcdsaP256, &point), Some(&*point));
        assert_eq!(bare_point(KeyAlgorithm::EcdsaP256, &wrapped), Some(&*point));
        assert_eq!(bare_point(KeyAlgorithm::EcdsaP384, &wrapped), None);
        assert_eq!(bare_point(KeyAlgorithm::EcdsaP256, &[&[0x02][..], &[7; 64]].concat()), None);
        assert_eq!(
            bare_point(KeyAlgorithm::Ed25519, &[&[0x04, 32][..], &[7; 32]].concat()),
            Some(&[7; 32][..])
        );
    }

    #[test]
    fn a_module_that_is_not_there_is_named() {
        let pin = SecretSource::File("/nonexistent/pin".into());
        let settings = TokenSettings { module: "/nonexistent/module.so".into(), label: "ca".to_owned(), pin };

        let error = Token::new(settings).unwrap().check().unwrap_err();

        assert!(
            error.to_string().starts_with("the PKCS#11 module /nonexistent/module.so cannot be used"),
            "{error}"
        );
    }

    #[test]
    fn a_request_that_breaks_off_does_not_take_later_ones_along() {
        let pin = SecretSource::File("/nonexistent/pin".into());
        let settings = TokenSettings { module: "/nonexistent/module.so".into(), label: "ca".to_owned(), pin };
        let token = Token::new(settings).unwrap();

        let broken: Result<(), TokenError> = token.ask(|_| panic!("a module's doing"));

        assert!(matches!(broken, Err(TokenError::Silent { .. })));
        assert!(matches!(token.check(), Err(TokenError::Module { .. })), "the next one is heard");
    }

    #[test]
    fn whoever_asks_a_token_that_does_not_answer_is_told_at_once() {
        let pin = SecretSource::File("/nonexistent/pin".into());
        let settings = TokenSettings { module: "/nonexistent/module.so".into(), label: "ca".to_owned(), pin };
        let token = Arc::new(Token::new(settings).unwrap());
        let (release, wait) = mpsc::channel::<()>();
        let (begun, begins) = mpsc::channel();
        let stuck = Arc::clone(&token);
        let first = thread::spawn(move || {
            stuck.ask(move |_| {
                begun.send(()).unwrap();
                wait.recv().unwrap();
                Ok(())
            })
        });
        begins.recv().unwrap();

        assert!(matches!(token.check(), Err(TokenError::Silent { .. })));

        release.send(()).unwrap();
        assert!(first.join().unwrap().is_ok());
        assert!(matches!(token.check(), Err(TokenError::Module { .. })), "it works again");
    }
}
