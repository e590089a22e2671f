//! A former holder comes back: what its copy has is told, and thrown away only by a command.

use std::time::Duration;

use agent_core::{Event, Kind};
use proto::*;
use serde_json::{Value, json};

use crate::cluster::*;

const RESYNC: &str = "shop-resync-2";

fn resyncs(east: &mut Cluster, claims: &[&str]) {
    let claims = claims.iter().map(|&claim| claim.to_owned()).collect();
    east.hears_command(RESYNC, StepKind::Resync, 2, Action::Resync { claims });
}

/// As the hub does as long as its operation runs: what is not answered is asked again.
fn resyncs_for(east: &mut Cluster, claims: &[&str], seconds: u64) {
    for _ in 0..seconds {
        resyncs(east, claims);
        east.pass_seconds(1);
    }
}

fn rejoins(east: &mut Cluster) {
    east.hears_command(RESYNC, StepKind::Rejoin, 2, Action::Rejoin);
}

fn has_answered(cluster: &Cluster, step: StepKind, outcome: &str) -> bool {
    cluster.transcript.contains(&format!("/{step}: {outcome}"))
}

fn auto_resync(cluster: &Cluster) -> Vec<bool> {
    let replications = cluster.objects.iter().filter(|((kind, _), _)| *kind == Kind::Replication);
    replications.map(|(_, object)| object["spec"]["autoResync"] == json!(true)).collect()
}

fn divergence(cluster: &Cluster) -> Divergence {
    cluster.reported.as_ref().expect("a report").divergence
}

/// East was lost and has come back; west holds epoch 2, and the array says nothing about the copies yet.
fn returned_east() -> Cluster {
    let mut east = holding_east();
    east.array = Array::IsSlowToCross;
    east.pass_seconds(1);
    east.hears_denial(2, DenialReason::Superseded);
    east.hears_assignment(assignment(2, Some("west"), "west"));
    east.pass_seconds(2);
    assert_eq!(east.role(), Some((Role::Fenced, 2)));
    east
}

/// East has handed over to west in a planned move, and stands by.
fn handed_over_east() -> Cluster {
    let mut east = holding_east();
    east.pass_seconds(1);
    east.hears_command("shop-migrate-2", StepKind::ScaleDown, 2, Action::ScaleDown);
    east.pass_seconds(1);
    east.hears_command("shop-migrate-2", StepKind::Demote, 2, Action::Demote);
    east.pass_seconds(1);
    east.hears_assignment(assignment(2, Some("west"), "west"));
    east.pass_seconds(1);
    east
}

/// As `returned_east`, and the storage has found that the copies do not match.
fn diverged_east() -> Cluster {
    let mut east = returned_east();
    east.array_becomes(Array::IsSplitBrain);
    east.pass_seconds(1);
    east
}

#[test]
fn a_diverged_copy_is_made_anew_and_its_cluster_becomes_a_standby() {
    let mut east = diverged_east();
    east.transcript.clear();
    resyncs(&mut east, &["data", "logs"]);
    east.pass_seconds(2);
    east.say("the images have been copied anew, and replay");
    east.array_becomes(Array::Mirrors);
    east.pass_seconds(1);
    east.say("west's sync times have advanced");
    rejoins(&mut east);
    east.pass_seconds(1);
    assert_eq!(divergence(&east), Divergence::No);
    insta::assert_snapshot!(east.transcript);
}

#[test]
fn what_a_former_holder_has_alone_is_unknown_until_the_storage_says_it() {
    let mut east = returned_east();
    assert_eq!(divergence(&east), Divergence::Unknown);
    east.array_becomes(Array::RefusesToSync);
    east.pass_seconds(80);
    assert_eq!(divergence(&east), Divergence::Unknown, "a refusal may pass");
    east.pass_seconds(20);
    assert_eq!(divergence(&east), Divergence::Yes, "one that lasts is the storage's word");
    east.array_becomes(Array::IsSlowToCross);
    east.pass_seconds(1);
    assert_eq!(divergence(&east), Divergence::Unknown);
    east.array_becomes(Array::IsSplitBrain);
    east.pass_seconds(1);
    assert_eq!(divergence(&east), Divergence::Yes, "it says so in words");
}

