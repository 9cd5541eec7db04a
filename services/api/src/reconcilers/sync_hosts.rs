//! Compares every living host's own list with the rows.
//!
//! - What a host has and no row places there is told to vanish, and a claim
//!   that no row uses is given back.
//! - A tombstone is confirmed once the row says that the server is gone.
//! - Desired state that the host did not hear of is pushed again.
//! - A server that its host does not know any more goes into error, unless a
//!   workflow is at work on it.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::StreamExt;
use yakumo_contracts::common::Page;
use yakumo_contracts::compute_host::{
    ComputeHostClient, DesiredServer, ListServersRequest, Power, ServerReport, ServerRequest,
    SetDesiredRequest,
};
use yakumo_service::Reconciler;
use yakumo_types::server_state::{ServerEvent, VmState};
use yakumo_types::{Fault, FaultCode, RequestContext, ServerId};

use super::pace::Pace;
use crate::app::App;
use crate::app::reports::fault_document;
use crate::store::hosts;
use crate::store::servers::{
    self as store, Expected, Life, Scope, Server, ServerChange, ServerFilter, ServerPage, state_of,
};

/// Hosts that are asked at the same time.
const AT_A_TIME: usize = 16;
/// Servers in one page of a host's list.
const PAGE: u32 = 500;

pub(super) struct SyncHosts {
    app: Arc<App>,
    pace: Mutex<Pace>,
}

