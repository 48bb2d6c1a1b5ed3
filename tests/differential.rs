//! What was decided on is what the service sees: thousands of generated heads go through the agent to four services that read
//! HTTP in their own ways (Python's http.server, Node, nginx, HAProxy), and their words are held against the agent's.
//!
//! A request that a service sees and the agent has not decided on would be a smuggled one; one that it sees otherwise than it
//! was decided on would be a way around the policy.

#![expect(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "a skipped test must not look like one that ran")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use data_encoding::HEXLOWER_PERMISSIVE;
use postern::proxy::{Conversation, End, Request, read_conversation};
use postern::registry::PolicyPath;
use serde_json::Value;
use support::caller::connector;
use support::{Scene, Talk, Tls, World, eventually, soon, write};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How many messages are generated.
const MESSAGES: usize = 5_000;

/// So many connections to each agent carry them.
const LANES: usize = 4;

/// A way of reading HTTP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Reader {
    Haproxy,
    Nginx,
    Node,
    Python,
}

impl Reader {
    const ALL: [Self; 4] = [Self::Haproxy, Self::Nginx, Self::Node, Self::Python];

    /// The program, and the Debian package that has it.
    const fn program(self) -> (&'static str, &'static str) {
        match self {
            Self::Haproxy => ("/usr/sbin/haproxy", "haproxy"),
            Self::Nginx => ("/usr/sbin/nginx", "nginx"),
            Self::Node => ("node", "nodejs"),
            Self::Python => ("python3", "python3"),
        }
    }

    /// Whether the program is there, or could be installed.
    fn is_there(self) -> bool {
        let (program, package) = self.program();
        let version = || {
            let flag = if program.starts_with('/') { "-v" } else { "--version" };
            Command::new(program).arg(flag).output().is_ok_and(|output| output.status.success())
        };
        if version() {
            return true;
        }
        if rustix::process::geteuid().is_root() {
            let apt = "apt-get update -qq && apt-get install -qq -y --no-install-recommends";
            drop(Command::new("sh").args(["-c", &format!("{apt} {package}")]).output());
        }
        version()
    }
}

#[test]
fn what_was_decided_on_is_what_the_service_sees() {
    let messages: Arc<Vec<Vec<u8>>> = Arc::new(messages());
    let heads: usize = messages.iter().map(|message| heads(message)).sum();
    assert!(heads >= MESSAGES, "{heads} heads");

    let mut running = Vec::new();
    for reader in Reader::ALL {
        if reader.is_there() {
            let messages = Arc::clone(&messages);
            running.push((reader, std::thread::spawn(move || trial(reader, &messages))));
        } else {
            println!("skipped: {reader:?} is not installed");
        }
    }
    for (reader, trial) in running {
        let count = trial.join().unwrap();
        println!("{reader:?}: {count:?}");
        assert!(count.admitted >= MESSAGES / 3, "{reader:?}: {count:?}");
        assert!(count.denied > 0 && count.unreadable >= MESSAGES / 10, "{reader:?}: {count:?}");
        assert!(count.refused_by_the_service <= count.admitted / 20, "{reader:?}: {count:?}");
        assert_eq!(count.seen, count.admitted - count.refused_by_the_service, "{reader:?}");
    }
}

fn trial(reader: Reader, messages: &Arc<Vec<Vec<u8>>>) -> Count {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(Trial::run(reader, messages))
}

/// How many heads a message is meant to have, at least.
fn heads(message: &[u8]) -> usize {
    message.windows(6).filter(|six| six == b"HTTP/1").count().max(1)
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// Requests that the agent has let in.
    admitted: usize,
    /// Of those: such as the service itself would not read.
    refused_by_the_service: usize,
    /// Requests that the agent has turned away, with a line in its log.
    denied: usize,
    /// Messages of which something could not be read.
    unreadable: usize,
    /// Requests that the service has seen.
    seen: usize,
}

/// An agent before one way of reading HTTP.
struct Trial {
    reader: Reader,
    world: World,
    connector: TlsConnector,
    /// What was answered: the message, the place of the request in it, and the status, by the request's id.
    answered: Mutex<HashMap<String, (usize, usize, u16)>>,
    next: AtomicUsize,
    unreadable: AtomicUsize,
}

