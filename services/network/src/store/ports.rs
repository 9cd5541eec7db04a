//! The tables `ports`, `macs` and `port_security_groups`.
//!
//! A deleted port that was bound to a host keeps its row, and so its address,
//! until the host has said that nothing is left of it; nobody sees it meanwhile.
//! A port that outlives its server stays bound to both for as long. Either has a
//! `release_revision`: that of its host which no longer has the port.

use sea_orm::sea_query::{Expr, ExprTrait as _, OnConflict, Query, SelectStatement, SimpleExpr};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, EntityTrait, IdenStatic,
    PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Set,
};
use yakumo_contracts::network::ListRequest;
use yakumo_db::{Backend, DbError};

use super::entity::mac;
use super::listing::{self, Field, Kind};
use super::port::{ActiveModel, Column, Entity, Model};
use super::{Walls, address, addresses, host, membership, network, rule, security_group};
use crate::app::faults;

const FIELDS: &[Field<Column>] = &[
    ("id", Column::Id, Kind::Text),
    ("name", Column::Name, Kind::Text),
    ("description", Column::Description, Kind::Text),
    ("network_id", Column::NetworkId, Kind::Text),
    ("project_id", Column::ProjectId, Kind::Project),
    ("tenant_id", Column::ProjectId, Kind::Project),
    ("mac_address", Column::Mac, Kind::Text),
    ("admin_state_up", Column::AdminStateUp, Kind::Bool),
    ("status", Column::Status, Kind::Text),
    ("device_id", Column::DeviceId, Kind::Text),
    ("device_owner", Column::DeviceOwner, Kind::Text),
    ("binding:host_id", Column::Host, Kind::Text),
    ("port_security_enabled", Column::PortSecurity, Kind::Bool),
    ("created_at", Column::CreatedAt, Kind::Number),
    ("updated_at", Column::UpdatedAt, Kind::Number),
    ("revision_number", Column::Revision, Kind::Number),
];

/// A project sees its own ports, and all on its own networks.
fn visible(walls: &Walls) -> Condition {
    let alive = Condition::all().add(Column::ReleasedAt.eq(0_i64));
    match walls {
        Walls::All => alive,
        Walls::Project(project) => {
            let own = network::Entity::find()
                .select_only()
                .column(network::Column::Id)
                .filter(network::Column::ProjectId.eq(project))
                .into_query();
            alive.add(
                Condition::any()
                    .add(Column::ProjectId.eq(project))
                    .add(Column::NetworkId.in_subquery(own)),
            )
        }
    }
}

/// One page. `fixed_ips` and `security_groups` can be filtered by as well.
pub async fn list(
    db: &impl ConnectionTrait,
    walls: &Walls,
    request: &ListRequest,
) -> Result<(Vec<Model>, bool), DbError> {
    let mut select = Entity::find().filter(visible(walls));
    if let Some(values) = listing::filter(request, "fixed_ips") {
        let part = |key: &str| -> Vec<String> {
            values
                .iter()
                .filter_map(|value| value.strip_prefix(key))
                .map(str::to_owned)
                .collect()
        };
        let owners = addresses::owners(db, &part("ip_address="), &part("subnet_id=")).await?;
        select = select.filter(Column::Id.is_in(owners));
    }
    if let Some(groups) = listing::filter(request, "security_groups") {
        let members = membership::Entity::find()
            .select_only()
            .column(membership::Column::PortId)
            .filter(membership::Column::GroupId.is_in(groups))
            .into_query();
        select = select.filter(Column::Id.in_subquery(members));
    }
    listing::page(db, select, FIELDS, Column::Id, request, faults::no_port).await
}

/// A port that the caller may see.
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

/// Several living ports, whoever may see them.
pub async fn by_ids(db: &impl ConnectionTrait, ids: &[String]) -> Result<Vec<Model>, DbError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    Ok(Entity::find()
        .filter(Column::Id.is_in(ids))
        .filter(Column::ReleasedAt.eq(0_i64))
        .all(db)
        .await?)
}

