//! One connection to the broker, from its making to its end, and publishing
//! over it. Nothing of a session survives it: see `docs/adr/0002`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use lapin::message::Delivery;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::{FieldTable, ShortString};
use lapin::uri::AMQPScheme;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ErrorKind,
    Event,
};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Inner;
use super::layout::{self, Declared, Route};
use crate::address::Topic;
use crate::error::RpcError;

/// How long the broker may take to take and confirm one message. A single queue
/// can be stuck (a quorum queue without a leader) while all others work.
const CONFIRM_BOUND: Duration = Duration::from_secs(15);
/// How long an orderly end of consumers may take.
const CANCEL_BOUND: Duration = Duration::from_secs(5);
/// Unconfirmed messages that nobody waits for any more, before the connection
/// is given up to be rid of them.
const STALE_LIMIT: usize = 1000;
/// Consumers that share one channel: a broker allows few thousand channels,
/// and a process with simulated hosts serves more topics than that.
const CONSUMERS_PER_CHANNEL: usize = 64;
/// How many hosts' queues are set up or looked at side by side. What a host asks of
/// the broker is many short questions, each of which waits for its answer.
const LANES: usize = 8;
/// The message type of what a process sends itself to hear whether it hears.
pub(crate) const ECHO_TYPE: &str = "yakumo.echo";

/// Why a message was not published.
#[derive(Debug)]
pub(crate) enum PublishError {
    /// The connection ended first; the message may have arrived.
    Lost,
    /// The broker takes nothing at present.
    Blocked,
    /// The broker did not say whether it took it.
    Stuck,
    Unroutable,
    Full,
    Refused(String),
}

impl PublishError {
    pub fn explain(self, topic: impl Into<String>) -> RpcError {
        match self {
            Self::Lost | Self::Blocked | Self::Stuck => RpcError::BrokerUnavailable,
            Self::Unroutable => RpcError::Unroutable(topic.into()),
            Self::Full => RpcError::Full(topic.into()),
            Self::Refused(why) => RpcError::Refused(why),
        }
    }
}

/// A channel that consumers share.
struct Pooled {
    channel: Channel,
    /// How many consumers it has.
    used: usize,
    /// The room for messages of the next one.
    prefetch: Option<u16>,
}

pub(crate) struct Session {
    /// Counts up with every connection of the process.
    pub number: u64,
    pub connection: Connection,
    /// With confirms and returns.
    publisher: Channel,
    /// Without: replies and heartbeats, which nobody waits for.
    replier: Channel,
    pub reply_queue: String,
    /// Cancelled when the connection is no good any more.
    pub over: CancellationToken,
    blocked: watch::Sender<bool>,
    /// By the monotonic clock.
    started: Duration,
    /// The same, in microseconds.
    heard: AtomicU64,
    /// Messages that are unconfirmed still, and whose senders gave up.
    stale: Arc<AtomicUsize>,
    /// Whether it was given up because nothing was heard over it.
    deaf: AtomicBool,
    lanes: [Lane; LANES],
    /// Counts up; says which lane is next.
    turn: AtomicUsize,
}

/// Channels that are used by one at a time.
#[derive(Default)]
struct Lane {
    consumers: Mutex<Vec<Pooled>>,
    /// For hosts' queues: declaring them, and looking at them.
    looker: Mutex<Option<Channel>>,
}

impl Session {
    /// Connects, declares, and starts to listen for replies.
    pub async fn open(inner: &Inner) -> Result<(Self, Consumer), lapin::Error> {
        let mut uri = inner.uri.clone();
        uri.query.heartbeat = uri.query.heartbeat.or(Some(10));
        uri.query.channel_max = Some(u16::MAX);
        let tls = match (&uri.scheme, &inner.config.ca_file) {
            (AMQPScheme::AMQPS, Some(file)) => OwnedTLSConfig {
                cert_chain: Some(
                    tokio::fs::read_to_string(file)
                        .await
                        .map_err(lapin::Error::from)?,
                ),
                ..OwnedTLSConfig::default()
            },
            _ => OwnedTLSConfig::default(),
        };
        let properties = ConnectionProperties::default()
            .with_connection_name(inner.config.process.as_str().into());
        let runtime = lapin::runtime::default_runtime()?;
        let connection = Connection::connect_uri_with_config(uri, properties, tls, runtime).await?;

        let publisher = connection.create_channel().await?;
        publisher
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        layout::declare_shared(&publisher, &inner.principal).await?;
        let replier = connection.create_channel().await?;
        let reply_queue =
            layout::reply_queue(&inner.principal, &inner.env.rng.uuid().simple().to_string());
        layout::declare_replies(&replier, &inner.principal, &reply_queue).await?;
        let options = BasicConsumeOptions {
            no_ack: true,
            exclusive: true,
            ..BasicConsumeOptions::default()
        };
        let replies = replier
            .basic_consume(
                reply_queue.as_str().into(),
                ShortString::default(),
                options,
                FieldTable::default(),
            )
            .await?;
        let now = inner.env.clock.monotonic();
        let session = Self {
            number: inner.next_session(),
            connection,
            publisher,
            replier,
            reply_queue,
            over: CancellationToken::new(),
            blocked: watch::Sender::new(false),
            started: now,
            heard: AtomicU64::new(micros(now)),
            stale: Arc::default(),
            deaf: AtomicBool::new(false),
            lanes: Default::default(),
            turn: AtomicUsize::new(0),
        };
        Ok((session, replies))
    }

