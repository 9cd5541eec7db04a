//! Compute hosts. Whether one is up is decided by the database's clock alone:
//! replicas of this service may disagree about the time, and must not
//! disagree about a host.

use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction,
    EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect,
};
use yakumo_db::DbError;

use super::entity::host;
use super::server_changes::beyond;

/// A host's row.
pub type Host = host::Model;

/// Hosts by name, after `marker`.
pub async fn host_list(
    db: &DatabaseConnection,
    marker: Option<&str>,
    limit: u64,
) -> Result<Vec<Host>, DbError> {
    let mut query = host::Entity::find();
    if let Some(marker) = marker {
        query = query.filter(host::Column::Name.gt(marker));
    }
    Ok(query
        .order_by_asc(host::Column::Name)
        .limit(limit)
        .all(db)
        .await?)
}

/// How many hosts are known.
pub async fn host_count(db: &DatabaseConnection) -> Result<u64, DbError> {
    let names: Vec<String> = host::Entity::find()
        .select_only()
        .column(host::Column::Name)
        .into_tuple()
        .all(db)
        .await?;
    Ok(names.len() as u64)
}

/// The zones with the hosts in them: zone, host, whether enabled, heard at.
pub async fn host_zones(
    db: &DatabaseConnection,
) -> Result<Vec<(String, String, bool, i64)>, DbError> {
    Ok(host::Entity::find()
        .select_only()
        .column(host::Column::AvailabilityZone)
        .column(host::Column::Name)
        .column(host::Column::Enabled)
        .column(host::Column::HeardAt)
        .order_by_asc(host::Column::AvailabilityZone)
        .order_by_asc(host::Column::Name)
        .into_tuple()
        .all(db)
        .await?)
}

/// One host by name.
pub async fn host_fetch(db: &DatabaseConnection, name: &str) -> Result<Option<Host>, DbError> {
    fetch(db, name).await
}

/// The same, inside a transaction.
pub async fn host_fetch_in(txn: &DatabaseTransaction, name: &str) -> Result<Option<Host>, DbError> {
    fetch(txn, name).await
}

async fn fetch(db: &impl ConnectionTrait, name: &str) -> Result<Option<Host>, DbError> {
    Ok(host::Entity::find_by_id(name.to_owned()).one(db).await?)
}

/// One host by its small number.
pub async fn host_fetch_by_number(
    db: &DatabaseConnection,
    number: i64,
) -> Result<Option<Host>, DbError> {
    Ok(host::Entity::find()
        .filter(host::Column::Number.eq(number))
        .one(db)
        .await?)
}

/// The number that the next host gets.
pub async fn host_next_number_in(txn: &DatabaseTransaction) -> Result<i64, DbError> {
    let highest: Option<i64> = host::Entity::find()
        .select_only()
        .column(host::Column::Number)
        .order_by_desc(host::Column::Number)
        .into_tuple()
        .one(txn)
        .await?;
    Ok(highest.unwrap_or(0).saturating_add(1))
}

/// Adds a host; `Conflict` when its name, number or id are taken.
pub async fn host_insert(txn: &DatabaseTransaction, row: Host) -> Result<(), DbError> {
    host::Entity::insert(row.into_active_model())
        .exec_without_returning(txn)
        .await?;
    Ok(())
}

/// Replaces a host's row if its incarnation is still `incarnation`.
pub async fn host_register(
    txn: &DatabaseTransaction,
    row: Host,
    incarnation: i64,
) -> Result<(), DbError> {
    let name = row.name.clone();
    // A model becomes "unchanged"; here every column is to be written.
    let mut change = row.into_active_model();
    for column in <host::Column as sea_orm::Iterable>::iter() {
        change.reset(column);
    }
    change.name = NotSet;
    let updated = host::Entity::update_many()
        .set(change)
        .filter(host::Column::Name.eq(name))
        .filter(host::Column::Incarnation.eq(incarnation))
        .exec(txn)
        .await?;
    if updated.rows_affected == 0 {
        return Err(DbError::Stale);
    }
    Ok(())
}

