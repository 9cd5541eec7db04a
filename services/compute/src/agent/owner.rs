//! The one task that changes a server: takes commands, asks
//! [`crate::decision::next_action`], carries the answer out, publishes.
//!
//! A command is answered after its effect is on disk. Commands are taken while
//! an action runs; an action that only prepares (fetching an image, waiting
//! for a tap) is dropped when the server is to vanish meanwhile, every other
//! one is awaited, so that nothing of it can come to light after a removal.
//!
//! A failed action is tried again after a pause that doubles from a second to
//! a minute, or not at all for this generation if it says so. An action that
//! succeeds and changes nothing is treated like a failed one: it must not
//! spin.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::BoxFuture;
use opentelemetry::trace::TraceContextExt;
use tokio::sync::mpsc;
use tracing::{Instrument, debug, error, info, info_span, warn};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use yakumo_contracts::compute_host::ServerReport;
use yakumo_types::{Fault, RequestId, ServerId};

use super::commands::Command;
use super::reporter::Urgency;
use super::{Handle, Host};
use crate::config::seconds;
use crate::decision::{
    self, Action, Asked, Disk, Domain, GaveUp, Memory, Observed, PRESS_AGAIN, Power, Run, Step,
    next_action,
};
use crate::drivers::{DriverError, Retry, Stage};
use crate::store::Record;

const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long a guest whose disk took no data is left frozen before it may try
/// again. It writes the same again at once, so there is no haste.
const STARVED_PAUSE: Duration = Duration::from_secs(10);

/// A request to switch off that a guest has not obeyed for so long is taken
/// for forgotten.
const ASKED_COUNTS: Duration = Duration::from_secs(600);

/// What goes on after a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// The server stays.
    GoesOn,
    /// The record is gone, and the owner goes too.
    Ends,
}

/// How carrying out an action ended.
enum Carried {
    Out(Result<(), DriverError>),
    /// Dropped, because the wish changed.
    Dropped,
    /// The process or the record ends.
    Ended,
}

pub(super) struct Owner {
    pub(super) host: Arc<Host>,
    pub(super) record: Record,
    commands: mpsc::Receiver<Command>,
    handle: Handle,
    pub(super) observed: Option<Observed>,
    /// When the guest was asked to switch off, first and last; no last time if
    /// that was before this process, if at all.
    pub(super) asked_at: Option<(Duration, Option<Duration>)>,
    /// Since when the guest is frozen because its disk takes no data.
    starved_at: Option<Duration>,
    stage: Stage,
    /// Failures and fruitless repetitions in a row.
    pub(super) failures: u32,
    pub(super) fault: String,
    pub(super) last_done: Option<Action>,
    /// The request that the present work is done for.
    pub(super) trace: opentelemetry::Context,
    /// Its id, until the process ends.
    pub(super) request: Option<RequestId>,
}

impl Owner {
    pub(super) fn new(
        host: Arc<Host>,
        record: Record,
        commands: mpsc::Receiver<Command>,
        handle: Handle,
    ) -> Self {
        let may_obey = record.memory.disk == Disk::Built && record.memory.run == Run::Due;
        let asked_at = may_obey.then(|| (host.env.clock.monotonic(), None));
        let mut owner = Self {
            host,
            record,
            commands,
            handle,
            observed: None,
            asked_at,
            starved_at: None,
            stage: Stage::default(),
            failures: 0,
            fault: String::new(),
            last_done: None,
            trace: opentelemetry::Context::new(),
            request: None,
        };
        owner.show_handle();
        owner
    }

    pub(super) fn server(&self) -> ServerId {
        self.record.server_id
    }

