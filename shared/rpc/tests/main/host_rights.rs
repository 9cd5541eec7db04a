//! What a host's broker user can do, and what somebody who stole its password
//! cannot: tried with a bare AMQP client, as a thief would.

use lapin::message::Delivery;
use lapin::options::*;
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ErrorKind};
use yakumo_rpc::{Bus, BusHealth, Principal, RpcError, Target, Topic};
use yakumo_types::FaultCode;

use crate::support::*;

/// Held by those who serve the queues of `a` or `b`: each has one consumer.
static HOST_QUEUES: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

struct Thief {
    connection: Connection,
}

impl Thief {
    async fn new(url: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await;
        Self {
            connection: connection.unwrap(),
        }
    }

    async fn channel(&self) -> Channel {
        let channel = self.connection.create_channel().await.unwrap();
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .unwrap();
        channel
    }

    async fn declare(&self, queue: &str) -> lapin::Result<()> {
        let (options, arguments) = (QueueDeclareOptions::default(), FieldTable::default());
        self.channel()
            .await
            .queue_declare(queue.into(), options, arguments)
            .await
            .map(drop)
    }

    async fn consume(&self, queue: &str) -> lapin::Result<()> {
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let channel = self.channel().await;
        channel
            .basic_consume(queue.into(), "".into(), options, arguments)
            .await
            .map(drop)
    }

    async fn get(&self, queue: &str) -> lapin::Result<Option<Delivery>> {
        let got = self
            .channel()
            .await
            .basic_get(queue.into(), BasicGetOptions::default())
            .await?;
        Ok(got.map(|got| got.delivery))
    }

    async fn bind(&self, queue: &str, exchange: &str, key: &str) -> lapin::Result<()> {
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        let channel = self.channel().await;
        channel
            .queue_bind(
                queue.into(),
                exchange.into(),
                key.into(),
                options,
                arguments,
            )
            .await
    }

