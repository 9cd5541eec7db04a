//! Running one claimed workflow: step after step, until it ends, waits, or
//! belongs to somebody else.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use serde_json::{Value, json};
use tracing::{Instrument, Span, debug, error, info, info_span, warn};
use yakumo_db::DbError;
use yakumo_types::{Fault, FaultCode, RequestContext};

use crate::claim::Claimed;
use crate::cx::{Along, Guard, StepCx, is_overtaken, read_fault};
use crate::engine::Inner;
use crate::lease::Worker;
use crate::listen::Listening;
use crate::record::leave;
use crate::trace;
use crate::view::WorkflowState;
use crate::workflow::{Outcome, StepError, Workflow};

pub(crate) async fn drive(inner: Arc<Inner>, claimed: Claimed) {
    let id = claimed.row.id.clone();
    let worker = Arc::clone(&claimed.worker);
    let unread = Unread::of(&claimed);
    let run = async {
        match Run::new(&inner, claimed) {
            Ok(run) => {
                let span = run.log_span();
                run.until_it_leaves().instrument(span).await;
            }
            Err(error) => unread.give_back(&inner, &error).await,
        }
    };
    tokio::select! {
        biased;
        () = inner.killed.cancelled() => {}
        () = worker.lost.cancelled() => info!(workflow = id, "left a workflow to another worker"),
        () = run => {}
    }
}

pub(crate) struct Run<'i> {
    pub(crate) inner: &'i Arc<Inner>,
    pub(crate) worker: Arc<Worker>,
    pub(crate) workflow: Arc<dyn Workflow>,
    pub(crate) kind: String,
    pub(crate) trace: String,
    pub(crate) state: WorkflowState,
    /// Running: how many steps are done. Undoing: how many are left to undo.
    pub(crate) step: usize,
    pub(crate) attempt: u32,
    /// How often it had been woken when it looked last.
    pub(crate) wakes: i64,
    claimed_wakes: i64,
    pub(crate) listening: Listening<'i>,
    /// Whether nobody before this claim can have gone beyond the last record.
    pub(crate) alone: bool,
    /// Steps that are done and not recorded yet: those just before `step`.
    pub(crate) unrecorded: Vec<(&'static str, Value)>,
    /// What is to be written with the record of the step that just ended.
    pub(crate) along: Option<Along>,
    pub(crate) cancel: Option<Fault>,
    /// What was waited for when it was put off last.
    pub(crate) waited_for: String,
    /// Whether the step before `step` has just been done here.
    straight: bool,
    pub(crate) cx: Arc<StepCx>,
}

/// What is left to do for this task.
pub(crate) enum Next {
    GoOn,
    Leave,
}

impl<'i> Run<'i> {
    fn new(inner: &'i Arc<Inner>, claimed: Claimed) -> Result<Self, DbError> {
        let row = claimed.row;
        let workflow = inner
            .workflow(&row.kind)
            .ok_or_else(|| DbError::other("a workflow of an unknown kind was claimed"))?;
        let ctx: RequestContext = serde_json::from_str(&row.context)?;
        let cx = StepCx {
            workflow_id: row.id.parse().map_err(DbError::other)?,
            resource: row.resource,
            epoch: u64::try_from(row.epoch).unwrap_or_default(),
            input: serde_json::from_str(&row.input)?,
            results: claimed.results,
            attempt: 0,
            fault: read_fault(&row.fault),
            env: inner.env.clone(),
            ctx,
            db: inner.db.clone(),
            step: String::new(),
            straight: false,
            guard: claimed.guard,
            ends_at: inner.env.clock.monotonic() + claimed.remaining,
            note: std::sync::Mutex::default(),
            along: std::sync::Mutex::default(),
        };
        let listening = inner
            .listeners
            .listen([cx.resource.clone(), cx.guard.workflow_id.clone()]);
        Ok(Self {
            inner,
            worker: claimed.worker,
            workflow,
            kind: row.kind,
            trace: row.trace,
            state: WorkflowState::parse(&row.state)?,
            step: usize::try_from(row.step).unwrap_or_default(),
            attempt: u32::try_from(row.attempt).unwrap_or_default(),
            wakes: row.wakes,
            claimed_wakes: row.wakes,
            listening,
            alone: claimed.untouched,
            unrecorded: Vec::new(),
            along: None,
            cancel: read_fault(&row.cancel),
            waited_for: row.waiting_for,
            straight: false,
            cx: Arc::new(cx),
        })
    }

