//! Messages that nobody here can make anything of, and those that come again
//! and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::ensure;
use async_trait::async_trait;
use lapin::message::Delivery;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use uuid::Uuid;
use yakumo_rpc::{
    AmqpConfig, Bus, BusHealth, Handler, Incoming, MAX_PAYLOAD, MethodId, ParkedMessage, RpcError,
    ServeOptions, Target, Topic, Version,
};
use yakumo_types::{Fault, FaultCode};

use crate::deafener::Deafener;
use crate::support::*;

on_both_transports! {
    a_cast_of_a_version_that_nobody_has_is_tried_again_and_then_parked
    a_cast_of_a_newer_version_goes_on_to_the_instance_that_has_it
    a_cast_that_is_cut_off_twice_is_the_same_each_time_and_settled_once
}

/// What the handlers of these tests, which are of version 1.2, do not understand.
const NOT_UNDERSTOOD: [Version; 2] = [
    Version { major: 2, minor: 0 },
    Version { major: 1, minor: 3 },
];

async fn cast_of(world: &World, version: Version) {
    let method = MethodId {
        version,
        ..method("Do")
    };
    let (ctx, target) = (tenant(), world.target());
    let cast = world.control.cast(&ctx, &target, method, b"x".to_vec());
    cast.await.unwrap();
}

/// The message that was set aside, once it is.
async fn parked(bus: &Bus, is_it: impl Fn(&ParkedMessage) -> bool) -> ParkedMessage {
    let look = async {
        loop {
            let all = bus.parked_list(1000).await.unwrap();
            if let Some(found) = all.into_iter().find(&is_it) {
                return found;
            }
            a_moment().await;
        }
    };
    let found = tokio::time::timeout(BOUND, look).await;
    found.expect("the message is parked")
}

async fn a_cast_of_a_version_that_nobody_has_is_tried_again_and_then_parked(world: World) {
    let _alone = PARKED.lock().await;
    let handler = Test::echo();
    let three_times = ServeOptions {
        attempts: 3,
        backoff: Duration::from_millis(100),
        ..options()
    };
    world.serve_with(handler.clone(), three_times).await;
    for asked in NOT_UNDERSTOOD {
        let before = env().now();
        cast_of(&world, asked).await;
        let found = parked(&world.control, |it| it.target == world.topic).await;
        assert_eq!(found.method, format!("{SERVICE}/Do"));
        assert_eq!(found.sender, "control");
        assert!(found.reason.contains(&asked.to_string()), "{found:?}");
        // Between three attempts lie two pauses, the second of which is longer.
        let tried_for = found.parked_at.unwrap().since(before);
        assert!(tried_for >= Duration::from_millis(300), "{tried_for:?}");
        world.control.parked_discard(found.id).await.unwrap();
    }
    assert_eq!(world.call("Do", b"next").await.unwrap(), b"next");
    assert_eq!(handler.payloads(), [b"next".to_vec()]);
}

/// The same contract in another version.
struct Of(Version, Arc<Test>);

#[async_trait]
impl Handler for Of {
    fn service(&self) -> &'static str {
        self.1.service()
    }

    fn version(&self) -> Version {
        self.0
    }

    async fn handle(&self, incoming: Incoming) -> Result<Vec<u8>, Fault> {
        self.1.handle(incoming).await
    }
}

async fn a_cast_of_a_newer_version_goes_on_to_the_instance_that_has_it(world: World) {
    let old = Test::echo();
    // For longer than the newer one takes to come, and less often than makes the
    // broker park it.
    let patient = ServeOptions {
        attempts: 25,
        backoff: Duration::from_millis(400),
        backoff_limit: Duration::from_millis(400),
        ..options()
    };
    world.serve_with(old.clone(), patient.clone()).await;
    for asked in NOT_UNDERSTOOD {
        cast_of(&world, asked).await;
        let new = Test::echo();
        let handler = Arc::new(Of(asked, new.clone()));
        let server = world
            .other
            .serve(world.topic(), vec![handler], patient.clone())
            .await
            .unwrap();
        until("the newer one has it", || new.count() == 1).await;
        let incoming = new.nth(0);
        assert_eq!(incoming.version, asked);
        assert!(incoming.redelivered);
        assert!(server.stop(BOUND).await);
        assert_eq!(new.count(), 1);
    }
    assert_eq!(old.count(), 0);
}

