//! The log on standard error, and which spans become traces.

use std::io::IsTerminal;

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

/// What says nothing that is not said better elsewhere: kube's client logs each error that it also returns. Naming the
/// target in --log overrides it.
const QUIET: &str = "opentelemetry_sdk=warn,opentelemetry=warn,kube_client::client::builder=off";

pub fn layer<S>(arguments: &Arguments) -> Result<Box<dyn Layer<S> + Send + Sync>, TelemetryError>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let filter = EnvFilter::builder()
        .parse(format!("{QUIET},{}", arguments.log))
        .map_err(|source| TelemetryError::Filter { value: arguments.log.clone(), source })?;
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    Ok(match arguments.log_format {
        LogFormat::Text => layer.with_ansi(colours()).with_filter(filter).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
    })
}

fn colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

pub fn traced() -> Targets {
    NEVER_TRACED.into_iter().fold(Targets::new().with_default(LevelFilter::INFO), |targets, name| {
        targets.with_target(name, LevelFilter::OFF)
    })
}