    /// What every line names that is logged between steps. Steps have spans of
    /// their own, and this one is for the log alone.
    fn log_span(&self) -> Span {
        info_span!(
            target: "yakumo::log",
            "workflow",
            workflow = %self.cx.workflow_id,
            request_id = %format_args!("req-{}", self.cx.ctx.request_id),
            trace_id = trace::trace_id(&self.trace),
        )
    }

    async fn until_it_leaves(mut self) {
        let mut failures = 0_u32;
        loop {
            if !self.worker.may_go_on(self.inner).await {
                return;
            }
            let next = if self.inner.draining.is_cancelled() {
                self.put_off(Duration::ZERO, String::new(), self.attempt)
                    .await
            } else {
                self.advance().await
            };
            match next {
                Ok(Next::GoOn) => failures = 0,
                Ok(Next::Leave) => return,
                Err(error) if is_overtaken(&error) => {
                    info!(workflow = %self.cx.workflow_id, "another worker has taken a workflow over");
                    return;
                }
                Err(error) => {
                    // The step runs again, which it must be able to.
                    failures += 1;
                    warn!(workflow = %self.cx.workflow_id, %error, "cannot record a workflow's step");
                    let pause = self.backoff(failures);
                    let away = matches!(
                        error,
                        DbError::Unavailable | DbError::ReadOnly | DbError::Contended
                    );
                    let attempt = self.attempt.saturating_add(1);
                    let note = "the database to take a record".to_owned();
                    // A record that the database refuses counts as a failed
                    // try, so that the deadline can end it.
                    if away || self.put_off(pause, note, attempt).await.is_err() {
                        self.inner.env.clock.sleep(pause).await;
                    } else {
                        return;
                    }
                }
            }
        }
    }

    /// Does or undoes one step and records it.
    async fn advance(&mut self) -> Result<Next, DbError> {
        let steps = self.workflow.steps();
        if self.state == WorkflowState::Undoing {
            return match self.step.checked_sub(1) {
                None => self.finish(None).await,
                Some(position) => {
                    let name = steps.get(position).copied().unwrap_or_default();
                    self.undo(position, name).await
                }
            };
        }
        if let Some(fault) = self.cancel.take() {
            return self.start_undoing(fault).await;
        }
        if self.step < steps.len() && self.cx.remaining().is_zero() {
            return self.start_undoing(self.too_late(None)).await;
        }
        match steps.get(self.step) {
            None => self.finish(None).await,
            Some(name) => self.run(name, steps.len()).await,
        }
    }

    async fn run(&mut self, name: &'static str, count: usize) -> Result<Next, DbError> {
        let heard = self.listening.ear.wakes();
        let straight = std::mem::take(&mut self.straight) && heard == 0;
        self.prepare(name.to_owned(), straight);
        let limit = self.cx.remaining().min(self.inner.config.step_timeout);
        self.wakes = self.claimed_wakes.saturating_add(heard);
        let outcome = self.guarded(name, limit, Direction::Do).await;
        let note = self.cx.take_note();
        self.along = self.cx.take_along();
        match outcome {
            Ok(Outcome::Done(value)) if self.step + 1 == count => {
                self.finish(Some((name, value))).await
            }
            Ok(Outcome::Done(value)) if self.along.is_none() && self.workflow.is_lazy(name) => {
                self.unrecorded.push((name, value.clone()));
                self.done(name, value);
                Ok(Next::GoOn)
            }
            Ok(Outcome::Done(value)) => {
                match self.record("do", self.step, name, &value).await? {
                    None => self.done(name, value),
                    // It is not recorded then, and undone like one that failed.
                    Some(fault) => self.cancel = Some(fault),
                }
                Ok(Next::GoOn)
            }
            Ok(Outcome::Park { wake_in }) => {
                if self.cx.remaining().is_zero() {
                    return self.start_undoing(self.too_late(Some(&note))).await;
                }
                if self.is_woken_within(wake_in, heard).await {
                    return Ok(Next::GoOn);
                }
                self.put_off(wake_in, note, self.attempt).await
            }
            Err(StepError::Retry(fault)) => {
                let note = match (note.as_str(), fault.message.as_str()) {
                    (_, "") => note,
                    ("", _) => fault.message,
                    (note, why) => format!("{note}: {why}"),
                };
                if self.cx.remaining().is_zero() {
                    return self.start_undoing(self.too_late(Some(&note))).await;
                }
                let attempt = self.attempt.saturating_add(1);
                self.put_off(self.backoff(attempt), note, attempt).await
            }
            Err(StepError::Fail(fault)) => self.start_undoing(fault).await,
        }
    }

