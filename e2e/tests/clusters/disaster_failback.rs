//! A lost site comes back with an outdated copy and the belief that it is the holder: it is stopped before it can write, its copy
//! is made anew only when somebody says so, and the application goes back to it only when somebody says so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crds::operation::{DROperation, OperationKind, OperationPhase};
use crds::placement::{DRPlacement, FailbackMode, FailbackSpec, ResyncMode};
use crds::site_state::SiteRole;
use e2e::array::{self, Call};
use e2e::federation::moves::{PLANNED_MOVE, ensure_went_in_order, story};
use e2e::federation::{EAST, Federation, Loss, Options, Progress, SLOW, WEST};
use jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::sleep;

/// The plan of a new copy: steps 1 and 2 of storage.md, "Failback after a disaster".
const RESYNC: [&str; 4] = ["Fence", "Resync", "AwaitSync", "Rejoin"];
/// What was seen of a real array (design, storage.md): 51 s for a resync of two halves, divided by twelve.
const HALF_A_RESYNC: Duration = Duration::from_millis(51_000 / 2 / 12);
/// Longer than a machine that is busy makes anything wait here.
const STABLE: Duration = Duration::from_secs(6);
/// Long enough for what happens without approval to be seen: an agent and a hub act within a second here.
const UNAPPROVED: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_site_returns_and_gets_its_application_back_when_somebody_says_so() -> Result<()> {
    let say = progress();
    let east_array = array::Settings { resync_delay: HALF_A_RESYNC, ..array::Settings::default() };
    let federation = Federation::protected(Options { east_array, ..Options::short(2) }, say.clone()).await?;
    let announced = federation.announcement().await?;
    say("losing east");
    let loss = federation.lose(EAST)?;
    let failover = federation.await_failover(WEST).await?;
    federation.await_writes(WEST, 100, SLOW).await?;
    let reckoning = federation.reckon(announced, &loss, &failover, WEST).await?;
    ensure!(reckoning.is_right(), "{reckoning}");
    let lost = lost_by_volume(&reckoning.verdict.losses);

    say("east returns");
    federation.bring_back(EAST).await?;
    say("it has fenced itself before anybody could tell it to");
    let resync = proposed(&federation, OperationKind::Resync, 2, &say).await?;
    nothing_is_discarded_unapproved(&federation, &loss).await?;
    let before = last_syncs(&federation.placement().await?);
    say("approving the resync");
    let resync = federation.approve_until_done(resync.spec.kind, resync.spec.epoch).await?;
    say(&story(&resync));
    ensure_went_in_order(&resync, &RESYNC)?;
    synced_after_the_resync(&federation, &resync, &before).await?;
    ensure!(
        federation.role(EAST).await? == Some(SiteRole::Standby),
        "east is {:?}",
        federation.role(EAST).await?
    );
    federation.await_at_rest(WEST, 2, SLOW).await?;

    let failback = proposed(&federation, OperationKind::FailBack, 3, &say).await?;
    sleep(UNAPPROVED).await;
    ensure!(federation.role(WEST).await? == Some(SiteRole::Holder), "west was stopped without approval");
    federation.ensure_silent_since(EAST, loss.silent_from)?;
    say("approving the failback");
    let failback = federation.approve_until_done(failback.spec.kind, failback.spec.epoch).await?;
    say(&story(&failback));
    ensure_went_in_order(&failback, &PLANNED_MOVE)?;
    federation.await_serving(EAST, 3, SLOW).await?;
    let writes = federation.history()?.records().len();
    federation.await_acknowledged(writes + 50, SLOW).await?;
    nothing_else_is_lost(&federation, &lost).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_declared_both_steps_beforehand_is_not_asked() -> Result<()> {
    let say = progress();
    let failback = FailbackSpec {
        mode: FailbackMode::Automatic,
        resync: ResyncMode::Automatic,
        stabilization: Some(format!("{}s", STABLE.as_secs())),
        ..FailbackSpec::default()
    };
    let federation = Federation::protected(Options { failback, ..Options::short(1) }, say.clone()).await?;
    say("losing east");
    let loss = federation.lose(EAST)?;
    federation.await_failover(WEST).await?;
    federation.await_writes(WEST, 50, SLOW).await?;
    let lost = lost_by_volume(&federation.verdict(WEST).await?.losses);
    say("east returns");
    federation.bring_back(EAST).await?;
    let resync = federation.await_phase(OperationKind::Resync, 2, OperationPhase::Succeeded, SLOW).await?;
    say(&story(&resync));
    federation.ensure_silent_since(EAST, loss.silent_from)?;
    let failback =
        federation.await_phase(OperationKind::FailBack, 3, OperationPhase::Succeeded, SLOW).await?;
    say(&story(&failback));
    stable_in_between(&resync, &failback)?;
    federation.await_serving(EAST, 3, SLOW).await?;
    let writes = federation.history()?.records().len();
    federation.await_acknowledged(writes + 50, SLOW).await?;
    nothing_else_is_lost(&federation, &lost).await
}

/// Nobody has approved anything, and the copy was whole for as long as was asked.
fn stable_in_between(resync: &DROperation, failback: &DROperation) -> Result<()> {
    let of = |operation: &DROperation| operation.status.clone().context("a status");
    let (resync, failback) = (of(resync)?, of(failback)?);
    ensure!(resync.approved_by.is_none() && failback.approved_by.is_none(), "somebody was asked");
    let (whole, began) = resync.finished.zip(failback.started).context("both have times")?;
    let waited =
        Duration::try_from(began.0.duration_since(whole.0)).context("a failback before the resync")?;
    // Protected may be told a second before the resync ends: it is kept in whole seconds.
    ensure!(waited + Duration::from_secs(1) >= STABLE, "it went back after {waited:?}");
    Ok(())
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| eprintln!("{:6.1} s  {doing}", started.elapsed().as_secs_f64()))
}

