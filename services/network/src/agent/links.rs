//! Bridges, taps and addresses: what is there, and the `ip` and `bridge`
//! batches that make it as it should be.
//!
//! A tap is a bridge port that learns nothing and is flooded with nothing: its
//! MAC is entered by us, so a frame for one server never reaches another one,
//! and a tap cannot take a MAC over. Frames may leave where they came in: the
//! kernel bridges what a server sends to its own floating IP. A link that has the tap's name already, of
//! whatever kind, is used as it is. Floating addresses on the outside interface
//! carry a label, so that those of others are never touched.
//!
//! An interface that carries a network between hosts learns nothing either, and
//! is the one port that is flooded: who is not here is behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use serde::Deserialize;
use yakumo_host::{Cmd, CommandError, CommandRunner};

use super::model::{Model, Network};
use super::render::nat::floating_ips;

/// What ends the label of an address of ours on the outside interface.
const LABEL: &str = ":yk";

/// One interface, as `ip -json -details address` shows it.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Link {
    /// Its name.
    pub ifname: String,
    /// `UP`, `LOWER_UP`, …
    #[serde(default)]
    pub flags: Vec<String>,
    /// MTU.
    #[serde(default)]
    pub mtu: u32,
    /// The bridge that it is a port of.
    #[serde(default)]
    pub master: Option<String>,
    /// Kind and details.
    #[serde(default)]
    pub linkinfo: LinkInfo,
    /// Addresses.
    #[serde(default)]
    pub addr_info: Vec<Address>,
}

/// Kind and details of an interface.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct LinkInfo {
    /// `bridge`, `tun`, `veth`, …
    #[serde(default)]
    pub info_kind: Option<String>,
    /// As a port of a bridge.
    #[serde(default)]
    pub info_slave_data: Option<PortFlags>,
}

/// Flags of a bridge port.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct PortFlags {
    /// Whether unknown destinations are sent here.
    #[serde(default)]
    pub flood: bool,
    /// Whether source addresses are learned here.
    #[serde(default)]
    pub learning: bool,
    /// Whether a frame may leave where it came in.
    #[serde(default)]
    pub hairpin: bool,
}

/// One address of an interface.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Address {
    /// `inet` or `inet6`.
    #[serde(default)]
    pub family: String,
    /// The address.
    #[serde(default)]
    pub local: String,
    /// Its prefix length.
    #[serde(default)]
    pub prefixlen: u8,
    /// Its label.
    #[serde(default)]
    pub label: String,
}

#[derive(Debug, Deserialize)]
struct FdbEntry {
    mac: String,
    ifname: String,
    #[serde(default)]
    master: Option<String>,
    #[serde(default)]
    state: String,
}

impl Link {
    fn is_up(&self) -> bool {
        self.flags.iter().any(|flag| flag == "UP")
    }

    pub(super) fn ipv4(&self) -> impl Iterator<Item = &Address> {
        self.addr_info
            .iter()
            .filter(|address| address.family == "inet")
    }

    fn is_our_bridge(&self) -> bool {
        self.linkinfo.info_kind.as_deref() == Some("bridge") && self.ifname.starts_with("yk-")
    }

    fn is_on_our_bridge(&self) -> bool {
        self.master
            .as_deref()
            .is_some_and(|master| master.starts_with("yk-"))
    }

    fn is_our_tap(&self) -> bool {
        self.is_on_our_bridge() && self.ifname.starts_with("tap")
    }
}

/// Everything that there is, by name.
pub type Links = BTreeMap<String, Link>;

/// Looks at all interfaces.
pub async fn read(runner: &dyn CommandRunner) -> anyhow::Result<Links> {
    let output = runner
        .run(Cmd::new("ip", ["-json", "-details", "address", "show"]))
        .await?;
    let links: Vec<Link> = serde_json::from_slice(&output.stdout)?;
    Ok(links
        .into_iter()
        .map(|link| {
            // A veth is shown as `name@peer` in some versions.
            let name = link.ifname.split('@').next().unwrap_or_default().to_owned();
            (
                name.clone(),
                Link {
                    ifname: name,
                    ..link
                },
            )
        })
        .collect())
}

/// Runs lines of `ip -batch` or `bridge -batch`; nothing for an empty text.
pub async fn batch(
    runner: &dyn CommandRunner,
    program: &str,
    text: String,
) -> Result<(), CommandError> {
    if text.is_empty() {
        return Ok(());
    }
    tracing::debug!(program, %text, "changing links");
    runner
        .run(Cmd::new(program, ["-batch", "-"]).stdin(text))
        .await?;
    Ok(())
}

