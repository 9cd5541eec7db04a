//! What may be written where.

use super::Finding;
use super::masked::Masked;
use super::rooms;

/// Files longer than this are split by verb or resource; 600 is the aim.
const LONGEST: usize = 900;

/// Something that product code may write in certain rooms alone.
struct Ban {
    rule: &'static str,
    /// Any of these in the code.
    words: &'static [&'static str],
    /// Paths that may: a folder's beginning, or, with a star in front, any path
    /// that contains the rest.
    rooms: &'static [&'static str],
    instead: &'static str,
}

const BANS: [Ban; 9] = [
    Ban {
        rule: "wall-clock",
        words: &["SystemTime::now", "Utc::now", "Local::now"],
        rooms: &["shared/service/src/env.rs"],
        instead: "ask `env.clock.now()`",
    },
    Ban {
        rule: "sleep",
        words: &[
            "time::sleep",
            "time::interval",
            "thread::sleep",
            "sleep_until",
        ],
        rooms: &["shared/service/src/env.rs", "shared/testing/"],
        instead: "use `env.clock.sleep(duration)`",
    },
    Ban {
        rule: "random-ids",
        words: &["Uuid::new_v4", "Uuid::now_v7"],
        rooms: &["shared/service/src/env.rs"],
        instead: "use `env.rng.uuid()`",
    },
    Ban {
        rule: "chance",
        words: &[
            "rand::rng",
            "rand::random",
            "thread_rng",
            "OsRng",
            "SysRng",
            "fastrand::",
            "getrandom::",
        ],
        rooms: &["shared/service/src/env.rs", "shared/testing/"],
        instead: "use `env.rng`",
    },
    Ban {
        rule: "processes",
        words: &["Command::new", "process::Command", "fork(", "execv"],
        rooms: &["shared/host/", "shared/testing/"],
        instead: "processes are started by yakumo-host alone",
    },
    Ban {
        rule: "axum-room",
        words: &["axum::", "axum_server::", "use axum"],
        rooms: &["shared/http/", "*/http/", "*/http.rs"],
        instead: "axum lives in shared/http and */http",
    },
    Ban {
        rule: "sea-orm-room",
        words: &["sea_orm::", "sea_orm_migration::", "use sea_orm", "sqlx::"],
        rooms: &[
            "shared/db/",
            "shared/workflow/",
            "shared/testing/",
            "*/store/",
            "*/store.rs",
        ],
        instead: "sea-orm lives in shared/db, shared/workflow and */store",
    },
    Ban {
        rule: "lapin-room",
        words: &["lapin::", "use lapin"],
        rooms: &["shared/rpc/"],
        instead: "lapin lives in shared/rpc",
    },
    Ban {
        rule: "virt-room",
        words: &["virt::", "use virt"],
        rooms: &["services/compute/src/drivers/libvirt"],
        instead: "libvirt's library lives in compute's libvirt driver",
    },
];

const SQL_ROOMS: [&str; 5] = [
    "shared/db/",
    "shared/workflow/",
    "shared/testing/",
    "*/store/",
    "*/store.rs",
];

/// The rules that a file breaks; `file` is its path from the root.
pub fn check(file: &str, text: &str) -> Vec<Finding> {
    let mut findings = everywhere(file, text);
    if file.ends_with(".rs") && !file.starts_with("xtask/") {
        findings.extend(rust(file, text));
    }
    let lines: Vec<&str> = text.lines().collect();
    findings.retain(|finding| !is_allowed(&lines, finding));
    findings
}

fn is_allowed(lines: &[&str], finding: &Finding) -> bool {
    let marker = format!("tidy: allow {}: ", finding.rule);
    // The line itself and the one above.
    (finding.line.saturating_sub(2)..finding.line)
        .any(|index| lines.get(index).is_some_and(|line| line.contains(&marker)))
}

/// Any text in the repository.
fn everywhere(file: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |line: usize, rule: &'static str, message: String| {
        findings.push(Finding {
            file: file.to_owned(),
            line,
            rule,
            message,
        });
    };
    let generated = file == "Cargo.lock" || file == "LICENSE";
    let long = text.lines().count();
    if long > LONGEST && file.ends_with(".rs") {
        find(
            0,
            "file-length",
            format!("{long} lines; split it by verb or resource ({LONGEST} at the most)"),
        );
    }
    if generated {
        return findings;
    }
    if file.ends_with(".rs") {
        for line in code_in_docs(text) {
            find(
                line,
                "doc-code",
                "code in docs is not run: show it in a test, or call it ```text".into(),
            );
        }
    }
    // Put together here, so that this file doesn't break its own rules.
    let unfinished = [concat!("TO", "DO"), concat!("FIX", "ME")];
    let homes = [
        concat!("/ho", "me/"),
        concat!("/Us", "ers/"),
        concat!("/root/", ".cargo"),
        concat!("/wo", "rk/"),
    ];
    for (index, line) in text.lines().enumerate() {
        for word in unfinished {
            if whole_word(line, word) {
                find(
                    index + 1,
                    "unfinished",
                    format!("{word}: do it, or leave it out and say so in the ledger"),
                );
            }
        }
        for home in homes {
            let rest = line.split_once(home).map(|(before, after)| {
                let relative = before
                    .ends_with(|last: char| last.is_alphanumeric() || "._-*/$}>".contains(last));
                // The guest's own user.
                relative || after.starts_with("yakumo")
            });
            if rest == Some(false) {
                find(
                    index + 1,
                    "absolute-path",
                    format!("{home}… is a path on somebody's machine"),
                );
            }
        }
    }
    findings
}

