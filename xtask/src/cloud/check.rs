//! `up` and `down`, seen from outside as a person would call them: what they
//! bring, that they can be repeated, and that the machine is afterwards as it
//! was before. The clouds of this check keep everything in a folder of their
//! own and listen on ports of their own, so that a developer's stays as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rand::Rng as _;

use super::config::{OPS_PORT, ports};
use crate::paths::Paths;
use crate::processes;
use crate::run::{Run, wait_for};
use crate::test::linting;
use crate::ui::{self, Step, step};

/// A command that takes longer hangs.
const BOUND: &str = "600";

/// A second `up` has nothing to do but to look.
const QUICK: Duration = Duration::from_secs(60);

/// Checks the cloud without guests, and the one that `up` brings by itself.
/// Gives the number of checks that passed.
pub fn check(paths: &Paths) -> Result<u64> {
    let check = Check::new(paths)?;
    let result = check.all();
    if result.is_err() {
        // What failed stands above; nothing of it may stay.
        if let Err(error) = check.clear() {
            ui::say(&format!("  ! {error:#}"));
        }
    }
    result
}

struct Check<'a> {
    paths: &'a Paths,
    state: PathBuf,
    offset: u16,
    network: String,
    before: Snapshot,
}

impl<'a> Check<'a> {
    fn new(paths: &'a Paths) -> Result<Self> {
        let state = paths.target.join("up");
        let check = Self {
            paths,
            offset: free_offset()?,
            network: free_network()?,
            before: Snapshot::take()?,
            state,
        };
        // What a run that was killed has left.
        check.clear()?;
        Ok(Self {
            before: Snapshot::take()?,
            ..check
        })
    }

    fn all(&self) -> Result<u64> {
        let offset = self.offset.to_string();
        let simulated = ["up", "--hypervisor", "simulated", "--port-offset", &offset];
        step("up, without guests", |step| {
            self.xtask(step, &simulated).map(drop)
        })?;
        step("what clients find", |_| self.clients())?;
        // From here on the program as it is now: somebody may be editing.
        let again: Vec<&str> = simulated.into_iter().chain(["--no-build"]).collect();
        step("up again", |step| self.again(step, &again))?;
        step("down", |step| {
            self.xtask(step, &["down"])?;
            ensure!(
                self.state.join("embedded-simulated/data").exists(),
                "the data is gone"
            );
            self.left_as_found()
        })?;

        let network = &self.network;
        let real = [
            "up",
            "--no-build",
            "--port-offset",
            &offset,
            "--network",
            network,
        ];
        let said = step("up, with a first server", |step| self.xtask(step, &real))?;
        step("into the first server", |_| self.first_server(&said))?;
        step("down with its data", |step| {
            let namespaces = self.namespaces()?;
            ensure!(!namespaces.is_empty(), "the host has no namespaces");
            self.xtask(step, &["down", "--purge"])?;
            ensure!(!self.state.exists(), "the data is still there");
            let left = processes::find(|folder| {
                ["net", "pid"].iter().any(|kind| {
                    processes::namespace(folder, kind).is_some_and(|it| namespaces.contains(&it))
                })
            })?;
            ensure!(left.is_empty(), "{left:?} live on in the host");
            self.left_as_found()
        })?;
        Ok(7)
    }

    fn clear(&self) -> Result<()> {
        step("clearing up", |step| {
            self.xtask(step, &["down", "--purge"]).map(drop)
        })
    }

    /// Runs this program as a person does; gives what it said.
    fn xtask(&self, step: &Step, arguments: &[&str]) -> Result<String> {
        // Not this process's own file: building the tests may have replaced it.
        let program = self.paths.target.join("debug/xtask").display().to_string();
        let state = self.state.display().to_string();
        let mut all = vec!["--kill-after=30", BOUND, &program];
        all.extend(arguments);
        all.extend(["--state", &state]);
        let mut said = String::new();
        Run::new("timeout", all)
            .dir(&self.paths.root)
            // As all is built already.
            .envs(linting())
            .log(&self.paths.log())
            .lines(|line| {
                step.detail(line.trim());
                said.push_str(line);
                said.push('\n');
            })?;
        Ok(said)
    }

