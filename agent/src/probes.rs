//! Looking for signs of life of another cluster, on every path that there is.
//!
//! One rule for all paths: a byte that comes back is a sign of life, whatever it says. A failed handshake, an expired
//! certificate or a refused call therefore count as reachable. A TCP connection alone does not: it is accepted by a
//! kernel, or by something in between that goes on after the site is gone.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::join_all;
use proto::wire::v1::ProbeRequest;
use proto::wire::v1::peer_client::PeerClient;
use proto::{ClusterName, PathKind, Peer};
use tls::{ChannelSettings, Credentials, Identity, dial};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What one probe of one path found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    pub cluster: ClusterName,
    pub path: PathKind,
    pub found: Found,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// As it should be.
    Answered,
    /// Something lives there, although not all is well.
    SignOfLife {
        why: String,
    },
    Silent {
        why: String,
    },
}

impl Found {
    pub fn reachable(&self) -> bool {
        match self {
            Found::Answered | Found::SignOfLife { why: _ } => true,
            Found::Silent { why: _ } => false,
        }
    }
}

/// Probes every path to `peer` at once; a path that its DRCluster does not name is left out. Takes no longer than
/// `deadline`.
pub async fn probe(peer: &Peer, credentials: &Credentials, deadline: Duration) -> Vec<Probe> {
    let result = |path, found| Probe { cluster: peer.cluster.clone(), path, found };
    let (agent, server) = tokio::join!(peer_agent(peer, credentials, deadline), api_server(peer, deadline));
    let agent = agent.map(|found| result(PathKind::PeerAgent, found));
    let server = server.map(|found| result(PathKind::ApiServer, found));
    agent.into_iter().chain(server).collect()
}

async fn peer_agent(peer: &Peer, credentials: &Credentials, deadline: Duration) -> Option<Found> {
    let endpoint = peer.peer_endpoint.as_deref()?;
    let call = |heard| call_agent(endpoint, &peer.identity, credentials, deadline, heard);
    Some(within(deadline, call).await)
}

/// One endpoint that answers is enough.
async fn api_server(peer: &Peer, deadline: Duration) -> Option<Found> {
    let knocks = peer.probe_endpoints.iter().map(|endpoint| within(deadline, |heard| knock(endpoint, heard)));
    let found = join_all(knocks).await;
    found.iter().find(|one| one.reachable()).or(found.first()).cloned()
}

async fn within<F>(deadline: Duration, attempt: impl FnOnce(Heard) -> F) -> Found
where
    F: Future<Output = Result<(), Box<dyn Error + Send + Sync>>>,
{
    let heard = Heard::default();
    let why = match timeout(deadline, attempt(heard.clone())).await {
        Ok(Ok(())) => return Found::Answered,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no complete answer within {deadline:?}"),
    };
    if heard.anything() { Found::SignOfLife { why } } else { Found::Silent { why } }
}

async fn call_agent(
    endpoint: &str,
    uid: &str,
    credentials: &Credentials,
    deadline: Duration,
    heard: Heard,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let identity = Identity::cluster(uid)?;
    let settings =
        ChannelSettings { connect: deadline, keep_alive_interval: deadline, keep_alive_timeout: deadline };
    let stream = Listening { stream: TcpStream::connect(endpoint).await?, heard };
    let stream = dial::secure(stream, credentials, &identity).await?;
    let channel = dial::over(stream, settings).await?;
    PeerClient::new(channel).probe(ProbeRequest {}).await?;
    Ok(())
}

/// An API server knows none of our certificates: that it answers at all is what is asked.
async fn knock(endpoint: &str, heard: Heard) -> Result<(), Box<dyn Error + Send + Sync>> {
    let stream = Listening { stream: TcpStream::connect(endpoint).await?, heard: heard.clone() };
    match dial::knock(stream, host(endpoint)).await {
        Err(error) if !heard.anything() => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// `host` of `host:port`, without the brackets of an IPv6 address.
fn host(endpoint: &str) -> &str {
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host)
}

/// Whether a byte has come back.
#[derive(Clone, Default)]
struct Heard(Arc<AtomicBool>);

impl Heard {
    fn anything(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A TCP connection that notes whether its other end says anything.
struct Listening {
    stream: TcpStream,
    heard: Heard,
}

impl AsyncRead for Listening {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.heard.0.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl AsyncWrite for Listening {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
