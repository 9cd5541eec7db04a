//! The users: what they asked for, what they were told, and whether it is so.
//! They outlive every process.
//!
//! A user asks for a server under a key until there is an answer. Of a server
//! whose id they were told, users ask for one change of power at a time, so
//! that what they were told last is what was accepted last.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use yakumo_types::{Fault, IdempotencyKey, ProjectId, RequestContext, RequestId, ServerId, UserId};

use crate::world::lock;

const USERS: usize = 2;

/// Every server that ever was, whose it is, and what became of it.
pub const EVERY_SERVER: &str = "SELECT id, user_id, name, vm_state, COALESCE(fault, ''), \
             deleted_at FROM server ORDER BY id";

/// What is said of servers that hosts or workflows have lost. None of these
/// loses one.
const GIVEN_UP: [&str; 2] = ["its disk is lost", "being done to the server was lost"];

/// A change of power that a user may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Start,
    Stop,
    /// The plug is pulled and put in again.
    Reboot,
}

/// Where a server is to end, as far as its user can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    On,
    Off,
    /// An answer was lost.
    Either,
}

/// What an order came to, as its user was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Made(ServerId),
    /// It was made, and is deleted.
    Gone,
}

struct Known {
    id: ServerId,
    outlook: Outlook,
    /// A change of power is asked for and not answered.
    asking: bool,
}

/// What users know.
#[derive(Default)]
pub struct Users {
    orders: BTreeMap<usize, Option<Answer>>,
    /// In the order in which users heard of them.
    known: Vec<Known>,
    /// Answers that should not be.
    complaints: Vec<String>,
}

/// A change of power that is being asked for. Dropped without an answer, it may
/// or may not have been accepted.
pub struct Asking {
    users: Arc<Mutex<Users>>,
    id: ServerId,
}

/// Whose an order is.
pub fn owner(order: usize) -> RequestContext {
    let user = u128::try_from(order % USERS).unwrap_or(0);
    RequestContext {
        user_id: UserId::from_uuid(uuid::Uuid::from_u128(100 + user)),
        project_id: Some(ProjectId::from_uuid(uuid::Uuid::from_u128(7))),
        ..RequestContext::internal(RequestId::from_uuid(uuid::Uuid::nil()))
    }
}

/// What an order's server is called; no other one is.
pub fn name(order: usize) -> String {
    format!("server-{order}")
}

/// An order's key. Users count alike, so that each key is several users'.
pub fn key(order: usize) -> IdempotencyKey {
    IdempotencyKey {
        key: format!("order-{}", order / USERS),
        digest: format!("{order:064x}"),
    }
}

impl Users {
    /// A user has asked for a server.
    pub fn order(&mut self, order: usize) {
        self.orders.entry(order).or_default();
    }

    /// Orders that have no answer.
    pub fn unanswered(&self) -> Vec<usize> {
        let open = self.orders.iter().filter(|(_, answer)| answer.is_none());
        open.map(|(order, _)| *order).collect()
    }

    /// Servers that users know of, deleted or not.
    pub fn servers(&self) -> Vec<ServerId> {
        self.known.iter().map(|known| known.id).collect()
    }

    /// Those of them about which no answer is being waited for.
    pub fn idle_servers(&self) -> Vec<ServerId> {
        let idle = self.known.iter().filter(|known| !known.asking);
        idle.map(|known| known.id).collect()
    }

    /// An order was answered.
    pub fn told(&mut self, order: usize, outcome: Result<ServerId, Fault>) {
        let answer = match outcome {
            Ok(id) => Answer::Made(id),
            Err(fault) if is_lost(&fault) => return,
            Err(fault) if fault.type_name() == Some("IdempotencyKeyGone") => Answer::Gone,
            Err(fault) => {
                let complaint = format!("{} was refused: {fault}", name(order));
                self.complaints.push(complaint);
                return;
            }
        };
        if let Answer::Made(id) = answer
            && self.known.iter().all(|known| known.id != id)
        {
            self.known.push(Known {
                id,
                outlook: Outlook::On,
                asking: false,
            });
        }
        let before = self.orders.entry(order).or_default();
        match (*before, answer) {
            (Some(Answer::Made(first)), Answer::Made(second)) if first != second => {
                let complaint = format!("one key was answered with {first} and {second}");
                self.complaints.push(complaint);
            }
            // Two requests were under way, and this one was the slower.
            (Some(Answer::Made(_)), Answer::Gone) => {}
            _ => *before = Some(answer),
        }
    }

