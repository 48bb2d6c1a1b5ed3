//! TLS for both directions: our certificates shown, the peer's identity verified by SPIFFE rules alone.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ServerSessionMemoryCache, StoresServerSessions};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError, ServerConfig,
    SignatureScheme,
};

use crate::clock::{Clock, Timestamp};
use crate::identity::{Glimpse, SpiffeId};
use crate::pki::{Usage, Verified, Verifier, VerifyError, X509Svid, chain_digest};
use crate::proxy::sessions::{Believes, Screened};
use crate::proxy::settings::OldestTls;

/// Why no TLS configuration can be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The key does not fit the certificate, or is of an unknown kind.
    #[error("certificate and key cannot be used")]
    Identity(#[source] rustls::Error),
    /// The ticket keys cannot be made.
    #[error("session tickets cannot be set up")]
    Tickets(#[source] rustls::Error),
    /// The protocol versions and suites do not fit together.
    #[error("protocol versions cannot be used")]
    Versions(#[source] rustls::Error),
}

/// Sessions that a server remembers for clients without tickets (TLS 1.2).
const SESSIONS: usize = 1024;

/// The cryptography that is spoken: AES-128-GCM first, for its key schedule runs on SHA-256, which processors have circuits for.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| {
        use rustls::CipherSuite::{
            TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            TLS13_AES_128_GCM_SHA256,
        };
        let fast = [
            TLS13_AES_128_GCM_SHA256,
            TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ];
        !fast.contains(&suite.suite())
    });
    Arc::new(provider)
}

/// What a server says of itself and accepts, for as long as certificate and trust stay as they are.
///
/// Each configuration has a session store and ticket keys of its own: a session made under another policy, certificate or
/// bundle is not resumed, nor one whose certificate is not believed any more.
///
/// # Errors
/// The identity cannot be used.
pub fn server_config(
    svid: &X509Svid,
    verifier: Arc<Verifier>,
    clock: Arc<dyn Clock>,
    oldest: OldestTls,
    protocols: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider();
    let versions: &[&rustls::SupportedProtocolVersion] = match oldest {
        OldestTls::V12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        OldestTls::V13 => &[&rustls::version::TLS13],
    };
    let identity = certified_key(svid, &provider)?;
    let believes = believes(Arc::clone(&verifier), Arc::clone(&clock));
    let verifier = Arc::new(ClientVerifier { verifier, provider: provider.clone() });
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(TlsClock(clock)))
        .with_protocol_versions(versions)
        .map_err(TlsError::Versions)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config.ignore_client_order = true;
    config.max_early_data_size = 0;
    let store: Arc<dyn StoresServerSessions> = ServerSessionMemoryCache::new(SESSIONS);
    config.session_storage = Screened::new(store, &believes);
    let tickets = aws_lc_rs::Ticketer::new().map_err(TlsError::Tickets)?;
    config.ticketer = Screened::new(tickets, &believes);
    Ok(Arc::new(config))
}

/// Whether a session's certificate is believed at the moment of its resumption.
fn believes(verifier: Arc<Verifier>, clock: Arc<dyn Clock>) -> Believes {
    Arc::new(move |chain| verdict(&verifier, chain, Usage::Client, clock.now()).is_ok())
}

