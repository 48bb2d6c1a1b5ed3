//! The oracle: what must come of a request, by `docs/access.md` and the generated values alone.

use super::book::{
    About, Alternatives, Answered, App, Binding, Book, Call, Comparison, Credential, Grant, KeyShown, OnFile,
    Operand, Operation, Product, SignatureFlaw, TokenFlaw, TokenShown, Value, Word,
};

/// What was proven: the kinds, strongest first, each with what it stands for on file.
struct Proven<'b> {
    used: Vec<(Word, &'b App, &'b Credential)>,
    token: Option<&'b TokenShown>,
    kinds: Vec<Word>,
}

/// What must come of `call`, by the book.
pub(super) fn by_the_book(book: &Book, call: &Call) -> Answered {
    let service = match call.host {
        "red.test" => "red",
        "blue.test" => "blue",
        _ => "",
    };
    // The handshake asked for a service's host, and the request is for another one.
    let is_misdirected = matches!(call.sni, Some("red.test" | "blue.test")) && call.sni != Some(call.host);
    let service = if is_misdirected { "" } else { service };
    let nobody = |status, code: Word, service: Word| Answered {
        status,
        code: code.to_owned(),
        service: service.to_owned(),
        ..Answered::default()
    };
    if let Some(query) = call.query {
        if query.contains("pstn_sk_") {
            return nobody(400, "key-in-url", "");
        }
        if query.contains("access_token=") {
            return nobody(400, "token-in-url", "");
        }
    }
    let Some(path) = call.path.meant else { return nobody(400, "bad-path", "") };
    if matches!(call.key, Some(KeyShown::Twice(_))) {
        return nobody(400, "duplicate-credential", "");
    }
    let proven = match prove(book, call) {
        Ok(proven) => proven,
        Err((status, code)) => return nobody(status, code, service),
    };
    if is_misdirected {
        return nobody(421, "misdirected-request", "");
    }
    if service.is_empty() {
        return nobody(404, "no-such-service", "");
    }
    let (kind, app, credential) = proven.used[0];
    let known = Answered {
        service: service.to_owned(),
        app: app.id.to_owned(),
        credential: (kind.to_owned(), credential.id.clone()),
        ..Answered::default()
    };
    let refused = |code: Word, scopes: &[Word]| Answered {
        status: 403,
        code: code.to_owned(),
        scopes: owned(scopes),
        ..known.clone()
    };
    if app.is_revoked {
        return refused("app-revoked", &[]);
    }
    if !book.developers[app.developer] {
        return refused("developer-inactive", &[]);
    }
    let of_service = book.services.iter().find(|(id, _)| *id == service).and_then(|(_, own)| own.as_ref());
    let outer: Vec<&Alternatives> =
        [book.listener.as_ref(), of_service, app.accepts.as_ref()].into_iter().flatten().collect();
    if let Some(code) = lacking(&proven.kinds, &outer, false) {
        return refused(code, &[]);
    }
    let mut furthest = (0, "not-entitled", [].as_slice());
    for grant in &app.grants {
        let product = book.products.iter().find(|product| product.id == grant.product).unwrap();
        let Some(parts) = parts_of(&proven, product.id) else { continue };
        for operation in &product.operations {
            if !is_about(operation, service, call.method, path) {
                continue;
            }
            match stands_in_the_way(book, &proven, &outer, (grant, &parts), (product, operation), path) {
                None => {
                    let in_force = |scope: &&Word| lets_through(&proven, scope);
                    let scopes: Vec<Word> = product.scopes.iter().filter(in_force).copied().collect();
                    return Answered {
                        status: 200,
                        code: "allowed".to_owned(),
                        product: product.id.to_owned(),
                        scopes: owned(&scopes),
                        ..known
                    };
                }
                Some((step, code)) if step > furthest.0 => furthest = (step, code, &operation.scopes),
                Some(_) => {}
            }
        }
    }
    let (_, code, scopes) = furthest;
    refused(code, if code == "insufficient-scope" { scopes } else { &[] })
}

