//! A token as a caller presents it (RFC 6750), and the proof of what it says.
//!
//! The order: form, issuer, key, signature, and only then what is claimed: kind, audience, binding, time, and whether it was
//! taken back. Names of keys and issuers are public, so a failure need not cost what a success costs.

use std::sync::Arc;

use super::claims::{Claims, InvalidClaims, LEEWAY, Standing};
use super::jws::{InvalidJws, Jws};
use super::trust::{KeyStatus, OutsideIssuer, OwnIssuer, Proves, TokenTrust};
use crate::clock::Timestamp;
use crate::credential::Refusal;
use crate::registry::{Credential, CredentialKind, Snapshot};

/// A token as it was presented, unproven, with those by whose word it could be believed.
#[derive(Clone, Copy, Debug)]
pub struct Bearer<'a> {
    text: &'a [u8],
    trust: &'a TokenTrust,
}

/// A token that has been believed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Token {
    kind: CredentialKind,
    is_own: bool,
    claims: Claims,
}

/// Why a token proves nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Objection {
    /// It is meant for somebody else.
    #[error("its `aud` does not name this agent")]
    Audience,
    /// It is bound to a certificate that the caller has not shown.
    #[error("it is bound to a certificate (`cnf`), and the caller has not shown that one")]
    Binding,
    /// What it claims cannot be read.
    #[error("its claims cannot be read: {0}")]
    Claims(#[from] InvalidClaims),
    /// It has ended.
    #[error("it has expired")]
    Expired,
    /// It cannot be taken apart.
    #[error("it is no signed token: {0}")]
    Form(#[from] InvalidJws),
    /// Nobody here knows who has issued it.
    #[error("its `iss` is no issuer that is believed here")]
    Issuer,
    /// It names no key of its issuer that is good, or none at all.
    #[error("its `kid` names no good key of its issuer")]
    Key,
    /// It is of a client that acts for itself, where a user is to be proven.
    #[error("its `sub` is a client, and no user")]
    Client,
    /// It is not an access token.
    #[error("it is no access token: its `typ` says something else, or it has claims of an ID token")]
    Kind,
    /// It begins later.
    #[error("it is not valid yet")]
    NotYet,
    /// The header is not of the form `Bearer <token>`.
    #[error("the Authorization field is not of the form `Bearer <token>`")]
    Scheme,
    /// Its signature does not hold.
    #[error("its signature does not hold under its key and the algorithm of that key")]
    Signature,
    /// It was taken back, or its key was.
    #[error("it was revoked")]
    TakenBack,
    /// It is one of our own, and lacks a claim that we always write, or contradicts itself.
    #[error("it lacks a claim that an access token has (RFC 9068)")]
    Unfinished,
}

impl Objection {
    /// What the caller is told: who has not proven anything learns nothing.
    #[must_use]
    pub const fn refusal(self) -> Refusal {
        match self {
            Self::Audience
            | Self::Claims(_)
            | Self::Form(_)
            | Self::Issuer
            | Self::Key
            | Self::Client
            | Self::Kind
            | Self::Scheme
            | Self::Signature
            | Self::Unfinished => Refusal::InvalidCredential,
            Self::Binding => Refusal::TokenBindingFailed,
            Self::Expired => Refusal::CredentialExpired,
            Self::NotYet => Refusal::CredentialNotYetValid,
            Self::TakenBack => Refusal::TokenRevoked,
        }
    }
}

impl<'a> Bearer<'a> {
    /// The token among `fields`, if one is presented to us. Where nobody's tokens are believed, it is not for us but for the
    /// service; nor is what stands there under another scheme ever for us.
    ///
    /// > Clients MUST NOT use more than one method to transmit the token in each request. — RFC 6750 §2
    ///
    /// # Errors
    /// [`Refusal::DuplicateCredential`] when there are several fields of that name, of which one holds a token.
    pub fn from_fields(
        fields: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        trust: &'a TokenTrust,
    ) -> Result<Option<Self>, Refusal> {
        if trust.is_empty() {
            return Ok(None);
        }
        let ours = fields.into_iter().filter(|(name, _)| name.eq_ignore_ascii_case(AUTHORIZATION));
        let (mut found, mut count) = (None, 0);
        for (_, value) in ours {
            count += 1;
            if is_bearer(value) {
                found = Some(Self { text: value, trust });
            }
        }
        match found {
            Some(_) if count > 1 => Err(Refusal::DuplicateCredential),
            found => Ok(found),
        }
    }

    /// Of which kind it is, by its own word.
    #[must_use]
    pub fn kind(&self) -> CredentialKind {
        let jws = self.token().ok().and_then(|text| Jws::parse(text).ok());
        let claims = jws.and_then(|jws| Claims::parse(&jws.payload).ok());
        let issuer = claims.and_then(|claims| self.trust.outside(&claims.issuer));
        match issuer.map(|issuer| issuer.proves) {
            Some(Proves::Users) => CredentialKind::UserToken,
            Some(Proves::Apps) | None => CredentialKind::Token,
        }
    }

    /// Proves the token, for a caller who has shown a certificate with this SHA-256 digest, or none.
    ///
    /// # Errors
    /// The first reason why it proves nothing.
    pub fn prove(&self, certificate: Option<&[u8; 32]>, now: Timestamp) -> Result<Token, Objection> {
        let jws = Jws::parse(self.token()?)?;
        let claims = Claims::parse(&jws.payload)?;
        let own = self.trust.own().filter(|own| own.issuer == claims.issuer);
        let (kind, leeway) = match (own, self.trust.outside(&claims.issuer)) {
            (Some(own), _) => {
                self.by_own(own, &jws, &claims, now)?;
                (CredentialKind::Token, LEEWAY)
            }
            (None, Some(issuer)) => {
                by_outside(issuer, &jws, &claims)?;
                let kind = match issuer.proves {
                    Proves::Apps => CredentialKind::Token,
                    Proves::Users if claims.subject.is_none() => return Err(Objection::Unfinished),
                    // A client that asks for itself is the subject of its token, and no user (RFC 9068 §5).
                    Proves::Users if is_of_client(&claims) => return Err(Objection::Client),
                    Proves::Users => CredentialKind::UserToken,
                };
                (kind, issuer.leeway)
            }
            (None, None) => return Err(Objection::Issuer),
        };
        if claims.certificate.as_ref().is_some_and(|bound| Some(bound) != certificate) {
            return Err(Objection::Binding);
        }
        match claims.standing(leeway, now) {
            Standing::Expired => return Err(Objection::Expired),
            Standing::NotYet => return Err(Objection::NotYet),
            Standing::Good => {}
        }
        if claims.id.as_deref().is_some_and(|id| self.trust.denied().has_token(&claims.issuer, id)) {
            return Err(Objection::TakenBack);
        }
        if own.is_some() && self.is_issued_too_early(&claims) {
            return Err(Objection::TakenBack);
        }
        Ok(Token { kind, is_own: own.is_some(), claims })
    }

    /// Whether it is of those of its app or credential that were taken back all together.
    fn is_issued_too_early(&self, claims: &Claims) -> bool {
        let (app, credential) = (claims.subject.as_deref(), claims.credential.as_deref());
        let until = self.trust.denied().issued_until(app.unwrap_or_default(), credential.unwrap_or_default());
        until.is_some_and(|until| claims.issued.is_none_or(|issued| issued <= until))
    }

    fn by_own(
        &self,
        own: &OwnIssuer,
        jws: &Jws<'_>,
        claims: &Claims,
        now: Timestamp,
    ) -> Result<(), Objection> {
        let id = jws.key_id.as_deref().ok_or(Objection::Key)?;
        let (key, status) = own.key(id).ok_or(Objection::Key)?;
        if matches!(status, KeyStatus::Retired { until } if now >= until + LEEWAY) {
            return Err(Objection::Key);
        }
        if !key.has_signed(jws) {
            return Err(Objection::Signature);
        }
        if status == KeyStatus::Killed || self.trust.denied().has_key(id) {
            return Err(Objection::TakenBack);
        }
        if !jws.is_access_token() {
            return Err(Objection::Kind);
        }
        if !names_one(&claims.audience, &own.audiences) {
            return Err(Objection::Audience);
        }
        let whole = claims.id.is_some()
            && claims.issued.is_some()
            && claims.credential.is_some()
            && claims.subject.is_some()
            && claims.subject == claims.client_id;
        if whole { Ok(()) } else { Err(Objection::Unfinished) }
    }

    /// The token behind the scheme.
    ///
    /// > b64token = 1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"=" — RFC 6750 §2.1
    fn token(&self) -> Result<&'a [u8], Objection> {
        let text = self.text.get(SCHEME.len()..).map(<[u8]>::trim_ascii_start).unwrap_or_default();
        if text.is_empty() { Err(Objection::Scheme) } else { Ok(text) }
    }
}

