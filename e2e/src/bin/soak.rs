//! `cargo soak`: real faults by chance, for as long as it is told to, and a tally at the end.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Parser;
use e2e::faults::soak::{Tally, soak};
use e2e::federation::Progress;
use e2e::network::Network;
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(
    name = "cargo soak",
    about = "Befalls a hub and two clusters in network namespaces with faults by chance; needs root and iproute2"
)]
struct Arguments {
    /// For how long
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: u64,
    /// Which faults come when. Default: another one each time
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Silent unless asked: a lost cluster makes every client complain.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing was violated.
fn run(arguments: &Arguments) -> Result<bool> {
    let by_time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seed = arguments.seed.unwrap_or(by_time);
    let length = Duration::from_secs(arguments.minutes * 60);
    let progress = progress();
    progress(&format!("soaking for {} minutes with seed {seed}", arguments.minutes));
    let told = progress.clone();
    let tally = Network::watch(
        move |doing| told(doing),
        async move |network| soak(network, length, seed, progress).await,
    )?;
    tell(&tally, seed);
    Ok(tally.violations.is_empty())
}

fn tell(tally: &Tally, seed: u64) {
    println!("\nseed {seed}: {} faults", tally.rounds);
    for (kind, count) in &tally.faults {
        println!("{count:>6}  {kind}");
    }
    println!("operations");
    for (kind, count) in &tally.operations {
        println!("{count:>6}  {kind}");
    }
    println!("{:>6}  writes checked, {} of them lost with a site", tally.writes, tally.lost);
    println!(
        "{:>6.1} s  the longest recovery, from the healing until all is well",
        tally.longest_recovery.as_secs_f64()
    );
    for violation in &tally.violations {
        println!("VIOLATION {violation}");
    }
    println!("violations {}", tally.violations.len());
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| println!("{:7.1} s  {doing}", started.elapsed().as_secs_f64()))
}
