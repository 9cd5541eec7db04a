//! Which packets may pass: the `filter` table.
//!
//! Every forwarded packet goes the same way, bridged or routed:
//!
//! 1. Flows that were let in before pass; what fits no flow and opens none is
//!    dropped (so a flow that was cut cannot sneak back in from its middle).
//! 2. What comes from a tap must be allowed by that port's egress rules
//!    (`yk-o…`: allowed means RETURN).
//! 3. Networks that are not routed stay among themselves, and networks reach
//!    each other only through a common router or a floating IP.
//! 4. What goes to a port must be allowed by its ingress rules (`yk-i…`:
//!    allowed means ACCEPT). A bridged packet is known by the tap that it
//!    leaves through, since its addresses could point elsewhere; a routed one
//!    by its address, which the host itself resolved.
//! 5. From a routed network to the outside: accepted. Everything else from or
//!    to a bridge: dropped.
//!
//! Guests may ask the host itself for DHCP, an echo, and metadata.

use yakumo_host::rules::{Chain, Table};

use super::METADATA_ADDRESS;
use crate::agent::model::{Model, Network, Port, Protocol, Rule, key_of, set_name};

/// The `filter` table of a host.
pub fn render(model: &Model, public: Option<&str>, metadata_port: u16) -> Table {
    let mut table = Table::new("filter");
    if model.networks.is_empty() {
        return table;
    }
    let mut input = Chain::default();
    for network in model.networks.values() {
        input.push(format!("-i {} -j yk-GUESTS", network.bridge));
    }
    *table.hook("INPUT", "yk-INPUT") = input;
    *table.chain("yk-GUESTS") = guests(metadata_port);

    let mut forward = Chain::default();
    forward.push("-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
    forward.push("-m conntrack --ctstate INVALID -j yk-STRAY");
    for port in model.ports.values() {
        forward.push(format!(
            "-m physdev --physdev-in {} -j yk-o{}",
            port.tap, port.key
        ));
    }
    for network in model.networks.values() {
        let bridge = &network.bridge;
        let border_chain = format!("yk-n{}", key_of(&network.id));
        forward.push(format!("! -i {bridge} -o {bridge} -j {border_chain}"));
        *table.chain(&border_chain) = border(model, network, public);
    }
    for port in model.ports.values() {
        forward.push(format!(
            "-m physdev --physdev-out {} --physdev-is-bridged -j yk-i{}",
            port.tap, port.key
        ));
    }
    for port in model.ports.values() {
        let Some(network) = model.networks.get(&port.network) else {
            continue;
        };
        for (_, address) in &port.fixed {
            forward.push(format!(
                "-d {address}/32 -o {} -m physdev ! --physdev-is-bridged -j yk-i{}",
                network.bridge, port.key
            ));
        }
    }
    for network in model.networks.values() {
        // Its receiver is guarded where it is.
        if let Some(uplink) = &network.uplink {
            forward.push(format!(
                "-m physdev --physdev-out {uplink} --physdev-is-bridged -j ACCEPT"
            ));
        }
        forward.push(format!("-o {} -j DROP", network.bridge));
        if let Some(public) = public.filter(|_| network.routed) {
            forward.push(format!("-i {} -o {public} -j ACCEPT", network.bridge));
        }
        forward.push(format!("-i {} -j DROP", network.bridge));
    }
    *table.hook("FORWARD", "yk-FORWARD") = forward;

    // Packets of others that fit no flow are not ours to drop.
    let mut stray = Chain::default();
    for network in model.networks.values() {
        stray.push(format!("-i {} -j DROP", network.bridge));
        stray.push(format!("-o {} -j DROP", network.bridge));
    }
    *table.chain("yk-STRAY") = stray;

    for port in model.ports.values() {
        *table.chain(&format!("yk-o{}", port.key)) = egress(model, port);
        *table.chain(&format!("yk-i{}", port.key)) = ingress(model, port);
    }
    table
}

fn guests(metadata_port: u16) -> Chain {
    let mut chain = Chain::default();
    chain.push("-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
    chain.push("-p udp -m udp --sport 68 --dport 67 -j ACCEPT");
    chain.push("-p icmp -m icmp --icmp-type 8 -j ACCEPT");
    chain.push(format!(
        "-p tcp -m tcp --dport {metadata_port} -m conntrack --ctstate DNAT --ctorigdst {METADATA_ADDRESS} -j ACCEPT"
    ));
    chain.push("-j DROP");
    chain
}

/// What enters a network from elsewhere: its router's other networks, the
/// outside if it is routed, and whoever came by a floating IP.
fn border(model: &Model, network: &Network, public: Option<&str>) -> Chain {
    let mut chain = Chain::default();
    for other in model.networks.values() {
        if other.id != network.id && network.router.is_some() && other.router == network.router {
            chain.push(format!("-i {} -j RETURN", other.bridge));
        }
    }
    if network.routed {
        chain.push("-m conntrack --ctstate DNAT -j RETURN");
        if let Some(public) = public {
            chain.push(format!("-i {public} -j RETURN"));
        }
    }
    chain.push("-j DROP");
    chain
}

fn egress(model: &Model, port: &Port) -> Chain {
    let mut chain = Chain::default();
    if port.up && port.security {
        for rule in model.rules(port, false) {
            push_rule(&mut chain, rule, "RETURN");
        }
    }
    chain.push(if port.up && !port.security {
        "-j RETURN"
    } else {
        "-j DROP"
    });
    chain
}

fn ingress(model: &Model, port: &Port) -> Chain {
    let mut chain = Chain::default();
    if port.up && port.security {
        for rule in model.rules(port, true) {
            push_rule(&mut chain, rule, "ACCEPT");
        }
    }
    chain.push(if port.up && !port.security {
        "-j ACCEPT"
    } else {
        "-j DROP"
    });
    chain
}

fn push_rule(chain: &mut Chain, rule: &Rule, target: &str) {
    let text = format!("{}-j {target}", matches(rule));
    if !chain.rules.contains(&text) {
        chain.push(text);
    }
}

/// A rule's conditions, in the order in which `iptables-save` writes them.
fn matches(rule: &Rule) -> String {
    let mut text = String::new();
    let (address, set) = if rule.ingress {
        ("-s", "src")
    } else {
        ("-d", "dst")
    };
    if let Some(prefix) = rule.prefix.filter(|prefix| prefix.prefix() > 0) {
        text.push_str(&format!(
            "{address} {}/{} ",
            prefix.network(),
            prefix.prefix()
        ));
    }
    let ports = |name: &str| match (rule.min, rule.max) {
        (None | Some(0 | 1), None | Some(65_535)) => format!("-p {name} "),
        (Some(min), Some(max)) if min == max => format!("-p {name} -m {name} --dport {min} "),
        (min, max) => format!(
            "-p {name} -m {name} --dport {}:{} ",
            min.unwrap_or(0),
            max.unwrap_or(65_535)
        ),
    };
    match rule.protocol {
        Protocol::Any => {}
        Protocol::Tcp => text.push_str(&ports("tcp")),
        Protocol::Udp => text.push_str(&ports("udp")),
        Protocol::Number(132) => text.push_str(&ports("sctp")),
        Protocol::Number(number) => text.push_str(&format!("-p {} ", protocol_name(number))),
        Protocol::Icmp => match (rule.min, rule.max) {
            (None, _) => text.push_str("-p icmp "),
            (Some(kind), None) => text.push_str(&format!("-p icmp -m icmp --icmp-type {kind} ")),
            (Some(kind), Some(code)) => {
                text.push_str(&format!("-p icmp -m icmp --icmp-type {kind}/{code} "));
            }
        },
    }
    if let Some(group) = &rule.group {
        text.push_str(&format!("-m set --match-set {} {set} ", set_name(group)));
    }
    text
}

/// The name that `iptables-save` writes for a protocol number, where it has one
/// even without `/etc/protocols`.
fn protocol_name(number: u8) -> String {
    match number {
        47 => "gre".into(),
        50 => "esp".into(),
        51 => "ah".into(),
        58 => "ipv6-icmp".into(),
        136 => "udplite".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::model::tests::{GROUP_A, sample};
    use ipnetwork::Ipv4Network;
    use yakumo_host::rules::Family;

    #[test]
    fn two_projects_on_one_network() {
        let model = Model::read(&sample());
        assert_eq!(
            render(&model, Some("pub0"), 8775).render(Family::Ip),
            "\
*filter
:yk-FORWARD - [0:0]
:yk-GUESTS - [0:0]
:yk-INPUT - [0:0]
:yk-STRAY - [0:0]
:yk-iaaaaaaaaaaa - [0:0]
:yk-ibbbbbbbbbbb - [0:0]
:yk-n11111111111 - [0:0]
:yk-oaaaaaaaaaaa - [0:0]
:yk-obbbbbbbbbbb - [0:0]
-I INPUT 1 -j yk-INPUT
-I FORWARD 1 -j yk-FORWARD
-A yk-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A yk-FORWARD -m conntrack --ctstate INVALID -j yk-STRAY
-A yk-FORWARD -m physdev --physdev-in tapaaaaaaaaaaa -j yk-oaaaaaaaaaaa
-A yk-FORWARD -m physdev --physdev-in tapbbbbbbbbbbb -j yk-obbbbbbbbbbb
-A yk-FORWARD ! -i yk-11111111111 -o yk-11111111111 -j yk-n11111111111
-A yk-FORWARD -m physdev --physdev-out tapaaaaaaaaaaa --physdev-is-bridged -j yk-iaaaaaaaaaaa
-A yk-FORWARD -m physdev --physdev-out tapbbbbbbbbbbb --physdev-is-bridged -j yk-ibbbbbbbbbbb
-A yk-FORWARD -d 10.0.0.5/32 -o yk-11111111111 -m physdev ! --physdev-is-bridged -j yk-iaaaaaaaaaaa
-A yk-FORWARD -d 10.0.0.6/32 -o yk-11111111111 -m physdev ! --physdev-is-bridged -j yk-ibbbbbbbbbbb
-A yk-FORWARD -o yk-11111111111 -j DROP
-A yk-FORWARD -i yk-11111111111 -o pub0 -j ACCEPT
-A yk-FORWARD -i yk-11111111111 -j DROP
-A yk-GUESTS -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A yk-GUESTS -p udp -m udp --sport 68 --dport 67 -j ACCEPT
-A yk-GUESTS -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A yk-GUESTS -p tcp -m tcp --dport 8775 -m conntrack --ctstate DNAT --ctorigdst 169.254.169.254 -j ACCEPT
-A yk-GUESTS -j DROP
-A yk-INPUT -i yk-11111111111 -j yk-GUESTS
-A yk-STRAY -i yk-11111111111 -j DROP
-A yk-STRAY -o yk-11111111111 -j DROP
-A yk-iaaaaaaaaaaa -p tcp -m tcp --dport 22 -j ACCEPT
-A yk-iaaaaaaaaaaa -m set --match-set yk-cccccccccccc4ccc8ccccccc src -j ACCEPT
-A yk-iaaaaaaaaaaa -j DROP
-A yk-ibbbbbbbbbbb -j DROP
-A yk-n11111111111 -m conntrack --ctstate DNAT -j RETURN
-A yk-n11111111111 -i pub0 -j RETURN
-A yk-n11111111111 -j DROP
-A yk-oaaaaaaaaaaa -j RETURN
-A yk-oaaaaaaaaaaa -j DROP
-A yk-obbbbbbbbbbb -j RETURN
-A yk-obbbbbbbbbbb -j DROP
COMMIT
"
        );
    }

    #[test]
    fn what_a_port_may_say_may_go_to_other_hosts() {
        let mut model = Model::read(&sample());
        let network = model.networks.values_mut().next().unwrap();
        network.uplink = Some("eth1".into());
        let rules = &render(&model, Some("pub0"), 8775).chains["yk-FORWARD"].rules;
        let place = |text: &str| rules.iter().position(|rule| rule.contains(text)).unwrap();
        let out = place("--physdev-out eth1 --physdev-is-bridged -j ACCEPT");
        assert!(place("--physdev-in tapaaaaaaaaaaa -j yk-o") < out);
        assert!(out < place("-o yk-11111111111 -j DROP"));
    }

    #[test]
    fn a_network_without_a_router_stays_alone_and_a_port_that_is_down_is_shut() {
        let mut state = sample();
        state.networks[0].routed = false;
        state.ports[0].admin_state_up = false;
        state.ports[1].port_security_enabled = false;
        let table = render(&Model::read(&state), Some("pub0"), 8775);
        assert_eq!(table.chains["yk-n11111111111"].rules, ["-j DROP"]);
        assert_eq!(table.chains["yk-obbbbbbbbbbb"].rules, ["-j DROP"]);
        assert_eq!(table.chains["yk-iaaaaaaaaaaa"].rules, ["-j ACCEPT"]);
        assert!(
            !table.chains["yk-FORWARD"]
                .rules
                .iter()
                .any(|rule| rule.contains("pub0"))
        );
    }

    #[test]
    fn conditions_are_written_as_the_kernel_gives_them_back() {
        let rule = |protocol, min, max, prefix: Option<&str>, group: Option<&str>| {
            matches(&Rule {
                ingress: true,
                protocol,
                min,
                max,
                prefix: prefix.map(|text| text.parse::<Ipv4Network>().unwrap()),
                group: group.map(str::to_owned),
            })
        };
        use Protocol::{Any, Icmp, Number, Tcp, Udp};
        assert_eq!(rule(Any, None, None, Some("0.0.0.0/0"), None), "");
        assert_eq!(rule(Tcp, Some(1), Some(65_535), None, None), "-p tcp ");
        assert_eq!(
            rule(Udp, Some(53), Some(60), Some("10.0.0.7/8"), None),
            "-s 10.0.0.0/8 -p udp -m udp --dport 53:60 "
        );
        assert_eq!(
            rule(Icmp, Some(8), Some(0), None, None),
            "-p icmp -m icmp --icmp-type 8/0 "
        );
        assert_eq!(rule(Icmp, None, None, None, None), "-p icmp ");
        assert_eq!(
            rule(Number(47), None, None, None, Some(GROUP_A)),
            "-p gre -m set --match-set yk-cccccccccccc4ccc8ccccccc src "
        );
    }

    #[test]
    fn nothing_is_wanted_where_nothing_is() {
        assert_eq!(
            render(&Model::default(), Some("pub0"), 8775),
            Table::new("filter")
        );
    }
}
