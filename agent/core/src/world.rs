//! The cluster as the watches show it: parsed objects, the newest of each.

use std::collections::{BTreeMap, BTreeSet};

use proto::{Ailment, Moment, Replication, WorkloadRef};
use serde_json::Value;

use crate::enforcement::Enforcement;
use crate::event::Concern;
use crate::group::{GroupContent, GroupObject};
use crate::parse;
use crate::reconcilers::{self, Present, Reconciler};
use crate::shelf::{Shelf, key_of};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WorkloadKind {
    pub api_version: String,
    pub kind: String,
}

/// A kind whose objects are copied as they are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectKind {
    pub api_version: String,
    pub kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Claim,
    Volume,
    StorageClass,
    Replication,
    ReplicationClass,
    Group,
    GroupClass,
    GroupContent,
    Attachment,
    Pod,
    AddonsNode,
    /// A ValidatingAdmissionPolicy, of whoever.
    Policy,
    PolicyBinding,
    /// Anything that makes pods: with a scale subresource, or a CronJob, or a DaemonSet.
    Workload(WorkloadKind),
    /// What a placement lists to be copied; a Deployment among it is seen as a workload as well.
    Object(ObjectKind),
    /// One reconciler of Argo CD or Flux, which has an object of its own in any namespace.
    Reconciler(Reconciler),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Watched {
    pub kind: Kind,
    pub change: Change,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Applied(Value),
    Deleted(Value),
    /// Everything there is (in this namespace, if the kind has namespaces), as read by a request begun at `began`.
    Listed {
        namespace: Option<String>,
        objects: Vec<Value>,
        began: Moment,
    },
}

/// Namespace (empty for what has none) and name.
pub type Key = (String, String);

#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    pub uid: String,
    pub labels: BTreeMap<String, String>,
    pub volume: Option<String>,
    pub bound: bool,
    pub terminating: bool,
    pub storage_class: Option<String>,
    /// This agent made it as a copy of another cluster's.
    pub staged: bool,
    /// What of Argo CD or Flux applies it.
    pub reconcilers: BTreeSet<Reconciler>,
    pub object: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    pub handle: Option<String>,
    pub driver: Option<String>,
    pub released: bool,
    pub claim: Option<Key>,
    pub claim_uid: Option<String>,
    /// The uid of the placement that it is marked for.
    pub protected_by: Option<String>,
    pub object: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    pub uid: String,
    /// The placement whose lease its gate asks for, if it has a gate that nothing using its claims comes before.
    pub gate: Option<String>,
    /// It has a node, so that something of it may run.
    pub scheduled: bool,
    /// Its gate runs, or has run.
    pub gate_started: bool,
    pub claims: BTreeSet<String>,
    pub finished: bool,
    pub terminating: bool,
    pub grace_seconds: u64,
    /// Kind and name of its controller.
    pub owner: Option<(String, String)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Attachment {
    pub volume: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    pub workload: WorkloadRef,
    pub labels: BTreeMap<String, String>,
    pub wanted: u32,
    pub ready: u32,
    /// Why its pods cannot be made, where its controller says so: a quota, an admission policy.
    pub refused: Option<String>,
    /// Our annotation: what it had before it was stopped.
    pub marked: Option<u32>,
    /// Claims that its pods use by name, and the prefixes of those made from templates.
    pub claims: BTreeSet<String>,
    pub claim_prefixes: Vec<String>,
    /// What of Argo CD or Flux applies it.
    pub reconcilers: BTreeSet<Reconciler>,
    /// The placement whose gate its pods are to have; none: none, or its pods are made from something else.
    pub gate: Option<String>,
    pub has_template: bool,
}

