//! What checking a signature over a request costs beyond its cryptography, what a nonce adds, what a request without a
//! signature pays for the question, and whether unknown and wrong take the same time. `cargo bench --bench signature`.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement that cannot go on may panic")]

mod timing;

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, ParsedPublicKey,
};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use httparse::Header;
use postern::clock::Timestamp;
use postern::credential::{
    Content, Evidence, HeaderEvidence, Message, NonceMemory, NonceUse, Peppers, Plan, Refusal,
    SignatureRules, SignatureTerms, Signed, Signer, SigningSecret, authenticate, usual_cover,
};
use postern::registry::{Snapshot, Source, parse};
use postern::secret::Secret;
use timing::{median, per_call};

/// Checks in one round, and rounds, whose median is printed.
const TIMES: u32 = 5_000;
const ROUNDS: usize = 15;

/// What a check may cost beyond its cryptography, in microseconds.
const BUDGET: f64 = 5.0;

/// The usual fields of a request.
const USUAL: [(&str, &str); 8] = [
    ("host", "api.example.com"),
    ("user-agent", "curl/8.5.0"),
    ("accept", "application/json"),
    ("accept-encoding", "gzip"),
    ("content-type", "application/json"),
    ("content-length", "18"),
    ("content-digest", "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
];

/// The bare cryptography of one check.
type Bare = Box<dyn Fn(&[u8], &[u8]) -> bool>;

fn main() {
    let world = World::new();
    for (name, signer, id, bare) in &world.keys {
        let (fields, base, signature) = world.signed(signer, id, None);
        let headers = headers(&fields);
        let crypto = median(ROUNDS, || per_call(TIMES, || assert!(bare(&base, &signature))));
        let whole =
            median(ROUNDS, || per_call(TIMES, || assert_eq!(world.ask(&headers, NonceUse::Spend), Ok(()))));
        let beyond = whole - crypto;
        let verdict = if beyond <= BUDGET { "within" } else { "beyond" };
        println!(
            "{name}: {whole:.2} µs, of which cryptography {crypto:.2} µs; {beyond:.2} µs over it, {verdict} the budget of {BUDGET} µs"
        );
    }
    let (_, signer, id, _) = world.keys.first().unwrap();
    let (fields, _, _) = world.signed(signer, id, Some("a-nonce-that-is-looked-for"));
    let with_nonce = headers(&fields);
    let (fields, _, _) = world.signed(signer, id, None);
    let without = headers(&fields);
    let look =
        median(ROUNDS, || per_call(TIMES, || assert_eq!(world.ask(&with_nonce, NonceUse::Look), Ok(()))));
    let none = median(ROUNDS, || per_call(TIMES, || assert_eq!(world.ask(&without, NonceUse::Look), Ok(()))));
    println!("a nonce: {:.2} µs more", look - none);

    let usual = usual();
    let plain = headers(&usual);
    let unsigned = median(ROUNDS, || {
        per_call(TIMES, || assert!(black_box(world.read(&plain, NonceUse::Spend)).is_none()))
    });
    println!("a request without a signature: {:.0} ns", unsigned * 1e3);

    for (name, signer, id, _) in &world.keys {
        let other_id = if id.len() == 12 { "0000000000Zz" } else { "nobody-we-know" };
        let (mut wrong, _, _) = world.signed(signer, id, None);
        let (mut unknown, _, _) = world.signed(signer, other_id, None);
        for fields in [&mut wrong, &mut unknown] {
            let last = fields.last_mut().unwrap();
            let bytes =
                BASE64.decode(last.1.trim_start_matches("sig1=:").trim_end_matches(':').as_bytes()).unwrap();
            let bent: Vec<u8> = bytes.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 7)).collect();
            last.1 = format!("sig1=:{}:", BASE64.encode(&bent));
        }
        let (wrong, unknown) = (headers(&wrong), headers(&unknown));
        let refused = |fields: &[Header<'_>]| {
            median(ROUNDS, || {
                per_call(TIMES, || {
                    assert_eq!(world.ask(fields, NonceUse::Spend), Err(Refusal::InvalidCredential))
                })
            })
        };
        println!("{name}: wrong {:.2} µs, unknown {:.2} µs", refused(&wrong), refused(&unknown));
    }
}

