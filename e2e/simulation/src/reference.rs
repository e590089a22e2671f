//! Who should own the placement: read from the journal by itself, with nothing of the hub's own fold.

use hub_core::journal::{Entry, Intent, Line, OperationKind};
use proto::{ClusterName, Epoch, FenceProof, OperationId, StepKind};

/// The last ownership record.
pub fn owner(lines: &[Line]) -> Option<(Epoch, &ClusterName)> {
    lines.iter().rev().find_map(|line| {
        let Entry::Ownership { epoch, holder, .. } = &line.entry else { return None };
        Some((*epoch, holder))
    })
}

pub fn intents(lines: &[Line]) -> impl Iterator<Item = &Intent> {
    lines.iter().filter_map(|line| {
        let Entry::Intent(intent) = &line.entry else { return None };
        Some(&**intent)
    })
}

/// Failovers that have passed the point of no return: what they give up is lost.
pub fn failovers(lines: &[Line]) -> impl Iterator<Item = &Intent> {
    intents(lines)
        .filter(|intent| intent.kind == OperationKind::FailOver && has_promoted(lines, &intent.operation))
}

pub fn has_promoted(lines: &[Line], wanted: &OperationId) -> bool {
    lines.iter().any(|line| {
        matches!(&line.entry, Entry::Step { operation, step: StepKind::Promote, .. } if operation == wanted)
    })
}

/// Why an operation takes the old holder for stopped.
pub fn proof<'a>(lines: &'a [Line], wanted: &OperationId) -> Option<&'a FenceProof> {
    lines.iter().rev().find_map(|line| {
        let Entry::Fence { operation, proof, .. } = &line.entry else { return None };
        (operation == wanted).then_some(proof)
    })
}

pub fn has_ended(lines: &[Line], wanted: &OperationId) -> bool {
    lines.iter().any(|line| {
        let ends = |operation: &OperationId| operation == wanted;
        matches!(&line.entry, Entry::Commit { operation, .. } | Entry::Cut { operation, .. } | Entry::Abort { operation, .. } if ends(operation))
    }) || is_released(lines)
}

/// The operation that has neither been committed nor aborted.
pub fn running(lines: &[Line]) -> Option<&Intent> {
    intents(lines).last().filter(|intent| !has_ended(lines, &intent.operation))
}

/// An operation runs, or has burned an epoch that nobody owns.
pub fn is_unsettled(lines: &[Line]) -> bool {
    let owned = owner(lines).map(|(epoch, _)| epoch);
    let burned = intents(lines).any(|intent| intent.kind.enters_an_epoch() && Some(intent.epoch) > owned);
    running(lines).is_some() || burned
}

pub fn is_released(lines: &[Line]) -> bool {
    lines.iter().any(|line| matches!(line.entry, Entry::Released { .. }))
}

pub fn needs_human(lines: &[Line]) -> Option<&str> {
    lines.iter().find_map(|line| {
        let Entry::NeedsHuman { reason, .. } = &line.entry else { return None };
        Some(reason.as_str())
    })
}
