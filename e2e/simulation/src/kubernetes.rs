//! One cluster's API server: objects with versions, admission that reads a cache, and what an agent's requests do.

use std::collections::BTreeMap;

use agent_core::{
    Change, Effect, Failed, Failure, Kind, Receipt, Reconciler, ReconcilerKind, Recorded, SiteState,
    SiteWrite, Watched, WorkloadKind, reconcilers,
};
use proto::{Epoch, Moment, PlacementId, Role, WorkloadRef};
use serde_json::{Value, json};

/// Of the first application.
pub const NAMESPACE: &str = "shop";

#[derive(Debug, Default)]
pub struct Kubernetes {
    objects: BTreeMap<Kind, BTreeMap<String, Value>>,
    pub site_states: BTreeMap<PlacementId, Recorded>,
    /// What admission goes by: the DRSiteStates of a moment ago.
    pub admission: BTreeMap<PlacementId, SiteState>,
    version: u64,
    /// What has changed and nobody was told yet.
    pub changes: Vec<Watched>,
    /// The highest epoch each DRSiteState has shown; only a release ends it.
    pub epochs: BTreeMap<PlacementId, Epoch>,
}

pub fn deployments() -> Kind {
    Kind::Workload(WorkloadKind { api_version: "apps/v1".into(), kind: "Deployment".into() })
}

/// What of Flux applies the application, in the stories that have it.
pub fn kustomization() -> Kind {
    let (kind, namespace) = (ReconcilerKind::Kustomization, Some(NAMESPACE.to_owned()));
    Kind::Reconciler(Reconciler { kind, namespace, name: "flux".into(), guessed: false })
}

pub fn kinds() -> Vec<(Kind, bool)> {
    let workload = |api_version: &str, kind: &str| {
        Kind::Workload(WorkloadKind { api_version: api_version.into(), kind: kind.into() })
    };
    vec![
        (Kind::Volume, false),
        (Kind::StorageClass, false),
        (Kind::Attachment, false),
        (Kind::ReplicationClass, false),
        (Kind::AddonsNode, false),
        (Kind::Claim, true),
        (Kind::Pod, true),
        (Kind::Replication, true),
        (deployments(), true),
        (workload("apps/v1", "StatefulSet"), true),
        (workload("apps/v1", "DaemonSet"), true),
        (workload("batch/v1", "CronJob"), true),
    ]
}

pub fn is_namespaced(kind: &Kind) -> bool {
    match kind {
        Kind::Volume
        | Kind::StorageClass
        | Kind::Attachment
        | Kind::ReplicationClass
        | Kind::GroupClass
        | Kind::GroupContent
        | Kind::AddonsNode
        | Kind::Policy
        | Kind::PolicyBinding => false,
        Kind::Claim
        | Kind::Pod
        | Kind::Replication
        | Kind::Group
        | Kind::Workload(_)
        | Kind::Object(_)
        | Kind::Reconciler(_) => true,
    }
}

fn failed(failure: Failure, message: impl Into<String>) -> Failed {
    Failed { failure, message: message.into() }
}

fn seen(kind: Kind, object: Value) -> Receipt {
    Receipt::Object(Box::new(Watched { kind, change: Change::Applied(object) }))
}

impl Kubernetes {
    pub fn get(&self, kind: &Kind, name: &str) -> Option<&Value> {
        self.objects.get(kind)?.get(name)
    }

