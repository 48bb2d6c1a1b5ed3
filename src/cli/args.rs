//! What can be typed behind `postern`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::apigee::ProxyRule;
use crate::clock::Timestamp;
use crate::id::InvalidId;
use crate::id::{
    AppId, AuthorityId, CredentialId, DeveloperId, EnvironmentId, ListenerId, OperationId, ProductId,
    ServiceId, WorkloadId,
};
use crate::identity::SpiffeId;
use crate::pki::Revoked;
use crate::registry::InvalidMethod;
use crate::registry::{Method, PathRule, SignatureAlgorithm};
use crate::toml_text::{InvalidDuration, parse_duration};

/// A per-host mutual-TLS identity agent.
///
/// Gives local services short-lived certificates, guards them, and serves callers by certificate or API key.
/// Exit codes: 0 fine, 1 failed, 2 wrong usage, 3 answered "no".
#[derive(Debug, Parser)]
#[command(name = "postern", version, max_term_width = 100)]
pub(super) struct CommandLine {
    /// The agent's configuration
    #[arg(long, global = true, value_name = "FILE", default_value = "config/postern.toml")]
    pub(super) config: PathBuf,

    #[command(subcommand)]
    pub(super) verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Run the agent; what a bare `postern` does
    Run(RunArgs),
    /// Say everything that is wrong with configuration and registry
    Check(CheckArgs),
    /// Show how the running agent stands; exit 3 when it is not ready
    Status(Format),
    /// Show how the running agent would decide or has decided, and why; exit 3 when that is a refusal
    Explain(Box<ExplainArgs>),
    /// Show every app that may make a request, by which right and with which credentials; exit 3 when there is none
    WhoCan(WhoCanArgs),
    /// Show who used what, and how much; exit 3 when nobody used anything
    Usage(UsageArgs),
    /// The local CA
    Ca {
        #[command(subcommand)]
        verb: CaVerb,
    },
    /// Certificates of workloads
    Cert {
        #[command(subcommand)]
        verb: CertVerb,
    },
    /// Developers, who own apps
    Developer {
        #[command(subcommand)]
        verb: DeveloperVerb,
    },
    /// Apps, who call
    App {
        #[command(subcommand)]
        verb: AppVerb,
    },
    /// Products, which apps are granted
    Product {
        #[command(subcommand)]
        verb: ProductVerb,
    },
    /// What apps are granted
    Grant {
        #[command(subcommand)]
        verb: GrantVerb,
    },
    /// Bring the registry to the state that files describe, all in one step
    Apply(ApplyArgs),
    /// Take over what another gateway has on file
    Import {
        #[command(subcommand)]
        verb: ImportVerb,
    },
    /// Who changed what, and whether the log of it is whole
    Audit {
        #[command(subcommand)]
        verb: AuditVerb,
    },
    /// API keys, and keys for signatures
    Key {
        #[command(subcommand)]
        verb: KeyVerb,
    },
    /// Sign a request as a caller does, and print the fields to send with it; exit 3 when a comparison finds a difference
    Sign(Box<SignRequestArgs>),
    /// Access tokens of the running agent
    Token {
        #[command(subcommand)]
        verb: TokenVerb,
    },
    /// Print what files may say, in JSON Schema
    Schema {
        /// Which files
        which: Described,
    },
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Args, Debug, Default)]
pub(super) struct RunArgs {
    /// The environment that the agent stands in, whatever the configuration says
    #[arg(long, value_name = "NAME")]
    pub(super) env: Option<EnvironmentId>,
    /// Take over from the agent that runs with this configuration, without a caller noticing; it ends then
    #[arg(long)]
    pub(super) take_over: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum Described {
    /// The agent's configuration
    Config,
    /// A file of the registry
    Registry,
}

#[derive(Args, Clone, Copy, Debug)]
pub(super) struct CheckArgs {
    /// Fail on warnings, too: on what is allowed in the registry, and hardly meant
    #[arg(long)]
    pub(super) strict: bool,

    #[command(flatten)]
    pub(super) format: Format,
}

#[derive(Args, Clone, Debug)]
pub(super) struct ApplyArgs {
    /// Files with developers, apps and products as they are to be, or folders of them; they are written as the registry's are
    #[arg(value_name = "FILE|DIR", required = true)]
    pub(super) files: Vec<PathBuf>,

    /// Say what would change and change nothing; exit 3 when something would
    #[arg(long)]
    pub(super) plan: bool,

    /// Delete what the files do not have, too: in those files of the registry that have the name of a given one
    #[arg(long)]
    pub(super) prune: bool,

    /// Why, for the audit log
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: Option<String>,

