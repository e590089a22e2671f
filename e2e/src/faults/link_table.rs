//! The link table of the protocol, a scenario for each row: hub to holder, hub to target, holder to target, and the holder's
//! API server. The holder is east, the target west.

use anyhow::{Context, Result, ensure};
use crds::conditions::{ConditionType, Reason};
use crds::operation::{DROperation, OperationKind, OperationPhase};
use crds::site_state::SiteRole;

use super::Scenario;
use super::stage::{LONG_AGAINST_W, Stage, both_say, judge, longest_pause, phase, proposed, says};
use crate::federation::{EAST, SLOW, WEST, boot_nanoseconds};
use crate::patience::within;

const HUB: &str = "hub";

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("link table: up up up up", |stage| Box::pin(all_up(stage))),
    Scenario::new("link table: up up up down", |stage| Box::pin(api_down(stage))),
    Scenario::new("link table: up up down up", |stage| Box::pin(sites_apart(stage, Apart::BothWays))),
    Scenario::new("link table: up up down up, only from holder to target", |stage| {
        Box::pin(sites_apart(stage, Apart::FromHolder))
    }),
    Scenario::new("link table: up up down up, only from target to holder", |stage| {
        Box::pin(sites_apart(stage, Apart::ToHolder))
    }),
    Scenario::new("link table: up up down down", |stage| Box::pin(sites_apart_and_api_down(stage))),
    Scenario::new("link table: up down any any", |stage| Box::pin(target_away(stage))),
    Scenario::new("link table: down up up up", |stage| Box::pin(holder_away(stage, Apart::BothWays))),
    Scenario::new("link table: down up up up, only from holder to hub", |stage| {
        Box::pin(holder_away(stage, Apart::FromHolder))
    }),
    Scenario::new("link table: down up up up, only from hub to holder", |stage| {
        Box::pin(holder_away(stage, Apart::ToHolder))
    }),
    Scenario::new("link table: down up up down", |stage| Box::pin(holder_away_and_api_down(stage))),
    Scenario::last("link table: down up down up", |stage| Box::pin(holder_isolated(stage))),
    Scenario::last("link table: down up down down", |stage| Box::pin(holder_isolated_and_api_down(stage))),
    Scenario::new("link table: down down up any", |stage| Box::pin(hub_isolated(stage))),
    Scenario::new("link table: down down down up", |stage| Box::pin(all_apart(stage))),
    Scenario::new("link table: down down down down", |stage| Box::pin(all_apart_and_api_down(stage))),
];

/// How a link is down.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Apart {
    BothWays,
    FromHolder,
    ToHolder,
}

impl Apart {
    fn cut(self, stage: &Stage, other: &str) -> Result<()> {
        match self {
            Apart::BothWays => stage.network.cut(EAST, other),
            Apart::FromHolder => stage.network.cut_one_way(EAST, other),
            Apart::ToHolder => stage.network.cut_one_way(other, EAST),
        }
    }
}

async fn all_up(stage: &Stage) -> Result<String> {
    stage.both_stay(LONG_AGAINST_W).await
}

async fn api_down(stage: &Stage) -> Result<String> {
    stage.shop.east.control_plane.stop_api()?;
    let seen = cannot_fence(stage).await?;
    let stay = stage.both_stay(LONG_AGAINST_W).await?;
    nothing_is_offered(stage).await?;
    Ok(format!("{seen}; {stay}; in mode Confirm nothing is offered: it renews, so it is not lost"))
}

/// The hub says to the user that the holder could not be stopped, and would not act alone.
async fn cannot_fence(stage: &Stage) -> Result<String> {
    let armed = ConditionType::AutomaticFailoverArmed;
    let said = says(&stage.shop, armed, Reason::NotFenceCapable).await?;
    ensure!(said.contains("cannot write to its own API server"), "{armed} says: {said}");
    Ok(format!("{armed} NotFenceCapable: {said}"))
}

