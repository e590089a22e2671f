//! What each step needs to start, what it asks for, and when it is done. One table; who walks it knows no particular step.

use std::time::Duration;

use crds::conditions::Reason;
use crds::span::format as shown;
use proto::{
    Action, ClusterName, FenceProof, Outcome, Refusal, Role, Rule as Safety, StepKind, Timing, WorkloadScale,
    kept,
};

use crate::checks;
use crate::finding::Finding;
use crate::journal::{Entry, OperationKind};
use crate::lease::expiry_wait;
use crate::observation::{Observation, SiteView, is_meant_to_be_primary, is_ready, last_sync, what_it_lacks};
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
        StepKind::Fence => Rule { may_start: at_once, command: fence, standing: told_to_stop },
        StepKind::ScaleDown => Rule { may_start: at_once, command: scale_down, standing: scaled_down },
        StepKind::BackUp => Rule { may_start: at_once, command: show_what_is_there, standing: backed_up },
        StepKind::Demote => Rule { may_start: at_once, command: demote, standing: demoted },
        StepKind::Restore => Rule { may_start: at_once, command: restore, standing: restored },
        StepKind::AwaitFence => Rule { may_start: at_once, command: nothing, standing: fenced },
        StepKind::Promote => Rule { may_start: may_promote, command: promote, standing: promoted },
        StepKind::TakeOwnership => Rule { may_start: at_once, command: nothing, standing: owned },
        StepKind::ScaleUp => Rule { may_start: dependencies_serve, command: scale_up, standing: scaled_up },
        StepKind::AwaitReady => Rule { may_start: at_once, command: nothing, standing: ready },
        StepKind::Resync => Rule { may_start: may_throw_away, command: resync, standing: resynced },
        StepKind::AwaitSync => Rule { may_start: at_once, command: nothing, standing: synced_again },
        StepKind::Rejoin => Rule { may_start: at_once, command: rejoin, standing: rejoined },
        StepKind::Release => Rule { may_start: at_once, command: release, standing: released },
    }
}

fn at_once(_: &Observation, _: &Operation) -> Option<Finding> {
    None
}

fn nothing(_: &Observation, _: &Operation) -> Vec<(ClusterName, Action)> {
    Vec::new()
}

/// The cluster that an operation has to stop: the one it leaves, or the returned one whose copy is made anew.
fn to_be_stopped(operation: &Operation) -> Option<&ClusterName> {
    match operation.intent.kind {
        OperationKind::Resync => Some(&operation.intent.to),
        OperationKind::FailOver | OperationKind::Migrate | OperationKind::FailBack => {
            operation.intent.from.as_ref()
        }
        OperationKind::Deploy | OperationKind::Readopt | OperationKind::Release => None,
    }
}

/// The command of one step to one cluster, until the step is done.
fn until_done(
    operation: &Operation,
    step: StepKind,
    cluster: Option<&ClusterName>,
    action: impl FnOnce() -> Action,
) -> Vec<(ClusterName, Action)> {
    match cluster {
        Some(cluster) if operation.step(step).acknowledged.is_none() => vec![(cluster.clone(), action())],
        Some(_) | None => Vec::new(),
    }
}

/// In a failover best effort: it goes on at once, and the command goes on until the fence is proven. A returned cluster has
/// fenced itself before it spoke, so a resync looks at what it reports instead.
fn fence(_: &Observation, operation: &Operation) -> Vec<(ClusterName, Action)> {
    match (&operation.intent.from, &operation.proof) {
        (Some(from), None) if operation.intent.kind == OperationKind::FailOver => {
            vec![(from.clone(), Action::Fence)]
        }
        (Some(_) | None, _) => Vec::new(),
    }
}

fn told_to_stop(o: &Observation, operation: &Operation) -> Standing {
    if operation.intent.kind != OperationKind::Resync {
        return Standing::Done(Vec::new());
    }
    match is_stopped_and_secondary(o, operation) {
        None => Standing::Done(Vec::new()),
        Some(finding) => Standing::Waiting(finding),
    }
}

