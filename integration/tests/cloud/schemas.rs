//! Holds every service's schema to that of the last release, whose programs use
//! it while the cloud is upgraded: they must be able to read and write as ever.
//!
//! `integration/previous/schemas` holds them as SQLite tells them;
//! `cargo xtask record-release` records them anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use sea_orm::{ConnectionTrait as _, Database, DatabaseConnection, DbBackend, Statement};
use serde::{Deserialize, Serialize};
use yakumo_db::MigratorTrait;
use yakumo_testing::recorded::is_recording;

/// A service's schema.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Schema {
    /// In their order.
    migrations: Vec<String>,
    tables: BTreeMap<String, Table>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Table {
    columns: BTreeMap<String, Column>,
    /// By name; the columns in their order.
    unique: BTreeMap<String, Vec<String>>,
    references: Vec<Reference>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Column {
    kind: String,
    nullable: bool,
    has_default: bool,
    /// The place in the primary key, from 1; 0 for none.
    in_key: i64,
}

#[derive(Debug, Clone, PartialEq, PartialOrd, Eq, Ord, Serialize, Deserialize)]
struct Reference {
    column: String,
    table: String,
    on_delete: String,
}

/// What an old program would trip over in the new schema.
fn breaks(old: &Schema, new: &Schema) -> Vec<String> {
    let mut found = Vec::new();
    if !new.migrations.starts_with(&old.migrations) {
        found.push("migrations of the last release are changed, or others come before them".into());
    }
    for (name, before) in &old.tables {
        match new.tables.get(name) {
            None => found.push(format!("{name} is gone")),
            Some(now) => table_breaks(name, before, now, &mut found),
        }
    }
    for (name, table) in &new.tables {
        let is_new = !old.tables.contains_key(name);
        for reference in &table.references {
            let free = matches!(reference.on_delete.as_str(), "CASCADE" | "SET NULL");
            if is_new && old.tables.contains_key(&reference.table) && !free {
                let kept = &reference.table;
                found.push(format!("{name} keeps rows of {kept} from being removed"));
            }
        }
    }
    found
}

fn table_breaks(name: &str, before: &Table, now: &Table, found: &mut Vec<String>) {
    for (column, was) in &before.columns {
        let Some(is) = now.columns.get(column) else {
            found.push(format!("{name}.{column} is gone"));
            continue;
        };
        if is.kind != was.kind || is.in_key != was.in_key {
            found.push(format!("{name}.{column} was {was:?} and is {is:?}"));
        }
        if was.nullable != is.nullable {
            found.push(format!("{name}.{column} may be null in one of them only"));
        }
        if was.has_default && !is.has_default {
            found.push(format!("{name}.{column} has no default any more"));
        }
    }
    for (column, is) in &now.columns {
        if !before.columns.contains_key(column) && !is.nullable && !is.has_default {
            found.push(format!(
                "{name}.{column} must be given, and old programs do not"
            ));
        }
    }
    for (index, columns) in &now.unique {
        let old = |column: &String| before.columns.contains_key(column);
        if before.unique.get(index) != Some(columns) && columns.iter().all(old) {
            found.push(format!("{name}: {index} refuses what was allowed"));
        }
    }
    for (index, columns) in &before.unique {
        if now.unique.get(index) != Some(columns) {
            found.push(format!("{name}: {index} is relied on and gone"));
        }
    }
    for reference in &now.references {
        let known = before.references.contains(reference);
        if !known && before.columns.contains_key(&reference.column) {
            found.push(format!(
                "{name}.{} must refer to something now",
                reference.column
            ));
        }
    }
}

async fn rows(db: &DatabaseConnection, sql: &str) -> Result<Vec<sea_orm::QueryResult>> {
    let statement = Statement::from_string(DbBackend::Sqlite, sql);
    Ok(db.query_all_raw(statement).await?)
}

/// The schema after the first `count` migrations, or all of them.
async fn schema<M: MigratorTrait>(count: Option<u32>) -> Result<Schema> {
    let folder = tempfile::tempdir()?;
    let url = format!("sqlite://{}?mode=rwc", folder.path().join("s.db").display());
    let db = Database::connect(url).await?;
    M::up(&db, count).await?;
    let mut found = Schema::default();
    for row in rows(&db, "SELECT version FROM seaql_migrations ORDER BY version").await? {
        found.migrations.push(row.try_get("", "version")?);
    }
    let tables = "SELECT name FROM sqlite_master WHERE type = 'table' \
                  AND name NOT LIKE 'sqlite_%' AND name <> 'seaql_migrations'";
    for row in rows(&db, tables).await? {
        let name: String = row.try_get("", "name")?;
        found.tables.insert(name.clone(), table(&db, &name).await?);
    }
    db.close().await?;
    Ok(found)
}

async fn table(db: &DatabaseConnection, name: &str) -> Result<Table> {
    let mut table = Table::default();
    let columns = format!(
        "SELECT name, type AS k, \"notnull\" AS n, dflt_value IS NOT NULL AS d, pk \
         FROM pragma_table_info('{name}')"
    );
    for row in rows(db, &columns).await? {
        let column = Column {
            kind: row.try_get::<String>("", "k")?.to_lowercase(),
            nullable: row.try_get::<i64>("", "n")? == 0,
            has_default: row.try_get::<i64>("", "d")? != 0,
            in_key: row.try_get("", "pk")?,
        };
        table.columns.insert(row.try_get("", "name")?, column);
    }
    let unique = format!(
        "SELECT l.name AS i, i.name AS c FROM pragma_index_list('{name}') l \
         JOIN pragma_index_info(l.name) i \
         WHERE l.\"unique\" = 1 AND l.origin <> 'pk' ORDER BY l.name, i.seqno"
    );
    for row in rows(db, &unique).await? {
        let column: Option<String> = row.try_get("", "c")?;
        let index: String = row.try_get("", "i")?;
        let columns = table.unique.entry(index).or_default();
        columns.push(column.unwrap_or_default());
    }
    let references = format!(
        "SELECT \"from\" AS c, \"table\" AS t, on_delete AS d \
         FROM pragma_foreign_key_list('{name}')"
    );
    for row in rows(db, &references).await? {
        table.references.push(Reference {
            column: row.try_get("", "c")?,
            table: row.try_get("", "t")?,
            on_delete: row.try_get("", "d")?,
        });
    }
    table.references.sort();
    Ok(table)
}

fn file(service: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("previous/schemas");
    folder.join(format!("{service}.json"))
}

async fn check<M: MigratorTrait>(service: &str) -> Result<()> {
    let now = schema::<M>(None).await?;
    ensure!(!now.tables.is_empty(), "{service} has no tables");
    let file = file(service);
    if is_recording() {
        std::fs::create_dir_all(file.parent().context("a folder")?)?;
        return Ok(std::fs::write(
            file,
            serde_json::to_string_pretty(&now)? + "\n",
        )?);
    }
    let text = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    let previous: Schema = serde_json::from_slice(&text)?;
    let found = breaks(&previous, &now);
    ensure!(found.is_empty(), "{service}: {found:#?}");
    // What was migrated already is not migrated again: history stays as it is.
    let count = u32::try_from(previous.migrations.len())?;
    let then = schema::<M>(Some(count)).await?;
    ensure!(
        then == previous,
        "{service}: an old migration makes another schema than it did"
    );
    Ok(())
}

#[tokio::test]
async fn the_previous_releases_programs_can_use_every_schema() -> Result<()> {
    check::<yakumo_identity::Migrator>("identity").await?;
    check::<yakumo_image::Migrator>("image").await?;
    check::<yakumo_object_store::Migrator>("object-store").await?;
    check::<yakumo_api::Migrator>("api").await?;
    check::<yakumo_network::Migrator>("network").await?;
    check::<yakumo_volume::Migrator>("volume").await
}

fn column(nullable: bool, has_default: bool) -> Column {
    Column {
        kind: "bigint".into(),
        nullable,
        has_default,
        in_key: 0,
    }
}

/// One table with a key, a name and a size.
fn sample() -> Schema {
    let mut table = Table::default();
    let key = Column {
        in_key: 1,
        ..column(false, false)
    };
    table.columns.insert("id".into(), key);
    table.columns.insert("name".into(), column(false, false));
    table.columns.insert("size".into(), column(true, true));
    table.unique.insert("by_name".into(), vec!["name".into()]);
    Schema {
        migrations: vec!["m1".into()],
        tables: [("thing".to_owned(), table)].into(),
    }
}

/// What is found when `change` has changed that table.
fn found(change: impl FnOnce(&mut Table)) -> Vec<String> {
    let mut new = sample();
    change(new.tables.get_mut("thing").unwrap());
    breaks(&sample(), &new)
}

#[test]
fn a_schema_may_grow() {
    let grown = found(|table| {
        table.columns.insert("colour".into(), column(true, false));
        table.columns.insert("weight".into(), column(false, true));
        table
            .unique
            .insert("by_colour".into(), vec!["colour".into(), "name".into()]);
    });
    assert_eq!(grown, [""; 0]);
    let mut new = sample();
    new.migrations.push("m2".into());
    let mut part = Table::default();
    part.references.push(Reference {
        column: "thing_id".into(),
        table: "thing".into(),
        on_delete: "CASCADE".into(),
    });
    new.tables.insert("part".into(), part);
    assert_eq!(breaks(&sample(), &new), [""; 0]);
}

#[test]
fn what_an_old_program_would_trip_over_is_found() {
    let one = |what: &str, found: Vec<String>| {
        assert!(
            found.len() == 1 && found[0].contains(what),
            "{what}: {found:?}"
        );
    };
    one(
        "size is gone",
        found(|table| drop(table.columns.remove("size"))),
    );
    one(
        "must be given",
        found(|table| {
            table.columns.insert("colour".into(), column(false, false));
        }),
    );
    let of_size =
        |change: fn(&mut Column)| found(|table| change(table.columns.get_mut("size").unwrap()));
    one("was Column", of_size(|size| size.kind = "integer".into()));
    one("may be null", of_size(|size| size.nullable = false));
    one("no default", of_size(|size| size.has_default = false));
    one(
        "refuses what was allowed",
        found(|table| {
            table.unique.insert("by_size".into(), vec!["size".into()]);
        }),
    );
    one("relied on and gone", found(|table| table.unique.clear()));
    one(
        "must refer to something",
        found(|table| {
            table.references.push(Reference {
                column: "size".into(),
                table: "thing".into(),
                on_delete: "CASCADE".into(),
            });
        }),
    );
    let of_all = |change: fn(&mut Schema)| {
        let mut new = sample();
        change(&mut new);
        breaks(&sample(), &new)
    };
    one("thing is gone", of_all(|schema| schema.tables.clear()));
    one(
        "others come before",
        of_all(|schema| schema.migrations.insert(0, "m0".into())),
    );
    one(
        "keeps rows of thing",
        of_all(|schema| {
            let mut part = Table::default();
            part.references.push(Reference {
                column: "thing_id".into(),
                table: "thing".into(),
                on_delete: "RESTRICT".into(),
            });
            schema.tables.insert("part".into(), part);
        }),
    );
}
