//! The peer service: other agents' probes and holds, and our own hold asked of them.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proto::convert::WireError;
use proto::wire::v1;
use proto::wire::v1::peer_client::PeerClient;
use proto::wire::v1::peer_server::{Peer as PeerService, PeerServer};
use proto::{ClusterName, HoldAnswer, HoldRequest, Peer};
use thiserror::Error;
use tls::{
    Caller, ChannelSettings, Credentials, DialError, HandshakeLimits, HandshakeRefused, Identity,
    IdentityError, accept_connections, channel,
};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use understudy_telemetry::CallDurations;

/// A probe or a hold is a few names.
const LARGEST_MESSAGE: usize = 64 * 1024;
/// The answer to a hold has a signed promise, with its certificates, for each gate.
const LARGEST_ANSWER: usize = 1024 * 1024;
/// Authenticated connections waiting for the gRPC server, which takes them at once.
const CONNECTIONS: usize = 64;
const STREAMS_PER_CONNECTION: u32 = 64;

/// The clusters that may probe and ask for holds, by the uid in their certificate.
pub type KnownPeers = BTreeMap<String, ClusterName>;

#[derive(Clone, Debug)]
pub struct PeerSettings {
    pub handshakes: HandshakeLimits,
    /// How long the driver may take for its answer to a hold.
    pub answer: Duration,
    pub keep_alive: Duration,
    /// Where the durations of calls are told.
    pub calls: CallDurations,
}

impl Default for PeerSettings {
    fn default() -> Self {
        let five_seconds = Duration::from_secs(5);
        PeerSettings {
            handshakes: HandshakeLimits::default(),
            answer: five_seconds,
            keep_alive: five_seconds,
            calls: CallDurations::default(),
        }
    }
}

/// A hold that another cluster asks for; the holder has been checked against its certificate. Dropping `answer` leaves
/// the asker without a promise.
#[derive(Debug)]
pub struct HoldAsked {
    pub request: HoldRequest,
    pub answer: oneshot::Sender<HoldAnswer>,
}

/// Serves other agents on `listener` until `stop`.
pub async fn serve(
    listener: TcpListener,
    credentials: Arc<Credentials>,
    peers: watch::Receiver<KnownPeers>,
    holds: mpsc::Sender<HoldAsked>,
    settings: PeerSettings,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let (authenticated, connections) = mpsc::channel(CONNECTIONS);
    let accepting =
        accept_connections(listener, credentials, settings.handshakes, authenticated, handshake_refused);
    let service = PeerServer::new(Door { peers, holds, answer: settings.answer })
        .max_decoding_message_size(LARGEST_MESSAGE);
    let serving = Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_keepalive_interval(Some(settings.keep_alive))
        .http2_keepalive_timeout(Some(settings.keep_alive))
        .layer(settings.calls)
        .serve_with_incoming_shutdown(service, ReceiverStream::new(connections), stop.cancelled_owned());
    let (served, ()) = tokio::join!(serving, accepting);
    served
}

fn handshake_refused(address: SocketAddr, reason: HandshakeRefused) {
    tracing::info!(%address, error = &reason as &dyn Error, "handshake refused");
}

struct Door {
    peers: watch::Receiver<KnownPeers>,
    holds: mpsc::Sender<HoldAsked>,
    answer: Duration,
}

#[tonic::async_trait]
impl PeerService for Door {
    async fn probe(&self, request: Request<v1::ProbeRequest>) -> Result<Response<v1::ProbeResponse>, Status> {
        self.caller(&request)?;
        Ok(Response::new(v1::ProbeResponse {}))
    }

    async fn hold(&self, request: Request<v1::HoldRequest>) -> Result<Response<v1::HoldResponse>, Status> {
        let caller = self.caller(&request)?;
        let request = HoldRequest::try_from(request.into_inner())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if request.holder != caller {
            tracing::warn!(%caller, named = %request.holder, "hold for another cluster refused");
            return Err(Status::permission_denied("a cluster asks for a hold in its own name only"));
        }
        let answer = self.ask_driver(request).await?;
        Ok(Response::new(answer.into()))
    }
}

impl Door {
    // A Status is large, and what tonic wants.
    #[allow(clippy::result_large_err)]
    fn caller<T>(&self, request: &Request<T>) -> Result<ClusterName, Status> {
        let caller = request.extensions().get::<Caller>();
        let known = caller.and_then(|caller| match &caller.identity {
            Identity::Cluster { uid } => self.peers.borrow().get(uid).cloned(),
            Identity::Hub => None,
        });
        known.ok_or_else(|| {
            tracing::warn!(
                identity = caller.map(|caller| caller.identity.to_string()),
                address = caller.map(|caller| caller.address.to_string()),
                "call of an unknown peer refused"
            );
            Status::permission_denied("this cluster shares no placement with the caller")
        })
    }

    async fn ask_driver(&self, request: HoldRequest) -> Result<HoldAnswer, Status> {
        let (answer, answered) = oneshot::channel();
        self.holds
            .try_send(HoldAsked { request, answer })
            .map_err(|_| Status::resource_exhausted("too many holds are waiting"))?;
        timeout(self.answer, answered)
            .await
            .map_err(|_| Status::deadline_exceeded("no answer in time"))?
            .map_err(|_| Status::unavailable("no answer"))
    }
}

/// Why there is no answer to a hold; the lease is then what it was.
#[derive(Debug, Error)]
pub enum HoldError {
    #[error("cluster {0} names no peer endpoint: set it in its DRCluster")]
    NoEndpoint(ClusterName),
    #[error("the identity of cluster {cluster}")]
    Identity {
        cluster: ClusterName,
        #[source]
        source: IdentityError,
    },
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("no answer to the hold within {0:?}")]
    Late(Duration),
    #[error("the hold was refused or broke off: {}", .0.message())]
    Status(Box<Status>),
    #[error("the answer to the hold")]
    Answer(#[source] WireError),
}

/// Asks `peer` to hold, and waits no longer than `deadline` altogether.
pub async fn hold(
    peer: &Peer,
    credentials: &Credentials,
    request: HoldRequest,
    deadline: Duration,
) -> Result<HoldAnswer, HoldError> {
    timeout(deadline, ask(peer, credentials, request, deadline))
        .await
        .map_err(|_| HoldError::Late(deadline))?
}

async fn ask(
    peer: &Peer,
    credentials: &Credentials,
    request: HoldRequest,
    deadline: Duration,
) -> Result<HoldAnswer, HoldError> {
    let endpoint =
        peer.peer_endpoint.as_deref().ok_or_else(|| HoldError::NoEndpoint(peer.cluster.clone()))?;
    let identity = Identity::cluster(&peer.identity)
        .map_err(|source| HoldError::Identity { cluster: peer.cluster.clone(), source })?;
    let settings =
        ChannelSettings { connect: deadline, keep_alive_interval: deadline, keep_alive_timeout: deadline };
    let channel = channel(endpoint, credentials, &identity, settings).await?;
    let response = PeerClient::new(channel)
        .max_decoding_message_size(LARGEST_ANSWER)
        .hold(v1::HoldRequest::from(request))
        .await
        .map_err(|status| HoldError::Status(Box::new(status)))?;
    HoldAnswer::try_from(response.into_inner()).map_err(HoldError::Answer)
}
