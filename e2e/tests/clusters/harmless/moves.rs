//! A whole federation: planned moves with each kind of collector, one after the other, all begun with full queues.
//!
//! The hub speaks gRPC, east tells through the hub, and west speaks HTTP.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crds::operation::{DROperation, OperationKind, OperationPhase};
use e2e::federation::links::Carries;
use e2e::federation::moves::{PLANNED_MOVE, ensure_went_in_order, story, time_of};
use e2e::federation::service::Service;
use e2e::federation::{EAST, Federation, Options, Progress, SLOW, WEST};
use e2e::patience::within;
use futures::future::try_join_all;

use super::collector::{Collector, Habit, Protocol, Taken};
use super::ending::Ending;
use super::flood::{HELD, knock, memory};

/// As in a container with one processor: whoever waits on a thread keeps everybody waiting.
const ONE_THREAD: (&str, &str) = ("TOKIO_WORKER_THREADS", "1");
/// Fills every queue, and more.
const MORE: usize = HELD + HELD / 2;
/// Something to tell.
const A_FEW: usize = 8;
/// What each has lost at least, of four such floods, when it tells again.
const LOST: i64 = 4 * (MORE - HELD) as i64;
/// What the memory may have grown by between the first bad collector and any other.
const GROWTH: usize = 6 * 1024 * 1024;
/// What the steps may take longer than twice those with a good collector. One that waited for a collector once would take three
/// seconds longer, and each of the six tells something.
const HURDLE: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread")]
async fn moves_do_not_wait_for_collectors_and_nobody_grows_or_stays_for_them() -> Result<()> {
    let say = progress();
    let mut watched = Watched::begin(say.clone()).await?;
    let usual = watched.endings().await?;
    watched.start().await?;
    watched.federation.deploy().await?;
    watched.federation.protect().await?;
    watched.federation.await_protected().await?;

    let good = watched.moved(2).await?;
    say(&format!("with a good collector:\n{}", story(&good)));
    let mut memories = Vec::new();
    for (habit, epoch) in Habit::BAD.into_iter().zip(3..) {
        watched.behave(habit).await?;
        watched.flood().await?;
        let moved = watched.moved(epoch).await?;
        say(&format!("{habit:?}:\n{}", story(&moved)));
        ensure_as_fast(&moved, &good).with_context(|| format!("{habit:?}"))?;
        memories.push(watched.memories()?);
    }
    say(&format!("memory, in bytes: {memories:?}"));
    ensure_not_grown(&memories)?;
    watched.ensure_nothing_else_happened(memories.len() + 1).await?;
    watched.ensure_it_is_told_again().await?;

    watched.behave(Habit::Deaf).await?;
    watched.flood().await?;
    for (ending, usual) in watched.endings().await?.into_iter().zip(usual) {
        say(&format!("{ending:?}, and usually {usual:?}"));
        ending.ensure_hardly_delayed(usual)?;
    }
    Ok(())
}

/// A federation, and the collectors that it speaks to.
struct Watched {
    federation: Federation,
    by_grpc: Collector,
    by_http: Collector,
}

impl Watched {
    async fn begin(say: Progress) -> Result<Watched> {
        let federation = Federation::start(Options::unhurried(1), say).await?;
        let by_grpc = Collector::start(Protocol::Grpc).await?;
        let by_http = Collector::start(Protocol::Http).await?;
        let watched = Watched { federation, by_grpc, by_http };
        watched.start().await?;
        Ok(watched)
    }

    fn programs(&self) -> [&Service; 3] {
        let Federation { hub, east, west, .. } = &self.federation;
        [&hub.service, &east.agent, &west.agent]
    }

    async fn start(&self) -> Result<()> {
        let by_hub =
            [("UNDERSTUDY_TELEMETRY_BY_HUB", "true"), ("OTEL_METRIC_EXPORT_INTERVAL", "1000"), ONE_THREAD];
        let (grpc, http) = (self.by_grpc.environment(), self.by_http.environment());
        let Federation { hub, east, west, .. } = &self.federation;
        hub.start_with(&borrowed(&grpc)).await?;
        east.agent.start_with(&by_hub)?;
        west.agent.start_with(&borrowed(&http))?;
        self.told_since([0; 3]).await
    }

    async fn behave(&mut self, habit: Habit) -> Result<()> {
        self.by_grpc.behave(habit).await?;
        self.by_http.behave(habit).await
    }

    /// All three have more to tell than they hold.
    async fn flood(&self) -> Result<()> {
        self.knock_everywhere(MORE).await
    }

    async fn knock_everywhere(&self, times: usize) -> Result<()> {
        let links = &self.federation.links;
        let doors = [
            links.address(WEST, "hub", Carries::Session)?,
            links.address(WEST, EAST, Carries::Peer)?,
            links.address(EAST, WEST, Carries::Peer)?,
        ];
        try_join_all(doors.map(|door| knock(door, times))).await.map(drop)
    }

