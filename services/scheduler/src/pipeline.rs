//! The choice: hosts in, ranked hosts out, with the reasons. Pure but for the
//! chance that is handed in.

use std::cmp::Ordering;
use std::time::Duration;

use yakumo_contracts::scheduler::{
    ChooseHostsReply, ChooseHostsRequest, FilterOutcome, RankedHost, Resources,
};
use yakumo_types::{Fault, Rng};

use crate::config::Config;
use crate::filters::{FILTERS, Wanted, WantedZone};
use crate::view::{Deduct, HostTable};
use crate::weighers::WEIGHERS;

/// How many alternates come back when the request does not say.
const DEFAULT_LIMIT: u32 = 5;

/// Ranked hosts for `request`, the best first, and what the filters did; the
/// first one is remembered as chosen. `NoValidHost` with the reply in its
/// details when no host is left.
pub fn choose_hosts(
    table: &mut HostTable,
    config: &Config,
    request: &ChooseHostsRequest,
    now: Duration,
    rng: &dyn Rng,
) -> Result<ChooseHostsReply, Fault> {
    table.forget_choices(&request.server_id, now);
    let mut wanted = wanted(table, config, request, now);
    let (mut candidates, mut filters) = filter(table, &wanted);
    if candidates.is_empty() {
        // Own choices are guesses about claims to come. They spread the load,
        // and must not refuse what a host might still take.
        wanted.deduct = Deduct::ClaimsAlone;
        (candidates, filters) = filter(table, &wanted);
    }
    let considered = u32::try_from(table.hosts().len()).unwrap_or(u32::MAX);
    if candidates.is_empty() {
        let reply = ChooseHostsReply {
            hosts: Vec::new(),
            considered,
            filters,
        };
        return Err(no_valid_host(&reply));
    }
    let limit = match request.limit {
        0 => DEFAULT_LIMIT,
        limit => limit,
    };
    let ranked = rank(table, config, &wanted, candidates, limit, rng);
    if let Some((index, _)) = ranked.first() {
        table.remember_choice(&request.server_id, *index, wanted.amounts, now);
    }
    let hosts = ranked
        .iter()
        .map(|(index, score)| RankedHost {
            host: table.name(*index).to_owned(),
            score: *score,
            availability_zone: table
                .hosts()
                .get(*index as usize)
                .map_or("", |host| table.zone_name(host.zone))
                .to_owned(),
        })
        .collect();
    Ok(ChooseHostsReply {
        hosts,
        considered,
        filters,
    })
}

fn wanted(
    table: &HostTable,
    config: &Config,
    request: &ChooseHostsRequest,
    now: Duration,
) -> Wanted {
    let zone = match request.availability_zone.as_str() {
        "" => WantedZone::Any,
        name => table
            .zone(name)
            .map_or_else(|| WantedZone::Unknown(name.to_owned()), WantedZone::In),
    };
    let none = Resources::default();
    Wanted {
        amounts: request.wanted.as_ref().unwrap_or(&none).into(),
        zone,
        excluded: request
            .excluded_hosts
            .iter()
            .filter_map(|name| table.index(name))
            .collect(),
        forced: match request.forced_host.as_str() {
            "" => None,
            name => Some(table.index(name)),
        },
        now,
        silence: Duration::from_secs(u64::from(config.host_silence_seconds)),
        deduct: Deduct::OwnChoices,
    }
}

