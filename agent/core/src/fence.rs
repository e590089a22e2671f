//! Stopping an application in time, in the protocol's order: refuse new pods, stop the workloads, see that nothing uses
//! the volumes, demote them. Demotion is last because drivers refuse it while a volume is published.

use std::time::Duration;

use proto::{Moment, Outcome, ReplicationState, Rule, kept};

use crate::ailments::reason;
use crate::decision::Effect;
use crate::desired::{Next, View};
use crate::group::Target;
use crate::workloads;
use crate::world::ReplicationObject;

/// Scaling to zero waits no longer than this for the proof that new pods are refused: the proof is needed for the
/// acknowledgement, the time for stopping.
pub const PROOF_BOUND: Duration = Duration::from_millis(400);

/// What the fence waits for is read anew this often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceProgress {
    pub began: Moment,
    /// When a dry run was refused: from then on no new pod can come.
    pub in_force: Option<Moment>,
    /// When a pod or an attachment was last seen. A list from before may miss an attachment that came late.
    pub in_use: Moment,
    pub complete: bool,
}

impl FenceProgress {
    pub fn begin(now: Moment) -> FenceProgress {
        FenceProgress { began: now, in_force: None, in_use: now, complete: false }
    }
}

pub fn fence(view: &View<'_>) -> Next {
    let mut next = Next::done();
    if stop(view, &mut next) || !kept(Rule::DemotionComesLast) {
        demote(view, &mut next);
    }
    next.fenced = Some(next.outcome == Outcome::Done);
    next
}

/// The first half of a planned move. It ends only when the hub knows what has been left behind: from here on nothing
/// changes it, so the last copy of it can be taken.
pub fn scale_down(view: &View<'_>) -> Next {
    let mut next = Next::done();
    if stop(view, &mut next) && !view.told {
        next.wait_also_for("the hub to be told of the claims as they are now");
    }
    next
}

/// Refuse, stop, and see; true when nothing uses the volumes any more.
pub fn stop(view: &View<'_>, next: &mut Next) -> bool {
    workloads::remember(view, next);
    refuse_new_pods(view, next);
    if next.outcome != Outcome::Done && !proof_is_overdue(view) {
        return false;
    }
    workloads::stop(view, next);
    nothing_uses_the_volumes(view, next)
}

/// A fence is in force only when the API server has been seen to refuse, because admission reads a cache.
fn refuse_new_pods(view: &View<'_>, next: &mut Next) {
    if !kept(Rule::NewPodsAreRefusedFirst) {
        return;
    }
    if !view.is_durable() {
        next.wait_also_for("the DRSiteState to say Fenced");
        return;
    }
    let Some(claim) = view.site.claims.first() else { return };
    if in_force(view).is_none() {
        next.wait_also_for("the API server to refuse new pods");
        let namespace = view.namespace().to_owned();
        next.effects.push(Effect::ProbeFence { namespace, claim: claim.clone() });
    }
}

fn in_force(view: &View<'_>) -> Option<Moment> {
    let progress = view.fence?;
    if view.site.claims.is_empty() || !kept(Rule::NewPodsAreRefusedFirst) {
        Some(progress.began)
    } else {
        progress.in_force
    }
}

fn last_used(view: &View<'_>) -> Moment {
    view.fence.map_or(view.now, |progress| progress.in_use)
}

fn proof_is_overdue(view: &View<'_>) -> bool {
    view.fence.is_some_and(|progress| view.now >= progress.began + PROOF_BOUND)
}

/// Absence is proven by lists that were read after the fence was in force, not by a watch that may lag.
fn nothing_uses_the_volumes(view: &View<'_>, next: &mut Next) -> bool {
    if !kept(Rule::PodsAreGoneBeforeTheWord) {
        return true;
    }
    let pods = view.survey.pods;
    if pods > 0 {
        next.wait_also_for(format!("{pods} pods to be gone"));
        look_again(view, next);
        return false;
    }
    if let Some(attached) = view.survey.volumes.iter().find(|volume| volume.attached) {
        next.wait_also_for(format!("the volume of claim {} to be detached", attached.claim));
        look_again(view, next);
        return false;
    }
    let Some(in_force) = in_force(view) else { return false };
    let seen_since =
        view.world.users_listed(view.namespace()).is_some_and(|began| began >= in_force.max(last_used(view)));
    if !seen_since {
        next.wait_also_for("a fresh look at pods and attachments");
        next.effects.push(Effect::ListUsers { namespace: view.namespace().to_owned() });
    }
    seen_since
}

/// A list that is older than a deletion, and comes after it, shows what is gone, and no watch takes that back.
fn look_again(view: &View<'_>, next: &mut Next) {
    let listed = view.world.users_listed(view.namespace());
    if listed.is_none_or(|began| view.now >= began + LOOK_AGAIN) {
        next.effects.push(Effect::ListUsers { namespace: view.namespace().to_owned() });
    }
}

fn demote(view: &View<'_>, next: &mut Next) {
    for (target, object) in view.replications() {
        demote_one(view, target, &object, next);
    }
}

/// True when it is seen to be demoted. What an approved resync has set is not taken back while that goes on.
pub fn demote_one(view: &View<'_>, target: Target<'_>, object: &ReplicationObject, next: &mut Next) -> bool {
    let replication = &object.replication;
    let left_on = object.auto_resync && view.site.resync.is_none();
    if replication.desired != "secondary" || (left_on && kept(Rule::AutoResyncEndsWithTheResync)) {
        next.effects.push(demotion(view, target));
    }
    let demoted = replication.desired == "secondary"
        && replication.current
        && replication.state == ReplicationState::Secondary;
    if demoted {
        return true;
    }
    if object.reason.as_deref() == Some(reason::FAILED_TO_DEMOTE) && replication.desired == "secondary" {
        let message = format!(
            "{} cannot be demoted ({}): see the storage driver's log",
            target.in_namespace(view.namespace()),
            replication.message
        );
        next.fail(reason::FAILED_TO_DEMOTE, message);
    } else {
        next.wait_also_for(format!("{target} to become secondary"));
    }
    false
}

pub fn demotion(view: &View<'_>, target: Target<'_>) -> Effect {
    target.demotion(view.namespace(), view.site.epoch_seen)
}
