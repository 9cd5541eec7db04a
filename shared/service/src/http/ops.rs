//! `GET /metrics` (Prometheus text), `GET /health` (JSON, 200 or 503) and
//! `PUT /log-level` (plain text; from this machine only).
//!
//! The listener has no tokens: it belongs on a loopback or management address.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use axum::Json;
use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::health::HealthReport;
use crate::metrics::MetricsHandle;
use crate::process::Process;
use crate::telemetry::LogLevel;

/// The operators' listener.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct OpsConfig {
    /// Off, or on; on by default.
    pub enabled: bool,
    /// Where it listens; port 0 takes any free one.
    pub listen: SocketAddr,
}

impl Default for OpsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: SocketAddr::from(([127, 0, 0, 1], 9464)),
        }
    }
}

#[derive(Clone)]
struct Ops {
    process: Process,
    metrics: MetricsHandle,
    log_level: Option<LogLevel>,
}

/// The routes, to be served with connect info.
pub fn ops_router(
    process: &Process,
    metrics: MetricsHandle,
    log_level: Option<LogLevel>,
) -> Router {
    Router::new()
        .route("/metrics", get(show_metrics))
        .route("/health", get(show_health))
        .route("/log-level", put(set_log_level))
        .layer(DefaultBodyLimit::max(4096))
        .with_state(Ops {
            process: process.clone(),
            metrics,
            log_level,
        })
}

/// Listens for operators until the process has drained. Returns the bound
/// address, or nothing if the listener is off.
pub async fn start_ops(
    process: &Process,
    config: &OpsConfig,
    metrics: MetricsHandle,
    log_level: Option<LogLevel>,
) -> anyhow::Result<Option<SocketAddr>> {
    let upkeep = metrics.clone();
    let (clock, shutdown) = (process.env.clock.clone(), process.shutdown.clone());
    process.spawn("metrics_upkeep", async move {
        loop {
            tokio::select! {
                () = clock.sleep(Duration::from_secs(5)) => upkeep.upkeep(),
                () = shutdown.cancelled() => return,
            }
        }
    });
    if !config.enabled {
        return Ok(None);
    }
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {} (ops.listen)", config.listen))?;
    let address = listener.local_addr()?;
    let router = ops_router(process, metrics, log_level);
    // Health must be readable while a drain goes on, and must not prolong it.
    process.spawn_attendant("ops", async move {
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        if let Err(error) = axum::serve(listener, service).await {
            warn!(%error, "the operators' listener ended");
        }
    });
    info!(%address, "metrics and health are served");
    Ok(Some(address))
}

async fn show_metrics(State(ops): State<Ops>) -> Response {
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        ops.metrics.render(),
    )
        .into_response()
}

async fn show_health(State(ops): State<Ops>) -> Response {
    let mut report = ops.process.health.report();
    if ops.process.shutdown.is_cancelled() {
        report.status = HealthReport::DRAINING;
    }
    let status = if report.serves() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(report)).into_response()
}

async fn set_log_level(
    State(ops): State<Ops>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    body: String,
) -> Response {
    if !peer.ip().to_canonical().is_loopback() {
        return (
            StatusCode::FORBIDDEN,
            "The log level can be changed from this machine only.\n",
        )
            .into_response();
    }
    let Some(log_level) = &ops.log_level else {
        return (
            StatusCode::NOT_IMPLEMENTED,
            "The log level is fixed here.\n",
        )
            .into_response();
    };
    let level = body.trim();
    match log_level.set(level) {
        Ok(()) => {
            info!(filter = level, "the log level was changed");
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{install_metrics, system_env};
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    async fn ask(router: &Router, request: Request<Body>) -> (StatusCode, String) {
        let answer = router.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn get(path: &str) -> Request<Body> {
        Request::get(path).body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn health_turns_to_503_and_metrics_are_text() {
        let process = Process::new("test", system_env());
        let router = ops_router(&process, install_metrics().unwrap(), None);
        let database = process.health.component("database");
        assert_eq!(ask(&router, get("/health")).await.0, StatusCode::OK);
        database.down("gone");
        let (status, body) = ask(&router, get("/health")).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains("gone"));
        metrics::counter!("yakumo_test_total").increment(3);
        let (status, body) = ask(&router, get("/metrics")).await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains("yakumo_test_total 3"), "{body}");
    }

    #[tokio::test]
    async fn health_says_draining_until_the_drain_is_over() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let process = Process::new("test", system_env());
        let config = OpsConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            ..OpsConfig::default()
        };
        let address = start_ops(&process, &config, install_metrics().unwrap(), None)
            .await
            .unwrap()
            .unwrap();
        let health = || async move {
            let mut stream = tokio::net::TcpStream::connect(address).await?;
            let request = "GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        assert!(health().await.unwrap().starts_with("HTTP/1.1 200"));
        let (go_on, may_end) = tokio::sync::oneshot::channel::<()>();
        process.spawn("slow request", async move {
            let _ = may_end.await;
        });
        let draining = tokio::spawn({
            let process = process.clone();
            async move { process.drain(Duration::from_secs(60)).await }
        });
        process.shutdown.cancelled().await;
        let answer = health().await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("\"status\":\"draining\""), "{answer}");
        go_on.send(()).unwrap();
        assert!(draining.await.unwrap());
        assert!(health().await.is_err());
    }

    #[tokio::test]
    async fn the_log_level_is_closed_to_other_machines() {
        let process = Process::new("test", system_env());
        let router = ops_router(&process, install_metrics().unwrap(), None);
        let request = |peer: [u8; 4]| {
            let mut request = Request::put("/log-level")
                .body(Body::from("debug"))
                .unwrap();
            request
                .extensions_mut()
                .insert(ConnectInfo(SocketAddr::from((peer, 1))));
            request
        };
        assert_eq!(
            ask(&router, request([192, 0, 2, 1])).await.0,
            StatusCode::FORBIDDEN
        );
        assert_eq!(
            ask(&router, request([127, 0, 0, 1])).await.0,
            StatusCode::NOT_IMPLEMENTED
        );
    }
}