    /// The files with credentials are private, and the client works by each.
    fn clients(&self) -> Result<()> {
        for name in [
            "openrc",
            "openrc-demo",
            "clouds.yaml",
            "settings.json",
            "run/all.process",
        ] {
            let file = self.state.join(name);
            let mode = fs::metadata(&file)
                .with_context(|| file.display().to_string())?
                .permissions()
                .mode();
            ensure!(mode & 0o777 == 0o600, "{name} has the mode {mode:o}");
        }
        let client = self.paths.python_clients().join("bin/openstack");
        let client = client.display().to_string();
        for cloud in ["yakumo-admin", "yakumo"] {
            let said = Run::new(
                &client,
                ["--os-cloud", cloud, "image", "list", "-f", "value"],
            )
            .env("OS_CLIENT_CONFIG_FILE", self.state.join("clouds.yaml"))
            .text()?;
            ensure!(said.contains(" active"), "{cloud}: {said}");
        }
        for (file, server) in [("openrc", "first"), ("openrc-demo", "")] {
            let script = format!(
                ". {}/{file} && {client} server list -f value -c Name -c Status",
                self.state.display()
            );
            let said = Run::new("sh", ["-c", &script]).text()?;
            let wanted = if server.is_empty() {
                String::new()
            } else {
                format!("{server} ACTIVE")
            };
            ensure!(said.trim() == wanted, "{file}: {said}");
        }
        Ok(())
    }

    fn again(&self, step: &Step, arguments: &[&str]) -> Result<()> {
        let there = self.records()?;
        ensure!(!there.is_empty(), "nothing runs");
        let started = Instant::now();
        self.xtask(step, arguments)?;
        let took = started.elapsed();
        ensure!(took < QUICK, "it took {}", ui::seconds(took));
        ensure!(self.records()? == there, "it is another cloud");
        self.clients()
    }

    /// Who runs, as it was written down.
    fn records(&self) -> Result<BTreeMap<PathBuf, String>> {
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(self.state.join("run"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|it| it == "process") {
                let text = fs::read_to_string(&path)?;
                records.insert(path, text);
            }
        }
        Ok(records)
    }

    /// `up` has said how to get in, and that works.
    fn first_server(&self, said: &str) -> Result<()> {
        let address = said
            .lines()
            .find_map(|line| line.strip_prefix("Into the server:"))
            .and_then(|command| command.split_whitespace().last())
            .with_context(|| format!("`up` names no address: {said}"))?;
        let config = self.state.join("ssh/config").display().to_string();
        let name = Run::new(
            "ssh",
            ["-F", &config, "-o", "BatchMode=yes", address, "hostname"],
        )
        .text()?;
        ensure!(name.trim() == "first", "{address} is {name}");
        let host = self.state.join("embedded/host/log");
        ensure!(host.exists(), "there is no {}", host.display());
        Ok(())
    }

    /// Namespaces that processes of this cloud live in and others do not.
    fn namespaces(&self) -> Result<BTreeSet<u64>> {
        let own: BTreeSet<u64> = ["net", "pid"]
            .iter()
            .filter_map(|kind| processes::namespace(Path::new("/proc/self"), kind))
            .collect();
        let state = self.state.display().to_string();
        let mut found = BTreeSet::new();
        for process in processes::find(|folder| mentions(folder, &state))? {
            let folder = PathBuf::from("/proc").join(process.pid.to_string());
            found.extend(
                ["net", "pid"]
                    .iter()
                    .filter_map(|kind| processes::namespace(&folder, kind)),
            );
        }
        Ok(found.difference(&own).copied().collect())
    }

    /// The machine is as it was before.
    fn left_as_found(&self) -> Result<()> {
        let state = self.state.display().to_string();
        let processes = processes::find(|folder| mentions(folder, &state))?;
        ensure!(processes.is_empty(), "{processes:?} live on");
        super::check_ports(&all_ports(self.offset))?;
        // Interfaces and namespaces go a moment after those who used them.
        let mut difference = String::new();
        wait_for(Duration::from_secs(10), || {
            difference = self.before.difference(&Snapshot::take()?);
            Ok(difference.is_empty().then_some(()))
        })?
        .with_context(|| format!("the machine is not as it was:\n{difference}"))
    }
}