    pub fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    fn works(&self) -> bool {
        self.connection.status().connected()
            && self.publisher.status().connected()
            && self.replier.status().connected()
    }

    pub fn mark_heard(&self, now: Duration) {
        self.heard.fetch_max(micros(now), Ordering::Relaxed);
    }

    pub fn went_deaf(&self) -> bool {
        self.deaf.load(Ordering::Relaxed)
    }

    /// Whether servers may still be busy declaring their queues anew.
    pub fn is_young(&self, now: Duration) -> bool {
        now.saturating_sub(self.started) < Duration::from_secs(5)
    }

    /// Watches the connection until it is no good any more.
    pub async fn watch(&self, inner: &Inner) {
        // Side by side: what watches must never wait for something to be sent.
        tokio::select! {
            () = self.look(inner) => {}
            () = self.talk_to_itself(inner) => {}
        }
    }

    async fn look(&self, inner: &Inner) {
        let mut events = Box::pin(self.connection.events_listener());
        loop {
            tokio::select! {
                () = self.over.cancelled() => return,
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => {
                        warn!(reason, "the broker takes no messages at present");
                        self.blocked.send_replace(true);
                    }
                    Some(Event::ConnectionUnblocked) => {
                        info!("the broker takes messages again");
                        self.blocked.send_replace(false);
                        self.mark_heard(inner.env.clock.monotonic());
                    }
                    // Failures of single channels come here too; those who use
                    // the channel notice by themselves.
                    Some(Event::Error(error)) if self.works() => {
                        debug!(%error, "a channel failed");
                    }
                    Some(Event::Error(error)) => {
                        warn!(%error, "the connection to the broker is lost");
                        return;
                    }
                    Some(_) => {}
                    None => return,
                },
                () = inner.env.clock.sleep(inner.config.look_every) => {
                    if !self.works() {
                        warn!("the connection to the broker is gone");
                        return;
                    }
                    // The event may have come before anybody listened for it.
                    let blocked = self.is_blocked();
                    if self.blocked.send_replace(blocked) && !blocked {
                        self.mark_heard(inner.env.clock.monotonic());
                    }
                    if self.is_deaf(inner) {
                        return;
                    }
                }
            }
        }
    }

    /// Sends echoes for ever, where there is anybody to hear them.
    async fn talk_to_itself(&self, inner: &Inner) {
        loop {
            if inner.listens_to_itself() && !self.is_blocked() {
                self.echo(inner).await;
            }
            inner.env.clock.sleep(inner.config.echo_every).await;
        }
    }

    fn is_deaf(&self, inner: &Inner) -> bool {
        let now = inner.env.clock.monotonic();
        let heard = Duration::from_micros(self.heard.load(Ordering::Relaxed));
        let silent = now.saturating_sub(heard);
        // A blocked broker reads nothing from us and so cannot answer.
        let Some(bound) = inner.deaf_after() else {
            return false;
        };
        if silent < bound || self.is_blocked() {
            return false;
        }
        warn!(?silent, "the connection is up and nothing is heard over it");
        metrics::counter!("yakumo_rpc_deaf_connections_total").increment(1);
        self.deaf.store(true, Ordering::Relaxed);
        true
    }

    async fn echo(&self, inner: &Inner) {
        let properties = inner.properties().with_type(ECHO_TYPE.into());
        let route = Route {
            exchange: "",
            key: self.reply_queue.clone(),
        };
        self.publish_unconfirmed(&route, &[], properties).await;
    }

    /// Publishes and waits until the broker has the message, for a bound.
    ///
    /// A blocked connection writes nothing, so even the handing over of a
    /// message may wait for as long as the broker is blocked.
    pub async fn publish(
        &self,
        route: &Route,
        bytes: &Bytes,
        properties: BasicProperties,
        mandatory: bool,
    ) -> Result<(), PublishError> {
        if self.is_blocked() {
            return Err(PublishError::Blocked);
        }
        let mut blocked = self.blocked.subscribe();
        let mut publishing = Publishing::begin(self, route, bytes, properties, mandatory);
        let settled = async {
            tokio::select! {
                biased;
                confirmation = publishing.wait() => Ok(confirmation),
                _ = blocked.wait_for(|blocked| *blocked) => Err(PublishError::Blocked),
                () = self.over.cancelled() => Err(PublishError::Lost),
            }
        };
        let Ok(settled) = tokio::time::timeout(CONFIRM_BOUND, settled).await else {
            warn!(queue = route.key, "the broker does not confirm a message");
            if self.stale.load(Ordering::Relaxed) > STALE_LIMIT {
                self.over.cancel();
            }
            return Err(PublishError::Stuck);
        };
        match settled? {
            Ok(Confirmation::Ack(None) | Confirmation::NotRequested) => Ok(()),
            Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_))) => {
                Err(PublishError::Unroutable)
            }
            Ok(Confirmation::Nack(None)) => Err(PublishError::Full),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Publishes what may get lost. Returns at once where the broker is
    /// blocked; what was handed over by then goes out when it no longer is.
    pub async fn publish_unconfirmed(
        &self,
        route: &Route,
        bytes: &[u8],
        properties: BasicProperties,
    ) {
        let mut blocked = self.blocked.subscribe();
        let sent = self.replier.basic_publish(
            route.exchange.into(),
            route.key.as_str().into(),
            BasicPublishOptions::default(),
            bytes,
            properties,
        );
        let sent = async {
            tokio::select! {
                biased;
                sent = sent => sent.map(drop),
                _ = blocked.wait_for(|blocked| *blocked) => Ok(()),
                () = self.over.cancelled() => Ok(()),
            }
        };
        match tokio::time::timeout(CONFIRM_BOUND, sent).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                self.failed(&error);
            }
            Err(_) => debug!("a message without a confirm was not sent in time"),
        }
    }

    /// A channel that failed takes the session with it: what was in flight on
    /// it is lost as well, and there is one way to begin anew.
    fn failed(&self, error: &lapin::Error) -> PublishError {
        debug!(%error, "publishing failed");
        self.over.cancel();
        match refusal(error) {
            Some(why) => PublishError::Refused(why),
            None => PublishError::Lost,
        }
    }

    fn lane(&self) -> &Lane {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        &self.lanes[turn % LANES]
    }

    /// Starts consuming from queues with room for `prefetch` messages each;
    /// `exclusive`: with nobody beside. Where somebody is, the refusal ends the
    /// consumers that share the channel, too, and they begin anew: so look before.
    pub async fn consume(
        &self,
        queues: &[ShortString],
        prefetch: u16,
        exclusive: bool,
    ) -> lapin::Result<Consumers> {
        let mut pool = self.lane().consumers.lock().await;
        let room = pool.iter().position(|it| {
            it.channel.status().connected() && it.used + queues.len() <= CONSUMERS_PER_CHANNEL
        });
        let index = match room {
            Some(index) => index,
            None => {
                pool.retain(|it| it.channel.status().connected());
                pool.push(Pooled {
                    channel: self.connection.create_channel().await?,
                    used: 0,
                    prefetch: None,
                });
                pool.len() - 1
            }
        };
        let Some(pooled) = pool.get_mut(index) else {
            return Err(ErrorKind::ChannelsLimitReached.into());
        };
        let channel = pooled.channel.clone();
        // Holds for the consumers that come after it; the lock keeps the pairs together.
        let prefetch = prefetch.max(1);
        if pooled.prefetch != Some(prefetch) {
            pooled.prefetch = None;
            channel
                .basic_qos(prefetch, BasicQosOptions::default())
                .await?;
            pooled.prefetch = Some(prefetch);
        }
        let abandoned = Abandoned(Some(channel.clone()));
        let mut consumers = Vec::with_capacity(queues.len());
        for queue in queues {
            let consumer = channel
                .basic_consume(
                    queue.clone(),
                    ShortString::default(),
                    BasicConsumeOptions {
                        exclusive,
                        ..BasicConsumeOptions::default()
                    },
                    FieldTable::default(),
                )
                .await?;
            pooled.used += 1;
            consumers.push(consumer);
        }
        abandoned.none();
        Ok(Consumers { channel, consumers })
    }

    /// The channel for hosts' queues, if it is open still: a refusal closes it,
    /// and whoever is not refused puts it back. All hosts of a process share a few,
    /// since one for each question would be most of what idle hosts cost. Classic
    /// queues always answer, so none waits for another.
    async fn looking(&self, looker: &mut Option<Channel>) -> lapin::Result<Channel> {
        match looker.take().filter(|it| it.status().connected()) {
            Some(channel) => Ok(channel),
            None => self.connection.create_channel().await,
        }
    }

    /// Makes the queue of a host, without serving it.
    pub async fn declare_host(&self, topic: &Topic) -> lapin::Result<Declared> {
        let mut looker = self.lane().looker.lock().await;
        let channel = self.looking(&mut looker).await?;
        let declared = layout::declare_topic(&channel, topic, "").await?;
        *looker = Some(channel);
        Ok(declared)
    }

    /// Whether the queues of a host still exist.
    pub async fn still_has(&self, queues: &[ShortString]) -> bool {
        let mut looker = self.lane().looker.lock().await;
        let Ok(channel) = self.looking(&mut looker).await else {
            return false;
        };
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        for queue in queues {
            let there = channel
                .queue_declare(queue.clone(), options, FieldTable::default())
                .await;
            if there.is_err() {
                return false;
            }
        }
        *looker = Some(channel);
        true
    }

    /// Ends consumers that were started together; their streams end once
    /// they were told of everything that was on its way.
    pub async fn cancel(&self, channel: &Channel, tags: &[ShortString]) {
        let cancelled = async {
            for tag in tags {
                let options = BasicCancelOptions::default();
                if let Err(error) = channel.basic_cancel(tag.clone(), options).await {
                    debug!(%error, "a consumer could not be cancelled");
                }
            }
        };
        if tokio::time::timeout(CANCEL_BOUND, cancelled).await.is_err() {
            debug!("consumers were not cancelled in time");
        }
        for lane in &self.lanes {
            let mut pool = lane.consumers.lock().await;
            if let Some(it) = pool.iter_mut().find(|it| it.channel.id() == channel.id()) {
                it.used = it.used.saturating_sub(tags.len());
                return;
            }
        }
    }
}

