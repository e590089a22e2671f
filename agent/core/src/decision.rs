//! What a step of the agent asks its driver to do. Nothing in `apply` depends on anything else in the same decision:
//! where an order matters, the later effect is decided only after the earlier one has been seen.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use proto::{
    ClusterName, CommandId, Epoch, FromAgent, HoldAnswer, HoldRequest, Mark, Moment, Peer, PlacementId,
    PlacementName, Sealed, StepKind, WorkloadRef,
};
use serde_json::Value;

use crate::event::AskId;
use crate::lease::{Accounted, Promised};
use crate::paths::PathMemory;
use crate::reconcilers::Reconciler;
use crate::site_state::SiteState;

#[derive(Debug, Default, PartialEq)]
pub struct Decision {
    /// DRSiteStates to write; what depends on them waits for `SiteWritten`.
    pub remember: Vec<SiteWrite>,
    /// The memory to write beside them: how long leases last and when paths last worked.
    pub keep: Option<Memory>,
    pub apply: Vec<(PlacementId, Effect)>,
    pub send: Vec<FromAgent>,
    /// Questions to peers.
    pub ask: Vec<HoldAsk>,
    /// Answers to peers.
    pub answer: Vec<(AskId, HoldAnswer)>,
    /// What the hub and the targets have answered to gates of pods here.
    pub admit: Vec<Sealed>,
    pub probe: Vec<Probe>,
    /// Where there are witnesses: all of them, to be visited now.
    pub visit: Option<WitnessVisit>,
    pub note: Vec<Note>,
    /// Named points that commands have passed; tests crash the agent there.
    pub reached: Vec<(StepKind, Point)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SiteWrite {
    pub state: SiteState,
    /// None: it must not exist yet.
    pub resource_version: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub boot: String,
    /// Wall time less boot time, in milliseconds: whoever reads this by clocks that are further apart takes R7's care.
    pub clock_offset: Option<i64>,
    /// How soon the next one is written: whoever waits to take over may conclude something from its absence.
    pub every: Duration,
    pub leases: Vec<(PlacementId, Accounted)>,
    /// What targets have promised: while the hub is silent it is all that the holder lives by.
    pub promises: Vec<(PlacementId, Promised)>,
    pub paths: Vec<PathMemory>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct HoldAsk {
    pub peer: Peer,
    pub request: HoldRequest,
    pub deadline: Duration,
    pub asked: Moment,
}

/// All paths to one cluster, to be tried now.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    pub peer: Peer,
    pub mark: Mark,
    pub began: Moment,
    pub deadline: Duration,
}

/// A look at the clusters' Leases at every witness, bounded by `deadline`; it holds up nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessVisit {
    pub mark: Mark,
    pub began: Moment,
    pub deadline: Duration,
    /// When the next visit follows.
    pub every: Duration,
    /// Whether this cluster's own Lease is to be advanced first.
    pub advance: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The guard has admitted it, and its epoch is durable.
    Accepted,
    /// All its effects are seen.
    Applied,
    /// Its answer has been handed to the stream.
    Acknowledged,
}

impl Point {
    pub fn as_str(self) -> &'static str {
        match self {
            Point::Accepted => "Accepted",
            Point::Applied => "Applied",
            Point::Acknowledged => "Acknowledged",
        }
    }
}

