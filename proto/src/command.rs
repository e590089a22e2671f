//! A whole, repeatable instruction. Its id is derived from what it is part of, so sending it again changes nothing.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::epoch::{Epoch, Nonce};
use crate::names::{OperationId, PlacementId};
use crate::report::WorkloadRef;
use crate::shared::Shared;
use crate::volume::Inventory;

/// One line of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StepKind {
    /// Tell the old holder to stop; best effort.
    Fence,
    /// The workloads of the present holder are stopped; no pod and no VolumeAttachment uses its volumes.
    ScaleDown,
    /// The hub has the manifests of the present holder as they are after it has stopped.
    BackUp,
    /// Every VolumeReplication secondary at the old holder, and everything written there has crossed (storage.md, rule 5).
    Demote,
    /// PV, then PVC, bound at the target.
    Restore,
    /// The old holder is known to be stopped.
    AwaitFence,
    /// Every VolumeReplication primary at the target. Issuing it is the point of no return.
    Promote,
    /// The ownership record: from here the target holds the placement.
    TakeOwnership,
    ScaleUp,
    AwaitReady,
    /// The outdated copy of a former holder is thrown away and made anew. Its only writes that nobody else has are lost
    /// here (invariant S22), so it is approved or explicitly automatic.
    Resync,
    /// The holder's sync times are later than the resync: the copy is one again.
    AwaitSync,
    /// A former holder whose copy is whole again becomes a standby.
    Rejoin,
    /// Understudy lets go: its own traces are removed, everything else stays.
    Release,
}

impl StepKind {
    pub fn as_str(self) -> &'static str {
        match self {
            StepKind::Fence => "Fence",
            StepKind::ScaleDown => "ScaleDown",
            StepKind::BackUp => "BackUp",
            StepKind::Demote => "Demote",
            StepKind::Restore => "Restore",
            StepKind::AwaitFence => "AwaitFence",
            StepKind::Promote => "Promote",
            StepKind::TakeOwnership => "TakeOwnership",
            StepKind::ScaleUp => "ScaleUp",
            StepKind::AwaitReady => "AwaitReady",
            StepKind::Resync => "Resync",
            StepKind::AwaitSync => "AwaitSync",
            StepKind::Rejoin => "Rejoin",
            StepKind::Release => "Release",
        }
    }
}

impl fmt::Display for StepKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CommandId {
    pub placement: PlacementId,
    pub operation: OperationId,
    pub step: StepKind,
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.operation, self.step)
    }
}

/// Why the old holder is known to be stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FenceProof {
    /// No other cluster can hold it: the first deployment, or the return to a holder that was never replaced.
    NeverHeld,
    /// It said so: pods and attachments gone, volumes secondary.
    Acknowledged,
    /// Its lease and its time to stop have run out (R6 says when that proves anything).
    LeaseExpired,
    Storage,
    Asserted {
        approver: String,
    },
}

impl FenceProof {
    /// A positive proof needs no waiting, and overrides a promise given to the old holder.
    pub fn is_positive(&self) -> bool {
        match self {
            FenceProof::LeaseExpired => false,
            FenceProof::NeverHeld
            | FenceProof::Acknowledged
            | FenceProof::Storage
            | FenceProof::Asserted { approver: _ } => true,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadScale {
    pub workload: WorkloadRef,
    pub replicas: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Role Fenced, workloads to 0, pods and attachments gone, VolumeReplications secondary; in this order.
    Fence,
    /// Role Fenced, workloads to 0, pods and attachments gone. The volumes stay primary until `Demote`.
    ScaleDown,
    /// As `Fence`, and every demotion has crossed: the condition triple at the current generation, for every protected
    /// claim. That it has is recorded durably before it is acknowledged: this copy has nothing that the other lacks.
    Demote,
    /// Stage this inventory and wait until it is bound.
    Restore { inventory: Shared<Inventory> },
    /// Persist the epoch, make every VolumeReplication primary, and wait until each one is.
    Promote { proof: FenceProof, claims: Vec<String> },
    /// Role Holder, and the workloads at the replicas named.
    ScaleUp { workloads: Vec<WorkloadScale> },
    /// Only at a cluster that is Fenced: VolumeReplications `secondary` with `autoResync: true`, until each of these claims
    /// replays (storage.md, "Seen on a real array"). Like `Release` it enters no epoch: it carries the present one.
    Resync { claims: Vec<String> },
    /// Only at a cluster that is Fenced: `autoResync: false` everywhere, then role Standby. Enters no epoch.
    Rejoin,
    /// Remove Understudy's own objects and marks; application, volumes and mirroring stay as they are.
    Release,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    pub id: CommandId,
    /// The epoch being entered (R4).
    pub epoch: Epoch,
    /// The heartbeat of this agent that the command answers, and how long it may live since that was sent (R5).
    pub nonce: Nonce,
    pub lifetime: Duration,
    pub action: Action,
    /// W3C `traceparent` of the step, so that the agent's work hangs below it.
    pub trace_parent: Option<String>,
}
