//! What agents without a collector of their own tell of themselves: the hub passes it on to its own, and never waits with
//! anything else for it.

use std::sync::Arc;

use proto::wire::v1::telemetry_server::Telemetry;
use proto::wire::v1::{Signal as WireSignal, TelemetryBatch, TelemetryTaken};
use tonic::{Request, Response, Status};
use understudy_telemetry::{NotPassedOn, PassOn, Signal};

use super::Shared;

pub(super) struct TelemetryDoor {
    pub(super) shared: Arc<Shared>,
    /// None: the hub has no collector.
    pub(super) pass_on: Option<PassOn>,
}

#[tonic::async_trait]
impl Telemetry for TelemetryDoor {
    async fn export(&self, request: Request<TelemetryBatch>) -> Result<Response<TelemetryTaken>, Status> {
        let (_, cluster) = self.shared.caller(request.extensions())?;
        let pass_on = self.pass_on.as_ref().ok_or_else(|| {
            Status::failed_precondition("the hub has no collector either: give it one with --otlp-endpoint")
        })?;
        let TelemetryBatch { signal, otlp } = request.into_inner();
        let signal = signal_of(signal)?;
        pass_on.pass_on(signal, &otlp, cluster.as_str()).await.map_err(|error| refused(&error))?;
        Ok(Response::new(TelemetryTaken {}))
    }
}

fn signal_of(wire: i32) -> Result<Signal, Status> {
    match WireSignal::try_from(wire) {
        Ok(WireSignal::Traces) => Ok(Signal::Traces),
        Ok(WireSignal::Metrics) => Ok(Signal::Metrics),
        Ok(WireSignal::Logs) => Ok(Signal::Logs),
        Ok(WireSignal::Unspecified) | Err(_) => {
            Err(Status::invalid_argument(format!("signal {wire} is none of ours")))
        }
    }
}

fn refused(error: &NotPassedOn) -> Status {
    match error {
        NotPassedOn::Busy => Status::resource_exhausted(error.to_string()),
        NotPassedOn::Unreadable(_) => Status::invalid_argument(error.to_string()),
        NotPassedOn::NotTaken => Status::unavailable(error.to_string()),
    }
}