/// One whole change of the cluster. Repeating it changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Dry-run an object that the pod policy covers: refused means that the fence is in force.
    ProbeFence {
        namespace: String,
        claim: String,
    },
    /// Read pods and attachments anew, whole: proof of absence needs a read that began after the fence.
    ListUsers {
        namespace: String,
    },
    /// Note on the workload itself what it had, for a human without our object.
    MarkReplicas {
        namespace: String,
        workload: WorkloadRef,
        replicas: u32,
    },
    Scale {
        namespace: String,
        workload: WorkloadRef,
        replicas: u32,
    },
    SuspendCronJob {
        namespace: String,
        name: String,
        suspend: bool,
    },
    /// The irreversible act: only ever decided at a durable epoch, with role Promoting, or as Holder under a lease.
    CreateReplication {
        namespace: String,
        claim: String,
        class: String,
        epoch: Epoch,
    },
    PromoteReplication {
        namespace: String,
        name: String,
        epoch: Epoch,
    },
    DemoteReplication {
        namespace: String,
        name: String,
        epoch: Epoch,
    },
    /// Secondary with `autoResync`: what this copy alone has is thrown away. Only ever decided while the DRSiteState names
    /// the operation that was approved for it.
    ResyncReplication {
        namespace: String,
        name: String,
        epoch: Epoch,
    },
    /// It is primary already: only our mark is missing.
    MarkReplication {
        namespace: String,
        name: String,
        epoch: Epoch,
    },
    /// The VolumeGroupReplication that stands in the place of the claims' own VolumeReplications.
    Group {
        namespace: String,
        name: String,
        change: GroupChange,
    },
    /// A StorageClass, VolumeReplicationClass, VolumeGroupReplicationClass, PersistentVolume or PersistentVolumeClaim that does not exist yet, or an
    /// object of the application that is copied here.
    Create {
        object: Value,
    },
    /// A copy of an object of the application as it is at its holder now, in place of the version of it that was seen.
    Replace {
        object: Value,
    },
    /// A volume was expanded at the holder: its object here, of which nothing but its size is behind.
    EnlargeVolume {
        volume: String,
        size: String,
    },
    EnlargeClaim {
        namespace: String,
        claim: String,
        size: String,
    },
    /// Admission lets nobody delete a bound volume that names a placement; none: it names none any more.
    MarkVolume {
        volume: String,
        placement: Option<PlacementId>,
    },
    /// A Released volume is freed for its claim of the same name.
    ClearClaimReference {
        volume: String,
        claim_namespace: String,
        claim: String,
    },
    /// Take our marks away.
    UnmarkReplicas {
        namespace: String,
        workload: WorkloadRef,
    },
    UnmarkReplication {
        namespace: String,
        name: String,
    },
    DeleteSiteState {
        namespace: String,
        placement: PlacementId,
    },
    /// Argo CD or Flux leaves alone what this one applies, for this placement.
    PauseReconciler {
        reconciler: Reconciler,
        namespace: String,
        /// This placement and all others that it is paused for: uids and epochs.
        paused_for: BTreeMap<String, String>,
        resource_version: String,
    },
    /// This placement needs the pause no longer; it goes on if no other does.
    ResumeReconciler {
        reconciler: Reconciler,
        namespace: String,
        paused_for: BTreeMap<String, String>,
        resource_version: String,
    },
}

/// What a VolumeReplication is told for one claim, told to a whole group.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupChange {
    Create {
        class: String,
        group_class: String,
        selector: BTreeMap<String, String>,
        /// The VolumeGroupReplicationContent that stands here as a copy of the former holder's; none: a new one is made.
        content: Option<String>,
        epoch: Epoch,
    },
    Promote {
        epoch: Epoch,
    },
    Demote {
        epoch: Epoch,
    },
    Resync {
        epoch: Epoch,
    },
    Mark {
        epoch: Epoch,
    },
    Unmark,
}

impl GroupChange {
    fn stops(&self) -> bool {
        match self {
            GroupChange::Demote { .. } | GroupChange::Resync { .. } => true,
            GroupChange::Create { .. }
            | GroupChange::Promote { .. }
            | GroupChange::Mark { .. }
            | GroupChange::Unmark => false,
        }
    }

    fn may_be_refused_for_a_moment(&self) -> bool {
        match self {
            GroupChange::Create { .. }
            | GroupChange::Promote { .. }
            | GroupChange::Resync { .. }
            | GroupChange::Mark { .. } => true,
            GroupChange::Demote { .. } | GroupChange::Unmark => false,
        }
    }
}

