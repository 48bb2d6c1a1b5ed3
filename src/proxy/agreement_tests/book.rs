//! What is on file and what is asked, as plain values, and the text of the registry that says the same.

use std::fmt::Write as _;

use super::world::Keys;
use crate::clock::Timestamp;

/// Noon of 2026-06-01.
const NOW: i64 = 1_780_315_200;

/// Whose tokens speak of apps.
pub(super) const OUTSIDE: &str = "https://id.test";

pub(super) type Word = &'static str;

/// Alternatives, each a set of kinds, as the registry writes them.
pub(super) type Alternatives = Vec<Vec<Word>>;

#[derive(Clone, Debug)]
pub(super) struct Book {
    pub(super) listener: Option<Alternatives>,
    pub(super) services: [(Word, Option<Alternatives>); 2],
    pub(super) environment: Option<Word>,
    /// Whether each is active.
    pub(super) developers: [bool; 2],
    pub(super) products: Vec<Product>,
    pub(super) apps: Vec<App>,
}

#[derive(Clone, Debug)]
pub(super) struct Product {
    pub(super) id: Word,
    /// A key alone is not enough.
    pub(super) is_high: bool,
    /// But it is, for a reason on file.
    pub(super) is_excused: bool,
    pub(super) is_manual: bool,
    pub(super) environments: Option<Vec<Word>>,
    pub(super) scopes: Vec<Word>,
    pub(super) accepts: Option<Alternatives>,
    pub(super) operations: Vec<Operation>,
}

#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) service: Word,
    /// Methods and a path rule; a raw connection has neither.
    pub(super) http: Option<(Vec<Word>, Word)>,
    pub(super) accepts: Option<Alternatives>,
    pub(super) scopes: Vec<Word>,
    pub(super) when: Vec<Comparison>,
}

#[derive(Clone, Debug)]
pub(super) struct Comparison {
    pub(super) is_negated: bool,
    pub(super) left: Operand,
    /// `in`, and not `==`.
    pub(super) is_in: bool,
    pub(super) right: Operand,
}

#[derive(Clone, Debug)]
pub(super) enum Operand {
    Attribute(Word),
    Claim(Word),
    Tenant,
    Text(Word),
    Texts(Vec<Word>),
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Many(Vec<Word>),
    /// Something that no text is compared with.
    Number,
    One(Word),
}

#[derive(Clone, Debug)]
pub(super) struct App {
    pub(super) id: Word,
    pub(super) developer: usize,
    pub(super) is_revoked: bool,
    pub(super) accepts: Option<Alternatives>,
    pub(super) attributes: Vec<(Word, Value)>,
    pub(super) grants: Vec<Grant>,
    pub(super) credentials: Vec<Credential>,
}

#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) product: Word,
    pub(super) status: Option<Word>,
    /// In seconds from now.
    pub(super) expires: Option<i64>,
    pub(super) accepts: Option<Alternatives>,
}

#[derive(Clone, Debug)]
pub(super) struct Credential {
    pub(super) id: String,
    pub(super) secret: OnFile,
    pub(super) status: Option<Word>,
    /// In seconds from now, as `expires`.
    pub(super) not_before: Option<i64>,
    pub(super) expires: Option<i64>,
    pub(super) scopes: Option<Vec<Word>>,
    pub(super) grants: Option<Vec<Grant>>,
    pub(super) bindings: Vec<Binding>,
}

/// What is on file of a secret. Keys are named by their number among [`Keys`]; a spoilt one is on file with what belongs to another.
#[derive(Clone, Debug)]
pub(super) enum OnFile {
    Key { number: usize, is_spoilt: bool },
    Rule(Word),
    Signature { number: usize, is_spoilt: bool },
    Token(Word),
}

#[derive(Clone, Debug)]
pub(super) enum Binding {
    Certificate(Word),
    From(Vec<Word>),
    /// The hours, and whether noon is among them.
    Hours(Word, bool),
    Issuer(Word),
    Sni(Word),
}