/// Waits for the proposal, which names what speaks for it, and what would be done.
async fn proposed(
    federation: &Federation,
    kind: OperationKind,
    epoch: i64,
    say: &Progress,
) -> Result<DROperation> {
    let proposal = federation.await_phase(kind, epoch, OperationPhase::Proposed, SLOW).await?;
    say(&story(&proposal));
    let status = proposal.status.clone().context("a proposal has a status")?;
    ensure!(!status.evidence.is_empty() && !status.plan.is_empty(), "{status:?}");
    let message = status.message.unwrap_or_default();
    ensure!(message.contains(&format!("approve {}", proposal.name_any())), "what to do? {message}");
    Ok(proposal)
}

/// The copy at east holds writes that nobody else has: without a yes they stay.
async fn nothing_is_discarded_unapproved(federation: &Federation, loss: &Loss) -> Result<()> {
    sleep(UNAPPROVED).await;
    ensure!(resyncs_by_force(federation)?.is_empty(), "{:?}", resyncs_by_force(federation)?);
    ensure!(
        federation.role(EAST).await? == Some(SiteRole::Fenced),
        "east is {:?}",
        federation.role(EAST).await?
    );
    federation.ensure_silent_since(EAST, loss.silent_from)
}

fn resyncs_by_force(federation: &Federation) -> Result<Vec<Call>> {
    let calls = federation.east.calls()?;
    Ok(calls.into_iter().filter(|call| call.method == "ResyncVolume" && call.force).collect())
}

/// Protected again only by a sync that is younger than the copy: it is shown in the status, and the operation ended after it.
async fn synced_after_the_resync(
    federation: &Federation,
    resync: &DROperation,
    before: &BTreeMap<String, Option<Timestamp>>,
) -> Result<()> {
    ensure!(!resyncs_by_force(federation)?.is_empty(), "nothing was made anew");
    let approver = resync.status.as_ref().and_then(|status| status.approved_by.clone());
    ensure!(approver == Some(federation.approver()), "approved by {approver:?}");
    // The status of the operation and that of the placement are written side by side.
    let advanced = |placement: &DRPlacement| {
        let now = last_syncs(placement);
        now.len() == 2 && before.iter().all(|(claim, then)| now.get(claim).is_some_and(|now| now > then))
    };
    federation.await_placement("both volumes are shown as synced after the resync", SLOW, advanced).await?;
    Ok(())
}

fn last_syncs(placement: &DRPlacement) -> BTreeMap<String, Option<Timestamp>> {
    let volumes = placement.status.iter().flat_map(|status| &status.volumes);
    volumes.map(|one| (one.claim.clone(), one.last_sync_time.as_ref().map(|time| time.0))).collect()
}

/// How many writes of the lost site each volume lacks.
fn lost_by_volume(losses: &[e2e::history::Loss]) -> BTreeMap<String, usize> {
    losses.iter().map(|loss| (format!("{} of {}", loss.image, loss.cluster), loss.lost)).collect()
}

/// West's writes are all at east, and of east's own the same are missing as after the failover.
async fn nothing_else_is_lost(federation: &Federation, lost: &BTreeMap<String, usize>) -> Result<()> {
    let verdict = federation.verdict(EAST).await?;
    ensure!(verdict.holds(), "{verdict}");
    ensure!(lost_by_volume(&verdict.losses) == *lost, "lost before {lost:?}, now:\n{verdict}");
    ensure!(verdict.clusters() == [EAST, WEST, EAST], "{verdict}");
    let at_east = federation.forced_per_volume(EAST)?;
    ensure!(at_east.is_empty(), "promoted by force at east: {at_east:?}");
    let at_west = federation.forced_per_volume(WEST)?;
    let volumes = federation.options.application.volumes;
    let once = at_west.len() == volumes && at_west.values().all(|count| *count == 1);
    ensure!(once, "promoted by force at west: {at_west:?}");
    Ok(())
}
