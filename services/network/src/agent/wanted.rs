//! What a host should be like, beside how far it was made so.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use yakumo_contracts::network::HostDelta;

use super::desired::Desired;

/// What should be.
pub(super) struct Wanted {
    pub(super) desired: Desired,
    /// When everything was pulled last; not yet, if it comes from the disk.
    pub(super) pulled: Option<Duration>,
    /// Whether it is on the disk and was tried to be made real.
    pub(super) saved: bool,
    /// What differs from what was made real last.
    pub(super) stale: Stale,
    /// Addresses that may be in use here although they should not be.
    pub(super) departed: BTreeSet<Ipv4Addr>,
    /// Whether ports went since something was made real last.
    pub(super) gone: bool,
}

/// Of which ports the last thing that was made real says nothing.
pub(super) enum Stale {
    All,
    Ports(BTreeSet<String>),
}

impl Wanted {
    pub(super) fn new(desired: Desired) -> Self {
        Self {
            desired,
            pulled: None,
            saved: false,
            stale: Stale::All,
            departed: BTreeSet::new(),
            gone: false,
        }
    }

    /// Everything is new.
    pub(super) fn replace(&mut self, desired: Desired) {
        self.departed.extend(self.desired.addresses());
        self.departed
            .retain(|address| !desired.has_address(address));
        self.desired = desired;
        self.saved = false;
        self.stale = Stale::All;
    }

    /// Takes a change that was found to fit.
    pub(super) fn change(&mut self, delta: HostDelta) -> anyhow::Result<()> {
        let changed = self.desired.change(delta)?;
        self.gone |= changed.gone;
        let gone = changed.addresses.into_iter();
        self.departed
            .extend(gone.filter(|address| !self.desired.has_address(address)));
        let model = self.desired.model();
        for port in changed.ports.iter().filter_map(|id| model.ports.get(id)) {
            for (_, address) in &port.fixed {
                self.departed.remove(address);
            }
        }
        if let Stale::Ports(ports) = &mut self.stale {
            ports.extend(changed.ports);
        }
        self.saved = false;
        Ok(())
    }
}
