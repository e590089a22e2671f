//! How tests follow an operation: its phase, its steps, and where the application serves in the end.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crds::conditions::ConditionType;
use crds::operation::{DROperation, OperationKind, OperationPhase, StepState, StepStatus};
use crds::placement::DRPlacement;
use kube::ResourceExt;

use super::Federation;
use super::readers::condition_of;
use super::reckoning::serves_at;

/// The steps of storage.md, "Planned migration", as a DROperation names them.
pub const PLANNED_MOVE: [&str; 8] =
    ["ScaleDown", "BackUp", "Demote", "Restore", "Promote", "TakeOwnership", "ScaleUp", "AwaitReady"];

impl Federation {
    /// Waits by watch until an operation of the kind that enters the epoch is in the phase.
    pub async fn await_phase(
        &self,
        kind: OperationKind,
        epoch: i64,
        phase: OperationPhase,
        deadline: Duration,
    ) -> Result<DROperation> {
        let what = format!("{kind:?} to epoch {epoch} is {phase:?}");
        let waited = self.await_operation(&what, deadline, |operation| {
            is(operation, kind, epoch) && phase_of(operation) == Some(phase)
        });
        self.told_of_operations(waited.await).await
    }

    /// Waits by watch until a step of such an operation is in the state.
    pub async fn await_step(
        &self,
        kind: OperationKind,
        epoch: i64,
        name: &str,
        state: StepState,
        deadline: Duration,
    ) -> Result<DROperation> {
        let what = format!("the step {name} of {kind:?} to epoch {epoch} is {state:?}");
        let waited = self.await_operation(&what, deadline, |operation| {
            is(operation, kind, epoch) && step(operation, name).is_some_and(|step| step.state == state)
        });
        self.told_of_operations(waited.await).await
    }

    /// Waits until the application serves at the cluster, with nothing running, and west and east are in step again.
    pub async fn await_at_rest(&self, cluster: &str, epoch: i64, deadline: Duration) -> Result<DRPlacement> {
        let what = format!("at rest at {cluster}, epoch {epoch}, protected and ready to fail over");
        let waited = self.await_placement(&what, deadline, |placement| {
            let status = placement.status.as_ref();
            let holds =
                |kind| condition_of(placement, kind).is_some_and(|condition| condition.status == "True");
            serves_at(placement, cluster)
                && status.is_some_and(|status| status.epoch == Some(epoch) && status.step.is_none())
                && [ConditionType::Protected, ConditionType::FailoverReady].into_iter().all(holds)
        });
        self.told_of_operations(waited.await).await
    }

    /// Waits until the application serves at the cluster again, whatever its protection is.
    pub async fn await_serving(&self, cluster: &str, epoch: i64, deadline: Duration) -> Result<DRPlacement> {
        let what = format!("active and available at {cluster}, epoch {epoch}");
        let waited = self.await_placement(&what, deadline, |placement| {
            let epoch_now = placement.status.as_ref().and_then(|status| status.epoch);
            serves_at(placement, cluster) && epoch_now == Some(epoch)
        });
        self.told_of_operations(waited.await).await
    }

    /// A failed wait tells of all operations as well.
    pub(super) async fn told_of_operations<T>(&self, waited: Result<T>) -> Result<T> {
        let Err(error) = waited else { return waited };
        let operations = self.operations().await.unwrap_or_default();
        let told: Vec<String> = operations.iter().map(story).collect();
        Err(error.context(told.join("\n")))
    }
}

/// A move that went in the document's order, each step ended before the next began.
pub fn ensure_went_in_order(operation: &DROperation, steps: &[&str]) -> Result<()> {
    let plan = operation.status.as_ref().map(|status| status.plan.as_slice()).unwrap_or_default();
    let names: Vec<&str> = plan.iter().map(|step| step.name.as_str()).collect();
    ensure!(names == steps, "{} has the steps {names:?}, not {steps:?}", operation.name_any());
    let ends = |step: &StepStatus| step.started.clone().zip(step.finished.clone());
    for step in plan {
        ensure!(step.state == StepState::Done, "{}", story(operation));
        let (started, finished) = ends(step).with_context(|| format!("{} has no times", step.name))?;
        ensure!(started <= finished, "{} ended before it began:\n{}", step.name, story(operation));
    }
    for (before, after) in plan.iter().zip(plan.iter().skip(1)) {
        let in_order = before.finished <= after.started;
        ensure!(in_order, "{} began before {} ended:\n{}", after.name, before.name, story(operation));
    }
    Ok(())
}

/// How long a step took.
pub fn time_of(operation: &DROperation, name: &str) -> Result<Duration> {
    let found =
        step(operation, name).with_context(|| format!("{} has no step {name}", operation.name_any()))?;
    let times = found.started.as_ref().zip(found.finished.as_ref());
    let (started, finished) = times.with_context(|| format!("the step {name} has not ended"))?;
    Duration::try_from(finished.0.duration_since(started.0)).context("a step that ended before it began")
}

/// One operation on some lines: phase, reason, and how far each step is.
pub fn story(operation: &DROperation) -> String {
    let status = operation.status.clone().unwrap_or_default();
    let mut told = format!(
        "{} {:?} to {}: {:?} {} {}",
        operation.name_any(),
        operation.spec.kind,
        operation.spec.to.as_deref().unwrap_or("nowhere"),
        status.phase,
        status.reason.unwrap_or_default(),
        status.message.unwrap_or_default()
    );
    for step in &status.plan {
        let took = time_of(operation, &step.name).map(|took| format!(", {:.1} s", took.as_secs_f64()));
        let waits = step.waiting_for.as_deref().unwrap_or_default();
        told.push_str(&format!("\n  {} {:?}{} {waits}", step.name, step.state, took.unwrap_or_default()));
    }
    told
}

pub(super) fn is(operation: &DROperation, kind: OperationKind, epoch: i64) -> bool {
    operation.spec.kind == kind && operation.spec.epoch == epoch
}

pub(super) fn phase_of(operation: &DROperation) -> Option<OperationPhase> {
    operation.status.as_ref().and_then(|status| status.phase)
}

fn step<'a>(operation: &'a DROperation, name: &str) -> Option<&'a StepStatus> {
    operation.status.as_ref()?.plan.iter().find(|step| step.name == name)
}
