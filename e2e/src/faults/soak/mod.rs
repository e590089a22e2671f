//! Faults by chance, one after the other, for as long as it is told to; after each of them everything must be well again.
//!
//! The seed says which fault comes when and for how long. What comes of it is up to real clocks, so the same seed befalls a
//! federation alike and not the same. The first failover of an application is automatic; later ones within the hour are
//! proposed, and answered with a yes like everything that is proposed.

mod draw;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use crds::operation::OperationPhase;
use kube::ResourceExt;
use tokio::time::sleep;

use self::draw::{Fault, Random};
use super::clocks::elsewhen;
use super::processes::Who;
use super::stage::{Stage, active, judge, other, phase, proposed, settle};
use crate::federation::{EAST, Federation, Progress, WEST};
use crate::network::Network;
use crate::site::Site;

/// Slower than in scenarios, as the writes of an hour are judged again after each fault.
const WRITE_INTERVAL: Duration = Duration::from_millis(100);
/// How long all is left well between two faults.
const CALM: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What has been done, and what came of it.
#[derive(Debug, Default)]
pub struct Tally {
    pub rounds: usize,
    pub faults: BTreeMap<&'static str, usize>,
    /// Operations that have ended, by kind and how.
    pub operations: BTreeMap<String, usize>,
    told: BTreeSet<String>,
    /// Of both applications, as the history checker has counted them.
    pub writes: usize,
    pub lost: usize,
    pub longest_recovery: Duration,
    pub violations: Vec<String>,
}

/// Soaks a fresh federation for so long.
pub async fn soak(network: Arc<Network>, length: Duration, seed: u64, progress: Progress) -> Result<Tally> {
    let stage = Stage::set_with(Arc::clone(&network), WRITE_INTERVAL, progress.clone()).await?;
    let (mut random, mut tally, began) = (Random::new(seed), Tally::default(), Instant::now());
    while began.elapsed() < length && tally.violations.is_empty() {
        let fault = Fault::draw(&mut random);
        progress(&format!("round {}: {fault}", tally.rounds + 1));
        tally.rounds += 1;
        *tally.faults.entry(fault.kind()).or_default() += 1;
        if let Err(error) = round(&stage, &fault, &mut tally).await {
            tally.violations.push(format!("round {} ({fault}): {error:#}", tally.rounds));
        }
    }
    tally.count(&stage).await.context("counting at the end")?;
    Ok(tally)
}

async fn round(stage: &Stage, fault: &Fault, tally: &mut Tally) -> Result<()> {
    let (wish, unwished) = (fault.moves_before, stage.shop.placement().await?);
    if wish {
        let there = active(&unwished)?;
        stage.shop.prefer(other(&there)).await?;
        sleep(Duration::from_millis(fault.lead_milliseconds)).await;
    }
    befall(stage, fault).await?;
    let healed = Instant::now();
    stage.mend().await.context("mending")?;
    for application in stage.both() {
        settle(application).await.context("nothing settles")?;
    }
    tally.longest_recovery = tally.longest_recovery.max(healed.elapsed());
    for application in stage.both() {
        runs_in_one_place(application).await?;
        judge(application).await?;
    }
    tally.count(stage).await
}

/// Lets the fault do what it does, and takes it back.
async fn befall(stage: &Stage, fault: &Fault) -> Result<()> {
    let (network, federation) = (&stage.network, &stage.shop);
    let span = Duration::from_millis(fault.milliseconds);
    match fault.what {
        draw::What::Cut { one, other } => network.cut(one, other)?,
        draw::What::CutOneWay { from, to } => network.cut_one_way(from, to)?,
        draw::What::Isolate { site } => network.isolate(site)?,
        draw::What::Narrow { site } => network.narrow(site, 250).map(drop)?,
        draw::What::Flap { one, other, each } => return flap(stage, one, other, each, span).await,
        draw::What::Freeze { who } => {
            who.freeze(federation)?;
            sleep(span).await;
            return who.thaw(federation);
        }
        draw::What::Kill { who } => {
            who.kill(federation);
            sleep(span).await;
            return who.start(federation).await;
        }
        draw::What::OtherClock { site, seconds } => {
            let agent = &federation.site(site)?.agent;
            agent.start_through(&elsewhen(seconds))?;
            sleep(span).await;
            agent.start()?;
            stage.await_agents().await?;
            network.isolate(site)?;
        }
        draw::What::KillPart { site, part } => return kill_part(federation.site(site)?, part, span).await,
        draw::What::PowerCut { site, says_yes } => return power_cut(stage, site, says_yes, span).await,
        draw::What::Nothing => {}
    }
    let says_yes = fault.says_yes();
    let until = Instant::now() + span;
    while Instant::now() < until {
        if says_yes {
            answer(&stage.shop, None).await;
        }
        sleep(LOOK_AGAIN).await;
    }
    network.heal_all()
}

