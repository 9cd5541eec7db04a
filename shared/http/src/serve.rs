//! Listening. Connections are bounded in number, slow heads are cut off, and
//! an orderly end lets running requests finish.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, FromRequestParts, Request};
use axum::http::request::Parts;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::ServiceExt;
use tracing::{debug, info, warn};
use yakumo_service::Process;

use yakumo_types::Fault;

use crate::fault::HttpFault;

/// How many connections a listener holds at once.
const CONNECTIONS: usize = 4_096;
/// How long a client may take for a request's head, and leave an idle
/// connection open.
const HEAD: Duration = Duration::from_secs(75);

/// Where a listener listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// The bound address, with the true port.
    pub address: SocketAddr,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddress(pub SocketAddr);

impl<S: Send + Sync> FromRequestParts<S> for PeerAddress {
    type Rejection = HttpFault;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, HttpFault> {
        parts
            .extensions
            .get::<ConnectInfo<SocketAddr>>()
            .map(|info| Self(info.0))
            .ok_or_else(|| HttpFault(Fault::internal("The client's address is not known.")))
    }
}

/// Serves `router` on `listen` (port 0 takes any free one) until the process
/// ends. Returns the bound address once it listens.
pub async fn serve(
    process: &Process,
    listen: SocketAddr,
    router: Router,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    Ok(serve_bounded(process, listener, router)?.address)
}

/// Serves `router` on a socket that is bound already (in a network namespace,
/// or handed over).
pub fn serve_bounded(
    process: &Process,
    listener: TcpListener,
    router: Router,
) -> anyhow::Result<Served> {
    let address = listener.local_addr()?;
    let task = accept(process.clone(), listener, router);
    process.spawn("http", task);
    info!(service = &*process.name, %address, "listening");
    Ok(Served { address })
}

async fn accept(process: Process, listener: TcpListener, router: Router) {
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(128 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HEAD)
        .max_concurrent_streams(256);
    loop {
        let slot = tokio::select! {
            slot = Arc::clone(&slots).acquire_owned() => match slot {
                Ok(slot) => slot,
                Err(_) => return,
            },
            () = process.shutdown.cancelled() => break,
        };
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: wait for some to be closed.
                    warn!(%error, "cannot accept a connection");
                    process.env.clock.sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = process.shutdown.cancelled() => break,
        };
        // Small answers must not wait for the acknowledgement of the last one.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "cannot set TCP_NODELAY");
        }
        let router = router.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let mut request: Request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            router.clone().oneshot(request)
        });
        let connection = builder
            .serve_connection_with_upgrades(TokioIo::new(stream), service)
            .into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, %peer, "a connection ended badly");
            }
            drop(slot);
        });
    }
    drop(listener);
    // A little less than all of it, so that the end of the process is in order.
    let bound = process.drain_bound() * 9 / 10;
    if tokio::time::timeout(bound, graceful.shutdown())
        .await
        .is_err()
    {
        warn!("some requests were cut off");
    }
}
