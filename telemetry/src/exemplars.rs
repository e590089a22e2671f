//! For each bucket of a histogram the last measurement that belongs to a trace. OpenTelemetry's SDK for Rust keeps none yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Histogram;

use crate::declaration::{Declaration, Kind};
use crate::meter::Meter;
use crate::spans::SpanAddress;

/// How many series may have exemplars: the SDK puts those of an instrument beyond the 2,000th together.
const SERIES: usize = 2_000;

/// A measurement, and where in a trace it was made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    pub value: f64,
    pub at: SystemTime,
    pub place: SpanAddress,
}

/// A series, under the names of whoever asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

/// One for each bucket, from the lowest to the one without a bound.
pub type Buckets = Vec<Option<Exemplar>>;

/// What a process keeps. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Exemplars(Arc<Mutex<BTreeMap<Series, Kept>>>);

#[derive(Debug)]
struct Kept {
    declaration: Declaration,
    buckets: Buckets,
}

impl Exemplars {
    /// In the place of an earlier one of its bucket.
    fn keep(&self, declaration: &Declaration, attributes: &[KeyValue], exemplar: Exemplar) {
        let Kind::Histogram(bounds) = declaration.kind else { return };
        if !exemplar.value.is_finite() {
            return;
        }
        let series = Series { name: declaration.name.to_owned(), labels: labels(attributes) };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= SERIES && !kept.contains_key(&series) {
            return;
        }
        let of_series = kept
            .entry(series)
            .or_insert_with(|| Kept { declaration: *declaration, buckets: vec![None; bounds.len() + 1] });
        // A bound belongs to the bucket below it.
        let bucket = bounds.partition_point(|bound| *bound < exemplar.value);
        of_series.buckets[bucket] = Some(exemplar);
    }

    /// Under the names of OpenTelemetry.
    pub fn for_collector(&self) -> BTreeMap<Series, Buckets> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().map(|(series, kept)| (series.clone(), kept.buckets.clone())).collect()
    }

    /// Under the names of Prometheus.
    pub fn for_prometheus(&self) -> BTreeMap<Series, Buckets> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let named = |(series, kept): (&Series, &Kept)| {
            let labels = series.labels.iter().map(|(name, value)| (name.replace('.', "_"), value.clone()));
            let series = Series { name: kept.declaration.prometheus_name(), labels: labels.collect() };
            (series, kept.buckets.clone())
        };
        kept.iter().map(named).collect()
    }
}

fn labels(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    attributes.iter().map(|one| (one.key.to_string(), one.value.to_string())).collect()
}

/// A histogram whose measurements lead to the trace in which they were made.
#[derive(Clone, Debug)]
pub struct TracedHistogram {
    declaration: Declaration,
    histogram: Histogram<f64>,
    exemplars: Exemplars,
}

impl TracedHistogram {
    pub(crate) fn new(declaration: Declaration, meter: &Meter) -> TracedHistogram {
        let histogram = declaration.histogram(meter);
        TracedHistogram { declaration, histogram, exemplars: meter.exemplars.clone() }
    }

    /// `place` is where it was measured, as far as that is known.
    pub fn record(&self, value: f64, attributes: &[KeyValue], place: Option<SpanAddress>) {
        // First, so that no bucket has an exemplar of what it has not counted.
        self.histogram.record(value, attributes);
        if let Some(place) = place {
            let exemplar = Exemplar { value, at: SystemTime::now(), place };
            self.exemplars.keep(&self.declaration, attributes, exemplar);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURATION: Declaration = Declaration {
        name: "understudy.test.duration",
        kind: Kind::Histogram(&[1.0, 10.0]),
        unit: "s",
        attributes: &["kind", "error.type"],
        meaning: "How long it took.",
    };

    fn exemplar(value: f64, operation: &str) -> Exemplar {
        Exemplar { value, at: SystemTime::UNIX_EPOCH, place: SpanAddress::root(&[operation]) }
    }

    fn kept(values: &[Exemplar]) -> Exemplars {
        let exemplars = Exemplars::default();
        for value in values {
            exemplars.keep(&DURATION, &DURATION.attributes(["FailOver", "timeout"]), *value);
        }
        exemplars
    }

    #[test]
    fn each_bucket_keeps_the_last_and_a_bound_belongs_below() {
        let (first, bound, last) = (exemplar(0.5, "a"), exemplar(1.0, "b"), exemplar(11.0, "c"));
        let exemplars = kept(&[first, bound, last]);
        let buckets: Vec<Buckets> = exemplars.for_collector().into_values().collect();
        assert_eq!(buckets, [vec![Some(bound), None, Some(last)]]);
    }

    #[test]
    fn what_is_no_number_has_no_bucket() {
        assert!(kept(&[exemplar(f64::NAN, "a"), exemplar(f64::INFINITY, "b")]).for_collector().is_empty());
    }

    #[test]
    fn series_are_named_as_the_asker_names_them() {
        let exemplars = kept(&[exemplar(0.5, "a")]);
        let named = |all: BTreeMap<Series, Buckets>| {
            let series = all.into_keys().next().expect("a series");
            (series.name, series.labels.into_keys().collect::<Vec<_>>())
        };
        let labels = |names: [&str; 2]| names.map(str::to_owned).to_vec();
        assert_eq!(
            named(exemplars.for_collector()),
            ("understudy.test.duration".to_owned(), labels(["error.type", "kind"]))
        );
        assert_eq!(
            named(exemplars.for_prometheus()),
            ("understudy_test_duration_seconds".to_owned(), labels(["error_type", "kind"]))
        );
    }

    #[test]
    fn beyond_the_last_series_that_is_told_apart_none_is_kept_and_those_before_go_on() {
        let exemplars = Exemplars::default();
        let tell = |series: usize, value: Exemplar| {
            exemplars.keep(&DURATION, &DURATION.attributes([series.to_string().as_str(), ""]), value);
        };
        (0..SERIES + 10).for_each(|series| tell(series, exemplar(0.5, "a")));
        assert_eq!(exemplars.for_collector().len(), SERIES);
        let newer = exemplar(0.7, "b");
        tell(0, newer);
        assert!(exemplars.for_collector().into_values().any(|buckets| buckets[0] == Some(newer)));
    }
}
