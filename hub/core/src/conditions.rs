//! A placement's status, computed anew each time from one observation: nothing in it is remembered but when it changed.

use std::time::Duration;

use crds::conditions::{ConditionType, Reason};
use crds::placement::{DRPlacementStatus, Phase, StandbyStatus, VolumeStatus};
use crds::span::format as shown;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use proto::{ReplicationState, VolumeState};

use crate::checks;
use crate::explain::{Figures, SyncCost, time};
use crate::finding::Finding;
use crate::fleet::Liveness;
use crate::journal::OperationKind;
use crate::observation::{Observation, is_ready, last_sync, what_it_lacks};
use crate::progress::Operation;
use crate::step::running_reason;
use crate::wish;

/// A forced promotion costs four calls of the csi-addons sidecar, which makes five a second (its client's default rate).
const PROMOTION_OF_ONE_VOLUME: Duration = Duration::from_millis(800);

/// Allowance in `expectedRTO` for promotion (9.7 s on a real array, storage.md) and for starting the application.
const PROMOTION_AND_START: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Truth {
    True,
    False,
    Unknown,
}

struct Judged {
    kind: ConditionType,
    truth: Truth,
    finding: Finding,
}

pub struct Summary {
    pub status: DRPlacementStatus,
    pub figures: Figures,
}

pub fn summarize(o: &Observation, waiting: Option<&Finding>, before: Option<&DRPlacementStatus>) -> Summary {
    let figures = figures(o);
    let available = available(o);
    let protected = protected(o);
    let ready = ready(o, &available, &protected);
    let mut judged = vec![ready, available, protected, failover_ready(o), armed(o)];
    judged.extend(reconciling(o, waiting));
    judged.extend(stalled(waiting));
    let phase = phase(o, waiting, &judged);
    let reason = judged
        .iter()
        .find(|one| one.kind == ConditionType::Stalled)
        .or_else(|| judged.iter().find(|one| one.kind == ConditionType::Reconciling))
        .or_else(|| judged.first())
        .map(|one| one.finding.reason.to_string());
    let running = o.progress.running();
    let generation = i64::try_from(o.placement.generation.0).ok();
    let (active_cluster, epoch) = shown_owner(o, before);
    let status = DRPlacementStatus {
        observed_generation: generation,
        active_cluster,
        epoch,
        phase: Some(phase),
        expected_rto: Some(shown(figures.expected_rto)),
        expected_loss: Some(figures.expected_loss.map_or("unknown".to_owned(), shown)),
        last_sync_time: oldest_sync(o).and_then(time),
        standby: standby(o),
        standbys: o.standbys.iter().map(|standby| standby_status(o, standby)).collect(),
        skew: o.skew().map(shown),
        operation: running
            .map(|operation| &operation.intent)
            .or(o.progress.proposed.as_ref().map(|proposal| &proposal.intent))
            .map(|intent| intent.operation.0.clone()),
        step: running.and_then(Operation::current_step).map(|step| step.as_str().to_owned()),
        reason,
        conditions: judged.into_iter().map(|one| condition(o, one, generation, before)).collect(),
        volumes: o.remembered.map(|kept| volumes(o, kept.volumes.as_slice())).unwrap_or_default(),
    };
    Summary { status, figures }
}

/// The owner; where somebody knows more than this journal, what was told before it was lost stays.
fn shown_owner(o: &Observation, before: Option<&DRPlacementStatus>) -> (Option<String>, Option<i64>) {
    let own = o.progress.ownership.as_ref();
    let epoch = own.and_then(|ownership| i64::try_from(ownership.epoch.0).ok());
    let told = before.filter(|before| o.progress.needs_human.is_some() && before.epoch > epoch);
    match told {
        Some(before) => (before.active_cluster.clone(), before.epoch),
        None => (own.map(|ownership| ownership.holder.to_string()), epoch),
    }
}

