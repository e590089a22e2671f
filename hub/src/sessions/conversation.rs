//! One stream of one agent, from its first message to its end.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proto::convert::WireError;
use proto::wire::v1::federation_server::Federation;
use proto::wire::v1::{AgentMessage, HubMessage};
use proto::{ClusterName, FromAgent, Hello};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{KnownClusters, Numbered, SessionEvent, SessionNumber, SessionRefusal, Shared};

/// Messages waiting for one agent. At connect it is told of each of its placements at once, of a few thousand at most; an
/// agent that lags further is not keeping up.
pub const OUTGOING: usize = 8192;

/// Why a stream ends.
#[derive(Debug)]
pub(super) enum End {
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
pub(super) struct Door {
    pub(super) shared: Arc<Shared>,
    pub(super) hello: Duration,
    pub(super) stop: CancellationToken,
}

#[tonic::async_trait]
impl Federation for Door {
    type ConnectStream = ReceiverStream<Result<HubMessage, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (uid, cluster) = self.shared.caller(request.extensions())?;
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
            Ok(FromAgent::Hello(hello)) => Ok(hello),
            Ok(FromAgent::Heartbeat(_) | FromAgent::Report(_) | FromAgent::Acknowledgement(_)) => {
                Err(End::Refused(SessionRefusal::BadMessage, "the first message must be Hello".into()))
            }
            Err(error) => Err(End::Refused(SessionRefusal::BadMessage, error.to_string())),
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

    async fn relay(&mut self, number: SessionNumber, hello: Hello) -> Result<Infallible, End> {
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
                Err(error) => self.skipped(&error.to_string()),
                Ok(FromAgent::Hello(_)) => self.skipped("Hello is the first message only"),
                Ok(FromAgent::Heartbeat(heartbeat)) => {
                    self.tell(number, SessionEvent::Heartbeat(heartbeat)).await?;
                }
                Ok(FromAgent::Report(report)) => {
                    self.tell(number, SessionEvent::Report(Box::new(report))).await?;
                }
                Ok(FromAgent::Acknowledgement(acknowledgement)) => {
                    self.tell(number, SessionEvent::Acknowledged(acknowledgement)).await?;
                }
            }
        }
    }

    /// The next message of this cluster; one that speaks for another ends the stream.
    async fn next(&mut self) -> Result<Result<FromAgent, WireError>, End> {
        let wire = self.inbound.message().await.map_err(broken)?.ok_or(End::Closed)?;
        let message = match FromAgent::try_from(wire) {
            Ok(message) => message,
            Err(error) => return Ok(Err(error)),
        };
        let named = speaker(&message);
        if *named == self.cluster {
            Ok(Ok(message))
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
    // A failure of the connection has a cause; a message that cannot be decoded has none.
    let undecodable = status.code() == Code::Internal && status.source().is_none();
    if status.code() == Code::OutOfRange {
        End::Refused(SessionRefusal::TooLarge, status.message().to_owned())
    } else if undecodable {
        End::Refused(SessionRefusal::BadMessage, status.message().to_owned())
    } else {
        End::Broken(status)
    }
}
