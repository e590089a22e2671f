//! What one placement asks of one cluster: a whole value, the newest wins.

use serde::{Deserialize, Serialize};

use crate::epoch::Epoch;
use crate::names::{ClusterName, PlacementId, PlacementName, Selector};
use crate::policy::Policy;
use crate::shared::Shared;
use crate::volume::Inventory;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protect {
    pub volumes: Selector,
    pub workloads: Selector,
    /// What else is copied to a standby. Empty: the user, or a tool of theirs, applies everything to each cluster.
    #[serde(default)]
    pub objects: Vec<ObjectSelector>,
}

/// Objects of one kind in the placement's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectSelector {
    pub api_version: String,
    pub kind: String,
    /// Empty: those with the labels that the workloads are selected by.
    pub names: Vec<String>,
}

/// Another cluster of the same placement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub cluster: ClusterName,
    /// The uid in its certificate's identity.
    pub identity: String,
    /// `host:port` of its agent's peer service; none: agents cannot reach each other, and a silent hub ends the lease.
    pub peer_endpoint: Option<String>,
    /// `host:port` of its API server or of other things whose answer is a sign of life.
    pub probe_endpoints: Vec<String>,
    /// Whether a promotion there is possible, so that a hold needs its promise.
    pub eligible: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub placement: PlacementId,
    pub name: PlacementName,
    /// The current ownership; zero and none before the first.
    pub epoch: Epoch,
    pub holder: Option<ClusterName>,
    pub protect: Protect,
    /// Name of the VolumeReplicationClass.
    pub replication_class: String,
    /// Name of the VolumeGroupReplicationClass, where the claims are replicated as one group.
    #[serde(default)]
    pub group_class: Option<String>,
    pub policy: Policy,
    pub peers: Vec<Peer>,
    /// What a standby keeps staged: the hub's copy of the holder's claims and volumes. None for the holder itself.
    pub inventory: Option<Shared<Inventory>>,
}

impl Assignment {
    /// Name of the VolumeGroupReplication that replicates the claims, where they are replicated as one group.
    pub fn group(&self) -> Option<&str> {
        self.group_class.as_ref().map(|_| self.name.name.as_str())
    }
}
