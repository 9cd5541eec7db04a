//! Starting the manager and the agent.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use futures::future::BoxFuture;
use yakumo_contracts::volume::{
    StorageHost, StorageHostsHandler, StorageReportsClient, StorageReportsHandler, VolumesHandler,
};
use yakumo_contracts::volume_host::VolumeHostHandler;
use yakumo_db::Db;
use yakumo_host::RealRunner;
use yakumo_rpc::{Bus, Handler, ServeOptions, Target, Topic};
use yakumo_service::{Process, Recognition, SharedBeat, drive_reconciler};
use yakumo_types::HostId;
use yakumo_workflow::Engine;

use crate::agent::{Agent, Announcer, Records};
use crate::app::App;
use crate::config::{Config, Driver};
use crate::drivers::{FileDriver, SimulatedDriver, VolumeDriver};
use crate::reconcilers;
use crate::rpc::Rpc;
use crate::store::Migrator;
use crate::workflows::{CreateVolume, DeleteVolume};

/// Starts the manager; returns once it serves.
pub fn start_manager(
    process: Process,
    bus: Bus,
    config: Config,
) -> BoxFuture<'static, anyhow::Result<()>> {
    async move {
        let database = &config.database;
        let db = yakumo_service::wait_for(
            &process,
            "database volume",
            |error| database.comes_back(error),
            || Db::open::<Migrator>(database),
        )
        .await
        .context("opening the volume database")?;
        yakumo_service::probe(&process, "database volume", db.pinger());
        let engine = Engine::new(db.clone(), process.env.clone());
        let app = Arc::new(App {
            env: process.env.clone(),
            db,
            bus: bus.clone(),
            engine: engine.clone(),
            config: Arc::new(config),
            heard: Arc::default(),
        });
        engine.add(Arc::new(CreateVolume {
            app: Arc::clone(&app),
        }));
        engine.add(Arc::new(DeleteVolume {
            app: Arc::clone(&app),
        }));
        let tasks = process.clone();
        engine.start(
            &move |name, task| tasks.spawn(name, task),
            process.shutdown.clone(),
        );

        reconcilers::start(&process, &app);
        let writer = Arc::clone(&app);
        let own = process.clone();
        process.spawn("storage_hosts", async move {
            writer.write_down_hosts(&own).await;
        });
        let rpc = Arc::new(Rpc { app });
        let handlers: Vec<Arc<dyn Handler>> = vec![
            Arc::new(VolumesHandler::new(Arc::clone(&rpc))),
            Arc::new(StorageReportsHandler::new(Arc::clone(&rpc))),
            Arc::new(StorageHostsHandler::new(rpc)),
        ];
        serve(&process, &bus, Topic::Control("volume"), handlers).await
    }
    .boxed()
}

/// Who the storage agent is; the compute agent of the same host says the same.
#[derive(Debug, Clone)]
pub struct HostSettings {
    /// The host's name, and that of its topic.
    pub host: String,
    /// The host's own id.
    pub host_id: HostId,
    /// Whether the agent may speak for the host.
    pub recognition: Recognition,
    /// What says along that the agent lives.
    pub beat: SharedBeat,
    /// Used where the configuration names no folder.
    pub data_dir: PathBuf,
}

/// What the agent wants to be served on the host's topic, along with the
/// other roles of the same host process.
pub async fn start_host(
    process: &Process,
    bus: &Bus,
    settings: &HostSettings,
    config: &Config,
) -> anyhow::Result<Arc<dyn Handler>> {
    let own = |folder: &PathBuf, name: &str| {
        if folder.as_os_str().is_empty() {
            settings.data_dir.join(name)
        } else {
            folder.clone()
        }
    };
    let data_dir = own(&config.host.data_dir, "volume");
    let run_dir = own(&config.host.run_dir, "run");
    let records = Records::load(&data_dir.join("records"), &data_dir.join("tombstones")).await?;
    let driver: Arc<dyn VolumeDriver> = match config.host.driver {
        Driver::File => Arc::new(
            FileDriver::new(
                process.env.clone(),
                Arc::new(RealRunner::new()),
                &data_dir,
                &run_dir,
            )
            .await?,
        ),
        Driver::Simulated => {
            // It has no disk of its own to find them on.
            let kept = records.all().await.into_iter().map(|(id, _)| id);
            Arc::new(SimulatedDriver::with(kept))
        }
    };
    let agent = Arc::new(Agent::new(
        process.env.clone(),
        records,
        Arc::clone(&driver),
    ));
    let every = Duration::from_secs(config.host.announce_seconds.max(1));
    drive_reconciler(process, agent.clone(), Duration::from_secs(2)).nudge();
    let announcer = Announcer {
        env: process.env.clone(),
        client: StorageReportsClient::new(bus.clone(), Target::service("volume")),
        driver,
        host: StorageHost {
            host: settings.host.clone(),
            host_id: settings.host_id.to_string(),
            availability_zone: config.availability_zone.clone(),
            reachable_everywhere: config.host.driver == Driver::Simulated,
            ..StorageHost::default()
        },
        recognition: settings.recognition.clone(),
        beat: settings.beat.clone(),
        announced: AtomicBool::new(false),
        every,
    };
    let nudge = drive_reconciler(process, Arc::new(announcer), every);
    let (recognition, shutdown) = (settings.recognition.clone(), process.shutdown.clone());
    process.spawn("volume_recognition", async move {
        tokio::select! {
            () = recognition.given() => nudge.nudge(),
            () = shutdown.cancelled() => {}
        }
    });
    Ok(Arc::new(VolumeHostHandler::new(agent)))
}

async fn serve(
    process: &Process,
    bus: &Bus,
    topic: Topic,
    handlers: Vec<Arc<dyn Handler>>,
) -> anyhow::Result<()> {
    let server = bus.serve(topic, handlers, ServeOptions::default()).await?;
    let shutdown = process.shutdown.clone();
    process.spawn("volume_rpc", async move {
        shutdown.cancelled().await;
        server.stop(Duration::from_secs(10)).await;
    });
    Ok(())
}
