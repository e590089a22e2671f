//! Planned moves, as storage.md tells them: nothing is lost, and until the point of no return everything can be taken back.

use std::time::Duration;

use crds::operation::OperationPhase;
use hub_core::journal::Entry;
use hub_core::{Event, Now};
use proto::heartbeat::Known;
use proto::{DenialReason, Epoch, FromHub, Generation, Heartbeat, Hello, Nonce, Renewal, StepKind, WallTime};

use crate::story::{Story, approve, cluster, moving, moving_where, placement};

#[test]
fn a_migration_goes_step_by_step_as_the_document_says() {
    let mut story = moving();
    story.pass(6000);
    assert_eq!((story.holder().as_deref(), story.epoch()), (Some("west"), 2));
    insta::assert_snapshot!(story.told());
}

#[test]
fn a_failback_in_steady_state_is_the_same_with_the_clusters_exchanged() {
    let mut story = moving();
    story.pass(8000);
    story.forget_what_was_told();
    story.say("the user prefers east again");
    story.edit(|placement| placement.preferred = cluster("east"));
    story.pass(8000);
    assert_eq!((story.holder().as_deref(), story.epoch()), (Some("east"), 3));
    insta::assert_snapshot!(story.told());
}

#[test]
fn a_user_who_takes_the_wish_back_before_anything_is_promoted_gets_the_application_back_where_it_was() {
    let mut story = moving_where(|story| story.member("east").slow_demotion = true);
    story.pass(2000);
    story.say("the user prefers east after all");
    story.edit(|placement| placement.preferred = cluster("east"));
    story.pass(4000);
    assert_eq!((story.holder().as_deref(), story.epoch()), (Some("east"), 3), "{}", story.told());
    assert_eq!(story.member("east").pods, 1);
    assert!(story.told().contains("Abort shop-migrate-2"), "{}", story.told());
    // The way back is decided in the same step: the end of the move is told all the same.
    assert_eq!(story.phase("shop-migrate-2"), Some(OperationPhase::Aborted), "{}", story.told());
    assert_eq!(story.phase("shop-readopt-3"), Some(OperationPhase::Succeeded), "{}", story.told());
}

#[test]
fn a_handover_that_takes_too_long_is_rolled_back_and_not_tried_again_without_a_word() {
    let mut story = moving_where(|story| story.member("east").slow_demotion = true);
    story.pass(70_000);
    let pods = story.member("east").pods;
    assert_eq!((story.holder().as_deref(), pods), (Some("east"), 1), "{}", story.told());
    assert!(story.told().contains("waits   RolledBack"), "{}", story.told());
    assert_eq!(story.told().matches("record  Intent shop-migrate").count(), 1, "{}", story.told());
    let missing = "it stood at Demote (east: ";
    assert!(story.told().contains(missing), "{}", story.told());
    story.say("the link is mended");
    story.member("east").slow_demotion = false;
    approve(&mut story, "shop-migrate-4", 4);
    story.pass(6000);
    assert_eq!(story.holder().as_deref(), Some("west"), "{}", story.told());
}

#[test]
fn a_claim_that_can_never_cross_brings_the_application_back_at_once() {
    let mut story =
        moving_where(|story| story.member("east").fails = Some((StepKind::Demote, "ClaimNotReplicated")));
    story.pass(4000);
    assert_eq!((story.holder().as_deref(), story.epoch()), (Some("east"), 3), "{}", story.told());
    assert_eq!(story.member("east").pods, 1);
    assert_eq!(story.phase("shop-migrate-2"), Some(OperationPhase::Aborted), "{}", story.told());
}

#[test]
fn nothing_is_stopped_for_a_move_that_is_known_not_to_end() {
    let mut story = Story::protected();
    let west = story.member("west");
    (west.stages, west.staged) = (false, None);
    story.pass(1000);
    story.edit(|placement| placement.preferred = cluster("west"));
    story.pass(3000);
    assert!(story.told().contains("waits   ManifestsMissing"), "{}", story.told());
    let mut pending = Story::protected();
    pending.member("east").later = Some(proto::VolumeState {
        claim: "pending".to_owned(),
        handle: None,
        bound: false,
        attached: false,
        replication: None,
    });
    pending.pass(1000);
    pending.edit(|placement| placement.preferred = cluster("west"));
    pending.pass(3000);
    assert!(pending.told().contains("waits   ReplicationError"), "{}", pending.told());
    for story in [story, pending] {
        assert!(!story.told().contains("ScaleDown"), "{}", story.told());
    }
}

