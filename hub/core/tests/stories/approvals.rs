//! What a human is asked, and which answers count.

use std::time::Duration;

use hub_core::Event;
use hub_core::placement::Mode;
use proto::Generation;

use crate::story::{Story, TIMING, after_a_disaster, answer, approval, approve, cluster};

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
    let mut story = east_is_lost_in_mode_confirm();
    story.pass(8000);
    assert!(story.told().contains("Proposal shop-failover-2 "), "{}", story.told());
    east_returns(&mut story);
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
    let mut story = east_is_lost_in_mode_confirm();
    story.pass(12_000);
    assert_eq!(story.epoch(), 1, "{}", story.told());
    approve(&mut story, "shop-failover-2", 2);
    story.pass(6000);
    assert_eq!((story.holder().as_deref(), story.epoch()), (Some("west"), 2), "{}", story.told());
    assert!(!story.told().contains("Block"), "a human has looked: {}", story.told());
}

#[test]
fn nobody_is_asked_before_the_survivor_has_had_the_time_to_say_what_it_sees() {
    let mut story = Story::protected();
    let suspect = TIMING.unreachable;
    story.edit(|placement| placement.policy.timing.suspect = suspect);
    story.pass(1000);
    let paths = std::mem::take(&mut story.member("west").sees);
    story.kill("east");
    let told_by = suspect + TIMING.renew * 3 + TIMING.rpc;
    story.pass(u64::try_from(told_by.as_millis()).expect("a short time"));
    story.member("west").sees = paths.into_keys().map(|path| (path, false)).collect();
    story.pass(1000);
    assert!(story.told().contains("Intent shop-failover-2"), "{}", story.told());
    assert!(!story.told().contains("Proposal"), "{}", story.told());
    assert!(!story.told().contains("FailoverRefused"), "{}", story.told());
}

#[test]
fn a_refusal_is_told_again_when_something_else_is_why() {
    let mut story = Story::protected();
    story.edit(|placement| placement.max_data_loss = Some(Duration::from_millis(1)));
    let paths = std::mem::take(&mut story.member("west").sees);
    story.kill("east");
    story.pass(8000);
    let refused = "event   FailoverRefused: shop/shop: ";
    assert!(story.told().contains(&format!("{refused}no fresh word from west")), "{}", story.told());
    story.member("west").sees = paths.into_keys().map(|path| (path, false)).collect();
    story.pass(8000);
    let too_much = story.told().lines().rfind(|line| line.contains(refused));
    assert!(too_much.is_some_and(|line| line.contains("maxDataLoss is 1ms")), "{}", story.told());
    assert_eq!(story.told().matches(refused).count(), 2, "{}", story.told());
    assert_eq!(story.told().matches("Proposal").count(), 1, "{}", story.told());
}

#[test]
fn what_is_asked_stands_while_a_hub_that_has_just_started_listens() {
    let mut story = east_is_lost_in_mode_confirm();
    story.pass(12_000);
    assert!(story.told().contains("Proposal shop-failover-2 "), "{}", story.told());
    story.kill_hub();
    story.restart_hub();
    story.pass(12_000);
    assert!(!story.told().contains("Withdrawn"), "{}", story.told());
    approve(&mut story, "shop-failover-2", 2);
    story.pass(10_000);
    assert_eq!((story.holder().as_deref(), story.epoch()), (Some("west"), 2), "{}", story.told());
}

#[test]
fn a_site_that_has_returned_to_a_hub_that_has_just_started_needs_no_answer_any_more() {
    let mut story = east_is_lost_in_mode_confirm();
    story.pass(12_000);
    story.kill_hub();
    east_returns(&mut story);
    story.restart_hub();
    story.pass(3000);
    assert!(story.told().contains("Withdrawn shop-failover-2"), "{}", story.told());
}

#[test]
fn an_outdated_copy_that_a_human_is_asked_about_is_asked_about_once_over_the_hubs_restart() {
    let mut story = after_a_disaster();
    assert!(story.told().contains("Proposal shop-resync-2 "), "{}", story.told());
    story.kill_hub();
    story.restart_hub();
    story.pass(6000);
    assert!(!story.told().contains("Withdrawn"), "{}", story.told());
    approve(&mut story, "shop-resync-2", 2);
    story.pass(3000);
    assert!(story.told().contains("Intent shop-resync-2"), "{}", story.told());
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

fn east_is_lost_in_mode_confirm() -> Story {
    let mut story = Story::protected();
    story.edit(|placement| placement.mode = Mode::Confirm);
    story.pass(2000);
    story.kill("east");
    story
}

fn east_returns(story: &mut Story) {
    story.say("east returns");
    let east = story.member("east");
    (east.up, east.pods) = (true, 1);
}
