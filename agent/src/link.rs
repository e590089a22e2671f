//! The agent's stream to the hub: dialled, watched, and dialled again.

use std::collections::hash_map::RandomState;
use std::error::Error;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use proto::wire::v1::federation_client::FederationClient;
use proto::wire::v1::{AgentMessage, HubMessage};
use proto::{FromAgent, FromHub, Hello};
use thiserror::Error;
use tls::{ChannelSettings, Credentials, DialError, Identity, channel};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

/// The largest message that the hub may send; it is the hub's own limit too.
const LARGEST_MESSAGE: usize = 8 * 1024 * 1024;
/// Messages waiting for the hub: at connect a report of each placement, of a few thousand at most, and some heartbeats.
const OUTGOING: usize = 8192;
/// Messages of the hub waiting for the driver.
const EVENTS: usize = 256;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
pub struct LinkSettings {
    /// `host:port` of the hub.
    pub hub: String,
    /// How long one step of connecting may take, and half of the time in which a connection into a black hole is noticed.
    pub rpc: Duration,
    /// The longest pause between two attempts.
    pub longest_pause: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub enum LinkEvent {
    /// A stream has begun, and Hello has been said on it. What was given to an earlier one may have been lost.
    Up,
    Down {
        reason: String,
    },
    Message(FromHub),
}

/// The driver's end towards the hub.
#[derive(Clone, Debug)]
pub struct LinkSender(mpsc::Sender<FromAgent>);

impl LinkSender {
    /// Never waits; false if the message was dropped because too many wait already. Messages given while the link is
    /// down are dropped when it comes up: what they say is stale, and everything is said anew.
    pub fn send(&self, message: FromAgent) -> bool {
        self.0.try_send(message).is_ok()
    }
}

pub struct Link {
    settings: LinkSettings,
    credentials: Arc<Credentials>,
    hello: watch::Receiver<Hello>,
    outgoing: mpsc::Receiver<FromAgent>,
    events: mpsc::Sender<LinkEvent>,
}

#[derive(Debug, Error)]
enum LinkError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the hub did not begin the stream within {0:?}")]
    Late(Duration),
    #[error("the hub refused or broke the stream: {}", .0.message())]
    Status(Box<Status>),
    #[error("the hub ended the stream")]
    Ended,
    #[error("the hub does not take our messages")]
    Stuck,
    #[error("the driver has ended")]
    DriverEnded,
}

impl Link {
    /// `hello` is what the agent remembers now; each stream begins with its newest value.
    pub fn new(
        settings: LinkSettings,
        credentials: Arc<Credentials>,
        hello: watch::Receiver<Hello>,
    ) -> (Link, LinkSender, mpsc::Receiver<LinkEvent>) {
        let (sender, outgoing) = mpsc::channel(OUTGOING);
        let (events, receiver) = mpsc::channel(EVENTS);
        (Link { settings, credentials, hello, outgoing, events }, LinkSender(sender), receiver)
    }