    #[command(flatten)]
    pub(super) format: Format,
}

#[derive(Debug, Subcommand)]
pub(super) enum ImportVerb {
    /// Apigee's products, developers and apps, as `apigeecli` exports them; exit 3 when something of them has no counterpart
    Apigee(ApigeeArgs),
}

#[derive(Args, Clone, Debug)]
pub(super) struct ApigeeArgs {
    /// The folder with products.json, developers.json and apps.json
    #[arg(value_name = "DIR")]
    pub(super) folder: PathBuf,

    /// Write files for `postern apply` into this folder, and leave the registry alone
    #[arg(long, value_name = "DIR", conflicts_with_all = ["plan", "reason"])]
    pub(super) out: Option<PathBuf>,

    /// Say what would change in the registry and change nothing; exit 3 when something would
    #[arg(long)]
    pub(super) plan: bool,

    /// Which service stands for an API proxy, and the proxy's base path; may be given several times. Without it a proxy is taken for
    /// the service of its name, with the base path /
    #[arg(long = "service", value_name = "PROXY=SERVICE[/BASE]")]
    pub(super) services: Vec<ProxyRule>,

    /// Why, for the audit log
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: Option<String>,
}

#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Format {
    /// Print JSON for programs
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    /// The id of a request that was made, as in `X-Request-Id` and the access log: how it fared, as long as it is remembered
    #[arg(
        value_name = "REQUEST-ID",
        conflicts_with_all = ["listener", "method", "host", "path", "tcp_service", "certificate", "spiffe_id", "from", "sni", "api_key_file", "token_file", "header"]
    )]
    pub(super) request_id: Option<String>,

    /// By which listener the caller comes; without it, the first that speaks the protocol
    #[arg(long, value_name = "ID")]
    pub(super) listener: Option<ListenerId>,

    /// The request's method
    #[arg(long, default_value = "GET")]
    pub(super) method: String,

    /// The request's host
    #[arg(long, default_value = "localhost")]
    pub(super) host: String,

    /// The request's path
    #[arg(long, default_value = "/")]
    pub(super) path: String,

    /// Ask about a raw connection to this service instead of a request
    #[arg(long, value_name = "ID", conflicts_with_all = ["method", "host", "path", "api_key_file", "token_file", "header"])]
    pub(super) tcp_service: Option<ServiceId>,

    /// The caller shows this certificate chain (PEM, leaf first), which is verified
    #[arg(long, value_name = "FILE", conflicts_with = "spiffe_id")]
    pub(super) certificate: Option<PathBuf>,

    /// The caller shows some valid certificate of this identity
    #[arg(long, value_name = "ID")]
    pub(super) spiffe_id: Option<SpiffeId>,

    /// The caller comes from this address; without it, from this host (127.0.0.1)
    #[arg(long, value_name = "ADDRESS")]
    pub(super) from: Option<IpAddr>,

    /// The caller asks for this name in the TLS handshake; without it, for the request's host
    #[arg(long, value_name = "NAME")]
    pub(super) sni: Option<String>,

    /// The caller sends the API key in this file; `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub(super) api_key_file: Option<PathBuf>,

    /// The caller sends the access token in this file as `Authorization: Bearer`; `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,

    /// A field that the caller sends, as `postern sign` prints them; can be given several times
    #[arg(long, value_name = "NAME: VALUE")]
    pub(super) header: Vec<FieldLine>,

    #[command(flatten)]
    pub(super) format: Format,
}

#[derive(Args, Debug)]
pub(super) struct UsageArgs {
    /// From when on, by whole hours: a time, or so long ago, such as 24h; without it, everything that is kept
    #[arg(long, value_name = "WHEN")]
    pub(super) since: Option<Expiry>,

    /// By this app alone
    #[arg(long, value_name = "ID")]
    pub(super) app: Option<AppId>,

    /// Of this product alone
    #[arg(long, value_name = "ID")]
    pub(super) product: Option<ProductId>,

    /// Print JSON, a row for each hour
    #[arg(long, conflicts_with = "csv")]
    pub(super) json: bool,

    /// Print comma-separated values (RFC 4180), a row for each hour
    #[arg(long)]
    pub(super) csv: bool,
}

#[derive(Args, Debug)]
pub(super) struct WhoCanArgs {
    /// The request's method
    pub(super) method: String,

    /// The service
    pub(super) service: ServiceId,

    /// The request's path
    pub(super) path: String,

    #[command(flatten)]
    pub(super) format: Format,
}