/// The living ports that these servers have, in their order. What a project
/// merely calls by a server's id is none of the server's.
pub async fn of_devices(
    db: &impl ConnectionTrait,
    devices: &[String],
) -> Result<Vec<Model>, DbError> {
    if devices.is_empty() {
        return Ok(Vec::new());
    }
    Ok(Entity::find()
        .filter(Column::DeviceId.is_in(devices))
        .filter(Column::DeviceOwner.starts_with("compute:"))
        .filter(Column::ReleaseRevision.eq(0_i64))
        .order_by_asc(Column::Ordinal)
        .order_by_asc(Column::Id)
        .all(db)
        .await?)
}

/// The living ports that are bound to a host.
pub async fn on_host(db: &impl ConnectionTrait, host: &str) -> Result<Vec<Model>, DbError> {
    Ok(Entity::find()
        .filter(Column::Host.eq(host))
        .filter(Column::ReleaseRevision.eq(0_i64))
        .filter(Column::DeviceId.ne(""))
        .order_by_asc(Column::Id)
        .all(db)
        .await?)
}

/// How many living ports each of these hosts has, and on how many networks.
pub async fn count_on_hosts(
    db: &impl ConnectionTrait,
    hosts: &[String],
) -> Result<Vec<(String, i64, i64)>, DbError> {
    if hosts.is_empty() {
        return Ok(Vec::new());
    }
    Ok(Entity::find()
        .select_only()
        .column(Column::Host)
        .column_as(Column::Id.count(), "ports")
        .column_as(Expr::col(Column::NetworkId).count_distinct(), "networks")
        .filter(Column::Host.is_in(hosts))
        .filter(Column::ReleaseRevision.eq(0_i64))
        .group_by(Column::Host)
        .into_tuple()
        .all(db)
        .await?)
}

/// Those of these ports that [`on_host`] gives.
pub async fn of_host(
    db: &impl ConnectionTrait,
    host: &str,
    ids: &[String],
) -> Result<Vec<Model>, DbError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    Ok(Entity::find()
        .filter(Column::Id.is_in(ids))
        .filter(Column::Host.eq(host))
        .filter(Column::ReleaseRevision.eq(0_i64))
        .filter(Column::DeviceId.ne(""))
        .order_by_asc(Column::Id)
        .all(db)
        .await?)
}

/// The ids of what [`on_host`] gives, for conditions.
pub(super) fn ids_on_host(host: &str) -> SelectStatement {
    Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(Column::Host.eq(host))
        .filter(Column::ReleaseRevision.eq(0_i64))
        .filter(Column::DeviceId.ne(""))
        .into_query()
}

/// The hosts that have living ports meeting the condition.
async fn hosts_where(
    db: &impl ConnectionTrait,
    condition: Condition,
) -> Result<Vec<String>, DbError> {
    Ok(Entity::find()
        .select_only()
        .column(Column::Host)
        .distinct()
        .filter(Column::Host.ne(""))
        .filter(Column::ReleaseRevision.eq(0_i64))
        .filter(condition)
        .into_tuple()
        .all(db)
        .await?)
}

/// The hosts that have ports on these networks.
pub async fn hosts_of_networks(
    db: &impl ConnectionTrait,
    networks: &[String],
) -> Result<Vec<String>, DbError> {
    hosts_where(db, Condition::all().add(Column::NetworkId.is_in(networks))).await
}

/// The hosts that have ports in one of these groups.
pub async fn hosts_of_groups(
    db: &impl ConnectionTrait,
    groups: &[String],
) -> Result<Vec<String>, DbError> {
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    let member = Expr::col((membership::Entity, membership::Column::GroupId));
    hosts_with_members(db, member.is_in(groups.iter().map(String::as_str))).await
}

/// The hosts that have ports whose rules let one of these groups in or out: they
/// need the addresses of its members.
pub async fn hosts_naming(
    db: &impl ConnectionTrait,
    groups: &[String],
) -> Result<Vec<String>, DbError> {
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    let naming = rule::Entity::find()
        .select_only()
        .column(rule::Column::GroupId)
        .filter(rule::Column::RemoteGroupId.is_in(groups))
        .into_query();
    let member = Expr::col((membership::Entity, membership::Column::GroupId));
    hosts_with_members(db, member.in_subquery(naming)).await
}

