//! The tables `group_changes` and `group_revisions`: who joined or left a group,
//! and how often its members have changed.
//!
//! A change is a row of its own that nobody else writes, so that ports that join
//! the same group at the same time do not wait for each other. Changes that are
//! there are then taken together, and make one revision of their group.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sea_orm::sea_query::{Expr, ExprTrait as _, OnConflict, Query};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, IdenStatic, QueryFilter, QueryOrder, QuerySelect,
    Set,
};
use yakumo_db::DbError;

use super::ports::member_addresses;
use super::{group_change, group_revision, host, membership, rule};

/// How many rows one statement makes or removes.
const AT_A_TIME: usize = 500;

/// Notes that ports joined or left groups, or became others in them: the
/// change's own id, group, port.
pub async fn note(
    db: &impl ConnectionTrait,
    changes: Vec<(String, String, String)>,
) -> Result<(), DbError> {
    for changes in changes.chunks(AT_A_TIME) {
        let rows = changes
            .iter()
            .map(|(id, group, port)| group_change::ActiveModel {
                id: Set(id.clone()),
                group_id: Set(group.clone()),
                port_id: Set(port.clone()),
            });
        group_change::Entity::insert_many(rows)
            .exec_without_returning(db)
            .await?;
    }
    Ok(())
}

/// Some groups with changes that no host was told of, in order.
pub async fn changed(db: &impl ConnectionTrait, most: u64) -> Result<Vec<String>, DbError> {
    Ok(group_change::Entity::find()
        .select_only()
        .column(group_change::Column::GroupId)
        .distinct()
        .order_by_asc(group_change::Column::GroupId)
        .limit(most)
        .into_tuple()
        .all(db)
        .await?)
}

/// Changes of a group that were taken together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The group.
    pub group: String,
    /// Its revision with these changes; the one before is one less.
    pub revision: i64,
    /// The ports that they were of.
    pub ports: BTreeSet<String>,
}

/// Takes what is noted of these groups, in order, at most so many changes at a
/// time: each gets its next revision. The groups' rows stay locked until the
/// transaction ends, so that revisions become visible in their own order.
pub async fn take(
    db: &impl ConnectionTrait,
    groups: &[String],
    most: u64,
    now: i64,
) -> Result<Vec<Batch>, DbError> {
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    let there = lock(db, groups).await?;
    let missing: Vec<&String> = groups
        .iter()
        .filter(|group| !there.contains_key(*group))
        .collect();
    let there = if missing.is_empty() {
        there
    } else {
        ensure(db, &missing).await?;
        lock(db, groups).await?
    };
    let rows: Vec<(String, String, String)> = group_change::Entity::find()
        .select_only()
        .column(group_change::Column::Id)
        .column(group_change::Column::GroupId)
        .column(group_change::Column::PortId)
        .filter(group_change::Column::GroupId.is_in(groups))
        .limit(most)
        .into_tuple()
        .all(db)
        .await?;
    let mut ids = Vec::new();
    let mut changed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (id, group, port) in rows {
        ids.push(id);
        changed.entry(group).or_default().insert(port);
    }
    for ids in ids.chunks(AT_A_TIME) {
        group_change::Entity::delete_many()
            .filter(group_change::Column::Id.is_in(ids))
            .exec(db)
            .await?;
    }
    if !changed.is_empty() {
        group_revision::Entity::update_many()
            .col_expr(
                group_revision::Column::Revision,
                Expr::col(group_revision::Column::Revision).add(1_i64),
            )
            .col_expr(group_revision::Column::ChangedAt, Expr::value(now))
            .filter(group_revision::Column::GroupId.is_in(changed.keys().cloned()))
            .exec(db)
            .await?;
    }
    Ok(changed
        .into_iter()
        .map(|(group, ports)| Batch {
            revision: there.get(&group).copied().unwrap_or(0) + 1,
            group,
            ports,
        })
        .collect())
}

async fn lock(
    db: &impl ConnectionTrait,
    groups: &[String],
) -> Result<HashMap<String, i64>, DbError> {
    let rows: Vec<(String, i64)> = group_revision::Entity::find()
        .select_only()
        .column(group_revision::Column::GroupId)
        .column(group_revision::Column::Revision)
        .filter(group_revision::Column::GroupId.is_in(groups))
        .order_by_asc(group_revision::Column::GroupId)
        .lock_exclusive()
        .into_tuple()
        .all(db)
        .await?;
    Ok(rows.into_iter().collect())
}

