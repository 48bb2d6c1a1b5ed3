//! Where the private keys of the authorities are: in plain files, in files under a passphrase, or on a PKCS#11 token.
//!
//! ```text
//! authorities/<id>/key.pem      PRIVATE KEY, or ENCRYPTED PRIVATE KEY when a passphrase is configured
//! authorities/<id>/key.toml     instead of it: the label of a key on the token
//! <state>/token-keys            the labels that this state directory has made keys under
//! ```
//!
//! Where a *new* key goes is a setting; where an old one is, its directory says. So a CA may have keys in several places, and
//! replacing its authorities one after the other moves it.
//!
//! **Invariant:** a key on the token is destroyed only if this state directory made it and no file in it names it any more.
//! Several agents may share a token.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use aws_lc_rs::{digest, rand};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::causes::Causes;
use crate::pki::{KeyAlgorithm, KeyError, KeyPair, KeySource, RemoteFailure};
use crate::secret::Secret;
use crate::store::atomic_file::{self, AtomicError};
use crate::store::pem::{self, PemError};
use crate::store::sealed_key::{self, ROUNDS, SealError};
use crate::store::secret_source::{SecretError, SecretSource};
use crate::store::token::{Token, TokenError, TokenKey, TokenSettings, TokenSigner};

/// How the keys of the authorities are kept.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KeySettings {
    /// Where new ones go.
    pub custody: Custody,
    /// What key files are encrypted under; none means plain files.
    pub passphrase: Option<SecretSource>,
    /// The token, also if it only has keys from before.
    pub token: Option<TokenSettings>,
}

/// Where a new key goes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Custody {
    /// Into the state directory.
    #[default]
    Files,
    /// Onto the token, which makes it and never gives it away.
    Token,
}

/// Why a key cannot be kept or had.
#[derive(Debug, thiserror::Error)]
pub enum KeyStoreError {
    /// Under the label is another key, or one whose halves do not belong together.
    #[error("the key on the token is not the one that {} was written for: restore the token from a backup", path.display())]
    Exchanged {
        /// The reference.
        path: PathBuf,
    },
    /// No key is in it.
    #[error("{} holds no usable key: restore it from a backup", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: KeyError,
    },
    /// The journal of labels cannot be used.
    #[error("cannot {step} {}", path.display())]
    Journal {
        /// What was attempted, as a verb phrase that the path completes.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The configured passphrase cannot be read.
    #[error("the passphrase of the authorities' keys cannot be read")]
    Passphrase(#[source] SecretError),
    /// A key under a passphrase, and none is configured.
    #[error(
        "{} is encrypted and no passphrase is configured: set `passphrase_file` or `passphrase_credential` in [authority], or \
         let `postern ca rekey --former-passphrase-file …` decrypt it",
        path.display()
    )]
    PassphraseMissing {
        /// The key file.
        path: PathBuf,
    },
    /// A reference that cannot be understood.
    #[error("{} is damaged: {reason}; restore it from a backup", path.display())]
    Reference {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A key file could not be replaced.
    #[error(transparent)]
    Replace(#[from] AtomicError),
    /// A key under a passphrase that cannot be opened.
    #[error("{} cannot be opened", path.display())]
    Seal {
        /// The key file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: SealError,
    },
    /// The system gives no thread.
    #[error("the token has no thread")]
    Thread(#[source] io::Error),
    /// The token does not do what it should.
    #[error("the authority's key cannot be had from the token")]
    Token(#[from] TokenError),
    /// A key on a token, and none is configured.
    #[error("{} names a key on a token and no token is configured: set [authority.pkcs11]", path.display())]
    TokenMissing {
        /// The reference.
        path: PathBuf,
    },
    /// A plain key although there is a passphrase.
    #[error(
        "{} is not encrypted, although a passphrase is configured: `postern ca rekey` encrypts all keys under it",
        path.display()
    )]
    Unencrypted {
        /// The key file.
        path: PathBuf,
    },
    /// A label for a key could not be drawn.
    #[error("the system gives no random bytes")]
    Random,
    /// The passphrase is another one.
    #[error(
        "the configured passphrase does not open {}: configure the right one; after a change of the passphrase `postern ca \
         rekey --former-passphrase-file …` writes all keys anew",
        path.display()
    )]
    WrongPassphrase {
        /// The key file.
        path: PathBuf,
    },
}

