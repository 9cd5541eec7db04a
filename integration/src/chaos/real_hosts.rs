//! What real hosts have and nobody owns, or have twice: domains, QEMUs, disks,
//! volume files, storage daemons, taps, rules, DHCP entries and leases. Looked at
//! from outside, in a host's namespaces and on its disk, and compared with what the
//! APIs show; what stores volumes, with the host's own records, which are compared
//! with the APIs elsewhere.

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

/// What the storage agent keeps, as its records say.
#[derive(Default)]
struct Kept {
    volumes: BTreeSet<String>,
    /// Attachments that a volume is exported for, without hyphens.
    exports: BTreeSet<String>,
}

impl Kept {
    fn read(folder: &Path) -> Result<Self> {
        let mut kept = Self::default();
        for file in names(folder)? {
            let Some(volume) = file.strip_suffix(".json") else {
                continue;
            };
            let record: Value = serde_json::from_slice(&std::fs::read(folder.join(&file))?)?;
            let export = record["export"]["attachment_id"].as_str();
            kept.exports.extend(export.map(|id| id.replace('-', "")));
            kept.volumes.insert(volume.to_owned());
        }
        Ok(kept)
    }

    /// Whether a file is one of these volumes, or half of one.
    fn has_file(&self, file: &str) -> bool {
        let volume = file.strip_suffix(".qcow2");
        let volume = volume.or_else(|| file.strip_suffix(".partial"));
        volume.is_some_and(|volume| self.volumes.contains(volume))
    }

    /// Disks of a guest that lead to no export.
    fn wrong_disks(&self, server: &str, plugged: &[String]) -> Vec<String> {
        let ended = plugged.iter().filter(|it| !self.exports.contains(*it));
        ended
            .map(|it| format!("a disk in {server} over the export of {it}, which is none"))
            .collect()
    }

    /// What is wrong with the daemons, of which each serves one attachment.
    fn wrong_daemons(&self, serving: &[String]) -> Vec<String> {
        let mut all: BTreeMap<&str, u32> = BTreeMap::new();
        for attachment in &self.exports {
            all.insert(attachment, 0);
        }
        for attachment in serving {
            *all.entry(attachment).or_default() += 1;
        }
        let wrong = all.into_iter().filter_map(|(attachment, count)| {
            match (self.exports.contains(attachment), count) {
                (true, 1) => None,
                (true, _) => Some(format!("{count} storage daemons of {attachment}")),
                (false, _) => Some(format!(
                    "the storage daemon of {attachment}, which is nobody's"
                )),
            }
        });
        wrong.collect()
    }
}