impl Trial {
    async fn run(reader: Reader, messages: &Arc<Vec<Vec<u8>>>) -> Count {
        let service = Seeing::start(reader).await;
        let mut scene = Scene::guarding(format!("{}:9000", service.ip));
        scene.config("[limits]\nconnections = 1000\n");
        let world = scene.start().await;
        let connector = connector(&world.roots(), Some(&world.identity("caller")), "http/1.1");
        let trial = Arc::new(Self {
            reader,
            world,
            connector,
            answered: Mutex::default(),
            next: AtomicUsize::new(0),
            unreadable: AtomicUsize::new(0),
        });
        let lanes: Vec<_> = (0..LANES)
            .map(|_| {
                let (trial, messages) = (Arc::clone(&trial), Arc::clone(messages));
                tokio::spawn(async move { trial.drive(&messages).await })
            })
            .collect();
        for lane in lanes {
            lane.await.unwrap();
        }
        trial.compare(messages, &service).await
    }

    /// Sends messages, one after the other, on one connection for as long as it lasts.
    async fn drive(&self, messages: &[Vec<u8>]) {
        let mut open = None;
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(message) = messages.get(number) else { return };
            let reading = read_conversation(message, usize::MAX);
            let talk = match open.take() {
                Some(talk) => talk,
                None => Talk::new(self.dial().await),
            };
            open = self.exchange(number, message, &reading, talk).await;
        }
    }

    async fn dial(&self) -> Tls {
        let stream = TcpStream::connect(self.world.address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = "localhost".try_into().unwrap();
        soon("a handshake", self.connector.connect(name, stream)).await.unwrap()
    }

    /// Sends one message and reads what is answered; gives the connection back if it may be used again.
    async fn exchange(
        &self,
        number: usize,
        message: &[u8],
        reading: &Conversation,
        mut talk: Talk<Tls>,
    ) -> Option<Talk<Tls>> {
        // Who has been refused already may hang up while the rest is on its way.
        let sent = talk.try_send(message).await;
        let goes_on = reading.end == End::Open;
        if !goes_on {
            drop(talk.io.shutdown().await);
            self.unreadable.fetch_add(usize::from(!matches!(reading.end, End::Closed(_))), Ordering::Relaxed);
        }
        for (place, request) in reading.requests.iter().enumerate() {
            let answer = loop {
                let answer = talk.try_answer(request.method == "HEAD").await.ok()?;
                if answer.status >= 200 {
                    break answer;
                }
            };
            let id = answer.header("x-request-id").unwrap().to_owned();
            let earlier = self.answered.lock().unwrap().insert(id, (number, place, answer.status));
            assert_eq!(earlier, None, "one id for two requests: {answer:?}");
            if answer.header("connection") == Some("close") {
                return None;
            }
        }
        if goes_on {
            return sent.is_ok().then_some(talk);
        }
        if let Ok(answer) = talk.try_answer(false).await {
            let refused = matches!(reading.end, End::Refused(_) | End::Incomplete);
            assert!(refused && answer.status >= 400, "{reading:?}\n{answer:?}\n{}", message.escape_ascii());
        }
        None
    }

    /// Holds the agent's log, our reading, and what the service has seen against each other.
    async fn compare(&self, messages: &[Vec<u8>], service: &Seeing) -> Count {
        let answered = self.answered.lock().unwrap().clone();
        let log = eventually("the whole access log", async || {
            let log = access_log(&self.world.log());
            answered
                .iter()
                .filter(|(_, (_, _, status))| *status != 0)
                .all(|(id, _)| log.contains_key(id))
                .then_some(log)
        })
        .await;
        let seen = service.seen();
        let mut count = Count { unreadable: self.unreadable.load(Ordering::Relaxed), ..Count::default() };
        for (id, (number, place, status)) in &answered {
            let context = || format!("{:?}: {}", self.reader, messages[*number].escape_ascii());
            let reading = read_conversation(&messages[*number], usize::MAX);
            let request = &reading.requests[*place];
            let decided = &log[id];
            assert_eq!(decided["method"], *request.method, "{}", context());
            assert_eq!(decided["path"], *request.path, "{}", context());
            if decided["decision"] != "allowed" {
                assert_eq!(seen.get(id), None, "refused, but seen: {}", context());
                count.denied += 1;
                continue;
            }
            count.admitted += 1;
            assert_eq!(decided["received"], request.body.len(), "{}", context());
            match seen.get(id) {
                Some(seen) => {
                    count.seen += 1;
                    check(request, seen, &context);
                }
                None => {
                    assert!(*status >= 400, "let in and answered by {status}, but not seen: {}", context());
                    if count.refused_by_the_service < 3 {
                        println!("{status} by {}", context());
                    }
                    count.refused_by_the_service += 1;
                }
            }
        }
        for (id, seen) in &seen {
            assert!(log.contains_key(id), "smuggled to {:?}: {seen}", self.reader);
            assert!(answered.contains_key(id), "{:?} took for whole what was not: {seen}", self.reader);
        }
        count
    }
}

