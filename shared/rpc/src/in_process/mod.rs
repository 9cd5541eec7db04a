//! The bus within one process: queues in memory, laid out as on the broker
//! (one for calls and one for casts of a control service, one for each host,
//! one for each listener of a fanout). It forgets everything when the process
//! ends, and can be told to lose, repeat, delay and reorder what it carries.

mod faults;
mod queue;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use dashmap::DashMap;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;
use uuid::Uuid;
use yakumo_types::{Env, Timestamp};

use self::faults::{Fate, FaultState};
pub use self::faults::{Faults, InProcessControl};
use self::queue::{Capacity, Message, Queue, call_queue, cast_queue, lock};
use crate::address::{Kind, Principal, Topic};
use crate::bus::BusHealth;
use crate::dispatch::{Delivery, Dispatcher, Verdict};
use crate::envelope::Reply;
use crate::error::RpcError;
use crate::parked::ParkedMessage;
use crate::server::Server;
use crate::transport::{Outgoing, Transport};

/// How an in-process bus behaves.
#[derive(Debug, Clone)]
pub struct InProcessOptions {
    /// How many messages may wait for a control service.
    pub control_capacity: usize,
    /// How many messages may wait for one host.
    pub host_capacity: usize,
    /// How many bytes their payloads may have in one queue, whoever it is for.
    pub queue_bytes: usize,
    /// Whether contexts are sealed and opened although they never leave the
    /// process; costs a signature for each message.
    pub seal_contexts: bool,
}

impl Default for InProcessOptions {
    fn default() -> Self {
        Self {
            control_capacity: 100_000,
            host_capacity: 10_000,
            queue_bytes: 64 << 20,
            seal_contexts: false,
        }
    }
}

pub(crate) struct InProcess {
    env: Env,
    options: InProcessOptions,
    queues: Mutex<HashMap<String, Arc<Queue>>>,
    /// Listeners of each topic's fanouts.
    listeners: Mutex<HashMap<String, Vec<Arc<Queue>>>>,
    pending: DashMap<Uuid, oneshot::Sender<Reply>>,
    parked: Mutex<VecDeque<Parked>>,
    faults: Mutex<FaultState>,
    closed: CancellationToken,
}

struct Parked {
    message: Message,
    reason: String,
    at: Timestamp,
}

/// As many parked messages as are kept; the oldest go first.
const PARKED_LIMIT: usize = 10_000;

impl InProcess {
    pub fn new(env: Env, options: InProcessOptions) -> Self {
        Self {
            env,
            options,
            queues: Mutex::default(),
            listeners: Mutex::default(),
            pending: DashMap::new(),
            parked: Mutex::default(),
            faults: Mutex::default(),
            closed: CancellationToken::new(),
        }
    }

    fn queue(&self, name: &str) -> Option<Arc<Queue>> {
        lock(&self.queues).get(name).cloned()
    }

    fn declare(&self, name: String, topic: &Topic) -> Arc<Queue> {
        let capacity = self.capacity(topic);
        lock(&self.queues)
            .entry(name)
            .or_insert_with(|| Queue::new(capacity))
            .clone()
    }

    fn capacity(&self, topic: &Topic) -> Capacity {
        Capacity {
            messages: if topic.is_host() {
                self.options.host_capacity
            } else {
                self.options.control_capacity
            },
            bytes: self.options.queue_bytes,
        }
    }

    fn open(&self) -> Result<(), RpcError> {
        if self.closed.is_cancelled() || lock(&self.faults).blocked {
            return Err(RpcError::BrokerUnavailable);
        }
        Ok(())
    }

    fn wrap(&self, outgoing: Outgoing, lifetime: Option<Duration>) -> Message {
        Message {
            outgoing: Arc::new(outgoing),
            expires: lifetime.map(|it| self.env.clock.monotonic() + it),
            failures: 0,
            redelivered: false,
        }
    }

