//! Leases: renewed, lost, held through a peer, suspended.

use std::time::Duration;

use agent_core::Event;
use proto::{
    DenialReason, Epoch, FenceProof, Generation, HoldAnswer, Moment, OnSilence, Policy, Role, StepKind,
};

use crate::cluster::*;

#[test]
fn the_holder_deploys_and_renews() {
    let mut east = Cluster::new("east");
    east.run_application(&["data", "logs"]);
    east.start("boot-1");
    east.say("the hub connects and adopts the application where it runs");
    east.event(Event::HubUp);
    east.hears_assignment(assignment(0, None, "west"));
    let claims = ["data", "logs"];
    east.hears_command("shop-deploy-1", StepKind::Promote, 1, promote(&claims, FenceProof::NeverHeld));
    east.say("ownership is recorded, and the lease is asked for and granted");
    east.hears_assignment(assignment(1, Some("east"), "west"));
    east.hears_grant(1);
    east.pass_seconds(2);
    insta::assert_snapshot!(east.transcript);
}

#[test]
fn a_silent_hub_is_survived_through_the_promise_of_the_peer() {
    let mut east = holding_east();
    east.transcript.clear();
    east.say("the hub falls silent; the peer answers every question");
    east.event(Event::HubDown);
    for _ in 0..30 {
        east.pass_seconds(1);
        for (peer, epoch, asked) in std::mem::take(&mut east.asked) {
            let answer = Some(HoldAnswer::Promised { hold: timing().hold, tickets: Vec::new() });
            east.event(Event::HoldAnswered { peer, placement: placement(), epoch, asked, answer });
        }
    }
    assert_eq!(east.role(), Some((Role::Holder, 1)), "a hub outage must not be an application outage");
    east.say("the peer falls silent too");
    east.transcript.clear();
    east.pass_seconds(9);
    assert_eq!(east.role(), Some((Role::Fenced, 1)));
    assert_eq!(east.scaled_to(), 0);
    insta::assert_snapshot!(east.transcript);
}

#[test]
fn a_promise_counts_from_when_it_was_asked_for() {
    let mut east = holding_east();
    let granted_until = 10_000;
    east.event(Event::HubDown);
    east.pass_seconds(9);
    let (peer, epoch, asked) = east.asked.first().cloned().expect("a question");
    assert!(asked < Moment(5_000), "the first question comes after a third of the ttl");
    let answer = Some(HoldAnswer::Promised { hold: timing().hold, tickets: Vec::new() });
    east.event(Event::HoldAnswered { peer, placement: placement(), epoch, asked, answer });
    let end = (asked + timing().hold).max(Moment(granted_until));
    east.pass(end.since(east.now) - Duration::from_millis(1));
    assert_eq!(east.role(), Some((Role::Holder, 1)));
    east.pass(Duration::from_millis(101));
    assert_eq!(east.role(), Some((Role::Fenced, 1)));
}

#[test]
fn a_late_grant_cannot_extend_past_what_the_hub_accounts_for() {
    let mut east = holding_east();
    let early = east.nonce;
    east.pass_seconds(9);
    east.hears_grant_of(early, 1, policy());
    east.pass_seconds(1);
    assert_eq!(east.role(), Some((Role::Fenced, 1)), "the grant answers a renewal sent ten seconds ago");
}

#[test]
fn a_grant_of_another_epoch_or_of_an_unknown_heartbeat_extends_nothing() {
    let mut east = holding_east();
    east.pass_seconds(8);
    east.hears_grant(2);
    east.hears_grant_of(proto::Nonce(999_999), 1, policy());
    east.pass_seconds(2);
    assert_eq!(east.role(), Some((Role::Fenced, 1)));
}

#[test]
fn denials_that_are_no_reason_to_stop_let_the_holder_go_on_until_its_deadline() {
    for reason in [DenialReason::NotNow, DenialReason::NotYours] {
        let mut east = holding_east();
        east.pass_seconds(5);
        east.hears_denial(1, reason);
        east.pass(Duration::from_millis(4_300));
        assert_eq!(east.role(), Some((Role::Holder, 1)));
        east.pass_seconds(1);
        assert_eq!(east.role(), Some((Role::Fenced, 1)));
    }
}

#[test]
fn with_on_silence_continue_the_application_goes_on() {
    let mut east = holding_east();
    let continues = Policy { generation: Generation(2), on_silence: OnSilence::Continue, ..policy() };
    east.hears_grant_of(east.nonce, 1, continues);
    east.event(Event::HubDown);
    east.pass_seconds(60);
    assert_eq!(east.role(), Some((Role::Holder, 1)));
    assert_eq!(east.scaled_to(), 2);
}

#[test]
fn a_new_generation_is_lived_by_from_its_grant_and_echoed_only_once_it_is_durable() {
    let mut east = holding_east();
    east.transcript.clear();
    let newer = Policy { generation: Generation(2), ..policy() };
    east.writable = false;
    east.say("the API server takes no writes while generation 2 is granted");
    east.hears_grant_of(east.nonce, 1, newer);
    east.pass_seconds(1);
    east.writable = true;
    east.say("it does again");
    east.pass_seconds(2);
    insta::assert_snapshot!(east.transcript);
}

fn long() -> Policy {
    let timing = proto::Timing { ttl: Duration::from_secs(600), ..timing() };
    Policy { generation: Generation(2), timing, ..policy() }
}

fn short_again() -> Policy {
    Policy { generation: Generation(3), ..policy() }
}

