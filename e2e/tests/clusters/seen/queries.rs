//! Every query of the dashboards and alerts, asked of a real Prometheus that has seen a failover.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::prometheus::{Prometheus, Series, Span, alerts};
use serde_json::Value;

use super::{STEP, Seen};

const BOARDS: [&str; 4] = ["fleet", "placement", "operation", "hub"];

/// The plan of a failover, and its detection, by name.
pub const STEPS: [&str; 8] =
    ["AwaitFence", "AwaitReady", "Detect", "Fence", "Promote", "Restore", "ScaleUp", "TakeOwnership"];

/// What has no data during a failover, only after it, and why.
const WHEN_THE_SITE_RETURNS: [(&str, &str); 3] = [
    ("understudy_operation_proposed{", "an automatic failover asks nobody; the resync after it does"),
    (
        "sum by (namespace, placement) ((understudy_agent_fences_total",
        "a lost site fences itself when it returns",
    ),
    (
        "sum by (refused, reason) ((understudy_refusals_total",
        "a lost site asks for its old lease when it returns",
    ),
];
/// What is looked for and this story need not have.
const NOT_IN_THIS_STORY: [(&str, &str); 2] = [
    (
        "sum by (instance) ((understudy_agent_connections_total",
        "a killed agent counts nothing, and no other stream ends",
    ),
    (
        "sum by (kind, result) ((understudy_operations_total{result=~",
        "every operation succeeds; promtool plays others",
    ),
];

/// A query and what it belongs to.
struct Query {
    place: String,
    expression: String,
}

pub async fn every_panel_has_data(prometheus: &Prometheus, seen: &Seen) -> Result<()> {
    let mut empty = Vec::new();
    let mut asked = 0;
    for query in of_dashboards(seen.failover)? {
        asked += 1;
        let later = excused(&query.expression, &WHEN_THE_SITE_RETURNS);
        let span = if later { Span { from: seen.failover.from, to: seen.all.to } } else { seen.failover };
        let series = prometheus.query_range(&query.expression, span, STEP).await;
        let series = series.with_context(|| query.place.clone())?;
        if !says_something(&query.expression, &series) && !excused(&query.expression, &NOT_IN_THIS_STORY) {
            empty.push(format!("{}: {}", query.place, query.expression));
        }
    }
    eprintln!("{asked} queries of {} dashboards were asked", BOARDS.len());
    ensure!(empty.is_empty(), "{} of {asked} queries have no data:\n{}", empty.len(), empty.join("\n"));
    Ok(())
}

/// The dashboard of one operation shows where the time went: every step of the plan, and together the measured RTO.
pub async fn the_steps_add_up(prometheus: &Prometheus, seen: &Seen) -> Result<()> {
    let whole = Span { from: seen.all.from, to: seen.failover.to };
    let panel =
        of_dashboards(whole)?.into_iter().find(|query| query.place == "operation: Where the time went");
    let panel = panel.context("the panel")?.expression;
    let all = prometheus.query(&panel, seen.failover.to).await?;
    let steps: BTreeMap<&str, f64> = all
        .iter()
        .filter(|series| series.label("kind") == "FailOver")
        .filter_map(|series| Some((series.label("step"), series.told().next()?.value)))
        .collect();
    let named: Vec<&str> = steps.keys().copied().collect();
    ensure!(named == STEPS, "the steps are {steps:?}");
    let downtime = "understudy_operation_downtime_seconds_sum{kind=\"FailOver\"}";
    let downtime = prometheus.query(downtime, seen.failover.to).await?;
    let downtime = downtime.iter().find_map(|series| series.told().next()).context("a measured RTO")?.value;
    let sum: f64 = steps.values().sum();
    ensure!((sum - downtime).abs() <= 0.05 * downtime, "{sum} s of {downtime} s: {steps:?}");
    Ok(())
}

/// What raises an alert has data: without its comparison it tells something.
pub async fn every_alert_has_data(prometheus: &Prometheus, seen: &Seen) -> Result<()> {
    let rules =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/alerts/understudy.rules.yaml"))
            .context("reading the alerts")?;
    let mut empty = Vec::new();
    for alert in alerts(&rules)? {
        prometheus
            .query_range(&alert.expr, seen.all, STEP)
            .await
            .with_context(|| format!("the expression of {}", alert.name))?;
        for operand in operands(&alert.expr) {
            let series = prometheus.query_range(&operand, seen.all, STEP).await;
            let series = series.with_context(|| format!("{}: {operand}", alert.name))?;
            if !says_something(&operand, &series) && !excused(&operand, &NOT_IN_THIS_STORY) {
                empty.push(format!("{}: {operand}", alert.name));
            }
        }
    }
    ensure!(empty.is_empty(), "without data:\n{}", empty.join("\n"));
    Ok(())
}

fn excused(expression: &str, list: &[(&str, &str)]) -> bool {
    list.iter().any(|(beginning, _)| expression.starts_with(beginning))
}

/// What counts events must have seen one: that nothing happened is no news of a failover.
fn says_something(expression: &str, series: &[Series]) -> bool {
    let counts = expression.contains("increase(");
    series.iter().any(|one| one.told().any(|point| !counts || point.value > 0.0))
}

