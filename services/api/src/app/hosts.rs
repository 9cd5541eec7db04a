//! Compute hosts: their registration, their signs of life, and what the
//! operator sets.
//!
//! A sign of life is worth no row: it goes to the schedulers at once, and is
//! written down for many hosts together every few seconds. Whether a host is
//! up is what the database's clock says about that note.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use yakumo_contracts::api::{HostFacts, HostReport, HostSnapshot, SnapshotReply};
use yakumo_contracts::scheduler::{HostChanged, HostView, HostsChanged, Resources};
use yakumo_db::DbError;
use yakumo_types::{Fault, HostId, RequestContext, Timestamp, check_name};

use super::App;
use crate::store::host_tokens;
use crate::store::hosts::{self as store, Claimed, Host};

/// How long a change waits for others before schedulers hear of it: a thousand
/// hosts that say something in each second are not a thousand messages.
const COMPANY: Duration = Duration::from_millis(50);
/// Hosts in one message to the schedulers.
const CHUNK: usize = 500;
/// Hosts in one page of a snapshot at most.
const SNAPSHOT_PAGE: u64 = 2000;

#[derive(Debug, Clone, Copy)]
struct Heard {
    incarnation: u64,
    sequence: u64,
    claimed: Claimed,
    /// What of it is not written down yet.
    alive_unwritten: bool,
    claimed_unwritten: bool,
}

/// What this process heard from hosts and did not pass on yet.
#[derive(Debug, Default)]
pub struct HostTracker {
    heard: Mutex<BTreeMap<String, Heard>>,
    rows: Mutex<BTreeMap<String, Host>>,
    for_schedulers: Mutex<BTreeMap<String, HostChanged>>,
    something_for_schedulers: Notify,
}

impl HostTracker {
    /// Forgets what this process knows of a host.
    pub(crate) fn forget(&self, name: &str) {
        lock(&self.rows).remove(name);
        lock(&self.heard).remove(name);
    }
}

/// Hosts whose own list is to be compared with the rows soon, because
/// something about them is known to differ.
#[derive(Debug, Default)]
pub struct ToSync {
    hosts: Mutex<std::collections::BTreeSet<String>>,
    nudge: yakumo_service::Nudge,
}

impl ToSync {
    /// Compares this host soon.
    pub(crate) fn add(&self, host: &str) {
        lock(&self.hosts).insert(host.to_owned());
        self.nudge.nudge();
    }

    /// Compares this host the next time.
    pub(crate) fn again(&self, host: &str) {
        lock(&self.hosts).insert(host.to_owned());
    }