    /// Moves the application to where it is not, proves it, and waits until it could be moved again.
    async fn moved(&self, epoch: i64) -> Result<DROperation> {
        let to = if epoch % 2 == 0 { WEST } else { EAST };
        let federation = &self.federation;
        federation.prefer(to).await?;
        let kind = OperationKind::Migrate;
        let operation = federation.await_phase(kind, epoch, OperationPhase::Succeeded, SLOW).await?;
        ensure_went_in_order(&operation, &PLANNED_MOVE)?;
        federation.await_at_rest(to, epoch, SLOW).await?;
        federation.ensure_nothing_lost(to).await?;
        Ok(operation)
    }

    fn memories(&self) -> Result<[usize; 3]> {
        let [hub, east, west] = self.programs().map(memory);
        Ok([hub?, east?, west?])
    }

    /// Nobody was lost, fenced or moved but by these wishes.
    async fn ensure_nothing_else_happened(&self, moves: usize) -> Result<()> {
        let operations = self.federation.operations().await?;
        let kinds: Vec<OperationKind> = operations.iter().map(|operation| operation.spec.kind).collect();
        let mut expected = vec![OperationKind::Migrate; moves];
        expected.insert(0, OperationKind::Deploy);
        ensure!(kinds == expected, "{kinds:?}");
        let verdict = self.federation.verdict(if moves % 2 == 1 { WEST } else { EAST }).await?;
        ensure!(verdict.holds() && verdict.losses.is_empty(), "{verdict}");
        ensure!(verdict.clusters().len() == moves + 1, "one move for each epoch, but:\n{verdict}");
        Ok(())
    }

    /// By the same processes, once the collectors take again; and they tell how much was lost.
    async fn ensure_it_is_told_again(&mut self) -> Result<()> {
        let before = self.taken().map(|taken| taken.records);
        self.behave(Habit::Takes).await?;
        self.knock_everywhere(A_FEW).await?;
        self.told_since(before).await?;
        within(SLOW, "each tells what it has lost", async || {
            let lost = self.taken().map(|taken| taken.told_lost);
            Ok(lost.into_iter().all(|lost| lost >= LOST).then_some(()))
        })
        .await
    }

    async fn told_since(&self, before: [usize; 3]) -> Result<()> {
        within(SLOW, "hub, east and west tell", async || {
            let taken = self.taken().map(|taken| taken.records);
            Ok(taken.iter().zip(before).all(|(now, before)| *now > before).then_some(()))
        })
        .await
        .with_context(|| format!("taken: {:?}", self.taken()))
    }

    fn taken(&self) -> [Taken; 3] {
        let (hub, agent) = ("understudy-hub", "understudy-agent");
        [self.by_grpc.taken(hub, ""), self.by_grpc.taken(agent, EAST), self.by_http.taken(agent, WEST)]
    }

    /// Of hub, east and west, which are asked at the same time.
    async fn endings(&self) -> Result<[Ending; 3]> {
        let [hub, east, west] = self.programs();
        let (hub, east, west) = tokio::try_join!(Ending::of(hub), Ending::of(east), Ending::of(west))?;
        Ok([hub, east, west])
    }
}

fn borrowed<'a>(environment: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    environment.iter().map(|(name, value)| (*name, value.as_str())).chain([ONE_THREAD]).collect()
}

/// As a whole: single steps are as long as the machine's moods. Without those for which csi-addons is waited for, which looks
/// again after 15 s if it has looked too early.
fn ensure_as_fast(moved: &DROperation, good: &DROperation) -> Result<()> {
    let whole = |operation: &DROperation| -> Result<Duration> {
        let ours = PLANNED_MOVE.into_iter().filter(|step| !["Demote", "Promote"].contains(step));
        ours.map(|step| time_of(operation, step)).sum()
    };
    let (took, usual) = (whole(moved)?, whole(good)?);
    let allowed = 2 * usual + HURDLE;
    ensure!(took <= allowed, "our steps took {took:?} of {allowed:?}:\n{}", story(moved));
    Ok(())
}

/// Queues are full from the first bad collector on.
fn ensure_not_grown(memories: &[[usize; 3]]) -> Result<()> {
    let first = memories.first().context("there was no bad collector")?;
    let grown = memories.iter().flat_map(|later| later.iter().zip(first));
    let most = grown.map(|(later, first)| later.saturating_sub(*first)).max();
    ensure!(most <= Some(GROWTH), "hub, east or west has grown: {memories:?}");
    Ok(())
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| eprintln!("{:6.1} s  {doing}", started.elapsed().as_secs_f64()))
}
