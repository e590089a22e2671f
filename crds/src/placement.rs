//! DRPlacement: one protected application, where its user wants it, and what is true of it now.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{rules, shape};

/// An application whose volumes are replicated to another cluster: which cluster should run it, what belongs to it, and
/// how it moves when a cluster is lost.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "understudy.dev",
    version = "v1alpha1",
    kind = "DRPlacement",
    plural = "drplacements",
    shortname = "drp",
    category = "dr",
    namespaced,
    status = "DRPlacementStatus",
    derive = "PartialEq",
    printcolumn(name = "ACTIVE", type_ = "string", json_path = ".status.activeCluster", description = "The cluster that owns the placement"),
    printcolumn(name = "READY", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status", description = "Available, protected, and nothing running"),
    printcolumn(name = "PHASE", type_ = "string", json_path = ".status.phase", description = "One word for what is going on"),
    printcolumn(name = "LAST SYNC", type_ = "date", json_path = ".status.lastSyncTime", description = "Age of the oldest volume's last complete copy"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "PREFERRED", type_ = "string", json_path = ".spec.preferredCluster", priority = 1),
    printcolumn(name = "STANDBY", type_ = "string", json_path = ".status.standby[0]", description = "The first cluster that could take over", priority = 1),
    printcolumn(name = "MAX LOSS", type_ = "string", json_path = ".spec.failover.maxDataLoss", priority = 1),
    printcolumn(name = "FAILOVER-READY", type_ = "string", json_path = ".status.conditions[?(@.type==\"FailoverReady\")].status", description = "A failover started now would pass every check", priority = 1),
    printcolumn(name = "ARMED", type_ = "string", json_path = ".status.conditions[?(@.type==\"AutomaticFailoverArmed\")].status", description = "The hub may act alone", priority = 1),
    printcolumn(name = "STEP", type_ = "string", json_path = ".status.step", priority = 1),
    printcolumn(name = "REASON", type_ = "string", json_path = ".status.reason", priority = 1),
    validation = rules::PLACEMENT_NAME_IS_A_LABEL,
    validation = rules::ACTIVE_CLUSTER_STAYS_LISTED,
    validation = rules::NOTHING_DEPENDS_ON_ITSELF,
    doc = "An application whose volumes are replicated to another cluster: which cluster should run it, what belongs to it, and how it moves when a cluster is lost."
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::placement()))]
pub struct DRPlacementSpec {
    /// The cluster that should run the application when all is well. One of `clusters`.
    #[schemars(schema_with = "shape::label")]
    pub preferred_cluster: String,
    /// The clusters that may run it, in order of preference: two to eight names of DRClusters, each once.
    #[schemars(schema_with = "shape::clusters")]
    pub clusters: Vec<String>,
    /// What belongs to the application.
    pub protect: ProtectSpec,
    /// How its volumes are replicated.
    pub replication: ReplicationSpec,
    /// What happens when the cluster that runs it is lost.
    #[serde(default)]
    pub failover: FailoverSpec,
    /// How the application moves while both clusters are well.
    #[serde(default)]
    pub migration: MigrationSpec,
    /// What happens when the preferred cluster is back.
    #[serde(default)]
    pub failback: FailbackSpec,
    /// Names of DRPlacements in this namespace that must serve before this application is started in another cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "shape::few_names")]
    pub depends_on: Vec<String>,
    /// Nothing is begun while this is true: no failover, no failback, no first deployment. Leases go on. Default: false.
    #[serde(default)]
    pub paused: bool,
}

/// What belongs to the application, in the placement's namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProtectSpec {
    /// The PersistentVolumeClaims to replicate.
    pub volumes: LabelSelectorSpec,
    /// The workloads to stop and start: anything with a scale subresource, and CronJobs.
    pub workloads: LabelSelectorSpec,
    /// What else is copied from the cluster that owns the placement to the others, so that a failover finds it there:
    /// created where it is missing, with workloads stopped; updated where it was copied before; never deleted, and never
    /// written over what somebody else made. Default: none, so that the user, or a tool of theirs, applies the application
    /// to each cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub objects: Vec<ObjectsSpec>,
}

