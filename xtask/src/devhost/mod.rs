//! The development cloud's *host*: what would be a machine of its own in a real
//! cloud is a set of namespaces here, so that bridges, rules, DHCP servers,
//! libvirt and guests disturb nothing on this machine.
//!
//! ```text
//!   the machine                          │ network namespace NAME
//!   yk<hash> 172.24.4.1/24 ── veth ──────┼── public 172.24.4.2/24, default route back
//!   APIs on 127.0.0.1                    │   bridges, taps, dnsmasq, iptables (the network agent's)
//!   yakumo (the agents enter NAME        │ ┌ pid + mount namespace ──────────────────────────┐
//!   for what they do there)              │ │ init ─ virtlogd, libvirtd ─ every guest's QEMU  │
//!   DIR/run/libvirt/libvirt-sock ────────┼─┤ /run, /etc/libvirt, /var/*/libvirt are DIR/...  │
//!                                        │ └─────────────────────────────────────────────────┘
//! ```
//!
//! Everything is named: a network namespace `NAME`, a veth, and a folder `DIR`
//! with the host's disk (`lib`, `etc`, `log`, `cache`: kept) and its run-time
//! state (`run`, `state.json`: gone after [`Host::down`]). `down` proves that a
//! process is the host's own by its namespaces, so it also works after the
//! starter was killed, and is safe to repeat. `up` after `down` is a reboot of
//! the host.
//!
//! Nothing of the machine's is changed: no sysctl, no rule, no route but the
//! one that the veth's own address brings. Kernel modules that rules need are
//! loaded if they are not there; for the machine itself they change nothing.

pub mod init;
mod modules;

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::paths::short_hash;
use crate::processes::{self, Process};
use crate::run::{self, Run, wait_for};
use crate::ui;

/// The namespace's end of the veth: the host's public interface.
pub const PUBLIC_INTERFACE: &str = "public";

/// The network of floating IPs, if none is asked for.
pub const DEFAULT_NETWORK: &str = "172.24.4.0/24";

/// This program, also after cargo has put a newer one in its place.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// A host, up or not.
#[derive(Debug, Clone)]
pub struct Host {
    /// The network namespace.
    pub name: String,
    /// Its disk and run-time state; an absolute path.
    pub dir: PathBuf,
    /// Floating IPs come from here; a /24.
    pub network: Network,
}

/// What is written down while the host is up.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    name: String,
    init: Option<Process>,
    /// `/run/netns` was not there before this host.
    made_netns_folder: bool,
}

/// An IPv4 network of 256 addresses, given as `172.24.4.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network([u8; 3]);

impl std::str::FromStr for Network {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let address: Ipv4Addr = text
            .strip_suffix(".0/24")
            .map(|_| text.trim_end_matches("/24"))
            .with_context(|| format!("{text} is not a network like 172.24.4.0/24"))?
            .parse()
            .with_context(|| format!("{text} is not a network like 172.24.4.0/24"))?;
        let [a, b, c, _] = address.octets();
        ensure!(
            a != 0 && a != 127 && a < 224,
            "{text} cannot be used for hosts"
        );
        Ok(Self([a, b, c]))
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/24", self.address(0))
    }
}

impl Network {
    /// The address that ends in `last`.
    pub fn address(self, last: u8) -> Ipv4Addr {
        let [a, b, c] = self.0;
        Ipv4Addr::new(a, b, c, last)
    }

    /// The machine's address on the veth, and the host's gateway.
    pub fn machine(self) -> Ipv4Addr {
        self.address(1)
    }

    /// The host's own address, from which its guests' traffic leaves.
    pub fn host(self) -> Ipv4Addr {
        self.address(2)
    }
}

impl Host {
    /// A host with this name and folder.
    pub fn new(name: &str, dir: &Path, network: Network) -> Result<Self> {
        let valid = !name.is_empty()
            && name.len() <= 60
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            && !name.starts_with(['.', '-']);
        ensure!(valid, "{name:?} cannot be the name of a network namespace");
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let host = Self {
            name: name.to_owned(),
            dir: dir.canonicalize()?,
            network,
        };
        // A unix socket's path holds 107 bytes.
        let longest = host.socket();
        ensure!(
            longest.as_os_str().len() < 100,
            "{} is too long a path for a socket; choose a folder nearer to the root",
            longest.display()
        );
        Ok(host)
    }

    /// The machine's end of the veth; an interface name holds 15 bytes.
    pub fn veth(&self) -> String {
        format!("yk{}", short_hash(Path::new(&self.name)))
    }

