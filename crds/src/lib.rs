//! The Kubernetes shapes of Understudy: what users and agents write down, with its bounds and refusals, and no behaviour.

#![allow(
    clippy::duplicated_attributes,
    reason = "each printer column is an attribute of its own with the same keys"
)]

pub mod rules;
pub mod shape;

pub mod conditions;
pub mod span;

pub mod placement;

pub mod cluster;

pub mod operation;

pub mod approval;

pub mod site_state;

pub mod foreign;

pub mod definitions;

pub use approval::{DRApproval, DRApprovalSpec};
pub use cluster::{DRCluster, DRClusterSpec, DRClusterStatus};
pub use operation::{DROperation, DROperationSpec, DROperationStatus};
pub use placement::{DRPlacement, DRPlacementSpec, DRPlacementStatus};
pub use site_state::{DRSiteState, DRSiteStateSpec};

pub const GROUP: &str = "understudy.dev";
pub const VERSION: &str = "v1alpha1";

/// On VolumeReplications: the epoch whose operation wrote their state. Admission compares it with the recorded one.
pub const EPOCH_ANNOTATION: &str = "understudy.dev/epoch";
/// On workloads: the replicas that they had before they were stopped.
pub const REPLICAS_ANNOTATION: &str = "understudy.dev/replicas";
/// On PersistentVolumes of protected claims: the uid of their placement. Admission refuses to delete such a volume while it
/// is bound.
pub const PROTECTED_BY_ANNOTATION: &str = "understudy.dev/protected-by";
/// On objects of an application that an agent has copied from another cluster: that cluster's name. Admission lets the
/// agent change no other.
pub const STAGED_FROM_ANNOTATION: &str = "understudy.dev/staged-from";
/// On the ConfigMap of a dry run that asks whether the fence is in force: a protected claim's name, or the placement's uid.
pub const FENCE_PROBE_LABEL: &str = "understudy.dev/fence-probe";
/// The namespace that hub and agents are installed in.
pub const SYSTEM_NAMESPACE: &str = "understudy-system";
