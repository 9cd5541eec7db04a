//! `cargo xtask simulate`: builds the simulation and runs it.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::paths::Paths;
use crate::run::forget_package;

/// Runs `seeds` seeds of one scenario or of all, or plays one seed back.
pub fn run(
    paths: &Paths,
    scenario: Option<&str>,
    seeds: u64,
    from: u64,
    seed: Option<u64>,
) -> Result<()> {
    let mut command = Command::new("cargo");
    forget_package(&mut command);
    command
        .args(["run", "--quiet", "--package", "yakumo-simulation", "--"])
        .args(scenario)
        .current_dir(&paths.root)
        .stdin(Stdio::null());
    match seed {
        Some(seed) => command.args(["--seed", &seed.to_string()]),
        None => command.args(["--seeds", &seeds.to_string(), "--from", &from.to_string()]),
    };
    let status = command.status().context("cannot start cargo")?;
    if !status.success() {
        bail!("the simulation found something");
    }
    Ok(())
}
