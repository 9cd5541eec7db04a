//! The misbehaviour that the in-process bus can be told to show.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry::trace::{TraceContextExt, TraceId, TracerProvider};
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;
use yakumo_rpc::{
    Bus, BusHealth, Faults, InProcessControl, InProcessOptions, RpcError, ServeOptions, Target,
    Topic,
};
use yakumo_types::{ContextSeal, Fault, FaultCode, RequestContext};

use crate::support::*;

const TOPIC: Topic = Topic::Control("test");

fn bus(options: InProcessOptions) -> (Bus, InProcessControl) {
    Bus::in_process_with(env(), seal(), options)
}

async fn cast(bus: &Bus, number: u8) -> Result<(), RpcError> {
    bus.cast(
        &tenant(),
        &Target::service("test"),
        method("Do"),
        vec![number],
    )
    .await
}

#[tokio::test]
async fn messages_are_lost_repeated_and_late_on_demand() {
    let (bus, control) = bus(InProcessOptions::default());
    let handler = Test::echo();
    let server = bus
        .serve(TOPIC, vec![handler.clone()], options())
        .await
        .unwrap();

    control.lose_next(1);
    cast(&bus, 1).await.unwrap();
    control.duplicate_next(1);
    cast(&bus, 2).await.unwrap();
    until("two copies", || handler.count() == 2).await;
    assert_eq!(handler.nth(0).message_id, handler.nth(1).message_id);
    assert!(handler.nth(1).redelivered);

    control.delay_next(1, Duration::from_millis(100));
    cast(&bus, 3).await.unwrap();
    cast(&bus, 4).await.unwrap();
    until("both", || handler.count() == 4).await;
    assert_eq!(handler.payloads()[2..], [vec![4], vec![3]]);
    server.stop(BOUND).await;
}

/// Notes what it is asked to seal.
struct Noting(TestSeal, Mutex<Vec<RequestContext>>);

impl ContextSeal for Noting {
    fn seal(&self, context: &RequestContext) -> Result<String, Fault> {
        self.1.lock().unwrap().push(context.clone());
        self.0.seal(context)
    }

    fn open(&self, sealed: &str) -> Result<RequestContext, Fault> {
        self.0.open(sealed)
    }
}

#[tokio::test]
async fn one_seal_is_good_for_every_request_of_a_user_and_each_keeps_its_name() {
    let noting = Arc::new(Noting(TestSeal { may_seal: true }, Mutex::default()));
    let options_of_bus = InProcessOptions {
        seal_contexts: true,
        ..InProcessOptions::default()
    };
    let (bus, _control) = Bus::in_process_with(env(), noting.clone(), options_of_bus);
    let handler = Test::echo();
    bus.serve(TOPIC, vec![handler.clone()], options())
        .await
        .unwrap();
    let mut context = tenant();
    for number in 0..2 {
        context.request_id = env().id();
        let target = Target::service("test");
        bus.call(&context, &target, method("Do"), vec![], BOUND)
            .await
            .unwrap();
        assert_eq!(handler.nth(number).context, context);
    }
    let other = tenant();
    bus.call(
        &other,
        &Target::service("test"),
        method("Do"),
        vec![],
        BOUND,
    )
    .await
    .unwrap();
    assert_eq!(handler.nth(2).context, other);
    let sealed = noting.1.lock().unwrap();
    assert_eq!(sealed[0], sealed[1]);
    assert_ne!(sealed[0], sealed[2]);
}

#[tokio::test]
async fn messages_change_places_on_demand() {
    let (bus, control) = bus(InProcessOptions::default());
    let handler = Test::echo();
    let one_by_one = ServeOptions {
        concurrency: 1,
        ..options()
    };
    bus.serve(TOPIC, vec![handler.clone()], one_by_one)
        .await
        .unwrap();
    control.reorder_next(3);
    for number in 1..=4 {
        cast(&bus, number).await.unwrap();
    }
    until("all", || handler.count() == 4).await;
    assert_eq!(handler.payloads(), [vec![3], vec![2], vec![1], vec![4]]);
}

#[tokio::test]
async fn a_lost_reply_is_a_timeout_after_the_method_ran() {
    let (bus, control) = bus(InProcessOptions::default());
    let handler = Test::echo();
    bus.serve(TOPIC, vec![handler.clone()], options())
        .await
        .unwrap();
    control.lose_next_replies(1);
    let deadline = Duration::from_millis(200);
    let target = Target::service("test");
    let lost = bus
        .call(&tenant(), &target, method("Do"), vec![], deadline)
        .await;
    assert!(matches!(lost, Err(RpcError::Timeout)));
    assert_eq!(handler.count(), 1);
}