    /// Stays a moment with a workflow that waits: it is often woken right away.
    async fn is_woken_within(&self, wait: Duration, heard: i64) -> bool {
        let ear = &self.listening.ear;
        let wait = wait.min(self.inner.config.linger);
        tokio::select! {
            biased;
            // One that is to give up leaves, and is read anew when it is claimed.
            () = ear.woken_beyond(heard) => !ear.is_cancelled(),
            () = self.inner.env.clock.sleep(wait) => false,
            () = self.inner.draining.cancelled() => false,
        }
    }

    async fn undo(&mut self, position: usize, name: &'static str) -> Result<Next, DbError> {
        self.prepare(format!("undo_{name}"), false);
        let limit = self.inner.config.step_timeout;
        let heard = self.listening.ear.wakes();
        self.wakes = self.claimed_wakes.saturating_add(heard);
        let outcome = self.guarded(name, limit, Direction::Undo).await;
        let note = self.cx.take_note();
        self.along = self.cx.take_along();
        match outcome {
            Ok(Outcome::Done(value)) if position == 0 => self.finish(Some((name, value))).await,
            Ok(Outcome::Done(value)) => {
                self.record("undo", position, name, &value).await?;
                self.step = position;
                self.attempt = 0;
                Ok(Next::GoOn)
            }
            Ok(Outcome::Park { wake_in }) => {
                if self.is_woken_within(wake_in, heard).await {
                    return Ok(Next::GoOn);
                }
                self.put_off(wake_in, note, self.attempt).await
            }
            Err(error) => {
                let attempt = self.attempt.saturating_add(1);
                metrics::counter!("yakumo_workflow_undo_failures_total", "kind" => self.kind.clone(), "step" => name)
                    .increment(1);
                warn!(
                    workflow = %self.cx.workflow_id, kind = self.kind, step = name, attempt, %error,
                    "cannot undo a step; it will be tried until it works"
                );
                let note = format!("undoing {name}: {}", error.fault().message);
                self.put_off(self.backoff(attempt), note, attempt).await
            }
        }
    }

    pub(crate) fn cx_mut(&mut self) -> &mut StepCx {
        if Arc::get_mut(&mut self.cx).is_none() {
            self.cx = Arc::new(self.cx.copy());
        }
        match Arc::get_mut(&mut self.cx) {
            Some(cx) => cx,
            None => unreachable!("a new Arc has one owner"),
        }
    }

    fn prepare(&mut self, step: String, straight: bool) {
        self.listening.ear.set_deaf(false);
        let attempt = self.attempt;
        let cx = self.cx_mut();
        cx.step = step;
        cx.straight = straight;
        cx.attempt = attempt;
    }

    pub(crate) fn done(&mut self, name: &str, value: Value) {
        self.cx_mut().results.insert(name.to_owned(), value);
        self.step += 1;
        self.attempt = 0;
        self.straight = true;
        self.waited_for.clear();
    }

