//! A holder hands its placement over, and takes it back.

use std::time::Duration;

use agent_core::{Event, Kind};
use proto::*;
use serde_json::json;

use crate::cluster::*;

const MOVE: &str = "shop-migrate-2";
const CLAIMS: [&str; 2] = ["data", "logs"];

fn scales_down(east: &mut Cluster) {
    east.hears_command(MOVE, StepKind::ScaleDown, 2, Action::ScaleDown);
}

fn demotes(east: &mut Cluster) {
    east.hears_command(MOVE, StepKind::Demote, 2, Action::Demote);
}

fn has_answered(cluster: &Cluster, step: StepKind, outcome: &str) -> bool {
    cluster.transcript.contains(&format!("/{step}: {outcome}"))
}

fn states(cluster: &Cluster) -> Vec<String> {
    cluster.replication_states().into_iter().map(|(_, state)| state).collect()
}

fn inventory_version(cluster: &Cluster) -> Option<&str> {
    Some(cluster.reported.as_ref()?.inventory.as_ref()?.version.as_str())
}

/// East has stopped for a planned move to west; its volumes are still primary.
fn stopped_east() -> Cluster {
    let mut east = holding_east();
    east.pass_seconds(1);
    scales_down(&mut east);
    east.pass_seconds(2);
    assert!(has_answered(&east, StepKind::ScaleDown, "Done"), "{}", east.transcript);
    east
}

/// East has handed over, and waits for west to take the placement.
fn handed_over_east() -> Cluster {
    let mut east = stopped_east();
    demotes(&mut east);
    east.pass_seconds(1);
    assert!(has_answered(&east, StepKind::Demote, "Done"), "{}", east.transcript);
    east
}

/// West holds the placement; its manifests are copies of east's.
fn held_by_west(east: &Cluster) -> Assignment {
    Assignment { inventory: Some(inventory_of(east)), ..assignment(2, Some("west"), "west") }
}

#[test]
fn a_holder_stops_then_hands_over_and_is_a_standby_once_another_holds() {
    let mut east = holding_east();
    east.pods_obey = false;
    east.array = Array::IsSlowToCross;
    east.transcript.clear();
    scales_down(&mut east);
    east.pass_seconds(1);
    for event in east.pods_end() {
        east.event(event);
    }
    east.pass_seconds(2);
    east.say("the hub has taken its last copy of the manifests");
    demotes(&mut east);
    east.pass_seconds(1);
    east.say("the last data crosses");
    east.array_becomes(Array::Mirrors);
    east.pass_seconds(1);
    east.say("west holds");
    let held = held_by_west(&east);
    east.hears_assignment(held);
    east.pass_seconds(1);
    insta::assert_snapshot!(east.transcript);
}

#[test]
fn a_scaled_down_holder_keeps_its_volumes_primary_until_it_is_told_to_demote() {
    let mut east = stopped_east();
    assert_eq!((east.role(), east.scaled_to()), (Some((Role::Fenced, 2)), 0));
    east.pass_seconds(60);
    assert_eq!(states(&east), ["primary", "primary"]);
    east.say("a new agent process keeps to it");
    east.start("boot-1");
    east.event(Event::HubUp);
    east.pass_seconds(60);
    assert_eq!(states(&east), ["primary", "primary"]);
    demotes(&mut east);
    east.pass_seconds(1);
    assert_eq!(states(&east), ["secondary", "secondary"]);
}

#[test]
fn stopping_for_a_move_waits_for_pods_and_attachments_and_undoes_whoever_scales_up() {
    let mut east = holding_east();
    east.pods_obey = false;
    scales_down(&mut east);
    let gone = east.remove(Kind::Pod, "web-1").expect("a pod");
    east.event(gone);
    let watched = east.put(deployments(), "web", deployment(3, &CLAIMS));
    east.event(Event::Watched(watched));
    east.pass_seconds(3);
    assert!(!has_answered(&east, StepKind::ScaleDown, "Done"), "{}", east.transcript);
    assert_eq!(east.scaled_to(), 0);
    for event in east.pods_end() {
        east.event(event);
    }
    east.pass_seconds(2);
    assert!(has_answered(&east, StepKind::ScaleDown, "Done"), "{}", east.transcript);
    assert_eq!(states(&east), ["primary", "primary"]);
}

