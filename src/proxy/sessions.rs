//! Sessions that are remembered, but offered for resumption only while the certificate behind them is believed.
//!
//! rustls resumes whatever it finds. To find nothing is the kindest no: a full handshake follows, in which a caller that has
//! renewed its certificate shows the new one, and any other is told why it is refused.
//!
//! A session is kept in rustls' own encoding, of which only the beginning is read here. Should that encoding change, every
//! session is offered again; whoever resumes one is verified after the handshake in any case.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::server::{ProducesTickets, StoresServerSessions};

/// Whether the holder of a chain may resume its session now.
pub(super) type Believes = Arc<dyn Fn(&[CertificateDer<'_>]) -> bool + Send + Sync>;

/// Tickets or a store of sessions, behind the question.
pub(super) struct Screened<S: ?Sized> {
    sessions: Arc<S>,
    believes: Believes,
}

impl<S: ?Sized> Screened<S> {
    /// `sessions`, of which only those are found whose certificate `believes` lets pass.
    pub(super) fn new(sessions: Arc<S>, believes: &Believes) -> Arc<Self> {
        Arc::new(Self { sessions, believes: Arc::clone(believes) })
    }

    fn screen(&self, session: Vec<u8>) -> Option<Vec<u8>> {
        let is_believed = client_chain(&session).is_none_or(|chain| (self.believes)(&chain));
        is_believed.then_some(session)
    }
}

impl<S: fmt::Debug + ?Sized> fmt::Debug for Screened<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Screened").field(&self.sessions).finish()
    }
}

impl ProducesTickets for Screened<dyn ProducesTickets> {
    fn enabled(&self) -> bool {
        self.sessions.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.sessions.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.sessions.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.screen(self.sessions.decrypt(cipher)?)
    }
}

impl StoresServerSessions for Screened<dyn StoresServerSessions> {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.sessions.put(key, value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.screen(self.sessions.get(key)?)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.screen(self.sessions.take(key)?)
    }

    fn can_cache(&self) -> bool {
        self.sessions.can_cache()
    }
}

/// The client's certificates in a session; none if it showed none, or if the session cannot be read.
fn client_chain(session: &[u8]) -> Option<Vec<CertificateDer<'_>>> {
    let mut rest = session;
    if take(&mut rest, 1)? == [1] {
        // The server's name that was asked for.
        vector(&mut rest, 1)?;
    }
    // Version and cipher suite, the secret, and whether it is extended.
    take(&mut rest, 4)?;
    vector(&mut rest, 1)?;
    take(&mut rest, 1)?;
    if take(&mut rest, 1)? != [1] {
        return None;
    }
    let mut list = vector(&mut rest, 3)?;
    let mut chain = Vec::new();
    while !list.is_empty() {
        chain.push(CertificateDer::from(vector(&mut list, 3)?));
    }
    Some(chain)
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(count)?;
    *rest = after;
    Some(taken)
}

/// Bytes behind their own number, which takes `width` bytes.
fn vector<'a>(rest: &mut &'a [u8], width: usize) -> Option<&'a [u8]> {
    let length = take(rest, width)?.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
    take(rest, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A session with a name and two certificates, as rustls writes it.
    const SESSION: &[u8] =
        b"\x01\x01a\x03\x04\x13\x01\x02ss\x01\x01\x00\x00\x09\x00\x00\x02AA\x00\x00\x01B\x00\x00\x00";

    #[test]
    fn the_chain_of_a_session_is_found() {
        assert_eq!(client_chain(SESSION).unwrap(), [b"AA".as_slice(), b"B"].map(CertificateDer::from));
    }

    #[test]
    fn a_session_that_is_cut_short_has_no_chain() {
        for end in 0..SESSION.len() - 3 {
            assert_eq!(client_chain(&SESSION[..end]), None, "{end}");
        }
    }
}
