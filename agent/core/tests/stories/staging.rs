//! Copies of volumes and claims at the standby.

use agent_core::{Event, Kind};
use proto::{Action, Assignment, FromHub, StepKind};
use serde_json::json;

use crate::cluster::*;

#[test]
fn a_standby_stages_the_volume_before_its_claim_and_reports_it_staged() {
    let inventory = inventory_of(&holding_east());
    let mut west = Cluster::new("west");
    west.add_stopped_workload(&["data", "logs"]);
    west.start("boot-w");
    west.event(Event::HubUp);
    west.hears_assignment(Assignment { inventory: Some(inventory), ..assignment(1, Some("east"), "east") });
    west.pass_seconds(1);
    insta::assert_snapshot!(west.transcript);
}

#[test]
fn a_manifest_is_stripped_of_everything_that_belongs_to_its_cluster() {
    insta::assert_json_snapshot!(inventory_of(&holding_east()));
}

#[test]
fn a_workload_that_stands_at_a_standby_is_stopped_and_remembered() {
    let mut west = Cluster::new("west");
    west.put(deployments(), "web", deployment(3, &["data"]));
    west.start("boot-w");
    west.event(Event::HubUp);
    west.hears_assignment(assignment(1, Some("east"), "east"));
    west.pass_seconds(1);
    assert_eq!(west.scaled_to(), 0);
    assert_eq!(west.sites[&placement()].state.replicas[0].replicas, 3);
}

#[test]
fn another_image_under_the_same_name_is_a_conflict_and_is_left_alone() {
    let inventory = inventory_of(&holding_east());
    let mut west = Cluster::new("west");
    west.add_classes();
    let mut foreign = volume_object("data", &cluster("west"));
    foreign["spec"]["csi"]["volumeHandle"] = json!("another-image");
    west.put(Kind::Volume, "pv-data", foreign);
    west.start("boot-w");
    west.event(Event::HubUp);
    west.hears_assignment(Assignment {
        inventory: Some(inventory.clone()),
        ..assignment(1, Some("east"), "east")
    });
    west.pass_seconds(1);
    assert!(west.transcript.contains("StagingConflict"), "{}", west.transcript);
    west.transcript.clear();
    west.hears_command("shop-failover-2", StepKind::Restore, 2, Action::Restore { inventory });
    assert!(west.transcript.contains("another-image"), "{}", west.transcript);
}

#[test]
fn a_released_volume_is_freed_only_by_a_restore() {
    let inventory = inventory_of(&holding_east());
    let mut west = standby_west();
    let gone = west.remove(Kind::Claim, "data").expect("a claim");
    let mut released = west.objects[&(Kind::Volume, "pv-data".to_owned())].clone();
    released["status"] = json!({"phase": "Released"});
    let watched = west.put(Kind::Volume, "pv-data", released);
    west.event(gone);
    west.event(Event::Watched(watched));
    west.transcript.clear();
    west.pass_seconds(1);
    assert!(!west.transcript.contains("clear"), "{}", west.transcript);
    west.hears_command("shop-failover-2", StepKind::Restore, 2, Action::Restore { inventory });
    assert!(west.transcript.contains("clear the claim reference of PersistentVolume pv-data"));
    assert!(west.transcript.contains("Restore: Done"), "{}", west.transcript);
}

#[test]
fn a_manifest_for_another_namespace_is_refused() {
    let mut inventory = inventory_of(&holding_east());
    inventory.volumes[0].persistent_volume_claim["metadata"]["namespace"] = json!("kube-system");
    let mut west = Cluster::new("west");
    west.add_classes();
    west.start("boot-w");
    west.event(Event::HubUp);
    west.hears(FromHub::Assignment(Box::new(Assignment {
        inventory: Some(inventory),
        ..assignment(1, Some("east"), "east")
    })));
    west.pass_seconds(1);
    assert!(!west.objects.contains_key(&(Kind::Claim, "data".to_owned())));
    assert!(west.transcript.contains("StagingConflict"), "{}", west.transcript);
}
