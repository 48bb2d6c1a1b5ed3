//! The agent and its commands are killed, from outside, at every step that they do to the file system, and started again;
//! or the step fails, for the disk is full or cannot be written.
//!
//! `strace` (Debian) delivers SIGKILL when a process is about to do its N-th call of a kind, or has that call fail. A dry run
//! says which calls there are. By default a sample of them is tried, drawn with a fixed seed; `scripts/crash-sweep` tries them all.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::world::postern;
use support::{Identity, Scene};
use tokio::time::Instant;

/// What may change something on the disk, or make a change last.
const CALLS: &str = "openat,write,pwrite64,ftruncate,fsync,fdatasync,fchmod,fchown,mkdir,mkdirat,rename,renameat,renameat2,\
                     link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir,chmod,fchmodat";

/// So many kill points are tried for each phase unless a sweep is asked for.
const SAMPLE: usize = 5;

/// So long an agent may take until it is ready, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is interrupted: the agent itself, or a command while no agent runs.
struct Phase {
    name: &'static str,
    /// What is done beforehand, undisturbed.
    before: &'static [&'static [&'static str]],
    /// What is killed. `{retired}` stands for the issuing authority that is retired.
    killed: &'static [&'static str],
}

const PHASES: [Phase; 9] = [
    Phase { name: "first start", before: &[], killed: &["run"] },
    Phase { name: "start and delivery", before: &[RUN], killed: &["run"] },
    Phase { name: "ca prepare", before: &[RUN], killed: &["ca", "prepare"] },
    Phase { name: "ca activate", before: &[RUN, PREPARE], killed: &["ca", "activate"] },
    Phase { name: "ca rotate", before: &[RUN], killed: &["ca", "rotate"] },
    Phase { name: "ca rotate --root", before: &[RUN], killed: &["ca", "rotate", "--root", "--force"] },
    Phase { name: "ca rollback", before: &[RUN, ROTATE], killed: &["ca", "rollback"] },
    Phase { name: "ca retire", before: &[RUN, ROTATE], killed: &["ca", "retire", "--force", "{retired}"] },
    Phase {
        name: "cert revoke",
        before: &[RUN, REVOKE],
        killed: &["cert", "revoke", "spiffe://postern.test/nobody"],
    },
];

const RUN: &[&str] = &["run"];
const PREPARE: &[&str] = &["ca", "prepare"];
const ROTATE: &[&str] = &["ca", "rotate"];
const REVOKE: &[&str] = &["cert", "revoke", "serial:0abc"];

/// A folder with an agent's configuration and state. Copies of it share their address, so only one runs at a time.
struct Place {
    folder: tempfile::TempDir,
    ip: Ipv4Addr,
}

impl Place {
    fn new(scene: &Scene) -> Self {
        scene.write();
        Self { folder: copied(scene.path()), ip: scene.ip }
    }

