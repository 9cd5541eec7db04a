//! This machine as a host: its compute, network and storage agents, which
//! share one name, one id and one topic on the bus.

use std::sync::Arc;

use futures::FutureExt as _;
use yakumo_compute::{Buses, DriverKind, Reports};
use yakumo_rpc::{Bus, Handler, ServeOptions};
use yakumo_service::Process;

use crate::config::Config;
use crate::context::start_bus;

/// How long handlers may take to finish when the process ends.
const DRAIN: std::time::Duration = std::time::Duration::from_secs(10);

/// Starts the agents of this process's hosts: one, or many simulated ones.
pub async fn start(process: &Process, bus: &Bus, config: &Config) -> anyhow::Result<()> {
    let (of, settings) = (process.clone(), config.clone());
    let more = move || {
        let (process, config) = (of.clone(), settings.clone());
        async move { start_bus(&process, &config).await }.boxed()
    };
    let buses = Buses {
        own: bus.clone(),
        more: Box::new(more),
    };
    let compute = yakumo_compute::start(
        process.clone(),
        buses,
        config.compute.clone(),
        Reports::WhenServed,
    )
    .await?;
    for host in compute.hosts {
        let bus = host.bus;
        let data_dir = match config.compute.driver {
            DriverKind::Libvirt => config.data_dir.clone(),
            DriverKind::Simulated => config.data_dir.join("simulated").join(&host.name),
        };
        let mut handlers: Vec<Arc<dyn Handler>> = vec![host.handler];
        if config.network.host.enabled {
            let settings = yakumo_network::HostSettings {
                host: host.name.clone(),
                host_id: host.agent.host_id(),
                recognition: host.agent.recognition(),
                beat: host.agent.beat(),
                data_dir: data_dir.clone(),
            };
            handlers
                .push(yakumo_network::start_host(process, &bus, &settings, &config.network).await?);
        }
        if config.volume.host.enabled {
            let settings = yakumo_volume::HostSettings {
                host: host.name.clone(),
                host_id: host.agent.host_id(),
                recognition: host.agent.recognition(),
                beat: host.agent.beat(),
                data_dir,
            };
            handlers
                .push(yakumo_volume::start_host(process, &bus, &settings, &config.volume).await?);
        }
        // All roles of the host share one queue, and a call may wait for the
        // host to be as wished: the others must not wait behind it.
        let options = ServeOptions {
            concurrency: 1024,
            ..ServeOptions::default()
        };
        process.spawn("host_rpc", async move {
            host.agent.serve(&bus, handlers, options, DRAIN).await;
        });
    }
    Ok(())
}
