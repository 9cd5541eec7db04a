//! What a port may say at all, and what it hears of itself: the bridge's own
//! tables, before anything else sees the frame.
//!
//! A tap sends only with its own MAC, and only IPv4 from its own addresses, ARP
//! that tells the truth, and the question for an address. Everything else, IPv6
//! among it, is dropped. Nobody plays DHCP server.
//!
//! Where an interface carries a network to other hosts, every host is the gateway
//! and the DHCP server of its own ports, all under the same addresses. So hosts
//! neither speak nor listen there, and what guests say to their gateway or DHCP
//! server stays here: another host's answer would send their traffic there.

use yakumo_host::rules::{Chain, Table};

use crate::agent::model::{Model, Network, Port, key_of};

/// The bridge's `filter` table of a host: nobody gets their own broadcasts back,
/// although frames may leave where they came in, and what may pass between hosts.
pub fn render_filter(model: &Model) -> Table {
    let mut table = Table::new("filter");
    if model.ports.is_empty() {
        return table;
    }
    let mut forward = Chain::default();
    let (mut input, mut output) = (Chain::default(), Chain::default());
    for network in model.networks.values() {
        let Some(uplink) = &network.uplink else {
            continue;
        };
        let between = format!("yk-w{}", key_of(&network.id));
        input.push(format!("-i {uplink} -j DROP"));
        output.push(format!("-o {uplink} -j DROP"));
        forward.push(format!("-i {uplink} -j {between}"));
        forward.push(format!("-o {uplink} -j {between}"));
        *table.chain(&between) = between_hosts(network);
    }
    if !input.rules.is_empty() {
        *table.hook("INPUT", "yk-INPUT") = input;
        *table.hook("OUTPUT", "yk-OUTPUT") = output;
    }
    let chain = table.hook("FORWARD", "yk-FORWARD");
    *chain = forward;
    for port in model.ports.values() {
        chain.push(format!("-d Multicast -i {0} -o {0} -j DROP", port.tap));
    }
    table
}

/// What guests on different hosts may say to each other at all.
fn between_hosts(network: &Network) -> Chain {
    let mut chain = Chain::default();
    chain.push("-p IPv4 --ip-proto udp --ip-dport 67:68 -j DROP");
    for serve in network.subnets.iter().filter_map(|subnet| subnet.serve) {
        chain.push(format!("-p ARP --arp-ip-src {serve} -j DROP"));
        chain.push(format!("-p ARP --arp-ip-dst {serve} -j DROP"));
    }
    chain.push("-p IPv4 -j RETURN");
    chain.push("-p ARP -j RETURN");
    chain.push("-j DROP");
    chain
}

/// The bridge's `nat` table of a host.
pub fn render(model: &Model) -> Table {
    let mut table = Table::new("nat");
    let guarded: Vec<&Port> = model.ports.values().filter(|port| port.security).collect();
    if guarded.is_empty() {
        return table;
    }
    let mut hook = Chain::default();
    for port in guarded {
        hook.push(format!("-i {} -j yk-{}", port.tap, port.key));
        *table.chain(&format!("yk-{}", port.key)) = guard(port);
    }
    *table.hook("PREROUTING", "yk-PREROUTING") = hook;
    table
}