async fn a_cast_that_is_cut_off_twice_is_the_same_each_time_and_settled_once(world: World) {
    let _alone = PARKED.lock().await;
    world.control.declare(&world.topic()).await.unwrap();
    world.cast("Do", b"mine").await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let stuck = Test::new(|_| async {
            std::future::pending::<()>().await;
            Ok(vec![])
        });
        let server = world.serve(stuck.clone()).await;
        until("it hangs", || stuck.count() == 1).await;
        assert!(!server.stop(Duration::from_millis(100)).await);
        seen.push(stuck.nth(0));
    }
    let last = Test::echo();
    let server = world.serve(last.clone()).await;
    until("it is handled", || last.count() == 1).await;
    assert!(server.stop(BOUND).await);
    seen.push(last.nth(0));
    are_one(&seen);
    nothing_is_left(&world.control, world.topic()).await;
}

/// Deliveries of one message, each but the first marked as a repetition.
fn are_one(seen: &[Incoming]) {
    for (number, incoming) in seen.iter().enumerate() {
        assert_eq!(incoming.message_id, seen[0].message_id, "{number}");
        assert_eq!(incoming.payload, seen[0].payload, "{number}");
        assert_eq!(incoming.redelivered, number > 0, "{number}");
    }
}

/// Whoever serves the topic next is given what is sent from then on, and nothing
/// that was sent before.
async fn nothing_is_left(bus: &Bus, topic: Topic) {
    let next = Test::echo();
    // The broker may see the last one go a moment later.
    let taken = async {
        loop {
            let serving = bus.serve(topic.clone(), vec![next.clone()], options());
            match serving.await {
                Err(RpcError::InUse(_)) => a_moment().await,
                taken => return taken.unwrap(),
            }
        }
    };
    let server = tokio::time::timeout(BOUND, taken).await.unwrap();
    let name = topic.name();
    let (ctx, target) = (tenant(), Target { topic });
    let cast = bus.cast(&ctx, &target, method("Do"), b"next".to_vec());
    cast.await.unwrap();
    until("the next one came", || next.count() > 0).await;
    a_moment().await;
    assert_eq!(next.payloads(), [b"next".to_vec()]);
    assert!(server.stop(BOUND).await);
    let all = bus.parked_list(1000).await.unwrap();
    assert!(all.iter().all(|it| it.target != name), "{all:?}");
}

/// What goes over the wire with every acknowledgement and nothing else of ours:
/// the method `basic.ack` (60, 80).
const ACKNOWLEDGEMENT: &str = "\0\x3c\0\x50";

/// Whoever serves the topic handles a cast and loses its connection before the
/// broker has heard so, twice.
async fn acknowledgements_are_cut_off_twice(topic: Topic) {
    let world = World::new(Transport::Amqp).await;
    let _alone = PARKED.lock().await;
    let (broker, _, _) = broker().await;
    let between = Arc::new(Deafener::new(broker.port()).await);
    let bus = connect(&between.url("guest:guest")).await;
    let (cut, left) = (between.clone(), AtomicUsize::new(2));
    let handler = Test::new(move |_| {
        let order = Ordering::SeqCst;
        let again = left.fetch_update(order, order, |left| left.checked_sub(1));
        if again.is_ok() {
            cut.cut_at(ACKNOWLEDGEMENT);
        }
        async { Ok(vec![]) }
    });
    let server = bus
        .serve(topic.clone(), vec![handler.clone()], options())
        .await
        .unwrap();
    let (ctx, target) = (
        tenant(),
        Target {
            topic: topic.clone(),
        },
    );
    let cast = world
        .control
        .cast(&ctx, &target, method("Do"), b"mine".to_vec());
    cast.await.unwrap();
    until("it came three times", || handler.count() == 3).await;
    assert_eq!(between.made.load(Ordering::SeqCst), 3);
    assert!(server.stop(BOUND).await);
    bus.close().await;
    are_one(&handler.seen.lock().unwrap());
    nothing_is_left(&world.control, topic).await;
    assert_eq!(handler.count(), 3);
}