    /// The hosts that were added since the last time.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.hosts))
            .into_iter()
            .collect()
    }

    /// Waits until a host is added.
    pub(crate) async fn wait(&self) {
        self.nudge.nudged().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn small(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

fn large(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Microseconds since a host was heard.
fn silent_for(heard_at: i64, now: Timestamp) -> u64 {
    let silence = now.apart(Timestamp::from_micros(heard_at));
    u64::try_from(silence.as_micros()).unwrap_or(u64::MAX)
}

/// A row as the schedulers see it.
fn view(row: &Host, now: Timestamp) -> HostView {
    HostView {
        host: row.name.clone(),
        host_id: row.host_uuid.clone(),
        availability_zone: row.availability_zone.clone(),
        enabled: row.enabled,
        disabled_reason: row.disabled_reason.clone().unwrap_or_default(),
        silent_for: silent_for(row.heard_at, now),
        total: Some(Resources {
            vcpus: small(row.vcpus),
            memory_mib: large(row.memory_mib),
            disk_gib: large(row.disk_gib),
        }),
        claimed: Some(Resources {
            vcpus: small(row.claimed_vcpus),
            memory_mib: large(row.claimed_memory_mib),
            disk_gib: large(row.claimed_disk_gib),
        }),
        servers: small(row.servers),
        incarnation: large(row.incarnation),
        sequence: large(row.sequence),
        hypervisor: row.hypervisor_type.clone(),
        settings_revision: large(row.settings_revision),
        cpu_ratio: row.cpu_ratio,
        memory_ratio: row.memory_ratio,
        disk_ratio: row.disk_ratio,
        changed_at: 0,
    }
}

impl App {
    pub(crate) fn heard_lately(&self, heard_at: i64, now: Timestamp) -> bool {
        now.apart(Timestamp::from_micros(heard_at)) <= self.config.host_silence()
    }

    /// Whether a host was heard lately; false for one that is not known.
    pub async fn host_is_up(&self, name: &str) -> Result<bool, Fault> {
        let now = yakumo_db::database_now(self.db.read()).await?;
        let row = store::host_fetch(self.db.read(), name).await?;
        Ok(row.is_some_and(|row| self.heard_lately(row.heard_at, now)))
    }

    /// Takes in a start of a host's agent and hands out its incarnation.
    pub async fn host_register(&self, facts: HostFacts) -> Result<u64, Fault> {
        let name = check_name("The host's name", &facts.host, 255)?.to_owned();
        let uuid: HostId = facts
            .host_id
            .parse()
            .map_err(|_| Fault::invalid("The host's id must be a UUID."))?;
        let zone = match facts.availability_zone.as_str() {
            "" => self.config.default_availability_zone.clone(),
            zone => check_name("The availability zone", zone, 255)?.to_owned(),
        };
        let wall = self.env.now().as_micros();
        let (wanted, key) = (facts.clone(), name.clone());
        let row = self
            .db
            .write(move |txn| {
                let (facts, name, zone) = (wanted.clone(), key.clone(), zone.clone());
                Box::pin(async move {
                    let now = yakumo_db::database_now(txn).await?;
                    let known = store::host_fetch_in(txn, &name).await?;
                    if let Some(known) = &known
                        && known.host_uuid != uuid.to_string()
                    {
                        // Installed anew, or a second one under the same name:
                        // what is known of the first would be taken for its own.
                        return Err(DbError::Fault(Fault::conflict(format!(
                            "Another host is known as {name}, with the id {}. It must be removed \
                             before this one, {uuid}, can take its place.",
                            known.host_uuid
                        ))));
                    }
                    let mut row = match known.clone() {
                        Some(row) => row,
                        None => Host {
                            name: name.clone(),
                            number: store::host_next_number_in(txn).await?,
                            host_uuid: uuid.to_string(),
                            // Later than what anybody may still know of an
                            // earlier host of this name.
                            incarnation: now.as_micros(),
                            sequence: 0,
                            vcpus: 0,
                            memory_mib: 0,
                            disk_gib: 0,
                            cpu_ratio: 0.0,
                            memory_ratio: 0.0,
                            disk_ratio: 0.0,
                            claimed_vcpus: 0,
                            claimed_memory_mib: 0,
                            claimed_disk_gib: 0,
                            servers: 0,
                            hypervisor_type: String::new(),
                            hypervisor_version: 0,
                            driver: String::new(),
                            availability_zone: zone.clone(),
                            host_ip: String::new(),
                            cpu_info: String::new(),
                            enabled: true,
                            disabled_reason: None,
                            settings_revision: now.as_micros(),
                            heard_at: 0,
                            created_at: wall,
                            updated_at: wall,
                        },
                    };
                    let before = row.incarnation;
                    row.incarnation = before.saturating_add(1);
                    row.sequence = 0;
                    row.host_uuid = uuid.to_string();
                    row.vcpus = i64::from(facts.vcpus);
                    row.memory_mib = signed(facts.memory_mib);
                    row.disk_gib = signed(facts.disk_gib);
                    row.cpu_ratio = facts.cpu_ratio;
                    row.memory_ratio = facts.memory_ratio;
                    row.disk_ratio = facts.disk_ratio;
                    row.hypervisor_type = clipped(&facts.hypervisor_type, 64);
                    row.hypervisor_version = signed(facts.hypervisor_version);
                    row.driver = clipped(&facts.driver, 64);
                    row.host_ip = clipped(&facts.host_ip, 64);
                    row.cpu_info.clone_from(&facts.cpu_info);
                    if row.availability_zone != zone {
                        row.availability_zone = zone;
                        row.settings_revision = row.settings_revision.saturating_add(1);
                    }
                    row.heard_at = now.as_micros();
                    row.updated_at = wall;
                    match known {
                        Some(_) => store::host_register(txn, row.clone(), before).await?,
                        None => store::host_insert(txn, row.clone()).await?,
                    }
                    host_tokens::host_tokens_confirm(txn, &name, &row.host_uuid, now.as_micros())
                        .await?;
                    Ok(row)
                })
            })
            .await
            .map_err(|error| match error {
                // Two agents of one name registered at the same moment, or two hosts
                // that took the same number.
                DbError::Stale | DbError::Conflict { .. } => {
                    Fault::unavailable("The host is being registered. Try again.")
                }
                error => error.into(),
            })?;
        let incarnation = large(row.incarnation);
        tracing::info!(host = %name, incarnation, driver = row.driver, "a host registered");
        lock(&self.hosts.rows).insert(name, row.clone());
        self.publish_host(&row, Timestamp::from_micros(row.heard_at));
        self.to_sync.add(&row.name);
        Ok(incarnation)
    }

    /// Takes in a sign of life, and the claimed sums that go with it. Returns
    /// whether the host's start is the one that is known.
    pub async fn host_heard(&self, report: &HostReport) -> Result<bool, Fault> {
        let Some(mut row) = self.known_start(report).await? else {
            return Ok(false);
        };
        self.passing_on.add(report);
        self.note_age(report);
        let claimed = claimed(report);
        {
            let mut heard = lock(&self.hosts.heard);
            let before = heard.get(&report.host).copied();
            if let Some(before) = before
                && (before.incarnation, before.sequence) > (report.incarnation, report.sequence)
            {
                return Ok(true);
            }
            heard.insert(
                report.host.clone(),
                Heard {
                    incarnation: report.incarnation,
                    sequence: report.sequence,
                    claimed,
                    alive_unwritten: true,
                    claimed_unwritten: before
                        .is_none_or(|before| before.claimed_unwritten || before.claimed != claimed),
                },
            );
        }
        row.claimed_vcpus = claimed.vcpus;
        row.claimed_memory_mib = claimed.memory_mib;
        row.claimed_disk_gib = claimed.disk_gib;
        row.servers = claimed.servers;
        row.sequence = signed(report.sequence);
        // Heard this moment, whatever the row says.
        row.heard_at = 0;
        self.publish(HostChanged {
            host: Some(HostView {
                changed_at: report.changed_at,
                ..view(&row, Timestamp::from_micros(0))
            }),
            ..HostChanged::default()
        });
        Ok(true)
    }

    /// How late word of hosts comes, for operators; hosts of an older release
    /// don't say when it came up.
    fn note_age(&self, report: &HostReport) {
        if report.changed_at <= 0 {
            return;
        }
        let kind = if report.servers.is_empty() {
            "beat"
        } else {
            "report"
        };
        let came_up = Timestamp::from_micros(report.changed_at);
        let age = self.env.now().since(came_up);
        metrics::histogram!("yakumo_api_report_age_seconds", "kind" => kind)
            .record(age.as_secs_f64());
    }

    /// The row of a host whose present start is the one that reports. Rows are
    /// remembered: a heartbeat of ten thousand hosts must not be ten thousand
    /// queries.
    async fn known_start(&self, report: &HostReport) -> Result<Option<Host>, Fault> {
        let fits = |row: &Host| {
            row.host_uuid == report.host_id && row.incarnation == signed(report.incarnation)
        };
        let known = lock(&self.hosts.rows).get(&report.host).cloned();
        if let Some(row) = known.filter(|row| fits(row)) {
            return Ok(Some(row));
        }
        match store::host_fetch(self.db.read(), &report.host).await? {
            Some(row) if fits(&row) => {
                lock(&self.hosts.rows).insert(report.host.clone(), row.clone());
                Ok(Some(row))
            }
            _ => Ok(None),
        }
    }

    /// Tells the schedulers of a host's row soon.
    pub(crate) fn publish_host(&self, row: &Host, now: Timestamp) {
        self.publish(HostChanged {
            host: Some(view(row, now)),
            ..HostChanged::default()
        });
    }

    /// Tells the schedulers what a host said while it refused a claim.
    pub(crate) fn publish_refusal(&self, host: &str, claimed: Resources) {
        self.publish(HostChanged {
            host: Some(HostView {
                host: host.to_owned(),
                claimed: Some(claimed),
                ..HostView::default()
            }),
            removed: false,
            refusal: true,
        });
    }

    pub(crate) fn publish(&self, change: HostChanged) {
        let Some(name) = change.host.as_ref().map(|host| host.host.clone()) else {
            return;
        };
        lock(&self.hosts.for_schedulers).insert(name, change);
        self.hosts.something_for_schedulers.notify_one();
    }

    /// Passes changes on to the schedulers, whatever comes within a moment in
    /// one message; waits for the first one.
    pub(crate) async fn hosts_publish_next(&self) {
        self.hosts.something_for_schedulers.notified().await;
        self.env.clock.sleep(COMPANY).await;
        let waiting: Vec<HostChanged> = std::mem::take(&mut *lock(&self.hosts.for_schedulers))
            .into_values()
            .collect();
        let context = self.internal();
        for chunk in waiting.chunks(CHUNK) {
            let message = HostsChanged {
                hosts: chunk.to_vec(),
            };
            // Schedulers that miss it hear the next heartbeat.
            if let Err(fault) = self.scheduler.hosts_reported(&context, message).await {
                tracing::debug!(%fault, "schedulers were not told of hosts");
            }
        }
    }

    /// Writes down who was heard since the last time, all in one transaction.
    pub(crate) async fn hosts_write_heard(&self) -> Result<(), Fault> {
        let (alive, changed) = {
            let mut heard = lock(&self.hosts.heard);
            let mut alive = Vec::new();
            let mut changed = Vec::new();
            for (name, entry) in heard.iter_mut() {
                if std::mem::take(&mut entry.alive_unwritten) {
                    alive.push(name.clone());
                }
                if std::mem::take(&mut entry.claimed_unwritten) {
                    changed.push((name.clone(), entry.claimed));
                }
            }
            (alive, changed)
        };
        if alive.is_empty() && changed.is_empty() {
            return Ok(());
        }
        let unwritten: Vec<String> = changed.iter().map(|(name, _)| name.clone()).collect();
        let written = self
            .db
            .write(move |txn| {
                let (alive, changed) = (alive.clone(), changed.clone());
                Box::pin(async move {
                    let now = yakumo_db::database_now(txn).await?;
                    for names in alive.chunks(CHUNK) {
                        store::hosts_heard(txn, names.to_vec(), now.as_micros()).await?;
                    }
                    for (name, claimed) in changed {
                        store::host_claimed(txn, &name, claimed).await?;
                    }
                    Ok(())
                })
            })
            .await;
        if written.is_err() {
            // Of being alive there is a newer sign soon; claims change seldom.
            let mut heard = lock(&self.hosts.heard);
            for name in unwritten {
                if let Some(entry) = heard.get_mut(&name) {
                    entry.claimed_unwritten = true;
                }
            }
        }
        Ok(written?)
    }

    /// A page of all hosts, for schedulers.
    pub async fn host_snapshot(&self, marker: &str, limit: u32) -> Result<SnapshotReply, Fault> {
        let limit = match limit {
            0 => SNAPSHOT_PAGE,
            limit => u64::from(limit).min(SNAPSHOT_PAGE),
        };
        let marker = (!marker.is_empty()).then_some(marker);
        let now = yakumo_db::database_now(self.db.read()).await?;
        let rows = store::host_list(self.db.read(), marker, limit).await?;
        let next = if rows.len() as u64 == limit {
            rows.last().map(|row| row.name.clone()).unwrap_or_default()
        } else {
            String::new()
        };
        let hosts = rows.iter().map(|row| snapshot(row, now)).collect();
        Ok(SnapshotReply { hosts, next })
    }

    /// All hosts, for administrators.
    pub async fn host_list(
        &self,
        ctx: &RequestContext,
        marker: Option<&str>,
        limit: u64,
    ) -> Result<(Vec<Host>, Timestamp), Fault> {
        ctx.require_admin()?;
        let now = yakumo_db::database_now(self.db.read()).await?;
        let mut rows = store::host_list(self.db.read(), marker, limit).await?;
        self.freshen(&mut rows);
        Ok((rows, now))
    }

    /// One host by its number, for administrators.
    pub async fn host_show(
        &self,
        ctx: &RequestContext,
        number: &str,
    ) -> Result<(Host, Timestamp), Fault> {
        ctx.require_admin()?;
        let missing = || {
            Fault::not_found(format!(
                "Hypervisor with ID '{number:.64}' could not be found."
            ))
        };
        let wanted: i64 = number.parse().map_err(|_| missing())?;
        let now = yakumo_db::database_now(self.db.read()).await?;
        let mut row = store::host_fetch_by_number(self.db.read(), wanted)
            .await?
            .ok_or_else(missing)?;
        self.freshen(std::slice::from_mut(&mut row));
        Ok((row, now))
    }

    /// Puts in what was heard and is not written down yet.
    fn freshen(&self, rows: &mut [Host]) {
        let heard = lock(&self.hosts.heard);
        for row in rows {
            if let Some(entry) = heard
                .get(&row.name)
                .filter(|entry| signed(entry.incarnation) == row.incarnation)
            {
                row.claimed_vcpus = entry.claimed.vcpus;
                row.claimed_memory_mib = entry.claimed.memory_mib;
                row.claimed_disk_gib = entry.claimed.disk_gib;
                row.servers = entry.claimed.servers;
            }
        }
    }

    /// Forgets a host by its number.
    pub async fn host_forget(&self, ctx: &RequestContext, number: &str) -> Result<(), Fault> {
        let (row, _) = self.host_show(ctx, number).await?;
        self.host_remove(&row.name).await.map(drop)
    }

    /// Lets a host take new servers, or takes it out of service; what runs
    /// there goes on.
    pub async fn host_enable(
        &self,
        ctx: &RequestContext,
        name: &str,
        enabled: bool,
        reason: Option<&str>,
    ) -> Result<Host, Fault> {
        ctx.require_admin()?;
        let reason = match reason {
            Some(reason) => Some(check_name("disabled_reason", reason, 255)?.to_owned()),
            None => None,
        };
        let now = self.env.now().as_micros();
        let wanted = name.to_owned();
        let row = self
            .db
            .write(move |txn| {
                let (name, reason) = (wanted.clone(), reason.clone());
                Box::pin(async move {
                    store::host_enable(txn, &name, enabled, reason, now).await?;
                    store::host_fetch_in(txn, &name)
                        .await?
                        .ok_or(DbError::NotFound)
                })
            })
            .await
            .map_err(|error| match error {
                DbError::NotFound => {
                    Fault::not_found(format!("Host '{name:.255}' could not be found."))
                }
                error => error.into(),
            })?;
        lock(&self.hosts.rows).insert(name.to_owned(), row.clone());
        self.publish_host(&row, yakumo_db::database_now(self.db.read()).await?);
        Ok(row)
    }
}

fn clipped(text: &str, limit: usize) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(limit)
        .collect()
}

pub(crate) fn claimed(report: &HostReport) -> Claimed {
    Claimed {
        vcpus: i64::from(report.claimed_vcpus),
        memory_mib: signed(report.claimed_memory_mib),
        disk_gib: signed(report.claimed_disk_gib),
        servers: i64::from(report.running_servers),
    }
}

fn snapshot(row: &Host, now: Timestamp) -> HostSnapshot {
    HostSnapshot {
        host: row.name.clone(),
        host_id: row.host_uuid.clone(),
        availability_zone: row.availability_zone.clone(),
        enabled: row.enabled,
        disabled_reason: row.disabled_reason.clone().unwrap_or_default(),
        settings_revision: large(row.settings_revision),
        incarnation: large(row.incarnation),
        sequence: large(row.sequence),
        silent_for: silent_for(row.heard_at, now),
        vcpus: small(row.vcpus),
        memory_mib: large(row.memory_mib),
        disk_gib: large(row.disk_gib),
        claimed_vcpus: small(row.claimed_vcpus),
        claimed_memory_mib: large(row.claimed_memory_mib),
        claimed_disk_gib: large(row.claimed_disk_gib),
        servers: small(row.servers),
        hypervisor_type: row.hypervisor_type.clone(),
        cpu_ratio: row.cpu_ratio,
        memory_ratio: row.memory_ratio,
        disk_ratio: row.disk_ratio,
    }
}

/// How often signs of life are written down.
pub(crate) const WRITE_HEARD_EVERY: Duration = Duration::from_secs(3);
