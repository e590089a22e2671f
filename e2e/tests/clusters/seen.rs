//! A failover and the return, seen by a real Prometheus: every metric, every query of every dashboard and alert, and the alerts
//! as they come and go.

mod documented;
mod exemplars;
mod queries;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crds::conditions::ConditionType;
use crds::operation::{OperationKind, OperationPhase};
use e2e::assets::Observers;
use e2e::federation::links::Carries;
use e2e::federation::{EAST, Federation, Options, Progress, SLOW, WEST};
use e2e::patience::within;
use e2e::prometheus::{Pace, Prometheus, Series, Span, now};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const STEP: Duration = Duration::from_millis(250);
/// What ends the story: it rises when the hub has counted the failover.
const FAILED_OVER: &str = "understudy_operations_total{kind=\"FailOver\",result=\"Succeeded\"}";

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_is_seen_in_every_metric_every_dashboard_and_the_alerts() -> Result<()> {
    let say = progress();
    let programs = observers(say.clone()).await?;
    // With a witness, so that what is told of one is seen as well.
    let federation =
        Box::pin(Federation::start(Options { witness: true, ..Options::unhurried(2) }, say.clone())).await?;
    let prometheus = Prometheus::watch(&federation, &programs, Pace::BRISK).await?;
    let seen = Box::pin(fail_over_and_return(&federation, &prometheus, &say)).await?;
    documented::every_metric_is_there(&prometheus, seen.all).await?;
    queries::every_panel_has_data(&prometheus, &seen).await?;
    queries::the_steps_add_up(&prometheus, &seen).await?;
    queries::every_alert_has_data(&prometheus, &seen).await?;
    exemplars::lead_to_the_trace(&federation, &prometheus, &seen).await?;
    alerts_came_in_order(&prometheus, &seen).await?;
    say("the hub is started again, and sends its metrics too");
    what_is_sent_has_the_same_names(&federation, &prometheus).await
}

/// When what happened, as Prometheus counts.
pub struct Seen {
    /// From before anything was deployed until all was well again.
    all: Span,
    /// From a calm moment before the loss until the failover was counted.
    failover: Span,
    /// The failover's name.
    operation: String,
}

async fn fail_over_and_return(
    federation: &Federation,
    prometheus: &Prometheus,
    say: &Progress,
) -> Result<Seen> {
    let began = now();
    say("deploying and protecting");
    federation.deploy().await?;
    federation.protect().await?;
    federation.await_protected().await?;
    told(prometheus, "understudy_placement_condition{condition=\"Protected\"} == 1").await?;
    let calm = now();
    a_stranger_knocks(federation).await?;
    told(prometheus, "understudy_sessions_total{error_type!=\"\"} > 0").await?;
    federation.await_condition(ConditionType::AutomaticFailoverArmed, "True", SLOW).await?;
    say("losing east");
    federation.lose(EAST)?;
    let operation = federation.await_failover(WEST).await?;
    // For as long as a rate is taken over.
    let failed_over = told(prometheus, &format!("{FAILED_OVER} and {FAILED_OVER} offset 2s")).await?;
    told(prometheus, &firing("UnderstudyUnprotected")).await?;
    say("east returns");
    federation.bring_back(EAST).await?;
    for (kind, epoch) in [(OperationKind::Resync, 2), (OperationKind::FailBack, 3)] {
        federation.await_phase(kind, epoch, OperationPhase::Proposed, SLOW).await?;
        told(prometheus, &firing("UnderstudyNeedsHuman")).await?;
        // Other things need a human too.
        told(prometheus, "understudy_operation_proposed == 1").await?;
        say(&format!("approving the {kind:?}"));
        federation.approve_until_done(kind, epoch).await?;
    }
    federation.await_serving(EAST, 3, SLOW).await?;
    // Prometheus keeps what a metric says of itself for ten scrapes after it last read it.
    let forgotten = "absent_over_time(understudy_operation_proposed[6s])";
    let calm_again = told(prometheus, &format!("absent({FIRING}) and on () {forgotten}")).await?;
    say("nothing is alerted any more");
    prometheus.still_runs()?;
    let failover = Span { from: calm, to: failed_over };
    let operation = operation.metadata.name.context("an operation without a name")?;
    Ok(Seen { all: Span { from: began, to: calm_again }, failover, operation })
}

/// Somebody without a certificate, whom the hub sends away.
async fn a_stranger_knocks(federation: &Federation) -> Result<()> {
    let hub = federation.links.address(WEST, "hub", Carries::Session)?;
    let mut stranger = TcpStream::connect(hub).await.context("knocking at the hub's door")?;
    stranger.write_all(b"let me in\n").await.context("asking to be let in")
}

fn firing(alert: &str) -> String {
    format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}")
}

