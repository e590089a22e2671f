//! Commands and their acknowledgements.

use std::time::Duration;

use crate::convert::field::{
    MOST_OBJECTS, Parsed, WireError, checked_list, cluster, cut, list, mirrored, nanos, object_name,
    operation, optional_text, part, placement, present, text,
};
use crate::epoch::{Epoch, Nonce};
use crate::wire::v1;
use crate::{Acknowledgement, Action, Command, CommandId, FenceProof, Outcome};

mirrored!(
    step_kind,
    StepKind,
    [
        Fence,
        Restore,
        AwaitFence,
        Promote,
        TakeOwnership,
        ScaleUp,
        AwaitReady,
        Release,
        ScaleDown,
        BackUp,
        Demote,
        Resync,
        AwaitSync,
        Rejoin
    ]
);
mirrored!(refusal, Refusal, [StaleEpoch, Conflict, Expired, PromiseOutstanding, NotAssigned]);

impl From<CommandId> for v1::CommandId {
    fn from(id: CommandId) -> Self {
        let CommandId { placement, operation, step } = id;
        v1::CommandId {
            placement: placement.to_string(),
            operation: operation.0,
            step: v1::StepKind::from(step).into(),
        }
    }
}

impl TryFrom<v1::CommandId> for CommandId {
    type Error = WireError;
    fn try_from(id: v1::CommandId) -> Parsed<Self> {
        Ok(CommandId {
            placement: placement(&id.placement, "placement")?,
            operation: operation(id.operation, "operation")?,
            step: step_kind(id.step, "step")?,
        })
    }
}

impl From<FenceProof> for v1::FenceProof {
    fn from(proof: FenceProof) -> Self {
        use v1::fence_proof::{Acknowledged, Asserted, Kind, LeaseExpired, NeverHeld, StorageFenced};
        let kind = match proof {
            FenceProof::NeverHeld => Kind::NeverHeld(NeverHeld {}),
            FenceProof::Acknowledged => Kind::Acknowledged(Acknowledged {}),
            FenceProof::LeaseExpired => Kind::LeaseExpired(LeaseExpired {}),
            FenceProof::Storage => Kind::Storage(StorageFenced {}),
            FenceProof::Asserted { approver } => Kind::Asserted(Asserted { approver: cut(&approver) }),
        };
        v1::FenceProof { kind: Some(kind) }
    }
}

impl TryFrom<v1::FenceProof> for FenceProof {
    type Error = WireError;
    fn try_from(proof: v1::FenceProof) -> Parsed<Self> {
        use v1::fence_proof::{Acknowledged, Kind, LeaseExpired, NeverHeld, StorageFenced};
        Ok(match present(proof.kind, "kind")? {
            Kind::NeverHeld(NeverHeld {}) => FenceProof::NeverHeld,
            Kind::Acknowledged(Acknowledged {}) => FenceProof::Acknowledged,
            Kind::LeaseExpired(LeaseExpired {}) => FenceProof::LeaseExpired,
            Kind::Storage(StorageFenced {}) => FenceProof::Storage,
            Kind::Asserted(asserted) => {
                FenceProof::Asserted { approver: text(asserted.approver, "approver")? }
            }
        })
    }
}

impl From<Action> for v1::command::Action {
    fn from(action: Action) -> Self {
        match action {
            Action::Fence => v1::command::Action::Fence(v1::FenceAction {}),
            Action::ScaleDown => v1::command::Action::ScaleDown(v1::ScaleDownAction {}),
            Action::Demote => v1::command::Action::Demote(v1::DemoteAction {}),
            Action::Resync { claims } => v1::command::Action::Resync(v1::ResyncAction { claims }),
            Action::Rejoin => v1::command::Action::Rejoin(v1::RejoinAction {}),
            Action::Restore { inventory } => {
                v1::command::Action::Restore(v1::RestoreAction { inventory: Some(inventory.into()) })
            }
            Action::Promote { proof, claims } => {
                v1::command::Action::Promote(v1::PromoteAction { proof: Some(proof.into()), claims })
            }
            Action::ScaleUp { workloads } => v1::command::Action::ScaleUp(v1::ScaleUpAction {
                workloads: workloads.into_iter().map(Into::into).collect(),
            }),
            Action::Release => v1::command::Action::Release(v1::ReleaseAction {}),
        }
    }
}