async fn ensure(db: &impl ConnectionTrait, groups: &[&String]) -> Result<(), DbError> {
    let rows = groups.iter().map(|group| group_revision::ActiveModel {
        group_id: Set((*group).clone()),
        revision: Set(0),
        told_revision: Set(0),
        changed_at: Set(0),
    });
    group_revision::Entity::insert_many(rows)
        .on_conflict(
            OnConflict::column(group_revision::Column::GroupId)
                .update_column(group_revision::Column::GroupId)
                .to_owned(),
        )
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// The revisions of groups; those that never changed are not among them.
pub async fn revisions(
    db: &impl ConnectionTrait,
    groups: &[String],
) -> Result<HashMap<String, i64>, DbError> {
    if groups.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<(String, i64)> = group_revision::Entity::find()
        .select_only()
        .column(group_revision::Column::GroupId)
        .column(group_revision::Column::Revision)
        .filter(group_revision::Column::GroupId.is_in(groups))
        .into_tuple()
        .all(db)
        .await?;
    Ok(rows.into_iter().collect())
}

/// Notes that hosts were told of these revisions of groups, which are in order.
pub async fn told(db: &impl ConnectionTrait, revisions: &[(String, i64)]) -> Result<(), DbError> {
    for (group, revision) in revisions {
        group_revision::Entity::update_many()
            .col_expr(group_revision::Column::ToldRevision, Expr::value(*revision))
            .filter(group_revision::Column::GroupId.eq(group))
            .filter(group_revision::Column::ToldRevision.lt(*revision))
            .exec(db)
            .await?;
    }
    Ok(())
}

/// Groups that changed between two moments and whose hosts were not told of all
/// of it: group, revision.
pub async fn untold(
    db: &impl ConnectionTrait,
    since: i64,
    until: i64,
) -> Result<Vec<(String, i64)>, DbError> {
    Ok(group_revision::Entity::find()
        .select_only()
        .column(group_revision::Column::GroupId)
        .column(group_revision::Column::Revision)
        .filter(group_revision::Column::ChangedAt.between(since, until))
        .filter(
            Expr::col(group_revision::Column::Revision)
                .gt(Expr::col(group_revision::Column::ToldRevision)),
        )
        .order_by_asc(group_revision::Column::GroupId)
        .limit(100)
        .into_tuple()
        .all(db)
        .await?)
}

/// The hosts that have ports whose rules let these groups in or out: group, host.
pub async fn hosts(
    db: &impl ConnectionTrait,
    groups: &[String],
) -> Result<Vec<(String, String)>, DbError> {
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    let remote = (rule::Entity, rule::Column::RemoteGroupId);
    let here = (membership::Entity, membership::Column::Host);
    let select = Query::select()
        .distinct()
        .column(remote)
        .column(here)
        .from(rule::Entity)
        .inner_join(
            membership::Entity,
            Expr::col((membership::Entity, membership::Column::GroupId))
                .equals((rule::Entity, rule::Column::GroupId)),
        )
        .and_where(Expr::col(remote).is_in(groups))
        .and_where(Expr::col(here).ne(""))
        .to_owned();
    let mut all = Vec::new();
    for row in db.query_all(&select).await? {
        all.push((
            row.try_get("", rule::Column::RemoteGroupId.as_str())?,
            row.try_get("", membership::Column::Host.as_str())?,
        ));
    }
    Ok(all)
}

/// The addresses that these ports have in these groups: group, port, address.
pub async fn addresses(
    db: &impl ConnectionTrait,
    groups: &[String],
    ports: &[String],
) -> Result<Vec<(String, String, String)>, DbError> {
    let mut all = Vec::new();
    for ports in ports.chunks(AT_A_TIME) {
        let of_ports = membership::Column::PortId.is_in(ports);
        let in_groups = membership::Column::GroupId.is_in(groups);
        all.extend(member_addresses(db, of_ports.and(in_groups)).await?);
    }
    Ok(all)
}

/// Hosts whose agents must be told by their own revisions.
pub async fn other_hosts(db: &impl ConnectionTrait) -> Result<BTreeSet<String>, DbError> {
    let names: Vec<String> = host::Entity::find()
        .select_only()
        .column(host::Column::Name)
        .filter(host::Column::FollowsGroups.eq(false))
        .into_tuple()
        .all(db)
        .await?;
    Ok(names.into_iter().collect())
}

/// Puts the revisions of all groups beyond what any agent may have heard of:
/// agents ask for all members. How many groups.
pub async fn leap(db: &impl ConnectionTrait, now: i64) -> Result<u64, DbError> {
    let beyond = || {
        Expr::case(Expr::col(group_revision::Column::Revision).lt(now), now)
            .finally(Expr::col(group_revision::Column::Revision).add(1_i64))
    };
    let leapt = group_revision::Entity::update_many()
        // First, since MySQL computes with what it has set already.
        .col_expr(group_revision::Column::ToldRevision, beyond().into())
        .col_expr(group_revision::Column::Revision, beyond().into())
        .exec(db)
        .await?;
    Ok(leapt.rows_affected)
}

/// Forgets a group.
pub async fn forget(db: &impl ConnectionTrait, group: &str) -> Result<(), DbError> {
    group_change::Entity::delete_many()
        .filter(group_change::Column::GroupId.eq(group))
        .exec(db)
        .await?;
    group_revision::Entity::delete_by_id(group).exec(db).await?;
    Ok(())
}
