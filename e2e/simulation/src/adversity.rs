//! Faults by a plan; then all is mended, and the application must run where the journal says, and only there. What is left
//! of a plan that fails, when every group that is not needed for it is left out, is the story to read.

use crate::application::{App, Number};
use crate::dense;
use crate::plan::{self, Plan, begin_again};
use crate::random::Random;
use crate::reference;
use crate::scenario::{Run, STAYS, protected, runs_as_wished, unbroken, wait};
use crate::transition::Time;
use crate::wishes::{FailoverModeOf, FencingOf};
use crate::world::World;

/// More operations than can still be due when everything is mended.
const MOST_OPERATIONS: usize = 6;
const LASTS: Time = 40_000;
const MOST_FAULTS: u64 = 9;
const RESTS_WITHIN: Time = 90_000;

/// The clusters of a seed: of three the third has nothing to do with the placement, but the hub listens to it.
fn clusters(seed: u64) -> &'static [&'static str] {
    if seed.is_multiple_of(3) { &["east", "west", "north"] } else { &["east", "west"] }
}

/// The most that a seed's world has.
const MOST_APPS: u64 = 8;

/// Where the applications of a seed are at home: one stands in each third world, and the others have a few.
fn homes(seed: u64) -> Vec<&'static str> {
    let mut random = Random::new(seed ^ 0xa995);
    let apps = if random.percent(35) { 1 } else { random.within(&(2..=MOST_APPS)) };
    (0..apps).map(|app| if app == 0 || random.percent(60) { "east" } else { "west" }).collect()
}

/// Of three worlds with few placements one has a witness.
fn has_witness(seed: u64) -> bool {
    Random::new(seed ^ 0x717e).percent(33)
}

/// What is drawn from a seed: of a few placements or of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    pub seed: u64,
    pub dense: bool,
}

/// One seed of so many has a dense world.
const DENSE_EVERY: u64 = 50;

impl Draw {
    pub fn mixed(seed: u64) -> Draw {
        Draw { seed, dense: seed.is_multiple_of(DENSE_EVERY) }
    }

    pub fn dense(seed: u64) -> Draw {
        Draw { seed, dense: true }
    }

    fn world(self) -> World {
        if !self.dense {
            let world = World::with_apps(self.seed, clusters(self.seed), &homes(self.seed));
            return if has_witness(self.seed) { world.with_witness() } else { world };
        }
        let homes = dense::homes(&mut Random::new(self.seed ^ 0xa995));
        let mut world = World::with_apps(self.seed, clusters(self.seed), &homes);
        dense::hurry(&mut world);
        world
    }

    pub fn plan(self) -> Plan {
        let world = self.world();
        let (sites, apps): (Vec<_>, _) = (world.sites.keys().cloned().collect(), world.apps.len());
        let mut random = Random::new(self.seed ^ 0x5eed);
        let mut plan = if self.dense {
            dense::plan(&mut random, &sites, apps)
        } else {
            Plan::at_random(&mut random, &sites, apps, LASTS, MOST_FAULTS)
        };
        if world.witness.is_some() {
            plan.groups.extend(plan::of_the_witness(&mut random, &sites, LASTS));
        }
        plan.wishes = (1..apps).map(|app| wished(&mut random, app)).collect();
        plan
    }

    pub fn run(self) -> Run {
        self.with(&self.plan())
    }

    /// Whatever its cores take to be at rest is looked at all the same.
    pub fn doubted(self) -> Run {
        let mut world = self.world();
        world.doubts_rest = true;
        follow(world, &self.plan())
    }

    /// The same seed with another plan.
    pub fn with(self, plan: &Plan) -> Run {
        follow(self.world(), plan)
    }
}

