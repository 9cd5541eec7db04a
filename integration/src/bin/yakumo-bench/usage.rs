//! What processes have used, by what the kernel says of them. Only those that
//! this program started, directly or not.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use yakumo_integration::programs;

/// The kernel counts CPU time for programs in hundredths of a second.
const TICK: f64 = 0.01;

/// The kernel keeps so many bytes of a program's name.
const NAME: usize = 15;

/// Whose a process is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    Cloud,
    Broker,
    Database,
}

struct Seen {
    pid: u32,
    parent: u32,
    name: String,
    ticks: u64,
}

fn look(pid: u32) -> Option<Seen> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    // The fields from the third, the state, on.
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let field = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Seen {
        pid,
        parent: u32::try_from(field(1)?).ok()?,
        name,
        ticks: field(11)? + field(12)?,
    })
}

/// The processes of the cloud, the broker and the database.
fn known() -> Result<Vec<(Whose, Seen)>> {
    let program = programs::yakumo()?;
    let program = program.file_name().context("a program without a name")?;
    let program = program.as_encoded_bytes();
    let program = program.get(..NAME).unwrap_or(program);
    let whose = |seen: Seen| {
        let whose = match seen.name.as_str() {
            name if name.as_bytes() == program => Whose::Cloud,
            "postgres" | "mariadbd" => Whose::Database,
            name if name.contains("beam") || name.starts_with("erl") => Whose::Broker,
            _ => return None,
        };
        Some((whose, seen))
    };
    Ok(descendants()?.into_iter().filter_map(whose).collect())
}

fn descendants() -> Result<Vec<Seen>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        if let Some(seen) = name.to_str().and_then(|it| it.parse().ok()).and_then(look) {
            all.push(seen);
        }
    }
    let mut ours = vec![std::process::id()];
    let mut found = Vec::new();
    while let Some(parent) = ours.pop() {
        let (children, rest): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|seen| seen.parent == parent);
        all = rest;
        ours.extend(children.iter().map(|child| child.pid));
        found.extend(children);
    }
    Ok(found)
}

/// CPU seconds used so far: of the cloud, the broker and the database.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    pub cloud: f64,
    pub broker: f64,
    pub database: f64,
}

impl Cpu {
    /// Up to now.
    pub fn now() -> Result<Self> {
        let mut ticks: BTreeMap<Whose, u64> = BTreeMap::new();
        for (whose, seen) in known()? {
            *ticks.entry(whose).or_default() += seen.ticks;
        }
        #[allow(clippy::cast_precision_loss)]
        let seconds = |whose| ticks.get(&whose).copied().unwrap_or_default() as f64 * TICK;
        Ok(Self {
            cloud: seconds(Whose::Cloud),
            broker: seconds(Whose::Broker),
            database: seconds(Whose::Database),
        })
    }

    /// What was used since.
    pub fn since(self) -> Result<Self> {
        let now = Self::now()?;
        Ok(Self {
            cloud: now.cloud - self.cloud,
            broker: now.broker - self.broker,
            database: now.database - self.database,
        })
    }
}

/// What one service, the broker or the database uses.
#[derive(Debug, Clone, Copy, Default)]
pub struct Used {
    /// CPU seconds so far.
    pub cpu: f64,
    /// MiB of memory; what processes share counts once.
    pub memory: f64,
}

/// What everything uses, by the services' names, `broker` and `database`.
pub fn by_service() -> Result<BTreeMap<String, Used>> {
    let mut all: BTreeMap<String, Used> = BTreeMap::new();
    for (whose, seen) in known()? {
        let name = match whose {
            Whose::Cloud => last_argument(seen.pid).unwrap_or_default(),
            Whose::Database => "database".into(),
            Whose::Broker => "broker".into(),
        };
        let used = all.entry(name).or_default();
        #[allow(clippy::cast_precision_loss)]
        let cpu = seen.ticks as f64 * TICK;
        used.cpu += cpu;
        // A process that has just ended uses nothing.
        used.memory += mebibytes(&format!("/proc/{}/smaps_rollup", seen.pid), "Pss").unwrap_or(0.0);
    }
    Ok(all)
}

/// A service is named last on its command line.
fn last_argument(pid: u32) -> Option<String> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    let last = line.trim_end_matches('\0').rsplit('\0').next()?;
    Some(last.to_owned())
}

/// CPU seconds that this program itself has used.
pub fn own() -> Result<f64> {
    let seen = look(std::process::id()).context("this process is not to be seen")?;
    #[allow(clippy::cast_precision_loss)]
    Ok(seen.ticks as f64 * TICK)
}

fn status(pid: u32, key: &str) -> Result<f64> {
    mebibytes(&format!("/proc/{pid}/status"), key)
}

fn mebibytes(file: &str, key: &str) -> Result<f64> {
    let text = std::fs::read_to_string(file)?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .with_context(|| format!("no {key} in {file}"))?;
    let kib: f64 = line
        .trim_start_matches(':')
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()?;
    Ok(kib / 1024.0)
}

/// MiB of memory that are resident.
pub fn resident(pid: u32) -> Result<f64> {
    status(pid, "VmRSS")
}

/// The most MiB that were resident since [`forget_peak`].
pub fn peak(pid: u32) -> Result<f64> {
    status(pid, "VmHWM")
}

/// Begins the peak anew.
pub fn forget_peak(pid: u32) -> Result<()> {
    Ok(std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}