/// Asks for each host whether it has any: a group may have ten thousand members,
/// and a host as many ports of others.
async fn hosts_with_members(
    db: &impl ConnectionTrait,
    of_groups: SimpleExpr,
) -> Result<Vec<String>, DbError> {
    let member = Query::select()
        .expr(Expr::val(1_i64))
        .from(membership::Entity)
        .and_where(
            Expr::col((membership::Entity, membership::Column::Host))
                .equals((host::Entity, host::Column::Name)),
        )
        .and_where(of_groups)
        .to_owned();
    Ok(host::Entity::find()
        .select_only()
        .column(host::Column::Name)
        .filter(Expr::exists(member))
        .into_tuple()
        .all(db)
        .await?)
}

/// How many living ports a network has whose owner is none of these.
pub async fn count_on_network(
    db: &impl ConnectionTrait,
    network: &str,
    except: &[&str],
) -> Result<u64, DbError> {
    Ok(Entity::find()
        .filter(Column::NetworkId.eq(network))
        .filter(Column::DeviceOwner.is_not_in(except.iter().copied()))
        .count(db)
        .await?)
}

/// Whether a MAC was ever used; remembers it.
pub async fn remember_mac(db: &impl ConnectionTrait, text: &str) -> Result<bool, DbError> {
    let row = mac::ActiveModel {
        mac: Set(text.to_owned()),
    };
    if Backend::of(db) != Backend::Mysql {
        let inserted = mac::Entity::insert(row)
            .on_conflict(OnConflict::column(mac::Column::Mac).do_nothing().to_owned())
            .exec_without_returning(db)
            .await?;
        return Ok(inserted == 0);
    }
    if mac::Entity::find_by_id(text).one(db).await?.is_some() {
        return Ok(true);
    }
    match mac::Entity::insert(row)
        .exec_without_returning(db)
        .await
        .map_err(DbError::from)
    {
        Err(DbError::Conflict { .. }) => Err(DbError::Contended),
        other => other.map(|_| false),
    }
}

/// Whether a port has this MAC now.
pub async fn mac_is_in_use(db: &impl ConnectionTrait, text: &str) -> Result<bool, DbError> {
    Ok(Entity::find()
        .filter(Column::Mac.eq(text))
        .count(db)
        .await?
        > 0)
}

/// Inserts ports.
pub async fn insert(db: &impl ConnectionTrait, rows: &[Model]) -> Result<(), DbError> {
    let rows = rows.iter().map(|row| {
        let active: ActiveModel = row.clone().into();
        active.reset_all()
    });
    Entity::insert_many(rows).exec_without_returning(db).await?;
    Ok(())
}

/// Puts a changed port back. One that is on another host than before is found
/// there by its groups.
pub async fn update(db: &impl ConnectionTrait, row: Model) -> Result<(), DbError> {
    let (id, host) = (row.id.clone(), row.host.clone());
    let active: ActiveModel = row.into();
    active.reset_all().update(db).await?;
    move_memberships(db, std::slice::from_ref(&id), &host).await
}

async fn move_memberships(
    db: &impl ConnectionTrait,
    ports: &[String],
    host: &str,
) -> Result<(), DbError> {
    membership::Entity::update_many()
        .col_expr(membership::Column::Host, Expr::value(host))
        .filter(membership::Column::PortId.is_in(ports))
        .filter(membership::Column::Host.ne(host))
        .exec(db)
        .await?;
    Ok(())
}

/// Lets ports go that their host has until it has made a revision real. They are
/// in no group any more.
pub async fn release(
    db: &impl ConnectionTrait,
    ids: &[String],
    revision: i64,
    now: i64,
) -> Result<(), DbError> {
    Entity::update_many()
        .col_expr(Column::ReleasedAt, Expr::value(now))
        .col_expr(Column::ReleaseRevision, Expr::value(revision))
        .filter(Column::Id.is_in(ids))
        .exec(db)
        .await?;
    Ok(())
}

/// Removes ports for good, with their memberships.
pub async fn delete(db: &impl ConnectionTrait, ids: &[String]) -> Result<(), DbError> {
    if ids.is_empty() {
        return Ok(());
    }
    leave_groups(db, ids).await?;
    Entity::delete_many()
        .filter(Column::Id.is_in(ids))
        .exec(db)
        .await?;
    Ok(())
}

