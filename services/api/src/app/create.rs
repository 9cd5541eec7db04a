//! Accepting a server: everything that can be refused is refused here, and
//! nothing is taken before all of it holds. Accepting is one transaction: the
//! servers' rows, their actions and the workflows that make them.

use std::collections::BTreeMap;

use serde_json::json;
use yakumo_contracts::image::{GetImageRequest, Image};
use yakumo_contracts::network::{
    RequestedNetwork, ResolveServerNetworksReply, ResolveServerNetworksRequest,
};
use yakumo_db::DbError;
use yakumo_db::idempotency::{Once, gone};
use yakumo_types::server_state::ServerState;
use yakumo_types::{
    Fault, FaultCode, IdempotencyKey, ImageId, ProjectId, RequestContext, ServerId, check_name,
};

use super::App;
use super::checks::{
    MAX_NAME, check_counts, check_fit, check_metadata, check_names, check_user_data, hostname,
};
use super::quotas::{effective, limits_servers, lock_project, servers_allowed};
use crate::store::actions::{self, Action};
use crate::store::flavors::Flavor;
use crate::store::key_pairs::{self, KeyPair};
use crate::store::quotas;
use crate::store::servers::{self as store, Expected, Server, ServerBuild, ServerChange, Usage};
use crate::workflows::create_server;

/// Interfaces of one server at most.
const MAX_NETWORKS: usize = 16;

/// The networks that a server is to be on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WantedNetworks {
    /// The one network that the project can use.
    Auto,
    /// These.
    These(Vec<WantedNetwork>),
}

/// One interface of a server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WantedNetwork {
    pub network_id: Option<String>,
    pub port_id: Option<String>,
    pub fixed_ip: Option<String>,
}

/// What a client wants.
#[derive(Debug, Clone)]
pub struct NewServer {
    pub name: String,
    pub image_id: String,
    pub flavor_id: String,
    pub networks: WantedNetworks,
    pub security_groups: Vec<String>,
    pub key_name: Option<String>,
    pub user_data: Option<String>,
    pub config_drive: bool,
    pub metadata: BTreeMap<String, String>,
    pub availability_zone: Option<String>,
    pub admin_password: Option<String>,
    pub min_count: u32,
    pub max_count: u32,
}

/// Servers that were accepted.
#[derive(Debug, Clone)]
pub struct Accepted {
    pub servers: Vec<Server>,
    pub reservation_id: String,
    /// Not told again to a request that was accepted before, unless the client
    /// itself chose it: it is kept nowhere.
    pub admin_password: Option<String>,
}

/// Where a server is to go.
#[derive(Debug, Clone, Default)]
struct Place {
    zone: Option<String>,
    host: Option<String>,
}

impl App {
    /// Accepts one server or several of one kind. Of several, a `key` stands
    /// for the first one.
    pub async fn server_create(
        &self,
        ctx: &RequestContext,
        new: NewServer,
        key: Option<&IdempotencyKey>,
    ) -> Result<Accepted, Fault> {
        let project = ctx.require_member()?;
        let once = self.once(ctx, "create_servers", key);
        if let Some(id) = once.made_one(&self.db).await? {
            return self.accepted_before(ctx, &id, new.admin_password).await;
        }
        let name = check_name("Server name", &new.name, MAX_NAME)?.to_owned();
        check_counts(&new, self.config.max_servers_per_request)?;
        check_names(&name, new.max_count)?;
        check_user_data(new.user_data.as_deref())?;
        check_metadata(&new.metadata, self.config.quota.metadata_items)?;
        if let Some(password) = &new.admin_password {
            check_name("adminPass", password, 255)?;
        }
        let place = self.place(ctx, new.availability_zone.as_deref()).await?;
        let flavor = self
            .flavor_show(ctx, &new.flavor_id)
            .await
            .map_err(as_bad_request)?;
        let key = self.key_of(ctx, new.key_name.as_deref()).await?;
        let (image, networks) = tokio::try_join!(
            self.image_of(ctx, &new.image_id),
            self.networks_of(ctx, project, &new)
        )?;
        check_fit(&image, &flavor)?;

        let made = Made {
            name,
            flavor,
            image,
            key,
            place,
            networks,
        };
        let reservation_id = self.reservation_id();
        let servers = self
            .insert_servers(ctx, project, &new, made, &reservation_id, once)
            .await?;
        let admin_password = new
            .admin_password
            .or_else(|| Some(self.random_text(12, ALPHANUMERIC)));
        Ok(Accepted {
            servers,
            reservation_id,
            admin_password,
        })
    }

