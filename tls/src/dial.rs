//! The other direction: a connection to one identity, and the gRPC channel on top of it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::credentials::Credentials;
use crate::identity::Identity;

/// Sent as the server name; identities decide, so it names nothing.
const SERVER_NAME: &str = "understudy.internal";

#[derive(Clone, Copy, Debug)]
pub struct ChannelSettings {
    /// From the first packet until the other side is authenticated and speaks HTTP/2.
    pub connect: Duration,
    /// How often an idle or silent connection is asked for a sign of life, and how long that may take: a connection
    /// into a black hole is noticed after both.
    pub keep_alive_interval: Duration,
    pub keep_alive_timeout: Duration,
}

#[derive(Debug, Error)]
pub enum DialError {
    #[error("connecting to {address} took longer than {deadline:?}")]
    Deadline { address: String, deadline: Duration },
    #[error("{address} cannot be connected to; is the address right, and something listening there?")]
    Tcp {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("{address} did not prove to be {expected}, or does not accept us")]
    Tls {
        address: String,
        expected: Identity,
        #[source]
        source: io::Error,
    },
    #[error("{address} does not speak gRPC")]
    Http {
        address: String,
        #[source]
        source: tonic::transport::Error,
    },
}

/// A channel that has been connected once and does not connect again by itself: whoever owns it notices its end.
pub async fn channel(
    address: &str,
    credentials: &Credentials,
    expected: &Identity,
    settings: ChannelSettings,
) -> Result<Channel, DialError> {
    let late = || DialError::Deadline { address: address.to_owned(), deadline: settings.connect };
    tokio::time::timeout(settings.connect, connect_channel(address, credentials, expected, settings))
        .await
        .map_err(|_| late())?
}

async fn connect_channel(
    address: &str,
    credentials: &Credentials,
    expected: &Identity,
    settings: ChannelSettings,
) -> Result<Channel, DialError> {
    let stream = connect(address, credentials, expected).await?;
    over(stream, settings).await.map_err(|source| DialError::Http { address: address.to_owned(), source })
}

/// A TLS connection whose other end has proved to be `expected`.
pub async fn connect(
    address: &str,
    credentials: &Credentials,
    expected: &Identity,
) -> Result<TlsStream<TcpStream>, DialError> {
    let stream = tcp(address).await?;
    secure(stream, credentials, expected).await.map_err(|source| DialError::Tls {
        address: address.to_owned(),
        expected: expected.clone(),
        source,
    })
}

async fn tcp(address: &str) -> Result<TcpStream, DialError> {
    let failed = |source| DialError::Tcp { address: address.to_owned(), source };
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

/// The handshake alone, over any stream.
pub async fn secure<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    credentials: &Credentials,
    expected: &Identity,
) -> io::Result<TlsStream<S>> {
    let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
    TlsConnector::from(credentials.client(expected)).connect(name, stream).await
}

/// gRPC over a connection that exists; when it ends, the channel has ended.
pub async fn over<S>(
    stream: TlsStream<S>,
    settings: ChannelSettings,
) -> Result<Channel, tonic::transport::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let only = Arc::new(Mutex::new(Some(TokioIo::new(stream))));
    let connector = tower::service_fn(move |_: tonic::codegen::http::Uri| {
        let taken = only.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ended = || io::Error::new(io::ErrorKind::NotConnected, "the connection has ended");
        std::future::ready(taken.ok_or_else(ended))
    });
    Endpoint::from_static("http://understudy.internal")
        .http2_keep_alive_interval(settings.keep_alive_interval)
        .keep_alive_timeout(settings.keep_alive_timeout)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
}

/// Says a TLS ClientHello and reads what comes back, without proving or believing anything: whoever answers is alive.
/// It nearly always ends in an error, because nobody is trusted; the caller looks at whether bytes came.
pub async fn knock<S: AsyncRead + AsyncWrite + Unpin>(stream: S, host: &str) -> io::Result<()> {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map(drop)
}
