//! The object store: Swift v1 on one node.
//!
//! Objects are rows in an index and blobs on a disk. A blob is durable before
//! its row names it, and garbage in the same transaction that takes it from
//! its row, so no crash leaves an object without bytes or bytes without an end;
//! [`reconcilers`] do what is left to do. Listings read the index in order of
//! names and cost what they return.
//!
//! One node keeps all data ([`drivers::file`]). A ring of nodes with replicas
//! takes the place of the [`drivers::Backend`]; S3 is a second surface over the
//! same `app`.
//!
//! Rooms: `http` (Swift), `app` (rules), `store` (the index), `drivers` (where
//! data is kept), `reconcilers`.

mod app;
mod config;
mod drivers;
mod http;
mod reconcilers;
mod store;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use futures::future::BoxFuture;
use yakumo_auth::TokenVerifier;
use yakumo_db::Db;
use yakumo_rpc::Bus;
use yakumo_service::{Nudge, Process, drive_reconciler};

pub use config::Config;
pub use store::Migrator;

/// How often garbage is looked for without a nudge.
const SWEEP: Duration = Duration::from_secs(60);
/// How often objects whose time is over are looked for.
const EXPIRY: Duration = Duration::from_secs(30);

/// Where the service listens.
#[derive(Debug, Clone)]
pub struct Started {
    /// The REST API.
    pub address: SocketAddr,
}

/// Starts the service; returns once it listens. `verifier` checks tokens;
/// without one the service starts its own.
pub fn start(
    process: Process,
    bus: Bus,
    config: Config,
    verifier: Option<TokenVerifier>,
) -> BoxFuture<'static, anyhow::Result<Started>> {
    async move {
        let config = Arc::new(config);
        let database = &config.database;
        let db = yakumo_service::wait_for(
            &process,
            "database object-store",
            |error| database.comes_back(error),
            || Db::open::<Migrator>(database),
        )
        .await
        .context("cannot open the object store's database")?;
        yakumo_service::probe(&process, "database object-store", db.pinger());
        let (folder, clock) = (config.data_dir.clone(), Arc::clone(&process.env.clock));
        let backend = app::blocking(move || drivers::file::FileBackend::open(&folder, clock))
            .await?
            .with_context(|| format!("cannot keep objects in {}", config.data_dir.display()))?;

        // The store nudges the reconciler, which works on the store.
        let sweep = Nudge::new();
        let store = app::ObjectStore::new(
            process.clone(),
            db,
            Arc::new(backend),
            Arc::clone(&config),
            sweep.clone(),
        );
        let driven = drive_reconciler(
            &process,
            Arc::new(reconcilers::RemoveGarbage(store.clone())),
            SWEEP,
        );
        let shutdown = process.shutdown.clone();
        process.spawn("object_store_sweep", async move {
            loop {
                tokio::select! {
                    () = sweep.nudged() => driven.nudge(),
                    () = shutdown.cancelled() => return,
                }
            }
        });
        drive_reconciler(
            &process,
            Arc::new(reconcilers::RemoveExpired(store.clone())),
            EXPIRY,
        );

        let verifier = match verifier {
            Some(verifier) => verifier,
            None => TokenVerifier::start(&process, &bus, config.tokens.clone()),
        };
        let router = http::router(store, verifier, process.env.clone());
        let address = yakumo_http::serve(&process, config.listen, router).await?;
        Ok(Started { address })
    }
    .boxed()
}
