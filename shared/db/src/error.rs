//! What can go wrong with a database, in words that mean the same on all
//! three, and the one place where it turns into an answer for a client.

use std::collections::HashMap;
use std::sync::{OnceLock, RwLock};

use sea_orm::sqlx;
use sea_orm::{DbErr, RuntimeErr};
use tracing::error;
use yakumo_types::{Ailment, Fault};

/// The name that a violated primary key goes by on every database.
pub(crate) const PRIMARY: &str = "PRIMARY";

/// An error of the database, or of the rules that a transaction checks.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DbError {
    /// No such row.
    #[error("no such row")]
    NotFound,
    /// A unique constraint is violated: it is there already.
    #[error("a row with the same key exists ({})", .constraint.as_deref().unwrap_or("unnamed"))]
    Conflict {
        /// The name of the unique index, the same on every database;
        /// `PRIMARY` for a primary key.
        constraint: Option<String>,
    },
    /// A row that is referred to is missing, or one that is to go is referred to.
    #[error("a reference is violated ({})", .constraint.as_deref().unwrap_or("unnamed"))]
    ForeignKey {
        /// The constraint's name; SQLite does not tell it.
        constraint: Option<String>,
    },
    /// A compare-and-swap lost: the row is no longer as expected.
    #[error("the row has changed meanwhile")]
    Stale,
    /// A deadlock, a serialisation failure or a busy file. [`crate::Db::write`]
    /// runs the transaction again; it comes out only where that did not help.
    #[error("too much contention in the database")]
    Contended,
    /// The database cannot be reached, or did not answer in time. What was
    /// being committed may or may not have been.
    #[error("the database is not available")]
    Unavailable,
    /// The database answers and takes no changes: a standby, or one that an
    /// operator or a full disk has made read-only. Nothing was changed.
    #[error("the database takes no changes: it is read-only")]
    ReadOnly,
    /// The transaction refuses: rolls back and says so to the client.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The configuration makes no sense.
    #[error("{0}")]
    Configuration(String),
    /// A defect: an unreadable row, a wrong statement.
    #[error("{0}")]
    Other(String),
}

impl DbError {
    /// A defect, for example a stored JSON that cannot be read.
    pub fn other(error: impl std::fmt::Display) -> Self {
        Self::Other(error.to_string())
    }

    /// Whether this is the violation of the unique index `name`.
    pub fn is_conflict_on(&self, name: &str) -> bool {
        matches!(self, Self::Conflict { constraint: Some(constraint) } if constraint == name)
    }
}

impl Ailment for DbError {
    fn is_partial(&self) -> bool {
        matches!(self, Self::ReadOnly)
    }
}

impl From<serde_json::Error> for DbError {
    fn from(error: serde_json::Error) -> Self {
        Self::other(format!("stored JSON: {error}"))
    }
}

impl From<DbError> for Fault {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Fault(fault) => fault,
            DbError::NotFound => Self::not_found("The resource could not be found."),
            DbError::Conflict { .. } => {
                Self::conflict("Something with the same name or key is there already.")
            }
            DbError::ForeignKey { .. } => {
                Self::conflict("Something that this refers to is gone, or it is still in use.")
            }
            DbError::Stale => Self::conflict("It was changed by another request. Try again."),
            DbError::Contended | DbError::Unavailable => {
                Self::unavailable("The database is not available. Try again.")
            }
            DbError::ReadOnly => {
                Self::unavailable("The database takes no changes at present. Try again later.")
            }
            DbError::Configuration(reason) | DbError::Other(reason) => {
                error!(reason, "database error");
                Self::internal("An unexpected error has occurred.")
            }
        }
    }
}

impl From<DbErr> for DbError {
    fn from(error: DbErr) -> Self {
        match &error {
            DbErr::RecordNotFound(_) => Self::NotFound,
            DbErr::RecordNotUpdated => Self::Stale,
            DbErr::ConnectionAcquire(_) => Self::Unavailable,
            DbErr::Conn(RuntimeErr::SqlxError(cause))
            | DbErr::Exec(RuntimeErr::SqlxError(cause))
            | DbErr::Query(RuntimeErr::SqlxError(cause)) => from_sqlx(cause),
            _ => Self::Other(error.to_string()),
        }
    }
}

