//! A server process of a test: started, asked for its numbers, told to go, and never left behind.

use crate::peer::{Peer, Response};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Anything that is going to happen has happened by then.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// What a server of tests tells its clients of pings, in seconds.
pub const PING: u32 = 3600;
/// Deadlines that no test meets by chance, however slow the machine. A test of one of them sets its own.
const PATIENT: &[(&str, &str)] = &[
    ("--client.ping_interval", "1h"),
    ("--client.stale_close_delay", "10m"),
    ("--http_server.handshake_timeout", "2m"),
    ("--websocket.write_timeout", "30s"),
];
/// The key of the server API.
pub const KEY: &str = "key-of-the-backend";
/// Signs connection tokens.
pub const SECRET: &str = "secret-for-tokens";

/// Everyone may connect, subscribe and publish.
pub const OPEN: &[&str] = &["--client.insecure", "--reactors", "2"];
/// Tokens are needed, except by the anonymous user; everyone may subscribe, nobody may publish.
pub const GUARDED: &[&str] = &[
    "--client.allow_anonymous_connect_without_token",
    "--channel.without_namespace.allow_subscribe_for_client",
    "--channel.without_namespace.allow_subscribe_for_anonymous",
    "--client.token.hmac_secret_key",
    SECRET,
];

pub struct Server {
    child: Child,
    pub address: SocketAddr,
    pub internal: Option<SocketAddr>,
    pub grpc: Option<SocketAddr>,
    pub uni_grpc: Option<SocketAddr>,
    pub tcp_line: Option<SocketAddr>,
    log: Arc<Mutex<Vec<String>>>,
    /// A connection for the API and the numbers, opened before a test reaches any limit.
    service: RefCell<Option<Peer>>,
}

/// Asks `look` again and again until it has something.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Nodes of these names, in order, that know each other.
pub fn acquainted<const N: usize>(names: [&str; N], start: impl FnMut(&str) -> Server) -> [Server; N] {
    let nodes = names.map(start);
    for node in &nodes {
        until("the nodes to know each other", || (node.fleet() == names).then_some(()));
    }
    nodes
}

/// The program, with an environment that sets none of its options.
pub fn gannet() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gannet"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GANNET_")) {
        command.env_remove(name);
    }
    command
}

impl Server {
    pub fn start(options: &[&str]) -> Server {
        Server::start_by(gannet(), options)
    }

    /// Two lists of options, for the common case of a preset and what the test adds.
    pub fn with(preset: &[&str], options: &[&str]) -> Server {
        Server::start(&[preset, options].concat())
    }

