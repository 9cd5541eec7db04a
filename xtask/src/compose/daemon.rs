//! A Docker daemon of the test's own, in namespaces of its own:
//!
//! ```text
//!   the machine                │ network, mount and pid namespace
//!   DIR/docker.sock ───────────┼─ init ─ dockerd ─ containerd ─ containers
//!   DIR/data (images, volumes) │   docker0, bridges, iptables rules, overlay mounts
//!   xtask, one end of a pipe ──┼─ the other end
//! ```
//!
//! `dockerd` sets the policy of FORWARD to DROP and adds bridges and rules where
//! it runs; here that is a network without any way out. The namespaces have no
//! names and end with their first process, which ends when the pipe does: so
//! nothing outlives `cargo xtask compose-test`, even if that is killed. What can
//! be left then are empty cgroups, which the next run removes.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::paths::short_hash;
use crate::processes::{self, Process};
use crate::run::{self, Run, find, wait_for};

/// This program, also after cargo has put a newer one in its place.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// In the environment of everything that is started here but the containers.
const MARK: &str = "YAKUMO_COMPOSE_TEST";

/// How long the daemon gets to end its containers and itself.
const PATIENCE: Duration = Duration::from_secs(30);

const CGROUPS: &str = "/sys/fs/cgroup";

/// Where a daemon keeps its things; it runs or not.
#[derive(Debug, Clone)]
pub struct Place {
    dir: PathBuf,
}

/// A daemon that runs; it ends with this.
pub struct Daemon {
    place: Place,
    init: Process,
    pipe: Option<ChildStdin>,
}

