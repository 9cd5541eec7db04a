//! Flows that the kernel lets pass because they were allowed once, and which of
//! them must end because the rules are now others.
//!
//! A flow is judged by what the `filter` table would say to its first packet:
//! the sender before its source was translated, and the receiver after its
//! destination was.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::model::{Model, Port, Protocol, Rule};
use super::render::METADATA_ADDRESS;
use super::render::nat::floating_ips;

/// One tracked flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Protocol number.
    pub protocol: u8,
    /// Who began, with the address it had then.
    pub source: Ipv4Addr,
    /// Whom it called.
    pub destination: Ipv4Addr,
    /// Who really answers.
    pub responder: Ipv4Addr,
    /// Whom the responder takes the beginner for.
    pub seen_as: Ipv4Addr,
    /// The beginner's port, or the ICMP id.
    pub source_port: Option<u16>,
    /// The port that was called.
    pub destination_port: Option<u16>,
    /// The port that really answers.
    pub responder_port: Option<u16>,
    /// ICMP type and code of the first packet.
    pub icmp: Option<(u8, u8)>,
}

/// Reads `conntrack -L`; lines that make no sense are passed over.
pub fn parse(text: &str) -> Vec<Flow> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Flow> {
    let mut words = line.split_whitespace();
    words.next()?;
    let protocol = words.next()?.parse().ok()?;
    let mut seen: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        seen.entry(key).or_default().push(value);
    }
    let address =
        |key: &str, index: usize| -> Option<Ipv4Addr> { seen.get(key)?.get(index)?.parse().ok() };
    let number =
        |key: &str, index: usize| -> Option<u16> { seen.get(key)?.get(index)?.parse().ok() };
    let icmp = number("type", 0)
        .zip(number("code", 0))
        .and_then(|(kind, code)| Some((u8::try_from(kind).ok()?, u8::try_from(code).ok()?)));
    Some(Flow {
        protocol,
        source: address("src", 0)?,
        destination: address("dst", 0)?,
        responder: address("src", 1)?,
        seen_as: address("dst", 1)?,
        source_port: number("sport", 0).or_else(|| number("id", 0)),
        destination_port: number("dport", 0),
        responder_port: number("sport", 1),
        icmp,
    })
}

/// What decides about flows.
pub struct Judge<'a> {
    model: &'a Model,
    ports: BTreeMap<Ipv4Addr, &'a Port>,
    infrastructure: BTreeSet<Ipv4Addr>,
    floating: BTreeMap<Ipv4Addr, Ipv4Addr>,
    departed: &'a BTreeSet<Ipv4Addr>,
}

impl<'a> Judge<'a> {
    /// A judge by this model. `own` are addresses of the host's own outside
    /// interface; `departed` are fixed addresses that were here before.
    pub fn new(
        model: &'a Model,
        own: &BTreeSet<Ipv4Addr>,
        departed: &'a BTreeSet<Ipv4Addr>,
    ) -> Self {
        let mut infrastructure = model.serve_addresses();
        infrastructure.extend(own);
        Self {
            model,
            ports: model.by_address(),
            infrastructure,
            floating: floating_ips(model).into_iter().collect(),
            departed,
        }
    }

    /// Whether a flow may go on.
    pub fn allows(&self, flow: &Flow) -> bool {
        let beginner = self.ports.get(&flow.source).copied();
        let responder = self.ports.get(&flow.responder).copied();
        if beginner.is_none() && responder.is_none() {
            return !self.departed.contains(&flow.source)
                && !self.departed.contains(&flow.responder);
        }
        if self.infrastructure.contains(&flow.source)
            || self.infrastructure.contains(&flow.responder)
        {
            return true;
        }
        self.translation_stands(flow)
            && self.networks_meet(flow, beginner, responder)
            && beginner.is_none_or(|port| self.port_allows(port, false, flow))
            && responder.is_none_or(|port| self.port_allows(port, true, flow))
    }