    /// Starts `command`, which must end up as the program.
    pub fn start_by(mut command: Command, options: &[&str]) -> Server {
        command.args(["--http_server.address", "127.0.0.1", "--http_server.port", "0", "--log.format", "json"]);
        // A test with a file has it there, where it may change.
        if !options.contains(&"--http_api.key") && !options.contains(&"--config") {
            command.args(["--http_api.key", KEY]);
        }
        let is_set =
            |name: &str| options.iter().any(|it| it.strip_prefix(name).is_some_and(|rest| !rest.starts_with('_')));
        let has_file = options.iter().any(|it| *it == "-c" || it.starts_with("--config"));
        for (name, value) in PATIENT.iter().filter(|(name, _)| !has_file && !is_set(name)) {
            command.args([name, value]);
        }
        command.arg("--prometheus.enabled").args(options);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("start the server");
        let log = Arc::new(Mutex::new(Vec::new()));
        let listening = read_log(child.stderr.take().expect("stderr"), log.clone());
        let Ok((address, [internal, grpc, uni_grpc, tcp_line])) = listening.recv_timeout(PATIENCE) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the server did not listen:\n{}", log.lock().expect("log").join("\n"));
        };
        Server { child, address, internal, grpc, uni_grpc, tcp_line, log, service: RefCell::new(None) }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// One request on the kept connection, which is opened again if the server has closed it meanwhile.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Response {
        let mut kept = self.service.borrow_mut();
        if let Some(response) = kept.as_mut().and_then(|peer| peer.request(method, path, API_KEY, body)) {
            return response;
        }
        let mut peer = Peer::open(self.internal.unwrap_or(self.address));
        let response = peer.request(method, path, API_KEY, body).expect("an answer");
        *kept = Some(peer);
        response
    }

    /// A call of the server API; the whole answer.
    pub fn call(&self, method: &str, body: Value) -> Value {
        let response = self.ask("POST", &format!("/api/{method}"), &body.to_string());
        assert_eq!(response.status, 200, "{method}: {}", response.body);
        serde_json::from_str(&response.body).expect("JSON")
    }

    pub fn publish(&self, channel: &str, data: Value) {
        let answer = self.call("publish", json!({ "channel": channel, "data": data }));
        assert_eq!(answer, json!({ "result": {} }));
    }

    /// The same to a channel that keeps it.
    pub fn publish_kept(&self, channel: &str, data: Value) {
        let answer = self.call("publish", json!({ "channel": channel, "data": data }));
        assert!(answer["result"]["offset"].is_u64(), "{answer}");
    }

    /// Waits until it is to get clients: its engine is there.
    pub fn ready(&self) {
        until("the node to be ready", || (self.ask("GET", "/health/ready", "").status == 200).then_some(()));
    }

    /// The names of the nodes that it knows, itself too.
    pub fn fleet(&self) -> Vec<String> {
        let info = self.call("info", json!({}));
        let nodes = info["result"]["nodes"].as_array().expect("nodes");
        let mut names: Vec<String> =
            nodes.iter().map(|node| node["name"].as_str().expect("a name").to_owned()).collect();
        names.sort();
        names
    }

    /// The whole page of metrics.
    pub fn metrics(&self) -> String {
        let response = self.ask("GET", "/metrics", "");
        assert_eq!(response.status, 200, "{}", response.body);
        response.body
    }

    /// One series of the metrics; 0 if it is not there.
    pub fn metric(&self, series: &str) -> u64 {
        let page = self.metrics();
        let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse::<f64>().expect("a number") as u64)
    }

    /// Clients that the server closed with `code`.
    pub fn disconnects(&self, code: u16) -> u64 {
        self.metric(&format!("gannet_client_num_server_disconnects_total{{code=\"{code}\"}}"))
    }

    /// Commands that it answered with this error.
    pub fn errors(&self, code: u64) -> u64 {
        self.metric(&format!("gannet_client_num_reply_errors_total{{code=\"{code}\"}}"))
    }

    /// Waits until a series has come to `expected` or more.
    pub fn counts(&self, series: &str, expected: u64) {
        until(&format!("{series} {expected}"), || (self.metric(series) >= expected).then_some(()));
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signal");
    }

    /// How the process ended by itself, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("wait")
    }

    /// Waits for the process to end by itself.
    pub fn exit(&mut self) -> ExitStatus {
        until("the server's exit", || self.ended())
    }

    /// How many lines have `text`.
    pub fn lines_with(&self, text: &str) -> usize {
        self.log.lock().expect("log").iter().filter(|line| line.contains(text)).count()
    }

    /// All lines so far, but for those that this causes: a signal that does nothing but be logged comes after whatever
    /// was written before it.
    pub fn lines(&self) -> Vec<String> {
        const MARK: &str = "SIGUSR2 is ignored";
        let before = self.lines_with(MARK);
        self.signal(Signal::USR2);
        until("the mark", || (self.lines_with(MARK) > before).then_some(()));
        self.log.lock().expect("log").iter().filter(|line| !line.contains(MARK)).cloned().collect()
    }

    /// Has a line with `text` been logged?
    pub fn logged(&self, text: &str) -> bool {
        self.log.lock().expect("log").iter().any(|line| line.contains(text))
    }
}

const API_KEY: &[(&str, &str)] = &[("X-API-Key", KEY)];

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the server's log:\n{}", self.log.lock().map(|log| log.join("\n")).unwrap_or_default());
        }
    }
}

/// Keeps the log, and tells the addresses when the server says them.
fn read_log(stderr: ChildStderr, log: Arc<Mutex<Vec<String>>>) -> Receiver<(SocketAddr, [Option<SocketAddr>; 4])> {
    let (tell, listening) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if let Ok(Value::Object(said)) = serde_json::from_str(&line)
                && said.get("message").is_some_and(|message| message == "listening")
            {
                let address = |key: &str| said.get(key).and_then(Value::as_str)?.parse::<SocketAddr>().ok();
                let others = ["internal", "grpc", "uni_grpc", "tcp_line"].map(address);
                let _ = tell.send((address("address").expect("an address"), others));
            }
            log.lock().expect("log").push(line);
        }
    });
    listening
}
