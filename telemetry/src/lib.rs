//! How a binary tells what it does: logs, traces and metrics, and the endpoint that serves metrics and health.
//!
//! Each binary declares its own instruments in its `metrics` and its own name in its `telemetry`; here is what both
//! need. Telemetry never harms: a collector that is slow, dead or wrong costs data, not the application.

mod arguments;
mod calls;
mod carrier;
mod counted;
mod declaration;
mod ending;
mod endpoint;
mod exemplars;
mod exemplified;
mod format;
mod gauges;
mod logs;
mod lost;
mod meter;
mod open_metrics;
mod pipeline;
mod queue;
mod relay;
mod spans;
mod trace_context;

pub use arguments::{Arguments, LogFormat, OtlpProtocol};
pub use calls::{CALL_DURATION, CallDurations};
pub use declaration::{Attributes, Declaration, Kind, Sample, deviations, markdown_table};
pub use ending::failure;
pub use endpoint::{Health, serve};
pub use exemplars::TracedHistogram;
pub use format::Format;
pub use logs::AUDIT;
pub use lost::{Lost, Reason, Signal, TELEMETRY_LOST};
pub use meter::Meter;
pub use opentelemetry::KeyValue;
pub use opentelemetry::metrics::{Counter, Histogram};
pub use pipeline::{Service, Telemetry, TelemetryError, build, build_through, start, start_through};
pub use queue::QUEUE;
pub use relay::{Batch, NotPassedOn, PassOn, Relay};
pub use spans::{FinishedSpan, Note, SpanAddress, Spans};
pub use trace_context::{SetTraceParent, current_trace, current_traceparent};
