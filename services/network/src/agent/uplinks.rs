//! The interfaces that carry flat networks between hosts.
//!
//! Each host is the gateway and the DHCP server of the ports that it has, under
//! the same addresses as every other host. So the interface joins the guests of
//! all hosts, and no host with another: see [`super::render::bridge`].

use std::collections::BTreeMap;

use super::links::Links;
use super::model::Model;

/// Networks that cannot be carried here, and why.
type Troubles = BTreeMap<String, String>;

/// The model with the interface of each network that has one. `interfaces` are
/// those of this host, by the names of physical networks.
pub fn assign(model: &Model, interfaces: &BTreeMap<String, String>) -> (Model, Troubles) {
    let mut model = model.clone();
    let mut troubles = Troubles::new();
    let mut taken: BTreeMap<&str, String> = BTreeMap::new();
    for network in model.networks.values_mut() {
        let Some(interface) = interfaces.get(&network.physical) else {
            continue;
        };
        // Two on one interface would be one.
        if let Some(other) = taken.get(interface.as_str()) {
            let why = format!("{interface} carries the network {other} already");
            troubles.insert(network.id.clone(), why);
            continue;
        }
        taken.insert(interface, network.id.clone());
        network.uplink = Some(interface.clone());
    }
    (model, troubles)
}

/// What keeps interfaces from carrying their networks, as they are `present`.
pub fn unfit(model: &Model, present: &Links) -> Troubles {
    let mut troubles = Troubles::new();
    for network in model.networks.values() {
        let Some(uplink) = &network.uplink else {
            continue;
        };
        let why = match present.get(uplink) {
            None => format!("there is no interface {uplink}"),
            // The host itself would be cut off.
            Some(link) if link.master.is_none() && link.ipv4().next().is_some() => {
                format!("{uplink} has an address, so it is in use by the host itself")
            }
            Some(link) => match &link.master {
                Some(master) if *master != network.bridge && !master.starts_with("yk-") => {
                    format!("{uplink} is a part of {master}")
                }
                // The kernel would drop what is longer, and say nothing.
                _ if link.mtu < network.mtu => format!(
                    "the MTU of {uplink} is {}, and that of the network {}",
                    link.mtu, network.mtu
                ),
                _ => continue,
            },
        };
        troubles.insert(network.id.clone(), why);
    }
    troubles
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::links::Link;
    use crate::agent::model::tests::{NET, sample};

    const OTHER: &str = "22222222-2222-4222-8222-222222222222";

    fn carried() -> Model {
        let mut state = sample();
        state.networks[0].provider_physical_network = "data".into();
        let mut other = state.networks[0].clone();
        other.id = OTHER.into();
        state.networks.push(other);
        let interfaces = BTreeMap::from([("data".to_owned(), "eth1".to_owned())]);
        let (model, troubles) = assign(&Model::read(&state), &interfaces);
        assert_eq!(
            troubles,
            BTreeMap::from([(
                OTHER.to_owned(),
                format!("eth1 carries the network {NET} already")
            )])
        );
        model
    }

    #[test]
    fn an_interface_carries_the_one_network_that_is_on_its_physical_network() {
        let model = carried();
        assert_eq!(model.networks[NET].uplink.as_deref(), Some("eth1"));
        assert_eq!(model.networks[OTHER].uplink, None);
        let (model, troubles) = assign(&Model::read(&sample()), &BTreeMap::new());
        assert!(troubles.is_empty());
        assert_eq!(model, Model::read(&sample()));
    }

    #[test]
    fn an_interface_that_the_host_needs_itself_is_left_alone() {
        let model = carried();
        let with = |text: &str| {
            let link: Link = serde_json::from_str(text).unwrap();
            let present = Links::from([(link.ifname.clone(), link)]);
            unfit(&model, &present).remove(NET)
        };
        assert_eq!(with(r#"{"ifname":"eth1","mtu":1450}"#), None);
        assert_eq!(
            with(r#"{"ifname":"eth1","mtu":9000,"master":"yk-11111111111"}"#),
            None
        );
        for (bad, why) in [
            (
                r#"{"ifname":"eth0","mtu":1500}"#,
                "there is no interface eth1",
            ),
            (
                r#"{"ifname":"eth1","mtu":1500,"addr_info":[{"family":"inet","local":"192.0.2.1","prefixlen":24}]}"#,
                "eth1 has an address, so it is in use by the host itself",
            ),
            (
                r#"{"ifname":"eth1","mtu":1500,"master":"bond0"}"#,
                "eth1 is a part of bond0",
            ),
            (
                r#"{"ifname":"eth1","mtu":1400}"#,
                "the MTU of eth1 is 1400, and that of the network 1450",
            ),
        ] {
            assert_eq!(with(bad).as_deref(), Some(why));
        }
    }
}
