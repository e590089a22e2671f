//! The application that the tests protect, as manifests: the sample of `manifests/`, or one of another name and size.

use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use crate::{
    array::DataClient,
    nodes::{APPEND_WRITER_IMAGE, DRIVER},
};

/// The sample application and its class, as a user would apply them.
pub const SHOP: &str = include_str!("../manifests/shop.yaml");
/// How the sample application's volumes are mirrored.
pub const REPLICATION: &str = include_str!("../manifests/replication.yaml");

/// How a real driver of this name spells its volume handles.
const HANDLE_PREFIX: &str = "0001-0009-rook-ceph-0000000000000002";
const SECRET: (&str, &str) = ("rook-ceph", "rook-csi-rbd-provisioner");

/// A Deployment whose pods write to all of its volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    pub namespace: String,
    pub name: String,
    pub volumes: usize,
    pub replicas: u32,
    pub grace_seconds: u32,
    pub storage_class: String,
    pub replication_class: String,
    /// Where the volumes are replicated as one group.
    pub group_class: Option<String>,
    pub scheduling_interval: String,
    /// Whether its pods are annotated for the gate of the placement of the same name.
    pub gated: bool,
}

impl Application {
    /// The same as the file `shop.yaml` with `replication.yaml`.
    pub fn shop() -> Self {
        Self::named("shop", 1)
    }

    /// An application in a namespace of its own name.
    pub fn named(name: &str, volumes: usize) -> Self {
        Self {
            namespace: name.to_owned(),
            name: name.to_owned(),
            volumes,
            replicas: 1,
            grace_seconds: 1,
            storage_class: "rbd".to_owned(),
            replication_class: "rbd-5m".to_owned(),
            group_class: None,
            scheduling_interval: "5m".to_owned(),
            gated: false,
        }
    }

    /// The claims' names: `shop-data`, or `shop-data-0`, `shop-data-1` and so on where there are more.
    pub fn claims(&self) -> Vec<String> {
        match self.volumes {
            1 => vec![format!("{}-data", self.name)],
            several => (0..several).map(|number| format!("{}-data-{number}", self.name)).collect(),
        }
    }

    /// The handles by which the storage arrays know the volumes, in the order of the claims.
    pub fn volume_handles(&self) -> Vec<String> {
        self.claims().iter().map(|claim| self.volume_handle(claim)).collect()
    }

    /// Makes the volumes at the storage array whose data plane this is, new and empty, as an administrator once did.
    pub async fn provision(&self, data_socket: &Path) -> anyhow::Result<()> {
        let mut array = DataClient::connect(data_socket).await?;
        for handle in self.volume_handles() {
            array.create(&handle).await.with_context(|| format!("making the volume {handle}"))?;
        }
        Ok(())
    }

    /// Everything that the application consists of, for the cluster where it is first deployed.
    pub fn manifest(&self) -> String {
        let claims = self.claims();
        let volumes = claims.iter().flat_map(|claim| [self.volume(claim), self.claim(claim)]);
        let documents = self.ground().into_iter().chain(volumes).chain([self.deployment(&claims)]);
        stream(documents)
    }

    /// What a standby cluster has before anything of the application is restored there.
    pub fn standby_manifest(&self) -> String {
        stream(self.ground())
    }

