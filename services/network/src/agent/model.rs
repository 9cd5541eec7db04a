//! A host's desired state, read into types that rendering can rely on.
//!
//! What cannot be read is left out and reported: one strange row must not keep
//! the whole host from being made right.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use yakumo_contracts::network::{
    GroupMembers, HostNetwork, HostPort, HostRule, HostSecurityGroup, HostState, HostSubnet,
};

/// Everything that a host has to make real.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    /// Networks by id.
    pub networks: BTreeMap<String, Network>,
    /// Ports by id.
    pub ports: BTreeMap<String, Port>,
    /// Rules of security groups by id.
    pub groups: BTreeMap<String, Vec<Rule>>,
    /// Members of remote groups by the group's id: addresses, and the ids of
    /// the ports that have them.
    pub members: BTreeMap<String, BTreeMap<Ipv4Addr, String>>,
    /// What could not be read, for the log.
    pub rejected: Vec<String>,
}

/// One network on this host: one bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its id.
    pub id: String,
    /// Name of the bridge, 14 characters.
    pub bridge: String,
    /// MTU of bridge and taps.
    pub mtu: u32,
    /// Whether packets may leave for the outside.
    pub routed: bool,
    /// Networks with the same router reach each other.
    pub router: Option<String>,
    /// What carries it between hosts; empty for nothing.
    pub physical: String,
    /// The interface that does so here.
    pub uplink: Option<String>,
    /// IPv4 subnets.
    pub subnets: Vec<Subnet>,
}

/// One subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// Its id.
    pub id: String,
    /// Address and prefix.
    pub cidr: Ipv4Network,
    /// Default gateway that guests are told.
    pub gateway: Option<Ipv4Addr>,
    /// The bridge's own address in it.
    pub serve: Option<Ipv4Addr>,
    /// Whether addresses are given out.
    pub dhcp: bool,
    /// Name servers that guests are told.
    pub dns: Vec<Ipv4Addr>,
    /// Routes that guests are told.
    pub routes: Vec<(Ipv4Network, Ipv4Addr)>,
}

/// One port of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its id.
    pub id: String,
    /// The network that it is on.
    pub network: String,
    /// The project that it belongs to.
    pub project: String,
    /// The server that it belongs to.
    pub server: String,
    /// First eleven hexadecimal digits of the id: part of all names.
    pub key: String,
    /// Name of the tap, 14 characters.
    pub tap: String,
    /// MAC, lower case.
    pub mac: String,
    /// Name that the guest is told.
    pub hostname: String,
    /// Whether anything may pass at all.
    pub up: bool,
    /// Whether addresses and rules are enforced.
    pub security: bool,
    /// Subnet and address.
    pub fixed: Vec<(String, Ipv4Addr)>,
    /// Ids of its groups.
    pub groups: Vec<String>,
    /// Floating address and the fixed one behind it.
    pub floating: Vec<(Ipv4Addr, Ipv4Addr)>,
}

/// What a rule matches in the IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Everything.
    Any,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP.
    Icmp,
    /// Another one by its number.
    Number(u8),
}

impl Protocol {
    /// Reads the API's word: a name or a number.
    pub fn parse(text: &str) -> Option<Self> {
        let number = match text.to_ascii_lowercase().as_str() {
            "" | "any" => return Some(Self::Any),
            "icmp" | "1" => return Some(Self::Icmp),
            "tcp" | "6" => return Some(Self::Tcp),
            "udp" | "17" => return Some(Self::Udp),
            "igmp" => 2,
            "ipip" => 4,
            "egp" => 8,
            "dccp" => 33,
            "ipv6-encap" => 41,
            "ipv6-route" => 43,
            "ipv6-frag" => 44,
            "rsvp" => 46,
            "gre" => 47,
            "esp" => 50,
            "ah" => 51,
            "ipv6-icmp" | "icmpv6" => 58,
            "ipv6-nonxt" => 59,
            "ipv6-opts" => 60,
            "ospf" => 89,
            "pgm" => 113,
            "vrrp" => 112,
            "sctp" => 132,
            "udplite" => 136,
            // To the programs that apply rules, number 0 means everything.
            "0" => return Some(Self::Any),
            other => other.parse().ok()?,
        };
        Some(Self::Number(number))
    }