/// Its DRSiteState was deleted while it was away: it must not pass for a standby, whose copy follows the holder's.
#[test]
fn a_former_holder_that_remembers_nothing_is_known_by_its_volumes() {
    let mut east = holding_east();
    east.array = Array::IsSlowToCross;
    east.pass_seconds(1);
    east.sites.clear();
    east.start("boot-2");
    east.event(Event::HubUp);
    east.hears_assignment(assignment(2, Some("west"), "west"));
    east.pass_seconds(5);
    assert_eq!(east.role(), Some((Role::Fenced, 2)), "{}", east.transcript);
    assert_eq!(east.scaled_to(), 0);
    assert_eq!(divergence(&east), Divergence::Unknown);
    resyncs(&mut east, &["data", "logs"]);
    east.pass_seconds(2);
    assert_eq!(auto_resync(&east), [true, true], "{}", east.transcript);
}

/// It has handed over, and somebody promotes its volumes past the agent: what it said then does not hold any more.
#[test]
fn a_standby_whose_volumes_are_promoted_by_hand_is_fenced_once_and_demoted() {
    let mut east = handed_over_east();
    assert_eq!(east.role(), Some((Role::Standby, 2)));
    east.transcript.clear();
    let mut promoted = east.objects[&(Kind::Replication, "data".to_owned())].clone();
    promoted["spec"]["replicationState"] = json!("primary");
    let watched = east.put(Kind::Replication, "data", promoted);
    east.event(Event::Watched(watched));
    east.pass_seconds(10);
    assert_eq!(east.role(), Some((Role::Fenced, 2)), "{}", east.transcript);
    assert!(east.transcript.matches("write DRSiteState").count() <= 2, "{}", east.transcript);
    assert_eq!(east.replication_states()[0].1, "secondary", "{}", east.transcript);
    assert_ne!(divergence(&east), Divergence::No);
}

#[test]
fn nobody_but_a_former_holder_may_have_diverged() {
    let mut east = holding_east();
    east.pass_seconds(1);
    assert_eq!(divergence(&east), Divergence::No);
    let west = standby_west();
    assert_eq!(divergence(&west), Divergence::No);
}

#[test]
fn without_a_command_no_copy_is_ever_thrown_away() {
    let mut east = diverged_east();
    for _ in 0..5 {
        east.pass_seconds(60);
        east.start("boot-1");
        east.event(Event::HubUp);
    }
    assert_eq!(auto_resync(&east), [false, false]);
}

#[test]
fn a_copy_is_thrown_away_only_when_the_drsitestate_names_the_operation() {
    let mut east = diverged_east();
    east.writable = false;
    resyncs_for(&mut east, &["data", "logs"], 3);
    assert_eq!(auto_resync(&east), [false, false], "{}", east.transcript);
    east.writable = true;
    resyncs_for(&mut east, &["data", "logs"], 3);
    assert_eq!(auto_resync(&east), [true, true], "{}", east.transcript);
}

/// The holder may be lost while the copy is made anew: then the outdated one may be all that is left.
#[test]
fn a_resync_that_nobody_asks_for_any_more_is_taken_back() {
    let mut east = diverged_east();
    resyncs(&mut east, &["data", "logs"]);
    east.pass_seconds(3);
    assert_eq!(auto_resync(&east), [true, true]);
    east.transcript.clear();
    east.pass_seconds(30);
    assert_eq!(auto_resync(&east), [false, false], "{}", east.transcript);
    let recorded = east.sites.get(&placement()).expect("a DRSiteState");
    assert_eq!(recorded.state.resync, None, "and admission refuses it again");
}

