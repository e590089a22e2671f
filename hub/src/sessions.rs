//! The agents' streams: who speaks is what the connection proved, one session per cluster, and nothing waits for a slow one.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::wire::v1::federation_server::{Federation, FederationServer};
use proto::wire::v1::{AgentMessage, HubMessage};
use proto::{Acknowledgement, ClusterName, FromAgent, FromHub, Heartbeat, Hello, Report};
use tls::{Caller, Credentials, HandshakeLimits, HandshakeRefused, Identity, accept_connections};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status, Streaming};

/// The largest message in either direction; an inventory of a thousand volumes fits.
pub const LARGEST_MESSAGE: usize = 8 * 1024 * 1024;
/// Messages waiting for one agent. It holds a burst of commands; an agent that lags further is not keeping up.
const OUTGOING: usize = 256;
/// Events waiting for the driver, of all agents; when it is full, streams are read no faster than they are handled.
const EVENTS: usize = 1024;
/// Authenticated connections waiting for the gRPC server, which takes them at once.
const CONNECTIONS: usize = 64;
/// An agent needs one stream; a few more let a new one begin before the old one has ended.
const STREAMS_PER_CONNECTION: u32 = 8;

/// The clusters that may speak, by the uid in their certificate.
pub type KnownClusters = BTreeMap<String, ClusterName>;

#[derive(Clone, Copy, Debug)]
pub struct SessionSettings {
    pub handshakes: HandshakeLimits,
    /// From the beginning of a stream until its Hello.
    pub hello: Duration,
    pub keep_alive_interval: Duration,
    pub keep_alive_timeout: Duration,
}

