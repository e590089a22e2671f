//! Claims that get the protected labels after the application was adopted.

use std::time::Duration;

use agent_core::{Event, Kind};
use proto::{Action, Assignment, FenceProof, Role, StepKind, WorkloadScale};
use serde_json::json;

use crate::cluster::*;

const CREATED: &str = "create VolumeReplication extra primary at epoch 1";

/// A user makes a volume and a claim with the placement's labels.
fn user_creates(cluster: &mut Cluster, claim: &str, phase: &str) {
    let volume = volume_object(claim, &cluster.name);
    let watched = cluster.put(Kind::Volume, &format!("pv-{claim}"), volume);
    cluster.event(Event::Watched(watched));
    let mut object = claim_object(claim, &cluster.name);
    object["status"]["phase"] = json!(phase);
    let watched = cluster.put(Kind::Claim, claim, object);
    cluster.event(Event::Watched(watched));
}

/// Somebody deletes a claim; csi-addons' finalizer keeps it as long as its VolumeReplication.
fn user_deletes(cluster: &mut Cluster, claim: &str) {
    let mut object = claim_object(claim, &cluster.name);
    object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let watched = cluster.put(Kind::Claim, claim, object);
    cluster.event(Event::Watched(watched));
}

fn scale_up() -> Action {
    Action::ScaleUp { workloads: vec![WorkloadScale { workload: workload(), replicas: 2 }] }
}

fn is_replicated(cluster: &Cluster, claim: &str) -> bool {
    cluster.replication_states().iter().any(|(name, _)| name == claim)
}

#[test]
fn a_claim_created_while_the_application_runs_is_recorded_and_then_made_primary() {
    let mut east = holding_east();
    east.pass_seconds(1);
    east.transcript.clear();
    user_creates(&mut east, "extra", "Bound");
    east.pass_seconds(2);
    assert!(is_replicated(&east, "extra"));
    insta::assert_snapshot!(east.transcript);
}

#[test]
fn no_volume_is_made_primary_before_the_drsitestate_names_its_claim() {
    let mut east = holding_east();
    east.writable = false;
    user_creates(&mut east, "extra", "Bound");
    east.pass_seconds(3);
    assert!(!is_replicated(&east, "extra"), "{}", east.transcript);
    east.writable = true;
    east.hears_grant(1);
    east.pass_seconds(6);
    let recorded =
        east.transcript.find("  write DRSiteState Holder epoch 1 by shop-deploy-1, claims [data extra");
    assert!(recorded.expect("a record") < east.transcript.find(CREATED).expect("a promotion"));
}

#[test]
fn a_claim_waits_until_it_is_bound() {
    let mut east = holding_east();
    user_creates(&mut east, "extra", "Pending");
    east.pass_seconds(1);
    assert!(!is_replicated(&east, "extra"), "{}", east.transcript);
    user_creates(&mut east, "extra", "Bound");
    assert!(is_replicated(&east, "extra"), "{}", east.transcript);
}

#[test]
fn a_claim_that_is_being_deleted_is_left_alone() {
    let mut east = holding_east();
    user_creates(&mut east, "extra", "Pending");
    user_deletes(&mut east, "extra");
    east.pass_seconds(2);
    assert!(!is_replicated(&east, "extra"), "{}", east.transcript);
}

#[test]
fn a_volumereplication_that_exists_is_never_touched_whatever_it_says() {
    let mut east = holding_east();
    let theirs = json!({
        "metadata": {"name": "theirs", "namespace": "shop", "generation": 1},
        "spec": {"replicationState": "secondary", "dataSource": {"kind": "PersistentVolumeClaim", "name": "extra"}},
    });
    let watched = east.put(Kind::Replication, "theirs", theirs);
    east.event(Event::Watched(watched));
    east.transcript.clear();
    user_creates(&mut east, "extra", "Bound");
    east.pass_seconds(3);
    assert!(!east.transcript.contains("VolumeReplication"), "{}", east.transcript);
}

