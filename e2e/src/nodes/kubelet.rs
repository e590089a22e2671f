//! Stands in for the kubelets: starts the pods that are bound to this site's nodes, reports them, ends them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;

use super::{
    action::{Action, PodName},
    containers::{PodReport, PodRuntime},
    pacing::Pacing,
    plan::PodPlan,
    pod_status,
    settings::Settings,
    view::{View, claim_names},
};

/// What each node's status says it has mounted, as far as this session wrote it.
pub type InUse = BTreeMap<String, BTreeSet<String>>;

/// Ends what must not run any more; this needs no answer from the API server.
pub fn end_unwanted(view: &View, runtime: &mut PodRuntime) -> anyhow::Result<()> {
    let bound = view.own_pods();
    let wish_of = |uid: &str| bound.iter().find(|pod| pod.metadata.uid.as_deref() == Some(uid));
    let known: Vec<_> = runtime.pods().map(|(plan, report)| (plan.clone(), report)).collect();
    for (plan, report) in known {
        match wish_of(&plan.uid) {
            None if report.ended => runtime.forget(&plan.uid)?,
            None => runtime.stop(&plan.uid, Duration::from_secs(plan.grace_seconds)),
            Some(pod) if pod.metadata.deletion_timestamp.is_some() => {
                let grace =
                    pod.metadata.deletion_grace_period_seconds.map_or(plan.grace_seconds, i64::unsigned_abs);
                runtime.stop(&plan.uid, Duration::from_secs(grace));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

pub fn decide(
    view: &View,
    runtime: &PodRuntime,
    in_use: &InUse,
    settings: &Settings,
    pacing: &mut Pacing,
) -> Vec<Action> {
    let pods: Vec<BoundPod> =
        view.own_pods().iter().filter_map(|pod| BoundPod::of(view, runtime, pod)).collect();
    let wanted = wanted_in_use(view.own_nodes(), runtime, &pods);
    let mut actions: Vec<Action> = wanted
        .iter()
        .filter(|(node, mounts)| in_use.get(*node) != Some(mounts))
        .map(|(node, mounts)| Action::MarkInUse { node: node.clone(), mounts: mounts.clone() })
        .collect();
    for bound in &pods {
        actions.extend(bound.next(&wanted, in_use, settings, pacing));
    }
    actions
}

/// A pod as the API server has it, with what this node makes of it.
struct BoundPod {
    pod: Pod,
    name: PodName,
    /// Absent while the pod's claims are not bound.
    plan: Option<PodPlan>,
    report: Option<PodReport>,
    volumes_attached: bool,
}

impl BoundPod {
    fn of(view: &View, runtime: &PodRuntime, pod: &Pod) -> Option<Self> {
        let name = PodName::of(pod)?;
        let node = pod.spec.as_ref()?.node_name.as_deref()?;
        let volumes = view.volumes_of(pod);
        let volumes_attached = volumes.iter().flatten().all(|volume| view.is_attached(volume, node));
        let (plan, report) = match runtime.pod(&name.uid) {
            Some((plan, report)) => (Some(plan.clone()), Some(report)),
            None => (volumes.and_then(|volumes| PodPlan::new(pod, &volumes)), None),
        };
        Some(Self { plan, report, volumes_attached, name, pod: pod.clone() })
    }

    fn next(
        &self,
        wanted: &InUse,
        in_use: &InUse,
        settings: &Settings,
        pacing: &mut Pacing,
    ) -> Option<Action> {
        let deleted = self.pod.metadata.deletion_timestamp.is_some();
        match (&self.report, deleted) {
            (None, true) => Some(Action::RemovePod { pod: self.name.clone() }),
            (Some(report), true) if report.ended => self.remove_once_unmounted(wanted, in_use),
            (Some(_), true) => None,
            (Some(report), false) => {
                let status = pod_status::news(&self.pod, self.plan.as_ref()?, report)?;
                Some(Action::ReportPod { pod: self.name.clone(), status })
            }
            (None, false) => self.start_once_mounted(in_use, settings, pacing),
        }
    }

    /// A pod is gone for the API server only after its node has said that the volumes are not mounted any more.
    fn remove_once_unmounted(&self, wanted: &InUse, in_use: &InUse) -> Option<Action> {
        let node = &self.plan.as_ref()?.node;
        let said = in_use.get(node) == wanted.get(node);
        said.then(|| Action::RemovePod { pod: self.name.clone() })
    }

    fn start_once_mounted(&self, in_use: &InUse, settings: &Settings, pacing: &mut Pacing) -> Option<Action> {
        let plan = self.plan.as_ref()?;
        let marked = in_use.get(&plan.node).is_some_and(|mounts| plan.mounts.is_subset(mounts));
        let ready = self.is_live() && marked && self.volumes_attached;
        if !ready || !pacing.is_due(format!("start {}", plan.uid), settings.start_delay) {
            return None;
        }
        let claims = claim_names(&self.pod).map(str::to_owned).collect();
        Some(Action::Prepare { plan: Box::new(plan.clone()), claims })
    }

    fn is_live(&self) -> bool {
        let phase = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        !matches!(phase, Some("Succeeded" | "Failed")) && self.pod.metadata.deletion_timestamp.is_none()
    }

    /// Mounted, or about to be: said before it is done, so that nothing is detached under a pod that starts.
    fn needs_mounts(&self) -> bool {
        match &self.report {
            Some(report) => !report.ended,
            None => self.is_live(),
        }
    }
}

fn wanted_in_use(nodes: &[String], runtime: &PodRuntime, pods: &[BoundPod]) -> InUse {
    let mut in_use: InUse = nodes.iter().map(|node| (node.clone(), BTreeSet::new())).collect();
    let running = runtime.pods().filter(|(_, report)| !report.ended).map(|(plan, _)| plan);
    let running: Vec<_> = running.collect();
    let bound = pods.iter().filter(|pod| pod.needs_mounts()).filter_map(|pod| pod.plan.as_ref());
    for plan in running.into_iter().chain(bound) {
        in_use.entry(plan.node.clone()).or_default().extend(plan.mounts.iter().cloned());
    }
    in_use
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;
    use crate::nodes::plan::Restart;

    const MOUNT: &str = "kubernetes.io/csi/driver^volume";

    fn plan() -> PodPlan {
        PodPlan {
            namespace: "shop".to_owned(),
            name: "shop-1".to_owned(),
            uid: "uid-1".to_owned(),
            node: "node-east-0".to_owned(),
            grace_seconds: 1,
            restart: Restart::Always,
            first: Vec::new(),
            containers: Vec::new(),
            shares_processes: false,
            images: vec!["volume".to_owned()],
            mounts: BTreeSet::from([MOUNT.to_owned()]),
            epoch: 1,
        }
    }

    fn bound(report: Option<PodReport>, deleted: bool, volumes_attached: bool) -> BoundPod {
        let mut pod = json!({"metadata": {"namespace": "shop", "name": "shop-1", "uid": "uid-1"}});
        if deleted {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let name = PodName::of(&pod).expect("a name");
        BoundPod { pod, name, plan: Some(plan()), report, volumes_attached }
    }

    fn report(ended: bool) -> Option<PodReport> {
        Some(PodReport { started: Timestamp::UNIX_EPOCH, containers: Vec::new(), ended })
    }

    fn in_use<const COUNT: usize>(mounts: [&str; COUNT]) -> InUse {
        InUse::from([("node-east-0".to_owned(), mounts.map(str::to_owned).into())])
    }

    fn next(bound: &BoundPod, wanted: &InUse, said: &InUse) -> Option<Action> {
        bound.next(wanted, said, &Settings::default(), &mut Pacing::new(Instant::now()))
    }

    #[test]
    fn an_ended_pod_is_removed_only_after_its_node_has_said_that_the_volume_is_not_mounted() {
        let ended = bound(report(true), true, true);
        assert!(!ended.needs_mounts());
        assert!(next(&ended, &in_use([]), &in_use([MOUNT])).is_none());
        let removed = next(&ended, &in_use([]), &in_use([]));
        assert!(matches!(removed, Some(Action::RemovePod { .. })), "{removed:?}");
    }

    #[test]
    fn a_deleted_pod_that_still_runs_keeps_its_volume_and_its_object() {
        let running = bound(report(false), true, true);
        assert!(running.needs_mounts());
        assert!(next(&running, &in_use([MOUNT]), &in_use([MOUNT])).is_none());
    }

    #[test]
    fn a_pod_starts_only_with_its_volume_attached_and_said_to_be_in_use() {
        let (wanted, unsaid) = (in_use([MOUNT]), in_use([]));
        assert!(next(&bound(None, false, false), &wanted, &wanted).is_none());
        assert!(next(&bound(None, false, true), &wanted, &unsaid).is_none());
        let started = next(&bound(None, false, true), &wanted, &wanted);
        assert!(matches!(started, Some(Action::Prepare { .. })), "{started:?}");
    }
}
