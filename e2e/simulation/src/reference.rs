//! Who should own the placement: read from the journal by itself, with nothing of the hub's own fold.

use hub_core::journal::{Entry, Intent, Line, OperationKind, StepRecord};
use proto::{ClusterName, Epoch, FenceProof, OperationId, StepKind, WallTime};

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

/// When a step of an operation was begun.
pub fn issued_at(lines: &[Line], wanted: &OperationId, wanted_step: StepKind) -> Option<WallTime> {
    step_at(lines, wanted, wanted_step, StepRecord::Issued)
}

fn step_at(
    lines: &[Line],
    wanted: &OperationId,
    wanted_step: StepKind,
    wanted_state: StepRecord,
) -> Option<WallTime> {
    let found = lines.iter().find(|line| {
        matches!(&line.entry, Entry::Step { operation, step, state, .. }
            if operation == wanted && *step == wanted_step && *state == wanted_state)
    });
    found.map(|line| line.at)
}

pub fn is_promoted(lines: &[Line], wanted: &OperationId) -> bool {
    step_at(lines, wanted, StepKind::Promote, StepRecord::Acknowledged).is_some()
}

/// When a failover away from a cluster last got through.
pub fn promoted_at(lines: &[Line], from: Option<&ClusterName>) -> Option<WallTime> {
    let away = intents(lines)
        .filter(|intent| intent.kind == OperationKind::FailOver && intent.from.as_ref() == from);
    let promoted =
        |intent: &Intent| step_at(lines, &intent.operation, StepKind::Promote, StepRecord::Acknowledged);
    away.filter_map(promoted).max()
}

/// When an operation was begun.
pub fn began(lines: &[Line], wanted: &OperationId) -> Option<WallTime> {
    let begins = |line: &&Line| matches!(&line.entry, Entry::Intent(intent) if intent.operation == *wanted);
    lines.iter().find(begins).map(|line| line.at)
}

/// Why an operation takes the old holder for stopped.
pub fn proof<'a>(lines: &'a [Line], wanted: &OperationId) -> Option<&'a FenceProof> {
    lines.iter().rev().find_map(|line| {
        let Entry::Fence { operation, proof, .. } = &line.entry else { return None };
        (operation == wanted).then_some(proof)
    })
}

/// All of its steps are done.
pub fn is_committed(lines: &[Line], wanted: &OperationId) -> bool {
    let commits = |line: &Line| matches!(&line.entry, Entry::Commit { operation, .. } if operation == wanted);
    lines.iter().any(commits)
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
