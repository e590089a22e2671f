//! What csi-addons and the storage driver make of a VolumeReplication.

use agent_core::{Event, Kind, Receipt};
use proto::*;
use serde_json::{Value, json};

use super::Cluster;
use super::kubernetes::Answer;

/// What a storage array does about demotions and resyncs beyond what is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Array {
    /// What is demoted has crossed, and what is resynced replays, at once.
    Mirrors,
    /// Demoted, and the last writes are still on their way (Degraded is still true).
    IsSlowToCross,
    /// It no longer fits the other copy, and does not say so in these words.
    RefusesToSync,
    /// It no longer fits the other copy, and says so.
    IsSplitBrain,
}

impl Cluster {
    pub(super) fn set_replication(
        &mut self,
        name: &str,
        state: &str,
        auto_resync: bool,
        epoch: Epoch,
    ) -> Answer {
        let generation = self.version;
        let result = self.change(Kind::Replication, name, |object| {
            object["spec"]["replicationState"] = json!(state);
            object["spec"]["autoResync"] = json!(auto_resync);
            object["metadata"]["generation"] = json!(generation);
            object["metadata"]["annotations"]["understudy.dev/epoch"] = json!(epoch.to_string());
        });
        let (_, more) = self.replicate(name);
        (result.0, more)
    }

    /// The storage driver does what the VolumeReplication of this name says.
    pub(super) fn replicate(&mut self, name: &str) -> Answer {
        let result = self.change(Kind::Replication, name, |_| {});
        let more = if self.storage_obeys { vec![self.storage_answers(name)] } else { Vec::new() };
        (result.0, more)
    }

    pub fn storage_answers(&mut self, name: &str) -> Event {
        let array = self.array;
        self.storage_says(name, |object| status(object, array))
    }

    /// Of all VolumeReplications, whatever the array was like before.
    pub fn array_becomes(&mut self, array: Array) {
        self.array = array;
        for (name, _) in self.replication_states() {
            let event = self.storage_answers(&name);
            self.event(event);
        }
    }

    /// csi-addons writes a status, at the present generation.
    pub fn storage_says(&mut self, name: &str, status: impl FnOnce(&Value) -> Value) -> Event {
        let (result, _) = self.change(Kind::Replication, name, |object| {
            let mut status = status(object);
            status["observedGeneration"] = object["metadata"]["generation"].clone();
            object["status"] = status;
        });
        match result {
            Ok(Receipt::Object(watched)) => Event::Watched(*watched),
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn status(object: &Value, array: Array) -> Value {
    if object["spec"]["replicationState"] == json!("primary") {
        return json!({"state": "Primary", "conditions": conditions("Promoted", "True", "False", "False")});
    }
    let resyncs = object["spec"]["autoResync"] == json!(true);
    match array {
        Array::Mirrors if resyncs => secondary(conditions("Demoted", "True", "True", "True"), ""),
        Array::Mirrors => secondary(conditions("Demoted", "True", "False", "False"), ""),
        Array::IsSlowToCross => secondary(conditions("Demoted", "True", "True", "False"), ""),
        Array::RefusesToSync => refused("no snapshot details"),
        Array::IsSplitBrain => refused("failed to get last sync info: no snapshot details: split-brain"),
    }
}

fn refused(message: &str) -> Value {
    secondary(conditions("FailedToResync", "False", "True", "False"), message)
}

fn secondary(conditions: Value, message: &str) -> Value {
    json!({"state": "Secondary", "message": message, "conditions": conditions})
}

fn conditions(reason: &str, completed: &str, degraded: &str, resyncing: &str) -> Value {
    json!([
        {"type": "Completed", "status": completed, "reason": reason},
        {"type": "Degraded", "status": degraded},
        {"type": "Resyncing", "status": resyncing},
    ])
}
