//! What an instrument is: declared once, with its unit and its meaning, and used from there by code, docs and tests.

use std::collections::BTreeSet;
use std::fmt::Write;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram};
use tokio::sync::watch;

use crate::exemplars::TracedHistogram;
use crate::meter::Meter;

/// One instrument, by its OpenTelemetry name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Declaration {
    /// `understudy.` and dots; no unit in it.
    pub name: &'static str,
    pub kind: Kind,
    /// By UCUM: `s`, `By`, or a thing counted in braces.
    pub unit: &'static str,
    /// Names of its attributes.
    pub attributes: &'static [&'static str],
    /// One sentence.
    pub meaning: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Counter,
    /// Read from the newest snapshot whenever somebody asks.
    Gauge,
    /// Upper bounds of the buckets, in the instrument's unit.
    Histogram(&'static [f64]),
}

/// The attributes of one value.
pub type Attributes = Vec<KeyValue>;

/// One value of a gauge.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub value: f64,
    pub attributes: Attributes,
}

impl Declaration {
    pub fn counter(&self, meter: &Meter) -> Counter<u64> {
        meter.remembered.u64_counter(self.name).with_unit(self.unit).with_description(self.meaning).build()
    }

    pub fn histogram(&self, meter: &Meter) -> Histogram<f64> {
        let bounds = match self.kind {
            Kind::Histogram(bounds) => bounds.to_vec(),
            Kind::Counter | Kind::Gauge => Vec::new(),
        };
        meter
            .remembered
            .f64_histogram(self.name)
            .with_unit(self.unit)
            .with_description(self.meaning)
            .with_boundaries(bounds)
            .build()
    }

    /// The same, with exemplars.
    pub fn traced_histogram(&self, meter: &Meter) -> TracedHistogram {
        TracedHistogram::new(*self, meter)
    }

    /// Registers a gauge whose values `read` takes out of the newest snapshot.
    pub fn gauge<S: Send + Sync + 'static>(
        &self,
        meter: &Meter,
        snapshot: &watch::Receiver<S>,
        read: fn(&S) -> Vec<Sample>,
    ) {
        let newest = snapshot.clone();
        meter.scraped.add(*self, move || read(&newest.borrow()));
        let Some(sent) = &meter.sent else { return };
        let newest = snapshot.clone();
        sent.f64_observable_gauge(self.name)
            .with_unit(self.unit)
            .with_description(self.meaning)
            .with_callback(move |observer| {
                // Whoever replaces the snapshot waits for its readers: they are done before this tells anything.
                let samples = read(&newest.borrow());
                for Sample { value, attributes } in samples {
                    observer.observe(value, &attributes);
                }
            })
            .build();
    }

    /// The attributes of one value, in the order of the declaration. Panics in no build: values too many or too few are
    /// found by the test that reads every instrument back.
    pub fn attributes<'a>(&self, values: impl IntoIterator<Item = &'a str>) -> Attributes {
        self.attributes.iter().zip(values).map(|(key, value)| KeyValue::new(*key, value.to_owned())).collect()
    }

    pub fn sample<'a>(&self, value: f64, attributes: impl IntoIterator<Item = &'a str>) -> Sample {
        Sample { value, attributes: self.attributes(attributes) }
    }

    /// The name under which Prometheus knows it. A histogram has `_bucket`, `_sum` and `_count` below it.
    pub fn prometheus_name(&self) -> String {
        let name = self.name.replace('.', "_");
        let unit = match self.unit {
            "s" => "_seconds",
            "By" => "_bytes",
            _ => "",
        };
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Gauge | Kind::Histogram(_) => "",
        };
        format!("{name}{unit}{suffix}")
    }

    fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        }
    }
}

/// The instruments as a table in Markdown, for the docs.
pub fn markdown_table(declarations: &[Declaration]) -> String {
    let mut table = String::from(
        "| name | in Prometheus | kind | unit | attributes | meaning |\n|---|---|---|---|---|---|\n",
    );
    for one in declarations {
        let attributes = one.attributes.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "| `{}` | `{}` | {} | `{}` | {attributes} | {} |",
            one.name,
            one.prometheus_name(),
            one.kind_name(),
            one.unit,
            one.meaning
        );
    }
    table
}

/// What is wrong with a scrape in which each of `declarations` has at least one value: an instrument without values or
/// of another kind, or a label that its declaration does not name.
pub fn deviations(scrape: &str, declarations: &[Declaration]) -> Vec<String> {
    let mut found = Vec::new();
    for one in declarations {
        let name = one.prometheus_name();
        let type_line = format!("# TYPE {name} {}", one.kind_name());
        if !scrape.lines().any(|line| line == type_line) {
            found.push(format!("{type_line:?} is missing"));
        }
        if series(scrape, &name).next().is_none() {
            found.push(format!("{name} has no value"));
        }
        let expected: Vec<String> = one.attributes.iter().map(|label| label.replace('.', "_")).collect();
        for label in labels(scrape, &name) {
            if label != "le" && !expected.contains(&label) {
                found.push(format!("{name} has the undeclared label {label:?}"));
            }
        }
    }
    found
}

/// The names of the labels of all series of the metric `name`.
fn labels(scrape: &str, name: &str) -> BTreeSet<String> {
    series(scrape, name)
        .filter_map(|rest| rest.strip_prefix('{'))
        .flat_map(|labels| labels.split("\","))
        .filter_map(|label| label.split_once("=\""))
        .map(|(name, _)| name.trim_start_matches(',').to_owned())
        .collect()
}

/// What follows the name on each line that tells a value of the metric `name`: labels if there are any, and the value.
fn series<'a>(scrape: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let told = scrape.lines().filter_map(move |line| line.strip_prefix(name));
    told.filter_map(|rest| {
        let rest =
            ["_bucket", "_sum", "_count"].iter().find_map(|suffix| rest.strip_prefix(suffix)).unwrap_or(rest);
        rest.starts_with(['{', ' ']).then_some(rest)
    })
}
