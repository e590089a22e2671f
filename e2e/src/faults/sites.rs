//! A whole site that starts cold, with its nodes first; and two agents alive in one cluster.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use crds::site_state::SiteRole;
use tokio::time::sleep;

use super::Scenario;
use super::stage::{LONG_AGAINST_W, Stage, W, longest_pause, turn};
use crate::federation::{EAST, SLOW, WEST, boot_nanoseconds};
use crate::patience::within;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("site: two agents alive, the second waits its turn", |stage| Box::pin(second_waits(stage))),
    Scenario::new("site: two agents alive, the first wakes up in the second's turn", |stage| {
        Box::pin(first_wakes_up(stage))
    }),
    Scenario::last("site: cold restart, nodes before the agent", |stage| Box::pin(cold_restart(stage))),
];

async fn second_waits(stage: &Stage) -> Result<String> {
    stage.shop.east.second_agent.start()?;
    let stay = stage.both_stay(LONG_AGAINST_W).await?;
    stage.shop.east.second_agent.still_runs()?;
    ensure!(
        acts_for_east(stage).await?.ends_with("agent-of-east"),
        "the second has taken the turn of a living first"
    );
    Ok(stay)
}

async fn acts_for_east(stage: &Stage) -> Result<String> {
    Ok(turn(&stage.shop.east).await?.holder_identity.unwrap_or_default())
}

/// The first stands still for so long that the second acts in its place, and then goes on as if nothing had been.
async fn first_wakes_up(stage: &Stage) -> Result<String> {
    let (since, began) = (boot_nanoseconds(), Instant::now());
    let east = &stage.shop.east;
    east.second_agent.start()?;
    sleep(Duration::from_secs(2)).await;
    east.agent.stop()?;
    within(SLOW, "the second agent takes its turn", async || {
        Ok(acts_for_east(stage).await?.contains("second").then_some(()))
    })
    .await?;
    let took = began.elapsed();
    sleep(W).await;
    east.agent.cont()?;
    stage.await_well().await?;
    stage.both_stay(LONG_AGAINST_W).await?;
    let first = if east.agent.runs() { "lives on" } else { "has ended" };
    east.second_agent.kill9();
    Ok(format!(
        "the second took over after {:.1} s; the first {first} when it woke up; longest pause {:.1} s",
        took.as_secs_f64(),
        longest_pause(&stage.shop, since)?.as_secs_f64()
    ))
}

/// What runs between the start of the nodes and the first word of the agent no self-fence can stop.
async fn cold_restart(stage: &Stage) -> Result<String> {
    let (shop, east) = (&stage.shop, &stage.shop.east);
    shop.lose(EAST)?;
    shop.await_failover(WEST).await?;
    shop.await_further_writes(WEST, 50, SLOW).await?;
    let before = shop.writes_at(EAST)?;

    east.array.start()?;
    east.control_plane.restart().await?;
    let nodes_at = boot_nanoseconds();
    east.start_nodes_as_they_were()?;
    within(SLOW, "bound pods run again before the agent speaks", async || {
        Ok((shop.writes_at(EAST)? > before + 20).then_some(()))
    })
    .await?;
    let verdict = shop.verdict(WEST).await?;
    ensure!(!verdict.holds(), "two writers, and the history checker does not see it: {verdict}");

    let agent_at = boot_nanoseconds();
    east.start_agent_of_another_boot()?;
    east.csi_addons.restart().await?;
    shop.await_role(EAST, SiteRole::Fenced).await?;
    within(SLOW, "the old holder writes no more", async || {
        let writes = shop.writes_at(EAST)?;
        sleep(Duration::from_secs(1)).await;
        Ok((shop.writes_at(EAST)? == writes).then_some(()))
    })
    .await?;
    let history = shop.history()?;
    let last =
        history.records().iter().filter(|record| record.cluster == EAST).map(|one| one.boot_nanoseconds);
    let last = last.max().unwrap_or_default();
    let stopped = Duration::from_nanos(last.saturating_sub(agent_at));
    stage.network.heal_all()?;
    shop.await_further_writes(WEST, 20, SLOW).await?;
    shop.ensure_silent_since(EAST, last)?;
    Ok(format!(
        "SelfFence does not cover it: bound pods wrote again at east for {:.1} s beside west, until the agent, {:.1} s after its start and before it called the hub, had stopped them; nothing came after that",
        Duration::from_nanos(last.saturating_sub(nodes_at)).as_secs_f64(),
        stopped.as_secs_f64()
    ))
}