/// The status of a DRPlacement whose spec cannot be understood: what is known stays, and Stalled says what to mend.
pub fn refused(
    before: Option<&DRPlacementStatus>,
    generation: u64,
    message: &str,
    now: proto::WallTime,
) -> DRPlacementStatus {
    let mut status = before.cloned().unwrap_or_default();
    let generation = i64::try_from(generation).ok();
    status.reason = Some(Reason::InvalidSpec.to_string());
    status.phase.get_or_insert(Phase::Pending);
    status.conditions.retain(|condition| {
        condition.type_ != ConditionType::Stalled.as_str() && condition.type_ != ConditionType::Ready.as_str()
    });
    for (kind, truth, reason) in [
        (ConditionType::Ready, "False", Reason::NotProtected),
        (ConditionType::Stalled, "True", Reason::InvalidSpec),
    ] {
        let kept = before
            .and_then(|status| {
                status.conditions.iter().find(|old| old.type_ == kind.as_str() && old.status == truth)
            })
            .map(|old| old.last_transition_time.clone());
        let Some(since) = kept.or_else(|| time(now)) else { continue };
        status.conditions.push(Condition {
            type_: kind.to_string(),
            status: truth.to_owned(),
            reason: reason.to_string(),
            message: message.to_owned(),
            observed_generation: generation,
            last_transition_time: since,
        });
    }
    status
}

fn condition(
    o: &Observation,
    judged: Judged,
    generation: Option<i64>,
    before: Option<&DRPlacementStatus>,
) -> Condition {
    let status = match judged.truth {
        Truth::True => "True",
        Truth::False => "False",
        Truth::Unknown => "Unknown",
    };
    let same = before
        .and_then(|before| before.conditions.iter().find(|old| old.type_ == judged.kind.as_str()))
        .filter(|old| old.status == status);
    let now = time(o.wall).unwrap_or(Time(jiff::Timestamp::UNIX_EPOCH));
    Condition {
        type_: judged.kind.to_string(),
        status: status.to_owned(),
        reason: judged.finding.reason.to_string(),
        message: judged.finding.message,
        observed_generation: generation,
        last_transition_time: same.map_or(now, |old| old.last_transition_time.clone()),
    }
}

fn judged(kind: ConditionType, truth: Truth, reason: Reason, message: String) -> Judged {
    Judged { kind, truth, finding: Finding::new(reason, message) }
}

fn is_silent(o: &Observation) -> bool {
    o.holder().is_none_or(|holder| holder.liveness != Liveness::Alive || holder.report.is_none())
}

fn available(o: &Observation) -> Judged {
    let kind = ConditionType::Available;
    let name = &o.placement.name;
    let Some(holder) = o.holder_name() else {
        return judged(
            kind,
            Truth::False,
            Reason::WorkloadNotReady,
            format!("{name}: no cluster owns it yet"),
        );
    };
    if is_silent(o) {
        return judged(kind, Truth::Unknown, Reason::ClusterSilent, format!("{holder}: not heard now"));
    }
    match o.holder().and_then(|site| site.report) {
        Some(report) if is_ready(report) => judged(
            kind,
            Truth::True,
            Reason::WorkloadReady,
            format!("{holder}: the workloads of {name} are ready"),
        ),
        report => judged(
            kind,
            Truth::False,
            Reason::WorkloadNotReady,
            format!("{holder}: the workloads of {name} are not ready; {}", what_it_lacks(report)),
        ),
    }
}

fn protected(o: &Observation) -> Judged {
    let kind = ConditionType::Protected;
    let name = &o.placement.name;
    let no = |reason, message| judged(kind, Truth::False, reason, message);
    let Some(kept) = o.remembered else {
        return no(Reason::ManifestsMissing, format!("{name}: no protected volume is known yet"));
    };
    let unhealthy = kept.volumes.iter().find(|volume| {
        volume
            .replication
            .as_ref()
            .is_some_and(|replication| replication.current && !replication.is_primary())
    });
    if let Some(volume) = unhealthy {
        let message =
            volume.replication.as_ref().map(|replication| replication.message.clone()).unwrap_or_default();
        return no(
            Reason::ReplicationError,
            format!("VolumeReplication of {}: not primary: {message}; look at its conditions", volume.claim),
        );
    }
    match (o.worst_loss(o.lost_by()), o.loss_bound()) {
        (None, _) => no(Reason::FirstSyncPending, format!("{name}: {}", checks::missing_copy(o))),
        (Some(_), None) => {
            no(Reason::StaleCopy, format!("{name}: no loss bound; set spec.failover.maxDataLoss"))
        }
        (Some(loss), Some(bound)) if loss > bound => no(
            Reason::StaleCopy,
            format!(
                "{name}: the oldest copy is {} old, more than {}; look at the replication",
                shown(loss),
                shown(bound)
            ),
        ),
        (Some(_), Some(bound)) => {
            let staged =
                o.target().and_then(|target| target.report).and_then(|report| report.staged.as_ref());
            if staged == Some(&kept.inventory.version) {
                judged(
                    kind,
                    Truth::True,
                    Reason::InSync,
                    format!("{name}: every copy is younger than {}", shown(bound)),
                )
            } else {
                no(
                    Reason::ManifestsMissing,
                    format!(
                        "{name}: its claims and volumes are not all staged at the standby; look at its agent's report"
                    ),
                )
            }
        }
    }
}

