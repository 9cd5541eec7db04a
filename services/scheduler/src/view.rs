//! What the scheduler knows of the hosts: one flat table, so that a choice
//! among ten thousand is a walk over contiguous numbers.
//!
//! Reports and settings have separate orders, (incarnation, sequence) and
//! (settings revision), because they come from different hands: whatever
//! arrives late, twice or out of order changes nothing.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use yakumo_contracts::scheduler::{HostChanged, HostView, Resources};

use crate::config::Config;

/// Amounts of what a host has or a server takes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Amounts {
    /// vCPUs.
    pub vcpus: f64,
    /// MiB.
    pub memory_mib: f64,
    /// GiB.
    pub disk_gib: f64,
}

impl Amounts {
    fn plus(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus + other.vcpus,
            memory_mib: self.memory_mib + other.memory_mib,
            disk_gib: self.disk_gib + other.disk_gib,
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus - other.vcpus,
            memory_mib: self.memory_mib - other.memory_mib,
            disk_gib: self.disk_gib - other.disk_gib,
        }
    }
}

#[allow(clippy::cast_precision_loss)]
impl From<&Resources> for Amounts {
    /// Exact below 2^53, which no host comes near.
    fn from(resources: &Resources) -> Self {
        Self {
            vcpus: f64::from(resources.vcpus),
            memory_mib: resources.memory_mib as f64,
            disk_gib: resources.disk_gib as f64,
        }
    }
}

/// The zone of a host, as a number.
pub type ZoneNumber = u32;

/// What filters and weighers look at: small, and copied into the table.
#[derive(Debug, Clone, Copy)]
pub struct Host {
    /// What may be promised in all.
    pub limit: Amounts,
    /// What claims have taken.
    pub claimed: Amounts,
    /// What this scheduler chose it for lately.
    pub chosen: Amounts,
    /// When it was heard last, on this process's monotonic clock.
    pub heard: Duration,
    /// Its availability zone.
    pub zone: ZoneNumber,
    /// Servers that it has.
    pub servers: u32,
    /// Whether the operator lets it take servers.
    pub enabled: bool,
}

impl Host {
    /// What is left, own recent choices taken off or not.
    pub fn free(&self, deduct: Deduct) -> Amounts {
        let free = self.limit.minus(self.claimed);
        match deduct {
            Deduct::OwnChoices => free.minus(self.chosen),
            Deduct::ClaimsAlone => free,
        }
    }
}

/// Whether own recent choices count as taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deduct {
    /// They do: the usual case.
    OwnChoices,
    /// They don't: when otherwise nothing is left. The host decides.
    ClaimsAlone,
}

/// What only explanations and merging need.
#[derive(Debug, Clone, Default)]
struct Particulars {
    name: String,
    disabled_reason: String,
    report: (u64, u64),
    settings_revision: u64,
}

#[derive(Debug)]
struct Choice {
    server_id: String,
    host: String,
    amounts: Amounts,
    at: Duration,
}

/// All hosts.
#[derive(Debug)]
pub struct HostTable {
    hosts: Vec<Host>,
    particulars: Vec<Particulars>,
    by_name: HashMap<String, u32>,
    zones: Vec<String>,
    zone_numbers: HashMap<String, ZoneNumber>,
    choices: VecDeque<Choice>,
    ratios: Amounts,
    choice_life: Duration,
}

impl HostTable {
    /// An empty table.
    pub fn new(config: &Config) -> Self {
        Self {
            hosts: Vec::new(),
            particulars: Vec::new(),
            by_name: HashMap::new(),
            zones: Vec::new(),
            zone_numbers: HashMap::new(),
            choices: VecDeque::new(),
            ratios: Amounts {
                vcpus: config.cpu_allocation_ratio,
                memory_mib: config.memory_allocation_ratio,
                disk_gib: config.disk_allocation_ratio,
            },
            choice_life: Duration::from_secs(u64::from(config.choice_seconds)),
        }
    }

    /// The hosts, in no order that means anything.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The name of the host at `index`.
    pub fn name(&self, index: u32) -> &str {
        self.particulars
            .get(index as usize)
            .map_or("", |known| &known.name)
    }

    /// Why the operator took the host at `index` out of service.
    pub fn disabled_reason(&self, index: u32) -> &str {
        self.particulars
            .get(index as usize)
            .map_or("", |known| &known.disabled_reason)
    }

