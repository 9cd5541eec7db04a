//! What callers may rely on, whatever the transport.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use yakumo_rpc::{MAX_PAYLOAD, Principal, RpcError, ServeOptions, Target, Topic, Version};
use yakumo_types::{Fault, FaultCode};

use crate::support::*;

macro_rules! on_both_transports {
    ($($name:ident)*) => {
        mod in_process {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::World::new(super::Transport::InProcess).await).await;
            })*
        }
        mod amqp {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::World::new(super::Transport::Amqp).await).await;
            })*
        }
    };
}

on_both_transports! {
    a_call_is_answered
    a_host_is_called_by_name
    a_host_is_served_by_one_process
    what_is_asked_before_a_host_serves_waits_for_it
    a_message_of_a_group_is_handled_by_one_of_it
    a_fanout_reaches_every_instance
    a_call_ends_with_its_deadline
    a_call_that_waited_past_its_deadline_is_not_done
    a_long_call_is_waited_for
    a_fault_comes_back_whole
    a_panic_is_a_fault_and_serving_goes_on
    versions_must_match
    unknown_contracts_are_refused
    nobody_there_is_told_at_once
    what_is_too_large_is_refused
    a_failed_cast_comes_again_under_the_same_id
    a_refused_cast_does_not_come_again
    a_hopeless_cast_is_parked_and_can_be_replayed
    the_receiver_decides_how_much_it_takes_at_a_time
    a_heartbeat_that_is_too_late_is_dropped
    a_server_that_stops_finishes_what_it_began
    what_is_cut_off_goes_to_the_next_server
    the_context_arrives_as_it_was
    a_host_speaks_only_for_itself
    a_host_may_use_only_what_is_open_to_hosts
    hosts_do_not_talk_to_each_other
    everybody_answers_an_echo
    many_calls_at_once_find_their_replies
}

async fn a_call_is_answered(world: World) {
    let handler = Test::echo();
    world.serve(handler.clone()).await;
    assert_eq!(world.call("Do", b"hello").await.unwrap(), b"hello");
    let incoming = handler.nth(0);
    assert_eq!(incoming.sender, Principal::Control);
    assert_eq!(
        (incoming.service.as_str(), incoming.method.as_str()),
        (SERVICE, "Do")
    );
    assert!(incoming.lifetime == Some(BOUND) && !incoming.redelivered);
}

/// A host name that no other test uses; only `a` and `b` have broker users, so
/// control processes serve these.
fn fresh_host() -> String {
    format!("h-{}", fresh_topic())
}

async fn a_host_is_called_by_name(world: World) {
    let (one, two) = (fresh_host(), fresh_host());
    for name in [&one, &two] {
        let answer = name.clone().into_bytes();
        let handler = Test::new(move |_| {
            let answer = answer.clone();
            async move { Ok(answer) }
        });
        let topic = Topic::Host(name.clone());
        world
            .other
            .serve(topic, vec![handler], options())
            .await
            .unwrap();
    }
    for name in [&one, &two] {
        let target = Target::host(name.clone());
        let reply = world
            .control
            .call(&tenant(), &target, method("Do"), vec![], BOUND)
            .await;
        assert_eq!(reply.unwrap(), name.as_bytes());
    }
}

async fn a_host_is_served_by_one_process(world: World) {
    let name = fresh_host();
    let topic = Topic::Host(name.clone());
    let (one, two) = (Test::echo(), Test::echo());
    let first = world
        .other
        .serve(topic.clone(), vec![one.clone()], options())
        .await
        .unwrap();
    let again = || {
        world
            .control
            .serve(topic.clone(), vec![two.clone()], options())
    };
    let refused = again().await;
    assert!(matches!(refused, Err(RpcError::InUse(_))), "{refused:?}");
    let target = Target::host(name.clone());
    let call = async || {
        let ctx = tenant();
        world
            .control
            .call(&ctx, &target, method("Do"), vec![], BOUND)
            .await
    };
    for _ in 0..20 {
        call().await.unwrap();
    }
    assert_eq!((one.count(), two.count()), (20, 0));
    assert!(first.stop(BOUND).await);
    // The broker may see it go a moment later.
    let taken = async {
        loop {
            match again().await {
                Err(RpcError::InUse(_)) => a_moment().await,
                taken => return taken.unwrap(),
            }
        }
    };
    let second = tokio::time::timeout(BOUND, taken).await.unwrap();
    call().await.unwrap();
    assert_eq!((one.count(), two.count()), (20, 1));
    assert!(second.stop(BOUND).await);
}

