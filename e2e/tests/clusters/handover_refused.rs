//! Planned moves that do not come about: the application runs where it was, and the reason says what to do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crds::conditions::ConditionType;
use crds::operation::{DROperation, OperationKind, OperationPhase, StepState};
use crds::placement::MigrationSpec;
use e2e::array;
use e2e::federation::moves::story;
use e2e::federation::readers::condition_of;
use e2e::federation::{EAST, Federation, Options, Progress, SLOW, WEST};
use e2e::nodes;
use e2e::patience::within;
use kube::ResourceExt;
use kube::runtime::conditions::is_deleted;
use kube::runtime::wait::await_condition;
use tokio::time::timeout;

/// Longer than a hand-over takes, also the one that is approved in the end: csi-addons may look again at a demotion only after
/// 15 s.
const DEADLINE: &str = "35s";
/// So slow that no demotion crosses before it is given up.
const NEVER: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_does_not_end_brings_the_application_back_and_the_move_is_only_proposed_again()
-> Result<()> {
    let say = progress();
    let migration = MigrationSpec { deadline: Some(DEADLINE.to_owned()) };
    let federation =
        Federation::protected(Options { migration, ..Options::unhurried(1) }, say.clone()).await?;
    let stuck = nodes::Settings { stuck_terminating: vec!["shop-".to_owned()], ..nodes::Settings::default() };
    federation.east.set_nodes(&stuck).await?;
    say("preferring west, and east's pod does not end");
    federation.prefer(WEST).await?;
    let aborted = aborted(&federation, &say).await?;
    let reason = aborted.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
    ensure!(reason.contains("spec.migration.deadline"), "{reason}");
    ensure!(
        reason.contains("it stood at ScaleDown (east: 1 pods to be gone"),
        "what is to be mended? {reason}"
    );
    federation.east.set_nodes(&nodes::Settings::default()).await?;
    goes_on_at_east(&federation, 3, &say).await?;

    let proposal = federation.await_phase(OperationKind::Migrate, 4, OperationPhase::Proposed, SLOW).await?;
    say(&story(&proposal));
    let placement = federation
        .await_placement("it says that the move was rolled back", SLOW, |placement| {
            condition_of(placement, ConditionType::Stalled).is_some_and(|one| one.reason == "RolledBack")
        })
        .await?;
    let stalled = condition_of(&placement, ConditionType::Stalled).context("Stalled")?;
    let asks = format!("approve {}", proposal.name_any());
    ensure!(stalled.message.contains(&asks) && stalled.message.contains("mend"), "{}", stalled.message);

    say("approving it, now that pods end");
    federation.approve_until_done(OperationKind::Migrate, 4).await?;
    federation.await_serving(WEST, 4, SLOW).await?;
    federation.await_writes(WEST, 50, SLOW).await?;
    proven_at(&federation, WEST).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_that_is_taken_back_in_the_middle_leaves_the_application_where_it_was() -> Result<()> {
    let say = progress();
    let federation = Federation::protected(slow_to_cross(), say.clone()).await?;
    federation.west.set_array(&never())?;
    say("preferring west, and the demotion does not cross");
    federation.prefer(WEST).await?;
    demoting(&federation, &say).await?;
    say("preferring east after all");
    federation.prefer(EAST).await?;
    let aborted = aborted(&federation, &say).await?;
    let reason = aborted.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
    ensure!(reason.contains("prefers east"), "{reason}");
    goes_on_at_east(&federation, 3, &say).await?;
    federation.west.set_array(&array::Settings::default())?;
    federation.await_at_rest(EAST, 3, SLOW).await?;
    proven_at(&federation, EAST).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placement_that_is_deleted_in_the_middle_leaves_the_application_running() -> Result<()> {
    let say = progress();
    let federation = Federation::protected(slow_to_cross(), say.clone()).await?;
    let uid = federation.placement().await?.uid().context("a uid")?;
    federation.west.set_array(&never())?;
    say("preferring west, and the demotion does not cross");
    federation.prefer(WEST).await?;
    demoting(&federation, &say).await?;
    say("deleting the DRPlacement");
    federation.unprotect().await?;
    let name = &federation.options.application.name;
    match timeout(SLOW, await_condition(federation.placements(), name, is_deleted(&uid))).await {
        Ok(gone) => gone.context("watching the DRPlacement")?,
        Err(_) => return Err(federation.diagnosis("the DRPlacement was not let go").await),
    };
    say("it is gone");
    writes_on_at_east(&federation).await?;
    let let_go =
        within(SLOW, "east is let go", async || Ok(federation.role(EAST).await?.is_none().then_some(())));
    federation.or_diagnosis(let_go).await?;
    proven_at(&federation, EAST).await
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| eprintln!("{:6.1} s  {doing}", started.elapsed().as_secs_f64()))
}

/// What takes long here is no loss of anything: the bound must not stand in the way.
fn slow_to_cross() -> Options {
    Options::unhurried(1)
}

fn never() -> array::Settings {
    array::Settings { sync_delay: NEVER, ..array::Settings::default() }
}

/// Waits until everything of the application has stopped at east and its volumes are told to be secondary.
async fn demoting(federation: &Federation, say: &Progress) -> Result<()> {
    let (kind, running) = (OperationKind::Migrate, StepState::Running);
    let operation = federation.await_step(kind, 2, "Demote", running, SLOW).await?;
    say(&story(&operation));
    let demoted = within(SLOW, "east's array has demoted", async || {
        let calls = federation.east.calls()?;
        Ok(calls.iter().any(|call| call.method == "DemoteVolume" && call.succeeded()).then_some(()))
    });
    federation.or_diagnosis(demoted).await
}

async fn aborted(federation: &Federation, say: &Progress) -> Result<DROperation> {
    let operation = federation.await_phase(OperationKind::Migrate, 2, OperationPhase::Aborted, SLOW).await?;
    say(&story(&operation));
    Ok(operation)
}

/// The holder has it again at a fresh epoch, started by the hub.
async fn goes_on_at_east(federation: &Federation, epoch: i64, say: &Progress) -> Result<()> {
    let readopted =
        federation.await_phase(OperationKind::Readopt, epoch, OperationPhase::Succeeded, SLOW).await?;
    say(&story(&readopted));
    federation.await_serving(EAST, epoch, SLOW).await?;
    writes_on_at_east(federation).await
}

async fn writes_on_at_east(federation: &Federation) -> Result<()> {
    let writes = federation.history()?.records().len();
    federation.await_acknowledged(writes + 50, SLOW).await
}

/// One writer at a time, nothing lost, nothing forced.
async fn proven_at(federation: &Federation, cluster: &str) -> Result<()> {
    federation.ensure_never_forced()?;
    federation.ensure_nothing_lost(cluster).await?;
    let verdict = federation.verdict(cluster).await?;
    ensure!(verdict.holds() && verdict.losses.is_empty(), "{verdict}");
    Ok(())
}
