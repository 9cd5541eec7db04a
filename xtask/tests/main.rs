//! The host in namespaces, for real: made and taken down by the program as
//! people and tests call it. Needs root, libvirt and QEMU, as a guest does.

// Helpers outside test functions, where the lint's own exception does not reach.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A host of this test's own, gone with it.
struct TestHost {
    name: String,
    folder: tempfile::TempDir,
    network: String,
}

impl TestHost {
    fn new(number: u8) -> Self {
        let process = std::process::id();
        Self {
            name: format!("yktest-host-{process}-{number}"),
            folder: tempfile::tempdir().unwrap(),
            // From a range that nobody else's tests use.
            network: format!("172.29.{}.0/24", (process % 50) * 5 + u32::from(number)),
        }
    }

    fn call(&self, verb: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args([
                "host",
                verb,
                "--name",
                &self.name,
                "--network",
                &self.network,
                "--dir",
            ])
            .arg(self.folder.path())
            .output()
            .unwrap()
    }

    fn up(&self) -> String {
        let output = self.call("up");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn down(&self) {
        let output = self.call("down");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn init(&self) -> i32 {
        let state = std::fs::read(self.folder.path().join("state.json")).unwrap();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        i32::try_from(state["init"]["pid"].as_i64().unwrap()).unwrap()
    }

    fn namespace(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    fn leaves_nothing(&self) {
        assert!(!self.namespace().exists());
        let addresses = said("ip", &["-4", "-br", "addr"]);
        assert!(!addresses.contains(&self.veth_address()), "{addresses}");
        let folder = self.folder.path().to_str().unwrap();
        assert!(
            !std::fs::read_to_string("/proc/self/mountinfo")
                .unwrap()
                .contains(folder)
        );
        assert!(!self.folder.path().join("run").exists());
    }

    fn veth_address(&self) -> String {
        self.network.replace(".0/24", ".1/24")
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        self.call("down");
    }
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn two_hosts_live_side_by_side_and_leave_nothing() {
    let hosts = [TestHost::new(0), TestHost::new(1)];
    for host in &hosts {
        let uri = host.up();
        assert!(said("virsh", &["-c", &uri, "capabilities"]).contains("<arch name='x86_64'>"));
        said(
            "ping",
            &["-c", "1", "-W", "5", &host.network.replace(".0/24", ".2")],
        );
        // Again is quick and changes nothing.
        let init = host.init();
        assert_eq!(host.up(), uri);
        assert_eq!(host.init(), init);
    }
    let uuid = |host: &TestHost| {
        let uri = host.up();
        let text = said("virsh", &["-c", &uri, "capabilities"]);
        let (_, rest) = text.split_once("<uuid>").unwrap();
        rest.split_once('<').unwrap().0.to_owned()
    };
    assert_ne!(uuid(&hosts[0]), uuid(&hosts[1]));
    for host in &hosts {
        host.down();
        host.leaves_nothing();
        host.down();
    }
}

#[test]
fn a_host_whose_init_was_killed_comes_up_again() {
    let host = TestHost::new(2);
    host.up();
    let killed = host.init();
    said("kill", &["-9", &killed.to_string()]);
    host.up();
    assert_ne!(host.init(), killed);
    // What runs in its namespace without its init's knowledge ends with it, too.
    let stray = said(
        "ip",
        &[
            "netns",
            "exec",
            &host.name,
            "sh",
            "-c",
            "sleep 600 >/dev/null 2>&1 & echo $!",
        ],
    );
    host.down();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", stray.trim()));
    assert!(
        stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z ")),
        "{stray} lives on"
    );
    host.leaves_nothing();
}

#[test]
fn addresses_that_the_machine_uses_are_refused() {
    let first = TestHost::new(3);
    first.up();
    let mut second = TestHost::new(4);
    second.network.clone_from(&first.network);
    let output = second.call("up");
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("is in use on this machine already"), "{said}");
    assert!(!second.namespace().exists());
}
