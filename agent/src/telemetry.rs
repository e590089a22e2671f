//! Who the agent is to those who watch it.

use understudy_telemetry::{Arguments, Service, Telemetry, TelemetryError, start};

/// Sets up logs, traces and metrics. `instance` tells replicas apart: the pod's name. `cluster` is the one that the
/// agent serves.
pub fn telemetry(
    arguments: &Arguments,
    instance: String,
    cluster: String,
) -> Result<Telemetry, TelemetryError> {
    let service = Service {
        name: "understudy-agent",
        version: env!("CARGO_PKG_VERSION"),
        instance,
        cluster: Some(cluster),
    };
    start(&service, arguments)
}
