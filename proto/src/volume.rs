//! Volumes as the contract sees them: what is copied to a standby, and what a VolumeReplication shows.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::WallTime;
use crate::epoch::Epoch;
use crate::report::WorkloadRef;

/// A protected claim and its volume, sanitised for restoring elsewhere (storage.md, "Restoring PV and PVC").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeManifest {
    pub claim: String,
    /// `spec.csi.volumeHandle`: the same image at both sites.
    pub handle: String,
    pub persistent_volume: Value,
    pub persistent_volume_claim: Value,
}

/// Everything a standby needs so that nothing has to be read from a dead site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Hash over all of the rest: equal versions are equal inventories.
    pub version: String,
    pub volumes: Vec<VolumeManifest>,
    /// StorageClasses and the VolumeReplicationClass, sanitised.
    pub classes: Vec<Value>,
    /// The protected workloads with the replicas that the user wants.
    pub workloads: Vec<WorkloadReplicas>,
    /// Further objects of the application, sanitised; those that make pods are stopped.
    #[serde(default)]
    pub objects: Vec<Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadReplicas {
    pub workload: WorkloadRef,
    /// For a CronJob: 0 suspended, 1 not.
    pub replicas: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicationState {
    Primary,
    Secondary,
    Unknown,
}

/// One VolumeReplication as its object shows it. `None` in a condition: absent, which is unknown, not false (rule 17).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replication {
    /// `spec.replicationState`, as written.
    pub desired: String,
    pub state: ReplicationState,
    pub current: bool,
    pub completed: Option<bool>,
    pub degraded: Option<bool>,
    pub resyncing: Option<bool>,
    pub validated: Option<bool>,
    /// Exists only at a primary, after its first sync (rule 9).
    pub last_sync: Option<WallTime>,
    /// How much that sync carried over, and how long it took: for people to look at, never a reason to act.
    #[serde(default)]
    pub last_sync_bytes: Option<u64>,
    #[serde(default)]
    pub last_sync_took: Option<Duration>,
    /// The epoch annotation our agent wrote with it.
    pub epoch: Option<Epoch>,
    pub message: String,
}

impl Replication {
    /// Rule 5: primary counts only at the current generation, completed, and not found invalid.
    pub fn is_primary(&self) -> bool {
        self.current
            && self.desired == "primary"
            && self.state == ReplicationState::Primary
            && self.completed == Some(true)
            && self.validated != Some(false)
    }

    /// Rule 5: a demotion has crossed only with the whole condition triple.
    pub fn demotion_has_crossed(&self) -> bool {
        self.current
            && self.desired == "secondary"
            && self.state == ReplicationState::Secondary
            && self.completed == Some(true)
            && self.resyncing == Some(false)
            && self.degraded == Some(false)
    }
}

/// What a cluster sees of one protected claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeState {
    pub claim: String,
    pub handle: Option<String>,
    pub bound: bool,
    /// A VolumeAttachment of its volume exists.
    pub attached: bool,
    pub replication: Option<Replication>,
}