async fn what_is_asked_before_a_host_serves_waits_for_it(world: World) {
    let name = fresh_host();
    let topic = Topic::Host(name.clone());
    world.other.declare(&topic).await.unwrap();
    let target = Target::host(name.clone());
    let asked = tokio::spawn({
        let (control, target) = (world.control.clone(), target.clone());
        async move {
            let ctx = tenant();
            control
                .call(&ctx, &target, method("Do"), b"early".to_vec(), BOUND)
                .await
        }
    });
    world
        .control
        .cast(&tenant(), &target, method("Do"), vec![])
        .await
        .unwrap();
    let handler = Test::echo();
    let serving = world.other.serve(topic, vec![handler.clone()], options());
    serving.await.unwrap();
    assert_eq!(asked.await.unwrap().unwrap(), b"early");
    until("both came", || handler.count() == 2).await;
}

async fn a_message_of_a_group_is_handled_by_one_of_it(world: World) {
    let (one, two) = (Test::echo(), Test::echo());
    world.serve(one.clone()).await;
    world
        .other
        .serve(world.topic(), vec![two.clone()], options())
        .await
        .unwrap();
    for number in 0..40_u8 {
        world.cast("Do", &[number]).await;
        world.call("Do", &[number + 100]).await.unwrap();
    }
    until("all are handled", || one.count() + two.count() >= 80).await;
    a_moment().await;
    let mut all = [one.payloads(), two.payloads()].concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 80);
    assert_eq!(one.count() + two.count(), 80);
    assert!(one.count() > 0 && two.count() > 0);
}

async fn a_fanout_reaches_every_instance(world: World) {
    world
        .control
        .fanout(&tenant(), &world.topic(), method("Changed"), vec![])
        .await
        .unwrap();
    let (one, two) = (Test::echo(), Test::echo());
    world.serve(one.clone()).await;
    world
        .other
        .serve(world.topic(), vec![two.clone()], options())
        .await
        .unwrap();
    world
        .control
        .fanout(
            &tenant(),
            &world.topic(),
            method("Changed"),
            b"now".to_vec(),
        )
        .await
        .unwrap();
    until("both hear it", || one.count() == 1 && two.count() == 1).await;
}

async fn a_call_ends_with_its_deadline(world: World) {
    let handler = Test::new(|incoming| async move {
        if incoming.payload.is_empty() {
            std::future::pending::<()>().await;
        }
        Ok(vec![1])
    });
    world.serve(handler).await;
    let deadline = Duration::from_millis(300);
    let (context, target) = (tenant(), world.target());
    let call = world
        .control
        .call(&context, &target, method("Do"), vec![], deadline);
    let ended = tokio::time::timeout(Duration::from_secs(5), call)
        .await
        .unwrap();
    assert!(matches!(ended, Err(RpcError::Timeout)), "{ended:?}");
    assert_eq!(world.call("Do", b"x").await.unwrap(), [1]);
}

async fn a_call_that_waited_past_its_deadline_is_not_done(world: World) {
    let gate = Arc::new(Semaphore::new(0));
    let waits = gate.clone();
    let handler = Test::new(move |incoming| {
        let waits = waits.clone();
        async move {
            if incoming.payload == b"first"[..] {
                waits.acquire().await.unwrap().forget();
            }
            Ok(Vec::new())
        }
    });
    let one_at_a_time = ServeOptions {
        concurrency: 1,
        ..options()
    };
    world.serve_with(handler.clone(), one_at_a_time).await;
    let late = async {
        until("the first to be at work", || handler.count() == 1).await;
        let (context, target) = (tenant(), world.target());
        let deadline = Duration::from_millis(300);
        let call = world
            .control
            .call(&context, &target, method("Do"), b"late".to_vec(), deadline);
        let ended = call.await;
        assert!(matches!(ended, Err(RpcError::Timeout)), "{ended:?}");
        a_moment().await;
        gate.add_permits(1);
    };
    let (first, ()) = tokio::join!(world.call("Do", b"first"), late);
    first.unwrap();
    world.call("Do", b"last").await.unwrap();
    assert_eq!(handler.payloads(), [&b"first"[..], b"last"]);
}

async fn a_long_call_is_waited_for(world: World) {
    let handler = Test::new(|_| async {
        env().clock.sleep(Duration::from_millis(1200)).await;
        Ok(b"late".to_vec())
    });
    world.serve(handler).await;
    assert_eq!(world.call("Do", b"").await.unwrap(), b"late");
}

