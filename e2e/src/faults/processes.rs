//! Processes that stand still for a while, and processes that are killed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crds::conditions::{ConditionType, Reason};
use tokio::time::sleep;

use super::Scenario;
use super::stage::{LONG_AGAINST_W, Stage, W, both_say, longest_pause, moves};
use crate::federation::{Federation, boot_nanoseconds};

const A_MOMENT: Duration = Duration::from_secs(1);

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("process: hub frozen for 1 s", |stage| Box::pin(frozen(stage, Who::Hub, A_MOMENT))),
    Scenario::new("process: hub frozen for W/2", |stage| Box::pin(frozen(stage, Who::Hub, W / 2))),
    Scenario::new("process: hub frozen for 3 W", |stage| Box::pin(frozen(stage, Who::Hub, W * 3))),
    Scenario::new("process: holder's agent frozen for 1 s", |stage| {
        Box::pin(frozen(stage, Who::HolderAgent, A_MOMENT))
    }),
    Scenario::new("process: holder's agent frozen for W/2", |stage| {
        Box::pin(frozen(stage, Who::HolderAgent, W / 2))
    }),
    Scenario::new("process: holder's agent frozen for 3 W", |stage| Box::pin(agent_frozen_for_long(stage))),
    Scenario::new("process: target's agent frozen for 3 W", |stage| {
        Box::pin(frozen(stage, Who::TargetAgent, W * 3))
    }),
    Scenario::new("process: holder's API server frozen for 1 s", |stage| {
        Box::pin(frozen(stage, Who::HolderApi, A_MOMENT))
    }),
    Scenario::new("process: holder's API server frozen for 3 W", |stage| {
        Box::pin(frozen(stage, Who::HolderApi, W * 3))
    }),
    Scenario::new("process: target's API server frozen for 3 W", |stage| {
        Box::pin(frozen(stage, Who::TargetApi, W * 3))
    }),
    Scenario::new("process: hub's API server frozen for 3 W", |stage| {
        Box::pin(frozen(stage, Who::HubApi, W * 3))
    }),
    Scenario::new("process: hub killed, back at once", |stage| {
        Box::pin(killed(stage, Who::Hub, Duration::ZERO))
    }),
    Scenario::new("process: hub killed, back after 3 W", |stage| Box::pin(killed(stage, Who::Hub, W * 3))),
    Scenario::new("process: holder's agent killed, back at once", |stage| {
        Box::pin(killed(stage, Who::HolderAgent, Duration::ZERO))
    }),
    Scenario::new("process: holder's agent killed, back after 3 W", |stage| {
        Box::pin(killed(stage, Who::HolderAgent, W * 3))
    }),
    Scenario::new("process: holder's control plane killed, back after W", |stage| {
        Box::pin(killed(stage, Who::HolderApi, W))
    }),
    Scenario::new("process: target's control plane killed, back after W", |stage| {
        Box::pin(killed(stage, Who::TargetApi, W))
    }),
    Scenario::new("process: hub's control plane killed, back after W", |stage| {
        Box::pin(killed(stage, Who::HubApi, W))
    }),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Hub,
    HubApi,
    HolderAgent,
    HolderApi,
    TargetAgent,
    TargetApi,
}

impl Who {
    pub fn freeze(self, federation: &Federation) -> Result<()> {
        match self {
            Who::Hub => federation.hub.service.stop(),
            Who::HubApi => federation.hub.control_plane.stop_api(),
            Who::HolderAgent => federation.east.agent.stop(),
            Who::HolderApi => federation.east.control_plane.stop_api(),
            Who::TargetAgent => federation.west.agent.stop(),
            Who::TargetApi => federation.west.control_plane.stop_api(),
        }
    }

    pub fn thaw(self, federation: &Federation) -> Result<()> {
        match self {
            Who::Hub => federation.hub.service.cont(),
            Who::HubApi => federation.hub.control_plane.cont_api(),
            Who::HolderAgent => federation.east.agent.cont(),
            Who::HolderApi => federation.east.control_plane.cont_api(),
            Who::TargetAgent => federation.west.agent.cont(),
            Who::TargetApi => federation.west.control_plane.cont_api(),
        }
    }

    pub fn kill(self, federation: &Federation) {
        match self {
            Who::Hub => federation.hub.kill9(),
            Who::HubApi => federation.hub.control_plane.kill9(),
            Who::HolderAgent => federation.east.agent.kill9(),
            Who::HolderApi => federation.east.control_plane.kill9(),
            Who::TargetAgent => federation.west.agent.kill9(),
            Who::TargetApi => federation.west.control_plane.kill9(),
        }
    }

    pub async fn start(self, federation: &Federation) -> Result<()> {
        match self {
            Who::Hub => federation.hub.start().await,
            Who::HubApi => federation.hub.control_plane.restart().await,
            Who::HolderAgent => federation.east.agent.start(),
            Who::HolderApi => federation.east.control_plane.restart().await,
            Who::TargetAgent => federation.west.agent.start(),
            Who::TargetApi => federation.west.control_plane.restart().await,
        }
    }
}

async fn frozen(stage: &Stage, who: Who, span: Duration) -> Result<String> {
    let before = Before::of(stage).await?;
    who.freeze(&stage.shop)?;
    sleep(span).await;
    who.thaw(&stage.shop)?;
    before.still_holds(stage).await
}

/// Behind a frozen agent the pods live on; the target sees the holder's API server, and that is enough.
async fn agent_frozen_for_long(stage: &Stage) -> Result<String> {
    let before = Before::of(stage).await?;
    Who::HolderAgent.freeze(&stage.shop)?;
    let veto = both_say(stage, ConditionType::FailoverReady, Reason::SignOfLife).await?;
    let while_frozen = stage.both_stay(W * 3).await?;
    Who::HolderAgent.thaw(&stage.shop)?;
    let held = before.still_holds(stage).await?;
    Ok(format!("{veto}; frozen: {while_frozen}; afterwards: {held}"))
}

async fn killed(stage: &Stage, who: Who, away: Duration) -> Result<String> {
    let before = Before::of(stage).await?;
    who.kill(&stage.shop);
    sleep(away).await;
    who.start(&stage.shop).await.with_context(|| format!("starting {who:?} again"))?;
    before.still_holds(stage).await
}

/// What has been moved before, and since when the pauses count.
struct Before {
    since: u64,
    moved: Vec<Vec<String>>,
}

impl Before {
    async fn of(stage: &Stage) -> Result<Before> {
        let mut moved = Vec::new();
        for application in stage.both() {
            moved.push(moves(application).await?);
        }
        Ok(Before { since: boot_nanoseconds(), moved })
    }

    /// Nothing was moved, also long after the end of the fault, and both write.
    async fn still_holds(self, stage: &Stage) -> Result<String> {
        // What a kubelet would start again by now.
        stage.mend().await?;
        stage.await_well().await?;
        stage.both_stay(LONG_AGAINST_W / 2).await?;
        let mut pauses = Vec::new();
        for (application, before) in stage.both().into_iter().zip(self.moved) {
            let name = &application.options.application.name;
            let now = moves(application).await?;
            ensure!(now == before, "{name}: something was moved: {now:?}, before {before:?}");
            pauses.push(format!("{name} {:.1} s", longest_pause(application, self.since)?.as_secs_f64()));
        }
        Ok(format!("nothing is moved; longest pause: {}", pauses.join(", ")))
    }
}
