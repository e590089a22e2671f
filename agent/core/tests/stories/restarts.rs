//! What a new agent process knows, and what it must do before it asks anyone.

use std::time::Duration;

use agent_core::{AskId, Event};
use proto::{
    Epoch, FenceProof, FromHub, HoldAnswer, HoldRequest, Mark, Moment, PathKind, PathState, Peer, Reply,
    Role, StepKind, Term,
};

use crate::cluster::*;

#[test]
fn an_agent_that_restarts_on_the_same_boot_lets_the_application_run() {
    let mut east = holding_east();
    east.pass_seconds(1);
    east.hears_grant(1);
    east.pass_seconds(1);
    east.transcript.clear();
    east.start("boot-1");
    assert!(east.agent.may_call_hub());
    east.pass_seconds(1);
    east.event(Event::HubUp);
    east.hears_grant(1);
    east.pass_seconds(9);
    assert_eq!(
        east.role(),
        Some((Role::Holder, 1)),
        "an upgrade of the agent must not stop applications (L6)"
    );
    assert_eq!(east.scaled_to(), 2);
}

#[test]
fn an_agent_that_restarts_right_after_an_adoption_lets_the_application_run() {
    let mut east = Cluster::new("east");
    east.run_application(&["data", "logs"]);
    east.start("boot-1");
    east.event(Event::HubUp);
    east.hears_assignment(assignment(0, None, "west"));
    let adopt = promote(&["data", "logs"], FenceProof::NeverHeld);
    east.hears_command("shop-deploy-1", StepKind::Promote, 1, adopt);
    east.start("boot-1");
    assert_eq!(east.role(), Some((Role::Promoting, 1)), "what it lives by was remembered at once");
    east.event(Event::HubUp);
    east.hears_assignment(assignment(1, Some("east"), "west"));
    east.pass_seconds(1);
    assert_eq!(east.role(), Some((Role::Holder, 1)));
    assert_eq!(east.scaled_to(), 2);
}

#[test]
fn a_remembered_deadline_still_ends_the_application() {
    let mut east = holding_east();
    east.pass_seconds(1);
    east.start("boot-1");
    east.pass_seconds(9);
    assert_eq!(east.role(), Some((Role::Fenced, 1)));
    assert_eq!(east.scaled_to(), 0);
}

fn peers_promise_for(east: &mut Cluster, seconds: u64) {
    for _ in 0..seconds {
        east.pass_seconds(1);
        for (peer, epoch, asked) in std::mem::take(&mut east.asked) {
            let answer = Some(HoldAnswer::Promised { hold: timing().hold, tickets: Vec::new() });
            east.event(Event::HoldAnswered { peer, placement: placement(), epoch, asked, answer });
        }
    }
}

/// The hub has been silent for longer than the ttl, and the peer promises.
fn east_held_through_a_promise() -> Cluster {
    let mut east = holding_east();
    east.event(Event::HubDown);
    peers_promise_for(&mut east, 20);
    assert_eq!(east.role(), Some((Role::Holder, 1)));
    east
}

#[test]
fn an_agent_that_restarts_while_the_hub_is_silent_still_lives_by_what_its_peers_have_promised() {
    let mut east = east_held_through_a_promise();
    east.start("boot-1");
    peers_promise_for(&mut east, 20);
    assert_eq!(east.role(), Some((Role::Holder, 1)), "a hub outage must not be an application outage");
    assert_eq!(east.scaled_to(), 2);
    east.start("boot-1");
    east.pass_seconds(9);
    assert_eq!(east.role(), Some((Role::Fenced, 1)), "a remembered promise ends when it was to end");
}

#[test]
fn promises_of_another_epoch_or_of_other_targets_are_not_lived_by_after_a_restart() {
    let mut of_another_epoch = east_held_through_a_promise();
    for (_, promised) in &mut of_another_epoch.promises {
        promised.epoch = Epoch(0);
    }
    of_another_epoch.start("boot-1");
    of_another_epoch.pass_seconds(1);
    assert_eq!(of_another_epoch.role(), Some((Role::Fenced, 1)));
    let mut of_other_targets = east_held_through_a_promise();
    for recorded in of_other_targets.sites.values_mut() {
        let known = recorded.state.assignment.as_mut().expect("an assignment");
        known.peers.push(Peer { cluster: cluster("north"), ..known.peers[0].clone() });
    }
    of_other_targets.start("boot-1");
    of_other_targets.pass_seconds(1);
    assert_eq!(of_other_targets.role(), Some((Role::Fenced, 1)), "north has promised nothing");
}

