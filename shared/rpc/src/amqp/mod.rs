//! The bus over RabbitMQ.
//!
//! One connection for each process. A supervisor makes it, watches it, and
//! makes it anew; every server re-declares its queues and consumes again by
//! itself when there is a new one. The client library's own recovery is off
//! (`docs/adr/0002-bus-recovery.md`). What survives a reconnection lives here:
//! calls that wait (they fail, since their replies went with the old reply
//! queue), casts that were not confirmed (they are sent again under the same
//! message id), and the count of a message's failures.

mod consume;
pub(crate) mod layout;
mod parking;
mod session;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dashmap::DashMap;
use futures::StreamExt;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{BasicProperties, Consumer};
use prost::Message;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};
use uuid::Uuid;
use yakumo_types::{ContextSeal, Env};

use self::layout::Route;
use self::session::{ECHO_TYPE, PublishError, Session, message_type, refusal, turned_away};
use crate::address::{Kind, Principal, Topic, is_host_name};
use crate::bus::{Bus, BusHealth};
use crate::dispatch::Dispatcher;
use crate::envelope::Reply;
use crate::error::RpcError;
use crate::parked::ParkedMessage;
use crate::server::Server;
use crate::transport::{Outgoing, Transport};

/// How a process reaches the broker.
#[derive(Clone)]
pub struct AmqpConfig {
    /// `amqp://user:password@host:port/vhost`, or `amqps://`. The user says who
    /// the process is: `host.<name>` for a host, anything else for control.
    pub url: String,
    /// The process, for people who look at the broker's connections.
    pub process: String,
    /// Certificates (PEM) that the broker's is checked against; needed for
    /// `amqps`.
    pub ca_file: Option<PathBuf>,
    /// How long a message waits for a broker that is away before its sender is
    /// told. Never longer than a call's deadline; a blocked broker is told at once.
    pub patience: Duration,
    /// Calls and casts that may be on their way at a time; more wait.
    pub in_flight: usize,
    /// A control process sends itself a message so often.
    pub echo_every: Duration,
    /// Nothing heard for this long, and a control process connects anew.
    pub deaf_after: Duration,
    /// How often the connection is looked at.
    pub look_every: Duration,
    /// The longest pause between attempts to connect.
    pub reconnect_limit: Duration,
}

impl AmqpConfig {
    /// The usual settings for a broker at `url`.
    pub fn new(url: impl Into<String>, process: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            process: process.into(),
            ca_file: None,
            patience: Duration::from_secs(10),
            in_flight: 10_000,
            echo_every: Duration::from_secs(10),
            deaf_after: Duration::from_secs(30),
            look_every: Duration::from_secs(1),
            reconnect_limit: Duration::from_secs(5),
        }
    }
}

/// The URL holds a password.
impl std::fmt::Debug for AmqpConfig {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("AmqpConfig")
            .field("process", &self.process)
            .field("ca_file", &self.ca_file)
            .finish_non_exhaustive()
    }
}

/// Topics whose queues are set up at a time; each takes a channel for that.
const ATTACHING: usize = 64;

/// How long the making of a connection may take.
const CONNECT_BOUND: Duration = Duration::from_secs(20);

struct Waiting {
    reply: oneshot::Sender<Result<Reply, RpcError>>,
    /// Whom the reply may come from, besides a control service.
    host: Option<String>,
    /// The session whose reply queue was named.
    session: u64,
}

pub(crate) struct Inner {
    pub config: AmqpConfig,
    pub uri: AMQPUri,
    pub env: Env,
    pub principal: Principal,
    user: String,
    session: watch::Sender<Option<Arc<Session>>>,
    /// Why the broker does not let us in, if that is why there is no session.
    turned_away: watch::Sender<Option<String>>,
    /// Counts sessions.
    sessions: AtomicU64,
    waiting: DashMap<Uuid, Waiting>,
    in_flight: Semaphore,
    /// Topics whose queues are being set up.
    pub attaching: Semaphore,
    /// Failures of messages on queues that count no deliveries themselves.
    pub failures: DashMap<Uuid, u32>,
    /// Microseconds; 0 for never. Set for hosts by `expect_to_hear_within`.
    hear_within: AtomicU64,
    /// Deaf connections in a row.
    deaf: AtomicU32,
    pub closed: CancellationToken,
}

