//! Helpers: a database with the engine's schema, engines, and workflows made
//! of closures.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;
use yakumo_db::{Backend, BoxFuture, DatabaseTransaction, Db, DbError, MigratorTrait};
use yakumo_testing::databases::{TestDatabase, migrated};
use yakumo_types::{Env, RequestContext, RequestId, WorkflowId};
use yakumo_workflow::testing::{quick, wait_for_end};
use yakumo_workflow::{
    End, Engine, EngineConfig, Outcome, StepCx, StepError, Workflow, WorkflowView,
};

pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn sea_orm_migration::MigrationTrait>> {
        yakumo_workflow::migrations()
    }
}

pub fn context() -> RequestContext {
    RequestContext::internal(RequestId::from_uuid(Uuid::from_u128(1)))
}

pub fn env() -> Env {
    yakumo_service::system_env()
}

/// A database with engines on it.
pub struct World {
    pub database: TestDatabase,
    pub env: Env,
}

impl World {
    pub async fn new(backend: Backend) -> Self {
        Self {
            database: migrated::<Migrator>(backend).await.unwrap(),
            env: env(),
        }
    }

    pub fn db(&self) -> &Db {
        &self.database.db
    }

    /// A worker that is never stopped in an orderly way.
    pub fn engine(&self, workflow: Simple) -> Engine {
        self.worker(workflow, quick()).engine
    }

    pub fn worker(&self, workflow: Simple, config: EngineConfig) -> Running {
        Running::start(self.db().clone(), self.env.clone(), workflow, config)
    }

    pub async fn submit(&self, engine: &Engine, deadline: Duration) -> WorkflowId {
        submit(self.db(), engine, "r", Value::Null, deadline)
            .await
            .unwrap()
    }

    pub async fn end(&self, engine: &Engine, id: WorkflowId) -> WorkflowView {
        wait_for_end(engine, &self.env, id).await
    }

    pub async fn run(&self, workflow: Simple) -> WorkflowView {
        let engine = self.engine(workflow);
        let id = self.submit(&engine, LONG).await;
        self.end(&engine, id).await
    }

    /// Waits until `condition` holds.
    pub async fn wait<F: AsyncFn() -> bool>(&self, what: &str, condition: F) {
        wait(&self.env, what, condition).await;
    }
}

pub async fn wait<F: AsyncFn() -> bool>(env: &Env, what: &str, condition: F) {
    let all = async {
        while !condition().await {
            env.clock.sleep(Duration::from_millis(3)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all)
        .await
        .unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

pub const LONG: Duration = Duration::from_secs(300);

pub async fn submit(
    db: &Db,
    engine: &Engine,
    resource: &str,
    input: Value,
    deadline: Duration,
) -> Result<WorkflowId, DbError> {
    let (engine, resource) = (engine.clone(), resource.to_owned());
    db.write(move |txn| {
        let (engine, resource, input) = (engine.clone(), resource.clone(), input.clone());
        Box::pin(async move {
            engine
                .submit(txn, "simple", &resource, input, &context(), deadline)
                .await
        })
    })
    .await
}

/// One process with an engine.
pub struct Running {
    pub engine: Engine,
    pub shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Running {
    pub fn start(db: Db, env: Env, workflow: Simple, config: EngineConfig) -> Self {
        let engine = Engine::with_config(db, env, config).register(Arc::new(workflow));
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        engine.start(
            &|_, task| {
                tasks.spawn(task);
            },
            shutdown.clone(),
        );
        Self {
            engine,
            shutdown,
            tasks,
        }
    }

    /// An orderly end.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

type StepFn = Box<
    dyn for<'c> Fn(&'c str, &'c StepCx) -> BoxFuture<'c, Result<Outcome, StepError>> + Send + Sync,
>;
type EndFn = Box<
    dyn for<'c> Fn(
            &'c DatabaseTransaction,
            &'c StepCx,
            &'c End,
        ) -> BoxFuture<'c, Result<(), DbError>>
        + Send
        + Sync,
>;

/// A workflow made of closures.
pub struct Simple {
    steps: &'static [&'static str],
    lazy: &'static [&'static str],
    run: StepFn,
    undo: StepFn,
    finished: EndFn,
}

pub fn simple(steps: &'static [&'static str]) -> Simple {
    Simple {
        steps,
        lazy: &[],
        run: Box::new(|_, _| Box::pin(async { Ok(Outcome::done()) })),
        undo: Box::new(|_, _| Box::pin(async { Ok(Outcome::done()) })),
        finished: Box::new(|_, _, _| Box::pin(async { Ok(()) })),
    }
}

impl Simple {
    /// These are recorded with the step after them.
    pub fn lazy(self, lazy: &'static [&'static str]) -> Self {
        Self { lazy, ..self }
    }

    pub fn run(
        mut self,
        run: impl for<'c> Fn(&'c str, &'c StepCx) -> BoxFuture<'c, Result<Outcome, StepError>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.run = Box::new(run);
        self
    }

    pub fn undo(
        mut self,
        undo: impl for<'c> Fn(&'c str, &'c StepCx) -> BoxFuture<'c, Result<Outcome, StepError>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.undo = Box::new(undo);
        self
    }

    pub fn finished(
        mut self,
        finished: impl for<'c> Fn(
            &'c DatabaseTransaction,
            &'c StepCx,
            &'c End,
        ) -> BoxFuture<'c, Result<(), DbError>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.finished = Box::new(finished);
        self
    }
}

#[async_trait]
impl Workflow for Simple {
    fn kind(&self) -> &'static str {
        "simple"
    }

    fn steps(&self) -> &'static [&'static str] {
        self.steps
    }

    fn is_lazy(&self, step: &str) -> bool {
        self.lazy.contains(&step)
    }

    async fn run(&self, step: &str, cx: &StepCx) -> Result<Outcome, StepError> {
        (self.run)(step, cx).await
    }

    async fn undo(&self, step: &str, cx: &StepCx) -> Result<Outcome, StepError> {
        (self.undo)(step, cx).await
    }

    async fn on_finished(
        &self,
        txn: &DatabaseTransaction,
        cx: &StepCx,
        end: &End,
    ) -> Result<(), DbError> {
        (self.finished)(txn, cx, end).await
    }
}
