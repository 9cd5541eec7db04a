//! The service without its doors, for a simulation: the same workflows,
//! reconcilers and rules, asked by functions instead of requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use yakumo_db::Db;
use yakumo_rpc::Bus;
use yakumo_service::Process;
use yakumo_types::server_state::RebootKind;
use yakumo_types::{Fault, IdempotencyKey, RequestContext, ServerId};

use crate::app::App;
use crate::app::create::{NewServer, WantedNetworks};
use crate::app::flavors::NewFlavor;
use crate::app::power::PowerRequest;
use crate::config::Config;

/// One api service, as clients would use it.
#[derive(Clone)]
pub struct Front {
    app: Arc<App>,
}

/// Starts everything but the doors, on a database that has its schema. To be
/// called within the runtime of the process, with which it ends.
///
/// # Errors
/// Those of [`crate::start`].
pub async fn start(process: &Process, bus: Bus, config: Config, db: Db) -> anyhow::Result<Front> {
    let app = crate::work(process, bus, config, db).await?;
    Ok(Front { app })
}

impl Front {
    /// A flavor for everybody; returns its id.
    ///
    /// # Errors
    /// As compute's API answers.
    pub async fn flavor_create(
        &self,
        ctx: &RequestContext,
        id: &str,
        vcpus: i64,
        memory_mib: i64,
    ) -> Result<(), Fault> {
        let new = NewFlavor {
            id: Some(id.to_owned()),
            name: id.to_owned(),
            memory_mib,
            vcpus,
            disk_gib: 1,
            ephemeral_gib: 0,
            swap_mib: 0,
            rxtx_factor: 1.0,
            is_public: true,
        };
        self.app.flavor_create(ctx, new, None).await.map(drop)
    }

    /// Asks for a server on the project's one network, once under one key.
    ///
    /// # Errors
    /// As compute's API answers.
    pub async fn server_create(
        &self,
        ctx: &RequestContext,
        name: &str,
        image: &str,
        flavor: &str,
        key: Option<&IdempotencyKey>,
    ) -> Result<ServerId, Fault> {
        let new = NewServer {
            name: name.to_owned(),
            image_id: image.to_owned(),
            flavor_id: flavor.to_owned(),
            networks: WantedNetworks::Auto,
            security_groups: Vec::new(),
            key_name: None,
            user_data: None,
            config_drive: false,
            metadata: BTreeMap::new(),
            availability_zone: None,
            admin_password: None,
            min_count: 1,
            max_count: 1,
        };
        let accepted = self.app.server_create(ctx, new, key).await?;
        let row = accepted
            .servers
            .first()
            .ok_or_else(|| Fault::internal("No server was accepted."))?;
        row.id
            .parse()
            .map_err(|_| Fault::internal("The server's id cannot be read."))
    }

    /// Asks for it to be switched on.
    ///
    /// # Errors
    /// As compute's API answers.
    pub async fn server_start(&self, ctx: &RequestContext, id: ServerId) -> Result<(), Fault> {
        self.app.server_power(ctx, id, PowerRequest::Start).await
    }

    /// Asks for it to be switched off.
    ///
    /// # Errors
    /// As compute's API answers.
    pub async fn server_stop(&self, ctx: &RequestContext, id: ServerId) -> Result<(), Fault> {
        self.app.server_power(ctx, id, PowerRequest::Stop).await
    }

    /// Asks for its plug to be pulled and put in again.
    ///
    /// # Errors
    /// As compute's API answers.
    pub async fn server_reboot(&self, ctx: &RequestContext, id: ServerId) -> Result<(), Fault> {
        let hard = PowerRequest::Reboot(RebootKind::Hard);
        self.app.server_power(ctx, id, hard).await
    }

    /// Asks for its deletion.
    ///
    /// # Errors
    /// As compute's API answers.
    pub async fn server_delete(&self, ctx: &RequestContext, id: ServerId) -> Result<(), Fault> {
        self.app.server_delete(ctx, id).await
    }
}
