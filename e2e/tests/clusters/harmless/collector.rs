//! A collector with bad habits, over gRPC or HTTP, always at the same address. It keeps count of what it has taken.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use e2e::relay::Relay;
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
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{NumberDataPoint, ResourceMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// Longer than anybody waits for an answer, and than a shutdown may take.
const SLOW_ANSWER: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    Takes,
    /// Nobody listens there.
    Dead,
    /// Accepts connections, and reads nothing of what is sent.
    Deaf,
    /// Reads everything, and takes far too long to answer.
    Slow,
    /// Answers at once that it takes nothing: Unavailable, and 503.
    Refuses,
}

impl Habit {
    pub const BAD: [Habit; 4] = [Habit::Dead, Habit::Deaf, Habit::Slow, Habit::Refuses];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Grpc,
    Http,
}

/// What was taken of one service of one cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    pub spans: usize,
    pub records: usize,
    /// How many of its items it says are lost.
    pub told_lost: i64,
}

pub struct Collector {
    pub address: SocketAddr,
    protocol: Protocol,
    desk: Desk,
    behind: SocketAddr,
    /// The way to it; none while it is dead.
    front: Option<Relay>,
}

impl Collector {
    pub async fn start(protocol: Protocol) -> Result<Collector> {
        let desk = Desk { habit: watch::Sender::new(Habit::Takes), taken: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listening")?;
        let behind = listener.local_addr().context("asking for the port")?;
        match protocol {
            Protocol::Grpc => tokio::spawn(serve_grpc(listener, desk.clone())),
            Protocol::Http => tokio::spawn(serve_http(listener, desk.clone())),
        };
        let address = own_address();
        let front = Some(Relay::start(Some(address), behind).await?);
        Ok(Collector { address, protocol, desk, behind, front })
    }

    /// How a process is told to export there, and to tell its metrics every second.
    pub fn environment(&self) -> [(&'static str, String); 3] {
        let protocol = match self.protocol {
            Protocol::Grpc => "grpc",
            Protocol::Http => "http/protobuf",
        };
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", self.address)),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.to_owned()),
            ("OTEL_METRIC_EXPORT_INTERVAL", "1000".to_owned()),
        ]
    }

    /// From now on, for connections that are open too.
    pub async fn behave(&mut self, habit: Habit) -> Result<()> {
        self.desk.habit.send_replace(habit);
        if habit == Habit::Dead {
            self.front = None;
            return Ok(());
        }
        if self.front.is_none() {
            self.front = Some(Relay::start(Some(self.address), self.behind).await?);
        }
        if let Some(front) = &self.front {
            if habit == Habit::Deaf { front.cut() } else { front.heal() }
        }
        Ok(())
    }

    /// What it has taken of a service, by its name and its cluster's.
    pub fn taken(&self, service: &str, cluster: &str) -> Taken {
        let taken = self.desk.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.get(&(service.to_owned(), cluster.to_owned())).copied().unwrap_or_default()
    }
}

/// Where nobody else listens or connects from while it is dead: a loopback address of this process.
pub fn own_address() -> SocketAddr {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let port = 4317 + COUNT.fetch_add(1, Ordering::Relaxed);
    SocketAddr::from((Ipv4Addr::new(127, 32 + high % 32, low, 5), port))
}

async fn serve_grpc(listener: TcpListener, desk: Desk) {
    let served = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(desk.clone()))
        .add_service(MetricsServiceServer::new(desk.clone()))
        .add_service(LogsServiceServer::new(desk))
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await;
    served.expect("the collector serves");
}

async fn serve_http(listener: TcpListener, desk: Desk) {
    let route = |take: fn(&Desk, Bytes) -> Result<(), prost::DecodeError>| {
        let desk = desk.clone();
        post(move |body: Bytes| async move {
            desk.answer().await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
            take(&desk, body).map_err(|_| StatusCode::BAD_REQUEST)
        })
    };
    let routes = Router::new()
        .route("/v1/traces", route(|desk, body| Message::decode(body).map(|request| desk.traces(&request))))
        .route("/v1/metrics", route(|desk, body| Message::decode(body).map(|request| desk.metrics(&request))))
        .route("/v1/logs", route(|desk, body| Message::decode(body).map(|request| desk.logs(&request))));
    axum::serve(listener, routes).await.expect("the collector serves");
}

/// Where requests arrive. Clones share what was taken.
#[derive(Clone)]
struct Desk {
    habit: watch::Sender<Habit>,
    taken: Arc<Mutex<BTreeMap<(String, String), Taken>>>,
}

impl Desk {
    async fn answer(&self) -> Result<(), Status> {
        let habit = *self.habit.borrow();
        match habit {
            Habit::Takes | Habit::Dead | Habit::Deaf => Ok(()),
            Habit::Slow => {
                tokio::time::sleep(SLOW_ANSWER).await;
                Ok(())
            }
            Habit::Refuses => Err(Status::unavailable("not now")),
        }
    }

    fn note(&self, resource: Option<&Resource>, note: impl FnOnce(&mut Taken)) {
        let whose = (attribute(resource, "service.name"), attribute(resource, "k8s.cluster.name"));
        note(self.taken.lock().unwrap_or_else(PoisonError::into_inner).entry(whose).or_default());
    }

    fn traces(&self, request: &ExportTraceServiceRequest) {
        for one in &request.resource_spans {
            let count: usize = one.scope_spans.iter().map(|scope| scope.spans.len()).sum();
            self.note(one.resource.as_ref(), |taken| taken.spans += count);
        }
    }

    fn logs(&self, request: &ExportLogsServiceRequest) {
        for one in &request.resource_logs {
            let count: usize = one.scope_logs.iter().map(|scope| scope.log_records.len()).sum();
            self.note(one.resource.as_ref(), |taken| taken.records += count);
        }
    }

    fn metrics(&self, request: &ExportMetricsServiceRequest) {
        for one in &request.resource_metrics {
            let lost: i64 = lost_points(one).iter().filter_map(number).sum();
            self.note(one.resource.as_ref(), |taken| taken.told_lost = taken.told_lost.max(lost));
        }
    }
}

fn lost_points(metrics: &ResourceMetrics) -> Vec<NumberDataPoint> {
    let all = metrics.scope_metrics.iter().flat_map(|scope| &scope.metrics);
    let lost = all.filter(|metric| metric.name == "understudy.telemetry.lost");
    lost.filter_map(|metric| match &metric.data {
        Some(Data::Sum(sum)) => Some(sum.data_points.clone()),
        Some(Data::Gauge(_) | Data::Histogram(_) | Data::ExponentialHistogram(_) | Data::Summary(_))
        | None => None,
    })
    .flatten()
    .collect()
}

fn number(point: &NumberDataPoint) -> Option<i64> {
    match point.value {
        Some(Number::AsInt(number)) => Some(number),
        Some(Number::AsDouble(_)) | None => None,
    }
}

fn attribute(resource: Option<&Resource>, key: &str) -> String {
    let found = resource.into_iter().flat_map(|one| &one.attributes).find(|one| one.key == key);
    match found.and_then(|one| one.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        _ => String::new(),
    }
}

#[tonic::async_trait]
impl TraceService for Desk {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.answer().await?;
        self.traces(&request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Desk {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.answer().await?;
        self.metrics(&request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Desk {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.answer().await?;
        self.logs(&request.into_inner());
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}
