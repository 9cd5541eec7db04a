//! `cargo xtask bench`: builds the release programs and measures with them.

use anyhow::Result;

use crate::paths::Paths;
use crate::programs::{self, Profile};
use crate::run::Run;
use crate::{setup, ui};

/// A run that takes longer hangs.
const BOUND: &str = "5400";

/// What is measured, and how.
#[derive(clap::Args)]
pub struct Options {
    /// What to measure; everything but `scale` if left out.
    names: Vec<String>,
    /// Of `scale`: simulated hosts.
    #[arg(long)]
    hosts: Option<u32>,
    /// Of `scale`: servers that are there before.
    #[arg(long)]
    servers: Option<u32>,
    /// Of `scale`: servers that are booted all at once.
    #[arg(long)]
    boots: Option<u32>,
    /// Of `scale`: whether hosts have a connection `each`, or a `shared` one.
    #[arg(long)]
    connections: Option<String>,
}

/// Measures what is named. The table goes to standard output, all single values
/// to `target/bench.json`.
pub fn run(paths: &Paths, options: &Options) -> Result<()> {
    setup::packages(paths, &setup::ALL)?;
    setup::bus_peer(paths)?;
    let release = programs::build(paths, Profile::Release)?;
    let json = paths.target.join("bench.json");
    let mut all = vec![
        "--kill-after=30".into(),
        BOUND.into(),
        release.join("yakumo-bench").into_os_string(),
        "--json".into(),
        json.clone().into_os_string(),
    ];
    all.extend(options.names.iter().map(Into::into));
    let numbers = [
        ("--hosts", options.hosts),
        ("--servers", options.servers),
        ("--boots", options.boots),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            all.extend([name.into(), number.to_string().into()]);
        }
    }
    if let Some(connections) = &options.connections {
        all.extend(["--connections".into(), connections.into()]);
    }
    ui::say(&format!("all values: {}", json.display()));
    Run::new("timeout", all)
        .env("YAKUMO_TEST_PROGRAM", release.join("yakumo"))
        .env("YAKUMO_BENCH_BUS_PEER", paths.bus_peer())
        .log(&paths.log())
        .lines(|line| println!("{line}"))
}
