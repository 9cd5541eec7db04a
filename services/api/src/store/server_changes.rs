//! Changes of servers: by compare-and-swap on what the decision was made from.

use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::{Expr, ExprTrait as _, IntoColumnRef, SimpleExpr};
use sea_orm::{ColumnTrait, DatabaseTransaction, EntityTrait, QueryFilter, QuerySelect};
use yakumo_db::DbError;
use yakumo_types::server_state::{PowerState, ServerState};
use yakumo_types::{ProjectId, ServerId, Timestamp, WorkflowId};

use super::entity::{server, server_action, server_build};

/// What must still be so for a change to happen.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    state: Option<ServerState>,
    generation: Option<i64>,
    workflow: Option<WorkflowId>,
    seen_power: Option<String>,
}

impl Expected {
    /// Only that the server lives.
    pub fn anything() -> Self {
        Self::default()
    }

    /// The state that the decision was made from.
    pub fn state(state: ServerState) -> Self {
        Self {
            state: Some(state),
            ..Self::default()
        }
    }

    /// The generation that the decision was made from.
    #[must_use]
    pub fn generation(mut self, generation: i64) -> Self {
        self.generation = Some(generation);
        self
    }

    /// The workflow at work.
    #[must_use]
    pub fn workflow(mut self, workflow: WorkflowId) -> Self {
        self.workflow = Some(workflow);
        self
    }

    /// The power that the decision was made from, as the host said it.
    #[must_use]
    pub fn seen_power(mut self, power: &str) -> Self {
        self.seen_power = Some(power.to_owned());
        self
    }
}

/// Whose lock is on a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockedBy {
    /// An administrator's.
    Admin,
    /// That of somebody who may use it.
    Owner,
}

impl LockedBy {
    /// The word in a row.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }
}

/// A change of a server's row.
#[derive(Debug, Clone)]
pub struct ServerChange(server::ActiveModel);

impl ServerChange {
    /// Nothing but the time of the change.
    pub fn at(now: Timestamp) -> Self {
        Self(server::ActiveModel {
            updated_at: Set(now.as_micros()),
            ..Default::default()
        })
    }

    /// Moves the state.
    #[must_use]
    pub fn state(mut self, state: ServerState) -> Self {
        self.0.vm_state = Set(state.vm.as_str().to_owned());
        self.0.task_state = Set(state.task.map(|task| task.as_str().to_owned()));
        self
    }

    #[must_use]
    pub fn power(mut self, power: PowerState) -> Self {
        self.0.power_state = Set(i64::from(power.number()));
        self
    }

    #[must_use]
    pub fn stage(mut self, stage: &str) -> Self {
        self.0.stage = Set(stage.to_owned());
        self
    }

    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.0.name = Set(name.to_owned());
        self
    }

    /// Places the server, or takes it from its place.
    #[must_use]
    pub fn host(mut self, host: Option<&str>) -> Self {
        self.0.host = Set(host.map(ToOwned::to_owned));
        self
    }

    #[must_use]
    pub fn zone(mut self, zone: &str) -> Self {
        self.0.availability_zone = Set(Some(zone.to_owned()));
        self
    }

    /// Issues desired state.
    #[must_use]
    pub fn desired(mut self, generation: i64, power: &str, reboot_count: i64) -> Self {
        self.0.generation = Set(generation);
        self.0.desired_power = Set(power.to_owned());
        self.0.reboot_count = Set(reboot_count);
        self
    }

    /// What the host said.
    #[must_use]
    pub fn seen(
        mut self,
        generation: i64,
        converged: bool,
        power: &str,
        reboots: i64,
        fault: Option<String>,
    ) -> Self {
        self.0.seen_generation = Set(generation);
        self.0.seen_converged = Set(converged);
        self.0.seen_power = Set(power.to_owned());
        self.0.seen_reboots = Set(reboots);
        self.0.seen_fault = Set(fault);
        self
    }

    #[must_use]
    pub fn fault(mut self, fault: Option<String>) -> Self {
        self.0.fault = Set(fault);
        self
    }

    #[must_use]
    pub fn metadata(mut self, metadata: String) -> Self {
        self.0.metadata = Set(metadata);
        self
    }

    #[must_use]
    pub fn addresses(mut self, addresses: String, revision: i64) -> Self {
        self.0.addresses = Set(addresses);
        self.0.addresses_revision = Set(revision);
        self
    }

    /// Locks it, or unlocks it.
    #[must_use]
    pub fn locked(mut self, by: Option<LockedBy>) -> Self {
        self.0.locked = Set(by.is_some());
        self.0.locked_by = Set(by.map(|by| by.as_str().to_owned()));
        self
    }

    /// Names the workflow at work.
    #[must_use]
    pub fn workflow(mut self, workflow: Option<WorkflowId>) -> Self {
        self.0.workflow_id = Set(workflow.map(|id| id.to_string()));
        self
    }

    /// It runs for the first time.
    #[must_use]
    pub fn launched(mut self, at: Timestamp) -> Self {
        self.0.launched_at = Set(Some(at.as_micros()));
        self
    }

    /// It is gone.
    #[must_use]
    pub fn deleted(mut self, at: Timestamp) -> Self {
        self.0.deleted_at = Set(at.as_micros());
        self
    }
}

