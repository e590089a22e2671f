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
/// So many are tried for a rule that was only noticed because something came to no end.
const SEEDS_FOR_MORE: u64 = 2;

/// What the plans say that are made for a rule each, and the stories; then what random seeds say by themselves.
#[derive(Clone, Debug)]
pub struct Hunted {
    pub chosen: Option<Caught>,
    /// The first seed that goes wrong, and how.
    pub random: Option<(u64, String)>,
}

pub fn hunt(rule: Rule, seeds: u64) -> Hunted {
    let _broken = Broken::without(rule);
    let chosen = by_traps().or_else(by_stories);
    let random = (1..=seeds).find_map(|seed| Some((seed, adversity::adversity(seed).outcome.err()?)));
    Hunted { chosen, random }
}

/// An invariant that names what has gone wrong says more than that there is no end.
fn by_traps() -> Option<Caught> {
    let mut weak = None;
    for seed in 1..=SEEDS_OF_A_TRAP {
        for trap in traps::all() {
            let run = trap.run(seed);
            let Err(wrong) = &run.outcome else { continue };
            let endless = wrong.starts_with('L');
            if !endless || weak.is_none() {
                let found = caught(trap.name, seed, &trap.plan(seed), run, |plan| trap.with(seed, plan));
                if !endless {
                    return Some(found);
                }
                weak = Some(found);
            }
        }
        if weak.is_some() && seed >= SEEDS_FOR_MORE {
            break;
        }
    }
    weak
}

fn by_stories() -> Option<Caught> {
    ALL.iter().find_map(|scenario| {
        let run = scenario.run(1, None);
        let failed = run.outcome.is_err();
        failed.then(|| caught(scenario.name, 1, &Plan::default(), run, |_| scenario.run(1, None)))
    })
}

fn caught(place: &str, seed: u64, plan: &Plan, run: Run, again: impl Fn(&Plan) -> Run) -> Caught {
    let wrong = run.outcome.err().unwrap_or_default();
    let (smallest, run) = adversity::shrink(plan, &wrong, again);
    Caught {
        by: run.outcome.as_ref().err().cloned().unwrap_or(wrong),
        place: place.to_owned(),
        seed,
        faults: smallest.parts(),
        events: run.world.steps,
        told: run.told(),
    }
}
