//! What a collector is sent, by either protocol.

use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{HistogramDataPoint, exemplar, metric};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use understudy_telemetry::{
    AUDIT, Arguments, Declaration, FinishedSpan, KeyValue, Kind, OtlpProtocol, SetTraceParent, SpanAddress,
    build, current_traceparent,
};

use crate::receiver::{Habit, Received, arguments, collector, service};

const CALLS: Declaration = Declaration {
    name: "understudy.test.calls",
    kind: Kind::Counter,
    unit: "{call}",
    attributes: &[],
    meaning: "Calls that were made.",
};

fn attributes(resource: Option<&Resource>) -> BTreeSet<String> {
    resource.into_iter().flat_map(|resource| &resource.attributes).map(|one| one.key.clone()).collect()
}

fn spans(received: &Received) -> Vec<Span> {
    let scopes = received.spans.iter().flat_map(|one| &one.scope_spans);
    scopes.flat_map(|one| one.spans.clone()).collect()
}

/// Of the metrics.
fn names(received: &Received) -> BTreeSet<&str> {
    let metrics = received.metrics.iter().flat_map(|one| &one.scope_metrics).flat_map(|one| &one.metrics);
    metrics.map(|one| one.name.as_str()).collect()
}

/// Log records by the names of their scopes.
fn records(received: &Received) -> Vec<(String, LogRecord)> {
    let scopes = received.logs.iter().flat_map(|one| &one.scope_logs);
    let of = |scope: &opentelemetry_proto::tonic::logs::v1::ScopeLogs| {
        let name = scope.scope.as_ref().map(|scope| scope.name.clone()).unwrap_or_default();
        scope.log_records.iter().map(move |record| (name.clone(), record.clone())).collect::<Vec<_>>()
    };
    scopes.flat_map(of).collect()
}

