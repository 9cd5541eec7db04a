//! The REST surfaces of the front door, each on a port of its own.

mod compute;
mod metadata;
mod network;
mod volume;

use std::sync::Arc;

use axum::{Extension, Router};
use yakumo_auth::TokenVerifier;
use yakumo_http::{Surface, SurfaceOptions, serve, surface};
use yakumo_service::Process;

use crate::Started;
use crate::app::App;

/// Starts all listeners.
pub(crate) async fn start(
    process: &Process,
    app: &Arc<App>,
    verifier: TokenVerifier,
) -> anyhow::Result<Started> {
    let config = &app.config;
    let options = || SurfaceOptions::new(app.env.clone(), &config.identity_url);
    let dress = |router: Router, kind: Surface| {
        surface(router.layer(Extension(verifier.clone())), kind, options())
    };
    let compute = dress(compute::router(Arc::clone(app)), Surface::Compute);
    let volume = dress(
        volume::router(volume::VolumeState {
            volumes: app.volumes.clone(),
        }),
        Surface::Volume,
    );
    let network = dress(
        network::router(network::NetworkState {
            networks: app.networks.clone(),
        }),
        Surface::Network,
    );
    let metadata = match &config.metadata_secret {
        Some(secret) => {
            // Anybody can sign with nothing.
            anyhow::ensure!(
                !secret.is_empty(),
                "[api] metadata_secret is empty; leave it out, or name a secret"
            );
            let router = metadata::router(Arc::clone(app), secret.clone());
            let router = surface(router, Surface::Metadata, options());
            Some(serve(process, config.metadata_listen, router).await?)
        }
        None => None,
    };
    Ok(Started {
        compute: serve(process, config.compute_listen, compute).await?,
        network: serve(process, config.network_listen, network).await?,
        volume: serve(process, config.volume_listen, volume).await?,
        metadata,
    })
}
