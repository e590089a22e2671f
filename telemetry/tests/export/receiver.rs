//! A collector on the official protobuf, over gRPC or HTTP, which takes what it gets, refuses it, or never answers.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::logs::v1::ResourceLogs;
use opentelemetry_proto::tonic::metrics::v1::ResourceMetrics;
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use understudy_telemetry::{Arguments, FinishedSpan, OtlpProtocol, Service, SpanAddress};

use crate::patience::PATIENCE;

#[derive(Debug, Default)]
pub struct Received {
    pub spans: Vec<ResourceSpans>,
    pub metrics: Vec<ResourceMetrics>,
    pub logs: Vec<ResourceLogs>,
}

impl Received {
    /// Everything that has come, taken or not, once it is enough: what was too slow for a shutdown comes after it.
    pub async fn until(
        receiver: &mut mpsc::UnboundedReceiver<Received>,
        enough: impl Fn(&Received) -> bool,
    ) -> Received {
        let mut all = Received::default();
        while !enough(&all) {
            match timeout(PATIENCE, receiver.recv()).await {
                Ok(Some(more)) => all.add(more),
                Ok(None) | Err(_) => panic!("no more came than {all:?}"),
            }
        }
        while let Ok(more) = receiver.try_recv() {
            all.add(more);
        }
        all
    }

    fn add(&mut self, Received { spans, metrics, logs }: Received) {
        self.spans.extend(spans);
        self.metrics.extend(metrics);
        self.logs.extend(logs);
    }
}

/// What it does with what it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    Takes,
    Refuses,
}

#[derive(Clone)]
struct Collector(mpsc::UnboundedSender<Received>, Habit);

impl Collector {
    /// Whoever has let go of the other end no longer asks.
    fn take(&self, received: Received) -> Result<(), Status> {
        let _ = self.0.send(received);
        match self.1 {
            Habit::Takes => Ok(()),
            Habit::Refuses => Err(Status::invalid_argument("not like this")),
        }
    }
}

pub fn arguments(collector: SocketAddr, otlp_protocol: OtlpProtocol) -> Arguments {
    Arguments {
        log: "off".into(),
        otlp_endpoint: Some(format!("http://{collector}")),
        otlp_protocol,
        ..Arguments::default()
    }
}

pub fn service() -> Service {
    Service {
        name: "understudy-test",
        version: "1.2.3",
        instance: "pod-0".into(),
        cluster: Some("east".into()),
    }
}

pub async fn collector(
    protocol: OtlpProtocol,
    habit: Habit,
) -> (SocketAddr, mpsc::UnboundedReceiver<Received>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let collector = Collector(sender, habit);
    match protocol {
        OtlpProtocol::Grpc => {
            let server = tonic::transport::Server::builder()
                .add_service(TraceServiceServer::new(collector.clone()))
                .add_service(MetricsServiceServer::new(collector.clone()))
                .add_service(LogsServiceServer::new(collector));
            tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        }
        OtlpProtocol::HttpProtobuf => {
            tokio::spawn(async move { axum::serve(listener, routes(collector)).await });
        }
    }
    (address, receiver)
}

fn routes(collector: Collector) -> Router {
    let route = |parse: fn(Bytes) -> Result<Received, prost::DecodeError>| {
        let collector = collector.clone();
        post(move |body: Bytes| async move {
            let received = parse(body).map_err(|_| StatusCode::BAD_REQUEST)?;
            collector.take(received).map_err(|_| StatusCode::BAD_REQUEST)
        })
    };
    Router::new()
        .route("/v1/traces", route(|body| Ok(traces(ExportTraceServiceRequest::decode(body)?))))
        .route("/v1/metrics", route(|body| Ok(metrics(ExportMetricsServiceRequest::decode(body)?))))
        .route("/v1/logs", route(|body| Ok(logs(ExportLogsServiceRequest::decode(body)?))))
}

fn traces(request: ExportTraceServiceRequest) -> Received {
    Received { spans: request.resource_spans, ..Received::default() }
}

fn metrics(request: ExportMetricsServiceRequest) -> Received {
    Received { metrics: request.resource_metrics, ..Received::default() }
}

fn logs(request: ExportLogsServiceRequest) -> Received {
    Received { logs: request.resource_logs, ..Received::default() }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.take(traces(request.into_inner()))?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.take(metrics(request.into_inner()))?;
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Collector {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.take(logs(request.into_inner()))?;
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

/// Something to export.
pub fn span() -> FinishedSpan {
    FinishedSpan {
        address: SpanAddress::root(&["uid-1"]),
        parent: None,
        name: "command",
        start: std::time::UNIX_EPOCH,
        end: std::time::UNIX_EPOCH,
        attributes: Vec::new(),
        notes: Vec::new(),
        failure: None,
    }
}
