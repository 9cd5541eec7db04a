//! What a host has, what of it is promised, and to whom.
//!
//! The ledger is the last word on capacity: a scheduler proposes, the host's
//! own durable claims decide. It holds sums in memory; each claim lives in its
//! server's record, and the ledger is rebuilt from the records at start.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use yakumo_contracts::compute_host::{ClaimServerReply, Resources};
use yakumo_types::{Fault, ServerId};

/// How often a resource may be promised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratios {
    /// Guests' vCPUs for each of the host's.
    pub cpu: f64,
    /// Guests' memory for each MiB of the host's.
    pub memory: f64,
    /// Guests' disk for each GiB of the host's.
    pub disk: f64,
}

/// An amount of each resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Amount {
    /// Virtual CPUs.
    pub vcpus: u64,
    /// MiB of memory.
    pub memory_mib: u64,
    /// GiB of disk.
    pub disk_gib: u64,
}

impl Amount {
    fn plus(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_add(other.vcpus),
            memory_mib: self.memory_mib.saturating_add(other.memory_mib),
            disk_gib: self.disk_gib.saturating_add(other.disk_gib),
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_sub(other.vcpus),
            memory_mib: self.memory_mib.saturating_sub(other.memory_mib),
            disk_gib: self.disk_gib.saturating_sub(other.disk_gib),
        }
    }

    /// Whether `other` fits into this in every resource.
    pub fn covers(self, other: Self) -> bool {
        self.vcpus >= other.vcpus
            && self.memory_mib >= other.memory_mib
            && self.disk_gib >= other.disk_gib
    }
}

impl From<&Resources> for Amount {
    fn from(resources: &Resources) -> Self {
        Self {
            vcpus: u64::from(resources.vcpus),
            memory_mib: resources.memory_mib,
            disk_gib: resources.disk_gib,
        }
    }
}

impl From<Amount> for Resources {
    fn from(amount: Amount) -> Self {
        Self {
            vcpus: u32::try_from(amount.vcpus).unwrap_or(u32::MAX),
            memory_mib: amount.memory_mib,
            disk_gib: amount.disk_gib,
        }
    }
}

#[derive(Default)]
struct Books {
    total: Amount,
    claimed: Amount,
    claims: HashMap<ServerId, Amount>,
}

/// The claims of one host.
pub struct Ledger {
    ratios: Ratios,
    books: Mutex<Books>,
}

