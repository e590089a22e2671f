//! A trace's way through a message: as a W3C `traceparent`.

use std::collections::HashMap;

use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

const TRACEPARENT: &str = "traceparent";

/// The current span as others may hang theirs below it; none where nothing is traced.
pub fn current_traceparent() -> Option<String> {
    let context = Span::current().context();
    if !context.span().span_context().is_valid() {
        return None;
    }
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut carrier);
    carrier.remove(TRACEPARENT)
}

/// The trace of the current span, as logs name it; none where nothing is traced.
pub fn current_trace() -> Option<String> {
    let context = Span::current().context();
    let traced = context.span().span_context().clone();
    traced.is_valid().then(|| traced.trace_id().to_string())
}

pub trait SetTraceParent {
    /// Hangs this span below the one that `traceparent` names. What is no traceparent is ignored: it comes from another
    /// process, and tracing must not be a reason to fail.
    fn set_traceparent(&self, traceparent: &str);
}

impl SetTraceParent for Span {
    fn set_traceparent(&self, traceparent: &str) {
        let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
        if context.span().span_context().is_valid() {
            // It fails only where no traces are collected.
            let _ = self.set_parent(context);
        }
    }
}
