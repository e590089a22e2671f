//! Writing `replicationState: primary`: the irreversible act, for all volumes of a placement at once, and within the
//! epoch for each claim that comes later.

use proto::{Ailment, Replication, Role, Rule, kept};

use crate::ailments::reason;
use crate::decision::Effect;
use crate::desired::{Next, View};
use crate::group::{self, Target};
use crate::survey::uses;
use crate::world::ReplicationObject;

/// What was restored here must come; an original that is gone was deleted by its user.
pub fn promote(view: &View<'_>, claims: &[String], originals: bool) -> Next {
    if !view.is_durable() && kept(Rule::EpochIsDurableFirst) {
        return Next::waiting_for(format!("the DRSiteState to say epoch {}", view.site.epoch_seen));
    }
    // A demotion that lands behind the promotion would undo it without anybody seeing it.
    if view.stopping {
        return Next::waiting_for("the last request that stops it to be answered");
    }
    let mut next = Next::done();
    let wanted = claims.iter().filter(|claim| !(originals && is_gone(view, claim)));
    let claims: Vec<String> = wanted.cloned().collect();
    for claim in &claims {
        promote_claim(view, &claims, claim, &mut next);
    }
    next
}

fn is_gone(view: &View<'_>, claim: &str) -> bool {
    view.world.claim(view.namespace(), claim).is_none() && view.replication_of(claim).is_none()
}

/// A placement without volumes is not protected, and having promoted none of them proves nothing.
pub fn no_claims(view: &View<'_>) -> Next {
    let mut next = Next::done();
    let message = format!(
        "DRPlacement {}/{} protects no claim: label the application's PersistentVolumeClaims ({}), or change spec.protect.volumes",
        view.namespace(),
        view.assignment.name.name,
        view.assignment.protect.volumes.query()
    );
    next.fail(reason::NO_CLAIMS, message);
    next
}

fn promote_claim(view: &View<'_>, claims: &[String], claim: &str, next: &mut Next) {
    let is_bound = view.world.claim(view.namespace(), claim).is_some_and(|claim| claim.bound);
    match view.replication_of(claim) {
        None if is_usable(view, claim) => replicate(view, claims, claim, next),
        // A claim that is being deleted stays as long as its VolumeReplication, and may be in use until then.
        Some((target, object)) if is_bound => promote_existing(view, claim, target, &object, next),
        None | Some(_) => next.wait_also_for(format!("PersistentVolumeClaim {claim} to be bound")),
    }
}

fn replicate(view: &View<'_>, claims: &[String], claim: &str, next: &mut Next) {
    if let Some(Ailment { reason, message }) = group::obstacle(view.world, view.assignment, claim) {
        return next.fail(&reason, message);
    }
    match view.assignment.group() {
        Some(group) => group::form(view, group, claims, claim, next),
        None => {
            next.wait_also_for(format!("VolumeReplication {claim} to exist"));
            next.effects.push(create(view, claim));
        }
    }
}

fn is_usable(view: &View<'_>, claim: &str) -> bool {
    view.world.claim(view.namespace(), claim).is_some_and(|claim| claim.bound && !claim.terminating)
}

fn create(view: &View<'_>, claim: &str) -> Effect {
    Effect::CreateReplication {
        namespace: view.namespace().to_owned(),
        claim: claim.to_owned(),
        class: view.assignment.replication_class.clone(),
        epoch: view.site.epoch_seen,
    }
}

