//! While an export waits to be tried again, the process goes on: its thread is not kept waiting too.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;
use understudy_telemetry::{OtlpProtocol, Reason, Signal, build};

use crate::patience::{at_best, eventually};
use crate::receiver::{arguments, service, span};

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
    let (spans, lost) = (telemetry.spans().expect("a collector"), telemetry.lost());
    let given_up = || lost.count(Signal::Traces, Reason::NotTaken);
    at_best(async || {
        let before = given_up();
        spans.tell(span());
        eventually("the export is given up", || given_up() > before).await;
        let tries: Vec<usize> = std::iter::from_fn(|| tries.try_recv().ok()).collect();
        match tries.as_slice() {
            [first, _, _, last] if last - first >= STEPS => Ok(()),
            // On a machine that stands still an export may come to its limit before the last try.
            others => Err(format!("tries at the steps {others:?}")),
        }
    })
    .await;
    telemetry.shutdown().await;
}

/// Turns everything away, to be tried again later, and tells how far the steps were each time.
fn busy_collector(steps: Arc<AtomicUsize>) -> (SocketAddr, mpsc::UnboundedReceiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let (tried, tries) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            // Who has given up meanwhile is no try.
            let _ = turn_away(stream.expect("a connection"), || {
                let _ = tried.send(steps.load(Ordering::Relaxed));
            });
        }
    });
    (address, tries)
}

fn turn_away(stream: TcpStream, asked: impl FnOnce()) -> io::Result<()> {
    let mut request = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        request.read_line(&mut line)?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        if line.trim().is_empty() {
            break;
        }
    }
    request.read_exact(&mut vec![0; length])?;
    asked();
    request.get_mut().write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
}
