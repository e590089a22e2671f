//! What goes wrong on the way, and must not make it worse: each was once a way to lose data, a lease or an operation.

use std::time::Duration;

use hub_core::{Event, Now};
use proto::heartbeat::Known;
use proto::{
    Action, Ailment, Epoch, FromHub, Generation, Heartbeat, Hello, Nonce, PathKind, Renewal, Role, StepKind,
    WallTime,
};

use crate::story::{Story, cluster};

fn blind(story: &mut Story) {
    see(story, false);
}

fn see(story: &mut Story, reachable: bool) {
    for path in [PathKind::PeerAgent, PathKind::ApiServer] {
        story.member("west").sees.insert((cluster("east"), path), reachable);
    }
}

fn ailment(reason: &str) -> Vec<Ailment> {
    vec![Ailment { reason: reason.to_owned(), message: "Pod shop/debug: cannot be stopped".to_owned() }]
}

fn renewal(story: &Story, name: &str, epoch: u64) -> Heartbeat {
    Heartbeat {
        cluster: cluster(name),
        nonce: Nonce(77_777),
        api_write_age: Some(Duration::ZERO),
        renewals: vec![Renewal {
            placement: story.placement.id.clone(),
            epoch: Epoch(epoch),
            echo: Generation(1),
            gates: Vec::new(),
        }],
        paths: Vec::new(),
    }
}

/// How many grants the hub gives to a renewal of this epoch.
fn grants(story: &mut Story, name: &str, epoch: u64) -> usize {
    let heartbeat = renewal(story, name, epoch);
    let now = Now { boot: story.now, wall: WallTime(i64::try_from(story.now.0).expect("a short story")) };
    let decision = story.hub.as_mut().expect("the hub runs").step(now, Event::Heartbeat(heartbeat));
    let replies = decision.send.into_iter().filter_map(|send| match send.message {
        FromHub::Reply(reply) => Some(reply.grants.len()),
        FromHub::Assignment(_) | FromHub::Unassign(_) | FromHub::Command(_) => None,
    });
    replies.sum()
}

#[test]
fn a_hub_that_was_stopped_for_minutes_counts_silence_anew() {
    let mut story = Story::protected();
    story.say("the link between east and west is cut; both talk to the hub");
    blind(&mut story);
    story.pass(2000);
    story.say("the hub is stopped for three minutes; east reconnects a second later than west");
    story.now = story.now + Duration::from_secs(180);
    story.member("east").linked = false;
    story.pass(1000);
    story.member("east").linked = true;
    story.pass(3000);
    assert_eq!((story.promotions(), story.epoch()), (0, 1), "{}", story.told());
}

#[test]
fn an_older_journal_grants_nothing_at_the_older_epoch() {
    let mut story = Story::protected();
    let backup = story.lines.clone();
    story.kill("east");
    story.pass(9000);
    assert_eq!(story.holder().as_deref(), Some("west"));
    story.say("the journal is restored from a backup of before the failover");
    story.kill_hub();
    story.lines = backup;
    story.restart_hub();
    story.pass(1000);
    story.say("east is back, fenced by itself, and asks for its lease of epoch 1");
    story.member("east").up = true;
    story.pass(2000);
    assert_eq!((grants(&mut story, "east", 1), grants(&mut story, "west", 2)), (0, 1), "{}", story.told());
}

#[test]
fn a_restart_of_the_hub_does_not_shrink_the_loss() {
    let mut story = Story::protected();
    story.edit(|placement| placement.max_data_loss = Some(Duration::from_secs(30)));
    story.pass(2000);
    story.say("replication stalls for two minutes");
    story.member("east").syncs = false;
    story.pass(120_000);
    story.kill("east");
    story.pass(12_000);
    assert_eq!((story.promotions(), story.epoch()), (0, 1));
    story.kill_hub();
    story.restart_hub();
    story.pass(20_000);
    assert_eq!((story.promotions(), story.epoch()), (0, 1), "{}", story.told());
}

#[test]
fn a_site_that_flickers_once_is_failed_over_in_the_end() {
    let mut story = Story::protected();
    blind(&mut story);
    story.member("east").linked = false;
    story.pass(5000);
    story.say("one heartbeat of east gets through, commands do not get back");
    let heartbeat = renewal(&story, "east", 1);
    story.step(Event::Heartbeat(heartbeat));
    story.kill("east");
    story.pass(30_000);
    assert_eq!(story.holder().as_deref(), Some("west"), "{}", story.told());
}