    fn copy(&self) -> Self {
        Self { folder: copied(self.path()), ip: self.ip }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Does what an operator would do, to its end; the agent until it is ready.
    fn does(&self, arguments: &[&str]) {
        if arguments == RUN {
            drop(Agent::ready(self, postern(self.path())));
            return;
        }
        let output = postern(self.path()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    /// The arguments with what they stand for.
    fn filled(&self, arguments: &[&str]) -> Vec<String> {
        let retired =
            || self.state().authorities.into_iter().find(|line| line.starts_with("issuing retired")).unwrap();
        let fill = |argument: &&str| match *argument {
            "{retired}" => retired().rsplit(' ').next().unwrap().to_owned(),
            other => other.to_owned(),
        };
        arguments.iter().map(fill).collect()
    }

    /// What is committed to the disk, as the file that says so reads.
    fn state(&self) -> State {
        let Ok(text) = fs::read_to_string(self.path().join("state/authorities.toml")) else {
            return State::default();
        };
        let list: toml::Table = text.parse().unwrap();
        let mut authorities = Vec::new();
        for level in ["root", "issuing"] {
            for entry in list.get(level).unwrap().as_array().unwrap() {
                let word = |key: &str| entry[key].as_str().unwrap().to_owned();
                authorities.push(format!("{level} {} {}", word("slot"), word("id")));
            }
        }
        authorities.sort();
        let generation = fs::read_to_string(self.path().join("files/caller/current/generation"));
        let revoked = fs::read_to_string(self.path().join("state/revocations.toml")).unwrap_or_default();
        State {
            authorities,
            sequence: list.get("bundle_sequence").unwrap().as_integer().unwrap(),
            generation: generation.map_or(0, |text| text.trim().parse().unwrap()),
            revoked: revoked.matches("[[revoked]]").count(),
        }
    }
}

fn copied(from: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let copy = Command::new("cp").arg("-a").arg(from.join(".")).arg(folder.path()).status();
    assert!(copy.unwrap().success());
    folder
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct State {
    authorities: Vec<String>,
    sequence: i64,
    generation: u64,
    revoked: usize,
}

/// A running agent; it is killed when it is dropped.
struct Agent(Child);

impl Agent {
    /// Runs `command` in `place` until the agent is ready.
    fn ready(place: &Place, mut command: Command) -> Self {
        let log = File::options().create(true).append(true).open(place.path().join("log")).unwrap();
        let child = command.arg("run").stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut agent = Self(child.spawn().unwrap());
        let begun = Instant::now();
        while !is_ready(place.ip) {
            let ended = agent.0.try_wait().unwrap();
            assert!(ended.is_none() && begun.elapsed() < PATIENCE, "{ended:?}\n{}", log_of(place));
            std::thread::sleep(Duration::from_millis(10));
        }
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn log_of(place: &Place) -> String {
    fs::read_to_string(place.path().join("log")).unwrap_or_default()
}

fn is_ready(ip: Ipv4Addr) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect((ip, 9464))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer.starts_with("HTTP/1.1 200") && answer.contains("\r\n\r\nready\n"))
    };
    ask().unwrap_or(false)
}

/// One step that a process does: the N-th call of this kind, counted for each of its threads.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Point {
    call: String,
    number: usize,
}

/// What happens at a point.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Blow {
    /// The call fails with this error.
    Error(&'static str),
    /// The process is killed before the call.
    Kill,
}

/// How a process ended under `strace`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Exited,
    Killed,
    /// The agent was ready, and was stopped then.
    Ready,
}

/// Runs `arguments` in `place` under `strace` with `options`, to its end or until the agent is ready.
fn under_strace(place: &Place, options: &[String], arguments: &[String]) -> End {
    let program = postern(place.path());
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq"])
        .args(options)
        .arg(program.get_program())
        .args(program.get_args())
        .args(arguments);
    let log = File::options().create(true).append(true).open(place.path().join("log")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let mut child = command.spawn().unwrap();
    let (begun, mut was_ready) = (Instant::now(), false);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            let killed = status.signal() == Some(9) || status.code() == Some(128 + 9);
            return if was_ready {
                End::Ready
            } else if killed {
                End::Killed
            } else {
                End::Exited
            };
        }
        if arguments == RUN && is_ready(place.ip) {
            // Past all that is of interest. It goes down in good order, so that the record is whole. The kernel may overlook
            // a child in this list, so it is asked again until the agent has ended.
            was_ready = true;
            let list = format!("/proc/{}/task/{}/children", child.id(), child.id());
            let agents = fs::read_to_string(list).unwrap_or_default();
            for agent in agents.split_whitespace() {
                let agent = rustix::process::Pid::from_raw(agent.parse().unwrap()).unwrap();
                let told = rustix::process::kill_process(agent, rustix::process::Signal::TERM);
                assert!(matches!(told, Ok(()) | Err(rustix::io::Errno::SRCH)), "{told:?}");
            }
        }
        assert!(begun.elapsed() < PATIENCE, "{}", log_of(place));
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// All the points at which `arguments` change something below the folder.
fn points(place: &Place, arguments: &[String]) -> Vec<Point> {
    let record = tempfile::NamedTempFile::new().unwrap();
    let options = ["-y".to_owned(), "-e".to_owned(), format!("trace={CALLS}"), "-o".to_owned()];
    let mut options = options.to_vec();
    options.push(record.path().display().to_string());
    under_strace(place, &options, arguments);
    let text = fs::read_to_string(record.path()).unwrap();
    let folder = place.path().display().to_string();
    let (mut counted, mut found) = (BTreeMap::new(), Vec::new());
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let Some((call, _)) = rest.split_once('(') else { continue };
        let number: &mut usize = counted.entry((thread.to_owned(), call.to_owned())).or_default();
        *number += 1;
        let in_folder = rest.contains(&folder) && !rest.contains(&format!("{folder}/log>"));
        if in_folder && (call != "openat" || rest.contains("O_CREAT")) {
            found.push(Point { call: call.to_owned(), number: *number });
        }
    }
    found.sort();
    found.dedup();
    found
}

/// A few of `points`, drawn from a fixed seed; all of them if a file beside the build says so.
fn chosen(points: Vec<Point>, sample: usize, seed: &mut u64) -> Vec<Point> {
    let sweep = Path::new(env!("CARGO_TARGET_TMPDIR")).join("crash-sweep");
    if sweep.exists() {
        return points;
    }
    let mut left = points;
    let mut chosen = Vec::new();
    while chosen.len() < sample && !left.is_empty() {
        // Knuth's linear congruential generator; nothing depends on its quality.
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = usize::try_from(*seed >> 33).unwrap() % left.len();
        chosen.push(left.swap_remove(at));
    }
    chosen
}

/// Strikes at `point` and starts again; whether what was begun has happened.
fn struck_at(place: &Place, arguments: &[String], point: &Point, blow: Blow) -> Outcome {
    let before = place.state();
    let Point { call, number } = point;
    let what = match blow {
        Blow::Error(error) => format!("error={error}"),
        Blow::Kill => "signal=SIGKILL".to_owned(),
    };
    let options = ["-e", &format!("trace={call}"), "-e", &format!("inject={call}:{what}:when={number}")];
    let mut options: Vec<String> = options.into_iter().map(str::to_owned).collect();
    options.extend(["-o".to_owned(), "/dev/null".to_owned()]);
    let end = under_strace(place, &options, arguments);
    match blow {
        Blow::Error(_) if arguments == RUN && !before.authorities.is_empty() => {
            assert_eq!(end, End::Ready, "an agent that has a CA serves it");
        }
        Blow::Error(_) => assert_ne!(end, End::Killed),
        Blow::Kill => assert_eq!(end, End::Killed),
    }
    let torn = place.state();
    assert!(
        torn.sequence >= before.sequence && torn.generation >= before.generation,
        "{torn:?} after {before:?}"
    );
    let old = before.authorities.clone();
    for line in torn.authorities.iter().filter(|line| line.contains(" active ")) {
        assert!(
            fs::exists(authority(place, line)).unwrap() || fs::exists(staged(place, line)).unwrap(),
            "{line}"
        );
    }

    let agent = Agent::ready(place, postern(place.path()));

    let after = place.state();
    if !torn.authorities.is_empty() {
        assert_eq!(after.authorities, torn.authorities, "a start changes nothing");
    }
    assert!(
        after.sequence >= torn.sequence && after.generation > before.generation,
        "{after:?} after {before:?}"
    );
    for level in ["root", "issuing"] {
        let active = format!("{level} active ");
        assert_eq!(after.authorities.iter().filter(|line| line.starts_with(&active)).count(), 1, "{after:?}");
    }
    assert!([before.revoked, before.revoked + 1].contains(&after.revoked), "{after:?} after {before:?}");
    assert_whole_delivery(place);
    drop(agent);
    if after.authorities == old && after.revoked == before.revoked && !old.is_empty() {
        Outcome::AsBefore
    } else {
        Outcome::Done
    }
}

fn authority(place: &Place, line: &str) -> PathBuf {
    place.path().join("state/authorities").join(line.rsplit(' ').next().unwrap())
}

fn staged(place: &Place, line: &str) -> PathBuf {
    place.path().join("state/authorities").join(format!(".staged-{}", line.rsplit(' ').next().unwrap()))
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    AsBefore,
    Done,
}

/// Key, chain and roots of one delivery belong together, and openssl believes them by the bundle that is for others.
fn assert_whole_delivery(place: &Place) {
    let folder = place.path().join("files/caller");
    assert!(Identity::delivered(&folder).is_a_pair());
    let current = folder.join("current").canonicalize().unwrap();
    let bundle = place.path().join("state/bundle.pem");
    for roots in [&bundle, &current.join("bundle.pem")] {
        let chain = current.join("chain.pem");
        let mut openssl = Command::new("openssl");
        openssl
            .args(["verify", "-x509_strict", "-CAfile"])
            .arg(roots)
            .arg("-untrusted")
            .arg(&chain)
            .arg(&chain);
        let output = openssl.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

/// Whether processes can be traced here; `strace` is installed if it is missing and root may do so.
fn can_trace() -> bool {
    let works = || {
        let tried = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
        tried.is_ok_and(|output| output.status.success())
    };
    if works() {
        return true;
    }
    drop(Command::new("apt-get").args(["install", "-qq", "-y", "strace"]).output());
    let works = works();
    if !works {
        #[expect(clippy::print_stdout, reason = "a skipped test must not look like one that ran")]
        {
            println!("skipped: strace is missing, or nothing may be traced here");
        }
    }
    works
}

#[test]
fn whatever_step_it_is_killed_at_the_agent_comes_back_whole() {
    strike(&[Blow::Kill], SAMPLE);
}

#[test]
fn whatever_step_the_disk_refuses_what_is_there_is_served_and_nothing_is_torn() {
    strike(&[Blow::Error("ENOSPC"), Blow::Error("EROFS")], SAMPLE / 2);
}

/// Strikes at the points of every phase, with each of `blows` in turn, and prints a table of it.
fn strike(blows: &[Blow], sample: usize) {
    if !can_trace() {
        return;
    }
    let mut seed = 3;
    let mut table = format!("{blows:?}\nphase | calls found | struck at | as before | done\n");
    for phase in &PHASES {
        let mut scene = Scene::guarding("builtin:whoami");
        scene.config("[leaf]\nttl = \"10m\"\n");
        let place = Place::new(&scene);
        phase.before.iter().for_each(|arguments| place.does(arguments));
        let arguments = place.filled(phase.killed);
        let points = points(&place.copy(), &arguments);
        // The runtime wakes its threads by writes of its own, which no disk refuses; a full file system is another test's.
        let may_fail = |point: &Point| blows == [Blow::Kill] || !matches!(&*point.call, "write" | "pwrite64");
        let points: Vec<Point> = points.into_iter().filter(may_fail).collect();
        let (found, chosen) = (points.len(), chosen(points, sample, &mut seed));
        let chosen: Vec<_> =
            chosen.iter().flat_map(|point| blows.iter().map(move |blow| (point, *blow))).collect();
        let tried = chosen.len();
        let done = chosen
            .into_iter()
            .filter(|(point, blow)| {
                let copy = place.copy();
                let outcome = std::panic::catch_unwind(|| struck_at(&copy, &arguments, point, *blow));
                let outcome = outcome.unwrap_or_else(|panic| {
                    #[expect(clippy::print_stdout, reason = "where it happened is the finding")]
                    {
                        println!("{}, {blow:?} at {point:?}:\n{}", phase.name, log_of(&copy));
                    }
                    std::panic::resume_unwind(panic)
                });
                outcome == Outcome::Done
            })
            .count();
        assert!(tried > 0, "{}: nothing changes the disk", phase.name);
        writeln!(table, "{} | {found} | {tried} | {} | {done}", phase.name, tried - done).unwrap();
    }
    #[expect(clippy::print_stdout, reason = "the table is wanted")]
    {
        println!("{table}");
    }
}
