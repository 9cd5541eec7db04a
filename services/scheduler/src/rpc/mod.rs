//! The scheduler's side of its contract.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use yakumo_contracts::scheduler::{
    ChooseHostsReply, ChooseHostsRequest, HostsChanged, SchedulerServer,
};
use yakumo_rpc::{Incoming, Principal};
use yakumo_service::Nudge;
use yakumo_types::{Env, Fault, Timestamp};

use crate::config::Config;
use crate::pipeline;
use crate::view::HostTable;

/// How long a request waits for another look where no host is known.
const LOOK_BOUND: Duration = Duration::from_secs(2);

/// One scheduler: its table, and how often it has seen all hosts.
pub(crate) struct Scheduler {
    env: Env,
    config: Config,
    table: Mutex<HostTable>,
    seen: watch::Sender<u64>,
    look: OnceLock<Nudge>,
}

impl Scheduler {
    pub(crate) fn new(env: Env, config: Config) -> Self {
        Self {
            env,
            table: Mutex::new(HostTable::new(&config)),
            config,
            seen: watch::Sender::new(0),
            look: OnceLock::new(),
        }
    }

    /// Runs `change` on the table.
    pub(crate) fn with_table<T>(&self, change: impl FnOnce(&mut HostTable) -> T) -> T {
        // A panic in a filter leaves numbers, not broken invariants.
        change(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The hosts were seen: requests may be answered.
    pub(crate) fn mark_seen(&self) {
        self.seen.send_modify(|times| *times += 1);
    }

    /// What makes it see the hosts now.
    pub(crate) fn looks_by(&self, look: Nudge) {
        let _ = self.look.set(look);
    }

    /// Before it says that there is no host at all, a scheduler looks once more:
    /// one that has just registered may be told of a moment later.
    async fn look_for_a_first(&self) {
        if !self.with_table(|table| table.hosts().is_empty()) {
            return;
        }
        let Some(look) = self.look.get() else {
            return;
        };
        let mut seen = self.seen.subscribe();
        let times = *seen.borrow();
        look.nudge();
        let _ = tokio::time::timeout(LOOK_BOUND, seen.wait_for(|now| *now > times)).await;
    }

    async fn wait_for_hosts(&self) -> Result<(), Fault> {
        let mut seen = self.seen.subscribe();
        let bound = Duration::from_secs(u64::from(self.config.first_view_seconds));
        match tokio::time::timeout(bound, seen.wait_for(|times| *times > 0)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Fault::unavailable(
                "The scheduler has not seen the hosts yet.",
            )),
        }
    }
}

fn require_control(call: &Incoming) -> Result<(), Fault> {
    match &call.sender {
        Principal::Control => Ok(()),
        Principal::Host(_) => Err(Fault::forbidden("Hosts don't speak to the scheduler.")),
    }
}

#[async_trait]
impl SchedulerServer for Scheduler {
    async fn choose_hosts(
        &self,
        call: &Incoming,
        request: ChooseHostsRequest,
    ) -> Result<ChooseHostsReply, Fault> {
        require_control(call)?;
        self.wait_for_hosts().await?;
        self.look_for_a_first().await;
        let started = self.env.clock.monotonic();
        let outcome = self.with_table(|table| {
            pipeline::choose_hosts(table, &self.config, &request, started, &*self.env.rng)
        });
        let took = self.env.clock.monotonic().saturating_sub(started);
        metrics::histogram!("yakumo_scheduler_choice_seconds").record(took.as_secs_f64());
        match &outcome {
            Ok(reply) => tracing::debug!(
                server = request.server_id,
                host = reply.hosts.first().map(|host| host.host.as_str()),
                considered = reply.considered,
                "chose"
            ),
            Err(fault) => {
                metrics::counter!("yakumo_scheduler_no_valid_host_total").increment(1);
                tracing::info!(
                    server = request.server_id,
                    reason = fault.message,
                    "no host"
                );
            }
        }
        outcome
    }

    async fn hosts_reported(&self, call: &Incoming, request: HostsChanged) -> Result<(), Fault> {
        require_control(call)?;
        let now = self.env.clock.monotonic();
        let wall = self.env.now();
        let reported = request.hosts.iter().filter_map(|it| it.host.as_ref());
        for host in reported.filter(|host| host.changed_at > 0) {
            let age = wall.since(Timestamp::from_micros(host.changed_at));
            metrics::histogram!("yakumo_scheduler_view_age_seconds").record(age.as_secs_f64());
        }
        self.with_table(|table| {
            for change in &request.hosts {
                table.observe(change, now);
            }
        });
        Ok(())
    }
}
