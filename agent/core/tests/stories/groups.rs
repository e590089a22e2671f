//! All claims of an application are replicated as one group.

use std::time::Duration;

use agent_core::{Event, Kind};
use proto::*;
use serde_json::json;

use crate::cluster::*;

const CLAIMS: [&str; 2] = ["data", "logs"];
const FAILOVER: &str = "shop-failover-2";
const MOVE: &str = "shop-migrate-2";

fn grouped(assignment: Assignment) -> Assignment {
    Assignment { group_class: Some("rbd-group".into()), ..assignment }
}

fn watches(cluster: &mut Cluster, events: impl IntoIterator<Item = Event>) {
    events.into_iter().for_each(|event| cluster.event(event));
}

fn has_answered(cluster: &Cluster, step: StepKind, outcome: &str) -> bool {
    cluster.transcript.contains(&format!("/{step}: {outcome}"))
}

fn ails(cluster: &Cluster, reason: &str) -> Option<String> {
    let report = cluster.reported.as_ref()?;
    report.ailments.iter().find(|it| it.reason == reason).map(|it| it.message.clone())
}

fn unowned_east() -> Cluster {
    let mut east = Cluster::new("east");
    east.run_application(&CLAIMS);
    east.add_group_class();
    east.start("boot-1");
    east.event(Event::HubUp);
    east.hears_assignment(grouped(assignment(0, None, "west")));
    east.pass(Duration::from_millis(500));
    east
}

fn deploys(east: &mut Cluster) {
    east.hears_command("shop-deploy-1", StepKind::Promote, 1, promote(&CLAIMS, FenceProof::NeverHeld));
}

fn holding_east() -> Cluster {
    let mut east = unowned_east();
    deploys(&mut east);
    east.hears_assignment(grouped(assignment(1, Some("east"), "west")));
    east.hears_grant(1);
    assert_eq!(east.role(), Some((Role::Holder, 1)));
    east.pass(Duration::from_millis(500));
    east
}

fn inventory(east: &Cluster) -> Shared<Inventory> {
    east.reported.as_ref().and_then(|report| report.inventory.clone()).expect("an inventory")
}

fn standby_west() -> Cluster {
    let mut west = Cluster::new("west");
    west.add_classes();
    west.add_stopped_workload(&CLAIMS);
    west.start("boot-w");
    west.event(Event::HubUp);
    let inventory = Some(inventory(&holding_east()));
    west.hears_assignment(Assignment { inventory, ..grouped(assignment(1, Some("east"), "east")) });
    west.pass(Duration::from_millis(500));
    assert_eq!(west.role(), Some((Role::Standby, 1)));
    west
}

/// East was lost, and is back as a former holder; west holds epoch 2.
fn returned_east() -> Cluster {
    let mut east = holding_east();
    east.hears_assignment(grouped(assignment(2, Some("west"), "west")));
    east.pass_seconds(3);
    assert_eq!((east.role(), east.group_state()), (Some((Role::Fenced, 2)), Some("secondary")));
    east
}

#[test]
fn an_application_is_adopted_as_one_group() {
    let mut east = unowned_east();
    east.transcript.clear();
    east.storage_obeys = false;
    deploys(&mut east);
    east.say("csi-addons finds the claims");
    let listed = east.csi_addons_lists();
    east.event(listed);
    east.say("the storage has all volumes in the group");
    let taken_in = east.storage_takes_in();
    east.event(taken_in);
    east.pass_seconds(1);
    east.say("and all are primary");
    let done = east.csi_addons_carries_out();
    watches(&mut east, done);
    east.pass_seconds(1);
    insta::assert_snapshot!(east.transcript);
    let report = east.reported.as_ref().expect("a report");
    let primary = |volume: &VolumeState| volume.replication.as_ref().is_some_and(Replication::is_primary);
    assert!(report.volumes.len() == 2 && report.volumes.iter().all(primary), "{report:?}");
    assert!(inventory(&east).classes.iter().any(|class| class["kind"] == "VolumeGroupReplicationClass"));
}