fn ready(o: &Observation, available: &Judged, protected: &Judged) -> Judged {
    let kind = ConditionType::Ready;
    let name = &o.placement.name;
    if o.progress.running().is_some() {
        return judged(kind, Truth::False, Reason::OperationRunning, format!("{name}: an operation runs"));
    }
    if o.holder_name().is_some() && is_silent(o) {
        return judged(kind, Truth::Unknown, Reason::NoContact, available.finding.message.clone());
    }
    if let Some(finding) = checks::not_paused(o) {
        return Judged { kind, truth: Truth::False, finding };
    }
    if available.truth == Truth::True && protected.truth == Truth::True {
        return judged(kind, Truth::True, Reason::Protected, format!("{name}: available and protected"));
    }
    let why = if available.truth == Truth::True { protected } else { available };
    judged(kind, Truth::False, Reason::NotProtected, why.finding.message.clone())
}

fn failover_ready(o: &Observation) -> Judged {
    let kind = ConditionType::FailoverReady;
    if o.progress.ownership.is_none() {
        let message = format!("{}: no cluster owns it yet", o.placement.name);
        return judged(kind, Truth::False, Reason::ManifestsMissing, message);
    }
    let lost = wish::is_silent(o);
    let accusation = if lost { checks::first(checks::ACCUSATION, o) } else { None };
    match accusation.or_else(|| checks::readiness(o)) {
        Some(finding) => Judged { kind, truth: Truth::False, finding },
        None => judged(
            kind,
            Truth::True,
            Reason::AllChecksPass,
            format!(
                "{}: {} could take over now",
                o.placement.name,
                standby(o).first().cloned().unwrap_or_default()
            ),
        ),
    }
}

fn armed(o: &Observation) -> Judged {
    let kind = ConditionType::AutomaticFailoverArmed;
    if o.progress.ownership.is_none() {
        let message = format!("{}: no cluster owns it yet", o.placement.name);
        return judged(kind, Truth::False, Reason::NotFenceCapable, message);
    }
    match checks::first(checks::ARMING, o) {
        Some(finding) => Judged { kind, truth: Truth::False, finding },
        None => {
            judged(kind, Truth::True, Reason::Armed, format!("{}: the hub may act alone", o.placement.name))
        }
    }
}

/// Reasons that need a human rather than time.
pub fn is_stalled(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::InvalidSpec
            | Reason::NeedsHuman
            | Reason::PromoteStuck
            | Reason::NoReplicationClass
            | Reason::FenceUnconfirmed
            | Reason::TargetUnreachable
            | Reason::DivergedData
            | Reason::ResyncStuck
            | Reason::HandoverStuck
            | Reason::RolledBack
    )
}

fn reconciling(o: &Observation, waiting: Option<&Finding>) -> Option<Judged> {
    let kind = ConditionType::Reconciling;
    if let Some(operation) = o.progress.running() {
        let reason = waiting.map(|finding| finding.reason).filter(|reason| is_a_pause(*reason));
        let reason = reason.unwrap_or(running_reason(operation.intent.kind));
        let message =
            waiting.map_or_else(|| operation.intent.operation.to_string(), |finding| finding.message.clone());
        return Some(judged(kind, Truth::True, reason, message));
    }
    if let Some(finding) = waiting.filter(|finding| finding.reason == Reason::WaitingForApproval) {
        return Some(Judged { kind, truth: Truth::True, finding: finding.clone() });
    }
    let first_sync = o.remembered.is_some() && o.worst_loss(o.lost_by()).is_none();
    first_sync.then(|| {
        judged(
            kind,
            Truth::True,
            Reason::FirstSync,
            format!("{}: the first copy is on its way", o.placement.name),
        )
    })
}

/// It runs, and waits for something beside it.
fn is_a_pause(reason: Reason) -> bool {
    matches!(reason, Reason::DependencyNotReady | Reason::Queued)
}

fn stalled(waiting: Option<&Finding>) -> Option<Judged> {
    let finding = waiting.filter(|finding| is_stalled(finding.reason))?;
    Some(Judged { kind: ConditionType::Stalled, truth: Truth::True, finding: finding.clone() })
}

