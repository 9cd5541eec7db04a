//! A collector of traces, as an operator's would be.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// A span, as far as tests look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// In hexadecimal, as the next ones.
    pub trace: String,
    #[allow(missing_docs)]
    pub id: String,
    /// Empty at the root.
    pub parent: String,
    #[allow(missing_docs)]
    pub name: String,
    /// `service.name` of the process that it is from.
    pub service: String,
}

/// Receives spans by OTLP over gRPC until it is dropped.
pub struct Collector {
    /// Where it listens.
    pub address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
    task: tokio::task::JoinHandle<()>,
}

struct Intake(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Intake {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for from in request.into_inner().resource_spans {
            let attributes = from.resource.map(|it| it.attributes).unwrap_or_default();
            let service = attributes
                .into_iter()
                .find(|attribute| attribute.key == "service.name")
                .and_then(|attribute| attribute.value?.value)
                .and_then(|value| match value {
                    any_value::Value::StringValue(text) => Some(text),
                    _ => None,
                })
                .unwrap_or_default();
            for span in from.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                spans.push(Span {
                    trace: hex::encode(&span.trace_id),
                    id: hex::encode(&span.span_id),
                    parent: hex::encode(&span.parent_span_id),
                    name: span.name,
                    service: service.clone(),
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Listens on a port of its own.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let spans = Arc::new(Mutex::new(Vec::new()));
        let intake = TraceServiceServer::new(Intake(spans.clone()));
        let task = tokio::spawn(async move {
            let served = tonic::transport::Server::builder()
                .add_service(intake)
                .serve_with_incoming(TcpListenerStream::new(listener));
            if let Err(error) = served.await {
                eprintln!("the collector ended: {error}");
            }
        });
        Ok(Self {
            address,
            spans,
            task,
        })
    }

    /// The setting that sends spans here.
    pub fn setting(&self) -> String {
        format!("telemetry.trace.otlp_endpoint=http://{}", self.address)
    }

    /// All spans so far, by trace.
    pub fn traces(&self) -> HashMap<String, Vec<Span>> {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let mut traces: HashMap<String, Vec<Span>> = HashMap::new();
        for span in spans.iter() {
            traces
                .entry(span.trace.clone())
                .or_default()
                .push(span.clone());
        }
        traces
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}
