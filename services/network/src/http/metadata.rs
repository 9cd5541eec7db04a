//! The agent's metadata listeners: one for each network, on its bridge.
//!
//! A guest asks `169.254.169.254:80`, and the `nat` table sends that to the
//! listener of its network. Network and source address, which the bridge rules
//! vouch for, name the port, and with it the server and the project. Nothing
//! that the guest claims about itself goes any further: of its request only the
//! path does. The answer comes from the `api` service over the bus.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderValue, Method, Response, StatusCode, Uri, header};
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;
use yakumo_contracts::api::{HostReportsClient, MetadataRequest};
use yakumo_host::bind_tcp_in_netns;
use yakumo_service::Process;
use yakumo_types::{FaultCode, RequestContext};

use crate::agent::model::Model;

/// The longest path that is passed on.
const MAX_PATH: usize = 1024;

/// Requests that are under way at a time, on all networks together.
const MAX_REQUESTS: usize = 64;

/// Who sits behind an address of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Guest {
    port: String,
    server: String,
    project: String,
}

type Guests = BTreeMap<(String, Ipv4Addr), Guest>;

/// The metadata listeners of one host.
#[derive(Clone)]
pub struct Listeners(Arc<Shared>);

struct Shared {
    process: Process,
    client: HostReportsClient,
    netns: Option<String>,
    port: u16,
    guests: RwLock<Guests>,
    running: Mutex<BTreeMap<String, (SocketAddr, CancellationToken)>>,
    slots: Semaphore,
}

#[derive(Clone)]
struct Network {
    id: String,
    shared: Arc<Shared>,
}

impl Listeners {
    /// Listeners in the namespace `netns`, on this port of each bridge.
    pub fn new(
        process: Process,
        client: HostReportsClient,
        netns: Option<&str>,
        port: u16,
    ) -> Self {
        Self(Arc::new(Shared {
            process,
            client: client.with_deadline(Duration::from_secs(10)),
            netns: netns.map(str::to_owned),
            port,
            guests: RwLock::default(),
            running: Mutex::default(),
            slots: Semaphore::new(MAX_REQUESTS),
        }))
    }

    /// Listens on the bridges of the model's networks, for its ports; gives the
    /// networks where that does not succeed, and why.
    pub async fn converge(&self, model: &Model) -> BTreeMap<String, String> {
        let guests = guests_of(model);
        *self
            .0
            .guests
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = guests;
        let wanted: BTreeMap<&String, SocketAddr> = model
            .networks
            .values()
            .filter_map(|network| {
                let serve = network.subnets.iter().find_map(|subnet| subnet.serve)?;
                Some((&network.id, SocketAddr::from((serve, self.0.port))))
            })
            .collect();
        let mut running = self.0.running.lock().await;
        running.retain(|network, (address, stop)| {
            let keep = wanted.get(network) == Some(address) && !stop.is_cancelled();
            if !keep {
                stop.cancel();
            }
            keep
        });
        let mut failed = BTreeMap::new();
        for (network, address) in wanted {
            if running.contains_key(network) {
                continue;
            }
            match self.listen(network, address).await {
                Ok(stop) => {
                    running.insert(network.clone(), (address, stop));
                }
                Err(error) => {
                    let why = format!("metadata cannot be served on {address}: {error:#}");
                    failed.insert(network.clone(), why);
                }
            }
        }
        failed
    }

    async fn listen(
        &self,
        network: &str,
        address: SocketAddr,
    ) -> anyhow::Result<CancellationToken> {
        let netns = self.0.netns.clone();
        let listener =
            tokio::task::spawn_blocking(move || bind_tcp_in_netns(netns.as_deref(), address))
                .await??;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let stop = self.0.process.shutdown.child_token();
        let router = router(Network {
            id: network.to_owned(),
            shared: Arc::clone(&self.0),
        });
        let (ended, cancelled) = (stop.clone(), stop.clone());
        self.0.process.spawn("metadata_listener", async move {
            let service = router.into_make_service_with_connect_info::<SocketAddr>();
            let serve = axum::serve(listener, service)
                .with_graceful_shutdown(async move { cancelled.cancelled().await });
            if let Err(error) = serve.await {
                tracing::error!(%address, %error, "a metadata listener failed");
            }
            // The next pass sees that it is gone and starts another one.
            ended.cancel();
        });
        Ok(stop)
    }
}

fn guests_of(model: &Model) -> Guests {
    let mut guests = Guests::new();
    for port in model.ports.values().filter(|port| !port.server.is_empty()) {
        for (_, address) in &port.fixed {
            guests.insert(
                (port.network.clone(), *address),
                Guest {
                    port: port.id.clone(),
                    server: port.server.clone(),
                    project: port.project.clone(),
                },
            );
        }
    }
    guests
}

fn router(network: Network) -> Router {
    Router::new().fallback(answer).with_state(network)
}

async fn answer(
    State(network): State<Network>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    method: Method,
    uri: Uri,
) -> Response<Body> {
    if method != Method::GET && method != Method::HEAD {
        // The way in which guests find out that there are no session tokens.
        return plain(StatusCode::NOT_FOUND, "Not found.");
    }
    let IpAddr::V4(source) = peer.ip() else {
        return plain(StatusCode::NOT_FOUND, "Not found.");
    };
    let guest = network
        .shared
        .guests
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .get(&(network.id.clone(), source))
        .cloned();
    let Some(guest) = guest else {
        return plain(StatusCode::NOT_FOUND, "Not found.");
    };
    let path = uri.path();
    if path.len() > MAX_PATH {
        return plain(StatusCode::NOT_FOUND, "Not found.");
    }
    let Ok(_slot) = network.shared.slots.acquire().await else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "Try again.");
    };
    let ctx = RequestContext::host(network.shared.process.env.id());
    let request = MetadataRequest {
        server_id: guest.server,
        project_id: guest.project,
        port_id: guest.port,
        path: path.to_owned(),
    };
    match network.shared.client.get_metadata(&ctx, request).await {
        Ok(reply) => {
            let status = u16::try_from(reply.status)
                .ok()
                .and_then(|status| StatusCode::from_u16(status).ok())
                .unwrap_or(StatusCode::OK);
            let mut response = Response::new(Body::from(reply.body));
            *response.status_mut() = status;
            if let Ok(kind) = HeaderValue::from_str(&reply.content_type)
                && !reply.content_type.is_empty()
            {
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
            }
            response
        }
        Err(fault) if fault.code == FaultCode::NotFound => {
            plain(StatusCode::NOT_FOUND, "Not found.")
        }
        Err(fault) => {
            tracing::warn!(%fault, "a metadata request was not answered");
            plain(StatusCode::SERVICE_UNAVAILABLE, "Try again.")
        }
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}
