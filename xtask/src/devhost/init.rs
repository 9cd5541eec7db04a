//! The first process of the host's pid namespace. It arranges the mounts, runs
//! virtlogd and libvirtd (again if they end: on a real host a service manager
//! does so) and reaps orphans, which libvirtd, were it the first process,
//! would not: it then waits 40 s for each of its probes.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::OWN_PROGRAM;
use crate::run::{find, wait_for};

/// What libvirt sees as its own folders, and where they are in the host's.
const FOLDERS: [(&str, &str); 5] = [
    ("run", "/run"),
    ("etc/libvirt", "/etc/libvirt"),
    ("lib/libvirt", "/var/lib/libvirt"),
    ("cache/libvirt", "/var/cache/libvirt"),
    ("log/libvirt", "/var/log/libvirt"),
];

/// No TLS, no polkit, no D-Bus: the socket's permissions decide.
const LIBVIRTD_CONF: &str = "\
listen_tls = 0
auth_unix_ro = \"none\"
auth_unix_rw = \"none\"
unix_sock_ro_perms = \"0700\"
unix_sock_rw_perms = \"0700\"
log_level = 3
";

/// Guests run as root inside the namespaces; there is no second user to
/// protect them from, and no cgroup tree or security module of our own.
const QEMU_CONF: &str = "\
user = \"root\"
group = \"root\"
dynamic_ownership = 0
remember_owner = 0
security_driver = \"none\"
namespaces = []
cgroup_controllers = []
";

/// Makes the host's folders and configuration; each only if it is missing.
pub fn prepare(dir: &Path) -> Result<()> {
    for (inside, _) in FOLDERS {
        fs::create_dir_all(dir.join(inside))?;
    }
    // The socket in it lets anybody command libvirt.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    let etc = dir.join("etc/libvirt");
    let conf = etc.join("libvirtd.conf");
    if !conf.exists() {
        // Two hosts on one machine share its DMI uuid, and libvirt refuses to
        // migrate between hosts with the same one.
        let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        fs::write(
            &conf,
            format!("{LIBVIRTD_CONF}host_uuid = \"{}\"\n", uuid.trim()),
        )?;
    }
    fs::write(etc.join("qemu.conf"), QEMU_CONF)?;
    for empty in ["virtlogd.conf", "libvirt.conf"] {
        if !etc.join(empty).exists() {
            fs::write(etc.join(empty), "")?;
        }
    }
    Ok(())
}

/// Enters the host's network namespace, makes the others and starts the init in
/// them; prints its pid as the machine sees it.
pub fn start(name: &str, dir: &Path) -> Result<()> {
    let namespace = fs::File::open(Path::new("/run/netns").join(name))
        .with_context(|| format!("no network namespace {name}"))?;
    setns(&namespace, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)
        .context("cannot make a mount and a pid namespace")?;
    // The next child is the new pid namespace's first process.
    let log = fs::File::options()
        .append(true)
        .create(true)
        .open(dir.join("log/init.log"))?;
    let child = Command::new(OWN_PROGRAM)
        .arg("host-init")
        .arg("--dir")
        .arg(dir)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start the host's init")?;
    println!("{}", child.id());
    std::io::stdout().flush()?;
    Ok(())
}

/// The init itself; returns only if it can't do its work.
pub fn run(dir: &Path) -> Result<()> {
    if std::process::id() != 1 {
        bail!("host-init is started by `cargo xtask host up` alone");
    }
    nix::unistd::setsid().context("cannot start a session")?;
    arrange_mounts(dir)?;
    let mut daemons = Daemons::default();
    daemons.start("virtlogd", &[])?;
    let socket = Path::new("/run/libvirt/virtlogd-sock");
    wait_for(Duration::from_secs(20), || {
        Ok(socket.exists().then_some(()))
    })?
    .context("virtlogd does not start")?;
    daemons.start("libvirtd", &[])?;
    loop {
        match waitpid(Pid::from_raw(-1), None) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) => {
                daemons.restart(pid)?
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for the host's processes"),
        }
    }
}

/// libvirt's own folders; a `/proc` and a `/sys` of these namespaces. The new
/// `/sys` also has no cgroups in it, which keeps libvirt from putting guests
/// where the machine's own are.
fn arrange_mounts(dir: &Path) -> Result<()> {
    const NONE: Option<&str> = None;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .context("cannot make the mounts private")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), NONE)
        .context("cannot mount /proc")?;
    // Detached first: a busy sysfs of the outer namespaces can't be mounted over cleanly.
    if let Err(error) = umount2("/sys/fs/cgroup", MntFlags::MNT_DETACH)
        && error != Errno::EINVAL
        && error != Errno::ENOENT
    {
        return Err(error).context("cannot detach the cgroups");
    }
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), NONE)
        .context("cannot mount /sys")?;
    for (inside, target) in FOLDERS {
        let source = dir.join(inside);
        mount(Some(&source), target, NONE, MsFlags::MS_BIND, NONE)
            .with_context(|| format!("cannot mount {} on {target}", source.display()))?;
    }
    Ok(())
}

#[derive(Default)]
struct Daemons {
    running: HashMap<i32, (&'static str, &'static [&'static str])>,
}

impl Daemons {
    fn start(&mut self, program: &'static str, arguments: &'static [&'static str]) -> Result<()> {
        let path = find(program).with_context(|| format!("{program} is not installed"))?;
        let child = Command::new(path)
            .args(arguments)
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        self.running
            .insert(i32::try_from(child.id())?, (program, arguments));
        Ok(())
    }

    /// An ended daemon comes back; anything else was an orphan, now reaped.
    fn restart(&mut self, pid: Pid) -> Result<()> {
        let Some((program, arguments)) = self.running.remove(&pid.as_raw()) else {
            return Ok(());
        };
        eprintln!("{program} ended; starting it again");
        std::thread::sleep(Duration::from_secs(1));
        self.start(program, arguments)
    }
}
