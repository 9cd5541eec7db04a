//! Migrations: at once, again, and by an older program.

use futures::future::join_all;
use sea_orm::ConnectionTrait;
use sea_orm_migration::prelude::MigrationTrait;
use yakumo_db::{Backend, Db, DbError, MigratorTrait};
use yakumo_testing::databases::fresh;

use crate::things::{Migrator, add, database, thing};

crate::on_every_database!(
    many_processes_may_migrate_at_once_and_again,
    an_older_program_refuses_a_newer_schema,
    a_migration_that_fails_can_be_repaired,
    the_state_of_migrations_can_be_read_without_changing_anything,
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