fn filter(table: &HostTable, wanted: &Wanted) -> (Vec<u32>, Vec<FilterOutcome>) {
    let hosts = table.hosts();
    let mut candidates: Vec<u32> = (0..u32::try_from(hosts.len()).unwrap_or(u32::MAX)).collect();
    let mut outcomes = Vec::with_capacity(FILTERS.len());
    for filter in FILTERS {
        let before = candidates.len();
        // One that is not asked for anything need not look at every host.
        let example = if filter.is_asked(wanted) {
            filter.sieve(&mut candidates, hosts, wanted)
        } else {
            None
        };
        let removed = u32::try_from(before - candidates.len()).unwrap_or(u32::MAX);
        let shown = example.and_then(|index| Some((index, hosts.get(index as usize)?)));
        outcomes.push(FilterOutcome {
            filter: filter.name().to_owned(),
            removed,
            example_host: shown.map_or("", |(index, _)| table.name(index)).to_owned(),
            example_reason: shown.map_or_else(String::new, |(index, host)| {
                filter.explain(table, index, host, wanted)
            }),
        });
    }
    (candidates, outcomes)
}

/// The best `limit` candidates. The first is drawn from the best few.
fn rank(
    table: &HostTable,
    config: &Config,
    wanted: &Wanted,
    candidates: Vec<u32>,
    limit: u32,
    rng: &dyn Rng,
) -> Vec<(u32, f64)> {
    let hosts = table.hosts();
    let mut candidates: Vec<(u32, f64)> = candidates.into_iter().map(|it| (it, 0.0)).collect();
    for weigher in WEIGHERS {
        let weight = weigher.weight(config);
        if weight != 0.0 {
            weigher.weigh_all(
                &mut candidates,
                hosts,
                &wanted.amounts,
                wanted.deduct,
                weight,
            );
        }
    }
    let among = config.choose_among.max(1);
    let mut best = Best::of(limit.max(among) as usize);
    // Hosts of one score are common (empty ones); where they stand in the
    // table must not favour any, so the walk starts at a place by chance.
    let start = usize::try_from(rng.below(candidates.len() as u64)).unwrap_or(0);
    let (last, first) = candidates.split_at(start.min(candidates.len()));
    for (index, score) in first.iter().chain(last) {
        best.offer(*index, *score);
    }
    let mut ranked = best.ranked;
    let drawn = rng.below(u64::from(among).min(ranked.len() as u64));
    let drawn = usize::try_from(drawn).unwrap_or(0);
    if drawn < ranked.len() {
        let first = ranked.remove(drawn);
        ranked.insert(0, first);
    }
    ranked.truncate(limit as usize);
    ranked
}

/// The best few of a walk over all candidates, the best first; of two with the
/// same score, the one that came first.
struct Best {
    most: usize,
    ranked: Vec<(u32, f64)>,
}

impl Best {
    fn of(most: usize) -> Self {
        Self {
            most,
            ranked: Vec::new(),
        }
    }

    fn offer(&mut self, index: u32, score: f64) {
        let is_better = |other: &(u32, f64)| other.1.total_cmp(&score) == Ordering::Less;
        if self.ranked.len() >= self.most && !self.ranked.last().is_some_and(is_better) {
            return;
        }
        let place = self.ranked.partition_point(|other| !is_better(other));
        self.ranked.insert(place, (index, score));
        self.ranked.truncate(self.most);
    }
}

