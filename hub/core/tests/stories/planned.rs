//! Planned moves, as storage.md tells them: nothing is lost, and until the point of no return everything can be taken back.

use std::time::Duration;

use crds::operation::OperationPhase;
use hub_core::approval::Approval;
use hub_core::journal::Entry;
use hub_core::placement::Mode;
use hub_core::{Event, Now};
use proto::heartbeat::Known;
use proto::{
    DenialReason, Divergence, Epoch, FromHub, Generation, Heartbeat, Hello, Nonce, Renewal, Role, WallTime,
};

use crate::story::{Crash, Story, cluster, placement};

/// East's application, and the user prefers west now.
fn moving() -> Story {
    moving_where(|_| {})
}

fn moving_where(prepare: impl FnOnce(&mut Story)) -> Story {
    let mut story = Story::protected();
    prepare(&mut story);
    story.say("the user prefers west");
    story.edit(|placement| placement.preferred = cluster("west"));
    story
}

/// East was lost and west has taken over; east is back, stopped, with its outdated copy.
fn after_a_disaster() -> Story {
    let mut story = Story::protected();
    story.kill("east");
    story.pass(14_000);
    assert_eq!(story.holder().as_deref(), Some("west"), "{}", story.told());
    story.forget_what_was_told();
    story.say("east returns, and fences itself before it speaks");
    let east = story.member("east");
    (east.up, east.role, east.epoch) = (true, Role::Fenced, Epoch(1));
    (east.pods, east.wants, east.divergence) = (0, 0, Divergence::Unknown);
    for member in &mut story.members {
        member.sees.values_mut().for_each(|sees| *sees = true);
    }
    story.pass(3000);
    story
}

fn approve(story: &mut Story, operation: &str, epoch: u64) {
    let generation = story.placement.generation;
    answer(story, operation, epoch, generation, true);
}

fn answer(story: &mut Story, operation: &str, epoch: u64, generation: Generation, approve: bool) {
    let word = if approve { "approves" } else { "declines" };
    story.say(&format!("ops {word} {operation}"));
    story.step(Event::ApprovalSeen(Box::new(approval(operation, epoch, generation, approve))));
}

