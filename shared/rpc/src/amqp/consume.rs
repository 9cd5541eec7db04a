//! The receiving side: one task for each served topic, which declares the
//! topic's queues and takes messages whenever there is a connection.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use lapin::message::Delivery as AmqpDelivery;
use lapin::options::{BasicAckOptions, BasicNackOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Consumer};
use prost::Message;
use tokio::sync::oneshot;
use tracing::{debug, error, info, warn};
use uuid::Uuid;
use yakumo_types::Env;

use super::layout::{self, Declared, Route};
use super::session::{Consumers, Session, is_in_use};
use super::{Inner, TRANSIENT, parking, principal_of, refused};
use crate::address::{Kind, Principal, Topic};
use crate::dispatch::{Delivery, Dispatcher, Verdict};
use crate::envelope::{Envelope, Reply};
use crate::error::RpcError;
use crate::server::Server;
use crate::trace;

/// How long `serve` waits for the broker before it leaves serving to the background.
const READY_BOUND: Duration = Duration::from_secs(30);
/// How long the setting up of a topic's queues may take.
const ATTACH_BOUND: Duration = Duration::from_secs(20);
/// Between two looks at whether a host's queue is free.
const IN_USE_PAUSE: Duration = Duration::from_secs(1);
/// How often it is made sure that the queues still exist, at the least.
const VERIFY_EVERY: Duration = Duration::from_secs(120);
/// How long a handler waits until it has settled its message; what it said goes
/// out all the same.
const SETTLE_BOUND: Duration = Duration::from_secs(2);
/// Failures that are remembered at the most.
const FAILURES_LIMIT: usize = 10_000;

/// Who sent it, by the broker's word; `None` when the broker gave none.
pub(crate) fn principal(delivery: &AmqpDelivery) -> Option<Principal> {
    principal_of(delivery.properties.user_id().as_ref()?.as_str())
}

/// Which call a reply answers, by what stands beside its bytes.
pub(crate) fn answered_call(delivery: &AmqpDelivery) -> Option<Uuid> {
    Uuid::parse_str(delivery.properties.correlation_id().as_ref()?.as_str()).ok()
}

pub(crate) async fn serve(
    inner: Arc<Inner>,
    dispatcher: Arc<Dispatcher>,
) -> Result<Server, RpcError> {
    let server = Server::new(dispatcher.topic.clone(), &inner.closed);
    let (ready, is_ready) = oneshot::channel();
    let task = attend(inner, dispatcher, server.clone(), ready);
    server.tasks.spawn(task);
    match tokio::time::timeout(READY_BOUND, is_ready).await {
        Ok(Ok(result)) => result.map(|()| server),
        Ok(Err(_)) => Err(RpcError::BrokerUnavailable),
        Err(_) => {
            warn!(topic = %server.topic, "the broker is away; serving starts when it is there");
            Ok(server)
        }
    }
}

