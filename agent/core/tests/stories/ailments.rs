//! What stands in the way, named for the user.

use std::time::Duration;

use agent_core::world::World;
use agent_core::{Agent, Change, Event, Identity, Kind, MemoryRead, Watched, WorkloadKind};
use proto::{FromAgent, FromHub, Generation, Moment, Policy, Role, Timing};
use serde_json::json;

use crate::cluster::*;

fn run_by(east: &mut Cluster, kind: &str, name: &str) {
    let pod = json!({
        "metadata": {"name": "web-1", "namespace": "shop",
            "ownerReferences": [{"kind": kind, "name": name, "controller": true}]},
        "spec": {"volumes": [{"persistentVolumeClaim": {"claimName": "data"}}], "terminationGracePeriodSeconds": 2},
        "status": {"phase": "Running"},
    });
    let watched = east.put(Kind::Pod, "web-1", pod);
    east.transcript.clear();
    east.event(Event::Watched(watched));
    east.pass_seconds(1);
}

#[test]
fn a_pod_whose_controller_cannot_be_scaled_is_named_because_a_fence_could_not_stop_it() {
    let mut east = holding_east();
    for (kind, name) in [("StrimziPodSet", "kafka"), ("ReplicaSet", "alone-7d9f"), ("Deployment", "other")] {
        run_by(&mut east, kind, name);
        assert!(east.transcript.contains("UnscalableWorkloadUsesVolume"), "{kind}: {}", east.transcript);
        run_by(&mut east, "ReplicaSet", "web-7d9f");
        assert!(east.transcript.contains("report Holder"), "{}", east.transcript);
        assert!(!east.transcript.contains("ails"), "{}", east.transcript);
    }
}

#[test]
fn pods_that_are_refused_are_told_with_the_reason_and_without_the_name_of_each_attempt() {
    let mut east = holding_east();
    for attempt in ["web-7d9f-abcde", "web-7d9f-fghij"] {
        let mut refused = deployment(2, &["data", "logs"]);
        refused["status"] = json!({"conditions": [{
            "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
            "message": format!("pods \"{attempt}\" is forbidden: exceeded quota: small, limited: pods=0"),
        }]});
        let watched = east.put(deployments(), "web", refused);
        east.event(Event::Watched(watched));
        east.pass_seconds(1);
    }
    let told: Vec<_> = east.reported.iter().flat_map(|report| &report.ailments).collect();
    let [told] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(told.reason, "PodsRefused");
    assert_eq!(
        told.message,
        "pods of Deployment shop/web are refused: exceeded quota: small, limited: pods=0"
    );
}

/// What a sidecar of csi-addons writes of itself, in a namespace of its own, and whether the controller has reached it.
fn sidecar(state: &str) -> serde_json::Value {
    json!({
        "metadata": {"name": "array", "namespace": "csi-addons-system"},
        "spec": {"driver": {"name": "rbd.csi"}},
        "status": {"state": state},
    })
}

#[test]
fn a_driver_whose_sidecar_is_lost_is_named_until_it_is_back() {
    let mut west = standby_west();
    for (state, named) in [("Connected", false), ("Failed", true), ("Connected", false)] {
        let seen = west.put(Kind::AddonsNode, "array", sidecar(state));
        west.event(Event::Watched(seen));
        west.pass_seconds(2);
        let told = west.reported.iter().flat_map(|report| &report.ailments);
        let told: Vec<_> = told.map(|ailment| ailment.reason.as_str()).collect();
        assert_eq!(told.contains(&"NoDriverLeader"), named, "{state}: {told:?}");
    }
}

