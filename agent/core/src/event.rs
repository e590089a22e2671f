//! Everything that can happen to an agent. An event updates what is known; what to do is read from the whole state.

use std::collections::BTreeSet;
use std::time::Duration;

use proto::gate::Question;
use proto::{
    ClusterName, Epoch, FromHub, HoldAnswer, HoldRequest, Mark, Moment, PathKind, PlacementId, WallTime,
};

use crate::lease::{Accounted, Promised};
use crate::paths::PathMemory;
use crate::site_state::Recorded;
use crate::witness::Witnessed;
use crate::world::{Watched, World};

/// Numbers the questions of peers, so that an answer finds its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AskId(pub u64);

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The first event: what this agent remembers.
    Started(MemoryRead),
    /// Time has passed. The wall clock is only compared with the other clock (protocol R7).
    Tick(WallTime),
    HubUp,
    HubDown,
    FromHub(FromHub),
    Watched(Watched),
    /// A peer asks for a promise.
    HoldAsked {
        ask: AskId,
        request: HoldRequest,
    },
    /// A peer has answered our question, which was asked at `asked`; none: no answer came in time.
    HoldAnswered {
        peer: ClusterName,
        placement: PlacementId,
        epoch: Epoch,
        asked: Moment,
        answer: Option<HoldAnswer>,
    },
    /// The gate of a pod here asks for its lease.
    GateAsked(Question),
    Probed {
        cluster: ClusterName,
        path: PathKind,
        reachable: bool,
        mark: Mark,
        began: Moment,
    },
    /// A visit to the witnesses has ended.
    Witnessed(Witnessed),
    /// A write of a DRSiteState has ended.
    SiteWritten {
        placement: PlacementId,
        result: Result<Box<Recorded>, Failed>,
    },
    /// A DRSiteState as it now is, seen by the watch or read after a conflict; none: it does not exist.
    SiteSeen {
        placement: PlacementId,
        recorded: Option<Box<Recorded>>,
    },
    /// The admission policies were tried with a dry run that they must refuse; the error says what came instead.
    PoliciesTried(Result<(), String>),
    /// The memory has been written, or not.
    MemoryWritten {
        success: bool,
    },
    /// An effect has ended.
    Finished {
        placement: PlacementId,
        key: String,
        result: Result<Receipt, Failed>,
    },
}

/// Whom an event is about. Everybody else is looked at with the next tick, if anything can have changed there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Concern {
    All,
    /// Time has passed, or something has come that says for itself whose rest it ends.
    WhoeverIsDue,
    Nobody,
    Placement(PlacementId),
    Namespace(String),
    Namespaces(BTreeSet<String>),
}

impl Concern {
    pub fn includes(&self, id: &PlacementId, namespace: &str) -> bool {
        match self {
            Concern::All => true,
            Concern::Nobody | Concern::WhoeverIsDue => false,
            Concern::Placement(of) => of == id,
            Concern::Namespace(of) => of == namespace,
            Concern::Namespaces(of) => of.contains(namespace),
        }
    }
}

impl Event {
    pub(crate) fn concerns(&self, world: &World) -> Concern {
        match self {
            Event::Started(_) | Event::HubUp | Event::HubDown | Event::PoliciesTried(_) => Concern::All,
            Event::Tick(_) | Event::FromHub(FromHub::Reply(_)) | Event::MemoryWritten { .. } => {
                Concern::WhoeverIsDue
            }
            Event::FromHub(FromHub::Assignment(assignment)) => {
                Concern::Placement(assignment.placement.clone())
            }
            Event::FromHub(FromHub::Unassign(placement)) => Concern::Placement(placement.clone()),
            Event::FromHub(FromHub::Command(command)) => Concern::Placement(command.id.placement.clone()),
            Event::Watched(watched) => world.concern(watched),
            Event::HoldAsked { request, .. } => Concern::Placement(request.placement.clone()),
            // What probes, witnesses and gates say goes into the next heartbeat.
            Event::Probed { .. } | Event::Witnessed(_) | Event::GateAsked(_) => Concern::Nobody,
            Event::HoldAnswered { placement, .. }
            | Event::SiteWritten { placement, .. }
            | Event::SiteSeen { placement, .. }
            | Event::Finished { placement, .. } => Concern::Placement(placement.clone()),
        }
    }
}

/// What the agent finds when it starts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryRead {
    pub boot: String,
    pub wall: WallTime,
    /// The boot that the rest was written in; moments of another boot mean nothing.
    pub remembered_boot: Option<String>,
    /// How far wall time was ahead of boot time then, in milliseconds.
    pub remembered_offset: Option<i64>,
    pub leases: Vec<(PlacementId, Accounted)>,
    pub promises: Vec<(PlacementId, Promised)>,
    pub paths: Vec<PathMemory>,
    pub sites: Vec<Recorded>,
}

/// What an effect that succeeded has shown.
#[derive(Clone, Debug, PartialEq)]
pub enum Receipt {
    Applied,
    /// The object as the API server now holds it.
    Object(Box<Watched>),
    /// Whole lists, read after `began`.
    Lists(Vec<Watched>),
    /// The dry run of a pod-like object was refused: the fence is in force.
    FenceInForce,
    FenceNotInForce,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Someone else has written in between: read again.
    Conflict,
    /// Admission or authorization said no.
    Denied,
    NotFound,
    /// The API server did not answer, or not usefully.
    Unavailable,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub failure: Failure,
    pub message: String,
}

/// Back-off of whatever failed: bounded, so that a repaired cluster is noticed soon.
pub(crate) fn back_off(failures: u32) -> Duration {
    let millis = 50u64.saturating_mul(1 << failures.min(7));
    Duration::from_millis(millis.min(1_000))
}
