//! Placements that leave this cluster: released, or no longer assigned.

use std::time::Duration;

use agent_core::{AskId, Event, Kind};
use proto::{Action, Assignment, DenialReason, Epoch, FromHub, HoldRequest, PlacementId, Role, StepKind};

use crate::cluster::*;

#[test]
fn release_removes_only_what_is_ours() {
    let mut east = holding_east();
    east.transcript.clear();
    east.hears_command("shop-release-1", StepKind::Release, 1, Action::Release);
    assert_eq!(east.role(), None);
    assert_eq!(east.scaled_to(), 2);
    assert!(east.replication_states().iter().all(|(_, state)| state == "primary"));
    east.say("the command comes twice, and the placement goes");
    east.hears_command("shop-release-1", StepKind::Release, 1, Action::Release);
    east.hears(FromHub::Unassign(placement()));
    east.pass_seconds(30);
    assert_eq!(east.scaled_to(), 2, "what is released is left alone");
    insta::assert_snapshot!(east.transcript);
}

/// The application may have been moved by hand while nobody looked: an old list would have it adopted where it no longer is.
#[test]
fn what_was_seen_before_a_release_is_not_believed_after_it() {
    let mut east = holding_east();
    east.hears_command("shop-release-1", StepKind::Release, 1, Action::Release);
    east.hears(FromHub::Unassign(placement()));
    east.pass_seconds(1);
    east.reported = None;
    let away = east.objects.keys().filter(|(kind, _)| *kind != Kind::AddonsNode).cloned().collect::<Vec<_>>();
    for (kind, name) in away {
        // Nobody watches, so nobody is told.
        east.remove(kind, &name);
    }
    let anew = PlacementId::parse("made-anew").expect("a uid");
    east.hears_assignment(Assignment { placement: anew, ..assignment(0, None, "west") });
    east.pass_seconds(2);
    assert_eq!(east.reported, None, "{}", east.transcript);
    east.list_everything();
    east.pass_seconds(2);
    let report = east.reported.expect("a report, once everything has been read");
    assert!(report.volumes.is_empty() && report.pods == 0, "{report:?}");
}

#[test]
fn a_release_of_a_hub_that_has_lost_its_journal_is_taken() {
    let mut east = holding_east();
    east.hears_command("shop-release-0", StepKind::Release, 0, Action::Release);
    assert_eq!(east.role(), None);
    assert!(east.transcript.contains("acknowledge shop-release-0/Release: Done"), "{}", east.transcript);
}

#[test]
fn a_deletion_that_the_watch_tells_first_leaves_nothing_behind() {
    let mut east = holding_east();
    east.watch_is_faster = true;
    east.hears_command("shop-release-1", StepKind::Release, 1, Action::Release);
    east.pass_seconds(1);
    assert_eq!(east.role(), None, "a DRSiteState would refuse pods for ever");
}

#[test]
fn an_assignment_that_crosses_a_release_leaves_nothing_behind() {
    let mut west = standby_west();
    west.writable = false;
    west.hears_command("shop-release-1", StepKind::Release, 1, Action::Release);
    west.hears_assignment(assignment(1, Some("east"), "east"));
    west.writable = true;
    west.pass_seconds(1);
    assert_eq!(west.role(), None);
    west.say("and one right after it, when the link comes back");
    west.event(Event::HubUp);
    west.hears_assignment(assignment(1, Some("east"), "east"));
    west.pass_seconds(1);
    west.hears(FromHub::Unassign(placement()));
    west.pass_seconds(1);
    assert_eq!(west.role(), None, "a DRSiteState would refuse pods for ever");
}

/// Denied, and its pods take their time to end.
fn east_that_stops_slowly() -> Cluster {
    let mut east = holding_east();
    east.pods_obey = false;
    east.pass_seconds(1);
    east.hears_denial(2, DenialReason::Superseded);
    east.pass_seconds(1);
    assert_eq!(east.role(), Some((Role::Fenced, 2)));
    east.hears_command("shop-release-2", StepKind::Release, 2, Action::Release);
    east
}

