//! From instruments and spans to where they go: Prometheus registry and OTLP.

use std::time::Duration;

use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::TracerProvider;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_http::HttpClient;
use opentelemetry_otlp::{
    ExporterBuildError, LogExporter, MetricExporter, Protocol, SpanExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{LogExporter as _, SdkLoggerProvider};
use opentelemetry_sdk::metrics::{Instrument, InstrumentKind, SdkMeterProvider, Stream};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanExporter as _};
use prometheus::Registry;
use thiserror::Error;
use tokio::sync::oneshot;
use tracing::Dispatch;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;

use crate::Meter;
use crate::arguments::Arguments;
use crate::carrier::{Carrier, CarrierError, EXPORT_LIMIT};
use crate::endpoint::Scraped;
use crate::exemplars::Exemplars;
use crate::exemplified::Exemplified;
use crate::format::Format;
use crate::lost::{Lost, Signal};
use crate::queue::Queue;
use crate::relay::{PassOn, Relay};
use crate::spans::Spans;
use crate::{counted, logs};

/// How long a whole shutdown may take: what a dead collector has not taken by then is lost.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(4);

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
    #[error("cannot export to --otlp-endpoint {endpoint:?}")]
    Endpoint { endpoint: String, source: CarrierError },
    #[error("cannot make an exporter to {endpoint:?}")]
    Otlp { endpoint: String, source: ExporterBuildError },
    #[error("cannot make the Prometheus registry")]
    Prometheus(#[from] opentelemetry_sdk::error::OTelSdkError),
    #[error("logs have been set up already: telemetry is started once, in main")]
    AlreadyStarted(#[from] tracing::dispatcher::SetGlobalDefaultError),
}

/// What was started, to be kept until the end of the process.
#[derive(Debug)]
pub struct Telemetry {
    pub(crate) scraped: Scraped,
    meters: SdkMeterProvider,
    collector: Option<Collector>,
    carrier: Option<Carrier>,
    lost: Lost,
}

/// What only a process with a collector has.
#[derive(Debug)]
struct Collector {
    /// Apart from the other meters: for a scrape, gauges are read at their source.
    gauges: SdkMeterProvider,
    traces: SdkTracerProvider,
    logs: SdkLoggerProvider,
    spans: Spans,
}

/// Sets up logs, traces and metrics for this process. To be called within the Tokio runtime.
pub fn start(service: &Service, arguments: &Arguments) -> Result<Telemetry, TelemetryError> {
    start_through(service, arguments, None)
}

/// The same; what has no collector of its own goes to the hub, if there is a way.
pub fn start_through(
    service: &Service,
    arguments: &Arguments,
    way: Option<Relay>,
) -> Result<Telemetry, TelemetryError> {
    let (telemetry, dispatch) = build_through(service, arguments, way)?;
    tracing::dispatcher::set_global_default(dispatch)?;
    Ok(telemetry)
}

/// The same, with the subscriber left to the caller.
pub fn build(service: &Service, arguments: &Arguments) -> Result<(Telemetry, Dispatch), TelemetryError> {
    build_through(service, arguments, None)
}

/// Both.
pub fn build_through(
    service: &Service,
    arguments: &Arguments,
    way: Option<Relay>,
) -> Result<(Telemetry, Dispatch), TelemetryError> {
    let resource = resource(service);
    let lost = Lost::default();
    let carrier = carrier(arguments, way)?;
    let scraped = Scraped::default();
    let exporters =
        carrier.as_ref().map(|carrier| exporters(carrier, &scraped.exemplars, &lost)).transpose()?;
    let mut meters = meters(&scraped.registry, resource.clone())?;
    let mut collector = None;
    if let Some(Exporters { spans, metrics, gauges, logs }) = exporters {
        meters = meters.with_periodic_exporter(metrics);
        collector = Some(collect(service, &resource, spans, gauges, logs, &lost));
    }
    let meters = meters.build();
    lost.observe(&meters.meter(METER));
    let tracing_layer = collector.as_ref().map(|collector| {
        let tracer = collector.traces.tracer(service.name);
        tracing_opentelemetry::layer().with_tracer(tracer).with_filter(logs::traced())
    });
    let logged = |collector: &Collector| {
        let bridge = OpenTelemetryTracingBridge::new(&collector.logs);
        Ok::<_, TelemetryError>(bridge.with_filter(logs::exported(arguments)?))
    };
    // Before the log: a record is correlated with the span that this layer makes.
    let subscriber = tracing_subscriber::registry()
        .with(tracing_layer)
        .with(logs::layer(arguments)?)
        .with(collector.as_ref().map(logged).transpose()?);
    Ok((Telemetry { scraped, meters, collector, carrier, lost }, Dispatch::new(subscriber)))
}

impl Telemetry {
    /// Where a binary's instruments are made.
    pub fn meter(&self) -> Meter {
        Meter {
            remembered: self.meters.meter(METER),
            scraped: self.scraped.gauges.clone(),
            exemplars: self.scraped.exemplars.clone(),
            sent: self.collector.as_ref().map(|collector| collector.gauges.meter(METER)),
        }
    }

    /// Where spans are told that were not made by `tracing`; nowhere without a collector.
    pub fn spans(&self) -> Option<Spans> {
        self.collector.as_ref().map(|collector| collector.spans.clone())
    }

    /// Where others' telemetry is passed on; nowhere without a collector.
    pub fn pass_on(&self) -> Option<PassOn> {
        self.carrier.clone().map(PassOn::new)
    }

    /// How much telemetry was given up so far.
    pub fn lost(&self) -> Lost {
        self.lost.clone()
    }

    /// All values in Prometheus' own text format.
    pub fn scrape(&self) -> String {
        self.scrape_in(Format::Text)
    }

    /// The same in either format; exemplars are in one alone.
    pub fn scrape_in(&self, format: Format) -> String {
        self.scraped.text(format)
    }

    /// Hands over what is still held, for less than five seconds.
    pub async fn shutdown(self) {
        let Telemetry { scraped: _, meters, collector, carrier: _, lost: _ } = self;
        let (done, flushed) = oneshot::channel();
        // A thread of its own: the runtime would wait at its end for a blocking task that a dead collector holds up.
        std::thread::spawn(move || {
            // All report a collector that does not answer, which is not ours to mend. Those of meters take as long as they
            // need; what everybody sees again a moment later, or nobody any more, comes last.
            if let Some(Collector { gauges, traces, logs, spans }) = collector {
                spans.end();
                let _ = logs.shutdown_with_timeout(SHUTDOWN_LIMIT / 4);
                let _ = traces.shutdown_with_timeout(SHUTDOWN_LIMIT / 4);
                let _ = meters.shutdown();
                let _ = gauges.shutdown();
            } else {
                let _ = meters.shutdown();
            }
            let _ = done.send(());
        });
        if tokio::time::timeout(SHUTDOWN_LIMIT, flushed).await.is_err() {
            tracing::warn!("telemetry was not handed over in time, and is lost");
        }
    }
}

const METER: &str = "understudy";

/// Ten thousand placements of five volumes.
const LARGEST_GAUGE: usize = 50_000;

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
    resource: Resource,
) -> Result<opentelemetry_sdk::metrics::MeterProviderBuilder, TelemetryError> {
    let scraped = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .scope_info_enabled(false)
        .build()?;
    Ok(SdkMeterProvider::builder().with_resource(resource).with_reader(scraped))
}