#[test]
fn stopping_changes_nothing_of_what_the_hub_copies() {
    let mut east = holding_east();
    east.pass_seconds(1);
    let before = inventory_version(&east).map(str::to_owned);
    assert!(before.is_some());
    scales_down(&mut east);
    let watched = east.put(deployments(), "web", deployment(5, &CLAIMS));
    east.event(Event::Watched(watched));
    for _ in 0..30 {
        east.pass(Duration::from_millis(100));
        assert_eq!(inventory_version(&east), before.as_deref(), "{}", east.transcript);
    }
    let told = east.reported.clone().expect("a report");
    assert_eq!((told.role, told.epoch_seen, told.pods), (Role::Fenced, Epoch(2), 0));
    assert_eq!(told.inventory.expect("an inventory").workloads[0].replicas, 2);
    demotes(&mut east);
    east.pass_seconds(1);
    assert_eq!(inventory_version(&east), before.as_deref());
}

#[test]
fn a_claim_that_comes_before_the_stop_is_told_before_the_stop_is_acknowledged() {
    let mut east = holding_east();
    east.pods_obey = false;
    east.pass_seconds(1);
    scales_down(&mut east);
    east.pass(Duration::from_millis(950));
    east.transcript.clear();
    let volume = volume_object("extra", &east.name);
    let watched = east.put(Kind::Volume, "pv-extra", volume);
    east.event(Event::Watched(watched));
    let claim = claim_object("extra", &east.name);
    let watched = east.put(Kind::Claim, "extra", claim);
    east.event(Event::Watched(watched));
    for event in east.pods_end() {
        east.event(event);
    }
    east.pass_seconds(2);
    let told = east.transcript.rfind(", inventory").expect("a report with the claim");
    assert!(told < east.transcript.find("ScaleDown: Done").expect("an answer"), "{}", east.transcript);
}

#[test]
fn a_hub_that_has_restarted_is_told_the_inventory_of_a_stopped_holder_again() {
    let mut east = stopped_east();
    east.event(Event::HubDown);
    east.reported = None;
    east.event(Event::HubUp);
    east.pass_seconds(1);
    assert!(inventory_version(&east).is_some(), "{}", east.transcript);
}

#[test]
fn a_holder_that_fenced_itself_does_not_offer_its_inventory() {
    let mut east = holding_east();
    east.hears_denial(2, DenialReason::Superseded);
    east.reported = None;
    east.event(Event::HubDown);
    east.event(Event::HubUp);
    east.pass_seconds(1);
    let told = east.reported.clone().expect("a report");
    assert_eq!((told.role, told.inventory), (Role::Fenced, None));
}

#[test]
fn a_handover_waits_for_the_whole_condition_triple_of_every_claim() {
    let mut east = stopped_east();
    east.array = Array::IsSlowToCross;
    demotes(&mut east);
    east.pass_seconds(30);
    assert!(has_answered(&east, StepKind::Demote, "Working"), "{}", east.transcript);
    assert!(!has_answered(&east, StepKind::Demote, "Done"), "Completed alone has lost data elsewhere");
    east.array = Array::Mirrors;
    let answer = east.storage_answers("data");
    east.event(answer);
    east.pass_seconds(5);
    assert!(!has_answered(&east, StepKind::Demote, "Done"), "{}", east.transcript);
    let answer = east.storage_answers("logs");
    east.event(answer);
    east.pass_seconds(1);
    assert!(has_answered(&east, StepKind::Demote, "Done"), "{}", east.transcript);
}

#[test]
fn a_triple_of_the_generation_before_is_not_believed() {
    let mut east = stopped_east();
    for claim in CLAIMS {
        let key = (Kind::Replication, claim.to_owned());
        let mut stale = east.objects[&key].clone();
        stale["status"]["conditions"] = json!([
            {"type": "Completed", "status": "True", "reason": "Demoted"},
            {"type": "Degraded", "status": "False"}, {"type": "Resyncing", "status": "False"},
        ]);
        stale["status"]["state"] = json!("Secondary");
        let watched = east.put(Kind::Replication, claim, stale);
        east.event(Event::Watched(watched));
    }
    east.storage_obeys = false;
    demotes(&mut east);
    east.pass_seconds(5);
    assert_eq!(states(&east), ["secondary", "secondary"]);
    assert!(!has_answered(&east, StepKind::Demote, "Done"), "{}", east.transcript);
}