/// Seen on real networks: with the storage's link cut, an edit stopped the application for a copy that could not cross.
#[test]
fn nothing_is_stopped_for_a_move_while_no_copy_arrives() {
    let mut story = Story::protected();
    story.edit(|placement| placement.max_data_loss = Some(Duration::from_secs(20)));
    story.member("east").syncs = false;
    story.pass(21_000);
    story.edit(|placement| placement.preferred = cluster("west"));
    story.pass(3000);
    assert!(story.told().contains("waits   StaleCopy"), "{}", story.told());
    assert!(!story.told().contains("ScaleDown"), "{}", story.told());
    story.say("the link is mended");
    story.member("east").syncs = true;
    story.pass(6000);
    assert_eq!((story.holder().as_deref(), story.epoch()), (Some("west"), 2), "{}", story.told());
}

#[test]
fn past_the_point_of_no_return_a_change_of_mind_waits_for_its_turn() {
    let mut story = moving_where(|story| story.member("west").slow = true);
    story.pass(2000);
    assert_eq!(story.holder().as_deref(), Some("west"), "{}", story.told());
    story.say("the user prefers east again, and west's pods start at last");
    story.edit(|placement| placement.preferred = cluster("east"));
    story.pass(2000);
    assert!(!story.told().contains("Abort"), "{}", story.told());
    story.member("west").slow = false;
    story.member("west").pods = 1;
    story.pass(8000);
    assert_eq!((story.holder().as_deref(), story.epoch()), (Some("east"), 3), "{}", story.told());
}

#[test]
fn a_paused_placement_is_not_moved() {
    let mut story = Story::protected();
    story.edit(|placement| {
        placement.preferred = cluster("west");
        placement.paused = true;
    });
    story.pass(6000);
    assert!(!story.told().contains("Intent"), "{}", story.told());
    assert!(story.told().contains("waits   Paused"), "{}", story.told());
}

#[test]
fn a_pause_during_a_handover_promotes_nothing_and_the_deadline_brings_the_application_back() {
    let mut story = moving_where(|story| story.member("east").slow_demotion = true);
    story.pass(1000);
    story.edit(|placement| placement.paused = true);
    story.member("east").slow_demotion = false;
    story.pass(10_000);
    assert_eq!(story.promotions(), 0, "{}", story.told());
    story.pass(60_000);
    let pods = story.member("east").pods;
    assert_eq!((story.holder().as_deref(), pods), (Some("east"), 1), "{}", story.told());
}

#[test]
fn nothing_is_moved_to_a_cluster_that_is_not_heard() {
    let mut story = Story::protected();
    story.member("west").linked = false;
    story.pass(4000);
    story.edit(|placement| placement.preferred = cluster("west"));
    story.pass(4000);
    assert!(!story.told().contains("Intent"), "{}", story.told());
    assert!(story.told().contains("waits   PeerSilent"), "{}", story.told());
}

#[test]
fn a_placement_that_is_deleted_in_the_middle_leaves_the_application_running_where_it_was() {
    let mut story = moving_where(|story| story.member("east").slow_demotion = true);
    story.pass(1000);
    story.edit(|placement| placement.deleting = true);
    story.pass(6000);
    let pods = story.member("east").pods;
    assert_eq!(pods, 1, "{}", story.told());
    assert!(story.told().contains("let go"), "{}", story.told());
}

