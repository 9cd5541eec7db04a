//! `cargo xtask chaos`: breaks a distributed cloud while people use it.

use anyhow::Result;

use crate::paths::Paths;
use crate::programs::{self, Profile};
use crate::run::Run;
use crate::{guest_image, setup};

/// What starting, quiet and counting take besides, in seconds.
const BESIDE: f64 = 1200.0;

/// What is to be done to it.
#[derive(clap::Args)]
pub struct Options {
    /// How long.
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Where chance begins; another one each time by itself.
    #[arg(long)]
    seed: Option<u64>,
    /// `postgres` or `mariadb`.
    #[arg(long, default_value = "postgres")]
    database: String,
    /// People who use it at the same time; 4, or 2 with real guests.
    #[arg(long)]
    users: Option<usize>,
    /// `simulated`, or `libvirt` for two hosts with guests that boot.
    #[arg(long, default_value = "simulated")]
    hypervisor: String,
}

/// Builds what is needed and runs it; its last line counts the violations.
pub fn run(paths: &Paths, options: &Options) -> Result<()> {
    setup::packages(paths, &setup::ALL)?;
    let programs = programs::build(paths, Profile::Debug)?;
    let real = options.hypervisor == "libvirt";
    if real {
        guest_image::build(paths)?;
    }
    let bound = (options.minutes * 60.0 + BESIDE).to_string();
    let program = programs.join("yakumo-chaos");
    let mut all = vec![
        "--kill-after=30".into(),
        bound,
        program.display().to_string(),
    ];
    all.extend(["--minutes".into(), options.minutes.to_string()]);
    let users = options.users.unwrap_or(if real { 2 } else { 4 });
    all.extend(["--users".into(), users.to_string()]);
    all.extend(["--hypervisor".into(), options.hypervisor.clone()]);
    all.extend(["--database".into(), options.database.clone()]);
    if let Some(seed) = options.seed {
        all.extend(["--seed".into(), seed.to_string()]);
    }
    let result = Run::new("timeout", all)
        .env("YAKUMO_TEST_PROGRAM", paths.program())
        .env("YAKUMO_TEST_XTASK", std::env::current_exe()?)
        .env("YAKUMO_TEST_GUEST_IMAGE", paths.guest_image())
        .log(&paths.log())
        .lines(|line| println!("{line}"));
    if result.is_err() {
        // The count stays the last line.
        std::process::exit(1);
    }
    Ok(())
}
