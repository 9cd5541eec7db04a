//! `cargo xtask test`: everything that must hold before a change goes in.
//!
//! Stages run one after another, each visible while it runs and timed. A stage
//! that others build on ends the run when it fails; the checks and the test
//! stages don't, so that one run shows everything that is wrong. The last line
//! of the run is the sum of cargo's own results, a failed stage counting as one
//! failure: `412 passed, 0 failed`.
//!
//! A few failed tests are run a second time by themselves; what passes then is
//! named at the end of the run, for it is a bug of its own.

mod again;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use comfy_table::{CellAlignment, Table};

use self::again::Failures;
use crate::paths::Paths;
use crate::programs;
use crate::run::Run;
use crate::{cloud, guest_check, guest_image, setup, tidy, ui};

/// A stage that takes longer hangs.
const BOUND: Duration = Duration::from_secs(40 * 60);

/// The tests of the whole cloud, and those of the simulation, which `cargo test`
/// leaves out by itself.
const CLOUD: [&str; 2] = ["--test", "cloud"];
const SIMULATION: [&str; 2] = ["--test", "simulation"];

/// All packages, always together: with fewer of them, cargo would give what they
/// share other features, and build all of it again.
const ALL: [&str; 2] = ["test", "--workspace"];

/// All tests but those in docs, of which there are none, and which cargo would
/// read every crate again for.
const TESTS: &str = "--tests";

/// What `cargo xtask test` can be asked to leave out while working on something.
#[derive(clap::Args, Default)]
pub struct Options {
    /// Only the stages whose names contain this; may be repeated.
    #[arg(long)]
    only: Vec<String>,
}

/// Tests that cargo counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// How a stage went.
struct Outcome {
    name: &'static str,
    took: Duration,
    count: Count,
    unsteady: Vec<String>,
    error: Option<String>,
}

/// What the tests of a stage came to.
#[derive(Default)]
struct Tally {
    count: Count,
    /// Tests that passed only when they ran a second time.
    unsteady: Vec<String>,
}

/// Whether the stages after a failed one make sense.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnFailure {
    Stop,
    GoOn,
}

type Work<'a> = Box<dyn FnOnce(&mut Tally) -> Result<()> + 'a>;

/// Runs all stages.
pub fn run(paths: &Paths, options: &Options) -> Result<()> {
    let started = Instant::now();
    let mut outcomes: Vec<Outcome> = Vec::new();
    for (name, on_failure, work) in stages(paths) {
        if !options.only.is_empty() && !options.only.iter().any(|part| name.contains(part.as_str()))
        {
            continue;
        }
        ui::say(&format!("\n── {name}"));
        let begun = Instant::now();
        let mut tally = Tally::default();
        let error = work(&mut tally).err().map(|error| format!("{error:#}"));
        if let Some(error) = &error {
            ui::say(&format!("error: {error}"));
        }
        let failed = error.is_some();
        outcomes.push(Outcome {
            name,
            took: begun.elapsed(),
            count: tally.count,
            unsteady: tally.unsteady,
            error,
        });
        if failed && on_failure == OnFailure::Stop {
            break;
        }
    }
    summary(&outcomes, started.elapsed())
}

