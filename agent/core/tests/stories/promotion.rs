//! A standby becomes the holder.

use std::time::Duration;

use agent_core::{Effect, Event};
use proto::{Action, DenialReason, FenceProof, Role, StepKind, WorkloadScale};

use crate::cluster::*;

const CLAIMS: [&str; 2] = ["data", "logs"];

fn scale_up() -> Action {
    Action::ScaleUp { workloads: vec![WorkloadScale { workload: workload(), replicas: 2 }] }
}

#[test]
fn a_standby_restores_promotes_everything_and_starts_the_application_under_a_lease() {
    let mut west = standby_west();
    let inventory = inventory_of(&holding_east());
    west.transcript.clear();
    west.hears_command("shop-failover-2", StepKind::Restore, 2, Action::Restore { inventory });
    west.hears_command("shop-failover-2", StepKind::Promote, 2, promote(&CLAIMS, FenceProof::LeaseExpired));
    west.say("ownership is recorded");
    west.hears_assignment(assignment(2, Some("west"), "east"));
    west.hears_command("shop-failover-2", StepKind::ScaleUp, 2, scale_up());
    west.pass(Duration::from_millis(200));
    assert_eq!(west.scaled_to(), 0, "no pods without a lease");
    west.say("the lease is granted");
    west.hears_grant(2);
    west.pass_seconds(1);
    assert_eq!(west.scaled_to(), 2);
    insta::assert_snapshot!(west.transcript);
}

#[test]
fn no_volume_is_promoted_before_the_epoch_is_durable() {
    let mut west = standby_west();
    west.writable = false;
    west.hears_command("shop-failover-2", StepKind::Promote, 2, promote(&CLAIMS, FenceProof::Acknowledged));
    west.pass_seconds(3);
    assert!(west.replication_states().is_empty());
    west.writable = true;
    west.pass_seconds(6);
    assert_eq!(west.replication_states().len(), 2);
}

#[test]
fn with_one_volume_not_primary_nothing_starts_and_the_claim_is_named() {
    let mut west = standby_west();
    west.storage_obeys = false;
    west.transcript.clear();
    west.hears_command("shop-failover-2", StepKind::Promote, 2, promote(&CLAIMS, FenceProof::Acknowledged));
    let answer = west.storage_answers("data");
    west.event(answer);
    let key = (agent_core::Kind::Replication, "logs".to_owned());
    let mut failing = west.objects[&key].clone();
    failing["status"] = serde_json::json!({
        "state": "Unknown", "observedGeneration": 1, "message": "image is busy",
        "conditions": [{"type": "Completed", "status": "False", "reason": "FailedToPromote"}],
    });
    let watched = west.put(agent_core::Kind::Replication, "logs", failing);
    west.event(Event::Watched(watched));
    west.say("even if the hub went on, the agent would not");
    west.hears_assignment(assignment(2, Some("west"), "east"));
    west.hears_grant(2);
    west.hears_command("shop-failover-2", StepKind::ScaleUp, 2, scale_up());
    west.pass_seconds(2);
    assert_eq!(west.scaled_to(), 0);
    insta::assert_snapshot!(west.transcript);
}

#[test]
fn ten_volumes_are_promoted_in_one_decision() {
    let claims: Vec<String> = (0..10).map(|number| format!("data-{number}")).collect();
    let claims: Vec<&str> = claims.iter().map(String::as_str).collect();
    let mut east = Cluster::new("east");
    east.run_application(&claims);
    east.start("boot-1");
    east.event(Event::HubUp);
    east.hears_assignment(assignment(0, None, "west"));
    east.transcript.clear();
    east.hears_command("shop-deploy-1", StepKind::Promote, 1, promote(&claims, FenceProof::NeverHeld));
    let lines: Vec<&str> = east.transcript.lines().collect();
    let first = lines.iter().position(|line| line.contains("create VolumeReplication")).expect("a promotion");
    let together = lines[first..].iter().take_while(|line| line.contains("create VolumeReplication")).count();
    assert_eq!(together, 10, "{}", east.transcript);
}

#[test]
fn an_existing_primary_is_taken_over_with_a_mark_only() {
    let mut east = Cluster::new("east");
    east.run_application(&["data"]);
    east.put(
        agent_core::Kind::Replication,
        "theirs",
        serde_json::json!({
            "metadata": {"name": "theirs", "namespace": "shop", "generation": 3},
            "spec": {"replicationState": "primary", "dataSource": {"kind": "PersistentVolumeClaim", "name": "data"}},
            "status": {"state": "Primary", "observedGeneration": 3,
                "conditions": [{"type": "Completed", "status": "True", "reason": "Promoted"}]},
        }),
    );
    east.start("boot-1");
    east.event(Event::HubUp);
    east.hears_assignment(assignment(0, None, "west"));
    east.transcript.clear();
    east.hears_command("shop-deploy-1", StepKind::Promote, 1, promote(&["data"], FenceProof::NeverHeld));
    let mark =
        Effect::MarkReplication { namespace: "shop".into(), name: "theirs".into(), epoch: proto::Epoch(1) };
    assert!(east.transcript.contains(&mark.to_string()), "{}", east.transcript);
    assert!(!east.transcript.contains("create"), "{}", east.transcript);
    assert!(east.transcript.contains("acknowledge shop-deploy-1/Promote: Done"));
}

