//! Golden transcripts of the hub: each test is a story, and its transcript stands beside it.

use crate::story::{Crash, Story, cluster};
use proto::{PathKind, Role, StepKind};
use std::time::Duration;

#[test]
fn an_application_is_adopted_where_it_runs() {
    let mut story = Story::new();
    story.pass(1500);
    assert_eq!((story.epoch(), story.holder().as_deref()), (1, Some("east")));
    insta::assert_snapshot!(story.told());
}

#[test]
fn a_lost_site_is_failed_over_after_the_wait() {
    let mut story = Story::protected();
    story.kill("east");
    story.pass(9000);
    assert_eq!((story.epoch(), story.holder().as_deref()), (2, Some("west")));
    insta::assert_snapshot!(story.told());
}

#[test]
fn a_fence_acknowledgement_ends_the_wait_at_once() {
    let mut story = Story::protected();
    // East's word does not reach the hub for a while, but east hears the hub's command once it is back.
    story.kill("east");
    story.pass(4000);
    assert_eq!(story.promotions(), 0);
    story.say("east's agent answers, and says that it has fenced; its heartbeats stay away");
    let id = story.placement.id.clone();
    story.step(hub_core::Event::Acknowledged(proto::Acknowledgement {
        cluster: cluster("east"),
        command: proto::CommandId {
            placement: id,
            operation: proto::OperationId("shop-failover-2".to_owned()),
            step: proto::StepKind::Fence,
        },
        epoch: proto::Epoch(2),
        outcome: proto::Outcome::Done,
    }));
    story.pass(500);
    assert_eq!(story.holder().as_deref(), Some("west"));
    insta::assert_snapshot!(story.told());
}

#[test]
fn a_holder_that_the_target_still_reaches_is_not_accused() {
    let mut story = Story::protected();
    story.say("the link between hub and east is cut");
    story.member("east").linked = false;
    story.pass(12_000);
    assert_eq!((story.promotions(), story.epoch()), (0, 1));
    insta::assert_snapshot!(story.told());
}

#[test]
fn a_hub_that_hears_nobody_moves_nothing() {
    let mut story = Story::protected();
    story.say("the hub is cut off");
    story.member("east").linked = false;
    story.member("west").linked = false;
    story.pass(12_000);
    assert_eq!((story.promotions(), story.epoch()), (0, 1));
    insta::assert_snapshot!(story.told());
}

#[test]
fn a_holder_that_answers_before_the_point_of_no_return_gets_its_application_back() {
    let mut story = Story::protected();
    story.say("east is cut off from everybody");
    for path in [PathKind::PeerAgent, PathKind::ApiServer] {
        story.member("west").sees.insert((cluster("east"), path), false);
    }
    story.member("east").linked = false;
    story.pass(5000);
    story.say("the links are back");
    for path in [PathKind::PeerAgent, PathKind::ApiServer] {
        story.member("west").sees.insert((cluster("east"), path), true);
    }
    story.member("east").linked = true;
    story.pass(3000);
    assert_eq!((story.epoch(), story.holder().as_deref()), (3, Some("east")));
    assert!(!story.told().contains("Superseded"), "it is not told to stop: {}", story.told());
    insta::assert_snapshot!(story.told());
}

#[test]
fn an_emptied_journal_moves_nothing_and_asks_for_a_human() {
    let mut story = Story::protected();
    story.kill_hub();
    story.lines.clear();
    story.remembered.clear();
    story.restart_hub();
    story.pass(2000);
    story.kill("east");
    story.pass(12_000);
    assert_eq!(story.promotions(), 0);
    assert!(story.holder().is_none());
    insta::assert_snapshot!(story.told());
}

#[test]
fn a_loss_beyond_the_bound_moves_nothing() {
    let mut story = Story::protected();
    story.member("east").syncs = false;
    story.edit(|placement| placement.max_data_loss = Some(std::time::Duration::from_millis(500)));
    story.pass(2000);
    story.kill("east");
    story.pass(12_000);
    assert_eq!((story.promotions(), story.epoch()), (0, 1));
    insta::assert_snapshot!(story.told());
}

#[test]
fn a_clock_that_runs_ahead_makes_no_copy_younger() {
    let mut story = Story::protected();
    story.edit(|placement| placement.max_data_loss = Some(Duration::from_secs(30)));
    story.say("the last sync of all bears a time that comes only in an hour");
    story.member("east").syncs = false;
    story.member("east").last_sync = Some(story.clock().wall + Duration::from_secs(3_600));
    story.pass(60_000);
    story.kill("east");
    story.pass(12_000);
    assert_eq!((story.promotions(), story.epoch()), (0, 1), "{}", story.told());
    assert!(story.told().contains("waits   StaleCopy"), "{}", story.told());
}

/// Neither what a copy is taken for, nor what it is not taken for, begins anew with a hub that does.
#[test]
fn a_clock_that_ran_ahead_makes_no_copy_younger_for_the_next_hub() {
    let mut story = Story::protected();
    story.edit(|placement| placement.max_data_loss = Some(Duration::from_secs(30)));
    story.say("the last sync of all bears a time that comes only in a minute");
    story.member("east").syncs = false;
    story.member("east").last_sync = Some(story.clock().wall + Duration::from_secs(60));
    story.pass(50_000);
    story.kill_hub();
    story.restart_hub();
    story.pass(15_000);
    story.kill("east");
    story.pass(12_000);
    assert_eq!((story.promotions(), story.epoch()), (0, 1), "{}", story.told());
    assert!(story.told().contains("waits   StaleCopy"), "{}", story.told());
}