/// What differs from the wish of the first application: how it fails over, and what fences it.
fn wished(random: &mut Random, app: Number) -> (Number, FailoverModeOf, FencingOf) {
    let mode = match random.within(&(0..=9)) {
        0 => FailoverModeOf::Manual,
        1 => FailoverModeOf::ConfirmAndContinue,
        2 => FailoverModeOf::ConfirmAndStop,
        _ => FailoverModeOf::Automatic,
    };
    let fencing = match random.within(&(0..=9)) {
        // Not Gate: these pods have none, and such a placement refuses them.
        0 => *random.one_of(&[FencingOf::Storage, FencingOf::External, FencingOf::None]),
        _ => FencingOf::SelfFence,
    };
    (app, mode, fencing)
}

/// Random faults, from the seed.
pub fn adversity(seed: u64) -> Run {
    Draw::mixed(seed).run()
}

pub fn follow(mut world: World, plan: &Plan) -> Run {
    let outcome = survive(&mut world, plan);
    Run { world, outcome }
}

fn survive(world: &mut World, plan: &Plan) -> Result<(), String> {
    plan.prepare(world);
    protected(world)?;
    world.say("-- adversity".to_owned());
    world.coverage.counting = true;
    plan.begin(world);
    world.pass(plan.lasts + 2);
    comes_to_rest(world)?;
    for round in &plan.again {
        world.say("-- again".to_owned());
        let lasts = begin_again(world, round);
        world.pass(lasts + 2);
        comes_to_rest(world)?;
    }
    all_books(world)
}

fn comes_to_rest(world: &mut World) -> Result<(), String> {
    unbroken(world)?;
    // What was not possible before may begin now: a move that the user wished for, a new copy, a failback.
    for _ in 0..MOST_OPERATIONS {
        if let Err(wrong) = wait(world, RESTS_WITHIN, at_rest) {
            unbroken(world)?;
            return Err(format!("L4 nothing is stuck without a named reason: {wrong}"));
        }
        world.pass(STAYS);
        unbroken(world)?;
        if at_rest(world).is_ok() {
            return Ok(());
        }
    }
    Err(format!("L2 the wish is reached, and stays: {}", at_rest(world).err().unwrap_or_default()))
}

fn all_books(world: &World) -> Result<(), String> {
    let mut told = world.apps.iter().filter(|app| reference::needs_human(&app.lines).is_none());
    told.try_for_each(|app| world.books(app)).map_err(|lost| format!("S19 nothing is lost unsaid: {lost}"))
}

/// Each application runs at its owner and nowhere else, or somebody has been told why not.
pub fn at_rest(world: &World) -> Result<(), String> {
    world.apps.iter().try_for_each(|app| rests(world, app))
}

fn rests(world: &World, app: &App) -> Result<(), String> {
    let lines = &app.lines;
    if reference::needs_human(lines).is_some() {
        return Ok(());
    }
    let owner = reference::owner(lines).map(|(_, owner)| owner.clone()).ok_or("nobody owns it")?;
    // What had stopped itself when the placement was deleted stays stopped: the user has it in hand.
    if reference::is_released(lines) {
        return Ok(());
    }
    // What stands in the way was said: the operation goes on when the user has mended the wish.
    if reference::is_unsettled(lines) && world.is_refused(app.number) {
        return Ok(());
    }
    runs_as_wished(world, app, owner.as_str())
}

/// Whether two runs fail in the same way, whatever they tell of it.
fn kind(wrong: &str) -> &str {
    wrong.split_once(':').map_or(wrong, |(kind, _)| kind)
}

/// The smallest plan that still fails as this one does, one group left out after the other.
pub fn shrink(plan: &Plan, wrong: &str, run: impl Fn(&Plan) -> Run) -> (Plan, Run) {
    let (mut smallest, mut told) = (plan.clone(), run(plan));
    let mut group = 0;
    while group < smallest.parts() {
        let smaller = smallest.without(&[group]);
        let tried = run(&smaller);
        match &tried.outcome {
            Err(other) if kind(other) == kind(wrong) => (smallest, told) = (smaller, tried),
            Err(_) | Ok(()) => group += 1,
        }
    }
    (smallest, told)
}
