//! Breaks a workflow on purpose, at each of its steps, and lets the caller
//! look at what is left.
//!
//! ```text
//! let proof = Proof { make, done, clean };
//! proof.all().await;
//! ```
//!
//! `make` builds a new world with everything that the workflow needs before it
//! is submitted, `done` checks a world in which it succeeded once, `clean` one
//! in which it failed and everything was taken back. Both panic, as tests do.
//!
//! Effects outside of the database are safe against an overtaken worker only
//! if the receiver compares fences ([`crate::StepCx::fence`]): fakes should.

// These are tests: a broken expectation is a panic.
#![allow(clippy::expect_used)]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::sea_query::{Alias, Query};
use sea_orm::{ConnectionTrait, EntityTrait, QueryOrder};
use serde_json::Value;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use yakumo_db::{DatabaseTransaction, Db, DbError};
use yakumo_types::{Env, Fault, RequestContext, WorkflowId};

use crate::cx::StepCx;
use crate::engine::{Engine, EngineConfig};
use crate::entity::{step, workflow};
use crate::view::{WorkflowState, WorkflowView};
use crate::workflow::{End, Outcome, StepError, Workflow};

/// One world with one workflow to run in it.
pub struct Case {
    /// The service's database, with its schema.
    pub db: Db,
    /// Clock and chance.
    pub env: Env,
    /// The workflow.
    pub workflow: Arc<dyn Workflow>,
    /// What it works on.
    pub resource: String,
    /// What it is submitted with.
    pub input: Value,
    /// Who asks for it.
    pub ctx: RequestContext,
}

/// A workflow and how to judge its ends.
pub struct Proof<M, D, C> {
    /// Builds a world.
    pub make: M,
    /// Panics if this is not a world in which the workflow succeeded once.
    pub done: D,
    /// Panics if anything is left of a workflow that failed.
    pub clean: C,
}

