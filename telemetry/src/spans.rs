//! Spans that are told when they are over, with times and names of the teller's own: what an operation did is known from its
//! journal, which outlives the process that began it.

use std::borrow::Cow;
use std::time::SystemTime;

use opentelemetry::trace::{
    Event, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use sha2::{Digest, Sha256};

use crate::queue::Queue;

/// Where finished spans are told. Clones fill the same queue.
#[derive(Clone, Debug)]
pub struct Spans {
    queue: Queue<SpanData>,
    scope: InstrumentationScope,
}

/// A span's place in a trace. It follows from names, so whoever knows the names finds it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanAddress {
    trace: TraceId,
    span: SpanId,
}

/// A span that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct FinishedSpan {
    pub address: SpanAddress,
    /// None: it is the root.
    pub parent: Option<SpanAddress>,
    pub name: &'static str,
    pub start: SystemTime,
    pub end: SystemTime,
    pub attributes: Vec<KeyValue>,
    pub notes: Vec<Note>,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// Something that was so from one moment within a span.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    pub name: &'static str,
    pub at: SystemTime,
    pub attributes: Vec<KeyValue>,
}

impl SpanAddress {
    /// The root of the trace of these names.
    pub fn root(names: &[&str]) -> SpanAddress {
        let hash = hash(names);
        let mut trace = [0; 16];
        trace.copy_from_slice(&hash[..16]);
        let mut span = [0; 8];
        span.copy_from_slice(&hash[16..24]);
        SpanAddress { trace: TraceId::from_bytes(trace), span: SpanId::from_bytes(span) }
    }

    /// The part of that name in the same trace.
    pub fn part(&self, name: &str) -> SpanAddress {
        let mut span = [0; 8];
        span.copy_from_slice(&hash(&[&self.span.to_string(), name])[..8]);
        SpanAddress { trace: self.trace, span: SpanId::from_bytes(span) }
    }

    /// As others may hang their spans below it (W3C Trace Context).
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace, self.span)
    }

    /// As logs name it.
    pub fn trace_id(&self) -> String {
        self.trace.to_string()
    }

    /// As exemplars name it, beside its trace.
    pub fn span_id(&self) -> String {
        self.span.to_string()
    }

    /// Trace and span, as OTLP writes them.
    pub(crate) fn bytes(&self) -> (Vec<u8>, Vec<u8>) {
        (self.trace.to_bytes().to_vec(), self.span.to_bytes().to_vec())
    }

    /// What `work` logs belongs to this span.
    pub fn within<R>(&self, work: impl FnOnce() -> R) -> R {
        let _active = Context::current().with_remote_span_context(self.context()).attach();
        work()
    }

    fn context(&self) -> SpanContext {
        SpanContext::new(self.trace, self.span, TraceFlags::SAMPLED, false, TraceState::default())
    }
}

/// The names' lengths keep them apart.
fn hash(names: &[&str]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for name in names {
        hasher.update(name.len().to_be_bytes());
        hasher.update(name.as_bytes());
    }
    hasher.finalize().into()
}

impl Spans {
    pub(crate) fn new(queue: Queue<SpanData>, scope: InstrumentationScope) -> Spans {
        Spans { queue, scope }
    }

    /// Takes no more, and hands over what waits.
    pub(crate) fn end(&self) {
        self.queue.end();
    }

    /// Never waits: with a full queue the span is dropped, and counted.
    pub fn tell(&self, span: FinishedSpan) {
        let FinishedSpan { address, parent, name, start, end, attributes, notes, failure } = span;
        let mut events = SpanEvents::default();
        events.events =
            notes.into_iter().map(|note| Event::new(note.name, note.at, note.attributes, 0)).collect();
        self.queue.add(SpanData {
            span_context: address.context(),
            parent_span_id: parent.map_or(SpanId::INVALID, |parent| parent.span),
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: Cow::Borrowed(name),
            start_time: start,
            end_time: end,
            attributes,
            dropped_attributes_count: 0,
            events,
            links: SpanLinks::default(),
            status: failure.map_or(Status::Unset, Status::error),
            instrumentation_scope: self.scope.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_names_lead_to_the_same_place_and_others_do_not() {
        let root = SpanAddress::root(&["uid", "web-failover-2"]);
        assert_eq!(root, SpanAddress::root(&["uid", "web-failover-2"]));
        assert_ne!(root, SpanAddress::root(&["uidw", "eb-failover-2"]));
        let step = root.part("Promote");
        assert_eq!(step, root.part("Promote"));
        assert_ne!(step, root.part("Restore"));
        assert_eq!(step.trace_id(), root.trace_id());
        assert_ne!(step.traceparent(), root.traceparent());
        assert_eq!(step.traceparent().len(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".len());
    }
}