fn scale_down(_: &Observation, operation: &Operation) -> Vec<(ClusterName, Action)> {
    until_done(operation, StepKind::ScaleDown, to_be_stopped(operation), || Action::ScaleDown)
}

fn scaled_down(o: &Observation, operation: &Operation) -> Standing {
    answered_by_source(o, operation, StepKind::ScaleDown)
}

/// An agent that has restarted since it was scaled down may not know that it is the source of the last backup.
fn show_what_is_there(_: &Observation, operation: &Operation) -> Vec<(ClusterName, Action)> {
    until_done(operation, StepKind::BackUp, to_be_stopped(operation), || Action::ScaleDown)
}

/// Rule 2 of storage.md: PV and PVC only, and as they are now that nothing changes them any more.
fn backed_up(o: &Observation, operation: &Operation) -> Standing {
    let intent = &operation.intent;
    let source = intent.from.as_ref().and_then(|from| o.site(from));
    let stopped = source.and_then(|site| site.report).filter(|report| {
        report.role == Role::Fenced && report.epoch_seen == intent.epoch && report.pods == 0
    });
    match stopped.and_then(|report| report.inventory.as_ref()) {
        // The hub's copy is taken from that report before this is asked.
        Some(inventory) if o.inventory().is_some_and(|kept| kept.version == inventory.version) => {
            let claims = inventory.volumes.iter().map(|volume| volume.claim.clone()).collect();
            let (placement, operation) = (intent.placement.clone(), intent.operation.clone());
            Standing::Done(vec![Entry::BackedUp { placement, operation, claims }])
        }
        Some(_) | None => Standing::Waiting(Finding::new(
            running_reason(intent.kind),
            format!(
                "{}: has not reported its claims and volumes since it was scaled down",
                intent.from.as_ref().map_or("the holder", ClusterName::as_str)
            ),
        )),
    }
}

fn demote(_: &Observation, operation: &Operation) -> Vec<(ClusterName, Action)> {
    until_done(operation, StepKind::Demote, to_be_stopped(operation), || Action::Demote)
}

/// The old holder's word is the proof, and the last data has crossed: only now may anything be promoted (protocol §5).
fn demoted(o: &Observation, operation: &Operation) -> Standing {
    let intent = &operation.intent;
    match answered_by_source(o, operation, StepKind::Demote) {
        Standing::Done(mut entries) => {
            entries.push(Entry::Fence {
                placement: intent.placement.clone(),
                operation: intent.operation.clone(),
                proof: FenceProof::Acknowledged,
            });
            Standing::Done(entries)
        }
        Standing::Waiting(finding) => Standing::Waiting(finding),
    }
}

fn answered_by_source(o: &Observation, operation: &Operation, step: StepKind) -> Standing {
    match &operation.intent.from {
        Some(from) => answered(o, operation, step, from),
        // An intent without a holder to leave has nobody to stop; the plans of such operations have no such step.
        None => Standing::Done(Vec::new()),
    }
}

/// The last look before a copy is thrown away: the user's last word, then the cluster.
fn may_throw_away(o: &Observation, operation: &Operation) -> Option<Finding> {
    let allowed = operation.intent.approval.is_some()
        || o.placement.failback.resync_automatic
        || !kept(Safety::ResyncIsApproved);
    let asked = (!allowed).then(|| {
        Finding::new(
            Reason::DivergedData,
            format!(
                "{}: spec.failback.resync asks for an approval now; it is proposed anew",
                o.placement.name
            ),
        )
    });
    let unasked = operation.intent.approval.is_none();
    asked
        .or_else(|| checks::first(checks::CONSENT, o))
        .or_else(|| checks::first(checks::NEW_COPY, o))
        .or_else(|| checks::holder_works(o).filter(|_| unasked))
        .or_else(|| is_stopped_and_secondary(o, operation))
}

