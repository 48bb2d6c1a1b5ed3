//! What becomes of a request for every combination of credentials: each of certificate, key, token and signature is absent,
//! bad, or good. Eighty-one cells, for apps that accept different things; the table is a golden file.
//!
//! Two rules are held against every cell besides: nothing that is presented and bad is made up for by something good, and no
//! app is served that has not proven what it accepts.

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::fmt::Write as _;
use std::time::Duration;

use support::sign::lines;
use support::token::{AUDIENCE, TokenKey, bearer, claims, jwks};
use support::world::Key;
use support::{Identity, Scene, Service, SigningKey, World, write};

const ISSUER: &str = "https://id.test";

/// The apps, and the sets of kinds that each accepts.
const APPS: [(&str, &[&[Kind]]); 7] = [
    ("any", &[&[Kind::Certificate], &[Kind::Key], &[Kind::Token], &[Kind::Signature]]),
    ("certificate", &[&[Kind::Certificate]]),
    ("key", &[&[Kind::Key]]),
    ("token", &[&[Kind::Token]]),
    ("signature", &[&[Kind::Signature]]),
    ("certificate+key", &[&[Kind::Certificate, Kind::Key]]),
    ("key+signature", &[&[Kind::Key, Kind::Signature]]),
];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Certificate,
    Key,
    Token,
    Signature,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Certificate, Self::Key, Self::Token, Self::Signature];

    /// The word for it in the registry.
    const fn word(self) -> &'static str {
        match self {
            Self::Certificate => "mtls",
            Self::Key => "api_key",
            Self::Token => "token",
            Self::Signature => "signature",
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Shown {
    Absent,
    Bad,
    Good,
}

/// What is shown of each kind.
type Cell = [Shown; 4];

fn cells() -> impl Iterator<Item = Cell> {
    let shown = |digit: usize| match digit % 3 {
        0 => Shown::Absent,
        1 => Shown::Bad,
        _ => Shown::Good,
    };
    (0..81).map(move |number| [shown(number / 27), shown(number / 9), shown(number / 3), shown(number)])
}

fn good(cell: Cell) -> Vec<Kind> {
    Kind::ALL.into_iter().zip(cell).filter(|(_, shown)| *shown == Shown::Good).map(|(kind, _)| kind).collect()
}

/// All that one app can show, good and bad.
struct Wallet {
    accepts: &'static [&'static [Kind]],
    identity: Identity,
    foreign: Identity,
    key: Key,
    client: String,
    signer: SigningKey,
    forger: SigningKey,
}

impl Wallet {
    /// The status and code of a request that shows `cell`.
    async fn show(&self, world: &World, cell: Cell, issuer: &TokenKey, thief: &TokenKey) -> String {
        let [certificate, key, token, signature] = cell;
        let identity = match certificate {
            Shown::Absent => None,
            Shown::Bad => Some(&self.foreign),
            Shown::Good => Some(&self.identity),
        };
        let mut fields = String::new();
        match key {
            Shown::Absent => {}
            Shown::Bad => fields.push_str("x-api-key: pstn_sk_none\r\n"),
            Shown::Good => fields.push_str(&self.key.line()),
        }
        let signed_by = |key: &TokenKey| bearer(&key.sign_as(&issuer.id, &claims(ISSUER, &self.client)));
        match token {
            Shown::Absent => {}
            Shown::Bad => fields.push_str(&signed_by(thief)),
            Shown::Good => fields.push_str(&signed_by(issuer)),
        }
        match signature {
            Shown::Absent => {}
            Shown::Bad => fields.push_str(&lines(&self.forger.sign("GET", "/a", &[]))),
            Shown::Good => fields.push_str(&lines(&self.signer.sign("GET", "/a", &[]))),
        }
        if certificate == Shown::Bad {
            // In TLS 1.3 a caller learns of it when it reads.
            let mut talk = world.talk(identity).await;
            drop(talk.try_send(&format!("GET /a HTTP/1.1\r\nhost: localhost\r\n{fields}\r\n")).await);
            return if talk.is_closed().await { "handshake" } else { "answered" }.to_owned();
        }
        let answer = world.talk(identity).await.get("/a", &fields).await;
        if answer.status == 200 { "200".to_owned() } else { format!("{} {}", answer.status, answer.code()) }
    }
}

#[tokio::test]
async fn no_cell_is_served_by_less_than_the_app_accepts() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    let (issuer, thief) = (TokenKey::ed25519(), TokenKey::ed25519());
    write(&scene.path().join("jwks.json"), &jwks(&[&issuer]));
    scene.config("[limits]\nfailed_keys = \"unlimited\"\n");
    scene.config(&format!(
        "[[issuer]]\nissuer = \"{ISSUER}\"\njwks_file = \"jwks.json\"\naudience = [\"{AUDIENCE}\"]\nalgorithms = [\"EdDSA\"]\n"
    ));
    let keys: Vec<(Key, SigningKey)> = (0..APPS.len())
        .map(|number| (scene.key(), SigningKey::ed25519(&format!("signer-{number}"))))
        .collect();
    for (number, ((_, accepts), (key, signer))) in APPS.iter().zip(&keys).enumerate() {
        let set = |kinds: &&[Kind]| {
            let words: Vec<String> = kinds.iter().map(|kind| format!("{:?}", kind.word())).collect();
            format!("[{}]", words.join(", "))
        };
        let accepts: Vec<String> = accepts.iter().map(set).collect();
        scene.app(
            &format!("app-{number}"),
            &format!(
                "accepts = [{}]\n[[app.certificate]]\nuri = \"{}\"\n{}{}[[app.token]]\nissuer = \"{ISSUER}\"\n\
                 client_id = \"client-{number}\"\n{}",
                accepts.join(", "),
                spiffe_id(number),
                key.table(),
                signer.table(),
                support::world::GRANT,
            ),
        );
    }
    let world = scene.start().await;
    let authority = world.issuing_folder().await;
    let wallets: Vec<Wallet> = APPS
        .iter()
        .zip(keys)
        .enumerate()
        .map(|(number, ((_, accepts), (key, signer)))| Wallet {
            accepts,
            identity: Identity::issued(&spiffe_id(number), Duration::from_secs(600), &authority),
            foreign: Identity::of_another_ca(&spiffe_id(number)),
            key,
            client: format!("client-{number}"),
            forger: SigningKey::ed25519(&signer.id),
            signer,
        })
        .collect();

    let mut table = String::from("certificate key    token  signature");
    for (name, _) in APPS {
        write!(table, " | {name:<27}").unwrap();
    }
    table.push('\n');
    for cell in cells() {
        let [certificate, key, token, signature] = cell.map(|shown| format!("{shown:?}").to_lowercase());
        write!(table, "{certificate:<11} {key:<6} {token:<6} {signature:<9}").unwrap();
        for wallet in &wallets {
            let outcome = wallet.show(&world, cell, &issuer, &thief).await;
            if outcome == "200" {
                assert!(!cell.contains(&Shown::Bad), "{cell:?} was served");
                let proven = good(cell);
                let is_met = |set: &&[Kind]| set.iter().all(|kind| proven.contains(kind));
                assert!(wallet.accepts.iter().any(is_met), "{cell:?} was served for {:?}", wallet.accepts);
            }
            write!(table, " | {outcome:<27}").unwrap();
        }
        table.push('\n');
    }
    let table: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    assert_eq!(table, include_str!("golden/matrix.txt"), "the table is now\n{table}");
}

fn spiffe_id(number: usize) -> String {
    format!("spiffe://postern.test/app-{number}")
}