/// The place where the keys are.
#[derive(Debug)]
pub struct KeyStore {
    state: PathBuf,
    passphrase: Option<Secret>,
    rounds: u32,
    custody: Custody,
    token: Option<Arc<Token>>,
    /// Files that were read or written under the passphrase. Deriving a key is slow on purpose, and the same key under the
    /// same passphrase looks different each time.
    sealed: Mutex<Vec<Sealed>>,
}

#[derive(Debug)]
struct Sealed {
    public_key: Vec<u8>,
    text: Secret,
}

/// What stands in an authority's directory for its key.
pub(super) struct KeyFile {
    pub(super) name: &'static str,
    pub(super) content: Secret,
}

/// A key file as it is found.
pub(super) enum Found {
    Plain(Secret),
    Sealed(Vec<u8>),
}

/// The name of a key's own file.
pub(super) const KEY: &str = "key.pem";
/// The name of the file that says where the key is.
pub(super) const REFERENCE: &str = "key.toml";
const JOURNAL: &str = "token-keys";
/// What every key on a token is called, so that people see whose it is.
const LABEL: &str = "postern-";

const HEADER: &str = "# Written by postern; the key itself is on the PKCS#11 token, under this label.\n";

impl KeyStore {
    /// Keys in plain files in `state`.
    #[must_use]
    pub fn plain(state: &Path) -> Self {
        Self {
            state: state.to_owned(),
            passphrase: None,
            rounds: ROUNDS,
            custody: Custody::Files,
            token: None,
            sealed: Mutex::default(),
        }
    }

    /// The place that `settings` describe, for the state directory `state`. A token that new keys go to must be there.
    ///
    /// # Errors
    /// The passphrase cannot be read, or the token does not let us in.
    pub fn open(state: &Path, settings: &KeySettings) -> Result<Self, KeyStoreError> {
        let passphrase = settings.passphrase.as_ref().map(SecretSource::read).transpose();
        let token = settings.token.clone().map(Token::new).transpose().map_err(KeyStoreError::Thread)?;
        if let (Custody::Token, Some(token)) = (settings.custody, &token) {
            token.check()?;
        }
        Ok(Self {
            passphrase: passphrase.map_err(KeyStoreError::Passphrase)?,
            custody: settings.custody,
            token: token.map(Arc::new),
            ..Self::plain(state)
        })
    }

    /// Keys in files under `passphrase`, derived quickly.
    #[cfg(test)]
    pub(super) fn sealed_quickly(state: &Path, passphrase: &str) -> Self {
        let passphrase = Some(Secret::new(passphrase.as_bytes().to_vec()));
        Self { passphrase, rounds: 10, ..Self::plain(state) }
    }

    /// What stands for `key` in its authority's directory: always the same text for the same key.
    pub(super) fn file_of(&self, key: &KeyPair) -> Result<KeyFile, SealError> {
        let Some(pkcs8) = key.to_pkcs8_der() else {
            return Ok(KeyFile { name: REFERENCE, content: reference(key) });
        };
        let content = match &self.passphrase {
            None => pem::key_to_pem(&pkcs8),
            Some(passphrase) => self.sealed(key, &pkcs8, passphrase)?,
        };
        Ok(KeyFile { name: KEY, content })
    }

