//! What would the agent say to this caller, and why: the question and the answer of `explain`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::admin::SecretText;
use crate::clock::Timestamp;
use crate::id::{AppId, CredentialId, DeveloperId, ListenerId, ProductId, ServiceId};

/// A request or connection that nobody made, to be judged as if it came in now.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Question {
    /// By which door; the only one if nothing is said.
    pub listener: Option<ListenerId>,
    /// What is asked for.
    pub operation: Operation,
    /// The client certificate that is presented.
    pub certificate: Option<Presented>,
    /// Where the caller comes from.
    #[serde(default)]
    pub origin: Origin,
    /// The API key that is presented.
    pub api_key: Option<SecretText>,
    /// Further fields of the request, each with its value: those that carry a signature, and what it covers.
    #[serde(default)]
    pub fields: Vec<(String, String)>,
}

/// What is asked for.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// One HTTP request.
    Http {
        /// The method.
        method: String,
        /// The `Host`.
        host: String,
        /// The path as sent, with its query.
        path: String,
    },
    /// One raw connection.
    Tcp {
        /// The service at its other end; the listener's if nothing is said.
        service: Option<ServiceId>,
    },
}

/// Where a caller comes from.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Origin {
    /// Its address; that of this host if nothing is said.
    pub address: Option<IpAddr>,
    /// The name that it asks for in the handshake; the request's host if nothing is said.
    pub sni: Option<String>,
}

/// A client certificate.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Presented {
    /// This chain, leaf first, as PEM; it is verified as in a handshake.
    ChainPem(String),
    /// Some valid certificate that says no more than this SPIFFE ID.
    SpiffeId(String),
}

/// The answer, and how it came about.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Explanation {
    /// Whether the caller would be let in.
    pub allowed: bool,
    /// The HTTP status that it would get, if it got as far as HTTP and was refused.
    pub status: Option<u16>,
    /// `allowed`, or the stable code of the refusal.
    pub code: String,
    /// The same for people.
    pub sentence: String,
    /// When it was asked.
    pub at: Timestamp,
    /// Which state of the registry was asked.
    pub registry: String,
    /// What was looked at, in order.
    pub steps: Vec<TrailStep>,
    /// Who calls, as far as that was found out.
    pub app: Option<AppId>,
    /// Who owns the app.
    pub developer: Option<DeveloperId>,
    /// By which product it is allowed.
    pub product: Option<ProductId>,
    /// What would answer.
    pub service: Option<ServiceId>,
    /// The strongest credential that was proven.
    pub credential: Option<CredentialId>,
    /// What comes of each grant of the app, in order; the first that allows decides.
    #[serde(default)]
    pub grants: Vec<GrantTrail>,
    /// What was asked, if it was asked by somebody and not only imagined.
    #[serde(default)]
    pub request: Option<SeenRequest>,
    /// Which state of the registry is in force, if it is not the one that decided: grants and limits are told by this one.
    #[serde(default)]
    pub registry_now: Option<String>,
}

/// What comes of one grant.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct GrantTrail {
    /// Of which product.
    pub product: ProductId,
    /// `allowed`, or the code of what stands in the way.
    pub code: String,
    /// What was found, in a sentence.
    pub detail: String,
}

/// A request that was made, as it is remembered. Never a secret.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SeenRequest {
    /// Its id.
    pub id: String,
    /// When it was complete.
    pub at: Timestamp,
    /// `in` by a listener or `out` to a remote.
    pub direction: String,
    /// Which listener or remote.
    pub door: String,
    /// From which address.
    pub peer: Option<String>,
    /// `http/1.1`, `http/2` or `tcp`.
    pub protocol: String,
    /// The method.
    pub method: String,
    /// The path without its query.
    pub path: String,
    /// The status of the answer; 0 where there was none.
    pub status: u16,
    /// The kinds of credential that were presented.
    pub presented: Vec<String>,
    /// The identity that the certificate named, if there was one.
    pub spiffe_id: Option<String>,
    /// How long it took, in microseconds.
    pub duration_us: u64,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TrailStep {
    /// Which, in a word or two.
    pub name: String,
    /// How it went.
    pub outcome: StepOutcome,
    /// What was found, in a sentence; never a secret.
    pub detail: String,
}

/// How a step went.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepOutcome {
    /// It decided against the caller.
    Failed,
    /// An earlier step had decided already.
    NotReached,
    /// Nothing stood in the way.
    Passed,
}
