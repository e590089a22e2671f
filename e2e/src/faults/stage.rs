//! The federation that the faults befall: two sites and a hub, each in its own network, and two applications at east: `shop`
//! in mode Automatic and `bank` in mode Confirm.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crds::conditions::{ConditionType, Reason};
use crds::operation::{DROperation, OperationKind, OperationPhase};
use crds::placement::{DRPlacement, FailoverMode, FailoverSpec};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, ResourceExt};
use tokio::time::sleep;

use crate::application::Application;
use crate::federation::readers::condition_of;
use crate::federation::{EAST, Federation, Options, Progress, SLOW, WEST, boot_nanoseconds};
use crate::installation::NAMESPACE;
use crate::network::Network;
use crate::patience::within;
use crate::site::Site;

/// W of the timing that the stage has: 3 s of ttl and 4 s to stop, stretched by what a clock may be wrong.
pub const W: Duration = Duration::from_millis(7200);
/// Within this everything would have happened that a fault could set off: suspicion, accusation, W, and the promotion.
pub const LONG_AGAINST_W: Duration = Duration::from_secs(18);
/// A write comes every 20 ms; this much is a machine that is busy, and far less than any fence takes.
const PAUSE: Duration = Duration::from_secs(3);
/// Copies older than this are stale, so that a fault of the storage's link shows soon.
pub const MAX_DATA_LOSS: Duration = Duration::from_secs(20);
/// A failover, a resync and a failback, one after the other, on a busy machine.
const SETTLED: Duration = Duration::from_secs(180);
const WRITE_INTERVAL: Duration = Duration::from_millis(20);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
const AGENTS_LEASE: &str = "understudy-agent";

pub struct Stage {
    pub network: Arc<Network>,
    /// Mode Automatic: stops when nobody answers.
    pub shop: Federation,
    /// Mode Confirm: goes on when nobody answers.
    pub bank: Federation,
    progress: Progress,
}

impl Stage {
    pub async fn set(network: Arc<Network>, progress: Progress) -> Result<Stage> {
        Stage::set_with(network, WRITE_INTERVAL, progress).await
    }

    /// With so long between two writes.
    pub async fn set_with(
        network: Arc<Network>,
        write_interval: Duration,
        progress: Progress,
    ) -> Result<Stage> {
        network.heal_all()?;
        let made = |name, mode| Options { write_interval, ..options(&network, name, mode) };
        let (automatic, confirm) =
            (made("shop", FailoverMode::Automatic), made("bank", FailoverMode::Confirm));
        let shop = Federation::start(automatic, progress.clone()).await?;
        let bank = shop.beside(confirm);
        for application in [&shop, &bank] {
            application.deploy().await?;
            application.protect().await?;
        }
        let stage = Stage { network, shop, bank, progress };
        stage.await_well().await.context("all is well in the beginning")?;
        Ok(stage)
    }

    pub fn say(&self, doing: &str) {
        (self.progress)(doing);
    }

    pub fn both(&self) -> [&Federation; 2] {
        [&self.shop, &self.bank]
    }

    /// Takes back whatever a scenario may have broken, whether it has or not.
    pub async fn mend(&self) -> Result<()> {
        self.network.heal_all()?;
        let federation = &self.shop;
        for control_plane in
            [&federation.hub.control_plane, &federation.east.control_plane, &federation.west.control_plane]
        {
            control_plane.cont_api()?;
        }
        if !federation.hub.service.runs() {
            federation.hub.start().await?;
        }
        federation.hub.service.cont()?;
        for site in [&federation.east, &federation.west] {
            site.second_agent.kill9();
            site.restart_what_ended().await?;
            site.agent.cont()?;
        }
        self.await_agents().await
    }

    /// Waits until an agent acts for each cluster: one that was just started waits for its turn first, and meanwhile nobody
    /// would stop anything there.
    pub async fn await_agents(&self) -> Result<()> {
        let since = Timestamp::now();
        for site in [&self.shop.east, &self.shop.west] {
            let written = async || {
                // It may end only when the API server that it had lost is back.
                site.restart_what_ended().await?;
                let renewed = turn(site).await?.renew_time;
                Ok(renewed.is_some_and(|MicroTime(at)| at > since).then_some(()))
            };
            within(SLOW, &format!("an agent acts for {}", site.name), written).await?;
        }
        Ok(())
    }

    /// Waits until both applications run, protected, with nothing proposed or running, and each copy holds writes.
    pub async fn await_well(&self) -> Result<()> {
        tokio::select! {
            well = self.are_well() => well,
            ended = self.keep_csi_addons_running() => ended,
        }
    }