#[test]
fn a_standby_stages_without_a_group_then_promotes_it_as_one() {
    let mut west = standby_west();
    assert_eq!(west.group_state(), None, "{}", west.transcript);
    assert!(west.objects.contains_key(&(Kind::GroupClass, "rbd-group".to_owned())));
    let content = &west.objects[&(Kind::GroupContent, "vgrcontent-shop".to_owned())];
    assert_eq!(content["spec"]["volumeGroupReplicationHandle"], json!("group-shop"));
    assert_eq!(content["spec"].get("volumeGroupReplicationRef"), None, "it is bound by a promotion only");
    west.transcript.clear();
    west.hears_command(FAILOVER, StepKind::Promote, 2, promote(&CLAIMS, FenceProof::LeaseExpired));
    west.pass_seconds(1);
    let group = &west.objects[&(Kind::Group, GROUP.to_owned())];
    assert_eq!(group["spec"]["volumeGroupReplicationContentName"], json!("vgrcontent-shop"));
    insta::assert_snapshot!(west.transcript);
    assert!(has_answered(&west, StepKind::Promote, "Done"), "{}", west.transcript);
    let own = west.replication_states().into_iter().filter(|(name, _)| CLAIMS.contains(&name.as_str()));
    assert_eq!(own.count(), 0, "no claim has a VolumeReplication of its own");
}

#[test]
fn without_the_copy_of_its_content_a_group_is_not_made_a_second_time() {
    let mut west = standby_west();
    let gone = west.remove(Kind::GroupContent, "vgrcontent-shop").expect("it was staged");
    west.hears_assignment(Assignment { inventory: None, ..grouped(assignment(1, Some("east"), "east")) });
    west.event(gone);
    west.hears_command(FAILOVER, StepKind::Promote, 2, promote(&CLAIMS, FenceProof::LeaseExpired));
    west.pass_seconds(2);
    assert_eq!(west.group_state(), None, "{}", west.transcript);
    assert!(west.transcript.contains("GroupNotStaged"), "{}", west.transcript);
}

#[test]
fn another_group_under_the_same_name_is_a_conflict_and_is_left_alone() {
    let mut west = standby_west();
    let key = (Kind::GroupContent, "vgrcontent-shop".to_owned());
    let mut other = west.objects[&key].clone();
    other["spec"]["volumeGroupReplicationHandle"] = json!("group-of-others");
    let other = west.put(Kind::GroupContent, "vgrcontent-shop", other);
    west.event(Event::Watched(other));
    west.pass_seconds(1);
    let told = ails(&west, "StagingConflict").expect("it is told");
    assert!(told.contains("group-of-others, but group-shop is expected"), "{told}");
    assert_eq!(west.objects[&key]["spec"]["volumeGroupReplicationHandle"], json!("group-of-others"));
}

#[test]
fn a_holder_hands_its_group_over_and_is_a_standby_once_another_holds() {
    let mut east = holding_east();
    east.array = Array::IsSlowToCross;
    east.transcript.clear();
    east.hears_command(MOVE, StepKind::ScaleDown, 2, Action::ScaleDown);
    east.pass_seconds(2);
    east.hears_command(MOVE, StepKind::Demote, 2, Action::Demote);
    east.pass_seconds(2);
    assert!(!has_answered(&east, StepKind::Demote, "Done"), "{}", east.transcript);
    east.say("the last data crosses");
    east.array = Array::Mirrors;
    let crossed = east.csi_addons_carries_out();
    watches(&mut east, crossed);
    east.pass_seconds(1);
    east.say("west holds");
    let inventory = Some(inventory(&east));
    east.hears_assignment(Assignment { inventory, ..grouped(assignment(2, Some("west"), "west")) });
    east.pass_seconds(1);
    insta::assert_snapshot!(east.transcript);
    assert_eq!(east.role(), Some((Role::Standby, 2)));
}

#[test]
fn what_csi_addons_copies_into_the_group_before_its_volumereplication_is_done_is_not_believed() {
    let mut east = holding_east();
    east.hears_command(MOVE, StepKind::ScaleDown, 2, Action::ScaleDown);
    east.pass_seconds(2);
    let key = (Kind::Replication, "vr-shop".to_owned());
    let mut old = east.objects[&key].clone();
    old["status"]["state"] = json!("Secondary");
    let crossed = east.put(Kind::Replication, "vr-shop", old);
    east.event(Event::Watched(crossed));
    east.storage_obeys = false;
    east.hears_command(MOVE, StepKind::Demote, 2, Action::Demote);
    let copied = east.csi_addons_copies();
    east.event(copied);
    east.pass_seconds(2);
    assert_eq!(east.group_state(), Some("secondary"));
    assert!(!has_answered(&east, StepKind::Demote, "Done"), "{}", east.transcript);
    let done = east.csi_addons_carries_out();
    watches(&mut east, done);
    east.pass_seconds(1);
    assert!(has_answered(&east, StepKind::Demote, "Done"), "{}", east.transcript);
}

