//! The newest of everything that was told, from which the gauges read.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crds::cluster::Liveness;
use crds::conditions::{ConditionType, Reason};
use crds::operation::{DROperationStatus, OperationKind, OperationPhase, StepState};
use hub_core::decision::{Explanation, Send};
use hub_core::explain::{Figures, OperationView, PlacementView, SiteReport, SyncCost};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use proto::{ClusterName, FromHub, OperationId, PlacementId, StepKind, Term, WallTime};
use understudy_telemetry::{Declaration, Sample};

use super::{
    ACTIVE, BLOCKED, BUILD, CERTIFICATE_EXPIRY, CONDITION, EXPECTED_LOSS, EXPECTED_RTO, FROZEN,
    HEARTBEAT_TIME, LAG, LAST_MOVE_TIME, LAST_SYNC_DURATION, LAST_SYNC_SIZE, LAST_SYNC_TIME, LEADER,
    LEASE_EXPIRY_TIME, LIVENESS, LOSS_BOUND, OPERATION_ACTIVE, OPERATION_PROPOSED, QUEUE_LENGTH,
    REPLAY_DURATION, TERM, WITNESS_TIME,
};

/// How many volumes of one placement have a series of their own.
const VOLUMES: usize = 16;

#[derive(Clone, Debug, Default)]
pub struct Told {
    pub leads: Option<Term>,
    pub queues: Queues,
    pub replay: Option<Duration>,
    pub certificate_ends: Option<i64>,
    sites: BTreeMap<ClusterName, SiteReport>,
    placements: BTreeMap<PlacementId, PlacementView>,
    /// Those that run.
    operations: BTreeMap<(PlacementId, OperationId), OperationView>,
    /// Those that wait for a human's answer.
    proposals: BTreeMap<(PlacementId, OperationId), OperationView>,
    leases: BTreeMap<(PlacementId, ClusterName), WallTime>,
    moved: BTreeMap<PlacementId, WallTime>,
    pub witnesses: BTreeMap<String, WallTime>,
}

/// How much waits in the hub's queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queues {
    pub wishes: usize,
    pub agents: usize,
    pub told: usize,
}

/// What an explanation brought that happens only once.
#[derive(Debug, Default, PartialEq)]
pub struct News {
    pub ended: Option<Ended>,
    pub waits_for: Option<&'static str>,
}

/// An operation that has ended. Spans are seconds.
#[derive(Debug, PartialEq)]
pub struct Ended {
    pub kind: &'static str,
    pub trigger: &'static str,
    pub result: &'static str,
    pub took: Option<f64>,
    pub steps: Vec<(String, f64)>,
    pub worst_loss: Option<f64>,
    pub downtime: Option<f64>,
}

impl Told {
    pub fn explain(&mut self, explanation: &Explanation) -> News {
        match explanation {
            Explanation::Placement(view) => News { waits_for: self.placement(view), ended: None },
            Explanation::Operation(view) => News { ended: self.operation(view), waits_for: None },
            Explanation::Site(report) => {
                self.sites.insert(report.cluster.clone(), report.clone());
                News::default()
            }
            Explanation::Released(placement, _) => {
                self.forget(placement);
                News::default()
            }
            Explanation::Happened(_) => News::default(),
        }
    }

