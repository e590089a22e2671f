//! The holder's time-bounded right to stay primary. A lease is a reply, never a state that someone pushes (protocol R1).

use serde::{Deserialize, Serialize};

use crate::epoch::{Epoch, Generation};
use crate::gate::{GateNonce, Sealed};
use crate::names::{ClusterName, PlacementId};
use crate::policy::Policy;

/// The holder asks; the deadline of what it may get counts from the send instant of the heartbeat that carries this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    pub placement: PlacementId,
    pub epoch: Epoch,
    /// The newest policy generation that the holder lives by (R6); zero if it has none yet.
    pub echo: Generation,
    /// What the gates of its pods ask by; each gets a ticket with the grant.
    pub gates: Vec<GateNonce>,
}

/// The holder may go on until the send instant of its renewal plus `policy.timing.ttl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub placement: PlacementId,
    pub epoch: Epoch,
    pub policy: Policy,
    pub tickets: Vec<Sealed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DenialReason {
    /// Another epoch has been entered, or is about to be (R2): stop.
    Superseded,
    /// The hub does not know this placement, or not as this cluster's.
    NotYours,
    /// The hub is not (or not yet) fit to answer; not a reason to stop before the deadline.
    NotNow,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    pub placement: PlacementId,
    /// The newest epoch the hub knows of.
    pub epoch: Epoch,
    pub holder: Option<ClusterName>,
    pub reason: DenialReason,
}