impl From<sqlx::Error> for DbError {
    fn from(error: sqlx::Error) -> Self {
        from_sqlx(&error)
    }
}

fn from_sqlx(error: &sqlx::Error) -> DbError {
    match error {
        sqlx::Error::Database(cause) => {
            if let Some(cause) = cause.try_downcast_ref::<sqlx::postgres::PgDatabaseError>() {
                from_postgres(cause)
            } else if let Some(cause) = cause.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()
            {
                from_mysql(cause)
            } else {
                from_sqlite(&**cause)
            }
        }
        sqlx::Error::RowNotFound => DbError::NotFound,
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => {
            tracing::warn!(error = %error, "the connection to the database failed");
            DbError::Unavailable
        }
        _ => DbError::Other(error.to_string()),
    }
}

fn too_long() -> DbError {
    DbError::Fault(Fault::invalid("A value is too long."))
}

fn bad_text() -> DbError {
    DbError::Fault(Fault::invalid(
        "A text holds characters that cannot be stored.",
    ))
}

fn from_postgres(cause: &sqlx::postgres::PgDatabaseError) -> DbError {
    match cause.code() {
        "23505" => DbError::Conflict {
            constraint: cause.constraint().map(|name| {
                match cause.table() {
                    Some(table) if name == format!("{table}_pkey") => PRIMARY,
                    _ => name,
                }
                .to_owned()
            }),
        },
        "23503" => DbError::ForeignKey {
            constraint: cause.constraint().map(str::to_owned),
        },
        // Serialisation failure, deadlock, lock not available.
        "40001" | "40P01" | "55P03" => DbError::Contended,
        "22001" => too_long(),
        "22021" | "22P05" => bad_text(),
        code => {
            let class = code.get(..2).unwrap_or_default();
            if code == "25006" {
                tracing::warn!(code, message = cause.message(), "PostgreSQL is read-only");
                return DbError::ReadOnly;
            }
            // Connection, resources, operator intervention (shutting down,
            // cancelled by a timeout), system errors.
            if matches!(class, "08" | "53" | "57" | "58") {
                tracing::warn!(code, message = cause.message(), "PostgreSQL is away");
                DbError::Unavailable
            } else {
                DbError::Other(format!("{code}: {}", cause.message()))
            }
        }
    }
}

fn from_mysql(cause: &sqlx::mysql::MySqlDatabaseError) -> DbError {
    let message = cause.message();
    match cause.number() {
        1022 | 1062 | 1169 | 1586 => DbError::Conflict {
            constraint: mysql_key(message),
        },
        1216 | 1217 | 1451 | 1452 | 1557 | 1761 | 1762 => DbError::ForeignKey {
            constraint: between(message, "CONSTRAINT `", "`"),
        },
        // Lock wait timeout, deadlock, lock not available at once, record changed.
        1205 | 1213 | 3572 | 1020 => DbError::Contended,
        1406 => too_long(),
        1366 => bad_text(),
        // `--read-only` (1290 is said of other options, too), read-only mode, a
        // transaction that was begun as read-only.
        1290 | 1792 | 1836 => {
            tracing::warn!(number = cause.number(), message, "MySQL is read-only");
            DbError::ReadOnly
        }
        // Too many connections, out of memory, shutting down, killed, timeouts;
        // a file cannot be written, the disk or a table is full, a commit
        // failed; a member of a cluster that has lost the others.
        3
        | 1021
        | 1026
        | 1037
        | 1038
        | 1040
        | 1041
        | 1047
        | 1053
        | 1114
        | 1129
        | 1158..=1161
        | 1180
        | 1203
        | 1317
        | 1927
        | 1969
        | 3024 => {
            tracing::warn!(number = cause.number(), message, "MySQL is away");
            DbError::Unavailable
        }
        number => DbError::Other(format!("{number}: {message}")),
    }
}

