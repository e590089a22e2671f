//! A small part of what `cargo model` searches, for every run of the tests.

use model::rule::Rule;
use model::scope::{SMALL, named};
use model::search::search;

#[test]
fn a_small_scope_closes_without_a_violation_and_reaches_a_completed_failover() {
    let found = search(SMALL, None);
    assert!(
        found.violation.is_none(),
        "{}",
        found.violation.map(|it| model::tell::tell(&it)).unwrap_or_default()
    );
    assert!(found.completed);
    assert!(found.states > 8_000, "{} states", found.states);
}

#[test]
fn a_protocol_without_one_of_its_rules_is_caught() {
    for rule in [Rule::DeadlineCountsFromSend, Rule::HubWaitsForTheStop, Rule::NoGrantAfterIntent] {
        let found = search(SMALL, Some(rule));
        assert!(found.violation.is_some(), "nobody misses {rule:?}");
    }
}

#[test]
fn every_mutant_names_a_scope() {
    for mutant in model::rule::MUTANTS {
        assert!(named(mutant.scope).is_some(), "{mutant:?}");
    }
}