#[test]
fn a_resync_that_an_agent_finds_when_it_starts_is_taken_back_unless_somebody_asks_for_it() {
    let mut east = diverged_east();
    resyncs(&mut east, &["data", "logs"]);
    east.pass_seconds(3);
    east.start("boot-1");
    east.event(Event::HubUp);
    east.pass_seconds(3);
    assert_eq!(auto_resync(&east), [true, true], "the hub has not had the time to ask");
    east.pass_seconds(30);
    assert_eq!(auto_resync(&east), [false, false], "{}", east.transcript);
}

/// It may have been away while the user made the timing longer: the hub repeats by the new one.
#[test]
fn a_hub_that_repeats_itself_by_a_longer_timing_is_waited_for() {
    let mut east = diverged_east();
    let mut longer = assignment(2, Some("west"), "west");
    longer.policy.generation = Generation(9);
    longer.policy.timing = Timing::CONSERVATIVE;
    east.hears_assignment(longer);
    resyncs(&mut east, &["data", "logs"]);
    east.pass_seconds(119);
    assert_eq!(auto_resync(&east), [true, true], "{}", east.transcript);
}

/// The storage would throw the new copy away as well, when the holder is lost and its image shows an error.
#[test]
fn a_copy_that_follows_again_is_not_to_be_thrown_away_any_more() {
    let mut east = diverged_east();
    resyncs(&mut east, &["data", "logs"]);
    east.pass_seconds(2);
    east.array_becomes(Array::Mirrors);
    east.pass_seconds(3);
    assert!(has_answered(&east, StepKind::Resync, "Done"), "{}", east.transcript);
    assert_eq!(auto_resync(&east), [false, false], "{}", east.transcript);
    assert_eq!(east.role(), Some((Role::Fenced, 2)), "it is no standby before its copy is protected");
}

#[test]
fn only_the_claims_that_are_named_are_resynced() {
    let mut east = diverged_east();
    resyncs(&mut east, &["data"]);
    east.pass_seconds(1);
    assert_eq!(auto_resync(&east), [true, false]);
}

#[test]
fn nothing_is_thrown_away_while_something_uses_a_volume_or_it_is_still_primary() {
    let mut east = holding_east();
    east.pods_obey = false;
    east.storage_obeys = false;
    east.pass_seconds(1);
    east.hears_denial(2, DenialReason::Superseded);
    east.hears_assignment(assignment(2, Some("west"), "west"));
    east.pass_seconds(1);
    resyncs_for(&mut east, &["data", "logs"], 5);
    assert!(!auto_resync(&east).contains(&true), "{}", east.transcript);
    for event in east.pods_end() {
        east.event(event);
    }
    resyncs_for(&mut east, &["data", "logs"], 3);
    assert!(!auto_resync(&east).contains(&true), "the driver has not demoted yet:\n{}", east.transcript);
    for claim in ["data", "logs"] {
        let answer = east.storage_answers(claim);
        east.event(answer);
    }
    resyncs_for(&mut east, &["data", "logs"], 1);
    assert_eq!(auto_resync(&east), [true, true], "{}", east.transcript);
}

fn fails(reason: &str) -> Value {
    json!({
        "state": "Secondary", "message": "image needs to be recreated",
        "conditions": [
            {"type": "Completed", "status": "False", "reason": reason},
            {"type": "Degraded", "status": "True"}, {"type": "Resyncing", "status": "False"},
        ],
    })
}

#[test]
fn failures_while_a_copy_is_made_anew_are_told_only_when_they_last() {
    let mut east = diverged_east();
    east.pass_seconds(600);
    east.transcript.clear();
    resyncs(&mut east, &["data", "logs"]);
    for _ in 0..9 {
        for reason in ["FailedToResync", "FailedToDemote"] {
            let said = east.storage_says("data", |_| fails(reason));
            east.event(said);
            resyncs_for(&mut east, &["data", "logs"], 15);
        }
    }
    assert!(!east.transcript.contains("Failing"), "{}", east.transcript);
    resyncs_for(&mut east, &["data", "logs"], 60);
    assert!(has_answered(&east, StepKind::Resync, "Failing { reason: \"FailedToDemote\""));
    assert!(east.transcript.contains("image needs to be recreated"));
    assert_eq!(auto_resync(&east), [true, true], "it goes on");
    east.array_becomes(Array::Mirrors);
    east.pass_seconds(1);
    assert!(has_answered(&east, StepKind::Resync, "Done"), "{}", east.transcript);
}