/// Nothing may use an image that is thrown away, and it must be nobody's source (storage.md, rules 7, 8 and 10).
fn is_stopped_and_secondary(o: &Observation, operation: &Operation) -> Option<Finding> {
    let cluster = &operation.intent.to;
    let report = o.site(cluster).and_then(|site| site.report);
    let waiting = |what: String| Some(Finding::new(Reason::VolumeResyncing, format!("{cluster}: {what}")));
    let Some(report) = report else { return waiting("has not reported yet; look at its agent".to_owned()) };
    if report.role != Role::Fenced {
        return waiting(format!("is {:?}, not Fenced; look at its DRSiteState", report.role));
    }
    if report.pods > 0 {
        return waiting(format!("{} pods still use the claims; look at them", report.pods));
    }
    if let Some(attached) = report.volumes.iter().find(|volume| volume.attached) {
        return waiting(format!(
            "the volume of claim {} is still attached; look at its VolumeAttachment",
            attached.claim
        ));
    }
    let primary = report.volumes.iter().find(|volume| is_meant_to_be_primary(volume));
    if let Some(volume) = primary {
        return waiting(format!("the VolumeReplication of {} is still to become secondary", volume.claim));
    }
    None
}

/// Only while the good copy is known to be there: a hub that has just started, or a holder that is suspected, may mean
/// that the outdated one is the last. An agent that is not asked again takes the resync back.
fn resync(o: &Observation, operation: &Operation) -> Vec<(ClusterName, Action)> {
    if !o.holder().is_some_and(SiteView::is_in_contact) {
        return Vec::new();
    }
    let claims = operation.intent.claims.clone();
    until_done(operation, StepKind::Resync, Some(&operation.intent.to), || Action::Resync { claims })
}

fn resynced(o: &Observation, operation: &Operation) -> Standing {
    let intent = &operation.intent;
    match answered(o, operation, StepKind::Resync, &intent.to) {
        Standing::Done(mut entries) => {
            let volumes = o.remembered.map(|kept| kept.volumes.as_slice()).unwrap_or_default();
            entries.push(Entry::Resynced {
                placement: intent.placement.clone(),
                operation: intent.operation.clone(),
                syncs: volumes.iter().map(|volume| (volume.claim.clone(), last_sync(volume))).collect(),
            });
            Standing::Done(entries)
        }
        Standing::Waiting(finding) => Standing::Waiting(finding),
    }
}

/// Protocol §6: protected again only when the holder's sync times advance past the resync.
fn synced_again(o: &Observation, operation: &Operation) -> Standing {
    if !kept(Safety::ResyncNeedsALaterSync) {
        return Standing::Done(Vec::new());
    }
    let volumes = o.remembered.map(|kept| kept.volumes.as_slice()).unwrap_or_default();
    let made_anew = operation.step(StepKind::Resync).acknowledged;
    let behind = operation.intent.claims.iter().find(|claim| {
        let before = operation.syncs.iter().find(|(known, _)| known == *claim).and_then(|(_, sync)| *sync);
        let volume = volumes.iter().find(|volume| volume.claim == **claim);
        // An advance may be an older sync that csi-addons shows late; a later time may be the array's clock. Both must be.
        volume.is_some_and(|volume| {
            last_sync(volume).is_none_or(|sync| Some(sync) <= before || Some(sync) <= made_anew)
        })
    });
    match behind {
        None => Standing::Done(Vec::new()),
        Some(claim) => Standing::Waiting(Finding::new(
            Reason::VolumeResyncing,
            format!(
                "claim {claim} has not been synced to {} since its copy was made anew; wait, and look at the mirroring if it does not come",
                operation.intent.to
            ),
        )),
    }
}

