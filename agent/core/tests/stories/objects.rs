//! Further objects of an application, copied to where it may run next.

use agent_core::{Event, Kind, ObjectKind};
use proto::*;
use serde_json::{Value, json};

use crate::cluster::*;

fn selector(api_version: &str, kind: &str, names: &[&str]) -> ObjectSelector {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    ObjectSelector { api_version: api_version.into(), kind: kind.into(), names }
}

fn listed() -> Vec<ObjectSelector> {
    vec![
        selector("apps/v1", "Deployment", &[]),
        selector("v1", "Service", &[]),
        selector("v1", "ConfigMap", &[]),
        selector("v1", "Secret", &["shop-tls", "a-token"]),
        selector("autoscaling/v2", "HorizontalPodAutoscaler", &[]),
    ]
}

fn listing(objects: Vec<ObjectSelector>, assignment: Assignment) -> Assignment {
    let protect = Protect { objects, ..assignment.protect.clone() };
    Assignment { protect, ..assignment }
}

fn kind_of(selector: &ObjectSelector) -> Kind {
    Kind::Object(ObjectKind { api_version: selector.api_version.clone(), kind: selector.kind.clone() })
}

fn kind(name: &str) -> Kind {
    kind_of(listed().iter().find(|selector| selector.kind == name).expect("a listed kind"))
}

/// Every listed kind is read whole.
fn read(cluster: &mut Cluster, objects: &[ObjectSelector]) {
    for selector in objects {
        let list = cluster.list_of(kind_of(selector));
        cluster.event(Event::Watched(list));
    }
}

fn object(api_version: &str, kind: &str, name: &str, more: Value) -> Value {
    let mut object = json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": {
            "name": name, "namespace": "shop", "labels": {"app": "shop"}, "uid": format!("uid-{name}"),
            "creationTimestamp": "2026-11-22T00:00:00Z", "generation": 4, "finalizers": ["example.org/keep"],
            "annotations": {
                "owner": "sales", "kubectl.kubernetes.io/last-applied-configuration": "{}",
                "understudy.dev/replicas": "2", "deployment.kubernetes.io/revision": "3",
            },
        },
    });
    for (field, value) in more.as_object().expect("fields") {
        object[field] = value.clone();
    }
    object
}

fn web() -> Value {
    let mut web = deployment(2, &["data", "logs"]);
    for (field, value) in web.as_object().expect("fields").clone() {
        if field == "metadata" {
            web["metadata"] = object("apps/v1", "Deployment", "web", json!({}))["metadata"].clone();
        } else {
            web[field] = value;
        }
    }
    web["apiVersion"] = json!("apps/v1");
    web["kind"] = json!("Deployment");
    web
}

fn service() -> Value {
    object(
        "v1",
        "Service",
        "web",
        json!({"spec": {
            "type": "NodePort", "clusterIP": "10.0.0.7", "clusterIPs": ["10.0.0.7"], "healthCheckNodePort": 31000,
            "selector": {"app": "shop"}, "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}],
        }, "status": {"loadBalancer": {}}}),
    )
}

fn settings(value: &str) -> Value {
    object("v1", "ConfigMap", "settings", json!({"data": {"colour": value}}))
}

