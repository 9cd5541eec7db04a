//! SQLite's one writer.
//!
//! A task owns the only connection that writes. It takes the changes that
//! wait, runs one after the other inside a single `BEGIN IMMEDIATE … COMMIT`
//! and answers all of them after the commit: one fsync for everybody who came
//! while the last one was under way. If the commit fails, all have failed, and
//! each is told so.
//!
//! Changes rarely fail, so a group runs without savepoints at first. If one
//! does fail, everything is rolled back and the group runs again, each change
//! in a savepoint of its own: the failing one then undoes itself and nothing
//! else.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use sea_orm::{
    DatabaseConnection, DatabaseTransaction, SqliteTransactionMode, TransactionOptions,
    TransactionTrait,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{Instrument, Span, error, warn};

use crate::error::DbError;
use crate::hooks::Hooks;
use crate::source::Source;
use crate::write::panicked;

/// Changes that may wait; beyond that, callers wait to be let in.
const QUEUE: usize = 4096;
/// Changes under one commit.
const MAX_GROUP: usize = 512;
/// A group takes no more changes after this long, so that the first ones are
/// not kept waiting by those that came late.
const MAX_GROUP_TIME: Duration = Duration::from_millis(50);

/// The way to the writer task, which ends with the last of these.
#[derive(Clone)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Message>,
}

enum Message {
    Change(Box<dyn Change>),
    Close(oneshot::Sender<()>),
}

/// One change with its result, whatever the type of that.
trait Change: Send {
    /// Runs the change and keeps its result.
    fn run<'t>(&'t mut self, txn: &'t DatabaseTransaction) -> BoxFuture<'t, Result<(), DbError>>;
    /// The caller's span and how long it may take.
    fn frame(&self) -> (Span, Duration);
    /// Whether nobody waits for the result any more.
    fn abandoned(&self) -> bool;
    /// Tells the caller how it ended.
    fn finish(self: Box<Self>, outcome: Result<(), DbError>);
}

struct Pending<T, F> {
    change: F,
    value: Option<T>,
    hooks: Hooks,
    span: Span,
    limit: Duration,
    reply: oneshot::Sender<Result<T, DbError>>,
}

impl<T, F> Change for Pending<T, F>
where
    T: Send + 'static,
    F: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<T, DbError>>
        + Send
        + Sync
        + 'static,
{
    fn run<'t>(&'t mut self, txn: &'t DatabaseTransaction) -> BoxFuture<'t, Result<(), DbError>> {
        Box::pin(async move {
            // Nothing is left of a run that was rolled back.
            self.hooks = Hooks::default();
            self.value = None;
            let value = self.hooks.clone().collect((self.change)(txn)).await?;
            self.value = Some(value);
            Ok(())
        })
    }

    fn frame(&self) -> (Span, Duration) {
        (self.span.clone(), self.limit)
    }

    fn abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn finish(self: Box<Self>, outcome: Result<(), DbError>) {
        let Self {
            change,
            value,
            hooks,
            reply,
            ..
        } = *self;
        // What the change holds must be free again when the caller goes on.
        drop(change);
        let result = match (outcome, value) {
            (Ok(()), Some(value)) => {
                hooks.run();
                Ok(value)
            }
            (Ok(()), None) => Err(DbError::other("a change has no result")),
            (Err(error), _) => Err(error),
        };
        // Nobody may be waiting any more.
        let _ = reply.send(result);
    }
}

impl Writer {
    /// `limit` is how long one change may take.
    pub(crate) async fn start(source: Source, limit: Duration) -> Result<Self, DbError> {
        let connection = source.connect().await?;
        let (queue, messages) = mpsc::channel(QUEUE);
        let task = Task {
            limit,
            source,
            connection: Some(connection),
            messages,
        };
        tokio::spawn(task.run());
        Ok(Self { queue })
    }

