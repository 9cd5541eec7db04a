//! What a port may say at all, and what it hears of itself: the bridge's own
//! tables, before anything else sees the frame.
//!
//! A tap sends only with its own MAC, and only IPv4 from its own addresses, ARP
//! that tells the truth, and the question for an address. Everything else, IPv6
//! among it, is dropped. Nobody plays DHCP server.

use yakumo_host::rules::{Chain, Table};

use crate::agent::model::{Model, Port};

/// The bridge's `filter` table of a host: nobody gets their own broadcasts back,
/// although frames may leave where they came in.
pub fn render_echoes(model: &Model) -> Table {
    let mut table = Table::new("filter");
    if model.ports.is_empty() {
        return table;
    }
    let chain = table.hook("FORWARD", "yk-FORWARD");
    for port in model.ports.values() {
        chain.push(format!("-d Multicast -i {0} -o {0} -j DROP", port.tap));
    }
    table
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
    use crate::agent::model::tests::sample;
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
        let table = render_echoes(&Model::read(&sample()));
        assert_eq!(
            table.chains["yk-FORWARD"].rules,
            [
                "-d Multicast -i tapaaaaaaaaaaa -o tapaaaaaaaaaaa -j DROP",
                "-d Multicast -i tapbbbbbbbbbbb -o tapbbbbbbbbbbb -j DROP"
            ]
        );
        assert_eq!(render_echoes(&Model::default()), Table::new("filter"));
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