fn promote_existing(
    view: &View<'_>,
    claim: &str,
    target: Target<'_>,
    object: &ReplicationObject,
    next: &mut Next,
) {
    let (namespace, epoch) = (view.namespace(), view.site.epoch_seen);
    let replication = &object.replication;
    // What its status still calls primary would not be promoted again, although its volume may be demoted by now.
    if replication.desired == "secondary" && !is_settled(object) {
        next.wait_also_for(format!("the demotion of claim {claim} to be over"));
        return;
    }
    if replication.desired != "primary" || object.auto_resync {
        next.effects.push(target.promotion(namespace, epoch));
        next.wait_also_for(format!("claim {claim} to become primary"));
        return;
    }
    if replication.epoch != Some(epoch) {
        next.effects.push(target.mark(namespace, epoch));
        next.wait_also_for(format!("the mark of claim {claim}"));
        return;
    }
    if replication.is_primary() {
        return;
    }
    match failure(replication, object) {
        Some(reason) => {
            let message = format!(
                "claim {namespace}/{claim} is not primary ({reason}: {}): check the storage driver and the array; this goes on by itself once they answer",
                if replication.message.is_empty() { "no message" } else { &replication.message }
            );
            next.fail(&reason, message);
        }
        None => next.wait_also_for(format!("claim {claim} to become primary")),
    }
}

/// A demotion that nobody has answered in time may be done all the same; csi-addons asks again until it has an answer.
fn is_settled(object: &ReplicationObject) -> bool {
    let replication = &object.replication;
    let failed = object.reason.as_deref() == Some(reason::FAILED_TO_DEMOTE);
    let message = replication.message.to_ascii_lowercase();
    let unanswered = ["deadline exceeded", "transport is closing", ": eof"];
    replication.current && !(failed && unanswered.iter().any(|words| message.contains(words)))
}

pub fn failure(replication: &Replication, object: &ReplicationObject) -> Option<String> {
    if replication.validated == Some(false) {
        return Some("ValidationFailed".to_owned());
    }
    let failed = object.reason.as_ref().filter(|reason| reason.starts_with("Failed"));
    failed.filter(|_| replication.completed == Some(false)).cloned()
}

/// What owns the epoch, and may write now, owns the claims that come to be within it (ADR 6). What has a
/// VolumeReplication is left as it is.
pub fn protect_later_claims(view: &View<'_>) -> Next {
    let mut next = Next::done();
    if view.site.role == Role::Holder && view.is_durable() && view.granted {
        let later: Vec<String> =
            view.site.claims.iter().filter(|claim| came_later(view, claim)).cloned().collect();
        match view.assignment.group() {
            // One that stands takes them in by itself. One that is gone is made anew where nothing in it is a copy.
            Some(_) if !later.is_empty() && later.len() == view.site.claims.len() => {
                next.effects.extend(group::creation(view, &later));
            }
            Some(_) => {}
            None => next.effects.extend(later.iter().map(|claim| create(view, claim))),
        }
    }
    next
}

/// A claim that was staged here may be an outdated copy of what is used elsewhere: it is promoted only by a command that
/// names it.
fn came_later(view: &View<'_>, claim: &str) -> bool {
    let is_copy = view.world.claim(view.namespace(), claim).is_some_and(|claim| claim.staged);
    let is_replicated = view.replication_of(claim).is_some();
    let may_be = group::obstacle(view.world, view.assignment, claim).is_none();
    is_usable(view, claim) && !is_copy && !is_replicated && may_be
}

/// Every protected claim is primary at this epoch: all volumes or no pods.
pub fn all_primary(view: &View<'_>) -> Result<(), String> {
    if !kept(Rule::AllVolumesOrNoPods) {
        return Ok(());
    }
    for claim in &view.site.claims {
        let replication = view.replication_of(claim);
        let ready = replication.is_some_and(|(_, object)| object.replication.is_primary());
        if !ready && !is_left_over(view, claim) {
            return Err(format!("claim {claim} to be primary"));
        }
    }
    Ok(())
}

/// Its original is gone, here or at the last holder: no command of this epoch has named it, and no pod would write to it. It is a
/// copy that was staged here, or the original of a claim that was deleted while another cluster held the placement.
pub fn is_left_over(view: &View<'_>, claim: &str) -> bool {
    let unnamed = match view.replication_of(claim) {
        None => view.world.claim(view.namespace(), claim).is_none_or(|claim| claim.staged),
        Some((_, object)) => {
            let replication = &object.replication;
            replication.desired == "secondary" && replication.epoch != Some(view.site.epoch_seen)
        }
    };
    unnamed && !view.survey.workloads.iter().any(|workload| uses(workload, claim))
}