#[test]
fn an_agent_that_has_restarted_waits_for_a_grant() {
    let mut east = holding_east();
    east.pass_seconds(1);
    east.start("boot-1");
    east.event(Event::HubUp);
    east.hears_assignment(assignment(1, Some("east"), "west"));
    user_creates(&mut east, "extra", "Bound");
    east.pass_seconds(2);
    assert_eq!(east.role(), Some((Role::Holder, 1)));
    assert!(!is_replicated(&east, "extra"), "{}", east.transcript);
    east.hears_grant(1);
    east.pass_seconds(1);
    assert!(is_replicated(&east, "extra"), "{}", east.transcript);
}

#[test]
fn a_holder_that_goes_on_without_a_lease_makes_nothing_primary() {
    let mut east = holding_east();
    let mut policy = policy();
    (policy.generation, policy.on_silence) = (proto::Generation(2), proto::OnSilence::Continue);
    east.hears_grant_of(east.nonce, 1, policy);
    east.event(Event::HubDown);
    east.pass_seconds(15);
    user_creates(&mut east, "extra", "Bound");
    east.pass_seconds(2);
    assert_eq!(east.role(), Some((Role::Holder, 1)));
    assert!(!is_replicated(&east, "extra"), "{}", east.transcript);
}

#[test]
fn a_fenced_site_makes_nothing_primary() {
    let mut east = holding_east();
    east.hears_command("shop-failover-2", StepKind::Fence, 2, Action::Fence);
    user_creates(&mut east, "extra", "Bound");
    east.pass_seconds(3);
    assert_eq!(east.role(), Some((Role::Fenced, 2)));
    assert!(!is_replicated(&east, "extra"), "{}", east.transcript);
}

#[test]
fn a_fence_demotes_what_was_made_primary_within_the_epoch() {
    let mut east = holding_east();
    user_creates(&mut east, "extra", "Bound");
    assert!(is_replicated(&east, "extra"), "{}", east.transcript);
    east.hears_command("shop-failover-2", StepKind::Fence, 2, Action::Fence);
    east.pass_seconds(3);
    assert!(east.replication_states().iter().all(|(_, state)| state == "secondary"), "{}", east.transcript);
}

#[test]
fn a_standby_makes_nothing_primary() {
    let mut west = standby_west();
    user_creates(&mut west, "extra", "Bound");
    west.pass_seconds(2);
    assert!(!is_replicated(&west, "extra"), "{}", west.transcript);
}

#[test]
fn while_an_epoch_is_entered_only_the_claims_of_the_command_are_promoted() {
    let mut east = Cluster::new("east");
    east.run_application(&["data"]);
    east.start("boot-1");
    east.event(Event::HubUp);
    east.hears_assignment(assignment(0, None, "west"));
    east.hears_command("shop-deploy-1", StepKind::Promote, 1, promote(&["data"], FenceProof::NeverHeld));
    user_creates(&mut east, "extra", "Bound");
    east.pass_seconds(2);
    assert_eq!(east.role(), Some((Role::Promoting, 1)));
    assert!(!is_replicated(&east, "extra"), "{}", east.transcript);
    east.hears_assignment(assignment(1, Some("east"), "west"));
    east.pass(Duration::from_millis(500));
    assert!(!is_replicated(&east, "extra"), "the ownership alone is no lease: {}", east.transcript);
    east.hears_grant(1);
    assert!(is_replicated(&east, "extra"), "{}", east.transcript);
}

#[test]
fn a_release_makes_nothing_primary() {
    let mut east = holding_east();
    east.writable = false;
    east.hears_command("shop-release-1", StepKind::Release, 1, Action::Release);
    user_creates(&mut east, "extra", "Bound");
    east.pass_seconds(2);
    assert!(!is_replicated(&east, "extra"), "{}", east.transcript);
}

