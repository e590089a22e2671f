//! Who the hub is to those who watch it.

use understudy_telemetry::{Arguments, Service, Telemetry, TelemetryError, start};

/// Sets up logs, traces and metrics. `instance` tells replicas apart: the pod's name. `cluster` is the Kubernetes
/// cluster that the hub runs in.
pub fn telemetry(
    arguments: &Arguments,
    instance: String,
    cluster: Option<String>,
) -> Result<Telemetry, TelemetryError> {
    let service = Service { name: "understudy-hub", version: env!("CARGO_PKG_VERSION"), instance, cluster };
    start(&service, arguments)
}