/// East holds the placement, with everything that its user has listed.
fn east_with_objects() -> Cluster {
    let mut east = holding_east();
    let controlled = |mut object: Value| {
        object["metadata"]["ownerReferences"] = json!([{"kind": "Widget", "name": "w", "controller": true}]);
        object
    };
    let mut unlabelled = object("v1", "ConfigMap", "elsewhere", json!({"data": {}}));
    unlabelled["metadata"]["labels"] = json!({"app": "bank"});
    let token = json!({"type": "kubernetes.io/service-account-token", "data": {"token": "cw=="}});
    let from_zero = json!({"spec": {"minReplicas": 0, "maxReplicas": 3}});
    for object in [
        web(),
        service(),
        settings("green"),
        controlled(object("v1", "ConfigMap", "generated", json!({"data": {}}))),
        unlabelled,
        object("v1", "Secret", "shop-tls", json!({"type": "kubernetes.io/tls", "data": {"tls.key": "aw=="}})),
        object("v1", "Secret", "labelled-and-not-named", json!({"type": "Opaque"})),
        object("v1", "Secret", "a-token", token),
        object("autoscaling/v2", "HorizontalPodAutoscaler", "web", json!({"spec": {"minReplicas": 2}})),
        object("autoscaling/v2", "HorizontalPodAutoscaler", "from-zero", from_zero),
    ] {
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        east.put(Kind::Object(object_kind(&object)), &name, object);
    }
    east.hears_assignment(listing(listed(), assignment(1, Some("east"), "west")));
    read(&mut east, &listed());
    east.pass_seconds(1);
    east
}

fn told(cluster: &Cluster) -> Shared<Inventory> {
    cluster.reported.as_ref().and_then(|report| report.inventory.clone()).expect("an inventory")
}

/// West is standby with its volumes, and has none of the application's objects.
fn west_hears(inventory: Shared<Inventory>) -> Cluster {
    let mut west = Cluster::new("west");
    west.add_classes();
    west.start("boot-w");
    west.event(Event::HubUp);
    read(&mut west, &listed());
    tell(&mut west, inventory);
    west
}

fn tell(west: &mut Cluster, inventory: Shared<Inventory>) {
    let inventory = Some(inventory);
    let assignment = Assignment { inventory, ..assignment(1, Some("east"), "east") };
    west.hears_assignment(listing(listed(), assignment));
    west.pass_seconds(3);
}

fn at(cluster: &Cluster, of: &str, name: &str) -> Option<Value> {
    cluster.objects.get(&(kind(of), name.to_owned())).cloned()
}

fn staged(cluster: &Cluster) -> Option<String> {
    cluster.reported.as_ref().and_then(|report| report.staged.clone())
}

