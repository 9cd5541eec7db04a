//! `[network]`: the settings of the manager and of the agents.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};
use yakumo_db::DbConfig;

/// The section `[network]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The service that owns networks, addresses and rules.
    pub manager: ManagerConfig,
    /// The agent on a host.
    pub host: HostConfig,
}

/// How networks get onto hosts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// One bridge for each network, addresses by DHCP, the host is the gateway.
    #[default]
    FlatDhcp,
}

/// The section `[network.manager]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ManagerConfig {
    /// Where the manager keeps its tables.
    pub database: DbConfig,
    /// How networks get onto hosts.
    pub mode: Mode,
    /// MTU of networks that name none.
    pub mtu: u32,
    /// Name of the physical network that flat networks are on.
    pub physical_network: String,
    /// The zone of agents that name none.
    pub availability_zone: String,
    /// Ranges that no tenant's subnet may overlap: whatever the machines
    /// themselves use belongs in here. Administrators may use those that work
    /// at all, since networks to the outside are often among them.
    pub reserved_cidrs: Vec<Ipv4Network>,
    /// The least prefix length of a tenant's subnet, 8 to 30: no two subnets
    /// overlap, so a large one takes its addresses from everybody.
    pub tenant_min_prefix: u8,
    /// An agent that was not heard for so long is down.
    pub host_down_seconds: u64,
    /// How long wiring the ports of a server may take.
    pub wire_timeout_seconds: u64,
    /// How long a release waits for the host's word before it goes on without.
    pub release_wait_seconds: u64,
    /// Limits of projects that have none of their own; -1 for no limit.
    pub quotas: QuotaDefaults,
}

impl Default for ManagerConfig {
    fn default() -> Self {
        Self {
            database: DbConfig::default(),
            mode: Mode::FlatDhcp,
            mtu: 1500,
            physical_network: "public".into(),
            availability_zone: "nova".into(),
            reserved_cidrs: unusable(),
            tenant_min_prefix: 16,
            host_down_seconds: 75,
            wire_timeout_seconds: 30,
            release_wait_seconds: 5,
            quotas: QuotaDefaults::default(),
        }
    }
}

impl ManagerConfig {
    /// Refuses what could not work.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            (8..=30).contains(&self.tenant_min_prefix),
            "network.manager.tenant_min_prefix must be 8 to 30"
        );
        Ok(())
    }
}

/// What no server can be reached in, whoever makes the subnet: this network,
/// loopback, link-local (metadata is there), multicast, and what is left over.
pub fn unusable() -> Vec<Ipv4Network> {
    [
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/4",
        "240.0.0.0/4",
    ]
    .iter()
    .filter_map(|text| text.parse().ok())
    .collect()
}

/// The section `[network.manager.quotas]`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct QuotaDefaults {
    pub network: i64,
    pub subnet: i64,
    pub port: i64,
    pub router: i64,
    pub floatingip: i64,
    pub security_group: i64,
    pub security_group_rule: i64,
}

impl Default for QuotaDefaults {
    fn default() -> Self {
        Self {
            network: 100,
            subnet: 100,
            port: 500,
            router: 10,
            floatingip: 50,
            security_group: 10,
            security_group_rule: 100,
        }
    }
}

/// What an agent does with its host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// Bridges, taps, dnsmasq, rules.
    #[default]
    Real,
    /// Nothing but saying that it is done.
    Simulated,
}

/// The section `[network.host]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostConfig {
    /// Whether this process is a host.
    pub enabled: bool,
    /// What the agent does with its host.
    pub driver: Driver,
    /// The network namespace that bridges, taps, dnsmasq and rules live in;
    /// empty for the machine's own.
    pub netns: String,
    /// The interface (inside that namespace) towards the outside world: source
    /// addresses are translated there, and floating IPs are added to it. At
    /// most 12 characters. Empty: guests do not reach the outside.
    pub public_interface: String,
    /// Interfaces (inside that namespace) that carry flat networks between
    /// hosts, by the names of physical networks. Such an interface becomes a
    /// port of its network's bridge and belongs to that alone: it has no
    /// address, and is not the way out.
    pub flat_interfaces: BTreeMap<String, String>,
    /// The default gateway of the namespace, set if there is none.
    pub public_gateway: Option<Ipv4Addr>,
    /// Where the agent keeps its state; `<data_dir>/network` of the program if empty.
    pub data_dir: PathBuf,
    /// The port, on each network's gateway address, that metadata requests are sent to.
    pub metadata_port: u16,
    /// How long an address is lent by DHCP, in seconds.
    pub lease_seconds: u32,
    /// The domain that guests search.
    pub domain: String,
    /// Seconds between two looks at the whole host.
    pub resync_seconds: u64,
    /// Seconds between two signs of life.
    pub announce_seconds: u64,
    /// Whether DHCP servers end with the agent; rules, bridges and taps always stay.
    pub stop_children: bool,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            driver: Driver::Real,
            netns: String::new(),
            public_interface: String::new(),
            flat_interfaces: BTreeMap::new(),
            public_gateway: None,
            data_dir: PathBuf::new(),
            metadata_port: 8775,
            lease_seconds: 86_400,
            domain: "yakumo.local".into(),
            resync_seconds: 60,
            announce_seconds: 10,
            stop_children: true,
        }
    }
}

impl HostConfig {
    /// Refuses what could not work.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.public_interface.len() <= 12,
            "network.host.public_interface must be at most 12 characters long"
        );
        anyhow::ensure!(
            self.resync_seconds > 0 && self.announce_seconds > 0 && self.lease_seconds >= 120,
            "network.host: intervals must not be zero, and a lease lasts two minutes or more"
        );
        let mut taken = BTreeSet::from([self.public_interface.as_str()]);
        for (physical, interface) in &self.flat_interfaces {
            let fits = (1..=15).contains(&interface.len())
                && interface
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && byte != b'/')
                && !interface.starts_with("yk-")
                && !interface.starts_with("tap");
            anyhow::ensure!(
                fits,
                "network.host.flat_interfaces.{physical}: {interface:?} cannot be the name of an interface"
            );
            anyhow::ensure!(
                taken.insert(interface),
                "network.host.flat_interfaces.{physical}: {interface} is used for something else already"
            );
        }
        Ok(())
    }

    /// The namespace, if it is not the machine's own.
    pub fn netns(&self) -> Option<&str> {
        (!self.netns.is_empty()).then_some(self.netns.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unusable_is_reserved_unless_it_is_said_otherwise() {
        let config = ManagerConfig::default();
        assert_eq!(config.reserved_cidrs.len(), 5);
        config.check().unwrap();
        for tenant_min_prefix in [7, 31] {
            let config = ManagerConfig {
                tenant_min_prefix,
                ..ManagerConfig::default()
            };
            assert!(config.check().is_err());
        }
    }

    #[test]
    fn an_interface_carries_one_thing() {
        let host = |interfaces: &[(&str, &str)]| HostConfig {
            public_interface: "eth0".into(),
            flat_interfaces: interfaces
                .iter()
                .map(|(physical, name)| ((*physical).to_owned(), (*name).to_owned()))
                .collect(),
            ..HostConfig::default()
        };
        host(&[("a", "eth1"), ("b", "eth2")]).check().unwrap();
        for bad in [
            &[("a", "eth0")][..],
            &[("a", "eth1"), ("b", "eth1")],
            &[("a", "")],
            &[("a", "an interface")],
            &[("a", "sixteen-letters!")],
            &[("a", "yk-0")],
            &[("a", "tap0")],
        ] {
            assert!(host(bad).check().is_err(), "{bad:?}");
        }
    }
}
