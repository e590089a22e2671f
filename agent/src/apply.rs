//! The conversation with the API server about what is to change: one function for each effect, each whole and repeatable.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_core::{
    Change, Effect, Event, Failed, Failure, GroupChange, Kind, ObjectKind, Receipt, Reconciler, Watched,
    WorkloadKind, objects, reconcilers,
};
use crds::{EPOCH_ANNOTATION, FENCE_PROBE_LABEL, PROTECTED_BY_ANNOTATION, REPLICAS_ANNOTATION, foreign};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use proto::{Epoch, PlacementId, WorkloadRef};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::clock;
use crate::watches::{self, value};

const MANAGER: &str = "understudy-agent";
/// How long one effect may take, repetitions included; the next decision repeats it.
const EFFECT: Duration = Duration::from_secs(5);
/// Admission reads what a cluster is from a cache that lags behind the write by some tens of milliseconds.
const ADMISSION_STEP: Duration = Duration::from_millis(20);
const ADMISSION_BOUND: Duration = Duration::from_millis(500);
/// A label's value is no longer than this.
const LONGEST_LABEL: usize = 63;

/// Carries one effect out, and says how it ended.
pub async fn apply(client: Client, placement: PlacementId, effect: Effect) -> Event {
    let key = effect.key();
    let began = Instant::now();
    let result = match timeout(EFFECT, with_admission(&client, &placement, &effect)).await {
        Ok(result) => result,
        Err(_) => {
            Err(Failed { failure: Failure::Unavailable, message: format!("no answer within {EFFECT:?}") })
        }
    };
    tracing::debug!(effect = key, took = ?began.elapsed(), success = result.is_ok(), "change ended");
    Event::Finished { placement, key, result }
}

/// The one repetition that is not a decision: a refusal that may only mean that admission has not read yet.
async fn with_admission(
    client: &Client,
    placement: &PlacementId,
    effect: &Effect,
) -> Result<Receipt, Failed> {
    let end = Instant::now() + ADMISSION_BOUND;
    loop {
        let result = once(client, placement, effect).await;
        let refused = matches!(&result, Err(Failed { failure: Failure::Denied, message: _ }));
        if !refused || !effect.may_be_refused_for_a_moment() || Instant::now() >= end {
            return result;
        }
        sleep(ADMISSION_STEP).await;
    }
}

