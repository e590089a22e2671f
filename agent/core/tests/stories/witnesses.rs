//! Witnesses: when this cluster shows its life there, and what it takes from the others' Leases.

use std::collections::BTreeMap;

use agent_core::{Event, Witnessed};
use proto::{HoldAnswer, PathKind, PathState, Role};

use crate::cluster::*;

/// A look at each of these witnesses, a second after the last one; none: it does not answer.
fn look(east: &mut Cluster, found: &[(&str, Option<&str>)]) {
    east.pass_seconds(1);
    east.hears_grant(1);
    let visit = east.visits.last().cloned().expect("a visit was asked for");
    let looks = found.iter().map(|(witness, version)| {
        let clusters = version.map(|version| BTreeMap::from([(cluster("west"), version.to_owned())]));
        ((*witness).to_owned(), clusters)
    });
    let looks = looks.collect();
    east.event(Event::Witnessed(Witnessed { mark: visit.mark, began: visit.began, looks }));
}

/// What the next heartbeat tells of west's Lease, and since when it last worked.
fn told(east: &mut Cluster) -> Option<PathState> {
    east.pass_seconds(1);
    east.hears_grant(1);
    east.told_paths.iter().find(|told| told.path == PathKind::Witness).cloned()
}

#[test]
fn a_cluster_shows_its_life_as_long_as_it_may_hold_something_and_no_longer() {
    let mut east = holding_east();
    east.visits.clear();
    east.pass_seconds(2);
    assert!(east.visits.iter().all(|visit| visit.advance) && !east.visits.is_empty());
    east.say("the hub falls silent, and the peer promises once");
    east.event(Event::HubDown);
    east.pass_seconds(6);
    for (peer, epoch, asked) in std::mem::take(&mut east.asked) {
        let answer = Some(HoldAnswer::Promised { hold: timing().hold, tickets: Vec::new() });
        east.event(Event::HoldAnswered { peer, placement: placement(), epoch, asked, answer });
    }
    east.visits.clear();
    east.pass_seconds(4);
    assert_eq!(east.role().map(|(role, _)| role), Some(Role::Holder));
    assert!(east.visits.iter().all(|visit| visit.advance) && !east.visits.is_empty());
    east.say("nobody answers any more: its right to hold ends");
    east.pass_seconds(8);
    assert_eq!(east.role().map(|(role, _)| role), Some(Role::Fenced));
    east.visits.clear();
    east.pass_seconds(3);
    assert!(east.visits.iter().all(|visit| !visit.advance), "{:?}", east.visits);
    assert!(!east.visits.is_empty(), "it goes on looking");
    east.say("the hub is back");
    east.event(Event::HubUp);
    east.pass_seconds(2);
    assert!(east.visits.last().is_some_and(|visit| visit.advance));
}

#[test]
fn a_lease_that_advances_is_a_path_that_works_and_one_that_is_watched_and_still_is_silent() {
    let mut east = holding_east();
    look(&mut east, &[("third", Some("7"))]);
    assert_eq!(told(&mut east), None, "found, and not watched yet");
    look(&mut east, &[("third", Some("8"))]);
    assert!(told(&mut east).is_some_and(|path| path.reachable));
    for _ in 0..4 {
        look(&mut east, &[("third", Some("8"))]);
    }
    let silent = told(&mut east).expect("a finding");
    assert!(!silent.reachable && silent.worked_age.is_some(), "{silent:?}");
}

#[test]
fn a_witness_that_does_not_answer_makes_no_cluster_silent() {
    let mut east = holding_east();
    for version in ["7", "8"] {
        look(&mut east, &[("third", Some(version)), ("fourth", Some(version))]);
    }
    for _ in 0..6 {
        look(&mut east, &[("third", Some("8")), ("fourth", None)]);
    }
    let path = told(&mut east).expect("a finding");
    assert!(path.reachable, "the last finding stands, and grows old: {path:?}");
}

#[test]
fn one_witness_at_which_a_cluster_advances_is_enough() {
    let mut east = holding_east();
    for version in ["1", "2", "3", "4", "5", "6", "7"] {
        look(&mut east, &[("third", Some("7")), ("fourth", Some(version))]);
    }
    assert!(told(&mut east).is_some_and(|path| path.reachable));
}
