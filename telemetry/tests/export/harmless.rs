//! A collector that is dead, deaf or contrary delays nobody, and what it does not take is bounded and counted.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use understudy_telemetry::{
    Arguments, FinishedSpan, Lost, OtlpProtocol, QUEUE, Reason, Signal, SpanAddress, Spans, build,
};

use crate::patience::{at_best, eventually};
use crate::receiver::{Habit, arguments, collector, service};

/// Many times what the queue takes.
const SPANS: usize = 8 * QUEUE;
/// What a shutdown may be delayed by, whatever the collector does.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// What the exporter has taken out of the queue while it waits for the collector.
const UNDER_WAY: usize = 512;

fn tell(spans: &Spans, count: usize) {
    let root = SpanAddress::root(&["uid-1", "web-failover-2"]);
    for _ in 0..count {
        spans.tell(FinishedSpan {
            address: root.part("Promote"),
            parent: Some(root),
            name: "Promote",
            start: std::time::UNIX_EPOCH,
            end: std::time::UNIX_EPOCH,
            attributes: Vec::new(),
            notes: Vec::new(),
            failure: None,
        });
    }
}

async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.expect("bind").local_addr().expect("address")
}

fn spans_lost(lost: &Lost) -> usize {
    let both = [Reason::QueueFull, Reason::NotTaken].map(|reason| lost.count(Signal::Traces, reason));
    usize::try_from(both.into_iter().sum::<u64>()).expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_refuses_connections_costs_spans_and_no_time() {
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::HttpProtobuf] {
        let nobody = nobody().await;
        at_best(async || harmless(nobody, protocol).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_accepts_and_never_answers_costs_spans_and_no_time() {
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::HttpProtobuf] {
        let deaf = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = deaf.local_addr().expect("address");
        at_best(async || harmless(address, protocol).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_turns_everything_away_costs_spans_and_no_time() {
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::HttpProtobuf] {
        let (contrary, _receiver) = collector(protocol, Habit::Refuses).await;
        at_best(async || harmless(contrary, protocol).await).await;
    }
}

/// The same with one that takes everything, in the same run: a slow machine is slow with both.
async fn harmless(collector: SocketAddr, protocol: OtlpProtocol) -> Result<(), String> {
    let with_a_good_one = {
        let (good, _receiver) = crate::receiver::collector(protocol, Habit::Takes).await;
        let (telemetry, _dispatch) = build(&service(), &arguments(good, protocol)).expect("build");
        let took = time_to_tell(&telemetry.spans().expect("a collector"));
        telemetry.shutdown().await;
        took
    };
    let (telemetry, _dispatch) = build(&service(), &arguments(collector, protocol)).expect("build");
    let (spans, lost) = (telemetry.spans().expect("a collector"), telemetry.lost());
    let with_this_one = time_to_tell(&spans);
    // Whoever waited for it but once would need seconds; the rest is what a busy machine may add.
    let allowed = 10 * with_a_good_one + Duration::from_secs(1);
    if with_this_one >= allowed {
        return Err(format!("{with_this_one:?} of {allowed:?} for {SPANS} spans"));
    }
    let held = SPANS - spans_lost(&lost);
    assert!(held <= QUEUE + UNDER_WAY, "{held} spans are held");
    let began = Instant::now();
    telemetry.shutdown().await;
    let took = began.elapsed();
    if took < SHUTDOWN { Ok(()) } else { Err(format!("the shutdown took {took:?}")) }
}

fn time_to_tell(spans: &Spans) -> Duration {
    let began = Instant::now();
    tell(spans, SPANS);
    began.elapsed()
}

/// On one thread nobody empties the queue meanwhile.
#[tokio::test]
async fn beyond_its_bound_the_queue_drops_exactly_the_rest_and_counts_it() {
    let (telemetry, _dispatch) =
        build(&service(), &arguments(nobody().await, OtlpProtocol::Grpc)).expect("build");
    let (spans, lost) = (telemetry.spans().expect("a collector"), telemetry.lost());
    tell(&spans, QUEUE);
    assert_eq!(spans_lost(&lost), 0);
    tell(&spans, 1000);
    assert_eq!(lost.count(Signal::Traces, Reason::QueueFull), 1000);
    assert_eq!(lost.count(Signal::Traces, Reason::NotTaken), 0);
    let counted = r#"understudy_telemetry_lost_total{reason="QueueFull",signal="traces"} 1000"#;
    assert!(telemetry.scrape().lines().any(|line| line == counted), "{}", telemetry.scrape());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_collector_turns_away_is_counted_to_the_last_record() {
    let (contrary, _receiver) = collector(OtlpProtocol::HttpProtobuf, Habit::Refuses).await;
    let logged = Arguments { log: "info".into(), ..arguments(contrary, OtlpProtocol::HttpProtobuf) };
    let (telemetry, dispatch) = build(&service(), &logged).expect("build");
    let lost = telemetry.lost();
    tracing::dispatcher::with_default(&dispatch, || (0..3).for_each(|_| tracing::info!("a record")));
    tell(&telemetry.spans().expect("a collector"), 7);
    telemetry.shutdown().await;
    let not_taken = |signal| lost.count(signal, Reason::NotTaken);
    // Of metrics it is the last collection; there is no gauge.
    eventually("all are counted", || {
        [Signal::Logs, Signal::Traces, Signal::Metrics].map(not_taken) == [3, 7, 1]
    })
    .await;
}