    fn sealed(&self, key: &KeyPair, pkcs8: &Secret, passphrase: &Secret) -> Result<Secret, SealError> {
        let public_key = key.public_key_info();
        let known = self.lock().iter().find(|one| one.public_key == public_key).map(|one| one.text.clone());
        if let Some(known) = known {
            return Ok(known);
        }
        let der = sealed_key::seal(pkcs8, passphrase, self.rounds)?;
        let text = Secret::new(pem::encrypted_key_to_pem(&der).into_bytes());
        self.lock().push(Sealed { public_key, text: text.clone() });
        Ok(text)
    }

    /// The key of the file `path`, whose content is `bytes`.
    pub(super) fn read_file(
        &self,
        path: &Path,
        bytes: &Secret,
    ) -> Result<Result<KeyPair, PemError>, KeyStoreError> {
        let found = match found(bytes) {
            Ok(found) => found,
            Err(error) => return Ok(Err(error)),
        };
        let path = || path.to_owned();
        let unusable = |source| KeyStoreError::Key { path: path(), source };
        match (found, &self.passphrase) {
            (Found::Plain(pkcs8), None) => KeyPair::from_pkcs8(&pkcs8).map(Ok).map_err(unusable),
            (Found::Plain(_), Some(_)) => Err(KeyStoreError::Unencrypted { path: path() }),
            (Found::Sealed(_), None) => Err(KeyStoreError::PassphraseMissing { path: path() }),
            (Found::Sealed(der), Some(passphrase)) => {
                let Some((key, _)) = opened(&path(), &der, passphrase)? else {
                    return Err(KeyStoreError::WrongPassphrase { path: path() });
                };
                let public_key = key.public_key_info();
                self.lock().retain(|one| one.public_key != public_key);
                self.lock().push(Sealed { public_key, text: bytes.clone() });
                Ok(Ok(key))
            }
        }
    }

    /// The file that should stand at `path` instead of `bytes`, with the key in it; `None` if `bytes` are as they should be.
    pub(super) fn rewritten(
        &self,
        path: &Path,
        bytes: &Secret,
        former: Option<&Secret>,
    ) -> Result<Result<(KeyPair, Option<Secret>), PemError>, KeyStoreError> {
        let found = match found(bytes) {
            Ok(found) => found,
            Err(error) => return Ok(Err(error)),
        };
        let (key, pkcs8, is_current) = match found {
            Found::Plain(pkcs8) => {
                let key = KeyPair::from_pkcs8(&pkcs8)
                    .map_err(|source| KeyStoreError::Key { path: path.to_owned(), source })?;
                (key, pkcs8, self.passphrase.is_none())
            }
            Found::Sealed(der) => {
                let open = |passphrase: Option<&Secret>| match passphrase {
                    Some(passphrase) => opened(path, &der, passphrase),
                    None => Ok(None),
                };
                if let Some((key, pkcs8)) = open(self.passphrase.as_ref())? {
                    (key, pkcs8, true)
                } else if let Some((key, pkcs8)) = open(former)? {
                    (key, pkcs8, false)
                } else {
                    let path = path.to_owned();
                    return Err(match (&self.passphrase, former) {
                        (None, None) => KeyStoreError::PassphraseMissing { path },
                        (Some(_), _) | (None, Some(_)) => KeyStoreError::WrongPassphrase { path },
                    });
                }
            }
        };
        if is_current {
            return Ok(Ok((key, None)));
        }
        let text = match &self.passphrase {
            None => Ok(pem::key_to_pem(&pkcs8)),
            Some(passphrase) => self.sealed(&key, &pkcs8, passphrase),
        };
        let text = text.map_err(|source| KeyStoreError::Seal { path: path.to_owned(), source })?;
        Ok(Ok((key, Some(text))))
    }

