//! Stopping in time, in order.

use std::time::Duration;

use agent_core::{Event, Kind};
use proto::{Action, DenialReason, Role, StepKind};

use crate::cluster::*;

#[test]
fn a_holder_cut_off_fences_itself_in_the_protocols_order() {
    let mut east = holding_east();
    east.transcript.clear();
    east.pods_obey = false;
    east.storage_obeys = false;
    east.say("cut off from hub and peer");
    east.event(Event::HubDown);
    east.pass(Duration::from_millis(9_600));
    east.say("the pods end two seconds later");
    east.pass_seconds(2);
    for event in east.pods_end() {
        east.event(event);
    }
    east.say("the storage driver answers");
    for claim in ["data", "logs"] {
        let answer = east.storage_answers(claim);
        east.event(answer);
    }
    east.pass_seconds(1);
    insta::assert_snapshot!(east.transcript);
}

#[test]
fn volumes_are_never_demoted_while_a_pod_or_an_attachment_is_left() {
    let mut east = holding_east();
    east.pods_obey = false;
    east.event(Event::HubDown);
    east.pass_seconds(20);
    assert_eq!(east.scaled_to(), 0);
    let gone = east.remove(Kind::Pod, "web-1").expect("a pod");
    east.event(gone);
    east.pass_seconds(5);
    assert!(
        east.replication_states().iter().all(|(_, state)| state == "primary"),
        "volumes are still attached"
    );
    for event in east.pods_end() {
        east.event(event);
    }
    east.pass_seconds(1);
    assert!(east.replication_states().iter().all(|(_, state)| state == "secondary"));
}

#[test]
fn a_pod_that_an_old_list_shows_after_its_deletion_does_not_hold_up_a_fence() {
    let mut east = holding_east();
    east.pods_obey = false;
    east.event(Event::HubDown);
    east.pass_seconds(11);
    assert_eq!(east.role(), Some((Role::Fenced, 1)));
    let old = east.list_of(Kind::Pod);
    let gone = east.remove(Kind::Pod, "web-1").expect("a pod");
    east.event(gone);
    east.event(Event::Watched(old));
    for event in east.pods_end() {
        east.event(event);
    }
    east.pass_seconds(2);
    assert!(east.replication_states().iter().all(|(_, state)| state == "secondary"), "{}", east.transcript);
}

/// Its lease has run out and its scale to zero is under way when the hub grants the lease again.
fn east_granted_again_while_it_stops() -> Cluster {
    let mut east = holding_east();
    east.stops_linger = true;
    east.event(Event::HubDown);
    east.pass_seconds(10);
    assert_eq!((east.role(), east.scaled_to()), (Some((Role::Fenced, 1)), 2));
    assert_eq!(east.lingering.len(), 1, "{}", east.transcript);
    east.stops_linger = false;
    east
}

fn is_granted_for(east: &mut Cluster, seconds: u64) {
    for _ in 0..seconds {
        east.hears_grant(1);
        east.pass_seconds(1);
    }
}

#[test]
fn a_scale_to_zero_that_lands_after_the_lease_is_granted_again_is_undone() {
    let mut east = east_granted_again_while_it_stops();
    east.event(Event::HubUp);
    is_granted_for(&mut east, 2);
    assert_eq!(east.role(), Some((Role::Holder, 1)));
    east.lingering_stops_land(true);
    is_granted_for(&mut east, 2);
    assert_eq!(east.scaled_to(), 2, "{}", east.transcript);
}

#[test]
fn a_scale_to_zero_that_was_given_up_and_lands_all_the_same_is_undone() {
    let mut east = east_granted_again_while_it_stops();
    east.event(Event::HubUp);
    is_granted_for(&mut east, 1);
    east.lingering_stops_are_given_up();
    is_granted_for(&mut east, 4);
    east.lingering_stops_land(false);
    is_granted_for(&mut east, 2);
    assert_eq!(east.scaled_to(), 2, "{}", east.transcript);
    is_granted_for(&mut east, 6);
    assert!(east.sites[&placement()].state.replicas.is_empty(), "nothing can stop it any more");
}