#[tokio::test]
async fn a_blocked_bus_refuses_at_once() {
    let (bus, control) = bus(InProcessOptions::default());
    bus.serve(TOPIC, vec![Test::echo()], options())
        .await
        .unwrap();
    control.block(true);
    assert_eq!(bus.health(), BusHealth::Blocked);
    assert!(matches!(
        cast(&bus, 1).await,
        Err(RpcError::BrokerUnavailable)
    ));
    control.block(false);
    cast(&bus, 1).await.unwrap();
}

#[tokio::test]
async fn a_full_queue_refuses_more() {
    let (bus, control) = bus(InProcessOptions {
        control_capacity: 5,
        ..Default::default()
    });
    let server = bus
        .serve(TOPIC, vec![Test::echo()], options())
        .await
        .unwrap();
    server.stop(BOUND).await;
    for number in 0..5 {
        cast(&bus, number).await.unwrap();
    }
    assert!(matches!(cast(&bus, 9).await, Err(RpcError::Full(_))));
    assert_eq!(control.waiting(&TOPIC), 5);
}

#[tokio::test]
async fn a_queue_refuses_more_bytes_than_it_may_hold_and_takes_some_again() {
    let (bus, control) = bus(InProcessOptions {
        queue_bytes: 1000,
        ..Default::default()
    });
    let handler = Test::echo();
    let server = bus
        .serve(TOPIC, vec![handler.clone()], options())
        .await
        .unwrap();
    server.stop(BOUND).await;
    let cast = |bytes: usize| {
        let bus = bus.clone();
        async move {
            let target = Target::service("test");
            bus.cast(&tenant(), &target, method("Do"), vec![0; bytes])
                .await
        }
    };
    for _ in 0..2 {
        cast(500).await.unwrap();
    }
    let fault = Fault::from(cast(1).await.unwrap_err());
    assert_eq!(fault.code, FaultCode::Unavailable);
    assert!(fault.retry_after.is_some());
    assert_eq!(control.waiting(&TOPIC), 2);
    bus.serve(TOPIC, vec![handler.clone()], options())
        .await
        .unwrap();
    until("both are handled", || handler.count() == 2).await;
    cast(1000).await.unwrap();
    until("it takes more", || handler.count() == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_faults_by_chance_every_call_still_ends() {
    let (bus, control) = bus(InProcessOptions::default());
    bus.serve(TOPIC, vec![Test::echo()], options())
        .await
        .unwrap();
    control.set(Faults {
        lose: 100,
        duplicate: 200,
        delay: 300,
        delay_limit: Duration::from_millis(50),
        lose_replies: 100,
        delay_replies: 300,
    });
    let calls = (0..200_u8).map(|number| {
        let bus = bus.clone();
        async move {
            let target = Target::service("test");
            let deadline = Duration::from_millis(500);
            let reply = bus
                .call(&tenant(), &target, method("Do"), vec![number], deadline)
                .await;
            match reply {
                Ok(reply) => assert_eq!(reply, [number]),
                Err(error) => assert!(matches!(error, RpcError::Timeout), "{error:?}"),
            }
        }
    });
    let all = futures::future::join_all(calls);
    tokio::time::timeout(BOUND, all).await.unwrap();
}

#[tokio::test]
async fn one_trace_goes_through_caller_and_receiver() {
    let provider = opentelemetry_sdk::trace::SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let _here = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    let trace_of = |span: &tracing::Span| span.context().span().span_context().trace_id();

    let (bus, _) = bus(InProcessOptions::default());
    let seen = Arc::new(Mutex::new(TraceId::INVALID));
    let keep = seen.clone();
    let handler = Test::new(move |_| {
        let trace = tracing::Span::current()
            .context()
            .span()
            .span_context()
            .trace_id();
        *keep.lock().unwrap() = trace;
        async { Ok(vec![]) }
    });
    bus.serve(TOPIC, vec![handler], options()).await.unwrap();
    let span = tracing::info_span!("request");
    let trace = trace_of(&span);
    bus.call(
        &tenant(),
        &Target::service("test"),
        method("Do"),
        vec![],
        BOUND,
    )
    .instrument(span)
    .await
    .unwrap();
    assert_ne!(trace, TraceId::INVALID);
    assert_eq!(*seen.lock().unwrap(), trace);
}
