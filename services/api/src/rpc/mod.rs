//! The api service's side of its contracts: what hosts tell, and what other
//! control services ask.

use std::sync::Arc;

use async_trait::async_trait;
use yakumo_contracts::api::{
    AddHostTokenRequest, ApiServer, Heartbeat, HostAdminServer, HostReport, HostReportReply,
    HostReportsServer, MetadataReply, MetadataRequest, RegisterHostReply, RegisterHostRequest,
    RemoveHostReply, RemoveHostRequest, ServerProjection, SnapshotReply, SnapshotRequest,
};
use yakumo_contracts::common::Empty;
use yakumo_contracts::network::ServerAddresses;
use yakumo_rpc::{Incoming, Principal};
use yakumo_types::Fault;

use crate::app::App;

/// The longest path that a guest may ask for.
const MAX_PATH: usize = 1024;

/// Serves hosts. Each method believes a host only about itself.
pub(crate) struct HostReports {
    pub app: Arc<App>,
}

#[async_trait]
impl HostReportsServer for HostReports {
    async fn register(
        &self,
        call: &Incoming,
        request: RegisterHostRequest,
    ) -> Result<RegisterHostReply, Fault> {
        let facts = request
            .facts
            .ok_or_else(|| Fault::invalid("The host's facts are missing."))?;
        call.sender.require_host(&facts.host)?;
        Ok(RegisterHostReply {
            incarnation: self.app.host_register(facts).await?,
            heartbeat_seconds: self.app.config.heartbeat_seconds,
            passes_on: true,
        })
    }

    async fn report(&self, call: &Incoming, request: HostReport) -> Result<HostReportReply, Fault> {
        call.sender.require_host(&request.host)?;
        self.app.report_take(request).await
    }

    async fn beat(&self, call: &Incoming, request: Heartbeat) -> Result<(), Fault> {
        let report = request
            .report
            .ok_or_else(|| Fault::invalid("The report is missing."))?;
        call.sender.require_host(&report.host)?;
        self.app.host_heard(&report).await?;
        Ok(())
    }

    async fn get_metadata(
        &self,
        call: &Incoming,
        request: MetadataRequest,
    ) -> Result<MetadataReply, Fault> {
        let Principal::Host(host) = &call.sender else {
            return Err(Fault::forbidden("Only hosts forward guests' requests."));
        };
        if request.path.len() > MAX_PATH {
            return Ok(not_found());
        }
        let (Ok(server), Ok(project), Ok(port)) = (
            request.server_id.parse(),
            request.project_id.parse(),
            request.port_id.parse(),
        ) else {
            return Ok(not_found());
        };
        let document = self
            .app
            .metadata_for_host(host, server, project, port, &request.path)
            .await?;
        Ok(document.map_or_else(not_found, |document| MetadataReply {
            status: 200,
            content_type: document.content_type.into(),
            body: document.body,
        }))
    }
}

fn not_found() -> MetadataReply {
    MetadataReply {
        status: 404,
        content_type: "text/plain; charset=UTF-8".into(),
        body: b"404 Not Found".to_vec(),
    }
}

/// Serves other control services.
pub(crate) struct Api {
    pub app: Arc<App>,
}

#[async_trait]
impl ApiServer for Api {
    async fn snapshot(
        &self,
        call: &Incoming,
        request: SnapshotRequest,
    ) -> Result<SnapshotReply, Fault> {
        call.sender.require_control()?;
        let page = request.page.unwrap_or_default();
        self.app.host_snapshot(&page.marker, page.limit).await
    }

    async fn project_server(
        &self,
        call: &Incoming,
        request: ServerProjection,
    ) -> Result<(), Fault> {
        call.sender.require_control()?;
        self.app
            .server_project(ServerAddresses {
                server_id: request.server_id,
                project_id: request.project_id,
                revision: request.revision,
                addresses_json: request.addresses_json,
                security_groups: request.security_groups,
                host: String::new(),
            })
            .await
    }
}

/// Serves operators' commands.
pub(crate) struct HostAdmin {
    pub app: Arc<App>,
}

#[async_trait]
impl HostAdminServer for HostAdmin {
    async fn add_host_token(
        &self,
        call: &Incoming,
        request: AddHostTokenRequest,
    ) -> Result<Empty, Fault> {
        call.sender.require_control()?;
        call.context.require_admin()?;
        self.app.host_token_add(request).await?;
        Ok(Empty {})
    }

    async fn remove_host(
        &self,
        call: &Incoming,
        request: RemoveHostRequest,
    ) -> Result<RemoveHostReply, Fault> {
        call.sender.require_control()?;
        call.context.require_admin()?;
        self.app.host_remove(&request.host).await
    }
}
