//! What the api service asks about servers before they are, and shows of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::json;
use yakumo_contracts::network::{
    ListServerAddressesReply, ListServerAddressesRequest, RequestedNetwork,
    ResolveServerNetworksReply, ResolveServerNetworksRequest, ResolvedNetwork, ServerAddresses,
};
use yakumo_types::{Fault, ProjectId};

use super::{App, faults};
use crate::store::{self, Walls, network};

/// The most interfaces of one server.
const MAX_INTERFACES: usize = 16;

impl App {
    /// Checks the networks and groups that a server asks for; takes nothing.
    pub async fn resolve_server_networks(
        &self,
        request: ResolveServerNetworksRequest,
    ) -> Result<ResolveServerNetworksReply, Fault> {
        let project: ProjectId = request
            .project_id
            .parse()
            .map_err(|error| Fault::invalid(format!("{error}.")))?;
        let project = project.to_string();
        let servers = u64::from(request.servers.max(1));
        let groups = self
            .resolve_groups(&project, &request.security_groups)
            .await
            .map_err(as_bad_request)?;
        let networks = if request.none {
            Vec::new()
        } else if request.requested.is_empty() {
            self.only_network(&project).await?
        } else {
            self.requested_networks(&project, &request.requested, servers)
                .await?
        };
        let new = networks
            .iter()
            .filter(|network| network.port_id.is_empty())
            .count();
        self.check_room_for_ports(
            &project,
            u64::try_from(new).unwrap_or(0).saturating_mul(servers),
        )
        .await?;
        Ok(ResolveServerNetworksReply {
            networks,
            security_group_ids: groups.iter().map(|group| group.id.clone()).collect(),
            security_group_names: groups.into_iter().map(|group| group.name).collect(),
        })
    }

    /// The early word on the quota; the last one is the inserting transaction's.
    async fn check_room_for_ports(&self, project: &str, count: u64) -> Result<(), Fault> {
        if count == 0 {
            return Ok(());
        }
        let db = self.db.read();
        let own = store::quotas::limit(db, project, "port").await?;
        let Ok(limit) = u64::try_from(own.unwrap_or(self.config.quotas.port)) else {
            return Ok(());
        };
        if store::quotas::used(db, project, "port")
            .await?
            .saturating_add(count)
            > limit
        {
            return Err(
                Fault::over_quota("Maximum number of ports exceeded.").with_type("OverQuota")
            );
        }
        Ok(())
    }

    async fn only_network(&self, project: &str) -> Result<Vec<ResolvedNetwork>, Fault> {
        let mut usable = store::networks::usable(self.db.read(), project).await?;
        let ids: Vec<String> = usable.iter().map(|network| network.id.clone()).collect();
        let with_subnets: BTreeSet<String> = store::subnets::of_networks(self.db.read(), &ids)
            .await?
            .into_iter()
            .map(|subnet| subnet.network_id)
            .collect();
        usable.retain(|network| with_subnets.contains(&network.id));
        match usable.len() {
            0 | 1 => Ok(usable
                .into_iter()
                .map(|network| resolved(network, ""))
                .collect()),
            _ => Err(Fault::conflict(
                "Multiple possible networks found, use a Network ID to be more specific.",
            )
            .with_type("NetworkAmbiguous")),
        }
    }

    async fn requested_networks(
        &self,
        project: &str,
        requested: &[RequestedNetwork],
        servers: u64,
    ) -> Result<Vec<ResolvedNetwork>, Fault> {
        if requested.len() > MAX_INTERFACES {
            return Err(Fault::invalid(format!(
                "A server has at most {MAX_INTERFACES} interfaces."
            )));
        }
        let mut networks = Vec::new();
        let mut seen = BTreeSet::new();
        for wanted in requested {
            let one_server_only = !wanted.port_id.is_empty() || !wanted.fixed_ip.is_empty();
            if servers > 1 && one_server_only {
                return Err(Fault::invalid(
                    "A port or a fixed IP can be asked for by one server only.",
                ));
            }
            let network = if wanted.port_id.is_empty() {
                self.requested_network(project, wanted).await?
            } else {
                self.requested_port(project, &wanted.port_id).await?
            };
            if one_server_only && !seen.insert((wanted.port_id.clone(), wanted.fixed_ip.clone())) {
                return Err(Fault::conflict(
                    "The same port or address is asked for twice.",
                ));
            }
            networks.push(network);
        }
        Ok(networks)
    }

