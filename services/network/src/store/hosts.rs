//! The table `hosts`: who has an agent, what it should have, what it has.
//!
//! Beside each revision stands which ports made it, in `host_changes`, as long as
//! an agent may ask for that.

use std::collections::{BTreeSet, HashMap};

use sea_orm::sea_query::{Expr, ExprTrait as _, OnConflict, Query};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, IdenStatic, QueryFilter, QueryOrder, QuerySelect,
    Set,
};
use yakumo_db::{Backend, DbError};

use super::host::{ActiveModel, Column, Entity, Model};
use super::host_change;

/// A host by its name.
pub async fn find(db: &impl ConnectionTrait, name: &str) -> Result<Option<Model>, DbError> {
    Ok(Entity::find_by_id(name).one(db).await?)
}

/// All hosts that were heard.
pub async fn all(db: &impl ConnectionTrait) -> Result<Vec<Model>, DbError> {
    Ok(Entity::find()
        .filter(Column::HostId.ne(""))
        .order_by_asc(Column::Name)
        .all(db)
        .await?)
}

/// Hosts that do not have yet what they should have.
pub async fn behind(db: &impl ConnectionTrait, heard_since: i64) -> Result<Vec<Model>, DbError> {
    Ok(Entity::find()
        .filter(Expr::col(Column::Revision).gt(Expr::col(Column::AppliedRevision)))
        .filter(Column::HeardAt.gte(heard_since))
        .limit(1000)
        .all(db)
        .await?)
}

fn empty(name: &str, now: i64) -> ActiveModel {
    ActiveModel {
        name: Set(name.to_owned()),
        host_id: Set(String::new()),
        driver: Set(String::new()),
        availability_zone: Set(String::new()),
        revision: Set(1),
        full_revision: Set(1),
        applied_revision: Set(0),
        follows_groups: Set(false),
        started_at: Set(0),
        heard_at: Set(0),
        created_at: Set(now),
    }
}

async fn ensure(db: &impl ConnectionTrait, name: &str, now: i64) -> Result<(), DbError> {
    Entity::insert(empty(name, now))
        .on_conflict(
            OnConflict::column(Column::Name)
                .update_column(Column::Name)
                .to_owned(),
        )
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// How many hosts are raised by one statement, and changes noted.
const AT_A_TIME: usize = 500;

/// What made hosts' revisions go up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Ports, which [`note`] tells.
    Ports,
    /// Something else: agents need everything.
    Other,
}

/// A host whose revision went up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raised {
    /// The new revision.
    pub revision: i64,
    /// Whether there ever was an agent.
    pub heard: bool,
}

/// Raises the revision of hosts, which locks their rows until the transaction
/// ends. The names are ordered and differ.
pub async fn bump(
    db: &impl ConnectionTrait,
    names: &[String],
    cause: Cause,
    now: i64,
) -> Result<HashMap<String, Raised>, DbError> {
    let mut all = HashMap::new();
    for names in names.chunks(AT_A_TIME) {
        if names.len() > 1 && Backend::of(db) != Backend::Sqlite {
            // One statement takes its rows in any order; in the same one each
            // time, no two transactions wait for each other.
            let _: Vec<String> = Entity::find()
                .select_only()
                .column(Column::Name)
                .filter(Column::Name.is_in(names))
                .order_by_asc(Column::Name)
                .lock_exclusive()
                .into_tuple()
                .all(db)
                .await?;
        }
        all.extend(raise(db, names, cause).await?);
        let missing: Vec<String> = names
            .iter()
            .filter(|name| !all.contains_key(*name))
            .cloned()
            .collect();
        if missing.is_empty() {
            continue;
        }
        for name in &missing {
            ensure(db, name, now).await?;
        }
        all.extend(raise(db, &missing, cause).await?);
    }
    Ok(all)
}

async fn raise(
    db: &impl ConnectionTrait,
    names: &[String],
    cause: Cause,
) -> Result<HashMap<String, Raised>, DbError> {
    let raised = || Expr::col(Column::Revision).add(1_i64);
    let mut update = Query::update();
    update.table(Entity);
    // First, since MySQL computes with what it has set already.
    if cause == Cause::Other {
        update.value(Column::FullRevision, raised());
    }
    update
        .value(Column::Revision, raised())
        .and_where(Column::Name.is_in(names));
    let columns = [Column::Name, Column::Revision, Column::HostId];
    let rows = if Backend::of(db) == Backend::Mysql {
        db.execute(&update).await?;
        let select = Query::select()
            .columns(columns)
            .from(Entity)
            .and_where(Column::Name.is_in(names))
            .to_owned();
        db.query_all(&select).await?
    } else {
        update.returning(Query::returning().columns(columns));
        db.query_all(&update).await?
    };
    let mut all = HashMap::new();
    for row in rows {
        let host_id: String = row.try_get("", Column::HostId.as_str())?;
        let raised = Raised {
            revision: row.try_get("", Column::Revision.as_str())?,
            heard: !host_id.is_empty(),
        };
        all.insert(row.try_get("", Column::Name.as_str())?, raised);
    }
    Ok(all)
}

