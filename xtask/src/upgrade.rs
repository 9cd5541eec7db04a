//! `cargo xtask upgrade-test`: upgrades a cloud from the last release to this
//! checkout while people use it. `cargo xtask record-release` writes down what
//! this checkout speaks and stores, for the next release to be held to.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::paths::Paths;
use crate::programs::{self, Profile, cargo};
use crate::run::Run;
use crate::{setup, ui};

/// More than all of it takes, in seconds; what takes longer hangs.
const BOUND: &str = "2400";

/// From where, and on what.
#[derive(clap::Args)]
pub struct Options {
    /// A revision to upgrade from; the newest `v*` tag by itself.
    #[arg(long, value_name = "REV")]
    previous: Option<String>,
    /// `postgres` or `mariadb`.
    #[arg(long, default_value = "postgres")]
    database: String,
    /// People who use it at the same time.
    #[arg(long, default_value_t = 3)]
    users: usize,
}

/// Builds both releases and runs it; its last line counts the failed calls.
pub fn test(paths: &Paths, options: &Options) -> Result<()> {
    setup::packages(paths, &setup::ALL)?;
    let commit = commit(paths, options.previous.as_deref())?;
    let previous = previous(paths, &commit)?;
    let programs = programs::build(paths, Profile::Debug)?;
    let program = programs.join("yakumo-upgrade");
    let all = [
        "--kill-after=30".to_owned(),
        BOUND.to_owned(),
        program.display().to_string(),
        "--previous".to_owned(),
        previous.display().to_string(),
        "--database".to_owned(),
        options.database.clone(),
        "--users".to_owned(),
        options.users.to_string(),
    ];
    let result = Run::new("timeout", all)
        .env("YAKUMO_TEST_PROGRAM", paths.program())
        .log(&paths.log())
        .lines(|line| println!("{line}"));
    if result.is_err() {
        // The count stays the last line.
        std::process::exit(1);
    }
    Ok(())
}

fn git(paths: &Paths, arguments: &[&str]) -> Result<String> {
    let text = Run::new("git", arguments).dir(&paths.root).text()?;
    Ok(text.trim().to_owned())
}

/// The commit to upgrade from.
fn commit(paths: &Paths, revision: Option<&str>) -> Result<String> {
    let revision = match revision {
        Some(revision) => revision.to_owned(),
        None => {
            let tags = git(paths, &["tag", "--list", "v*", "--sort=-version:refname"])?;
            match tags.lines().next() {
                Some(newest) => newest.to_owned(),
                None => bail!("no release is tagged yet (v*); name a revision with --previous"),
            }
        }
    };
    git(
        paths,
        &[
            "rev-parse",
            "--verify",
            "--end-of-options",
            &format!("{revision}^{{commit}}"),
        ],
    )
    .with_context(|| format!("{revision} is no revision"))
}

/// The program of that commit, built beside ours if it is not there yet. Both
/// share what they are built from, as far as it is the same.
fn previous(paths: &Paths, commit: &str) -> Result<PathBuf> {
    let folder = paths.target.join("previous");
    let program = folder.join(format!("yakumo-{commit}"));
    if program.exists() {
        return Ok(program);
    }
    std::fs::create_dir_all(&folder)?;
    let tree = folder.join(commit);
    let shown = tree.display().to_string();
    git(paths, &["worktree", "prune"])?;
    if !tree.exists() {
        git(paths, &["worktree", "add", "--detach", &shown, commit])?;
    }
    ui::step("build the last release", |step| {
        Run::new(cargo(), ["build", "--package", "yakumo"])
            .dir(&tree)
            .env("CARGO_TARGET_DIR", &paths.target)
            .log(&paths.log())
            .followed(step)
    })?;
    keep(&paths.program(), &program)?;
    git(paths, &["worktree", "remove", "--force", &shown])?;
    Ok(program)
}

/// Copies whole or not at all.
fn keep(from: &Path, to: &Path) -> Result<()> {
    let partial = to.with_extension("partial");
    std::fs::copy(from, &partial).with_context(|| format!("copying {}", from.display()))?;
    Ok(std::fs::rename(partial, to)?)
}

/// Records what this checkout speaks and stores as the last release's.
pub fn record(paths: &Paths) -> Result<()> {
    let record = ["test", "--workspace", "previous_release"];
    ui::step("record", |step| {
        Run::new(cargo(), record)
            .dir(&paths.root)
            .env("YAKUMO_RECORD_RELEASE", "1")
            .log(&paths.log())
            .followed(step)
    })?;
    ui::say("Recorded. Commit it together with the release's tag.");
    Ok(())
}
