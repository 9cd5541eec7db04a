//! What a host is like, and what the service knows of that.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use super::model::Model;

/// What the host is like now, and what the service has heard of that from this
/// process.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// Ports whose taps exist and are filtered.
    pub(super) wired: HashSet<String>,
    /// Networks that lack something.
    pub(super) broken: BTreeSet<String>,
    /// Wired ports that the service has heard of, and whether anything might
    /// pass: it calls them active when they are said to be wired after that has
    /// changed.
    pub(super) told: HashMap<String, bool>,
    /// Those that it has yet to hear of.
    pub(super) untold: BTreeMap<String, bool>,
    /// Up to here nothing is left of what should be gone.
    pub(super) cleared: u64,
    /// What was heard of that.
    pub(super) told_cleared: u64,
    /// When the service last heard anything.
    pub(super) told_at: Option<Duration>,
    /// Whether that must not wait: something may have gone, or all is to be said.
    pub(super) urgent: bool,
}

impl Live {
    /// Notes what a port is like, now that the model is real.
    pub(super) fn settle(&mut self, model: &Model, id: &str) {
        let port = model.ports.get(id);
        let Some(port) = port.filter(|port| !self.broken.contains(&port.network)) else {
            self.wired.remove(id);
            self.told.remove(id);
            self.untold.remove(id);
            return;
        };
        self.wired.insert(id.to_owned());
        if self.told.get(id) == Some(&port.up) {
            self.untold.remove(id);
        } else {
            self.untold.insert(id.to_owned(), port.up);
        }
    }

    pub(super) fn settle_all(&mut self, model: &Model) {
        self.wired.retain(|id| model.ports.contains_key(id));
        self.told.retain(|id, _| model.ports.contains_key(id));
        self.untold.retain(|id, _| model.ports.contains_key(id));
        for id in model.ports.keys() {
            self.settle(model, id);
        }
        self.urgent |= self.owes();
    }

    /// Whether the service has something to hear.
    pub(super) fn owes(&self) -> bool {
        self.urgent || self.told_cleared != self.cleared || !self.untold.is_empty()
    }
}