/// Taps, bridges and floating addresses that should no longer be here. They go
/// before their rules do.
pub fn plan_removal(model: &Model, public: Option<&str>, present: &Links) -> String {
    let taps: BTreeSet<&str> = model.ports.values().map(|port| port.tap.as_str()).collect();
    let bridges: BTreeSet<&str> = model
        .networks
        .values()
        .map(|network| network.bridge.as_str())
        .collect();
    let mut text = String::new();
    for link in present.values() {
        if link.is_our_tap() && !taps.contains(link.ifname.as_str()) {
            let _ = writeln!(text, "link delete dev {}", link.ifname);
        }
    }
    let uplinks: BTreeSet<(&str, &str)> = model
        .networks
        .values()
        .filter_map(|network| Some((network.uplink.as_deref()?, network.bridge.as_str())))
        .collect();
    for link in present.values() {
        let place = (
            link.ifname.as_str(),
            link.master.as_deref().unwrap_or_default(),
        );
        if link.is_on_our_bridge() && !link.is_our_tap() && !uplinks.contains(&place) {
            let _ = writeln!(text, "link set dev {} nomaster", link.ifname);
        }
    }
    for link in present.values() {
        if link.is_our_bridge() && !bridges.contains(link.ifname.as_str()) {
            let _ = writeln!(text, "link delete dev {}", link.ifname);
        }
    }
    if let Some(link) = public.and_then(|public| present.get(public)) {
        let wanted: BTreeSet<String> = floating_ips(model)
            .into_iter()
            .map(|(floating, _)| floating.to_string())
            .collect();
        for address in link.ipv4() {
            if address.label.ends_with(LABEL) && !wanted.contains(&address.local) {
                let _ = writeln!(
                    text,
                    "address delete {}/{} dev {}",
                    address.local, address.prefixlen, link.ifname
                );
            }
        }
    }
    text
}

/// The bridges with their addresses. `host` makes the bridges' MACs differ
/// between hosts.
pub fn plan_bridges(model: &Model, host: &str, present: &Links) -> String {
    let mut text = String::new();
    for network in model.networks.values() {
        plan_bridge(network, host, present.get(&network.bridge), &mut text);
    }
    text
}

fn plan_bridge(network: &Network, host: &str, present: Option<&Link>, text: &mut String) {
    let bridge = &network.bridge;
    match present {
        None => {
            let _ = writeln!(
                text,
                "link add name {bridge} address {} mtu {} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
                bridge_mac(host, &network.id),
                network.mtu
            );
        }
        Some(link) if link.mtu != network.mtu => {
            let _ = writeln!(text, "link set dev {bridge} mtu {}", network.mtu);
        }
        Some(_) => {}
    }
    let wanted: BTreeSet<(String, u8)> = network
        .subnets
        .iter()
        .filter_map(|subnet| Some((subnet.serve?.to_string(), subnet.cidr.prefix())))
        .collect();
    let there: BTreeSet<(String, u8)> = present
        .into_iter()
        .flat_map(Link::ipv4)
        .map(|address| (address.local.clone(), address.prefixlen))
        .collect();
    for (address, prefix) in there.difference(&wanted) {
        let _ = writeln!(text, "address delete {address}/{prefix} dev {bridge}");
    }
    for (address, prefix) in wanted.difference(&there) {
        let _ = writeln!(text, "address add {address}/{prefix} brd + dev {bridge}");
    }
    if !present.is_some_and(Link::is_up) {
        let _ = writeln!(text, "link set dev {bridge} up");
    }
}

/// A MAC of our own, the same at every start: guests keep it in their caches.
fn bridge_mac(host: &str, network: &str) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(format!("{host}/{network}").as_bytes());
    let bytes: Vec<String> = digest
        .iter()
        .take(5)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("02:{}", bytes.join(":"))
}

/// The taps and what carries networks between hosts, plugged into their bridges.
/// By now the rules for them are in force.
pub fn plan_taps(model: &Model, present: &Links) -> String {
    let mut text = String::new();
    for network in model.networks.values() {
        let Some(uplink) = &network.uplink else {
            continue;
        };
        let link = present.get(uplink);
        let plugged = link.is_some_and(|link| link.master.as_ref() == Some(&network.bridge));
        if !plugged {
            let _ = writeln!(text, "link set dev {uplink} master {}", network.bridge);
        }
        let floods = link
            .and_then(|link| link.linkinfo.info_slave_data)
            .is_some_and(|flags| flags.flood && !flags.learning && !flags.hairpin);
        if !plugged || !floods {
            let _ = writeln!(
                text,
                "link set dev {uplink} type bridge_slave flood on learning off hairpin off"
            );
        }
        if !link.is_some_and(Link::is_up) {
            let _ = writeln!(text, "link set dev {uplink} up");
        }
    }
    for port in model.ports.values() {
        let Some(network) = model.networks.get(&port.network) else {
            continue;
        };
        let (tap, bridge) = (&port.tap, &network.bridge);
        let link = present.get(tap);
        if link.is_none() {
            let _ = writeln!(text, "tuntap add dev {tap} mode tap");
        }
        if link.is_none_or(|link| link.mtu != network.mtu) {
            let _ = writeln!(text, "link set dev {tap} mtu {}", network.mtu);
        }
        let plugged = link.is_some_and(|link| link.master.as_ref() == Some(bridge));
        if !plugged {
            let _ = writeln!(text, "link set dev {tap} master {bridge}");
        }
        let quiet = link
            .and_then(|link| link.linkinfo.info_slave_data)
            .is_some_and(|flags| !flags.flood && !flags.learning && flags.hairpin);
        if !plugged || !quiet {
            let _ = writeln!(
                text,
                "link set dev {tap} type bridge_slave flood off learning off hairpin on"
            );
        }
        if !link.is_some_and(Link::is_up) {
            let _ = writeln!(text, "link set dev {tap} up");
        }
    }
    text
}