/// How many ports a host has and is not to let go, and the ids of some.
pub async fn bound_to(
    db: &impl ConnectionTrait,
    host: &str,
    limit: u64,
) -> Result<(u64, Vec<String>), DbError> {
    let bound = || {
        Entity::find()
            .filter(Column::Host.eq(host))
            .filter(Column::ReleasedAt.eq(0_i64))
            .filter(Column::ReleaseRevision.eq(0_i64))
    };
    let count = bound().count(db).await?;
    let some = bound()
        .select_only()
        .column(Column::Id)
        .order_by_asc(Column::Id)
        .limit(limit)
        .into_tuple()
        .all(db)
        .await?;
    Ok((count, some))
}

/// Ports of which a host has nothing left.
#[derive(Debug, Default)]
pub struct Released {
    /// They were deleted.
    pub deleted: Vec<String>,
    /// They live on without the host and their server.
    pub unbound: Vec<String>,
}

/// The ports that a host no longer has, by what it said.
pub async fn released_by(
    db: &impl ConnectionTrait,
    host: &str,
    revision: i64,
) -> Result<Released, DbError> {
    let rows: Vec<(String, i64)> = Entity::find()
        .select_only()
        .column(Column::Id)
        .column(Column::ReleasedAt)
        .filter(Column::Host.eq(host))
        .filter(Column::ReleaseRevision.between(1, revision))
        .into_tuple()
        .all(db)
        .await?;
    let mut released = Released::default();
    for (id, released_at) in rows {
        if released_at > 0 {
            released.deleted.push(id);
        } else {
            released.unbound.push(id);
        }
    }
    Ok(released)
}

/// Takes living ports off their host and their server.
pub async fn unbind(db: &impl ConnectionTrait, ids: &[String], now: i64) -> Result<(), DbError> {
    if ids.is_empty() {
        return Ok(());
    }
    Entity::update_many()
        .col_expr(Column::DeviceId, Expr::value(""))
        .col_expr(Column::DeviceOwner, Expr::value(""))
        .col_expr(Column::Host, Expr::value(""))
        .col_expr(Column::Status, Expr::value("DOWN"))
        .col_expr(Column::ReleaseRevision, Expr::value(0_i64))
        .col_expr(Column::UpdatedAt, Expr::value(now))
        .col_expr(Column::Revision, Expr::col(Column::Revision).add(1_i64))
        .filter(Column::Id.is_in(ids))
        .exec(db)
        .await?;
    move_memberships(db, ids, "").await
}

/// How many ports of a device, deleted or not, still wait for a host.
pub async fn count_leaving(db: &impl ConnectionTrait, device: &str) -> Result<u64, DbError> {
    Ok(Entity::find()
        .filter(Column::DeviceId.eq(device))
        .filter(Column::ReleaseRevision.gt(0_i64))
        .count(db)
        .await?)
}

/// How many deleted ports of a network still wait for a host.
pub async fn count_returning(db: &impl ConnectionTrait, network: &str) -> Result<u64, DbError> {
    Ok(Entity::find()
        .filter(Column::NetworkId.eq(network))
        .filter(Column::ReleasedAt.gt(0_i64))
        .count(db)
        .await?)
}

/// Marks the wired ports of a host as working; returns the number of changes.
pub async fn mark_active(
    db: &impl ConnectionTrait,
    host: &str,
    ids: &[String],
    now: i64,
) -> Result<u64, DbError> {
    if ids.is_empty() {
        return Ok(0);
    }
    let changed = Entity::update_many()
        .col_expr(Column::Status, Expr::value("ACTIVE"))
        .col_expr(Column::UpdatedAt, Expr::value(now))
        .filter(Column::Host.eq(host))
        .filter(Column::Id.is_in(ids))
        .filter(Column::Status.ne("ACTIVE"))
        .filter(Column::AdminStateUp.eq(true))
        .exec(db)
        .await?;
    Ok(changed.rows_affected)
}

/// The groups of these ports: port, group.
pub async fn memberships(
    db: &impl ConnectionTrait,
    ports: &[String],
) -> Result<Vec<(String, String)>, DbError> {
    if ports.is_empty() {
        return Ok(Vec::new());
    }
    let rows = membership::Entity::find()
        .filter(membership::Column::PortId.is_in(ports))
        .order_by_asc(membership::Column::GroupId)
        .all(db)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.port_id, row.group_id))
        .collect())
}

