//! `simulate --seeds N [--seed S] [--dense]`: random faults, one run for each seed, from S on; a seed that fails tells its
//! story. With `--dense` each world has many placements that are lost together, otherwise a few have.
//! `simulate --traps`: the plans that are made for one rule each. `simulate --mutants`: each rule is switched off once.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use simulation::adversity::{Draw, shrink};
use simulation::coverage::Coverage;
use simulation::reference::{has_promoted, intents, is_committed};
use simulation::{Run, traps};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Default)]
struct Wanted {
    first: Option<u64>,
    seeds: Option<u64>,
    /// Groups of the seed's plan that are left out.
    without: Vec<usize>,
    dense: bool,
    traps: bool,
    mutants: bool,
    only: Option<String>,
}

const USE: &str =
    "use --seeds N, --seed S, --without 1,2 (with one seed), --dense, --traps, --mutants [--only NAME]";

fn wanted() -> Result<Wanted, String> {
    let mut wanted = Wanted::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut text = || arguments.next().unwrap_or_default();
        let number = |text: &str| {
            text.parse().map_err(|_| format!("{argument} {text:?} is not a whole number: write {argument} 7"))
        };
        match argument.as_str() {
            "--seeds" => wanted.seeds = Some(number(&text())?),
            "--seed" => wanted.first = Some(number(&text())?),
            "--without" => {
                let groups = text();
                let parsed: Result<Vec<u64>, String> = groups.split(',').map(number).collect();
                wanted.without =
                    parsed?.into_iter().filter_map(|group| usize::try_from(group).ok()).collect();
            }
            "--dense" => wanted.dense = true,
            "--traps" => wanted.traps = true,
            "--mutants" => wanted.mutants = true,
            "--only" => wanted.only = Some(text()),
            other => return Err(format!("{other:?} is not known: {USE}")),
        }
    }
    Ok(wanted)
}

