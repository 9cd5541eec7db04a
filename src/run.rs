//! Running services until they are told to stop.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use yakumo_db::{Db, DbConfig, MigratorTrait};
use yakumo_service::{Process, init_tracing, install_metrics, start_ops, system_env};

use crate::cli::Service;
use crate::config::Config;
use crate::context::Shared;
use crate::{host, hosts};

/// Runs `services` in this process until SIGTERM or SIGINT.
pub fn run(config: Config, services: Vec<Service>) -> anyhow::Result<ExitCode> {
    return_large_buffers();
    choose_tls_library();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let in_order = runtime.block_on(async {
        let name = match services.as_slice() {
            [one] => one.name(),
            _ => "all",
        };
        let telemetry = init_tracing(&config.telemetry, name)?;
        let metrics = install_metrics()?;
        let drain = Duration::from_secs(config.drain_seconds);
        let process = Process::new(name, system_env()).with_drain_bound(drain);
        if let Some(address) = start_ops(&process, &config.ops, metrics, Some(telemetry.log_level.clone())).await? {
            tracing::info!(%address, "health, metrics and log level");
        }
        let started = start(&process, &config, &services);
        let in_order = tokio::select! {
            result = started => match result {
                Ok(()) => {
                    tracing::info!(services = services.iter().map(|it| it.name()).collect::<Vec<_>>().join(","), "ready");
                    process.run_until_signal(drain).await?
                }
                Err(error) => {
                    process.drain(drain).await;
                    return Err(error);
                }
            },
            signal = yakumo_service::wait_for_signal() => {
                tracing::info!(signal = signal?, "told to stop before everything had started");
                process.drain(drain).await
            }
        };
        tokio::task::spawn_blocking(move || telemetry.flush()).await?;
        anyhow::Ok(in_order)
    })?;
    // Whatever still runs was told to end and did not; it is no reason to wait.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(if in_order {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Two providers are linked, so the library would not choose by itself.
pub fn choose_tls_library() {
    // It fails only where one was chosen before, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Keeps large buffers out of the allocator's arenas. Password hashing takes
/// 19 MiB on whichever thread is free; by default the allocator learns to keep
/// such blocks, once for each arena, and a process grows by hundreds of MiB.
#[allow(unsafe_code)]
fn return_large_buffers() {
    const THRESHOLD: libc::c_int = 1 << 20;
    // SAFETY: sets a parameter of the allocator, before any other thread runs.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, THRESHOLD);
    }
}

async fn start(process: &Process, config: &Config, services: &[Service]) -> anyhow::Result<()> {
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("making the data folder {}", config.data_dir.display()))?;
    let shared = Shared::start(process, config).await?;
    for service in services {
        let part = process.named(service.name());
        start_one(&shared, part, config, *service)
            .await
            .with_context(|| format!("starting {}", service.name()))?;
    }
    Ok(())
}

async fn start_one(
    shared: &Shared,
    process: Process,
    config: &Config,
    service: Service,
) -> anyhow::Result<()> {
    let bus = shared.bus.clone();
    match service {
        Service::Identity => {
            let database = &config.identity.database;
            let db = yakumo_service::wait_for(
                &process,
                "database identity",
                |error| database.comes_back(error),
                || Db::connect(database),
            )
            .await
            .context("opening its database")?;
            yakumo_identity::start(process, bus, db, config.identity.clone()).await?;
        }
        Service::Image => {
            yakumo_image::start(process, bus, config.image.clone(), Some(shared.verifier()))
                .await?;
        }
        Service::ObjectStore => {
            yakumo_object_store::start(
                process,
                bus,
                config.object_store.clone(),
                Some(shared.verifier()),
            )
            .await?;
        }
        Service::Api => {
            let api = yakumo_api::Config {
                join: hosts::join_config(config)?,
                ..config.api.clone()
            };
            yakumo_api::start(process, bus, api, shared.verifier()).await?;
        }
        Service::Scheduler => {
            yakumo_scheduler::start(process, bus, config.scheduler.clone()).await?;
        }
        Service::Network => {
            yakumo_network::start_manager(process, bus, config.network.clone()).await?;
        }
        Service::Volume => {
            yakumo_volume::start_manager(process, bus, config.volume.clone()).await?;
        }
        Service::Compute => host::start(&process, &bus, config).await?,
    }
    Ok(())
}

/// Brings every schema up to date.
pub async fn migrate(config: &Config) -> anyhow::Result<()> {
    std::fs::create_dir_all(&config.data_dir)?;
    one::<yakumo_identity::Migrator>("identity", &config.identity.database).await?;
    one::<yakumo_image::Migrator>("image", &config.image.database).await?;
    one::<yakumo_object_store::Migrator>("object-store", &config.object_store.database).await?;
    one::<yakumo_api::Migrator>("api", &config.api.database).await?;
    one::<yakumo_network::Migrator>("network", &config.network.manager.database).await?;
    one::<yakumo_volume::Migrator>("volume", &config.volume.database).await
}

async fn one<M: MigratorTrait>(service: &str, config: &DbConfig) -> anyhow::Result<()> {
    let db = Db::open::<M>(config)
        .await
        .with_context(|| format!("migrating the database of {service}"))?;
    db.close().await;
    Ok(())
}
