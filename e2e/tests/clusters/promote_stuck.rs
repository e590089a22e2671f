//! One of ten volumes cannot be promoted: no pod starts anywhere, the placement says what is stuck and where, and once the
//! array is mended the failover completes by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crds::conditions::ConditionType;
use crds::operation::{DROperation, OperationKind, OperationPhase, StepStatus};
use crds::placement::DRPlacement;
use e2e::array;
use e2e::federation::readers::condition_of;
use e2e::federation::{EAST, Federation, Loss, Options, Progress, SLOW, WEST};
use e2e::patience::within;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use kube::api::ListParams;

const VOLUMES: usize = 10;
const MESSAGE: &str = "the image is damaged";
/// Far more than writing ten objects takes, even on a slow machine that builds. Who waited for the damaged volume before
/// he wrote the next would never come to it.
const GROSSLY_OFF: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn one_volume_of_ten_that_cannot_be_promoted_keeps_every_pod_from_starting() -> Result<()> {
    let say = progress();
    let federation = Federation::protected(Options::short(VOLUMES), say.clone()).await?;
    let application = &federation.options.application;
    let (claim, handle) = (application.claims()[3].clone(), application.volume_handles()[3].clone());
    let damaged =
        array::Settings { fail_promote: [(handle.clone(), MESSAGE.to_owned())].into(), ..Default::default() };
    federation.west.set_array(&damaged)?;

    say("losing east");
    let loss = federation.lose(EAST)?;
    let stalled = await_stalled(&federation, &claim).await?;
    say(&format!("stalled: {}", stalled.message));
    let operation = await_stuck(&federation, &claim).await?;
    say(&told_overhead(&operation, &loss)?);
    await_another_try(&federation, &handle).await?;
    nothing_has_started(&federation).await?;

    say("mending the array");
    let mended = Timestamp::now();
    federation.west.set_array(&array::Settings::default())?;
    let operation = federation.await_failover(WEST).await?;
    federation.await_writes(WEST, 20 * VOLUMES, SLOW).await?;
    ensure!(operation.spec.to.as_deref() == Some(WEST), "{:?}", operation.spec);
    let first = first_write(&federation, WEST)?;
    ensure!(first > mended, "west wrote at {first}, before the array was mended at {mended}");
    let placement = federation.placement().await?;
    ensure!(condition_of(&placement, ConditionType::Stalled).is_none(), "Stalled is still there");
    let verdict = federation.verdict(WEST).await?;
    ensure!(verdict.holds(), "{verdict}");
    Ok(())
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| eprintln!("{:6.1} s  {doing}", started.elapsed().as_secs_f64()))
}

/// A busy machine may hold up other volumes as well, for a while; the damaged one stays.
async fn await_stalled(federation: &Federation, claim: &str) -> Result<Condition> {
    let stalled = |placement: &DRPlacement| condition_of(placement, ConditionType::Stalled).cloned();
    let placement = federation
        .await_placement(&format!("Stalled=True/PromoteStuck names {claim}"), SLOW, |placement| {
            stalled(placement).is_some_and(|it| {
                it.status == "True" && it.reason == "PromoteStuck" && it.message.contains(claim)
            })
        })
        .await?;
    stalled(&placement).context("Stalled went away")
}

async fn await_stuck(federation: &Federation, claim: &str) -> Result<DROperation> {
    let is_stuck = |operation: &DROperation| {
        operation.status.as_ref().is_some_and(|status| {
            status.phase == Some(OperationPhase::Stuck)
                && status.reason.as_deref() == Some("PromoteStuck")
                && status.message.as_deref().is_some_and(|message| message.contains(claim))
        })
    };
    let what = format!("the failover is Stuck, and names {claim}");
    federation.await_operation(&what, SLOW, is_stuck).await
}

/// From the end of the wait until each VolumeReplication was seen by a watch. All ten are written, the damaged one too.
fn told_overhead(operation: &DROperation, loss: &Loss) -> Result<String> {
    let fenced = end_of(operation, "AwaitFence")?;
    let seen: BTreeMap<String, Timestamp> = loss.promotions.seen();
    ensure!(seen.len() == VOLUMES, "{} VolumeReplications were told to be primary: {seen:?}", seen.len());
    let last = seen.values().max().context("none was seen")?;
    let overhead = Duration::try_from(last.duration_since(fenced)).context("written before the fence")?;
    ensure!(overhead < GROSSLY_OFF, "writing {VOLUMES} VolumeReplications took {overhead:?}");
    let first = seen.values().min().context("none was seen")?.duration_since(fenced);
    Ok(format!(
        "overhead: {VOLUMES} VolumeReplications written {overhead:?} after the wait, the first after {first:#}"
    ))
}

fn end_of(operation: &DROperation, step: &str) -> Result<Timestamp> {
    let plan = operation.status.iter().flat_map(|status| &status.plan);
    let found: Option<&StepStatus> = plan.into_iter().find(|one| one.name == step);
    let finished = found.and_then(|one| one.finished.as_ref());
    Ok(finished.with_context(|| format!("the step {step} has no end"))?.0)
}

/// Once more is enough to show that being stuck has changed nothing.
async fn await_another_try(federation: &Federation, handle: &str) -> Result<()> {
    let tries = || {
        let calls = federation.west.calls()?;
        let failed = calls.iter().filter(|call| call.method == "PromoteVolume" && call.handle == handle);
        anyhow::Ok(failed.filter(|call| !call.succeeded()).count())
    };
    let before = tries()?;
    within(SLOW, "the driver is asked once more", async || Ok((tries()? > before).then_some(()))).await
}

async fn nothing_has_started(federation: &Federation) -> Result<()> {
    let application = &federation.options.application;
    let client = federation.west.control_plane.client();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &application.namespace);
    let found = pods.list(&ListParams::default()).await?.items;
    ensure!(found.is_empty(), "{} pods were made at west", found.len());
    let deployments: Api<Deployment> = Api::namespaced(client, &application.namespace);
    let replicas = deployments.get(&application.name).await?.spec.and_then(|spec| spec.replicas);
    ensure!(replicas == Some(0), "west's deployment has {replicas:?} replicas");

    let placement: DRPlacement = federation.placement().await?;
    let status = placement.status.context("a status")?;
    ensure!(status.active_cluster.as_deref() == Some(EAST), "owned by {:?}", status.active_cluster);
    ensure!(status.epoch == Some(1), "epoch {:?}", status.epoch);
    let operations = federation.operations().await?;
    let failovers: Vec<_> =
        operations.iter().filter(|one| one.spec.kind == OperationKind::FailOver).collect();
    ensure!(failovers.len() == 1, "{} failovers were begun", failovers.len());
    ensure!(failovers[0].spec.to.as_deref() == Some(WEST), "{:?}", failovers[0].spec);
    Ok(())
}

fn first_write(federation: &Federation, cluster: &str) -> Result<Timestamp> {
    let history = federation.history()?;
    let own = history.records().iter().filter(|record| record.cluster == cluster);
    own.map(|record| record.written).min().with_context(|| format!("{cluster} has not written"))
}
