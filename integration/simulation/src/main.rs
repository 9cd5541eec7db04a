//! `simulate`: many seeds, or one with its log. `cargo xtask simulate` builds
//! it and calls it.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use yakumo_simulation::scenario::{Detail, Run, run_many};
use yakumo_simulation::{cloud, errands};

#[derive(Parser)]
#[command(about = "Runs the decision logic under a simulated clock, bus and store.")]
struct Arguments {
    /// What to simulate; everything if left out.
    scenario: Option<Scenario>,
    /// How many seeds.
    #[arg(long, default_value_t = 2000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Play this one back and print its log.
    #[arg(long, conflicts_with_all = ["seeds", "from"], requires = "scenario")]
    seed: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// The workflow engine.
    Errands,
    /// The api service and the scheduler.
    Cloud,
}

impl Scenario {
    const ALL: [Self; 2] = [Self::Errands, Self::Cloud];

    const fn name(self) -> &'static str {
        match self {
            Self::Errands => "errands",
            Self::Cloud => "cloud",
        }
    }

    fn run(self, seed: u64, detail: Detail) -> anyhow::Result<Run> {
        match self {
            Self::Errands => errands::run(seed, errands::Flaw::None, detail),
            Self::Cloud => cloud::run(seed, cloud::Flaw::None, detail),
        }
    }
}

/// How far many seeds are, for whoever waits.
struct Progress {
    name: &'static str,
    seeds: u64,
    done: Mutex<(u64, Instant)>,
}

impl Progress {
    /// The pause between two lines.
    const EVERY: Duration = Duration::from_secs(10);

    fn of(name: &'static str, seeds: u64) -> Self {
        Self {
            name,
            seeds,
            done: Mutex::new((0, Instant::now())),
        }
    }

    fn one_more(&self) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.0 += 1;
        if done.1.elapsed() >= Self::EVERY {
            done.1 = Instant::now();
            // A closed terminal is no reason to stop.
            let _ = writeln!(io::stderr(), "{}: {} of {}", self.name, done.0, self.seeds);
        }
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut out = io::stdout().lock();
    if let (Some(seed), Some(scenario)) = (arguments.seed, arguments.scenario) {
        let run = scenario.run(seed, Detail::Everything)?;
        out.write_all(run.log.as_bytes())?;
        return verdict(&mut out, scenario, &run);
    }
    for scenario in Scenario::ALL {
        if arguments.scenario.is_some_and(|only| only != scenario) {
            continue;
        }
        let progress = Progress::of(scenario.name(), arguments.seeds);
        let one = |seed| {
            let run = scenario.run(seed, Detail::Events);
            progress.one_more();
            run
        };
        let tally = run_many(&one, arguments.from, arguments.seeds)?;
        writeln!(
            out,
            "{}: {} seeds, {} hours of simulated time",
            scenario.name(),
            tally.seeds,
            tally.lasted.as_secs() / 3600
        )?;
        if let Some(run) = tally.failure {
            return verdict(&mut out, scenario, &run);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn verdict(out: &mut impl Write, scenario: Scenario, run: &Run) -> anyhow::Result<ExitCode> {
    if run.violations.is_empty() {
        writeln!(out, "seed {}: all is as it should be", run.seed)?;
        return Ok(ExitCode::SUCCESS);
    }
    for violation in &run.violations {
        writeln!(out, "seed {}: {violation}", run.seed)?;
    }
    writeln!(
        out,
        "play it back with its log: cargo xtask simulate {} --seed {}",
        scenario.name(),
        run.seed
    )?;
    Ok(ExitCode::FAILURE)
}
