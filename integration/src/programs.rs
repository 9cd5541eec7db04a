//! Where the programs and files are that these tests drive. `cargo xtask test`
//! builds them and says where; without it they are looked for beside this test
//! program, and a missing one is a failure that says how to make it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

fn target() -> Result<PathBuf> {
    // target/debug/deps/main-<hash>
    let own = std::env::current_exe()?;
    own.ancestors()
        .nth(3)
        .map(Path::to_owned)
        .context("the test program is in no target folder")
}

fn find(variable: &str, usual: &str, how: &str) -> Result<PathBuf> {
    let path = match std::env::var_os(variable) {
        Some(path) => path.into(),
        None => target()?.join(usual),
    };
    ensure!(path.exists(), "{} is missing; {how}", path.display());
    Ok(path)
}

/// The program itself.
pub fn yakumo() -> Result<PathBuf> {
    find(
        "YAKUMO_TEST_PROGRAM",
        "debug/yakumo",
        "`cargo build --package yakumo` makes it",
    )
}

/// The workspace's helper, which makes private hosts.
pub fn xtask() -> Result<PathBuf> {
    find(
        "YAKUMO_TEST_XTASK",
        "debug/xtask",
        "`cargo build --package xtask` makes it",
    )
}

/// The small image that boots.
pub fn guest_image() -> Result<PathBuf> {
    find(
        "YAKUMO_TEST_GUEST_IMAGE",
        "guest/yakumo-guest.qcow2",
        "`cargo xtask guest-image` makes it",
    )
}

/// The command line client from PyPI.
pub fn openstack() -> Result<PathBuf> {
    let folder = find(
        "YAKUMO_TEST_PYTHON_CLIENTS",
        "python-clients",
        "`cargo xtask setup --tests` makes it",
    )?;
    let program = folder.join("bin/openstack");
    ensure!(
        program.exists(),
        "{} is missing; `cargo xtask setup --tests` makes it",
        program.display()
    );
    Ok(program)
}

/// What a command wrote, and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// 0 is success; -1 a signal.
    pub code: i32,
    #[allow(missing_docs)]
    pub stdout: String,
    #[allow(missing_docs)]
    pub stderr: String,
    /// The command, for messages.
    pub what: String,
}

impl Output {
    /// What it wrote, if it succeeded.
    pub fn ok(self) -> Result<String> {
        ensure!(
            self.code == 0,
            "`{}` ended with {}:\n{}{}",
            self.what,
            self.code,
            self.stdout,
            self.stderr
        );
        Ok(self.stdout)
    }
}

/// Runs a command to its end, at most for `bound`.
pub async fn run(program: &Path, arguments: &[&str], bound: Duration) -> Result<Output> {
    run_with(program, arguments, &[], bound).await
}

/// Runs a command with variables of its own and nothing of ours besides `PATH`.
pub async fn run_with(
    program: &Path,
    arguments: &[&str],
    variables: &[(&str, &str)],
    bound: Duration,
) -> Result<Output> {
    let what = format!("{} {}", program.display(), arguments.join(" "));
    let child = tokio::process::Command::new(program)
        .args(arguments)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", "/nonexistent")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {what}"))?;
    let output = tokio::time::timeout(bound, child.wait_with_output())
        .await
        .with_context(|| format!("`{what}` did not end within {bound:?}"))??;
    Ok(Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        what,
    })
}
