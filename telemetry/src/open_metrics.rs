//! What is counted and remembered, in the text format of OpenMetrics 1.0, with exemplars: no crate writes it from Prometheus'
//! families. Its rules: <https://prometheus.io/docs/specs/om/open_metrics_spec/>.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::UNIX_EPOCH;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use crate::exemplars::{Buckets, Exemplar, Series};

/// Behind everything: without it Prometheus takes an answer for cut off.
pub const END: &str = "# EOF\n";

/// Puts the families behind what is there already.
pub fn write(families: &[MetricFamily], exemplars: &BTreeMap<Series, Buckets>, text: &mut String) {
    for family in families {
        let name = family.name();
        match family.get_field_type() {
            MetricType::COUNTER => {
                // The family is not called by the suffix that each of its samples has.
                let stem = name.strip_suffix("_total").unwrap_or(name);
                write_heading(stem, "counter", family.help(), text);
                write_samples(family, &format!("{stem}_total"), |one| one.get_counter().get_value(), text);
            }
            MetricType::GAUGE => {
                write_heading(name, "gauge", family.help(), text);
                write_samples(family, name, |one| one.get_gauge().get_value(), text);
            }
            MetricType::HISTOGRAM => {
                write_heading(name, "histogram", family.help(), text);
                for one in family.get_metric() {
                    write_histogram(name, one, exemplars.get(&series(name, one)), text);
                }
            }
            // The exporter makes none.
            MetricType::SUMMARY | MetricType::UNTYPED => {}
        }
    }
}

/// The unit is told where the name says one.
pub fn write_heading(name: &str, kind: &str, help: &str, text: &mut String) {
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}", escaped(help));
    let unit = ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(&format!("_{unit}")));
    if let Some(unit) = unit {
        let _ = writeln!(text, "# UNIT {name} {unit}");
    }
}

fn write_samples(family: &MetricFamily, name: &str, value: fn(&Metric) -> f64, text: &mut String) {
    for one in family.get_metric() {
        let _ = writeln!(text, "{name}{} {}", labels(one.get_label(), None), number(value(one)));
    }
}

fn write_histogram(name: &str, one: &Metric, exemplars: Option<&Buckets>, text: &mut String) {
    let (pairs, histogram) = (one.get_label(), one.get_histogram());
    let bounded = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
    let bounded = bounded.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    let all = bounded.chain([(f64::INFINITY, histogram.get_sample_count())]);
    for (bucket, (bound, count)) in all.enumerate() {
        let _ = write!(text, "{name}_bucket{} {count}", labels(pairs, Some(&canonical(bound))));
        if let Some(exemplar) = exemplars.and_then(|all| all.get(bucket)?.as_ref()) {
            write_exemplar(exemplar, text);
        }
        text.push('\n');
    }
    let labels = labels(pairs, None);
    let _ = writeln!(text, "{name}_sum{labels} {}", number(histogram.get_sample_sum()));
    let _ = writeln!(text, "{name}_count{labels} {}", histogram.get_sample_count());
}

fn write_exemplar(exemplar: &Exemplar, text: &mut String) {
    let Exemplar { value, at, place } = exemplar;
    let (trace, span) = (place.trace_id(), place.span_id());
    let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = format!("{}.{:03}", at.as_secs(), at.subsec_millis());
    let _ = write!(text, " # {{trace_id=\"{trace}\",span_id=\"{span}\"}} {} {at}", number(*value));
}

fn series(name: &str, one: &Metric) -> Series {
    let labels = one.get_label().iter().map(|pair| (pair.name().to_owned(), pair.value().to_owned()));
    Series { name: name.to_owned(), labels: labels.collect() }
}

/// In braces; nothing where there are none.
fn labels(pairs: &[LabelPair], bound: Option<&str>) -> String {
    let pairs = pairs.iter().map(|pair| (pair.name(), pair.value()));
    let all: Vec<String> = pairs
        .chain(bound.map(|bound| ("le", bound)))
        .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
        .collect();
    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
}

/// Labels and help alike, unlike in Prometheus' own format.
fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('\n', r"\n").replace('"', "\\\"")
}

fn number(value: f64) -> String {
    // Rust calls it inf.
    if value.is_infinite() {
        return if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() };
    }
    value.to_string()
}