/// Objects of one kind in the placement's namespace. What another object controls is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::objects()))]
pub struct ObjectsSpec {
    /// Of the kind, as apps/v1 or v1.
    #[schemars(schema_with = "shape::api_version")]
    pub api_version: String,
    /// Deployment, StatefulSet, CronJob, Service, ConfigMap, Secret, Ingress, NetworkPolicy, PodDisruptionBudget,
    /// HorizontalPodAutoscaler or ServiceAccount.
    #[schemars(schema_with = "shape::kind")]
    pub kind: String,
    /// Names of up to 16 objects. Default: those with the labels of protect.workloads. Secrets must be named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "shape::object_names")]
    pub names: Vec<String>,
}

/// Labels that must all match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::selector()))]
pub struct LabelSelectorSpec {
    /// One to sixteen labels with their values.
    #[schemars(schema_with = "shape::labels")]
    pub match_labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::replication()))]
pub struct ReplicationSpec {
    /// Name of the VolumeReplicationClass, the same in every cluster.
    #[schemars(schema_with = "shape::name")]
    pub volume_replication_class: String,
    /// Name of the VolumeGroupReplicationClass, the same in every cluster: the claims are replicated as one group, all at one
    /// moment, by a VolumeGroupReplication named like the placement. It cannot be changed later. Default: none, so that
    /// each claim has a VolumeReplication of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::name")]
    pub volume_group_replication_class: Option<String>,
}

