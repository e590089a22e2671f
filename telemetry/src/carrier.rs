//! How encoded telemetry reaches its collector: OTLP over gRPC or over HTTP.
//!
//! Exporters encode for HTTP; what they ask of an HTTP client is asked of a `Carrier`, which speaks either protocol. It works
//! on the process' own runtime, whichever thread asks.

mod grpc;
mod http;
mod parts;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tonic::codegen::http::StatusCode;

use crate::arguments::{Arguments, OtlpProtocol};
use crate::lost::Signal;
use crate::relay::Relay;

/// How long one export may take.
pub const EXPORT_LIMIT: Duration = Duration::from_secs(3);

#[derive(Debug, Error)]
pub enum CarrierError {
    #[error(
        "an https endpoint needs the authorities that its certificate comes from: name their file with --otlp-certificate (OTEL_EXPORTER_OTLP_CERTIFICATE), such as the system's own bundle"
    )]
    NoAuthorities,
    #[error("cannot read the authorities in --otlp-certificate {file}")]
    Authorities { file: String, source: Box<dyn Error + Send + Sync> },
    #[error("use a URL such as http://collector:4317")]
    Endpoint(#[source] Box<dyn Error + Send + Sync>),
}

/// Clones share the connection, where there is one.
#[derive(Clone, Debug)]
pub struct Carrier {
    runtime: Handle,
    endpoint: String,
    route: Route,
}

#[derive(Clone, Debug)]
enum Route {
    Grpc(grpc::Grpc),
    Http(http::Http),
    Hub(Relay),
}

impl Carrier {
    /// To be called within the Tokio runtime.
    pub fn to(endpoint: &str, arguments: &Arguments) -> Result<Carrier, CarrierError> {
        let authorities = authorities(endpoint, arguments.otlp_certificate.as_deref())?;
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let route = match arguments.otlp_protocol {
            OtlpProtocol::Grpc => Route::Grpc(grpc::Grpc::to(&endpoint, authorities)?),
            OtlpProtocol::HttpProtobuf => {
                let encryption = authorities.as_deref().map(http::encryption).transpose();
                let encryption =
                    encryption.map_err(|source| unreadable(arguments.otlp_certificate.as_deref(), source))?;
                Route::Http(http::Http::to(&endpoint, encryption)?)
            }
        };
        Ok(Carrier { runtime: Handle::current(), endpoint, route })
    }

    /// By way of the hub, whose collector takes it. To be called within the Tokio runtime.
    pub fn through_hub(relay: Relay) -> Carrier {
        let endpoint = "http://hub".to_owned();
        Carrier { runtime: Handle::current(), endpoint, route: Route::Hub(relay) }
    }

    /// Where a signal goes, as exporters call it.
    pub fn address(&self, signal: Signal) -> String {
        format!("{}{}", self.endpoint, signal.path())
    }

    /// One part after the other. One that is turned away for what it is does not keep back the others; a collector that has no
    /// time now is not asked for more of it.
    async fn carry_all(self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        if !request.uri().path().ends_with(Signal::Metrics.path()) {
            return self.carry(request).await;
        }
        let (head, body) = request.into_parts();
        // Of a large fleet it takes longer than others on this thread should wait.
        let parts = spawn_blocking(move || parts::parts(body)).await??;
        let mut all_taken = Response::new(Bytes::new());
        for part in parts {
            let answer = self.carry(Request::from_parts(head.clone(), part)).await?;
            if matches!(answer.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
                return Ok(answer);
            }
            if all_taken.status().is_success() {
                all_taken = answer;
            }
        }
        Ok(all_taken)
    }

    async fn carry(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let carried = async {
            match &self.route {
                Route::Grpc(grpc) => grpc.carry(request).await,
                Route::Http(http) => http.carry(request).await,
                Route::Hub(relay) => relay.carry(request).await,
            }
        };
        let by = match &self.route {
            Route::Grpc(grpc) => Some((grpc, grpc.generation())),
            Route::Http(_) | Route::Hub(_) => None,
        };
        let in_time = timeout(EXPORT_LIMIT, carried).await;
        if let (Err(_), Some((grpc, generation))) = (&in_time, by) {
            grpc.connect_anew(generation);
        }
        in_time?
    }
}

#[tonic::async_trait]
impl HttpClient for Carrier {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        self.runtime.spawn(self.clone().carry_all(request)).await?
    }
}

/// The PEM of the authorities; none where nothing is encrypted.
fn authorities(endpoint: &str, file: Option<&Path>) -> Result<Option<Arc<[u8]>>, CarrierError> {
    if !endpoint.starts_with("https://") {
        return Ok(None);
    }
    let file = file.ok_or(CarrierError::NoAuthorities)?;
    let pem = fs::read(file).map_err(|source| unreadable(Some(file), source.into()))?;
    Ok(Some(pem.into()))
}

fn unreadable(file: Option<&Path>, source: Box<dyn Error + Send + Sync>) -> CarrierError {
    CarrierError::Authorities { file: file.unwrap_or(Path::new("")).display().to_string(), source }
}