/// What the service has seen is what was decided on.
fn check(request: &Request, seen: &Value, context: &dyn Fn() -> String) {
    let path = PolicyPath::parse(&request.path).unwrap();
    let target = request
        .query
        .as_ref()
        .map_or_else(|| path.as_str().to_owned(), |query| format!("{}?{query}", path.as_str()));
    assert_eq!(seen["method"], *request.method, "{}", context());
    assert_eq!(latin1(&seen["target"]), target.as_bytes(), "{}", context());
    assert_eq!(seen["host"], serde_json::json!([request.authority]), "{}", context());
    assert_eq!(bytes(&seen["view"]), unescaped(path.as_str()), "{} {}", path.as_str(), context());
    assert_eq!(bytes(&seen["body"]), request.body, "{}", context());
    assert_eq!(seen["apps"], serde_json::json!(["caller"]), "{}", context());
    assert_eq!(seen["forged"], 0, "{}", context());
}

/// Text of which each character stands for a byte.
fn latin1(text: &Value) -> Vec<u8> {
    text.as_str().unwrap().chars().map(|letter| u8::try_from(u32::from(letter)).unwrap()).collect()
}

fn bytes(digits: &Value) -> Vec<u8> {
    HEXLOWER_PERMISSIVE.decode(digits.as_str().unwrap().as_bytes()).unwrap()
}

/// A path with every escape decoded once.
fn unescaped(path: &str) -> Vec<u8> {
    let mut parts = path.split('%');
    let mut decoded = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        decoded.push(u8::from_str_radix(&part[..2], 16).unwrap());
        decoded.extend_from_slice(&part.as_bytes()[2..]);
    }
    decoded
}

/// The events of the access log by the ids of their requests.
fn access_log(text: &str) -> HashMap<String, Value> {
    let mut events = HashMap::new();
    for line in text.lines().filter(|line| line.contains("\"request.id\"") && line.ends_with('}')) {
        let event: Value = serde_json::from_str(line).unwrap();
        let id = event["request.id"].as_str().unwrap().to_owned();
        assert!(events.insert(id, event).is_none(), "decided on twice: {line}");
    }
    events
}

/// A running service that writes down what it sees.
struct Seeing {
    ip: Ipv4Addr,
    folder: tempfile::TempDir,
    children: Vec<Child>,
}

impl Drop for Seeing {
    fn drop(&mut self) {
        for child in &mut self.children {
            // nginx ends its worker when it is asked to; it may be gone already.
            rustix::process::kill_process(
                rustix::process::Pid::from_child(child),
                rustix::process::Signal::TERM,
            )
            .ok();
            drop(child.wait());
        }
    }
}

impl Seeing {
    async fn start(reader: Reader) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let number = Reader::ALL.iter().position(|other| *other == reader).unwrap();
        let ip = Ipv4Addr::new(127, high.max(1), low, 200 + u8::try_from(number).unwrap());
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        let records = File::create(folder.path().join("records")).unwrap();
        let (script, port) = match reader {
            Reader::Node => ("differential.js", "9000"),
            Reader::Python => ("differential.py", "9000"),
            Reader::Haproxy | Reader::Nginx => ("differential.py", "9001"),
        };
        let language = if reader == Reader::Node { Reader::Node } else { Reader::Python };
        let mut recorder = Command::new(language.program().0);
        recorder.arg(tests.join(script)).args([&ip.to_string(), port]).stdin(Stdio::null()).stdout(records);
        let mut children = vec![recorder.spawn().unwrap()];

