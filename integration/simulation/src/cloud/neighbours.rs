//! The network and image services, as far as a server's life needs them. What
//! they keep outlives their processes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use yakumo_contracts::common::Fence;
use yakumo_contracts::image::{
    GetImageRequest, GetImagesReply, GetImagesRequest, Image, ImagesHandler, ImagesServer,
    IssueTicketRequest, Ticket,
};
use yakumo_contracts::network::{
    AllocateServerPortsRequest, ListServerAddressesReply, ListServerAddressesRequest,
    ReleaseServerPortsReply, ResolveServerNetworksReply, ResolveServerNetworksRequest,
    ResolvedNetwork, ServerAddresses, ServerPort, ServerPortsHandler, ServerPortsReply,
    ServerPortsRequest, ServerPortsServer, ServerSecurityGroupRequest,
};
use yakumo_rpc::{Bus, Incoming, RpcError, ServeOptions, Topic};
use yakumo_types::Fault;

use super::Flaw;
use crate::world::lock;

const NETWORK: &str = "44444444-4444-4444-8444-444444444444";

/// What the network service keeps.
#[derive(Debug, Default)]
pub struct Ports {
    /// The address of each server that has a port.
    pub addresses: BTreeMap<String, u8>,
    epochs: BTreeMap<String, u64>,
    revision: u64,
}

struct Network {
    ports: Arc<Mutex<Ports>>,
    flaw: Flaw,
}

struct Images;

/// Serves both in the current runtime.
pub async fn start(bus: &Bus, ports: Arc<Mutex<Ports>>, flaw: Flaw) -> Result<(), RpcError> {
    let network = Arc::new(Network { ports, flaw });
    bus.serve(
        Topic::Control("network"),
        vec![Arc::new(ServerPortsHandler::new(network))],
        ServeOptions::default(),
    )
    .await?;
    bus.serve(
        Topic::Control("image"),
        vec![Arc::new(ImagesHandler::new(Arc::new(Images)))],
        ServeOptions::default(),
    )
    .await?;
    Ok(())
}

impl Ports {
    /// Lower epochs of a server are refused, and a claim that has let the ports
    /// go takes none any more.
    fn admit(&mut self, server: &str, fence: Option<&Fence>, last: bool) -> Result<(), Fault> {
        let epoch = fence.map_or(0, |fence| 2 * fence.epoch + u64::from(last));
        let newest = self.epochs.entry(server.to_owned()).or_default();
        if epoch < *newest {
            return Err(Fault::stale("A later workflow has changed these ports."));
        }
        *newest = epoch;
        self.revision += 1;
        Ok(())
    }

    fn reply(&self, server: &str) -> ServerPortsReply {
        let port = |address: &u8| ServerPort {
            port_id: server.to_owned(),
            network_id: NETWORK.into(),
            mac_address: format!("fa:16:3e:00:00:{address:02x}"),
            tap: format!("tap{address}"),
            mtu: 1500,
            addresses: vec![format!("10.0.0.{address}/24")],
            network_label: "flat".into(),
            ..ServerPort::default()
        };
        ServerPortsReply {
            ports: self.addresses.get(server).map(port).into_iter().collect(),
        }
    }
}

#[async_trait]
impl ServerPortsServer for Network {
    async fn resolve_server_networks(
        &self,
        _: &Incoming,
        _: ResolveServerNetworksRequest,
    ) -> Result<ResolveServerNetworksReply, Fault> {
        Ok(ResolveServerNetworksReply {
            networks: vec![ResolvedNetwork {
                network_id: NETWORK.into(),
                label: "flat".into(),
                ..ResolvedNetwork::default()
            }],
            ..ResolveServerNetworksReply::default()
        })
    }

    async fn allocate_server_ports(
        &self,
        _: &Incoming,
        request: AllocateServerPortsRequest,
    ) -> Result<ServerPortsReply, Fault> {
        let mut ports = lock(&self.ports);
        ports.admit(&request.server_id, request.fence.as_ref(), false)?;
        if !ports.addresses.contains_key(&request.server_id) {
            let free = (2..=250).find(|it| !ports.addresses.values().any(|used| used == it));
            let free = free.ok_or_else(|| Fault::conflict("No address is free."))?;
            ports.addresses.insert(request.server_id.clone(), free);
        }
        Ok(ports.reply(&request.server_id))
    }

    async fn wire_server_ports(
        &self,
        _: &Incoming,
        request: ServerPortsRequest,
    ) -> Result<ServerPortsReply, Fault> {
        Ok(lock(&self.ports).reply(&request.server_id))
    }

    async fn release_server_ports(
        &self,
        _: &Incoming,
        request: ServerPortsRequest,
    ) -> Result<ReleaseServerPortsReply, Fault> {
        let mut ports = lock(&self.ports);
        // Only the reconciler of a server that is gone comes without a fence.
        if request.fence.is_some() {
            let last = self.flaw != Flaw::LatePorts;
            ports.admit(&request.server_id, request.fence.as_ref(), last)?;
        }
        ports.addresses.remove(&request.server_id);
        Ok(ReleaseServerPortsReply { confirmed: true })
    }

    async fn add_server_security_group(
        &self,
        _: &Incoming,
        _: ServerSecurityGroupRequest,
    ) -> Result<ServerAddresses, Fault> {
        Err(Fault::invalid("There are no groups here."))
    }

    async fn remove_server_security_group(
        &self,
        _: &Incoming,
        _: ServerSecurityGroupRequest,
    ) -> Result<ServerAddresses, Fault> {
        Err(Fault::invalid("There are no groups here."))
    }

    async fn list_server_addresses(
        &self,
        _: &Incoming,
        _: ListServerAddressesRequest,
    ) -> Result<ListServerAddressesReply, Fault> {
        let ports = lock(&self.ports);
        let servers = ports
            .addresses
            .iter()
            .map(|(server, address)| ServerAddresses {
                server_id: server.clone(),
                revision: ports.revision,
                addresses_json: format!(
                    r#"{{"flat":[{{"addr":"10.0.0.{address}","version":4}}]}}"#
                ),
                ..ServerAddresses::default()
            });
        Ok(ListServerAddressesReply {
            servers: servers.collect(),
            next: String::new(),
        })
    }
}

#[async_trait]
impl ImagesServer for Images {
    async fn get_image(&self, _: &Incoming, request: GetImageRequest) -> Result<Image, Fault> {
        Ok(Image {
            id: request.image_id,
            status: "active".into(),
            disk_format: "qcow2".into(),
            size: Some(1 << 20),
            ..Image::default()
        })
    }

    async fn get_images(&self, _: &Incoming, _: GetImagesRequest) -> Result<GetImagesReply, Fault> {
        Ok(GetImagesReply::default())
    }

    async fn issue_ticket(&self, _: &Incoming, _: IssueTicketRequest) -> Result<Ticket, Fault> {
        Ok(Ticket {
            endpoint: "http://192.0.2.1:9293".into(),
            ticket: "ticket".into(),
            size: 1 << 20,
            sha512: "00".repeat(64),
            disk_format: "qcow2".into(),
            ..Ticket::default()
        })
    }
}
