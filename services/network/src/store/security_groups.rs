//! The tables `security_groups` and `security_group_rules`.

use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, EntityTrait, PaginatorTrait,
    QueryFilter, QueryOrder, QuerySelect,
};
use yakumo_contracts::network::ListRequest;
use yakumo_db::DbError;

use super::listing::{self, Field, Kind};
use super::security_group::{ActiveModel, Column, Entity, Model};
use super::{Walls, members, membership, rule};
use crate::app::faults;

const FIELDS: &[Field<Column>] = &[
    ("id", Column::Id, Kind::Text),
    ("name", Column::Name, Kind::Text),
    ("description", Column::Description, Kind::Text),
    ("project_id", Column::ProjectId, Kind::Project),
    ("tenant_id", Column::ProjectId, Kind::Project),
    ("created_at", Column::CreatedAt, Kind::Number),
    ("updated_at", Column::UpdatedAt, Kind::Number),
    ("revision_number", Column::Revision, Kind::Number),
];

const RULE_FIELDS: &[Field<rule::Column>] = &[
    ("id", rule::Column::Id, Kind::Text),
    ("security_group_id", rule::Column::GroupId, Kind::Text),
    ("project_id", rule::Column::ProjectId, Kind::Project),
    ("tenant_id", rule::Column::ProjectId, Kind::Project),
    ("direction", rule::Column::Direction, Kind::Text),
    ("ethertype", rule::Column::Ethertype, Kind::Text),
    ("protocol", rule::Column::Protocol, Kind::Text),
    ("port_range_min", rule::Column::PortMin, Kind::Number),
    ("port_range_max", rule::Column::PortMax, Kind::Number),
    ("remote_ip_prefix", rule::Column::RemoteIpPrefix, Kind::Text),
    ("remote_group_id", rule::Column::RemoteGroupId, Kind::Text),
    ("description", rule::Column::Description, Kind::Text),
    ("created_at", rule::Column::CreatedAt, Kind::Number),
    ("updated_at", rule::Column::UpdatedAt, Kind::Number),
    ("revision_number", rule::Column::Revision, Kind::Number),
];

fn visible(walls: &Walls) -> Condition {
    match walls {
        Walls::All => Condition::all(),
        Walls::Project(project) => Condition::all().add(Column::ProjectId.eq(project)),
    }
}

fn visible_rules(walls: &Walls) -> Condition {
    match walls {
        Walls::All => Condition::all(),
        Walls::Project(project) => Condition::all().add(rule::Column::ProjectId.eq(project)),
    }
}

/// One page of groups.
pub async fn list(
    db: &impl ConnectionTrait,
    walls: &Walls,
    request: &ListRequest,
) -> Result<(Vec<Model>, bool), DbError> {
    let select = Entity::find().filter(visible(walls));
    listing::page(
        db,
        select,
        FIELDS,
        Column::Id,
        request,
        faults::no_security_group,
    )
    .await
}

/// A group that the caller may see.
pub async fn find(
    db: &impl ConnectionTrait,
    walls: &Walls,
    id: &str,
) -> Result<Option<Model>, DbError> {
    Ok(Entity::find_by_id(id)
        .filter(visible(walls))
        .one(db)
        .await?)
}

/// The groups of a project whose id or name is this one.
pub async fn by_name_or_id(
    db: &impl ConnectionTrait,
    project: &str,
    text: &str,
) -> Result<Vec<Model>, DbError> {
    Ok(Entity::find()
        .filter(Column::ProjectId.eq(project))
        .filter(
            Condition::any()
                .add(Column::Id.eq(text))
                .add(Column::Name.eq(text)),
        )
        .all(db)
        .await?)
}

/// Several groups, whoever may see them.
pub async fn by_ids(db: &impl ConnectionTrait, ids: &[String]) -> Result<Vec<Model>, DbError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    Ok(Entity::find().filter(Column::Id.is_in(ids)).all(db).await?)
}

