//! A RabbitMQ node of one's own: its own ports, data, cookie and port mapper,
//! gone without a trace when it is dropped or when the process that started it
//! ends, in whatever way: a shell that watches over the node reads orders from
//! a pipe, and the end of the pipe is the order to clear up.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use yakumo_rpc::broker_user_for_host;

use crate::ports;

/// Debian's wrappers in `/usr/sbin` change the user; these do not.
const BIN: &str = "/usr/lib/rabbitmq/bin";
const READY_BOUND: Duration = Duration::from_secs(120);

/// Keeps a node: `start`, `term` (orderly), `kill` (at once); end of input ends all.
const KEEPER: &str = r#"
epmd -port "$ERL_EPMD_PORT" -address 127.0.0.1 >"$HOME/epmd.log" 2>&1 &
epmd=$!
node=
end_node() {
    [ -n "$node" ] || return 0
    kill -"$1" "$node" 2>/dev/null
    wait "$node" 2>/dev/null
    node=
    rm -f "$HOME/node"
}
while read -r order; do
    case "$order" in
        start) "$BIN/rabbitmq-server" >>"$HOME/server.log" 2>&1 </dev/null & node=$!; echo "$node" >"$HOME/node" ;;
        term) end_node TERM; : >"$HOME/ended" ;;
        kill) end_node KILL; : >"$HOME/ended" ;;
    esac
done
end_node KILL
kill -KILL "$epmd" 2>/dev/null
cd /
rm -rf "$HOME"
"#;

/// A private RabbitMQ node.
pub struct Broker {
    folder: PathBuf,
    variables: Vec<(&'static str, String)>,
    port: u16,
    tls_port: u16,
    management_port: u16,
    keeper: Mutex<Keeper>,
}

/// Whether a node serves its management over HTTP, which makes it start later.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Managed {
    Yes,
    No,
}

struct Keeper {
    child: Child,
    orders: Option<ChildStdin>,
}

impl Broker {
    /// Starts a node and waits until it takes connections (about 10 s).
    ///
    /// Fails, with the reason, where `rabbitmq-server` is not installed: tests
    /// that need a broker must not pass without one.
    pub async fn start() -> Result<Self> {
        Self::start_as(Managed::No).await
    }