#[test]
fn a_claim_without_a_volumereplication_cannot_be_handed_over_and_is_named() {
    let mut east = stopped_east();
    let gone = east.remove(Kind::Replication, "logs").expect("a VolumeReplication");
    east.event(gone);
    demotes(&mut east);
    east.pass_seconds(2);
    assert!(has_answered(&east, StepKind::Demote, "Failing { reason: \"ClaimNotReplicated\""));
    assert!(east.transcript.contains("PersistentVolumeClaim shop/logs has no VolumeReplication"));
    assert!(!has_answered(&east, StepKind::Demote, "Done"), "{}", east.transcript);
}

#[test]
fn a_demotion_that_the_array_refuses_to_sync_is_told_and_goes_on() {
    let mut east = stopped_east();
    east.array = Array::RefusesToSync;
    demotes(&mut east);
    east.pass_seconds(1);
    assert!(has_answered(&east, StepKind::Demote, "Failing { reason: \"FailedToResync\""));
    east.array_becomes(Array::Mirrors);
    east.pass_seconds(1);
    assert!(has_answered(&east, StepKind::Demote, "Done"), "{}", east.transcript);
}

#[test]
fn that_everything_has_crossed_is_durable_before_it_is_acknowledged() {
    let mut east = stopped_east();
    east.array = Array::IsSlowToCross;
    demotes(&mut east);
    east.pass_seconds(1);
    east.writable = false;
    east.array_becomes(Array::Mirrors);
    east.pass_seconds(5);
    assert!(!has_answered(&east, StepKind::Demote, "Done"), "{}", east.transcript);
    assert_eq!(east.sites[&placement()].state.handed_over, None);
    east.writable = true;
    east.pass_seconds(6);
    assert!(has_answered(&east, StepKind::Demote, "Done"), "{}", east.transcript);
    assert_eq!(east.sites[&placement()].state.handed_over, Some(Epoch(2)));
}

#[test]
fn a_process_that_dies_between_the_record_and_the_answer_answers_when_asked_again() {
    let mut east = handed_over_east();
    let site = east.sites.get_mut(&placement()).expect("a DRSiteState");
    site.state.results.retain(|result| !result.command.contains("Demote"));
    east.start("boot-1");
    east.event(Event::HubUp);
    east.say("the next holder promotes early, so the triple is gone before the command comes again");
    east.array_becomes(Array::IsSlowToCross);
    east.transcript.clear();
    east.pass_seconds(1);
    demotes(&mut east);
    east.pass_seconds(1);
    assert!(has_answered(&east, StepKind::Demote, "Done"), "{}", east.transcript);
}

#[test]
fn an_agent_that_dies_at_any_point_of_a_handover_comes_to_the_same_end() {
    let mut points = 0;
    for dies_after in 0.. {
        let mut east = holding_east();
        east.pods_obey = false;
        east.array = Array::IsSlowToCross;
        let mut died = false;
        for turn in 0..60 {
            if turn == dies_after {
                east.start("boot-1");
                east.event(Event::HubUp);
                died = true;
            }
            match turn {
                20 => east.pods_end().into_iter().for_each(|event| east.event(event)),
                45 => east.array_becomes(Array::Mirrors),
                _ => {}
            }
            east.pass(Duration::from_millis(100));
            match has_answered(&east, StepKind::ScaleDown, "Done") {
                false => scales_down(&mut east),
                true => demotes(&mut east),
            }
            let demoted = states(&east).contains(&"secondary".to_owned());
            assert!(!demoted || turn >= 20, "demoted with a pod left:\n{}", east.transcript);
        }
        assert!(
            has_answered(&east, StepKind::Demote, "Done"),
            "died after {dies_after}:\n{}",
            east.transcript
        );
        assert_eq!(east.sites[&placement()].state.replicas[0].replicas, 2);
        points += 1;
        if !died {
            break;
        }
    }
    assert!(points > 50);
}

#[test]
fn a_standby_again_creates_nothing_and_touches_no_volumereplication() {
    let mut east = handed_over_east();
    let held = held_by_west(&east);
    east.transcript.clear();
    east.hears_assignment(held);
    east.pass_seconds(5);
    assert_eq!(east.role(), Some((Role::Standby, 2)));
    assert_eq!(states(&east), ["secondary", "secondary"]);
    assert!(!east.transcript.contains("create"), "{}", east.transcript);
    assert!(!east.transcript.contains("VolumeReplication"), "{}", east.transcript);
    let told = east.reported.clone().expect("a report");
    assert_eq!(told.staged, Some(inventory_of(&east).version.clone()));
    assert_eq!(told.divergence, Divergence::No);
}

