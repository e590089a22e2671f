//! Every rule of the protocol is switched off once: whoever checks must notice. A rule that nobody misses is checked by
//! nobody.

use proto::rule::{Rule, switch_off};

use crate::adversity;
use crate::plan::Plan;
use crate::scenario::{ALL, Run};
use crate::traps;

/// How a broken rule was noticed.
#[derive(Clone, Debug)]
pub struct Caught {
    pub by: String,
    /// The story, or the seed.
    pub place: String,
    pub seed: u64,
    /// Groups of faults that are left of the plan.
    pub faults: usize,
    /// Events from the start of the world.
    pub events: u64,
    pub told: String,
}

/// Keeps every rule again when it is dropped.
struct Broken;

impl Broken {
    fn without(rule: Rule) -> Broken {
        switch_off(Some(rule));
        Broken
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        switch_off(None);
    }
}

/// Seeds of each trap: its plan varies with them.
const SEEDS_OF_A_TRAP: u64 = 6;

/// First the traps and the stories, then random seeds.
pub fn hunt(rule: Rule, seeds: u64) -> Option<Caught> {
    let _broken = Broken::without(rule);
    for seed in 1..=SEEDS_OF_A_TRAP {
        for trap in traps::all() {
            let run = trap.run(seed);
            if run.outcome.is_err() {
                return Some(caught(trap.name, seed, &trap.plan(seed), run, |plan| trap.with(seed, plan)));
            }
        }
    }
    for scenario in ALL {
        let run = scenario.run(1, None);
        if run.outcome.is_err() {
            return Some(caught(scenario.name, 1, &Plan::default(), run, |_| scenario.run(1, None)));
        }
    }
    (1..=seeds).find_map(|seed| {
        let run = adversity::adversity(seed);
        let failed = run.outcome.is_err();
        failed.then(|| {
            let plan = adversity::plan(seed);
            caught("random faults", seed, &plan, run, |plan| adversity::with(seed, plan))
        })
    })
}

fn caught(place: &str, seed: u64, plan: &Plan, run: Run, again: impl Fn(&Plan) -> Run) -> Caught {
    let wrong = run.outcome.err().unwrap_or_default();
    let (smallest, run) = adversity::shrink(plan, &wrong, again);
    Caught {
        by: run.outcome.as_ref().err().cloned().unwrap_or(wrong),
        place: place.to_owned(),
        seed,
        faults: smallest.groups.len(),
        events: run.world.steps,
        told: run.told(),
    }
}