#[test]
fn an_unknown_loss_is_infinite() {
    let mut story = Story::new();
    story.member("east").syncs = false;
    story.pass(3000);
    story.kill("east");
    story.pass(12_000);
    assert_eq!((story.epoch(), story.holder().as_deref()), (1, Some("east")));
    assert!(story.told().contains("waits   StaleCopy"), "{}", story.told());
}

/// csi-addons says nothing of a promotion that it has no driver for.
#[test]
fn a_promotion_that_nobody_answers_gets_its_name_after_a_while() {
    let mut story = Story::protected();
    story.member("west").slow_promotion = true;
    story.kill("east");
    story.pass(20_000);
    assert!(story.told().contains("Promote"), "{}", story.told());
    assert!(!story.told().contains("PromoteStuck"), "it is still young: {}", story.told());
    story.pass(40_000);
    assert!(story.told().contains("waits   PromoteStuck"), "{}", story.told());
    story.say("its driver is back");
    story.member("west").slow_promotion = false;
    story.pass(5000);
    assert_eq!((story.epoch(), story.holder().as_deref()), (2, Some("west")), "{}", story.told());
}

#[test]
fn a_volume_that_cannot_be_promoted_starts_no_pod_and_is_named() {
    let mut story = Story::protected();
    story.member("west").fails = Some((StepKind::Promote, "FailedToPromote"));
    story.kill("east");
    story.pass(20_000);
    assert_eq!(story.member("west").pods, 0);
    assert_eq!(story.holder().as_deref(), Some("east"));
    assert!(story.told().contains("waits   PromoteStuck"), "{}", story.told());
    assert!(!story.told().contains("ScaleUp"), "{}", story.told());
}

#[test]
fn pause_wins_until_the_last_read() {
    let mut story = Story::protected();
    story.kill("east");
    story.pass(5000);
    story.say("the user pauses the placement");
    story.edit(|placement| placement.paused = true);
    story.pass(6000);
    assert_eq!(story.promotions(), 0);
    assert!(story.told().contains("waits   Paused"), "{}", story.told());
    story.say("the user goes on");
    story.edit(|placement| placement.paused = false);
    story.pass(1000);
    assert_eq!(story.holder().as_deref(), Some("west"));
}

#[test]
fn without_a_fresh_read_of_the_wish_nothing_is_promoted() {
    let mut story = Story::protected();
    story.api_answers = false;
    story.kill("east");
    story.pass(12_000);
    assert_eq!((story.promotions(), story.epoch()), (0, 1));
    assert!(story.told().contains("waits   HubFrozen"), "{}", story.told());
}

#[test]
fn two_clusters_that_both_run_it_are_not_adopted() {
    let mut story = Story::new();
    (story.member("west").pods, story.member("west").wants) = (1, 1);
    story.pass(1500);
    assert_eq!(story.epoch(), 0);
    assert!(story.told().contains("DeployRefused"), "{}", story.told());
}

#[test]
fn what_stands_against_pausing_argo_cd_or_flux_does_not_stand_against_adoption() {
    for (reason, epoch) in [("ReconcilerNotPaused", 1), ("ReconcilerNotResumed", 1), ("NoClaims", 0)] {
        let mut story = Story::new();
        story.member("east").ailments =
            vec![proto::Ailment { reason: reason.to_owned(), message: "as the agent says".to_owned() }];
        story.pass(1500);
        assert_eq!(story.epoch(), epoch, "{reason}: {}", story.told());
    }
}

#[test]
fn a_deleted_placement_is_let_go_and_nothing_is_stopped() {
    let mut story = Story::protected();
    story.edit(|placement| placement.deleting = true);
    story.pass(200);
    assert_eq!(story.member("east").pods, 1);
    insta::assert_snapshot!(story.told());
}

#[test]
fn a_second_automatic_failover_needs_a_human() {
    let mut story = Story::protected();
    story.kill("east");
    story.pass(9000);
    story.say("east returns, fenced and resynced");
    {
        let east = story.member("east");
        (east.up, east.role, east.epoch, east.pods, east.wants) =
            (true, Role::Standby, proto::Epoch(2), 0, 0);
        east.staged = Some("v1".to_owned());
    }
    for path in [PathKind::PeerAgent, PathKind::ApiServer] {
        story.member("west").sees.insert((cluster("east"), path), true);
    }
    story.pass(2000);
    story.kill("west");
    story.pass(12_000);
    assert_eq!((story.epoch(), story.holder().as_deref()), (2, Some("west")));
    assert!(story.told().contains("waits   CoolingDown"), "{}", story.told());
}

/// Invariants S9, S10 and S12: the hub is killed within each decision of a failover, before and after it sends, and
/// starts again from its journal.
#[test]
fn a_hub_killed_within_any_decision_finishes_the_failover() {
    let decisions = {
        let mut story = Story::protected();
        let before = story.decisions;
        story.kill("east");
        story.pass(9000);
        before..story.decisions
    };
    assert!(decisions.len() >= 4, "a failover takes more decisions than {decisions:?}");
    for number in decisions {
        for crash in [Crash::Recorded, Crash::Sent] {
            let mut story = Story::protected();
            story.kill("east");
            story.crash = Some((number + 1, crash));
            while story.hub.is_some() {
                story.pass(20);
            }
            story.crash = None;
            story.pass(500);
            story.restart_hub();
            story.pass(14_000);
            let outcome = (story.epoch(), story.holder(), story.member("west").pods);
            let told = story.told();
            assert_eq!(
                outcome,
                (2, Some("west".to_owned()), 1),
                "killed in decision {number}, {crash:?}:\n{told}"
            );
        }
    }
}
