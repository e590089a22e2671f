//! A call is measured until its last word, by its method and its status, whoever ends it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame};
use tonic::codegen::Bytes;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tower::{Layer, Service, service_fn};
use understudy_telemetry::{
    Arguments, CALL_DURATION, CallDurations, Service as Who, Telemetry, build, deviations,
};

const METHODS: &[&str] = &["dr.v1.Peer/Probe"];

fn telemetry() -> Telemetry {
    let service = Who { name: "understudy-test", version: "0", instance: "0".into(), cluster: None };
    let arguments = Arguments { log: "off".into(), ..Arguments::default() };
    build(&service, &arguments).expect("telemetry").0
}

/// An answer of one word and a status behind it.
struct Words(Vec<Frame<Bytes>>);

impl Body for Words {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop().map(Ok))
    }
}

fn words(status: &'static str) -> Words {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().expect("a header"));
    Words(vec![Frame::trailers(trailers), Frame::data(Bytes::from_static(b"word"))])
}

async fn call(
    telemetry: &Telemetry,
    path: &str,
    answer: fn() -> Response<Words>,
) -> Response<impl Body<Data = Bytes> + Unpin> {
    let layer = CallDurations::new(&telemetry.meter(), METHODS);
    let mut service =
        layer.layer(service_fn(move |_: Request<()>| async move { Ok::<_, Infallible>(answer()) }));
    service.call(Request::builder().uri(path).body(()).expect("request")).await.expect("answer")
}

async fn read_to_the_end(mut body: impl Body<Data = Bytes> + Unpin) {
    while std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.is_some() {}
}

fn count(method: &str, status: &str) -> String {
    format!(
        r#"rpc_server_call_duration_seconds_count{{rpc_method="{method}",rpc_response_status_code="{status}",rpc_system_name="grpc"}} 1"#
    )
}

#[tokio::test]
async fn a_call_is_over_with_its_trailers_and_not_before() {
    let telemetry = telemetry();
    let answer = call(&telemetry, "/dr.v1.Peer/Probe", || Response::new(words("0"))).await;
    assert!(!telemetry.scrape().contains("rpc_server"), "it is not over yet");
    read_to_the_end(answer.into_body()).await;
    let scrape = telemetry.scrape();
    assert!(scrape.contains(&count("dr.v1.Peer/Probe", "OK")), "{scrape}");
    assert_eq!(deviations(&scrape, &[CALL_DURATION]), Vec::<String>::new());
}

#[tokio::test]
async fn a_refusal_without_a_body_is_told_by_its_headers() {
    let telemetry = telemetry();
    let refuse = || Response::builder().header("grpc-status", "7").body(Words(Vec::new())).expect("refusal");
    read_to_the_end(call(&telemetry, "/dr.v1.Peer/Probe", refuse).await.into_body()).await;
    let scrape = telemetry.scrape();
    assert!(scrape.contains(&count("dr.v1.Peer/Probe", "PERMISSION_DENIED")), "{scrape}");
}

#[tokio::test]
async fn an_answer_that_nobody_reads_to_its_end_was_cancelled() {
    let telemetry = telemetry();
    drop(call(&telemetry, "/dr.v1.Peer/Probe", || Response::new(words("0"))).await);
    let scrape = telemetry.scrape();
    assert!(scrape.contains(&count("dr.v1.Peer/Probe", "CANCELLED")), "{scrape}");
}

#[tokio::test]
async fn methods_that_callers_make_up_are_told_as_one() {
    let telemetry = telemetry();
    for path in ["/dr.v1.Peer/Guess", "/"] {
        let answer = call(&telemetry, path, || Response::new(words("12"))).await;
        read_to_the_end(answer.into_body()).await;
    }
    let scrape = telemetry.scrape();
    assert!(scrape.contains(&count("_OTHER", "UNIMPLEMENTED").replace("} 1", "} 2")), "{scrape}");
}