    /// Puts a message into a queue, or does to it what the faults say.
    fn enqueue(&self, queue: &Arc<Queue>, message: Message) -> bool {
        let fate = lock(&self.faults).fate(&self.env);
        match fate {
            Fate::Arrive => queue.push(message),
            Fate::Vanish => true,
            Fate::Twice => {
                let again = Message {
                    redelivered: true,
                    ..message.clone()
                };
                queue.push(message) && queue.push(again)
            }
            Fate::Late(delay) => {
                let (queue, clock) = (queue.clone(), self.env.clock.clone());
                tokio::spawn(async move {
                    clock.sleep(delay).await;
                    queue.push(message);
                });
                true
            }
            Fate::Hold => {
                let held = lock(&self.faults).hold(queue, message);
                for (queue, message) in held {
                    queue.push(message);
                }
                true
            }
        }
    }

    fn answer(self: &Arc<Self>, id: Uuid, reply: Reply) {
        let fate = lock(&self.faults).fate_of_reply(&self.env);
        match fate {
            Fate::Vanish => {}
            Fate::Late(delay) => {
                let this = self.clone();
                tokio::spawn(async move {
                    this.env.clock.sleep(delay).await;
                    this.deliver(id, reply);
                });
            }
            Fate::Arrive | Fate::Twice | Fate::Hold => self.deliver(id, reply),
        }
    }

    fn deliver(&self, id: Uuid, reply: Reply) {
        if let Some((_, waiter)) = self.pending.remove(&id) {
            // The caller may have given up in this very moment.
            let _ = waiter.send(reply);
        }
    }

    fn park(&self, message: Message, reason: String) {
        warn!(
            reason,
            target = message.outgoing.envelope.target,
            "a message was parked"
        );
        metrics::counter!("yakumo_rpc_parked_total").increment(1);
        let mut parked = lock(&self.parked);
        if parked.len() >= PARKED_LIMIT {
            parked.pop_front();
        }
        parked.push_back(Parked {
            message,
            reason,
            at: self.env.now(),
        });
    }

    fn take_parked(&self, id: Uuid) -> Result<Parked, RpcError> {
        let mut parked = lock(&self.parked);
        let found = parked.iter().position(|it| it.message.outgoing.id == id);
        found
            .and_then(|index| parked.remove(index))
            .ok_or_else(|| RpcError::Unroutable(format!("parked message {id}")))
    }

    /// Takes messages from one queue until the server stops.
    async fn consume(
        self: Arc<Self>,
        consumer: Consumer,
        dispatcher: Arc<Dispatcher>,
        server: Server,
    ) {
        let queue = &consumer.0;
        let slots = Arc::new(Semaphore::new(usize::from(dispatcher.options.concurrency)));
        loop {
            let next = async {
                let slot = slots.clone().acquire_owned().await.ok()?;
                Some((slot, queue.pop().await?))
            };
            let taken = tokio::select! {
                biased;
                () = server.stop.cancelled() => None,
                taken = next => taken,
            };
            let Some((slot, message)) = taken else { break };
            let (this, queue, dispatcher) = (self.clone(), queue.clone(), dispatcher.clone());
            let (stop, kill) = (server.stop.clone(), server.kill.clone());
            server.tasks.spawn(async move {
                this.handle(&queue, &dispatcher, message, &stop, &kill)
                    .await;
                drop(slot);
            });
        }
    }

