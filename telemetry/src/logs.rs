//! The log on standard error, and which spans become traces.

use tracing::Subscriber;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer};

use crate::arguments::{Arguments, LogFormat};
use crate::pipeline::TelemetryError;

/// Crates below the exporter: their spans would be exported, which makes spans, without end.
const NEVER_TRACED: [&str; 8] = [
    "opentelemetry",
    "opentelemetry_sdk",
    "opentelemetry_otlp",
    "tonic",
    "h2",
    "hyper",
    "hyper_util",
    "tower",
];

pub fn layer<S>(arguments: &Arguments) -> Result<Box<dyn Layer<S> + Send + Sync>, TelemetryError>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let filter = EnvFilter::builder()
        .parse(&arguments.log)
        .map_err(|source| TelemetryError::Filter { value: arguments.log.clone(), source })?;
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    Ok(match arguments.log_format {
        LogFormat::Text => {
            layer.with_ansi(std::env::var_os("NO_COLOR").is_none()).with_filter(filter).boxed()
        }
        LogFormat::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
    })
}

pub fn traced() -> Targets {
    NEVER_TRACED.into_iter().fold(Targets::new().with_default(LevelFilter::INFO), |targets, name| {
        targets.with_target(name, LevelFilter::OFF)
    })
}
