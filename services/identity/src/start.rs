//! Starting the service.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use futures::future::BoxFuture;
use yakumo_auth::{TokenVerifier, VerifierConfig};
use yakumo_contracts::identity::IdentityHandler;
use yakumo_db::{Db, DbConfig, DbError};
use yakumo_http::{SurfaceOptions, serve};
use yakumo_rpc::{Bus, ServeOptions, Topic};
use yakumo_service::{Process, drive_reconciler};
use yakumo_types::{Fault, FaultCode};

use crate::app::{App, KeyRing, Passwords, Shown, StoreSource, bootstrap};
use crate::config::Config;
use crate::reconcilers::{ForgetOld, RotateKeys};
use crate::rpc::Rpc;
use crate::store::Migrator;

/// The running service.
pub struct Started {
    /// Where the API listens.
    pub address: SocketAddr,
    /// Verifies by this service's own tables: for the other services of the
    /// same process, if there are any, though one over the bus does as well.
    pub verifier: TokenVerifier,
}

/// Whether waiting may mend it. What reads keys and revocations says by a fault
/// that the database is away, and a file's fault does not pass either.
fn passes(database: &DbConfig, error: &anyhow::Error) -> bool {
    let fault = error.downcast_ref::<Fault>();
    let away = fault.is_some_and(|fault| fault.code == FaultCode::Unavailable);
    let error = error
        .downcast_ref()
        .or(away.then_some(&DbError::Unavailable));
    error.is_some_and(|error| database.comes_back(error))
}

/// Brings the schema up to date, makes what every cloud begins with, and
/// serves; returns once the API listens.
pub fn start(
    process: Process,
    bus: Bus,
    db: Db,
    config: Config,
) -> BoxFuture<'static, anyhow::Result<Started>> {
    async move {
        let env = process.env.clone();
        let config = Arc::new(config);
        yakumo_service::wait_for(
            &process,
            "database identity",
            |error| config.database.comes_back(error),
            || db.migrate::<Migrator>(),
        )
        .await
        .context("cannot bring identity's schema up to date")?;
        let passwords = Passwords::new(&config.password, env.clone())?;
        let keys = KeyRing::default();
        let source = StoreSource::new(db.clone(), env.clone());
        let verifier = TokenVerifier::start_with(
            &process,
            Arc::new(source.clone()),
            VerifierConfig::default(),
        );
        let begin = || async {
            bootstrap(&db, &env, &passwords, &config.bootstrap).await?;
            keys.rotate(&db, &env, &config).await?;
            verifier.refresh().await?;
            anyhow::Ok(())
        };
        yakumo_service::wait_for(
            &process,
            "database identity",
            |error| passes(&config.database, error),
            begin,
        )
        .await?;
        yakumo_service::probe(&process, "database identity", db.pinger());
        let app = Arc::new(App {
            env: env.clone(),
            db: db.clone(),
            bus: bus.clone(),
            config: Arc::clone(&config),
            passwords,
            keys: keys.clone(),
            verifier: verifier.clone(),
            shown: Shown::default(),
        });

        let rotation = RotateKeys {
            db: db.clone(),
            env: env.clone(),
            keys,
            config: Arc::clone(&config),
        };
        // Well within the notice that a new key gets.
        drive_reconciler(&process, Arc::new(rotation), Duration::from_secs(10));
        let forgetting = ForgetOld {
            db,
            env: env.clone(),
        };
        drive_reconciler(&process, Arc::new(forgetting), Duration::from_secs(600));

        let rpc = Arc::new(Rpc {
            app: Arc::clone(&app),
            source,
        });
        let serving = bus
            .serve(
                Topic::Control("identity"),
                vec![Arc::new(IdentityHandler::new(rpc))],
                ServeOptions::default(),
            )
            .await
            .context("cannot serve the topic identity")?;
        let shutdown = process.shutdown.clone();
        process.spawn("identity_rpc", async move {
            shutdown.cancelled().await;
            serving.stop(Duration::from_secs(10)).await;
        });

        let public_url = if config.public_url.is_empty() {
            format!("http://{}", config.listen)
        } else {
            config.public_url.clone()
        };
        let options = SurfaceOptions {
            max_body: 256 * 1024,
            ..SurfaceOptions::new(env, &public_url)
        };
        let router = crate::http::router(app, options);
        let address = serve(&process, config.listen, router).await?;
        Ok(Started { address, verifier })
    }
    .boxed()
}
