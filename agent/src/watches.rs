//! The conversation with the API server about what is there: a watch of each kind, in each namespace that matters.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_core::{
    Change, Event, Followed, Kind, ObjectKind, Reconciler, ReconcilerKind, Watched, WorkloadKind,
};
use crds::foreign;
use futures::StreamExt;
use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::discovery::{Discovery, Scope, verbs};
use kube::runtime::watcher;
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::clock;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A kind that is not installed, or not allowed, is looked for again after this long.
const ABSENT_PAUSE: Duration = Duration::from_secs(5);
/// The same for reconcilers: there may be as many watches of them as applications.
const ABSENT_RECONCILER_PAUSE: Duration = Duration::from_secs(30);
/// The API server ends a watch after so many seconds; a connection into a black hole is noticed little later.
const WATCH_SECONDS: u32 = 30;
/// How often new kinds with a scale subresource are looked for.
const DISCOVER_EVERY: Duration = Duration::from_secs(60);
const DISCOVERY: Duration = Duration::from_secs(20);

/// A kind to be watched, and where to find it.
#[derive(Clone, Debug)]
pub struct Source {
    pub kind: Kind,
    pub resource: ApiResource,
}

/// Kinds without a namespace, and those whose objects matter wherever they are.
fn cluster_wide() -> Vec<Source> {
    vec![
        source(Kind::Volume, "", "v1", "PersistentVolume", "persistentvolumes"),
        source(Kind::StorageClass, "storage.k8s.io", "v1", "StorageClass", "storageclasses"),
        source(Kind::Attachment, "storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments"),
        Source { kind: Kind::ReplicationClass, resource: foreign::volume_replication_class() },
        Source { kind: Kind::GroupClass, resource: foreign::volume_group_replication_class() },
        Source { kind: Kind::GroupContent, resource: foreign::volume_group_replication_content() },
        Source { kind: Kind::AddonsNode, resource: foreign::csi_addons_node() },
        admission(Kind::Policy, "ValidatingAdmissionPolicy", "validatingadmissionpolicies"),
        admission(
            Kind::PolicyBinding,
            "ValidatingAdmissionPolicyBinding",
            "validatingadmissionpolicybindings",
        ),
    ]
}

fn namespaced() -> Vec<Source> {
    vec![
        source(Kind::Claim, "", "v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
        source(Kind::Pod, "", "v1", "Pod", "pods"),
        Source { kind: Kind::Replication, resource: foreign::volume_replication() },
        Source { kind: Kind::Group, resource: foreign::volume_group_replication() },
        workload("apps", "v1", "Deployment", "deployments"),
        workload("apps", "v1", "StatefulSet", "statefulsets"),
        workload("apps", "v1", "DaemonSet", "daemonsets"),
        workload("batch", "v1", "CronJob", "cronjobs"),
    ]
}

fn source(kind: Kind, group: &str, version: &str, name: &str, plural: &str) -> Source {
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, name), plural);
    Source { kind, resource }
}

fn admission(kind: Kind, name: &str, plural: &str) -> Source {
    source(kind, "admissionregistration.k8s.io", "v1", name, plural)
}

fn workload(group: &str, version: &str, name: &str, plural: &str) -> Source {
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, name), plural);
    Source { kind: workload_kind(&resource), resource }
}

fn workload_kind(resource: &ApiResource) -> Kind {
    Kind::Workload(WorkloadKind { api_version: resource.api_version.clone(), kind: resource.kind.clone() })
}

/// Where objects of a kind are found that placements list to be copied: all are of Kubernetes itself, with regular plurals.
pub fn object_resource(kind: &ObjectKind) -> ApiResource {
    let (group, version) = kind.api_version.split_once('/').unwrap_or(("", &kind.api_version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind.kind))
}

pub fn reconciler_resource(kind: ReconcilerKind) -> ApiResource {
    match kind {
        ReconcilerKind::Kustomization => foreign::kustomization(),
        ReconcilerKind::HelmRelease => foreign::helm_release(),
        ReconcilerKind::Application => foreign::argo_application(),
    }
}