impl Inner {
    /// Control processes can write to their own reply queue; hosts cannot.
    pub fn listens_to_itself(&self) -> bool {
        self.principal == Principal::Control
    }

    /// How long silence is taken for rest. It doubles while new connections
    /// stay silent too, so that thousands of hosts don't storm the broker
    /// because the control plane is away.
    pub fn deaf_after(&self) -> Option<Duration> {
        let bound = match self.hear_within.load(Ordering::Relaxed) {
            0 if self.listens_to_itself() => self.config.deaf_after,
            0 => return None,
            micros => Duration::from_micros(micros),
        };
        Some(bound * (1 << self.deaf.load(Ordering::Relaxed).min(6)))
    }

    pub fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn heard(&self, session: &Session) {
        session.mark_heard(self.env.clock.monotonic());
        if self.deaf.load(Ordering::Relaxed) != 0 {
            self.deaf.store(0, Ordering::Relaxed);
        }
    }

    /// What every message of ours carries: the broker checks the user.
    pub fn properties(&self) -> BasicProperties {
        BasicProperties::default()
            .with_user_id(self.user.as_str().into())
            .with_content_type("application/x-protobuf".into())
    }

    pub fn current(&self) -> Option<Arc<Session>> {
        self.session.borrow().clone()
    }

    /// The connection, waited for up to `bound`.
    async fn session(&self, bound: Duration) -> Result<Arc<Session>, RpcError> {
        if let Some(session) = self.current() {
            return match session.is_blocked() {
                false => Ok(session),
                true => Err(RpcError::BrokerUnavailable),
            };
        }
        let mut sessions = self.session.subscribe();
        let there = async {
            tokio::select! {
                there = sessions.wait_for(Option::is_some) => there.ok().and_then(|it| it.clone()),
                () = self.closed.cancelled() => None,
            }
        };
        tokio::time::timeout(bound, there)
            .await
            .ok()
            .flatten()
            .ok_or(RpcError::BrokerUnavailable)
    }

