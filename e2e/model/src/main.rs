//! `cargo model`: closes every scope, then leaves out every rule once, and shows how soon that is found.

use std::process::ExitCode;
use std::time::Instant;

use model::protocol::{Protocol, Scope};
use model::rule::Rule;
use model::scope::SCOPES;
use stateright::{Checker, HasDiscoveries, Model};

fn main() -> ExitCode {
    let started = Instant::now();
    let mut states = 0;
    let mut violated = false;
    println!("{:24} {:>10} {:>7}  violations", "scope", "states", "time");
    for scope in SCOPES {
        let (count, found) = search(scope, None);
        states += count;
        violated |= !found.is_empty();
        println!("{:24} {count:>10} {:>6.1}s  {}", scope.name, started.elapsed().as_secs_f64(), found.join("; "));
    }
    println!("{states} states in all\n");
    let mut survivors = 0;
    for rule in Rule::ALL {
        let caught = SCOPES.into_iter().find_map(|scope| {
            let (_, found) = search(scope, Some(rule));
            (!found.is_empty()).then(|| (scope.name, found))
        });
        match caught {
            Some((scope, found)) => println!("{:32} {scope:24} {}", format!("{rule:?}"), found.join("; ")),
            None => {
                survivors += 1;
                println!("{:32} SURVIVES", format!("{rule:?}"));
            }
        }
    }
    println!("{} mutants, {survivors} survive; {:.0}s", Rule::ALL.len(), started.elapsed().as_secs_f64());
    if violated || survivors > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// How many states there are, and which properties do not hold, with the number of steps that it takes.
fn search(scope: Scope, without: Option<Rule>) -> (usize, Vec<String>) {
    let model = Protocol { scope, without };
    let checker = model
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let mut found = Vec::new();
    for (name, path) in checker.discoveries() {
        if name.starts_with('S') {
            if without.is_none() {
                for (state, step) in path.clone().into_vec() {
                    println!("   {step:?}   {:?} | {:?} | {:?}", state.hub, state.sites[0], state.sites[1]);
                }
            }
            found.push(format!("{name} in {} steps", path.into_actions().len()));
        }
    }
    (checker.unique_state_count(), found)
}
