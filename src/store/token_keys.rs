//! The keys that sign tokens: `<state>/token-keys.toml`, for the agent's eyes only, replaced whole at every step.
//!
//! ```toml
//! [[key]]
//! kid = "…"            # the thumbprint of the public half (RFC 7638)
//! algorithm = "ES256"
//! slot = "active"      # or prepared, or retired
//! created = 2026-01-01T00:00:00Z
//! since = 2026-01-01T00:00:00Z
//! longest = 600        # seconds: the longest life of a token that it may have signed
//! private_key = "…"    # PKCS#8 in base64
//! ```

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use zeroize::Zeroizing;

use crate::credential::token::{Algorithm, VerificationKey, members};
use crate::oauth::{KeyRing, KeySlot, KilledKey, SigningKey, TokenKey};
use crate::secret::Secret;
use crate::store::atomic_file::{self, AtomicError};
use crate::store::seal::{self, BrokenSeal};
use crate::toml_text::{Document, Problem, TableReader, Value};

/// Why the keys cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeysError {
    /// The system refused something.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error(
        "{}\nif it cannot be restored, remove it: new keys are made then, and no token that was issued before is taken any more",
        .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    )]
    Malformed(Vec<Problem>),
    /// Others may have read it.
    #[error(
        "{} has mode {mode:04o}, so others may have read it: `chmod 600` it if you are sure that nobody did, else remove it, so \
         that new keys are made and no token that was issued before is taken any more",
        path.display()
    )]
    Permissive {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It could not be written.
    #[error(transparent)]
    Replace(#[from] AtomicError),
    /// It was changed since it was written.
    #[error("{} is damaged", path.display())]
    Seal {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: BrokenSeal,
    },
}

/// The keys in `state`; none if none was ever made.
///
/// # Errors
/// They cannot be read, are malformed, or others may have read them.
pub fn load(state: &Path) -> Result<KeyRing, TokenKeysError> {
    let path = path(state);
    let read = |source| TokenKeysError::Io { path: path.clone(), source };
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(KeyRing::default()),
        file => file.map_err(read)?,
    };
    let mode = file.metadata().map_err(read)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(TokenKeysError::Permissive { path, mode });
    }
    let text = io::read_to_string(file).map(Zeroizing::new).map_err(read)?;
    let ring = parse(&path, &text).map_err(TokenKeysError::Malformed)?;
    seal::check(&text).map_err(|source| TokenKeysError::Seal { path, source })?;
    Ok(ring)
}

/// Puts `ring` in the place of all keys in `state`. It is on the disk when this returns.
///
/// # Errors
/// The old keys are still there.
pub fn save(state: &Path, ring: &KeyRing) -> Result<(), TokenKeysError> {
    let text = Zeroizing::new(seal::sealed(&Zeroizing::new(text(ring))));
    Ok(atomic_file::replace(&path(state), text.as_bytes(), 0o600)?)
}

/// Where the keys of `state` stand.
#[must_use]
pub fn path(state: &Path) -> PathBuf {
    state.join("token-keys.toml")
}

const HEADER: &str = "# Written by postern: the keys that sign tokens. Whoever holds one can make tokens, so never show it to anyone.\n";

fn text(ring: &KeyRing) -> String {
    let mut text = HEADER.to_owned();
    let mut line = |line: String| {
        // A String takes everything.
        let written = writeln!(text, "{line}");
        debug_assert!(written.is_ok());
    };
    for TokenKey { key, slot, created, longest } in &ring.keys {
        line(format!("\n[[key]]\nkid = \"{}\"\nalgorithm = \"{}\"", key.id(), key.algorithm()));
        line(format!("slot = \"{}\"\ncreated = {created}\nlongest = {}", slot.as_str(), longest.as_secs()));
        match slot {
            KeySlot::Active { since } => line(format!("since = {since}")),
            KeySlot::Prepared => {}
            KeySlot::Retired { until } => line(format!("until = {until}")),
        }
        let digits = Zeroizing::new(BASE64.encode(key.pkcs8().expose_secret()));
        line(format!("private_key = \"{}\"", *digits));
    }
    for KilledKey { public, until } in &ring.killed {
        let id = public.thumbprint();
        let jwk = serde_json::Value::Object(public.to_jwk(&id));
        line(format!("\n[[killed]]\nuntil = {until}\npublic_key = '{jwk}'"));
    }
    text
}

fn parse(path: &Path, text: &str) -> Result<KeyRing, Vec<Problem>> {
    let document = Document::parse(path, text)?;
    let mut root = document.root();
    let keys = root.tables("key").into_iter().filter_map(key).collect();
    let killed = root.tables("killed").into_iter().filter_map(killed).collect();
    let place = root.place();
    root.finish();
    let ring = KeyRing { keys, killed };
    let active = ring.keys.iter().filter(|key| matches!(key.slot, KeySlot::Active { .. })).count();
    if active > 1 {
        place.problem("two keys are active");
    }
    let problems = document.into_problems();
    if problems.is_empty() { Ok(ring) } else { Err(problems) }
}

