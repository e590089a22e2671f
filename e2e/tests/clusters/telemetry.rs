//! A real failover, as a collector sees it: one trace with every step and the agents' work below it, whose parts add up to the
//! time that the application was away. The hub speaks OTLP over gRPC, one agent over HTTP, and the other has no collector.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use crds::conditions::ConditionType;
use crds::operation::DROperation;
use e2e::federation::{EAST, Federation, Options, Progress, SLOW, WEST};
use e2e::patience::{until, within};
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Exemplar, Histogram, Metric};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

const HUB: &str = "understudy-hub";
const AGENT: &str = "understudy-agent";
const AUDIT: &str = "understudy::audit";
/// The root of a failover's trace.
const FAILOVER: &str = "failover";
/// The steps that the agent does, where what is to be restored stands there already.
const DONE_BY_AN_AGENT: [&str; 2] = ["Promote", "ScaleUp"];
/// How far the sum of the phases may lie off the time that was measured.
const TOLERANCE: f64 = 0.05;

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_is_one_trace_of_all_its_steps_that_add_up_to_the_time_without_the_application()
-> Result<()> {
    let (by_grpc, by_http) = (Seen::default(), Seen::default());
    let grpc = by_grpc.clone().receive_by_grpc().await?;
    let http = by_http.clone().receive_by_http().await?;
    let federation = watched_federation(grpc, http).await?;
    let of_east = || by_grpc.spans_of(AGENT).into_iter().find(|span| span.name == "command");
    until_told("what east did for its deployment, through the hub", of_east).await?;
    federation.await_condition(ConditionType::AutomaticFailoverArmed, "True", SLOW).await?;
    federation.lose(EAST)?;
    let operation = federation.await_failover(WEST).await?;
    let root = until_told("the failover's root span", || {
        by_grpc.spans_of(HUB).into_iter().find(|span| span.name == FAILOVER)
    })
    .await?;
    let trace = whole_trace(&root, &by_grpc, &by_http).await?;

    ensure_one_tree(&trace, &root)?;
    ensure_every_step_is_there(&trace, &root, &operation)?;
    ensure_the_phases_add_up(&trace, &root, measured_downtime(&federation).await?)?;
    ensure_it_was_audited(&by_grpc, &root, &operation).await?;
    ensure_the_histograms_lead_to_it(&by_grpc, &trace, &root).await?;
    for (seen, service) in [(&by_grpc, HUB), (&by_grpc, AGENT), (&by_http, AGENT)] {
        ensure!(seen.lock().metrics_of.contains(service), "no metrics of {service}");
    }
    Ok(())
}

fn told() -> Progress {
    Arc::new(|doing: &str| eprintln!("{doing}"))
}

/// Everything of it sends what it does to collectors: the hub by gRPC, with what east tells it, and west by HTTP.
async fn watched_federation(grpc: SocketAddr, http: SocketAddr) -> Result<Federation> {
    let federation = Federation::start(Options::unhurried(2), told()).await?;
    let (grpc, http) = (format!("http://{grpc}"), format!("http://{http}"));
    let by = |endpoint| [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), ("OTEL_METRIC_EXPORT_INTERVAL", "1000")];
    let through_hub = [("UNDERSTUDY_TELEMETRY_BY_HUB", "true"), ("OTEL_METRIC_EXPORT_INTERVAL", "1000")];
    federation.east.agent.start_with(&through_hub)?;
    let [endpoint, interval] = by(&http);
    let over_http = [endpoint, interval, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")];
    federation.west.agent.start_with(&over_http)?;
    federation.hub.kill9();
    federation.hub.start_with(&by(&grpc)).await?;
    federation.deploy().await?;
    federation.protect().await?;
    federation.await_protected().await?;
    Ok(federation)
}

async fn until_told<T>(what: &str, told: impl Fn() -> Option<T>) -> Result<T> {
    until(what, async || Ok(told())).await
}

