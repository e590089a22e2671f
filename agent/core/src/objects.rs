//! Further objects of an application that its user has listed: copied from the cluster that owns the placement, made
//! clean, and put in place where it may run next. Never deleted, and never written over what somebody else made.

use std::collections::{BTreeMap, BTreeSet};

use proto::{Ailment, Assignment, Inventory, ObjectSelector};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::ailments::{ailment, reason};
use crate::decision::Effect;
use crate::desired::{Next, View};
use crate::parse::{annotation, is_terminating, labels, list, text};
use crate::reconcilers;
use crate::volumes;
use crate::world::{ObjectKind, World};

/// On what is staged here: the cluster that it was copied from.
pub const STAGED_FROM_ANNOTATION: &str = "understudy.dev/staged-from";
/// On what is staged here: a hash of the copy, so that it is written again only when the copy has changed.
pub const STAGED_VERSION_ANNOTATION: &str = "understudy.dev/staged-version";

/// The kinds that may be copied, whatever a placement lists; DRPlacement refuses the others with the same list.
///
/// A HorizontalPodAutoscaler may stand beside a workload that is stopped: it does nothing as long as its target is scaled to
/// 0 ("implicit maintenance-mode deactivation" in the Kubernetes documentation, Horizontal Pod Autoscaling), unless its own
/// minReplicas is 0.
pub const KINDS: [(&str, &str); 11] = [
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("batch/v1", "CronJob"),
    ("v1", "Service"),
    ("v1", "ConfigMap"),
    ("v1", "Secret"),
    ("v1", "ServiceAccount"),
    ("networking.k8s.io/v1", "Ingress"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
];

/// So many objects of one placement are copied, and so many bytes of them: an inventory goes in one message, of which the
/// link takes 8 MiB, and the hub keeps it.
const MOST_OBJECTS: usize = 200;
const MOST_BYTES: usize = 1024 * 1024;

/// Annotations that controllers write for themselves. One that ends with a slash is a prefix.
const LOCAL_ANNOTATIONS: [&str; 5] = [
    "deployment.kubernetes.io/",
    "control-plane.alpha.kubernetes.io/",
    "kubectl.kubernetes.io/last-applied-configuration",
    "understudy.dev/",
    // Argo CD prunes what says that it is its own, and is not in git.
    reconcilers::TRACKING_ID,
];

/// Made in every namespace by Kubernetes itself.
const MADE_EVERYWHERE: [(&str, &str); 2] = [("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt")];

/// What is copied of one placement, and what stands against it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Copied {
    pub manifests: Vec<Value>,
    pub ailments: Vec<Ailment>,
}

/// The kinds that this placement lists and that may be copied.
pub fn kinds(assignment: &Assignment) -> BTreeSet<ObjectKind> {
    let listed = assignment.protect.objects.iter();
    let allowed = listed.filter(|it| KINDS.contains(&(it.api_version.as_str(), it.kind.as_str())));
    allowed.map(|it| ObjectKind { api_version: it.api_version.clone(), kind: it.kind.clone() }).collect()
}

/// Whether each listed kind has been read once.
pub fn are_known(world: &World, assignment: &Assignment) -> bool {
    unread(world, assignment).is_empty()
}

fn unread(world: &World, assignment: &Assignment) -> Vec<String> {
    let namespace = &assignment.name.namespace;
    let unread = kinds(assignment).into_iter().filter(|kind| !world.knows_objects(kind, namespace));
    unread.map(|kind| kind.kind).collect()
}

/// What this cluster has of the listed objects, made clean.
pub fn of_application(world: &World, assignment: &Assignment) -> Copied {
    let namespace = assignment.name.namespace.as_str();
    let mut copied = Copied::default();
    let missing = unread(world, assignment);
    if !missing.is_empty() {
        let message = format!(
            "DRPlacement {}: {} of namespace {namespace} cannot be read in this cluster: apply deploy/agent/objects.yaml or, for Secrets, deploy/agent/secrets.yaml there, or take the kind out of spec.protect.objects",
            assignment.name,
            missing.join(", ")
        );
        copied.ailments.push(ailment(reason::OBJECTS_NOT_READ, message));
    }
    let mut found: BTreeMap<(ObjectKind, String), Value> = BTreeMap::new();
    for kind in kinds(assignment) {
        for (name, object) in world.objects(&kind, namespace) {
            if is_selected(assignment, &kind, object) && is_the_users(&kind, object) {
                found.insert((kind.clone(), name.to_owned()), clean(&kind, object));
            }
        }
    }
    bound(assignment, found.into_values().collect(), &mut copied);
    copied
}

