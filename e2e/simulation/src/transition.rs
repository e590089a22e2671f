//! What can happen in the simulated world, and when: one queue, ordered by time and then by who asked first.

use std::collections::BTreeMap;

use agent_core::{Effect, SiteWrite};
use proto::{ClusterName, HoldRequest, Mark, Moment, PathKind, PlacementId};

use crate::application::Number;
use crate::csi_addons::Call;
use crate::faults::Fault;
use crate::storage::Snapshot;

/// Milliseconds of simulated time.
pub type Time = u64;

/// Counts the starts of one process; what an earlier one has left behind is dropped.
pub type Life = u64;

/// How often the cores are told that time has passed. Everything that they do by time alone may be so much late.
#[derive(Clone, Copy, Debug)]
pub struct Ticks {
    /// While a lease is near its end or over, and while something is done.
    pub often: Time,
    /// While something is done that no lease waits for.
    pub working: Time,
    /// While nothing can happen by time alone.
    pub agent_calm: Time,
    pub hub_calm: Time,
    /// So long before its end a lease is near it.
    pub near: Time,
}

impl Ticks {
    pub const USUAL: Ticks = Ticks { often: 50, working: 50, agent_calm: 250, hub_calm: 200, near: 1_500 };
    pub const SELDOM: Ticks = Ticks { often: 50, working: 250, agent_calm: 600, hub_calm: 500, near: 700 };
}

#[derive(Debug)]
pub enum Happening {
    HubStarts,
    HubTicks(Life),
    HubHears {
        life: Life,
        event: Box<hub_core::Event>,
    },

    AgentStarts {
        site: ClusterName,
    },
    AgentTicks {
        site: ClusterName,
        life: Life,
    },
    AgentHears {
        site: ClusterName,
        life: Life,
        event: Box<agent_core::Event>,
    },
    /// The link task of an agent tries to open a stream.
    Dials {
        site: ClusterName,
        life: Life,
    },

    /// The next message of a stream arrives; one of an earlier stream does not.
    ReachesHub {
        site: ClusterName,
        stream: u64,
    },
    ReachesAgent {
        site: ClusterName,
        stream: u64,
    },
    HubMissesStream {
        site: ClusterName,
        stream: u64,
    },
    AgentMissesStream {
        site: ClusterName,
        stream: u64,
    },

    /// A request of an agent reaches its API server.
    EffectLands {
        site: ClusterName,
        life: Life,
        request: Box<Request>,
    },
    SiteStateLands {
        site: ClusterName,
        life: Life,
        write: Box<SiteWrite>,
    },
    MemoryLands {
        site: ClusterName,
        life: Life,
        memory: Box<agent_core::decision::Memory>,
    },
    /// Admission's cache has caught up.
    AdmissionLearns {
        site: ClusterName,
        placement: PlacementId,
    },

    ProbeEnds {
        site: ClusterName,
        life: Life,
        of: ClusterName,
        path: PathKind,
        mark: Mark,
        began: Moment,
    },
    HubAtWitness {
        life: Life,
        visit: Box<hub_core::witness::Visit>,
        began: Moment,
    },
    AgentAtWitness {
        site: ClusterName,
        life: Life,
        visit: Box<agent_core::WitnessVisit>,
        deadline: Time,
    },
    HoldArrives {
        hold: Hold,
    },
    HoldReturns {
        hold: Hold,
        answer: Option<proto::HoldAnswer>,
    },

    ControllersLook {
        site: ClusterName,
    },
    PodTriesToStart {
        site: ClusterName,
        pod: String,
        boot: u64,
    },
    PodEnds {
        site: ClusterName,
        pod: String,
        boot: u64,
    },
    Detaches {
        site: ClusterName,
        volume: String,
        boot: u64,
    },
    NodesCome {
        site: ClusterName,
        boot: u64,
    },
    Writes {
        site: ClusterName,
        pod: String,
        boot: u64,
    },

    Reconciles {
        site: ClusterName,
        claim: String,
        boot: u64,
        turn: u64,
    },
    CallEnds {
        site: ClusterName,
        claim: String,
        boot: u64,
        call: Call,
    },
    SnapshotDue {
        handle: String,
    },
    SnapshotArrives {
        snapshot: Snapshot,
    },

    /// A read of the DRPlacement past every cache comes back.
    WishIsRead {
        life: Life,
        app: Number,
        began: Moment,
    },
    HumanAnswers {
        proposed: Box<hub_core::journal::Intent>,
    },
    /// A message that has arrived before arrives once more, later than others.
    SaidAgainToAgent {
        site: ClusterName,
        message: Box<proto::FromHub>,
    },
    SaidAgainToHub {
        site: ClusterName,
        stream: u64,
        message: Box<proto::FromAgent>,
    },
    Fails(Fault),
}

/// One request of an agent to its API server.
#[derive(Clone, Debug)]
pub struct Request {
    pub placement: PlacementId,
    pub effect: Effect,
    /// When it was made; a refusal by admission is repeated for a while.
    pub first: Time,
    /// The version of the object that was read for it.
    pub read: Option<String>,
}

/// One question between agents.
#[derive(Clone, Debug)]
pub struct Hold {
    pub from: ClusterName,
    pub from_life: Life,
    pub to: ClusterName,
    pub request: HoldRequest,
    pub asked: Moment,
    pub deadline: Time,
}

#[derive(Debug, Default)]
pub struct Queue {
    waiting: BTreeMap<(Time, u64), Happening>,
    asked: u64,
}

impl Queue {
    pub fn push(&mut self, at: Time, happening: Happening) {
        self.asked += 1;
        self.waiting.insert((at, self.asked), happening);
    }

    pub fn pop(&mut self) -> Option<(Time, Happening)> {
        self.waiting.pop_first().map(|((at, _), happening)| (at, happening))
    }

    pub fn next_at(&self) -> Option<Time> {
        self.waiting.first_key_value().map(|((at, _), _)| *at)
    }
}
