//! The front door: compute, network and volume APIs and the metadata service;
//! servers, flavors, key pairs and quotas; and the intake of what hosts report.
//!
//! Requests come in by [`http`](crate) and are judged by `app`. What takes
//! more than one row is a workflow, whose row commits with the state that it
//! changes; workflows drive the scheduler, hosts, network, image and volume
//! services over the bus. Hosts report what is; reports move servers and wake
//! workflows. Reconcilers mend what slipped through.

mod app;
mod config;
mod http;
mod reconcilers;
mod rpc;
pub mod simulation;
mod store;
pub mod upkeep;
mod workflows;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use yakumo_auth::TokenVerifier;
use yakumo_contracts::api::{ApiHandler, HostAdminHandler, HostReportsHandler};
use yakumo_db::Db;
use yakumo_rpc::{Bus, ServeOptions, Topic};
use yakumo_service::Process;
use yakumo_workflow::{Engine, EngineConfig};

pub use config::{Config, JoinConfig, QuotaConfig};
pub use store::migration::Migrator;

/// An api service that takes requests. It ends with its process.
#[derive(Debug, Clone)]
pub struct Started {
    /// Where compute's API listens.
    pub compute: SocketAddr,
    /// Where network's API listens.
    pub network: SocketAddr,
    /// Where volume's API listens.
    pub volume: SocketAddr,
    /// Where the metadata service listens, if it does.
    pub metadata: Option<SocketAddr>,
}

/// How long a drain waits for messages that are being handled.
const DRAIN: Duration = Duration::from_secs(10);

/// Starts the service: migrates its database, serves the bus and listens.
pub fn start(
    process: Process,
    bus: Bus,
    config: Config,
    verifier: TokenVerifier,
) -> BoxFuture<'static, anyhow::Result<Started>> {
    Box::pin(async move {
        let database = &config.database;
        let db = yakumo_service::wait_for(
            &process,
            "database api",
            |error| database.comes_back(error),
            || Db::open::<Migrator>(database),
        )
        .await?;
        yakumo_service::probe(&process, "database api", db.pinger());
        let app = work(&process, bus, config, db).await?;
        http::start(&process, &app, verifier).await
    })
}

/// Everything but the doors: workflows, reconcilers, and what comes by the bus.
async fn work(
    process: &Process,
    bus: Bus,
    config: Config,
    db: Db,
) -> anyhow::Result<Arc<app::App>> {
    let engine = Engine::with_config(
        db.clone(),
        process.env.clone(),
        EngineConfig {
            max_running: config.workflow_concurrency.max(1) as usize,
            ..EngineConfig::default()
        },
    );
    let app = app::App::new(process.env.clone(), config, db, bus.clone(), engine)?;
    workflows::register(&app);

    let server = bus
        .serve(
            Topic::Control("api"),
            vec![
                Arc::new(HostReportsHandler::new(Arc::new(rpc::HostReports {
                    app: Arc::clone(&app),
                }))),
                Arc::new(ApiHandler::new(Arc::new(rpc::Api {
                    app: Arc::clone(&app),
                }))),
                Arc::new(HostAdminHandler::new(Arc::new(rpc::HostAdmin {
                    app: Arc::clone(&app),
                }))),
            ],
            ServeOptions {
                concurrency: 256,
                ..ServeOptions::default()
            },
        )
        .await?;
    let shutdown = process.shutdown.clone();
    process.spawn("bus server", async move {
        shutdown.cancelled().await;
        server.stop(DRAIN).await;
    });
    let spawner = process.clone();
    app.engine.start(
        &move |name, task| spawner.spawn(name, task),
        process.shutdown.clone(),
    );
    reconcilers::start(process, &app);
    Ok(app)
}
