//! Copies of claims and volumes for another cluster: made clean, and compared (storage.md, "Restoring PV and PVC").

use std::collections::{BTreeMap, BTreeSet};

use proto::volume::WorkloadReplicas;
use proto::{Assignment, Inventory, Role, Shared, VolumeManifest};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::group;
use crate::parse::text;
use crate::reconcilers;
use crate::site_state::SiteState;
use crate::world::{Claim, Volume, Workload, World};

/// Annotations that describe this copy's life here, not the user's wish. A prefix ends with a slash.
const LOCAL_ANNOTATIONS: [&str; 9] = [
    "pv.kubernetes.io/",
    "volume.kubernetes.io/selected-node",
    "volume.beta.kubernetes.io/storage-provisioner",
    "volume.kubernetes.io/storage-provisioner",
    "replication.storage.openshift.io/",
    "kubectl.kubernetes.io/last-applied-configuration",
    "understudy.dev/",
    "volume.kubernetes.io/provisioner-deletion-secret-",
    // Argo CD prunes what says that it is its own, and is not in git.
    reconcilers::TRACKING_ID,
];

/// What a standby needs of the claims that are bound here; none as long as none is. One that is being deleted belongs to
/// them: until it is gone, pods may use it. What says the same as the `known` one is that one.
pub fn inventory(
    world: &World,
    assignment: &Assignment,
    claims: &BTreeSet<String>,
    workloads: &[Workload],
    objects: &[Value],
    site: Option<&SiteState>,
    known: Option<Shared<Inventory>>,
) -> Option<Shared<Inventory>> {
    let namespace = assignment.name.namespace.as_str();
    let bound: Vec<(&str, &Claim, &Volume)> = claims
        .iter()
        .filter_map(|name| {
            let claim = world.claim(namespace, name).filter(|claim| claim.bound)?;
            Some((name.as_str(), claim, world.volume(claim.volume.as_deref()?)?))
        })
        .collect();
    let volumes: Vec<VolumeManifest> =
        bound.iter().filter_map(|(name, claim, volume)| manifest(name, claim, volume)).collect();
    if volumes.is_empty() {
        return None;
    }
    let class_names: BTreeSet<&str> =
        bound.iter().filter_map(|(_, claim, _)| claim.storage_class.as_deref()).collect();
    let storage_classes =
        class_names.into_iter().filter_map(|name| world.storage_class(name)).map(clean_class);
    let replication_class =
        world.replication_class(&assignment.replication_class).map(clean_replication_class);
    let group_class = assignment.group_class.as_ref().and_then(|name| world.group_class(name));
    let group =
        group_class.map(clean_group_class).into_iter().chain(group::content_manifest(world, assignment));
    let mut inventory = Inventory {
        version: String::new(),
        volumes,
        classes: storage_classes.chain(replication_class).chain(group).collect(),
        workloads: workloads.iter().map(|workload| wanted(workload, site)).collect(),
        objects: objects.to_vec(),
    };
    if let Some(known) = known.filter(|known| says_the_same(known, &inventory)) {
        return Some(known);
    }
    inventory.version = version(&inventory);
    Some(inventory.into())
}

/// Replicas that the user wants: what a stopped workload had before counts, not its zero; and not what something else
/// gives it while this cluster stops it.
pub fn wanted(workload: &Workload, site: Option<&SiteState>) -> WorkloadReplicas {
    let stopping = site.filter(|site| site.role == Role::Fenced || workload.wanted == 0);
    let remembered = stopping.and_then(|site| {
        site.replicas.iter().find(|known| known.workload == workload.workload).map(|known| known.replicas)
    });
    let noted = workload.marked.filter(|_| workload.wanted == 0);
    let replicas = remembered.or(noted).unwrap_or(workload.wanted);
    WorkloadReplicas { workload: workload.workload.clone(), replicas }
}

/// Whatever its version.
fn says_the_same(one: &Inventory, other: &Inventory) -> bool {
    let Inventory { version: _, volumes, classes, workloads, objects } = one;
    *volumes == other.volumes
        && *classes == other.classes
        && *workloads == other.workloads
        && *objects == other.objects
}

/// A hash over all of the rest.
pub fn version(inventory: &Inventory) -> String {
    let Inventory { version: _, volumes, classes, workloads, objects } = inventory;
    let mut hasher = Sha256::new();
    for value in [json!(volumes), json!(classes), json!(workloads), json!(objects)] {
        hasher.update(value.to_string());
        hasher.update([0]);
    }
    hex::encode(hasher.finalize())
}

