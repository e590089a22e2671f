//! Every metric that docs/metrics.md names is there, with its type, its unit, its labels, its meaning and a sensible value. The
//! list is generated from the declarations of both binaries, and tested there.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use e2e::prometheus::{Metadata, Prometheus, Series, Span};

use super::STEP;

const DAY: f64 = 86_400.0;
/// The certificates of a federation.
const CERTIFICATE: f64 = 30.0 * DAY;
/// What Prometheus itself adds to each series, and what the exporter does.
const ADDED: [&str; 4] = ["__name__", "instance", "job", "le"];

/// What this story does not have, and why.
const NOT_IN_THIS_STORY: [(&str, &str); 1] =
    [("understudy_telemetry_lost_total", "no collector is named, so nothing can be lost on the way to one")];

struct Documented {
    name: String,
    kind: String,
    unit: String,
    labels: BTreeSet<String>,
    meaning: String,
    /// Whose it is: a metric may be of both.
    job: &'static str,
}

pub async fn every_metric_is_there(prometheus: &Prometheus, span: Span) -> Result<()> {
    let mut wrong = Vec::new();
    let metadata = prometheus.metadata().await?;
    for metric in documented()? {
        if let Err(error) = is_there(prometheus, &metadata, &metric, span).await {
            wrong.push(format!("{} of {}: {error:#}", metric.name, metric.job));
        }
    }
    ensure!(wrong.is_empty(), "{} metrics are not as documented:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

/// The tables of the page, first the hub's, then the agents'.
fn documented() -> Result<Vec<Documented>> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let text = fs::read_to_string(page).context("reading docs/metrics.md")?;
    let mut job = "";
    let mut metrics = Vec::new();
    for line in text.lines() {
        match line {
            "<!-- hub -->" => job = "understudy-hub",
            "<!-- agent -->" => job = "understudy-agent",
            _ => {}
        }
        let cells: Vec<&str> = line.split(" | ").map(|cell| cell.trim_matches([' ', '|'])).collect();
        let [otel, name, kind, unit, labels, meaning] = cells.as_slice() else { continue };
        if !otel.starts_with('`') {
            continue;
        }
        metrics.push(Documented {
            name: name.trim_matches('`').to_owned(),
            kind: (*kind).to_owned(),
            unit: unit.trim_matches('`').to_owned(),
            labels: labels.split('`').skip(1).step_by(2).map(|label| label.replace('.', "_")).collect(),
            meaning: (*meaning).to_owned(),
            job,
        });
    }
    ensure!(metrics.len() > 35, "docs/metrics.md lists only {}", metrics.len());
    Ok(metrics)
}

async fn is_there(
    prometheus: &Prometheus,
    metadata: &Metadata,
    metric: &Documented,
    span: Span,
) -> Result<()> {
    let Documented { name, kind, unit, labels, meaning, job } = metric;
    if NOT_IN_THIS_STORY.iter().any(|(absent, _)| absent == name) {
        return Ok(());
    }
    // In OpenMetrics the family of a counter is called by its stem.
    let stem = name.strip_suffix("_total").unwrap_or(name);
    let says = metadata.get(stem).and_then(|told| told.first()).context("it was never scraped")?;
    ensure!(says.kind == *kind, "it is a {}, and a {kind} by the docs", says.kind);
    ensure!(says.help.trim_end_matches('.') == meaning.trim_end_matches('.'), "it says {:?}", says.help);
    has_its_unit(name, kind, unit)?;
    let spelled = [("s", "seconds"), ("By", "bytes")].iter().find(|(short, _)| short == unit);
    ensure!(says.unit == spelled.map_or("", |(_, spelled)| spelled), "its unit is {:?}", says.unit);
    let family = if kind == "histogram" { format!("{name}_count") } else { name.clone() };
    let series = prometheus.query_range(&format!("{family}{{job=\"{job}\"}}"), span, STEP).await?;
    ensure!(!series.is_empty(), "no series at any time");
    has_its_labels(&series, labels)?;
    if kind == "histogram" {
        let sums = prometheus.query_range(&format!("{name}_sum{{job=\"{job}\"}}"), span, STEP).await?;
        let spans = largest(&sums)? / largest(&series)?;
        ensure!(largest(&series)? >= 1.0 && spans >= 0.0, "{spans} s in the mean");
        ensure!(spans < span.to - span.from, "{spans} s in the mean, in a run of {span:?}");
        return Ok(());
    }
    for value in series.iter().flat_map(Series::told).map(|point| point.value) {
        ensure!(is_sensible(metric, value, span), "it is {value}");
    }
    Ok(())
}

/// By the rules of Prometheus the unit stands in the name.
fn has_its_unit(name: &str, kind: &str, unit: &str) -> Result<()> {
    let stem = name.strip_suffix("_total").unwrap_or(name);
    ensure!((kind == "counter") == name.ends_with("_total"), "a {kind} of this name");
    match unit {
        "s" => ensure!(stem.ends_with("_seconds"), "its unit is seconds"),
        "By" => ensure!(stem.ends_with("_bytes"), "its unit is bytes"),
        unit if unit.starts_with('{') => {
            ensure!(!stem.ends_with("_seconds") && !stem.ends_with("_bytes"), "its unit is {unit}");
        }
        unit => bail!("nobody knows the unit {unit}"),
    }
    Ok(())
}

/// Each series has labels that are documented, and each label that is documented is on one.
fn has_its_labels(series: &[Series], documented: &BTreeSet<String>) -> Result<()> {
    let of =
        |one: &Series| one.labels.keys().filter(|label| !ADDED.contains(&label.as_str())).cloned().collect();
    let used: BTreeSet<String> =
        series.iter().flat_map(|one: &Series| -> BTreeSet<String> { of(one) }).collect();
    ensure!(used == *documented, "its labels are {used:?}, and {documented:?} by the docs");
    Ok(())
}

fn largest(series: &[Series]) -> Result<f64> {
    let values = series.iter().flat_map(Series::told).map(|point| point.value);
    values.reduce(f64::max).context("no value")
}

fn is_sensible(metric: &Documented, value: f64, run: Span) -> bool {
    let name = metric.name.as_str();
    match (name, metric.unit.as_str()) {
        ("understudy_certificate_expiry_time_seconds", _) => {
            (run.to + CERTIFICATE - DAY..run.to + CERTIFICATE + DAY).contains(&value)
        }
        // Leases end a little later than now, and everything else is in the past; Kubernetes rounds to seconds.
        (_, "s") if name.ends_with("_time_seconds") => (run.from - 60.0..run.to + 60.0).contains(&value),
        ("understudy_placement_expected_loss_seconds", _) if value == f64::INFINITY => true,
        (_, "s") => (0.0..3600.0).contains(&value),
        ("understudy_placement_condition", _) => [-1.0, 0.0, 1.0].contains(&value),
        ("understudy_build_info" | "understudy_placement_active", _) => value == 1.0,
        (_, "By") => (0.0..1e12).contains(&value),
        (_, unit) if unit.starts_with('{') => value.fract() == 0.0 && (0.0..1e5).contains(&value),
        _ => false,
    }
}
