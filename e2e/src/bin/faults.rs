//! `cargo e2e`: every real-fault scenario, or those whose names contain a word, and a table of how each ended.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;
use e2e::faults::{Outcome, play_all, scenarios};
use e2e::federation::Progress;
use e2e::network::Network;
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(
    name = "cargo e2e",
    about = "Plays real faults on a hub and two clusters in network namespaces of their own; needs root and iproute2"
)]
struct Arguments {
    /// Only scenarios whose names contain this, or one of these with commas between them
    #[arg(default_value = "")]
    filter: String,
    /// Only tell which scenarios there are
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Silent unless asked: a lost cluster makes every client complain.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match play(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all went as it must.
fn play(arguments: &Arguments) -> Result<bool> {
    let chosen = scenarios(&arguments.filter);
    ensure!(!chosen.is_empty(), "no scenario's name contains {:?}: see --list", arguments.filter);
    if arguments.list {
        chosen.iter().for_each(|scenario| println!("{}", scenario.name));
        return Ok(true);
    }
    let progress = progress();
    let told = progress.clone();
    let outcomes = Network::watch(
        move |doing| told(doing),
        async move |network| Ok(play_all(network, chosen, progress, tell).await),
    )?;
    println!("\n{:<62} {:>8}  outcome", "scenario", "duration");
    for outcome in &outcomes {
        let word = if outcome.seen.is_ok() { "ok" } else { "FAILED" };
        println!("{:<62} {:>6.1} s  {word}", outcome.name, outcome.took.as_secs_f64());
    }
    let failed = outcomes.iter().filter(|outcome| outcome.seen.is_err()).count();
    println!("{} of {} scenarios as they must be, {failed} not", outcomes.len() - failed, outcomes.len());
    Ok(failed == 0)
}

fn tell(outcome: &Outcome) {
    let took = outcome.took.as_secs_f64();
    match &outcome.seen {
        Ok(seen) => println!("ok      {} ({took:.1} s): {seen}", outcome.name),
        Err(error) => println!("FAILED  {} ({took:.1} s): {error:#}", outcome.name),
    }
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| eprintln!("{:7.1} s  {doing}", started.elapsed().as_secs_f64()))
}
