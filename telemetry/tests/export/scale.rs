//! A hub with many placements is scraped as a small one is.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use tokio::sync::watch;
use understudy_telemetry::{
    Arguments, Declaration, Kind, OtlpProtocol, Reason, Sample, Signal, Telemetry, build,
};

use crate::patience::eventually;
use crate::receiver::{Habit, Received, arguments, collector, service};

const LAG: Declaration = Declaration {
    name: "understudy.test.lag",
    kind: Kind::Gauge,
    unit: "s",
    attributes: &["namespace", "placement", "cluster", "volume"],
    meaning: "A gauge of every volume.",
};

/// What the hub tells of a placement of five volumes, all told.
const SERIES_OF_A_PLACEMENT: usize = 40;

fn telemetry(placements: usize) -> Telemetry {
    told(placements, "shop", &Arguments { log: "off".into(), ..Arguments::default() })
}

fn told(placements: usize, namespace: &str, arguments: &Arguments) -> Telemetry {
    let (telemetry, _dispatch) = build(&service(), arguments).expect("build");
    let (_, snapshot) = watch::channel((placements, namespace.to_owned()));
    LAG.gauge(&telemetry.meter(), &snapshot, |(placements, namespace)| {
        let numbers =
            (0..*placements).flat_map(|one| (0..SERIES_OF_A_PLACEMENT).map(move |volume| (one, volume)));
        let of = |(one, volume)| {
            LAG.sample(1.5, [namespace, &format!("web-{one}"), "east", &format!("data-{volume}")])
        };
        numbers.map(of).collect::<Vec<Sample>>()
    });
    telemetry
}

fn fastest(telemetry: &Telemetry) -> Duration {
    let once = || {
        let began = Instant::now();
        assert!(!telemetry.scrape().is_empty());
        began.elapsed()
    };
    (0..5).map(|_| once()).min().expect("some")
}

#[test]
fn a_scrape_shows_every_series_and_grows_with_their_number_alone() {
    let (few, many) = (telemetry(100), telemetry(1000));
    let shown = many.scrape().lines().filter(|line| line.starts_with("understudy_test_lag_seconds{")).count();
    assert_eq!(shown, 1000 * SERIES_OF_A_PLACEMENT);
    let (few, many) = (fastest(&few), fastest(&many));
    eprintln!("{} series in {few:?}, ten times as many in {many:?}", 100 * SERIES_OF_A_PLACEMENT);
    // Ten times as much; more where a cache ends, and a square would be a hundred.
    assert!(many < 50 * few, "{few:?}, then {many:?}");
}

/// More series than OpenTelemetry takes of an instrument by itself.
const PLACEMENTS: usize = 100;

/// With long names for more than a collector takes at once: a slow machine hands 4,000 series over sooner than as many bytes of
/// short ones.
fn much(collector: SocketAddr) -> Telemetry {
    told(PLACEMENTS, &"shop".repeat(400), &arguments(collector, OtlpProtocol::Grpc))
}

fn has_all(received: &Received) -> bool {
    lags_of(received).len() == PLACEMENTS * SERIES_OF_A_PLACEMENT
}

/// What a collector takes at once over gRPC unless it is told to take more: four mebibytes, here as there.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_for_one_message_arrives_in_several() {
    let (address, mut receiver) = collector(OtlpProtocol::Grpc, Habit::Takes).await;
    let telemetry = much(address);
    let lost = telemetry.lost();
    telemetry.shutdown().await;

    let received = Received::until(&mut receiver, has_all).await;
    assert_eq!(lost.count(Signal::Metrics, Reason::NotTaken), 0);
    let whose: BTreeSet<_> =
        received.metrics.iter().map(|one| format!("{:?}, {}", one.resource, one.schema_url)).collect();
    assert_eq!(whose.len(), 1, "all say the same of themselves: {whose:?}");
    let metrics = received.metrics.iter().flat_map(|one| &one.scope_metrics).flat_map(|one| &one.metrics);
    let lags: Vec<_> = metrics.filter(|metric| metric.name == LAG.name).collect();
    assert!(lags.iter().all(|lag| lag.unit == LAG.unit && lag.description == LAG.meaning));
    let parts = received.metrics.len();
    assert!(parts > 2, "{parts} parts, and the counters are one");
}

/// Each part is turned away for what it is, which says nothing of the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_turned_away_keeps_no_other_back() {
    let (address, mut receiver) = collector(OtlpProtocol::Grpc, Habit::Refuses).await;
    let telemetry = much(address);
    let lost = telemetry.lost();
    telemetry.shutdown().await;

    Received::until(&mut receiver, has_all).await;
    eventually("what was turned away is counted", || lost.count(Signal::Metrics, Reason::NotTaken) > 0).await;
}

/// What has come of the lag, each series once.
fn lags_of(received: &Received) -> BTreeSet<String> {
    let metrics = received.metrics.iter().flat_map(|one| &one.scope_metrics).flat_map(|one| &one.metrics);
    let points = metrics.filter(|metric| metric.name == LAG.name).flat_map(|lag| match &lag.data {
        Some(Data::Gauge(gauge)) => gauge.data_points.as_slice(),
        other => panic!("a gauge, not {other:?}"),
    });
    points.map(|point| format!("{:?}", point.attributes)).collect()
}
