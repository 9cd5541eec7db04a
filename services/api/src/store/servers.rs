//! Servers: every query that a tenant can cause is within a [`Scope`].

use sea_orm::sea_query::{Asterisk, Expr, ExprTrait, Func, LikeExpr, SimpleExpr};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseConnection, DatabaseTransaction,
    DerivePartialModel, EntityTrait, IntoActiveModel, Order, PaginatorTrait, QueryFilter,
    QueryOrder, QuerySelect,
};
use yakumo_db::DbError;
use yakumo_types::server_state::{ServerState, TaskState, VmState};
use yakumo_types::{ProjectId, ServerId, Timestamp};

use super::entity::{server, server_build};
use super::likeness::Likeness;

/// A server's row.
pub type Server = server::Model;
/// What its making needs.
pub type ServerBuild = server_build::Model;

pub use super::server_changes::{
    Expected, LockedBy, PurgedServers, ServerChange, server_build_decision, server_build_spec,
    server_change, server_project, servers_leap, servers_purge,
};

/// What is shown of a server: the part of its row that a page of them reads.
#[derive(Debug, Clone, PartialEq, Eq, DerivePartialModel)]
#[sea_orm(entity = "server::Entity")]
pub struct ShownServer {
    pub id: String,
    pub project_id: String,
    pub user_id: String,
    pub name: String,
    pub flavor_id: String,
    pub image_id: Option<String>,
    pub key_name: Option<String>,
    pub config_drive: bool,
    pub availability_zone: Option<String>,
    pub host: Option<String>,
    pub vm_state: String,
    pub task_state: Option<String>,
    pub power_state: i64,
    pub metadata: String,
    pub addresses: String,
    pub security_groups: String,
    pub fault: Option<String>,
    pub created_at: i64,
    pub updated_at: i64,
    pub launched_at: Option<i64>,
    pub deleted_at: i64,
}

impl From<Server> for ShownServer {
    fn from(row: Server) -> Self {
        Self {
            id: row.id,
            project_id: row.project_id,
            user_id: row.user_id,
            name: row.name,
            flavor_id: row.flavor_id,
            image_id: row.image_id,
            key_name: row.key_name,
            config_drive: row.config_drive,
            availability_zone: row.availability_zone,
            host: row.host,
            vm_state: row.vm_state,
            task_state: row.task_state,
            power_state: row.power_state,
            metadata: row.metadata,
            addresses: row.addresses,
            security_groups: row.security_groups,
            fault: row.fault,
            created_at: row.created_at,
            updated_at: row.updated_at,
            launched_at: row.launched_at,
            deleted_at: row.deleted_at,
        }
    }
}

impl ShownServer {
    /// The state that the row says.
    pub fn state(&self) -> ServerState {
        state(&self.vm_state, self.task_state.as_deref())
    }
}

/// What a host's report is compared with.
#[derive(Debug, Clone, PartialEq, Eq, DerivePartialModel)]
#[sea_orm(entity = "server::Entity")]
pub struct ReportedServer {
    pub id: String,
    pub vm_state: String,
    pub task_state: Option<String>,
    pub generation: i64,
    pub reboot_count: i64,
    pub seen_generation: i64,
    pub workflow_id: Option<String>,
    pub deleted_at: i64,
}

impl ReportedServer {
    /// The state that the row says.
    pub fn state(&self) -> ServerState {
        state(&self.vm_state, self.task_state.as_deref())
    }
}

/// A server in the short listing.
#[derive(Debug, Clone, PartialEq, Eq, DerivePartialModel)]
#[sea_orm(entity = "server::Entity")]
pub struct NamedServer {
    pub id: String,
    pub name: String,
}

/// Whose rows a query may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One project's.
    Project(ProjectId),
    /// Everybody's: administrators and Yakumo itself.
    All,
}

/// Whether deleted servers are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Life {
    /// Those that live.
    #[default]
    Living,
    /// Those that are gone and still known.
    Deleted,
    /// All that are known.
    Either,
}

/// What a listing may be asked for.
#[derive(Debug, Clone, Default)]
pub struct ServerFilter {
    pub name: Option<Likeness>,
    pub ip: Option<Likeness>,
    /// Any of these; empty for any at all.
    pub states: Option<Vec<ServerState>>,
    pub flavor_id: Option<String>,
    pub image_id: Option<String>,
    pub host: Option<String>,
    pub user_id: Option<String>,
    pub key_name: Option<String>,
    pub availability_zone: Option<String>,
    pub reservation_id: Option<String>,
    pub ids: Option<Vec<String>>,
    pub power_state: Option<i64>,
    pub locked: Option<bool>,
    pub changes_since: Option<Timestamp>,
    pub created_at: Option<Timestamp>,
    pub life: Life,
}

