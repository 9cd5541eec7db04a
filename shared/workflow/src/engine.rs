//! The engine: submitting, waking, looking, and the loop that hands claimed
//! workflows to tasks.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use futures::future::BoxFuture;
use sea_orm::sea_query::{Alias, Expr, ExprTrait as _, LockType, Query, SimpleExpr};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use serde_json::Value;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;
use yakumo_db::{DatabaseTransaction, Db, DbError, after_commit, now_expr};
use yakumo_types::{Env, Fault, RequestContext, WorkflowId};

use crate::claim::{self, Ahead, Claimed};
use crate::entity::workflow;
use crate::lease::{self, Lease};
use crate::listen::Listeners;
use crate::run;
use crate::trace;
use crate::view::{WorkflowState, WorkflowView};
use crate::workflow::Workflow;

/// The time of what will not come by itself.
pub(crate) const NEVER: i64 = i64::MAX;

/// How the engine behaves; the defaults suit every service.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// How long a worker that says nothing keeps its workflows.
    pub lease: Duration,
    /// How often it says something.
    pub renew_every: Duration,
    /// How often work is looked for that nobody announced: wake-ups that
    /// another worker set, and submissions by other processes.
    pub poll_every: Duration,
    /// Workflows whose steps run at the same time in this process.
    pub max_running: usize,
    /// The longest one try of a step may take before it counts as failed.
    pub step_timeout: Duration,
    /// The pause after the first failed try; doubles with each further one.
    pub first_backoff: Duration,
    /// The longest pause between tries.
    pub max_backoff: Duration,
    /// How long a task stays with a workflow that waits, before it leaves it to
    /// whoever looks next.
    pub linger: Duration,
    /// How long ended workflows are kept.
    pub keep_ended: Duration,
    /// How long a drain waits for steps that run.
    pub drain: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            renew_every: Duration::from_secs(5),
            poll_every: Duration::from_secs(1),
            max_running: 256,
            step_timeout: Duration::from_secs(300),
            first_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(30),
            linger: Duration::from_millis(250),
            keep_ended: Duration::from_secs(24 * 3600),
            drain: Duration::from_secs(10),
        }
    }
}

/// The engine of one service in one process; a cheap handle.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub db: Db,
    pub env: Env,
    pub config: EngineConfig,
    pub kinds: RwLock<BTreeMap<&'static str, Arc<dyn Workflow>>>,
    pub nudge: Notify,
    pub lease: Lease,
    /// Nothing new is begun; what runs ends with its current step.
    pub draining: CancellationToken,
    /// Everything ends at once and nothing is given back, as if the process
    /// had been killed.
    pub killed: CancellationToken,
    pub tasks: TaskTracker,
    pub listeners: Listeners,
    /// One for each workflow whose steps may run here at the same time.
    slots: Arc<Semaphore>,
    wakes: Mutex<BinaryHeap<Reverse<Duration>>>,
    rescheduled: Notify,
    running: Mutex<HashSet<String>>,
    /// Until when, by this process's own clock, it may own workflows that it
    /// does not know of.
    doubt_until: Mutex<Duration>,
    started: AtomicBool,
}

impl fmt::Debug for Engine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Engine({:?})", self.inner.db)
    }
}

impl Engine {
    /// An engine with the default settings, not started.
    pub fn new(db: Db, env: Env) -> Self {
        Self::with_config(db, env, EngineConfig::default())
    }

    /// An engine, not started.
    pub fn with_config(db: Db, env: Env, config: EngineConfig) -> Self {
        Self {
            inner: Arc::new(Inner {
                slots: Arc::new(Semaphore::new(config.max_running.max(1))),
                db,
                env,
                config,
                kinds: RwLock::default(),
                nudge: Notify::new(),
                lease: Lease::default(),
                draining: CancellationToken::new(),
                killed: CancellationToken::new(),
                tasks: TaskTracker::new(),
                listeners: Listeners::default(),
                wakes: Mutex::default(),
                rescheduled: Notify::new(),
                running: Mutex::default(),
                doubt_until: Mutex::default(),
                started: AtomicBool::new(false),
            }),
        }
    }

    /// Makes a kind known. Workflows of kinds that this process does not know
    /// are left to others. May be called on any handle, and after the start
    /// (for workflows that need the engine themselves).
    #[must_use]
    pub fn register(self, workflow: Arc<dyn Workflow>) -> Self {
        self.add(workflow);
        self
    }