    async fn accepted_before(
        &self,
        ctx: &RequestContext,
        id: &str,
        admin_password: Option<String>,
    ) -> Result<Accepted, Fault> {
        let id = id.parse().map_err(DbError::other)?;
        let server = self.server_of(ctx, id).await.map_err(gone)?;
        Ok(Accepted {
            reservation_id: server.reservation_id.clone(),
            servers: vec![server],
            admin_password,
        })
    }

    async fn insert_servers(
        &self,
        ctx: &RequestContext,
        project: ProjectId,
        new: &NewServer,
        made: Made,
        reservation_id: &str,
        once: Once,
    ) -> Result<Vec<Server>, Fault> {
        let ids: Vec<ServerId> = (0..new.max_count).map(|_| self.env.id()).collect();
        let actions: Vec<String> = ids
            .iter()
            .map(|_| self.env.rng.uuid().to_string())
            .collect();
        let now = self.env.now();
        let mut rows = Vec::new();
        let mut builds = Vec::new();
        let mut inputs = Vec::new();
        for (index, id) in ids.iter().enumerate() {
            let name = match new.max_count {
                1 => made.name.clone(),
                _ => format!("{}-{}", made.name, index + 1),
            };
            rows.push(row(
                ctx,
                project,
                new,
                &made,
                *id,
                name,
                index,
                reservation_id,
                now.as_micros(),
            ));
            builds.push(build(ctx, new, &made, *id)?);
        }
        for (((row, build), id), action) in rows.iter().zip(&builds).zip(ids).zip(&actions) {
            inputs.push(json_of(create_server::Facts::of(row, build).and_then(
                |facts| {
                    serde_json::to_value(create_server::Input {
                        server_id: id,
                        action_id: action.clone(),
                        facts,
                    })
                },
            ))?);
        }
        let rows = std::sync::Arc::new((rows, builds, inputs, actions));
        let (ctx, engine) = (ctx.clone(), self.engine.clone());
        let defaults = self.config.quota.clone();
        let (least, most) = (i64::from(new.min_count), i64::from(new.max_count));
        let bound = std::time::Duration::from_secs(self.config.boot_bound_seconds);
        let (vcpus, memory) = (made.flavor.vcpus, made.flavor.memory_mib);
        Ok(self
            .db
            .write(move |txn| {
                let (ctx, engine, rows, defaults) =
                    (ctx.clone(), engine.clone(), rows.clone(), defaults.clone());
                let once = once.clone();
                Box::pin(async move {
                    let first = rows.0.first().map(|row| row.id.clone());
                    once.keep(txn, first.as_slice()).await?;
                    let own = quotas::quota_list_in(txn, &project.to_string()).await?;
                    let limits = effective(&defaults, own);
                    let mut used = Usage::default();
                    // Nothing is counted where nothing is limited.
                    if limits_servers(&limits) {
                        lock_project(txn, project).await?;
                        used = store::usage_in(txn, &project.to_string()).await?;
                    }
                    let allowed = servers_allowed(&limits, used, vcpus, memory, least, most)?;
                    let count = usize::try_from(allowed).unwrap_or(0);
                    let (rows, builds, inputs, action_ids) = &*rows;
                    let mut accepted: Vec<Server> = rows.iter().take(count).cloned().collect();
                    let mut actions = Vec::new();
                    for ((row, input), action) in accepted.iter_mut().zip(inputs).zip(action_ids) {
                        let workflow = engine
                            .submit(
                                txn,
                                create_server::KIND,
                                &row.id,
                                input.clone(),
                                &ctx,
                                bound,
                            )
                            .await?;
                        row.workflow_id = Some(workflow.to_string());
                        actions.push(action_row(&ctx, row, action, "create", row.created_at));
                    }
                    store::server_insert(
                        txn,
                        accepted.clone(),
                        builds.iter().take(count).cloned().collect(),
                    )
                    .await?;
                    actions::action_insert(txn, actions).await?;
                    Ok(accepted)
                })
            })
            .await?)
    }