/// A column to sort by, as the API calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortKey {
    CreatedAt,
    UpdatedAt,
    Name,
    Id,
    VmState,
    TaskState,
    PowerState,
    Host,
    ImageId,
    FlavorId,
    KeyName,
    ProjectId,
    UserId,
    AvailabilityZone,
    LaunchedAt,
}

impl SortKey {
    fn column(self) -> server::Column {
        use server::Column as C;
        match self {
            Self::CreatedAt => C::CreatedAt,
            Self::UpdatedAt => C::UpdatedAt,
            Self::Name => C::Name,
            Self::Id => C::Id,
            Self::VmState => C::VmState,
            Self::TaskState => C::TaskState,
            Self::PowerState => C::PowerState,
            Self::Host => C::Host,
            Self::ImageId => C::ImageId,
            Self::FlavorId => C::FlavorId,
            Self::KeyName => C::KeyName,
            Self::ProjectId => C::ProjectId,
            Self::UserId => C::UserId,
            Self::AvailabilityZone => C::AvailabilityZone,
            Self::LaunchedAt => C::LaunchedAt,
        }
    }

    /// Nulls sort differently in each database, so they never reach a sort.
    fn expression(self) -> SimpleExpr {
        let column = Expr::col((server::Entity, self.column()));
        match self {
            Self::TaskState
            | Self::Host
            | Self::ImageId
            | Self::KeyName
            | Self::AvailabilityZone => Func::coalesce([column, Expr::val("")]).into(),
            Self::LaunchedAt => Func::coalesce([column, Expr::val(0_i64)]).into(),
            Self::CreatedAt
            | Self::UpdatedAt
            | Self::Name
            | Self::Id
            | Self::VmState
            | Self::PowerState
            | Self::FlavorId
            | Self::ProjectId
            | Self::UserId => column,
        }
    }

    fn value(self, row: &Server) -> SimpleExpr {
        let text = |value: &Option<String>| Expr::val(value.clone().unwrap_or_default());
        match self {
            Self::CreatedAt => Expr::val(row.created_at),
            Self::UpdatedAt => Expr::val(row.updated_at),
            Self::Name => Expr::val(row.name.clone()),
            Self::Id => Expr::val(row.id.clone()),
            Self::VmState => Expr::val(row.vm_state.clone()),
            Self::TaskState => text(&row.task_state),
            Self::PowerState => Expr::val(row.power_state),
            Self::Host => text(&row.host),
            Self::ImageId => text(&row.image_id),
            Self::FlavorId => Expr::val(row.flavor_id.clone()),
            Self::KeyName => text(&row.key_name),
            Self::ProjectId => Expr::val(row.project_id.clone()),
            Self::UserId => Expr::val(row.user_id.clone()),
            Self::AvailabilityZone => text(&row.availability_zone),
            Self::LaunchedAt => Expr::val(row.launched_at.unwrap_or(0)),
        }
    }
}

/// Which way a listing runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Ascending,
    Descending,
}

/// One page of a listing: at most `limit` rows after the row `after`.
#[derive(Debug, Clone)]
pub struct ServerPage {
    pub sort: Vec<(SortKey, Direction)>,
    pub after: Option<Server>,
    pub limit: u64,
}

impl Default for ServerPage {
    fn default() -> Self {
        Self {
            sort: vec![(SortKey::CreatedAt, Direction::Descending)],
            after: None,
            limit: 1000,
        }
    }
}

/// Adds a server with what its making needs.
pub async fn server_insert(
    txn: &DatabaseTransaction,
    servers: Vec<Server>,
    builds: Vec<ServerBuild>,
) -> Result<(), DbError> {
    server::Entity::insert_many(servers.into_iter().map(IntoActiveModel::into_active_model))
        .exec_without_returning(txn)
        .await?;
    server_build::Entity::insert_many(builds.into_iter().map(IntoActiveModel::into_active_model))
        .exec_without_returning(txn)
        .await?;
    Ok(())
}

fn scoped(scope: Scope) -> sea_orm::Select<server::Entity> {
    let query = server::Entity::find();
    match scope {
        Scope::Project(project) => query.filter(server::Column::ProjectId.eq(project.to_string())),
        Scope::All => query,
    }
}

