//! The api service and the scheduler.

use yakumo_simulation::cloud::run;
use yakumo_simulation::scenario::{Detail, run_many};

#[test]
fn servers_come_and_go_and_leave_nothing() {
    let tally = run_many(&|seed| run(seed, Detail::Events), 0, 30).unwrap();
    if let Some(run) = tally.failure {
        panic!(
            "seed {}: {:?}; replay it: cargo xtask simulate cloud --seed {}",
            run.seed, run.violations, run.seed
        );
    }
}

#[test]
fn a_seed_is_played_back_bit_by_bit() {
    for seed in 0..3 {
        let first = run(seed, Detail::Events).unwrap();
        let second = run(seed, Detail::Events).unwrap();
        let difference = first
            .log
            .lines()
            .zip(second.log.lines())
            .find(|(a, b)| a != b);
        assert_eq!(difference, None, "seed {seed}");
        assert_eq!(first.log.len(), second.log.len(), "seed {seed}");
    }
}