    /// What is not as users were told, by what [`EVERY_SERVER`] finds.
    pub fn check(&self, rows: &[Vec<String>], violations: &mut Vec<String>) {
        violations.extend(self.complaints.iter().cloned());
        let mut found = BTreeMap::new();
        let mut made: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for row in rows {
            let [id, user, name, vm, fault, deleted] = row.as_slice() else {
                continue;
            };
            *made.entry((user.as_str(), name.as_str())).or_default() += 1;
            if GIVEN_UP.iter().any(|words| fault.contains(words)) {
                violations.push(format!("given up as lost: {row:?}"));
            }
            found.insert(id.clone(), (user, name, vm, fault, deleted));
        }
        for ((user, name), count) in made {
            if count > 1 {
                violations.push(format!("one key made {count} servers: {user}, {name}"));
            }
        }
        for (order, answer) in &self.orders {
            let whose = owner(*order).user_id.to_string();
            let its_own = |id: &str| {
                let row = found.get(id);
                row.is_some_and(|(user, called, ..)| **user == whose && **called == name(*order))
            };
            match answer {
                None => violations.push(format!("{} was never answered", name(*order))),
                Some(Answer::Made(id)) if !its_own(&id.to_string()) => {
                    violations.push(format!("the answer to {} was {id}", name(*order)));
                }
                Some(Answer::Made(_)) => {}
                Some(Answer::Gone) => {
                    let gone = found
                        .iter()
                        .any(|(id, (.., deleted))| its_own(id) && *deleted != "0");
                    if !gone {
                        violations.push(format!("{} was said to be gone", name(*order)));
                    }
                }
            }
        }
        for known in &self.known {
            if known.asking {
                violations.push(format!("a user waits for an answer about {}", known.id));
            }
            // What is missing was found above.
            let Some((_, _, vm, fault, deleted)) = found.get(&known.id.to_string()) else {
                continue;
            };
            if *deleted != "0" || !fault.is_empty() {
                continue;
            }
            match (known.outlook, vm.as_str()) {
                (Outlook::Either, _) | (Outlook::On, "active") | (Outlook::Off, "stopped") => {}
                (outlook, vm) => violations.push(format!(
                    "its user was told that it would be {outlook:?}, and it is {vm}: {}",
                    known.id
                )),
            }
        }
    }

    fn known_mut(&mut self, id: ServerId) -> Option<&mut Known> {
        self.known.iter_mut().find(|known| known.id == id)
    }
}

/// Whether an answer says nothing of whether it was done, or to ask again.
fn is_lost(fault: &Fault) -> bool {
    fault.code.is_transient() || fault.type_name() == Some("IdempotencyKeyInFlight")
}

impl Asking {
    /// Begins to ask.
    pub fn of(users: &Arc<Mutex<Users>>, id: ServerId) -> Self {
        if let Some(known) = lock(users).known_mut(id) {
            known.asking = true;
        }
        Self {
            users: Arc::clone(users),
            id,
        }
    }

    /// It was answered, and leads there if it was accepted.
    pub fn told(self, outcome: &Result<(), Fault>, outlook: Outlook) {
        if let Some(known) = lock(&self.users).known_mut(self.id) {
            known.asking = false;
            match outcome {
                Ok(()) => known.outlook = outlook,
                Err(fault) if is_lost(fault) => known.outlook = Outlook::Either,
                // Refused: nothing has changed.
                Err(_) => {}
            }
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(known) = lock(&self.users).known_mut(self.id)
            && known.asking
        {
            known.asking = false;
            known.outlook = Outlook::Either;
        }
    }
}
