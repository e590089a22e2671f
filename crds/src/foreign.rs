//! The kinds of csi-addons, Flux and Argo CD that Understudy reads and writes, by name only: their shapes are their owners'.

use kube::core::{ApiResource, GroupVersionKind};

pub const REPLICATION_GROUP: &str = "replication.storage.openshift.io";
pub const REPLICATION_VERSION: &str = "v1alpha1";
pub const VOLUME_REPLICATION: &str = "VolumeReplication";
pub const VOLUME_REPLICATIONS: &str = "volumereplications";
pub const VOLUME_REPLICATION_CLASS: &str = "VolumeReplicationClass";
pub const VOLUME_REPLICATION_CLASSES: &str = "volumereplicationclasses";

pub const VOLUME_GROUP_REPLICATION: &str = "VolumeGroupReplication";
pub const VOLUME_GROUP_REPLICATIONS: &str = "volumegroupreplications";
pub const VOLUME_GROUP_REPLICATION_CLASS: &str = "VolumeGroupReplicationClass";
pub const VOLUME_GROUP_REPLICATION_CLASSES: &str = "volumegroupreplicationclasses";
pub const VOLUME_GROUP_REPLICATION_CONTENT: &str = "VolumeGroupReplicationContent";
pub const VOLUME_GROUP_REPLICATION_CONTENTS: &str = "volumegroupreplicationcontents";

pub const CSI_ADDONS_GROUP: &str = "csiaddons.openshift.io";
pub const CSI_ADDONS_VERSION: &str = "v1alpha1";
pub const CSI_ADDONS_NODE: &str = "CSIAddonsNode";
pub const CSI_ADDONS_NODES: &str = "csiaddonsnodes";

/// Parameter of a VolumeReplicationClass of Ceph: how often a copy is taken, in m, h or d.
pub const SCHEDULING_INTERVAL: &str = "schedulingInterval";

/// Namespaced.
pub fn volume_replication() -> ApiResource {
    resource(REPLICATION_GROUP, REPLICATION_VERSION, VOLUME_REPLICATION, VOLUME_REPLICATIONS)
}

/// Cluster-scoped.
pub fn volume_replication_class() -> ApiResource {
    resource(REPLICATION_GROUP, REPLICATION_VERSION, VOLUME_REPLICATION_CLASS, VOLUME_REPLICATION_CLASSES)
}

/// Namespaced.
pub fn volume_group_replication() -> ApiResource {
    let (kind, plural) = (VOLUME_GROUP_REPLICATION, VOLUME_GROUP_REPLICATIONS);
    resource(REPLICATION_GROUP, REPLICATION_VERSION, kind, plural)
}

/// Cluster-scoped.
pub fn volume_group_replication_class() -> ApiResource {
    let (kind, plural) = (VOLUME_GROUP_REPLICATION_CLASS, VOLUME_GROUP_REPLICATION_CLASSES);
    resource(REPLICATION_GROUP, REPLICATION_VERSION, kind, plural)
}

/// Cluster-scoped.
pub fn volume_group_replication_content() -> ApiResource {
    let (kind, plural) = (VOLUME_GROUP_REPLICATION_CONTENT, VOLUME_GROUP_REPLICATION_CONTENTS);
    resource(REPLICATION_GROUP, REPLICATION_VERSION, kind, plural)
}

/// Namespaced.
pub fn csi_addons_node() -> ApiResource {
    resource(CSI_ADDONS_GROUP, CSI_ADDONS_VERSION, CSI_ADDONS_NODE, CSI_ADDONS_NODES)
}

/// Of Flux, since its 2.0. Namespaced.
pub fn kustomization() -> ApiResource {
    resource("kustomize.toolkit.fluxcd.io", "v1", "Kustomization", "kustomizations")
}

/// Of Flux, since its 2.3. Namespaced.
pub fn helm_release() -> ApiResource {
    resource("helm.toolkit.fluxcd.io", "v2", "HelmRelease", "helmreleases")
}

/// Of Argo CD. Namespaced.
pub fn argo_application() -> ApiResource {
    resource("argoproj.io", "v1alpha1", "Application", "applications")
}

fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

/// The values of `spec.replicationState`.
pub mod replication_state {
    pub const PRIMARY: &str = "primary";
    pub const SECONDARY: &str = "secondary";
    pub const RESYNC: &str = "resync";
}
