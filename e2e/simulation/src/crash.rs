//! A process dies at one effect: right before it, or right after. The same seed without the crash says how many there are.

use std::collections::BTreeMap;
use std::fmt;

use crate::world::World;

/// The kinds of effect of the two processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Boundary {
    /// The hub's journal.
    Recorded,
    /// A command or an assignment of the hub.
    Sent,
    /// A write of the agent to its API server.
    Landed,
    /// An acknowledgement of the agent.
    Told,
}

impl Boundary {
    pub const ALL: [Boundary; 4] = [Boundary::Recorded, Boundary::Sent, Boundary::Landed, Boundary::Told];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Before,
    After,
}

/// Which process dies, and when: whoever reaches this effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub boundary: Boundary,
    /// Counted from the moment the procedure begins.
    pub index: usize,
    pub side: Side,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Side::Before => "before",
            Side::After => "after",
        };
        write!(f, "{side} {:?} {}", self.boundary, self.index)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Go,
    DieBefore,
    DieAfter,
}

#[derive(Clone, Debug, Default)]
pub struct Crashes {
    /// The procedure under test has begun.
    pub counting: bool,
    pub counts: BTreeMap<Boundary, usize>,
    pub plan: Option<Plan>,
    pub fired: bool,
}

impl Crashes {
    /// Every place where a process can die, with what has been counted.
    pub fn plans(&self) -> Vec<Plan> {
        let mut plans = Vec::new();
        for (boundary, count) in &self.counts {
            for index in 0..*count {
                for side in [Side::Before, Side::After] {
                    plans.push(Plan { boundary: *boundary, index, side });
                }
            }
        }
        plans
    }
}

impl World {
    /// An effect is about to happen: whether its process lives through it.
    pub(crate) fn reached(&mut self, boundary: Boundary) -> Verdict {
        if !self.crashes.counting {
            return Verdict::Go;
        }
        let count = self.crashes.counts.entry(boundary).or_default();
        let index = *count;
        *count += 1;
        let planned = self.crashes.plan.filter(|plan| plan.boundary == boundary && plan.index == index);
        match planned.map(|plan| plan.side) {
            None => Verdict::Go,
            Some(_) if self.crashes.fired => Verdict::Go,
            Some(side) => {
                self.crashes.fired = true;
                match side {
                    Side::Before => Verdict::DieBefore,
                    Side::After => Verdict::DieAfter,
                }
            }
        }
    }
}
