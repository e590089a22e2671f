//! What the hub tells: one value per subject, which status, events, metrics and logs all print.

use std::time::Duration;

use crds::cluster::Liveness as ShownLiveness;
use crds::conditions::EventReason;
use crds::operation::{
    DROperationSpec, DROperationStatus, OperationKind as ShownKind, OperationPhase, PhaseDuration, StepState,
    StepStatus, VolumeLossStatus,
};
use crds::placement::DRPlacementStatus;
use crds::span::format as shown;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use proto::{
    ClusterName, FenceProof, Generation, OperationId, PlacementId, PlacementName, StepKind, WallTime,
};

use crate::finding::Finding;
use crate::journal::{OperationKind, VolumeLoss};
use crate::progress::{Ending, Operation, Proposal};

#[derive(Clone, Debug, PartialEq)]
pub struct PlacementView {
    pub id: PlacementId,
    pub name: PlacementName,
    pub generation: Generation,
    pub status: DRPlacementStatus,
    pub figures: Figures,
    /// The finding that is waited for now.
    pub waiting: Option<Finding>,
}

/// The numbers behind a status, for metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    pub active: Option<ClusterName>,
    pub expected_loss: Option<Duration>,
    pub expected_rto: Duration,
    /// Per claim, when its last complete copy was taken.
    pub last_syncs: Vec<(String, Option<WallTime>)>,
    /// Per claim, where its storage says so.
    pub last_sync_costs: Vec<(String, SyncCost)>,
    pub bound: Option<Duration>,
}

/// How much the last copy carried over, and how long it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncCost {
    pub bytes: Option<u64>,
    pub took: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct OperationView {
    pub placement: PlacementId,
    pub name: PlacementName,
    pub operation: OperationId,
    pub spec: DROperationSpec,
    pub status: DROperationStatus,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SiteReport {
    pub cluster: ClusterName,
    pub liveness: ShownLiveness,
    pub last_heartbeat: Option<WallTime>,
    pub version: String,
}

/// Something that has happened, told once.
#[derive(Clone, Debug, PartialEq)]
pub struct Happening {
    pub placement: PlacementId,
    pub name: PlacementName,
    pub reason: EventReason,
    /// Whether somebody should be worried.
    pub warning: bool,
    pub message: String,
    pub operation: Option<OperationId>,
}

pub fn time(at: WallTime) -> Option<Time> {
    jiff::Timestamp::from_millisecond(at.0).ok().map(Time)
}

fn precise(at: WallTime) -> Option<MicroTime> {
    jiff::Timestamp::from_millisecond(at.0).ok().map(MicroTime)
}

pub fn operation_view(operation: &Operation, waiting: Option<&Finding>, stuck: bool) -> OperationView {
    let intent = &operation.intent;
    OperationView {
        placement: intent.placement.clone(),
        name: intent.name.clone(),
        operation: intent.operation.clone(),
        spec: DROperationSpec {
            placement: intent.name.name.clone(),
            kind: shown_kind(intent.kind),
            from: intent.from.as_ref().map(ToString::to_string),
            to: Some(intent.to.to_string()),
            epoch: i64::try_from(intent.epoch.0).unwrap_or(i64::MAX),
        },
        status: operation_status(operation, waiting, stuck),
    }
}

/// What would be done if somebody said yes.
pub fn proposal_view(proposal: &Proposal, waiting: Option<&Finding>) -> OperationView {
    let mut view = operation_view(&as_if_begun(proposal), None, false);
    view.status.phase = Some(OperationPhase::Proposed);
    view.status.reason = waiting.map(|finding| finding.reason.to_string());
    view.status.message = waiting.map(|finding| finding.message.clone());
    view
}

/// It no longer stands, and no approval counts for it.
pub fn withdrawn_view(proposal: &Proposal, why: &str) -> OperationView {
    let mut view = operation_view(&as_if_begun(proposal), None, false);
    view.status.phase = Some(OperationPhase::Withdrawn);
    view.status.message = Some(why.to_owned());
    view.status.result = Some("Withdrawn".to_owned());
    view
}

fn as_if_begun(proposal: &Proposal) -> Operation {
    Operation {
        intent: proposal.intent.clone(),
        started: proposal.since,
        steps: std::collections::BTreeMap::new(),
        proof: None,
        ended: None,
        syncs: Vec::new(),
    }
}

fn operation_status(operation: &Operation, waiting: Option<&Finding>, stuck: bool) -> DROperationStatus {
    let intent = &operation.intent;
    let (phase, message, result) = match &operation.ended {
        None if stuck => (OperationPhase::Stuck, waiting.map(|finding| finding.message.clone()), None),
        None => (OperationPhase::Running, waiting.map(|finding| finding.message.clone()), None),
        Some((Ending::Committed, _)) => (OperationPhase::Succeeded, None, Some("Succeeded".to_owned())),
        Some((Ending::Cut { reason }, _)) => {
            (OperationPhase::Failed, Some(reason.clone()), Some("Failed".to_owned()))
        }
        Some((Ending::Aborted { reason }, _)) => {
            (OperationPhase::Aborted, Some(reason.clone()), Some("Aborted".to_owned()))
        }
    };
    DROperationStatus {
        phase: Some(phase),
        reason: waiting.filter(|_| operation.is_running()).map(|finding| finding.reason.to_string()),
        message,
        plan: intent.plan.iter().map(|step| step_status(operation, *step, waiting, stuck)).collect(),
        evidence: intent.evidence.clone(),
        fence_proof: operation.proof.as_ref().map(|(proof, _)| proof_name(proof).to_owned()),
        loss_receipt: intent.losses.iter().map(|loss| loss_status(operation, loss)).collect(),
        expected_loss: intent
            .losses
            .iter()
            .map(|loss| loss.lost_ms)
            .max_by_key(|lost| lost.unwrap_or(u64::MAX))
            .map(|worst| worst.map_or("unknown".to_owned(), |ms| at_least(Duration::from_millis(ms)))),
        generation: i64::try_from(intent.generation.0).ok(),
        approved_by: intent.approval.as_ref().map(|approval| approval.approver.clone()),
        lost_at: intent.lost_at.and_then(precise),
        started: precise(operation.started),
        finished: operation.ended.as_ref().and_then(|(_, at)| precise(*at)),
        result,
        durations: durations(operation),
    }
}

fn step_status(operation: &Operation, step: StepKind, waiting: Option<&Finding>, stuck: bool) -> StepStatus {
    let progress = operation.step(step);
    let current = operation.is_running() && operation.current_step() == Some(step);
    let state = match (progress.issued, progress.acknowledged) {
        (_, Some(_)) => StepState::Done,
        (Some(_), None) if current && stuck => StepState::Stuck,
        (Some(_), None) => StepState::Running,
        (None, None) => StepState::Pending,
    };
    let proof = operation.proof.as_ref().filter(|_| step == StepKind::AwaitFence);
    StepStatus {
        name: step.as_str().to_owned(),
        state,
        started: progress.issued.and_then(precise),
        finished: progress.acknowledged.and_then(precise),
        waiting_for: waiting.filter(|_| current).map(|finding| finding.message.clone()),
        evidence: proof.map(|(proof, _)| proof_name(proof).to_owned()),
    }
}

fn loss_status(operation: &Operation, loss: &VolumeLoss) -> VolumeLossStatus {
    let stopped = operation.proof.as_ref().map(|(_, at)| *at);
    let at_most = stopped.zip(loss.last_sync).map(|(stopped, sync)| stopped.since(sync));
    VolumeLossStatus {
        claim: loss.claim.clone(),
        last_sync_time: loss.last_sync.and_then(time),
        lost: loss.lost_ms.map_or("unknown".to_owned(), |ms| at_least(Duration::from_millis(ms))),
        lost_at_most: at_most.map(at_least),
    }
}

/// Rounded up to a second: a receipt must not promise less loss than there was.
pub fn at_least(span: Duration) -> String {
    shown(Duration::from_secs(span.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)))
}