    async fn handle(
        self: &Arc<Self>,
        queue: &Queue,
        dispatcher: &Dispatcher,
        mut message: Message,
        stop: &CancellationToken,
        kill: &CancellationToken,
    ) {
        if message
            .expires
            .is_some_and(|expires| self.env.clock.monotonic() > expires)
        {
            return;
        }
        let outgoing = message.outgoing.clone();
        let delivery = Delivery {
            envelope: outgoing.envelope.clone(),
            plain: outgoing.plain.clone(),
            // A handle that stepped down to a host is that host, from the start.
            sender: outgoing.speaker.clone(),
            redelivered: message.redelivered,
        };
        let verdict = tokio::select! {
            biased;
            () = kill.cancelled() => None,
            verdict = dispatcher.dispatch(delivery) => Some(verdict),
        };
        message.redelivered = true;
        match verdict {
            None => queue.put_back(message),
            Some(Verdict::Done(reply)) => {
                if let Some(reply) = reply {
                    self.answer(outgoing.id, reply);
                }
            }
            Some(Verdict::Park(reason)) => self.park(message, reason),
            Some(Verdict::Retry(fault)) => {
                message.failures += 1;
                if message.failures >= dispatcher.options.attempts {
                    self.park(message, fault.message);
                    return;
                }
                let pause = dispatcher.options.pause(message.failures);
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = self.env.clock.sleep(pause) => {}
                }
                queue.put_back(message);
            }
        }
    }
}

/// Somebody who takes messages from a queue, for as long as this lives.
struct Consumer(Arc<Queue>);

impl Consumer {
    fn new(queue: Arc<Queue>) -> Self {
        queue.consumers.fetch_add(1, Ordering::SeqCst);
        Self(queue)
    }

    /// The only one; none if there is another one.
    fn alone(queue: Arc<Queue>) -> Option<Self> {
        let (before, order) = (0, Ordering::SeqCst);
        let taken = queue.consumers.compare_exchange(before, 1, order, order);
        // Not made before: its end would count.
        taken.is_ok().then(|| Self(queue))
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.0.consumers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Forgets a call whose caller went away.
struct Waiting<'a> {
    pending: &'a DashMap<Uuid, oneshot::Sender<Reply>>,
    id: Uuid,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pending.remove(&self.id);
    }
}

#[async_trait]
impl Transport for InProcessHandle {
    fn seals(&self) -> bool {
        self.bus.options.seal_contexts
    }

    fn principal(&self) -> Principal {
        Principal::Control
    }

    async fn call(&self, message: Outgoing, deadline: Duration) -> Result<Reply, RpcError> {
        let this = &self.bus;
        this.open()?;
        let topic = message.topic.clone();
        let served =
            |queue: &Arc<Queue>| topic.is_host() || queue.consumers.load(Ordering::SeqCst) > 0;
        let queue = this
            .queue(&call_queue(&topic))
            .filter(served)
            .ok_or_else(|| RpcError::Unroutable(topic.name()))?;
        let (sender, receiver) = oneshot::channel();
        let id = message.id;
        this.pending.insert(id, sender);
        let _waiting = Waiting {
            pending: &this.pending,
            id,
        };
        if !this.enqueue(&queue, this.wrap(message, Some(deadline))) {
            return Err(RpcError::Full(topic.name()));
        }
        tokio::select! {
            biased;
            reply = tokio::time::timeout(deadline, receiver) => {
                reply.ok().and_then(Result::ok).ok_or(RpcError::Timeout)
            }
            () = this.closed.cancelled() => Err(RpcError::BrokerUnavailable),
        }
    }

    async fn cast(&self, message: Outgoing) -> Result<(), RpcError> {
        self.bus.open()?;
        self.bus.send(message, None)
    }

    async fn cast_transient(&self, message: Outgoing, ttl: Duration) -> Result<(), RpcError> {
        self.bus.open()?;
        self.bus.send(message, Some(ttl))
    }

    async fn fanout(&self, message: Outgoing) -> Result<(), RpcError> {
        let this = &self.bus;
        this.open()?;
        let listeners = lock(&this.listeners)
            .get(&message.topic.name())
            .cloned()
            .unwrap_or_default();
        let message = this.wrap(message, None);
        for queue in listeners {
            this.enqueue(&queue, message.clone());
        }
        Ok(())
    }

    async fn declare(&self, topic: &Topic) -> Result<(), RpcError> {
        self.bus.declare(cast_queue(topic), topic);
        self.bus.declare(call_queue(topic), topic);
        Ok(())
    }

