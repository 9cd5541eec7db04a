//! The submitting request's trace, carried through the workflow's row, so that
//! one trace follows a boot through every worker that had a hand in it.

use std::collections::HashMap;

use opentelemetry::global;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

const HEADER: &str = "traceparent";

/// The current span as a W3C `traceparent`; empty if nothing is traced.
pub(crate) fn current() -> String {
    let mut carrier = HashMap::new();
    let context = Span::current().context();
    global::get_text_map_propagator(|propagator| {
        propagator.inject_context(&context, &mut carrier);
    });
    carrier.remove(HEADER).unwrap_or_default()
}

/// The trace that [`current`] wrote down, as 32 hexadecimal digits.
pub(crate) fn trace_id(parent: &str) -> Option<&str> {
    parent.split('-').nth(1)
}

/// Makes `span` a child of the span that [`current`] wrote down.
pub(crate) fn continue_in(span: &Span, parent: &str) {
    if parent.is_empty() {
        return;
    }
    let carrier = HashMap::from([(HEADER.to_owned(), parent.to_owned())]);
    let context = global::get_text_map_propagator(|propagator| propagator.extract(&carrier));
    // Fails where nothing collects traces, and then nothing is missing.
    let _ = span.set_parent(context);
}