/// The message says what was missing; which host is an example of it stands in
/// the details, since tenants read the one and administrators the other.
fn no_valid_host(reply: &ChooseHostsReply) -> Fault {
    let reasons: Vec<String> = reply
        .filters
        .iter()
        .filter(|outcome| outcome.removed > 0)
        .map(|outcome| {
            format!(
                "{} removed {} (for example: {})",
                outcome.filter, outcome.removed, outcome.example_reason
            )
        })
        .collect();
    let message = if reply.considered == 0 {
        "No valid host was found: no compute host has registered yet.".to_owned()
    } else {
        format!(
            "No valid host was found. Of {} hosts, {}.",
            reply.considered,
            reasons.join(", ")
        )
    };
    let details = serde_json::to_value(reply).unwrap_or_default();
    Fault::no_valid_host(message).with_details(details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{reported, view};
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
    use std::sync::atomic::{AtomicU64, Ordering as Atomic};
    use yakumo_types::FaultCode;

    /// Repeatable chance: a counter through a mixer.
    struct Counting(AtomicU64);

    impl Rng for Counting {
        fn fill(&self, buffer: &mut [u8]) {
            for byte in buffer {
                let n = self.0.fetch_add(1, Atomic::Relaxed);
                *byte = (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u8;
            }
        }
    }

    fn rng() -> Counting {
        Counting(AtomicU64::new(1))
    }

    const NOW: Duration = Duration::from_secs(1000);

    fn request(vcpus: u32, memory_mib: u64) -> ChooseHostsRequest {
        ChooseHostsRequest {
            server_id: "server".into(),
            wanted: Some(Resources {
                vcpus,
                memory_mib,
                disk_gib: 1,
            }),
            ..ChooseHostsRequest::default()
        }
    }

    fn table(hosts: impl IntoIterator<Item = yakumo_contracts::scheduler::HostView>) -> HostTable {
        let mut table = HostTable::new(&Config::default());
        for host in hosts {
            table.observe(&reported(host), NOW);
        }
        table
    }

    #[test]
    fn the_fault_says_what_each_filter_removed() {
        let mut silent = view("silent", 8, 8192);
        silent.silent_for = 600_000_000;
        let mut disabled = view("disabled", 8, 8192);
        disabled.enabled = false;
        disabled.disabled_reason = "new memory".into();
        let mut elsewhere = view("elsewhere", 8, 8192);
        elsewhere.availability_zone = "moon".into();
        let small = view("small", 8, 512);
        let mut table = table([silent, disabled, elsewhere, small]);
        let mut request = request(2, 1024);
        request.availability_zone = "nova".into();
        let fault =
            choose_hosts(&mut table, &Config::default(), &request, NOW, &rng()).unwrap_err();
        assert_eq!(fault.code, FaultCode::NoValidHost);
        for part in [
            "Of 4 hosts",
            "silent for 600 s",
            "new memory",
            "in zone moon, wanted nova",
            "memory: 512 of 512 MiB free, 1024 MiB wanted",
        ] {
            assert!(fault.message.contains(part), "{}", fault.message);
        }
        let reply: ChooseHostsReply = serde_json::from_value(fault.details.unwrap()).unwrap();
        // Names of hosts are for those who see the details.
        let named: Vec<_> = reply.filters.iter().map(|it| &it.example_host).collect();
        assert_eq!(named, ["", "", "silent", "disabled", "elsewhere", "small"]);
        for host in ["disabled:", "silent:", "elsewhere", "small"] {
            assert!(!fault.message.contains(host), "{}", fault.message);
        }
        let removed: Vec<_> = reply.filters.iter().map(|filter| filter.removed).collect();
        assert_eq!(removed, [0, 0, 1, 1, 1, 1]);
    }

    #[test]
    fn an_empty_cloud_says_so() {
        let fault = choose_hosts(
            &mut table([]),
            &Config::default(),
            &request(1, 1),
            NOW,
            &rng(),
        )
        .unwrap_err();
        assert!(fault.message.contains("no compute host has registered"));
    }

    #[test]
    fn own_choices_spread_and_never_refuse() {
        let config = Config {
            choose_among: 1,
            ..Config::default()
        };
        let mut table = table([view("a", 4, 1024), view("b", 4, 1024)]);
        let mut seen = Vec::new();
        for n in 0..4 {
            let mut request = request(1, 1024);
            request.server_id = format!("server-{n}");
            let reply = choose_hosts(&mut table, &config, &request, NOW, &rng()).unwrap();
            seen.push(reply.hosts[0].host.clone());
        }
        // Two fit; the other two are left for the hosts to refuse.
        assert_ne!(seen[0], seen[1]);
    }

    #[test]
    fn a_host_that_refused_teaches_the_table() {
        let mut table = table([view("a", 4, 1024), view("b", 4, 1024)]);
        let mut full = view("a", 4, 1024);
        full.claimed = Some(Resources {
            vcpus: 4,
            memory_mib: 1024,
            disk_gib: 0,
        });
        table.observe(
            &yakumo_contracts::scheduler::HostChanged {
                host: Some(full),
                removed: false,
                refusal: true,
            },
            NOW,
        );
        let reply = choose_hosts(
            &mut table,
            &Config::default(),
            &request(1, 512),
            NOW,
            &rng(),
        )
        .unwrap();
        assert_eq!(reply.hosts.len(), 1);
        assert_eq!(reply.hosts[0].host, "b");
    }

    #[test]
    fn a_forced_host_is_the_only_candidate() {
        let mut table = table([view("a", 4, 1024), view("b", 4, 1024)]);
        let mut wanted = request(1, 1);
        wanted.forced_host = "b".into();
        let config = Config::default();
        let reply = choose_hosts(&mut table, &config, &wanted, NOW, &rng()).unwrap();
        assert_eq!(reply.hosts.len(), 1);
        assert_eq!(reply.hosts[0].host, "b");
        wanted.forced_host = "nowhere".into();
        assert!(choose_hosts(&mut table, &config, &wanted, NOW, &rng()).is_err());
    }

    proptest! {
        #[test]
        fn the_best_of_a_walk_are_the_first_of_all_in_order(
            scores in proptest::collection::vec(0u8..6, 0..40),
            most in 1usize..12,
        ) {
            let all: Vec<_> = (0u32..).zip(scores.iter().map(|score| f64::from(*score))).collect();
            let mut best = Best::of(most);
            for (index, score) in &all {
                best.offer(*index, *score);
            }
            let mut sorted = all;
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
            sorted.truncate(most);
            prop_assert_eq!(best.ranked, sorted);
        }

        #[test]
        fn a_ranked_host_always_fits_and_a_fitting_host_is_always_found(
            hosts in proptest::collection::vec((0u32..16, 0u64..4096, any::<bool>(), 0u32..3), 0..40),
            vcpus in 0u32..20,
            memory in 0u64..4096,
            zone in 0u32..4,
        ) {
            let views: Vec<_> = hosts.iter().enumerate().map(|(n, (vcpus, memory, enabled, zone))| {
                let mut host = view(&format!("host-{n}"), *vcpus, *memory);
                host.enabled = *enabled;
                host.availability_zone = format!("zone-{zone}");
                host
            }).collect();
            let config = Config { cpu_allocation_ratio: 1.0, ..Config::default() };
            let mut table = HostTable::new(&config);
            for host in &views {
                table.observe(&reported(host.clone()), NOW);
            }
            let mut request = request(vcpus, memory);
            request.limit = 100;
            if zone < 3 {
                request.availability_zone = format!("zone-{zone}");
            }
            let fits: std::collections::BTreeSet<_> = views.iter().filter(|host| {
                let total = host.total.as_ref().unwrap();
                host.enabled && total.vcpus >= vcpus && total.memory_mib >= memory
                    && (zone == 3 || host.availability_zone == request.availability_zone)
            }).map(|host| host.host.clone()).collect();
            match choose_hosts(&mut table, &config, &request, NOW, &rng()) {
                Ok(reply) => {
                    let found: std::collections::BTreeSet<_> =
                        reply.hosts.iter().map(|host| host.host.clone()).collect();
                    prop_assert_eq!(found, fits);
                    let removed: u32 = reply.filters.iter().map(|filter| filter.removed).sum();
                    prop_assert_eq!(reply.considered - removed, reply.hosts.len() as u32);
                    // Best first, but for the one that chance put in front.
                    for pair in reply.hosts[1..].windows(2) {
                        prop_assert!(pair[0].score >= pair[1].score);
                    }
                }
                Err(fault) => {
                    prop_assert_eq!(fault.code, FaultCode::NoValidHost);
                    prop_assert!(fits.is_empty());
                }
            }
        }
    }
}
