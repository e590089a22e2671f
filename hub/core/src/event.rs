//! Everything that can happen to the hub. An event updates what is known; what to do is read from the whole state.

use proto::{Acknowledgement, ClusterName, Heartbeat, Hello, Moment, PlacementId, Report, WallTime};

use crate::approval::Approval;
use crate::fleet::Cluster;
use crate::placement::{Placement, Refused};
use crate::witness::Visited;

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A DRPlacement as it now is, parsed at the door.
    PlacementSeen(Box<Placement>),
    /// A DRPlacement whose spec cannot be understood: the last good one stays in force, and its status says why.
    PlacementRefused(Box<Refused>),
    /// A linearizable read of the DRPlacement, which began at this moment, has shown what was seen last.
    Verified(PlacementId, Moment),
    /// The DRPlacement object no longer exists.
    PlacementGone(PlacementId),
    /// A human's answer to a proposal, as it now is.
    ApprovalSeen(Box<Approval>),
    /// It was deleted: its namespace and name.
    ApprovalGone(String, String),
    ClusterSeen(Cluster),
    ClusterGone(ClusterName),
    /// A stream has begun; everything said before on another stream of this cluster is over.
    Connected(Hello),
    Disconnected(ClusterName),
    Heartbeat(Heartbeat),
    Report(Box<Report>),
    Acknowledged(Acknowledgement),
    /// A witness has answered.
    Visited(Box<Visited>),
    /// Time has passed.
    Tick,
}

/// The time, as the driver reads it once per event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    pub boot: Moment,
    pub wall: WallTime,
}
