//! Links that are slow, or come and go.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::time::sleep;

use super::Scenario;
use super::stage::{LONG_AGAINST_W, Stage, longest_pause, moves};
use crate::federation::{EAST, WEST, boot_nanoseconds};

const HUB: &str = "hub";
/// Of the stage's timing.
const RENEW: Duration = Duration::from_millis(500);
const TTL: Duration = Duration::from_secs(3);
/// Half of a deadline of one call.
const SLOW_WAY: u32 = 250;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("weather: every way is slow", |stage| Box::pin(slow(stage))),
    Scenario::new("weather: holder's link to the hub flaps, each renew", |stage| {
        Box::pin(flapping(stage, &[HUB], RENEW))
    }),
    Scenario::new("weather: holder's link to the hub flaps, each ttl", |stage| {
        Box::pin(flapping(stage, &[HUB], TTL))
    }),
    Scenario::last("weather: all of the holder's links flap, each renew", |stage| {
        Box::pin(flapping(stage, &[HUB, WEST], RENEW))
    }),
    Scenario::last("weather: all of the holder's links flap, each ttl", |stage| {
        Box::pin(flapping(stage, &[HUB, WEST], TTL))
    }),
];

async fn slow(stage: &Stage) -> Result<String> {
    let mut how = String::new();
    for site in [HUB, EAST, WEST] {
        how = stage.network.narrow(site, SLOW_WAY)?;
    }
    let stay = stage.both_stay(LONG_AGAINST_W).await?;
    let mut packets = Vec::new();
    for site in [HUB, EAST, WEST] {
        let narrowed = stage.network.narrowed(site)?;
        ensure!(narrowed > 0, "nothing went the slow way to {site}");
        packets.push(narrowed);
    }
    Ok(format!("each way by {how}, packets that went it {packets:?}: {stay}"))
}

/// Cuts and heals, each for so long. With one link there is a veto. With all of them the hub may begin a failover and give
/// it up again; that there is one writer is what must hold.
async fn flapping(stage: &Stage, to: &[&str], each: Duration) -> Result<String> {
    let (began, since) = (Instant::now(), boot_nanoseconds());
    let mut times = 0;
    while began.elapsed() < LONG_AGAINST_W {
        to.iter().try_for_each(|other| stage.network.cut(EAST, other))?;
        sleep(each).await;
        to.iter().try_for_each(|other| stage.network.heal(EAST, other))?;
        sleep(each).await;
        times += 1;
    }
    stage.await_well_somewhere().await?;
    stage.judge().await?;
    let mut told = Vec::new();
    for application in stage.both() {
        let name = &application.options.application.name;
        let away = longest_pause(application, since)?.as_secs_f64();
        told.push(format!("{name} away for at most {away:.1} s, operations {:?}", moves(application).await?));
    }
    Ok(format!("{times} cuts; {}", told.join("; ")))
}
