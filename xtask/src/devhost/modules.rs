//! Kernel modules that the host's rules need. They are the machine's, so they
//! are loaded before its namespaces are made; on many kernels nothing else loads
//! them before the settings are wanted that come with them.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::run::Run;

/// Loaded if they can be: a kernel may have them built in.
const MODULES: [&str; 7] = [
    "br_netfilter",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_tables",
    "nft_compat",
    "ip_set_hash_net",
    "tun",
];

/// What must be there afterwards, and the module that brings it.
const NEEDED: [(&str, &str); 2] = [
    (BRIDGED, "br_netfilter"),
    (
        "/proc/sys/net/netfilter/nf_conntrack_tcp_loose",
        "nf_conntrack",
    ),
];

const BRIDGED: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// Once its module is loaded, rules see the packets on the bridges of each
/// namespace. The machine's own bridges are to go on as they were.
const UNTOUCHED: [&str; 3] = [
    BRIDGED,
    "/proc/sys/net/bridge/bridge-nf-call-ip6tables",
    "/proc/sys/net/bridge/bridge-nf-call-arptables",
];

/// Loads the modules; an error names one that is missing.
pub fn load() -> Result<()> {
    let there = Path::new(BRIDGED).exists();
    let loading = Run::new("modprobe", ["-q", "-a"].into_iter().chain(MODULES)).done();
    if !there && Path::new(BRIDGED).exists() {
        for setting in UNTOUCHED {
            fs::write(setting, "0").with_context(|| format!("cannot write {setting}"))?;
        }
    }
    for (setting, module) in NEEDED {
        let why = || {
            loading
                .as_ref()
                .err()
                .map(|error| format!(": {error:#}"))
                .unwrap_or_default()
        };
        ensure!(
            Path::new(setting).exists(),
            "the kernel module {module} is not loaded and could not be{}",
            why()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_among_what_is_loaded() {
        for (_, module) in NEEDED {
            assert!(MODULES.contains(&module), "{module}");
        }
    }
}