        let file = folder.path().join("configuration");
        let mut proxy = Command::new(reader.program().0);
        match reader {
            Reader::Haproxy => {
                write(&file, &haproxy_configuration(ip));
                proxy.args(["-db", "-q", "-f"]).arg(&file);
            }
            Reader::Nginx => {
                write(&file, &nginx_configuration(ip, folder.path()));
                proxy.arg("-e").arg(folder.path().join("log")).arg("-c").arg(&file);
            }
            Reader::Node | Reader::Python => (),
        }
        if matches!(reader, Reader::Haproxy | Reader::Nginx) {
            children.push(proxy.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
            eventually("the recorder", async || TcpStream::connect((ip, 9001)).await.ok()).await;
        }
        let service = Self { ip, folder, children };
        eventually("the service", async || TcpStream::connect((ip, 9000)).await.ok()).await;
        service
    }

    /// Every request that it has seen, by the id that the agent gave it.
    fn seen(&self) -> BTreeMap<String, Value> {
        let text = std::fs::read_to_string(self.folder.path().join("records")).unwrap();
        let mut all = BTreeMap::new();
        for line in text.lines() {
            let seen: Value = serde_json::from_str(line).unwrap();
            let [id] = seen["id"].as_array().unwrap().as_slice() else { panic!("no id, or two: {line}") };
            let id = id.as_str().unwrap().to_owned();
            assert!(all.insert(id, seen).is_none(), "seen twice: {line}");
        }
        all
    }
}

fn nginx_configuration(ip: Ipv4Addr, folder: &Path) -> String {
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let folder = folder.display();
    format!(
        "{user}\ndaemon off;\nworker_processes 1;\npid {folder}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n\
         client_body_temp_path {folder}/body;\nproxy_temp_path {folder}/proxy;\nfastcgi_temp_path {folder}/fastcgi;\n\
         scgi_temp_path {folder}/scgi;\nuwsgi_temp_path {folder}/uwsgi;\nkeepalive_requests 100000;\n\
         upstream recorder {{ server {ip}:9001; keepalive 16; }}\n\
         server {{ listen {ip}:9000; location / {{\nproxy_http_version 1.1;\nproxy_set_header Connection \"\";\n\
         proxy_set_header Host $http_host;\nproxy_set_header x-seen-method $request_method;\n\
         proxy_set_header x-seen-target $request_uri;\nproxy_set_header x-seen-host $http_host;\n\
         proxy_set_header x-seen-view \"<$uri>\";\nproxy_pass http://recorder;\n}} }} }}\n"
    )
}

fn haproxy_configuration(ip: Ipv4Addr) -> String {
    format!(
        "global\n    nbthread 1\ndefaults\n    mode http\n    option http-buffer-request\n    timeout connect 60s\n\
         \x20   timeout server 60s\n    timeout client 60s\n    timeout http-request 60s\nfrontend all\n    bind {ip}:9000\n\
         \x20   http-request set-header x-seen-method %[method]\n    http-request set-header x-seen-target %[url]\n\
         \x20   http-request set-header x-seen-host %[req.fhdr(host)]\n\
         \x20   http-request set-header x-seen-view <%[path,url_dec]>\n    default_backend recorder\n\
         backend recorder\n    server recorder {ip}:9001\n"
    )
}