    /// The key that the reference at `path` names. It signs once, so that what does not work is known before it matters.
    pub(super) fn read_reference(&self, path: &Path, bytes: &[u8]) -> Result<KeyPair, KeyStoreError> {
        let reference = Reference::read(path, bytes)?;
        let token =
            self.token.as_ref().ok_or_else(|| KeyStoreError::TokenMissing { path: path.to_owned() })?;
        let found = token.find(&reference.label)?;
        let key = on_token(token, &found, reference.label);
        if fingerprint(&key) != reference.public_key_sha256 || !signs(token, &found, &key)? {
            return Err(KeyStoreError::Exchanged { path: path.to_owned() });
        }
        Ok(key)
    }

    fn make_on(&self, token: &Arc<Token>, algorithm: KeyAlgorithm) -> Result<KeyPair, KeyStoreError> {
        let mut bytes = [0_u8; 16];
        rand::fill(&mut bytes).map_err(|_| KeyStoreError::Random)?;
        let label = format!("{LABEL}{}", HEXLOWER.encode(&bytes));
        // Written down before it is made: whatever happens then, it is known whose it is.
        let mut labels = self.journal()?;
        labels.insert(label.clone());
        self.write_journal(&labels)?;
        let made = token.generate(algorithm, &label)?;
        Ok(on_token(token, &made, label))
    }

    /// Forgets and destroys what belongs to no authority any more. `used` are the keys of those that count.
    ///
    /// # Errors
    /// What could not be destroyed; it is tried again the next time.
    pub(super) fn tidy(&self, used: &[&KeyPair]) -> Result<(), KeyStoreError> {
        let public_keys: Vec<Vec<u8>> = used.iter().map(|key| key.public_key_info()).collect();
        self.lock().retain(|one| public_keys.contains(&one.public_key));
        let Some(token) = &self.token else { return Ok(()) };
        let mut labels = self.journal()?;
        if labels.is_empty() {
            return Ok(());
        }
        let mut named = self.named_in_files()?;
        named.extend(used.iter().filter_map(|key| key.remote_name().map(str::to_owned)));
        let idle: Vec<String> = labels.difference(&named).cloned().collect();
        let mut outcome = Ok(());
        let before = labels.len();
        for label in idle {
            match token.destroy(&label) {
                Ok(()) => {
                    tracing::info!(label, "key on the token destroyed");
                    labels.remove(&label);
                }
                Err(error) => outcome = Err(error.into()),
            }
        }
        if labels.len() < before {
            self.write_journal(&labels)?;
        }
        outcome
    }