impl Effect {
    /// Equal keys are the same change: one is under way at most.
    pub fn key(&self) -> String {
        self.to_string()
    }

    /// Whether it stops the application: one that is still under way could undo a start that overtakes it.
    pub fn stops(&self) -> bool {
        match self {
            Effect::Scale { replicas: 0, .. }
            | Effect::SuspendCronJob { suspend: true, .. }
            | Effect::DemoteReplication { .. }
            | Effect::ResyncReplication { .. } => true,
            Effect::Group { change, .. } => change.stops(),
            Effect::Scale { .. }
            | Effect::SuspendCronJob { .. }
            | Effect::ProbeFence { .. }
            | Effect::ListUsers { .. }
            | Effect::MarkReplicas { .. }
            | Effect::CreateReplication { .. }
            | Effect::PromoteReplication { .. }
            | Effect::MarkReplication { .. }
            | Effect::Create { .. }
            | Effect::Replace { .. }
            | Effect::EnlargeVolume { .. }
            | Effect::EnlargeClaim { .. }
            | Effect::MarkVolume { .. }
            | Effect::ClearClaimReference { .. }
            | Effect::UnmarkReplicas { .. }
            | Effect::UnmarkReplication { .. }
            | Effect::DeleteSiteState { .. }
            | Effect::PauseReconciler { .. }
            | Effect::ResumeReconciler { .. } => false,
        }
    }