    async fn place(&self, ctx: &RequestContext, wanted: Option<&str>) -> Result<Place, Fault> {
        let Some(wanted) = wanted.filter(|zone| !zone.is_empty()) else {
            return Ok(Place::default());
        };
        let mut parts = wanted.splitn(3, ':');
        let zone = parts.next().unwrap_or("").to_owned();
        let host = parts.next().filter(|host| !host.is_empty());
        let node = parts.next().filter(|node| !node.is_empty());
        if (host.is_some() || node.is_some()) && !ctx.is_admin() {
            return Err(Fault::forbidden(
                "Only an administrator may choose a server's host.",
            ));
        }
        if !zone.is_empty() {
            check_name("availability_zone", &zone, 255)?;
            self.require_zone(&zone).await?;
        }
        let host = host.or(node).map(ToOwned::to_owned);
        if let Some(host) = &host
            && crate::store::hosts::host_fetch(self.db.read(), host)
                .await?
                .is_none()
        {
            return Err(Fault::invalid(format!(
                "No compute host named {host:.255} is known."
            )));
        }
        Ok(Place {
            zone: (!zone.is_empty()).then_some(zone),
            host,
        })
    }

    async fn key_of(
        &self,
        ctx: &RequestContext,
        name: Option<&str>,
    ) -> Result<Option<KeyPair>, Fault> {
        let Some(name) = name else { return Ok(None) };
        let row = key_pairs::key_pair_fetch(self.db.read(), ctx.user_id, name).await?;
        match row {
            Some(row) => Ok(Some(row)),
            None => Err(Fault::invalid("Invalid key_name provided.")),
        }
    }

    async fn image_of(&self, ctx: &RequestContext, id: &str) -> Result<Image, Fault> {
        let id: ImageId = id
            .parse()
            .map_err(|_| Fault::invalid("imageRef must be the id of an image."))?;
        let request = GetImageRequest {
            image_id: id.to_string(),
        };
        let image = self
            .images
            .get_image(ctx, request)
            .await
            .map_err(as_bad_request)?;
        if image.status != "active" {
            return Err(Fault::invalid(format!("Image {id} is not active.")));
        }
        if !matches!(image.disk_format.as_str(), "raw" | "qcow2") {
            return Err(Fault::invalid(format!(
                "Image {id} is {} and cannot be booted here; raw and qcow2 can.",
                image.disk_format
            )));
        }
        Ok(image)
    }

    async fn networks_of(
        &self,
        ctx: &RequestContext,
        project: ProjectId,
        new: &NewServer,
    ) -> Result<ResolveServerNetworksReply, Fault> {
        let requested = match &new.networks {
            WantedNetworks::Auto => Vec::new(),
            WantedNetworks::These(networks) => requested(networks)?,
        };
        if requested.iter().any(|network| {
            new.max_count > 1 && (!network.port_id.is_empty() || !network.fixed_ip.is_empty())
        }) {
            return Err(Fault::invalid(
                "A port or a fixed address can be given to one server only.",
            ));
        }
        let request = ResolveServerNetworksRequest {
            project_id: project.to_string(),
            requested,
            // Version 2.37 of the API can ask for no network at all.
            none: false,
            security_groups: new.security_groups.clone(),
            servers: new.max_count,
        };
        self.server_ports
            .resolve_server_networks(ctx, request)
            .await
            .map_err(|fault| match fault.code {
                // Compute calls what its body names wrongly a bad request.
                FaultCode::NotFound => as_bad_request(fault),
                _ => fault,
            })
    }

    fn reservation_id(&self) -> String {
        format!(
            "r-{}",
            self.random_text(8, b"abcdefghijklmnopqrstuvwxyz0123456789")
        )
    }

    fn random_text(&self, length: usize, alphabet: &[u8]) -> String {
        (0..length)
            .filter_map(|_| {
                let pick = self.env.rng.below(alphabet.len() as u64);
                alphabet.get(usize::try_from(pick).ok()?).copied()
            })
            .map(char::from)
            .collect()
    }
}

/// Everything that was looked up for a request.
struct Made {
    name: String,
    flavor: Flavor,
    image: Image,
    key: Option<KeyPair>,
    place: Place,
    networks: ResolveServerNetworksReply,
}

const ALPHANUMERIC: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz23456789";

fn action_row(ctx: &RequestContext, row: &Server, id: &str, name: &str, at: i64) -> Action {
    Action {
        id: id.to_owned(),
        server_id: row.id.clone(),
        request_id: ctx.request_id.to_string(),
        project_id: row.project_id.clone(),
        user_id: ctx.user_id.to_string(),
        action: name.to_owned(),
        started_at: at,
        finished_at: None,
        message: None,
        events: "[]".into(),
    }
}

