//! What a collector is sent, and that one which is dead, deaf or absent harms nobody.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

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
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use understudy_telemetry::{
    Arguments, Declaration, Kind, LogFormat, Service, SetTraceParent, build, current_traceparent,
};

const CALLS: Declaration = Declaration {
    name: "understudy.test.calls",
    kind: Kind::Counter,
    unit: "{call}",
    attributes: &[],
    meaning: "Calls that were made.",
};

/// Longer than any shutdown may take, on a slow machine too; an exporter that nobody limits tries for ten seconds.
const TOO_LONG: Duration = Duration::from_millis(9500);

fn arguments(collector: SocketAddr) -> Arguments {
    Arguments {
        log_format: LogFormat::Text,
        log: "off".into(),
        otlp_endpoint: Some(format!("http://{collector}")),
        metrics_listen: None,
    }
}

fn service() -> Service {
    Service {
        name: "understudy-test",
        version: "1.2.3",
        instance: "pod-0".into(),
        cluster: Some("east".into()),
    }
}

enum Received {
    Traces(ExportTraceServiceRequest),
    Metrics(ExportMetricsServiceRequest),
}

/// A collector that keeps what it gets. The bound is more than these tests send.
#[derive(Clone)]
struct Collector(mpsc::Sender<Received>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0
            .send(Received::Traces(request.into_inner()))
            .await
            .map_err(|_| Status::aborted("test is over"))?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.0
            .send(Received::Metrics(request.into_inner()))
            .await
            .map_err(|_| Status::aborted("test is over"))?;
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

async fn collector() -> (SocketAddr, mpsc::Receiver<Received>) {
    let (sender, receiver) = mpsc::channel(64);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let server = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(Collector(sender.clone())))
        .add_service(MetricsServiceServer::new(Collector(sender)));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (address, receiver)
}

fn attributes(resource: Option<&Resource>) -> BTreeSet<String> {
    resource.into_iter().flat_map(|resource| &resource.attributes).map(|one| one.key.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_and_metrics_reach_the_collector_with_who_sent_them_and_a_trace_crosses_a_message() {
    let (address, mut received) = collector().await;
    let (telemetry, dispatch) = build(&service(), &arguments(address)).expect("build");
    CALLS.counter(&telemetry.meter()).add(2, &[]);
    tracing::dispatcher::with_default(&dispatch, || {
        let traceparent =
            tracing::info_span!("command").in_scope(current_traceparent).expect("a traced span");
        let received = tracing::info_span!("apply");
        received.set_traceparent(&traceparent);
        received.in_scope(|| {});
        let untouched = tracing::info_span!("unrelated");
        untouched.set_traceparent("not a traceparent");
        untouched.in_scope(|| {});
    });
    telemetry.shutdown().await;

    let (mut spans, mut metrics) = (Vec::new(), Vec::new());
    while let Ok(received) = received.try_recv() {
        match received {
            Received::Traces(request) => spans.extend(request.resource_spans),
            Received::Metrics(request) => metrics.extend(request.resource_metrics),
        }
    }
    let expected = ["service.name", "service.version", "service.instance.id", "k8s.cluster.name"];
    for one in spans.iter().map(|one| &one.resource).chain(metrics.iter().map(|one| &one.resource)) {
        let found = attributes(one.as_ref());
        assert!(expected.iter().all(|name| found.contains(*name)), "{found:?}");
    }
    let spans: Vec<_> = spans.into_iter().flat_map(|one| one.scope_spans).flat_map(|one| one.spans).collect();
    let named =
        |name: &str| spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no span {name}"));
    assert_eq!(named("apply").trace_id, named("command").trace_id);
    assert_eq!(named("apply").parent_span_id, named("command").span_id);
    assert_ne!(named("unrelated").trace_id, named("command").trace_id);
    let names: Vec<_> = metrics
        .into_iter()
        .flat_map(|one| one.scope_metrics)
        .flat_map(|one| one.metrics)
        .map(|one| one.name)
        .collect();
    assert_eq!(names, ["understudy.test.calls"]);
}

#[tokio::test]
async fn without_a_collector_nothing_is_traced() {
    let silent = Arguments { otlp_endpoint: None, ..arguments("127.0.0.1:1".parse().expect("address")) };
    let (_telemetry, dispatch) = build(&service(), &silent).expect("build");
    tracing::dispatcher::with_default(&dispatch, || {
        let span = tracing::info_span!("command");
        span.set_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(span.in_scope(current_traceparent), None);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_refuses_connections_delays_nothing() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("bind").local_addr().expect("address");
    assert_harmless(nobody).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_accepts_and_never_answers_delays_nothing() {
    let deaf = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    assert_harmless(deaf.local_addr().expect("address")).await;
}

/// More spans than the exporter's queue takes.
const SPANS: usize = 5000;

async fn assert_harmless(collector: SocketAddr) {
    let (telemetry, dispatch) = build(&service(), &arguments(collector)).expect("build");
    let calls = CALLS.counter(&telemetry.meter());
    let started = Instant::now();
    tracing::dispatcher::with_default(&dispatch, || {
        for _ in 0..SPANS {
            tracing::info_span!("step").in_scope(|| calls.add(1, &[]));
        }
    });
    // It takes a tenth of a second; waiting for the collector at each of them would take hours.
    assert!(started.elapsed() < Duration::from_secs(30), "{SPANS} spans took {:?}", started.elapsed());
    let started = Instant::now();
    telemetry.shutdown().await;
    assert!(started.elapsed() < TOO_LONG, "the shutdown took {:?}", started.elapsed());
}
