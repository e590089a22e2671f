//! Who the agent is to those who watch it.

use understudy_telemetry::{Arguments, Relay, Service, Telemetry, TelemetryError, start_through};

/// Sets up logs, traces and metrics. `instance` tells replicas apart: the pod's name. `cluster` is the one that the
/// agent serves. `way` is the way to the hub, where there is no collector.
pub fn telemetry(
    arguments: &Arguments,
    instance: String,
    cluster: String,
    way: Option<Relay>,
) -> Result<Telemetry, TelemetryError> {
    let service = Service {
        name: "understudy-agent",
        version: env!("CARGO_PKG_VERSION"),
        instance,
        cluster: Some(cluster),
    };
    start_through(&service, arguments, way)
}
