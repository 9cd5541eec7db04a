//! What the DHCP server of each network is told.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use yakumo_host::dnsmasq::{HostEntry, Options, Range, render_host, render_options};

use super::METADATA_ADDRESS;
use crate::agent::model::{Model, Network, key_of};

/// One network's DHCP server: everything but where its files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The bridge that it serves.
    pub bridge: String,
    /// Its ranges.
    pub ranges: Vec<Range>,
    /// Options files: name and content.
    pub options: BTreeMap<String, String>,
    /// Hosts files: name (the port's id) and content.
    pub hosts: BTreeMap<String, String>,
    /// Who may hold which address: for the leases.
    pub leases: BTreeMap<String, Ipv4Addr>,
}

/// The DHCP servers of a host, by network id.
pub fn render(model: &Model, lease_seconds: u32, domain: &str) -> BTreeMap<String, Server> {
    model
        .networks
        .values()
        .filter_map(|network| {
            Some((
                network.id.clone(),
                server(model, network, lease_seconds, domain)?,
            ))
        })
        .collect()
}

fn server(model: &Model, network: &Network, lease_seconds: u32, domain: &str) -> Option<Server> {
    let mut server = Server {
        bridge: network.bridge.clone(),
        ranges: Vec::new(),
        options: BTreeMap::new(),
        hosts: BTreeMap::new(),
        leases: BTreeMap::new(),
    };
    for subnet in &network.subnets {
        let Some(serve) = subnet.serve.filter(|_| subnet.dhcp) else {
            continue;
        };
        let tag = format!("s{}", key_of(&subnet.id));
        server.ranges.push(Range {
            tag: tag.clone(),
            network: subnet.cidr.network(),
            netmask: subnet.cidr.mask(),
            lease_seconds,
        });
        let mut routes: Vec<(String, Ipv4Addr)> = subnet
            .routes
            .iter()
            .map(|(destination, hop)| (destination.to_string(), *hop))
            .collect();
        if !routes
            .iter()
            .any(|(destination, _)| destination.starts_with(METADATA_ADDRESS))
        {
            routes.insert(0, (format!("{METADATA_ADDRESS}/32"), serve));
        }
        let options = Options {
            tag: tag.clone(),
            router: subnet.gateway,
            dns: subnet.dns.clone(),
            mtu: network.mtu,
            routes,
            domain: (!domain.is_empty()).then(|| domain.to_owned()),
        };
        server.options.insert(tag.clone(), render_options(&options));
        for port in model
            .ports
            .values()
            .filter(|port| port.network == network.id)
        {
            // A client gets one address by DHCP: the port's first one.
            let first = port.fixed.first().filter(|(id, _)| *id == subnet.id);
            if let Some((_, address)) = first {
                server.hosts.insert(
                    port.id.clone(),
                    render_host(&HostEntry {
                        mac: port.mac.clone(),
                        address: *address,
                        hostname: port.hostname.clone(),
                        tag: tag.clone(),
                    }),
                );
                server.leases.insert(port.mac.clone(), *address);
            }
        }
    }
    (!server.ranges.is_empty()).then_some(server)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::model::tests::{NET, PORT_A, sample};

    #[test]
    fn each_port_gets_its_address_and_a_way_to_metadata() {
        let servers = render(&Model::read(&sample()), 3600, "yakumo.local");
        let server = &servers[NET];
        assert_eq!(server.bridge, "yk-11111111111");
        assert_eq!(
            server.options["sbe1"],
            "tag:sbe1,option:router,10.0.0.1\ntag:sbe1,option:dns-server,9.9.9.9\ntag:sbe1,option:mtu,1450\n\
             tag:sbe1,option:classless-static-route,169.254.169.254/32,10.0.0.1,0.0.0.0/0,10.0.0.1\n\
             tag:sbe1,option:domain-name,yakumo.local\n"
        );
        assert_eq!(
            server.hosts[PORT_A],
            "fa:16:3e:00:00:0a,set:sbe1,10.0.0.5,web-1\n"
        );
        assert_eq!(
            server.leases["fa:16:3e:00:00:0b"],
            Ipv4Addr::new(10, 0, 0, 6)
        );
    }

    #[test]
    fn a_subnet_without_dhcp_has_no_server() {
        let mut state = sample();
        state.networks[0].subnets[0].enable_dhcp = false;
        assert!(render(&Model::read(&state), 3600, "").is_empty());
    }
}
