//! A database for simulations: SQLite in memory, asked synchronously, so that
//! a run depends on nothing but its seed. It is behind sea-orm's mock, and
//! [`Db`] in front of it is the real one, with its writer and its hooks.
//!
//! One [`SimulatedStore`] is one database server; each process that uses it
//! has a [`Link`] of its own. A transaction happens in one moment, and so does a
//! reading: nobody could tell whether more time has passed between two of their
//! statements. Time passes before a transaction, and after its commit, until
//! the answer arrives. `unixepoch` tells the time of the simulation.
//!
//! What can go wrong: a statement that is not answered; a connection that dies
//! before its commit or after it, which look the same from outside; and a link
//! that is cut ([`Link::cut`]) or whose process dies while an answer is on the
//! way.

mod connection;
mod values;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, MAIN_DB};
use sea_orm::{DatabaseConnection, DatabaseConnectionType, MockDatabaseConnection};
use yakumo_types::Env;

use self::connection::{Access, SimulatedConnection, gone};
use crate::error::DbError;
use crate::source::Source;
use crate::write::Db;

/// The longest that a way takes which is not slow.
const QUICK: Duration = Duration::from_millis(2);

/// What goes wrong by chance, each in thousandths.
#[derive(Debug, Clone, Default)]
pub struct StoreFaults {
    /// A statement that the connection does not survive.
    pub statement: u64,
    /// The connection dies and the commit did not happen.
    pub before_commit: u64,
    /// The connection dies and the commit did happen.
    pub after_commit: u64,
    /// What takes up to [`StoreFaults::slow_by`] instead of next to nothing.
    pub slow: u64,
    /// The longest that something slow takes.
    pub slow_by: Duration,
}

/// Hears of everything that a store does, for the simulation's log.
pub type Watch = Arc<dyn Fn(&str) + Send + Sync>;

/// One simulated database server; a cheap handle.
#[derive(Clone)]
pub struct SimulatedStore {
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    env: Env,
    watch: Watch,
    sqlite: Mutex<Connection>,
    faults: Mutex<StoreFaults>,
}

/// A database's content, to start others from.
#[derive(Clone)]
pub struct Template(Vec<u8>);

impl fmt::Debug for SimulatedStore {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "SimulatedStore({})", self.shared.name)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimulatedStore {
    /// A database without a schema. Time and chance are those of `env`.
    ///
    /// # Errors
    /// [`DbError::Other`] if SQLite refuses.
    pub fn empty(name: &'static str, env: Env, watch: Watch) -> Result<Self, DbError> {
        let sqlite = Connection::open_in_memory().map_err(DbError::other)?;
        sqlite
            .execute_batch("PRAGMA foreign_keys = ON; PRAGMA temp_store = memory")
            .map_err(DbError::other)?;
        sqlite.set_prepared_statement_cache_capacity(512);
        let clock = Arc::clone(&env.clock);
        // Milliseconds, as SQLite's own.
        let now = move |_: &rusqlite::functions::Context<'_>| {
            Ok((clock.now().as_micros() / 1000) as f64 / 1000.0)
        };
        sqlite
            .create_scalar_function("unixepoch", 1, FunctionFlags::SQLITE_UTF8, now)
            .map_err(DbError::other)?;
        Ok(Self {
            shared: Arc::new(Shared {
                name,
                env,
                watch,
                sqlite: Mutex::new(sqlite),
                faults: Mutex::default(),
            }),
        })
    }

    /// A database with the content of another one.
    ///
    /// # Errors
    /// [`DbError::Other`] if SQLite refuses.
    pub fn copy_of(
        template: &Template,
        name: &'static str,
        env: Env,
        watch: Watch,
    ) -> Result<Self, DbError> {
        let store = Self::empty(name, env, watch)?;
        let bytes = template.0.as_slice();
        lock(&store.shared.sqlite)
            .deserialize_read_exact(MAIN_DB, bytes, bytes.len(), false)
            .map_err(DbError::other)?;
        Ok(store)
    }

    /// What is in it now.
    ///
    /// # Errors
    /// [`DbError::Other`] if SQLite refuses.
    pub fn template(&self) -> Result<Template, DbError> {
        let bytes = lock(&self.shared.sqlite)
            .serialize(MAIN_DB)
            .map_err(DbError::other)?
            .to_vec();
        Ok(Template(bytes))
    }

    /// A process's way to this database. To be called within its runtime, with
    /// which the writer ends.
    ///
    /// # Errors
    /// Those of [`Db::connect`].
    pub async fn open(&self) -> Result<(Db, Link), DbError> {
        let link = Link {
            store: Arc::clone(&self.shared),
            writer: Arc::default(),
        };
        let readers = connect(Arc::new(SimulatedConnection::new(
            Arc::clone(&self.shared),
            Access::Read,
        )));
        let db = Db::over(readers, Source::Simulated(link.clone())).await?;
        Ok((db, link))
    }

    /// What goes wrong from here on.
    pub fn set_faults(&self, faults: StoreFaults) {
        *lock(&self.shared.faults) = faults;
    }

    /// All rows as texts, for whoever checks a simulation's outcome:
    /// takes no time and goes past every fault.
    ///
    /// # Errors
    /// [`DbError::Other`] if SQLite refuses.
    pub fn peek(&self, sql: &str) -> Result<Vec<Vec<String>>, DbError> {
        values::peek(&lock(&self.shared.sqlite), sql).map_err(DbError::other)
    }
}

