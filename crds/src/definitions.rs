//! The custom resource definitions as they are installed: the generated ones, tidied.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// All of them, for the hub and for members.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![
        crate::DRPlacement::crd(),
        crate::DRCluster::crd(),
        crate::DROperation::crd(),
        crate::DRApproval::crd(),
        crate::DRSiteState::crd(),
    ]
}
