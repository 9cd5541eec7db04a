//! What a host should be like, as the network service said it: whole, or as
//! changes of what it said before. Taking a change costs what the change holds,
//! and not what the host does; the result is the same as of a whole state.
//!
//! A network or a group is here as long as a port needs it, and the members of a
//! group as long as a rule names it. What no port needed for a moment may have
//! changed in that moment, and nobody told the host: so a change first takes
//! away all of its ports, and brings whole what is then missing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;

use yakumo_contracts::network::{
    GroupMembers, GroupRevision, HostDelta, HostNetwork, HostPort, HostSecurityGroup, HostState,
    Known, RemotePort,
};
use yakumo_contracts::network_host::MembersChangedRequest;

use super::model::Model;

/// A host's state, and what is read from it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Desired {
    host: String,
    revision: u64,
    networks: BTreeMap<String, HostNetwork>,
    ports: BTreeMap<String, HostPort>,
    groups: BTreeMap<String, HostSecurityGroup>,
    /// How many ports are on each network and in each group, and how many groups
    /// have rules that name each group.
    on_network: Counts,
    in_group: Counts,
    naming: Counts,
    /// The addresses of ports, and of how many.
    here: HashMap<Ipv4Addr, usize>,
    /// What ports contribute to the members of groups: port, group, addresses.
    joined: HashMap<String, HashMap<String, BTreeSet<Ipv4Addr>>>,
    /// Of the members of groups.
    revisions: HashMap<String, u64>,
    /// Whether the service told whose addresses members are.
    changeable: bool,
    model: Model,
}

type Counts = HashMap<String, usize>;

fn count_up(counts: &mut Counts, id: &str) {
    match counts.get_mut(id) {
        Some(count) => *count += 1,
        None => {
            counts.insert(id.to_owned(), 1);
        }
    }
}

/// Whether nothing is left.
fn count_down(counts: &mut Counts, id: &str) -> bool {
    let Some(count) = counts.get_mut(id) else {
        return true;
    };
    *count = count.saturating_sub(1);
    if *count > 0 {
        return false;
    }
    counts.remove(id);
    true
}

/// The groups that a group's rules name.
fn named(group: &HostSecurityGroup) -> BTreeSet<String> {
    group
        .rules
        .iter()
        .map(|rule| rule.remote_group_id.clone())
        .filter(|id| !id.is_empty())
        .collect()
}

/// What a change must bring whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Missing {
    pub networks: BTreeSet<String>,
    pub groups: BTreeSet<String>,
}

impl Missing {
    pub(crate) fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.groups.is_empty()
    }
}

/// A change does not fit: the whole state is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the change does not fit the state that is here")]
pub(crate) struct Unfit;

/// What came of a change of a group's members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MembersTaken {
    Changed,
    /// They are known already, or of no use.
    Nothing,
    /// There were changes before it that are not known.
    Gap,
}

/// What a change did.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    /// The ports that are other ones now, or gone.
    pub ports: BTreeSet<String>,
    /// Addresses that ports had before it.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// Whether a port of the host went.
    pub gone: bool,
}

impl Desired {
    /// Reads a whole state. What it leaves out, since it is as it was, is taken
    /// from the one before.
    pub(crate) fn read(mut state: HostState, before: Option<&Self>) -> Self {
        // What is not here nobody can have said to be: then all of it is asked for.
        let mut complete = true;
        for members in state.members.iter_mut().filter(|it| it.unchanged) {
            match before.and_then(|before| before.members_of(&members.group_id)) {
                Some(there) => *members = there,
                None => complete = false,
            }
        }
        let mut desired = Self {
            host: state.host,
            revision: state.revision,
            changeable: complete,
            ..Self::default()
        };
        desired.put_whole(state.networks, state.security_groups, state.members);
        for port in state.ports {
            desired.join_port(&port);
            desired.put_port(port);
        }
        desired
    }

