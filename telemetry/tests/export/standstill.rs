//! While an export waits to be tried again, the process goes on: its thread is not kept waiting too.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use understudy_telemetry::{OtlpProtocol, build};

use crate::receiver::{arguments, service, span};

const DEADLINE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(5);
/// What somebody else gets done at least until an export is given up, which is tried again after 100, 200 and 400 ms: a tenth of
/// what there is time for. If they had to stand still with it, they would do a step for each try.
const STEPS: usize = 14;

/// On one thread, as in a container with one processor.
#[tokio::test]
async fn others_go_on_while_an_export_waits_to_be_tried_again() {
    let steps = Arc::new(AtomicUsize::new(0));
    let (collector, mut tries) = busy_collector(steps.clone());
    tokio::spawn(async move {
        loop {
            sleep(STEP).await;
            steps.fetch_add(1, Ordering::Relaxed);
        }
    });
    let arguments = arguments(collector, OtlpProtocol::HttpProtobuf);
    let (telemetry, _dispatch) = build(&service(), &arguments).expect("build");
    telemetry.spans().expect("a collector").tell(span());

    let first = timeout(DEADLINE, tries.recv()).await.expect("in time").expect("a try");
    let mut last = first;
    for _ in 0..3 {
        last = timeout(DEADLINE, tries.recv()).await.expect("in time").expect("another try");
    }
    telemetry.shutdown().await;
    assert!(last - first >= STEPS, "from step {first} to step {last}");
}

/// Turns everything away, to be tried again later, and tells how far the steps were each time.
fn busy_collector(steps: Arc<AtomicUsize>) -> (SocketAddr, mpsc::UnboundedReceiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let (tried, tries) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut request = BufReader::new(stream.expect("a connection"));
            let mut length = 0;
            loop {
                let mut line = String::new();
                request.read_line(&mut line).expect("a header");
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a length");
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            request.read_exact(&mut vec![0; length]).expect("a body");
            let _ = tried.send(steps.load(Ordering::Relaxed));
            let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
            request.get_mut().write_all(answer).expect("an answer");
        }
    });
    (address, tries)
}
