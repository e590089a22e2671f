//! Stopping and starting what makes pods, remembering what it had.

use proto::volume::WorkloadReplicas;
use proto::{Outcome, Role, Rule, WorkloadRef, WorkloadScale, kept};

use crate::decision::Effect;
use crate::desired::{Next, View};
use crate::fence::{self, PROOF_BOUND};
use crate::keeping;
use crate::promote::{all_primary, promote, protect_later_claims};
use crate::world::Workload;

/// Everything to zero; what it had is durable first, in the DRSiteState and on the workload.
pub fn stop(view: &View<'_>, next: &mut Next) {
    for workload in view.survey.workloads.iter().filter(|workload| workload.wanted > 0) {
        next.wait_also_for(format!("{} {} to stop", workload.workload.kind, workload.workload.name));
        let had = remembered(view, &workload.workload).unwrap_or(workload.wanted);
        next.effects.extend(stop_one(view, workload, had));
    }
}

/// What is to be stopped and not remembered yet.
pub fn remember(view: &View<'_>, next: &mut Next) {
    let running = view.survey.workloads.iter().filter(|workload| workload.wanted > 0);
    next.remember = running
        .filter(|workload| remembered(view, &workload.workload).is_none())
        .map(|workload| WorkloadReplicas { workload: workload.workload.clone(), replicas: workload.wanted })
        .collect();
}

/// One note before the other, then the scale. If the API server takes no note, stopping must not wait for it for long.
fn stop_one(view: &View<'_>, workload: &Workload, had: u32) -> Option<Effect> {
    let late = view.fence.is_some_and(|progress| view.now >= progress.began + PROOF_BOUND * 2);
    let recorded = view
        .recorded
        .is_some_and(|recorded| recorded.replicas.iter().any(|known| known.workload == workload.workload));
    if !recorded && !late {
        return None;
    }
    let namespace = view.namespace().to_owned();
    if workload.marked != Some(had) && !late {
        return Some(Effect::MarkReplicas { namespace, workload: workload.workload.clone(), replicas: had });
    }
    Some(scale(namespace, &workload.workload, 0))
}

fn remembered(view: &View<'_>, workload: &WorkloadRef) -> Option<u32> {
    view.site.replicas.iter().find(|known| known.workload == *workload).map(|known| known.replicas)
}

fn scale(namespace: String, workload: &WorkloadRef, replicas: u32) -> Effect {
    if workload.kind == "CronJob" {
        return Effect::SuspendCronJob { namespace, name: workload.name.clone(), suspend: replicas == 0 };
    }
    Effect::Scale { namespace, workload: workload.clone(), replicas }
}

pub fn scale_up(view: &View<'_>, wanted: &[WorkloadScale]) -> Next {
    let mut next = Next::done();
    if !may_start(view, &mut next) {
        return next;
    }
    let mut next = promote_again(view);
    next.effects.extend(protect_later_claims(view).effects);
    if !kept(Rule::AllVolumesOrNoPods) {
        next.outcome = Outcome::Done;
    }
    if let Err(missing) = all_primary(view) {
        next.wait_also_for(missing);
    }
    if next.outcome == Outcome::Done {
        for WorkloadScale { workload, replicas } in wanted {
            start(view, workload, *replicas, &mut next);
        }
    }
    next
}

/// After an own fence that nobody took advantage of: volumes primary again at the same epoch, then the workloads.
pub fn resume(view: &View<'_>, remembered: &[WorkloadReplicas]) -> Next {
    let mut next = Next::done();
    if !may_start(view, &mut next) {
        return next;
    }
    let mut next = promote_again(view);
    if next.outcome == Outcome::Done {
        for WorkloadReplicas { workload, replicas } in remembered {
            // Whatever runs with another number has been scaled by somebody else since.
            if let Some(present) = view.world.workload(view.namespace(), workload) {
                let wanted = if present.wanted == 0 { *replicas } else { present.wanted };
                start(view, workload, wanted, &mut next);
            }
        }
    }
    next
}

/// Only what was primary at this epoch already, and was demoted by the own fence: a VolumeReplication that this agent has not set at this epoch is promoted only by a command that names its claim.
fn promote_again(view: &View<'_>) -> Next {
    let of_this_epoch = |claim: &&String| {
        let replication = view.replication_of(claim);
        replication.is_some_and(|(_, object)| object.replication.epoch == Some(view.site.epoch_seen))
    };
    let claims: Vec<String> = view.site.claims.iter().filter(of_this_epoch).cloned().collect();
    promote(view, &claims, false)
}

/// A holder without a lease starts nothing.
fn may_start(view: &View<'_>, next: &mut Next) -> bool {
    if view.site.role != Role::Holder || !view.is_durable() {
        next.wait_also_for("the DRSiteState to say Holder");
        return false;
    }
    if !view.granted && kept(Rule::NoStartWithoutALease) {
        next.wait_also_for("the hub to grant the lease");
        return false;
    }
    if view.stopping {
        next.wait_also_for("the last request that stops it to be answered");
        return false;
    }
    true
}

fn start(view: &View<'_>, workload: &WorkloadRef, replicas: u32, next: &mut Next) {
    let namespace = view.namespace();
    match view.world.workload(namespace, workload) {
        None => next.wait_also_for(format!(
            "{} {namespace}/{} to exist in this cluster: apply it",
            workload.kind, workload.name
        )),
        Some(present) if present.wanted == replicas => {
            if present.marked.is_some() {
                next.effects.push(Effect::UnmarkReplicas {
                    namespace: namespace.to_owned(),
                    workload: workload.clone(),
                });
            }
        }
        Some(_) => {
            next.wait_also_for(format!("{} {} to take {replicas} replicas", workload.kind, workload.name));
            next.effects.push(scale(namespace.to_owned(), workload, replicas));
        }
    }
}

/// Our marks first, our object last: as long as it exists something is left to do.
pub fn release(view: &View<'_>) -> Next {
    let mut next = Next::done();
    let namespace = view.namespace();
    for workload in view.survey.workloads.iter().filter(|workload| workload.marked.is_some()) {
        let workload = workload.workload.clone();
        next.effects.push(Effect::UnmarkReplicas { namespace: namespace.to_owned(), workload });
    }
    for (target, object) in view.replications() {
        if object.annotated {
            if object.auto_resync {
                // What nobody looks after must not throw a copy away by itself.
                next.effects.push(fence::demotion(view, target));
                continue;
            }
            next.effects.push(target.unmarking(namespace));
        }
    }
    keeping::unmark_volumes(view, &mut next);
    if !next.effects.is_empty() {
        next.wait_also_for("its marks to be removed");
    } else if view.recorded.is_some() {
        next.wait_also_for("the DRSiteState to be removed");
        let placement = view.assignment.placement.clone();
        next.effects.push(Effect::DeleteSiteState { namespace: namespace.to_owned(), placement });
    }
    next
}