    /// Keeps a stream open until `stop` or until the driver's ends are gone.
    pub async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled_owned(self.keep_connected()).await;
    }

    async fn keep_connected(&mut self) {
        let mut backoff = Backoff::new(self.settings.longest_pause);
        while !self.events.is_closed() {
            match self.begin().await {
                Ok(stream) => {
                    backoff.reset();
                    let reason = self.hold(stream).await;
                    tracing::warn!(
                        hub = self.settings.hub,
                        error = &reason as &dyn Error,
                        "link to the hub is down"
                    );
                    // A driver that has ended is noticed at the top of the loop.
                    let _ = self.events.send(LinkEvent::Down { reason: whole(&reason) }).await;
                }
                Err(reason) if backoff.is_fresh() => {
                    tracing::warn!(
                        hub = self.settings.hub,
                        error = &reason as &dyn Error,
                        "hub cannot be reached"
                    );
                }
                Err(reason) => {
                    tracing::debug!(
                        hub = self.settings.hub,
                        error = &reason as &dyn Error,
                        "hub cannot be reached"
                    );
                }
            }
            tokio::time::sleep(backoff.next_pause()).await;
        }
    }

    /// Dials, and says Hello.
    async fn begin(&mut self) -> Result<Stream, LinkError> {
        let rpc = self.settings.rpc;
        let settings = ChannelSettings { connect: rpc, keep_alive_interval: rpc, keep_alive_timeout: rpc };
        let channel = channel(&self.settings.hub, &self.credentials, &Identity::Hub, settings).await?;
        let mut client = FederationClient::new(channel)
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE);
        let (outbound, queue) = mpsc::channel(OUTGOING);
        let hello = self.hello.borrow_and_update().clone();
        outbound.try_send(FromAgent::Hello(hello).into()).map_err(|_| LinkError::Stuck)?;
        let response = timeout(rpc, client.connect(ReceiverStream::new(queue)))
            .await
            .map_err(|_| LinkError::Late(rpc))?
            .map_err(broken)?;
        Ok(Stream { outbound, inbound: response.into_inner() })
    }

    async fn hold(&mut self, stream: Stream) -> LinkError {
        match self.relay(stream).await {
            Ok(never) => match never {},
            Err(reason) => reason,
        }
    }

    async fn relay(&mut self, mut stream: Stream) -> Result<std::convert::Infallible, LinkError> {
        while self.outgoing.try_recv().is_ok() {}
        tracing::info!(hub = self.settings.hub, "link to the hub is up");
        self.tell(LinkEvent::Up).await?;
        loop {
            tokio::select! {
                heard = stream.inbound.message() => {
                    self.hear(heard.map_err(broken)?.ok_or(LinkError::Ended)?).await?;
                }
                said = self.outgoing.recv() => {
                    let message = said.ok_or(LinkError::DriverEnded)?;
                    stream.outbound.try_send(message.into()).map_err(|_| LinkError::Stuck)?;
                }
            }
        }
    }

    /// One message that this version does not understand must not cost the lease of everything else.
    async fn hear(&self, message: HubMessage) -> Result<(), LinkError> {
        match FromHub::try_from(message) {
            Ok(message) => self.tell(LinkEvent::Message(message)).await,
            Err(error) => {
                tracing::warn!(error = &error as &dyn Error, "message of the hub refused");
                Ok(())
            }
        }
    }

    async fn tell(&self, event: LinkEvent) -> Result<(), LinkError> {
        self.events.send(event).await.map_err(|_| LinkError::DriverEnded)
    }
}

struct Stream {
    outbound: mpsc::Sender<AgentMessage>,
    inbound: Streaming<HubMessage>,
}

fn broken(status: Status) -> LinkError {
    LinkError::Status(Box::new(status))
}

/// An error with its causes, in one line.
fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// Pauses that double up to a limit; each is shortened at random, so that agents do not come back all at once.
struct Backoff {
    longest: Duration,
    pause: Duration,
}

impl Backoff {
    fn new(longest: Duration) -> Self {
        Backoff { longest, pause: FIRST_PAUSE.min(longest) }
    }

    fn is_fresh(&self) -> bool {
        self.pause == FIRST_PAUSE.min(self.longest)
    }

    fn reset(&mut self) {
        self.pause = FIRST_PAUSE.min(self.longest);
    }

    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(self.longest);
        let thousandths = u32::try_from(RandomState::new().hash_one(()) % 500).unwrap_or(0);
        pause - pause * thousandths / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_begin_anew_after_a_success() {
        let longest = Duration::from_secs(2);
        let mut backoff = Backoff::new(longest);
        let pauses: Vec<_> = (0..8).map(|_| backoff.next_pause()).collect();
        assert!(pauses.iter().all(|pause| *pause <= longest), "{pauses:?}");
        assert!(pauses[7] >= longest / 2, "{pauses:?}");
        backoff.reset();
        assert!(backoff.next_pause() <= FIRST_PAUSE);
    }
}