    async fn requested_network(
        &self,
        project: &str,
        wanted: &RequestedNetwork,
    ) -> Result<ResolvedNetwork, Fault> {
        let db = self.db.read();
        let network =
            store::networks::find(db, &Walls::Project(project.to_owned()), &wanted.network_id)
                .await?
                .ok_or_else(|| as_bad_request(faults::no_network(&wanted.network_id)))?;
        if network.external && network.project_id != project {
            return Err(Fault::forbidden(format!(
                "It is not allowed to create an interface on external network {}.",
                network.id
            )));
        }
        if network.external {
            return Err(Fault::invalid(
                "Servers cannot be put on an external network here; use a floating IP.",
            ));
        }
        let subnets = store::subnets::of_networks(db, std::slice::from_ref(&network.id)).await?;
        if subnets.is_empty() {
            return Err(Fault::invalid(format!(
                "Network {} requires a subnet in order to boot servers on.",
                network.id
            )));
        }
        if !wanted.fixed_ip.is_empty() {
            let address = super::subnets::parse_address("The fixed IP", &wanted.fixed_ip)?;
            let number = store::addresses::number_of(address);
            let subnet = subnets
                .iter()
                .find(|subnet| subnet.first < number && number < subnet.last)
                .ok_or_else(|| {
                    Fault::invalid(format!(
                        "Fixed IP {address} is not a valid ip address for network {}.",
                        network.id
                    ))
                })?;
            let owners = store::addresses::owners(
                db,
                &[address.to_string()],
                std::slice::from_ref(&subnet.id),
            )
            .await?;
            if !owners.is_empty()
                || address.to_string() == subnet.serve_address
                || address.to_string() == subnet.gateway_ip
            {
                return Err(Fault::invalid(format!(
                    "Fixed IP {address} is already in use."
                )));
            }
        }
        Ok(resolved(network, &wanted.fixed_ip))
    }

    async fn requested_port(&self, project: &str, id: &str) -> Result<ResolvedNetwork, Fault> {
        let db = self.db.read();
        let port = store::ports::find(db, &Walls::Project(project.to_owned()), id)
            .await?
            .filter(|port| port.project_id == project)
            .ok_or_else(|| as_bad_request(faults::no_port(id)))?;
        // One that is just being let go is waited for when the server is made.
        if !port.device_id.is_empty() && port.release_revision == 0 {
            return Err(
                Fault::conflict(format!("Port {id} is still in use.")).with_type("PortInUse")
            );
        }
        let addresses = store::addresses::of_owners(db, std::slice::from_ref(&port.id)).await?;
        let first = addresses.first().ok_or_else(|| {
            Fault::invalid(format!("Port {id} requires a FixedIP in order to be used."))
        })?;
        let network = store::networks::by_ids(db, std::slice::from_ref(&port.network_id))
            .await?
            .into_iter()
            .next()
            .ok_or_else(|| as_bad_request(faults::no_network(&port.network_id)))?;
        if network.external {
            return Err(Fault::invalid(
                "Servers cannot be put on an external network here; use a floating IP.",
            ));
        }
        Ok(ResolvedNetwork {
            port_id: port.id,
            ..resolved(network, &first.address)
        })
    }

    /// What listings show of these servers, in a handful of queries.
    pub async fn server_addresses(&self, ids: &[String]) -> Result<Vec<ServerAddresses>, Fault> {
        let rows = store::servers::page(self.db.read(), "", ids, 1000).await?;
        self.addresses_of(rows).await
    }