/// What is too much is left out from the end, and told.
fn bound(assignment: &Assignment, found: Vec<Value>, copied: &mut Copied) {
    let all = found.len();
    let mut bytes = 0;
    let fitting = found.into_iter().take(MOST_OBJECTS).take_while(|manifest| {
        bytes += manifest.to_string().len();
        bytes <= MOST_BYTES
    });
    copied.manifests = fitting.collect();
    let left_out = all - copied.manifests.len();
    if left_out > 0 {
        let message = format!(
            "DRPlacement {}: {left_out} of {all} objects are not copied, because {MOST_OBJECTS} objects and {MOST_BYTES} bytes are the most: narrow spec.protect.objects",
            assignment.name
        );
        copied.ailments.push(ailment(reason::TOO_MANY_OBJECTS, message));
    }
}

fn is_selected(assignment: &Assignment, kind: &ObjectKind, object: &Value) -> bool {
    let name = text(object, "/metadata/name").unwrap_or_default();
    let of_kind = |it: &&ObjectSelector| it.api_version == kind.api_version && it.kind == kind.kind;
    assignment.protect.objects.iter().filter(of_kind).any(|selector| match selector.names.as_slice() {
        // A Secret leaves its cluster only by its name.
        [] => kind.kind != "Secret" && assignment.protect.workloads.matches(&labels(object)),
        names => names.iter().any(|wanted| wanted == name),
    })
}

/// What a controller or the cluster made comes by itself in another cluster, and what is being deleted is not wished for.
fn is_the_users(kind: &ObjectKind, object: &Value) -> bool {
    let name = text(object, "/metadata/name").unwrap_or_default();
    let owners = list(object, "/metadata/ownerReferences").iter();
    let controlled = owners.filter_map(|owner| owner.get("controller")).any(|it| *it == Value::Bool(true));
    let token = kind.kind == "Secret"
        && matches!(
            text(object, "/type"),
            Some("kubernetes.io/service-account-token" | "bootstrap.kubernetes.io/token")
        );
    let scales_from_zero = kind.kind == "HorizontalPodAutoscaler"
        && object.pointer("/spec/minReplicas").and_then(Value::as_u64) == Some(0);
    let made_everywhere = MADE_EVERYWHERE.contains(&(kind.kind.as_str(), name));
    let not_theirs = [controlled, is_terminating(object), made_everywhere, token, scales_from_zero];
    !not_theirs.contains(&true)
}

/// Nothing of this cluster's own, and nothing that runs: replicas are the hub's to give.
fn clean(kind: &ObjectKind, object: &Value) -> Value {
    let Value::Object(mut whole) = object.clone() else { return Value::Null };
    whole.remove("status");
    whole.insert("apiVersion".into(), json!(kind.api_version));
    whole.insert("kind".into(), json!(kind.kind));
    whole.insert("metadata".into(), clean_metadata(object));
    let mut copy = Value::Object(whole);
    match kind.kind.as_str() {
        "Deployment" | "StatefulSet" => copy["spec"]["replicas"] = json!(0),
        "CronJob" => copy["spec"]["suspend"] = json!(true),
        "Service" => forget_addresses(&mut copy["spec"]),
        // Tokens of this cluster.
        "ServiceAccount" => forget(&mut copy, &["secrets"]),
        _ => {}
    }
    copy
}