/// The class and the method of `basic.consume`, as in its frame.
const CONSUME: &str = "\0\x3c\0\x14";

/// Longer than a process waits for its queues before it says so, and shorter than
/// it waits with serving.
const SLOW: Duration = Duration::from_secs(23);

async fn is_served_by_a_slow_broker(topic: Topic) {
    let world = World::new(Transport::Amqp).await;
    let (broker, _, _) = broker().await;
    let between = Arc::new(Deafener::new(broker.port()).await);
    let bus = connect(&between.url("guest:guest")).await;
    until("connected", || bus.health() == BusHealth::Connected).await;
    between.hold_at(CONSUME);
    let slow = between.clone();
    tokio::spawn(async move {
        until("it asked for its consumer", || slow.holds()).await;
        env().clock.sleep(SLOW).await;
        slow.let_go();
    });
    let _server = bus
        .serve(topic.clone(), vec![Test::echo()], options())
        .await
        .unwrap();
    // More than one: a consumer that nobody listens to would take some of them.
    for _ in 0..6 {
        let (ctx, target, echo) = (
            tenant(),
            Target {
                topic: topic.clone(),
            },
            b"echo".to_vec(),
        );
        let asked = world.control.call(&ctx, &target, method("Do"), echo, BOUND);
        assert_eq!(asked.await.unwrap(), b"echo");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_whose_broker_is_slow_does_not_wait_for_itself() {
    let name = format!("h-{}", fresh_topic());
    is_served_by_a_slow_broker(Topic::Host(name)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_whose_broker_is_slow_leaves_no_consumer_behind() {
    is_served_by_a_slow_broker(Topic::Control(fresh_topic())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cast_to_a_service_comes_until_its_acknowledgement_is_heard() {
    acknowledgements_are_cut_off_twice(Topic::Control(fresh_topic())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cast_to_a_host_comes_until_its_acknowledgement_is_heard() {
    let name = format!("h-{}", fresh_topic());
    acknowledgements_are_cut_off_twice(Topic::Host(name)).await;
}

/// The broker without the bus: nothing of ours looks at what is put there.
struct Raw {
    channel: Channel,
    user: String,
    _connection: Connection,
}

impl Raw {
    async fn new() -> Self {
        let (broker, _, _) = broker().await;
        Self::over(&broker.url(), "guest").await
    }

    async fn over(url: &str, user: &str) -> Self {
        let properties = ConnectionProperties::default();
        let connection = Connection::connect(url, properties).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .unwrap();
        Self {
            channel,
            user: user.to_owned(),
            _connection: connection,
        }
    }

    /// Puts it into a queue, as a control service.
    async fn publish(&self, queue: &str, bytes: &[u8]) {
        let properties = BasicProperties::default();
        self.send("", queue, bytes, properties).await;
    }

    /// Answers as a host does, with the call beside the bytes.
    async fn answer(&self, reply_to: &str, call: Uuid, bytes: &[u8]) {
        let properties = BasicProperties::default().with_correlation_id(call.to_string().into());
        self.send("yakumo.reply", reply_to, bytes, properties).await;
    }

    async fn send(&self, exchange: &str, key: &str, bytes: &[u8], properties: BasicProperties) {
        let properties = properties.with_user_id(self.user.as_str().into());
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let confirmation = self
            .channel
            .basic_publish(exchange.into(), key.into(), options, bytes, properties)
            .await
            .unwrap()
            .await
            .unwrap();
        assert!(matches!(confirmation, Confirmation::Ack(None)));
    }

    /// Takes the next message of a queue out of it.
    async fn take(&self, queue: &str) -> Delivery {
        let look = async {
            loop {
                let options = BasicGetOptions { no_ack: true };
                let got = self.channel.basic_get(queue.into(), options).await.unwrap();
                if let Some(got) = got {
                    return got.delivery;
                }
                a_moment().await;
            }
        };
        let got = tokio::time::timeout(BOUND, look).await;
        got.expect("there is a message in the queue")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envelope_of_an_unknown_version_is_parked_and_the_topic_serves_on() {
    let world = World::new(Transport::Amqp).await;
    let _alone = PARKED.lock().await;
    let raw = Raw::new().await;
    let casts = format!("yakumo.{}", world.topic);
    let calls = format!("{casts}.calls");
    // One that the bus made itself, of which nothing but the version is changed.
    world.control.declare(&world.topic()).await.unwrap();
    world.cast("Do", b"known").await;
    let known = raw.take(&casts).await.data;
    let handler = Test::echo();
    world.serve(handler.clone()).await;
    for (queue, version) in [(&casts, 2), (&calls, 0)] {
        // Of a number that comes twice, the later field counts; 1 is the version.
        let unknown = [&known[..], &[0x08, version]].concat();
        raw.publish(queue, &unknown).await;
        let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, &unknown);
        let found = parked(&world.control, |it| it.id == id).await;
        let reason = format!("envelope version {version} ");
        assert!(found.reason.contains(&reason), "{found:?}");
        assert_eq!((found.target.as_str(), found.method.as_str()), ("", ""));
        assert_eq!(found.sender, "control");
        assert_eq!(found.size, unknown.len());
        world.control.parked_discard(id).await.unwrap();
    }
    assert_eq!(handler.count(), 0);

    raw.publish(&casts, &known).await;
    until("the known one is handled", || handler.count() == 1).await;
    assert_eq!(world.call("Do", b"next").await.unwrap(), b"next");
    assert_eq!(handler.payloads(), [b"known".to_vec(), b"next".to_vec()]);
}

/// Calls a method and does not wait here.
fn ask(bus: &Bus, target: Target, bound: Duration) -> JoinHandle<Outcome> {
    let bus = bus.clone();
    tokio::spawn(async move {
        let ctx = tenant();
        let call = bus.call(&ctx, &target, method("Do"), b"x".to_vec(), bound);
        call.await
    })
}

/// The call's id and the queue in which its reply is waited for.
fn question(delivery: &Delivery) -> (Uuid, String) {
    let properties = &delivery.properties;
    let id = properties.message_id().as_ref().unwrap();
    let reply_to = properties.reply_to().as_ref().unwrap();
    (
        Uuid::parse_str(id.as_str()).unwrap(),
        reply_to.as_str().to_owned(),
    )
}

/// A reply as it travels: fields by number, as any protobuf library would write
/// them. Outcomes: 1 payload, 2 fault as JSON.
fn reply(id: Uuid, outcome: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    let mut out = vec![0x08, 1, 0x12, 16];
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(&[0x18, outcome, 0x22, length]);
    out.extend_from_slice(payload);
    out
}

/// Answers to a call that nobody can read.
fn unreadable(call: Uuid) -> [Vec<u8>; 5] {
    let mut cut_short = reply(call, 1, b"cut short");
    cut_short.pop();
    [
        vec![],
        RUBBISH.to_vec(),
        // An id of three bytes.
        vec![0x08, 1, 0x12, 3, 1, 2, 3],
        cut_short,
        vec![0; 2 * MAX_PAYLOAD],
    ]
}

const RUBBISH: &[u8] = b"\xff\xff\xff";

/// A call's deadline that no test waits for.
const LONG: Duration = Duration::from_secs(600);

/// The call ends long before its deadline, as one whose answer cannot be read.
/// A service that nothing of ours serves, and the queue of what it is asked.
async fn answered_by_hand() -> (World, Raw, String) {
    let world = World::new(Transport::Amqp).await;
    world.other.declare(&world.topic()).await.unwrap();
    let calls = format!("yakumo.{}.calls", world.topic);
    (world, Raw::new().await, calls)
}

async fn ends_as_malformed(call: JoinHandle<Outcome>) -> anyhow::Result<()> {
    let ended = tokio::time::timeout(BOUND, call).await??;
    ensure!(matches!(ended, Err(RpcError::Malformed(_))), "{ended:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_reply_ends_the_call_that_is_named_beside_it() -> anyhow::Result<()> {
    let (world, raw, calls) = answered_by_hand().await;
    for bytes in unreadable(Uuid::nil()) {
        let other = ask(&world.control, world.target(), LONG);
        let (of_other, _) = question(&raw.take(&calls).await);
        let call = ask(&world.control, world.target(), LONG);
        let (id, reply_to) = question(&raw.take(&calls).await);
        raw.answer(&reply_to, id, &bytes).await;
        ends_as_malformed(call).await?;
        let fine = reply(of_other, 1, b"fine");
        raw.publish(&reply_to, &fine).await;
        let said = other.await??;
        ensure!(said == b"fine", "{said:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_reply_ends_no_call_of_which_its_sender_was_not_asked() -> anyhow::Result<()>
{
    let world = World::new(Transport::Amqp).await;
    let (broker, stranger, _) = broker().await;
    let name = format!("h-{}", fresh_topic());
    let url = broker.add_host(&name, "ph").await?;
    let stranger = Raw::over(stranger, "host.a").await;
    let host = Raw::over(&url, &format!("host.{name}")).await;
    let raw = Raw::new().await;
    let queue = format!("host.{name}");
    world.control.declare(&Topic::Host(name.clone())).await?;
    world.control.declare(&world.topic()).await?;

    let of_service = ask(&world.control, world.target(), LONG);
    let calls = format!("yakumo.{}.calls", world.topic);
    let (to_service, reply_to) = question(&raw.take(&calls).await);
    let of_host = ask(&world.control, Target::host(name.clone()), LONG);
    let (to_host, _) = question(&raw.take(&queue).await);
    stranger.answer(&reply_to, to_service, RUBBISH).await;
    stranger.answer(&reply_to, to_host, RUBBISH).await;
    host.answer(&reply_to, to_service, RUBBISH).await;
    // What is true comes behind those, and is what the callers get.
    let fine = reply(to_service, 1, b"fine");
    raw.answer(&reply_to, to_service, &fine).await;
    let said = of_service.await??;
    ensure!(said == b"fine", "{said:?}");
    let fine = reply(to_host, 1, b"fine");
    host.answer(&reply_to, to_host, &fine).await;
    let said = of_host.await??;
    ensure!(said == b"fine", "{said:?}");

    // Whoever was asked may say nothing that makes sense.
    let of_host = ask(&world.control, Target::host(name), LONG);
    let (to_host, _) = question(&raw.take(&queue).await);
    host.answer(&reply_to, to_host, RUBBISH).await;
    ends_as_malformed(of_host).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_names_its_call_beside_its_bytes() -> anyhow::Result<()> {
    let (world, raw, calls) = answered_by_hand().await;
    let caller = ask(&world.control, world.target(), LONG);
    let asked = raw.take(&calls).await;
    caller.abort();
    // The same question, with another place for the answer.
    let own = format!("yakumo.reply.{}", env().rng.uuid().simple());
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let declared = raw
        .channel
        .queue_declare(own.as_str().into(), options, FieldTable::default());
    declared.await?;
    let properties = BasicProperties::default().with_reply_to(own.as_str().into());
    raw.send("", &calls, &asked.data, properties).await;
    world.serve(Test::echo()).await;
    let answer = raw.take(&own).await;
    let (id, _) = question(&asked);
    let named = answer.properties.correlation_id().as_ref();
    let named = named.map(|it| it.as_str().to_owned());
    ensure!(named == Some(id.to_string()), "{named:?}, not {id}");
    ensure!(answer.data == reply(id, 1, b"x"), "{:?}", answer.data);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_reply_that_names_no_call_ends_its_own_at_the_bound_and_no_other() {
    let world = World::new(Transport::Amqp).await;
    let raw = Raw::new().await;
    let gate = Arc::new(Semaphore::new(0));
    let pass = gate.clone();
    let handler = Test::new(move |incoming| {
        let pass = pass.clone();
        async move {
            pass.acquire().await.unwrap().forget();
            Ok(incoming.payload.to_vec())
        }
    });
    let served = fresh_topic();
    world
        .other
        .serve(Topic::Control(served), vec![handler.clone()], options())
        .await
        .unwrap();
    let other = ask(&world.control, Target::service(served), BOUND);
    until("the other call waits", || handler.count() == 1).await;

    // Nobody serves this topic; what is asked there is answered by hand.
    world.other.declare(&world.topic()).await.unwrap();
    let spoiled = ask(&world.control, world.target(), Duration::from_secs(5));
    let calls = format!("yakumo.{}.calls", world.topic);
    let (id, reply_to) = question(&raw.take(&calls).await);
    for bytes in unreadable(id) {
        raw.publish(&reply_to, &bytes).await;
    }
    // Its reply comes behind those.
    gate.add_permits(2);
    assert_eq!(other.await.unwrap().unwrap(), b"x");
    // Had the connection been given up, it would have ended as unavailable.
    let ended = tokio::time::timeout(BOUND, spoiled).await;
    assert!(matches!(ended, Ok(Ok(Err(RpcError::Timeout)))), "{ended:?}");
    let next = ask(&world.control, Target::service(served), BOUND);
    assert_eq!(next.await.unwrap().unwrap(), b"x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_that_says_nothing_is_an_internal_fault_and_the_next_one_is_taken() {
    let (world, raw, calls) = answered_by_hand().await;
    let answered = async |outcome, payload: &[u8]| {
        let call = ask(&world.control, world.target(), BOUND);
        let (id, reply_to) = question(&raw.take(&calls).await);
        raw.publish(&reply_to, &reply(id, outcome, payload)).await;
        call.await.unwrap()
    };
    // An outcome that is none, and a fault that is none.
    for (outcome, payload) in [(9, &b"x"[..]), (2, &b"no JSON"[..])] {
        let error = answered(outcome, payload).await.unwrap_err();
        assert!(matches!(error, RpcError::Malformed(_)), "{error:?}");
        assert_eq!(Fault::from(error).code, FaultCode::Internal);
    }
    assert_eq!(answered(1, &b"fine"[..]).await.unwrap(), b"fine");
}

/// The queue whose one consumer is who looks at what is parked.
const TURN: &str = "yakumo.parked.turn";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_look_at_what_is_parked_do_not_hide_it_from_each_other() -> anyhow::Result<()> {
    let world = World::new(Transport::Amqp).await;
    let _alone = PARKED.lock().await;
    let raw = Raw::new().await;
    let mut ids = Vec::new();
    for number in 0..40 {
        let bytes = format!("{} {number}", world.topic);
        raw.publish("yakumo.parked", bytes.as_bytes()).await;
        ids.push(Uuid::new_v5(&Uuid::NAMESPACE_OID, bytes.as_bytes()));
    }
    let (one, two) = (&world.control, &world.other);
    let lists = [one, two, one, two].map(|bus| bus.parked_list(1000));
    for list in futures::future::join_all(lists).await {
        let list = list?;
        let seen = |id: &&Uuid| list.iter().any(|it| it.id == **id);
        let seen = ids.iter().filter(seen).count();
        ensure!(seen == ids.len(), "{seen} of {}", ids.len());
    }
    for pair in ids.chunks(2) {
        let [first, second] = pair else { continue };
        let (first, second) = tokio::join!(one.parked_discard(*first), two.parked_discard(*second));
        first?;
        second?;
    }
    let rest = one.parked_list(1000).await?;
    ensure!(!rest.iter().any(|it| ids.contains(&it.id)), "{rest:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_looks_at_what_is_parked_is_waited_for_and_not_for_ever() -> anyhow::Result<()> {
    let world = World::new(Transport::Amqp).await;
    let _alone = PARKED.lock().await;
    let (broker, _, _) = broker().await;
    let impatient = AmqpConfig {
        patience: Duration::from_secs(1),
        ..config(&broker.url())
    };
    let impatient = Bus::connect(impatient, env(), seal()).await?;
    for bus in [&impatient, &world.other] {
        until("connected", || bus.health() == BusHealth::Connected).await;
    }
    // Makes the queue.
    impatient.parked_list(1).await?;
    let raw = Raw::new().await;
    let options = BasicConsumeOptions {
        exclusive: true,
        ..BasicConsumeOptions::default()
    };
    let turn = raw
        .channel
        .basic_consume(TURN.into(), "".into(), options, FieldTable::default())
        .await?;

    let refused = impatient.parked_list(1).await;
    let why = match &refused {
        Err(RpcError::Refused(why)) => why.as_str(),
        _ => "",
    };
    ensure!(why.contains("another command"), "{refused:?}");
    let patient = world.other.clone();
    let waits = tokio::spawn(async move { patient.parked_list(1).await });
    a_moment().await;
    ensure!(!waits.is_finished(), "it does not wait");
    let options = BasicCancelOptions::default();
    raw.channel.basic_cancel(turn.tag(), options).await?;
    waits.await??;
    Ok(())
}
