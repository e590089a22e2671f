//! Closing one scope, with every rule or without one of them.

use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model};

use crate::protocol::{COMPLETED, Protocol, Scope, Step};
use crate::rule::Rule;
use crate::state::State;

/// What one search has found.
pub struct Found {
    pub scope: Scope,
    pub states: usize,
    pub took: Duration,
    /// A failover was completed on some path.
    pub completed: bool,
    /// A shortest way to a state that must not be.
    pub violation: Option<Violation>,
}

pub struct Violation {
    pub property: &'static str,
    pub path: Vec<(State, Option<Step>)>,
}

impl Violation {
    pub fn steps(&self) -> usize {
        self.path.len() - 1
    }
}

/// One thread, breadth first: the same search always finds the same, and the shortest.
pub fn search(scope: Scope, without: Option<Rule>) -> Found {
    let began = Instant::now();
    let model = Protocol { scope, without };
    let checker = model.checker().threads(1).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let discoveries = checker.discoveries();
    let violation = discoveries
        .iter()
        .filter(|(property, _)| **property != COMPLETED)
        .map(|(property, path)| Violation { property, path: path.clone().into_vec() })
        .min_by_key(Violation::steps);
    Found {
        scope,
        states: checker.unique_state_count(),
        took: began.elapsed(),
        completed: discoveries.contains_key(COMPLETED),
        violation,
    }
}
