//! Requests that do more than write one row. Each workflow is a list of steps
//! that may run twice, and each step can be taken back.
//!
//! Two rules hold for all of them. A server's row names the workflow at work
//! on it, and only that one moves its state. And whatever a host is told
//! carries the generation that the row says, which rises with every new
//! intent: a message that arrives late is refused by the host itself.

pub mod attach_volume;
pub mod change_power;
pub mod create_server;
pub mod delete_server;
pub mod detach_volume;

use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::json;
use yakumo_contracts::common::Fence;
use yakumo_contracts::compute_host::ServerRequest;
use yakumo_db::DbError;
use yakumo_types::server_state::PowerState;
use yakumo_types::{Fault, FaultCode, RequestContext, ServerId, Timestamp};
use yakumo_workflow::{End, StepCx, StepError};

use crate::app::App;
use crate::store::DatabaseTransaction;
use crate::store::actions;
use crate::store::servers::{self as store, Life, Scope, Server};

/// Makes the workflows known to the engine.
pub fn register(app: &Arc<App>) {
    let weak = Arc::downgrade(app);
    app.engine
        .add(Arc::new(create_server::CreateServer::new(weak.clone())));
    app.engine
        .add(Arc::new(delete_server::DeleteServer::new(weak.clone())));
    app.engine
        .add(Arc::new(attach_volume::AttachVolume::new(weak.clone())));
    app.engine
        .add(Arc::new(detach_volume::DetachVolume::new(weak.clone())));
    app.engine
        .add(Arc::new(change_power::ChangePower::new(weak)));
}

/// The rules, while the process lives: the engine keeps its workflows, and
/// they must not keep the engine.
fn alive(app: &Weak<App>) -> Result<Arc<App>, StepError> {
    app.upgrade()
        .ok_or_else(|| StepError::Retry(Fault::unavailable("The service is ending.")))
}

fn fence(cx: &StepCx) -> Option<Fence> {
    part_fence(cx.fence())
}

fn part_fence(fence: yakumo_workflow::Fence) -> Option<Fence> {
    Some(Fence {
        workflow_id: fence.workflow_id.to_string(),
        step: fence.step,
        epoch: fence.epoch,
    })
}

/// The caller's context for a step, which may run long after the token that
/// accepted the request has run out.
fn context(cx: &StepCx) -> RequestContext {
    RequestContext {
        expires_at: None,
        ..cx.ctx.clone()
    }
}

/// The server's row as it stands, living or not.
async fn row(cx: &StepCx, id: ServerId) -> Result<Server, StepError> {
    store::server_fetch(cx.db.read(), Scope::All, id, Life::Either)
        .await?
        .ok_or_else(|| StepError::Fail(Fault::not_found("The server is gone.")))
}

async fn row_in(txn: &DatabaseTransaction, id: ServerId) -> Result<Server, DbError> {
    store::server_fetch_in(txn, Scope::All, id, Life::Either)
        .await?
        .ok_or(DbError::NotFound)
}

/// Whether the host said that it is as generation `generation` wants.
fn reached(row: &Server, generation: i64) -> bool {
    row.seen_generation >= generation && row.seen_converged
}

/// Whether the server does what `power` says, after `reboots` reboots. A host
/// sees to power first and to volumes last: once this is so, what it complains
/// of is not power.
fn power_is(row: &Server, power: &str, reboots: i64) -> bool {
    let seen = PowerState::from_report(&row.seen_power);
    let fits = match power {
        "running" => seen == PowerState::Running,
        "paused" => seen == PowerState::Paused,
        "stopped" => matches!(
            seen,
            PowerState::Shutdown | PowerState::Crashed | PowerState::NoState
        ),
        _ => false,
    };
    fits && row.seen_reboots >= reboots
}

/// The host's final complaint about generation `generation` or a later one, if
/// it has one.
fn complaint(row: &Server, generation: i64) -> Option<Fault> {
    if row.seen_generation < generation {
        return None;
    }
    let fault: serde_json::Value = serde_json::from_str(row.seen_fault.as_deref()?).ok()?;
    let message = fault.get("message")?.as_str()?;
    fault
        .get("final")?
        .as_bool()?
        .then(|| Fault::internal(message))
}

/// Whether a fault means that the other side cannot be asked just now, rather
/// than that it refused.
fn is_away(fault: &Fault) -> bool {
    matches!(fault.code, FaultCode::Unavailable | FaultCode::Timeout)
}

/// Yakumo acting for itself, on account of the request that the workflow is for.
fn internal(cx: &StepCx) -> RequestContext {
    RequestContext::internal(cx.ctx.request_id)
}

/// Tells a server's host what its row says now.
async fn push_desired(app: &App, cx: &StepCx, id: ServerId) -> Result<(), StepError> {
    let (row, mut request) = app.desired(id).await?;
    let Some(host) = row.host.as_deref() else {
        return Ok(());
    };
    request.fence = fence(cx);
    app.compute_host(host)
        .set_desired(&internal(cx), request)
        .await?;
    Ok(())
}