/// The default group of a project, if it was made.
pub async fn default_of(
    db: &impl ConnectionTrait,
    project: &str,
) -> Result<Option<Model>, DbError> {
    Ok(Entity::find()
        .filter(Column::DefaultOf.eq(project))
        .one(db)
        .await?)
}

/// Inserts a group.
pub async fn insert(db: &impl ConnectionTrait, row: Model) -> Result<(), DbError> {
    let active: ActiveModel = row.into();
    Entity::insert(active.reset_all())
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// Puts a changed group back.
pub async fn update(db: &impl ConnectionTrait, row: Model) -> Result<(), DbError> {
    let active: ActiveModel = row.into();
    active.reset_all().update(db).await?;
    Ok(())
}

/// How many ports are in a group.
pub async fn count_members(db: &impl ConnectionTrait, id: &str) -> Result<u64, DbError> {
    Ok(membership::Entity::find()
        .filter(membership::Column::GroupId.eq(id))
        .count(db)
        .await?)
}

/// Removes a group with its rules, and the rules of others that name it.
pub async fn delete(db: &impl ConnectionTrait, id: &str) -> Result<(), DbError> {
    rule::Entity::delete_many()
        .filter(
            Condition::any()
                .add(rule::Column::GroupId.eq(id))
                .add(rule::Column::RemoteGroupId.eq(id)),
        )
        .exec(db)
        .await?;
    members::forget(db, id).await?;
    Entity::delete_by_id(id).exec(db).await?;
    Ok(())
}

/// One page of rules.
pub async fn list_rules(
    db: &impl ConnectionTrait,
    walls: &Walls,
    request: &ListRequest,
) -> Result<(Vec<rule::Model>, bool), DbError> {
    let select = rule::Entity::find().filter(visible_rules(walls));
    listing::page(
        db,
        select,
        RULE_FIELDS,
        rule::Column::Id,
        request,
        faults::no_rule,
    )
    .await
}

/// A rule that the caller may see.
pub async fn find_rule(
    db: &impl ConnectionTrait,
    walls: &Walls,
    id: &str,
) -> Result<Option<rule::Model>, DbError> {
    Ok(rule::Entity::find_by_id(id)
        .filter(visible_rules(walls))
        .one(db)
        .await?)
}

/// The rules of these groups, oldest first.
pub async fn rules_of(
    db: &impl ConnectionTrait,
    groups: &[String],
) -> Result<Vec<rule::Model>, DbError> {
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    Ok(rule::Entity::find()
        .filter(rule::Column::GroupId.is_in(groups))
        .order_by_asc(rule::Column::CreatedAt)
        .order_by_asc(rule::Column::Id)
        .all(db)
        .await?)
}

/// The rule of a group that says this, if there is one.
pub async fn saying(
    db: &impl ConnectionTrait,
    group: &str,
    fingerprint: &str,
) -> Result<Option<rule::Model>, DbError> {
    Ok(rule::Entity::find()
        .filter(rule::Column::GroupId.eq(group))
        .filter(rule::Column::Fingerprint.eq(fingerprint))
        .one(db)
        .await?)
}

/// Makes ports that join a group at this moment wait, or waits for them: the
/// hosts of a changed group would be counted without them.
pub async fn lock(db: &impl ConnectionTrait, id: &str) -> Result<(), DbError> {
    Entity::find_by_id(id).lock_exclusive().one(db).await?;
    Ok(())
}

/// Inserts rules.
pub async fn insert_rules(
    db: &impl ConnectionTrait,
    rows: Vec<rule::Model>,
) -> Result<(), DbError> {
    if rows.is_empty() {
        return Ok(());
    }
    let rows = rows.into_iter().map(|row| {
        let active: rule::ActiveModel = row.into();
        active.reset_all()
    });
    rule::Entity::insert_many(rows)
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// Removes a rule.
pub async fn delete_rule(db: &impl ConnectionTrait, id: &str) -> Result<(), DbError> {
    rule::Entity::delete_by_id(id).exec(db).await?;
    Ok(())
}
