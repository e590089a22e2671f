//! What this cluster has to do for one placement, read from what it durably is and what it has been told.

use proto::volume::WorkloadReplicas;
use proto::{Action, Command, FenceProof, Inventory, Outcome, Role, StepKind, WorkloadScale};

use crate::site_state::SiteState;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Duty<'a> {
    /// Nobody has assigned it, or it has no role yet: look, and touch nothing.
    Watch,
    /// The application runs here, and a command waits that changes nothing here: leave it alone.
    Hold,
    /// The application runs here: leave it alone, and protect the claims that have come since it was adopted.
    Protect,
    /// It was stopped here by its own deadline, and the hub has granted the same epoch again.
    Resume(&'a [WorkloadReplicas]),
    Fence,
    /// Everything is stopped, and stays so; the volumes stay as they are.
    ScaleDown,
    /// Fence, and know that everything written here has crossed.
    HandOver,
    /// The outdated copies of these claims are thrown away and made anew.
    Resync(&'a [String]),
    /// A former holder whose copies follow the present one becomes a standby.
    Rejoin,
    /// Keep a copy of the holder's manifests bound, and everything stopped.
    Stage(Option<&'a Inventory>),
    Restore(&'a Inventory),
    /// The claims, and whether they are the originals: nobody else has ever held what they belong to.
    Promote(&'a [String], bool),
    ScaleUp(&'a [WorkloadScale]),
    Release,
}

/// What the world says to the choice of a duty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub fence_complete: bool,
    /// A VolumeReplication that was set at this epoch is not meant to be primary: an own fence has demoted it.
    pub demoted: bool,
    /// A release that waits for a fence has waited for as long as stopping may take.
    pub release_is_due: bool,
}

impl Duty<'_> {
    /// Whether carrying out this duty carries out that command. While another duty comes first, such as a fence, its end
    /// says nothing about the command.
    pub fn serves(self, action: &Action) -> bool {
        match action {
            Action::Fence => self == Duty::Fence,
            Action::ScaleDown => self == Duty::ScaleDown,
            Action::Demote => self == Duty::HandOver,
            Action::Resync { .. } => matches!(self, Duty::Resync(_)),
            Action::Rejoin => self == Duty::Rejoin,
            Action::Restore { .. } => matches!(self, Duty::Restore(_)),
            Action::Promote { .. } => matches!(self, Duty::Promote(..)),
            Action::ScaleUp { .. } => matches!(self, Duty::ScaleUp(_)),
            Action::Release => self == Duty::Release,
        }
    }

    fn first(self) -> &'static str {
        match self {
            Duty::Fence | Duty::ScaleDown | Duty::HandOver | Duty::Resync(_) | Duty::Rejoin => {
                "the fence here to be complete, or the hub to grant the lease"
            }
            Duty::Watch => "this cluster to enter the epoch",
            Duty::Hold | Duty::Protect | Duty::Resume(_) | Duty::Stage(_) => {
                "this cluster to change its role"
            }
            Duty::Restore(_) | Duty::Promote(..) | Duty::ScaleUp(_) | Duty::Release => "another command",
        }
    }

    /// Whether nothing may use the volumes here.
    pub fn stops(self) -> bool {
        match self {
            Duty::Fence | Duty::ScaleDown | Duty::HandOver | Duty::Resync(_) | Duty::Rejoin => true,
            Duty::Watch
            | Duty::Hold
            | Duty::Protect
            | Duty::Resume(_)
            | Duty::Stage(_)
            | Duty::Restore(_)
            | Duty::Promote(..)
            | Duty::ScaleUp(_)
            | Duty::Release => false,
        }
    }

    /// What a command waits for while this duty comes first.
    pub fn comes_first(self) -> Outcome {
        Outcome::Working { waiting_for: self.first().to_owned() }
    }
}

pub fn duty<'a>(
    site: Option<&'a SiteState>,
    command: Option<&'a Command>,
    inventory: Option<&'a Inventory>,
    seen: Seen,
) -> Duty<'a> {
    let action = command.map(|command| &command.action);
    if let Some(Action::Release) = action {
        // Whoever was told that this cluster stops still counts on it.
        let fencing = site.is_some_and(|site| site.role == Role::Fenced) && !seen.fence_complete;
        return if fencing && !seen.release_is_due { Duty::Fence } else { Duty::Release };
    }
    let Some(site) = site.filter(|site| site.assignment.is_some()) else {
        return Duty::Watch;
    };
    match (site.role, action) {
        (Role::Fenced, Some(Action::Restore { inventory })) if seen.fence_complete => {
            Duty::Restore(inventory)
        }
        (Role::Fenced, Some(Action::ScaleDown)) => Duty::ScaleDown,
        (Role::Fenced, Some(Action::Demote)) => Duty::HandOver,
        (Role::Fenced, Some(Action::Resync { claims })) => Duty::Resync(claims),
        (Role::Fenced | Role::Standby, Some(Action::Rejoin)) => Duty::Rejoin,
        // A planned move takes its time between its steps: the volumes are demoted when it says so.
        (Role::Fenced, None) if site.has_done(StepKind::ScaleDown) => Duty::ScaleDown,
        (Role::Fenced, _) => Duty::Fence,
        (Role::Standby, Some(Action::Restore { inventory })) => Duty::Restore(inventory),
        (Role::Standby, _) => Duty::Stage(inventory),
        (Role::Holder | Role::Promoting, Some(Action::Promote { claims, proof })) => {
            Duty::Promote(claims, *proof == FenceProof::NeverHeld)
        }
        (Role::Holder, Some(Action::ScaleUp { workloads })) => Duty::ScaleUp(workloads),
        (Role::Holder, _) if seen.demoted || !site.replicas.is_empty() => Duty::Resume(&site.replicas),
        (Role::Holder, None) => Duty::Protect,
        (Role::Holder, Some(_)) => Duty::Hold,
        (Role::Promoting | Role::Unknown, _) => Duty::Watch,
    }
}