    /// Like [`Engine::register`], without the chain.
    pub fn add(&self, workflow: Arc<dyn Workflow>) {
        if let Ok(mut kinds) = self.inner.kinds.write() {
            kinds.insert(workflow.kind(), workflow);
        }
        self.nudge();
    }

    /// Accepts a workflow, in the caller's transaction: it exists if and only
    /// if that commits, and starts right after: here, if this process works
    /// and has room, and else wherever it is claimed first.
    ///
    /// `resource` names what it works on (an id). `deadline` is how long it
    /// may take before it is given up and undone.
    ///
    /// # Errors
    /// [`DbError::Other`] for a kind that is not registered.
    pub async fn submit(
        &self,
        txn: &DatabaseTransaction,
        kind: &str,
        resource: &str,
        input: Value,
        ctx: &RequestContext,
        deadline: Duration,
    ) -> Result<WorkflowId, DbError> {
        if !self
            .inner
            .kinds
            .read()
            .is_ok_and(|kinds| kinds.contains_key(kind))
        {
            return Err(DbError::other(format!("unknown workflow kind {kind:?}")));
        }
        let inner = &self.inner;
        let id: WorkflowId = inner.env.id();
        let ahead = Ahead::claim(inner, txn, &id.to_string()).await?;
        let now = || now_expr(inner.db.backend());
        let later = Ord::min(
            i64::try_from(deadline.as_micros()).unwrap_or(NEVER / 4),
            NEVER / 4,
        );
        let row = workflow::Model {
            id: id.to_string(),
            kind: kind.to_owned(),
            resource: resource.to_owned(),
            input: serde_json::to_string(&input)?,
            context: serde_json::to_string(ctx)?,
            trace: trace::current(),
            state: WorkflowState::Running.as_str().to_owned(),
            owner: ahead.as_ref().map(Ahead::owner).unwrap_or_default(),
            epoch: ahead.as_ref().map(Ahead::epoch).unwrap_or_default(),
            step: 0,
            attempt: 0,
            wakes: 0,
            wake_at: 0,
            deadline_at: 0,
            waiting_for: String::new(),
            fault: String::new(),
            cancel: String::new(),
            created_at: 0,
            updated_at: 0,
            finished_at: 0,
        };
        let values: [(&str, SimpleExpr); 20] = [
            ("id", row.id.as_str().into()),
            ("kind", kind.into()),
            ("resource", resource.into()),
            ("input", row.input.as_str().into()),
            ("context", row.context.as_str().into()),
            ("trace", row.trace.as_str().into()),
            ("state", row.state.as_str().into()),
            ("owner", row.owner.as_str().into()),
            ("epoch", row.epoch.into()),
            ("step", row.step.into()),
            ("attempt", row.attempt.into()),
            ("wakes", row.wakes.into()),
            ("wake_at", now()),
            ("deadline_at", now().add(later)),
            ("waiting_for", "".into()),
            ("fault", "".into()),
            ("cancel", "".into()),
            ("created_at", now()),
            ("updated_at", now()),
            ("finished_at", row.finished_at.into()),
        ];
        let (columns, values): (Vec<_>, Vec<_>) = values
            .into_iter()
            .map(|(column, value)| (Alias::new(column), value))
            .unzip();
        let mut insert = Query::insert();
        insert
            .into_table(workflow::Entity)
            .columns(columns)
            .values(values)
            .map_err(DbError::other)?;
        txn.execute(&insert).await?;
        match ahead {
            Some(ahead) => after_commit(move || ahead.begin(row, deadline)),
            None => self.nudge_after_commit(),
        }
        metrics::counter!("yakumo_workflows_submitted_total", "kind" => kind.to_owned())
            .increment(1);
        Ok(id)
    }

    /// What `resource`'s workflows wait for has happened: they look again at
    /// once. One that is just looking looks once more.
    pub async fn wake(&self, txn: &DatabaseTransaction, resource: &str) -> Result<(), DbError> {
        self.wake_all(txn, [resource.to_owned()]).await
    }

    /// Like [`Engine::wake`], for many at once.
    pub async fn wake_all(
        &self,
        txn: &DatabaseTransaction,
        resources: impl IntoIterator<Item = String>,
    ) -> Result<(), DbError> {
        let resources: Vec<String> = resources.into_iter().collect();
        for some in resources.chunks(500) {
            self.wake_some(txn, some).await?;
        }
        Ok(())
    }

