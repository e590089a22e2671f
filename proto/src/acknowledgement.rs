//! The answer to a command; one more observation for the hub.

use serde::{Deserialize, Serialize};

use crate::command::CommandId;
use crate::epoch::Epoch;
use crate::names::ClusterName;

/// Why an agent's guard turned a command away. The names are API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Refusal {
    /// Its epoch is older than one this cluster has seen (R4).
    StaleEpoch,
    /// Another operation has entered the same epoch here (R4): two authorities. Page.
    Conflict,
    /// It is older than it may be (R5).
    Expired,
    /// This cluster has promised the holder to wait, and the promise has not run out.
    PromiseOutstanding,
    /// The placement is not assigned to this cluster.
    NotAssigned,
}

impl Refusal {
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::StaleEpoch => "StaleEpoch",
            Refusal::Conflict => "Conflict",
            Refusal::Expired => "Expired",
            Refusal::PromiseOutstanding => "PromiseOutstanding",
            Refusal::NotAssigned => "NotAssigned",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Done,
    /// Accepted and under way; `waiting_for` says what is missing, for the user.
    Working {
        waiting_for: String,
    },
    Refused {
        refusal: Refusal,
        epoch_seen: Epoch,
    },
    /// Tried and not possible now; the agent goes on trying. `reason` is CamelCase, the message ends with what to do.
    Failing {
        reason: String,
        message: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    pub cluster: ClusterName,
    pub command: CommandId,
    pub epoch: Epoch,
    pub outcome: Outcome,
}