#[test]
fn a_former_holder_that_has_not_handed_over_stays_fenced() {
    let mut east = stopped_east();
    let held = held_by_west(&east);
    east.hears_assignment(held);
    east.pass_seconds(2);
    assert_eq!(east.role(), Some((Role::Fenced, 2)));
    let told = east.reported.clone().expect("a report");
    assert_eq!(told.divergence, Divergence::Unknown);
}

#[test]
fn what_was_handed_over_at_one_epoch_says_nothing_of_the_next() {
    let mut east = handed_over_east();
    let told = east.reported.clone().expect("a report");
    assert_eq!((told.role, told.divergence), (Role::Fenced, Divergence::No));
    east.say("west was lost before east heard of it, and north has taken over");
    east.hears_assignment(assignment(3, Some("north"), "west"));
    east.pass_seconds(2);
    assert_eq!(east.role(), Some((Role::Fenced, 3)));
    let told = east.reported.clone().expect("a report");
    assert_eq!(told.divergence, Divergence::Unknown, "what crossed to west may never have reached north");
}

#[test]
fn a_placement_comes_back_to_the_cluster_that_handed_it_over() {
    let mut east = handed_over_east();
    let held = held_by_west(&east);
    let inventory = held.inventory.clone().expect("an inventory");
    east.hears_assignment(held);
    east.pass_seconds(1);
    east.transcript.clear();
    let back = "shop-failback-3";
    east.hears_command(back, StepKind::Restore, 3, Action::Restore { inventory });
    east.hears_command(back, StepKind::Promote, 3, promote(&CLAIMS, FenceProof::Acknowledged));
    east.pass_seconds(1);
    east.hears_assignment(assignment(3, Some("east"), "west"));
    east.hears_grant(3);
    let workloads = vec![WorkloadScale { workload: workload(), replicas: 4 }];
    east.hears_command(back, StepKind::ScaleUp, 3, Action::ScaleUp { workloads });
    east.pass_seconds(2);
    assert_eq!((east.role(), east.scaled_to()), (Some((Role::Holder, 3)), 4));
    assert_eq!(states(&east), ["primary", "primary"]);
    assert_eq!(east.sites[&placement()].state.handed_over, None);
    insta::assert_snapshot!(east.transcript);
}

#[test]
fn replays_and_stale_commands_of_a_move_change_nothing() {
    let mut east = handed_over_east();
    let held = held_by_west(&east);
    east.hears_assignment(held);
    east.pass_seconds(1);
    let before = (east.sites.clone(), states(&east));
    east.transcript.clear();
    scales_down(&mut east);
    demotes(&mut east);
    assert!(has_answered(&east, StepKind::ScaleDown, "Done"), "{}", east.transcript);
    assert!(has_answered(&east, StepKind::Demote, "Done"), "{}", east.transcript);
    east.transcript.clear();
    for (step, action) in [(StepKind::ScaleDown, Action::ScaleDown), (StepKind::Demote, Action::Demote)] {
        east.hears_command("shop-migrate-1", step, 1, action.clone());
        assert!(has_answered(&east, step, "Refused { refusal: StaleEpoch"), "{}", east.transcript);
        east.hears_command("another-2", step, 2, action);
        assert!(has_answered(&east, step, "Refused { refusal: Conflict"), "{}", east.transcript);
    }
    east.pass_seconds(2);
    assert_eq!((east.sites.clone(), states(&east)), before);
}

#[test]
fn a_holder_that_its_own_deadline_has_stopped_can_still_be_moved() {
    let mut east = holding_east();
    east.event(Event::HubDown);
    east.pass_seconds(12);
    assert_eq!(states(&east), ["secondary", "secondary"]);
    east.event(Event::HubUp);
    scales_down(&mut east);
    east.pass_seconds(2);
    assert!(has_answered(&east, StepKind::ScaleDown, "Done"), "{}", east.transcript);
    demotes(&mut east);
    east.pass_seconds(2);
    assert!(has_answered(&east, StepKind::Demote, "Done"), "{}", east.transcript);
    assert_eq!(inventory_of_report(&east).workloads[0].replicas, 2);
}

fn inventory_of_report(cluster: &Cluster) -> Shared<Inventory> {
    cluster.reported.clone().and_then(|report| report.inventory).expect("an inventory")
}

#[test]
fn a_stopped_holder_that_is_superseded_is_demoted_like_any_other() {
    let mut east = stopped_east();
    east.hears_assignment(assignment(3, Some("west"), "west"));
    east.pass_seconds(2);
    assert_eq!(east.role(), Some((Role::Fenced, 3)));
    assert_eq!(states(&east), ["secondary", "secondary"]);
}