/// Whether a token is of a client that acts for itself.
fn is_of_client(claims: &Claims) -> bool {
    let party = claims.all.get("azp").and_then(serde_json::Value::as_str);
    claims.subject.is_some() && [claims.client_id.as_deref(), party].contains(&claims.subject.as_deref())
}

impl Token {
    /// Whether it speaks of an app or of a user.
    #[must_use]
    pub const fn kind(&self) -> CredentialKind {
        self.kind
    }

    /// What it claims.
    #[must_use]
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }

    /// What it permits at most; none means that it permits nothing that asks for a scope.
    #[must_use]
    pub fn scopes(&self) -> &[String] {
        &self.claims.scopes
    }

    /// The user of whom it speaks, if it does.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        let is_users = self.kind == CredentialKind::UserToken;
        self.claims.subject.as_deref().filter(|_| is_users)
    }

    /// The credential on file that it stands for: that by which it was asked for, or that of the rule which it meets.
    ///
    /// # Errors
    /// There is none, or it speaks of another app than the credential does.
    pub(in crate::credential) fn credential<'s>(
        &self,
        registry: &'s Snapshot,
    ) -> Result<&'s Credential, Refusal> {
        let Some(id) = self.claims.credential.as_deref().filter(|_| self.is_own) else {
            let found = registry.token(&self.claims.issuer, |name| self.claims.text(name));
            return found.map(Arc::as_ref).ok_or(Refusal::UnmappedToken);
        };
        // What is not on file any more was good once, or there would be no such token.
        let found = registry.credential(id).ok_or(Refusal::CredentialRevoked)?;
        let same = self.claims.subject.as_deref() == Some(found.app.id.as_str());
        if same { Ok(found) } else { Err(Refusal::InvalidCredential) }
    }
}