impl Ledger {
    /// A host with `total` to give (what is reserved for the host itself is
    /// taken off already).
    pub fn new(total: Amount, ratios: Ratios) -> Self {
        Self {
            ratios,
            books: Mutex::new(Books {
                total,
                ..Books::default()
            }),
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // Each change below leaves the books whole at every point.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host was measured anew. Claims that no longer fit are kept.
    pub fn set_total(&self, total: Amount) {
        self.books().total = total;
    }

    /// Enters a claim from a record, whether it fits or not: it was promised.
    pub fn restore(&self, server: ServerId, amount: Amount) {
        enter(&mut self.books(), server, amount);
    }

    /// Promises `amount` to `server` instead of what it had, and returns what
    /// it had; `Conflict` with the host's true state when it does not fit.
    pub fn claim(&self, server: ServerId, amount: Amount) -> Result<Option<Amount>, Fault> {
        let mut books = self.books();
        let before = books.claims.get(&server).copied();
        let others = books.claimed.minus(before.unwrap_or_default());
        let limit = limit(books.total, self.ratios);
        let wanted = others.plus(amount);
        let shrinks = before.is_some_and(|before| before.covers(amount));
        if !limit.covers(wanted) && !shrinks {
            return Err(refusal(books.total, others, limit, amount));
        }
        enter(&mut books, server, amount);
        Ok(before)
    }

    /// Puts back what `claim` replaced, when the claim could not be written.
    pub fn roll_back(&self, server: ServerId, before: Option<Amount>) {
        match before {
            Some(amount) => self.restore(server, amount),
            None => self.release(server),
        }
    }

    /// Frees what the server has.
    pub fn release(&self, server: ServerId) {
        let mut books = self.books();
        if let Some(amount) = books.claims.remove(&server) {
            books.claimed = books.claimed.minus(amount);
        }
    }

    /// What the host has and what of it is promised.
    pub fn state(&self) -> (Amount, Amount) {
        let books = self.books();
        (books.total, books.claimed)
    }

    /// The same, as the contract says it.
    pub fn reply(&self) -> ClaimServerReply {
        let (total, claimed) = self.state();
        ClaimServerReply {
            total: Some(total.into()),
            claimed: Some(claimed.into()),
        }
    }
}

fn enter(books: &mut Books, server: ServerId, amount: Amount) {
    let before = books.claims.insert(server, amount).unwrap_or_default();
    books.claimed = books.claimed.minus(before).plus(amount);
}

// A ratio is a small positive number and a total far below 2^52: exact enough.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
fn limit(total: Amount, ratios: Ratios) -> Amount {
    let scale = |amount: u64, ratio: f64| (amount as f64 * ratio.max(0.0)) as u64;
    Amount {
        vcpus: scale(total.vcpus, ratios.cpu),
        memory_mib: scale(total.memory_mib, ratios.memory),
        disk_gib: scale(total.disk_gib, ratios.disk),
    }
}

fn refusal(total: Amount, claimed: Amount, limit: Amount, wanted: Amount) -> Fault {
    let free = limit.minus(claimed);
    let mut lacking = Vec::new();
    if wanted.vcpus > free.vcpus {
        lacking.push(format!(
            "{} vCPUs wanted, {} free",
            wanted.vcpus, free.vcpus
        ));
    }
    if wanted.memory_mib > free.memory_mib {
        lacking.push(format!(
            "{} MiB of memory wanted, {} free",
            wanted.memory_mib, free.memory_mib
        ));
    }
    if wanted.disk_gib > free.disk_gib {
        lacking.push(format!(
            "{} GiB of disk wanted, {} free",
            wanted.disk_gib, free.disk_gib
        ));
    }
    Fault::conflict(format!(
        "The host has not enough left: {}.",
        lacking.join("; ")
    ))
    .with_details(serde_json::json!({
        "type": "ClaimRefused",
        "total": total,
        "claimed": claimed,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use yakumo_types::FaultCode;

    fn ledger() -> Ledger {
        Ledger::new(
            amount(2, 4096, 40),
            Ratios {
                cpu: 4.0,
                memory: 1.0,
                disk: 1.0,
            },
        )
    }

    fn amount(vcpus: u64, memory_mib: u64, disk_gib: u64) -> Amount {
        Amount {
            vcpus,
            memory_mib,
            disk_gib,
        }
    }

    fn server(number: u128) -> ServerId {
        ServerId::from_uuid(uuid_of(number))
    }

    fn uuid_of(number: u128) -> uuid::Uuid {
        uuid::Uuid::from_u128(number)
    }

    #[test]
    fn a_claim_that_does_not_fit_is_refused_with_the_true_state() {
        let ledger = ledger();
        ledger.claim(server(1), amount(8, 1024, 10)).unwrap();
        let fault = ledger.claim(server(2), amount(1, 4096, 10)).unwrap_err();
        assert_eq!(fault.code, FaultCode::Conflict);
        assert_eq!(
            fault.message,
            "The host has not enough left: 1 vCPUs wanted, 0 free; 4096 MiB of memory wanted, 3072 free."
        );
        assert_eq!(fault.details.unwrap()["claimed"]["memory_mib"], 1024);
        assert_eq!(ledger.state().1, amount(8, 1024, 10));
    }

    #[test]
    fn a_claim_replaces_the_servers_own_and_can_be_rolled_back() {
        let ledger = ledger();
        ledger.claim(server(1), amount(1, 4096, 10)).unwrap();
        let before = ledger.claim(server(1), amount(2, 2048, 10)).unwrap();
        assert_eq!(ledger.state().1, amount(2, 2048, 10));
        ledger.roll_back(server(1), before);
        assert_eq!(ledger.state().1, amount(1, 4096, 10));
        ledger.release(server(1));
        ledger.release(server(1));
        assert_eq!(ledger.state().1, Amount::default());
    }

    #[test]
    fn a_host_that_shrank_keeps_its_promises() {
        let ledger = ledger();
        ledger.claim(server(1), amount(1, 4096, 10)).unwrap();
        ledger.set_total(amount(2, 1024, 40));
        assert!(ledger.claim(server(2), amount(1, 1, 1)).is_err());
        assert!(ledger.claim(server(1), amount(1, 2048, 10)).is_ok());
    }
}
