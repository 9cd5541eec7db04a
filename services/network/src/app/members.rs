//! Who joins or leaves a group elsewhere: hosts whose rules name the group are
//! told of many changes together.
//!
//! A boot that told each of these hosts by itself would cost as much as there
//! are servers in its project, and a thousand boots a thousand times that. So a
//! transaction notes its change only, and a loop takes what was noted, makes one
//! revision of a group of it, and sends each host what it is. The loop rests for
//! several times as long as it worked: the more there is to do, the more is done
//! at once.
//!
//! What is sent may get lost. A host notices by the revision before that it
//! lacks, with the next change, with the next look at groups that were not told
//! of to the end (whoever told died), or when its agent says who it is the next
//! time; it then asks for all members of the group.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use moka::sync::Cache;
use yakumo_contracts::network_host::{ChangedMember, MembersChangedRequest, NetworkHostClient};
use yakumo_db::{DatabaseTransaction, DbError, after_commit};
use yakumo_rpc::Target;
use yakumo_service::Process;
use yakumo_types::{Fault, RequestContext};

use super::App;
use crate::store::{self, members::Batch};

/// Groups and changes that are taken together at the most.
const MOST_GROUPS: u64 = 100;
const MOST_CHANGES: u64 = 5_000;

/// With more changes of a group than this, its hosts ask for all members.
const MOST_TOLD: usize = 1_000;

/// Hosts that are told at the same time.
const AT_A_TIME: usize = 64;

/// The loop rests for so many times as long as it worked, within bounds.
const REST: u32 = 10;
const LEAST_REST: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 100 });
const MOST_REST: Duration = Duration::from_secs(15);

/// Between two looks for what others noted or left half done, and how old that
/// is: whoever does it is given time.
const LOOK: Duration = Duration::from_secs(5);
const HALF_DONE: Duration = Duration::from_secs(15);
const FORGOTTEN: Duration = Duration::from_secs(120);

/// What is worth nothing any more after this time: the next word shows the gap.
const LIFE: Duration = Duration::from_secs(60);

/// For how long members are known by the group's revision. A network service of
/// the release before changes them without a new one.
const KNOWN: Duration = Duration::from_secs(5);

/// Addresses that are known at the most, of all groups.
const MOST_KNOWN: u64 = 500_000;

/// Addresses, and the ports that have them.
type Members = Arc<Vec<(String, String)>>;

/// The members of groups by their revisions. What all hosts of a group ask for
/// when they start together is read once.
#[derive(Debug, Clone)]
pub struct KnownMembers(Cache<String, (i64, Members)>);

impl Default for KnownMembers {
    fn default() -> Self {
        let weigh = |_: &String, (_, members): &(i64, Members)| {
            u32::try_from(members.len()).unwrap_or(u32::MAX).max(1)
        };
        let cache = Cache::builder()
            .weigher(weigh)
            .max_capacity(MOST_KNOWN)
            .time_to_live(KNOWN);
        Self(cache.build())
    }
}

impl KnownMembers {
    /// The members of groups, whose revisions were read before.
    pub(super) async fn read(
        &self,
        db: &impl store::Connection,
        groups: Vec<String>,
        revisions: &HashMap<String, i64>,
    ) -> Result<HashMap<String, Members>, DbError> {
        let revision = |group: &str| revisions.get(group).copied().unwrap_or(0);
        let mut known = HashMap::new();
        let mut unknown: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for group in groups {
            match self.0.get(&group) {
                Some((at, members)) if at == revision(&group) => {
                    known.insert(group, members);
                }
                _ => {
                    unknown.insert(group, BTreeMap::new());
                }
            }
        }
        let asked: Vec<String> = unknown.keys().cloned().collect();
        for (group, port, address) in store::ports::group_addresses(db, &asked).await? {
            unknown.entry(group).or_default().insert(address, port);
        }
        for (group, members) in unknown {
            let members: Members = Arc::new(members.into_iter().collect());
            let entry = (revision(&group), Arc::clone(&members));
            self.0.insert(group.clone(), entry);
            known.insert(group, members);
        }
        Ok(known)
    }
}