    /// Returns what the placement waits for, where it did not wait for that before.
    fn placement(&mut self, view: &PlacementView) -> Option<&'static str> {
        let before = self.placements.insert(view.id.clone(), view.clone());
        let reason = |view: &PlacementView| view.waiting.as_ref().map(|finding| finding.reason);
        let now = reason(view);
        if now == before.as_ref().and_then(reason) { None } else { now.map(|reason| reason.as_str()) }
    }

    /// Returns an end that follows a beginning: after a restart, ended operations are told again. A proposal that is
    /// withdrawn was never begun.
    fn operation(&mut self, view: &OperationView) -> Option<Ended> {
        let key = (view.placement.clone(), view.operation.clone());
        match standing(&view.status) {
            Standing::Proposed => {
                self.proposals.insert(key, view.clone());
                None
            }
            Standing::Withdrawn => {
                self.proposals.remove(&key);
                None
            }
            Standing::Running => {
                self.proposals.remove(&key);
                self.operations.insert(key, view.clone());
                None
            }
            Standing::Ended(result) => {
                self.note_move(view, result);
                self.proposals.remove(&key);
                self.operations.remove(&key).map(|_| ended(view, result))
            }
        }
    }

    fn note_move(&mut self, view: &OperationView, result: &str) {
        let moves = match view.spec.kind {
            OperationKind::Deploy
            | OperationKind::FailOver
            | OperationKind::Migrate
            | OperationKind::FailBack => result == SUCCEEDED,
            OperationKind::Readopt | OperationKind::Resync | OperationKind::Release => false,
        };
        if let Some(finished) = view.status.finished.as_ref().filter(|_| moves) {
            let last = self.moved.entry(view.placement.clone()).or_insert(WallTime(0));
            *last = WallTime(finished.0.as_millisecond()).max(*last);
        }
    }

    fn forget(&mut self, placement: &PlacementId) {
        self.moved.remove(placement);
        self.placements.remove(placement);
        self.operations.retain(|(id, _), _| id != placement);
        self.proposals.retain(|(id, _), _| id != placement);
        self.leases.retain(|(id, _), _| id != placement);
    }

    /// Returns whether anything changed.
    pub fn sent(&mut self, send: &Send, now: WallTime) -> bool {
        let FromHub::Reply(reply) = &send.message else { return false };
        for grant in &reply.grants {
            let key = (grant.placement.clone(), send.to.clone());
            self.leases.insert(key, now + grant.policy.timing.ttl);
        }
        !reply.grants.is_empty()
    }

    pub fn heartbeat_times(&self) -> Vec<Sample> {
        let heard = self.sites.values().filter_map(|site| Some((site, site.last_heartbeat?)));
        heard.map(|(site, at)| HEARTBEAT_TIME.sample(seconds(at), [site.cluster.as_str()])).collect()
    }

    pub fn witness_times(&self) -> Vec<Sample> {
        let answered = self.witnesses.iter();
        answered.map(|(name, at)| WITNESS_TIME.sample(seconds(*at), [name.as_str()])).collect()
    }

    pub fn liveness(&self) -> Vec<Sample> {
        let states = [Liveness::Unheard, Liveness::Live, Liveness::Suspected, Liveness::Lost];
        let of = |site: &SiteReport| {
            let (cluster, now) = (site.cluster.clone(), site.liveness);
            states.map(|state| LIVENESS.sample(truth(state == now), [cluster.as_str(), liveness_name(state)]))
        };
        self.sites.values().flat_map(of).collect()
    }

    pub fn lease_expiry_times(&self) -> Vec<Sample> {
        let of = |((placement, cluster), at): (&(PlacementId, ClusterName), &WallTime)| {
            let name = &self.placements.get(placement)?.name;
            Some(
                LEASE_EXPIRY_TIME
                    .sample(seconds(*at), [name.namespace.as_str(), name.name.as_str(), cluster.as_str()]),
            )
        };
        self.leases.iter().filter_map(of).collect()
    }

    pub fn last_sync_times(&self) -> Vec<Sample> {
        self.per_volume(&LAST_SYNC_TIME, seconds)
    }

    pub fn lags(&self) -> Vec<Sample> {
        let now = now();
        self.per_volume(&LAG, |at| now.since(at).as_secs_f64())
    }

    pub fn last_sync_sizes(&self) -> Vec<Sample> {
        let bytes = |cost: &SyncCost| cost.bytes.map(|bytes| bytes as f64);
        self.per_cost(&LAST_SYNC_SIZE, bytes, |one, other| one + other)
    }

    pub fn last_sync_durations(&self) -> Vec<Sample> {
        let took = |cost: &SyncCost| cost.took.map(|took| took.as_secs_f64());
        self.per_cost(&LAST_SYNC_DURATION, took, f64::max)
    }

    fn per_volume(&self, declaration: &Declaration, value: impl Fn(WallTime) -> f64) -> Vec<Sample> {
        self.of_volumes(declaration, |figures| {
            let synced = figures.last_syncs.iter().filter_map(|(name, at)| Some((name.as_str(), (*at)?)));
            let shown = shown_volumes(synced.collect(), WallTime::min);
            shown.into_iter().map(|(name, at)| (name, value(at))).collect()
        })
    }

    fn per_cost(
        &self,
        declaration: &Declaration,
        value: impl Fn(&SyncCost) -> Option<f64>,
        together: impl Fn(f64, f64) -> f64,
    ) -> Vec<Sample> {
        self.of_volumes(declaration, |figures| {
            let costs = figures.last_sync_costs.iter();
            let known = costs.filter_map(|(name, cost)| Some((name.as_str(), value(cost)?)));
            shown_volumes(known.collect(), &together)
        })
    }

    fn of_volumes<'a>(
        &'a self,
        declaration: &Declaration,
        values: impl Fn(&'a Figures) -> Vec<(&'a str, f64)>,
    ) -> Vec<Sample> {
        let mut samples = Vec::new();
        for view in self.placements.values() {
            let cluster = view.figures.active.as_ref().map_or("", ClusterName::as_str);
            let name = &view.name;
            for (volume, value) in values(&view.figures) {
                samples
                    .push(declaration.sample(value, [name.namespace.as_str(), &name.name, cluster, volume]));
            }
        }
        samples
    }

    pub fn expected_losses(&self) -> Vec<Sample> {
        self.per_placement(&EXPECTED_LOSS, |view| {
            view.figures.expected_loss.map_or(f64::INFINITY, |loss| loss.as_secs_f64())
        })
    }

    pub fn expected_rtos(&self) -> Vec<Sample> {
        self.per_placement(&EXPECTED_RTO, |view| view.figures.expected_rto.as_secs_f64())
    }

    fn per_placement(&self, declaration: &Declaration, value: impl Fn(&PlacementView) -> f64) -> Vec<Sample> {
        let of = |view: &PlacementView| {
            declaration.sample(value(view), [view.name.namespace.as_str(), &view.name.name])
        };
        self.placements.values().map(of).collect()
    }

    pub fn conditions(&self) -> Vec<Sample> {
        let mut samples = Vec::new();
        for view in self.placements.values() {
            for condition in &view.status.conditions {
                let value = match condition.status.as_str() {
                    "True" => 1.0,
                    "False" => 0.0,
                    _ => -1.0,
                };
                let name = &view.name;
                samples.push(CONDITION.sample(
                    value,
                    [name.namespace.as_str(), &name.name, &condition.type_, &condition.reason],
                ));
            }
        }
        samples
    }

    /// Each reason that may stand in the way, also while it does not: what comes back to 0 has been seen.
    pub fn blocked(&self) -> Vec<Sample> {
        let types =
            [ConditionType::FailoverReady, ConditionType::AutomaticFailoverArmed, ConditionType::Protected];
        let of = |kind: ConditionType| {
            kind.reasons().iter().map(move |reason| {
                let says = |view: &&PlacementView| {
                    view.status.conditions.iter().any(|condition| {
                        condition.type_ == kind.as_str()
                            && condition.status != "True"
                            && condition.reason == reason.as_str()
                    })
                };
                let count = self.placements.values().filter(says).count();
                BLOCKED.sample(count as f64, [kind.as_str(), reason.as_str()])
            })
        };
        types.into_iter().flat_map(of).collect()
    }

    pub fn active_clusters(&self) -> Vec<Sample> {
        let of = |view: &PlacementView| {
            let cluster = view.figures.active.as_ref()?;
            Some(ACTIVE.sample(1.0, [view.name.namespace.as_str(), &view.name.name, cluster.as_str()]))
        };
        self.placements.values().filter_map(of).collect()
    }

    pub fn active_operations(&self) -> Vec<Sample> {
        let of = |view: &OperationView| {
            OPERATION_ACTIVE.sample(
                1.0,
                [
                    view.name.namespace.as_str(),
                    &view.name.name,
                    kind_name(view.spec.kind),
                    current_step(&view.status),
                ],
            )
        };
        self.operations.values().map(of).collect()
    }

    pub fn proposed_operations(&self) -> Vec<Sample> {
        let of = |view: &OperationView| {
            let name = &view.name;
            OPERATION_PROPOSED.sample(1.0, [name.namespace.as_str(), &name.name, kind_name(view.spec.kind)])
        };
        self.proposals.values().map(of).collect()
    }

    pub fn loss_bounds(&self) -> Vec<Sample> {
        let of = |view: &PlacementView| {
            let bound = view.figures.bound?;
            Some(LOSS_BOUND.sample(bound.as_secs_f64(), [view.name.namespace.as_str(), &view.name.name]))
        };
        self.placements.values().filter_map(of).collect()
    }

    pub fn last_move_times(&self) -> Vec<Sample> {
        let of = |(placement, at): (&PlacementId, &WallTime)| {
            let name = &self.placements.get(placement)?.name;
            Some(LAST_MOVE_TIME.sample(seconds(*at), [name.namespace.as_str(), &name.name]))
        };
        self.moved.iter().filter_map(of).collect()
    }

    pub fn leader(&self) -> Vec<Sample> {
        vec![LEADER.sample(truth(self.leads.is_some()), [])]
    }

    pub fn term(&self) -> Vec<Sample> {
        self.leads.iter().map(|term| TERM.sample(term.0 as f64, [])).collect()
    }

    pub fn frozen(&self) -> Vec<Sample> {
        let of = |reason: Reason| {
            let says = |view: &&PlacementView| {
                view.status.conditions.iter().any(|condition| condition.reason == reason.as_str())
            };
            FROZEN.sample(self.placements.values().filter(says).count() as f64, [reason.as_str()])
        };
        [Reason::HubFrozen, Reason::WitnessUnavailable].into_iter().map(of).collect()
    }

    pub fn queue_lengths(&self) -> Vec<Sample> {
        let Queues { wishes, agents, told } = self.queues;
        let of = |(queue, length): (&'static str, usize)| QUEUE_LENGTH.sample(length as f64, [queue]);
        [("wishes", wishes), ("agents", agents), ("told", told)].into_iter().map(of).collect()
    }

    pub fn replay(&self) -> Vec<Sample> {
        self.replay.iter().map(|took| REPLAY_DURATION.sample(took.as_secs_f64(), [])).collect()
    }

    pub fn certificate_expiry(&self) -> Vec<Sample> {
        self.certificate_ends.iter().map(|at| CERTIFICATE_EXPIRY.sample(*at as f64, [])).collect()
    }

    pub fn build(&self) -> Vec<Sample> {
        vec![BUILD.sample(1.0, [env!("CARGO_PKG_VERSION")])]
    }
}

