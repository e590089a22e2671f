//! Stands in for a kubelet's status reports: a pod's fate in Kubernetes' words.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use serde_json::{Value, json};

use super::{
    containers::{ContainerReport, ContainerState, Exit, PodReport},
    plan::{PodPlan, Restart},
    registration::seconds,
};

const OWN_CONDITIONS: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"];

/// The status to report, or nothing while the API server already has it.
pub fn news(pod: &Pod, plan: &PodPlan, report: &PodReport) -> Option<Value> {
    let known = pod.status.clone().unwrap_or_default();
    let phase = phase(plan, report);
    let ready = phase == "Running" && report.containers.iter().all(ContainerReport::is_running);
    (!is_known(&known, phase, ready, report)).then(|| status(&known, plan, report, phase, ready))
}

fn phase(plan: &PodPlan, report: &PodReport) -> &'static str {
    let codes = report.containers.iter().filter_map(|container| match &container.state {
        ContainerState::Ended(exit) => Some(exit.code),
        ContainerState::Creating | ContainerState::Running { .. } | ContainerState::BackingOff { .. } => None,
    });
    let creating = report.containers.iter().all(|container| container.state == ContainerState::Creating);
    match (report.ended, plan.restart) {
        (true, Restart::OnFailure | Restart::Never) if codes.clone().all(|code| code == 0) => "Succeeded",
        (true, _) => "Failed",
        (false, _) if creating => "Pending",
        (false, _) => "Running",
    }
}

fn is_known(known: &PodStatus, phase: &str, ready: bool, report: &PodReport) -> bool {
    let conditions = known.conditions.as_deref().unwrap_or_default();
    let said_ready =
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let containers = known.container_statuses.as_deref().unwrap_or_default();
    known.phase.as_deref() == Some(phase)
        && conditions.iter().any(|condition| condition.type_ == "Ready")
        && said_ready == ready
        && containers.len() == report.containers.len()
        && report.containers.iter().all(|container| containers.iter().any(|known| container.is_known(known)))
}

fn status(known: &PodStatus, plan: &PodPlan, report: &PodReport, phase: &str, ready: bool) -> Value {
    let now = Timestamp::now();
    let conditions = OWN_CONDITIONS.map(|kind| {
        let holds = ready || !matches!(kind, "Ready" | "ContainersReady");
        let status = if holds { "True" } else { "False" };
        let mut all = known.conditions.iter().flatten();
        let before = all.find(|condition| condition.type_ == kind && condition.status == status);
        let since = before.and_then(|condition| condition.last_transition_time.as_ref()).map_or(now, |time| time.0);
        // A null takes the reason away that somebody else gave, for example the controller manager's NodeNotReady.
        json!({"type": kind, "status": status, "lastTransitionTime": seconds(since), "reason": null, "message": null})
    });
    let containers: Vec<_> = report.containers.iter().map(|container| container.status(&plan.uid)).collect();
    let mut status = json!({
        "phase": phase, "startTime": seconds(report.started), "conditions": conditions, "containerStatuses": containers,
    });
    // An address that was given to the pod by hand, so that it can be reached on this machine, stays.
    if known.pod_ip.is_none() {
        let address = address(&plan.uid);
        status["podIP"] = json!(address);
        status["podIPs"] = json!([{"ip": address}]);
    }
    status
}

/// Nothing listens there: an address as a real pod would have one, the same whenever it is asked for.
fn address(uid: &str) -> String {
    let mix = uid.bytes().fold(0_u32, |mix, byte| mix.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let [_, a, b, c] = mix.to_be_bytes();
    format!("10.{a}.{b}.{}", c.clamp(1, 254))
}

impl ContainerReport {
    fn is_running(&self) -> bool {
        matches!(self.state, ContainerState::Running { .. })
    }

    fn is_known(&self, known: &ContainerStatus) -> bool {
        let state = known.state.clone().unwrap_or_default();
        let same_state = match &self.state {
            ContainerState::Creating | ContainerState::BackingOff { .. } => state.waiting.is_some(),
            ContainerState::Running { since } => state
                .running
                .and_then(|running| running.started_at)
                .is_some_and(|known| known.0.as_second() == since.as_second()),
            ContainerState::Ended(_) => state.terminated.is_some(),
        };
        known.name == self.plan.name && known.restart_count == self.restarts && same_state
    }

    fn status(&self, pod_uid: &str) -> Value {
        let id = format!("standin://{pod_uid}/{}/{}", self.plan.name, self.restarts);
        let last_state = self.last_exit.as_ref().map(Exit::state);
        json!({
            "name": self.plan.name, "image": self.plan.image, "imageID": self.plan.image, "containerID": id,
            "restartCount": self.restarts, "ready": self.is_running(), "started": self.is_running(),
            "state": self.state.state(), "lastState": last_state.unwrap_or_else(|| json!({})),
        })
    }
}

impl ContainerState {
    fn state(&self) -> Value {
        match self {
            Self::Creating => json!({"waiting": {"reason": "ContainerCreating"}}),
            Self::Running { since } => json!({"running": {"startedAt": seconds(*since)}}),
            Self::BackingOff { pause } => {
                json!({"waiting": {"reason": "CrashLoopBackOff", "message": format!("restarting in {pause:?}")}})
            }
            Self::Ended(exit) => exit.state(),
        }
    }
}

impl Exit {
    fn state(&self) -> Value {
        let reason = if self.code == 0 { "Completed" } else { "Error" };
        json!({"terminated": {
            "exitCode": self.code, "reason": reason,
            "startedAt": seconds(self.started), "finishedAt": seconds(self.finished),
        }})
    }
}