async fn once(client: &Client, placement: &PlacementId, effect: &Effect) -> Result<Receipt, Failed> {
    let on = |namespace: &str| Namespace { client, name: namespace.to_owned() };
    match effect {
        Effect::ProbeFence { namespace, claim } => on(namespace).probe_fence(placement, claim).await,
        Effect::ListUsers { namespace } => on(namespace).list_users().await,
        Effect::MarkReplicas { namespace, workload, replicas } => {
            let mark = json!({"metadata": {"annotations": {REPLICAS_ANNOTATION: replicas.to_string()}}});
            on(namespace).patch_workload(workload, mark).await
        }
        Effect::UnmarkReplicas { namespace, workload } => {
            let mark = json!({"metadata": {"annotations": {REPLICAS_ANNOTATION: null}}});
            on(namespace).patch_workload(workload, mark).await
        }
        Effect::Scale { namespace, workload, replicas } => on(namespace).scale(workload, *replicas).await,
        Effect::SuspendCronJob { namespace, name, suspend } => {
            let workload =
                WorkloadRef { api_version: "batch/v1".into(), kind: "CronJob".into(), name: name.clone() };
            on(namespace).patch_workload(&workload, json!({"spec": {"suspend": suspend}})).await
        }
        Effect::CreateReplication { namespace, claim, class, epoch } => {
            on(namespace).create_replication(claim, class, *epoch).await
        }
        Effect::PromoteReplication { namespace, name, epoch } => {
            let wanted = wanted_replication(foreign::replication_state::PRIMARY, false, *epoch);
            on(namespace).patch_replication(name, wanted).await
        }
        Effect::DemoteReplication { namespace, name, epoch } => {
            on(namespace).demote_replication(name, false, *epoch).await
        }
        Effect::ResyncReplication { namespace, name, epoch } => {
            on(namespace).demote_replication(name, true, *epoch).await
        }
        Effect::MarkReplication { namespace, name, epoch } => {
            let mark = json!({"metadata": {"annotations": {EPOCH_ANNOTATION: epoch.to_string()}}});
            on(namespace).patch_replication(name, mark).await
        }
        Effect::UnmarkReplication { namespace, name } => {
            let mark = json!({"metadata": {"annotations": {EPOCH_ANNOTATION: null}}});
            on(namespace).patch_replication(name, mark).await
        }
        Effect::Group { namespace, name, change } => on(namespace).change_group(name, change).await,
        Effect::Create { object } => create(client, object).await,
        Effect::Replace { object } => replace(client, object).await,
        Effect::EnlargeVolume { volume, size } => {
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &core("PersistentVolume"));
            patch(&api, Kind::Volume, volume, json!({"spec": {"capacity": {"storage": size}}})).await
        }
        Effect::MarkVolume { volume, placement } => {
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &core("PersistentVolume"));
            let mark = json!({"metadata": {"annotations": {PROTECTED_BY_ANNOTATION: placement}}});
            patch(&api, Kind::Volume, volume, mark).await
        }
        Effect::EnlargeClaim { namespace, claim, size } => {
            let api = on(namespace).api(&core("PersistentVolumeClaim"));
            let wanted = json!({"spec": {"resources": {"requests": {"storage": size}}}});
            patch(&api, Kind::Claim, claim, wanted).await
        }
        Effect::ClearClaimReference { volume, claim_namespace, claim } => {
            clear_claim_reference(client, volume, claim_namespace, claim).await
        }
        Effect::DeleteSiteState { namespace, placement } => on(namespace).delete_site_state(placement).await,
        Effect::PauseReconciler { reconciler, namespace, paused_for, resource_version }
        | Effect::ResumeReconciler { reconciler, namespace, paused_for, resource_version } => {
            let wanted = reconcilers::patch(reconciler.kind, paused_for, resource_version);
            on(namespace).patch_reconciler(reconciler, wanted).await
        }
    }
}

/// A dry run that admission judges like a pod that uses what the label names: refused where the fence is in force.
pub async fn ask_admission(client: &Client, namespace: &str, label: &str) -> kube::Result<ConfigMap> {
    let mut probe = ConfigMap::default();
    probe.metadata.generate_name = Some("understudy-fence-probe-".into());
    probe.metadata.labels = Some([(FENCE_PROBE_LABEL.to_owned(), label.to_owned())].into());
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    Api::namespaced(client.clone(), namespace).create(&dry_run, &probe).await
}

/// Only admission's own refusal counts: an agent without rights, or a wrong object, is refused by others.
pub fn is_admissions_refusal(status: &kube::core::Status) -> bool {
    status.code == 422 && status.message.contains("ValidatingAdmission")
}

struct Namespace<'a> {
    client: &'a Client,
    name: String,
}

