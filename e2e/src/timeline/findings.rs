//! What is worth a line about an object: one finding per aspect, told again only when it reads differently.

use std::time::Duration;

use crds::cluster::{DRCluster, Liveness};
use crds::operation::{DROperation, OperationPhase, StepState, StepStatus};
use crds::placement::DRPlacement;
use crds::site_state::DRSiteState;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use kube::api::DynamicObject;

use super::Weight;

/// One aspect of an object as it is now. An empty text is never told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub about: String,
    pub weight: Weight,
    pub what: String,
}

fn finding(about: impl Into<String>, weight: Weight, what: impl Into<String>) -> Finding {
    Finding { about: about.into(), weight, what: what.into() }
}

pub fn of_placement(placement: &DRPlacement) -> Vec<Finding> {
    let name = placement.name_any();
    let Some(status) = &placement.status else { return Vec::new() };
    let owner = match (&status.active_cluster, status.epoch) {
        (Some(cluster), Some(epoch)) => format!("{name}: owned by {cluster} at epoch {epoch}"),
        _ => String::new(),
    };
    let phase = status.phase.map_or_else(String::new, |phase| format!("{name}: {}", phase.as_str()));
    let mut findings = vec![finding("owner", Weight::Strong, owner), finding("phase", Weight::Plain, phase)];
    // What these two say is in the phase and in the operation.
    let told = status.conditions.iter().filter(|one| !matches!(one.type_.as_str(), "Ready" | "Reconciling"));
    findings.extend(told.map(|condition| {
        let says = format!("{name}: {}={} {}", condition.type_, condition.status, condition.reason);
        finding(condition.type_.clone(), Weight::Quiet, says)
    }));
    findings
}

pub fn of_operation(operation: &DROperation) -> Vec<Finding> {
    let name = operation.name_any();
    let Some(status) = &operation.status else { return Vec::new() };
    let mut findings: Vec<Finding> = status.plan.iter().map(|step| of_step(&name, step)).collect();
    if let Some(phase) = status.phase {
        let (weight, word) = match phase {
            OperationPhase::Proposed => (Weight::Strong, "proposed"),
            OperationPhase::Withdrawn => (Weight::Quiet, "withdrawn"),
            OperationPhase::Running => (Weight::Plain, "running"),
            OperationPhase::Stuck => (Weight::Bad, "STUCK"),
            OperationPhase::Succeeded => (Weight::Good, "succeeded"),
            OperationPhase::Aborted => (Weight::Bad, "aborted"),
            OperationPhase::Failed => (Weight::Bad, "FAILED"),
        };
        let why = status.message.as_ref().filter(|_| weight == Weight::Bad);
        let why = why.map_or_else(String::new, |message| format!(": {message}"));
        findings.push(finding(format!("{name} phase"), weight, format!("{name}: {word}{why}")));
    }
    findings
}

fn of_step(operation: &str, step: &StepStatus) -> Finding {
    let StepStatus { name, state, started, finished, waiting_for, evidence } = step;
    let what = match state {
        StepState::Pending => String::new(),
        StepState::Running => format!("{operation}: {name} …"),
        StepState::Stuck => {
            let why = waiting_for.as_deref().unwrap_or("no reason given");
            format!("{operation}: {name} is stuck: {why}")
        }
        StepState::Done => {
            let took = started.as_ref().zip(finished.as_ref()).map(|(started, finished)| {
                Duration::try_from(finished.0.duration_since(started.0)).unwrap_or_default()
            });
            let took = took.map_or_else(String::new, |took| format!(" in {:.3} s", took.as_secs_f64()));
            let proof = evidence.as_ref().map_or_else(String::new, |evidence| format!(" ({evidence})"));
            format!("{operation}: {name} done{took}{proof}")
        }
    };
    let weight = if *state == StepState::Stuck { Weight::Bad } else { Weight::Plain };
    finding(format!("{operation} {name}"), weight, what)
}

