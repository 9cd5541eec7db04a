//! One connection to a simulated store: at most one transaction, which happens
//! in one moment, and the moments at which the connection can be lost.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Error, ErrorKind};
use std::sync::{Arc, Mutex};

use sea_orm::sea_query::Value;
use sea_orm::{
    DbBackend, DbErr, ExecResult, MockDatabase, MockDatabaseTrait, MockExecResult, QueryResult,
    RuntimeErr, Statement, Transaction, sqlx,
};

use super::values::{self, Done};
use super::{Shared, lock};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

pub(super) struct SimulatedConnection {
    store: Arc<Shared>,
    access: Access,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// 0 without a transaction; one more for each savepoint.
    depth: usize,
    broken: bool,
}

/// The connection is lost; nobody can know how far its last word came.
pub(super) fn gone() -> DbErr {
    let error = sqlx::Error::Io(Error::from(ErrorKind::ConnectionReset));
    DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error)))
}

impl SimulatedConnection {
    pub(super) fn new(store: Arc<Shared>, access: Access) -> Self {
        Self {
            store,
            access,
            state: Mutex::default(),
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        lock(&self.state).broken
    }

    /// The connection ends, and with it its transaction.
    pub(super) fn break_off(&self, how: &str) {
        let mut state = lock(&self.state);
        if state.broken {
            return;
        }
        self.note(format_args!("a connection {how}"));
        if state.depth > 0 {
            self.plain("ROLLBACK");
        }
        *state = State {
            depth: 0,
            broken: true,
        };
    }

    fn note(&self, what: fmt::Arguments<'_>) {
        (self.store.watch)(&what.to_string());
    }

    /// A statement of the connection itself, which cannot fail in memory.
    fn plain(&self, sql: &str) {
        self.note(format_args!("{sql}"));
        if let Err(error) = lock(&self.store.sqlite).execute_batch(sql) {
            self.note(format_args!("{sql} failed: {error}"));
        }
    }

    fn begin(&self) {
        let mut state = lock(&self.state);
        if state.broken {
            return;
        }
        match state.depth {
            0 => self.plain("BEGIN IMMEDIATE"),
            level => self.plain(&format!("SAVEPOINT s{level}")),
        }
        state.depth += 1;
    }

    fn commit(&self) {
        let depth = lock(&self.state).depth;
        match depth {
            // It was broken off, which shows when the answer does not come.
            0 => {}
            1 if self.store.chance(|faults| faults.before_commit) => {
                self.break_off("dies before its commit");
            }
            1 => {
                self.plain("COMMIT");
                lock(&self.state).depth = 0;
            }
            depth => {
                self.plain(&format!("RELEASE s{}", depth - 1));
                lock(&self.state).depth = depth - 1;
            }
        }
    }

    fn roll_back(&self) {
        let mut state = lock(&self.state);
        match state.depth {
            0 => return,
            1 => self.plain("ROLLBACK"),
            depth => {
                let level = depth - 1;
                self.plain(&format!("ROLLBACK TO s{level}; RELEASE s{level}"));
            }
        }
        state.depth -= 1;
    }

    fn run(&self, statement: &Statement) -> Result<Done, DbErr> {
        let values: &[Value] = statement.values.as_ref().map_or(&[], |values| &values.0);
        if self.is_broken() {
            return Err(gone());
        }
        if self.store.chance(|faults| faults.statement) {
            // Of readers there are many: the next statement has another one.
            match self.access {
                Access::Write => self.break_off("dies"),
                Access::Read => self.note(format_args!("a reader's connection dies")),
            }
            return Err(gone());
        }
        let outcome = values::run(
            &lock(&self.store.sqlite),
            &statement.sql,
            values,
            self.access == Access::Write,
        );
        match &outcome {
            Ok(done) => self.note(format_args!(
                "{} {} -> {} rows, {} changed",
                statement.sql,
                Listed(values),
                done.rows.len(),
                done.changed
            )),
            Err(error) => self.note(format_args!("{} refused: {error}", statement.sql)),
        }
        outcome
    }
}

struct Listed<'v>(&'v [Value]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("[")?;
        for (index, value) in self.0.iter().enumerate() {
            if index > 0 {
                out.write_str(", ")?;
            }
            write!(out, "{value}")?;
        }
        out.write_str("]")
    }
}

/// What sea-orm talks to: its mock, which is the one that is asked
/// synchronously. Its own canned answers are how results are made.
pub(super) struct Mock(Arc<SimulatedConnection>);

impl Mock {
    pub(super) fn new(connection: Arc<SimulatedConnection>) -> Self {
        Self(connection)
    }
}

impl fmt::Debug for Mock {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Mock({})", self.0.store.name)
    }
}

fn empty_statement() -> Statement {
    Statement::from_string(DbBackend::Sqlite, String::new())
}

impl MockDatabaseTrait for Mock {
    fn execute(&mut self, _: usize, statement: Statement) -> Result<ExecResult, DbErr> {
        let done = self.0.run(&statement)?;
        let result = MockExecResult {
            last_insert_id: 0,
            rows_affected: done.changed,
        };
        MockDatabase::new(DbBackend::Sqlite)
            .append_exec_results([result])
            .execute(0, empty_statement())
    }

    fn query(&mut self, _: usize, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let rows: Vec<BTreeMap<String, Value>> = self.0.run(&statement)?.rows;
        MockDatabase::new(DbBackend::Sqlite)
            .append_query_results([rows])
            .query(0, empty_statement())
    }

    fn begin(&mut self) {
        self.0.begin();
    }

    fn commit(&mut self) {
        self.0.commit();
    }

    fn rollback(&mut self) {
        self.0.roll_back();
    }

    fn drain_transaction_log(&mut self) -> Vec<Transaction> {
        Vec::new()
    }

    fn get_database_backend(&self) -> DbBackend {
        DbBackend::Sqlite
    }

    fn ping(&self) -> Result<(), DbErr> {
        if self.0.is_broken() {
            Err(gone())
        } else {
            Ok(())
        }
    }
}
