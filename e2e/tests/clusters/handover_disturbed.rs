//! Planned moves while others pull at the same objects: an autoscaler scales the old side up, and the new side has no room.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crds::conditions::ConditionType;
use crds::operation::{OperationKind, OperationPhase, StepState};
use e2e::array;
use e2e::federation::moves::{PLANNED_MOVE, ensure_went_in_order, story};
use e2e::federation::readers::condition_of;
use e2e::federation::{EAST, Federation, Options, Progress, SLOW, WEST};
use e2e::patience::within;
use e2e::site::Site;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

const NAMESPACE: &str = "shop";
/// Long enough for an autoscaler to scale up many times while the last writes cross.
const CROSSING: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn an_autoscaler_that_scales_the_old_side_up_starts_no_pod_and_delays_nothing() -> Result<()> {
    let say = progress();
    let federation = Federation::protected(Options::unhurried(1), say.clone()).await?;
    federation.west.set_array(&array::Settings { sync_delay: CROSSING, ..array::Settings::default() })?;
    say("preferring west");
    federation.prefer(WEST).await?;
    federation.await_step(OperationKind::Migrate, 2, "Demote", StepState::Running, SLOW).await?;
    say("scaling east up");
    let scaling = scale_up_again_and_again(&federation.east);
    let kind = OperationKind::Migrate;
    let moved = tokio::select! {
        moved = federation.await_phase(kind, 2, OperationPhase::Succeeded, SLOW) => moved?,
        ended = scaling => return ended,
    };
    say(&story(&moved));
    ensure_went_in_order(&moved, &PLANNED_MOVE)?;
    federation.await_serving(WEST, 2, SLOW).await?;
    ensure!(replicas(&federation.west).await? == 1, "the former replicas are one");
    let written = federation.history()?.records().len();
    federation.await_acknowledged(written + 50, SLOW).await?;
    let log = federation.east.nodes.whole_log()?;
    ensure!(log.matches("pod starts").count() == 1, "a pod was started at east again:\n{log}");
    proven_at_west(&federation).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_without_room_is_waited_for_and_said_so_and_nobody_goes_back() -> Result<()> {
    let say = progress();
    let federation = Federation::protected(patient(), say.clone()).await?;
    say("west has no room for pods; preferring it");
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "no-room", "namespace": NAMESPACE},
        "spec": {"hard": {"pods": "0"}},
    });
    federation.west.control_plane.apply_yaml(&quota.to_string()).await?;
    federation.prefer(WEST).await?;
    let kind = OperationKind::Migrate;
    let waiting = federation.await_step(kind, 2, "AwaitReady", StepState::Running, SLOW).await?;
    say(&story(&waiting));
    federation
        .await_placement("west's workloads are said not to be ready", SLOW, |placement| {
            condition_of(placement, ConditionType::Available).is_some_and(|condition| {
                let west = "west: the workloads of shop/shop are not ready";
                condition.status == "False" && condition.message.starts_with(west)
            })
        })
        .await?;
    federation
        .await_placement("the quota is named, since there are no pods to look at", SLOW, |placement| {
            let conditions = placement.status.iter().flat_map(|status| &status.conditions);
            conditions.into_iter().any(|condition| condition.message.contains("exceeded quota: no-room"))
        })
        .await?;
    a_change_of_mind_waits(&federation, &say).await?;
    let quotas: Api<ResourceQuota> = Api::namespaced(federation.west.control_plane.client(), NAMESPACE);
    quotas.delete("no-room", &DeleteParams::default()).await?;
    say("west has room");
    let moved = federation.await_phase(kind, 2, OperationPhase::Succeeded, SLOW).await?;
    say(&story(&moved));
    federation.await_serving(WEST, 2, SLOW).await?;
    federation.await_writes(WEST, 50, SLOW).await?;
    proven_at_west(&federation).await
}

/// Where the wish changes, a move that stands still for five calls is given up; here it stands still until the quota is gone.
fn patient() -> Options {
    let mut options = Options::unhurried(1);
    if let Some(timing) = &mut options.failover.timing {
        [timing.rpc, timing.ttl, timing.hold] = ["12s", "60s", "40s"].map(|span| Some(span.to_owned()));
    }
    options
}

/// What has been promoted is not taken back in the middle, although the hub has seen the wish.
async fn a_change_of_mind_waits(federation: &Federation, say: &Progress) -> Result<()> {
    say("preferring east: too late");
    federation.prefer(EAST).await?;
    let edited = federation.placement().await?.metadata.generation;
    federation
        .await_placement("the hub has seen that east is preferred", SLOW, |placement| {
            placement.status.as_ref().and_then(|status| status.observed_generation) >= edited
        })
        .await?;
    let moving = federation.operation(OperationKind::Migrate).await?.context("a migration")?;
    let phase = moving.status.as_ref().and_then(|status| status.phase);
    ensure!(phase == Some(OperationPhase::Running) && moving.spec.epoch == 2, "{}", story(&moving));
    federation.prefer(WEST).await
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| eprintln!("{:6.1} s  {doing}", started.elapsed().as_secs_f64()))
}

/// As an autoscaler with a minimum does it. Ends only by an error.
async fn scale_up_again_and_again(site: &Site) -> Result<()> {
    let deployments = deployments(site);
    let wanted = Patch::Merge(json!({"spec": {"replicas": 2}}));
    within(SLOW, "nobody takes the autoscaler away", async || {
        let scaled = deployments.patch(NAMESPACE, &PatchParams::default(), &wanted).await;
        scaled.context("scaling up").map(|_| None)
    })
    .await
}

fn deployments(site: &Site) -> Api<Deployment> {
    Api::namespaced(site.control_plane.client(), NAMESPACE)
}

async fn replicas(site: &Site) -> Result<i32> {
    let spec = deployments(site).get(NAMESPACE).await?.spec.context("a spec")?;
    Ok(spec.replicas.unwrap_or(1))
}

/// One writer at a time, nothing lost, nothing forced.
async fn proven_at_west(federation: &Federation) -> Result<()> {
    federation.ensure_never_forced()?;
    federation.ensure_nothing_lost(WEST).await?;
    let verdict = federation.verdict(WEST).await?;
    ensure!(verdict.holds() && verdict.losses.is_empty(), "{verdict}");
    ensure!(verdict.clusters() == [EAST, WEST], "{verdict}");
    Ok(())
}
