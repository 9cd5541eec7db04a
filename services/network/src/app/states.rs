//! States that are too large for one message, while their hosts read them: each
//! is read from the tables and encoded once, and not for each part. Nothing
//! depends on what is here: what is missing is made anew.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// How many are kept; the oldest goes first.
const MOST: usize = 16;

struct Kept {
    host: String,
    revision: u64,
    tag: Vec<u8>,
    delta: bool,
    bytes: Bytes,
}

/// The states that hosts are just reading; one for each host.
#[derive(Default)]
pub struct States(Mutex<VecDeque<Kept>>);

impl States {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        // Each entry is whole or not there.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a state, or what became of one, for the parts that follow.
    pub fn keep(&self, host: &str, revision: u64, tag: &[u8], delta: bool, bytes: Bytes) {
        let mut kept = self.lock();
        kept.retain(|one| one.host != host);
        if kept.len() >= MOST {
            kept.pop_front();
        }
        kept.push_back(Kept {
            host: host.to_owned(),
            revision,
            tag: tag.to_vec(),
            delta,
            bytes,
        });
    }

    /// The very one that a host has read the beginning of, and whether it is what
    /// became of a state.
    pub fn find(&self, host: &str, revision: u64, tag: &[u8]) -> Option<(bool, Bytes)> {
        self.lock()
            .iter()
            .find(|one| one.host == host && one.revision == revision && one.tag == tag)
            .map(|one| (one.delta, one.bytes.clone()))
    }

    /// The host has all of it.
    pub fn forget(&self, host: &str) {
        self.lock().retain(|one| one.host != host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_found_by_its_host_revision_and_tag_until_it_was_read() {
        let states = States::default();
        states.keep("a", 1, b"x", true, Bytes::from_static(b"one"));
        states.keep("b", 1, b"x", false, Bytes::from_static(b"other"));
        let one = (true, Bytes::from_static(b"one"));
        assert_eq!(states.find("a", 1, b"x").unwrap(), one);
        assert_eq!(states.find("a", 2, b"x"), None);
        assert_eq!(states.find("a", 1, b"y"), None);
        states.keep("a", 2, b"y", false, Bytes::from_static(b"two"));
        assert_eq!(states.find("a", 1, b"x"), None);
        states.forget("a");
        assert_eq!(states.find("a", 2, b"y"), None);
        assert!(states.find("b", 1, b"x").is_some());
    }

    #[test]
    fn only_so_many_are_kept() {
        let states = States::default();
        for number in 0..=MOST {
            states.keep(&number.to_string(), 1, b"x", false, Bytes::new());
        }
        assert_eq!(states.find("0", 1, b"x"), None);
        assert!(states.find("1", 1, b"x").is_some());
    }
}
