//! Gauges as Prometheus reads them, written straight from the newest snapshots: a fleet has tens of thousands of them, and
//! nothing of them has to be remembered between two scrapes.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use crate::declaration::{Declaration, Sample};
use crate::format::Format;
use crate::open_metrics;

type Read = Box<dyn Fn() -> Vec<Sample> + Send + Sync>;

/// The gauges of a process, in the order in which they were made. Clones share them.
#[derive(Clone, Default)]
pub struct Gauges(Arc<Mutex<Vec<(Declaration, Read)>>>);

impl std::fmt::Debug for Gauges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gauges").finish_non_exhaustive()
    }
}

impl Gauges {
    pub fn add(&self, declaration: Declaration, read: impl Fn() -> Vec<Sample> + Send + Sync + 'static) {
        let mut gauges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gauges.push((declaration, Box::new(read)));
    }

    /// Behind what is there already.
    pub fn write(&self, format: Format, text: &mut String) {
        let gauges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (declaration, read) in gauges.iter() {
            write_family(declaration, &read(), format, text);
        }
    }
}

/// A family without values says what it is all the same: Prometheus forgets the type, the unit and the meaning ten scrapes after
/// it last read them, and a gauge that only shows now and then would be unexplained whenever somebody looks back at it. Of two
/// values with the same labels the later counts: Prometheus takes only one.
fn write_family(declaration: &Declaration, samples: &[Sample], format: Format, text: &mut String) {
    let series: BTreeMap<String, f64> = samples.iter().map(|sample| (labels(sample), sample.value)).collect();
    let name = declaration.prometheus_name();
    match format {
        Format::Text => {
            // Writing to a string cannot fail.
            let _ =
                writeln!(text, "# HELP {name} {}\n# TYPE {name} gauge", escaped(declaration.meaning, false));
        }
        Format::OpenMetrics => open_metrics::write_heading(&name, "gauge", declaration.meaning, text),
    }
    for (labels, value) in series {
        // Rust calls it inf.
        let _ = if value == f64::INFINITY {
            writeln!(text, "{name}{labels} +Inf")
        } else {
            writeln!(text, "{name}{labels} {value}")
        };
    }
}

/// By name, in braces; nothing where there are none.
fn labels(sample: &Sample) -> String {
    let mut pairs: Vec<_> =
        sample.attributes.iter().map(|one| (one.key.as_str(), one.value.as_str())).collect();
    pairs.sort_unstable();
    let mut labels = String::new();
    for (number, (key, value)) in pairs.into_iter().enumerate() {
        labels.push(if number == 0 { '{' } else { ',' });
        labels.extend(key.chars().map(|letter| if letter == '.' { '_' } else { letter }));
        labels.push_str("=\"");
        labels.push_str(&escaped(&value, true));
        labels.push('"');
    }
    if !labels.is_empty() {
        labels.push('}');
    }
    labels
}

fn escaped(text: &str, quotes: bool) -> std::borrow::Cow<'_, str> {
    if !text.contains(['\\', '\n', '"']) {
        return text.into();
    }
    let whole = text.replace('\\', r"\\").replace('\n', r"\n");
    if quotes { whole.replace('"', "\\\"").into() } else { whole.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::declaration::Kind;

    const LAG: Declaration = Declaration {
        name: "understudy.test.lag",
        kind: Kind::Gauge,
        unit: "s",
        attributes: &["volume", "k8s.cluster.name"],
        meaning: "How old \"it\" is.",
    };

    fn written(samples: &[Sample]) -> String {
        let mut text = String::new();
        write_family(&LAG, samples, Format::Text, &mut text);
        text
    }

    #[test]
    fn values_stand_below_their_family_with_labels_in_order_and_what_needs_it_escaped() {
        let text =
            written(&[LAG.sample(1.5, ["data", "we\"st\\"]), LAG.sample(f64::INFINITY, ["data", "east"])]);
        let expected = [
            "# HELP understudy_test_lag_seconds How old \"it\" is.",
            "# TYPE understudy_test_lag_seconds gauge",
            r#"understudy_test_lag_seconds{k8s_cluster_name="east",volume="data"} +Inf"#,
            r#"understudy_test_lag_seconds{k8s_cluster_name="we\"st\\",volume="data"} 1.5"#,
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn in_open_metrics_the_unit_is_told_and_quotes_in_the_meaning_are_escaped() {
        let mut text = String::new();
        write_family(&LAG, &[LAG.sample(1.5, ["data", "we\"st\\"])], Format::OpenMetrics, &mut text);
        let expected = [
            r#"# HELP understudy_test_lag_seconds How old \"it\" is."#,
            "# TYPE understudy_test_lag_seconds gauge",
            "# UNIT understudy_test_lag_seconds seconds",
            r#"understudy_test_lag_seconds{k8s_cluster_name="we\"st\\",volume="data"} 1.5"#,
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_series_is_told_once_and_a_family_without_values_says_what_it_is() {
        let twice = [LAG.sample(1.0, ["data", "east"]), LAG.sample(2.0, ["data", "east"])];
        assert_eq!(
            written(&twice).lines().last(),
            Some(r#"understudy_test_lag_seconds{k8s_cluster_name="east",volume="data"} 2"#)
        );
        assert_eq!(written(&twice).lines().count(), 3);
        assert_eq!(
            written(&[]).lines().collect::<Vec<_>>(),
            written(&twice).lines().take(2).collect::<Vec<_>>()
        );
    }
}
