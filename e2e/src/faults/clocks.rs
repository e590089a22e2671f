//! Clocks that jump. A time namespace can be made for a process that starts, so the jump falls into a restart; the clock of a
//! running process, and wall time, belong to the whole machine and cannot be moved here without moving everybody's.

use anyhow::Result;

use super::Scenario;
use super::stage::{LONG_AGAINST_W, Stage};

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
fn elsewhen(seconds: i64) -> Vec<String> {
    ["unshare", "--time", "--boottime", &seconds.to_string(), "--monotonic", &seconds.to_string(), "--"]
        .map(str::to_owned)
        .to_vec()
}

async fn agent_jumps(stage: &Stage, seconds: i64) -> Result<String> {
    stage.shop.east.agent.start_through(&elsewhen(seconds))?;
    stage.await_well().await?;
    let stay = stage.both_stay(LONG_AGAINST_W).await?;
    stage.shop.east.agent.start()?;
    Ok(stay)
}

async fn hub_jumps(stage: &Stage, seconds: i64) -> Result<String> {
    stage.shop.hub.start_through(&elsewhen(seconds)).await?;
    stage.await_well().await?;
    let stay = stage.both_stay(LONG_AGAINST_W).await?;
    stage.shop.hub.start().await?;
    Ok(stay)
}