/// A bound is a label, so it is always written in the same way, and as everybody writes it: 1.0, 0.25, 5e-05.
fn canonical(bound: f64) -> String {
    let scientific = format!("{bound:e}");
    match scientific.split_once('e').and_then(|(digits, power)| Some((digits, power.parse::<i32>().ok()?))) {
        Some((digits, power)) if !(-4..6).contains(&power) => {
            let sign = if power < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", power.abs())
        }
        Some(_) if bound.fract() == 0.0 => format!("{bound:.1}"),
        Some(_) | None => number(bound),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};

    use super::*;
    use crate::spans::SpanAddress;

    fn written(registry: &Registry, exemplars: &BTreeMap<Series, Buckets>) -> Vec<String> {
        let mut text = String::new();
        write(&registry.gather(), exemplars, &mut text);
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_counter_is_called_by_its_stem_and_its_samples_by_the_suffix() {
        let registry = Registry::new();
        let options = Opts::new("calls_total", "Calls \"made\",\nwith \\.");
        let calls = IntCounterVec::new(options, &["error_type"]).expect("a counter");
        calls.with_label_values(&["we\"st\\\n"]).inc_by(3);
        registry.register(Box::new(calls)).expect("registered");
        let expected = [
            r#"# HELP calls Calls \"made\",\nwith \\."#,
            "# TYPE calls counter",
            r#"calls_total{error_type="we\"st\\\n"} 3"#,
        ];
        assert_eq!(written(&registry, &BTreeMap::new()), expected);
    }

    #[test]
    fn a_unit_is_told_where_the_name_says_one() {
        let registry = Registry::new();
        for name in ["age_seconds", "size_bytes", "leader"] {
            let gauge = IntGauge::new(name, "It.").expect("a gauge");
            gauge.set(7);
            registry.register(Box::new(gauge)).expect("registered");
        }
        let lines = written(&registry, &BTreeMap::new());
        let units: Vec<_> = lines.iter().filter(|line| line.starts_with("# UNIT")).collect();
        assert_eq!(units, ["# UNIT age_seconds seconds", "# UNIT size_bytes bytes"]);
        assert!(lines.contains(&"leader 7".to_owned()), "{lines:?}");
    }

    #[test]
    fn a_histogram_has_the_exemplar_of_each_bucket_behind_it() {
        let registry = Registry::new();
        let options = HistogramOpts::new("rto_seconds", "Away.").buckets(vec![0.000_05, 0.5, 60.0]);
        let rto = Histogram::with_opts(options.const_label("kind", "Fail\"Over")).expect("a histogram");
        [0.25, 61.5].into_iter().for_each(|value| rto.observe(value));
        registry.register(Box::new(rto)).expect("registered");
        let place = SpanAddress::root(&["uid", "web-failover-2"]);
        let at = UNIX_EPOCH + Duration::from_millis(1_784_000_000_050);
        let exemplar = |value| Some(Exemplar { value, at, place });
        let labels = BTreeMap::from([("kind".to_owned(), "Fail\"Over".to_owned())]);
        let series = Series { name: "rto_seconds".to_owned(), labels };
        let exemplars = BTreeMap::from([(series, vec![None, exemplar(0.25), None, exemplar(61.5)])]);
        let of = format!("trace_id=\"{}\",span_id=\"{}\"", place.trace_id(), place.span_id());
        let expected = [
            "# HELP rto_seconds Away.".to_owned(),
            "# TYPE rto_seconds histogram".to_owned(),
            "# UNIT rto_seconds seconds".to_owned(),
            r#"rto_seconds_bucket{kind="Fail\"Over",le="5e-05"} 0"#.to_owned(),
            format!(r#"rto_seconds_bucket{{kind="Fail\"Over",le="0.5"}} 1 # {{{of}}} 0.25 1784000000.050"#),
            r#"rto_seconds_bucket{kind="Fail\"Over",le="60.0"} 1"#.to_owned(),
            format!(r#"rto_seconds_bucket{{kind="Fail\"Over",le="+Inf"}} 2 # {{{of}}} 61.5 1784000000.050"#),
            r#"rto_seconds_sum{kind="Fail\"Over"} 61.75"#.to_owned(),
            r#"rto_seconds_count{kind="Fail\"Over"} 2"#.to_owned(),
        ];
        assert_eq!(written(&registry, &exemplars), expected);
        assert!(of.replace(['=', '"', ','], "").len() <= 128, "an exemplar's labels may be so long at most");
    }

    #[test]
    fn numbers_are_written_as_everybody_writes_them() {
        for (bound, expected) in [
            (1.0, "1.0"),
            (0.25, "0.25"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (86_400.0, "86400.0"),
            (1_500_000.0, "1.5e+06"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(canonical(bound), expected);
        }
        assert_eq!([number(f64::INFINITY), number(f64::NEG_INFINITY), number(3.0)], ["+Inf", "-Inf", "3"]);
    }
}
