//! Chance: registries and requests that follow from a number.

use super::book::{
    About, Alternatives, App, Binding, Book, Call, Comparison, Credential, Grant, KeyShown, OnFile, Operand,
    Operation, Path, Product, SignatureFlaw, SignatureShown, TokenFlaw, TokenShown, Value, Word,
};
use super::world::Keys;

/// SplitMix64: what it throws follows from where it began.
pub(super) struct Dice<'k> {
    pub(super) keys: &'k Keys,
    /// Where it stands.
    pub(super) state: u64,
    /// Whether a key and a token are to be worth the same everywhere.
    pub(super) is_even: bool,
}

const KINDS: [&[Word]; 14] = [
    &["mtls"],
    &["mtls"],
    &["signature"],
    &["token"],
    &["api_key"],
    &["api_key"],
    &["mtls", "api_key"],
    &["mtls", "signature"],
    &["api_key", "signature"],
    &["api_key", "token"],
    &["signature", "token"],
    &["api_key", "user_token"],
    &["mtls", "user_token"],
    &["mtls", "signature", "api_key"],
];

const RULES: [Word; 13] = [
    "/",
    "/**",
    "/**",
    "/**",
    "/a",
    "/*",
    "/*/*",
    "/a/**",
    "/a-*.csv",
    "/{tenant}/b",
    "/{tenant}/b",
    "/{tenant}/**",
    "/{tenant}/**",
];

const PATHS: [Path; 11] = [
    Path { sent: "/", meant: Some(&[""]) },
    Path { sent: "/a", meant: Some(&["a"]) },
    Path { sent: "/a/", meant: Some(&["a", ""]) },
    Path { sent: "/a/b", meant: Some(&["a", "b"]) },
    Path { sent: "/acme/b", meant: Some(&["acme", "b"]) },
    Path { sent: "/%61cme/b", meant: Some(&["acme", "b"]) },
    Path { sent: "/other/b/", meant: Some(&["other", "b", ""]) },
    Path { sent: "/a-1.csv", meant: Some(&["a-1.csv"]) },
    Path { sent: "/acme;v=1/b", meant: Some(&["acme;v=1", "b"]) },
    Path { sent: "/a%20b/b", meant: Some(&["a b", "b"]) },
    Path { sent: "/a%20b/c/d", meant: Some(&["a b", "c", "d"]) },
];

const AMBIGUOUS: [Path; 2] = [Path { sent: "//a", meant: None }, Path { sent: "/a/%2e%2e/b", meant: None }];

const SCOPES: [Word; 3] = ["read", "write", "admin"];
const TENANTS: [Word; 3] = ["acme", "other", "a b"];
const PRODUCTS: [Word; 3] = ["one", "two", "three"];
const INSTANTS: [i64; 7] = [-1_000_000, -1, 0, 1, 1_000_000, 2_000_000, 2_000_000];

/// An app, and what it can have on file.
struct Known {
    id: Word,
    /// The numbers of its keys, for the API and for signatures.
    numbers: [usize; 2],
    /// Its certificates, and those below.
    rules: [Word; 2],
    /// As what an issuer outside knows it.
    clients: [Word; 2],
}

const APPS: [Known; 2] = [
    Known {
        id: "a",
        numbers: [1, 2],
        rules: ["spiffe://postern.test/a/x", "spiffe://postern.test/a/**"],
        clients: ["a-1", "a-2"],
    },
    Known {
        id: "b",
        numbers: [3, 4],
        rules: ["spiffe://postern.test/b/x", "spiffe://postern.test/**"],
        clients: ["b-1", "b-2"],
    },
];