/// Serves over one connection after the other, until told to stop.
async fn attend(
    inner: Arc<Inner>,
    dispatcher: Arc<Dispatcher>,
    server: Server,
    ready: oneshot::Sender<Result<(), RpcError>>,
) {
    let mut ready = Some(ready);
    let mut sessions = inner.session.subscribe();
    loop {
        let mut pause = Duration::from_millis(200);
        let session = tokio::select! {
            () = server.stop.cancelled() => return,
            session = sessions.wait_for(Option::is_some) => match session {
                Ok(session) => session.clone(),
                Err(_) => return,
            },
        };
        let Some(session) = session else { continue };
        let attached = tokio::select! {
            () = server.stop.cancelled() => return,
            () = session.over.cancelled() => None,
            attached = attach_in_turn(&inner, &session, &dispatcher) => Some(attached),
        };
        match attached {
            None => {}
            Some(Err(_)) => error!(
                topic = %server.topic,
                "the broker does not set up a queue; `rabbitmqctl list_queues` shows its state, \
                 and a quorum queue that has lost its leader for good must be deleted"
            ),
            Some(Ok(Ok(Attached::InUse))) => {
                if let Some(ready) = asking(&mut ready) {
                    let _ = ready.send(Err(RpcError::InUse(server.topic.name())));
                    return;
                }
                // Somebody came while the connection was away, or the broker has
                // not noticed yet that it was.
                if !server.displaced.send_replace(true) {
                    warn!(topic = %server.topic, "another consumer has the queue; it is waited for");
                }
                pause = IN_USE_PAUSE;
            }
            Some(Ok(Ok(Attached::Serving(queues, consumers)))) => {
                info!(topic = %server.topic, "serving");
                server.displaced.send_replace(false);
                if let Some(ready) = ready.take() {
                    let _ = ready.send(Ok(()));
                }
                take(&inner, &session, &dispatcher, &server, &queues, consumers).await;
            }
            Some(Ok(Err(error))) => {
                warn!(topic = %server.topic, %error, "the queues could not be set up");
                // Whatever else it was passes, and the topic is served then.
                if let Some(refusal) = refused(&error)
                    && let Some(ready) = asking(&mut ready)
                {
                    let _ = ready.send(Err(refusal));
                    return;
                }
            }
        }
        if server.stop.is_cancelled() {
            return;
        }
        tokio::select! {
            () = server.stop.cancelled() => return,
            () = inner.env.clock.sleep(pause) => {}
        }
    }
}

/// Whoever waits to hear whether the topic is served. Nobody does who was told that
/// it will be: then it is tried until it is.
fn asking(
    ready: &mut Option<oneshot::Sender<Result<(), RpcError>>>,
) -> Option<oneshot::Sender<Result<(), RpcError>>> {
    ready.take().filter(|ready| !ready.is_closed())
}

/// What came of setting up a topic's queues.
enum Attached {
    Serving(Vec<ShortString>, Consumers),
    /// Another process serves the host.
    InUse,
}

/// A process may serve very many hosts, and a broker allows few thousand channels:
/// so not all of them are set up at once. The waiting is not a part of the bound.
///
/// A host's queue always answers, if late, and what was asked for is there then: it
/// is waited for, since whoever asks again would find that the queue is taken, by
/// itself.
async fn attach_in_turn(
    inner: &Inner,
    session: &Session,
    dispatcher: &Dispatcher,
) -> Result<lapin::Result<Attached>, tokio::time::error::Elapsed> {
    // It is never closed.
    let _turn = inner.attaching.acquire().await;
    let mut attaching = pin!(attach(inner, session, dispatcher));
    match tokio::time::timeout(ATTACH_BOUND, &mut attaching).await {
        Err(_) if dispatcher.topic.is_host() => {
            warn!(topic = %dispatcher.topic, "the broker is slow to set up a queue");
            Ok(attaching.await)
        }
        other => other,
    }
}

/// Makes the queues of a topic, without serving it.
pub(crate) async fn declare(
    inner: &Inner,
    session: &Session,
    topic: &Topic,
) -> lapin::Result<Declared> {
    if topic.is_host() {
        return session.declare_host(topic).await;
    }
    // A refusal closes the channel on which it happens, and a quorum queue may not
    // answer at all, so this is one of its own.
    let channel = session.connection.create_channel().await?;
    let hex = inner.env.rng.uuid().simple().to_string();
    let declared = layout::declare_topic(&channel, topic, &hex).await?;
    if let Err(error) = channel.close(200, "declared".into()).await {
        debug!(%error, "a channel could not be closed");
    }
    Ok(declared)
}

async fn attach(
    inner: &Inner,
    session: &Session,
    dispatcher: &Dispatcher,
) -> lapin::Result<Attached> {
    let Declared { queues, taken } = declare(inner, session, &dispatcher.topic).await?;
    if taken {
        return Ok(Attached::InUse);
    }
    let (prefetch, alone) = (dispatcher.options.concurrency, dispatcher.topic.is_host());
    match session.consume(&queues, prefetch, alone).await {
        Ok(consumers) => Ok(Attached::Serving(queues, consumers)),
        // Another one was faster.
        Err(error) if alone && is_in_use(&error) => Ok(Attached::InUse),
        Err(error) => Err(error),
    }
}