/// Where OpenTelemetry would put all series of an instrument beyond the 2,000th together, silently: gauges have one for each
/// volume of the fleet.
fn roomy_gauges(instrument: &Instrument) -> Option<Stream> {
    let limit = (instrument.kind() == InstrumentKind::ObservableGauge).then_some(LARGEST_GAUGE)?;
    Stream::builder().with_cardinality_limit(limit).build().ok()
}

/// What encodes each signal for the collector.
struct Exporters {
    spans: SpanExporter,
    metrics: counted::Counted,
    gauges: counted::Counted,
    logs: LogExporter,
}

fn carrier(arguments: &Arguments, way: Option<Relay>) -> Result<Option<Carrier>, TelemetryError> {
    match arguments.otlp_endpoint.as_deref() {
        Some(endpoint) => {
            let wrong = |source| TelemetryError::Endpoint { endpoint: endpoint.to_owned(), source };
            Carrier::to(endpoint, arguments).map(Some).map_err(wrong)
        }
        None => Ok(way.map(Carrier::through_hub)),
    }
}

fn exporters(carrier: &Carrier, exemplars: &Exemplars, lost: &Lost) -> Result<Exporters, TelemetryError> {
    let unfit = |source| TelemetryError::Otlp { endpoint: carrier.address(Signal::Traces), source };
    let protocol = Protocol::HttpBinary;
    let spans = SpanExporter::builder()
        .with_http()
        .with_http_client(carrier.clone())
        .with_endpoint(carrier.address(Signal::Traces))
        .with_protocol(protocol)
        .with_timeout(EXPORT_LIMIT)
        .build()
        .map_err(unfit)?;
    // Gauges have no exemplars, and are many.
    let exemplified = Exemplified::new(carrier.clone(), exemplars.clone());
    let metrics = metric_exporter(exemplified, carrier).map_err(unfit)?;
    let gauges = metric_exporter(carrier.clone(), carrier).map_err(unfit)?;
    let logs = LogExporter::builder()
        .with_http()
        .with_http_client(carrier.clone())
        .with_endpoint(carrier.address(Signal::Logs))
        .with_protocol(protocol)
        .with_timeout(EXPORT_LIMIT)
        .build()
        .map_err(unfit)?;
    let [metrics, gauges] = [metrics, gauges].map(|exporter| counted::Counted::new(exporter, lost.clone()));
    Ok(Exporters { spans, metrics, gauges, logs })
}

fn metric_exporter(
    client: impl HttpClient + 'static,
    carrier: &Carrier,
) -> Result<MetricExporter, ExporterBuildError> {
    MetricExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(carrier.address(Signal::Metrics))
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(EXPORT_LIMIT)
        .build()
}

fn collect(
    service: &Service,
    resource: &Resource,
    mut spans: SpanExporter,
    gauges: counted::Counted,
    mut logs: LogExporter,
    lost: &Lost,
) -> Collector {
    spans.set_resource(resource);
    logs.set_resource(resource);
    let spans = Queue::begin(spans, EXPORT_LIMIT, lost.clone());
    let logs = Queue::begin(logs, EXPORT_LIMIT, lost.clone());
    // Whoever asks for less would lose the parts of an operation that an agent does.
    let every = Sampler::ParentBased(Box::new(Sampler::AlwaysOn));
    let traces = SdkTracerProvider::builder()
        .with_resource(resource.clone())
        .with_sampler(every)
        .with_span_processor(spans.clone())
        .build();
    let logs = SdkLoggerProvider::builder().with_resource(resource.clone()).with_log_processor(logs).build();
    let scope = InstrumentationScope::builder(service.name).with_version(service.version).build();
    let gauges = SdkMeterProvider::builder()
        .with_resource(resource.clone())
        .with_view(roomy_gauges)
        .with_periodic_exporter(gauges)
        .build();
    Collector { gauges, traces, logs, spans: Spans::new(spans, scope) }
}