    async fn publish(&self, exchange: &str, key: &str, user: &str) -> lapin::Result<()> {
        let properties = BasicProperties::default().with_user_id(user.into());
        let options = BasicPublishOptions::default();
        self.channel()
            .await
            .basic_publish(exchange.into(), key.into(), options, b"stolen", properties)
            .await?
            .await
            .map(drop)
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(what: &str, result: lapin::Result<T>, code: u16) {
    match result {
        Err(error) => match error.kind() {
            ErrorKind::ProtocolError(error) => assert_eq!(error.get_id(), code, "{what}: {error}"),
            other => panic!("{what}: {other:?}"),
        },
        Ok(done) => panic!("{what} was allowed: {done:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_host_password_opens_nothing_else() {
    let (broker, a, b) = broker().await;
    let _quiet = BROKER_PEACE.read().await;
    let _mine = HOST_QUEUES.lock().await;
    let _alone = PARKED.lock().await;
    let control = connect(&broker.url()).await;
    let name = fresh_topic();
    control
        .serve(Topic::Control(name), vec![Test::echo()], options())
        .await
        .unwrap();
    let host_b = connect(b).await;
    host_b
        .serve(Topic::Host("b".into()), vec![Test::echo()], options())
        .await
        .unwrap();
    let thief = Thief::new(a).await;
    let queue = format!("yakumo.{name}");
    let hex = "0123456789abcdef0123456789abcdef";

    // Queues: only its own.
    for foreign in [
        "host.b",
        "host.c",
        "host.ab",
        &queue,
        "yakumo.parked",
        "mine",
    ] {
        refused(foreign, thief.declare(foreign).await, 403);
    }
    refused(
        "a reply queue of b",
        thief.declare(&format!("host-reply.b.{hex}")).await,
        403,
    );
    refused(
        "a control reply queue",
        thief.declare(&format!("yakumo.reply.{hex}")).await,
        403,
    );
    for foreign in ["host.b", &queue, &format!("{queue}.calls"), "yakumo.parked"] {
        refused(foreign, thief.consume(foreign).await, 403);
        refused(foreign, thief.get(foreign).await, 403);
        let channel = thief.channel().await;
        let purged = channel
            .queue_purge(foreign.into(), QueuePurgeOptions::default())
            .await;
        refused(foreign, purged, 403);
        let channel = thief.channel().await;
        let deleted = channel
            .queue_delete(foreign.into(), QueueDeleteOptions::default())
            .await;
        refused(foreign, deleted, 403);
    }

    // Publishing: only reports, under its own name, and answers to control services.
    for key in ["host.b", &queue, "yakumo.parked"] {
        refused(key, thief.publish("", key, "host.a").await, 403);
    }
    refused(
        "fanout",
        thief.publish("yakumo.fanout", name, "host.a").await,
        403,
    );
    refused(
        "b's replies",
        thief
            .publish("yakumo.reply", &format!("host-reply.b.{hex}"), "host.a")
            .await,
        403,
    );
    refused(
        "strange key",
        thief.publish("yakumo.report", "#", "host.a").await,
        403,
    );
    refused(
        "as b",
        thief.publish("yakumo.report", name, "host.b").await,
        406,
    );
    refused(
        "as control",
        thief.publish("yakumo.report", name, "guest").await,
        406,
    );
    thief
        .publish("yakumo.report", "parked", "host.a")
        .await
        .unwrap();

    // Listening in on what others say.
    refused(
        "a bound queue",
        thief.bind(&queue, "yakumo.report", "#").await,
        403,
    );
    let own = Thief::new(a).await;
    let _ = own
        .channel()
        .await
        .queue_declare("host.a".into(), host_queue(), host_arguments())
        .await
        .unwrap();
    for exchange in ["yakumo.report", "yakumo.reply", "yakumo.fanout"] {
        refused(exchange, own.bind("host.a", exchange, "#").await, 403);
    }
    let channel = thief.channel().await;
    let exchange = channel
        .exchange_declare(
            "yakumo.mine".into(),
            lapin::ExchangeKind::Fanout,
            ExchangeDeclareOptions::default(),
            FieldTable::default(),
        )
        .await;
    refused("an exchange", exchange, 403);

    // What the thief left for the operator names the thief.
    let parked = loop {
        let all = control.parked_list(1000).await.unwrap();
        if let Some(found) = all.into_iter().find(|it| it.sender == "host.a") {
            break found;
        }
        a_moment().await;
    };
    control.parked_discard(parked.id).await.unwrap();
}

fn host_queue() -> QueueDeclareOptions {
    QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    }
}

fn host_arguments() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), 10_000.into());
    arguments.insert("x-expires".into(), 86_400_000.into());
    arguments.insert(
        "x-overflow".into(),
        lapin::types::AMQPValue::LongString("reject-publish".into()),
    );
    arguments
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_serves_its_own_queue_and_reports_with_its_own_password() {
    let (broker, _, b) = broker().await;
    let _quiet = BROKER_PEACE.read().await;
    let _mine = HOST_QUEUES.lock().await;
    let control = connect(&broker.url()).await;
    let name = fresh_topic();
    let reports = Test::echo();
    control
        .serve(Topic::Control(name), vec![reports.clone()], options())
        .await
        .unwrap();
    // A host can open contexts and seal none.
    let seal = std::sync::Arc::new(TestSeal { may_seal: false });
    let host = Bus::connect(config(b), env(), seal).await.unwrap();
    until("connected", || host.health() == BusHealth::Connected).await;
    let orders = Test::echo();
    let own = Topic::Host("b".into());
    let server = host
        .serve(own, vec![orders.clone()], options())
        .await
        .unwrap();

    let context = tenant();
    let target = Target::host("b");
    let reply = control
        .call(&context, &target, method("Spawn"), b"1".to_vec(), BOUND)
        .await;
    assert_eq!(reply.unwrap(), b"1");
    assert_eq!(orders.nth(0).context, context);
    control
        .cast(&context, &target, method("Spawn"), b"2".to_vec())
        .await
        .unwrap();
    until("the order came", || orders.count() == 2).await;

    let to_control = Target::service(name);
    let reply = host
        .call(
            &host_context(),
            &to_control,
            method("Report"),
            b"3".to_vec(),
            BOUND,
        )
        .await;
    assert_eq!(reply.unwrap(), b"3");
    assert_eq!(reports.nth(0).sender, Principal::Host("b".into()));
    host.cast(
        &host_context(),
        &to_control,
        method("Report"),
        b"4".to_vec(),
    )
    .await
    .unwrap();
    until("the report came", || reports.count() == 2).await;

    // Under b's password nobody is host a, or a control service.
    let as_a = host.as_host("a").forging();
    let call = as_a
        .call(
            &host_context(),
            &to_control,
            method("Report"),
            vec![],
            BOUND,
        )
        .await;
    assert!(matches!(call, Err(RpcError::Remote(_))), "{call:?}");
    let call = host
        .as_host("a")
        .call(
            &host_context(),
            &to_control,
            method("Report"),
            vec![],
            BOUND,
        )
        .await;
    assert!(
        matches!(&call, Err(RpcError::Remote(fault)) if fault.code == FaultCode::Forbidden),
        "{call:?}"
    );
    assert_eq!(reports.count(), 2);

    // A host's hopeless message is parked through the report exchange.
    let other = host
        .serve(Topic::Host("a".into()), vec![Test::echo()], options())
        .await;
    assert!(matches!(other, Err(RpcError::Refused(_))));
    server.stop(BOUND).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_host_parked_is_replayed_to_that_host_only() {
    let (broker, a, _) = broker().await;
    let _quiet = BROKER_PEACE.read().await;
    let _mine = HOST_QUEUES.lock().await;
    let _alone = PARKED.lock().await;
    let control = connect(&broker.url()).await;
    let name = fresh_topic();
    let seen = Test::echo();
    control
        .serve(Topic::Control(name), vec![seen.clone()], options())
        .await
        .unwrap();
    let host = connect(a).await;
    until("connected", || host.health() == BusHealth::Connected).await;
    let failing = Test::new(|_| async { Err(yakumo_types::Fault::unavailable("Disk full.")) });
    let own = Topic::Host("a".into());
    let server = host
        .serve(own, vec![failing.clone()], options())
        .await
        .unwrap();
    control
        .cast(&admin(), &Target::host("a"), method("Spawn"), b"x".to_vec())
        .await
        .unwrap();
    until("it was tried", || failing.count() == 3).await;
    let parked = loop {
        let all = control.parked_list(1000).await.unwrap();
        if let Some(found) = all.into_iter().find(|it| it.target == "host.a") {
            break found;
        }
        a_moment().await;
    };
    assert_eq!(
        (parked.sender.as_str(), parked.reason.as_str()),
        ("control", "Disk full.")
    );

    // The thief keeps the sealed admin context of an order that it was sent,
    // and parks it in an order of its own for a control service.
    let thief = Thief::new(a).await;
    let stolen = forged_order(name);
    let mut headers = FieldTable::default();
    headers.insert(
        "x-yakumo-sender".into(),
        lapin::types::AMQPValue::LongString("control".into()),
    );
    let properties = BasicProperties::default()
        .with_user_id("host.a".into())
        .with_headers(headers);
    let options = BasicPublishOptions::default();
    let channel = thief.channel().await;
    channel
        .basic_publish(
            "yakumo.report".into(),
            "parked".into(),
            options,
            &stolen,
            properties,
        )
        .await
        .unwrap()
        .await
        .unwrap();
    let forged = loop {
        let all = control.parked_list(1000).await.unwrap();
        if let Some(found) = all.into_iter().find(|it| it.target == name) {
            break found;
        }
        a_moment().await;
    };
    let replayed = control.parked_replay(forged.id).await;
    assert!(
        matches!(replayed, Err(RpcError::Refused(_))),
        "{replayed:?}"
    );
    assert_eq!(seen.count(), 0);
    control.parked_discard(forged.id).await.unwrap();

    // The honest one goes back to the host.
    control.parked_replay(parked.id).await.unwrap();
    until("it came again", || failing.count() > 3).await;
    server.stop(BOUND).await;
}

/// An order for a control service under an admin's seal, as bytes: fields by
/// number, as any protobuf library would write them.
fn forged_order(topic: &str) -> Vec<u8> {
    use yakumo_types::ContextSeal;
    fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
        let tag = (u32::from(number) << 3) | 2;
        for mut value in [tag, u32::try_from(bytes.len()).unwrap()] {
            while value >= 0x80 {
                out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
                value >>= 7;
            }
            out.push(u8::try_from(value).unwrap());
        }
        out.extend_from_slice(bytes);
    }
    let sealed = TestSeal { may_seal: true }.seal(&admin()).unwrap();
    let mut out = vec![0x08, 1, 0x18, 2, 0x30, 1];
    field(&mut out, 2, env().rng.uuid().as_bytes());
    field(&mut out, 4, SERVICE.as_bytes());
    field(&mut out, 5, b"Do");
    field(&mut out, 9, sealed.as_bytes());
    field(&mut out, 14, topic.as_bytes());
    out
}
