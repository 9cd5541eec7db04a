//! The contract `network`: thin, everything is in `app`.

use yakumo_contracts::common::Empty;
use yakumo_contracts::network::{
    AllocateServerPortsRequest, AnnounceReply, AnnounceRequest, CreateFloatingIpsRequest,
    CreateNetworksRequest, CreatePortsRequest, CreateRoutersRequest,
    CreateSecurityGroupRulesRequest, CreateSecurityGroupsRequest, CreateSubnetsRequest, FloatingIp,
    ForgetHostReply, ForgetHostRequest, HostBeat, HostStatesServer, HostsLiveRequest, IdRequest,
    ListAgentsReply, ListFloatingIpsReply, ListNetworksReply, ListPortsReply, ListQuotasReply,
    ListRequest, ListRoutersReply, ListSecurityGroupRulesReply, ListSecurityGroupsReply,
    ListServerAddressesReply, ListServerAddressesRequest, ListSubnetsReply, Network,
    NetworkHostsServer, NetworksServer, Port, PullStateReply, PullStateRequest, Quotas,
    QuotasRequest, ReleaseServerPortsReply, ReportAppliedRequest, ResolveServerNetworksReply,
    ResolveServerNetworksRequest, Router, RouterInterface, RouterInterfaceRequest, SecurityGroup,
    ServerAddresses, ServerPortsReply, ServerPortsRequest, ServerPortsServer,
    ServerSecurityGroupRequest, SetQuotasRequest, Subnet, UpdateFloatingIpRequest,
    UpdateNetworkRequest, UpdatePortRequest, UpdateRouterRequest, UpdateSecurityGroupRequest,
    UpdateSubnetRequest,
};
use yakumo_rpc::Incoming;
use yakumo_types::Fault;

use crate::app::{App, fit};

/// Serves all parts of the contract.
pub struct Rpc {
    /// The rules.
    pub app: App,
}

/// Methods that hand the caller's context and the request on.
macro_rules! forward {
    (calls { $($method:ident($request:ty) -> $reply:ty;)* } lists { $($list:ident -> $page:ident.$rows:ident;)* }) => {
        #[async_trait::async_trait]
        impl NetworksServer for Rpc {
            $(async fn $list(&self, call: &Incoming, request: ListRequest) -> Result<$page, Fault> {
                let backwards = request.page_reverse;
                let mut reply = self.app.$list(&call.context, request).await?;
                reply.more |= fit(&mut reply.$rows, backwards);
                Ok(reply)
            })*

            $(async fn $method(&self, call: &Incoming, request: $request) -> Result<$reply, Fault> {
                self.app.$method(&call.context, request).await
            })*

            async fn delete_network(&self, call: &Incoming, request: IdRequest) -> Result<Empty, Fault> {
                self.app.delete_network(&call.context, &request.id).await.map(|()| Empty {})
            }

            async fn delete_subnet(&self, call: &Incoming, request: IdRequest) -> Result<Empty, Fault> {
                self.app.delete_subnet(&call.context, &request.id).await.map(|()| Empty {})
            }

            async fn delete_port(&self, call: &Incoming, request: IdRequest) -> Result<Empty, Fault> {
                self.app.delete_port(&call.context, &request.id).await.map(|()| Empty {})
            }

            async fn delete_security_group(&self, call: &Incoming, request: IdRequest) -> Result<Empty, Fault> {
                self.app.delete_security_group(&call.context, &request.id).await.map(|()| Empty {})
            }

            async fn delete_security_group_rule(&self, call: &Incoming, request: IdRequest) -> Result<Empty, Fault> {
                self.app.delete_security_group_rule(&call.context, &request.id).await.map(|()| Empty {})
            }

            async fn delete_floating_ip(&self, call: &Incoming, request: IdRequest) -> Result<Empty, Fault> {
                self.app.delete_floating_ip(&call.context, &request.id).await.map(|()| Empty {})
            }

            async fn delete_router(&self, call: &Incoming, request: IdRequest) -> Result<Empty, Fault> {
                self.app.delete_router(&call.context, &request.id).await.map(|()| Empty {})
            }

            async fn get_quotas(&self, call: &Incoming, request: QuotasRequest) -> Result<Quotas, Fault> {
                self.app.quotas(&call.context, &request.project_id).await
            }

            async fn list_quotas(&self, call: &Incoming, _request: Empty) -> Result<ListQuotasReply, Fault> {
                self.app.list_quotas(&call.context).await
            }
        }
    };
}

