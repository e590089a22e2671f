//! Witnesses: who may act with their help, who is held up by them, and what they remember.

use proto::{Epoch, PathKind};

use crate::story::{PlayedWitness, Story, cluster};

fn third() -> Vec<PlayedWitness> {
    vec![PlayedWitness::new("third", "third-site")]
}

fn armed(story: &Story) -> (String, String) {
    let status = story.shown().expect("a status");
    let condition = status.conditions.iter().find(|one| one.type_ == "AutomaticFailoverArmed");
    let condition = condition.expect("the condition");
    (condition.reason.clone(), condition.message.clone())
}

/// West's agent sees east's Lease as the witness shows it.
fn west_looks_at_the_witness(story: &mut Story, advances: bool) {
    story.member("west").sees.insert((cluster("east"), PathKind::Witness), advances);
}

#[test]
fn a_hub_that_shares_the_holders_site_is_armed_by_a_witness_elsewhere_and_fails_over() {
    let alone = Story::with("east-site", Vec::new()).settled();
    assert_eq!(armed(&alone).0, "TooFewFailureDomains");
    let mut story = Story::with("east-site", third()).settled();
    assert_eq!(armed(&story).0, "Armed", "{}", armed(&story).1);
    story.kill("east");
    story.pass(9000);
    assert_eq!((story.holder().as_deref(), story.epoch()), (Some("west"), 2), "{}", story.told());
}

#[test]
fn a_hub_that_shares_the_targets_site_is_armed_by_a_witness_elsewhere_and_fails_over() {
    let mut story = Story::with("west-site", third()).settled();
    assert_eq!(armed(&story).0, "Armed", "{}", armed(&story).1);
    story.kill("east");
    story.pass(9000);
    assert_eq!((story.holder().as_deref(), story.epoch()), (Some("west"), 2), "{}", story.told());
}

/// It has not seen east's Lease advance itself: west has, and says when.
#[test]
fn a_hub_that_starts_after_the_loss_believes_the_target_that_the_lease_had_advanced() {
    let lost = |west_has_looked: bool| {
        let mut story = Story::with("east-site", third()).settled();
        if west_has_looked {
            west_looks_at_the_witness(&mut story, true);
        }
        story.pass(1000);
        story.kill_hub();
        story.kill("east");
        story.restart_hub();
        story.pass(15_000);
        story
    };
    let story = lost(true);
    assert_eq!((story.holder().as_deref(), story.epoch()), (Some("west"), 2), "{}", story.told());
    let story = lost(false);
    assert_eq!(story.promotions(), 0, "{}", story.told());
    assert!(story.told().contains("the witnesses that miss it do not stand in two"), "{}", story.told());
}

#[test]
fn a_witness_at_which_the_holder_has_no_lease_arms_nothing() {
    let mut story = Story::with("east-site", third());
    story.member("east").reaches_witnesses = false;
    let story = story.settled();
    assert_eq!(armed(&story).0, "TooFewFailureDomains", "{}", armed(&story).1);
}

/// The hub's own look is enough, and so is the target's.
#[test]
fn a_lease_that_advances_at_the_witness_vetoes() {
    let mut story = Story::with("hub-site", third()).settled();
    story.say("east is cut off from the hub and from west, and reaches the witness");
    story.kill("east");
    story.member("east").up = true;
    story.member("east").linked = false;
    story.pass(20_000);
    assert_eq!((story.promotions(), story.epoch()), (0, 1), "{}", story.told());
    assert!(story.told().contains("waits   SignOfLife"), "{}", story.told());
    story.say("east loses the witness too, or has stopped and shows no sign of life any more");
    story.member("east").reaches_witnesses = false;
    story.pass(9000);
    assert_eq!(story.holder().as_deref(), Some("west"), "{}", story.told());
}

#[test]
fn a_lease_that_only_the_target_sees_advance_vetoes() {
    let mut story = Story::protected();
    west_looks_at_the_witness(&mut story, true);
    story.pass(1000);
    story.kill("east");
    west_looks_at_the_witness(&mut story, true);
    story.pass(12_000);
    assert_eq!((story.promotions(), story.epoch()), (0, 1), "{}", story.told());
    assert!(story.told().contains("Lease at the witnesses"), "{}", story.told());
}

#[test]
fn a_witness_counts_as_one_of_the_two_kinds_of_path() {
    let mut story = Story::protected();
    story.member("west").sees.remove(&(cluster("east"), PathKind::ApiServer));
    west_looks_at_the_witness(&mut story, true);
    // What was known of the API server has to be forgotten first.
    story.kill_hub();
    story.restart_hub();
    story.pass(15_000);
    story.kill("east");
    story.pass(10_000);
    assert_eq!(story.holder().as_deref(), Some("west"), "{}", story.told());
}

