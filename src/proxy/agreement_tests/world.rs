//! An agent with a generated registry, and requests to it as they come over the wire.

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde_json::{Map, Value as Json, json};

use super::book::{
    About, Alternatives, Answered, Book, Call, KeyShown, OUTSIDE, Path, SignatureFlaw, SignatureShown,
    TokenFlaw, TokenShown, Value, Word, at,
};
use crate::clock::Timestamp;
use crate::credential::token::{
    JwkSet, KeyStatus, OutsideIssuer, OwnIssuer, Proves, TokenTrust, VerificationKey,
};
use crate::credential::{
    ApiKey, Content, Message, NonceMemory, Peppers, Plan, SignatureRules, SignatureTerms, Signer, usual_cover,
};
use crate::identity::Subject;
use crate::limit::Throttle;
use crate::pki::{BundleSet, Verified, Verifier};
use crate::proxy::admission::{Purpose, Verdict, Visitor, admit, request_id};
use crate::proxy::http_gate::{MAX_FIELDS, read_http1};
use crate::proxy::rehearse::{Caller, Part, rehearse};
use crate::proxy::request_id::RequestIds;
use crate::proxy::settings::{
    Endpoint, ErrorFormat, Limits, ListenerSettings, ServiceProtocol, ServiceSettings, Watch,
};
use crate::proxy::snapshot::{Listener, Routes, Snapshot};
use crate::proxy::tests::listener;
use crate::proxy::trace::Trace;
use crate::registry::{Accepts, Source, parse};
use crate::secret::Secret;

const OWN: &str = "https://postern.test";
const USERS: &str = "https://users.test";
const AUDIENCE: &str = "https://orders.test";

pub(super) struct Keys {
    /// API keys, each with its hash; the first is on file for nobody.
    pub(super) keys: Vec<(ApiKey, String)>,
    /// Keys that sign requests, each with its public half; the first and the last are on file for nobody.
    pub(super) signers: Vec<(Signer, String)>,
    issuer: Ed25519KeyPair,
    issuer_id: String,
    thief: Ed25519KeyPair,
    peppers: Arc<Peppers>,
    tokens: Arc<TokenTrust>,
    signatures: Arc<SignatureTerms>,
    verifier: Arc<Verifier>,
    throttle: Arc<Throttle>,
    listener: Listener,
    ids: RequestIds,
}

/// The number of the key that signs for others.
const FORGER: usize = 5;

impl Keys {
    pub(super) fn new() -> Self {
        let peppers = Peppers::new([("p1".to_owned(), Secret::new(vec![7; 32]))]);
        let key = |_| {
            let key = ApiKey::generate(&SystemRandom::new()).unwrap();
            let hash = peppers.hash("p1", key.text().expose_secret()).unwrap();
            (key, HEXLOWER.encode(&hash))
        };
        let signer = |_| {
            let pair = Ed25519KeyPair::generate().unwrap();
            let x = BASE64URL_NOPAD.encode(pair.public_key().as_ref());
            (Signer::Ed25519(pair), format!("{{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"{x}\"}}"))
        };
        let (keys, signers) = ((0..5).map(key).collect(), (0..=FORGER).map(signer).collect());
        let issuer = Ed25519KeyPair::generate().unwrap();
        let public = VerificationKey::ed25519(issuer.public_key().as_ref()).unwrap();
        let issuer_id = public.thumbprint();
        let outside = |name: Word, proves| {
            let set = JwkSet::write([(issuer_id.as_str(), &public)]);
            let mut issuer = OutsideIssuer::new(name, [AUDIENCE.to_owned()]);
            issuer.proves = proves;
            issuer.with_keys(JwkSet::parse(set.as_bytes()).unwrap())
        };
        let own = OwnIssuer::new(OWN, [AUDIENCE.to_owned()]).with_key(public.clone(), KeyStatus::Current);
        let tokens = TokenTrust::default()
            .with_own(own)
            .with_outside(outside(OUTSIDE, Proves::Apps))
            .with_outside(outside(USERS, Proves::Users));
        let nonces = Arc::new(NonceMemory::new(1000, Timestamp::FLOOR));
        Self {
            keys,
            signers,
            issuer,
            issuer_id,
            thief: Ed25519KeyPair::generate().unwrap(),
            peppers: Arc::new(peppers),
            tokens: Arc::new(tokens),
            signatures: Arc::new(SignatureTerms::new(SignatureRules::default(), nonces)),
            verifier: Arc::new(Verifier::new(Arc::new(BundleSet::default()), Arc::default()).unwrap()),
            throttle: Arc::default(),
            listener: listener(),
            ids: RequestIds::new(),
        }
    }
}