/// Interfaces that will carry networks and did not before.
pub fn fresh_uplinks(model: &Model, before: &Links) -> Vec<String> {
    let networks = model.networks.values();
    networks
        .filter_map(|network| {
            let uplink = network.uplink.as_ref()?;
            let master = before.get(uplink).and_then(|link| link.master.as_ref());
            (master != Some(&network.bridge)).then(|| uplink.clone())
        })
        .collect()
}

/// The MACs behind the taps, as `bridge -batch` wants it. `shown` is the output
/// of `bridge -json fdb show`.
pub fn plan_macs(model: &Model, shown: &str) -> anyhow::Result<String> {
    let entries: Vec<FdbEntry> = serde_json::from_str(shown)?;
    let wanted: BTreeMap<&str, &str> = model
        .ports
        .values()
        .map(|port| (port.tap.as_str(), port.mac.as_str()))
        .collect();
    let mut there = BTreeSet::new();
    let mut text = String::new();
    for entry in entries {
        let ours =
            entry.state == "static" && entry.master.is_some_and(|master| master.starts_with("yk-"));
        let Some(mac) = wanted.get(entry.ifname.as_str()).filter(|_| ours) else {
            continue;
        };
        if *mac == entry.mac {
            there.insert(entry.ifname);
        } else {
            let _ = writeln!(text, "fdb delete {} dev {} master", entry.mac, entry.ifname);
        }
    }
    for (tap, mac) in wanted {
        if !there.contains(tap) {
            let _ = writeln!(text, "fdb replace {mac} dev {tap} master static");
        }
    }
    Ok(text)
}

/// The floating addresses that are missing on the outside interface.
pub fn missing_floating_ips(model: &Model, public: Option<&Link>) -> Vec<Ipv4Addr> {
    let Some(public) = public else {
        return Vec::new();
    };
    let there: BTreeSet<&str> = public
        .ipv4()
        .map(|address| address.local.as_str())
        .collect();
    floating_ips(model)
        .into_iter()
        .map(|(floating, _)| floating)
        .filter(|floating| !there.contains(floating.to_string().as_str()))
        .collect()
}

/// The line that adds a floating address.
pub fn add_floating_ip(address: Ipv4Addr, public: &str) -> String {
    format!("address add {address}/32 dev {public} label {public}{LABEL}\n")
}

