//! Installs what is missing: Debian packages and, for the tests, the official
//! Python clients.
//!
//! Packages like PostgreSQL or libvirt start a service of their own when they
//! are installed. Yakumo's development cloud and its tests bring their own, so
//! while packages are being installed a `policy-rc.d` forbids starting
//! anything. Whatever stood in its place is put back afterwards, also by the
//! next run if this one is killed half way.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};

use crate::paths::Paths;
use crate::run::Run;
use crate::ui;

/// What a run needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// To compile.
    Build,
    /// To make the guest image.
    Image,
    /// To carry real guests.
    Guests,
    /// A broker, for `up --distributed` and the tests.
    Broker,
    /// PostgreSQL.
    Postgres,
    /// MariaDB.
    Mariadb,
    /// The rest of what the tests use.
    Tests,
    /// Docker, and what makes base images, for `compose-test`.
    Containers,
}

/// Everything, for `cargo xtask test`.
pub const ALL: [Need; 7] = [
    Need::Build,
    Need::Image,
    Need::Guests,
    Need::Broker,
    Need::Postgres,
    Need::Mariadb,
    Need::Tests,
];

impl Need {
    /// Debian 12 and 13 name all of these alike.
    const fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Build => &["build-essential", "pkg-config", "ca-certificates"],
            Self::Image => &[
                "dpkg",
                "cpio",
                "gzip",
                "xz-utils",
                "mtools",
                "dosfstools",
                "e2fsprogs",
                "qemu-utils",
            ],
            Self::Guests => &[
                "libvirt-dev",
                "qemu-system-x86",
                "libvirt-daemon",
                "libvirt-daemon-system",
                "libvirt-clients",
                "dnsmasq-base",
                "ebtables",
                "iptables",
                "ipset",
                "conntrack",
                // Loads the modules of a kernel that has not got them built in.
                "kmod",
                "iproute2",
                "procps",
                "util-linux",
                "mount",
                // Config drives.
                "genisoimage",
                // To look at the first server.
                "openssh-client",
                "iputils-ping",
            ],
            Self::Broker => &["rabbitmq-server"],
            Self::Postgres => &["postgresql"],
            Self::Mariadb => &["mariadb-server"],
            Self::Tests => &[
                "tcpdump",
                "iputils-arping",
                "busybox-static",
                "python3-venv",
                "curl",
            ],
            Self::Containers => &[
                "docker.io",
                "docker-compose",
                "debootstrap",
                "iptables",
                "iproute2",
                "util-linux",
            ],
        }
    }
}

/// Installs the packages that are missing. Quick when none is.
pub fn packages(paths: &Paths, needs: &[Need]) -> Result<()> {
    check_system()?;
    let policy = PolicyFile::system();
    policy.recover()?;
    let wanted: Vec<&str> = needs
        .iter()
        .flat_map(|need| need.packages())
        .copied()
        .collect();
    let mut missing = missing(&wanted)?;
    // A package that came from elsewhere (a backport, say) can have to give way
    // to what is being installed, and is then missing itself; but not for ever.
    for _ in 0..3 {
        if missing.is_empty() {
            return Ok(());
        }
        install(paths, &policy, &missing)?;
        missing = self::missing(&wanted)?;
    }
    if !missing.is_empty() {
        bail!("still missing after installing: {}", missing.join(" "));
    }
    Ok(())
}

fn install(paths: &Paths, policy: &PolicyFile, missing: &[&str]) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "these Debian packages are missing and only root can install them: {}",
            missing.join(" ")
        );
    }
    let title = match missing.len() {
        1 => format!("installing {}", missing[0]),
        count => format!("installing {count} Debian packages"),
    };
    ui::step(&title, |step| {
        let _guard = policy.forbid_services()?;
        if lists_are_old() || !candidates_known(missing)? {
            apt(paths, &["update"])
                .followed(step)
                .context("the package lists cannot be fetched")?;
        }
        let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
        arguments.extend(missing.iter().copied());
        let first = apt(paths, &arguments).followed(step);
        if first.is_err() {
            // Old lists name package versions that the mirror has dropped.
            apt(paths, &["update"])
                .followed(step)
                .context("the package lists cannot be fetched")?;
            apt(paths, &arguments)
                .followed(step)
                .with_context(|| format!("cannot install: {}", missing.join(" ")))?;
        }
        Ok(())
    })
}

