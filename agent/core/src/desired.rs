//! The next effects of a duty. Every function here looks at the whole world and names what is missing *now*: called
//! again after anything has changed, it goes on from there; called when all is done, it names nothing.

use std::time::Duration;

use proto::volume::WorkloadReplicas;
use proto::{Ailment, Assignment, Moment, Outcome};

use crate::decision::Effect;
use crate::duty::Duty;
use crate::fence::{self, FenceProgress};
use crate::group::{self, Replicated};
use crate::site_state::SiteState;
use crate::survey::Survey;
use crate::world::World;
use crate::{hand_over, keeping, promote, resync, stage, workloads};

/// All that a duty is judged by.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub now: Moment,
    pub world: &'a World,
    pub survey: &'a Survey,
    pub assignment: &'a Assignment,
    pub site: &'a SiteState,
    /// As the API server holds it; admission goes by this one.
    pub recorded: Option<&'a SiteState>,
    pub fence: Option<&'a FenceProgress>,
    /// The lease is granted at this epoch, and not in doubt: pods may be started.
    pub granted: bool,
    /// A change that stops the application is still under way.
    pub stopping: bool,
    /// The hub has been told of the claims and volumes as they are seen now.
    pub told: bool,
    /// How long VolumeReplications have refused to be demoted or synced, at most since the running command came.
    pub refused_for: Duration,
    /// For how long the running command has been carried out.
    pub commanded_for: Duration,
}

impl<'a> View<'a> {
    pub fn namespace(&self) -> &'a str {
        &self.assignment.name.namespace
    }

    /// What replicates a claim: its own VolumeReplication, or the group's.
    pub fn replication_of(&self, claim: &str) -> Option<Replicated<'a>> {
        group::replication_of(self.world, self.assignment, claim)
    }

    /// Everything that replicates claims of this placement, each object once.
    pub fn replications(&self) -> Vec<Replicated<'a>> {
        let claims = self.survey.volumes.iter().map(|volume| &volume.claim);
        group::replications(self.world, self.assignment, claims)
    }

    /// Whether the API server enforces what this cluster is. No action of an epoch comes before this.
    pub fn is_durable(&self) -> bool {
        self.recorded.is_some_and(|recorded| {
            recorded.epoch_seen == self.site.epoch_seen
                && recorded.role == self.site.role
                && recorded.operation == self.site.operation
                && recorded.resync == self.site.resync
                && recorded.group == self.site.group
                && recorded.claims.is_superset(&self.site.claims)
        })
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Next {
    pub effects: Vec<Effect>,
    pub outcome: Outcome,
    pub ailments: Vec<Ailment>,
    /// Version of the inventory that is staged here, whole and bound.
    pub staged: Option<String>,
    /// Replicas to be remembered durably before their workloads are stopped.
    pub remember: Vec<WorkloadReplicas>,
    /// Whether the fence is complete: everything stopped, every volume demoted. None: this duty does not tell.
    pub fenced: Option<bool>,
    pub turn: Option<Turn>,
}

/// What is to be written down because everything for it has been seen; what follows from it waits until it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Everything that was written here has crossed.
    HandedOver,
    /// The copy here follows the holder's again.
    Rejoined,
}

impl Next {
    pub fn done() -> Next {
        Next {
            effects: Vec::new(),
            outcome: Outcome::Done,
            ailments: Vec::new(),
            staged: None,
            remember: Vec::new(),
            fenced: None,
            turn: None,
        }
    }

    pub fn waiting_for(what: impl Into<String>) -> Next {
        Next { outcome: Outcome::Working { waiting_for: what.into() }, ..Next::done() }
    }

    /// The first thing that is missing is what the user is told.
    pub fn wait_also_for(&mut self, what: impl Into<String>) {
        if self.outcome == Outcome::Done {
            self.outcome = Outcome::Working { waiting_for: what.into() };
        }
    }

    /// A failure tells more than any waiting.
    pub fn fail(&mut self, reason: &str, message: String) {
        if !matches!(self.outcome, Outcome::Failing { .. }) {
            self.outcome = Outcome::Failing { reason: reason.to_owned(), message };
        }
    }
}

fn protect(view: &View<'_>) -> Next {
    let mut next = promote::protect_later_claims(view);
    keeping::mark_volumes(view, &mut next);
    next
}

pub fn next(view: &View<'_>, duty: Duty<'_>) -> Next {
    match duty {
        Duty::Watch => Next::waiting_for("the hub to say what this cluster is"),
        Duty::Hold => Next::done(),
        Duty::Protect => protect(view),
        Duty::Fence => fence::fence(view),
        Duty::ScaleDown => fence::scale_down(view),
        Duty::HandOver => hand_over::hand_over(view),
        Duty::Resync([]) => promote::no_claims(view),
        Duty::Resync(claims) => resync::resync(view, claims),
        Duty::Rejoin => resync::rejoin(view),
        Duty::Stage(inventory) => stage::stage(view, inventory),
        Duty::Restore(inventory) => stage::restore(view, inventory),
        Duty::Promote([], _) => promote::no_claims(view),
        Duty::Promote(claims, originals) => promote::promote(view, claims, originals),
        Duty::ScaleUp(wanted) => workloads::scale_up(view, wanted),
        Duty::Resume(remembered) => workloads::resume(view, remembered),
        Duty::Release => workloads::release(view),
    }
}