#[test]
fn replicas_that_others_have_changed_after_a_start_are_left_alone() {
    let mut east = holding_east();
    east.event(Event::HubDown);
    east.pass_seconds(11);
    assert_eq!(east.scaled_to(), 0);
    east.event(Event::HubUp);
    is_granted_for(&mut east, 1);
    assert_eq!(east.scaled_to(), 2);
    let watched = east.put(deployments(), "web", deployment(5, &["data", "logs"]));
    east.event(Event::Watched(watched));
    is_granted_for(&mut east, 10);
    assert_eq!(east.scaled_to(), 5);
}

#[test]
fn a_superseded_holder_fences_at_once_at_the_newer_epoch() {
    let mut east = holding_east();
    east.transcript.clear();
    east.pass_seconds(1);
    east.hears_denial(2, DenialReason::Superseded);
    east.pass_seconds(1);
    assert_eq!(east.role(), Some((Role::Fenced, 2)));
    insta::assert_snapshot!(east.transcript);
}

#[test]
fn a_fence_command_is_done_only_when_everything_has_stopped() {
    let mut east = holding_east();
    east.transcript.clear();
    east.pods_obey = false;
    east.hears_command("shop-failover-2", StepKind::Fence, 2, Action::Fence);
    east.pass_seconds(2);
    for event in east.pods_end() {
        east.event(event);
    }
    east.pass_seconds(1);
    insta::assert_snapshot!(east.transcript);
}

#[test]
fn without_an_api_server_that_takes_notes_stopping_is_still_tried_in_time() {
    let mut east = holding_east();
    east.writable = false;
    east.event(Event::HubDown);
    east.pass_seconds(11);
    assert_eq!(east.scaled_to(), 0, "a note that cannot be taken must not keep the application running");
}

#[test]
fn whoever_scales_a_fenced_workload_up_again_is_undone() {
    let mut east = holding_east();
    east.event(Event::HubDown);
    east.pass_seconds(11);
    let watched = east.put(deployments(), "web", deployment(3, &["data", "logs"]));
    east.event(Event::Watched(watched));
    east.pass_seconds(2);
    assert_eq!(east.scaled_to(), 0);
}

#[test]
fn a_site_that_stopped_itself_starts_again_when_the_hub_grants_the_same_epoch() {
    let mut east = holding_east();
    east.event(Event::HubDown);
    east.pass_seconds(11);
    assert_eq!(east.role(), Some((Role::Fenced, 1)));
    east.transcript.clear();
    east.say("the hub is back, and nobody else has taken over");
    east.event(Event::HubUp);
    east.hears_assignment(assignment(1, Some("east"), "west"));
    east.pass_seconds(1);
    assert_eq!(east.scaled_to(), 0, "a returned site stays down until granted (S21)");
    east.hears_grant(1);
    east.pass_seconds(2);
    assert_eq!(east.scaled_to(), 2);
    assert!(east.replication_states().iter().all(|(_, state)| state == "primary"));
    insta::assert_snapshot!(east.transcript);
}

#[test]
fn a_holder_whose_application_is_scaled_to_nothing_gets_its_volumes_back_after_its_own_fence() {
    let mut east = holding_east();
    let watched = east.put(deployments(), "web", deployment(0, &["data", "logs"]));
    east.event(Event::Watched(watched));
    for event in east.pods_end() {
        east.event(event);
    }
    east.event(Event::HubDown);
    east.pass_seconds(12);
    assert!(east.replication_states().iter().all(|(_, state)| state == "secondary"));
    east.event(Event::HubUp);
    east.hears_assignment(assignment(1, Some("east"), "west"));
    east.pass_seconds(1);
    east.hears_grant(1);
    east.pass_seconds(1);
    assert_eq!(east.role(), Some((Role::Holder, 1)));
    assert!(east.replication_states().iter().all(|(_, state)| state == "primary"));
    assert_eq!(east.scaled_to(), 0);
}
