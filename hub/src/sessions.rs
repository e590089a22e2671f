//! The agents' streams: who speaks is what the connection proved, one session per cluster, and nothing waits for a slow one.

mod conversation;
mod relay;

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use conversation::OUTGOING;
use proto::wire::v1::HubMessage;
use proto::wire::v1::federation_server::FederationServer;
use proto::wire::v1::telemetry_server::TelemetryServer;
use proto::{Acknowledgement, ClusterName, FromHub, Heartbeat, Hello, Report};
use tls::{Caller, Credentials, HandshakeLimits, HandshakeRefused, Identity, accept_connections};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::{Extensions, Status};
use understudy_telemetry::{CallDurations, PassOn};

use conversation::{Door, End};
use relay::TelemetryDoor;

/// The largest message in either direction; an inventory of a thousand volumes fits.
pub const LARGEST_MESSAGE: usize = 8 * 1024 * 1024;
/// The largest batch of an agent's telemetry; its exporters send some hundred kilobytes.
const LARGEST_BATCH: usize = 4 * 1024 * 1024;
/// Events waiting for the driver, of all agents; when it is full, streams are read no faster than they are handled.
const EVENTS: usize = 1024;
/// Authenticated connections waiting for the gRPC server, which takes them at once.
const CONNECTIONS: usize = 64;
/// An agent needs one stream; a few more let a new one begin before the old one has ended.
const STREAMS_PER_CONNECTION: u32 = 8;

/// The clusters that may speak, by the uid in their certificate.
pub type KnownClusters = BTreeMap<String, ClusterName>;

#[derive(Clone, Debug)]
pub struct SessionSettings {
    pub handshakes: HandshakeLimits,
    /// From the beginning of a stream until its Hello.
    pub hello: Duration,
    pub keep_alive_interval: Duration,
    pub keep_alive_timeout: Duration,
    /// Where the durations of calls are told.
    pub calls: CallDurations,
    /// Where agents' telemetry goes that have no collector of their own.
    pub pass_on: Option<PassOn>,
}