/// Takes messages until the session or the server ends.
async fn take(
    inner: &Arc<Inner>,
    session: &Arc<Session>,
    dispatcher: &Arc<Dispatcher>,
    server: &Server,
    queues: &[ShortString],
    consumers: Consumers,
) {
    let Consumers { channel, consumers } = consumers;
    let tags: Vec<ShortString> = consumers.iter().map(Consumer::tag).collect();
    // The end of one of them (its queue was deleted) is the end of all.
    let mut messages = futures::stream::select_all(consumers.into_iter().map(|consumer| {
        let end = futures::stream::once(async { None });
        consumer.map(Some).chain(end).boxed()
    }));
    // Beside the messages: a queue without a leader does not answer, and the
    // topic's other queues must not wait for it.
    let look = {
        let (session, queues) = (session.clone(), queues.to_vec());
        let of_host = matches!(server.topic, Topic::Host(_));
        move || -> BoxFuture<'static, bool> {
            let (session, queues) = (session.clone(), queues.clone());
            Box::pin(async move {
                if of_host {
                    session.still_has(&queues).await
                } else {
                    exist(&session, &queues).await
                }
            })
        }
    };
    let mut gone = pin!(until_gone(&inner.env, &server.topic, look));
    loop {
        tokio::select! {
            biased;
            () = server.stop.cancelled() => break,
            () = session.over.cancelled() => return,
            message = messages.next() => match message.flatten() {
                Some(Ok(delivery)) => {
                    inner.heard(session);
                    let one = One {
                        inner: inner.clone(),
                        session: session.clone(),
                        dispatcher: dispatcher.clone(),
                        server: server.clone(),
                    };
                    server.tasks.spawn(one.handle(delivery));
                }
                Some(Err(error)) => {
                    warn!(%error, "receiving failed");
                    break;
                }
                None => {
                    warn!(topic = %server.topic, "the broker ended a consumer");
                    break;
                }
            },
            () = &mut gone => {
                warn!(topic = %server.topic, "a queue is gone");
                break;
            }
        }
    }
    session.cancel(&channel, &tags).await;
    // What was on its way goes back.
    let rest = async {
        while let Some(message) = messages.next().await {
            if let Some(Ok(delivery)) = message {
                give_back(session, &delivery).await;
            }
        }
    };
    if tokio::time::timeout(Duration::from_secs(2), rest)
        .await
        .is_err()
    {
        debug!(topic = %server.topic, "a cancelled consumer did not end");
    }
}

/// Looks again and again whether the topic's queues exist, until one does not.
/// A look that is not answered is waited for, and said so: another one would
/// only wait beside it, on one more channel of the broker's.
async fn until_gone(env: &Env, topic: &Topic, exist: impl Fn() -> BoxFuture<'static, bool>) {
    let clock = &env.clock;
    loop {
        // Half of it by chance: queues that were made together are not looked
        // at together.
        clock.sleep(env.rng.equal_jitter(VERIFY_EVERY)).await;
        let mut look = exist();
        let there = tokio::select! {
            there = &mut look => there,
            // A host's queue always answers, after those of other hosts of the process.
            () = clock.sleep(ATTACH_BOUND), if !topic.is_host() => {
                error!(
                    %topic,
                    "the broker does not say whether a queue exists; it may be a quorum queue \
                     without a leader, which `rabbitmqctl list_queues` shows"
                );
                metrics::counter!("yakumo_rpc_silent_queues_total").increment(1);
                look.await
            }
        };
        if !there {
            return;
        }
    }
}