/// By name; those beyond the limit are put together as one.
fn shown_volumes<V>(mut volumes: Vec<(&str, V)>, together: impl Fn(V, V) -> V) -> Vec<(&str, V)> {
    volumes.sort_by_key(|(name, _)| *name);
    let beyond = volumes.split_off(VOLUMES.min(volumes.len()));
    let others = beyond.into_iter().map(|(_, value)| value).reduce(together);
    volumes.extend(others.map(|value| ("others", value)));
    volumes
}

fn ended(view: &OperationView, result: &'static str) -> Ended {
    let status = &view.status;
    let took =
        status.started.as_ref().zip(status.finished.as_ref()).map(|(from, to)| micros(to) - micros(from));
    Ended {
        kind: kind_name(view.spec.kind),
        trigger: trigger(view),
        result,
        took,
        steps: status.durations.iter().map(|part| (part.phase.clone(), part.seconds)).collect(),
        worst_loss: worst_loss(status).filter(|_| result == SUCCEEDED),
        downtime: away_since(view)
            .zip(status.finished.as_ref())
            .filter(|_| result == SUCCEEDED)
            .map(|(since, finished)| (micros(finished) - since).max(0.0)),
    }
}

/// Since when nobody could use the application, where the operation is about that.
fn away_since(view: &OperationView) -> Option<f64> {
    match view.spec.kind {
        OperationKind::FailOver => view.status.lost_at.as_ref().map(micros),
        OperationKind::Migrate | OperationKind::FailBack => {
            let stops = view.status.plan.iter().find(|step| step.name == StepKind::ScaleDown.as_str())?;
            stops.started.as_ref().map(micros)
        }
        OperationKind::Deploy | OperationKind::Readopt | OperationKind::Resync | OperationKind::Release => {
            None
        }
    }
}