/// All watches that run, each owned here and ended with this.
pub struct Watches {
    client: Client,
    events: mpsc::Sender<Event>,
    tasks: JoinSet<()>,
    running: BTreeMap<(Kind, String), AbortHandle>,
    /// Kinds with a scale subresource, beside those that are always watched.
    scalable: BTreeMap<Kind, ApiResource>,
    followed: Followed,
}

impl Watches {
    pub fn new(client: Client, events: mpsc::Sender<Event>) -> Watches {
        let (tasks, running) = (JoinSet::new(), BTreeMap::new());
        let (scalable, followed) = (BTreeMap::new(), Followed::default());
        let mut watches = Watches { client, events, tasks, running, scalable, followed };
        for source in cluster_wide() {
            watches.begin(source, None);
        }
        watches
    }

    /// Watches exactly these.
    pub fn follow(&mut self, followed: &Followed) {
        self.followed = followed.clone();
        let Followed { namespaces, objects, reconcilers } = followed;
        self.running.retain(|(kind, namespace), handle| {
            let stays = if let Kind::Object(kind) = kind {
                objects.contains(&(namespace.clone(), kind.clone()))
            } else if let Kind::Reconciler(reconciler) = kind {
                reconcilers.contains(reconciler)
            } else {
                namespace.is_empty() || namespaces.contains(namespace)
            };
            if !stays {
                handle.abort();
            }
            stays
        });
        let scalable = self.scalable.iter();
        let scalable =
            scalable.map(|(kind, resource)| Source { kind: kind.clone(), resource: resource.clone() });
        let sources: Vec<Source> = namespaced().into_iter().chain(scalable).collect();
        for namespace in namespaces {
            for source in &sources {
                self.begin(source.clone(), Some(namespace));
            }
        }
        for (namespace, kind) in objects {
            let source = Source { kind: Kind::Object(kind.clone()), resource: object_resource(kind) };
            self.begin(source, Some(namespace));
        }
        for reconciler in reconcilers {
            let resource = reconciler_resource(reconciler.kind);
            let source = Source { kind: Kind::Reconciler(reconciler.clone()), resource };
            self.begin(source, reconciler.namespace.as_ref());
        }
        while self.tasks.try_join_next().is_some() {}
    }

    /// Takes over what discovery has found.
    pub fn learn(&mut self, found: Vec<ApiResource>) {
        self.scalable = found.into_iter().map(|resource| (workload_kind(&resource), resource)).collect();
        self.follow(&self.followed.clone());
    }

    fn begin(&mut self, source: Source, namespace: Option<&String>) {
        let key = (source.kind.clone(), namespace.cloned().unwrap_or_default());
        if self.running.contains_key(&key) {
            return;
        }
        let task = watch(self.client.clone(), source, namespace.cloned(), self.events.clone());
        let handle = self.tasks.spawn(task);
        self.running.insert(key, handle);
    }
}

fn api(client: Client, resource: &ApiResource, namespace: Option<&str>) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, resource),
        None => Api::all_with(client, resource),
    }
}

/// Follows one kind until it is aborted or nobody listens.
async fn watch(client: Client, source: Source, namespace: Option<String>, events: mpsc::Sender<Event>) {
    let api = api(client, &source.resource, namespace.as_deref());
    let mut stream = std::pin::pin!(watcher(api, which(&source.kind).timeout(WATCH_SECONDS)));
    let mut list = (clock::now(), Vec::new());
    let (mut pause, mut warned) = (FIRST_PAUSE, false);
    while let Some(seen) = stream.next().await {
        let change = match seen {
            Ok(watcher::Event::Apply(object)) => Some(Change::Applied(value(object))),
            Ok(watcher::Event::Delete(object)) => Some(Change::Deleted(value(object))),
            Ok(watcher::Event::Init) => {
                list = (clock::now(), Vec::new());
                None
            }
            Ok(watcher::Event::InitApply(object)) => {
                list.1.push(value(object));
                None
            }
            Ok(watcher::Event::InitDone) => {
                pause = FIRST_PAUSE;
                let (began, objects) = std::mem::take(&mut list);
                Some(Change::Listed { namespace: namespace.clone(), objects, began })
            }
            Err(error) => {
                let (absent, forbidden) = (is_status(&error, 404), is_status(&error, 403));
                tracing::debug!(
                    kind = source.resource.kind,
                    error = &error as &dyn std::error::Error,
                    "watching"
                );
                // A kind that does not exist here has no objects here, and a policy that nobody sees is as good as none.
                if absent || forbidden && matches!(source.kind, Kind::Policy | Kind::PolicyBinding) {
                    let change = Change::Listed {
                        namespace: namespace.clone(),
                        objects: Vec::new(),
                        began: clock::now(),
                    };
                    tell(&source, change, &events).await;
                }
                if forbidden && !std::mem::replace(&mut warned, true) {
                    warn_of_missing_rights(&source.kind);
                }
                sleep(if absent || forbidden { absent_pause(&source.kind) } else { pause }).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                None
            }
        };
        if let Some(change) = change
            && !tell(&source, change, &events).await
        {
            return;
        }
    }
}