async fn exist(session: &Session, queues: &[ShortString]) -> bool {
    let Ok(channel) = session.connection.create_channel().await else {
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
    let _ = channel.close(200, "seen".into()).await;
    true
}

/// One message being handled.
struct One {
    inner: Arc<Inner>,
    session: Arc<Session>,
    dispatcher: Arc<Dispatcher>,
    server: Server,
}

impl One {
    async fn handle(self, mut delivery: AmqpDelivery) {
        let bytes = Bytes::from(std::mem::take(&mut delivery.data));
        let read = match principal(&delivery) {
            Some(sender) => Envelope::read(bytes.clone()).map(|envelope| (sender, envelope)),
            None => Err("the broker does not say who sent it".into()),
        };
        let (sender, envelope) = match read {
            Ok(read) => read,
            Err(reason) => return self.park(&delivery, &bytes, &reason).await,
        };
        let id = envelope.id().unwrap_or_default();
        let is_call = envelope.kind() == Some(Kind::Call);
        // Stepping down to a host changes the rights, not the place for replies.
        let asker = sender.clone();
        let work = self.dispatcher.dispatch(Delivery {
            envelope,
            plain: None,
            sender,
            redelivered: delivery.redelivered,
        });
        let verdict = tokio::select! {
            biased;
            () = self.server.kill.cancelled() => return give_back(&self.session, &delivery).await,
            verdict = work => verdict,
        };
        match verdict {
            Verdict::Done(reply) => {
                if let (Some(reply), true) = (reply, is_call) {
                    self.reply(&delivery, &asker, &reply).await;
                }
                self.inner.failures.remove(&id);
                acknowledge(&self.session, &delivery).await;
            }
            Verdict::Park(reason) => {
                self.inner.failures.remove(&id);
                self.park(&delivery, &bytes, &reason).await;
            }
            Verdict::Retry(fault) => {
                let failures = self.count_failure(id, &delivery);
                if failures >= self.dispatcher.options.attempts {
                    self.inner.failures.remove(&id);
                    return self.park(&delivery, &bytes, &fault.message).await;
                }
                let pause = self.dispatcher.options.pause(failures);
                tokio::select! {
                    () = self.server.stop.cancelled() => {}
                    () = self.session.over.cancelled() => {}
                    () = self.inner.env.clock.sleep(pause) => {}
                }
                give_back(&self.session, &delivery).await;
            }
        }
    }

    /// Quorum queues count deliveries for everybody; other queues have one
    /// consumer, which counts by itself.
    fn count_failure(&self, id: Uuid, delivery: &AmqpDelivery) -> u32 {
        let counted = delivery
            .properties
            .headers()
            .as_ref()
            .and_then(|headers| headers.inner().get("x-delivery-count"))
            .and_then(integer)
            .unwrap_or(0);
        if self.inner.failures.len() > FAILURES_LIMIT {
            self.inner.failures.clear();
        }
        let mut own = self.inner.failures.entry(id).or_insert(0);
        *own += 1;
        (*own).max(u32::try_from(counted).unwrap_or(0) + 1)
    }

    async fn reply(&self, delivery: &AmqpDelivery, asker: &Principal, reply: &Reply) {
        let Some(reply_to) = delivery.properties.reply_to() else {
            warn!("a call came without a place for the reply");
            return;
        };
        let Some(route) = layout::reply_route(&self.inner.principal, asker, reply_to.as_str())
        else {
            warn!(%asker, reply_to = reply_to.as_str(), "a reply to a foreign queue was asked for");
            return;
        };
        let mut properties = self.inner.properties().with_delivery_mode(TRANSIENT);
        if let Some(id) = reply.id() {
            // For a caller that can make nothing of the bytes.
            properties = properties.with_correlation_id(id.to_string().into());
        }
        self.session
            .publish_unconfirmed(&route, &reply.encode_to_vec(), properties)
            .await;
    }

    /// Sets a message aside: it is acknowledged once it is safe there.
    async fn park(&self, delivery: &AmqpDelivery, bytes: &Bytes, reason: &str) {
        let envelope = Envelope::read(bytes.clone()).ok();
        warn!(
            reason, topic = %self.server.topic,
            message = envelope.as_ref().and_then(Envelope::id).map(display),
            request_id = envelope.as_ref().map(|it| display(it.request_name())),
            trace_id = envelope.as_ref().and_then(|it| trace::id_in(&it.traceparent)).map(display),
            "a message is parked"
        );
        metrics::counter!("yakumo_rpc_parked_total").increment(1);
        let route: Route = layout::parking_route(&self.inner.principal);
        let properties: BasicProperties = parking::properties(&self.inner, delivery, reason);
        match self.session.publish(&route, bytes, properties, true).await {
            Ok(()) => acknowledge(&self.session, delivery).await,
            Err(error) => {
                warn!(?error, "it could not be parked and goes back");
                let pause = self.dispatcher.options.backoff_limit;
                tokio::select! {
                    () = self.server.stop.cancelled() => {}
                    () = self.session.over.cancelled() => {}
                    () = self.inner.env.clock.sleep(pause) => {}
                }
                give_back(&self.session, delivery).await;
            }
        }
    }
}

fn integer(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::LongLongInt(number) => Some(*number),
        AMQPValue::LongInt(number) => Some(i64::from(*number)),
        AMQPValue::LongUInt(number) => Some(i64::from(*number)),
        AMQPValue::ShortInt(number) => Some(i64::from(*number)),
        AMQPValue::ShortUInt(number) => Some(i64::from(*number)),
        AMQPValue::ShortShortInt(number) => Some(i64::from(*number)),
        AMQPValue::ShortShortUInt(number) => Some(i64::from(*number)),
        _ => None,
    }
}

