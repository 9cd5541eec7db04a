//! The agent's memory: one file for each server, and the host's own id.
//!
//! A file is replaced as a whole: written beside, flushed, put in its place, and
//! the directory flushed. So after any crash there is the old record or the new
//! one. The one before stays beside it, to be written to next: making and
//! removing files costs more than all the rest. A file that cannot be read all the same (a broken disk, an operator's
//! slip) is set aside under `quarantine/` and reported; the agent goes on
//! with the others.

mod record;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde::{Deserialize, Serialize};
use tracing::error;
use yakumo_types::{Env, HostId, ServerId};

pub use record::{Claim, FORMAT, FenceMark, Record, plugged, volumes, wish};

/// Whether a write survives a power cut or only the end of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Flushed to the disk before it counts. What real hosts use.
    Flushed,
    /// Left to the kernel. For simulated hosts, whose guests do not survive
    /// a power cut either.
    Cached,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("{what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A record could not be put into words; a defect.
    #[error("encoding the record of {0}")]
    Encode(ServerId, #[source] serde_json::Error),
    /// The blocking task was cancelled because the process ends.
    #[error("the process is ending")]
    Ending,
}

impl StoreError {
    /// Why, for the operator.
    pub fn reason(&self) -> String {
        match self {
            Self::Io { source, .. } => source.to_string(),
            other => other.to_string(),
        }
    }
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { what, path, source }
}

/// What was found at start.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Every readable record.
    pub records: Vec<Record>,
    /// Files that were set aside.
    pub quarantined: Vec<PathBuf>,
}

/// The files of one host; a cheap handle.
#[derive(Debug, Clone)]
pub struct Store {
    root: Arc<Path>,
    durability: Durability,
}

#[derive(Serialize, Deserialize)]
struct HostFile {
    host_id: HostId,
}

impl Store {
    /// Opens the store under `root`, making it if needed, and reads all of it.
    /// Blocks: call it before serving, or on a blocking thread.
    pub fn open(root: &Path, durability: Durability) -> Result<(Self, Loaded), StoreError> {
        let store = Self {
            root: root.into(),
            durability,
        };
        for folder in [store.servers(), store.quarantine()] {
            fs::create_dir_all(&folder).map_err(io_error("making", &folder))?;
        }
        let loaded = store.load()?;
        Ok((store, loaded))
    }

    fn servers(&self) -> PathBuf {
        self.root.join("servers")
    }

    fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    fn path(&self, server: ServerId) -> PathBuf {
        self.servers().join(format!("{server}.json"))
    }

    fn load(&self) -> Result<Loaded, StoreError> {
        let folder = self.servers();
        let mut loaded = Loaded::default();
        for entry in fs::read_dir(&folder).map_err(io_error("listing", &folder))? {
            let path = entry.map_err(io_error("listing", &folder))?.path();
            if path.extension() == Some(OsStr::new("new")) {
                // The record before, or a write that a crash cut off; nobody was
                // told that it happened.
                fs::remove_file(&path).map_err(io_error("removing", &path))?;
                continue;
            }
            match read_record(&path) {
                Ok(record) => loaded.records.push(record),
                Err(reason) => {
                    let aside = self.set_aside(&path)?;
                    error!(file = %aside.display(), reason, "a server's record is unreadable and was set aside");
                    loaded.quarantined.push(aside);
                }
            }
        }
        Ok(loaded)
    }

    fn set_aside(&self, path: &Path) -> Result<PathBuf, StoreError> {
        let name = path.file_name().unwrap_or(OsStr::new("record"));
        let mut aside = self.quarantine().join(name);
        let mut number = 1u32;
        while aside.exists() {
            let mut numbered = name.to_owned();
            numbered.push(format!(".{number}"));
            aside = self.quarantine().join(numbered);
            number = number.saturating_add(1);
        }
        fs::rename(path, &aside).map_err(io_error("setting aside", path))?;
        Ok(aside)
    }