impl Default for SessionSettings {
    fn default() -> Self {
        SessionSettings {
            handshakes: HandshakeLimits::default(),
            hello: Duration::from_secs(5),
            keep_alive_interval: Duration::from_secs(5),
            keep_alive_timeout: Duration::from_secs(5),
            calls: CallDurations::default(),
            pass_on: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum SessionEvent {
    /// Everything said before on another stream of this cluster is over.
    Connected(Hello),
    Disconnected(ClusterName),
    Heartbeat(Heartbeat),
    Report(Box<Report>),
    Acknowledged(Acknowledgement),
}

/// What became of a message to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    Queued,
    /// The agent does not keep up. A reply was dropped, or, if it was anything else, the session with it.
    Dropped,
    NoSession,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionRefusal {
    TlsHandshake,
    UnknownIdentity,
    ForeignCluster,
    BadMessage,
    TooLarge,
}

impl SessionRefusal {
    pub const ALL: [SessionRefusal; 5] = [
        SessionRefusal::TlsHandshake,
        SessionRefusal::UnknownIdentity,
        SessionRefusal::ForeignCluster,
        SessionRefusal::BadMessage,
        SessionRefusal::TooLarge,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            SessionRefusal::TlsHandshake => "TlsHandshake",
            SessionRefusal::UnknownIdentity => "UnknownIdentity",
            SessionRefusal::ForeignCluster => "ForeignCluster",
            SessionRefusal::BadMessage => "BadMessage",
            SessionRefusal::TooLarge => "TooLarge",
        }
    }
}

/// Counted here, observed by the metrics.
#[derive(Debug, Default)]
pub struct SessionCounters {
    refusals: [AtomicU64; SessionRefusal::ALL.len()],
    open: AtomicU64,
}

impl SessionCounters {
    pub fn refusals(&self, reason: SessionRefusal) -> u64 {
        self.refusals[reason as usize].load(Ordering::Relaxed)
    }

    /// Sessions that have said Hello and not ended.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    fn count(&self, reason: SessionRefusal) {
        self.refusals[reason as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// The handle by which the hub speaks to its agents.
#[derive(Clone)]
pub struct Sessions {
    shared: Arc<Shared>,
}

struct Shared {
    clusters: watch::Receiver<KnownClusters>,
    registry: Mutex<Registry>,
    counters: Arc<SessionCounters>,
    events: mpsc::Sender<Numbered>,
    conversations: TaskTracker,
}

#[derive(Default)]
struct Registry {
    newest: SessionNumber,
    by_cluster: BTreeMap<ClusterName, OpenSession>,
}

/// Counts sessions in the order in which they replace each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct SessionNumber(u64);

struct OpenSession {
    number: SessionNumber,
    outgoing: mpsc::Sender<Result<HubMessage, Status>>,
    end: oneshot::Sender<End>,
}

struct Numbered {
    session: SessionNumber,
    cluster: ClusterName,
    event: SessionEvent,
}

/// The driver's end: what the agents say, of each cluster only what its newest session says.
pub struct SessionInbox {
    events: mpsc::Receiver<Numbered>,
    newest: BTreeMap<ClusterName, SessionNumber>,
}

impl SessionInbox {
    /// How many messages wait.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The next event; none when no session can come any more. May be dropped while it waits.
    pub async fn receive(&mut self) -> Option<SessionEvent> {
        loop {
            let numbered = self.events.recv().await?;
            if let Some(event) = self.admit(numbered) {
                return Some(event);
            }
        }
    }

    /// A session that has been replaced may still have something under way: it must not speak or end for its successor.
    fn admit(&mut self, numbered: Numbered) -> Option<SessionEvent> {
        let Numbered { session, cluster, event } = numbered;
        let newest = self.newest.entry(cluster).or_default();
        *newest = session.max(*newest);
        (session == *newest).then_some(event)
    }
}

impl Sessions {
    pub fn new(clusters: watch::Receiver<KnownClusters>) -> (Self, SessionInbox) {
        let (sender, events) = mpsc::channel(EVENTS);
        let shared = Arc::new(Shared {
            clusters,
            registry: Mutex::default(),
            counters: Arc::default(),
            events: sender,
            conversations: TaskTracker::new(),
        });
        (Sessions { shared }, SessionInbox { events, newest: BTreeMap::new() })
    }

    pub fn counters(&self) -> Arc<SessionCounters> {
        self.shared.counters.clone()
    }

    /// Never waits. Whatever is lost by a full queue is decided and sent again: replies with the next heartbeat,
    /// everything else after the agent has connected anew.
    pub fn send(&self, cluster: &ClusterName, message: FromHub) -> Delivery {
        let is_reply = match &message {
            FromHub::Reply(_) => true,
            FromHub::Assignment(_) | FromHub::Unassign(_) | FromHub::Command(_) => false,
        };
        let mut registry = self.shared.registry();
        let Some(session) = registry.by_cluster.get(cluster) else { return Delivery::NoSession };
        match session.outgoing.try_send(Ok(message.into())) {
            Ok(()) => Delivery::Queued,
            Err(mpsc::error::TrySendError::Closed(_)) => Delivery::NoSession,
            Err(mpsc::error::TrySendError::Full(_)) => {
                if !is_reply {
                    registry.end(cluster, End::Slow);
                }
                Delivery::Dropped
            }
        }
    }

    /// Serves agents on `listener` until `stop`.
    pub async fn serve(
        self,
        listener: TcpListener,
        credentials: Arc<Credentials>,
        settings: SessionSettings,
        stop: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        let (authenticated, connections) = mpsc::channel(CONNECTIONS);
        let refused = |address, reason| self.shared.handshake_refused(address, &reason);
        let accepting =
            accept_connections(listener, credentials, settings.handshakes, authenticated, refused);
        let door = Door { shared: self.shared.clone(), hello: settings.hello, stop: stop.clone() };
        let service = FederationServer::new(door)
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE);
        let relay = TelemetryDoor { shared: self.shared.clone(), pass_on: settings.pass_on };
        let telemetry = TelemetryServer::new(relay).max_decoding_message_size(LARGEST_BATCH);
        let serving = Server::builder()
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            .http2_keepalive_interval(Some(settings.keep_alive_interval))
            .http2_keepalive_timeout(Some(settings.keep_alive_timeout))
            .layer(settings.calls)
            .add_service(service)
            .add_service(telemetry)
            .serve_with_incoming_shutdown(ReceiverStream::new(connections), stop.cancelled_owned());
        let (served, ()) = tokio::join!(serving, accepting);
        self.shared.conversations.close();
        self.shared.conversations.wait().await;
        served
    }
}

impl Shared {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handshake_refused(&self, address: SocketAddr, reason: &HandshakeRefused) {
        self.counters.count(SessionRefusal::TlsHandshake);
        tracing::info!(%address, error = reason as &dyn Error, "handshake refused");
    }

    /// The cluster that the connection has proven to be, and its uid.
    fn caller(&self, connection: &Extensions) -> Result<(String, ClusterName), Status> {
        let caller = connection.get::<Caller>();
        let known = caller.and_then(|caller| match &caller.identity {
            Identity::Cluster { uid } => Some((uid.clone(), self.cluster_of(uid)?)),
            Identity::Hub => None,
        });
        known.ok_or_else(|| {
            self.counters.count(SessionRefusal::UnknownIdentity);
            tracing::warn!(
                identity = caller.map(|caller| caller.identity.to_string()),
                address = caller.map(|caller| caller.address.to_string()),
                "call of an unknown identity refused"
            );
            Status::permission_denied(
                "no DRCluster has this certificate's identity: create it, or correct its uid",
            )
        })
    }

    fn cluster_of(&self, uid: &str) -> Option<ClusterName> {
        self.clusters.borrow().get(uid).cloned()
    }
}

impl Registry {
    /// Opens a session for the cluster; one that is open ends.
    fn open(
        &mut self,
        cluster: &ClusterName,
        outgoing: mpsc::Sender<Result<HubMessage, Status>>,
    ) -> (SessionNumber, oneshot::Receiver<End>) {
        self.end(cluster, End::Replaced);
        self.newest = SessionNumber(self.newest.0 + 1);
        let (end, ended) = oneshot::channel();
        self.by_cluster.insert(cluster.clone(), OpenSession { number: self.newest, outgoing, end });
        (self.newest, ended)
    }

    fn end(&mut self, cluster: &ClusterName, why: End) {
        if let Some(session) = self.by_cluster.remove(cluster) {
            // It may have ended by itself at the same moment.
            let _ = session.end.send(why);
        }
    }

    fn close(&mut self, cluster: &ClusterName, number: SessionNumber) {
        if self.by_cluster.get(cluster).is_some_and(|session| session.number == number) {
            self.by_cluster.remove(cluster);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbox() -> SessionInbox {
        SessionInbox { events: mpsc::channel(1).1, newest: BTreeMap::new() }
    }

    fn said(session: u64, event: SessionEvent) -> Numbered {
        Numbered { session: SessionNumber(session), cluster: east(), event }
    }

    fn east() -> ClusterName {
        ClusterName::parse("east").expect("a name")
    }

    fn hello() -> SessionEvent {
        SessionEvent::Connected(Hello { cluster: east(), version: String::new(), known: Vec::new() })
    }

    #[test]
    fn a_replaced_session_neither_speaks_nor_ends_for_its_successor() {
        let mut inbox = inbox();
        let gone = SessionEvent::Disconnected(east());
        assert!(inbox.admit(said(1, hello())).is_some());
        assert!(inbox.admit(said(2, hello())).is_some());
        assert!(inbox.admit(said(1, hello())).is_none(), "a late Connected");
        assert!(inbox.admit(said(1, gone.clone())).is_none(), "a late Disconnected");
        assert_eq!(inbox.admit(said(2, gone.clone())), Some(gone));
    }
}