#[test]
fn what_csi_addons_has_against_a_group_is_named() {
    let mut east = holding_east();
    east.hears_command(MOVE, StepKind::ScaleDown, 2, Action::ScaleDown);
    east.pass_seconds(2);
    east.storage_obeys = false;
    east.hears_command(MOVE, StepKind::Demote, 2, Action::Demote);
    let key = (Kind::Group, GROUP.to_owned());
    let mut refused = east.objects[&key].clone();
    refused["status"]["message"] = json!("failed to get volumeGroupReplicationClass rbd-group");
    refused["status"]["observedGeneration"] = refused["metadata"]["generation"].clone();
    let refused = east.put(Kind::Group, GROUP, refused);
    east.event(Event::Watched(refused));
    east.pass_seconds(1);
    assert!(has_answered(&east, StepKind::Demote, "Failing"), "{}", east.transcript);
    let named =
        "VolumeGroupReplication shop/shop cannot be demoted (failed to get volumeGroupReplicationClass";
    assert!(east.transcript.contains(named), "{}", east.transcript);
    let done = east.csi_addons_carries_out();
    watches(&mut east, done);
    east.pass_seconds(1);
    assert!(has_answered(&east, StepKind::Demote, "Done"), "{}", east.transcript);
}

#[test]
fn a_holder_that_silence_has_stopped_promotes_its_group_again_when_it_is_granted_the_same_epoch() {
    let mut east = holding_east();
    east.event(Event::HubDown);
    east.pass_seconds(20);
    assert_eq!((east.role(), east.group_state()), (Some((Role::Fenced, 1)), Some("secondary")));
    assert_eq!(east.scaled_to(), 0);
    east.event(Event::HubUp);
    east.pass_seconds(1);
    east.hears_grant(1);
    east.pass_seconds(2);
    assert_eq!((east.role(), east.group_state()), (Some((Role::Holder, 1)), Some("primary")));
    assert_eq!(east.scaled_to(), 2);
}

#[test]
fn a_copy_of_the_group_that_is_older_than_a_claim_does_not_count_for_it() {
    let mut east = holding_east();
    let mut claim = claim_object("mail", &cluster("east"));
    claim["metadata"]["creationTimestamp"] = json!("2026-11-22T10:00:00Z");
    let volume = east.put(Kind::Volume, "pv-mail", volume_object("mail", &cluster("east")));
    let claim = east.put(Kind::Claim, "mail", claim);
    watches(&mut east, [volume, claim].map(Event::Watched));
    let answers = east.csi_addons_answers();
    watches(&mut east, answers);
    let synced = |east: &mut Cluster, at: &str| -> Vec<(String, bool)> {
        let mut made = east.objects[&(Kind::Replication, "vr-shop".to_owned())].clone();
        made["status"]["lastSyncTime"] = json!(at);
        let made = east.put(Kind::Replication, "vr-shop", made);
        east.event(Event::Watched(made));
        east.pass_seconds(1);
        let told = east.reported.clone().expect("a report").volumes.into_iter();
        told.map(|volume| (volume.claim, volume.replication.is_some_and(|it| it.last_sync.is_some())))
            .collect()
    };
    let expected =
        |mail| [("data", true), ("logs", true), ("mail", mail)].map(|(claim, it)| (claim.to_owned(), it));
    let mut before = synced(&mut east, "2026-11-22T09:59:00Z");
    before.sort();
    assert_eq!(before, expected(false));
    let mut after = synced(&mut east, "2026-11-22T10:01:00Z");
    after.sort();
    assert_eq!(after, expected(true));
}