fn approval(operation: &str, epoch: u64, generation: Generation, approve: bool) -> Approval {
    Approval {
        namespace: "shop".to_owned(),
        name: format!("answer-to-{operation}"),
        operation: operation.to_owned(),
        placement: "shop".to_owned(),
        epoch: Epoch(epoch),
        generation,
        approver: "ops".to_owned(),
        approve,
        asserts_off: None,
        expires: None,
        created: None,
    }
}

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
fn after_a_disaster_the_old_copy_is_made_anew_and_the_application_goes_back_when_somebody_says_so() {
    let mut story = after_a_disaster();
    assert!(story.told().contains("waits   DivergedData"), "{}", story.told());
    approve(&mut story, "shop-resync-2", 2);
    story.pass(8000);
    assert!(story.told().contains("Proposal shop-failback-3"), "{}", story.told());
    approve(&mut story, "shop-failback-3", 3);
    story.pass(1000);
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

#[test]
fn an_approval_counts_only_for_the_operation_the_epoch_and_the_wording_that_it_names() {
    let mut story = after_a_disaster();
    let generation = story.placement.generation;
    answer(&mut story, "shop-resync-1", 2, generation, true);
    answer(&mut story, "shop-resync-2", 1, generation, true);
    story.pass(1000);
    answer(&mut story, "shop-resync-2", 2, Generation(generation.0 + 1), true);
    story.pass(1000);
    let mut expired = approval("shop-resync-2", 2, generation, true);
    expired.expires = Some(proto::WallTime(0));
    story.step(Event::ApprovalSeen(Box::new(expired)));
    story.pass(1000);
    assert!(!story.told().contains("Intent"), "{}", story.told());
}

#[test]
fn an_approval_for_a_placement_that_was_deleted_counts_for_none_that_is_made_anew() {
    let mut story = after_a_disaster();
    story.placement.created = Some(proto::WallTime(2));
    story.step(Event::PlacementSeen(Box::new(story.placement.clone())));
    let generation = story.placement.generation;
    let mut left_over = approval("shop-resync-2", 2, generation, true);
    left_over.created = Some(proto::WallTime(1));
    story.step(Event::ApprovalSeen(Box::new(left_over.clone())));
    story.pass(1000);
    assert!(!story.told().contains("Intent"), "{}", story.told());

    left_over.created = Some(proto::WallTime(2));
    story.step(Event::ApprovalSeen(Box::new(left_over)));
    story.pass(1000);
    assert!(story.told().contains("Intent"), "{}", story.told());
}

#[test]
fn a_no_counts_more_than_a_yes() {
    let mut story = after_a_disaster();
    let generation = story.placement.generation;
    let mut no = approval("shop-resync-2", 2, generation, false);
    no.name = "a-no".to_owned();
    story.step(Event::ApprovalSeen(Box::new(no)));
    approve(&mut story, "shop-resync-2", 2);
    story.pass(1000);
    assert!(!story.told().contains("Intent"), "{}", story.told());
    story.step(Event::ApprovalGone("shop".to_owned(), "a-no".to_owned()));
    story.pass(1000);
    assert!(story.told().contains("Intent shop-resync-2"), "{}", story.told());
}

#[test]
fn an_approval_of_a_proposal_that_was_withdrawn_counts_for_no_later_one() {
    let mut story = Story::protected();
    story.edit(|placement| placement.mode = Mode::Confirm);
    story.pass(2000);
    story.kill("east");
    story.pass(8000);
    assert!(story.told().contains("Proposal shop-failover-2 "), "{}", story.told());
    story.say("east returns");
    let east = story.member("east");
    (east.up, east.pods) = (true, 1);
    story.pass(2000);
    assert!(story.told().contains("Withdrawn shop-failover-2"), "{}", story.told());
    approve(&mut story, "shop-failover-2", 2);
    story.kill("east");
    story.pass(15_000);
    assert!(story.told().contains("Proposal shop-failover-2-1"), "{}", story.told());
    assert_eq!(story.epoch(), 1, "{}", story.told());
}

#[test]
fn in_mode_confirm_a_failover_is_proposed_and_done_by_an_approval() {
    let mut story = Story::protected();
    story.edit(|placement| placement.mode = Mode::Confirm);
    story.pass(2000);
    story.kill("east");
    story.pass(12_000);
    assert_eq!(story.epoch(), 1, "{}", story.told());
    approve(&mut story, "shop-failover-2", 2);
    story.pass(6000);
    assert_eq!((story.holder().as_deref(), story.epoch()), (Some("west"), 2), "{}", story.told());
    assert!(!story.told().contains("Block"), "a human has looked: {}", story.told());
}

#[test]
fn in_mode_manual_nothing_is_proposed_before_the_user_prefers_the_survivor() {
    let mut story = Story::protected();
    story.edit(|placement| placement.mode = Mode::Manual);
    story.pass(2000);
    story.kill("east");
    story.pass(12_000);
    assert!(!story.told().contains("Proposal"), "{}", story.told());
    story.edit(|placement| placement.preferred = cluster("west"));
    story.pass(1000);
    assert!(story.told().contains("Proposal shop-failover-2"), "{}", story.told());
}

#[test]
fn where_waiting_proves_nothing_a_yes_without_the_assertion_moves_nothing() {
    let mut story = Story::protected();
    story.edit(|placement| {
        placement.mode = Mode::Confirm;
        placement.policy.on_silence = proto::OnSilence::Continue;
    });
    story.pass(2000);
    story.kill("east");
    story.pass(12_000);
    approve(&mut story, "shop-failover-2", 2);
    story.pass(20_000);
    assert_eq!((story.promotions(), story.epoch()), (0, 1), "{}", story.told());
    let mut vouched = approval("shop-failover-2", 2, story.placement.generation, true);
    (vouched.name, vouched.asserts_off) = ("vouched".to_owned(), Some(cluster("east")));
    story.say("ops vouches that east is off");
    story.step(Event::ApprovalSeen(Box::new(vouched)));
    story.pass(3000);
    assert_eq!(story.holder().as_deref(), Some("west"), "{}", story.told());
    assert!(story.told().contains("Fence Asserted"), "{}", story.told());
}

#[test]
fn a_resync_that_nobody_has_approved_is_not_done_unless_it_was_declared() {
    let mut asked = after_a_disaster();
    asked.pass(10_000);
    assert!(!asked.told().contains("/Resync at epoch"), "{}", asked.told());
    let mut declared = Story::protected();
    declared.edit(|placement| placement.failback.resync_automatic = true);
    declared.kill("east");
    declared.pass(14_000);
    let east = declared.member("east");
    (east.up, east.role, east.epoch) = (true, Role::Fenced, Epoch(1));
    (east.pods, east.wants, east.divergence) = (0, 0, Divergence::Unknown);
    declared.pass(8000);
    assert!(declared.told().contains("east: shop-resync-2/Resync at epoch 2"), "{}", declared.told());
}

#[test]
fn an_automatic_failback_waits_until_the_copy_has_been_whole_for_long_enough() {
    let mut story = after_a_disaster();
    story.edit(|placement| {
        placement.failback.automatic = true;
        placement.failback.resync_automatic = true;
    });
    story.pass(40_000);
    assert_eq!(story.holder().as_deref(), Some("west"), "{}", story.told());
    story.pass(60_000);
    assert_eq!((story.holder().as_deref(), story.epoch()), (Some("east"), 3), "{}", story.told());
}

#[test]
fn the_copy_counts_again_only_when_the_holder_has_synced_it_after_the_resync() {
    let mut story = after_a_disaster();
    story.member("west").syncs = false;
    approve(&mut story, "shop-resync-2", 2);
    story.pass(6000);
    assert!(!story.told().contains("/Rejoin"), "{}", story.told());
    story.member("west").syncs = true;
    story.pass(4000);
    assert!(story.told().contains("Commit shop-resync-2"), "{}", story.told());
}

/// Invariants S9, S10 and S12 for the procedures that take turns: the hub is killed within each of their decisions, before
/// and after it sends, and starts again from its journal.
fn survives_a_kill_within_any_decision(
    begin: impl Fn() -> Story,
    go_on: impl Fn(&mut Story),
    epoch: u64,
    holder: &str,
) {
    let decisions = {
        let mut story = begin();
        let before = story.decisions;
        go_on(&mut story);
        story.pass(20_000);
        before..story.decisions
    };
    assert!(decisions.len() >= 4, "it takes more decisions than {decisions:?}");
    for number in decisions {
        for crash in [Crash::Recorded, Crash::Sent] {
            let mut story = begin();
            story.crash = Some((number + 1, crash));
            go_on(&mut story);
            while story.hub.is_some() {
                story.pass(20);
            }
            story.crash = None;
            story.pass(500);
            story.restart_hub();
            go_on(&mut story);
            story.pass(30_000);
            let pods = story.member(holder).pods;
            let outcome = (story.epoch(), story.holder(), pods);
            let told = story.told();
            let unended: Vec<_> =
                story.phases.iter().filter(|(_, phase)| **phase == Some(OperationPhase::Running)).collect();
            assert!(unended.is_empty(), "killed in decision {number}, {crash:?}: {unended:?}\n{told}");
            assert_eq!(
                outcome,
                (epoch, Some(holder.to_owned()), 1),
                "killed in decision {number}, {crash:?}:\n{told}"
            );
        }
    }
}

#[test]
fn a_hub_killed_within_any_decision_finishes_the_migration() {
    let go_on = |story: &mut Story| {
        if story.placement.preferred != cluster("west") {
            story.edit(|placement| placement.preferred = cluster("west"));
        }
    };
    survives_a_kill_within_any_decision(Story::protected, go_on, 2, "west");
}

#[test]
fn a_hub_killed_within_any_decision_finishes_the_failback_in_steady_state() {
    let begin = || {
        let mut story = moving();
        story.pass(8000);
        story
    };
    let go_on = |story: &mut Story| {
        if story.placement.preferred != cluster("east") {
            story.edit(|placement| placement.preferred = cluster("east"));
        }
    };
    survives_a_kill_within_any_decision(begin, go_on, 3, "east");
}

#[test]
fn a_hub_killed_within_any_decision_finishes_the_failback_after_a_disaster() {
    let begin = || {
        let mut story = after_a_disaster();
        story.edit(|placement| placement.failback.stabilization = Duration::from_secs(2));
        story
    };
    let go_on = |story: &mut Story| {
        if !story.placement.failback.automatic {
            story.edit(|placement| {
                placement.failback.automatic = true;
                placement.failback.resync_automatic = true;
            });
        }
    };
    survives_a_kill_within_any_decision(begin, go_on, 3, "east");
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
    let renewal = Renewal { placement: placement().id, epoch: Epoch(1), echo: Generation(1) };
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

/// storage.md, rule 7: while it is made anew, a copy is nobody's rescue.
#[test]
fn a_holder_lost_during_a_resync_is_not_failed_over_onto_the_half_made_copy() {
    let mut story = after_a_disaster();
    story.member("east").obeys = false;
    approve(&mut story, "shop-resync-2", 2);
    story.pass(2000);
    story.kill("west");
    story.pass(20_000);
    assert_eq!((story.promotions(), story.holder().as_deref()), (0, Some("west")), "{}", story.told());
    assert!(!story.told().contains("Proposal shop-failover"), "{}", story.told());
    assert!(story.told().contains("Abort shop-resync-2: west is silent"), "{}", story.told());
    story.say("west returns, and its application goes on");
    let west = story.member("west");
    west.up = true;
    story.member("east").obeys = true;
    for member in &mut story.members {
        member.sees.values_mut().for_each(|sees| *sees = true);
    }
    story.pass(6000);
    assert!(story.told().contains("Proposal shop-resync-2-1"), "asked anew: {}", story.told());
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

/// csi-addons shows a sync late: one from before the resync says nothing about the new copy.
#[test]
fn a_sync_from_before_the_resync_that_is_told_late_does_not_count() {
    let mut story = after_a_disaster();
    story.member("west").syncs = false;
    story.pass(2000);
    approve(&mut story, "shop-resync-2", 2);
    let known = story.member("west").last_sync.expect("west has synced");
    story.member("west").last_sync = Some(known + Duration::from_millis(1500));
    story.pass(4000);
    assert!(!story.told().contains("/Rejoin"), "{}", story.told());
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
fn a_failover_that_the_user_takes_out_of_the_hubs_hands_is_proposed_instead() {
    let mut story = Story::protected();
    story.kill("east");
    story.pass(4000);
    assert!(story.told().contains("Intent shop-failover-2"), "{}", story.told());
    story.edit(|placement| placement.mode = Mode::Confirm);
    story.pass(20_000);
    assert!(
        story.told().contains("Abort shop-failover-2: it cannot go on without a human's word"),
        "{}",
        story.told()
    );
    assert!(story.told().contains("Proposal shop-failover-3"), "{}", story.told());
    assert_eq!(story.promotions(), 0, "{}", story.told());
    approve(&mut story, "shop-failover-3", 3);
    story.pass(10_000);
    assert_eq!(story.holder().as_deref(), Some("west"), "{}", story.told());
}

#[test]
fn an_automatic_failback_that_was_rolled_back_is_not_tried_again_without_a_word() {
    let mut story = after_a_disaster();
    story.edit(|placement| {
        placement.failback.automatic = true;
        placement.failback.resync_automatic = true;
        placement.failback.stabilization = Duration::from_secs(1);
    });
    story.member("west").slow_demotion = true;
    story.pass(200_000);
    assert_eq!(story.told().matches("record  Intent shop-failback").count(), 1, "{}", story.told());
    assert!(story.told().contains("waits   RolledBack"), "{}", story.told());
    assert_eq!(story.holder().as_deref(), Some("west"), "{}", story.told());
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

#[test]
fn an_end_that_a_dying_hub_has_not_told_is_told_by_its_successor() {
    let mut story = moving_where(|story| story.member("east").slow_demotion = true);
    story.pass(2000);
    story.crash = Some((story.decisions + 1, Crash::Recorded));
    story.edit(|placement| placement.preferred = cluster("east"));
    assert!(story.hub.is_none(), "it dies with the rollback recorded: {}", story.told());
    story.crash = None;
    story.restart_hub();
    story.pass(6000);
    assert_eq!(story.phase("shop-migrate-2"), Some(OperationPhase::Aborted), "{}", story.told());
}