fn manifest(name: &str, claim: &Claim, volume: &Volume) -> Option<VolumeManifest> {
    Some(VolumeManifest {
        claim: name.to_owned(),
        handle: volume.handle.clone()?,
        persistent_volume: clean_volume(&volume.object),
        persistent_volume_claim: clean_claim(&claim.object),
    })
}

/// Retain, so that nothing here can delete the image; the reference names its claim but no uid of this cluster.
fn clean_volume(object: &Value) -> Value {
    let mut spec = part(object, "spec");
    spec.insert("persistentVolumeReclaimPolicy".into(), json!("Retain"));
    let claim = |field: &str| text(object, &format!("/spec/claimRef/{field}")).unwrap_or_default().to_owned();
    spec.insert("claimRef".into(), json!({"namespace": claim("namespace"), "name": claim("name")}));
    // The other cluster's nodes have other names and zones: the driver finds the image by its handle.
    spec.remove("nodeAffinity");
    clean("v1", "PersistentVolume", object, false, Some(spec))
}

fn clean_claim(object: &Value) -> Value {
    let mut spec = part(object, "spec");
    // The volume exists: a data source would ask for another one.
    spec.remove("dataSource");
    spec.remove("dataSourceRef");
    clean("v1", "PersistentVolumeClaim", object, true, Some(spec))
}

fn clean_class(object: &Value) -> Value {
    let mut class = clean("storage.k8s.io/v1", "StorageClass", object, false, None);
    for field in [
        "provisioner",
        "parameters",
        "reclaimPolicy",
        "mountOptions",
        "allowVolumeExpansion",
        "volumeBindingMode",
    ] {
        if let Some(value) = object.get(field) {
            class[field] = value.clone();
        }
    }
    class
}

fn clean_replication_class(object: &Value) -> Value {
    let api_version = "replication.storage.openshift.io/v1alpha1";
    clean(api_version, "VolumeReplicationClass", object, false, Some(part(object, "spec")))
}

fn clean_group_class(object: &Value) -> Value {
    let api_version = "replication.storage.openshift.io/v1alpha1";
    clean(api_version, "VolumeGroupReplicationClass", object, false, Some(part(object, "spec")))
}

fn part(object: &Value, field: &str) -> Map<String, Value> {
    object.get(field).and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Name, labels and the user's annotations only: no uid, finalizer, owner or status of this cluster.
pub(crate) fn clean(
    api_version: &str,
    kind: &str,
    object: &Value,
    namespaced: bool,
    spec: Option<Map<String, Value>>,
) -> Value {
    let mut metadata = Map::new();
    metadata.insert("name".into(), json!(text(object, "/metadata/name").unwrap_or_default()));
    if namespaced {
        metadata.insert("namespace".into(), json!(text(object, "/metadata/namespace").unwrap_or_default()));
    }
    let map = |at: &str| object.pointer(at).and_then(Value::as_object).cloned().unwrap_or_default();
    let labels = map("/metadata/labels");
    if !labels.is_empty() {
        metadata.insert("labels".into(), Value::Object(labels));
    }
    let annotations: BTreeMap<String, Value> = map("/metadata/annotations")
        .into_iter()
        .filter(|(key, _)| !is_one_of(&LOCAL_ANNOTATIONS, key))
        .collect();
    if !annotations.is_empty() {
        metadata.insert("annotations".into(), json!(annotations));
    }
    let mut clean = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata});
    if let Some(spec) = spec {
        clean["spec"] = Value::Object(spec);
    }
    clean
}

/// Whether an annotation is listed, by its name or by a prefix that ends with a slash or a dash.
pub fn is_one_of(listed: &[&str], annotation: &str) -> bool {
    listed.iter().any(|local| match local.ends_with(['/', '-']) {
        true => annotation.starts_with(local),
        false => annotation == *local,
    })
}

/// How one volume of an inventory stands in this cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Staged {
    VolumeMissing,
    ClaimMissing,
    /// Both exist and fit; the binding is not complete yet.
    Binding,
    Equal,
    /// The volume still points at a claim that has gone.
    Released,
    /// Something else stands here under that name.
    Conflict(String),
}