    fn translation_stands(&self, flow: &Flow) -> bool {
        let destination = flow.destination == flow.responder
            || self.floating.get(&flow.destination) == Some(&flow.responder)
            || flow.destination.to_string() == METADATA_ADDRESS;
        let source = flow.seen_as == flow.source
            || self.floating.get(&flow.seen_as) == Some(&flow.source)
            || self.infrastructure.contains(&flow.seen_as);
        destination && source
    }

    /// The border between networks, as in the `filter` table.
    fn networks_meet(
        &self,
        flow: &Flow,
        beginner: Option<&Port>,
        responder: Option<&Port>,
    ) -> bool {
        let network = |port: Option<&Port>, address: Ipv4Addr| {
            port.and_then(|port| self.model.networks.get(&port.network))
                .or_else(|| {
                    self.model.networks.values().find(|network| {
                        network
                            .subnets
                            .iter()
                            .any(|subnet| subnet.cidr.contains(address))
                    })
                })
        };
        match (
            network(beginner, flow.source),
            network(responder, flow.responder),
        ) {
            (Some(from), Some(to)) => {
                from.id == to.id
                    || (from.router.is_some() && from.router == to.router)
                    || (to.routed && flow.destination != flow.responder)
            }
            (Some(only), None) | (None, Some(only)) => only.routed,
            (None, None) => true,
        }
    }

    fn port_allows(&self, port: &Port, ingress: bool, flow: &Flow) -> bool {
        if !port.up {
            return false;
        }
        if !port.security {
            return true;
        }
        let remote = if ingress { flow.source } else { flow.responder };
        self.model
            .rules(port, ingress)
            .any(|rule| self.rule_allows(rule, remote, flow))
    }

    fn rule_allows(&self, rule: &Rule, remote: Ipv4Addr, flow: &Flow) -> bool {
        let within = |value: Option<u16>| match value {
            Some(value) => rule.min.unwrap_or(0) <= value && value <= rule.max.unwrap_or(u16::MAX),
            None => rule.min.is_none() && rule.max.is_none(),
        };
        let protocol = match rule.protocol {
            Protocol::Any => true,
            Protocol::Tcp | Protocol::Udp | Protocol::Number(132) => {
                rule.protocol.number() == Some(flow.protocol) && within(flow.responder_port)
            }
            Protocol::Icmp => {
                flow.protocol == 1
                    && flow.icmp.is_none_or(|(kind, code)| {
                        rule.min.is_none_or(|wanted| wanted == u16::from(kind))
                            && rule.max.is_none_or(|wanted| wanted == u16::from(code))
                    })
            }
            Protocol::Number(number) => number == flow.protocol,
        };
        protocol
            && rule.prefix.is_none_or(|prefix| prefix.contains(remote))
            && rule.group.as_ref().is_none_or(|group| {
                self.model
                    .members
                    .get(group)
                    .is_some_and(|members| members.contains_key(&remote))
            })
    }
}