fn rejoin(_: &Observation, operation: &Operation) -> Vec<(ClusterName, Action)> {
    until_done(operation, StepKind::Rejoin, Some(&operation.intent.to), || Action::Rejoin)
}

fn rejoined(o: &Observation, operation: &Operation) -> Standing {
    answered(o, operation, StepKind::Rejoin, &operation.intent.to)
}

/// What this application needs is there first (`spec.dependsOn`).
fn dependencies_serve(o: &Observation, operation: &Operation) -> Option<Finding> {
    let waits = match operation.intent.kind {
        OperationKind::FailOver | OperationKind::Migrate | OperationKind::FailBack => true,
        OperationKind::Deploy | OperationKind::Readopt | OperationKind::Resync | OperationKind::Release => {
            false
        }
    };
    // Whoever deletes the placement gets the application as it was: running.
    let missing = o.missing_dependencies.first().filter(|_| waits && !o.placement.deleting)?;
    Some(Finding::new(
        Reason::DependencyNotReady,
        format!(
            "{}: waits for {missing} (spec.dependsOn); see to that one first, or take it out",
            o.placement.name
        ),
    ))
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
    let asserted = intent
        .approval
        .as_ref()
        .filter(|approval| approval.asserts_off.is_some() && approval.asserts_off == intent.from);
    if let Some(approval) = asserted {
        return proven(FenceProof::Asserted { approver: approval.approver.clone() });
    }
    let from = intent.from.as_ref().and_then(|from| o.site(from));
    if from
        .and_then(|site| site.answers.get(&StepKind::Fence))
        .is_some_and(|answer| **answer == Outcome::Done)
    {
        return proven(FenceProof::Acknowledged);
    }
    let holder = intent.from.as_ref().map_or("the old holder".to_owned(), ToString::to_string);
    let unproven = (!kept(Safety::WaitingMustProveAFence)).then(|| o.placement.policy.timing.wait());
    let Some(wait) = expiry_wait(o.progress).or(unproven) else {
        return Standing::Waiting(Finding::new(
            Reason::FenceUnconfirmed,
            format!(
                "{holder}: may run on while nobody answers, so waiting proves nothing; stop it, and assert that it is off"
            ),
        ));
    };
    if let Some(finding) = checks::first(checks::EXPIRY_PROVES, o) {
        return Standing::Waiting(Finding::new(Reason::FenceUnconfirmed, finding.message));
    }
    if o.lease_age >= wait || !kept(Safety::HubWaitsForTheLease) {
        return proven(FenceProof::LeaseExpired);
    }
    Standing::Waiting(Finding::new(
        running_reason(intent.kind),
        format!("{holder}: certainly stopped in {}", shown(wait.saturating_sub(o.lease_age))),
    ))
}

/// The last look before the point of no return: the accusation again where only time is the proof, and in any case the
/// user's last word and the target.
fn may_promote(o: &Observation, operation: &Operation) -> Option<Finding> {
    match operation.intent.kind {
        OperationKind::FailOver => {
            let by_time = matches!(operation.proof, Some((FenceProof::LeaseExpired, _)))
                && kept(Safety::AccusedAgainBeforePromotion);
            let approved = operation.intent.approval.is_some();
            let accusation = if by_time { checks::first(checks::ACCUSATION, o) } else { None };
            let arming = if approved { checks::CONSENT } else { checks::ARMING };
            accusation
                .or_else(|| checks::first(arming, o))
                .or_else(|| checks::first(checks::TARGET, o))
                .or_else(|| if approved { None } else { checks::first(checks::COPY, o) })
                .or_else(|| checks::witnesses_know_the_epoch(o).filter(|_| !approved))
                .or_else(|| the_path_is_proven(o, operation))
        }
        OperationKind::Migrate | OperationKind::FailBack => {
            checks::first(checks::CONSENT, o).or_else(|| checks::first(checks::TARGET, o))
        }
        OperationKind::Deploy | OperationKind::Readopt | OperationKind::Resync | OperationKind::Release => {
            None
        }
    }
}

