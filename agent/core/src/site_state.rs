//! What this cluster durably is for one placement: the mirror of its DRSiteState object.

use std::collections::BTreeSet;
use std::time::Duration;

use proto::{
    Assignment, Epoch, Moment, OperationId, Outcome, PlacementId, PlacementName, Role, StepKind, WallTime,
};
use serde::{Deserialize, Serialize};

use proto::volume::WorkloadReplicas;

/// So many answers are remembered; an older command cannot come any more, because its epoch is stale by then.
pub const RESULTS_REMEMBERED: usize = 16;

/// So many claims fit into the object that admission reads.
pub const CLAIMS_LIMIT: usize = 100;

#[derive(Clone, Debug, PartialEq)]
pub struct SiteState {
    pub placement: PlacementId,
    pub name: PlacementName,
    pub claims: BTreeSet<String>,
    /// The VolumeGroupReplication of all claims, where they are replicated as one group.
    pub group: Option<String>,
    /// Only grows, and is durable before any action of that epoch.
    pub epoch_seen: Epoch,
    pub role: Role,
    /// What entered `epoch_seen`; none where an assignment did.
    pub operation: Option<OperationId>,
    pub promise: Option<Promise>,
    pub fenced_at: Option<WallTime>,
    /// The epoch of a hand-over: everything that was written here has crossed, and nothing was written since.
    pub handed_over: Option<Epoch>,
    /// The approved operation that makes the outdated copy here anew: only while it is durable may a VolumeReplication
    /// here say `autoResync`.
    pub resync: Option<OperationId>,
    pub results: Vec<CommandResult>,
    /// What the workloads had before this agent stopped them.
    pub replicas: Vec<WorkloadReplicas>,
    /// What the hub last asked of this cluster, without the inventory: an agent that starts while the hub is silent
    /// must know what it protects, by which policy, and whom it may ask for a hold.
    pub assignment: Option<Assignment>,
}

/// A promise to the holder not to promote here, on the clock of the boot that it was given in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    pub boot: String,
    /// Wall time less boot time, in milliseconds: whether this clock has been set since.
    #[serde(default)]
    pub clock_offset: Option<i64>,
    pub until: Moment,
    /// The whole wait: what counts after a restart on another boot, and the most that counts by a clock that was set.
    pub wait: Duration,
}

impl Promise {
    /// Until when it is waited out by a clock that has `moved` against wall time since. Less time than boot time says may
    /// have passed, and never is more than the whole wait left.
    pub fn until_by(&self, now: Moment, moved: Option<Duration>) -> Moment {
        moved.map_or(self.until, |moved| (self.until + moved).min(now + self.wait))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandResult {
    /// Operation and step.
    pub command: String,
    pub outcome: Outcome,
}

/// A SiteState as the API server holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    pub state: SiteState,
    pub resource_version: String,
}

impl SiteState {
    pub fn new(placement: PlacementId, name: PlacementName) -> SiteState {
        SiteState {
            placement,
            name,
            claims: BTreeSet::new(),
            group: None,
            epoch_seen: Epoch(0),
            role: Role::Unknown,
            operation: None,
            promise: None,
            fenced_at: None,
            handed_over: None,
            resync: None,
            results: Vec::new(),
            replicas: Vec::new(),
            assignment: None,
        }
    }

    /// Takes in protected claims, up to the limit; false if some did not fit.
    pub fn protect(&mut self, claims: impl IntoIterator<Item = String>) -> bool {
        for claim in claims {
            if self.claims.contains(&claim) {
                continue;
            }
            if self.claims.len() >= CLAIMS_LIMIT {
                return false;
            }
            self.claims.insert(claim);
        }
        true
    }

    /// Nothing that the holder of this epoch lacks is here.
    pub fn has_handed_over(&self) -> bool {
        self.handed_over == Some(self.epoch_seen)
    }

    /// Whether the operation that has entered this epoch has carried this step out here.
    pub fn has_done(&self, step: StepKind) -> bool {
        self.operation
            .as_ref()
            .is_some_and(|operation| self.result_of(&format!("{operation}/{step}")) == Some(&Outcome::Done))
    }

    pub fn remember_result(&mut self, command: String, outcome: Outcome) {
        self.results.retain(|result| result.command != command);
        self.results.push(CommandResult { command, outcome });
        let surplus = self.results.len().saturating_sub(RESULTS_REMEMBERED);
        self.results.drain(..surplus);
    }

    pub fn result_of(&self, command: &str) -> Option<&Outcome> {
        self.results.iter().find(|result| result.command == command).map(|result| &result.outcome)
    }
}
