//! Who may do something: the question and the answer of `who-can`.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{AppId, DeveloperId, ProductId, ServiceId};

/// A request, of which it is asked who may make it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Deed {
    /// The method.
    pub method: String,
    /// The service.
    pub service: ServiceId,
    /// The path, without query.
    pub path: String,
}

/// Who may make it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Entitled {
    /// When it was asked.
    pub at: Timestamp,
    /// Which state of the registry was asked.
    pub registry: String,
    /// Every way in which an app may, by app.
    pub ways: Vec<EntitledApp>,
}

/// One way in which an app may.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct EntitledApp {
    /// The app.
    pub app: AppId,
    /// Who owns it.
    pub developer: DeveloperId,
    /// The product that it was granted.
    pub product: ProductId,
    /// The operation of that product: its name, or else its path.
    pub operation: String,
    /// The kinds of credential that it needs, all of them.
    pub credentials: Vec<String>,
    /// What must be so besides, which only a request shows; one sentence each, without "if".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub provisos: Vec<String>,
    /// When the grant ends, if it does.
    pub grant_ends: Option<Timestamp>,
}