    /// Whether a refusal right after a DRSiteState write may only mean that admission has not read it yet.
    pub fn may_be_refused_for_a_moment(&self) -> bool {
        match self {
            Effect::CreateReplication { .. }
            | Effect::PromoteReplication { .. }
            | Effect::ResyncReplication { .. }
            | Effect::MarkReplication { .. } => true,
            Effect::Group { change, .. } => change.may_be_refused_for_a_moment(),
            Effect::ProbeFence { .. }
            | Effect::ListUsers { .. }
            | Effect::MarkReplicas { .. }
            | Effect::Scale { .. }
            | Effect::SuspendCronJob { .. }
            | Effect::DemoteReplication { .. }
            | Effect::Create { .. }
            | Effect::Replace { .. }
            | Effect::EnlargeVolume { .. }
            | Effect::EnlargeClaim { .. }
            | Effect::MarkVolume { .. }
            | Effect::ClearClaimReference { .. }
            | Effect::UnmarkReplicas { .. }
            | Effect::UnmarkReplication { .. }
            | Effect::DeleteSiteState { .. }
            | Effect::PauseReconciler { .. }
            | Effect::ResumeReconciler { .. } => false,
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Effect::ProbeFence { claim, .. } => write!(f, "probe the fence of claim {claim}"),
            Effect::ListUsers { namespace } => write!(f, "list pods and attachments of {namespace}"),
            Effect::MarkReplicas { workload, replicas, .. } => {
                write!(f, "mark {} {} with {replicas} replicas", workload.kind, workload.name)
            }
            Effect::Scale { workload, replicas, .. } => {
                write!(f, "scale {} {} to {replicas}", workload.kind, workload.name)
            }
            Effect::SuspendCronJob { name, suspend: true, .. } => write!(f, "suspend CronJob {name}"),
            Effect::SuspendCronJob { name, suspend: false, .. } => write!(f, "resume CronJob {name}"),
            Effect::CreateReplication { claim, epoch, .. } => {
                write!(f, "create VolumeReplication {claim} primary at epoch {epoch}")
            }
            Effect::PromoteReplication { name, epoch, .. } => {
                write!(f, "promote VolumeReplication {name} at epoch {epoch}")
            }
            Effect::DemoteReplication { name, epoch, .. } => {
                write!(f, "demote VolumeReplication {name} at epoch {epoch}")
            }
            Effect::ResyncReplication { name, epoch, .. } => {
                write!(f, "resync VolumeReplication {name} at epoch {epoch}")
            }
            Effect::MarkReplication { name, epoch, .. } => {
                write!(f, "mark VolumeReplication {name} with epoch {epoch}")
            }
            Effect::Group { name, change, .. } => match change {
                GroupChange::Create { epoch, .. } => {
                    write!(f, "create VolumeGroupReplication {name} primary at epoch {epoch}")
                }
                GroupChange::Promote { epoch } => {
                    write!(f, "promote VolumeGroupReplication {name} at epoch {epoch}")
                }
                GroupChange::Demote { epoch } => {
                    write!(f, "demote VolumeGroupReplication {name} at epoch {epoch}")
                }
                GroupChange::Resync { epoch } => {
                    write!(f, "resync VolumeGroupReplication {name} at epoch {epoch}")
                }
                GroupChange::Mark { epoch } => {
                    write!(f, "mark VolumeGroupReplication {name} with epoch {epoch}")
                }
                GroupChange::Unmark => write!(f, "unmark VolumeGroupReplication {name}"),
            },
            Effect::Create { object } => write!(f, "create {}", named(object)),
            Effect::Replace { object } => write!(f, "replace {}", named(object)),
            Effect::EnlargeVolume { volume, size } => {
                write!(f, "enlarge PersistentVolume {volume} to {size}")
            }
            Effect::EnlargeClaim { claim, size, .. } => {
                write!(f, "enlarge PersistentVolumeClaim {claim} to {size}")
            }
            Effect::MarkVolume { volume, placement: Some(_) } => write!(f, "mark PersistentVolume {volume}"),
            Effect::MarkVolume { volume, placement: None } => write!(f, "unmark PersistentVolume {volume}"),
            Effect::ClearClaimReference { volume, .. } => {
                write!(f, "clear the claim reference of PersistentVolume {volume}")
            }
            Effect::UnmarkReplicas { workload, .. } => {
                write!(f, "unmark {} {}", workload.kind, workload.name)
            }
            Effect::UnmarkReplication { name, .. } => write!(f, "unmark VolumeReplication {name}"),
            Effect::DeleteSiteState { placement, .. } => write!(f, "delete DRSiteState {placement}"),
            Effect::PauseReconciler { reconciler, namespace, .. } => {
                write!(f, "pause {} {namespace}/{}", reconciler.kind.as_str(), reconciler.name)
            }
            Effect::ResumeReconciler { reconciler, namespace, .. } => {
                write!(f, "resume {} {namespace}/{}", reconciler.kind.as_str(), reconciler.name)
            }
        }
    }
}

fn named(object: &Value) -> String {
    let text = |at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default();
    format!("{} {}", text("/kind"), text("/metadata/name"))
}

/// Something that an operator may want to read; the driver logs it with its fields.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    RoleChanged {
        placement: PlacementName,
        role: proto::Role,
        epoch: Epoch,
    },
    LeaseRanOut {
        placement: PlacementName,
        stops: bool,
    },
    LeaseSuspended {
        placement: PlacementName,
        jump: Duration,
    },
    Superseded {
        placement: PlacementName,
        epoch: Epoch,
    },
    /// Nobody asks any more for the copy here to be made anew.
    ResyncWithdrawn {
        placement: PlacementName,
    },
    CommandRefused {
        command: CommandId,
        refusal: proto::Refusal,
    },
    CommandAdmitted {
        command: CommandId,
        epoch: Epoch,
        trace_parent: Option<String>,
    },
    CommandDone {
        command: CommandId,
    },
    EffectFailed {
        placement: PlacementName,
        effect: String,
        message: String,
    },
    WriteFailed {
        placement: PlacementName,
        message: String,
    },
    HoldPromised {
        placement: PlacementName,
        holder: ClusterName,
    },
    /// The timing of an assignment's policy breaks the inequality.
    PolicyRefused {
        placement: PlacementName,
        message: String,
    },
}
