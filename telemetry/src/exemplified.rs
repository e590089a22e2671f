//! Puts exemplars into the metrics that are on their way to the collector, where they are OTLP already: the SDK has no place
//! for them before.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::exemplar::Value as Measured;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Exemplar as Sent, Metric};
use prost::Message;

use crate::carrier::Carrier;
use crate::exemplars::{Buckets, Exemplar, Exemplars, Series};

/// A carrier of metrics.
#[derive(Clone, Debug)]
pub struct Exemplified {
    carrier: Carrier,
    exemplars: Exemplars,
}

impl Exemplified {
    pub fn new(carrier: Carrier, exemplars: Exemplars) -> Exemplified {
        Exemplified { carrier, exemplars }
    }
}

#[tonic::async_trait]
impl HttpClient for Exemplified {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let kept = self.exemplars.for_collector();
        self.carrier.send_bytes(request.map(|body| exemplified(body, &kept))).await
    }
}

/// What is no OTLP goes as it is: an exemplar is no reason to lose a measurement.
fn exemplified(body: Bytes, kept: &BTreeMap<Series, Buckets>) -> Bytes {
    if kept.is_empty() {
        return body;
    }
    let Ok(mut request) = ExportMetricsServiceRequest::decode(body.clone()) else { return body };
    let scopes = request.resource_metrics.iter_mut().flat_map(|one| &mut one.scope_metrics);
    for Metric { name, data, .. } in scopes.flat_map(|scope| &mut scope.metrics) {
        let Some(Data::Histogram(histogram)) = data else { continue };
        for point in &mut histogram.data_points {
            let series = Series { name: name.clone(), labels: labels(&point.attributes) };
            let exemplars = kept.get(&series).into_iter().flatten().flatten().map(sent);
            // What was measured since the collection belongs to the next one.
            let until = point.time_unix_nano;
            point.exemplars.extend(exemplars.filter(|exemplar| exemplar.time_unix_nano <= until));
        }
    }
    request.encode_to_vec().into()
}

fn sent(exemplar: &Exemplar) -> Sent {
    let Exemplar { value, at, place } = exemplar;
    let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (trace_id, span_id) = place.bytes();
    Sent {
        filtered_attributes: Vec::new(),
        time_unix_nano: u64::try_from(at.as_nanos()).unwrap_or(u64::MAX),
        span_id,
        trace_id,
        value: Some(Measured::AsDouble(*value)),
    }
}

fn labels(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |one: &KeyValue| match one.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some((one.key.clone(), text.clone())),
        // Declarations make texts alone.
        Value::BoolValue(_)
        | Value::IntValue(_)
        | Value::DoubleValue(_)
        | Value::ArrayValue(_)
        | Value::KvlistValue(_)
        | Value::BytesValue(_)
        | Value::StringValueStrindex(_) => None,
    };
    attributes.iter().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use opentelemetry_proto::tonic::common::v1::AnyValue;
    use opentelemetry_proto::tonic::metrics::v1::{
        Histogram, HistogramDataPoint, ResourceMetrics, ScopeMetrics,
    };

    use super::*;
    use crate::spans::SpanAddress;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn kept(seconds: u64) -> BTreeMap<Series, Buckets> {
        let labels = BTreeMap::from([("kind".to_owned(), "FailOver".to_owned())]);
        let place = SpanAddress::root(&["uid-1", "web-failover-2"]);
        let exemplar = Exemplar { value: 2.0, at: at(seconds), place };
        BTreeMap::from([(Series { name: "rto".to_owned(), labels }, vec![None, Some(exemplar)])])
    }

    /// A histogram of these attributes, collected at 100 s.
    fn request(name: &str, kind: &str) -> Bytes {
        let value = Some(AnyValue { value: Some(Value::StringValue(kind.to_owned())) });
        let point = HistogramDataPoint {
            attributes: vec![KeyValue { key: "kind".to_owned(), value, ..KeyValue::default() }],
            time_unix_nano: 100_000_000_000,
            ..HistogramDataPoint::default()
        };
        let histogram = Histogram { data_points: vec![point], aggregation_temporality: 2 };
        let metric =
            Metric { name: name.to_owned(), data: Some(Data::Histogram(histogram)), ..Metric::default() };
        let scope = ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() };
        let resource = ResourceMetrics { scope_metrics: vec![scope], ..ResourceMetrics::default() };
        ExportMetricsServiceRequest { resource_metrics: vec![resource] }.encode_to_vec().into()
    }

    #[test]
    fn only_the_series_that_was_measured_gets_the_exemplar() {
        let grown = |request: Bytes| exemplified(request.clone(), &kept(99)).len() > request.len();
        assert!(grown(request("rto", "FailOver")));
        assert!(!grown(request("rto", "FailBack")));
        assert!(!grown(request("duration", "FailOver")));
    }

    #[test]
    fn what_was_measured_after_the_collection_is_not_in_it() {
        let collected = request("rto", "FailOver");
        assert_eq!(exemplified(collected.clone(), &kept(101)), collected);
    }

    #[test]
    fn what_is_no_otlp_goes_as_it_is() {
        let other = Bytes::from_static(b"no OTLP");
        assert_eq!(exemplified(other.clone(), &kept(99)), other);
    }
}