#[allow(clippy::too_many_arguments)]
fn row(
    ctx: &RequestContext,
    project: ProjectId,
    new: &NewServer,
    made: &Made,
    id: ServerId,
    name: String,
    index: usize,
    reservation_id: &str,
    now: i64,
) -> Server {
    let groups: Vec<_> = made
        .networks
        .security_group_names
        .iter()
        .map(|name| json!({ "name": name }))
        .collect();
    let state = ServerState::ACCEPTED;
    Server {
        id: id.to_string(),
        project_id: project.to_string(),
        user_id: ctx.user_id.to_string(),
        hostname: hostname(&name, id),
        name,
        flavor_id: made.flavor.id.clone(),
        flavor_name: made.flavor.name.clone(),
        vcpus: made.flavor.vcpus,
        memory_mib: made.flavor.memory_mib,
        disk_gib: made.flavor.disk_gib,
        image_id: Some(made.image.id.clone()),
        key_name: made.key.as_ref().map(|key| key.name.clone()),
        config_drive: new.config_drive,
        availability_zone: made.place.zone.clone(),
        host: None,
        vm_state: state.vm.as_str().into(),
        task_state: state.task.map(|task| task.as_str().into()),
        power_state: 0,
        stage: String::new(),
        generation: 1,
        desired_power: "running".into(),
        reboot_count: 0,
        seen_generation: 0,
        seen_converged: false,
        seen_power: String::new(),
        seen_reboots: 0,
        seen_fault: None,
        metadata: json!(new.metadata).to_string(),
        addresses: "{}".into(),
        addresses_revision: 0,
        security_groups: json!(groups).to_string(),
        fault: None,
        locked: false,
        locked_by: None,
        launch_index: i64::try_from(index).unwrap_or(0),
        reservation_id: reservation_id.to_owned(),
        workflow_id: None,
        created_at: now,
        updated_at: now,
        launched_at: None,
        deleted_at: 0,
    }
}

fn build(
    ctx: &RequestContext,
    new: &NewServer,
    made: &Made,
    id: ServerId,
) -> Result<ServerBuild, Fault> {
    Ok(ServerBuild {
        server_id: id.to_string(),
        user_data: new.user_data.clone(),
        networks: json_of(serde_json::to_string(&made.networks.networks))?,
        security_groups: json_of(serde_json::to_string(&made.networks.security_group_ids))?,
        key_public: made.key.as_ref().map(|key| key.public_key.clone()),
        key_type: made.key.as_ref().map(|key| key.kind.clone()),
        user_name: ctx.user_name.clone(),
        forced_host: made.place.host.clone(),
        decision: None,
        spec: None,
    })
}

fn json_of<T>(json: serde_json::Result<T>) -> Result<T, Fault> {
    json.map_err(|_| Fault::internal("The server could not be written down."))
}

fn requested(networks: &[WantedNetwork]) -> Result<Vec<RequestedNetwork>, Fault> {
    if networks.len() > MAX_NETWORKS {
        return Err(Fault::invalid(format!(
            "A server may have {MAX_NETWORKS} interfaces."
        )));
    }
    networks
        .iter()
        .map(|network| {
            if network.network_id.is_none() && network.port_id.is_none() {
                return Err(Fault::invalid("Each network needs a uuid or a port."));
            }
            Ok(RequestedNetwork {
                network_id: network.network_id.clone().unwrap_or_default(),
                port_id: network.port_id.clone().unwrap_or_default(),
                fixed_ip: network.fixed_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}

/// What a body names and is not there makes the body wrong, not the address.
fn as_bad_request(fault: Fault) -> Fault {
    match fault.code {
        FaultCode::NotFound | FaultCode::Forbidden => Fault::invalid(fault.message),
        _ => fault,
    }
}

/// Names `workflow` in a row, and says `expected` must still hold.
pub(crate) async fn assign_workflow(
    txn: &crate::store::DatabaseTransaction,
    id: ServerId,
    change: ServerChange,
    expected: &Expected,
    workflow: yakumo_types::WorkflowId,
) -> Result<(), yakumo_db::DbError> {
    store::server_change(txn, id, expected, change.workflow(Some(workflow))).await
}
