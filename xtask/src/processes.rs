//! Processes that are provably ours: by pid together with start time and boot,
//! by the namespace that they live in, or by a mark in their environment that
//! children inherit. Nothing is ever ended by its name.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::run::wait_for;

/// One process, so that a later one with the same pid is told apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Clock ticks from boot to its start.
    started: u64,
    /// The boot that both are counted in.
    boot: String,
}

impl Process {
    /// The process that has this number now.
    pub fn of(pid: u32) -> Result<Self> {
        let pid = i32::try_from(pid)?;
        let started = start_time(pid).with_context(|| format!("process {pid} is gone"))?;
        Ok(Self {
            pid,
            started,
            boot: boot()?,
        })
    }

    /// Whether it still lives; a zombie does not.
    pub fn alive(&self) -> bool {
        boot().is_ok_and(|boot| boot == self.boot)
            && start_time(self.pid) == Some(self.started)
            && !zombie(self.pid)
    }

    /// Sends a signal if it still lives.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.alive() {
            send(self.pid, signal)
        } else {
            Ok(())
        }
    }

    /// Asks it to end, and makes it end after `patience`.
    pub fn end(&self, patience: Duration) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        if wait_for(patience, || Ok((!self.alive()).then_some(())))?.is_some() {
            return Ok(());
        }
        self.kill()
    }

    /// Ends it at once.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        match wait_for(
            Duration::from_secs(20),
            || Ok((!self.alive()).then_some(())),
        )? {
            Some(()) => Ok(()),
            None => bail!("process {} survives SIGKILL", self.pid),
        }
    }
}

/// Every process for which `ours` holds, but this one.
pub fn find(ours: impl Fn(&Path) -> bool) -> Result<Vec<Process>> {
    let this = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        if pid == this || !ours(&entry.path()) {
            continue;
        }
        // One that ended between listing and looking is nobody's business.
        if let Ok(process) = Process::of(pid)
            && process.alive()
        {
            found.push(process);
        }
    }
    Ok(found)
}

/// Ends all that `ours` finds, again and again until none is left, since a
/// supervisor among them may start others.
pub fn end_all(patience: Duration, ours: impl Fn(&Path) -> bool) -> Result<()> {
    for process in find(&ours)? {
        process.signal(Signal::SIGTERM)?;
    }
    if wait_for(patience, || Ok(find(&ours)?.is_empty().then_some(())))?.is_some() {
        return Ok(());
    }
    let gone = wait_for(Duration::from_secs(20), || {
        let left = find(&ours)?;
        for process in &left {
            process.signal(Signal::SIGKILL)?;
        }
        Ok(left.is_empty().then_some(()))
    })?;
    match gone {
        Some(()) => Ok(()),
        None => {
            let pids: Vec<String> = find(&ours)?
                .iter()
                .map(|process| process.pid.to_string())
                .collect();
            bail!("processes {} do not end", pids.join(", "))
        }
    }
}

/// The number of the namespace of this kind (`net`, `pid`) that a process is in.
pub fn namespace(proc_folder: &Path, kind: &str) -> Option<u64> {
    fs::metadata(proc_folder.join("ns").join(kind))
        .ok()
        .map(|data| data.ino())
}

/// Whether `NAME=VALUE` stands in the environment that a process was started with.
pub fn has_mark(proc_folder: &Path, mark: &str) -> bool {
    fs::read(proc_folder.join("environ")).is_ok_and(|bytes| {
        bytes
            .split(|byte| *byte == 0)
            .any(|variable| variable == mark.as_bytes())
    })
}

fn send(pid: i32, signal: Signal) -> Result<()> {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot signal process {pid}")),
    }
}

/// Fields after the name, which is in parentheses and may hold anything.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn start_time(pid: i32) -> Option<u64> {
    stat(pid)?.get(19)?.parse().ok()
}

fn zombie(pid: i32) -> bool {
    stat(pid).is_some_and(|fields| {
        fields
            .first()
            .is_some_and(|state| state == "Z" || state == "X")
    })
}

fn boot() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("no boot id")?
        .trim()
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_known_by_more_than_its_number() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        assert!(process.alive());
        assert!(
            !Process {
                started: process.started + 1,
                ..process.clone()
            }
            .alive()
        );
        assert!(
            !Process {
                boot: "another".into(),
                ..process.clone()
            }
            .alive()
        );
        process.signal(Signal::SIGKILL).unwrap();
        wait_for(Duration::from_secs(10), || {
            Ok((!process.alive()).then_some(()))
        })
        .unwrap()
        .unwrap();
        child.wait().unwrap();
        process.signal(Signal::SIGKILL).unwrap();
    }

    #[test]
    fn marked_processes_are_found_and_ended_with_their_children() {
        let mark = format!("YAKUMO_TEST_MARK={}", std::process::id());
        let (name, value) = mark.split_once('=').unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "sleep 60 & wait"])
            .env(name, value)
            .spawn()
            .unwrap();
        wait_for(Duration::from_secs(10), || {
            Ok((find(|folder| has_mark(folder, &mark))?.len() == 2).then_some(()))
        })
        .unwrap()
        .unwrap();
        end_all(Duration::from_secs(5), |folder| has_mark(folder, &mark)).unwrap();
        assert!(find(|folder| has_mark(folder, &mark)).unwrap().is_empty());
        child.wait().unwrap();
    }
}