/// Compares what a manifest wants with what is here.
pub fn staged(world: &World, namespace: &str, manifest: &VolumeManifest) -> Staged {
    let volume_name = text(&manifest.persistent_volume, "/metadata/name").unwrap_or_default();
    let claim = world.claim(namespace, &manifest.claim);
    let Some(volume) = world.volume(volume_name) else {
        return match claim.and_then(|claim| claim.volume.as_deref()) {
            Some(other) if other != volume_name => {
                Staged::Conflict(bound_elsewhere(manifest, other, volume_name))
            }
            Some(_) | None => Staged::VolumeMissing,
        };
    };
    if let Some(conflict) = volume_conflict(volume, volume_name, namespace, manifest) {
        return Staged::Conflict(conflict);
    }
    let Some(claim) = claim else {
        let stale = volume.released || volume.claim_uid.is_some();
        return if stale { Staged::Released } else { Staged::ClaimMissing };
    };
    match claim.volume.as_deref() {
        Some(name) if name != volume_name => Staged::Conflict(bound_elsewhere(manifest, name, volume_name)),
        None => Staged::Conflict(format!(
            "PersistentVolumeClaim {namespace}/{} exists without a volume and may get an empty one: delete it",
            manifest.claim
        )),
        Some(_) if claim.terminating => Staged::Conflict(format!(
            "PersistentVolumeClaim {namespace}/{} is being deleted: wait until it is gone",
            manifest.claim
        )),
        Some(_) if volume.claim_uid.as_ref().is_some_and(|uid| *uid != claim.uid) => Staged::Released,
        Some(_) if claim.bound && volume.claim_uid.is_some() && !volume.released => Staged::Equal,
        Some(_) => Staged::Binding,
    }
}

fn volume_conflict(
    volume: &Volume,
    name: &str,
    namespace: &str,
    manifest: &VolumeManifest,
) -> Option<String> {
    if volume.handle.as_deref() != Some(manifest.handle.as_str()) {
        let found = volume.handle.as_deref().unwrap_or("none");
        return Some(format!(
            "PersistentVolume {name} has the handle {found}, but {} is expected: delete or rename it",
            manifest.handle
        ));
    }
    let wanted = (namespace, manifest.claim.as_str());
    let claim = volume.claim.as_ref().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
    match claim {
        Some(found) if found == wanted => None,
        Some((other_namespace, other)) => Some(format!(
            "PersistentVolume {name} belongs to claim {other_namespace}/{other}, but {namespace}/{} needs it: free it",
            manifest.claim
        )),
        None => Some(format!(
            "PersistentVolume {name} belongs to no claim: set its claimRef to {namespace}/{}, or delete it",
            manifest.claim
        )),
    }
}

fn bound_elsewhere(manifest: &VolumeManifest, found: &str, wanted: &str) -> String {
    format!(
        "PersistentVolumeClaim {} is bound to {found}, but {wanted} is expected: delete the claim here after saving what it holds",
        manifest.claim
    )
}

/// Whether a class that exists here says the same as the one of the inventory.
pub fn class_is_equal(wanted: &Value, present: &Value) -> bool {
    let fields: &[&str] = match text(wanted, "/kind") {
        Some("StorageClass") => &["provisioner", "parameters"],
        Some(_) | None => &["spec"],
    };
    fields.iter().all(|field| present.get(field) == wanted.get(field))
}

/// A manifest comes from another trust domain: only what an inventory may contain is ever created.
pub fn is_allowed(namespace: &str, manifest: &VolumeManifest) -> Result<(), String> {
    let VolumeManifest { claim, handle, persistent_volume: volume, persistent_volume_claim } = manifest;
    let expectations = [
        (volume, "/kind", "PersistentVolume"),
        (volume, "/apiVersion", "v1"),
        (volume, "/spec/csi/volumeHandle", handle.as_str()),
        (volume, "/spec/claimRef/namespace", namespace),
        (volume, "/spec/claimRef/name", claim.as_str()),
        (volume, "/spec/persistentVolumeReclaimPolicy", "Retain"),
        (persistent_volume_claim, "/kind", "PersistentVolumeClaim"),
        (persistent_volume_claim, "/apiVersion", "v1"),
        (persistent_volume_claim, "/metadata/namespace", namespace),
        (persistent_volume_claim, "/metadata/name", claim.as_str()),
        (persistent_volume_claim, "/spec/volumeName", text(volume, "/metadata/name").unwrap_or_default()),
    ];
    for (object, at, wanted) in expectations {
        let found = text(object, at).unwrap_or("nothing");
        if found != wanted {
            return Err(format!(
                "manifest of claim {claim} has {found} at {at}, but {wanted} is allowed here: check the cluster it came from"
            ));
        }
    }
    Ok(())
}
