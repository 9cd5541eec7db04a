//! Columns that mean the same on all three databases.
//!
//! Everything is NOT NULL unless its name ends in `_null`; prefer an empty
//! text or zero where that cannot be mistaken. Ids are texts of up to 36
//! characters (not CHAR, which pads), times are microseconds since the epoch
//! in a BIGINT, JSON is text. [`crate::Db::migrate`] then makes every text
//! compare and order byte by byte, and gives MySQL's short `TEXT` its full
//! length.
//!
//! Name every unique index: its name is what [`crate::DbError::Conflict`]
//! carries.

use sea_orm_migration::prelude::{
    Alias, ColumnDef, ForeignKey, ForeignKeyAction, ForeignKeyCreateStatement, Index,
    IndexCreateStatement, Table, TableCreateStatement,
};

/// A new table.
pub fn table(name: &str) -> TableCreateStatement {
    Table::create()
        .table(Alias::new(name))
        .if_not_exists()
        .take()
}

/// An index over `columns`, in this order.
pub fn index(name: &str, table: &str, columns: &[&str]) -> IndexCreateStatement {
    let mut index = Index::create();
    index.name(name).table(Alias::new(table));
    for column in columns {
        index.col(Alias::new(*column));
    }
    index.take()
}

/// A unique index over `columns`. MySQL allows about 760 characters in all.
pub fn unique_index(name: &str, table: &str, columns: &[&str]) -> IndexCreateStatement {
    index(name, table, columns).unique().take()
}

/// A reference to the key of another table of the same service; rows that are
/// referred to cannot go. Add it to the table with `.foreign_key(&mut …)`.
pub fn reference(
    name: &str,
    table: &str,
    column: &str,
    to_table: &str,
    to_column: &str,
) -> ForeignKeyCreateStatement {
    ForeignKey::create()
        .name(name)
        .from(Alias::new(table), Alias::new(column))
        .to(Alias::new(to_table), Alias::new(to_column))
        .on_delete(ForeignKeyAction::Restrict)
        .take()
}

/// Like [`reference`], and a row goes with the one that it refers to.
pub fn owned_by(
    name: &str,
    table: &str,
    column: &str,
    to_table: &str,
    to_column: &str,
) -> ForeignKeyCreateStatement {
    reference(name, table, column, to_table, to_column)
        .on_delete(ForeignKeyAction::Cascade)
        .take()
}

fn column(name: &str) -> ColumnDef {
    ColumnDef::new(Alias::new(name))
}

/// An id: `String` in the row.
pub fn id(name: &str) -> ColumnDef {
    column(name).string_len(36).not_null().take()
}

/// An id or nothing: `Option<String>`.
pub fn id_null(name: &str) -> ColumnDef {
    column(name).string_len(36).null().take()
}

/// A text of at most `length` characters: `String`. Longer ones are refused
/// with 400 by PostgreSQL and MySQL; check before, SQLite does not.
pub fn text(name: &str, length: u32) -> ColumnDef {
    column(name).string_len(length).not_null().take()
}

/// A text of at most `length` characters or nothing: `Option<String>`.
pub fn text_null(name: &str, length: u32) -> ColumnDef {
    column(name).string_len(length).null().take()
}

/// A text of any length, without an index: `String`.
pub fn long_text(name: &str) -> ColumnDef {
    column(name).text().not_null().take()
}

/// A text of any length or nothing: `Option<String>`.
pub fn long_text_null(name: &str) -> ColumnDef {
    column(name).text().null().take()
}

/// JSON, kept as text: `String` in the row (parse it with `serde_json`).
pub fn json(name: &str) -> ColumnDef {
    long_text(name)
}

/// JSON or nothing: `Option<String>`.
pub fn json_null(name: &str) -> ColumnDef {
    long_text_null(name)
}

/// Microseconds since the epoch: `i64`.
pub fn timestamp(name: &str) -> ColumnDef {
    integer(name)
}

/// Microseconds since the epoch or nothing: `Option<i64>`.
pub fn timestamp_null(name: &str) -> ColumnDef {
    integer_null(name)
}

/// A number: `i64`.
pub fn integer(name: &str) -> ColumnDef {
    column(name).big_integer().not_null().take()
}

/// A number or nothing: `Option<i64>`.
pub fn integer_null(name: &str) -> ColumnDef {
    column(name).big_integer().null().take()
}

/// A number with a fraction: `f64`.
pub fn double(name: &str) -> ColumnDef {
    column(name).double().not_null().take()
}

/// True or false: `bool`.
pub fn boolean(name: &str) -> ColumnDef {
    column(name).boolean().not_null().take()
}

/// True, false or unknown: `Option<bool>`.
pub fn boolean_null(name: &str) -> ColumnDef {
    column(name).boolean().null().take()
}

/// Bytes: `Vec<u8>`.
pub fn bytes(name: &str) -> ColumnDef {
    column(name).blob().not_null().take()
}

/// A number that the database counts up, as primary key: `i64`.
///
/// Transactions do not become visible in the order of these numbers: whoever
/// follows a log by revision needs [`crate::revisions`] instead.
pub fn sequence(name: &str) -> ColumnDef {
    column(name)
        .big_integer()
        .not_null()
        .auto_increment()
        .primary_key()
        .take()
}
