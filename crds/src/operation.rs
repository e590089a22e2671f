//! DROperation: one proposed, running or past operation, with its plan, its evidence and its receipt.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{rules, shape};

/// What one operation on a placement is. Written by the hub, and never changed.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "understudy.dev",
    version = "v1alpha1",
    kind = "DROperation",
    plural = "droperations",
    shortname = "dro",
    category = "dr",
    namespaced,
    status = "DROperationStatus",
    derive = "PartialEq",
    printcolumn(name = "PLACEMENT", type_ = "string", json_path = ".spec.placement"),
    printcolumn(name = "KIND", type_ = "string", json_path = ".spec.kind"),
    printcolumn(name = "FROM", type_ = "string", json_path = ".spec.from"),
    printcolumn(name = "TO", type_ = "string", json_path = ".spec.to"),
    printcolumn(name = "PHASE", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "EPOCH", type_ = "integer", json_path = ".spec.epoch", priority = 1),
    printcolumn(name = "PROOF", type_ = "string", json_path = ".status.fenceProof", priority = 1),
    printcolumn(name = "RESULT", type_ = "string", json_path = ".status.result", priority = 1),
    printcolumn(name = "REASON", type_ = "string", json_path = ".status.reason", priority = 1),
    doc = "One proposed, running or past operation on a placement: its plan with its steps and their times, its evidence, what was lost, and its result. Written by the hub."
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::immutable()))]
pub struct DROperationSpec {
    /// Name of the DRPlacement in this namespace.
    #[schemars(schema_with = "shape::label")]
    pub placement: String,
    /// Deploy: adopts an application where it runs. FailOver, Migrate, FailBack: moves it. Resync: makes an outdated copy anew. Release: lets go, and everything
    /// stays as it is.
    pub kind: OperationKind,
    /// The cluster that the placement leaves. None in a Deploy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::label")]
    pub from: Option<String>,
    /// The cluster that takes over. None in a Release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::label")]
    pub to: Option<String>,
    /// The epoch that is entered by it.
    #[schemars(range(min = 0))]
    pub epoch: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OperationKind {
    /// Adopts an application where it runs.
    Deploy,
    /// Gives the placement back to a holder that was accused and answered before the point of no return.
    Readopt,
    FailOver,
    /// Lets go; everything stays as it is.
    Release,
    Migrate,
    FailBack,
    /// Makes the outdated copy of a former holder anew.
    Resync,
}

/// How far the operation is, and how it went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DROperationStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    /// Proposed: waits for an approval. Withdrawn: its reason is gone. Running. Stuck: runs, and a step does not end; the reason says why. Succeeded.
    /// Aborted: given up before the point of no return. Failed.
    pub phase: Option<OperationPhase>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::word")]
    pub reason: Option<String>,
    /// Begins with the object and ends with what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::text")]
    pub message: Option<String>,
    /// The steps, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub plan: Vec<StepStatus>,
    /// What spoke for the operation when it was decided, one fact each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "shape::texts")]
    pub evidence: Vec<String>,
    /// How the old holder is known to be stopped: NeverHeld, Acknowledged, LeaseExpired, Storage or Asserted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::word")]
    pub fence_proof: Option<String>,
    /// What was lost, per volume. Frozen when the operation ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["claim"]))]
    pub loss_receipt: Vec<VolumeLossStatus>,
    /// Of a failover: the loss of the worst volume, or "unknown".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::word")]
    pub expected_loss: Option<String>,
    /// The generation of the DRPlacement that was looked at; an approval names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Who has approved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::word")]
    pub approved_by: Option<String>,
    /// When the old holder was last heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::time")]
    pub lost_at: Option<MicroTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::time")]
    pub started: Option<MicroTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::time")]
    pub finished: Option<MicroTime>,
    /// One word for how it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::word")]
    pub result: Option<String>,
    /// How long each part of it took.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub durations: Vec<PhaseDuration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OperationPhase {
    /// Waits for an approval.
    Proposed,
    /// Was proposed, and its reason is gone.
    Withdrawn,
    Running,
    /// Runs, and a step does not end; the reason says why.
    Stuck,
    Succeeded,
    /// Given up before the point of no return.
    Aborted,
    Failed,
}

/// One step of the plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepStatus {
    #[schemars(schema_with = "shape::word")]
    pub name: String,
    pub state: StepState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::time")]
    pub started: Option<MicroTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::time")]
    pub finished: Option<MicroTime>,
    /// What is missing until it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::text")]
    pub waiting_for: Option<String>,
    /// What showed that it is done, or why it cannot be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::text")]
    pub evidence: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StepState {
    Pending,
    Running,
    Done,
    Stuck,
}

/// What one volume has lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeLossStatus {
    /// Name of its PersistentVolumeClaim.
    #[schemars(schema_with = "shape::name")]
    pub claim: String,
    /// When the copy was taken that the application goes on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::time")]
    pub last_sync_time: Option<Time>,
    /// The writes of this span are lost; or "unknown".
    #[schemars(schema_with = "shape::word")]
    pub lost: String,
    /// The same if the old holder was not dead but cut off, and wrote until it was certainly stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::word")]
    pub lost_at_most: Option<String>,
}

/// How long one part of an operation took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PhaseDuration {
    #[schemars(schema_with = "shape::word")]
    pub phase: String,
    pub seconds: f64,
}