/// The names of the groups of these ports: port, name.
pub async fn group_names(
    db: &impl ConnectionTrait,
    ports: &[String],
) -> Result<Vec<(String, String)>, DbError> {
    if ports.is_empty() {
        return Ok(Vec::new());
    }
    let group = (security_group::Entity, security_group::Column::Id);
    let select = Query::select()
        .column((membership::Entity, membership::Column::PortId))
        .column((security_group::Entity, security_group::Column::Name))
        .from(membership::Entity)
        .inner_join(
            security_group::Entity,
            Expr::col(group).equals((membership::Entity, membership::Column::GroupId)),
        )
        .and_where(membership::Column::PortId.is_in(ports))
        .to_owned();
    let mut names = Vec::new();
    for row in db.query_all(&select).await? {
        names.push((
            row.try_get("", membership::Column::PortId.as_str())?,
            row.try_get("", security_group::Column::Name.as_str())?,
        ));
    }
    Ok(names)
}

/// What [`memberships`] gives, for all ports that a host should have.
pub async fn memberships_on_host(
    db: &impl ConnectionTrait,
    host: &str,
) -> Result<Vec<(String, String)>, DbError> {
    Ok(membership::Entity::find()
        .select_only()
        .column(membership::Column::PortId)
        .column(membership::Column::GroupId)
        .filter(membership::Column::PortId.in_subquery(ids_on_host(host)))
        .order_by_asc(membership::Column::GroupId)
        .into_tuple()
        .all(db)
        .await?)
}

/// Puts a port into exactly these groups.
pub async fn set_groups(
    db: &impl ConnectionTrait,
    port: &Model,
    groups: &[String],
) -> Result<(), DbError> {
    leave_groups(db, std::slice::from_ref(&port.id)).await?;
    join_groups(db, std::slice::from_ref(port), groups).await
}

/// Takes ports out of all groups.
pub async fn leave_groups(db: &impl ConnectionTrait, ports: &[String]) -> Result<(), DbError> {
    if ports.is_empty() {
        return Ok(());
    }
    membership::Entity::delete_many()
        .filter(membership::Column::PortId.is_in(ports))
        .exec(db)
        .await?;
    Ok(())
}

/// Puts ports that are in no group yet into groups.
pub async fn join_groups(
    db: &impl ConnectionTrait,
    ports: &[Model],
    groups: &[String],
) -> Result<(), DbError> {
    let rows = ports.iter().flat_map(|port| {
        groups.iter().map(|group| membership::ActiveModel {
            port_id: Set(port.id.clone()),
            group_id: Set(group.clone()),
            host: Set(port.host.clone()),
        })
    });
    membership::Entity::insert_many(rows)
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// The fixed addresses of the living ports in these groups: group, port,
/// address.
pub async fn group_addresses(
    db: &impl ConnectionTrait,
    groups: &[String],
) -> Result<Vec<(String, String, String)>, DbError> {
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    member_addresses(db, membership::Column::GroupId.is_in(groups)).await
}

/// What [`group_addresses`] gives, of memberships that meet the condition.
pub(super) async fn member_addresses(
    db: &impl ConnectionTrait,
    condition: SimpleExpr,
) -> Result<Vec<(String, String, String)>, DbError> {
    let select = Query::select()
        .column((membership::Entity, membership::Column::GroupId))
        .column((address::Entity, address::Column::Owner))
        .column((address::Entity, address::Column::Address))
        .from(membership::Entity)
        .inner_join(
            address::Entity,
            Expr::col((address::Entity, address::Column::Owner))
                .equals((membership::Entity, membership::Column::PortId)),
        )
        .and_where(condition)
        .to_owned();
    let mut all = Vec::new();
    for row in db.query_all(&select).await? {
        all.push((
            row.try_get("", membership::Column::GroupId.as_str())?,
            row.try_get("", address::Column::Owner.as_str())?,
            row.try_get("", address::Column::Address.as_str())?,
        ));
    }
    Ok(all)
}