impl TryFrom<v1::command::Action> for Action {
    type Error = WireError;
    fn try_from(action: v1::command::Action) -> Parsed<Self> {
        Ok(match action {
            v1::command::Action::Fence(v1::FenceAction {}) => Action::Fence,
            v1::command::Action::ScaleDown(v1::ScaleDownAction {}) => Action::ScaleDown,
            v1::command::Action::Demote(v1::DemoteAction {}) => Action::Demote,
            v1::command::Action::Resync(resync) => {
                Action::Resync { claims: checked_list(resync.claims, MOST_OBJECTS, "claims", object_name)? }
            }
            v1::command::Action::Rejoin(v1::RejoinAction {}) => Action::Rejoin,
            v1::command::Action::Restore(restore) => {
                Action::Restore { inventory: part(restore.inventory, "inventory")? }
            }
            v1::command::Action::Promote(promote) => Action::Promote {
                proof: part(promote.proof, "proof")?,
                claims: checked_list(promote.claims, MOST_OBJECTS, "claims", object_name)?,
            },
            v1::command::Action::ScaleUp(scale_up) => {
                Action::ScaleUp { workloads: list(scale_up.workloads, MOST_OBJECTS, "workloads")? }
            }
            v1::command::Action::Release(v1::ReleaseAction {}) => Action::Release,
        })
    }
}

impl From<Command> for v1::Command {
    fn from(command: Command) -> Self {
        let Command { id, epoch, nonce, lifetime, action, trace_parent } = command;
        v1::Command {
            id: Some(id.into()),
            epoch: epoch.0,
            nonce: nonce.0,
            lifetime_nanos: nanos(lifetime),
            trace_parent,
            action: Some(action.into()),
        }
    }
}

impl TryFrom<v1::Command> for Command {
    type Error = WireError;
    fn try_from(command: v1::Command) -> Parsed<Self> {
        Ok(Command {
            id: part(command.id, "id")?,
            epoch: Epoch(command.epoch),
            nonce: Nonce(command.nonce),
            lifetime: Duration::from_nanos(command.lifetime_nanos),
            action: part(command.action, "action")?,
            trace_parent: optional_text(command.trace_parent, "trace_parent")?,
        })
    }
}

impl From<Outcome> for v1::acknowledgement::Outcome {
    fn from(outcome: Outcome) -> Self {
        use v1::acknowledgement::{Done, Failing, Outcome as Wire, Refused, Working};
        match outcome {
            Outcome::Done => Wire::Done(Done {}),
            Outcome::Working { waiting_for } => Wire::Working(Working { waiting_for: cut(&waiting_for) }),
            Outcome::Refused { refusal, epoch_seen } => {
                let refusal = v1::Refusal::from(refusal).into();
                Wire::Refused(Refused { refusal, epoch_seen: epoch_seen.0 })
            }
            Outcome::Failing { reason, message } => Wire::Failing(Failing { reason, message: cut(&message) }),
        }
    }
}

impl TryFrom<v1::acknowledgement::Outcome> for Outcome {
    type Error = WireError;
    fn try_from(outcome: v1::acknowledgement::Outcome) -> Parsed<Self> {
        use v1::acknowledgement::{Done, Outcome as Wire};
        Ok(match outcome {
            Wire::Done(Done {}) => Outcome::Done,
            Wire::Working(working) => {
                Outcome::Working { waiting_for: text(working.waiting_for, "waiting_for")? }
            }
            Wire::Refused(refused) => Outcome::Refused {
                refusal: refusal(refused.refusal, "refusal")?,
                epoch_seen: Epoch(refused.epoch_seen),
            },
            Wire::Failing(failing) => Outcome::Failing {
                reason: text(failing.reason, "reason")?,
                message: text(failing.message, "message")?,
            },
        })
    }
}

impl From<Acknowledgement> for v1::Acknowledgement {
    fn from(acknowledgement: Acknowledgement) -> Self {
        let Acknowledgement { cluster, command, epoch, outcome } = acknowledgement;
        v1::Acknowledgement {
            cluster: cluster.to_string(),
            command: Some(command.into()),
            epoch: epoch.0,
            outcome: Some(outcome.into()),
        }
    }
}

impl TryFrom<v1::Acknowledgement> for Acknowledgement {
    type Error = WireError;
    fn try_from(acknowledgement: v1::Acknowledgement) -> Parsed<Self> {
        Ok(Acknowledgement {
            cluster: cluster(&acknowledgement.cluster, "cluster")?,
            command: part(acknowledgement.command, "command")?,
            epoch: Epoch(acknowledgement.epoch),
            outcome: part(acknowledgement.outcome, "outcome")?,
        })
    }
}
