//! What runs by itself: compares what should be with what is, and mends the
//! difference.

mod forget_keys;
mod pace;
mod projections;
mod purge;
mod stuck;
mod sync_hosts;

use std::sync::Arc;
use std::time::Duration;

use yakumo_service::{Process, drive_reconciler};

use crate::app::App;
use crate::app::hosts::WRITE_HEARD_EVERY;
use crate::app::passing_on::PASS_ON_EVERY;

#[cfg(test)]
pub(crate) use stuck::Stuck;

/// How often it is looked whether hosts' own lists are to be compared with the
/// rows; how many at a time, `pace` says.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// How often addresses are compared with the network service's.
const PROJECT_EVERY: Duration = Duration::from_secs(300);
/// How often old rows are removed.
const PURGE_EVERY: Duration = Duration::from_secs(3600);

/// How often servers are looked for that nothing is at work on.
const STUCK_EVERY: Duration = Duration::from_secs(60);

/// Starts all of them.
pub(crate) fn start(process: &Process, app: &Arc<App>) {
    let sync = drive_reconciler(
        process,
        Arc::new(sync_hosts::SyncHosts::new(Arc::clone(app))),
        SYNC_EVERY,
    );
    drive_reconciler(
        process,
        Arc::new(projections::Projections::new(Arc::clone(app))),
        PROJECT_EVERY,
    );
    drive_reconciler(
        process,
        Arc::new(purge::Purge::new(Arc::clone(app))),
        PURGE_EVERY,
    );
    drive_reconciler(
        process,
        Arc::new(forget_keys::ForgetKeys::new(Arc::clone(app))),
        PURGE_EVERY,
    );
    drive_reconciler(
        process,
        Arc::new(stuck::Stuck::new(Arc::clone(app))),
        STUCK_EVERY,
    );
    relay_nudges(process, app, sync);
    publish_hosts(process, app);
    write_heard(process, app);
    pass_on(process, app);
}

/// The rules nudge through the app, which is older than its reconcilers.
fn relay_nudges(process: &Process, app: &Arc<App>, sync: yakumo_service::Nudge) {
    let (app, shutdown) = (Arc::clone(app), process.shutdown.clone());
    process.spawn("relay nudges", async move {
        loop {
            tokio::select! {
                biased;
                () = app.to_sync.wait() => sync.nudge(),
                () = shutdown.cancelled() => return,
            }
        }
    });
}

fn publish_hosts(process: &Process, app: &Arc<App>) {
    let (app, shutdown) = (Arc::clone(app), process.shutdown.clone());
    process.spawn("publish hosts", async move {
        loop {
            tokio::select! {
                biased;
                () = app.hosts_publish_next() => {}
                () = shutdown.cancelled() => return,
            }
        }
    });
}

fn pass_on(process: &Process, app: &Arc<App>) {
    let (app, shutdown) = (Arc::clone(app), process.shutdown.clone());
    process.spawn("pass on signs of life", async move {
        loop {
            tokio::select! {
                biased;
                () = app.env.clock.sleep(PASS_ON_EVERY) => {}
                () = shutdown.cancelled() => return,
            }
            app.pass_on().await;
        }
    });
}

fn write_heard(process: &Process, app: &Arc<App>) {
    let (app, shutdown) = (Arc::clone(app), process.shutdown.clone());
    let health = process.health.component("hosts heard");
    process.spawn("write hosts heard", async move {
        loop {
            tokio::select! {
                biased;
                () = app.env.clock.sleep(WRITE_HEARD_EVERY) => {}
                () = shutdown.cancelled() => return,
            }
            match app.hosts_write_heard().await {
                Ok(()) => health.up(),
                Err(fault) => health.degraded(fault.message),
            }
        }
    });
}
