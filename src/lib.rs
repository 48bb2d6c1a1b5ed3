//! Postern: a per-host mutual-TLS identity agent.
//!
//! One process on every host gives each service there a short-lived identity, lets nobody in to a guarded service without
//! one, and still serves the callers that have only an API key. This page is its architecture; start here.
//!
//! # From above
//!
//! ```text
//!              TLS                          plaintext, loopback or Unix socket
//!  caller ───────────────▶ listener ─ gate ─────────────────────▶ guarded service
//!                             │  who is it, may it?
//!                             ▼
//!                   one immutable snapshot ◀── registry files, configuration, trust bundles
//!                             ▲            ◀── local CA: identities, renewed
//!                             │
//!  remote ◀─────────────── outbound ◀────────────────────────── local workload
//!           mTLS, as the workload    which process is that? (the kernel's word)
//! ```
//!
//! Three front doors stand side by side and never use each other: [`proxy`] for traffic, [`workload`] for local processes
//! and their files, [`admin`] for operators. [`agent`] wires them together.
//!
//! # The floors
//!
//! The modules are listed from the ground up, and **each uses only those above it in the list**; `tests/architecture.rs`
//! refuses everything else. Those marked *pure* take values and `now` and give values: no clock, no disk, no network, no
//! environment, no runtime.
//!
//! | room | what it is for |
//! | --- | --- |
//! | [`clock`] | the one place that reads the time of day |
//! | [`secret`] | bytes that are wiped, never shown, and compared in constant time |
//! | [`id`] | names as types, so that an app is never taken for a service |
//! | [`causes`] | *pure*: an error with all that caused it, on one line |
//! | [`suggest`] | *pure*: the valid word that somebody probably meant |
//! | [`shard_map`] | *pure*: a map whose copies share what they have in common |
//! | [`toml_text`] | *pure*: TOML read strictly, with every problem and its place at once |
//! | [`identity`] | *pure*: SPIFFE IDs, what a verified leaf says, and which rule it meets |
//! | [`limit`] | *pure*: quotas, spike arrest, the ledger that is charged, concurrency, the throttle on failures |
//! | [`registry`] | *pure*: developers, apps, credentials, products, grants, and how paths are matched |
//! | [`pki`] | *pure*: keys, authorities and their slots, issuing, verifying, when to renew |
//! | [`credential`] | *pure*: evidence becomes a principal, or a refusal |
//! | [`authz`] | *pure*: the decision, and the permit without which nothing is forwarded |
//! | [`oauth`] | *pure*: the authorization server: who gets a token, by which key it is signed, and what is taken back |
//! | [`store`] | files that are written whole or not at all: the CA, peppers, registry edits; and keys on a token |
//! | [`telemetry`] | operator log, access log, audit log, metrics |
//! | [`issuance`] | owns the local CA, renews, and publishes everything as one value |
//! | [`proxy`] | the data plane: TLS, the strict HTTP gate, forwarding, the way out |
//! | [`workload`] | who a local caller is, and certificates delivered as files |
//! | [`admin`] | status, explain and changes over a local socket; health and metrics over HTTP |
//! | [`config`] | the configuration file, what follows from a change of it, and watching |
//! | [`agent`] | builds, supervises and reloads |
//! | [`cli`] | the command line, one file a verb |
//!
//! # A request in
//!
//! 1. A data-plane thread accepts; behind a proxy that is believed, the first bytes say who the connection is from. TLS asks
//!    for a client certificate. One that is shown and does not verify ([`pki::Verifier`]: chain, roots of that very trust
//!    domain, validity now, SPIFFE rules, revocations) ends the handshake; nothing else that the caller has makes up for it.
//! 2. The head is read strictly on its bytes, before any library could forgive something: one length, one host, one way to
//!    read the path ([`registry::PolicyPath`]).
//! 3. [`credential::Evidence`] is what was presented: the certificate's [`identity::Subject`], a signature over the request
//!    ([`credential::Signed`]), an access token ([`credential::token::Bearer`]), or an API key.
//!    [`credential::authenticate`] turns it into a [`credential::Principal`] or a [`credential::Refusal`] (mostly 401).
//!    All that is presented must hold, and belong to one app.
//! 4. [`authz::decide`] answers from the principal, the [`authz::Ask`] and `now`: allow with terms, or a
//!    [`authz::Denial`] (403). Then it is paid for: the [`limit::Ledger`] checks all limits and charges all or none, and a
//!    service may have no place left. [`authz::check`] is the only maker of an [`authz::Permit`], and forwarding takes one.
//! 5. The head for the service is written anew. Every field by which a caller could speak for the agent is removed, then
//!    the agent says who calls. Secrets stay here.
//! 6. The exchange runs over a kept connection of that thread, and one line goes to the access log.
//!
//! `postern explain` asks the same code through [`proxy::rehearse`], so it cannot disagree with the live agent. In the same way
//! [`proxy::read_conversation`], [`proxy::read_answer`] and [`proxy::read_proxy_header`] tell what bytes mean to it.
//!
//! # A token of our own
//!
//! At the listeners that `[token]` names, [`oauth::Office`] answers before the gate does: a client proves itself to it, and no
//! product grants it. [`oauth::KeyRing`] says which key signs; [`oauth::Withdrawals`] holds what was taken back. Both are
//! kept by one thread of the agent, which writes every step down before it is in force; [`issuance::TokenDesk`] is the way there.
//! What comes of it is published like everything else, as [`credential::token::TokenTrust`] in the one snapshot.
//!
//! # A connection out
//!
//! A local process connects in plaintext to a remote's loopback port or Unix socket. The kernel says whose socket that is
//! ([`workload::attest_loopback`], [`workload::attest_unix`]), [`workload::Directory`] finds the one workload whose
//! selectors all hold, and the thread dials the remote under *that* workload's certificate. Pools are kept apart by
//! workload and by generation of the certificate. The remote must show one of the configured SPIFFE IDs; its host name
//! proves nothing. Who is no workload gets no connection, and the log says which selector missed.
//!
//! # A certificate
//!
//! [`pki::Profile`] says what it is to contain; [`pki::issue`] draws it up under the active authority, always with a fresh
//! key. [`pki::Renewal`] drew one moment between 50 and 60 % of its life when it was issued; [`issuance::Rotator`] sleeps
//! until then, and after a failure tries again, more often the nearer the end. All of it is published as one
//! [`issuance::Issued`]: TLS takes new certificates for new handshakes, [`workload::Delivery`] swaps a directory of files.
//! A connection that rests on a certificate announces its end a second before and closes with it; a request under way
//! then may finish within a second more. Whenever roots or revocations change, the verdict on every live connection is
//! taken again ([`pki::Verifier::confirm`]), and who does not pass is cut.
//!
//! # A roll-over of the CA
//!
//! [`pki::Hierarchy`] holds roots and issuing authorities in slots: prepared, active, retired. Its transitions are pure;
//! [`store::AuthorityDir`] makes each one the state of the disk in a single step before it is published. Rotating the
//! issuing authority prepares the next one, activates it, and issues everything anew under it at once. Chains carry the
//! issuing certificate, so whoever trusts the root notices nothing. The former authority is retired until the last
//! certificate under it has ended. Where the root signs elsewhere ([`issuance::Mode`]), the agent asks for a signature instead
//! of making the next one, and installs what comes back.
//!
//! # Threads, and the one snapshot
//!
//! The data plane has one thread per core, each with a runtime, listening sockets (`SO_REUSEPORT`), upstream pools and
//! counters of its own. What apps have used is the one thing that all threads write to: a charge takes its turn by
//! compare-and-swap, for some nanoseconds and without ever sleeping. The control plane (issuing, watching, admin) has
//! another runtime, so that a storm there does not stall traffic. Between them stands one value, [`proxy::Snapshot`], which
//! is replaced whole: it is loaded once for each request, and what was loaded cannot change under that request. Snapshots of
//! the registry share what they have in common ([`shard_map`]), and a change of apps is a reading of their file alone
//! ([`registry::Library`]), so that one app of a million is replaced as fast as one of ten. A change
//! that cannot be used is never published; the last good state stays, and status, log and metric say why.
//!
//! # One process after the other
//!
//! An agent that ends closes its doors and drains: HTTP/1 connections are closed with an answer that says so, HTTP/2 ones say GOAWAY in
//! two steps, and what is left at the deadline is cut. When another one takes over, the former one (the elder) passes it every listening socket
//! and the lock of the state directory ([`store::courier`], `SCM_RIGHTS`). Whoever writes is at rest from then on; certificates, decisions
//! and connections go on from memory. The heir opens the doors only when nothing can fail any more, and until it says so the elder goes on as if
//! nothing had happened, should the heir die. Limits are counted in one place at any time: while both let callers pass, the elder asks the
//! heir's [`limit::Ledger`] ([`limit::Arbiter`]). Sockets may also come from the service manager.
//!
//! # Time
//!
//! Everything that decides takes `now` as a [`clock::Timestamp`]; only [`clock`] reads it, and TLS is given the same clock.
//! So days of rotation run in milliseconds in tests. Spans that a connection waits for are the runtime's own, which tests
//! can pause. Where the end of a certificate became a moment of the runtime's clock, that holds only as long as the two go
//! together: when the clock is set, or the machine has slept, the agent first has the CA look, then every live connection.

pub mod clock;
pub mod secret;
pub mod id;
pub mod causes;
pub mod suggest;
pub mod shard_map;
pub mod toml_text;
pub mod identity;
pub mod limit;
pub mod registry;
pub mod pki;
pub mod credential;
pub mod authz;
pub mod oauth;
pub mod store;
pub mod telemetry;
pub mod issuance;
pub mod proxy;
pub mod workload;
pub mod admin;
pub mod config;
pub mod agent;
pub mod cli;