async fn flap(stage: &Stage, one: &str, other: &str, each: u64, span: Duration) -> Result<()> {
    let until = Instant::now() + span;
    while Instant::now() < until {
        stage.network.cut(one, other)?;
        sleep(Duration::from_millis(each)).await;
        stage.network.heal(one, other)?;
        sleep(Duration::from_millis(each)).await;
    }
    Ok(())
}

async fn kill_part(site: &Site, part: draw::Part, span: Duration) -> Result<()> {
    match part {
        draw::Part::Array => site.array.kill9(),
        draw::Part::CsiAddons => site.csi_addons.kill9(),
        draw::Part::Nodes => site.nodes.kill9(),
    }
    sleep(span).await;
    match part {
        draw::Part::Array => site.array.start(),
        draw::Part::CsiAddons => site.csi_addons.restart().await,
        draw::Part::Nodes => site.nodes.start(),
    }
}

/// A site loses its power and gets it back; whoever is asked in between has seen that it is off.
async fn power_cut(stage: &Stage, site: &str, says_yes: bool, span: Duration) -> Result<()> {
    stage.shop.lose(site)?;
    let until = Instant::now() + span;
    while Instant::now() < until {
        if says_yes {
            answer(&stage.shop, Some(site)).await;
            answer(&stage.bank, Some(site)).await;
        }
        sleep(LOOK_AGAIN).await;
    }
    let lost = stage.shop.site(site)?;
    lost.restart_without_nodes().await?;
    for application in stage.both() {
        application.await_stopped(site).await?;
    }
    lost.start_empty_nodes()?;
    stage.network.reconnect(site)
}

/// Says yes to what is proposed now, and, for a site that was seen to be off, that it is.
async fn answer(application: &Federation, off: Option<&str>) {
    // Nothing proposed, withdrawn meanwhile, or answered before: nothing to be said.
    for offer in proposed(application).await.unwrap_or_default() {
        let _said_before = application.approve_asserting(&offer, off).await;
    }
}

/// It writes at the place that the placement names, and nowhere else.
async fn runs_in_one_place(application: &Federation) -> Result<()> {
    let name = &application.options.application.name;
    let cluster = active(&application.placement().await?)?;
    let since = crate::federation::boot_nanoseconds();
    sleep(CALM).await;
    let history = application.history()?;
    let new = history.records().iter().filter(|record| record.boot_nanoseconds > since);
    let places: BTreeSet<&str> = new.map(|record| record.cluster.as_str()).collect();
    if places.len() == 1 && places.contains(cluster.as_str()) {
        return Ok(());
    }
    bail!("{name} is active at {cluster}, and has written at {places:?} within {CALM:?}")
}

impl Tally {
    async fn count(&mut self, stage: &Stage) -> Result<()> {
        (self.writes, self.lost) = (0, 0);
        for application in stage.both() {
            for operation in application.operations().await? {
                let ended = match phase(&operation) {
                    Some(
                        ended
                        @ (OperationPhase::Succeeded | OperationPhase::Aborted | OperationPhase::Failed),
                    ) => ended,
                    Some(
                        OperationPhase::Proposed
                        | OperationPhase::Withdrawn
                        | OperationPhase::Running
                        | OperationPhase::Stuck,
                    )
                    | None => continue,
                };
                let uid = operation.uid().unwrap_or_else(|| operation.name_any());
                if self.told.insert(uid) {
                    let asked = operation.status.as_ref().is_some_and(|status| status.approved_by.is_some());
                    let how = if asked { "approved" } else { "automatic" };
                    let what = format!("{:?} {how} {ended:?}", operation.spec.kind);
                    *self.operations.entry(what).or_default() += 1;
                }
            }
            let cluster = active(&application.placement().await?)?;
            let verdict = application.verdict(&cluster).await?;
            self.writes += verdict.writes;
            self.lost += verdict.lost_writes();
        }
        Ok(())
    }
}