fn connect(connection: Arc<SimulatedConnection>) -> DatabaseConnection {
    let mock = MockDatabaseConnection::new(connection::Mock::new(connection));
    DatabaseConnectionType::MockDatabaseConnection(Arc::new(mock)).into()
}

impl Shared {
    fn chance(&self, of: impl Fn(&StoreFaults) -> u64) -> bool {
        let thousandths = of(&lock(&self.faults));
        thousandths > 0 && self.env.rng.below(1000) < thousandths
    }

    /// The time that a way takes.
    async fn takes(&self) {
        let slow_by = lock(&self.faults).slow_by;
        let slow = self.chance(|faults| faults.slow);
        let longest = if slow { slow_by } else { QUICK };
        self.env.clock.sleep(self.env.rng.within(longest)).await;
    }
}

/// One process's way to a store.
#[derive(Clone)]
pub struct Link {
    store: Arc<Shared>,
    writer: Arc<Mutex<Option<Arc<SimulatedConnection>>>>,
}

impl fmt::Debug for Link {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Link({})", self.store.name)
    }
}

impl Link {
    /// The connection that writes ends: whoever waits for its answer gets none.
    pub fn cut(&self) {
        if let Some(connection) = lock(&self.writer).as_ref() {
            connection.break_off("is cut");
        }
    }

    pub(crate) fn connect_writer(&self) -> DatabaseConnection {
        let connection = Arc::new(SimulatedConnection::new(
            Arc::clone(&self.store),
            Access::Write,
        ));
        *lock(&self.writer) = Some(Arc::clone(&connection));
        connect(connection)
    }

    pub(crate) async fn ready(&self) -> Result<(), DbError> {
        self.store.takes().await;
        self.alive()
    }

    pub(crate) async fn verdict(&self) -> Result<(), DbError> {
        self.store.takes().await;
        if self.store.chance(|faults| faults.after_commit)
            && let Some(connection) = lock(&self.writer).as_ref()
        {
            connection.break_off("dies, perhaps after its commit");
        }
        self.alive()
    }

    fn alive(&self) -> Result<(), DbError> {
        match lock(&self.writer).as_ref() {
            Some(connection) if connection.is_broken() => Err(DbError::from(gone())),
            _ => Ok(()),
        }
    }
}
