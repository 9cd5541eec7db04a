//! How the kernel must behave for a host, and the modules that teach it to.
//!
//! On many kernels nothing loads these modules before the first rule does, and
//! the settings are there only with them. All of the settings belong to one
//! network namespace each; the modules belong to the machine.

use yakumo_host::{Cmd, CommandError, CommandRunner};

/// Loaded if they can be; kernels that have them built in, or that load them
/// when they are asked for, need none of it.
const MODULES: [&str; 7] = [
    "br_netfilter",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_tables",
    "nft_compat",
    "ip_set_hash_net",
    "tun",
];

/// What must be set, and the module without which it is not there. A flow whose
/// memory was taken away must not be picked up in its middle: that is how
/// cutting works.
const SETTINGS: [(&str, Option<&str>); 4] = [
    ("net.ipv4.ip_forward=1", None),
    ("net.bridge.bridge-nf-call-iptables=1", Some("br_netfilter")),
    (
        "net.bridge.bridge-nf-call-arptables=0",
        Some("br_netfilter"),
    ),
    (
        "net.netfilter.nf_conntrack_tcp_loose=0",
        Some("nf_conntrack"),
    ),
];

/// Whether bridged packets are seen by the rules: there with `br_netfilter`.
const BRIDGED: &str = "net.bridge.bridge-nf-call-iptables";

/// Bridged packets of others are none of our business. The module, once loaded,
/// has them seen by the rules of each namespace.
const UNTOUCHED: [&str; 3] = [
    "net.bridge.bridge-nf-call-iptables=0",
    "net.bridge.bridge-nf-call-ip6tables=0",
    "net.bridge.bridge-nf-call-arptables=0",
];

/// Loads modules and sets what must be set in the host's namespace. `machine`
/// runs in the namespace of this process, `host` in the host's, which is the
/// same one unless `apart`.
pub async fn prepare(
    machine: &dyn CommandRunner,
    host: &dyn CommandRunner,
    apart: bool,
) -> anyhow::Result<()> {
    let before = has(machine, BRIDGED).await?;
    let loading = machine
        .run(Cmd::new(
            "modprobe",
            ["-q", "-a"].into_iter().chain(MODULES),
        ))
        .await;
    if let Err(error) = &loading {
        // Not installed, no modules for this kernel, or some of them built in:
        // whether that matters is seen below.
        tracing::debug!(%error, "not all kernel modules were loaded");
    }
    if apart && !before && has(machine, BRIDGED).await? {
        machine
            .run(Cmd::new(
                "sysctl",
                ["-q", "-w"].into_iter().chain(UNTOUCHED),
            ))
            .await?;
    }
    for (setting, module) in SETTINGS {
        let Err(error) = host.run(Cmd::new("sysctl", ["-q", "-w", setting])).await else {
            continue;
        };
        let key = setting.split('=').next().unwrap_or(setting);
        match module {
            Some(module) if !has(host, key).await? => {
                let why = loading
                    .as_ref()
                    .err()
                    .map(|error| format!(" ({error})"))
                    .unwrap_or_default();
                anyhow::bail!(
                    "there is no {key}: the kernel module {module} is not loaded and could not be{why}"
                );
            }
            _ => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether the kernel knows a setting.
async fn has(runner: &dyn CommandRunner, key: &str) -> Result<bool, CommandError> {
    Ok(runner
        .execute(&Cmd::new("sysctl", ["-n", key]))
        .await?
        .success())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use yakumo_host::{FakeRunner, Output};

    fn refusal(text: &str) -> Output {
        Output {
            status: Some(255),
            stdout: Vec::new(),
            stderr: text.into(),
        }
    }

    fn not_installed(cmd: &Cmd) -> CommandError {
        CommandError::Start {
            command: cmd.to_string(),
            source: std::io::ErrorKind::NotFound.into(),
        }
    }

    #[tokio::test]
    async fn a_kernel_that_has_everything_needs_no_modprobe() {
        let runner = FakeRunner::answering(|cmd| match cmd.program.as_str() {
            "modprobe" => Err(not_installed(cmd)),
            _ => Ok(Output::of("")),
        });
        prepare(&runner, &runner, true).await.unwrap();
        let lines = runner.lines();
        for (setting, _) in SETTINGS {
            assert!(lines.contains(&format!("sysctl -q -w {setting}")));
        }
        let untouched = "sysctl -q -w net.bridge.bridge-nf-call-iptables=0";
        assert!(!lines.iter().any(|line| line.starts_with(untouched)));
    }

    #[tokio::test]
    async fn a_missing_module_is_named() {
        let runner = FakeRunner::answering(|cmd| {
            if cmd.program == "modprobe" {
                return Err(not_installed(cmd));
            }
            Ok(if cmd.to_string().contains("net.netfilter") {
                refusal("sysctl: cannot stat /proc/sys/net/netfilter/nf_conntrack_tcp_loose")
            } else {
                Output::of("")
            })
        });
        let error = prepare(&runner, &runner, false).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with(
                "there is no net.netfilter.nf_conntrack_tcp_loose: the kernel module nf_conntrack"
            ),
            "{text}"
        );
        assert!(text.contains("modprobe"), "{text}");
    }

    #[tokio::test]
    async fn a_setting_that_is_refused_is_no_missing_module() {
        let runner = FakeRunner::answering(|cmd| {
            Ok(if cmd.args.contains(&"net.ipv4.ip_forward=1".to_owned()) {
                refusal("sysctl: permission denied")
            } else {
                Output::of("")
            })
        });
        let error = prepare(&runner, &runner, false).await.unwrap_err();
        assert!(error.to_string().contains("permission denied"), "{error}");
    }

    #[tokio::test]
    async fn a_module_that_was_loaded_for_a_host_changes_nothing_for_the_machine() {
        let loaded = Arc::new(AtomicBool::new(false));
        let machine = FakeRunner::answering(move |cmd| {
            if cmd.program == "modprobe" {
                loaded.store(true, Ordering::SeqCst);
            }
            Ok(if loaded.load(Ordering::SeqCst) {
                Output::of("")
            } else {
                refusal("sysctl: cannot stat /proc/sys/net/bridge")
            })
        });
        let host = FakeRunner::new();
        prepare(&machine, &host, true).await.unwrap();
        let last = machine.lines().pop().unwrap();
        assert!(
            last.starts_with("sysctl -q -w net.bridge.bridge-nf-call-iptables=0"),
            "{last}"
        );
        assert!(
            host.lines()
                .contains(&"sysctl -q -w net.bridge.bridge-nf-call-iptables=1".to_owned())
        );
    }
}
