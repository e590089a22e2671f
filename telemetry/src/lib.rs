//! How a binary tells what it does: logs, traces and metrics, and the endpoint that serves metrics and health.
//!
//! Each binary declares its own instruments in its `metrics` and its own name in its `telemetry`; here is what both
//! need. Telemetry never harms: a collector that is slow, dead or wrong costs data, not the application.

mod arguments;
mod calls;
mod declaration;
mod ending;
mod endpoint;
mod logs;
mod pipeline;
mod trace_context;

pub use arguments::{Arguments, LogFormat};
pub use calls::{CALL_DURATION, CallDurations};
pub use declaration::{Attributes, Declaration, Kind, Sample, deviations, markdown_table};
pub use ending::failure;
pub use endpoint::{Health, serve};
pub use opentelemetry::KeyValue;
pub use opentelemetry::metrics::{Counter, Histogram, Meter};
pub use pipeline::{Service, Telemetry, TelemetryError, build, start};
pub use trace_context::{SetTraceParent, current_traceparent};
