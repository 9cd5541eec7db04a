//! The tables of what is made up for the simulation.

use sea_orm::{ConnectionTrait, DbBackend, Statement, Value};
use sea_orm_migration::MigrationTrait;
use yakumo_db::columns::{id, index, integer, sequence, table, text};
use yakumo_db::{DatabaseConnection, DatabaseTransaction, DbError, MigratorTrait};

/// The errands' own database: the engine's tables, what steps write, and what
/// errands wait for.
pub struct ErrandTables;

impl MigratorTrait for ErrandTables {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let mut all = yakumo_workflow::migrations();
        all.push(yakumo_db::migration(
            "m20261128_000001_create_ledger",
            |manager| {
                Box::pin(async move {
                    manager
                        .create_table(
                            table("ledger")
                                .col(sequence("number"))
                                .col(id("workflow_id"))
                                .col(text("step", 64))
                                .col(integer("epoch"))
                                .col(integer("valid_epoch"))
                                .to_owned(),
                        )
                        .await?;
                    manager
                        .create_table(
                            table("words")
                                .col(text("resource", 64).primary_key())
                                .to_owned(),
                        )
                        .await
                })
            },
        ));
        all
    }
}

/// The outside world's database: fences, and what was taken there.
pub struct OutsideTables;

impl MigratorTrait for OutsideTables {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let mut all = yakumo_workflow::migrations();
        all.push(yakumo_db::migration(
            "m20261128_000001_create_effects",
            |manager| {
                Box::pin(async move {
                    manager
                        .create_table(
                            table("effects")
                                .col(sequence("number"))
                                .col(text("resource", 64))
                                .col(text("thing", 64))
                                .to_owned(),
                        )
                        .await?;
                    manager
                        .create_index(index("effects_by_resource", "effects", &["resource"]))
                        .await
                })
            },
        ));
        all
    }
}

fn statement(sql: &str, values: impl IntoIterator<Item = Value>) -> Statement {
    Statement::from_sql_and_values(DbBackend::Sqlite, sql, values)
}

/// Puts down that a claim of a workflow was at a step, beside the claim that
/// the workflow's row names at that moment.
pub async fn ledger_add(
    txn: &DatabaseTransaction,
    workflow: &str,
    step: &str,
    epoch: i64,
) -> Result<(), DbError> {
    let sql = "INSERT INTO ledger (workflow_id, step, epoch, valid_epoch) \
               SELECT ?, ?, ?, epoch FROM workflows WHERE id = ?";
    let values = [workflow.into(), step.into(), epoch.into(), workflow.into()];
    txn.execute_raw(statement(sql, values)).await?;
    Ok(())
}

/// Whether what `resource` waits for has been said.
pub async fn word_is_said(db: &DatabaseConnection, resource: &str) -> Result<bool, DbError> {
    let sql = "SELECT resource FROM words WHERE resource = ?";
    Ok(db
        .query_one_raw(statement(sql, [resource.into()]))
        .await?
        .is_some())
}

/// Says it, again if need be.
pub async fn word_say(txn: &DatabaseTransaction, resource: &str) -> Result<(), DbError> {
    let sql = "INSERT OR IGNORE INTO words (resource) VALUES (?)";
    txn.execute_raw(statement(sql, [resource.into()])).await?;
    Ok(())
}

/// One more of a thing is taken.
pub async fn effect_add(
    txn: &DatabaseTransaction,
    resource: &str,
    thing: &str,
) -> Result<(), DbError> {
    let sql = "INSERT INTO effects (resource, thing) VALUES (?, ?)";
    txn.execute_raw(statement(sql, [resource.into(), thing.into()]))
        .await?;
    Ok(())
}

/// All of a thing is given back.
pub async fn effect_remove(
    txn: &DatabaseTransaction,
    resource: &str,
    thing: &str,
) -> Result<(), DbError> {
    let sql = "DELETE FROM effects WHERE resource = ? AND thing = ?";
    txn.execute_raw(statement(sql, [resource.into(), thing.into()]))
        .await?;
    Ok(())
}
