//! One trace across processes: the W3C trace context of the sending span goes
//! into the envelope, and the receiving span becomes its child.

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// `traceparent` and `tracestate` of a span; empty where nothing is traced.
pub(crate) fn inject(span: &Span) -> (String, String) {
    let context = span.context();
    let context = context.span().span_context().clone();
    if !context.is_valid() {
        return (String::new(), String::new());
    }
    (
        format!(
            "00-{}-{}-{:02x}",
            context.trace_id(),
            context.span_id(),
            context.trace_flags().to_u8()
        ),
        context.trace_state().header(),
    )
}

/// Makes the span a child of what the envelope says; ignores what it cannot read.
pub(crate) fn adopt(span: &Span, traceparent: &str, tracestate: &str) {
    if let Some(parent) = parse(traceparent, tracestate) {
        let parent = opentelemetry::Context::new().with_remote_span_context(parent);
        // Fails only where no tracer listens, and then nobody misses it.
        let _ = span.set_parent(parent);
    }
}

/// The trace that a span belongs to; nothing where nothing is traced.
pub(crate) fn trace_id(span: &Span) -> Option<TraceId> {
    let context = span.context();
    let id = context.span().span_context().trace_id();
    (id != TraceId::INVALID).then_some(id)
}

/// The trace that a `traceparent` names.
pub(crate) fn id_in(traceparent: &str) -> Option<TraceId> {
    parse(traceparent, "").map(|it| it.trace_id())
}

fn parse(traceparent: &str, tracestate: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if version.len() != 2 || version == "ff" || trace.len() != 32 || span.len() != 16 {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()? & 1),
        true,
        tracestate.parse::<TraceState>().unwrap_or_default(),
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_context_is_read_and_nonsense_is_not() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = parse(good, "vendor=1").unwrap();
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(context.trace_state().header(), "vendor=1");
        for bad in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-xxad6b7169203331-01",
        ] {
            assert!(parse(bad, "").is_none(), "{bad}");
        }
    }
}