/// The lines where docs begin code that would be a test of its own.
fn code_in_docs(text: &str) -> Vec<usize> {
    let (mut found, mut inside) = (Vec::new(), false);
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        let docs = line.strip_prefix("///").or(line.strip_prefix("//!"));
        let fence = docs.and_then(|docs| docs.trim().strip_prefix("```"));
        if !inside && fence.is_some_and(|kind| kind.is_empty() || kind.starts_with("rust")) {
            found.push(index + 1);
        }
        inside = docs.is_some() && inside != fence.is_some();
    }
    found
}

fn whole_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let edge = |byte: Option<&u8>| {
            !byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        };
        let bytes = line.as_bytes();
        edge(at.checked_sub(1).and_then(|before| bytes.get(before)))
            && edge(bytes.get(at + word.len()))
    })
}

fn rust(file: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if is_test_file(file) {
        return findings;
    }
    let masked = Masked::of(text);
    let product = |index: usize| !masked.tests.get(index).copied().unwrap_or(false);
    for ban in &BANS {
        if in_rooms(file, ban.rooms) {
            continue;
        }
        for (index, line) in masked.code.lines().enumerate() {
            if product(index)
                && let Some(word) = ban.words.iter().find(|word| begins_a_path(line, word))
            {
                findings.push(Finding {
                    file: file.to_owned(),
                    line: index + 1,
                    rule: ban.rule,
                    message: format!("`{word}`: {}", ban.instead),
                });
            }
        }
    }
    findings.extend(rooms::check(file, &masked));
    if !in_rooms(file, &SQL_ROOMS) {
        for (index, line) in masked.strings.lines().enumerate() {
            if product(index) && is_sql(line) {
                findings.push(Finding {
                    file: file.to_owned(),
                    line: index + 1,
                    rule: "sql-room",
                    message: "SQL lives in */store".into(),
                });
            }
        }
    }
    findings
}

/// `word` in `line`, not as the end of a longer word: `virt::` is not in `libvirt::`.
fn begins_a_path(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = at.checked_sub(1).map(|before| line.as_bytes()[before]);
        let after = line.as_bytes().get(at + word.len());
        let cut_off = before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let goes_on = word.ends_with(|last: char| last.is_alphanumeric())
            && after.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        !cut_off && !goes_on
    })
}

fn is_sql(line: &str) -> bool {
    let has = |first: &str, second: &str| {
        line.find(first)
            .is_some_and(|at| line[at + first.len()..].contains(second))
    };
    has("SELECT ", " FROM ")
        || has("INSERT INTO ", "(")
        || has("DELETE FROM ", "")
        || has("UPDATE ", " SET ")
        || has("CREATE TABLE ", "")
        || has("DROP TABLE ", "")
        || has("ALTER TABLE ", "")
}

fn is_test_file(file: &str) -> bool {
    file.starts_with("integration/")
        || file.starts_with("tests/")
        || file.contains("/tests/")
        || file.contains("/benches/")
        || file.ends_with("/tests.rs")
        || file.ends_with("_tests.rs")
        || file.ends_with("/build.rs")
}

