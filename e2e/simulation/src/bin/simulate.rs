//! `simulate --seeds N [--seed S]`: random faults, one run for each seed, from S on; a seed that fails tells its story.

use std::collections::BTreeMap;
use std::process::ExitCode;

use simulation::reference::intents;
use simulation::scenario::adversity;

struct Wanted {
    first: u64,
    seeds: u64,
    story: bool,
}

fn wanted() -> Result<Wanted, String> {
    let (mut first, mut seeds) = (None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let text = arguments.next().unwrap_or_default();
            text.parse().map_err(|_| format!("{argument} {text:?} is not a whole number: write {argument} 7"))
        };
        match argument.as_str() {
            "--seeds" => seeds = Some(number()?),
            "--seed" => first = Some(number()?),
            other => return Err(format!("{other:?} is not known: use --seeds N, --seed S, or both")),
        }
    }
    // One seed alone is asked for by somebody who wants to read it.
    let story = first.is_some() && seeds.is_none();
    let most = if story { 1 } else { 100 };
    Ok(Wanted { first: first.unwrap_or(1), seeds: seeds.unwrap_or(most), story })
}

fn main() -> ExitCode {
    let wanted = match wanted() {
        Ok(wanted) => wanted,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    let (mut failed, mut simulated, mut events) = (0, 0, 0);
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for seed in wanted.first..wanted.first + wanted.seeds {
        let run = adversity(seed);
        simulated += run.world.now;
        events += run.world.steps;
        for (kind, count) in &run.world.faults {
            *counts.entry(format!("fault      {kind}")).or_default() += count;
        }
        for intent in intents(&run.world.hub.lines) {
            *counts.entry(format!("operation  {}", intent.kind.as_str())).or_default() += 1;
        }
        if wanted.story {
            println!("{}", run.told());
        }
        if let Err(wrong) = &run.outcome {
            failed += 1;
            println!("seed {seed}: {wrong}; see it with: simulate --seed {seed}");
        }
    }
    for (what, count) in &counts {
        println!("{count:8}  {what}");
    }
    println!("{} seeds, {failed} failed, {} s simulated, {events} events", wanted.seeds, simulated / 1000);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