/// The attachments over whose exports volumes are plugged into a guest.
fn plugged(domain_xml: &str) -> Vec<String> {
    let sockets = domain_xml.split("<host transport='unix' socket='").skip(1);
    let sockets = sockets.filter_map(|rest| Path::new(rest.split('\'').next()?).file_stem());
    sockets
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

/// What a storage daemon serves: the attachment that its pid file is named after.
/// Nothing if the command line is another program's.
fn served(command_line: &str) -> Option<String> {
    let mut words = command_line.split('\0');
    let program = Path::new(words.next()?).file_name()?;
    if program != "qemu-storage-daemon" {
        return None;
    }
    let pid_file = words.skip_while(|word| *word != "--pidfile").nth(1);
    let attachment = pid_file.and_then(|path| Path::new(path).file_stem());
    Some(match attachment {
        Some(attachment) => attachment.to_string_lossy().into_owned(),
        None => command_line.replace('\0', " "),
    })
}

/// What the host's storage daemons serve.
fn storage_daemons(host: &Host) -> Result<Vec<String>> {
    let folder = host.folder().display().to_string();
    let mut all = Vec::new();
    for process in host.processes_naming("qemu-storage-daemon")? {
        // It may have ended meanwhile.
        let Ok(line) = std::fs::read(format!("/proc/{process}/cmdline")) else {
            continue;
        };
        let line = String::from_utf8_lossy(&line);
        if line.contains(&folder) {
            all.extend(served(&line));
        }
    }
    Ok(all)
}

/// What several of a network's DHCP entries give: `MAC,tag,address,name` for each
/// port.
fn given_twice(entries: &BTreeMap<String, String>) -> Vec<String> {
    let mut given: BTreeMap<&str, &str> = BTreeMap::new();
    let mut twice = Vec::new();
    for (port, entry) in entries {
        let words: Vec<&str> = entry.trim().split(',').collect();
        let parts = [words.first(), words.get(2)].into_iter().flatten();
        for word in parts.copied() {
            if let Some(other) = given.insert(word, port) {
                twice.push(format!("two DHCP entries of {word}: {other} and {port}"));
            }
        }
    }
    twice
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
    let stored = data.join("volume");
    let kept = Kept::read(&stored.join("records"))?;
    let mut others = kept.wrong_daemons(&storage_daemons(host)?);
    let running = here.servers.iter().filter(|(_, runs)| **runs);
    for (server, _) in running {
        // One that is missing is told of below.
        let xml = host.domain_xml(&format!("yakumo-{server}")).await;
        let xml = xml.unwrap_or_default();
        others.extend(kept.wrong_disks(server, &plugged(&xml)));
    }
    for guest in names(&data.join("compute/guests"))? {
        if !here.servers.contains_key(&guest) {
            nobodys("the disk of", &guest);
        }
    }
    for file in names(&stored.join("volumes"))? {
        if !kept.has_file(&file) {
            nobodys("the volume file", &file);
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
        let folder = dhcp.join(&network).join("hosts");
        let mut entries = BTreeMap::new();
        for port in names(&folder)? {
            if !here.ports.contains(&port) {
                nobodys("the DHCP entry", &port);
            }
            let entry = std::fs::read_to_string(folder.join(&port))?;
            entries.insert(port, entry);
        }
        others.extend(given_twice(&entries));
        let leases = dhcp.join(&network).join("leases");
        let leases = std::fs::read_to_string(leases).unwrap_or_default();
        for mac in leases.lines().filter_map(|line| line.split(' ').nth(1)) {
            if mac.len() == 17 && !here.macs.contains(mac) {
                nobodys("the lease", mac);
            }
        }
    }
    let others = others.iter().map(|it| format!("host {name} has {it}"));
    wrong.extend(others);
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

    #[test]
    fn a_daemon_serves_what_its_pid_file_is_named_after() {
        let line =
            "/usr/bin/qemu-storage-daemon\0--daemonize\0--pidfile\0/run/v/aa.pid\0--export\0";
        assert_eq!(served(line).as_deref(), Some("aa"));
        let bare = "qemu-storage-daemon\0--daemonize\0";
        assert_eq!(
            served(bare).as_deref(),
            Some("qemu-storage-daemon --daemonize ")
        );
        assert_eq!(served("tail\0-f\0qemu-storage-daemon\0"), None);
        assert_eq!(served(""), None);
    }

    #[test]
    fn a_disk_leads_to_an_export() {
        let xml = "<disk type='file'><source file='/d/a.qcow2'/></disk>\
            <disk type='network'><source protocol='nbd' name='x' index='1'>\
            <host transport='unix' socket='/run/v/one.sock'/><reconnect delay='60'/></source></disk>\
            <disk type='network'><source protocol='nbd' name='y' index='2'>\
            <host transport='unix' socket='/run/v/gone.sock'/></source></disk>";
        let kept = Kept {
            exports: BTreeSet::from(["one".into()]),
            ..Kept::default()
        };
        assert_eq!(plugged(xml), ["one", "gone"]);
        let wanted = ["a disk in web over the export of gone, which is none"];
        assert_eq!(kept.wrong_disks("web", &plugged(xml)), wanted);
    }

    #[test]
    fn each_export_has_one_daemon_and_each_daemon_an_export() {
        let kept = Kept {
            volumes: BTreeSet::from(["v".into()]),
            exports: ["one", "none", "two"].map(str::to_owned).into(),
        };
        let serving = ["one", "two", "two", "stray"].map(str::to_owned);
        let wanted = [
            "0 storage daemons of none",
            "the storage daemon of stray, which is nobody's",
            "2 storage daemons of two",
        ];
        assert_eq!(kept.wrong_daemons(&serving), wanted);
        assert!(Kept::default().wrong_daemons(&[]).is_empty());
        for (file, is_kept) in [
            ("v.qcow2", true),
            ("v.partial", true),
            ("v", false),
            ("w.qcow2", false),
        ] {
            assert_eq!(kept.has_file(file), is_kept, "{file}");
        }
    }

    fn entries(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        let all = all.iter();
        all.map(|(port, entry)| ((*port).to_owned(), (*entry).to_owned()))
            .collect()
    }

    #[test]
    fn an_entry_shares_neither_mac_nor_address() {
        let well = [
            ("a", "fa:16:3e:00:00:0a,set:s1,10.0.0.5,web\n"),
            ("b", "fa:16:3e:00:00:0b,set:s1,10.0.0.6,web\n"),
        ];
        assert!(given_twice(&entries(&well)).is_empty());
        let address = ("c", "fa:16:3e:00:00:0c,set:s1,10.0.0.6,c\n");
        let mac = ("d", "fa:16:3e:00:00:0a,set:s1,10.0.0.7,d\n");
        let all = [well[0], well[1], address, mac];
        let wanted = [
            "two DHCP entries of 10.0.0.6: b and c",
            "two DHCP entries of fa:16:3e:00:00:0a: a and d",
        ];
        assert_eq!(given_twice(&entries(&all)), wanted);
    }
}
