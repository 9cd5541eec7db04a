//! The directions between the rooms of a service: `http`, `rpc` → `workflows`,
//! `reconcilers` → `app` → `store`, `drivers`. A lower room must not name a
//! higher one.
//!
//! The rooms are modules of one crate, so this is read off the paths that begin
//! with `crate::`. `docs/adr/0003-rooms-of-a-service.md` says why workflows
//! stand above `app`.

use super::Finding;
use super::masked::Masked;

/// A room, and those of its own service that it must not name.
const ABOVE: [(&str, &[&str]); 6] = [
    (
        "store",
        &[
            "http",
            "rpc",
            "grpc",
            "app",
            "workflows",
            "reconcilers",
            "agent",
        ],
    ),
    (
        "drivers",
        &[
            "http",
            "rpc",
            "grpc",
            "app",
            "workflows",
            "reconcilers",
            "agent",
        ],
    ),
    ("app", &["http", "rpc", "grpc", "reconcilers"]),
    ("workflows", &["http", "rpc", "grpc", "reconcilers"]),
    ("reconcilers", &["http", "rpc", "grpc"]),
    ("agent", &["http", "rpc", "grpc", "app", "workflows"]),
];

/// What a room may name all the same, by the beginning of its folder. In `app`
/// these are modules of plain values and pure functions, which know no store.
const EXCEPT: [(&str, &[&str]); 6] = [
    (
        "services/image/src/store",
        &["crate::app::model", "crate::app::query"],
    ),
    ("services/image/src/drivers", &["crate::app::inspect"]),
    ("services/network/src/store", &["crate::app::faults"]),
    (
        "services/object-store/src/store",
        &["crate::app::listing", "crate::app::names"],
    ),
    // The agent tells the listener of the metadata service where to listen.
    ("services/network/src/agent", &["crate::http::metadata"]),
    // It has neither tables nor rules of its own: the pipeline's state is there.
    (
        "services/scheduler/src/reconcilers",
        &["crate::rpc::Scheduler"],
    ),
];

/// The directions that a file breaks.
pub fn check(file: &str, masked: &Masked) -> Vec<Finding> {
    let Some((service, room)) = place(file) else {
        return Vec::new();
    };
    let Some((_, above)) = ABOVE.iter().find(|(name, _)| *name == room) else {
        return Vec::new();
    };
    let folder = format!("services/{service}/src/{room}");
    let allowed: Vec<&str> = EXCEPT
        .iter()
        .filter(|(place, _)| *place == folder)
        .flat_map(|(_, paths)| paths.iter().copied())
        .collect();
    let mut findings = Vec::new();
    for (line, path) in paths(&masked.code) {
        if masked.tests.get(line).copied().unwrap_or(false) {
            continue;
        }
        let named = path.split("::").nth(1).unwrap_or_default();
        let excepted = allowed
            .iter()
            .any(|allowed| path == *allowed || path.starts_with(&format!("{allowed}::")));
        if above.contains(&named) && !excepted {
            findings.push(Finding {
                file: file.to_owned(),
                line: line + 1,
                rule: "rooms",
                message: format!("`{path}`: {room} must not know {named}, which stands above it"),
            });
        }
    }
    findings
}

/// The service and the room that a file belongs to.
fn place(file: &str) -> Option<(&str, &str)> {
    let (service, inside) = file.strip_prefix("services/")?.split_once("/src/")?;
    let room = inside.split('/').next()?;
    Some((service, room.strip_suffix(".rs").unwrap_or(room)))
}

/// Every path of the code that begins with `crate::`, and the line it is on,
/// from 0. A group (`crate::{a, b::c}`) counts as the paths of its first level.
fn paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, start) in code.match_indices("crate::") {
        let cut_off = code[..at].ends_with(|last: char| last.is_alphanumeric() || last == '_');
        if cut_off {
            continue;
        }
        let line = code[..at].matches('\n').count();
        let rest = &code[at + start.len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0_i32;
            let mut item = String::new();
            for next in group.chars() {
                match next {
                    '}' if depth == 0 => break,
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        found.push((line, format!("crate::{}", path(item.trim()))));
                        item.clear();
                    }
                    next => item.push(next),
                }
            }
            if !item.trim().is_empty() {
                found.push((line, format!("crate::{}", path(item.trim()))));
            }
        } else {
            found.push((line, format!("crate::{}", path(rest))));
        }
    }
    found
}

/// The path at the beginning of a text.
fn path(text: &str) -> &str {
    let end = text
        .find(|next: char| !next.is_alphanumeric() && next != '_' && next != ':')
        .unwrap_or(text.len());
    text[..end].trim_end_matches(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(file: &str, text: &str) -> Vec<String> {
        check(file, &Masked::of(text))
            .into_iter()
            .map(|finding| format!("{}: {}", finding.line, finding.message))
            .collect()
    }

    #[test]
    fn store_and_drivers_know_nobody_above_them() {
        for room in ["store", "drivers"] {
            for above in ["http", "rpc", "app", "workflows", "reconcilers"] {
                let file = format!("services/api/src/{room}/a.rs");
                let found = broken(&file, &format!("fn a() {{}}\nuse crate::{above}::b;"));
                assert_eq!(
                    found,
                    [format!(
                        "2: `crate::{above}::b`: {room} must not know {above}, which stands above it"
                    )]
                );
            }
        }
        assert_eq!(
            broken("services/volume/src/store.rs", "crate::app::A").len(),
            1
        );
        assert!(broken("services/api/src/store/a.rs", "use crate::store::b;").is_empty());
    }

    #[test]
    fn app_workflows_and_reconcilers_do_not_know_who_asks() {
        for room in ["app", "workflows", "reconcilers"] {
            let file = format!("services/api/src/{room}/a.rs");
            assert_eq!(broken(&file, "crate::http::Json").len(), 1, "{room}");
            assert_eq!(broken(&file, "crate::rpc::Api").len(), 1, "{room}");
        }
        assert!(broken("services/api/src/workflows/a.rs", "crate::app::App").is_empty());
        assert!(broken("services/api/src/http/a.rs", "crate::app::App").is_empty());
        assert_eq!(
            broken("services/network/src/agent/a.rs", "crate::app::App").len(),
            1
        );
    }

    #[test]
    fn a_group_is_looked_into() {
        let text = "use crate::{\n    app::{self, b},\n    store,\n};";
        assert_eq!(broken("services/api/src/store/a.rs", text).len(), 1);
        let text = "use crate::{config::A, store::B};";
        assert!(broken("services/api/src/store/a.rs", text).is_empty());
    }

    #[test]
    fn what_is_excepted_is_that_and_no_more() {
        let file = "services/image/src/store/images.rs";
        assert!(broken(file, "use crate::app::model::Image;").is_empty());
        assert_eq!(broken(file, "use crate::app::models::Image;").len(), 1);
        assert_eq!(broken(file, "use crate::app::upload::Upload;").len(), 1);
        assert_eq!(
            broken("services/api/src/store/a.rs", "use crate::app::model::A;").len(),
            1
        );
    }

    #[test]
    fn words_tests_and_other_crates_are_left_alone() {
        let file = "services/api/src/store/a.rs";
        assert!(broken(file, "// see crate::app::App\nlet a = \"crate::app\";").is_empty());
        assert!(broken(file, "othercrate::app::App").is_empty());
        let test = "#[cfg(test)]\nmod tests {\n    use crate::app::App;\n}\n";
        assert!(broken(file, test).is_empty());
        assert!(broken("shared/rpc/src/store/a.rs", "crate::app::App").is_empty());
    }
}
