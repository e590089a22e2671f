//! From instruments and spans to where they go: Prometheus registry and OTLP.

use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry::{KeyValue, metrics::MeterProvider};
use opentelemetry_otlp::{ExporterBuildError, MetricExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use prometheus::Registry;
use thiserror::Error;
use tokio::sync::oneshot;
use tracing::Dispatch;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;

use crate::Meter;
use crate::arguments::Arguments;
use crate::{endpoint, logs};

/// How long a whole shutdown may take: what a dead collector has not taken by then is lost.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);
/// How long one export may take.
const EXPORT_LIMIT: Duration = Duration::from_secs(3);

/// Who is speaking.
#[derive(Clone, Debug)]
pub struct Service {
    /// As in `understudy-hub`.
    pub name: &'static str,
    pub version: &'static str,
    /// Tells replicas apart; the pod's name.
    pub instance: String,
    /// The Kubernetes cluster that this process serves.
    pub cluster: Option<String>,
}

#[derive(Debug, Error)]
pub enum TelemetryError {
    #[error("cannot understand --log {value:?}: use directives of the form info,hub_core=debug")]
    Filter { value: String, source: tracing_subscriber::filter::ParseError },
    #[error("cannot export to --otlp-endpoint {endpoint:?}: use a URL such as http://collector:4317")]
    Otlp { endpoint: String, source: ExporterBuildError },
    #[error("cannot make the Prometheus registry")]
    Prometheus(#[from] opentelemetry_sdk::error::OTelSdkError),
    #[error("logs have been set up already: telemetry is started once, in main")]
    AlreadyStarted(#[from] tracing::dispatcher::SetGlobalDefaultError),
}

/// What was started, to be kept until the end of the process.
#[derive(Debug)]
pub struct Telemetry {
    pub(crate) registry: Registry,
    meters: SdkMeterProvider,
    traces: Option<SdkTracerProvider>,
}

/// Sets up logs, traces and metrics for this process. To be called within the Tokio runtime.
pub fn start(service: &Service, arguments: &Arguments) -> Result<Telemetry, TelemetryError> {
    let (telemetry, dispatch) = build(service, arguments)?;
    tracing::dispatcher::set_global_default(dispatch)?;
    Ok(telemetry)
}

/// The same, with the subscriber left to the caller.
pub fn build(service: &Service, arguments: &Arguments) -> Result<(Telemetry, Dispatch), TelemetryError> {
    let resource = resource(service);
    let endpoint = arguments.otlp_endpoint.as_deref();
    let registry = Registry::new();
    let meters = meters(&registry, endpoint, resource.clone())?;
    let traces = endpoint.map(|endpoint| traces(endpoint, resource)).transpose()?;
    let tracing_layer = traces.as_ref().map(|provider| {
        tracing_opentelemetry::layer().with_tracer(provider.tracer(service.name)).with_filter(logs::traced())
    });
    let subscriber = tracing_subscriber::registry().with(logs::layer(arguments)?).with(tracing_layer);
    Ok((Telemetry { registry, meters, traces }, Dispatch::new(subscriber)))
}

impl Telemetry {
    /// Where a binary's instruments are made.
    pub fn meter(&self) -> Meter {
        self.meters.meter("understudy")
    }

    /// All values as Prometheus reads them.
    pub fn scrape(&self) -> String {
        endpoint::scrape(&self.registry)
    }

    /// Hands over what is still held, for five seconds at most.
    pub async fn shutdown(self) {
        let Telemetry { registry: _, meters, traces } = self;
        let (done, flushed) = oneshot::channel();
        // A thread of its own: the runtime would wait at its end for a blocking task that a dead collector holds up.
        std::thread::spawn(move || {
            // Both report a collector that does not answer, which is not ours to mend.
            let _ = traces.map(|traces| traces.shutdown_with_timeout(SHUTDOWN_LIMIT / 2));
            let _ = meters.shutdown_with_timeout(SHUTDOWN_LIMIT / 2);
            let _ = done.send(());
        });
        if tokio::time::timeout(SHUTDOWN_LIMIT, flushed).await.is_err() {
            tracing::warn!("telemetry was not handed over in time, and is lost");
        }
    }
}

fn resource(service: &Service) -> Resource {
    let cluster = service.cluster.iter().map(|cluster| KeyValue::new("k8s.cluster.name", cluster.clone()));
    Resource::builder()
        .with_service_name(service.name)
        .with_attribute(KeyValue::new("service.version", service.version))
        .with_attribute(KeyValue::new("service.instance.id", service.instance.clone()))
        .with_attributes(cluster)
        .build()
}

fn meters(
    registry: &Registry,
    endpoint: Option<&str>,
    resource: Resource,
) -> Result<SdkMeterProvider, TelemetryError> {
    let scraped = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .scope_info_enabled(false)
        .build()?;
    let builder = SdkMeterProvider::builder().with_resource(resource).with_reader(scraped);
    let Some(endpoint) = endpoint else { return Ok(builder.build()) };
    let exporter = MetricExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_LIMIT)
        .build()
        .map_err(|source| TelemetryError::Otlp { endpoint: endpoint.to_owned(), source })?;
    Ok(builder.with_periodic_exporter(exporter).build())
}

fn traces(endpoint: &str, resource: Resource) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_LIMIT)
        .build()
        .map_err(|source| TelemetryError::Otlp { endpoint: endpoint.to_owned(), source })?;
    Ok(SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build())
}
