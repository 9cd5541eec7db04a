//! Rule sets for `iptables-restore` and `ebtables-restore`, which share one
//! language.
//!
//! A [`Table`] says how our own chains are to look, and which built-in chains
//! jump to them. [`plan`] compares that with what the kernel has and writes the
//! text that mends the difference, and nothing else: chains that are as they
//! should be are not touched, so counters live on and an agent that restarts
//! changes nothing. Chains of others are never named. One text is one
//! transaction: a packet sees the old rules or the new ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Every chain of ours starts with this, and no other chain does.
pub const PREFIX: &str = "yk-";

/// Which program reads the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `iptables-restore`.
    Ip,
    /// `ebtables-restore`.
    Bridge,
}

/// One chain of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// The rules without `-A <chain>`, written as the `save` program writes
    /// them; otherwise they would be taken for changed each time.
    pub rules: Vec<String>,
}

impl Chain {
    /// Adds a rule.
    pub fn push(&mut self, rule: impl Into<String>) {
        self.rules.push(rule.into());
    }
}

/// Our part of one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// `filter`, `nat`, …
    pub name: String,
    /// Built-in chains and the chain of ours that each jumps to first.
    pub hooks: Vec<(String, String)>,
    /// Our chains by name.
    pub chains: BTreeMap<String, Chain>,
}

impl Table {
    /// An empty part: applying it removes whatever of ours is there.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// Makes a built-in chain jump to a chain of ours.
    pub fn hook(&mut self, built_in: &str, chain: &str) -> &mut Chain {
        self.hooks.push((built_in.to_owned(), chain.to_owned()));
        self.chain(chain)
    }

    /// A chain of ours, made if it is new.
    pub fn chain(&mut self, name: &str) -> &mut Chain {
        self.chains.entry(name.to_owned()).or_default()
    }

    /// The whole part as text, for tests and for people.
    pub fn render(&self, family: Family) -> String {
        plan(family, std::slice::from_ref(self), "").unwrap_or_default()
    }
}

#[derive(Default)]
struct Present {
    chains: BTreeMap<String, Vec<String>>,
    built_in: BTreeMap<String, Vec<String>>,
}

fn parse_save(text: &str) -> BTreeMap<String, Present> {
    let mut tables: BTreeMap<String, Present> = BTreeMap::new();
    let mut table = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('*') {
            table = name.to_owned();
            tables.entry(table.clone()).or_default();
            continue;
        }
        let Some(present) = tables.get_mut(&table) else {
            continue;
        };
        if let Some(rest) = line.strip_prefix(':') {
            if let Some(name) = rest.split_whitespace().next()
                && name.starts_with(PREFIX)
            {
                present.chains.entry(name.to_owned()).or_default();
            }
        } else if let Some(rest) = line.strip_prefix("-A ")
            && let Some((chain, rule)) = rest.split_once(' ')
        {
            if chain.starts_with(PREFIX) {
                present
                    .chains
                    .entry(chain.to_owned())
                    .or_default()
                    .push(rule.trim().to_owned());
            } else {
                present
                    .built_in
                    .entry(chain.to_owned())
                    .or_default()
                    .push(rule.trim().to_owned());
            }
        }
    }
    tables
}

/// The text for the `restore` program (with `--noflush`) that turns what is
/// there (as the `save` program writes it) into what is wanted; `None` when
/// nothing differs.
pub fn plan(family: Family, wanted: &[Table], saved: &str) -> Option<String> {
    let mut present = parse_save(saved);
    let mut text = String::new();
    for table in wanted {
        let present = present.remove(&table.name).unwrap_or_default();
        let body = plan_table(family, table, &present);
        if !body.is_empty() {
            let _ = writeln!(text, "*{}", table.name);
            text.push_str(&body);
            text.push_str("COMMIT\n");
        }
    }
    (!text.is_empty()).then_some(text)
}

