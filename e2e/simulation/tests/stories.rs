//! The stories of the whole federation, the same stories with a process killed at every effect, and random adversity.

use simulation::adversity::{Draw, adversity, shrink};
use simulation::coverage::Coverage;
use simulation::crash::Plan;
use simulation::faults::Fault;
use simulation::plan::Plan as FaultPlan;
use simulation::reference::intents;
use simulation::scenario::{ALL, RELEASE, Scenario};
use simulation::traps;

const SEED: u64 = 20_261_122;

#[test]
fn every_story_ends_as_it_must() {
    for scenario in ALL {
        for seed in SEED..SEED + 2 {
            let run = scenario.run(seed, None);
            assert!(run.outcome.is_ok(), "{}, seed {seed}:\n{}", scenario.name, run.told());
            let kinds: Vec<&str> =
                intents(&run.world.first().lines).map(|intent| intent.kind.as_str()).collect();
            assert_eq!(kinds.last(), Some(&scenario.shows), "{}, seed {seed}", scenario.name);
        }
    }
}

#[test]
fn the_same_seed_tells_the_same_story_to_the_byte() {
    for scenario in ALL {
        assert_eq!(scenario.run(SEED, None).told(), scenario.run(SEED, None).told(), "{}", scenario.name);
    }
    // The third one has three clusters, and both have several placements.
    for seed in [2, 3] {
        assert_eq!(adversity(seed).told(), adversity(seed).told(), "seed {seed}");
    }
    assert_ne!(adversity(1).told(), adversity(2).told());
}

#[test]
fn every_trap_ends_as_it_must_when_every_rule_is_kept() {
    for trap in traps::all() {
        for seed in 1..=2 {
            let run = trap.run(seed);
            assert!(run.outcome.is_ok(), "{}, seed {seed}:\n{}", trap.name, run.told());
        }
    }
}

#[test]
fn the_traps_and_a_few_seeds_reach_every_row_of_the_link_table() {
    let mut coverage = Coverage::default();
    for trap in traps::all() {
        coverage.add(&trap.run(1).world.coverage);
    }
    (1..=2).for_each(|seed| coverage.add(&adversity(seed).world.coverage));
    assert!(coverage.missing().is_empty(), "{:?}\n{}", coverage.missing(), coverage.table());
}

#[test]
fn a_plan_that_fails_is_shrunk_to_what_fails_it() {
    let run = |plan: &FaultPlan| {
        let mut run = RELEASE.run(SEED, None);
        let cut = plan.groups.iter().flatten().any(|(_, fault)| *fault == Fault::CutPeers);
        run.outcome = if cut { Err("S1: two".to_owned()) } else { Ok(()) };
        run
    };
    let plan = FaultPlan::of(
        1_000,
        vec![(0, Fault::KillHub), (10, Fault::CutPeers), (20, Fault::CutArrays), (30, Fault::LoseHub)],
    );
    let (smallest, told) = shrink(&plan, "S1: others", run);
    assert_eq!(smallest.groups, [[(10, Fault::CutPeers)]]);
    assert!(told.outcome.is_err());
}

#[test]
fn what_the_cores_take_to_be_at_rest_is_at_rest() {
    for seed in 1..=24 {
        let run = Draw::mixed(seed).doubted();
        assert!(run.outcome.is_ok(), "seed {seed}:\n{}", run.told());
    }
}

fn dies_everywhere(scenario: &Scenario) {
    let plans = match scenario.plans(SEED) {
        Ok(plans) => plans,
        Err(run) => panic!("{} without a crash:\n{}", scenario.name, run.told()),
    };
    let mut failed: Vec<(Plan, String)> = Vec::new();
    for plan in &plans {
        let run = scenario.run(SEED, Some(*plan));
        assert!(run.world.crashes.fired, "{}: {plan} was never reached", scenario.name);
        if run.outcome.is_err() {
            failed.push((*plan, run.told()));
        }
    }
    assert!(plans.len() >= 10, "{}: only {} places to die at", scenario.name, plans.len());
    if let Some((plan, told)) = failed.first() {
        panic!("{}: {} of {} crashes end badly; {plan}:\n{told}", scenario.name, failed.len(), plans.len());
    }
}

macro_rules! dies_everywhere {
    ($($name:ident: $scenario:ident,)*) => {$(
        #[test]
        fn $name() {
            dies_everywhere(&simulation::scenario::$scenario);
        }
    )*};
}

dies_everywhere! {
    a_crash_at_every_effect_of_a_deployment_changes_nothing: DEPLOY,
    a_crash_at_every_effect_of_a_failover_changes_nothing: FAIL_OVER,
    a_crash_at_every_effect_of_a_holder_cut_off_changes_nothing: CUT_OFF,
    a_crash_at_every_effect_of_a_readoption_changes_nothing: READOPT,
    a_crash_at_every_effect_of_a_release_changes_nothing: RELEASE,
    a_crash_at_every_effect_of_a_planned_move_loses_nothing: MIGRATE,
    a_crash_at_every_effect_of_a_planned_move_leaves_flux_going: MIGRATE_WITH_FLUX,
    a_crash_at_every_effect_of_a_slow_planned_move_forces_nothing: SLOW_CROSSING,
    a_crash_at_every_effect_of_a_failback_loses_nothing: FAIL_BACK,
    a_crash_at_every_effect_of_a_move_taken_back_loses_nothing: REVERT,
    a_crash_at_every_effect_of_a_failback_after_a_disaster_changes_nothing: FAIL_BACK_AFTER_DISASTER,
}

#[test]
fn random_adversity_never_makes_two_writers_and_always_ends() {
    for seed in 1..=6 {
        let run = adversity(seed);
        assert!(run.outcome.is_ok(), "seed {seed}; see it with: simulate --seed {seed}\n{}", run.told());
    }
}