impl Place {
    /// In this folder, which is made.
    pub fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let place = Self {
            dir: dir.canonicalize()?,
        };
        // A unix socket's path holds 107 bytes.
        let socket = place.socket();
        ensure!(
            socket.as_os_str().len() < 100,
            "{} is too long a path for a socket; use a checkout nearer to the root",
            socket.display()
        );
        Ok(place)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the daemon and its init write.
    pub fn log(&self) -> PathBuf {
        self.dir.join("dockerd.log")
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    /// The parent of all containers' cgroups, by the folder.
    fn cgroup(&self) -> String {
        format!("yakumo-compose-{}", short_hash(&self.dir))
    }

    /// Name and value of what everything that is started here carries in its
    /// environment, so that the next run finds it.
    pub fn mark(&self) -> (&'static str, &Path) {
        (MARK, &self.dir)
    }

    fn is_marked(&self) -> impl Fn(&Path) -> bool {
        let mark = format!("{MARK}={}", self.dir.display());
        move |folder| processes::has_mark(folder, &mark)
    }

    /// A client's program, speaking to this daemon and to no other, with no
    /// settings of the user's. Ended after `bound`.
    pub fn client(&self, program: &Path, bound: Duration, arguments: &[&str]) -> Run {
        let bound = bound.as_secs().to_string();
        let program = program.display().to_string();
        let mut all = vec!["--kill-after=10", &bound, &program];
        all.extend(arguments);
        Run::new("timeout", all)
            .env(MARK, &self.dir)
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
            .env("DOCKER_CONFIG", self.dir.join("client"))
            .env("DOCKER_BUILDKIT", "0")
    }

    /// `docker` with these arguments.
    pub fn docker(&self, bound: Duration, arguments: &[&str]) -> Run {
        self.client(&docker(), bound, arguments)
    }

    /// Starts a daemon; whatever an earlier run has left is cleared first.
    pub fn start(&self) -> Result<Daemon> {
        self.clear()?;
        let log = fs::File::create(self.log())?;
        // The first process of new namespaces is started by one that made them.
        let mut starter = Command::new(OWN_PROGRAM)
            .args(["compose-daemon", "--dir"])
            .arg(&self.dir)
            .env(MARK, &self.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("cannot start the daemon's init")?;
        let pipe = starter.stdin.take();
        let output = starter.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let pid = said.trim().parse::<u32>();
        let (true, Ok(pid)) = (output.status.success(), pid) else {
            bail!("the daemon's init does not start:\n{}", self.log_tail());
        };
        let daemon = Daemon {
            place: self.clone(),
            init: Process::of(pid)
                .with_context(|| format!("the daemon has ended:\n{}", self.log_tail()))?,
            pipe,
        };
        let up = wait_for(Duration::from_secs(90), || {
            ensure!(
                daemon.init.alive(),
                "the daemon has ended:\n{}",
                self.log_tail()
            );
            let asked = self.docker(Duration::from_secs(20), &["version"]);
            Ok((self.socket().exists() && asked.succeeds()).then_some(()))
        })?;
        up.with_context(|| format!("the daemon does not answer:\n{}", self.log_tail()))?;
        daemon.tidy_up()?;
        Ok(daemon)
    }

    /// The end of what the daemon said, for an error.
    pub fn log_tail(&self) -> String {
        run::tail(&fs::read_to_string(self.log()).unwrap_or_default())
    }

    /// Ends what an earlier run has started and removes what it left.
    pub fn clear(&self) -> Result<()> {
        processes::end_all(PATIENCE, self.is_marked())?;
        for group in self.cgroups()? {
            remove_cgroup(&group)?;
        }
        let socket = self.socket();
        if socket.exists() {
            fs::remove_file(socket)?;
        }
        Ok(())
    }

    /// Our cgroup in each hierarchy that has one.
    fn cgroups(&self) -> Result<Vec<PathBuf>> {
        let name = self.cgroup();
        let root = Path::new(CGROUPS);
        let mut found = vec![root.join(&name)];
        if root.exists() {
            for entry in fs::read_dir(root)? {
                found.push(entry?.path().join(&name));
            }
        }
        found.retain(|group| group.is_dir());
        Ok(found)
    }

    /// Fails if anything of a daemon in this folder is still on the machine.
    pub fn nothing_is_left(&self) -> Result<()> {
        let left = processes::find(self.is_marked())?;
        ensure!(left.is_empty(), "{left:?} live on");
        let groups = self.cgroups()?;
        ensure!(groups.is_empty(), "the cgroups {groups:?} are still there");
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let folder = self.dir.display().to_string();
        if let Some(mount) = mounts.lines().find(|line| line.contains(&folder)) {
            bail!("still mounted: {mount}");
        }
        Ok(())
    }
}

/// Debian's; others on the machine may be too new for Debian's daemon.
pub fn docker() -> PathBuf {
    let debians = Path::new("/usr/bin/docker");
    if debians.exists() {
        debians.to_owned()
    } else {
        find("docker").unwrap_or_else(|| debians.to_owned())
    }
}

impl std::ops::Deref for Daemon {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Daemon {
    /// Does something in the daemon's network, where the published ports are.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = fs::File::open(format!("/proc/{}/ns/net", self.init.pid))
            .context("the daemon has no network any more")?;
        // A namespace is entered by one thread alone.
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(&namespace, CloneFlags::CLONE_NEWNET)
                    .context("cannot enter the daemon's network")?;
                work()
            });
            thread
                .join()
                .unwrap_or_else(|_| Err(anyhow!("the thread in the daemon's network panicked")))
        })
    }

    /// Containers, volumes and networks go; images with a name stay.
    fn tidy_up(&self) -> Result<()> {
        let bound = Duration::from_secs(120);
        let all = self.docker(bound, &["ps", "-aq"]).text()?;
        let ids: Vec<&str> = all.lines().collect();
        if !ids.is_empty() {
            let arguments: Vec<&str> = ["rm", "--force", "--volumes"]
                .into_iter()
                .chain(ids)
                .collect();
            self.docker(bound, &arguments).done()?;
        }
        let volumes = self.docker(bound, &["volume", "ls", "-q"]).text()?;
        let volumes: Vec<&str> = volumes.lines().collect();
        if !volumes.is_empty() {
            let arguments: Vec<&str> = ["volume", "rm", "--force"]
                .into_iter()
                .chain(volumes)
                .collect();
            self.docker(bound, &arguments).done()?;
        }
        self.docker(bound, &["network", "prune", "--force"])
            .done()?;
        // Of the images, those that newer ones have taken the name of.
        self.docker(bound, &["image", "prune", "--force"]).done()
    }

    /// Ends it with all that it runs; images stay on the disk.
    pub fn stop(mut self) -> Result<()> {
        let removed = self.tidy_up();
        self.end()?;
        removed?;
        self.place.clear()
    }

    fn end(&mut self) -> Result<()> {
        // The init sees the pipe close.
        self.pipe = None;
        let ended = wait_for(PATIENCE + Duration::from_secs(10), || {
            Ok((!self.init.alive()).then_some(()))
        })?;
        match ended {
            Some(()) => Ok(()),
            None => self.init.kill(),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.pipe.is_some()
            && let Err(error) = self.end().and_then(|()| self.place.clear())
        {
            crate::ui::say(&format!("  ! {error:#}"));
        }
    }
}