async fn acknowledge(session: &Session, delivery: &AmqpDelivery) {
    settle(session, delivery.ack(BasicAckOptions::default())).await;
}

async fn give_back(session: &Session, delivery: &AmqpDelivery) {
    let options = BasicNackOptions {
        requeue: true,
        ..BasicNackOptions::default()
    };
    settle(session, delivery.nack(options)).await;
}

/// An error means that the connection is gone, and then the broker brings the
/// message again by itself. A connection that is gone may not say so either.
async fn settle<T>(session: &Session, settled: impl Future<Output = lapin::Result<T>>) {
    tokio::select! {
        biased;
        settled = tokio::time::timeout(SETTLE_BOUND, settled) => match settled {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => debug!(%error, "a message could not be settled"),
            Err(_) => debug!("a message was not settled in time"),
        },
        () = session.over.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::FutureExt;
    use std::sync::atomic::{AtomicU32, Ordering};
    use yakumo_types::{Clock, Rng, Timestamp};

    /// Every pause is over at once.
    struct Hasty;

    impl Clock for Hasty {
        fn now(&self) -> Timestamp {
            Timestamp::from_micros(0)
        }

        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }

        fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
            tokio::task::yield_now().boxed()
        }
    }

    /// No chance at all.
    struct Never;

    impl Rng for Never {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(0);
        }
    }

    fn hasty() -> Env {
        Env {
            clock: Arc::new(Hasty),
            rng: Arc::new(Never),
        }
    }

    #[tokio::test]
    async fn a_queue_that_does_not_answer_is_not_taken_for_gone_and_not_asked_twice() {
        let asked = AtomicU32::new(0);
        let (env, topic) = (hasty(), Topic::Control("api"));
        let mut gone = pin!(until_gone(&env, &topic, || {
            asked.fetch_add(1, Ordering::SeqCst);
            std::future::pending().boxed()
        }));
        for _ in 0..1000 {
            assert!(futures::poll!(&mut gone).is_pending());
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_queue_that_is_gone_is_noticed_at_the_next_look() {
        let asked = AtomicU32::new(0);
        until_gone(&hasty(), &Topic::Control("api"), || {
            let there = asked.fetch_add(1, Ordering::SeqCst) < 2;
            std::future::ready(there).boxed()
        })
        .await;
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }
}