fn main() -> ExitCode {
    let wanted = match wanted() {
        Ok(wanted) => wanted,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    let drawn = if wanted.dense { Draw::dense } else { Draw::mixed };
    let passed = match (&wanted, wanted.first, wanted.seeds) {
        (Wanted { mutants: true, .. }, _, seeds) => mutants(seeds.unwrap_or(1_000), wanted.only.as_deref()),
        (Wanted { traps: true, .. }, seed, _) => all_traps(seed.unwrap_or(1), wanted.only.as_deref()),
        (_, Some(seed), None) => one_seed(drawn(seed), &wanted.without),
        (_, first, seeds) => many_seeds(drawn, first.unwrap_or(1), seeds.unwrap_or(100)),
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One seed alone is asked for by somebody who wants to read it.
fn one_seed(draw: Draw, without: &[usize]) -> bool {
    let run = draw.with(&draw.plan().without(without));
    println!("{}", run.told());
    let mut figures = Figures::default();
    figures.add(&run);
    figures.tell(1);
    run.outcome.is_ok()
}

fn many_seeds(drawn: fn(u64) -> Draw, first: u64, seeds: u64) -> bool {
    let mut figures = Figures::default();
    let began = Instant::now();
    let mut failed: Vec<(u64, String)> = Vec::new();
    let workers =
        std::thread::available_parallelism().map_or(1, |workers| u64::try_from(workers.get()).unwrap_or(1));
    let next = std::sync::atomic::AtomicU64::new(first);
    let work = || {
        let mut figures = Figures::default();
        let mut failed = Vec::new();
        // Whoever is done takes the next one.
        loop {
            let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if seed >= first + seeds {
                break;
            }
            let run = drawn(seed).run();
            figures.add(&run);
            failed.extend(run.outcome.err().map(|wrong| (seed, wrong)));
        }
        (figures, failed)
    };
    // Each seed has one thread to itself; which one changes nothing.
    let done = std::thread::scope(|scope| {
        let working: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        working.into_iter().map(|worker| worker.join()).collect::<Vec<_>>()
    });
    for worker in done {
        let Ok((part, wrong)) = worker else {
            eprintln!("a seed has panicked; see above");
            return false;
        };
        figures.merge(part);
        failed.extend(wrong);
    }
    failed.sort();
    for (seed, wrong) in &failed {
        println!("seed {seed}: {wrong}; see it with: {}", command(drawn(*seed)));
    }
    if let Some((seed, wrong)) = failed.first() {
        tell_shrunk(drawn(*seed), wrong);
    }
    figures.tell(seeds);
    let (took, failovers) = (began.elapsed().as_secs_f64(), figures.committed("failover"));
    println!(
        "{seeds} seeds in {took:.1} s, {} violations, {} failovers committed, {:.0} a minute",
        failed.len(),
        failovers,
        f64::from(u32::try_from(failovers).unwrap_or(u32::MAX)) * 60.0 / took.max(0.001),
    );
    failed.is_empty()
}

fn command(draw: Draw) -> String {
    let dense = if draw == Draw::mixed(draw.seed) { "" } else { " --dense" };
    format!("cargo simulate --seed {}{dense}", draw.seed)
}

fn tell_shrunk(draw: Draw, wrong: &str) {
    let plan = draw.plan();
    let (smallest, run) = shrink(&plan, wrong, |plan| draw.with(plan));
    let mut kept = smallest.groups.iter().chain(&smallest.again).peekable();
    let mut left_out = Vec::new();
    for (index, group) in plan.groups.iter().chain(&plan.again).enumerate() {
        if kept.next_if(|kept| *kept == group).is_none() {
            left_out.push(index.to_string());
        }
    }
    println!("{}", run.told());
    println!("the shortest story of seed {}: {} --without {}", draw.seed, command(draw), left_out.join(","));
}

/// Two traps differ in what they are for; each must end as it must.
fn all_traps(seed: u64, only: Option<&str>) -> bool {
    let mut passed = true;
    for trap in traps::all() {
        if only.is_some_and(|only| !trap.name.contains(only)) {
            continue;
        }
        let run = trap.run(seed);
        if only.is_some() {
            println!("{}", run.told());
        }
        passed &= run.outcome.is_ok();
        let end = run.outcome.as_ref().err().cloned().unwrap_or_else(|| "ends well".to_owned());
        println!("{:6} events  {}: {end}", run.world.steps, trap.name);
    }
    passed
}

#[derive(Default)]
struct Figures {
    simulated: u64,
    placements: usize,
    events: u64,
    faults: BTreeMap<&'static str, u64>,
    begun: BTreeMap<&'static str, u64>,
    moved: BTreeMap<&'static str, u64>,
    committed: BTreeMap<&'static str, u64>,
    coverage: Coverage,
}

impl Figures {
    fn add(&mut self, run: &Run) {
        self.simulated += run.world.now;
        self.events += run.world.steps;
        self.coverage.add(&run.world.coverage);
        for (kind, count) in &run.world.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        self.placements += run.world.apps.len();
        for app in &run.world.apps {
            for intent in intents(&app.lines) {
                let kind = intent.kind.as_str();
                *self.begun.entry(kind).or_default() += 1;
                if has_promoted(&app.lines, &intent.operation) || matches!(kind, "resync" | "release") {
                    *self.moved.entry(kind).or_default() += 1;
                }
                if is_committed(&app.lines, &intent.operation) {
                    *self.committed.entry(kind).or_default() += 1;
                }
            }
        }
    }

    fn merge(&mut self, other: Figures) {
        let Figures { simulated, placements, events, faults, begun, moved, committed, coverage } = other;
        self.simulated += simulated;
        self.placements += placements;
        self.events += events;
        self.coverage.add(&coverage);
        for (of, counts) in [
            (&mut self.faults, faults),
            (&mut self.begun, begun),
            (&mut self.moved, moved),
            (&mut self.committed, committed),
        ] {
            for (kind, count) in counts {
                *of.entry(kind).or_default() += count;
            }
        }
    }

    /// The hub has recorded their Commit: they are over, and the application runs at its new owner.
    fn committed(&self, kind: &str) -> u64 {
        self.committed.get(kind).copied().unwrap_or(0)
    }

    fn tell(&self, seeds: u64) {
        println!("faults injected, {} kinds", self.faults.len());
        for (kind, count) in &self.faults {
            println!("{count:8}  {kind}");
        }
        println!("operations begun, past their point of no return, and committed");
        for (kind, count) in &self.begun {
            let moved = self.moved.get(kind).copied().unwrap_or(0);
            println!("{count:8} {moved:8} {:8}  {kind}", self.committed(kind));
        }
        println!("{}", self.coverage.table());
        for row in self.coverage.missing() {
            println!("never in row: {row}");
        }
        let hours = self.simulated / 3_600_000;
        println!(
            "{seeds} seeds, {} placements, {hours} h {} s simulated, {} events",
            self.placements,
            self.simulated / 1000 % 3600,
            self.events
        );
    }
}

#[cfg(not(feature = "mutants"))]
fn mutants(_: u64, _: Option<&str>) -> bool {
    eprintln!("this build keeps every rule; use: cargo simulate-mutants");
    false
}

#[cfg(feature = "mutants")]
fn mutants(seeds: u64, only: Option<&str>) -> bool {
    use proto::rule::Rule;
    use simulation::mutants::{Caught, Hunted, hunt};

    let name_of = |wrong: &str| wrong.split(": ").next().unwrap_or_default().to_owned();

    let rules: Vec<Rule> =
        Rule::ALL.iter().copied().filter(|rule| only.is_none_or(|only| rule.as_str() == only)).collect();
    println!("{:28} {:22} caught by", "rule switched off", "of the protocol");
    let next = std::sync::atomic::AtomicUsize::new(0);
    let survivors = std::sync::atomic::AtomicUsize::new(0);
    let by_random = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        while let Some(rule) = rules.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            let line = format!("{:28} {:22}", rule.as_str(), rule.names());
            let Hunted { chosen, random } = hunt(*rule, seeds);
            let random = random.map(|(seed, wrong)| format!("seed {seed}: {}", name_of(&wrong)));
            if chosen.is_none() && random.is_none() {
                survivors.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                println!("{line} NOBODY: {}", rule.meaning());
                continue;
            }
            by_random.fetch_add(usize::from(random.is_some()), std::sync::atomic::Ordering::Relaxed);
            let random = random.unwrap_or_else(|| format!("not by {seeds} seeds"));
            let by = chosen.as_ref().map_or("no trap".to_owned(), |caught| {
                let Caught { by, place, seed, faults, events, told: _ } = caught;
                format!("{}  ({place}, seed {seed}: {faults} faults, {events} events)", name_of(by))
            });
            println!("{line} {by}; at random: {random}");
            if let (Some(caught), true) = (&chosen, only.is_some()) {
                println!("{}", caught.told);
            }
        }
    };
    std::thread::scope(|scope| {
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        (0..workers).for_each(|_| {
            scope.spawn(work);
        });
    });
    let survivors = survivors.into_inner();
    println!(
        "{} rules, {survivors} not missed by anybody; {} are noticed by {seeds} random seeds alone",
        rules.len(),
        by_random.into_inner()
    );
    survivors == 0
}
