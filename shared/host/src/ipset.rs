//! Sets of addresses: changed member by member, so that a large group costs
//! what changed in it and not its size.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::command::{Cmd, CommandError, CommandRunner};
use crate::rules::PREFIX;

/// Sets by name, each with its members: IPv4 addresses or networks.
pub type Sets = BTreeMap<String, BTreeSet<String>>;

/// Reads what `ipset save` wrote; only sets of ours.
pub fn parse_save(text: &str) -> Sets {
    let mut sets = Sets::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (verb, name) = (words.next(), words.next());
        let Some(name) = name.filter(|name| name.starts_with(PREFIX)) else {
            continue;
        };
        match verb {
            Some("create") => {
                sets.entry(name.to_owned()).or_default();
            }
            Some("add") => {
                if let Some(member) = words.next() {
                    sets.entry(name.to_owned())
                        .or_default()
                        .insert(member.to_owned());
                }
            }
            _ => {}
        }
    }
    sets
}

/// The text for `ipset restore` that makes sets and members be there that are
/// wanted, and takes members away that are not; `None` when nothing differs.
/// Sets that are no longer wanted stay: rules may still name them.
pub fn plan_members(wanted: &Sets, present: &Sets) -> Option<String> {
    let mut text = String::new();
    let nothing = BTreeSet::new();
    for (name, members) in wanted {
        let there = match present.get(name) {
            Some(there) => there,
            None => {
                let _ = writeln!(text, "create {name} hash:net family inet maxelem 1048576");
                &nothing
            }
        };
        for member in there.difference(members) {
            let _ = writeln!(text, "del {name} {member}");
        }
        for member in members.difference(there) {
            let _ = writeln!(text, "add {name} {member}");
        }
    }
    (!text.is_empty()).then_some(text)
}

/// The text that takes away the sets that are no longer wanted.
pub fn plan_removal(wanted: &Sets, present: &Sets) -> Option<String> {
    let mut text = String::new();
    for name in present.keys().filter(|name| !wanted.contains_key(*name)) {
        let _ = writeln!(text, "destroy {name}");
    }
    (!text.is_empty()).then_some(text)
}

/// What there is of ours.
pub async fn read(runner: &dyn CommandRunner) -> Result<Sets, CommandError> {
    let saved = runner.run(Cmd::new("ipset", ["save"])).await?;
    Ok(parse_save(&saved.text()))
}

/// Applies a text of [`plan_members`] or [`plan_removal`].
pub async fn restore(runner: &dyn CommandRunner, text: String) -> Result<(), CommandError> {
    runner
        .run(Cmd::new("ipset", ["-exist", "restore"]).stdin(text))
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(list: &[(&str, &[&str])]) -> Sets {
        list.iter()
            .map(|(name, members)| {
                (
                    (*name).to_owned(),
                    members.iter().map(|member| (*member).to_owned()).collect(),
                )
            })
            .collect()
    }

    #[test]
    fn only_the_difference_is_written() {
        let present = parse_save(
            "create yk-a hash:net family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x4dc49ba8\n\
             add yk-a 10.0.0.1\nadd yk-a 10.0.0.2\ncreate yk-b hash:net family inet\ncreate other hash:ip\nadd other 1.1.1.1\n",
        );
        let wanted = sets(&[("yk-a", &["10.0.0.2", "10.0.0.3"]), ("yk-c", &["10.0.0.9"])]);
        assert_eq!(
            plan_members(&wanted, &present).unwrap(),
            "del yk-a 10.0.0.1\nadd yk-a 10.0.0.3\n\
             create yk-c hash:net family inet maxelem 1048576\nadd yk-c 10.0.0.9\n"
        );
        assert_eq!(plan_removal(&wanted, &present).unwrap(), "destroy yk-b\n");
        assert_eq!(plan_members(&wanted, &wanted), None);
        assert_eq!(plan_removal(&wanted, &wanted), None);
    }
}
