//! The image service: Glance's API v2, and image data for hosts.
//!
//! An image is a row and, once somebody uploaded it, a blob in the image
//! store. Rows are the truth: a blob is written under a fresh id that the row
//! names before the first byte arrives, becomes the image's data by one
//! conditional update, and never changes afterwards. Whatever no row names is
//! litter. So no crash can lose data that was accepted, or leave any behind;
//! [`reconcilers`] mend what a crash interrupted.
//!
//! Rooms: `http` (REST), `rpc` (the bus contract), `grpc` (data for hosts),
//! `app` (rules; `app/inspect` reads what is inside an image), `store` (SQL),
//! `drivers` (where data is kept), `reconcilers`.

mod app;
mod config;
mod drivers;
mod grpc;
mod http;
mod reconcilers;
mod rpc;
mod store;
pub mod upkeep;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use futures::future::BoxFuture;
use yakumo_auth::TokenVerifier;
use yakumo_contracts::image::ImagesHandler;
use yakumo_db::Db;
use yakumo_rpc::{Bus, ServeOptions, Topic};
use yakumo_service::{Nudge, Process, drive_reconciler};

pub use app::inspect;
pub use config::{Config, GrpcConfig};
pub use store::Migrator;

/// How often litter is looked for without a nudge.
const SWEEP: Duration = Duration::from_secs(600);

/// How often old idempotency keys are forgotten.
const FORGET: Duration = Duration::from_secs(3600);

/// Where the service listens.
#[derive(Debug, Clone)]
pub struct Started {
    /// The REST API.
    pub address: SocketAddr,
    /// The gRPC service for hosts.
    pub grpc_address: SocketAddr,
    /// The URL of the gRPC service that tickets carry.
    pub grpc_endpoint: String,
}

/// Starts the service; returns once it listens. `verifier` checks the tokens
/// of REST requests; without one the service starts its own.
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
            "database image",
            |error| database.comes_back(error),
            || Db::open::<Migrator>(database),
        )
        .await
        .context("cannot open the image database")?;
        let folder = config.data_dir.join("blobs");
        let files = app::blocking(move || drivers::file::FileStore::open(&folder))
            .await?
            .with_context(|| format!("cannot keep images in {}", config.data_dir.display()))?;
        let data: Arc<dyn drivers::ImageStore> = Arc::new(files);

        let mut fresh = [0; 32];
        process.env.rng.fill(&mut fresh);
        let secret = yakumo_service::wait_for(
            &process,
            "database image",
            |error| database.comes_back(error),
            || store::tickets::secret(&db, &fresh, process.env.now()),
        )
        .await?;
        yakumo_service::probe(&process, "database image", db.pinger());
        let tickets = app::TicketKey::new(&secret, process.env.clone());

        let sweep = drive_reconciler(
            &process,
            Arc::new(reconcilers::RemoveLitter {
                db: db.clone(),
                data: Arc::clone(&data),
            }),
            SWEEP,
        );
        let lease = Duration::from_secs(config.upload_lease_seconds.max(3));
        let _: Nudge = drive_reconciler(
            &process,
            Arc::new(reconcilers::GiveBackAbandoned {
                db: db.clone(),
                env: process.env.clone(),
                lease,
                sweep: sweep.clone(),
            }),
            lease / 4,
        );

        let _: Nudge = drive_reconciler(
            &process,
            Arc::new(reconcilers::ForgetKeys {
                db: db.clone(),
                env: process.env.clone(),
            }),
            FORGET,
        );

        let (listener, grpc_address) = grpc::bind(&config.grpc).await?;
        let grpc_endpoint = grpc::endpoint(&config.grpc, grpc_address);
        let images = app::Images::new(
            process.clone(),
            db,
            data,
            Arc::clone(&config),
            tickets,
            &grpc_endpoint,
            sweep,
        );
        grpc::serve(&process, listener, &config.grpc, images.clone()).await?;

        let handler = Arc::new(ImagesHandler::new(Arc::new(rpc::Server(images.clone()))));
        let server = bus
            .serve(
                Topic::Control("image"),
                vec![handler],
                ServeOptions::default(),
            )
            .await
            .context("cannot serve the topic image")?;
        let shutdown = process.shutdown.clone();
        process.spawn("image_rpc", async move {
            shutdown.cancelled().await;
            server.stop(Duration::from_secs(10)).await;
        });

        let verifier = match verifier {
            Some(verifier) => verifier,
            None => TokenVerifier::start(&process, &bus, config.tokens.clone()),
        };
        let router = http::router(images, verifier, process.env.clone());
        let address = yakumo_http::serve(&process, config.listen, router).await?;
        Ok(Started {
            address,
            grpc_address,
            grpc_endpoint,
        })
    }
    .boxed()
}
