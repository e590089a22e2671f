//! What two agents say to each other over real sockets, and what counts as a sign of life.

mod neighbours;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use neighbours::{Federation, PATIENCE, cluster};
use proto::{Epoch, HoldAnswer, HoldRequest, PathKind, Peer, PlacementId};
use tls::pki::Validity;
use tls::{Credentials, HandshakeLimits, Identity};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use understudy_agent::peer::{self, HoldAsked, HoldError, PeerSettings};
use understudy_agent::probes::{Found, probe};

/// Cluster `name` with uid `u-name`, reached at `endpoint`.
fn neighbour(name: &str, endpoint: Option<String>) -> Peer {
    Peer {
        cluster: cluster(name),
        identity: format!("u-{name}"),
        peer_endpoint: endpoint,
        probe_endpoints: Vec::new(),
        eligible: true,
    }
}

/// West's peer service, which knows east.
struct West {
    endpoint: String,
    holds: mpsc::Receiver<HoldAsked>,
    stop: CancellationToken,
}

impl Drop for West {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl West {
    async fn start(credentials: Arc<Credentials>) -> Self {
        West::whose_driver_has(PATIENCE, credentials).await
    }

    /// The driver has so long to answer a hold.
    async fn whose_driver_has(answer: Duration, credentials: Arc<Credentials>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = listener.local_addr().expect("an address").to_string();
        let (_, known) = watch::channel(BTreeMap::from([("u-east".to_owned(), cluster("east"))]));
        let (asked, holds) = mpsc::channel(8);
        let stop = CancellationToken::new();
        let handshakes = HandshakeLimits { deadline: PATIENCE, ..HandshakeLimits::default() };
        let settings = PeerSettings { answer, handshakes, keep_alive: PATIENCE, ..PeerSettings::default() };
        tokio::spawn(peer::serve(listener, credentials, known, asked, settings, stop.clone()));
        West { endpoint, holds, stop }
    }

    fn peer(&self) -> Peer {
        neighbour("west", Some(self.endpoint.clone()))
    }
}

fn request(holder: &str) -> HoldRequest {
    let placement = PlacementId::parse("p-1").expect("an id");
    HoldRequest {
        holder: cluster(holder),
        placement,
        epoch: Epoch(3),
        stop: Duration::from_secs(5),
        gates: Vec::new(),
    }
}

async fn path_to_agent(peer: &Peer, credentials: &Credentials, deadline: Duration) -> Found {
    let found = probe(peer, credentials, deadline).await;
    let [only] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((&only.cluster, only.path), (&peer.cluster, PathKind::PeerAgent));
    only.found.clone()
}

#[tokio::test]
async fn a_hold_reaches_the_driver_and_its_promise_the_holder() {
    let federation = Federation::new();
    let mut west = West::start(federation.agent("west")).await;
    let promise = HoldAnswer::Promised { hold: Duration::from_millis(1500), tickets: Vec::new() };
    let (peer, east) = (west.peer(), federation.agent("east"));
    let asking = peer::hold(&peer, &east, request("east"), PATIENCE);
    let driver = async {
        let asked = west.holds.recv().await.expect("a hold");
        assert_eq!(asked.request, request("east"));
        asked.answer.send(promise.clone()).expect("somebody waits");
    };
    let (answer, ()) = tokio::join!(asking, driver);
    assert_eq!(answer.expect("an answer"), promise);
}

#[tokio::test]
async fn a_hold_in_the_name_of_another_cluster_is_refused_before_the_driver_hears_of_it() {
    let federation = Federation::new();
    let mut west = West::start(federation.agent("west")).await;
    let refused = peer::hold(&west.peer(), &federation.agent("east"), request("north"), PATIENCE).await;
    let Err(HoldError::Status(status)) = refused else { panic!("{refused:?}") };
    assert_eq!(status.code(), tonic::Code::PermissionDenied);
    assert!(west.holds.try_recv().is_err());
}

#[tokio::test]
async fn a_cluster_that_is_no_peer_is_refused_and_sees_that_somebody_lives() {
    let federation = Federation::new();
    let mut west = West::start(federation.agent("west")).await;
    let north = federation.agent("north");
    let refused = peer::hold(&west.peer(), &north, request("north"), PATIENCE).await;
    assert!(matches!(refused, Err(HoldError::Status(_))), "{refused:?}");
    assert!(west.holds.try_recv().is_err());
    let found = path_to_agent(&west.peer(), &north, PATIENCE).await;
    assert!(matches!(found, Found::SignOfLife { .. }), "{found:?}");
}

#[tokio::test]
async fn the_hub_is_no_peer() {
    let federation = Federation::new();
    let west = West::start(federation.agent("west")).await;
    let hub = federation.certified(&Identity::Hub, Validity::days(1));
    assert!(peer::hold(&west.peer(), &hub, request("east"), PATIENCE).await.is_err());
}

#[tokio::test]
async fn a_hold_is_never_asked_of_whoever_answers_in_the_targets_place() {
    let federation = Federation::new();
    let mut west = West::start(federation.agent("west")).await;
    let misled = neighbour("north", Some(west.endpoint.clone()));
    let refused = peer::hold(&misled, &federation.agent("east"), request("east"), PATIENCE).await;
    assert!(matches!(refused, Err(HoldError::Dial(_))), "{refused:?}");
    assert!(west.holds.try_recv().is_err());
}

#[tokio::test]
async fn a_driver_that_does_not_answer_leaves_the_holder_without_a_promise_in_time() {
    let federation = Federation::new();
    let west = West::whose_driver_has(Duration::from_millis(200), federation.agent("west")).await;
    let answer = peer::hold(&west.peer(), &federation.agent("east"), request("east"), PATIENCE).await;
    let Err(HoldError::Status(status)) = answer else { panic!("{answer:?}") };
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_live_peer_answers_its_probe() {
    let federation = Federation::new();
    let west = West::start(federation.agent("west")).await;
    assert_eq!(path_to_agent(&west.peer(), &federation.agent("east"), PATIENCE).await, Found::Answered);
}

/// A whole federation may let its certificates expire at once: that must not look like lost sites.
#[tokio::test]
async fn an_expired_certificate_on_either_side_is_a_sign_of_life() {
    let federation = Federation::new();
    let hour = Duration::from_secs(3600);
    let past = Validity { not_before: SystemTime::now() - 2 * hour, not_after: SystemTime::now() - hour };
    let expired = |name: &str| federation.certified(&Identity::cluster(name).expect("a uid"), past);

    let expired_west = West::start(expired("u-west")).await;
    let found = path_to_agent(&expired_west.peer(), &federation.agent("east"), PATIENCE).await;
    assert!(matches!(&found, Found::SignOfLife { .. }), "{found:?}");

    let west = West::start(federation.agent("west")).await;
    let found = path_to_agent(&west.peer(), &expired("u-east"), PATIENCE).await;
    assert!(matches!(&found, Found::SignOfLife { .. }), "{found:?}");
}

#[tokio::test]
async fn nobody_listening_is_silence() {
    let federation = Federation::new();
    let west = West::start(federation.agent("west")).await;
    let peer = west.peer();
    drop(west);
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            let found = path_to_agent(&peer, &federation.agent("east"), PATIENCE).await;
            if !found.reachable() {
                return found;
            }
        }
    })
    .await
    .expect("the service has stopped");
    assert!(matches!(found, Found::Silent { .. }), "{found:?}");
}

