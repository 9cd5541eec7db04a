//! Ports for programs of a test's own.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, anyhow};

/// Ports that were given away: their programs may not listen yet.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Ports on loopback that are free just now and were never given to another
/// test of this process, below those that the system hands out by itself, so
/// that nobody's outgoing connection takes one before its program does.
///
/// # Errors
/// If there are too few.
pub fn free<const N: usize>() -> Result<[u16; N]> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut ports = Vec::with_capacity(N);
    for _ in 0..1000 {
        if ports.len() == N {
            break;
        }
        let chance = RandomState::new().build_hasher().finish();
        let port = 10_000 + u16::try_from(chance % 22_000)?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && given.insert(port) {
            ports.push(port);
        }
    }
    ports
        .try_into()
        .map_err(|_| anyhow!("there are no free ports"))
}
