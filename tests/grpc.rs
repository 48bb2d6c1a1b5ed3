//! gRPC end to end, by its own library on both sides: in by mTLS, and out by a local port and mTLS again; and `h2load`.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "a skipped test must not look like one that ran")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};
use support::{H2cService, Scene, World, eventually, python_with};

/// A Python that has gRPC, made on first use.
fn python_with_grpc() -> Result<PathBuf, String> {
    python_with("grpc", "grpc", &["grpcio>=1.70,<2"])
}

fn run(command: &mut Command) -> Option<Output> {
    command.output().ok()
}

/// A gRPC service; ends when it is dropped.
struct GrpcService {
    child: Child,
    port: u16,
}

impl GrpcService {
    fn start(python: &Path) -> Self {
        let mut serve = script(python);
        let mut child = serve.arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, port: line.trim().parse().unwrap() }
    }
}

impl Drop for GrpcService {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn script(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.arg("-I").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/grpc.py"));
    command
}

/// An agent before the service at `port` that also leads out to itself: this user's processes are the workload `caller`.
fn scene(port: u16, path: &str) -> Scene {
    let mut scene = Scene::guarding(format!("127.0.0.1:{port}"));
    let uid = rustix::process::geteuid().as_raw();
    scene.amend_config("id = \"orders\"\n", "id = \"orders\"\nprotocol = \"h2c\"\n");
    scene.amend_config("id = \"caller\"\n", &format!("id = \"caller\"\nmatch = {{ uid = {uid} }}\n"));
    scene.amend_registry("path = \"/**\"", &format!("path = \"{path}\""));
    scene.config(
        "[[remote]]\nid = \"itself\"\naddress = \"{ip}:8443\"\nprotocol = \"h2\"\nlisten = \"{ip}:15001\"\n\
         socket = \"itself.sock\"\nspiffe_ids = [\"spiffe://postern.test/agent\"]\n",
    );
    scene
}

/// The files by which a workload calls, and those by which anybody may.
fn files(world: &World, workload: Option<&str>) -> Vec<PathBuf> {
    let mut files = vec![world.path().join("state/bundle.pem")];
    files.extend(workload.into_iter().flat_map(|workload| {
        ["chain.pem", "key.pem"].map(|name| world.files(workload).join("current").join(name))
    }));
    files
}

fn ask(python: &Path, what: &str, target: &str, files: &[PathBuf]) -> Value {
    let output = run(script(python).args([what, target]).args(files)).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What every kind of call must come to, by whichever way.
fn assert_served(told: &Value, way: &str) {
    assert_eq!(told["unary"], "hello", "{way}: {told}");
    assert_eq!(told["initial"], "1", "{way}: {told}");
    assert_eq!(told["trailers"], json!(["5", [0, 255]]), "{way}: {told}");
    assert_eq!(told["big"], 1 << 20, "{way}: {told}");
    assert_eq!(told["server stream"], json!(["0", "1", "2", "3", "4"]), "{way}: {told}");
    assert_eq!(told["client stream"], "300", "{way}: {told}");
    let talk: Vec<_> = (0..5).map(|number| format!("re: {number}")).collect();
    assert_eq!(told["both streams"], json!(talk), "{way}: {told}");
    assert_eq!(told["deadline"], "DEADLINE_EXCEEDED", "{way}: {told}");
    assert!(told["waited"].as_f64().unwrap() < 5.0, "{way}: {told}");
    assert_eq!(told["failure"], json!(["FAILED_PRECONDITION", "größer als 50 %"]), "{way}: {told}");
    let service = &told["service"];
    let left = service["left"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&left), "{way}: the deadline is passed on: {told}");
    assert!(service["cancelled"].as_u64().unwrap() >= 2, "{way}: both ends of calls were heard of: {told}");
    assert_eq!(
        (&service["metadata"]["x-mine"], &service["metadata"]["x-postern-app"]),
        (&json!("1"), &json!("caller")),
        "{way}: {told}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_every_kind_come_in_and_go_out() {
    let python = match python_with_grpc() {
        Ok(python) => python,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let service = GrpcService::start(&python);
    let world = scene(service.port, "/shop.Orders/*").start().await;

    let told = ask(&python, "call", &world.address().to_string(), &files(&world, Some("caller")));
    assert_served(&told, "in");
    drop(service);

    let service = GrpcService::start(&python);
    let world = scene(service.port, "/shop.Orders/*").start().await;
    let told = ask(&python, "call", &format!("{}:15001", world.ip), &[]);
    assert_served(&told, "out by the port");
    let event = world.log_with("\"direction\":\"out\"").await;
    assert!(event.contains("\"protocol\":\"http/2\""), "{event}");

    let socket = format!("unix:{}", world.path().join("run/itself.sock").display());
    let told = ask(&python, "refused", &socket, &[]);
    assert_eq!(told["status"][0], "OK", "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_call_is_a_grpc_status_to_its_library() {
    let python = match python_with_grpc() {
        Ok(python) => python,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let service = GrpcService::start(&python);
    let world = scene(service.port, "/shop.Orders/Unary").start().await;
    let target = world.address().to_string();
    let ask = |workload: Option<&str>| ask(&python, "refused", &target, &files(&world, workload));

    assert_eq!(ask(Some("caller"))["status"], json!(["OK", ""]));
    for (workload, status, code) in [
        (None, "UNAUTHENTICATED", "missing-credential"),
        (Some("stranger"), "PERMISSION_DENIED", "not-entitled"),
    ] {
        let told = ask(workload);
        assert_eq!((&told["status"][0], &told["code"]), (&json!(status), &json!(code)), "{told}");
    }
    drop(service);
    let told = ask(Some("caller"));
    assert_eq!(
        (&told["status"][0], &told["code"]),
        (&json!("UNAVAILABLE"), &json!("upstream-unavailable")),
        "{told}"
    );
}

/// Debian's `h2load`, which is installed on first use.
fn h2load() -> Result<(), String> {
    let works = || run(Command::new("h2load").arg("--version")).is_some_and(|output| output.status.success());
    if works() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        return Err("h2load is not installed, and only root can install it".to_owned());
    }
    drop(run(Command::new("apt-get").args(["install", "-qq", "-y", "nghttp2-client"])));
    if works() { Ok(()) } else { Err("nghttp2-client cannot be installed".to_owned()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2load_goes_out_by_a_local_port_and_loses_nothing() {
    if let Err(reason) = h2load() {
        return println!("skipped: {reason}");
    }
    let service = H2cService::echoing().await;
    let world = scene(service.address.port(), "/**").start().await;
    let body = world.path().join("body");
    support::write(&body, &"x".repeat(20_000));

    let target = format!("http://{}:15001/a", world.ip);
    for more in [&["-n", "2000"][..], &["-n", "500", "-d", body.to_str().unwrap()], &["-n", "200", "--h1"]] {
        let load =
            Command::new("h2load").args(["-c", "4", "-m", "20"]).args(more).arg(&target).output().unwrap();
        let told = String::from_utf8_lossy(&load.stdout).into_owned();
        let all = format!("{} succeeded, 0 failed, 0 errored, 0 timeout", more[1]);
        assert!(told.contains(&all), "{more:?}: {told}");
    }
    // Four threads at most dial: two of the agent's, each out and in.
    assert!(service.connections() <= 8, "{}", service.connections());
    eventually("the access log is whole", async || {
        let lines = world.log().lines().filter(|line| line.contains("\"direction\":\"in\"")).count();
        (lines == 2700).then_some(())
    })
    .await;
}
