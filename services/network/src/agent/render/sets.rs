//! The sets of addresses that rules name: one for each remote group.

use std::collections::{BTreeMap, BTreeSet};

use yakumo_host::ipset::Sets;

use crate::agent::model::{Model, set_name};

/// The sets that the rules of this host's ports name; a group whose members
/// are not known is an empty set, which lets nobody in.
pub fn render(model: &Model) -> Sets {
    let mut sets = Sets::new();
    for port in model.ports.values().filter(|port| port.security && port.up) {
        for rule in model.rules(port, true).chain(model.rules(port, false)) {
            let Some(group) = &rule.group else { continue };
            sets.entry(set_name(group)).or_insert_with(|| {
                model
                    .members
                    .get(group)
                    .into_iter()
                    .flat_map(BTreeMap::keys)
                    .map(ToString::to_string)
                    .collect::<BTreeSet<String>>()
            });
        }
    }
    sets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::model::tests::sample;

    #[test]
    fn a_set_for_each_group_that_a_rule_names() {
        let sets = render(&Model::read(&sample()));
        assert_eq!(sets.len(), 1);
        let members: Vec<&String> = sets["yk-cccccccccccc4ccc8ccccccc"].iter().collect();
        assert_eq!(members, ["10.0.0.5", "10.0.0.7"]);
    }
}