/// All objects of a kind, or the one that is meant.
fn which(kind: &Kind) -> watcher::Config {
    let all = watcher::Config::default();
    if let Kind::Reconciler(Reconciler { name, .. }) = kind {
        return all.fields(&format!("metadata.name={name}"));
    }
    all
}

fn absent_pause(kind: &Kind) -> Duration {
    if matches!(kind, Kind::Reconciler(_)) { ABSENT_RECONCILER_PAUSE } else { ABSENT_PAUSE }
}

/// Of what is not needed until an operation runs, and may be left out on purpose.
fn warn_of_missing_rights(kind: &Kind) {
    if let Kind::Reconciler(reconciler) = kind
        && !reconciler.guessed
    {
        tracing::warn!(%reconciler, "it applies a protected application, and cannot be paused while an operation runs: apply deploy/agent/gitops.yaml");
    }
}

async fn tell(source: &Source, change: Change, events: &mpsc::Sender<Event>) -> bool {
    events.send(Event::Watched(Watched { kind: source.kind.clone(), change })).await.is_ok()
}

fn is_status(error: &watcher::Error, code: u16) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == code,
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchStartFailed(_)
        | watcher::Error::WatchError(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => false,
    }
}

/// What an object says, with nothing interpreted; managedFields only cost room.
pub fn value(mut object: DynamicObject) -> Value {
    object.metadata.managed_fields = None;
    // An object that came as JSON goes as JSON.
    serde_json::to_value(object).unwrap_or(Value::Null)
}

/// Finds, again and again, the kinds that can be scaled.
pub async fn discover(client: Client, found: mpsc::Sender<Vec<ApiResource>>) -> anyhow::Result<()> {
    loop {
        match timeout(DISCOVERY, Discovery::new(client.clone()).run()).await {
            Ok(Ok(discovery)) => found.send(scalable(&discovery)).await?,
            Ok(Err(error)) => tracing::warn!(%error, "looking for kinds that can be scaled"),
            Err(_) => tracing::warn!("looking for kinds that can be scaled takes too long"),
        }
        sleep(DISCOVER_EVERY).await;
    }
}

/// A ReplicaSet belongs to a Deployment, and a ReplicationController is its ancestor.
fn scalable(discovery: &Discovery) -> Vec<ApiResource> {
    let known = ["Deployment", "StatefulSet", "ReplicaSet"];
    let mut found = Vec::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            let scales = capabilities
                .subresources
                .iter()
                .any(|(subresource, _)| subresource.plural.ends_with("scale"));
            let usual = resource.group == "apps" && known.contains(&resource.kind.as_str());
            let followable =
                capabilities.scope == Scope::Namespaced && capabilities.supports_operation(verbs::WATCH);
            if scales && followable && !usual && resource.kind != "ReplicationController" {
                found.push(resource);
            }
        }
    }
    found
}

/// Where the objects of a kind are found whose lists are read by themselves.
pub fn users(namespace: &str) -> [(Source, Option<String>); 2] {
    [
        (source(Kind::Pod, "", "v1", "Pod", "pods"), Some(namespace.to_owned())),
        (source(Kind::Attachment, "storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments"), None),
    ]
}
