//! What a step of the hub asks its driver to do: write down, then send, then tell (protocol R8).

use proto::{ClusterName, FromHub, Inventory, PlacementId, PlacementName, Shared, VolumeState, WallTime};
use serde::{Deserialize, Serialize};

use crate::explain::{Happening, OperationView, PlacementView, SiteReport};
use crate::fleet::Syncs;
use crate::journal::Entry;
use crate::witness::Visit;

#[derive(Debug, Default)]
pub struct Decision {
    /// To be durable before anything is sent.
    pub record: Vec<Entry>,
    /// Newest-wins values to be durable together with `record`.
    pub remember: Vec<Remembered>,
    pub send: Vec<Send>,
    pub explain: Vec<Explanation>,
    /// DRPlacements to read from the API server itself, past every cache; the answer comes back as `Event::Verified`.
    pub verify: Vec<PlacementName>,
    /// Witnesses to visit, after the record is durable; what they show comes back as `Event::Visited`.
    pub visit: Vec<Visit>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Send {
    pub to: ClusterName,
    pub message: FromHub,
}

/// What the hub keeps of a placement beside the journal, one value per placement, the newest wins: the copy of the
/// manifests, and the times that exist only at a primary (storage.md, rule 9).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Remembered {
    pub placement: PlacementId,
    pub name: PlacementName,
    /// The cluster that reported it, as holder.
    pub from: ClusterName,
    pub inventory: Shared<Inventory>,
    pub volumes: Vec<VolumeState>,
    /// The sync times among them that came from a clock that runs ahead: another hub does not believe them either.
    #[serde(default, skip_serializing_if = "Syncs::is_empty")]
    pub doubted: Syncs,
    /// When the hub last heard the holder, to within ten seconds.
    pub received: WallTime,
    /// Why the holder could not be relied upon to stop by itself when it was last heard, if so.
    pub unfenceable: Option<String>,
}

/// One finding, told in every form: status, Kubernetes event, metric and log line print the same value.
#[derive(Clone, Debug, PartialEq)]
pub enum Explanation {
    Placement(Box<PlacementView>),
    Operation(Box<OperationView>),
    Site(SiteReport),
    Happened(Happening),
    /// The release of a deleted DRPlacement is complete: its finalizer may go.
    Released(PlacementId, PlacementName),
}