#[test]
fn a_release_lets_a_fence_end_first() {
    let mut east = east_that_stops_slowly();
    east.pass_seconds(2);
    assert_eq!(east.role(), Some((Role::Fenced, 2)), "its pods still run, so new ones stay refused");
    assert!(east.transcript.contains("acknowledge shop-release-2/Release: Working"), "{}", east.transcript);
    for event in east.pods_end() {
        east.event(event);
    }
    east.pass_seconds(1);
    assert!(east.replication_states().iter().all(|(_, state)| state == "secondary"));
    assert_eq!(east.role(), None);
    assert!(east.transcript.contains("acknowledge shop-release-2/Release: Done"), "{}", east.transcript);
}

#[test]
fn a_release_waits_for_a_fence_no_longer_than_stopping_may_take() {
    let mut east = east_that_stops_slowly();
    east.pass(timing().stop - Duration::from_millis(100));
    assert_eq!(east.role(), Some((Role::Fenced, 2)));
    east.pass_seconds(1);
    assert_eq!(east.role(), None);
    assert!(east.transcript.contains("acknowledge shop-release-2/Release: Done"), "{}", east.transcript);
}

#[test]
fn an_unassignment_does_not_cut_a_release_short() {
    let mut west = standby_west();
    west.writable = false;
    west.hears_command("shop-release-1", StepKind::Release, 1, Action::Release);
    west.hears(FromHub::Unassign(placement()));
    west.writable = true;
    west.pass_seconds(1);
    assert_eq!(west.role(), None);
}

#[test]
fn a_standby_that_was_unassigned_can_still_be_released() {
    let mut west = standby_west();
    west.hears(FromHub::Unassign(placement()));
    west.pass_seconds(1);
    assert_eq!(west.role(), Some((Role::Standby, 1)), "nothing in the cluster changes");
    west.hears_command("shop-release-1", StepKind::Release, 1, Action::Release);
    west.pass_seconds(1);
    assert_eq!(west.role(), None);
    assert!(west.transcript.contains("acknowledge shop-release-1/Release: Done"), "{}", west.transcript);
}

#[test]
fn an_unassigned_holder_lives_on_by_its_lease_and_stops_without_one() {
    let mut east = holding_east();
    east.hears(FromHub::Unassign(placement()));
    for _ in 0..20 {
        east.pass_seconds(1);
        east.hears_grant(1);
    }
    assert_eq!(east.role(), Some((Role::Holder, 1)), "it renews, and is granted");
    east.event(Event::HubDown);
    east.pass_seconds(11);
    assert_eq!(east.role(), Some((Role::Fenced, 1)));
    assert_eq!(east.scaled_to(), 0);
}

#[test]
fn an_unassignment_does_not_end_a_fence() {
    let mut east = holding_east();
    east.pods_obey = false;
    east.pass_seconds(1);
    east.hears_denial(2, DenialReason::Superseded);
    east.pass_seconds(1);
    east.hears(FromHub::Unassign(placement()));
    for event in east.pods_end() {
        east.event(event);
    }
    let watched = east.put(deployments(), "web", deployment(2, &["data", "logs"]));
    east.event(Event::Watched(watched));
    east.pass_seconds(3);
    assert_eq!(east.scaled_to(), 0);
    assert!(east.replication_states().iter().all(|(_, state)| state == "secondary"));
}

#[test]
fn a_standby_that_was_unassigned_promises_nothing() {
    let mut west = standby_west();
    west.hears(FromHub::Unassign(placement()));
    west.transcript.clear();
    let request = HoldRequest {
        holder: cluster("east"),
        placement: placement(),
        epoch: Epoch(1),
        stop: timing().stop,
        gates: Vec::new(),
    };
    west.event(Event::HoldAsked { ask: AskId(1), request });
    west.pass_seconds(1);
    assert!(west.transcript.contains("answer question 1: Refused"), "{}", west.transcript);
}