/// What a workload shows to a remote, and whom it accepts there.
///
/// # Errors
/// The identity cannot be used.
pub fn client_config(
    svid: &X509Svid,
    verifier: Arc<Verifier>,
    clock: Arc<dyn Clock>,
    expected: Arc<[SpiffeId]>,
    protocols: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let identity = certified_key(svid, &provider)?;
    let verifier = Arc::new(ServerVerifier { verifier, expected, provider: provider.clone() });
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(TlsClock(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Versions)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    // A resumed session would carry the verdict of an earlier day; each connection is verified afresh.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// TLS for the agent's own questions to web servers, which are believed by `roots` and their host names.
///
/// # Errors
/// The provider lacks the versions.
pub fn web_client_config(
    roots: rustls::RootCertStore,
    clock: Arc<dyn Clock>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let config = ClientConfig::builder_with_details(provider(), Arc::new(TlsClock(clock)))
        .with_protocol_versions(&[&rustls::version::TLS12, &rustls::version::TLS13])
        .map_err(TlsError::Versions)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn certified_key(svid: &X509Svid, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.key.expose_secret().to_vec()));
    CertifiedKey::from_der(svid.chain.clone(), key, provider).map_err(TlsError::Identity)
}

/// The agent's clock, as TLS asks for it. A clock that was never set stops verification instead of passing it.
#[derive(Debug)]
struct TlsClock(Arc<dyn Clock>);

impl TimeProvider for TlsClock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = self.0.now();
        let seconds = u64::try_from(now.unix()).ok()?;
        (now >= Timestamp::FLOOR).then(|| UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

fn timestamp(now: UnixTime) -> Timestamp {
    Timestamp::from_unix(i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}

/// Verdicts that a thread remembers; more peers than that are verified in full again.
const VERDICTS: usize = 4096;

/// What was proven, by the end of the connection and the chain.
type Verdicts = HashMap<(Usage, [u8; 32]), Arc<Verified>>;

thread_local! {
    static KNOWN: RefCell<Verdicts> = RefCell::default();
}

/// Whether a peer's chain is to be believed now, and what it says.
///
/// A chain that this thread has proven before is only confirmed: its validity, its root and the revocations are looked at
/// anew, its signatures are not computed again unless it no longer holds that way.
///
/// # Errors
/// Why nobody should believe it.
pub(super) fn verdict(
    verifier: &Verifier,
    chain: &[CertificateDer<'_>],
    usage: Usage,
    now: Timestamp,
) -> Result<Arc<Verified>, VerifyError> {
    let digest = (usage, chain_digest(chain));
    if let Some(verified) = KNOWN.with_borrow(|known| known.get(&digest).cloned())
        && verifier.confirm(&verified, now).is_ok()
    {
        return Ok(verified);
    }
    // The chain may hold by another path than it did: over another root, or past an authority that was revoked since.
    let verified = Arc::new(verifier.verify(chain, usage, now)?);
    KNOWN.with_borrow_mut(|known| {
        if known.len() >= VERDICTS {
            known.clear();
        }
        known.insert(digest, Arc::clone(&verified));
    });
    Ok(verified)
}

/// The verdict in rustls' words, so that peers get the right alert; our own reason travels inside.
fn tls_error(error: VerifyError) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

/// A peer's certificate begins in the future.
#[derive(Debug, thiserror::Error)]
#[error(
    "{source} (by our clock that is in {:.0} s: their clock is ahead of ours by at least as much, or ours is behind)",
    ahead.as_secs_f64()
)]
pub(super) struct NotYetValid {
    /// Whose it is, if it is good but for its time.
    pub(super) peer: Option<SpiffeId>,
    /// How long it is until then: the least by which the clocks differ.
    pub(super) ahead: Duration,
    source: VerifyError,
}

/// [`tls_error`], finding out what a certificate that is not valid yet says of the clocks.
fn refused(
    verifier: &Verifier,
    chain: &[CertificateDer<'_>],
    usage: Usage,
    error: VerifyError,
    now: Timestamp,
) -> rustls::Error {
    let VerifyError::NotYetValid { not_before } = error else { return tls_error(error) };
    // As of then; a chain may have one certificate that begins later still.
    let (mut begins, mut peer) = (not_before, None);
    for _ in 0..2 {
        match verifier.verify(chain, usage, begins) {
            Ok(verified) => {
                peer = Some(verified.subject.spiffe_id);
                break;
            }
            Err(VerifyError::NotYetValid { not_before }) => begins = not_before,
            Err(_) => break,
        }
    }
    let skew = NotYetValid { peer, ahead: begins.since(now), source: error };
    CertificateError::Other(OtherError(Arc::new(skew))).into()
}

/// Our own reason inside a failed handshake, if that is what failed it.
pub(super) fn verify_error(error: &rustls::Error) -> Option<&VerifyError> {
    not_yet_valid(error).map(|skew| &skew.source).or_else(|| inner_error(error)?.downcast_ref())
}

/// What a failed handshake says of the clocks, if it failed for them.
pub(super) fn not_yet_valid(error: &rustls::Error) -> Option<&NotYetValid> {
    inner_error(error)?.downcast_ref()
}

fn inner_error(error: &rustls::Error) -> Option<&(dyn std::error::Error + Send + Sync + 'static)> {
    let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) = error else {
        return None;
    };
    match inner.downcast_ref::<Shown>() {
        Some(shown) => inner_error(&shown.error),
        None => Some(&**inner),
    }
}

/// A refused certificate of a caller's, and what it says.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
struct Shown {
    error: rustls::Error,
    glimpse: Glimpse,
}

/// What the caller has shown in a handshake that failed for it.
pub(super) fn shown(error: &rustls::Error) -> Option<&Glimpse> {
    let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) = error else {
        return None;
    };
    inner.downcast_ref().map(|shown: &Shown| &shown.glimpse)
}

/// What both directions check in the same way: that the peer holds the key of its certificate.
macro_rules! signature_checks {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls12_signature(
                message,
                certificate,
                signature,
                &self.provider.signature_verification_algorithms,
            )
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(
                message,
                certificate,
                signature,
                &self.provider.signature_verification_algorithms,
            )
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

/// Asks every client for a certificate. None is fine (other evidence may follow); a bad one ends the handshake.
struct ClientVerifier {
    verifier: Arc<Verifier>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientVerifier")
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let (chain, now) = (chain(end_entity, intermediates), timestamp(now));
        verdict(&self.verifier, &chain, Usage::Client, now).map(|_| ClientCertVerified::assertion()).map_err(
            |error| {
                let error = refused(&self.verifier, &chain, Usage::Client, error, now);
                let shown = Shown { error, glimpse: Glimpse::of(end_entity) };
                CertificateError::Other(OtherError(Arc::new(shown))).into()
            },
        )
    }

    signature_checks!();
}

/// Accepts a server by its SPIFFE ID; the host name that was dialled proves nothing.
struct ServerVerifier {
    verifier: Arc<Verifier>,
    expected: Arc<[SpiffeId]>,
    provider: Arc<CryptoProvider>,
}

/// The remote is somebody, but not who was expected.
#[derive(Debug, thiserror::Error)]
#[error("the remote is {found}, which is not among the expected identities")]
struct UnexpectedIdentity {
    found: SpiffeId,
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerVerifier")
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let (chain, now) = (chain(end_entity, intermediates), timestamp(now));
        let verified = verdict(&self.verifier, &chain, Usage::Server, now)
            .map_err(|error| refused(&self.verifier, &chain, Usage::Server, error, now))?;
        let found = &verified.subject.spiffe_id;
        if self.expected.contains(found) {
            return Ok(ServerCertVerified::assertion());
        }
        let unexpected = UnexpectedIdentity { found: found.clone() };
        Err(CertificateError::Other(OtherError(Arc::new(unexpected))).into())
    }

    signature_checks!();
}

fn chain<'a>(
    end_entity: &'a CertificateDer<'_>,
    intermediates: &'a [CertificateDer<'_>],
) -> Vec<CertificateDer<'a>> {
    let borrow = |der: &'a CertificateDer<'_>| CertificateDer::from(der.as_ref());
    std::iter::once(end_entity).chain(intermediates).map(borrow).collect()
}