#[test]
fn a_claim_whose_volume_the_group_lacks_is_neither_primary_nor_in_sync() {
    let mut west = standby_west();
    west.storage_obeys = false;
    west.hears_command(FAILOVER, StepKind::Promote, 2, promote(&CLAIMS, FenceProof::LeaseExpired));
    let events = west.csi_addons_answers();
    let content = (Kind::GroupContent, "vgrcontent-shop".to_owned());
    let mut partial = west.objects[&content].clone();
    partial["status"]["persistentVolumeRefList"] = json!([{"name": "pv-data"}]);
    watches(
        &mut west,
        events
            .into_iter()
            .filter(|event| !matches!(event, Event::Watched(watched) if watched.kind == Kind::GroupContent)),
    );
    let partial = west.put(Kind::GroupContent, "vgrcontent-shop", partial);
    west.event(Event::Watched(partial));
    west.pass_seconds(3);
    assert!(!has_answered(&west, StepKind::Promote, "Done"), "{}", west.transcript);
    assert!(west.transcript.contains("VolumeGroupReplication shop to replicate claim logs"));
    let replicated = |west: &Cluster| -> Vec<bool> {
        let report = west.reported.clone().expect("a report");
        report.volumes.iter().map(|volume| volume.replication.is_some()).collect()
    };
    assert_eq!(replicated(&west), [true, false]);
    let taken_in = west.storage_takes_in();
    west.event(taken_in);
    west.pass_seconds(1);
    assert_eq!(replicated(&west), [true, true]);
    assert!(has_answered(&west, StepKind::Promote, "Done"), "{}", west.transcript);
}

#[test]
fn a_fence_demotes_a_group_that_lists_no_claim_yet() {
    let mut west = standby_west();
    west.storage_obeys = false;
    west.hears_command(FAILOVER, StepKind::Promote, 2, promote(&CLAIMS, FenceProof::LeaseExpired));
    west.pass_seconds(1);
    assert_eq!(west.group_state(), Some("primary"));
    west.hears_command("shop-failback-3", StepKind::Fence, 3, Action::Fence);
    west.pass_seconds(2);
    assert_eq!(west.group_state(), Some("secondary"));
    assert!(!has_answered(&west, StepKind::Fence, "Done"), "{}", west.transcript);
    let done = west.csi_addons_answers();
    watches(&mut west, done);
    west.pass_seconds(2);
    assert!(has_answered(&west, StepKind::Fence, "Done"), "{}", west.transcript);
}

#[test]
fn the_outdated_group_is_made_anew_only_by_its_operation_and_as_one() {
    let mut east = returned_east();
    east.transcript.clear();
    let claims = CLAIMS.map(str::to_owned).to_vec();
    east.hears_command("shop-resync-2", StepKind::Resync, 2, Action::Resync { claims });
    east.pass_seconds(2);
    east.hears_command("shop-resync-2", StepKind::Rejoin, 2, Action::Rejoin);
    east.pass_seconds(2);
    insta::assert_snapshot!(east.transcript);
    assert_eq!(east.role(), Some((Role::Standby, 2)));
    let group = &east.objects[&(Kind::Group, GROUP.to_owned())];
    assert_eq!(group["spec"]["autoResync"], json!(false));
}

#[test]
fn a_claim_that_comes_later_is_taken_in_by_the_group_and_no_other_is_made() {
    let mut east = holding_east();
    let volume = east.put(Kind::Volume, "pv-mail", volume_object("mail", &cluster("east")));
    east.event(Event::Watched(volume));
    let claim = east.put(Kind::Claim, "mail", claim_object("mail", &cluster("east")));
    east.transcript.clear();
    east.event(Event::Watched(claim));
    east.pass_seconds(2);
    assert!(!east.transcript.contains("create Volume"), "{}", east.transcript);
    let answers = east.csi_addons_answers();
    watches(&mut east, answers);
    east.pass_seconds(1);
    let report = east.reported.as_ref().expect("a report");
    let mail = report.volumes.iter().find(|volume| volume.claim == "mail").expect("it is told");
    assert!(mail.replication.as_ref().is_some_and(Replication::is_primary), "{mail:?}");
}

#[test]
fn a_claim_with_a_volumereplication_of_its_own_keeps_the_group_from_being_made_and_is_named() {
    let mut east = unowned_east();
    let own = east.put(
        Kind::Replication,
        "theirs",
        json!({
            "metadata": {"name": "theirs", "namespace": "shop", "generation": 1},
            "spec": {"replicationState": "primary", "dataSource": {"kind": "PersistentVolumeClaim", "name": "logs"}},
        }),
    );
    east.event(Event::Watched(own));
    deploys(&mut east);
    east.pass_seconds(2);
    assert_eq!(east.group_state(), None, "{}", east.transcript);
    assert!(has_answered(&east, StepKind::Promote, "Failing"), "{}", east.transcript);
    let told = ails(&east, "ClaimReplicatedOtherwise").expect("it is told");
    assert!(told.contains("shop/logs has VolumeReplication theirs"), "{told}");
}

