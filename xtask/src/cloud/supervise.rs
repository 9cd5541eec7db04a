//! The processes of the development cloud: started into the background with a
//! log each, remembered by more than their number, ended in order.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::settings::{Folders, write_private};
use crate::processes::{self, Process};
use crate::run;

/// What to start.
pub struct Daemon {
    /// Also names its log and its record.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its environment, besides the inherited one.
    pub environment: Vec<(String, String)>,
    /// Changes with everything that asks for a restart, like its configuration.
    pub fingerprint: String,
}

/// What is remembered of a process.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    process: Process,
    program: PathBuf,
    /// The program file's time and size when it was started.
    built: String,
    fingerprint: String,
}

/// How long a process may take to end in order.
const PATIENCE: Duration = Duration::from_secs(30);

impl Daemon {
    /// Starts it, unless the same one runs already; says whether it did.
    pub fn ensure(&self, folders: &Folders) -> Result<bool> {
        if let Some(record) = read(folders, &self.name) {
            let same = record.program == self.program
                && record.built == built(&self.program)?
                && record.fingerprint == self.fingerprint;
            if same && record.process.alive() {
                return Ok(false);
            }
            record.process.end(PATIENCE)?;
        }
        self.start(folders)?;
        Ok(true)
    }

    fn start(&self, folders: &Folders) -> Result<()> {
        fs::create_dir_all(folders.log())?;
        fs::create_dir_all(folders.run())?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log(folders))?;
        let (mark, value) = folders.mark();
        // A session of its own: the end of this terminal is not the cloud's.
        let setsid = run::find("setsid").context("setsid is not installed")?;
        let child = Command::new(setsid)
            .arg(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env(mark, value)
            .current_dir(&folders.kind)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let process = Process::of(child.id())?;
        let record = Record {
            process,
            program: self.program.clone(),
            built: built(&self.program)?,
            fingerprint: self.fingerprint.clone(),
        };
        // The configuration in it holds secrets.
        write_private(
            &record_file(folders, &self.name),
            &serde_json::to_string_pretty(&record)?,
        )?;
        Ok(())
    }

    /// Where it writes.
    pub fn log(&self, folders: &Folders) -> PathBuf {
        log_of(folders, &self.name)
    }
}

/// Whether the process of this name lives.
pub fn runs(folders: &Folders, name: &str) -> bool {
    read(folders, name).is_some_and(|record| record.process.alive())
}

/// Its number, if it lives.
pub fn pid(folders: &Folders, name: &str) -> Option<i32> {
    read(folders, name)
        .filter(|record| record.process.alive())
        .map(|record| record.process.pid)
}

/// The log of the process of this name.
pub fn log_of(folders: &Folders, name: &str) -> PathBuf {
    folders.log().join(format!("{name}.log"))
}

/// The end of a log, for an error.
pub fn log_tail(folders: &Folders, name: &str) -> String {
    let file = log_of(folders, name);
    let text = fs::read(&file).unwrap_or_default();
    let from = text.len().saturating_sub(16 * 1024);
    format!(
        "{} ends:\n{}",
        file.display(),
        run::tail(&String::from_utf8_lossy(&text[from..]))
    )
}

/// Ends the process of this name in order.
pub fn end(folders: &Folders, name: &str) -> Result<()> {
    if let Some(record) = read(folders, name) {
        record
            .process
            .end(PATIENCE)
            .with_context(|| format!("{name} does not end"))?;
    }
    let file = record_file(folders, name);
    if file.exists() {
        fs::remove_file(file)?;
    }
    Ok(())
}

/// Names of all processes that were started.
pub fn names(folders: &Folders) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folders.run())
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_suffix(".process")
                .map(str::to_owned)
        })
        .collect();
    names.sort();
    names
}

/// Ends whatever the cloud's processes have started and left behind.
pub fn end_descendants(folders: &Folders) -> Result<()> {
    let (name, value) = folders.mark();
    let mark = format!("{name}={value}");
    processes::end_all(Duration::from_secs(10), |folder| {
        processes::has_mark(folder, &mark)
    })
}

fn record_file(folders: &Folders, name: &str) -> PathBuf {
    folders.run().join(format!("{name}.process"))
}

fn read(folders: &Folders, name: &str) -> Option<Record> {
    serde_json::from_slice(&fs::read(record_file(folders, name)).ok()?).ok()
}

fn built(program: &Path) -> Result<String> {
    let data =
        fs::metadata(program).with_context(|| format!("{} is missing", program.display()))?;
    let time = data
        .modified()?
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok(format!(
        "{}.{:09} {}",
        time.as_secs(),
        time.subsec_nanos(),
        data.len()
    ))
}