#[test]
fn a_hub_killed_in_a_deployment_promotes_the_claims_it_had_decided_on() {
    let mut story = Story::new();
    story.member("east").obeys = false;
    story.pass(1500);
    story.kill_hub();
    story.restart_hub();
    let now = Now { boot: story.now, wall: WallTime(i64::try_from(story.now.0).expect("a short story")) };
    let hub = story.hub.as_mut().expect("the hub runs");
    let hello = Hello { cluster: cluster("east"), version: "1".to_owned(), known: Vec::new() };
    let heartbeat = Heartbeat {
        cluster: cluster("east"),
        nonce: Nonce(5),
        api_write_age: None,
        renewals: Vec::new(),
        paths: Vec::new(),
    };
    let mut promoted = Vec::new();
    for event in [Event::Connected(hello), Event::Heartbeat(heartbeat)] {
        for send in hub.step(now, event).send {
            if let FromHub::Command(command) = send.message
                && let Action::Promote { claims, proof: _ } = command.action
            {
                promoted.push(claims);
            }
        }
    }
    assert_eq!(promoted, vec![vec!["shop-data".to_owned()]]);
}

#[test]
fn a_deletion_before_the_point_of_no_return_stops_the_failover() {
    let mut story = Story::protected();
    story.kill("east");
    story.pass(5000);
    story.say("the user deletes the placement");
    story.edit(|placement| placement.deleting = true);
    story.pass(9000);
    assert_eq!(story.promotions(), 0, "{}", story.told());
}

#[test]
fn the_holder_is_not_unassigned_by_an_edit_and_goes_on_under_its_lease() {
    let mut story = Story::protected();
    story.say("the user takes the holder out of spec.clusters");
    story.edit(|placement| {
        placement.clusters = vec![cluster("west"), cluster("north")];
        placement.preferred = cluster("west");
    });
    story.pass(3000);
    assert!(!story.told().contains("unassign east"), "{}", story.told());
    assert!(!story.told().contains("deny"), "{}", story.told());
}

#[test]
fn what_a_self_fence_cannot_stop_disarms() {
    for reason in [
        "BarePodUsesVolume",
        "DaemonSetUsesVolume",
        "JobUsesVolume",
        "UnscalableWorkloadUsesVolume",
        "PolicyMissing",
        "PolicyAltered",
        "PolicyNotInForce",
    ] {
        let mut story = Story::protected();
        story.member("east").ailments = ailment(reason);
        story.pass(2000);
        story.kill("east");
        story.pass(12_000);
        assert_eq!((story.promotions(), story.epoch()), (0, 1), "{reason}");
        assert!(story.told().contains("waits   NotFenceCapable"), "{reason}: {}", story.told());
    }
}

#[test]
fn why_a_holder_cannot_fence_itself_survives_a_restart_of_the_hub() {
    let mut story = Story::protected();
    story.member("east").ailments = ailment("GraceTooLong");
    story.pass(2000);
    story.kill("east");
    story.pass(12_000);
    assert_eq!((story.promotions(), story.epoch()), (0, 1));
    story.kill_hub();
    story.restart_hub();
    story.pass(20_000);
    assert_eq!((story.promotions(), story.epoch()), (0, 1), "{}", story.told());
}

#[test]
fn a_holder_that_has_forgotten_its_role_disarms() {
    let mut story = Story::protected();
    story.say("east's DRSiteState is lost: its agent lives by no lease");
    story.member("east").role = Role::Unknown;
    story.pass(2000);
    story.kill("east");
    story.pass(12_000);
    assert_eq!((story.promotions(), story.epoch()), (0, 1), "{}", story.told());
}

#[test]
fn after_an_emptied_journal_the_only_living_holder_keeps_its_lease() {
    let mut story = Story::protected();
    story.kill("west");
    story.pass(500);
    story.keep_status();
    story.kill_hub();
    story.lines.clear();
    story.remembered.clear();
    story.restart_hub();
    story.pass(3000);
    assert!(!story.told().contains("deny    east"), "{}", story.told());
}

#[test]
fn a_holder_taken_out_of_the_spec_in_mid_operation_still_has_to_be_accused() {
    let mut story = Story::protected();
    story.kill("east");
    story.pass(4000);
    story.join("north");
    story.edit(|placement| {
        placement.clusters = vec![cluster("west"), cluster("north")];
        placement.preferred = cluster("west");
    });
    story.say("west reaches east again");
    see(&mut story, true);
    story.pass(9000);
    assert_eq!(story.promotions(), 0);
    assert!(story.told().contains("waits   SignOfLife"), "{}", story.told());
}

#[test]
fn clusters_reordered_in_mid_operation_do_not_change_who_is_judged() {
    let mut story = Story::protected();
    story.join("north");
    story.pass(1000);
    story.kill("east");
    story.pass(4500);
    story.edit(|placement| placement.clusters = vec![cluster("east"), cluster("north"), cluster("west")]);
    story.pass(9000);
    assert_eq!(story.holder().as_deref(), Some("west"), "{}", story.told());
}