    async fn wake_some(
        &self,
        txn: &DatabaseTransaction,
        resources: &[String],
    ) -> Result<(), DbError> {
        let mut update = Query::update();
        update
            .table(workflow::Entity)
            .value(
                workflow::Column::Wakes,
                Expr::col(workflow::Column::Wakes).add(1_i64),
            )
            .value(workflow::Column::WakeAt, now_expr(self.inner.db.backend()))
            .and_where(match resources {
                [one] => workflow::Column::Resource.eq(one),
                some => workflow::Column::Resource.is_in(some),
            })
            .and_where(workflow::Column::FinishedAt.eq(0_i64));
        let woken = txn.execute(&update).await?.rows_affected();
        if woken > 0 {
            let (engine, resources) = (self.clone(), resources.to_vec());
            after_commit(move || {
                let listeners = &engine.inner.listeners;
                let heard: u64 = resources.iter().map(|it| listeners.wake(it)).sum();
                // Where all of them run here, nothing is to be claimed.
                if woken > heard {
                    engine.nudge();
                }
            });
        }
        Ok(())
    }

    /// Gives a running workflow up: after the step that runs, everything is
    /// undone, and `fault` is the reason. No effect on one that is being
    /// undone or has ended.
    pub async fn cancel(
        &self,
        txn: &DatabaseTransaction,
        id: WorkflowId,
        fault: &Fault,
    ) -> Result<(), DbError> {
        let mut update = Query::update();
        update
            .table(workflow::Entity)
            .value(workflow::Column::Cancel, serde_json::to_string(fault)?)
            .value(
                workflow::Column::Wakes,
                Expr::col(workflow::Column::Wakes).add(1_i64),
            )
            .value(workflow::Column::WakeAt, now_expr(self.inner.db.backend()))
            .and_where(workflow::Column::Id.eq(id.to_string()))
            .and_where(workflow::Column::State.eq(WorkflowState::Running.as_str()));
        txn.execute(&update).await?;
        let engine = self.clone();
        after_commit(move || {
            engine.inner.listeners.cancel(&id.to_string());
            engine.nudge();
        });
        Ok(())
    }

    /// One workflow as it stands; nothing once it has been purged.
    pub async fn find(&self, id: WorkflowId) -> Result<Option<WorkflowView>, DbError> {
        workflow::Entity::find_by_id(id.to_string())
            .one(self.inner.db.read())
            .await?
            .map(WorkflowView::try_from)
            .transpose()
    }

    /// Whether a workflow has not ended; it does not until `txn` does.
    pub async fn is_unfinished(txn: &DatabaseTransaction, id: WorkflowId) -> Result<bool, DbError> {
        let mut select = Query::select();
        select
            .column(workflow::Column::Id)
            .from(workflow::Entity)
            .and_where(workflow::Column::Id.eq(id.to_string()))
            .and_where(workflow::Column::FinishedAt.eq(0_i64))
            .lock(LockType::Update);
        Ok(txn.query_one(&select).await?.is_some())
    }

    /// The workflows of a resource, newest first, ended ones included until
    /// they are purged; at most 100.
    pub async fn of_resource(&self, resource: &str) -> Result<Vec<WorkflowView>, DbError> {
        workflow::Entity::find()
            .filter(workflow::Column::Resource.eq(resource))
            .order_by_desc(workflow::Column::CreatedAt)
            .order_by_desc(workflow::Column::Id)
            .limit(100)
            .all(self.inner.db.read())
            .await?
            .into_iter()
            .map(WorkflowView::try_from)
            .collect()
    }

    /// What has not ended, oldest first; for operators.
    pub async fn unfinished(&self, limit: u64) -> Result<Vec<WorkflowView>, DbError> {
        workflow::Entity::find()
            .filter(workflow::Column::FinishedAt.eq(0_i64))
            .order_by_asc(workflow::Column::CreatedAt)
            .order_by_asc(workflow::Column::Id)
            .limit(limit)
            .all(self.inner.db.read())
            .await?
            .into_iter()
            .map(WorkflowView::try_from)
            .collect()
    }

    /// There may be something to do: look now.
    pub fn nudge(&self) {
        self.inner.nudge.notify_one();
    }

