//! What runs by itself: compares what should be with what is, and mends the
//! difference.

mod forget_keys;
mod releases;
mod storage_hosts;
mod stuck;

use std::sync::Arc;
use std::time::Duration;

use yakumo_service::{Process, drive_reconciler};

use crate::app::App;

/// How often exports are ended that could not be ended at once.
const RELEASE_EVERY: Duration = Duration::from_secs(5);
/// How often volumes are looked for that nothing is at work on.
const STUCK_EVERY: Duration = Duration::from_secs(60);
/// How often every storage host's own list is compared with the rows.
const COMPARE_EVERY: Duration = Duration::from_secs(60);

/// How often old idempotency keys are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(3600);

/// Starts all of them.
pub(crate) fn start(process: &Process, app: &Arc<App>) {
    let app = || Arc::clone(app);
    drive_reconciler(
        process,
        Arc::new(releases::Releases::new(app())),
        RELEASE_EVERY,
    );
    drive_reconciler(process, Arc::new(stuck::Stuck::new(app())), STUCK_EVERY);
    drive_reconciler(
        process,
        Arc::new(storage_hosts::StorageHosts::new(app())),
        COMPARE_EVERY,
    );
    drive_reconciler(
        process,
        Arc::new(forget_keys::ForgetKeys::new(app())),
        FORGET_EVERY,
    );
}

#[cfg(test)]
mod tests;
