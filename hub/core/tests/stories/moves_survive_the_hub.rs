//! Invariants S9, S10 and S12 for the procedures that take turns: a hub that dies within any decision has a successor that
//! ends what was begun, and tells it.

use std::time::Duration;

use crds::operation::OperationPhase;

use crate::story::{Crash, Story, after_a_disaster, cluster, moving, moving_where};

/// Invariants S9, S10 and S12 for the procedures that take turns: the hub is killed within each of their decisions, before
/// and after it sends, and starts again from its journal.
fn survives_a_kill_within_any_decision(
    begin: impl Fn() -> Story,
    go_on: impl Fn(&mut Story),
    epoch: u64,
    holder: &str,
) {
    let decisions = {
        let mut story = begin();
        let before = story.decisions;
        go_on(&mut story);
        story.pass(20_000);
        before..story.decisions
    };
    assert!(decisions.len() >= 4, "it takes more decisions than {decisions:?}");
    for number in decisions {
        for crash in [Crash::Recorded, Crash::Sent] {
            let mut story = begin();
            story.crash = Some((number + 1, crash));
            go_on(&mut story);
            while story.hub.is_some() {
                story.pass(20);
            }
            story.crash = None;
            story.pass(500);
            story.restart_hub();
            go_on(&mut story);
            story.pass(30_000);
            let pods = story.member(holder).pods;
            let outcome = (story.epoch(), story.holder(), pods);
            let told = story.told();
            let unended: Vec<_> =
                story.phases.iter().filter(|(_, phase)| **phase == Some(OperationPhase::Running)).collect();
            assert!(unended.is_empty(), "killed in decision {number}, {crash:?}: {unended:?}\n{told}");
            assert_eq!(
                outcome,
                (epoch, Some(holder.to_owned()), 1),
                "killed in decision {number}, {crash:?}:\n{told}"
            );
        }
    }
}

#[test]
fn a_hub_killed_within_any_decision_finishes_the_migration() {
    let go_on = |story: &mut Story| {
        if story.placement.preferred != cluster("west") {
            story.edit(|placement| placement.preferred = cluster("west"));
        }
    };
    survives_a_kill_within_any_decision(Story::protected, go_on, 2, "west");
}

#[test]
fn a_hub_killed_within_any_decision_finishes_the_failback_in_steady_state() {
    let begin = || {
        let mut story = moving();
        story.pass(8000);
        story
    };
    let go_on = |story: &mut Story| {
        if story.placement.preferred != cluster("east") {
            story.edit(|placement| placement.preferred = cluster("east"));
        }
    };
    survives_a_kill_within_any_decision(begin, go_on, 3, "east");
}

#[test]
fn a_hub_killed_within_any_decision_finishes_the_failback_after_a_disaster() {
    let begin = || {
        let mut story = after_a_disaster();
        story.edit(|placement| placement.failback.stabilization = Duration::from_secs(2));
        story
    };
    let go_on = |story: &mut Story| {
        if !story.placement.failback.automatic {
            story.edit(|placement| {
                placement.failback.automatic = true;
                placement.failback.resync_automatic = true;
            });
        }
    };
    survives_a_kill_within_any_decision(begin, go_on, 3, "east");
}

#[test]
fn an_end_that_a_dying_hub_has_not_told_is_told_by_its_successor() {
    let mut story = moving_where(|story| story.member("east").slow_demotion = true);
    story.pass(2000);
    story.crash = Some((story.decisions + 1, Crash::Recorded));
    story.edit(|placement| placement.preferred = cluster("east"));
    assert!(story.hub.is_none(), "it dies with the rollback recorded: {}", story.told());
    story.crash = None;
    story.restart_hub();
    story.pass(6000);
    assert_eq!(story.phase("shop-migrate-2"), Some(OperationPhase::Aborted), "{}", story.told());
}
