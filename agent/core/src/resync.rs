//! The return of a former holder: its outdated copy is thrown away and made anew, and then it is a standby. What only this
//! copy had is lost here, so it happens only by a command, and the DRSiteState names its operation first.

use std::time::Duration;

use proto::{Outcome, Replication, ReplicationState, Role, Rule, kept};

use crate::ailments::reason;
use crate::desired::{Next, Turn, View};
use crate::fence;
use crate::group::{self, Target};
use crate::hand_over::not_replicated;
use crate::promote::failure;
use crate::world::ReplicationObject;

/// While a copy is made anew its VolumeReplication passes through failures that mean nothing, for about a minute per
/// 64 MiB of a small array; what lasts longer is told.
pub const TRANSIENT: Duration = Duration::from_secs(300);

pub fn resync(view: &View<'_>, claims: &[String]) -> Next {
    let mut next = Next::done();
    if !fence::stop(view, &mut next) {
        return next;
    }
    for claim in claims {
        match view.replication_of(claim) {
            Some((target, object)) => resync_claim(view, claim, target, &object, &mut next),
            // Created while this cluster was away: there is no copy to throw away, and it is staged once this is a standby.
            None if view.world.claim(view.namespace(), claim).is_none() => {}
            None => next.fail(reason::CLAIM_NOT_REPLICATED, not_replicated(view, claim)),
        }
    }
    next
}

fn resync_claim(
    view: &View<'_>,
    claim: &str,
    target: Target<'_>,
    object: &ReplicationObject,
    next: &mut Next,
) {
    let replication = &object.replication;
    let asked = object.auto_resync && replication.desired == "secondary";
    if !asked {
        if fence::demote_one(view, target, object, next) && view.is_durable() {
            next.effects.push(target.resync(view.namespace(), view.site.epoch_seen));
        }
        next.wait_also_for(format!("the copy of claim {claim} to be made anew"));
    } else if !follows(replication) {
        still_on_its_way(view, claim, object, next);
    }
}

/// It replays. Degraded stays true as long as the other copy is the primary, and says nothing here.
fn follows(replication: &Replication) -> bool {
    replication.current
        && replication.state == ReplicationState::Secondary
        && replication.completed == Some(true)
        && replication.resyncing == Some(true)
}

fn still_on_its_way(view: &View<'_>, claim: &str, object: &ReplicationObject, next: &mut Next) {
    let failing = failure(&object.replication, object).filter(|_| view.refused_for > TRANSIENT);
    let Some(reason) = failing else {
        return next.wait_also_for(format!("the copy of claim {claim} to be made anew"));
    };
    let message = format!(
        "claim {}/{claim} cannot be copied anew ({reason}: {}): see the storage driver's log and the mirroring of its image; this goes on by itself once it works",
        view.namespace(),
        if object.replication.message.is_empty() { "no message" } else { &object.replication.message }
    );
    next.fail(&reason, message);
}

/// `autoResync` goes everywhere before the role does: at a standby nothing may throw a copy away by itself (rule 8).
pub fn rejoin(view: &View<'_>) -> Next {
    let mut next = Next::done();
    if view.site.role == Role::Standby {
        if !view.is_durable() {
            next.wait_also_for("the DRSiteState to say Standby");
        }
        return next;
    }
    if !fence::stop(view, &mut next) {
        return next;
    }
    let replications = group::replications(view.world, view.assignment, &view.site.claims).into_iter();
    for (target, object) in replications.filter(|_| kept(Rule::AutoResyncEndsWithTheResync)) {
        if object.replication.desired != "secondary" || object.auto_resync {
            next.effects.push(fence::demotion(view, target));
            next.wait_also_for(format!("{target} to say autoResync: false"));
        } else if !object.replication.current {
            // A call that csi-addons has begun before may still throw the copy away.
            next.wait_also_for(format!("csi-addons to have seen that {target} says autoResync: false"));
        }
    }
    if next.outcome == Outcome::Done {
        next.turn = Some(Turn::Rejoined);
        next.wait_also_for("the DRSiteState to say Standby");
    }
    next
}
