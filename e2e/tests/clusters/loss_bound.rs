//! A copy that is too old, or of which nothing is known: the site may be lost, and nothing moves before the user allows it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crds::conditions::ConditionType;
use crds::operation::{OperationKind, OperationPhase};
use crds::placement::DRPlacement;
use e2e::array::{self, Handles};
use e2e::federation::readers::condition_of;
use e2e::federation::{EAST, Federation, Loss, Options, Progress, SLOW, WEST};
use e2e::patience::within;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

/// Longer than a healthy copy is ever old here.
const BOUND: Duration = Duration::from_secs(15);
/// Twice the wait that the short timings make before a promotion: by then a failover would have happened.
const LONG_ENOUGH: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_too_old_moves_nothing_until_the_bound_is_raised() -> Result<()> {
    let say = progress();
    let mut options = Options::short(2);
    options.failover.max_data_loss = Some(format!("{}s", BOUND.as_secs()));
    let federation = Federation::protected(options, say.clone()).await?;
    say("stalling the replication");
    federation.west.set_array(&stalled())?;
    federation
        .await_placement("its copy is told to be stale", SLOW, |placement| {
            condition_of(placement, ConditionType::Protected)
                .is_some_and(|condition| condition.status == "False" && condition.reason == "StaleCopy")
        })
        .await?;

    say("losing east");
    let loss = federation.lose(EAST)?;
    let refusal = await_refusal(&federation, "maxDataLoss is 15s").await?;
    say(&refusal);
    nothing_moves(&federation, &loss).await?;
    is_stale(&federation, "maxDataLoss is 15s").await?;

    say("raising the bound");
    let raised = json!({"spec": {"failover": {"maxDataLoss": "10m"}}});
    let name = &federation.options.application.name;
    federation.placements().patch(name, &PatchParams::default(), &Patch::Merge(raised)).await?;
    let operation = federation.await_failover(WEST).await?;
    federation.await_writes(WEST, 40, SLOW).await?;
    let receipt = operation.status.context("a status")?.loss_receipt;
    ensure!(receipt.len() == 2, "{receipt:?}");
    let spans = receipt.iter().map(|lost| crds::span::parse(&lost.lost));
    let worst = spans.collect::<Result<Vec<_>, _>>().context("reading the receipt")?.into_iter().max();
    // The worst volume was the reason of the refusal, and the receipt leaves out what is less than a second.
    ensure!(worst >= Some(BOUND), "more than {BOUND:?} was lost, and the receipt says {receipt:?}");
    let verdict = federation.verdict(WEST).await?;
    ensure!(verdict.holds(), "{verdict}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_never_finished_moves_nothing() -> Result<()> {
    let say = progress();
    let federation =
        Federation::start(Options { west_array: stalled(), ..Options::short(1) }, say.clone()).await?;
    federation.deploy().await?;
    federation.protect().await?;
    federation.await_writes(EAST, 50, SLOW).await?;
    let waiting = federation
        .await_placement("armed, adopted, and waiting for the first sync", SLOW, |placement| {
            let reason = |kind| condition_of(placement, kind).map(|condition| condition.reason.as_str());
            placement
                .status
                .as_ref()
                .is_some_and(|status| status.epoch == Some(1) && status.operation.is_none())
                && reason(ConditionType::Protected) == Some("FirstSyncPending")
                && reason(ConditionType::AutomaticFailoverArmed) == Some("Armed")
        })
        .await?;
    let status = waiting.status.as_ref().context("a status")?;
    ensure!(status.expected_loss.as_deref() == Some("unknown"), "{:?}", status.expected_loss);
    ensure!(condition_of(&waiting, ConditionType::Ready).is_some_and(|ready| ready.status == "False"));

    say("losing east");
    let loss = federation.lose(EAST)?;
    let refusal = await_refusal(&federation, "the loss would be unlimited").await?;
    say(&refusal);
    nothing_moves(&federation, &loss).await?;
    is_stale(&federation, "").await
}

/// Its copy keeps it from being ready, and the message says this of it. Whoever reads slowly is called frozen for a moment.
async fn is_stale(federation: &Federation, message: &str) -> Result<()> {
    let stale = |placement: &DRPlacement| {
        condition_of(placement, ConditionType::FailoverReady).is_some_and(|ready| {
            (ready.status.as_str(), ready.reason.as_str()) == ("False", "StaleCopy")
                && ready.message.contains(message)
        })
    };
    federation.await_placement("FailoverReady is False for StaleCopy", SLOW, stale).await.map(drop)
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| eprintln!("{:6.1} s  {doing}", started.elapsed().as_secs_f64()))
}

/// No copy takes a snapshot from the other site any more.
fn stalled() -> array::Settings {
    array::Settings { stall_replication: Handles::all(), ..array::Settings::default() }
}

/// Waits for the event FailoverRefused whose note says this.
async fn await_refusal(federation: &Federation, says: &str) -> Result<String> {
    let namespace = &federation.options.application.namespace;
    let events: Api<Event> = Api::namespaced(federation.hub.control_plane.client(), namespace);
    let refused = ListParams::default().fields("reason=FailoverRefused");
    let what = format!("an event FailoverRefused that says {says:?}");
    let found = within(SLOW, &what, async || {
        let listed = events.list(&refused).await?;
        Ok(listed
            .items
            .into_iter()
            .find(|event| event.note.as_deref().is_some_and(|note| note.contains(says))))
    });
    let event = match found.await {
        Ok(event) => event,
        Err(error) => return Err(federation.diagnosis(&format!("{error:#}")).await),
    };
    let about: ObjectReference = event.regarding.unwrap_or_default();
    ensure!(about.kind.as_deref() == Some("DRPlacement"), "the event is about {about:?}");
    event.note.context("a note")
}

/// Nothing can be awaited here: the time must pass in which a failover would have happened.
async fn nothing_moves(federation: &Federation, loss: &Loss) -> Result<()> {
    tokio::time::sleep(LONG_ENOUGH.saturating_sub(loss.at.elapsed())).await;
    ensure!(loss.promotions.seen().is_empty(), "promoted at west: {:?}", loss.promotions.seen());
    // A human may decide otherwise, so it is proposed, and nothing more.
    let offered = federation
        .await_operation("a failover is offered", SLOW, |operation| {
            let phase = operation.status.as_ref().and_then(|status| status.phase);
            operation.spec.kind == OperationKind::FailOver && phase.is_some()
        })
        .await?;
    let phase = offered.status.as_ref().and_then(|status| status.phase);
    ensure!(phase == Some(OperationPhase::Proposed), "a failover was begun: {offered:?}");
    let status = federation.placement().await?.status.context("a status")?;
    ensure!(status.active_cluster.as_deref() == Some(EAST), "active at {:?}", status.active_cluster);
    ensure!(status.epoch == Some(1), "epoch {:?}", status.epoch);
    Ok(())
}
