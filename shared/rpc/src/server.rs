//! The receiving side: handlers, what they are given, and how they stop.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;
use yakumo_types::{Fault, RequestContext};

use crate::address::{Kind, Principal, Topic, Version};

/// A received message, checked: its sender and context can be relied on.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// For whom this is done. From a host it is the bare host context.
    pub context: RequestContext,
    /// Who sent it.
    pub sender: Principal,
    /// The same in every copy of one message.
    pub message_id: Uuid,
    /// For how long the caller waits, from when it asked.
    pub lifetime: Option<Duration>,
    /// Whether an earlier delivery of this message may have been handled.
    pub redelivered: bool,
    /// The contract.
    pub service: String,
    /// The method within it.
    pub method: String,
    /// The version of the contract that the caller was built with.
    pub version: Version,
    /// The encoded request.
    pub payload: Bytes,
    /// How it was sent.
    pub kind: Kind,
}

/// The type of the fault of a handler that can make nothing of a message: it has
/// no such method, or cannot read what came with it.
pub const NOT_UNDERSTOOD: &str = "MessageNotUnderstood";

/// Serves one contract.
///
/// A message is acknowledged when `handle` returns: make the intent durable
/// and return, and do long work elsewhere. What the answer to a cast does:
/// `Ok`, done; a transient fault ([`yakumo_types::FaultCode::is_transient`]),
/// the message comes again after a pause, a bounded number of times, and is
/// then parked; one of the type [`NOT_UNDERSTOOD`], it is parked; any other
/// fault, logged and done.
///
/// The future may be dropped at any await point when the process is told to
/// stop and the drain bound passes; that is no different from a crash.
#[async_trait]
pub trait Handler: Send + Sync {
    /// The contract's name on the wire.
    fn service(&self) -> &'static str;

    /// The version of the contract that this was built with.
    fn version(&self) -> Version;

    /// Whether hosts may use the method. Hosts are not trusted: such a method
    /// decides by [`Incoming::sender`] what the host may see and say.
    fn open_to_hosts(&self, method: &str) -> bool {
        let _ = method;
        false
    }

    /// Does it. For casts and fanouts the bytes are ignored.
    async fn handle(&self, incoming: Incoming) -> Result<Vec<u8>, Fault>;
}

/// How a topic is served.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// How many messages are handled at a time, calls and casts counted apart;
    /// the rest waits with the broker. This is the back-pressure.
    pub concurrency: u16,
    /// How often a cast is tried before it is parked.
    pub attempts: u32,
    /// The pause after the first failure of a cast; doubled after each one.
    pub backoff: Duration,
    /// The longest of these pauses.
    pub backoff_limit: Duration,
    /// The longest that the handling of one cast may take. It must stay below
    /// the broker's consumer timeout (30 minutes).
    pub cast_bound: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            concurrency: 64,
            attempts: 12,
            backoff: Duration::from_millis(100),
            backoff_limit: Duration::from_secs(10),
            cast_bound: Duration::from_secs(300),
        }
    }
}

impl ServeOptions {
    /// The pause after a number of failures.
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        let factor = 1_u32 << failures.saturating_sub(1).min(16);
        self.backoff.saturating_mul(factor).min(self.backoff_limit)
    }
}

/// A topic being served. Dropping it changes nothing; serving ends by
/// [`Server::stop`] or when the bus is closed.
#[derive(Debug, Clone)]
pub struct Server {
    pub(crate) topic: Topic,
    /// No new messages are taken.
    pub(crate) stop: CancellationToken,
    /// Running handlers are dropped and their messages given back.
    pub(crate) kill: CancellationToken,
    /// Everything that runs for this server.
    pub(crate) tasks: TaskTracker,
    /// Whether somebody else has the topic meanwhile.
    pub(crate) displaced: watch::Sender<bool>,
}

impl Server {
    /// A server whose end is tied to that of the bus.
    pub(crate) fn new(topic: Topic, closed: &CancellationToken) -> Self {
        Self {
            topic,
            stop: closed.child_token(),
            kill: CancellationToken::new(),
            tasks: TaskTracker::new(),
            displaced: watch::Sender::new(false),
        }
    }

    /// Whether another process took the topic, a host's, while this one had no
    /// connection; it is taken back once that one is gone.
    pub fn displaced(&self) -> watch::Receiver<bool> {
        self.displaced.subscribe()
    }

    /// What is served.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Takes no more messages and waits for the running handlers, up to
    /// `bound`; those that run longer are dropped, and their messages go back
    /// to the queue. Returns whether all of them finished by themselves.
    pub async fn stop(&self, bound: Duration) -> bool {
        self.stop.cancel();
        self.tasks.close();
        let finished = tokio::time::timeout(bound, self.tasks.wait()).await.is_ok();
        self.kill.cancel();
        if !finished {
            self.tasks.wait().await;
        }
        finished
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_stay_bounded() {
        let options = ServeOptions::default();
        assert_eq!(options.pause(1), Duration::from_millis(100));
        assert_eq!(options.pause(3), Duration::from_millis(400));
        assert_eq!(options.pause(40), Duration::from_secs(10));
    }
}
