//! Which scopes a token gets: what was asked for, as far as granted products convey it.

use std::collections::BTreeSet;

use crate::clock::Timestamp;
use crate::oauth::Fault;
use crate::registry::{Credential, Grant, Share};

/// The scopes of a token, and whether they are other ones than were asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Granted {
    pub(super) scopes: Vec<String>,
    pub(super) differs: bool,
}

/// Bytes of the longest scope of one token: it has to fit into a header with all the rest.
const LONGEST_SCOPE: usize = 4 * 1024;

/// What a token that rests on `credential` gets of the scopes in `requested`; all that it can have where none are asked for.
///
/// # Errors
/// Nothing is left of them, or it is too much for one token.
pub(super) fn granted(
    credential: &Credential,
    requested: Option<&str>,
    now: Timestamp,
) -> Result<Granted, Fault> {
    let conveyed = grants(credential, now).flat_map(|grant| &grant.product.scopes);
    let conveyed: BTreeSet<&str> =
        conveyed.map(String::as_str).filter(|scope| credential.lets_through(scope)).collect();
    let Some(requested) = requested else {
        let scopes: Vec<String> = conveyed.into_iter().map(str::to_owned).collect();
        // > If omitted […] the authorization server MUST […] process the request using a pre-defined default — RFC 6749 §3.3
        let differs = !scopes.is_empty();
        return fitting(Granted { scopes, differs });
    };
    let asked: Vec<&str> = requested.split(' ').collect();
    if !asked.iter().all(|scope| is_scope(scope)) {
        return Err(Fault::request("The scope is not a list of scopes with one space between them."));
    }
    let mut seen = BTreeSet::new();
    let kept = asked.iter().filter(|scope| conveyed.contains(**scope) && seen.insert(**scope));
    let scopes: Vec<String> = kept.map(|scope| (*scope).to_owned()).collect();
    if scopes.is_empty() {
        return Err(Fault::INVALID_SCOPE);
    }
    let differs = scopes.len() != asked.iter().collect::<BTreeSet<_>>().len();
    fitting(Granted { scopes, differs })
}

/// The grants of its app that `credential` has a share of, as far as they are good at `now`.
pub(super) fn grants(credential: &Credential, now: Timestamp) -> impl Iterator<Item = &Grant> {
    let shared = move |grant: &&Grant| match credential.share_of(&grant.product.id) {
        Share::Nothing => false,
        Share::Part(part) => part.is_in_force(now),
        Share::Whole => true,
    };
    credential.app.grants.iter().filter(move |grant| grant.is_in_force(now)).filter(shared)
}

fn fitting(granted: Granted) -> Result<Granted, Fault> {
    let length: usize = granted.scopes.iter().map(|scope| scope.len() + 1).sum();
    if length > LONGEST_SCOPE {
        return Err(Fault {
            description: "These are too many scopes for one token; ask for fewer.",
            ..Fault::INVALID_SCOPE
        });
    }
    Ok(granted)
}

/// > scope-token = 1*( %x21 / %x23-5B / %x5D-7E ) — RFC 6749 §3.3
fn is_scope(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    !text.is_empty() && text.bytes().all(allowed)
}
