//! The broker and the database of a distributed development cloud: those that
//! `up` was given, or nodes of their own from Debian's packages, on ports of
//! their own, with their data in the cloud's folder.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::settings::{Database, Folders, Settings};
use super::supervise::{self, Daemon};
use crate::paths::short_hash;
use crate::run::{self, Run, wait_for};
use crate::ui::{Step, step};

const BROKER_PORT: u16 = 5682;
const BROKER_DIST_PORT: u16 = 25682;
const EPMD_PORT: u16 = 4379;
const POSTGRES_PORT: u16 = 5442;
const MARIADB_PORT: u16 = 3316;

/// Debian's wrappers of the broker's programs change the user; these do not.
const BROKER_PROGRAMS: &str = "/usr/lib/rabbitmq/bin";

/// Services with tables; each has a database of its own.
const WITH_TABLES: [&str; 6] = [
    "identity",
    "image",
    "object_store",
    "api",
    "network",
    "volume",
];

/// Where both are.
#[derive(Debug, Clone)]
pub struct Backends {
    database: Database,
    broker_port: u16,
    database_port: u16,
    broker_password: String,
    database_password: String,
    given_broker: Option<String>,
    given_database: Option<String>,
}

/// The words of a command line as a shell would take them, of which this knows
/// spaces and single quotes.
fn words_of(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for (index, part) in line.split('\'').enumerate() {
        for (number, piece) in part.split(' ').enumerate() {
            // Within quotes a space is a space.
            match words.last_mut() {
                Some(last) if number == 0 => last.push_str(piece),
                Some(last) if index % 2 == 1 => {
                    last.push(' ');
                    last.push_str(piece);
                }
                _ => words.push(piece.to_owned()),
            }
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

impl Backends {
    /// Those of a cloud with these settings; not started yet.
    pub fn of(settings: &Settings, folders: &Folders, database: Database) -> Result<Self> {
        let usual = match database {
            Database::Postgres => POSTGRES_PORT,
            Database::Mariadb => MARIADB_PORT,
        };
        Ok(Self {
            database,
            broker_port: settings.port(BROKER_PORT),
            database_port: settings.port(usual),
            broker_password: folders.secret("broker")?,
            database_password: folders.secret("database")?,
            given_broker: settings.amqp_url.clone(),
            given_database: settings.database_url.clone(),
        })
    }

    /// Whether the broker is this cloud's own, so that its users are, too.
    pub fn has_own_broker(&self) -> bool {
        self.given_broker.is_none()
    }

    /// Control services' address on the bus.
    pub fn control_url(&self) -> String {
        if let Some(url) = &self.given_broker {
            return url.clone();
        }
        format!(
            "amqp://yakumo:{}@127.0.0.1:{}/%2f",
            self.broker_password, self.broker_port
        )
    }

    /// A host's address on the cloud's own broker.
    pub fn host_url(&self, user: &str, password: &str) -> String {
        format!(
            "amqp://{user}:{password}@127.0.0.1:{}/%2f",
            self.broker_port
        )
    }

    /// `{service}` is for the services to fill in.
    pub fn database_url(&self) -> String {
        if let Some(url) = &self.given_database {
            return url.clone();
        }
        let scheme = match self.database {
            Database::Postgres => "postgres",
            Database::Mariadb => "mysql",
        };
        format!(
            "{scheme}://yakumo:{}@127.0.0.1:{}/yakumo_{{service}}",
            self.database_password, self.database_port
        )
    }

    /// Ports that must be free.
    pub fn ports(&self, settings: &Settings) -> Vec<u16> {
        let mut ports = Vec::new();
        if self.given_broker.is_none() {
            ports.extend([
                self.broker_port,
                settings.port(BROKER_DIST_PORT),
                settings.port(EPMD_PORT),
            ]);
        }
        if self.given_database.is_none() {
            ports.push(self.database_port);
        }
        ports
    }

    /// Starts what was not given, or finds it running.
    pub fn up(&self, settings: &Settings, folders: &Folders) -> Result<()> {
        if self.given_broker.is_none() {
            let broker = Broker {
                settings,
                folders,
                backends: self,
            };
            step("starting RabbitMQ", |step| broker.up(step))?;
        }
        if self.given_database.is_some() {
            return Ok(());
        }
        match self.database {
            Database::Postgres => step("starting PostgreSQL", |step| self.postgres(folders, step)),
            Database::Mariadb => step("starting MariaDB", |step| self.mariadb(folders, step)),
        }
    }

    /// Gives the host its broker user, which reaches its own queue and the
    /// report exchange alone; gives back its name and password.
    pub fn host_user(
        &self,
        settings: &Settings,
        folders: &Folders,
        program: &Path,
        host: &str,
    ) -> Result<(String, String)> {
        let password = folders.secret("broker-host")?;
        let commands = Run::new(program, ["broker-user", host]).text()?;
        let broker = Broker {
            settings,
            folders,
            backends: self,
        };
        let mut user = None;
        for line in commands
            .lines()
            .filter_map(|line| line.strip_prefix("rabbitmqctl "))
        {
            let words = words_of(line);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            if let ["add_user", name, ..] = words.as_slice() {
                user = Some((*name).to_owned());
                // It is there when the cloud was up before; the password is the same.
                let known = broker.control(&["list_users", "--silent"]).text()?;
                if known
                    .lines()
                    .any(|line| line.split('\t').next() == Some(*name))
                {
                    continue;
                }
                broker.control(&["add_user", name, &password]).done()?;
            } else {
                broker.control(&words).done()?;
            }
        }
        let user = user.context("`yakumo broker-user` names no user")?;
        Ok((user, password))
    }

    fn postgres(&self, folders: &Folders, step: &Step) -> Result<()> {
        let programs = newest_postgres()?;
        let data = folders.kind.join("postgres");
        let account = Account::postgres()?;
        if !data.join("PG_VERSION").exists() {
            step.detail("making a cluster");
            if data.exists() {
                fs::remove_dir_all(&data)?;
            }
            fs::create_dir_all(&data)?;
            fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
            let password = data.with_extension("password");
            super::settings::write_private(&password, &self.database_password)?;
            let chown = |path: &Path| {
                std::os::unix::fs::chown(path, Some(account.user), Some(account.group))
            };
            chown(&data)?;
            chown(&password)?;
            let mut words = account.words();
            words.extend([
                programs.join("initdb").display().to_string(),
                "--username=yakumo".into(),
                "--auth=scram-sha-256".into(),
                "--encoding=UTF8".into(),
                "--locale=C.UTF-8".into(),
                format!("--pwfile={}", password.display()),
                format!("--pgdata={}", data.display()),
            ]);
            let made = Run::new("setpriv", &words).dir(Path::new("/")).done();
            fs::remove_file(&password)?;
            if made.is_err() {
                // A cluster that is half there would be taken for a whole one.
                fs::remove_dir_all(&data)?;
            }
            made?;
        }
        let mut arguments = account.words();
        arguments.extend([
            programs.join("postgres").display().to_string(),
            "-D".into(),
            data.display().to_string(),
            "-c".into(),
            format!("port={}", self.database_port),
            "-c".into(),
            "listen_addresses=127.0.0.1".into(),
            "-c".into(),
            "unix_socket_directories=".into(),
            "-c".into(),
            "max_connections=200".into(),
        ]);
        let daemon = Daemon {
            name: "postgres".into(),
            program: run::find("setpriv").context("setpriv is not installed")?,
            arguments,
            environment: vec![("LC_ALL".into(), "C.UTF-8".into())],
            fingerprint: String::new(),
        };
        daemon.ensure(folders)?;
        let psql = |base: &str, statement: &str| {
            Run::new(
                programs.join("psql"),
                [
                    "-X",
                    "-q",
                    "-A",
                    "-t",
                    "-h",
                    "127.0.0.1",
                    "-U",
                    "yakumo",
                    "-d",
                    base,
                    "-c",
                    statement,
                ],
            )
            .env("PGPORT", self.database_port.to_string())
            .env("PGPASSWORD", &self.database_password)
            .env("PGCONNECT_TIMEOUT", "5")
        };
        self.wait(folders, "postgres", step, || {
            psql("postgres", "SELECT 1").succeeds()
        })?;
        let there = psql("postgres", "SELECT datname FROM pg_database").text()?;
        for service in WITH_TABLES {
            let base = format!("yakumo_{service}");
            if !there.lines().any(|line| line == base) {
                psql("postgres", &format!("CREATE DATABASE {base}")).done()?;
            }
        }
        Ok(())
    }

    fn mariadb(&self, folders: &Folders, step: &Step) -> Result<()> {
        let data = folders.kind.join("mariadb");
        if !data.join("mysql").exists() {
            step.detail("making a data folder");
            fs::create_dir_all(&data)?;
            Run::new(
                "mariadb-install-db",
                [
                    "--no-defaults".into(),
                    "--user=root".into(),
                    "--auth-root-authentication-method=normal".into(),
                    "--skip-test-db".into(),
                    format!("--datadir={}", data.display()),
                ],
            )
            .done()?;
        }
        let mut statements = String::new();
        for service in WITH_TABLES {
            statements.push_str(&format!(
                "CREATE DATABASE IF NOT EXISTS yakumo_{service} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;\n"
            ));
        }
        let password = &self.database_password;
        statements.push_str(&format!(
            "CREATE USER IF NOT EXISTS 'yakumo'@'127.0.0.1' IDENTIFIED BY '{password}';\n\
             GRANT ALL ON `yakumo\\_%`.* TO 'yakumo'@'127.0.0.1';\n\
             ALTER USER 'root'@'localhost' IDENTIFIED BY '{password}';\n"
        ));
        let start = folders.secrets().join("mariadb.sql");
        super::settings::write_private(&start, &statements)?;
        let daemon = Daemon {
            name: "mariadb".into(),
            program: run::find("mariadbd").context("mariadbd is not installed")?,
            arguments: vec![
                "--no-defaults".into(),
                "--user=root".into(),
                format!("--datadir={}", data.display()),
                format!("--port={}", self.database_port),
                "--bind-address=127.0.0.1".into(),
                format!("--socket={}", folders.run().join("mariadb.sock").display()),
                format!("--pid-file={}", folders.run().join("mariadb.pid").display()),
                format!("--init-file={}", start.display()),
                "--skip-name-resolve".into(),
                "--max-connections=200".into(),
            ],
            environment: Vec::new(),
            fingerprint: String::new(),
        };
        daemon.ensure(folders)?;
        self.wait(folders, "mariadb", step, || {
            Run::new(
                "mariadb",
                [
                    "--no-defaults",
                    "--protocol=tcp",
                    "--host=127.0.0.1",
                    "--user=yakumo",
                    "--execute=SELECT 1",
                ],
            )
            .env("MYSQL_TCP_PORT", self.database_port.to_string())
            .env("MYSQL_PWD", password)
            .succeeds()
        })
    }

    fn wait(
        &self,
        folders: &Folders,
        name: &str,
        step: &Step,
        answers: impl Fn() -> bool,
    ) -> Result<()> {
        let ready = wait_for(Duration::from_secs(120), || {
            step.detail("waiting for its first answer");
            ensure!(
                supervise::runs(folders, name),
                "{name} has ended; {}",
                supervise::log_tail(folders, name)
            );
            Ok(answers().then_some(()))
        })?;
        ready.with_context(|| {
            format!(
                "{name} does not answer; {}",
                supervise::log_tail(folders, name)
            )
        })
    }
}

/// The newest PostgreSQL that Debian has installed here.
fn newest_postgres() -> Result<PathBuf> {
    fs::read_dir("/usr/lib/postgresql")
        .context("PostgreSQL is not installed")?
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse::<u32>().ok()?,
                entry.path(),
            ))
        })
        .map(|(version, path)| (version, path.join("bin")))
        .filter(|(_, path)| path.join("initdb").exists())
        .max()
        .map(|(_, path)| path)
        .context("PostgreSQL is not installed")
}

