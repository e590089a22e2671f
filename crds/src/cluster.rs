//! DRCluster: a member cluster as the hub's administrator has enrolled it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{rules, shape};

/// A member cluster: who its agent is, what it shares its fate with, and how others can tell that it lives.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "understudy.dev",
    version = "v1alpha1",
    kind = "DRCluster",
    plural = "drclusters",
    shortname = "drc",
    category = "dr",
    status = "DRClusterStatus",
    derive = "PartialEq",
    printcolumn(name = "LIVENESS", type_ = "string", json_path = ".status.liveness"),
    printcolumn(name = "READY", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "LAST HEARTBEAT", type_ = "date", json_path = ".status.lastHeartbeat"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "FAILURE DOMAIN", type_ = "string", json_path = ".spec.failureDomain", priority = 1),
    printcolumn(name = "MAINTENANCE", type_ = "boolean", json_path = ".spec.maintenance", priority = 1),
    printcolumn(name = "VERSION", type_ = "string", json_path = ".status.agentVersion", priority = 1),
    validation = rules::CLUSTER_NAME_IS_A_LABEL,
    doc = "A member cluster: who its agent is, what it shares its fate with, and how others can tell that it lives."
)]
#[serde(rename_all = "camelCase")]
pub struct DRClusterSpec {
    /// The uid in the certificate of its agent: the last part of spiffe://TRUST-DOMAIN/dr/cluster/UID.
    #[schemars(schema_with = "shape::identity")]
    pub agent_identity: String,
    /// What it shares its fate with: a site, a zone. Automatic failover needs three among hub, holder, target and witnesses.
    #[schemars(schema_with = "shape::label")]
    pub failure_domain: String,
    /// host:port where other agents reach its agent. None: they cannot, and a silent hub ends the leases of its placements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::endpoint")]
    pub peer_endpoint: Option<String>,
    /// host:port of its API server and of other things whose answer is a sign of life. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "shape::endpoints")]
    pub probe_endpoints: Vec<String>,
    /// No operation chooses it as a target while this is true. Default: false.
    #[serde(default)]
    pub maintenance: bool,
}

/// The cluster as the hub hears it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DRClusterStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Unheard: not heard since the hub started, which says nothing about it. Live. Suspected: silent for longer than its
    /// placements' `suspect`. Lost: silent, and confirmed from elsewhere to be out of reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<Liveness>,
    /// When its agent was last heard, to within the rate at which this status is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::time")]
    pub last_heartbeat: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::word")]
    pub agent_version: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "shape::conditions")]
    pub conditions: Vec<Condition>,
}

/// How the hub takes the silence of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Liveness {
    /// Not heard since this hub started, which says nothing about it.
    Unheard,
    Live,
    /// Silent for as long as `suspect`.
    Suspected,
    /// Silent, and confirmed from elsewhere to be out of reach.
    Lost,
}