/// Whether a report is the next one of a host's present start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportOrder {
    /// It is newer than all before: its content counts.
    New,
    /// It was taken in before, or a newer one was.
    Old,
    /// The host must register: its start is unknown or overtaken.
    RegisterAgain,
}

/// Takes a report's place in the order.
pub async fn host_report_order(
    txn: &DatabaseTransaction,
    name: &str,
    host_uuid: &str,
    incarnation: i64,
    sequence: i64,
) -> Result<ReportOrder, DbError> {
    let taken = host::Entity::update_many()
        .set(host::ActiveModel {
            sequence: Set(sequence),
            ..Default::default()
        })
        .filter(host::Column::Name.eq(name))
        .filter(host::Column::HostUuid.eq(host_uuid))
        .filter(host::Column::Incarnation.eq(incarnation))
        .filter(host::Column::Sequence.lt(sequence))
        .exec(txn)
        .await?;
    if taken.rows_affected > 0 {
        return Ok(ReportOrder::New);
    }
    let known = fetch(txn, name).await?;
    Ok(match known {
        Some(row) if row.host_uuid == host_uuid && row.incarnation == incarnation => {
            ReportOrder::Old
        }
        _ => ReportOrder::RegisterAgain,
    })
}

/// What a host's claims have taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Claimed {
    pub vcpus: i64,
    pub memory_mib: i64,
    pub disk_gib: i64,
    pub servers: i64,
}

/// Notes that hosts were heard, by the database's clock.
pub async fn hosts_heard(
    txn: &DatabaseTransaction,
    names: Vec<String>,
    database_now: i64,
) -> Result<(), DbError> {
    if names.is_empty() {
        return Ok(());
    }
    host::Entity::update_many()
        .set(host::ActiveModel {
            heard_at: Set(database_now),
            ..Default::default()
        })
        .filter(host::Column::Name.is_in(names))
        .exec(txn)
        .await?;
    Ok(())
}

/// Notes what a host's claims have taken.
pub async fn host_claimed(
    txn: &DatabaseTransaction,
    name: &str,
    claimed: Claimed,
) -> Result<(), DbError> {
    host::Entity::update_many()
        .set(host::ActiveModel {
            claimed_vcpus: Set(claimed.vcpus),
            claimed_memory_mib: Set(claimed.memory_mib),
            claimed_disk_gib: Set(claimed.disk_gib),
            servers: Set(claimed.servers),
            ..Default::default()
        })
        .filter(host::Column::Name.eq(name))
        .exec(txn)
        .await?;
    Ok(())
}

/// Lets a host take servers, or not; `NotFound` when there is none.
pub async fn host_enable(
    txn: &DatabaseTransaction,
    name: &str,
    enabled: bool,
    reason: Option<String>,
    now: i64,
) -> Result<(), DbError> {
    let updated = host::Entity::update_many()
        .set(host::ActiveModel {
            enabled: Set(enabled),
            disabled_reason: Set(reason),
            updated_at: Set(now),
            ..Default::default()
        })
        .col_expr(
            host::Column::SettingsRevision,
            Expr::col(host::Column::SettingsRevision).add(1_i64),
        )
        .filter(host::Column::Name.eq(name))
        .exec(txn)
        .await?;
    if updated.rows_affected == 0 {
        return Err(DbError::NotFound);
    }
    Ok(())
}

/// Forgets a host; its servers must be gone.
pub async fn host_delete(txn: &DatabaseTransaction, name: &str) -> Result<(), DbError> {
    let deleted = host::Entity::delete_by_id(name.to_owned())
        .exec(txn)
        .await?;
    if deleted.rows_affected == 0 {
        return Err(DbError::NotFound);
    }
    Ok(())
}

/// Puts what orders the words of hosts beyond what anybody may have heard of:
/// every host registers anew. How many hosts.
pub async fn hosts_leap(txn: &DatabaseTransaction, database_now: i64) -> Result<u64, DbError> {
    let leapt = host::Entity::update_many()
        .col_expr(
            host::Column::Incarnation,
            beyond(host::Column::Incarnation, database_now),
        )
        .col_expr(
            host::Column::SettingsRevision,
            beyond(host::Column::SettingsRevision, database_now),
        )
        .exec(txn)
        .await?;
    Ok(leapt.rows_affected)
}
