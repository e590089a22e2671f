//! What csi-addons does with a VolumeGroupReplication.

use agent_core::{Event, GroupChange, Kind, Receipt};
use proto::Epoch;
use serde_json::{Value, json};

use super::Cluster;
use super::kubernetes::Answer;
use super::storage::status;

pub const GROUP: &str = "shop";
const CONTENT: &str = "vgrcontent-shop";
const MADE: &str = "vr-shop";

impl Cluster {
    pub fn add_group_class(&mut self) {
        let class =
            json!({"metadata": {"name": "rbd-group"}, "spec": {"provisioner": "rbd.csi", "parameters": {}}});
        self.put(Kind::GroupClass, "rbd-group", class);
    }

    pub(super) fn change_group(&mut self, name: &str, change: GroupChange) -> Answer {
        match change {
            GroupChange::Create { class, group_class, selector, content, epoch } => {
                let object = json!({
                    "metadata": {"name": name, "namespace": "shop",
                        "annotations": {"understudy.dev/epoch": epoch.to_string()}},
                    "spec": {"volumeReplicationClassName": class, "volumeGroupReplicationClassName": group_class,
                        "source": {"selector": {"matchLabels": selector}},
                        "volumeGroupReplicationContentName": content,
                        "replicationState": "primary", "autoResync": false},
                });
                self.put(Kind::Group, name, object);
                self.regroup(name, |_| {})
            }
            GroupChange::Promote { epoch } => self.set_group(name, "primary", false, epoch),
            GroupChange::Demote { epoch } => self.set_group(name, "secondary", false, epoch),
            GroupChange::Resync { epoch } => self.set_group(name, "secondary", true, epoch),
            GroupChange::Mark { epoch } => self.regroup(name, |object| {
                object["metadata"]["annotations"]["understudy.dev/epoch"] = json!(epoch.to_string());
            }),
            GroupChange::Unmark => self.regroup(name, |object| {
                object["metadata"]["annotations"] = json!({});
            }),
        }
    }

    fn set_group(&mut self, name: &str, state: &str, auto_resync: bool, epoch: Epoch) -> Answer {
        self.regroup(name, |object| {
            object["spec"]["replicationState"] = json!(state);
            object["spec"]["autoResync"] = json!(auto_resync);
            object["metadata"]["annotations"]["understudy.dev/epoch"] = json!(epoch.to_string());
        })
    }

    fn regroup(&mut self, name: &str, change: impl FnOnce(&mut Value)) -> Answer {
        let generation = self.version;
        let result = self.change(Kind::Group, name, |object| {
            change(object);
            object["metadata"]["generation"] = json!(generation);
        });
        let more = if self.storage_obeys { self.csi_addons_answers() } else { Vec::new() };
        (result.0, more)
    }

    /// Lists the claims, takes their volumes in, and does with all what the group says.
    pub fn csi_addons_answers(&mut self) -> Vec<Event> {
        let mut events = vec![self.csi_addons_lists()];
        events.push(self.storage_takes_in());
        events.extend(self.csi_addons_carries_out());
        events
    }

    /// All that are labelled; what it says of the rest is as old as it was.
    pub fn csi_addons_lists(&mut self) -> Event {
        let claims = self.objects.iter().filter(|((kind, _), object)| {
            *kind == Kind::Claim && object["metadata"]["labels"]["app"] == "shop"
        });
        let listed: Vec<Value> = claims.map(|((_, name), _)| json!({"name": name})).collect();
        self.says(Kind::Group, GROUP, |object| {
            object["status"]["persistentVolumeClaimsRefList"] = json!(listed);
            object["spec"]["volumeGroupReplicationContentName"] = json!(CONTENT);
        })
    }

    /// The storage has the volumes of all claims that are listed.
    pub fn storage_takes_in(&mut self) -> Event {
        let group = &self.objects[&(Kind::Group, GROUP.to_owned())];
        let listed = group["status"]["persistentVolumeClaimsRefList"].as_array().cloned().unwrap_or_default();
        let volumes: Vec<Value> = listed
            .iter()
            .map(|claim| json!({"name": format!("pv-{}", claim["name"].as_str().expect("a name"))}))
            .collect();
        let key = (Kind::GroupContent, CONTENT.to_owned());
        let mut content = self.objects.get(&key).cloned().unwrap_or_else(|| {
            json!({
                "metadata": {"name": CONTENT, "uid": "1"},
                "spec": {
                    "provisioner": "rbd.csi", "volumeGroupReplicationClassName": "rbd-group",
                    "volumeGroupReplicationHandle": "group-shop",
                    "source": {"volumeHandles": ["image-data", "image-logs"]},
                },
            })
        });
        content["spec"]["volumeGroupReplicationRef"] =
            json!({"name": GROUP, "namespace": "shop", "uid": self.name.as_str()});
        content["status"] = json!({"persistentVolumeRefList": volumes});
        Event::Watched(self.put(Kind::GroupContent, CONTENT, content))
    }

    /// Its VolumeReplication says the same, and the storage does it; then the group is told of it.
    pub fn csi_addons_carries_out(&mut self) -> Vec<Event> {
        let spec = self.objects[&(Kind::Group, GROUP.to_owned())]["spec"].clone();
        let mut made = json!({
            "metadata": {"name": MADE, "namespace": "shop", "generation": self.version},
            "spec": {"dataSource": {"kind": "VolumeGroupReplication", "name": GROUP},
                "replicationState": spec["replicationState"], "autoResync": spec["autoResync"]},
        });
        let mut status = status(&made, self.array);
        status["observedGeneration"] = made["metadata"]["generation"].clone();
        made["status"] = status;
        let made = Event::Watched(self.put(Kind::Replication, MADE, made));
        vec![made, self.csi_addons_copies()]
    }

    /// The status of its VolumeReplication, whatever that one is about by now, under the group's own generation.
    pub fn csi_addons_copies(&mut self) -> Event {
        let made = self.objects.get(&(Kind::Replication, MADE.to_owned())).cloned().unwrap_or_default();
        self.says(Kind::Group, GROUP, |object| {
            for field in ["state", "conditions", "lastSyncTime", "message"] {
                object["status"][field] = made["status"][field].clone();
            }
            object["status"]["observedGeneration"] = object["metadata"]["generation"].clone();
        })
    }

    fn says(&mut self, kind: Kind, name: &str, change: impl FnOnce(&mut Value)) -> Event {
        match self.change(kind, name, change).0 {
            Ok(Receipt::Object(watched)) => Event::Watched(*watched),
            other => panic!("{other:?}"),
        }
    }

    pub fn group_state(&self) -> Option<&str> {
        self.objects.get(&(Kind::Group, GROUP.to_owned()))?["spec"]["replicationState"].as_str()
    }
}
