//! Stands in for the scheduler: binds a waiting pod to a live node once all of its claims are bound.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Taint, Toleration};

use super::{action::Action, registration::Registration, settings::Settings, view::View};

/// Set on a node that just came up, and taken back by the controller manager some time later. The scheduler is in
/// one process with the nodes here, and knows better that they live.
const STARTING: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

pub fn decide(view: &View, settings: &Settings) -> Vec<Action> {
    let mut load = load(view, settings);
    let mut actions = Vec::new();
    for pod in view.pods() {
        let Some(specification) = pod.spec.as_ref().filter(|_| is_waiting(&pod)) else { continue };
        if view.volumes_of(&pod).is_none() {
            continue;
        }
        let fitting = load.iter_mut().filter(|(node, _)| fits(view, node, specification));
        let Some((node, pods)) = fitting.min_by_key(|(_, pods)| **pods) else { continue };
        *pods += 1;
        actions.extend(Action::bind(&pod, node));
    }
    actions
}

/// How many pods each node that takes pods has.
fn load(view: &View, settings: &Settings) -> BTreeMap<String, usize> {
    let roomy = view.own_nodes().iter().filter(|node| !settings.full_nodes.contains(node));
    let mut load: BTreeMap<String, usize> = roomy.map(|node| (node.clone(), 0)).collect();
    for pod in view.pods() {
        let node = pod.spec.as_ref().and_then(|specification| specification.node_name.as_ref());
        if let Some(pods) = node.and_then(|node| load.get_mut(node)) {
            *pods += 1;
        }
    }
    load
}

fn is_waiting(pod: &Pod) -> bool {
    let Some(specification) = &pod.spec else { return false };
    pod.metadata.deletion_timestamp.is_none()
        && specification.node_name.as_deref().is_none_or(str::is_empty)
        && specification.scheduler_name.as_deref().is_none_or(|name| name == "default-scheduler")
        && specification.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
}

fn fits(view: &View, node: &str, specification: &PodSpec) -> bool {
    let labels = Registration::labels(node);
    let mut selector = specification.node_selector.iter().flatten();
    let Some(object) = view.node(node) else { return false };
    selector.all(|(key, value)| labels.get(key) == Some(value))
        && is_wished_for(node, specification)
        && takes(&object, specification)
}

/// Of a pod's affinity only what says by name where it must go: that is how a DaemonSet places its pods.
fn is_wished_for(node: &str, specification: &PodSpec) -> bool {
    let affinity = specification.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|required| {
        required.node_selector_terms.iter().any(|term| {
            let mut names = term.match_fields.iter().flatten().filter(|field| field.key == "metadata.name");
            names.all(|field| field.values.iter().flatten().any(|name| name == node))
        })
    })
}

fn takes(node: &Node, specification: &PodSpec) -> bool {
    let Some(node) = &node.spec else { return true };
    let tolerations = specification.tolerations.as_deref().unwrap_or_default();
    let repels = |taint: &Taint| {
        taint.effect != "PreferNoSchedule"
            && !STARTING.contains(&taint.key.as_str())
            && !tolerations.iter().any(|toleration| tolerates(toleration, taint))
    };
    node.unschedulable != Some(true) && !node.taints.iter().flatten().any(repels)
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let same = |wish: &Option<String>, fact: &str| {
        wish.as_deref().is_none_or(|wish| wish.is_empty() || wish == fact)
    };
    let any_value = toleration.operator.as_deref() == Some("Exists");
    same(&toleration.key, &taint.key)
        && same(&toleration.effect, &taint.effect)
        && (any_value || toleration.value == taint.value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(taint: &str, effect: &str, unschedulable: bool) -> Node {
        let spec = json!({"unschedulable": unschedulable, "taints": [{"key": taint, "effect": effect}]});
        serde_json::from_value(json!({"metadata": {"name": "node-east-0"}, "spec": spec})).expect("a node")
    }

    fn pod(tolerations: serde_json::Value) -> PodSpec {
        serde_json::from_value(json!({"containers": [], "tolerations": tolerations})).expect("a pod's spec")
    }

    #[test]
    fn a_node_that_just_came_up_takes_pods_although_nobody_took_its_taint_back_yet() {
        assert!(takes(&node("node.kubernetes.io/not-ready", "NoSchedule", false), &pod(json!([]))));
    }

    #[test]
    fn a_tainted_node_takes_only_pods_that_tolerate_it() {
        let tainted = node("maintenance", "NoSchedule", false);
        assert!(!takes(&tainted, &pod(json!([]))));
        assert!(!takes(&tainted, &pod(json!([{"key": "other", "operator": "Exists"}]))));
        assert!(takes(&tainted, &pod(json!([{"key": "maintenance", "operator": "Exists"}]))));
        assert!(takes(&tainted, &pod(json!([{"operator": "Exists"}]))));
    }

    #[test]
    fn a_pod_of_a_daemon_set_goes_only_to_the_node_that_it_names() {
        let named = json!([{"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": ["node-east-1"]}
        ]}]);
        let affinity = json!({"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": named}
        }});
        let pod: PodSpec =
            serde_json::from_value(json!({"containers": [], "affinity": affinity})).expect("a pod's spec");
        assert!(is_wished_for("node-east-1", &pod));
        assert!(!is_wished_for("node-east-0", &pod));
    }

    #[test]
    fn a_cordoned_node_takes_no_pods() {
        assert!(!takes(&node("maintenance", "PreferNoSchedule", true), &pod(json!([]))));
        assert!(takes(&node("maintenance", "PreferNoSchedule", false), &pod(json!([]))));
    }
}
