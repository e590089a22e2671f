//! `cargo model`: closes every scope, then leaves out every rule once, and shows how soon that is found.
//! `cargo model --show RULE` tells how it goes wrong without a rule, step by step.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use model::rule::{MUTANTS, Mutant};
use model::scope::{SCOPES, named};
use model::search::{Found, search};
use model::tell::tell;

/// Each search takes one core.
const AT_ONCE: usize = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => check_all(),
        ["--show", rule] => show(rule),
        _ => {
            eprintln!("usage: cargo model [--show RULE]");
            ExitCode::FAILURE
        }
    }
}

fn check_all() -> ExitCode {
    let began = Instant::now();
    let closed = close_the_scopes();
    let caught = leave_out_the_rules();
    println!("{:.0}s in all", began.elapsed().as_secs_f64());
    if closed && caught { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether every scope closes without a violation, and reaches a completed failover.
fn close_the_scopes() -> bool {
    println!("{:22} {:>9} {:>7}  violations", "scope", "states", "time");
    let (mut states, mut good) = (0, true);
    in_order(
        SCOPES.len(),
        |index| search(SCOPES[index], None),
        |_, found: Found| {
            let Found { scope, states: count, took, completed, violation } = found;
            let verdict = match &violation {
                Some(violation) => format!("{} in {} steps", violation.property, violation.steps()),
                None if !completed => "none, but no failover is ever completed".to_owned(),
                None => "0".to_owned(),
            };
            println!("{:22} {count:>9} {:>6.1}s  {verdict}", scope.name, took.as_secs_f64());
            if let Some(violation) = &violation {
                println!("{}", tell(violation));
            }
            states += count;
            good &= completed && violation.is_none();
        },
    );
    println!("{states} states, each judged by S1, S2, S4 and S9\n");
    good
}

/// Whether each mutant is caught.
fn leave_out_the_rules() -> bool {
    println!("{:27} {:8} {:22} {:>5}  property, and what the rule says", "without", "of", "scope", "steps");
    let mut survivors = 0;
    in_order(
        MUTANTS.len(),
        |index| try_without(&MUTANTS[index]),
        |index, found: Option<Found>| {
            let Mutant { without, of, says, scope } = &MUTANTS[index];
            let violation = found.and_then(|found| found.violation);
            let (steps, property) = match &violation {
                Some(violation) => (violation.steps().to_string(), violation.property),
                None => ("-".to_owned(), "SURVIVES"),
            };
            survivors += usize::from(violation.is_none());
            let property = property.split(' ').next().unwrap_or_default();
            println!("{:27} {of:8} {scope:22} {steps:>5}  {property}: {says}", format!("{without:?}"));
        },
    );
    println!("{} mutants, {} caught", MUTANTS.len(), MUTANTS.len() - survivors);
    survivors == 0
}

fn try_without(mutant: &Mutant) -> Option<Found> {
    named(mutant.scope).map(|scope| search(scope, Some(mutant.without)))
}

fn show(rule: &str) -> ExitCode {
    let Some(mutant) = MUTANTS.iter().find(|mutant| format!("{:?}", mutant.without) == rule) else {
        eprintln!("no rule {rule}: run cargo model without arguments for their names");
        return ExitCode::FAILURE;
    };
    match try_without(mutant).and_then(|found| found.violation) {
        Some(violation) => {
            println!("without {rule} ({}: {}), scope {}:", mutant.of, mutant.says, mutant.scope);
            println!("{}", tell(&violation));
            ExitCode::SUCCESS
        }
        None => {
            println!("{rule} SURVIVES in {}", mutant.scope);
            ExitCode::FAILURE
        }
    }
}

/// Does all jobs, some at once, and takes their results in their order as soon as they come.
fn in_order<T: Send>(count: usize, job: impl Fn(usize) -> T + Sync, mut take: impl FnMut(usize, T)) {
    let next = AtomicUsize::new(0);
    let (done, results) = mpsc::sync_channel(AT_ONCE);
    std::thread::scope(|threads| {
        for _ in 0..AT_ONCE {
            let (next, job, done) = (&next, &job, done.clone());
            threads.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count || done.send((index, job(index))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        let (mut early, mut expected) = (BTreeMap::new(), 0);
        for (index, result) in results {
            early.insert(index, result);
            while let Some(result) = early.remove(&expected) {
                take(expected, result);
                expected += 1;
            }
        }
    });
}