/// One server; deleted ones only where `life` says so.
pub async fn server_fetch(
    db: &DatabaseConnection,
    scope: Scope,
    id: ServerId,
    life: Life,
) -> Result<Option<Server>, DbError> {
    fetch(db, scope, id, life).await
}

/// The same, inside a transaction.
pub async fn server_fetch_in(
    txn: &DatabaseTransaction,
    scope: Scope,
    id: ServerId,
    life: Life,
) -> Result<Option<Server>, DbError> {
    fetch(txn, scope, id, life).await
}

async fn fetch(
    db: &impl ConnectionTrait,
    scope: Scope,
    id: ServerId,
    life: Life,
) -> Result<Option<Server>, DbError> {
    let query = scoped(scope).filter(server::Column::Id.eq(id.to_string()));
    Ok(alive(query, life).one(db).await?)
}

fn alive(query: sea_orm::Select<server::Entity>, life: Life) -> sea_orm::Select<server::Entity> {
    match life {
        Life::Living => query.filter(server::Column::DeletedAt.eq(0_i64)),
        Life::Deleted => query.filter(server::Column::DeletedAt.ne(0_i64)),
        Life::Either => query,
    }
}

/// What the making of a server needs.
pub async fn server_build_fetch(
    db: &DatabaseConnection,
    id: ServerId,
) -> Result<ServerBuild, DbError> {
    server_build::Entity::find_by_id(id.to_string())
        .one(db)
        .await?
        .ok_or(DbError::NotFound)
}

/// One page of the servers that a filter lets through.
pub async fn server_list(
    db: &DatabaseConnection,
    scope: Scope,
    filter: &ServerFilter,
    page: &ServerPage,
) -> Result<Vec<Server>, DbError> {
    Ok(listed(scope, filter, page).all(db).await?)
}

/// The same, and of each what is shown.
pub async fn server_list_shown(
    db: &DatabaseConnection,
    scope: Scope,
    filter: &ServerFilter,
    page: &ServerPage,
) -> Result<Vec<ShownServer>, DbError> {
    let query = listed(scope, filter, page);
    Ok(query.into_partial_model().all(db).await?)
}

/// The same, and of each the name.
pub async fn server_list_named(
    db: &DatabaseConnection,
    scope: Scope,
    filter: &ServerFilter,
    page: &ServerPage,
) -> Result<Vec<NamedServer>, DbError> {
    let query = listed(scope, filter, page);
    Ok(query.into_partial_model().all(db).await?)
}

fn listed(
    scope: Scope,
    filter: &ServerFilter,
    page: &ServerPage,
) -> sea_orm::Select<server::Entity> {
    let mut query = alive(scoped(scope), filter.life).filter(conditions(filter));
    let mut sort = page.sort.clone();
    if !sort.iter().any(|(key, _)| *key == SortKey::Id) {
        let direction = sort
            .last()
            .map_or(Direction::Descending, |(_, direction)| *direction);
        sort.push((SortKey::Id, direction));
    }
    if let Some(after) = &page.after {
        query = query.filter(beyond(&sort, after));
    }
    for (key, direction) in &sort {
        let order = match direction {
            Direction::Ascending => Order::Asc,
            Direction::Descending => Order::Desc,
        };
        query = query.order_by(key.expression(), order);
    }
    query.limit(page.limit)
}

/// The rows behind `row`: (a, b) lies behind (x, y) when a is behind x, or a
/// is x and b is behind y.
fn beyond(sort: &[(SortKey, Direction)], row: &Server) -> Condition {
    let mut any = Condition::any();
    for (depth, (key, direction)) in sort.iter().enumerate() {
        let mut all = Condition::all();
        for (before, _) in sort.iter().take(depth) {
            all = all.add(before.expression().eq(before.value(row)));
        }
        let (left, right) = (key.expression(), key.value(row));
        all = all.add(match direction {
            Direction::Ascending => left.gt(right),
            Direction::Descending => left.lt(right),
        });
        any = any.add(all);
    }
    any
}