impl Default for SessionSettings {
    fn default() -> Self {
        SessionSettings {
            handshakes: HandshakeLimits::default(),
            hello: Duration::from_secs(5),
            keep_alive_interval: Duration::from_secs(5),
            keep_alive_timeout: Duration::from_secs(5),
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
        let serving = Server::builder()
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            .http2_keepalive_interval(Some(settings.keep_alive_interval))
            .http2_keepalive_timeout(Some(settings.keep_alive_timeout))
            .serve_with_incoming_shutdown(service, ReceiverStream::new(connections), stop.cancelled_owned());
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

/// Why a stream ends.
#[derive(Debug)]
enum End {
    Closed,
    Broken(Status),
    Replaced,
    Slow,
    Stopped,
    Refused(SessionRefusal, String),
}

impl End {
    /// What the agent is told; it has nobody to tell if it has gone.
    fn status(&self) -> Option<Status> {
        match self {
            End::Closed | End::Broken(_) => None,
            End::Replaced => Some(Status::aborted("a newer stream of this cluster has begun")),
            End::Slow => Some(Status::resource_exhausted("the agent does not take its messages")),
            End::Stopped => Some(Status::unavailable("the hub stops")),
            End::Refused(_, why) => Some(Status::permission_denied(why.clone())),
        }
    }
}

/// Lets an agent in as the cluster that its certificate says it is.
struct Door {
    shared: Arc<Shared>,
    hello: Duration,
    stop: CancellationToken,
}

#[tonic::async_trait]
impl Federation for Door {
    type ConnectStream = ReceiverStream<Result<HubMessage, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (uid, cluster) = self.caller(&request)?;
        let (outgoing, queue) = mpsc::channel(OUTGOING);
        let conversation = Conversation {
            shared: self.shared.clone(),
            stop: self.stop.clone(),
            clusters: self.shared.clusters.clone(),
            uid,
            cluster,
            inbound: request.into_inner(),
            outgoing,
        };
        self.shared.conversations.spawn(conversation.hold(self.hello));
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}

impl Door {
    // A Status is large, and what tonic wants.
    #[allow(clippy::result_large_err)]
    fn caller(&self, request: &Request<Streaming<AgentMessage>>) -> Result<(String, ClusterName), Status> {
        let caller = request.extensions().get::<Caller>();
        let known = caller.and_then(|caller| match &caller.identity {
            Identity::Cluster { uid } => Some((uid.clone(), self.shared.cluster_of(uid)?)),
            Identity::Hub => None,
        });
        known.ok_or_else(|| {
            self.shared.counters.count(SessionRefusal::UnknownIdentity);
            tracing::warn!(
                identity = caller.map(|caller| caller.identity.to_string()),
                address = caller.map(|caller| caller.address.to_string()),
                "stream of an unknown identity refused"
            );
            Status::permission_denied(
                "no DRCluster has this certificate's identity: create it, or correct its uid",
            )
        })
    }
}

/// One stream of one agent, from its beginning to its end.
struct Conversation {
    shared: Arc<Shared>,
    stop: CancellationToken,
    clusters: watch::Receiver<KnownClusters>,
    uid: String,
    cluster: ClusterName,
    inbound: Streaming<AgentMessage>,
    outgoing: mpsc::Sender<Result<HubMessage, Status>>,
}

impl Conversation {
    async fn hold(mut self, hello: Duration) {
        let end = match self.greeting(hello).await {
            Ok(hello) => self.session(hello).await,
            Err(end) => end,
        };
        self.log(&end);
        if let Some(status) = end.status() {
            // With a full queue the stream just ends.
            let _ = self.outgoing.try_send(Err(status));
        }
    }

    /// A stream replaces an older one only when it has said who it is.
    async fn greeting(&mut self, deadline: Duration) -> Result<Hello, End> {
        let stop = self.stop.clone();
        let first = tokio::select! {
            () = stop.cancelled() => return Err(End::Stopped),
            first = tokio::time::timeout(deadline, self.next()) => first,
        };
        let late = || {
            End::Refused(
                SessionRefusal::BadMessage,
                format!("no Hello within {deadline:?} of the stream's beginning"),
            )
        };
        match first.map_err(|_| late())?? {
            Heard::Message(FromAgent::Hello(hello)) => Ok(hello),
            Heard::Message(
                FromAgent::Heartbeat(_) | FromAgent::Report(_) | FromAgent::Acknowledgement(_),
            ) => Err(End::Refused(SessionRefusal::BadMessage, "the first message must be Hello".into())),
            Heard::Nonsense(why) => Err(End::Refused(SessionRefusal::BadMessage, why)),
        }
    }

    async fn session(&mut self, hello: Hello) -> End {
        let (number, mut ended) = self.shared.registry().open(&self.cluster, self.outgoing.clone());
        self.shared.counters.open.fetch_add(1, Ordering::Relaxed);
        tracing::info!(cluster = %self.cluster, version = hello.version, "session opened");
        let end = tokio::select! {
            why = &mut ended => why.unwrap_or(End::Stopped),
            why = self.listen(number, hello) => why,
        };
        self.shared.registry().close(&self.cluster, number);
        self.shared.counters.open.fetch_sub(1, Ordering::Relaxed);
        // Nobody to tell when the driver has ended.
        let _ = self.tell(number, SessionEvent::Disconnected(self.cluster.clone())).await;
        end
    }

    async fn listen(&mut self, number: SessionNumber, hello: Hello) -> End {
        match self.relay(number, hello).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn relay(&mut self, number: SessionNumber, hello: Hello) -> Result<std::convert::Infallible, End> {
        self.tell(number, SessionEvent::Connected(hello)).await?;
        let stop = self.stop.clone();
        let mut clusters = self.clusters.clone();
        loop {
            let heard = tokio::select! {
                () = stop.cancelled() => return Err(End::Stopped),
                changed = clusters.changed() => {
                    changed.map_err(|_| End::Stopped)?;
                    self.still_known()?;
                    continue;
                }
                heard = self.next() => heard?,
            };
            match heard {
                Heard::Nonsense(why) => self.skipped(&why),
                Heard::Message(FromAgent::Hello(_)) => self.skipped("Hello is the first message only"),
                Heard::Message(FromAgent::Heartbeat(heartbeat)) => {
                    self.tell(number, SessionEvent::Heartbeat(heartbeat)).await?;
                }
                Heard::Message(FromAgent::Report(report)) => {
                    self.tell(number, SessionEvent::Report(Box::new(report))).await?;
                }
                Heard::Message(FromAgent::Acknowledgement(acknowledgement)) => {
                    self.tell(number, SessionEvent::Acknowledged(acknowledgement)).await?;
                }
            }
        }
    }

    /// The next message of this cluster; one that speaks for another ends the stream.
    async fn next(&mut self) -> Result<Heard, End> {
        let wire = self.inbound.message().await.map_err(broken)?.ok_or(End::Closed)?;
        let message = match FromAgent::try_from(wire) {
            Ok(message) => message,
            Err(error) => return Ok(Heard::Nonsense(error.to_string())),
        };
        let named = speaker(&message);
        if *named == self.cluster {
            Ok(Heard::Message(message))
        } else {
            let why = format!("this connection is {}'s, its message names {named}", self.cluster);
            Err(End::Refused(SessionRefusal::ForeignCluster, why))
        }
    }

    fn still_known(&self) -> Result<(), End> {
        if self.shared.cluster_of(&self.uid).as_ref() == Some(&self.cluster) {
            Ok(())
        } else {
            let why = "its DRCluster is gone, or has another uid".to_owned();
            Err(End::Refused(SessionRefusal::UnknownIdentity, why))
        }
    }

    async fn tell(&self, session: SessionNumber, event: SessionEvent) -> Result<(), End> {
        let numbered = Numbered { session, cluster: self.cluster.clone(), event };
        self.shared.events.send(numbered).await.map_err(|_| End::Stopped)
    }

    /// One bad message, of an agent that is newer or reports something unheard of, must not silence the whole cluster.
    fn skipped(&self, why: &str) {
        self.shared.counters.count(SessionRefusal::BadMessage);
        tracing::warn!(cluster = %self.cluster, why, "message refused");
    }

    fn log(&self, end: &End) {
        let cluster = &self.cluster;
        match end {
            End::Closed | End::Stopped => tracing::info!(%cluster, "session ended"),
            End::Broken(status) => {
                tracing::info!(%cluster, error = status as &dyn Error, "session ended by its connection");
            }
            End::Replaced => tracing::info!(%cluster, "session replaced by a newer one"),
            End::Slow => {
                tracing::warn!(%cluster, "session ended, because its agent does not take its messages")
            }
            End::Refused(reason, why) => {
                self.shared.counters.count(*reason);
                tracing::warn!(%cluster, reason = reason.as_str(), why, "session refused");
            }
        }
    }
}

enum Heard {
    Message(FromAgent),
    /// Understood as far as the wire goes, and not acceptable.
    Nonsense(String),
}

fn speaker(message: &FromAgent) -> &ClusterName {
    match message {
        FromAgent::Hello(hello) => &hello.cluster,
        FromAgent::Heartbeat(heartbeat) => &heartbeat.cluster,
        FromAgent::Report(report) => &report.cluster,
        FromAgent::Acknowledgement(acknowledgement) => &acknowledgement.cluster,
    }
}

/// Tells an agent that sends what cannot be read from a connection that broke.
fn broken(status: Status) -> End {
    let ours = status.source().is_none();
    match status.code() {
        Code::OutOfRange => End::Refused(SessionRefusal::TooLarge, status.message().to_owned()),
        Code::Internal if ours => End::Refused(SessionRefusal::BadMessage, status.message().to_owned()),
        _ => End::Broken(status),
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
