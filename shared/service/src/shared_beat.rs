//! One sign of life for all agents of a host: the one that is heard most says
//! along with its own that the others live, and the control plane passes it on.
//!
//! Each agent still speaks for itself: what is silent here is not said to live.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// See the module; a cheap handle.
#[derive(Debug, Clone, Default)]
pub struct SharedBeat(Arc<State>);

#[derive(Debug, Default)]
struct State {
    carried: AtomicBool,
    network: AtomicBool,
    storage: Mutex<Option<Storage>>,
}

/// What a storage agent says of its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// Room that is left for volumes, in GiB.
    pub free_gib: u64,
    /// All room, in GiB.
    pub total_gib: u64,
    /// Where it is.
    pub availability_zone: String,
    /// Whether servers on other hosts can reach its volumes.
    pub reachable_everywhere: bool,
}

/// Who said that it lives since this was asked last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lives {
    /// The network agent.
    pub network: bool,
    /// The storage agent, and what it says of its host.
    pub storage: Option<Storage>,
}

impl SharedBeat {
    /// Says whether the control plane passes on what is said along.
    pub fn carry(&self, carried: bool) {
        self.0.carried.store(carried, Ordering::Release);
    }

    /// The network agent lives. False if it has to say so by itself.
    #[must_use]
    pub fn network(&self) -> bool {
        let carried = self.0.carried.load(Ordering::Acquire);
        self.0.network.store(carried, Ordering::Release);
        carried
    }

    /// The storage agent lives. False if it has to say so by itself.
    #[must_use]
    pub fn storage(&self, facts: Storage) -> bool {
        let carried = self.0.carried.load(Ordering::Acquire);
        *self.lock() = carried.then_some(facts);
        carried
    }

    /// What is to be said along with the next sign of life.
    pub fn take(&self) -> Lives {
        Lives {
            network: self.0.network.swap(false, Ordering::AcqRel),
            storage: self.lock().take(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Storage>> {
        self.0
            .storage
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lives_is_said_once_and_by_itself_where_nobody_carries_it() {
        let beat = SharedBeat::default();
        let facts = Storage {
            free_gib: 3,
            total_gib: 7,
            availability_zone: "nova".into(),
            reachable_everywhere: false,
        };
        assert!(!beat.network() && !beat.storage(facts.clone()));
        assert_eq!(beat.take(), Lives::default());
        beat.carry(true);
        assert!(beat.network() && beat.storage(facts.clone()));
        let both = Lives {
            network: true,
            storage: Some(facts),
        };
        assert_eq!(beat.take(), both);
        assert_eq!(beat.take(), Lives::default());
        beat.carry(false);
        assert!(!beat.network());
        assert_eq!(beat.take(), Lives::default());
    }
}