async fn nothing_is_offered(stage: &Stage) -> Result<()> {
    for application in stage.both() {
        let offered = proposed(application).await?;
        ensure!(offered.is_empty(), "{} is offered {offered:?}", application.options.application.name);
    }
    Ok(())
}

async fn sites_apart(stage: &Stage, apart: Apart) -> Result<String> {
    apart.cut(stage, WEST)?;
    let stay = stage.both_stay(LONG_AGAINST_W).await?;
    // The storage asks from the copy's site: where it hears no answer, or cannot ask, the copy grows old.
    let degraded = both_say(stage, ConditionType::FailoverReady, Reason::StaleCopy).await?;
    let migration = no_migration(stage).await?;
    Ok(format!("{stay}; {degraded}; {migration}"))
}

/// Somebody prefers the target while the storage cannot reach it.
async fn no_migration(stage: &Stage) -> Result<String> {
    stage.bank.prefer(WEST).await?;
    stage.stays(&stage.bank, LONG_AGAINST_W / 2).await.context("preferring a target that no copy reaches")?;
    stage.bank.prefer(EAST).await?;
    Ok("a preferred target is not moved to".to_owned())
}

async fn sites_apart_and_api_down(stage: &Stage) -> Result<String> {
    stage.network.cut(EAST, WEST)?;
    stage.shop.east.control_plane.stop_api()?;
    let seen = cannot_fence(stage).await?;
    let stay = stage.both_stay(LONG_AGAINST_W).await?;
    nothing_is_offered(stage).await?;
    Ok(format!("{seen}; {stay}; in mode Confirm nothing is offered: it renews, so it is not lost"))
}

async fn target_away(stage: &Stage) -> Result<String> {
    stage.network.cut(HUB, WEST)?;
    let unprotected = both_say(stage, ConditionType::FailoverReady, Reason::PeerSilent).await?;
    let stay = stage.both_stay(LONG_AGAINST_W).await?;
    nothing_is_offered(stage).await?;
    Ok(format!("{unprotected}; {stay}; nothing is offered"))
}

async fn holder_away(stage: &Stage, apart: Apart) -> Result<String> {
    apart.cut(stage, HUB)?;
    vetoed(stage).await
}

/// The target sees the holder alive.
async fn vetoed(stage: &Stage) -> Result<String> {
    let veto = both_say(stage, ConditionType::FailoverReady, Reason::SignOfLife).await?;
    let stay = stage.both_stay(LONG_AGAINST_W).await?;
    nothing_is_offered(stage).await?;
    Ok(format!("{veto}; {stay}; nothing is offered while the veto stands"))
}

async fn holder_away_and_api_down(stage: &Stage) -> Result<String> {
    stage.network.cut(EAST, HUB)?;
    stage.shop.east.control_plane.stop_api()?;
    vetoed(stage).await
}

async fn holder_isolated(stage: &Stage) -> Result<String> {
    let (cut_at, since) = (std::time::Instant::now(), boot_nanoseconds());
    stage.network.isolate(EAST)?;
    let failover = stage.shop.await_failover(WEST).await?;
    stage.shop.await_further_writes(WEST, 20, SLOW).await?;
    let took = cut_at.elapsed();
    let proof = failover.status.and_then(|status| status.fence_proof).unwrap_or_default();
    judge(&stage.shop).await?;
    let away = longest_pause(&stage.shop, since)?;
    let (offer, bank) = offered_with(stage, "assertFenced").await?;
    stage.bank.await_further_writes(EAST, 20, SLOW).await?;
    stage.network.heal_all()?;
    stage
        .bank
        .await_phase(OperationKind::FailOver, offer.spec.epoch, OperationPhase::Withdrawn, SLOW)
        .await?;
    let resync = stage.returned(&stage.shop).await?;
    Ok(format!(
        "Automatic: failed over by {proof}, writing at west after {:.1} s (away {:.1} s); Confirm goes on at east, and {bank}; withdrawn when the links heal; {resync}",
        took.as_secs_f64(),
        away.as_secs_f64()
    ))
}