fn clean_metadata(object: &Value) -> Value {
    let mut metadata = Map::new();
    for field in ["name", "namespace", "labels"] {
        if let Some(value) = object.pointer(&format!("/metadata/{field}")) {
            metadata.insert(field.into(), value.clone());
        }
    }
    let annotations = object.pointer("/metadata/annotations").and_then(Value::as_object);
    let kept: Map<String, Value> = annotations
        .into_iter()
        .flatten()
        .filter(|(key, _)| !volumes::is_one_of(&LOCAL_ANNOTATIONS, key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if !kept.is_empty() {
        metadata.insert("annotations".into(), Value::Object(kept));
    }
    Value::Object(metadata)
}

/// What this cluster has allocated. That a Service has no address is its user's wish, and stays.
fn forget_addresses(spec: &mut Value) {
    let headless = text(spec, "/clusterIP") == Some("None");
    forget(spec, &["clusterIPs", "healthCheckNodePort"]);
    if !headless {
        forget(spec, &["clusterIP"]);
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        forget(port, &["nodePort"]);
    }
}

fn forget(object: &mut Value, fields: &[&str]) {
    if let Value::Object(object) = object {
        for field in fields {
            object.remove(*field);
        }
    }
}

/// Creates what is missing, and writes again what was staged here from an older copy. Only what the placement lists now:
/// the copy may be older than the list.
pub fn stage(view: &View<'_>, inventory: &Inventory, next: &mut Next) {
    let listed = kinds(view.assignment);
    for manifest in &inventory.objects {
        let part = |at: &str| text(manifest, at).unwrap_or_default().to_owned();
        let kind = ObjectKind { api_version: part("/apiVersion"), kind: part("/kind") };
        if !listed.contains(&kind) || !is_selected(view.assignment, &kind, manifest) {
            continue;
        }
        match may_be_made(view.namespace(), &kind, manifest) {
            Ok(()) => stage_one(view, &kind, manifest, next),
            Err(message) => {
                next.fail(reason::STAGING_CONFLICT, message.clone());
                next.ailments.push(ailment(reason::STAGING_CONFLICT, message));
            }
        }
    }
}

/// Checked again, whoever sent it: it belongs to this namespace, and nothing of it runs.
fn may_be_made(namespace: &str, kind: &ObjectKind, manifest: &Value) -> Result<(), String> {
    let name = text(manifest, "/metadata/name").unwrap_or("without a name");
    let found = text(manifest, "/metadata/namespace").unwrap_or("nothing");
    let stopped = match kind.kind.as_str() {
        "Deployment" | "StatefulSet" => manifest.pointer("/spec/replicas") == Some(&json!(0)),
        "CronJob" => manifest.pointer("/spec/suspend") == Some(&json!(true)),
        _ => true,
    };
    if found != namespace {
        return Err(format!(
            "manifest of {} {name} has {found} at /metadata/namespace, but {namespace} is allowed here: check the cluster it came from",
            kind.kind
        ));
    }
    if !stopped {
        return Err(format!(
            "manifest of {} {name} is not stopped: check the cluster it came from",
            kind.kind
        ));
    }
    Ok(())
}

fn stage_one(view: &View<'_>, kind: &ObjectKind, manifest: &Value, next: &mut Next) {
    let namespace = view.namespace();
    let name = text(manifest, "/metadata/name").unwrap_or_default();
    if !view.world.knows_objects(kind, namespace) {
        return next.wait_also_for(format!("{} of namespace {namespace} to be read", kind.kind));
    }
    let version = version(manifest);
    match view.world.object(kind, namespace, name) {
        None => {
            next.wait_also_for(format!("{} {namespace}/{name} to exist", kind.kind));
            next.effects.push(Effect::Create { object: marked(view, manifest, &version) });
        }
        Some(present) if is_staged(present) && staged_version(present) != Some(&version) => {
            next.wait_also_for(format!("{} {namespace}/{name} to be as at its holder", kind.kind));
            let object = in_place_of(present, marked(view, manifest, &version));
            next.effects.push(Effect::Replace { object });
        }
        // Whoever made it looks after it.
        Some(_) => {}
    }
}

fn is_staged(present: &Value) -> bool {
    annotation(present, STAGED_FROM_ANNOTATION).is_some()
}

fn staged_version(present: &Value) -> Option<&str> {
    annotation(present, STAGED_VERSION_ANNOTATION)
}

fn version(manifest: &Value) -> String {
    hex::encode(Sha256::digest(manifest.to_string()))
}

fn marked(view: &View<'_>, manifest: &Value, version: &str) -> Value {
    let from = view.assignment.holder.as_ref().map_or("unknown", |holder| holder.as_str());
    let mut object = manifest.clone();
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        if let Value::Object(annotations) = annotations {
            annotations.insert(STAGED_FROM_ANNOTATION.into(), json!(from));
            annotations.insert(STAGED_VERSION_ANNOTATION.into(), json!(version));
        }
    }
    object
}

/// Of the version that was seen only: a request that is given up, and lands when the workload has been started here,
/// changes nothing.
fn in_place_of(present: &Value, mut object: Value) -> Value {
    for field in ["resourceVersion", "finalizers", "ownerReferences"] {
        if let Some(value) = present.pointer(&format!("/metadata/{field}")) {
            object["metadata"][field] = value.clone();
        }
    }
    if object["kind"] == "ServiceAccount"
        && let Some(secrets) = present.get("secrets")
    {
        object["secrets"] = secrets.clone();
    }
    object
}