    pub fn of<'a>(&'a self, kind: &'a Kind) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.objects.get(kind).into_iter().flatten().map(|(name, object)| (name.as_str(), object))
    }

    pub fn put(&mut self, kind: Kind, name: &str, mut object: Value) -> Value {
        if let Some(present) = self.get(&kind, name) {
            object["metadata"]["resourceVersion"] = present["metadata"]["resourceVersion"].clone();
            if *present == object {
                return object;
            }
            if present["spec"] != object["spec"] {
                let generation = present["metadata"]["generation"].as_u64().unwrap_or(1) + 1;
                object["metadata"]["generation"] = json!(generation);
            }
        } else {
            object["metadata"]["generation"] = json!(1);
            object["metadata"]["uid"] = json!(format!("uid-{name}-{}", self.version));
        }
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.entry(kind.clone()).or_default().insert(name.to_owned(), object.clone());
        self.changes.push(Watched { kind, change: Change::Applied(object.clone()) });
        object
    }

    pub fn change(
        &mut self,
        kind: &Kind,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<Receipt, Failed> {
        let Some(mut object) = self.get(kind, name).cloned() else {
            return Err(failed(Failure::NotFound, format!("{name} not found")));
        };
        change(&mut object);
        let object = self.put(kind.clone(), name, object);
        Ok(seen(kind.clone(), object))
    }

    pub fn remove(&mut self, kind: &Kind, name: &str) {
        if let Some(mut object) = self.objects.get_mut(kind).and_then(|objects| objects.remove(name)) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.changes.push(Watched { kind: kind.clone(), change: Change::Deleted(object) });
        }
    }

    /// What an agent watches here: nobody follows a reconciler that applies nothing.
    pub fn watched(&self) -> Vec<(Kind, bool)> {
        let flux = self.get(&kustomization(), "flux").map(|_| (kustomization(), true));
        kinds().into_iter().chain(flux).collect()
    }

    pub fn list(&self, kind: &Kind, namespace: Option<&str>, began: Moment) -> Watched {
        let all = self.of(kind).map(|(_, object)| object);
        let here = |object: &&Value| namespace.is_none_or(|it| object["metadata"]["namespace"] == it);
        let objects = all.filter(here).cloned().collect();
        let namespace = namespace.map(str::to_owned);
        Watched { kind: kind.clone(), change: Change::Listed { namespace, objects, began } }
    }

    /// Deploy/admission, "claims need their holder".
    pub fn admits_users_of(&self, claims: &[String]) -> bool {
        self.admission.values().all(|state| {
            state.role == Role::Holder || !claims.iter().any(|claim| state.claims.contains(claim))
        })
    }

    /// Deploy/admission, "promotion needs its epoch".
    fn admits_primary(&self, claim: &str, epoch: Epoch) -> bool {
        self.admission.values().all(|state| {
            let may = matches!(state.role, Role::Promoting | Role::Holder) && state.epoch_seen == epoch;
            !state.claims.contains(claim) || may
        })
    }

    /// Writes a DRSiteState, if nobody else has in between.
    pub fn write_site(&mut self, write: SiteWrite) -> Result<Recorded, Failed> {
        let SiteWrite { state, resource_version } = write;
        let present = self.site_states.get(&state.placement).map(|known| known.resource_version.clone());
        if present != resource_version {
            return Err(failed(Failure::Conflict, "the object has been modified"));
        }
        let highest = self.epochs.get(&state.placement).copied().unwrap_or_default();
        if state.epoch_seen < highest {
            return Err(failed(Failure::Denied, "epochSeen never decreases"));
        }
        self.epochs.insert(state.placement.clone(), state.epoch_seen);
        self.version += 1;
        let recorded = Recorded { resource_version: self.version.to_string(), state };
        self.site_states.insert(recorded.state.placement.clone(), recorded.clone());
        Ok(recorded)
    }

    /// The version of the object that a request reads before it writes; it is written as it was read, or not at all.
    pub fn read_for(&self, effect: &Effect) -> Option<String> {
        let (Effect::DemoteReplication { name, .. } | Effect::ResyncReplication { name, .. }) = effect else {
            return None;
        };
        let object = self.get(&Kind::Replication, name)?;
        object["metadata"]["resourceVersion"].as_str().map(str::to_owned)
    }

    /// Carries out one request of the agent.
    pub fn apply(&mut self, effect: &Effect, read: &Option<String>, now: Moment) -> Result<Receipt, Failed> {
        if read.is_some() && self.read_for(effect) != *read {
            return Err(failed(Failure::Conflict, "the object has been modified"));
        }
        match effect {
            Effect::ProbeFence { claim, .. } => {
                let admitted = self.admits_users_of(std::slice::from_ref(claim));
                Ok(if admitted { Receipt::FenceNotInForce } else { Receipt::FenceInForce })
            }
            Effect::ListUsers { namespace } => {
                let pods = self.list(&Kind::Pod, Some(namespace), now);
                let lists = vec![pods, self.list(&Kind::Attachment, None, now)];
                Ok(Receipt::Lists(lists))
            }
            Effect::MarkReplicas { workload, replicas, .. } => {
                let mark = json!(replicas.to_string());
                self.annotate_workload(workload, Some(mark))
            }
            Effect::UnmarkReplicas { workload, .. } => self.annotate_workload(workload, None),
            Effect::Scale { workload, replicas, .. } => {
                self.change(&kind_of(workload), &workload.name, |object| {
                    object["spec"]["replicas"] = json!(replicas);
                })
            }
            Effect::SuspendCronJob { name, .. } => {
                Err(failed(Failure::NotFound, format!("there is no CronJob {name}")))
            }
            Effect::CreateReplication { namespace, claim, class, epoch } => {
                self.create_replication(namespace, claim, class, *epoch)
            }
            Effect::PromoteReplication { name, epoch, .. } => {
                self.set_replication(name, "primary", false, *epoch)
            }
            Effect::DemoteReplication { name, epoch, .. } => {
                self.set_replication(name, "secondary", false, *epoch)
            }
            Effect::ResyncReplication { name, epoch, .. } => {
                self.set_replication(name, "secondary", true, *epoch)
            }
            Effect::MarkReplication { name, epoch, .. } => self.annotate(
                &Kind::Replication,
                name,
                "understudy.dev/epoch",
                Some(json!(epoch.to_string())),
            ),
            Effect::UnmarkReplication { name, .. } => {
                self.annotate(&Kind::Replication, name, "understudy.dev/epoch", None)
            }
            Effect::Group { .. } => panic!("no placement asks for a group here"),
            Effect::Create { object } => self.create(object),
            Effect::Replace { .. } => panic!("no placement lists objects here"),
            Effect::EnlargeVolume { volume, size } => self.change(&Kind::Volume, volume, |object| {
                object["spec"]["capacity"]["storage"] = json!(size);
            }),
            Effect::EnlargeClaim { claim, size, .. } => self.change(&Kind::Claim, claim, |object| {
                object["spec"]["resources"]["requests"]["storage"] = json!(size);
            }),
            Effect::MarkVolume { volume, placement } => self.annotate(
                &Kind::Volume,
                volume,
                "understudy.dev/protected-by",
                placement.as_ref().map(|placement| json!(placement)),
            ),
            Effect::ClearClaimReference { volume, .. } => self.change(&Kind::Volume, volume, |object| {
                if let Some(reference) = object["spec"]["claimRef"].as_object_mut() {
                    reference.remove("uid");
                    reference.remove("resourceVersion");
                }
                object["status"]["phase"] = json!("Available");
            }),
            Effect::DeleteSiteState { placement, .. } => {
                self.site_states.remove(placement);
                self.epochs.remove(placement);
                Ok(Receipt::Applied)
            }
            Effect::PauseReconciler { reconciler, paused_for, resource_version, .. }
            | Effect::ResumeReconciler { reconciler, paused_for, resource_version, .. } => {
                self.steer(reconciler, reconcilers::patch(reconciler.kind, paused_for, resource_version))
            }
        }
    }

    /// Of the version that was seen only.
    fn steer(&mut self, reconciler: &Reconciler, patch: Value) -> Result<Receipt, Failed> {
        let kind = Kind::Reconciler(reconciler.clone());
        let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
        if self.get(&kind, &reconciler.name).is_some_and(|present| version(present) != version(&patch)) {
            return Err(failed(Failure::Conflict, "the object has been modified"));
        }
        self.change(&kind, &reconciler.name, |object| {
            object["spec"]["suspend"] = patch["spec"]["suspend"].clone();
            object["metadata"]["annotations"] = patch["metadata"]["annotations"].clone();
        })
    }

    fn annotate_workload(&mut self, workload: &WorkloadRef, value: Option<Value>) -> Result<Receipt, Failed> {
        self.annotate(&kind_of(workload), &workload.name, "understudy.dev/replicas", value)
    }

    fn annotate(
        &mut self,
        kind: &Kind,
        name: &str,
        annotation: &str,
        value: Option<Value>,
    ) -> Result<Receipt, Failed> {
        self.change(kind, name, |object| {
            if object["metadata"]["annotations"].is_null() {
                object["metadata"]["annotations"] = json!({});
            }
            if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
                match value {
                    Some(value) => annotations.insert(annotation.to_owned(), value),
                    None => annotations.remove(annotation),
                };
            }
        })
    }

    fn create_replication(
        &mut self,
        namespace: &str,
        claim: &str,
        class: &str,
        epoch: Epoch,
    ) -> Result<Receipt, Failed> {
        if let Some(present) = self.get(&Kind::Replication, claim) {
            return Ok(seen(Kind::Replication, present.clone()));
        }
        if !self.admits_primary(claim, epoch) {
            return Err(failed(Failure::Denied, format!("promotion of {claim} refused at epoch {epoch}")));
        }
        let object = json!({
            "metadata": {"name": claim, "namespace": namespace,
                "annotations": {"understudy.dev/epoch": epoch.to_string()}},
            "spec": {"volumeReplicationClass": class, "replicationState": "primary", "autoResync": false,
                "dataSource": {"kind": "PersistentVolumeClaim", "name": claim}},
        });
        let object = self.put(Kind::Replication, claim, object);
        Ok(seen(Kind::Replication, object))
    }

    fn set_replication(
        &mut self,
        name: &str,
        state: &str,
        auto_resync: bool,
        epoch: Epoch,
    ) -> Result<Receipt, Failed> {
        let present = self.get(&Kind::Replication, name);
        let becomes = present.is_some_and(|it| it["spec"]["replicationState"] != json!(state));
        if state == "primary" && becomes && !self.admits_primary(name, epoch) {
            return Err(failed(Failure::Denied, format!("promotion of {name} refused at epoch {epoch}")));
        }
        self.change(&Kind::Replication, name, |object| {
            object["metadata"]["annotations"]["understudy.dev/epoch"] = json!(epoch.to_string());
            object["spec"]["replicationState"] = json!(state);
            object["spec"]["autoResync"] = json!(auto_resync);
        })
    }

    fn create(&mut self, object: &Value) -> Result<Receipt, Failed> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let kind = match object["kind"].as_str() {
            Some("PersistentVolume") => Kind::Volume,
            Some("PersistentVolumeClaim") => Kind::Claim,
            Some("StorageClass") => Kind::StorageClass,
            Some("VolumeReplicationClass") => Kind::ReplicationClass,
            Some(_) | None => return Err(failed(Failure::Denied, "not a kind that is created here")),
        };
        if let Some(present) = self.get(&kind, &name) {
            return Ok(seen(kind.clone(), present.clone()));
        }
        let object = self.put(kind.clone(), &name, object.clone());
        Ok(seen(kind, object))
    }
}

pub fn kind_of(workload: &WorkloadRef) -> Kind {
    Kind::Workload(WorkloadKind { api_version: workload.api_version.clone(), kind: workload.kind.clone() })
}
