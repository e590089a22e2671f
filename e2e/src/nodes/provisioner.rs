//! Stands in for the external provisioner: a claim without a volume gets a new and EMPTY one, as in any real cluster.
//!
//! That is why a restore that creates claims before their volumes loses data without an error.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec,
};
use kube::core::ObjectMeta;

use super::{action::Action, pacing::Pacing, settings::Settings, view::View};

/// Set by the controller manager once no existing volume fits the claim.
const WANTS_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

pub fn decide(view: &View, driver: &str, settings: &Settings, pacing: &mut Pacing) -> Vec<Action> {
    let provisioned = view.claims().into_iter().filter_map(|claim| {
        let volume = fresh_volume(view, &claim, driver)?;
        let due = pacing.is_due(format!("provision {:?}", claim.metadata.uid), settings.provision_delay);
        let handle = volume.spec.as_ref()?.csi.as_ref()?.volume_handle.clone();
        due.then(|| Action::Provision { volume: Box::new(volume), handle })
    });
    let reclaimed = view.volumes().into_iter().filter(|volume| is_to_reclaim(volume, driver));
    let reclaimed =
        reclaimed.filter_map(|volume| Some(Action::Reclaim { volume: volume.metadata.name.clone()? }));
    provisioned.chain(reclaimed).collect()
}

fn fresh_volume(view: &View, claim: &PersistentVolumeClaim, driver: &str) -> Option<PersistentVolume> {
    let wish = claim.spec.as_ref()?;
    let metadata = &claim.metadata;
    let provisioner = metadata.annotations.as_ref()?.get(WANTS_PROVISIONER)?;
    let waits =
        wish.volume_name.as_deref().is_none_or(str::is_empty) && metadata.deletion_timestamp.is_none();
    if provisioner != driver || !waits {
        return None;
    }
    let class = view.class(wish.storage_class_name.as_deref()?)?;
    let uid = metadata.uid.clone()?;
    let name = format!("pvc-{uid}");
    let exists = view.volumes().iter().any(|volume| volume.metadata.name.as_ref() == Some(&name));
    let source = CSIPersistentVolumeSource {
        driver: driver.to_owned(),
        volume_handle: format!("0001-0009-rook-ceph-0000000000000002-{uid}"),
        fs_type: Some("ext4".to_owned()),
        ..Default::default()
    };
    let claim_ref = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        uid: Some(uid),
        ..Default::default()
    };
    let specification = PersistentVolumeSpec {
        access_modes: wish.access_modes.clone(),
        capacity: wish.resources.as_ref().and_then(|resources| resources.requests.clone()),
        claim_ref: Some(claim_ref),
        csi: Some(source),
        persistent_volume_reclaim_policy: class.reclaim_policy.clone(),
        storage_class_name: wish.storage_class_name.clone(),
        volume_mode: wish.volume_mode.clone(),
        ..Default::default()
    };
    let annotations = BTreeMap::from([(PROVISIONED_BY.to_owned(), driver.to_owned())]);
    (!exists).then(|| PersistentVolume {
        metadata: ObjectMeta { name: Some(name), annotations: Some(annotations), ..Default::default() },
        spec: Some(specification),
        status: None,
    })
}

/// The bytes stay at the array: nobody is to miss them in a test. Released, made by this provisioner, and of a class that deletes.
fn is_to_reclaim(volume: &PersistentVolume, driver: &str) -> bool {
    let made_here = volume
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(PROVISIONED_BY))
        .is_some_and(|by| by == driver);
    let deletes = volume
        .spec
        .as_ref()
        .is_some_and(|spec| spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete"));
    let released = volume.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Released"));
    made_here && deletes && released && volume.metadata.deletion_timestamp.is_none()
}