    /// The whole state, to be kept.
    pub(crate) fn state(&self) -> HostState {
        HostState {
            host: self.host.clone(),
            revision: self.revision,
            networks: self.networks.values().cloned().collect(),
            ports: self.ports.values().cloned().collect(),
            security_groups: self.groups.values().cloned().collect(),
            members: self
                .model
                .members
                .keys()
                .filter_map(|group| self.members_of(group))
                .collect(),
        }
    }

    fn members_of(&self, group: &str) -> Option<GroupMembers> {
        let members = self.model.members.get(group)?;
        Some(GroupMembers {
            group_id: group.to_owned(),
            addresses: members.keys().map(ToString::to_string).collect(),
            port_ids: members.values().cloned().collect(),
            revision: self.revisions.get(group).copied().unwrap_or(0),
            unchanged: false,
        })
    }

    /// The groups whose members are here.
    pub(crate) fn groups(&self) -> Vec<GroupRevision> {
        let revision = |(group, revision): (&String, &u64)| GroupRevision {
            group_id: group.clone(),
            revision: *revision,
        };
        self.revisions.iter().map(revision).collect()
    }

    /// The networks and groups that are here.
    pub(crate) fn known(&self) -> Known {
        Known {
            network_ids: self.on_network.keys().cloned().collect(),
            group_ids: self.in_group.keys().cloned().collect(),
        }
    }