/// PostgreSQL refuses to run as root, and its user may not walk to a checkout
/// below root's home: it gets the one right that it needs for that.
struct Account {
    user: u32,
    group: u32,
}

impl Account {
    fn postgres() -> Result<Self> {
        let user =
            nix::unistd::User::from_name("postgres")?.context("there is no user postgres")?;
        Ok(Self {
            user: user.uid.as_raw(),
            group: user.gid.as_raw(),
        })
    }

    /// For `setpriv`.
    fn words(&self) -> Vec<String> {
        vec![
            format!("--reuid={}", self.user),
            format!("--regid={}", self.group),
            "--clear-groups".into(),
            "--inh-caps=+dac_read_search".into(),
            "--ambient-caps=+dac_read_search".into(),
        ]
    }
}

struct Broker<'a> {
    settings: &'a Settings,
    folders: &'a Folders,
    backends: &'a Backends,
}

impl Broker<'_> {
    fn environment(&self) -> Vec<(String, String)> {
        let home = self.folders.kind.join("rabbitmq");
        let text = |name: &str| home.join(name).display().to_string();
        let name = format!("yakumo-{}@localhost", short_hash(&self.folders.top));
        [
            ("HOME", home.display().to_string()),
            ("RABBITMQ_NODENAME", name),
            ("RABBITMQ_NODE_PORT", self.backends.broker_port.to_string()),
            (
                "RABBITMQ_DIST_PORT",
                self.settings.port(BROKER_DIST_PORT).to_string(),
            ),
            ("ERL_EPMD_PORT", self.settings.port(EPMD_PORT).to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_MNESIA_BASE", text("data")),
            ("RABBITMQ_LOG_BASE", text("log")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", text("plugins")),
            ("RABBITMQ_CONFIG_FILE", text("rabbitmq.conf")),
            // Its starter then becomes the node, so that its number is the node's.
            ("RUNNING_UNDER_SYSTEMD", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    fn control(&self, arguments: &[&str]) -> Run {
        let mut run = Run::new(Path::new(BROKER_PROGRAMS).join("rabbitmqctl"), arguments)
            .dir(&self.folders.kind);
        for (name, value) in self.environment() {
            run = run.env(&name, value);
        }
        run
    }

    fn up(&self, step: &Step) -> Result<()> {
        let home = self.folders.kind.join("rabbitmq");
        fs::create_dir_all(home.join("log"))?;
        fs::write(home.join("plugins"), "[].\n")?;
        super::settings::write_private(
            &home.join("rabbitmq.conf"),
            &format!(
                "listeners.tcp.default = 127.0.0.1:{}\n\
                 default_user = yakumo\n\
                 default_pass = {}\n\
                 default_permissions.configure = .*\n\
                 default_permissions.read = .*\n\
                 default_permissions.write = .*\n\
                 disk_free_limit.absolute = 64MB\n\
                 log.file.level = warning\n",
                self.backends.broker_port, self.backends.broker_password
            ),
        )?;
        let epmd = Daemon {
            name: "epmd".into(),
            program: run::find("epmd").context("epmd is not installed")?,
            arguments: [
                "-address",
                "127.0.0.1",
                "-port",
                &self.settings.port(EPMD_PORT).to_string(),
            ]
            .map(str::to_owned)
            .into(),
            environment: Vec::new(),
            fingerprint: String::new(),
        };
        epmd.ensure(self.folders)?;
        let node = Daemon {
            name: "rabbitmq".into(),
            program: Path::new(BROKER_PROGRAMS).join("rabbitmq-server"),
            arguments: Vec::new(),
            environment: self.environment(),
            fingerprint: String::new(),
        };
        node.ensure(self.folders)?;
        let ready = wait_for(Duration::from_secs(180), || {
            step.detail("waiting for its first answer");
            if !supervise::runs(self.folders, "rabbitmq") {
                bail!(
                    "RabbitMQ has ended; {}",
                    supervise::log_tail(self.folders, "rabbitmq")
                );
            }
            let open =
                std::net::TcpStream::connect(("127.0.0.1", self.backends.broker_port)).is_ok();
            Ok((open
                && self
                    .control(&["await_startup", "--timeout", "20"])
                    .succeeds())
            .then_some(()))
        })?;
        ready.with_context(|| {
            format!(
                "RabbitMQ does not answer; {}",
                supervise::log_tail(self.folders, "rabbitmq")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_read_as_a_shell_reads_it() {
        assert_eq!(
            words_of("set_permissions -p / host.a '^(a|b c)$' '^$'"),
            ["set_permissions", "-p", "/", "host.a", "^(a|b c)$", "^$"]
        );
    }
}
