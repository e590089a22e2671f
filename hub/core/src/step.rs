//! What each step needs to start, what it asks for, and when it is done. One table; who walks it knows no particular step.

use std::time::Duration;

use crds::conditions::Reason;
use crds::span::format as shown;
use proto::{Action, ClusterName, FenceProof, Outcome, Refusal, StepKind, WorkloadScale};

use crate::checks;
use crate::finding::Finding;
use crate::journal::{Entry, OperationKind};
use crate::lease::expiry_wait;
use crate::observation::{Observation, is_ready};
use crate::progress::Operation;

pub enum Standing {
    /// Done, and what follows from it beside the acknowledgement.
    Done(Vec<Entry>),
    Waiting(Finding),
}

/// One line of the table.
pub struct Rule {
    pub may_start: fn(&Observation, &Operation) -> Option<Finding>,
    /// What an agent is told as long as the operation wants it; sent again until it is answered.
    pub command: fn(&Observation, &Operation) -> Vec<(ClusterName, Action)>,
    pub standing: fn(&Observation, &Operation) -> Standing,
}

pub fn rule(step: StepKind) -> Rule {
    match step {
        StepKind::Fence => Rule { may_start: at_once, command: fence, standing: done },
        StepKind::Restore => Rule { may_start: at_once, command: restore, standing: restored },
        StepKind::AwaitFence => Rule { may_start: at_once, command: nothing, standing: fenced },
        StepKind::Promote => Rule { may_start: may_promote, command: promote, standing: promoted },
        StepKind::TakeOwnership => Rule { may_start: at_once, command: nothing, standing: owned },
        StepKind::ScaleUp => Rule { may_start: at_once, command: scale_up, standing: scaled_up },
        StepKind::AwaitReady => Rule { may_start: at_once, command: nothing, standing: ready },
        StepKind::Release => Rule { may_start: at_once, command: release, standing: released },
    }
}

fn at_once(_: &Observation, _: &Operation) -> Option<Finding> {
    None
}

fn nothing(_: &Observation, _: &Operation) -> Vec<(ClusterName, Action)> {
    Vec::new()
}

fn done(_: &Observation, _: &Operation) -> Standing {
    Standing::Done(Vec::new())
}

/// Best effort: the operation goes on at once, and the command goes on until the fence is proven.
fn fence(_: &Observation, operation: &Operation) -> Vec<(ClusterName, Action)> {
    match (&operation.intent.from, &operation.proof) {
        (Some(from), None) => vec![(from.clone(), Action::Fence)],
        (Some(_) | None, _) => Vec::new(),
    }
}

fn restore(o: &Observation, operation: &Operation) -> Vec<(ClusterName, Action)> {
    let wanted = operation.step(StepKind::Restore).acknowledged.is_none();
    match o.inventory() {
        Some(inventory) if wanted => {
            vec![(operation.intent.to.clone(), Action::Restore { inventory: inventory.clone() })]
        }
        Some(_) | None => Vec::new(),
    }
}

fn restored(o: &Observation, operation: &Operation) -> Standing {
    let target = o.site(&operation.intent.to);
    let staged = target.and_then(|site| site.report).and_then(|report| report.staged.as_ref());
    let wanted = o.inventory().map(|inventory| &inventory.version);
    if staged.is_some() && staged == wanted {
        return Standing::Done(Vec::new());
    }
    answered(o, operation, StepKind::Restore, &operation.intent.to)
}

fn fenced(o: &Observation, operation: &Operation) -> Standing {
    let intent = &operation.intent;
    let proven = |proof| {
        let fence =
            Entry::Fence { placement: intent.placement.clone(), operation: intent.operation.clone(), proof };
        Standing::Done(vec![fence])
    };
    let from = intent.from.as_ref().and_then(|from| o.site(from));
    if from
        .and_then(|site| site.answers.get(&StepKind::Fence))
        .is_some_and(|answer| **answer == Outcome::Done)
    {
        return proven(FenceProof::Acknowledged);
    }
    let holder = intent.from.as_ref().map_or("the old holder".to_owned(), ToString::to_string);
    let Some(wait) = expiry_wait(o.progress) else {
        return Standing::Waiting(Finding::new(
            Reason::FenceUnconfirmed,
            format!(
                "{holder}: may run on while nobody answers, so waiting proves nothing; stop it, and assert that it is off"
            ),
        ));
    };
    if o.lease_age >= wait {
        return proven(FenceProof::LeaseExpired);
    }
    Standing::Waiting(Finding::new(
        Reason::FailoverRunning,
        format!("{holder}: certainly stopped in {}", shown(wait.saturating_sub(o.lease_age))),
    ))
}

/// The last look before the point of no return: the accusation again where only time is the proof, and in any case the
/// user's last word and the target.
fn may_promote(o: &Observation, operation: &Operation) -> Option<Finding> {
    match operation.intent.kind {
        OperationKind::FailOver => {
            let by_time = matches!(operation.proof, Some((FenceProof::LeaseExpired, _)));
            let accusation = if by_time { checks::first(checks::ACCUSATION, o) } else { None };
            accusation
                .or_else(|| checks::first(checks::ARMING, o))
                .or_else(|| checks::first(checks::READINESS, o))
        }
        OperationKind::Deploy | OperationKind::Readopt | OperationKind::Release => None,
    }
}