    /// Where a host stands in [`HostTable::hosts`].
    pub fn index(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// The number of a zone, if any host was ever in it.
    pub fn zone(&self, name: &str) -> Option<ZoneNumber> {
        self.zone_numbers.get(name).copied()
    }

    /// The name of a zone.
    pub fn zone_name(&self, zone: ZoneNumber) -> &str {
        self.zones.get(zone as usize).map_or("", String::as_str)
    }

    fn intern(&mut self, zone: &str) -> ZoneNumber {
        if let Some(known) = self.zone_numbers.get(zone) {
            return *known;
        }
        let number = u32::try_from(self.zones.len()).unwrap_or(u32::MAX);
        self.zones.push(zone.to_owned());
        self.zone_numbers.insert(zone.to_owned(), number);
        number
    }

    /// Takes in what changed on a host; `now` is the monotonic time.
    pub fn observe(&mut self, change: &HostChanged, now: Duration) {
        let Some(view) = &change.host else { return };
        if change.removed {
            self.remove(&view.host);
            return;
        }
        let Some(index) = self.index(&view.host) else {
            if !change.refusal {
                self.insert(view, now);
            }
            return;
        };
        let index = index as usize;
        if change.refusal {
            if let (Some(host), Some(claimed)) = (self.hosts.get_mut(index), &view.claimed) {
                host.claimed = claimed.into();
            }
            return;
        }
        let zone = self.intern(&view.availability_zone);
        let limit = self.limit(view);
        let (Some(host), Some(known)) =
            (self.hosts.get_mut(index), self.particulars.get_mut(index))
        else {
            return;
        };
        if view.settings_revision >= known.settings_revision {
            known.settings_revision = view.settings_revision;
            known.disabled_reason.clone_from(&view.disabled_reason);
            host.enabled = view.enabled;
            host.zone = zone;
        }
        let report = (view.incarnation, view.sequence);
        if report >= known.report {
            known.report = report;
            host.limit = limit;
            host.claimed = view.claimed.as_ref().map_or(host.claimed, Amounts::from);
            host.servers = view.servers;
            host.heard = host.heard.max(heard(view, now));
        }
    }

    fn insert(&mut self, view: &HostView, now: Duration) {
        let host = Host {
            limit: self.limit(view),
            claimed: view.claimed.as_ref().map(Amounts::from).unwrap_or_default(),
            chosen: Amounts::default(),
            heard: heard(view, now),
            zone: self.intern(&view.availability_zone),
            servers: view.servers,
            enabled: view.enabled,
        };
        let index = u32::try_from(self.hosts.len()).unwrap_or(u32::MAX);
        self.hosts.push(host);
        self.particulars.push(Particulars {
            name: view.host.clone(),
            disabled_reason: view.disabled_reason.clone(),
            report: (view.incarnation, view.sequence),
            settings_revision: view.settings_revision,
        });
        self.by_name.insert(view.host.clone(), index);
    }

    fn limit(&self, view: &HostView) -> Amounts {
        let total = view.total.as_ref().map(Amounts::from).unwrap_or_default();
        let ratio = |own: f64, general: f64| {
            if own.is_finite() && own > 0.0 {
                own
            } else {
                general
            }
        };
        Amounts {
            vcpus: total.vcpus * ratio(view.cpu_ratio, self.ratios.vcpus),
            memory_mib: total.memory_mib * ratio(view.memory_ratio, self.ratios.memory_mib),
            disk_gib: total.disk_gib * ratio(view.disk_ratio, self.ratios.disk_gib),
        }
    }

    fn remove(&mut self, name: &str) {
        let Some(index) = self.by_name.remove(name) else {
            return;
        };
        let index = index as usize;
        self.hosts.swap_remove(index);
        self.particulars.swap_remove(index);
        if let Some(moved) = self.particulars.get(index) {
            self.by_name
                .insert(moved.name.clone(), u32::try_from(index).unwrap_or(u32::MAX));
        }
    }

    /// Drops the hosts that a whole snapshot, begun at `since`, did not name
    /// and that were not heard after it began.
    pub fn retain_known(&mut self, named: &std::collections::HashSet<String>, since: Duration) {
        let gone: Vec<String> = self
            .particulars
            .iter()
            .zip(&self.hosts)
            .filter(|(known, host)| !named.contains(&known.name) && host.heard < since)
            .map(|(known, _)| known.name.clone())
            .collect();
        for name in gone {
            self.remove(&name);
        }
    }

    /// Deducts a choice until the host's reports show it, or its life ends.
    pub fn remember_choice(
        &mut self,
        server_id: &str,
        index: u32,
        amounts: Amounts,
        now: Duration,
    ) {
        let host = self.name(index).to_owned();
        if let Some(row) = self.hosts.get_mut(index as usize) {
            row.chosen = row.chosen.plus(amounts);
            self.choices.push_back(Choice {
                server_id: server_id.to_owned(),
                host,
                amounts,
                at: now,
            });
        }
    }

    /// Forgets the choices that are too old, and the ones for `server_id`: who
    /// asks again for a server did not use the last answer.
    pub fn forget_choices(&mut self, server_id: &str, now: Duration) {
        let deadline = now.saturating_sub(self.choice_life);
        let mut forgotten = Vec::new();
        self.choices.retain_mut(|choice| {
            let keep = choice.at >= deadline && choice.server_id != server_id;
            if !keep {
                forgotten.push((std::mem::take(&mut choice.host), choice.amounts));
            }
            keep
        });
        for (host, amounts) in forgotten {
            if let Some(row) = self
                .index(&host)
                .and_then(|index| self.hosts.get_mut(index as usize))
            {
                row.chosen = row.chosen.minus(amounts);
            }
        }
    }
}

fn heard(view: &HostView, now: Duration) -> Duration {
    now.saturating_sub(Duration::from_micros(view.silent_for))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn view(name: &str, vcpus: u32, memory_mib: u64) -> HostView {
        HostView {
            host: name.into(),
            availability_zone: "nova".into(),
            enabled: true,
            total: Some(Resources {
                vcpus,
                memory_mib,
                disk_gib: 1000,
            }),
            claimed: Some(Resources::default()),
            incarnation: 1,
            sequence: 1,
            ..HostView::default()
        }
    }

    pub(crate) fn reported(host: HostView) -> HostChanged {
        HostChanged {
            host: Some(host),
            ..HostChanged::default()
        }
    }

    const NOW: Duration = Duration::from_secs(1000);

    #[test]
    fn late_reports_change_nothing() {
        let mut table = HostTable::new(&Config::default());
        let mut new = view("a", 8, 8192);
        new.sequence = 5;
        new.servers = 3;
        table.observe(&reported(new.clone()), NOW);
        let mut old = new.clone();
        old.sequence = 4;
        old.servers = 9;
        old.settings_revision = 1;
        old.enabled = false;
        table.observe(&reported(old), NOW);
        assert_eq!(table.hosts()[0].servers, 3);
        // The settings have an order of their own.
        assert!(!table.hosts()[0].enabled);
        let mut restarted = new;
        restarted.incarnation = 2;
        restarted.sequence = 0;
        restarted.servers = 1;
        table.observe(&reported(restarted), NOW);
        assert_eq!(table.hosts()[0].servers, 1);
        assert!(!table.hosts()[0].enabled);
    }

    #[test]
    fn removing_a_host_keeps_the_others_findable() {
        let mut table = HostTable::new(&Config::default());
        for name in ["a", "b", "c"] {
            table.observe(&reported(view(name, 8, 8192)), NOW);
        }
        table.observe(
            &HostChanged {
                host: Some(view("a", 0, 0)),
                removed: true,
                refusal: false,
            },
            NOW,
        );
        for name in ["b", "c"] {
            assert_eq!(table.name(table.index(name).unwrap()), name);
        }
        assert_eq!(table.hosts().len(), 2);
    }

    #[test]
    fn a_choice_is_deducted_until_its_life_ends() {
        let mut table = HostTable::new(&Config::default());
        table.observe(&reported(view("a", 2, 1024)), NOW);
        let taken = Amounts {
            vcpus: 1.0,
            memory_mib: 512.0,
            disk_gib: 0.0,
        };
        table.remember_choice("one", 0, taken, NOW);
        assert_eq!(table.hosts()[0].free(Deduct::OwnChoices).memory_mib, 512.0);
        assert_eq!(
            table.hosts()[0].free(Deduct::ClaimsAlone).memory_mib,
            1024.0
        );
        table.forget_choices("other", NOW + Duration::from_secs(1));
        assert_eq!(table.hosts()[0].free(Deduct::OwnChoices).memory_mib, 512.0);
        table.forget_choices("other", NOW + Duration::from_secs(60));
        assert_eq!(table.hosts()[0].free(Deduct::OwnChoices).memory_mib, 1024.0);
    }
}