fn stages(paths: &Paths) -> Vec<(&'static str, OnFailure, Work<'_>)> {
    use OnFailure::{GoOn, Stop};
    vec![
        (
            "setup",
            Stop,
            Box::new(|_| {
                setup::packages(paths, &setup::ALL)?;
                setup::python_clients(paths)
            }),
        ),
        ("house rules", GoOn, Box::new(|_| tidy::check(paths))),
        ("format", GoOn, Box::new(|_| format(paths))),
        (
            "build and lints",
            Stop,
            Box::new(|_| {
                cargo(paths, &[&ALL[..], &[TESTS, "--no-run"]].concat())?;
                cargo(
                    paths,
                    &[&ALL[..], &CLOUD, &SIMULATION, &["--no-run"]].concat(),
                )?;
                cargo(paths, &["build", "--package", "yakumo"])
            }),
        ),
        (
            "guest image",
            Stop,
            Box::new(|_| {
                let image = guest_image::build(paths)?;
                guest_check::check(paths, &image)
            }),
        ),
        (
            "up and down",
            GoOn,
            Box::new(|tally| {
                tally.count.passed += cloud::check(paths)?;
                Ok(())
            }),
        ),
        (
            "tests of every room",
            GoOn,
            Box::new(|tally| {
                let arguments = [&ALL[..], &[TESTS, "--no-fail-fast"]].concat();
                // They wait for a broker or a database half of their time.
                tests(paths, &arguments, threads(4), tally)
            }),
        ),
        (
            "tests of the whole cloud",
            GoOn,
            Box::new(|tally| {
                let arguments = [&ALL[..], &CLOUD, &["--no-fail-fast"]].concat();
                // They share out the machine among themselves: most of these
                // threads wait for their turn.
                tests(paths, &arguments, threads(6), tally)
            }),
        ),
        (
            "simulated schedules",
            GoOn,
            Box::new(|tally| {
                let arguments = [&ALL[..], &SIMULATION, &["--no-fail-fast"]].concat();
                tests(paths, &arguments, threads(2), tally)
            }),
        ),
    ]
}

/// `cargo fmt` and clippy: what `cargo xtask ci-lint` runs.
pub fn lint(paths: &Paths) -> Result<()> {
    tidy::check(paths)?;
    format(paths)?;
    lints(paths)
}

fn format(paths: &Paths) -> Result<()> {
    cargo(paths, &["fmt", "--all", "--check"])
}

fn lints(paths: &Paths) -> Result<()> {
    let arguments = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ];
    cargo(paths, &arguments)
}

/// How many tests run at the same time, given for every two cores.
fn threads(for_two_cores: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores * for_two_cores).div_ceil(2)
}

/// Runs tests, so many at a time, and counts them; a few that fail get a second
/// try.
fn tests(paths: &Paths, arguments: &[&str], threads: usize, tally: &mut Tally) -> Result<()> {
    let (count, failures, result) = counted(paths, arguments, threads);
    tally.count = count;
    let result = match result {
        Err(_) if failures.explain(count.failed) => {
            second_try(paths, arguments, &failures).map(|passed| {
                tally.count.passed += passed;
                tally.count.failed = 0;
                tally.unsteady.extend(failures.tests);
            })
        }
        other => other,
    };
    match result {
        Ok(()) if count.ignored > 0 => bail!("{} tests are ignored; none may be", count.ignored),
        other => other,
    }
}

/// Runs the failed tests alone; as many as failed must pass.
fn second_try(paths: &Paths, arguments: &[&str], failures: &Failures) -> Result<u64> {
    let names = failures.tests.join(", ");
    ui::say(&format!("\nA second try by themselves: {names}"));
    let command = failures.command(arguments);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let (count, _, result) = counted(paths, &command, 1);
    result?;
    let failed = u64::try_from(failures.tests.len())?;
    if count.passed < failed {
        bail!("{} of {failed} failed tests were found again", count.passed);
    }
    Ok(count.passed)
}

/// Runs cargo's tests, and reads off what they report.
fn counted(paths: &Paths, arguments: &[&str], threads: usize) -> (Count, Failures, Result<()>) {
    let mut count = Count::default();
    let mut failures = Failures::default();
    let run = command(paths, arguments).env("RUST_TEST_THREADS", threads.to_string());
    let result = run.lines(|line| {
        println!("{line}");
        if let Some(more) = test_result(line) {
            count.passed += more.passed;
            count.failed += more.failed;
            count.ignored += more.ignored;
        }
        failures.read(line);
    });
    let result = result.map_err(|_| complaint(arguments).context(failures.targets.join("; ")));
    (count, failures, result)
}

