//! What only a real broker can do to us: restart, go deaf, be full, carry
//! nonsense. Each test that stops the broker has it to itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use yakumo_rpc::{AmqpConfig, Bus, BusHealth, RpcError, ServeOptions, Target, Topic};
use yakumo_types::{Fault, FaultCode};

use crate::deafener::Deafener;
use crate::support::*;

fn patient(url: &str) -> AmqpConfig {
    AmqpConfig {
        patience: Duration::from_secs(90),
        ..config(url)
    }
}

async fn call(bus: &Bus, topic: &'static str) -> Outcome {
    bus.call(
        &tenant(),
        &Target::service(topic),
        method("Do"),
        vec![1],
        BOUND,
    )
    .await
}

/// Casts without a pause while `disturb` runs; everything that the broker took
/// must be handled.
async fn casts_survive(disturb: impl AsyncFnOnce()) {
    let (broker, _, _) = broker().await;
    let _alone = BROKER_PEACE.write().await;
    let (bus, receiver) = (
        Bus::connect(patient(&broker.url()), env(), seal())
            .await
            .unwrap(),
        connect(&broker.url()).await,
    );
    let name = fresh_topic();
    let handler = Test::echo();
    let server = receiver
        .serve(Topic::Control(name), vec![handler.clone()], options())
        .await
        .unwrap();
    let over = Arc::new(AtomicUsize::new(0));
    let senders = (0..4_u8).map(|sender| {
        let (bus, over) = (bus.clone(), over.clone());
        tokio::spawn(async move {
            let mut taken = Vec::new();
            let mut number = 0_u16;
            while over.load(Ordering::SeqCst) == 0 || number < 200 {
                let payload = [vec![sender], number.to_be_bytes().to_vec()].concat();
                let target = Target::service(name);
                match bus
                    .cast(&tenant(), &target, method("Do"), payload.clone())
                    .await
                {
                    Ok(()) => taken.push(payload),
                    Err(error) => panic!("cast {number}: {error:?}"),
                }
                number += 1;
                env().clock.sleep(Duration::from_millis(3)).await;
            }
            taken
        })
    });
    let senders: Vec<_> = senders.collect();
    until("casts flow", || handler.count() > 50).await;
    // RabbitMQ writes down where a new quorum queue lives within a second; one
    // that is killed before comes back with a queue that nobody can use.
    env().clock.sleep(Duration::from_secs(2)).await;
    disturb().await;
    let before = handler.count();
    until("casts flow again", || handler.count() > before + 50).await;
    over.store(1, Ordering::SeqCst);
    let mut taken = BTreeSet::new();
    for sender in senders {
        taken.extend(sender.await.unwrap());
    }
    until("nothing is missing", || {
        let handled: BTreeSet<_> = handler.payloads().into_iter().collect();
        taken.is_subset(&handled)
    })
    .await;

    // Everything else works again too.
    assert_eq!(call(&bus, name).await.unwrap(), [1]);
    let before = handler.count();
    bus.fanout(&tenant(), &Topic::Control(name), method("Changed"), vec![])
        .await
        .unwrap();
    until("the fanout came", || handler.count() > before).await;
    assert_eq!(bus.health(), BusHealth::Connected);
    server.stop(BOUND).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_cast_is_lost_when_the_broker_restarts() {
    casts_survive(async || {
        let (broker, _, _) = broker().await;
        broker.stop().await.unwrap();
        broker.resume().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_cast_is_lost_when_the_broker_is_killed() {
    casts_survive(async || {
        let (broker, _, _) = broker().await;
        broker.kill().await.unwrap();
        broker.resume().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_waits_when_the_broker_goes_ends_at_once() {
    let (broker, _, _) = broker().await;
    let _alone = BROKER_PEACE.write().await;
    let bus = Bus::connect(
        AmqpConfig {
            patience: Duration::from_millis(200),
            ..config(&broker.url())
        },
        env(),
        seal(),
    )
    .await
    .unwrap();
    let stuck = Test::new(|_| async {
        std::future::pending::<()>().await;
        Ok(vec![])
    });
    let name = fresh_topic();
    bus.serve(Topic::Control(name), vec![stuck.clone()], options())
        .await
        .unwrap();
    let waiting = {
        let bus = bus.clone();
        tokio::spawn(async move {
            let (ctx, target) = (tenant(), Target::service(name));
            bus.call(
                &ctx,
                &target,
                method("Do"),
                vec![],
                Duration::from_secs(600),
            )
            .await
        })
    };
    until("it waits", || stuck.count() == 1).await;
    broker.kill().await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), waiting).await;
    assert!(
        matches!(ended, Ok(Ok(Err(RpcError::BrokerUnavailable)))),
        "{ended:?}"
    );
    // While it is away, everything is told so within its patience.
    until("the loss is noticed", || {
        bus.health() == BusHealth::Disconnected
    })
    .await;
    let target = Target::service(name);
    let cast = bus.cast(&tenant(), &target, method("Do"), vec![]).await;
    assert!(matches!(cast, Err(RpcError::BrokerUnavailable)), "{cast:?}");
    broker.resume().await.unwrap();
    until("it is back", || bus.health() == BusHealth::Connected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_waits_for_a_broker_that_comes_later() {
    let (broker, _, _) = broker().await;
    let _alone = BROKER_PEACE.write().await;
    broker.stop().await.unwrap();
    let bus = connect(&broker.url()).await;
    assert_eq!(bus.health(), BusHealth::Disconnected);
    let name = fresh_topic();
    let serving = {
        let bus = bus.clone();
        tokio::spawn(async move {
            bus.serve(Topic::Control(name), vec![Test::echo()], options())
                .await
        })
    };
    broker.resume().await.unwrap();
    serving.await.unwrap().unwrap();
    until("connected", || bus.health() == BusHealth::Connected).await;
    assert_eq!(call(&bus, name).await.unwrap(), [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_that_the_broker_does_not_let_in_waits_until_it_does() {
    let (broker, _, _) = broker().await;
    let _calm = BROKER_PEACE.read().await;
    let add = ["add_user", "late"];
    broker.ctl(&add, Some("another\n")).await.unwrap();
    let bus = connect(&broker.url_for("late", "right")).await;
    let name = fresh_topic();
    let serving = {
        let bus = bus.clone();
        tokio::spawn(async move {
            bus.serve(Topic::Control(name), vec![Test::echo()], options())
                .await
        })
    };
    let refused = call(&bus, name).await;
    assert!(
        matches!(refused, Err(RpcError::BrokerUnavailable)),
        "{refused:?}"
    );
    let BusHealth::TurnedAway(why) = bus.health() else {
        panic!("{:?}", bus.health())
    };
    assert!(why.starts_with("ACCESS_REFUSED"), "{why}");
    let change = ["change_password", "late"];
    broker.ctl(&change, Some("right\n")).await.unwrap();
    let allow = ["set_permissions", "late", ".*", ".*", ".*"];
    broker.ctl(&allow, None).await.unwrap();
    serving.await.unwrap().unwrap();
    until("connected", || bus.health() == BusHealth::Connected).await;
    assert_eq!(call(&bus, name).await.unwrap(), [1]);
    broker.ctl(&["delete_user", "late"], None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_broker_is_told_at_once_and_forgotten_when_it_recovers() {
    let (broker, _, _) = broker().await;
    let _alone = BROKER_PEACE.write().await;
    let bus = connect(&broker.url()).await;
    let name = fresh_topic();
    let handler = Test::echo();
    bus.serve(Topic::Control(name), vec![handler], options())
        .await
        .unwrap();
    call(&bus, name).await.unwrap();

    broker
        .ctl(&["set_vm_memory_high_watermark", "0"], None)
        .await
        .unwrap();
    // The broker says that it blocks when the first message comes.
    let target = Target::service(name);
    let blocked = async {
        while bus
            .cast(&tenant(), &target, method("Do"), vec![])
            .await
            .is_ok()
        {}
    };
    tokio::time::timeout(BOUND, blocked).await.unwrap();
    assert_eq!(bus.health(), BusHealth::Blocked);
    let started = env().clock.monotonic();
    let cast = bus.cast(&tenant(), &target, method("Do"), vec![]).await;
    assert!(matches!(cast, Err(RpcError::BrokerUnavailable)), "{cast:?}");
    let refused = call(&bus, name).await;
    assert!(
        matches!(refused, Err(RpcError::BrokerUnavailable)),
        "{refused:?}"
    );
    assert!(env().clock.monotonic() - started < Duration::from_secs(1));

    broker
        .ctl(&["set_vm_memory_high_watermark", "0.6"], None)
        .await
        .unwrap();
    until("it is over", || bus.health() == BusHealth::Connected).await;
    assert_eq!(call(&bus, name).await.unwrap(), [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_sends_when_the_broker_becomes_blocked_is_answered_in_time() {
    let (broker, _, _) = broker().await;
    let _alone = BROKER_PEACE.write().await;
    // It talks to itself all the time, so that it does so in the wrong moment, too.
    let bus = Bus::connect(nervous(&broker.url()), env(), seal())
        .await
        .unwrap();
    let name = fresh_topic();
    let handler = Test::echo();
    bus.serve(Topic::Control(name), vec![handler], options())
        .await
        .unwrap();
    call(&bus, name).await.unwrap();

    broker
        .ctl(&["set_vm_memory_high_watermark", "0"], None)
        .await
        .unwrap();
    // All at once: the broker says that it blocks when it reads the first of
    // them, and whatever is not written by then stays where it is.
    let senders = (0..100_u8).map(|number| {
        let bus = bus.clone();
        tokio::spawn(async move {
            let target = Target::service(name);
            let sent = match number % 3 {
                0 => {
                    bus.fanout(&tenant(), &Topic::Control(name), method("Do"), vec![])
                        .await
                }
                1 => {
                    let ttl = Duration::from_secs(60);
                    bus.cast_transient(&tenant(), &target, method("Do"), vec![], ttl)
                        .await
                }
                _ => {
                    bus.cast(&tenant(), &target, method("Do"), vec![0; 100_000])
                        .await
                }
            };
            assert!(
                matches!(sent, Ok(()) | Err(RpcError::BrokerUnavailable)),
                "{sent:?}"
            );
            sent.is_err()
        })
    });
    let senders: Vec<_> = senders.collect();
    let all = tokio::time::timeout(BOUND, futures::future::join_all(senders)).await;
    let refused = all.expect("everybody is answered within a bound");
    assert!(refused.into_iter().any(|it| it.unwrap()));
    assert_eq!(bus.health(), BusHealth::Blocked);
    // Blocked for longer than silence is borne: that is no deafness.
    env().clock.sleep(Duration::from_secs(3)).await;
    assert_eq!(bus.health(), BusHealth::Blocked);
    let target = Target::service(name);
    let cast = bus.cast(&tenant(), &target, method("Do"), vec![]).await;
    assert!(matches!(cast, Err(RpcError::BrokerUnavailable)), "{cast:?}");

    broker
        .ctl(&["set_vm_memory_high_watermark", "0.6"], None)
        .await
        .unwrap();
    until("it is over", || bus.health() == BusHealth::Connected).await;
    assert_eq!(call(&bus, name).await.unwrap(), [1]);
    bus.cast(&tenant(), &target, method("Do"), vec![])
        .await
        .unwrap();
}

fn nervous(url: &str) -> AmqpConfig {
    AmqpConfig {
        echo_every: Duration::from_millis(300),
        deaf_after: Duration::from_millis(1500),
        look_every: Duration::from_millis(100),
        ..config(url)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deaf_connection_is_noticed_and_made_anew() {
    let (broker, _, _) = broker().await;
    let _quiet = BROKER_PEACE.read().await;
    let between = Deafener::new(broker.port()).await;
    let deaf = Bus::connect(nervous(&between.url("guest:guest")), env(), seal())
        .await
        .unwrap();
    let name = fresh_topic();
    let handler = Test::echo();
    deaf.serve(Topic::Control(name), vec![handler.clone()], options())
        .await
        .unwrap();
    let caller = connect(&broker.url()).await;
    call(&caller, name).await.unwrap();
    // Silence alone is no deafness: it hears itself.
    env().clock.sleep(Duration::from_secs(3)).await;
    assert_eq!(between.made.load(Ordering::SeqCst), 1);

    between.deafen();
    caller
        .cast(
            &tenant(),
            &Target::service(name),
            method("Do"),
            b"meanwhile".to_vec(),
        )
        .await
        .unwrap();
    until("it is heard after all", || handler.count() == 2).await;
    assert_eq!(between.made.load(Ordering::SeqCst), 2);
    call(&caller, name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_while_queues_are_set_up_delays_serving_and_no_more() {
    let (broker, _, _) = broker().await;
    let _quiet = BROKER_PEACE.read().await;
    let between = Deafener::new(broker.port()).await;
    let bus = connect(&between.url("guest:guest")).await;
    until("connected", || bus.health() == BusHealth::Connected).await;
    let name = fresh_topic();
    between.cut_at(&format!("yakumo.{name}.calls"));
    bus.serve(Topic::Control(name), vec![Test::echo()], options())
        .await
        .unwrap();
    assert_eq!(between.made.load(Ordering::SeqCst), 2);
    let caller = connect(&broker.url()).await;
    assert_eq!(call(&caller, name).await.unwrap(), [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_expects_an_answer_connects_anew_without_one() {
    let (broker, _, _) = broker().await;
    let _quiet = BROKER_PEACE.read().await;
    // The exchanges are a control service's to declare.
    let control = connect(&broker.url()).await;
    until("connected", || control.health() == BusHealth::Connected).await;
    let between = Deafener::new(broker.port()).await;
    let host = Bus::connect(nervous(&between.url("host.a:pa")), env(), seal())
        .await
        .unwrap();
    until("connected", || host.health() == BusHealth::Connected).await;
    // Nothing is expected, and nothing happens.
    env().clock.sleep(Duration::from_secs(2)).await;
    assert_eq!(between.made.load(Ordering::SeqCst), 1);
    host.expect_to_hear_within(Duration::from_millis(600));
    until("it tries again", || {
        between.made.load(Ordering::SeqCst) == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_can_read_is_parked() {
    let (broker, _, _) = broker().await;
    let _quiet = BROKER_PEACE.read().await;
    let _alone = PARKED.lock().await;
    let bus = connect(&broker.url()).await;
    let name = fresh_topic();
    let handler = Test::echo();
    bus.serve(Topic::Control(name), vec![handler.clone()], options())
        .await
        .unwrap();

    let properties = ConnectionProperties::default();
    let raw = Connection::connect(&broker.url(), properties)
        .await
        .unwrap();
    let channel = raw.create_channel().await.unwrap();
    let nonsense = format!("nonsense for {name}").into_bytes();
    for user in [Some("guest"), None] {
        let properties = match user {
            Some(user) => BasicProperties::default().with_user_id(user.into()),
            None => BasicProperties::default(),
        };
        channel
            .basic_publish(
                "".into(),
                format!("yakumo.{name}").into(),
                BasicPublishOptions::default(),
                &nonsense,
                properties,
            )
            .await
            .unwrap();
    }
    let mut found = Vec::new();
    while found.len() < 2 {
        let all = bus.parked_list(1000).await.unwrap();
        found = all
            .into_iter()
            .filter(|it| it.size == nonsense.len())
            .collect();
        a_moment().await;
    }
    assert_eq!(found[0].target, "");
    assert!(
        found.iter().any(|it| it.reason.contains("who sent it")),
        "{found:?}"
    );
    let id = found[0].id;
    let replayed = bus.parked_replay(id).await;
    assert!(
        matches!(replayed, Err(RpcError::Malformed(_))),
        "{replayed:?}"
    );
    bus.parked_discard(id).await.unwrap();
    bus.parked_discard(found[1].id).await.unwrap();
    // The topic is served as if nothing had been.
    call(&bus, name).await.unwrap();
    assert_eq!(handler.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_dies_leaves_its_casts_to_the_next() {
    let (broker, _, _) = broker().await;
    let _quiet = BROKER_PEACE.read().await;
    let (first, second) = (connect(&broker.url()).await, connect(&broker.url()).await);
    let name = fresh_topic();
    let stuck = Test::new(|_| async {
        std::future::pending::<()>().await;
        Ok(vec![])
    });
    first
        .serve(Topic::Control(name), vec![stuck.clone()], options())
        .await
        .unwrap();
    for number in 0..10_u8 {
        second
            .cast(
                &tenant(),
                &Target::service(name),
                method("Do"),
                vec![number],
            )
            .await
            .unwrap();
    }
    until("it has them all", || stuck.count() == 10).await;
    // No drain: the connection just goes.
    first.close().await;
    let next = Test::echo();
    second
        .serve(Topic::Control(name), vec![next.clone()], options())
        .await
        .unwrap();
    until("the next one has them", || next.count() == 10).await;
    assert!(next.seen.lock().unwrap().iter().all(|it| it.redelivered));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_another_shape_costs_nobody_the_connection() {
    let (broker, _, _) = broker().await;
    let _quiet = BROKER_PEACE.read().await;
    let bus = connect(&broker.url()).await;
    let (good, bad) = (fresh_topic(), fresh_topic());
    bus.serve(Topic::Control(good), vec![Test::echo()], options())
        .await
        .unwrap();

    let properties = ConnectionProperties::default();
    let raw = Connection::connect(&broker.url(), properties)
        .await
        .unwrap();
    let channel = raw.create_channel().await.unwrap();
    channel
        .queue_declare(
            format!("yakumo.{bad}").into(),
            Default::default(),
            Default::default(),
        )
        .await
        .unwrap();
    let refused = bus
        .serve(Topic::Control(bad), vec![Test::echo()], options())
        .await;
    assert!(matches!(refused, Err(RpcError::Refused(_))), "{refused:?}");

    // A private queue that goes is noticed, and made anew by itself.
    assert_eq!(bus.health(), BusHealth::Connected);
    assert_eq!(call(&bus, good).await.unwrap(), [1]);
    channel
        .queue_delete(format!("yakumo.{good}").into(), Default::default())
        .await
        .unwrap();
    let cast = async {
        let target = Target::service(good);
        while bus
            .cast(&tenant(), &target, method("Do"), vec![])
            .await
            .is_err()
        {
            a_moment().await;
        }
    };
    tokio::time::timeout(BOUND, cast).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_serves_many_hosts() {
    let (broker, _, _) = broker().await;
    let _quiet = BROKER_PEACE.read().await;
    let bus = connect(&broker.url()).await;
    let prefix = fresh_topic();
    let handler = Test::echo();
    let names: Vec<String> = (0..300)
        .map(|number| format!("sim-{prefix}-{number}"))
        .collect();
    let serve = names.iter().map(|name| {
        let speaker = bus.as_host(name);
        let handler = handler.clone();
        async move {
            speaker
                .serve(Topic::Host(name.clone()), vec![handler], options())
                .await
                .unwrap()
        }
    });
    let servers = futures::future::join_all(serve).await;
    let caller = connect(&broker.url()).await;
    let calls = names.iter().map(|name| {
        let caller = &caller;
        async move {
            let reply = caller
                .call(
                    &tenant(),
                    &Target::host(name.clone()),
                    method("Do"),
                    name.clone().into(),
                    BOUND,
                )
                .await;
            assert_eq!(reply.unwrap(), name.as_bytes());
        }
    });
    futures::future::join_all(calls).await;
    for server in &servers {
        assert!(server.stop(BOUND).await);
    }
}

/// They share a channel, which a refusal would end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_served_elsewhere_costs_its_neighbours_nothing() {
    let (broker, _, _) = broker().await;
    let _quiet = BROKER_PEACE.read().await;
    let (bus, elsewhere) = (connect(&broker.url()).await, connect(&broker.url()).await);
    let prefix = fresh_topic();
    let names = ["one", "two", "three"].map(|name| format!("{prefix}-{name}"));
    let serve = async |bus: &Bus, name: &str| {
        let topic = Topic::Host(name.to_owned());
        bus.serve(topic, vec![Test::echo()], options()).await
    };
    serve(&elsewhere, &names[2]).await.unwrap();
    let mut servers = Vec::new();
    for name in &names[..2] {
        servers.push(serve(&bus, name).await.unwrap());
    }
    // One that is handled while the third one is refused keeps its place.
    let slow = format!("{prefix}-slow");
    let handler = Test::new(|_| async {
        env().clock.sleep(Duration::from_secs(1)).await;
        Ok(vec![])
    });
    let topic = Topic::Host(slow.clone());
    let serving = bus.serve(topic, vec![handler.clone()], options()).await;
    servers.push(serving.unwrap());
    let target = Target::host(slow);
    elsewhere
        .cast(&tenant(), &target, method("Do"), vec![])
        .await
        .unwrap();
    until("it is being handled", || handler.count() == 1).await;
    for _ in 0..3 {
        let refused = serve(&bus, &names[2]).await;
        assert!(matches!(refused, Err(RpcError::InUse(_))), "{refused:?}");
    }
    for name in &names {
        let target = Target::host(name.clone());
        let ctx = tenant();
        let called = elsewhere.call(&ctx, &target, method("Do"), vec![7], BOUND);
        assert_eq!(called.await.unwrap(), [7]);
    }
    for server in servers {
        assert!(server.stop(BOUND).await);
    }
    assert_eq!(handler.count(), 1, "it was given back and came again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_the_broker_must_prove_who_it_is() {
    let (broker, _, _) = broker().await;
    let _quiet = BROKER_PEACE.read().await;
    let trusted = AmqpConfig {
        ca_file: Some(broker.ca_file()),
        ..config(&broker.tls_url())
    };
    let bus = Bus::connect(trusted.clone(), env(), seal()).await.unwrap();
    let name = fresh_topic();
    bus.serve(Topic::Control(name), vec![Test::echo()], options())
        .await
        .unwrap();
    assert_eq!(call(&bus, name).await.unwrap(), [1]);

    let without = AmqpConfig {
        ca_file: None,
        ..trusted.clone()
    };
    let refused = Bus::connect(without, env(), seal()).await;
    assert!(matches!(refused, Err(RpcError::Refused(_))));
    // Under another authority it is somebody else.
    let folder = tempfile::tempdir().unwrap();
    let foreign = folder.path().join("ca.pem");
    let certificate = rcgen::generate_simple_self_signed(vec!["elsewhere".into()]).unwrap();
    std::fs::write(&foreign, certificate.cert.pem()).unwrap();
    let mistaken = AmqpConfig {
        ca_file: Some(foreign),
        patience: Duration::from_secs(2),
        ..trusted
    };
    let bus = Bus::connect(mistaken, env(), seal()).await.unwrap();
    let refused = call(&bus, name).await;
    assert!(
        matches!(refused, Err(RpcError::BrokerUnavailable)),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_away_for_long_fills_its_queue_and_no_more() {
    let (broker, _, _) = broker().await;
    let _quiet = BROKER_PEACE.read().await;
    let bus = connect(&broker.url()).await;
    let name = format!("full-{}", fresh_topic());
    let server = bus
        .serve(Topic::Host(name.clone()), vec![Test::echo()], options())
        .await
        .unwrap();
    assert!(server.stop(BOUND).await);
    let casts = (0..100).map(|_| {
        let (bus, target) = (bus.clone(), Target::host(name.clone()));
        tokio::spawn(async move {
            for _ in 0..101 {
                match bus.cast(&tenant(), &target, method("Do"), vec![]).await {
                    Ok(()) => {}
                    Err(RpcError::Full(_)) => return 1,
                    Err(error) => panic!("{error:?}"),
                }
            }
            0
        })
    });
    let mut refused = 0;
    for cast in casts.collect::<Vec<_>>() {
        refused += cast.await.unwrap();
    }
    assert!(refused > 0);
}

/// Sets how many messages may wait in the queues whose names begin like this.
async fn short_queues(prefix: &str, length: usize) {
    let (broker, _, _) = broker().await;
    let pattern = format!("^{}", prefix.replace('.', "\\."));
    let definition = format!("{{\"max-length\":{length}}}");
    let arguments = ["set_policy", prefix, &pattern, &definition];
    broker.ctl(&arguments, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_service_that_is_away_for_long_fills_its_queue_and_no_more() {
    let (broker, _, _) = broker().await;
    let _quiet = BROKER_PEACE.read().await;
    let bus = connect(&broker.url()).await;
    let name = fresh_topic();
    let handler = Test::echo();
    // The same limit as always, only sooner.
    short_queues(&format!("yakumo.{name}"), 50).await;
    let server = bus
        .serve(Topic::Control(name), vec![handler.clone()], options())
        .await
        .unwrap();
    assert!(server.stop(BOUND).await);

    let target = Target::service(name);
    let mut taken = Vec::new();
    let fill = async {
        for number in 0_u32.. {
            let payload = number.to_be_bytes().to_vec();
            match bus
                .cast(&tenant(), &target, method("Do"), payload.clone())
                .await
            {
                Ok(()) => taken.push(payload),
                Err(RpcError::Full(_)) => return,
                Err(error) => panic!("cast {number}: {error:?}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), fill)
        .await
        .unwrap();
    // The broker looks at a quorum queue's length now and then, and lets a few
    // more in; what counts is that it ends, and that the sender is told.
    assert!((50..10_000).contains(&taken.len()), "{}", taken.len());
    let refused = bus.cast(&tenant(), &target, method("Do"), vec![]).await;
    let fault = Fault::from(refused.unwrap_err());
    assert_eq!(fault.code, FaultCode::Unavailable);
    assert!(fault.retry_after.is_some());
    // Nobody else is kept waiting.
    assert_eq!(bus.health(), BusHealth::Connected);

    // Whoever comes back finds everything that was taken, and new messages are
    // taken again by itself.
    let server = bus
        .serve(Topic::Control(name), vec![handler.clone()], options())
        .await
        .unwrap();
    until("all of it is handled", || {
        let handled: BTreeSet<_> = handler.payloads().into_iter().collect();
        taken.iter().all(|payload| handled.contains(payload))
    })
    .await;
    let again = async {
        while bus
            .cast(&tenant(), &target, method("Do"), vec![9])
            .await
            .is_err()
        {
            a_moment().await;
        }
    };
    tokio::time::timeout(BOUND, again).await.unwrap();
    assert!(server.stop(BOUND).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_nobody_comes_to_are_refused_when_too_many_wait() {
    let (broker, _, _) = broker().await;
    let _quiet = BROKER_PEACE.read().await;
    let bus = connect(&broker.url()).await;
    let name = fresh_topic();
    let (go_on, gate) = tokio::sync::watch::channel(false);
    let busy = Test::new(move |incoming| {
        let mut gate = gate.clone();
        async move {
            let _ = gate.wait_for(|open| *open).await;
            Ok(incoming.payload.to_vec())
        }
    });
    let options = ServeOptions {
        concurrency: 5,
        ..options()
    };
    short_queues(&format!("yakumo.{name}.calls"), 10).await;
    bus.serve(Topic::Control(name), vec![busy.clone()], options)
        .await
        .unwrap();

    // More than are worked on and may wait.
    let calls: Vec<_> = (0..60_u8)
        .map(|number| {
            let bus = bus.clone();
            tokio::spawn(async move {
                let bound = Duration::from_secs(120);
                let (ctx, target) = (tenant(), Target::service(name));
                let call = bus.call(&ctx, &target, method("Do"), vec![number], bound);
                call.await
            })
        })
        .collect();
    until("the others are refused", || {
        calls.iter().filter(|call| call.is_finished()).count() >= 60 - 5 - 10
    })
    .await;
    go_on.send(true).unwrap();
    let mut answered = 0;
    for (number, call) in calls.into_iter().enumerate() {
        match call.await.unwrap() {
            Ok(reply) => {
                assert_eq!(usize::from(reply[0]), number);
                answered += 1;
            }
            Err(RpcError::Full(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!((10..=15).contains(&answered), "{answered}");
    // What was refused never ran.
    assert_eq!(busy.count(), answered);
    assert_eq!(call(&bus, name).await.unwrap(), [1]);
}