/// Its groups first. They stay busy for a moment after their processes.
fn remove_cgroup(group: &Path) -> Result<()> {
    for entry in fs::read_dir(group)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_cgroup(&path)?;
        }
    }
    wait_for(Duration::from_secs(10), || match fs::remove_dir(group) {
        Ok(()) => Ok(Some(())),
        Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => Ok(None),
        Err(error) => Err(error.into()),
    })?
    .with_context(|| format!("the cgroup {} is in use", group.display()))
}

/// Makes the namespaces and starts the init in them; prints its pid as the
/// machine sees it.
pub fn start(dir: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)
        .context("cannot make namespaces")?;
    let log = fs::File::options()
        .append(true)
        .open(Place::new(dir)?.log())?;
    let child = Command::new(OWN_PROGRAM)
        .args(["compose-init", "--dir"])
        .arg(dir)
        .env_clear()
        .env(MARK, dir)
        .env("HOME", dir)
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::inherit())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start the daemon's init")?;
    println!("{}", child.id());
    std::io::stdout().flush()?;
    Ok(())
}

/// The init itself: it returns when the daemon has ended, and the kernel ends
/// everything else with it.
pub fn run(dir: &Path) -> Result<()> {
    ensure!(
        std::process::id() == 1,
        "compose-init is started by `cargo xtask compose-test` alone"
    );
    nix::unistd::setsid().context("cannot start a session")?;
    arrange_mounts()?;
    Run::new("ip", ["link", "set", "lo", "up"]).done()?;
    let place = Place::new(dir)?;
    let daemon = start_daemon(&place)?;
    std::thread::spawn(move || {
        // Ends with the other end of the pipe, on which nothing is ever written.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        // It may have ended by itself.
        let _ = kill(daemon, Signal::SIGTERM);
        std::thread::sleep(PATIENCE);
        std::process::exit(1);
    });
    loop {
        match waitpid(Pid::from_raw(-1), None) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) if pid == daemon => {
                return Ok(());
            }
            // An orphan, now reaped.
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for the daemon"),
        }
    }
}

/// A `/proc` of the pid namespace, and a `/run` that goes with the mounts: what
/// containerd and runc keep there has names that do not depend on the daemon.
fn arrange_mounts() -> Result<()> {
    const NONE: Option<&str> = None;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .context("cannot make the mounts private")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), NONE)
        .context("cannot mount /proc")?;
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )
    .context("cannot mount /run")
}

fn start_daemon(place: &Place) -> Result<Pid> {
    // In place of the machine's own configuration.
    let config = place.dir.join("daemon.json");
    fs::write(&config, "{}\n")?;
    let program = find("dockerd").context("dockerd is not installed")?;
    let child = Command::new(program)
        .arg("--config-file")
        .arg(config)
        .arg("--host")
        .arg(format!("unix://{}", place.socket().display()))
        .arg("--data-root")
        .arg(place.dir.join("data"))
        .args(["--group", "0"])
        .args(["--exec-root", "/run/docker"])
        .args(["--pidfile", "/run/docker.pid"])
        .args(["--storage-driver", "overlay2"])
        .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
        .arg("--cgroup-parent")
        .arg(format!("/{}", place.cgroup()))
        .args(["--shutdown-timeout", "10"])
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start dockerd")?;
    Ok(Pid::from_raw(i32::try_from(child.id())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_folder_has_a_cgroup_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let one = Place::new(&folder.path().join("one")).unwrap();
        let two = Place::new(&folder.path().join("two")).unwrap();
        assert_ne!(one.cgroup(), two.cgroup());
        assert_ne!(one.mark().1, two.mark().1);
    }

    #[test]
    fn a_folder_too_deep_for_a_socket_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Place::new(&folder.path().join("x".repeat(100))).is_err());
    }

    #[test]
    fn clearing_a_folder_in_which_no_daemon_was_is_fine() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path()).unwrap();
        place.clear().unwrap();
        place.nothing_is_left().unwrap();
    }
}