    /// Its number; `None` for any.
    pub fn number(self) -> Option<u8> {
        match self {
            Self::Any => None,
            Self::Icmp => Some(1),
            Self::Tcp => Some(6),
            Self::Udp => Some(17),
            Self::Number(number) => Some(number),
        }
    }
}

/// One rule of a group: what it lets pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Towards the port, or from it.
    pub ingress: bool,
    /// Protocol.
    pub protocol: Protocol,
    /// Lowest port, or ICMP type.
    pub min: Option<u16>,
    /// Highest port, or ICMP code.
    pub max: Option<u16>,
    /// The other side's addresses.
    pub prefix: Option<Ipv4Network>,
    /// The other side's group.
    pub group: Option<String>,
}

/// The first eleven hexadecimal digits of an id: what fits into the 15
/// characters of an interface's name beside a prefix.
pub fn key_of(id: &str) -> String {
    id.chars()
        .filter(char::is_ascii_hexdigit)
        .take(11)
        .collect::<String>()
        .to_ascii_lowercase()
}

/// Name of a port's tap.
pub fn tap_name(port_id: &str) -> String {
    format!("tap{}", key_of(port_id))
}

/// Name of a network's bridge.
pub fn bridge_name(network_id: &str) -> String {
    format!("yk-{}", key_of(network_id))
}

/// Name of the set of a group's members: 27 characters of 31.
pub fn set_name(group_id: &str) -> String {
    let digits: String = group_id
        .chars()
        .filter(char::is_ascii_hexdigit)
        .take(24)
        .collect();
    format!("yk-{}", digits.to_ascii_lowercase())
}

impl Model {
    /// Reads a state.
    pub fn read(state: &HostState) -> Self {
        let mut model = Self::default();
        for network in &state.networks {
            model.put_network(network);
        }
        for port in &state.ports {
            model.put_port(port);
        }
        for group in &state.security_groups {
            model.put_group(group);
        }
        for members in &state.members {
            model.put_members(members);
        }
        model
    }

    /// Reads a network.
    pub fn put_network(&mut self, network: &HostNetwork) {
        let network = read_network(network, &mut self.rejected);
        self.networks.insert(network.id.clone(), network);
    }

    /// Reads a port, whose network must have been read.
    pub fn put_port(&mut self, port: &HostPort) {
        match read_port(port, &self.networks) {
            Ok(port) => {
                self.ports.insert(port.id.clone(), port);
            }
            Err(why) => self.rejected.push(format!("port {}: {why}", port.id)),
        }
    }

    /// Reads a group.
    pub fn put_group(&mut self, group: &HostSecurityGroup) {
        let mut rules = Vec::new();
        for rule in &group.rules {
            match read_rule(rule) {
                Some(rule) => rules.push(rule),
                None => self
                    .rejected
                    .push(format!("a rule of group {}: {rule:?}", group.id)),
            }
        }
        self.groups.insert(group.id.clone(), rules);
    }

    /// Reads the members of a group.
    pub fn put_members(&mut self, members: &GroupMembers) {
        let ports = members.port_ids.iter().map(String::as_str);
        // A service that does not tell the ports sends no changes either.
        let ports = ports.chain(std::iter::repeat(""));
        let addresses = members
            .addresses
            .iter()
            .zip(ports)
            .filter_map(|(text, port)| Some((text.parse().ok()?, port.to_owned())))
            .collect();
        self.members.insert(members.group_id.clone(), addresses);
    }

    /// The networks that `keep` says, with their ports; without rules.
    pub fn of_networks(&self, keep: impl Fn(&str) -> bool) -> Self {
        Self {
            networks: self
                .networks
                .iter()
                .filter(|(id, _)| keep(id))
                .map(|(id, network)| (id.clone(), network.clone()))
                .collect(),
            ports: self
                .ports
                .iter()
                .filter(|(_, port)| keep(&port.network))
                .map(|(id, port)| (id.clone(), port.clone()))
                .collect(),
            ..Self::default()
        }
    }

    /// The rules of a port in one direction.
    pub fn rules<'a>(&'a self, port: &'a Port, ingress: bool) -> impl Iterator<Item = &'a Rule> {
        port.groups
            .iter()
            .filter_map(|group| self.groups.get(group))
            .flatten()
            .filter(move |rule| rule.ingress == ingress)
    }

    /// Every address that the host itself has on its bridges.
    pub fn serve_addresses(&self) -> BTreeSet<Ipv4Addr> {
        self.networks
            .values()
            .flat_map(|network| &network.subnets)
            .filter_map(|subnet| subnet.serve)
            .collect()
    }