struct World {
    registry: Snapshot,
    peppers: Peppers,
    terms: SignatureTerms,
    now: Timestamp,
    keys: Vec<(&'static str, Signer, String, Bare)>,
}

impl World {
    fn new() -> Self {
        let random = SystemRandom::new();
        let peppers = Peppers::new([("p1".to_owned(), Secret::new(vec![7; 32]))]);
        let secret = SigningSecret::generate(&random).unwrap();
        let sealed = peppers.seal("p1", secret.id(), secret.text().expose_secret()).unwrap();
        let pair = Ed25519KeyPair::generate().unwrap();
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let p256 = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, made.as_ref()).unwrap();
        let point = p256.public_key().as_ref().to_vec();
        let (ed25519_key, p256_key) = (
            ParsedPublicKey::new(&ED25519, pair.public_key().as_ref()).unwrap(),
            ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).unwrap(),
        );
        let coordinate = |range| BASE64URL_NOPAD.encode(point.get::<std::ops::Range<usize>>(range).unwrap());
        let text = format!(
            "[[developer]]\nid = 'team'\n[[app]]\nid = 'a'\ndeveloper = 'team'\n\
             [[app.signature]]\nid = '{}'\nalgorithm = 'hmac-sha256'\nsecret = 'aes-256-gcm:p1:{}'\n\
             [[app.signature]]\nid = 'ed25519'\nalgorithm = 'ed25519'\n\
             public_key = '{{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"{}\"}}'\n\
             [[app.signature]]\nid = 'p256'\nalgorithm = 'ecdsa-p256-sha256'\n\
             public_key = '{{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"{}\",\"y\":\"{}\"}}'\n",
            secret.id(),
            BASE64URL_NOPAD.encode(&sealed),
            BASE64URL_NOPAD.encode(pair.public_key().as_ref()),
            coordinate(1..33),
            coordinate(33..65),
        );
        let registry = parse(&[Source { path: PathBuf::from("a.toml"), text }]).unwrap();
        let hmac_key = hmac::Key::new(hmac::HMAC_SHA256, secret.text().expose_secret());
        let hmac_bare: Bare = Box::new(move |base, tag| hmac::verify(&hmac_key, base, tag).is_ok());
        let ed25519_bare: Bare = Box::new(move |base, made| ed25519_key.verify_sig(base, made).is_ok());
        let p256_bare: Bare = Box::new(move |base, made| p256_key.verify_sig(base, made).is_ok());
        let id = secret.id().to_owned();
        let keys = vec![
            ("hmac-sha256", Signer::shared(&secret), id, hmac_bare),
            ("ed25519", Signer::Ed25519(pair), "ed25519".to_owned(), ed25519_bare),
            ("ecdsa-p256-sha256", Signer::EcdsaP256(p256), "p256".to_owned(), p256_bare),
        ];
        let rules =
            SignatureRules { nonce: postern::credential::NonceRule::Never, ..SignatureRules::default() };
        let nonces = Arc::new(NonceMemory::new(rules.nonces, Timestamp::FLOOR));
        Self { registry, peppers, terms: SignatureTerms::new(rules, nonces), now: Timestamp::FLOOR, keys }
    }

    /// The fields of a signed request, what was signed, and the signature.
    fn signed(
        &self,
        signer: &Signer,
        keyid: &str,
        nonce: Option<&str>,
    ) -> (Vec<(String, String)>, Vec<u8>, Vec<u8>) {
        let mut fields = usual();
        let usual = headers(&fields);
        let message = message(&usual);
        let plan =
            Plan { cover: usual_cover(&message), created: self.now, expires: None, keyid, nonce, tag: None };
        let lines = signer.sign(&message, "sig1", &plan).unwrap();
        let digits = lines.signature.trim_start_matches("sig1=:").trim_end_matches(':');
        let signature = BASE64.decode(digits.as_bytes()).unwrap();
        fields.push(("signature-input".to_owned(), lines.input));
        fields.push(("signature".to_owned(), lines.signature));
        (fields, lines.base.into_bytes(), signature)
    }

    fn read<'a>(&'a self, fields: &'a [Header<'a>], nonce_use: NonceUse) -> Option<Signed<'a>> {
        Signed::read(message(fields), &self.terms, nonce_use).unwrap()
    }

    fn ask(&self, fields: &[Header<'_>], nonce_use: NonceUse) -> Result<(), Refusal> {
        let signed = self.read(fields, nonce_use);
        let headers = HeaderEvidence { signature: signed.as_ref(), ..HeaderEvidence::default() };
        let evidence = Evidence { headers, ..Evidence::default() };
        authenticate(&evidence, &self.registry, &self.peppers, self.now).map(|_| ())
    }
}

fn message<'a>(fields: &'a [Header<'a>]) -> Message<'a> {
    Message {
        method: "POST",
        authority: "api.example.com",
        path: "/orders/7/lines",
        query: Some("page=2&size=50"),
        fields,
        content: Content::Present,
    }
}

fn usual() -> Vec<(String, String)> {
    USUAL.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

fn headers(fields: &[(String, String)]) -> Vec<Header<'_>> {
    fields.iter().map(|(name, value)| Header { name, value: value.as_bytes() }).collect()
}
