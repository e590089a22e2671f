//! Asks Prometheus for everything that the page tells, and puts it in order.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::{Alert, Curve, Lane, Operation, Phase, Record, Seen, Stay};
use crate::prometheus::{Pace, Point, Prometheus, Series, Span};

const ACTIVE: &str = "understudy_operation_active == 1";
const LIVENESS: &str = "understudy_site_liveness == 1";
const OWNER: &str = "understudy_placement_active == 1";
const HEARD: &str = "understudy_site_heartbeat_time_seconds";
const STEP_SUMS: &str = "understudy_operation_step_duration_seconds_sum";
const STEP_COUNTS: &str = "understudy_operation_step_duration_seconds_count";
const DOWNTIMES: &str = "understudy_operation_downtime_seconds_sum";
const LOSSES: &str = "understudy_operation_data_loss_seconds_sum";
const ENDED: &str = "understudy_operations_total";
const LAG: &str = "time() - understudy_replication_last_sync_time_seconds";
const EXPECTED_LOSS: &str = "understudy_placement_expected_loss_seconds";
const EXPECTED_RTO: &str = "understudy_placement_expected_rto_seconds";
const BOUND: &str = "understudy_placement_loss_bound_seconds";
const ALERTS: &str = "ALERTS";

/// Everything that is asked, for who wants to ask it again.
pub const QUERIES: [&str; 14] = [
    ACTIVE,
    LIVENESS,
    OWNER,
    HEARD,
    STEP_SUMS,
    STEP_COUNTS,
    DOWNTIMES,
    LOSSES,
    ENDED,
    LAG,
    EXPECTED_LOSS,
    EXPECTED_RTO,
    BOUND,
    ALERTS,
];

/// So many looks without an operation are scrapes that a busy machine has missed; an operation takes longer to begin anew.
const MISSED: f64 = 6.5;
/// How much of the calm before the first operation is shown, and of the time after the last.
const BEFORE: f64 = 5.0;
const AFTER: f64 = 4.0;
/// In which order steps begin that are over before anybody looks: that of every plan.
const ORDER: [&str; 15] = [
    "Detect",
    "Fence",
    "ScaleDown",
    "BackUp",
    "Demote",
    "Restore",
    "AwaitFence",
    "Promote",
    "TakeOwnership",
    "ScaleUp",
    "AwaitReady",
    "Resync",
    "AwaitSync",
    "Rejoin",
    "Release",
];

/// Everything about the one placement that was moved in this time.
pub async fn gather(prometheus: &Prometheus, span: Span, pace: Pace) -> Result<Record> {
    let asked = Asked { prometheus, span, pace };
    let active = asked.of(ACTIVE).await?;
    let (namespace, placement) = named(&active).context("Prometheus has seen no operation")?;
    let totals = Totals::of(&asked).await?;
    let sites = asked.lanes(LIVENESS, "cluster", "state").await?;
    let owner = owner(&asked.of(OWNER).await?, asked.every());
    let mut operations = Vec::new();
    for run in runs(&active, asked.every()) {
        operations.push(operation(&asked, &run, &totals, &owner).await?);
    }
    let span = shown(span, &operations);
    let record = Record {
        namespace,
        placement,
        seen: Seen { span, every: asked.every(), quicker: pace.quicker },
        operations,
        sites,
        owner,
        lags: asked.curves(LAG, "volume").await?,
        expected_loss: asked.curve(EXPECTED_LOSS).await?,
        bound: asked.last(BOUND, span.to).await?,
        alerts: asked.alerts().await?,
    };
    Ok(within(record))
}

struct Asked<'a> {
    prometheus: &'a Prometheus,
    span: Span,
    pace: Pace,
}