fn by_outside(issuer: &OutsideIssuer, jws: &Jws<'_>, claims: &Claims) -> Result<(), Objection> {
    let key = jws.key_id.as_deref().and_then(|id| issuer.key(id)).ok_or(Objection::Key)?;
    if !key.has_signed(jws) {
        return Err(Objection::Signature);
    }
    let is_access_token = issuer.kinds.iter().any(|kind| jws.is_of_kind(kind));
    let is_id_token =
        ID_TOKEN_MARKS.iter().any(|name| claims.all.contains_key(*name)) || claims.says("typ", "ID");
    if !is_access_token || is_id_token && !jws.is_access_token() {
        return Err(Objection::Kind);
    }
    if names_one(&claims.audience, &issuer.audiences) { Ok(()) } else { Err(Objection::Audience) }
}

fn names_one(audience: &[String], ours: &[String]) -> bool {
    audience.iter().any(|one| ours.contains(one))
}

fn is_bearer(value: &[u8]) -> bool {
    let scheme = value.get(..SCHEME.len()).is_some_and(|start| start.eq_ignore_ascii_case(SCHEME.as_bytes()));
    scheme && value.get(SCHEME.len()).is_none_or(|&byte| byte == b' ' || byte == b'\t')
}

const AUTHORIZATION: &str = "authorization";

const SCHEME: &str = "Bearer";

/// Claims that an ID token has and an access token has not (OpenID Connect Core 1.0 §2, §3.1.3.6, §3.3.2.11).
const ID_TOKEN_MARKS: [&str; 3] = ["nonce", "at_hash", "c_hash"];
