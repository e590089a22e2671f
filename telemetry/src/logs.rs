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

/// Who did what, and why: a stream of its own, which stays whatever else is logged.
pub const AUDIT: &str = "understudy::audit";

/// What says nothing that is not said better elsewhere: kube's client logs each error that it also returns. Naming the
/// target in --log overrides it, as it does the audit records, which are there unless they are unwanted by name.
const PRESET: &str =
    "opentelemetry_sdk=warn,opentelemetry=warn,kube_client::client::builder=off,understudy::audit=info";

pub fn layer<S>(arguments: &Arguments) -> Result<Box<dyn Layer<S> + Send + Sync>, TelemetryError>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let filter = filter(arguments, "")?;
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    Ok(match arguments.log_format {
        LogFormat::Text => layer.with_ansi(colours()).with_filter(filter).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
    })
}

/// What of the log is exported: the same, but for what the export itself would log without end.
pub fn exported(arguments: &Arguments) -> Result<EnvFilter, TelemetryError> {
    let never: String = NEVER_TRACED.into_iter().map(|target| format!(",{target}=off")).collect();
    filter(arguments, &never)
}

fn filter(arguments: &Arguments, last_word: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder()
        .parse(format!("{PRESET},{}{last_word}", arguments.log))
        .map_err(|source| TelemetryError::Filter { value: arguments.log.clone(), source })
}

fn colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

pub fn traced() -> Targets {
    NEVER_TRACED.into_iter().fold(Targets::new().with_default(LevelFilter::INFO), |targets, name| {
        targets.with_target(name, LevelFilter::OFF)
    })
}