#[test]
fn a_shorter_ttl_ends_what_a_longer_one_has_granted() {
    let mut east = holding_east();
    east.hears_grant_of(east.nonce, 1, long());
    east.pass_seconds(2);
    east.hears_grant_of(east.nonce, 1, short_again());
    east.event(Event::HubDown);
    east.pass(timing().ttl - Duration::from_millis(1_100));
    assert_eq!(east.role(), Some((Role::Holder, 1)), "granted for ten seconds");
    east.pass(Duration::from_millis(1_200));
    assert_eq!(east.role(), Some((Role::Fenced, 1)), "whoever hears the echo waits for ten seconds only");
}

#[test]
fn a_delayed_grant_of_an_older_generation_lengthens_nothing() {
    let mut east = holding_east();
    east.pass_seconds(1);
    east.hears_grant_of(east.nonce, 1, short_again());
    east.pass_seconds(1);
    east.hears_grant_of(east.nonce, 1, long());
    east.event(Event::HubDown);
    east.pass_seconds(10);
    assert_eq!(east.role(), Some((Role::Fenced, 1)));
}

#[test]
fn a_shorter_ttl_is_lived_by_after_a_restart_too_although_the_memory_is_older() {
    let mut east = holding_east();
    east.hears_grant_of(east.nonce, 1, long());
    east.pass_seconds(2);
    let memory = east.leases.clone();
    east.hears_grant_of(east.nonce, 1, short_again());
    east.leases = memory;
    east.start("boot-1");
    east.pass_seconds(10);
    assert_eq!(east.role(), Some((Role::Fenced, 1)));
}

#[test]
fn a_longer_ttl_lasts_from_the_renewal_that_brought_it() {
    let mut east = holding_east();
    east.pass_seconds(1);
    east.hears_grant_of(east.nonce, 1, long());
    east.event(Event::HubDown);
    east.pass_seconds(590);
    assert_eq!(east.role(), Some((Role::Holder, 1)));
    east.pass_seconds(11);
    assert_eq!(east.role(), Some((Role::Fenced, 1)));
}

#[test]
fn a_holder_that_stopped_itself_still_lives_by_what_was_granted() {
    let mut east = holding_east();
    east.event(Event::HubDown);
    east.pass_seconds(11);
    assert_eq!(east.role(), Some((Role::Fenced, 1)));
    east.event(Event::HubUp);
    let mut edited = assignment(1, Some("east"), "west");
    edited.policy = Policy { generation: Generation(2), on_silence: OnSilence::Continue, ..policy() };
    east.hears_assignment(edited);
    east.pass_seconds(1);
    east.say("an answer from before the edit");
    east.hears_grant(1);
    east.pass_seconds(1);
    assert_eq!(east.role(), Some((Role::Holder, 1)));
    east.event(Event::HubDown);
    east.pass_seconds(11);
    assert_eq!(east.role(), Some((Role::Fenced, 1)), "generation 2 was never granted (R6)");
}

#[test]
fn a_holder_that_was_denied_and_is_adopted_again_still_lives_by_what_was_granted() {
    let mut east = holding_east();
    east.pods_obey = false;
    east.pass_seconds(1);
    east.hears_denial(2, DenialReason::Superseded);
    assert_eq!(east.role(), Some((Role::Fenced, 2)));
    let mut edited = assignment(1, Some("east"), "west");
    edited.policy = Policy { generation: Generation(2), on_silence: OnSilence::Continue, ..policy() };
    east.hears_assignment(edited);
    east.pass_seconds(1);
    let readopt = promote(&["data", "logs"], FenceProof::NeverHeld);
    east.hears_command("shop-readopt-3", StepKind::Promote, 3, readopt);
    assert_eq!(east.role(), Some((Role::Promoting, 3)));
    east.event(Event::HubDown);
    east.pass_seconds(11);
    assert_eq!(east.role(), Some((Role::Fenced, 3)), "generation 2 was never granted (R6)");
}

#[test]
fn an_assignment_changes_nothing_that_a_holder_lives_by() {
    let mut east = holding_east();
    let mut edited = assignment(1, Some("east"), "west");
    edited.policy = Policy { generation: Generation(2), on_silence: OnSilence::Continue, ..policy() };
    east.hears_assignment(edited);
    east.pass_seconds(10);
    assert_eq!(east.role(), Some((Role::Fenced, 1)), "only a grant may change the policy of a holder (R6)");
}

#[test]
fn clocks_that_part_suspend_the_lease_until_a_renewal_succeeds() {
    let mut east = holding_east();
    east.transcript.clear();
    east.say("the node wakes up: the wall clock is an hour ahead");
    east.wall_offset += 3_600_000;
    east.pass(Duration::from_millis(200));
    east.say("the hub confirms at once");
    east.hears_grant(1);
    east.pass_seconds(3);
    assert_eq!(east.role(), Some((Role::Holder, 1)), "a healthy link never fences (L6)");
    east.say("it happens again, and the hub is silent");
    east.event(Event::HubDown);
    east.wall_offset += 3_600_000;
    east.pass_seconds(2);
    assert_eq!(east.role(), Some((Role::Fenced, 1)));
    insta::assert_snapshot!(east.transcript);
}

#[test]
fn a_target_makes_its_promise_durable_before_it_answers() {
    let mut west = standby_west();
    west.transcript.clear();
    let request = proto::HoldRequest {
        holder: cluster("east"),
        placement: placement(),
        epoch: Epoch(1),
        stop: timing().stop,
        gates: Vec::new(),
    };
    west.writable = false;
    west.say("asked while the API server takes no writes");
    west.event(Event::HoldAsked { ask: agent_core::AskId(1), request: request.clone() });
    west.writable = true;
    west.pass(Duration::from_millis(200));
    west.say("asked at an epoch that this cluster has not seen");
    let newer = proto::HoldRequest { epoch: Epoch(2), ..request };
    west.event(Event::HoldAsked { ask: agent_core::AskId(2), request: newer });
    insta::assert_snapshot!(west.transcript);
}
