//! What agents say to each other when the hub is silent (protocol §4, "Hub silent").

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::epoch::Epoch;
use crate::gate::{GateNonce, Sealed};
use crate::names::{ClusterName, PlacementId};

/// The holder asks a target to refrain from promotion for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRequest {
    pub holder: ClusterName,
    pub placement: PlacementId,
    pub epoch: Epoch,
    /// The stop time of the policy that the holder lives by, which need not be the one that the target knows (R6).
    pub stop: Duration,
    /// What the gates of the holder's pods ask by; each gets a promise of its own.
    pub gates: Vec<GateNonce>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HoldAnswer {
    /// The holder's deadline may move to its own send instant plus `hold`.
    Promised { hold: Duration, tickets: Vec<Sealed> },
    /// This target has seen another epoch, or does not know the placement.
    Refused { epoch_seen: Epoch },
}
