//! The accept loop: TCP in, authenticated connections out. Nothing that a stranger does stops it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::credentials::Credentials;
use crate::identity::{Identity, IdentityError, TrustDomain};

/// Between two attempts to accept when the system refuses, for instance for want of file descriptors.
const PAUSE_AFTER_ACCEPT_ERROR: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug)]
pub struct HandshakeLimits {
    /// From the TCP connection until the peer is authenticated.
    pub deadline: Duration,
    /// Handshakes under way at once; one more ends the oldest. An honest handshake takes milliseconds, so a flood of
    /// connections that never speak pushes out its own kind.
    pub in_flight: usize,
}

impl Default for HandshakeLimits {
    fn default() -> Self {
        HandshakeLimits { deadline: Duration::from_secs(5), in_flight: 512 }
    }
}

/// Who is at the other end: what tonic hands to every request of the connection.
#[derive(Clone, Debug)]
pub struct Caller {
    pub identity: Identity,
    pub address: SocketAddr,
}

#[derive(Debug, Error)]
pub enum HandshakeRefused {
    #[error("no authenticated connection within {0:?}")]
    Deadline(Duration),
    #[error("too many handshakes under way; this one was the oldest")]
    Crowded,
    #[error("the handshake failed")]
    Tls(#[source] io::Error),
    #[error("the certificate names nobody of this federation")]
    Identity(#[source] IdentityError),
}

/// An authenticated connection.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    caller: Caller,
}

/// Accepts until the receiver of `connections` is gone. `refused` is told of everyone who does not get in.
pub async fn accept_connections(
    listener: TcpListener,
    credentials: Arc<Credentials>,
    limits: HandshakeLimits,
    connections: mpsc::Sender<io::Result<Connection>>,
    refused: impl Fn(SocketAddr, HandshakeRefused),
) {
    let mut handshakes = JoinSet::new();
    let mut oldest_first: VecDeque<(SocketAddr, AbortHandle)> = VecDeque::new();
    loop {
        tokio::select! {
            () = connections.closed() => return,
            Some(finished) = handshakes.join_next() => {
                // A handshake that was ended for want of room has been reported where it was ended.
                if let Ok((address, Err(reason))) = finished {
                    refused(address, reason);
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    oldest_first.retain(|(_, handshake)| !handshake.is_finished());
                    if oldest_first.len() >= limits.in_flight
                        && let Some((address, oldest)) = oldest_first.pop_front()
                    {
                        oldest.abort();
                        refused(address, HandshakeRefused::Crowded);
                    }
                    let (credentials, connections) = (credentials.clone(), connections.clone());
                    let handshake = handshakes.spawn(async move {
                        (address, admit(stream, address, &credentials, limits.deadline, &connections).await)
                    });
                    oldest_first.push_back((address, handshake));
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "accepting a connection failed");
                    tokio::time::sleep(PAUSE_AFTER_ACCEPT_ERROR).await;
                }
            }
        }
    }
}

async fn admit(
    stream: TcpStream,
    address: SocketAddr,
    credentials: &Credentials,
    deadline: Duration,
    connections: &mpsc::Sender<io::Result<Connection>>,
) -> Result<(), HandshakeRefused> {
    let connection = tokio::time::timeout(deadline, authenticate(stream, address, credentials))
        .await
        .map_err(|_| HandshakeRefused::Deadline(deadline))??;
    // If nobody receives any more, the whole loop is about to end.
    let _ = connections.send(Ok(connection)).await;
    Ok(())
}

async fn authenticate(
    stream: TcpStream,
    address: SocketAddr,
    credentials: &Credentials,
) -> Result<Connection, HandshakeRefused> {
    stream.set_nodelay(true).map_err(HandshakeRefused::Tls)?;
    let stream =
        TlsAcceptor::from(credentials.server()).accept(stream).await.map_err(HandshakeRefused::Tls)?;
    let identity = bearer(&stream, credentials.trust_domain()).map_err(HandshakeRefused::Identity)?;
    Ok(Connection { stream, caller: Caller { identity, address } })
}

fn bearer(stream: &TlsStream<TcpStream>, trust_domain: &TrustDomain) -> Result<Identity, IdentityError> {
    let (_, session) = stream.get_ref();
    let certificate =
        session.peer_certificates().and_then(|chain| chain.first()).ok_or(IdentityError::Names(0))?;
    Identity::of_certificate(certificate, trust_domain)
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
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
