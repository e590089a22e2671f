//! Inventories and volume states. Manifests are JSON text on the wire.

use std::time::Duration;

use crate::clock::WallTime;
use crate::convert::field::{
    MOST_OBJECTS, Parsed, WireError, checked_list, cut, list, manifest, mirrored, nanos, object_name,
    optional_part, optional_text, part, text,
};
use crate::epoch::Epoch;
use crate::shared::Shared;
use crate::volume::{Inventory, Replication, VolumeManifest, VolumeState, WorkloadReplicas};
use crate::wire::v1;
use crate::{WorkloadRef, WorkloadScale};

mirrored!(replication_state, ReplicationState, [Primary, Secondary, Unknown]);

impl From<WorkloadRef> for v1::WorkloadRef {
    fn from(workload: WorkloadRef) -> Self {
        let WorkloadRef { api_version, kind, name } = workload;
        v1::WorkloadRef { api_version, kind, name }
    }
}

impl TryFrom<v1::WorkloadRef> for WorkloadRef {
    type Error = WireError;
    fn try_from(workload: v1::WorkloadRef) -> Parsed<Self> {
        Ok(WorkloadRef {
            api_version: text(workload.api_version, "api_version")?,
            kind: text(workload.kind, "kind")?,
            name: object_name(workload.name, "name")?,
        })
    }
}

impl From<WorkloadReplicas> for v1::WorkloadReplicas {
    fn from(wanted: WorkloadReplicas) -> Self {
        let WorkloadReplicas { workload, replicas } = wanted;
        v1::WorkloadReplicas { workload: Some(workload.into()), replicas }
    }
}

impl TryFrom<v1::WorkloadReplicas> for WorkloadReplicas {
    type Error = WireError;
    fn try_from(wanted: v1::WorkloadReplicas) -> Parsed<Self> {
        Ok(WorkloadReplicas { workload: part(wanted.workload, "workload")?, replicas: wanted.replicas })
    }
}

impl From<WorkloadScale> for v1::WorkloadReplicas {
    fn from(scale: WorkloadScale) -> Self {
        let WorkloadScale { workload, replicas } = scale;
        v1::WorkloadReplicas { workload: Some(workload.into()), replicas }
    }
}

impl TryFrom<v1::WorkloadReplicas> for WorkloadScale {
    type Error = WireError;
    fn try_from(wanted: v1::WorkloadReplicas) -> Parsed<Self> {
        Ok(WorkloadScale { workload: part(wanted.workload, "workload")?, replicas: wanted.replicas })
    }
}

impl From<VolumeManifest> for v1::VolumeManifest {
    fn from(volume: VolumeManifest) -> Self {
        let VolumeManifest { claim, handle, persistent_volume, persistent_volume_claim } = volume;
        v1::VolumeManifest {
            claim,
            handle,
            persistent_volume_json: persistent_volume.to_string().into_bytes(),
            persistent_volume_claim_json: persistent_volume_claim.to_string().into_bytes(),
        }
    }
}

impl TryFrom<v1::VolumeManifest> for VolumeManifest {
    type Error = WireError;
    fn try_from(volume: v1::VolumeManifest) -> Parsed<Self> {
        Ok(VolumeManifest {
            claim: object_name(volume.claim, "claim")?,
            handle: text(volume.handle, "handle")?,
            persistent_volume: manifest(volume.persistent_volume_json, "persistent_volume")?,
            persistent_volume_claim: manifest(
                volume.persistent_volume_claim_json,
                "persistent_volume_claim",
            )?,
        })
    }
}

impl From<Inventory> for v1::Inventory {
    fn from(inventory: Inventory) -> Self {
        let Inventory { version, volumes, classes, workloads, objects } = inventory;
        v1::Inventory {
            version,
            volumes: volumes.into_iter().map(Into::into).collect(),
            classes_json: classes.iter().map(|class| class.to_string().into_bytes()).collect(),
            workloads: workloads.into_iter().map(Into::into).collect(),
            objects_json: objects.iter().map(|object| object.to_string().into_bytes()).collect(),
        }
    }
}

impl From<Shared<Inventory>> for v1::Inventory {
    fn from(inventory: Shared<Inventory>) -> Self {
        inventory.into_inner().into()
    }
}

impl TryFrom<v1::Inventory> for Shared<Inventory> {
    type Error = <Inventory as TryFrom<v1::Inventory>>::Error;

    fn try_from(inventory: v1::Inventory) -> Result<Self, Self::Error> {
        Inventory::try_from(inventory).map(Shared::from)
    }
}

impl TryFrom<v1::Inventory> for Inventory {
    type Error = WireError;
    fn try_from(inventory: v1::Inventory) -> Parsed<Self> {
        Ok(Inventory {
            version: text(inventory.version, "version")?,
            volumes: list(inventory.volumes, MOST_OBJECTS, "volumes")?,
            classes: checked_list(inventory.classes_json, MOST_OBJECTS, "classes", manifest)?,
            workloads: list(inventory.workloads, MOST_OBJECTS, "workloads")?,
            objects: checked_list(inventory.objects_json, MOST_OBJECTS, "objects", manifest)?,
        })
    }
}

impl From<Replication> for v1::Replication {
    fn from(replication: Replication) -> Self {
        let Replication {
            desired,
            state,
            current,
            completed,
            degraded,
            resyncing,
            validated,
            last_sync,
            last_sync_bytes,
            last_sync_took,
            epoch,
            message,
        } = replication;
        v1::Replication {
            desired,
            state: v1::ReplicationState::from(state).into(),
            current,
            completed,
            degraded,
            resyncing,
            validated,
            last_sync_millis: last_sync.map(|time| time.0),
            epoch: epoch.map(|epoch| epoch.0),
            message: cut(&message),
            last_sync_bytes,
            last_sync_duration_nanos: last_sync_took.map(nanos),
        }
    }
}

impl TryFrom<v1::Replication> for Replication {
    type Error = WireError;
    fn try_from(replication: v1::Replication) -> Parsed<Self> {
        Ok(Replication {
            desired: text(replication.desired, "desired")?,
            state: replication_state(replication.state, "state")?,
            current: replication.current,
            completed: replication.completed,
            degraded: replication.degraded,
            resyncing: replication.resyncing,
            validated: replication.validated,
            last_sync: replication.last_sync_millis.map(WallTime),
            last_sync_bytes: replication.last_sync_bytes,
            last_sync_took: replication.last_sync_duration_nanos.map(Duration::from_nanos),
            epoch: replication.epoch.map(Epoch),
            message: text(replication.message, "message")?,
        })
    }
}

impl From<VolumeState> for v1::VolumeState {
    fn from(volume: VolumeState) -> Self {
        let VolumeState { claim, handle, bound, attached, replication } = volume;
        v1::VolumeState { claim, handle, bound, attached, replication: replication.map(Into::into) }
    }
}

impl TryFrom<v1::VolumeState> for VolumeState {
    type Error = WireError;
    fn try_from(volume: v1::VolumeState) -> Parsed<Self> {
        Ok(VolumeState {
            claim: object_name(volume.claim, "claim")?,
            handle: optional_text(volume.handle, "handle")?,
            bound: volume.bound,
            attached: volume.attached,
            replication: optional_part(volume.replication, "replication")?,
        })
    }
}
