//! A planned move is given up, and the holder that was told to stop gets its placement back.

use std::time::Duration;

use agent_core::{Event, Kind};
use proto::*;
use serde_json::{Value, json};

use crate::cluster::*;

const CLAIMS: [&str; 2] = ["data", "logs"];

fn scales_down(east: &mut Cluster) {
    east.hears_command("shop-migrate-2", StepKind::ScaleDown, 2, Action::ScaleDown);
}

fn demotes(east: &mut Cluster) {
    east.hears_command("shop-migrate-2", StepKind::Demote, 2, Action::Demote);
}

fn is_readopted(east: &mut Cluster) {
    let proof = FenceProof::NeverHeld;
    east.hears_command("shop-readopt-3", StepKind::Promote, 3, promote(&CLAIMS, proof));
}

fn states(cluster: &Cluster) -> Vec<String> {
    cluster.replication_states().into_iter().map(|(_, state)| state).collect()
}

fn is_promoted(east: &Cluster) -> bool {
    east.transcript.contains("readopt-3/Promote: Done")
}

/// The rest of the operation, once its volumes are primary.
fn goes_on(east: &mut Cluster, seconds: u64) {
    east.hears_assignment(assignment(3, Some("east"), "west"));
    for _ in 0..seconds {
        east.hears_grant(3);
        let workloads = vec![WorkloadScale { workload: workload(), replicas: 2 }];
        east.hears_command("shop-readopt-3", StepKind::ScaleUp, 3, Action::ScaleUp { workloads });
        east.pass_seconds(1);
    }
}

fn runs_again(east: &Cluster) {
    assert_eq!((east.role(), east.scaled_to()), (Some((Role::Holder, 3)), 2), "{}", east.transcript);
    assert_eq!(states(east), ["primary", "primary"], "{}", east.transcript);
}

#[test]
fn a_move_that_is_given_up_at_any_point_leaves_the_application_running_where_it_was() {
    for given_up_at in 0..45 {
        let mut east = holding_east();
        east.pods_obey = false;
        east.array = Array::IsSlowToCross;
        for turn in 0..given_up_at {
            match turn {
                10 => east.pods_end().into_iter().for_each(|event| east.event(event)),
                35 => east.array_becomes(Array::Mirrors),
                _ => {}
            }
            match turn {
                0..25 => scales_down(&mut east),
                _ => demotes(&mut east),
            }
            east.pass(Duration::from_millis(100));
        }
        is_readopted(&mut east);
        east.pass_seconds(1);
        assert!(is_promoted(&east), "given up at {given_up_at}:\n{}", east.transcript);
        goes_on(&mut east, 3);
        runs_again(&east);
        assert_eq!(east.sites[&placement()].state.handed_over, None);
    }
}

/// With its VolumeReplication, so that nothing keeps the claim; what no pod uses keeps nothing from starting either.
#[test]
fn a_claim_that_is_deleted_during_the_move_does_not_hold_the_application_up() {
    let mut east = holding_east();
    let unused = deployment(2, &["data"]);
    let watched = east.put(deployments(), "web", unused);
    east.event(Event::Watched(watched));
    scales_down(&mut east);
    east.pass_seconds(1);
    for kind in [Kind::Replication, Kind::Claim] {
        let gone = east.remove(kind, "logs").expect("an object");
        east.event(gone);
    }
    is_readopted(&mut east);
    east.pass_seconds(2);
    assert!(is_promoted(&east), "{}", east.transcript);
    goes_on(&mut east, 3);
    assert_eq!((east.role(), east.scaled_to()), (Some((Role::Holder, 3)), 2), "{}", east.transcript);
}

#[test]
fn nothing_is_promoted_while_a_demotion_is_on_its_way() {
    let mut east = holding_east();
    scales_down(&mut east);
    east.pass_seconds(2);
    east.demotions_linger = true;
    demotes(&mut east);
    assert_eq!(east.lingering.len(), 2, "{}", east.transcript);
    is_readopted(&mut east);
    east.pass_seconds(3);
    assert!(
        !east.transcript.contains("with epoch 3"),
        "a demotion would land behind it:\n{}",
        east.transcript
    );
    east.demotions_linger = false;
    east.lingering_stops_land(true);
    east.pass_seconds(2);
    assert!(is_promoted(&east), "{}", east.transcript);
    goes_on(&mut east, 3);
    runs_again(&east);
}

#[test]
fn nothing_is_promoted_while_csi_addons_still_demotes() {
    let mut east = holding_east();
    scales_down(&mut east);
    east.pass_seconds(2);
    east.storage_obeys = false;
    demotes(&mut east);
    east.pass_seconds(1);
    assert_eq!(states(&east), ["secondary", "secondary"]);
    is_readopted(&mut east);
    east.pass_seconds(5);
    assert_eq!(
        states(&east),
        ["secondary", "secondary"],
        "its status still says Primary:\n{}",
        east.transcript
    );
    east.storage_obeys = true;
    for claim in CLAIMS {
        let answer = east.storage_answers(claim);
        east.event(answer);
    }
    east.pass_seconds(1);
    assert!(is_promoted(&east), "{}", east.transcript);
    assert_eq!(states(&east), ["primary", "primary"]);
}

fn fails_to_demote(message: &str) -> Value {
    json!({
        "state": "Primary", "message": message,
        "conditions": [{"type": "Completed", "status": "False", "reason": "FailedToDemote"}],
    })
}

