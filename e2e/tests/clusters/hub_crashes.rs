//! The hub is killed wherever it could leave something half done in a failover, and each time its successor goes on.
//!
//! The records of one decision become durable together, so a death falls between decisions, or at one of the boundaries
//! of carrying one out: decided, recorded, sent. A record is written once, and its decision is sent once with it, so a
//! hub that died after recording never comes to the sending of that decision. That makes two failovers: one with a death
//! before and after every record, one with a death after every sending.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use crds::operation::{DROperation, StepState};
use e2e::federation::reckoning::Announcement;
use e2e::federation::{EAST, Federation, Options, Progress, SLOW, WEST};
use hub_core::journal::{Entry, OperationKind};
use hub_core::plan;
use proto::WallTime;
use understudy_hub::crash::{marker_name, name};
use understudy_hub::journal_store::JournalStore;

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_survives_a_hub_that_dies_before_and_after_writing_each_record() -> Result<()> {
    let (federation, deaths) = Deaths::at(&["Decided", "Recorded"]).await?;
    deaths.fail_over(&federation, federation.await_failover(WEST)).await?;
    deaths.have_all_happened(&federation)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_survives_a_hub_that_dies_after_every_sending_and_in_the_wait() -> Result<()> {
    let (federation, deaths) = Deaths::at(&["Sent"]).await?;
    let killed_in_the_wait = async {
        federation.await_operation("the failover waits for the fence", SLOW, waits_for_the_fence).await?;
        // The middle of a wait is a matter of time, and nothing else tells it.
        tokio::time::sleep(HALF_OF_THE_WAIT).await;
        deaths.kill_and_start_again(&federation)?;
        federation.await_failover(WEST).await
    };
    deaths.fail_over(&federation, killed_in_the_wait).await?;
    deaths.have_all_happened(&federation)
}

/// W of the federation's timing is a little more than seven seconds.
const HALF_OF_THE_WAIT: Duration = Duration::from_millis(3500);
const ASK_AGAIN: Duration = Duration::from_millis(20);

fn waits_for_the_fence(operation: &DROperation) -> bool {
    let steps = operation.status.iter().flat_map(|status| &status.plan);
    steps.into_iter().any(|step| step.name == "AwaitFence" && step.state == StepState::Running)
}

/// Every record that a failover writes, as the journal calls them.
fn records_of_a_failover() -> BTreeSet<String> {
    let steps = plan::steps(OperationKind::FailOver).iter();
    let marks = steps.flat_map(|step| ["Issued", "Acknowledged"].map(|mark| format!("Step/{step}/{mark}")));
    let others = ["Intent", "Fence", "Ownership", "Commit", "Block"].map(str::to_owned);
    marks.chain(others).collect()
}

/// The points at which the hub dies, once each, and the folder where it leaves word of it.
struct Deaths {
    points: Vec<String>,
    markers: PathBuf,
    say: Progress,
}

impl Deaths {
    /// A protected application whose hub is going to die at these boundaries of every record of a failover.
    async fn at(boundaries: &[&str]) -> Result<(Federation, Deaths)> {
        let say = progress();
        let federation = Federation::protected(Options::short(2), say.clone()).await?;
        let records = records_of_a_failover();
        let points = boundaries
            .iter()
            .flat_map(|boundary| records.iter().map(move |record| format!("{boundary}:{record}")))
            .collect();
        let deaths = Deaths { points, markers: federation.folder().join("deaths"), say };
        deaths.kill_and_start_again(&federation)?;
        federation.await_heartbeat(EAST).await?;
        federation.await_protected().await?;
        Ok((federation, deaths))
    }

    fn kill_and_start_again(&self, federation: &Federation) -> Result<()> {
        let (at, marker) = (self.points.join(","), self.markers.display().to_string());
        let environment = [("UNDERSTUDY_CRASH_AT", at.as_str()), ("UNDERSTUDY_CRASH_MARKER", &marker)];
        federation.hub.service.start_with(&environment)
    }

    /// Loses east, and starts the hub again whenever it dies, until the failover is done; then everything must be right.
    async fn fail_over(
        &self,
        federation: &Federation,
        done: impl Future<Output = Result<DROperation>>,
    ) -> Result<()> {
        let announced = federation.announcement().await?;
        (self.say)("losing east");
        let loss = federation.lose(EAST)?;
        let operation = tokio::select! {
            done = done => done?,
            broken = self.revive(federation) => match broken? {},
        };
        ensure_all_steps_are_done(&operation)?;
        federation.await_writes(WEST, 40, SLOW).await?;

        // Each death starts the wait anew, which no announcement can know.
        let announced = Announcement { recovery_time: SLOW, ..announced };
        let reckoning = federation.reckon(announced, &loss, &operation, WEST).await?;
        eprintln!("{reckoning}");
        ensure!(reckoning.is_right(), "not right:\n{}", reckoning.wrong.join("\n"));
        ensure!(
            reckoning.proof == "LeaseExpired",
            "a dead site acknowledges nothing, but: {}",
            reckoning.proof
        );
        let status = federation.placement().await?.status.context("a status")?;
        ensure!(status.epoch == Some(2), "one failover is one epoch, but: {:?}", status.epoch);
        ensure!(
            federation.operations().await?.len() == 2,
            "nothing but a deployment and a failover happened"
        );
        Ok(())
    }

    /// Starts the hub again whenever it has died of a point. It ends only if the hub ends of something else.
    async fn revive(&self, federation: &Federation) -> Result<Infallible> {
        // The first death may come while the site is still being lost.
        let mut known = BTreeSet::new();
        loop {
            if !federation.hub.service.runs() {
                let reached = self.reached()?;
                let fresh: Vec<_> = reached.difference(&known).cloned().collect();
                if fresh.is_empty() {
                    bail!("the hub ended of itself:\n{}", federation.hub.service.log_tail(30));
                }
                (self.say)(&format!("the hub has died at {}", fresh.join(", ")));
                known = reached;
                self.kill_and_start_again(federation)?;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    fn reached(&self) -> Result<BTreeSet<String>> {
        let reached =
            self.points.iter().filter(|point| self.markers.join(marker_name(point)).exists()).cloned();
        Ok(reached.collect())
    }

    /// The hub has died at every point, and its journal has exactly the records that the points were made from.
    fn have_all_happened(&self, federation: &Federation) -> Result<()> {
        let all: BTreeSet<_> = self.points.iter().cloned().collect();
        let reached = self.reached()?;
        let missed: Vec<_> = all.difference(&reached).collect();
        ensure!(missed.is_empty(), "the hub never came to {missed:?}");

        federation.hub.kill9();
        let journal = JournalStore::open(federation.hub.journal(), "hub", WallTime(0));
        let (_journal, replayed) = journal.context("reading the journal after everything")?;
        let mut written: Vec<_> =
            replayed.lines.iter().filter(|line| belongs_to_the_failover(&line.entry)).collect();
        written.sort_by_key(|line| name(&line.entry));
        let written: Vec<_> = written.into_iter().map(|line| name(&line.entry)).collect();
        let wanted: Vec<_> = records_of_a_failover().into_iter().collect();
        ensure!(written == wanted, "each record once was wanted: {wanted:?}\nwritten: {written:?}");
        Ok(())
    }
}

fn belongs_to_the_failover(entry: &Entry) -> bool {
    match entry {
        Entry::Intent(intent) => intent.kind == OperationKind::FailOver,
        Entry::Step { operation, .. }
        | Entry::Fence { operation, .. }
        | Entry::Commit { operation, .. }
        | Entry::Abort { operation, .. }
        | Entry::Cut { operation, .. }
        | Entry::BackedUp { operation, .. }
        | Entry::Resynced { operation, .. }
        | Entry::Block { operation, .. } => operation.0.contains("failover"),
        Entry::Ownership { epoch, .. } => epoch.0 > 1,
        Entry::Released { .. } | Entry::NeedsHuman { .. } => true,
        // Where a busy machine keeps the survivor's word back for seconds, a human is asked, and needed no more when it comes.
        Entry::Proposal(_)
        | Entry::Withdrawn { .. }
        | Entry::Genesis { .. }
        | Entry::Term { .. }
        | Entry::Policy { .. }
        | Entry::Echo { .. }
        | Entry::WishFulfilled { .. } => false,
    }
}

fn ensure_all_steps_are_done(operation: &DROperation) -> Result<()> {
    let status = operation.status.as_ref().context("the DROperation has no status")?;
    let steps: Vec<_> = status.plan.iter().map(|step| (step.name.clone(), step.state)).collect();
    let wanted: Vec<_> = plan::steps(OperationKind::FailOver)
        .iter()
        .map(|step| (step.as_str().to_owned(), StepState::Done))
        .collect();
    ensure!(steps == wanted, "all steps of the plan are done, but: {steps:?}");
    Ok(())
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| eprintln!("{:6.1} s  {doing}", started.elapsed().as_secs_f64()))
}
