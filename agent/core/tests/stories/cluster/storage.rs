//! What csi-addons and the storage driver make of a VolumeReplication.

use agent_core::{Event, Kind, Receipt};
use proto::*;
use serde_json::json;

use super::Cluster;
use super::kubernetes::Answer;

impl Cluster {
    pub(super) fn set_replication(&mut self, name: &str, state: &str, epoch: Option<Epoch>) -> Answer {
        let generation = self.version;
        let result = self.change(Kind::Replication, name, |object| {
            object["spec"]["replicationState"] = json!(state);
            object["metadata"]["generation"] = json!(generation);
            if let Some(epoch) = epoch {
                object["metadata"]["annotations"]["understudy.dev/epoch"] = json!(epoch.to_string());
            }
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
        let (result, _) = self.change(Kind::Replication, name, |object| {
            let state = match object["spec"]["replicationState"].as_str() {
                Some("primary") => "Primary",
                _ => "Secondary",
            };
            object["status"] = json!({
                "state": state,
                "observedGeneration": object["metadata"]["generation"],
                "conditions": [{"type": "Completed", "status": "True", "reason": "Promoted"}],
            });
        });
        match result {
            Ok(Receipt::Object(watched)) => Event::Watched(*watched),
            other => panic!("{other:?}"),
        }
    }
}