#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) method: Word,
    pub(super) host: Word,
    pub(super) path: Path,
    pub(super) query: Option<Word>,
    pub(super) address: Word,
    pub(super) sni: Option<Word>,
    pub(super) certificate: Option<Word>,
    pub(super) key: Option<KeyShown>,
    pub(super) signature: Option<SignatureShown>,
    pub(super) token: Option<TokenShown>,
}

/// A path as it is sent, and the segments that are meant; none if it is ambiguous.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) sent: Word,
    pub(super) meant: Option<&'static [Word]>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum KeyShown {
    Garbage,
    Numbered(usize),
    Twice(usize),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct SignatureShown {
    pub(super) number: usize,
    pub(super) is_forged: bool,
    pub(super) flaw: SignatureFlaw,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SignatureFlaw {
    Covers,
    Future,
    None,
    Old,
}

#[derive(Clone, Debug)]
pub(super) struct TokenShown {
    pub(super) about: About,
    pub(super) is_forged: bool,
    pub(super) flaw: TokenFlaw,
    pub(super) scopes: Vec<Word>,
    pub(super) claims: Vec<(Word, Value)>,
}

#[derive(Clone, Debug)]
pub(super) enum About {
    /// An app, by the word of an issuer outside that this is the client.
    Client(Word),
    /// An app, by our own word: the credential by which the token was asked for, and the app.
    Own(String, Word),
    User,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum TokenFlaw {
    Audience,
    Early,
    Late,
    None,
}

/// What comes of it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) service: String,
    pub(super) app: String,
    pub(super) product: String,
    /// Kind and id.
    pub(super) credential: (String, String),
    /// Those in force, or where one is missing those that are asked for.
    pub(super) scopes: Vec<String>,
}

impl Book {
    pub(super) fn text(&self, keys: &Keys) -> String {
        let mut text = String::new();
        for (number, is_active) in self.developers.iter().enumerate() {
            let status = if *is_active { "active" } else { "inactive" };
            writeln!(text, "[[developer]]\nid = 'dev{number}'\nstatus = '{status}'").unwrap();
        }
        self.products.iter().for_each(|product| product.write(&mut text));
        self.apps.iter().for_each(|app| app.write(&mut text, keys));
        text
    }
}

fn write_some(text: &mut String, name: &str, value: Option<&impl std::fmt::Debug>) {
    if let Some(value) = value {
        writeln!(text, "{name} = {value:?}").unwrap();
    }
}

impl Product {
    fn write(&self, text: &mut String) {
        writeln!(text, "[[product]]\nid = '{}'\nscopes = {:?}", self.id, self.scopes).unwrap();
        write_some(text, "approval", self.is_manual.then_some("manual").as_ref());
        write_some(text, "environments", self.environments.as_ref());
        write_some(text, "sensitivity", self.is_high.then_some("high").as_ref());
        write_some(text, "api_key_alone", self.is_excused.then_some("it must").as_ref());
        write_some(text, "accepts", self.accepts.as_ref());
        for operation in &self.operations {
            writeln!(text, "[[product.operation]]\nservice = '{}'", operation.service).unwrap();
            if let Some((methods, path)) = &operation.http {
                writeln!(text, "methods = {methods:?}\npath = '{path}'").unwrap();
            }
            writeln!(text, "scopes = {:?}", operation.scopes).unwrap();
            write_some(text, "accepts", operation.accepts.as_ref());
            let when: Vec<String> = operation.when.iter().map(Comparison::text).collect();
            if !when.is_empty() {
                writeln!(text, "when = '{}'", when.join(" and ")).unwrap();
            }
        }
    }
}

impl Comparison {
    fn text(&self) -> String {
        let operand = |operand: &Operand| match operand {
            Operand::Attribute(name) => format!("app.attributes.{name}"),
            Operand::Claim(name) => format!("claim.{name}"),
            Operand::Tenant => "path.tenant".to_owned(),
            Operand::Text(text) => format!("{text:?}"),
            Operand::Texts(texts) => format!("{texts:?}"),
        };
        let not = if self.is_negated { "not " } else { "" };
        let relation = if self.is_in { "in" } else { "==" };
        format!("{not}{} {relation} {}", operand(&self.left), operand(&self.right))
    }
}

impl App {
    fn write(&self, text: &mut String, keys: &Keys) {
        writeln!(text, "[[app]]\nid = '{}'\ndeveloper = 'dev{}'", self.id, self.developer).unwrap();
        write_some(text, "status", self.is_revoked.then_some("revoked").as_ref());
        write_some(text, "accepts", self.accepts.as_ref());
        let attributes = self.attributes.iter().map(|(name, value)| match value {
            Value::Many(texts) => format!("{name} = {texts:?}"),
            Value::One(text) => format!("{name} = {text:?}"),
            Value::Number => panic!("an attribute is a text or several"),
        });
        writeln!(text, "attributes = {{ {} }}", attributes.collect::<Vec<_>>().join(", ")).unwrap();
        let grants: Vec<String> = self.grants.iter().map(Grant::text).collect();
        writeln!(text, "grant = [{}]", grants.join(", ")).unwrap();
        self.credentials.iter().for_each(|credential| credential.write(text, keys));
    }
}

impl Grant {
    fn text(&self) -> String {
        let mut text = format!("{{ product = '{}'", self.product);
        if let Some(status) = self.status {
            write!(text, ", status = '{status}'").unwrap();
        }
        if let Some(expires) = self.expires {
            write!(text, ", expires = {}", at(expires)).unwrap();
        }
        if let Some(accepts) = &self.accepts {
            write!(text, ", accepts = {accepts:?}").unwrap();
        }
        text + " }"
    }

    /// As it stands at a credential, where the name alone will do.
    fn short_text(&self) -> String {
        let is_plain = self.status.is_none() && self.expires.is_none() && self.accepts.is_none();
        if is_plain { format!("'{}'", self.product) } else { self.text() }
    }
}

impl Credential {
    fn write(&self, text: &mut String, keys: &Keys) {
        match self.secret {
            OnFile::Key { number, is_spoilt } => {
                let hash = &keys.keys[if is_spoilt { 0 } else { number }].1;
                writeln!(text, "[[app.api_key]]\nhash = 'hmac-sha256:p1:{hash}'").unwrap();
            }
            OnFile::Rule(rule) => writeln!(text, "[[app.certificate]]\nuri = '{rule}'").unwrap(),
            OnFile::Signature { number, is_spoilt } => {
                let jwk = &keys.signers[if is_spoilt { 0 } else { number }].1;
                writeln!(text, "[[app.signature]]\nalgorithm = 'ed25519'\npublic_key = '{jwk}'").unwrap();
            }
            OnFile::Token(client) => {
                writeln!(text, "[[app.token]]\nissuer = '{OUTSIDE}'\nclient_id = '{client}'").unwrap();
            }
        }
        writeln!(text, "id = '{}'", self.id).unwrap();
        write_some(text, "status", self.status.as_ref());
        for (name, seconds) in [("not_before", self.not_before), ("expires", self.expires)] {
            if let Some(seconds) = seconds {
                writeln!(text, "{name} = {}", at(seconds)).unwrap();
            }
        }
        write_some(text, "scopes", self.scopes.as_ref());
        if let Some(grants) = &self.grants {
            let grants: Vec<String> = grants.iter().map(Grant::short_text).collect();
            writeln!(text, "grants = [{}]", grants.join(", ")).unwrap();
        }
        for binding in &self.bindings {
            match binding {
                Binding::Certificate(rule) => writeln!(text, "certificate = '{rule}'"),
                Binding::From(networks) => writeln!(text, "from = {networks:?}"),
                Binding::Hours(hours, _) => writeln!(text, "hours = '{hours}'"),
                Binding::Issuer(domain) => writeln!(text, "issuer = '{domain}'"),
                Binding::Sni(name) => writeln!(text, "sni = '{name}'"),
            }
            .unwrap();
        }
    }
}

/// The instant some seconds from now.
pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(NOW + seconds)
}