/// What is offered for the bank names how the old holder would be known to have stopped.
async fn offered_with(stage: &Stage, word: &str) -> Result<(DROperation, String)> {
    // Scenarios before this one may have moved it, so its epoch may be any.
    let is_so = |one: &DROperation| {
        one.spec.kind == OperationKind::FailOver && phase(one) == Some(OperationPhase::Proposed)
    };
    let offer = stage.bank.await_operation("a failover is proposed", SLOW, is_so).await?;
    let evidence = offer.status.as_ref().map(|status| status.evidence.clone()).unwrap_or_default();
    let fence = evidence.iter().find(|line| line.starts_with("fence:")).cloned().unwrap_or_default();
    ensure!(fence.contains(word), "the offer says nothing of {word}: {evidence:?}");
    Ok((offer, format!("a failover is offered that needs an assertion ({fence})")))
}

async fn holder_isolated_and_api_down(stage: &Stage) -> Result<String> {
    stage.network.isolate(EAST)?;
    stage.shop.east.control_plane.stop_api()?;
    let failover = stage.shop.await_failover(WEST).await?;
    stage.shop.await_further_writes(WEST, 20, SLOW).await?;
    let proof = failover.status.and_then(|status| status.fence_proof).unwrap_or_default();
    let before = stage.shop.writes_at(EAST)?;
    let goes_on = within(SLOW, "the holder's pods write on", async || {
        Ok((stage.shop.writes_at(EAST)? > before).then_some(()))
    });
    goes_on.await.context("SelfFence is not known to stop pods behind a dead API server")?;
    let verdict = stage.shop.verdict(WEST).await?;
    ensure!(!verdict.holds(), "two writers, and the history checker does not see it: {verdict}");
    Ok(format!(
        "failed over by {proof}, indistinguishable from the row above; behind its dead API server the old holder writes on (what SelfFence does not cover): {} violation(s) seen by the checker",
        verdict.violations.len()
    ))
}

async fn hub_isolated(stage: &Stage) -> Result<String> {
    stage.network.isolate(HUB)?;
    frozen(stage).await
}

/// The hub takes itself for the one that is cut off.
async fn frozen(stage: &Stage) -> Result<String> {
    let frozen = both_say(stage, ConditionType::FailoverReady, Reason::HubFrozen).await?;
    let stay = stage.both_stay(LONG_AGAINST_W).await?;
    nothing_is_offered(stage).await?;
    Ok(format!("{frozen}; {stay}; nothing is offered"))
}

async fn all_apart(stage: &Stage) -> Result<String> {
    let since = boot_nanoseconds();
    stage.network.isolate(HUB)?;
    stage.network.cut(EAST, WEST)?;
    stage.shop.await_role(EAST, SiteRole::Fenced).await?;
    let frozen = both_say(stage, ConditionType::FailoverReady, Reason::HubFrozen).await?;
    let bank = stage.stays(&stage.bank, LONG_AGAINST_W).await?;
    nothing_is_offered(stage).await?;
    stage.network.heal_all()?;
    let writes = stage.shop.writes_at(EAST)?;
    stage.shop.await_writes(EAST, writes + 20, SLOW).await?;
    Ok(format!(
        "{frozen}; Automatic stops itself, and starts again when the links heal (away {:.1} s); Confirm runs on, longest pause {:.1} s",
        longest_pause(&stage.shop, since)?.as_secs_f64(),
        bank.as_secs_f64()
    ))
}

async fn all_apart_and_api_down(stage: &Stage) -> Result<String> {
    stage.network.isolate(HUB)?;
    stage.network.cut(EAST, WEST)?;
    stage.shop.east.control_plane.stop_api()?;
    frozen(stage).await
}