async fn a_fault_comes_back_whole(world: World) {
    let fault = Fault::conflict("It is there already.").with_type("PortInUse");
    let answer = fault.clone();
    let handler = Test::new(move |_| {
        let answer = answer.clone();
        async move { Err(answer) }
    });
    world.serve(handler).await;
    let error = world.call("Do", b"").await.unwrap_err();
    assert!(
        matches!(&error, RpcError::Remote(back) if *back == fault),
        "{error:?}"
    );
    assert_eq!(Fault::from(error), fault);
}

async fn a_panic_is_a_fault_and_serving_goes_on(world: World) {
    let handler = Test::new(|incoming| async move {
        assert!(!incoming.payload.is_empty(), "on purpose");
        Ok(vec![])
    });
    world.serve(handler).await;
    let error = world.call("Do", b"").await.unwrap_err();
    assert!(
        matches!(&error, RpcError::Remote(fault) if fault.code == FaultCode::Internal
            && !fault.message.contains("purpose")),
        "{error:?}"
    );
    world.call("Do", b"x").await.unwrap();
}

async fn versions_must_match(world: World) {
    world.serve(Test::echo()).await;
    let check = async |major, minor| {
        let mut method = method("Do");
        method.version = Version { major, minor };
        world
            .control
            .call(&tenant(), &world.target(), method, vec![], BOUND)
            .await
    };
    assert!(check(1, 0).await.is_ok());
    assert!(matches!(check(1, 3).await, Err(RpcError::BadVersion(_))));
    assert!(matches!(check(2, 0).await, Err(RpcError::BadVersion(_))));
    assert!(matches!(check(0, 9).await, Err(RpcError::BadVersion(_))));
}

async fn unknown_contracts_are_refused(world: World) {
    world.serve(Test::echo()).await;
    let mut method = method("Do");
    method.service = "test.v1.Other";
    let result = world
        .control
        .call(&tenant(), &world.target(), method, vec![], BOUND)
        .await;
    assert!(
        matches!(&result, Err(RpcError::Remote(fault)) if fault.code == FaultCode::NotImplemented),
        "{result:?}"
    );
}

async fn nobody_there_is_told_at_once(world: World) {
    // The connection is there before; a young one is forgiving.
    world
        .control
        .cast(&tenant(), &world.target(), method("Do"), vec![])
        .await
        .unwrap_err();
    let started = env().clock.monotonic();
    for target in [world.target(), Target::host(fresh_host())] {
        let call = world
            .control
            .call(&tenant(), &target, method("Do"), vec![], BOUND)
            .await;
        assert!(matches!(call, Err(RpcError::Unroutable(_))), "{call:?}");
        let cast = world
            .control
            .cast(&tenant(), &target, method("Do"), vec![])
            .await;
        assert!(matches!(cast, Err(RpcError::Unroutable(_))), "{cast:?}");
    }
    assert!(env().clock.monotonic() - started < Duration::from_secs(15));
    let nonsense = Target::host("a/b#*");
    let cast = world
        .control
        .cast(&tenant(), &nonsense, method("Do"), vec![])
        .await;
    assert!(matches!(cast, Err(RpcError::Unroutable(_))), "{cast:?}");
}

async fn what_is_too_large_is_refused(world: World) {
    let handler = Test::new(|incoming| async move {
        Ok(vec![
            7;
            incoming.payload.len()
                + usize::from(incoming.method == "Grow")
        ])
    });
    world.serve(handler).await;
    let largest = vec![1; MAX_PAYLOAD];
    assert_eq!(world.call("Do", &largest).await.unwrap().len(), MAX_PAYLOAD);
    let grown = world.call("Grow", &largest).await;
    assert!(matches!(&grown, Err(RpcError::Remote(fault)) if fault.code == FaultCode::TooLarge));
    let sent = world.call("Do", &vec![1; MAX_PAYLOAD + 1]).await;
    assert!(matches!(sent, Err(RpcError::TooLarge(_))));
}

async fn a_failed_cast_comes_again_under_the_same_id(world: World) {
    let failures = Arc::new(AtomicUsize::new(2));
    let handler = Test::new(move |_| {
        let failures = failures.clone();
        async move {
            match failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)) {
                Ok(_) => Err(Fault::unavailable("Not yet.")),
                Err(_) => Ok(vec![]),
            }
        }
    });
    world.serve(handler.clone()).await;
    world.cast("Do", b"x").await;
    until("it is handled", || handler.count() == 3).await;
    a_moment().await;
    assert_eq!(handler.count(), 3);
    let (first, last) = (handler.nth(0), handler.nth(2));
    assert_eq!(first.message_id, last.message_id);
    assert!(!first.redelivered && last.redelivered);
}