#[derive(Debug, Subcommand)]
pub(super) enum CaVerb {
    /// Make the CA if there is none yet; needs no agent
    Init {
        /// Say what would be done, but change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Show the authorities; exit 3 when there is no CA yet
    Status(Format),
    /// Prepare and activate the next authority, waiting until everyone has taken it; run it again to go on where it stopped
    Rotate {
        /// How long to wait for whoever lags
        #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
        timeout: Duration,
        #[command(flatten)]
        terms: Terms,
        #[command(flatten)]
        force: Force,
    },
    /// Make the next authority and make it known, but do not use it yet
    Prepare {
        #[command(flatten)]
        terms: Terms,
    },
    /// Let the prepared authority sign, and issue everything anew; exit 3 while somebody does not know it yet
    Activate {
        /// Which one; without it, the one that is prepared
        id: Option<AuthorityId>,
        #[command(flatten)]
        terms: Terms,
        #[command(flatten)]
        force: Force,
    },
    /// Throw the prepared authority away
    Discard {
        /// Which one; without it, the one that is prepared
        id: Option<AuthorityId>,
        #[command(flatten)]
        terms: Terms,
    },
    /// Let the former authority sign again, and issue everything anew; possible until it is retired for good
    Rollback {
        /// Which one; without it, the latest
        id: Option<AuthorityId>,
        #[command(flatten)]
        terms: Terms,
    },
    /// Forget a retired authority, which happens by itself when all that it signed has expired; exit 3 before that
    Retire {
        /// Which one
        id: AuthorityId,
        #[command(flatten)]
        terms: Terms,
        #[command(flatten)]
        force: Force,
    },
    /// Revoke an authority with all below it; if it signs, another one takes over first. Exit 3 while somebody would be cut
    Revoke {
        /// Which one, as `ca status` shows it
        id: AuthorityId,
        /// Why, for whoever reads the list later; the standard's own words get into the published list as well
        #[arg(long, default_value = "key compromise")]
        reason: String,
        /// If it signs: how long to wait for whoever still shows a certificate under it
        #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
        timeout: Duration,
        #[command(flatten)]
        terms: Terms,
        #[command(flatten)]
        force: Force,
    },
    /// Print the roots, for others to trust
    Bundle,
    /// Print the revocation lists of all authorities, for others to heed
    Crl,
    /// Print the request for the next issuing authority of this host, whose root is elsewhere; the same one until it is installed
    Csr(CsrArgs),
    /// Sign the request of another host with the root of this one, and print the chain that is to be installed there
    Sign(SignArgs),
    /// Install the chain that was signed for this host's request; exit 3 if it has to wait before it can sign
    Install(InstallArgs),
    /// Write the authorities' key files anew as the configuration says, encrypted or plain; the agent must be stopped. Run it
    /// again to finish what was interrupted
    Rekey {
        /// A file with the passphrase that they are encrypted under so far; not needed if they are plain
        #[arg(long, value_name = "PATH")]
        former_passphrase_file: Option<PathBuf>,
    },
}

impl CaVerb {
    /// How a change is told in the audit log: its verb, what it is about, and why. None for what changes nothing.
    pub(super) fn audited(&self) -> Option<(&'static str, String, Option<String>)> {
        let level = |terms: &Terms| format!("authority:{}", if terms.root { "root" } else { "issuing" });
        let moved = |verb, terms: &Terms| (!terms.dry_run).then(|| (verb, level(terms), None));
        let issuing = |verb, dry_run: bool| (!dry_run).then(|| (verb, "authority:issuing".to_owned(), None));
        match self {
            Self::Bundle | Self::Crl | Self::Status(_) => None,
            Self::Init { dry_run } => (!dry_run).then(|| ("ca.init", "authority:root".to_owned(), None)),
            Self::Rotate { terms, .. } => moved("ca.rotate", terms),
            Self::Prepare { terms } => moved("ca.prepare", terms),
            Self::Activate { terms, .. } => moved("ca.activate", terms),
            Self::Discard { terms, .. } => moved("ca.discard", terms),
            Self::Rollback { terms, .. } => moved("ca.rollback", terms),
            Self::Retire { terms, .. } => moved("ca.retire", terms),
            Self::Revoke { id, reason, terms, .. } => {
                (!terms.dry_run).then(|| ("ca.revoke", format!("authority:{id}"), Some(reason.clone())))
            }
            Self::Csr(args) => issuing("ca.request", args.dry_run),
            Self::Sign(args) => issuing("ca.sign", args.dry_run),
            Self::Install(args) => issuing("ca.install", args.dry_run),
            Self::Rekey { .. } => Some(("ca.rekey", "authorities".to_owned(), None)),
        }
    }
}

#[derive(Args, Debug)]
pub(super) struct CsrArgs {
    /// Make another key: what is signed for the former request cannot be installed any more
    #[arg(long)]
    pub(super) new: bool,

    /// Write it into this file instead of printing it
    #[arg(long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,