    async fn permit(&self, bound: Duration) -> Result<SemaphorePermit<'_>, RpcError> {
        match tokio::time::timeout(bound, self.in_flight.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(RpcError::BrokerUnavailable),
        }
    }

    /// Makes connections until the bus is closed.
    async fn supervise(self: Arc<Self>) {
        let mut failures = 0_u32;
        while !self.closed.is_cancelled() {
            let opened = tokio::select! {
                () = self.closed.cancelled() => break,
                opened = tokio::time::timeout(CONNECT_BOUND, Session::open(&self)) => opened,
            };
            match opened {
                Ok(Ok((session, replies))) => {
                    failures = 0;
                    self.turned_away.send_replace(None);
                    self.run(session, replies).await;
                }
                Ok(Err(error)) => {
                    warn!(%error, "the broker cannot be reached");
                    self.turned_away.send_replace(turned_away(&error));
                }
                Err(_) => {
                    warn!("the broker did not answer in time");
                    self.turned_away.send_replace(None);
                }
            }
            failures += 1;
            let pause = Duration::from_millis(50) * (1 << failures.min(10));
            let pause = pause.min(self.config.reconnect_limit);
            // Half of it by chance, so that all hosts don't come at once.
            let pause = self.env.rng.equal_jitter(pause);
            tokio::select! {
                () = self.closed.cancelled() => {}
                () = self.env.clock.sleep(pause) => {}
            }
        }
    }

    async fn run(self: &Arc<Self>, session: Session, replies: Consumer) {
        let session = Arc::new(session);
        let number = session.number;
        info!(number, "connected to the broker");
        metrics::counter!("yakumo_rpc_connections_total").increment(1);
        let reader = tokio::spawn(self.clone().read_replies(session.clone(), replies));
        self.session.send_replace(Some(session.clone()));
        tokio::select! {
            () = session.watch(self) => {}
            () = self.closed.cancelled() => {}
        }
        // Servers see this before there is a new session.
        session.over.cancel();
        self.session.send_replace(None);
        reader.abort();
        if session.went_deaf() {
            self.deaf.fetch_add(1, Ordering::Relaxed);
        }
        let lost: Vec<Uuid> = self
            .waiting
            .iter()
            .filter(|entry| entry.session <= number)
            .map(|entry| *entry.key())
            .collect();
        for id in lost {
            if let Some((_, waiting)) = self.waiting.remove(&id) {
                let _ = waiting.reply.send(Err(RpcError::BrokerUnavailable));
            }
        }
        let closing = session.connection.close(200, "bye".into());
        let _ = tokio::time::timeout(Duration::from_secs(2), closing).await;
    }

    async fn read_replies(self: Arc<Self>, session: Arc<Session>, mut replies: Consumer) {
        while let Some(Ok(delivery)) = replies.next().await {
            self.heard(&session);
            if message_type(&delivery) == Some(ECHO_TYPE) {
                continue;
            }
            let sender = consume::principal(&delivery);
            let beside = consume::answered_call(&delivery);
            let read = Reply::read(Bytes::from(delivery.data)).and_then(|reply| match reply.id() {
                Some(id) => Ok((id, reply)),
                None => Err("it does not say which call it answers".into()),
            });
            let (id, reply) = match read {
                Ok((id, reply)) => (id, Ok(reply)),
                Err(why) => {
                    warn!(why, call = beside.map(display), "a reply is unreadable");
                    // The release before says nothing beside the bytes: such a call
                    // waits for its deadline.
                    let Some(id) = beside else { continue };
                    (id, Err(RpcError::Malformed(why)))
                }
            };
            let entitled = |_: &Uuid, waiting: &Waiting| match &sender {
                Some(Principal::Control) => true,
                Some(Principal::Host(name)) => waiting.host.as_ref() == Some(name),
                None => false,
            };
            if let Some((_, waiting)) = self.waiting.remove_if(&id, entitled) {
                let _ = waiting.reply.send(reply);
            }
        }
        // The queue went away under a living connection.
        session.over.cancel();
    }
}

/// Forgets a call whose caller went away.
struct Forget<'a> {
    waiting: &'a DashMap<Uuid, Waiting>,
    id: Uuid,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.waiting.remove(&self.id);
    }
}

/// The bus's end of it; when the last handle goes, so does the connection.
pub(crate) struct Amqp {
    inner: Arc<Inner>,
    _guard: DropGuard,
}

impl Bus {
    /// A bus over RabbitMQ. Returns at once: the connection is made, and made
    /// anew, in the background. Fails on a URL that makes no sense.
    pub async fn connect(
        config: AmqpConfig,
        env: Env,
        seal: Arc<dyn ContextSeal>,
    ) -> Result<Self, RpcError> {
        let uri: AMQPUri = config
            .url
            .parse()
            .map_err(|_| RpcError::Refused("the broker's URL makes no sense".into()))?;
        if uri.scheme == AMQPScheme::AMQPS && config.ca_file.is_none() {
            return Err(RpcError::Refused(
                "amqps needs the certificates to check the broker's against".into(),
            ));
        }
        let user = uri.authority.userinfo.username.clone();
        let principal = principal_of(&user)
            .ok_or_else(|| RpcError::Refused("the broker user's name makes no sense".into()))?;
        let closed = CancellationToken::new();
        let process = config.process.clone();
        let inner = Arc::new(Inner {
            in_flight: Semaphore::new(config.in_flight),
            attaching: Semaphore::new(ATTACHING),
            config,
            uri,
            env: env.clone(),
            principal,
            user,
            session: watch::Sender::new(None),
            turned_away: watch::Sender::new(None),
            sessions: AtomicU64::new(0),
            waiting: DashMap::new(),
            failures: DashMap::new(),
            hear_within: AtomicU64::new(0),
            deaf: AtomicU32::new(0),
            closed: closed.clone(),
        });
        tokio::spawn(inner.clone().supervise());
        let transport = Arc::new(Amqp {
            inner,
            _guard: closed.drop_guard(),
        });
        Ok(Self::over(transport, env, seal, process))
    }
}

