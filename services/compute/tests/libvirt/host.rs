//! A host of its own for a test: a network namespace with a libvirtd in
//! private mount and process namespaces, so that nothing of the machine's is
//! touched and a reboot can be played.

use std::path::{Path, PathBuf};
use std::time::Duration;

use yakumo_host::{Cmd, CommandRunner, RealRunner};
use yakumo_service::system_env;
use yakumo_types::ServerId;

use crate::support::until;

const LIBVIRTD_CONF: &str = "listen_tls = 0\nauth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\n";
const QEMU_CONF: &str = "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\n\
                         namespaces = []\ncgroup_controllers = []\nremember_owner = 0\n";

/// What libvirt sees where, and what of it lives in the host's folder.
const PLACES: [(&str, &str); 5] = [
    ("run", "/run"),
    ("etc", "/etc/libvirt"),
    ("lib", "/var/lib/libvirt"),
    ("log", "/var/log/libvirt"),
    ("cache", "/var/cache/libvirt"),
];

pub struct VirtHost {
    folder: tempfile::TempDir,
    pub netns: String,
    /// The process whose end ends everything of the host.
    anchor: Option<u32>,
    /// The first process inside.
    init: u32,
}

async fn sh(script: String) -> String {
    RealRunner::new()
        .run(Cmd::new("sh", ["-c".to_owned(), script]).timeout(Duration::from_secs(60)))
        .await
        .unwrap()
        .text()
        .trim()
        .to_owned()
}

impl VirtHost {
    pub async fn start() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests make namespaces and run libvirtd: they need root"
        );
        let folder = tempfile::Builder::new().prefix("ykvirt").tempdir().unwrap();
        let netns = format!(
            "yktest-{}",
            &system_env().rng.uuid().simple().to_string()[..8]
        );
        sh(format!(
            "ip netns add {netns} && ip -n {netns} link set lo up"
        ))
        .await;
        for (place, _) in PLACES {
            std::fs::create_dir(folder.path().join(place)).unwrap();
        }
        std::fs::create_dir(folder.path().join("data")).unwrap();
        std::fs::write(folder.path().join("etc/libvirtd.conf"), LIBVIRTD_CONF).unwrap();
        std::fs::write(folder.path().join("etc/qemu.conf"), QEMU_CONF).unwrap();
        let mut mounts = String::new();
        for (place, target) in PLACES {
            let source = folder.path().join(place);
            mounts.push_str(&format!("mount --bind {} {target}\n", source.display()));
        }
        // The init must reap, which libvirtd would not.
        std::fs::write(
            folder.path().join("init.sh"),
            format!(
                "set -e\nmount --make-rprivate /\numount -l /sys/fs/cgroup 2>/dev/null || true\n{mounts}\
                 virtlogd -d\nlibvirtd -d\nwhile :; do sleep 60 & wait $!; done\n"
            ),
        )
        .unwrap();
        let mut host = Self {
            folder,
            netns,
            anchor: None,
            init: 0,
        };
        host.boot().await;
        host
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn uri(&self) -> String {
        let socket = self.folder.path().join("run/libvirt/libvirt-sock");
        format!("qemu:///system?socket={}", socket.display())
    }

    pub async fn boot(&mut self) {
        let folder = self.folder.path().display();
        let anchor = sh(format!(
            "setsid ip netns exec {} unshare -m -p -f --mount-proc --kill-child sh {folder}/init.sh \
             >{folder}/init.log 2>&1 </dev/null & echo $!",
            self.netns
        ))
        .await;
        let anchor: u32 = anchor.parse().unwrap();
        self.anchor = Some(anchor);
        let children = format!("/proc/{anchor}/task/{anchor}/children");
        self.init = until(Duration::from_secs(20), || {
            let text = std::fs::read_to_string(&children).ok()?;
            text.split_whitespace().next()?.parse().ok()
        })
        .await
        .expect("the host's init starts");
        self.wait_for_libvirtd().await;
    }

    async fn wait_for_libvirtd(&self) {
        let socket = self.folder.path().join("run/libvirt/libvirt-sock");
        let log = self.folder.path().join("init.log");
        until(Duration::from_secs(60), || {
            std::os::unix::net::UnixStream::connect(&socket).ok()
        })
        .await
        .unwrap_or_else(|| {
            panic!(
                "libvirtd does not start: {}",
                std::fs::read_to_string(log).unwrap_or_default()
            )
        });
    }

    /// Runs a script inside the host.
    pub async fn inside(&self, script: &str) -> String {
        let init = self.init.to_string();
        RealRunner::new()
            .run(
                Cmd::new(
                    "nsenter",
                    ["-t", &init, "-m", "-p", "-n", "sh", "-c", script],
                )
                .timeout(Duration::from_secs(60)),
            )
            .await
            .unwrap()
            .text()
    }

    /// Somebody beside the agent at libvirt's own shell.
    pub async fn virsh(&self, command: &str) -> String {
        self.inside(&format!("virsh -q -c qemu:///system {command}"))
            .await
    }

    /// Waits a few seconds until that shell says `wanted`.
    pub async fn until_virsh(&self, command: &str, wanted: &str) {
        let clock = system_env().clock;
        let start = clock.monotonic();
        let command = format!("{command} 2>&1 || true");
        loop {
            let said = self.virsh(&command).await;
            if said.trim() == wanted {
                return;
            }
            assert!(
                clock.monotonic() - start < Duration::from_secs(5),
                "virsh {command}: {said}"
            );
            clock.sleep(Duration::from_millis(100)).await;
        }
    }

    /// As a crash would.
    pub async fn kill_libvirtd(&self) {
        self.inside("kill -9 $(cat /run/libvirtd.pid)").await;
        let _ = std::fs::remove_file(self.folder.path().join("run/libvirt/libvirt-sock"));
    }

    pub async fn start_libvirtd(&self) {
        self.inside("libvirtd -d").await;
        self.wait_for_libvirtd().await;
    }

    /// Pulls the host's plug: libvirtd and every QEMU die at once, and what
    /// lives in memory is gone.
    pub async fn power_off(&mut self) {
        if let Some(anchor) = self.anchor.take() {
            sh(format!(
                "kill -9 {anchor}; while [ -e /proc/{} ]; do sleep 0.05; done",
                self.init
            ))
            .await;
        }
        let run = self.folder.path().join("run");
        std::fs::remove_dir_all(&run).unwrap();
        std::fs::create_dir(&run).unwrap();
    }

    /// The server's QEMU, by its number inside the host.
    pub async fn qemu(&self, server: ServerId) -> Option<u32> {
        let path = self
            .folder
            .path()
            .join(format!("run/libvirt/qemu/yakumo-{server}.pid"));
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    pub async fn kill_qemu(&self, server: ServerId) {
        let pid = self.qemu(server).await.expect("the guest runs");
        self.inside(&format!("kill -9 {pid}")).await;
    }

    /// How many QEMUs the host runs.
    pub async fn qemus(&self) -> usize {
        self.inside("ls -l /proc/[0-9]*/exe 2>/dev/null | grep -c qemu-system || true")
            .await
            .trim()
            .parse()
            .unwrap()
    }
}

impl Drop for VirtHost {
    fn drop(&mut self) {
        let anchor = self.anchor.take();
        let netns = self.netns.clone();
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                if let Some(anchor) = anchor {
                    sh(format!("kill -9 {anchor} || true")).await;
                }
                sh(format!("ip netns del {netns} || true")).await;
            });
        };
        let _ = std::thread::spawn(work).join();
    }
}
