//! What the API server and the controllers of Kubernetes do with an effect.

use agent_core::{Change, Effect, Event, Failed, Failure, Kind, Receipt, Reconciler, Watched, reconcilers};
use proto::*;
use serde_json::{Value, json};

use super::Cluster;
use super::objects::{deployments, object_kind, replication};

/// What an effect comes back with, and what the watches tell of it besides.
pub type Answer = (Result<Receipt, Failed>, Vec<Event>);

impl Cluster {
    pub(super) fn apply(&mut self, effect: Effect) -> Answer {
        match effect {
            Effect::ProbeFence { claim, .. } => {
                let refused = self
                    .sites
                    .values()
                    .any(|site| site.state.role != Role::Holder && site.state.claims.contains(&claim));
                (Ok(if refused { Receipt::FenceInForce } else { Receipt::FenceNotInForce }), Vec::new())
            }
            Effect::ListUsers { .. } => {
                let lists = vec![self.list(Kind::Pod, true), self.list(Kind::Attachment, false)];
                (Ok(Receipt::Lists(lists)), Vec::new())
            }
            Effect::MarkReplicas { replicas, .. } => self.change(deployments(), "web", |object| {
                object["metadata"]["annotations"]["understudy.dev/replicas"] = json!(replicas.to_string());
            }),
            Effect::UnmarkReplicas { .. } => self.change(deployments(), "web", |object| {
                object["metadata"]["annotations"] = json!({});
            }),
            Effect::Scale { replicas, .. } => {
                let mut result = self.change(deployments(), "web", |object| {
                    object["spec"]["replicas"] = json!(replicas);
                });
                if replicas == 0 && self.pods_obey {
                    result.1.extend(self.pods_end());
                }
                result
            }
            Effect::SuspendCronJob { .. } => panic!("there is no CronJob here"),
            Effect::CreateReplication { claim, class, epoch, .. } => {
                let object = replication(&claim, &class, epoch);
                self.put(Kind::Replication, &claim, object);
                self.replicate(&claim)
            }
            Effect::PromoteReplication { name, epoch, .. } => {
                self.set_replication(&name, "primary", false, epoch)
            }
            Effect::DemoteReplication { name, epoch, .. } => {
                self.set_replication(&name, "secondary", false, epoch)
            }
            Effect::ResyncReplication { name, epoch, .. } => {
                self.set_replication(&name, "secondary", true, epoch)
            }
            Effect::MarkReplication { name, epoch, .. } => {
                self.set_replication(&name, "primary", false, epoch)
            }
            Effect::UnmarkReplication { name, .. } => self.change(Kind::Replication, &name, |object| {
                object["metadata"]["annotations"] = json!({});
            }),
            Effect::Group { name, change, .. } => self.change_group(&name, change),
            Effect::Create { object } => self.create(object),
            Effect::Replace { object } => self.replace(object),
            Effect::EnlargeVolume { volume, size } => self.change(Kind::Volume, &volume, |object| {
                object["spec"]["capacity"]["storage"] = json!(size);
            }),
            Effect::EnlargeClaim { claim, size, .. } => self.change(Kind::Claim, &claim, |object| {
                object["spec"]["resources"]["requests"]["storage"] = json!(size);
            }),
            Effect::MarkVolume { volume, placement } => self.change(Kind::Volume, &volume, |object| {
                object["metadata"]["annotations"]["understudy.dev/protected-by"] = json!(placement);
            }),
            Effect::ClearClaimReference { volume, .. } => self.change(Kind::Volume, &volume, |object| {
                object["spec"]["claimRef"]["uid"] = Value::Null;
                object["status"]["phase"] = json!("Available");
            }),
            Effect::DeleteSiteState { .. } if !self.writable => {
                let failed = Failed { failure: Failure::Unavailable, message: "no API server".into() };
                (Err(failed), Vec::new())
            }
            Effect::DeleteSiteState { placement, .. } => {
                self.sites.remove(&placement);
                (Ok(Receipt::Applied), vec![Event::SiteSeen { placement, recorded: None }])
            }
            Effect::PauseReconciler { reconciler, paused_for, resource_version, .. }
            | Effect::ResumeReconciler { reconciler, paused_for, resource_version, .. } => {
                let patch = reconcilers::patch(reconciler.kind, &paused_for, &resource_version);
                self.steer(reconciler, &patch)
            }
        }
    }