/// The environment in which cargo builds with clippy in the compiler's place, as
/// `cargo clippy` itself sets it up for its checks: a lint is an error, and
/// nothing has to be read twice, once to be checked and once to be built.
pub fn linting() -> [(&'static str, &'static str); 2] {
    [
        ("RUSTC_WORKSPACE_WRAPPER", "clippy-driver"),
        (
            "CLIPPY_ARGS",
            "--deny__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__",
        ),
    ]
}

/// Runs cargo on this terminal.
fn cargo(paths: &Paths, arguments: &[&str]) -> Result<()> {
    command(paths, arguments)
        .lines(|line| println!("{line}"))
        .map_err(|_| complaint(arguments))
}

/// What is wrong stands above, in full.
fn complaint(arguments: &[&str]) -> anyhow::Error {
    anyhow::anyhow!("`cargo {}` failed", arguments.join(" "))
}

/// Cargo with a bound. The environment says where the things are that tests of
/// the whole cloud drive.
fn command(paths: &Paths, arguments: &[&str]) -> Run {
    let bound = BOUND.as_secs().to_string();
    let program = programs::cargo();
    let mut all = vec!["--kill-after=30", &bound, &program];
    all.extend(arguments);
    let variable = |path: &Path| path.as_os_str().to_owned();
    // Not this process's own file: building the tests may have replaced it.
    let xtask = paths.target.join("debug/xtask");
    Run::new("timeout", all)
        .dir(&paths.root)
        .envs(linting())
        .env("YAKUMO_TEST_PROGRAM", variable(&paths.program()))
        .env("YAKUMO_TEST_XTASK", variable(&xtask))
        .env("YAKUMO_TEST_GUEST_IMAGE", variable(&paths.guest_image()))
        .env(
            "YAKUMO_TEST_PYTHON_CLIENTS",
            variable(&paths.python_clients()),
        )
        .log(&paths.log())
}

/// `test result: ok. 3 passed; 0 failed; 0 ignored; …`
fn test_result(line: &str) -> Option<Count> {
    let (_, numbers) = line
        .trim()
        .strip_prefix("test result: ")?
        .split_once(". ")?;
    let number = |word: &str| {
        numbers
            .split("; ")
            .find_map(|part| part.strip_suffix(word)?.trim().parse::<u64>().ok())
    };
    Some(Count {
        passed: number("passed")?,
        failed: number("failed")?,
        ignored: number("ignored")?,
    })
}

fn summary(outcomes: &[Outcome], took: Duration) -> Result<()> {
    let mut table = Table::new();
    table.set_header(["Stage", "Took", "Passed", "Failed", ""]);
    let mut total = Count::default();
    for outcome in outcomes {
        let Count { passed, failed, .. } = outcome.count;
        let number = |number: u64| {
            if number == 0 {
                String::new()
            } else {
                number.to_string()
            }
        };
        let mark = if outcome.error.is_some() {
            "✗"
        } else {
            "✓"
        };
        table.add_row([
            outcome.name.to_owned(),
            ui::seconds(outcome.took),
            number(passed),
            number(failed),
            mark.to_owned(),
        ]);
        total.passed += passed;
        // A stage can fail without a test that does: it counts as one.
        total.failed += failed.max(u64::from(outcome.error.is_some()));
    }
    for column in 1..4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    ui::say(&format!("\n{table}\nAll in {}.", ui::seconds(took)));
    for outcome in outcomes {
        if let Some(error) = &outcome.error {
            ui::say(&format!("✗ {}: {error}", outcome.name));
        }
    }
    for test in outcomes.iter().flat_map(|outcome| &outcome.unsteady) {
        ui::say(&format!("! {test} passed only when it ran a second time"));
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    if total.failed > 0 {
        // The sum stays the last line.
        std::process::exit(1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_result_lines_are_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.10s";
        assert_eq!(
            test_result(line),
            Some(Count {
                passed: 12,
                failed: 3,
                ignored: 1
            })
        );
        assert_eq!(test_result("test a::b ... ok"), None);
        assert_eq!(test_result("test result: gone"), None);
    }
}