/// What a VolumeReplication replicates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Claim(String),
    /// Made by csi-addons for a VolumeGroupReplication.
    Group(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct ReplicationObject {
    pub source: Source,
    pub replication: Replication,
    /// Of the condition Completed.
    pub reason: Option<String>,
    pub auto_resync: bool,
    pub annotated: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AddonsNode {
    pub driver: String,
    pub connected: bool,
}

/// What is to be watched: everything that matters in some namespaces, what placements list in theirs, and what applies them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    pub namespaces: BTreeSet<String>,
    pub objects: BTreeSet<(String, ObjectKind)>,
    pub reconcilers: BTreeSet<Reconciler>,
}

impl Followed {
    pub(crate) fn extend(&mut self, more: &Followed) {
        self.namespaces.extend(more.namespaces.iter().cloned());
        self.objects.extend(more.objects.iter().cloned());
        self.reconcilers.extend(more.reconcilers.iter().cloned());
    }
}

/// Counts what has changed.
#[derive(Debug, Default)]
struct Revisions {
    /// Of what has no namespace.
    everywhere: u64,
    namespaces: BTreeMap<String, u64>,
}

impl Revisions {
    /// None: all of them.
    fn count(&mut self, namespaces: &BTreeSet<String>) {
        self.everywhere += u64::from(namespaces.is_empty());
        for namespace in namespaces {
            *self.namespaces.entry(namespace.clone()).or_default() += 1;
        }
    }

    fn of(&self, namespace: &str) -> u64 {
        self.everywhere + self.namespaces.get(namespace).copied().unwrap_or(0)
    }
}

#[derive(Debug, Default)]
pub struct World {
    seen: Revisions,
    /// Without what no manifest is made of.
    manifests: Revisions,
    claims: Shelf<Claim>,
    volumes: Shelf<Volume>,
    storage_classes: Shelf<Value>,
    replications: Shelf<ReplicationObject>,
    replication_classes: Shelf<Value>,
    groups: Shelf<GroupObject>,
    group_classes: Shelf<Value>,
    group_contents: Shelf<GroupContent>,
    attachments: Shelf<Attachment>,
    pods: Shelf<Pod>,
    addons_nodes: Shelf<AddonsNode>,
    policies: Shelf<Value>,
    policy_bindings: Shelf<Value>,
    enforcement: Enforcement,
    workloads: BTreeMap<WorkloadKind, Shelf<Workload>>,
    objects: BTreeMap<ObjectKind, Shelf<Value>>,
    reconcilers: BTreeMap<Reconciler, Shelf<Present>>,
}

impl World {
    pub fn see(&mut self, watched: Watched) {
        let Watched { kind, change } = watched;
        // No survey says anything about a reconciler.
        if !matches!(kind, Kind::Reconciler(_)) {
            self.count(&kind, &change);
        }
        match kind {
            Kind::Claim => self.claims.take(change, parse::claim),
            Kind::Volume => self.volumes.take(change, parse::volume),
            Kind::StorageClass => self.storage_classes.take(change, |object| Some(object.clone())),
            Kind::Replication => self.replications.take(change, parse::replication),
            Kind::ReplicationClass => self.replication_classes.take(change, |object| Some(object.clone())),
            Kind::Group => self.groups.take(change, parse::group),
            Kind::GroupClass => self.group_classes.take(change, |object| Some(object.clone())),
            Kind::GroupContent => self.group_contents.take(change, parse::group_content),
            Kind::Attachment => self.attachments.take(change, parse::attachment),
            Kind::Pod => self.pods.take(change, parse::pod),
            Kind::AddonsNode => self.addons_nodes.take(change, parse::addons_node),
            Kind::Policy => self.policies.take(change, |object| Some(object.clone())),
            Kind::PolicyBinding => self.policy_bindings.take(change, |object| Some(object.clone())),
            Kind::Workload(kind) => {
                let shelf = self.workloads.entry(kind.clone()).or_default();
                shelf.take(change, |object| parse::workload(&kind, object));
            }
            Kind::Object(kind) => {
                self.objects.entry(kind).or_default().take(change, |object| Some(object.clone()));
            }
            Kind::Reconciler(reconciler) => {
                let kind = reconciler.kind;
                let shelf = self.reconcilers.entry(reconciler).or_default();
                shelf.take(change, |object| reconcilers::parse(kind, object));
            }
        }
    }

    /// What the API server has to enforce.
    pub fn expect_policies(&mut self, objects: Vec<Value>) {
        self.enforcement.expect(objects);
    }

    /// The admission policies were tried with what they must refuse.
    pub fn see_enforcement(&mut self, result: Result<(), String>) {
        if self.enforcement.tried(result) {
            self.seen.count(&BTreeSet::new());
        }
    }

    /// What is wrong with the admission policies here, once they have been read.
    pub fn enforcement_ailments(&self) -> Vec<Ailment> {
        if self.policies.listed("").is_none() || self.policy_bindings.listed("").is_none() {
            return Vec::new();
        }
        self.enforcement.ailments(|kind, name| match kind {
            "ValidatingAdmissionPolicy" => self.policies.get("", name),
            _ => self.policy_bindings.get("", name),
        })
    }

    /// What is not watched any more is not known any more: when it is watched again, it is read anew before anybody
    /// decides by it.
    pub fn keep_only(&mut self, followed: &Followed) {
        let Followed { namespaces, objects, reconcilers } = followed;
        let is_followed = |namespace: &str| namespaces.contains(namespace);
        self.claims.keep_only(is_followed);
        self.replications.keep_only(is_followed);
        self.groups.keep_only(is_followed);
        self.pods.keep_only(is_followed);
        self.workloads.values_mut().for_each(|shelf| shelf.keep_only(is_followed));
        for (kind, shelf) in &mut self.objects {
            shelf.keep_only(|namespace| objects.contains(&(namespace.to_owned(), kind.clone())));
        }
        self.reconcilers.retain(|reconciler, _| reconcilers.contains(reconciler));
        self.seen.count(&BTreeSet::new());
        self.manifests.count(&BTreeSet::new());
    }

    /// Whom something that was seen is about. An application of Argo CD or Flux may be in a namespace of its own.
    pub(crate) fn concern(&self, watched: &Watched) -> Concern {
        let Watched { kind, change } = watched;
        let users = self.users_of_volume(kind, change);
        match namespace_that_matters(kind, change) {
            _ if matches!(kind, Kind::Reconciler(_)) => Concern::All,
            namespace if !namespace.is_empty() => Concern::Namespace(namespace),
            _ if !users.is_empty() => Concern::Namespaces(users),
            _ => Concern::All,
        }
    }

    /// The namespaces that a volume or an attachment is of: of a claim that it is bound to, or that names it. None: nobody
    /// knows yet, or it is something else.
    fn users_of_volume(&self, kind: &Kind, change: &Change) -> BTreeSet<String> {
        let (Change::Applied(object) | Change::Deleted(object)) = change else { return BTreeSet::new() };
        let name = key_of(object).1;
        let attached = || {
            let before = self.attachments.get("", &name).and_then(|known| known.volume.clone());
            before.into_iter().chain(parse::attachment(object).and_then(|seen| seen.volume))
        };
        let volumes: BTreeSet<String> = match kind {
            Kind::Volume => BTreeSet::from([name]),
            Kind::Attachment => attached().collect(),
            Kind::Claim
            | Kind::StorageClass
            | Kind::Replication
            | Kind::ReplicationClass
            | Kind::Group
            | Kind::GroupClass
            | Kind::GroupContent
            | Kind::Pod
            | Kind::AddonsNode
            | Kind::Policy
            | Kind::PolicyBinding
            | Kind::Workload(_)
            | Kind::Object(_)
            | Kind::Reconciler(_) => return BTreeSet::new(),
        };
        let known = volumes.iter().filter_map(|name| self.volume(name)?.claim.as_ref());
        let bound = known.map(|(namespace, _)| namespace.clone());
        let told = parse::text(object, "/spec/claimRef/namespace").map(str::to_owned);
        let names = |claim: &Claim| claim.volume.as_ref().is_some_and(|volume| volumes.contains(volume));
        let claims = self.claims.all().filter(|(_, claim)| names(claim));
        bound.chain(told).chain(claims.map(|(namespace, _)| namespace.to_owned())).collect()
    }

    fn count(&mut self, kind: &Kind, change: &Change) {
        let mut concerned = self.users_of_volume(kind, change);
        let namespace = namespace_that_matters(kind, change);
        if !namespace.is_empty() {
            concerned.insert(namespace);
        }
        self.seen.count(&concerned);
        let no_manifest = matches!(
            kind,
            Kind::Pod
                | Kind::Replication
                | Kind::Attachment
                | Kind::AddonsNode
                | Kind::Policy
                | Kind::PolicyBinding
                | Kind::Workload(_)
        );
        if !no_manifest {
            self.manifests.count(&concerned);
        }
    }

    /// Grows with every change that matters to this namespace, so that what is derived need not be derived again.
    pub fn revision(&self, namespace: &str) -> u64 {
        self.seen.of(namespace)
    }

    /// The same for its manifests alone; those of a group are not counted.
    pub fn manifests_revision(&self, namespace: &str) -> u64 {
        self.manifests.of(namespace)
    }

    /// Whether everything that a decision about this namespace needs has been read once.
    pub fn is_known(&self, namespace: &str) -> bool {
        self.claims.listed(namespace).is_some()
            && self.pods.listed(namespace).is_some()
            && self.replications.listed(namespace).is_some()
            && self.volumes.listed("").is_some()
            && self.attachments.listed("").is_some()
            && self.knows_workload("apps/v1", "Deployment", namespace)
            && self.knows_workload("apps/v1", "StatefulSet", namespace)
    }

    /// Whether what replicates the claims of this placement as one group has been read once: a fence must not miss it.
    pub fn knows_group(&self, namespace: &str) -> bool {
        self.groups.listed(namespace).is_some()
    }

    /// Whether what an inventory has of a group has been read once, too.
    pub fn knows_group_inventory(&self) -> bool {
        self.group_classes.listed("").is_some() && self.group_contents.listed("").is_some()
    }

    /// Whether everything that goes into an inventory has been read once, too: a fence must not wait for it, and a copy
    /// for another cluster must not be made without it.
    pub fn knows_inventory(&self, namespace: &str) -> bool {
        self.is_known(namespace)
            && self.storage_classes.listed("").is_some()
            && self.replication_classes.listed("").is_some()
            && self.knows_workload("batch/v1", "CronJob", namespace)
    }

    fn knows_workload(&self, api_version: &str, kind: &str, namespace: &str) -> bool {
        let kind = WorkloadKind { api_version: api_version.into(), kind: kind.into() };
        self.workloads.get(&kind).is_some_and(|shelf| shelf.listed(namespace).is_some())
    }

    pub fn knows_objects(&self, kind: &ObjectKind, namespace: &str) -> bool {
        self.objects.get(kind).is_some_and(|shelf| shelf.listed(namespace).is_some())
    }

    pub fn objects<'a>(
        &'a self,
        kind: &ObjectKind,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.objects.get(kind).into_iter().flat_map(move |shelf| shelf.of(namespace))
    }

    pub fn object(&self, kind: &ObjectKind, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(kind)?.get(namespace, name)
    }

    /// The objects that may be this one, with the namespace of each; none as long as they have not been read.
    pub fn reconcilers(&self, reconciler: &Reconciler) -> Option<Vec<(&str, &Present)>> {
        let shelf = self.reconcilers.get(reconciler).filter(|shelf| shelf.was_listed())?;
        Some(shelf.all().collect())
    }

    /// Begin of the oldest of the newest reads of pods and attachments.
    pub fn users_listed(&self, namespace: &str) -> Option<Moment> {
        Some(self.pods.listed(namespace)?.min(self.attachments.listed("")?))
    }

    pub fn claim(&self, namespace: &str, name: &str) -> Option<&Claim> {
        self.claims.get(namespace, name)
    }

    pub fn claims<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = (&'a str, &'a Claim)> {
        self.claims.of(namespace)
    }

    pub fn volume(&self, name: &str) -> Option<&Volume> {
        self.volumes.get("", name)
    }

    pub fn storage_class(&self, name: &str) -> Option<&Value> {
        self.storage_classes.get("", name)
    }

    pub fn replication_class(&self, name: &str) -> Option<&Value> {
        self.replication_classes.get("", name)
    }

    pub fn group_class(&self, name: &str) -> Option<&Value> {
        self.group_classes.get("", name)
    }

    pub fn group(&self, namespace: &str, name: &str) -> Option<&GroupObject> {
        self.groups.get(namespace, name)
    }

    pub fn group_content(&self, name: &str) -> Option<&GroupContent> {
        self.group_contents.get("", name)
    }

    pub fn group_contents(&self) -> impl Iterator<Item = (&str, &GroupContent)> {
        self.group_contents.of("")
    }

    /// The VolumeReplication of a claim alone, whatever its name.
    pub fn replication_of(&self, namespace: &str, claim: &str) -> Option<(&str, &ReplicationObject)> {
        self.replication_with(namespace, |source| matches!(source, Source::Claim(name) if name == claim))
    }

    /// The VolumeReplication that csi-addons has made for a group.
    pub fn replication_of_group(&self, namespace: &str, group: &str) -> Option<&ReplicationObject> {
        let of_group = |source: &Source| matches!(source, Source::Group(name) if name == group);
        self.replication_with(namespace, of_group).map(|(_, object)| object)
    }

    fn replication_with(
        &self,
        namespace: &str,
        is_meant: impl Fn(&Source) -> bool,
    ) -> Option<(&str, &ReplicationObject)> {
        self.replications.of(namespace).find(|(_, object)| is_meant(&object.source))
    }

    pub fn is_attached(&self, volume: &str) -> bool {
        self.attachments.all().any(|(_, thing)| thing.volume.as_deref() == Some(volume))
    }

    pub fn pods<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = (&'a str, &'a Pod)> {
        self.pods.of(namespace)
    }

    pub fn workloads<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Workload> {
        self.workloads.values().flat_map(move |shelf| shelf.of(namespace).map(|(_, workload)| workload))
    }

    pub fn workload<'a>(&'a self, namespace: &'a str, wanted: &'a WorkloadRef) -> Option<&'a Workload> {
        self.workloads(namespace).find(|workload| workload.workload == *wanted)
    }

    /// Whether a controller of csi-addons is connected for a driver; none: no node of that driver is known.
    pub fn driver_is_led(&self, driver: &str) -> Option<bool> {
        let mut nodes = self.addons_nodes.all().filter(|(_, node)| node.driver == driver).peekable();
        nodes.peek()?;
        Some(nodes.any(|(_, node)| node.connected))
    }
}

/// None: it matters to all, as the sidecar of a driver does, wherever its own namespace is.
fn namespace_that_matters(kind: &Kind, change: &Change) -> String {
    match change {
        _ if *kind == Kind::AddonsNode => String::new(),
        Change::Applied(object) | Change::Deleted(object) => key_of(object).0,
        Change::Listed { namespace, objects: _, began: _ } => namespace.clone().unwrap_or_default(),
    }
}
