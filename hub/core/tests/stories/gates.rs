//! Fencing level Gate: what the gates of a holder are told, and when they are relied upon.

use std::time::Duration;

use hub_core::{Event, Now};
use proto::gate::{Statement, Ticket};
use proto::{
    Ailment, Epoch, Fencing, FromHub, GateNonce, Generation, Grant, Heartbeat, Nonce, Renewal, WallTime,
};

use crate::story::{Story, TIMING, cluster};

fn relied_upon() -> Story {
    let mut story = Story::protected();
    story.edit(|placement| placement.policy.fencing = Fencing::Gate);
    story.pass(2000);
    story
}

fn is_failed_over(story: &mut Story) -> bool {
    story.pass(2000);
    story.kill("east");
    story.pass(12_000);
    story.holder().as_deref() == Some("west")
}

fn nonce(number: u8) -> GateNonce {
    GateNonce::of_bytes([number; 16])
}

/// What the hub answers to a renewal of east with two gates.
fn grants(story: &mut Story, epoch: u64) -> Vec<Grant> {
    let renewal = Renewal {
        placement: story.placement.id.clone(),
        epoch: Epoch(epoch),
        echo: Generation(1),
        gates: vec![nonce(1), nonce(2)],
    };
    let heartbeat = Heartbeat {
        cluster: cluster("east"),
        nonce: Nonce(77_777),
        api_write_age: Some(Duration::ZERO),
        renewals: vec![renewal],
        paths: Vec::new(),
    };
    let now = Now { boot: story.now, wall: WallTime(i64::try_from(story.now.0).expect("a short story")) };
    let decision = story.hub.as_mut().expect("the hub runs").step(now, Event::Heartbeat(heartbeat));
    let replies = decision.send.into_iter().filter_map(|send| match send.message {
        FromHub::Reply(reply) => Some(reply.grants),
        FromHub::Assignment(_) | FromHub::Unassign(_) | FromHub::Command(_) => None,
    });
    replies.flatten().collect()
}

fn tickets(grant: &Grant) -> Vec<Ticket> {
    let read = |sealed: &proto::Sealed| match sealed.statement().expect("a statement") {
        Statement::Ticket(ticket) => ticket,
        Statement::Promise(promise) => panic!("a promise of the hub: {promise:?}"),
    };
    grant.tickets.iter().map(read).collect()
}

#[test]
fn who_is_granted_gets_a_ticket_for_each_gate() {
    let mut story = Story::protected();
    let granted = grants(&mut story, 1);
    let [grant] = granted.as_slice() else { panic!("{granted:?}") };
    let tickets = tickets(grant);
    assert_eq!(tickets.iter().map(|ticket| ticket.nonce.clone()).collect::<Vec<_>>(), [nonce(1), nonce(2)]);
    let ticket = &tickets[0];
    assert_eq!((&ticket.cluster, &ticket.placement), (&cluster("east"), &story.placement.id));
    assert_eq!((&ticket.name, ticket.epoch), (&story.placement.name, Epoch(1)));
    assert_eq!((ticket.ttl, ticket.grace, ticket.stop), (TIMING.ttl, TIMING.grace, TIMING.stop));
    let targets: Vec<_> = ticket.targets.iter().map(|target| &target.cluster).collect();
    assert_eq!(targets, [&cluster("west")], "all whose promise it needs, and not itself");
    assert!(grant.tickets.iter().all(|ticket| ticket.seal.is_none()), "a core has no key");
}

#[test]
fn who_is_not_granted_gets_no_ticket() {
    let mut story = Story::protected();
    assert_eq!(grants(&mut story, 7), Vec::new());
    story.kill("east");
    story.pass(5000);
    assert!(story.told().contains("record  Intent"), "{}", story.told());
    assert_eq!(grants(&mut story, 1), Vec::new(), "no ticket once an intent is durable");
}

#[test]
fn with_gates_the_hub_fails_over_a_holder_whose_api_server_takes_no_writes() {
    let mut without = Story::protected();
    without.member("east").writes = false;
    assert!(!is_failed_over(&mut without), "a self-fence needs the API server: {}", without.told());
    let mut with = relied_upon();
    with.member("east").writes = false;
    assert!(is_failed_over(&mut with), "{}", with.told());
}

#[test]
fn what_has_no_gate_or_a_silent_one_disarms() {
    for reason in ["PodNotGated", "GateSilent"] {
        let mut story = relied_upon();
        let message = "Pod shop/web-1: runs without one".to_owned();
        story.member("east").ailments = vec![Ailment { reason: reason.to_owned(), message }];
        assert!(!is_failed_over(&mut story), "{reason}: {}", story.told());
        assert!(story.told().contains("waits   NotFenceCapable"), "{reason}: {}", story.told());
    }
}

/// Its pods would be refused there: better known before than after.
#[test]
fn a_target_whose_workload_has_no_gate_is_none() {
    let mut story = relied_upon();
    let message = "Deployment shop/web: its pods would have none".to_owned();
    story.member("west").ailments = vec![Ailment { reason: "PodNotGated".to_owned(), message }];
    assert!(!is_failed_over(&mut story), "{}", story.told());
}

#[test]
fn gates_that_the_holder_has_not_confirmed_are_not_relied_upon() {
    let mut story = Story::protected();
    story.member("east").writes = false;
    story.pass(2000);
    story.say("the link between hub and east is cut, and then the user asks for gates");
    story.member("east").linked = false;
    story.edit(|placement| placement.policy.fencing = Fencing::Gate);
    assert!(!is_failed_over(&mut story), "{}", story.told());
}