    /// Takes a change of a group's members.
    pub(crate) fn change_members(&mut self, change: &MembersChangedRequest) -> MembersTaken {
        let Some(revision) = self.revisions.get_mut(&change.group_id) else {
            return MembersTaken::Nothing;
        };
        if *revision >= change.revision {
            return MembersTaken::Nothing;
        }
        if *revision < change.since_revision {
            return MembersTaken::Gap;
        }
        *revision = change.revision;
        for member in &change.members {
            self.leave(&member.port_id, &change.group_id);
            self.enter(&member.port_id, &change.group_id, &member.addresses);
        }
        MembersTaken::Changed
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether changes of this state can be taken.
    pub(crate) fn is_changeable(&self) -> bool {
        self.changeable
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// What could not be read since this was asked last.
    pub(crate) fn take_rejected(&mut self) -> Vec<String> {
        std::mem::take(&mut self.model.rejected)
    }

    /// Whether a port of this host has the address.
    pub(crate) fn has_address(&self, address: &Ipv4Addr) -> bool {
        self.here.contains_key(address)
    }

    /// The addresses of this host's ports.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.here.keys().copied()
    }

    /// What a change needs and neither brings nor finds here.
    pub(crate) fn missing(&self, delta: &HostDelta) -> Result<Missing, Unfit> {
        let fits = self.changeable
            && delta.since_revision == self.revision
            && delta.revision >= self.revision
            && delta.members.iter().all(tells_ports);
        if !fits {
            return Err(Unfit);
        }
        let (mut on_network, mut in_group) = (HashMap::new(), HashMap::new());
        for port in ids_of(delta).filter_map(|id| self.ports.get(id)) {
            *on_network.entry(&port.network_id).or_insert(0_usize) += 1;
            for group in &port.security_groups {
                *in_group.entry(group).or_insert(0_usize) += 1;
            }
        }
        let mut missing = Missing::default();
        let keeps = |counts: &Counts, leaving: &HashMap<&String, usize>, id: &String| {
            counts.get(id).copied().unwrap_or(0) > leaving.get(id).copied().unwrap_or(0)
        };
        for port in &delta.ports {
            if !keeps(&self.on_network, &on_network, &port.network_id) {
                missing.networks.insert(port.network_id.clone());
            }
            for group in &port.security_groups {
                if !keeps(&self.in_group, &in_group, group) {
                    missing.groups.insert(group.clone());
                }
            }
        }
        for network in &delta.networks {
            missing.networks.remove(&network.id);
        }
        let told: HashSet<&str> = delta
            .members
            .iter()
            .map(|members| members.group_id.as_str())
            .collect();
        for group in &delta.security_groups {
            let whole = named(group).iter().all(|id| told.contains(id.as_str()));
            if whole {
                missing.groups.remove(&group.id);
            }
        }
        Ok(missing)
    }

    /// Takes a change. What lacks something, or is not a change of this very
    /// state, changes nothing.
    pub(crate) fn change(&mut self, delta: HostDelta) -> Result<Changed, Unfit> {
        if !self.missing(&delta)?.is_empty() {
            return Err(Unfit);
        }
        let mut changed = Changed {
            ports: ids_of(&delta).map(str::to_owned).collect(),
            addresses: BTreeSet::new(),
            gone: delta
                .remote_ports
                .iter()
                .any(|port| self.ports.contains_key(&port.port_id)),
        };
        for id in &changed.ports {
            changed.addresses.extend(self.take_port(id));
        }
        let networks: Vec<String> = delta.networks.iter().map(|it| it.id.clone()).collect();
        let groups: Vec<String> = delta
            .security_groups
            .iter()
            .map(|it| it.id.clone())
            .collect();
        let members: Vec<String> = delta.members.iter().map(|it| it.group_id.clone()).collect();
        self.put_whole(delta.networks, delta.security_groups, delta.members);
        for port in delta.remote_ports {
            self.join(&port);
        }
        for port in delta.ports {
            self.join_port(&port);
            self.put_port(port);
        }
        // What was asked for may be of no use any more.
        for id in networks {
            self.drop_network_unless_used(&id);
        }
        for id in groups {
            self.drop_group_unless_used(&id);
        }
        for id in members {
            self.drop_members_unless_named(&id);
        }
        self.revision = delta.revision;
        Ok(changed)
    }

    fn put_whole(
        &mut self,
        networks: Vec<HostNetwork>,
        groups: Vec<HostSecurityGroup>,
        members: Vec<GroupMembers>,
    ) {
        for network in networks {
            self.put_network(network);
        }
        for group in groups {
            self.put_group(group);
        }
        for members in members {
            self.put_members(members);
        }
    }

    fn put_network(&mut self, network: HostNetwork) {
        self.model.put_network(&network);
        self.networks.insert(network.id.clone(), network);
    }

    fn put_group(&mut self, group: HostSecurityGroup) {
        self.model.put_group(&group);
        for id in named(&group) {
            count_up(&mut self.naming, &id);
        }
        let before = self.groups.insert(group.id.clone(), group);
        self.forget_naming(before);
    }

    fn put_members(&mut self, members: GroupMembers) {
        self.changeable &= tells_ports(&members);
        self.drop_members(&members.group_id);
        self.model.put_members(&members);
        let group = members.group_id;
        self.revisions.insert(group.clone(), members.revision);
        for (address, port) in self.model.members.get(&group).into_iter().flatten() {
            let joined = self.joined.entry(port.clone()).or_default();
            joined.entry(group.clone()).or_default().insert(*address);
        }
    }

    fn put_port(&mut self, port: HostPort) {
        count_up(&mut self.on_network, &port.network_id);
        for group in &port.security_groups {
            count_up(&mut self.in_group, group);
        }
        self.model.put_port(&port);
        for (_, address) in self
            .model
            .ports
            .get(&port.id)
            .into_iter()
            .flat_map(|port| &port.fixed)
        {
            *self.here.entry(*address).or_insert(0) += 1;
        }
        self.ports.insert(port.id.clone(), port);
    }

    /// Takes a port away, with what only it needed; gives its addresses.
    fn take_port(&mut self, id: &str) -> Vec<Ipv4Addr> {
        let mut addresses = Vec::new();
        for (_, address) in self
            .model
            .ports
            .remove(id)
            .into_iter()
            .flat_map(|port| port.fixed)
        {
            addresses.push(address);
            if let Some(count) = self.here.get_mut(&address) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.here.remove(&address);
                }
            }
        }
        let Some(port) = self.ports.remove(id) else {
            return addresses;
        };
        if count_down(&mut self.on_network, &port.network_id) {
            self.drop_network_unless_used(&port.network_id);
        }
        for group in &port.security_groups {
            if count_down(&mut self.in_group, group) {
                self.drop_group_unless_used(group);
            }
        }
        addresses
    }

    fn drop_network_unless_used(&mut self, id: &str) {
        if !self.on_network.contains_key(id) {
            self.networks.remove(id);
            self.model.networks.remove(id);
        }
    }

    fn drop_group_unless_used(&mut self, id: &str) {
        if !self.in_group.contains_key(id) {
            self.model.groups.remove(id);
            let group = self.groups.remove(id);
            self.forget_naming(group);
        }
    }

    fn forget_naming(&mut self, group: Option<HostSecurityGroup>) {
        for id in group.as_ref().map(named).unwrap_or_default() {
            if count_down(&mut self.naming, &id) {
                self.drop_members_unless_named(&id);
            }
        }
    }

    fn drop_members_unless_named(&mut self, group: &str) {
        if !self.naming.contains_key(group) {
            self.drop_members(group);
        }
    }

    fn drop_members(&mut self, group: &str) {
        self.revisions.remove(group);
        for (_, port) in self.model.members.remove(group).into_iter().flatten() {
            if let Some(joined) = self.joined.get_mut(&port) {
                joined.remove(group);
                if joined.is_empty() {
                    self.joined.remove(&port);
                }
            }
        }
    }

    /// Makes a port, here or elsewhere, be in its groups and in no other ones, as
    /// far as rules name them.
    fn join(&mut self, port: &RemotePort) {
        let before: Vec<String> = self
            .joined
            .get(&port.port_id)
            .into_iter()
            .flat_map(|groups| groups.keys().cloned())
            .collect();
        for group in before {
            self.leave(&port.port_id, &group);
        }
        for group in &port.group_ids {
            self.enter(&port.port_id, group, &port.addresses);
        }
    }

    /// A port of this host is a member of its groups before anybody says so.
    fn join_port(&mut self, port: &HostPort) {
        self.join(&RemotePort {
            port_id: port.id.clone(),
            group_ids: port.security_groups.clone(),
            addresses: port
                .fixed_ips
                .iter()
                .map(|ip| ip.ip_address.clone())
                .collect(),
        });
    }

    /// A port with these addresses is a member of a group, if a rule names it.
    fn enter(&mut self, port: &str, group: &str, addresses: &[String]) {
        let addresses: BTreeSet<Ipv4Addr> = addresses
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect();
        let Some(members) = self.model.members.get_mut(group) else {
            return;
        };
        if addresses.is_empty() {
            return;
        }
        for address in &addresses {
            members.insert(*address, port.to_owned());
        }
        let joined = self.joined.entry(port.to_owned()).or_default();
        joined.insert(group.to_owned(), addresses);
    }

    /// A port is no member of a group any more.
    fn leave(&mut self, port: &str, group: &str) {
        let Some(joined) = self.joined.get_mut(port) else {
            return;
        };
        let addresses = joined.remove(group).unwrap_or_default();
        if joined.is_empty() {
            self.joined.remove(port);
        }
        let Some(members) = self.model.members.get_mut(group) else {
            return;
        };
        for address in addresses {
            // Somebody else may have got it meanwhile.
            if members.get(&address).is_some_and(|owner| owner == port) {
                members.remove(&address);
            }
        }
    }
}

fn ids_of(delta: &HostDelta) -> impl Iterator<Item = &str> {
    let here = delta.ports.iter().map(|port| port.id.as_str());
    here.chain(delta.remote_ports.iter().map(|port| port.port_id.as_str()))
}

fn tells_ports(members: &GroupMembers) -> bool {
    members.port_ids.len() == members.addresses.len()
}