async fn a_refused_cast_does_not_come_again(world: World) {
    let handler = Test::new(|_| async { Err(Fault::conflict("Never.")) });
    world.serve(handler.clone()).await;
    world.cast("Do", b"x").await;
    until("it is handled", || handler.count() == 1).await;
    a_moment().await;
    assert_eq!(handler.count(), 1);
}

async fn a_hopeless_cast_is_parked_and_can_be_replayed(world: World) {
    let _alone = PARKED.lock().await;
    let heals = Arc::new(AtomicUsize::new(0));
    let healed = heals.clone();
    let handler = Test::new(move |_| {
        let healed = healed.load(Ordering::SeqCst) == 1;
        async move {
            if healed {
                Ok(vec![])
            } else {
                Err(Fault::unavailable("The table is full."))
            }
        }
    });
    world.serve(handler.clone()).await;
    world.cast("Nudge", b"x").await;
    until("it was tried", || handler.count() == 3).await;
    let parked = async || {
        let all = world.control.parked_list(1000).await.unwrap();
        all.into_iter()
            .filter(|it| it.target == world.topic)
            .collect::<Vec<_>>()
    };
    let mut found = parked().await;
    while found.is_empty() {
        a_moment().await;
        found = parked().await;
    }
    assert_eq!(found.len(), 1);
    let message = &found[0];
    assert_eq!(message.id, handler.nth(0).message_id);
    assert_eq!(message.method, format!("{SERVICE}/Nudge"));
    assert_eq!(message.sender, "control");
    assert_eq!(message.reason, "The table is full.");
    assert!(message.parked_at.is_some());

    heals.store(1, Ordering::SeqCst);
    world.control.parked_replay(message.id).await.unwrap();
    until("it was handled", || handler.count() == 4).await;
    let again = handler.nth(3);
    assert_eq!(
        (again.message_id, again.payload),
        (message.id, handler.nth(0).payload)
    );
    assert_eq!(again.context.user_name, "alice");
    assert!(parked().await.is_empty());
    let unknown = world.control.parked_discard(message.id).await;
    assert!(matches!(unknown, Err(RpcError::Unroutable(_))));
}

async fn the_receiver_decides_how_much_it_takes_at_a_time(world: World) {
    let gate = Arc::new(Semaphore::new(0));
    let pass = gate.clone();
    let handler = Test::new(move |_| {
        let pass = pass.clone();
        async move {
            pass.acquire().await.unwrap().forget();
            Ok(vec![])
        }
    });
    let options = ServeOptions {
        concurrency: 3,
        ..options()
    };
    world.serve_with(handler.clone(), options).await;
    for _ in 0..12 {
        world.cast("Do", b"").await;
    }
    until("three run", || handler.count() == 3).await;
    a_moment().await;
    assert_eq!(handler.count(), 3);
    gate.add_permits(12);
    until("all ran", || handler.count() == 12).await;
    assert_eq!(handler.most.load(Ordering::SeqCst), 3);
}

async fn a_heartbeat_that_is_too_late_is_dropped(world: World) {
    let handler = Test::echo();
    let server = world.serve(handler.clone()).await;
    assert!(server.stop(BOUND).await);
    let ttl = Duration::from_millis(100);
    world
        .control
        .cast_transient(
            &tenant(),
            &world.target(),
            method("Beat"),
            b"old".to_vec(),
            ttl,
        )
        .await
        .unwrap();
    a_moment().await;
    world.serve(handler.clone()).await;
    let ttl = Duration::from_secs(20);
    world
        .control
        .cast_transient(
            &tenant(),
            &world.target(),
            method("Beat"),
            b"new".to_vec(),
            ttl,
        )
        .await
        .unwrap();
    until("the new one came", || handler.count() > 0).await;
    assert_eq!(handler.payloads(), [b"new".to_vec()]);
}

async fn a_server_that_stops_finishes_what_it_began(world: World) {
    let handler = Test::new(|_| async {
        env().clock.sleep(Duration::from_millis(400)).await;
        Ok(b"done".to_vec())
    });
    let server = world.serve(handler.clone()).await;
    let call = async {
        let call = world.call("Do", b"");
        call.await
    };
    let stop = async {
        until("it runs", || handler.count() == 1).await;
        server.stop(BOUND).await
    };
    let (reply, finished) = tokio::join!(call, stop);
    assert_eq!(reply.unwrap(), b"done");
    assert!(finished);
}

