//! Migrations: at once, again, and by an older program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use sea_orm::{ConnectionTrait, EntityTrait};
use sea_orm_migration::prelude::{Alias, MigrationTrait, Table};
use yakumo_db::{Backend, Db, DbError, MigratorTrait, columns};
use yakumo_testing::databases::fresh;

use crate::things::{Entity, Migrator, add, count, database, insert, thing};

crate::on_every_database!(
    many_processes_may_migrate_at_once_and_again,
    an_older_program_refuses_a_newer_schema,
    a_migration_that_fails_can_be_repaired,
    the_state_of_migrations_can_be_read_without_changing_anything,
    programs_of_the_last_release_write_while_the_schema_grows,
);

async fn many_processes_may_migrate_at_once_and_again(backend: Backend) {
    let database = fresh(backend).await.unwrap();
    for _ in 0..2 {
        let results = join_all((0..4).map(|_| async {
            let process = Db::connect(&database.config).await?;
            let result = process.migrate::<Migrator>().await;
            process.close().await;
            result
        }))
        .await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }
    add(&database, thing("1", "one")).await.unwrap();
}

struct Nothing;

impl MigratorTrait for Nothing {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        Vec::new()
    }
}

async fn an_older_program_refuses_a_newer_schema(backend: Backend) {
    let database = database(backend).await;
    let error = database.db.migrate::<Nothing>().await.unwrap_err();
    assert!(
        matches!(&error, DbError::Other(reason) if reason.contains("missing")),
        "{error:?}"
    );
    add(&database, thing("1", "one")).await.unwrap();
}

struct Broken;

impl MigratorTrait for Broken {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let mut all = Migrator::migrations();
        all.push(yakumo_db::migration("m20261121_000003_broken", |manager| {
            Box::pin(async move {
                manager
                    .get_connection()
                    .execute_unprepared("ALTER TABLE nothing ADD COLUMN x INT")
                    .await?;
                Ok(())
            })
        }));
        all
    }
}

async fn a_migration_that_fails_can_be_repaired(backend: Backend) {
    let database = fresh(backend).await.unwrap();
    let error = database.db.migrate::<Broken>().await.unwrap_err();
    assert!(
        matches!(&error, DbError::Other(reason) if reason.contains("nothing")),
        "{error:?}"
    );
    database.db.migrate::<Migrator>().await.unwrap();
    add(&database, thing("1", "one")).await.unwrap();
}

async fn the_state_of_migrations_can_be_read_without_changing_anything(backend: Backend) {
    let database = fresh(backend).await.unwrap();
    let states = database.db.migration_states::<Migrator>().await.unwrap();
    assert_eq!(states.len(), Migrator::migrations().len());
    assert!(states.iter().all(|state| !state.applied));
    database.db.migrate::<Migrator>().await.unwrap();
    let states = database.db.migration_states::<Migrator>().await.unwrap();
    assert!(states.iter().all(|state| state.applied));
    database.db.migrate::<Migrator>().await.unwrap();
}

/// The schema of a later release.
struct Later;

impl MigratorTrait for Later {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let mut all = Migrator::migrations();
        all.push(yakumo_db::migration("m20261128_000003_grow", |manager| {
            Box::pin(async move {
                for column in [
                    columns::text_null("colour", 64),
                    columns::integer_null("weight"),
                ] {
                    let mut table = Table::alter();
                    let table = table.table(Alias::new("things")).add_column(column);
                    manager.alter_table(table.to_owned()).await?;
                }
                manager
                    .create_index(columns::index("things_by_colour", "things", &["colour"]))
                    .await?;
                manager
                    .create_table(
                        columns::table("labels")
                            .col(columns::id("id").primary_key())
                            .col(columns::text("name", 64))
                            .to_owned(),
                    )
                    .await
            })
        }));
        all
    }
}

/// Programs of the last release know nothing of the new columns, and several
/// processes of the new one bring the schema up to date at once, under load.
async fn programs_of_the_last_release_write_while_the_schema_grows(backend: Backend) {
    let database = database(backend).await;
    let over = Arc::new(AtomicBool::new(false));
    let writers = (0..4).map(|writer| {
        let (db, over) = (database.db.clone(), over.clone());
        tokio::spawn(async move {
            let mut written = 0_u64;
            while !over.load(Ordering::SeqCst) || written < 20 {
                let id = format!("{writer}-{written}");
                let change = db.write(move |txn| {
                    let thing = thing(&id, &id);
                    Box::pin(async move { insert(txn, thing).await })
                });
                change.await.unwrap();
                written += 1;
                Entity::find_by_id(format!("{writer}-0"))
                    .one(db.read())
                    .await
                    .unwrap()
                    .unwrap();
            }
            written
        })
    });
    let writers: Vec<_> = writers.collect();
    let grown = join_all((0..3).map(|_| async {
        let process = Db::connect(&database.config).await?;
        let result = process.migrate::<Later>().await;
        process.close().await;
        result
    }))
    .await;
    assert!(grown.iter().all(Result::is_ok), "{grown:?}");
    over.store(true, Ordering::SeqCst);
    let mut written = 0;
    for writer in writers {
        written += writer.await.unwrap();
    }
    assert_eq!(count(&database).await, written);
    let states = database.db.migration_states::<Later>().await.unwrap();
    assert!(states.iter().all(|state| state.applied));
}
