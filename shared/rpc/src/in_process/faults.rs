//! How the in-process bus misbehaves when it is told to.

use std::sync::Arc;
use std::time::Duration;

use yakumo_types::Env;

use super::InProcess;
use super::queue::{Message, Queue, call_queue, cast_queue, lock};
use crate::address::Topic;

/// What happens to messages by chance, each in thousandths.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Vanish.
    pub lose: u16,
    /// Arrive twice.
    pub duplicate: u16,
    /// Arrive late, by up to `delay_limit`, and so out of order.
    pub delay: u16,
    /// The reply vanishes, although the method ran.
    pub lose_replies: u16,
    /// The reply arrives late, by up to `delay_limit`.
    pub delay_replies: u16,
    /// The longest delay.
    pub delay_limit: Duration,
}

#[derive(Default)]
pub(super) struct FaultState {
    chance: Faults,
    lose_next: usize,
    pub lose_replies: usize,
    duplicate_next: usize,
    delay_next: usize,
    delay_by: Duration,
    reorder_next: usize,
    held: Vec<(Arc<Queue>, Message)>,
    pub blocked: bool,
}

/// Makes an in-process bus misbehave.
#[derive(Clone)]
pub struct InProcessControl {
    transport: Arc<InProcess>,
}

impl InProcessControl {
    pub(crate) fn new(transport: Arc<InProcess>) -> Self {
        Self { transport }
    }

    /// Faults by chance, until told otherwise.
    pub fn set(&self, faults: Faults) {
        lock(&self.transport.faults).chance = faults;
    }

    /// The next `count` messages vanish.
    pub fn lose_next(&self, count: usize) {
        lock(&self.transport.faults).lose_next = count;
    }

    /// The next `count` replies vanish.
    pub fn lose_next_replies(&self, count: usize) {
        lock(&self.transport.faults).lose_replies = count;
    }

    /// The next `count` messages arrive twice.
    pub fn duplicate_next(&self, count: usize) {
        lock(&self.transport.faults).duplicate_next = count;
    }

    /// The next `count` messages arrive later by `delay`.
    pub fn delay_next(&self, count: usize, delay: Duration) {
        let mut faults = lock(&self.transport.faults);
        faults.delay_next = count;
        faults.delay_by = delay;
    }

    /// The next `count` messages are held back and arrive last one first.
    pub fn reorder_next(&self, count: usize) {
        lock(&self.transport.faults).reorder_next = count;
    }

    /// Whether the bus refuses everything, as a blocked broker does.
    pub fn block(&self, blocked: bool) {
        lock(&self.transport.faults).blocked = blocked;
    }

    /// How many messages wait for a topic.
    pub fn waiting(&self, topic: &Topic) -> usize {
        let names = [cast_queue(topic), call_queue(topic)];
        let queues = lock(&self.transport.queues);
        let mut waiting = queues.get(&names[0]).map_or(0, |queue| queue.len());
        if names[0] != names[1] {
            waiting += queues.get(&names[1]).map_or(0, |queue| queue.len());
        }
        waiting
    }
}

impl FaultState {
    /// What becomes of the next message.
    pub fn fate(&mut self, env: &Env) -> Fate {
        fn take(count: &mut usize) -> bool {
            let taken = *count > 0;
            *count = count.saturating_sub(1);
            taken
        }
        if take(&mut self.lose_next) {
            return Fate::Vanish;
        }
        if take(&mut self.duplicate_next) {
            return Fate::Twice;
        }
        if take(&mut self.delay_next) {
            return Fate::Late(self.delay_by);
        }
        if self.reorder_next > 0 {
            return Fate::Hold;
        }
        self.by_chance(env)
    }

    fn by_chance(&self, env: &Env) -> Fate {
        let chance = &self.chance;
        let total = chance.lose + chance.duplicate + chance.delay;
        if total == 0 {
            return Fate::Arrive;
        }
        let drawn = u16::try_from(env.rng.below(1000)).unwrap_or(0);
        if drawn < chance.lose {
            Fate::Vanish
        } else if drawn < chance.lose + chance.duplicate {
            Fate::Twice
        } else if drawn < total {
            Fate::Late(env.rng.within(chance.delay_limit))
        } else {
            Fate::Arrive
        }
    }

    /// What becomes of the next reply; it is never repeated.
    pub fn fate_of_reply(&mut self, env: &Env) -> Fate {
        if self.lose_replies > 0 {
            self.lose_replies -= 1;
            return Fate::Vanish;
        }
        let of_replies = Self {
            chance: Faults {
                lose: self.chance.lose_replies,
                duplicate: 0,
                delay: self.chance.delay_replies,
                ..self.chance.clone()
            },
            ..Self::default()
        };
        of_replies.by_chance(env)
    }

    /// Keeps a message until as many are kept as were asked for, and then
    /// gives all of them, last one first.
    pub fn hold(&mut self, queue: &Arc<Queue>, message: Message) -> Vec<(Arc<Queue>, Message)> {
        self.held.push((queue.clone(), message));
        self.reorder_next = self.reorder_next.saturating_sub(1);
        if self.reorder_next > 0 {
            return Vec::new();
        }
        let mut held = std::mem::take(&mut self.held);
        held.reverse();
        held
    }
}

/// What becomes of a message.
pub(super) enum Fate {
    Arrive,
    Vanish,
    Twice,
    Late(Duration),
    Hold,
}
