//! A collection of metrics in as many messages as it needs: a collector takes four mebibytes at once over gRPC, unless it is told
//! to take more, and so does the hub of an agent. A large fleet has more to tell.

use opentelemetry_http::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Gauge, Metric, ResourceMetrics, ScopeMetrics};
use prost::{DecodeError, Message};

/// The most that is sent at once, beside who says it, with room to the four mebibytes.
const LARGEST: usize = 3 * 1024 * 1024;
/// Points of a gauge that stay together: with their labels, far less than the largest message.
const POINTS: usize = 1000;

/// The same request, in parts that are small enough.
pub fn parts(body: Bytes) -> Result<Vec<Bytes>, DecodeError> {
    if body.len() <= LARGEST {
        return Ok(vec![body]);
    }
    let request = ExportMetricsServiceRequest::decode(body)?;
    let mut parts = Vec::new();
    for ResourceMetrics { resource, scope_metrics, schema_url } in request.resource_metrics {
        for ScopeMetrics { scope, metrics, schema_url: of_scope } in scope_metrics {
            for metrics in grouped(metrics.into_iter().flat_map(pieces)) {
                let scope_metrics =
                    vec![ScopeMetrics { scope: scope.clone(), metrics, schema_url: of_scope.clone() }];
                let resource = resource.clone();
                let all = ResourceMetrics { resource, scope_metrics, schema_url: schema_url.clone() };
                let part = ExportMetricsServiceRequest { resource_metrics: vec![all] };
                parts.push(part.encode_to_vec().into());
            }
        }
    }
    Ok(parts)
}

/// Only gauges have a point for each volume of the fleet.
fn pieces(metric: Metric) -> Vec<Metric> {
    match metric.data {
        Some(Data::Gauge(Gauge { data_points })) => {
            let piece = |points: &[_]| Metric {
                data: Some(Data::Gauge(Gauge { data_points: points.to_vec() })),
                name: metric.name.clone(),
                description: metric.description.clone(),
                unit: metric.unit.clone(),
                metadata: metric.metadata.clone(),
            };
            data_points.chunks(POINTS).map(piece).collect()
        }
        Some(Data::Sum(_) | Data::Histogram(_) | Data::ExponentialHistogram(_) | Data::Summary(_)) | None => {
            vec![metric]
        }
    }
}

/// As many together as are small enough.
fn grouped(metrics: impl Iterator<Item = Metric>) -> Vec<Vec<Metric>> {
    let (mut groups, mut room) = (Vec::new(), 0);
    for metric in metrics {
        let size = metric.encoded_len();
        match groups.last_mut() {
            Some(group) if size <= room => {
                let group: &mut Vec<Metric> = group;
                group.push(metric);
                room -= size;
            }
            Some(_) | None => {
                groups.push(vec![metric]);
                room = LARGEST.saturating_sub(size);
            }
        }
    }
    groups
}