/// An agent with one registry.
pub(super) struct World<'k> {
    keys: &'k Keys,
    pub(super) text: String,
    snapshot: Snapshot,
    listener: Arc<Listener>,
}

impl<'k> World<'k> {
    pub(super) fn new(book: &Book, keys: &'k Keys) -> Self {
        let text = book.text(keys);
        let registry = parse(&[Source { path: PathBuf::from("a.toml"), text: text.clone() }]);
        let registry = registry.unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
        let service = |(id, accepts): &(Word, Option<Alternatives>)| ServiceSettings {
            id: id.parse().unwrap(),
            hosts: vec![format!("{id}.test")],
            base_path: "/".into(),
            endpoint: Endpoint::Whoami,
            protocol: ServiceProtocol::default(),
            accepts: accepts.as_ref().map(accepted),
            concurrency: None,
            error_format: ErrorFormat::default(),
            upgrades: Arc::default(),
            send_proxy: Default::default(),
            trailers: Arc::default(),
            watch: Watch::Off,
            client_cert: Default::default(),
            assertion: None,
        };
        let snapshot = Snapshot {
            registry: Arc::new(registry),
            peppers: Arc::clone(&keys.peppers),
            environment: book.environment.map(|name| name.parse().unwrap()),
            verifier: Arc::clone(&keys.verifier),
            routes: Arc::new(Routes::new(book.services.iter().map(service))),
            listeners: BTreeMap::new(),
            remotes: BTreeMap::new(),
            limits: Arc::new(Limits { failed_keys: None, ..Limits::default() }),
            api_key_header: "x-api-key".into(),
            signatures: Arc::clone(&keys.signatures),
            tokens: Arc::clone(&keys.tokens),
            retired: Arc::default(),
            ledger: Arc::default(),
            throttle: Arc::clone(&keys.throttle),
            inflight: BTreeMap::new(),
            office: None,
            assertion_keys: Default::default(),
        };
        let Listener { settings, own_id, life, tls } = &keys.listener;
        let settings = ListenerSettings { accepts: book.listener.as_ref().map(accepted), ..settings.clone() };
        let listener = Listener { settings, own_id: own_id.clone(), life: *life, tls: Arc::clone(tls) };
        Self { keys, text, snapshot, listener: Arc::new(listener) }
    }

    /// What the rehearsal and the live decision say, in this order, for only the latter uses a nonce up.
    pub(super) fn ask(&self, call: &Call, nonce: &str) -> [Answered; 2] {
        let bytes = head(call, self.keys, nonce).into_bytes();
        [self.rehearsed(call, &bytes), self.live(call, &bytes)]
    }

    fn rehearsed(&self, call: &Call, head: &[u8]) -> Answered {
        let caller = Caller {
            verified: call.certificate.map(verified),
            address: call.address.parse().unwrap(),
            sni: call.sni.map(str::to_owned),
        };
        let outcome = rehearse(&self.listener, caller, &Part::Http(head), &self.snapshot, at(0));
        let (kind, id) = outcome.credential.unwrap_or_default();
        Answered {
            status: outcome.status,
            code: outcome.code.to_owned(),
            service: outcome.service,
            app: outcome.app,
            product: outcome.product,
            credential: (kind.to_owned(), id),
            scopes: outcome.scopes,
        }
    }

    fn live(&self, call: &Call, head: &[u8]) -> Answered {
        let mut storage = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let head = read_http1(head, &mut storage).unwrap();
        let address: IpAddr = call.address.parse().unwrap();
        let certificate = call.certificate.map(|id| Arc::new(verified(id)));
        let peer = SocketAddr::new(address, 1);
        let visitor = Visitor::new(Arc::clone(&self.listener), peer, call.sni, certificate);
        let id = request_id(&head, &self.keys.ids, at(0));
        let trace = Trace::new(&head, &id, &self.keys.ids);
        let mut out = Vec::new();
        let answered = |status, verdict: &Verdict<'_>, scopes| Answered {
            status,
            code: verdict.code.to_owned(),
            service: verdict.service.to_owned(),
            app: verdict.app.to_owned(),
            product: verdict.product.to_owned(),
            credential: (verdict.credential.0.to_owned(), verdict.credential.1.to_owned()),
            scopes,
        };
        match admit(&head, &visitor, &self.snapshot, &trace, (Purpose::Admit, at(0)), &mut out) {
            Ok(admission) => {
                let verdict = admission.verdict();
                answered(200, &verdict, admission.permit.terms().scopes().map(str::to_owned).collect())
            }
            Err((answer, verdict)) => {
                assert_eq!((answer.code, out.len()), (verdict.code, 0));
                answered(answer.status, &verdict, answer.missing_scopes().map(str::to_owned).collect())
            }
        }
    }
}