impl Asked<'_> {
    fn every(&self) -> f64 {
        self.pace.scrape.as_secs_f64()
    }

    async fn of(&self, expression: &str) -> Result<Vec<Series>> {
        self.prometheus.query_range(expression, self.span, self.pace.scrape).await
    }

    /// The last value before a moment, of the largest series.
    async fn last(&self, expression: &str, before: f64) -> Result<Option<f64>> {
        let series = self.of(expression).await?;
        Ok(series.iter().filter_map(|one| value_at(one, before)).reduce(f64::max))
    }

    async fn lanes(&self, expression: &str, name: &str, state: &str) -> Result<Vec<Lane>> {
        let mut lanes: BTreeMap<String, Vec<Stay>> = BTreeMap::new();
        for series in self.of(expression).await? {
            let stays = stays(&series, series.label(state), self.every());
            lanes.entry(series.label(name).to_owned()).or_default().extend(stays);
        }
        Ok(lanes.into_iter().map(|(name, stays)| Lane { name, stays: sorted(stays) }).collect())
    }

    async fn curves(&self, expression: &str, name: &str) -> Result<Vec<Curve>> {
        let mut curves: BTreeMap<String, Vec<Point>> = BTreeMap::new();
        for series in self.of(expression).await? {
            let points = series.told().filter(|point| point.value.is_finite());
            curves.entry(series.label(name).to_owned()).or_default().extend(points);
        }
        Ok(curves
            .into_iter()
            .map(|(name, mut points)| {
                points.sort_by(|one, other| one.at.total_cmp(&other.at));
                Curve { name, points }
            })
            .collect())
    }

    async fn curve(&self, expression: &str) -> Result<Vec<Point>> {
        let curves = self.curves(expression, "").await?;
        Ok(curves.into_iter().flat_map(|curve| curve.points).collect())
    }

    async fn alerts(&self) -> Result<Vec<Alert>> {
        let mut alerts: BTreeMap<(String, String, String), Vec<Stay>> = BTreeMap::new();
        for series in self.of(ALERTS).await? {
            let about: Vec<&str> = ["cluster", "namespace", "placement", "kind"]
                .into_iter()
                .map(|label| series.label(label))
                .filter(|value| !value.is_empty())
                .collect();
            let key = (
                series.label("alertname").to_owned(),
                series.label("severity").to_owned(),
                about.join(" · "),
            );
            let stays = stays(&series, series.label("alertstate"), self.every());
            alerts.entry(key).or_default().extend(stays);
        }
        let mut alerts: Vec<Alert> = alerts
            .into_iter()
            .map(|((name, severity, about), stays)| Alert { name, severity, about, stays: sorted(stays) })
            .collect();
        alerts.sort_by(|one, other| first(&one.stays).total_cmp(&first(&other.stays)));
        Ok(alerts)
    }
}

/// What the hub adds up, over time: of each sum, by the labels kind and step.
struct Totals {
    steps: Vec<Series>,
    step_counts: Vec<Series>,
    downtimes: Vec<Series>,
    losses: Vec<Series>,
    ended: Vec<Series>,
}

impl Totals {
    async fn of(asked: &Asked<'_>) -> Result<Totals> {
        Ok(Totals {
            steps: asked.of(STEP_SUMS).await?,
            step_counts: asked.of(STEP_COUNTS).await?,
            downtimes: asked.of(DOWNTIMES).await?,
            losses: asked.of(LOSSES).await?,
            ended: asked.of(ENDED).await?,
        })
    }
}

impl Totals {
    /// How long each step took that ended in this time; one that was done already when it was its turn took nothing.
    fn took(&self, kind: &str, span: Span) -> BTreeMap<String, f64> {
        let of_kind = |series: &&Series| series.label("kind") == kind;
        let ended = self.step_counts.iter().filter(of_kind).filter(|one| growth(one, span).is_some());
        let took = |step: &str| {
            let sum = self.steps.iter().filter(of_kind).find(|one| one.label("step") == step);
            sum.and_then(|sum| growth(sum, span)).unwrap_or_default()
        };
        ended.map(|one| (one.label("step").to_owned(), took(one.label("step")))).collect()
    }
}

