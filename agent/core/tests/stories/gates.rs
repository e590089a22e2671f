//! The gates of pods: whose questions are passed on, what is answered to them, and what holds the echo back.

use std::time::Duration;

use agent_core::{AskId, Event, Kind};
use proto::gate::{Question, Statement};
use proto::*;
use serde_json::{Value, json};

use crate::cluster::*;

const POD: &str = "5a3f1c1e-0000-4000-8000-000000000001";

fn gated_policy() -> Policy {
    Policy { fencing: Fencing::Gate, generation: Generation(2), ..policy() }
}

fn pod(gate: Option<&str>) -> Value {
    let mut pod = json!({
        "metadata": {
            "name": "web-1", "namespace": "shop", "uid": POD,
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-x", "controller": true}],
        },
        "spec": {
            "nodeName": "east-1", "shareProcessNamespace": true, "terminationGracePeriodSeconds": 2,
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
            "initContainers": [
                {"name": "understudy-gate-wait"}, {"name": "understudy-gate", "restartPolicy": "Always"},
                {"name": "prepare", "volumeMounts": [{"name": "data"}]},
            ],
        },
        "status": {"phase": "Running"},
    });
    if let Some(placement) = gate {
        pod["metadata"]["annotations"] = json!({"understudy.dev/gate": placement});
    }
    pod
}

fn annotated_deployment() -> Value {
    let mut web = deployment(2, &["data", "logs"]);
    web["spec"]["template"]["metadata"]["annotations"] = json!({"understudy.dev/gate": "shop"});
    web["spec"]["template"]["spec"]["containers"] = json!([{"name": "web"}]);
    web
}

/// East holds, its pod has a gate, and its user relies on it.
fn gated_east() -> Cluster {
    let mut east = holding_east();
    east.sees(Kind::Pod, "web-1", pod(Some("shop")));
    east.sees(deployments(), "web", annotated_deployment());
    east.hears_assignment(Assignment { policy: gated_policy(), ..assignment(1, Some("east"), "west") });
    east.pass_seconds(1);
    east
}

impl Cluster {
    fn sees(&mut self, kind: Kind, name: &str, object: Value) {
        let watched = self.put(kind, name, object);
        self.event(Event::Watched(watched));
    }

    fn is_asked_by(&mut self, pod: &str, number: u8, lives_by: u64) -> GateNonce {
        self.is_asked(pod, number, lives_by, false)
    }

    fn is_asked(&mut self, pod: &str, number: u8, lives_by: u64, in_doubt: bool) -> GateNonce {
        let nonce = GateNonce::of_bytes([number; 16]);
        let placement = PlacementName::parse("shop", "shop").expect("a name");
        let question = Question {
            placement,
            pod: pod.into(),
            nonce: nonce.clone(),
            lives_by: Generation(lives_by),
            in_doubt,
        };
        self.event(Event::GateAsked(question));
        nonce
    }

    fn ailments(&self) -> Vec<&str> {
        let reported = self.reported.iter().flat_map(|report| &report.ailments);
        reported.map(|ailment| ailment.reason.as_str()).collect()
    }
}

#[test]
fn a_renewal_carries_what_the_gates_of_its_pods_ask_by_and_the_tickets_go_back_to_them() {
    let mut east = gated_east();
    let nonce = east.is_asked_by(POD, 1, 0);
    east.is_asked_by("somebody-else", 2, 0);
    east.pass_seconds(3);
    assert_eq!(east.renewed_gates, vec![nonce.clone()]);
    let for_east = Sealed { nonce, body: b"yes".to_vec(), seal: None };
    let for_nobody = Sealed { nonce: GateNonce::of_bytes([9; 16]), ..for_east.clone() };
    east.hears_grant_with(east.nonce, 1, gated_policy(), vec![for_east.clone(), for_nobody]);
    assert_eq!(east.admitted, vec![for_east]);
}

#[test]
fn a_policy_is_echoed_only_when_every_gate_lives_by_it() {
    let mut east = gated_east();
    east.is_asked_by(POD, 1, 1);
    east.hears_grant_of(east.nonce, 1, gated_policy());
    east.transcript.clear();
    east.pass_seconds(3);
    assert!(east.transcript.contains("(echo 1)"), "{}", east.transcript);
    assert!(!east.transcript.contains("(echo 2)"), "{}", east.transcript);
    east.is_asked_by(POD, 2, 2);
    east.transcript.clear();
    east.pass_seconds(3);
    assert!(east.transcript.contains("(echo 2)"), "{}", east.transcript);
}

#[test]
fn a_target_promises_to_each_gate_for_the_longer_time_to_stop() {
    let mut west = standby_west();
    let nonce = GateNonce::of_bytes([1; 16]);
    let stop = Duration::from_secs(60);
    let request = HoldRequest {
        holder: cluster("east"),
        placement: placement(),
        epoch: Epoch(1),
        stop,
        gates: vec![nonce.clone()],
    };
    west.event(Event::HoldAsked { ask: AskId(1), request });
    west.pass(Duration::from_millis(200));
    let [sealed] = west.promised_to_gates.as_slice() else { panic!("{:?}", west.promised_to_gates) };
    let Statement::Promise(promise) = sealed.statement().expect("a statement") else { panic!("{sealed:?}") };
    assert_eq!((promise.target, promise.holder), (cluster("west"), cluster("east")));
    assert_eq!((promise.nonce, promise.epoch, promise.placement), (nonce, Epoch(1), placement()));
    assert_eq!((promise.hold, promise.stop), (timing().hold, stop));
}