    /// Ports by fixed address. Subnets of one cloud do not overlap.
    pub fn by_address(&self) -> BTreeMap<Ipv4Addr, &Port> {
        self.ports
            .values()
            .flat_map(|port| port.fixed.iter().map(move |(_, address)| (*address, port)))
            .collect()
    }
}

fn read_network(network: &HostNetwork, rejected: &mut Vec<String>) -> Network {
    let mut subnets = Vec::new();
    for subnet in &network.subnets {
        match read_subnet(subnet) {
            Some(subnet) => subnets.push(subnet),
            None => rejected.push(format!("subnet {}", subnet.id)),
        }
    }
    Network {
        id: network.id.clone(),
        bridge: bridge_name(&network.id),
        mtu: network.mtu.clamp(576, 65_535),
        routed: network.routed,
        router: (!network.router_id.is_empty()).then(|| network.router_id.clone()),
        physical: network.provider_physical_network.clone(),
        uplink: None,
        subnets,
    }
}

fn read_subnet(subnet: &HostSubnet) -> Option<Subnet> {
    let address = |text: &str| -> Option<Option<Ipv4Addr>> {
        if text.is_empty() {
            return Some(None);
        }
        text.parse().ok().map(Some)
    };
    Some(Subnet {
        id: subnet.id.clone(),
        cidr: subnet.cidr.parse().ok()?,
        gateway: address(&subnet.gateway_ip)?,
        serve: address(&subnet.serve_address)?,
        dhcp: subnet.enable_dhcp,
        dns: subnet
            .dns_nameservers
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect(),
        routes: subnet
            .host_routes
            .iter()
            .filter_map(|route| {
                Some((route.destination.parse().ok()?, route.nexthop.parse().ok()?))
            })
            .collect(),
    })
}

fn read_port(port: &HostPort, networks: &BTreeMap<String, Network>) -> Result<Port, String> {
    let key = key_of(&port.id);
    if key.len() != 11 {
        return Err("the id is no id".into());
    }
    if !networks.contains_key(&port.network_id) {
        return Err("its network is missing".into());
    }
    let mac = port.mac_address.to_ascii_lowercase();
    let is_mac = mac.len() == 17
        && mac
            .split(':')
            .all(|byte| byte.len() == 2 && byte.bytes().all(|digit| digit.is_ascii_hexdigit()));
    if !is_mac {
        return Err("its MAC is no MAC".into());
    }
    let fixed = port
        .fixed_ips
        .iter()
        .filter_map(|ip| Some((ip.subnet_id.clone(), ip.ip_address.parse().ok()?)))
        .collect();
    let floating = port
        .floating_ips
        .iter()
        .filter_map(|ip| Some((ip.address.parse().ok()?, ip.fixed_address.parse().ok()?)))
        .collect();
    Ok(Port {
        id: port.id.clone(),
        network: port.network_id.clone(),
        project: port.project_id.clone(),
        server: port.server_id.clone(),
        tap: tap_name(&port.id),
        key,
        mac,
        hostname: host_label(&port.hostname, &port.id),
        up: port.admin_state_up,
        security: port.port_security_enabled,
        fixed,
        groups: port.security_groups.clone(),
        floating,
    })
}

/// A name that DHCP may carry: letters, digits and inner hyphens.
fn host_label(name: &str, port_id: &str) -> String {
    let label: String = name
        .chars()
        .take_while(|letter| *letter != '.')
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .take(63)
        .collect();
    let label = label.trim_matches('-');
    if label.is_empty() {
        format!("host-{}", key_of(port_id))
    } else {
        label.to_owned()
    }
}