fn guard(port: &Port) -> Chain {
    let mac = &port.mac;
    let mut chain = Chain::default();
    chain.push(format!("-s ! {mac} -j DROP"));
    chain.push("-p IPv4 --ip-src 0.0.0.0 --ip-dst 255.255.255.255 --ip-proto udp --ip-sport 68 --ip-dport 67 -j RETURN");
    chain.push("-p IPv4 --ip-proto udp --ip-sport 67 --ip-dport 68 -j DROP");
    for (_, address) in &port.fixed {
        chain.push(format!("-p IPv4 --ip-src {address} -j RETURN"));
        chain.push(format!(
            "-p ARP --arp-ip-src {address} --arp-mac-src {mac} -j RETURN"
        ));
    }
    chain.push(format!(
        "-p ARP --arp-ip-src 0.0.0.0 --arp-mac-src {mac} -j RETURN"
    ));
    chain.push("-j DROP");
    chain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::model::tests::{NET, sample};
    use yakumo_host::rules::Family;

    #[test]
    fn each_tap_speaks_only_for_itself() {
        let mut state = sample();
        state.ports.remove(0);
        assert_eq!(
            render(&Model::read(&state)).render(Family::Bridge),
            "\
*nat
:yk-PREROUTING RETURN
:yk-aaaaaaaaaaa RETURN
-A PREROUTING -j yk-PREROUTING
-A yk-PREROUTING -i tapaaaaaaaaaaa -j yk-aaaaaaaaaaa
-A yk-aaaaaaaaaaa -s ! fa:16:3e:00:00:0a -j DROP
-A yk-aaaaaaaaaaa -p IPv4 --ip-src 0.0.0.0 --ip-dst 255.255.255.255 --ip-proto udp --ip-sport 68 --ip-dport 67 -j RETURN
-A yk-aaaaaaaaaaa -p IPv4 --ip-proto udp --ip-sport 67 --ip-dport 68 -j DROP
-A yk-aaaaaaaaaaa -p IPv4 --ip-src 10.0.0.5 -j RETURN
-A yk-aaaaaaaaaaa -p ARP --arp-ip-src 10.0.0.5 --arp-mac-src fa:16:3e:00:00:0a -j RETURN
-A yk-aaaaaaaaaaa -p ARP --arp-ip-src 0.0.0.0 --arp-mac-src fa:16:3e:00:00:0a -j RETURN
-A yk-aaaaaaaaaaa -j DROP
COMMIT
"
        );
    }

    #[test]
    fn nobody_hears_their_own_broadcasts() {
        let table = render_filter(&Model::read(&sample()));
        assert_eq!(
            table.chains["yk-FORWARD"].rules,
            [
                "-d Multicast -i tapaaaaaaaaaaa -o tapaaaaaaaaaaa -j DROP",
                "-d Multicast -i tapbbbbbbbbbbb -o tapbbbbbbbbbbb -j DROP"
            ]
        );
        assert_eq!(table.hooks.len(), 1);
        assert_eq!(render_filter(&Model::default()), Table::new("filter"));
    }

    #[test]
    fn hosts_keep_gateway_and_dhcp_to_themselves() {
        let mut state = sample();
        state.ports.remove(0);
        let mut model = Model::read(&state);
        model.networks.get_mut(NET).unwrap().uplink = Some("eth1".into());
        assert_eq!(
            render_filter(&model).render(Family::Bridge),
            "\
*filter
:yk-FORWARD RETURN
:yk-INPUT RETURN
:yk-OUTPUT RETURN
:yk-w11111111111 RETURN
-A INPUT -j yk-INPUT
-A OUTPUT -j yk-OUTPUT
-A FORWARD -j yk-FORWARD
-A yk-FORWARD -i eth1 -j yk-w11111111111
-A yk-FORWARD -o eth1 -j yk-w11111111111
-A yk-FORWARD -d Multicast -i tapaaaaaaaaaaa -o tapaaaaaaaaaaa -j DROP
-A yk-INPUT -i eth1 -j DROP
-A yk-OUTPUT -o eth1 -j DROP
-A yk-w11111111111 -p IPv4 --ip-proto udp --ip-dport 67:68 -j DROP
-A yk-w11111111111 -p ARP --arp-ip-src 10.0.0.1 -j DROP
-A yk-w11111111111 -p ARP --arp-ip-dst 10.0.0.1 -j DROP
-A yk-w11111111111 -p IPv4 -j RETURN
-A yk-w11111111111 -p ARP -j RETURN
-A yk-w11111111111 -j DROP
COMMIT
"
        );
    }

    #[test]
    fn a_port_without_security_is_not_guarded() {
        let mut state = sample();
        for port in &mut state.ports {
            port.port_security_enabled = false;
        }
        assert_eq!(render(&Model::read(&state)), Table::new("nat"));
    }
}