    /// Say what would happen, but change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Args, Debug)]
pub(super) struct SignArgs {
    /// The request (PEM); `-` for standard input
    pub(super) request: PathBuf,

    /// How long the authority is to live, at most as long as the root; without it, as long as an issuing authority of this host
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) ttl: Option<Duration>,

    /// Write the chain into this file instead of printing it
    #[arg(long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,

    /// Check the request and say what would happen, but hand nothing out
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Args, Debug)]
pub(super) struct InstallArgs {
    /// The issuing certificate, the one that signed it if that is not the root, then the root (PEM); `-` for standard input
    #[arg(value_name = "CHAIN")]
    pub(super) chain: PathBuf,

    /// Roots (PEM), if the chain has none and its root is not known here yet
    #[arg(long, value_name = "FILE")]
    pub(super) bundle: Option<PathBuf>,

    /// Do not let it sign before it is due or activated
    #[arg(long)]
    pub(super) prepare_only: bool,

    /// CHAIN holds only a root: make it known ahead of the first certificate under it
    #[arg(long, conflicts_with_all = ["bundle", "prepare_only"])]
    pub(super) root_only: bool,

    /// Try it out and say what would happen, but change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// On what terms an authority is moved.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Terms {
    /// The root instead of the issuing authority
    #[arg(long)]
    pub(super) root: bool,

