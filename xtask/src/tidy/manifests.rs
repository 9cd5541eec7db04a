//! Who may depend on whom.
//!
//! `types` ← `rpc` ← `contracts` ← `services/*` ← `yakumo`, `integration`; a
//! service never depends on another service. Third-party crates that belong to
//! one room stay in it.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Finding;
use crate::run::Run;

/// A crate of the workspace.
#[derive(Debug)]
pub struct Package {
    /// As in its manifest.
    name: String,
    /// From the root of the checkout; empty for the root package.
    folder: String,
    /// Names and whether it is needed for tests alone.
    dependencies: Vec<(String, Use)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Product,
    Tests,
}

/// Shared crates and those of the workspace that each may use.
const SHARED: [(&str, &[&str]); 10] = [
    ("yakumo-types", &[]),
    ("yakumo-rpc", &["yakumo-types"]),
    ("yakumo-contracts", &["yakumo-types", "yakumo-rpc"]),
    ("yakumo-service", &["yakumo-types"]),
    (
        "yakumo-auth",
        &[
            "yakumo-types",
            "yakumo-rpc",
            "yakumo-contracts",
            "yakumo-service",
        ],
    ),
    (
        "yakumo-http",
        &["yakumo-types", "yakumo-auth", "yakumo-service"],
    ),
    ("yakumo-db", &["yakumo-types"]),
    ("yakumo-workflow", &["yakumo-types", "yakumo-db"]),
    ("yakumo-host", &["yakumo-types"]),
    (
        "yakumo-testing",
        &[
            "yakumo-types",
            "yakumo-rpc",
            "yakumo-contracts",
            "yakumo-service",
            "yakumo-auth",
            "yakumo-http",
            "yakumo-db",
            "yakumo-workflow",
            "yakumo-host",
        ],
    ),
];

/// Third-party crates and the folders whose crates may use them.
const ROOMS: [(&str, &[&str]); 8] = [
    ("lapin", &["shared/rpc"]),
    ("virt", &["services/compute"]),
    ("axum", &["shared/http", "shared/service", "services/"]),
    ("axum-server", &["shared/http"]),
    (
        "sea-orm",
        &[
            "shared/db",
            "shared/workflow",
            "shared/testing",
            "services/",
        ],
    ),
    (
        "sea-orm-migration",
        &["shared/db", "shared/workflow", "services/"],
    ),
    ("sqlx", &[]),
    ("rtnetlink", &["shared/host", "services/network"]),
];

/// The workspace's crates, by cargo's own word.
pub fn read(root: &Path) -> Result<Vec<Package>> {
    let text = Run::new(
        "cargo",
        [
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ],
    )
    .dir(root)
    .text()?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata is no JSON")?;
    let string = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata names no packages")?;
    let packages = packages.iter().map(|package| {
        let manifest = string(package, "manifest_path");
        let folder = Path::new(&manifest)
            .parent()
            .unwrap_or(root)
            .strip_prefix(root)
            .unwrap_or(root);
        let dependencies = package["dependencies"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|dependency| {
                let purpose = if dependency["kind"] == "dev" {
                    Use::Tests
                } else {
                    Use::Product
                };
                (string(dependency, "name"), purpose)
            });
        Package {
            name: string(package, "name"),
            folder: folder.to_string_lossy().into_owned(),
            dependencies: dependencies.collect(),
        }
    });
    Ok(packages.collect())
}

/// The rules that are broken.
pub fn check(packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        for (dependency, purpose) in &package.dependencies {
            if let Some(message) = refusal(package, dependency, *purpose) {
                let file = Path::new(&package.folder)
                    .join("Cargo.toml")
                    .to_string_lossy()
                    .into_owned();
                findings.push(Finding {
                    file,
                    line: 0,
                    rule: "dependencies",
                    message,
                });
            }
        }
    }
    findings
}