    fn nudge_after_commit(&self) {
        let engine = self.clone();
        after_commit(move || engine.nudge());
    }

    /// Starts working, in tasks given to `spawn`, until `shutdown`; then the
    /// steps that run are finished within [`EngineConfig::drain`] and
    /// everything is given back, so that others go on at once.
    ///
    /// ```text
    /// engine.start(&|name, task| process.spawn(name, task), process.shutdown.clone());
    /// ```
    pub fn start(
        &self,
        spawn: &dyn Fn(&'static str, BoxFuture<'static, ()>),
        shutdown: CancellationToken,
    ) {
        if self.inner.started.swap(true, Ordering::SeqCst) {
            warn!("the workflow engine was started twice");
            return;
        }
        let drained = CancellationToken::new();
        spawn(
            "workflow lease",
            Box::pin(lease::keep(Arc::clone(&self.inner), drained.clone())),
        );
        spawn(
            "workflow worker",
            Box::pin(work(Arc::clone(&self.inner), shutdown, drained)),
        );
    }

    /// Ends all work at once and gives nothing back, as a crash would: the
    /// workflows stay owned until the lease runs out.
    #[cfg(debug_assertions)]
    pub fn kill(&self) {
        self.inner.killed.cancel();
    }

    /// Who this worker is to the database, once it has a lease.
    #[cfg(debug_assertions)]
    pub fn worker_id(&self) -> Option<String> {
        self.inner
            .lease
            .worker()
            .map(|worker| worker.id.to_string())
    }
}

impl Inner {
    /// A workflow was put off for `wait`: somebody must look then.
    pub(crate) fn wake_in(&self, wait: Duration) {
        // Rounded up: a look that is a little too early finds nothing.
        let at = self.env.clock.monotonic() + wait + Duration::from_millis(1);
        if let Ok(mut wakes) = self.wakes.lock() {
            wakes.push(Reverse(at));
        }
        self.rescheduled.notify_one();
    }

    /// What the engine's own loops ask of the database, which must not hold them
    /// for longer than the lease bears: a connection whose other end has
    /// vanished says nothing for many minutes, and the next one may work.
    pub(crate) async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, DbError>>,
    ) -> Result<T, DbError> {
        tokio::time::timeout(self.config.lease / 2, work)
            .await
            .unwrap_or(Err(DbError::Unavailable))
    }

    /// Doubling pauses, a quarter more or less so that those who failed
    /// together do not come back together.
    pub(crate) fn backoff(&self, attempt: u32) -> Duration {
        let config = &self.config;
        let pause = config
            .first_backoff
            .saturating_mul(2_u32.saturating_pow(Ord::min(attempt.saturating_sub(1), 20)))
            .min(config.max_backoff);
        pause - pause / 4 + self.env.rng.within(pause / 2)
    }

    /// Room for one more workflow, if this process may take one just now.
    pub(crate) fn room(&self) -> Option<OwnedSemaphorePermit> {
        if self.draining.is_cancelled() || self.killed.is_cancelled() {
            return None;
        }
        Arc::clone(&self.slots).try_acquire_owned().ok()
    }

    /// Runs a workflow that now belongs to this process.
    pub(crate) fn begin(self: &Arc<Self>, claimed: Claimed, room: OwnedSemaphorePermit) {
        let id = claimed.row.id.clone();
        self.remember(&id);
        let inner = Arc::clone(self);
        self.tasks.spawn(async move {
            run::drive(Arc::clone(&inner), claimed).await;
            inner.forget(&id);
            drop(room);
        });
    }

    /// Whether a commit went through may stay unknown, and so whether a
    /// workflow came with it.
    pub(crate) fn doubt(&self) {
        let until = self.env.clock.monotonic() + DOUBT;
        if let Ok(mut doubt_until) = self.doubt_until.lock() {
            *doubt_until = until;
        }
    }

    fn is_in_doubt(&self) -> bool {
        let now = self.env.clock.monotonic();
        self.doubt_until.lock().is_ok_and(|until| *until > now)
    }

    /// Those among `ids` that this process does not know of.
    pub(crate) fn unknown_of(&self, mut ids: Vec<String>) -> Vec<String> {
        match self.running.lock() {
            Ok(running) => ids.retain(|id| !running.contains(id)),
            Err(_) => ids.clear(),
        }
        ids
    }

    pub(crate) fn remember(&self, id: &str) {
        if let Ok(mut running) = self.running.lock() {
            running.insert(id.to_owned());
        }
    }

    pub(crate) fn forget(&self, id: &str) {
        if let Ok(mut running) = self.running.lock() {
            running.remove(id);
        }
    }

    /// Time until the next wake-up that this process knows of. Drops those
    /// that are due.
    fn until_next_wake(&self) -> (bool, Duration) {
        let now = self.env.clock.monotonic();
        let mut due = false;
        let mut wait = self.config.poll_every;
        if let Ok(mut wakes) = self.wakes.lock() {
            while let Some(Reverse(at)) = wakes.peek().copied() {
                if at > now {
                    wait = wait.min(at - now);
                    break;
                }
                due = true;
                wakes.pop();
            }
        }
        (due, wait)
    }

    pub(crate) fn workflow(&self, kind: &str) -> Option<Arc<dyn Workflow>> {
        self.kinds.read().ok()?.get(kind).cloned()
    }

    fn known_kinds(&self) -> Vec<&'static str> {
        self.kinds
            .read()
            .map(|kinds| kinds.keys().copied().collect())
            .unwrap_or_default()
    }

    /// Claims up to `limit` workflows; nothing without a lease.
    async fn claim(&self, limit: usize) -> Result<Vec<Claimed>, DbError> {
        let kinds = self.known_kinds();
        let Some(worker) = self.lease.worker() else {
            return Ok(Vec::new());
        };
        if kinds.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        claim::claim(self, &worker, kinds, limit).await
    }
}