impl<M, D, C> Proof<M, D, C>
where
    M: AsyncFn() -> Case,
    D: AsyncFn(&Case),
    C: AsyncFn(&Case),
{
    /// All proofs.
    pub async fn all(&self) {
        self.succeed().await;
        self.fail_every_step().await;
        self.run_every_step_twice().await;
        self.die_after_every_step().await;
        self.lose_the_lease().await;
    }

    async fn steps(&self) -> &'static [&'static str] {
        (self.make)().await.workflow.steps()
    }

    /// Nothing is broken: it succeeds.
    pub async fn succeed(&self) {
        let case = (self.make)().await;
        let worker = Worker::start(&case, Plan::default());
        let view = worker.run(&case).await;
        assert_eq!(view.end(), Some(End::Succeeded), "{view:?}");
        (self.done)(&case).await;
        worker.kill().await;
    }

    /// Each step fails, once before it has done anything and once after it has
    /// done everything; and every undo fails the first time.
    pub async fn fail_every_step(&self) {
        for name in self.steps().await {
            for moment in [Moment::Before, Moment::After] {
                let case = (self.make)().await;
                let worker = Worker::start(
                    &case,
                    Plan {
                        fail: Some((name, moment)),
                        undo_fails_once: true,
                        ..Plan::default()
                    },
                );
                let view = worker.run(&case).await;
                let End::Failed(fault) = view.end().expect("an end") else {
                    panic!("{name} failed {moment:?} and the workflow succeeded");
                };
                assert_eq!(fault, broken(name), "of {name}, {moment:?}");
                (self.clean)(&case).await;
                worker.kill().await;
            }
        }
    }

    /// Every step runs twice, and so does every undo.
    pub async fn run_every_step_twice(&self) {
        let case = (self.make)().await;
        let plan = Plan {
            twice: true,
            ..Plan::default()
        };
        let worker = Worker::start(&case, plan);
        let view = worker.run(&case).await;
        assert_eq!(view.end(), Some(End::Succeeded), "{view:?}");
        (self.done)(&case).await;
        worker.kill().await;

        let case = (self.make)().await;
        let plan = Plan {
            twice: true,
            fail: last(&case).map(|name| (name, Moment::After)),
            ..Plan::default()
        };
        let worker = Worker::start(&case, plan);
        let view = worker.run(&case).await;
        assert!(matches!(view.end(), Some(End::Failed(_))), "{view:?}");
        (self.clean)(&case).await;
        worker.kill().await;
    }

    /// The worker dies after each step, before it could record it, and
    /// another one takes over; the same while undoing.
    pub async fn die_after_every_step(&self) {
        for name in self.steps().await {
            for direction in [Direction::Do, Direction::Undo] {
                let case = (self.make)().await;
                let fail = match direction {
                    Direction::Do => None,
                    Direction::Undo => last(&case).map(|name| (name, Moment::After)),
                };
                let first = Worker::start(
                    &case,
                    Plan {
                        fail,
                        stop: Some(Stop {
                            step: name,
                            direction,
                            moment: Moment::After,
                        }),
                        ..Plan::default()
                    },
                );
                let id = first.submit(&case).await;
                first.stopped(&case).await;
                first.kill().await;
                expire_leases(&case.db).await;
                let second = Worker::start(
                    &case,
                    Plan {
                        fail,
                        ..Plan::default()
                    },
                );
                let view = second.end(&case, id).await;
                match direction {
                    Direction::Do => {
                        assert_eq!(view.end(), Some(End::Succeeded), "after {name}: {view:?}");
                        (self.done)(&case).await;
                    }
                    Direction::Undo => {
                        assert_eq!(view.state, WorkflowState::Failed, "after {name}: {view:?}");
                        (self.clean)(&case).await;
                    }
                }
                second.kill().await;
            }
        }
    }

    /// The worker is stopped at each step, loses its lease, and goes on after
    /// another one has finished everything: nothing may change any more.
    pub async fn lose_the_lease(&self) {
        for name in self.steps().await {
            for moment in [Moment::Before, Moment::After] {
                let case = (self.make)().await;
                let first = Worker::start(
                    &case,
                    Plan {
                        stop: Some(Stop {
                            step: name,
                            direction: Direction::Do,
                            moment,
                        }),
                        ..Plan::default()
                    },
                );
                let id = first.submit(&case).await;
                first.stopped(&case).await;
                expire_leases(&case.db).await;
                let second = Worker::start(&case, Plan::default());
                let view = second.end(&case, id).await;
                assert_eq!(
                    view.end(),
                    Some(End::Succeeded),
                    "{name}, {moment:?}: {view:?}"
                );
                let before = rows(&case.db).await;
                first.go_on();
                first.idle(&case).await;
                assert_eq!(
                    rows(&case.db).await,
                    before,
                    "the overtaken worker wrote, stopped at {name}, {moment:?}"
                );
                (self.done)(&case).await;
                first.kill().await;
                second.kill().await;
            }
        }
    }
}

fn last(case: &Case) -> Option<&'static str> {
    case.workflow.steps().last().copied()
}

/// When something is done to a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Before,
    After,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Do,
    Undo,
}

#[derive(Debug, Clone, Copy)]
struct Stop {
    step: &'static str,
    direction: Direction,
    moment: Moment,
}

/// What is to go wrong.
#[derive(Debug, Clone, Copy, Default)]
struct Plan {
    fail: Option<(&'static str, Moment)>,
    undo_fails_once: bool,
    twice: bool,
    stop: Option<Stop>,
}

fn broken(step: &str) -> Fault {
    Fault::conflict(format!("The test made {step} fail."))
}

/// The workflow with the plan around it.
struct Faulty {
    inner: Arc<dyn Workflow>,
    plan: Plan,
    failed_undos: Mutex<BTreeSet<String>>,
    stopped: Notify,
    go_on: Semaphore,
}

impl Faulty {
    async fn stop(&self, step: &str, direction: Direction, moment: Moment) {
        let Some(stop) = self.plan.stop else { return };
        if stop.step == step && stop.direction == direction && stop.moment == moment {
            self.stopped.notify_one();
            if let Ok(permit) = self.go_on.acquire().await {
                permit.forget();
            }
        }
    }

