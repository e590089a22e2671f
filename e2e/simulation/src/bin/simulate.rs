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
    let mut wanted = Wanted { first: 1, seeds: 100, story: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let text = arguments.next().unwrap_or_default();
            text.parse().map_err(|_| format!("{argument} {text:?} is not a whole number: write {argument} 7"))
        };
        match argument.as_str() {
            "--seeds" => wanted.seeds = number()?,
            "--seed" => {
                wanted.first = number()?;
                wanted.seeds = 1;
                wanted.story = true;
            }
            other => return Err(format!("{other:?} is not known: use --seeds N, or --seed S")),
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