    /// The replication classes, and the secret that they name.
    pub fn replication_manifest(&self) -> String {
        let (namespace, name) = SECRET;
        let class = json!({
            "apiVersion": "replication.storage.openshift.io/v1alpha1", "kind": "VolumeReplicationClass",
            "metadata": {"name": self.replication_class},
            "spec": {"provisioner": DRIVER, "parameters": {
                "mirroringMode": "snapshot", "schedulingInterval": self.scheduling_interval,
                "replication.storage.openshift.io/replication-secret-name": name,
                "replication.storage.openshift.io/replication-secret-namespace": namespace,
            }},
        });
        let group_class = self.group_class.as_ref().map(|group_class| {
            json!({
                "apiVersion": "replication.storage.openshift.io/v1alpha1", "kind": "VolumeGroupReplicationClass",
                "metadata": {"name": group_class},
                "spec": {"provisioner": DRIVER, "parameters": {
                    "replication.storage.openshift.io/group-replication-secret-name": name,
                    "replication.storage.openshift.io/group-replication-secret-namespace": namespace,
                }},
            })
        });
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace},
            "type": "Opaque",
            "stringData": {"userID": "csi-rbd-provisioner", "userKey": "no-secret-in-a-test"},
        });
        let room = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        stream([room, secret, class].into_iter().chain(group_class))
    }

    fn ground(&self) -> [Value; 2] {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}});
        let class = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": self.storage_class},
            "provisioner": DRIVER, "reclaimPolicy": "Retain", "volumeBindingMode": "Immediate",
            "parameters": {"clusterID": "rook-ceph", "pool": "replicapool"},
        });
        [namespace, class]
    }

    fn volume(&self, claim: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": self.volume_name(claim)},
            "spec": {
                "storageClassName": self.storage_class, "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": {"namespace": self.namespace, "name": claim},
                "csi": {
                    "driver": DRIVER, "volumeHandle": self.volume_handle(claim), "fsType": "ext4",
                    "volumeAttributes": {"clusterID": "rook-ceph", "pool": "replicapool"},
                },
            },
        })
    }

    fn claim(&self, claim: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": claim, "namespace": self.namespace, "labels": {"app": self.name}},
            "spec": {
                "storageClassName": self.storage_class, "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}, "volumeName": self.volume_name(claim),
            },
        })
    }

    fn deployment(&self, claims: &[String]) -> Value {
        let mounts = claims.iter().map(|claim| json!({"name": claim, "mountPath": format!("/data/{claim}")}));
        let volumes =
            claims.iter().map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}}));
        let mut deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": {"app": self.name}},
            "spec": {
                "replicas": self.replicas, "strategy": {"type": "Recreate"},
                "selector": {"matchLabels": {"app": self.name}},
                "template": {
                    "metadata": {"labels": {"app": self.name}},
                    "spec": {
                        "terminationGracePeriodSeconds": self.grace_seconds,
                        "containers": [{
                            "name": "writer", "image": APPEND_WRITER_IMAGE,
                            "volumeMounts": mounts.collect::<Vec<_>>(),
                        }],
                        "volumes": volumes.collect::<Vec<_>>(),
                    },
                },
            },
        });
        if self.gated {
            deployment["spec"]["template"]["metadata"]["annotations"] =
                json!({proto::gate::ANNOTATION: self.name});
        }
        deployment
    }

    fn volume_name(&self, claim: &str) -> String {
        format!("{}-{claim}", self.namespace)
    }

    fn volume_handle(&self, claim: &str) -> String {
        format!("{HANDLE_PREFIX}-{}-{claim}", self.namespace)
    }
}

/// JSON is YAML: one document after the other.
fn stream(documents: impl IntoIterator<Item = Value>) -> String {
    let documents: Vec<String> = documents.into_iter().map(|document| document.to_string()).collect();
    documents.join("\n---\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(text: &str) -> Vec<Value> {
        text.split("\n---\n")
            .map(|document| serde_saphyr::from_str(document).expect("a manifest is YAML"))
            .collect()
    }

    #[test]
    fn the_rendered_shop_is_the_sample_in_the_files() {
        let shop = Application::shop();
        assert_eq!(documents(&shop.manifest()), documents(SHOP));
        assert_eq!(documents(&shop.replication_manifest()), documents(REPLICATION));
    }

    #[test]
    fn each_of_many_volumes_has_its_own_claim_and_handle() {
        let bank = Application::named("bank", 10);
        let mut handles = bank.volume_handles();
        handles.dedup();
        assert_eq!(handles.len(), 10);
        let kinds: Vec<_> = documents(&bank.manifest()).iter().map(|one| one["kind"].to_string()).collect();
        assert_eq!(kinds.iter().filter(|kind| *kind == "\"PersistentVolumeClaim\"").count(), 10);
    }
}
