//! The second half of a planned move: a demotion that has crossed (storage.md, rule 5). Writing `primary` anywhere before
//! that could be turned into a forced promotion, and lose what was written last.

use proto::{Outcome, Rule, kept};

use crate::ailments::reason;
use crate::desired::{Next, Turn, View};
use crate::fence::fence;
use crate::promote::{failure, is_left_over};

pub fn hand_over(view: &View<'_>) -> Next {
    let mut next = fence(view);
    // What has crossed once is not looked at again: nothing has been written here since.
    if view.recorded.is_some_and(|recorded| recorded.has_handed_over()) {
        return next;
    }
    for claim in view.site.claims.iter().filter(|_| kept(Rule::CrossedBeforeTheWord)) {
        has_crossed(view, claim, &mut next);
    }
    if next.outcome == Outcome::Done {
        next.turn = Some(Turn::HandedOver);
        next.wait_also_for("the DRSiteState to say that everything has crossed");
    }
    next
}

fn has_crossed(view: &View<'_>, claim: &str, next: &mut Next) {
    let namespace = view.namespace();
    let Some((target, object)) = view.replication_of(claim) else {
        if !is_left_over(view, claim) {
            next.fail(reason::CLAIM_NOT_REPLICATED, not_replicated(view, claim));
        }
        return;
    };
    let replication = &object.replication;
    if replication.demotion_has_crossed() && !object.auto_resync {
        return;
    }
    let told = replication.desired == "secondary" && replication.current;
    match failure(replication, &object).filter(|_| told) {
        Some(reason) => {
            let message = format!(
                "{}: what was written last has not crossed ({reason}: {}); check the mirroring between the clusters, this goes on by itself once it works",
                target.in_namespace(namespace),
                if replication.message.is_empty() { "no message" } else { &replication.message }
            );
            next.fail(&reason, message);
        }
        None => next.wait_also_for(format!("the last writes of claim {claim} to cross")),
    }
}

pub fn not_replicated(view: &View<'_>, claim: &str) -> String {
    let lacks = match view.assignment.group() {
        Some(group) => format!("is not replicated by VolumeGroupReplication {group}"),
        None => "has no VolumeReplication".to_owned(),
    };
    format!(
        "PersistentVolumeClaim {}/{claim} {lacks}, so nothing of it can cross: end the operation, let its holder protect it, or take its labels away so that it is no longer protected",
        view.namespace()
    )
}
