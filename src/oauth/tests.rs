//! Claims for tests.

use crate::clock::Timestamp;
use crate::credential::token::{Claims, Members};

/// Claims of one token or other.
pub(super) fn claims() -> Claims {
    Claims {
        issuer: "https://tokens.test".to_owned(),
        audience: vec!["https://tokens.test".to_owned()],
        expires: Timestamp::from_unix(1_800_000_600),
        not_before: None,
        issued: Some(Timestamp::from_unix(1_800_000_000)),
        id: Some("j".to_owned()),
        subject: Some("ledger".to_owned()),
        client_id: Some("ledger".to_owned()),
        scopes: Vec::new(),
        credential: Some("0000000000A1".to_owned()),
        products: Vec::new(),
        certificate: None,
        all: Members::new(),
    }
}
