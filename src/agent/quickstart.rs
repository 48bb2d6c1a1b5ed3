//! Sample credentials for a first look: a key, a key that no app accepts, and a certificate that nobody vouches for.
//!
//! They are made once, under the state directory, and only when the configuration asks for it.

use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;

use crate::clock::Timestamp;
use crate::config::Config;
use crate::credential::{ApiKey, Peppers};
use crate::pki::{
    AuthorityPlan, DEFAULT_BACKDATE, Hierarchy, HierarchyError, IssueError, KeyAlgorithm, LocalKeys, Profile,
    issue,
};
use crate::store::atomic_file::{self, AtomicError};
use crate::store::{disk, pem};

/// Why there are no samples.
#[derive(Debug, thiserror::Error)]
pub enum QuickstartError {
    /// The outsider's CA cannot be made.
    #[error("the outsider's CA cannot be made")]
    Authority(#[from] HierarchyError),
    /// The outsider's certificate cannot be issued.
    #[error("the outsider's certificate cannot be issued")]
    Issue(#[from] IssueError),
    /// A folder cannot be made.
    #[error("{}: cannot be made", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is nothing to hash keys with, or no randomness to make them from.
    #[error("a sample key cannot be made")]
    Key,
    /// The registry does not look where the samples would be.
    #[error("quickstart needs {} among the folders of `registry`", .0.display())]
    NotInRegistry(PathBuf),
    /// A file cannot be written.
    #[error("a sample cannot be written")]
    Write(#[from] AtomicError),
}

impl QuickstartError {
    /// Whether they could be made if only something could be written.
    pub(super) fn is_for_want_of_a_disk(&self) -> bool {
        match self {
            Self::Folder { source, .. } => disk::refuses_writing(source),
            Self::Write(error) => disk::refuses_writing(&error.source),
            // Without a pepper there is no key, and that was told.
            Self::Key => true,
            Self::Authority(_) | Self::Issue(_) | Self::NotInRegistry(_) => false,
        }
    }
}

/// Where the samples lie.
pub(super) struct Quickstart {
    folder: PathBuf,
}

/// Makes what is missing.
///
/// # Errors
/// What cannot be made or written.
pub(super) fn prepare(
    config: &Config,
    peppers: &Peppers,
    now: Timestamp,
) -> Result<Quickstart, QuickstartError> {
    let registry = config.state_dir.join("registry");
    if !config.registry_dirs.contains(&registry) {
        return Err(QuickstartError::NotInRegistry(registry));
    }
    let folder = config.state_dir.join("quickstart");
    for path in [&registry, &folder] {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|source| QuickstartError::Folder { path: path.clone(), source })?;
    }
    let definitions = registry.join("quickstart.toml");
    let quickstart = Quickstart { folder };
    let keys = [quickstart.api_key(), quickstart.refused_key()];
    if !definitions.exists() || keys.iter().any(|key| !key.exists()) {
        make_keys(&definitions, &keys, peppers)?;
    }
    atomic_file::replace(&quickstart.outsider(), &outsider(config, now)?, 0o600)?;
    Ok(quickstart)
}

impl Quickstart {
    fn api_key(&self) -> PathBuf {
        self.folder.join("api-key")
    }

    fn refused_key(&self) -> PathBuf {
        self.folder.join("certificate-only-key")
    }

    fn outsider(&self) -> PathBuf {
        self.folder.join("outsider.pem")
    }

    /// Commands that show what the agent does, to be run as they stand.
    pub(super) fn tour(&self, config: &Config) -> String {
        let port = config.listeners.first().map_or(8443, |listener| listener.address.port());
        let header = &config.api_key_header;
        let bundle = config.state_dir.join("bundle.pem");
        let certificate = |workload: &str| {
            let files = config.workloads.iter().find(|(id, _)| id.as_str() == workload);
            files.and_then(|(_, workload)| workload.files.as_ref()).map(|files| {
                format!(" --cert {}", shown(&files.directory.join("current/credential-bundle.pem")))
            })
        };
        let key = |path: &Path| format!(" -H \"{header}: $(cat {})\"", shown(path));
        let (sample_key, refused_key) = (key(&self.api_key()), key(&self.refused_key()));
        let outsider = format!(" --cert {}", shown(&self.outsider()));
        let mut steps: Vec<(&str, String)> = Vec::new();
        if let Some(sample) = certificate("sample") {
            steps.push(("a registered app by its certificate: 200, and what the service was told", sample));
        }
        steps.push(("a registered app by its key, without a certificate: 200", sample_key.clone()));
        steps.push(("nobody: 401", String::new()));
        if let Some(stranger) = certificate("stranger") {
            steps.push(("a valid certificate of an app without the grant: 403", stranger));
        }
        steps.push((
            "a certificate of an unknown CA: the handshake fails, a good key beside it changes nothing",
            outsider + &sample_key,
        ));
        steps.push(("a good key of an app that accepts only certificates: 403", refused_key));

        let mut text = String::from("\nPostern is up. Try it from another terminal, in this folder:\n");
        for (number, (what, arguments)) in steps.iter().enumerate() {
            let line =
                format!("curl -sS --cacert {}{arguments} https://localhost:{port}/hello", shown(&bundle));
            // Writing to a String cannot fail.
            let written = write!(text, "\n  # {}. {what}\n  {line}\n", number + 1);
            debug_assert!(written.is_ok());
        }
        text.push_str("\n  # what the agent thinks of itself\n  target/release/postern status\n");
        text
    }
}

/// A path as a shell reads it.
fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    let plain =
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'-' | b'_'));
    if plain { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

fn make_keys(definitions: &Path, keys: &[PathBuf; 2], peppers: &Peppers) -> Result<(), QuickstartError> {
    let random = SystemRandom::new();
    let mut text = String::from(
        "# Made by the quickstart of this checkout. Delete it, and quickstart/ beside this folder, to get fresh sample keys.\n\n\
         [[developer]]\nid = \"quickstart\"\n",
    );
    for (file, (app, accepts)) in keys.iter().zip([("sample-key", "api_key"), ("certificate-only", "mtls")]) {
        let key = ApiKey::generate(&random).map_err(|_| QuickstartError::Key)?;
        let version = peppers.newest().ok_or(QuickstartError::Key)?;
        let hash = peppers.hash(version, key.text().expose_secret()).ok_or(QuickstartError::Key)?;
        let hash = data_encoding::HEXLOWER.encode(&hash);
        let id = key.id();
        text.push_str(&format!(
            "\n[[app]]\nid = \"{app}\"\ndeveloper = \"quickstart\"\naccepts = [[\"{accepts}\"]]\n\n\
             [[app.api_key]]\nid = \"{id}\"\nhash = \"hmac-sha256:{version}:{hash}\"\n\n\
             [[app.grant]]\nproduct = \"whoami\"\n",
        ));
        let mut line = key.text().expose_secret().to_vec();
        line.push(b'\n');
        atomic_file::replace(file, &line, 0o600)?;
    }
    atomic_file::replace(definitions, text.as_bytes(), 0o600)?;
    Ok(())
}

/// Key and chain of somebody who claims an identity of ours under a CA of their own.
fn outsider(config: &Config, now: Timestamp) -> Result<Vec<u8>, QuickstartError> {
    const DAY: Duration = Duration::from_secs(86_400);

    let plan = |days| AuthorityPlan {
        keys: &LocalKeys,
        algorithm: KeyAlgorithm::EcdsaP256,
        ttl: DAY * days,
        backdate: DEFAULT_BACKDATE,
    };
    let own = config.issuance.workloads.get(&config.own_workload);
    let spiffe_id = own.map(|profile| profile.spiffe_id.clone()).ok_or(QuickstartError::Key)?;
    let foreign = Hierarchy::create(config.issuance.domain.clone(), &plan(30), &plan(9), now)?;
    let profile = Profile {
        spiffe_id,
        dns: Vec::new(),
        ttl: DAY * 3,
        backdate: DEFAULT_BACKDATE,
        algorithm: KeyAlgorithm::EcdsaP256,
    };
    let svid = issue(&foreign.issuing().active, &profile, now)?;
    let mut bundle = pem::key_to_pem(&svid.key).expose_secret().to_vec();
    for certificate in &svid.chain {
        bundle.extend_from_slice(pem::certificate_to_pem(certificate).as_bytes());
    }
    Ok(bundle)
}