pub fn of_cluster(cluster: &DRCluster) -> Vec<Finding> {
    let name = cluster.name_any();
    let Some(liveness) = cluster.status.as_ref().and_then(|status| status.liveness) else {
        return Vec::new();
    };
    let (weight, word) = match liveness {
        Liveness::Unheard => (Weight::Quiet, "not heard yet"),
        Liveness::Live => (Weight::Plain, "live"),
        Liveness::Suspected => (Weight::Strong, "suspected"),
        Liveness::Lost => (Weight::Strong, "lost"),
    };
    vec![finding(name.clone(), weight, format!("cluster {name}: {word}"))]
}

pub fn of_event(event: &Event) -> Vec<Finding> {
    let weight = if event.type_.as_deref() == Some("Warning") { Weight::Strong } else { Weight::Plain };
    let (reason, note) =
        (event.reason.as_deref().unwrap_or_default(), event.note.as_deref().unwrap_or_default());
    vec![finding(event.name_any(), weight, format!("{reason}: {note}"))]
}

pub fn of_site_state(state: &DRSiteState) -> Vec<Finding> {
    let spec = &state.spec;
    let says = format!("{}: {} at epoch {}", spec.placement, spec.role.as_str(), spec.epoch_seen);
    vec![finding(spec.placement.clone(), Weight::Plain, says)]
}

pub fn of_pod(pod: &Pod) -> Vec<Finding> {
    let name = pod.name_any();
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let is_ready = conditions.is_some_and(|conditions| {
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    });
    let what = match (pod.metadata.deletion_timestamp.is_some(), is_ready) {
        (true, _) => format!("pod {name} ends"),
        (false, true) => format!("pod {name} is ready"),
        (false, false) => String::new(),
    };
    vec![finding(name, Weight::Plain, what)]
}

pub fn of_replication(replication: &DynamicObject) -> Vec<Finding> {
    let name = replication.name_any();
    let text =
        |path: &str| replication.data.pointer(path).and_then(|value| value.as_str()).unwrap_or_default();
    let (wanted, state) = (text("/spec/replicationState"), text("/status/state"));
    let what = match state {
        "" => format!("VolumeReplication {name} is to become {wanted}"),
        state => format!("VolumeReplication {name} is {state}"),
    };
    vec![finding(name, Weight::Quiet, what)]
}

#[cfg(test)]
mod tests {
    use crds::operation::{DROperationSpec, DROperationStatus, OperationKind};
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;

    fn at(milliseconds: i64) -> Option<MicroTime> {
        Timestamp::from_millisecond(milliseconds).ok().map(MicroTime)
    }

    fn operation(state: StepState) -> DROperation {
        let spec = DROperationSpec {
            placement: "shop".to_owned(),
            kind: OperationKind::FailOver,
            from: Some("east".to_owned()),
            to: Some("west".to_owned()),
            epoch: 2,
        };
        let step = StepStatus {
            name: "AwaitFence".to_owned(),
            state,
            started: at(1_000),
            finished: at(5_125),
            waiting_for: Some("east: may still write".to_owned()),
            evidence: Some("LeaseExpired".to_owned()),
        };
        let mut operation = DROperation::new("shop-failover-2", spec);
        operation.status = Some(DROperationStatus { plan: vec![step], ..DROperationStatus::default() });
        operation
    }

    #[test]
    fn a_step_that_is_done_says_how_long_it_took_and_what_proved_it() {
        let told = of_operation(&operation(StepState::Done));
        assert_eq!(told[0].what, "shop-failover-2: AwaitFence done in 4.125 s (LeaseExpired)");
    }

    #[test]
    fn a_step_that_has_not_begun_says_nothing_and_a_stuck_one_says_why() {
        assert_eq!(of_operation(&operation(StepState::Pending))[0].what, "");
        let stuck = of_operation(&operation(StepState::Stuck));
        assert_eq!(stuck[0].weight, Weight::Bad);
        assert!(stuck[0].what.ends_with("east: may still write"), "{}", stuck[0].what);
    }
}
