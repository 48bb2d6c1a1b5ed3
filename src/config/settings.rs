//! Everything that the agent is told, resolved: paths are whole, names are checked, defaults are filled in.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::issuer::IssuerConfig;
use crate::admin::Roles;
use crate::credential::SignatureRules;
use crate::id::{AppId, EnvironmentId, WorkloadId};
use crate::identity::TrustDomain;
use crate::pki::StaleCrls;
use crate::proxy::{Limits, ListenerSettings, RemoteSettings, ServiceSettings};
use crate::store::KeySettings;
use crate::{issuance, oauth, telemetry, workload};

/// One agent's configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file it was read from.
    pub path: PathBuf,
    /// Authorities, peppers, the lock.
    pub state_dir: PathBuf,
    /// Sockets.
    pub runtime_dir: PathBuf,
    /// Where developers, apps and products are written down.
    pub registry_dirs: Vec<PathBuf>,
    /// Where somebody else says which credentials, apps and tokens are revoked.
    pub revoked_dirs: Vec<PathBuf>,
    /// The environment that the agent stands in, by the file.
    pub written_environment: Option<EnvironmentId>,
    /// The same by the command line, which holds whatever the file says.
    pub ordered_environment: Option<EnvironmentId>,
    /// Data-plane threads; none means one for each core.
    pub threads: Option<usize>,
    /// Whether sample credentials are made and curl lines printed.
    pub quickstart: bool,
    /// Whether the system may write core images of the agent, and others of its user may look into its memory.
    pub core_dumps: bool,
    /// The operator log and the access log.
    pub log: telemetry::Settings,
    /// Where the local CA's keys are.
    pub keys: KeySettings,
    /// The local CA and whom it gives an identity.
    pub issuance: issuance::Settings,
    /// The identity that the agent itself has.
    pub own_workload: WorkloadId,
    /// Local processes: how they are told apart, and where their files go.
    pub workloads: BTreeMap<WorkloadId, WorkloadConfig>,
    /// Other trust domains, and further roots of our own.
    pub trust: Vec<ForeignBundle>,
    /// The audit log.
    pub audit: telemetry::AuditSettings,
    /// Where operators ask.
    pub admin_socket: PathBuf,
    /// Who may ask there, and for what.
    pub admin_roles: Roles,
    /// Where metrics and health are served, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// Where spans go, if anywhere.
    pub otlp: Option<telemetry::SpanSettings>,
    /// The header that carries API keys, in lower case.
    pub api_key_header: Arc<str>,
    /// How old keys may become, and whom they are handed to.
    pub key_rules: KeyRules,
    /// What signatures must be like.
    pub signatures: SignatureRules,
    /// Tokens of our own, if there are to be any.
    pub tokens: Option<Arc<oauth::Settings>>,
    /// Others whose access tokens are believed.
    pub issuers: Vec<IssuerConfig>,
    /// Doors from outside.
    pub listeners: Vec<ListenerSettings>,
    /// What is guarded.
    pub services: Vec<ServiceSettings>,
    /// Doors to outside.
    pub remotes: Vec<RemoteSettings>,
    /// Bounds.
    pub limits: Limits,
    /// So many decisions each data-plane thread remembers, for whoever asks why.
    pub remember: usize,
    /// What is kept of usage.
    pub usage: UsageSettings,
}

/// What is kept of usage.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UsageSettings {
    /// For how long.
    pub keep: Duration,
    /// The file to which a record of each request is appended, if any.
    pub records: Option<PathBuf>,
}

impl Config {
    /// The environment that the agent stands in, if it has a name.
    #[must_use]
    pub fn environment(&self) -> Option<&EnvironmentId> {
        self.ordered_environment.as_ref().or(self.written_environment.as_ref())
    }
}

/// What is particular to one workload beyond its identity.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct WorkloadConfig {
    /// How the kernel's word about a caller is matched; none means that no caller is this workload.
    pub selectors: workload::Selectors,
    /// Where its certificate goes as files, if anywhere.
    pub files: Option<workload::Settings>,
}

/// How old API keys and keys for signatures may become.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KeyRules {
    /// Older ones are told of.
    pub max_age: Option<Duration>,
    /// Those that the agent makes and hands out itself.
    pub deliver: Vec<KeyDelivery>,
}

/// An API key that is handed to an app in a file, and replaced in time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyDelivery {
    /// Whose key it is.
    pub app: AppId,
    /// The file.
    pub file: PathBuf,
    /// Who may read it, if not the agent's own user.
    pub owner: Option<u32>,
    /// A key of this age is replaced.
    pub every: Duration,
    /// How long the former one goes on.
    pub grace: Duration,
}

/// Roots that are read from a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ForeignBundle {
    /// The trust domain that they speak for, and no other.
    pub domain: TrustDomain,
    /// A PEM file.
    pub path: PathBuf,
    /// Its revocation lists, if they are to be asked.
    pub crl: Option<CrlFile>,
}

/// Revocation lists that are read from a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CrlFile {
    /// A PEM file of one or more lists.
    pub path: PathBuf,
    /// What becomes of certificates of which no current list speaks.
    pub stale: StaleCrls,
}
