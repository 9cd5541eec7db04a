//! `cargo xtask tidy`: the house rules that a machine can check.
//!
//! [`manifests`] holds the directions of dependencies, [`rooms`] those within a
//! service, [`sources`] what may be written in which room. They are functions
//! from text to findings, so that each rule has a test that shows it failing.
//!
//! A line that has a good reason may break a rule of [`sources`] by saying so,
//! on the line itself or the one above: `// tidy: allow RULE: the reason`.

mod manifests;
mod masked;
mod rooms;
mod sources;

use std::fs;

use anyhow::{Result, bail};

use crate::paths::Paths;
use crate::run::Run;
use crate::ui;

/// A broken rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// From the root of the checkout.
    file: String,
    /// From 1; 0 for the whole file.
    line: usize,
    /// Its name.
    rule: &'static str,
    /// What to do instead.
    message: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.line == 0 {
            write!(formatter, "{}: {} [{}]", self.file, self.message, self.rule)
        } else {
            write!(
                formatter,
                "{}:{}: {} [{}]",
                self.file, self.line, self.message, self.rule
            )
        }
    }
}

/// Checks the whole checkout.
pub fn check(paths: &Paths) -> Result<()> {
    let mut findings = manifests::check(&manifests::read(&paths.root)?);
    for file in files(paths)? {
        let path = paths.root.join(&file);
        // Deleted but not committed yet, or not text.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        findings.extend(sources::check(&file, &text));
    }
    findings.sort();
    if findings.is_empty() {
        return Ok(());
    }
    for finding in &findings {
        ui::say(&finding.to_string());
    }
    bail!(
        "{} house rules are broken; CONTRIBUTING.md says why they are there",
        findings.len()
    )
}

/// Everything that is or will be in the repository.
fn files(paths: &Paths) -> Result<Vec<String>> {
    let text = Run::new(
        "git",
        [
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ],
    )
    .dir(&paths.root)
    .text()?;
    let mut files: Vec<String> = text
        .split('\0')
        .filter(|file| !file.is_empty())
        .map(str::to_owned)
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}