/// Waits until Prometheus yields something for the expression, and returns the moment of which it did.
async fn told(prometheus: &Prometheus, expression: &str) -> Result<f64> {
    let waited = within(SLOW, expression, async || {
        let at = now();
        let series = prometheus.query(expression, at).await?;
        Ok((!series.is_empty()).then_some(at))
    });
    match waited.await {
        Ok(at) => Ok(at),
        Err(error) => {
            let standing = prometheus.standing_alerts().await?;
            Err(error).with_context(|| format!("alerts that stand: {standing:#?}"))
        }
    }
}

/// What must be alerted in this story, in the order of its beginnings.
const ORDER: [&str; 4] =
    ["UnderstudySiteLost", "UnderstudyFailoverRunning", "UnderstudyUnprotected", "UnderstudyNeedsHuman"];
/// Groups of rules are evaluated at moments of their own: what begins within some scrapes may be told in either order.
const APART: f64 = 2.0;
/// Whatever is alerted; but how slow the disk of this machine is nobody has promised.
const FIRING: &str = "ALERTS{alertstate=\"firing\",alertname!=\"UnderstudyJournalSlow\"}";
/// What must not: the hub never fell, and nothing was wrong with it.
const NEVER: [&str; 6] = [
    "UnderstudyHubDown",
    "UnderstudyHubBlind",
    "UnderstudyFrozen",
    "UnderstudyCertificateExpiring",
    "UnderstudyOperationFailed",
    "UnderstudyDrillOverdue",
];

async fn alerts_came_in_order(prometheus: &Prometheus, seen: &Seen) -> Result<()> {
    let since_the_loss = Span { from: seen.failover.from, to: seen.all.to };
    let alerts = prometheus.query_range(FIRING, since_the_loss, STEP).await?;
    let mut story = begins(&alerts);
    story.sort_by(|one, other| one.1.total_cmp(&other.1));
    for (name, at) in &story {
        eprintln!("{:6.1} s  {name}", at - seen.failover.from);
    }
    let began = |name: &str| story.iter().find(|(its, _)| its == name).map(|(_, at)| *at);
    let mut before = seen.failover.from;
    for name in ORDER {
        let at = began(name).with_context(|| format!("{name} did not fire: {story:?}"))?;
        ensure!(at >= before - APART, "{name} came too early: {story:?}");
        before = before.max(at);
    }
    for name in NEVER {
        let fired = prometheus.query_range(&firing(name), since_the_loss, STEP).await?;
        ensure!(fired.is_empty(), "{name} fired: {story:?}");
    }
    let still = prometheus.query(FIRING, seen.all.to).await?;
    ensure!(still.is_empty(), "not resolved: {still:?}");
    Ok(())
}

/// By OTLP over HTTP, to the receiver of Prometheus: whoever sends instead of being scraped has the same dashboards and alerts.
async fn what_is_sent_has_the_same_names(federation: &Federation, prometheus: &Prometheus) -> Result<()> {
    let endpoint = format!("http://{}/api/v1/otlp", prometheus.address);
    let sends = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
        // Its instance, so that what is sent is told from what is scraped.
        ("POD_NAME", "sender"),
    ];
    federation.hub.start_with(&sends).await?;
    // Everything is known again, and has been scraped.
    told(prometheus, "understudy_placement_condition{condition=\"Protected\",instance=\"hub\"} == 1").await?;
    told(prometheus, "understudy_hub_leader{instance=\"sender\"} == 1").await?;
    let names = async |instance: &str| -> Result<BTreeSet<String>> {
        let ours = "job=\"understudy-hub\",__name__=~\"understudy_.+|rpc_.+\"";
        let query = format!("group by (__name__) ({{instance=\"{instance}\",{ours}}})");
        let series = prometheus.query(&query, now()).await?;
        Ok(series.iter().map(|one| one.label("__name__").to_owned()).collect())
    };
    let waited = within(SLOW, "what is scraped is sent as well", async || {
        let (scraped, sent) = (names("hub").await?, names("sender").await?);
        Ok((scraped.len() > 20 && scraped.is_subset(&sent)).then_some(()))
    });
    if let Err(error) = waited.await {
        let (scraped, sent) = (names("hub").await?, names("sender").await?);
        return Err(error).with_context(|| format!("scraped {scraped:#?}, and sent {sent:#?}"));
    }
    Ok(())
}

/// When each alert fired first.
fn begins(alerts: &[Series]) -> Vec<(String, f64)> {
    let mut story: Vec<(String, f64)> = Vec::new();
    for series in alerts {
        let (name, Some(first)) = (series.label("alertname"), series.told().next()) else { continue };
        match story.iter_mut().find(|(its, _)| its == name) {
            Some((_, at)) => *at = at.min(first.at),
            None => story.push((name.to_owned(), first.at)),
        }
    }
    story
}

async fn observers(say: Progress) -> Result<Observers> {
    let built = tokio::task::spawn_blocking(move || Observers::ensure(|doing| say(doing)));
    built.await.context("the build ended")?
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| eprintln!("{:6.1} s  {doing}", started.elapsed().as_secs_f64()))
}