fn read_rule(rule: &HostRule) -> Option<Rule> {
    let bound = |value: Option<i32>| -> Option<Option<u16>> {
        match value {
            None => Some(None),
            Some(value) => u16::try_from(value).ok().map(Some),
        }
    };
    Some(Rule {
        ingress: rule.ingress,
        protocol: Protocol::parse(&rule.protocol)?,
        min: bound(rule.port_range_min)?,
        max: bound(rule.port_range_max)?,
        prefix: match rule.remote_ip_prefix.as_str() {
            "" => None,
            text => Some(text.parse().ok()?),
        },
        group: (!rule.remote_group_id.is_empty()).then(|| rule.remote_group_id.clone()),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use yakumo_contracts::network::{FixedIp, HostFloatingIp};

    pub(crate) const NET: &str = "11111111-1111-4111-8111-111111111111";
    pub(crate) const PORT_A: &str = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa";
    pub(crate) const PORT_B: &str = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb";
    /// On another host.
    pub(crate) const PORT_C: &str = "eeeeeeee-eeee-4eee-8eee-eeeeeeeeeeee";
    pub(crate) const GROUP_A: &str = "cccccccc-cccc-4ccc-8ccc-cccccccccccc";
    pub(crate) const GROUP_B: &str = "dddddddd-dddd-4ddd-8ddd-dddddddddddd";

    pub(crate) fn port(id: &str, mac: &str, address: &str, group: &str) -> HostPort {
        HostPort {
            id: id.into(),
            network_id: NET.into(),
            project_id: group.into(),
            server_id: id.into(),
            mac_address: mac.into(),
            hostname: "web 1".into(),
            admin_state_up: true,
            port_security_enabled: true,
            fixed_ips: vec![FixedIp {
                subnet_id: "subnet-1".into(),
                ip_address: address.into(),
            }],
            security_groups: vec![group.into()],
            floating_ips: Vec::new(),
        }
    }

    /// Two ports of two projects on one routed network; A lets ssh in from
    /// anywhere and everything from its own group, and has a floating IP.
    pub(crate) fn sample() -> HostState {
        let rule = |ingress, protocol: &str, port: Option<i32>, group: &str| HostRule {
            ingress,
            protocol: protocol.into(),
            port_range_min: port,
            port_range_max: port,
            remote_ip_prefix: String::new(),
            remote_group_id: group.into(),
        };
        let mut first = port(PORT_A, "FA:16:3E:00:00:0A", "10.0.0.5", GROUP_A);
        first.floating_ips.push(HostFloatingIp {
            address: "172.24.4.5".into(),
            fixed_address: "10.0.0.5".into(),
        });
        HostState {
            host: "node-1".into(),
            revision: 3,
            networks: vec![HostNetwork {
                id: NET.into(),
                shared: true,
                mtu: 1450,
                routed: true,
                subnets: vec![HostSubnet {
                    id: "subnet-1".into(),
                    cidr: "10.0.0.0/24".into(),
                    gateway_ip: "10.0.0.1".into(),
                    serve_address: "10.0.0.1".into(),
                    enable_dhcp: true,
                    dns_nameservers: vec!["9.9.9.9".into()],
                    host_routes: Vec::new(),
                }],
                ..HostNetwork::default()
            }],
            ports: vec![
                port(PORT_B, "fa:16:3e:00:00:0b", "10.0.0.6", GROUP_B),
                first,
            ],
            security_groups: vec![
                HostSecurityGroup {
                    id: GROUP_A.into(),
                    rules: vec![
                        rule(true, "tcp", Some(22), ""),
                        rule(true, "", None, GROUP_A),
                        rule(false, "", None, ""),
                    ],
                },
                HostSecurityGroup {
                    id: GROUP_B.into(),
                    rules: vec![rule(false, "", None, "")],
                },
            ],
            members: vec![GroupMembers {
                group_id: GROUP_A.into(),
                addresses: vec!["10.0.0.5".into(), "10.0.0.7".into()],
                port_ids: vec![PORT_A.into(), PORT_C.into()],
                ..GroupMembers::default()
            }],
        }
    }

    #[test]
    fn names_fit_the_kernel() {
        assert_eq!(tap_name(PORT_A), "tapaaaaaaaaaaa");
        assert_eq!(bridge_name(NET), "yk-11111111111");
        assert_eq!(set_name(GROUP_A), "yk-cccccccccccc4ccc8ccccccc");
        assert!(set_name(GROUP_A).len() <= 31);
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_named() {
        let mut state = sample();
        state.ports[0].mac_address = "fa:16:3e; reboot".into();
        state.ports[1].hostname = "-.x".into();
        state.security_groups[0].rules[0].protocol = "bogus".into();
        let model = Model::read(&state);
        assert_eq!(model.ports.len(), 1);
        assert_eq!(model.ports[PORT_A].hostname, "host-aaaaaaaaaaa");
        assert_eq!(model.rejected.len(), 2, "{:?}", model.rejected);
    }
}