fn plan_table(family: Family, wanted: &Table, present: &Present) -> String {
    let policy = match family {
        Family::Ip => "- [0:0]",
        Family::Bridge => "RETURN",
    };
    let mut text = String::new();
    let changed: Vec<(&String, &Chain)> = wanted
        .chains
        .iter()
        .filter(|(name, chain)| present.chains.get(*name) != Some(&chain.rules))
        .collect();
    let stale: Vec<&String> = present
        .chains
        .keys()
        .filter(|name| !wanted.chains.contains_key(*name))
        .collect();
    // Naming a chain empties it, so stale ones no longer hold on to each other.
    let named: BTreeSet<&String> = changed
        .iter()
        .map(|(name, _)| *name)
        .chain(stale.iter().copied())
        .collect();
    for name in named {
        let _ = writeln!(text, ":{name} {policy}");
    }
    for (chain, rules) in &present.built_in {
        for rule in rules {
            let target = rule.split_whitespace().last().unwrap_or_default();
            let ours = rule.starts_with("-j ") && target.starts_with(PREFIX);
            if ours
                && !wanted
                    .hooks
                    .iter()
                    .any(|(hook, own)| hook == chain && own == target)
            {
                let _ = writeln!(text, "-D {chain} {rule}");
            }
        }
    }
    for (built_in, chain) in &wanted.hooks {
        let jump = format!("-j {chain}");
        let there = present
            .built_in
            .get(built_in)
            .is_some_and(|rules| rules.contains(&jump));
        if !there {
            match family {
                Family::Ip => {
                    let _ = writeln!(text, "-I {built_in} 1 {jump}");
                }
                Family::Bridge => {
                    let _ = writeln!(text, "-A {built_in} {jump}");
                }
            }
        }
    }
    for (name, chain) in changed {
        for rule in &chain.rules {
            let _ = writeln!(text, "-A {name} {rule}");
        }
    }
    for name in stale {
        let _ = writeln!(text, "-X {name}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Table {
        let mut table = Table::new("filter");
        table.hook("FORWARD", "yk-FORWARD").push("-i tap0 -j yk-a");
        table.chain("yk-a").push("-j DROP");
        table
    }

    #[test]
    fn everything_is_written_when_nothing_is_there() {
        assert_eq!(
            wanted().render(Family::Ip),
            "*filter\n:yk-FORWARD - [0:0]\n:yk-a - [0:0]\n-I FORWARD 1 -j yk-FORWARD\n\
             -A yk-FORWARD -i tap0 -j yk-a\n-A yk-a -j DROP\nCOMMIT\n"
        );
    }

    #[test]
    fn nothing_is_written_when_nothing_differs() {
        let saved = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [7:9]\n:yk-FORWARD - [0:0]\n:yk-a - [0:0]\n\
            -A FORWARD -j yk-FORWARD\n-A FORWARD -j DOCKER\n-A yk-FORWARD -i tap0 -j yk-a\n-A yk-a -j DROP\nCOMMIT\n";
        assert_eq!(plan(Family::Ip, &[wanted()], saved), None);
    }

    #[test]
    fn only_what_differs_is_written_and_what_is_stale_goes() {
        let saved = "*filter\n:FORWARD ACCEPT [0:0]\n:yk-FORWARD - [0:0]\n:yk-a - [0:0]\n:yk-old - [0:0]\n\
            -A FORWARD -j yk-FORWARD\n-A INPUT -j yk-old\n-A INPUT -s 10.0.0.1/32 -j ACCEPT\n\
            -A yk-FORWARD -i tap0 -j yk-a\n-A yk-a -j ACCEPT\nCOMMIT\n";
        assert_eq!(
            plan(Family::Ip, &[wanted()], saved).unwrap(),
            "*filter\n:yk-a - [0:0]\n:yk-old - [0:0]\n-D INPUT -j yk-old\n-A yk-a -j DROP\n-X yk-old\nCOMMIT\n"
        );
    }

    #[test]
    fn an_empty_table_takes_everything_of_ours_away() {
        let saved = "*nat\n:PREROUTING ACCEPT\n:yk-pre RETURN\n-A PREROUTING -j yk-pre\n-A yk-pre -i tap0 -j DROP\n";
        assert_eq!(
            plan(Family::Bridge, &[Table::new("nat")], saved).unwrap(),
            "*nat\n:yk-pre RETURN\n-D PREROUTING -j yk-pre\n-X yk-pre\nCOMMIT\n"
        );
    }
}
