//! One operation is one trace: the operation is its root, each step a span, and an agent's work hangs below its step.

use std::collections::BTreeMap;

use hub_core::decision::Send;
use hub_core::journal::{Entry, Intent, StepRecord};
use proto::{FromHub, OperationId, PlacementId, StepKind};
use tracing::Span;
use understudy_telemetry::current_traceparent;

/// The spans of the operations that run. After a restart of the hub an operation goes on without a trace: its journal is
/// what tells the whole story.
#[derive(Default)]
pub struct Traces {
    running: BTreeMap<(PlacementId, OperationId), Running>,
}

struct Running {
    root: Span,
    steps: BTreeMap<StepKind, Span>,
}

impl Traces {
    /// Opens and closes spans as the journal goes on.
    pub fn recorded(&mut self, entries: &[Entry]) {
        for entry in entries {
            match entry {
                Entry::Intent(intent) => {
                    let key = (intent.placement.clone(), intent.operation.clone());
                    self.running.insert(key, Running { root: root(intent), steps: BTreeMap::new() });
                }
                Entry::Step { placement, operation, step, state } => {
                    self.step(placement, operation, *step, *state);
                }
                Entry::Commit { placement, operation } => self.ended(placement, operation, "Succeeded", None),
                Entry::Cut { placement, operation, reason } => {
                    self.ended(placement, operation, "Failed", Some(reason));
                }
                Entry::Abort { placement, operation, reason } => {
                    self.ended(placement, operation, "Aborted", Some(reason));
                }
                Entry::Genesis { .. }
                | Entry::Term { .. }
                | Entry::Ownership { .. }
                | Entry::Policy { .. }
                | Entry::Echo { .. }
                | Entry::Fence { .. }
                | Entry::Block { .. }
                | Entry::Proposal(_)
                | Entry::Withdrawn { .. }
                | Entry::BackedUp { .. }
                | Entry::Resynced { .. }
                | Entry::WishFulfilled { .. }
                | Entry::Released { .. }
                | Entry::NeedsHuman { .. } => {}
            }
        }
    }

    fn step(&mut self, placement: &PlacementId, operation: &OperationId, step: StepKind, state: StepRecord) {
        let Some(running) = self.running.get_mut(&(placement.clone(), operation.clone())) else { return };
        match state {
            StepRecord::Issued => {
                let span = tracing::info_span!(parent: &running.root, "step", otel.name = step.as_str(), step = %step);
                running.steps.insert(step, span);
            }
            StepRecord::Acknowledged => {
                running.steps.remove(&step);
            }
        }
    }

    fn ended(
        &mut self,
        placement: &PlacementId,
        operation: &OperationId,
        result: &'static str,
        why: Option<&str>,
    ) {
        if let Some(Running { root, steps: _ }) = self.running.remove(&(placement.clone(), operation.clone()))
        {
            root.record("result", result);
            root.record("reason", why);
        }
    }

    /// Hangs the agent's work below the step that commands it.
    pub fn sending(&self, send: &mut Send) {
        let FromHub::Command(command) = &mut send.message else { return };
        let key = (command.id.placement.clone(), command.id.operation.clone());
        let Some(running) = self.running.get(&key) else { return };
        // The best-effort fence goes on after its step is through: then the operation itself is above it.
        let span = running.steps.get(&command.id.step).unwrap_or(&running.root);
        command.trace_parent = span.in_scope(current_traceparent);
    }
}

fn root(intent: &Intent) -> Span {
    tracing::info_span!(
        parent: None,
        "operation",
        otel.name = intent.kind.as_str(),
        placement = %intent.name,
        operation = %intent.operation,
        epoch = intent.epoch.0,
        from = intent.from.as_ref().map(tracing::field::display),
        to = %intent.to,
        approval = intent.approval.as_ref().map(|yes| yes.name.as_str()),
        approver = intent.approval.as_ref().map(|yes| yes.approver.as_str()),
        result = tracing::field::Empty,
        reason = tracing::field::Empty,
    )
}
