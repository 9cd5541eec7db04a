//! Building the programs that measure, break, upgrade and simulate a cloud, and
//! the cloud's own beside them: always all, so that cargo gives what they share
//! the same features, and builds it once.

use std::path::PathBuf;

use anyhow::Result;

use crate::paths::Paths;
use crate::run::Run;
use crate::ui;

/// How they are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// At hand when the tests are.
    Debug,
    /// What speed is measured with.
    Release,
}

/// Builds them, and says in which folder they lie.
pub fn build(paths: &Paths, profile: Profile) -> Result<PathBuf> {
    let mut arguments = vec!["build", "--bins"];
    for package in ["yakumo", "yakumo-integration", "yakumo-simulation"] {
        arguments.extend(["--package", package]);
    }
    let (name, folder) = match profile {
        Profile::Debug => ("build", "debug"),
        Profile::Release => {
            arguments.push("--release");
            ("release build", "release")
        }
    };
    ui::step(name, |step| {
        Run::new(cargo(), arguments)
            .dir(&paths.root)
            .log(&paths.log())
            .followed(step)
    })?;
    Ok(paths.target.join(folder))
}

/// The cargo that runs this program, or else the one of the path.
pub fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}