#[test]
fn a_cluster_that_has_nothing_to_do_with_a_placement_cannot_stop_its_automation() {
    let mut story = Story::protected();
    story.join("north");
    let known = vec![Known { placement: story.placement.id.clone(), epoch: Epoch(99), role: Role::Holder }];
    story.step(Event::Connected(Hello { cluster: cluster("north"), version: "1".to_owned(), known }));
    assert!(!story.told().contains("NeedsHuman"), "{}", story.told());
}

#[test]
fn deletion_of_a_placement_whose_deployment_hangs_lets_go() {
    let mut story = Story::new();
    story.member("east").fails = Some((StepKind::Promote, "FailedToPromote"));
    story.pass(6000);
    story.edit(|placement| placement.deleting = true);
    story.pass(6000);
    assert!(story.told().contains("let go"), "{}", story.told());
}

#[test]
fn a_target_that_the_holder_was_never_told_of_is_not_promoted() {
    let mut story = Story::protected();
    story.join("north");
    story.pass(1000);
    story.say("east loses the hub, and holds through west");
    story.member("east").linked = false;
    story.pass(10_000);
    story.say("the user puts north before west; east cannot know");
    story.edit(|placement| placement.clusters = vec![cluster("east"), cluster("north"), cluster("west")]);
    story.pass(1000);
    story.say("east is cut off from everybody, and lives by the promise of west");
    blind(&mut story);
    for path in [PathKind::PeerAgent, PathKind::ApiServer] {
        story.member("north").sees.insert((cluster("east"), path), false);
    }
    story.pass(15_000);
    assert_eq!((story.promotions(), story.epoch()), (0, 1), "{}", story.told());
    assert!(
        story.told().contains("was added to spec.clusters after east last confirmed them"),
        "{}",
        story.told()
    );
}

/// The target's paths last worked when the holder was lost, and a hub that starts counts the silence from its own start.
#[test]
fn a_hub_that_was_away_for_long_in_the_middle_of_a_failover_finishes_it() {
    let mut story = Story::protected();
    story.kill("east");
    story.pass(5000);
    assert!(story.told().contains("Intent shop-failover-2"), "{}", story.told());
    story.kill_hub();
    story.pass(900_000);
    story.restart_hub();
    story.pass(30_000);
    assert_eq!((story.holder().as_deref(), story.epoch()), (Some("west"), 2), "{}", story.told());
}

/// A hub that has just started cannot build the release of what it does not understand; the owner goes on meanwhile.
#[test]
fn a_placement_that_is_deleted_while_its_wording_is_refused_is_let_go_of_once_it_is_understood() {
    let mut story = Story::protected();
    story.kill_hub();
    story.refused = Some("spec.preferredCluster atlantis is not in spec.clusters".to_owned());
    story.placement.deleting = true;
    story.restart_hub();
    story.pass(20_000);
    assert!(!story.told().contains("let go"), "{}", story.told());
    story.say("the user mends the wording");
    story.refused = None;
    story.edit(|_| {});
    story.pass(5000);
    assert!(story.told().contains("let go"), "{}", story.told());
    assert!(story.told().contains("/Release"), "{}", story.told());
}

#[test]
fn an_older_wish_that_arrives_late_changes_nothing() {
    let mut story = Story::protected();
    let older = story.placement.clone();
    story.edit(|placement| placement.paused = true);
    story.pass(1000);
    story.say("the watch delivers what it had held up");
    story.step(Event::PlacementSeen(Box::new(older)));
    story.kill("east");
    story.pass(12_000);
    assert_eq!((story.promotions(), story.epoch()), (0, 1), "{}", story.told());
}

#[test]
fn a_holder_that_renews_and_never_reports_disarms() {
    let mut story = Story::protected();
    story.say("east's agent restarts, and cannot list what it would have to stop");
    story.member("east").reports = false;
    story.member("east").linked = false;
    story.pass(500);
    story.member("east").linked = true;
    story.pass(5000);
    story.kill("east");
    story.pass(12_000);
    assert_eq!((story.promotions(), story.epoch()), (0, 1), "{}", story.told());
    assert!(story.told().contains("waits   NotFenceCapable"), "{}", story.told());
}

#[test]
fn the_new_holder_is_granted_its_lease_while_its_pods_still_start() {
    let mut story = Story::protected();
    story.member("west").slow = true;
    story.kill("east");
    story.pass(9000);
    assert_eq!(story.holder().as_deref(), Some("west"));
    assert!(!story.told().contains("Commit"), "its pods are not ready yet: {}", story.told());
    story.pass(2000);
    assert!(!story.told().contains("deny    west"), "{}", story.told());
    assert_eq!(grants(&mut story, "west", 2), 1);
}