    /// The same, with its management over HTTP ([`Broker::management_url`]).
    pub async fn start_managed() -> Result<Self> {
        let broker = Self::start_as(Managed::Yes).await?;
        let ready = async {
            while TcpStream::connect(("127.0.0.1", broker.management_port))
                .await
                .is_err()
            {
                pause(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(READY_BOUND, ready)
            .await
            .context("RabbitMQ's management did not start")?;
        Ok(broker)
    }

    async fn start_as(managed: Managed) -> Result<Self> {
        let mut result = Self::try_start(managed).await;
        // Another process can still have been faster at one of the ports.
        for _ in 0..2 {
            if result.is_err() {
                result = Self::try_start(managed).await;
            }
        }
        result
    }

    #[allow(clippy::disallowed_methods)]
    async fn try_start(managed: Managed) -> Result<Self> {
        ensure!(
            PathBuf::from(BIN).join("rabbitmq-server").exists(),
            "rabbitmq-server is not installed (apt-get install rabbitmq-server)"
        );
        let folder = tempfile::Builder::new()
            .prefix("yakumo-rabbitmq-")
            .tempdir()?
            .keep();
        let [port, tls_port, dist_port, epmd_port, management_port] = ports::free()?;
        write_certificates(&folder)?;
        let (plugins, settings) = match managed {
            Managed::Yes => (
                "[rabbitmq_management].\n",
                format!(
                    "management.tcp.ip = 127.0.0.1\n\
                     management.tcp.port = {management_port}\n"
                ),
            ),
            Managed::No => ("[].\n", String::new()),
        };
        std::fs::write(folder.join("plugins"), plugins)?;
        std::fs::write(
            folder.join("rabbitmq.conf"),
            format!(
                "listeners.tcp.default = 127.0.0.1:{port}\n\
                 listeners.ssl.default = 127.0.0.1:{tls_port}\n\
                 ssl_options.cacertfile = {folder}/ca.pem\n\
                 ssl_options.certfile = {folder}/broker.pem\n\
                 ssl_options.keyfile = {folder}/broker.key\n\
                 loopback_users = none\n\
                 disk_free_limit.absolute = 1MB\n\
                 log.file.level = warning\n\
                 {settings}",
                folder = folder.display()
            ),
        )?;
        let text = |name: &str| folder.join(name).display().to_string();
        let variables = vec![
            ("BIN", BIN.to_owned()),
            ("HOME", folder.display().to_string()),
            ("ERL_EPMD_PORT", epmd_port.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_NODENAME", format!("yakumo{port}@localhost")),
            ("RABBITMQ_DIST_PORT", dist_port.to_string()),
            ("RABBITMQ_MNESIA_BASE", text("data")),
            ("RABBITMQ_LOG_BASE", text("log")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", text("plugins")),
            ("RABBITMQ_CONFIG_FILE", text("rabbitmq.conf")),
            // The starter then becomes the node, so that its id is the node's.
            ("RUNNING_UNDER_SYSTEMD", "1".to_owned()),
            // Two schedulers are plenty for a test, and start faster.
            (
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "+S 2:2 +A 8".to_owned(),
            ),
        ];
        let mut child = Command::new("/bin/sh")
            .args(["-c", KEEPER])
            .envs(variables.iter().map(|(key, value)| (key, value)))
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("the shell that keeps the broker")?;
        let orders = child.stdin.take();
        let broker = Self {
            folder,
            variables,
            port,
            tls_port,
            management_port,
            keeper: Mutex::new(Keeper { child, orders }),
        };
        broker.resume().await?;
        Ok(broker)
    }

    fn order(&self, order: &str) -> Result<()> {
        let Ok(mut keeper) = self.keeper.lock() else {
            bail!("the keeper is gone");
        };
        let orders = keeper.orders.as_mut().context("the keeper is gone")?;
        orders.write_all(format!("{order}\n").as_bytes())?;
        orders.flush()?;
        Ok(())
    }

    /// Starts the node again after [`Broker::stop`] or [`Broker::kill`].
    pub async fn resume(&self) -> Result<()> {
        self.order("start")?;
        let ready = async {
            while !self.answers().await && !self.has_died() {
                pause(Duration::from_millis(100)).await;
            }
        };
        let in_time = tokio::time::timeout(READY_BOUND, ready).await.is_ok();
        if !in_time || self.has_died() {
            let log = std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
            bail!("RabbitMQ did not start:\n{log}");
        }
        Ok(())
    }

    /// Whether the node ended without being told to.
    fn has_died(&self) -> bool {
        let Ok(pid) = std::fs::read_to_string(self.folder.join("node")) else {
            return false;
        };
        std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
            .map_or(true, |stat| stat.contains(") Z "))
    }

    /// Whether something speaks AMQP on our port.
    async fn answers(&self) -> bool {
        let talk = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
            stream.write_all(b"AMQP\x00\x00\x09\x01").await.ok()?;
            let mut first = [0];
            stream.read_exact(&mut first).await.ok()?;
            Some(first[0] == 1)
        };
        let bound = Duration::from_secs(5);
        tokio::time::timeout(bound, talk).await.ok().flatten() == Some(true)
    }

    /// Stops the node in an orderly way; its data stays.
    pub async fn stop(&self) -> Result<()> {
        self.end("term").await
    }

    /// Ends the node at once, as a power cut would; its data stays.
    pub async fn kill(&self) -> Result<()> {
        self.end("kill").await
    }

    async fn end(&self, order: &str) -> Result<()> {
        let ended = self.folder.join("ended");
        let _ = std::fs::remove_file(&ended);
        self.order(order)?;
        let gone = async {
            while !ended.exists() {
                pause(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(READY_BOUND, gone)
            .await
            .context("RabbitMQ did not end")
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL for the user that may do everything.
    pub fn url(&self) -> String {
        self.url_for("guest", "guest")
    }

    /// The URL for another user.
    pub fn url_for(&self, user: &str, password: &str) -> String {
        format!("amqp://{user}:{password}@127.0.0.1:{}/%2f", self.port)
    }

    /// The URL, over TLS, for the user that may do everything.
    pub fn tls_url(&self) -> String {
        format!("amqps://guest:guest@localhost:{}/%2f", self.tls_port)
    }

    /// The management over HTTP of one that was started with it, where
    /// `guest` with the password `guest` may do everything.
    pub fn management_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.management_port)
    }

    /// The certificate (PEM) that vouches for the broker's.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Runs `rabbitmqctl` (over a second each) and returns what it prints.
    #[allow(clippy::disallowed_methods)]
    pub async fn ctl(&self, arguments: &[&str], input: Option<&str>) -> Result<String> {
        let mut child = tokio::process::Command::new(format!("{BIN}/rabbitmqctl"))
            .args(arguments)
            .envs(self.variables.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("rabbitmqctl")?;
        if let Some(mut pipe) = child.stdin.take() {
            pipe.write_all(input.unwrap_or_default().as_bytes()).await?;
        }
        let output = tokio::time::timeout(READY_BOUND, child.wait_with_output())
            .await
            .context("rabbitmqctl did not end")??;
        ensure!(
            output.status.success(),
            "rabbitmqctl {}: {}{}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Makes a host's user with a host's rights, and returns its URL.
    pub async fn add_host(&self, name: &str, password: &str) -> Result<String> {
        let user = broker_user_for_host(name, "/")?;
        let words = |words: &[String]| -> Vec<String> { words.to_vec() };
        let add = words(&user.add);
        let add: Vec<&str> = add.iter().map(String::as_str).collect();
        self.ctl(&add, Some(&format!("{password}\n"))).await?;
        for permission in &user.permissions {
            let permission: Vec<&str> = permission.iter().map(String::as_str).collect();
            self.ctl(&permission, None).await?;
        }
        Ok(self.url_for(&user.user, password))
    }
}

/// An authority, and a certificate for `localhost` under it.
fn write_certificates(folder: &Path) -> Result<()> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let broker = CertificateParams::new(vec!["localhost".to_owned()])?;
    let broker = broker.signed_by(&key, &authority)?;
    std::fs::write(folder.join("ca.pem"), authority.pem())?;
    std::fs::write(folder.join("broker.pem"), broker.pem())?;
    std::fs::write(folder.join("broker.key"), key.serialize_pem())?;
    Ok(())
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Ok(mut keeper) = self.keeper.lock() {
            keeper.orders = None;
            let _ = keeper.child.wait();
        }
    }
}

#[allow(clippy::disallowed_methods)]
async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}