/// None where one of them is not known, or where nothing was given up.
fn worst_loss(status: &DROperationStatus) -> Option<f64> {
    let lost_at = micros(status.lost_at.as_ref()?);
    let losses = status.loss_receipt.iter().map(|loss| Some(lost_at - whole(loss.last_sync_time.as_ref()?)));
    losses.collect::<Option<Vec<f64>>>()?.into_iter().map(|loss| loss.max(0.0)).reduce(f64::max)
}

/// Where an operation stands between its proposal and its end.
enum Standing {
    Proposed,
    Withdrawn,
    Running,
    Ended(&'static str),
}

const SUCCEEDED: &str = "Succeeded";

fn standing(status: &DROperationStatus) -> Standing {
    match status.phase {
        Some(OperationPhase::Proposed) => Standing::Proposed,
        Some(OperationPhase::Withdrawn) => Standing::Withdrawn,
        Some(OperationPhase::Running | OperationPhase::Stuck) | None => Standing::Running,
        Some(OperationPhase::Succeeded) => Standing::Ended(SUCCEEDED),
        Some(OperationPhase::Aborted) => Standing::Ended("Aborted"),
        Some(OperationPhase::Failed) => Standing::Ended("Failed"),
    }
}

fn current_step(status: &DROperationStatus) -> &str {
    let current = status.plan.iter().find(|step| match step.state {
        StepState::Running | StepState::Stuck | StepState::Pending => true,
        StepState::Done => false,
    });
    current.map_or("", |step| step.name.as_str())
}

/// What made the hub begin: a human's yes, an edit of the DRPlacement, or what it saw itself.
fn trigger(view: &OperationView) -> &'static str {
    if view.status.approved_by.is_some() {
        return "Approved";
    }
    match view.spec.kind {
        OperationKind::Deploy | OperationKind::Release => "Declared",
        OperationKind::Migrate => "Requested",
        OperationKind::FailOver
        | OperationKind::Readopt
        | OperationKind::FailBack
        | OperationKind::Resync => "Observed",
    }
}

pub fn kind_name(kind: OperationKind) -> &'static str {
    match kind {
        OperationKind::Deploy => "Deploy",
        OperationKind::Readopt => "Readopt",
        OperationKind::FailOver => "FailOver",
        OperationKind::Release => "Release",
        OperationKind::Migrate => "Migrate",
        OperationKind::FailBack => "FailBack",
        OperationKind::Resync => "Resync",
    }
}

fn liveness_name(liveness: Liveness) -> &'static str {
    match liveness {
        Liveness::Unheard => "Unheard",
        Liveness::Live => "Live",
        Liveness::Suspected => "Suspected",
        Liveness::Lost => "Lost",
    }
}

fn truth(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

fn seconds(at: WallTime) -> f64 {
    at.0 as f64 / 1000.0
}

fn micros(at: &MicroTime) -> f64 {
    at.0.as_microsecond() as f64 / 1e6
}

fn whole(at: &Time) -> f64 {
    at.0.as_millisecond() as f64 / 1000.0
}

/// Ages are told as of the moment that they are asked for: a driver that stands still must not look fresh.
fn now() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
