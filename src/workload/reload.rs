//! Tells a reader that its files have changed, and waits for its word that it has taken them.
//!
//! A signal can be lost: the process number is stale, or the process was just starting. A command's exit status cannot,
//! so zero is the acknowledgement and anything else is a reason to ask again.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStderr, Command};

use crate::id::WorkloadId;

/// How a reader is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reload {
    /// A program and its arguments, started as they are: no shell looks at them.
    Command {
        /// What is run; without a slash it is looked for in `PATH`.
        program: PathBuf,
        /// Passed on one by one.
        arguments: Vec<OsString>,
    },
    /// A systemd unit, by name: reloaded, or restarted if it cannot reload, or left alone if it does not run.
    Unit(String),
}

/// Why there was no acknowledgement.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The command said no.
    #[error("the reload command ended with {status}{}", quoted(stderr))]
    Refused {
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote to its standard error.
        stderr: String,
    },
    /// The command cannot be started or waited for.
    #[error("cannot run the reload command {}", program.to_string_lossy())]
    Start {
        /// What was to be run.
        program: OsString,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It took longer than [`RELOAD_TIMEOUT`] and was killed.
    #[error("the reload command did not end within {} s", RELOAD_TIMEOUT.as_secs())]
    TimedOut,
}

/// What the reader is told about; the command finds it in its environment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Notice<'a> {
    pub(super) workload: &'a WorkloadId,
    pub(super) directory: &'a Path,
    pub(super) generation: u64,
}

impl Reload {
    /// Runs the command to its end. Dropping the future kills it, and everything it started.
    pub(super) async fn run(&self, notice: Notice<'_>) -> Result<(), ReloadError> {
        let (program, arguments) = self.command();
        let fail = |source| ReloadError::Start { program: program.to_owned(), source };
        let child = Command::new(program)
            .args(&arguments)
            .env("POSTERN_WORKLOAD", notice.workload.as_str())
            .env("POSTERN_DIRECTORY", notice.directory)
            .env("POSTERN_GENERATION", notice.generation.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(fail)?;
        let mut group = Group::of(child);
        let mut complaint = Complaint { stderr: group.child.stderr.take(), tail: Vec::new() };
        let status = tokio::time::timeout(RELOAD_TIMEOUT, async {
            tokio::select! {
                status = group.child.wait() => status,
                never = complaint.read() => match never {},
            }
        })
        .await
        .map_err(|_| ReloadError::TimedOut)?
        .map_err(fail)?;
        group.leader = None;
        if status.success() {
            return Ok(());
        }
        // What it wrote last may still be on its way.
        if let Ok(never) = tokio::time::timeout(LAST_WORDS, complaint.read()).await {
            match never {}
        }
        Err(ReloadError::Refused { status, stderr: complaint.text() })
    }

    fn command(&self) -> (&OsStr, Vec<&OsStr>) {
        match self {
            Self::Command { program, arguments } => {
                (program.as_os_str(), arguments.iter().map(OsString::as_os_str).collect())
            }
            Self::Unit(unit) => {
                let arguments = ["--no-ask-password", "try-reload-or-restart", "--", unit.as_str()];
                (OsStr::new("systemctl"), arguments.map(OsStr::new).to_vec())
            }
        }
    }
}

/// A command and whatever it started, killed together when dropped before its end.
struct Group {
    child: Child,
    leader: Option<Pid>,
}

impl Group {
    fn of(child: Child) -> Self {
        let leader = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Self { child, leader }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The leader has not been waited for, so the number is still its own.
        if let Some(leader) = self.leader
            && let Err(errno) = rustix::process::kill_process_group(leader, Signal::KILL)
        {
            tracing::debug!(error = %io::Error::from(errno), "the reload command could not be killed");
        }
    }
}

/// The end of what the command complains about.
struct Complaint {
    stderr: Option<ChildStderr>,
    tail: Vec<u8>,
}

impl Complaint {
    /// Reads on for as long as it is polled; a command that floods its standard error is not held up by it.
    async fn read(&mut self) -> std::convert::Infallible {
        let mut chunk = [0; 1024];
        while let Some(stderr) = &mut self.stderr {
            match stderr.read(&mut chunk).await {
                Ok(0) | Err(_) => self.stderr = None,
                Ok(length) => {
                    self.tail.extend(chunk.iter().take(length));
                    let excess = self.tail.len().saturating_sub(MAX_COMPLAINT);
                    self.tail.drain(..excess);
                }
            }
        }
        std::future::pending().await
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.tail);
        text.trim().chars().map(|each| if each.is_control() { ' ' } else { each }).collect()
    }
}

fn quoted(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!(": {stderr}") }
}

/// How long a reader may take to say that it has reloaded.
pub const RELOAD_TIMEOUT: Duration = Duration::from_secs(30);
const LAST_WORDS: Duration = Duration::from_millis(50);
const MAX_COMPLAINT: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Reload {
        Reload::Command { program: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()] }
    }

    async fn run(reload: &Reload) -> Result<(), ReloadError> {
        let workload = "ledger".parse().unwrap();
        let notice =
            Notice { workload: &workload, directory: Path::new("/run/postern/ledger"), generation: 7 };
        reload.run(notice).await
    }

    #[tokio::test]
    async fn exit_status_zero_is_the_acknowledgement() {
        let knows = shell(
            r#"test "$POSTERN_WORKLOAD $POSTERN_DIRECTORY $POSTERN_GENERATION" = "ledger /run/postern/ledger 7""#,
        );

        run(&knows).await.unwrap();
    }

    #[tokio::test]
    async fn a_refusal_says_what_the_command_said_last() {
        let error =
            run(&shell("head -c 100000 /dev/zero >&2; echo ' no such unit' >&2; exit 3")).await.unwrap_err();

        let text = error.to_string();
        assert!(text.starts_with("the reload command ended with exit status: 3: "), "{text}");
        assert!(text.ends_with(" no such unit"), "{text}");
        assert!(text.len() < 700);
    }

    #[tokio::test]
    async fn a_program_that_is_missing_is_named() {
        let missing = Reload::Command { program: "/nonexistent/reload".into(), arguments: Vec::new() };

        let error = run(&missing).await.unwrap_err();

        assert_eq!(error.to_string(), "cannot run the reload command /nonexistent/reload");
    }

    #[tokio::test]
    async fn a_command_given_up_on_ends_with_all_that_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let ready = directory.path().join("ready");
        let script = format!("sleep 61 & echo $! > '{0}.part'; mv '{0}.part' '{0}'; wait", ready.display());
        let reload = shell(&script);

        tokio::select! {
            result = run(&reload) => panic!("ended with {result:?}"),
            () = async {
                while !ready.exists() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            } => (),
        }

        let grandchild = std::fs::read_to_string(&ready).unwrap();
        let status = PathBuf::from(format!("/proc/{}/status", grandchild.trim()));
        for _ in 0..5000 {
            let state = std::fs::read_to_string(&status).unwrap_or_default();
            if !state.contains("State:\tS") && !state.contains("State:\tR") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("the grandchild still runs");
    }

    #[test]
    fn a_unit_is_reloaded_by_its_name_alone() {
        let reload = Reload::Unit("--help.service".into());

        let (program, arguments) = reload.command();

        assert_eq!(program, "systemctl");
        assert_eq!(arguments, ["--no-ask-password", "try-reload-or-restart", "--", "--help.service"]);
    }
}