impl App {
    /// Notes that ports joined or left groups, or became others in them.
    pub(super) async fn touch_groups(
        &self,
        txn: &DatabaseTransaction,
        ports: &BTreeSet<&str>,
        groups: &[String],
    ) -> Result<(), DbError> {
        let groups: BTreeSet<&String> = groups.iter().collect();
        let changes: Vec<(String, String, String)> = groups
            .iter()
            .flat_map(|group| {
                ports.iter().map(|port| {
                    let id = self.env.rng.uuid().to_string();
                    (id, (*group).clone(), (*port).to_owned())
                })
            })
            .collect();
        if changes.is_empty() {
            return Ok(());
        }
        store::members::note(txn, changes).await?;
        let noted = self.members.clone();
        after_commit(move || noted.notify_one());
        Ok(())
    }

    /// Tells hosts of the members of groups, until the process ends.
    pub async fn tell_members(self, process: Process) {
        let clock = process.env.clock.clone();
        let mut looked = clock.monotonic();
        loop {
            tokio::select! {
                () = self.members.notified() => {}
                () = clock.sleep(LOOK) => {}
                () = process.shutdown.cancelled() => return,
            }
            let began = clock.monotonic();
            let told = self.tell_changed().await;
            if began.saturating_sub(looked) >= LOOK {
                looked = began;
                if let Err(fault) = self.tell_half_done().await {
                    tracing::warn!(%fault, "hosts could not be told again of the members of groups");
                }
            }
            match told {
                Ok(true) => self.members.notify_one(),
                Ok(false) => {}
                Err(fault) => {
                    tracing::warn!(%fault, "hosts could not be told of the members of groups");
                }
            }
            let worked = clock.monotonic().saturating_sub(began);
            tokio::select! {
                () = clock.sleep((worked * REST).clamp(LEAST_REST, MOST_REST)) => {}
                () = process.shutdown.cancelled() => return,
            }
        }
    }

    /// Tells what was noted; whether there may be more.
    async fn tell_changed(&self) -> Result<bool, Fault> {
        let groups = store::members::changed(self.db.read(), MOST_GROUPS).await?;
        if groups.is_empty() {
            return Ok(false);
        }
        let full = u64::try_from(groups.len()).unwrap_or(0) >= MOST_GROUPS;
        let ctx = RequestContext::internal(self.env.id());
        let batches = self
            .change(&ctx, groups, |app, txn, _ctx, groups| {
                Box::pin(async move {
                    let taken = store::members::take(txn, &groups, MOST_CHANGES, app.now()).await?;
                    app.tell_other_hosts(txn, &taken).await?;
                    Ok(taken)
                })
            })
            .await?;
        let taken: usize = batches.iter().map(|batch| batch.ports.len()).sum();
        let more = full || u64::try_from(taken).unwrap_or(0) >= MOST_CHANGES;
        let words = self.words(batches).await?;
        self.tell(&ctx, words).await?;
        Ok(more)
    }

    /// Hosts whose agents know nothing of groups' revisions pull the ports.
    async fn tell_other_hosts(
        &self,
        txn: &DatabaseTransaction,
        batches: &[Batch],
    ) -> Result<(), DbError> {
        let others = store::members::other_hosts(txn).await?;
        if others.is_empty() {
            return Ok(());
        }
        let ports: HashMap<&str, &BTreeSet<String>> = batches
            .iter()
            .map(|batch| (batch.group.as_str(), &batch.ports))
            .collect();
        let groups: Vec<String> = batches.iter().map(|batch| batch.group.clone()).collect();
        let mut concerned: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (group, host) in store::members::hosts(txn, &groups).await? {
            if let Some(ports) = ports.get(group.as_str())
                && others.contains(&host)
            {
                concerned
                    .entry(host)
                    .or_default()
                    .extend(ports.iter().cloned());
            }
        }
        let concerned = concerned
            .into_iter()
            .map(|(host, ports)| (host, ports.into_iter().collect()))
            .collect();
        self.touch_hosts_with(txn, concerned).await?;
        Ok(())
    }

