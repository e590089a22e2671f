//! What is protected: each application has a placement, a namespace and a workload of its own. It is an append-writer:
//! every write gets the next number, and nobody ever takes one back.

use std::collections::BTreeSet;

use crds::DRPlacement;
use hub_core::journal::{Entry, Intent, Line};
use proto::{ClusterName, PlacementId};

use crate::invariants::Judged;
use crate::reference;
use crate::transition::Time;
use crate::wishes::{FailoverModeOf, FencingOf, Pace};

/// The volumes of an application, as they are called in the first one.
pub const CLAIMS: [&str; 2] = ["data", "logs"];

/// An application's place among those of its world.
pub type Number = usize;

/// One application: its names in the clusters, its user's wish, and what has become of it.
pub struct App {
    pub number: Number,
    pub id: PlacementId,
    pub namespace: String,
    pub workload: String,
    pub claims: [String; 2],
    /// Where it ran first.
    pub home: ClusterName,
    /// How its user wishes it to fail over, where that is not as in the stories.
    pub differs: Option<(FailoverModeOf, FencingOf)>,
    pub pace: Pace,
    /// The DRPlacement as the hub's API server has it.
    pub wish: Option<DRPlacement>,
    /// What the hub would do if somebody said yes.
    pub proposed: Option<Box<Intent>>,
    /// What the hub waits for, as told last.
    pub waits: String,
    /// The lines of the hub's journal that are about it.
    pub lines: Vec<Line>,
    /// By them an operation runs.
    pub under_way: bool,
    pub history: History,
    pub judged: Judged,
}

impl App {
    pub fn new(number: Number, home: ClusterName) -> App {
        let named = |name: &str| if number == 0 { name.to_owned() } else { format!("{name}-{number}") };
        let id = named("uid-shop");
        App {
            number,
            id: PlacementId::parse(&id).unwrap_or_else(|error| unreachable!("{error}")),
            namespace: named("shop"),
            workload: named("web"),
            claims: CLAIMS.map(named),
            home,
            differs: None,
            pace: Pace::USUAL,
            wish: None,
            proposed: None,
            waits: String::new(),
            lines: Vec::new(),
            under_way: false,
            history: History::default(),
            judged: Judged::default(),
        }
    }

    /// They have changed.
    pub(crate) fn look_at_lines(&mut self) {
        self.under_way = reference::running(&self.lines).is_some();
    }
}

/// The application that something in a cluster belongs to: all names end with its number, and the first one's with none.
pub fn number_of(name: &str) -> Number {
    name.rsplit_once('-').and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}

pub fn handle_of(claim: &str) -> String {
    format!("image-{claim}")
}

/// The placement that an entry is about; none: it is about the hub.
pub fn placement_of(entry: &Entry) -> Option<&PlacementId> {
    match entry {
        Entry::Genesis { .. } | Entry::Term { .. } => None,
        Entry::Proposal(intent) | Entry::Intent(intent) => Some(&intent.placement),
        Entry::Ownership { placement, .. }
        | Entry::Policy { placement, .. }
        | Entry::Echo { placement, .. }
        | Entry::Withdrawn { placement, .. }
        | Entry::BackedUp { placement, .. }
        | Entry::Resynced { placement, .. }
        | Entry::WishFulfilled { placement }
        | Entry::Step { placement, .. }
        | Entry::Fence { placement, .. }
        | Entry::Commit { placement, .. }
        | Entry::Cut { placement, .. }
        | Entry::Abort { placement, .. }
        | Entry::Block { placement, .. }
        | Entry::Released { placement }
        | Entry::NeedsHuman { placement, .. } => Some(placement),
    }
}

/// One write that the application has been told is safe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub at: Time,
    pub site: ClusterName,
}

/// All writes that were ever acknowledged; a write's number is its place here.
#[derive(Debug, Default)]
pub struct History {
    pub writes: Vec<Written>,
}

impl History {
    pub fn write(&mut self, at: Time, site: &ClusterName) -> u32 {
        self.writes.push(Written { at, site: site.clone() });
        u32::try_from(self.writes.len() - 1).unwrap_or(u32::MAX)
    }

    /// The acknowledged writes that an image lacks, oldest first.
    pub fn missing_in(&self, log: &[u32]) -> Vec<u32> {
        let held: BTreeSet<u32> = log.iter().copied().collect();
        let all = 0..u32::try_from(self.writes.len()).unwrap_or(u32::MAX);
        all.filter(|number| !held.contains(number)).collect()
    }

    pub fn at(&self, number: u32) -> Option<Time> {
        self.writes.get(usize::try_from(number).ok()?).map(|written| written.at)
    }

    pub fn has_gone_on_since(&self, time: Time) -> bool {
        self.writes.last().is_some_and(|written| written.at >= time)
    }
}
