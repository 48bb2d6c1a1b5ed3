//! What checking a key or a token costs beyond its cryptography, and that a malformed or unknown one costs no more.
//! `cargo bench --bench credential`.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement that cannot go on may panic")]

mod timing;

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::PathBuf;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, ParsedPublicKey,
};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use postern::clock::Timestamp;
use postern::credential::token::{Bearer, JwkSet, OutsideIssuer, TokenTrust, VerificationKey};
use postern::credential::{ApiKey, Evidence, HeaderEvidence, Peppers, Refusal, authenticate};
use postern::registry::{Snapshot, Source, parse};
use postern::secret::Secret;
use timing::{median, per_call};

const APPS: usize = 100_000;

/// Checks in one round, and rounds, whose median is printed.
const TIMES: u32 = 20_000;
const ROUNDS: usize = 15;

/// What the check of a key may cost beyond its HMAC, in microseconds.
const BUDGET: f64 = 1.0;

const NOW: i64 = 1_800_000_000;

fn main() {
    keys();
    tokens();
}

fn figure(times: u32, call: impl Fn()) -> f64 {
    median(ROUNDS, || per_call(times, &call))
}

fn parsed(text: String) -> Snapshot {
    parse(&[Source { path: PathBuf::from("a.toml"), text }]).unwrap()
}

fn keys() {
    let random = SystemRandom::new();
    let pepper = vec![7; 32];
    let peppers = Peppers::new([("p1".to_owned(), Secret::new(pepper.clone()))]);
    let mut text = "[[developer]]\nid = 'team'\n".to_owned();
    let mut last = None;
    for app in 0..APPS {
        let key = ApiKey::generate(&random).unwrap();
        let hash = HEXLOWER.encode(&peppers.hash("p1", key.text().expose_secret()).unwrap());
        let id = key.id();
        write!(
            text,
            "[[app]]\nid = 'app-{app}'\ndeveloper = 'team'\n[[app.api_key]]\nid = '{id}'\nhash = 'hmac-sha256:p1:{hash}'\n"
        )
        .unwrap();
        last = Some(key);
    }
    let registry = parsed(text);
    let key = last.unwrap().text().expose_secret().to_vec();
    let unknown = ApiKey::generate(&random).unwrap().text().expose_secret().to_vec();
    let mut malformed = key.clone();
    *malformed.last_mut().unwrap() ^= 1;

    let bare = hmac::Key::new(hmac::HMAC_SHA256, &pepper);
    let tag = hmac::sign(&bare, &key);
    let crypto = figure(TIMES, || assert!(hmac::verify(&bare, &key, tag.as_ref()).is_ok()));
    let ask = |key: &[u8]| {
        let headers = HeaderEvidence { api_key: Some(key), ..HeaderEvidence::default() };
        let evidence = Evidence { headers, ..Evidence::default() };
        authenticate(&evidence, &registry, &peppers, Timestamp::from_unix(NOW)).map(|_| ())
    };
    let refused = |key: &[u8]| figure(TIMES, || assert_eq!(ask(key), Err(Refusal::InvalidCredential)));
    let whole = figure(TIMES, || assert_eq!(ask(&key), Ok(())));
    let beyond = whole - crypto;
    let verdict = if beyond <= BUDGET { "within" } else { "beyond" };
    println!(
        "a key, {APPS} apps: {whole:.3} µs, of which its HMAC {crypto:.3} µs; {beyond:.3} µs over it, {verdict} the budget of {BUDGET} µs"
    );
    println!("an unknown key: {:.3} µs; a malformed one: {:.3} µs", refused(&unknown), refused(&malformed));
}

/// The signature over some bytes.
type Sign = dyn Fn(&[u8]) -> Vec<u8>;

/// Somebody who signs tokens, and how they are checked without us.
struct Signer {
    name: &'static str,
    key: VerificationKey,
    sign: Box<Sign>,
    bare: ParsedPublicKey,
}

fn tokens() {
    let random = SystemRandom::new();
    let ed25519 = Ed25519KeyPair::generate().unwrap();
    let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let p256 = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, made.as_ref()).unwrap();
    let signers = [
        Signer {
            name: "EdDSA",
            key: VerificationKey::ed25519(ed25519.public_key().as_ref()).unwrap(),
            bare: ParsedPublicKey::new(&ED25519, ed25519.public_key().as_ref()).unwrap(),
            sign: Box::new(move |input| ed25519.sign(input).as_ref().to_vec()),
        },
        Signer {
            name: "ES256",
            key: VerificationKey::p256(p256.public_key().as_ref()).unwrap(),
            bare: ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, p256.public_key().as_ref()).unwrap(),
            sign: Box::new(move |input| p256.sign(&SystemRandom::new(), input).unwrap().as_ref().to_vec()),
        },
    ];
    for signer in signers {
        token(&signer);
    }
}

fn token(Signer { name, key, sign, bare }: &Signer) {
    let id = key.thumbprint();
    let registry = parsed(
        "[[developer]]\nid = 'team'\n[[app]]\nid = 'partner'\ndeveloper = 'team'\n\
         [[app.token]]\nissuer = 'https://id.test'\nclient_id = 'partner'\n"
            .to_owned(),
    );
    let keys = JwkSet::parse(JwkSet::write([(id.as_str(), key)]).as_bytes()).unwrap();
    let issuer = OutsideIssuer::new("https://id.test", ["https://orders.test".to_owned()]).with_keys(keys);
    let trust = TokenTrust::default().with_outside(issuer);
    let part = |text: String| BASE64URL_NOPAD.encode(text.as_bytes());
    let head = part(format!(r#"{{"typ":"at+jwt","alg":"{name}","kid":"{id}"}}"#));
    let claims = part(format!(
        r#"{{"iss":"https://id.test","aud":"https://orders.test","sub":"x","client_id":"partner","jti":"1","iat":{NOW},"exp":{},"scope":"orders:read orders:write"}}"#,
        NOW + 600
    ));
    let input = format!("{head}.{claims}");
    let signature = sign(input.as_bytes());
    let field = format!("Bearer {input}.{}", BASE64URL_NOPAD.encode(&signature));

    let times = TIMES / 10;
    let crypto = figure(times, || assert!(bare.verify_sig(input.as_bytes(), &signature).is_ok()));
    let peppers = Peppers::default();
    let whole = figure(times, || {
        let token = Bearer::from_fields([("authorization", field.as_bytes())], &trust).unwrap();
        let headers = HeaderEvidence { token, ..HeaderEvidence::default() };
        let evidence = Evidence { headers, ..Evidence::default() };
        black_box(authenticate(&evidence, &registry, &peppers, Timestamp::from_unix(NOW)).unwrap());
    });
    println!(
        "a token by {name}: {whole:.2} µs, of which cryptography {crypto:.2} µs; {:.2} µs over it",
        whole - crypto
    );
}
