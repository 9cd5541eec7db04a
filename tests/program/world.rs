//! The program with a folder of its own: run to its end, or left running.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take before a test gives up on it.
pub const BOUND: Duration = Duration::from_secs(60);

pub const PASSWORD: &str = "correct horse battery";

/// A folder with a configuration.
pub struct World {
    folder: tempfile::TempDir,
}

/// What a command said.
pub struct Said {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl World {
    /// One whose configuration is this, with `FOLDER` for where it is.
    pub fn with(config: &str) -> Self {
        let world = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let config = config.replace("FOLDER", world.path().to_str().unwrap());
        std::fs::write(world.file(), config).unwrap();
        world
    }

    /// A cloud on SQLite that listens on any free ports, with simulated hosts.
    pub fn small() -> Self {
        let password = PASSWORD;
        Self::with(&format!(
            r#"
            data_dir = "FOLDER"
            ops.listen = "127.0.0.1:0"
            telemetry.log.format = "json"
            [database]
            sqlite_durable = false
            [identity]
            listen = "127.0.0.1:0"
            password.memory_kib = 256
            bootstrap.admin_password = "{password}"
            [image]
            listen = "127.0.0.1:0"
            grpc.listen = "127.0.0.1:0"
            [object_store]
            listen = "127.0.0.1:0"
            [api]
            compute_listen = "127.0.0.1:0"
            network_listen = "127.0.0.1:0"
            volume_listen = "127.0.0.1:0"
            metadata_listen = "127.0.0.1:0"
            [compute]
            driver = "simulated"
            [network.host]
            driver = "simulated"
            [volume.host]
            driver = "simulated"
            "#
        ))
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn file(&self) -> PathBuf {
        self.path().join("yakumo.toml")
    }

    /// The program, ready to be given its command.
    #[allow(clippy::disallowed_methods)]
    pub fn program(&self) -> Command {
        let mut program = Command::new(env!("CARGO_BIN_EXE_yakumo"));
        program.env_clear().arg("--config").arg(self.file());
        program
    }

    /// Runs a command to its end.
    pub fn run(&self, words: &[&str]) -> Said {
        said(self.program().args(words))
    }

    /// Starts services.
    pub fn start(&self, words: &[&str]) -> Running {
        Running::start(self.program().args(words))
    }
}

/// Runs a command to its end.
pub fn said(command: &mut Command) -> Said {
    let output = command.output().unwrap();
    Said {
        status: output.status,
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Waits until `found` finds something.
#[allow(clippy::disallowed_methods)]
pub fn wait<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(began.elapsed() < BOUND, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A running program whose log is listened to; killed when it is dropped.
pub struct Running {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let (log, err) = (Arc::clone(&lines), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(err).lines() {
                log.lock().unwrap().push(line.unwrap());
            }
        });
        Self { child, lines }
    }

    /// Every line that was logged so far.
    pub fn lines(&self) -> Vec<Value> {
        let lines = self.lines.lock().unwrap();
        lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
            .collect()
    }

    /// Waits for a line that is as wanted.
    pub fn line(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        wait(what, || {
            let found = self.lines().into_iter().find(|line| is_it(line));
            if found.is_none()
                && let Some(status) = self.child.try_wait().unwrap()
            {
                panic!("{what}: it ended with {status}: {:#?}", self.lines());
            }
            found
        })
    }

    /// Waits until everything has started.
    pub fn ready(&mut self) {
        self.line("ready", |line| line["message"] == "ready");
    }

    /// Where the operators' listener listens.
    pub fn ops(&mut self) -> String {
        self.address("metrics and health are served", &Value::Null)
    }

    /// Where a service's only REST API listens.
    pub fn rest(&mut self, service: &str) -> String {
        self.address("listening", &service.into())
    }

    fn address(&mut self, message: &str, service: &Value) -> String {
        let line = self.line(message, |line| {
            line["message"] == message && line["service"] == *service
        });
        line["address"].as_str().unwrap().to_owned()
    }

    #[allow(clippy::disallowed_methods)]
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        wait("its end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An HTTP request with nothing but what is told, and its answer.
pub struct Answer {
    pub status: u16,
    head: String,
    pub body: String,
}

impl Answer {
    /// Reads all of it.
    pub fn read(stream: &mut impl Read) -> std::io::Result<Self> {
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        Ok(Self {
            status: head
                .split(' ')
                .nth(1)
                .and_then(|it| it.parse().ok())
                .unwrap_or_default(),
            head: head.to_owned(),
            body: body.to_owned(),
        })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }
}

/// The text of a request without its body.
pub fn head(method: &str, path: &str, token: &str, length: usize) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\nx-auth-token: {token}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
}

/// Asks, as whoever has the token.
pub fn ask_as(
    token: &str,
    address: &str,
    method: &str,
    path: &str,
    body: &str,
) -> std::io::Result<Answer> {
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(BOUND))?;
    stream.write_all(head(method, path, token, body.len()).as_bytes())?;
    stream.write_all(body.as_bytes())?;
    Answer::read(&mut stream)
}

/// Asks without a token.
pub fn ask(address: &str, method: &str, path: &str, body: &str) -> std::io::Result<Answer> {
    ask_as("", address, method, path, body)
}

/// What the admin logs in with.
pub fn log_in() -> String {
    let domain = serde_json::json!({"name": "Default"});
    serde_json::json!({"auth": {
        "identity": {"methods": ["password"], "password": {"user": {
            "name": "admin", "domain": domain, "password": PASSWORD,
        }}},
        "scope": {"project": {"name": "admin", "domain": domain}},
    }})
    .to_string()
}