/// Paths that have led around somebody's policy, and harmless ones that look like them.
const PATHS: [&str; 64] = [
    "/admin",
    "/ADMIN",
    "//admin",
    "/./admin",
    "/%61dmin",
    "/%2561dmin",
    "/x/../admin",
    "/x/%2e%2e/admin",
    "/x/.%2E/admin",
    "/x%2f..%2fadmin",
    "/x/..%2fadmin",
    "/x/..;/admin",
    "/x/..;a=b/admin",
    "/x/;/../admin",
    "/x/..%3b/admin",
    "/x/..\\admin",
    "/x/..%5cadmin",
    "/x\\..\\admin",
    "/x/%252e%252e/admin",
    "/x/%c0%ae%c0%ae/admin",
    "/x/%e0%80%ae/admin",
    "/x/%uff0e%uff0e/admin",
    "/admin%00",
    "/admin%00.css",
    "/admin%0a",
    "/admin%20",
    "/admin%09",
    "/admin/",
    "/admin//",
    "/admin/.",
    "/admin/..",
    "/admin;",
    "/admin;a=b",
    "/admin;.css",
    "/admin%3b.css",
    "/admin.css",
    "/admin..",
    "/admin...",
    "/.admin",
    "/..admin",
    "/.../admin",
    "/%2e%2eadmin",
    "/a%2",
    "/a%",
    "/a%zz",
    "/%",
    "/%ff",
    "/%ed%a0%80",
    "/caf%c3%a9",
    "/caf%C3%A9",
    "/a%7eb",
    "/a~b",
    "/a+b",
    "/a%2bb",
    "/a%2Bb",
    "/a:b",
    "/a@b",
    "/a%40b",
    "/a|b",
    "/a\"b",
    "/a<b>",
    "/a{b}",
    "/a[b]",
    "/a^b`c",
];

/// Everything that is sent: each path once, then what the dice say.
fn messages() -> Vec<Vec<u8>> {
    let mut dice = Dice(0xD1FF);
    let plain = PATHS.iter().map(|path| format!("GET {path} HTTP/1.1\r\nhost: h.test\r\n\r\n").into_bytes());
    plain.chain((0..MESSAGES).map(|_| dice.message())).collect()
}

