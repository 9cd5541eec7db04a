//! The handle on a database, and transactions that change it.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng as _;
use sea_orm::{DatabaseConnection, DatabaseTransaction, TransactionTrait};
use sea_orm_migration::MigratorTrait;
use tracing::{debug, error, warn};

use crate::backend::Backend;
use crate::config::DbConfig;
use crate::connect;
use crate::error::DbError;
use crate::hooks::Hooks;
use crate::source::Source;
use crate::sqlite::Writer;

use crate::migrate::MigrationState;

/// How often a transaction that lost a race is run again.
const MAX_RETRIES: u32 = 10;

/// A database; a cheap handle.
#[derive(Clone)]
pub struct Db {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Backend,
    readers: DatabaseConnection,
    writer: Option<Writer>,
    transaction_timeout: Duration,
    config: DbConfig,
    writes: AtomicU64,
}

impl fmt::Debug for Db {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Db({})", self.inner.backend.name())
    }
}

impl Db {
    /// Connects. A database that does not answer is [`DbError::Unavailable`]
    /// after `acquire_timeout`; one that goes away later comes back by itself.
    pub async fn connect(config: &DbConfig) -> Result<Self, DbError> {
        let backend = config.url.backend()?;
        let (readers, writer) = match backend {
            Backend::Sqlite => {
                // The writer first: it makes the file and turns WAL on.
                let source = Source::File(config.clone());
                let writer = Writer::start(source, config.statement_timeout).await?;
                (connect::sqlite_readers(config).await?, Some(writer))
            }
            Backend::Postgres => (connect::postgres(config).await?, None),
            Backend::Mysql => (connect::mysql(config).await?, None),
        };
        let db = Self {
            inner: Arc::new(Inner {
                backend,
                readers,
                writer,
                transaction_timeout: config.statement_timeout,
                config: config.clone(),
                writes: AtomicU64::new(0),
            }),
        };
        if backend == Backend::Sqlite {
            db.learn_indexes().await?;
        }
        Ok(db)
    }

    /// Connects, and brings the schema up to date.
    ///
    /// # Errors
    /// Those of [`Db::connect`] and [`Db::migrate`].
    pub async fn open<M: MigratorTrait>(config: &DbConfig) -> Result<Self, DbError> {
        let db = Self::connect(config).await?;
        db.migrate::<M>().await?;
        Ok(db)
    }

    /// A handle whose reads and writes are a simulation's.
    pub(crate) async fn over(readers: DatabaseConnection, source: Source) -> Result<Self, DbError> {
        let config = DbConfig::default();
        Ok(Self {
            inner: Arc::new(Inner {
                backend: Backend::Sqlite,
                readers,
                writer: Some(Writer::start(source, config.statement_timeout).await?),
                transaction_timeout: config.statement_timeout,
                config,
                writes: AtomicU64::new(0),
            }),
        })
    }

    /// Which database this is.
    pub fn backend(&self) -> Backend {
        self.inner.backend
    }

    /// Connections for reading; every statement stands alone. On SQLite they
    /// refuse to write. What [`Db::write`] has committed is seen.
    pub fn read(&self) -> &DatabaseConnection {
        &self.inner.readers
    }