    /// One page of what listings show of servers.
    pub async fn list_server_addresses(
        &self,
        request: ListServerAddressesRequest,
    ) -> Result<ListServerAddressesReply, Fault> {
        let page = request.page.unwrap_or_default();
        let limit = match page.limit {
            0 => 500,
            limit => limit.min(500),
        };
        let mut rows = store::servers::page(
            self.db.read(),
            &page.marker,
            &request.server_ids,
            u64::from(limit) + 1,
        )
        .await?;
        let more = rows.len() > usize::try_from(limit).unwrap_or(usize::MAX);
        rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let next = rows
            .last()
            .filter(|_| more)
            .map(|row| row.id.clone())
            .unwrap_or_default();
        Ok(ListServerAddressesReply {
            servers: self.addresses_of(rows).await?,
            next,
        })
    }

    /// The rows with their revisions were read first: what follows may be newer
    /// than they say, and then another projection follows.
    async fn addresses_of(
        &self,
        rows: Vec<store::server::Model>,
    ) -> Result<Vec<ServerAddresses>, Fault> {
        let db = self.db.read();
        let servers: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
        let ports = store::ports::of_devices(db, &servers).await?;
        let ids: Vec<String> = ports.iter().map(|port| port.id.clone()).collect();
        let addresses = store::addresses::of_owners(db, &ids).await?;
        let floating = store::floating_ips::of_ports(db, &ids).await?;
        let groups = store::ports::group_names(db, &ids).await?;
        let networks: BTreeSet<String> = ports.iter().map(|port| port.network_id.clone()).collect();
        let networks: Vec<String> = networks.into_iter().collect();
        let labels: HashMap<String, String> = store::networks::by_ids(db, &networks)
            .await?
            .into_iter()
            .map(|network| (network.id, network.name))
            .collect();
        Ok(rows
            .into_iter()
            .map(|row| {
                let own: Vec<_> = ports.iter().filter(|port| port.device_id == row.id).collect();
                let mut shown: BTreeMap<String, Vec<serde_json::Value>> = BTreeMap::new();
                let mut own_groups = BTreeSet::new();
                for port in &own {
                    let label = labels.get(&port.network_id).cloned().unwrap_or_default();
                    let list = shown.entry(label).or_default();
                    for address in addresses.iter().filter(|address| address.owner == port.id) {
                        list.push(json!({"addr": address.address, "version": 4, "mac": port.mac, "type": "fixed"}));
                        for ip in floating
                            .iter()
                            .filter(|ip| ip.port_id == port.id && ip.fixed_address == address.address)
                        {
                            list.push(json!({"addr": ip.address, "version": 4, "mac": port.mac, "type": "floating"}));
                        }
                    }
                    let names = groups.iter().filter(|(member, _)| *member == port.id);
                    own_groups.extend(names.map(|(_, name)| name.clone()));
                }
                ServerAddresses {
                    host: own.first().map(|port| port.host.clone()).unwrap_or_default(),
                    server_id: row.id,
                    project_id: row.project_id,
                    revision: u64::try_from(row.revision).unwrap_or(0),
                    addresses_json: json!(shown).to_string(),
                    security_groups: own_groups.into_iter().collect(),
                }
            })
            .collect())
    }
}

fn resolved(network: network::Model, fixed_ip: &str) -> ResolvedNetwork {
    ResolvedNetwork {
        network_id: network.id,
        port_id: String::new(),
        fixed_ip: fixed_ip.to_owned(),
        label: network.name,
    }
}

/// To a server's request, a missing network or group is a mistake in its body.
fn as_bad_request(fault: Fault) -> Fault {
    if fault.code == yakumo_types::FaultCode::NotFound {
        return Fault {
            code: yakumo_types::FaultCode::Invalid,
            ..fault
        };
    }
    fault
}
