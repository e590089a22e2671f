//! What Prometheus and kubelets are told.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use understudy_telemetry::{
    Arguments, Declaration, Health, Kind, LogFormat, Sample, Service, SpanAddress, build, serve,
};

const LATENCY: Declaration = Declaration {
    name: "understudy.test.latency",
    kind: Kind::Histogram(&[0.1, 1.0]),
    unit: "s",
    attributes: &["step"],
    meaning: "How long a step took.",
};
const CALLS: Declaration = Declaration {
    name: "understudy.test.calls",
    kind: Kind::Counter,
    unit: "{call}",
    attributes: &["error.type"],
    meaning: "Calls that were made.",
};
const LEADER: Declaration = Declaration {
    name: "understudy.test.leader",
    kind: Kind::Gauge,
    unit: "{leader}",
    attributes: &[],
    meaning: "1 where this process leads.",
};

fn arguments() -> Arguments {
    Arguments { log_format: LogFormat::Json, log: "off".into(), ..Arguments::default() }
}

fn service() -> Service {
    Service {
        name: "understudy-test",
        version: "1.2.3",
        instance: "pod-0".into(),
        cluster: Some("east".into()),
    }
}

async fn get(address: SocketAddr, path: &str) -> String {
    get_with(address, path, "").await
}

/// `headers` each end with a line's end.
async fn get_with(address: SocketAddr, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connect");
    stream.write_all(format!("GET {path} HTTP/1.0\r\n{headers}\r\n").as_bytes()).await.expect("ask");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answer");
    answer
}

#[tokio::test]
async fn instruments_are_scraped_under_the_names_of_their_declarations_with_the_newest_snapshot() {
    let (telemetry, _dispatch) = build(&service(), &arguments()).expect("build");
    let (publish, snapshot) = watch::channel(0.0);
    let meter = telemetry.meter();
    LATENCY.histogram(&meter).record(0.5, &LATENCY.attributes(["Promote"]));
    CALLS.counter(&meter).add(3, &CALLS.attributes(["timeout"]));
    LEADER.gauge(&meter, &snapshot, |leads| vec![Sample { value: *leads, attributes: Vec::new() }]);
    let (_health, seen) = watch::channel(Health::ready());
    let (address, server) =
        serve("127.0.0.1:0".parse().expect("address"), &telemetry, seen).await.expect("serve");
    tokio::spawn(server);

    publish.send_replace(1.0);
    let scraped = get(address, "/metrics").await;
    for line in [
        r#"understudy_test_latency_seconds_bucket{step="Promote",le="0.1"} 0"#,
        r#"understudy_test_latency_seconds_bucket{step="Promote",le="1"} 1"#,
        r#"understudy_test_calls_total{error_type="timeout"} 3"#,
        "understudy_test_leader 1",
        r#"k8s_cluster_name="east""#,
        r#"service_instance_id="pod-0""#,
        r#"service_version="1.2.3""#,
    ] {
        assert!(scraped.contains(line), "{line} is missing in\n{scraped}");
    }
    for declaration in [LATENCY, CALLS, LEADER] {
        let type_line = format!("# TYPE {} ", declaration.prometheus_name());
        assert!(scraped.contains(&type_line), "{type_line} is missing in\n{scraped}");
    }

    publish.send_replace(0.0);
    assert!(get(address, "/metrics").await.contains("understudy_test_leader 0"));
}

#[tokio::test]
async fn open_metrics_with_exemplars_are_for_whoever_asks_and_the_same_series_are_for_everybody() {
    let (telemetry, _dispatch) = build(&service(), &arguments()).expect("build");
    let (_publish, snapshot) = watch::channel(1.0);
    let meter = telemetry.meter();
    let promote = SpanAddress::root(&["uid-1", "web-failover-2"]).part("Promote");
    LATENCY.traced_histogram(&meter).record(0.5, &LATENCY.attributes(["Promote"]), Some(promote));
    CALLS.counter(&meter).add(3, &CALLS.attributes(["timeout"]));
    LEADER.gauge(&meter, &snapshot, |leads| vec![Sample { value: *leads, attributes: Vec::new() }]);
    let (_health, seen) = watch::channel(Health::ready());
    let (address, server) =
        serve("127.0.0.1:0".parse().expect("address"), &telemetry, seen).await.expect("serve");
    tokio::spawn(server);

    let wants = "accept: application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.3\r\n";
    let open = get_with(address, "/metrics", wants).await;
    assert!(open.contains("content-type: application/openmetrics-text; version=1.0.0"), "{open}");
    assert!(open.ends_with("understudy_test_leader 1\n# EOF\n"), "{open}");
    let exemplar = format!(
        r#"understudy_test_latency_seconds_bucket{{step="Promote",le="1.0"}} 1 # {{trace_id="{}",span_id="{}"}} 0.5 "#,
        promote.trace_id(),
        promote.span_id()
    );
    assert_eq!(open.lines().filter(|line| line.starts_with(&exemplar)).count(), 1, "{exemplar} in\n{open}");
    assert_eq!(open.matches("trace_id").count(), 1, "only the bucket that was measured has one\n{open}");
    assert!(open.contains("# TYPE understudy_test_calls counter\n"), "{open}");

    let text = get(address, "/metrics").await;
    assert!(text.contains("content-type: text/plain; version=0.0.4"), "{text}");
    assert!(!text.contains("trace_id") && !text.contains("# EOF"), "{text}");
    assert_eq!(series(&open), series(&text));
}

/// Without what only one of the formats has, and with bounds as numbers: Prometheus reads `1` and `1.0` alike.
fn series(scrape: &str) -> BTreeSet<String> {
    let (_, body) = scrape.split_once("\r\n\r\n").expect("a body");
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    let bare = samples.map(|line| line.split_once(" # ").map_or(line, |(sample, _)| sample));
    bare.map(|sample| sample.replace(".0\"", "\"")).collect()
}

#[tokio::test]
async fn probes_say_why_a_process_is_not_ready_or_not_alive() {
    let (telemetry, _dispatch) = build(&service(), &arguments()).expect("build");
    let (health, seen) = watch::channel(Health::starting());
    let (address, server) =
        serve("127.0.0.1:0".parse().expect("address"), &telemetry, seen).await.expect("serve");
    tokio::spawn(server);

    let unready = get(address, "/readyz").await;
    assert!(unready.starts_with("HTTP/1.0 503") && unready.ends_with("starting\n"), "{unready}");
    assert!(get(address, "/healthz").await.starts_with("HTTP/1.0 200"));

    health.send_replace(Health { alive: Err("the driver has ended".into()), ready: Ok(()) });
    assert!(get(address, "/readyz").await.starts_with("HTTP/1.0 200"));
    let dead = get(address, "/healthz").await;
    assert!(dead.starts_with("HTTP/1.0 503") && dead.ends_with("the driver has ended\n"), "{dead}");
}

#[tokio::test]
async fn a_log_filter_that_is_none_is_refused_with_its_value() {
    let refused =
        build(&service(), &Arguments { log: "hub=loud".into(), ..arguments() }).expect_err("no filter");
    assert!(refused.to_string().contains("\"hub=loud\""), "{refused}");
}
