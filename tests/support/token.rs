//! An issuer of access tokens outside the agent.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
};
use data_encoding::BASE64URL_NOPAD;
use postern::clock::{Clock as _, SystemClock};
use postern::credential::token::{JwkSet, VerificationKey};
use serde_json::{Value, json};

/// A key that signs tokens.
pub(crate) struct TokenKey {
    pub(crate) public: VerificationKey,
    pub(crate) id: String,
    sign: Sign,
}

/// Makes a signature over bytes.
type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;

impl TokenKey {
    /// A fresh Ed25519 key.
    pub(crate) fn ed25519() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let public = VerificationKey::ed25519(pair.public_key().as_ref()).unwrap();
        Self::new(public, move |bytes| pair.sign(bytes).as_ref().to_vec())
    }

    /// A fresh key on P-256.
    pub(crate) fn p256() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let public = VerificationKey::p256(pair.public_key().as_ref()).unwrap();
        Self::new(public, move |bytes| pair.sign(&SystemRandom::new(), bytes).unwrap().as_ref().to_vec())
    }

    /// A fresh RSA key.
    pub(crate) fn rsa() -> Self {
        let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        let (n, e) = (pair.public_key().modulus(), pair.public_key().exponent());
        let public =
            VerificationKey::rsa(n.big_endian_without_leading_zero(), e.big_endian_without_leading_zero());
        Self::new(public.unwrap(), move |bytes| {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), bytes, &mut signature).unwrap();
            signature
        })
    }

    fn new(public: VerificationKey, sign: impl Fn(&[u8]) -> Vec<u8> + 'static) -> Self {
        Self { id: public.thumbprint(), public, sign: Box::new(sign) }
    }

    /// A token under this key, named `id` in its header.
    pub(crate) fn sign_as(&self, id: &str, claims: &Value) -> String {
        let header = json!({ "typ": "at+jwt", "alg": self.public.algorithm().as_str(), "kid": id });
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let input = format!("{}.{}", part(&header), part(claims));
        let signature = (self.sign)(input.as_bytes());
        format!("{input}.{}", BASE64URL_NOPAD.encode(&signature))
    }

    /// A token of `issuer` for `client`, good for ten minutes.
    pub(crate) fn token(&self, issuer: &str, client: &str) -> String {
        self.sign_as(&self.id, &claims(issuer, client))
    }
}

/// What a token of `issuer` for `client` claims that is good for ten minutes.
pub(crate) fn claims(issuer: &str, client: &str) -> Value {
    let now = SystemClock.now().unix();
    json!({
        "iss": issuer, "aud": AUDIENCE, "sub": client, "client_id": client, "iat": now, "exp": now + 600,
        "jti": super::sign::nonce(), "scope": "orders:read",
    })
}

/// A JWK Set of `keys`.
pub(crate) fn jwks(keys: &[&TokenKey]) -> String {
    JwkSet::write(keys.iter().map(|key| (key.id.as_str(), &key.public)))
}

/// The field line that presents a token.
pub(crate) fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

/// What the agent is called in `aud`.
pub(crate) const AUDIENCE: &str = "https://orders.test";
