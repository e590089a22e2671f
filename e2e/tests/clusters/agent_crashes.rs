//! The target's agent is killed at every point of a failover, one after the other, and the failover goes on each time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use crds::conditions::ConditionType;
use e2e::federation::{EAST, Federation, Options, Progress, SLOW, WEST};
use e2e::patience::within;
use e2e::site::Site;

/// In the order in which one failover passes them.
const POINTS: [&str; 6] = [
    "Promote:Accepted",
    "Promote:Applied",
    "Promote:Acknowledged",
    "ScaleUp:Accepted",
    "ScaleUp:Applied",
    "ScaleUp:Acknowledged",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_survives_the_death_of_the_targets_agent_at_every_point() -> Result<()> {
    let _first = rustls::crypto::ring::default_provider().install_default();
    let say = progress();
    let federation = Federation::protected(Options::short(2), say.clone()).await?;
    federation.west.agent.kill9();
    crash_at(&federation.west, POINTS[0])?;
    federation.await_protected().await?;
    say("losing east");
    federation.lose(EAST)?;
    for (number, point) in POINTS.iter().enumerate() {
        let died = format!("west's agent has died at {point}");
        let waited = within(SLOW, &died, async || Ok((!federation.west.agent.runs()).then_some(())));
        federation.or_diagnosis(waited).await?;
        let west = &federation.west.agent;
        ensure!(marker(&federation.west, point).exists(), "it ended elsewhere:\n{}", west.log_tail(20));
        say(&died);
        federation.west.agent.kill9();
        match POINTS.get(number + 1) {
            Some(next) => crash_at(&federation.west, next)?,
            None => federation.west.agent.start()?,
        }
    }
    federation.await_writes(WEST, 20, SLOW).await?;
    // Nothing that an earlier agent had begun may stop the application for good.
    federation.await_condition(ConditionType::Available, "True", SLOW).await?;
    let so_far = federation.history()?.records().iter().filter(|record| record.cluster == WEST).count();
    federation.await_writes(WEST, so_far + 200, SLOW).await?;
    let verdict = federation.verdict(WEST).await?;
    ensure!(verdict.holds(), "{verdict}");
    Ok(())
}

/// An agent that is killed and started again while it is holder, and finds the same boot, does not stop anything.
#[tokio::test(flavor = "multi_thread")]
async fn the_holders_agent_may_die_and_come_back() -> Result<()> {
    let _first = rustls::crypto::ring::default_provider().install_default();
    let federation = Federation::protected(Options::unhurried(1), progress()).await?;
    let before = federation.history()?.records().len();
    for round in 1..=3 {
        federation.east.agent.kill9();
        federation.east.agent.start()?;
        federation.await_heartbeat(EAST).await?;
        let wanted = before + 50 * round;
        federation.await_writes(EAST, wanted, SLOW).await?;
    }
    // Longer than a lease, at 20 ms between two writes.
    federation.await_writes(EAST, before + 1_000, SLOW).await?;
    let log = federation.east.agent.whole_log()?;
    ensure!(!log.contains("Fenced"), "the application was stopped for nothing:\n{log}");
    ensure!(federation.operations().await?.len() == 1, "nothing but the deployment has happened");
    Ok(())
}

fn crash_at(site: &Site, point: &str) -> Result<()> {
    let marker = marker(site, point).display().to_string();
    site.agent.start_with(&[("UNDERSTUDY_CRASH_AT", point), ("UNDERSTUDY_CRASH_MARKER", &marker)])
}

/// The file that an agent leaves behind where it was to die.
fn marker(site: &Site, point: &str) -> PathBuf {
    site.agent.log().with_file_name(format!("crashed-at-{}", point.replace(':', "-")))
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| eprintln!("{:6.1} s  {doing}", started.elapsed().as_secs_f64()))
}
