//! Values between sea-query and SQLite, and SQLite's errors as sqlx reports
//! them, so that the real mapping of errors runs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use rusqlite::types::{Value as Stored, ValueRef};
use rusqlite::{Connection, Statement, params_from_iter};
use sea_orm::sea_query::Value;
use sea_orm::sqlx;
use sea_orm::{DbErr, RuntimeErr};

/// What a statement did: its rows, and how many it changed.
pub(super) struct Done {
    pub rows: Vec<BTreeMap<String, Value>>,
    pub changed: u64,
}

/// Runs one statement to its end.
pub(super) fn run(
    sqlite: &Connection,
    sql: &str,
    values: &[Value],
    may_write: bool,
) -> Result<Done, DbErr> {
    let parameters = values.iter().map(stored).collect::<Result<Vec<_>, _>>()?;
    let mut statement = sqlite.prepare_cached(sql).map_err(refused)?;
    let writes = !statement.readonly();
    if writes && !may_write {
        return Err(DbErr::Custom(format!("a reader cannot write: {sql}")));
    }
    let columns = columns(&statement);
    let mut rows = statement
        .query(params_from_iter(parameters))
        .map_err(refused)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(refused)? {
        let mut values = Vec::with_capacity(2 * columns.len());
        for (index, (name, kind)) in columns.iter().enumerate() {
            let value = loaded(row.get_ref(index).map_err(refused)?, *kind);
            // A mock's row is sorted by name, and yet asked for its n-th
            // column, too: that is found under a name that sorts by place.
            values.push((format!("\0{index:03}"), value.clone()));
            values.push((name.clone(), value));
        }
        found.push(values.into_iter().collect());
    }
    drop(rows);
    Ok(Done {
        rows: found,
        changed: if writes { sqlite.changes() } else { 0 },
    })
}

/// What Rust type a column has.
#[derive(Clone, Copy)]
enum Kind {
    Bool,
    Text,
    Float,
    Bytes,
    Integer,
    /// What sea-orm counts rows in.
    Count,
    /// An expression: whatever comes.
    Any,
}

fn columns(statement: &Statement<'_>) -> Vec<(String, Kind)> {
    let kind = |declared: Option<&str>| {
        let declared = declared.unwrap_or_default().to_ascii_lowercase();
        match declared.split('(').next().unwrap_or_default() {
            "" => Kind::Any,
            "boolean" => Kind::Bool,
            "double" | "float" | "real" => Kind::Float,
            "blob" => Kind::Bytes,
            "integer" | "bigint" => Kind::Integer,
            _ => Kind::Text,
        }
    };
    statement
        .columns()
        .iter()
        .map(|column| match column.name() {
            "num_items" => ("num_items".to_owned(), Kind::Count),
            name => (name.to_owned(), kind(column.decl_type())),
        })
        .collect()
}

fn loaded(value: ValueRef<'_>, kind: Kind) -> Value {
    match (value, kind) {
        (ValueRef::Integer(number), Kind::Bool) => Value::from(number != 0),
        (ValueRef::Integer(number), Kind::Float) => Value::from(number as f64),
        (ValueRef::Integer(number), Kind::Count) => {
            Value::from(i32::try_from(number).unwrap_or(i32::MAX))
        }
        (ValueRef::Integer(number), _) => Value::from(number),
        (ValueRef::Real(number), _) => Value::from(number),
        (ValueRef::Text(text), _) => Value::from(String::from_utf8_lossy(text).into_owned()),
        (ValueRef::Blob(bytes), _) => Value::from(bytes.to_vec()),
        (ValueRef::Null, Kind::Bool) => Value::Bool(None),
        (ValueRef::Null, Kind::Text) => Value::String(None),
        (ValueRef::Null, Kind::Float) => Value::Double(None),
        (ValueRef::Null, Kind::Bytes) => Value::Bytes(None),
        (ValueRef::Null, Kind::Integer | Kind::Count | Kind::Any) => Value::BigInt(None),
    }
}

fn stored(value: &Value) -> Result<Stored, DbErr> {
    Ok(match value {
        Value::Bool(value) => value.map_or(Stored::Null, |it| Stored::Integer(i64::from(it))),
        Value::TinyInt(value) => value.map_or(Stored::Null, |it| Stored::Integer(it.into())),
        Value::SmallInt(value) => value.map_or(Stored::Null, |it| Stored::Integer(it.into())),
        Value::Int(value) => value.map_or(Stored::Null, |it| Stored::Integer(it.into())),
        Value::BigInt(value) => value.map_or(Stored::Null, Stored::Integer),
        Value::Unsigned(value) => value.map_or(Stored::Null, |it| Stored::Integer(it.into())),
        Value::BigUnsigned(value) => match value {
            None => Stored::Null,
            Some(number) => Stored::Integer(
                i64::try_from(*number).map_err(|error| DbErr::Custom(error.to_string()))?,
            ),
        },
        Value::Float(value) => value.map_or(Stored::Null, |it| Stored::Real(it.into())),
        Value::Double(value) => value.map_or(Stored::Null, Stored::Real),
        Value::String(value) => value
            .as_ref()
            .map_or(Stored::Null, |it| Stored::Text(it.to_string())),
        Value::Bytes(value) => value
            .as_ref()
            .map_or(Stored::Null, |it| Stored::Blob(it.to_vec())),
        other => return Err(DbErr::Custom(format!("no column holds {other:?}"))),
    })
}

/// All rows as texts.
pub(super) fn peek(sqlite: &Connection, sql: &str) -> rusqlite::Result<Vec<Vec<String>>> {
    let mut statement = sqlite.prepare(sql)?;
    let count = statement.column_count();
    let rows = statement.query_map([], |row| {
        (0..count)
            .map(|index| {
                Ok(match row.get_ref(index)? {
                    ValueRef::Null => String::new(),
                    ValueRef::Integer(number) => number.to_string(),
                    ValueRef::Real(number) => number.to_string(),
                    ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
                        String::from_utf8_lossy(bytes).into_owned()
                    }
                })
            })
            .collect()
    })?;
    rows.collect()
}

/// An error of SQLite's, with what the mapping of errors looks at.
#[derive(Debug)]
struct Refusal {
    code: i32,
    message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.code, self.message)
    }
}

impl Error for Refusal {}

impl sqlx::error::DatabaseError for Refusal {
    fn message(&self) -> &str {
        &self.message
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(self.code.to_string().into())
    }

    fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> sqlx::error::ErrorKind {
        match self.code {
            1555 | 2067 => sqlx::error::ErrorKind::UniqueViolation,
            787 | 1811 => sqlx::error::ErrorKind::ForeignKeyViolation,
            _ => sqlx::error::ErrorKind::Other,
        }
    }
}

fn refused(error: rusqlite::Error) -> DbErr {
    match error {
        rusqlite::Error::SqliteFailure(cause, message) => {
            let refusal = Refusal {
                code: cause.extended_code,
                message: message.unwrap_or_default(),
            };
            let error = sqlx::Error::Database(Box::new(refusal));
            DbErr::Exec(RuntimeErr::SqlxError(Arc::new(error)))
        }
        error => DbErr::Custom(error.to_string()),
    }
}
