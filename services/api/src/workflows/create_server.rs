//! Makes a server: host, claim, ports, image, desired state, and then waits
//! until the host says that it runs.

use std::collections::BTreeMap;
use std::sync::Weak;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use yakumo_contracts::compute_host::{
    ClaimServerRequest, ImageSource, NetworkPort, Resources as HostResources, ServerRequest,
    ServerSpec,
};
use yakumo_contracts::image::IssueTicketRequest;
use yakumo_contracts::network::{AllocateServerPortsRequest, ResolvedNetwork, ServerPortsRequest};
use yakumo_contracts::scheduler::{ChooseHostsRequest, RankedHost, Resources};
use yakumo_db::{DatabaseTransaction, DbError};
use yakumo_types::server_state::{PowerState, ServerEvent, ServerState, VmState};
use yakumo_types::{Fault, FaultCode, ServerId, Timestamp};
use yakumo_workflow::{End, Outcome, StepCx, StepError, Workflow};

use super::{
    LOOK_AGAIN, alive, complaint, context, fence, finish_action, forget_on_host, is_at_work,
    is_away, part_fence, push_desired, reached, remove_from_host, row, row_in,
};
use crate::app::App;
use crate::app::reports::fault_document;
use crate::app::spec::{base_spec, network_port};
use crate::store::servers::{self as store, Expected, Server, ServerBuild, ServerChange, state_of};

/// The workflow's name.
pub const KIND: &str = "create_server";

/// How often hosts are asked for anew when all of them refused.
const ROUNDS: usize = 3;
/// Hosts that the scheduler names at a time.
const CANDIDATES: u32 = 5;

/// What the workflow starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Input {
    pub server_id: ServerId,
    pub action_id: String,
    pub facts: Facts,
}

/// What was asked for and stays so while the server is made: steps need not
/// read it from the rows that it also stands in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Facts {
    /// What the host is told, but for its ports and its image.
    spec: ServerSpec,
    image_id: Option<String>,
    config_drive: bool,
    /// The zone that was asked for, or nothing.
    zone: String,
    forced_host: String,
    generation: i64,
    networks: Vec<ResolvedNetwork>,
    security_group_ids: Vec<String>,
}

impl Facts {
    /// Those of a server that was just accepted.
    ///
    /// # Errors
    /// If the build's lists are no JSON.
    pub fn of(row: &Server, build: &ServerBuild) -> serde_json::Result<Self> {
        Ok(Self {
            spec: base_spec(row),
            image_id: row.image_id.clone(),
            config_drive: row.config_drive,
            zone: row.availability_zone.clone().unwrap_or_default(),
            forced_host: build.forced_host.clone().unwrap_or_default(),
            generation: row.generation,
            networks: serde_json::from_str(&build.networks)?,
            security_group_ids: serde_json::from_str(&build.security_groups)?,
        })
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Chosen {
    hosts: Vec<RankedHost>,
    /// The scheduler's reply as a document, to be kept with the server.
    decision: String,
}

/// Where a host took the server.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Placed {
    host: String,
    zone: String,
    /// That of the claim, which is that of the row.
    generation: i64,
    /// The scheduler's, if it was asked again.
    decision: Option<String>,
}

/// What the row said when the host had done it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Seen {
    power: String,
}

/// Makes a server.
pub struct CreateServer {
    app: Weak<App>,
}

impl CreateServer {
    pub(super) fn new(app: Weak<App>) -> Self {
        Self { app }
    }
}

fn input(cx: &StepCx) -> Result<Input, StepError> {
    cx.input_as()
}

