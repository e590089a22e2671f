//! Which decision a journal entry is, and why it was made: out of closed lists, because free text is for people.

use std::collections::BTreeMap;

use hub_core::explain::shown_kind;
use hub_core::journal::{Entry, Intent, OperationKind};
use proto::{OperationId, PlacementId};

use super::told::kind_name;

/// What runs or is proposed, by placement: its end is recorded without its kind.
#[derive(Debug, Default)]
pub struct Undecided {
    running: BTreeMap<PlacementId, (OperationId, OperationKind)>,
    proposed: BTreeMap<PlacementId, (OperationId, OperationKind)>,
}

impl Undecided {
    pub fn decision(&mut self, entry: &Entry) -> Option<(&'static str, &'static str)> {
        match entry {
            Entry::Proposal(intent) => {
                self.proposed.insert(intent.placement.clone(), known(intent));
                Some(("Propose", name(intent.kind)))
            }
            Entry::Withdrawn { placement, operation, reason: _ } => {
                ended(&mut self.proposed, placement, operation).map(|kind| ("Withdraw", kind))
            }
            Entry::Intent(intent) => {
                self.proposed.remove(&intent.placement);
                self.running.insert(intent.placement.clone(), known(intent));
                Some(("Begin", name(intent.kind)))
            }
            Entry::Cut { placement, operation, reason: _ } => {
                ended(&mut self.running, placement, operation).map(|kind| ("Cut", kind))
            }
            Entry::Abort { placement, operation, reason: _ } => {
                ended(&mut self.running, placement, operation).map(|kind| ("Abort", kind))
            }
            Entry::Commit { placement, operation } => {
                ended(&mut self.running, placement, operation);
                None
            }
            Entry::Released { placement } => {
                self.running.remove(placement);
                self.proposed.remove(placement);
                None
            }
            Entry::NeedsHuman { .. } => Some(("AskHuman", "NeedsHuman")),
            Entry::Block { .. } => Some(("Block", "CoolingDown")),
            Entry::Genesis { .. }
            | Entry::Term { .. }
            | Entry::Ownership { .. }
            | Entry::Policy { .. }
            | Entry::Echo { .. }
            | Entry::Step { .. }
            | Entry::Fence { .. }
            | Entry::BackedUp { .. }
            | Entry::Resynced { .. }
            | Entry::WishFulfilled { .. } => None,
        }
    }
}

fn known(intent: &Intent) -> (OperationId, OperationKind) {
    (intent.operation.clone(), intent.kind)
}

fn ended(
    of: &mut BTreeMap<PlacementId, (OperationId, OperationKind)>,
    placement: &PlacementId,
    operation: &OperationId,
) -> Option<&'static str> {
    let (id, kind) = of.remove(placement)?;
    (id == *operation).then(|| name(kind))
}

fn name(kind: OperationKind) -> &'static str {
    kind_name(shown_kind(kind))
}
