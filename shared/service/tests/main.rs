//! Traces arrive at a collector, whole and under the right names.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use tracing::info_span;
use yakumo_service::{TelemetryConfig, TraceConfig, init_tracing};

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_reach_the_collector() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let collector = Collector::default();
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let config = TelemetryConfig {
        trace: TraceConfig {
            otlp_endpoint: format!("http://{address}"),
            ..TraceConfig::default()
        },
        ..TelemetryConfig::default()
    };
    let telemetry = init_tracing(&config, "gardening").unwrap();
    info_span!("dig", tool = "spade").in_scope(|| {
        info_span!("lift").in_scope(|| {});
        tracing::debug_span!("too detailed").in_scope(|| {});
    });
    let flushed = tokio::task::spawn_blocking(move || telemetry.flush());
    tokio::time::timeout(Duration::from_secs(20), flushed)
        .await
        .unwrap()
        .unwrap();

    let received = collector.0.lock().unwrap().clone();
    let resources: Vec<_> = received.iter().flat_map(|it| &it.resource_spans).collect();
    let service = resources[0].resource.as_ref().unwrap().attributes.iter();
    let service = service.clone().find(|it| it.key == "service.name").unwrap();
    assert!(format!("{service:?}").contains("yakumo-gardening"));
    let spans: Vec<_> = resources
        .iter()
        .flat_map(|it| &it.scope_spans)
        .flat_map(|it| &it.spans)
        .collect();
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["lift", "dig"]);
    assert_eq!(spans[0].trace_id, spans[1].trace_id);
    assert_eq!(spans[0].parent_span_id, spans[1].span_id);
}