    async fn serve(&self, dispatcher: Arc<Dispatcher>) -> Result<Server, RpcError> {
        let this = &self.bus;
        let topic = dispatcher.topic.clone();
        let server = Server::new(topic.clone(), &this.closed);
        let casts = this.declare(cast_queue(&topic), &topic);
        let casts = if topic.is_host() {
            Consumer::alone(casts).ok_or_else(|| RpcError::InUse(topic.name()))?
        } else {
            Consumer::new(casts)
        };
        let mut consumers = vec![casts];
        if let Topic::Control(name) = &topic {
            let calls = this.declare(call_queue(&topic), &topic);
            consumers.push(Consumer::new(calls));
            let fanouts = Queue::new(this.capacity(&topic));
            lock(&this.listeners)
                .entry((*name).to_owned())
                .or_default()
                .push(fanouts.clone());
            let (this, stop, name) = (this.clone(), server.stop.clone(), *name);
            let own = fanouts.clone();
            tokio::spawn(async move {
                stop.cancelled().await;
                if let Some(listeners) = lock(&this.listeners).get_mut(name) {
                    listeners.retain(|queue| !Arc::ptr_eq(queue, &own));
                }
            });
            consumers.push(Consumer::new(fanouts));
        }
        for consumer in consumers {
            let task = this
                .clone()
                .consume(consumer, dispatcher.clone(), server.clone());
            server.tasks.spawn(task);
        }
        Ok(server)
    }

    fn health(&self) -> BusHealth {
        match self.bus.open() {
            Ok(()) => BusHealth::Connected,
            Err(_) => BusHealth::Blocked,
        }
    }

    fn mark_heard(&self) {}

    fn expect_to_hear_within(&self, _bound: Duration) {}

    async fn parked_list(&self, limit: usize) -> Result<Vec<ParkedMessage>, RpcError> {
        let parked = lock(&self.bus.parked);
        Ok(parked
            .iter()
            .take(limit)
            .map(|it| {
                let envelope = &it.message.outgoing.envelope;
                ParkedMessage {
                    id: it.message.outgoing.id,
                    target: envelope.target.clone(),
                    method: format!("{}/{}", envelope.service, envelope.method),
                    sender: it.message.outgoing.speaker.to_string(),
                    reason: it.reason.clone(),
                    parked_at: Some(it.at),
                    size: envelope.payload.len(),
                }
            })
            .collect())
    }

    async fn parked_replay(&self, id: Uuid) -> Result<(), RpcError> {
        let parked = self.bus.take_parked(id)?;
        let topic = parked.message.outgoing.topic.clone();
        let message = Message {
            failures: 0,
            ..parked.message.clone()
        };
        match self.bus.queue(&cast_queue(&topic)) {
            Some(queue) if queue.push(message) => Ok(()),
            _ => {
                lock(&self.bus.parked).push_front(parked);
                Err(RpcError::Unroutable(topic.name()))
            }
        }
    }

    async fn parked_discard(&self, id: Uuid) -> Result<(), RpcError> {
        self.bus.take_parked(id).map(drop)
    }

    async fn close(&self) {
        self.bus.closed.cancel();
    }
}

impl InProcess {
    fn send(&self, message: Outgoing, ttl: Option<Duration>) -> Result<(), RpcError> {
        debug_assert_ne!(message.envelope.kind(), Some(Kind::Call));
        let topic = message.topic.clone();
        let queue = self
            .queue(&cast_queue(&topic))
            .ok_or_else(|| RpcError::Unroutable(topic.name()))?;
        if self.enqueue(&queue, self.wrap(message, ttl)) {
            Ok(())
        } else {
            Err(RpcError::Full(topic.name()))
        }
    }
}

/// What the bus holds; when the last of its handles goes, serving ends.
pub(crate) struct InProcessHandle {
    bus: Arc<InProcess>,
    _guard: DropGuard,
}

impl InProcessHandle {
    pub fn new(bus: Arc<InProcess>) -> Self {
        Self {
            _guard: bus.closed.clone().drop_guard(),
            bus,
        }
    }
}