    /// Try it out and say what would happen, but change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Force {
    /// Do it although somebody is left behind, and name them
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum CertVerb {
    /// Show the certificates that the agent keeps fresh
    List(Format),
    /// Write a certificate, its key and the roots into a folder, once: nobody renews it
    Issue(IssueArgs),
    /// Have certificates issued anew now
    Renew {
        /// Whose
        #[arg(required = true, value_name = "WORKLOAD")]
        workloads: Vec<WorkloadId>,
    },
    /// Refuse a certificate from now on, also on live connections
    Revoke {
        /// serial:HEX, spki:SHA-256, or a SPIFFE ID; that of an authority takes all below it along
        #[arg(required_unless_present = "certificate", conflicts_with = "certificate")]
        what: Option<Revoked>,

        /// The first certificate in this file (PEM), by its serial number
        #[arg(long, value_name = "FILE")]
        certificate: Option<PathBuf>,

        /// Why, for whoever reads the list later; the standard's own words get into the published list as well
        #[arg(long, default_value = "no reason given")]
        reason: String,

        /// Say what would be revoked, but change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Show what is revoked
    Revocations(Format),
    /// Accept again what was revoked by mistake
    Unrevoke {
        /// As `cert revocations` shows it
        what: Revoked,
    },
}

impl CertVerb {
    /// How a change is told in the audit log that nobody else tells. None for what changes nothing.
    pub(super) fn audited(&self) -> Option<(&'static str, String, Option<String>)> {
        match self {
            Self::Issue(args) if !args.dry_run => {
                let workload = args.workload.as_ref().map(|workload| format!("workload:{workload}"));
                let id = args.spiffe_id.as_ref().map(ToString::to_string);
                Some(("cert.issue", workload.or(id).unwrap_or_else(|| "certificate".to_owned()), None))
            }
            Self::Issue(_)
            | Self::List(_)
            | Self::Renew { .. }
            | Self::Revocations(_)
            | Self::Revoke { .. }
            | Self::Unrevoke { .. } => None,
        }
    }
}

#[derive(Args, Debug)]
pub(super) struct IssueArgs {
    /// For this configured workload, by its profile
    #[arg(required_unless_present = "spiffe_id", conflicts_with = "spiffe_id")]
    pub(super) workload: Option<WorkloadId>,

    /// For this identity of our trust domain
    #[arg(long, value_name = "ID")]
    pub(super) spiffe_id: Option<SpiffeId>,

    /// A DNS name that the certificate is to carry; can be given several times
    #[arg(long, value_name = "NAME", conflicts_with = "workload")]
    pub(super) dns: Vec<String>,

    /// How long it is to live; an hour if nothing is said
    #[arg(long, value_name = "DURATION", conflicts_with = "workload", value_parser = duration)]
    pub(super) ttl: Option<Duration>,

    /// The folder for key.pem, chain.pem and bundle.pem; made if it is not there
    #[arg(long, value_name = "FOLDER")]
    pub(super) out: PathBuf,

    /// Replace what is there
    #[arg(long)]
    pub(super) force: bool,

    /// Say what would be done, but issue nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// How an edit is carried out.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct EditArgs {
    /// Why, for whoever reads the audit log
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: Option<String>,

    /// Show what would change in which file, but change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum DeveloperVerb {
    /// Show all developers
    List(Format),
    /// Show one with its apps
    Show {
        /// Which one
        id: DeveloperId,
        #[command(flatten)]
        format: Format,
    },
    /// Write down one more
    Create {
        /// Its name
        id: DeveloperId,
        #[command(flatten)]
        place: NewArgs,
    },
    /// Let its apps call again
    Activate {
        /// Which one
        id: DeveloperId,
        #[command(flatten)]
        terms: EditArgs,
    },
    /// Refuse all its apps
    Deactivate {
        /// Which one
        id: DeveloperId,
        #[command(flatten)]
        terms: EditArgs,
    },
    /// Take it off the file; refused while it has apps
    Delete {
        /// Which one
        id: DeveloperId,
        #[command(flatten)]
        terms: EditArgs,
    },
}

/// Where something new goes.
#[derive(Args, Clone, Debug)]
pub(super) struct NewArgs {
    /// The registry's file to write it into, made if it is not there; without it that of its owner, or the one that is called
    /// after its kind
    #[arg(long, value_name = "NAME.toml")]
    pub(super) file: Option<PathBuf>,

    #[command(flatten)]
    pub(super) terms: EditArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum AppVerb {
    /// Show all apps
    List(Format),
    /// Show one with its credentials and grants
    Show {
        /// Which one
        id: AppId,
        #[command(flatten)]
        format: Format,
    },
    /// Write down one more
    Create {
        /// Its name
        id: AppId,
        /// Its owner
        #[arg(long, value_name = "ID")]
        developer: DeveloperId,
        #[command(flatten)]
        place: NewArgs,
    },
    /// Let it call again
    Approve {
        /// Which one
        id: AppId,
        #[command(flatten)]
        terms: EditArgs,
    },
    /// Refuse it, whatever it presents
    Revoke {
        /// Which one
        id: AppId,
        #[command(flatten)]
        terms: EditArgs,
    },
    /// Take it off the file with its grants; refused while it has credentials that are not revoked
    Delete {
        /// Which one
        id: AppId,
        #[command(flatten)]
        terms: EditArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ProductVerb {
    /// Show all products
    List(Format),
    /// Show one with its operations, and who is granted it
    Show {
        /// Which one
        id: ProductId,
        #[command(flatten)]
        format: Format,
    },
    /// Write down one more; it covers nothing yet
    Create {
        /// Its name
        id: ProductId,
        /// A scope that it conveys; can be given several times
        #[arg(long, value_name = "SCOPE")]
        scope: Vec<String>,
        #[command(flatten)]
        place: NewArgs,
    },
    /// Let it cover something more
    AddOperation(OperationArgs),
    /// Take it off the file; refused while an app is granted it
    Delete {
        /// Which one
        id: ProductId,
        #[command(flatten)]
        terms: EditArgs,
    },
}

#[derive(Args, Debug)]
pub(super) struct OperationArgs {
    /// The product
    pub(super) product: ProductId,

    /// To which service; `*` for all
    #[arg(long, value_name = "ID", value_parser = service)]
    pub(super) service: AnyOr<ServiceId>,

    /// With this method; can be given several times; `*` alone for all
    #[arg(long, value_name = "METHOD", value_parser = method, requires = "path", required_unless_present = "tcp")]
    pub(super) method: Vec<AnyOr<Method>>,

    /// On these paths, such as `/orders/*` or `/orders/**`
    #[arg(long, value_name = "RULE", requires = "method", required_unless_present = "tcp")]
    pub(super) path: Option<PathRule>,

    /// Raw connections instead of requests
    #[arg(long, conflicts_with_all = ["method", "path"])]
    pub(super) tcp: bool,

    /// Its name within the product
    #[arg(long, value_name = "ID")]
    pub(super) id: Option<OperationId>,

    #[command(flatten)]
    pub(super) terms: EditArgs,
}

/// One thing, or `*` for all.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum AnyOr<T> {
    Any,
    One(T),
}

fn any_or<T: FromStr>(text: &str) -> Result<AnyOr<T>, T::Err> {
    if text == "*" { Ok(AnyOr::Any) } else { text.parse().map(AnyOr::One) }
}

fn service(text: &str) -> Result<AnyOr<ServiceId>, InvalidId> {
    any_or(text)
}

fn method(text: &str) -> Result<AnyOr<Method>, InvalidMethod> {
    any_or(text)
}

#[derive(Debug, Subcommand)]
pub(super) enum GrantVerb {
    /// Show what apps are granted
    List {
        /// Only what this one is
        #[arg(long, value_name = "ID")]
        app: Option<AppId>,
        #[command(flatten)]
        format: Format,
    },
    /// Grant an app a product
    Add {
        #[command(flatten)]
        grant: GrantArgs,
        /// When it ends: a time such as 2027-01-01T00:00:00Z, or a duration such as 90d
        #[arg(long, value_name = "WHEN")]
        expires: Option<Expiry>,
        /// It counts at once, even if grants to the product wait for somebody's approval
        #[arg(long)]
        approved: bool,
        /// Only asked for: somebody has to approve it
        #[arg(long, conflicts_with = "approved")]
        pending: bool,
    },
    /// Let a grant count that was asked for, or taken away
    Approve {
        #[command(flatten)]
        grant: GrantArgs,
    },
    /// Take a grant away, and keep that on file
    Revoke {
        #[command(flatten)]
        grant: GrantArgs,
    },
    /// Take a grant off the file
    Remove {
        #[command(flatten)]
        grant: GrantArgs,
    },
}

#[derive(Args, Debug)]
pub(super) struct GrantArgs {
    /// Whose
    pub(super) app: AppId,

    /// To what
    pub(super) product: ProductId,

    #[command(flatten)]
    pub(super) terms: EditArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum AuditVerb {
    /// Show the records, the oldest first
    Show {
        /// Only those since a time, or within a duration such as 7d
        #[arg(long, value_name = "WHEN")]
        since: Option<Expiry>,
        /// Only those about this, as `app:ledger` or `ledger`
        #[arg(long, value_name = "NAME")]
        target: Option<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Go through all records, and print the hash of the last; exit 3 when one was changed, moved or taken out
    Verify {
        /// A hash that was printed before: its record must be there still
        #[arg(long, value_name = "HASH")]
        expect: Option<String>,
        #[command(flatten)]
        format: Format,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyVerb {
    /// Make an API key for an app and print it, once; or a client secret, or a key for signatures
    Create {
        /// Whose
        #[arg(long, value_name = "ID")]
        app: AppId,

        /// When it ends: a time such as 2027-01-01T00:00:00Z, or a duration such as 90d
        #[arg(long, value_name = "WHEN")]
        expires: Option<Expiry>,

        /// Write it into this new file (0600) instead of printing it
        #[arg(long, value_name = "FILE", conflicts_with = "public_key")]
        out: Option<PathBuf>,

        /// A client secret instead, which is good for getting tokens and nothing else
        #[arg(long, conflicts_with_all = ["signature", "public_key"])]
        client_secret: bool,

        /// A key for signatures by this algorithm: `hmac-sha256` makes a shared secret and prints it, the others take a public
        /// key
        #[arg(long, value_name = "ALGORITHM", value_parser = algorithm)]
        signature: Option<SignatureAlgorithm>,

        /// The public key, PEM or JWK; its private half stays with the caller
        #[arg(long, value_name = "FILE", requires = "signature")]
        public_key: Option<PathBuf>,

        /// Why, for whoever reads the audit log
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Put an API key on file that was made elsewhere, such as by the gateway before
    Import {
        /// Whose
        #[arg(long, value_name = "ID")]
        app: AppId,

        /// What it is called here
        #[arg(long, value_name = "ID")]
        id: CredentialId,

        /// Its SHA-256, as `sha256:` and 64 hexadecimal digits: the key itself need not be known
        #[arg(long, value_name = "HASH", value_parser = sha256, conflicts_with = "file", required_unless_present = "file")]
        hash: Option<[u8; 32]>,

        /// A file with the key itself on one line; `-` for standard input. Refused if it could be guessed
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,

        /// When it ends: a time, or a duration
        #[arg(long, value_name = "WHEN")]
        expires: Option<Expiry>,

        #[command(flatten)]
        terms: EditArgs,
    },
    /// Show the API keys and keys for signatures on file, without their secrets
    List(Format),
    /// Let a credential count that was pending
    Approve {
        /// Which one
        id: CredentialId,
        #[command(flatten)]
        terms: EditArgs,
    },
    /// Make the next key in the place of one, which goes on for a while; print the next one, once
    Rotate(RotateArgs),
    /// Declare a key, or another credential, void for good
    Revoke {
        /// Which one
        id: CredentialId,
        #[command(flatten)]
        terms: EditArgs,
    },
    /// The peppers, under which keys are hashed and sealed
    Pepper {
        #[command(subcommand)]
        verb: PepperVerb,
    },
    /// Take a revoked credential off the file: its use looks like that of an unknown one from then on
    Delete {
        /// Which one
        id: CredentialId,
        #[command(flatten)]
        terms: EditArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum PepperVerb {
    /// Show them, and how many keys rest on each
    List(Format),
    /// Make one more, for all keys that are made from now on; those on file go on under theirs
    Add,
    /// Throw one away; refused while a key that is not revoked rests on it
    Remove {
        /// Which one, as `p1`
        version: String,
    },
}

#[derive(Args, Debug)]
pub(super) struct RotateArgs {
    /// The key so far
    pub(super) id: CredentialId,

    /// How long it goes on beside the next one
    #[arg(long, value_name = "DURATION", default_value = "48h", value_parser = duration)]
    pub(super) grace: Duration,

    /// When the next one ends: a time, or a duration; without it, it lives as long as the former was to live
    #[arg(long, value_name = "WHEN")]
    pub(super) expires: Option<Expiry>,

    /// Write the next one into this new file (0600) instead of printing it
    #[arg(long, value_name = "FILE", conflicts_with = "public_key")]
    pub(super) out: Option<PathBuf>,

    /// The next public key, PEM or JWK, for signatures whose private half stays with the caller
    #[arg(long, value_name = "FILE")]
    pub(super) public_key: Option<PathBuf>,

    #[command(flatten)]
    pub(super) terms: EditArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenVerb {
    /// Show the keys that sign tokens
    Keys(Format),
    /// In an emergency: refuse every token by a key from now on, and sign by another
    KillKey {
        /// The key's name, its `kid`
        #[arg(value_name = "KID")]
        key: String,
    },
    /// Take tokens back before their end; they are refused within a second, also after a restart
    Revoke(RevokeTokenArgs),
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct RevokeTokenArgs {
    /// The token in this file; `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,

    /// The token of this name, as logs and introspection give it
    #[arg(long)]
    pub(super) jti: Option<String>,

    /// All tokens that were got by this credential until now
    #[arg(long, value_name = "ID")]
    pub(super) credential: Option<CredentialId>,

    /// All tokens that this app has got until now
    #[arg(long, value_name = "ID")]
    pub(super) app: Option<AppId>,
}

#[derive(Args, Debug)]
pub(super) struct SignRequestArgs {
    /// The key: a shared secret from `postern key create --signature hmac-sha256`, or a private key as PEM (PKCS#8); `-` for
    /// standard input
    #[arg(long, value_name = "FILE", required_unless_present = "signature_input")]
    pub(super) key: Option<PathBuf>,

    /// The key's name on file; a shared secret says it itself
    #[arg(long, value_name = "ID")]
    pub(super) keyid: Option<String>,

    /// The request's method
    #[arg(long, short = 'X', default_value = "GET")]
    pub(super) method: String,

    /// A field that is sent and can be covered, as `Name: value`; can be given several times
    #[arg(long, short = 'H', value_name = "NAME: VALUE")]
    pub(super) header: Vec<FieldLine>,

    /// The body; its Content-Digest is made, covered and printed, unless `--header` gives one
    #[arg(long, value_name = "FILE")]
    pub(super) body: Option<PathBuf>,

    /// Cover this, too: the name of a field, or a component such as `"@query-param";name="id"`; can be given several times
    #[arg(long, value_name = "COMPONENT")]
    pub(super) cover: Vec<String>,

    /// When it is made, instead of now
    #[arg(long, value_name = "TIME")]
    pub(super) created: Option<Timestamp>,

    /// When it ends: a time, or a duration such as 30s
    #[arg(long, value_name = "WHEN")]
    pub(super) expires: Option<Expiry>,

    /// This nonce instead of a fresh one
    #[arg(long, value_name = "WORD", conflicts_with = "no_nonce")]
    pub(super) nonce: Option<String>,

    /// No nonce
    #[arg(long)]
    pub(super) no_nonce: bool,

    /// For whom the signature is, as the agent's `[signature] tag` says
    #[arg(long, value_name = "WORD")]
    pub(super) tag: Option<String>,

    /// The signature's label among several
    #[arg(long, value_name = "WORD", default_value = "sig1")]
    pub(super) label: String,

    /// Print the signature base instead: the bytes that are signed, as the agent works them out
    #[arg(long)]
    pub(super) explain: bool,

    /// Explain a caller's signature: the value of the Signature-Input that it sends with this request
    #[arg(long, value_name = "VALUE", requires = "explain")]
    pub(super) signature_input: Option<String>,

    /// The signature base as the caller has worked it out; it is compared with the agent's
    #[arg(long, value_name = "FILE", requires = "signature_input")]
    pub(super) base: Option<PathBuf>,

    /// The whole URL of the request, https
    pub(super) url: String,
}

/// A field as one writes it for curl.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct FieldLine {
    pub(super) name: String,
    pub(super) value: String,
}

/// The text is no field.
#[derive(Debug, thiserror::Error)]
#[error("expected a field such as 'Content-Type: application/json', on one line")]
pub(super) struct InvalidFieldLine;

impl FromStr for FieldLine {
    type Err = InvalidFieldLine;

    fn from_str(text: &str) -> Result<Self, InvalidFieldLine> {
        let (name, value) = text.split_once(':').ok_or(InvalidFieldLine)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let named = !name.is_empty() && name.bytes().all(plain);
        // Else a value could bring further fields along.
        if named && !value.contains(['\r', '\n', '\0']) {
            Ok(Self { name: name.to_owned(), value: value.trim().to_owned() })
        } else {
            Err(InvalidFieldLine)
        }
    }
}

fn sha256(text: &str) -> Result<[u8; 32], &'static str> {
    let digits = text.strip_prefix("sha256:");
    let bytes = digits.and_then(|digits| data_encoding::HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok());
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or("expected `sha256:` and 64 hexadecimal digits")
}

fn algorithm(text: &str) -> Result<SignatureAlgorithm, String> {
    let known = SignatureAlgorithm::ALL.into_iter().find(|algorithm| algorithm.as_str() == text);
    known.ok_or_else(|| {
        format!("expected {}", SignatureAlgorithm::ALL.map(SignatureAlgorithm::as_str).join(", "))
    })
}

/// When something ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Expiry {
    At(Timestamp),
    In(Duration),
}

impl Expiry {
    /// The instant, for something that begins `now`.
    pub(super) fn from(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::In(span) => (now + span).to_whole_second(),
        }
    }
}

/// The text is neither a time nor a duration.
#[derive(Debug, thiserror::Error)]
#[error("expected a time such as 2027-01-01T00:00:00Z or a duration such as 90d")]
pub(super) struct InvalidExpiry;

impl FromStr for Expiry {
    type Err = InvalidExpiry;

    fn from_str(text: &str) -> Result<Self, InvalidExpiry> {
        let time = text.parse().map(Self::At).ok();
        time.or_else(|| parse_duration(text).map(Self::In).ok()).ok_or(InvalidExpiry)
    }
}

fn duration(text: &str) -> Result<Duration, InvalidDuration> {
    parse_duration(text)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(words: &str) -> Result<CommandLine, clap::Error> {
        CommandLine::try_parse_from(std::iter::once("postern").chain(words.split_whitespace()))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn a_bare_command_runs_the_agent_of_this_folder() {
        let line = parse("").unwrap();

        assert!(line.verb.is_none());
        assert_eq!(line.config, PathBuf::from("config/postern.toml"));
    }

    #[test]
    fn the_configuration_can_be_named_on_either_side_of_the_verb() {
        for words in ["--config a.toml check", "check --config a.toml"] {
            assert_eq!(parse(words).unwrap().config, PathBuf::from("a.toml"));
        }
    }

    #[test]
    fn what_contradicts_itself_is_wrong_usage() {
        for words in [
            "explain --tcp-service db --path /x",
            "explain --certificate a.pem --spiffe-id spiffe://td/a",
            "explain 01a2020c-1e45 --path /x",
            "explain 01a2020c-1e45 --token-file a.jwt",
            "explain 01a2020c-1e45 --from 127.0.0.1",
            "explain 01a2020c-1e45 --sni localhost",
            "explain --spiffe-id nonsense",
            "cert issue --out x",
            "cert issue web --spiffe-id spiffe://td/a --out x",
            "cert issue web --ttl 1h --out x",
            "cert renew",
            "key create --app a --expires tomorrow",
            "ca rotate --timeout 5",
            "ca retire",
            "ca rollback --force",
            "key create --app a --signature rsa",
            "key create --app a --public-key a.pem",
            "key create --app a --signature ed25519 --public-key a.pem --out b",
            "sign https://localhost/",
            "sign --key a --nonce b --no-nonce https://localhost/",
            "sign --key a --signature-input b https://localhost/",
            "sign --key a --header nonsense https://localhost/",
            "explain --header nonsense",
            "ca sign",
            "ca install roots.pem --root-only --prepare-only",
            "ca revoke",
            "cert revoke",
            "cert revoke serial:01 --certificate a.pem",
            "grant add a",
            "grant add a p --approved --pending",
            "product add-operation p --service s --method GET",
            "product add-operation p --service s --tcp --path /x",
            "app create a",
            "key rotate",
            "audit verify --expect",
            "sing",
        ] {
            assert_eq!(parse(words).unwrap_err().exit_code(), 2, "{words}");
        }
    }

    #[test]
    fn an_end_is_a_time_or_a_duration() {
        let at = "2027-01-01T00:00:00Z".parse().unwrap();

        assert_eq!("2027-01-01T00:00:00Z".parse::<Expiry>().unwrap(), Expiry::At(at));
        assert_eq!("1d".parse::<Expiry>().unwrap().from(at).to_string(), "2027-01-02T00:00:00Z");
    }
}
