//! `cargo xtask bench`: builds the release programs and measures with them.

use anyhow::Result;

use crate::paths::Paths;
use crate::run::Run;
use crate::{setup, ui};

/// A run that takes longer hangs; building from nothing is part of it.
const BOUND: &str = "5400";

/// Measures what is named, or everything. The table goes to standard output,
/// all single values to `target/bench.json`.
pub fn run(paths: &Paths, names: &[String]) -> Result<()> {
    setup::packages(paths, &setup::ALL)?;
    setup::bus_peer(paths)?;
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let build = [
        "build",
        "--release",
        "--package",
        "yakumo",
        "--package",
        "yakumo-integration",
        "--bins",
    ];
    ui::step("release build", |step| {
        Run::new(cargo, build)
            .dir(&paths.root)
            .log(&paths.log())
            .followed(step)
    })?;
    let release = paths.target.join("release");
    let json = paths.target.join("bench.json");
    let mut all = vec![
        "--kill-after=30".into(),
        BOUND.into(),
        release.join("yakumo-bench").into_os_string(),
        "--json".into(),
        json.clone().into_os_string(),
    ];
    all.extend(names.iter().map(Into::into));
    Run::new("timeout", all)
        .env("YAKUMO_TEST_PROGRAM", release.join("yakumo"))
        .env("YAKUMO_BENCH_BUS_PEER", paths.bus_peer())
        .log(&paths.log())
        .lines(|line| println!("{line}"))?;
    ui::say(&format!("{}", json.display()));
    Ok(())
}