#[test]
fn while_the_witness_is_silent_nothing_is_moved_automatically_and_leases_go_on() {
    let mut story = Story::with("hub-site", third()).settled();
    story.witness().up = false;
    story.pass(3000);
    let (reason, message) = armed(&story);
    assert_eq!(reason, "WitnessUnavailable");
    assert!(message.contains("witness third: has not answered for"), "{message}");
    assert!(story.told().contains("event   WitnessSilent"), "{}", story.told());
    assert!(!story.told().contains("deny"), "{}", story.told());
    story.kill("east");
    story.pass(15_000);
    assert_eq!((story.promotions(), story.epoch()), (0, 1), "{}", story.told());
    assert!(story.told().contains("Proposal shop-failover-2"), "a human may decide: {}", story.told());
    story.say("the witness is back");
    story.witness().up = true;
    story.pass(9000);
    assert_eq!(story.holder().as_deref(), Some("west"), "{}", story.told());
    assert!(story.told().contains("event   WitnessReturned"), "{}", story.told());
}

#[test]
fn a_witness_that_falls_silent_before_the_point_of_no_return_holds_it_up() {
    let mut story = Story::with("hub-site", third()).settled();
    story.kill("east");
    story.pass(5000);
    assert!(story.told().contains("Intent shop-failover-2"), "{}", story.told());
    story.witness().up = false;
    story.pass(8000);
    assert_eq!(story.promotions(), 0, "{}", story.told());
    story.witness().up = true;
    story.pass(9000);
    assert_eq!(story.holder().as_deref(), Some("west"), "{}", story.told());
}

#[test]
fn nothing_is_promoted_unasked_before_the_witness_shows_its_epoch() {
    let mut story = Story::with("hub-site", third()).settled();
    story.witness().deaf = true;
    story.kill("east");
    story.pass(12_000);
    assert_eq!(story.promotions(), 0, "{}", story.told());
    story.witness().deaf = false;
    story.pass(9000);
    assert_eq!(story.holder().as_deref(), Some("west"), "{}", story.told());
}

#[test]
fn a_witness_is_told_every_epoch_and_who_owns_it() {
    let mut story = Story::with("hub-site", third()).settled();
    let remembered = |story: &mut Story| {
        let id = story.placement.id.clone();
        let known = story.witness().testimonies.get(&id).cloned().expect("a testimony");
        (known.epoch, known.holder.map(|holder| holder.to_string()))
    };
    assert_eq!(remembered(&mut story), (Epoch(1), Some("east".to_owned())));
    story.kill("east");
    story.pass(5000);
    assert_eq!(remembered(&mut story), (Epoch(2), Some("east".to_owned())), "entered, not owned");
    story.pass(5000);
    assert_eq!(remembered(&mut story), (Epoch(2), Some("west".to_owned())));
    story.say("the witness comes back from an old copy");
    story.witness().testimonies.clear();
    story.pass(1000);
    assert_eq!(remembered(&mut story), (Epoch(2), Some("west".to_owned())));
}

/// The one who remembers the burned epoch is away, and so is the status: the witness is all that is left.
#[test]
fn after_a_restore_of_an_old_backup_the_witness_keeps_a_burned_epoch_from_being_entered_again() {
    let mut story = Story::with("hub-site", third()).settled();
    let backup = story.lines.clone();
    story.kill("east");
    story.pass(5000);
    assert!(story.told().contains("Intent shop-failover-2"), "{}", story.told());
    story.say("east answers again: epoch 2 is burned");
    story.member("east").up = true;
    story.pass(3000);
    let burned = story.epoch();
    assert!(burned >= 3, "{}", story.told());
    story.kill_hub();
    story.lines = backup;
    story.kill("west");
    story.kill("east");
    story.restart_hub();
    story.pass(2000);
    assert!(
        story.told().contains("NeedsHuman: shop/shop: witness third remembers epoch"),
        "{}",
        story.told()
    );
}

#[test]
fn no_epoch_is_entered_before_every_witness_was_asked_once() {
    let mut story = Story::with("hub-site", third());
    story.witness().up = false;
    story.kill_hub();
    story.restart_hub();
    story.pass(5000);
    assert_eq!(story.holder(), None, "{}", story.told());
    assert!(story.told().contains("waits   WitnessUnavailable"), "{}", story.told());
    story.witness().up = true;
    story.pass(5000);
    assert_eq!((story.holder().as_deref(), story.epoch()), (Some("east"), 1), "{}", story.told());
}

#[test]
fn a_hub_that_starts_while_the_witness_is_silent_renews_leases() {
    let mut story = Story::with("hub-site", third()).settled();
    story.witness().up = false;
    story.kill_hub();
    story.restart_hub();
    story.pass(5000);
    assert!(!story.told().contains("deny"), "{}", story.told());
    assert_eq!(armed(&story).0, "WitnessUnavailable");
}

/// Who could contradict an old status is away, but for the witness.
#[test]
fn a_status_of_an_old_backup_vouches_for_nobody_when_the_witness_knows_better() {
    let restored = |testified: u64| {
        let mut story = Story::with("hub-site", third()).settled();
        story.placement.told = Some(Box::new(story.shown().cloned().expect("a status")));
        story.kill("west");
        story.kill_hub();
        story.lines.clear();
        let id = story.placement.id.clone();
        story.witness().testimonies.get_mut(&id).expect("a testimony").epoch = Epoch(testified);
        story.restart_hub();
        story.pass(2000);
        assert!(story.told().contains("NeedsHuman"), "{}", story.told());
        story.forget_what_was_told();
        story.pass(2000);
        !story.told().contains("deny    east")
    };
    assert!(restored(1), "the holder of the status goes on");
    assert!(!restored(2), "somebody else may have been promoted since");
}