/// Notes which ports changed something, for each host with the revision that
/// this made: host, revision, port.
pub async fn note(
    db: &impl ConnectionTrait,
    changes: Vec<(String, i64, String)>,
) -> Result<(), DbError> {
    for changes in changes.chunks(AT_A_TIME) {
        let rows = changes
            .iter()
            .map(|(host, revision, port)| host_change::ActiveModel {
                host: Set(host.clone()),
                revision: Set(*revision),
                port_id: Set(port.clone()),
            });
        host_change::Entity::insert_many(rows)
            .exec_without_returning(db)
            .await?;
    }
    Ok(())
}

/// What became of what a host should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// The host's revision.
    pub revision: i64,
    /// Whoever has an older one than this needs everything.
    pub full_revision: i64,
    /// The ports that changed something after the revision that was asked for.
    pub ports: BTreeSet<String>,
    /// Whether there are more of them.
    pub more: bool,
}

/// What became of a host since a revision, with at most so many changes;
/// `None` for a host that nothing was ever heard of. It is one statement: what
/// is purged at the same moment is there, or `full_revision` tells of it.
pub async fn news(
    db: &impl ConnectionTrait,
    name: &str,
    since: i64,
    most: usize,
) -> Result<Option<News>, DbError> {
    let of_host =
        Expr::col((host_change::Entity, host_change::Column::Host)).equals((Entity, Column::Name));
    let newer = Expr::col((host_change::Entity, host_change::Column::Revision)).gt(since);
    let select = Query::select()
        .columns([(Entity, Column::Revision), (Entity, Column::FullRevision)])
        .column((host_change::Entity, host_change::Column::PortId))
        .from(Entity)
        .left_join(host_change::Entity, of_host.and(newer))
        .and_where(Column::Name.eq(name))
        .limit(u64::try_from(most).unwrap_or(u64::MAX - 1) + 1)
        .to_owned();
    let rows = db.query_all(&select).await?;
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let mut ports = BTreeSet::new();
    for row in rows.iter().take(most) {
        let port: Option<String> = row.try_get("", host_change::Column::PortId.as_str())?;
        ports.extend(port);
    }
    Ok(Some(News {
        revision: first.try_get("", Column::Revision.as_str())?,
        full_revision: first.try_get("", Column::FullRevision.as_str())?,
        ports,
        more: rows.len() > most,
    }))
}

/// Forgets the changes of hosts: their agents will get everything.
pub async fn forget_changes(db: &impl ConnectionTrait, names: &[String]) -> Result<(), DbError> {
    for name in names {
        Entity::update_many()
            .col_expr(Column::FullRevision, Expr::col(Column::Revision))
            .filter(Column::Name.eq(name.as_str()))
            .exec(db)
            .await?;
        // The row is locked: nothing newer can come before the commit.
        let Some(row) = find(db, name).await? else {
            continue;
        };
        host_change::Entity::delete_many()
            .filter(host_change::Column::Host.eq(name.as_str()))
            .filter(host_change::Column::Revision.lte(row.full_revision))
            .exec(db)
            .await?;
    }
    Ok(())
}

/// Hosts that have gone through so many revisions without taking any.
pub async fn overdue(db: &impl ConnectionTrait, most: i64) -> Result<Vec<String>, DbError> {
    Ok(Entity::find()
        .select_only()
        .column(Column::Name)
        .filter(Expr::col(Column::Revision).gt(Expr::col(Column::FullRevision).add(most)))
        .order_by_asc(Column::Name)
        .limit(100)
        .into_tuple()
        .all(db)
        .await?)
}

/// What an agent says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// The host's own id.
    pub host_id: String,
    /// `real` or `simulated`.
    pub driver: String,
    /// Its zone.
    pub zone: String,
    /// When it started.
    pub started_at: i64,
    /// Whether it takes changes of groups by themselves.
    pub follows_groups: bool,
}

impl Who {
    /// Whether this is known of a host.
    pub fn is(&self, host: &Model) -> bool {
        host.host_id == self.host_id
            && host.started_at == self.started_at
            && host.driver == self.driver
            && host.availability_zone == self.zone
            && host.follows_groups == self.follows_groups
    }
}

/// Notes a sign of life.
pub async fn heard(
    db: &impl ConnectionTrait,
    name: &str,
    who: Who,
    now: i64,
) -> Result<Model, DbError> {
    ensure(db, name, now).await?;
    Entity::update_many()
        .col_expr(Column::HostId, Expr::value(who.host_id))
        .col_expr(Column::Driver, Expr::value(who.driver))
        .col_expr(Column::AvailabilityZone, Expr::value(who.zone))
        .col_expr(Column::StartedAt, Expr::value(who.started_at))
        .col_expr(Column::FollowsGroups, Expr::value(who.follows_groups))
        .col_expr(Column::HeardAt, Expr::value(now))
        .filter(Column::Name.eq(name))
        .exec(db)
        .await?;
    find(db, name).await?.ok_or(DbError::NotFound)
}