    fn steer(&mut self, reconciler: Reconciler, patch: &Value) -> Answer {
        let (kind, name) = (Kind::Reconciler(reconciler.clone()), reconciler.name);
        let present = self.objects.get(&(kind.clone(), name.clone())).expect("a reconciler");
        let refusal = if !self.may_steer {
            Some((Failure::Denied, "it is forbidden"))
        } else if present["metadata"]["resourceVersion"] != patch["metadata"]["resourceVersion"] {
            Some((Failure::Conflict, "it has been modified"))
        } else {
            None
        };
        match refusal {
            Some((failure, message)) => (Err(Failed { failure, message: message.into() }), Vec::new()),
            None => self.change(kind, &name, |object| merge(object, patch)),
        }
    }

    /// Claims bind as soon as their volume is there.
    fn create(&mut self, mut object: Value) -> Answer {
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        let kind = match object["kind"].as_str().expect("a kind") {
            "PersistentVolume" => Kind::Volume,
            "PersistentVolumeClaim" => Kind::Claim,
            "StorageClass" => Kind::StorageClass,
            "VolumeReplicationClass" => Kind::ReplicationClass,
            "VolumeGroupReplicationClass" => Kind::GroupClass,
            "VolumeGroupReplicationContent" => Kind::GroupContent,
            _ => Kind::Object(object_kind(&object)),
        };
        let mut more = Vec::new();
        if kind == Kind::Claim {
            let volume = object["spec"]["volumeName"].as_str().expect("a volume").to_owned();
            assert!(self.objects.contains_key(&(Kind::Volume, volume.clone())), "a claim before its volume");
            object["metadata"]["uid"] = json!(format!("{}-{name}", self.name));
            object["status"] = json!({"phase": "Bound"});
            let uid = object["metadata"]["uid"].clone();
            let bound =
                self.change(Kind::Volume, &volume, |volume| volume["spec"]["claimRef"]["uid"] = uid.clone());
            if let Ok(Receipt::Object(watched)) = bound.0 {
                more.push(Event::Watched(*watched));
            }
        }
        more.extend(self.as_workload(&object));
        let watched = self.put(kind, &name, object);
        (Ok(Receipt::Object(Box::new(watched))), more)
    }

    fn replace(&mut self, object: Value) -> Answer {
        let kind = Kind::Object(object_kind(&object));
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        let present = &self.objects[&(kind.clone(), name.clone())];
        if object["metadata"]["resourceVersion"] != present["metadata"]["resourceVersion"] {
            let failed = Failed { failure: Failure::Conflict, message: "it has been modified".into() };
            return (Err(failed), Vec::new());
        }
        let more = self.as_workload(&object).into_iter().collect();
        let watched = self.put(kind, &name, object);
        (Ok(Receipt::Object(Box::new(watched))), more)
    }

    /// A Deployment is watched as a workload as well.
    fn as_workload(&mut self, object: &Value) -> Option<Event> {
        let name = object["metadata"]["name"].as_str()?.to_owned();
        let is_workload = object["kind"] == "Deployment";
        is_workload.then(|| Event::Watched(self.put(deployments(), &name, object.clone())))
    }

    pub fn put(&mut self, kind: Kind, name: &str, mut object: Value) -> Watched {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert((kind.clone(), name.to_owned()), object.clone());
        Watched { kind, change: Change::Applied(object) }
    }

    pub(super) fn change(&mut self, kind: Kind, name: &str, change: impl FnOnce(&mut Value)) -> Answer {
        let mut object = self.objects.get(&(kind.clone(), name.to_owned())).cloned().expect("an object");
        change(&mut object);
        let watched = self.put(kind, name, object);
        (Ok(Receipt::Object(Box::new(watched))), Vec::new())
    }

    pub fn remove(&mut self, kind: Kind, name: &str) -> Option<Event> {
        let mut object = self.objects.remove(&(kind.clone(), name.to_owned()))?;
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        Some(Event::Watched(Watched { kind, change: Change::Deleted(object) }))
    }

    /// Pods and attachments go.
    pub fn pods_end(&mut self) -> Vec<Event> {
        let users = [Kind::Pod, Kind::Attachment];
        let names: Vec<(Kind, String)> =
            self.objects.keys().filter(|(kind, _)| users.contains(kind)).cloned().collect();
        names.into_iter().filter_map(|(kind, name)| self.remove(kind, &name)).collect()
    }
}

/// As the API server does it (RFC 7386).
fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *object = patch.clone();
        return;
    };
    for (field, value) in fields {
        match (value, object.as_object_mut()) {
            (Value::Null, Some(present)) => drop(present.remove(field)),
            _ => merge(&mut object[field], value),
        }
    }
}
