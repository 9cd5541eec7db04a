//! The scheduler: ranks hosts for a server, and says why the others fell out.
//!
//! It has no database. Its view of the hosts is a table in memory
//! ([`view::HostTable`]) that starts from a snapshot of the api service and
//! then follows what the hosts report; requests wait, within a bound, until
//! the first snapshot is there. A choice is a pure pipeline ([`pipeline`]):
//! filters remove hosts, weighers order what is left, and chance picks among
//! the best few, so that replicas don't all choose the same host. What this
//! replica chose lately is deducted until the host's own reports show it.
//!
//! Nothing here can oversell a host: its own durable claim has the last word,
//! and a claim that it refuses teaches the table what is true.

mod config;
pub mod filters;
pub mod pipeline;
mod reconcilers;
mod rpc;
pub mod view;
pub mod weighers;

use std::sync::Arc;

use futures::future::BoxFuture;
use yakumo_contracts::scheduler::SchedulerHandler;
use yakumo_rpc::{Bus, ServeOptions, Topic};
use yakumo_service::{Process, drive_reconciler};

pub use config::Config;

/// A scheduler that takes requests. It ends with its process.
#[derive(Debug)]
pub struct Started {}

/// Starts a scheduler: it listens on the bus when this returns, and answers
/// once it has seen the hosts.
pub fn start(
    process: Process,
    bus: Bus,
    config: Config,
) -> BoxFuture<'static, anyhow::Result<Started>> {
    Box::pin(async move {
        config.check()?;
        let scheduler = Arc::new(rpc::Scheduler::new(process.env.clone(), config.clone()));
        // Deltas first, the snapshot second: what changes between the two is
        // heard twice, and not missed.
        let server = bus
            .serve(
                Topic::Control("scheduler"),
                vec![Arc::new(SchedulerHandler::new(Arc::clone(&scheduler)))],
                ServeOptions::default(),
            )
            .await?;
        let follow =
            reconcilers::FollowHosts::new(bus, process.env.clone(), Arc::clone(&scheduler));
        let look = drive_reconciler(&process, Arc::new(follow), config.snapshot_every());
        scheduler.looks_by(look);
        let shutdown = process.shutdown.clone();
        process.spawn("bus server", async move {
            shutdown.cancelled().await;
            drop(server);
        });
        Ok(Started {})
    })
}
