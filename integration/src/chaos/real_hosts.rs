//! What real hosts have and nobody owns: domains, QEMUs, disks, taps, rules, DHCP
//! entries and leases. Looked at from outside, in a host's namespaces and on its
//! disk, and compared with what the APIs show.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use crate::client::{Api, Client, list, text};
use crate::real::Host;

/// What belongs on one host.
struct Belonging {
    /// Whether each server that is placed there runs.
    servers: BTreeMap<String, bool>,
    /// Ports that are bound there, by id.
    ports: BTreeSet<String>,
    macs: BTreeSet<String>,
    /// The parts of their ids that things on hosts are named after.
    keys: BTreeSet<String>,
}

impl Belonging {
    async fn fetch(admin: &Client, name: &str) -> Result<Self> {
        let path = "/servers/detail?all_tenants=1";
        let servers = admin.get(Api::Compute, path).await?.ok()?;
        let ports = admin.get(Api::Network, "/ports").await?.ok()?;
        let mut it = Self {
            servers: BTreeMap::new(),
            ports: BTreeSet::new(),
            macs: BTreeSet::new(),
            keys: BTreeSet::new(),
        };
        let is_here = |server: &&Value| server["OS-EXT-SRV-ATTR:host"] == name;
        for server in list(&servers, "servers")?.iter().filter(is_here) {
            let runs = server["OS-EXT-STS:power_state"] == 1;
            it.servers.insert(text(server, "/id")?, runs);
        }
        let is_here = |port: &&Value| port["binding:host_id"] == name;
        for port in list(&ports, "ports")?.iter().filter(is_here) {
            let id = text(port, "/id")?;
            it.keys
                .insert(id.replace('-', "").chars().take(11).collect());
            it.macs.insert(text(port, "/mac_address")?);
            it.ports.insert(id);
        }
        Ok(it)
    }
}

/// The names in a folder; none if there is no such folder.
fn names(folder: &Path) -> Result<Vec<String>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // Half of a file that is being written.
        if !name.starts_with('.') {
            all.push(name);
        }
    }
    Ok(all)
}

/// The words in `text` that are one of the prefixes and eleven hexadecimal digits:
/// those digits.
fn keys(text: &str, prefixes: &[&str]) -> BTreeSet<String> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-')
        .filter_map(|word| {
            let rest = prefixes.iter().find_map(|it| word.strip_prefix(it))?;
            let is_key = rest.len() == 11 && rest.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_key.then(|| rest.to_owned())
        })
        .collect()
}

/// What is wrong on the host of this name.
pub async fn violations(host: &Host, name: &str, admin: &Client) -> Result<Vec<String>> {
    let here = Belonging::fetch(admin, name).await?;
    let mut wrong = Vec::new();
    let mut nobodys = |kind: &str, what: &str| {
        wrong.push(format!("host {name} has {kind} {what}, which is nobody's"));
    };
    for domain in host.domains().await?.split_whitespace() {
        let server = domain.strip_prefix("yakumo-").unwrap_or(domain);
        if !here.servers.contains_key(server) {
            nobodys("the domain", domain);
        }
    }
    let data = host.data();
    for guest in names(&data.join("compute/guests"))? {
        if !here.servers.contains_key(&guest) {
            nobodys("the disk of", &guest);
        }
    }
    let links = host.run(&["ip", "-o", "link", "show"]).await?;
    let rules = host.run(&["iptables-save"]).await?;
    let frames = host.run(&["ebtables-save"]).await?;
    let chains: String = frames
        .lines()
        .filter(|line| line.starts_with(':'))
        .flat_map(|line| [line, "\n"])
        .collect();
    for (kind, text, prefixes) in [
        ("the tap", &links, &["tap"][..]),
        ("rules of the port", &rules, &["yk-i", "yk-o"][..]),
        ("bridge rules of the port", &chains, &["yk-"][..]),
    ] {
        let there = keys(text, prefixes);
        for key in there.difference(&here.keys) {
            nobodys(kind, key);
        }
    }
    let dhcp = data.join("network/dhcp");
    for network in names(&dhcp)? {
        for port in names(&dhcp.join(&network).join("hosts"))? {
            if !here.ports.contains(&port) {
                nobodys("the DHCP entry", &port);
            }
        }
        let leases = dhcp.join(&network).join("leases");
        let leases = std::fs::read_to_string(leases).unwrap_or_default();
        for mac in leases.lines().filter_map(|line| line.split(' ').nth(1)) {
            if mac.len() == 17 && !here.macs.contains(mac) {
                nobodys("the lease", mac);
            }
        }
    }
    let taps = keys(&links, &["tap"]);
    for key in here.keys.difference(&taps) {
        wrong.push(format!("host {name} has no tap of port {key}"));
    }
    for (server, runs) in &here.servers {
        let qemus = host.qemus(server)?.len();
        if qemus != usize::from(*runs) {
            wrong.push(format!(
                "server {server} has {qemus} QEMUs on {name}, and runs: {runs}"
            ));
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_among_other_names() {
        let text = ":yk-FORWARD - [0:0]\n:yk-iaaaaaaaaaaa - [0:0]\n\
                    -A yk-FORWARD -m physdev --physdev-in tapbbbbbbbbbbb -j yk-obbbbbbbbbbb\n\
                    -A yk-FORWARD -o yk-11111111111 -j DROP\n3: tap0123456789a@if2: <UP>";
        let found: Vec<String> = keys(text, &["yk-i", "yk-o"]).into_iter().collect();
        assert_eq!(found, ["aaaaaaaaaaa", "bbbbbbbbbbb"]);
        let found: Vec<String> = keys(text, &["tap"]).into_iter().collect();
        assert_eq!(found, ["0123456789a", "bbbbbbbbbbb"]);
        assert!(keys(text, &["yk-w"]).is_empty());
    }
}