fn refusal(package: &Package, dependency: &str, purpose: Use) -> Option<String> {
    let name = package.name.as_str();
    if package.folder == "xtask" {
        let own = dependency.starts_with("yakumo");
        return own.then(|| format!("xtask must start at once and must not need {dependency}"));
    }
    // The program, the whole-cloud tests and the simulation stand on top of
    // everything.
    if matches!(
        package.folder.as_str(),
        "" | "integration" | "integration/simulation"
    ) {
        return None;
    }
    if let Some((_, rooms)) = ROOMS.iter().find(|(room, _)| *room == dependency) {
        let at_home = rooms.iter().any(|room| match room.strip_suffix('/') {
            Some(parent) => Path::new(&package.folder).parent() == Some(Path::new(parent)),
            None => package.folder == *room,
        });
        return (!at_home && purpose == Use::Product).then(|| {
            format!(
                "{name} must not use {dependency}; its rooms: {}",
                rooms.join(", ")
            )
        });
    }
    if dependency != "yakumo" && !dependency.starts_with("yakumo-") {
        return None;
    }
    let shared = SHARED.iter().find(|(known, _)| *known == dependency);
    match SHARED.iter().find(|(known, _)| *known == name) {
        // A crate may name itself for its own tests; tests may look around in shared crates.
        Some(_) if purpose == Use::Tests && (dependency == name || shared.is_some()) => None,
        Some((_, allowed)) if allowed.contains(&dependency) => None,
        Some(_) => Some(format!("{name} must not depend on {dependency}")),
        None if dependency == name && purpose == Use::Tests => None,
        None if dependency == "yakumo-testing" && purpose == Use::Product => Some(format!(
            "{name} must not need yakumo-testing outside its tests"
        )),
        None if shared.is_some() => None,
        None => Some(format!(
            "{name} must not depend on {dependency}: services speak over the bus"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, folder: &str, dependencies: &[(&str, Use)]) -> Package {
        Package {
            name: name.into(),
            folder: folder.into(),
            dependencies: dependencies
                .iter()
                .map(|(name, purpose)| ((*name).into(), *purpose))
                .collect(),
        }
    }

    fn messages(name: &str, folder: &str, dependencies: &[(&str, Use)]) -> Vec<String> {
        check(&[package(name, folder, dependencies)])
            .into_iter()
            .map(|finding| finding.message)
            .collect()
    }

    #[test]
    fn a_service_must_not_depend_on_a_service() {
        let found = messages(
            "yakumo-api",
            "services/api",
            &[("yakumo-network", Use::Product)],
        );
        assert_eq!(
            found,
            ["yakumo-api must not depend on yakumo-network: services speak over the bus"]
        );
        let found = messages(
            "yakumo-api",
            "services/api",
            &[("yakumo-network", Use::Tests)],
        );
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn a_lower_room_must_not_know_a_higher_one() {
        assert_eq!(
            messages(
                "yakumo-types",
                "shared/types",
                &[("yakumo-rpc", Use::Product)]
            )
            .len(),
            1
        );
        assert_eq!(
            messages(
                "yakumo-rpc",
                "shared/rpc",
                &[("yakumo-contracts", Use::Product)]
            )
            .len(),
            1
        );
        assert_eq!(
            messages("yakumo-db", "shared/db", &[("yakumo-api", Use::Tests)]).len(),
            1
        );
        assert!(
            messages(
                "yakumo-rpc",
                "shared/rpc",
                &[("yakumo-types", Use::Product)]
            )
            .is_empty()
        );
        assert!(
            messages(
                "yakumo-rpc",
                "shared/rpc",
                &[("yakumo-testing", Use::Tests)]
            )
            .is_empty()
        );
    }

    #[test]
    fn a_third_party_crate_stays_in_its_room() {
        assert_eq!(
            messages("yakumo-api", "services/api", &[("lapin", Use::Product)]).len(),
            1
        );
        assert_eq!(
            messages("yakumo-rpc", "shared/rpc", &[("axum", Use::Product)]).len(),
            1
        );
        assert_eq!(
            messages(
                "yakumo-network",
                "services/network",
                &[("virt", Use::Product)]
            )
            .len(),
            1
        );
        assert!(messages("yakumo-rpc", "shared/rpc", &[("lapin", Use::Product)]).is_empty());
        assert!(messages("yakumo-api", "services/api", &[("axum", Use::Product)]).is_empty());
    }

    #[test]
    fn test_helpers_stay_in_tests() {
        assert_eq!(
            messages(
                "yakumo-api",
                "services/api",
                &[("yakumo-testing", Use::Product)]
            )
            .len(),
            1
        );
        assert!(
            messages(
                "yakumo-api",
                "services/api",
                &[("yakumo-testing", Use::Tests)]
            )
            .is_empty()
        );
    }

    #[test]
    fn the_top_may_use_everything_and_xtask_nothing() {
        let all = [("yakumo-api", Use::Product), ("yakumo-types", Use::Product)];
        assert!(messages("yakumo", "", &all).is_empty());
        assert!(messages("yakumo-integration", "integration", &all).is_empty());
        assert_eq!(messages("xtask", "xtask", &all).len(), 2);
    }
}
