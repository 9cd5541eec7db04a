//! The api service and the scheduler.

use anyhow::{Context as _, ensure};
use yakumo_simulation::cloud::{Flaw, run};
use yakumo_simulation::scenario::{Detail, run_many};

#[test]
fn servers_come_and_go_and_are_as_their_users_were_told() {
    let tally = run_many(&|seed| run(seed, Flaw::None, Detail::Events), 0, 30).unwrap();
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
        let first = run(seed, Flaw::None, Detail::Events).unwrap();
        let second = run(seed, Flaw::None, Detail::Events).unwrap();
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
fn a_network_that_takes_late_messages_of_what_was_undone_is_found() {
    let scenario = |seed| run(seed, Flaw::LatePorts, Detail::Events);
    let failure = run_many(&scenario, 0, 1000).unwrap().failure.unwrap();
    assert!(failure.violations.iter().any(|it| it.contains("address")));
}

#[test]
fn a_host_that_takes_an_older_power_after_a_newer_one_is_found() -> anyhow::Result<()> {
    let scenario = |seed| run(seed, Flaw::OlderPower, Detail::Events);
    let failure = run_many(&scenario, 0, 300)?.failure;
    let violations = failure.context("no seed finds it")?.violations;
    // Its user sees it if the host's report has moved the row meanwhile.
    let found = |it: &String| it.contains("its user was told") || it.contains("it should be");
    ensure!(violations.iter().any(found), "{violations:?}");
    Ok(())
}

#[test]
fn a_front_that_ignores_keys_is_found() -> anyhow::Result<()> {
    let scenario = |seed| run(seed, Flaw::IgnoredKeys, Detail::Events);
    let failure = run_many(&scenario, 0, 300)?.failure;
    let violations = failure.context("no seed finds it")?.violations;
    let found = |it: &String| it.contains("one key made 2 servers");
    ensure!(violations.iter().any(found), "{violations:?}");
    Ok(())
}