/// All spans of the trace, when the last of the agent's have come: it tells them when they are over, and a second later.
async fn whole_trace(root: &Span, by_grpc: &Seen, by_http: &Seen) -> Result<Vec<Told>> {
    within(SLOW, "each step of an agent is told with its command", async || {
        let trace: Vec<Told> = by_grpc.told().into_iter().chain(by_http.told()).collect();
        let trace: Vec<Told> = trace.into_iter().filter(|told| told.span.trace_id == root.trace_id).collect();
        let commands: BTreeSet<String> = trace
            .iter()
            .filter(|told| told.service == AGENT && told.span.name == "command")
            .filter_map(|told| attribute(&told.span.attributes, "step"))
            .collect();
        let all = DONE_BY_AN_AGENT.iter().all(|step| commands.contains(*step));
        Ok(all.then_some(trace))
    })
    .await
}

/// One root, and every other span hangs below another one of the same trace.
fn ensure_one_tree(trace: &[Told], root: &Span) -> Result<()> {
    let known: BTreeSet<&[u8]> = trace.iter().map(|told| told.span.span_id.as_slice()).collect();
    ensure!(known.len() == trace.len(), "a span was told twice, or two have one identifier");
    for Told { service, span } in trace {
        let is_root = span.parent_span_id.is_empty();
        ensure!(is_root == (span.span_id == root.span_id), "{service}: {} stands alone", span.name);
        ensure!(
            is_root || known.contains(span.parent_span_id.as_slice()),
            "{service}: what {} hangs below was never told",
            span.name
        );
    }
    let epoch = attribute(&root.attributes, "epoch");
    ensure!(epoch.as_deref() == Some("2"), "the epoch of the failover: {epoch:?}");
    ensure!(attribute(&root.attributes, "finding").is_some_and(|finding| !finding.is_empty()), "no finding");
    Ok(())
}

fn ensure_every_step_is_there(trace: &[Told], root: &Span, operation: &DROperation) -> Result<()> {
    let plan = operation.status.iter().flat_map(|status| &status.plan).map(|step| step.name.as_str());
    let steps: Vec<&str> = plan.chain(["Detect"]).collect();
    ensure!(steps.len() > 5, "the plan has only {steps:?}");
    for step in steps {
        let span = below(trace, &root.span_id).find(|told| told.service == HUB && told.span.name == step);
        let span = &span.with_context(|| format!("the step {step} is not in the trace"))?.span;
        let command = attribute(&span.attributes, "command");
        ensure!(command.is_some_and(|id| id.ends_with(step)), "{step} does not name its command");
        ensure!(attribute(&span.attributes, "epoch").as_deref() == Some("2"), "{step} has no epoch");
        if !DONE_BY_AN_AGENT.contains(&step) {
            continue;
        }
        let command = below(trace, &span.span_id).find(|told| told.service == AGENT);
        let command = command.with_context(|| format!("no agent worked for {step}"))?;
        let effects = below(trace, &command.span.span_id).filter(|told| told.span.name == "effect").count();
        ensure!(effects > 0, "the agent's work for {step} shows no request");
    }
    let proof = below(trace, &root.span_id)
        .find(|told| told.span.name == "AwaitFence")
        .and_then(|told| attribute(&told.span.attributes, "proof"));
    ensure!(proof.as_deref() == Some("LeaseExpired"), "a dead site acknowledges nothing, but: {proof:?}");
    Ok(())
}

fn below<'a>(trace: &'a [Told], parent: &'a [u8]) -> impl Iterator<Item = &'a Told> {
    trace.iter().filter(move |told| told.span.parent_span_id == parent)
}