#[async_trait]
impl Workflow for CreateServer {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn steps(&self) -> &'static [&'static str] {
        &[
            "choose_hosts",
            "claim_host",
            "allocate_ports",
            "wire_ports",
            "issue_ticket",
            "set_desired",
            "wait_active",
        ]
    }

    async fn run(&self, step: &str, cx: &StepCx) -> Result<Outcome, StepError> {
        let app = alive(&self.app)?;
        let input = input(cx)?;
        match step {
            "choose_hosts" => choose_hosts(&app, cx, &input).await,
            "claim_host" => claim_host(&app, cx, &input).await,
            "allocate_ports" => allocate_ports(&app, cx, &input).await,
            "wire_ports" => wire_ports(&app, cx, input.server_id).await,
            "issue_ticket" => issue_ticket(&app, cx, &input).await,
            "set_desired" => set_desired(&app, cx, &input).await,
            "wait_active" => wait_active(cx, input.server_id).await,
            _ => Err(StepError::Fail(Fault::internal("There is no such step."))),
        }
    }

    /// What the network service and the host keep by themselves, and answer
    /// again in the same way.
    fn is_lazy(&self, step: &str) -> bool {
        matches!(
            step,
            "claim_host" | "allocate_ports" | "wire_ports" | "set_desired"
        )
    }

    async fn undo(&self, step: &str, cx: &StepCx) -> Result<Outcome, StepError> {
        let app = alive(&self.app)?;
        let id = input(cx)?.server_id;
        match step {
            "claim_host" => {
                release_host(&app, cx, id).await?;
                Ok(Outcome::done())
            }
            "allocate_ports" => {
                let request = ServerPortsRequest {
                    server_id: id.to_string(),
                    fence: fence(cx),
                };
                app.server_ports
                    .release_server_ports(&super::internal(cx), request)
                    .await?;
                Ok(Outcome::done())
            }
            "set_desired" => {
                let row = row(cx, id).await?;
                // Before the row says so, the host was told nothing.
                if row.seen_generation == 0 && !cx.results.contains_key("issue_ticket") {
                    return Ok(Outcome::done());
                }
                if remove_from_host(&app, cx, id).await? {
                    Ok(Outcome::done())
                } else {
                    Ok(Outcome::park(LOOK_AGAIN))
                }
            }
            // Wiring goes with the ports, and tickets run out.
            _ => Ok(Outcome::done()),
        }
    }

    async fn on_finished(
        &self,
        txn: &DatabaseTransaction,
        cx: &StepCx,
        end: &End,
    ) -> Result<(), DbError> {
        let Ok(input) = input(cx) else { return Ok(()) };
        let now = cx.env.now();
        finish_action(
            txn,
            cx,
            &input.action_id,
            "compute__do_build_server",
            end,
            now,
        )
        .await?;
        if *end == End::Succeeded && settled(txn, cx, &input, now).await? {
            return Ok(());
        }
        let row = row_in(txn, input.server_id).await?;
        if !is_at_work(&row, cx) {
            // A deletion overtook the boot, and waits for this moment.
            if let Some(app) = self.app.upgrade() {
                app.engine.wake(txn, &row.id).await?;
            }
            return Ok(());
        }
        let before = state_of(&row);
        let change = ServerChange::at(now).workflow(None).stage("");
        let change = match end {
            End::Succeeded => booted(&row.seen_power, before, change).launched(now),
            End::Failed(fault) => {
                let next = before
                    .after(ServerEvent::BootFailed)
                    .unwrap_or(ServerState::resting(VmState::Error));
                change
                    .state(next)
                    .power(PowerState::NoState)
                    .host(None)
                    .fault(Some(fault_document(fault, now)))
                    .addresses("{}".into(), row.addresses_revision)
            }
        };
        store::server_change(txn, input.server_id, &Expected::state(before), change).await
    }
}

/// What a server does from the moment that everything is there for it.
fn spawning() -> ServerState {
    let events = [ServerEvent::HostChosen, ServerEvent::NetworkReady];
    events.iter().fold(ServerState::ACCEPTED, |state, event| {
        state.after(*event).unwrap_or(state)
    })
}