    async fn again(
        &self,
        step: &str,
        cx: &StepCx,
        direction: Direction,
    ) -> Result<Outcome, StepError> {
        for _ in 0..1000 {
            let outcome = match direction {
                Direction::Do => self.inner.run(step, cx).await?,
                Direction::Undo => self.inner.undo(step, cx).await?,
            };
            match outcome {
                Outcome::Done(_) => return Ok(outcome),
                Outcome::Park { .. } => cx.env.clock.sleep(Duration::from_millis(5)).await,
            }
        }
        panic!("{step} does not get done the second time");
    }
}

#[async_trait]
impl Workflow for Faulty {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn steps(&self) -> &'static [&'static str] {
        self.inner.steps()
    }

    fn is_lazy(&self, step: &str) -> bool {
        self.inner.is_lazy(step)
    }

    async fn run(&self, step: &str, cx: &StepCx) -> Result<Outcome, StepError> {
        let fails = |moment| {
            self.plan
                .fail
                .is_some_and(|(name, when)| name == step && when == moment)
        };
        if fails(Moment::Before) {
            return Err(StepError::Fail(broken(step)));
        }
        self.stop(step, Direction::Do, Moment::Before).await;
        let mut outcome = self.inner.run(step, cx).await?;
        if matches!(outcome, Outcome::Park { .. }) {
            return Ok(outcome);
        }
        if self.plan.twice {
            outcome = self.again(step, cx, Direction::Do).await?;
        }
        self.stop(step, Direction::Do, Moment::After).await;
        if fails(Moment::After) {
            return Err(StepError::Fail(broken(step)));
        }
        Ok(outcome)
    }

    async fn undo(&self, step: &str, cx: &StepCx) -> Result<Outcome, StepError> {
        if self.plan.undo_fails_once
            && self
                .failed_undos
                .lock()
                .is_ok_and(|mut failed| failed.insert(step.to_owned()))
        {
            return Err(StepError::Fail(broken(step)));
        }
        let mut outcome = self.inner.undo(step, cx).await?;
        if matches!(outcome, Outcome::Park { .. }) {
            return Ok(outcome);
        }
        if self.plan.twice {
            outcome = self.again(step, cx, Direction::Undo).await?;
        }
        self.stop(step, Direction::Undo, Moment::After).await;
        Ok(outcome)
    }

    async fn on_finished(
        &self,
        txn: &DatabaseTransaction,
        cx: &StepCx,
        end: &End,
    ) -> Result<(), DbError> {
        self.inner.on_finished(txn, cx, end).await
    }
}

/// One worker process.
struct Worker {
    engine: Engine,
    faulty: Arc<Faulty>,
    tasks: TaskTracker,
}

impl Worker {
    fn start(case: &Case, plan: Plan) -> Self {
        let faulty = Arc::new(Faulty {
            inner: Arc::clone(&case.workflow),
            plan,
            failed_undos: Mutex::default(),
            stopped: Notify::new(),
            go_on: Semaphore::new(0),
        });
        let engine = Engine::with_config(case.db.clone(), case.env.clone(), quick())
            .register(Arc::clone(&faulty) as Arc<dyn Workflow>);
        let tasks = TaskTracker::new();
        engine.start(
            &|_, task| {
                tasks.spawn(task);
            },
            CancellationToken::new(),
        );
        Self {
            engine,
            faulty,
            tasks,
        }
    }

    async fn submit(&self, case: &Case) -> WorkflowId {
        submit(&self.engine, case).await
    }