fn check_system() -> Result<()> {
    let known = Path::new("/usr/bin/dpkg-query").exists() && Path::new("/usr/bin/apt-get").exists();
    if !known {
        bail!(
            "this is not Debian (no apt-get here); Yakumo's development cloud is set up on Debian 12 or 13"
        );
    }
    if std::env::consts::ARCH != "x86_64" {
        bail!(
            "the guest image and its boot loader are made for x86_64; this is {}",
            std::env::consts::ARCH
        );
    }
    Ok(())
}

fn apt(paths: &Paths, arguments: &[&str]) -> Run {
    Run::new("apt-get", arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C.UTF-8")
        .env("NEEDRESTART_SUSPEND", "1")
        .log(&paths.log())
}

/// Those of `wanted` that are not installed, each once.
fn missing<'a>(wanted: &[&'a str]) -> Result<Vec<&'a str>> {
    let text = Run::new(
        "dpkg-query",
        ["-W", "-f", "${Package} ${db:Status-Status}\n"],
    )
    .text()?;
    let installed: std::collections::HashSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .collect();
    let mut seen = std::collections::HashSet::new();
    Ok(wanted
        .iter()
        .copied()
        .filter(|name| !installed.contains(name) && seen.insert(*name))
        .collect())
}

/// Whether apt knows a version of each package.
fn candidates_known(names: &[&str]) -> Result<bool> {
    let mut arguments = vec!["policy"];
    arguments.extend(names);
    let text = Run::new("apt-cache", arguments)
        .env("LC_ALL", "C.UTF-8")
        .text()?;
    let known = text
        .lines()
        .filter(|line| line.trim_start().starts_with("Candidate: "))
        .count();
    let none = text
        .lines()
        .filter(|line| line.trim() == "Candidate: (none)")
        .count();
    Ok(known - none == names.len())
}

fn lists_are_old() -> bool {
    let newest = fs::read_dir("/var/lib/apt/lists")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().ends_with("Packages"))
        .filter_map(|entry| entry.metadata().ok()?.modified().ok())
        .max();
    let compressed = fs::read_dir("/var/lib/apt/lists")
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.contains("_Packages.")
        });
    match newest {
        Some(time) => SystemTime::now()
            .duration_since(time)
            .is_ok_and(|age| age > Duration::from_secs(14 * 24 * 3600)),
        None => !compressed,
    }
}

/// `/usr/sbin/policy-rc.d`, which invoke-rc.d asks before it starts a service.
struct PolicyFile {
    path: PathBuf,
    kept: PathBuf,
}

/// Our text, recognised by its second line.
const FORBID: &str = "#!/bin/sh\n# Put here by Yakumo while it installs packages; it goes away by itself.\nexit 101\n";

impl PolicyFile {
    fn system() -> Self {
        Self::at(Path::new("/usr/sbin/policy-rc.d"))
    }

    fn at(path: &Path) -> Self {
        let mut kept = path.as_os_str().to_owned();
        kept.push(".before-yakumo");
        Self {
            path: path.to_owned(),
            kept: PathBuf::from(kept),
        }
    }

    /// Puts back what a killed run left aside.
    fn recover(&self) -> Result<()> {
        let ours = fs::read_to_string(&self.path).is_ok_and(|text| text == FORBID);
        if self.kept.symlink_metadata().is_ok() {
            fs::rename(&self.kept, &self.path)
                .with_context(|| format!("cannot put {} back", self.path.display()))?;
        } else if ours {
            fs::remove_file(&self.path)
                .with_context(|| format!("cannot remove {}", self.path.display()))?;
        }
        Ok(())
    }