fn ailments(cluster: &Cluster) -> String {
    let report = cluster.reported.as_ref().expect("a report");
    let lines = report.ailments.iter().map(|it| format!("{}: {}", it.reason, it.message));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn what_is_listed_is_told_clean_and_stopped_and_what_a_controller_or_the_cluster_made_is_not() {
    insta::assert_json_snapshot!(told(&east_with_objects()).objects);
}

#[test]
fn nothing_is_copied_as_long_as_nothing_is_listed() {
    let mut east = east_with_objects();
    east.hears_assignment(assignment(1, Some("east"), "west"));
    east.pass_seconds(1);
    assert_eq!(told(&east).objects, Vec::<Value>::new());
}

#[test]
fn a_standby_creates_what_is_missing_stopped_and_only_then_says_that_all_is_staged() {
    let inventory = told(&east_with_objects());
    let west = west_hears(inventory.clone());
    let web = at(&west, "Deployment", "web").expect("a Deployment");
    assert_eq!(web["spec"]["replicas"], json!(0));
    assert_eq!(web["metadata"]["annotations"]["understudy.dev/staged-from"], json!("east"));
    assert_eq!(west.scaled_to(), 0);
    for (of, name) in [("Service", "web"), ("ConfigMap", "settings"), ("Secret", "shop-tls")] {
        assert!(at(&west, of, name).is_some(), "{of} {name} is missing");
    }
    assert_eq!(staged(&west), Some(inventory.version.clone()));
    let (created, told) = (west.transcript.find("create ConfigMap settings"), west.transcript.find("staged"));
    assert!(created.expect("created") < told.expect("staged"), "{}", west.transcript);
    assert!(!west.transcript.contains("replace"), "{}", west.transcript);
}

#[test]
fn a_copy_follows_the_holders_and_is_written_only_when_that_has_changed() {
    let mut east = east_with_objects();
    let mut west = west_hears(told(&east));
    let watched = east.put(kind("ConfigMap"), "settings", settings("blue"));
    east.event(Event::Watched(watched));
    east.pass_seconds(1);
    west.transcript.clear();
    tell(&mut west, told(&east));
    let copy = at(&west, "ConfigMap", "settings").expect("a copy");
    assert_eq!(copy["data"]["colour"], json!("blue"));
    assert_eq!(west.transcript.matches("replace").count(), 1, "{}", west.transcript);
    assert_eq!(staged(&west), Some(told(&east).version.clone()));
}

#[test]
fn what_somebody_else_made_is_left_as_it_is_and_stands_against_nothing() {
    let mut west = Cluster::new("west");
    west.add_classes();
    west.put(kind("ConfigMap"), "settings", settings("red"));
    west.start("boot-w");
    west.event(Event::HubUp);
    read(&mut west, &listed());
    let inventory = told(&east_with_objects());
    tell(&mut west, inventory.clone());
    assert_eq!(at(&west, "ConfigMap", "settings").expect("it stays")["data"]["colour"], json!("red"));
    assert_eq!((staged(&west), ailments(&west)), (Some(inventory.version.clone()), String::new()));
}

#[test]
fn what_is_gone_at_the_holder_stays_at_the_standby() {
    let mut east = east_with_objects();
    let mut west = west_hears(told(&east));
    let gone = east.remove(kind("ConfigMap"), "settings").expect("it was there");
    east.event(gone);
    east.pass_seconds(1);
    let inventory = told(&east);
    assert!(inventory.objects.iter().all(|object| object["kind"] != "ConfigMap"));
    tell(&mut west, inventory);
    assert!(at(&west, "ConfigMap", "settings").is_some(), "nothing is ever deleted");
}

#[test]
fn a_failover_creates_what_is_missing_before_it_promotes_and_starts_what_it_created() {
    let inventory = told(&east_with_objects());
    let mut without_objects = inventory.clone();
    without_objects.objects.clear();
    let mut west = west_hears(without_objects);
    assert!(at(&west, "Deployment", "web").is_none());
    west.hears_command("shop-failover-2", StepKind::Restore, 2, Action::Restore { inventory });
    west.pass_seconds(1);
    assert!(west.transcript.contains("failover-2/Restore: Done"), "{}", west.transcript);
    west.hears_command(
        "shop-failover-2",
        StepKind::Promote,
        2,
        promote(&["data", "logs"], FenceProof::LeaseExpired),
    );
    west.hears_assignment(listing(listed(), assignment(2, Some("west"), "east")));
    west.pass_seconds(1);
    west.hears_grant(2);
    let workloads = vec![WorkloadScale { workload: workload(), replicas: 2 }];
    west.hears_command("shop-failover-2", StepKind::ScaleUp, 2, Action::ScaleUp { workloads });
    west.pass_seconds(1);
    assert_eq!(west.scaled_to(), 2, "{}", west.transcript);
}

/// Its rights may have been given at the other cluster only; the volumes are what a failover is about.
#[test]
fn a_failover_waits_only_for_a_while_for_copies_that_cannot_be_made() {
    let inventory = told(&east_with_objects());
    let mut west = Cluster::new("west");
    west.add_classes();
    west.start("boot-w");
    west.event(Event::HubUp);
    let all_but_the_last = listed().len() - 1;
    read(&mut west, &listed()[..all_but_the_last]);
    tell(&mut west, inventory.clone());
    assert_eq!(staged(&west), None);
    west.hears_command("shop-failover-2", StepKind::Restore, 2, Action::Restore { inventory });
    west.pass_seconds(5);
    assert!(!west.transcript.contains("failover-2/Restore: Done"), "{}", west.transcript);
    west.pass_seconds(10);
    assert!(west.transcript.contains("failover-2/Restore: Done"), "{}", west.transcript);
    assert_eq!(staged(&west), None, "and yet it is not taken for whole");
    assert!(ailments(&west).contains("ObjectsNotRead"), "{}", ailments(&west));
}

#[test]
fn scaling_at_the_holder_changes_no_copy() {
    let mut east = east_with_objects();
    let before = told(&east).objects.clone();
    let mut scaled = web();
    scaled["spec"]["replicas"] = json!(5);
    scaled["status"]["readyReplicas"] = json!(5);
    let watched = east.put(kind("Deployment"), "web", scaled);
    east.event(Event::Watched(watched));
    east.pass_seconds(1);
    assert_eq!(told(&east).objects, before);
}

#[test]
fn a_kind_that_cannot_be_read_is_named_with_the_remedy_and_no_inventory_is_told_without_it() {
    let mut east = holding_east();
    east.hears_assignment(listing(listed(), assignment(1, Some("east"), "west")));
    east.transcript.clear();
    read(&mut east, &listed()[..4]);
    east.pass_seconds(1);
    assert!(!east.transcript.contains("inventory"), "{}", east.transcript);
    insta::assert_snapshot!(ailments(&east), @"ObjectsNotRead: DRPlacement shop/shop: HorizontalPodAutoscaler of namespace shop cannot be read in this cluster: apply deploy/agent/objects.yaml or, for Secrets, deploy/agent/secrets.yaml there, or take the kind out of spec.protect.objects");
    read(&mut east, &listed());
    east.pass_seconds(1);
    assert_eq!(ailments(&east), "");
}

#[test]
fn what_is_too_much_is_left_out_and_told() {
    let mut east = east_with_objects();
    let large = "x".repeat(600 * 1024);
    for name in ["y-large", "z-large"] {
        let watched = east.put(
            kind("ConfigMap"),
            name,
            object("v1", "ConfigMap", name, json!({"data": {"text": large.clone()}})),
        );
        east.event(Event::Watched(watched));
    }
    east.pass_seconds(1);
    let objects = told(&east).objects.clone();
    assert!(objects.iter().map(|object| object.to_string().len()).sum::<usize>() <= 1024 * 1024);
    assert!(ailments(&east).starts_with("TooManyObjects: DRPlacement shop/shop: "), "{}", ailments(&east));

    let mut east = east_with_objects();
    for number in 0..250 {
        let name = format!("part-{number}");
        let watched =
            east.put(kind("ConfigMap"), &name, object("v1", "ConfigMap", &name, json!({"data": {}})));
        east.event(Event::Watched(watched));
    }
    east.pass_seconds(1);
    assert_eq!(told(&east).objects.len(), 200);
    assert!(ailments(&east).contains("narrow spec.protect.objects"), "{}", ailments(&east));
}

#[test]
fn a_copy_for_another_namespace_or_one_that_runs_is_refused() {
    let sent = told(&east_with_objects());
    for (at_path, value, expected) in [
        ("/metadata/namespace", json!("kube-system"), "kube-system"),
        ("/spec/replicas", json!(3), "is not stopped"),
    ] {
        let mut inventory = sent.clone();
        let web = inventory.objects.iter_mut().find(|object| object["kind"] == "Deployment");
        *web.expect("a Deployment").pointer_mut(at_path).expect("a field") = value;
        let west = west_hears(inventory);
        assert!(at(&west, "Deployment", "web").is_none());
        assert!(ailments(&west).contains(expected), "{}", ailments(&west));
        assert_eq!(staged(&west), None);
    }
}

#[test]
fn what_the_placement_does_not_list_is_not_made_whoever_sends_it() {
    let mut inventory = told(&east_with_objects());
    inventory.objects.push(object("v1", "Pod", "stray", json!({"spec": {}})));
    inventory.objects.push(object("v1", "Secret", "another", json!({"type": "Opaque"})));
    let west = west_hears(inventory.clone());
    assert!(!west.transcript.contains("create Pod"), "{}", west.transcript);
    assert!(at(&west, "Secret", "another").is_none());
    assert_eq!(staged(&west), Some(inventory.version.clone()));
}