impl Namespace<'_> {
    fn api(&self, resource: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.name, resource)
    }

    async fn probe_fence(&self, placement: &PlacementId, claim: &str) -> Result<Receipt, Failed> {
        let label = if claim.len() <= LONGEST_LABEL { claim } else { placement.as_str() };
        match ask_admission(self.client, &self.name, label).await {
            Ok(_) => Ok(Receipt::FenceNotInForce),
            Err(kube::Error::Api(status)) if is_admissions_refusal(&status) => Ok(Receipt::FenceInForce),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Read without a resource version, so that the API server asks its store and not a cache.
    async fn list_users(&self) -> Result<Receipt, Failed> {
        let began = clock::now();
        let mut lists = Vec::new();
        for (source, namespace) in watches::users(&self.name) {
            let api: Api<DynamicObject> = match &namespace {
                Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &source.resource),
                None => Api::all_with(self.client.clone(), &source.resource),
            };
            let objects = api.list(&ListParams::default()).await.map_err(|error| failed(&error))?;
            let objects = objects.into_iter().map(value).collect();
            lists.push(Watched { kind: source.kind, change: Change::Listed { namespace, objects, began } });
        }
        Ok(Receipt::Lists(lists))
    }

    async fn patch_workload(&self, workload: &WorkloadRef, patch: Value) -> Result<Receipt, Failed> {
        let kind = workload_kind(workload);
        self.patch(&workload_resource(workload), kind, &workload.name, patch).await
    }

    /// Kinds of Kubernetes itself by their own field, so that the answer shows the whole object; others by the
    /// subresource that makes them scalable.
    async fn scale(&self, workload: &WorkloadRef, replicas: u32) -> Result<Receipt, Failed> {
        let patch = json!({"spec": {"replicas": replicas}});
        if workload.api_version == "apps/v1" {
            return self.patch_workload(workload, patch).await;
        }
        let api = self.api(&workload_resource(workload));
        let parameters = PatchParams::default();
        let scaled = api.patch_scale(&workload.name, &parameters, &Patch::Merge(&patch)).await;
        scaled.map(|_| Receipt::Applied).map_err(|error| failed(&error))
    }

    async fn create_replication(&self, claim: &str, class: &str, epoch: Epoch) -> Result<Receipt, Failed> {
        let resource = foreign::volume_replication();
        let object = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {
                "name": claim,
                "namespace": self.name,
                "annotations": {EPOCH_ANNOTATION: epoch.to_string()},
            },
            "spec": {
                "volumeReplicationClass": class,
                "dataSource": {"apiGroup": "", "kind": "PersistentVolumeClaim", "name": claim},
                "replicationState": foreign::replication_state::PRIMARY,
                "autoResync": false,
                // The csi-addons controller writes this field with its finalizer; admission refuses it a changed spec.
                "replicationHandle": "",
            },
        });
        create_in(&self.api(&resource), Kind::Replication, &object).await
    }

    async fn demote_replication(
        &self,
        name: &str,
        auto_resync: bool,
        epoch: Epoch,
    ) -> Result<Receipt, Failed> {
        demote(&self.api(&foreign::volume_replication()), Kind::Replication, name, auto_resync, epoch).await
    }

    async fn change_group(&self, name: &str, change: &GroupChange) -> Result<Receipt, Failed> {
        let api = self.api(&foreign::volume_group_replication());
        let wanted = match change {
            GroupChange::Create { class, group_class, selector, content, epoch } => {
                let mut object = self.group(name, class, group_class, selector, *epoch);
                if let Some(content) = content {
                    object["spec"]["volumeGroupReplicationContentName"] = json!(content);
                }
                return create_in(&api, Kind::Group, &object).await;
            }
            GroupChange::Demote { epoch } => return demote(&api, Kind::Group, name, false, *epoch).await,
            GroupChange::Resync { epoch } => return demote(&api, Kind::Group, name, true, *epoch).await,
            GroupChange::Promote { epoch } => {
                wanted_replication(foreign::replication_state::PRIMARY, false, *epoch)
            }
            GroupChange::Mark { epoch } => {
                json!({"metadata": {"annotations": {EPOCH_ANNOTATION: epoch.to_string()}}})
            }
            GroupChange::Unmark => json!({"metadata": {"annotations": {EPOCH_ANNOTATION: null}}}),
        };
        patch(&api, Kind::Group, name, wanted).await
    }

    fn group(
        &self,
        name: &str,
        class: &str,
        group_class: &str,
        selector: &BTreeMap<String, String>,
        epoch: Epoch,
    ) -> Value {
        let resource = foreign::volume_group_replication();
        json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {
                "name": name,
                "namespace": self.name,
                "annotations": {EPOCH_ANNOTATION: epoch.to_string()},
            },
            "spec": {
                "volumeReplicationClassName": class,
                "volumeGroupReplicationClassName": group_class,
                "source": {"selector": {"matchLabels": selector}},
                "replicationState": foreign::replication_state::PRIMARY,
                "autoResync": false,
            },
        })
    }

    async fn patch_replication(&self, name: &str, patch: Value) -> Result<Receipt, Failed> {
        self.patch(&foreign::volume_replication(), Kind::Replication, name, patch).await
    }

    async fn patch_reconciler(&self, reconciler: &Reconciler, wanted: Value) -> Result<Receipt, Failed> {
        let resource = watches::reconciler_resource(reconciler.kind);
        self.patch(&resource, Kind::Reconciler(reconciler.clone()), &reconciler.name, wanted).await
    }

    async fn patch(
        &self,
        resource: &ApiResource,
        kind: Kind,
        name: &str,
        wanted: Value,
    ) -> Result<Receipt, Failed> {
        patch(&self.api(resource), kind, name, wanted).await
    }

    async fn delete_site_state(&self, placement: &PlacementId) -> Result<Receipt, Failed> {
        let api: Api<crds::DRSiteState> = Api::namespaced(self.client.clone(), &self.name);
        match api.delete(placement.as_str(), &DeleteParams::default()).await {
            Ok(_) => Ok(Receipt::Applied),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Receipt::Applied),
            Err(error) => Err(failed(&error)),
        }
    }
}

