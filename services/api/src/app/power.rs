//! Requests that change what a server does: start, stop, reboot, pause and
//! delete. Each is one transaction: the state moves by compare-and-swap, new
//! desired state is issued, the action opens, and the workflow that sees to it
//! is submitted.

use std::time::Duration;

use yakumo_db::DbError;
use yakumo_types::server_state::{RebootKind, Refusal, ServerEvent, ServerState};
use yakumo_types::{Fault, RequestContext, Role, ServerId};

use super::App;
use super::create::assign_workflow;
use crate::store::actions;
use crate::store::servers::{self as store, Expected, Life, Scope, Server, state_of};
use crate::workflows::{change_power, delete_server};

/// What a client may ask of a running or stopped server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerRequest {
    Start,
    Stop,
    Reboot(RebootKind),
    Pause,
    Unpause,
}

impl PowerRequest {
    const fn event(self) -> ServerEvent {
        match self {
            Self::Start => ServerEvent::StartAsked,
            Self::Stop => ServerEvent::StopAsked,
            Self::Reboot(kind) => ServerEvent::RebootAsked(kind),
            Self::Pause => ServerEvent::PauseAsked,
            Self::Unpause => ServerEvent::UnpauseAsked,
        }
    }

    /// The power that it leads to.
    const fn power(self) -> &'static str {
        match self {
            Self::Start | Self::Reboot(_) | Self::Unpause => "running",
            Self::Stop => "stopped",
            Self::Pause => "paused",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Reboot(_) => "reboot",
            Self::Pause => "pause",
            Self::Unpause => "unpause",
        }
    }
}

/// The API's sentence for a refusal (409).
pub(crate) fn refused(name: &str, row: &Server, refusal: Refusal) -> Fault {
    let because = match refusal {
        Refusal::Busy(task) => format!("task_state {task}"),
        Refusal::WrongState(state) => format!("vm_state {state}"),
        Refusal::NoSuchTask | Refusal::NothingChanges => format!("vm_state {}", row.vm_state),
    };
    Fault::conflict(format!(
        "Cannot '{name}' instance {} while it is in {because}",
        row.id
    ))
}

impl App {
    /// One living server within the caller's walls, or 404.
    pub async fn server_of(&self, ctx: &RequestContext, id: ServerId) -> Result<Server, Fault> {
        ctx.require(Role::Reader)?;
        store::server_fetch(self.db.read(), scope(ctx)?, id, Life::Living)
            .await?
            .ok_or_else(|| missing(id))
    }

    /// Starts, stops, reboots, pauses or unpauses a server.
    pub async fn server_power(
        &self,
        ctx: &RequestContext,
        id: ServerId,
        request: PowerRequest,
    ) -> Result<(), Fault> {
        ctx.require_member()?;
        let scope = scope(ctx)?;
        let (ctx, engine) = (ctx.clone(), self.engine.clone());
        let bound = Duration::from_secs(self.config.power_bound_seconds);
        let now = self.env.now();
        let action_id = self.env.rng.uuid().to_string();
        self.db
            .write(move |txn| {
                let (ctx, engine, action_id) = (ctx.clone(), engine.clone(), action_id.clone());
                Box::pin(async move {
                    let row = living(txn, scope, id).await?;
                    require_unlocked(&ctx, &row)?;
                    let before = state_of(&row);
                    let next = before
                        .after(request.event())
                        .map_err(|refusal| refused(request.name(), &row, refusal))?;
                    if before.task.is_none() && row.workflow_id.is_some() {
                        return Err(DbError::Fault(Fault::conflict(format!(
                            "Cannot '{}' instance {id}: what failed before is still being \
                             taken back.",
                            request.name()
                        ))));
                    }
                    if row.host.is_none() {
                        return Err(DbError::Fault(Fault::conflict(format!(
                            "Cannot '{}' instance {id}: it was never placed on a host.",
                            request.name()
                        ))));
                    }
                    let generation = row.generation.saturating_add(1);
                    let reboots = match request {
                        // The host may have seen more than the row has asked for:
                        // those from before a restore of the database.
                        PowerRequest::Reboot(_) => {
                            row.reboot_count.max(row.seen_reboots).saturating_add(1)
                        }
                        _ => row.reboot_count,
                    };
                    let input = change_power::Input {
                        server_id: id,
                        action_id: action_id.clone(),
                        generation,
                        power: request.power().to_owned(),
                        reboot_count: reboots,
                        before_power: row.desired_power.clone(),
                    };
                    let workflow = engine
                        .submit(
                            txn,
                            change_power::KIND,
                            &row.id,
                            serde_json::to_value(&input)?,
                            &ctx,
                            bound,
                        )
                        .await?;
                    let change = store::ServerChange::at(now).state(next).desired(
                        generation,
                        request.power(),
                        reboots,
                    );
                    assign_workflow(txn, id, change, &Expected::state(before), workflow).await?;
                    let mut action = action_of(&ctx, &row, request.name(), now.as_micros());
                    action.id = action_id;
                    actions::action_insert(txn, vec![action]).await
                })
            })
            .await?;
        Ok(())
    }