forward! {
    calls {
        create_networks(CreateNetworksRequest) -> ListNetworksReply;
        update_network(UpdateNetworkRequest) -> Network;
        create_subnets(CreateSubnetsRequest) -> ListSubnetsReply;
        update_subnet(UpdateSubnetRequest) -> Subnet;
        create_ports(CreatePortsRequest) -> ListPortsReply;
        update_port(UpdatePortRequest) -> Port;
        create_security_groups(CreateSecurityGroupsRequest) -> ListSecurityGroupsReply;
        update_security_group(UpdateSecurityGroupRequest) -> SecurityGroup;
        create_security_group_rules(CreateSecurityGroupRulesRequest) -> ListSecurityGroupRulesReply;
        create_floating_ips(CreateFloatingIpsRequest) -> ListFloatingIpsReply;
        update_floating_ip(UpdateFloatingIpRequest) -> FloatingIp;
        create_routers(CreateRoutersRequest) -> ListRoutersReply;
        update_router(UpdateRouterRequest) -> Router;
        add_router_interface(RouterInterfaceRequest) -> RouterInterface;
        remove_router_interface(RouterInterfaceRequest) -> RouterInterface;
        set_quotas(SetQuotasRequest) -> Quotas;
    }
    lists {
        list_networks -> ListNetworksReply.networks;
        list_subnets -> ListSubnetsReply.subnets;
        list_ports -> ListPortsReply.ports;
        list_security_groups -> ListSecurityGroupsReply.security_groups;
        list_security_group_rules -> ListSecurityGroupRulesReply.security_group_rules;
        list_floating_ips -> ListFloatingIpsReply.floatingips;
        list_routers -> ListRoutersReply.routers;
        list_agents -> ListAgentsReply.agents;
    }
}

#[async_trait::async_trait]
impl ServerPortsServer for Rpc {
    async fn resolve_server_networks(
        &self,
        call: &Incoming,
        request: ResolveServerNetworksRequest,
    ) -> Result<ResolveServerNetworksReply, Fault> {
        call.sender.require_control()?;
        self.app.resolve_server_networks(request).await
    }

    async fn allocate_server_ports(
        &self,
        call: &Incoming,
        request: AllocateServerPortsRequest,
    ) -> Result<ServerPortsReply, Fault> {
        call.sender.require_control()?;
        self.app.allocate_server_ports(request).await
    }

    async fn wire_server_ports(
        &self,
        call: &Incoming,
        request: ServerPortsRequest,
    ) -> Result<ServerPortsReply, Fault> {
        call.sender.require_control()?;
        self.app
            .wire_server_ports(call.context.request_id, request)
            .await
    }

    async fn release_server_ports(
        &self,
        call: &Incoming,
        request: ServerPortsRequest,
    ) -> Result<ReleaseServerPortsReply, Fault> {
        call.sender.require_control()?;
        self.app.release_server_ports(request).await
    }

    async fn add_server_security_group(
        &self,
        call: &Incoming,
        request: ServerSecurityGroupRequest,
    ) -> Result<ServerAddresses, Fault> {
        call.sender.require_control()?;
        self.app.change_server_group(request, true).await
    }

    async fn remove_server_security_group(
        &self,
        call: &Incoming,
        request: ServerSecurityGroupRequest,
    ) -> Result<ServerAddresses, Fault> {
        call.sender.require_control()?;
        self.app.change_server_group(request, false).await
    }

    async fn list_server_addresses(
        &self,
        call: &Incoming,
        request: ListServerAddressesRequest,
    ) -> Result<ListServerAddressesReply, Fault> {
        call.sender.require_control()?;
        self.app.list_server_addresses(request).await
    }
}

#[async_trait::async_trait]
impl HostStatesServer for Rpc {
    async fn pull_state(
        &self,
        call: &Incoming,
        request: PullStateRequest,
    ) -> Result<PullStateReply, Fault> {
        call.sender.require_host(&request.host)?;
        self.app.pull_state(request).await
    }

    async fn report_applied(
        &self,
        call: &Incoming,
        request: ReportAppliedRequest,
    ) -> Result<Empty, Fault> {
        call.sender.require_host(&request.host)?;
        self.app.report_applied(request).await.map(|()| Empty {})
    }

    async fn announce(
        &self,
        call: &Incoming,
        request: AnnounceRequest,
    ) -> Result<AnnounceReply, Fault> {
        call.sender.require_host(&request.host)?;
        self.app.announce(request).await
    }

    async fn beat(&self, call: &Incoming, request: HostBeat) -> Result<(), Fault> {
        call.sender.require_host(&request.host)?;
        self.app.beats.add(request.host, self.app.env.now());
        Ok(())
    }
}

#[async_trait::async_trait]
impl NetworkHostsServer for Rpc {
    async fn hosts_live(&self, call: &Incoming, request: HostsLiveRequest) -> Result<(), Fault> {
        call.sender.require_control()?;
        let now = self.app.env.now();
        for host in request.hosts {
            self.app.beats.add(host, now);
        }
        Ok(())
    }

    async fn forget_host(
        &self,
        call: &Incoming,
        request: ForgetHostRequest,
    ) -> Result<ForgetHostReply, Fault> {
        call.sender.require_control()?;
        let was_known = self.app.forget_host(request).await?;
        Ok(ForgetHostReply { was_known })
    }
}
