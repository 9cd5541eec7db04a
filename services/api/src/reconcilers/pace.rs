//! The pace at which all hosts are compared again and again: evenly over a
//! round, so that ten thousand of them are no wave each minute.

use std::time::Duration;

/// How long a round over all hosts takes, unless they are too many for it.
const ROUND: Duration = Duration::from_secs(60);
/// Hosts in a second at the most.
const FASTEST: u64 = 50;

/// Where a round stands.
#[derive(Debug, Default)]
pub(super) struct Pace {
    round: Option<Round>,
    /// Whether every host was compared once since the process started.
    seen_all: bool,
}

#[derive(Debug)]
struct Round {
    /// On the monotonic clock.
    began: Duration,
    hosts: u64,
    done: u64,
    /// The last host that was compared.
    marker: Option<String>,
    over: bool,
}

impl Pace {
    /// Whether a new round is to begin, which needs the number of hosts.
    pub(super) fn begins(&self, now: Duration) -> bool {
        self.round
            .as_ref()
            .is_none_or(|round| round.over && now.saturating_sub(round.began) >= ROUND)
    }

    /// Begins one.
    pub(super) fn begin(&mut self, now: Duration, hosts: u64) {
        self.round = Some(Round {
            began: now,
            hosts,
            done: 0,
            marker: None,
            over: hosts == 0,
        });
    }

    /// The hosts that are to be compared now: how many, by name after which.
    pub(super) fn due(&self, now: Duration) -> Option<(Option<String>, u64)> {
        let round = self.round.as_ref().filter(|round| !round.over)?;
        let elapsed = u64::try_from(now.saturating_sub(round.began).as_millis()).unwrap_or(0);
        let fastest = elapsed.saturating_mul(FASTEST) / 1000;
        let due = if self.seen_all {
            let whole = u64::try_from(ROUND.as_millis()).unwrap_or(u64::MAX);
            fastest.min(round.hosts.saturating_mul(elapsed) / whole)
        } else {
            // A process that has just started does not wait for its turn.
            fastest.saturating_add(FASTEST)
        };
        let due = due.min(round.hosts);
        let number = due.saturating_sub(round.done);
        (number > 0).then(|| (round.marker.clone(), number))
    }

    /// Of `wanted` hosts these were there, the last of them by this name.
    pub(super) fn advance(&mut self, wanted: u64, found: u64, last: Option<String>) {
        let Some(round) = self.round.as_mut() else {
            return;
        };
        round.done = round.done.saturating_add(found);
        round.marker = last.or(round.marker.take());
        round.over = found < wanted || round.done >= round.hosts;
        self.seen_all |= round.over;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hosts that were compared in each second of a minute and a half.
    fn play(pace: &mut Pace, hosts: u64, seconds: std::ops::Range<u64>) -> Vec<u64> {
        seconds
            .map(|second| {
                let now = Duration::from_secs(second);
                if pace.begins(now) {
                    pace.begin(now, hosts);
                }
                let Some((marker, number)) = pace.due(now) else {
                    return 0;
                };
                let before: u64 = marker.map_or(0, |name| name.parse().unwrap());
                let found = number.min(hosts - before);
                pace.advance(number, found, Some((before + found).to_string()));
                found
            })
            .collect()
    }

    #[test]
    fn the_first_round_is_at_once_and_the_next_ones_are_even() {
        let mut pace = Pace::default();
        let first = play(&mut pace, 30, 0..60);
        assert_eq!((first[0], first[1..].iter().sum()), (30, 0));
        let next = play(&mut pace, 30, 60..121);
        assert_eq!(next.iter().sum::<u64>(), 30);
        assert!(next.iter().all(|number| *number <= 1), "{next:?}");
    }

    #[test]
    fn many_hosts_take_more_than_a_minute() {
        let mut pace = Pace::default();
        let all = play(&mut pace, 10_000, 0..600);
        assert!(all.iter().all(|number| *number <= FASTEST), "{all:?}");
        assert_eq!(all[..200].iter().sum::<u64>(), 10_000);
        // And then again.
        assert!(all[200..].iter().sum::<u64>() >= 10_000);
    }

    #[test]
    fn hosts_may_go_and_come_within_a_round() {
        let mut pace = Pace::default();
        pace.begin(Duration::ZERO, 10);
        assert_eq!(pace.due(Duration::ZERO), Some((None, 10)));
        pace.advance(10, 7, Some("7".into()));
        assert_eq!(pace.due(Duration::from_secs(10)), None);
        assert!(!pace.begins(Duration::from_secs(10)));
        assert!(pace.begins(Duration::from_secs(60)));
        pace.begin(Duration::from_secs(60), 0);
        assert_eq!(pace.due(Duration::from_secs(100)), None);
        assert!(pace.begins(Duration::from_secs(120)));
    }
}