#[test]
fn a_resync_is_done_only_when_every_copy_replays_at_the_present_generation() {
    let mut east = diverged_east();
    east.array = Array::Mirrors;
    east.storage_obeys = false;
    resyncs_for(&mut east, &["data", "logs"], 5);
    assert_eq!(auto_resync(&east), [true, true]);
    assert!(!has_answered(&east, StepKind::Resync, "Done"), "{}", east.transcript);
    let answer = east.storage_answers("data");
    east.event(answer);
    resyncs_for(&mut east, &["data", "logs"], 5);
    assert!(!has_answered(&east, StepKind::Resync, "Done"), "{}", east.transcript);
    let answer = east.storage_answers("logs");
    east.event(answer);
    resyncs_for(&mut east, &["data", "logs"], 1);
    assert!(has_answered(&east, StepKind::Resync, "Done"), "{}", east.transcript);
}

#[test]
fn until_it_rejoins_its_cluster_stays_stopped() {
    let mut east = diverged_east();
    resyncs(&mut east, &["data", "logs"]);
    east.array_becomes(Array::Mirrors);
    east.pass_seconds(1);
    assert!(has_answered(&east, StepKind::Resync, "Done"), "{}", east.transcript);
    east.start("boot-1");
    east.event(Event::HubUp);
    let watched = east.put(deployments(), "web", deployment(2, &["data", "logs"]));
    east.event(Event::Watched(watched));
    east.pass_seconds(30);
    assert_eq!((east.role(), east.scaled_to()), (Some((Role::Fenced, 2)), 0));
    rejoins(&mut east);
    east.pass_seconds(1);
    assert_eq!(auto_resync(&east), [false, false]);
    assert_eq!(east.role(), Some((Role::Standby, 2)));
}

#[test]
fn an_approval_ends_with_its_epoch() {
    let mut east = diverged_east();
    resyncs(&mut east, &["data", "logs"]);
    east.pass_seconds(1);
    assert_eq!(auto_resync(&east), [true, true]);
    east.hears_assignment(assignment(3, Some("north"), "west"));
    east.pass_seconds(2);
    assert_eq!(auto_resync(&east), [false, false], "{}", east.transcript);
    assert_eq!(east.sites[&placement()].state.resync, None);
}

#[test]
fn a_resync_of_another_epoch_or_where_nobody_else_holds_is_refused() {
    let mut east = diverged_east();
    for epoch in [1, 3] {
        let action = Action::Resync { claims: vec!["data".into()] };
        east.hears_command("shop-resync-9", StepKind::Resync, epoch, action);
    }
    assert_eq!(east.transcript.matches("Resync: Refused { refusal: StaleEpoch").count(), 2);
    let mut holder = holding_east();
    let action = Action::Resync { claims: vec!["data".into()] };
    holder.hears_command("shop-resync-1", StepKind::Resync, 1, action);
    assert!(has_answered(&holder, StepKind::Resync, "Refused { refusal: Conflict"));
    let mut west = standby_west();
    let action = Action::Resync { claims: vec!["data".into()] };
    west.hears_command("shop-resync-1", StepKind::Resync, 1, action);
    assert!(has_answered(&west, StepKind::Resync, "Refused { refusal: Conflict"));
    assert!(!auto_resync(&east).contains(&true) && !auto_resync(&holder).contains(&true));
}

#[test]
fn a_resync_without_a_volumereplication_or_without_claims_is_told() {
    let mut east = diverged_east();
    let gone = east.remove(Kind::Replication, "logs").expect("a VolumeReplication");
    east.event(gone);
    resyncs(&mut east, &["data", "logs"]);
    east.pass_seconds(1);
    assert!(has_answered(&east, StepKind::Resync, "Failing { reason: \"ClaimNotReplicated\""));
    let mut east = diverged_east();
    resyncs(&mut east, &[]);
    east.pass_seconds(1);
    assert!(has_answered(&east, StepKind::Resync, "Failing { reason: \"NoClaims\""));
}