    /// The host's own id: made once, then kept.
    pub fn host_id(&self, env: &Env) -> Result<HostId, StoreError> {
        let path = self.root.join("host.json");
        match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice::<HostFile>(&bytes) {
                Ok(file) => return Ok(file.host_id),
                Err(error) => {
                    let aside = self.set_aside(&path)?;
                    error!(file = %aside.display(), %error, "the host's id is unreadable; it gets a new one");
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error("reading", &path)(error)),
        }
        let host_id: HostId = env.id();
        let bytes = serde_json::to_vec(&HostFile { host_id }).map_err(|error| StoreError::Io {
            what: "encoding",
            path: path.clone(),
            source: error.into(),
        })?;
        replace(&path, &bytes, Durability::Flushed)?;
        Ok(host_id)
    }

    /// Writes a record; when this returns, it outlives a crash.
    pub async fn save(&self, record: &Record) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(record)
            .map_err(|error| StoreError::Encode(record.server_id, error))?;
        let path = self.path(record.server_id);
        let durability = self.durability;
        tokio::task::spawn_blocking(move || replace(&path, &bytes, durability))
            .await
            .map_err(|_| StoreError::Ending)?
    }

    /// Whether the disk takes a record of a server that it does not know yet.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let path = self.root.join("probe");
        let durability = self.durability;
        tokio::task::spawn_blocking(move || {
            let written = replace(&path, &[0; 16 * 1024], durability);
            for file in [path.with_extension("new"), path] {
                remove(&file)?;
            }
            written
        })
        .await
        .map_err(|_| StoreError::Ending)?
    }

    /// Removes a record; fine when there is none.
    pub async fn forget(&self, server: ServerId) -> Result<(), StoreError> {
        let path = self.path(server);
        let durability = self.durability;
        tokio::task::spawn_blocking(move || {
            remove(&path.with_extension("new"))?;
            if remove(&path)? {
                flush_folder(&path, durability)?;
            }
            Ok(())
        })
        .await
        .map_err(|_| StoreError::Ending)?
    }
}

/// Removes a file; false if there is none.
fn remove(path: &Path) -> Result<bool, StoreError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error("removing", path)(error)),
    }
}

fn read_record(path: &Path) -> Result<Record, String> {
    let named: ServerId = path
        .file_name()
        .and_then(OsStr::to_str)
        .and_then(|name| name.strip_suffix(".json"))
        .and_then(|name| name.parse().ok())
        .ok_or("the name is not a server's id")?;
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let record: Record = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    if record.format > FORMAT {
        return Err(format!("format {} is from a later release", record.format));
    }
    if record.server_id != named {
        return Err("it speaks of another server".into());
    }
    Ok(record)
}

fn replace(path: &Path, bytes: &[u8], durability: Durability) -> Result<(), StoreError> {
    let beside = path.with_extension("new");
    // Records hold tickets and user data: for the agent's eyes only.
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .map_err(io_error("making", &beside))?;
    file.write_all(bytes)
        .map_err(io_error("writing", &beside))?;
    if durability == Durability::Flushed {
        file.sync_all().map_err(io_error("flushing", &beside))?;
    }
    put_in_place(&beside, path).map_err(io_error("renaming", &beside))?;
    flush_folder(path, durability)
}

/// Swaps both names, where the second is taken and the file system can.
fn put_in_place(beside: &Path, path: &Path) -> io::Result<()> {
    let flags = RenameFlags::RENAME_EXCHANGE;
    match renameat2(AT_FDCWD, beside, AT_FDCWD, path, flags) {
        Ok(()) => Ok(()),
        Err(Errno::ENOENT | Errno::EINVAL | Errno::ENOSYS) => fs::rename(beside, path),
        Err(errno) => Err(errno.into()),
    }
}

fn flush_folder(path: &Path, durability: Durability) -> Result<(), StoreError> {
    match (durability, path.parent()) {
        (Durability::Flushed, Some(folder)) => File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(io_error("flushing", folder)),
        _ => Ok(()),
    }
}
