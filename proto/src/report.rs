//! What an agent saw of one placement in its cluster: a whole value, the newest wins.

use serde::{Deserialize, Serialize};

use crate::epoch::Epoch;
use crate::names::{ClusterName, OperationId, PlacementId};
use crate::shared::Shared;
use crate::volume::{Inventory, VolumeState};

/// What a cluster is for a placement. Admission in that cluster enforces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Owns the placement: its pods may be created here.
    Holder,
    /// Entering its epoch: VolumeReplications may become primary, pods may not be created yet.
    Promoting,
    Standby,
    /// Was holder, and is stopped or stopping.
    Fenced,
    /// An agent has started and does not know yet.
    Unknown,
}

/// Whether a cluster's copy holds writes that the present holder's lacks (protocol §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Divergence {
    /// It has never been written since the copy was made, or everything written has crossed.
    No,
    /// It was holder, and nothing shows what had crossed when it stopped.
    Unknown,
    /// The storage says that the two copies do not match.
    Yes,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkloadRef {
    pub api_version: String,
    pub kind: String,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadState {
    pub workload: WorkloadRef,
    pub wanted: u32,
    pub ready: u32,
}

/// Something in the cluster that stands in the way, named for the user. `reason` is API: CamelCase, listed in the docs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ailment {
    pub reason: String,
    /// Begins with the object and ends with what to do.
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub cluster: ClusterName,
    pub placement: PlacementId,
    pub epoch_seen: Epoch,
    pub role: Role,
    /// The operation that `epoch_seen` was entered by.
    pub operation: Option<OperationId>,
    /// Version of the inventory that is staged here, bound and equal; none: nothing or not all of it.
    pub staged: Option<String>,
    /// This cluster's own inventory, where it has bound protected claims and is holder, has been scaled down, or has no role
    /// yet. Workloads are named with the replicas that the user wants, also while they are stopped.
    pub inventory: Option<Shared<Inventory>>,
    pub volumes: Vec<VolumeState>,
    pub workloads: Vec<WorkloadState>,
    /// Pods, not yet finished, that use a protected claim.
    pub pods: u32,
    /// A csi-addons controller leader for the driver is alive (rule 12); none: not known.
    pub driver_leader: Option<bool>,
    pub ailments: Vec<Ailment>,
    /// Of a former holder: what a resync would throw away.
    pub divergence: Divergence,
}