async fn patch(api: &Api<DynamicObject>, kind: Kind, name: &str, wanted: Value) -> Result<Receipt, Failed> {
    let parameters = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    let patched = api.patch(name, &parameters, &Patch::Merge(&wanted)).await;
    patched.map(|object| seen(kind, object)).map_err(|error| failed(&error))
}

/// Of the object as it is now only: a request that is given up, and lands when the next epoch has promoted it, changes
/// nothing.
async fn demote(
    api: &Api<DynamicObject>,
    kind: Kind,
    name: &str,
    auto_resync: bool,
    epoch: Epoch,
) -> Result<Receipt, Failed> {
    let present = api.get(name).await.map_err(|error| failed(&error))?;
    let mut wanted = wanted_replication(foreign::replication_state::SECONDARY, auto_resync, epoch);
    wanted["metadata"]["resourceVersion"] = json!(present.metadata.resource_version);
    patch(api, kind, name, wanted).await
}

/// A kind of the core group.
fn core(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", kind))
}

fn wanted_replication(state: &str, auto_resync: bool, epoch: Epoch) -> Value {
    json!({
        "metadata": {"annotations": {EPOCH_ANNOTATION: epoch.to_string()}},
        "spec": {"replicationState": state, "autoResync": auto_resync},
    })
}

async fn create(client: &Client, object: &Value) -> Result<Receipt, Failed> {
    let text = |at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default();
    let (kind, resource) = match text("/kind") {
        "PersistentVolume" => (Kind::Volume, core("PersistentVolume")),
        "PersistentVolumeClaim" => (Kind::Claim, core("PersistentVolumeClaim")),
        "StorageClass" => {
            let class = GroupVersionKind::gvk("storage.k8s.io", "v1", "StorageClass");
            (Kind::StorageClass, ApiResource::from_gvk_with_plural(&class, "storageclasses"))
        }
        "VolumeReplicationClass" => (Kind::ReplicationClass, foreign::volume_replication_class()),
        "VolumeGroupReplicationClass" => (Kind::GroupClass, foreign::volume_group_replication_class()),
        "VolumeGroupReplicationContent" => (Kind::GroupContent, foreign::volume_group_replication_content()),
        _ => copied_kind(object)?,
    };
    let api = match text("/metadata/namespace") {
        "" => Api::all_with(client.clone(), &resource),
        namespace => Api::namespaced_with(client.clone(), namespace, &resource),
    };
    create_in(&api, kind, object).await
}