#[test]
fn an_inventory_is_told_only_when_all_that_belongs_to_it_has_been_read() {
    let east = holding_east();
    let identity = Identity { cluster: cluster("east"), version: "test".into() };
    let mut fresh = Agent::new(identity);
    let memory = MemoryRead { boot: "b".into(), ..MemoryRead::default() };
    let mut told = Vec::new();
    let mut step = |event: Event, now: u64| {
        for message in fresh.step(Moment(now), event).send {
            if let FromAgent::Report(report) = message {
                told.push(report.inventory);
            }
        }
        told.clone()
    };
    step(Event::Started(memory), 1);
    step(Event::HubUp, 1);
    step(Event::FromHub(FromHub::Assignment(Box::new(assignment(0, None, "west")))), 1);
    let late = [Kind::StorageClass, Kind::ReplicationClass, cron_jobs()];
    let mut now = 100;
    for kind in [
        Kind::Claim,
        Kind::Volume,
        Kind::Replication,
        Kind::Attachment,
        Kind::Pod,
        deployments(),
        stateful_sets(),
    ] {
        now += 100;
        step(Event::Watched(east.list_of(kind)), now);
    }
    for kind in late {
        now += 100;
        let reports = step(Event::Tick(proto::WallTime(0)), now);
        assert!(reports.iter().all(Option::is_none), "a short inventory would undo the standby's copy");
        step(Event::Watched(east.list_of(kind)), now);
    }
    let reports = step(Event::Tick(proto::WallTime(0)), now + 100);
    let inventory = reports.last().cloned().flatten().expect("an inventory");
    assert_eq!(inventory.classes.len(), 2);
}

fn impossible() -> Policy {
    let timing = Timing { ttl: Duration::from_secs(1), ..timing() };
    Policy { generation: Generation(2), timing, ..policy() }
}

#[test]
fn a_policy_that_breaks_the_inequality_is_never_lived_by() {
    let mut east = holding_east();
    let mut edited = assignment(1, Some("east"), "west");
    edited.policy = impossible();
    east.hears_assignment(edited);
    east.pass_seconds(1);
    assert!(east.transcript.contains("InvalidTiming"), "{}", east.transcript);
    east.transcript.clear();
    for _ in 0..20 {
        east.hears_grant_of(east.nonce, 1, impossible());
        east.pass_seconds(1);
    }
    assert_eq!(east.role(), Some((Role::Holder, 1)), "the old policy is lived by");
    assert!(east.transcript.contains("renew epoch 1 (echo 1)"), "{}", east.transcript);
    assert!(!east.transcript.contains("(echo 2)"), "{}", east.transcript);
    east.transcript.clear();
    east.hears_assignment(assignment(1, Some("east"), "west"));
    east.pass_seconds(1);
    assert!(!east.transcript.contains("ails"), "{}", east.transcript);
}

#[test]
fn a_placement_whose_first_policy_breaks_the_inequality_is_not_taken_into_care() {
    let mut east = Cluster::new("east");
    east.run_application(&["data"]);
    east.start("boot-1");
    east.event(Event::HubUp);
    let mut broken = assignment(0, None, "west");
    broken.policy = impossible();
    east.hears_assignment(broken);
    east.pass_seconds(1);
    assert!(!east.transcript.contains("report"), "{}", east.transcript);
}

#[test]
fn a_custom_kind_that_tells_no_readiness_is_ready_with_what_it_wants() {
    let ready = |api_version: &str, kind: &str, status: serde_json::Value| {
        let kind = WorkloadKind { api_version: api_version.into(), kind: kind.into() };
        let object = json!({
            "metadata": {"name": "ledger", "namespace": "shop"}, "spec": {"replicas": 3}, "status": status,
        });
        let mut world = World::default();
        world.see(Watched { kind: Kind::Workload(kind), change: Change::Applied(object) });
        world.workloads("shop").map(|workload| workload.ready).collect::<Vec<_>>()
    };
    assert_eq!(ready("example.org/v1", "Database", json!({})), [3]);
    assert_eq!(ready("example.org/v1", "Database", json!({"readyReplicas": 1})), [1]);
    assert_eq!(ready("apps/v1", "StatefulSet", json!({})), [0]);
}
