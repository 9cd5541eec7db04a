//! Starting the manager, and the agent of a host.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use yakumo_contracts::api::HostReportsClient;
use yakumo_contracts::network::{
    HostStatesClient, HostStatesHandler, NetworkHostsHandler, NetworksHandler, ServerPortsHandler,
};
use yakumo_contracts::network_host::NetworkHostHandler;
use yakumo_db::{BoxFuture, Db};
use yakumo_rpc::{Bus, Handler, ServeOptions, Target, Topic};
use yakumo_service::{Process, Recognition, SharedBeat, drive_reconciler};
use yakumo_types::HostId;

use crate::agent::driver::{NetworkDriver, SimulatedDriver};
use crate::agent::real::RealDriver;
use crate::agent::{Agent, AgentSettings};
use crate::app::{App, KnownMembers, Laggards, MAX_CALLS, Notifier};
use crate::config::{Config, Driver};
use crate::http::metadata::Listeners;
use crate::rpc::Rpc;
use crate::store::Migrator;

/// Between two looks for hosts whose nudge was lost.
const LOOK_FOR_LAGGARDS: Duration = Duration::from_secs(5);

/// What an agent says of ports that came, it says at most so often.
const REPORT_TOGETHER: Duration = Duration::from_millis(100);

/// Starts the manager; returns once it serves.
pub fn start_manager(
    process: Process,
    bus: Bus,
    config: Config,
) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        config.manager.check()?;
        let database = &config.manager.database;
        let db = yakumo_service::wait_for(
            &process,
            "database network",
            |error| database.comes_back(error),
            || Db::open::<Migrator>(database),
        )
        .await?;
        yakumo_service::probe(&process, "database network", db.pinger());
        let (notifier, announcements) = Notifier::new();
        let app = App {
            env: process.env.clone(),
            db,
            bus: bus.clone(),
            config: Arc::new(config.manager),
            notifier,
            waiting: Arc::default(),
            states: Arc::default(),
            beats: Arc::default(),
            members: Arc::default(),
            known_members: KnownMembers::default(),
        };
        announcements.start(&process, app.clone());
        process.spawn(
            "network_beats",
            app.clone().write_down_beats(process.clone()),
        );
        process.spawn("network_members", app.clone().tell_members(process.clone()));
        drive_reconciler(
            &process,
            Arc::new(Laggards { app: app.clone() }),
            LOOK_FOR_LAGGARDS,
        );
        let rpc = Arc::new(Rpc { app });
        let handlers: Vec<Arc<dyn Handler>> = vec![
            Arc::new(NetworksHandler::new(Arc::clone(&rpc))),
            Arc::new(ServerPortsHandler::new(Arc::clone(&rpc))),
            Arc::new(HostStatesHandler::new(Arc::clone(&rpc))),
            Arc::new(NetworkHostsHandler::new(rpc)),
        ];
        let server = bus
            .serve(
                Topic::Control("network"),
                handlers,
                ServeOptions {
                    concurrency: MAX_CALLS,
                    ..ServeOptions::default()
                },
            )
            .await?;
        let shutdown = process.shutdown.clone();
        process.spawn("network_rpc", async move {
            shutdown.cancelled().await;
            server.stop(Duration::from_secs(10)).await;
        });
        Ok(())
    })
}

/// Who the network agent is; the other agents of the same host say the same.
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

/// Starts the agent and returns what is to be served on the host's topic,
/// along with the other roles of the same host process. `bus` speaks as this
/// host. The kept state is made real in the background at once.
pub async fn start_host(
    process: &Process,
    bus: &Bus,
    settings: &HostSettings,
    config: &Config,
) -> anyhow::Result<Arc<dyn Handler>> {
    config.host.check()?;
    let folder = if config.host.data_dir.as_os_str().is_empty() {
        settings.data_dir.join("network")
    } else {
        config.host.data_dir.clone()
    };
    tokio::fs::create_dir_all(&folder).await?;
    let driver: Arc<dyn NetworkDriver> = match config.host.driver {
        Driver::Simulated => Arc::new(SimulatedDriver),
        Driver::Real => {
            let metadata = Listeners::new(
                process.clone(),
                HostReportsClient::new(bus.clone(), Target::service("api")),
                config.host.netns(),
                config.host.metadata_port,
            );
            Arc::new(RealDriver::new(
                process.env.clone(),
                &settings.host,
                config.host.clone(),
                &folder,
                metadata,
            ))
        }
    };
    let agent = Arc::new(Agent::new(
        process.clone(),
        AgentSettings {
            host: settings.host.clone(),
            host_id: settings.host_id.to_string(),
            recognition: settings.recognition.clone(),
            beat: settings.beat.clone(),
            availability_zone: config.manager.availability_zone.clone(),
            resync: Duration::from_secs(config.host.resync_seconds),
            announce: Duration::from_secs(config.host.announce_seconds),
            report: REPORT_TOGETHER,
        },
        HostStatesClient::new(bus.clone(), Target::service("network")),
        driver,
        (config.host.driver == Driver::Real).then(|| Agent::files(&folder)),
    ));
    process.spawn("network_agent", Arc::clone(&agent).run());
    Ok(Arc::new(NetworkHostHandler::new(agent)))
}