/// Most workflows claimed in one transaction.
const BATCH: usize = 64;

/// How long a commit may still go through that nobody waits for any more:
/// longer than databases are waited for.
const DOUBT: Duration = Duration::from_secs(60);

async fn work(inner: Arc<Inner>, shutdown: CancellationToken, drained: CancellationToken) {
    tokio::select! {
        biased;
        () = inner.killed.cancelled() => {}
        () = shutdown.cancelled() => {
            inner.draining.cancel();
            inner.tasks.close();
            if tokio::time::timeout(inner.config.drain, inner.tasks.wait()).await.is_err() {
                warn!(running = inner.tasks.len(), "workflow steps were cut off by the end of the process");
                inner.killed.cancel();
                inner.tasks.wait().await;
            }
        }
        () = dispatch(&inner) => {}
    }
    drained.cancel();
}

async fn dispatch(inner: &Arc<Inner>) {
    // Whether something said that there is work; otherwise a read comes first,
    // so that an idle service writes nothing.
    let mut expected = true;
    loop {
        let Ok(permit) = Arc::clone(&inner.slots).acquire_owned().await else {
            return;
        };
        drop(permit);
        let limit = inner.slots.available_permits().min(BATCH);
        let claimed = match inner.in_time(look(inner, expected, limit)).await {
            Ok(claimed) => claimed,
            Err(error) => {
                warn!(%error, "cannot look for workflows");
                inner.doubt();
                inner.env.clock.sleep(Duration::from_millis(500)).await;
                expected = true;
                continue;
            }
        };
        let full = limit > 0 && claimed.len() == limit;
        for one in claimed {
            let Ok(permit) = Arc::clone(&inner.slots).acquire_owned().await else {
                return;
            };
            inner.begin(one, permit);
        }
        expected = full || something_to_do(inner).await;
    }
}

/// Waits until it is worth looking; returns whether there surely is a reason.
async fn something_to_do(inner: &Inner) -> bool {
    loop {
        let (due, wait) = inner.until_next_wake();
        if due {
            return true;
        }
        tokio::select! {
            biased;
            () = inner.nudge.notified() => return true,
            () = inner.rescheduled.notified() => {}
            () = inner.env.clock.sleep(wait) => {
                if wait >= inner.config.poll_every {
                    return false;
                }
            }
        }
    }
}

async fn look(inner: &Inner, expected: bool, limit: usize) -> Result<Vec<Claimed>, DbError> {
    if inner.is_in_doubt()
        && let Some(worker) = inner.lease.worker()
    {
        claim::release_unknown(inner, &worker).await?;
    }
    if !expected && !claim::anything(inner).await? {
        return Ok(Vec::new());
    }
    inner.claim(limit).await
}