/// Numbers that look random (SplitMix64) and follow from where they began.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ mixed >> 31) % u64::try_from(bound).unwrap()).unwrap()
    }

    /// True in one of `times` throws.
    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// One request or several, sent at once; in one of three, some bytes are changed.
    fn message(&mut self) -> Vec<u8> {
        let mut bytes = self.request();
        while self.one_in(5) {
            bytes.extend(self.request());
        }
        if self.one_in(3) {
            for _ in 0..=self.below(2) {
                self.spoil(&mut bytes);
            }
        }
        bytes
    }

    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        const ODD: &[u8] = b"\0\t\r\n\x0b\x0c \"#%,./:;=?@\\_0aA\x7f\x80\x85\xa0\xff";
        // Framing and request line are where it matters; they come first.
        let reach = if self.one_in(2) { bytes.len().min(80) } else { bytes.len() };
        let at = self.below(reach + 1);
        match self.below(5) {
            0 => bytes.insert(at, self.pick(ODD)),
            1 if at < bytes.len() => bytes[at] = self.pick(ODD),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 => {
                let end = (at + 1 + self.below(40)).min(bytes.len());
                let doubled = bytes[at..end.max(at)].to_vec();
                drop(bytes.splice(at..at, doubled));
            }
            _ => {
                let piece: &[u8] = self.pick(&[
                    b"\r\n".as_slice(),
                    b"\n",
                    b"\r",
                    b"\r\n ",
                    b"Content-Length: 3\r\n",
                    b"Transfer-Encoding: chunked\r\n",
                    b"0\r\n\r\n",
                    b"GET /admin HTTP/1.1\r\nhost: h.test\r\n\r\n",
                ]);
                drop(bytes.splice(at..at, piece.iter().copied()));
            }
        }
    }

    fn request(&mut self) -> Vec<u8> {
        const METHODS: [&str; 10] =
            ["GET", "GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "M-SEARCH"];
        const ODD_METHODS: [&str; 5] = ["get", "CONNECT", "TRACE", "", "G:T"];
        const HOSTS: [&str; 5] = ["h.test", "H.test", "h.test:8443", "127.0.0.1", "[::1]:8443"];
        const ODD_HOSTS: [&str; 6] = ["", "a,b", "u@h.test", "h.test/", "h.test:x", "h test"];
        let method = if self.one_in(30) { self.pick(&ODD_METHODS) } else { self.pick(&METHODS) };
        let host = if self.one_in(30) { self.pick(&ODD_HOSTS) } else { self.pick(&HOSTS) };
        let other_host = self.pick(&HOSTS);
        let mut target = self.path();
        if self.one_in(4) {
            target.push_str(self.pick(&["?", "?a=b", "?a=%2f..%2f&b=c;d", "?/../x", "?a=b?c=d", "?%zz"]));
        }
        if self.one_in(12) {
            let authority = if self.one_in(4) { other_host } else { host };
            target = format!("{}://{authority}{target}", self.pick(&["http", "https", "HTTPS"]));
        }
        let version = if self.one_in(15) { self.pick(&["1.0", "1.0", "1.2", "2.0", "0.9"]) } else { "1.1" };
        let mut lines = vec![self.line("Host", host)];
        if self.one_in(40) {
            lines.push(self.line("host", other_host));
        }
        if self.one_in(60) {
            lines.clear();
        }
        for _ in 0..self.below(5) {
            lines.push(self.field());
        }
        let (framing, body) = self.body();
        lines.extend(framing);
        let place = self.below(lines.len().max(1));
        lines.rotate_left(place);
        let mut bytes = format!("{method} {target} HTTP/{version}\r\n").into_bytes();
        lines.iter().for_each(|line| bytes.extend_from_slice(line));
        bytes.extend_from_slice(b"\r\n");
        bytes.extend(body);
        bytes
    }

    fn path(&mut self) -> String {
        if self.one_in(8) {
            return (self.pick(&PATHS)).to_owned();
        }
        const SEGMENTS: [&str; 12] = [
            "orders",
            "7",
            "a%20b",
            "caf%C3%A9",
            "x;v=1",
            "%61",
            "a.b",
            "~me",
            "@x",
            "report-1.csv",
            "a+b",
            "A",
        ];
        (0..=self.below(3)).map(|_| format!("/{}", self.pick(&SEGMENTS))).collect()
    }

    /// A field line, mostly as everybody writes it.
    fn line(&mut self, name: &str, value: &str) -> Vec<u8> {
        const BETWEEN: [&str; 5] = [":", ":  ", ":\t", ": \t ", ": "];
        const ODD_BETWEEN: [&str; 4] = [" :", "\t: ", " ", ":\r\n "];
        let between = match self.below(60) {
            0 => self.pick(&ODD_BETWEEN),
            1..=10 => self.pick(&BETWEEN),
            _ => ": ",
        };
        let end = match self.below(100) {
            0 => self.pick(&["\n", "\r", " \n", "\r\r\n"]),
            1..=10 => self.pick(&[" \r\n", "\t\r\n"]),
            _ => "\r\n",
        };
        format!("{name}{between}{value}{end}").into_bytes()
    }

    fn field(&mut self) -> Vec<u8> {
        const FIELDS: [(&str, &str); 26] = [
            ("Accept", "*/*"),
            ("Accept-Encoding", "gzip, br"),
            ("Content-Type", "text/plain; charset=\"utf-8\""),
            ("Cookie", "a=b; c=d"),
            ("Cookie", "e=f"),
            ("Connection", "keep-alive"),
            ("Connection", "X-A"),
            ("Connection", "close"),
            ("Keep-Alive", "timeout=5"),
            ("TE", "trailers"),
            ("Trailer", "X-Sum"),
            ("User-Agent", "made/1 (up)"),
            ("X-A", ""),
            ("X-A", "one, two"),
            ("x_a", "underscored"),
            ("x.a", "dotted"),
            ("X!#$%&'*+-.^_`|~9", "every letter of a name"),
            ("X-Postern-App", "admin"),
            ("X_Postern_App", "admin"),
            ("x.postern.app", "admin"),
            ("X_Request_Id", "forged-request-id"),
            ("X-Forwarded-For", "203.0.113.7"),
            ("Transfer_Encoding", "chunked"),
            ("Content_Length", "7"),
            ("X-Quoted", "\"a\\\"b\" (c)"),
            ("X-Long", "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz"),
        ];
        const ODD_FIELDS: [(&str, &str); 8] = [
            ("Connection", "X-Postern-App"),
            ("Connection", "Host, Authorization"),
            ("X-Nul", "a\0b"),
            ("X-Return", "a\rb"),
            ("X-Del", "a\x7fb"),
            ("X A", "b"),
            ("", "b"),
            ("X-Api-Key", "not one of ours"),
        ];
        let (name, value) = if self.one_in(40) { self.pick(&ODD_FIELDS) } else { self.pick(&FIELDS) };
        let mut line = self.line(name, value);
        if self.one_in(30) && line.len() > 6 {
            // Bytes beyond ASCII are no error (RFC 9110 §5.5).
            line.splice(line.len() - 2..line.len() - 2, *b"\xe9\x85\xa0");
        }
        line
    }

    /// The lines that frame a body, and the body.
    fn body(&mut self) -> (Vec<Vec<u8>>, Vec<u8>) {
        const BODIES: [&str; 6] =
            ["", "hello", "a=b&c=d", "0\r\n\r\n", "GET /admin HTTP/1.1\r\nhost: h.test\r\n\r\n", "\r\n\r\n"];
        let body = self.pick(&BODIES);
        match self.below(10) {
            0..=3 => (Vec::new(), Vec::new()),
            4..=6 => {
                let length = body.len().to_string();
                (vec![self.line("Content-Length", &length)], body.into())
            }
            7 | 8 => {
                let name = self.pick(&["Transfer-Encoding", "transfer-encoding", "TRANSFER-ENCODING"]);
                let value = self.pick(&["chunked", "chunked", "Chunked"]);
                (vec![self.line(name, value)], self.chunks(body))
            }
            _ => {
                let chunks = self.chunks(body);
                let lines: &[(&str, &str)] = self.pick(&[
                    [("Content-Length", "5"), ("Transfer-Encoding", "chunked")].as_slice(),
                    &[("Transfer-Encoding", "chunked"), ("Content-Length", "0")],
                    &[("Content-Length", "5"), ("Content-Length", "5")],
                    &[("Content-Length", "5"), ("Content-Length", "0")],
                    &[("Content-Length", "5, 5")],
                    &[("Content-Length", "+5")],
                    &[("Content-Length", "05")],
                    &[("Content-Length", "0x5")],
                    &[("Content-Length", "-1")],
                    &[("Content-Length", "99999999999999999999")],
                    &[("Transfer-Encoding", "xchunked")],
                    &[("Transfer-Encoding", "gzip, chunked")],
                    &[("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")],
                    &[("Transfer-Encoding", "identity")],
                    &[("Transfer-Encoding", "\x0bchunked")],
                ]);
                (lines.iter().map(|(name, value)| self.line(name, value)).collect(), chunks)
            }
        }
    }

    /// `body` in chunks, mostly as everybody writes them.
    fn chunks(&mut self, body: &str) -> Vec<u8> {
        let mut wire = Vec::new();
        let mut rest = body.as_bytes();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(1 + self.below(rest.len()));
            let size = now.len();
            let size = match self.below(3) {
                0 => format!("{size:X}"),
                1 => format!("000{size:x}"),
                _ => format!("{size:x}"),
            };
            let extension = match self.below(40) {
                0 => self.pick(&[";a\n", " ", ";a\rb", ";\0", "\t"]),
                1..=5 => self.pick(&[";", ";a", ";a=b", ";a=\"b;c\"", ";a=\"\\\"\""]),
                _ => "",
            };
            let end = if self.one_in(60) { self.pick(&["\n", "", "\r", "x\r\n"]) } else { "\r\n" };
            wire.extend(format!("{size}{extension}\r\n").into_bytes());
            wire.extend_from_slice(now);
            wire.extend_from_slice(end.as_bytes());
            rest = later;
        }
        let trailers = match self.below(20) {
            0 => self.pick(&["x y: z\r\n", "x: y\n", ": z\r\n", "garbage\r\n"]),
            1..=4 => self.pick(&[
                "X-Sum: 1\r\n",
                "X-Postern-App: admin\r\n",
                "Content-Length: 7\r\n",
                "Host: i\r\n",
            ]),
            _ => "",
        };
        let last = self.pick(&["0", "0", "0", "000", "0;a=b"]);
        wire.extend(format!("{last}\r\n{trailers}\r\n").into_bytes());
        wire
    }
}