    /// What hosts are told: how these ports are now.
    async fn words(&self, batches: Vec<Batch>) -> Result<Vec<MembersChangedRequest>, DbError> {
        let told = |batch: &&Batch| batch.ports.len() <= MOST_TOLD;
        let groups: Vec<String> = batches.iter().map(|batch| batch.group.clone()).collect();
        let ports: BTreeSet<String> = batches
            .iter()
            .filter(told)
            .flat_map(|batch| batch.ports.iter().cloned())
            .collect();
        let ports: Vec<String> = ports.into_iter().collect();
        let rows = store::members::addresses(self.db.read(), &groups, &ports).await?;
        let mut addresses: HashMap<(String, String), Vec<String>> = HashMap::new();
        for (group, port, address) in rows {
            addresses.entry((group, port)).or_default().push(address);
        }
        Ok(batches
            .into_iter()
            .map(|batch| {
                let revision = u64::try_from(batch.revision).unwrap_or(0);
                let (since_revision, ports) = if told(&&batch) {
                    (revision.saturating_sub(1), batch.ports)
                } else {
                    (revision, BTreeSet::new())
                };
                let members = ports
                    .into_iter()
                    .map(|port_id| {
                        let key = (batch.group.clone(), port_id);
                        let addresses = addresses.remove(&key).unwrap_or_default();
                        let (_, port_id) = key;
                        ChangedMember { port_id, addresses }
                    })
                    .collect();
                MembersChangedRequest {
                    group_id: batch.group,
                    since_revision,
                    revision,
                    members,
                }
            })
            .collect())
    }

    /// Sends to hosts what each of them needs, and notes of which groups all of
    /// them were told.
    async fn tell(
        &self,
        ctx: &RequestContext,
        words: Vec<MembersChangedRequest>,
    ) -> Result<(), Fault> {
        let db = self.db.read();
        let groups: Vec<String> = words.iter().map(|word| word.group_id.clone()).collect();
        let others = store::members::other_hosts(db).await?;
        let hosts = store::members::hosts(db, &groups).await?;
        let words: BTreeMap<String, Arc<MembersChangedRequest>> = words
            .into_iter()
            .map(|word| (word.group_id.clone(), Arc::new(word)))
            .collect();
        let mut due = Vec::new();
        for (group, host) in hosts {
            if let Some(word) = words.get(&group)
                && !others.contains(&host)
            {
                due.push(self.tell_one(ctx.clone(), host, Arc::clone(word)));
            }
        }
        let sent: Vec<Option<String>> = futures::stream::iter(due)
            .buffer_unordered(AT_A_TIME)
            .collect()
            .await;
        let missed: BTreeSet<String> = sent.into_iter().flatten().collect();
        let told: Vec<(String, i64)> = words
            .into_iter()
            .filter(|(group, _)| !missed.contains(group))
            .map(|(group, word)| (group, i64::try_from(word.revision).unwrap_or(i64::MAX)))
            .collect();
        self.change(ctx, told, |_app, txn, _ctx, told| {
            Box::pin(async move { store::members::told(txn, &told).await })
        })
        .await
    }

    /// The group that the host was not told of.
    async fn tell_one(
        &self,
        ctx: RequestContext,
        host: String,
        word: Arc<MembersChangedRequest>,
    ) -> Option<String> {
        let client = NetworkHostClient::new(self.bus.clone(), Target::host(host.as_str()));
        let request = MembersChangedRequest::clone(&word);
        let fault = client
            .members_changed_transient(&ctx, request, LIFE)
            .await
            .err()?;
        tracing::debug!(host, %fault, "a host was not told of the members of a group");
        Some(word.group_id.clone())
    }

    /// Whoever was about to tell this has died, or not every host was there: who
    /// lacks it asks for it.
    async fn tell_half_done(&self) -> Result<(), Fault> {
        let now = self.env.now();
        let untold = store::members::untold(
            self.db.read(),
            now.minus(FORGOTTEN).as_micros(),
            now.minus(HALF_DONE).as_micros(),
        )
        .await?;
        if untold.is_empty() {
            return Ok(());
        }
        let words = untold.into_iter().map(|(group_id, revision)| {
            let revision = u64::try_from(revision).unwrap_or(0);
            MembersChangedRequest {
                group_id,
                since_revision: revision,
                revision,
                members: Vec::new(),
            }
        });
        let ctx = RequestContext::internal(self.env.id());
        self.tell(&ctx, words.collect()).await
    }
}