/// storage.md, failback after a disaster: claims may have come at the new holder meanwhile.
#[test]
fn a_claim_that_came_where_the_placement_is_held_now_does_not_keep_the_old_copies_from_being_made_anew() {
    let mut east = diverged_east();
    resyncs(&mut east, &["data", "logs", "created-at-west"]);
    east.array_becomes(Array::Mirrors);
    east.pass_seconds(2);
    assert!(has_answered(&east, StepKind::Resync, "Done"), "{}", east.transcript);
}

#[test]
fn a_release_in_the_middle_of_a_resync_leaves_nothing_that_throws_a_copy_away() {
    let mut east = diverged_east();
    resyncs(&mut east, &["data", "logs"]);
    east.pass_seconds(2);
    assert_eq!(auto_resync(&east), [true, true]);
    east.hears_command("shop-release-2", StepKind::Release, 2, Action::Release);
    east.pass_seconds(3);
    assert_eq!(auto_resync(&east), [false, false], "{}", east.transcript);
}

#[test]
fn an_agent_that_dies_at_any_point_of_a_return_comes_to_the_same_end() {
    for dies_after in 0..50 {
        let mut east = diverged_east();
        for turn in 0..50 {
            if turn == dies_after {
                east.start("boot-1");
                east.event(Event::HubUp);
            }
            if turn == 20 {
                east.array_becomes(Array::Mirrors);
            }
            east.pass(Duration::from_millis(100));
            match has_answered(&east, StepKind::Resync, "Done") {
                false => resyncs(&mut east, &["data", "logs"]),
                true => rejoins(&mut east),
            }
        }
        assert!(
            has_answered(&east, StepKind::Rejoin, "Done"),
            "died after {dies_after}:\n{}",
            east.transcript
        );
        assert_eq!(east.role(), Some((Role::Standby, 2)));
        assert_eq!(auto_resync(&east), [false, false]);
    }
}

#[test]
fn a_rejoin_whose_answer_was_lost_is_answered_again() {
    let mut east = diverged_east();
    resyncs(&mut east, &["data", "logs"]);
    east.array_becomes(Array::Mirrors);
    east.pass_seconds(1);
    rejoins(&mut east);
    east.pass_seconds(1);
    assert_eq!(east.role(), Some((Role::Standby, 2)));
    let site = east.sites.get_mut(&placement()).expect("a DRSiteState");
    site.state.results.clear();
    east.start("boot-1");
    east.event(Event::HubUp);
    east.transcript.clear();
    east.pass_seconds(1);
    rejoins(&mut east);
    east.pass_seconds(1);
    assert!(has_answered(&east, StepKind::Rejoin, "Done"), "{}", east.transcript);
}

/// A call that csi-addons began while `autoResync` stood may end behind the role, and throw away the copy of a standby.
#[test]
fn a_returned_site_is_no_standby_before_csi_addons_has_seen_that_nothing_is_thrown_away_any_more() {
    let mut east = diverged_east();
    resyncs(&mut east, &["data", "logs"]);
    east.pass_seconds(1);
    east.storage_obeys = false;
    east.array_becomes(Array::Mirrors);
    east.pass_seconds(1);
    rejoins(&mut east);
    east.pass_seconds(1);
    assert_eq!(auto_resync(&east), [false, false]);
    assert_eq!(east.role(), Some((Role::Fenced, 2)), "{}", east.transcript);
    east.storage_obeys = true;
    east.array_becomes(Array::Mirrors);
    east.pass_seconds(1);
    assert_eq!(east.role(), Some((Role::Standby, 2)), "{}", east.transcript);
    assert!(has_answered(&east, StepKind::Rejoin, "Done"), "{}", east.transcript);
}
