//! When to look at which placement again, without looking at all of them.

use std::collections::{BTreeMap, BTreeSet};

use proto::{Moment, PlacementId};

#[derive(Debug, Default)]
pub struct Agenda {
    due: BTreeSet<(Moment, PlacementId)>,
    due_at: BTreeMap<PlacementId, Moment>,
}

impl Agenda {
    /// Replaces what was set for this placement before.
    pub fn look_again(&mut self, id: &PlacementId, at: Moment) {
        self.drop(id);
        self.due_at.insert(id.clone(), at);
        self.due.insert((at, id.clone()));
    }

    pub fn drop(&mut self, id: &PlacementId) {
        if let Some(at) = self.due_at.remove(id) {
            self.due.remove(&(at, id.clone()));
        }
    }

    pub fn take_due(&mut self, now: Moment) -> Vec<PlacementId> {
        let mut taken = Vec::new();
        while let Some((at, id)) = self.due.first().cloned() {
            if at > now {
                break;
            }
            self.drop(&id);
            taken.push(id);
        }
        taken
    }
}