/// A time without a gap in which an operation of one kind ran, and when each of its steps was seen first.
struct Run {
    kind: String,
    span: Span,
    steps: BTreeMap<String, f64>,
}

/// The looks at which an operation ran, in runs of one kind without a gap.
fn runs(active: &[Series], every: f64) -> Vec<Run> {
    let mut looks: Vec<(f64, &str, &str)> = active
        .iter()
        .flat_map(|series| series.told().map(|point| (point.at, series.label("kind"), series.label("step"))))
        .collect();
    looks.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut runs: Vec<Run> = Vec::new();
    for (at, kind, step) in looks {
        let goes_on = runs.last().is_some_and(|run| run.kind == kind && at - run.span.to <= MISSED * every);
        if !goes_on {
            runs.push(Run { kind: kind.to_owned(), span: Span { from: at, to: at }, steps: BTreeMap::new() });
        }
        if let Some(run) = runs.last_mut() {
            run.span.to = at;
            run.steps.entry(step.to_owned()).or_insert(at);
        }
    }
    // Its adoption is not what a page is made for.
    runs.retain(|run| run.kind != "Deploy");
    runs
}

async fn operation(asked: &Asked<'_>, run: &Run, totals: &Totals, owner: &Lane) -> Result<Operation> {
    // Counted when it has ended, which is seen at the next look or the one after it.
    let counted = Span { from: run.span.from, to: run.span.to + 3.0 * asked.every() };
    let grown = |series: &[Series]| {
        let of_kind = series.iter().filter(|one| one.label("kind") == run.kind);
        of_kind.filter_map(|one| growth(one, counted)).reduce(|sum, more| sum + more)
    };
    let took = totals.took(&run.kind, counted);
    let result = totals
        .ended
        .iter()
        .find(|one| one.label("kind") == run.kind && growth(one, counted).is_some())
        .map_or("running", |one| one.label("result"));
    let decided = run.span.from - asked.every() / 2.0;
    let zero = decided - took.get("Detect").copied().unwrap_or_default();
    let calm = zero.min(run.span.from) - asked.every();
    let owner_at = |at: f64| {
        let stay = owner.stays.iter().rfind(|stay| stay.span.from <= at);
        stay.map_or("", |stay| stay.state.as_str()).to_owned()
    };
    let mut operation = Operation {
        kind: run.kind.clone(),
        from: owner_at(run.span.from),
        to: owner_at(counted.to),
        zero: last_sign_of_life(asked, run, zero).await?.unwrap_or(zero),
        ended: run.span.to,
        result: result.to_owned(),
        phases: Vec::new(),
        downtime: grown(&totals.downtimes),
        data_loss: grown(&totals.losses),
        promised_downtime: asked.last(EXPECTED_RTO, calm).await?,
        promised_loss: asked.last(EXPECTED_LOSS, calm).await?,
    };
    operation.phases = phases(&took, run, operation.zero, asked.every());
    if let Some(downtime) = operation.downtime.filter(|_| took.contains_key("Detect")) {
        operation.ended = operation.zero + downtime;
    }
    Ok(operation)
}

/// When the lost cluster was heard last, which its heartbeat's time says to the millisecond.
async fn last_sign_of_life(asked: &Asked<'_>, run: &Run, about: f64) -> Result<Option<f64>> {
    if run.kind != "FailOver" {
        return Ok(None);
    }
    let heard = asked.of(HEARD).await?;
    let at_decision = heard.iter().filter_map(|one| value_at(one, run.span.from));
    Ok(at_decision.min_by(|one, other| (one - about).abs().total_cmp(&(other - about).abs())))
}