    /// Lives until the record is forgotten or the process ends.
    pub(super) async fn run(mut self) {
        let shutdown = self.host.process.shutdown.clone();
        loop {
            while let Ok(command) = self.commands.try_recv() {
                if self.handle_command(command).await == Life::Ends {
                    return self.leave();
                }
            }
            let pause = tokio::select! {
                () = shutdown.cancelled() => return,
                pause = self.advance() => pause,
            };
            let pause = match pause {
                Some(pause) => pause,
                None if self.handle.commands.is_closed() => return,
                None => continue,
            };
            let slept = self.host.env.clock.sleep(pause.unwrap_or(Duration::ZERO));
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = slept, if pause.is_some() => self.observed = None,
                command = self.commands.recv() => {
                    let Some(command) = command else { return };
                    if self.handle_command(command).await == Life::Ends {
                        return self.leave();
                    }
                }
            }
        }
    }

    /// Decides and acts once. `None`: go on at once; `Some(None)`: rest until
    /// a command comes; `Some(Some(pause))`: go on after that time.
    #[allow(clippy::option_option)]
    async fn advance(&mut self) -> Option<Option<Duration>> {
        let Some(wish) = self.record.wish() else {
            return Some(None);
        };
        if self.record.is_tombstone() {
            self.publish(true, false, Urgency::Now);
            return Some(None);
        }
        let observed = match self.observed.clone() {
            Some(observed) => observed,
            None => match self.host.hypervisor.observe(self.server()).await {
                Ok(observed) => self.observed.insert(observed).clone(),
                Err(error) => {
                    warn!(server = %self.server(), error = ?error, "the server could not be looked at");
                    return Some(Some(self.pause_after_failure()));
                }
            },
        };
        let asked = self.asked();
        let memory = &self.record.memory;
        let action = next_action(&wish, memory, &observed, asked, self.host.lost_guests());
        let gave_up = memory
            .gave_up
            .as_ref()
            .filter(|gave_up| gave_up.generation == wish.generation)
            .map(|gave_up| gave_up.fault.clone());
        match action {
            Action::Rest => {
                if !matches!(observed.domain, Domain::Running | Domain::Paused) {
                    self.asked_at = None;
                }
                self.failures = 0;
                self.last_done = None;
                self.trace = opentelemetry::Context::new();
                self.request = None;
                self.stage.set("");
                self.fault = gave_up.clone().unwrap_or_default();
                self.publish(gave_up.is_none(), gave_up.is_some(), Urgency::Now);
                // Once it no longer counts that the guest was asked, there is
                // something to remember.
                let asked = self.asked_at.and(asked);
                Some(asked.map(|asked| ASKED_COUNTS.saturating_sub(asked.since_last)))
            }
            Action::Wait(left) => {
                self.last_done = None;
                self.stage.set("stopping");
                self.publish(false, false, Urgency::Soon);
                Some(Some(left))
            }
            Action::Remember(memory) => {
                if let Run::Ended(ending) = memory.run {
                    info!(server = %self.server(), ?ending, "the guest ended by itself");
                }
                self.write_memory(memory).await
            }
            action => {
                if action == Action::Resume
                    && observed.starved
                    && let Some(left) = self.starves()
                {
                    self.last_done = None;
                    self.publish(false, false, Urgency::Now);
                    return Some(Some(left));
                }
                if self.last_done.as_ref() == Some(&action) {
                    // It worked and changed nothing.
                    self.last_done = None;
                    let pause = self.pause_after_failure();
                    return Some(Some(pause));
                }
                self.act(action, wish.generation).await
            }
        }
    }

    /// How much longer a guest whose disk takes no data stays frozen.
    fn starves(&mut self) -> Option<Duration> {
        let now = self.host.env.clock.monotonic();
        let Some(since) = self.starved_at else {
            warn!(server = %self.server(), "the guest is frozen: its disk takes no data");
            self.fault = "The host's disk is full. The server goes on when there is room.".into();
            self.starved_at = Some(now);
            return Some(STARVED_PAUSE);
        };
        let left = STARVED_PAUSE.saturating_sub(now.saturating_sub(since));
        if left.is_zero() {
            self.starved_at = None;
            return None;
        }
        Some(left)
    }

    /// How long ago the guest was asked to switch off.
    fn asked(&self) -> Option<Asked> {
        let (first, last) = self.asked_at?;
        let now = self.host.env.clock.monotonic();
        let elapsed = now.saturating_sub(first);
        let since_last = last.map_or(elapsed.saturating_add(PRESS_AGAIN), |last| {
            now.saturating_sub(last)
        });
        let asked = Asked {
            elapsed,
            since_last,
        };
        (asked.since_last < ASKED_COUNTS).then_some(asked)
    }

    #[allow(clippy::option_option)]
    async fn write_memory(&mut self, memory: Memory) -> Option<Option<Duration>> {
        let mut record = self.record.clone();
        record.memory = memory;
        match self.commit(record).await {
            Ok(()) => None,
            Err(_) => Some(Some(self.pause_after_failure())),
        }
    }

    #[allow(clippy::option_option)]
    async fn act(&mut self, action: Action, generation: u64) -> Option<Option<Duration>> {
        let step = action.step();
        let stage = match &action {
            Action::Build | Action::Start => "spawning",
            Action::AskToStop | Action::PullPlug => "stopping",
            Action::Remove => "removing",
            Action::Attach(_) => "attaching_volume",
            Action::Detach(_) => "detaching_volume",
            Action::Pause => "pausing",
            Action::Resume => "unpausing",
            Action::Rest | Action::Remember(_) | Action::Wait(_) => "",
        };
        if action != Action::Build {
            self.stage.set(stage);
        }
        self.publish(false, false, Urgency::Soon);
        let span = info_span!(
            "act",
            otel.name = span_name(&action),
            server = %self.server(),
            request_id = tracing::field::Empty,
            trace_id = tracing::field::Empty,
        );
        // Without an exporter there is no parent to have.
        let _ = span.set_parent(self.trace.clone());
        if let Some(request) = self.request {
            span.record("request_id", format_args!("req-{request}"));
            let trace_id = self.trace.span().span_context().trace_id();
            span.record("trace_id", tracing::field::display(trace_id));
        }
        span.in_scope(|| debug!(?action, generation, "acting"));
        let result = match self.carry_out(&action).instrument(span.clone()).await {
            Carried::Out(result) => result,
            Carried::Dropped => {
                self.observed = None;
                return None;
            }
            Carried::Ended => return None,
        };
        self.observed = None;
        match result {
            Ok(()) => {
                self.fault.clear();
                self.done(action).await
            }
            Err(error) => {
                let retry = match step {
                    // There is no state in which a removal may be given up.
                    Some(Step::Remove | Step::PullPlug) | None => Retry::Later,
                    Some(_) => error.retry,
                };
                span.in_scope(|| {
                    warn!(
                        server = %self.server(), ?action, ?retry, failures = self.failures,
                        error = ?error, "an action failed"
                    );
                });
                metrics::counter!("yakumo_compute_action_failures_total").increment(1);
                self.fault.clone_from(&error.fault);
                match (retry, step) {
                    (Retry::Never, Some(step)) => {
                        let memory = Memory {
                            gave_up: Some(GaveUp {
                                generation,
                                step,
                                fault: error.fault,
                            }),
                            ..self.record.memory.clone()
                        };
                        self.write_memory(memory).await
                    }
                    _ => {
                        self.publish(false, false, Urgency::Now);
                        Some(Some(self.pause_after_failure()))
                    }
                }
            }
        }
    }

    /// Runs the action, taking commands meanwhile.
    async fn carry_out(&mut self, action: &Action) -> Carried {
        let host = Arc::clone(&self.host);
        let hypervisor = Arc::clone(&host.hypervisor);
        let server = self.server();
        let desired = self.record.desired.clone().unwrap_or_default();
        let spec = desired.spec.clone().unwrap_or_default();
        let connection = |volume: &yakumo_types::VolumeId| {
            let wanted = volume.to_string();
            spec.volumes
                .iter()
                .find(|connection| connection.volume_id == wanted)
                .cloned()
        };
        match action {
            Action::Build => {
                let stage = self.watched_stage();
                let bound = seconds(host.config.action_timeout_seconds);
                let work = async {
                    let _permit = host.builds.acquire().await;
                    match tokio::time::timeout(bound, hypervisor.build(server, &spec, &stage)).await
                    {
                        Ok(result) => result,
                        Err(_) => Err(DriverError::not_yet(
                            "Making the server's disk took too long.",
                        )),
                    }
                };
                self.droppable(Box::pin(work)).await
            }
            Action::Start => {
                // Waiting for taps may be dropped; starting may not.
                match self
                    .droppable(Box::pin(hypervisor.await_ports(&spec)))
                    .await
                {
                    Carried::Out(Ok(())) => {}
                    other => return other,
                }
                let work = async {
                    let _permit = host.builds.acquire().await;
                    hypervisor.start(server, &spec).await
                };
                self.until_done(Box::pin(work)).await
            }
            Action::AskToStop => self.until_done(hypervisor.ask_to_stop(server)).await,
            Action::PullPlug => self.until_done(hypervisor.pull_plug(server)).await,
            Action::Pause => self.until_done(hypervisor.pause(server)).await,
            Action::Resume => self.until_done(hypervisor.resume(server)).await,
            Action::Attach(volume) => match connection(volume) {
                Some(connection) => {
                    self.until_done(hypervisor.attach_volume(server, &connection))
                        .await
                }
                None => Carried::Dropped,
            },
            Action::Detach(volume) => {
                let wanted = connection(volume);
                let work = async {
                    // After databases were restored, the guest may use what is
                    // plugged in, and what is wanted may not be there.
                    if let Some(wanted) = &wanted
                        && !hypervisor.is_exported(wanted).await
                    {
                        let fault = "The volume's export does not answer.";
                        return Err(DriverError::not_yet(fault));
                    }
                    hypervisor.detach_volume(server, *volume).await
                };
                self.until_done(Box::pin(work)).await
            }
            Action::Remove => self.until_done(hypervisor.remove(server)).await,
            Action::Rest | Action::Remember(_) | Action::Wait(_) => Carried::Dropped,
        }
    }

    /// A stage whose changes are published while the action runs.
    fn watched_stage(&mut self) -> Stage {
        let host = Arc::clone(&self.host);
        let server = self.server();
        let report = self.report(false, false);
        let shown = self.stage.clone();
        Stage::new(move |stage| {
            shown.set(stage);
            let report = ServerReport {
                stage: stage.to_owned(),
                ..report.clone()
            };
            host.reporter
                .publish(server, report, Urgency::Soon, host.env.now());
        })
    }

    async fn until_done(&mut self, work: BoxFuture<'_, Result<(), DriverError>>) -> Carried {
        self.with_commands(work, |_| false).await
    }

    async fn droppable(&mut self, work: BoxFuture<'_, Result<(), DriverError>>) -> Carried {
        self.with_commands(work, |record| {
            record
                .wish()
                .is_none_or(|wish| !matches!(wish.power, Power::Running | Power::Paused))
        })
        .await
    }

    async fn with_commands(
        &mut self,
        mut work: impl Future<Output = Result<(), DriverError>> + Unpin,
        drop_it: impl Fn(&Record) -> bool,
    ) -> Carried {
        loop {
            tokio::select! {
                result = &mut work => return Carried::Out(result),
                command = self.commands.recv() => {
                    let Some(command) = command else { return Carried::Ended };
                    // Nothing is forgotten before it is a tombstone, and that
                    // it becomes by an action: the owner stays.
                    self.handle_command(command).await;
                    if drop_it(&self.record) {
                        return Carried::Dropped;
                    }
                }
            }
        }
    }

    /// Writes down what an action brought about.
    #[allow(clippy::option_option)]
    async fn done(&mut self, action: Action) -> Option<Option<Duration>> {
        let memory = &self.record.memory;
        let memory = match &action {
            Action::Build => Memory {
                disk: Disk::Built,
                ..memory.clone()
            },
            Action::Start => {
                self.asked_at = None;
                Memory {
                    run: Run::Started,
                    ..memory.clone()
                }
            }
            Action::Remove => {
                let written = self.entomb().await;
                return match written {
                    Ok(()) => None,
                    Err(_) => Some(Some(self.pause_after_failure())),
                };
            }
            // A newer wish may find it off, and must not take it for a guest that
            // has ended by itself.
            Action::AskToStop | Action::PullPlug => {
                let now = self.host.env.clock.monotonic();
                let first = self
                    .asked()
                    .map_or(now, |asked| now.saturating_sub(asked.elapsed));
                self.asked_at = Some((first, Some(now)));
                memory.clone()
            }
            Action::Rest
            | Action::Remember(_)
            | Action::Wait(_)
            | Action::Pause
            | Action::Resume
            | Action::Attach(_)
            | Action::Detach(_) => memory.clone(),
        };
        self.last_done = Some(action);
        if memory == self.record.memory {
            return None;
        }
        self.write_memory(memory).await
    }

    /// The tombstone: everything is gone, and the claim with it.
    async fn entomb(&mut self) -> Result<(), Fault> {
        let mut record = self.record.clone();
        record.memory = Memory {
            disk: Disk::Removed,
            ..Memory::default()
        };
        record.claim = None;
        if let Some(desired) = &mut record.desired {
            desired.spec = None;
            record.floor = record.floor.max(desired.generation);
        }
        self.commit(record).await?;
        self.asked_at = None;
        self.host.ledger.release(self.server());
        info!(server = %self.server(), "the server is removed");
        Ok(())
    }

    fn pause_after_failure(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        Duration::from_secs(1u64 << self.failures.saturating_sub(1).min(6)).min(LONGEST_PAUSE)
    }

    /// Makes `record` the record: on disk first, then here.
    pub(super) async fn commit(&mut self, mut record: Record) -> Result<(), Fault> {
        record.changed_at = self.host.env.now();
        if let Err(cause) = self.host.store.save(&record).await {
            error!(server = %self.server(), error = ?cause, "the record could not be written");
            self.host.records.failed(&cause.reason());
            return Err(Fault::unavailable(
                "The host could not write the server's record to its disk.",
            ));
        }
        self.record = record;
        self.show_handle();
        Ok(())
    }

    fn show_handle(&mut self) {
        let only_claim = self.record.claim.is_some() && self.record.desired.is_none();
        self.handle.only_claim.store(only_claim, Ordering::Release);
        let image = self
            .record
            .desired
            .as_ref()
            .and_then(|desired| desired.spec.as_ref()?.image.as_ref())
            .map(|image| image.sha512.clone());
        *self
            .handle
            .image
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = image;
    }

    fn report(&self, converged: bool, is_final: bool) -> ServerReport {
        let desired = self.record.desired.as_ref();
        let observed = self.observed.clone().unwrap_or_else(Observed::absent);
        let power_state = match self.record.memory.disk {
            Disk::Removed => "nostate",
            Disk::Missing | Disk::Built => decision::power_state(&self.record.memory, &observed),
        };
        ServerReport {
            server_id: self.server().to_string(),
            generation: desired.map_or(0, |desired| desired.generation),
            converged,
            power_state: power_state.to_owned(),
            stage: self.stage.get().to_owned(),
            fault: self.fault.clone(),
            fault_is_final: is_final,
            reboot_count: self.record.memory.reboots_done,
            attached_volume_ids: observed
                .volumes
                .iter()
                .map(|plugged| plugged.volume.to_string())
                .collect(),
        }
    }

    fn publish(&self, converged: bool, is_final: bool, urgency: Urgency) {
        let mut report = self.report(converged, is_final);
        if self.observed.is_none()
            && self.record.memory.disk != Disk::Removed
            && let Some(before) = self.host.reporter.last(self.server())
        {
            // Not looked at just now: what was seen last stands.
            report.power_state = before.power_state;
            report.attached_volume_ids = before.attached_volume_ids;
        }
        let now = self.host.env.now();
        self.host
            .reporter
            .publish(self.server(), report, urgency, now);
    }

    /// Off the list first, so that whoever asks next starts afresh; commands
    /// that are still waiting are dropped and asked again by their callers.
    fn leave(mut self) {
        self.commands.close();
        self.host.disown(self.server(), &self.handle);
    }
}

/// What an action is called in a trace.
fn span_name(action: &Action) -> &'static str {
    match action {
        Action::Build => "build disk",
        Action::Start => "create domain",
        Action::AskToStop => "press power button",
        Action::PullPlug => "destroy domain",
        Action::Pause => "pause domain",
        Action::Resume => "resume domain",
        Action::Attach(_) => "attach volume",
        Action::Detach(_) => "detach volume",
        Action::Remove => "remove domain",
        Action::Rest | Action::Remember(_) | Action::Wait(_) => "rest",
    }
}