/// A shell script that ends these flows; `None` when there are none. Everything
/// in it is a number that was parsed, so nothing needs quoting.
pub fn cut_script(flows: &[&Flow]) -> Option<String> {
    let mut script = String::new();
    for flow in flows {
        let _ = write!(
            script,
            "conntrack -D -p {} -s {} -d {}",
            flow.protocol, flow.source, flow.destination
        );
        if matches!(flow.protocol, 6 | 17 | 33 | 132 | 136) {
            if let Some(port) = flow.source_port {
                let _ = write!(script, " --sport {port}");
            }
            if let Some(port) = flow.destination_port {
                let _ = write!(script, " --dport {port}");
            }
        }
        script.push_str(" >/dev/null 2>&1 || :\n");
    }
    (!script.is_empty()).then_some(script)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::model::tests::sample;

    const SSH_BY_FLOATING_IP: &str = "tcp      6 431990 ESTABLISHED src=172.24.4.1 dst=172.24.4.5 sport=40000 dport=22 \
        src=10.0.0.5 dst=172.24.4.1 sport=22 dport=40000 [ASSURED] mark=0 use=1";
    const HTTP_IN: &str = "tcp      6 431990 ESTABLISHED src=172.24.4.1 dst=172.24.4.5 sport=40001 dport=80 \
        src=10.0.0.5 dst=172.24.4.1 sport=80 dport=40001 [ASSURED] mark=0 use=1";
    const OUT: &str = "udp      17 29 src=10.0.0.6 dst=9.9.9.9 sport=5353 dport=53 \
        src=9.9.9.9 dst=172.24.4.2 sport=53 dport=5353 mark=0 use=1";
    const PING_FROM_GROUP: &str = "icmp     1 29 src=10.0.0.7 dst=10.0.0.5 type=8 code=0 id=1 src=10.0.0.5 dst=10.0.0.7 type=0 code=0 id=1 mark=0 use=1";
    const PING_FROM_STRANGER: &str = "icmp     1 29 src=10.0.0.6 dst=10.0.0.5 type=8 code=0 id=1 src=10.0.0.5 dst=10.0.0.6 type=0 code=0 id=1 mark=0 use=1";
    const OF_THE_HOST: &str = "tcp      6 431990 ESTABLISHED src=10.0.0.6 dst=169.254.169.254 sport=40001 dport=80 \
        src=10.0.0.1 dst=10.0.0.6 sport=8775 dport=40001 [ASSURED] mark=0 use=1";
    const OF_OTHERS: &str = "tcp      6 9 ESTABLISHED src=192.0.2.1 dst=192.0.2.2 sport=1 dport=2 \
        src=192.0.2.2 dst=192.0.2.1 sport=2 dport=1 mark=0 use=1";

    fn allowed(model: &Model, line: &str) -> bool {
        let own = BTreeSet::from([Ipv4Addr::new(172, 24, 4, 2)]);
        let departed = BTreeSet::from([Ipv4Addr::new(10, 0, 0, 9)]);
        let flows = parse(line);
        assert_eq!(flows.len(), 1, "{line}");
        Judge::new(model, &own, &departed).allows(&flows[0])
    }

    #[test]
    fn flows_are_judged_as_their_first_packet_would_be() {
        let model = Model::read(&sample());
        for line in [
            SSH_BY_FLOATING_IP,
            OUT,
            PING_FROM_GROUP,
            OF_THE_HOST,
            OF_OTHERS,
        ] {
            assert!(allowed(&model, line), "{line}");
        }
        for line in [HTTP_IN, PING_FROM_STRANGER] {
            assert!(!allowed(&model, line), "{line}");
        }
    }

    #[test]
    fn a_closed_rule_ends_only_its_own_flows() {
        let mut state = sample();
        state.security_groups[0].rules.remove(0);
        let model = Model::read(&state);
        assert!(!allowed(&model, SSH_BY_FLOATING_IP));
        assert!(allowed(&model, PING_FROM_GROUP));
        assert!(allowed(&model, OUT));
    }

    #[test]
    fn a_floating_ip_that_is_gone_ends_the_flows_through_it() {
        let mut state = sample();
        state.ports[1].floating_ips.clear();
        assert!(!allowed(&Model::read(&state), SSH_BY_FLOATING_IP));
    }

    #[test]
    fn a_network_that_lost_its_router_ends_flows_to_the_outside() {
        let mut state = sample();
        state.networks[0].routed = false;
        let model = Model::read(&state);
        assert!(!allowed(&model, OUT));
        assert!(allowed(&model, PING_FROM_GROUP));
    }

    #[test]
    fn the_flows_of_a_port_that_is_gone_end() {
        let model = Model::read(&sample());
        let line = OUT.replace("10.0.0.6", "10.0.0.9");
        assert!(!allowed(&model, &line));
    }

    #[test]
    fn a_cut_names_the_flow_and_nothing_else() {
        let flows = parse(&format!(
            "{SSH_BY_FLOATING_IP}\n{PING_FROM_STRANGER}\nnonsense\n"
        ));
        let flows: Vec<&Flow> = flows.iter().collect();
        assert_eq!(
            cut_script(&flows).unwrap(),
            "conntrack -D -p 6 -s 172.24.4.1 -d 172.24.4.5 --sport 40000 --dport 22 >/dev/null 2>&1 || :\n\
             conntrack -D -p 1 -s 10.0.0.6 -d 10.0.0.5 >/dev/null 2>&1 || :\n"
        );
        assert_eq!(cut_script(&[]), None);
    }
}
