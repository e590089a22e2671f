//! An application and its objects.

use agent_core::{Kind, ObjectKind, WorkloadKind};
use proto::*;
use serde_json::{Value, json};

use super::Cluster;

impl Cluster {
    /// An application with these claims, running.
    pub fn run_application(&mut self, claims: &[&str]) {
        self.add_classes();
        for claim in claims {
            let volume = format!("pv-{claim}");
            self.put(Kind::Volume, &volume, volume_object(claim, &self.name));
            self.put(Kind::Claim, claim, claim_object(claim, &self.name));
            self.put(
                Kind::Attachment,
                &format!("va-{claim}"),
                json!({
                    "metadata": {"name": format!("va-{claim}")},
                    "spec": {"source": {"persistentVolumeName": volume}},
                }),
            );
        }
        self.put(deployments(), "web", deployment(2, claims));
        let volumes: Vec<Value> =
            claims.iter().map(|claim| json!({"persistentVolumeClaim": {"claimName": claim}})).collect();
        self.put(
            Kind::Pod,
            "web-1",
            json!({
                "metadata": {
                    "name": "web-1", "namespace": "shop",
                    "ownerReferences": [{"kind": "ReplicaSet", "name": "web-x", "controller": true}],
                },
                "spec": {"volumes": volumes, "terminationGracePeriodSeconds": 2},
                "status": {"phase": "Running"},
            }),
        );
    }

    pub fn add_classes(&mut self) {
        self.put(
            Kind::StorageClass,
            "rbd",
            json!({
                "metadata": {"name": "rbd"}, "provisioner": "rbd.csi", "parameters": {"pool": "replicated"},
            }),
        );
        self.put(
            Kind::ReplicationClass,
            "rbd-5m",
            json!({
                "metadata": {"name": "rbd-5m"},
                "spec": {"provisioner": "rbd.csi", "parameters": {"schedulingInterval": "5m"}},
            }),
        );
    }

    /// The workload as a standby has it: there, and stopped.
    pub fn add_stopped_workload(&mut self, claims: &[&str]) {
        self.put(deployments(), "web", deployment(0, claims));
    }
}

/// A copied kind as it names itself.
pub fn object_kind(object: &Value) -> ObjectKind {
    let text = |field: &str| object[field].as_str().expect("a kind names itself").to_owned();
    ObjectKind { api_version: text("apiVersion"), kind: text("kind") }
}

pub fn deployments() -> Kind {
    Kind::Workload(WorkloadKind { api_version: "apps/v1".into(), kind: "Deployment".into() })
}

pub fn stateful_sets() -> Kind {
    Kind::Workload(WorkloadKind { api_version: "apps/v1".into(), kind: "StatefulSet".into() })
}

pub fn cron_jobs() -> Kind {
    Kind::Workload(WorkloadKind { api_version: "batch/v1".into(), kind: "CronJob".into() })
}

pub fn deployment(replicas: u64, claims: &[&str]) -> Value {
    let volumes: Vec<Value> =
        claims.iter().map(|claim| json!({"persistentVolumeClaim": {"claimName": claim}})).collect();
    json!({
        "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "shop"}},
        "spec": {"replicas": replicas, "template": {"spec": {"volumes": volumes}}},
        "status": {"readyReplicas": replicas},
    })
}

pub fn volume_object(claim: &str, cluster: &ClusterName) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": format!("pv-{claim}"), "uid": format!("{cluster}-pv-{claim}"),
            "annotations": {"pv.kubernetes.io/provisioned-by": "rbd.csi"}, "finalizers": ["kubernetes.io/pv-protection"]},
        "spec": {
            "csi": {"driver": "rbd.csi", "volumeHandle": format!("image-{claim}")},
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "rbd",
            "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": {"namespace": "shop", "name": claim, "uid": format!("{cluster}-{claim}"), "resourceVersion": "7"},
        },
        "status": {"phase": "Bound"},
    })
}

pub fn claim_object(claim: &str, cluster: &ClusterName) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": claim, "namespace": "shop", "uid": format!("{cluster}-{claim}"), "labels": {"app": "shop"},
            "annotations": {"pv.kubernetes.io/bind-completed": "yes", "owner": "sales"},
            "finalizers": ["kubernetes.io/pvc-protection"]},
        "spec": {"volumeName": format!("pv-{claim}"), "storageClassName": "rbd",
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Bound"},
    })
}

pub(super) fn replication(claim: &str, class: &str, epoch: Epoch) -> Value {
    json!({
        "metadata": {"name": claim, "namespace": "shop", "generation": 1,
            "annotations": {"understudy.dev/epoch": epoch.to_string()}},
        "spec": {"volumeReplicationClass": class, "replicationState": "primary", "autoResync": false,
            "dataSource": {"kind": "PersistentVolumeClaim", "name": claim}},
    })
}
