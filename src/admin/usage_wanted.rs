//! Which part of what was used is wanted.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{AppId, ProductId};
use crate::telemetry::UsageRow;

/// Which part of what was used is wanted.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct UsageWanted {
    /// Of the hours from this one on.
    pub since: Option<Timestamp>,
    /// By this app.
    pub app: Option<AppId>,
    /// Of this product.
    pub product: Option<ProductId>,
}

impl UsageWanted {
    /// Those of `rows` that are wanted, whenever they were.
    pub fn of(&self, rows: impl Iterator<Item = UsageRow>) -> Vec<UsageRow> {
        let by_app = |row: &UsageRow| self.app.as_ref().is_none_or(|app| row.key.app == app.as_str());
        let of_product =
            |row: &UsageRow| self.product.as_ref().is_none_or(|product| row.key.product == product.as_str());
        rows.filter(|row| by_app(row) && of_product(row)).collect()
    }
}
