//! The workflow engine.

use yakumo_simulation::errands::{Flaw, run};
use yakumo_simulation::scenario::{Detail, Run, run_many};

fn failure(flaw: Flaw, seeds: u64) -> anyhow::Result<Option<Run>> {
    Ok(run_many(&|seed| run(seed, flaw, Detail::Events), 0, seeds)?.failure)
}

#[test]
fn every_errand_is_done_once_or_wholly_undone() {
    if let Some(run) = failure(Flaw::None, 100).unwrap() {
        panic!(
            "seed {}: {:?}; replay it: cargo xtask simulate errands --seed {}",
            run.seed, run.violations, run.seed
        );
    }
}

#[test]
fn a_seed_is_played_back_bit_by_bit() {
    for seed in 0..10 {
        let first = run(seed, Flaw::None, Detail::Events).unwrap();
        let second = run(seed, Flaw::None, Detail::Events).unwrap();
        assert!(first.log.lines().count() > 500, "little happened");
        let difference = first
            .log
            .lines()
            .zip(second.log.lines())
            .find(|(a, b)| a != b);
        assert_eq!(difference, None, "seed {seed}");
        assert_eq!(first.log.len(), second.log.len(), "seed {seed}");
    }
}

#[test]
fn seeds_differ() {
    let log = |seed| run(seed, Flaw::None, Detail::Events).unwrap().log;
    assert_ne!(log(1), log(2));
}

#[test]
fn writes_without_a_fence_are_found() {
    let found = failure(Flaw::UnfencedWrites, 300).unwrap().unwrap();
    assert!(found.violations.iter().any(|it| it.contains("not valid")));
}

#[test]
fn a_receiver_that_does_everything_it_is_told_is_found() {
    assert!(failure(Flaw::CarelessReceiver, 300).unwrap().is_some());
}

#[test]
fn a_receiver_that_takes_late_messages_of_what_was_undone_is_found() {
    assert!(failure(Flaw::LateReceiver, 300).unwrap().is_some());
}