fn conditions(filter: &ServerFilter) -> Condition {
    use server::Column as C;
    let lower = |column: C| SimpleExpr::from(Func::lower(Expr::col((server::Entity, column))));
    let mut all = Condition::all();
    if let Some(name) = &filter.name {
        all = all.add(lower(C::Name).like(LikeExpr::new(name.pattern()).escape('!')));
    }
    if let Some(ip) = &filter.ip {
        let pattern = format!("%\"addr\":\"{}\"%", ip.pattern());
        all = all.add(lower(C::Addresses).like(LikeExpr::new(pattern).escape('!')));
    }
    if let Some(states) = &filter.states {
        all = all.add(any_of(states));
    }
    let texts = [
        (C::FlavorId, &filter.flavor_id),
        (C::ImageId, &filter.image_id),
        (C::Host, &filter.host),
        (C::UserId, &filter.user_id),
        (C::KeyName, &filter.key_name),
        (C::AvailabilityZone, &filter.availability_zone),
        (C::ReservationId, &filter.reservation_id),
    ];
    for (column, value) in texts {
        all = all.add_option(value.as_ref().map(|value| column.eq(value.clone())));
    }
    all = all.add_option(filter.ids.as_ref().map(|ids| C::Id.is_in(ids.clone())));
    all = all.add_option(filter.power_state.map(|power| C::PowerState.eq(power)));
    all = all.add_option(filter.locked.map(|locked| C::Locked.eq(locked)));
    all = all.add_option(
        filter
            .changes_since
            .map(|since| C::UpdatedAt.gte(since.as_micros())),
    );
    all.add_option(
        filter
            .created_at
            .map(|created| C::CreatedAt.gte(created.as_micros())),
    )
}

/// By the server's state first and once each: where all are of one, databases
/// find its servers by an index.
fn any_of(states: &[ServerState]) -> Condition {
    use server::Column as C;
    let mut groups: Vec<(VmState, Vec<&'static str>, bool)> = Vec::new();
    for state in states {
        let at = groups.iter().position(|(vm, ..)| *vm == state.vm);
        let at = at.unwrap_or_else(|| {
            groups.push((state.vm, Vec::new(), false));
            groups.len() - 1
        });
        if let Some((_, tasks, at_rest)) = groups.get_mut(at) {
            match state.task {
                Some(task) => tasks.push(task.as_str()),
                None => *at_rest = true,
            }
        }
    }
    if groups.is_empty() {
        return Condition::all().add(Expr::val(1).eq(0));
    }
    let mut any = Condition::any();
    for (vm, tasks, at_rest) in groups {
        let mut doing = Condition::any();
        if !tasks.is_empty() {
            doing = doing.add(C::TaskState.is_in(tasks));
        }
        if at_rest {
            doing = doing.add(C::TaskState.is_null());
        }
        any = any.add(Condition::all().add(C::VmState.eq(vm.as_str())).add(doing));
    }
    any
}

/// The servers of a host, for reports: those among `ids`. They stay as they are
/// until the transaction ends.
pub async fn servers_of_host_in(
    txn: &DatabaseTransaction,
    host: &str,
    ids: Vec<String>,
) -> Result<Vec<ReportedServer>, DbError> {
    Ok(server::Entity::find()
        .filter(server::Column::Host.eq(host))
        .filter(server::Column::Id.is_in(ids))
        .order_by_asc(server::Column::Id)
        .lock_exclusive()
        .into_partial_model()
        .all(txn)
        .await?)
}

/// How many living servers are placed on a host, and the ids of some.
pub async fn servers_on_host(
    db: &DatabaseConnection,
    host: &str,
    limit: u64,
) -> Result<(u64, Vec<String>), DbError> {
    let on_host = || {
        server::Entity::find()
            .filter(server::Column::Host.eq(host))
            .filter(server::Column::DeletedAt.eq(0_i64))
    };
    let count = on_host().count(db).await?;
    let some = on_host()
        .select_only()
        .column(server::Column::Id)
        .order_by_asc(server::Column::Id)
        .limit(limit)
        .into_tuple()
        .all(db)
        .await?;
    Ok((count, some))
}

/// Whether any living server is placed on a host.
pub async fn host_has_servers_in(txn: &DatabaseTransaction, host: &str) -> Result<bool, DbError> {
    Ok(server::Entity::find()
        .filter(server::Column::Host.eq(host))
        .filter(server::Column::DeletedAt.eq(0_i64))
        .limit(1)
        .one(txn)
        .await?
        .is_some())
}

/// Rows by id, living or not.
pub async fn servers_by_id(
    db: &DatabaseConnection,
    ids: Vec<String>,
) -> Result<Vec<Server>, DbError> {
    Ok(server::Entity::find()
        .filter(server::Column::Id.is_in(ids))
        .all(db)
        .await?)
}

/// Living servers that have, or should have, a workflow at work and were not
/// touched since `before`.
pub async fn servers_busy_since(
    db: &DatabaseConnection,
    before: Timestamp,
    limit: u64,
) -> Result<Vec<Server>, DbError> {
    Ok(server::Entity::find()
        .filter(server::Column::DeletedAt.eq(0_i64))
        .filter(server::Column::TaskState.is_not_null())
        .filter(server::Column::UpdatedAt.lt(before.as_micros()))
        .limit(limit)
        .all(db)
        .await?)
}

/// What a project uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    pub servers: i64,
    pub vcpus: i64,
    pub memory_mib: i64,
}

