//! OTLP over HTTP: each export a connection of its own, which some seconds lie between.

use std::sync::Arc;

use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use opentelemetry_http::{Bytes, HttpError, Request, Response};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::codegen::http::uri::{PathAndQuery, Scheme};
use tonic::codegen::http::{HeaderValue, Uri, header};

use super::CarrierError;

/// An answer says at most what was wrong with a few items.
const LARGEST_ANSWER: usize = 64 * 1024;

#[derive(Clone)]
pub struct Http {
    encryption: Option<TlsConnector>,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http").field("encrypted", &self.encryption.is_some()).finish()
    }
}

impl Http {
    pub fn to(endpoint: &str, encryption: Option<TlsConnector>) -> Result<Http, CarrierError> {
        let uri: Uri = endpoint.parse().map_err(|source| CarrierError::Endpoint(Box::new(source)))?;
        if uri.scheme().is_none() || uri.host().is_none() {
            return Err(CarrierError::Endpoint("it has no scheme, or no host".into()));
        }
        Ok(Http { encryption })
    }

    pub async fn carry(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let host = request.uri().host().ok_or("the endpoint has no host")?.to_owned();
        let encrypted = request.uri().scheme() == Some(&Scheme::HTTPS);
        let port = request.uri().port_u16().unwrap_or(if encrypted { 443 } else { 80 });
        let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
        match &self.encryption {
            Some(encryption) if encrypted => {
                let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
                exchange(encryption.connect(name, stream).await?, request).await
            }
            Some(_) | None => exchange(stream, request).await,
        }
    }
}

async fn exchange<S>(stream: S, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let answer = sender.send_request(addressed(request)?).await?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, LARGEST_ANSWER).collect().await?.to_bytes();
        Ok(Response::from_parts(parts, body))
    };
    tokio::pin!(connection);
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // The answer may lie there already when the connection ends.
        _ = &mut connection => answer.await,
    }
}

/// As HTTP/1.1 has it on the wire: the host in a header, and the path alone.
fn addressed(request: Request<Bytes>) -> Result<Request<Full<Bytes>>, HttpError> {
    let (mut parts, body) = request.into_parts();
    if let Some(authority) = parts.uri.authority() {
        parts.headers.insert(header::HOST, HeaderValue::from_str(authority.as_str())?);
    }
    let path = parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    parts.uri = Uri::from(path);
    Ok(Request::from_parts(parts, Full::new(body)))
}

/// Believes whoever shows a certificate of these authorities, in PEM.
pub fn encryption(pem: &[u8]) -> Result<TlsConnector, HttpError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate?)?;
    }
    if roots.is_empty() {
        return Err("there is no certificate in it".into());
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let settings = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(TlsConnector::from(Arc::new(settings.with_root_certificates(roots).with_no_client_auth())))
}
