//! Logs and traces.
//!
//! Logs go to standard error, for people or as one JSON object a line, with
//! the fields of the spans around them (request id and trace id among them).
//! Spans also go to an OpenTelemetry collector over OTLP when one is
//! configured; without one they still carry trace ids, so that logs of
//! several processes can be joined. Trace context travels in W3C's form.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::propagation::TextMapCompositePropagator;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use serde::{Deserialize, Serialize};
use tracing::metadata::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// What the logs look like and where the traces go.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// Logs.
    pub log: LogConfig,
    /// Traces.
    pub trace: TraceConfig,
}

/// Logs.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// A level, or levels by module: `info,yakumo_rpc=debug`.
    pub level: String,
    /// For people or for machines.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            // The broker's client prints whole messages that came back.
            level: "info,lapin=error".into(),
            format: LogFormat::Human,
        }
    }
}

/// What a log line looks like.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text.
    #[default]
    Human,
    /// One JSON object.
    Json,
}

/// Traces.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct TraceConfig {
    /// The collector, for example `http://127.0.0.1:4317`; empty sends nothing.
    pub otlp_endpoint: String,
    /// The share of traces begun here that are kept, 0 to 1. Traces begun
    /// elsewhere are kept as their sender decided.
    pub sample_ratio: f64,
}

impl Default for TraceConfig {
    fn default() -> Self {
        Self {
            otlp_endpoint: String::new(),
            sample_ratio: 1.0,
        }
    }
}

/// The target of spans that are there for log lines alone and go to no collector.
const LOG_ONLY: &str = "yakumo::log";

/// Which events are logged. Spans of level INFO and above are always kept, so
/// that a line at WARN still says which request it belongs to.
struct LogFilter(EnvFilter);

impl<S> Filter<S> for LogFilter {
    fn enabled(&self, metadata: &Metadata<'_>, context: &Context<'_, S>) -> bool {
        is_context(metadata) || Filter::<S>::enabled(&self.0, metadata, context)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_context(metadata) {
            Interest::always()
        } else {
            Filter::<S>::callsite_enabled(&self.0, metadata)
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        // Less verbose filters compare as smaller.
        Filter::<S>::max_level_hint(&self.0).map(|level| level.max(LevelFilter::INFO))
    }
}

fn is_context(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && *metadata.level() <= Level::INFO
}

type SetLevel = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// Changes the log level of a running program.
#[derive(Clone)]
pub struct LogLevel {
    set: Arc<SetLevel>,
}

impl LogLevel {
    /// Takes what the configuration's `log.level` takes; says what is wrong
    /// with it otherwise.
    pub fn set(&self, level: &str) -> Result<(), String> {
        (self.set)(level)
    }
}

/// What [`init_tracing`] began; keep it until the end of the program.
pub struct Telemetry {
    /// Changes the log level.
    pub log_level: LogLevel,
    provider: SdkTracerProvider,
}

impl Telemetry {
    /// Sends the spans that were not sent yet. Blocks up to a few seconds:
    /// call it outside the runtime or by `spawn_blocking`.
    pub fn flush(&self) {
        if let Err(error) = self.provider.force_flush() {
            tracing::warn!(%error, "not every span could be sent");
        }
    }
}

fn level_filter(level: &str) -> Result<EnvFilter, String> {
    if level.trim().is_empty() {
        return Err("a log level must not be empty".into());
    }
    EnvFilter::builder()
        .parse(level)
        .map_err(|error| format!("{level:?} is no log level: {error}"))
}

/// Begins logging and tracing for the whole program; call it once, inside the
/// runtime if a collector is configured.
pub fn init_tracing(config: &TelemetryConfig, service: &str) -> anyhow::Result<Telemetry> {
    let filter = level_filter(&config.log.level).map_err(anyhow::Error::msg)?;
    let (filter, handle) = reload::Layer::<LogFilter, Registry>::new(LogFilter(filter));
    let logs = match config.log.format {
        LogFormat::Human => tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .boxed(),
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(true)
            .with_writer(std::io::stderr)
            .boxed(),
    };

    let provider = tracer_provider(&config.trace, service)?;
    opentelemetry::global::set_text_map_propagator(TextMapCompositePropagator::new(vec![
        Box::new(TraceContextPropagator::new()),
    ]));
    let spans = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("yakumo"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(
            filter_fn(|metadata| *metadata.level() <= Level::INFO && metadata.target() != LOG_ONLY)
                .with_max_level_hint(LevelFilter::INFO),
        );

    tracing_subscriber::registry()
        .with(logs.with_filter(filter))
        .with(spans)
        .try_init()?;

    let set = move |level: &str| {
        let filter = level_filter(level)?;
        handle
            .reload(LogFilter(filter))
            .map_err(|error| error.to_string())
    };
    Ok(Telemetry {
        log_level: LogLevel { set: Arc::new(set) },
        provider,
    })
}

fn tracer_provider(config: &TraceConfig, service: &str) -> anyhow::Result<SdkTracerProvider> {
    let resource = Resource::builder()
        .with_service_name(format!("yakumo-{service}"))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let builder = SdkTracerProvider::builder().with_resource(resource);
    if config.otlp_endpoint.is_empty() {
        return Ok(builder
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOff)))
            .build());
    }
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&config.otlp_endpoint)
        .build()?;
    Ok(builder
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
            config.sample_ratio,
        ))))
        .with_batch_exporter(exporter)
        .build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_can_be_changed_at_run_time_and_nonsense_is_refused() {
        let telemetry = init_tracing(&TelemetryConfig::default(), "test").unwrap();
        assert!(!tracing::enabled!(Level::DEBUG));
        telemetry
            .log_level
            .set("warn,yakumo_service=debug")
            .unwrap();
        assert!(tracing::enabled!(Level::DEBUG));
        assert!(telemetry.log_level.set("loud=please").is_err());
        assert!(telemetry.log_level.set("").is_err());
        telemetry.log_level.set("warn").unwrap();
        assert!(!tracing::enabled!(Level::DEBUG));
    }
}