/// Of many placements that leave one cluster the first proves the path, then the rest go in parallel (protocol §7). One that is stuck
/// does not hold up the others for longer than it takes to be called stuck.
fn the_path_is_proven(o: &Observation, operation: &Operation) -> Option<Finding> {
    let first = o.hub.first_out.as_ref().filter(|_| kept(Safety::FirstProvesThePath))?;
    let is_another =
        *first.placement != operation.intent.placement && Some(&first.from) == operation.intent.from.as_ref();
    (is_another && first.promoting_for < stuck_after(&o.placement.policy.timing)).then(|| {
        Finding::new(
            Reason::Queued,
            format!("{}: {} goes first, and proves the path", o.placement.name, first.name),
        )
    })
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
    if operation.intent.kind.takes_away() && !kept(Safety::AllVolumesOrNoPods) {
        return Standing::Done(Vec::new());
    }
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
        report => Standing::Waiting(Finding::new(
            Reason::WorkloadNotReady,
            format!(
                "{to}: the workloads of {} are not ready yet; {}",
                o.placement.name,
                what_it_lacks(report)
            ),
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
/// What merely does not come is given so many times as long.
const SILENT_FOR: u32 = 3;

pub fn stuck_after(timing: &Timing) -> Duration {
    (timing.rpc * STUCK_AFTER_CALLS).max(STUCK_AFTER)
}

/// What a running operation is called while nothing is wrong with it.
pub fn running_reason(kind: OperationKind) -> Reason {
    match kind {
        OperationKind::FailOver => Reason::FailoverRunning,
        OperationKind::Migrate => Reason::MigrationRunning,
        OperationKind::FailBack => Reason::FailbackRunning,
        OperationKind::Resync => Reason::ResyncRunning,
        OperationKind::Deploy | OperationKind::Readopt => Reason::DeployRunning,
        OperationKind::Release => Reason::ReleaseRunning,
    }
}

/// How an agent answered the step's command.
fn answered(o: &Observation, operation: &Operation, step: StepKind, cluster: &ClusterName) -> Standing {
    let name = &o.placement.name;
    let waiting = |reason, message: String| Standing::Waiting(Finding::new(reason, message));
    let running = running_reason(operation.intent.kind);
    let since = operation.step(step).issued.map_or(Duration::ZERO, |issued| o.wall.since(issued));
    match o.site(cluster).and_then(|site| site.answers.get(&step)) {
        Some(Outcome::Done) => Standing::Done(Vec::new()),
        // A driver that is gone says nothing, and csi-addons says nothing of it: past the point of no return somebody must look.
        Some(Outcome::Working { waiting_for })
            if step == StepKind::Promote && since > stuck_after(&o.placement.policy.timing) * SILENT_FOR =>
        {
            waiting(
                Reason::PromoteStuck,
                format!(
                    "{cluster}: still waits for {waiting_for}; look at csi-addons and the storage driver there, this goes on by itself once they answer"
                ),
            )
        }
        Some(Outcome::Working { waiting_for }) => waiting(running, format!("{cluster}: {waiting_for}")),
        Some(Outcome::Failing { reason, message }) => {
            let young = since < stuck_after(&o.placement.policy.timing);
            let stuck = match step {
                StepKind::Promote => Reason::PromoteStuck,
                StepKind::Resync | StepKind::Rejoin => Reason::ResyncStuck,
                StepKind::ScaleDown | StepKind::Demote => Reason::HandoverStuck,
                StepKind::Fence
                | StepKind::BackUp
                | StepKind::Restore
                | StepKind::AwaitFence
                | StepKind::TakeOwnership
                | StepKind::ScaleUp
                | StepKind::AwaitReady
                | StepKind::AwaitSync
                | StepKind::Release => Reason::TargetUnreachable,
            };
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
