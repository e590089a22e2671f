//! Which placements need no look: the last one has found nothing to do, and all that it went by is as it was.

use std::time::Duration;

use proto::{Fencing, Moment, PlacementId, PlacementName};

use crate::agent::Agent;
use crate::decision::Decision;
use crate::divergence;
use crate::fence::PROOF_BOUND;
use crate::placement::Placement;
use crate::{resync, stage};

/// What the last look at a placement went by, beside the placement itself: whatever changes that one ends its rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// Of the world, in the placement's namespace.
    revision: u64,
    /// Whether pods may be started.
    granted: bool,
    /// When the time alone may change what is found.
    until: Option<Moment>,
}

/// How far a look has come before it, so that what it adds is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    said: [usize; 5],
    fenced: bool,
    surveys: u64,
}

impl Before {
    pub fn of(placement: &Placement, decision: &Decision) -> Before {
        let Decision { remember, apply, send, note, reached, .. } = decision;
        Before {
            said: [remember.len(), apply.len(), send.len(), note.len(), reached.len()],
            fenced: placement.fence_is_complete(),
            surveys: placement.surveys,
        }
    }
}

impl Agent {
    /// Whether a look could find anything.
    pub(crate) fn is_due(&self, placement: &Placement) -> bool {
        placement.rest.is_none_or(|rest| {
            rest.until.is_some_and(|until| until <= self.now)
                || rest.revision != self.world.revision(&placement.name.namespace)
                || rest.granted != placement.lease.is_granted(self.now, placement.targets())
        })
    }

    /// After a look: a placement at which something was done, or is about to be, is looked at again with the next tick.
    pub(crate) fn rest(&self, placement: &Placement, before: Before, decision: &Decision) -> Option<Rest> {
        let found_nothing = Before::of(placement, decision) == before;
        // How long its pods are seen is counted, and whether its gates ask.
        let is_watched = placement.is_in_use_while_fenced() || self.has_gates(placement);
        (found_nothing && !is_watched && !placement.is_dirty()).then(|| Rest {
            revision: self.world.revision(&placement.name.namespace),
            granted: placement.lease.is_granted(self.now, placement.targets()),
            until: self.turning_points(placement).filter(|at| *at > self.now).min(),
        })
    }

    fn has_gates(&self, placement: &Placement) -> bool {
        let relied_upon = placement.assignment.as_ref().is_some_and(|it| it.policy.fencing == Fencing::Gate);
        relied_upon && placement.survey.as_ref().is_some_and(|(_, survey)| !survey.gated.is_empty())
    }

    /// All moments at which the time alone changes what a look at this placement finds.
    fn turning_points(&self, placement: &Placement) -> impl Iterator<Item = Moment> {
        let fence = placement.fence.as_ref().map(|fence| fence.began);
        let fence = fence.into_iter().flat_map(|began| [began + PROOF_BOUND, began + PROOF_BOUND * 2]);
        let command = placement.command.iter().flat_map(|current| {
            let stop = placement.policy().map_or(Duration::ZERO, |policy| policy.timing.stop);
            [current.quiet_until, current.admitted + stop, current.admitted + stage::OBJECTS_PATIENCE]
        });
        let refused = placement.refused_since.into_iter().flat_map(|since| {
            let admitted = placement.command.as_ref().map_or(since, |current| current.admitted);
            let told = since.max(admitted) + resync::TRANSIENT + Duration::from_millis(1);
            [since + divergence::LASTING, told]
        });
        let attempts = placement.attempts.values().map(|attempt| attempt.not_before);
        fence
            .chain(command)
            .chain(refused)
            .chain(placement.resync_ends())
            .chain(attempts.collect::<Vec<_>>())
            .chain([placement.writing.not_before, placement.stops_until, placement.reporting.not_before])
    }

    /// The placements at rest at which a look would find something all the same, or for which something else would have to be
    /// watched: always none. For tests.
    pub fn overlooked(&self) -> Vec<PlacementName> {
        let at_rest = self.placements.iter().filter(|(_, placement)| !self.is_due(placement));
        let found = at_rest.filter(|(id, placement)| self.would_find_something(id, placement));
        found.map(|(_, placement)| placement.name.clone()).collect()
    }

    fn would_find_something(&self, id: &PlacementId, placement: &Placement) -> bool {
        let (mut looked_at, mut decision) = (placement.clone(), Decision::default());
        self.decide(id, &mut looked_at, &mut decision);
        looked_at.rest = placement.rest;
        decision != Decision::default()
            || looked_at != *placement
            || placement.follows() != placement.followed
    }
}