fn copied_kind(object: &Value) -> Result<(Kind, ApiResource), Failed> {
    let text = |at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("/apiVersion"), text("/kind"));
    if !objects::KINDS.contains(&(api_version, kind)) {
        let message = format!("{kind} is not a kind that is ever made here");
        return Err(Failed { failure: Failure::Denied, message });
    }
    let kind = ObjectKind { api_version: api_version.to_owned(), kind: kind.to_owned() };
    let resource = watches::object_resource(&kind);
    Ok((Kind::Object(kind), resource))
}

/// The object says which version of itself it replaces; any other is left as it is.
async fn replace(client: &Client, object: &Value) -> Result<Receipt, Failed> {
    let (kind, resource) = copied_kind(object)?;
    let text = |at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default();
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), text("/metadata/namespace"), &resource);
    let wanted: DynamicObject = parsed(object)?;
    let parameters = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    let replaced = api.replace(text("/metadata/name"), &parameters, &wanted).await;
    replaced.map(|object| seen(kind, object)).map_err(|error| failed(&error))
}

fn parsed(object: &Value) -> Result<DynamicObject, Failed> {
    serde_json::from_value(object.clone())
        .map_err(|error| Failed { failure: Failure::Denied, message: format!("not an object: {error}") })
}

/// What exists already is shown as it is: the next decision compares it.
async fn create_in(api: &Api<DynamicObject>, kind: Kind, object: &Value) -> Result<Receipt, Failed> {
    let object = parsed(object)?;
    let parameters = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    match api.create(&parameters, &object).await {
        Ok(created) => Ok(seen(kind, created)),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            api.get(name).await.map(|object| seen(kind, object)).map_err(|error| failed(&error))
        }
        Err(error) => Err(failed(&error)),
    }
}

/// The test of the claim's name makes this safe against a volume that has found another owner in between.
async fn clear_claim_reference(
    client: &Client,
    volume: &str,
    claim_namespace: &str,
    claim: &str,
) -> Result<Receipt, Failed> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &core("PersistentVolume"));
    let present = api.get(volume).await.map_err(|error| failed(&error))?;
    let patch = json!({
        "metadata": {"resourceVersion": present.metadata.resource_version},
        "spec": {"claimRef": {
            "namespace": claim_namespace, "name": claim, "uid": null, "resourceVersion": null,
        }},
    });
    let patched = api.patch(volume, &PatchParams::default(), &Patch::Merge(&patch)).await;
    patched.map(|object| seen(Kind::Volume, object)).map_err(|error| failed(&error))
}

fn seen(kind: Kind, object: DynamicObject) -> Receipt {
    Receipt::Object(Box::new(Watched { kind, change: Change::Applied(value(object)) }))
}

fn workload_kind(workload: &WorkloadRef) -> Kind {
    let WorkloadRef { api_version, kind, name: _ } = workload.clone();
    Kind::Workload(WorkloadKind { api_version, kind })
}

fn workload_resource(workload: &WorkloadRef) -> ApiResource {
    let (group, version) = workload.api_version.split_once('/').unwrap_or(("", &workload.api_version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &workload.kind))
}

/// What a refusal of the API server means for us.
pub fn failed(error: &kube::Error) -> Failed {
    let kube::Error::Api(status) = error else {
        return Failed { failure: Failure::Unavailable, message: whole(error) };
    };
    let failure = match status.code {
        409 => Failure::Conflict,
        404 => Failure::NotFound,
        401 | 403 | 422 => Failure::Denied,
        _ => Failure::Unavailable,
    };
    Failed { failure, message: status.message.clone() }
}

/// An error with its causes, in one line.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use agent_core::objects;

    #[test]
    fn placements_refuse_exactly_the_kinds_that_an_agent_would_not_copy() {
        assert_eq!(crds::rules::COPIED_KINDS, objects::KINDS);
        assert_eq!(crds::STAGED_FROM_ANNOTATION, objects::STAGED_FROM_ANNOTATION);
    }
}