    /// Runs `change` in one transaction and commits it, if it returns `Ok`;
    /// any error rolls everything back.
    ///
    /// `change` may run more than once (deadlock, serialisation failure, lost
    /// connection before the commit), so it must do nothing but use the
    /// transaction: no RPC, no waiting for anything else, no state outside.
    /// Use [`crate::after_commit`] for what follows. An error of a statement
    /// must end the transaction; [`crate::attempt`] is for those that need not.
    ///
    /// On SQLite, all changes that wait at the same time share one commit, so
    /// a change must not call [`Db::write`] itself (it would wait for itself).
    ///
    /// # Errors
    /// What `change` returned; [`DbError::Contended`] if it lost every race;
    /// [`DbError::Unavailable`] if the database is away or too slow. After a
    /// connection lost during the commit itself nobody can know whether it
    /// happened, so that is not run again.
    pub async fn write<T, F>(&self, change: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<T, DbError>>
            + Send
            + Sync
            + 'static,
    {
        let outcome = match &self.inner.writer {
            Some(writer) => writer.write(change).await,
            None => self.write_pooled(change).await,
        };
        // A failed one may have been committed all the same.
        self.inner.writes.fetch_add(1, Ordering::AcqRel);
        outcome
    }

    /// How many changes this handle and its clones have made or tried. What
    /// was read at one count is what this process wrote, as long as the count
    /// is the same; others may have written.
    pub fn writes(&self) -> u64 {
        self.inner.writes.load(Ordering::Acquire)
    }

    async fn write_pooled<T, F>(&self, change: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<T, DbError>>
            + Send
            + Sync
            + 'static,
    {
        let mut retries = 0;
        let started = tokio::time::Instant::now();
        loop {
            let hooks = Hooks::default();
            let attempt = hooks.collect(self.transaction(&change));
            let (error, again) =
                match tokio::time::timeout(self.inner.transaction_timeout, attempt).await {
                    Ok(Ok(value)) => {
                        hooks.run();
                        return Ok(value);
                    }
                    Ok(Err(failure)) => failure,
                    Err(_) => {
                        warn!("a transaction took too long and was given up");
                        (DbError::Unavailable, Again::No)
                    }
                };
            let limit = match again {
                Again::No => return Err(error),
                Again::LostRace => MAX_RETRIES,
                // Several idle connections may have died together.
                Again::LostConnection => 3,
            };
            // Waiting for a lock may have used the time up as well.
            if retries >= limit || started.elapsed() >= self.inner.transaction_timeout {
                return Err(error);
            }
            retries += 1;
            metrics::counter!("yakumo_db_retries_total", "backend" => self.inner.backend.name())
                .increment(1);
            debug!(retries, %error, "running a transaction again");
            pause(retries).await;
        }
    }

    async fn transaction<T, F>(&self, change: &F) -> Result<T, (DbError, Again)>
    where
        F: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<T, DbError>>,
    {
        let again = |error: DbError| {
            let again = match error {
                DbError::Contended => Again::LostRace,
                DbError::Unavailable => Again::LostConnection,
                _ => Again::No,
            };
            (error, again)
        };
        let txn = match self.inner.readers.begin().await {
            Ok(txn) => txn,
            // Waiting for a connection has used the time up already.
            Err(sea_orm::DbErr::ConnectionAcquire(_)) => {
                return Err((DbError::Unavailable, Again::No));
            }
            Err(error) => return Err(again(error.into())),
        };
        let outcome = AssertUnwindSafe(change(&txn)).catch_unwind().await;
        match outcome.unwrap_or_else(|_| Err(panicked())) {
            Ok(value) => match txn.commit().await.map_err(DbError::from) {
                Ok(()) => Ok(value),
                Err(DbError::Contended) => Err((DbError::Contended, Again::LostRace)),
                Err(DbError::Other(reason)) => {
                    // Every statement was fine, and still the server does not
                    // keep them: that is its trouble and not the client's.
                    error!(reason, "the database refuses to commit");
                    Err((DbError::Unavailable, Again::No))
                }
                Err(error) => Err((error, Again::No)),
            },
            Err(error) => {
                // Dropping rolls back too; a failure here changes nothing.
                let _ = txn.rollback().await;
                Err(again(error))
            }
        }
    }

    /// Brings the schema up to date. Several processes may do so at the same
    /// time, and again.
    ///
    /// # Errors
    /// [`DbError::Other`] if the database has migrations that this program
    /// does not know: it was written by a newer release.
    pub async fn migrate<M: MigratorTrait>(&self) -> Result<(), DbError> {
        if let Some(writer) = &self.inner.writer {
            crate::migrate::sqlite::<M>(writer).await?;
            return self.learn_indexes().await;
        }
        let pool = self.connect_aside().await?;
        let result = match self.inner.backend {
            Backend::Mysql => crate::migrate::mysql::<M>(&pool).await,
            _ => crate::migrate::postgres::<M>(&pool).await,
        };
        let _ = pool.close().await;
        result
    }

    /// A few connections that are thrown away afterwards. PostgreSQL refuses a
    /// prepared statement for good once the type of one of its columns has
    /// changed, so connections that saw a schema change must not be kept.
    async fn connect_aside(&self) -> Result<DatabaseConnection, DbError> {
        let config = DbConfig {
            max_connections: 3,
            ..self.inner.config.clone()
        };
        match self.inner.backend {
            Backend::Sqlite => connect::sqlite_readers(&config).await,
            Backend::Postgres => connect::postgres(&config).await,
            Backend::Mysql => connect::mysql(&config).await,
        }
    }

    /// Which migrations of `M` the database has; changes nothing.
    pub async fn migration_states<M: MigratorTrait>(&self) -> Result<Vec<MigrationState>, DbError> {
        let pool = self.connect_aside().await?;
        let states = crate::migrate::states::<M>(&pool).await;
        let _ = pool.close().await;
        states
    }

    /// Whether the database answers, and takes changes.
    ///
    /// # Errors
    /// [`DbError::ReadOnly`] if it answers and takes none.
    pub async fn ping(&self) -> Result<(), DbError> {
        let bound = self.inner.transaction_timeout;
        let asked = async {
            self.inner.readers.ping().await?;
            match &self.inner.writer {
                Some(writer) => writer.write(|_| Box::pin(async { Ok(()) })).await,
                None => crate::migrate::touch(&self.inner.readers).await,
            }
        };
        tokio::time::timeout(bound, asked)
            .await
            .map_err(|_| DbError::Unavailable)?
    }

    /// Asks the database again and again whether it answers, for whoever keeps
    /// the health of a process.
    pub fn pinger(&self) -> impl FnMut() -> BoxFuture<'static, Result<(), DbError>> + Send + use<> {
        let db = self.clone();
        move || {
            let db = db.clone();
            Box::pin(async move { db.ping().await })
        }
    }

    /// Ends all connections; what is under way is finished. Later use of any
    /// handle fails.
    pub async fn close(&self) {
        if let Some(writer) = &self.inner.writer {
            writer.close().await;
        }
        let _ = self.inner.readers.close_by_ref().await;
    }

    async fn learn_indexes(&self) -> Result<(), DbError> {
        let found = crate::migrate::sqlite_indexes(&self.inner.readers).await?;
        crate::error::learn_indexes(found);
        Ok(())
    }
}

enum Again {
    No,
    LostRace,
    LostConnection,
}

pub(crate) fn panicked() -> DbError {
    error!("a transaction panicked and was rolled back");
    DbError::Other("a transaction panicked".into())
}

/// Waits before another attempt: doubling from 2 ms to 250 ms, and at random,
/// so that those that met do not meet again.
async fn pause(retries: u32) {
    let ceiling = 2_u64.saturating_pow(retries).min(250);
    // A handle on a database has no `Env`.
    // tidy: allow chance: the order in which transactions meet is chance already
    let wait = Duration::from_millis(rand::rng().random_range(ceiling / 2..=ceiling));
    // The future never ends; what is wanted is the time limit.
    let _ = tokio::time::timeout(wait, std::future::pending::<()>()).await;
}