/// Notes a sign of life of hosts that are known.
pub async fn beat(db: &impl ConnectionTrait, names: &[String], now: i64) -> Result<(), DbError> {
    for names in names.chunks(AT_A_TIME) {
        Entity::update_many()
            .col_expr(Column::HeardAt, Expr::value(now))
            .filter(Column::Name.is_in(names))
            .exec(db)
            .await?;
    }
    Ok(())
}

/// Notes what a host has made real, and forgets the changes that led there; an
/// older word than the last one changes nothing.
pub async fn applied(db: &impl ConnectionTrait, name: &str, revision: i64) -> Result<(), DbError> {
    let full = Expr::case(Column::FullRevision.lt(revision), revision)
        .finally(Expr::col(Column::FullRevision));
    let noted = Entity::update_many()
        .col_expr(Column::AppliedRevision, Expr::value(revision))
        .col_expr(Column::FullRevision, full.into())
        .filter(Column::Name.eq(name))
        .filter(Column::AppliedRevision.lt(revision))
        .filter(Column::Revision.gte(revision))
        .exec(db)
        .await?;
    if noted.rows_affected > 0 {
        host_change::Entity::delete_many()
            .filter(host_change::Column::Host.eq(name))
            .filter(host_change::Column::Revision.lte(revision))
            .exec(db)
            .await?;
    }
    Ok(())
}

/// Puts the revision of a host, or of all, beyond what any agent may have heard
/// of: agents pull everything. How many hosts.
pub async fn leap(db: &impl ConnectionTrait, name: Option<&str>, now: i64) -> Result<u64, DbError> {
    let beyond = || {
        Expr::case(Expr::col(Column::Revision).lt(now), now)
            .finally(Expr::col(Column::Revision).add(1_i64))
    };
    let mut changes = host_change::Entity::delete_many();
    // First, since MySQL computes with what it has set already.
    let mut update = Entity::update_many()
        .col_expr(Column::FullRevision, beyond().into())
        .col_expr(Column::Revision, beyond().into());
    if let Some(name) = name {
        changes = changes.filter(host_change::Column::Host.eq(name));
        update = update.filter(Column::Name.eq(name));
    }
    changes.exec(db).await?;
    Ok(update.exec(db).await?.rows_affected)
}

/// Forgets a host and its changes; whether it was known.
pub async fn delete(db: &impl ConnectionTrait, name: &str) -> Result<bool, DbError> {
    host_change::Entity::delete_many()
        .filter(host_change::Column::Host.eq(name))
        .exec(db)
        .await?;
    let deleted = Entity::delete_by_id(name).exec(db).await?;
    Ok(deleted.rows_affected > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Migrator;
    use yakumo_db::Db;
    use yakumo_testing::databases::{ALL, fresh};

    #[tokio::test]
    async fn changes_are_kept_until_they_were_taken_or_are_too_many() {
        for backend in ALL {
            let database = fresh(backend).await.unwrap();
            let db = Db::connect(&database.config).await.unwrap();
            db.migrate::<Migrator>().await.unwrap();
            let touch = async |cause, port: &'static str| {
                let raised = db.write(move |txn| {
                    Box::pin(async move {
                        let raised = bump(txn, &["a".into(), "b".into()], cause, 1).await?;
                        let revision = raised["a"].revision;
                        if cause == Cause::Ports {
                            note(txn, vec![("a".into(), revision, port.into())]).await?;
                        }
                        Ok(revision)
                    })
                });
                raised.await.unwrap()
            };
            let told = async |since, most| {
                let news = news(db.read(), "a", since, most).await.unwrap().unwrap();
                let ports: Vec<String> = news.ports.into_iter().collect();
                (news.full_revision, ports.join(" "), news.more)
            };
            assert_eq!(touch(Cause::Ports, "x").await, 2, "{backend:?}");
            assert_eq!(touch(Cause::Ports, "y").await, 3);
            assert_eq!(touch(Cause::Ports, "x").await, 4);
            assert_eq!(told(1, 9).await, (1, "x y".into(), false));
            assert_eq!(told(3, 9).await, (1, "x".into(), false));
            assert_eq!(told(4, 9).await, (1, String::new(), false));
            assert!(told(1, 2).await.2);
            // What the host has needs no telling.
            db.write(|txn| Box::pin(applied(txn, "a", 3)))
                .await
                .unwrap();
            assert_eq!(told(1, 9).await, (3, "x".into(), false));
            // What no port tells.
            assert_eq!(touch(Cause::Other, "").await, 5);
            assert_eq!(told(4, 9).await, (5, String::new(), false));
            assert_eq!(touch(Cause::Ports, "z").await, 6);
            assert_eq!(overdue(db.read(), 1).await.unwrap(), [""; 0]);
            assert_eq!(overdue(db.read(), 0).await.unwrap(), ["a", "b"]);
            let late = ["a".to_owned()];
            db.write(move |txn| {
                let late = late.clone();
                Box::pin(async move { forget_changes(txn, &late).await })
            })
            .await
            .unwrap();
            assert_eq!(told(1, 9).await, (6, String::new(), false));
            let none = news(db.read(), "nobody", 0, 9).await.unwrap();
            assert_eq!(none, None);
            db.close().await;
        }
    }
}