impl Dice<'_> {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    /// Happens so many times in a hundred.
    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    fn some_of<T: Clone>(&mut self, from: &[T], percent: usize) -> Vec<T> {
        from.iter().filter(|_| self.chance(percent)).cloned().collect()
    }

    fn accepts(&mut self, percent: usize) -> Option<Alternatives> {
        if !self.chance(percent) {
            return None;
        }
        let count = 1 + self.below(6);
        let mut all: Alternatives = (0..count).map(|_| self.pick(&KINDS).to_vec()).collect();
        if self.is_even {
            all.retain(|one| !one.contains(&"user_token"));
            for one in all.clone() {
                let other = |kind: &Word| match *kind {
                    "api_key" => "token",
                    "token" => "api_key",
                    kind => kind,
                };
                all.push(one.iter().map(other).collect());
            }
        }
        (!all.is_empty()).then_some(all)
    }

    fn instant(&mut self, percent: usize) -> Option<i64> {
        self.chance(percent).then(|| self.pick(&INSTANTS))
    }

    pub(super) fn book(&mut self) -> Book {
        let count = 1 + self.below(3);
        let products: Vec<Product> = PRODUCTS.iter().take(count).map(|id| self.product(id)).collect();
        let apps =
            APPS.iter().take(1 + usize::from(self.chance(30))).map(|app| self.app(app, &products)).collect();
        Book {
            listener: self.accepts(8),
            services: [("red", self.accepts(8)), ("blue", self.accepts(8))],
            environment: self.pick(&[None, Some("prod"), Some("prod"), Some("test")]),
            developers: [self.chance(95), self.chance(95)],
            products,
            apps,
        }
    }

    fn product(&mut self, id: Word) -> Product {
        let is_high = !self.is_even && self.chance(20);
        let is_excused = is_high && self.chance(20);
        let scopes = self.some_of(&SCOPES, 60);
        let accepts = self.product_accepts(is_high && !is_excused);
        let count = self.pick(&[0, 1, 2, 2, 3, 3]);
        let operations = (0..count).map(|_| self.operation(&scopes, is_high && !is_excused)).collect();
        let environments: [&[Word]; 5] = [&["*"], &["prod"], &["prod"], &["prod", "test"], &[]];
        Product {
            id,
            is_high,
            is_excused,
            is_manual: self.chance(15),
            environments: self.chance(35).then(|| self.pick(&environments).to_vec()),
            scopes,
            accepts,
            operations,
        }
    }

    /// What a product or an operation of it may say without contradicting its sensitivity.
    fn product_accepts(&mut self, needs_more_than_a_key: bool) -> Option<Alternatives> {
        let mut accepts = self.accepts(10)?;
        let is_strong = |one: &Vec<Word>| one.iter().any(|kind| !["api_key", "user_token"].contains(kind));
        accepts.retain(|one| !needs_more_than_a_key || is_strong(one));
        (!accepts.is_empty()).then_some(accepts)
    }

    fn operation(&mut self, scopes: &[Word], needs_more_than_a_key: bool) -> Operation {
        let methods: [&[Word]; 6] = [&["*"], &["*"], &["GET"], &["GET", "POST"], &["GET", "POST"], &[]];
        let http = self.chance(93).then(|| (self.pick(&methods).to_vec(), self.pick(&RULES)));
        let comparisons = if self.chance(30) { 1 + self.below(2) } else { 0 };
        let has_tenant = http.as_ref().is_some_and(|(_, rule)| rule.contains("{tenant}"));
        Operation {
            service: self.pick(&["*", "*", "red", "blue"]),
            http,
            accepts: self.product_accepts(needs_more_than_a_key),
            scopes: self.some_of(scopes, 35),
            when: (0..comparisons).map(|_| self.comparison(has_tenant)).collect(),
        }
    }

    fn comparison(&mut self, has_tenant: bool) -> Comparison {
        let is_in = self.chance(40);
        let is_constant = |one: &Operand| matches!(one, Operand::Text(_) | Operand::Texts(_));
        let is_list = |one: &Operand| matches!(one, Operand::Texts(_));
        loop {
            let (left, right) = (self.operand(has_tenant), self.operand(has_tenant));
            let is_valid = !(is_constant(&left) && is_constant(&right) || is_list(&left));
            if is_valid && (is_in || !is_list(&right)) {
                return Comparison { is_negated: self.chance(20), left, is_in, right };
            }
        }
    }

    fn operand(&mut self, has_tenant: bool) -> Operand {
        match self.below(6) {
            0 | 1 if has_tenant => Operand::Tenant,
            2 if !self.is_even => Operand::Claim(self.pick(&["tenant", "groups"])),
            3 => Operand::Text(self.pick(&TENANTS)),
            4 => Operand::Texts(vec![self.pick(&TENANTS), self.pick(&TENANTS)]),
            _ => Operand::Attribute(self.pick(&["tenant", "regions"])),
        }
    }

    fn values(&mut self) -> Vec<(Word, Value)> {
        let mut values = Vec::new();
        if self.chance(80) {
            values.push(("tenant", Value::One(self.pick(&TENANTS))));
        }
        if self.chance(80) {
            values.push(("regions", Value::Many(self.some_of(&TENANTS, 50))));
        }
        values
    }

    fn claims(&mut self) -> Vec<(Word, Value)> {
        let mut claims = Vec::new();
        if self.chance(80) {
            let values = [Value::One("acme"), Value::One("other"), Value::One("acme"), Value::Number];
            claims.push(("tenant", self.pick(&values)));
        }
        if self.chance(80) {
            let several = Value::Many(self.some_of(&TENANTS, 60));
            claims.push(("groups", self.pick(&[several.clone(), several, Value::One("acme")])));
        }
        claims
    }

    fn grants(&mut self, of: &[Word], percent: usize) -> Vec<Grant> {
        let mut products = self.some_of(of, percent);
        if self.chance(50) {
            products.reverse();
        }
        let grant = |product: Word| Grant {
            product,
            status: self.pick(&[None, None, None, None, Some("approved"), Some("pending"), Some("revoked")]),
            expires: self.instant(20),
            accepts: self.accepts(10),
        };
        products.into_iter().map(grant).collect()
    }

    fn app(&mut self, &Known { id, numbers, rules, clients }: &Known, products: &[Product]) -> App {
        let names: Vec<Word> = products.iter().map(|product| product.id).collect();
        let mut scopes: Vec<Word> = products.iter().flat_map(|product| product.scopes.clone()).collect();
        scopes.sort_unstable();
        scopes.dedup();
        let grants = self.grants(&names, 85);
        let granted: Vec<Word> = grants.iter().map(|grant| grant.product).collect();
        let mut credentials = Vec::new();
        for at in 0..2 {
            let percent = match at {
                0 if self.is_even => 100,
                0 => 97,
                _ => 20,
            };
            let number = numbers[at];
            let spoilt = |dice: &mut Self| !dice.is_even && dice.chance(3);
            let secrets = [
                OnFile::Key { number, is_spoilt: spoilt(self) },
                OnFile::Rule(rules[at]),
                OnFile::Signature { number, is_spoilt: spoilt(self) },
                OnFile::Token(clients[at]),
            ];
            let needed = if self.is_even { &secrets[..2] } else { &secrets };
            for secret in self.some_of(needed, percent) {
                let id = match secret {
                    OnFile::Key { number, .. } => self.keys.keys[number].0.id().to_owned(),
                    OnFile::Rule(_) => format!("{id}-certificate-{at}"),
                    OnFile::Signature { number, .. } => format!("sig{number}"),
                    OnFile::Token(_) => format!("{id}-token-{at}"),
                };
                credentials.push(self.credential(id, secret, &scopes, &granted));
            }
        }
        if self.is_even {
            even_out(id, clients, &mut credentials);
        }
        App {
            id,
            developer: self.below(2),
            is_revoked: self.chance(5),
            accepts: self.accepts(10),
            attributes: self.values(),
            grants,
            credentials,
        }
    }

    fn credential(&mut self, id: String, secret: OnFile, scopes: &[Word], granted: &[Word]) -> Credential {
        let not_before = self.instant(7);
        let expires = self.instant(12).filter(|end| not_before.is_none_or(|begin| begin < *end));
        let bindings = self.bindings(&secret);
        Credential {
            id,
            secret,
            status: self
                .pick(&[&[None; 24][..], &[Some("approved"), Some("pending"), Some("revoked")]].concat()),
            not_before,
            expires,
            scopes: self.chance(20).then(|| self.some_of(scopes, 60)),
            grants: self.chance(15).then(|| self.grants(granted, 85)),
            bindings,
        }
    }

    fn bindings(&mut self, secret: &OnFile) -> Vec<Binding> {
        let hours =
            [("08:00-18:00", true), ("22:00-12:01", true), ("11:00-12:00", false), ("12:00-13:00", true)];
        let mut bindings = Vec::new();
        if self.chance(3) {
            bindings.push(Binding::From(self.some_of(&["127.0.0.0/8", "10.0.0.0/8"], 70)));
        }
        if self.chance(3) {
            let (hours, now) = self.pick(&hours);
            bindings.push(Binding::Hours(hours, now));
        }
        if self.chance(2) {
            bindings.push(Binding::Sni("red.test"));
        }
        let by_certificate = matches!(secret, OnFile::Rule(_));
        if !by_certificate && self.chance(2) {
            bindings.push(Binding::Certificate(
                self.pick(&["spiffe://postern.test/a/x", "spiffe://postern.test/**"]),
            ));
        }
        // In the table of a token, that word says who has issued it.
        let by_token = self.is_even || matches!(secret, OnFile::Token(_));
        if !by_certificate && !by_token && self.chance(3) {
            bindings.push(Binding::Issuer(self.pick(&["postern.test", "other.test"])));
        }
        bindings
    }

    /// A request that presents some kinds of credential, most often of one app that is on file.
    pub(super) fn call(&mut self, book: &Book) -> Call {
        const SHOWN: [&[Word]; 24] = [
            &["mtls"],
            &["mtls"],
            &["mtls"],
            &["api_key"],
            &["api_key"],
            &["api_key"],
            &["signature"],
            &["signature"],
            &["signature"],
            &["token"],
            &["token"],
            &["token"],
            &["mtls", "api_key"],
            &["mtls", "signature"],
            &["mtls", "token"],
            &["api_key", "user_token"],
            &["mtls", "user_token"],
            &["signature", "user_token"],
            &["api_key", "signature"],
            &["api_key", "token"],
            &["signature", "token"],
            &["mtls", "signature", "token", "api_key"],
            &["user_token"],
            &[],
        ];
        let shown = self.pick(&SHOWN);
        let own = self.below(book.apps.len());
        let app = |dice: &mut Self| &APPS[if dice.chance(96) { own } else { dice.below(2) }];
        let (one, two, three, four) = (app(self), app(self), app(self), app(self));
        let mut call = self.bare_call();
        if shown.contains(&"mtls") {
            call.certificate = Some(self.certificate(one.id));
        }
        if shown.contains(&"api_key") {
            let number = two.numbers[usize::from(self.chance(4))];
            call.key = Some(match self.below(40) {
                0 => KeyShown::Garbage,
                1 => KeyShown::Numbered(0),
                2 => KeyShown::Twice(number),
                _ => KeyShown::Numbered(number),
            });
        }
        if shown.contains(&"signature") {
            let number = if self.chance(3) { 0 } else { three.numbers[usize::from(self.chance(4))] };
            let flaws = [SignatureFlaw::Covers, SignatureFlaw::Future, SignatureFlaw::Old];
            let flaw = if self.chance(5) { self.pick(&flaws) } else { SignatureFlaw::None };
            call.signature = Some(SignatureShown { number, is_forged: self.chance(3), flaw });
        }
        if shown.contains(&"token") {
            let client = if self.chance(3) { "nobody" } else { four.clients[usize::from(self.chance(4))] };
            let by = book.apps[own].credentials.iter().map(|one| one.id.clone());
            let by: Vec<String> = by.chain(["gone".to_owned()]).collect();
            let about =
                if self.chance(30) { About::Own(self.pick(&by), four.id) } else { About::Client(client) };
            call.token = Some(self.token(about));
        }
        if shown.contains(&"user_token") {
            call.token = Some(self.token(About::User));
        }
        call
    }

    /// The same request twice: by the key of an app, and by a token that stands for the same.
    pub(super) fn pair(&mut self, book: &Book) -> [Call; 2] {
        let Known { id, numbers, clients, .. } = &APPS[self.below(book.apps.len())];
        let certificate = self.chance(30).then(|| self.certificate(id));
        let call = Call { certificate, ..self.bare_call() };
        let token = TokenShown {
            about: About::Client(clients[0]),
            is_forged: false,
            flaw: TokenFlaw::None,
            scopes: SCOPES.to_vec(),
            claims: Vec::new(),
        };
        let key = Some(KeyShown::Numbered(numbers[0]));
        [Call { key, ..call.clone() }, Call { token: Some(token), ..call }]
    }

    fn certificate(&mut self, app: Word) -> Word {
        let own: [Word; 2] = match app {
            "a" => ["spiffe://postern.test/a/x", "spiffe://postern.test/a/y"],
            _ => ["spiffe://postern.test/b/x", "spiffe://postern.test/y"],
        };
        let foreign = ["spiffe://other.test/a/x", "spiffe://postern.test/a"];
        match self.below(20) {
            0 => self.pick(&foreign),
            1..4 => own[1],
            _ => own[0],
        }
    }

    fn token(&mut self, about: About) -> TokenShown {
        let flaws = [TokenFlaw::Audience, TokenFlaw::Early, TokenFlaw::Late];
        TokenShown {
            about,
            is_forged: self.chance(3),
            flaw: if self.chance(5) { self.pick(&flaws) } else { TokenFlaw::None },
            scopes: self.some_of(&SCOPES, 85),
            claims: self.claims(),
        }
    }

    /// A request that presents nothing.
    fn bare_call(&mut self) -> Call {
        let path = if self.chance(3) { self.pick(&AMBIGUOUS) } else { self.pick(&PATHS) };
        let leaks = ["k=pstn_sk_0", "access_token=x"];
        let host =
            if self.chance(3) { "none.test" } else { self.pick(&["red.test", "red.test", "blue.test"]) };
        Call {
            method: self.pick(&["GET", "GET", "GET", "GET", "POST", "POST", "DELETE"]),
            host,
            path,
            query: match self.below(40) {
                0 => Some(self.pick(&leaks)),
                1..4 => Some("q=1"),
                _ => None,
            },
            address: self.pick(&["127.0.0.1", "127.0.0.1", "10.1.2.3"]),
            // Mostly what its host says, as everybody does.
            sni: self.pick(&[Some(host), Some(host), Some(host), None, Some("gate.test"), Some("blue.test")]),
            certificate: None,
            key: None,
            signature: None,
            token: None,
        }
    }
}

/// Makes the tokens of an app stand for what its keys stand for.
fn even_out(id: Word, clients: [Word; 2], credentials: &mut Vec<Credential>) {
    let is_key = |one: &&Credential| matches!(one.secret, OnFile::Key { .. });
    let keys: Vec<Credential> = credentials.iter().filter(is_key).cloned().collect();
    let as_token = |(client, key): (Word, Credential)| Credential {
        id: format!("{id}-token-{client}"),
        secret: OnFile::Token(client),
        ..key
    };
    credentials.extend(clients.into_iter().zip(keys).map(as_token));
}
