//! Telemetry of agents that have no collector: it goes to the hub, which passes it on to its own, as what the cluster's agent
//! said, whatever it says of itself.

use std::sync::Arc;

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tonic::codegen::http::StatusCode;

use crate::carrier::Carrier;
use crate::lost::Signal;

/// Batches on their way to the hub: one of each signal, and one that just went.
const ON_THEIR_WAY: usize = 4;
/// What the hub passes on at the same time, of all agents: with the largest message it bounds the memory.
const PASSED_ON_AT_ONCE: usize = 4;

/// One batch for the hub, which whoever carries it there answers.
#[derive(Debug)]
pub struct Batch {
    pub signal: Signal,
    pub body: Bytes,
    taken: oneshot::Sender<bool>,
}

impl Batch {
    /// Whoever asked may have given up.
    pub fn answer(self, taken: bool) {
        let _ = self.taken.send(taken);
    }
}

/// The exporters' end.
#[derive(Clone, Debug)]
pub struct Relay(mpsc::Sender<Batch>);

impl Relay {
    /// With the end for whoever carries the batches to the hub.
    pub fn new() -> (Relay, mpsc::Receiver<Batch>) {
        let (sender, batches) = mpsc::channel(ON_THEIR_WAY);
        (Relay(sender), batches)
    }

    pub(crate) async fn carry(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let path = request.uri().path();
        let signal = Signal::ALL.into_iter().find(|signal| signal.path() == path);
        let signal = signal.ok_or("no signal of OTLP")?;
        let (answer, taken) = oneshot::channel();
        // A full queue is as good as a hub that does not answer.
        self.0.try_send(Batch { signal, body: request.into_body(), taken: answer })?;
        let status = if taken.await? { StatusCode::OK } else { StatusCode::BAD_REQUEST };
        Ok(Response::builder().status(status).body(Bytes::new())?)
    }
}

/// The hub's end.
#[derive(Clone, Debug)]
pub struct PassOn {
    carrier: Carrier,
    permits: Arc<Semaphore>,
}

#[derive(Debug, Error)]
pub enum NotPassedOn {
    #[error("the hub passes on as much as it can")]
    Busy,
    #[error("this is no OTLP")]
    Unreadable(#[from] prost::DecodeError),
    #[error("the hub's collector does not take it")]
    NotTaken,
}

impl PassOn {
    pub(crate) fn new(carrier: Carrier) -> PassOn {
        PassOn { carrier, permits: Arc::new(Semaphore::new(PASSED_ON_AT_ONCE)) }
    }

    /// As what the agent of this cluster has said. Never waits for others.
    pub async fn pass_on(&self, signal: Signal, body: &[u8], cluster: &str) -> Result<(), NotPassedOn> {
        let _permit = self.permits.try_acquire().map_err(|_| NotPassedOn::Busy)?;
        let body = attributed(signal, body, cluster)?;
        let request = Request::post(self.carrier.address(signal))
            .header("content-type", "application/x-protobuf")
            .body(Bytes::from(body));
        let request = request.map_err(|_| NotPassedOn::NotTaken)?;
        let answer = self.carrier.send_bytes(request).await.map_err(|_| NotPassedOn::NotTaken)?;
        if answer.status().is_success() { Ok(()) } else { Err(NotPassedOn::NotTaken) }
    }
}

fn attributed(signal: Signal, body: &[u8], cluster: &str) -> Result<Vec<u8>, prost::DecodeError> {
    match signal {
        Signal::Traces => {
            let mut request = ExportTraceServiceRequest::decode(body)?;
            request.resource_spans.iter_mut().for_each(|one| name(&mut one.resource, cluster));
            Ok(request.encode_to_vec())
        }
        Signal::Metrics => {
            let mut request = ExportMetricsServiceRequest::decode(body)?;
            request.resource_metrics.iter_mut().for_each(|one| name(&mut one.resource, cluster));
            Ok(request.encode_to_vec())
        }
        Signal::Logs => {
            let mut request = ExportLogsServiceRequest::decode(body)?;
            request.resource_logs.iter_mut().for_each(|one| name(&mut one.resource, cluster));
            Ok(request.encode_to_vec())
        }
    }
}

/// No agent speaks for another cluster, or for the hub.
fn name(resource: &mut Option<Resource>, cluster: &str) {
    let attributes = &mut resource.get_or_insert_default().attributes;
    for (key, value) in [("service.name", "understudy-agent"), ("k8s.cluster.name", cluster)] {
        attributes.retain(|attribute| attribute.key != key);
        let value = AnyValue { value: Some(Value::StringValue(value.to_owned())) };
        attributes.push(KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() });
    }
}
