//! Whose address a packet wears: the `nat` table.
//!
//! - Metadata: `169.254.169.254:80` of each network becomes the agent's
//!   listener on that network's bridge, so that the listener knows the network.
//! - Floating IPs: towards the fixed address on the way in, back on the way out.
//! - Hairpins: whoever reaches a server of this host by its floating IP from
//!   inside also changes its own address, so that the answer comes back here
//!   and not straight over the bridge.
//! - Everything else of routed networks wears the host's address outside.

use std::net::Ipv4Addr;

use yakumo_host::rules::{Chain, Table};

use super::METADATA_ADDRESS;
use crate::agent::model::Model;

/// The `nat` table of a host.
pub fn render(model: &Model, public: Option<&str>, metadata_port: u16) -> Table {
    let mut table = Table::new("nat");
    if model.networks.is_empty() {
        return table;
    }
    let mut incoming = Chain::default();
    for network in model.networks.values() {
        if let Some(serve) = network.subnets.iter().find_map(|subnet| subnet.serve) {
            incoming.push(format!(
                "-d {METADATA_ADDRESS}/32 -i {} -p tcp -m tcp --dport 80 -j DNAT --to-destination {serve}:{metadata_port}",
                network.bridge
            ));
        }
    }
    let mut own = Chain::default();
    let mut outgoing = Chain::default();
    for (floating, fixed) in floating_ips(model) {
        let rule = format!("-d {floating}/32 -j DNAT --to-destination {fixed}");
        incoming.push(rule.clone());
        own.push(rule);
        if let Some(public) = public {
            outgoing.push(format!(
                "-s {fixed}/32 -o {public} -j SNAT --to-source {floating}"
            ));
        }
        outgoing.push(format!(
            "-s {fixed}/32 -m conntrack --ctstate DNAT -j SNAT --to-source {floating}"
        ));
    }
    for network in model.networks.values().filter(|network| network.routed) {
        for subnet in &network.subnets {
            let cidr = format!("{}/{}", subnet.cidr.network(), subnet.cidr.prefix());
            if let Some(public) = public {
                outgoing.push(format!("-s {cidr} -o {public} -j MASQUERADE"));
            }
            outgoing.push(format!(
                "-s {cidr} -m conntrack --ctstate DNAT -j MASQUERADE"
            ));
        }
    }
    *table.hook("PREROUTING", "yk-PREROUTING") = incoming;
    *table.hook("OUTPUT", "yk-OUTPUT") = own;
    *table.hook("POSTROUTING", "yk-POSTROUTING") = outgoing;
    table
}

/// Every floating address of this host with the fixed one behind it, ordered.
pub fn floating_ips(model: &Model) -> Vec<(Ipv4Addr, Ipv4Addr)> {
    let mut all: Vec<(Ipv4Addr, Ipv4Addr)> = model
        .ports
        .values()
        .flat_map(|port| port.floating.iter().copied())
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::model::tests::sample;
    use yakumo_host::rules::Family;

    #[test]
    fn metadata_floating_ips_and_the_way_out() {
        let model = Model::read(&sample());
        assert_eq!(
            render(&model, Some("pub0"), 8775).render(Family::Ip),
            "\
*nat
:yk-OUTPUT - [0:0]
:yk-POSTROUTING - [0:0]
:yk-PREROUTING - [0:0]
-I PREROUTING 1 -j yk-PREROUTING
-I OUTPUT 1 -j yk-OUTPUT
-I POSTROUTING 1 -j yk-POSTROUTING
-A yk-OUTPUT -d 172.24.4.5/32 -j DNAT --to-destination 10.0.0.5
-A yk-POSTROUTING -s 10.0.0.5/32 -o pub0 -j SNAT --to-source 172.24.4.5
-A yk-POSTROUTING -s 10.0.0.5/32 -m conntrack --ctstate DNAT -j SNAT --to-source 172.24.4.5
-A yk-POSTROUTING -s 10.0.0.0/24 -o pub0 -j MASQUERADE
-A yk-POSTROUTING -s 10.0.0.0/24 -m conntrack --ctstate DNAT -j MASQUERADE
-A yk-PREROUTING -d 169.254.169.254/32 -i yk-11111111111 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1:8775
-A yk-PREROUTING -d 172.24.4.5/32 -j DNAT --to-destination 10.0.0.5
COMMIT
"
        );
    }

    #[test]
    fn a_network_that_is_not_routed_only_gets_metadata() {
        let mut state = sample();
        state.networks[0].routed = false;
        state.ports[1].floating_ips.clear();
        let table = render(&Model::read(&state), None, 8775);
        assert_eq!(table.chains["yk-PREROUTING"].rules.len(), 1);
        assert_eq!(table.chains["yk-POSTROUTING"].rules.len(), 0);
    }
}