/// Changes a living server if it is still as expected, or says `Stale`.
pub async fn server_change(
    txn: &DatabaseTransaction,
    id: ServerId,
    expected: &Expected,
    change: ServerChange,
) -> Result<(), DbError> {
    let mut query = server::Entity::update_many()
        .set(change.0)
        .filter(server::Column::Id.eq(id.to_string()))
        .filter(server::Column::DeletedAt.eq(0_i64));
    if let Some(state) = expected.state {
        query = query.filter(server::Column::VmState.eq(state.vm.as_str()));
        query = query.filter(match state.task {
            Some(task) => server::Column::TaskState.eq(task.as_str()),
            None => server::Column::TaskState.is_null(),
        });
    }
    if let Some(generation) = expected.generation {
        query = query.filter(server::Column::Generation.eq(generation));
    }
    if let Some(workflow) = expected.workflow {
        query = query.filter(server::Column::WorkflowId.eq(workflow.to_string()));
    }
    if let Some(power) = &expected.seen_power {
        query = query.filter(server::Column::SeenPower.eq(power));
    }
    match query.exec(txn).await?.rows_affected {
        0 => Err(DbError::Stale),
        _ => Ok(()),
    }
}

/// Takes in a projection unless a newer one is there already. Servers that
/// are not known, or not of that project, are no error.
pub async fn server_project(
    txn: &DatabaseTransaction,
    id: ServerId,
    project: ProjectId,
    addresses: String,
    security_groups: String,
    revision: i64,
) -> Result<(), DbError> {
    server::Entity::update_many()
        .set(server::ActiveModel {
            addresses: Set(addresses),
            addresses_revision: Set(revision),
            security_groups: Set(security_groups),
            ..Default::default()
        })
        .filter(server::Column::Id.eq(id.to_string()))
        .filter(server::Column::ProjectId.eq(project.to_string()))
        .filter(server::Column::AddressesRevision.lt(revision))
        .exec(txn)
        .await?;
    Ok(())
}

/// Keeps the scheduler's reasons with the server.
pub async fn server_build_decision(
    txn: &DatabaseTransaction,
    id: ServerId,
    decision: String,
) -> Result<(), DbError> {
    build_change(
        txn,
        id,
        server_build::ActiveModel {
            decision: Set(Some(decision)),
            ..Default::default()
        },
    )
    .await
}

/// Keeps the scheduler's reasons, and what the host is told of the server.
pub async fn server_build_spec(
    txn: &DatabaseTransaction,
    id: ServerId,
    decision: String,
    spec: String,
) -> Result<(), DbError> {
    build_change(
        txn,
        id,
        server_build::ActiveModel {
            decision: Set(Some(decision)),
            spec: Set(Some(spec)),
            ..Default::default()
        },
    )
    .await
}

/// Sends nothing back: the row may hold 64 KiB of user data.
async fn build_change(
    txn: &DatabaseTransaction,
    id: ServerId,
    change: server_build::ActiveModel,
) -> Result<(), DbError> {
    let changed = server_build::Entity::update_many()
        .set(change)
        .filter(server_build::Column::ServerId.eq(id.to_string()))
        .exec(txn)
        .await?;
    match changed.rows_affected {
        0 => Err(DbError::NotFound),
        _ => Ok(()),
    }
}

/// How many rows were removed.
#[derive(Debug, Clone, Copy, Default)]
pub struct PurgedServers {
    pub servers: u64,
    pub actions: u64,
    pub builds: u64,
}

/// Removes what has been deleted before `before`, with what hangs on it.
pub async fn servers_purge(
    txn: &DatabaseTransaction,
    before: Timestamp,
    limit: u64,
) -> Result<PurgedServers, DbError> {
    let ids: Vec<String> = server::Entity::find()
        .select_only()
        .column(server::Column::Id)
        .filter(server::Column::DeletedAt.ne(0_i64))
        .filter(server::Column::DeletedAt.lt(before.as_micros()))
        .limit(limit)
        .into_tuple()
        .all(txn)
        .await?;
    if ids.is_empty() {
        return Ok(PurgedServers::default());
    }
    let actions = server_action::Entity::delete_many()
        .filter(server_action::Column::ServerId.is_in(ids.clone()))
        .exec(txn)
        .await?;
    let builds = server_build::Entity::delete_many()
        .filter(server_build::Column::ServerId.is_in(ids.clone()))
        .exec(txn)
        .await?;
    let deleted = server::Entity::delete_many()
        .filter(server::Column::Id.is_in(ids))
        .exec(txn)
        .await?;
    Ok(PurgedServers {
        servers: deleted.rows_affected,
        actions: actions.rows_affected,
        builds: builds.rows_affected,
    })
}

/// Puts the generations of all living servers beyond what any host may have
/// heard of: a host takes what comes under a higher one. How many servers.
pub async fn servers_leap(txn: &DatabaseTransaction, database_now: i64) -> Result<u64, DbError> {
    let leapt = server::Entity::update_many()
        .col_expr(
            server::Column::Generation,
            beyond(server::Column::Generation, database_now),
        )
        .filter(server::Column::DeletedAt.eq(0_i64))
        .exec(txn)
        .await?;
    Ok(leapt.rows_affected)
}

/// The next number, or `database_now` if that is higher: counted up by one, no
/// number gets as far as the time in microseconds.
pub(super) fn beyond(column: impl IntoColumnRef, database_now: i64) -> SimpleExpr {
    let column = Expr::col(column);
    Expr::case(column.clone().lt(database_now), database_now)
        .finally(column.add(1_i64))
        .into()
}