/// Whether a process was started with this in its command line or environment.
fn mentions(folder: &Path, text: &str) -> bool {
    ["cmdline", "environ"].iter().any(|file| {
        fs::read(folder.join(file))
            .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text))
    })
}

/// What a cloud could leave behind on a machine, line by line.
#[derive(Debug, PartialEq, Eq)]
struct Snapshot(BTreeMap<&'static str, BTreeSet<String>>);

impl Snapshot {
    fn take() -> Result<Self> {
        let mut all = BTreeMap::new();
        for (what, program, arguments) in [
            ("links", "ip", &["-br", "link"][..]),
            ("addresses", "ip", &["-br", "address"]),
            ("routes", "ip", &["-4", "route", "show", "table", "all"]),
            ("namespaces", "ip", &["netns", "list"]),
            ("filter rules", "iptables-save", &["-t", "filter"]),
            ("nat rules", "iptables-save", &["-t", "nat"]),
            ("mangle rules", "iptables-save", &["-t", "mangle"]),
            ("bridge rules", "ebtables-save", &[]),
            ("sets", "ipset", &["list", "-n"]),
        ] {
            let program =
                crate::run::find(program).with_context(|| format!("{program} is not installed"))?;
            let text = Run::new(program, arguments).text()?;
            // Comments hold the time, and counters count.
            let said = text
                .lines()
                .filter(|line| !line.starts_with('#'))
                .map(|line| {
                    line.split(['[', '('])
                        .next()
                        .unwrap_or(line)
                        .trim()
                        .to_owned()
                })
                .collect();
            all.insert(what, said);
        }
        all.insert("mounts", mounts()?);
        let settings = ["net/ipv4/ip_forward", "net/ipv4/conf/all/rp_filter"];
        let settings = settings.map(|name| {
            let value = fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap_or_default();
            format!("{name} = {}", value.trim())
        });
        all.insert("settings", settings.into_iter().collect());
        Ok(Self(all))
    }

    /// What came and what went, for a person; empty if nothing did.
    fn difference(&self, now: &Self) -> String {
        let mut text = String::new();
        let none = BTreeSet::new();
        for (what, before) in &self.0 {
            let after = now.0.get(what).unwrap_or(&none);
            for line in after.difference(before) {
                text.push_str(&format!("  + {what}: {line}\n"));
            }
            for line in before.difference(after) {
                text.push_str(&format!("  - {what}: {line}\n"));
            }
        }
        text
    }
}

/// Where what is mounted: the numbers of mounts change by themselves.
fn mounts() -> Result<BTreeSet<String>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let mount = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        words.get(3..5).unwrap_or_default().join(" on ")
    };
    Ok(text.lines().map(mount).collect())
}

/// The ports of a cloud in one process.
fn all_ports(offset: u16) -> Vec<u16> {
    let usual = ports::ALL.into_iter().chain([OPS_PORT]);
    usual.map(|port| port.saturating_add(offset)).collect()
}

/// An offset at which all ports are free.
fn free_offset() -> Result<u16> {
    let mut rng = rand::rng();
    for _ in 0..100 {
        let offset = rng.random_range(2_000..20_000);
        if super::check_ports(&all_ports(offset)).is_ok() {
            return Ok(offset);
        }
    }
    bail!("there are no free ports")
}

/// A network for floating IPs that the machine does not use.
fn free_network() -> Result<String> {
    let mut rng = rand::rng();
    for _ in 0..100 {
        let network = format!("172.28.{}.0/24", rng.random_range(0..=255_u8));
        let routes = ["-4", "route", "show", "table", "all", "root", &network];
        if Run::new("ip", routes).text()?.trim().is_empty() {
            return Ok(network);
        }
    }
    bail!("there is no free network")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_and_what_went_is_told() {
        let snapshot = |links: &[&str]| {
            let links = links.iter().map(|link| (*link).to_owned()).collect();
            Snapshot(BTreeMap::from([("links", links)]))
        };
        let before = snapshot(&["lo", "eth0"]);
        assert_eq!(before.difference(&snapshot(&["eth0", "lo"])), "");
        assert_eq!(
            before.difference(&snapshot(&["lo", "yk1"])),
            "  + links: yk1\n  - links: eth0\n"
        );
    }
}
