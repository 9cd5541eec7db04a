//! The server side of the volume service's contract.

use std::sync::Arc;

use yakumo_contracts::common::Empty;
use yakumo_contracts::volume::{
    Attachment, AttachmentRequest, Connection, CreateVolumeRequest, ForgetStorageHostReply,
    ForgetStorageHostRequest, ListStorageHostsReply, ListVolumeTypesReply, ListVolumesReply,
    ListVolumesRequest, Quota, QuotaRequest, ReserveAttachmentRequest, SetQuotaRequest,
    StorageHost, StorageHostsLiveRequest, StorageHostsServer, StorageReportsServer,
    UpdateVolumeRequest, Volume, VolumeRequest, VolumesServer,
};
use yakumo_rpc::{Incoming, Principal};
use yakumo_types::Fault;

use crate::app::App;

/// Serves [`App`] on the bus.
pub struct Rpc {
    /// The rules.
    pub app: Arc<App>,
}

#[async_trait::async_trait]
impl VolumesServer for Rpc {
    async fn create_volume(
        &self,
        call: &Incoming,
        request: CreateVolumeRequest,
    ) -> Result<Volume, Fault> {
        self.app.create_volume(&call.context, request).await
    }

    async fn list_volumes(
        &self,
        call: &Incoming,
        request: ListVolumesRequest,
    ) -> Result<ListVolumesReply, Fault> {
        self.app.list_volumes(&call.context, request).await
    }

    async fn show_volume(&self, call: &Incoming, request: VolumeRequest) -> Result<Volume, Fault> {
        self.app.show_volume(&call.context, &request.id).await
    }

    async fn update_volume(
        &self,
        call: &Incoming,
        request: UpdateVolumeRequest,
    ) -> Result<Volume, Fault> {
        self.app.update_volume(&call.context, request).await
    }

    async fn delete_volume(&self, call: &Incoming, request: VolumeRequest) -> Result<Empty, Fault> {
        self.app
            .delete_volume(&call.context, &request.id)
            .await
            .map(|()| Empty {})
    }

    async fn reserve_attachment(
        &self,
        call: &Incoming,
        request: ReserveAttachmentRequest,
    ) -> Result<Attachment, Fault> {
        self.app.reserve_attachment(&call.context, request).await
    }

    async fn connect_attachment(
        &self,
        call: &Incoming,
        request: AttachmentRequest,
    ) -> Result<Connection, Fault> {
        self.app.connect_attachment(&call.context, request).await
    }

    async fn complete_attachment(
        &self,
        call: &Incoming,
        request: AttachmentRequest,
    ) -> Result<Attachment, Fault> {
        self.app.complete_attachment(&call.context, request).await
    }

    async fn begin_detach(
        &self,
        call: &Incoming,
        request: AttachmentRequest,
    ) -> Result<Attachment, Fault> {
        self.app.begin_detach(&call.context, request).await
    }

    async fn abort_detach(
        &self,
        call: &Incoming,
        request: AttachmentRequest,
    ) -> Result<Attachment, Fault> {
        self.app.abort_detach(&call.context, request).await
    }

    async fn release_attachment(
        &self,
        call: &Incoming,
        request: AttachmentRequest,
    ) -> Result<Empty, Fault> {
        self.app
            .release_attachment(&call.context, request)
            .await
            .map(|()| Empty {})
    }

    async fn list_volume_types(
        &self,
        call: &Incoming,
        _request: Empty,
    ) -> Result<ListVolumeTypesReply, Fault> {
        self.app.list_volume_types(&call.context)
    }

    async fn get_quota(&self, call: &Incoming, request: QuotaRequest) -> Result<Quota, Fault> {
        self.app.quota(&call.context, &request.project_id).await
    }

    async fn set_quota(&self, call: &Incoming, request: SetQuotaRequest) -> Result<Quota, Fault> {
        self.app.set_quota(&call.context, request).await
    }

    async fn list_storage_hosts(
        &self,
        call: &Incoming,
        _request: Empty,
    ) -> Result<ListStorageHostsReply, Fault> {
        self.app.list_storage_hosts(&call.context).await
    }
}

#[async_trait::async_trait]
impl StorageReportsServer for Rpc {
    async fn announce(&self, call: &Incoming, request: StorageHost) -> Result<(), Fault> {
        match &call.sender {
            Principal::Host(host) if *host == request.host => {}
            _ => return Err(Fault::forbidden("A storage host speaks for itself only.")),
        }
        self.app.storage_host_lives(request)
    }
}

#[async_trait::async_trait]
impl StorageHostsServer for Rpc {
    async fn storage_hosts_live(
        &self,
        call: &Incoming,
        request: StorageHostsLiveRequest,
    ) -> Result<(), Fault> {
        call.sender.require_control()?;
        for host in request.hosts {
            let name = host.host.clone();
            if let Err(fault) = self.app.storage_host_lives(host) {
                tracing::warn!(host = name, %fault, "what a storage host says of itself was refused");
            }
        }
        Ok(())
    }

    async fn forget_storage_host(
        &self,
        call: &Incoming,
        request: ForgetStorageHostRequest,
    ) -> Result<ForgetStorageHostReply, Fault> {
        call.sender.require_control()?;
        let was_known = self.app.forget_storage_host(request).await?;
        Ok(ForgetStorageHostReply { was_known })
    }
}