fn promote(_: &Observation, operation: &Operation) -> Vec<(ClusterName, Action)> {
    let to = &operation.intent.to;
    if operation.step(StepKind::Promote).acknowledged.is_some() {
        return Vec::new();
    }
    let proof = operation.proof.as_ref().map_or(FenceProof::NeverHeld, |(proof, _)| proof.clone());
    vec![(to.clone(), Action::Promote { proof, claims: operation.intent.claims.clone() })]
}

fn promoted(o: &Observation, operation: &Operation) -> Standing {
    answered(o, operation, StepKind::Promote, &operation.intent.to)
}

fn owned(_: &Observation, operation: &Operation) -> Standing {
    let intent = &operation.intent;
    Standing::Done(vec![Entry::Ownership {
        placement: intent.placement.clone(),
        name: intent.name.clone(),
        epoch: intent.epoch,
        holder: intent.to.clone(),
    }])
}

fn scale_up(o: &Observation, operation: &Operation) -> Vec<(ClusterName, Action)> {
    if operation.step(StepKind::ScaleUp).acknowledged.is_some() {
        return Vec::new();
    }
    let workloads = o.inventory().map(|inventory| inventory.workloads.as_slice()).unwrap_or_default();
    let workloads = workloads
        .iter()
        .map(|wanted| WorkloadScale { workload: wanted.workload.clone(), replicas: wanted.replicas })
        .collect();
    vec![(operation.intent.to.clone(), Action::ScaleUp { workloads })]
}

fn scaled_up(o: &Observation, operation: &Operation) -> Standing {
    answered(o, operation, StepKind::ScaleUp, &operation.intent.to)
}

fn ready(o: &Observation, operation: &Operation) -> Standing {
    let to = &operation.intent.to;
    let nothing_wanted = o
        .inventory()
        .is_some_and(|inventory| inventory.workloads.iter().all(|workload| workload.replicas == 0));
    match o.site(to).and_then(|site| site.report) {
        Some(report) if is_ready(report) || nothing_wanted => Standing::Done(Vec::new()),
        Some(_) | None => Standing::Waiting(Finding::new(
            Reason::WorkloadNotReady,
            format!("{to}: the workloads of {} are not ready yet; look at their pods", o.placement.name),
        )),
    }
}

fn release(o: &Observation, _: &Operation) -> Vec<(ClusterName, Action)> {
    o.sites.iter().map(|site| (site.cluster.name.clone(), Action::Release)).collect()
}

/// The holder and everybody in contact must have let go; who is away is told when it returns.
fn released(o: &Observation, operation: &Operation) -> Standing {
    let waiting = o.sites.iter().find(|site| {
        let needed = site.connected || o.holder_name() == Some(&site.cluster.name);
        let answer = site.answers.get(&StepKind::Release);
        needed && !answer.is_some_and(|answer| **answer == Outcome::Done)
    });
    match waiting {
        None => Standing::Done(vec![Entry::Released { placement: operation.intent.placement.clone() }]),
        Some(site) => answered(o, operation, StepKind::Release, &site.cluster.name),
    }
}

/// A driver that is busy answers with an error first, and a first forced promotion takes some ten seconds (storage.md, "Seen
/// on a real array"). After this long, or after so many calls if that is longer, what fails is called stuck.
const STUCK_AFTER: Duration = Duration::from_secs(10);
const STUCK_AFTER_CALLS: u32 = 5;

/// How an agent answered the step's command.
fn answered(o: &Observation, operation: &Operation, step: StepKind, cluster: &ClusterName) -> Standing {
    let name = &o.placement.name;
    let waiting = |reason, message: String| Standing::Waiting(Finding::new(reason, message));
    let running = match operation.intent.kind {
        OperationKind::FailOver => Reason::FailoverRunning,
        OperationKind::Deploy | OperationKind::Readopt => Reason::DeployRunning,
        OperationKind::Release => Reason::ReleaseRunning,
    };
    match o.site(cluster).and_then(|site| site.answers.get(&step)) {
        Some(Outcome::Done) => Standing::Done(Vec::new()),
        Some(Outcome::Working { waiting_for }) => waiting(running, format!("{cluster}: {waiting_for}")),
        Some(Outcome::Failing { reason, message }) => {
            let since = operation.step(step).issued.map_or(Duration::ZERO, |issued| o.wall.since(issued));
            let young = since < (o.placement.policy.timing.rpc * STUCK_AFTER_CALLS).max(STUCK_AFTER);
            let stuck =
                if step == StepKind::Promote { Reason::PromoteStuck } else { Reason::TargetUnreachable };
            let reason_now = if young { running } else { stuck };
            waiting(reason_now, format!("{cluster}: {reason}: {message}"))
        }
        Some(Outcome::Refused {
            refusal: Refusal::PromiseOutstanding | Refusal::Expired | Refusal::NotAssigned,
            epoch_seen: _,
        }) => waiting(
            running,
            format!(
                "{cluster}: has promised the old holder to wait, or was asked too late; it is asked again"
            ),
        ),
        Some(Outcome::Refused {
            refusal: refusal @ (Refusal::StaleEpoch | Refusal::Conflict),
            epoch_seen,
        }) => waiting(
            Reason::NeedsHuman,
            format!(
                "{cluster}: refuses {step} of {name} at epoch {}: {} (it has seen epoch {epoch_seen}); look at both sites before anything else",
                operation.intent.epoch,
                refusal.as_str()
            ),
        ),
        None => waiting(running, format!("{cluster}: has not answered {step} of {name} yet")),
    }
}