    /// Forbids services until the guard is dropped.
    fn forbid_services(&self) -> Result<PolicyGuard<'_>> {
        self.recover()?;
        let guard = PolicyGuard { file: self };
        // Written beside and renamed, so that there is no moment without a policy.
        let mut fresh = self.path.as_os_str().to_owned();
        fresh.push(".yakumo");
        let fresh = PathBuf::from(fresh);
        fs::write(&fresh, FORBID).with_context(|| format!("cannot write {}", fresh.display()))?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
        if self.path.symlink_metadata().is_ok() {
            fs::rename(&self.path, &self.kept)?;
        }
        fs::rename(&fresh, &self.path)?;
        Ok(guard)
    }
}

struct PolicyGuard<'a> {
    file: &'a PolicyFile,
}

impl Drop for PolicyGuard<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.file.recover() {
            ui::say(&format!("  ! {error:#}"));
        }
    }
}

/// The official clients, in versions that were tested together.
const PYTHON_CLIENTS: [&str; 4] = [
    "python-openstackclient==10.5.0",
    "openstacksdk==4.22.0",
    "python-swiftclient==4.11.0",
    "boto3==1.44.5",
];

/// What the bus is measured beside.
const BUS_PEER: [&str; 1] = ["oslo.messaging==18.3.1"];

/// Makes the virtual environment with the official clients.
pub fn python_clients(paths: &Paths) -> Result<()> {
    let folder = paths.python_clients();
    environment(
        paths,
        &folder,
        "installing the OpenStack clients",
        &PYTHON_CLIENTS,
    )
}

/// Makes the virtual environment with the messaging library of OpenStack.
pub fn bus_peer(paths: &Paths) -> Result<()> {
    let folder = paths.bus_peer();
    environment(paths, &folder, "installing oslo.messaging", &BUS_PEER)
}

/// A virtual environment in `folder` that holds `packages`; made anew where
/// it holds others.
fn environment(paths: &Paths, folder: &Path, what: &str, packages: &[&str]) -> Result<()> {
    let stamp = folder.join("yakumo-requirements.txt");
    let wanted = packages.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|text| text == wanted) {
        return Ok(());
    }
    ui::step(what, |step| {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        // Debian's Python, for which python3-venv was installed; the PATH may
        // lead to another one.
        Run::new(
            "/usr/bin/python3",
            ["-m", "venv"]
                .map(std::ffi::OsStr::new)
                .into_iter()
                .chain([folder.as_os_str()]),
        )
        .log(&paths.log())
        .followed(step)?;
        let mut arguments = vec!["install", "--no-input", "--quiet", "--prefer-binary"];
        arguments.extend(packages);
        Run::new(folder.join("bin/pip"), arguments)
            .log(&paths.log())
            .followed(step)?;
        fs::write(&stamp, &wanted)?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn a_policy_that_was_there_comes_back_as_it_was() {
        let folder = folder();
        let path = folder.path().join("policy-rc.d");
        fs::write(&path, "#!/bin/sh\nexit 104\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o711)).unwrap();
        let policy = PolicyFile::at(&path);
        {
            let _guard = policy.forbid_services().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), FORBID);
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o755
            );
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "#!/bin/sh\nexit 104\n");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o711
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn no_policy_before_means_none_after() {
        let folder = folder();
        let policy = PolicyFile::at(&folder.path().join("policy-rc.d"));
        drop(policy.forbid_services().unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_run_after_a_killed_one_puts_the_policy_back() {
        let folder = folder();
        let path = folder.path().join("policy-rc.d");
        fs::write(&path, "#!/bin/sh\nexit 0\n").unwrap();
        let policy = PolicyFile::at(&path);
        std::mem::forget(policy.forbid_services().unwrap());
        PolicyFile::at(&path).recover().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "#!/bin/sh\nexit 0\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_installed_package_is_not_missing() {
        assert_eq!(
            missing(&["dpkg", "yakumo-no-such-package", "dpkg"]).unwrap(),
            ["yakumo-no-such-package"]
        );
    }
}
