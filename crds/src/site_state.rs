//! DRSiteState: what a member cluster is for one placement. Its agent writes it, and admission in that cluster reads it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{rules, shape};

/// What this cluster is for one placement. Named by the placement's uid, in the application's namespace.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "understudy.dev",
    version = "v1alpha1",
    kind = "DRSiteState",
    plural = "drsitestates",
    shortname = "drs",
    category = "dr",
    namespaced,
    derive = "PartialEq",
    printcolumn(name = "PLACEMENT", type_ = "string", json_path = ".spec.placement"),
    printcolumn(name = "ROLE", type_ = "string", json_path = ".spec.role"),
    printcolumn(name = "EPOCH", type_ = "integer", json_path = ".spec.epochSeen"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "OPERATION", type_ = "string", json_path = ".spec.operation", priority = 1),
    printcolumn(name = "FENCED", type_ = "date", json_path = ".spec.fencedAt", priority = 1),
    validation = rules::EPOCH_NEVER_DECREASES,
    validation = rules::SITE_STATE_KEEPS_ITS_PLACEMENT,
    validation = rules::SITE_STATE_IS_NAMED_BY_ITS_PLACEMENT,
    doc = "What this cluster is for one placement: the parameter of the admission policies that fence it. Named by the placement's uid, and written only by this cluster's agent."
)]
#[serde(rename_all = "camelCase")]
pub struct DRSiteStateSpec {
    /// Name of the DRPlacement at the hub.
    #[schemars(schema_with = "shape::label")]
    pub placement: String,
    /// Its uid.
    #[schemars(schema_with = "shape::label")]
    pub placement_id: String,
    /// The protected PersistentVolumeClaims of this namespace. At most 100.
    #[serde(default)]
    #[schemars(schema_with = "shape::claims")]
    pub claims: Vec<String>,
    /// The highest epoch that this cluster has seen. It never decreases.
    #[schemars(range(min = 0))]
    pub epoch_seen: i64,
    /// Holder: owns the placement, pods may use its volumes here. Promoting: enters its epoch, VolumeReplications may
    /// become primary, pods may not use the volumes yet. Standby. Fenced: was holder, and is stopped or stopping. Unknown:
    /// the agent has started and does not know yet.
    pub role: SiteRole,
    /// The operation that this epoch was entered by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::name")]
    pub operation: Option<String>,
    /// The promise to the holder that is not over yet: until then no promotion happens here without positive proof.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promises_outstanding: Option<PromiseSpec>,
    /// When this cluster last began to fence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::time")]
    pub fenced_at: Option<Time>,
    /// The epoch of a hand-over: everything that was written here has crossed to the next holder, and nothing was written
    /// since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub handed_over: Option<i64>,
    /// The operation, approved at the hub, that throws the outdated copy here away and makes it anew. Only while it is
    /// named may a VolumeReplication of a protected claim say `autoResync: true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::name")]
    pub resync: Option<String>,
    /// Name of the VolumeGroupReplication that replicates the protected claims as one group. None: each has a
    /// VolumeReplication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::name")]
    pub group: Option<String>,
    /// The fencing level that this cluster lives by is Gate: a pod that uses a protected claim must have the placement's
    /// gate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gated: bool,
    /// The answers to the last commands, so that a repeated one gets the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub last_results: Vec<CommandResult>,
    /// The replicas that workloads had before they were stopped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["apiVersion", "kind", "name"]))]
    pub replicas: Vec<RememberedReplicas>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SiteRole {
    /// Owns the placement: pods may use its volumes here.
    Holder,
    /// Enters its epoch: VolumeReplications may become primary, pods may not use the volumes yet.
    Promoting,
    Standby,
    /// Was holder, and is stopped or stopping.
    Fenced,
    /// The agent has started and does not know yet.
    Unknown,
}

impl SiteRole {
    pub fn as_str(self) -> &'static str {
        match self {
            SiteRole::Holder => "Holder",
            SiteRole::Promoting => "Promoting",
            SiteRole::Standby => "Standby",
            SiteRole::Fenced => "Fenced",
            SiteRole::Unknown => "Unknown",
        }
    }
}

/// A promise not to promote, on the clock of the node that the agent ran on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PromiseSpec {
    /// Which boot of the node the clock below counts from.
    #[schemars(schema_with = "shape::word")]
    pub boot_id: String,
    /// How far wall time was ahead of that clock, in milliseconds; where it is not said, as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_offset_ms: Option<i64>,
    /// End of the promise, in milliseconds of CLOCK_BOOTTIME.
    pub until_ms: u64,
    /// How long to wait from a start on another boot, and at most by a clock that was set meanwhile, in milliseconds.
    pub wait_ms: u64,
}

/// The answer to one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommandResult {
    /// Operation and step.
    #[schemars(schema_with = "shape::command")]
    pub command: String,
    /// The outcome, as JSON.
    #[schemars(schema_with = "shape::json_text")]
    pub outcome: String,
}

/// What a workload had before it was stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RememberedReplicas {
    #[schemars(schema_with = "shape::word")]
    pub api_version: String,
    #[schemars(schema_with = "shape::word")]
    pub kind: String,
    #[schemars(schema_with = "shape::name")]
    pub name: String,
    /// For a CronJob: 0 suspended, 1 not.
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub replicas: u32,
}