    pub(crate) async fn write<T, F>(&self, change: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<T, DbError>>
            + Send
            + Sync
            + 'static,
    {
        self.write_within(None, change).await
    }

    /// Like `write`, for changes that take longer than a request may.
    pub(crate) async fn write_within<T, F>(
        &self,
        limit: Option<Duration>,
        change: F,
    ) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<T, DbError>>
            + Send
            + Sync
            + 'static,
    {
        let (reply, result) = oneshot::channel();
        let pending = Pending {
            change,
            value: None,
            hooks: Hooks::default(),
            span: Span::current(),
            limit: limit.unwrap_or(Duration::ZERO),
            reply,
        };
        self.queue
            .send(Message::Change(Box::new(pending)))
            .await
            .map_err(|_| DbError::Unavailable)?;
        result.await.map_err(|_| DbError::Unavailable)?
    }

    pub(crate) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.send(Message::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }
}

struct Task {
    source: Source,
    limit: Duration,
    connection: Option<DatabaseConnection>,
    messages: mpsc::Receiver<Message>,
}

/// Changes that have run and wait for the commit.
type Done = Vec<(Box<dyn Change>, Result<(), DbError>)>;

impl Task {
    async fn run(mut self) {
        let mut closing = None;
        while closing.is_none() {
            match self.messages.recv().await {
                Some(Message::Change(first)) => self.group(first, &mut closing).await,
                Some(Message::Close(done)) => closing = Some(done),
                None => break,
            }
        }
        self.messages.close();
        while let Ok(message) = self.messages.try_recv() {
            if let Message::Change(change) = message {
                change.finish(Err(DbError::Unavailable));
            }
        }
        if let Some(connection) = self.connection.take() {
            let _ = connection.close().await;
        }
        if let Some(done) = closing {
            let _ = done.send(());
        }
    }

    /// Runs everything that waits, `first` first, and commits once.
    async fn group(&mut self, first: Box<dyn Change>, closing: &mut Option<oneshot::Sender<()>>) {
        if first.abandoned() {
            return;
        }
        let txn = match self.begin().await {
            Ok(txn) => txn,
            Err(error) => return first.finish(Err(error)),
        };
        let started = Instant::now();
        let mut done: Vec<Box<dyn Change>> = Vec::new();
        let mut next = Some(first);
        while let Some(mut change) = next.take() {
            if let Err(error) = execute(&mut *change, &txn, self.limit).await {
                self.roll_back(txn).await;
                return self.after_failure(done, change, error).await;
            }
            done.push(change);
            if done.len() < MAX_GROUP && started.elapsed() < MAX_GROUP_TIME {
                next = self.waiting(closing);
            }
        }
        let done = done.into_iter().map(|change| (change, Ok(()))).collect();
        self.commit(txn, done).await;
    }

    /// The next change that somebody still waits for, if there is one already.
    fn waiting(&mut self, closing: &mut Option<oneshot::Sender<()>>) -> Option<Box<dyn Change>> {
        loop {
            match self.messages.try_recv().ok()? {
                Message::Change(change) if change.abandoned() => {}
                Message::Change(change) => return Some(change),
                Message::Close(sender) => {
                    *closing = Some(sender);
                    return None;
                }
            }
        }
    }

    /// `failed` took with it what `done` had done in the same transaction.
    async fn after_failure(
        &mut self,
        mut done: Vec<Box<dyn Change>>,
        failed: Box<dyn Change>,
        error: DbError,
    ) {
        // A refusal counts only if what it was based on is committed; but what
        // took too long or panicked is not tried twice.
        let is_final = matches!(error, DbError::Unavailable | DbError::Other(_));
        if done.is_empty() || is_final {
            failed.finish(Err(error));
        } else {
            done.push(failed);
        }
        if !done.is_empty() {
            self.one_by_one(done).await;
        }
    }