/// Steps run side by side, so what counts is the time that any of them covers.
fn ensure_the_phases_add_up(trace: &[Told], root: &Span, measured: Duration) -> Result<()> {
    let mut parts: Vec<(u64, u64)> = below(trace, &root.span_id)
        .map(|told| (told.span.start_time_unix_nano, told.span.end_time_unix_nano))
        .collect();
    parts.sort_unstable();
    let (mut sum, mut until) = (0, 0);
    for (from, to) in parts {
        sum += to.saturating_sub(from.max(until));
        until = until.max(to);
    }
    let (sum, measured) = (Duration::from_nanos(sum).as_secs_f64(), measured.as_secs_f64());
    eprintln!("the phases in the trace add up to {sum:.3} s; {measured:.3} s were measured");
    ensure!((sum - measured).abs() <= TOLERANCE * measured, "{sum:.3} s are not {measured:.3} s");
    Ok(())
}

/// What the hub tells Prometheus: the measured RTO of the one failover.
async fn measured_downtime(federation: &Federation) -> Result<Duration> {
    let name = r#"understudy_operation_downtime_seconds_sum{kind="FailOver"} "#;
    until("the downtime is measured", async || {
        let mut stream = TcpStream::connect(federation.hub.metrics).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut scraped = String::new();
        stream.read_to_string(&mut scraped).await?;
        let told = scraped.lines().find_map(|line| line.strip_prefix(name));
        let seconds = told.map(str::parse::<f64>).transpose().context("reading the downtime")?;
        Ok(seconds.map(Duration::from_secs_f64))
    })
    .await
}

/// Who decided what: the records of the operation, in its trace, as a stream of their own.
async fn ensure_it_was_audited(seen: &Seen, root: &Span, operation: &DROperation) -> Result<()> {
    let name = operation.metadata.name.as_deref().context("an operation without a name")?;
    let wanted = ["Begin", "Command", "AcceptFence", "Own", "Complete"];
    let records = until_told("the failover's audit records", || {
        let records: Vec<LogRecord> = seen
            .lock()
            .audit
            .iter()
            .filter(|record| attribute(&record.attributes, "operation").as_deref() == Some(name))
            .cloned()
            .collect();
        let actions: BTreeSet<String> =
            records.iter().filter_map(|record| attribute(&record.attributes, "action")).collect();
        wanted.iter().all(|action| actions.contains(*action)).then_some(records)
    })
    .await?;
    for record in &records {
        let action = attribute(&record.attributes, "action");
        ensure!(record.trace_id == root.trace_id, "{action:?} is not in the failover's trace");
        ensure!(record.event_name == "understudy.audit", "{action:?} is called {}", record.event_name);
        ensure!(attribute(&record.attributes, "who").is_some(), "{action:?}: who?");
    }
    let begun = records
        .iter()
        .find(|record| attribute(&record.attributes, "action").as_deref() == Some("Begin"))
        .and_then(|record| attribute(&record.attributes, "evidence"));
    ensure!(begun.is_some_and(|evidence| !evidence.is_empty()), "it was begun without evidence");
    Ok(())
}

/// The measured RTO to the operation, and how long each step took to the step's span.
async fn ensure_the_histograms_lead_to_it(seen: &Seen, trace: &[Told], root: &Span) -> Result<()> {
    let of = |name: &str| -> Vec<Exemplar> {
        let exemplars = seen.lock().exemplars.clone();
        let named = exemplars.into_iter().filter(|(its, _)| its == name).map(|(_, exemplar)| exemplar);
        named.filter(|exemplar| exemplar.trace_id == root.trace_id).collect()
    };
    let downtime = until_told("an exemplar of the downtime", || of("understudy.operation.downtime").pop());
    ensure!(downtime.await?.span_id == root.span_id, "the downtime is of the operation, not of a part");
    let steps: BTreeSet<Vec<u8>> =
        of("understudy.operation.step.duration").into_iter().map(|exemplar| exemplar.span_id).collect();
    let parts = below(trace, &root.span_id).filter(|told| told.service == HUB);
    let told: BTreeSet<Vec<u8>> = parts.map(|told| told.span.span_id.clone()).collect();
    ensure!(steps == told, "exemplars lead to {} steps, and {} were told", steps.len(), told.len());
    Ok(())
}

fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    shown(found.value.as_ref()?)
}

fn shown(value: &AnyValue) -> Option<String> {
    match value.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(_)
        | Value::DoubleValue(_)
        | Value::ArrayValue(_)
        | Value::KvlistValue(_)
        | Value::BytesValue(_)
        | Value::StringValueStrindex(_) => None,
    }
}

/// A span, and the service that told it.
#[derive(Clone)]
struct Told {
    service: String,
    span: Span,
}

/// What a collector has seen. Clones see the same.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    spans: Vec<Told>,
    metrics_of: BTreeSet<String>,
    /// With the names of their histograms.
    exemplars: Vec<(String, Exemplar)>,
    audit: Vec<LogRecord>,
}

impl Seen {
    async fn receive_by_grpc(self) -> Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(self.clone()))
            .add_service(MetricsServiceServer::new(self.clone()))
            .add_service(LogsServiceServer::new(self));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(address)
    }

    async fn receive_by_http(self) -> Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let route = |take: fn(&Seen, Bytes) -> Result<(), prost::DecodeError>| {
            let seen = self.clone();
            post(move |body: Bytes| async move { take(&seen, body).map_err(|_| StatusCode::BAD_REQUEST) })
        };
        let routes = Router::new()
            .route("/v1/traces", route(|seen, body| decoded(body).map(|request| seen.traces(request))))
            .route("/v1/metrics", route(|seen, body| decoded(body).map(|request| seen.metrics(&request))))
            .route("/v1/logs", route(|seen, body| decoded(body).map(|request| seen.logs(request))));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok(address)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> Vec<Told> {
        self.lock().spans.clone()
    }

    fn spans_of(&self, service: &str) -> Vec<Span> {
        let told = self.told().into_iter().filter(|told| told.service == service);
        told.map(|told| told.span).collect()
    }

    fn traces(&self, request: ExportTraceServiceRequest) {
        for ResourceSpans { resource, scope_spans, .. } in request.resource_spans {
            let service = service(resource.as_ref());
            for span in scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let told = Told { service: service.clone(), span };
                self.lock().spans.push(told);
            }
        }
    }

    fn metrics(&self, request: &ExportMetricsServiceRequest) {
        let services = request.resource_metrics.iter().map(|one| service(one.resource.as_ref()));
        let scopes = request.resource_metrics.iter().flat_map(|one| &one.scope_metrics);
        let exemplars = scopes.flat_map(|scope| &scope.metrics).flat_map(exemplars);
        let mut kept = self.lock();
        kept.metrics_of.extend(services);
        kept.exemplars.extend(exemplars);
    }

    fn logs(&self, request: ExportLogsServiceRequest) {
        for ResourceLogs { scope_logs, .. } in request.resource_logs {
            let audit = scope_logs
                .into_iter()
                .filter(|logs| logs.scope.as_ref().is_some_and(|scope| scope.name == AUDIT));
            self.lock().audit.extend(audit.flat_map(|logs| logs.log_records));
        }
    }
}

fn exemplars(metric: &Metric) -> Vec<(String, Exemplar)> {
    let Some(Data::Histogram(Histogram { data_points, .. })) = &metric.data else { return Vec::new() };
    let exemplars = data_points.iter().flat_map(|point| &point.exemplars);
    exemplars.map(|exemplar| (metric.name.clone(), exemplar.clone())).collect()
}

fn decoded<M: Message + Default>(body: Bytes) -> Result<M, prost::DecodeError> {
    M::decode(body)
}

fn service(resource: Option<&Resource>) -> String {
    resource.and_then(|resource| attribute(&resource.attributes, "service.name")).unwrap_or_default()
}

#[tonic::async_trait]
impl TraceService for Seen {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.traces(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Seen {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.metrics(&request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Seen {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.logs(request.into_inner());
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}
