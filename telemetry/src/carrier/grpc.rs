//! OTLP over gRPC. The messages are encoded already, so the codec passes bytes on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BufMut};
use opentelemetry_http::{Bytes, HttpError, Request, Response};
use tonic::client::Grpc as Client;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::{StatusCode, header, uri::PathAndQuery};
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};

use super::{CarrierError, EXPORT_LIMIT};

/// Clones share the connection.
#[derive(Clone, Debug)]
pub struct Grpc(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    endpoint: Endpoint,
    /// With the number of those before it.
    channel: Mutex<(u64, Channel)>,
}

impl Grpc {
    pub fn to(endpoint: &str, authorities: Option<Arc<[u8]>>) -> Result<Grpc, CarrierError> {
        let wrong = |source: tonic::transport::Error| CarrierError::Endpoint(source.into());
        let mut endpoint =
            Endpoint::from_shared(endpoint.to_owned()).map_err(wrong)?.connect_timeout(EXPORT_LIMIT);
        if let Some(pem) = authorities {
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&pem));
            endpoint = endpoint.tls_config(tls).map_err(wrong)?;
        }
        let channel = Mutex::new((0, endpoint.connect_lazy()));
        Ok(Grpc(Arc::new(Connection { endpoint, channel })))
    }

    /// Who does not answer in time may be gone without a word, which an open connection does not notice for a quarter of an
    /// hour. What is under way on it ends by itself. Where somebody else has done so already, that connection stays.
    pub fn connect_anew(&self, instead_of: u64) {
        let (generation, channel) = &mut *self.channel();
        if *generation == instead_of {
            (*generation, *channel) = (instead_of + 1, self.0.endpoint.connect_lazy());
        }
    }

    pub fn generation(&self) -> u64 {
        self.channel().0
    }

    fn channel(&self) -> MutexGuard<'_, (u64, Channel)> {
        self.0.channel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub async fn carry(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let method = method(request.uri().path())?;
        let (mut parts, body) = request.into_parts();
        parts.headers.remove(header::CONTENT_TYPE);
        parts.headers.remove(header::USER_AGENT);
        let call =
            tonic::Request::from_parts(MetadataMap::from_headers(parts.headers), Default::default(), body);
        let mut client = Client::new(self.channel().1.clone());
        client.ready().await?;
        match client.unary(call, method, AsBytes).await {
            Ok(answer) => Ok(Response::new(answer.into_inner())),
            Err(status) => refused(&status),
        }
    }
}

fn method(path: &str) -> Result<PathAndQuery, HttpError> {
    let methods = [
        ("/v1/traces", "/opentelemetry.proto.collector.trace.v1.TraceService/Export"),
        ("/v1/metrics", "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"),
        ("/v1/logs", "/opentelemetry.proto.collector.logs.v1.LogsService/Export"),
    ];
    let known = methods.into_iter().find(|(end, _)| path.ends_with(end));
    known.map(|(_, method)| PathAndQuery::from_static(method)).ok_or_else(|| "no signal of OTLP".into())
}

/// By OTLP's specification, what may be tried again.
const PASSING: [Code; 7] = [
    Code::Unavailable,
    Code::Cancelled,
    Code::DeadlineExceeded,
    Code::Aborted,
    Code::OutOfRange,
    Code::DataLoss,
    Code::ResourceExhausted,
];

/// As the answer that a collector gives over HTTP: whether it may be tried again is read from it.
fn refused(status: &Status) -> Result<Response<Bytes>, HttpError> {
    let code = if PASSING.contains(&status.code()) {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::BAD_REQUEST
    };
    let message = Bytes::copy_from_slice(status.message().as_bytes());
    Ok(Response::builder().status(code).body(message)?)
}

#[derive(Clone, Copy, Debug, Default)]
struct AsBytes;

impl Codec for AsBytes {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = AsBytes;
    type Decoder = AsBytes;

    fn encoder(&mut self) -> AsBytes {
        AsBytes
    }

    fn decoder(&mut self) -> AsBytes {
        AsBytes
    }
}

impl Encoder for AsBytes {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for AsBytes {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
