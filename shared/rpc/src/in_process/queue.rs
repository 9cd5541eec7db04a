//! A queue in memory.

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::address::Topic;
use crate::transport::Outgoing;

#[derive(Clone)]
pub(super) struct Message {
    pub outgoing: Arc<Outgoing>,
    /// By the monotonic clock.
    pub expires: Option<Duration>,
    pub failures: u32,
    pub redelivered: bool,
}

impl Message {
    fn bytes(&self) -> usize {
        self.outgoing.envelope.payload.len()
    }
}

/// What a queue takes before it refuses more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Capacity {
    pub messages: usize,
    pub bytes: usize,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Message>,
    bytes: usize,
}

/// A queue: the semaphore counts what waits in it.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    ready: Semaphore,
    pub consumers: AtomicUsize,
    capacity: Capacity,
}

impl Queue {
    pub fn new(capacity: Capacity) -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::default(),
            ready: Semaphore::new(0),
            consumers: AtomicUsize::new(0),
            capacity,
        })
    }

    pub fn len(&self) -> usize {
        lock(&self.waiting).messages.len()
    }

    pub fn push(&self, message: Message) -> bool {
        {
            let mut waiting = lock(&self.waiting);
            let bytes = waiting.bytes.saturating_add(message.bytes());
            let full = waiting.messages.len() >= self.capacity.messages;
            if full || bytes > self.capacity.bytes {
                return false;
            }
            waiting.bytes = bytes;
            waiting.messages.push_back(message);
        }
        self.ready.add_permits(1);
        true
    }

    /// Puts back what was taken out; this never fails for want of room.
    pub fn put_back(&self, message: Message) {
        {
            let mut waiting = lock(&self.waiting);
            waiting.bytes = waiting.bytes.saturating_add(message.bytes());
            waiting.messages.push_front(message);
        }
        self.ready.add_permits(1);
    }

    pub async fn pop(&self) -> Option<Message> {
        self.ready.acquire().await.ok()?.forget();
        let mut waiting = lock(&self.waiting);
        let message = waiting.messages.pop_front()?;
        waiting.bytes = waiting.bytes.saturating_sub(message.bytes());
        Some(message)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds one of these locks can leave it half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn cast_queue(topic: &Topic) -> String {
    topic.name()
}

/// A control service takes calls from a queue of their own, so that they don't
/// wait behind casts.
pub(super) fn call_queue(topic: &Topic) -> String {
    match topic {
        Topic::Control(name) => format!("{name}/calls"),
        Topic::Host(_) => topic.name(),
    }
}