/// How long each part took, in seconds: the detection, which is the time from the last sign of life to the decision, and
/// each step. With them the parts add up to the time without the application.
pub fn durations(operation: &Operation) -> Vec<PhaseDuration> {
    let mut parts = Vec::new();
    if let Some(lost_at) = operation.intent.lost_at {
        parts.push(part("Detect", operation.started.since(lost_at)));
    }
    for step in &operation.intent.plan {
        let progress = operation.step(*step);
        if let (Some(issued), Some(acknowledged)) = (progress.issued, progress.acknowledged) {
            parts.push(part(step.as_str(), acknowledged.since(issued)));
        }
    }
    parts
}

fn part(phase: &str, span: Duration) -> PhaseDuration {
    PhaseDuration { phase: phase.to_owned(), seconds: span.as_secs_f64() }
}

pub fn shown_kind(kind: OperationKind) -> ShownKind {
    match kind {
        OperationKind::Deploy => ShownKind::Deploy,
        OperationKind::Readopt => ShownKind::Readopt,
        OperationKind::FailOver => ShownKind::FailOver,
        OperationKind::Migrate => ShownKind::Migrate,
        OperationKind::FailBack => ShownKind::FailBack,
        OperationKind::Resync => ShownKind::Resync,
        OperationKind::Release => ShownKind::Release,
    }
}

pub fn proof_name(proof: &FenceProof) -> &'static str {
    match proof {
        FenceProof::NeverHeld => "NeverHeld",
        FenceProof::Acknowledged => "Acknowledged",
        FenceProof::LeaseExpired => "LeaseExpired",
        FenceProof::Storage => "Storage",
        FenceProof::Asserted { approver: _ } => "Asserted",
    }
}
