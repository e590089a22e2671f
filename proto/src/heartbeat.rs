//! "I am alive", what comes with it, and what is answered.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Mark;
use crate::epoch::{Epoch, Nonce, Term};
use crate::lease::{Denial, Grant, Renewal};
use crate::names::{ClusterName, PlacementId};
use crate::report::Role;

/// The first message of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub cluster: ClusterName,
    pub version: String,
    /// What this cluster remembers of each placement (rejoin, protocol §3).
    pub known: Vec<Known>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub placement: PlacementId,
    pub epoch: Epoch,
    pub role: Role,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub cluster: ClusterName,
    pub nonce: Nonce,
    /// Age of the agent's last successful write to its own API server; none: it has not succeeded yet. A site whose
    /// agent cannot write cannot fence itself (protocol §4).
    pub api_write_age: Option<Duration>,
    pub renewals: Vec<Renewal>,
    pub paths: Vec<PathState>,
}

/// The kinds of path by which one site can see another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PathKind {
    /// The other agent's peer endpoint.
    PeerAgent,
    /// The other cluster's API server, or whatever probe endpoint its DRCluster names.
    ApiServer,
    /// The other cluster's Lease at the witnesses: it works as long as the Lease advances.
    Witness,
}

/// What the last probe of one path to another cluster found. A TLS failure over a live TCP connection is a sign of life
/// and counts as reachable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathState {
    pub cluster: ClusterName,
    pub path: PathKind,
    pub reachable: bool,
    /// The newest hub time that the agent had heard when this probe *began*.
    pub mark: Mark,
    /// Since the path last worked; none: never since this agent remembers, so its silence proves nothing.
    pub worked_age: Option<Duration>,
}

/// The answer to one heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    pub term: Term,
    pub nonce: Nonce,
    pub mark: Mark,
    pub grants: Vec<Grant>,
    pub denials: Vec<Denial>,
}
