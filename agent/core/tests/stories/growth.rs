//! Claims that were expanded at their holder.

use agent_core::{Event, Kind};
use proto::*;
use serde_json::json;

use crate::cluster::*;

/// East's, with one claim and its volume at these sizes.
fn inventory_with(volume: &str, claim: &str) -> Shared<Inventory> {
    let mut inventory = inventory_of(&holding_east());
    inventory.version = format!("{volume}-{claim}");
    inventory.volumes[0].persistent_volume["spec"]["capacity"]["storage"] = json!(volume);
    inventory.volumes[0].persistent_volume_claim["spec"]["resources"]["requests"]["storage"] = json!(claim);
    inventory
}

fn told(cluster: &mut Cluster, inventory: Shared<Inventory>) {
    cluster.transcript.clear();
    let inventory = Some(inventory);
    cluster.hears_assignment(Assignment { inventory, ..assignment(1, Some("east"), "east") });
    cluster.pass_seconds(3);
}

/// West is standby, and its class allows expansion.
fn west_that_may_expand() -> Cluster {
    let mut west = standby_west();
    let mut class = west.objects[&(Kind::StorageClass, "rbd".to_owned())].clone();
    class["allowVolumeExpansion"] = json!(true);
    let watched = west.put(Kind::StorageClass, "rbd", class);
    west.event(Event::Watched(watched));
    west
}

fn sizes(cluster: &Cluster) -> (&str, &str) {
    let object = |kind: Kind, name: &str, at: &str| {
        let object = &cluster.objects[&(kind, name.to_owned())];
        object.pointer(at).and_then(|size| size.as_str()).expect("a size")
    };
    let volume = object(Kind::Volume, "pv-data", "/spec/capacity/storage");
    (volume, object(Kind::Claim, "data", "/spec/resources/requests/storage"))
}

fn ailments(cluster: &Cluster) -> Vec<String> {
    let report = cluster.reported.as_ref().expect("a report");
    report.ailments.iter().map(|ailment| format!("{}: {}", ailment.reason, ailment.message)).collect()
}

#[test]
fn a_claim_expanded_at_the_holder_is_expanded_at_the_standby_its_volume_first() {
    let mut west = west_that_may_expand();
    told(&mut west, inventory_with("2Gi", "2Gi"));
    assert_eq!(sizes(&west), ("2Gi", "2Gi"));
    let volume = west.transcript.find("enlarge PersistentVolume pv-data to 2Gi").expect("a larger volume");
    let claim = west.transcript.find("enlarge PersistentVolumeClaim data to 2Gi").expect("a larger claim");
    assert!(volume < claim, "{}", west.transcript);
    let report = west.reported.clone().expect("a report");
    assert_eq!((report.staged.as_deref(), report.ailments), (Some("2Gi-2Gi"), Vec::new()));
    told(&mut west, inventory_with("2Gi", "2Gi"));
    assert!(!west.transcript.contains("enlarge"), "{}", west.transcript);
}

#[test]
fn a_claim_asks_for_no_more_than_its_volume_has() {
    let mut west = west_that_may_expand();
    told(&mut west, inventory_with("1Gi", "2Gi"));
    assert_eq!(sizes(&west), ("1Gi", "1Gi"), "the driver would enlarge a mirrored image");
    told(&mut west, inventory_with("2Gi", "2Gi"));
    assert_eq!(sizes(&west), ("2Gi", "2Gi"));
}

#[test]
fn where_the_class_does_not_allow_it_the_claim_both_sizes_and_the_remedy_are_named() {
    let mut west = standby_west();
    told(&mut west, inventory_with("2Gi", "2Gi"));
    assert_eq!(sizes(&west), ("1Gi", "1Gi"));
    insta::assert_snapshot!(ailments(&west).join("\n"), @"VolumeTooSmall: PersistentVolumeClaim shop/data has 1Gi here and 2Gi at its holder: StorageClass rbd does not allow expansion here; set its allowVolumeExpansion to true");
    assert_eq!(
        west.reported.expect("a report").staged.as_deref(),
        Some("2Gi-2Gi"),
        "a failover does not wait for it"
    );
}

#[test]
fn nothing_is_ever_made_smaller() {
    let mut west = west_that_may_expand();
    told(&mut west, inventory_with("512Mi", "0.5Gi"));
    assert_eq!(sizes(&west), ("1Gi", "1Gi"));
    assert!(ailments(&west).is_empty());
}

#[test]
fn a_failover_enlarges_what_was_expanded_and_does_not_wait_for_it() {
    let mut west = standby_west();
    let inventory = inventory_with("2Gi", "2Gi");
    west.hears_command("shop-failover-2", StepKind::Restore, 2, Action::Restore { inventory });
    west.pass_seconds(1);
    assert!(west.transcript.contains("failover-2/Restore: Done"), "{}", west.transcript);
}
