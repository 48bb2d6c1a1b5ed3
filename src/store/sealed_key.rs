//! A private key under a passphrase: PKCS#8 `EncryptedPrivateKeyInfo` (RFC 5958 §3) by PBES2 (RFC 8018 §6.2).
//!
//! What is written here is PBKDF2-HMAC-SHA256 and AES-256-CBC, which every OpenSSL since 1.1 reads. What is read is whatever
//! PBES2 allows with AES, scrypt included, as long as its cost is bounded: a file must not keep an agent from starting.

use aws_lc_rs::rand;
use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::der::asn1::OctetStringRef;
use pkcs8::der::{Decode as _, Encode as _};
use pkcs8::pkcs5::pbes2::{Kdf, Parameters};
use pkcs8::pkcs5::{self, EncryptionScheme};

use crate::secret::Secret;

/// How often PBKDF2 is repeated for what is written: what OWASP's cheat sheet on password storage asks of HMAC-SHA256.
pub(super) const ROUNDS: u32 = 600_000;

/// > For especially critical keys, or for very powerful systems, an iteration count of 10,000,000 may be appropriate.
/// > — RFC 8018 §4.2
const MOST_ROUNDS: u32 = 10_000_000;
/// How much memory scrypt may take, in bytes.
const MOST_MEMORY: u64 = 1 << 28;
const MOST_LANES: u16 = 16;

/// Why a key cannot be put under a passphrase, or taken out.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SealError {
    /// Deriving its key would take too long or too much memory.
    #[error("its key derivation costs more than {MOST_ROUNDS} rounds of PBKDF2 or 256 MiB of scrypt")]
    Costly,
    /// It is no encrypted key.
    #[error("it is no PKCS#8 EncryptedPrivateKeyInfo")]
    Malformed,
    /// The system has no randomness to give.
    #[error("the system gives no random bytes")]
    Random,
    /// A scheme that is not used here.
    #[error(
        "it is encrypted by another scheme than PBES2 with AES ({0}); write it anew with `openssl pkcs8 -topk8 -v2 aes-256-cbc`"
    )]
    Scheme(pkcs5::Error),
    /// The passphrase does not open it.
    #[error("the passphrase does not open it")]
    WrongPassphrase,
}

/// `pkcs8` under `passphrase`, with fresh salt and vector: no two calls give the same.
pub(super) fn seal(pkcs8: &Secret, passphrase: &Secret, rounds: u32) -> Result<Vec<u8>, SealError> {
    let (mut salt, mut vector) = ([0_u8; 16], [0_u8; 16]);
    rand::fill(&mut salt).and_then(|()| rand::fill(&mut vector)).map_err(|_| SealError::Random)?;
    let parameters =
        Parameters::generate_pbkdf2_sha256_aes256cbc(rounds, &salt, vector).map_err(SealError::Scheme)?;
    let sealed =
        parameters.encrypt(passphrase.expose_secret(), pkcs8.expose_secret()).map_err(SealError::Scheme)?;
    let encrypted_data = OctetStringRef::new(&sealed).map_err(|_| SealError::Malformed)?;
    let encryption_algorithm = EncryptionScheme::from(parameters);
    EncryptedPrivateKeyInfoRef { encryption_algorithm, encrypted_data }
        .to_der()
        .map_err(|_| SealError::Malformed)
}

/// The PKCS#8 key in `sealed`. A wrong passphrase goes unnoticed once in some two hundred and fifty times, and then what
/// comes out is no key.
pub(super) fn open(sealed: &[u8], passphrase: &Secret) -> Result<Secret, SealError> {
    let info = EncryptedPrivateKeyInfoRef::from_der(sealed).map_err(|_| SealError::Malformed)?;
    if let EncryptionScheme::Pbes2(parameters) = &info.encryption_algorithm {
        check_cost(&parameters.kdf)?;
    }
    let opened = info
        .encryption_algorithm
        .decrypt(passphrase.expose_secret(), info.encrypted_data.as_bytes())
        .map(Secret::new);
    opened.map_err(|error| {
        if error == pkcs5::Error::DecryptFailed {
            SealError::WrongPassphrase
        } else {
            SealError::Scheme(error)
        }
    })
}

fn check_cost(kdf: &Kdf) -> Result<(), SealError> {
    let bearable = match (kdf.pbkdf2(), kdf.scrypt()) {
        (Some(pbkdf2), _) => pbkdf2.iteration_count <= MOST_ROUNDS,
        (None, Some(scrypt)) => {
            let memory =
                scrypt.cost_parameter.saturating_mul(u64::from(scrypt.block_size)).saturating_mul(128);
            // The library takes a logarithm of it.
            scrypt.cost_parameter.is_power_of_two()
                && memory <= MOST_MEMORY
                && scrypt.parallelization <= MOST_LANES
        }
        // An unknown one is refused when it is asked to work.
        (None, None) => true,
    };
    if bearable { Ok(()) } else { Err(SealError::Costly) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEW: u32 = 10;

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec())
    }

    #[test]
    fn what_was_sealed_opens_with_the_same_passphrase_only() {
        let (key, passphrase) = (secret("a key of some length"), secret("correct horse"));

        let sealed = seal(&key, &passphrase, FEW).unwrap();

        assert_eq!(open(&sealed, &passphrase), Ok(key.clone()));
        assert_ne!(open(&sealed, &secret("correct horsf")).ok(), Some(key));
    }

    #[test]
    fn no_two_seals_are_alike() {
        let (key, passphrase) = (secret("a key"), secret("correct horse"));

        assert_ne!(seal(&key, &passphrase, FEW).unwrap(), seal(&key, &passphrase, FEW).unwrap());
    }

    #[test]
    fn a_file_that_would_take_hours_is_refused_at_once() {
        let (key, passphrase) = (secret("a key"), secret("correct horse"));
        let sealed = seal(&key, &passphrase, FEW).unwrap();
        assert!(open(&sealed, &passphrase).is_ok());
        let info = EncryptedPrivateKeyInfoRef::from_der(&sealed).unwrap();
        let costly =
            Parameters::generate_pbkdf2_sha256_aes256cbc(MOST_ROUNDS + 1, &[1; 16], [2; 16]).unwrap();
        let costly = EncryptedPrivateKeyInfoRef {
            encryption_algorithm: EncryptionScheme::from(costly),
            encrypted_data: info.encrypted_data,
        };

        assert_eq!(open(&costly.to_der().unwrap(), &passphrase), Err(SealError::Costly));
    }

    #[test]
    fn other_bytes_are_no_sealed_key() {
        for bytes in [&b""[..], b"key", &[0x30, 0x03, 0x02, 0x01, 0x00]] {
            assert_eq!(open(bytes, &secret("correct horse")), Err(SealError::Malformed));
        }
    }
}
