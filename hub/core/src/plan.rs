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

const RELEASE: &[StepKind] = &[StepKind::Release];

pub fn steps(kind: OperationKind) -> &'static [StepKind] {
    match kind {
        OperationKind::Deploy => DEPLOY,
        OperationKind::Readopt => READOPT,
        OperationKind::FailOver => FAIL_OVER,
        OperationKind::Release => RELEASE,
    }
}