/// What stands in the way of one operation of one granted product, and how many steps further it is than being entitled.
fn stands_in_the_way(
    book: &Book,
    proven: &Proven<'_>,
    outer: &[&Alternatives],
    (grant, parts): (&Grant, &[&Grant]),
    (product, operation): (&Product, &Operation),
    path: &[Word],
) -> Option<(u8, Word)> {
    let mut inner: Vec<&Alternatives> =
        [&grant.accepts, &product.accepts, &operation.accepts].into_iter().flatten().collect();
    inner.extend(parts.iter().filter_map(|part| part.accepts.as_ref()));
    if let Some(code) = lacking(&proven.kinds, &inner, product.is_high && !product.is_excused) {
        return Some((1, code));
    }
    let in_headers: Vec<Word> = proven.kinds.iter().copied().filter(|kind| *kind != "mtls").collect();
    let together =
        |level: &&Alternatives| level.iter().any(|one| in_headers.iter().all(|kind| one.contains(kind)));
    if in_headers.len() > 1 && !outer.iter().chain(&inner).any(together) {
        return Some((1, "auth-method-not-allowed"));
    }
    let is_here = |all: &Vec<Word>| all == &["*"] || book.environment.is_some_and(|own| all.contains(&own));
    if !product.environments.as_ref().is_none_or(is_here) {
        return Some((2, "wrong-environment"));
    }
    let first = if product.is_manual { "pending" } else { "approved" };
    let all = std::iter::once((grant, first)).chain(parts.iter().map(|part| (*part, "approved")));
    for (grant, otherwise) in all {
        match grant.status.unwrap_or(otherwise) {
            "pending" => return Some((3, "grant-pending")),
            "revoked" => return Some((3, "grant-revoked")),
            _ if grant.expires.is_some_and(|at| at <= 0) => return Some((3, "grant-expired")),
            _ => {}
        }
    }
    if !operation.scopes.iter().all(|scope| product.scopes.contains(scope) && lets_through(proven, scope)) {
        return Some((4, "insufficient-scope"));
    }
    let rule = operation.http.as_ref().map_or("", |(_, rule)| rule);
    let is_met = |one: &Comparison| compares(one, proven, rule, path) == Some(!one.is_negated);
    if operation.when.iter().all(is_met) { None } else { Some((5, "condition-failed")) }
}

/// Why these kinds are not enough, if they are not: a user's token may be all that is missing.
fn lacking(kinds: &[Word], levels: &[&Alternatives], needs_more_than_a_key: bool) -> Option<Word> {
    let enough = |kinds: &[Word]| {
        let met = |level: &&Alternatives| level.iter().any(|one| one.iter().all(|kind| kinds.contains(kind)));
        let strong = kinds.iter().any(|kind| ["mtls", "signature", "token"].contains(kind));
        levels.iter().all(met) && (strong || !needs_more_than_a_key)
    };
    if enough(kinds) {
        None
    } else if enough(&[kinds, &["user_token"]].concat()) {
        Some("step-up-required")
    } else {
        Some("auth-method-not-allowed")
    }
}

/// What each credential says of its own on a product; none if one of them is not good for it.
fn parts_of<'b>(proven: &Proven<'b>, product: Word) -> Option<Vec<&'b Grant>> {
    let mut parts = Vec::new();
    for (_, _, credential) in &proven.used {
        if let Some(grants) = &credential.grants {
            parts.push(grants.iter().find(|grant| grant.product == product)?);
        }
    }
    Some(parts)
}

fn lets_through(proven: &Proven<'_>, scope: Word) -> bool {
    let by_file = |scopes: &Vec<Word>| scopes.contains(&scope);
    proven.used.iter().all(|(_, _, credential)| credential.scopes.as_ref().is_none_or(by_file))
        && proven.token.is_none_or(|token| token.scopes.contains(&scope))
}

/// Whether an operation is about a request, whatever stands in the way.
fn is_about(operation: &Operation, service: Word, method: Word, path: &[Word]) -> bool {
    let Some((methods, rule)) = &operation.http else { return false };
    ["*", service].contains(&operation.service)
        && (methods == &["*"] || methods.contains(&method))
        && covers(rule, path)
}

fn covers(rule: Word, path: &[Word]) -> bool {
    if rule == "/" {
        return true;
    }
    let mut wanted: Vec<&str> = rule.split('/').skip(1).collect();
    let mut path = path.to_vec();
    let has_tail = wanted.last() == Some(&"**");
    if has_tail {
        wanted.pop();
    } else if path.last() == Some(&"") {
        path.pop();
    }
    let one = |wanted: &str, given: &str| match wanted.split_once('*') {
        Some((front, back)) => {
            !given.is_empty()
                && given.len() >= front.len() + back.len()
                && given.starts_with(front)
                && given.ends_with(back)
        }
        None if wanted.starts_with('{') => !given.is_empty(),
        None => wanted == given,
    };
    let right_length = if has_tail { path.len() > wanted.len() } else { path.len() == wanted.len() };
    right_length && wanted.iter().zip(&path).all(|(wanted, given)| one(wanted, given))
}

/// Whether the two sides compare; none where one of them is missing or of another form.
fn compares(one: &Comparison, proven: &Proven<'_>, rule: Word, path: &[Word]) -> Option<bool> {
    let attributes = &proven.used[0].1.attributes;
    let named = |all: &[(Word, Value)], name: Word| {
        all.iter().find(|(own, _)| *own == name).map(|(_, value)| value.clone())
    };
    let value = |operand: &Operand| match operand {
        Operand::Attribute(name) => named(attributes, name),
        Operand::Claim(name) => named(&proven.token?.claims, name),
        Operand::Tenant => {
            let at = rule.split('/').skip(1).position(|segment| segment == "{tenant}")?;
            path.get(at).filter(|text| !text.is_empty() && !text.contains(';')).map(|text| Value::One(text))
        }
        Operand::Text(text) => Some(Value::One(text)),
        Operand::Texts(texts) => Some(Value::Many(texts.clone())),
    };
    match (value(&one.left)?, value(&one.right)?) {
        (Value::One(left), Value::One(right)) => Some(left == right),
        (Value::One(left), Value::Many(right)) if one.is_in => Some(right.contains(&left)),
        _ => None,
    }
}

