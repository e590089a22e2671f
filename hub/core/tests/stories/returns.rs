//! A lost cluster comes back: its copy is made anew by somebody's word, and then the application may go back.

use std::time::Duration;

use proto::{Divergence, Epoch, Role, StepKind};

use crate::story::{Story, after_a_disaster, approve};

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

/// West may be lost while the hub was away: then the outdated copy at east is the last one.
#[test]
fn a_hub_that_has_just_started_throws_no_copy_away_before_it_has_heard_the_holder() {
    let mut story = after_a_disaster();
    story.member("east").obeys = false;
    approve(&mut story, "shop-resync-2", 2);
    story.pass(500);
    assert!(story.told().contains("Step Resync Issued"), "{}", story.told());
    story.kill_hub();
    story.kill("west");
    story.member("east").obeys = true;
    story.pass(500);
    story.forget_what_was_told();
    story.restart_hub();
    story.pass(20_000);
    assert!(!story.told().contains("/Resync"), "{}", story.told());
}

/// What was promoted by force may be worth nothing: then the copy at the returned cluster is the better one.
#[test]
fn a_copy_is_not_thrown_away_unasked_while_the_application_does_not_work_on_the_other_one() {
    let mut story = after_a_disaster();
    story.member("west").pods = 0;
    story.pass(1000);
    story.edit(|placement| placement.failback.resync_automatic = true);
    story.pass(5000);
    assert!(story.told().contains("Proposal shop-resync-2"), "{}", story.told());
    assert!(!story.told().contains("/Resync"), "{}", story.told());
    story.say("it works after all");
    story.member("west").pods = 1;
    story.pass(5000);
    assert!(
        story.told().contains("Commit shop-resync-2") || story.told().contains("/Resync"),
        "{}",
        story.told()
    );
}

#[test]
fn a_resync_that_never_works_is_given_up_and_a_human_is_asked() {
    let mut story = after_a_disaster();
    story.member("east").fails = Some((StepKind::Resync, "ClaimNotReplicated"));
    story.edit(|placement| placement.failback.resync_automatic = true);
    story.pass(70_000);
    assert!(story.told().contains("Abort shop-resync-2-1: east: ClaimNotReplicated"), "{}", story.told());
    assert!(story.told().contains("Proposal shop-resync-2-2"), "{}", story.told());
}