/// Who a broker user is.
pub(crate) fn principal_of(user: &str) -> Option<Principal> {
    match user.strip_prefix("host.") {
        Some(name) if is_host_name(name) => Some(Principal::Host(name.to_owned())),
        Some(_) => None,
        None if user.is_empty() => None,
        None => Some(Principal::Control),
    }
}

impl Amqp {
    fn properties(&self, message: &Outgoing) -> BasicProperties {
        self.inner
            .properties()
            .with_message_id(message.id.to_string().into())
    }

    fn route(&self, message: &Outgoing, kind: Kind) -> Route {
        // By the connection's rights, not by the handle's: a control process
        // that steps down to a host still speaks over its own connection.
        layout::route(&self.inner.principal, &message.topic, kind)
    }
}

/// Milliseconds as the broker wants them.
fn expiration(lifetime: Duration) -> String {
    lifetime
        .as_millis()
        .clamp(1, u128::from(u32::MAX))
        .to_string()
}

const TRANSIENT: u8 = 1;
const PERSISTENT: u8 = 2;

#[async_trait]
impl Transport for Amqp {
    fn seals(&self) -> bool {
        true
    }

    fn principal(&self) -> Principal {
        self.inner.principal.clone()
    }

    async fn call(&self, message: Outgoing, deadline: Duration) -> Result<Reply, RpcError> {
        let inner = &self.inner;
        let ends = inner.env.clock.monotonic() + deadline;
        let left = || ends.saturating_sub(inner.env.clock.monotonic());
        let patience = deadline.min(inner.config.patience);
        let _permit = inner.permit(patience).await?;
        let route = self.route(&message, Kind::Call);
        let topic = message.topic.name();
        let bytes = Bytes::from(message.envelope.encode_to_vec());
        loop {
            let session = inner.session(patience.min(left())).await?;
            let (sender, mut receiver) = oneshot::channel();
            let waiting = Waiting {
                reply: sender,
                host: topic.strip_prefix("host.").map(str::to_owned),
                session: session.number,
            };
            inner.waiting.insert(message.id, waiting);
            let _forget = Forget {
                waiting: &inner.waiting,
                id: message.id,
            };
            let properties = self
                .properties(&message)
                .with_delivery_mode(TRANSIENT)
                .with_reply_to(session.reply_queue.as_str().into())
                .with_expiration(expiration(left()).into());
            let exchange = async {
                // The reply may be faster than the broker's word for the question.
                tokio::select! {
                    biased;
                    reply = &mut receiver => return Ok(reply),
                    published = session.publish(&route, &bytes, properties, true) => published?,
                }
                Ok(receiver.await)
            };
            match tokio::time::timeout(left(), exchange).await {
                Err(_) => return Err(RpcError::Timeout),
                Ok(Ok(reply)) => return reply.unwrap_or(Err(RpcError::BrokerUnavailable)),
                // After a reconnection servers need a moment to be there again.
                Ok(Err(PublishError::Unroutable))
                    if session.is_young(inner.env.clock.monotonic()) && !left().is_zero() =>
                {
                    inner.env.clock.sleep(Duration::from_millis(100)).await;
                }
                Ok(Err(error)) => return Err(error.explain(topic)),
            }
        }
    }