fn accepted(alternatives: &Alternatives) -> Accepts {
    let kinds = |one: &Vec<Word>| one.iter().map(|kind| kind.parse().unwrap()).collect();
    Accepts::new(alternatives.iter().map(kinds)).unwrap()
}

fn verified(id: Word) -> Verified {
    Verified::imagined(Subject {
        spiffe_id: id.parse().unwrap(),
        dns: Vec::new(),
        attributes: Vec::new(),
        distinguished_name: String::new(),
        serial: String::new(),
        issuer: String::new(),
        not_before: at(-60),
        not_after: at(60),
        sha256: [0; 32],
        spki_sha256: [0; 32],
    })
}

/// The head of a request.
fn head(call: &Call, keys: &Keys, nonce: &str) -> String {
    let Call { method, host, path: Path { sent: path, .. }, query, .. } = *call;
    let target = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let mut text = format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n");
    let mut field = |name: &str, value: &str| write!(text, "{name}: {value}\r\n").unwrap();
    let key = |number: usize| String::from_utf8(keys.keys[number].0.text().expose_secret().to_vec()).unwrap();
    match call.key {
        Some(KeyShown::Garbage) => field("x-api-key", "pstn_sk_?"),
        Some(KeyShown::Numbered(number)) => field("x-api-key", &key(number)),
        Some(KeyShown::Twice(number)) => (0..2).for_each(|_| field("x-api-key", &key(number))),
        None => {}
    }
    if let Some(SignatureShown { number, is_forged, flaw }) = call.signature {
        let content = Content::Absent;
        let message = Message { method, authority: host, path, query, fields: &[], content };
        let mut cover = usual_cover(&message);
        let created = match flaw {
            SignatureFlaw::Covers => {
                cover.remove(0);
                at(0)
            }
            SignatureFlaw::Future => at(31),
            SignatureFlaw::None => at(0),
            SignatureFlaw::Old => at(-331),
        };
        let keyid = format!("sig{number}");
        let plan = Plan { cover, created, expires: None, keyid: &keyid, nonce: Some(nonce), tag: None };
        let signer = &keys.signers[if is_forged { FORGER } else { number }].0;
        let lines = signer.sign(&message, "sig1", &plan).unwrap();
        field("signature-input", &lines.input);
        field("signature", &lines.signature);
    }
    if let Some(shown) = &call.token {
        field("authorization", &format!("Bearer {}", shown.text(keys)));
    }
    text + "\r\n"
}

impl TokenShown {
    fn text(&self, keys: &Keys) -> String {
        let (issuer, subject) = match &self.about {
            About::Client(client) => (OUTSIDE, *client),
            About::Own(_, app) => (OWN, *app),
            About::User => (USERS, "jane"),
        };
        let client = if matches!(self.about, About::User) { "portal" } else { subject };
        let (begins, ends) = match self.flaw {
            TokenFlaw::Audience | TokenFlaw::None => (at(0), at(600)),
            TokenFlaw::Early => (at(60), at(600)),
            TokenFlaw::Late => (at(-600), at(-5)),
        };
        let audience = if self.flaw == TokenFlaw::Audience { "https://other.test" } else { AUDIENCE };
        let mut claims = Map::new();
        for (name, value) in &self.claims {
            let value = match value {
                Value::Many(texts) => json!(texts),
                Value::Number => json!(7),
                Value::One(text) => json!(text),
            };
            claims.insert((*name).to_owned(), value);
        }
        let usual = json!({
            "iss": issuer, "aud": audience, "sub": subject, "client_id": client, "iat": begins.unix(), "exp": ends.unix(),
            "jti": "j", "scope": self.scopes.join(" "),
        });
        claims.extend(usual.as_object().unwrap().clone());
        if let About::Own(credential, _) = &self.about {
            claims.insert("cred".to_owned(), json!(credential));
        }
        let header = json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": keys.issuer_id });
        let part = |value: &Json| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let input = format!("{}.{}", part(&header), part(&Json::Object(claims)));
        let pair = if self.is_forged { &keys.thief } else { &keys.issuer };
        format!("{input}.{}", BASE64URL_NOPAD.encode(pair.sign(input.as_bytes()).as_ref()))
    }
}