/// A channel on which consumers were asked for. If nobody waits for them any more,
/// they may be there all the same, and would be given messages, or keep a queue for
/// themselves: they end with their channel, and its other consumers begin anew.
struct Abandoned(Option<Channel>);

impl Abandoned {
    fn none(mut self) {
        self.0 = None;
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        // At the end of the process the connection ends as well.
        if let Some(channel) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                if let Err(error) = channel.close(200, "abandoned".into()).await {
                    debug!(%error, "a channel could not be closed");
                }
            });
        }
    }
}

/// Consumers that share a channel, on which their deliveries are settled.
pub(crate) struct Consumers {
    pub channel: Channel,
    pub consumers: Vec<Consumer>,
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// What the broker's configuration does not allow, if that is what went wrong.
pub(crate) fn refusal(error: &lapin::Error) -> Option<String> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => match error.kind() {
            AMQPErrorKind::Soft(
                AMQPSoftError::ACCESSREFUSED
                | AMQPSoftError::PRECONDITIONFAILED
                | AMQPSoftError::RESOURCELOCKED,
            ) => Some(error.get_message().to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// Why the broker does not let a process in, if that is what went wrong: for its
/// credentials, for its virtual host, or for what its user may do there.
pub(crate) fn turned_away(error: &lapin::Error) -> Option<String> {
    match error.kind() {
        ErrorKind::ProtocolError(error)
            if *error.kind() == AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) =>
        {
            Some(error.get_message().to_string())
        }
        _ => refusal(error),
    }
}

/// Whether a queue was refused because somebody else consumes from it alone, or
/// does so while it was to be consumed from alone.
pub(crate) fn is_in_use(error: &lapin::Error) -> bool {
    refusal(error).is_some_and(|why| why.contains("in exclusive use"))
}

/// A message on its way, which is followed to its end even if its sender goes
/// away: the client library would keep its confirm for ever otherwise.
struct Publishing {
    work: Option<BoxFuture<'static, lapin::Result<Confirmation>>>,
    stale: Arc<AtomicUsize>,
}

impl Publishing {
    fn begin(
        session: &Session,
        route: &Route,
        bytes: &Bytes,
        properties: BasicProperties,
        mandatory: bool,
    ) -> Self {
        let publisher = session.publisher.clone();
        let (exchange, key) = (route.exchange, ShortString::from(route.key.as_str()));
        let bytes = bytes.clone();
        let work = async move {
            let options = BasicPublishOptions {
                mandatory,
                ..BasicPublishOptions::default()
            };
            publisher
                .basic_publish(exchange.into(), key, options, &bytes, properties)
                .await?
                .await
        };
        Self {
            work: Some(Box::pin(work)),
            stale: session.stale.clone(),
        }
    }

    /// The broker's word.
    async fn wait(&mut self) -> lapin::Result<Confirmation> {
        let result = match self.work.as_mut() {
            Some(work) => work.await,
            None => Ok(Confirmation::NotRequested),
        };
        self.work = None;
        result
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        if let Some(work) = self.work.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let stale = self.stale.clone();
            stale.fetch_add(1, Ordering::Relaxed);
            runtime.spawn(async move {
                let _ = work.await;
                stale.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }
}

/// What a delivery says of itself.
pub(crate) fn message_type(delivery: &Delivery) -> Option<&str> {
    delivery.properties.kind().as_ref().map(ShortString::as_str)
}