/// Tells a server's host to go back to what its row says now. A host that
/// cannot be told hears it from the reconciler, once it is there.
async fn push_back(app: &App, cx: &StepCx, id: ServerId) -> Result<(), StepError> {
    if let Err(error) = push_desired(app, cx, id).await {
        tracing::info!(server = %id, %error, "the host was not told to go back yet");
        if let Some(host) = row(cx, id).await?.host {
            app.to_sync.add(&host);
        }
    }
    Ok(())
}

/// Removes a server from its host: tells it so and waits until the host says
/// that nothing is left. `Ok(true)` when that is so, or when the host is not
/// there to ask; what it may still have is removed when it comes back.
async fn remove_from_host(app: &App, cx: &StepCx, id: ServerId) -> Result<bool, StepError> {
    let before = row(cx, id).await?;
    let Some(host) = before.host.clone() else {
        return Ok(true);
    };
    if before.desired_power != "absent" {
        let now = app.env.now();
        cx.write(move |txn| {
            Box::pin(async move {
                let row = row_in(txn, id).await?;
                if row.desired_power == "absent" {
                    return Ok(());
                }
                let change = store::ServerChange::at(now).desired(
                    row.generation.saturating_add(1),
                    "absent",
                    row.reboot_count,
                );
                let expected = store::Expected::anything().generation(row.generation);
                store::server_change(txn, id, &expected, change).await
            })
        })
        .await?;
    }
    let now = row(cx, id).await?;
    if reached(&now, now.generation) {
        return Ok(true);
    }
    match push_desired(app, cx, id).await {
        Ok(()) => {}
        Err(error) if is_away(error.fault()) => {
            if !app.host_is_up(&host).await? {
                tracing::warn!(server = %id, host, "the host is down: the server goes without it");
                return Ok(true);
            }
        }
        Err(error) => return Err(error),
    }
    // The report may have come while the message was on its way.
    let now = row(cx, id).await?;
    cx.waiting_for(format!("host {host} to remove the server"));
    Ok(reached(&now, now.generation))
}

/// Lets the host forget its tombstone, and its claim if it has one left. A
/// host that is away is asked again by the reconciler.
async fn forget_on_host(app: &App, cx: &StepCx, id: ServerId) -> Result<(), StepError> {
    let row = row(cx, id).await?;
    let Some(host) = row.host.as_deref() else {
        return Ok(());
    };
    let request = ServerRequest {
        server_id: row.id.clone(),
        generation: u64::try_from(row.generation).unwrap_or(0),
        fence: fence(cx),
    };
    let client = app.compute_host(host);
    let context = internal(cx);
    let outcome = async {
        client.release_claim(&context, request.clone()).await?;
        client.confirm_absent(&context, request).await
    }
    .await;
    match outcome {
        Ok(_) => Ok(()),
        Err(fault) if is_away(&fault) => {
            tracing::info!(server = %id, host, "the host is away: it forgets the server later");
            Ok(())
        }
        // It is not gone after all, or a newer word came: the reconciler, which
        // sees the host's own list, deals with it.
        Err(fault) => {
            tracing::warn!(server = %id, host, %fault, "the host did not forget the server");
            Ok(())
        }
    }
}

/// Closes an action with one event: the whole workflow.
async fn finish_action(
    txn: &DatabaseTransaction,
    cx: &StepCx,
    action_id: &str,
    event: &str,
    end: &End,
    now: Timestamp,
) -> Result<(), DbError> {
    let (result, message) = match end {
        End::Succeeded => ("Success", None),
        End::Failed(fault) => ("Error", Some(fault.message.clone())),
    };
    let events = json!([{
        "event": event,
        "finish_time": now.as_micros(),
        "result": result,
        "details": message,
        "workflow_id": cx.workflow_id.to_string(),
    }]);
    actions::action_finish(txn, action_id, now, message, events.to_string()).await
}

/// Whether no other workflow has overtaken this one: the row names it, or none.
fn is_at_work(row: &Server, cx: &StepCx) -> bool {
    row.workflow_id
        .as_deref()
        .is_none_or(|id| id.parse() == Ok(cx.workflow_id))
}

/// Whether the workflow's bound has been over for so long that nobody is to wait
/// for it any more.
async fn is_overdue(app: &App, cx: &StepCx) -> Result<bool, StepError> {
    let view = app.engine.find(cx.workflow_id).await?;
    let late = app.env.now().minus(GRACE);
    Ok(view.is_some_and(|view| view.deadline_at < late))
}

/// How long after a request's bound it may take to take back what it did, before
/// whoever waits for that is told, or what it holds is freed without it.
pub(crate) const GRACE: Duration = Duration::from_secs(120);

/// How long a waiting step sleeps when nobody wakes it.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests;
