//! One trace from the request through every step.

use std::sync::{Arc, Mutex};

use opentelemetry::global;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tracing::Instrument;
use tracing_subscriber::layer::SubscriberExt;
use yakumo_db::Backend;
use yakumo_types::Fault;
use yakumo_workflow::{Outcome, StepError};

use crate::world::{LONG, World, simple};

/// Keeps the spans that have ended.
#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_are_named_after_the_steps_and_belong_to_the_requests_trace() {
    let exporter = Kept::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    global::set_text_map_propagator(TraceContextPropagator::new());
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let filter = tracing_subscriber::filter::LevelFilter::INFO;
    // For the whole test program: steps run on threads of the runtime.
    tracing::subscriber::set_global_default(
        tracing_subscriber::registry().with(filter).with(layer),
    )
    .unwrap();

    let world = World::new(Backend::Sqlite).await;
    let engine = world.engine(simple(&["choose_host", "allocate_ports"]).run(|step, _| {
        let fails = step == "allocate_ports";
        Box::pin(async move {
            if fails {
                Err(StepError::Fail(Fault::conflict("no")))
            } else {
                Ok(Outcome::done())
            }
        })
    }));
    let span = tracing::info_span!("the request of the trail test");
    let id = async { world.submit(&engine, LONG).await }
        .instrument(span.clone())
        .await;
    drop(span);
    world.end(&engine, id).await;

    let spans = exporter.0.lock().unwrap().clone();
    let request = spans
        .iter()
        .find(|span| span.name == "the request of the trail test")
        .expect("the request's span");
    let trace = request.span_context.trace_id();
    let mut names: Vec<&str> = spans
        .iter()
        .filter(|span| span.span_context.trace_id() == trace)
        .map(|span| span.name.as_ref())
        .collect();
    names.sort_unstable();
    for wanted in [
        "allocate_ports",
        "choose_host",
        "undo_allocate_ports",
        "undo_choose_host",
    ] {
        assert!(names.contains(&wanted), "{wanted} is not in {names:?}");
    }
}