    /// The labels that any reference in the state directory names, whether it counts or not.
    fn named_in_files(&self) -> Result<BTreeSet<String>, KeyStoreError> {
        let mut named = BTreeSet::new();
        for outer in directories_in(&self.state)? {
            for inner in directories_in(&outer)?.into_iter().chain([outer]) {
                let path = inner.join(REFERENCE);
                match fs::read(&path) {
                    Ok(bytes) => {
                        named.insert(Reference::read(&path, &bytes)?.label);
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => (),
                    Err(source) => return Err(KeyStoreError::Journal { step: "read", path, source }),
                }
            }
        }
        Ok(named)
    }

    fn journal(&self) -> Result<BTreeSet<String>, KeyStoreError> {
        let path = self.state.join(JOURNAL);
        match fs::read_to_string(&path) {
            // Nothing else is ever destroyed, whatever somebody wrote there.
            Ok(text) => Ok(text.lines().filter(|line| line.starts_with(LABEL)).map(str::to_owned).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(source) => Err(KeyStoreError::Journal { step: "read", path, source }),
        }
    }

    fn write_journal(&self, labels: &BTreeSet<String>) -> Result<(), KeyStoreError> {
        let text: String = labels.iter().map(|label| format!("{label}\n")).collect();
        Ok(atomic_file::replace(&self.state.join(JOURNAL), text.as_bytes(), 0o600)?)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Sealed>> {
        self.sealed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeySource for KeyStore {
    fn generate(&self, algorithm: KeyAlgorithm) -> Result<KeyPair, KeyError> {
        match (self.custody, &self.token) {
            (Custody::Token, Some(token)) => self
                .make_on(token, algorithm)
                .map_err(|error| KeyError::Elsewhere(RemoteFailure(Causes(&error).to_string()))),
            (Custody::Token, None) => {
                Err(KeyError::Elsewhere(RemoteFailure("no token is configured".to_owned())))
            }
            (Custody::Files, _) => KeyPair::generate(algorithm),
        }
    }
}

/// `key.toml`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Reference {
    version: u32,
    label: String,
    public_key_sha256: String,
}

/// The format of `key.toml` that this program writes and reads.
const VERSION: u32 = 1;

impl Reference {
    fn read(path: &Path, bytes: &[u8]) -> Result<Self, KeyStoreError> {
        let damaged = |reason: String| KeyStoreError::Reference { path: path.to_owned(), reason };
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is not UTF-8".to_owned()))?;
        let reference: Self = toml::from_str(text).map_err(|error| damaged(error.message().to_owned()))?;
        if reference.version != VERSION {
            return Err(damaged(format!("it has version {}, this agent knows {VERSION}", reference.version)));
        }
        Ok(reference)
    }
}

/// A label is letters, digits and hyphens, so nothing needs escaping.
fn reference(key: &KeyPair) -> Secret {
    let label = key.remote_name().unwrap_or_default();
    let text = format!(
        "{HEADER}\nversion = {VERSION}\nlabel = \"{label}\"\npublic_key_sha256 = \"{}\"\n",
        fingerprint(key)
    );
    Secret::new(text.into_bytes())
}

fn fingerprint(key: &KeyPair) -> String {
    HEXLOWER.encode(digest::digest(&digest::SHA256, &key.public_key_info()).as_ref())
}

fn on_token(token: &Arc<Token>, found: &TokenKey, label: String) -> KeyPair {
    let signer = TokenSigner::new(Arc::clone(token), found.algorithm, label);
    KeyPair::remote(found.algorithm, found.public_key.clone(), Arc::new(signer))
}

/// Whether the private half belongs to the public one.
fn signs(token: &Token, found: &TokenKey, key: &KeyPair) -> Result<bool, TokenError> {
    const MESSAGE: &[u8] = b"postern: does this key sign?";
    let algorithm: &'static dyn VerificationAlgorithm = match found.algorithm {
        KeyAlgorithm::EcdsaP256 => &signature::ECDSA_P256_SHA256_ASN1,
        KeyAlgorithm::EcdsaP384 => &signature::ECDSA_P384_SHA384_ASN1,
        KeyAlgorithm::Ed25519 => &signature::ED25519,
    };
    let signature = token.sign(found.algorithm, key.remote_name().unwrap_or_default(), MESSAGE)?;
    Ok(UnparsedPublicKey::new(algorithm, &found.public_key).verify(MESSAGE, &signature).is_ok())
}

fn found(bytes: &Secret) -> Result<Found, PemError> {
    match pem::encrypted_private_key(bytes.expose_secret())? {
        Some(der) => Ok(Found::Sealed(der)),
        None => pem::private_key(bytes.expose_secret()).map(Found::Plain),
    }
}

/// The key in `der`; `None` if the passphrase is another one.
fn opened(path: &Path, der: &[u8], passphrase: &Secret) -> Result<Option<(KeyPair, Secret)>, KeyStoreError> {
    match sealed_key::open(der, passphrase) {
        Ok(pkcs8) => Ok(KeyPair::from_pkcs8(&pkcs8).ok().map(|key| (key, pkcs8))),
        Err(SealError::WrongPassphrase) => Ok(None),
        Err(source) => Err(KeyStoreError::Seal { path: path.to_owned(), source }),
    }
}

fn directories_in(directory: &Path) -> Result<Vec<PathBuf>, KeyStoreError> {
    let failed = |source| KeyStoreError::Journal { step: "list", path: directory.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}