/// The host's own addresses outside, without the floating ones.
pub fn own_addresses(public: Option<&Link>) -> BTreeSet<Ipv4Addr> {
    public
        .into_iter()
        .flat_map(Link::ipv4)
        .filter(|address| !address.label.ends_with(LABEL))
        .filter_map(|address| address.local.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::model::tests::{NET, sample};

    fn links(text: &str) -> Links {
        let links: Vec<Link> = serde_json::from_str(text).unwrap();
        links
            .into_iter()
            .map(|link| (link.ifname.clone(), link))
            .collect()
    }

    #[test]
    fn everything_is_made_in_order() {
        let model = Model::read(&sample());
        let mac = bridge_mac("node-1", NET);
        assert_eq!(
            plan_bridges(&model, "node-1", &Links::new()),
            format!(
                "link add name yk-11111111111 address {mac} mtu 1450 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
                 address add 10.0.0.1/24 brd + dev yk-11111111111\nlink set dev yk-11111111111 up\n"
            )
        );
        let taps = plan_taps(&model, &Links::new());
        assert!(taps.starts_with(
            "tuntap add dev tapaaaaaaaaaaa mode tap\nlink set dev tapaaaaaaaaaaa mtu 1450\n\
             link set dev tapaaaaaaaaaaa master yk-11111111111\n\
             link set dev tapaaaaaaaaaaa type bridge_slave flood off learning off hairpin on\n\
             link set dev tapaaaaaaaaaaa up\ntuntap add dev tapbbbbbbbbbbb mode tap\n"
        ));
        assert_eq!(
            plan_macs(&model, "[]").unwrap(),
            "fdb replace fa:16:3e:00:00:0a dev tapaaaaaaaaaaa master static\n\
             fdb replace fa:16:3e:00:00:0b dev tapbbbbbbbbbbb master static\n"
        );
    }

    #[test]
    fn what_carries_a_network_is_flooded_and_is_released_when_it_no_longer_does() {
        let mut model = Model::read(&sample());
        let free = links(r#"[{"ifname":"eth1","mtu":1500}]"#);
        let network = model.networks.get_mut(NET).unwrap();
        network.uplink = Some("eth1".into());
        assert!(plan_taps(&model, &free).starts_with(
            "link set dev eth1 master yk-11111111111\n\
             link set dev eth1 type bridge_slave flood on learning off hairpin off\n\
             link set dev eth1 up\ntuntap add dev tapaaaaaaaaaaa mode tap\n"
        ));
        let plugged = links(
            r#"[{"ifname":"eth1","flags":["UP"],"mtu":1500,"master":"yk-11111111111",
              "linkinfo":{"info_slave_data":{"flood":true,"learning":false,"hairpin":false}}}]"#,
        );
        assert!(plan_taps(&model, &plugged).starts_with("tuntap"));
        assert_eq!(plan_removal(&model, None, &plugged), "");
        // It is a part of the machine, and is never deleted.
        for gone in [Model::default(), Model::read(&sample())] {
            assert_eq!(
                plan_removal(&gone, None, &plugged),
                "link set dev eth1 nomaster\n"
            );
        }
    }

    #[test]
    fn what_is_right_is_left_alone_and_what_is_stale_goes() {
        let mut state = sample();
        state.ports.remove(0);
        let model = Model::read(&state);
        let present = links(
            r#"[
            {"ifname":"eth0","flags":["UP"],"mtu":1500,"addr_info":[
              {"family":"inet","local":"172.24.4.2","prefixlen":24,"label":"eth0"},
              {"family":"inet","local":"172.24.4.5","prefixlen":32,"label":"eth0:yk"},
              {"family":"inet","local":"172.24.4.9","prefixlen":32,"label":"eth0:yk"}]},
            {"ifname":"docker0","flags":[],"mtu":1500,"linkinfo":{"info_kind":"bridge"},"addr_info":[]},
            {"ifname":"yk-11111111111","flags":["UP"],"mtu":1450,"linkinfo":{"info_kind":"bridge"},
              "addr_info":[{"family":"inet","local":"10.0.0.1","prefixlen":24,"label":"yk-11111111111"}]},
            {"ifname":"yk-22222222222","flags":["UP"],"mtu":1450,"linkinfo":{"info_kind":"bridge"},"addr_info":[]},
            {"ifname":"tapaaaaaaaaaaa","flags":["UP"],"mtu":1450,"master":"yk-11111111111",
              "linkinfo":{"info_kind":"tun","info_slave_data":{"flood":false,"learning":false,"hairpin":true}},"addr_info":[]},
            {"ifname":"tapbbbbbbbbbbb","flags":["UP"],"mtu":1450,"master":"yk-11111111111","addr_info":[]},
            {"ifname":"tapfffffffffff","flags":["UP"],"mtu":1450,"master":"brq1","addr_info":[]}]"#,
        );
        assert_eq!(plan_bridges(&model, "node-1", &present), "");
        assert_eq!(plan_taps(&model, &present), "");
        assert_eq!(
            plan_removal(&model, Some("eth0"), &present),
            "link delete dev tapbbbbbbbbbbb\nlink delete dev yk-22222222222\naddress delete 172.24.4.9/32 dev eth0\n"
        );
        assert!(missing_floating_ips(&model, present.get("eth0")).is_empty());
        assert_eq!(
            own_addresses(present.get("eth0")),
            BTreeSet::from([Ipv4Addr::new(172, 24, 4, 2)])
        );
        let shown = r#"[{"mac":"fa:16:3e:00:00:0a","ifname":"tapaaaaaaaaaaa","flags":[],"master":"yk-11111111111","state":"static"},
            {"mac":"fa:16:3e:00:00:99","ifname":"tapaaaaaaaaaaa","flags":[],"master":"yk-11111111111","state":"static"},
            {"mac":"33:33:00:00:00:01","ifname":"eth0","flags":["self"],"state":"permanent"}]"#;
        assert_eq!(
            plan_macs(&model, shown).unwrap(),
            "fdb delete fa:16:3e:00:00:99 dev tapaaaaaaaaaaa master\n"
        );
    }
}
