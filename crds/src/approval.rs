//! DRApproval: a human's yes or no to one operation, at one epoch and one wording of the placement.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{rules, shape};

/// A human's answer to one proposed operation. It counts once, only for what it names, and cannot be changed.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "understudy.dev",
    version = "v1alpha1",
    kind = "DRApproval",
    plural = "drapprovals",
    shortname = "dra",
    category = "dr",
    namespaced,
    derive = "PartialEq",
    printcolumn(name = "OPERATION", type_ = "string", json_path = ".spec.operation"),
    printcolumn(name = "APPROVE", type_ = "boolean", json_path = ".spec.approve"),
    printcolumn(name = "APPROVER", type_ = "string", json_path = ".spec.approver"),
    printcolumn(name = "EPOCH", type_ = "integer", json_path = ".spec.epoch"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "ASSERTS OFF", type_ = "string", json_path = ".spec.assertFenced", priority = 1),
    doc = "A human's answer to one proposed operation. It counts once, only for what it names, and cannot be changed; delete it and make another. The hub cannot write one."
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::immutable()))]
pub struct DRApprovalSpec {
    /// Name of the DROperation that is answered.
    #[schemars(schema_with = "shape::name")]
    pub operation: String,
    /// Name of its DRPlacement.
    #[schemars(schema_with = "shape::label")]
    pub placement: String,
    /// The epoch that the operation would enter.
    #[schemars(range(min = 1))]
    pub epoch: i64,
    /// The generation of the DRPlacement that was looked at.
    #[schemars(range(min = 1))]
    pub generation: i64,
    /// The user who answers: admission at the hub refuses anyone else's name.
    #[schemars(schema_with = "shape::word")]
    pub approver: String,
    /// Yes or no.
    pub approve: bool,
    /// Name of the cluster that the approver vouches is off: its application has stopped and will not start again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::label")]
    pub assert_fenced: Option<String>,
    /// After this time it no longer counts. None: as long as the operation is proposed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shape::time")]
    pub expires: Option<Time>,
}