/// Ends a boot without reading the row again, if it is as the last step saw it
/// and nothing has overtaken this workflow. Says whether that was so.
async fn settled(
    txn: &DatabaseTransaction,
    cx: &StepCx,
    input: &Input,
    now: Timestamp,
) -> Result<bool, DbError> {
    let Ok(Some(seen)) = cx.result_if_done::<Seen>("wait_active") else {
        return Ok(false);
    };
    let expected = Expected::state(spawning())
        .workflow(cx.workflow_id)
        .seen_power(&seen.power);
    let change = ServerChange::at(now).workflow(None).stage("");
    let change = booted(&seen.power, spawning(), change).launched(now);
    match store::server_change(txn, input.server_id, &expected, change).await {
        Ok(()) => Ok(true),
        Err(DbError::Stale) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The row of a server that runs. A guest may have switched itself off before
/// its boot was seen to its end: that is then what is so.
fn booted(seen_power: &str, before: ServerState, change: ServerChange) -> ServerChange {
    let next = before
        .after(ServerEvent::Booted)
        .unwrap_or(ServerState::resting(VmState::Active));
    let power = PowerState::from_report(seen_power);
    let next = match power {
        PowerState::Shutdown | PowerState::Crashed | PowerState::NoState => {
            next.after(ServerEvent::GuestStopped).unwrap_or(next)
        }
        PowerState::Paused => next.after(ServerEvent::GuestPaused).unwrap_or(next),
        PowerState::Running => next,
    };
    change.state(next).power(power)
}

async fn choose(
    app: &App,
    cx: &StepCx,
    input: &Input,
    excluded: &[String],
) -> Result<Chosen, StepError> {
    let facts = &input.facts;
    let request = ChooseHostsRequest {
        server_id: input.server_id.to_string(),
        project_id: facts.spec.project_id.clone(),
        wanted: facts.spec.flavor.map(|flavor| Resources {
            vcpus: flavor.vcpus,
            memory_mib: flavor.memory_mib,
            disk_gib: flavor.disk_gib,
        }),
        availability_zone: facts.zone.clone(),
        excluded_hosts: excluded.to_vec(),
        limit: CANDIDATES,
        forced_host: facts.forced_host.clone(),
    };
    match app
        .scheduler
        .choose_hosts(&super::internal(cx), request)
        .await
    {
        Ok(reply) => Ok(Chosen {
            decision: serde_json::to_string(&reply)?,
            hosts: reply.hosts,
        }),
        Err(fault) => {
            if let Some(details) = &fault.details {
                let (id, decision) = (input.server_id, details.to_string());
                cx.write(move |txn| {
                    let decision = decision.clone();
                    Box::pin(async move { store::server_build_decision(txn, id, decision).await })
                })
                .await?;
            }
            Err(fault.into())
        }
    }
}

async fn choose_hosts(app: &App, cx: &StepCx, input: &Input) -> Result<Outcome, StepError> {
    let chosen = choose(app, cx, input, &[]).await?;
    // The first of them is asked next, and the row is to name it by then. No
    // host was asked before this step is recorded.
    if let Some(first) = chosen.hosts.first() {
        let (id, host, now) = (input.server_id, first.host.clone(), cx.env.now());
        cx.along(move |txn| {
            let change = ServerChange::at(now).host(Some(&host));
            Box::pin(
                async move { store::server_change(txn, id, &Expected::anything(), change).await },
            )
        });
    }
    Outcome::with(&chosen)
}

/// What the server's row says of its place, which only this workflow moves
/// meanwhile.
struct Place {
    host: Option<String>,
    generation: i64,
}

/// Asks the chosen hosts in turn to take the server. The row names a host
/// before it is asked, so that there is no claim that no row knows of, even if
/// this worker dies while it waits for the answer.
async fn claim_host(app: &App, cx: &StepCx, input: &Input) -> Result<Outcome, StepError> {
    let mut chosen = cx.result::<Chosen>("choose_hosts")?;
    let mut place = match chosen.hosts.first() {
        // The step before has just written it so.
        Some(first) if cx.comes_straight() => Place {
            host: Some(first.host.clone()),
            generation: input.facts.generation,
        },
        _ => {
            let row = row(cx, input.server_id).await?;
            Place {
                host: row.host,
                generation: row.generation,
            }
        }
    };
    if let Some(host) = &place.host {
        // Asked before this step was interrupted, and perhaps claimed.
        chosen
            .hosts
            .sort_by_key(|candidate| candidate.host != *host);
    }
    let mut decision = None;
    let mut refusals: Vec<(String, Fault)> = Vec::new();
    for round in 0..ROUNDS {
        for candidate in &chosen.hosts {
            match claim(app, cx, input, &mut place, candidate).await? {
                None => {
                    return Outcome::with(&Placed {
                        host: candidate.host.clone(),
                        zone: candidate.availability_zone.clone(),
                        generation: place.generation,
                        decision,
                    });
                }
                Some(fault) => refusals.push((candidate.host.clone(), fault)),
            }
        }
        if round + 1 < ROUNDS {
            let tried: Vec<String> = refusals.iter().map(|(host, _)| host.clone()).collect();
            chosen = match choose(app, cx, input, &tried).await {
                Ok(chosen) => chosen,
                Err(error) if error.fault().code == FaultCode::NoValidHost => break,
                Err(error) => return Err(error),
            };
            decision = Some(chosen.decision.clone());
        }
    }
    Err(all_refused(&refusals))
}

/// What the hosts said, without their names: those stand in the details, which
/// administrators see.
fn all_refused(refusals: &[(String, Fault)]) -> StepError {
    if refusals.iter().all(|(_, fault)| is_away(fault)) {
        return StepError::Retry(Fault::unavailable("No chosen host answers."));
    }
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, fault) in refusals {
        // What is said of a host that is away names it.
        let reason = match is_away(fault) {
            true => "It does not answer.",
            false => fault.message.as_str(),
        };
        *reasons.entry(reason).or_default() += 1;
    }
    let told: Vec<String> = reasons
        .iter()
        .map(|(reason, count)| format!("{count} of {}: {reason}", refusals.len()))
        .collect();
    let details = serde_json::json!({
        "refusals": refusals
            .iter()
            .map(|(host, fault)| serde_json::json!({ "host": host, "reason": fault.message }))
            .collect::<Vec<_>>(),
    });
    StepError::Fail(
        Fault::no_valid_host(format!(
            "No valid host was found: every host that was chosen refused. {}",
            told.join(" ")
        ))
        .with_details(details),
    )
}

/// Asks one host; the fault if it did not take the server.
async fn claim(
    app: &App,
    cx: &StepCx,
    input: &Input,
    place: &mut Place,
    candidate: &RankedHost,
) -> Result<Option<Fault>, StepError> {
    let host = candidate.host.as_str();
    if place.host.as_deref() != Some(host) {
        *place = approach(cx, input.server_id, host, Generation::Kept).await?;
    }
    let mut outcome = ask(app, cx, input, place, host).await;
    if matches!(&outcome, Err(fault) if fault.code == FaultCode::Stale) {
        // A claim of this generation was given back there before, when its
        // answer was lost: this one is a new one.
        *place = approach(cx, input.server_id, host, Generation::Raised).await?;
        outcome = ask(app, cx, input, place, host).await;
    }
    match outcome {
        Ok(()) => Ok(None),
        Err(fault)
            if matches!(fault.code, FaultCode::Conflict | FaultCode::Stale) || is_away(&fault) =>
        {
            if let Some(claimed) = claimed_of(&fault) {
                app.publish_refusal(host, claimed);
            }
            // It may have taken the server all the same, when only the answer
            // was lost; a claim that nobody uses must not stay.
            give_back(app, cx, input, place, host).await;
            tracing::info!(server = %input.server_id, host, %fault, "a host refused");
            Ok(Some(fault))
        }
        Err(fault) => Err(fault.into()),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Generation {
    Kept,
    Raised,
}

/// Names the host in the server's row, before the host is asked.
async fn approach(
    cx: &StepCx,
    id: ServerId,
    host: &str,
    generation: Generation,
) -> Result<Place, StepError> {
    let (host, now) = (host.to_owned(), cx.env.now());
    Ok(cx
        .write(move |txn| {
            let host = host.clone();
            Box::pin(async move {
                let mut row = row_in(txn, id).await?;
                let mut change = ServerChange::at(now).host(Some(&host));
                if generation == Generation::Raised {
                    row.generation = row.generation.saturating_add(1);
                    change = change.desired(row.generation, &row.desired_power, row.reboot_count);
                }
                store::server_change(txn, id, &Expected::anything(), change).await?;
                Ok(Place {
                    host: Some(host),
                    generation: row.generation,
                })
            })
        })
        .await?)
}

async fn ask(
    app: &App,
    cx: &StepCx,
    input: &Input,
    place: &Place,
    host: &str,
) -> Result<(), Fault> {
    let request = ClaimServerRequest {
        server_id: input.server_id.to_string(),
        generation: u64::try_from(place.generation).unwrap_or(0),
        resources: input.facts.spec.flavor,
        project_id: input.facts.spec.project_id.clone(),
        fence: part_fence(cx.fence_for(host)),
    };
    app.compute_host(host)
        .claim_server(&super::internal(cx), request)
        .await?;
    Ok(())
}

fn claimed_of(fault: &Fault) -> Option<Resources> {
    let claimed: HostResources =
        serde_json::from_value(fault.details.as_ref()?.get("claimed")?.clone()).ok()?;
    Some(Resources {
        vcpus: claimed.vcpus,
        memory_mib: claimed.memory_mib,
        disk_gib: claimed.disk_gib,
    })
}

/// Takes a claim back, as far as the host can be asked.
async fn give_back(app: &App, cx: &StepCx, input: &Input, place: &Place, host: &str) {
    let request = ServerRequest {
        server_id: input.server_id.to_string(),
        generation: u64::try_from(place.generation).unwrap_or(0),
        fence: part_fence(cx.fence_for(host)),
    };
    let client = app.compute_host(host);
    if let Err(fault) = client.release_claim(&super::internal(cx), request).await {
        tracing::info!(server = %input.server_id, host, %fault, "a claim is left for the reconciler");
    }
}

async fn release_host(app: &App, cx: &StepCx, id: ServerId) -> Result<(), StepError> {
    forget_on_host(app, cx, id).await?;
    let now = app.env.now();
    cx.write(move |txn| {
        let change = ServerChange::at(now).host(None);
        Box::pin(async move { store::server_change(txn, id, &Expected::anything(), change).await })
    })
    .await?;
    Ok(())
}

async fn allocate_ports(app: &App, cx: &StepCx, input: &Input) -> Result<Outcome, StepError> {
    let placed = cx.result::<Placed>("claim_host")?;
    let facts = &input.facts;
    let request = AllocateServerPortsRequest {
        server_id: input.server_id.to_string(),
        project_id: facts.spec.project_id.clone(),
        host: placed.host,
        hostname: facts.spec.hostname.clone(),
        networks: facts.networks.clone(),
        security_group_ids: facts.security_group_ids.clone(),
        availability_zone: match placed.zone.as_str() {
            "" => facts.zone.clone(),
            _ => placed.zone,
        },
        fence: fence(cx),
    };
    let reply = app
        .server_ports
        .allocate_server_ports(&context(cx), request)
        .await?;
    let ports: Vec<NetworkPort> = reply.ports.into_iter().map(network_port).collect();
    Outcome::with(&ports)
}

async fn wire_ports(app: &App, cx: &StepCx, id: ServerId) -> Result<Outcome, StepError> {
    if cx.result::<Vec<NetworkPort>>("allocate_ports")?.is_empty() {
        return Ok(Outcome::done());
    }
    let request = ServerPortsRequest {
        server_id: id.to_string(),
        fence: fence(cx),
    };
    app.server_ports
        .wire_server_ports(&context(cx), request)
        .await?;
    Ok(Outcome::done())
}

async fn issue_ticket(app: &App, cx: &StepCx, input: &Input) -> Result<Outcome, StepError> {
    let Some(image_id) = input.facts.image_id.clone() else {
        specify(cx, input, None)?;
        return Ok(Outcome::done());
    };
    let request = IssueTicketRequest {
        image_id: image_id.clone(),
        host: cx.result::<Placed>("claim_host")?.host,
    };
    let ticket = app.images.issue_ticket(&context(cx), request).await?;
    let image = ImageSource {
        image_id,
        endpoint: ticket.endpoint,
        ticket: ticket.ticket,
        size: ticket.size,
        sha512: ticket.sha512,
        disk_format: ticket.disk_format,
    };
    specify(cx, input, Some(image.clone()))?;
    Outcome::with(&image)
}

/// What the host is told, but for what may change with the row.
fn spec_of(
    cx: &StepCx,
    input: &Input,
    image: Option<ImageSource>,
) -> Result<ServerSpec, StepError> {
    Ok(ServerSpec {
        ports: cx.result("allocate_ports")?,
        image,
        ..input.facts.spec.clone()
    })
}

/// A host took the server and everything is there: with that, what the host is
/// to be told is kept, why it is that host, and that it comes next.
fn specify(cx: &StepCx, input: &Input, image: Option<ImageSource>) -> Result<(), StepError> {
    let id = input.server_id;
    let spec = serde_json::to_string(&spec_of(cx, input, image)?)?;
    let placed = cx.result::<Placed>("claim_host")?;
    let decision = match placed.decision {
        Some(decision) => decision,
        None => cx.result::<Chosen>("choose_hosts")?.decision,
    };
    let (zone, now) = (placed.zone, cx.env.now());
    cx.along(move |txn| {
        let (spec, decision) = (spec.clone(), decision.clone());
        let mut change = ServerChange::at(now);
        if !zone.is_empty() {
            change = change.zone(&zone);
        }
        Box::pin(async move {
            store::server_build_spec(txn, id, decision, spec).await?;
            let expected = Expected::state(ServerState::ACCEPTED);
            let spawning = change.clone().state(spawning());
            match store::server_change(txn, id, &expected, spawning).await {
                // A deletion has moved it meanwhile, and calls the boot off.
                Err(DbError::Stale) => {
                    store::server_change(txn, id, &Expected::anything(), change).await
                }
                outcome => outcome,
            }
        })
    });
    Ok(())
}

async fn set_desired(app: &App, cx: &StepCx, input: &Input) -> Result<Outcome, StepError> {
    // A config drive holds what the user may have changed since.
    if !cx.comes_straight() || input.facts.config_drive {
        push_desired(app, cx, input.server_id).await?;
        return Ok(Outcome::done());
    }
    let placed = cx.result::<Placed>("claim_host")?;
    let image = cx.result_if_done::<Option<ImageSource>>("issue_ticket")?;
    let spec = spec_of(cx, input, image.flatten())?;
    let mut request = app.desired_at_first(input.server_id, placed.generation, spec);
    request.fence = fence(cx);
    app.compute_host(&placed.host)
        .set_desired(&super::internal(cx), request)
        .await?;
    Ok(Outcome::done())
}

async fn wait_active(cx: &StepCx, id: ServerId) -> Result<Outcome, StepError> {
    // The host has just been told, and what it says is heard.
    if cx.comes_straight() {
        let host = cx.result::<Placed>("claim_host")?.host;
        cx.waiting_for(format!("host {host} to start the server"));
        return Ok(Outcome::park(LOOK_AGAIN));
    }
    let row = row(cx, id).await?;
    if let Some(fault) = complaint(&row, row.generation) {
        return Err(StepError::Fail(fault));
    }
    if reached(&row, row.generation) {
        return Outcome::with(&Seen {
            power: row.seen_power,
        });
    }
    cx.waiting_for(format!(
        "host {} to start the server{}",
        row.host.as_deref().unwrap_or("?"),
        match row.stage.as_str() {
            "" => String::new(),
            stage => format!(" ({stage})"),
        }
    ));
    Ok(Outcome::park(LOOK_AGAIN))
}

#[cfg(test)]
mod previous_release;
