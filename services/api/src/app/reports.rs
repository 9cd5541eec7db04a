//! What hosts report of servers.
//!
//! A report is taken in once, in the order of the host's own numbers. It
//! updates what was *seen*; what follows from it is decided here when nothing
//! is at work on the server (a guest that switched itself off), and by the
//! workflow at work otherwise, which is woken.

use serde_json::json;
use yakumo_contracts::api::{HostReport, HostReportReply, ServerState as Reported};
use yakumo_db::DbError;
use yakumo_types::server_state::{PowerState, ServerEvent, VmState};
use yakumo_types::{Fault, ServerId, Timestamp};
use yakumo_workflow::Engine;

use super::App;
use crate::store::DatabaseTransaction;
use crate::store::hosts::{self, ReportOrder};
use crate::store::servers::{self as store, Expected, ReportedServer, ServerChange};

/// Servers in one report at most; hosts split longer ones.
const MAX_SERVERS: usize = 5000;

/// What the host found, as an event for a server at rest; nothing while the
/// host is still at work on it.
fn event(reported: &Reported) -> Option<ServerEvent> {
    if !reported.stage.is_empty() {
        return None;
    }
    match PowerState::from_report(&reported.power_state) {
        PowerState::Running => Some(ServerEvent::GuestStarted),
        PowerState::Paused => Some(ServerEvent::GuestPaused),
        PowerState::Shutdown => Some(ServerEvent::GuestStopped),
        PowerState::Crashed | PowerState::NoState => Some(ServerEvent::GuestCrashed),
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A fault as a server's `fault` shows it.
pub(crate) fn fault_document(fault: &Fault, at: Timestamp) -> String {
    let code = match fault.code {
        yakumo_types::FaultCode::Invalid => 400,
        yakumo_types::FaultCode::Forbidden | yakumo_types::FaultCode::OverQuota => 403,
        yakumo_types::FaultCode::NotFound => 404,
        yakumo_types::FaultCode::Conflict => 409,
        _ => 500,
    };
    let mut document = json!({
        "code": code,
        "created": at.iso_z(),
        "message": fault.message,
    });
    if let (Some(details), Some(object)) = (&fault.details, document.as_object_mut()) {
        object.insert("details".into(), details.to_string().into());
    }
    document.to_string()
}

impl App {
    /// Takes in a report. Repeating one, or sending an old one, is harmless.
    pub async fn report_take(&self, report: HostReport) -> Result<HostReportReply, Fault> {
        if report.servers.len() > MAX_SERVERS {
            return Err(Fault::invalid("The report is too long."));
        }
        if !self.host_heard(&report).await? {
            return Ok(HostReportReply {
                register_again: true,
                unknown_server_ids: Vec::new(),
            });
        }
        if report.servers.is_empty() {
            return Ok(HostReportReply::default());
        }
        let now = self.env.now();
        let engine = self.engine.clone();
        let host = report.host.clone();
        let message = std::sync::Arc::new(report);
        let (reply, issued) = self
            .db
            .write(move |txn| {
                let (report, engine) = (message.clone(), engine.clone());
                Box::pin(async move { take(txn, &engine, &report, now).await })
            })
            .await?;
        // New desired state is to be pushed; what no row knows is to be removed.
        if issued || !reply.unknown_server_ids.is_empty() {
            self.to_sync.add(&host);
        }
        Ok(reply)
    }
}

async fn take(
    txn: &DatabaseTransaction,
    engine: &Engine,
    report: &HostReport,
    now: Timestamp,
) -> Result<(HostReportReply, bool), DbError> {
    let order = hosts::host_report_order(
        txn,
        &report.host,
        &report.host_id,
        signed(report.incarnation),
        signed(report.sequence),
    )
    .await?;
    match order {
        ReportOrder::New => {}
        ReportOrder::Old => return Ok((HostReportReply::default(), false)),
        ReportOrder::RegisterAgain => {
            return Ok((
                HostReportReply {
                    register_again: true,
                    unknown_server_ids: Vec::new(),
                },
                false,
            ));
        }
    }
    let ids = report
        .servers
        .iter()
        .filter_map(|server| server.server_id.parse::<ServerId>().ok())
        .map(|id| id.to_string())
        .collect::<Vec<_>>();
    // Workflows before servers: a workflow that moves its server's row holds
    // its own first, and whoever locks the other way round waits for it in vain.
    // Also where the row names no workflow: volumes come and go beside it. None
    // waits for less than that the host is done, or has given up.
    let ended = report
        .servers
        .iter()
        .filter(|server| server.converged || server.fault_is_final)
        .map(|server| server.server_id.clone());
    engine.wake_all(txn, ended).await?;
    let rows = store::servers_of_host_in(txn, &report.host, ids).await?;
    let mut unknown = Vec::new();
    let mut issued = false;
    for reported in &report.servers {
        let Some(row) = rows
            .iter()
            .find(|row| row.id == reported.server_id && row.deleted_at == 0)
        else {
            unknown.push(reported.server_id.clone());
            continue;
        };
        issued |= apply(txn, row, reported, now).await?;
    }
    Ok((
        HostReportReply {
            register_again: false,
            unknown_server_ids: unknown,
        },
        issued,
    ))
}

/// Applies what was reported of one server; returns whether new desired state
/// was issued.
async fn apply(
    txn: &DatabaseTransaction,
    row: &ReportedServer,
    reported: &Reported,
    now: Timestamp,
) -> Result<bool, DbError> {
    let generation = signed(reported.generation);
    if generation < row.seen_generation {
        return Ok(false);
    }
    let Ok(id) = row.id.parse::<ServerId>() else {
        return Ok(false);
    };
    let power = PowerState::from_report(&reported.power_state);
    let fault = (!reported.fault.is_empty()).then(|| {
        json!({ "message": reported.fault, "final": reported.fault_is_final }).to_string()
    });
    let mut change = ServerChange::at(now)
        .seen(
            generation,
            reported.converged,
            &reported.power_state,
            signed(reported.reboot_count),
            fault,
        )
        .stage(&clipped(&reported.stage, 64))
        .power(power);
    let before = row.state();
    let mut issued = false;
    // What is said of an earlier generation says nothing about the present
    // intent, which the host has not heard of yet.
    if row.workflow_id.is_none()
        && generation == row.generation
        && let Some(event) = event(reported)
        && let Ok(next) = before.after(event)
    {
        change = change.state(next);
        tracing::info!(server = row.id, from = %before.vm, to = %next.vm, "the host found a change");
        match event {
            ServerEvent::GuestStopped => {
                // Its owner switched it off, or the host gave up to switch it on
                // and says why: that it is off is the new intent, and a restart
                // of the host must not switch it on again.
                let given_up = reported.fault_is_final && !reported.fault.is_empty();
                let why = given_up.then(|| fault_document(&Fault::internal(&reported.fault), now));
                change = change
                    .desired(generation.saturating_add(1), "stopped", row.reboot_count)
                    .fault(why);
                issued = true;
            }
            ServerEvent::GuestCrashed => {
                let fault = Fault::internal(if reported.fault.is_empty() {
                    "The server stopped running without having been asked to. It can be started again."
                } else {
                    reported.fault.as_str()
                });
                change = change.fault(Some(fault_document(&fault, now)));
            }
            _ if next.vm == VmState::Active => change = change.fault(None),
            _ => {}
        }
    }
    store::server_change(txn, id, &Expected::anything(), change).await?;
    Ok(issued)
}

fn clipped(text: &str, limit: usize) -> String {
    text.chars().take(limit).collect()
}