    /// csi-addons ends up to three minutes after it has lost its API server, on purpose; a kubelet starts it again.
    async fn keep_csi_addons_running(&self) -> Result<()> {
        loop {
            for site in [&self.shop.east, &self.shop.west] {
                if site.csi_addons.still_runs().is_err() {
                    site.csi_addons.restart().await?;
                }
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn are_well(&self) -> Result<()> {
        for application in self.both() {
            let name = &application.options.application.name;
            let placement = application.await_placement(&format!("{name} is well"), SLOW, is_well).await?;
            let cluster = active(&placement)?;
            application.await_further_writes(&cluster, 20, SLOW).await?;
            application.await_copies(other(&cluster), SLOW).await?;
        }
        Ok(())
    }

    /// Waits until both run somewhere and are protected; asks nobody, but answers what is proposed with a yes.
    pub async fn await_well_somewhere(&self) -> Result<()> {
        for application in self.both() {
            settle(application).await?;
        }
        Ok(())
    }

    /// Lets the history checker judge both applications.
    pub async fn judge(&self) -> Result<()> {
        for application in self.both() {
            judge(application).await?;
        }
        Ok(())
    }

    /// Looks on for as long as that, and fails as soon as anything is moved, or a write is missed for long. Returns the
    /// longest pause.
    pub async fn stays(&self, application: &Federation, span: Duration) -> Result<Duration> {
        let (began, since) = (Instant::now(), boot_nanoseconds());
        let name = &application.options.application.name;
        let placement = application.placement().await?;
        let (cluster, moved) = (active(&placement)?, moves(application).await?);
        while began.elapsed() < span {
            sleep(LOOK_AGAIN).await;
            let now = moves(application).await?;
            ensure!(now == moved, "{name}: something was moved: {now:?}, before {moved:?}");
        }
        let pause = longest_pause(application, since)?;
        ensure!(pause < PAUSE, "{name} has not written for {pause:?}");
        let history = application.history()?;
        let mut late = history.records().iter().filter(|record| record.boot_nanoseconds >= since);
        let elsewhere = late.find(|record| record.cluster != cluster);
        ensure!(elsewhere.is_none(), "{name} has written elsewhere: {elsewhere:?}");
        Ok(pause)
    }

    /// A holder that was replaced is heard again: it has stopped itself, its copy is made anew, and the application goes back
    /// to it, each when somebody says so.
    pub async fn returned(&self, application: &Federation) -> Result<String> {
        let mut told = Vec::new();
        for kind in [OperationKind::Resync, OperationKind::FailBack] {
            let is_so =
                |one: &DROperation| one.spec.kind == kind && phase(one) == Some(OperationPhase::Proposed);
            let offer = application.await_operation(&format!("{kind:?} is proposed"), SLOW, is_so).await?;
            application.approve(&offer).await?;
            let (name, began) = (offer.name_any(), Instant::now());
            let is_so =
                |one: &DROperation| one.name_any() == name && phase(one) == Some(OperationPhase::Succeeded);
            application.await_operation(&format!("{name} has succeeded"), SLOW, is_so).await?;
            told.push(format!("{kind:?} {:.1} s", began.elapsed().as_secs_f64()));
        }
        application.await_placement("it is well again", SLOW, is_well).await?;
        judge(application).await?;
        Ok(format!("approved afterwards: {}", told.join(", ")))
    }

    /// `stays`, of both applications at once.
    pub async fn both_stay(&self, span: Duration) -> Result<String> {
        let (shop, bank) = tokio::try_join!(self.stays(&self.shop, span), self.stays(&self.bank, span))?;
        Ok(format!("both run on at their place, longest pause {:.1} s", shop.max(bank).as_secs_f64()))
    }
}

fn options(network: &Arc<Network>, name: &str, mode: FailoverMode) -> Options {
    let short = Options::short(1);
    let mut application = Application::named(name, 1);
    application.scheduling_interval = "2s".to_owned();
    Options {
        application,
        failover: FailoverSpec {
            mode,
            max_data_loss: Some(crds::span::format(MAX_DATA_LOSS)),
            ..short.failover.clone()
        },
        network: Some(Arc::clone(network)),
        ..short
    }
}

fn is_well(placement: &DRPlacement) -> bool {
    let holds = |kind| condition_of(placement, kind).is_some_and(|condition| condition.status == "True");
    let Some(status) = &placement.status else { return false };
    [ConditionType::Available, ConditionType::Protected, ConditionType::FailoverReady].into_iter().all(holds)
        && status.operation.is_none()
        && status.epoch.is_some()
        && !holds(ConditionType::Stalled)
}

/// Says yes to whatever is proposed, until the application runs somewhere, protected. Returns what was approved.
pub async fn settle(application: &Federation) -> Result<Vec<String>> {
    let name = &application.options.application.name;
    let began = Instant::now();
    let mut approved = Vec::new();
    loop {
        let placement = application.placement().await?;
        if is_well(&placement) {
            return Ok(approved);
        }
        // A controller that has lost its API server may end only after that is back.
        for site in [&application.east, &application.west] {
            site.restart_what_ended().await?;
        }
        for offer in proposed(application).await? {
            if !approved.contains(&offer.name_any()) {
                // Withdrawn meanwhile, if this fails: then there is nothing to be said.
                if application.approve(&offer).await.is_ok() {
                    approved.push(offer.name_any());
                }
            }
        }
        if began.elapsed() > SETTLED {
            return Err(application.diagnosis(&format!("{name} is not well within {SETTLED:?}")).await);
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Who acts for a cluster, and when it last showed it.
pub async fn turn(site: &Site) -> Result<LeaseSpec> {
    let leases: Api<Lease> = Api::namespaced(site.control_plane.client(), NAMESPACE);
    let lease =
        leases.get(AGENTS_LEASE).await.with_context(|| format!("the agent's Lease of {}", site.name))?;
    Ok(lease.spec.unwrap_or_default())
}

/// Where the placement says that the application is.
pub fn active(placement: &DRPlacement) -> Result<String> {
    let status = placement.status.as_ref();
    status
        .and_then(|status| status.active_cluster.clone())
        .with_context(|| format!("{} is active nowhere", placement.name_any()))
}

pub fn other(cluster: &str) -> &'static str {
    if cluster == EAST { WEST } else { EAST }
}

/// The operations that are more than words: by name, without those that are proposed or withdrawn.
pub async fn moves(application: &Federation) -> Result<Vec<String>> {
    let operations = application.operations().await?;
    let more_than_words = operations.iter().filter(|operation| {
        !matches!(phase(operation), None | Some(OperationPhase::Proposed | OperationPhase::Withdrawn))
    });
    Ok(more_than_words.map(ResourceExt::name_any).collect())
}

/// What is proposed now.
pub async fn proposed(application: &Federation) -> Result<Vec<DROperation>> {
    let operations = application.operations().await?;
    Ok(operations.into_iter().filter(|one| phase(one) == Some(OperationPhase::Proposed)).collect())
}

pub fn phase(operation: &DROperation) -> Option<OperationPhase> {
    operation.status.as_ref().and_then(|status| status.phase)
}

/// Between two writes since that moment, or since the last one.
pub fn longest_pause(application: &Federation, since: u64) -> Result<Duration> {
    let history = application.history()?;
    let mut times: Vec<u64> = history.records().iter().map(|record| record.boot_nanoseconds).collect();
    times.retain(|time| *time >= since);
    times.insert(0, since);
    times.push(boot_nanoseconds());
    let gaps = times.windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
    Ok(Duration::from_nanos(gaps.max().unwrap_or_default()))
}

/// One writer at a time, and nothing lost that had to survive.
pub async fn judge(application: &Federation) -> Result<()> {
    let cluster = active(&application.placement().await?)?;
    let verdict = application.verdict(&cluster).await?;
    ensure!(verdict.holds(), "{}: {verdict}", application.options.application.name);
    Ok(())
}

/// Waits until a condition is not True for this reason; returns what it says.
pub async fn says(application: &Federation, kind: ConditionType, reason: Reason) -> Result<String> {
    let is_so = |placement: &DRPlacement| {
        condition_of(placement, kind)
            .is_some_and(|condition| condition.status != "True" && condition.reason == reason.as_str())
    };
    let name = &application.options.application.name;
    let placement = application.await_placement(&format!("{name}: {kind} is {reason}"), SLOW, is_so).await?;
    let condition = condition_of(&placement, kind).with_context(|| format!("{kind} went away"))?;
    Ok(condition.message.clone())
}

/// The same of both applications.
pub async fn both_say(stage: &Stage, kind: ConditionType, reason: Reason) -> Result<String> {
    let said = tokio::try_join!(says(&stage.shop, kind, reason), says(&stage.bank, kind, reason))?;
    Ok(format!("{kind} {reason}: {}", said.0))
}