impl SyncHosts {
    pub(super) fn new(app: Arc<App>) -> Self {
        Self {
            app,
            pace: Mutex::default(),
        }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Reconciler for SyncHosts {
    fn name(&self) -> &'static str {
        "sync_hosts"
    }

    async fn reconcile(&self) -> anyhow::Result<()> {
        let app = &self.app;
        sync_all(app, app.to_sync.take()).await;
        let now = app.env.clock.monotonic();
        if self.pace().begins(now) {
            let hosts = hosts::host_count(app.db.read()).await?;
            self.pace().begin(now, hosts);
        }
        let Some((marker, number)) = self.pace().due(now) else {
            return Ok(());
        };
        let database_now = yakumo_db::database_now(app.db.read()).await?;
        let page = hosts::host_list(app.db.read(), marker.as_deref(), number).await?;
        let last = page.last().map(|host| host.name.clone());
        self.pace().advance(number, page.len() as u64, last);
        let up = page
            .into_iter()
            .filter(|host| app.heard_lately(host.heard_at, database_now))
            .map(|host| host.name);
        sync_all(app, up).await;
        Ok(())
    }
}

async fn sync_all(app: &App, hosts: impl IntoIterator<Item = String>) {
    futures::stream::iter(hosts)
        .for_each_concurrent(AT_A_TIME, |host| async move {
            if let Err(error) = sync(app, &host).await {
                // One host that does not answer must not hold up the others.
                tracing::info!(host, %error, "a host could not be compared");
                // One that has just come back has yet to look at its servers.
                let starts = error.code == FaultCode::Unavailable;
                if starts && app.host_is_up(&host).await.unwrap_or(false) {
                    app.to_sync.again(&host);
                }
            }
        })
        .await;
}

async fn sync(app: &App, host: &str) -> Result<(), Fault> {
    let client = app.compute_host(host);
    let context = app.internal();
    // Rows first: a server that is placed while the host is being asked is then
    // at worst on the host's list and not among these, and is looked up again.
    let placed = placed_on(app, host).await?;
    let mut seen: HashSet<String> = HashSet::new();
    let mut marker = String::new();
    loop {
        let request = ListServersRequest {
            page: Some(Page {
                limit: PAGE,
                marker,
            }),
        };
        let reply = client.list_servers(&context, request).await?;
        for report in &reply.servers {
            seen.insert(report.server_id.clone());
            compare(
                app,
                &client,
                &context,
                host,
                report,
                placed.get(&report.server_id),
            )
            .await?;
        }
        for claim in &reply.claims {
            if seen.insert(claim.clone()) && !placed.contains_key(claim) {
                give_back(app, &client, &context, host, claim).await?;
            }
        }
        if reply.next.is_empty() {
            break;
        }
        marker = reply.next;
    }
    for (id, row) in &placed {
        if !seen.contains(id) {
            lost(app, row).await?;
        }
    }
    Ok(())
}

async fn placed_on(app: &App, host: &str) -> Result<BTreeMap<String, Server>, Fault> {
    let filter = ServerFilter {
        host: Some(host.to_owned()),
        ..ServerFilter::default()
    };
    let mut page = ServerPage::default();
    let mut all = BTreeMap::new();
    loop {
        let rows = store::server_list(app.db.read(), Scope::All, &filter, &page).await?;
        let full = rows.len() as u64 == page.limit;
        page.after = rows.last().cloned();
        all.extend(rows.into_iter().map(|row| (row.id.clone(), row)));
        if !full {
            return Ok(all);
        }
    }
}

async fn compare(
    app: &App,
    client: &ComputeHostClient,
    context: &RequestContext,
    host: &str,
    report: &ServerReport,
    row: Option<&Server>,
) -> Result<(), Fault> {
    let Some(row) = row else {
        return remove_stray(app, client, context, host, report).await;
    };
    // A workflow at work tells the host itself.
    if row.workflow_id.is_some() {
        return Ok(());
    }
    let wanted = u64::try_from(row.generation).unwrap_or(0);
    if report.generation >= wanted {
        return Ok(());
    }
    let Ok(id) = row.id.parse() else {
        return Ok(());
    };
    if is_removed(report) && row.desired_power != "absent" {
        return removed_before(app, client, context, id, report).await;
    }
    let (_, request) = app.desired(id).await?;
    match client.set_desired(context, request).await {
        // One server that the host cannot take must not hold up the others.
        Err(fault) if matches!(fault.code, FaultCode::Conflict | FaultCode::Stale) => {
            tracing::info!(server = row.id, host, %fault, "a host did not take desired state");
            Ok(())
        }
        outcome => outcome.map(drop),
    }
}

/// Whether nothing is left of a server, as the host says.
fn is_removed(report: &ServerReport) -> bool {
    report.converged && report.power_state == "nostate"
}

/// A host has removed a server that its row wants: the row is one of a restored
/// database, and the server was deleted after the back-up.
async fn removed_before(
    app: &App,
    client: &ComputeHostClient,
    context: &RequestContext,
    id: ServerId,
    report: &ServerReport,
) -> Result<(), Fault> {
    // What has just begun to be deleted is not meant; that was written before
    // the host heard of it.
    let row = store::server_fetch(app.db.read(), Scope::All, id, Life::Living).await?;
    let Some(row) = row.filter(|row| row.workflow_id.is_none()) else {
        return Ok(());
    };
    let request = ServerRequest {
        server_id: report.server_id.clone(),
        generation: report.generation,
        fence: None,
    };
    // Only a tombstone can be confirmed; anything else is refused.
    match client.confirm_absent(context, request).await {
        Ok(_) => lost(app, &row).await,
        Err(fault) => {
            tracing::info!(server = row.id, %fault, "a server is not removed after all");
            Ok(())
        }
    }
}

/// Something on a host that no living row places there.
async fn remove_stray(
    app: &App,
    client: &ComputeHostClient,
    context: &RequestContext,
    host: &str,
    report: &ServerReport,
) -> Result<(), Fault> {
    let Ok(id) = report.server_id.parse::<ServerId>() else {
        return Ok(());
    };
    let row = store::server_fetch(app.db.read(), Scope::All, id, Life::Either).await?;
    if let Some(row) = &row
        && row.deleted_at == 0
        && row.host.as_deref() == Some(host)
    {
        return Ok(());
    }
    // A boot or a deletion that is under way deals with what it left.
    if row
        .as_ref()
        .is_some_and(|row| row.deleted_at == 0 && row.workflow_id.is_some())
    {
        return Ok(());
    }
    let known = row.map_or(0, |row| u64::try_from(row.generation).unwrap_or(0));
    if is_removed(report) && report.generation >= known {
        let request = ServerRequest {
            server_id: report.server_id.clone(),
            generation: report.generation,
            fence: None,
        };
        // Only a tombstone can be confirmed; anything else is refused.
        if client.confirm_absent(context, request).await.is_ok() {
            return Ok(());
        }
    }
    tracing::warn!(
        server = report.server_id,
        host,
        "a host has a server that should not be there"
    );
    let request = SetDesiredRequest {
        server: Some(DesiredServer {
            server_id: report.server_id.clone(),
            generation: report.generation.max(known).saturating_add(1),
            power: Power::Absent.into(),
            ..DesiredServer::default()
        }),
        fence: None,
    };
    client.set_desired(context, request).await?;
    Ok(())
}

/// A claim that no row uses.
async fn give_back(
    app: &App,
    client: &ComputeHostClient,
    context: &RequestContext,
    host: &str,
    claim: &str,
) -> Result<(), Fault> {
    let Ok(id) = claim.parse::<ServerId>() else {
        return Ok(());
    };
    let row = store::server_fetch(app.db.read(), Scope::All, id, Life::Either).await?;
    let generation = match &row {
        Some(row) if row.deleted_at == 0 && row.host.as_deref() == Some(host) => return Ok(()),
        Some(row) if row.deleted_at == 0 && row.workflow_id.is_some() => {
            // It may be about to be asked: the row names a host first.
            u64::try_from(row.generation).unwrap_or(0)
        }
        Some(row) => u64::try_from(row.generation).unwrap_or(0),
        None => u64::MAX >> 1,
    };
    tracing::warn!(
        server = claim,
        host,
        "a claim that nobody uses is given back"
    );
    let request = ServerRequest {
        server_id: claim.to_owned(),
        generation,
        fence: None,
    };
    client.release_claim(context, request.clone()).await?;
    client.confirm_absent(context, request).await?;
    Ok(())
}

/// A server that its host does not know.
async fn lost(app: &App, row: &Server) -> Result<(), Fault> {
    let state = state_of(row);
    if row.workflow_id.is_some() || state.vm == VmState::Error {
        return Ok(());
    }
    let Ok(id) = row.id.parse::<ServerId>() else {
        return Ok(());
    };
    let Ok(next) = state.after(ServerEvent::ResetTo(VmState::Error)) else {
        return Ok(());
    };
    tracing::error!(server = row.id, host = row.host, "a host lost a server");
    let now = app.env.now();
    let fault = Fault::internal("The server's host does not have it any more; its disk is lost.");
    let document = fault_document(&fault, now);
    let generation = row.generation;
    app.db
        .write(move |txn| {
            let change = ServerChange::at(now)
                .state(next)
                .fault(Some(document.clone()));
            Box::pin(async move {
                let expected = Expected::state(state).generation(generation);
                store::server_change(txn, id, &expected, change).await
            })
        })
        .await
        .or_else(|error| match error {
            // It was placed or changed meanwhile.
            yakumo_db::DbError::Stale => Ok(()),
            error => Err(error),
        })?;
    Ok(())
}