/// What a project's living servers take.
pub async fn usage(db: &DatabaseConnection, project: &str) -> Result<Usage, DbError> {
    usage_of(db, project).await
}

/// The same, inside the transaction that adds to it.
pub async fn usage_in(txn: &DatabaseTransaction, project: &str) -> Result<Usage, DbError> {
    usage_of(txn, project).await
}

async fn usage_of(db: &impl ConnectionTrait, project: &str) -> Result<Usage, DbError> {
    let sum = |column: server::Column| {
        SimpleExpr::from(Func::coalesce([
            SimpleExpr::from(Func::sum(Expr::col(column))),
            Expr::val(0_i64),
        ]))
        .cast_as(super::integer_type(db.get_database_backend()))
    };
    let row: Option<(i64, i64, i64)> = server::Entity::find()
        .select_only()
        .column_as(
            SimpleExpr::from(Func::count(Expr::col(Asterisk))),
            "servers",
        )
        .column_as(sum(server::Column::Vcpus), "vcpus")
        .column_as(sum(server::Column::MemoryMib), "memory_mib")
        .filter(server::Column::ProjectId.eq(project))
        .filter(server::Column::DeletedAt.eq(0_i64))
        .into_tuple()
        .one(db)
        .await?;
    let (servers, vcpus, memory_mib) = row.unwrap_or_default();
    Ok(Usage {
        servers,
        vcpus,
        memory_mib,
    })
}

/// The state that a row says, which a newer release may have written.
pub fn state_of(row: &Server) -> ServerState {
    state(&row.vm_state, row.task_state.as_deref())
}

fn state(vm: &str, task: Option<&str>) -> ServerState {
    ServerState {
        vm: vm.parse().unwrap_or(VmState::Error),
        task: task.and_then(|task| task.parse::<TaskState>().ok()),
    }
}

#[cfg(test)]
mod tests {
    use sea_orm::{DbBackend, QueryTrait, Statement};
    use yakumo_db::{Db, DbConfig};
    use yakumo_types::server_state::states_of_status;

    use super::*;

    /// How SQLite would go about a page.
    async fn plan(db: &Db, status: Option<&str>) -> String {
        let filter = ServerFilter {
            states: status.map(states_of_status),
            ..ServerFilter::default()
        };
        let scope = Scope::Project(ProjectId::from_uuid(uuid::Uuid::nil()));
        let page = listed(scope, &filter, &ServerPage::default()).build(DbBackend::Sqlite);
        let explain = Statement {
            sql: format!("EXPLAIN QUERY PLAN {}", page.sql),
            ..page
        };
        let rows = db.read().query_all_raw(explain).await.unwrap();
        rows.iter()
            .map(|row| row.try_get::<String>("", "detail").unwrap())
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[tokio::test]
    async fn a_page_of_a_project_is_read_from_an_index_in_its_order() {
        let folder = tempfile::tempdir().unwrap();
        let config = DbConfig::sqlite(&folder.path().join("api.sqlite"));
        let db = Db::connect(&config).await.unwrap();
        db.migrate::<crate::Migrator>().await.unwrap();
        for (status, index) in [
            (None, "server_by_project (project_id=? AND deleted_at=?)"),
            (
                Some("BUILD"),
                "server_by_state (project_id=? AND deleted_at=? AND vm_state=?)",
            ),
            (
                Some("ACTIVE"),
                "server_by_state (project_id=? AND deleted_at=? AND vm_state=?)",
            ),
        ] {
            let plan = plan(&db, status).await;
            assert!(plan.contains(index), "{status:?}: {plan}");
            assert!(!plan.contains("B-TREE"), "{status:?}: {plan}");
        }
    }
}
