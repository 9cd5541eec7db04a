//! Time: it stands still until the world lets the next timer ring.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::future::BoxFuture;
use yakumo_types::{Clock, Timestamp};

use super::chance::Chance;
use super::lock;

/// The time of day at which every world begins: 2030-01-01.
const BEGINNING: Timestamp = Timestamp::from_secs(1_893_456_000);

/// Timers for the same moment ring in an order that is drawn.
type Key = (Duration, u64, u64);

pub(super) struct Timers {
    chance: Chance,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    now: Duration,
    count: u64,
    waiting: BinaryHeap<Reverse<Entry>>,
}

struct Entry {
    key: Key,
    /// Empty when nobody waits any more.
    waker: Slot,
}

type Slot = Arc<Mutex<Option<Waker>>>;

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

impl Timers {
    pub(super) fn new(chance: Chance) -> Self {
        Self {
            chance,
            state: Mutex::default(),
        }
    }

    pub(super) fn now(&self) -> Duration {
        lock(&self.state).now
    }

    fn wait(&self, at: Duration, waker: Slot) {
        let tie = self.chance.next();
        let mut state = lock(&self.state);
        state.count += 1;
        let key = (at, tie, state.count);
        state.waiting.push(Reverse(Entry { key, waker }));
    }

    /// Time stops at `at` in any case, also where nobody waits.
    pub(super) fn touch_at(&self, at: Duration) {
        self.wait(at, Slot::default());
    }

    /// Lets the next timer ring that is due at `until` or before; false if
    /// there is none.
    pub(super) fn ring_next(&self, until: Duration) -> bool {
        let slot = {
            let mut state = lock(&self.state);
            match state.waiting.peek() {
                Some(Reverse(next)) if next.key.0 <= until => {}
                _ => return false,
            }
            let Some(Reverse(next)) = state.waiting.pop() else {
                return false;
            };
            state.now = state.now.max(next.key.0);
            next.waker
        };
        let waker = lock(&slot).take();
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }
}

/// The clock of every process of a world.
pub(super) struct SimulatedClock(pub Arc<Timers>);

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        BEGINNING.plus(self.0.now())
    }

    fn monotonic(&self) -> Duration {
        self.0.now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(Sleep {
            at: self.0.now().saturating_add(duration),
            timers: Arc::clone(&self.0),
            slot: None,
        })
    }
}

struct Sleep {
    timers: Arc<Timers>,
    at: Duration,
    slot: Option<Slot>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.timers.now() >= self.at {
            return Poll::Ready(());
        }
        let waker = Some(context.waker().clone());
        match &self.slot {
            Some(slot) => *lock(slot) = waker,
            None => {
                let slot = Slot::new(Mutex::new(waker));
                self.timers.wait(self.at, Arc::clone(&slot));
                self.slot = Some(slot);
            }
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(slot) = &self.slot {
            // The waker may be the last that holds its task: not under the lock.
            let waker = lock(slot).take();
            drop(waker);
        }
    }
}