fn from_sqlite(cause: &dyn sqlx::error::DatabaseError) -> DbError {
    let code: i64 = cause
        .code()
        .and_then(|code| code.parse().ok())
        .unwrap_or_default();
    let message = cause.message();
    match code {
        1555 => DbError::Conflict {
            constraint: Some(PRIMARY.to_owned()),
        },
        2067 => DbError::Conflict {
            constraint: sqlite_key(message),
        },
        // 1811: `ON DELETE RESTRICT`, which SQLite counts as a trigger.
        787 | 1811 => DbError::ForeignKey { constraint: None },
        _ => match code & 0xff {
            // Busy, locked.
            5 | 6 => DbError::Contended,
            8 => {
                error!(code, message, "SQLite cannot change its file");
                DbError::ReadOnly
            }
            // Out of memory, interrupted, I/O, corrupt, full, cannot open, not a database.
            7 | 9 | 10 | 11 | 13 | 14 | 26 => {
                error!(code, message, "SQLite cannot use its file");
                DbError::Unavailable
            }
            18 => too_long(),
            _ => DbError::Other(format!("{code}: {message}")),
        },
    }
}

/// `Duplicate entry 'x' for key 'things_by_name'`; MySQL 8 puts the table and
/// a dot before the name.
fn mysql_key(message: &str) -> Option<String> {
    let name = message.rsplit_once("for key '")?.1.trim_end_matches('\'');
    Some(name.rsplit('.').next().unwrap_or(name).to_owned())
}

fn between(text: &str, before: &str, after: &str) -> Option<String> {
    let rest = text.split_once(before)?.1;
    Some(rest.split_once(after)?.0.to_owned())
}

/// SQLite names the columns (`things.project_id, things.name`) and not the
/// index; [`learn_indexes`] has put down which index that is.
fn sqlite_key(message: &str) -> Option<String> {
    let columns = message.split_once("constraint failed: ")?.1;
    if let Some(name) = between(columns, "index '", "'") {
        return Some(name);
    }
    let known = indexes().read().ok()?.get(columns).cloned();
    Some(known.unwrap_or_else(|| columns.to_owned()))
}

type Indexes = RwLock<HashMap<String, String>>;

fn indexes() -> &'static Indexes {
    static INDEXES: OnceLock<Indexes> = OnceLock::new();
    INDEXES.get_or_init(Indexes::default)
}

/// Remembers for this process which unique index covers which columns.
pub(crate) fn learn_indexes(found: impl IntoIterator<Item = (String, String)>) {
    if let Ok(mut known) = indexes().write() {
        known.extend(found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_key_is_found_in_what_mysql_and_mariadb_say() {
        let mariadb = "Duplicate entry 'x' for key 'things_by_name'";
        let mysql = "Duplicate entry 'for key 'x' for key 'things.things_by_name'";
        assert_eq!(mysql_key(mariadb).as_deref(), Some("things_by_name"));
        assert_eq!(mysql_key(mysql).as_deref(), Some("things_by_name"));
    }

    #[test]
    fn columns_of_sqlite_become_the_name_of_the_index() {
        learn_indexes([(
            "error_test.a, error_test.b".to_owned(),
            "error_test_by_ab".to_owned(),
        )]);
        let known = "UNIQUE constraint failed: error_test.a, error_test.b";
        let unknown = "UNIQUE constraint failed: error_test.c";
        assert_eq!(sqlite_key(known).as_deref(), Some("error_test_by_ab"));
        assert_eq!(sqlite_key(unknown).as_deref(), Some("error_test.c"));
    }

    #[test]
    fn what_went_wrong_inside_is_not_told_outside() {
        let fault = Fault::from(DbError::Other("relation \"secret\" is missing".into()));
        assert!(!fault.message.contains("secret"));
    }
}