    async fn end(&self, case: &Case, id: WorkflowId) -> WorkflowView {
        wait_for_end(&self.engine, &case.env, id).await
    }

    async fn run(&self, case: &Case) -> WorkflowView {
        let id = self.submit(case).await;
        self.end(case, id).await
    }

    /// Waits until the plan's stop is reached.
    async fn stopped(&self, case: &Case) {
        tokio::select! {
            () = self.faulty.stopped.notified() => {}
            () = case.env.clock.sleep(BOUND) => {
                panic!("the worker never came to {:?}", self.faulty.plan.stop);
            }
        }
    }

    fn go_on(&self) {
        self.faulty.go_on.add_permits(1);
    }

    /// Waits until no step runs.
    async fn idle(&self, case: &Case) {
        let idle = async {
            while !self.engine.inner.tasks.is_empty() {
                case.env.clock.sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            () = idle => {}
            () = case.env.clock.sleep(BOUND) => panic!("a worker does not come to rest"),
        }
    }

    async fn kill(self) {
        self.engine.kill();
        self.engine.inner.tasks.close();
        self.engine.inner.tasks.wait().await;
        self.tasks.close();
        self.tasks.wait().await;
    }
}

const BOUND: Duration = Duration::from_secs(60);

/// Settings under which nothing is waited for long, and a lease is kept only
/// by its length: it is renewed once, at the start.
pub fn quick() -> EngineConfig {
    EngineConfig {
        lease: Duration::from_secs(600),
        renew_every: Duration::from_secs(600),
        poll_every: Duration::from_millis(20),
        first_backoff: Duration::from_millis(5),
        max_backoff: Duration::from_millis(50),
        ..EngineConfig::default()
    }
}

/// Submits a case's workflow in a transaction of its own.
pub async fn submit(engine: &Engine, case: &Case) -> WorkflowId {
    let (handle, kind) = (engine.clone(), case.workflow.kind());
    let (resource, input, ctx) = (case.resource.clone(), case.input.clone(), case.ctx.clone());
    let submitted = case.db.write(move |txn| {
        let (engine, resource, input, ctx) =
            (handle.clone(), resource.clone(), input.clone(), ctx.clone());
        Box::pin(async move {
            engine
                .submit(txn, kind, &resource, input, &ctx, Duration::from_secs(300))
                .await
        })
    });
    submitted.await.expect("a submitted workflow")
}

/// Waits until a workflow has ended; panics with its state after a minute.
pub async fn wait_for_end(engine: &Engine, env: &Env, id: WorkflowId) -> WorkflowView {
    let started = env.clock.monotonic();
    loop {
        let view = engine.find(id).await.expect("a readable workflow");
        match view {
            Some(view) if WorkflowState::ENDED.contains(&view.state) => return view,
            view if env.clock.monotonic() - started > BOUND => {
                panic!("the workflow does not end: {view:?}");
            }
            _ => env.clock.sleep(Duration::from_millis(3)).await,
        }
    }
}

/// Makes every worker's lease run out now, as if time had passed.
pub async fn expire_leases(db: &Db) {
    let expired = db.write(|txn| {
        Box::pin(async move {
            let mut update = Query::update();
            update
                .table(Alias::new("worker_leases"))
                .value(Alias::new("expires_at"), 0_i64);
            txn.execute(&update).await?;
            Ok(())
        })
    });
    expired.await.expect("leases that run out");
}

/// Everything that the engine has written about workflows.
async fn rows(db: &Db) -> (Vec<workflow::Model>, Vec<step::Model>) {
    let workflows = workflow::Entity::find()
        .order_by_asc(workflow::Column::Id)
        .all(db.read());
    let steps = step::Entity::find()
        .order_by_asc(step::Column::WorkflowId)
        .order_by_asc(step::Column::Action)
        .order_by_asc(step::Column::Position)
        .all(db.read());
    (
        workflows.await.expect("readable workflows"),
        steps.await.expect("readable steps"),
    )
}