#[test]
fn on_another_boot_the_former_holder_stops_before_it_calls_the_hub() {
    let mut east = holding_east();
    east.pass_seconds(1);
    east.transcript.clear();
    east.say("the whole site comes back from a power cut, its pods restarted by the kubelets");
    east.now = proto::Moment(3_000);
    let agent_before_its_lists = {
        let mut fresh = holding_east();
        fresh.sites = east.sites.clone();
        fresh.remembered_boot = Some("boot-0".into());
        fresh
    };
    assert!(agent_before_its_lists.agent.may_call_hub());
    east.start("boot-2");
    assert_eq!(east.role(), Some((Role::Fenced, 1)));
    assert_eq!(east.scaled_to(), 0);
    assert!(east.agent.may_call_hub(), "stopped, so the hub may be called");
    insta::assert_snapshot!(east.transcript);
}

fn west_that_has_promised() -> Cluster {
    let mut west = standby_west();
    let request = HoldRequest {
        holder: cluster("east"),
        placement: placement(),
        epoch: Epoch(1),
        stop: timing().stop,
        gates: Vec::new(),
    };
    west.event(Event::HoldAsked { ask: AskId(1), request });
    west
}

fn waits_out_its_promise(mut west: Cluster) {
    west.hears_assignment(assignment(1, Some("east"), "east"));
    let claims = ["data", "logs"];
    west.pass(timing().target_wait() - Duration::from_millis(100));
    west.hears_command("shop-failover-2", StepKind::Promote, 2, promote(&claims, FenceProof::LeaseExpired));
    assert_eq!(west.role(), Some((Role::Standby, 1)));
    west.pass_seconds(1);
    west.hears_command("shop-failover-2", StepKind::Promote, 2, promote(&claims, FenceProof::LeaseExpired));
    assert_eq!(west.role(), Some((Role::Promoting, 2)));
}

#[test]
fn a_promise_given_before_a_reboot_is_waited_out_whole() {
    let mut west = west_that_has_promised();
    west.now = Moment(500);
    west.start("boot-w2");
    west.event(Event::HubUp);
    waits_out_its_promise(west);
}

/// Boot time has moved against wall time, on the same boot: as in another time namespace, or on a machine that was set back
/// to a snapshot.
fn by_a_clock_ahead(cluster: &mut Cluster, seconds: i64) {
    let ahead = seconds * 1000;
    cluster.now = Moment(cluster.now.0.saturating_add_signed(ahead));
    cluster.wall_offset -= ahead;
}

#[test]
fn a_promise_is_waited_out_whole_by_a_clock_that_is_ahead() {
    let mut restarted = west_that_has_promised();
    by_a_clock_ahead(&mut restarted, 3_600);
    restarted.start("boot-w");
    restarted.event(Event::HubUp);
    waits_out_its_promise(restarted);
    let mut woken = west_that_has_promised();
    by_a_clock_ahead(&mut woken, 3_600);
    woken.pass(Duration::from_millis(50));
    let written = woken.sites.values().find_map(|site| site.state.promise.clone()).expect("a promise");
    assert!(written.until > woken.now, "whoever comes next has to wait, too");
    waits_out_its_promise(woken);
}

#[test]
fn a_promise_that_is_over_is_not_waited_out_again_because_a_wall_clock_was_set() {
    let mut west = west_that_has_promised();
    west.pass(timing().target_wait() * 2);
    west.wall_offset += 3_000;
    west.start("boot-w");
    west.event(Event::HubUp);
    west.hears_assignment(assignment(1, Some("east"), "east"));
    let claims = ["data", "logs"];
    west.hears_command("shop-failover-2", StepKind::Promote, 2, promote(&claims, FenceProof::LeaseExpired));
    assert_eq!(west.role(), Some((Role::Promoting, 2)));
}

#[test]
fn a_lease_that_a_clock_ahead_has_remembered_ends_when_it_was_to_end() {
    let mut east = holding_east();
    by_a_clock_ahead(&mut east, 3_600);
    east.start("boot-1");
    east.event(Event::HubUp);
    east.pass_seconds(1);
    east.hears_grant(1);
    east.pass_seconds(1);
    assert_eq!(east.role(), Some((Role::Holder, 1)));
    by_a_clock_ahead(&mut east, -3_600);
    east.start("boot-1");
    east.pass_seconds(1);
    assert_eq!(east.role(), Some((Role::Holder, 1)), "the lease is as long as before");
    east.pass_seconds(9);
    assert_eq!(east.role(), Some((Role::Fenced, 1)), "not an hour later");
    assert_eq!(east.scaled_to(), 0);
}

#[test]
fn a_lease_of_a_renewal_that_will_have_been_sent_is_not_lived_by() {
    let mut east = holding_east();
    for (_, lease) in &mut east.leases {
        lease.sent = lease.sent + Duration::from_secs(3_600);
        lease.until = lease.until + Duration::from_secs(3_600);
    }
    east.start("boot-1");
    east.pass_seconds(1);
    assert_eq!(east.role(), Some((Role::Fenced, 1)), "whatever the wall clock says");
}