#[test]
fn a_claim_in_a_foreign_group_gets_no_volumereplication_and_is_named() {
    let mut east = Cluster::new("east");
    east.run_application(&["data"]);
    let mut claim = claim_object("data", &cluster("east"));
    claim["metadata"]["annotations"]["replication.storage.openshift.io/volume-group-replication-name"] =
        json!("theirs");
    east.put(Kind::Claim, "data", claim);
    east.start("boot-1");
    east.event(Event::HubUp);
    east.hears_assignment(assignment(0, None, "west"));
    east.hears_command("shop-deploy-1", StepKind::Promote, 1, promote(&["data"], FenceProof::NeverHeld));
    east.pass_seconds(2);
    assert!(east.replication_states().is_empty(), "{}", east.transcript);
    let told = ails(&east, "ClaimReplicatedOtherwise").expect("it is told");
    assert!(told.contains("shop/data is in VolumeGroupReplication theirs"), "{told}");
}

#[test]
fn more_claims_than_a_group_may_have_are_refused_by_name() {
    let claims: Vec<String> = (0..101).map(|number| format!("data-{number}")).collect();
    let claims: Vec<&str> = claims.iter().map(String::as_str).collect();
    let mut east = Cluster::new("east");
    east.run_application(&claims);
    east.add_group_class();
    east.start("boot-1");
    east.event(Event::HubUp);
    east.hears_assignment(grouped(assignment(0, None, "west")));
    east.hears_command("shop-deploy-1", StepKind::Promote, 1, promote(&claims, FenceProof::NeverHeld));
    east.pass_seconds(1);
    assert_eq!(east.group_state(), None);
    assert!(east.transcript.contains("would take 101 claims, and 100 is the most"), "{}", east.transcript);
}

#[test]
fn a_claim_at_a_standby_that_the_holder_does_not_have_is_named_before_the_group_takes_it() {
    let mut west = standby_west();
    assert_eq!(ails(&west, "StrangerInGroup"), None);
    let stranger = west.put(Kind::Claim, "old", claim_object("old", &cluster("west")));
    west.event(Event::Watched(stranger));
    west.pass_seconds(1);
    let told = ails(&west, "StrangerInGroup").expect("it is told");
    assert!(told.contains("shop/old"), "{told}");
}

#[test]
fn a_cluster_that_was_unassigned_still_protects_its_group_and_lets_go_of_it() {
    let mut east = returned_east();
    let claims = CLAIMS.map(str::to_owned).to_vec();
    east.hears_command("shop-resync-2", StepKind::Resync, 2, Action::Resync { claims });
    east.pass_seconds(2);
    east.hears_command("shop-resync-2", StepKind::Rejoin, 2, Action::Rejoin);
    east.pass_seconds(2);
    east.hears(FromHub::Unassign(placement()));
    east.pass_seconds(2);
    assert_eq!(east.sites[&placement()].state.group.as_deref(), Some(GROUP));
    east.hears_command("shop-release-2", StepKind::Release, 2, Action::Release);
    east.pass_seconds(2);
    assert!(has_answered(&east, StepKind::Release, "Done"), "{}", east.transcript);
    let group = &east.objects[&(Kind::Group, GROUP.to_owned())];
    assert_eq!(group["metadata"]["annotations"], json!({}), "{}", east.transcript);
}

#[test]
fn a_release_takes_the_mark_off_the_group_and_leaves_it_as_it_is() {
    let mut east = holding_east();
    east.hears_command("shop-release-1", StepKind::Release, 1, Action::Release);
    east.pass_seconds(2);
    assert!(has_answered(&east, StepKind::Release, "Done"), "{}", east.transcript);
    let group = &east.objects[&(Kind::Group, GROUP.to_owned())];
    assert_eq!(group["metadata"]["annotations"], json!({}));
    assert_eq!(east.group_state(), Some("primary"));
}