#[test]
fn while_a_deployment_is_under_way_a_hub_that_goes_silent_still_ends_the_application_in_time() {
    let mut east = Cluster::new("east");
    east.run_application(&["data"]);
    east.start("boot-1");
    east.event(Event::HubUp);
    east.hears_assignment(assignment(0, None, "west"));
    east.pass_seconds(1);
    east.hears_command("shop-deploy-1", StepKind::Promote, 1, promote(&["data"], FenceProof::NeverHeld));
    east.say("the hub records the ownership, and its word never arrives");
    east.event(Event::HubDown);
    east.pass_seconds(12);
    assert_eq!(east.role(), Some((Role::Fenced, 1)));
    assert_eq!(east.scaled_to(), 0);
}

#[test]
fn a_promotion_of_no_claims_fails_and_says_so() {
    let mut east = Cluster::new("east");
    east.run_application(&["data"]);
    east.start("boot-1");
    east.event(Event::HubUp);
    east.hears_assignment(assignment(0, None, "west"));
    east.transcript.clear();
    east.hears_command("shop-deploy-1", StepKind::Promote, 1, promote(&[], FenceProof::NeverHeld));
    east.pass_seconds(1);
    assert!(east.transcript.contains("NoClaims"), "{}", east.transcript);
    assert!(!east.transcript.contains("Promote: Done"), "{}", east.transcript);
}

#[test]
fn a_scale_up_that_waited_out_its_own_fence_makes_the_volumes_primary_first() {
    let mut west = standby_west();
    west.hears_command("shop-failover-2", StepKind::Promote, 2, promote(&CLAIMS, FenceProof::LeaseExpired));
    west.hears_assignment(assignment(2, Some("west"), "east"));
    west.hears_command("shop-failover-2", StepKind::ScaleUp, 2, scale_up());
    west.transcript.clear();
    west.say("the hub is away for longer than the ttl before it has granted");
    west.event(Event::HubDown);
    west.pass_seconds(15);
    assert_eq!(west.role(), Some((Role::Fenced, 2)));
    assert!(west.replication_states().iter().all(|(_, state)| state == "secondary"));
    west.event(Event::HubUp);
    west.hears_assignment(assignment(2, Some("west"), "east"));
    west.pass_seconds(1);
    west.hears_command("shop-failover-2", StepKind::ScaleUp, 2, scale_up());
    assert!(!west.transcript.contains("Done"), "a fence is no scale-up: {}", west.transcript);
    west.hears_grant(2);
    west.pass_seconds(1);
    assert!(west.replication_states().iter().all(|(_, state)| state == "primary"));
    assert_eq!(west.scaled_to(), 2);
}

#[test]
fn a_readoption_that_silence_has_interrupted_is_answered_by_its_own_promotion() {
    let mut east = holding_east();
    east.pass_seconds(1);
    east.hears_denial(2, DenialReason::Superseded);
    east.storage_obeys = false;
    east.hears_command("shop-readopt-3", StepKind::Promote, 3, promote(&CLAIMS, FenceProof::NeverHeld));
    east.pass_seconds(1);
    east.event(Event::HubDown);
    east.pass_seconds(14);
    east.storage_obeys = true;
    for claim in CLAIMS {
        let answer = east.storage_answers(claim);
        east.event(answer);
    }
    east.pass_seconds(5);
    east.event(Event::HubUp);
    east.pass_seconds(1);
    east.hears_command("shop-readopt-3", StepKind::Promote, 3, promote(&CLAIMS, FenceProof::NeverHeld));
    assert!(east.replication_states().iter().all(|(_, state)| state == "primary"));
    east.hears_assignment(assignment(3, Some("east"), "west"));
    east.hears_command("shop-readopt-3", StepKind::ScaleUp, 3, scale_up());
    for _ in 0..3 {
        east.hears_grant(3);
        east.pass_seconds(1);
    }
    assert_eq!(east.scaled_to(), 2);
}

#[test]
fn a_deployment_that_silence_has_interrupted_ends_with_the_application_running() {
    let mut east = Cluster::new("east");
    east.run_application(&["data"]);
    east.storage_obeys = false;
    east.start("boot-1");
    east.event(Event::HubUp);
    east.hears_assignment(assignment(0, None, "west"));
    east.pass_seconds(1);
    east.hears_command("shop-deploy-1", StepKind::Promote, 1, promote(&["data"], FenceProof::NeverHeld));
    east.event(Event::HubDown);
    east.pass_seconds(12);
    assert_eq!(east.scaled_to(), 0);
    east.transcript.clear();
    east.say("the hub is back and goes on with its deployment");
    east.storage_obeys = true;
    let answer = east.storage_answers("data");
    east.event(answer);
    east.event(Event::HubUp);
    east.hears_assignment(assignment(0, None, "west"));
    east.hears_command("shop-deploy-1", StepKind::Promote, 1, promote(&["data"], FenceProof::NeverHeld));
    east.pass_seconds(2);
    east.hears_assignment(assignment(1, Some("east"), "west"));
    east.hears_grant(1);
    east.pass_seconds(2);
    assert_eq!(east.scaled_to(), 2);
    insta::assert_snapshot!(east.transcript);
}

#[test]
fn the_end_of_a_fence_is_not_the_end_of_another_command() {
    let mut east = holding_east();
    let inventory = inventory_of(&east);
    east.pods_obey = false;
    east.hears_command("shop-failover-2", StepKind::Fence, 2, Action::Fence);
    east.hears_command("shop-failback-3", StepKind::Restore, 3, Action::Restore { inventory });
    east.transcript.clear();
    east.pass_seconds(2);
    assert!(!east.transcript.contains("Done"), "{}", east.transcript);
    for event in east.pods_end() {
        east.event(event);
    }
    east.pass_seconds(2);
    assert!(east.transcript.contains("acknowledge shop-failback-3/Restore: Done"), "{}", east.transcript);
    let demoted = east.transcript.find("demote").expect("a demotion");
    assert!(demoted < east.transcript.find("Restore: Done").expect("an answer"));
}