/// A hub that starts learns of the holder by its first heartbeat, and may begin a move by it: the answer to that very
/// heartbeat grants nothing any more (R2).
#[test]
fn the_heartbeat_that_begins_a_move_is_not_answered_with_a_grant() {
    let mut story = Story::protected();
    story.kill_hub();
    story.edit(|placement| placement.preferred = cluster("west"));
    story.restart_hub();
    for name in ["west", "east"] {
        let report = story.member(name).report();
        let known = vec![Known { placement: placement().id, epoch: report.epoch_seen, role: report.role }];
        let hello = Hello { cluster: cluster(name), version: "0.1.0".to_owned(), known };
        story.step(Event::Connected(hello));
        story.step(Event::Report(Box::new(report)));
    }
    let heartbeat = |name: &str, renewals| Heartbeat {
        cluster: cluster(name),
        nonce: Nonce(1_000),
        api_write_age: Some(Duration::from_millis(100)),
        renewals,
        paths: Vec::new(),
    };
    story.step(Event::Heartbeat(heartbeat("west", Vec::new())));
    let renewal =
        Renewal { placement: placement().id, epoch: Epoch(1), echo: Generation(1), gates: Vec::new() };
    let now = Now { boot: story.now, wall: WallTime(1_767_225_600_000) };
    let hub = story.hub.as_mut().expect("a hub");
    let decision = hub.step(now, Event::Heartbeat(heartbeat("east", vec![renewal])));
    assert!(decision.record.iter().any(|entry| matches!(entry, Entry::Intent(_))), "{:?}", decision.record);
    let replies = decision.send.iter().filter_map(|send| match &send.message {
        FromHub::Reply(reply) => Some(reply),
        FromHub::Assignment(_) | FromHub::Unassign(_) | FromHub::Command(_) => None,
    });
    let replies: Vec<_> = replies.collect();
    assert!(!replies.is_empty() && replies.iter().all(|reply| reply.grants.is_empty()), "{replies:?}");
    assert_eq!(replies[0].denials[0].reason, DenialReason::NotNow);
}

/// storage.md, rule 12: a readiness check, before the disaster.
#[test]
fn a_target_whose_driver_has_no_leader_is_none() {
    let mut story = Story::protected();
    story.member("west").driver_leads = false;
    story.pass(1000);
    story.edit(|placement| placement.preferred = cluster("west"));
    story.pass(2000);
    assert!(!story.told().contains("Intent"), "{}", story.told());
    assert!(story.told().contains("waits   NoDriverLeader"), "{}", story.told());
}

#[test]
fn a_new_holder_that_never_gets_ready_does_not_keep_the_user_from_going_elsewhere() {
    let mut story = moving_where(|story| story.member("west").slow = true);
    story.pass(2000);
    story.say("the user prefers east again");
    story.edit(|placement| placement.preferred = cluster("east"));
    story.pass(20_000);
    assert!(story.told().contains("Cut shop-migrate-2: shop/shop prefers east now"), "{}", story.told());
    assert!(story.told().contains("Intent shop-migrate-3 to east"), "{}", story.told());
}

#[test]
fn a_new_holder_that_is_lost_before_it_is_ready_can_be_failed_over_in_turn() {
    let mut story = moving_where(|story| story.member("west").slow = true);
    story.pass(4000);
    story.kill("west");
    story.pass(20_000);
    assert!(story.told().contains("Cut shop-migrate-2: west is silent"), "{}", story.told());
    assert_eq!((story.holder().as_deref(), story.epoch()), (Some("east"), 3), "{}", story.told());
}

#[test]
fn a_holder_that_is_lost_after_it_has_handed_over_is_not_waited_for() {
    let mut story = moving_where(|story| story.api_answers = false);
    story.pass(1000);
    assert!(story.told().contains("Step Demote Acknowledged"), "{}", story.told());
    story.kill("east");
    story.pass(6000);
    story.api_answers = true;
    story.pass(3000);
    assert_eq!((story.holder().as_deref(), story.epoch()), (Some("west"), 2), "{}", story.told());
}

#[test]
fn a_hub_that_stops_for_a_moment_takes_a_dead_holder_for_no_living_one() {
    let mut story = Story::protected();
    story.kill("east");
    story.pass(5000);
    assert!(story.told().contains("Intent shop-failover-2"), "{}", story.told());
    story.say("the hub is stopped for two seconds");
    story.now = story.now + Duration::from_secs(2);
    story.pass(15_000);
    assert!(!story.told().contains("Abort"), "{}", story.told());
    assert_eq!(story.holder().as_deref(), Some("west"), "{}", story.told());
}