    /// Deletes a server, whatever is being done to it. Asking again is fine.
    pub async fn server_delete(&self, ctx: &RequestContext, id: ServerId) -> Result<(), Fault> {
        ctx.require_member()?;
        let scope = scope(ctx)?;
        let (ctx, engine) = (ctx.clone(), self.engine.clone());
        // Within the bound the host is waited for; what remains is for other
        // services to come back.
        let bound = Duration::from_secs(self.config.delete_bound_seconds.saturating_mul(12));
        let now = self.env.now();
        let action_id = self.env.rng.uuid().to_string();
        self.db
            .write(move |txn| {
                let (ctx, engine, action_id) = (ctx.clone(), engine.clone(), action_id.clone());
                Box::pin(async move {
                    let row = living(txn, scope, id).await?;
                    require_unlocked(&ctx, &row)?;
                    let before = state_of(&row);
                    let next = match before.after(ServerEvent::DeleteAsked) {
                        Ok(next) => next,
                        Err(Refusal::NothingChanges) => return Ok(()),
                        Err(refusal) => return Err(refused("delete", &row, refusal).into()),
                    };
                    let overtaken = row.workflow_id.as_deref().and_then(|id| id.parse().ok());
                    let input = delete_server::Input {
                        server_id: id,
                        action_id: action_id.clone(),
                        overtaken,
                    };
                    let workflow = engine
                        .submit(
                            txn,
                            delete_server::KIND,
                            &row.id,
                            serde_json::to_value(&input)?,
                            &ctx,
                            bound,
                        )
                        .await?;
                    if let Some(overtaken) = overtaken {
                        let fault = Fault::conflict("The server was deleted meanwhile.");
                        engine.cancel(txn, overtaken, &fault).await?;
                    }
                    let change = store::ServerChange::at(now).state(next);
                    assign_workflow(txn, id, change, &Expected::state(before), workflow).await?;
                    let mut action = action_of(&ctx, &row, "delete", now.as_micros());
                    action.id = action_id;
                    actions::action_insert(txn, vec![action]).await
                })
            })
            .await?;
        Ok(())
    }

    /// An administrator says what a server's state is.
    pub async fn server_reset(
        &self,
        ctx: &RequestContext,
        id: ServerId,
        to: ServerState,
    ) -> Result<(), Fault> {
        ctx.require_admin()?;
        let now = self.env.now();
        self.db
            .write(move |txn| {
                Box::pin(async move {
                    let row = living(txn, Scope::All, id).await?;
                    let before = state_of(&row);
                    let next = before
                        .after(ServerEvent::ResetTo(to.vm))
                        .map_err(|refusal| refused("reset_state", &row, refusal))?;
                    if row.workflow_id.is_some() {
                        return Err(refused(
                            "reset_state",
                            &row,
                            before.task.map_or(Refusal::NothingChanges, Refusal::Busy),
                        )
                        .into());
                    }
                    let change = store::ServerChange::at(now).state(next);
                    store::server_change(txn, id, &Expected::state(before), change).await
                })
            })
            .await?;
        Ok(())
    }
}

pub(crate) fn scope(ctx: &RequestContext) -> Result<Scope, Fault> {
    if ctx.is_admin() {
        return Ok(Scope::All);
    }
    Ok(Scope::Project(ctx.require_project()?))
}

pub(crate) fn missing(id: ServerId) -> Fault {
    Fault::not_found(format!("Instance {id} could not be found."))
}

pub(crate) async fn living(
    txn: &crate::store::DatabaseTransaction,
    scope: Scope,
    id: ServerId,
) -> Result<Server, DbError> {
    store::server_fetch_in(txn, scope, id, Life::Living)
        .await?
        .ok_or_else(|| DbError::Fault(missing(id)))
}

pub(crate) fn require_unlocked(ctx: &RequestContext, row: &Server) -> Result<(), Fault> {
    if row.locked && !ctx.is_admin() {
        return Err(Fault::conflict(format!("Instance {} is locked", row.id)));
    }
    Ok(())
}

pub(crate) fn action_of(
    ctx: &RequestContext,
    row: &Server,
    name: &str,
    at: i64,
) -> actions::Action {
    actions::Action {
        id: String::new(),
        server_id: row.id.clone(),
        request_id: ctx.request_id.to_string(),
        project_id: row.project_id.clone(),
        user_id: ctx.user_id.to_string(),
        action: name.to_owned(),
        started_at: at,
        finished_at: None,
        message: None,
        events: "[]".into(),
    }
}