    /// libvirt's socket, reachable from the machine.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/libvirt/libvirt-sock")
    }

    /// What libvirt clients on the machine connect to.
    pub fn libvirt_uri(&self) -> String {
        format!("qemu:///system?socket={}", self.socket().display())
    }

    fn namespace_file(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    fn state_file(&self) -> PathBuf {
        self.dir.join("state.json")
    }

    fn state(&self) -> Option<State> {
        serde_json::from_slice(&fs::read(self.state_file()).ok()?).ok()
    }

    fn save(&self, state: &State) -> Result<()> {
        let fresh = self.dir.join("state.json.part");
        fs::write(&fresh, serde_json::to_vec_pretty(state)?)?;
        fs::rename(fresh, self.state_file())?;
        Ok(())
    }

    /// Whether the host is up: its init lives and libvirt answers.
    pub fn is_up(&self) -> bool {
        let init = self.state().and_then(|state| state.init);
        init.is_some_and(|init| init.alive()) && self.answers()
    }

    fn answers(&self) -> bool {
        UnixStream::connect(self.socket()).is_ok()
            && Run::new("virsh", ["-c", &self.libvirt_uri(), "version", "--daemon"]).succeeds()
    }

    /// Brings the host up; quick when it is.
    pub fn up(&self) -> Result<()> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "only root can make namespaces; run this as root"
        );
        if self.is_up() && self.namespace_file().exists() {
            return Ok(());
        }
        // Half of a host is no host: begin from nothing.
        self.down()?;
        self.check_network_is_free()?;
        modules::load()?;
        let made_netns_folder = !Path::new("/run/netns").exists();
        self.save(&State {
            name: self.name.clone(),
            init: None,
            made_netns_folder,
        })?;
        let result = self
            .make_network()
            .and_then(|()| self.start_init(made_netns_folder));
        if let Err(error) = result {
            let log = fs::read_to_string(self.dir.join("log/init.log")).unwrap_or_default();
            if let Err(second) = self.down() {
                ui::say(&format!("  ! {second:#}"));
            }
            return Err(error.context(format!("the host does not come up:\n{}", run::tail(&log))));
        }
        Ok(())
    }

    /// Two hosts, or a host and something else of the machine's, can't have the
    /// same addresses.
    fn check_network_is_free(&self) -> Result<()> {
        let text = Run::new(
            "ip",
            [
                "-4",
                "route",
                "show",
                "table",
                "all",
                "root",
                &self.network.to_string(),
            ],
        )
        .text()?;
        if let Some(route) = text.lines().next() {
            bail!(
                "{} is in use on this machine already ({}); choose another network with --network",
                self.network,
                route.trim()
            );
        }
        Ok(())
    }

    fn make_network(&self) -> Result<()> {
        let veth = self.veth();
        let machine = format!("{}/24", self.network.machine());
        let host = format!("{}/24", self.network.host());
        let gateway = self.network.machine().to_string();
        let name = self.name.as_str();
        ip(&["netns", "add", name])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        ip(&[
            "link",
            "add",
            &veth,
            "type",
            "veth",
            "peer",
            "name",
            PUBLIC_INTERFACE,
            "netns",
            name,
        ])?;
        ip(&["addr", "add", &machine, "dev", &veth])?;
        ip(&["link", "set", &veth, "up"])?;
        ip(&["-n", name, "addr", "add", &host, "dev", PUBLIC_INTERFACE])?;
        ip(&["-n", name, "link", "set", PUBLIC_INTERFACE, "up"])?;
        ip(&["-n", name, "route", "add", "default", "via", &gateway])
    }

    fn start_init(&self, made_netns_folder: bool) -> Result<()> {
        init::prepare(&self.dir)?;
        let log = fs::File::create(self.dir.join("log/init.log"))?;
        // A process of its own enters the namespaces, so that this one stays outside.
        let mut starter = Command::new(OWN_PROGRAM);
        starter
            .args(["host-start", "--name", &self.name, "--dir"])
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let output = starter.output().context("cannot start the host's init")?;
        ensure!(output.status.success(), "the host's init does not start");
        let text = String::from_utf8(output.stdout)?;
        let pid: u32 = text
            .trim()
            .parse()
            .with_context(|| format!("no pid of init but {text:?}"))?;
        let init = Process::of(pid)?;
        self.save(&State {
            name: self.name.clone(),
            init: Some(init.clone()),
            made_netns_folder,
        })?;
        let up = wait_for(Duration::from_secs(60), || {
            ensure!(init.alive(), "the host's init has ended");
            Ok(self.answers().then_some(()))
        })?;
        up.context("libvirt does not answer within 60 s")
    }

    /// Takes the host down with everything in it; safe to repeat, and whatever
    /// happened before. Its disk stays.
    pub fn down(&self) -> Result<()> {
        let state = self.state();
        if let Some(init) = state.as_ref().and_then(|state| state.init.as_ref()) {
            end_init(init)?;
        }
        let namespace = self.namespace_file();
        // A plain file is what a reboot, or a killed `ip netns add`, leaves.
        if let Ok(data) = fs::metadata(&namespace) {
            let own = fs::metadata("/proc/self/ns/net")?.ino();
            let number = data.ino();
            let real = is_namespace(&namespace);
            if real && number != own {
                processes::end_all(Duration::from_secs(5), |folder| {
                    processes::namespace(folder, "net") == Some(number)
                })?;
            }
            if real {
                ip(&["netns", "delete", &self.name])?;
            } else {
                fs::remove_file(&namespace)?;
            }
        }
        self.remove_veth()?;
        if state.is_some_and(|state| state.made_netns_folder) {
            remove_netns_folder();
        }
        for gone in ["run", "state.json", "state.json.part"] {
            let path = self.dir.join(gone);
            if path.is_dir() {
                fs::remove_dir_all(&path)?;
            } else if path.exists() {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn remove_veth(&self) -> Result<()> {
        let veth = self.veth();
        let there = || Path::new("/sys/class/net").join(&veth).exists();
        // It goes with the namespace, but not at once.
        if there() && ip(&["link", "delete", &veth]).is_err() {
            wait_for(Duration::from_secs(10), || Ok((!there()).then_some(())))?
                .with_context(|| format!("the interface {veth} does not go away"))?;
        }
        Ok(())
    }
}

/// Ends everything in the pid namespace of which this is the first process: the
/// guests get a moment to write out what they hold.
fn end_init(init: &Process) -> Result<()> {
    let own = processes::namespace(Path::new("/proc/self"), "pid");
    let inside = processes::namespace(&Path::new("/proc").join(init.pid.to_string()), "pid");
    if init.alive() && inside.is_some() && inside != own {
        let guests = |folder: &Path| {
            processes::namespace(folder, "pid") == inside
                && !folder.ends_with(init.pid.to_string())
                && fs::read_to_string(folder.join("comm"))
                    .is_ok_and(|name| name.starts_with("qemu-"))
        };
        for guest in processes::find(guests)? {
            guest.signal(Signal::SIGTERM)?;
        }
        wait_for(Duration::from_secs(5), || {
            Ok(processes::find(guests)?.is_empty().then_some(()))
        })?;
    }
    // The kernel ends the whole namespace with its first process.
    init.kill()
}

fn ip(arguments: &[&str]) -> Result<()> {
    Run::new("ip", arguments).done()
}

/// Whether a namespace is mounted on this file.
fn is_namespace(file: &Path) -> bool {
    fs::read_to_string("/proc/self/mountinfo").is_ok_and(|text| {
        text.lines().any(|line| {
            line.split(' ')
                .nth(4)
                .is_some_and(|mounted| Path::new(mounted) == file)
        })
    })
}

/// `ip netns add` mounts `/run/netns` on itself; undone when this host was the
/// first to need it and nobody does now. Others may be using it, so refusals
/// are fine.
fn remove_netns_folder() {
    let folder = Path::new("/run/netns");
    let empty = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    if empty && is_namespace(folder) && Run::new("umount", [folder]).succeeds() {
        // Not empty any more: somebody was faster.
        let _ = fs::remove_dir(folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_and_refused() {
        let network: Network = "172.24.4.0/24".parse().unwrap();
        assert_eq!(network.to_string(), "172.24.4.0/24");
        assert_eq!(network.machine().to_string(), "172.24.4.1");
        assert_eq!(network.host().to_string(), "172.24.4.2");
        for bad in [
            "",
            "172.24.4.1/24",
            "172.24.4.0/16",
            "172.24.0/24",
            "127.0.0.0/24",
            "x.0/24",
        ] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_that_is_a_path_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let network = DEFAULT_NETWORK.parse().unwrap();
        for bad in ["", "../x", "-x", "a b", "a/b"] {
            assert!(Host::new(bad, folder.path(), network).is_err(), "{bad}");
        }
        let host = Host::new("yakumo-1", folder.path(), network).unwrap();
        assert!(host.veth().len() <= 15);
    }

    #[test]
    fn taking_down_a_host_that_never_was_is_fine() {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("yakumo-test-{}", std::process::id());
        let host = Host::new(&name, folder.path(), DEFAULT_NETWORK.parse().unwrap()).unwrap();
        host.down().unwrap();
        host.down().unwrap();
        assert!(!host.is_up());
    }
}