/// Those of which Grafana also asks the exemplars.
pub fn with_exemplars(span: Span) -> Result<Vec<String>> {
    let mut queries = Vec::new();
    for board in BOARDS {
        let json = dashboard(board)?;
        let targets =
            json["panels"].as_array().into_iter().flatten().filter_map(|panel| panel["targets"].as_array());
        let asked = targets.flatten().filter(|target| target["exemplar"] == true);
        queries.extend(asked.filter_map(|target| Some(substituted(target["expr"].as_str()?, span))));
    }
    Ok(queries)
}

fn dashboard(board: &str) -> Result<Value> {
    let file = format!("{}/../deploy/grafana/{board}.json", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
    serde_json::from_str(&text).with_context(|| format!("parsing {file}"))
}

fn of_dashboards(span: Span) -> Result<Vec<Query>> {
    let mut queries = Vec::new();
    for board in BOARDS {
        let json = dashboard(board)?;
        queries.extend(
            raw(board, &json)
                .into_iter()
                .map(|query| Query { expression: substituted(&query.expression, span), ..query }),
        );
    }
    ensure!(queries.len() > 50, "only {} queries were found", queries.len());
    Ok(queries)
}

/// The queries of the panels, the variables and the annotations.
fn raw(board: &str, json: &Value) -> Vec<Query> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut queries = Vec::new();
    let panels = list(&json["panels"]);
    let nested: Vec<Value> = panels.iter().flat_map(|panel| list(&panel["panels"])).collect();
    for panel in panels.iter().chain(&nested) {
        for target in list(&panel["targets"]) {
            queries.push(Query {
                place: format!("{board}: {}", text(&panel["title"])),
                expression: text(&target["expr"]),
            });
        }
    }
    for variable in list(&json["templating"]["list"]) {
        let asked = text(&variable["definition"]);
        // What label_values(metric, label) asks for.
        if let Some((metric, label)) =
            asked.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')?.rsplit_once(", "))
        {
            queries.push(Query {
                place: format!("{board}: variable {}", text(&variable["name"])),
                expression: format!("group by ({label}) ({metric})"),
            });
        }
    }
    for annotation in list(&json["annotations"]["list"]) {
        queries.push(Query {
            place: format!("{board}: annotation {}", text(&annotation["name"])),
            expression: text(&annotation["expr"]),
        });
    }
    queries
}

/// As Grafana does it, where both clusters are chosen, and one placement.
fn substituted(expression: &str, span: Span) -> String {
    let range = format!("{:.0}s", (span.to - span.from).ceil());
    let variables = BTreeMap::from([
        // Four scrapes, which is the least that Grafana takes.
        ("$__rate_interval", "2s"),
        ("$__range", &range),
        ("$cluster", "(east|west)"),
        ("$namespace", "shop"),
        ("$placement", "shop"),
    ]);
    variables.iter().fold(expression.to_owned(), |told, (variable, value)| told.replace(variable, value))
}

/// The sides of the outermost comparisons, without thresholds: `a > b or c == 1` is `a`, `b` and `c`.
fn operands(expression: &str) -> Vec<String> {
    let sides = split_outside(expression, &[" or ", " > ", " < ", " == "]);
    let numbers_only =
        |side: &str| side.chars().all(|letter| letter.is_ascii_digit() || " .*".contains(letter));
    sides.into_iter().map(unwrapped).filter(|side| !side.is_empty() && !numbers_only(side)).collect()
}

/// An aggregation over a comparison has data when what is compared has.
fn unwrapped(side: &str) -> String {
    let side = side.trim();
    for (opening, comparison) in [("absent(", " == "), ("sum by", " == "), ("max by", " == ")] {
        if side.starts_with(opening)
            && let Some((_, inside)) = side.rsplit_once('(')
            && let Some((inside, _)) = inside.split_once(comparison)
        {
            return inside.to_owned();
        }
    }
    side.to_owned()
}

/// Splits at the marks that stand in no brackets.
fn split_outside<'a>(text: &'a str, marks: &[&str]) -> Vec<&'a str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0_u32, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if let Some(mark) = marks.iter().find(|mark| depth == 0 && text[at..].starts_with(**mark)) {
            parts.push(&text[start..at]);
            start = at + mark.len();
        }
    }
    parts.push(&text[start..]);
    parts
}

#[test]
fn an_alert_is_taken_apart_at_its_comparisons() {
    let of = |expression: &str| operands(expression);
    assert_eq!(of("a{x=\"1\"} > b"), ["a{x=\"1\"}", "b"]);
    assert_eq!(of("a == 1 or c{d=\"e\"} == 1"), ["a", "c{d=\"e\"}"]);
    assert_eq!(of("time() - a > 90 * 86400"), ["time() - a"]);
    assert_eq!(of("absent(a == 1)"), ["a"]);
    assert_eq!(of("sum by (k) (r{x=~\"a|b\"} == 1) > 1"), ["r{x=~\"a|b\"}"]);
}
