//! From rows to the messages of the contract.

use std::collections::HashMap;

use yakumo_contracts::network as wire;
use yakumo_db::DbError;

use crate::store::{self, address, floating_ip, network, port, rule, security_group, subnet};

fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

pub fn network(row: network::Model, subnets: Vec<String>) -> wire::Network {
    wire::Network {
        status: if row.admin_state_up { "ACTIVE" } else { "DOWN" }.into(),
        id: row.id,
        project_id: row.project_id,
        name: row.name,
        description: row.description,
        admin_state_up: row.admin_state_up,
        shared: row.shared,
        router_external: row.external,
        mtu: u32::try_from(row.mtu).unwrap_or(1500),
        provider_network_type: row.network_type,
        provider_physical_network: row.physical_network,
        port_security_enabled: row.port_security,
        is_default: row.is_default,
        subnets,
        created_at: row.created_at,
        updated_at: row.updated_at,
        revision_number: count(row.revision),
    }
}

pub fn subnet(row: subnet::Model) -> Result<wire::Subnet, DbError> {
    let pools: Vec<(i64, i64)> = serde_json::from_str(&row.allocation_pools)?;
    Ok(wire::Subnet {
        id: row.id,
        network_id: row.network_id,
        project_id: row.project_id,
        name: row.name,
        description: row.description,
        ip_version: 4,
        cidr: row.cidr,
        gateway_ip: row.gateway_ip,
        enable_dhcp: row.enable_dhcp,
        dns_nameservers: serde_json::from_str(&row.dns_nameservers)?,
        host_routes: serde_json::from_str(&row.host_routes)?,
        allocation_pools: pools
            .into_iter()
            .map(|(start, end)| wire::AllocationPool {
                start: store::addresses::address_of(start).to_string(),
                end: store::addresses::address_of(end).to_string(),
            })
            .collect(),
        created_at: row.created_at,
        updated_at: row.updated_at,
        revision_number: count(row.revision),
    })
}

pub fn port(row: port::Model, addresses: Vec<&address::Model>, groups: Vec<String>) -> wire::Port {
    wire::Port {
        id: row.id,
        network_id: row.network_id,
        project_id: row.project_id,
        name: row.name,
        description: row.description,
        mac_address: row.mac,
        admin_state_up: row.admin_state_up,
        status: row.status,
        device_id: row.device_id,
        device_owner: row.device_owner,
        fixed_ips: addresses.into_iter().map(fixed_ip).collect(),
        security_groups: groups,
        port_security_enabled: row.port_security,
        binding_host_id: row.host,
        binding_vnic_type: row.vnic_type,
        created_at: row.created_at,
        updated_at: row.updated_at,
        revision_number: count(row.revision),
    }
}

pub fn fixed_ip(address: &address::Model) -> wire::FixedIp {
    wire::FixedIp {
        subnet_id: address.subnet_id.clone(),
        ip_address: address.address.clone(),
    }
}

/// Ports with their addresses and groups, in two queries.
pub async fn ports(
    db: &impl store::Connection,
    rows: Vec<port::Model>,
) -> Result<Vec<wire::Port>, DbError> {
    let ids: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
    let addresses = store::addresses::of_owners(db, &ids).await?;
    let mut by_port: HashMap<&str, Vec<&address::Model>> = HashMap::new();
    for address in &addresses {
        by_port.entry(&address.owner).or_default().push(address);
    }
    let mut groups: HashMap<String, Vec<String>> = HashMap::new();
    for (port, group) in store::ports::memberships(db, &ids).await? {
        groups.entry(port).or_default().push(group);
    }
    Ok(rows
        .into_iter()
        .map(|row| {
            let addresses = by_port.remove(row.id.as_str()).unwrap_or_default();
            let groups = groups.remove(&row.id).unwrap_or_default();
            port(row, addresses, groups)
        })
        .collect())
}

pub fn rule(row: rule::Model) -> wire::SecurityGroupRule {
    let bound = |value: Option<i64>| value.and_then(|value| i32::try_from(value).ok());
    wire::SecurityGroupRule {
        id: row.id,
        security_group_id: row.group_id,
        project_id: row.project_id,
        direction: row.direction,
        ethertype: row.ethertype,
        protocol: row.protocol,
        port_range_min: bound(row.port_min),
        port_range_max: bound(row.port_max),
        remote_ip_prefix: row.remote_ip_prefix,
        remote_group_id: row.remote_group_id,
        description: row.description,
        created_at: row.created_at,
        updated_at: row.updated_at,
        revision_number: count(row.revision),
    }
}

pub fn security_group(row: security_group::Model, rules: Vec<rule::Model>) -> wire::SecurityGroup {
    wire::SecurityGroup {
        id: row.id,
        project_id: row.project_id,
        name: row.name,
        description: row.description,
        security_group_rules: rules.into_iter().map(rule).collect(),
        created_at: row.created_at,
        updated_at: row.updated_at,
        revision_number: count(row.revision),
    }
}

pub fn floating_ip(row: floating_ip::Model, port: Option<&port::Model>) -> wire::FloatingIp {
    wire::FloatingIp {
        status: if row.port_id.is_empty() {
            "DOWN"
        } else {
            "ACTIVE"
        }
        .into(),
        id: row.id,
        project_id: row.project_id,
        description: row.description,
        floating_network_id: row.network_id,
        floating_ip_address: row.address,
        port_id: row.port_id,
        fixed_ip_address: row.fixed_address,
        router_id: row.router_id,
        port_details: port.map(|port| wire::PortDetails {
            name: port.name.clone(),
            network_id: port.network_id.clone(),
            mac_address: port.mac.clone(),
            admin_state_up: port.admin_state_up,
            status: port.status.clone(),
            device_id: port.device_id.clone(),
            device_owner: port.device_owner.clone(),
        }),
        created_at: row.created_at,
        updated_at: row.updated_at,
        revision_number: count(row.revision),
    }
}
