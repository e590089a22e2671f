//! The contract between the hub and its agents: the words both sides use, as plain values.
//!
//! Nothing here does I/O or reads a clock. With the feature `wire`, `convert` maps these values to the generated
//! messages of `dr.v1`; no other module knows the wire.

pub mod acknowledgement;
pub mod assignment;
pub mod clock;
pub mod command;
pub mod epoch;
pub mod gate;
pub mod heartbeat;
pub mod lease;
pub mod names;
pub mod peer;
pub mod policy;
pub mod report;
pub mod rule;
pub mod shared;
pub mod volume;
pub mod witness;

#[cfg(feature = "wire")]
pub mod convert;
#[cfg(feature = "wire")]
pub mod wire;

pub use acknowledgement::{Acknowledgement, Outcome, Refusal};
pub use assignment::{Assignment, ObjectSelector, Peer, Protect};
pub use clock::{Mark, Moment, WallTime};
pub use command::{Action, Command, CommandId, FenceProof, StepKind, WorkloadScale};
pub use epoch::{Epoch, Generation, Nonce, Term};
pub use gate::{GateNonce, Sealed};
pub use heartbeat::{Heartbeat, Hello, PathKind, PathState, Reply};
pub use lease::{Denial, DenialReason, Grant, Renewal};
pub use names::{ClusterName, NameError, OperationId, PlacementId, PlacementName, Selector};
pub use peer::{HoldAnswer, HoldRequest};
pub use policy::{Fencing, OnSilence, Policy, Timing, TimingError};
pub use report::{Ailment, Divergence, Report, Role, WorkloadRef, WorkloadState};
pub use rule::{Rule, kept};
pub use shared::Shared;
pub use volume::{Inventory, Replication, ReplicationState, VolumeManifest, VolumeState};
pub use witness::{Pulse, Pulses, Testimony, WitnessLook};

/// What an agent says on its stream.
#[derive(Clone, Debug, PartialEq)]
pub enum FromAgent {
    Hello(Hello),
    Heartbeat(Heartbeat),
    Report(Report),
    Acknowledgement(Acknowledgement),
}

/// What the hub says on an agent's stream.
#[derive(Clone, Debug, PartialEq)]
pub enum FromHub {
    Reply(Reply),
    Assignment(Box<Assignment>),
    /// The placement no longer concerns this cluster; nothing in the cluster changes by it.
    Unassign(PlacementId),
    Command(Box<Command>),
}