    /// One try of a step, within a time limit and in a span of its own; a
    /// panic is a failure like others.
    async fn guarded(
        &self,
        name: &'static str,
        limit: Duration,
        direction: Direction,
    ) -> Result<Outcome, StepError> {
        let span = info_span!(
            parent: None,
            "workflow step",
            otel.name = self.cx.step.as_str(),
            workflow = %self.cx.workflow_id,
            kind = self.kind,
            resource = self.cx.resource,
            attempt = self.attempt,
            request_id = %format_args!("req-{}", self.cx.ctx.request_id),
            trace_id = trace::trace_id(&self.trace),
        );
        trace::continue_in(&span, &self.trace);
        let started = self.inner.env.clock.monotonic();
        let call = match direction {
            Direction::Do => self.workflow.run(name, &self.cx),
            Direction::Undo => self.workflow.undo(name, &self.cx),
        };
        let outcome = tokio::time::timeout(
            limit,
            AssertUnwindSafe(call)
                .catch_unwind()
                .instrument(span.clone()),
        )
        .await;
        let took = self.inner.env.clock.monotonic().saturating_sub(started);
        let _in_the_steps_name = span.entered();
        debug!(step = self.cx.step, ?took, "a step was tried");
        metrics::histogram!("yakumo_workflow_step_seconds", "kind" => self.kind.clone(), "step" => name)
            .record(took.as_secs_f64());
        match outcome {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => {
                error!(workflow = %self.cx.workflow_id, kind = self.kind, step = name, "a workflow's step panicked");
                Err(StepError::Fail(Fault::internal(
                    "An unexpected error has occurred.",
                )))
            }
            // Cut by the deadline: why it failed before says more.
            Err(_) if limit < self.inner.config.step_timeout => {
                Err(StepError::Retry(Fault::timeout("")))
            }
            Err(_) => Err(StepError::Retry(Fault::timeout(format!(
                "the step took longer than {} seconds",
                Ord::max(limit.as_secs(), 1)
            )))),
        }
    }

    /// The fault for a workflow whose deadline has passed while its current
    /// step was waiting.
    pub(crate) fn too_late(&self, waiting_for: Option<&str>) -> Fault {
        let step = self
            .workflow
            .steps()
            .get(self.step)
            .copied()
            .unwrap_or("finish");
        let what = match waiting_for {
            None | Some("") => self.waited_for.as_str(),
            Some(what) => what,
        };
        let message = match what.trim_end_matches('.') {
            "" => format!("It took too long: the step {step} did not finish in time."),
            what => format!("It took too long: the step {step} was waiting for {what}."),
        };
        Fault::new(FaultCode::Timeout, message)
            .with_details(json!({ "step": step, "waiting_for": what }))
    }

    pub(crate) fn backoff(&self, attempt: u32) -> Duration {
        self.inner.backoff(attempt)
    }
}

/// A claimed workflow whose row this program may be unable to read: another
/// release wrote it, or something spoilt it.
///
/// It is given back and tried again with growing pauses, by whoever claims it
/// next, and never ended: without its input and its context nothing of it can
/// be undone, and nobody could be told. It is like an undo that fails: it shows
/// in [`crate::Engine::unfinished`], the logs and the metrics, until a program
/// that can read it (or a person) takes it on. Its deadline passes meanwhile,
/// and holds from the moment that it can be read.
struct Unread {
    guard: Guard,
    kind: String,
    attempt: u32,
    wakes: i64,
}

impl Unread {
    fn of(claimed: &Claimed) -> Self {
        Self {
            guard: claimed.guard.clone(),
            kind: claimed.row.kind.clone(),
            attempt: u32::try_from(claimed.row.attempt)
                .unwrap_or_default()
                .saturating_add(1),
            wakes: claimed.row.wakes,
        }
    }

    async fn give_back(self, inner: &Inner, why: &DbError) {
        let workflow = self.guard.workflow_id.as_str();
        error!(
            workflow,
            kind = self.kind,
            attempt = self.attempt,
            error = %why,
            "a workflow cannot be read; it will be tried again"
        );
        metrics::counter!("yakumo_workflow_unreadable_total", "kind" => self.kind.clone())
            .increment(1);
        // Clients may see this; the cause is in the log.
        let note = "a program that can read its record".to_owned();
        let pause = inner.backoff(self.attempt);
        loop {
            let given = leave(
                inner,
                &self.guard,
                None,
                self.wakes,
                pause,
                note.clone(),
                self.attempt,
            );
            match given.await {
                Ok(()) => return,
                Err(error) if is_overtaken(&error) => return,
                Err(error) => {
                    warn!(workflow, %error, "cannot give a workflow back");
                    inner.env.clock.sleep(pause).await;
                }
            }
        }
    }
}

enum Direction {
    Do,
    Undo,
}
