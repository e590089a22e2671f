//! What a human is asked, and which answers count.

use hub_core::Event;
use hub_core::placement::Mode;
use proto::Generation;

use crate::story::{Story, after_a_disaster, answer, approval, approve, cluster};

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
