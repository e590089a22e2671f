//! Clocks that jump. A time namespace can be made for a process that starts, so the jump falls into a restart; the clock of a
//! running process, and wall time, belong to the whole machine and cannot be moved here without moving everybody's.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crds::site_state::SiteRole;

use super::Scenario;
use super::stage::{LONG_AGAINST_W, Stage, W};
use crate::federation::EAST;

const AN_HOUR: i64 = 3600;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("clock: holder's agent restarts an hour ahead", |stage| {
        Box::pin(agent_jumps(stage, AN_HOUR))
    }),
    Scenario::new("clock: holder's agent restarts an hour behind", |stage| {
        Box::pin(agent_jumps(stage, -AN_HOUR))
    }),
    Scenario::new("clock: hub restarts an hour ahead", |stage| Box::pin(hub_jumps(stage, AN_HOUR))),
    Scenario::new("clock: hub restarts an hour behind", |stage| Box::pin(hub_jumps(stage, -AN_HOUR))),
];

/// Starts a program whose clocks since boot are so many seconds off, against everybody else's.
pub fn elsewhen(seconds: i64) -> Vec<String> {
    ["unshare", "--time", "--boottime", &seconds.to_string(), "--monotonic", &seconds.to_string(), "--"]
        .map(str::to_owned)
        .to_vec()
}

async fn agent_jumps(stage: &Stage, seconds: i64) -> Result<String> {
    let agent = &stage.shop.east.agent;
    agent.start_through(&elsewhen(seconds))?;
    stage.await_agents().await?;
    stage.await_well().await?;
    let stay = stage.both_stay(LONG_AGAINST_W).await?;
    let there = stops_in_time(stage).await?;
    agent.start()?;
    let back = stops_in_time(stage).await?;
    let [there, back] = [there, back].map(|took| took.as_secs_f64());
    Ok(format!(
        "{stay}; cut off, it stops the shop within {there:.1} s by that clock, and {back:.1} s by its own"
    ))
}

/// What another clock has remembered lengthens no lease.
async fn stops_in_time(stage: &Stage) -> Result<Duration> {
    stage.await_agents().await?;
    stage.await_well().await?;
    let cut_at = Instant::now();
    stage.network.isolate(EAST)?;
    stage.shop.await_role(EAST, SiteRole::Fenced).await.context("cut off, it has to stop itself")?;
    let took = cut_at.elapsed();
    ensure!(took < W, "it has stopped itself after {took:?}, and the hub waits for {W:?}");
    stage.network.heal_all()?;
    stage.await_well().await?;
    Ok(took)
}

async fn hub_jumps(stage: &Stage, seconds: i64) -> Result<String> {
    stage.shop.hub.start_through(&elsewhen(seconds)).await?;
    stage.await_well().await?;
    let stay = stage.both_stay(LONG_AGAINST_W).await?;
    stage.shop.hub.start().await?;
    Ok(stay)
}
