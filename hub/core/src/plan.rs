//! The recipes: which steps an operation consists of, in order. Who walks them knows no particular step.

use proto::StepKind;

use crate::journal::OperationKind;

/// Adopting an application where it runs: its volumes get their epoch, nothing is stopped.
const DEPLOY: &[StepKind] = &[StepKind::Promote, StepKind::TakeOwnership];

/// Back to a holder that was accused and answered in time: it has been told to stop, so it is started again.
const READOPT: &[StepKind] =
    &[StepKind::Promote, StepKind::TakeOwnership, StepKind::ScaleUp, StepKind::AwaitReady];

/// Protocol §5.
const FAIL_OVER: &[StepKind] = &[
    StepKind::Fence,
    StepKind::Restore,
    StepKind::AwaitFence,
    StepKind::Promote,
    StepKind::TakeOwnership,
    StepKind::ScaleUp,
    StepKind::AwaitReady,
];

/// storage.md, "Planned migration", in its order: 1 ScaleDown, 2 BackUp, 3 Demote, 4 Restore, 5 Promote, 6 ScaleUp and AwaitReady.
/// A failback in steady state is the same with the clusters exchanged.
const PLANNED_MOVE: &[StepKind] = &[
    StepKind::ScaleDown,
    StepKind::BackUp,
    StepKind::Demote,
    StepKind::Restore,
    StepKind::Promote,
    StepKind::TakeOwnership,
    StepKind::ScaleUp,
    StepKind::AwaitReady,
];

/// storage.md, "Failback after a disaster", steps 1 and 2: whatever runs at the returned cluster is stopped, its volumes are
/// secondary and made anew. Steps 3 to 7 are a planned move, which may follow much later (ADR 7).
const RESYNC: &[StepKind] = &[StepKind::Fence, StepKind::Resync, StepKind::AwaitSync, StepKind::Rejoin];

const RELEASE: &[StepKind] = &[StepKind::Release];

pub fn steps(kind: OperationKind) -> &'static [StepKind] {
    match kind {
        OperationKind::Deploy => DEPLOY,
        OperationKind::Readopt => READOPT,
        OperationKind::FailOver => FAIL_OVER,
        OperationKind::Migrate | OperationKind::FailBack => PLANNED_MOVE,
        OperationKind::Resync => RESYNC,
        OperationKind::Release => RELEASE,
    }
}