async fn what_is_cut_off_goes_to_the_next_server(world: World) {
    let stuck = Test::new(|_| async {
        std::future::pending::<()>().await;
        Ok(vec![])
    });
    let server = world.serve(stuck.clone()).await;
    world.cast("Do", b"mine").await;
    until("it hangs", || stuck.count() == 1).await;
    assert!(!server.stop(Duration::from_millis(100)).await);
    let next = Test::echo();
    world
        .other
        .serve(world.topic(), vec![next.clone()], options())
        .await
        .unwrap();
    until("the next one has it", || next.count() == 1).await;
    assert!(next.nth(0).redelivered);
    assert_eq!(next.nth(0).message_id, stuck.nth(0).message_id);
}

async fn the_context_arrives_as_it_was(world: World) {
    let handler = Test::echo();
    world.serve(handler.clone()).await;
    let context = tenant();
    world
        .control
        .call(&context, &world.target(), method("Do"), vec![], BOUND)
        .await
        .unwrap();
    assert_eq!(handler.nth(0).context, context);
}

fn is_forbidden(result: &Result<Vec<u8>, RpcError>) -> bool {
    matches!(result, Err(RpcError::Remote(fault)) if fault.code == FaultCode::Forbidden)
}

async fn a_host_speaks_only_for_itself(world: World) {
    let handler = Test::echo();
    world.serve(handler.clone()).await;
    let call = async |bus: yakumo_rpc::Bus, context| {
        bus.call(&context, &world.target(), method("Report"), vec![], BOUND)
            .await
    };
    let own = host_context();
    call(world.host.clone(), own.clone()).await.unwrap();
    assert_eq!(handler.nth(0).sender, Principal::Host("a".into()));
    assert_eq!(handler.nth(0).context, own);

    for context in [tenant(), admin()] {
        // An honest host notices; a stolen one is refused.
        assert!(is_forbidden(
            &call(world.host.clone(), context.clone()).await
        ));
        assert!(is_forbidden(&call(world.host.forging(), context).await));
    }
    assert_eq!(handler.count(), 1);
}

async fn a_host_may_use_only_what_is_open_to_hosts(world: World) {
    let handler = Test::echo();
    world.serve(handler.clone()).await;
    let closed = world
        .host
        .call(
            &host_context(),
            &world.target(),
            method("AllocatePort"),
            vec![],
            BOUND,
        )
        .await;
    assert!(is_forbidden(&closed), "{closed:?}");
    world
        .host
        .cast(
            &host_context(),
            &world.target(),
            method("Report"),
            b"1".to_vec(),
        )
        .await
        .unwrap();
    until("the report came", || handler.count() == 1).await;
    assert_eq!(handler.nth(0).sender, Principal::Host("a".into()));
}

async fn hosts_do_not_talk_to_each_other(world: World) {
    let name = fresh_host();
    let handler = Test::echo();
    let topic = Topic::Host(name.clone());
    world
        .other
        .serve(topic.clone(), vec![handler.clone()], options())
        .await
        .unwrap();
    let deadline = Duration::from_secs(1);
    let call = world
        .host
        .call(
            &host_context(),
            &Target::host(name.clone()),
            method("Report"),
            vec![],
            deadline,
        )
        .await;
    assert!(is_forbidden(&call), "{call:?}");
    let fanout = world
        .host
        .fanout(&host_context(), &world.topic(), method("Report"), vec![])
        .await;
    assert!(is_forbidden(&fanout.map(|()| vec![])));
    let forged = world
        .host
        .forging()
        .call(
            &host_context(),
            &Target::host(name),
            method("Report"),
            vec![],
            deadline,
        )
        .await;
    assert!(forged.is_err(), "{forged:?}");
    assert_eq!(handler.count(), 0);
    let served = world.host.serve(topic, vec![handler], options()).await;
    assert!(matches!(served, Err(RpcError::Refused(_))));
}

async fn everybody_answers_an_echo(world: World) {
    world.serve(Test::echo()).await;
    world.control.echo(&world.target(), BOUND).await.unwrap();
    world.host.echo(&world.target(), BOUND).await.unwrap();
}

async fn many_calls_at_once_find_their_replies(world: World) {
    world.serve(Test::echo()).await;
    let calls = (0..500_u32).map(|number| {
        let world = &world;
        async move {
            let payload = number.to_be_bytes();
            assert_eq!(world.call("Do", &payload).await.unwrap(), payload);
        }
    });
    futures::future::join_all(calls).await;
}