#[test]
fn a_path_that_worked_by_another_clock_is_no_evidence() {
    let mut east = holding_east();
    by_a_clock_ahead(&mut east, 3_600);
    east.start("boot-1");
    east.event(Event::HubUp);
    reply_of_term(&mut east, 7, 1_000);
    let mark = Mark { term: 7, at: Moment(1_000) };
    let began = east.now;
    probe_ended(&mut east, mark, true, began);
    east.pass_seconds(3);
    by_a_clock_ahead(&mut east, -3_600);
    east.start("boot-1");
    east.event(Event::HubUp);
    let began = east.now;
    probe_ended(&mut east, mark, false, began);
    east.pass_seconds(2);
    let ages: Vec<_> = east.told_paths.iter().map(|path| path.worked_age).collect();
    assert_eq!(ages, [None], "when it last worked is not known");
}

#[test]
fn a_fence_goes_on_where_a_restart_has_interrupted_it() {
    let mut east = holding_east();
    east.pods_obey = false;
    east.event(Event::HubDown);
    east.pass_seconds(10);
    assert_eq!(east.role(), Some((Role::Fenced, 1)));
    east.start("boot-1");
    for event in east.pods_end() {
        east.event(event);
    }
    east.pass_seconds(2);
    assert!(east.replication_states().iter().all(|(_, state)| state == "secondary"));
}

#[test]
fn a_target_whose_agent_dies_between_ownership_and_its_first_lease_still_starts_the_application() {
    let claims = ["data", "logs"];
    let mut west = standby_west();
    west.hears_command("shop-failover-2", StepKind::Promote, 2, promote(&claims, FenceProof::LeaseExpired));
    west.hears_assignment(assignment(2, Some("west"), "east"));
    west.leases.clear();
    west.transcript.clear();
    west.say("the agent dies before any lease is remembered, and starts again");
    west.start("boot-w");
    west.pass(Duration::from_millis(500));
    west.event(Event::HubUp);
    west.hears_assignment(assignment(2, Some("west"), "east"));
    let workloads = vec![proto::WorkloadScale { workload: workload(), replicas: 2 }];
    west.hears_command("shop-failover-2", StepKind::ScaleUp, 2, proto::Action::ScaleUp { workloads });
    west.pass_seconds(1);
    assert_eq!(west.scaled_to(), 0, "no pods without a lease");
    west.hears_grant(2);
    west.pass_seconds(2);
    assert_eq!(west.scaled_to(), 2);
    assert!(west.replication_states().iter().all(|(_, state)| state == "primary"));
    insta::assert_snapshot!(west.transcript);
}

fn reply_of_term(east: &mut Cluster, term: u64, at: u64) {
    let mark = Mark { term, at: Moment(at) };
    let (grants, denials) = (Vec::new(), Vec::new());
    east.hears(FromHub::Reply(Reply { term: Term(term), nonce: east.nonce, mark, grants, denials }));
}

fn probe_ended(east: &mut Cluster, mark: Mark, reachable: bool, began: Moment) {
    let (cluster, path) = (cluster("west"), PathKind::PeerAgent);
    east.event(Event::Probed { cluster, path, reachable, mark, began });
}

#[test]
fn evidence_is_gathered_anew_for_a_hub_that_counts_its_terms_from_one_again() {
    let mut east = holding_east();
    reply_of_term(&mut east, 7, 1_000);
    let old = Mark { term: 7, at: Moment(1_000) };
    east.pass_seconds(2);
    let began = east.now;
    probe_ended(&mut east, old, true, began);
    east.pass_seconds(2);
    assert_eq!(east.told_paths.iter().map(|path| path.mark).collect::<Vec<_>>(), [old]);
    east.say("the hub comes back without its journal, while another probe is under way");
    let began = east.now;
    east.event(Event::HubDown);
    east.event(Event::HubUp);
    assert!(east.told_paths.is_empty(), "{:?}", east.told_paths);
    probe_ended(&mut east, old, true, began);
    reply_of_term(&mut east, 1, 50);
    east.probed.clear();
    east.pass_seconds(2);
    let new = Mark { term: 1, at: Moment(50) };
    assert!(!east.probed.is_empty() && east.probed.iter().all(|mark| *mark == new), "{:?}", east.probed);
    let told: Vec<&PathState> = east.told_paths.iter().filter(|path| path.mark.term != 0).collect();
    assert!(told.is_empty(), "a probe begun for the old hub is no evidence for the new one: {told:?}");
}
