//! The stories of the whole federation, the same stories with a process killed at every effect, and random adversity.

use simulation::adversity::adversity;
use simulation::crash::Plan;
use simulation::reference::intents;
use simulation::scenario::{ALL, Scenario};

const SEED: u64 = 20_261_122;

#[test]
fn every_story_ends_as_it_must() {
    for scenario in ALL {
        for seed in SEED..SEED + 5 {
            let run = scenario.run(seed, None);
            assert!(run.outcome.is_ok(), "{}, seed {seed}:\n{}", scenario.name, run.told());
            let kinds: Vec<&str> = intents(&run.world.hub.lines).map(|intent| intent.kind.as_str()).collect();
            assert_eq!(kinds.last(), Some(&scenario.shows), "{}, seed {seed}", scenario.name);
        }
    }
}

#[test]
fn the_same_seed_tells_the_same_story_to_the_byte() {
    for scenario in ALL {
        assert_eq!(scenario.run(SEED, None).told(), scenario.run(SEED, None).told(), "{}", scenario.name);
    }
    assert_ne!(adversity(1).told(), adversity(2).told());
    assert_eq!(adversity(1).told(), adversity(1).told());
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
    for seed in 1..=40 {
        let run = adversity(seed);
        assert!(run.outcome.is_ok(), "seed {seed}; see it with: simulate --seed {seed}\n{}", run.told());
    }
}