#[test]
fn after_a_demotion_without_an_answer_nothing_is_promoted_before_there_is_one() {
    let mut east = holding_east();
    scales_down(&mut east);
    east.pass_seconds(2);
    east.storage_obeys = false;
    demotes(&mut east);
    for claim in CLAIMS {
        let said = east.storage_says(claim, |_| fails_to_demote("context deadline exceeded"));
        east.event(said);
    }
    is_readopted(&mut east);
    east.pass_seconds(20);
    assert_eq!(
        states(&east),
        ["secondary", "secondary"],
        "it may be demoted all the same:\n{}",
        east.transcript
    );
    let said = east.storage_says("data", |_| fails_to_demote("image is in use"));
    east.event(said);
    let answer = east.storage_answers("logs");
    east.event(answer);
    east.pass_seconds(1);
    assert_eq!(
        states(&east),
        ["primary", "primary"],
        "one was refused, the other done:\n{}",
        east.transcript
    );
}

#[test]
fn commands_of_the_move_that_come_after_it_was_given_up_change_nothing() {
    let mut east = holding_east();
    scales_down(&mut east);
    east.pass_seconds(2);
    is_readopted(&mut east);
    east.pass_seconds(1);
    goes_on(&mut east, 2);
    scales_down(&mut east);
    demotes(&mut east);
    goes_on(&mut east, 2);
    assert!(
        east.transcript.contains("migrate-2/Demote: Refused { refusal: StaleEpoch"),
        "{}",
        east.transcript
    );
    runs_again(&east);
}

#[test]
fn a_failback_starts_although_a_claim_was_deleted_where_it_was_held() {
    let mut east = Cluster::new("east");
    east.run_application(&["data", "logs"]);
    east.put(deployments(), "web", deployment(2, &["data"]));
    east.start("boot-1");
    east.event(Event::HubUp);
    east.hears_assignment(assignment(0, None, "west"));
    let (step, proof) = (StepKind::Promote, FenceProof::NeverHeld);
    east.hears_command("shop-deploy-1", step, 1, promote(&CLAIMS, proof));
    east.hears_assignment(assignment(1, Some("east"), "west"));
    east.hears_grant(1);
    scales_down(&mut east);
    east.pass_seconds(2);
    demotes(&mut east);
    east.pass_seconds(2);
    let mut inventory = inventory_of(&east);
    inventory.volumes.retain(|volume| volume.claim != "logs");
    let held = Assignment { inventory: Some(inventory.clone()), ..assignment(2, Some("west"), "west") };
    east.hears_assignment(held);
    east.pass_seconds(1);
    let back = "shop-failback-3";
    east.hears_command(back, StepKind::Restore, 3, Action::Restore { inventory });
    east.hears_command(back, StepKind::Promote, 3, promote(&["data"], FenceProof::Acknowledged));
    east.pass_seconds(1);
    goes_on_with(&mut east, back);
    assert_eq!((east.role(), east.scaled_to()), (Some((Role::Holder, 3)), 2), "{}", east.transcript);
    assert_eq!(states(&east), ["primary", "secondary"], "what is left over is left alone");
    assert!(east.objects.contains_key(&(Kind::Claim, "logs".to_owned())), "nothing is deleted (S23)");
}

fn goes_on_with(east: &mut Cluster, operation: &str) {
    east.hears_assignment(assignment(3, Some("east"), "west"));
    for _ in 0..3 {
        east.hears_grant(3);
        let workloads = vec![WorkloadScale { workload: workload(), replicas: 2 }];
        east.hears_command(operation, StepKind::ScaleUp, 3, Action::ScaleUp { workloads });
        east.pass_seconds(1);
    }
}

#[test]
fn a_claim_that_differs_where_the_placement_comes_back_to_is_named_and_left_alone() {
    let mut east = handed_over();
    let mut inventory = inventory_of(&east);
    inventory.volumes[0].handle = "another-image".into();
    inventory.volumes[0].persistent_volume["spec"]["csi"]["volumeHandle"] = json!("another-image");
    east.hears_command("shop-failback-3", StepKind::Restore, 3, Action::Restore { inventory });
    east.pass_seconds(1);
    assert!(east.transcript.contains("failback-3/Restore: Failing { reason: \"StagingConflict\""));
    assert!(!east.transcript.contains("failback-3/Restore: Done"), "{}", east.transcript);
    assert!(!east.transcript.contains("create"), "{}", east.transcript);
}

#[test]
fn a_claim_created_where_it_was_held_comes_along_when_the_placement_comes_back() {
    let mut east = handed_over();
    let mut west = Cluster::new("east");
    west.run_application(&["data", "logs", "extra"]);
    let inventory = inventory_of(&west);
    east.hears_command("shop-failback-3", StepKind::Restore, 3, Action::Restore { inventory });
    east.pass_seconds(1);
    assert!(east.transcript.contains("failback-3/Restore: Done"), "{}", east.transcript);
    let created: Vec<&str> = east.transcript.lines().filter(|line| line.contains("create")).collect();
    assert_eq!(created.len(), 2, "only the new volume and its claim: {created:?}");
    let claims = ["data", "extra", "logs"];
    east.hears_command("shop-failback-3", StepKind::Promote, 3, promote(&claims, FenceProof::Acknowledged));
    east.pass_seconds(1);
    assert_eq!(states(&east), ["primary", "primary", "primary"]);
}

/// East is a standby again, with the transcript begun anew.
fn handed_over() -> Cluster {
    let mut east = holding_east();
    scales_down(&mut east);
    east.pass_seconds(2);
    demotes(&mut east);
    east.pass_seconds(2);
    let inventory = Some(inventory_of(&east));
    east.hears_assignment(Assignment { inventory, ..assignment(2, Some("west"), "west") });
    east.pass_seconds(1);
    assert_eq!(east.role(), Some((Role::Standby, 2)));
    east.transcript.clear();
    east
}