fn text(record: &LogRecord, key: &str) -> Option<String> {
    let found = record.attributes.iter().find(|attribute| attribute.key == key)?;
    let Value::StringValue(text) = found.value.as_ref()?.value.as_ref()? else { return None };
    Some(text.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn by_grpc_everything_arrives_with_who_sent_it() {
    everything_arrives(OtlpProtocol::Grpc).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_http_everything_arrives_with_who_sent_it() {
    everything_arrives(OtlpProtocol::HttpProtobuf).await;
}

async fn everything_arrives(protocol: OtlpProtocol) {
    let (address, mut receiver) = collector(protocol, Habit::Takes).await;
    let (telemetry, dispatch) = build(&service(), &arguments(address, protocol)).expect("build");
    CALLS.counter(&telemetry.meter()).add(2, &[]);
    tracing::dispatcher::with_default(&dispatch, || {
        let traceparent =
            tracing::info_span!("command").in_scope(current_traceparent).expect("a traced span");
        let received = tracing::info_span!("apply");
        received.set_traceparent(&traceparent);
        received.in_scope(|| {});
        let untouched = tracing::info_span!("unrelated");
        untouched.set_traceparent("not a traceparent");
        untouched.in_scope(|| tracing::info!(target: AUDIT, action = "Begin", "audit"));
    });
    telemetry.shutdown().await;

    let received = Received::until(&mut receiver, |all| {
        spans(all).len() >= 3 && !records(all).is_empty() && names(all).len() >= 2
    })
    .await;
    let expected = ["service.name", "service.version", "service.instance.id", "k8s.cluster.name"];
    let resources = received.spans.iter().map(|one| &one.resource);
    let resources = resources.chain(received.metrics.iter().map(|one| &one.resource));
    for one in resources.chain(received.logs.iter().map(|one| &one.resource)) {
        let found = attributes(one.as_ref());
        assert!(expected.iter().all(|name| found.contains(*name)), "{found:?}");
    }
    let spans = spans(&received);
    let named =
        |name: &str| spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no span {name}"));
    assert_eq!(named("apply").trace_id, named("command").trace_id);
    assert_eq!(named("apply").parent_span_id, named("command").span_id);
    assert_ne!(named("unrelated").trace_id, named("command").trace_id);
    assert_eq!(names(&received), BTreeSet::from(["understudy.telemetry.lost", "understudy.test.calls"]));
    let records = records(&received);
    let [(scope, record)] = records.as_slice() else { panic!("one log record, not {records:?}") };
    assert_eq!((scope.as_str(), text(record, "action").as_deref()), (AUDIT, Some("Begin")));
    assert_eq!(record.trace_id, named("unrelated").trace_id);
    assert_eq!(record.span_id, named("unrelated").span_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_that_is_told_afterwards_has_its_own_times_and_what_was_logged_within_it() {
    let protocol = OtlpProtocol::HttpProtobuf;
    let (address, mut receiver) = collector(protocol, Habit::Takes).await;
    let log = Arguments { log: "info".into(), ..arguments(address, protocol) };
    let (telemetry, dispatch) = build(&service(), &log).expect("build");
    let root = SpanAddress::root(&["uid-1", "web-failover-2"]);
    let promote = root.part("Promote");
    tracing::dispatcher::with_default(&dispatch, || {
        promote.within(|| tracing::info!("promoting"));
        tracing::info!("something else");
    });
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    telemetry.spans().expect("a collector").tell(FinishedSpan {
        address: promote,
        parent: Some(root),
        name: "Promote",
        start: at(100),
        end: at(103),
        attributes: vec![KeyValue::new("epoch", 2)],
        notes: Vec::new(),
        failure: None,
    });
    telemetry.shutdown().await;

    let all_told = |all: &Received| !spans(all).is_empty() && records(all).len() >= 2;
    let received = Received::until(&mut receiver, all_told).await;
    let [span] = spans(&received).try_into().expect("one span");
    assert_eq!(span.end_time_unix_nano - span.start_time_unix_nano, 3_000_000_000);
    let hexadecimal = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let place = format!("00-{}-{}-01", hexadecimal(&span.trace_id), hexadecimal(&span.span_id));
    assert_eq!(place, promote.traceparent());
    assert!(root.traceparent().contains(&hexadecimal(&span.parent_span_id)));
    let traced: Vec<_> = records(&received).into_iter().map(|(_, record)| record.trace_id).collect();
    assert_eq!(traced, [span.trace_id, Vec::new()]);
}

const DURATION: Declaration = Declaration {
    name: "understudy.test.duration",
    kind: Kind::Histogram(&[1.0, 10.0]),
    unit: "s",
    attributes: &["kind"],
    meaning: "How long it took.",
};

#[tokio::test(flavor = "multi_thread")]
async fn by_grpc_a_histogram_leads_to_its_traces() {
    a_histogram_leads_to_its_traces(OtlpProtocol::Grpc).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_http_a_histogram_leads_to_its_traces() {
    a_histogram_leads_to_its_traces(OtlpProtocol::HttpProtobuf).await;
}

async fn a_histogram_leads_to_its_traces(protocol: OtlpProtocol) {
    let (address, mut receiver) = collector(protocol, Habit::Takes).await;
    let (telemetry, _dispatch) = build(&service(), &arguments(address, protocol)).expect("build");
    let durations = DURATION.traced_histogram(&telemetry.meter());
    let operation = SpanAddress::root(&["uid-1", "web-failover-2"]);
    let before = UNIX_EPOCH.elapsed().expect("a clock").as_nanos();
    durations.record(2.0, &DURATION.attributes(["FailOver"]), Some(operation.part("Promote")));
    durations.record(3.0, &DURATION.attributes(["FailOver"]), Some(operation));
    durations.record(4.0, &DURATION.attributes(["FailBack"]), None);
    telemetry.shutdown().await;

    let received = Received::until(&mut receiver, |all| !points(all).is_empty()).await;
    let points = points(&received);
    assert_eq!(points.iter().map(|point| point.count).sum::<u64>(), 3, "{points:?}");
    let exemplars: Vec<_> = points.iter().flat_map(|point| &point.exemplars).collect();
    let [exemplar] = exemplars.as_slice() else { panic!("one exemplar, not {exemplars:?}") };
    assert_eq!(exemplar.value, Some(exemplar::Value::AsDouble(3.0)), "the last of its bucket");
    let hexadecimal = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hexadecimal(&exemplar.trace_id), operation.trace_id());
    assert_eq!(hexadecimal(&exemplar.span_id), operation.span_id());
    assert!(u128::from(exemplar.time_unix_nano) >= before, "{exemplar:?}");
    let of_failover = points.iter().find(|point| !point.exemplars.is_empty()).expect("a point");
    assert_eq!(of_failover.count, 2);
}

fn points(received: &Received) -> Vec<&HistogramDataPoint> {
    let metrics = received.metrics.iter().flat_map(|one| &one.scope_metrics).flat_map(|one| &one.metrics);
    metrics.filter_map(|one| points_of(one.data.as_ref()?)).flatten().collect()
}

fn points_of(data: &metric::Data) -> Option<&[HistogramDataPoint]> {
    match data {
        metric::Data::Histogram(histogram) => Some(&histogram.data_points),
        metric::Data::Gauge(_)
        | metric::Data::Sum(_)
        | metric::Data::ExponentialHistogram(_)
        | metric::Data::Summary(_) => None,
    }
}

#[tokio::test]
async fn without_a_collector_nothing_is_traced() {
    let silent = Arguments { log: "off".into(), ..Arguments::default() };
    let (telemetry, dispatch) = build(&service(), &silent).expect("build");
    assert!(telemetry.spans().is_none());
    tracing::dispatcher::with_default(&dispatch, || {
        let span = tracing::info_span!("command");
        span.set_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(span.in_scope(current_traceparent), None);
    });
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_spoken_to_is_refused_with_its_remedy() {
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::HttpProtobuf] {
        let of = |endpoint: &str| {
            let given = Arguments {
                otlp_endpoint: Some(endpoint.to_owned()),
                otlp_protocol: protocol,
                ..Arguments::default()
            };
            let refused = build(&service(), &given).expect_err("a refusal");
            let cause = std::error::Error::source(&refused).map(ToString::to_string).unwrap_or_default();
            format!("{refused}: {cause}")
        };
        let refused = of("https://collector:4317");
        assert!(refused.contains("--otlp-certificate") && refused.contains("https://collector"), "{refused}");
        let refused = of("not a URL");
        assert!(refused.contains("http://collector:4317"), "{refused}");
    }
}