/// Each part after the one before it, moved to where it was seen: a scrape may be as late as that, and a look at it once more.
fn phases(took: &BTreeMap<String, f64>, run: &Run, zero: f64, every: f64) -> Vec<Phase> {
    let rank = |name: &str| ORDER.iter().position(|known| *known == name).unwrap_or(ORDER.len());
    let mut names: Vec<&String> = took.keys().collect();
    names.sort_by_key(|name| rank(name));
    let mut next = zero;
    let mut phases = Vec::new();
    for name in names {
        let seen = run.steps.get(name).copied();
        let begins = seen.map_or(next, |seen| next.clamp(seen - 2.0 * every, seen));
        let took = took.get(name).copied().unwrap_or_default();
        phases.push(Phase { name: name.clone(), begins, took });
        next = begins + took;
    }
    phases
}

/// By how much a sum has grown. A series that did not exist before began at nothing.
fn growth(series: &Series, span: Span) -> Option<f64> {
    let before = value_at(series, span.from).unwrap_or_default();
    let after = value_at(series, span.to)?;
    (after > before).then_some(after - before)
}

fn value_at(series: &Series, at: f64) -> Option<f64> {
    series.told().rfind(|point| point.at <= at + 1e-6).map(|point| point.value)
}

fn named(active: &[Series]) -> Option<(String, String)> {
    let series = active.iter().find(|series| series.label("kind") != "Deploy")?;
    Some((series.label("namespace").to_owned(), series.label("placement").to_owned()))
}

/// Who owned the placement when; the newest to say so is right.
fn owner(active: &[Series], every: f64) -> Lane {
    let all = active.iter().flat_map(|series| stays(series, series.label("cluster"), every)).collect();
    Lane { name: "owner".to_owned(), stays: sorted(all) }
}

/// The times without a gap in which a series was there.
fn stays(series: &Series, state: &str, every: f64) -> Vec<Stay> {
    let mut stays: Vec<Stay> = Vec::new();
    for point in &series.points {
        match stays.last_mut() {
            Some(stay) if point.at - stay.span.to <= 1.5 * every => stay.span.to = point.at,
            _ => stays.push(Stay { state: state.to_owned(), span: Span { from: point.at, to: point.at } }),
        }
    }
    // It was so until the next look, as far as anybody knows.
    for stay in &mut stays {
        stay.span.to += every;
    }
    stays
}

fn sorted(mut stays: Vec<Stay>) -> Vec<Stay> {
    stays.sort_by(|one, other| one.span.from.total_cmp(&other.span.from));
    stays
}

fn first(stays: &[Stay]) -> f64 {
    stays.first().map_or(f64::INFINITY, |stay| stay.span.from)
}

/// A little before the first operation until a little after the last.
fn shown(span: Span, operations: &[Operation]) -> Span {
    let from = operations.iter().map(|operation| operation.zero).reduce(f64::min).unwrap_or(span.from);
    let to = operations.iter().map(|operation| operation.ended).reduce(f64::max).unwrap_or(span.to);
    Span { from: span.from.max(from - BEFORE), to: span.to.min(to + AFTER) }
}

/// Without what lies outside of the time that is shown.
fn within(mut record: Record) -> Record {
    let span = record.seen.span;
    let cut = |stays: &mut Vec<Stay>| {
        stays.retain(|stay| stay.span.to > span.from && stay.span.from < span.to);
        for stay in stays {
            stay.span = Span { from: stay.span.from.max(span.from), to: stay.span.to.min(span.to) };
        }
    };
    let inside = |point: &Point| point.at >= span.from && point.at <= span.to;
    record.sites.iter_mut().chain([&mut record.owner]).for_each(|lane| cut(&mut lane.stays));
    record.alerts.iter_mut().for_each(|alert| cut(&mut alert.stays));
    record.alerts.retain(|alert| !alert.stays.is_empty());
    record.lags.iter_mut().for_each(|curve| curve.points.retain(inside));
    record.lags.retain(|curve| !curve.points.is_empty());
    record.expected_loss.retain(inside);
    record
}
