//! From what a failover took to its trace: Prometheus has the exemplars, and they name the trace that the hub's audit names.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use e2e::federation::Federation;
use e2e::prometheus::{Exemplar, Prometheus, Span};

use super::{Seen, queries};

/// What is measured of an operation that succeeds and gives something up.
const OF_AN_OPERATION: [&str; 3] = ["downtime", "duration", "data_loss"];

pub async fn lead_to_the_trace(federation: &Federation, prometheus: &Prometheus, seen: &Seen) -> Result<()> {
    let trace = audited_trace(federation, &seen.operation)?;
    let mut roots = BTreeSet::new();
    for measured in OF_AN_OPERATION {
        let buckets = format!("understudy_operation_{measured}_seconds_bucket{{kind=\"FailOver\"}}");
        let exemplars = exemplars(prometheus, &buckets, seen.failover).await?;
        let [exemplar] = exemplars.as_slice() else {
            anyhow::bail!("one failover has one {measured}, not {exemplars:?}");
        };
        ensure!(label(exemplar, "trace_id")? == trace, "{measured}: not the trace {trace}: {exemplar:?}");
        roots.insert(label(exemplar, "span_id")?.to_owned());
    }
    ensure!(roots.len() == 1, "all of it belongs to the operation's own span: {roots:?}");
    let buckets = "understudy_operation_step_duration_seconds_bucket{kind=\"FailOver\"}";
    let mut steps = BTreeSet::new();
    for step in exemplars(prometheus, buckets, seen.failover).await? {
        ensure!(label(&step, "trace_id")? == trace, "a step, not in the trace {trace}: {step:?}");
        steps.insert(label(&step, "span_id")?.to_owned());
    }
    ensure!(steps.len() == queries::STEPS.len() && steps.is_disjoint(&roots), "the spans are {steps:?}");
    eprintln!("the trace of {} is {trace}, and the histograms lead to it", seen.operation);
    dashboards_show_them(prometheus, seen, &trace).await
}

/// Grafana asks with the expression of the panel, and Prometheus looks for the series in it.
async fn dashboards_show_them(prometheus: &Prometheus, seen: &Seen, trace: &str) -> Result<()> {
    let asked = queries::with_exemplars(seen.failover)?;
    ensure!(asked.len() == 3, "{} queries ask for exemplars", asked.len());
    for expression in asked {
        let exemplars = exemplars(prometheus, &expression, seen.failover).await?;
        let shown = exemplars.iter().any(|one| label(one, "trace_id").is_ok_and(|its| its == trace));
        ensure!(shown, "{expression} leads to {exemplars:?}");
    }
    Ok(())
}

async fn exemplars(prometheus: &Prometheus, expression: &str, span: Span) -> Result<Vec<Exemplar>> {
    let series = prometheus.exemplars(expression, span).await?;
    Ok(series.into_iter().flat_map(|one| one.exemplars).collect())
}

fn label<'a>(exemplar: &'a Exemplar, name: &str) -> Result<&'a str> {
    let found = exemplar.labels.get(name).map(String::as_str);
    found.with_context(|| format!("{exemplar:?} has no {name}"))
}

/// As the hub told it when the operation was over.
fn audited_trace(federation: &Federation, operation: &str) -> Result<String> {
    let log = federation.hub.service.whole_log()?;
    let named = format!("operation={operation} ");
    let mut told = log.lines().filter(|line| line.contains("action=\"Complete\"") && line.contains(&named));
    let line = told.next().with_context(|| format!("no audit record says that {operation} is complete"))?;
    let trace = line.split_once("trace_id=\"").and_then(|(_, rest)| rest.split_once('"'));
    trace.map(|(trace, _)| trace.to_owned()).with_context(|| format!("no trace in {line}"))
}