/// The kernel accepts for a stopped process, a load balancer for a lost site.
#[tokio::test]
async fn a_connection_that_is_accepted_and_never_answered_is_silence_at_the_deadline() {
    let federation = Federation::new();
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = mute.local_addr().expect("an address").to_string();
    let peer = Peer { probe_endpoints: vec![endpoint.clone()], ..neighbour("west", Some(endpoint)) };
    let deadline = Duration::from_millis(200);
    let east = federation.agent("east");
    let probed = probe(&peer, &east, deadline);
    let found = tokio::time::timeout(PATIENCE, probed).await.expect("an end, though nobody answers");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|one| matches!(one.found, Found::Silent { .. })), "{found:?}");
}

#[tokio::test]
async fn a_connection_that_is_accepted_and_closed_is_silence() {
    let federation = Federation::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let peer = Peer { probe_endpoints: vec![endpoint.clone()], ..neighbour("west", Some(endpoint)) };
    let found = probe(&peer, &federation.agent("east"), PATIENCE).await;
    assert!(found.iter().all(|one| matches!(one.found, Found::Silent { .. })), "{found:?}");
}

/// An API server's certificate is of an authority that agents do not know; that it speaks is what counts.
#[tokio::test]
async fn an_api_server_of_an_unknown_authority_answers_and_one_of_two_endpoints_is_enough() {
    let federation = Federation::new();
    let api_server = West::start(Federation::new().agent("west")).await;
    let closed = "127.0.0.1:1".to_owned();
    let peer = Peer { probe_endpoints: vec![closed, api_server.endpoint.clone()], ..neighbour("west", None) };
    let found = probe(&peer, &federation.agent("east"), PATIENCE).await;
    let [only] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((only.path, &only.found), (PathKind::ApiServer, &Found::Answered));
}

#[tokio::test]
async fn a_cluster_without_endpoints_is_not_probed_and_cannot_be_asked_to_hold() {
    let federation = Federation::new();
    let nowhere = neighbour("west", None);
    assert_eq!(probe(&nowhere, &federation.agent("east"), PATIENCE).await, []);
    let refused = peer::hold(&nowhere, &federation.agent("east"), request("east"), PATIENCE).await;
    let refused = refused.expect_err("no endpoint").to_string();
    assert!(refused.contains("west") && refused.contains("DRCluster"), "{refused}");
}
