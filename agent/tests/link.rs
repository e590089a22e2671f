//! The agent's stream to a hub on a real socket: what comes first, and how its end is noticed.

mod neighbours;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use neighbours::{Federation, PATIENCE, cluster};
use proto::wire::v1::federation_server::{Federation as FederationService, FederationServer};
use proto::wire::v1::{AgentMessage, HubMessage};
use proto::{FromAgent, FromHub, Heartbeat, Hello, Nonce, PlacementId};
use tls::pki::Validity;
use tls::{Credentials, HandshakeLimits, Identity, accept_connections};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use understudy_agent::link::{Link, LinkEvent, LinkSender, LinkSettings};

type Opened = (Streaming<AgentMessage>, mpsc::Sender<Result<HubMessage, Status>>);

/// Hands every stream that is opened to the test.
struct Door(mpsc::Sender<Opened>);

#[tonic::async_trait]
impl FederationService for Door {
    type ConnectStream = ReceiverStream<Result<HubMessage, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (outgoing, queue) = mpsc::channel(8);
        self.0.send((request.into_inner(), outgoing)).await.map_err(|_| Status::unavailable("over"))?;
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}

struct TestHub {
    address: SocketAddr,
    streams: mpsc::Receiver<Opened>,
    /// How many handshakes have failed.
    failed: watch::Receiver<u32>,
    serving: Vec<JoinHandle<()>>,
}

impl Drop for TestHub {
    fn drop(&mut self) {
        for task in &self.serving {
            task.abort();
        }
    }
}

impl TestHub {
    async fn start(credentials: Arc<Credentials>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (opened, streams) = mpsc::channel(8);
        let (authenticated, connections) = mpsc::channel(8);
        let (failures, failed) = watch::channel(0);
        let refused = move |_, _| failures.send_modify(|count| *count += 1);
        let accepting =
            accept_connections(listener, credentials, HandshakeLimits::default(), authenticated, refused);
        let server = tonic::transport::Server::builder()
            .serve_with_incoming(FederationServer::new(Door(opened)), ReceiverStream::new(connections));
        let serving = vec![tokio::spawn(accepting), tokio::spawn(async { server.await.expect("served") })];
        TestHub { address, streams, failed, serving }
    }

    async fn stream(&mut self) -> Opened {
        timeout(PATIENCE, self.streams.recv()).await.expect("a stream in time").expect("a stream")
    }
}

async fn heard(stream: &mut Streaming<AgentMessage>) -> FromAgent {
    let message = timeout(PATIENCE, stream.message()).await.expect("in time").expect("no error");
    FromAgent::try_from(message.expect("a message")).expect("understood")
}