#[test]
fn a_copy_that_was_staged_here_and_that_no_failover_has_named_is_not_promoted() {
    let mut east = holding_east();
    user_creates(&mut east, "extra", "Bound");
    let mut west = standby_west();
    let inventory = Some(inventory_of(&east));
    west.hears_assignment(Assignment { inventory, ..assignment(1, Some("east"), "east") });
    west.pass_seconds(1);
    assert!(west.objects.contains_key(&(Kind::Claim, "extra".to_owned())), "{}", west.transcript);
    west.say("at east, somebody deletes the claim; then east is lost");
    let command = promote(&["data", "logs"], FenceProof::LeaseExpired);
    west.hears_command("shop-failover-2", StepKind::Promote, 2, command);
    west.hears_assignment(assignment(2, Some("west"), "east"));
    west.hears_grant(2);
    west.pass_seconds(2);
    assert_eq!(west.role(), Some((Role::Holder, 2)));
    assert_eq!(west.replication_states().len(), 2, "{}", west.transcript);
    west.say("nor does it keep the application from starting, which does not use it");
    west.hears_command("shop-failover-2", StepKind::ScaleUp, 2, scale_up());
    west.hears_grant(2);
    west.pass_seconds(1);
    assert_eq!(west.scaled_to(), 2, "{}", west.transcript);
    assert!(!is_replicated(&west, "extra"), "{}", west.transcript);
}

#[test]
fn an_application_that_uses_a_left_over_copy_does_not_start_on_it() {
    let mut east = holding_east();
    user_creates(&mut east, "extra", "Bound");
    let mut west = standby_west();
    west.add_stopped_workload(&["data", "logs", "extra"]);
    let list = west.list_of(deployments());
    west.event(Event::Watched(list));
    let inventory = Some(inventory_of(&east));
    west.hears_assignment(Assignment { inventory, ..assignment(1, Some("east"), "east") });
    west.pass_seconds(1);
    let command = promote(&["data", "logs"], FenceProof::LeaseExpired);
    west.hears_command("shop-failover-2", StepKind::Promote, 2, command);
    west.hears_assignment(assignment(2, Some("west"), "east"));
    west.hears_grant(2);
    west.hears_command("shop-failover-2", StepKind::ScaleUp, 2, scale_up());
    west.pass_seconds(2);
    assert_eq!(west.scaled_to(), 0, "{}", west.transcript);
    assert!(west.transcript.contains("claim extra to be primary"), "{}", west.transcript);
}

#[test]
fn a_claim_that_is_being_deleted_is_still_part_of_what_a_failover_takes() {
    let mut east = holding_east();
    user_deletes(&mut east, "logs");
    let claims: Vec<String> = inventory_of(&east).volumes.iter().map(|volume| volume.claim.clone()).collect();
    assert_eq!(claims, ["data", "logs"]);
}

#[test]
fn a_readoption_takes_a_claim_that_is_being_deleted_as_well() {
    let mut east = holding_east();
    east.pass_seconds(1);
    user_deletes(&mut east, "logs");
    east.hears_command("shop-failover-2", StepKind::Fence, 2, Action::Fence);
    east.pass_seconds(2);
    let command = promote(&["data", "logs"], FenceProof::NeverHeld);
    east.hears_command("shop-readopt-3", StepKind::Promote, 3, command);
    east.hears_assignment(assignment(3, Some("east"), "west"));
    east.hears_command("shop-readopt-3", StepKind::ScaleUp, 3, scale_up());
    east.hears_grant(3);
    east.pass_seconds(2);
    assert_eq!(east.scaled_to(), 2, "{}", east.transcript);
}

#[test]
fn a_readoption_with_a_claim_that_its_intent_did_not_know_does_not_wait_for_ever() {
    let mut east = holding_east();
    east.pass_seconds(1);
    let command = promote(&["data", "logs"], FenceProof::NeverHeld);
    east.hears_command("shop-readopt-3", StepKind::Promote, 3, command);
    user_creates(&mut east, "extra", "Bound");
    east.hears_assignment(assignment(3, Some("east"), "west"));
    east.hears_command("shop-readopt-3", StepKind::ScaleUp, 3, scale_up());
    east.hears_grant(3);
    east.pass_seconds(2);
    assert!(east.transcript.contains("create VolumeReplication extra primary at epoch 3"));
    assert!(east.transcript.contains("acknowledge shop-readopt-3/ScaleUp: Done"), "{}", east.transcript);
}
