//! `cargo xtask simulate`: builds the simulation and runs it.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::paths::Paths;
use crate::programs::{self, Profile};

/// Runs `seeds` seeds of one scenario or of all, or plays one seed back. What a
/// seed does is the same however it is built: many of them are worth a release
/// build, and one is not.
pub fn run(
    paths: &Paths,
    scenario: Option<&str>,
    seeds: u64,
    from: u64,
    seed: Option<u64>,
) -> Result<()> {
    let profile = match seed {
        Some(_) => Profile::Debug,
        None => Profile::Release,
    };
    let program = programs::build(paths, profile)?.join("simulate");
    let mut command = Command::new(&program);
    command.args(scenario).stdin(Stdio::null());
    match seed {
        Some(seed) => command.args(["--seed", &seed.to_string()]),
        None => command.args(["--seeds", &seeds.to_string(), "--from", &from.to_string()]),
    };
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    if !status.success() {
        bail!("the simulation found something");
    }
    Ok(())
}
