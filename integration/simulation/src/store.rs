//! The tables of what is made up for the simulation, and what is asked of
//! databases when a run is over.

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

/// Workflows that have not ended.
pub const UNFINISHED: &str = "SELECT id FROM workflows WHERE finished_at = 0";

/// All workflows.
pub const WORKFLOWS: &str = "SELECT id, resource, state, input FROM workflows ORDER BY id";

/// How many of each thing are taken, and for what.
pub const EFFECTS: &str = "SELECT resource, thing, COUNT(*) FROM effects GROUP BY resource, thing";

/// Writes in the name of a claim that was not the valid one.
pub const OVERTAKEN: &str =
    "SELECT workflow_id, step, epoch, valid_epoch FROM ledger WHERE epoch <> valid_epoch";

/// What has not ended, and what it waits for.
pub const AT_WORK: &str =
    "SELECT kind, resource, state, waiting_for FROM workflows WHERE finished_at = 0";

/// Every server and where it stands.
pub const ALL_SERVERS: &str = "SELECT id, vm_state, task_state, COALESCE(host, ''), COALESCE(workflow_id, ''), \
             deleted_at FROM server ORDER BY id";