struct Agent {
    hello: watch::Sender<Hello>,
    sender: LinkSender,
    events: mpsc::Receiver<LinkEvent>,
    stop: CancellationToken,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Agent {
    fn start(federation: &Federation, hub: SocketAddr, rpc: Duration) -> Self {
        let (hello, watched) = watch::channel(greeting("1"));
        let settings = LinkSettings { hub: hub.to_string(), rpc, longest_pause: Duration::from_millis(200) };
        let (link, sender, events) = Link::new(settings, federation.agent("east"), watched);
        let stop = CancellationToken::new();
        tokio::spawn(link.run(stop.clone()));
        Agent { hello, sender, events, stop }
    }

    async fn event(&mut self) -> LinkEvent {
        timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("an event")
    }
}

fn greeting(version: &str) -> Hello {
    Hello { cluster: cluster("east"), version: version.into(), known: Vec::new() }
}

fn heartbeat(nonce: u64) -> FromAgent {
    FromAgent::Heartbeat(Heartbeat {
        cluster: cluster("east"),
        nonce: Nonce(nonce),
        api_write_age: None,
        renewals: Vec::new(),
        paths: Vec::new(),
    })
}

fn hub_identity(federation: &Federation) -> Arc<Credentials> {
    federation.certified(&Identity::Hub, Validity::days(1))
}

#[tokio::test]
async fn hello_comes_first_and_what_was_given_before_is_not_sent_late() {
    let federation = Federation::new();
    let mut hub = TestHub::start(hub_identity(&federation)).await;
    let agent = Agent::start(&federation, hub.address, PATIENCE);
    // On this thread the link has not run yet: it is given a heartbeat before there is a stream.
    assert!(agent.sender.send(heartbeat(1)));
    let mut agent = agent;
    let (mut inbound, outgoing) = hub.stream().await;
    assert_eq!(heard(&mut inbound).await, FromAgent::Hello(greeting("1")));
    assert_eq!(agent.event().await, LinkEvent::Up);
    assert!(agent.sender.send(heartbeat(2)));
    assert_eq!(heard(&mut inbound).await, heartbeat(2));

    let unassign = FromHub::Unassign(PlacementId::parse("p-1").expect("an id"));
    outgoing.send(Ok(unassign.clone().into())).await.expect("taken");
    assert_eq!(agent.event().await, LinkEvent::Message(unassign));
}

#[tokio::test]
async fn a_message_that_makes_no_sense_does_not_end_the_link() {
    let federation = Federation::new();
    let mut hub = TestHub::start(hub_identity(&federation)).await;
    let mut agent = Agent::start(&federation, hub.address, PATIENCE);
    let (_inbound, outgoing) = hub.stream().await;
    assert_eq!(agent.event().await, LinkEvent::Up);
    outgoing.send(Ok(HubMessage { body: None })).await.expect("taken");
    let unassign = FromHub::Unassign(PlacementId::parse("p-1").expect("an id"));
    outgoing.send(Ok(unassign.clone().into())).await.expect("taken");
    assert_eq!(agent.event().await, LinkEvent::Message(unassign));
}

#[tokio::test]
async fn a_stream_that_ends_is_told_and_opened_again_with_the_newest_hello() {
    let federation = Federation::new();
    let mut hub = TestHub::start(hub_identity(&federation)).await;
    let mut agent = Agent::start(&federation, hub.address, PATIENCE);
    let (_inbound, outgoing) = hub.stream().await;
    assert_eq!(agent.event().await, LinkEvent::Up);
    agent.hello.send_replace(greeting("2"));
    outgoing.send(Err(Status::aborted("a newer stream"))).await.expect("taken");
    let LinkEvent::Down { reason } = agent.event().await else { panic!("the link is down") };
    assert!(reason.contains("a newer stream"), "{reason}");
    let (mut inbound, _outgoing) = hub.stream().await;
    assert_eq!(heard(&mut inbound).await, FromAgent::Hello(greeting("2")));
    assert_eq!(agent.event().await, LinkEvent::Up);
}

#[tokio::test]
async fn a_cluster_that_plays_the_hub_is_never_told_hello() {
    let federation = Federation::new();
    let mut impostor = TestHub::start(federation.agent("west")).await;
    let mut agent = Agent::start(&federation, impostor.address, PATIENCE);
    let tried_twice = impostor.failed.wait_for(|count| *count >= 2);
    timeout(PATIENCE, tried_twice).await.expect("in time").expect("the impostor listens");
    assert!(impostor.streams.try_recv().is_err(), "a stream was opened");
    assert!(agent.events.try_recv().is_err(), "the driver was told that the link is up");
}

/// Forwards bytes until it is told to forward nothing more, while both connections stay open.
async fn relay_until(target: SocketAddr, cut: CancellationToken) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(target).await.expect("the target");
            let _ = cut.run_until_cancelled(copy_bidirectional(&mut near, &mut far)).await;
            kept.push((near, far));
        }
    });
    address
}

#[tokio::test]
async fn a_connection_into_a_black_hole_is_noticed_within_twice_the_call_time() {
    let federation = Federation::new();
    let mut hub = TestHub::start(hub_identity(&federation)).await;
    let cut = CancellationToken::new();
    let relay = relay_until(hub.address, cut.clone()).await;
    let rpc = Duration::from_millis(500);
    let mut agent = Agent::start(&federation, relay, rpc);
    let _stream = hub.stream().await;
    assert_eq!(agent.event().await, LinkEvent::Up);
    cut.cancel();
    let since = Instant::now();
    let event = agent.event().await;
    assert!(matches!(event, LinkEvent::Down { .. }), "{event:?}");
    // A slow machine may be late; the kernel alone would wait for a quarter of an hour.
    assert!(since.elapsed() < rpc * 40, "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_hub_that_accepts_and_says_nothing_is_given_up_and_dialled_again() {
    let federation = Federation::new();
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = mute.local_addr().expect("an address");
    let _agent = Agent::start(&federation, address, Duration::from_millis(100));
    let (_first, _) = timeout(PATIENCE, mute.accept()).await.expect("in time").expect("accepted");
    timeout(PATIENCE, mute.accept()).await.expect("dialled again in time").expect("accepted");
}
