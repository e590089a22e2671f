//! A claim that gets the protected labels after the application was adopted.

use crds::conditions::ConditionType;
use crds::placement::Phase;
use proto::{Inventory, Replication, Shared, VolumeManifest, VolumeState};

use crate::story::{Story, inventory};

pub fn inventory_with(later: Option<&VolumeState>) -> Shared<Inventory> {
    let mut inventory = inventory();
    if let Some(later) = later.filter(|later| later.bound) {
        let manifest = VolumeManifest { claim: later.claim.clone(), ..inventory.volumes[0].clone() };
        inventory.version = "v2".to_owned();
        inventory.volumes.push(manifest);
    }
    inventory
}

/// How the claim stands; `synced` is none without a VolumeReplication.
fn later(bound: bool, synced: Option<bool>) -> Option<VolumeState> {
    let mut story = Story::protected();
    let first = story.member("east").report().volumes.remove(0);
    let replication = first.replication.expect("it is replicated");
    Some(VolumeState {
        claim: "shop-extra".to_owned(),
        handle: Some("image-2".to_owned()),
        bound,
        attached: false,
        replication: synced
            .map(|synced| Replication { last_sync: replication.last_sync.filter(|_| synced), ..replication }),
    })
}

fn message(story: &Story, kind: ConditionType) -> String {
    let status = story.shown().expect("a status");
    let condition = status.conditions.iter().find(|condition| condition.type_ == kind.as_str());
    let condition = condition.expect("the condition");
    format!("{}: {}", condition.reason, condition.message)
}

#[test]
fn a_claim_without_a_first_copy_moves_nothing_and_is_named() {
    let mut story = Story::protected();
    story.member("east").later = later(true, Some(false));
    story.pass(2000);
    let told = message(&story, ConditionType::Protected);
    assert!(
        told.starts_with("FirstSyncPending: ") && told.contains("claim shop-extra waits for its first sync"),
        "{told}"
    );
    let told = message(&story, ConditionType::FailoverReady);
    assert!(told.starts_with("StaleCopy: ") && told.contains("shop-extra"), "{told}");
    story.kill("east");
    story.pass(12_000);
    assert_eq!((story.promotions(), story.epoch()), (0, 1), "{}", story.told());
}

#[test]
fn what_a_claim_waits_for_is_said() {
    for (state, says) in [
        (later(false, None), "claim shop-extra is not bound"),
        (later(true, None), "claim shop-extra has no VolumeReplication yet"),
    ] {
        let mut story = Story::protected();
        story.member("east").later = state;
        story.pass(2000);
        let told = message(&story, ConditionType::Protected);
        assert!(told.contains(says), "{told}");
    }
}

#[test]
fn a_claim_that_came_later_is_part_of_the_failover_once_it_is_synced_and_staged() {
    let mut story = Story::protected();
    story.member("east").later = later(true, Some(true));
    story.pass(1000);
    assert_eq!(story.member("west").staged.as_deref(), Some("v2"));
    assert_eq!(story.shown().and_then(|status| status.phase), Some(Phase::Protected));
    story.kill("east");
    story.pass(12_000);
    let mut intents =
        story.lines.iter().map(|line| format!("{:?}", line.entry)).filter(|entry| entry.contains("FailOver"));
    let intent = intents.next_back().expect("a failover");
    assert!(intent.contains(r#"claims: ["shop-data", "shop-extra"]"#), "{intent}");
    assert_eq!(story.holder().as_deref(), Some("west"), "{}", story.told());
}