    /// Runs changes, each in a savepoint, and commits once.
    async fn one_by_one(&mut self, changes: Vec<Box<dyn Change>>) {
        let txn = match self.begin().await {
            Ok(txn) => txn,
            Err(error) => {
                for change in changes {
                    change.finish(Err(error.clone()));
                }
                return;
            }
        };
        let mut done: Done = Vec::new();
        let mut broken = None;
        for mut change in changes {
            if broken.is_none() {
                match in_savepoint(&mut *change, &txn, self.limit).await {
                    Ok(outcome) => {
                        done.push((change, outcome));
                        continue;
                    }
                    // SQLite itself has rolled everything back (disk full, I/O error).
                    Err(error) => broken = Some(error),
                }
            }
            done.push((change, Ok(())));
        }
        match broken {
            None => self.commit(txn, done).await,
            Some(error) => {
                drop(txn);
                self.discard(&error).await;
                for (change, _) in done {
                    change.finish(Err(DbError::Unavailable));
                }
            }
        }
    }

    /// Commits and tells everybody.
    async fn commit(&mut self, txn: DatabaseTransaction, done: Done) {
        metrics::histogram!("yakumo_db_group_size").record(done.len() as f64);
        let committed = match txn.commit().await {
            Ok(()) => self.source.verdict().await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = &committed {
            self.discard(error).await;
        }
        for (change, outcome) in done {
            change.finish(match &committed {
                Ok(()) => outcome,
                Err(_) => Err(DbError::Unavailable),
            });
        }
    }

    async fn roll_back(&mut self, txn: DatabaseTransaction) {
        if let Err(cause) = txn.rollback().await {
            self.discard(&DbError::from(cause)).await;
        }
    }

    async fn begin(&mut self) -> Result<DatabaseTransaction, DbError> {
        let mut last = DbError::Unavailable;
        for _ in 0..2 {
            if self.connection.is_none() {
                self.connection = Some(self.source.connect().await?);
            }
            let Some(connection) = &self.connection else {
                break;
            };
            let options = TransactionOptions {
                sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
                ..TransactionOptions::default()
            };
            let begun = match self.source.ready().await {
                Ok(()) => connection
                    .begin_with_options(options)
                    .await
                    .map_err(DbError::from),
                Err(error) => Err(error),
            };
            match begun {
                Ok(txn) => return Ok(txn),
                Err(error) => last = error,
            }
            // Another process holds the file: that is no fault of the connection.
            if !matches!(last, DbError::Contended) {
                self.discard(&last).await;
            }
        }
        Err(match last {
            DbError::Contended => DbError::Unavailable,
            error => error,
        })
    }

    /// Drops a connection whose state is not known any more.
    async fn discard(&mut self, reason: &DbError) {
        warn!(%reason, "opening SQLite's writer anew");
        if let Some(connection) = self.connection.take() {
            let bound = Duration::from_secs(5);
            if tokio::time::timeout(bound, connection.close())
                .await
                .is_err()
            {
                error!("SQLite's writer did not end");
            }
        }
    }
}

async fn in_savepoint(
    change: &mut dyn Change,
    txn: &DatabaseTransaction,
    limit: Duration,
) -> Result<Result<(), DbError>, DbError> {
    let savepoint = txn.begin().await?;
    let outcome = execute(change, &savepoint, limit).await;
    match &outcome {
        Ok(()) => savepoint.commit().await?,
        Err(_) => savepoint.rollback().await?,
    }
    Ok(outcome)
}

/// Runs one change. A panic or a change that never ends must not take the
/// writer with it.
async fn execute(
    change: &mut dyn Change,
    txn: &DatabaseTransaction,
    limit: Duration,
) -> Result<(), DbError> {
    let (span, own_limit) = change.frame();
    let run = AssertUnwindSafe(change.run(txn).instrument(span)).catch_unwind();
    match tokio::time::timeout(limit.max(own_limit), run).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(panicked()),
        Err(_) => {
            error!("a change kept SQLite's writer too long and was given up");
            Err(DbError::Unavailable)
        }
    }
}
