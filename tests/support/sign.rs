//! A caller that signs its requests.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use data_encoding::BASE64URL_NOPAD;
use httparse::Header;
use postern::clock::{Clock as _, SystemClock, Timestamp};
use postern::credential::{Content, Message, Plan, Signer, usual_cover};

/// A key for signatures, and how the registry knows it.
pub(crate) struct SigningKey {
    pub(crate) id: String,
    pub(crate) signer: Signer,
    /// `algorithm` and what it is checked by, as lines of the registry.
    pub(crate) on_file: String,
}

/// Fields of a request, each with its value.
pub(crate) type Fields = Vec<(String, String)>;

impl SigningKey {
    /// A fresh Ed25519 key.
    pub(crate) fn ed25519(id: &str) -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let x = BASE64URL_NOPAD.encode(pair.public_key().as_ref());
        let jwk = format!("{{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"{x}\"}}");
        let on_file = format!("algorithm = \"ed25519\"\npublic_key = '{jwk}'\n");
        Self { id: id.to_owned(), signer: Signer::Ed25519(pair), on_file }
    }

    /// A fresh P-256 key.
    pub(crate) fn p256(id: &str) -> Self {
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, made.unwrap().as_ref()).unwrap();
        let point = pair.public_key().as_ref().to_vec();
        let (x, y) = (BASE64URL_NOPAD.encode(&point[1..33]), BASE64URL_NOPAD.encode(&point[33..]));
        let jwk = format!("{{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"{x}\",\"y\":\"{y}\"}}");
        let on_file = format!("algorithm = \"ecdsa-p256-sha256\"\npublic_key = '{jwk}'\n");
        Self { id: id.to_owned(), signer: Signer::EcdsaP256(pair), on_file }
    }

    /// The table that stands behind an `[[app]]`.
    pub(crate) fn table(&self) -> String {
        format!("[[app.signature]]\nid = \"{}\"\n{}", self.id, self.on_file)
    }

    /// The fields of a signed request to `https://localhost`: those given, and the signature's.
    pub(crate) fn sign(&self, method: &str, target: &str, fields: &[(&str, &str)]) -> Fields {
        self.sign_at(SystemClock.now(), Some(&nonce()), method, target, fields)
    }

    /// The same with a creation time and a nonce, or none.
    pub(crate) fn sign_at(
        &self,
        created: Timestamp,
        nonce: Option<&str>,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
    ) -> Fields {
        let headers: Vec<Header<'_>> =
            fields.iter().map(|(name, value)| Header { name, value: value.as_bytes() }).collect();
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let content = Content::Absent;
        let message = Message { method, authority: "localhost", path, query, fields: &headers, content };
        let plan =
            Plan { cover: usual_cover(&message), created, expires: None, keyid: &self.id, nonce, tag: None };
        let lines = self.signer.sign(&message, "sig1", &plan).unwrap();
        let given = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let own = [("signature-input".to_owned(), lines.input), ("signature".to_owned(), lines.signature)];
        given.chain(own).collect()
    }
}

/// Field lines as HTTP/1 has them.
pub(crate) fn lines(fields: &Fields) -> String {
    fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
}

/// The fields as `H2::get` takes them.
pub(crate) fn pairs(fields: &Fields) -> Vec<(&str, &str)> {
    fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// A word that nobody has used.
pub(crate) fn nonce() -> String {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    BASE64URL_NOPAD.encode(&bytes)
}