/// What happens when the cluster that runs the application is lost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::failover()))]
pub struct FailoverSpec {
    /// Automatic: the hub acts alone when it is safe. Confirm: it proposes, a human approves. Manual: only on request.
    /// Default: Confirm.
    #[serde(default)]
    pub mode: FailoverMode,
    /// The most recent writes that may be lost, as a span of time such as 10m. A failover that would lose more needs a
    /// human. Default: three scheduling intervals of the VolumeReplicationClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::span")]
    pub max_data_loss: Option<String>,
    /// How far the last complete copies of the volumes may lie apart in time for an automatic failover. Default: not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::span")]
    pub max_skew: Option<String>,
    /// How a lost cluster is known to have stopped. Default: SelfFence.
    #[serde(default)]
    pub fencing: FencingLevel,
    /// What the running cluster does when neither the hub nor its peers answer: stop the application, or go on. Default:
    /// Stop in mode Automatic, which needs it; Continue otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_silence: Option<OnSilence>,
    /// How long leases, waits and suspicion take. Default: the profile Default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timing: Option<TimingSpec>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailoverMode {
    Automatic,
    #[default]
    Confirm,
    Manual,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FencingLevel {
    None,
    #[default]
    SelfFence,
    Gate,
    Storage,
    External,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnSilence {
    Stop,
    Continue,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TimingProfile {
    Fast,
    #[default]
    Default,
    Conservative,
}

/// A profile, and what differs from it. Spans are written as 500ms, 20s or 1m30s.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::timing()))]
pub struct TimingSpec {
    /// Where values that are not given here come from. Default: Default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<TimingProfile>,
    /// How often an agent renews its lease. Profiles: 2s, 5s, 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::span")]
    pub renew: Option<String>,
    /// How long one call may take. Profiles: 2s, 5s, 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::span")]
    pub rpc: Option<String>,
    /// How long a lease lasts from the sending of the renewal that it answers. Profiles: 20s, 45s, 600s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::span")]
    pub ttl: Option<String>,
    /// How long the promise of a peer lasts while the hub is silent. Profiles: 15s, 30s, 300s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::span")]
    pub hold: Option<String>,
    /// The longest terminationGracePeriodSeconds of the protected pods. Profiles: 10s, 30s, 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::span")]
    pub grace: Option<String>,
    /// From the end of a lease until the application has certainly stopped. Profiles: 25s, 60s, 90s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::span")]
    pub stop: Option<String>,
    /// Silence after which a cluster is suspected. Profiles: 6s, 15s, 180s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::span")]
    pub suspect: Option<String>,
    /// Silence after which a suspected cluster may be declared lost. Profiles: 12s, 30s, 360s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::span")]
    pub unreachable: Option<String>,
    /// By how much a clock may run fast or slow, in parts per million. Profiles: 10000 (1 %).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub clock_rate_error_ppm: Option<u32>,
}

/// How the application moves while both clusters are well.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::migration()))]
pub struct MigrationSpec {
    /// A planned move that has promoted nothing after this span is rolled back: the application is started again where it was.
    /// Default: 15m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::span")]
    pub deadline: Option<String>,
}

/// What happens when the preferred cluster is back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::failback()))]
pub struct FailbackSpec {
    /// Manual: only on request. Automatic: once the copy there is protected and stable again. Default: Manual.
    #[serde(default)]
    pub mode: FailbackMode,
    /// Whether the outdated copy at the returned cluster may be thrown away and made anew without asking. Writes that only it
    /// has are lost then. Default: Approval.
    #[serde(default)]
    pub resync: ResyncMode,
    /// How long the copy must have met the bound before an automatic failback. Default: 30m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::span")]
    pub stabilization: Option<String>,
    /// When an automatic failback may begin. None: at any time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub windows: Vec<WindowSpec>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ResyncMode {
    #[default]
    Approval,
    Automatic,
}

/// A span of every day, in UTC; one that ends before it begins goes over midnight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::window()))]
pub struct WindowSpec {
    /// Begin, as 22:30.
    #[schemars(schema_with = "shape::time_of_day")]
    pub from: String,
    /// End, as 04:00.
    #[schemars(schema_with = "shape::time_of_day")]
    pub to: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailbackMode {
    #[default]
    Manual,
    Automatic,
}

/// What is true of the placement now, as the hub knows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DRPlacementStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The cluster that owns the placement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::label")]
    pub active_cluster: Option<String>,
    /// The number of the current ownership; it only grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub epoch: Option<i64>,
    /// One word for what is going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// How long the application would be away if its cluster were lost now: detection, wait, promotion and start.
    #[serde(default, rename = "expectedRTO", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::word")]
    pub expected_rto: Option<String>,
    /// What would be lost if the cluster were lost now: the age of the worst volume's copy, or "unknown".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::word")]
    pub expected_loss: Option<String>,
    /// The oldest of the volumes' last complete copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::time")]
    pub last_sync_time: Option<Time>,
    /// The other clusters that could take over, in order of preference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "shape::few_clusters")]
    pub standby: Vec<String>,
    /// The same clusters, each with what stands against it as a target, if anything does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["cluster"]))]
    pub standbys: Vec<StandbyStatus>,
    /// How far the last complete copies of the volumes lie apart in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::word")]
    pub skew: Option<String>,
    /// Name of the DROperation that runs or waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::name")]
    pub operation: Option<String>,
    /// Its current step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::word")]
    pub step: Option<String>,
    /// The reason that matters most now; it is that of a condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::word")]
    pub reason: Option<String>,
    /// Ready, Available, Protected, FailoverReady, AutomaticFailoverArmed; Reconciling and Stalled only while true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "shape::conditions")]
    pub conditions: Vec<Condition>,
    /// Each protected volume at the active cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["claim"]))]
    pub volumes: Vec<VolumeStatus>,
}

/// One word for what is going on with a placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Not begun: no cluster owns it yet.
    Pending,
    /// Being adopted where it runs.
    Deploying,
    /// Runs, and its copy meets the bound.
    Protected,
    /// Runs, and its copy does not meet the bound.
    Unprotected,
    FailingOver,
    Migrating,
    FailingBack,
    /// The outdated copy of a former holder is being made anew.
    Resyncing,
    /// An operation waits for an approval.
    WaitingForApproval,
    /// Nothing moves until a human has looked.
    NeedsHuman,
    Paused,
    /// Being let go.
    Releasing,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Deploying => "Deploying",
            Phase::Protected => "Protected",
            Phase::Unprotected => "Unprotected",
            Phase::FailingOver => "FailingOver",
            Phase::Migrating => "Migrating",
            Phase::FailingBack => "FailingBack",
            Phase::Resyncing => "Resyncing",
            Phase::WaitingForApproval => "WaitingForApproval",
            Phase::NeedsHuman => "NeedsHuman",
            Phase::Paused => "Paused",
            Phase::Releasing => "Releasing",
        }
    }
}

/// One cluster that could take over, or could not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StandbyStatus {
    #[schemars(schema_with = "shape::label")]
    pub cluster: String,
    /// A failover to it could start now.
    pub ready: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::word")]
    pub reason: Option<String>,
    /// Begins with the object and ends with what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::text")]
    pub message: Option<String>,
}

/// One protected volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeStatus {
    /// Name of its PersistentVolumeClaim.
    #[schemars(schema_with = "shape::name")]
    pub claim: String,
    /// The cluster that this line was seen in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::label")]
    pub cluster: Option<String>,
    /// State of its VolumeReplication: Primary, Secondary or Unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::word")]
    pub state: Option<String>,
    /// When its last complete copy was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::time")]
    pub last_sync_time: Option<Time>,
    /// How old that copy was when this status was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::word")]
    pub lag: Option<String>,
}
