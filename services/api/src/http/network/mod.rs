//! Network API v2.0 (Neutron's).
//!
//! Networks belong to the network service; this surface parses, asks it over
//! the bus and renders. One request is one question on the bus, except for a
//! listing without a limit, which is read page by page.

mod agents;
mod extensions;
mod floating_ips;
mod listing;
mod networks;
mod ports;
mod quotas;
mod routers;
mod security_group_rules;
mod security_groups;
mod shape;
mod subnets;
mod versions;

use axum::Router;
use axum::routing::{get, put};
use yakumo_contracts::network::NetworksClient;

/// What the surface needs.
#[derive(Clone)]
pub struct NetworkState {
    /// The network service.
    pub networks: NetworksClient,
}

/// All routes of the network API.
pub fn router(state: NetworkState) -> Router {
    let v2 = Router::new()
        .route("/networks", get(networks::list).post(networks::create))
        .route(
            "/networks/{id}",
            get(networks::show)
                .put(networks::update)
                .delete(networks::delete),
        )
        .route("/subnets", get(subnets::list).post(subnets::create))
        .route(
            "/subnets/{id}",
            get(subnets::show)
                .put(subnets::update)
                .delete(subnets::delete),
        )
        .route("/ports", get(ports::list).post(ports::create))
        .route(
            "/ports/{id}",
            get(ports::show).put(ports::update).delete(ports::delete),
        )
        .route(
            "/security-groups",
            get(security_groups::list).post(security_groups::create),
        )
        .route(
            "/security-groups/{id}",
            get(security_groups::show)
                .put(security_groups::update)
                .delete(security_groups::delete),
        )
        .route(
            "/security-group-rules",
            get(security_group_rules::list).post(security_group_rules::create),
        )
        .route(
            "/security-group-rules/{id}",
            get(security_group_rules::show).delete(security_group_rules::delete),
        )
        .route(
            "/floatingips",
            get(floating_ips::list).post(floating_ips::create),
        )
        .route(
            "/floatingips/{id}",
            get(floating_ips::show)
                .put(floating_ips::update)
                .delete(floating_ips::delete),
        )
        .route("/routers", get(routers::list).post(routers::create))
        .route(
            "/routers/{id}",
            get(routers::show)
                .put(routers::update)
                .delete(routers::delete),
        )
        .route(
            "/routers/{id}/add_router_interface",
            put(routers::add_interface),
        )
        .route(
            "/routers/{id}/remove_router_interface",
            put(routers::remove_interface),
        )
        .route("/agents", get(agents::list))
        .route("/agents/{id}", get(agents::show))
        .route("/availability_zones", get(agents::availability_zones))
        .route("/extensions", get(extensions::list))
        .route("/extensions/{alias}", get(extensions::show))
        .route("/quotas", get(quotas::list))
        .route(
            "/quotas/{project}",
            get(quotas::show).put(quotas::update).delete(quotas::reset),
        )
        .route("/quotas/{project}/default", get(quotas::defaults))
        .route("/quotas/{project}/details.json", get(quotas::details));
    Router::new()
        .route("/", get(versions::all))
        .route("/v2.0", get(versions::v2))
        .nest("/v2.0", v2)
        .with_state(state)
}