fn in_rooms(file: &str, rooms: &[&str]) -> bool {
    rooms.iter().any(|room| match room.strip_prefix('*') {
        Some(inside) => file.contains(inside),
        None => file.starts_with(room),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(file: &str, text: &str) -> Vec<&'static str> {
        check(file, text)
            .into_iter()
            .map(|finding| finding.rule)
            .collect()
    }

    /// Broken in a place where it may not be, kept in the place where it may.
    fn holds(rule: &'static str, text: &str, wrong: &str, right: &str) {
        assert_eq!(rules(wrong, text), [rule], "{wrong}");
        assert!(
            rules(right, text).is_empty(),
            "{right}: {:?}",
            check(right, text)
        );
    }

    #[test]
    fn the_wall_clock_has_one_room() {
        let home = "shared/service/src/env.rs";
        holds(
            "wall-clock",
            "let a = SystemTime::now();",
            "services/api/src/app/a.rs",
            home,
        );
        holds(
            "wall-clock",
            "let a = chrono::Utc::now();",
            "shared/db/src/a.rs",
            home,
        );
    }

    #[test]
    fn docs_hold_no_code_that_nobody_runs() {
        let docs = |kind: &str| format!("/// ```{kind}\n/// a();\n/// ```\nfn b() {{}}\n");
        let file = "shared/rpc/src/a.rs";
        assert_eq!(rules(file, &docs("")), ["doc-code"]);
        assert_eq!(rules(file, &docs("rust,no_run")), ["doc-code"]);
        assert!(rules(file, &docs("text")).is_empty());
        assert!(rules("docs/a.md", &docs("")).is_empty());
    }

    #[test]
    fn sleeping_has_one_room() {
        holds(
            "sleep",
            "tokio::time::sleep(a).await;",
            "services/api/src/app/a.rs",
            "shared/service/src/env.rs",
        );
        holds(
            "sleep",
            "std::thread::sleep(a);",
            "shared/host/src/a.rs",
            "services/api/tests/main.rs",
        );
    }

    #[test]
    fn random_ids_have_one_room() {
        holds(
            "random-ids",
            "Uuid::new_v4()",
            "services/api/src/app/a.rs",
            "shared/service/src/env.rs",
        );
    }

    #[test]
    fn chance_has_one_room() {
        for text in [
            "let a = rand::rng();",
            "let a: u8 = rand::random();",
            "let a = rand::random::<u8>();",
            "let mut a = OsRng;",
        ] {
            holds(
                "chance",
                text,
                "services/api/src/app/a.rs",
                "shared/service/src/env.rs",
            );
        }
        assert!(rules("services/api/src/app/a.rs", "env.rng.below(3)").is_empty());
        assert!(rules("services/api/src/app/a.rs", "rand::random_range_of(a)").is_empty());
    }

    #[test]
    fn directions_hold_within_a_service() {
        assert_eq!(
            rules("services/api/src/store/a.rs", "use crate::app::App;"),
            ["rooms"]
        );
    }

    #[test]
    fn processes_have_one_room() {
        holds(
            "processes",
            "Command::new(\"ip\")",
            "services/network/src/agent/a.rs",
            "shared/host/src/command.rs",
        );
    }

    #[test]
    fn libraries_stay_in_their_rooms() {
        holds(
            "axum-room",
            "use axum::Router;",
            "services/api/src/app/a.rs",
            "services/api/src/http/a.rs",
        );
        holds(
            "sea-orm-room",
            "use sea_orm::Set;",
            "services/api/src/http/a.rs",
            "services/api/src/store/a.rs",
        );
        holds(
            "lapin-room",
            "lapin::Channel",
            "services/api/src/rpc/a.rs",
            "shared/rpc/src/amqp/a.rs",
        );
        let driver = "services/compute/src/drivers/libvirt/a.rs";
        holds(
            "virt-room",
            "virt::connect::Connect",
            "services/compute/src/agent/a.rs",
            driver,
        );
        assert!(rules("services/compute/src/agent/a.rs", "libvirt::domain()").is_empty());
    }

    #[test]
    fn sql_stays_in_the_store() {
        let text = "query(\"SELECT id FROM servers\")";
        holds(
            "sql-room",
            text,
            "services/api/src/app/a.rs",
            "services/api/src/store/a.rs",
        );
        assert!(rules("services/api/src/app/a.rs", "// SELECT a FROM b").is_empty());
    }

    #[test]
    fn files_stay_short() {
        holds(
            "file-length",
            &"\n".repeat(901),
            "shared/rpc/src/a.rs",
            "docs/a.md",
        );
        assert!(rules("shared/rpc/src/a.rs", &"\n".repeat(900)).is_empty());
    }

    #[test]
    fn nothing_is_left_unfinished() {
        let text = concat!("// TO", "DO: later");
        assert_eq!(rules("shared/rpc/src/a.rs", text), ["unfinished"]);
        assert_eq!(rules("docs/a.md", text), ["unfinished"]);
        assert!(rules("docs/a.md", concat!("the Todo list, MY_TO", "DO")).is_empty());
    }

    #[test]
    fn nobodys_home_is_named() {
        assert_eq!(
            rules("docs/a.md", concat!("see /ho", "me/somebody/yakumo")),
            ["absolute-path"]
        );
        assert!(
            rules(
                "docs/a.md",
                concat!("see /ho", "me/yakumo, $ROOT/ho", "me/x")
            )
            .is_empty()
        );
    }

    #[test]
    fn tests_may_do_what_the_product_may_not() {
        let text =
            "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { std::thread::sleep(c) }\n}\n";
        assert!(rules("shared/rpc/src/a.rs", text).is_empty());
        assert!(rules("integration/tests/cloud/main.rs", "Command::new(a)").is_empty());
    }

    #[test]
    fn a_rule_is_broken_with_a_reason_only() {
        let file = "services/api/src/app/a.rs";
        assert!(
            rules(
                file,
                "// tidy: allow sleep: the driver is told to block\nthread::sleep(a);"
            )
            .is_empty()
        );
        assert_eq!(
            rules(file, "// tidy: allow sleep\nthread::sleep(a);"),
            ["sleep"]
        );
        assert_eq!(
            rules(file, "// tidy: allow processes: no\nthread::sleep(a);"),
            ["sleep"]
        );
    }
}