fn phase(o: &Observation, waiting: Option<&Finding>, judged: &[Judged]) -> Phase {
    if o.progress.needs_human.is_some() {
        return Phase::NeedsHuman;
    }
    if let Some(operation) = o.progress.running() {
        return match operation.intent.kind {
            OperationKind::Deploy | OperationKind::Readopt => Phase::Deploying,
            OperationKind::FailOver => Phase::FailingOver,
            OperationKind::Migrate => Phase::Migrating,
            OperationKind::FailBack => Phase::FailingBack,
            OperationKind::Resync => Phase::Resyncing,
            OperationKind::Release => Phase::Releasing,
        };
    }
    if o.progress.ownership.is_none() {
        return Phase::Pending;
    }
    if o.placement.paused {
        return Phase::Paused;
    }
    if waiting.is_some_and(|finding| finding.reason == Reason::WaitingForApproval) {
        return Phase::WaitingForApproval;
    }
    let protected = judged.iter().any(|one| one.kind == ConditionType::Protected && one.truth == Truth::True);
    if protected { Phase::Protected } else { Phase::Unprotected }
}

fn standby(o: &Observation) -> Vec<String> {
    let holder = o.holder_name();
    o.placement.clusters.iter().filter(|cluster| Some(*cluster) != holder).map(ToString::to_string).collect()
}

fn standby_status(o: &Observation, (cluster, flaw): &(proto::ClusterName, Option<Finding>)) -> StandbyStatus {
    let flaw = flaw.clone().or_else(|| checks::not_a_follower(o, cluster));
    StandbyStatus {
        cluster: cluster.to_string(),
        ready: flaw.is_none(),
        reason: flaw.as_ref().map(|finding| finding.reason.to_string()),
        message: flaw.as_ref().map(|finding| finding.message.clone()),
    }
}

fn oldest_sync(o: &Observation) -> Option<proto::WallTime> {
    let kept = o.remembered?;
    kept.volumes.iter().map(last_sync).try_fold(None, |oldest: Option<proto::WallTime>, sync| {
        let sync = sync?;
        Some(Some(oldest.map_or(sync, |known| known.min(sync))))
    })?
}

fn volumes(o: &Observation, volumes: &[VolumeState]) -> Vec<VolumeStatus> {
    let cluster = o.remembered.map(|kept| kept.from.to_string());
    volumes
        .iter()
        .map(|volume| VolumeStatus {
            claim: volume.claim.clone(),
            cluster: cluster.clone(),
            state: volume.replication.as_ref().map(|replication| state_name(replication.state).to_owned()),
            last_sync_time: last_sync(volume).and_then(time),
            lag: last_sync(volume).map(|sync| shown(Duration::from_secs(o.wall.since(sync).as_secs()))),
        })
        .collect()
}

fn state_name(state: ReplicationState) -> &'static str {
    match state {
        ReplicationState::Primary => "Primary",
        ReplicationState::Secondary => "Secondary",
        ReplicationState::Unknown => "Unknown",
    }
}

fn figures(o: &Observation) -> Figures {
    let timing = &o.placement.policy.timing;
    let volumes =
        o.inventory().map_or(0, |inventory| u32::try_from(inventory.volumes.len()).unwrap_or(u32::MAX));
    let promotion_and_start = PROMOTION_AND_START + PROMOTION_OF_ONE_VOLUME * volumes;
    let volumes_kept = o.remembered.map(|kept| kept.volumes.as_slice()).unwrap_or_default();
    Figures {
        active: o.holder_name().cloned(),
        expected_loss: o.worst_loss(o.wall),
        expected_rto: timing.unreachable.max(timing.wait()) + timing.renew + timing.rpc + promotion_and_start,
        last_syncs: volumes_kept.iter().map(|volume| (volume.claim.clone(), last_sync(volume))).collect(),
        last_sync_costs: volumes_kept.iter().filter_map(last_sync_cost).collect(),
        bound: o.loss_bound(),
    }
}

fn last_sync_cost(volume: &VolumeState) -> Option<(String, SyncCost)> {
    let replication = volume.replication.as_ref().filter(|replication| replication.last_sync.is_some())?;
    let cost = SyncCost { bytes: replication.last_sync_bytes, took: replication.last_sync_took };
    Some((volume.claim.clone(), cost))
}