fn key(mut table: TableReader<'_>) -> Option<TokenKey> {
    let words = [("ES256", Algorithm::Es256), ("EdDSA", Algorithm::EdDsa)];
    let slots = [("active", 0_u8), ("prepared", 1), ("retired", 2)];
    let id = table.required("kid", Value::text);
    let algorithm = table.required("algorithm", |value| value.word(&words));
    let slot = table.required("slot", |value| value.word(&slots));
    let created = table.required("created", Value::timestamp);
    let longest = table.required("longest", |value| value.integer(0_u64..=86_400));
    let slot = match slot {
        Some(0) => table.required("since", Value::timestamp).map(|since| KeySlot::Active { since }),
        Some(2) => table.required("until", Value::timestamp).map(|until| KeySlot::Retired { until }),
        Some(_) => Some(KeySlot::Prepared),
        None => None,
    };
    let key = table.required("private_key", |value| {
        value.convert(|digits| {
            let pkcs8 = BASE64.decode(digits.as_bytes()).map(Secret::new).ok();
            let key = pkcs8
                .zip(algorithm)
                .and_then(|(pkcs8, algorithm)| SigningKey::from_pkcs8(algorithm, pkcs8).ok());
            key.ok_or("expected a private key for the algorithm, PKCS#8 in base64")
        })
    });
    if id.zip(key.as_ref()).is_some_and(|(id, key)| id != key.id()) {
        table.problem("the `kid` is not the thumbprint of the key");
    }
    table.finish();
    Some(TokenKey {
        key: Arc::new(key?),
        slot: slot?,
        created: created?,
        longest: Duration::from_secs(longest?),
    })
}

fn killed(mut table: TableReader<'_>) -> Option<KilledKey> {
    let until = table.required("until", Value::timestamp);
    let public = table.required("public_key", |value| {
        value.convert(|jwk| {
            let key = members(jwk.as_bytes()).ok().and_then(|jwk| VerificationKey::from_jwk(&jwk).ok());
            key.ok_or("expected a JWK")
        })
    });
    table.finish();
    Some(KilledKey { public: public?, until: until? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::oauth::{KeyRules, SigningKeyError};

    fn ring() -> KeyRing {
        let hour = Duration::from_secs(3600);
        let rules = KeyRules { algorithm: Algorithm::EdDsa, lifetime: hour, ttl: Duration::from_secs(600) };
        let mut ring = KeyRing::default();
        for now in [Timestamp::FLOOR, Timestamp::FLOOR + hour, Timestamp::FLOOR + hour * 2] {
            let rules = KeyRules {
                algorithm: if ring.keys.is_empty() { Algorithm::Es256 } else { Algorithm::EdDsa },
                ..rules
            };
            while let Some(step) = ring.due(&rules, now) {
                ring = ring.after::<SigningKeyError>(step, &rules, SigningKey::generate, now).unwrap();
            }
        }
        let killed = ring.keys[0].key.id().to_owned();
        ring.without(&killed, Timestamp::FLOOR + hour * 2).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(load(state.path()).unwrap(), KeyRing::default());
        let ring = ring();

        save(state.path(), &ring).unwrap();

        assert_eq!(load(state.path()).unwrap(), ring);
        assert!(!ring.keys.is_empty() && ring.killed.len() == 1);
        let mode = std::fs::metadata(path(state.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn a_file_that_others_can_read_or_that_was_changed_is_refused() {
        let state = tempfile::tempdir().unwrap();
        save(state.path(), &ring()).unwrap();
        let text = std::fs::read_to_string(path(state.path())).unwrap();
        let put =
            |text: &str, mode| atomic_file::replace(&path(state.path()), text.as_bytes(), mode).unwrap();

        put(&text, 0o640);
        assert!(matches!(load(state.path()), Err(TokenKeysError::Permissive { .. })));
        put(&text.replace("longest = 600", "longest = 601"), 0o600);
        assert!(matches!(load(state.path()), Err(TokenKeysError::Seal { .. })));
        put(&text.replacen("kid = \"", "kid = \"x", 1), 0o600);
        let error = load(state.path()).unwrap_err().to_string();
        assert!(error.contains("the `kid` is not the thumbprint of the key"), "{error}");
        put(&text.replace("private_key = \"", "private_key = \"AAAA"), 0o600);
        let error = load(state.path()).unwrap_err().to_string();
        assert!(error.contains("expected a private key") && !error.contains("AAAA"), "{error}");
    }
}
