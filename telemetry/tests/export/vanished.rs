//! A collector whose node dies says no farewell: its connections hear nothing any more, and another one stands at its address.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use understudy_telemetry::{OtlpProtocol, Spans, build};

use crate::patience::PATIENCE;
use crate::receiver::{Habit, Received, arguments, collector, service, span};

const TELL_AGAIN: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_has_vanished_without_a_word_is_looked_for_anew() {
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::HttpProtobuf] {
        let (address, mut receiver) = collector(protocol, Habit::Takes).await;
        let (way, vanish, ways) = way_to(address).await;
        let (telemetry, _dispatch) = build(&service(), &arguments(way, protocol)).expect("build");
        let spans = telemetry.spans().expect("a collector");
        await_span(&spans, &mut receiver).await;
        vanish.send_modify(|times| *times += 1);
        let vanished = ways.load(Ordering::Relaxed);
        // What comes first may have been on its way already.
        while ways.load(Ordering::Relaxed) == vanished {
            await_span(&spans, &mut receiver).await;
        }
        await_span(&spans, &mut receiver).await;
        telemetry.shutdown().await;
    }
}

/// Tells one after the other until one arrives.
async fn await_span(spans: &Spans, receiver: &mut mpsc::UnboundedReceiver<Received>) {
    let arrived = async {
        loop {
            spans.tell(span());
            if let Ok(Some(received)) = timeout(TELL_AGAIN, receiver.recv()).await
                && !received.spans.is_empty()
            {
                return;
            }
        }
    };
    timeout(PATIENCE, arrived).await.expect("a span that arrives");
}

/// Another address of the collector, whose connections fall silent at once when the number changes; and how many there were.
async fn way_to(collector: SocketAddr) -> (SocketAddr, watch::Sender<usize>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let (vanish, vanished) = watch::channel(0);
    let ways = Arc::new(AtomicUsize::new(0));
    let counted = ways.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(carry(stream, collector, vanished.clone()));
        }
    });
    (address, vanish, ways)
}

async fn carry(mut stream: TcpStream, collector: SocketAddr, mut vanished: watch::Receiver<usize>) {
    vanished.mark_unchanged();
    let mut behind = TcpStream::connect(collector).await.expect("the collector listens");
    tokio::select! {
        _ = copy_bidirectional(&mut stream, &mut behind) => {}
        // Both stay open, and nobody reads them.
        Ok(()) = vanished.changed() => std::future::pending().await,
    }
}