    async fn cast(&self, message: Outgoing) -> Result<(), RpcError> {
        let inner = &self.inner;
        let ends = inner.env.clock.monotonic() + inner.config.patience;
        let left = || ends.saturating_sub(inner.env.clock.monotonic());
        let _permit = inner.permit(inner.config.patience).await?;
        let route = self.route(&message, Kind::Cast);
        let topic = message.topic.name();
        let bytes = Bytes::from(message.envelope.encode_to_vec());
        let properties = self.properties(&message).with_delivery_mode(PERSISTENT);
        loop {
            let session = inner.session(left()).await?;
            match session
                .publish(&route, &bytes, properties.clone(), true)
                .await
            {
                Ok(()) => return Ok(()),
                // It may have arrived; the same message id tells the receiver.
                Err(PublishError::Lost) if !left().is_zero() => {
                    inner.env.clock.sleep(Duration::from_millis(20)).await;
                }
                Err(error) => return Err(error.explain(topic)),
            }
        }
    }

    async fn cast_transient(&self, message: Outgoing, ttl: Duration) -> Result<(), RpcError> {
        let session = self.inner.session(Duration::ZERO).await?;
        let properties = self
            .properties(&message)
            .with_delivery_mode(TRANSIENT)
            .with_expiration(expiration(ttl).into());
        // Beside the calls: what may get lost is worth no commit to disk.
        let route = self.route(&message, Kind::Call);
        session
            .publish_unconfirmed(&route, &message.envelope.encode_to_vec(), properties)
            .await;
        Ok(())
    }

    async fn fanout(&self, message: Outgoing) -> Result<(), RpcError> {
        let inner = &self.inner;
        let _permit = inner.permit(inner.config.patience).await?;
        let session = inner.session(inner.config.patience).await?;
        let properties = self.properties(&message).with_delivery_mode(TRANSIENT);
        let route = self.route(&message, Kind::Fanout);
        let bytes = Bytes::from(message.envelope.encode_to_vec());
        session
            .publish(&route, &bytes, properties, false)
            .await
            .map_err(|error| error.explain(message.topic.name()))
    }

    async fn declare(&self, topic: &Topic) -> Result<(), RpcError> {
        let inner = &self.inner;
        let session = inner.session(inner.config.patience).await?;
        let _turn = inner.attaching.acquire().await;
        let declared = consume::declare(inner, &session, topic);
        match tokio::time::timeout(CONNECT_BOUND, declared).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(refused(&error).unwrap_or(RpcError::BrokerUnavailable)),
            Err(_) => Err(RpcError::BrokerUnavailable),
        }
    }

    async fn serve(&self, dispatcher: Arc<Dispatcher>) -> Result<Server, RpcError> {
        consume::serve(self.inner.clone(), dispatcher).await
    }

    fn health(&self) -> BusHealth {
        match self.inner.current() {
            None => match &*self.inner.turned_away.borrow() {
                Some(why) => BusHealth::TurnedAway(why.clone()),
                None => BusHealth::Disconnected,
            },
            Some(session) if session.is_blocked() => BusHealth::Blocked,
            Some(_) => BusHealth::Connected,
        }
    }

    fn mark_heard(&self) {
        if let Some(session) = self.inner.current() {
            self.inner.heard(&session);
        }
    }

    fn expect_to_hear_within(&self, bound: Duration) {
        let micros = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX).max(1);
        self.inner.hear_within.store(micros, Ordering::Relaxed);
        self.mark_heard();
    }

    async fn parked_list(&self, limit: usize) -> Result<Vec<ParkedMessage>, RpcError> {
        parking::list(&self.inner, limit).await
    }

    async fn parked_replay(&self, id: Uuid) -> Result<(), RpcError> {
        parking::settle(&self.inner, id, parking::Fate::Replay).await
    }

    async fn parked_discard(&self, id: Uuid) -> Result<(), RpcError> {
        parking::settle(&self.inner, id, parking::Fate::Discard).await
    }

    async fn close(&self) {
        self.inner.closed.cancel();
        let mut sessions = self.inner.session.subscribe();
        let ended = sessions.wait_for(Option::is_none);
        let _ = tokio::time::timeout(Duration::from_secs(3), ended).await;
    }
}

/// Whether the broker's configuration forbids what was tried, as an error.
fn refused(error: &lapin::Error) -> Option<RpcError> {
    refusal(error).map(RpcError::Refused)
}