#[test]
fn promises_of_the_targets_reach_the_gates() {
    let mut east = gated_east();
    let nonce = east.is_asked_by(POD, 1, 2);
    east.event(Event::HubDown);
    east.pass_seconds(6);
    assert_eq!(east.hold_requests.last().map(|request| request.gates.clone()), Some(vec![nonce.clone()]));
    let (peer, epoch, asked) = east.asked.last().cloned().expect("a question");
    let promise = Sealed { nonce, body: Vec::new(), seal: None };
    let answer = Some(HoldAnswer::Promised { hold: timing().hold, tickets: vec![promise.clone()] });
    east.event(Event::HoldAnswered { peer, placement: placement(), epoch, asked, answer });
    assert_eq!(east.admitted, vec![promise]);
}

#[test]
fn what_has_no_gate_is_named_where_gates_are_relied_upon() {
    let mut east = gated_east();
    east.is_asked_by(POD, 1, 1);
    east.pass_seconds(1);
    assert_eq!(east.ailments(), Vec::<&str>::new());
    for (name, bare) in [
        ("another placement's", pod(Some("mail"))),
        ("none", pod(None)),
        ("one that cannot end the others", {
            let mut pod = pod(Some("shop"));
            pod["spec"]["shareProcessNamespace"] = json!(false);
            pod
        }),
        ("one that comes after the volume is used", {
            let mut pod = pod(Some("shop"));
            let first = pod["spec"]["initContainers"].as_array_mut().expect("a list");
            first.rotate_right(1);
            pod
        }),
    ] {
        east.sees(Kind::Pod, "web-1", bare);
        east.pass_seconds(1);
        assert_eq!(east.ailments(), ["PodNotGated"], "{name}");
    }
    east.sees(Kind::Pod, "web-1", pod(Some("shop")));
    east.sees(deployments(), "web", {
        let mut web = annotated_deployment();
        web["spec"]["template"]["metadata"]["annotations"] = json!({});
        web
    });
    east.pass_seconds(1);
    let named = east.reported.iter().flat_map(|report| &report.ailments).map(|it| it.message.as_str());
    assert!(
        named.clone().any(|message| message.starts_with("Deployment shop/web: ")),
        "{:?}",
        named.collect::<Vec<_>>()
    );
}

/// Its clocks have parted, and it has the time of one call.
#[test]
fn a_gate_in_doubt_need_not_wait_until_the_next_renewal_is_due() {
    let renewed_soon = |pod: &str, in_doubt: bool| {
        let mut east = gated_east();
        east.is_asked_by(POD, 1, 0);
        while east.renewed_gates.is_empty() {
            east.pass(Duration::from_millis(20));
        }
        let nonce = east.is_asked(pod, 2, 0, in_doubt);
        east.pass(Duration::from_millis(120));
        east.renewed_gates == vec![nonce]
    };
    assert!(renewed_soon(POD, true));
    assert!(!renewed_soon(POD, false), "nothing is in doubt");
    assert!(!renewed_soon("somebody-else", true), "it has no gate here");
}

/// It holds no echo back and is not called silent: nothing of it can run.
#[test]
fn a_pod_without_a_node_has_no_gate_to_wait_for() {
    let mut east = gated_east();
    let mut unscheduled = pod(Some("shop"));
    unscheduled["spec"]["nodeName"] = json!("");
    unscheduled["status"]["phase"] = json!("Pending");
    east.sees(Kind::Pod, "web-1", unscheduled);
    east.hears_grant_of(east.nonce, 1, gated_policy());
    east.transcript.clear();
    east.pass(timing().suspect + Duration::from_secs(2));
    assert!(east.transcript.contains("(echo 2)"), "{}", east.transcript);
    assert_eq!(east.ailments(), Vec::<&str>::new());
}

#[test]
fn a_gate_that_has_not_started_is_not_called_silent() {
    let mut east = gated_east();
    let mut starting = pod(Some("shop"));
    starting["metadata"]["uid"] = json!("5a3f1c1e-0000-4000-8000-000000000002");
    starting["status"] = json!({"phase": "Pending", "initContainerStatuses": [
        {"name": "understudy-gate-wait", "state": {"waiting": {"reason": "PodInitializing"}}},
    ]});
    east.sees(Kind::Pod, "web-1", starting.clone());
    east.pass(timing().suspect + Duration::from_secs(2));
    assert_eq!(east.ailments(), Vec::<&str>::new());
    starting["status"]["initContainerStatuses"][0]["state"] = json!({"running": {}});
    east.sees(Kind::Pod, "web-1", starting);
    east.hears_grant_of(east.nonce, 1, gated_policy());
    east.pass(timing().suspect + Duration::from_secs(2));
    assert_eq!(east.ailments(), ["GateSilent"]);
}

#[test]
fn a_gate_that_does_not_ask_is_named() {
    let mut east = gated_east();
    east.is_asked_by(POD, 1, 1);
    east.pass(timing().suspect + Duration::from_secs(2));
    assert_eq!(east.ailments(), ["GateSilent"]);
    east.is_asked_by(POD, 2, 1);
    east.pass_seconds(1);
    assert_eq!(east.ailments(), Vec::<&str>::new());
}
