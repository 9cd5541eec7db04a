//! What a development cloud is made of, and where its things are.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use rand::Rng as _;
use serde::{Deserialize, Serialize};

use crate::devhost::{Host, Network};
use crate::paths::{Paths, short_hash};

/// What carries the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hypervisor {
    /// Real guests, by libvirt.
    Libvirt,
    /// Guests that exist in memory only.
    Simulated,
}

/// The database of a distributed cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Database {
    /// PostgreSQL.
    Postgres,
    /// MariaDB.
    Mariadb,
}

/// How the eight services run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// In one process: SQLite, files, a bus within.
    Embedded,
    /// As eight processes over RabbitMQ.
    Distributed(Database),
}

/// A development cloud; kept, so that `down` and `status` know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// How the services run.
    pub shape: Shape,
    /// What carries servers.
    pub hypervisor: Hypervisor,
    /// How many hosts, if they are simulated.
    pub hosts: u32,
    /// Floating IPs come from here.
    pub network: String,
    /// Added to every usual port.
    pub port_offset: u16,
    /// Somebody else's broker, in place of an own one.
    #[serde(default)]
    pub amqp_url: Option<String>,
    /// Somebody else's databases, `{service}` in their name.
    #[serde(default)]
    pub database_url: Option<String>,
}

impl Settings {
    /// A short word for each kind of cloud; each keeps data of its own, since
    /// rows in one database and disks of another make no sense together.
    pub fn kind(&self) -> String {
        let mut kind = match self.shape {
            Shape::Embedded => "embedded",
            Shape::Distributed(Database::Postgres) => "postgres",
            Shape::Distributed(Database::Mariadb) => "mariadb",
        }
        .to_owned();
        if let Some(url) = &self.database_url {
            kind.push_str(&format!("-{}", short_hash(Path::new(url))));
        }
        if self.hypervisor == Hypervisor::Simulated {
            kind.push_str("-simulated");
        }
        kind
    }

    /// The network of floating IPs.
    pub fn network(&self) -> Result<Network> {
        self.network.parse()
    }

    /// A usual port, moved.
    pub fn port(&self, usual: u16) -> u16 {
        usual.saturating_add(self.port_offset)
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self, usual: u16) -> String {
        format!("http://127.0.0.1:{}", self.port(usual))
    }
}

/// The folders and files of the development cloud.
#[derive(Debug, Clone)]
pub struct Folders {
    /// `.yakumo`.
    pub top: PathBuf,
    /// What belongs to this kind of cloud: `.yakumo/embedded`.
    pub kind: PathBuf,
}

impl Folders {
    /// Those of a cloud with these settings; not made yet.
    pub fn of(paths: &Paths, settings: &Settings) -> Self {
        let top = paths.state.clone();
        Self {
            kind: top.join(settings.kind()),
            top,
        }
    }

    /// Makes the folders. Others on the machine have no business in them.
    pub fn make(&self) -> Result<()> {
        for folder in [
            &self.top,
            &self.kind,
            &self.run(),
            &self.log(),
            &self.secrets(),
            &self.ssh(),
        ] {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        // PostgreSQL's own user walks through.
        fs::set_permissions(&self.top, fs::Permissions::from_mode(0o711))?;
        for folder in [self.secrets(), self.ssh()] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    }

    /// Databases, images, disks.
    pub fn data(&self) -> PathBuf {
        self.kind.join("data")
    }

    /// One log per process.
    pub fn log(&self) -> PathBuf {
        self.kind.join("log")
    }

    /// Who runs, and sockets; a short path, since sockets' names are.
    pub fn run(&self) -> PathBuf {
        self.top.join("run")
    }

    /// Generated passwords and keys.
    pub fn secrets(&self) -> PathBuf {
        self.kind.join("secrets")
    }

    /// The key pair for servers.
    pub fn ssh(&self) -> PathBuf {
        self.top.join("ssh")
    }

    /// The host's namespaces and disk.
    pub fn host(&self, network: Network) -> Result<Host> {
        Host::new(
            &format!("yakumo-{}", short_hash(&self.top)),
            &self.kind.join("host"),
            network,
        )
    }

    /// What all processes of this cloud carry in their environment, and what
    /// they start inherits.
    pub fn mark(&self) -> (&'static str, String) {
        ("DEVELOPMENT_CLOUD", self.top.display().to_string())
    }

    /// A password or key that is made once.
    pub fn secret(&self, name: &str) -> Result<String> {
        let file = self.secrets().join(name);
        if let Ok(text) = fs::read_to_string(&file) {
            return Ok(text.trim().to_owned());
        }
        let mut rng = rand::rng();
        let secret: String = (0..24)
            .map(|_| char::from(rng.sample(rand::distr::Alphanumeric)))
            .collect();
        write_private(&file, &secret)?;
        Ok(secret)
    }
}

/// Writes a file that its owner alone may read, whole or not at all.
pub fn write_private(file: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut fresh = file.as_os_str().to_owned();
    fresh.push(".part");
    let fresh = PathBuf::from(fresh);
    let mut handle = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .with_context(|| format!("cannot write {}", fresh.display()))?;
    handle.write_all(text.as_bytes())?;
    handle.sync_all()?;
    fs::rename(&fresh, file)?;
    Ok(())
}
