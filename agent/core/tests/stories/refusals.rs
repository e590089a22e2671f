//! Commands that must not be carried out.

use std::time::Duration;

use agent_core::{AskId, Event};
use proto::{Action, Epoch, FenceProof, Generation, HoldRequest, Policy, Role, StepKind, Timing};

use crate::cluster::*;

#[test]
fn stale_conflicting_and_expired_commands_change_nothing() {
    let mut east = holding_east();
    let before = east.sites.clone();
    east.transcript.clear();
    east.hears_command("shop-deploy-0", StepKind::Fence, 0, Action::Fence);
    east.hears_command("shop-failover-1", StepKind::Fence, 1, Action::Fence);
    east.say("five seconds without a heartbeat of ours in between");
    let nonce = east.nonce;
    east.event(Event::HubDown);
    east.pass_seconds(5);
    east.nonce = nonce;
    east.hears_command("shop-failover-2", StepKind::Fence, 2, Action::Fence);
    assert_eq!(east.sites, before);
    insta::assert_snapshot!(east.transcript);
}

#[test]
fn a_promise_delays_promotion_until_it_has_run_out_unless_the_proof_is_positive() {
    let mut west = standby_west();
    let request = HoldRequest {
        holder: cluster("east"),
        placement: placement(),
        epoch: Epoch(1),
        stop: timing().stop,
        gates: Vec::new(),
    };
    west.event(Event::HoldAsked { ask: AskId(1), request });
    west.transcript.clear();
    west.hears_command(
        "shop-failover-2",
        StepKind::Promote,
        2,
        promote(&["data", "logs"], FenceProof::LeaseExpired),
    );
    assert_eq!(west.role(), Some((Role::Standby, 1)));
    west.say("after hold and stop, and a little more, have passed since the promise");
    west.pass(timing().target_wait());
    west.hears_command(
        "shop-failover-2",
        StepKind::Promote,
        2,
        promote(&["data", "logs"], FenceProof::LeaseExpired),
    );
    assert_eq!(west.role(), Some((Role::Promoting, 2)));
    insta::assert_snapshot!(west.transcript);
}

#[test]
fn a_promise_waits_for_the_stop_time_that_the_holder_lives_by() {
    let mut west = standby_west();
    let mut newer = assignment(1, Some("east"), "east");
    let timing_of_two =
        Timing { grace: Duration::from_secs(1), stop: Duration::from_millis(2_600), ..timing() };
    newer.policy = Policy { generation: Generation(2), timing: timing_of_two, ..policy() };
    west.hears_assignment(newer);
    let mut east = holding_east();
    east.event(Event::HubDown);
    east.pass_seconds(5);
    let request = east.hold_requests.first().cloned().expect("a question");
    assert_eq!(request.stop, timing().stop, "east has not been told of generation 2");
    let claims = ["data", "logs"];
    west.event(Event::HoldAsked { ask: AskId(1), request });
    west.pass(timing_of_two.target_wait() + Duration::from_millis(100));
    west.hears_command("shop-failover-2", StepKind::Promote, 2, promote(&claims, FenceProof::LeaseExpired));
    assert_eq!(west.role(), Some((Role::Standby, 1)), "east may still be stopping");
    west.pass(timing().target_wait() - timing_of_two.target_wait());
    west.hears_command("shop-failover-2", StepKind::Promote, 2, promote(&claims, FenceProof::LeaseExpired));
    assert_eq!(west.role(), Some((Role::Promoting, 2)));
}

#[test]
fn after_a_reboot_the_longest_outstanding_promise_is_waited_out() {
    let mut west = standby_west();
    let request = HoldRequest {
        holder: cluster("east"),
        placement: placement(),
        epoch: Epoch(1),
        stop: Duration::from_secs(60),
        gates: Vec::new(),
    };
    west.event(Event::HoldAsked { ask: AskId(1), request: request.clone() });
    west.pass_seconds(1);
    west.event(Event::HoldAsked { ask: AskId(2), request: HoldRequest { stop: timing().stop, ..request } });
    west.start("boot-w2");
    west.event(Event::HubUp);
    west.pass_seconds(60);
    west.hears_command(
        "shop-failover-2",
        StepKind::Promote,
        2,
        promote(&["data", "logs"], FenceProof::LeaseExpired),
    );
    assert_eq!(west.role(), Some((Role::Standby, 1)));
}

#[test]
fn a_replayed_command_gets_the_old_answer_and_changes_nothing() {
    let mut east = holding_east();
    east.hears_command("shop-failover-2", StepKind::Fence, 2, Action::Fence);
    east.pass_seconds(1);
    let (before, version) = (east.sites.clone(), east.version);
    east.transcript.clear();
    east.hears_command("shop-failover-2", StepKind::Fence, 2, Action::Fence);
    east.hears_command(
        "shop-deploy-1",
        StepKind::Promote,
        1,
        promote(&["data", "logs"], FenceProof::NeverHeld),
    );
    assert_eq!((&east.sites, east.version), (&before, version));
    insta::assert_snapshot!(east.transcript);
}

#[test]
fn a_command_for_a_placement_that_is_not_assigned_is_refused() {
    let mut north = Cluster::new("north");
    north.start("boot-n");
    north.event(Event::HubUp);
    north.hears_command("shop-failover-2", StepKind::Fence, 2, Action::Fence);
    assert!(north.transcript.contains("NotAssigned"), "{}", north.transcript);
    assert!(north.sites.is_empty());
}