/// Who calls, or why nobody knows: all that is presented must hold, be in time and approved, hold its bindings, and be of one app.
fn prove<'b>(book: &'b Book, call: &'b Call) -> Result<Proven<'b>, (u16, Word)> {
    let all = || book.apps.iter().flat_map(|app| app.credentials.iter().map(move |one| (app, one)));
    let invalid = (401, "invalid-credential");

    let certificate = match call.certificate {
        Some(id) => {
            let rule = |one: &Credential| match one.secret {
                OnFile::Rule(rule) => is_of(id, rule).then(|| (!rule.ends_with("**"), rule.len())),
                OnFile::Key { .. } | OnFile::Signature { .. } | OnFile::Token(_) => None,
            };
            let narrowest = all().filter(|(_, one)| rule(one).is_some()).max_by_key(|(_, one)| rule(one));
            Some(narrowest.ok_or((403, "unmapped-certificate"))?)
        }
        None => None,
    };
    let key = match call.key {
        Some(KeyShown::Numbered(shown)) => {
            let is_it = |one: &Credential| matches!(one.secret, OnFile::Key { number, is_spoilt: false } if number == shown);
            Some(all().find(|(_, one)| is_it(one)).ok_or(invalid)?)
        }
        Some(KeyShown::Garbage | KeyShown::Twice(_)) => return Err(invalid),
        None => None,
    };
    let signature = match call.signature {
        Some(shown) => {
            let is_it = |one: &Credential| matches!(one.secret, OnFile::Signature { number, is_spoilt: false } if number == shown.number);
            let found = all().find(|(_, one)| is_it(one)).filter(|_| !shown.is_forged).ok_or(invalid)?;
            match shown.flaw {
                SignatureFlaw::Covers => return Err((401, "insufficient-coverage")),
                SignatureFlaw::Future | SignatureFlaw::Old => return Err((401, "clock-skew")),
                SignatureFlaw::None => Some(found),
            }
        }
        None => None,
    };
    let token = match &call.token {
        Some(shown) => match shown.flaw {
            _ if shown.is_forged => return Err(invalid),
            TokenFlaw::Audience => return Err(invalid),
            TokenFlaw::Late => return Err((401, "credential-expired")),
            TokenFlaw::Early => return Err((401, "credential-not-yet-valid")),
            TokenFlaw::None => match &shown.about {
                About::User => None,
                About::Client(client) => {
                    let is_it = |one: &Credential| matches!(one.secret, OnFile::Token(own) if own == *client);
                    Some(all().find(|(_, one)| is_it(one)).ok_or((403, "unmapped-token"))?)
                }
                About::Own(id, subject) => {
                    let found = all().find(|(_, one)| one.id == *id).ok_or((401, "credential-revoked"))?;
                    Some(Some(found).filter(|(app, _)| app.id == *subject).ok_or(invalid)?)
                }
            },
        },
        None => None,
    };
    let by_kind = [("mtls", certificate), ("signature", signature), ("token", token), ("api_key", key)];
    let used: Vec<(Word, &App, &Credential)> =
        by_kind.into_iter().filter_map(|(kind, found)| found.map(|(app, one)| (kind, app, one))).collect();
    if used.is_empty() {
        return Err((401, "missing-credential"));
    }
    for (_, _, one) in &used {
        if one.not_before.is_some_and(|at| at > 0) {
            return Err((401, "credential-not-yet-valid"));
        }
        if one.expires.is_some_and(|at| at <= 0) {
            return Err((401, "credential-expired"));
        }
        match one.status {
            Some("pending") => return Err((401, "credential-pending")),
            Some("revoked") => return Err((401, "credential-revoked")),
            _ => {}
        }
    }
    if !used.iter().all(|(_, _, one)| one.bindings.iter().all(|binding| is_bound(binding, call))) {
        return Err((403, "binding-failed"));
    }
    if used.iter().any(|(_, app, _)| app.id != used[0].1.id) {
        return Err((403, "principal-mismatch"));
    }
    let mut kinds: Vec<Word> = used.iter().map(|(kind, _, _)| *kind).collect();
    if call.token.as_ref().is_some_and(|shown| matches!(shown.about, About::User)) {
        kinds.push("user_token");
    }
    Ok(Proven { used, token: call.token.as_ref(), kinds })
}

fn is_bound(binding: &Binding, call: &Call) -> bool {
    match binding {
        Binding::Certificate(rule) => call.certificate.is_some_and(|id| is_of(id, rule)),
        Binding::From(networks) => networks.iter().any(|network| network[..3] == call.address[..3]),
        Binding::Hours(_, now) => *now,
        Binding::Issuer(domain) => call.certificate.is_some_and(|id| id.split('/').nth(2) == Some(domain)),
        Binding::Sni(name) => call.sni == Some(name),
    }
}

/// Whether a SPIFFE ID meets a rule.
fn is_of(id: &str, rule: &str) -> bool {
    match rule.strip_suffix("**") {
        Some(front) => id.starts_with(front),
        None => id == rule,
    }
}

fn owned(words: &[Word]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
